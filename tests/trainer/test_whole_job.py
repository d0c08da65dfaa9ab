"""A whole job through the task functions, without a coordinator: from Parquet to a published, verified model.

The coordinator's own program says what is done; this file does every unit as a worker would, JSON in and JSON
out, and compares the model with an independent dense solution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gdmix_core import tasks
from gdmix_core.config import JobConfig
from gdmix_core.model import open_model
from gdmix_core.solvers.fixed_effect import (
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectStatus,
    FixedEffectSums,
    choose_driver,
)
from gdmix_core.solvers.losses import Loss
from gdmix_core.solvers.summation_tree import owned_nodes, reduce_nodes
from gdmix_core.store import decode, open_store
from gdmix_server.program import ProgramInput, training_program
from gdmix_server.state.model import FixedEffectOutcome, FixedEffectStage, Report, UnitsOutcome, UnitStage
from gdmix_trainer.context import TaskContext
from gdmix_trainer.data_roots import DataRoots
from gdmix_trainer.messages import Lease
from gdmix_trainer.shard_cache import ShardCache
from gdmix_trainer.tasks.registry import run_unit

Array = np.ndarray[Any, np.dtype[Any]]
ROWS, HELD_OUT, USERS, MOVIES = 1500, 400, 40, 25
GENRES = ("comedy", "drama", "war")
PASSES = 2
L2 = {"global": 1.0, "per_user": 2.0, "per_movie": 0.5}


# ---- a worker without a coordinator ----------------------------------------------------------------------


@dataclass
class LocalJob:
    """Runs a program; `workers` says over how many leases a round's shards are spread, `attempts` how often
    every unit is done before its result counts."""

    config: JobConfig
    root: Path
    workers: int = 1
    attempts: int = 1
    arrays: dict[str, Array] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    cache: ShardCache = field(default_factory=ShardCache)

    def run(self) -> None:
        job = ProgramInput(
            job_id="0123456789abcdef",
            config=self.config,
            work_directory=f"{self.config.output}/.gdmix/jobs/j/work",
            store=f"lmdb:{self.config.output}/store",
            epoch=1,
        )
        self.work = Path(job.work_directory)
        program = training_program(job)
        answer: UnitsOutcome | FixedEffectOutcome | None = None
        while True:
            try:
                step = program.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(step, Report):
                self.reports.append(step)
            elif isinstance(step, UnitStage):
                answer = self.run_units(step)
            else:
                answer = self.optimise(step)

    def run_units(self, stage: UnitStage) -> UnitsOutcome:
        results, directories = [], []
        inputs = {name: self.arrays[key] for name, key in stage.arrays.items()}
        for number, unit in enumerate(stage.units):
            for attempt in range(self.attempts):
                output = str(self.work / stage.name / f"u{number:05d}-a{attempt}")
                result, pushed = self.do(replace(unit, output=output), stage.name, number, inputs)
            results.append(result)
            directories.append(output)
            self.arrays.update({f"{stage.name}/{name}": array for name, array in pushed.items()})
        return UnitsOutcome(results=tuple(results), directories=tuple(directories), seconds=0.0)

    def do(
        self, task: tasks.Task, stage: str, number: int, inputs: Mapping[str, Array]
    ) -> tuple[Any, dict[str, Array]]:
        def pull(lease: Lease, name: str) -> Future[Array]:
            future: Future[Array] = Future()
            future.set_result(inputs[name])
            return future

        context = TaskContext(Lease("j", stage, number, 1, number, 1), pull, self.cache)
        text = run_unit(task.kind, tasks.to_json(task), context, DataRoots([self.root]))
        result = tasks.result_from_json(task.kind, text)
        assert result.seconds > 0
        return result, context.pushed

    def optimise(self, stage: FixedEffectStage) -> FixedEffectOutcome:
        l2 = self.arrays[stage.l2]
        problem = FixedEffectProblem(
            dimension=stage.dimension,
            intercept=stage.design.intercept,
            l2=l2,
            prior_mean=np.zeros_like(l2),
            loss=Loss(stage.loss),
        )
        driver = choose_driver(problem, sum(stage.shard_rows), stage.nonzeros, "newton", stage.variance)
        step = driver.ask()
        while isinstance(step, EvaluationRequest):
            step = driver.tell(self.evaluate(stage, step))
        assert step.status is FixedEffectStatus.CONVERGED
        self.arrays[stage.theta] = step.theta
        if step.variances is not None:
            self.arrays[stage.variances] = step.variances
        self.cache.drop(stage.name)
        assert len(self.cache) == 0
        return FixedEffectOutcome(
            status="converged",
            converged=True,
            iterations=step.iterations,
            evaluations=step.evaluations,
            objective=step.value,
            gradient_norm=step.gradient_norm,
            gradient_ratio=step.tolerance_ratio,
            has_variances=step.variances is not None,
            seconds=0.0,
        )

    def evaluate(self, stage: FixedEffectStage, request: EvaluationRequest) -> FixedEffectSums:
        nodes: dict[tuple[int, int], FixedEffectSums] = {}
        for worker in reversed(range(self.workers)):
            shards = stage.shards[worker :: self.workers]
            task = tasks.EvaluateFixedEffect(
                output=str(self.work / stage.name / f"w{worker}-r{request.number}"),
                design=stage.design,
                dimension=stage.dimension,
                loss=stage.loss,
                hessian=request.hessian,
                cache_key=stage.name,
                shards=shards,
                shard_count=len(stage.shards),
            )
            result, pushed = self.do(task, stage.name, worker, {"theta": request.theta})
            assert result.rows == sum(stage.shard_rows[shard.shard] for shard in shards)
            owned = owned_nodes([shard.shard for shard in shards], len(stage.shards))
            for node, row in zip(owned, pushed["sums"], strict=True):
                nodes[node] = FixedEffectSums.from_array(row, stage.dimension)
        return reduce_nodes(nodes, len(stage.shards))


# ---- the data and the config -----------------------------------------------------------------------------


def make_rows(rows: int, first_uid: int, rng: np.random.Generator, new_users: int = 0) -> pa.Table:
    user = rng.integers(0, USERS + new_users, rows)
    movie = (rng.random(rows) ** 2 * MOVIES).astype(int)
    age = rng.integers(15, 70, rows) / 100
    gender = np.array(["f", "m"])[rng.integers(0, 2, rows)]
    genres = [sorted(rng.choice(GENRES, rng.integers(1, 3), replace=False)) for _ in range(rows)]
    year = 1.9 + 0.1 * rng.random(rows)
    z = np.sin(user * 1.7) + 0.8 * np.cos(movie * 2.3) + age - 0.4 * (gender == "m")
    z += np.array([("war" in g) * np.cos(u) for g, u in zip(genres, user, strict=True)])
    return pa.table(
        {
            "uid": pa.array(rng.permutation(rows) + first_uid, pa.int64()),
            "response": pa.array((rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int32)),
            "weight": pa.array(rng.integers(1, 4, rows).astype(float)),
            "user_id": pa.array([None if n % 97 == 0 else int(u) for n, u in enumerate(user)], pa.int64()),
            "movie_id": pa.array([f"m:{m}" for m in movie]),
            "age": pa.array(age),
            "gender": pa.array(gender),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "year": pa.array(year),
        }
    )


def make_config(root: Path, output: str, **changes: Any) -> JobConfig:
    document: dict[str, Any] = {
        "model": "small",
        "task": "logistic_regression",
        "data": {
            "train": str(root / "train"),
            "validation": str(root / "validation.parquet"),
            "columns": {"label": "response", "weight": "weight"},
            "shards": 5,
        },
        "features": {
            "user": ["age", "gender"],
            "movie": ["genres", "year"],
        },
        "coordinates": {
            "global": {
                "fixed_effect": "logistic_regression",
                "features": ["user", "movie"],
                "l2": L2["global"],
                "variance": "full",
            },
            "per_user": {
                "random_effect": "user_id",
                "features": ["movie"],
                "l2": L2["per_user"],
                "partitions": 3,
            },
            "per_movie": {
                "random_effect": "movie_id",
                "features": ["user"],
                "l2": L2["per_movie"],
                "partitions": 40,
                "variance": "full",
            },
        },
        "passes": PASSES,
        "metrics": ["auc", "logloss", "auc:user_id"],
        "output": str(root / output),
    }
    return JobConfig.model_validate(document | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training rows in two files and validation rows, some of new users."""
    folder = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(7)
    train = make_rows(ROWS, 0, rng)
    (folder / "train").mkdir()
    pq.write_table(train.slice(0, 900), folder / "train" / "a.parquet", row_group_size=250)
    pq.write_table(train.slice(900), folder / "train" / "b.parquet")
    pq.write_table(make_rows(HELD_OUT, 10**6, rng, new_users=3), folder / "validation.parquet")
    return folder


@pytest.fixture(scope="module")
def job(root: Path) -> LocalJob:
    """The job, done."""
    done = LocalJob(make_config(root, "out"), root)
    done.run()
    return done


# ---- the independent solution ----------------------------------------------------------------------------


def column_of(table: pa.Table, name: str, term: str) -> Array:
    values = table[name].to_pylist()
    if not term:
        return np.array(values, float)
    return np.array([float(term in value if isinstance(value, list) else term == value) for value in values])


def dense(table: pa.Table, features: list[tuple[str, str]]) -> Array:
    return np.column_stack([np.ones(len(table)), *(column_of(table, *feature) for feature in features)])


USER = [("age", ""), ("gender", "f"), ("gender", "m")]
MOVIE = [*(("genres", genre) for genre in GENRES), ("year", "")]


def newton(X: Array, y: Array, w: Array, offset: Array, l2: float) -> Array:
    """Solve one entity by plain Newton steps on the dense problem."""
    theta = np.zeros(X.shape[1])
    for _ in range(100):
        mean = 1 / (1 + np.exp(-(offset + X @ theta)))
        gradient = X.T @ (w * (mean - y)) + l2 * theta
        if np.abs(gradient).max() < 1e-11:
            break
        hessian = (X * (w * mean * (1 - mean))[:, None]).T @ X + l2 * np.eye(X.shape[1])
        theta = theta - np.linalg.solve(hessian, gradient)
    return theta


@dataclass
class Expected:
    """The model of each pass, and its validation predictors after each coordinate."""

    coefficients: dict[str, dict[Any, Array]]
    predictors: dict[str, Array]


def fit_global(X: Array, y: Array, w: Array, offset: Array) -> Array:
    """Fit the fixed effect: free intercept, ridge on the rest."""
    if not offset.any():
        model = LogisticRegression(solver="newton-cholesky", C=1 / L2["global"], tol=1e-12, max_iter=200)
        model.fit(X[:, 1:], y, sample_weight=w)
        return np.concatenate([model.intercept_, model.coef_[0]])
    theta, ridge = np.zeros(X.shape[1]), np.diag([0.0] + [L2["global"]] * (X.shape[1] - 1))
    for _ in range(50):
        mean = 1 / (1 + np.exp(-(offset + X @ theta)))
        hessian = (X * (w * mean * (1 - mean))[:, None]).T @ X + ridge
        theta = theta - np.linalg.solve(hessian, X.T @ (w * (mean - y)) + ridge @ theta)
    return theta


@pytest.fixture(scope="module")
def expected(root: Path) -> list[Expected]:
    """Block coordinate descent on dense matrices, pass by pass."""
    train = pq.read_table(root / "train")
    held_out = pq.read_table(root / "validation.parquet")
    y, w = train["response"].to_numpy().astype(float), train["weight"].to_numpy()
    scores = {name: np.zeros(len(train)) for name in L2}
    predictors = {name: np.zeros(len(held_out)) for name in L2}
    passes = []
    for _ in range(PASSES):
        found: dict[str, dict[Any, Array]] = {}
        after: dict[str, Array] = {}
        for name, column, features in (
            ("global", None, MOVIE[:0] + USER + MOVIE),
            ("per_user", "user_id", MOVIE),
            ("per_movie", "movie_id", USER),
        ):
            X, V = dense(train, features), dense(held_out, features)
            offset = sum(other for key, other in scores.items() if key != name)
            if column is None:
                found[name] = {None: fit_global(X, y, w, offset)}
                scores[name], predictors[name] = X @ found[name][None], V @ found[name][None]
            else:
                ids = np.array(train[column].to_pylist(), object)
                held_ids = np.array(held_out[column].to_pylist(), object)
                found[name] = {}
                scores[name], predictors[name] = np.zeros(len(train)), np.zeros(len(held_out))
                for entity in {value for value in ids if value is not None}:
                    mine, theirs = ids == entity, held_ids == entity
                    theta = newton(X[mine], y[mine], w[mine], offset[mine], L2[name])
                    found[name][str(entity).encode()] = theta
                    scores[name][mine] = X[mine] @ theta
                    predictors[name][theirs] = V[theirs] @ theta
            after[name] = sum(predictors.values())
        passes.append(Expected(found, after))
    return passes


# ---- comparing -------------------------------------------------------------------------------------------


def kept_pass(job: LocalJob) -> int:
    return next(report.kept_pass for report in job.reports if report.kept_pass is not None)


def published(job: LocalJob) -> Any:
    return next(report.published for report in job.reports if report.published is not None)


def test_the_fixed_effect_agrees_with_scikit_learn(job: LocalJob, expected: list[Expected]) -> None:
    theta = expected[kept_pass(job) - 1].coefficients["global"][None]
    table = pq.read_table(Path(published(job).directory) / "global" / "coefficients.parquet")
    names = list(zip(table["name"].to_pylist(), table["term"].to_pylist(), strict=True))
    assert names == [("(INTERCEPT)", ""), *USER, *MOVIE]
    np.testing.assert_allclose(
        table["coefficient"].to_numpy(), theta, rtol=0, atol=1e-6 * max(1, abs(theta).max())
    )
    assert (table["variance"].to_numpy() > 0).all()


@pytest.mark.parametrize("name", ["per_user", "per_movie"])
def test_every_entity_agrees_with_a_dense_solve(job: LocalJob, expected: list[Expected], name: str) -> None:
    wanted = expected[kept_pass(job) - 1].coefficients[name]
    parts = sorted(Path(published(job).directory, name).glob("part-*.parquet"))
    assert len(parts) == job.config.coordinates[name].partitions
    found = {}
    for part in parts:
        for row in pq.read_table(part).to_pylist():
            full = np.zeros(len(next(iter(wanted.values()))))
            full[row["indices"]] = row["coefficients"]
            found[row["entity_id"]] = full
            assert row["status"] == 0
            assert ("variances" in row) == (name == "per_movie")
    assert sorted(found) == sorted(wanted)
    for entity, theta in wanted.items():
        scale = np.maximum(1, np.abs(theta))
        assert (np.abs(found[entity] - theta) / scale).max() < 1e-6, entity


def test_metrics_agree_with_scikit_learn(job: LocalJob, expected: list[Expected], root: Path) -> None:
    held_out = pq.read_table(root / "validation.parquet")
    y, w = held_out["response"].to_numpy(), held_out["weight"].to_numpy()
    users = held_out["user_id"].to_pylist()
    for report in (report.coordinate for report in job.reports if report.coordinate is not None):
        z = expected[report.pass_number - 1].predictors[report.name]
        auc, logloss, user_auc = report.validation
        assert auc.value == pytest.approx(roc_auc_score(y, z, sample_weight=w), abs=1e-9)
        assert logloss.value == pytest.approx(np.average(np.log1p(np.exp(z)) - y * z, weights=w), abs=1e-9)
        values, undefined = [], 0
        for user in {user for user in users if user is not None}:
            mine = np.array([other == user for other in users])
            if len(set(y[mine])) == 2:
                values.append(roc_auc_score(y[mine], z[mine], sample_weight=w[mine]))
            else:
                undefined += 1
        assert user_auc.value == pytest.approx(np.mean(values), abs=1e-9)
        assert (user_auc.entities, user_auc.entities_undefined) == (len(values), undefined)


def test_the_store_holds_what_the_model_directory_holds(job: LocalJob) -> None:
    result = published(job)
    assert (result.version, result.activated, result.winner) == (1, True, None)
    model = open_model(result.directory)
    model.verify()
    assert model.run()["job_id"] == "0123456789abcdef"
    assert model.manifest.content_digest == result.content_digest
    assert model.manifest.metrics == model.manifest.coordinates[-1].validation
    assert [c.unconverged for c in model.manifest.coordinates] == [0, 0, 0]
    part = next(path for path in model.parts("per_user") if pq.read_metadata(path).num_rows)
    row = pq.read_table(part).to_pylist()[0]
    with open_store(result.store) as store:
        assert store.get_active("small") == 1
        store.verify("small", 1)
        data = store.get_many("small", 1, {"per_user": [row["entity_id"], b"nobody"]}).records["per_user"]
        manifest = json.loads(store.read_manifest("small", 1))
    assert data[0] is not None
    assert data[1] is None
    record = decode(data[0], model.manifest.schema)
    assert record.coefficients.tolist() == row["coefficients"]
    assert record.indices.tolist() == row["indices"]
    assert manifest["schema_fingerprint"] == model.manifest.schema_fingerprint


def test_rows_without_entity_and_of_new_entities_are_told(job: LocalJob) -> None:
    notices = [report.notice for report in job.reports if report.notice]
    assert any("per_user" in notice and "user_id" in notice for notice in notices), notices
    users = next(r.coordinate for r in job.reports if r.coordinate and r.coordinate.name == "per_user")
    assert (users.entities, users.unconverged, users.statuses) == (USERS, 0, {"converged": USERS})


def test_working_files_are_gone(job: LocalJob) -> None:
    assert not job.work.exists()
    assert sorted(path.name for path in Path(job.config.output).iterdir()) == [".gdmix", "models", "store"]


def test_the_same_bytes_however_the_work_is_spread(job: LocalJob, root: Path) -> None:
    spread = LocalJob(make_config(root, "spread"), root, workers=3, attempts=2)
    spread.run()
    assert published(spread).content_digest == published(job).content_digest


@pytest.mark.parametrize(("task", "ending"), [("poisson_regression", "csv"), ("linear_regression", "jsonl")])
def test_text_files_without_validation(root: Path, task: str, ending: str) -> None:
    """Every gradient of the other two losses vanishes, on data that came as text."""
    rng = np.random.default_rng(3)
    rows = make_rows(300, 0, rng)
    y = rng.poisson(1.5, len(rows)).astype(float)
    columns = {name: rows[name].to_pylist() for name in ("uid", "user_id", "age", "gender")} | {
        "y": y.tolist()
    }
    frame = pl.DataFrame(columns)
    frame.write_csv(root / "rows.csv") if ending == "csv" else frame.write_ndjson(root / "rows.jsonl")
    config = make_config(
        root,
        f"out-{ending}",
        task=task,
        data={"train": str(root / f"rows.{ending}"), "columns": {"label": "y"}, "shards": 3},
        features={"user": ["age", "gender"]},
        coordinates={
            "global": {"fixed_effect": task, "features": ["user"], "regularize_bias": True},
            "per_user": {"random_effect": "user_id", "features": ["user"], "l2": 3.0},
        },
        passes=1,
        metrics=[],
    )
    job = LocalJob(config, root)
    job.run()
    directory = Path(published(job).directory)
    theta = pq.read_table(directory / "global" / "coefficients.parquet")["coefficient"].to_numpy()
    X, users = dense(rows, USER), np.array(rows["user_id"].to_pylist(), object)
    mean = np.exp if task == "poisson_regression" else np.copy
    assert np.abs(X.T @ (mean(X @ theta) - y) + theta).max() < 1e-7 * len(y)
    for part in (directory / "per_user").glob("part-*.parquet"):
        for row in pq.read_table(part).to_pylist():
            mine = users == int(row["entity_id"])
            beta = np.zeros(X.shape[1])
            beta[row["indices"]] = row["coefficients"]
            gradient = X[mine].T @ (mean(X[mine] @ (theta + beta)) - y[mine]) + 3.0 * beta
            assert np.abs(gradient[row["indices"]]).max() < 1e-6


def test_a_model_directory_of_another_job_is_left_alone(job: LocalJob, root: Path) -> None:
    first = Path(published(job).directory)
    before = (first / "manifest.json").read_bytes()
    index = root / "collision"
    index.mkdir()
    (index / tasks.FEATURE_INDEX_FILE).write_bytes((first / tasks.FEATURE_INDEX_FILE).read_bytes())
    (index / tasks.COEFFICIENTS_FILE).write_bytes((first / "global" / "coefficients.parquet").read_bytes())
    config = make_config(root, "out", coordinates={"global": {"fixed_effect": "logistic_regression"}})
    task = tasks.FinishModel(
        output=str(root / "finish"),
        job_id="fedcba9876543210",
        config_json=config.model_dump_json(),
        model_root=str(first.parent),
        version=1,
        index=str(index),
        parts=(tasks.ModelPart(coordinate="global", directories=(str(index),)),),
        manifest={"reproducible": True, "offset_column": None, "coordinates": {"global": {"dimension": 1}}},
    )
    results = [job.do(task, "publish.model", 0, {})[0] for _ in range(2)]
    assert results[0].directory == results[1].directory == str(first.parent / "1-fedcba98")
    assert results[0].content_digest == results[1].content_digest
    assert (first / "manifest.json").read_bytes() == before
