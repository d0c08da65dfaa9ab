"""A fitted deep text effect: columns in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.network import Network, signature
from gdmix_core.fixed_effects.plugin import FixedEffectModel, batches

Float64Array: TypeAlias = npt.NDArray[np.float64]

_INPUTS: Final = "inputs.arrow"
_GRAPH: Final = "graph"
_OUTPUT: Final = "score"
_PIECE_ROWS: Final = 4096
_WARM_UP_ROWS: Final = 100


class DeepTextModel(FixedEffectModel):
    """A model that scores.

    Texts become codes in numpy, the codes go through a TensorFlow graph; every distinct text of a call is encoded once,
    so that a query, or a user, costs the same for one candidate and for hundreds.
    """

    def __init__(
        self, inputs: Inputs, function: Callable[..., Any], graph: tf.Module, facts: Mapping[str, float | str]
    ) -> None:
        self._inputs = inputs
        self._function = function
        self._graph = graph
        self._facts = dict(facts)

    @classmethod
    def of_weights(
        cls,
        inputs: Inputs,
        weights: Sequence[npt.NDArray[np.float32]],
        facts: Mapping[str, float | str],
    ) -> DeepTextModel:
        """Return the model with a network's weights."""
        network = Network(inputs, seed=0)
        for variable, weight in zip(network.variables, weights, strict=True):
            variable.value.assign(weight)

        def score(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            return {_OUTPUT: network(tensors)}

        graph = tf.Module()
        graph.network = network
        graph.score = tf.function(score, autograph=False)
        return cls(inputs, graph.score.get_concrete_function(**signature(inputs)), graph, facts)

    @classmethod
    def load(cls, directory: Path) -> DeepTextModel:
        """Read what `save` wrote."""
        inputs = Inputs.load(directory / _INPUTS)
        graph = tf.saved_model.load(str(directory / _GRAPH))
        return cls(inputs, graph.signatures["serving_default"], graph, {})

    def save(self, directory: Path) -> None:
        """Write `inputs.arrow` and `graph/`, a SavedModel."""
        self._inputs.save(directory / _INPUTS)
        tf.saved_model.save(self._graph, str(directory / _GRAPH), signatures=self._function)

    def score(self, columns: pa.RecordBatch) -> Float64Array:
        """Return the linear predictor of each row."""
        out = np.empty(columns.num_rows)
        start = 0
        for piece in batches(columns, _PIECE_ROWS):
            encoded = self._inputs.encode(piece)
            tensors = encoded.batch(np.arange(len(encoded)))
            scores = self._function(**{name: tf.constant(value) for name, value in tensors.items()})[_OUTPUT]
            out[start : start + len(encoded)] = scores.numpy()
            start += len(encoded)
        return out

    def warm_up(self) -> None:
        """Run the graph once."""
        kinds = {
            "number": pa.float64(),
            "string": pa.string(),
            "strings": pa.list_(pa.string()),
            "vector": pa.list_(pa.float32()),
            "sparse": pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))]),
        }
        columns = {
            column.name: pa.nulls(_WARM_UP_ROWS, kinds[column.kind])
            for column in self._inputs.options.inputs()
        }
        self.score(pa.RecordBatch.from_pydict(columns))

    def describe(self) -> Mapping[str, float | str]:
        """Return sizes and how training went."""
        return self._facts
