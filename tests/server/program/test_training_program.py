"""The training program, driven by hand: every stage is answered with results made up from its tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from gdmix_core import tasks
from gdmix_core.config import JobConfig, config_from_json, parse_config
from gdmix_core.errors import DataError
from gdmix_core.metrics import MetricValue
from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.solvers.entity_status import EntityStatus
from gdmix_core.solvers.fixed_effect import FixedEffectStatus
from gdmix_server.program import ProgramInput, job_program
from gdmix_server.state.model import FixedEffectOutcome, FixedEffectStage, Report, UnitsOutcome, UnitStage

from .answers import LEARNING, OPENED, OPTIMISED, PLUGGING, answered

CONFIG = """
model: movies
task: logistic_regression
data: {train: train.parquet, validation: validation.parquet}
features:
  user: [age]
  movie: [genres]
coordinates:
  global: {fixed_effect: logistic_regression, features: [user, movie]}
  per_user: {random_effect: user_id, features: movie, l2: {intercept: 3, movie: 2}}
passes: 3
metrics: [auc, logloss, "auc:user_id"]
output: out
"""


Answer = Callable[[tasks.Task], tasks.TaskResult]
SHARDS = 4


class Driver:
    """Runs a program to its end and keeps what it yielded."""

    def __init__(
        self,
        config: JobConfig,
        aucs: Sequence[float | None],
        rows: tuple[int, int] = (140_000, 100),
        optimised: FixedEffectOutcome | None = None,
        products: Sequence[tuple[float, ...]] = (),
    ) -> None:
        """Take the AUCs that are measured, and each pass's products with those before it, over four shards."""
        self.stages: list[UnitStage | FixedEffectStage] = []
        self.reports: list[Report] = []
        self._aucs, self._rows = iter(aucs), rows
        self._products = [products_of_shard for products_of_shard in products for _ in range(SHARDS)]
        program = job_program(
            ProgramInput(
                job_id="j1",
                config=config,
                work_directory="/work",
                store="lmdb:/out/store",
                epoch=5,
                owner="journal",
            )
        )
        step = next(program)
        while True:
            answer = None
            if isinstance(step, Report):
                self.reports.append(step)
            elif isinstance(step, FixedEffectStage):
                self.stages.append(step)
                answer = optimised or OPTIMISED
            else:
                self.stages.append(step)
                answer = UnitsOutcome(
                    results=tuple(self.answer(unit) for unit in step.units),
                    directories=tuple(f"{step.name}/{i}" for i in range(len(step.units))),
                    seconds=1.0,
                    reproducible=step.name != "publish.begin",
                )
            try:
                step = program.send(answer)
            except StopIteration:
                break

    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        match task:
            case tasks.InspectData():
                splits = tuple(
                    tasks.Split(role=role, path=f"{role}.parquet", format="parquet")
                    for role in ("train", "validation")
                )
                encoding = tasks.EncodingSpec(
                    data=task.data,
                    columns=(),
                    entity_columns=task.entity_columns,
                    task=task.task,
                    inputs=task.inputs,
                )
                return tasks.DataInspected(seconds=0, splits=splits, encoding=encoding)
            case tasks.IndexFeatures():
                rows = self._rows[0] if task.split.role == "train" else self._rows[1]
                return tasks.FeaturesIndexed(seconds=0, rows=rows)
            case tasks.OpenModel():
                return tasks.ModelOpened(seconds=0, task="logistic_regression", coordinates=OPENED)
            case tasks.MergeIndex() | tasks.TakeIndex():
                return tasks.IndexMerged(
                    seconds=0, bag_sizes={"user": 1, "movie": 19}, schema_fingerprint="0" * 16
                )
            case tasks.EncodeSplit():
                return tasks.SplitEncoded(seconds=0, rows=1, nulls={"age": 2}, unknown={"genres": 1})
            case tasks.BuildShard():
                nonzeros = {design.name: 7 for design in task.designs}
                without = {grouping.name: 0 for grouping in task.groupings}
                return tasks.ShardBuilt(
                    seconds=0, rows=5, nonzeros=nonzeros, without_entity=without, weight=5.0
                )
            case tasks.BuildPartition():
                return tasks.PartitionBuilt(seconds=0, rows=5, entities=2, largest_entity=3)
            case tasks.PrepareFixedEffect():
                return tasks.FixedEffectPrepared(seconds=0, dimension=21)
            case tasks.FinishFixedEffect():
                return tasks.FixedEffectFinished(seconds=0, nonzero=21, penalty=0.25)
            case tasks.FitPlugin():
                return tasks.PluginFitted(seconds=0, distribution="gdmix", version="1", files={})
            case tasks.ScorePlugin():
                return tasks.PluginScored(seconds=0, rows=40)
            case tasks.ScoreFixedEffect() | tasks.AssembleScores():
                return tasks.ShardScored(seconds=0, rows=5)
            case tasks.WriteOffsets():
                return tasks.OffsetsWritten(seconds=0, rows=5)
            case tasks.TrainRandomEffect():
                return tasks.RandomEffectTrained(
                    seconds=0,
                    entities=2,
                    rows=5,
                    coefficients=9,
                    statuses={"converged": 1, "singular": 1},
                    unconverged=(
                        tasks.Unconverged(entity=f"u{task.partition}", status="singular", gradient_ratio=2.0),
                    ),
                    validation_rows_unseen=0,
                    penalty=0.5,
                )
            case tasks.MeasurePass():
                products = tuple(value / SHARDS for value in self._products.pop(0))
                return tasks.PassMeasured(seconds=0, loss=2.5, products=products)
            case tasks.WriteSlopeChanges():
                return tasks.SlopeChangesWritten(seconds=0, rows=5)
            case tasks.MeasureGradient():
                return tasks.GradientMeasured(
                    seconds=0, largest=0.5 if task.part.design else 0.25, square=1.0
                )
            case tasks.MixScores():
                return tasks.ShardScored(seconds=0, rows=5)
            case tasks.LoadFixedEffect():
                return tasks.FixedEffectLoaded(seconds=0, coefficients=21)
            case tasks.ScorePartition():
                return tasks.PartitionScored(seconds=0, rows=5, rows_unseen=2)
            case tasks.ClearResults():
                return tasks.ResultsCleared(seconds=0)
            case tasks.WriteScores():
                return tasks.ScoresWritten(seconds=0, rows=5)
            case tasks.WriteModelFile():
                return tasks.ModelFileWritten(seconds=0, models=2)
            case tasks.WriteSummary():
                return tasks.SummaryWritten(seconds=0)
            case tasks.MeasureShard():
                return tasks.ShardMeasured(seconds=0, rows=5, sums={"logloss": (3.0, 5.0, 5.0)})
            case tasks.MergeRuns():
                return tasks.RunsMerged(seconds=0, values={"auc": MetricValue(next(self._aucs))})
            case tasks.MeasureEntities():
                return tasks.EntitiesMeasured(
                    seconds=0,
                    sums={"auc:user_id": 1.0},
                    entities={"auc:user_id": 2},
                    entities_undefined={"auc:user_id": 1},
                )
            case tasks.CheckStore():
                return tasks.StoreChecked(seconds=0)
            case tasks.BeginPublish():
                return tasks.PublishBegun(seconds=0, ticket=PublishTicket("movies", 12, 11, 4))
            case tasks.FinishModel():
                return tasks.ModelFinished(seconds=0, directory="out/models/12", content_digest="d")
            case tasks.PublishPart():
                return tasks.PartPublished(seconds=0, coordinate=task.coordinate, entities=2, checksum=1)
            case tasks.FinishPublish():
                return tasks.PublishFinished(
                    seconds=0, activated=True, winner=None, entities=8, removed_versions=()
                )
            case tasks.RemoveWork():
                return tasks.WorkRemoved(seconds=0)
        return answered(task)

    def units(self, stage: str) -> tuple[tasks.Task, ...]:
        [found] = [s for s in self.stages if s.name == stage]
        assert isinstance(found, UnitStage)
        return found.units


def test_one_pass_without_validation_publishes_it() -> None:
    text = CONFIG.replace(", validation: validation.parquet", "").replace("passes: 3", "passes: 1")
    driver = Driver(parse_config(text), [], rows=(10_000, 0))
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [1]
    assert not [stage for stage in driver.stages if "measure" in stage.name]
    [published] = [report.published for report in driver.reports if report.published]
    assert (published.version, published.activated) == (12, True)


def test_all_passes_are_made_when_nothing_is_measured() -> None:
    driver = Driver(
        parse_config(CONFIG.replace(", validation: validation.parquet", "")), [], rows=(10_000, 0)
    )
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [3]
    assert {stage.name.split(".")[1] for stage in driver.stages if ".optimise" in stage.name} == {
        "1",
        "2",
        "3",
    }


def test_an_undefined_metric_is_no_improvement() -> None:
    """The first pass is published then, and the second is the last."""
    driver = Driver(parse_config(CONFIG), [None] * 4)
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [1]
    measured = [r.coordinate for r in driver.reports if r.coordinate]
    assert [(r.pass_number, r.validation[0].value) for r in measured] == [(1, None)] * 2 + [(2, None)] * 2
    # A value, whatever it is, is better than none.
    driver = Driver(parse_config(CONFIG), [None, None, 0.6, 0.3, 0.6, 0.2])
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [2]


def test_names_of_stages_are_unique() -> None:
    names = [stage.name for stage in Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.8, 0.7, 0.9]).stages]
    assert len(set(names)) == len(names)


def test_a_coordinate_never_sees_its_own_scores() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.8, 0.7, 0.9])
    first, second = (s for s in driver.stages if s.name in {"global.1.optimise", "global.2.optimise"})
    assert isinstance(first, FixedEffectStage)
    assert isinstance(second, FixedEffectStage)
    assert [shard.scores for shard in first.shards] == [()] * 4
    assert [shard.scores for shard in second.shards] == [(f"per_user.1.assemble/{i}",) for i in range(4)]
    offsets = driver.units("per_user.2.offsets")
    assert [t.input.scores for t in offsets if isinstance(t, tasks.WriteOffsets)] == [
        (f"global.2.score/{i}",) for i in range(4)
    ]


UNTIL_CONVERGED = CONFIG.replace("passes: 3", "passes: until_converged")


def offsets_of(driver: Driver, stage: str) -> list[tuple[str, ...]]:
    """The score blocks that a coordinate was trained against, by shard."""
    [found] = [s for s in driver.stages if s.name == stage]
    if isinstance(found, FixedEffectStage):
        return [shard.scores for shard in found.shards]
    return [unit.input.scores for unit in found.units if isinstance(unit, tasks.WriteOffsets)]


def test_until_converged_publishes_the_joint_optimum_whatever_it_measures() -> None:
    driver = Driver(
        parse_config(UNTIL_CONVERGED),
        [0.6, 0.9, 0.6, 0.8, 0.6, 0.7],
        products=[(20.0,), (0.0, 5.0), (0.0, 0.0, 20 * 0.9e-8)],
    )
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [3]
    notices = [report.notice for report in driver.reports if "pass " in report.notice]
    # Of four shards the losses, of a fixed effect and four partitions the penalties; 20 rows.
    assert (
        notices[0]
        == "pass 1: joint objective 12.250000, largest gradient 0.5 (norm 1), scores changed by 1 (root mean square)"
    )
    assert (
        notices[1]
        == "pass 2: joint objective 12.250000, largest gradient 0.5 (norm 1), scores changed by 0.5 (root mean square)"
    )
    assert notices[3] == "the joint optimum is reached in pass 3"
    assert not [stage for stage in driver.stages if ".4." in stage.name]
    names = [stage.name for stage in driver.stages]
    assert len(set(names)) == len(names)


def test_offsets_are_extrapolated_until_the_coordinate_is_trained_anew() -> None:
    driver = Driver(parse_config(UNTIL_CONVERGED), [0.6] * 6, products=[(20.0,), (0.0, 5.0), (0.0, 0.0, 0.0)])
    assert offsets_of(driver, "global.1.optimise") == [()] * SHARDS
    # One pass gives nothing to extrapolate from; of two, that which changed less has more weight.
    assert offsets_of(driver, "global.2.optimise") == [(f"per_user.1.assemble/{i}",) for i in range(SHARDS)]
    assert offsets_of(driver, "global.3.optimise") == [(f"per_user.2.mix/{i}",) for i in range(SHARDS)]
    assert offsets_of(driver, "per_user.3.offsets") == [(f"global.3.score/{i}",) for i in range(SHARDS)]
    mix = driver.units("per_user.2.mix")
    assert all(isinstance(unit, tasks.MixScores) for unit in mix)
    assert [unit.scores for unit in mix] == [
        (f"per_user.1.assemble/{i}", f"per_user.2.assemble/{i}") for i in range(SHARDS)
    ]
    assert [unit.weights for unit in mix] == [pytest.approx((0.2, 0.8))] * SHARDS
    # What changed in a pass is the new scores less those that stood for them, extrapolated ones included.
    measured = driver.units("per_user.3.joint")[1]
    assert isinstance(measured, tasks.MeasurePass)
    assert [(change.before, change.scores) for (change,) in measured.changes] == [
        (None, "per_user.1.assemble/1"),
        ("per_user.1.assemble/1", "per_user.2.assemble/1"),
        ("per_user.2.mix/1", "per_user.3.assemble/1"),
    ]
    assert measured.input.scores == ("global.3.score/1", "per_user.3.assemble/1")


def test_a_pass_that_changes_much_more_begins_the_extrapolation_anew() -> None:
    driver = Driver(parse_config(UNTIL_CONVERGED), [0.6] * 6, products=[(1.0,), (0.0, 4.1), (0.0, 0.0)])
    assert offsets_of(driver, "global.3.optimise") == [(f"per_user.2.assemble/{i}",) for i in range(SHARDS)]
    assert not [stage for stage in driver.stages if stage.name.endswith(".mix")]


def test_a_joint_optimum_that_is_not_reached_is_said() -> None:
    products = [(0.5,) * min(number, 8) for number in range(1, 101)]
    driver = Driver(parse_config(UNTIL_CONVERGED), [0.6] * 200, products=products)
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [100]
    assert "not reached in 100 passes" in [r.notice for r in driver.reports if r.warning][-1]


def test_a_coordinate_alone_is_at_its_optimum_after_one_pass() -> None:
    alone = UNTIL_CONVERGED.replace(
        "  per_user: {random_effect: user_id, features: movie, l2: {intercept: 3, movie: 2}}\n", ""
    )
    driver = Driver(parse_config(alone), [0.6], products=[(0.0,)])
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [1]


def test_measuring_adds_all_coordinates_in_their_order() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.8, 0.7, 0.9])
    [unit] = driver.units("global.2.measure")
    assert isinstance(unit, tasks.MeasureShard)
    assert unit.input.scores == ("global.2.score/4", "per_user.1.assemble/4")


def test_the_best_pass_is_published_and_a_useless_pass_is_the_last() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.8, 0.6, 0.75])
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [1]
    assert "improved nothing" in " ".join(report.notice for report in driver.reports)
    [unit] = driver.units("publish.model")
    assert isinstance(unit, tasks.FinishModel)
    assert unit.parts[0].directories[0] == "global.1.finish/0"
    assert unit.parts[1].directories[0] == "per_user.1.train/0"


def test_publishing_goes_on_under_this_run_of_the_coordinator() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.8, 0.6, 0.75])
    [begin] = driver.units("publish.begin")
    assert isinstance(begin, tasks.BeginPublish)
    assert (begin.epoch, begin.owner) == (5, "journal")
    for stage in ("publish.parts", "publish.seal"):
        for unit in driver.units(stage):
            assert isinstance(unit, tasks.PublishPart | tasks.FinishPublish)
            # The answer above carries epoch 4: the number was taken before a restart.
            assert (unit.ticket.version, unit.ticket.epoch, unit.ticket.owner) == (12, 5, "journal")


def test_the_manifest_says_whether_workers_had_one_numerics() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.8, 0.6, 0.75])
    [unit] = driver.units("publish.model")
    assert isinstance(unit, tasks.FinishModel)
    assert unit.manifest["reproducible"] is False


def test_later_passes_win_when_they_measure_better() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.8, 0.7, 0.9])
    assert [report.kept_pass for report in driver.reports if report.kept_pass] == [3]


def test_reports_name_metrics_statuses_and_examples() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.65])
    report = [r.coordinate for r in driver.reports if r.coordinate][1]
    assert {m.name: m.value for m in report.validation} == {"auc": 0.7, "logloss": 0.6, "auc:user_id": 0.5}
    assert report.validation[2].entities_undefined == 1
    assert (report.entities, report.unconverged) == (8, 4)
    [warning] = {r.notice for r in driver.reports if r.warning and r.notice.startswith("per_user")}
    assert "4 entities did not converge, among them u0 (singular)" in warning
    assert f"4 singular: {EntityStatus.SINGULAR.advice}" in warning


@pytest.mark.parametrize(
    ("status", "ratio", "said"),
    [
        (
            "stalled",
            3.25,
            "ended with status stalled, the largest gradient 3.25 times what convergence allows. ",
        ),
        ("numerical_failure", math.nan, "ended with status numerical_failure. "),
    ],
)
def test_a_fixed_effect_that_did_not_converge_says_what_can_be_changed(
    status: str, ratio: float, said: str
) -> None:
    outcome = replace(OPTIMISED, status=status, converged=False, gradient_ratio=ratio)
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.65], optimised=outcome)
    notice = next(r.notice for r in driver.reports if r.warning)
    assert notice == f"global: the solver {said}{FixedEffectStatus[status.upper()].advice}"
    report = next(r.coordinate for r in driver.reports if r.coordinate)
    assert (report.unconverged, report.statuses) == (1, {status: 1})


def test_ridge_groups_reach_the_worker() -> None:
    driver = Driver(parse_config(CONFIG), [0.6, 0.7, 0.6, 0.65])
    unit = driver.units("per_user.1.train")[0]
    assert isinstance(unit, tasks.TrainRandomEffect)
    assert unit.regularization.groups == {"default": 1.0, "intercept": 3.0, "movie": 2.0}
    assert unit.dimension == 20


@pytest.mark.parametrize(("rows", "path"), [((0, 5), "train.parquet"), ((5, 0), "validation.parquet")])
def test_no_rows_is_an_error_that_names_the_input(rows: tuple[int, int], path: str) -> None:
    with pytest.raises(DataError, match=f"no rows in {path}"):
        Driver(parse_config(CONFIG), [], rows=rows)


def test_every_task_kind_is_used_or_drives_an_optimisation() -> None:
    used = {
        type(unit) for stage in stages_of_all_sorts() if isinstance(stage, UnitStage) for unit in stage.units
    }
    assert set(tasks.RESULT_OF) - used == {tasks.EvaluateFixedEffect}


def stages_of_all_sorts() -> list[UnitStage | FixedEffectStage]:
    """The stages of a training with every option, and of a scoring job."""
    trained = Driver(parse_config(CONFIG + "results: gdmix\ninitial_model: before\n"), [0.6, 0.7, 0.6, 0.65])
    joint = Driver(parse_config(UNTIL_CONVERGED), [0.6] * 6, products=[(20.0,), (0.0, 5.0), (0.0, 0.0, 0.0)])
    text = CONFIG.replace("passes: 3", "passes: 1") + "action: inference\ninitial_model: before\n"
    learned = Driver(
        parse_config(CONFIG.replace("passes: 3", "passes: 1").replace(*LEARNING)), [0.55, 0.6, 0.7]
    )
    scored = Driver(parse_config(text), [0.6, 0.7])
    plugged = Driver(parse_config(CONFIG.replace(*PLUGGING)), [0.6, 0.7, 0.6, 0.65])
    return [*trained.stages, *joint.stages, *learned.stages, *scored.stages, *plugged.stages]


class Converted(Driver):
    """Its initial model is made of a results tree of LinkedIn GDMix."""

    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        found = super().answer(task)
        if isinstance(found, tasks.ModelOpened):
            return replace(found, directory="initial/0/model", notices=("per_user: 3 left out", "also this"))
        return found


@pytest.mark.parametrize("driver", [Driver, Converted])
def test_the_model_directory_that_was_opened_is_used_from_then_on(driver: type[Driver]) -> None:
    text = CONFIG + "initial_model: before\n"
    scoring = text.replace("passes: 3", "passes: 1") + "action: inference\n"
    runs = [driver(parse_config(text), [0.6, 0.7, 0.6, 0.65]), driver(parse_config(scoring), [0.6, 0.7])]
    units = [
        unit
        for run in runs
        for stage in run.stages
        if isinstance(stage, UnitStage)
        for unit in stage.units
        if hasattr(unit, "initial") and not isinstance(unit, tasks.OpenModel)
    ]
    directory = "before" if driver is Driver else "initial/0/model"
    assert {unit.initial for unit in units} == {directory}
    assert {type(unit) for unit in units} == {
        tasks.MergeIndex,
        tasks.FinishFixedEffect,
        tasks.TrainRandomEffect,
        tasks.TakeIndex,
        tasks.LoadFixedEffect,
        tasks.ScorePartition,
    }


def test_what_is_known_of_the_initial_model_reaches_people() -> None:
    run = Converted(parse_config(CONFIG + "initial_model: before\n"), [0.6, 0.7, 0.6, 0.65])
    notices = [report.notice for report in run.reports if report.notice]
    assert notices[:2] == ["per_user: 3 left out", "also this"]


def test_the_initial_model_is_opened_with_the_config_and_the_columns_of_the_job() -> None:
    config = parse_config(CONFIG + "initial_model: before\n")
    run = Driver(config, [0.6, 0.7, 0.6, 0.65])
    units = [unit for stage in run.stages if isinstance(stage, UnitStage) for unit in stage.units]
    [opened] = [unit for unit in units if isinstance(unit, tasks.OpenModel)]
    [inspected] = [unit for unit in units if isinstance(unit, tasks.InspectData)]
    assert config_from_json(opened.config_json) == config
    assert opened.inspect == inspected


def test_tasks_survive_the_wire() -> None:
    for stage in stages_of_all_sorts():
        for unit in stage.units if isinstance(stage, UnitStage) else ():
            assert tasks.task_from_json(unit.kind, tasks.to_json(unit)) == unit
