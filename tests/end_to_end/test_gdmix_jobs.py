"""Jobs in the format of LinkedIn GDMix train as they are, to the exact optimum of its objective."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from gdmix_client import LocalCluster
from gdmix_client.cli.app import app
from gdmix_core.data.hashing import hash_integers

from .gdmix_data import (
    FEATURES,
    INTERCEPT,
    Model,
    Problem,
    Results,
    Rows,
    effect,
    files_below,
    make_rows,
    read_avro,
    write_effect,
    write_groups,
    write_metadata,
)

PROGRAM = Path(sys.executable).with_name("gdmix-cli")
TRAIN = make_rows(420, 1)
VALIDATION = make_rows(150, 2, first_user=2)  # two of its users are in no training row
WITHIN = 1e-6
OTHERS = ["uid", "response", "user", "item"]
LR_YAML = """\
# As upstream writes its example: JSON with comments, an anchor, bare keys, trailing commas.
{
  "output_dir": "lr-training",

  "fixed_effect_config": {
    "global": {
      "training_data_dir": "movieLens/global/trainingData",
      "validation_data_dir": "movieLens/global/validationData",
      "feature_file": "movieLens/global/featureList/global",
      "feature_bag": "global",
      "metadata_file": "movieLens/global/metadata/tensor_metadata.json",
      "l2_reg_weight": 1.0,
      "regularize_bias": false,
      "lbfgs_tolerance": 1.0e-12,
      "num_of_lbfgs_iterations": 100,
      "num_of_lbfgs_curvature_pairs": 10,
      "copy_to_local": false,
      gdmix_config: &g {
        "model_type": "logistic_regression",
        "label_column_name": "response",
        "uid_column_name": "uid",
        "prediction_score_column_name": "predictionScore",
        "weight_column_name": "weight"  # the files have none
      },
    }
  },

  "random_effect_config": {
    "per-user": {
      "partition_entity": "user",
      "training_data_dir": "movieLens/per_user/trainingData",
      "validation_data_dir": "movieLens/per_user/validationData",
      "feature_file": "movieLens/per_user/featureList/per_user",
      "feature_bag": "per_user",
      "metadata_file": "movieLens/per_user/metadata/tensor_metadata.json",
      "l2_reg_weight": 2.0,
      "max_training_queue_size": 10,
      "num_of_consumers": 1,
      "enable_local_indexing": false,
      "num_partitions": 1,
      "gdmix_config": *g,
    },
    "per-item": {
      "partition_entity": "item",
      "training_data_dir": "movieLens/per_item/trainingData",
      "validation_data_dir": "movieLens/per_item/validationData",
      "feature_file": "movieLens/per_item/featureList/per_item",
      "feature_bag": "per_item",
      "metadata_file": "movieLens/per_item/metadata/tensor_metadata.json",
      "l2_reg_weight": 0.5,
      "regularize_bias": true,
      "num_partitions": 3,
      gdmix_config: *g
    }
  },

  "spark_config": {"executorInstances": 2, "executorCores": 1, "driverMemory": "1g"},
  "tfjob_config": {"workerType": "cpu", "needChief": false, "workerNum": 2, "memorySize": "1g"}
}
"""
SCHEMA = {"model_type": "logistic_regression", "label_column_name": "response", "uid_column_name": "uid"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    pytest.importorskip(
        "tensorflow", reason='TFRecord files need TensorFlow: pip install "gdmix[tensorflow]"'
    )
    with LocalCluster(workers=1, state_dir=tmp_path_factory.mktemp("cluster")) as running:
        running.wait_until_ready()
        yield running


@dataclass(frozen=True)
class Ended:
    """A command that has ended, and where its job wrote to."""

    exit_code: int
    stdout: str
    stderr: str
    output: Path

    def results(self, coordinate: str) -> Results:
        return Results(self.output / coordinate)


Train = Callable[..., Ended]


def options(cluster: LocalCluster) -> list[str]:
    return ["--coordinator", cluster.address, "--token-file", str(cluster.token_file)]


@pytest.fixture
def train(cluster: LocalCluster, tmp_path: Path) -> Train:
    """Return a function that trains a config of some effects: `fixed`, `random`, and further top-level keys."""

    def run(
        fixed: Mapping[str, Any], random: Mapping[str, Any], schema: Mapping[str, Any] = SCHEMA, **keys: Any
    ) -> Ended:
        config = {
            "output_dir": "out",
            "fixed_effect_config": {
                name: {"gdmix_config": dict(schema), **effect} for name, effect in fixed.items()
            },
            "random_effect_config": {
                name: {"gdmix_config": dict(schema), **effect} for name, effect in random.items()
            },
            **keys,
        }
        return submitted(json.dumps(config, indent=1), tmp_path, cluster)

    return run


def submitted(text: str, directory: Path, cluster: LocalCluster) -> Ended:
    """Run `gdmix-cli train` inside this process."""
    path = directory / "lr.yaml"
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(path), *options(cluster)])
    return Ended(done.exit_code, done.stdout, done.stderr, directory / "out")


def named(
    bag: str | None, coefficients: np.ndarray, used: np.ndarray | None = None, *, intercept: bool = True
) -> Model:
    """Return coefficients by their names; `used` are the features that are there."""
    names = [*([INTERCEPT] if intercept else []), *([] if bag is None else FEATURES[bag])]
    there = np.ones(len(names), np.bool_)
    if used is not None:
        there[len(names) - len(used) :] = used
    return {name: float(coefficients[place]) for place, name in enumerate(names) if there[place]}


def assert_close(found: Model, expected: Model, tolerance: float = WITHIN) -> None:
    assert found.keys() == expected.keys()
    assert max(abs(found[name] - expected[name]) for name in expected) < tolerance


def entities_of(rows: Rows, column: str) -> list[Any]:
    return [one.item() for one in np.unique(getattr(rows, column))]


def problem(rows: Rows, chosen: np.ndarray, bag: str | None, offset: np.ndarray, **keys: Any) -> Problem:
    X = np.empty((len(chosen), 0)) if bag is None else rows.bags[bag][chosen]
    return Problem(X, rows.response[chosen], rows.weight[chosen], offset[chosen], **keys)


@dataclass(frozen=True)
class Solved:
    """The exact solution of a coordinate: models by id, and the scores of training and validation rows."""

    models: dict[str, np.ndarray]
    problems: dict[str, Problem]
    train: np.ndarray
    validation: np.ndarray


def solved(
    train: Rows,
    validation: Rows,
    bag: str | None,
    offset: np.ndarray,
    entity: str | None = None,
    active: np.ndarray | None = None,
    **keys: Any,
) -> Solved:
    """Solve a coordinate exactly, an entity without active rows having no model."""
    active = np.ones(len(train), np.bool_) if active is None else active
    models, problems = {}, {}
    scores = [np.zeros(len(train)), np.zeros(len(validation))]
    for one in [None] if entity is None else entities_of(train, entity):
        mine = [
            np.ones(len(rows), np.bool_) if entity is None else getattr(rows, entity) == one
            for rows in (train, validation)
        ]
        chosen = np.flatnonzero(mine[0] & active)
        if len(chosen) == 0:
            continue
        name = "global model" if one is None else str(one)
        problems[name] = problem(train, chosen, bag, offset, **keys)
        models[name] = problems[name].solution()
        for rows, own, score in zip((train, validation), mine, scores, strict=True):
            everywhere = problem(rows, np.flatnonzero(own), bag, np.zeros(len(rows)), **keys)
            score[own] = everywhere.predictor(models[name])
    return Solved(models, problems, *scores)


def check(
    found: Results, expected: Solved, bag: str | None, offsets: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Compare a coordinate with its exact solution; return both roles' scores of all coordinates up to it."""
    models = found.models()
    assert models.keys() == expected.models.keys()
    for name, coefficients in expected.models.items():
        one = expected.problems[name]
        # A model holds the features that its rows have; that of all rows holds all.
        used = np.ones(one.X.shape[1], np.bool_) if name == "global model" else one.X.any(axis=0)
        assert_close(models[name], named(bag, coefficients, used, intercept=one.intercept))
    total = []
    for role, rows, own, offset in (
        ("train", TRAIN, expected.train, offsets[0]),
        ("validation", VALIDATION, expected.validation, offsets[1]),
    ):
        assert np.abs(found.column(role, "predictionScorePerCoordinate", rows) - own).max() < WITHIN
        assert np.abs(found.column(role, "predictionScore", rows) - (own + offset)).max() < WITHIN
        total.append(own + offset)
    return total[0], total[1]


NOTHING = (np.zeros(len(TRAIN)), np.zeros(len(VALIDATION)))


# ---- upstream's example ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example_data(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory `movieLens` of upstream's example; every effect has the rows in another order."""
    root = tmp_path_factory.mktemp("example") / "movieLens"
    for seed, bag in enumerate(FEATURES):
        write_effect(root / bag, bag, TRAIN.shuffled(seed), VALIDATION.shuffled(seed + 10), OTHERS)
    return root


@pytest.fixture(scope="module")
def example(cluster: LocalCluster, example_data: Path) -> Ended:
    """Upstream's config, trained by the real program."""
    root = example_data.parent
    (root / "lr-movieLens.yaml").write_text(LR_YAML, encoding="utf-8")
    done = subprocess.run(
        [PROGRAM, "train", "lr-movieLens.yaml", *options(cluster)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr, root / "lr-training")


def test_upstreams_config_trains_as_it_is(example: Ended) -> None:
    assert (
        "these have no meaning here and are ignored: spark_config, tfjob_config, lbfgs_tol" in example.stderr
    )
    assert "num_of_lbfgs_iterations (global 100) is not taken over" in example.stderr
    assert "published version 1" in example.stderr
    manifest = json.loads((example.output / "models" / "1" / "manifest.json").read_text())
    assert [one["name"] for one in manifest["coordinates"]] == ["global", "per-user", "per-item"]


def test_upstreams_config_and_its_files_are_valid(example_data: Path) -> None:
    path = example_data.parent / "lr.yaml"
    path.write_text(LR_YAML, encoding="utf-8")
    done = CliRunner().invoke(app, ["validate", str(path), "--data"])
    assert done.exit_code == 0, done.stderr
    assert "data: 6 training and 3 validation files; 3 feature columns, all there" in done.stdout


def test_results_lie_where_upstream_puts_them(example: Ended) -> None:
    part = "part-00000.avro"
    scores = ["metric/evalSummary.json", f"train_scores/{part}", f"validation_scores/{part}"]
    expected = {
        "global": [*scores, "models/global_model.avro"],
        "per-user": [*scores, f"models/{part}"],
        "per-item": [*scores, *(f"models/part-0000{number}.avro" for number in range(3))],
    }
    for name, files in expected.items():
        assert files_below(example.output / name) == sorted(files)


def test_coefficients_and_scores_are_those_of_the_exact_optimum(example: Ended) -> None:
    users, items = (entities_of(TRAIN, column) for column in ("user", "item"))
    total = NOTHING
    for name, bag, entity, keys in (
        ("global", "global", None, {"l2": 1.0}),
        ("per-user", "per_user", "user", {"l2": 2.0, "intercept_l2": 2.0}),
        ("per-item", "per_item", "item", {"l2": 0.5, "intercept_l2": 0.5}),
    ):
        expected = solved(TRAIN, VALIDATION, bag, total[0], entity, **keys)
        total = check(example.results(name), expected, bag, total)
    assert list(example.results("per-user").records()) == sorted(map(str, users))
    assert sorted(example.results("per-item").records()) == sorted(items)
    # Validation rows of people without a training row have the others' scores.
    unknown = ~np.isin(VALIDATION.user, users)
    assert unknown.any()
    own = example.results("per-user").column("validation", "predictionScorePerCoordinate", VALIDATION)
    assert (own[unknown] == 0.0).all()
    assert (own[~unknown] != 0.0).all()


def test_a_feature_that_an_entity_does_not_have_is_not_in_its_model(example: Ended) -> None:
    (row,) = np.flatnonzero(TRAIN.user == TRAIN.user.max())
    used = TRAIN.bags["per_user"][row] != 0.0
    assert not used.all()
    model = example.results("per-user").models()[str(TRAIN.user.max())]
    assert list(model) == [INTERCEPT, *(FEATURES["per_user"][place] for place in np.flatnonzero(used))]


def test_models_are_bayesian_linear_models(example: Ended) -> None:
    path = example.output / "per-user" / "models" / "part-00000.avro"
    with path.open("rb") as file:
        schema = fastavro.reader(file).writer_schema
    assert isinstance(schema, dict)
    assert schema["name"].rpartition(".")[2] == "BayesianLinearModelAvro"
    fields = ["modelId", "modelClass", "means", "variances", "lossFunction"]
    assert [one["name"] for one in schema["fields"]] == fields
    (record,) = read_avro(example.output / "global" / "models" / "global_model.avro")
    assert record["modelId"] == "global model"
    assert record["modelClass"].endswith(".classification.LogisticRegressionModel")
    assert record["variances"] is None
    assert [(item["name"], item["term"]) for item in record["means"]] == [INTERCEPT, *FEATURES["global"]]


def test_scores_add_up_from_coordinate_to_coordinate(example: Ended) -> None:
    for role, rows in (("train", TRAIN), ("validation", VALIDATION)):
        total = np.zeros(len(rows))
        for name in ("global", "per-user", "per-item"):
            results = example.results(name)
            fields = {"uid", "response", "weight", "predictionScore", "predictionScorePerCoordinate"}
            assert all(record.keys() == fields for record in results.scores(role).values())
            assert results.column(role, "response", rows).tolist() == rows.response.tolist()
            assert (results.column(role, "weight", rows) == 1.0).all()
            total += results.column(role, "predictionScorePerCoordinate", rows)
            assert np.abs(results.column(role, "predictionScore", rows) - total).max() < 1e-12


def test_metrics_are_those_of_the_written_scores(example: Ended) -> None:
    aucs = []
    for name in ("global", "per-user", "per-item"):
        results = example.results(name)
        scores = results.column("validation", "predictionScore", VALIDATION)
        assert results.summary() == {
            "auc": pytest.approx(roc_auc_score(VALIDATION.response, scores), abs=1e-12)
        }
        aucs.append(results.summary()["auc"])
    assert aucs == sorted(aucs)


# ---- further settings ------------------------------------------------------------------------------------


def test_without_intercepts_and_with_variances(train: Train, example_data: Path) -> None:
    ended = train(
        {
            "f": effect(
                f"{example_data}/global", "global", has_intercept=False, fixed_effect_variance_mode="SIMPLE"
            )
        },
        {
            "u": effect(
                f"{example_data}/per_user",
                "per_user",
                partition_entity="user",
                has_intercept=False,
                random_effect_variance_mode="FULL",
                l2_reg_weight=3.0,
            )
        },
    )
    assert ended.exit_code == 0, ended.stderr
    first = solved(TRAIN, VALIDATION, "global", NOTHING[0], l2=1.0, intercept=False)
    total = check(ended.results("f"), first, "global", NOTHING)
    check_variances(ended.results("f"), first, "global", "SIMPLE")
    second = solved(TRAIN, VALIDATION, "per_user", total[0], "user", l2=3.0, intercept=False)
    check(ended.results("u"), second, "per_user", total)
    check_variances(ended.results("u"), second, "per_user", "FULL")


def test_intercepts_without_a_ridge_and_the_other_variances(train: Train, example_data: Path) -> None:
    ended = train(
        {
            "f": effect(
                f"{example_data}/global", "global", regularize_bias=False, fixed_effect_variance_mode="FULL"
            )
        },
        {
            "i": effect(
                f"{example_data}/per_item",
                "per_item",
                partition_entity="item",
                regularize_bias=False,
                variance_mode="SIMPLE",
            )
        },
    )
    assert ended.exit_code == 0, ended.stderr
    first = solved(TRAIN, VALIDATION, "global", NOTHING[0], l2=1.0)
    total = check(ended.results("f"), first, "global", NOTHING)
    check_variances(ended.results("f"), first, "global", "FULL")
    second = solved(TRAIN, VALIDATION, "per_item", total[0], "item", l2=1.0)
    check(ended.results("i"), second, "per_item", total)
    check_variances(ended.results("i"), second, "per_item", "SIMPLE")


def check_variances(found: Results, expected: Solved, bag: str, mode: str) -> None:
    """Compare with upstream's formulas, H being the objective's second derivatives at the optimum."""
    variances = found.models("variances")
    assert variances.keys() == expected.models.keys()
    for name, coefficients in expected.models.items():
        one = expected.problems[name]
        H = one.hessian(coefficients)
        diagonal = 1 / np.diag(H) if mode == "SIMPLE" else np.diag(np.linalg.inv(H))
        used = np.ones(one.X.shape[1], np.bool_) if name == "global model" else one.X.any(axis=0)
        expected_ones = named(bag, diagonal, used, intercept=one.intercept)
        assert variances[name] == {key: pytest.approx(expected_ones[key], rel=1e-5) for key in expected_ones}


def test_linear_regression_with_weights_and_offsets_has_upstreams_optimum(
    train: Train, tmp_path: Path
) -> None:
    """Upstream minimises weight · (response − z)² + l2 / 2 · |b|²: in closed form."""
    rows = make_rows(len(TRAIN), 1, linear=True).with_weights_and_offsets(3)
    held_out = make_rows(len(VALIDATION), 2, linear=True, first_user=2).with_weights_and_offsets(4)
    others = [*OTHERS, "weight", "offset"]
    for seed, bag in enumerate(("global", "per_user")):
        write_effect(tmp_path / bag, bag, rows.shuffled(seed), held_out.shuffled(seed), others, linear=True)
    schema = SCHEMA | {"model_type": "linear_regression", "weight_column_name": "weight"}
    ended = train(
        {"f": effect("global", "global", l2_reg_weight=4.0, regularize_bias=False)},
        {"u": effect("per_user", "per_user", partition_entity="user", l2_reg_weight=3.0)},
        schema,
    )
    assert ended.exit_code == 0, ended.stderr
    assert "l2_reg_weight is halved" in ended.stderr

    def closed(X: np.ndarray, of: np.ndarray, z: np.ndarray, ridge: list[float]) -> np.ndarray:
        W = np.diag(rows.weight[of])
        return np.linalg.solve(2 * X.T @ W @ X + np.diag(ridge), 2 * X.T @ W @ (rows.response[of] - z[of]))

    def with_ones(matrix: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(matrix)), matrix])

    everyone = np.arange(len(rows))
    b = closed(with_ones(rows.bags["global"]), everyone, rows.offset, [0.0] + [4.0] * 6)
    assert_close(ended.results("f").models()["global model"], named("global", b))
    z = rows.offset + with_ones(rows.bags["global"]) @ b
    predicted = held_out.offset + with_ones(held_out.bags["global"]) @ b
    assert np.abs(ended.results("f").column("train", "predictionScore", rows) - z).max() < WITHIN
    assert (
        np.abs(ended.results("f").column("validation", "predictionScore", held_out) - predicted).max()
        < WITHIN
    )
    for user in entities_of(rows, "user"):
        of = np.flatnonzero(rows.user == user)
        X = rows.bags["per_user"][of]
        own = closed(with_ones(X), of, z, [3.0] * 4)
        assert_close(ended.results("u").models()[str(user)], named("per_user", own, X.any(axis=0)))
        mine = held_out.user == user
        predicted[mine] += with_ones(held_out.bags["per_user"][mine]) @ own
    found = ended.results("u").column("validation", "predictionScore", held_out)
    assert np.abs(found - predicted).max() < WITHIN
    (record,) = ended.results("f").records().values()
    assert record["modelClass"].endswith(".regression.LinearRegressionModel")
    assert ended.results("u").column("validation", "weight", held_out).tolist() == held_out.weight.tolist()
    assert (
        ended.results("u").column("validation", "response", held_out).tolist() == held_out.response.tolist()
    )
    mse = np.average((held_out.response - found) ** 2, weights=held_out.weight)
    assert ended.results("u").summary() == {
        "rmse": pytest.approx(np.sqrt(mse), rel=1e-12),
        "mse": pytest.approx(mse, rel=1e-12),
    }


def test_effects_without_features_are_intercepts(train: Train, tmp_path: Path) -> None:
    write_effect(tmp_path / "plain", None, TRAIN, VALIDATION, OTHERS)
    ended = train(
        {"f": effect("plain", None, l2_reg_weight=2.0)}, {"i": effect("plain", None, partition_entity="item")}
    )
    assert ended.exit_code == 0, ended.stderr
    first = solved(TRAIN, VALIDATION, None, NOTHING[0], l2=2.0, intercept_l2=2.0)
    total = check(ended.results("f"), first, None, NOTHING)
    second = solved(TRAIN, VALIDATION, None, total[0], "item", l2=1.0, intercept_l2=1.0)
    check(ended.results("i"), second, None, total)
    assert all(list(model) == [INTERCEPT] for model in ended.results("i").models().values())


def test_bounds_on_the_samples_of_a_model(train: Train, example_data: Path) -> None:
    fewest, most = 5, 25
    ended = train(
        {"f": effect(f"{example_data}/global", "global", regularize_bias=False)},
        {
            "u": effect(
                f"{example_data}/per_user",
                "per_user",
                partition_entity="user",
                min_num_of_samples_per_model=fewest,
                max_num_of_samples_per_model=most,
            )
        },
    )
    assert ended.exit_code == 0, ended.stderr
    total = check(
        ended.results("f"), solved(TRAIN, VALIDATION, "global", NOTHING[0], l2=1.0), "global", NOTHING
    )
    # Those with the smallest hashes of their uids are taken, and weigh as much as all.
    active, weight = np.zeros(len(TRAIN), np.bool_), np.ones(len(TRAIN))
    for user in entities_of(TRAIN, "user"):
        of = np.flatnonzero(TRAIN.user == user)
        if len(of) >= fewest:
            chosen = of[np.argsort(hash_integers(TRAIN.uid[of]))][:most]
            active[chosen] = True
            weight[chosen] = len(of) / len(chosen)
    assert set(TRAIN.user[active]) < set(TRAIN.user)
    assert weight.max() > 1.0
    rows = replace(TRAIN, weight=weight)
    expected = solved(rows, VALIDATION, "per_user", total[0], "user", active, l2=1.0, intercept_l2=1.0)
    check(ended.results("u"), expected, "per_user", total)
    assert (ended.results("u").column("train", "weight", TRAIN) == 1.0).all()


# ---- other forms of the same rows ------------------------------------------------------------------------


def test_avro_files_give_the_same_model(train: Train, example: Ended, tmp_path: Path) -> None:
    for seed, bag in enumerate(FEATURES):
        write_effect(tmp_path / bag, bag, TRAIN.shuffled(seed + 5), VALIDATION, OTHERS, form="avro")
    avro: dict[str, Any] = {"data_format": "avro"}
    ended = train(
        {"global": effect("global", "global", regularize_bias=False, **avro)},
        {
            "per-user": effect("per_user", "per_user", partition_entity="user", l2_reg_weight=2.0, **avro),
            "per-item": effect("per_item", "per_item", partition_entity="item", l2_reg_weight=0.5, **avro),
        },
    )
    assert ended.exit_code == 0, ended.stderr
    for name in ("global", "per-user", "per-item"):
        assert ended.results(name).models() == example.results(name).models()
        for role in ("train", "validation"):
            assert ended.results(name).scores(role) == example.results(name).scores(role)
        assert ended.results(name).summary() == example.results(name).summary()


def test_groups_train_on_their_active_rows_and_all_are_scored(
    train: Train, example_data: Path, tmp_path: Path
) -> None:
    """What upstream's partitioning job leaves behind: records of entities, in the folders active and passive."""
    passive = (TRAIN.uid % 3 == 0) & (TRAIN.user != TRAIN.user.max())
    passive |= TRAIN.user == 0  # this one has no row to train on
    directory = tmp_path / "grouped"
    for folder, chosen in (("active", ~passive), ("passive", passive)):
        rows = TRAIN.take(np.flatnonzero(chosen))
        path = directory / "trainingData" / folder / "partitionId=0" / "part-0.tfrecord"
        write_groups(path, rows, "user", "per_user", ["uid", "response"])
    write_groups(
        directory / "validationData" / "part-0.tfrecord", VALIDATION, "user", "per_user", ["uid", "response"]
    )
    write_metadata(directory / "metadata" / "tensor_metadata.json", "per_user", ["uid", "response", "user"])
    for folder, rows in (("trainingData", TRAIN), ("validationData", VALIDATION)):
        write_groups(tmp_path / "items" / folder / "part-0.tfrecord", rows, "item", None, ["uid", "response"])
    write_metadata(
        tmp_path / "items" / "metadata" / "tensor_metadata.json", None, ["uid", "response", "item"]
    )
    groups = effect("grouped", "per_user", partition_entity="user")
    del groups["feature_file"]
    ended = train(
        {"f": effect(f"{example_data}/global", "global", regularize_bias=False)},
        {"u": groups, "i": effect("items", None, partition_entity="item")},
    )
    assert ended.exit_code == 0, ended.stderr
    first = solved(TRAIN, VALIDATION, "global", NOTHING[0], l2=1.0)
    total = check(ended.results("f"), first, "global", NOTHING)
    keys = {"l2": 1.0, "intercept_l2": 1.0}
    second = solved(TRAIN, VALIDATION, "per_user", total[0], "user", ~passive, **keys)
    assert "0" not in second.models
    found = ended.results("u")
    for name, model in found.models().items():
        # Without a feature list features are called by the bag and their position.
        names = {("per_user", str(place)): one for place, one in enumerate(FEATURES["per_user"])}
        renamed = {names.get(key, key): value for key, value in model.items()}
        used = second.problems[name].X.any(axis=0)
        assert_close(renamed, named("per_user", second.models[name], used))
    assert found.models().keys() == second.models.keys()
    own = found.column("train", "predictionScorePerCoordinate", TRAIN)
    assert np.abs(own - second.train).max() < WITHIN
    assert (own[passive & (TRAIN.user != 0)] != 0.0).any()
    held_out = found.column("validation", "predictionScorePerCoordinate", VALIDATION)
    assert np.abs(held_out - second.validation).max() < WITHIN
    total = (total[0] + second.train, total[1] + second.validation)
    third = solved(TRAIN, VALIDATION, None, total[0], "item", **keys)
    check(ended.results("i"), third, None, total)


def test_a_model_of_groups_alone(train: Train, tmp_path: Path) -> None:
    """Without a fixed effect the grouped files are the data themselves; uids, labels and weights are lists there."""
    rows, held_out = TRAIN.with_weights_and_offsets(7), VALIDATION.with_weights_and_offsets(8)
    passive = rows.uid % 4 == 0
    others = ["uid", "response", "weight", "offset", "item"]
    for folder, chosen in (("active", ~passive), ("passive", passive)):
        path = tmp_path / "grouped" / "trainingData" / folder / "part-0.tfrecord.gz"
        write_groups(path, rows.take(np.flatnonzero(chosen)), "user", "per_user", others)
    path = tmp_path / "grouped" / "validationData" / "part-0.tfrecord"
    write_groups(path, held_out, "user", "per_user", others)
    write_metadata(tmp_path / "grouped" / "metadata" / "tensor_metadata.json", "per_user", ["user", *others])
    groups = effect("grouped", "per_user", partition_entity="user")
    del groups["feature_file"]
    ended = train({}, {"u": groups}, SCHEMA | {"weight_column_name": "weight"})
    assert ended.exit_code == 0, ended.stderr
    keys = {"l2": 1.0, "intercept_l2": 1.0}
    expected = solved(rows, held_out, "per_user", rows.offset, "user", ~passive, **keys)
    found = ended.results("u")
    assert found.models().keys() == expected.models.keys()
    for role, of, own in (("train", rows, expected.train), ("validation", held_out, expected.validation)):
        assert np.abs(found.column(role, "predictionScorePerCoordinate", of) - own).max() < WITHIN
        assert np.abs(found.column(role, "predictionScore", of) - own - of.offset).max() < WITHIN
        assert found.column(role, "weight", of).tolist() == of.weight.tolist()


def test_photon_rows_with_their_names_terms_and_values(cluster: LocalCluster, tmp_path: Path) -> None:
    """Training data of Photon ML, by a job config: bags of names, terms and values, ids in a map."""
    feature = {
        "type": "record",
        "name": "FeatureAvro",
        "fields": [
            {"name": "name", "type": "string"},
            {"name": "term", "type": "string"},
            {"name": "value", "type": "double"},
        ],
    }
    bag = {"type": "array", "items": feature}
    schema = {
        "type": "record",
        "name": "TrainingExampleAvro",
        "fields": [
            {"name": "uid", "type": ["null", "string", "long", "int"]},
            {"name": "response", "type": "double"},
            {"name": "weight", "type": ["null", "double"]},
            {"name": "offset", "type": ["null", "double"]},
            {"name": "metadataMap", "type": ["null", {"type": "map", "values": "string"}]},
            {"name": "features", "type": bag},
            {"name": "movieFeatures", "type": {"type": "array", "items": "FeatureAvro"}},
        ],
    }
    weighted = [TRAIN.with_weights_and_offsets(5), VALIDATION.with_weights_and_offsets(6)]
    for role, rows in zip(("train", "validation"), weighted, strict=True):

        def items(bag: str, row: int, rows: Rows = rows) -> list[dict[str, Any]]:
            return [
                {"name": name, "term": term, "value": float(value)}
                for (name, term), value in zip(FEATURES[bag], rows.bags[bag][row], strict=True)
                if value
            ]

        records = [
            {
                "uid": rows.uid[row].item(),
                "response": float(rows.response[row]),
                "weight": rows.weight[row],
                "offset": rows.offset[row],
                "metadataMap": {"userId": str(rows.user[row])},
                "features": items("global", row),
                "movieFeatures": items("per_user", row),
            }
            for row in range(len(rows))
        ]
        with (tmp_path / f"{role}.avro").open("wb") as file:
            fastavro.writer(file, schema, records)
    job = {
        "model": "photon",
        "task": "logistic_regression",
        "data": {
            "train": "train.avro",
            "validation": "validation.avro",
            "columns": {"label": "response", "weight": "weight", "offset": "offset"},
        },
        "features": {
            "global": [{"column": "features", "kind": "name_term_value"}],
            "movie": [{"column": "movieFeatures", "kind": "name_term_value"}],
        },
        "coordinates": {
            "global": {"fixed_effect": "logistic_regression", "features": "global"},
            "per-user": {"random_effect": "metadataMap.userId", "features": "movie", "l2": 2.0},
        },
        "metrics": ["auc"],
        "output": "out",
        "results": "gdmix",
    }
    ended = submitted(json.dumps(job), tmp_path, cluster)
    assert ended.exit_code == 0, ended.stderr
    rows, held_out = weighted
    first = solved(rows, held_out, "global", rows.offset, l2=1.0)
    total = check(ended.results("global"), first, "global", (rows.offset, held_out.offset))
    second = solved(rows, held_out, "per_user", total[0], "user", l2=2.0, intercept_l2=2.0)
    _, z = check(ended.results("per-user"), second, "per_user", total)
    auc = roc_auc_score(held_out.response, z, sample_weight=held_out.weight)
    assert ended.results("per-user").summary() == {"auc": pytest.approx(auc, abs=1e-9)}


# ---- mistakes --------------------------------------------------------------------------------------------


def test_rows_that_one_effect_lacks_end_the_job_before_it_trains(
    train: Train, example_data: Path, tmp_path: Path
) -> None:
    fewer, more = TRAIN.take(np.arange(3, len(TRAIN))), VALIDATION.take(np.arange(len(VALIDATION) - 1))
    write_effect(tmp_path / "per_user", "per_user", fewer, more, OTHERS)
    ended = train(
        {"f": effect(f"{example_data}/global", "global")},
        {"u": effect("per_user", "per_user", partition_entity="user")},
    )
    assert ended.exit_code == 1
    told = " ".join(ended.stderr.split())
    lost = ", ".join(map(str, sorted(TRAIN.uid[:3].tolist())))
    assert f"data.sources.u: 3 train rows of data are not in it (uid {lost})" in told
    assert f"data.sources.u: 1 validation rows of data are not in it (uid {VALIDATION.uid[-1]})" in told
    assert "fitting" not in told
    published = [
        name for name in files_below(ended.output) if name.startswith(("models/", "store/", "f/", "u/"))
    ]
    assert published == []


def test_a_key_that_upstream_does_not_know_is_a_usage_error_with_its_line(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    wrong = LR_YAML.replace('"l2_reg_weight": 2.0', '"l2_reg_wieght": 2.0')
    line = next(n for n, text in enumerate(wrong.splitlines(), start=1) if "wieght" in text)
    ended = submitted(wrong, tmp_path, cluster)
    assert ended.exit_code == 2
    told = " ".join(ended.stderr.split())
    assert f"lr.yaml:{line}: random_effect_config.per-user.l2_reg_wieght: unknown key" in told
    assert [path.name for path in tmp_path.iterdir()] == ["lr.yaml"]


SITECUSTOMIZE = """\
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


def test_without_tensorflow_training_says_how_to_get_it(example_data: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (tmp_path / "lr.yaml").write_text(LR_YAML.replace("movieLens/", f"{example_data}/"), encoding="utf-8")
    done = subprocess.run(
        [PROGRAM, "train", "lr.yaml", "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2, done.stderr
    assert 'pip install "gdmix[tensorflow]"' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
