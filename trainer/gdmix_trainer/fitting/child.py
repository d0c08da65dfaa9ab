"""The worker's side: start the process, follow it, end it, and make of its end what a unit needs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from gdmix_core.errors import InternalError, catalog
from gdmix_trainer.context import TaskContext
from gdmix_trainer.fitting.request import DONE, FAILED, NOTICE, PROGRESS, WorkRequest
from gdmix_trainer.messages import FitProgress

_log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-m", "gdmix_trainer.fitting")
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def run_in_process(request: WorkRequest, plugin: str, context: TaskContext) -> str:
    """Have a process do a task; return its result as JSON.

    Args:
        request: The task.
        plugin: Its name, for messages.
        context: Of the unit: told the progress; its cancellation ends the process.

    Raises:
        Cancelled: Nobody wants the result any more.
        GdmixError: As the process says.
        InternalError: The process ended without an answer, by a signal perhaps.
    """
    context.check()
    process, link = _start(request)
    try:
        with context.when_cancelled(lambda: _kill(process)):
            answer = _follow(process, link, request, context)
            code = process.wait()
    finally:
        _kill(process)
        link.close()
        process.wait()
    context.check()
    if answer is None:
        raise InternalError(_death(plugin, code))
    if answer["event"] == FAILED:
        _log.error("plug-in %s failed:\n%s", plugin, answer["traceback"])
        raise catalog().get(answer["code"], InternalError)(answer["message"])
    result: str = answer["result"]
    return result


def _start(request: WorkRequest) -> tuple[subprocess.Popen[bytes], socket.socket]:
    link, theirs = socket.socketpair()
    threads = dict.fromkeys(_THREAD_VARIABLES, str(request.threads))
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
    with theirs:
        # In a session of its own: a Ctrl-C for the worker is not meant for it, and it can be ended with its children.
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*COMMAND, "--parent-fd", str(theirs.fileno()), "--log-level", level],
            stdin=subprocess.PIPE,
            stdout=2,  # what a library prints belongs to the worker's log
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={**os.environ, **threads},
        )
    return process, link


def _follow(
    process: subprocess.Popen[bytes], link: socket.socket, request: WorkRequest, context: TaskContext
) -> dict[str, Any] | None:
    """Pass on what the process says until it has answered or ended; return its answer, None without one."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(asdict(request)).encode())
    with link.makefile("r", encoding="utf-8") as lines:
        for said in _said(lines):
            if said["event"] == PROGRESS:
                progress = {name: value for name, value in said.items() if name != "event"}
                context.show(FitProgress(**progress))
            elif said["event"] == NOTICE:
                _log.log(logging.WARNING if said["warning"] else logging.INFO, "%s", said["text"])
            elif said["event"] in {DONE, FAILED}:
                return said
    return None


def _said(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        for line in lines:
            if line.endswith("\n"):  # the last words of a process that was killed may be cut
                yield json.loads(line)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with its children, unless it has been waited for."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _death(plugin: str, code: int) -> str:
    if code >= 0:
        return f"plug-in {plugin!r}: its process ended with code {code} and no result; the worker's log may say why"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = "; there may have been too little memory" if -code == signal.SIGKILL else ""
    return f"plug-in {plugin!r}: its process was ended by {name}{hint}"
