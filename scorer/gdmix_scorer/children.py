"""One serving process, as the scorer's parent sees it: started by exec, spoken to by its link, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from gdmix_core.errors import GdmixError, NotPermitted, Unavailable, UsageError

logger = logging.getLogger(__name__)

TAIL_LINES: Final = 12
_MAX_REPORT_BYTES: Final = 64 * 1024 * 1024
_ASK_AGAIN_SECONDS: Final = 6.0
"""Longer than a child waits for its event loop: a question that old will not be answered."""
_ERRORS: Final[dict[int, type[GdmixError]]] = {2: UsageError, 4: NotPermitted}


class ChildState(StrEnum):
    """Where a serving process stands."""

    STARTING = "starting"
    LISTENING = "listening"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(slots=True)
class ChildNews:
    """The latest that a serving process said about itself."""

    at: float = 0.0
    """`time.monotonic()` of the answer; 0: none yet."""
    serving: bool = False
    versions: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = field(default=())


class Child:
    """A serving process that runs."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        when_changed: Callable[[Child], None],
        relay: Callable[[bytes], None],
    ) -> None:
        """Take a process that `start_child` started."""
        self.name = name
        self.state = ChildState.STARTING
        self.listened = False
        """Whether it ever listened."""
        self.started = time.monotonic()
        self.news = ChildNews()
        self.failed: Mapping[str, Any] | None = None
        """Its own report of why it ends, if it made one."""
        self._process = process
        self._reader, self._writer = streams
        self._when_changed = when_changed
        self._relay = relay
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._asked_at: float | None = None
        self._first_asked_at: float | None = None
        self._answered = asyncio.Event()
        self._run = asyncio.create_task(self._watch(), name=f"child-{name}")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> None:
        """Wait for the end of the process and of what it had to say."""
        await asyncio.shield(self._run)

    def ask(self) -> None:
        """Ask how it is; the answer becomes `news`. One question at a time, unless it was not heard."""
        if self.state in {ChildState.STARTING, ChildState.ENDED}:
            return
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > _ASK_AGAIN_SECONDS:
            self._asked_at = now
            self._first_asked_at = self._first_asked_at or now
            self._answered.clear()
            self._send({"ask": "snapshot"})

    async def answer(self, timeout_seconds: float) -> None:
        """Ask how it is and wait for the answer, not for long."""
        self.ask()
        if self._asked_at is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), timeout_seconds)

    def terminate(self) -> None:
        """Tell it to finish what is under way and to end."""
        if self.state is not ChildState.ENDED:
            self.state = ChildState.ENDING
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def failure(self) -> GdmixError:
        """Return the error that says why it ended, with the end of its log."""
        if self.failed is not None:
            kind = _ERRORS.get(int(self.failed.get("exit_code", 3)), Unavailable)
            return kind(str(self.failed.get("message", "no reason given")))
        return Unavailable(f"serving process {self.name} {how_it_ended(self.exit_status)}{self._log_tail()}")

    @property
    def silent_seconds(self) -> float:
        """Seconds since a question that has not been answered; 0: none waits."""
        if self._first_asked_at is None:
            return 0.0
        return time.monotonic() - self._first_asked_at

    def _log_tail(self) -> str:
        if not self._tail:
            return " and said nothing"
        return "; the end of its log:\n    " + "\n    ".join(self._tail)

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _watch(self) -> None:
        """Note what the process reports and logs until it has ended."""
        try:
            await asyncio.gather(self._listen(), self._read_log(), self._process.wait())
        finally:
            self.state = ChildState.ENDED
            self._answered.set()
            self._writer.close()
        self._when_changed(self)

    async def _listen(self) -> None:
        with suppress(OSError, ValueError):  # it died in the middle of a line, or of a very long one
            while line := await self._reader.readline():
                self._note(json.loads(line))

    def _note(self, report: Mapping[str, Any]) -> None:
        event = report.get("event")
        if event == "snapshot":
            self._asked_at = self._first_asked_at = None
            self.news = ChildNews(
                time.monotonic(), bool(report["serving"]), report["versions"], report["metrics"]
            )
            self._answered.set()
        elif event == "failed":
            self.failed = report
        elif self.state is not ChildState.ENDING:
            if event == "listening":
                self.state, self.listened = ChildState.LISTENING, True
                self.ask()
            elif event == "ready":
                self.state = ChildState.READY
                self.ask()
        self._when_changed(self)

    async def _read_log(self) -> None:
        """Pass on what the process logs, and keep its end."""
        assert self._process.stdout is not None
        pending = b""
        while data := await self._process.stdout.read(65536):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._log_line(line)
        if pending:
            self._log_line(pending)

    def _log_line(self, line: bytes) -> None:
        self._tail.append(line.decode(errors="replace"))
        self._relay(line)


async def start_child(
    name: str,
    command: Sequence[str],
    settings: Mapping[str, Any],
    *,
    when_changed: Callable[[Child], None],
    relay: Callable[[bytes], None],
) -> Child:
    """Start one serving process.

    Args:
        name: its number among its siblings.
        command: program and arguments, without `--parent-fd`, which is added.
        settings: sent over the link, so that no password is on a command line.
        when_changed: called on the event loop whenever its state or its news changed, and when it has ended.
        relay: called with every line that it logs.

    Raises:
        Unavailable: the system starts no more processes.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--parent-fd",
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the parent only, which then drains
            )
        ours.setblocking(False)
        streams = await asyncio.open_connection(sock=ours, limit=_MAX_REPORT_BYTES)
    except OSError as error:
        ours.close()
        raise Unavailable(f"cannot start serving process {name}: {error}") from error
    child = Child(name, process, streams, when_changed, relay)
    streams[1].write(json.dumps(settings).encode() + b"\n")
    return child


def child_command() -> list[str]:
    """Return the command that runs one serving process with this interpreter."""
    # -P: a file `grpc.py` in the directory where somebody calls us must not become a module of ours.
    return [sys.executable, "-P", "-m", "gdmix_scorer", "--child"]


def how_it_ended(status: int | None) -> str:
    """Say in words how a process ended."""
    if status is None:
        return "has not ended"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def relay_to_stderr(name: str) -> Callable[[bytes], None]:
    """Return a function that writes a child's log lines to this process's stderr, readably on a terminal."""
    terminal = sys.stderr.isatty()

    def relay(line: bytes) -> None:
        text = _readable(name, line) if terminal else line
        with suppress(OSError):
            os.write(2, text + b"\n")

    return relay


def _readable(name: str, line: bytes) -> bytes:
    """Return a line of JSON as `configure_logging` shows it to people, any other as it is."""
    try:
        record = json.loads(line)
        clock = str(record["time"])[11:19]
        text = f"{clock} scorer-{name} {str(record['level'])[:1].upper()} {record['message']}"
        if "exception" in record:
            text += f"\n{record['exception']}"
    except (ValueError, KeyError, TypeError):
        return line
    return text.encode()
