"""Which rows an entity is trained on: bounds on their number, and a sample that depends on the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from gdmix_core.data.array_file import ArrayFile
from gdmix_core.data.home_shards import build_home_shard
from gdmix_core.data.layout import GroupingSpec
from gdmix_core.data.partitions import build_partition, build_scoring_partition, read_partition
from gdmix_core.data.sampling import sample_rows
from gdmix_core.tasks import MAIN_SOURCE

BAG_SIZES = {"user": 5, "movie": 7}
PER_USER = GroupingSpec(
    name="per_user", entity_column="user_id", partitions=3, bags=("movie",), intercept=True
)

Entity = list[tuple[int, bool]]
"""Uids of its rows, and whether they may be trained on."""


def hash_of(uid: int) -> int:
    return xxhash.xxh64_intdigest(uid.to_bytes(8, "little", signed=True))


def slowly(rows: Entity, min_rows: int | None, max_rows: int | None) -> tuple[set[int], float]:
    """The uids that an entity is trained on, and what their weights are multiplied by."""
    able = sorted((uid for uid, active in rows if active), key=hash_of)
    if min_rows is not None and len(able) < min_rows:
        return set(), 1.0
    if max_rows is None or len(able) <= max_rows:
        return set(able), 1.0
    return set(able[:max_rows]), len(able) / max_rows


def sampled(
    entities: Sequence[Entity], min_rows: int | None = None, max_rows: int | None = None
) -> list[tuple[set[int], list[float]]]:
    """Chosen uids of every entity and all its rows' factors, as `sample_rows` says."""
    uid = np.array([uid for entity in entities for uid, _ in entity], np.int64)
    active = np.array([able for entity in entities for _, able in entity], np.uint8)
    row_ptr = np.cumsum([0, *map(len, entities)]).astype(np.int64)
    given = active.copy()
    found = sample_rows(row_ptr, uid, active, min_rows, max_rows)
    assert np.array_equal(active, given)  # the input stays as it is
    assert (found.active.dtype, found.factor.dtype) == (np.uint8, np.float64)
    return [
        (set(uid[start:stop][found.active[start:stop] == 1].tolist()), found.factor[start:stop].tolist())
        for start, stop in pairwise(row_ptr.tolist())
    ]


@st.composite
def many_entities(draw: st.DrawFn) -> list[Entity]:
    uids = draw(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), unique=True, max_size=40))
    entities: list[Entity] = [[] for _ in range(draw(st.integers(0, 5)))]
    for uid in uids if entities else []:
        entities[draw(st.integers(0, len(entities) - 1))].append((uid, draw(st.booleans())))
    return entities


BOUND = st.none() | st.integers(1, 9)


@given(many_entities(), BOUND, BOUND)
def test_the_sample_is_that_of_plain_python(
    entities: list[Entity], min_rows: int | None, max_rows: int | None
) -> None:
    for entity, (chosen, factors) in zip(entities, sampled(entities, min_rows, max_rows), strict=True):
        expected, factor = slowly(entity, min_rows, max_rows)
        assert chosen == expected
        assert [f for f, (uid, _) in zip(factors, entity, strict=True) if uid in chosen] == [factor] * len(
            expected
        )


@given(many_entities(), st.randoms(), BOUND)
def test_the_order_of_rows_and_of_entities_changes_nothing(
    entities: list[Entity], random: Any, max_rows: int | None
) -> None:
    expected = [chosen for chosen, _ in sampled(entities, 2, max_rows)]
    order = list(range(len(entities)))
    random.shuffle(order)
    shuffled = [random.sample(entities[e], len(entities[e])) for e in order]
    assert [chosen for chosen, _ in sampled(shuffled, 2, max_rows)] == [expected[e] for e in order]


@given(many_entities())
def test_a_higher_bound_adds_rows_and_takes_none_away(entities: list[Entity]) -> None:
    before = [set() for _ in entities]
    for bound in range(1, 12):
        now = [chosen for chosen, _ in sampled(entities, None, bound)]
        assert all(old <= new for old, new in zip(before, now, strict=True))
        assert [len(chosen) for chosen in now] == [
            min(bound, sum(able for _, able in entity)) for entity in entities
        ]
        before = now


@given(many_entities(), BOUND)
def test_weights_sum_to_all_rows_that_may_be_trained_on(entities: list[Entity], max_rows: int | None) -> None:
    for entity, (chosen, factors) in zip(entities, sampled(entities, None, max_rows), strict=True):
        weight = sum(f for f, (uid, _) in zip(factors, entity, strict=True) if uid in chosen)
        assert weight == pytest.approx(sum(able for _, able in entity), rel=1e-12)


def test_too_few_rows_that_may_be_trained_on_are_none() -> None:
    entities: list[Entity] = [
        [(1, True), (2, True), (3, True)],
        [(4, True), (5, True), (6, False)],
        [(7, False)],
        [],
    ]
    assert [chosen for chosen, _ in sampled(entities, min_rows=3)] == [{1, 2, 3}, set(), set(), set()]
    assert [chosen for chosen, _ in sampled(entities, min_rows=2)] == [{1, 2, 3}, {4, 5}, set(), set()]
    assert [len(chosen) for chosen, _ in sampled(entities, min_rows=2, max_rows=2)] == [2, 2, 0, 0]


def test_rows_that_may_not_be_trained_on_take_no_place_in_the_sample() -> None:
    """Whatever their hashes: the bound counts the others, and so does the factor."""
    uids = sorted(range(200), key=hash_of)
    entity = [(uid, place >= 100) for place, uid in enumerate(uids)]  # the smallest hashes are passive
    [(chosen, factors)] = sampled([entity], max_rows=30)
    assert chosen == set(uids[100:130])
    assert {factors[place] for place in range(100, 130)} == {100 / 30}


# ---- through home shards to partitions --------------------------------------------------------------------


@dataclass(frozen=True)
class Partitioned:
    """What the partition files of a grouping say of every row, by uid."""

    active: dict[int, bool]
    weight: dict[int, float]
    user: dict[int, bytes]

    def chosen(self) -> dict[bytes, set[int]]:
        found: dict[bytes, set[int]] = {user: set() for user in self.user.values()}
        for uid, active in self.active.items():
            if active:
                found[self.user[uid]].add(uid)
        return found


@pytest.fixture
def partitioned(tmp_path: Path) -> Callable[..., Partitioned]:
    """Return a function that takes a data set through home shards into training partitions."""

    def make(data: Any, **bounds: Any) -> Partitioned:
        spec = replace(PER_USER, **bounds)
        spills = []
        for shard in range(data.shards):
            paths = replace(
                data.paths(shard), groupings={"per_user": data.directory / f"sampled-{shard}"}, designs={}
            )
            build_home_shard(
                shard,
                {MAIN_SOURCE: data.spills},
                paths,
                designs=[],
                groupings=[spec],
                bag_sizes=BAG_SIZES,
            )
            spills.append(paths.groupings["per_user"])
        active, weight, user = {}, {}, {}
        for number in range(spec.partitions):
            build_partition(number, spills, tmp_path / "partition")
            found = read_partition(tmp_path / "partition")
            names = np.repeat(found.ids.to_list() or [b""], np.diff(found.row_ptr) if found.entities else [0])
            for i, (shard, position) in enumerate(
                zip(found.shard.tolist(), found.position.tolist(), strict=True)
            ):
                uid = data.rows[shard][position].uid
                active[uid] = found.active is None or bool(found.active[i])
                weight[uid], user[uid] = float(found.weight[i]), bytes(names[i])
        return Partitioned(active, weight, user)

    return make


def rows_of_users(data: Any) -> dict[bytes, list[Any]]:
    found: dict[bytes, list[Any]] = {}
    for split in data.splits:
        for row in split:
            if row.user is not None:
                found.setdefault(row.user, []).append(row)
    return found


def test_partitions_hold_the_sample_and_its_weights(plane, partitioned) -> None:
    data = plane(rows=120, users=9)
    found = partitioned(data, min_rows=11, max_rows=12)
    users = rows_of_users(data)
    sizes = [len(rows) for rows in users.values()]
    assert min(sizes) < 11 < 12 < max(sizes)
    for user, rows in users.items():
        expected, factor = slowly([(row.uid, True) for row in rows], 11, 12)
        assert found.chosen()[user] == expected
        for row in rows:
            if row.uid in expected:
                assert found.weight[row.uid] == row.weight * factor
    assert found.active.keys() == {row.uid for rows in users.values() for row in rows}


def test_the_sample_does_not_depend_on_how_the_data_are_cut(plane, partitioned) -> None:
    first = plane(rows=150, users=5, shards=1, splits=1)
    expected = partitioned(first, max_rows=10, partitions=1)
    assert {len(chosen) for chosen in expected.chosen().values()} == {10}
    for shards, splits, partitions in ((4, 3, 3), (7, 5, 2), (2, 1, 11)):
        data = plane(rows=150, users=5, shards=shards, splits=splits)
        found = partitioned(data, max_rows=10, partitions=partitions)
        assert (found.active, found.weight) == (expected.active, expected.weight)
    rows = [row for split in first.splits for row in split]
    turned = plane(seed=1, given=[rows[::-1][:60], rows[::-1][60:]], shards=3, splits=2)
    assert partitioned(turned, max_rows=10).active == expected.active


def test_partitions_of_all_rows_say_nothing_of_it(plane, tmp_path, partitioned) -> None:
    data = plane()
    found = partitioned(data)
    assert found.weight == {row.uid: row.weight for rows in rows_of_users(data).values() for row in rows}
    with ArrayFile(tmp_path / "partition") as file:
        assert not {"active", "uid"} & set(file.segment(0))
        assert (file.metadata["min_rows"], file.metadata["max_rows"]) == (None, None)
    partitioned(data, min_rows=2)
    with ArrayFile(tmp_path / "partition") as file:
        assert "active" in file.segment(0)
        assert "uid" not in file.segment(0)
        assert (file.metadata["min_rows"], file.metadata["max_rows"]) == (2, None)


def test_rows_to_score_are_never_sampled(plane, tmp_path, partitioned) -> None:
    """A scoring partition takes all rows as they are, also of spills made for training."""
    data = plane()
    partitioned(data, max_rows=1)
    spills = [data.directory / f"sampled-{shard}" for shard in range(data.shards)]
    rows = sum(
        build_scoring_partition(number, spills, tmp_path / "scoring").rows
        for number in range(PER_USER.partitions)
    )
    assert rows == sum(map(len, rows_of_users(data).values()))
