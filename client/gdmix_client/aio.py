"""The asyncio client of a training coordinator."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from gdmix_client import rpc
from gdmix_client.client import RECONNECT_SECONDS
from gdmix_client.connection import Connection, connection_to
from gdmix_client.job_config import ConfigLike, canonical_config
from gdmix_client.score_upload import ScoresFile, UploadProgress
from gdmix_client.transport import AsyncTransport
from gdmix_client.types import Cluster, Job, JobEvent, ModelVersion, ScoresUpload
from gdmix_core.errors import GdmixError, NotFound, Unavailable

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 2.0


class AsyncClient:
    """Speaks to one coordinator from one event loop; methods, arguments and errors are those of `Client`.

    async with AsyncClient("127.0.0.1:50051") as client:
        job = await client.submit("movielens.yaml")
        async for event in client.watch(job.job_id):
            print(event.state, event.detail)
    """

    def __init__(self, coordinator: str | Connection | None = None) -> None:
        """Prepare the connection; must be called while an event loop runs."""
        connection = coordinator if isinstance(coordinator, Connection) else connection_to(coordinator)
        self.address = connection.address
        self._transport = AsyncTransport(connection)

    # ---- jobs --------------------------------------------------------------------------------------------

    async def submit(self, config: ConfigLike, *, request_id: str | None = None) -> Job:
        """Queue a training job; see `Client.submit`."""
        canonical = await asyncio.to_thread(canonical_config, config)
        return await self._transport.call(rpc.submit_job(request_id or uuid.uuid4().hex, canonical))

    async def get(self, job_id: str) -> Job:
        """Return a job as it stands."""
        return await self._transport.call(rpc.get_job(job_id))

    async def list(self, limit: int = 100) -> tuple[Job, ...]:
        """Return the newest jobs, newest first."""
        return await self._transport.call(rpc.list_jobs(limit))

    async def watch(
        self, job_id: str, *, after_sequence: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield a job's events until it has ended, across broken connections; see `Client.watch`."""
        last, delay, gone_since = after_sequence, _FIRST_DELAY_SECONDS, 0.0
        while True:
            try:
                async with aclosing(self._transport.stream(rpc.watch_job(job_id, last))) as events:
                    async for event in events:
                        last, delay, gone_since = max(last, event.sequence), _FIRST_DELAY_SECONDS, 0.0
                        yield event
                if (await self.get(job_id)).state.ended:
                    return
            except Unavailable:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > reconnect_seconds:
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    async def wait(self, job_id: str) -> Job:
        """Return a job once it has ended, however it ended."""
        async for _ in self.watch(job_id):
            pass
        return await self.get(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; see `Client.cancel`."""
        return await self._transport.call(rpc.cancel_job(job_id))

    async def resume(self, job_id: str) -> Job:
        """Take a failed or cancelled job up again; see `Client.resume`."""
        return await self._transport.call(rpc.resume_job(job_id))

    async def delete(self, job_id: str) -> None:
        """Forget an ended job; see `Client.delete`."""
        await self._transport.call(rpc.delete_job(job_id))

    async def cluster(self) -> Cluster:
        """Return the coordinator's version and its workers."""
        return await self._transport.call(rpc.get_cluster())

    # ---- models ------------------------------------------------------------------------------------------

    async def list_models(self, model: str = "", *, store: str = "") -> tuple[ModelVersion, ...]:
        """Return the versions of a model, or of all; see `Client.list_models`."""
        return await self._transport.call(rpc.list_models(store, model))

    async def get_model(self, model: str, version: int = 0, *, store: str = "") -> ModelVersion:
        """Return one version with its manifest; 0 stands for the active one."""
        return await self._transport.call(rpc.get_model(store, model, version))

    async def activate_model(self, model: str, version: int, *, store: str = "") -> ModelVersion:
        """Make a sealed version the active one; see `Client.activate_model`."""
        return await self._transport.call(rpc.activate_model(store, model, version))

    async def delete_model(self, model: str, version: int, *, store: str = "") -> None:
        """Delete a version from the store; see `Client.delete_model`."""
        await self._transport.call(rpc.delete_model(store, model, version))

    # ---- uploads -----------------------------------------------------------------------------------------

    async def upload_scores(
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
        """Send a file of scores that were computed elsewhere; see `Client.upload_scores`."""
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
        await asyncio.to_thread(file.measure)
        while True:
            found = await self._upload_of(name, file.sha256)
            offset = file.offset(found)
            if offset is None:
                assert found is not None
                return found
            try:
                return await self._transport.send(file.call(offset), file.messages(offset))
            except GdmixError as error:
                if (delay := file.delay_after(error)) is None:
                    raise
            await asyncio.sleep(delay)

    async def _upload_of(self, name: str, sha256: str) -> ScoresUpload | None:
        try:
            return await self._transport.call(rpc.get_upload(name, sha256))
        except NotFound:
            return None

    async def get_upload(self, name: str) -> ScoresUpload:
        """Return an upload, ready or not; see `Client.get_upload`."""
        return await self._transport.call(rpc.get_upload(name))

    async def list_uploads(self) -> tuple[ScoresUpload, ...]:
        """Return all uploads by name."""
        return await self._transport.call(rpc.list_uploads())

    async def delete_upload(self, name: str) -> None:
        """Remove an upload; see `Client.delete_upload`."""
        await self._transport.call(rpc.delete_upload(name))

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
