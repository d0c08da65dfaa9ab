"""The worker as a process: quick to register, lazy, and orderly in its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from gdmix_core import tasks
from gdmix_proto.v1 import worker_pb2 as wire

LAZY = ("numba", "numpy", "polars", "pyarrow", "pydantic", "scipy", "tensorflow")
NEVER_AT_START = ("lmdb", "polars", "pyarrow.dataset", "redis", "scipy.optimize", "tensorflow")


def modules_after(code: str) -> set[str]:
    """Run Python code in a fresh process and return the modules it loaded."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=250
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_worker_registers_with_grpc_alone() -> None:
    loaded = modules_after("import gdmix_trainer.__main__, gdmix_trainer.worker")
    assert "grpc" in loaded
    assert not loaded & set(LAZY)


def test_warming_up_leaves_out_what_only_few_units_need() -> None:
    loaded = modules_after("from gdmix_trainer.start_up import prepare; prepare()")
    assert "gdmix_trainer.tasks.registry" in loaded
    assert not loaded & set(NEVER_AT_START)


def test_blas_is_pinned_before_numpy_is_there() -> None:
    code = "import gdmix_trainer.__main__, os; assert os.environ['OPENBLAS_NUM_THREADS'] == '1'"
    assert "numpy" not in modules_after(code)


@contextlib.asynccontextmanager
async def worker(coordinator: Any, *more: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process at a coordinator; killed at the end if it has not ended by itself."""
    await coordinator.start()
    environment = {**os.environ, "GDMIX_TOKEN": "a-token-for-tests"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gdmix_trainer", "--coordinator", f"127.0.0.1:{coordinator.port}"),
        *more,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        **options,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        await coordinator.stop()


def play(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 200))


def test_a_worker_works_and_ends_on_sigterm(coordinator: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with worker(
            coordinator, "--threads", "2", "--name", "w7", "--data-root", str(tmp_path)
        ) as process:
            register = await coordinator.expect("register")
            assert (register.worker_id, register.threads, register.ready) == ("w7", 2, False)
            assert (register.pid, list(register.data_roots)) == (process.pid, [str(tmp_path)])
            assert register.fingerprint
            assert register.fingerprint_parts["numpy"]
            assert coordinator.metadata["authorization"] == "Bearer a-token-for-tests"
            await coordinator.heartbeat(lambda beat: beat.ready)
            lease = wire.Lease(job_id="j", stage="s", unit=0, attempt=1, fence=1, epoch=1)
            work = tmp_path / ".gdmix" / "work"
            task = tasks.RemoveWork(output=str(work / "u0"), directory=str(work))
            coordinator.assign(lease, task.kind, tasks.to_json(task))
            finished = await coordinator.expect("unit_finished")
            assert isinstance(tasks.result_from_json(task.kind, finished.result_json), tasks.WorkRemoved)
            assert not work.exists()
            coordinator.acknowledge(lease)
            process.send_signal(signal.SIGTERM)
            await coordinator.expect("draining")
            assert await asyncio.wait_for(process.wait(), 20) == 0

    play(scenario())


def test_a_worker_tells_its_parent_and_ends_with_it(coordinator: Any) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        async with worker(
            coordinator, "--parent-fd", str(theirs.fileno()), pass_fds=(theirs.fileno(),)
        ) as process:
            theirs.close()
            reader, writer = await asyncio.open_connection(sock=ours)
            events = [json.loads(await reader.readline())["event"] for _ in range(2)]
            assert events == ["registered", "ready"]
            writer.close()
            await writer.wait_closed()
            assert await asyncio.wait_for(process.wait(), 20) == 0

    play(scenario())


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(grpc.StatusCode.FAILED_PRECONDITION, 3), (grpc.StatusCode.UNAUTHENTICATED, 4)],
)
def test_a_refused_worker_says_why_and_ends(
    coordinator: Any, status: grpc.StatusCode, exit_code: int
) -> None:
    async def scenario() -> None:
        coordinator.refusal = (status, "this coordinator wants version 9.9")
        async with worker(coordinator, "--log-level", "error") as process:
            _, stderr = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == exit_code
            assert stderr.decode() == "gdmix worker: this coordinator wants version 9.9\n"

    play(scenario())


def test_mistakes_on_the_command_line_end_with_code_2(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("short")
    token.chmod(0o600)
    command = [sys.executable, "-m", "gdmix_trainer", "--coordinator", "127.0.0.1:1"]
    mistakes = (
        ["--threads", "0"],
        ["--token-file", str(token)],
        ["--tls-cert", "x"],
        ["--advertise-host", "no..name"],
    )
    for more in mistakes:
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
