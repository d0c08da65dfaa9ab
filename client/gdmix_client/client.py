"""The blocking client of a training coordinator."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from gdmix_client import rpc
from gdmix_client.connection import Connection, connection_to
from gdmix_client.job_config import ConfigLike, canonical_config
from gdmix_client.score_upload import ScoresFile, UploadProgress
from gdmix_client.transport import Transport
from gdmix_client.types import Cluster, Job, JobEvent, ModelVersion, ScoresUpload
from gdmix_core.errors import GdmixError, NotFound, Unavailable

RECONNECT_SECONDS = 60.0
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 2.0


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
