"""Home shards as a plug-in sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gdmix_core.data.array_file import read_segment
from gdmix_core.data.input_batches import read_inputs
from gdmix_core.data.score_blocks import total_offset
from gdmix_core.errors import InternalError
from gdmix_core.fixed_effects.plugin import Rows
from gdmix_core.tasks import ROWS_FILE, SCORES_FILE, ShardInput, inputs_file


class PreparedShard:
    """A home shard of a job; nothing of it stays in memory between two calls."""

    def __init__(self, shard: ShardInput, coordinate: str) -> None:
        """Look at the shard's size.

        Raises:
            DataError: Its files cannot be read.
        """
        self._shard = shard
        self._coordinate = coordinate
        self._rows = len(read_segment(Path(shard.directory) / ROWS_FILE, names=["label"])["label"])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._rows

    def read(self) -> Rows:
        """Return its rows, with the other coordinates' scores added to their own offsets.

        Raises:
            DataError: A file cannot be read.
            InternalError: Files do not fit together.
        """
        directory = Path(self._shard.directory)
        rows = read_segment(directory / ROWS_FILE, names=["uid", "label", "weight", "offset"])
        columns = read_inputs(directory / inputs_file(self._coordinate))
        if columns.num_rows != self._rows:
            raise InternalError(f"{directory}: holds {self._rows} rows, and columns of {columns.num_rows}")
        blocks = [Path(block) / SCORES_FILE for block in self._shard.scores]
        offset = total_offset(np.asarray(rows["offset"]), blocks, self._shard.shard)
        return Rows(
            columns=columns, label=rows["label"], weight=rows["weight"], offset=offset, uid=rows["uid"]
        )
