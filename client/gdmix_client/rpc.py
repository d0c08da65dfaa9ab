"""The calls a coordinator answers: request, how to read the response, how long to wait, whether to repeat.

A `Call` is a value; `transport` performs it, blocking or with asyncio. One function for each RPC of
`TrainingService`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from gdmix_client import convert
from gdmix_client.types import Cluster, Job, JobEvent, ModelVersion, ScoresUpload
from gdmix_proto.v1 import training_pb2 as wire

Result = TypeVar("Result")

SHORT_SECONDS = 10.0
STORE_SECONDS = 60.0
"""Calls that read a coefficient store."""
DELETE_SECONDS = 600.0
"""Deleting a version removes its entities in small batches."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One RPC with its request.

    Attributes:
        method: name in the service.
        request: the message to send.
        response: class of the message that comes back.
        read: turns that message into the client's value.
        timeout_seconds: deadline of one try; None for streams.
        repeatable: whether a second try after a broken connection can do no harm.
        service: that has the method.
    """

    method: str
    request: Message
    response: type[Message]
    read: Callable[[Any], Result]
    timeout_seconds: float | None = SHORT_SECONDS
    repeatable: bool = False
    service: str = "TrainingService"

    @property
    def path(self) -> str:
        """The method's full name on the wire."""
        return f"/gdmix.v1.{self.service}/{self.method}"


def submit_job(request_id: str, config_json: str) -> Call[Job]:
    """Queue a job; repeatable, for the same request id returns the same job."""
    request = wire.SubmitJobRequest(request_id=request_id, config_json=config_json)
    return Call("SubmitJob", request, wire.Job, convert.job_from_proto, 30.0, repeatable=True)


def get_job(job_id: str) -> Call[Job]:
    """Read a job."""
    request = wire.GetJobRequest(job_id=job_id)
    return Call("GetJob", request, wire.Job, convert.job_from_proto, repeatable=True)


def list_jobs(limit: int) -> Call[tuple[Job, ...]]:
    """Read the newest jobs."""

    def read(message: wire.ListJobsResponse) -> tuple[Job, ...]:
        return tuple(convert.job_from_proto(job) for job in message.jobs)

    request = wire.ListJobsRequest(limit=limit)
    return Call("ListJobs", request, wire.ListJobsResponse, read, repeatable=True)


def watch_job(job_id: str, after_sequence: int) -> Call[JobEvent]:
    """Stream a job's events."""
    request = wire.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)
    return Call("WatchJob", request, wire.JobEvent, convert.event_from_proto, None)


def cancel_job(job_id: str) -> Call[Job]:
    """Ask for a job's end."""
    return Call("CancelJob", wire.CancelJobRequest(job_id=job_id), wire.Job, convert.job_from_proto)


def resume_job(job_id: str) -> Call[Job]:
    """Take a failed or cancelled job up again."""
    return Call("ResumeJob", wire.ResumeJobRequest(job_id=job_id), wire.Job, convert.job_from_proto)


def delete_job(job_id: str) -> Call[None]:
    """Forget an ended job."""
    request = wire.DeleteJobRequest(job_id=job_id)
    return Call("DeleteJob", request, wire.DeleteJobResponse, _nothing, DELETE_SECONDS)


def get_cluster() -> Call[Cluster]:
    """Read who is connected."""
    request = wire.GetClusterRequest()
    return Call("GetCluster", request, wire.Cluster, convert.cluster_from_proto, repeatable=True)


def list_models(store: str, model: str) -> Call[tuple[ModelVersion, ...]]:
    """Read the versions in a store."""

    def read(message: wire.ListModelsResponse) -> tuple[ModelVersion, ...]:
        return tuple(convert.model_version_from_proto(version) for version in message.versions)

    request = wire.ListModelsRequest(store=store, model=model)
    return Call("ListModels", request, wire.ListModelsResponse, read, STORE_SECONDS, repeatable=True)


def get_model(store: str, model: str, version: int) -> Call[ModelVersion]:
    """Read one version; 0 stands for the active one."""
    request = wire.GetModelRequest(store=store, model=model, version=version)
    read = convert.model_version_from_proto
    return Call("GetModel", request, wire.ModelVersion, read, STORE_SECONDS, repeatable=True)


def activate_model(store: str, model: str, version: int) -> Call[ModelVersion]:
    """Make a version the active one; not repeatable: it might undo what somebody did in between."""
    request = wire.ActivateModelRequest(store=store, model=model, version=version)
    return Call("ActivateModel", request, wire.ModelVersion, convert.model_version_from_proto, STORE_SECONDS)


def delete_model(store: str, model: str, version: int) -> Call[None]:
    """Delete a version from a store."""
    request = wire.DeleteModelRequest(store=store, model=model, version=version)
    return Call("DeleteModel", request, wire.DeleteModelResponse, _nothing, DELETE_SECONDS)


def upload_scores(
    *,
    name: str,
    form: str,
    uid_column: str,
    score_column: str,
    byte_size: int,
    sha256: str,
    role: str,
    replace: bool,
    offset: int,
) -> Call[ScoresUpload]:
    """Send a file of scores from an offset on; the request is the header, `upload_data` makes what follows."""
    header = wire.UploadHeader(
        name=name,
        format=form,
        uid_column=uid_column,
        score_column=score_column,
        byte_size=byte_size,
        sha256=sha256,
        role=role,
        replace=replace,
        offset=offset,
    )
    request = wire.UploadScoresRequest(header=header)
    return Call("UploadScores", request, wire.ScoresUpload, convert.upload_from_proto, None)


def upload_data(data: bytes) -> Message:
    """Return a message of an upload behind its header."""
    return wire.UploadScoresRequest(data=data)


def get_upload(name: str, sha256: str = "") -> Call[ScoresUpload]:
    """Read an upload; with a digest that of this very file."""
    request = wire.GetUploadRequest(name=name, sha256=sha256)
    return Call("GetUpload", request, wire.ScoresUpload, convert.upload_from_proto, repeatable=True)


def list_uploads() -> Call[tuple[ScoresUpload, ...]]:
    """Read all uploads."""

    def read(message: wire.ListUploadsResponse) -> tuple[ScoresUpload, ...]:
        return tuple(convert.upload_from_proto(upload) for upload in message.uploads)

    request = wire.ListUploadsRequest()
    return Call("ListUploads", request, wire.ListUploadsResponse, read, repeatable=True)


def delete_upload(name: str) -> Call[None]:
    """Remove an upload."""
    request = wire.DeleteUploadRequest(name=name)
    return Call("DeleteUpload", request, wire.DeleteUploadResponse, _nothing, DELETE_SECONDS)


def _nothing(_: Message) -> None:
    return None
