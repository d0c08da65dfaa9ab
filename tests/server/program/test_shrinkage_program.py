"""The rounds of learned shrinkage, driven by hand: what follows what, what is removed when, and what comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdmix_core import tasks
from gdmix_core.config import parse_config
from gdmix_core.solvers.joint.variance_components import VANISHED_RIDGE
from gdmix_server.state.model import FixedEffectStage, UnitStage

from .answers import LEARNING
from .test_training_program import CONFIG, Driver

TEXT = CONFIG.replace("passes: 3", "passes: 1").replace(*LEARNING)


def learned(driver: type[Driver] = Driver) -> Driver:
    return driver(parse_config(TEXT), [0.55, 0.6, 0.7])


def stage_names(driver: Driver) -> list[str]:
    return [stage.name for stage in driver.stages]


def notices(driver: Driver) -> list[str]:
    return [report.notice for report in driver.reports if report.notice.startswith(("shrinkage", "per_user"))]


def test_a_round_is_linearised_solved_and_ended() -> None:
    names = stage_names(learned())
    first = names.index("shrinkage.0.linearise-0")
    assert names[first - 1] == "shrinkage.0.survey"
    assert names[first + 1 : first + 8] == [
        "shrinkage.1.begin",
        "shrinkage.1.multiply-0",
        "shrinkage.1.advance-0",
        "shrinkage.1.multiply-1",
        "shrinkage.1.advance-1",
        "shrinkage.1.end",
        "shrinkage.1.linearise-1",
    ]
    scored = names.index("shrinkage.41.scores")
    assert names[scored + 1] == "global.1.prepare"


def test_what_was_learned_is_what_is_trained_with_and_reported() -> None:
    driver = learned()
    [train] = [stage for stage in driver.stages if stage.name == "per_user.1.train"]
    assert isinstance(train, UnitStage)
    [groups] = {tuple(unit.regularization.groups.items()) for unit in train.units}  # type: ignore[attr-defined]
    reports = {report.coordinate.name: report.coordinate for report in driver.reports if report.coordinate}
    found = {group.name: group for group in reports["per_user"].shrinkage}
    assert set(found) == {"intercept", "movie.genres"}
    assert dict(groups) == {"default": 1.0} | {name: group.l2 for name, group in found.items()}
    # 80 coefficients (20 in each of 4 parts), a trace and a square of 10: the data decide 80 − 10 l2 = 10 l2.
    for group in found.values():
        assert group.l2 == pytest.approx(4.0, rel=0.05)
        assert group.effective == pytest.approx(40.0, rel=0.05)
        assert group.learned
        assert group.variance == pytest.approx(1 / group.l2)
    assert not reports["global"].shrinkage[0].learned


def test_the_fixed_effect_alone_is_measured() -> None:
    told = [report.notice for report in learned().reports if " alone: " in report.notice]
    assert len(told) == 1
    assert told[0].startswith("global alone: validation auc 0.5500, ")


def test_training_begins_at_the_scores_of_the_joint_optimum() -> None:
    driver = learned()
    [optimise] = [stage for stage in driver.stages if stage.name == "global.1.optimise"]
    assert isinstance(optimise, FixedEffectStage)
    assert [shard.scores for shard in optimise.shards] == [
        (f"shrinkage.41.scores/{shard}/per_user",) for shard in range(4)
    ]


def test_nothing_is_removed_before_its_last_reader_is_done() -> None:
    gone: set[str] = set()
    for stage in learned().stages:
        if not isinstance(stage, UnitStage) or not stage.name.startswith("shrinkage"):
            continue
        for unit in stage.units:
            text = tasks.to_json(replace(unit, obsolete=()) if isinstance(unit, tasks.JointTask) else unit)
            assert not [directory for directory in gone if f'"{directory}/' in text], stage.name
        removed = [
            path for unit in stage.units if isinstance(unit, tasks.JointTask) for path in unit.obsolete
        ]
        assert len(set(removed)) == len(removed)
        for path in removed:  # nothing of what this very stage reads either
            assert not any(
                f'"{path}/' in tasks.to_json(replace(unit, obsolete=()))
                for unit in stage.units
                if isinstance(unit, tasks.JointTask)
            ), (stage.name, path)
        gone.update(removed)
    assert {"shrinkage.1.advance-0/0", "shrinkage.1.multiply-1/0"} <= gone


class Growing(Driver):
    """The objective grows with the first whole Newton step."""

    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        found = super().answer(task)
        if isinstance(task, tasks.LineariseShard) and task.step == 1.0 and "shrinkage.0" in str(task.before):
            assert isinstance(found, tasks.ShardLinearised)
            return replace(found, value=1000.0)
        return found


def test_a_newton_step_that_makes_it_worse_is_halved_and_the_variances_stay() -> None:
    driver = learned(Growing)
    names = stage_names(driver)
    assert names[names.index("shrinkage.1.linearise-1") + 1] == "shrinkage.1.linearise-2"
    [halved] = [stage for stage in driver.stages if stage.name == "shrinkage.1.linearise-2"]
    assert isinstance(halved, UnitStage)
    assert {unit.step for unit in halved.units} == {0.5}  # type: ignore[attr-defined]
    [begin] = [stage for stage in driver.stages if stage.name == "shrinkage.2.begin"]
    assert isinstance(begin, UnitStage)
    assert {unit.step for unit in begin.units} == {0.5}  # type: ignore[attr-defined]
    assert notices(driver)[0].endswith("; coefficients only")


class Nothing(Driver):
    """No coefficient of the movies' genres has anything to say."""

    l2 = 1.0

    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        found = super().answer(task)
        if isinstance(task, tasks.BeginSolve):
            self.l2 = task.regularization.groups.get("movie.genres", self.l2)
        if isinstance(found, tasks.SolveEnded):
            groups = tuple(
                replace(group, squares=(1e-9, 0.0, 0.0), block_trace=19.95 / self.l2)
                if group.group == 3
                else group
                for group in found.groups
            )
            return replace(found, groups=groups)
        return found


def test_a_group_without_variance_vanishes() -> None:
    driver = learned(Nothing)
    vanished = "per_user.movie.genres: the data show no variance; its 80 coefficients are 0"
    assert vanished in notices(driver)
    [train] = [stage for stage in driver.stages if stage.name == "per_user.1.train"]
    assert isinstance(train, UnitStage)
    for unit in train.units:
        assert unit.regularization.groups["movie.genres"] == VANISHED_RIDGE  # type: ignore[attr-defined]
    reports = [report.coordinate for report in driver.reports if report.coordinate]
    [group] = [group for group in reports[-1].shrinkage if group.name == "movie.genres"]
    assert (group.variance, group.effective, group.shrinkage) == (0.0, 0.0, 1.0)
