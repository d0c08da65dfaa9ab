"""The embedded coefficient store: a directory with one immutable LMDB file for each version, and no server.

    <root>/<model>/active.json           the control document, replaced by fsync + rename under `lock`
    <root>/<model>/lock
    <root>/<model>/versions/<v>.lmdb     a complete version: seal, manifest, files, records
    <root>/<model>/building/             versions and spills in the making

A version is built under a temporary name, compacted, and renamed into place, so a file that can be opened is
complete. Readers take no locks. Deleting is unlinking: whoever has the file open goes on reading it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from gdmix_core.data.array_file import write_arrays
from gdmix_core.errors import StoreCorrupt, StoreError, StoreUnavailable, UsageError, VersionGone
from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store import control as rules
from gdmix_core.store import keys
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.control import Control, control_from_json
from gdmix_core.store.lmdb_files import (
    SPILL_FILE,
    SharedEnvironment,
    copy_compact,
    fill,
    identity_of,
    open_growing,
    open_reader,
    scan_records,
)
from gdmix_core.store.publication import (
    CHECKSUM_MASK,
    PublishedPart,
    Seal,
    StoredPairs,
    seal_from_json,
)
from gdmix_core.store.record import CoefficientBlock, ElementType, encode_block
from gdmix_core.store.verification import verify_records

if TYPE_CHECKING:
    import lmdb

T = TypeVar("T")


class LmdbStore(CoefficientStore):
    """Coefficients in a directory of the local file system; the first publication makes it."""

    host_local = True

    def __init__(self, root: str | Path) -> None:
        if not str(root):
            raise UsageError("lmdb: needs a directory, as in lmdb:runs/store")
        self._root = Path(root).expanduser().absolute()
        self.url = f"lmdb:{self._root}"
        self._readers: dict[Path, SharedEnvironment] = {}
        self._readers_lock = threading.Lock()
        self._built: dict[str, Path] = {}

    def write_part(
        self,
        ticket: PublishTicket,
        coordinate: str,
        part: int,
        blocks: Iterable[CoefficientBlock],
        *,
        schema: int,
        element_type: ElementType = "float64",
        spill: str | Path | None = None,
    ) -> PublishedPart:
        """Write one part of a coordinate to a spill file; see `CoefficientStore.write_part`."""
        document = self._control(ticket.model)
        rules.require_writing(document, ticket.model, ticket.version, ticket.token)
        rules.announce(document, ticket.version, epoch=ticket.epoch, owner=ticket.owner)
        prefix = keys.entity_prefix(coordinate)
        totals = [0, 0]

        def segments() -> Iterator[Mapping[str, npt.NDArray[Any]]]:
            # The empty segment makes a part without entities a file like any other.
            yield {"data": np.empty(0, np.uint8), "bounds": np.zeros(1, np.int64)}
            for block in blocks:
                for batch in encode_block(block, prefix, schema=schema, element_type=element_type):
                    totals[0] += batch.entities
                    totals[1] += batch.digest
                    assert batch.bounds is not None
                    yield {"data": np.frombuffer(batch.data, np.uint8), "bounds": batch.bounds}

        default = self._building(ticket.model) / f"v{ticket.version}-parts" / uuid.uuid4().hex
        directory = default if spill is None else Path(spill)
        with self._errors():
            directory.mkdir(parents=True, exist_ok=True)
            write_arrays(directory / SPILL_FILE, segments(), {"coordinate": coordinate, "part": part})
        return PublishedPart(coordinate, part, totals[0], totals[1] & CHECKSUM_MASK, str(directory))

    def list_models(self) -> list[str]:
        """Return the names of all models that were ever published here, sorted."""
        found = self._root.glob("*/active.json")
        return sorted(keys.unescape(path.parent.name.encode()).decode() for path in found)

    def close(self) -> None:
        """Give up all open versions."""
        with self._readers_lock:
            for reader in self._readers.values():
                reader.release()
            self._readers.clear()

    # ---- what the contract asks for ----------------------------------------------------------------------

    def _clock(self) -> float:
        return time.time()

    def _require_durable(self) -> None:
        """Files are never evicted."""

    def _control(self, model: str) -> Control:
        path = self._directory(model) / "active.json"
        with self._errors():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                data = None
        return control_from_json(data, str(path))

    def _transact(
        self,
        model: str,
        change: Callable[[Control, float], tuple[Control, T]],
        *,
        need_seal: int | None = None,
        put_seal: Seal | None = None,
        drop_seal: int | None = None,
    ) -> T:
        with self._errors(), self._locked(model):
            after, result = change(self._control(model), self._clock())
            if need_seal is not None and not self._version(model, need_seal).exists():
                raise VersionGone(
                    f"version {need_seal} of model {model!r} is not in {self.url}: its file is gone"
                )
            if put_seal is not None:
                target = self._version(model, put_seal.version)
                target.parent.mkdir(exist_ok=True)
                self._built.pop(put_seal.token).replace(target)
                _sync(target.parent)
            self._replace_control(model, after)
            if drop_seal is not None:
                self._version(model, drop_seal).unlink(missing_ok=True)
                self._forget_reader(self._version(model, drop_seal))
        return result

    def _seals(self, model: str, versions: Sequence[int]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for version in versions:
            try:
                with self._errors():
                    reader = SharedEnvironment.acquire(self._version(model, version))
            except VersionGone:
                found.append(None)
                continue
            try:
                with self._errors(), reader.environment.begin() as transaction:
                    found.append(transaction.get(keys.SEAL))
            finally:
                reader.release()
        return found

    def _read(self, model: str, version: int, wanted: Sequence[bytes]) -> tuple[Seal, list[bytes | None]]:
        with self._errors(), self._environment(model, version) as lent, lent.begin() as transaction:
            seal = transaction.get(keys.SEAL)
            values = list(map(transaction.get, wanted))
        if seal is None:
            raise StoreCorrupt(f"{self._version(model, version)} has no seal")
        return seal_from_json(seal), values

    def _assemble(
        self,
        ticket: PublishTicket,
        seal: Seal,
        parts: Sequence[PublishedPart],
        pairs: Sequence[tuple[bytes, bytes]],
        *,
        verify: bool,
    ) -> None:
        building = self._building(ticket.model)
        name = f"v{ticket.version}-{uuid.uuid4().hex}"
        growing, compact = building / f"{name}.growing", building / f"{name}.compact"
        with self._errors():
            building.mkdir(parents=True, exist_ok=True)
            try:
                with open_growing(growing, parts, pairs) as environment:
                    fill(environment, parts, [*pairs, (keys.SEAL, seal.to_json())])
                    copy_compact(environment, compact)
                if verify:
                    with open_reader(compact) as environment:
                        verify_records(seal, lambda: scan_records(environment))
            except BaseException:
                compact.unlink(missing_ok=True)
                raise
            finally:
                growing.unlink(missing_ok=True)
            self._built[seal.token] = compact
        shutil.rmtree(building / f"v{ticket.version}-parts", ignore_errors=True)

    def _scan(self, model: str, version: int) -> Iterator[StoredPairs]:
        with self._errors(), self._environment(model, version) as environment:
            yield from scan_records(environment)

    def _drop_contents(self, model: str, version: int) -> None:
        with self._errors():
            for path in self._building(model).glob(f"v{version}-*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    # ---- files -------------------------------------------------------------------------------------------

    def _directory(self, model: str) -> Path:
        name = keys.name_part(model, "model").decode().replace("/", "%2F")
        return self._root / (f"%2E{name[1:]}" if name.startswith(".") else name)

    def _version(self, model: str, version: int) -> Path:
        return self._directory(model) / "versions" / f"{version}.lmdb"

    def _building(self, model: str) -> Path:
        return self._directory(model) / "building"

    @contextmanager
    def _locked(self, model: str) -> Iterator[None]:
        """Hold the model's lock file; the kernel lets go of it when the process dies."""
        directory = self._directory(model)
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace_control(self, model: str, document: Control) -> None:
        target = self._directory(model) / "active.json"
        temporary = target.with_name(".active.json.tmp")
        with temporary.open("wb") as file:
            file.write(document.to_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(target.parent)

    @contextmanager
    def _environment(self, model: str, version: int) -> Iterator[lmdb.Environment]:
        """Lend the open file of a version; one that was unlinked since stays readable while it is open."""
        path = self._version(model, version)
        identity = identity_of(path)
        with self._readers_lock:
            reader = self._readers.get(path)
            if reader is None or (identity is not None and reader.identity != identity):
                if identity is None:
                    raise VersionGone(f"version {version} of model {model!r} is not in {self.url}")
                fresh = SharedEnvironment.acquire(path)
                if reader is not None:
                    reader.release()
                reader = self._readers[path] = fresh
            reader.retain()
        try:
            yield reader.environment
        finally:
            reader.release()

    def _forget_reader(self, path: Path) -> None:
        with self._readers_lock:
            reader = self._readers.pop(path, None)
        if reader is not None:
            reader.release()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn LMDB's and the file system's exceptions into the project's."""
        import lmdb

        try:
            yield
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
            raise StoreCorrupt(f"the store {self.url} holds a damaged file: {error}") from error
        except lmdb.Error as error:
            raise StoreError(f"the store {self.url} failed: {error}") from error
        except FileNotFoundError as error:
            raise VersionGone(f"the store {self.url} no longer holds {error.filename}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreUnavailable(
                f"the store {self.url} cannot be used: {error.filename}: {reason}"
            ) from error


def _sync(directory: Path) -> None:
    """Make renames inside a directory durable, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
