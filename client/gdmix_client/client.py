"""The blocking client of a training coordinator."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from gdmix_client import rpc
from gdmix_client.connection import Connection, connection_to
from gdmix_client.job_config import ConfigLike, canonical_config
from gdmix_client.transport import Transport
from gdmix_client.types import Cluster, Job, JobEvent, ModelVersion
from gdmix_core.errors import Unavailable

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

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
