"""One contract for every kind of store, run against real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdmix_core.errors import (
    ActivationConflict,
    Conflict,
    DataError,
    NotFound,
    StaleLease,
    StoreCorrupt,
    UsageError,
    VersionGone,
)
from gdmix_core.store import (
    CoefficientBlock,
    CoefficientStore,
    PublishedPart,
    VersionState,
    decode,
    decode_many,
)
from gdmix_core.store.control import start_deleting

Publish = Callable[..., Any]


def _states(store: CoefficientStore, model: str = "movies") -> dict[int, str]:
    return {info.version: str(info.state) for info in store.list_versions(model)}


# ---- publishing and reading ------------------------------------------------------------------------------


def test_a_published_version_is_read_back_to_the_bit(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    ids = [b"plain", "ünïcode".encode(), b"with:colon{brace}%", b"\x00\n\xff", b"i" * 256]
    block = make_block(ids, seed=3, variances=True)
    ticket = store.begin_version("movies")
    part = store.write_part(ticket, "per_user", 0, [block], schema=schema)
    store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"per_user": len(ids)})

    answer = store.get_many("movies", ticket.version, {"per_user": [*ids, b"nobody"]})

    records = answer.records["per_user"]
    assert records[-1] is None
    for entity, data in enumerate(records[:-1]):
        assert data is not None
        record = decode(data, schema)
        of_entity = slice(block.coefficient_ptr[entity], block.coefficient_ptr[entity + 1])
        np.testing.assert_array_equal(record.indices, block.indices[of_entity])
        np.testing.assert_array_equal(record.coefficients, block.coefficients[of_entity])
        assert block.variances is not None
        np.testing.assert_array_equal(record.variances, block.variances[of_entity])
    together = decode_many(records, schema)
    assert together.found.tolist() == [True] * len(ids) + [False]
    np.testing.assert_array_equal(together.coefficients, block.coefficients)
    np.testing.assert_array_equal(together.variances, block.variances)


def test_seal_counts_manifest_and_files(store: CoefficientStore, publish: Publish) -> None:
    ticket, seal = publish(store)
    assert store.read_seal("movies", ticket.version) == seal
    assert seal.coordinates["per_user"].entities == 30
    assert store.read_manifest("movies", ticket.version) == b'{"seed": 0}'
    assert store.read_blob("movies", ticket.version, "feature_index.parquet") == b"index"
    assert store.read_blob("movies", ticket.version, "global/coefficients.parquet") == b"x" * (9 << 20)
    with pytest.raises(NotFound, match="no file 'other'"):
        store.read_blob("movies", ticket.version, "other")
    assert store.verify("movies", ticket.version) == seal
    assert store.list_models() == ["movies"]


def test_one_version_holds_several_coordinates(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    # Names that are prefixes of each other, and the same ids on both sides.
    ticket = store.begin_version("movies")
    parts = [
        store.write_part(ticket, name, 0, [make_block([b"1", b"2", b"3"], seed=seed)], schema=schema)
        for seed, name in enumerate(["per", "per_user", "per:user"])
    ]
    seal = store.finish(ticket, parts, b"{}", {}, schema=schema, expected={"empty": 0})
    assert {name: c.entities for name, c in seal.coordinates.items()} == {
        "empty": 0,
        "per": 3,
        "per_user": 3,
        "per:user": 3,
    }
    store.verify("movies", ticket.version)
    answer = store.get_many(
        "movies", ticket.version, {"per": [b"1"], "per_user": [b"1", b"9"], "per:user": []}
    )
    assert answer.records["per"][0] != answer.records["per_user"][0]
    assert answer.records["per_user"][1] is None
    assert answer.records["per:user"] == []


def test_float32_halves_the_values(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    block = make_block([b"a", b"b", b"c"], variances=True)
    ticket = store.begin_version("movies")
    part = store.write_part(ticket, "c", 0, [block], schema=schema, element_type="float32")
    store.finish(ticket, [part], b"{}", {}, schema=schema, element_type="float32")
    records = store.get_many("movies", ticket.version, {"c": [b"a", b"b", b"c"]}).records["c"]
    decoded = decode_many(records, schema)
    np.testing.assert_array_equal(decoded.coefficients, block.coefficients.astype(np.float32))
    np.testing.assert_array_equal(
        np.concatenate([decode(record).coefficients for record in records if record]), decoded.coefficients
    )


def test_an_unsealed_version_cannot_be_read(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    ticket = store.begin_version("movies")
    store.write_part(ticket, "per_user", 0, [make_block([b"a"])], schema=schema)
    with pytest.raises(VersionGone):
        store.get_many("movies", ticket.version, {"per_user": [b"a"]})
    with pytest.raises(Conflict, match="still being written"):
        store.activate("movies", ticket.version, expected_active=None)
    assert _states(store) == {1: "writing"}


def test_a_part_written_twice_counts_once(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    ticket = store.begin_version("movies")
    block = make_block([b"a", b"b"])
    first = store.write_part(ticket, "per_user", 0, [block], schema=schema)
    again = store.write_part(ticket, "per_user", 0, [block], schema=schema)
    assert (first.entities, first.checksum) == (again.entities, again.checksum)
    seal = store.finish(ticket, [first, again], b"{}", {}, schema=schema, expected={"per_user": 2})
    assert seal.coordinates["per_user"].entities == 2
    other = store.write_part(
        store.begin_version("movies"), "per_user", 0, [make_block([b"a", b"b"], seed=9)], schema=schema
    )
    with pytest.raises(StoreCorrupt, match="written twice with different contents"):
        store.finish(ticket, [first, other], b"{}", {}, schema=schema)


def test_missing_parts_are_not_sealed(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    ticket = store.begin_version("movies")
    part = store.write_part(ticket, "per_user", 0, [make_block([b"a"])], schema=schema)
    with pytest.raises(StoreCorrupt, match="has 2 entities, but its parts add up to 1"):
        store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"per_user": 2})
    assert _states(store) == {1: "writing"}


def test_finishing_again_changes_nothing(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], schema: int, tmp_path: Any
) -> None:
    ticket = store.begin_version("movies")
    parts = [
        store.write_part(ticket, "c", 0, [make_block([b"a"])], schema=schema, spill=tmp_path / "attempt")
    ]
    seal = store.finish(ticket, parts, b"{}", {"f": b"1"}, schema=schema)
    assert store.finish(ticket, parts, b"{}", {"f": b"1"}, schema=schema) == seal
    store.verify("movies", ticket.version)
    with pytest.raises(Conflict, match="not being written"):
        store.write_part(ticket, "c", 1, [make_block([b"b"])], schema=schema)


def test_refused_contents_name_the_entity(store: CoefficientStore, schema: int) -> None:
    ticket = store.begin_version("movies")

    def block(entity: bytes, value: float, indices: tuple[int, ...] = (0,)) -> CoefficientBlock:
        return CoefficientBlock(
            ids_bytes=np.frombuffer(entity, np.uint8),
            ids_ptr=np.array([0, len(entity)]),
            coefficient_ptr=np.array([0, len(indices)]),
            indices=np.array(indices, np.int32),
            coefficients=np.full(len(indices), value),
        )

    for bad, message in (
        (block(b"user7", np.nan), "entity 'user7': the coefficient of index 0 is nan"),
        (block(b"", 1.0), "has an empty id"),
        (block(b"x" * 257, 1.0), "longer than 256 bytes"),
        (block(b":" * 86, 1.0), "longer than 256 bytes"),
    ):
        with pytest.raises(DataError, match=message):
            store.write_part(ticket, "c", 0, [bad], schema=schema)
    with pytest.raises(DataError, match="float32 cannot hold"):
        store.write_part(ticket, "c", 0, [block(b"a", 1e300)], schema=schema, element_type="float32")
    for indices in ((3, 3), (2, 1), (-1,)):
        with pytest.raises(StoreCorrupt, match="not strictly increasing"):
            store.write_part(ticket, "c", 0, [block(b"a", 1.0, indices)], schema=schema)
    # Nothing of it can be seen, and the store still works.
    part = store.write_part(ticket, "c", 0, [block(b"a", 1.0)], schema=schema)
    store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"c": 1})
    with pytest.raises(UsageError, match="is not a name"):
        store.begin_version("")


# ---- activation ------------------------------------------------------------------------------------------


def test_activation_compares_and_sets(store: CoefficientStore, publish: Publish) -> None:
    assert store.get_active("movies") is None
    (first, _), (second, _) = publish(store), publish(store)
    store.activate("movies", second.version, expected_active=second.active)
    with pytest.raises(ActivationConflict, match="version 2 is active") as caught:
        store.activate("movies", first.version, expected_active=first.active)
    assert caught.value.winner == 2
    assert _states(store) == {1: "superseded", 2: "active"}
    store.activate("movies", 2, expected_active=None)  # done already: a repeated request changes nothing
    third, _ = publish(store)
    assert third.active == 2
    store.activate("movies", third.version, expected_active=third.active)
    assert _states(store) == {1: "superseded", 2: "superseded", 3: "active"}
    with pytest.raises(VersionGone, match="there: 1, 2, 3"):
        store.activate("movies", 4, expected_active=3)


def test_rollback_and_forward_again(store: CoefficientStore, publish: Publish) -> None:
    for _ in range(2):
        ticket, _seal = publish(store)
        store.activate("movies", ticket.version, expected_active=ticket.active)
    assert store.rollback("movies") == 1
    assert store.get_active("movies") == 1
    assert _states(store) == {1: "active", 2: "superseded"}
    with pytest.raises(NotFound, match="no version older"):
        store.rollback("movies")
    store.activate("movies", 2, expected_active=1)
    assert _states(store) == {1: "superseded", 2: "active"}


def test_a_thawed_coordinator_is_refused(
    store: CoefficientStore, make_block: Callable[..., CoefficientBlock], publish: Publish, schema: int
) -> None:
    from dataclasses import replace

    old, _ = publish(store, epoch=7)
    new = replace(old, epoch=8)  # the coordinator was started again and goes on with its journal
    store.activate("movies", new.version, expected_active=None, epoch=8)
    with pytest.raises(StaleLease, match="epoch 8"):
        store.activate("movies", old.version, expected_active=None, epoch=7)

    frozen = store.begin_version("movies", epoch=7, owner="journal")
    store.begin_version("movies", epoch=8, owner="journal")
    for act in (
        lambda: store.begin_version("movies", epoch=7, owner="journal"),
        lambda: store.finish(frozen, [], b"{}", {}, schema=schema),
        lambda: store.write_part(frozen, "c", 0, [make_block([b"a"])], schema=schema),
    ):
        with pytest.raises(StaleLease):
            act()
    # Another coordinator's journal counts on its own.
    store.begin_version("movies", epoch=1, owner="other journal")


def test_many_publishers_at_once_one_wins(case: Any, publish: Publish) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[object] = []

    def work(seed: int) -> None:
        with case.open() as own:
            barrier.wait()
            ticket, _ = publish(own, entities=9, seed=seed)
            barrier.wait()
            try:
                own.activate("movies", ticket.version, expected_active=None)
                outcomes.append(ticket.version)
            except ActivationConflict as conflict:
                outcomes.append(conflict)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with case.open() as store:
        winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert len(winners) == 1
        assert len(outcomes) == 4
        assert store.get_active("movies") == winners[0]
        assert {o.winner for o in outcomes if isinstance(o, ActivationConflict)} == {winners[0]}
        assert sorted(_states(store)) == [1, 2, 3, 4]
        for version in range(1, 5):
            store.verify("movies", version)


def test_several_processes_write_one_version(case: Any, schema: int, tmp_path: Any) -> None:
    script = Path(__file__).with_name("part_writer.py")
    with case.open() as store:
        ticket = store.begin_version("movies")
        writers = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(script),
                    json.dumps(
                        {
                            "url": case.url,
                            "ticket": asdict(ticket),
                            "part": part,
                            "entities": 50,
                            "schema": schema,
                            "spill": str(tmp_path / f"spill-{part}"),
                        }
                    ),
                ],
                stdout=subprocess.PIPE,
            )
            for part in range(3)
        ]
        answers = [writer.communicate(timeout=120)[0] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        parts = [PublishedPart(**json.loads(answer)) for answer in answers]
        seal = store.finish(ticket, parts, b"{}", {}, schema=schema, expected={"per_user": 150})
        assert store.verify("movies", ticket.version) == seal


# ---- accidents -------------------------------------------------------------------------------------------


def test_an_emptied_store_is_never_mistaken_for_unknown_entities(case: Any, publish: Publish) -> None:
    with case.open() as store:
        ticket, _ = publish(store)
        store.activate("movies", ticket.version, expected_active=None)
    case.empty()
    with case.open() as store:
        for read in (
            lambda: store.get_many("movies", 1, {"per_user": [b"user1"]}),
            lambda: store.read_manifest("movies", 1),
            lambda: store.verify("movies", 1),
            lambda: store.activate("movies", 1, expected_active=None),
            lambda: store.set_alias("movies", "prod", 1),
        ):
            with pytest.raises(VersionGone):
                read()
        assert store.get_active("movies") is None
        assert store.list_versions("movies") == []
        # Refilled under the same number, the seal tells the two apart.
        again = store.begin_version("movies", minimum=5)
        assert again.version == 5


def test_a_store_emptied_while_publishing(
    case: Any, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    with case.open() as store:
        ticket = store.begin_version("movies")
        part = store.write_part(ticket, "c", 0, [make_block([b"a"])], schema=schema)
        case.empty()
        store.begin_version("movies")  # somebody else gets the same number
        for act in (
            lambda: store.write_part(ticket, "c", 1, [make_block([b"b"])], schema=schema),
            lambda: store.finish(ticket, [part], b"{}", {}, schema=schema),
        ):
            with pytest.raises(VersionGone, match="publish again"):
                act()


def test_a_damaged_record_is_found(case: Any, publish: Publish) -> None:
    def flip(value: bytes) -> bytes:
        return value[:-1] + bytes([value[-1] ^ 1])

    with case.open() as store:
        ticket, _ = publish(store)
    case.tamper("movies", ticket.version, b"e:per_user:user4", flip)
    with case.open() as store, pytest.raises(StoreCorrupt, match="entity 'user4' fails its checksum"):
        store.verify("movies", ticket.version)
    with case.open() as store:
        records = store.get_many("movies", ticket.version, {"per_user": [b"user4"]}).records["per_user"]
        for reader in (lambda: decode(records[0]), lambda: decode_many(records)):
            with pytest.raises(StoreCorrupt, match="fails its checksum"):
                reader()


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (b"e:per_user:user4", lambda value: None, "holds 29 entities, its seal says 30"),
        (b"e:per_user:extra", lambda value: "user0", "holds 31 entities, its seal says 30"),
        (b"e:per_user:user4", lambda value: "user5", "not those that were written"),
        (b"e:stranger:a", lambda value: "user5", "does not name"),
        (b"manifest", lambda value: b"{}", "manifest of version 1"),
        (b"b:feature_index.parquet:0", lambda value: b"Index", "file 'feature_index.parquet'"),
        (b"b:global/coefficients.parquet:1", lambda value: None, "file 'global/coefficients.parquet'"),
    ],
)
def test_verify_finds_what_is_lost_added_or_swapped(
    case: Any, publish: Publish, key: bytes, change: Callable[[bytes], Any], message: str
) -> None:
    with case.open() as store:
        ticket, _ = publish(store)
        entities = {name: store.get_many("movies", 1, {"per_user": [name.encode()]}).records["per_user"][0]
                    for name in ("user0", "user5")}  # fmt: skip

    def with_record(value: bytes) -> Any:
        changed = change(value)
        return entities.get(changed, changed) if isinstance(changed, str) else changed

    case.tamper("movies", ticket.version, key, with_record)
    with case.open() as store, pytest.raises(StoreCorrupt, match=message):
        store.verify("movies", ticket.version)


# ---- aliases, deletion, clean-up -------------------------------------------------------------------------


def test_aliases(store: CoefficientStore, publish: Publish) -> None:
    for _ in range(2):
        publish(store)
    store.set_alias("movies", "prod", 1)
    store.set_alias("movies", "canary", 2)
    store.set_alias("movies", "prod", 2)
    assert store.get_alias("movies", "prod") == 2
    assert store.get_aliases("movies") == {"canary": 2, "prod": 2}
    assert [info.aliases for info in store.list_versions("movies")] == [(), ("canary", "prod")]
    store.delete_alias("movies", "prod")
    for act in (lambda: store.get_alias("movies", "prod"), lambda: store.delete_alias("movies", "prod")):
        with pytest.raises(NotFound, match="no alias 'prod'"):
            act()
    with pytest.raises(VersionGone):
        store.set_alias("movies", "prod", 3)


def test_deleting(case: Any, store: CoefficientStore, publish: Publish) -> None:
    for _ in range(3):
        ticket, _seal = publish(store)
        store.activate("movies", ticket.version, expected_active=ticket.active)
    store.set_alias("movies", "prod", 1)
    with pytest.raises(Conflict, match="is active"):
        store.delete_version("movies", 3)
    with pytest.raises(Conflict, match="alias prod"):
        store.delete_version("movies", 1)
    with pytest.raises(NotFound, match="no version 9"):
        store.delete_version("movies", 9)
    store.delete_version("movies", 2)
    with pytest.raises(VersionGone):
        store.get_many("movies", 2, {"per_user": [b"user1"]})
    assert _states(store) == {1: "superseded", 3: "active"}
    store.verify("movies", 1)
    store.verify("movies", 3)


def test_cleanup_keeps_what_may_still_be_needed(store: CoefficientStore, publish: Publish) -> None:
    for _ in range(6):
        ticket, _seal = publish(store, entities=6)
        store.activate("movies", ticket.version, expected_active=ticket.active)
    store.set_alias("movies", "prod", 1)
    later = max(info.superseded or 0.0 for info in store.list_versions("movies")) + 700
    assert store.cleanup("movies", keep=2) == []  # superseded a moment ago
    assert store.cleanup("movies", keep=2, now=later) == [2, 3]
    assert _states(store) == {1: "superseded", 4: "superseded", 5: "superseded", 6: "active"}
    assert store.cleanup("movies", keep=0, now=later) == [4, 5]
    store.delete_alias("movies", "prod")
    assert store.cleanup("movies", keep=0, now=later) == [1]
    store.verify("movies", 6)


def test_cleanup_takes_abandoned_and_conflicting_publications(
    store: CoefficientStore, publish: Publish, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    loser, _ = publish(store)
    abandoned = store.begin_version("movies")
    store.write_part(abandoned, "c", 0, [make_block([b"a"])], schema=schema)
    winner, _ = publish(store)
    store.activate("movies", winner.version, expected_active=None)
    started = store.list_versions("movies")[1].started
    assert store.cleanup("movies", keep=0, now=started + 700) == [loser.version]
    assert store.cleanup("movies", keep=0, now=started + 90_000) == [abandoned.version]
    assert _states(store) == {3: "active"}


def test_giving_a_publication_up(
    store: CoefficientStore, publish: Publish, make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    ticket = store.begin_version("movies")
    store.write_part(ticket, "c", 0, [make_block([b"a"])], schema=schema)
    store.abandon(ticket)
    store.abandon(ticket)
    assert store.list_versions("movies") == []
    with pytest.raises(VersionGone):
        store.write_part(ticket, "c", 0, [make_block([b"a"])], schema=schema)
    done, _ = publish(store)
    assert done.version == 2  # numbers are never given out twice
    with pytest.raises(Conflict):
        store.abandon(done)


def test_an_interrupted_deletion_is_taken_up_again(store: CoefficientStore, publish: Publish) -> None:
    for _ in range(2):
        ticket, _seal = publish(store)
        store.activate("movies", ticket.version, expected_active=ticket.active)

    # What `delete_version` does first; then its process dies.
    store._transact("movies", lambda control, _: (start_deleting(control, "movies", 1), None), drop_seal=1)
    assert _states(store) == {1: "deleting", 2: "active"}
    for act in (
        lambda: store.read_seal("movies", 1),
        lambda: store.activate("movies", 1, expected_active=2),
    ):
        with pytest.raises(VersionGone):
            act()
    assert store.cleanup("movies") == [1]
    assert [info.state for info in store.list_versions("movies")] == [VersionState.ACTIVE]


def test_models_do_not_touch_each_other(store: CoefficientStore, publish: Publish) -> None:
    names = ["a", "a:v1", "a%3Av1", "..", "x/y", "{a}", "*"]
    for seed, name in enumerate(names):
        ticket, _ = publish(store, name, entities=6, seed=seed)
        store.activate(name, ticket.version, expected_active=None)
    assert store.list_models() == sorted(names)
    for name in names[:3] + names[-1:]:
        publish(store, name, entities=6)
        store.activate(name, 2, expected_active=1)
        store.delete_version(name, 1)
    for seed, name in enumerate(names[3:6], start=3):
        assert store.verify(name, 1).model == name
        assert store.read_manifest(name, 1) == b'{"seed": %d}' % seed
