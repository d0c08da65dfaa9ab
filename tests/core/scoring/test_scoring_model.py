"""A version that scores: against sums written out with dense numpy, in every form of request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.feature_index import FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.errors import DataError, StoreCorrupt, UsageError
from gdmix_core.model import CoordinateManifest, ModelManifest
from gdmix_core.model.directory import FEATURE_INDEX_FILE
from gdmix_core.model.manifest import PluginFile, PluginManifest
from gdmix_core.scoring.record_cache import MIN_BYTES, RecordCache
from gdmix_core.scoring.request import Columns, EncodedCandidates, EntityIds, FeatureRows
from gdmix_core.scoring.scoring_model import Located, ScoringModel
from gdmix_core.store import CoefficientBlock
from gdmix_core.store.record import encode_block

USER, ITEM = 3, 6
"""Features of the two bags: age and two genders; four genres and a vector of two."""


def feature_index() -> FeatureIndex:
    columns = (
        IndexedColumn("item", FeatureColumn(column="genres", kind="list"), None, 0, 4,
                      ByteStrings.of(["a", "b", "c", "d"]), np.ones(4, np.int64)),
        IndexedColumn("item", FeatureColumn(column="taste", kind="vector"), 2, 4, 2),
        IndexedColumn("user", FeatureColumn(column="age", kind="numeric"), None, 0, 1, mean=0.0,
                      standard_deviation=1.0),
        IndexedColumn("user", FeatureColumn(column="gender", kind="categorical"), None, 1, 2,
                      ByteStrings.of(["f", "m"]), np.ones(2, np.int64)),
    )  # fmt: skip
    return FeatureIndex(columns, 10, fingerprint(columns))


def manifest(task="logistic_regression", *, external=False, offset=None) -> ModelManifest:
    size = USER + ITEM + 1
    model = "external" if external else "logistic_regression"
    fixed = CoordinateManifest("global", "fixed_effect", ("item", "user"), True, size, model=model)
    per_user = CoordinateManifest(
        "per_user", "random_effect", ("item",), True, ITEM + 1, entity_column="user_id"
    )
    per_item = CoordinateManifest("per_item", "random_effect", ("user", "item"), False, USER + ITEM,
                                  entity_column="item_id")  # fmt: skip
    index = feature_index()
    return ModelManifest(
        model="shop", version=3, task=task, coordinates=(fixed, per_user, per_item),
        bag_sizes=index.bag_sizes, schema_fingerprint=index.schema_fingerprint, offset_column=offset,
    )  # fmt: skip


WEIGHTS = np.linspace(-1.0, 2.0, USER + ITEM + 1)


def model(**changes) -> ScoringModel:
    described = manifest(**changes)
    return ScoringModel(described, feature_index(), {} if changes.get("external") else {"global": WEIGHTS})


def record(numbers: dict[int, float], schema: int) -> bytes:
    indices = np.array(sorted(numbers), np.int32)
    block = CoefficientBlock(
        np.frombuffer(b"x", np.uint8), np.array([0, 1], np.int64), np.array([0, len(indices)], np.int64),
        indices, np.array([numbers[int(i)] for i in indices], np.float64),
    )  # fmt: skip
    (batch,) = encode_block(block, b"", schema=schema)
    return bytes(batch.data[1:])


def located(scoring: ScoringModel, request: EncodedCandidates, stored) -> Located:
    """Look the request's entities up in a cache that was filled from `stored[coordinate][id]`."""
    cache, places, spans, unknown = RecordCache(MIN_BYTES), [], [], {}
    for effect in scoring.random_effects:
        known = stored.get(effect.name, {})
        given = request.entities[effect.entity_column]
        ids = list(dict.fromkeys(given.ids.to_list()))
        records = [None if i not in known else record(known[i], scoring.manifest.schema) for i in ids]
        cache.insert(effect.scope, scoring.manifest.schema, ids, records)
    for effect in scoring.random_effects:
        given = request.entities[effect.entity_column]
        own = np.empty(len(given.ids), np.int64)
        misses, _ = cache.find(effect.scope, given.ids, own)
        assert misses == 0
        spans.append([sum(map(len, places)), 0 if given.context else 1])
        places.append(own)
    frozen = np.concatenate(places), np.array(spans)
    for array in frozen:
        array.flags.writeable = False
    return Located(cache.words, *frozen, unknown)


STORED = {
    "per_user": {b"u1": {0: 0.5, 2: -1.0, 6: 0.25}, b"u2": {i: 0.1 * i for i in range(ITEM + 1)}},
    "per_item": {b"i1": {0: 2.0, 3: 1.0, 8: -4.0}, b"i2": {}},
}


def test_columns_of_context_and_candidates():
    scoring = model()
    request = scoring.encode(
        Columns(
            candidates=3,
            context={"user_id": pa.array(["u1"]), "age": pa.array([2.0]), "gender": pa.array(["m"])},
            per_candidate={
                "item_id": pa.array(["i1", "i2", None]),
                "genres": pa.array([["a", "c"], [], ["d", "new"]]),
                "taste": pa.array([[0.5, 0.0], None, [0.0, -1.0]]),
            },
        )
    )
    scoring.check(request)
    assert request.unknown_features == {"item.genres": 1}
    found = scoring.score(request, located(scoring, request, STORED))
    user = np.array([2.0, 0.0, 1.0])
    item = np.array([[1, 0, 1, 0, 0.5, 0], [0] * 6, [0, 0, 0, 1, 0, -1.0]])
    x = np.hstack([np.ones((3, 1)), item, np.tile(user, (3, 1))])
    u1 = np.array([0.5, 0, -1.0, 0, 0, 0, 0.25])
    i1 = np.array([2.0, 0, 0, 1.0, 0, 0, 0, 0, -4.0])
    per_item = np.array([np.concatenate([user, item[0]]) @ i1, 0.0, 0.0])
    expected = np.array([x @ WEIGHTS, np.hstack([np.ones((3, 1)), item]) @ u1, per_item])
    np.testing.assert_allclose(found.contributions, expected, atol=1e-14)
    np.testing.assert_allclose(found.scores, expected.sum(0), atol=1e-14)
    np.testing.assert_allclose(found.predictions, 1 / (1 + np.exp(-expected.sum(0))), atol=1e-14)
    assert scoring.coordinate_names == ("global", "per_user", "per_item")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_encoded_features_against_dense_sums(data):
    scoring, n = model(task="poisson_regression"), data.draw(st.integers(1, 6), "candidates")
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    dense = {"user": np.zeros((n, USER)), "item": np.zeros((n, ITEM))}
    features = []
    for bag, size in (("user", USER), ("item", ITEM)):
        for context in (True, False):
            if not data.draw(st.booleans(), f"{bag}, context={context}"):
                continue
            rows = 1 if context else n
            matrix = np.where(rng.random((rows, size)) < 0.5, rng.normal(size=(rows, size)), 0.0)
            dense[bag] += matrix
            at = [np.flatnonzero(row) for row in matrix]
            sparse = SparseRows(
                np.cumsum([0, *map(len, at)]).astype(np.int64),
                np.concatenate(at).astype(np.int32),
                np.concatenate([row[i] for row, i in zip(matrix, at, strict=True)]),
            )
            features.append(FeatureRows(bag, context, sparse))
    users = [data.draw(st.sampled_from([b"u1", b"u2", b"u3", b""]), "user")]
    items = [data.draw(st.sampled_from([b"i1", b"i2", b"i3", b""]), "item") for _ in range(n)]
    request = EncodedCandidates(
        n, features,
        {"user_id": EntityIds(True, ByteStrings.of(users)), "item_id": EntityIds(False, ByteStrings.of(items))},
        schema_fingerprint=scoring.manifest.schema_fingerprint,
    )  # fmt: skip
    scoring.check(request)
    found = scoring.score(request, located(scoring, request, STORED))

    def coefficients(coordinate, one, size):
        out = np.zeros(size)
        for i, value in STORED[coordinate].get(one, {}).items():
            out[i] = value
        return out

    ones = np.ones((n, 1))
    z = np.hstack([ones, dense["item"], dense["user"]]) @ WEIGHTS
    z += np.hstack([ones, dense["item"]]) @ coefficients("per_user", users[0], ITEM + 1)
    both = np.hstack([dense["user"], dense["item"]])
    z += [row @ coefficients("per_item", one, USER + ITEM) for row, one in zip(both, items, strict=True)]
    np.testing.assert_allclose(found.scores, z, atol=1e-12)
    np.testing.assert_allclose(found.predictions, np.exp(z), rtol=1e-12)


def encoded(rows: SparseRows, **changes) -> EncodedCandidates:
    fields = {"candidates": 1, "features": [FeatureRows("item", False, rows)],
              "schema_fingerprint": manifest().schema_fingerprint}  # fmt: skip
    return EncodedCandidates(**{**fields, **changes})


def rows(ptr, indices, values=None) -> SparseRows:
    filled = np.ones(len(indices)) if values is None else np.array(values, np.float64)
    return SparseRows(np.array(ptr, np.int64), np.array(indices, np.int32), filled)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (encoded(rows([0, 2], [1, 1])), "features[0] (bag 'item'), row 0: indices must increase strictly"),
        (encoded(rows([0, 1], [ITEM])), "indices must be from 0 to 5"),
        (encoded(rows([0, 1], [-1])), "indices must be from 0 to 5"),
        (encoded(rows([0, 2], [1])), "row_offsets must end with the number of indices"),
        (encoded(rows([1, 1], [1])), "row_offsets must begin with 0"),
        (encoded(rows([0, -(2**31)], [])), "row_offsets must begin with 0 and never fall"),
        (encoded(rows([0, 1], [1], [np.nan])), "values must be finite"),
        (encoded(rows([0, 0], []), schema_fingerprint=""), "schema_fingerprint: found ''"),
        (encoded(None, features=[FeatureRows("films", False, rows([0, 0], []))]), "features[0].bag: found 'films'"),
        (encoded(None, features=[FeatureRows("item", True, rows([0, 0], []))] * 2), "comes twice for the context"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named(bad, message):
    with pytest.raises(UsageError) as raised:
        model().check(bad)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("context", "candidates", "message"),
    [
        ({"age": pa.array(["old"])}, {}, "context: column 'age' holds 'old'; allowed: numbers"),
        ({}, {"age": pa.array([1.0, np.inf])}, "candidates[1]: column 'age' holds inf; allowed: finite"),
        ({}, {"taste": pa.array([[1.0], [1.0, 2.0]])}, "candidates[0]: column 'taste' holds 1 numbers"),
        ({}, {"item_id": pa.array(["x", "y" * 300])}, "candidates[1]: column 'item_id' holds"),
        ({"age": pa.array([1.0])}, {"age": pa.array([1.0, 2.0])}, "'age' is given in the context and in"),
        ({"gender": pa.array([1.5])}, {}, "column 'gender' is of type double; allowed for terms"),
    ],
)
def test_columns_that_cannot_be_taken(context, candidates, message):
    with pytest.raises((DataError, UsageError)) as raised:
        model().encode(Columns(2, context, candidates))
    assert message in str(raised.value)


def test_an_outside_fixed_effect_is_asked_for_and_used():
    scoring = model(external=True)
    nobody = EntityIds(True, ByteStrings.of([b""]))
    bare = EncodedCandidates(2, entities={"user_id": nobody, "item_id": nobody})
    with pytest.raises(UsageError, match="trained on the scores of an outside model"):
        scoring.score(bare, located(scoring, bare, {}))
    for brought, expected in ((np.array([0.5, 1.5]), [0.5, 1.5]), (np.array([2.0]), [2.0, 2.0])):
        request = EncodedCandidates(2, entities=bare.entities, fixed_effect_scores=brought)
        assert scoring.score(request, located(scoring, request, {})).scores.tolist() == expected
    for brought, message in ((np.zeros(3), "found 3; allowed are 1 or 2"), (np.array([np.nan]), "finite")):
        request = EncodedCandidates(2, entities=bare.entities, fixed_effect_scores=brought)
        with pytest.raises(UsageError, match=message):
            scoring.score(request, located(scoring, request, {}))
    native = model()
    request = EncodedCandidates(2, entities=bare.entities, fixed_effect_scores=np.zeros(2))
    with pytest.raises(UsageError, match="computes its fixed effect itself"):
        native.score(request, located(native, request, {}))


def test_an_offset_of_the_training_data_comes_with_the_request():
    scoring = model(task="linear_regression", offset="prior")
    request = scoring.encode(Columns(2, {}, {"prior": pa.array([1.0, -2.0])}))
    found = scoring.score(request, located(scoring, request, {}))
    assert scoring.coordinate_names[0] == "prior"
    assert found.contributions[0].tolist() == [1.0, -2.0]
    assert found.scores.tolist() == [1.0 + WEIGHTS[0], -2.0 + WEIGHTS[0]]


def test_columns_that_the_model_does_not_know_are_counted():
    request = model().encode(Columns(2, {"gendr": pa.array(["f"])}, {"colour": pa.array(["x", "y"])}))
    assert request.unknown_features == {"gendr": 1, "colour": 2}


def test_parts_that_do_not_fit_together():
    with pytest.raises(StoreCorrupt, match="'global' has 2 coefficients, its manifest says 10"):
        ScoringModel(manifest(), feature_index(), {"global": np.zeros(2)})


def test_the_files_of_a_plugged_in_fixed_effect_are_checked(tmp_path: Path) -> None:
    described = manifest()
    feature_index().save(tmp_path / "index")
    plugin = PluginManifest(
        distribution="gdmix", version="1", files={"trees.txt": PluginFile(sha256="0" * 64, size=5)}
    )
    fixed = replace(described.coordinates[0], model="lightgbm", plugin=plugin)
    described = replace(described, coordinates=(fixed, *described.coordinates[1:]))
    files = {"global/plugin/trees.txt": b"trees", FEATURE_INDEX_FILE: (tmp_path / "index").read_bytes()}
    with pytest.raises(StoreCorrupt, match=r"'trees.txt' of coordinate 'global' is not that of the manifest"):
        ScoringModel.from_files(described, files.__getitem__)
