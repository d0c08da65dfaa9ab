"""Between the worker's messages and the wire's: one `x_to_proto` or `x_from_proto` for each that crosses."""

from __future__ import annotations

from gdmix_proto.v1 import training_pb2
from gdmix_proto.v1 import worker_pb2 as wire
from gdmix_trainer.messages import (
    AcknowledgeResult,
    AssignUnit,
    DropCache,
    FitProgress,
    GangJoined,
    Heartbeat,
    Incoming,
    Lease,
    Outgoing,
    Register,
    Registered,
    RevokeUnit,
    Shutdown,
    StartGang,
    UnitFailed,
    UnitFinished,
)


def lease_to_proto(lease: Lease) -> wire.Lease:
    """Return a lease as it crosses the wire."""
    return wire.Lease(
        job_id=lease.job_id,
        stage=lease.stage,
        unit=lease.unit,
        attempt=lease.attempt,
        fence=lease.fence,
        epoch=lease.epoch,
    )


def lease_from_proto(lease: wire.Lease) -> Lease:
    """Return a lease that came over the wire."""
    return Lease(lease.job_id, lease.stage, lease.unit, lease.attempt, lease.fence, lease.epoch)


def message_to_proto(message: Outgoing) -> wire.WorkerMessage:
    """Return a worker's message as it crosses the wire."""
    if isinstance(message, Register):
        return wire.WorkerMessage(register=register_to_proto(message))
    if isinstance(message, Heartbeat):
        return wire.WorkerMessage(heartbeat=heartbeat_to_proto(message))
    if isinstance(message, UnitFinished):
        finished = wire.UnitFinished(lease=lease_to_proto(message.lease), result_json=message.result_json)
        return wire.WorkerMessage(unit_finished=finished)
    if isinstance(message, UnitFailed):
        failed = wire.UnitFailed(
            lease=lease_to_proto(message.lease),
            error_code=message.error_code,
            message=message.message,
            retryable=message.retryable,
        )
        return wire.WorkerMessage(unit_failed=failed)
    if isinstance(message, GangJoined):
        joined = wire.GangJoined(lease=lease_to_proto(message.lease), address=message.address)
        return wire.WorkerMessage(gang_joined=joined)
    return wire.WorkerMessage(draining=wire.Draining())


def register_to_proto(message: Register) -> wire.Register:
    """Return a registration as it crosses the wire."""
    identity = message.identity
    return wire.Register(
        worker_id=identity.worker_id,
        host=identity.host,
        pid=identity.pid,
        threads=identity.threads,
        version=identity.version,
        fingerprint=identity.fingerprint,
        fingerprint_parts=dict(identity.fingerprint_parts),
        ready=message.ready,
        held=[lease_to_proto(lease) for lease in message.held],
        data_roots=list(identity.data_roots),
    )


def fit_to_proto(fit: FitProgress) -> training_pb2.FitProgress:
    """Return how far a fit is."""
    return training_pb2.FitProgress(
        step=fit.step,
        steps=fit.steps,
        rows=fit.rows,
        loss=fit.loss,
        metrics=fit.metrics,
        rows_per_second=fit.rows_per_second,
    )


def heartbeat_to_proto(message: Heartbeat) -> wire.Heartbeat:
    """Return a heartbeat as it crosses the wire."""
    running = [
        wire.UnitProgress(
            lease=lease_to_proto(unit.lease),
            rows_done=unit.rows_done,
            entities_done=unit.entities_done,
            fit=fit_to_proto(unit.fit) if unit.fit is not None else None,
        )
        for unit in message.running
    ]
    return wire.Heartbeat(ready=message.ready, running=running)


def message_from_proto(message: wire.CoordinatorMessage) -> Incoming | None:
    """Return a coordinator's message; None for a kind that this version does not know."""
    match message.WhichOneof("message"):
        case "registered":
            answer = message.registered
            return Registered(answer.epoch, answer.heartbeat_seconds, answer.lease_seconds)
        case "assign_unit":
            unit = message.assign_unit
            return AssignUnit(lease_from_proto(unit.lease), unit.kind, unit.task_json, unit.gang_size)
        case "start_gang":
            gang = message.start_gang
            return StartGang(lease_from_proto(gang.lease), tuple(gang.addresses))
        case "revoke_unit":
            return RevokeUnit(lease_from_proto(message.revoke_unit.lease))
        case "acknowledge_result":
            result = message.acknowledge_result
            return AcknowledgeResult(lease_from_proto(result.lease), result.accepted)
        case "drop_cache":
            return DropCache(message.drop_cache.prefix)
        case "shutdown":
            return Shutdown(message.shutdown.reason)
    return None
