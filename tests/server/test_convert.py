"""Messages and domain words: what goes out comes back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gdmix_core.errors import UsageError
from gdmix_core.tasks import RemoveWork, task_from_json
from gdmix_proto.v1 import training_pb2, worker_pb2
from gdmix_server import convert
from gdmix_server.jobs import JobView
from gdmix_server.sessions import Farewell
from gdmix_server.state.events import (
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
    JobEvent,
    JobRow,
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

LEASE = Lease(job_id="j", stage="s", unit=3, attempt=2, fence=(7 << 32) | 5, epoch=7)
METRICS = (
    Metric(name="auc", value=0.0),
    Metric(name="auc:user", value=0.71, entities=9, entities_undefined=0),
    Metric(name="aupr", value=None, reason="all labels are 0"),
)
REPORT = CoordinateReport(
    name="per_user",
    kind="random_effect",
    what="user_id",
    pass_number=2,
    entities=943,
    rows=80_000,
    coefficients=20_000,
    unconverged=1,
    statuses={"converged": 942, "max_iterations": 1},
    iterations=9,
    seconds=1.5,
    validation=METRICS,
    kept=True,
)
PROGRESS = Progress(
    stage="fit",
    coordinate="global",
    pass_number=1,
    units_done=1,
    units_total=3,
    rows_done=10,
    entities_done=2,
    round_number=4,
    stage_seconds=0.5,
    objective=-1.5,
    gradient_ratio=math.inf,
    members=tuple(
        GangMember(worker_id="w", state=state, address="" if state is MemberState.JOINING else "h:1")
        for state in MemberState
    ),
)
FIT = FitProgress(step=3, steps=9, rows=70, loss=0.25, metrics={"auc": 0.5}, rows_per_second=10.5)
PUBLISHED = Published(
    store="lmdb:/s", version=3, activated=False, winner=4, directory="/o/models/3", content_digest="ab"
)
WORKER = WorkerInfo(
    worker_id="w",
    host="h",
    pid=4,
    threads=2,
    version="0.1.0",
    fingerprint="f",
    fingerprint_parts={"numpy": "2", "scipy": "1"},
    ready=True,
    data_roots=("/d",),
)
REGISTER = worker_pb2.Register(
    worker_id="w",
    host="h",
    pid=4,
    threads=2,
    version="0.1.0",
    fingerprint="f",
    fingerprint_parts={"scipy": "1", "numpy": "2"},
    ready=True,
    held=[convert.lease_to_proto(LEASE)],
    data_roots=["/d"],
)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics(metric):
    assert convert.metric_from_proto(convert.metric_to_proto(metric)) == metric


def test_coordinates_progress_and_publications():
    assert convert.coordinate_from_proto(convert.coordinate_to_proto(REPORT)) == REPORT
    for progress in (PROGRESS, replace(PROGRESS, fit=FIT), replace(PROGRESS, fit=replace(FIT, loss=None))):
        assert convert.progress_from_proto(convert.progress_to_proto(progress)) == progress
    for published in (
        PUBLISHED,
        Published(store="s", version=1, activated=True, winner=None, directory="", content_digest=""),
    ):
        assert convert.published_from_proto(convert.published_to_proto(published)) == published


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize(
    "what",
    [
        {},
        {"error": "no", "error_code": "data"},
        {"progress": PROGRESS},
        {"coordinate": REPORT},
        {"notice": "a worker is lost", "warning": True},
        {"notice": "rows without an entity"},
        {"published": PUBLISHED},
    ],
)
def test_events(state, what):
    event = JobEvent(job_id="j", sequence=5, time=1.25, state=state, **what)
    message = convert.event_to_proto(event)
    assert convert.event_from_proto(training_pb2.JobEvent.FromString(message.SerializeToString())) == event


def test_every_state_has_a_number():
    numbers = {
        convert.event_to_proto(JobEvent(job_id="j", sequence=1, time=0.0, state=state)).state
        for state in JobState
    }
    assert numbers == set(training_pb2.JobState.values()) - {0}


def test_jobs():
    row = JobRow(
        job_id="j",
        request_id="r",
        config_json="{}",
        model="m",
        output="/o",
        state=JobState.RUNNING,
        submitted=1.0,
        started=2.0,
        last_sequence=9,
        reproducible=False,
        train_rows=10,
        validation_rows=5,
        coordinates=(REPORT,),
        published=PUBLISHED,
    )
    message = convert.job_to_proto(JobView(row, PROGRESS))
    assert (message.job_id, message.state, message.ended_unix_seconds) == (
        "j",
        training_pb2.JOB_STATE_RUNNING,
        0.0,
    )
    assert message.coordinates[0].name == "per_user"
    assert message.published.winner == 4
    assert message.progress.round == 4
    assert not convert.job_to_proto(JobView(row, None)).HasField("progress")
    assert not message.reproducible


def test_leases_and_workers():
    assert convert.lease_from_proto(convert.lease_to_proto(LEASE)) == LEASE
    assert convert.worker_info_from_proto(REGISTER) == WORKER
    view = WorkerView(info=WORKER, connected_since=3.0, running=1, connected=True)
    assert convert.worker_view_to_proto(view) == training_pb2.Worker(
        worker_id="w",
        host="h",
        pid=4,
        threads=2,
        running_units=1,
        fingerprint="f",
        connected_unix_seconds=3.0,
    )


@pytest.mark.parametrize(
    "register",
    [
        worker_pb2.Register(threads=1),
        worker_pb2.Register(worker_id="x" * 129, threads=1),
        worker_pb2.Register(worker_id="a\nb", threads=1),
        worker_pb2.Register(worker_id="w", threads=0),
        worker_pb2.Register(worker_id="w", threads=5000),
    ],
)
def test_registrations_that_make_no_sense(register):
    with pytest.raises(UsageError):
        convert.worker_info_from_proto(register)


def test_what_workers_say():
    lease = convert.lease_to_proto(LEASE)
    fit = convert.fit_to_proto(FIT)
    progress = [worker_pb2.UnitProgress(lease=lease, rows_done=5, entities_done=1, fit=fit)] * 2
    common = {"now": 1.0, "worker_id": "w"}
    said = {
        "register": (
            REGISTER,
            WorkerConnected(now=1.0, worker=WORKER, session=8, held=(LEASE,)),
        ),
        "heartbeat": (
            worker_pb2.Heartbeat(ready=True, running=progress),
            WorkerHeartbeat(**common, session=8, ready=True, rows_done=10, entities_done=2, fit=FIT),
        ),
        "unit_finished": (
            worker_pb2.UnitFinished(lease=lease, result_json="{}"),
            UnitFinished(**common, lease=LEASE, result_json="{}"),
        ),
        "unit_failed": (
            worker_pb2.UnitFailed(lease=lease, error_code="data", message="no", retryable=True),
            UnitFailed(**common, lease=LEASE, error_code="data", message="no", retryable=True),
        ),
        "gang_joined": (
            worker_pb2.GangJoined(lease=lease, address="10.0.0.1:4000"),
            GangJoined(**common, lease=LEASE, address="10.0.0.1:4000"),
        ),
        "draining": (worker_pb2.Draining(), WorkerDraining(**common, session=8)),
    }
    fields = worker_pb2.WorkerMessage.DESCRIPTOR.oneofs_by_name["message"].fields
    assert set(said) == {field.name for field in fields}
    for name, (message, event) in said.items():
        found = convert.worker_event_from_proto(
            worker_pb2.WorkerMessage(**{name: message}), now=1.0, worker_id="w", session=8
        )
        assert found == event
    with pytest.raises(UsageError, match="empty or unknown"):
        convert.worker_event_from_proto(worker_pb2.WorkerMessage(), now=1.0, worker_id="w", session=8)


@pytest.mark.parametrize(
    "address", ["", "h", "h:", ":80", "h:0", "h:65536", "h:x", "a\nb:80", f"{'h' * 300}:80", "h:-1"]
)
def test_addresses_of_members_that_make_no_sense(address):
    joined = worker_pb2.GangJoined(lease=convert.lease_to_proto(LEASE), address=address)
    message = worker_pb2.WorkerMessage(gang_joined=joined)
    with pytest.raises(UsageError, match="HOST:PORT is allowed"):
        convert.worker_event_from_proto(message, now=1.0, worker_id="w", session=8)


@pytest.mark.parametrize("address", ["10.0.0.1:4000", "worker-1.cluster:1", "[::1]:65535"])
def test_addresses_of_members(address):
    joined = worker_pb2.GangJoined(lease=convert.lease_to_proto(LEASE), address=address)
    message = worker_pb2.WorkerMessage(gang_joined=joined)
    event = convert.worker_event_from_proto(message, now=1.0, worker_id="w", session=8)
    assert event == GangJoined(now=1.0, worker_id="w", lease=LEASE, address=address)


def test_what_workers_hear():
    task = RemoveWork(output="/o", directory="/d")
    told = [
        AcceptWorker(worker_id="w", session=1),
        SendTask(worker_id="w", session=1, lease=LEASE, task=task, gang_size=3),
        StartGang(worker_id="w", session=1, lease=LEASE, addresses=("h:1", "i:2", "j:3")),
        RevokeLease(worker_id="w", session=1, lease=LEASE),
        Acknowledge(worker_id="w", lease=LEASE, accepted=True),
        DropCache(worker_id="w", prefix="j/s"),
        Farewell("bye"),
    ]
    messages = [
        convert.outgoing_to_proto(message, epoch=7, heartbeat_seconds=1.0, lease_seconds=15.0)
        for message in told
    ]
    fields = worker_pb2.CoordinatorMessage.DESCRIPTOR.oneofs_by_name["message"].fields
    assert {message.WhichOneof("message") for message in messages} == {field.name for field in fields}
    registered, assigned, started, *_, bye = messages
    assert (registered.registered.epoch, registered.registered.lease_seconds) == (7, 15.0)
    assert task_from_json(assigned.assign_unit.kind, assigned.assign_unit.task_json) == task
    assert convert.lease_from_proto(assigned.assign_unit.lease) == LEASE
    assert assigned.assign_unit.gang_size == 3
    assert started.start_gang == worker_pb2.StartGang(
        lease=convert.lease_to_proto(LEASE), addresses=["h:1", "i:2", "j:3"]
    )
    assert bye.shutdown.reason == "bye"


def test_model_versions():
    version = ModelVersion(
        store="s", model="m", version=2, state="active", manifest_json="{}", aliases=("prod",), entities=7
    )
    assert convert.model_version_to_proto(version) == training_pb2.ModelVersion(
        store="s", model="m", version=2, state="active", manifest_json="{}", aliases=["prod"], entities=7
    )
