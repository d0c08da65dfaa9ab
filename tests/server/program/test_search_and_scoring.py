"""Programs with a search, a scoring job, other sources and an initial model, driven by hand as training is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gdmix_core import tasks
from gdmix_core.config import JobConfig, parse_config
from gdmix_core.errors import ConfigError, DataError
from gdmix_core.metrics import MetricValue
from gdmix_core.publish_ticket import PublishTicket
from gdmix_server.program import ProgramInput, job_program
from gdmix_server.state.model import (
    CoordinateReport,
    FixedEffectStage,
    Report,
    UnitsOutcome,
    UnitStage,
)

from .answers import OPENED, OPTIMISED

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
metrics: [auc, logloss]
output: out
"""
SEARCH = "search: {coordinates.global.l2: [1, 10], coordinates.per_user.l2.movie: [0.5, 5, 50]}\n"
EXTERNAL = CONFIG.replace(
    "global: {fixed_effect: logistic_regression, features: [user, movie]}",
    "global: {fixed_effect: external, scores: {train: s.parquet, validation: v.parquet}}",
)
SOURCES = CONFIG.replace(
    "validation: validation.parquet}",
    "validation: validation.parquet,\n"
    "  sources: {more: {train: m.parquet, validation: n.parquet}, most: {train: k.parquet, validation: l.parquet}}}",
)

TICKET = PublishTicket("movies", 12, 11, 4)

FIXED_RESULTS: dict[type[tasks.Task], Mapping[str, Any]] = {
    tasks.EncodeSplit: {"rows": 1, "nulls": {}, "unknown": {}},
    tasks.BuildPartition: {"rows": 5, "entities": 2, "largest_entity": 3},
    tasks.MergeIndex: {"bag_sizes": {"user": 1, "movie": 19}, "schema_fingerprint": "0" * 16},
    tasks.TakeIndex: {"bag_sizes": {"user": 1, "movie": 19}, "schema_fingerprint": "0" * 16},
    tasks.PrepareFixedEffect: {"dimension": 21},
    tasks.FinishFixedEffect: {"nonzero": 21},
    tasks.ScoreFixedEffect: {"rows": 5},
    tasks.AssembleScores: {"rows": 5},
    tasks.WriteOffsets: {"rows": 5},
    tasks.LoadFixedEffect: {"coefficients": 21},
    tasks.ScorePartition: {"rows": 5, "rows_unseen": 2},
    tasks.TrainRandomEffect: {
        "entities": 2,
        "rows": 5,
        "coefficients": 9,
        "statuses": {"converged": 2},
        "unconverged": (),
        "validation_rows_unseen": 0,
    },
    tasks.ClearResults: {},
    tasks.WriteScores: {"rows": 5},
    tasks.WriteModelFile: {"models": 2},
    tasks.WriteSummary: {},
    tasks.CheckStore: {},
    tasks.BeginPublish: {"ticket": TICKET},
    tasks.FinishModel: {"directory": "out/models/12", "content_digest": "d"},
    tasks.FinishPublish: {"activated": True, "winner": None, "entities": 8, "removed_versions": ()},
    tasks.RemoveWork: {},
    tasks.FitPlugin: {
        "distribution": "gdmix",
        "version": "1",
        "files": {"trees.txt": tasks.PluginFileFacts(sha256="ab", size=3)},
        "facts": {"trees": 20.0, "kind": "small"},
        "steps": 20,
        "notices": (tasks.PluginNotice(text="few rows", warning=True),),
    },
    tasks.ScorePlugin: {"rows": 5},
}


@dataclass
class Driver:
    """Runs a program to its end; `aucs` and `loglosses` are what is measured, one after another."""

    config: JobConfig
    aucs: Sequence[float | None] = ()
    loglosses: Sequence[float] = ()
    unmatched: Callable[[str, int], tuple[tasks.Unmatched, ...]] = lambda _role, _shard: ()
    opened: tuple[tasks.OpenedCoordinate, ...] = OPENED
    opened_task: str = "logistic_regression"
    stages: list[UnitStage | FixedEffectStage] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def run(self) -> Driver:
        self._aucs, self._losses = iter(self.aucs), iter(self.loglosses)
        program = job_program(
            ProgramInput(
                job_id="j1",
                config=self.config,
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
                answer = OPTIMISED
            else:
                self.stages.append(step)
                answer = UnitsOutcome(
                    results=tuple(self.answer(unit) for unit in step.units),
                    directories=tuple(f"{step.name}/{i}" for i in range(len(step.units))),
                    seconds=1.0,
                    reproducible=True,
                )
            try:
                step = program.send(answer)
            except StopIteration:
                return self

    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        match task:
            case tasks.InspectData():
                sources = ["", *task.data.sources, *map(tasks.score_source, task.external)]
                splits = tuple(
                    tasks.Split(role=role, path=f"{role}-{source}", format="parquet", source=source)
                    for role in ("train", "validation")
                    if getattr(task.data, role)
                    for source in sources
                )
                encoding = tasks.EncodingSpec(
                    data=task.data,
                    columns=(),
                    entity_columns=task.entity_columns,
                    task=task.task,
                    external=task.external,
                    inputs={
                        name: tuple(replace(column, source="") for column in columns)
                        for name, columns in task.inputs.items()
                    },
                )
                return tasks.DataInspected(seconds=0, splits=splits, encoding=encoding)
            case tasks.IndexFeatures():
                return tasks.FeaturesIndexed(seconds=0, rows=140_000 if task.split.role == "train" else 100)
            case tasks.OpenModel():
                return tasks.ModelOpened(seconds=0, task=self.opened_task, coordinates=self.opened)
            case tasks.BuildShard():
                return tasks.ShardBuilt(
                    seconds=0,
                    rows=2_500 if task.role == "train" else 100,
                    nonzeros={design.name: 7 for design in task.designs},
                    without_entity={grouping.name: 0 for grouping in task.groupings},
                    weight=5.0,
                    unmatched=self.unmatched(task.role, task.shard),
                )
            case tasks.MeasureShard():
                loss = next(self._losses, 0.6)
                return tasks.ShardMeasured(seconds=0, rows=5, sums={"logloss": (loss, 1.0, 1.0)})
            case tasks.MergeRuns():
                return tasks.RunsMerged(seconds=0, values={"auc": MetricValue(next(self._aucs, 0.7))})
            case tasks.PublishPart():
                return tasks.PartPublished(seconds=0, coordinate=task.coordinate, entities=2, checksum=1)
        return tasks.RESULT_OF[type(task)](seconds=0, **FIXED_RESULTS[type(task)])

    # ---- what came out -------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    @property
    def notices(self) -> list[str]:
        return [report.notice for report in self.reports if report.notice]

    @property
    def measured(self) -> list[CoordinateReport]:
        return [report.coordinate for report in self.reports if report.coordinate]

    @property
    def kept(self) -> tuple[int, int]:
        [found] = [(r.kept_trial, r.kept_pass) for r in self.reports if r.kept_pass is not None]
        return found

    def units(self, stage: str) -> tuple[Any, ...]:
        [found] = [s for s in self.stages if s.name == stage]
        assert isinstance(found, UnitStage)
        return found.units

    def published_config(self) -> dict[str, Any]:
        [unit] = self.units("publish.model")
        return json.loads(unit.config_json)


def drive(text: str, *aucs: float | None, **options: Any) -> Driver:
    return Driver(parse_config(text), aucs, **options).run()


def both(*aucs: float | None) -> tuple[float | None, ...]:
    """Two measurements of every trial: after the fixed effect, and after the random effect, which counts."""
    return tuple(value for auc in aucs for value in (0.9, auc))


# ---- search ------------------------------------------------------------------------------------------------

GRID = [(1, 0.5), (1, 5), (1, 50), (10, 0.5), (10, 5), (10, 50)]


def test_trials_run_in_the_order_of_the_grid_and_the_last_place_varies_fastest() -> None:
    driver = drive(CONFIG + SEARCH, *both(0.5, 0.6, 0.7, 0.6, 0.8, 0.1))
    expected = [
        {"coordinates.global.l2": json.dumps(a), "coordinates.per_user.l2.movie": json.dumps(b)}
        for a, b in GRID
    ]
    found = [(report.trial, report.name, dict(report.trial_values)) for report in driver.measured]
    assert found == [
        (trial, name, values)
        for trial, values in enumerate(expected, start=1)
        for name in ("global", "per_user")
    ]
    assert driver.notices[:6] == [
        f"trial {trial}: coordinates.global.l2 = {a}, coordinates.per_user.l2.movie = {b}"
        for trial, (a, b) in enumerate(GRID, start=1)
    ]
    for trial, (a, b) in enumerate(GRID, start=1):
        [prepare] = driver.units(f"trial-{trial}.global.1.prepare")
        assert prepare.regularization.groups == {"default": float(a)}
        train = driver.units(f"trial-{trial}.per_user.1.train")[0]
        assert train.regularization.groups == {"default": 1.0, "intercept": 3.0, "movie": float(b)}


def test_the_data_are_prepared_once_for_all_trials() -> None:
    searched = drive(CONFIG + SEARCH, *both(*[0.5] * 6))
    single = drive(CONFIG, *both(0.5))
    before = [name for name in single.names if "global" not in name and "per_user" not in name]
    assert [name for name in searched.names if not name.startswith("trial-")] == before
    assert len([name for name in searched.names if name.endswith(".train")]) == 6


def test_names_of_stages_are_unique_with_passes_and_trials() -> None:
    text = CONFIG + "passes: 2\n" + SEARCH.replace("{", "{passes: [1, 2], ")
    driver = drive(text, *[0.01 * number for number in range(200)])
    assert len(set(driver.names)) == len(driver.names) > 60
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in driver.names)


def test_the_best_trial_by_the_first_metric_is_published_with_its_config() -> None:
    driver = drive(CONFIG + SEARCH, *both(0.5, 0.6, 0.7, 0.6, 0.8, 0.1))
    assert driver.kept == (5, 1)
    config = driver.published_config()
    assert config["search"] == {}
    assert config["coordinates"]["global"]["l2"] == 10
    assert config["coordinates"]["per_user"]["l2"] == {"intercept": 3, "movie": 5}
    [unit] = driver.units("publish.model")
    assert [part.directories[0] for part in unit.parts] == [
        "trial-5.global.1.finish/0",
        "trial-5.per_user.1.train/0",
    ]
    assert unit.run["trial"] == 5
    assert unit.run["trial_values"] == {"coordinates.global.l2": 10, "coordinates.per_user.l2.movie": 5}
    assert unit.manifest["coordinates"]["per_user"]["validation"]["auc"]["value"] == 0.8
    assert "trial 5 measured best: coordinates.global.l2 = 10, coordinates.per_user.l2.movie = 5" in (
        driver.notices
    )


def test_where_smaller_is_better_the_smallest_wins() -> None:
    text = CONFIG.replace("[auc, logloss]", "[logloss, auc]") + SEARCH
    driver = drive(
        text, loglosses=[value for loss in (0.5, 0.4, 0.3, 0.6, 0.2, 0.9) for value in (0.1, loss)]
    )
    assert driver.kept == (5, 1)
    assert [r.validation[0].value for r in driver.measured if r.name == "per_user"] == [
        0.5, 0.4, 0.3, 0.6, 0.2, 0.9,
    ]  # fmt: skip


def test_of_equal_trials_the_first_is_published() -> None:
    assert drive(CONFIG + SEARCH, *both(0.5, 0.7, 0.7, 0.7, 0.6, 0.7)).kept == (2, 1)


def test_an_undefined_metric_never_beats_a_value_and_any_value_beats_it() -> None:
    assert drive(CONFIG + SEARCH, *both(0.1, None, None, None, None, None)).kept == (1, 1)
    assert drive(CONFIG + SEARCH, *both(None, None, 0.1, None, 0.2, None)).kept == (5, 1)
    assert drive(CONFIG + SEARCH, *both(*[None] * 6)).kept == (1, 1)


def test_passes_are_searched_like_anything_else() -> None:
    text = CONFIG + "search: {passes: [1, 2]}\n"
    # Trial 1: one pass. Trial 2: its second pass is the best of all.
    driver = drive(text, 0.9, 0.5, 0.9, 0.5, 0.9, 0.6)
    assert driver.kept == (2, 2)
    assert driver.published_config()["passes"] == 2
    assert [(r.trial, r.pass_number) for r in driver.measured] == [
        *[(1, 1)] * 2,
        *[(2, 1)] * 2,
        *[(2, 2)] * 2,
    ]


def test_the_best_pass_of_a_trial_stands_for_it() -> None:
    text = CONFIG + "passes: 2\nsearch: {coordinates.global.l2: [1, 10]}\n"
    driver = drive(text, 0.9, 0.7, 0.9, 0.6, 0.9, 0.65, 0.9, 0.69)
    assert driver.kept == (1, 1)
    assert "pass 2 improved nothing" not in " ".join(driver.notices)  # it was the last one anyhow
    [unit] = driver.units("publish.model")
    assert unit.parts[1].directories[0] == "trial-1.per_user.1.train/0"


def test_trials_do_not_see_each_others_scores() -> None:
    driver = drive(CONFIG + SEARCH, *both(*[0.5] * 6))
    for trial in range(1, 7):
        [stage] = [s for s in driver.stages if s.name == f"trial-{trial}.global.1.optimise"]
        assert isinstance(stage, FixedEffectStage)
        assert [shard.scores for shard in stage.shards] == [()] * 4
        offsets = driver.units(f"trial-{trial}.per_user.1.offsets")
        assert [unit.input.scores for unit in offsets] == [
            (f"trial-{trial}.global.1.score/{i}",) for i in range(4)
        ]


def test_results_are_the_best_trials() -> None:
    driver = drive(CONFIG + SEARCH + "results: gdmix\n", *both(0.5, 0.6, 0.9, 0.6, 0.8, 0.1))
    written = [unit for unit in driver.units("results") if isinstance(unit, tasks.WriteModelFile)]
    assert {unit.directory.split(".")[0] for unit in written} == {"trial-3"}
    [summary] = [
        unit
        for unit in driver.units("results")
        if isinstance(unit, tasks.WriteSummary) and "per_user" in unit.path
    ]
    assert summary.values == {"auc": 0.9, "logloss": 0.6}


# ---- scoring -----------------------------------------------------------------------------------------------

SCORING = CONFIG + "action: inference\ninitial_model: before\n"


def test_a_scoring_job_trains_and_publishes_nothing() -> None:
    driver = drive(SCORING, 0.6, 0.7)
    kinds = {type(unit) for stage in driver.stages if isinstance(stage, UnitStage) for unit in stage.units}
    assert not [stage for stage in driver.stages if isinstance(stage, FixedEffectStage)]
    assert not kinds & {
        tasks.MergeIndex,
        tasks.PrepareFixedEffect,
        tasks.FinishFixedEffect,
        tasks.TrainRandomEffect,
        tasks.WriteOffsets,
        tasks.WriteModelFile,
        tasks.CheckStore,
        tasks.BeginPublish,
        tasks.FinishModel,
        tasks.PublishPart,
        tasks.FinishPublish,
    }
    assert not [report for report in driver.reports if report.published]
    assert driver.names[-1] == "clean-up"
    assert len(set(driver.names)) == len(driver.names)


def test_a_scoring_job_scores_with_the_initial_model_cut_as_it_is() -> None:
    driver = drive(SCORING, 0.6, 0.7)
    [load] = driver.units("global.1.load")
    assert (load.initial, load.coordinate) == ("before", "global")
    assert {unit.model for unit in driver.units("global.1.score")} == {"global.1.load/0"}
    parts = driver.units("per_user.1.score")
    assert [(unit.role, unit.partition) for unit in parts] == [
        (role, number) for role in ("train", "validation") for number in range(3)
    ]
    assert all(unit.scoring for unit in driver.units("partitions"))
    assert all(unit.count_only for unit in driver.units("index"))
    [taken] = driver.units("merge-index")
    assert taken == tasks.TakeIndex(output="", initial="before")
    scored = [unit for unit in driver.units("results") if isinstance(unit, tasks.WriteScores)]
    assert [unit.input.scores for unit in scored if "per_user/validation" in unit.path] == [
        ("global.1.score/4",)
    ]
    assert "per_user: 12 rows have a user_id that the model does not know; they score 0 there" in (
        driver.notices
    )
    assert [(r.name, r.validation[0].value) for r in driver.measured] == [("global", 0.6), ("per_user", 0.7)]


def test_a_scoring_job_may_have_validation_rows_alone_and_no_labels() -> None:
    text = SCORING.replace("train: train.parquet, ", "")
    driver = drive(text, 0.6, 0.7)
    assert {unit.role for unit in driver.units("shards")} == {"validation"}
    # With labels it is measured; what the coordinator learns of absent ones comes with the inspection.
    assert [name for name in driver.names if "measure" in name] == ["global.1.measure", "per_user.1.measure"]


class Unlabelled(Driver):
    def answer(self, task: tasks.Task) -> tasks.TaskResult:
        found = super().answer(task)
        if isinstance(found, tasks.DataInspected):
            columns = found.encoding.data.columns.model_copy(update={"label": ""})
            data = found.encoding.data.model_copy(update={"columns": columns})
            return replace(found, encoding=replace(found.encoding, data=data))
        return found


def test_without_labels_nothing_is_measured() -> None:
    config = parse_config(
        SCORING.replace("validation.parquet}", "validation.parquet, columns: {optional: [label]}}")
    )
    driver = Unlabelled(config)
    driver.run()
    assert not [name for name in driver.names if "measure" in name or "combine" in name]
    assert [report.validation for report in driver.measured] == [(), ()]
    written = driver.units("results")
    assert {type(unit) for unit in written} == {tasks.WriteScores}
    assert {unit.label for unit in written} == {""}


# ---- rows that are not in all sources ----------------------------------------------------------------------


def lacking(
    source: str, *, role: str = "train", missing: Sequence[int] = (), extra: Sequence[int] = ()
) -> Callable[[str, int], tuple[tasks.Unmatched, ...]]:
    """Every shard of the role lacks so many rows, or has so many too much, with examples of its own."""

    def found(of_role: str, shard: int) -> tuple[tasks.Unmatched, ...]:
        if of_role != role:
            return ()
        return (
            tasks.Unmatched(
                source=source,
                missing=400 * len(missing),
                missing_examples=tuple(10 * uid + shard for uid in missing),
                extra=2 * len(extra),
                extra_examples=tuple(10 * uid + shard for uid in extra),
            ),
        )

    return found


def test_rows_that_a_source_lacks_or_has_too_much_fail_the_job_before_training() -> None:
    config = parse_config(SOURCES)
    driver = Driver(config, unmatched=lacking("more", missing=[7, 3], extra=[5]))
    with pytest.raises(DataError) as caught:
        driver.run()
    assert str(caught.value) == (
        "the rows of the sources are not the same ones:\n"
        "  data.sources.more: 3,200 train rows of data are not in it (uid 30, 31, 32, 33, 70, …)\n"
        "  data.sources.more: 8 of its train rows are not in data (uid 50, 51, 52, 53, …)"
    )
    assert driver.names[-1] == "shards"


def test_all_sources_and_roles_are_named_at_once() -> None:
    both_lack = [
        lacking("more", role="validation", missing=[1]),
        lacking("most", extra=[2]),
        lacking("most", role="validation", extra=[3]),
    ]
    driver = Driver(
        parse_config(SOURCES),
        unmatched=lambda role, shard: tuple(one for found in both_lack for one in found(role, shard)),
    )
    with pytest.raises(DataError) as caught:
        driver.run()
    assert [line.split(" (")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  data.sources.most: 8 of its train rows are not in data",
        "  data.sources.more: 400 validation rows of data are not in it",
        "  data.sources.most: 2 of its validation rows are not in data",
    ]


def test_few_rows_are_all_named() -> None:
    driver = Driver(parse_config(SOURCES), unmatched=lacking("more", role="validation", extra=[4, 8]))
    with pytest.raises(DataError, match=r"4 of its validation rows are not in data \(uid 40, 80, …\)"):
        driver.run()
    one = tasks.Unmatched(source="more", missing=1, missing_examples=(9,), extra=0, extra_examples=())
    driver = Driver(
        parse_config(SOURCES), unmatched=lambda role, _shard: (one,) if role == "validation" else ()
    )
    with pytest.raises(DataError, match=r"1 validation rows of data are not in it \(uid 9\)$"):
        driver.run()


def test_rows_without_a_score_fail_the_job_and_the_message_says_what_could_be_done() -> None:
    driver = Driver(parse_config(EXTERNAL), unmatched=lacking("scores:global", missing=[7]))
    with pytest.raises(DataError) as caught:
        driver.run()
    assert str(caught.value).splitlines()[1] == (
        "  global: 1,600 of 10,000 train rows have no score (uid 70, 71, 72, 73, …); set missing: zero to "
        "count them 0"
    )


def test_rows_without_a_score_may_count_zero_with_a_notice() -> None:
    text = EXTERNAL.replace("v.parquet}", "v.parquet}, missing: zero")
    driver = drive(text, 0.6, 0.7, unmatched=lacking("scores:global", missing=[7]))
    assert driver.notices[0] == (
        "global: 1,600 of 10,000 train rows have no score; they count 0 (uid 70, 71, 72, 73, …)"
    )
    assert [report.published.version for report in driver.reports if report.published] == [12]


def test_scores_of_no_row_are_a_notice_only() -> None:
    driver = drive(EXTERNAL, 0.6, 0.7, unmatched=lacking("scores:global", role="validation", extra=[7]))
    assert driver.notices[0] == "global: 2 validation scores belong to no row (uid 70, …)"


def test_an_outside_model_is_the_offset_of_what_follows_and_is_measured_alone() -> None:
    driver = drive(EXTERNAL, 0.6, 0.7)
    shards = driver.units("shards")
    assert {unit.external for unit in shards} == {("global",)}
    assert shards[0].spills == {"": ("encode/0",), "scores:global": ("encode/1",)}
    assert not [name for name in driver.names if name.startswith("global") and "measure" not in name
                and "combine" not in name]  # fmt: skip
    [unit] = driver.units("global.1.measure")
    assert unit.input.scores == ("shards/4/external-global",)
    offsets = driver.units("per_user.1.offsets")
    assert [unit.input.scores for unit in offsets] == [(f"shards/{i}/external-global",) for i in range(4)]
    [model] = driver.units("publish.model")
    assert model.parts[0] == tasks.ModelPart(coordinate="global", directories=())


# ---- initial models ----------------------------------------------------------------------------------------


def mismatches(text: str, *opened: tasks.OpenedCoordinate, task: str = "logistic_regression") -> list[str]:
    driver = Driver(parse_config(text), opened=opened, opened_task=task)
    with pytest.raises(ConfigError) as caught:
        driver.run()
    assert driver.names[-1] == "initial"
    lines = str(caught.value).splitlines()
    assert lines[0] == "the initial model does not fit:"
    assert tuple(line.strip() for line in lines[1:]) == tuple(caught.value.problems)
    return [line.strip() for line in lines[1:]]


def test_everything_that_an_initial_model_does_not_fit_is_named() -> None:
    fixed, random = OPENED
    assert mismatches(
        CONFIG.replace("random_effect: user_id,", "random_effect: user_id, partitions: 5,")
        + "initial_model: before\n",
        replace(fixed, effect="linear_regression"),
        replace(random, entity_column="member"),
        task="linear_regression",
    ) == [
        "initial_model: is a model of task linear_regression; the job's is logistic_regression",
        "coordinates.global: is logistic_regression, in the initial model linear_regression",
        "coordinates.per_user.random_effect: found user_id, in the initial model member",
        "coordinates.per_user.partitions: found 5; the initial model has 3, leave it out",
    ]


def test_scoring_needs_every_coordinate_exactly_as_it_was() -> None:
    fixed, random = OPENED
    assert mismatches(
        SCORING,
        replace(fixed, features=("movie", "user"), intercept=False),
        replace(random, name="per_movie"),
    ) == [
        "coordinates.global.features: found ['user', 'movie'], in the initial model ['movie', 'user']",
        "coordinates.global.intercept: found True, in the initial model False",
        "coordinates.per_user: the initial model has none of it; it has global, per_movie",
    ]


def test_an_outside_model_and_a_trained_one_are_not_the_same() -> None:
    assert mismatches(EXTERNAL + "initial_model: before\n", *OPENED) == [
        "coordinates.global: is external, in the initial model logistic_regression"
    ]
    assert mismatches(CONFIG + "initial_model: before\n", replace(OPENED[1], name="global"), OPENED[1]) == [
        "coordinates.global: is logistic_regression, in the initial model random_effect"
    ]


def test_training_goes_on_from_a_model_with_other_features_and_other_coordinates() -> None:
    """What is new begins from nothing; what is there is cut as it was."""
    text = CONFIG + "initial_model: before\n"
    fixed, random = OPENED
    only_random = replace(random, features=("movie", "user"), intercept=False, parts=7)
    driver = drive(text, 0.6, 0.7, opened=(only_random, replace(fixed, name="elsewhere")))
    [merge] = driver.units("merge-index")
    assert merge.initial == "before"
    trained = driver.units("per_user.1.train")
    assert [unit.partition for unit in trained] == list(range(7))
    assert {unit.initial for unit in trained} == {"before"}
    [finish] = driver.units("global.1.finish")
    assert finish.initial is None
    again = drive(text, 0.6, 0.7)
    [finish] = again.units("global.1.finish")
    assert finish.initial == "before"
