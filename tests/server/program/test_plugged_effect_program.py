"""Programs of jobs whose fixed effect is plugged in."""

from __future__ import annotations

import pytest

from gdmix_core import tasks
from gdmix_core.config import parse_config
from gdmix_core.data.layout import InputSpec
from gdmix_core.errors import ConfigError

from .answers import OPENED, PLUGGING
from .test_search_and_scoring import CONFIG, drive, mismatches

TREES = CONFIG.replace(*PLUGGING)
OPENED_TREES = tasks.OpenedCoordinate(
    name="global",
    effect="lightgbm",
    features=(),
    intercept=False,
    entity_column="",
    parts=0,
    columns=("age", "genres"),
)


def test_the_columns_of_the_plug_in_are_prepared_for_its_coordinate() -> None:
    driver = drive(TREES, 0.6, 0.7)
    [inspected] = driver.units("inspect")
    wanted = {"global": (InputSpec(name="age", kind="number"), InputSpec(name="genres", kind="string"))}
    assert inspected.inputs == wanted
    for unit in driver.units("shards"):
        assert [(column.name, column.source) for column in unit.inputs["global"]] == [
            ("age", ""),
            ("genres", ""),
        ]
        assert unit.designs == ()


def test_one_unit_fits_and_few_units_score() -> None:
    driver = drive(TREES, 0.6, 0.7)
    [fit] = driver.units("global.1.fit")
    assert [shard.scores for shard in fit.train] == [(), (), (), ()]
    assert (fit.use.plugin, fit.use.task, fit.use.coordinate) == ("lightgbm", "logistic_regression", "global")
    [score] = driver.units("global.1.score")
    assert score.directory == "global.1.fit/0/model"
    assert [(shard.role, shard.shard) for shard in score.shards] == [
        *(("train", number) for number in range(4)),
        ("validation", 0),
    ]
    offsets = driver.units("per_user.1.offsets")
    assert offsets[2].input.scores == ("global.1.score/0/train-00002",)


def test_notices_and_facts_of_a_fit_reach_people() -> None:
    driver = drive(TREES, 0.6, 0.7)
    assert {"global: few rows", "global: trees 20, kind small"} <= set(driver.notices)
    assert [report.notice for report in driver.reports if report.warning] == ["global: few rows"]
    measured = next(report for report in driver.measured if report.name == "global")
    assert (measured.what, measured.iterations, measured.coefficients) == ("lightgbm", 20, 0)


def test_the_manifest_gets_what_the_model_consists_of() -> None:
    driver = drive(TREES, 0.6, 0.7)
    [unit] = driver.units("publish.model")
    found = unit.manifest["coordinates"]["global"]["plugin"]
    assert found == {
        "distribution": "gdmix",
        "version": "1",
        "columns": [
            {"name": "age", "kind": "number", "dimension": None},
            {"name": "genres", "kind": "string", "dimension": None},
        ],
        "files": {"trees.txt": {"sha256": "ab", "size": 3}},
    }
    assert unit.parts[0].directories == ("global.1.fit/0/model",)


def test_each_of_several_passes_fits_anew_with_the_others_as_offsets() -> None:
    driver = drive(TREES + "passes: 2\n", 0.6, 0.7, 0.7, 0.8)
    [again] = driver.units("global.2.fit")
    assert again.train[1].scores == ("per_user.1.assemble/1",)
    assert len(again.validation) == 1


def test_a_scoring_job_scores_with_the_files_of_the_model() -> None:
    text = TREES + "action: inference\ninitial_model: before\n"
    driver = drive(text, 0.6, 0.7, opened=(OPENED_TREES, OPENED[1]))
    assert not [name for name in driver.names if name.endswith(".fit")]
    [score] = driver.units("global.1.score")
    assert score.directory == "before/global/plugin"


def test_a_model_that_reads_other_columns_cannot_score() -> None:
    text = TREES.replace("numeric: [age]", "numeric: [height]") + "action: inference\ninitial_model: before\n"
    assert mismatches(text, OPENED_TREES, OPENED[1]) == [
        "coordinates.global: reads ['height', 'genres'], in the initial model ['age', 'genres']"
    ]


def test_a_warm_start_says_that_the_plug_in_begins_anew() -> None:
    driver = drive(TREES + "initial_model: before\n", 0.6, 0.7, opened=(OPENED_TREES, OPENED[1]))
    assert "global: fitted anew; plug-ins take nothing over from an initial model" in driver.notices


def test_options_can_be_searched() -> None:
    driver = drive(TREES + "search: {coordinates.global.rounds: [5, 10]}\n", 0.6, 0.7, 0.6, 0.8)
    fits = [stage.units[0] for stage in driver.stages if stage.name.endswith("fit")]
    assert ['"rounds":5,' in fit.use.options_json for fit in fits] == [True, False]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("coordinates.global.rounds: [5, 0]", "greater than or equal to 1"),
        ("coordinates.global.numeric: [[age, height]]", "other columns are read"),
        ("coordinates.global.fixed_effect: [lightgbm]", "cannot be searched"),
    ],
)
def test_searches_that_options_do_not_allow(search: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(TREES + f"search: {{{search}}}\n")
