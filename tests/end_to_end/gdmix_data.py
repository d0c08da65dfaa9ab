"""Jobs of LinkedIn GDMix in small: rows, files in its layouts, exact solutions, and what a job leaves behind.

Nothing here is the project's own code: TensorFlow and fastavro write and read the files, plain NumPy solves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

USERS, ITEMS = 14, 9
INTERCEPT = ("(INTERCEPT)", "")
FEATURES: dict[str, list[tuple[str, str]]] = {
    "global": [
        ("age", ""),
        ("genre", "drama"),
        ("genre", "comedy"),
        ("Länge", ""),
        ("year", ""),
        ("x", "a,b"),
    ],
    "per_user": [("genre", "drama"), ("genre", "comedy"), ("year", "")],
    "per_item": [("age", ""), ("gender", "f")],
}
"""Name and term of every position of each bag."""

Model = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Rows:
    """Rows of all effects; matrices are dense, a 0 in them is a feature that the row does not have."""

    uid: np.ndarray
    response: np.ndarray
    user: np.ndarray
    item: np.ndarray
    bags: Mapping[str, np.ndarray]
    weight: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.uid)

    def take(self, rows: np.ndarray) -> Rows:
        bags = {name: matrix[rows] for name, matrix in self.bags.items()}
        arrays = (self.uid, self.response, self.user, self.item)
        return Rows(*(array[rows] for array in arrays), bags, self.weight[rows], self.offset[rows])

    def with_weights_and_offsets(self, seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        weight, offset = rng.uniform(0.25, 2.0, len(self)), rng.normal(0, 0.3, len(self))
        return replace(
            self,
            weight=weight.astype(np.float32).astype(np.float64),
            offset=offset.astype(np.float32).astype(np.float64),
        )

    def shuffled(self, seed: int) -> Rows:
        return self.take(np.random.default_rng(seed).permutation(len(self)))

    def columns(self, bag: str | None, others: Sequence[str]) -> Iterable[dict[str, Any]]:
        """Yield each row's columns, the bag as two lists; indices of every other row descend."""
        for number in range(len(self)):
            row: dict[str, Any] = {name: getattr(self, name)[number].item() for name in others}
            if bag is not None:
                indices = np.flatnonzero(self.bags[bag][number])[:: -1 if number % 2 else 1]
                row[f"{bag}_indices"] = indices.tolist()
                row[f"{bag}_values"] = self.bags[bag][number][indices].tolist()
            yield row


def make_rows(count: int, seed: int, *, linear: bool = False, first_user: int = 0) -> Rows:
    """Rows whose response depends on everything; uids are of both signs and in no order; all weigh 1."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(77)
    taste, level = truth.normal(0, 1.5, (USERS + 5, 3)), truth.normal(0, 1.0, ITEMS)
    user, item = rng.integers(first_user, first_user + USERS - 1, count), rng.integers(0, ITEMS, count)
    user[0] = first_user + USERS - 1  # one row of this one
    bags = {}
    for name, names in FEATURES.items():
        matrix = rng.normal(0.3, 1.0, (count, len(names))) * (rng.random((count, len(names))) < 0.7)
        bags[name] = matrix.astype(np.float32).astype(np.float64)  # as TFRecord files hold them
    z = bags["global"] @ [0.8, -1.0, 0.5, 0.2, -0.4, 0.9] - 0.3 + level[item]
    z += np.sum(bags["per_user"] * taste[user], axis=1) + bags["per_item"] @ [0.5, -0.5]
    noise = rng.normal(0, 0.5, count)
    return Rows(
        uid=rng.permutation(np.arange(count) * 1_000_003 - 2**40 + seed * 10**9),
        response=np.float32(z + noise).astype(np.float64)
        if linear
        else (rng.random(count) < 1 / (1 + np.exp(-z))).astype(np.int64),
        user=user - 3,  # ids of both signs
        item=np.array([f"film {number} é" for number in range(ITEMS)])[item],
        bags=bags,
        weight=np.ones(count),
        offset=np.zeros(count),
    )


# ---- files -----------------------------------------------------------------------------------------------

_TYPES = {"uid": "long", "user": "int", "item": "string", "weight": "float", "offset": "float"}


def tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    return tf


def feature(values: Sequence[Any]) -> Any:
    """A TensorFlow feature that holds some values; of none, an empty one."""
    train = tensorflow().train
    if not values:
        return train.Feature()
    if isinstance(values[0], str):
        return train.Feature(bytes_list=train.BytesList(value=[value.encode() for value in values]))
    if isinstance(values[0], float):
        return train.Feature(float_list=train.FloatList(value=values))
    return train.Feature(int64_list=train.Int64List(value=values))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def write_records(path: Path, messages: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = "GZIP" if path.suffix == ".gz" else None
    with tensorflow().io.TFRecordWriter(str(path), options) as writer:
        for message in messages:
            writer.write(message.SerializeToString(deterministic=True))


def write_examples(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One Example a row."""
    train = tensorflow().train
    write_records(
        path,
        (
            train.Example(
                features=train.Features(feature={name: feature(_listed(row[name])) for name in row})
            )
            for row in rows
        ),
    )


def write_groups(path: Path, rows: Rows, entity: str, bag: str | None, others: Sequence[str]) -> None:
    """One SequenceExample an entity: its id a scalar, other columns lists, the bag lists of lists."""
    train = tensorflow().train

    def group(of: str | int) -> Any:
        mine = list(rows.take(np.flatnonzero(getattr(rows, entity) == of)).columns(bag, others))
        context = {name: feature([row[name] for row in mine]) for name in others} | {entity: feature([of])}
        message = train.SequenceExample(context=train.Features(feature=context))
        for half in ("indices", "values") if bag is not None else ():
            lists = message.feature_lists.feature_list[f"{bag}_{half}"].feature
            lists.extend(feature(row[f"{bag}_{half}"]) for row in mine)
        return message

    write_records(path, (group(of.item()) for of in np.unique(getattr(rows, entity))))


def write_metadata(path: Path, bag: str | None, others: Sequence[str], *, linear: bool = False) -> None:
    def tensor(name: str, dtype: str, shape: Sequence[int], *, sparse: bool) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": shape, "isSparse": sparse}

    bags = [] if bag is None else [tensor(bag, "float", [len(FEATURES[bag])], sparse=True)]
    columns = [tensor(name, _TYPES[name], [], sparse=False) for name in others if name != "response"]
    labels = [tensor("response", "float" if linear else "int", [], sparse=False)]
    document = {"features": [*bags, *columns], "labels": labels, "numberOfTrainingSamples": 1}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def write_feature_list(path: Path, bag: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = (f'{name},"{term}"\n' if "," in term else f"{name},{term}\n" for name, term in FEATURES[bag])
    path.write_text("".join(quoted), encoding="utf-8")


AVRO_TYPES = {"uid": "long", "user": "long", "item": "string", "weight": "double", "offset": "double"}


def write_avro(path: Path, rows: Iterable[Mapping[str, Any]], bag: str | None, others: Sequence[str]) -> None:
    """One record a row, the bag two arrays."""
    kinds: dict[str, Any] = {name: AVRO_TYPES.get(name, "int") for name in others}
    if bag is not None:
        kinds[f"{bag}_indices"] = {"type": "array", "items": "int"}
        kinds[f"{bag}_values"] = {"type": "array", "items": "float"}
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "Row", "fields": fields}, rows, "deflate")


def write_effect(
    directory: Path,
    bag: str | None,
    train: Rows,
    validation: Rows,
    others: Sequence[str],
    *,
    linear: bool = False,
    form: str = "tfrecord",
) -> None:
    """Write an effect's directory as upstream's script does, the training rows in two files."""
    half = len(train) // 2
    parts = {
        "trainingData/part-0": train.take(np.arange(half)),
        "trainingData/part-1": train.take(np.arange(half, len(train))),
        "validationData/part-0": validation,
    }
    for name, rows in parts.items():
        path = directory / f"{name}.{form}"
        if form == "avro":
            write_avro(path, rows.columns(bag, others), bag, others)
        else:
            write_examples(path, rows.columns(bag, others))
    write_metadata(directory / "metadata" / "tensor_metadata.json", bag, others, linear=linear)
    if bag is not None:
        write_feature_list(directory / "featureList" / bag, bag)


def effect(directory: str, bag: str | None, **keys: Any) -> dict[str, Any]:
    """Return an effect of a config that reads such a directory."""
    document = {
        "training_data_dir": f"{directory}/trainingData",
        "validation_data_dir": f"{directory}/validationData",
        "metadata_file": f"{directory}/metadata/tensor_metadata.json",
        **keys,
    }
    if bag is not None:
        document |= {"feature_bag": bag, "feature_file": f"{directory}/featureList/{bag}"}
    return document


# ---- exact solutions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Minimise sum of weight · loss + l2 / 2 · |coefficients|², the intercept's l2 apart.

    The loss is upstream's: cross entropy, or (response − predictor)², without a half.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    l2: float
    intercept: bool = True
    intercept_l2: float = field(default=0.0)
    linear: bool = False

    @cached_property
    def design(self) -> np.ndarray:
        return np.column_stack([np.ones(len(self.X)), self.X]) if self.intercept else self.X

    @cached_property
    def ridge(self) -> np.ndarray:
        ridge = np.full(self.design.shape[1], self.l2)
        if self.intercept:
            ridge[0] = self.intercept_l2
        return ridge

    def predictor(self, b: np.ndarray) -> np.ndarray:
        return np.asarray(self.design @ b + self.offset)

    def hessian(self, b: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-self.predictor(b)))
        curvature = 2 * self.weight if self.linear else self.weight * p * (1 - p)
        return np.asarray(self.design.T @ (curvature[:, None] * self.design) + np.diag(self.ridge))

    def gradient(self, b: np.ndarray) -> np.ndarray:
        z = self.predictor(b)
        slope = 2 * (z - self.y) if self.linear else 1 / (1 + np.exp(-z)) - self.y
        return np.asarray(self.design.T @ (self.weight * slope) + self.ridge * b)

    def objective(self, b: np.ndarray) -> float:
        z = self.predictor(b)
        loss = (z - self.y) ** 2 if self.linear else np.logaddexp(0, z) - self.y * z
        return float(self.weight @ loss + self.ridge @ b**2 / 2)

    def solution(self) -> np.ndarray:
        """Newton's method with halved steps, until the gradient is nothing but rounding."""
        b = np.zeros(self.design.shape[1])
        for _ in range(100):
            step = np.linalg.solve(self.hessian(b), self.gradient(b))
            share = 1.0
            while self.objective(b - share * step) > self.objective(b) + 1e-12 * abs(self.objective(b)):
                share /= 2
            b = b - share * step
            if np.max(np.abs(step)) < 1e-13 * max(1.0, np.max(np.abs(b))):
                break
        assert np.max(np.abs(self.gradient(b)), initial=0.0) < 1e-9
        return b


# ---- what a job leaves behind ----------------------------------------------------------------------------


def read_avro(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return list(fastavro.reader(file))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Results:
    """One coordinate's folder below a job's output."""

    directory: Path

    def records(self) -> dict[str, dict[str, Any]]:
        """The records of all model files by their ids."""
        found = [
            record for path in sorted((self.directory / "models").iterdir()) for record in read_avro(path)
        ]
        records = {record["modelId"]: record for record in found}
        assert len(records) == len(found)
        return records

    def models(self, what: str = "means") -> dict[str, Model]:
        """The coefficients, or variances, of every model by name and term."""
        models = {}
        for name, record in self.records().items():
            models[name] = {(item["name"], item["term"]): item["value"] for item in record[what]}
            assert len(models[name]) == len(record[what])
        return models

    def scores(self, role: str) -> dict[int, dict[str, Any]]:
        """The records of all score files by uid."""
        found = [
            record
            for path in sorted((self.directory / f"{role}_scores").iterdir())
            for record in read_avro(path)
        ]
        records = {record["uid"]: record for record in found}
        assert len(records) == len(found)
        return records

    def column(self, role: str, name: str, rows: Rows) -> np.ndarray:
        """One field of the scores, in the order of some rows, which must be all of them."""
        scores = self.scores(role)
        assert scores.keys() == set(rows.uid.tolist())
        return np.array([scores[uid][name] for uid in rows.uid.tolist()])

    def summary(self) -> dict[str, float]:
        text = (self.directory / "metric" / "evalSummary.json").read_text(encoding="utf-8")
        found: dict[str, float] = json.loads(text)
        return found


def files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
