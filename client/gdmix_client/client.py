"""The blocking client of a training coordinator."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gdmix_client import rpc
from gdmix_client.connection import Connection, connection_to
from gdmix_client.job_config import ConfigLike, canonical_config
from gdmix_client.transport import RETRY_DELAYS_SECONDS, Transport
from gdmix_client.types import Cluster, Job, JobEvent, ModelVersion, ScoresUpload, UploadState
from gdmix_core.errors import Conflict, GdmixError, NotFound, Unavailable, UsageError

UploadProgress = Callable[[int, int], None]
"""Called with the bytes sent and the bytes in all, on a thread of its own."""

RECONNECT_SECONDS = 60.0
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 2.0
_UPLOAD_CHUNK_BYTES: Final = 1 << 20
_FORMATS_OF_ENDINGS: Final = {".parquet": "parquet", ".avro": "avro", ".csv": "csv"}


@dataclass(slots=True, kw_only=True)
class ScoresFile:
    """A file of scores on its way to a coordinator, for `Client` and `AsyncClient`.

    Attributes:
        path: the file.
        name: of the upload.
        form: `parquet`, `avro` or `csv`; "" goes by the file's ending.
        uid_column: column of the row ids.
        score_column: column of the scores.
        role: `train`, `validation` or "".
        replace: whether scores of this name give way.
        progress: told of every chunk.
        byte_size: known once `measure` has been called.
        sha256: known once `measure` has been called.
    """

    path: Path
    name: str
    form: str
    uid_column: str
    score_column: str
    role: str
    replace: bool
    progress: UploadProgress | None
    byte_size: int = 0
    sha256: str = ""
    _before: ScoresUpload | None = None
    _tries: int = 0
    _broken: bool = False
    _reached: int = 0
    _delays: Iterator[float] = field(default_factory=lambda: iter(RETRY_DELAYS_SECONDS))

    def measure(self) -> None:
        """Read the file once, for its size and its digest.

        Raises:
            UsageError: it cannot be read, or its ending does not tell the format.
        """
        if not self.form and self.path.suffix not in _FORMATS_OF_ENDINGS:
            endings = ", ".join(_FORMATS_OF_ENDINGS)
            raise UsageError(f"{self.path}: its ending is none of {endings}: name the format")
        self.form = self.form or _FORMATS_OF_ENDINGS[self.path.suffix]
        try:
            with self.path.open("rb") as stream:
                self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                self.byte_size = stream.tell()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def offset(self, found: ScoresUpload | None) -> int | None:
        """Return where to go on, given what the coordinator has of this file; None when it is done already."""
        self._tries += 1
        if self._tries == 1:
            self._before = found
        if found is None or found.state is UploadState.READY:
            return 0 if found == self._before else None
        if found.received > self._reached:
            self._delays = iter(RETRY_DELAYS_SECONDS)
        self._reached = found.received
        return found.received

    def call(self, offset: int) -> rpc.Call[ScoresUpload]:
        """Return the call that sends what follows an offset."""
        return rpc.upload_scores(
            name=self.name,
            form=self.form,
            uid_column=self.uid_column,
            score_column=self.score_column,
            byte_size=self.byte_size,
            sha256=self.sha256,
            role=self.role,
            replace=self.replace,
            offset=offset,
        )

    def messages(self, offset: int) -> Iterator[Any]:
        """Yield the messages with the bytes from an offset on.

        The file is open only while a piece is read: gRPC drops an iterator half-way when a call is refused.
        """
        while data := self._piece(offset):
            yield rpc.upload_data(data)
            offset += len(data)
            if self.progress is not None:
                self.progress(offset, self.byte_size)

    def _piece(self, offset: int) -> bytes:
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            return stream.read(_UPLOAD_CHUNK_BYTES) or b""

    def delay_after(self, error: GdmixError) -> float | None:
        """Return how long to wait before going on after an error; None when there is no use in that.

        A Conflict behind a broken connection is the earlier call, whose end the coordinator has not seen yet.
        """
        broken = isinstance(error, Unavailable)
        if broken or (isinstance(error, Conflict) and self._broken):
            self._broken = True
            return next(self._delays, None)
        return None


class Client:
    """Speaks to one coordinator; safe to share between threads.

        with Client("127.0.0.1:50051") as client:
            job = client.submit("movielens.yaml")
            for event in client.watch(job.job_id):
                print(event.state, event.detail)

    Every method raises an error of `gdmix_core.errors`: `Unavailable` when nobody answers, `NotPermitted`
    without the right token, else what the coordinator says.
    """

    def __init__(self, coordinator: str | Connection | None = None) -> None:
        """Prepare the connection; nothing is sent before the first call.

        Args:
            coordinator: HOST:PORT, or a `Connection` with token and TLS; `GDMIX_COORDINATOR` when None.
        """
        connection = coordinator if isinstance(coordinator, Connection) else connection_to(coordinator)
        self.address = connection.address
        self._transport = Transport(connection)

    # ---- jobs --------------------------------------------------------------------------------------------

    def submit(self, config: ConfigLike, *, request_id: str | None = None) -> Job:
        """Queue a training job.

        Args:
            config: a YAML file, a checked `JobConfig`, or plain values.
            request_id: submitting again under the same one returns the same job; chosen at random when None.

        Raises:
            ConfigError: the config has mistakes.
        """
        return self._transport.call(rpc.submit_job(request_id or uuid.uuid4().hex, canonical_config(config)))

    def get(self, job_id: str) -> Job:
        """Return a job as it stands.

        Raises:
            NotFound: there is no such job.
        """
        return self._transport.call(rpc.get_job(job_id))

    def list(self, limit: int = 100) -> tuple[Job, ...]:
        """Return the newest jobs, newest first."""
        return self._transport.call(rpc.list_jobs(limit))

    def watch(
        self, job_id: str, *, after_sequence: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> Iterator[JobEvent]:
        """Yield a job's events, past and live ones, until the job has ended.

        A broken connection, or a coordinator that is started again, goes unnoticed: the stream goes on after
        the last event seen.

        Args:
            job_id: the job.
            after_sequence: yield later events only.
            reconnect_seconds: give up when the coordinator stays away for longer.

        Raises:
            NotFound: there is no such job.
            Unavailable: the coordinator stayed away.
        """
        last, delay, gone_since = after_sequence, _FIRST_DELAY_SECONDS, 0.0
        while True:
            try:
                for event in self._transport.stream(rpc.watch_job(job_id, last)):
                    last, delay, gone_since = max(last, event.sequence), _FIRST_DELAY_SECONDS, 0.0
                    yield event
                if self.get(job_id).state.ended:
                    return
            except Unavailable:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > reconnect_seconds:
                    raise
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def wait(self, job_id: str) -> Job:
        """Return a job once it has ended, however it ended."""
        for _ in self.watch(job_id):
            pass
        return self.get(job_id)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; what is finished stays, and `resume` goes on from there.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended already.
        """
        return self._transport.call(rpc.cancel_job(job_id))

    def resume(self, job_id: str) -> Job:
        """Take a failed or cancelled job up again where its finished work ends.

        Raises:
            NotFound: there is no such job.
            Conflict: it is running, or has succeeded.
        """
        return self._transport.call(rpc.resume_job(job_id))

    def delete(self, job_id: str) -> None:
        """Forget an ended job and remove its working files; the model it made stays.

        Raises:
            NotFound: there is no such job.
            Conflict: it is still running.
        """
        self._transport.call(rpc.delete_job(job_id))

    def cluster(self) -> Cluster:
        """Return the coordinator's version and its workers."""
        return self._transport.call(rpc.get_cluster())

    # ---- models ------------------------------------------------------------------------------------------

    def list_models(self, model: str = "", *, store: str = "") -> tuple[ModelVersion, ...]:
        """Return the versions of a model, or of all.

        Args:
            model: name of the model; "" for all.
            store: URL of the store; "" for the coordinator's, or every store its jobs published to.
        """
        return self._transport.call(rpc.list_models(store, model))

    def get_model(self, model: str, version: int = 0, *, store: str = "") -> ModelVersion:
        """Return one version with its manifest; 0 stands for the active one.

        Raises:
            NotFound: there is no such model or version.
        """
        return self._transport.call(rpc.get_model(store, model, version))

    def activate_model(self, model: str, version: int, *, store: str = "") -> ModelVersion:
        """Make a sealed version the active one; an older one rolls back.

        Raises:
            VersionGone: there is no such version.
            Conflict: it is not complete, or another one was activated in between.
        """
        return self._transport.call(rpc.activate_model(store, model, version))

    def delete_model(self, model: str, version: int, *, store: str = "") -> None:
        """Delete a version from the store.

        Raises:
            NotFound: there is no such version.
            Conflict: it is active, or has an alias.
        """
        self._transport.call(rpc.delete_model(store, model, version))

    # ---- uploads -----------------------------------------------------------------------------------------

    def upload_scores(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        form: str = "",
        uid_column: str = "uid",
        score_column: str = "score",
        role: str = "",
        replace: bool = False,
        progress: UploadProgress | None = None,
    ) -> ScoresUpload:
        """Send a file of scores that were computed elsewhere, and return it once the coordinator has checked it.

        What an earlier call has sent of the same file is not sent again, and a broken connection is taken up
        again where it broke.

        Args:
            path: the file: a row id (integer) and a score (finite number) in every row, no id twice.
            name: what job configs are to call the scores.
            form: `parquet`, `avro` or `csv`; "" goes by the file's ending.
            uid_column: column of the row ids.
            score_column: column of the scores.
            role: `train` or `validation` when the scores are of these rows only.
            replace: whether scores of this name give way to these.
            progress: told how many bytes are sent, and how many there are, as the sending goes on; called on
                another thread.

        Raises:
            UsageError: the file cannot be read or is too large, or an argument makes no sense.
            DataError: the file is damaged or breaks a rule; the message names column and rows.
            Conflict: the name is taken, or somebody else is uploading under it.
            Unavailable: the coordinator cannot be reached, not even after a few tries.
        """
        file = ScoresFile(
            path=Path(path),
            name=name,
            form=form,
            uid_column=uid_column,
            score_column=score_column,
            role=role,
            replace=replace,
            progress=progress,
        )
        file.measure()
        while True:
            found = self._upload_of(name, file.sha256)
            offset = file.offset(found)
            if offset is None:
                assert found is not None
                return found
            try:
                return self._transport.send(file.call(offset), file.messages(offset))
            except GdmixError as error:
                if (delay := file.delay_after(error)) is None:
                    raise
            time.sleep(delay)

    def _upload_of(self, name: str, sha256: str) -> ScoresUpload | None:
        try:
            return self._transport.call(rpc.get_upload(name, sha256))
        except NotFound:
            return None

    def get_upload(self, name: str) -> ScoresUpload:
        """Return an upload, ready or not.

        Raises:
            NotFound: there is none of this name.
        """
        return self._transport.call(rpc.get_upload(name))

    def list_uploads(self) -> tuple[ScoresUpload, ...]:
        """Return all uploads by name."""
        return self._transport.call(rpc.list_uploads())

    def delete_upload(self, name: str) -> None:
        """Remove an upload, ready or not.

        Raises:
            NotFound: there is none of this name.
            Conflict: it is being sent or checked.
        """
        self._transport.call(rpc.delete_upload(name))

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
