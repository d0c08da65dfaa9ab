"""Bulk arrays that pass through the coordinator: pushed and pulled under a lease, kept under a key.

    pushed    by a worker for a unit it runs; in memory, bounded, until the result is accepted or refused
    shared    by an optimiser for one round (`<stage>/theta@<round>`); in memory
    kept      of accepted results and finished optimisers, under `<stage>/<name>`; on disk, by atomic rename

Which leases stand is told by the interpreter (`grant`, `release`); what comes under others is refused before
any memory is taken. All methods belong to the event loop's thread, but for those that say otherwise.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.arrays import MAX_ARRAY_BYTES, ArrayAssembler, array_bytes
from gdmix_core.errors import InternalError, NotFound, StaleLease, Unavailable, UsageError
from gdmix_server.state.model import Lease

Array = npt.NDArray[Any]

ARRAY_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
MAX_ARRAYS_OF_A_LEASE: Final = 64
DEFAULT_TOTAL_BYTES: Final = 8 << 30


@dataclass(slots=True)
class _Granted:
    """What a standing lease may pull, what it has pushed, and how many pushes are still coming in."""

    pulls: Mapping[str, str] | None
    pushed: dict[str, Array] = field(default_factory=dict)
    coming: int = 0
    released: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Push:
    """One array on its way in; use as a context manager, so that a broken stream gives its room back."""

    def __init__(self, store: ArrayStore, granted: _Granted, name: str, assembler: ArrayAssembler) -> None:
        self._store = store
        self._granted = granted
        self._name = name
        self._assembler = assembler

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        return self._assembler.received

    def append(self, data: bytes) -> None:
        """Take the next chunk; `UsageError` when it is too much."""
        self._assembler.append(data)

    def finish(self) -> int:
        """Make the array count, in place of an earlier one of its name, and return its bytes.

        Raises:
            UsageError: bytes are missing.
            StaleLease: the lease was released meanwhile.
        """
        array = self._assembler.finish()
        if self._granted.released:
            raise StaleLease(f"the lease of array {self._name!r} was revoked while it came in")
        earlier = self._granted.pushed.pop(self._name, None)
        if earlier is not None:
            self._store.used_bytes -= earlier.nbytes
        self._granted.pushed[self._name] = array
        self._store.used_bytes += array.nbytes
        return self._assembler.size

    def __enter__(self) -> Push:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.used_bytes -= self._assembler.size
        self._granted.coming -= 1
        if not self._granted.coming:
            self._granted.settled.set()


class ArrayStore:
    """The arrays of all jobs.

    Attributes:
        used_bytes: memory that pushed and shared arrays take, room reserved for those coming in included.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_array_bytes: int = MAX_ARRAY_BYTES,
        max_total_bytes: int = DEFAULT_TOTAL_BYTES,
    ) -> None:
        """Keep arrays below `directory`/jobs; an earlier run's are found there."""
        self._jobs = Path(directory) / "jobs"
        self._max_array_bytes = max_array_bytes
        self._max_total_bytes = max_total_bytes
        self._granted: dict[Lease, _Granted] = {}
        self._current: dict[tuple[str, str, int], Lease] = {}
        self._shared: dict[tuple[str, str], Array] = {}
        self.used_bytes = 0

    # ---- leases ------------------------------------------------------------------------------------------

    def grant(self, lease: Lease, arrays: Sequence[tuple[str, str]] | None = ()) -> None:
        """Let a lease push arrays, and pull those `arrays` names; the unit's earlier lease is released.

        None stands for a lease of before a restart: which arrays it may pull is not known any more.
        """
        unit = (lease.job_id, lease.stage, lease.unit)
        earlier = self._current.get(unit)
        if earlier == lease:
            return
        if earlier is not None:
            self.release(earlier)
        self._current[unit] = lease
        self._granted[lease] = _Granted(None if arrays is None else dict(arrays))

    def release(self, lease: Lease) -> None:
        """Forget a lease and what was pushed under it; one that is not known is no error."""
        granted = self._granted.pop(lease, None)
        if granted is None:
            return
        granted.released = True
        self._current.pop((lease.job_id, lease.stage, lease.unit), None)
        self.used_bytes -= sum(array.nbytes for array in granted.pushed.values())

    def stands(self, lease: Lease) -> bool:
        """Return whether a lease may push and pull."""
        return lease in self._granted

    def coming(self, lease: Lease) -> bool:
        """Return whether an array is coming in under a lease."""
        granted = self._granted.get(lease)
        return granted is not None and granted.coming > 0

    async def settled(self, lease: Lease) -> None:
        """Wait until no array is coming in under a lease."""
        granted = self._granted.get(lease)
        if granted is not None and granted.coming:
            await granted.settled.wait()

    # ---- pushed ------------------------------------------------------------------------------------------

    def push(self, lease: Lease, name: str, dtype: str, shape: Sequence[int]) -> Push:
        """Begin to take an array.

        Raises:
            StaleLease: the lease does not stand (any more).
            UsageError: name, dtype or shape are not allowed.
            Unavailable: there is no room at the moment.
        """
        granted = self._of(lease)
        if ARRAY_NAME.fullmatch(name) is None:
            raise UsageError(f"an array named {name!r}; allowed are up to 128 letters, digits and _ . @ -")
        if len(granted.pushed) + granted.coming >= MAX_ARRAYS_OF_A_LEASE and name not in granted.pushed:
            raise UsageError(f"more than {MAX_ARRAYS_OF_A_LEASE} arrays for one unit")
        size = array_bytes(dtype, shape, max_bytes=self._max_array_bytes)
        if self.used_bytes + size > self._max_total_bytes:
            raise Unavailable(
                f"the coordinator holds {self.used_bytes} bytes of arrays and takes at most "
                f"{self._max_total_bytes}; try again later"
            )
        push = Push(self, granted, name, ArrayAssembler(dtype, shape, max_bytes=self._max_array_bytes))
        self.used_bytes += size
        granted.coming += 1
        granted.settled.clear()
        return push

    def pushed(self, lease: Lease, name: str) -> Array:
        """Return an array that was pushed under a lease, complete.

        Raises:
            InternalError: there is none.
        """
        granted = self._granted.get(lease)
        if granted is None or name not in granted.pushed:
            raise InternalError(f"unit {lease.unit} of stage {lease.stage} came without its array {name!r}")
        return granted.pushed[name]

    async def keep(self, lease: Lease) -> None:
        """Put a lease's arrays on disk under `<stage>/<name>`; they are safe when this returns.

        Raises:
            InternalError: they cannot be written.
        """
        granted = self._granted.get(lease)
        for name, array in sorted(granted.pushed.items()) if granted is not None else ():
            await asyncio.to_thread(self.save, lease.job_id, f"{lease.stage}/{name}", array)

    # ---- shared and kept ---------------------------------------------------------------------------------

    def share(self, job_id: str, key: str, array: Array) -> None:
        """Hold an array in memory under a key, until the stage that leads the key ends."""
        self.unshare(job_id, key)
        self._shared[job_id, key] = array
        self.used_bytes += array.nbytes

    def unshare(self, job_id: str, key: str) -> None:
        """Forget a shared array; one that is not there is no error."""
        earlier = self._shared.pop((job_id, key), None)
        if earlier is not None:
            self.used_bytes -= earlier.nbytes

    def save(self, job_id: str, key: str, array: Array) -> None:
        """Put an array on disk under a key, by atomic rename; for any thread.

        Raises:
            InternalError: it cannot be written.
        """
        path = self._path(job_id, key)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InternalError(f"array {key!r} of job {job_id} cannot be kept: {error}") from error

    def saved(self, job_id: str, key: str) -> Array:
        """Return the array that lies on disk under a key; for any thread.

        Raises:
            NotFound: there is none.
            InternalError: it is damaged.
        """
        path = self._path(job_id, key)
        try:
            array: Array = np.load(path, allow_pickle=False)
        except FileNotFoundError as error:
            raise NotFound(f"job {job_id} has no array {key!r}") from error
        except (OSError, ValueError, EOFError) as error:
            raise InternalError(f"array {key!r} of job {job_id} cannot be read: {error}") from error
        return array

    async def pull(self, lease: Lease, name: str) -> Array:
        """Return the array that a lease knows as `name`.

        Raises:
            StaleLease: the lease does not stand (any more), or is one of before a restart.
            NotFound: the lease has no such array, or it is gone.
        """
        pulls = self._of(lease).pulls
        if pulls is None:
            raise StaleLease(
                f"the coordinator was restarted and has array {name!r} of unit {lease.unit} of stage "
                f"{lease.stage} only for a new attempt"
            )
        key = pulls.get(name)
        if key is None:
            raise NotFound(f"unit {lease.unit} of stage {lease.stage} has no array {name!r} to pull")
        shared = self._shared.get((lease.job_id, key))
        if shared is not None:
            return shared
        return await asyncio.to_thread(self.saved, lease.job_id, key)

    # ---- ends --------------------------------------------------------------------------------------------

    def end_stage(self, job_id: str, stage: str) -> None:
        """Forget what a stage held in memory; what it kept stays."""
        for lease in [held for held in self._granted if (held.job_id, held.stage) == (job_id, stage)]:
            self.release(lease)
        for job, key in [
            entry for entry in self._shared if entry[0] == job_id and entry[1].startswith(f"{stage}/")
        ]:
            self.unshare(job, key)

    def end_job(self, job_id: str) -> None:
        """Forget what a job held in memory; what it kept stays."""
        for lease in [held for held in self._granted if held.job_id == job_id]:
            self.release(lease)
        for job, key in [entry for entry in self._shared if entry[0] == job_id]:
            self.unshare(job, key)

    def remove_job(self, job_id: str) -> None:
        """Delete everything of a job from disk; for any thread."""
        shutil.rmtree(self.job_directory(job_id), ignore_errors=True)

    def job_directory(self, job_id: str) -> Path:
        """Return the directory in which a job's arrays and evaluation logs lie."""
        return self._jobs / _safe(job_id)

    def _of(self, lease: Lease) -> _Granted:
        granted = self._granted.get(lease)
        if granted is None:
            raise StaleLease(
                f"attempt {lease.attempt} of unit {lease.unit} of stage {lease.stage} is not (or no longer) "
                f"this coordinator's to take: fence {lease.fence}, epoch {lease.epoch}"
            )
        return granted

    def _path(self, job_id: str, key: str) -> Path:
        stage, _, name = key.partition("/")
        return self.job_directory(job_id) / "arrays" / _safe(stage) / f"{_safe(name)}.npy"


def _safe(name: str) -> str:
    """Return a name that is safe as part of a path; that all names here are is checked before."""
    if ARRAY_NAME.fullmatch(name) is None:
        raise InternalError(f"{name!r} cannot be part of an array's key")
    return name


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
