"""Tokens, TLS, and what errors show on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gdmix_core.errors import UsageError, catalog
from gdmix_core.security import bearer_metadata
from gdmix_proto.v1 import training_pb2, training_pb2_grpc, worker_pb2
from gdmix_server.server import Coordinator, ServerSettings, TlsFiles

TRAIN, WORKER, ADMIN = "train-token-0123456", "worker-token-012345", "admin-token-0123456"
CERTIFICATES = Path(__file__).parent / "certificates"
CLUSTER = training_pb2.GetClusterRequest()


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"train {TRAIN}\nworker {WORKER}\nadmin {ADMIN}\n")
    return path


def test_every_service_wants_its_role(tiny, state_dir, token_file):
    async def run():
        async with tiny.running(state_dir, token_file=token_file) as cluster:
            stub = cluster.client.stub
            clients = [
                await tiny.refusal(stub.GetCluster(CLUSTER)),
                await tiny.refusal(
                    stub.GetCluster(CLUSTER, metadata=bearer_metadata("wrong-token-01234567"))
                ),
                await tiny.refusal(stub.GetCluster(CLUSTER, metadata=bearer_metadata(WORKER))),
            ]
            for token in (TRAIN, ADMIN):
                assert (await stub.GetCluster(CLUSTER, metadata=bearer_metadata(token))).epoch == 1
            workers = []
            for token in (None, TRAIN):
                worker = cluster.worker(metadata=bearer_metadata(token))
                worker.open()
                workers.append(await worker.ended())
            await cluster.worker(metadata=bearer_metadata(WORKER)).register()
            health = health_pb2_grpc.HealthStub(cluster.channel())
            checked = await health.Check(health_pb2.HealthCheckRequest(service="gdmix.v1.TrainingService"))
            return clients, workers, checked.status

    clients, workers, health = asyncio.run(run())
    assert {(status.name, code) for status, _, code in clients} == {("PERMISSION_DENIED", "not_permitted")}
    assert "a token is needed" in clients[0][1]
    assert "lacks the role train" in clients[2][1]
    assert {status.name for status in workers} == {"PERMISSION_DENIED"}
    assert health == health_pb2.HealthCheckResponse.SERVING


RPCS = {
    method.full_name: method
    for contract in (training_pb2, worker_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OTHERS_TOKEN = {"TrainingService": WORKER, "WorkerService": TRAIN}
OWN_TOKEN = {"TrainingService": TRAIN, "WorkerService": WORKER}


@pytest.mark.parametrize("name", RPCS)
def test_every_rpc_wants_its_role_and_answers_in_the_words_of_the_catalog(tiny, state_dir, token_file, name):
    """Called with an empty message, or with none where messages are streamed: no RPC is left out or open."""
    method = RPCS[name]
    service = method.containing_service.name

    async def call(channel, token):
        coders = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": lambda data: data,
        }
        kind = f"{_ways(method.client_streaming)}_{_ways(method.server_streaming)}"
        make = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}", **coders)
        request = iter([]) if method.client_streaming else method.input_type._concrete_class()
        calling = make(request, metadata=bearer_metadata(token), timeout=tiny.patience)
        if method.server_streaming:
            async for _ in calling:
                pass
        else:
            await calling

    async def run():
        async with tiny.running(state_dir, token_file=token_file) as cluster:
            channel = cluster.channel()
            refused = [await tiny.refusal(call(channel, t)) for t in (None, OTHERS_TOKEN[service])]
            try:
                await call(channel, OWN_TOKEN[service])
            except grpc.aio.AioRpcError as error:
                codes = dict(error.trailing_metadata() or ())
                return refused, codes.get("gdmix-error-code", error.code().name)
            return refused, "ok"

    refused, answer = asyncio.run(run())
    assert {(status.name, code) for status, _, code in refused} == {("PERMISSION_DENIED", "not_permitted")}
    assert answer in {"ok", "usage", "config", "not_found", "stale_lease"}


def _ways(streaming):
    return "stream" if streaming else "unary"


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tiny, state_dir, token_file, mutual):
    authority, certificate, key = (
        (CERTIFICATES / name).read_bytes() for name in ("authority.pem", "client.pem", "client-key.pem")
    )
    files = TlsFiles(
        certificate=CERTIFICATES / "server.pem",
        key=CERTIFICATES / "server-key.pem",
        client_ca=CERTIFICATES / "authority.pem" if mutual else None,
    )

    async def call(credentials, port):
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            stub = training_pb2_grpc.TrainingServiceStub(channel)
            return await stub.GetCluster(CLUSTER, metadata=bearer_metadata(TRAIN), timeout=tiny.patience)

    async def run():
        async with tiny.running(state_dir, token_file=token_file, tls=files, host="0.0.0.0") as cluster:
            port = cluster.coordinator.port
            own = grpc.ssl_channel_credentials(authority, key, certificate)
            assert (await call(own, port)).epoch == 1
            bare = grpc.ssl_channel_credentials(authority)
            if not mutual:
                assert (await call(bare, port)).epoch == 1
                return grpc.StatusCode.UNAVAILABLE
            return (await tiny.refusal(call(bare, port)))[0]

    assert asyncio.run(run()) is grpc.StatusCode.UNAVAILABLE


def test_a_coordinator_that_others_reach_must_be_protected(state_dir, token_file):
    for settings in ({}, {"token_file": token_file}):
        with pytest.raises(UsageError, match="can be reached from other machines"):
            Coordinator(ServerSettings(state_dir=state_dir, host="0.0.0.0", **settings))
    Coordinator(ServerSettings(state_dir=state_dir, host="0.0.0.0", insecure=True))
    tls = TlsFiles(certificate=Path("/nowhere.pem"), key=CERTIFICATES / "server-key.pem")
    with pytest.raises(UsageError, match=r"--tls-cert /nowhere\.pem: cannot be read"):
        Coordinator(ServerSettings(state_dir=state_dir, tls=tls))
    assert not state_dir.exists()


def test_a_port_that_is_taken_is_refused(tiny, state_dir, tmp_path):
    async def run():
        async with tiny.running(state_dir) as cluster:
            port = cluster.coordinator.port
            second = Coordinator(
                ServerSettings(state_dir=tmp_path / "other", port=port), lambda job: iter(())
            )
            with pytest.raises(Exception, match="cannot listen on") as caught:
                await second.start()
            return caught.value.exit_code

    assert asyncio.run(run()) == 3


def test_a_fault_shows_an_incident_number_and_nothing_else(tiny, state_dir, monkeypatch, caplog):
    async def run():
        async with tiny.running(state_dir) as cluster:
            monkeypatch.setattr(cluster.coordinator._interpreter, "workers", lambda: 1 / 0)
            return await tiny.refusal(cluster.client.stub.GetCluster(CLUSTER))

    status, message, code = asyncio.run(run())
    assert (status, code) == (grpc.StatusCode.INTERNAL, "internal")
    assert "incident" in message
    assert "division" not in message
    incident = message.split()[-1]
    (record,) = [record for record in caplog.records if getattr(record, "incident", None) == incident]
    assert "ZeroDivisionError" in record.exc_text or record.exc_info


def test_every_error_of_the_catalog_has_a_status():
    for kind in catalog().values():
        assert grpc.StatusCode[kind.status] is not grpc.StatusCode.OK


def test_reflection_names_the_services(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            stub = reflection_pb2_grpc.ServerReflectionStub(cluster.channel())
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            answer = await call.read()
            return {service.name for service in answer.list_services_response.service}

    assert asyncio.run(run()) >= {
        "gdmix.v1.TrainingService",
        "gdmix.v1.WorkerService",
        "grpc.health.v1.Health",
    }
