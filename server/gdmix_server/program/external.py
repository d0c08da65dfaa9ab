"""A fixed effect that somebody else trained: its scores are given, and lie beside the home shards already."""

from __future__ import annotations

from gdmix_core.config import ExternalEffect
from gdmix_core.tasks import ModelPart, external_directory
from gdmix_server.program.prepared import ROLES, Prepared
from gdmix_server.program.steps import CoordinateStep
from gdmix_server.program.trained import Trained
from gdmix_server.state.model import CoordinateReport


def take_external_effect(
    prepared: Prepared, step: CoordinateStep, coordinate: ExternalEffect, rows: int
) -> Trained:
    """Return an external fixed effect, which took part with so many rows, as any other trained coordinate."""
    name = step.coordinate
    report = CoordinateReport(
        name=name,
        kind="fixed_effect",
        what=coordinate.fixed_effect,
        pass_number=step.pass_number,
        entities=1,
        rows=rows,
        coefficients=0,
        unconverged=0,
        statuses={},
        iterations=0,
        seconds=0.0,
        validation=(),
    )
    scores = {
        role: tuple(external_directory(shard, name) for shard in prepared.shards[role].directories)
        for role in ROLES
    }
    return Trained(ModelPart(coordinate=name, directories=()), scores, report)
