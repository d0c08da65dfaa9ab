from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from gdmix_core.data.array_file import write_arrays
from gdmix_core.errors import InternalError
from gdmix_core.metrics import MetricValue, merge_runs, parse_metric, write_run

METRICS = [parse_metric(name) for name in ("auc", "aupr", "logloss", "auc:user_id")]


def values(
    directory: Path,
    shards: list[np.ndarray],
    z: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    window: int,
) -> dict[str, MetricValue]:
    paths = []
    for number, rows in enumerate(shards):
        paths.append(directory / f"run-{number}")
        write_run(paths[-1], z[rows], label[rows], weight[rows])
    return merge_runs(METRICS, paths, window)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 60),
    levels=st.integers(1, 40),
    shards=st.integers(1, 6),
    window=st.sampled_from([1, 2, 3, 5, 17, 1000]),
    weighted=st.booleans(),
)
def test_agrees_with_scikit_learn(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rows: int,
    levels: int,
    shards: int,
    window: int,
    weighted: bool,
) -> None:
    """Few levels make many ties; windows of a row or two cut through ties and runs everywhere."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, levels, rows) / 4.0 - 1.0
    label = np.concatenate([[0.0, 1.0], rng.integers(0, 2, rows - 2)])
    weight = rng.exponential(size=rows) if weighted else np.ones(rows)
    home = rng.integers(0, shards, rows)
    cuts = [np.flatnonzero(home == shard) for shard in range(shards)]
    found = values(tmp_path_factory.mktemp("runs"), cuts, z, label, weight, window)
    assert list(found) == ["auc", "aupr"]
    assert found["auc"].value == pytest.approx(roc_auc_score(label, z, sample_weight=weight), rel=1e-12)
    expected = average_precision_score(label, z, sample_weight=weight)
    assert found["aupr"].value == pytest.approx(expected, rel=1e-12)


def test_unweighted_values_are_the_same_bits_for_any_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    z, label = rng.normal(size=300).round(1), rng.integers(0, 2, 300).astype(float)
    cuts = np.array_split(np.arange(300), 4)
    found = {tuple(values(tmp_path, cuts, z, label, np.ones(300), w).items()) for w in (1, 7, 64, 10**6)}
    assert len(found) == 1


def test_one_tie_over_all_rows_is_one_half_in_bounded_memory(tmp_path: Path) -> None:
    label = np.tile([0.0, 1.0], 500)
    found = values(tmp_path, np.array_split(np.arange(1000), 3), np.zeros(1000), label, np.ones(1000), 10)
    assert found["auc"].value == 0.5
    assert found["aupr"].value == 0.5


@pytest.mark.parametrize(
    ("z", "label", "weight", "reason"),
    [
        ([], [], [], "there are no validation rows"),
        ([1.0, 2.0], [0.0, 0.0], [1.0, 1.0], "no validation row with a weight has label 1"),
        ([1.0, 2.0], [1.0, 1.0], [1.0, 1.0], "no validation row with a weight has label 0"),
        ([1.0, 2.0], [1.0, 0.0], [0.0, 1.0], "no validation row with a weight has label 1"),
        ([1.0, np.nan], [1.0, 0.0], [1.0, 1.0], "1 of 2 predictions are not finite"),
    ],
)
def test_what_is_undefined_says_why(tmp_path: Path, z: list, label: list, weight: list, reason: str) -> None:
    rows = np.arange(len(z))
    found = values(tmp_path, [rows, rows[:0]], np.array(z), np.array(label), np.array(weight), 10)
    assert found == {"auc": MetricValue(None, reason), "aupr": MetricValue(None, reason)}


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x", [{"score": np.zeros(1)}])
    with pytest.raises(InternalError, match="is not a sorted run of format 1"):
        merge_runs(METRICS, [tmp_path / "x"])
