"""What a worker does between registering and being ready: import what tasks need, have kernels compiled."""

from __future__ import annotations

import importlib
import logging
import time
from typing import Final

from gdmix_core.compiled import warm_up

_log = logging.getLogger(__name__)

_LATER: Final = (
    "gdmix_core.solvers.random_effect",
    "gdmix_core.data.feature_index",
    "gdmix_core.data.encoding",
    "gdmix_core.data.inspection",
    "gdmix_core.metrics.metric_kernels",
    "gdmix_core.solvers.fixed_effect.kernels",
)
"""Modules that task functions import when they run; importing them before that makes first units quick."""


def prepare() -> None:
    """Import the task functions and warm the kernels up; workers of a machine that start together share that work.

    Raises:
        ImportError: The installation is broken.
        GdmixError: A kernel does not compile on this machine.
    """
    started = time.monotonic()
    importlib.import_module("gdmix_trainer.tasks.registry")
    report = warm_up(_progress)
    for module in _LATER:
        importlib.import_module(module)
    _call_one_kernel()
    if report.groups:
        _log.info("compiled %d groups of kernels in %.1f s", report.groups, report.seconds)
    _log.debug("warm after %.2f s", time.monotonic() - started)


def _call_one_kernel() -> None:
    """Call a small kernel: numba sets itself up at its first call, which takes as long as importing it."""
    import numpy as np

    from gdmix_core.data.byte_strings import ByteStrings

    ByteStrings.of([b"a"]).take(np.zeros(1, np.int64))


def _progress(name: str, done: int, total: int) -> None:
    if name:
        _log.info("compiling kernels (%d of %d): %s", done + 1, total, name)
