from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, mean_squared_error, roc_auc_score

from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.csr import SparseRows
from gdmix_core.data.partitions import ScoringPartition
from gdmix_core.errors import InternalError
from gdmix_core.metrics import entity_sums, entity_values, finish_entities, parse_metric
from gdmix_core.solvers.losses import Loss


def partition_of(sizes: list[int], label: np.ndarray, weight: np.ndarray) -> ScoringPartition:
    rows = sum(sizes)
    return ScoringPartition(
        ids=ByteStrings.of([f"{e:03d}" for e in range(len(sizes))]),
        row_ptr=np.cumsum([0, *sizes]).astype(np.int64),
        shard=np.zeros(rows, np.int32),
        position=np.arange(rows),
        label=label,
        weight=weight,
        order=np.arange(rows),
        shard_ptr=np.array([0, rows]),
        matrix=SparseRows(np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0)),
        intercept=False,
        dimension=0,
    )


SCIKIT_LEARN = {
    "auc": lambda y, z, w: roc_auc_score(y, z, sample_weight=w),
    "aupr": lambda y, z, w: average_precision_score(y, z, sample_weight=w),
    "logloss": lambda y, z, w: log_loss(y, 1 / (1 + np.exp(-z)), sample_weight=w, labels=[0, 1]),
    "mse": lambda y, z, w: mean_squared_error(y, 1 / (1 + np.exp(-z)), sample_weight=w),
    "rmse": lambda y, z, w: mean_squared_error(y, 1 / (1 + np.exp(-z)), sample_weight=w) ** 0.5,
}


@pytest.mark.parametrize("kind", list(SCIKIT_LEARN))
def test_agrees_with_scikit_learn_on_each_entity(kind: str) -> None:
    rng = np.random.default_rng(8)
    sizes = [0, *rng.integers(1, 12, 60).tolist()]
    rows = sum(sizes)
    z, label, weight = (
        rng.integers(-6, 7, rows) / 3.0,
        rng.integers(0, 2, rows).astype(float),
        rng.random(rows),
    )
    partition = partition_of(sizes, label, weight)
    expected, undefined = {}, 0
    for e, (start, stop) in enumerate(zip(partition.row_ptr[:-1], partition.row_ptr[1:], strict=True)):
        y = label[start:stop]
        if stop == start or (kind in {"auc", "aupr"} and len(set(y)) < 2):
            undefined += 1
        else:
            expected[e] = SCIKIT_LEARN[kind](y, z[start:stop], weight[start:stop])
    metric = parse_metric(f"{kind}:user_id")
    values, defined = entity_values(metric, Loss.LOGISTIC, partition, z)
    assert np.flatnonzero(defined).tolist() == list(expected)
    assert values[defined] == pytest.approx(np.array(list(expected.values())), rel=1e-11, abs=1e-15)
    state = entity_sums([metric, parse_metric(kind)], Loss.LOGISTIC, partition, z)
    assert list(state) == [f"{kind}:user_id"]
    found = finish_entities(metric, [state[metric.name], state[metric.name]])
    assert found.value == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    assert (found.entities, found.entities_undefined) == (2 * len(expected), 2 * undefined)


def test_undefined_entities_are_counted_and_left_out() -> None:
    label = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    weight = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    z = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, np.nan, 1.0])
    partition = partition_of([2, 2, 2, 2], label, weight)
    metric = parse_metric("auc:user")
    values, defined = entity_values(metric, Loss.LOGISTIC, partition, z)
    assert defined.tolist() == [True, False, False, False]
    assert values.tolist() == [1.0, 0.0, 0.0, 0.0]
    found = finish_entities(metric, list(entity_sums([metric], Loss.LOGISTIC, partition, z).values()))
    assert (found.value, found.entities, found.entities_undefined) == (1.0, 1, 3)


def test_no_defined_entity_says_why() -> None:
    metric = parse_metric("auc:user")
    one_class = partition_of([2, 1], np.ones(3), np.ones(3))
    found = finish_entities(
        metric, list(entity_sums([metric], Loss.LOGISTIC, one_class, np.zeros(3)).values())
    )
    assert (found.value, found.entities, found.entities_undefined) == (None, 0, 2)
    assert found.reason == "auc is undefined for each of the 2 entities"
    empty = partition_of([], np.empty(0), np.empty(0))
    found = finish_entities(metric, list(entity_sums([metric], Loss.LOGISTIC, empty, np.empty(0)).values()))
    assert found.reason == "no validation row has an entity in column user"


def test_predictors_must_fit_the_partition() -> None:
    with pytest.raises(InternalError, match="2 predictors for a partition of 3 rows"):
        entity_values(
            parse_metric("mse:u"), Loss.SQUARED, partition_of([3], np.ones(3), np.ones(3)), np.ones(2)
        )
