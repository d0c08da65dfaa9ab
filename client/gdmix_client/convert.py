"""Between the messages of the wire and the client's own values."""

from __future__ import annotations

from gdmix_client.types import (
    Cluster,
    CoordinateReport,
    EventDetail,
    FitProgress,
    GangMember,
    GroupShrinkage,
    Job,
    JobEvent,
    JobState,
    MemberState,
    Metric,
    ModelVersion,
    Notice,
    Progress,
    Published,
    ScoresUpload,
    StateChanged,
    UploadState,
    Worker,
)
from gdmix_proto.v1 import training_pb2 as wire

_STATES = {
    wire.JOB_STATE_QUEUED: JobState.QUEUED,
    wire.JOB_STATE_RUNNING: JobState.RUNNING,
    wire.JOB_STATE_SUCCEEDED: JobState.SUCCEEDED,
    wire.JOB_STATE_FAILED: JobState.FAILED,
    wire.JOB_STATE_CANCELLING: JobState.CANCELLING,
    wire.JOB_STATE_CANCELLED: JobState.CANCELLED,
}
_MEMBER_STATES = {
    wire.GangMember.STATE_JOINING: MemberState.JOINING,
    wire.GangMember.STATE_RUNNING: MemberState.RUNNING,
    wire.GangMember.STATE_FINISHED: MemberState.FINISHED,
}


def state_from_proto(state: int) -> JobState:
    """Return a job's state; one that this client does not know yet counts as running."""
    return _STATES.get(state, JobState.RUNNING)  # type: ignore[call-overload, no-any-return]


def metric_from_proto(message: wire.MetricValue) -> Metric:
    """Return a metric."""
    return Metric(
        name=message.name,
        value=message.value if message.HasField("value") else None,
        reason=message.reason,
        entities=message.entities if message.HasField("entities") else None,
        entities_undefined=message.entities_undefined if message.HasField("entities_undefined") else None,
    )


def coordinate_from_proto(message: wire.CoordinateReport) -> CoordinateReport:
    """Return the report of a coordinate."""
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
        shrinkage=tuple(map(shrinkage_from_proto, message.shrinkage)),
    )


def shrinkage_from_proto(message: wire.GroupShrinkage) -> GroupShrinkage:
    """Return what is known of a group of coefficients."""
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


def published_from_proto(message: wire.Published) -> Published:
    """Return where a model went."""
    return Published(
        store=message.store,
        version=message.version,
        activated=message.activated,
        winner=message.winner if message.HasField("winner") else None,
        directory=message.directory,
        content_digest=message.content_digest,
    )


def fit_from_proto(message: wire.FitProgress) -> FitProgress:
    """Return how far the fit of a plug-in is."""
    return FitProgress(
        step=message.step,
        steps=message.steps,
        rows=message.rows,
        loss=message.loss if message.HasField("loss") else None,
        metrics=dict(message.metrics),
        rows_per_second=message.rows_per_second,
    )


def progress_from_proto(message: wire.Progress) -> Progress:
    """Return where a stage stands."""
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
        members=tuple(map(_member_from_proto, message.members)),
        fit=fit_from_proto(message.fit) if message.HasField("fit") else None,
    )


def _member_from_proto(message: wire.GangMember) -> GangMember:
    return GangMember(
        worker_id=message.worker_id,
        state=_MEMBER_STATES.get(message.state, MemberState.RUNNING),
        address=message.address,
    )


def job_from_proto(message: wire.Job) -> Job:
    """Return a job."""
    return Job(
        job_id=message.job_id,
        model=message.model,
        state=state_from_proto(message.state),
        output=message.output,
        error=message.error,
        error_code=message.error_code,
        submitted=message.submitted_unix_seconds,
        started=message.started_unix_seconds or None,
        ended=message.ended_unix_seconds or None,
        progress=progress_from_proto(message.progress) if message.HasField("progress") else None,
        coordinates=tuple(coordinate_from_proto(report) for report in message.coordinates),
        published=published_from_proto(message.published) if message.HasField("published") else None,
        config_json=message.config_json,
        last_sequence=message.last_sequence,
        reproducible=message.reproducible,
        train_rows=message.train_rows,
        validation_rows=message.validation_rows,
    )


def event_from_proto(message: wire.JobEvent) -> JobEvent:
    """Return an event; a kind that this client does not know yet becomes an empty notice."""
    return JobEvent(
        job_id=message.job_id,
        sequence=message.sequence,
        time=message.unix_seconds,
        state=state_from_proto(message.state),
        detail=_detail_from_proto(message),
    )


def _detail_from_proto(message: wire.JobEvent) -> EventDetail:
    kind = message.WhichOneof("event")
    if kind == "progress":
        return progress_from_proto(message.progress)
    if kind == "coordinate":
        return coordinate_from_proto(message.coordinate)
    if kind == "published":
        return published_from_proto(message.published)
    if kind == "state_changed":
        return StateChanged(error=message.state_changed.error, error_code=message.state_changed.error_code)
    return Notice(text=message.notice.text, warning=message.notice.severity == wire.Notice.SEVERITY_WARNING)


def cluster_from_proto(message: wire.Cluster) -> Cluster:
    """Return a coordinator and its workers."""
    workers = tuple(
        Worker(
            worker_id=worker.worker_id,
            host=worker.host,
            pid=worker.pid,
            threads=worker.threads,
            running_units=worker.running_units,
            fingerprint=worker.fingerprint,
            connected=worker.connected_unix_seconds,
        )
        for worker in message.workers
    )
    return Cluster(version=message.version, epoch=message.epoch, workers=workers, store=message.store)


def model_version_from_proto(message: wire.ModelVersion) -> ModelVersion:
    """Return a version in a store."""
    return ModelVersion(
        store=message.store,
        model=message.model,
        version=message.version,
        state=message.state,
        entities=message.entities,
        aliases=tuple(message.aliases),
        manifest_json=message.manifest_json,
    )


def upload_from_proto(message: wire.ScoresUpload) -> ScoresUpload:
    """Return an upload."""
    ready = message.state == wire.UPLOAD_STATE_READY
    return ScoresUpload(
        name=message.name,
        state=UploadState.READY if ready else UploadState.UPLOADING,
        role=message.role,
        format=message.format,
        byte_size=message.byte_size,
        sha256=message.sha256,
        received=message.received,
        created=message.created_unix_seconds,
        rows=message.rows,
        min_score=message.min_score,
        max_score=message.max_score,
        mean_score=message.mean_score,
    )
