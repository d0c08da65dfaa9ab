"""Coordinates that are plugged in: their options are part of the config, and so are their mistakes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gdmix_core.config import (
    PluggedEffect,
    config_digest,
    config_from_json,
    config_to_json,
    input_specs,
    parse_config,
    with_values,
)
from gdmix_core.errors import ConfigError

JOB = """\
model: movies
task: logistic_regression
data: {train: t.parquet}
features: {}
coordinates:
  global:
    fixed_effect: lightgbm
    numeric: [age]
    categorical: [genre]
    early_stopping: {rounds: 7}
  per_user: {random_effect: user_id}
output: out
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "job.yaml")
    return caught.value.problems or (str(caught.value),)


def test_options_are_those_of_the_plug_in() -> None:
    config = parse_config(JOB)
    coordinate = config.coordinates["global"]
    assert isinstance(coordinate, PluggedEffect)
    assert coordinate.fixed_effect == "lightgbm"
    assert coordinate.options.model_dump(exclude_unset=True) == {
        "numeric": ("age",),
        "categorical": ("genre",),
        "early_stopping": {"rounds": 7},
    }
    assert [(spec.name, spec.kind) for spec in input_specs(config)["global"]] == [
        ("age", "number"),
        ("genre", "string"),
    ]


def test_a_config_survives_the_wire_with_its_digest() -> None:
    config = parse_config(JOB)
    again = config_from_json(config_to_json(config))
    assert again == config
    assert config_digest(again) == config_digest(config)
    assert config_digest(parse_config(JOB.replace("rounds: 7", "rounds: 8"))) != config_digest(config)


def test_all_mistakes_come_at_once_each_with_its_place() -> None:
    text = JOB.replace("numeric: [age]", "num_leaves: 1\n    numeric: 3").replace("{rounds: 7}", "{round: 7}")
    text = text.replace("random_effect: user_id", "random_effect: user_id, l2: -1")
    assert problems(text) == (
        "job.yaml:9: coordinates.global.numeric: found 3; allowed: a list",
        "job.yaml:8: coordinates.global.num_leaves: found 1; allowed: greater than or equal to 2",
        "job.yaml:11: coordinates.global.early_stopping.round: unknown key; did you mean rounds?",
        "job.yaml:12: coordinates.per_user.l2: found -1; allowed: a number that is not negative, or auto",
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "fixed_effect: lightgbm",
            "fixed_effect: lightgmb",
            (
                "coordinates.global.fixed_effect: found 'lightgmb'; allowed: logistic_regression, linear_regression, "
                "poisson_regression, external, or an installed plug-in (deep_text, lightgbm"
            ),
        ),
        (
            "    numeric: [age]\n    categorical: [genre]\n",
            "",
            "coordinates.global: no columns; name some under numeric, categorical or lists",
        ),
        ("[genre]", "[age]", "coordinates.global: column 'age' is read 2 times; name it once"),
        (
            "fixed_effect: lightgbm\n    numeric: [age]\n    categorical: [genre]\n    early_stopping: {rounds: 7}",
            "{fixed_effect: deep_text, text: [{column: title, source: more}]}",
            "coordinates.global: column 'title': found source more; declared are none",
        ),
    ],
)
def test_what_the_plug_in_or_the_registry_refuses(old: str, new: str, said: str) -> None:
    assert old in JOB
    assert said in " ".join(problems(JOB.replace(old, new)))


def test_values_of_a_search_reach_nested_options() -> None:
    config = with_values(parse_config(JOB), {"coordinates.global.early_stopping.rounds": 3})
    coordinate = config.coordinates["global"]
    assert isinstance(coordinate, PluggedEffect)
    assert coordinate.options.model_dump()["early_stopping"] == {"rounds": 3, "fraction": 0.1}


def test_reading_a_config_imports_no_library() -> None:
    """The client checks options without LightGBM or TensorFlow."""
    program = (
        "import sys\n"
        "from gdmix_core.config import parse_config\n"
        f"parse_config({JOB!r})\n"
        "print([name for name in ('lightgbm', 'tensorflow', 'pyarrow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
