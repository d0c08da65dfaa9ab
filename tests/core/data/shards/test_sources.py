"""Rows that lie in several sources: what each says of a uid meets in the home shard, and what does not is named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from gdmix_core.data.array_file import ArrayFile, read_segment
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.home_shards import HomeShardPaths, HomeShardSummary, build_home_shard
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.data.score_blocks import read_score_block
from gdmix_core.data.shard_rows import ShardRows
from gdmix_core.data.spill import EncodedRows, EntityColumn, write_spill
from gdmix_core.errors import DataError
from gdmix_core.tasks import MAIN_SOURCE

BAG_SIZES = {"user": 4, "movie": 6}
GLOBAL = DesignSpec(name="global", bags=("movie", "user"), intercept=True)
PER_USER = GroupingSpec(
    name="per_user", entity_column="user_id", partitions=2, bags=("user", "movie"), intercept=True
)
MOVIES_OF_USER = replace(PER_USER, name="movies_of_user", bags=("movie",))
BY_USER = GroupingSpec(name="by_user", entity_column="user_id", partitions=3, bags=None, intercept=False)
GROUPINGS = (PER_USER, MOVIES_OF_USER, BY_USER)
SCORES = "scores:outside"
MAIN_HOLDS = ("label", "weight", "offset", "user")
MORE_HOLDS = ("movie", "user_id")
EVERYTHING = (*MAIN_HOLDS, *MORE_HOLDS)


@dataclass(frozen=True)
class Row:
    """All that is known of a uid."""

    uid: int
    numbers: dict[str, float]
    user: bytes | None
    bags: dict[str, np.ndarray]


def make_rows(count: int, seed: int = 0, uids: Sequence[int] | None = None) -> list[Row]:
    rng = np.random.default_rng(seed)
    if uids is None:
        uids = (rng.choice(10**6, count, replace=False) - 5 * 10**5).tolist()
    return [
        Row(
            uid,
            {
                "label": float(rng.integers(2)),
                "weight": float(rng.random()),
                "offset": float(rng.normal()),
                "score": float(rng.normal()),
            },
            None if rng.random() < 0.1 else b"user-%d" % rng.integers(7),
            {name: rng.normal(size=size) * (rng.random(size) < 0.4) for name, size in BAG_SIZES.items()},
        )
        for uid in uids
    ]


def encode(name: str, rows: Sequence[Row], holds: Iterable[str], *, passive: bool = False) -> EncodedRows:
    """Return what an encoded file of these rows holds."""
    sparse = {
        bag: csr_array(np.array([row.bags[bag] for row in rows]).reshape(len(rows), BAG_SIZES[bag]))
        for bag in BAG_SIZES
        if bag in holds
    }
    entity = EntityColumn(
        ByteStrings.of([row.user or b"" for row in rows]),
        np.array([row.user is None for row in rows], np.uint8),
    )
    numbers = ("label", "weight", "offset", "score")
    return EncodedRows(
        source=name,
        uid=np.array([row.uid for row in rows], np.int64),
        row=np.arange(len(rows), dtype=np.int64),
        numbers={
            key: np.array([row.numbers[key] for row in rows], np.float64) for key in numbers if key in holds
        },
        entities={"user_id": entity} if "user_id" in holds else {},
        bags={
            bag: SparseRows(m.indptr.astype(np.int64), m.indices.astype(np.int32), m.data)
            for bag, m in sparse.items()
        },
        passive=passive,
    )


@dataclass(frozen=True)
class Built:
    """The home shards of a job in a directory of their own."""

    directory: Path
    shards: int
    summaries: list[HomeShardSummary]

    def path(self, name: str, shard: int) -> Path:
        return self.directory / f"{name}-{shard}"

    def files(self) -> dict[str, bytes]:
        names = ("rows", "global", *(grouping.name for grouping in GROUPINGS))
        return {
            f"{name}-{shard}": self.path(name, shard).read_bytes()
            for name in names
            for shard in range(self.shards)
        }

    def uids(self, shard: int) -> list[int]:
        return read_segment(self.path("rows", shard))["uid"].tolist()

    def design(self) -> dict[int, list[float]]:
        """Every row's features of the fixed effect, by uid."""
        found = {}
        for shard in range(self.shards):
            uids = self.uids(shard)
            matrix = SparseRows.from_arrays(read_segment(self.path("global", shard)))
            found |= dict(zip(uids, dense(matrix, 11), strict=True))
        return found

    def grouped(self, name: str) -> dict[int, dict[str, Any]]:
        """What a grouping says of every row with an entity, by uid."""
        found = {}
        for shard in range(self.shards):
            uids = self.uids(shard)
            with ArrayFile(self.path(name, shard)) as file:
                for partition in range(file.segments):
                    arrays = file.segment(partition)
                    ids = ByteStrings.from_arrays(arrays, "entity").to_list()
                    for i, position in enumerate(arrays["position"].tolist()):
                        found[uids[position]] = {"user": ids[i], "partition": partition}
                        if "active" in arrays:
                            assert arrays["uid"][i] == uids[position]
                            found[uids[position]]["active"] = bool(arrays["active"][i])
                        if "indptr" in arrays:
                            matrix = SparseRows.from_arrays(arrays).slice(i, i + 1)
                            found[uids[position]]["features"] = dense(matrix, 11)[0]
        return found

    def scores(self) -> dict[int, float]:
        return {
            uid: score
            for shard in range(self.shards)
            for uid, score in zip(
                self.uids(shard), read_score_block(self.path("scores", shard), shard).tolist(), strict=True
            )
        }


def dense(matrix: SparseRows, dimension: int) -> list[list[float]]:
    shape = (matrix.rows, dimension)
    return csr_array((matrix.values, matrix.indices, matrix.indptr), shape).toarray().tolist()


def build(directory: Path, sources: dict[str, list[EncodedRows]], shards: int) -> Built:
    directory.mkdir()
    spills: dict[str, list[Path]] = {}
    for number, (source, splits) in enumerate(sources.items()):
        spills[source] = [directory / f"spill-{number}-{k}" for k in range(len(splits))]
        for path, split in zip(spills[source], splits, strict=True):
            write_spill(path, split, shards)
    built = Built(directory, shards, [])
    for shard in range(shards):
        paths = HomeShardPaths(
            rows=built.path("rows", shard),
            designs={"global": built.path("global", shard)},
            groupings={grouping.name: built.path(grouping.name, shard) for grouping in GROUPINGS},
            scores={SCORES: built.path("scores", shard)} if SCORES in spills else {},
        )
        built.summaries.append(
            build_home_shard(shard, spills, paths, designs=[GLOBAL], groupings=GROUPINGS, bag_sizes=BAG_SIZES)
        )
    return built


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order]


def cut(rows: Sequence[Row], pieces: int, name: str, holds: Iterable[str]) -> list[EncodedRows]:
    """Cut rows into files; the first one is empty when there are several."""
    bounds = [0, *np.linspace(0, len(rows), pieces).astype(int).tolist()] if pieces > 1 else [0, len(rows)]
    return [encode(f"{name}-{k}.csv", rows[bounds[k] : bounds[k + 1]], holds) for k in range(len(bounds) - 1)]


def shard_of(uid: int, shards: int) -> int:
    return xxhash.xxh64_intdigest(uid.to_bytes(8, "little", signed=True)) % shards


def expected_design(row: Row) -> list[float]:
    return [0.0, *row.bags["movie"].tolist(), *row.bags["user"].tolist()]


def unknown(row: Row) -> Row:
    """The row as it is when only the main source has it."""
    return replace(
        row, user=None, bags={**row.bags, "movie": np.zeros(6)}, numbers={**row.numbers, "score": 0.0}
    )


@pytest.mark.parametrize(("shards", "pieces"), [(1, 1), (3, 4), (5, 3)])
def test_what_another_source_says_of_a_uid_meets_its_row(tmp_path: Path, shards: int, pieces: int) -> None:
    rows = make_rows(90)
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: cut(shuffled(rows, 1), pieces, "main", MAIN_HOLDS),
            "more": cut(shuffled(rows, 2), pieces + 1, "more", MORE_HOLDS),
            SCORES: cut(shuffled(rows, 3), 2, "scores", ("score",)),
        },
        shards,
    )
    assert [summary.mismatches for summary in built.summaries] == [{}] * shards
    for shard in range(shards):
        assert built.uids(shard) == sorted(row.uid for row in rows if shard_of(row.uid, shards) == shard)
        arrays = read_segment(built.path("rows", shard))
        own = sorted((row for row in rows if shard_of(row.uid, shards) == shard), key=lambda found: found.uid)
        for name in ("label", "weight", "offset"):
            assert arrays[name].tolist() == [row.numbers[name] for row in own]
    assert built.design() == {row.uid: expected_design(row) for row in rows}
    assert built.scores() == {row.uid: row.numbers["score"] for row in rows}
    assert built.grouped("by_user") == {
        row.uid: {"user": row.user, "partition": xxhash.xxh64_intdigest(row.user) % 3}
        for row in rows
        if row.user is not None
    }
    features = {uid: found["features"] for uid, found in built.grouped("per_user").items()}
    assert features == {
        row.uid: [0.0, *row.bags["user"].tolist(), *row.bags["movie"].tolist()]
        for row in rows
        if row.user is not None
    }
    without = sum(summary.without_entity["per_user"] for summary in built.summaries)
    assert without == sum(row.user is None for row in rows) > 0


def test_bags_of_two_sources_give_the_files_that_one_source_gives(tmp_path: Path) -> None:
    rows = make_rows(70)
    one = build(tmp_path / "one", {MAIN_SOURCE: cut(rows, 1, "main", EVERYTHING)}, 3)
    two = build(
        tmp_path / "two",
        {
            MAIN_SOURCE: cut(shuffled(rows, 1), 3, "main", MAIN_HOLDS),
            "more": cut(shuffled(rows, 2), 2, "more", MORE_HOLDS),
        },
        3,
    )
    three = build(
        tmp_path / "three",
        {
            MAIN_SOURCE: cut(rows[::-1], 2, "main", ("label", "weight", "offset")),
            "movies": cut(shuffled(rows, 3), 2, "movies", ("movie",)),
            "users": cut(shuffled(rows, 4), 3, "users", ("user", "user_id")),
        },
        3,
    )
    assert one.files() == two.files() == three.files()
    assert [summary.nonzeros for summary in one.summaries] == [summary.nonzeros for summary in two.summaries]
    # Both bags were really there: a fixed effect without one of them is another file.
    assert {len(np.flatnonzero(features[1:7])) for features in one.design().values()} != {0}
    assert {len(np.flatnonzero(features[7:])) for features in one.design().values()} != {0}


def test_rows_of_one_source_only_are_named_and_count_as_nothing(tmp_path: Path) -> None:
    rows = make_rows(80)
    main, more, scores = rows[:60], [*rows[20:60], *rows[70:]], rows[5:75]
    shards = 3
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: cut(main, 2, "main", MAIN_HOLDS),
            "more": cut(shuffled(more, 2), 3, "more", MORE_HOLDS),
            SCORES: cut(shuffled(scores, 3), 2, "scores", ("score",)),
        },
        shards,
    )
    in_more, in_scores = {row.uid for row in more}, {row.uid for row in scores}
    in_main = {row.uid for row in main}
    for shard, summary in enumerate(built.summaries):
        assert summary.rows == sum(shard_of(row.uid, shards) == shard for row in main)
        for source, there in (("more", in_more), (SCORES, in_scores)):
            found = summary.mismatches[source]
            assert found.missing.tolist() == sorted(
                uid for uid in in_main - there if shard_of(uid, shards) == shard
            )
            assert found.extra.tolist() == sorted(
                uid for uid in there - in_main if shard_of(uid, shards) == shard
            )
    seen = [row if row.uid in in_more else unknown(row) for row in main]
    assert built.design() == {row.uid: expected_design(row) for row in seen}
    assert {uid: found["user"] for uid, found in built.grouped("per_user").items()} == {
        row.uid: row.user for row in seen if row.user is not None
    }
    assert sum(summary.without_entity["by_user"] for summary in built.summaries) == sum(
        row.user is None for row in seen
    )
    assert built.scores() == {row.uid: row.numbers["score"] if row.uid in in_scores else 0.0 for row in main}


def test_a_shard_that_a_source_has_nothing_of_is_a_shard(tmp_path: Path) -> None:
    """Three rows in eight shards: some have rows of one source only, some have none at all."""
    main, more = make_rows(0, uids=[-(2**63), 0, 2**63 - 1]), make_rows(0, uids=[0, 1, 2, 3])
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: [encode("main.csv", main, MAIN_HOLDS), encode("empty.csv", [], MAIN_HOLDS)],
            "more": [encode("empty.csv", [], MORE_HOLDS), encode("more.csv", more, MORE_HOLDS)],
        },
        8,
    )
    missing = [uid for s in built.summaries if s.mismatches for uid in s.mismatches["more"].missing.tolist()]
    extra = [uid for s in built.summaries if s.mismatches for uid in s.mismatches["more"].extra.tolist()]
    assert (sorted(missing), sorted(extra)) == ([-(2**63), 2**63 - 1], [1, 2, 3])
    assert sum(summary.rows for summary in built.summaries) == 3
    assert built.design() == {
        row.uid: expected_design(more[0] if row.uid == 0 else unknown(row))[:7] + row.bags["user"].tolist()
        for row in main
    }
    nowhere = next(s for s in range(8) if not built.uids(s) and not built.summaries[s].mismatches)
    assert built.summaries[nowhere].weight == 0.0


def test_no_uid_in_common_leaves_all_rows_without_it(tmp_path: Path) -> None:
    main, more = make_rows(20, uids=list(range(20))), make_rows(20, uids=list(range(100, 120)))
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: cut(main, 1, "main", MAIN_HOLDS),
            "more": cut(more, 1, "more", MORE_HOLDS),
        },
        1,
    )
    assert built.summaries[0].mismatches["more"].missing.tolist() == list(range(20))
    assert built.summaries[0].mismatches["more"].extra.tolist() == list(range(100, 120))
    assert built.grouped("per_user") == {}
    assert built.design() == {row.uid: expected_design(unknown(row)) for row in main}


def test_a_uid_twice_in_a_further_source_is_named_with_both_places(tmp_path: Path) -> None:
    rows = make_rows(4, uids=[7, 8, 9, 10])
    sources = {
        MAIN_SOURCE: [encode("main.csv", rows, MAIN_HOLDS)],
        "more": [encode("a.csv", rows[:3], MORE_HOLDS), encode("b.csv", rows[::-1], MORE_HOLDS)],
    }
    with pytest.raises(DataError, match=r"uid 7 \(a.csv row 1; b.csv row 4\), uid 8 \(a.csv row 2; b.csv"):
        build(tmp_path / "built", sources, 1)
    assert not (tmp_path / "built" / "rows-0").exists()


def test_a_uid_twice_outside_of_the_data_is_refused_as_well(tmp_path: Path) -> None:
    rows = make_rows(2, uids=[1, 2])
    scores = [encode("s.csv", [*rows, *make_rows(2, uids=[5, 5])], ("score",))]
    sources = {MAIN_SOURCE: [encode("main.csv", rows, EVERYTHING)], SCORES: scores}
    with pytest.raises(DataError, match=r"more than once: uid 5 \(s.csv row 3; s.csv row 4\)$"):
        build(tmp_path / "built", sources, 1)


def active_of(built: Built, name: str) -> dict[int, bool | None]:
    return {uid: found.get("active") for uid, found in built.grouped(name).items()}


def test_passive_files_of_the_main_source_are_passive_for_all(tmp_path: Path) -> None:
    rows = [row for row in make_rows(60) if row.user is not None]
    held = rows[:20]
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: [
                encode("passive.csv", held, (*MAIN_HOLDS, "user_id"), passive=True),
                encode("rest.csv", rows[20:], (*MAIN_HOLDS, "user_id")),
            ],
            "more": cut(shuffled(rows, 2), 2, "more", ("movie",)),
        },
        3,
    )
    expected = {row.uid: row not in held for row in rows}
    assert active_of(built, "per_user") == expected
    assert active_of(built, "movies_of_user") == expected  # by its entity column
    assert set(active_of(built, "by_user").values()) == {None}  # a metric's rows are not trained on


def test_passive_files_of_a_further_source_count_where_it_is_used(tmp_path: Path) -> None:
    rows = [row for row in make_rows(60) if row.user is not None]
    passive, absent = rows[:15], rows[15:20]
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: cut(rows, 2, "main", ("label", "weight", "offset", "movie", "user_id")),
            "users": [
                encode("passive.csv", passive, ("user",), passive=True),
                encode("rest.csv", shuffled(rows[20:], 1), ("user",)),
            ],
        },
        2,
    )
    # What the source lacks has no features to be trained on either; such a job fails anyhow.
    expected = {row.uid: row not in passive and row not in absent for row in rows}
    assert active_of(built, "per_user") == expected
    assert set(active_of(built, "movies_of_user").values()) == {None}


def test_both_sources_passive_files_are_passive(tmp_path: Path) -> None:
    rows = [row for row in make_rows(60) if row.user is not None]
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: [
                encode("passive.csv", rows[:10], (*MAIN_HOLDS, "user_id"), passive=True),
                encode("rest.csv", rows[10:], (*MAIN_HOLDS, "user_id")),
            ],
            "more": [
                encode("rest.csv", rows[:40], ("movie",)),
                encode("passive.csv", rows[40:], ("movie",), passive=True),
            ],
        },
        2,
    )
    assert active_of(built, "per_user") == {row.uid: 10 <= i < 40 for i, row in enumerate(rows)}


def test_every_shard_says_which_rows_are_active_when_any_file_is_passive(tmp_path: Path) -> None:
    """Partitions put the segments of all shards together: they must hold the same arrays."""
    rows = [replace(row, user=b"u") for row in make_rows(0, uids=list(range(12)))]
    built = build(
        tmp_path / "built",
        {
            MAIN_SOURCE: [
                encode("passive.csv", rows[:1], EVERYTHING, passive=True),
                encode("rest.csv", rows[1:], EVERYTHING),
            ]
        },
        4,
    )
    assert active_of(built, "per_user") == {row.uid: row.uid != 0 for row in rows}


UIDS = st.lists(
    st.integers(-(2**63), 2**63 - 1) | st.integers(-6, 6) | st.sampled_from([2**63 - 1, -(2**63), 0]),
    unique=True,
    max_size=25,
)


@settings(max_examples=60)
@given(main=UIDS, more=UIDS, shared=UIDS, shards=st.integers(1, 3))
def test_alignment_is_set_arithmetic(
    main: list[int], more: list[int], shared: list[int], shards: int
) -> None:
    main, more = list(dict.fromkeys([*main, *shared])), list(dict.fromkeys([*shared[::-1], *more]))
    number = {uid: float(place) for place, uid in enumerate(more)}
    nothing = np.zeros(0)
    with tempfile.TemporaryDirectory() as directory:
        paths = {MAIN_SOURCE: Path(directory, "main"), SCORES: Path(directory, "scores")}
        for source, uids in ((MAIN_SOURCE, main), (SCORES, more)):
            array = np.array(uids, np.int64)
            numbers = {} if source == MAIN_SOURCE else {"score": np.array([*number.values(), *nothing])}
            rows = EncodedRows(source, array, np.arange(len(array)), numbers, {}, {})
            write_spill(paths[source], rows, shards)
        for shard in range(shards):
            found = ShardRows.gather(shard, {source: [path] for source, path in paths.items()}, {})
            here = [{uid for uid in uids if shard_of(uid, shards) == shard} for uids in (main, more)]
            assert found.uid.tolist() == sorted(here[0])
            assert found.score(SCORES).tolist() == [number.get(uid, 0.0) for uid in sorted(here[0])]
            if here[0] == here[1]:
                assert found.mismatches == {}
            else:
                assert found.mismatches[SCORES].missing.tolist() == sorted(here[0] - here[1])
                assert found.mismatches[SCORES].extra.tolist() == sorted(here[1] - here[0])
