"""Between the wire's messages and the coordinator's own words: pairs of functions, no decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.arrays import wire_dtype
from gdmix_core.errors import UsageError
from gdmix_core.tasks import to_json
from gdmix_proto.v1 import training_pb2, worker_pb2
from gdmix_server.jobs import JobView
from gdmix_server.sessions import Farewell, Outgoing
from gdmix_server.state.events import (
    Event,
    GangJoined,
    UnitFailed,
    UnitFinished,
    WorkerConnected,
    WorkerDraining,
    WorkerHeartbeat,
)
from gdmix_server.state.instructions import (
    AcceptWorker,
    Acknowledge,
    DropCache,
    RevokeLease,
    SendTask,
    StartGang,
)
from gdmix_server.state.model import (
    CoordinateReport,
    FitProgress,
    GangMember,
    GroupShrinkage,
    JobEvent,
    JobState,
    Lease,
    MemberState,
    Metric,
    Progress,
    Published,
    WorkerInfo,
)
from gdmix_server.state.workers import WorkerView
from gdmix_server.stores import ModelVersion
from gdmix_server.uploads import ScoresUpload, UploadHeader

_STATES: Final = {
    JobState.QUEUED: training_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: training_pb2.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: training_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: training_pb2.JOB_STATE_FAILED,
    JobState.CANCELLING: training_pb2.JOB_STATE_CANCELLING,
    JobState.CANCELLED: training_pb2.JOB_STATE_CANCELLED,
}
_STATES_BACK: Final = {number: state for state, number in _STATES.items()}
_MEMBER_STATES: Final = {
    MemberState.JOINING: training_pb2.GangMember.STATE_JOINING,
    MemberState.RUNNING: training_pb2.GangMember.STATE_RUNNING,
    MemberState.FINISHED: training_pb2.GangMember.STATE_FINISHED,
}
_MEMBER_STATES_BACK: Final = {number: state for state, number in _MEMBER_STATES.items()}
_MAX_NAME_CHARACTERS: Final = 128
_MAX_ADDRESS_CHARACTERS: Final = 300
_MAX_THREADS: Final = 4096


# ---- jobs ------------------------------------------------------------------------------------------------


def job_to_proto(view: JobView) -> training_pb2.Job:
    """Return a job as clients see it."""
    row = view.row
    return training_pb2.Job(
        job_id=row.job_id,
        model=row.model,
        state=_STATES[row.state],
        error=row.error,
        error_code=row.error_code,
        submitted_unix_seconds=row.submitted,
        started_unix_seconds=row.started or 0.0,
        ended_unix_seconds=row.ended or 0.0,
        progress=None if view.progress is None else progress_to_proto(view.progress),
        coordinates=[coordinate_to_proto(report) for report in row.coordinates],
        published=None if row.published is None else published_to_proto(row.published),
        config_json=row.config_json,
        output=row.output,
        last_sequence=row.last_sequence,
        reproducible=row.reproducible,
        train_rows=row.train_rows,
        validation_rows=row.validation_rows,
    )


def fit_to_proto(fit: FitProgress) -> training_pb2.FitProgress:
    """Return how far the fit of a plug-in is."""
    return training_pb2.FitProgress(
        step=fit.step,
        steps=fit.steps,
        rows=fit.rows,
        loss=fit.loss,
        metrics=fit.metrics,
        rows_per_second=fit.rows_per_second,
    )


def fit_from_proto(message: training_pb2.FitProgress) -> FitProgress:
    """Read `fit_to_proto` back."""
    return FitProgress(
        step=message.step,
        steps=message.steps,
        rows=message.rows,
        loss=message.loss if message.HasField("loss") else None,
        metrics=dict(message.metrics),
        rows_per_second=message.rows_per_second,
    )


def progress_to_proto(progress: Progress) -> training_pb2.Progress:
    """Return a running stage's progress."""
    return training_pb2.Progress(
        stage=progress.stage,
        coordinate=progress.coordinate,
        units_done=progress.units_done,
        units_total=progress.units_total,
        rows_done=progress.rows_done,
        entities_done=progress.entities_done,
        round=progress.round_number,
        stage_seconds=progress.stage_seconds,
        objective=progress.objective,
        gradient_ratio=progress.gradient_ratio,
        members=[
            training_pb2.GangMember(
                worker_id=member.worker_id, state=_MEMBER_STATES[member.state], address=member.address
            )
            for member in progress.members
        ],
        fit=fit_to_proto(progress.fit) if progress.fit is not None else None,
        **{"pass": progress.pass_number},
    )


def progress_from_proto(message: training_pb2.Progress) -> Progress:
    """Read `progress_to_proto` back."""
    return Progress(
        stage=message.stage,
        coordinate=message.coordinate,
        pass_number=getattr(message, "pass"),
        units_done=message.units_done,
        units_total=message.units_total,
        rows_done=message.rows_done,
        entities_done=message.entities_done,
        round_number=message.round,
        stage_seconds=message.stage_seconds,
        objective=message.objective,
        gradient_ratio=message.gradient_ratio,
        members=tuple(
            GangMember(
                worker_id=member.worker_id, state=_MEMBER_STATES_BACK[member.state], address=member.address
            )
            for member in message.members
        ),
        fit=fit_from_proto(message.fit) if message.HasField("fit") else None,
    )


def coordinate_to_proto(report: CoordinateReport) -> training_pb2.CoordinateReport:
    """Return a trained coordinate's report."""
    return training_pb2.CoordinateReport(
        name=report.name,
        kind=report.kind,
        what=report.what,
        entities=report.entities,
        rows=report.rows,
        coefficients=report.coefficients,
        unconverged=report.unconverged,
        statuses=dict(report.statuses),
        iterations=report.iterations,
        seconds=report.seconds,
        validation=[metric_to_proto(metric) for metric in report.validation],
        kept=report.kept,
        trial=report.trial,
        trial_values=dict(report.trial_values),
        shrinkage=[training_pb2.GroupShrinkage(**asdict(group)) for group in report.shrinkage],
        **{"pass": report.pass_number},
    )


def coordinate_from_proto(message: training_pb2.CoordinateReport) -> CoordinateReport:
    """Read `coordinate_to_proto` back."""
    return CoordinateReport(
        name=message.name,
        kind=message.kind,
        what=message.what,
        pass_number=getattr(message, "pass"),
        entities=message.entities,
        rows=message.rows,
        coefficients=message.coefficients,
        unconverged=message.unconverged,
        statuses=dict(sorted(message.statuses.items())),
        iterations=message.iterations,
        seconds=message.seconds,
        validation=tuple(metric_from_proto(metric) for metric in message.validation),
        kept=message.kept,
        trial=message.trial,
        trial_values=dict(sorted(message.trial_values.items())),
        shrinkage=tuple(map(_shrinkage_from_proto, message.shrinkage)),
    )


def _shrinkage_from_proto(message: training_pb2.GroupShrinkage) -> GroupShrinkage:
    return GroupShrinkage(
        name=message.name,
        coefficients=message.coefficients,
        l2=message.l2,
        variance=message.variance if message.HasField("variance") else None,
        effective=message.effective,
        shrinkage=message.shrinkage,
        error=message.error if message.HasField("error") else None,
        learned=message.learned,
    )


def metric_to_proto(metric: Metric) -> training_pb2.MetricValue:
    """Return a metric; an undefined one has no value."""
    return training_pb2.MetricValue(
        name=metric.name,
        value=metric.value,
        reason=metric.reason,
        entities=metric.entities,
        entities_undefined=metric.entities_undefined,
    )


def metric_from_proto(message: training_pb2.MetricValue) -> Metric:
    """Read `metric_to_proto` back."""
    return Metric(
        name=message.name,
        value=message.value if message.HasField("value") else None,
        reason=message.reason,
        entities=message.entities if message.HasField("entities") else None,
        entities_undefined=message.entities_undefined if message.HasField("entities_undefined") else None,
    )


def published_to_proto(published: Published) -> training_pb2.Published:
    """Return where a model went."""
    return training_pb2.Published(
        store=published.store,
        version=published.version,
        activated=published.activated,
        winner=published.winner,
        directory=published.directory,
        content_digest=published.content_digest,
    )


def published_from_proto(message: training_pb2.Published) -> Published:
    """Read `published_to_proto` back."""
    return Published(
        store=message.store,
        version=message.version,
        activated=message.activated,
        winner=message.winner if message.HasField("winner") else None,
        directory=message.directory,
        content_digest=message.content_digest,
    )


def event_to_proto(event: JobEvent) -> training_pb2.JobEvent:
    """Return one line of a job's story."""
    message = training_pb2.JobEvent(
        job_id=event.job_id,
        sequence=event.sequence,
        unix_seconds=event.time,
        state=_STATES[event.state],
    )
    if event.progress is not None:
        message.progress.CopyFrom(progress_to_proto(event.progress))
    elif event.coordinate is not None:
        message.coordinate.CopyFrom(coordinate_to_proto(event.coordinate))
    elif event.published is not None:
        message.published.CopyFrom(published_to_proto(event.published))
    elif event.notice:
        message.notice.text = event.notice
        kind = training_pb2.Notice
        message.notice.severity = kind.SEVERITY_WARNING if event.warning else kind.SEVERITY_INFO
    else:
        changed = training_pb2.StateChanged(error=event.error, error_code=event.error_code)
        message.state_changed.CopyFrom(changed)
    return message


def event_from_proto(message: training_pb2.JobEvent) -> JobEvent:
    """Read `event_to_proto` back."""
    kind = message.WhichOneof("event")
    return JobEvent(
        job_id=message.job_id,
        sequence=message.sequence,
        time=message.unix_seconds,
        state=_STATES_BACK[message.state],
        error=message.state_changed.error,
        error_code=message.state_changed.error_code,
        progress=progress_from_proto(message.progress) if kind == "progress" else None,
        coordinate=coordinate_from_proto(message.coordinate) if kind == "coordinate" else None,
        notice=message.notice.text,
        warning=message.notice.severity == training_pb2.Notice.SEVERITY_WARNING,
        published=published_from_proto(message.published) if kind == "published" else None,
    )


# ---- models and cluster ----------------------------------------------------------------------------------


def model_version_to_proto(version: ModelVersion) -> training_pb2.ModelVersion:
    """Return a model version."""
    return training_pb2.ModelVersion(
        store=version.store,
        model=version.model,
        version=version.version,
        state=version.state,
        manifest_json=version.manifest_json,
        aliases=version.aliases,
        entities=version.entities,
    )


def worker_view_to_proto(view: WorkerView) -> training_pb2.Worker:
    """Return a worker as clients see it."""
    return training_pb2.Worker(
        worker_id=view.info.worker_id,
        host=view.info.host,
        pid=view.info.pid,
        threads=view.info.threads,
        running_units=view.running,
        fingerprint=view.info.fingerprint,
        connected_unix_seconds=view.connected_since,
    )


# ---- sessions --------------------------------------------------------------------------------------------


def lease_to_proto(lease: Lease) -> worker_pb2.Lease:
    """Return a lease."""
    return worker_pb2.Lease(
        job_id=lease.job_id,
        stage=lease.stage,
        unit=lease.unit,
        attempt=lease.attempt,
        fence=lease.fence,
        epoch=lease.epoch,
    )


def lease_from_proto(message: worker_pb2.Lease) -> Lease:
    """Read `lease_to_proto` back."""
    return Lease(
        job_id=message.job_id,
        stage=message.stage,
        unit=message.unit,
        attempt=message.attempt,
        fence=message.fence,
        epoch=message.epoch,
    )


def worker_info_from_proto(message: worker_pb2.Register) -> WorkerInfo:
    """Read what a worker says of itself.

    Raises:
        UsageError: it has no name, or no threads.
    """
    name = message.worker_id
    if not 0 < len(name) <= _MAX_NAME_CHARACTERS or not name.isprintable():
        raise UsageError(f"worker_id: allowed are 1 to {_MAX_NAME_CHARACTERS} printable characters")
    if not 1 <= message.threads <= _MAX_THREADS:
        raise UsageError(f"threads: found {message.threads}; allowed are 1 to {_MAX_THREADS}")
    return WorkerInfo(
        worker_id=name,
        host=message.host,
        pid=message.pid,
        threads=message.threads,
        version=message.version,
        fingerprint=message.fingerprint,
        fingerprint_parts=dict(sorted(message.fingerprint_parts.items())),
        ready=message.ready,
        data_roots=tuple(message.data_roots),
    )


def worker_event_from_proto(
    message: worker_pb2.WorkerMessage, *, now: float, worker_id: str, session: int
) -> Event:
    """Return what a worker's message means; `worker_id` is empty until it has registered.

    Raises:
        UsageError: the message is empty, or a registration makes no sense.
    """
    match message.WhichOneof("message"):
        case "register":
            return WorkerConnected(
                now=now,
                worker=worker_info_from_proto(message.register),
                session=session,
                held=tuple(lease_from_proto(lease) for lease in message.register.held),
            )
        case "heartbeat":
            running = message.heartbeat.running
            return WorkerHeartbeat(
                now=now,
                worker_id=worker_id,
                session=session,
                ready=message.heartbeat.ready,
                rows_done=sum(unit.rows_done for unit in running),
                entities_done=sum(unit.entities_done for unit in running),
                fit=next((fit_from_proto(unit.fit) for unit in running if unit.HasField("fit")), None),
            )
        case "unit_finished":
            return UnitFinished(
                now=now,
                worker_id=worker_id,
                lease=lease_from_proto(message.unit_finished.lease),
                result_json=message.unit_finished.result_json,
            )
        case "unit_failed":
            failed = message.unit_failed
            return UnitFailed(
                now=now,
                worker_id=worker_id,
                lease=lease_from_proto(failed.lease),
                error_code=failed.error_code,
                message=failed.message,
                retryable=failed.retryable,
            )
        case "gang_joined":
            return GangJoined(
                now=now,
                worker_id=worker_id,
                lease=lease_from_proto(message.gang_joined.lease),
                address=_member_address(message.gang_joined.address),
            )
        case "draining":
            return WorkerDraining(now=now, worker_id=worker_id, session=session)
        case _:
            raise UsageError("an empty or unknown message; worker and coordinator are of different versions")


def _member_address(address: str) -> str:
    """Check an address that others will be told.

    Raises:
        UsageError: it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    short = len(address) <= _MAX_ADDRESS_CHARACTERS
    if not host or not short or not address.isprintable() or not (port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            f"gang_joined: found the address {address[:_MAX_NAME_CHARACTERS]!r}; HOST:PORT is allowed"
        )
    return address


def outgoing_to_proto(
    message: Outgoing, *, epoch: int, heartbeat_seconds: float, lease_seconds: float
) -> worker_pb2.CoordinatorMessage:
    """Return what the coordinator tells a worker."""
    told = worker_pb2.CoordinatorMessage()
    match message:
        case AcceptWorker():
            told.registered.epoch = epoch
            told.registered.heartbeat_seconds = heartbeat_seconds
            told.registered.lease_seconds = lease_seconds
        case SendTask(lease=lease, task=task, gang_size=gang_size):
            told.assign_unit.lease.CopyFrom(lease_to_proto(lease))
            told.assign_unit.kind = task.kind
            told.assign_unit.task_json = to_json(task)
            told.assign_unit.gang_size = gang_size
        case StartGang(lease=lease, addresses=addresses):
            told.start_gang.lease.CopyFrom(lease_to_proto(lease))
            told.start_gang.addresses.extend(addresses)
        case RevokeLease(lease=lease):
            told.revoke_unit.lease.CopyFrom(lease_to_proto(lease))
        case Acknowledge(lease=lease, accepted=accepted):
            told.acknowledge_result.lease.CopyFrom(lease_to_proto(lease))
            told.acknowledge_result.accepted = accepted
        case DropCache(prefix=prefix):
            told.drop_cache.prefix = prefix
        case Farewell(reason=reason):
            told.shutdown.reason = reason
    return told


# ---- arrays ----------------------------------------------------------------------------------------------


def first_chunk_to_proto(array: npt.NDArray[Any], data: bytes) -> worker_pb2.ArrayChunk:
    """Return the first chunk of an array, which says what it is."""
    return worker_pb2.ArrayChunk(dtype=wire_dtype(array), shape=list(np.shape(array)), data=data)


# ---- uploads ---------------------------------------------------------------------------------------------


def upload_header_from_proto(message: training_pb2.UploadScoresRequest | None) -> UploadHeader:
    """Return the header of an upload, from its first message.

    Raises:
        UsageError: there is none, or it holds something else.
    """
    if message is None or not message.HasField("header"):
        raise UsageError("header: missing; it is the first message of an upload")
    header = message.header
    return UploadHeader(
        name=header.name,
        format=header.format,
        uid_column=header.uid_column or "uid",
        score_column=header.score_column or "score",
        byte_size=header.byte_size,
        sha256=header.sha256,
        role=header.role,
        replace=header.replace,
        offset=header.offset,
    )


async def upload_data_from_proto(
    messages: AsyncIterator[training_pb2.UploadScoresRequest],
) -> AsyncIterator[bytes]:
    """Yield the bytes of the messages behind the header.

    Raises:
        UsageError: one of them is another header.
    """
    async for message in messages:
        if message.HasField("header"):
            raise UsageError("header: there twice; all messages behind the first one hold data")
        yield message.data


def upload_to_proto(upload: ScoresUpload) -> training_pb2.ScoresUpload:
    """Return an upload as clients see it."""
    ready, uploading = training_pb2.UPLOAD_STATE_READY, training_pb2.UPLOAD_STATE_UPLOADING
    return training_pb2.ScoresUpload(
        name=upload.name,
        state=ready if upload.ready else uploading,
        role=upload.role,
        format=upload.format,
        byte_size=upload.byte_size,
        sha256=upload.sha256,
        received=upload.received,
        created_unix_seconds=upload.created,
        rows=upload.rows,
        min_score=upload.min_score,
        max_score=upload.max_score,
        mean_score=upload.mean_score,
    )
