from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gdmix_core.config import (
    Columns,
    DataConfig,
    ExternalEffect,
    FeatureColumn,
    FixedEffect,
    JobConfig,
    RandomEffect,
    ScoreFiles,
    Source,
    config_digest,
    config_from_json,
    config_to_json,
    load_config,
    parse_config,
    with_values,
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

COLUMNS = "columns: {label: response, weight: w, optional: [weight, offset]}"
SOURCE = "{train: m/t, validation: m/v, uid: row}"
THIRTY_TWO = list(range(1, 33))
EXTERNAL = "{fixed_effect: external, scores: {train: s/t.csv, validation: up-1, score: logit}}"


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
    with pytest.raises(
        ConfigError, match="command line: 1 mistake\n  passes: found 0; allowed: an integer from 1"
    ):
        load_config("jobs/job.yaml", {"passes": 0})


def test_paths_may_lead_upwards(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/job.yaml").write_text(
        changed(("data/train.parquet", "../../t/../u"), ("runs/movielens", ".."))
    )
    config = load_config(tmp_path / "a/b/job.yaml")
    assert (config.data.train, config.output) == ((str(tmp_path / "t/../u"),), str(tmp_path / "a"))


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


def test_what_effects_may_have_besides() -> None:
    config = parse_config(
        changed(
            ("columns: {label: response}", f"{COLUMNS}\n  sources: {{more: {SOURCE}}}"),
            ("gender]", "{column: taste, kind: vector, names: n, source: more}]"),
            ("l2: 1e-3", "l2: 1e-3, variance: simple, sparsity_threshold: 1e-4"),
            ("  per_user: {", f"  deep: {EXTERNAL}\n  per_user: {{min_rows: 2, max_rows: 2, "),
            ("output: ", "results: gdmix\ninitial_model: m/1\noutput: "),
        )
    )
    assert config.data.columns.optional == ("weight", "offset")
    assert (config.data.sources["more"].train, config.data.sources["more"].uid) == (("m/t",), "row")
    taste = config.features["user"][1]
    assert (taste.names, taste.source) == ("n", "more")
    fixed, deep, random = config.coordinates.values()
    assert isinstance(fixed, FixedEffect)
    assert (fixed.variance, fixed.sparsity_threshold) == ("simple", 1e-4)
    assert isinstance(deep, ExternalEffect)
    assert (deep.scores.train, deep.scores.validation, deep.scores.score) == ("s/t.csv", "up-1", "logit")
    assert deep.missing == "error"
    assert isinstance(random, RandomEffect)
    assert (random.min_rows, random.max_rows) == (2, 2)
    assert (config.action, config.results, config.initial_model) == ("train", "gdmix", "m/1")
    assert config_from_json(config_to_json(config)) == config


def test_every_input_path_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        changed(
            ("columns: {label: response}", f"metadata: x.json\n  sources: {{more: {SOURCE}}}"),
            ("gender]", "{column: taste, kind: vector, names: n}]"),
            ("  per_user: {", f"  deep: {EXTERNAL}\n  per_user: {{"),
            ("output: ", "initial_model: m/1\noutput: "),
        )
    )
    config = load_config(tmp_path / "job.yaml")
    deep = config.coordinates["deep"]
    assert isinstance(deep, ExternalEffect)
    assert config.data.metadata == str(tmp_path / "x.json")
    assert config.data.sources["more"].validation == (str(tmp_path / "m/v"),)
    assert config.features["user"][1].names == str(tmp_path / "n")
    # An upload has a name, not a path.
    assert (deep.scores.train, deep.scores.validation) == (str(tmp_path / "s/t.csv"), "up-1")
    assert config.initial_model == str(tmp_path / "m/1")


def test_inference_needs_no_training_data_and_no_label() -> None:
    config = parse_config(
        changed(
            ("  train: data/train.parquet\n", ""),
            ("columns: {label: response}", "columns: {optional: [label]}"),
            ("output: ", "action: inference\ninitial_model: m/1\noutput: "),
        )
    )
    assert (config.action, config.data.train) == ("inference", ())


def test_a_trial_has_its_values_and_nothing_to_search() -> None:
    places = "{passes: [1, 2], coordinates.global.l2: [1, 2], coordinates.per_user.l2.movie.genres: [7]}"
    config = parse_config(changed(("output: ", f"search: {places}\noutput: ")))
    trial = with_values(
        config,
        {"passes": 2, "coordinates.global.l2": 2, "coordinates.per_user.l2.movie.genres": 7},
    )
    assert (trial.passes, trial.search) == (2, {})
    assert trial.coordinates["global"].l2 == 2.0
    assert trial.coordinates["per_user"].l2 == {"default": 2.0, "movie.genres": 7.0, "intercept": 4.0}


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "l2: 1e-3",
            "l2: -1",
            "11: coordinates.global.l2: found -1; allowed: a number that is not negative, or auto",
        ),
        ("l2: 1e-3", "l2: much", "11: coordinates.global.l2: found 'much'; allowed: a number"),
        ("l2: 1e-3", "l2: [1]", "11: coordinates.global.l2: found a list; allowed: a number"),
        (
            "l2: 1e-3",
            "l2: .inf",
            "11: coordinates.global.l2: found inf; allowed: a number that is not negative, or auto",
        ),
        (
            "l2: 1e-3",
            "l2: {user: -2}",
            "11: coordinates.global.l2.user: found -2; allowed: a number that is not negative, or auto",
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
            "11: coordinates.global.fixed_effect: found 'trees'; allowed: logistic_regression, ",
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
        (
            "output: ",
            "passes: until\noutput: ",
            "14: passes: found 'until'; allowed: an integer from 1 to 1000, or ",
        ),
        (
            "output: ",
            "search: {passes: [1, 0]}\noutput: ",
            "14: search.passes[1]: found 0; allowed: an integer from",
        ),
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
        # sources
        (
            "columns: {label: response}",
            "sources: {m: {train: t}}",
            "6: data.sources.m.validation: data has validation files, data.sources.m has none",
        ),
        (
            "validation: [data/v1.csv, data/v2.csv]\n  columns: {label: response}",
            "sources: {m: {train: t, validation: v}}",
            "5: data.sources.m.validation: data.sources.m has validation files, data has none",
        ),
        (
            "columns: {label: response}",
            "sources: {a/b: {train: t, validation: v}}",
            "6: data.sources.a/b: allowed are letters, digits, '_', '.' and '-'",
        ),
        (
            "columns: {label: response}",
            "sources: {m: {train: t, validation: v, uidd: x}}",
            "6: data.sources.m.uidd: unknown key; did you mean uid?",
        ),
        ("data/train.parquet", "' '", "4: data.train: an empty path; give a file, a directory or a glob"),
        (
            "gender]",
            "{column: b, source: m}]",
            "8: features.user: column 'b': found source m; declared are none",
        ),
        (
            "gender]",
            "{column: b, kind: text, names: n}]",
            "8: features.user[1]: names means nothing for kind text; its options: min_df, weighting",
        ),
        # columns that may be absent
        (
            "label: response",
            "optional: [uid]",
            "6: data.columns.optional[0]: found 'uid'; allowed: one of 'label'",
        ),
        (
            "label: response",
            "optional: [label]",
            "6: data.columns.optional: found label; training needs one; allowed are weight, offset",
        ),
        # bounds on entities
        (
            "random_effect: user_id",
            "random_effect: u, min_rows: 3, max_rows: 2",
            "12: coordinates.per_user: min_rows 3 is above max_rows 2",
        ),
        (
            "random_effect: user_id",
            "random_effect: u, min_rows: 0",
            "12: coordinates.per_user.min_rows: found 0; allowed: greater than or equal to 1",
        ),
        (
            "l2: 1e-3",
            "min_rows: 3",
            "11: coordinates.global.min_rows: unknown key; ",
        ),
        (
            "l2: 1e-3",
            "variance: half",
            "11: coordinates.global.variance: found 'half'; allowed: one of 'none', 'simple' or 'full'",
        ),
        (
            "l2: 1e-3",
            "sparsity_threshold: -1",
            "11: coordinates.global.sparsity_threshold: found -1; allowed: greater than or equal to 0",
        ),
        # scores of an outside model
        (
            "{fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}",
            "{fixed_effect: external, scores: {train: s.csv}}",
            "11: coordinates.global.scores.validation: missing; the validation rows need scores as well",
        ),
        (
            "{fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}",
            "{fixed_effect: external}",
            "11: coordinates.global.scores: missing; it is required",
        ),
        (
            "{fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}",
            "{fixed_effect: external, scores: {train: s.csv, validation: 'a b'}}",
            "11: coordinates.global.scores.validation: upload 'a b' is not a name",
        ),
        (
            "{fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}",
            "{fixed_effect: external, scores: {train: a, validation: b, sore: x}}",
            "11: coordinates.global.scores.sore: unknown key; did you mean score?",
        ),
        (
            "{fixed_effect: logistic_regression, features: [user, movie], l2: 1e-3}",
            "{fixed_effect: external, scores: {train: a, validation: b}, l2: 1}",
            "11: coordinates.global.l2: unknown key; allowed: fixed_effect, scores, missing",
        ),
        # scoring only
        (
            "output: ",
            "action: inference\noutput: ",
            "1: initial_model: missing; action inference needs a model to score with",
        ),
        (
            "output: ",
            "action: inference\ninitial_model: m\npasses: 2\noutput: ",
            "16: passes: found 2; nothing is trained with action inference",
        ),
        ("output: ", "action: score\noutput: ", "14: action: found 'score'; allowed: one of 'train' or"),
        ("output: ", "results: all\noutput: ", "14: results: found 'all'; allowed: one of 'none' or 'gdmix'"),
        # a grid
        (
            "output: ",
            "search: {coordinates.global.l2: []}\noutput: ",
            "14: search.coordinates.global.l2: no values; give a list of at least one",
        ),
        (
            "output: ",
            "search: {coordinates.global.features: [[user]]}\noutput: ",
            "14: search.coordinates.global.features: cannot be searched; allowed are passes, and of a trained",
        ),
        (
            "output: ",
            "search: {coordinates.globl.l2: [1]}\noutput: ",
            "14: search.coordinates.globl.l2: cannot be searched",
        ),
        (
            "output: ",
            "search: {coordinates.global.l2: [1, -1]}\noutput: ",
            "14: search.coordinates.global.l2[1]: found -1; allowed: a number that is not negative, or auto",
        ),
        (
            "output: ",
            "search: {coordinates.global.l2.users: [1]}\noutput: ",
            "14: search.coordinates.global.l2.users[0]: found 1; coordinates.global.l2.users: no such feature",
        ),
        (
            "output: ",
            f"search: {{passes: {THIRTY_TWO}, coordinates.global.l2: {THIRTY_TWO}}}\noutput: ",
            "14: search: 1024 trials; allowed: 1000",
        ),
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


def test_what_needs_validation_rows_says_so() -> None:
    no_rows = ("  validation: [data/v1.csv, data/v2.csv]\n", "")
    (problem,) = problems(changed(no_rows, ("output: ", "search: {passes: [1, 2]}\noutput: ")))
    assert problem.startswith(
        "job.yaml:13: search: the best trial is chosen on validation rows of a training"
    )
    (problem,) = problems(changed(no_rows, ("  per_user: {", f"  deep: {EXTERNAL}\n  per_user: {{")))
    assert problem.startswith("job.yaml:11: coordinates.deep.scores.validation: there are no validation rows")


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
    for model in (
        JobConfig,
        DataConfig,
        Columns,
        Source,
        FeatureColumn,
        FixedEffect,
        ExternalEffect,
        ScoreFiles,
        RandomEffect,
    ):
        for name in model.model_fields:
            assert f"`{name}`" in reference, f"{model.__name__}.{name}"


def test_one_external_effect_is_all_that_a_request_can_score() -> None:
    scores = "{fixed_effect: external, scores: {train: ctr, validation: ctr-2}}"
    text = changed(("coordinates:\n", f"coordinates:\n  one: {scores}\n"))
    assert list(parse_config(text).coordinates) == ["one", "global", "per_user"]
    text = changed(("coordinates:\n", f"coordinates:\n  one: {scores}\n  two: {scores}\n"))
    [problem] = problems(text)
    assert "one, two are external; allowed is one" in problem


@pytest.mark.parametrize("name", ["models", "store"])
def test_results_need_folders_of_their_own(name: str) -> None:
    text = changed(("  per_user: {", f"  {name}: {{"))
    assert name in parse_config(text).coordinates
    [problem] = problems(text + "results: gdmix\n")
    assert f"coordinates.{name}: is the name of another folder of the output" in problem
