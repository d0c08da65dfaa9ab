"""Training a fixed effect: rounds of distributed derivatives, then coefficients, then scores."""

from __future__ import annotations

from math import isfinite
from typing import cast

from gdmix_core.config import FixedEffect
from gdmix_core.solvers.fixed_effect.problem import FixedEffectStatus
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    FinishFixedEffect,
    FixedEffectFinished,
    FixedEffectPrepared,
    ModelPart,
    PrepareFixedEffect,
    ScoreFixedEffect,
    ShardInput,
)
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.program.trained import Trained, regularization, scores_by_role
from gdmix_server.state.model import CoordinateReport, FixedEffectOutcome, FixedEffectStage, Report


def train_fixed_effect(
    prepared: Prepared,
    step: CoordinateStep,
    coordinate: FixedEffect,
    offsets: tuple[ShardInput, ...],
    crossing: tuple[str, ...] = (),
) -> Steps[Trained]:
    """Fit the generalized linear model of a fixed-effect coordinate against `offsets`.

    `crossing` is where what its posterior variances owe to other coordinates lies.
    """
    design, shards = prepared.designs[step.coordinate], prepared.shards["train"]
    prepare = PrepareFixedEffect(
        output="", design=design, index=prepared.index, regularization=regularization(coordinate)
    )
    ready = yield from step.run("prepare", "preparing", [prepare])
    stage = FixedEffectStage(
        name=step.stage("optimise"),
        title=step.title("fitting the fixed effect"),
        coordinate=step.coordinate,
        pass_number=step.pass_number,
        design=design,
        dimension=cast("FixedEffectPrepared", ready.results[0]).dimension,
        loss=int(Loss.from_task(coordinate.fixed_effect)),
        shards=offsets,
        shard_rows=shards.rows,
        nonzeros=sum(result.nonzeros[step.coordinate] for result in shards.results),
        l2=f"{step.stage('prepare')}/l2",
        solver=coordinate.solver,
        variance=coordinate.variance,
        max_iterations=coordinate.max_iterations,
    )
    outcome = yield stage
    assert isinstance(outcome, FixedEffectOutcome)
    if not outcome.converged:
        yield _report_unconverged(step.coordinate, outcome)
    arrays = {"theta": stage.theta} | ({"variances": stage.variances} if outcome.has_variances else {})
    finish = FinishFixedEffect(
        output="",
        design=design,
        index=prepared.index,
        has_variances=outcome.has_variances,
        sparsity_threshold=coordinate.sparsity_threshold,
        initial=prepared.initial_of(step.coordinate),
        crossing=crossing[0] if crossing else None,
        regularization=regularization(coordinate),
    )
    finished = yield from step.run("finish", "writing coefficients", [finish], arrays=arrays)
    model = finished.directories[0]
    units = [
        ScoreFixedEffect(output="", role=role, design=design, shard=shard, directory=directory, model=model)
        for role in ROLES
        for shard, directory in enumerate(prepared.shards[role].directories)
    ]
    scored = yield from step.run("score", "scoring", units, rows=prepared.all_rows)
    result = cast("FixedEffectFinished", finished.results[0])
    report = CoordinateReport(
        name=step.coordinate,
        kind="fixed_effect",
        what=coordinate.fixed_effect,
        pass_number=step.pass_number,
        entities=1,
        rows=sum(shards.rows),
        coefficients=result.nonzero,
        unconverged=int(not outcome.converged),
        statuses={outcome.status: 1},
        iterations=outcome.iterations,
        seconds=ready.seconds + outcome.seconds + finished.seconds + scored.seconds,
        validation=(),
    )
    part = ModelPart(coordinate=step.coordinate, directories=(model,))
    return Trained(part, scores_by_role(prepared, scored.directories), report, penalty=result.penalty)


def _report_unconverged(name: str, outcome: FixedEffectOutcome) -> Report:
    ratio = outcome.gradient_ratio
    gradient = f", the largest gradient {ratio:.3g} times what convergence allows" if isfinite(ratio) else ""
    advice = FixedEffectStatus[outcome.status.upper()].advice
    return Report(
        warning=True, notice=f"{name}: the solver ended with status {outcome.status}{gradient}. {advice}"
    )
