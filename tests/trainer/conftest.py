"""A coordinator that does what a test tells it: a real gRPC server that speaks the worker protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from gdmix_core.arrays import ArrayAssembler, iter_chunks
from gdmix_proto.v1 import worker_pb2 as wire
from gdmix_proto.v1 import worker_pb2_grpc


class ScriptedCoordinator(worker_pb2_grpc.WorkerServiceServicer):
    """Every message of a worker lands in `received`; `send` answers on the newest session."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[wire.WorkerMessage] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[wire.Heartbeat] = asyncio.Queue()
        self.pushed: dict[tuple[int, str], np.ndarray[Any, Any]] = {}
        self.pushes = 0
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.push_refusal: tuple[grpc.StatusCode, str] | None = None
        self.heartbeat_seconds = 30.0
        self.metadata: dict[str, Any] = {}
        self.port = 0
        self._outgoing: asyncio.Queue[wire.CoordinatorMessage | None] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    # ---- the service -------------------------------------------------------------------------------------

    async def Session(
        self, request_iterator: AsyncIterator[wire.WorkerMessage], context: Any
    ) -> AsyncIterator[wire.CoordinatorMessage]:
        self.metadata = dict(context.invocation_metadata())
        if self.refusal is not None:
            await context.abort(*self.refusal)
        outgoing = self._outgoing = asyncio.Queue()
        reading = asyncio.create_task(self._read(request_iterator, outgoing))
        try:
            while (message := await outgoing.get()) is not None:
                yield message
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, messages: AsyncIterator[wire.WorkerMessage], outgoing: asyncio.Queue[Any]) -> None:
        async for message in messages:
            kind = message.WhichOneof("message")
            if kind == "heartbeat":
                self.heartbeats.put_nowait(message.heartbeat)
                continue
            if kind == "register":
                answer = wire.Registered(epoch=1, heartbeat_seconds=self.heartbeat_seconds, lease_seconds=60)
                outgoing.put_nowait(wire.CoordinatorMessage(registered=answer))
            self.received.put_nowait(message)

    async def PushArray(
        self, request_iterator: AsyncIterator[wire.ArrayChunk], context: Any
    ) -> wire.PushArrayResponse:
        if self.push_refusal is not None:
            await context.abort(*self.push_refusal)
        assembler, key = None, (0, "")
        async for chunk in request_iterator:
            if assembler is None:
                assembler, key = ArrayAssembler(chunk.dtype, chunk.shape), (chunk.lease.fence, chunk.name)
            assembler.append(chunk.data)
        assert assembler is not None
        self.pushed[key] = assembler.finish()
        self.pushes += 1
        return wire.PushArrayResponse(bytes_received=assembler.received)

    async def PullArray(self, request: wire.PullArrayRequest, context: Any) -> AsyncIterator[wire.ArrayChunk]:
        if request.name not in self.arrays:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no array {request.name}")
        array = self.arrays[request.name]
        for number, data in enumerate(iter_chunks(array)):
            facts = {"dtype": array.dtype.str, "shape": array.shape} if number == 0 else {}
            yield wire.ArrayChunk(lease=request.lease, name=request.name, data=data, **facts)

    # ---- the script --------------------------------------------------------------------------------------

    def send(self, **message: Any) -> None:
        """Send a message on the newest session, say `send(revoke_unit=…)`."""
        self._outgoing.put_nowait(wire.CoordinatorMessage(**message))

    def end_session(self) -> None:
        """Close the newest session, as a coordinator that ends."""
        self._outgoing.put_nowait(None)

    def assign(
        self, lease: wire.Lease, kind: str = "work", task_json: str = "{}", gang_size: int = 0
    ) -> None:
        unit = wire.AssignUnit(lease=lease, kind=kind, task_json=task_json, gang_size=gang_size)
        self.send(assign_unit=unit)

    def acknowledge(self, lease: wire.Lease, accepted: bool = True) -> None:
        self.send(acknowledge_result=wire.AcknowledgeResult(lease=lease, accepted=accepted))

    async def expect(self, kind: str) -> Any:
        """Wait for the next message, which must be of `kind`; heartbeats do not count."""
        message = await asyncio.wait_for(self.received.get(), 20)
        assert message.WhichOneof("message") == kind
        return getattr(message, kind)

    async def heartbeat(self, accept: Callable[[wire.Heartbeat], bool]) -> wire.Heartbeat:
        """Wait for a heartbeat that `accept` likes."""
        while True:
            beat = await asyncio.wait_for(self.heartbeats.get(), 20)
            if accept(beat):
                return beat


@pytest.fixture
def coordinator() -> ScriptedCoordinator:
    """A coordinator that the test starts inside its own event loop."""
    return ScriptedCoordinator()
