"""The admin port as HTTP clients see it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from http import HTTPStatus

import pytest

from gdmix_core.errors import Unavailable
from gdmix_scorer.admin import AdminServer, Response


async def number() -> Response:
    return Response.document(HTTPStatus.OK, {"number": 7})


async def broken() -> Response:
    raise ValueError("a secret")


def with_server(act):
    """Run `act(port)` in a thread beside a server."""

    async def run():
        server = AdminServer({"/number": number, "/broken": broken})
        await server.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(act, server.port)
        finally:
            await server.stop()

    return asyncio.run(run())


def get(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def raw(data: bytes) -> bytes:
    async def run():
        server = AdminServer({"/number": number})
        await server.start("127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        finally:
            await server.stop()
        return answer

    return asyncio.run(run())


def test_pages():
    status, headers, body = with_server(lambda port: get(port, "/number?x=1"))
    assert (status, json.loads(body)) == (200, {"number": 7})
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"


def test_head_sends_no_body():
    status, headers, body = with_server(lambda port: get(port, "/number", "HEAD"))
    assert (status, headers["content-length"], body) == (200, "14", b"")


@pytest.mark.parametrize(
    ("path", "method", "status", "said"),
    [
        ("/", "GET", 404, b"there are /broken, /number"),
        ("/number", "DELETE", 405, b"method not allowed"),
        ("/broken", "GET", 500, b"internal server error"),
    ],
)
def test_refusals(path, method, status, said):
    found, _, body = with_server(lambda port: get(port, path, method))
    assert found == status
    assert said in body
    assert b"secret" not in body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /number SPDY/3\r\n\r\n", b"400 Bad Request"),
        (b"GET /number HTTP/1.1\r\nX: " + b"x" * 40000 + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
        (b"\xff\xfe /\xff HTTP/1.1\r\n\r\n", b"404 Not Found"),
    ],
)
def test_malformed_requests(data, status):
    assert raw(data).startswith(b"HTTP/1.1 " + status)


def test_a_caller_that_says_nothing_does_not_hold_up_the_end():
    async def run():
        server = AdminServer({"/number": number})
        await server.start("127.0.0.1", 0)
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", server.port)
        silent.write(b"GET /num")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /number HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b'{"number": 7}\n')  # so the first was accepted too
        await asyncio.wait_for(server.stop(), 10)
        assert await silent_reader.read() == b""
        for each in (silent, writer):
            each.close()
            await each.wait_closed()

    asyncio.run(run())


def test_a_taken_port_is_named():
    async def run():
        first, second = AdminServer({}), AdminServer({})
        await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(Unavailable, match=f"--admin-port: cannot listen on 127.0.0.1:{first.port}"):
                await second.start("127.0.0.1", first.port)
        finally:
            await first.stop()
            await second.stop()

    asyncio.run(run())
