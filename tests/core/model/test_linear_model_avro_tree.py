"""A results tree of LinkedIn GDMix becomes a model directory: the files are written by fastavro, as upstream does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from gdmix_core.config import FeatureColumn, JobConfig
from gdmix_core.data.feature_index import FeatureIndex
from gdmix_core.data.hashing import entity_partitions
from gdmix_core.errors import DataError
from gdmix_core.model import ModelDirectory
from gdmix_core.model.coefficients import read_fixed_effect, read_random_effect
from gdmix_core.model.linear_model_avro import MODEL_CLASSES, FeatureNames
from gdmix_core.model.linear_model_avro_file import SCHEMA
from gdmix_core.model.linear_model_avro_tree import convert_tree, model_folders
from gdmix_core.tasks import ResolvedColumn

Model = dict[tuple[str, str], float]
INTERCEPT = ("(INTERCEPT)", "")
LOGISTIC = MODEL_CLASSES["logistic_regression"]
GLOBAL: dict[str, Any] = {"fixed_effect": "logistic_regression", "features": ["all"]}
PER_USER: dict[str, Any] = {"random_effect": "user_id", "features": ["own"]}
ALL: Model = {INTERCEPT: 0.5, ("genre", "drama"): -1.0, ("year", ""): 2.0}
OWN: dict[str, Model] = {
    "u2": {INTERCEPT: 1.0, ("genre", "é"): 0.25},
    "u10": {INTERCEPT: -1.0},
    "anna": {("year", ""): 3.0, INTERCEPT: 0.0, ("genre", "drama"): 1e-300},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "old"


@pytest.fixture
def named(tmp_path: Path) -> list[ResolvedColumn]:
    """Two vectors whose positions have names, as a config of upstream gives."""
    return [
        vector(tmp_path, "all", "a", [("year", ""), ("genre", "drama"), ("new", "x,y")]),
        vector(tmp_path, "own", "o", [("year", ""), ("genre", "é"), ("genre", "drama")]),
    ]


def vector(directory: Path, bag: str, column: str, names: Sequence[tuple[str, str]]) -> ResolvedColumn:
    path = directory / f"{bag}.txt"
    path.write_text("".join(f'{name},"{term}"\n' for name, term in names), encoding="utf-8")
    named = FeatureColumn(column=column, kind="vector", names=str(path))
    return ResolvedColumn(bag=bag, column=named, dimension=len(names))


def column(bag: str, name: str, kind: Any, dimension: int | None = None, **options: Any) -> ResolvedColumn:
    return ResolvedColumn(
        bag=bag, column=FeatureColumn(column=name, kind=kind, **options), dimension=dimension
    )


def write(
    root: Path,
    coordinate: str,
    models: Mapping[str, Model],
    variances: Mapping[str, Model] | None = None,
    *,
    file: str = "part-00000.avro",
    model_class: str | None = LOGISTIC,
) -> Path:
    """Write a file of models."""

    def items(values: Model) -> list[dict[str, Any]]:
        return [{"name": name, "term": term, "value": value} for (name, term), value in values.items()]

    records = [
        {
            "modelId": name,
            "modelClass": model_class,
            "means": items(means),
            "variances": None if variances is None else items(variances[name]),
            "lossFunction": "",
        }
        for name, means in models.items()
    ]
    path = root / coordinate / "models" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        fastavro.writer(stream, fastavro.parse_schema(SCHEMA), records)
    return path


def job(
    columns: Sequence[ResolvedColumn], coordinates: Mapping[str, Mapping[str, Any]], **changes: Any
) -> JobConfig:
    features: dict[str, list[dict[str, Any]]] = {}
    for one in columns:
        features.setdefault(one.bag, []).append(one.column.model_dump(exclude_defaults=True))
    document: dict[str, Any] = {
        "model": "m",
        "task": "logistic_regression",
        "data": {"train": "train.parquet"},
        "features": features,
        "coordinates": coordinates,
        "output": "out",
    }
    return JobConfig.model_validate(document | changes)


def convert(
    root: Path,
    columns: Sequence[ResolvedColumn],
    coordinates: Mapping[str, Mapping[str, Any]],
    **changes: Any,
) -> tuple[ModelDirectory, tuple[str, ...]]:
    model, notices = convert_tree(
        root, job(columns, coordinates, **changes), columns, root.parent / "attempt"
    )
    model.verify()
    assert model.path == root.parent / "attempt" / "model"
    return model, notices


def names_of(model: ModelDirectory, coordinate: str) -> list[tuple[str, str]]:
    manifest = model.manifest.coordinate(coordinate)
    index = FeatureIndex.load(model.feature_index)
    names = FeatureNames.of_coordinate(index.coordinate_names(manifest.features, manifest.intercept))
    assert len(names) == manifest.dimension
    return [names.text(i) for i in range(len(names))]


def fixed_of(model: ModelDirectory, coordinate: str = "global") -> Model:
    theta = read_fixed_effect(model.fixed_effect(coordinate)).coefficients
    return dict(zip(names_of(model, coordinate), theta.tolist(), strict=True))


def parts_of(model: ModelDirectory, coordinate: str = "per_user") -> list[dict[str, Model]]:
    """Every part's models; checks on the way that ids and indices ascend."""
    names, found = names_of(model, coordinate), []
    for path in model.parts(coordinate):
        block = read_random_effect(path).block
        models: dict[str, Model] = {}
        for entity in range(block.entities):
            own = slice(block.coefficient_ptr[entity], block.coefficient_ptr[entity + 1])
            assert np.all(np.diff(block.indices[own]) > 0)
            values = zip(block.indices[own], block.coefficients[own].tolist(), strict=True)
            models[block.id_of(entity)] = {names[i]: value for i, value in values}
        assert list(models) == sorted(models, key=str.encode)
        found.append(models)
    return found


# ---- what becomes what -----------------------------------------------------------------------------------


def test_a_tree_of_upstream_becomes_a_model_directory(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "global", {"global model": ALL}, file="global_model.avro")
    write(root, "per_user", {name: OWN[name] for name in ("u2", "u10")})
    write(root, "per_user", {"anna": OWN["anna"]}, file="part-00001.avro")
    model, notices = convert(root, named, {"global": GLOBAL, "per_user": PER_USER})
    assert notices == ()
    assert names_of(model, "global") == [INTERCEPT, ("year", ""), ("genre", "drama"), ("new", "x,y")]
    assert fixed_of(model) == {**ALL, ("new", "x,y"): 0.0}
    assert parts_of(model) == [OWN]
    manifest = model.manifest
    assert (manifest.model, manifest.task) == ("m", "logistic_regression")
    assert manifest.bag_sizes == {"all": 3, "own": 3}
    assert manifest.schema_fingerprint == FeatureIndex.load(model.feature_index).schema_fingerprint
    fixed, random = manifest.coordinates
    assert (fixed.kind, fixed.model, fixed.parts, fixed.dimension) == (
        "fixed_effect",
        "logistic_regression",
        0,
        4,
    )
    assert (random.kind, random.entity_column, random.parts, random.entities) == (
        "random_effect",
        "user_id",
        1,
        3,
    )
    assert (fixed.variances, random.variances, fixed.rows, random.rows) == (False, False, 0, 0)


def test_the_hash_of_an_entity_says_its_part(root: Path, named: list[ResolvedColumn]) -> None:
    models: dict[str, Model] = {f"user {i}": {INTERCEPT: float(i)} for i in range(50)}
    write(root, "per_user", models)
    model, _ = convert(root, named, {"per_user": {**PER_USER, "partitions": 7}})
    parts = parts_of(model)
    assert len(parts) == model.manifest.coordinate("per_user").parts == 7
    assert {name: theta for part in parts for name, theta in part.items()} == models
    for number, part in enumerate(parts):
        for name in part:
            data = np.frombuffer(name.encode(), np.uint8)
            assert entity_partitions(data, np.array([0, len(data)]), 7)[0] == number


def test_without_partitions_the_number_of_entities_says_how_many(
    root: Path, named: list[ResolvedColumn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdmix_core.model.linear_model_avro_tree.ENTITIES_PER_PART", 2)
    write(root, "per_user", OWN)
    model, _ = convert(root, named, {"per_user": PER_USER})
    assert len(parts_of(model)) == 2


def test_variances_are_taken_over_when_every_coefficient_has_one(
    root: Path, named: list[ResolvedColumn]
) -> None:
    full: Model = {INTERCEPT: 1.0, ("year", ""): 2.0, ("genre", "drama"): 3.0, ("new", "x,y"): 4.0}
    write(root, "global", {"g": full}, {"g": full})
    own: dict[str, Model] = {"a": {("genre", "drama"): 5.0, INTERCEPT: 6.0}, "b": {INTERCEPT: 7.0}}
    write(root, "per_user", own, own)
    model, _ = convert(root, named, {"global": GLOBAL, "per_user": PER_USER})
    fixed = read_fixed_effect(model.fixed_effect("global")).variances
    random = read_random_effect(model.parts("per_user")[0]).block.variances
    assert fixed is not None
    assert random is not None
    assert (fixed.tolist(), random.tolist()) == ([1.0, 2.0, 3.0, 4.0], [6.0, 5.0, 7.0])
    assert all(c.variances for c in model.manifest.coordinates)


@pytest.mark.parametrize("of_global", [{INTERCEPT: 1.0}, dict.fromkeys(ALL, 1.0)], ids=["some", "not new"])
def test_variances_that_are_not_complete_are_left_out(
    root: Path, named: list[ResolvedColumn], of_global: Model
) -> None:
    write(root, "global", {"g": ALL}, {"g": of_global})
    write(root, "per_user", OWN, {name: {INTERCEPT: 1.0} for name in OWN})
    model, _ = convert(root, named, {"global": GLOBAL, "per_user": PER_USER})
    assert read_fixed_effect(model.fixed_effect("global")).variances is None
    assert read_random_effect(model.parts("per_user")[0]).block.variances is None
    assert not any(c.variances for c in model.manifest.coordinates)


def test_name_term_values_are_the_sorted_keys_of_the_models(root: Path) -> None:
    write(root, "per_user", OWN)
    model, notices = convert(root, [column("own", "features", "name_term_value")], {"per_user": PER_USER})
    assert notices == ()
    assert names_of(model, "per_user") == [INTERCEPT, ("genre", "drama"), ("genre", "é"), ("year", "")]
    assert parts_of(model) == [OWN]


def test_a_bag_of_several_coordinates_has_the_features_of_all(root: Path) -> None:
    own = [column("own", "features", "name_term_value"), column("own", "zip", "categorical")]
    write(root, "global", {"g": ALL | {("zip", "8001"): 4.0}})
    write(root, "per_user", {"a": {("zip", "3000"): 1.0, ("b", "c"): 2.0}})
    model, _ = convert(root, own, {"global": {**GLOBAL, "features": ["own"]}, "per_user": PER_USER})
    expected = [("b", "c"), ("genre", "drama"), ("year", ""), ("zip", "3000"), ("zip", "8001")]
    assert names_of(model, "global") == names_of(model, "per_user") == [INTERCEPT, *expected]
    assert fixed_of(model) == dict.fromkeys(expected, 0.0) | ALL | {("zip", "8001"): 4.0}
    assert parts_of(model) == [{"a": {("zip", "3000"): 1.0, ("b", "c"): 2.0}}]


def test_other_columns_have_the_features_of_their_name(root: Path) -> None:
    columns = [
        column("own", "age", "numeric", scale="standard"),
        column("own", "genre", "list"),
        column("own", "title", "text", weighting="tfidf"),
        column("own", "taste", "vector", 3),
        column("own", "unseen", "categorical"),
    ]
    theta: Model = {
        INTERCEPT: 1.0,
        ("age", ""): 2.0,
        ("genre", "b"): 3.0,
        ("genre", "a"): 4.0,
        ("taste", "2"): 5.0,
        ("title", "the"): 6.0,
    }
    write(root, "per_user", {"a": theta})
    model, notices = convert(root, columns, {"per_user": PER_USER})
    assert notices == ()
    assert names_of(model, "per_user") == [
        INTERCEPT,
        ("age", ""),
        ("genre", "a"),
        ("genre", "b"),
        *(("taste", str(i)) for i in range(3)),
        ("title", "the"),
    ]
    assert parts_of(model) == [{"a": theta}]


def test_an_intercept_is_enough(root: Path) -> None:
    write(root, "per_user", {"a": {INTERCEPT: 1.5}})
    model, _ = convert(root, [], {"per_user": {"random_effect": "user_id"}})
    assert parts_of(model) == [{"a": {INTERCEPT: 1.5}}]


def test_a_coordinate_without_intercept_has_none(root: Path, named: list[ResolvedColumn]) -> None:
    """Some versions of upstream write one that is 0."""
    write(root, "global", {"g": ALL | {INTERCEPT: 0.0}})
    model, notices = convert(root, named, {"global": {**GLOBAL, "intercept": False}})
    assert notices == ()
    assert fixed_of(model) == {name: value for name, value in ALL.items() if name != INTERCEPT} | {
        ("new", "x,y"): 0.0
    }


def test_an_intercept_that_a_model_lacks_is_0(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "global", {"g": {("year", ""): 1.0}})
    model, _ = convert(root, named, {"global": GLOBAL})
    assert fixed_of(model)[INTERCEPT] == 0.0


def test_scores_of_an_outside_model_need_nothing(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "per_user", OWN)
    outside = {"fixed_effect": "external", "scores": {"train": "scores.csv"}}
    model, notices = convert(root, named, {"global": outside, "per_user": PER_USER})
    assert notices == ()
    assert model.manifest.coordinate("global").external


# ---- what is said ----------------------------------------------------------------------------------------


def test_features_that_no_list_names_are_counted(root: Path, named: list[ResolvedColumn]) -> None:
    models = {name: theta | {("genre", f"{i}"): 1.0 for i in range(7)} for name, theta in OWN.items()}
    write(root, "per_user", models)
    model, notices = convert(root, named, {"per_user": PER_USER})
    examples = "; ".join(f"genre,{i}" for i in range(5))
    assert notices == (
        f"per_user: features of the models in no list of names: 7 ({examples}; …); 21 coefficients are left out",
    )
    assert parts_of(model) == [OWN]


def test_coordinates_that_the_tree_does_not_have_are_named(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "per_user", OWN)
    (root / "global" / "models").mkdir(parents=True)
    model, notices = convert(root, named, {"global": GLOBAL, "per_user": PER_USER})
    assert notices == (f"global: {root} holds no models of it (global/models/*.avro)",)
    assert [c.name for c in model.manifest.coordinates] == ["per_user"]


def test_only_folders_of_the_jobs_coordinates_make_a_tree(root: Path, named: list[ResolvedColumn]) -> None:
    config = job(named, {"global": GLOBAL, "per_user": PER_USER})
    assert model_folders(root, config) == {}
    write(root, "per_movie", OWN)
    write(root, "per_user", OWN, file="_part-00000.avro")
    write(root, "per_user", OWN, file="part-00000.orc")
    assert model_folders(root, config) == {}
    write(root, "per_user", OWN)
    assert model_folders(root, config) == {"per_user": root / "per_user" / "models"}


@pytest.mark.parametrize(
    ("model_class", "task"),
    [
        (MODEL_CLASSES["linear_regression"], "linear_regression"),
        ("com.example.Model", "logistic_regression"),
        (None, "logistic_regression"),
    ],
)
def test_the_class_of_the_models_tells_their_task(
    root: Path, named: list[ResolvedColumn], model_class: str | None, task: str
) -> None:
    write(root, "per_user", OWN, model_class=model_class)
    model, _ = convert(root, named, {"per_user": PER_USER})
    assert model.manifest.task == task


def test_upstream_calls_models_of_every_task_logistic(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "per_user", OWN)
    model, _ = convert(root, named, {"per_user": PER_USER}, task="linear_regression", metrics=["rmse"])
    assert model.manifest.task == "linear_regression"


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "theta", "message"),
    [
        (
            [column("own", "genre", "categorical")],
            {("genre", "a"): 1.0, ("year", ""): 1.0, ("zip", "x"): 1.0},
            r"that fit no column of coordinates.per_user: 2 \(year,; zip,x\); its columns: own.genre",
        ),
        (
            [column("own", "genre", "categorical")],
            {("genre", ""): 1.0},
            r"fit no column .*: 1 \(genre,\); its",
        ),
        ([column("own", "age", "numeric")], {("age", "x"): 1.0}, r"fit no column .*: 1 \(age,x\); its"),
        (
            [column("own", "taste", "vector", 3)],
            {("taste", "3"): 1.0},
            r"fit no column .*: 1 \(taste,3\); its",
        ),
        (
            [column("own", "taste", "vector", 3)],
            {("taste", "01"): 1.0},
            r"fit no column .*: 1 \(taste,01\); its",
        ),
        ([column("own", "f", "name_term_value")], {("a\x01b", "c"): 1.0}, "fit no column"),
        (
            [column("own", "f", "name_term_value"), column("own", "g", "name_term_value")],
            {("a", "b"): 1.0},
            "several features of a coordinate have the name 'a' and the term 'b'",
        ),
    ],
)
def test_features_must_fit_a_column(
    root: Path, columns: list[ResolvedColumn], theta: Model, message: str
) -> None:
    write(root, "per_user", {"a": theta})
    with pytest.raises(DataError, match=message) as caught:
        convert(root, columns, {"per_user": PER_USER})
    assert f"{root}/per_user/models: " in str(caught.value)


def test_a_coordinate_of_an_intercept_alone_has_no_features(root: Path) -> None:
    write(root, "per_user", OWN)
    with pytest.raises(DataError, match=r": 3 \(.*\); its columns: none"):
        convert(root, [], {"per_user": {"random_effect": "user_id"}})


def test_an_intercept_that_the_coordinate_does_not_have(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "global", {"g": ALL})
    with pytest.raises(
        DataError, match=r"the models have an intercept; coordinates.global.intercept is false"
    ):
        convert(root, named, {"global": {**GLOBAL, "intercept": False}})


def test_an_entity_in_two_files(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "per_user", OWN)
    write(root, "per_user", {"u10": OWN["u2"]}, file="part-00001.avro")
    with pytest.raises(DataError, match=r"2 files from .*: two models have the modelId 'u10'"):
        convert(root, named, {"per_user": PER_USER})


@pytest.mark.parametrize("models", [{}, {"a": ALL, "b": ALL}])
def test_a_fixed_effect_is_one_model(
    root: Path, named: list[ResolvedColumn], models: dict[str, Model]
) -> None:
    write(root, "global", models)
    with pytest.raises(DataError, match=f"holds {len(models)} models; that of a fixed effect is one"):
        convert(root, named, {"global": GLOBAL})


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "a model has an empty modelId"), ("x" * 257, "modelId .* is not allowed; allowed: entity ids")],
)
def test_ids_that_no_entity_can_have(
    root: Path, named: list[ResolvedColumn], name: str, message: str
) -> None:
    write(root, "per_user", OWN | {name: OWN["u2"]})
    with pytest.raises(DataError, match=message):
        convert(root, named, {"per_user": PER_USER})


def test_a_coefficient_that_is_no_number(root: Path, named: list[ResolvedColumn]) -> None:
    write(root, "global", {"g": ALL | {("year", ""): np.nan}})
    with pytest.raises(DataError, match=r"global/models: model 'g': the value .* 'year' .* is nan"):
        convert(root, named, {"global": GLOBAL})


def test_a_damaged_file(root: Path, named: list[ResolvedColumn]) -> None:
    path = write(root, "global", {"g": ALL})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="block 1 is truncated"):
        convert(root, named, {"global": GLOBAL})


def test_scoring_cannot_weigh_terms_by_a_frequency_that_nobody_wrote_down(root: Path) -> None:
    title = [column("own", "title", "text", weighting="tfidf")]
    write(root, "per_user", {"a": {("title", "the"): 1.0}})
    with pytest.raises(DataError, match=r"features.own: column 'title' is weighted by tfidf"):
        convert(root, title, {"per_user": PER_USER}, action="inference", initial_model=str(root))
