"""Rows as batches: shuffled without end for training, in order and once for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.fixed_effects.deep_text.inputs import Inputs
from gdmix_core.fixed_effects.deep_text.rows import Batch, EncodedRows
from gdmix_core.fixed_effects.deep_text.split import Part, Selection
from gdmix_core.fixed_effects.plugin import Rows

if TYPE_CHECKING:
    import tensorflow as tf

Int64Array: TypeAlias = npt.NDArray[np.int64]

_BUFFER_ROWS: Final = 1 << 16
"""Shards are read together until there are so many rows, which are shuffled and are what memory holds."""
_EVALUATION_ROWS: Final = 4096
_PREFETCH: Final = 4
_TARGETS: Final = ("label", "weight", "offset")


@dataclass(frozen=True, slots=True)
class TrainingStream:
    """Batches of a member's training rows, epoch after epoch.

    The order is that of seed, rank and epoch alone, and any batch can be the first: a fit that is resumed goes on with
    the batch it would have gone on with.

    Attributes:
        inputs: encode rows.
        parts: rows of this member.
        selection: which of them are trained on.
        seed: of the order.
        rank: of this member.
        batch_rows: rows of a batch; sizes vary by a few, so that no batch of an epoch is a small rest.
    """

    inputs: Inputs
    parts: Sequence[Part]
    selection: Selection
    seed: int
    rank: int
    batch_rows: int

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield batches without end, beginning with number `first`."""
        sizes = [len(self.selection.positions(part)) for part in self.parts]
        passed = 0
        for epoch in itertools.count():
            for number, buffer in enumerate(self._buffers(epoch, sizes)):
                count = max(1, round(sum(sizes[i] for i in buffer) / self.batch_rows))
                if passed + count > first:
                    yield from self._shuffled(epoch, number, buffer, count, max(first - passed, 0))
                passed += count

    def _buffers(self, epoch: int, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Yield the parts that are shuffled together."""
        buffer: list[int] = []
        rows = 0
        for i in np.random.default_rng([self.seed, self.rank, epoch]).permutation(len(sizes)):
            if sizes[i]:
                buffer.append(int(i))
                rows += sizes[i]
            if rows >= _BUFFER_ROWS:
                yield buffer
                buffer, rows = [], 0
        if buffer:
            yield buffer

    def _shuffled(
        self, epoch: int, number: int, buffer: Sequence[int], count: int, first: int
    ) -> Iterator[Batch]:
        parts = [self.parts[i] for i in buffer]
        rows, positions = _read(parts, self.selection)
        encoded = self.inputs.encode(rows.columns)
        order = np.random.default_rng([self.seed, self.rank, epoch, number]).permutation(positions)
        for chosen in np.array_split(order, count)[first:]:
            yield _batch(encoded, rows, chosen)


def evaluation_batches(inputs: Inputs, parts: Sequence[Part], selection: Selection) -> Iterator[Batch]:
    """Yield the selected rows once, in order."""
    for part in parts:
        rows, positions = _read([part], selection)
        if not len(positions):
            continue
        encoded = inputs.encode(rows.columns)
        for start in range(0, len(positions), _EVALUATION_ROWS):
            yield _batch(encoded, rows, positions[start : start + _EVALUATION_ROWS])


def prefetched(
    batches: Callable[[], Iterator[Batch]], signature: dict[str, tf.TensorSpec]
) -> tf.data.Dataset:
    """Return batches as tensors, made beside the training while the network computes."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_generator(batches, output_signature=with_targets(signature))
    return dataset.prefetch(_PREFETCH)


def with_targets(signature: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    """Return the tensors of a training batch: the network's, label, weight and offset."""
    import tensorflow as tf

    return {**signature, **{name: tf.TensorSpec([None], tf.float32, name) for name in _TARGETS}}


def _read(parts: Sequence[Part], selection: Selection) -> tuple[Rows, Int64Array]:
    """Return the rows of some parts, one after another, and the positions of those that are selected."""
    import pyarrow as pa

    read, chosen = [], []
    before = 0
    for part in parts:
        rows, taken = part.shard.read(), slice(part.start, part.stop)
        columns = rows.columns.slice(part.start, part.stop - part.start)
        read.append(Rows(columns, rows.label[taken], rows.weight[taken], rows.offset[taken]))
        chosen.append(selection.positions(part) + before)
        before += part.stop - part.start
    if len(read) == 1:
        return read[0], chosen[0]
    joined = Rows(
        pa.concat_batches([rows.columns for rows in read]),
        np.concatenate([rows.label for rows in read]),
        np.concatenate([rows.weight for rows in read]),
        np.concatenate([rows.offset for rows in read]),
    )
    return joined, np.concatenate(chosen)


def _batch(encoded: EncodedRows, rows: Rows, chosen: Int64Array) -> Batch:
    return {
        **encoded.batch(chosen),
        "label": rows.label[chosen].astype(np.float32),
        "weight": rows.weight[chosen].astype(np.float32),
        "offset": rows.offset[chosen].astype(np.float32),
    }
