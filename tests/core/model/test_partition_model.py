"""The model of a partition: what was trained, what an earlier model adds, what a threshold takes away."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.data.layout import GroupingSpec
from gdmix_core.data.partitions import ScoringPartition, TrainingPartition
from gdmix_core.errors import DataError, NotFound
from gdmix_core.model import CoordinateManifest, ModelManifest, assemble_model
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_random_effect
from gdmix_core.model.partition_model import PartitionModel, PreviousModel, score_block
from gdmix_core.solvers.random_effect import EntitySolutions
from gdmix_core.store import CoefficientBlock

PER_USER = GroupingSpec(name="per_user", entity_column="user_id", partitions=1, bags=("b",), intercept=True)
INTERCEPT = "(INTERCEPT)"

Cells = dict[str, tuple[float, float]]
"""Coefficient and variance by term, the intercept's among them."""


@dataclass(frozen=True)
class Fitted:
    """What the solver says of an entity: `rows` active ones, and `cells` of what any of its rows has.

    Its active rows have none of the features `unseen`.
    """

    cells: Cells
    rows: int = 2
    passive: int = 1
    unseen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """A partition's model as dictionaries."""

    stored: dict[bytes, Cells]
    rows: dict[bytes, int]
    local: dict[tuple[bytes, str], float]
    trained: set[bytes]
    untrained: int
    carried_over: int


@dataclass(frozen=True)
class Case:
    """A partition as the solver leaves it, and an earlier model of it."""

    new: dict[bytes, Fitted]
    old: dict[bytes, Cells] | None = None
    new_terms: tuple[str, ...] = ("a", "b", "c")
    old_terms: tuple[str, ...] = ("a", "b", "c")
    intercept: bool = True
    threshold: float = 0.0
    variances: bool = True
    old_variances: bool = True
    seed: int = field(default=0, compare=False)


def index_of(terms: Sequence[str]) -> FeatureIndex:
    column = IndexedColumn(
        "b",
        FeatureColumn(column="c", kind="categorical"),
        None,
        0,
        len(terms),
        ByteStrings.of(sorted(terms)),
        np.ones(len(terms), np.int64),
    )
    return FeatureIndex((column,), 1, fingerprint([column]))


def numbers_of(terms: Sequence[str], intercept: bool) -> dict[str, int]:
    return {name: number for number, name in enumerate([*([INTERCEPT] if intercept else []), *sorted(terms)])}


def block_of(model: Mapping[bytes, Cells], numbers: Mapping[str, int], variances: bool) -> CoefficientBlock:
    ids = ByteStrings.of(sorted(model))
    cells = [
        sorted((numbers[name], *cell) for name, cell in model[entity].items()) for entity in sorted(model)
    ]
    flat = np.array([cell for entity in cells for cell in entity]).reshape(-1, 3)
    return CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=np.cumsum([0, *map(len, cells)]).astype(np.int64),
        indices=flat[:, 0].astype(np.int32),
        coefficients=flat[:, 1].copy(),
        variances=flat[:, 2].copy() if variances else None,
    )


def part_of(
    model: Mapping[bytes, Cells], numbers: Mapping[str, int], variances: bool
) -> RandomEffectCoefficients:
    count = len(model)
    return RandomEffectCoefficients(
        block=block_of(model, numbers, variances),
        rows=np.full(count, 77, np.int64),
        status=np.full(count, 1, np.uint8),
        iterations=np.full(count, 5, np.int32),
        gradient_norm=np.full(count, 0.5),
    )


def write_model(root: Path, case: Case, *, kind: str = "random_effect", name: str = "per_user") -> Path:
    """Write the earlier model as a directory with one part."""
    assert case.old is not None
    index = index_of(case.old_terms)
    index.save(root / "index.parquet")
    part = part_of(case.old, numbers_of(case.old_terms, case.intercept), case.old_variances)
    write_random_effect(root / "part", part)
    coordinate = CoordinateManifest(
        name,
        kind,  # type: ignore[arg-type]
        ("b",),
        case.intercept,
        len(case.old_terms) + case.intercept,
        entity_column="user_id",
        model=None if kind == "random_effect" else "logistic_regression",
        variances=case.old_variances,
    )
    manifest = ModelManifest(
        model="m",
        version=1,
        task="logistic_regression",
        coordinates=(coordinate,),
        bag_sizes=index.bag_sizes,
        schema_fingerprint=index.schema_fingerprint,
    )
    made = assemble_model(
        root / "models" / "1",
        manifest,
        feature_index=root / "index.parquet",
        coefficients={name: [root / "part"]},
        run={},
    )
    return made.path


def partition_of(case: Case) -> TrainingPartition:
    """The training partition: only what the model looks at is filled with sense."""
    numbers = numbers_of(case.new_terms, case.intercept)
    fitted = [case.new[entity] for entity in sorted(case.new)]
    lengths = [one.rows + one.passive for one in fitted]
    rows = sum(lengths)
    features = [sorted(numbers[name] for name in one.cells) for one in fitted]
    entries = [entries_of(one, numbers) for one in fitted]
    flat = [row for of_entity in entries for row in of_entity]
    indptr = np.cumsum([0, *map(len, flat)]).astype(np.int64)
    indices = np.array([number for row in flat for number in row], np.int32)
    return TrainingPartition(
        ids=ByteStrings.of(sorted(case.new)),
        row_ptr=np.cumsum([0, *lengths]).astype(np.int64),
        shard=np.zeros(rows, np.int32),
        position=np.arange(rows),
        label=np.zeros(rows),
        weight=np.ones(rows),
        order=np.arange(rows),
        shard_ptr=np.array([0, rows]),
        matrix=SparseRows(indptr, indices, np.ones(len(indices))),
        intercept=case.intercept,
        dimension=len(numbers),
        coefficient_ptr=np.cumsum([0, *map(len, features)]).astype(np.int64),
        features=np.array([number for entity in features for number in entity], np.int32),
        active=np.array([flag for one in fitted for flag in [1] * one.rows + [0] * one.passive], np.uint8),
    )


def entries_of(one: Fitted, numbers: Mapping[str, int]) -> list[list[int]]:
    """The entity's own numbers of the features of each of its rows; all are in the first one that may have them."""
    names = sorted(one.cells, key=lambda name: numbers[name])
    places = {name: place for place, name in enumerate(names) if name != INTERCEPT}
    seen = [place for name, place in places.items() if name not in one.unseen]
    rows: list[list[int]] = [[] for _ in range(one.rows + one.passive)]
    if one.rows:
        rows[0] = seen
    if one.passive:
        rows[one.rows] = list(places.values())
    return rows


def solutions_of(case: Case) -> EntitySolutions:
    numbers = numbers_of(case.new_terms, case.intercept)
    block = block_of({entity: one.cells for entity, one in case.new.items()}, numbers, case.variances)
    count = len(case.new)
    return EntitySolutions(
        coefficients=block.coefficients,
        status=np.zeros(count, np.uint8),
        iterations=np.full(count, 3, np.int32),
        gradient_norm=np.zeros(count),
        tolerance_ratio=np.zeros(count),
        variances=block.variances,
    )


def model_of(case: Case) -> Outcome:
    """What the code under test makes of a case."""
    partition = partition_of(case)
    with tempfile.TemporaryDirectory() as directory:
        previous = None
        if case.old is not None:
            grouping = GroupingSpec(
                name="per_user", entity_column="user_id", partitions=1, bags=("b",), intercept=case.intercept
            )
            path = write_model(Path(directory), case)
            previous = PreviousModel.read(path, grouping, 0, index_of(case.new_terms), partition)
            assert previous is not None
        model = PartitionModel.of(partition, solutions_of(case), case.threshold, previous)
    names = {number: name for name, number in numbers_of(case.new_terms, case.intercept).items()}
    block = model.stored.block
    ids = ByteStrings(block.ids_bytes, block.ids_ptr).to_list()
    assert ids == sorted(ids)
    assert (block.variances is not None) == case.variances
    variances = np.zeros(len(block.coefficients)) if block.variances is None else block.variances
    stored: dict[bytes, Cells] = {}
    for e, entity in enumerate(ids):
        span = slice(int(block.coefficient_ptr[e]), int(block.coefficient_ptr[e + 1]))
        indices = block.indices[span].tolist()
        assert indices == sorted(set(indices))
        cells = zip(block.coefficients[span].tolist(), variances[span].tolist(), strict=True)
        stored[entity] = dict(zip([names[i] for i in indices], cells, strict=True))
    owners = np.repeat(np.arange(partition.entities), np.diff(partition.coefficient_ptr)).tolist()
    places = [(partition.ids[e], names[j]) for e, j in zip(owners, partition.features.tolist(), strict=True)]
    rows = dict(zip(ids, model.stored.rows.tolist(), strict=True))
    new = {entity for e, entity in enumerate(partition.ids.to_list()) if model.trained[e]}
    told = dict(
        zip(
            ids, zip(model.stored.status.tolist(), model.stored.iterations.tolist(), strict=True), strict=True
        )
    )
    assert told == {entity: (0, 3) if entity in new else (1, 0) for entity in ids}
    return Outcome(
        stored,
        rows,
        dict(zip(places, model.local.tolist(), strict=True)),
        new,
        model.untrained,
        model.carried_over,
    )


def slowly(case: Case) -> Outcome:
    """The same with dictionaries."""
    stored: dict[bytes, Cells] = {}
    rows: dict[bytes, int] = {}
    local: dict[tuple[bytes, str], float] = {}
    known_terms = {*case.new_terms, *([INTERCEPT] if case.intercept else [])}
    old = {
        entity: {
            name: (value, variance if case.old_variances else 0.0)
            for name, (value, variance) in cells.items()
            if name in known_terms
        }
        for entity, cells in (case.old or {}).items()
    }
    trained = {entity for entity, one in case.new.items() if one.rows}
    for entity in sorted(trained | set(old)):
        cells = dict(old.get(entity, {}))
        if entity in trained:
            for name, (value, variance) in case.new[entity].cells.items():
                if name in case.new[entity].unseen:
                    continue
                cells.pop(name, None)
                if name == INTERCEPT or case.threshold == 0 or abs(value) > case.threshold:
                    cells[name] = (value, variance)
        stored[entity] = {
            name: (value, variance if case.variances else 0.0) for name, (value, variance) in cells.items()
        }
        rows[entity] = case.new[entity].rows if entity in trained else 0
    for entity, one in case.new.items():
        for name in one.cells:
            local[entity, name] = stored.get(entity, {}).get(name, (0.0, 0.0))[0]
    return Outcome(
        stored,
        rows,
        local,
        trained,
        len(set(case.new) - set(stored)),
        len(set(stored) - trained),
    )


# ---- hand-made cases ---------------------------------------------------------------------------------------

OLD: dict[bytes, Cells] = {
    b"both": {INTERCEPT: (1.0, 0.1), "a": (2.0, 0.2), "b": (3.0, 0.3)},
    b"gone": {INTERCEPT: (4.0, 0.4), "c": (5.0, 0.5)},
}
NEW = {
    b"both": Fitted({INTERCEPT: (-1.0, 0.01), "b": (-3.0, 0.03), "c": (-5.0, 0.05)}),
    b"new": Fitted({INTERCEPT: (-7.0, 0.07), "a": (0.0, 0.08)}),
}


def test_without_an_earlier_model_it_is_the_solutions() -> None:
    found = model_of(Case(NEW))
    assert found.stored == {entity: one.cells for entity, one in NEW.items()}
    assert found.rows == {b"both": 2, b"new": 2}
    assert (found.untrained, found.carried_over) == (0, 0)


def test_what_only_passive_rows_have_is_as_it_was_before() -> None:
    cells: Cells = {INTERCEPT: (-1.0, 0.01), "a": (0.0, 1.0), "b": (-3.0, 0.03), "c": (0.0, 1.0)}
    new = {b"both": Fitted(cells, unseen=frozenset("ac"))}
    found = model_of(Case(new, OLD))
    assert found.stored[b"both"] == {INTERCEPT: (-1.0, 0.01), "a": (2.0, 0.2), "b": (-3.0, 0.03)}
    assert found.local == {
        (b"both", INTERCEPT): -1.0,
        (b"both", "a"): 2.0,
        (b"both", "b"): -3.0,
        (b"both", "c"): 0.0,
    }
    assert found == slowly(Case(new, OLD))
    assert set(model_of(Case(new)).stored[b"both"]) == {INTERCEPT, "b"}


def test_entities_of_either_model_are_in_it_and_of_both_the_new_numbers_count() -> None:
    found = model_of(Case(NEW, OLD))
    assert found.stored == {
        b"both": {INTERCEPT: (-1.0, 0.01), "a": (2.0, 0.2), "b": (-3.0, 0.03), "c": (-5.0, 0.05)},
        b"gone": OLD[b"gone"],
        b"new": NEW[b"new"].cells,
    }
    assert found.rows == {b"both": 2, b"gone": 0, b"new": 2}
    assert found.trained == {b"both", b"new"}
    assert (found.untrained, found.carried_over) == (0, 1)


def test_features_that_the_new_index_does_not_have_are_left_out() -> None:
    found = model_of(Case(NEW, {b"gone": {"a": (1.0, 0.1), "z": (9.0, 0.9)}}, old_terms=("a", "z")))
    assert found.stored[b"gone"] == {"a": (1.0, 0.1)}


def test_features_are_numbered_anew() -> None:
    """Terms before and between the old ones shift every number."""
    case = Case(
        {b"x": Fitted({INTERCEPT: (1.0, 0.1), "aa": (2.0, 0.2)})},
        {b"x": {"b": (3.0, 0.3)}, b"y": {"b": (4.0, 0.4), "d": (5.0, 0.5)}},
        new_terms=("a", "aa", "b", "c", "d"),
        old_terms=("b", "d"),
    )
    assert model_of(case).stored == {
        b"x": {INTERCEPT: (1.0, 0.1), "aa": (2.0, 0.2), "b": (3.0, 0.3)},
        b"y": {"b": (4.0, 0.4), "d": (5.0, 0.5)},
    }


def test_an_entity_without_rows_to_train_on_has_the_earlier_model_or_none() -> None:
    new = {
        b"both": Fitted({INTERCEPT: (0.0, 1.0), "a": (0.0, 1.0), "c": (0.0, 1.0)}, rows=0, passive=4),
        b"only": Fitted({INTERCEPT: (0.0, 1.0)}, rows=0, passive=1),
    }
    found = model_of(Case(new, OLD))
    assert found.stored == OLD
    assert found.local == {
        (b"both", INTERCEPT): 1.0,
        (b"both", "a"): 2.0,
        (b"both", "c"): 0.0,
        (b"only", INTERCEPT): 0.0,
    }
    assert (found.trained, found.untrained, found.carried_over) == (set(), 1, 2)
    alone = model_of(Case(new))
    assert (alone.stored, alone.untrained) == ({}, 2)


def test_an_intercept_is_never_too_small() -> None:
    cells = {INTERCEPT: (1e-9, 0.1), "a": (0.5, 0.2), "b": (-0.5, 0.3), "c": (0.51, 0.4)}
    found = model_of(Case({b"x": Fitted(cells)}, threshold=0.5))
    assert found.stored == {b"x": {INTERCEPT: (1e-9, 0.1), "c": (0.51, 0.4)}}
    assert found.local == {(b"x", INTERCEPT): 1e-9, (b"x", "a"): 0.0, (b"x", "b"): 0.0, (b"x", "c"): 0.51}
    without = model_of(
        Case({b"x": Fitted({"a": (0.4, 0.2), "b": (0.1, 0.3)})}, threshold=0.5, intercept=False)
    )
    assert without.stored == {b"x": {}}


def test_what_became_too_small_is_not_what_it_was_before() -> None:
    """A coefficient that training shrank below the threshold is 0, though the earlier model had it."""
    new = {b"both": Fitted({INTERCEPT: (1.0, 0.1), "b": (0.01, 0.3)})}
    found = model_of(Case(new, OLD, threshold=0.05))
    assert found.stored[b"both"] == {INTERCEPT: (1.0, 0.1), "a": (2.0, 0.2)}
    assert found.local[b"both", "b"] == 0.0


def test_variances_are_the_new_models_choice() -> None:
    assert model_of(Case(NEW, OLD, variances=False)).stored[b"gone"] == {
        INTERCEPT: (4.0, 0.0),
        "c": (5.0, 0.0),
    }
    assert model_of(Case(NEW, OLD, old_variances=False)).stored[b"both"]["a"] == (2.0, 0.0)


# ---- random cases ------------------------------------------------------------------------------------------

TERMS = ("a", "b", "c", "d")
IDS = st.sampled_from([b"", b"a\x00", b"ab", b"\xff"])
NUMBERS = st.sampled_from([0.0, 0.1, -0.1, 0.2, -0.2, 1.0]) | st.floats(-3, 3)
CELL = st.tuples(NUMBERS, st.floats(0, 1))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    intercept = draw(st.booleans())
    old_terms, new_terms = (
        draw(st.lists(st.sampled_from(TERMS), unique=True, min_size=2).map(tuple)) for _ in range(2)
    )
    head: dict[str, st.SearchStrategy[tuple[float, float]]] = {INTERCEPT: CELL} if intercept else {}

    def cells(terms: tuple[str, ...]) -> st.SearchStrategy[Cells]:
        return st.fixed_dictionaries(head, optional=dict.fromkeys(terms, CELL))

    unseen = st.frozensets(st.sampled_from(new_terms))
    fitted = st.builds(Fitted, cells(new_terms), st.integers(0, 2), st.integers(1, 2), unseen)
    return Case(
        new=draw(st.dictionaries(IDS, fitted, max_size=4)),
        old=draw(st.none() | st.dictionaries(IDS, cells(old_terms), min_size=1, max_size=4)),
        new_terms=new_terms,
        old_terms=old_terms,
        intercept=intercept,
        threshold=draw(st.sampled_from([0.0, 0.1, 0.5])),
        variances=draw(st.booleans()),
        old_variances=draw(st.booleans()),
    )


@settings(max_examples=250)
@given(cases())
def test_the_model_is_that_of_plain_dictionaries(case: Case) -> None:
    assert model_of(case) == slowly(case)


@settings(max_examples=60)
@given(cases())
def test_what_training_scores_is_what_the_stored_model_scores(case: Case) -> None:
    """One row for every coefficient of the partition, scored by the stored model, is the coefficient."""
    partition = partition_of(case)
    expected = slowly(case)
    numbers = numbers_of(case.new_terms, case.intercept)
    count = len(partition.features)
    first = int(case.intercept)
    owners = np.repeat(np.arange(partition.entities), np.diff(partition.coefficient_ptr))
    stored = part_of(expected.stored, numbers, case.variances).block
    has_entry = partition.features >= first
    rows = ScoringPartition(
        ids=partition.ids,
        row_ptr=np.cumsum([0, *np.bincount(owners, minlength=partition.entities)]).astype(np.int64),
        shard=np.zeros(count, np.int32),
        position=np.arange(count),
        label=np.zeros(count),
        weight=np.ones(count),
        order=np.arange(count),
        shard_ptr=np.array([0, count]),
        matrix=SparseRows(
            np.append(0, np.cumsum(has_entry)).astype(np.int64),
            partition.features[has_entry],
            np.ones(int(has_entry.sum())),
        ),
        intercept=case.intercept,
        dimension=len(numbers),
    )
    found = score_block(rows, stored).scores.tolist()
    names = {number: name for name, number in numbers.items()}
    for i, (e, feature) in enumerate(zip(owners.tolist(), partition.features.tolist(), strict=True)):
        entity = partition.ids[e]
        base = expected.stored.get(entity, {}).get(INTERCEPT, (0.0, 0.0))[0] if case.intercept else 0.0
        own = expected.local[entity, names[feature]] if feature >= first else 0.0
        assert found[i] == pytest.approx(base + own, rel=1e-12, abs=1e-15)


# ---- reading -----------------------------------------------------------------------------------------------


def test_a_model_without_such_a_random_effect_gives_nothing(tmp_path: Path) -> None:
    case = Case(NEW, OLD)
    (tmp_path / "other").mkdir()
    other = write_model(tmp_path / "other", case, name="per_movie")
    assert PreviousModel.read(other, PER_USER, 0, index_of(case.new_terms), partition_of(case)) is None
    with pytest.raises(NotFound, match="holds no model version"):
        PreviousModel.read(tmp_path, PER_USER, 0, index_of(case.new_terms), partition_of(case))


def test_a_damaged_part_is_an_error_that_names_it(tmp_path: Path) -> None:
    case = Case(NEW, OLD)
    directory = write_model(tmp_path, case)
    part = directory / "per_user" / "part-00000.parquet"
    part.unlink()
    part.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"part-00000.parquet: cannot be read as a coefficient file"):
        PreviousModel.read(directory, PER_USER, 0, index_of(case.new_terms), partition_of(case))


def test_where_solving_begins_is_what_the_earlier_model_says(tmp_path: Path) -> None:
    case = Case(NEW, OLD)
    previous = PreviousModel.read(
        write_model(tmp_path, case), PER_USER, 0, index_of(case.new_terms), partition_of(case)
    )
    assert previous is not None
    # both: intercept, b, c; new: intercept, a.
    assert previous.coefficients.tolist() == [1.0, 3.0, 0.0, 0.0, 0.0]
