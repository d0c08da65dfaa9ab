from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gdmix_core.config import (
    FixedEffect,
    JobConfig,
    RandomEffect,
    config_digest,
    config_from_json,
    config_to_json,
    load_config,
    parse_config,
)
from gdmix_core.errors import ConfigError

JOB = """\
model: movielens
task: logistic_regression
data:
  train: data/train.parquet
  validation: [data/v1.csv, data/v2.csv]
  columns: {label: response}
features:
  user: [{column: age, kind: numeric}, gender]
  movie: [{column: genres, kind: list, separator: "|"}]
coordinates:
  global: {fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}
  per_user: {random_effect: user_id, features: movie, l2: {default: 2, movie.genres: 0.5, intercept: 4}}
metrics: [auc, "auc:user_id"]
output: runs/movielens
"""


def changed(*replacements: tuple[str, str]) -> str:
    text = JOB
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "job.yaml")
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems or (str(caught.value),)


# ---- what a config means --------------------------------------------------------------------------------


def test_a_job_is_read_with_its_order_and_defaults() -> None:
    config = parse_config(JOB)
    assert config.data.train == ("data/train.parquet",)
    assert config.data.validation == ("data/v1.csv", "data/v2.csv")
    assert config.data.columns.uid == "uid"
    assert list(config.coordinates) == ["global", "per_user"]
    fixed, random = config.coordinates.values()
    assert isinstance(fixed, FixedEffect)
    assert isinstance(random, RandomEffect)
    assert fixed.l2 == 1e-3
    assert random.l2 == {"default": 2.0, "movie.genres": 0.5, "intercept": 4.0}
    assert random.features == ("movie",)
    assert (fixed.regularize_bias, random.regularize_bias) == (False, True)
    assert config.features["user"][1].column == "gender"
    assert config.features["user"][1].kind == "auto"
    assert config.effective_metrics == ("auc", "auc:user_id")
    assert parse_config(changed(('metrics: [auc, "auc:user_id"]', ""))).effective_metrics == (
        "auc",
        "logloss",
    )


def test_the_canonical_form_is_read_back_as_it_was() -> None:
    config = parse_config(JOB)
    text = config_to_json(config)
    assert config_from_json(text) == config
    assert config_to_json(config_from_json(text)) == text


def test_digest_is_of_what_decides_the_model() -> None:
    digest = config_digest(parse_config(JOB))
    for irrelevant in (("runs/movielens", "elsewhere"), ("data/train.parquet", "other.csv")):
        assert config_digest(parse_config(changed(irrelevant))) == digest
    for relevant in (("l2: 1e-3", "l2: 1"), ("response", "click"), ("  user: [", "  user: [zip, ")):
        assert config_digest(parse_config(changed(relevant))) != digest


@pytest.mark.parametrize(
    ("written", "meant"), [("1e-3", 1e-3), ("1E2", 100.0), (".5", 0.5), ("0", 0.0), ("+1.5e1", 15.0)]
)
def test_numbers_are_read_as_people_write_them(written: str, meant: float) -> None:
    config = parse_config(changed(("l2: 1e-3", f"l2: {written}")))
    assert config.coordinates["global"].l2 == meant


def test_paths_are_relative_to_the_file_and_overrides_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/job.yaml").write_text(JOB + "store: lmdb:store\n")
    monkeypatch.chdir(tmp_path)
    config = load_config("jobs/job.yaml")
    assert config.data.train == (str(tmp_path / "jobs/data/train.parquet"),)
    assert config.output == str(tmp_path / "jobs/runs/movielens")
    assert config.store == f"lmdb:{tmp_path}/jobs/store"
    config = load_config("jobs/job.yaml", {"output": "here", "passes": 3, "store": "redis://h:1"})
    assert config.output == str(tmp_path / "here")
    assert config.data.train == (str(tmp_path / "jobs/data/train.parquet"),)
    assert (config.passes, config.store) == (3, "redis://h:1")
    with pytest.raises(ConfigError, match="command line: 1 mistake\n  passes: found 0; allowed: greater"):
        load_config("jobs/job.yaml", {"passes": 0})


def test_absolute_and_remote_paths_stay(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        changed(("data/train.parquet", "s3://bucket/t"), ("runs/movielens", "/r"))
    )
    config = load_config(tmp_path / "job.yaml")
    assert (config.data.train, config.output) == (("s3://bucket/t",), "/r")


def test_reading_configs_needs_no_heavy_module() -> None:
    code = "import sys, gdmix_core.config; print({'numpy', 'pyarrow', 'numba'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "set()"


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("l2: 1e-3", "l2: -1", "11: coordinates.global.l2: found -1; allowed: greater than or equal to 0"),
        ("l2: 1e-3", "l2: much", "11: coordinates.global.l2: found 'much'; allowed: a number"),
        ("l2: 1e-3", "l2: [1]", "11: coordinates.global.l2: found a list; allowed: a number"),
        ("l2: 1e-3", "l2: .inf", "11: coordinates.global.l2: found inf; allowed: a finite number"),
        (
            "l2: 1e-3",
            "l2: {user: -2}",
            "11: coordinates.global.l2.user: found -2; allowed: greater than or equ",
        ),
        (
            "l2: 1e-3",
            "l2: {users: 2}",
            "11: coordinates.global.l2.users: no such feature group; allowed are default, interc",
        ),
        ("l2: 1e-3", "l22: 1", "11: coordinates.global.l22: unknown key; did you mean l2?"),
        (
            "fixed_effect: logistic",
            "fixed_effect: linear",
            "11: coordinates.global.fixed_effect: found linear_regression; the job's task is logistic",
        ),
        (
            "fixed_effect: logistic_regression",
            "fixed_effect: trees",
            "11: coordinates.global.fixed_effect: found 'trees'; allowed: one of 'logistic_regression'",
        ),
        (
            "random_effect: user_id",
            "random_effect: u, fixed_effect: logistic_regression",
            "12: coordinates.per_user: found a mapping; a coordinate has exactly one of the keys",
        ),
        (
            "features: movie,",
            "features: films,",
            "12: coordinates.per_user.features: found films; declared bag",
        ),
        (
            "kind: numeric",
            "kind: numerc",
            "8: features.user[0].kind: found 'numerc'; allowed: one of 'auto', ",
        ),
        (
            "kind: numeric",
            "kind: numeric, min_df: 2",
            "8: features.user[0]: min_df means nothing for kind numer",
        ),
        ("gender]", "age]", "8: features.user: column 'age' is named 2 times"),
        ("gender]", "3]", "8: features.user[1]: found 3; allowed: a mapping of keys"),
        (
            "  user: [",
            "  us.er: [a]\n  user: [",
            "8: features.us.er: a bag's name has letters, digits, '_' and '-' only",
        ),
        (
            "columns: {label: response}",
            "columns: {labl: y}",
            "6: data.columns.labl: unknown key; did you mean l",
        ),
        ("data/train.parquet", "[]", "4: data.train: no training data; give at least one file"),
        (
            "metrics: [auc,",
            "metrics: [acu,",
            "13: metrics[0]: found 'acu'; allowed for logistic_regression are",
        ),
        ("output: runs/movielens", "", "1: output: missing; it is required"),
        ("output: ", "passes: '3'\noutput: ", "14: passes: found '3'; allowed: an integer"),
        ("output: ", "passes: true\noutput: ", "14: passes: found True; allowed: an integer"),
        ("output: ", "activate: 'no'\noutput: ", "14: activate: found 'no'; allowed: a boolean"),
        (
            "output: ",
            "store: mysql://x\noutput: ",
            "14: store: 'mysql://x' is not a store: allowed are lmdb:",
        ),
        ("output: ", "outputs: x\noutput: ", "14: outputs: unknown key; did you mean output?"),
        (
            "output: ",
            "zzz: 1\noutput: ",
            "14: zzz: unknown key; allowed: model, task, data, features, coordinat",
        ),
        (
            "model: movielens",
            "model: a/b",
            "1: model: model 'a/b' is not a name: allowed are 1 to 64 letters",
        ),
        ("model: movielens", "model: {}", "1: model: found a mapping; allowed: a string"),
        ("output: ", "task: x\noutput: ", "14: task: stands twice"),
        ("gender]", "gender, {column: a, column: b}]", "8: features.user[2].column: stands twice"),
        ("output: ", "1: x\noutput: ", "1: a key must be a string"),
    ],
)
def test_one_mistake_gives_one_message_with_its_line(old: str, new: str, expected: str) -> None:
    (problem,) = problems(changed((old, new)))
    assert expected in problem
    assert problem.startswith("job.yaml:")


def test_all_mistakes_come_at_once() -> None:
    found = problems(
        changed(
            ("model: movielens", "model: '?'"),
            ("kind: numeric", "kind: x"),
            ("l2: 1e-3", "l2: -1, solver: magic"),
            ("output: runs/movielens", "keep: -1"),
        )
    )
    assert [problem.split(": ")[1] for problem in found] == [
        "model",
        "features.user[0].kind",
        "coordinates.global.l2",
        "coordinates.global.solver",
        "output",
        "keep",
    ]


def test_a_coordinate_may_be_called_like_its_kind() -> None:
    (problem,) = problems(changed(("  global:", "  fixed_effect:"), ("l2: 1e-3", "l2: -1")))
    assert problem.startswith("job.yaml:11: coordinates.fixed_effect.l2: found -1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "job.yaml: empty; a job config has at least model, task, data, coordinates, output"),
        ("hello", "job.yaml: found str; a job config is a mapping of keys"),
        ("- 1", "job.yaml: found list; a job config is a mapping of keys"),
        ("model: [", "job.yaml:1:9: not YAML: "),
        ("a: 1\n---\nb: 2\n", "job.yaml:2:1: not YAML: "),
        ("model: !!python/object:os.system {}", "job.yaml:1:8: not YAML: could not determine a constructor"),
        ("a: &a [*a]", "job.yaml:1: a[0]: an alias refers to itself"),
    ],
)
def test_what_is_no_config_is_one_message(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "job.yaml")
    assert str(caught.value).startswith(expected)


def test_aliases_cannot_blow_a_config_up() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (problem,) = problems("\n".join(lines))
    assert "values; is an alias used too often?" in problem


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xff")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text \(byte 7\)"):
        load_config(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="config: not JSON: "):
        config_from_json("{")


def test_every_field_is_documented() -> None:
    reference = (Path(__file__).parents[3] / "docs/config.md").read_text(encoding="utf-8")
    from gdmix_core.config import Columns, DataConfig, FeatureColumn

    for model in (JobConfig, DataConfig, Columns, FeatureColumn, FixedEffect, RandomEffect):
        for name in model.model_fields:
            assert f"`{name}`" in reference, f"{model.__name__}.{name}"
