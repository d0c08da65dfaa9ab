"""Tasks and results as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from gdmix_core.tasks.fixed_effect import (
    EvaluateFixedEffect,
    FinishFixedEffect,
    FixedEffectEvaluated,
    FixedEffectFinished,
    FixedEffectPrepared,
    PrepareFixedEffect,
    ScoreFixedEffect,
)
from gdmix_core.tasks.home_shard import ShardScored
from gdmix_core.tasks.initial_model import (
    FixedEffectLoaded,
    LoadFixedEffect,
    ModelOpened,
    OpenModel,
    PartitionScored,
    ScorePartition,
    TakeIndex,
)
from gdmix_core.tasks.joint import (
    GradientMeasured,
    MeasureGradient,
    MeasurePass,
    MixScores,
    PassMeasured,
    SlopeChangesWritten,
    WriteSlopeChanges,
)
from gdmix_core.tasks.plugged_effect import FitPlugin, PluginFitted, PluginScored, ScorePlugin
from gdmix_core.tasks.preparation import (
    BuildPartition,
    BuildShard,
    DataInspected,
    EncodeSplit,
    FeaturesIndexed,
    IndexFeatures,
    IndexMerged,
    InspectData,
    MergeIndex,
    PartitionBuilt,
    ShardBuilt,
    SplitEncoded,
)
from gdmix_core.tasks.publishing import (
    BeginPublish,
    CheckStore,
    FinishModel,
    FinishPublish,
    ModelFinished,
    PartPublished,
    PublishBegun,
    PublishFinished,
    PublishPart,
    RemoveWork,
    StoreChecked,
    WorkRemoved,
)
from gdmix_core.tasks.random_effect import (
    AssembleScores,
    OffsetsWritten,
    RandomEffectTrained,
    TrainRandomEffect,
    WriteOffsets,
)
from gdmix_core.tasks.results import (
    ClearResults,
    ModelFileWritten,
    ResultsCleared,
    ScoresWritten,
    SummaryWritten,
    WriteModelFile,
    WriteScores,
    WriteSummary,
)
from gdmix_core.tasks.shrinkage import (
    AdvanceSolve,
    BeginSolve,
    EndSolve,
    JointScoresWritten,
    LineariseShard,
    MultiplyRows,
    PartSurveyed,
    RowsMultiplied,
    ShardLinearised,
    SolveAdvanced,
    SolveBegun,
    SolveEnded,
    SurveyPart,
    WriteJointScores,
)
from gdmix_core.tasks.task import Task, TaskResult
from gdmix_core.tasks.validation import (
    EntitiesMeasured,
    MeasureEntities,
    MeasureShard,
    MergeRuns,
    RunsMerged,
    ShardMeasured,
)

RESULT_OF: dict[type[Task], type[TaskResult]] = {
    InspectData: DataInspected,
    IndexFeatures: FeaturesIndexed,
    MergeIndex: IndexMerged,
    OpenModel: ModelOpened,
    TakeIndex: IndexMerged,
    EncodeSplit: SplitEncoded,
    BuildShard: ShardBuilt,
    BuildPartition: PartitionBuilt,
    PrepareFixedEffect: FixedEffectPrepared,
    EvaluateFixedEffect: FixedEffectEvaluated,
    FinishFixedEffect: FixedEffectFinished,
    ScoreFixedEffect: ShardScored,
    FitPlugin: PluginFitted,
    ScorePlugin: PluginScored,
    WriteOffsets: OffsetsWritten,
    TrainRandomEffect: RandomEffectTrained,
    AssembleScores: ShardScored,
    MeasureGradient: GradientMeasured,
    MeasurePass: PassMeasured,
    WriteSlopeChanges: SlopeChangesWritten,
    MixScores: ShardScored,
    SurveyPart: PartSurveyed,
    LineariseShard: ShardLinearised,
    BeginSolve: SolveBegun,
    MultiplyRows: RowsMultiplied,
    AdvanceSolve: SolveAdvanced,
    EndSolve: SolveEnded,
    WriteJointScores: JointScoresWritten,
    LoadFixedEffect: FixedEffectLoaded,
    ScorePartition: PartitionScored,
    MeasureShard: ShardMeasured,
    MergeRuns: RunsMerged,
    MeasureEntities: EntitiesMeasured,
    CheckStore: StoreChecked,
    BeginPublish: PublishBegun,
    FinishModel: ModelFinished,
    PublishPart: PartPublished,
    FinishPublish: PublishFinished,
    ClearResults: ResultsCleared,
    WriteScores: ScoresWritten,
    WriteModelFile: ModelFileWritten,
    WriteSummary: SummaryWritten,
    RemoveWork: WorkRemoved,
}
"""Every task and what it answers."""


TASK_OF_KIND: dict[str, type[Task]] = {task.kind: task for task in RESULT_OF}


_adapters: dict[type[Task] | type[TaskResult], TypeAdapter[Any]] = {}


def _adapter(kind: type[Task] | type[TaskResult]) -> TypeAdapter[Any]:
    """Return the codec of a class, made at its first use."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_json(value: Task | TaskResult) -> str:
    """Return the JSON form of a task or result; floats survive the round trip exactly."""
    from pydantic_core import to_json as dump

    # Infinities are constants, which `validate_json` reads back: a gradient ratio may be infinite.
    return dump(value, inf_nan_mode="constants").decode()


def task_from_json(kind: str, text: str) -> Task:
    """Read a task back.

    Raises:
        KeyError: No such kind.
        pydantic.ValidationError: The text is not such a task.
    """
    task: Task = _adapter(TASK_OF_KIND[kind]).validate_json(text)
    return task


def result_from_json(kind: str, text: str) -> TaskResult:
    """Read the result of a task of `kind` back; errors as `task_from_json`."""
    result: TaskResult = _adapter(RESULT_OF[TASK_OF_KIND[kind]]).validate_json(text)
    return result
