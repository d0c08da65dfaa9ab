"""Event files that TensorBoard shows, written without TensorBoard's own package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


class EventLog:
    """An event file."""

    def __init__(self, directory: Path) -> None:
        self._writer = tf.summary.create_file_writer(str(directory))
        kind = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self._metadata = tf.compat.v1.SummaryMetadata(plugin_data=kind, data_class=1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of a step, by name."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=self._metadata)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
