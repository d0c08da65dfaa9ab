"""The coordinator's two services: a method converts, calls one function of the domain, and converts back."""
# ruff: noqa: N802, ARG002 - gRPC gives the methods their names and arguments

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any

import grpc.aio

from gdmix_core.arrays import iter_chunks
from gdmix_core.errors import GdmixError, InternalError, UsageError
from gdmix_proto.v1 import training_pb2, training_pb2_grpc, worker_pb2, worker_pb2_grpc
from gdmix_server import convert, sessions
from gdmix_server.interpreter import Interpreter
from gdmix_server.jobs import Jobs
from gdmix_server.stores import ModelStores
from gdmix_server.uploads import Uploads

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What a coordinator says of itself."""

    version: str
    epoch: int
    store: str
    heartbeat_seconds: float
    lease_seconds: float


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """What people and programs ask."""

    def __init__(
        self, jobs: Jobs, stores: ModelStores, uploads: Uploads, interpreter: Interpreter, facts: ClusterFacts
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._uploads = uploads
        self._interpreter = interpreter
        self._facts = facts

    async def SubmitJob(self, request: training_pb2.SubmitJobRequest, context: Context) -> training_pb2.Job:
        """Queue a job, or return the one of the same request id."""
        view = await self._jobs.submit(request.request_id, request.config_json)
        return convert.job_to_proto(view)

    async def GetJob(self, request: training_pb2.GetJobRequest, context: Context) -> training_pb2.Job:
        """Return a job."""
        return convert.job_to_proto(self._jobs.get(request.job_id))

    async def ListJobs(
        self, request: training_pb2.ListJobsRequest, context: Context
    ) -> training_pb2.ListJobsResponse:
        """Return jobs, newest first."""
        views = self._jobs.newest(request.limit)
        return training_pb2.ListJobsResponse(jobs=[convert.job_to_proto(view) for view in views])

    async def WatchJob(self, request: training_pb2.WatchJobRequest, context: Context) -> None:
        """Send a job's events until it has ended."""
        async for event in self._jobs.watch(request.job_id, request.after_sequence):
            await context.write(convert.event_to_proto(event))

    async def CancelJob(self, request: training_pb2.CancelJobRequest, context: Context) -> training_pb2.Job:
        """Ask for a job's end."""
        return convert.job_to_proto(await self._jobs.cancel(request.job_id))

    async def ResumeJob(self, request: training_pb2.ResumeJobRequest, context: Context) -> training_pb2.Job:
        """Take a failed or cancelled job up again."""
        return convert.job_to_proto(await self._jobs.resume(request.job_id))

    async def DeleteJob(
        self, request: training_pb2.DeleteJobRequest, context: Context
    ) -> training_pb2.DeleteJobResponse:
        """Forget an ended job."""
        await self._jobs.delete(request.job_id)
        return training_pb2.DeleteJobResponse()

    async def GetCluster(
        self, request: training_pb2.GetClusterRequest, context: Context
    ) -> training_pb2.Cluster:
        """Return who is connected."""
        return training_pb2.Cluster(
            version=self._facts.version,
            epoch=self._facts.epoch,
            store=self._facts.store,
            workers=[
                convert.worker_view_to_proto(view) for view in self._interpreter.workers() if view.connected
            ],
        )

    async def ListModels(
        self, request: training_pb2.ListModelsRequest, context: Context
    ) -> training_pb2.ListModelsResponse:
        """Return versions in one or all known stores."""
        versions = await asyncio.to_thread(self._stores.versions, request.store, request.model)
        return training_pb2.ListModelsResponse(versions=map(convert.model_version_to_proto, versions))

    async def GetModel(
        self, request: training_pb2.GetModelRequest, context: Context
    ) -> training_pb2.ModelVersion:
        """Return one version with its manifest."""
        version = await asyncio.to_thread(self._stores.version, request.store, request.model, request.version)
        return convert.model_version_to_proto(version)

    async def ActivateModel(
        self, request: training_pb2.ActivateModelRequest, context: Context
    ) -> training_pb2.ModelVersion:
        """Make a version the active one."""
        version = await asyncio.to_thread(
            self._stores.activate, request.store, request.model, request.version
        )
        return convert.model_version_to_proto(version)

    async def DeleteModel(
        self, request: training_pb2.DeleteModelRequest, context: Context
    ) -> training_pb2.DeleteModelResponse:
        """Delete an inactive version."""
        await asyncio.to_thread(self._stores.delete, request.store, request.model, request.version)
        return training_pb2.DeleteModelResponse()

    async def UploadScores(
        self, requests: AsyncIterable[training_pb2.UploadScoresRequest], context: Context
    ) -> training_pb2.ScoresUpload:
        """Take a file of scores."""
        iterator = aiter(requests)
        header = convert.upload_header_from_proto(await anext(iterator, None))
        upload = await self._uploads.receive(header, convert.upload_data_from_proto(iterator))
        return convert.upload_to_proto(upload)

    async def GetUpload(
        self, request: training_pb2.GetUploadRequest, context: Context
    ) -> training_pb2.ScoresUpload:
        """Return an upload, ready or not."""
        upload = await asyncio.to_thread(self._uploads.get, request.name, request.sha256)
        return convert.upload_to_proto(upload)

    async def ListUploads(
        self, request: training_pb2.ListUploadsRequest, context: Context
    ) -> training_pb2.ListUploadsResponse:
        """Return all uploads by name."""
        uploads = await asyncio.to_thread(self._uploads.listed)
        return training_pb2.ListUploadsResponse(uploads=map(convert.upload_to_proto, uploads))

    async def DeleteUpload(
        self, request: training_pb2.DeleteUploadRequest, context: Context
    ) -> training_pb2.DeleteUploadResponse:
        """Remove an upload."""
        await self._uploads.delete(request.name)
        return training_pb2.DeleteUploadResponse()


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """What workers say and hear."""

    def __init__(self, interpreter: Interpreter, facts: ClusterFacts) -> None:
        self._interpreter = interpreter
        self._facts = facts

    async def Session(self, requests: AsyncIterable[worker_pb2.WorkerMessage], context: Context) -> None:
        """Run the control stream of one worker."""
        session = self._interpreter.sessions.open()
        reader = asyncio.create_task(self._read(session, requests))
        try:
            async for message in session.outgoing():
                told = convert.outgoing_to_proto(
                    message,
                    epoch=self._facts.epoch,
                    heartbeat_seconds=self._facts.heartbeat_seconds,
                    lease_seconds=self._facts.lease_seconds,
                )
                await context.write(told)
        finally:
            session.closed()
            reader.cancel()
            await asyncio.wait([reader])

    async def PushArray(
        self, chunks: AsyncIterable[worker_pb2.ArrayChunk], context: Context
    ) -> worker_pb2.PushArrayResponse:
        """Take an array for a running unit."""
        iterator = aiter(chunks)
        first = await anext(iterator, None)
        if first is None:
            raise UsageError("an array without a first chunk")
        lease = convert.lease_from_proto(first.lease)
        with self._interpreter.arrays.push(lease, first.name, first.dtype, list(first.shape)) as push:
            push.append(first.data)
            async for chunk in iterator:
                push.append(chunk.data)
            return worker_pb2.PushArrayResponse(bytes_received=push.finish())

    async def PullArray(self, request: worker_pb2.PullArrayRequest, context: Context) -> None:
        """Send an array that a running unit needs."""
        lease = convert.lease_from_proto(request.lease)
        array = await self._interpreter.arrays.pull(lease, request.name)
        for number, data in enumerate(iter_chunks(array)):
            described = number == 0
            await context.write(
                convert.first_chunk_to_proto(array, data) if described else worker_pb2.ArrayChunk(data=data)
            )

    async def _read(
        self, session: sessions.Session, requests: AsyncIterable[worker_pb2.WorkerMessage]
    ) -> None:
        """Take what the worker says until it stops; then, or when it makes no sense, end the session."""
        try:
            async for message in requests:
                session.receive(
                    convert.worker_event_from_proto(
                        message, now=time.time(), worker_id=session.worker_id, session=session.number
                    )
                )
        except GdmixError as error:
            session.end(error)
        except Exception:
            logger.exception("the session of worker %s failed", session.worker_id)
            session.end(InternalError("an internal error; the coordinator's log has it"))
        else:
            session.end()


def add_services(
    server: grpc.aio.Server, training: TrainingServicer, worker: WorkerServicer
) -> tuple[str, ...]:
    """Register both services and return their full names."""
    training_pb2_grpc.add_TrainingServiceServicer_to_server(training, server)  # type: ignore[no-untyped-call]
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)  # type: ignore[no-untyped-call]
    return (
        training_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name,
        worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
    )
