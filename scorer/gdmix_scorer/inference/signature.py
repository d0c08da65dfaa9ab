"""What tensors a model takes and gives, by name, datatype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gdmix_core.data.feature_index import IndexedColumn
from gdmix_core.errors import UsageError
from gdmix_core.model.manifest import PluginColumn
from gdmix_core.scoring.request import Float64Array
from gdmix_core.scoring.scoring_model import ScoringModel
from gdmix_scorer.calls import ScoreAnswer
from gdmix_scorer.inference.candidates import FIXED_EFFECT_SCORE

SCORES: Final = "scores"
PREDICTIONS: Final = "predictions"
CONTRIBUTION: Final = "contribution:"
"""Before the name of a coordinate: what it adds to the scores."""
USUAL_OUTPUTS: Final = (SCORES, PREDICTIONS)
"""Of a request that names none."""
ANY: Final = -1
"""A dimension of any size."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a model; `ANY` stands for a size that the request decides."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (ANY,)


def inputs_of(scoring: ScoringModel) -> list[TensorSpec]:
    """Return the inputs of a model: its data columns, and the score of an outside fixed effect if it needs one."""
    specs = {column.column.column: _feature(column) for column in scoring.columns}
    for effect in scoring.plugged:
        for input_column in effect.columns:
            specs.setdefault(input_column.name, _input(input_column))
    for name in scoring.entity_columns:
        specs.setdefault(name, TensorSpec(name, "BYTES"))
    if scoring.needs_fixed_effect_scores:
        specs[FIXED_EFFECT_SCORE] = TensorSpec(FIXED_EFFECT_SCORE, "FP64")
    return list(specs.values())


def _input(column: PluginColumn) -> TensorSpec:
    if column.kind == "number":
        return TensorSpec(column.name, "FP64")
    if column.kind in {"vector", "sparse"}:
        return TensorSpec(column.name, "FP64", (ANY, column.dimension or ANY))
    return TensorSpec(column.name, "BYTES", (ANY, ANY) if column.kind == "strings" else (ANY,))


def _feature(column: IndexedColumn) -> TensorSpec:
    name, kind = column.column.column, column.column.kind
    if kind == "numeric":
        return TensorSpec(name, "FP64")
    if kind == "vector":
        return TensorSpec(name, "FP64", (ANY, column.size))
    return TensorSpec(name, "BYTES", (ANY, ANY) if kind == "list" else (ANY,))


def outputs_of(coordinates: Sequence[str]) -> list[TensorSpec]:
    """Return the outputs of a model with these coordinates."""
    return [TensorSpec(name, "FP64") for name in _output_names(coordinates)]


def output(name: str, answer: ScoreAnswer) -> Float64Array:
    """Return an output of an answer, one number for each candidate.

    Raises:
        UsageError: there is no such output.
    """
    if name == SCORES:
        return answer.scores.scores
    if name == PREDICTIONS:
        return answer.scores.predictions
    coordinate = name.removeprefix(CONTRIBUTION)
    if coordinate == name or coordinate not in answer.coordinates:
        raise UsageError(
            f"output {name!r}: version {answer.version} of model {answer.model!r} has "
            f"{', '.join(map(repr, _output_names(answer.coordinates)))}"
        )
    contribution: Float64Array = answer.scores.contributions[answer.coordinates.index(coordinate)]
    return contribution


def _output_names(coordinates: Sequence[str]) -> list[str]:
    return [*USUAL_OUTPUTS, *(CONTRIBUTION + name for name in coordinates)]
