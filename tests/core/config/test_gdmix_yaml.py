"""Training configs of LinkedIn GDMix: what each key becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gdmix_core.config import FixedEffect, JobConfig, RandomEffect, load_config, parse_config
from gdmix_core.config.gdmix_yaml import is_gdmix_config
from gdmix_core.config.load import load_with_notes, parse_with_notes
from gdmix_core.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "examples/movielens/lr-movieLens.yaml"
JOB = """\
{
  "output_dir": "out/lr-training",  # as upstream writes: JSON with comments, anchors, trailing commas
  "fixed_effect_config": {
    "global": {
      "training_data_dir": "d/global/train",
      "validation_data_dir": "d/global/valid",
      "metadata_file": "d/global/meta.json",
      "feature_file": "d/global/names",
      "feature_bag": "global",
      "l2_reg_weight": 0.5,
      "regularize_bias": false,
      gdmix_config: &g {
        "model_type": "logistic_regression",
        "label_column_name": "response",
        "uid_column_name": "id",
        "weight_column_name": "w"
      },
    }
  },
  "random_effect_config": {
    "per-user": {
      "partition_entity": "user_id",
      "training_data_dir": "d/user/train",
      "validation_data_dir": "d/user/valid",
      "feature_bag": "per_user"
      ,
      "gdmix_config": *g,
    },
    "per-movie": {
      "partition_entity": "movie_id",
      "training_data_dir": "d/movie/train",
      "validation_data_dir": "d/movie/valid",
      "feature_bag": "per_movie",
      gdmix_config: {<<: *g, "prediction_score_column_name": "predictionScore"},
    }
  },
}
"""


def changed(*replacements: tuple[str, str]) -> str:
    text = JOB
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def with_key(effect: str, *keys: str) -> str:
    """The job with further keys in an effect."""
    return changed((f'"{effect}": {{', f'"{effect}": {{ {", ".join(keys)},'))


def in_schema(*keys: str) -> str:
    """The job with further keys in the `gdmix_config` that all effects share."""
    return changed(("&g {", f"&g {{ {', '.join(keys)},"))


def everywhere(key: str) -> str:
    """The job with a further key in every effect."""
    text = JOB
    for name in ("global", "per-user", "per-movie"):
        text = text.replace(f'"{name}": {{', f'"{name}": {{ {key},')
    return text


def read(text: str) -> tuple[JobConfig, tuple[str, ...]]:
    config, notes = parse_with_notes(text, "lr.yaml")
    assert notes is not None
    return config, notes


def effects(text: str) -> list[Any]:
    return list(read(text)[0].coordinates.values())


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "lr.yaml")
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems or (str(caught.value),)


# ---- what a config becomes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "is_one"),
    [
        ({"output_dir": "x", "fixed_effect_config": {}}, True),
        ({"output_dir": "x", "random_effect_config": {}}, True),
        ({"random_effect_config": {}}, True),
        ({"output_dir": "x"}, False),
        ({"coordinates": {}, "fixed_effect_config": {}}, False),
        (["fixed_effect_config"], False),
        (None, False),
    ],
)
def test_whose_config_it_is(document: object, is_one: bool) -> None:
    assert is_gdmix_config(document) is is_one


def test_effects_become_coordinates_in_order() -> None:
    config, notes = read(JOB)
    assert (config.model, config.output, config.task) == (
        "lr-training",
        "out/lr-training",
        "logistic_regression",
    )
    assert list(config.coordinates) == ["global", "per-user", "per-movie"]
    fixed, user, movie = config.coordinates.values()
    assert isinstance(fixed, FixedEffect)
    assert isinstance(user, RandomEffect)
    assert isinstance(movie, RandomEffect)
    assert (fixed.features, fixed.l2, fixed.regularize_bias) == (("global",), 0.5, False)
    assert (user.random_effect, movie.random_effect) == ("user_id", "movie_id")
    assert (config.metrics, config.results, config.action, config.passes) == (("auc",), "gdmix", "train", 1)
    assert notes == ()


def test_fixed_effects_come_first_wherever_they_stand() -> None:
    turned = """
random_effect_config: {u: {partition_entity: u, training_data_dir: t, gdmix_config: &g {uid_column_name: i,
  label_column_name: y}}}
fixed_effect_config: {f: {training_data_dir: t, gdmix_config: *g}}
output_dir: o
"""
    assert list(read(turned)[0].coordinates) == ["f", "u"]


def test_the_first_effects_files_are_the_data_and_the_others_sources() -> None:
    data = read(JOB)[0].data
    assert (data.train, data.validation) == (("d/global/train",), ("d/global/valid",))
    assert (data.format, data.metadata) == ("tfrecord", "d/global/meta.json")
    assert list(data.sources) == ["per-user", "per-movie"]
    user = data.sources["per-user"]
    assert (user.train, user.validation, user.format) == (("d/user/train",), ("d/user/valid",), "tfrecord")
    assert (user.metadata, user.uid) == (None, None)
    assert read(everywhere('"data_format": "avro"'))[0].data.sources["per-user"].format == "avro"


def test_effects_with_the_same_files_share_them() -> None:
    config, _ = read(changed(("d/movie/train", "d/user/train"), ("d/movie/valid", "d/user/valid")))
    assert list(config.data.sources) == ["per-user"]
    assert [column[0].source for column in config.features.values()] == [None, "per-user", "per-user"]


def test_feature_bags_are_named_vectors() -> None:
    features = read(JOB)[0].features
    assert list(features) == ["global", "per_user", "per_movie"]
    (column,) = features["global"]
    assert (column.column, column.kind, column.names, column.source) == (
        "global",
        "vector",
        "d/global/names",
        None,
    )
    (column,) = features["per_user"]
    assert (column.kind, column.names, column.source) == ("vector", None, "per-user")


def test_one_bag_name_for_different_files_becomes_two_bags() -> None:
    config, _ = read(changed(('"feature_bag": "per_movie"', '"feature_bag": "per_user"')))
    assert list(config.features) == ["global", "per-user_per_user", "per-movie_per_user"]
    assert config.coordinates["per-movie"].features == ("per-movie_per_user",)
    assert {column[0].column for column in config.features.values()} == {"global", "per_user"}


def test_one_bag_name_for_the_same_files_stays_one_bag() -> None:
    config, _ = read(
        changed(
            ("d/movie/train", "d/user/train"),
            ("d/movie/valid", "d/user/valid"),
            ('"feature_bag": "per_movie"', '"feature_bag": "per_user"'),
        )
    )
    assert list(config.features) == ["global", "per_user"]
    assert config.coordinates["per-movie"].features == ("per_user",)


def test_bags_have_names_that_the_config_allows() -> None:
    config, _ = read(changed(('"feature_bag": "per_movie"', '"feature_bag": "per.movie/x"')))
    assert config.coordinates["per-movie"].features == ("per_movie_x",)
    assert config.features["per_movie_x"][0].column == "per.movie/x"


def test_no_bag_is_an_intercept_alone() -> None:
    config, _ = read(changed(('"feature_bag": "global",', "")))
    assert config.coordinates["global"].features == ()
    assert "global" not in config.features
    (problem,) = problems(changed(('"feature_bag": "global",', '"has_intercept": false,')))
    assert problem.startswith("lr.yaml:4: fixed_effect_config.global: no feature_bag and has_intercept false")


def test_columns() -> None:
    columns = read(JOB)[0].data.columns
    assert (columns.uid, columns.label, columns.weight, columns.offset) == ("id", "response", "w", "offset")
    assert columns.optional == ("weight", "offset")
    text = changed((',\n        "weight_column_name": "w"', ""))
    for name in ("global", "per-user", "per-movie"):
        text = text.replace(f'"{name}": {{', f'"{name}": {{ "offset_column_name": "prior",')
    columns = read(text)[0].data.columns
    assert (columns.weight, columns.offset, columns.optional) == (None, "prior", ("offset",))


def test_what_is_not_said_has_the_defaults_of_upstreams_code() -> None:
    _, user, _ = effects(JOB)
    assert (user.l2, user.regularize_bias, user.intercept) == (1.0, True, True)
    assert (user.variance, user.sparsity_threshold, user.partitions) == ("none", 0.0, None)
    assert (user.min_rows, user.max_rows, user.max_iterations) == (None, None, 100)


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ('"l2_reg_weight": 3', "l2", 3.0),
        ('"regularize_bias": false', "regularize_bias", False),
        ('"has_intercept": false', "intercept", False),
        ('"sparsity_threshold": 1e-4', "sparsity_threshold", 1e-4),
        ('"variance_mode": SIMPLE', "variance", "simple"),
        ('"random_effect_variance_mode": FULL', "variance", "full"),
        ('"random_effect_variance_mode": null', "variance", "none"),
        ('"num_partitions": 1', "partitions", None),
        ('"num_partitions": 7', "partitions", 7),
        ('"min_num_of_samples_per_model": 4', "min_rows", 4),
        ('"min_num_of_samples_per_model": -1', "min_rows", None),
        ('"max_num_of_samples_per_model": 9', "max_rows", 9),
        ('"max_num_of_samples_per_model": null', "max_rows", None),
    ],
)
def test_a_key_of_an_effect(key: str, field: str, value: object) -> None:
    assert getattr(effects(with_key("per-user", key))[1], field) == value


def test_a_variance_of_a_fixed_effect() -> None:
    assert effects(with_key("global", '"fixed_effect_variance_mode": SIMPLE'))[0].variance == "simple"


def test_linear_regression_halves_the_ridge() -> None:
    config, notes = read(changed(("logistic_regression", "linear_regression")))
    assert (config.task, config.metrics) == ("linear_regression", ("rmse", "mse"))
    assert [coordinate.l2 for coordinate in effects(changed(("logistic", "linear")))] == [0.25, 0.5, 0.5]
    assert notes == ("l2_reg_weight is halved: upstream's squared loss is (y - z)², here it is half of that",)


def test_keys_of_a_job_config_are_taken_over() -> None:
    extra = (
        "model: mine, initial_model: m/1, passes: 3, metrics: [logloss], store: lmdb:s, activate: false, keep: 0,"
        "search: {coordinates.per-user.l2: [1, 2]},"
    )
    config, _ = read(changed(('  "fixed', extra + '\n  "fixed')))
    assert (config.model, config.initial_model, config.passes) == ("mine", "m/1", 3)
    assert (config.metrics, config.store) == (("logloss",), "lmdb:s")
    assert (config.activate, config.keep) == (False, 0)
    assert config.search == {"coordinates.per-user.l2": (1, 2)}


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("a/b", "b"),
        ("a/b/", "b"),
        ("hdfs://h/a b", "a_b"),
        ("../_x", "x"),
        ("/", "gdmix"),
        ("y" * 70, "y" * 64),
    ],
)
def test_the_output_directory_names_the_model(directory: str, name: str) -> None:
    assert read(changed(("out/lr-training", directory)))[0].model == name


def test_inference_needs_a_model_and_no_labels() -> None:
    text = in_schema('"action": "inference"')
    (problem,) = problems(text)
    assert problem.startswith(
        "lr.yaml:12: fixed_effect_config.global.gdmix_config.action: found inference, which needs a model"
    )
    config, _ = read(
        text.replace("{\n", "{ initial_model: m/1,\n", 1).replace('"label_column_name": "response",', "")
    )
    assert (config.action, config.initial_model) == ("inference", "m/1")
    assert config.data.columns.optional == ("weight", "offset", "label")


# ---- notes -----------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_named_once() -> None:
    keys = ('"lbfgs_tolerance": 1.0e-12', '"num_of_consumers": 1', '"copy_to_local": false')
    text = with_key("global", *keys).replace("\n}", '  "spark_config": {"executorCores":2},\n}')
    text = text.replace('"per-user": {', '"per-user": { "lbfgs_tolerance": 1,')
    (note,) = read(text.replace("&g {", "&g { stage: x,"))[1]
    ignored = "spark_config, lbfgs_tolerance, num_of_consumers, copy_to_local, stage"
    assert note == f"these have no meaning here and are ignored: {ignored}"


def test_a_bound_on_iterations_is_named() -> None:
    (note,) = read(with_key("per-user", '"num_of_lbfgs_iterations": 20'))[1]
    assert note.startswith("num_of_lbfgs_iterations (per-user 20) is not taken over")


@pytest.mark.parametrize(
    ("key", "usual"),
    [
        ("prediction_score_column_name", "predictionScore"),
        ("prediction_score_per_coordinate_column_name", "predictionScorePerCoordinate"),
    ],
)
def test_names_of_scores(key: str, usual: str) -> None:
    assert read(in_schema(f"{key}: {usual}"))[1] == ()
    _, notes = read(in_schema(f"{key}: mine"))
    assert (
        f"fixed_effect_config.global.gdmix_config.{key}: mine is not honoured; the column is called {usual}"
        in notes
    )


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            '"l2_reg_weight": 0.5',
            '"l2_reg_weigth": 1',
            "10: fixed_effect_config.global.l2_reg_weigth: unknown key; did you mean l2_reg_weight?",
        ),
        (
            '"l2_reg_weight": 0.5',
            '"l2_reg_weight": "1"',
            "10: fixed_effect_config.global.l2_reg_weight: found '1'; allowed: a number",
        ),
        (
            '"l2_reg_weight": 0.5',
            '"l2_reg_weight": -1',
            "10: fixed_effect_config.global.l2_reg_weight: found -1; allowed: greater than or equal to 0",
        ),
        (
            '"regularize_bias": false',
            '"regularize_bias": "no"',
            "11: fixed_effect_config.global.regularize_bias: found 'no'; allowed: a boolean",
        ),
        (
            '"regularize_bias": false',
            '"regularize_bias": true, "has_intercept": false',
            "4: fixed_effect_config.global: regularize_bias is true, but has_intercept is false",
        ),
        (
            '"uid_column_name": "id"',
            '"uid_column": "id"',
            "12: fixed_effect_config.global.gdmix_config.uid_column_name: missing; it is required",
        ),
        (
            '"logistic_regression"',
            '"probit"',
            "13: fixed_effect_config.global.gdmix_config.model_type: found 'probit'; allowed: one of 'logistic",
        ),
        (
            '"label_column_name": "response",',
            "",
            "12: fixed_effect_config.global.gdmix_config.label_column_name: missing; it is required",
        ),
        (
            '"partition_entity": "user_id",',
            "",
            "21: random_effect_config.per-user.partition_entity: missing; it is required",
        ),
        (
            '"partition_entity": "user_id",',
            '"partition_entity": "user_id", "max_num_of_samples_per_model": 0,',
            "22: random_effect_config.per-user.max_num_of_samples_per_model: found 0; allowed: 1 or more, or -1",
        ),
        (
            '"partition_entity": "user_id",',
            '"partition_entity": "u", "max_num_of_samples_per_model": 1, "min_num_of_samples_per_model": 2,',
            "21: random_effect_config.per-user: min_num_of_samples_per_model 2 is above max_num_of_samples_per_m",
        ),
        (
            '"partition_entity": "user_id",',
            '"partition_entity": "u", "fixed_effect_variance_mode": FULL,',
            "22: random_effect_config.per-user.fixed_effect_variance_mode: unknown key; did you mean random_",
        ),
        (
            '"training_data_dir": "d/user/train",',
            "",
            "21: random_effect_config.per-user.training_data_dir: fixed_effect_config.global has one, random_",
        ),
        (
            '"validation_data_dir": "d/user/valid",',
            '"validation_data_dir": "",',
            "24: random_effect_config.per-user.validation_data_dir: fixed_effect_config.global has one, random_e",
        ),
        (
            '"per-user": {',
            '"per user": {',
            "21: random_effect_config.per user: allowed are letters, digits, '_', '.' and '-'",
        ),
        (
            '"per-user": {',
            '"global": {',
            "21: random_effect_config.global: fixed_effect_config has one too",
        ),
        (
            '"output_dir": "out/lr-training",',
            "",
            "1: output_dir: missing; it is required",
        ),
        (
            '"output_dir": "out/lr-training",',
            '"output_dir": 3,',
            "2: output_dir: found 3; allowed: a string",
        ),
        (
            '"output_dir": ',
            '"outputdir": 1, "output_dir": ',
            "2: outputdir: unknown key; did you mean output_dir?",
        ),
        (
            '"output_dir": ',
            'metrics: [acu], "output_dir": ',
            "2: metrics[0]: found 'acu'; allowed for logistic_regression",
        ),
        (
            '"output_dir": ',
            'passes: 0, "output_dir": ',
            "2: passes: found 0; allowed: an integer from 1 to 1000, or until_converged",
        ),
        (
            '"feature_bag": "global",',
            '"feature_bag": "global", "feature_bag": "x",',
            "9: fixed_effect_config.global.feature_bag: stands twice",
        ),
    ],
)
def test_one_mistake_gives_a_message_with_its_line(old: str, new: str, expected: str) -> None:
    found = problems(changed((old, new)))
    assert any(problem.startswith(f"lr.yaml:{expected}") for problem in found), found


def test_all_mistakes_come_at_once() -> None:
    found = problems(
        changed(
            ('"l2_reg_weight": 0.5', '"l2_reg_weight": []'),
            ('"uid_column_name": "id"', '"uid_column_name": 1'),
            ('"partition_entity": "movie_id"', '"partition_entitty": "movie_id"'),
        )
    )
    # The shared mapping is wrong wherever it is used.
    assert [problem.split(": ")[1] for problem in found] == [
        "fixed_effect_config.global.gdmix_config.uid_column_name",
        "fixed_effect_config.global.l2_reg_weight",
        "random_effect_config.per-user.gdmix_config.uid_column_name",
        "random_effect_config.per-movie.gdmix_config.uid_column_name",
        "random_effect_config.per-movie.partition_entity",
        "random_effect_config.per-movie.partition_entitty",
    ]
    assert [problem.split(":")[1] for problem in found] == ["15", "10", "15", "15", "29", "30"]


@pytest.mark.parametrize(
    ("key", "other", "says"),
    [
        (
            "model_type",
            "linear_regression",
            "found linear_regression; fixed_effect_config.global has logistic_r",
        ),
        ("label_column_name", "click", "found click; fixed_effect_config.global has response, and all"),
        ("uid_column_name", "row", "found row; fixed_effect_config.global has id, and all"),
        ("weight_column_name", "null", "found none; fixed_effect_config.global has w, and all"),
        ("action", "inference", "found inference; fixed_effect_config.global has train, and all"),
    ],
)
def test_effects_agree(key: str, other: str, says: str) -> None:
    found = problems(changed(("{<<: *g,", f"{{<<: *g, {key}: {other},")))
    assert found[0].startswith(f"lr.yaml:34: random_effect_config.per-movie.gdmix_config.{key}: {says}")


def test_effects_agree_on_the_offset() -> None:
    (problem,) = problems(with_key("per-user", "offset_column_name: prior"))
    assert problem.startswith(
        "lr.yaml:21: random_effect_config.per-user.offset_column_name: found prior; fixed_effect_config.global "
        "has offset"
    )


def test_a_text_network_is_refused_with_a_way_out() -> None:
    text = changed(
        (
            "&g {",
            "{ model_type: detext, label_column_name: response, uid_column_name: id }, ftr_ext: cnn, x: &g {",
        )
    )
    (problem,) = problems(text)
    assert problem.startswith(
        "lr.yaml:12: fixed_effect_config.global.gdmix_config.model_type: found 'detext'; this version has no "
        "text network for a fixed effect yet."
    )
    assert "fixed_effect: external" in problem
    alone = "{output_dir: o, fixed_effect_config: {g: {gdmix_config: {model_type: detext}}}}"
    assert len(problems(alone)) == 1


def test_no_effects() -> None:
    (problem,) = problems("output_dir: o\nfixed_effect_config: {}\n")
    assert problem.startswith("lr.yaml:2: fixed_effect_config: no effects; name at least one")


@pytest.mark.parametrize(
    "text",
    [
        '{"output_dir": "o", "random_effect_config": [{"name": "per-user"}]}',
        '{"output_dir": "o", "fixed_effect_config": {"name": "global", "model_type": "logistic_regression"}}',
        '{"output_dir": "o", "fixed_effect_config": {"input_column_names": {}}}',
    ],
)
def test_the_older_format_is_named(text: str) -> None:
    (problem,) = problems(text)
    assert "older format of LinkedIn GDMix" in problem
    assert "Understood is the newer one (.yaml)" in problem


def test_a_merge_has_the_lines_of_what_it_merges() -> None:
    text = JOB.replace('"id",', '"id", "uid_colum": 1,')
    assert [problem.split(":")[1] for problem in problems(text)] == ["15", "15", "15"]


# ---- files -----------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs/d/user/train").mkdir(parents=True)
    (tmp_path / "jobs/lr.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    config, notes = load_with_notes("jobs/lr.yaml")
    assert config.data.train == (str(tmp_path / "jobs/d/global/train"),)
    assert config.data.sources["per-user"].train == (str(tmp_path / "jobs/d/user/train"),)
    assert config.output == str(tmp_path / "jobs/out/lr-training")
    assert notes == ()
    assert load_config("jobs/lr.yaml") == config


def test_input_that_is_in_the_current_directory_only_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("jobs", "d/global/train", "d/user/train", "jobs/d/user/train", "out/lr-training"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "d/global/names").touch()
    (tmp_path / "jobs/lr.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    config, notes = load_with_notes("jobs/lr.yaml", {"keep": 1})
    assert config.data.train == (str(tmp_path / "d/global/train"),)
    assert config.features["global"][0].names == str(tmp_path / "d/global/names")
    assert config.data.sources["per-user"].train == (str(tmp_path / "jobs/d/user/train"),)
    assert config.output == str(tmp_path / "out/lr-training")
    assert config.keep == 1
    assert len(notes) == 1
    assert f"found in the current directory {tmp_path}: d/global/train, d/global/names; " in notes[0]
    assert notes[0].endswith(f"; the output goes to {tmp_path}/out/lr-training")
    assert load_config("jobs/lr.yaml", {"output": "other"}).output == str(tmp_path / "other")


def test_a_job_config_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "{model: m, task: linear_regression, data: {train: t}, output: o, coordinates: {u: {random_effect: u}}}"
    )
    assert load_with_notes(tmp_path / "job.yaml")[1] == ()


def test_the_example_is_understood() -> None:
    config, notes = load_with_notes(EXAMPLE)
    assert list(config.coordinates) == ["global", "per-user", "per-movie"]
    assert config.data.columns.optional == ("weight", "offset")
    assert [note.split(" ")[0] for note in notes] == ["num_of_lbfgs_iterations", "these"]
