"""The coordinator's memory that survives it: rows in SQLite, one transaction for each batch of events.

`Journal` owns the state directory: it takes the lock, brings the schema up to date, raises the epoch, and
runs every statement on one thread of its own. What lies in it is `docs/specs/journal.md`; why it looks like
this is ADR 0003. A row is a JSON document beside the columns that are searched for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gdmix_core.errors import Conflict, InternalError, StoreCorrupt, UsageError
from gdmix_server.journal_schema import MIGRATIONS
from gdmix_server.state.instructions import DeleteJob, Emit, Instruction, SaveJob, SaveStage, SaveUnit
from gdmix_server.state.model import JobEvent, JobRow, StageRow, UnitRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import TypeAdapter

T = TypeVar("T")

JOURNAL_FILE: Final = "journal.sqlite"
LOCK_FILE: Final = "lock"
_WATCH_PAGE: Final = 1_000
_ADAPTERS: Final[dict[type[object], TypeAdapter[Any]]] = {}


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything the state machine is restored from, each kind in a fixed order."""

    jobs: tuple[JobRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    units: tuple[UnitRow, ...] = ()


class Journal:
    """An open state directory; exactly one coordinator has it.

    Attributes:
        directory: the state directory.
        epoch: number of this run, higher than that of any run before.
        identity: random name of this journal, made with it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open the journal in `directory`, creating both if need be.

        Raises:
            UsageError: the directory cannot be used.
            Conflict: another coordinator has it open, or a newer GDMix wrote it.
            StoreCorrupt: it is damaged.
        """
        self.directory = Path(directory).absolute()
        self._lock = _take_lock(self.directory)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            self._connection, self.epoch, self.identity = self._thread.submit(
                _open, self.directory / JOURNAL_FILE
            ).result()
        except BaseException:
            self._thread.shutdown()
            os.close(self._lock)
            raise

    def load(self) -> Rows:
        """Return all rows; blocks, so only for the start.

        Raises:
            StoreCorrupt: a row cannot be read.
        """
        return self._thread.submit(self._load).result()

    async def commit(self, instructions: Iterable[Instruction]) -> None:
        """Write what is to be kept of a batch of instructions, in order, in one transaction.

        It is on disk when this returns.

        Raises:
            InternalError: the transaction failed; nothing of it was written.
        """
        await self._run(lambda: self._commit(instructions))

    async def kept_events(self, job_id: str, after_sequence: int) -> list[JobEvent]:
        """Return the next kept events of a job after a sequence number, at most 1,000, in order."""
        return await self._run(lambda: self._kept_events(job_id, after_sequence))

    def close(self) -> None:
        """Close the file and let go of the lock; closing twice is harmless."""
        if self._lock >= 0:
            self._thread.submit(self._connection.close).result()
            self._thread.shutdown()
            os.close(self._lock)
            self._lock = -1

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _commit(self, instructions: Iterable[Instruction]) -> None:
        try:
            with _transaction(self._connection):
                for instruction in instructions:
                    _write(self._connection, instruction)
        except sqlite3.Error as error:
            raise InternalError(
                f"the journal {self.directory / JOURNAL_FILE} cannot be written: {error}"
            ) from error

    def _load(self) -> Rows:
        with _readable(self.directory / JOURNAL_FILE):
            return Rows(
                jobs=self._read(JobRow, "SELECT document FROM jobs ORDER BY submitted, job_id"),
                stages=self._read(StageRow, "SELECT document FROM stages ORDER BY job_id, stage"),
                units=self._read(UnitRow, "SELECT document FROM units ORDER BY job_id, stage, unit"),
            )

    def _kept_events(self, job_id: str, after_sequence: int) -> list[JobEvent]:
        query = "SELECT document FROM events WHERE job_id = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        with _readable(self.directory / JOURNAL_FILE):
            return list(self._read(JobEvent, query, (job_id, after_sequence, _WATCH_PAGE)))

    def _read(self, kind: type[T], query: str, parameters: tuple[object, ...] = ()) -> tuple[T, ...]:
        adapter = _adapter(kind)
        return tuple(
            adapter.validate_json(document) for (document,) in self._connection.execute(query, parameters)
        )


def is_kept(instruction: Instruction) -> bool:
    """Return whether an instruction changes the journal."""
    return isinstance(instruction, SaveJob | SaveStage | SaveUnit | DeleteJob) or (
        isinstance(instruction, Emit) and instruction.keep
    )


def _write(connection: sqlite3.Connection, instruction: Instruction) -> None:
    match instruction:
        case SaveJob(row=job):
            connection.execute(
                "INSERT INTO jobs (job_id, request_id, state, submitted, document) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, document = excluded.document",
                (job.job_id, job.request_id, job.state.value, job.submitted, _document(job)),
            )
        case SaveStage(row=stage):
            connection.execute(
                "INSERT OR REPLACE INTO stages (job_id, stage, document) VALUES (?, ?, ?)",
                (stage.job_id, stage.stage, _document(stage)),
            )
        case SaveUnit(row=unit):
            connection.execute(
                "INSERT OR REPLACE INTO units (job_id, stage, unit, document) VALUES (?, ?, ?, ?)",
                (unit.job_id, unit.stage, unit.unit, _document(unit)),
            )
        case Emit(event=event, keep=True):
            connection.execute(
                "INSERT OR REPLACE INTO events (job_id, sequence, document) VALUES (?, ?, ?)",
                (event.job_id, event.sequence, _document(event)),
            )
        case DeleteJob(job_id=job_id):
            for table in ("events", "units", "stages", "jobs"):
                connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))  # noqa: S608
        case _:
            return


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _document(row: JobRow | StageRow | UnitRow | JobEvent) -> str:
    from pydantic_core import to_json

    # A solve that went wrong reports an infinite ratio: it must come back as it was, not as null.
    return to_json(row, inf_nan_mode="constants").decode()


# ---- opening -----------------------------------------------------------------------------------------------


def _take_lock(directory: Path) -> int:
    """Lock the state directory; the kernel lets go of it when the process dies, however it dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"state directory {directory}: cannot be used: {reason}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"state directory {directory} is in use by another coordinator (process {holder}); "
            "stop it, or choose another --state-dir"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _open(path: Path) -> tuple[sqlite3.Connection, int, str]:
    """Open the file, bring it up to date, and begin a new epoch."""
    with _readable(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 5000")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreCorrupt(f"the journal {path} is damaged: {found}")
            _migrate(connection, path)
            with _transaction(connection):
                connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            epoch = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]
            identity = connection.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()[0]
        except BaseException:
            connection.close()
            raise
    return connection, int(epoch), str(identity)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = len(MIGRATIONS)
    if version > newest:
        raise Conflict(
            f"the journal {path} has schema version {version}, written by a newer GDMix; "
            f"this one knows versions up to {newest}"
        )
    for number in range(version + 1, newest + 1):
        with _transaction(connection):
            for statement in MIGRATIONS[number - 1]:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (version, applied_unix_seconds) VALUES (?, ?)", (number, time.time())
            )
            if number == 1:
                connection.execute(
                    "INSERT INTO meta VALUES ('epoch', 0), ('identity', ?)", (uuid.uuid4().hex,)
                )
            # A pragma takes no parameters; the number is ours.
            connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what SQLite and pydantic say of a damaged file into one clear sentence."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        raise StoreCorrupt(f"the journal {path} holds a {error.title} that cannot be read") from error
    except sqlite3.OperationalError as error:
        raise UsageError(f"the journal {path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"the journal {path} is damaged: {error}") from error
