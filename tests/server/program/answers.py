"""What stages are answered with, where tests of programs need the same."""

from __future__ import annotations

from gdmix_core import tasks
from gdmix_server.state.model import FixedEffectOutcome

OPENED = (
    tasks.OpenedCoordinate(
        name="global",
        effect="logistic_regression",
        features=("user", "movie"),
        intercept=True,
        entity_column="",
        parts=0,
    ),
    tasks.OpenedCoordinate(
        name="per_user",
        effect="random_effect",
        features=("movie",),
        intercept=True,
        entity_column="user_id",
        parts=3,
    ),
)
"""The coordinates of the model that a job begins with."""
OPTIMISED = FixedEffectOutcome(
    status="converged",
    converged=True,
    iterations=6,
    evaluations=7,
    objective=1.0,
    gradient_norm=0.0,
    gradient_ratio=0.5,
    has_variances=False,
    seconds=1.0,
)
LEARNING = (", l2: {intercept: 3, movie: 2}", "")
"""What to replace in a config to have a random effect's shrinkage learned."""

PLUGGING = (
    "global: {fixed_effect: logistic_regression, features: [user, movie]}",
    "global: {fixed_effect: lightgbm, numeric: [age], categorical: [genres]}",
)
"""What to replace in a config to have trees in the fixed effect's place."""


def answered(task: tasks.Task) -> tasks.TaskResult:
    """Answer the tasks of learned shrinkage with groups that are where they belong from the beginning."""
    match task:
        case tasks.SurveyPart():
            groups = task.regularization.groups
            sizes = tuple(
                0 if task.part.grouping is not None and name == "default" else 20 for name in groups
            )
            return tasks.PartSurveyed(seconds=0, sizes=sizes, free=1, energies=(1.0,) * len(groups))
        case tasks.LineariseShard():
            return tasks.ShardLinearised(seconds=0, value=100.0, weighted_rows=10)
        case tasks.BeginSolve():
            return tasks.SolveBegun(seconds=0, target=(1.0,) * len(task.columns))
        case tasks.MultiplyRows():
            return tasks.RowsMultiplied(seconds=0, curvatures=(1.0,) * len(task.kept))
        case tasks.AdvanceSolve():
            gamma = 0.5 if task.begins else 1e-6
            kept = len(task.kept)
            return tasks.SolveAdvanced(seconds=0, gamma=(gamma,) * kept, ridge=(0.5,) * kept)
        case tasks.EndSolve():
            return tasks.SolveEnded(
                seconds=0,
                groups=tuple(group for part in task.parts for group in solved_groups(part, task.columns)),
                decrement=0.001,
                unsolved=tuple(
                    ()
                    if column.kind == "newton"
                    else (0.0,)
                    if column.kind == "probe"
                    else tuple(0.0 for other in task.columns if other.kind == "prior")
                    for column in task.columns
                ),
            )
        case tasks.WriteJointScores():
            return tasks.JointScoresWritten(seconds=0, rows=5)
    raise AssertionError(task)


def solved_groups(part: tasks.JointPart, columns: tuple[tasks.JointColumn, ...]) -> list[tasks.SolvedGroup]:
    """The sums of a part's groups, numbered as the fixed effect comes first with one group of its own.

    Each group's posterior leaves half of its prior variance of 1/l2 = 0.25, and its square is what that asks for.
    """
    probed = sorted({column.group for column in columns if column.kind == "probe"})
    own = [group for group in probed if (group == 0) == (part.design is not None)]
    priors = [column.group for column in columns if column.kind == "prior"]
    return [
        tasks.SolvedGroup(
            group=group,
            squares=(2.5, 0.0, 0.0),
            block_trace=2.5,
            probes=(0.0,) * sum(column.kind == "probe" and column.group == group for column in columns),
            information=tuple(5.0 if other == group else 0.0 for other in priors),
        )
        for group in own
    ]
