"""Training a random effect: offsets by partition, every entity solved, scores gathered by home shard."""

from __future__ import annotations

from collections import Counter
from math import fsum
from typing import cast

from gdmix_core.config import RandomEffect
from gdmix_core.errors import DataError
from gdmix_core.solvers.entity_status import EntityStatus
from gdmix_core.solvers.losses import Loss
from gdmix_core.tasks import (
    AssembleScores,
    ModelPart,
    RandomEffectTrained,
    ShardInput,
    TrainRandomEffect,
    WriteOffsets,
)
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.steps import CoordinateStep, Steps
from gdmix_server.program.trained import Trained, regularization, scores_by_role
from gdmix_server.state.model import CoordinateReport, Report

CONVERGED = EntityStatus.CONVERGED.name.lower()
LISTED = 5


def train_random_effect(
    prepared: Prepared,
    step: CoordinateStep,
    coordinate: RandomEffect,
    task: str,
    inputs: tuple[ShardInput, ...],
    crossing: tuple[str, ...] = (),
) -> Steps[Trained]:
    """Fit the models of all entities of a random-effect coordinate against the scores in `inputs`.

    `crossing` is where, by partition, lies what posterior variances owe to other coordinates.
    """
    grouping, shards = prepared.groupings[step.coordinate], prepared.shards["train"]
    partitions = prepared.partitions["train", step.coordinate]
    if not sum(partitions.entities):
        raise DataError(
            f"column {coordinate.random_effect}: no training row has an entity id, so {step.coordinate} has "
            "nothing to train"
        )
    held_out = prepared.partitions.get(("validation", step.coordinate))
    offsets = yield from step.run(
        "offsets",
        "computing offsets",
        [WriteOffsets(output="", grouping=grouping, input=shard) for shard in inputs],
        rows=shards.rows,
    )
    units = [
        TrainRandomEffect(
            output="",
            grouping=grouping,
            partition=partition,
            loss=int(Loss.from_task(task)),
            dimension=prepared.dimension(coordinate.features, coordinate.intercept),
            index=prepared.index,
            regularization=regularization(coordinate),
            variance=coordinate.variance,
            max_iterations=coordinate.max_iterations,
            partition_directory=directory,
            validation_directory=held_out.directories[partition] if held_out else None,
            offsets=offsets.directories,
            sparsity_threshold=coordinate.sparsity_threshold,
            initial=prepared.initial_of(step.coordinate),
            crossing=crossing[partition] if crossing else None,
        )
        for partition, directory in enumerate(partitions.directories)
    ]
    outcome = yield from step.run("train", "training random effects", units, rows=partitions.rows)
    results = [cast("RandomEffectTrained", result) for result in outcome.results]
    statuses = sum((Counter(result.statuses) for result in results), Counter())
    yield from _report_unconverged(step.coordinate, statuses, results)
    if step.pass_number == 1:  # the same in every pass
        yield from _report_rows(step.coordinate, coordinate, results)
    assembled = yield from step.run(
        "assemble",
        "gathering scores",
        [
            AssembleScores(
                output="", role=role, shard=shard, directory=directory, partitions=outcome.directories
            )
            for role in ROLES
            for shard, directory in enumerate(prepared.shards[role].directories)
        ],
        rows=prepared.all_rows,
    )
    entities = sum(result.entities for result in results)
    report = CoordinateReport(
        name=step.coordinate,
        kind="random_effect",
        what=coordinate.random_effect,
        pass_number=step.pass_number,
        entities=entities,
        rows=sum(result.rows for result in results),
        coefficients=sum(result.coefficients for result in results),
        unconverged=entities - statuses[CONVERGED],
        statuses=dict(sorted(statuses.items())),
        iterations=0,
        seconds=offsets.seconds + outcome.seconds + assembled.seconds,
        validation=(),
    )
    part = ModelPart(coordinate=step.coordinate, directories=outcome.directories)
    return Trained(
        part,
        scores_by_role(prepared, assembled.directories),
        report,
        carried_over=sum(result.carried_over for result in results),
        penalty=fsum(result.penalty for result in results),
    )


def _report_rows(name: str, coordinate: RandomEffect, results: list[RandomEffectTrained]) -> Steps[None]:
    """Say which rows and entities have no part in the training."""
    untrained = sum(result.untrained for result in results)
    passive = sum(result.passive_rows for result in results)
    carried = sum(result.carried_over for result in results)
    unseen = sum(result.validation_rows_unseen for result in results)
    if passive:
        yield Report(notice=f"{name}: {passive:,} rows are scored only; entities are trained on the others")
    if untrained:
        why = f"fewer than {coordinate.min_rows:,}" if coordinate.min_rows else "no"
        yield Report(
            notice=f"{name}: {untrained:,} entities have no model, having {why} rows to be trained on"
        )
    if carried:
        yield Report(notice=f"{name}: {carried:,} entities are taken over from the initial model")
    if unseen:
        yield Report(
            notice=f"{name}: {unseen:,} validation rows have a {coordinate.random_effect} without a model; "
            "they score 0 there"
        )


def _report_unconverged(name: str, statuses: Counter[str], results: list[RandomEffectTrained]) -> Steps[None]:
    count = statuses.total() - statuses[CONVERGED]
    if not count:
        return
    examples = [entity for result in results for entity in result.unconverged][:LISTED]
    listed = ", ".join(f"{example.entity} ({example.status})" for example in examples)
    advice = [
        f"{statuses[status.name.lower()]:,} {status.name.lower()}: {status.advice}"
        for status in EntityStatus
        if status is not EntityStatus.CONVERGED and statuses[status.name.lower()]
    ]
    yield Report(
        warning=True,
        notice=f"{name}: {count:,} entities did not converge, among them {listed}. {' '.join(advice)}",
    )
