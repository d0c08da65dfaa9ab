"""The admin port: `/metrics`, `/healthz`, `/readyz` and `/status` over HTTP/1.1.

A responder and no web server: GET and HEAD, no bodies, one request a connection, everything bounded. It is
read-only and in the clear: it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Self

from gdmix_core.errors import Unavailable

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 16 * 1024
_REQUEST_SECONDS: Final = 10.0
_MAX_CONNECTIONS: Final = 64
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Response:
    """What a page answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def document(cls, status: HTTPStatus, document: Mapping[str, object]) -> Self:
        """Answer with JSON."""
        return cls(status, json.dumps(document, default=str).encode() + b"\n", "application/json")

    @classmethod
    def text(cls, status: HTTPStatus, text: str) -> Self:
        """Answer with a line of text."""
        return cls(status, text.encode() + b"\n")

    @classmethod
    def exposition(cls, text: bytes) -> Self:
        """Answer with metrics in Prometheus' text format."""
        return cls(HTTPStatus.OK, text, _PROMETHEUS)


Page = Callable[[], Awaitable[Response]]


class AdminServer:
    """Serves a fixed set of pages."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        """Serve these pages by their path."""
        self._pages = dict(pages)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` tells where.

        Raises:
            Unavailable: the port is taken, or the address is not of this machine.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=_MAX_HEAD_BYTES, reuse_port=False
            )
        except OSError as error:
            raise Unavailable(
                f"--admin-port: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and the connections."""
        if self._server is None:
            return
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._connections) < _MAX_CONNECTIONS:
                self._connections.add(task)
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the caller went away, or never said what it wants
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            response, body_wanted = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), True
        else:
            method, response = await self._answer(head)
            body_wanted = method != b"HEAD"
        writer.write(_encoded(response, body=body_wanted))
        await writer.drain()

    async def _answer(self, head: bytes) -> tuple[bytes, Response]:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return b"", _refusal(HTTPStatus.BAD_REQUEST)
        method, target = words[0], words[1].split(b"?", 1)[0]
        page = self._pages.get(target.decode("latin-1"))
        if page is None:
            paths = ", ".join(sorted(self._pages))
            return method, Response.text(HTTPStatus.NOT_FOUND, f"not found; there are {paths}")
        if method not in {b"GET", b"HEAD"}:
            return method, _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return method, await page()
        except Exception:
            logger.exception("admin page %s failed", target.decode("latin-1"))
            return method, _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)


def _refusal(status: HTTPStatus) -> Response:
    return Response.text(status, status.phrase.lower())


def _encoded(response: Response, *, body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if response.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + (response.body if body else b"")
