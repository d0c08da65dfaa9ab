"""What clients may ask about jobs: submit, look, watch, cancel, resume, delete."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gdmix_core.config import config_from_json, config_to_json
from gdmix_core.config.paths import with_upload_paths
from gdmix_core.errors import Conflict, UsageError
from gdmix_server.interpreter import Interpreter
from gdmix_server.permitted_paths import PermittedPaths
from gdmix_server.state.events import (
    JobCancelRequested,
    JobDeleteRequested,
    JobResumeRequested,
    JobSubmitted,
)
from gdmix_server.state.model import JobEvent, JobRow, Progress
from gdmix_server.uploads import Uploads

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000
MAX_REQUEST_ID_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True)
class JobView:
    """A job and what runs of it now."""

    row: JobRow
    progress: Progress | None


class Jobs:
    """All jobs of a coordinator."""

    def __init__(self, interpreter: Interpreter, paths: PermittedPaths, store: str, uploads: Uploads) -> None:
        """Take the paths that jobs may name, the store of jobs that name none (may be empty), and the uploads."""
        self._uploads = uploads
        self._interpreter = interpreter
        self._paths = paths
        self._store = store
        self._submitting: dict[str, asyncio.Task[str]] = {}

    async def submit(self, request_id: str, config_json: str) -> JobView:
        """Queue a job; the same request id returns the same job, whatever became of it.

        Raises:
            UsageError: the request id or the config make no sense.
            NotPermitted: the config names a path outside of the data roots.
            NotFound: the config names scores that were not uploaded.
        """
        known = self._interpreter.job_of_request(request_id)
        if known is not None:
            return self._view(known)
        if not 0 < len(request_id) <= MAX_REQUEST_ID_CHARACTERS or not request_id.isprintable():
            raise UsageError(
                f"request_id: found {len(request_id)} characters; allowed are 1 to "
                f"{MAX_REQUEST_ID_CHARACTERS} printable ones"
            )
        task = self._submitting.get(request_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._submit(request_id, config_json))
            self._submitting[request_id] = task
            task.add_done_callback(lambda _: self._submitting.pop(request_id))
        # A client that gives up waiting must not stop what another one waits for.
        return self.get(await asyncio.shield(task))

    def get(self, job_id: str) -> JobView:
        """Return a job; NotFound when there is none."""
        return self._view(self._interpreter.job(job_id))

    def newest(self, limit: int) -> list[JobView]:
        """Return jobs, newest first; `limit` 0 means 100.

        Raises:
            UsageError: the limit is negative or too large.
        """
        if not 0 <= limit <= MAX_LIMIT:
            raise UsageError(f"limit: found {limit}; allowed are 0 to {MAX_LIMIT}")
        return [self._view(row) for row in self._interpreter.jobs()[: limit or DEFAULT_LIMIT]]

    def watch(self, job_id: str, after_sequence: int) -> AsyncIterator[JobEvent]:
        """Return a job's events after a sequence number, until it has ended; NotFound when there is none."""
        self._interpreter.job(job_id)
        return self._interpreter.stories.watch(job_id, after_sequence)

    async def cancel(self, job_id: str) -> JobView:
        """Ask for a job's end.

        Raises:
            NotFound, Conflict: there is no such job, or it has ended.
        """
        await self._interpreter.request(JobCancelRequested(now=time.time(), job_id=job_id))
        return self.get(job_id)

    async def resume(self, job_id: str) -> JobView:
        """Take a failed or cancelled job up again.

        Raises:
            NotFound, Conflict: there is no such job, or it has not ended that way.
        """
        await self._interpreter.request(JobResumeRequested(now=time.time(), job_id=job_id))
        return self.get(job_id)

    async def delete(self, job_id: str) -> None:
        """Forget an ended job and its working files.

        Raises:
            NotFound, Conflict: there is no such job, or it has not ended.
        """
        await self._interpreter.request(JobDeleteRequested(now=time.time(), job_id=job_id))

    async def _submit(self, request_id: str, config_json: str) -> str:
        config = config_from_json(config_json)
        store = config.store or self._store or f"lmdb:{config.output}/store"
        if config.output.startswith("/") or "://" in config.output:
            config = config.model_copy(update={"store": store})
        else:
            raise UsageError(
                f"output: {config.output!r} is relative; clients resolve paths before they submit"
            )
        if store.startswith("lmdb:") and "://" in config.output and not (config.store or self._store):
            raise Conflict("store: missing; with an output in an object store, name a redis:// store")
        self._paths.check_config(config)
        config = await asyncio.to_thread(with_upload_paths, config, self._uploads.path_of)
        job_id = secrets.token_hex(6)
        await self._interpreter.request(
            JobSubmitted(
                now=time.time(),
                job_id=job_id,
                request_id=request_id,
                config_json=config_to_json(config),
                model=config.model,
                output=config.output,
            )
        )
        return job_id

    def _view(self, row: JobRow) -> JobView:
        return JobView(row, None if row.state.ended else self._interpreter.progress(row.job_id))
