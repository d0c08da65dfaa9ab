"""The thread by which a child process hangs on its parent.

A parent that starts a role passes one end of a socket pair (`--parent-fd N`). The child reports on it, one
JSON object a line: `{"event": "listening", "port": 50051}`, `{"event": "ready"}`, `{"event": "failed",
"message": …, "exit_code": …}`. When the parent dies,
however it dies, the child reads end-of-file and ends too: no orphans.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable


class ParentLink:
    """The child's end; without a descriptor (`None`) every call does nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._socket = None if descriptor is None else socket.socket(fileno=descriptor)

    def report(self, event: str, **facts: object) -> None:
        """Send one line to the parent; a parent that is gone is no error here."""
        if self._socket is None:
            return
        line = json.dumps({"event": event, **facts}) + "\n"
        try:
            self._socket.sendall(line.encode())
        except OSError:
            return

    def when_parent_ends(self, act: Callable[[], None]) -> None:
        """Call `act` once, from a daemon thread, when the parent closes its end or dies."""
        if self._socket is None:
            return
        threading.Thread(target=self._wait, args=(self._socket, act), name="parent-link", daemon=True).start()

    @staticmethod
    def _wait(link: socket.socket, act: Callable[[], None]) -> None:
        try:
            while link.recv(4096):
                pass
        except OSError:
            pass
        act()
