"""A coordinator whose jobs train nothing but a gang, and workers that know its task: members sum in a ring.

`python ring.py coordinator DIRECTORY PORT SIZE --parent-fd FD` or `python ring.py worker …`, as a worker is started.
A job's members form a ring over TCP, wait until the file `go` lies in the job's output directory, and then pass
their numbers around until each knows the sum.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gdmix_core.tasks import RemoveWork, Task, TaskResult
from gdmix_core.tasks.wire import RESULT_OF, TASK_OF_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSum(Task):
    """Sum the numbers of all members."""

    kind: ClassVar[str] = "ring_sum"
    number: int
    go: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSummed(TaskResult):
    """What a member knows at the end."""

    total: int
    rank: int


RESULT_OF[RingSum] = RingSummed
TASK_OF_KIND[RingSum.kind] = RingSum


# ---- the members -----------------------------------------------------------------------------------------


def ring_sum(task: RingSum, context: Any) -> RingSummed:
    """Form the ring, wait for the sign, pass numbers on."""
    gang = context.gang()
    with ring(gang, context) as (previous, following):
        while not Path(task.go).exists():
            context.check()
            if readable(previous):
                previous.recv(1, socket.MSG_PEEK) or broken()
        total = number = task.number
        for _ in range(gang.size - 1):
            following.sendall(number.to_bytes(8, "big"))
            number = int.from_bytes(receive(previous, 8, context), "big")
            total += number
    return RingSummed(seconds=0.0, total=total, rank=gang.rank)


@contextmanager
def ring(gang: Any, context: Any) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return connections from the member before and to the member behind."""
    host, _, port = gang.addresses[gang.rank].rpartition(":")
    behind = gang.addresses[(gang.rank + 1) % gang.size]
    with socket.create_server((host, int(port))) as server, connected(behind, context) as following:
        while not readable(server):
            context.check()
        with server.accept()[0] as previous:
            yield previous, following


def connected(address: str, context: Any) -> socket.socket:
    """Connect, waiting until somebody listens."""
    host, _, port = address.rpartition(":")
    while True:
        context.check()
        try:
            return socket.create_connection((host, int(port)), timeout=5)
        except ConnectionRefusedError:
            select.select([], [], [], 0.02)


def receive(connection: socket.socket, count: int, context: Any) -> bytes:
    """Return so many bytes."""
    data = b""
    while len(data) < count:
        context.check()
        if readable(connection):
            data += connection.recv(count - len(data)) or broken()
    return data


def readable(connection: socket.socket) -> bool:
    """Wait a moment for something to read."""
    return bool(select.select([connection], [], [], 0.02)[0])


def broken() -> bytes:
    """Fail as a collective operation does whose peer is gone."""
    raise ConnectionError("the member before is gone")


def worker(arguments: list[str]) -> None:
    """Run a worker that knows the task."""
    from gdmix_trainer.__main__ import main
    from gdmix_trainer.tasks.registry import TASK_FUNCTIONS

    TASK_FUNCTIONS[RingSum] = ring_sum
    main(arguments)


# ---- the coordinator -------------------------------------------------------------------------------------


def coordinator(directory: str, port: str, size: str, parent_fd: str) -> None:
    """Run a coordinator until its parent ends."""
    from gdmix_core.parent_link import ParentLink
    from gdmix_server.server import Coordinator, ServerSettings
    from gdmix_server.state.model import GangStage, Report, UnitStage
    from gdmix_server.state.settings import MachineSettings

    def program(job: Any) -> Any:
        output = Path(job.config.output)
        tasks = tuple(RingSum(output="", number=10**rank, go=str(output / "go")) for rank in range(int(size)))
        outcome = yield GangStage(name="ring", title="sum in a ring", units=tasks)
        facts = [(result.rank, result.total) for result in outcome.results]
        attempts = {Path(directory).name.split("-")[1] for directory in outcome.directories}
        yield Report(notice=f"{facts} {sorted(attempts)}")
        work = RemoveWork(output="", directory=job.work_directory)
        yield UnitStage(name="end", title="remove", units=(work,))

    async def serve() -> None:
        ending, loop = asyncio.Event(), asyncio.get_running_loop()
        link = ParentLink(int(parent_fd))
        link.when_parent_ends(lambda: loop.call_soon_threadsafe(ending.set))
        settings = ServerSettings(
            state_dir=Path(directory), port=int(port), machine=MachineSettings(reconnect_seconds=1.0)
        )
        running = Coordinator(settings, program)
        await running.start()
        await running.announce_ready()
        link.report("ready", port=running.port)
        await ending.wait()
        await running.stop()

    asyncio.run(serve())


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(sys.argv[2:])
    else:
        coordinator(*sys.argv[2:5], sys.argv[6])
