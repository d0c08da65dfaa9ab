"""One role (coordinator, worker) as a child process that ends with its parent.

The child inherits one end of a socket pair and reports on it (`gdmix_core.parent_link`); closing the other
end, or dying with it, ends the child. The child leads a session of its own, so that Ctrl-C on the terminal
reaches the command only, which then decides what becomes of the job.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdmix_core.errors import GdmixError, NotPermitted, Unavailable, UsageError

TAIL_LINES = 12
GRACE_SECONDS = 3.0
_ERRORS: dict[int, type[GdmixError]] = {2: UsageError, 4: NotPermitted}


class RoleProcess:
    """A running role; `wait_for` waits for what it reports, `stop` ends it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        when_ended: Callable[[RoleProcess], None] | None = None,
    ) -> None:
        """Start the process.

        Args:
            name: for messages and the log, say `worker-1`.
            command: program and arguments, without `--parent-fd`, which is added.
            log: its stderr and stdout are appended here.
            environment: variables besides this process's own.
            when_ended: called once, from a thread, when the process has ended, however it did.
        """
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._when_ended = when_ended
        self._changed = threading.Condition()
        self._reports: dict[str, dict[str, Any]] = {}
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._link, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own modules, arguments as a list
                    [*command, "--parent-fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
        self._listener = threading.Thread(target=self._listen, name=f"link-{name}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait_for(self, event: str, timeout_seconds: float) -> dict[str, Any]:
        """Return what the process said with `event`, say the port with `listening`.

        Raises:
            GdmixError: the process ended or failed first, or said nothing in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while event not in self._reports:
                if "failed" in self._reports or "ended" in self._reports:
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Unavailable(
                        f"{self.name} (process {self.pid}) was not {event} after {timeout_seconds:.0f} s"
                        f"{self.log_tail()}"
                    )
            if event in self._reports:
                return self._reports[event]
        raise self.failure()

    def has_reported(self, event: str) -> bool:
        """Return whether the process has said `event`."""
        with self._changed:
            return event in self._reports

    def failure(self) -> GdmixError:
        """Return the error that says why the process ended."""
        with self._changed:
            failed = self._reports.get("failed")
        if failed is not None:
            kind = _ERRORS.get(int(failed.get("exit_code", 3)), Unavailable)
            return kind(f"{self.name} did not start: {failed.get('message', 'no reason given')}")
        return Unavailable(f"{self.name} {_how_it_ended(self.exit_status)}{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the log, ready to follow a message."""
        try:
            text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
            lines = text.splitlines()[-TAIL_LINES:]
        except OSError:
            lines = []
        if not lines:
            return f"; its log {self.log} is empty"
        return "; the end of its log " + "\n    ".join([f"{self.log}:", *lines])

    def close_link(self) -> None:
        """Ask the process to end, by closing the link it watches."""
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def release(self) -> None:
        """Let the process be: it goes on without this one, if it does not watch its link."""
        self._when_ended = None
        self.close_link()
        self._process.returncode = 0  # or its destructor would warn of a process that still runs

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End the process: close the link, then SIGTERM, then SIGKILL, `grace_seconds` apart."""
        self._when_ended = None
        self.close_link()
        for act in (None, signal.SIGTERM, signal.SIGKILL):
            if act is not None and self._process.poll() is None:
                self._process.send_signal(act)
            try:
                self._process.wait(grace_seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        if self._listener is not threading.current_thread():
            self._listener.join()
        self._link.close()

    def _listen(self) -> None:
        """Note what the process reports until it ends."""
        pending = b""
        while True:
            try:
                data = self._link.recv(4096)
            except OSError:
                break
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                report = json.loads(line)
                self._note(str(report["event"]), report)
        self._process.wait()
        self._note("ended", {})
        if self._when_ended is not None:
            self._when_ended(self)

    def _note(self, event: str, report: dict[str, Any]) -> None:
        with self._changed:
            self._reports[event] = report
            self._changed.notify_all()


def role_command(role: str, *arguments: str) -> list[str]:
    """Return the command that runs a role with this interpreter; role is `server` or `trainer`."""
    # -P: a file `grpc.py` in the directory where somebody calls us must not become a module of ours.
    return [sys.executable, "-P", "-m", f"gdmix_{role}", *arguments]


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "closed its link"
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with exit status {status}"
