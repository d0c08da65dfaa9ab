"""Ports that members of a gang hold."""

from __future__ import annotations

import socket

import grpc
import pytest

from gdmix_core.errors import Unavailable, UsageError
from gdmix_trainer.gang import LOOPBACK, HeldPort


def test_a_held_port_gets_no_connections_until_somebody_listens_there() -> None:
    port = HeldPort(LOOPBACK)
    host, _, number = port.address.rpartition(":")
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(number)), timeout=5)
        with socket.create_server((host, int(number))) as server:
            socket.create_connection((host, int(number)), timeout=5).close()
            server.accept()[0].close()
    finally:
        port.close()


@pytest.mark.parametrize("listen", [LOOPBACK, "0.0.0.0"])
@pytest.mark.parametrize("reuse_port", [0, 1])
def test_a_grpc_server_listens_beside_it(listen: str, reuse_port: int) -> None:
    """As TensorFlow's do, which bind all addresses."""
    from concurrent.futures import ThreadPoolExecutor

    port = HeldPort(LOOPBACK)
    number = int(port.address.rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=(("grpc.so_reuseport", reuse_port),))
        try:
            assert server.add_insecure_port(f"{listen}:{number}") == number
            server.start()
            socket.create_connection((LOOPBACK, number), timeout=5).close()
        finally:
            server.stop(None).wait()
            port.close()


def test_many_ports_are_all_different() -> None:
    held = [HeldPort("localhost") for _ in range(200)]
    try:
        assert len({port.address for port in held}) == 200
        assert all(port.address.startswith("localhost:") for port in held)
    finally:
        for port in held:
            port.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_address_of_six_parts_is_told_in_brackets() -> None:
    try:
        port = HeldPort("::1")
    except Unavailable:
        pytest.skip("this machine has no IPv6 loopback")
    assert port.address.startswith("[::1]:")
    port.close()


@pytest.mark.parametrize(
    ("host", "kind", "reason"),
    [
        ("no..name", UsageError, "--advertise-host no..name: has no address"),
        (
            "192.0.2.1",
            Unavailable,
            "no port of 192.0.2.1 can be held for a gang: it is no address of this machine",
        ),
    ],
)
def test_a_host_that_is_not_this_machine(host: str, kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        HeldPort(host)
