"""A coordinator on an ephemeral port; workers that speak the real protocol and compute next to nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import numpy as np
import pytest

from gdmix_core.arrays import ArrayAssembler, iter_chunks, wire_dtype
from gdmix_core.config import config_to_json, parse_config
from gdmix_core.data.layout import DesignSpec
from gdmix_core.tasks import (
    EvaluateFixedEffect,
    FixedEffectEvaluated,
    FixedEffectPrepared,
    PrepareFixedEffect,
    Regularization,
    RemoveWork,
    ShardInput,
    Task,
    TaskResult,
    WorkRemoved,
    task_from_json,
    to_json,
)
from gdmix_proto.v1 import training_pb2, training_pb2_grpc, worker_pb2, worker_pb2_grpc
from gdmix_server.server import Coordinator, ServerSettings
from gdmix_server.state.model import FixedEffectStage, Report, UnitStage
from gdmix_server.state.settings import MachineSettings

PATIENCE_SECONDS = 20.0

CONFIG = """
model: tiny
task: linear_regression
data: {train: /data/train.parquet}
features: {all: [x]}
coordinates: {global: {fixed_effect: linear_regression, features: all}}
"""

SHARDS = 3
DESIGN = DesignSpec(name="global", bags=("all",), intercept=True)


def rows_of(shard: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a shard, the intercept's column first, and their labels."""
    random = np.random.default_rng(shard)
    x = np.column_stack([np.ones(20), random.normal(size=(20, 2))])
    return x, x @ np.array([1.0, -2.0, 0.5]) + 0.01 * random.normal(size=20)


def solution() -> np.ndarray:
    """Return the optimum over all shards at l2 = (0, 1, 1)."""
    x, y = (np.concatenate(parts) for parts in zip(*map(rows_of, range(SHARDS)), strict=True))
    return np.linalg.solve(x.T @ x + np.diag([0.0, 1.0, 1.0]), x.T @ y)


def sums_of(task: EvaluateFixedEffect, theta: np.ndarray) -> np.ndarray:
    """Return what a worker pushes: one row for each maximal whole subtree of its shards."""
    from gdmix_core.solvers.fixed_effect import FixedEffectSums
    from gdmix_core.solvers.summation_tree import owned_nodes, subtree_sum

    def of_shard(shard: int) -> FixedEffectSums:
        x, y = rows_of(shard)
        error = x @ theta - y
        return FixedEffectSums(
            value=float(0.5 * error @ error),
            weight_sum=float(len(y)),
            rows=len(y),
            gradient=x.T @ error,
            gradient_scale=np.abs(x).T @ (np.abs(y) + np.abs(x @ theta)),
            curvature=(x * x).sum(axis=0),
            hessian=(x.T @ x)[np.triu_indices(3)] if task.hessian else None,
        )

    nodes = owned_nodes([entry.shard for entry in task.shards], task.shard_count)
    return np.stack([subtree_sum(node, task.shard_count, of_shard).to_array() for node in nodes])


def units(name: str, count: int) -> UnitStage:
    """Return a stage of units that do nothing."""
    return UnitStage(
        name=name,
        title=name,
        units=tuple(RemoveWork(output="", directory=f"/{name}/{i}") for i in range(count)),
    )


def fixed_effect_program(job: Any) -> Any:
    """Two units, a fixed effect over three shards, one unit that pulls the solution."""
    yield units("first", 2)
    prepare = PrepareFixedEffect(
        output="",
        design=DESIGN,
        index="/index",
        regularization=Regularization(groups={"default": 1.0}, regularize_intercept=False),
    )
    yield UnitStage(name="prepare", title="prepare", units=(prepare,))
    outcome = yield FixedEffectStage(
        name="fit",
        title="fit",
        coordinate="global",
        pass_number=1,
        design=DESIGN,
        dimension=3,
        loss=1,
        shards=tuple(ShardInput(shard=k, directory=f"/{k}", scores=()) for k in range(SHARDS)),
        shard_rows=(20,) * SHARDS,
        nonzeros=40 * SHARDS,
        l2="prepare/l2",
        solver="newton",
        variance="none",
        max_iterations=50,
    )
    yield Report(notice=f"the solve {outcome.status}")
    last = RemoveWork(output="", directory="/last")
    yield UnitStage(name="last", title="last", units=(last,), arrays={"theta": "fit/theta"})


def one_stage_program(job: Any) -> Any:
    """Three units, then the end."""
    yield units("only", 3)


class FakeWorker:
    """A worker's end of the protocol."""

    def __init__(self, channel: grpc.aio.Channel, worker_id: str = "w1", metadata: Any = None) -> None:
        self.worker_id = worker_id
        self.stub = worker_pb2_grpc.WorkerServiceStub(channel)
        self.metadata = metadata
        self.pulled: dict[str, np.ndarray] = {}

    def open(self) -> None:
        self.stream = self.stub.Session(metadata=self.metadata)

    async def register(
        self, *, threads: int = 1, ready: bool = True, held: Any = (), version: str = ""
    ) -> Any:
        from gdmix_server.state.settings import installed_version

        self.open()
        register = worker_pb2.Register(
            worker_id=self.worker_id,
            host="here",
            pid=1,
            threads=threads,
            version=version or installed_version(),
            fingerprint="f" * 16,
            ready=ready,
            held=held,
        )
        await self.say(register=register)
        return await self.hear("registered")

    async def say(self, **message: Any) -> None:
        await self.stream.write(worker_pb2.WorkerMessage(**message))

    async def hear(self, *kinds: str) -> Any:
        """Return the next message of one of these kinds; others are passed over."""
        while True:
            message = await asyncio.wait_for(self.stream.read(), PATIENCE_SECONDS)
            assert message is not grpc.aio.EOF, "the session ended"
            if message.WhichOneof("message") in kinds:
                return getattr(message, message.WhichOneof("message"))

    async def ended(self) -> grpc.StatusCode:
        """Read until the session's end and return its status."""
        try:
            while await asyncio.wait_for(self.stream.read(), PATIENCE_SECONDS) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.stream.code()

    async def push(self, lease: Any, name: str, array: np.ndarray) -> int:
        async def chunks() -> AsyncIterator[worker_pb2.ArrayChunk]:
            for number, data in enumerate(iter_chunks(array, 64)):
                if number == 0:
                    yield worker_pb2.ArrayChunk(
                        lease=lease, name=name, dtype=wire_dtype(array), shape=array.shape, data=data
                    )
                else:
                    yield worker_pb2.ArrayChunk(data=data)

        response = await self.stub.PushArray(chunks(), metadata=self.metadata)
        return response.bytes_received

    async def pull(self, lease: Any, name: str) -> np.ndarray:
        assembler = None
        request = worker_pb2.PullArrayRequest(lease=lease, name=name)
        async for chunk in self.stub.PullArray(request, metadata=self.metadata):
            assembler = assembler or ArrayAssembler(chunk.dtype, list(chunk.shape))
            assembler.append(chunk.data)
        return assembler.finish()

    async def finish(self, lease: Any, result: TaskResult) -> None:
        await self.say(unit_finished=worker_pb2.UnitFinished(lease=lease, result_json=to_json(result)))

    async def fail(self, lease: Any, message: str, *, retryable: bool) -> None:
        failed = worker_pb2.UnitFailed(lease=lease, error_code="data", message=message, retryable=retryable)
        await self.say(unit_failed=failed)

    async def perform(self, lease: Any, task: Task) -> TaskResult:
        """Do a task as the stages above mean it."""
        if isinstance(task, PrepareFixedEffect):
            await self.push(lease, "l2", np.array([0.0, 1.0, 1.0]))
            return FixedEffectPrepared(seconds=0.0, dimension=3)
        if isinstance(task, EvaluateFixedEffect):
            theta = await self.pull(lease, "theta")
            await self.push(lease, "sums", sums_of(task, theta))
            return FixedEffectEvaluated(seconds=0.0, rows=20 * len(task.shards))
        if task.directory == "/last":
            self.pulled["theta"] = await self.pull(lease, "theta")
        return WorkRemoved(seconds=0.0)

    async def work(self, until: Callable[[Task], bool] = lambda task: False) -> Task:
        """Do what comes, until a task comes that `until` knows, which is left undone and returned."""
        while True:
            assigned = await self.hear("assign_unit")
            task = task_from_json(assigned.kind, assigned.task_json)
            self.lease = assigned.lease
            if until(task):
                return task
            await self.finish(assigned.lease, await self.perform(assigned.lease, task))

    async def close(self) -> None:
        self.stream.cancel()


class Client:
    """A client's end of the protocol."""

    def __init__(self, channel: grpc.aio.Channel, output: Path, metadata: Any = None) -> None:
        self.stub = training_pb2_grpc.TrainingServiceStub(channel)
        self.output = output
        self.metadata = metadata

    def config(self, **changes: Any) -> str:
        document = json.loads(config_to_json(parse_config(CONFIG + f"output: {self.output}\n")))
        return json.dumps(document | changes)

    async def submit(self, request_id: str = "r1", **changes: Any) -> training_pb2.Job:
        request = training_pb2.SubmitJobRequest(request_id=request_id, config_json=self.config(**changes))
        return await self.stub.SubmitJob(request, metadata=self.metadata)

    async def get(self, job_id: str) -> training_pb2.Job:
        return await self.stub.GetJob(training_pb2.GetJobRequest(job_id=job_id), metadata=self.metadata)

    async def watch(self, job_id: str, after: int = 0) -> list[training_pb2.JobEvent]:
        """Watch until the job has ended."""
        request = training_pb2.WatchJobRequest(job_id=job_id, after_sequence=after)

        async def collect() -> list[training_pb2.JobEvent]:
            return [event async for event in self.stub.WatchJob(request, metadata=self.metadata)]

        return await asyncio.wait_for(collect(), PATIENCE_SECONDS)


class Running:
    """A started coordinator with channels to it."""

    def __init__(self, coordinator: Coordinator, output: Path) -> None:
        self.coordinator = coordinator
        self.address = f"127.0.0.1:{coordinator.port}"
        self.output = output
        self.channels: list[grpc.aio.Channel] = []
        self.client = Client(self.channel(), output)

    def channel(self) -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self.channels.append(grpc.aio.insecure_channel(self.address, options=options))
        return self.channels[-1]

    def worker(self, worker_id: str = "w1", metadata: Any = None) -> FakeWorker:
        return FakeWorker(self.channel(), worker_id, metadata)


@asynccontextmanager
async def running(
    state_dir: Path,
    program: Any = one_stage_program,
    *,
    machine: MachineSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    machine = machine or MachineSettings(reconnect_seconds=0.3, restart_grace_seconds=2.0)
    coordinator = Coordinator(ServerSettings(state_dir=state_dir, machine=machine, **settings), program)
    await coordinator.start()
    await coordinator.announce_ready()
    found = Running(coordinator, state_dir.parent / "output")
    try:
        yield found
    finally:
        for channel in found.channels:
            await channel.close()
        await coordinator.stop()


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, str]:
    """Return status, message and error code of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        codes = [value for key, value in error.trailing_metadata() or () if key == "gdmix-error-code"]
        return error.code(), error.details() or "", "".join(map(str, codes))
    raise AssertionError("the call succeeded")


@pytest.fixture
def tiny() -> SimpleNamespace:
    """Everything above, for test modules to use."""
    return SimpleNamespace(
        running=running,
        refusal=refusal,
        solution=solution,
        units=units,
        one_stage_program=one_stage_program,
        fixed_effect_program=fixed_effect_program,
        rows_of=rows_of,
        sums_of=sums_of,
        patience=PATIENCE_SECONDS,
    )


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory that does not exist yet."""
    return tmp_path / "state"
