"""Model versions through the coordinator, in a real embedded store."""

from __future__ import annotations

import asyncio

import pytest

from gdmix_core.store import open_store
from gdmix_proto.v1 import training_pb2


@pytest.fixture
def store(tmp_path):
    """A store with two versions of model `tiny`; the second one is active."""
    url = f"lmdb:{tmp_path / 'store'}"
    with open_store(url) as opened:
        for number in (1, 2):
            ticket = opened.begin_version("tiny")
            assert ticket.version == number
            opened.finish(ticket, [], b'{"number": %d}' % number, {}, schema=1)
            opened.activate("tiny", number, expected_active=ticket.active)
    return url


def test_list_get_activate_delete(tiny, state_dir, store):
    async def run():
        async with tiny.running(state_dir) as cluster:
            stub = cluster.client.stub
            listed = (await stub.ListModels(training_pb2.ListModelsRequest(store=store))).versions
            named = training_pb2.ListModelsRequest(store=store, model="tiny")
            assert (await stub.ListModels(named)).versions == listed
            active = await stub.GetModel(training_pb2.GetModelRequest(store=store, model="tiny"))
            first = training_pb2.GetModelRequest(store=store, model="tiny", version=1)
            rolled_back = await stub.ActivateModel(
                training_pb2.ActivateModelRequest(store=store, model="tiny", version=1)
            )
            now = await stub.GetModel(first)
            delete = training_pb2.DeleteModelRequest
            refused = await tiny.refusal(stub.DeleteModel(delete(store=store, model="tiny", version=1)))
            await stub.DeleteModel(delete(store=store, model="tiny", version=2))
            left = (await stub.ListModels(named)).versions
            return listed, active, rolled_back, now, refused, left

    listed, active, rolled_back, now, refused, left = asyncio.run(run())
    assert [(entry.version, entry.state) for entry in listed] == [(2, "active"), (1, "superseded")]
    assert (active.version, active.manifest_json) == (2, '{"number": 2}')
    assert (rolled_back.version, rolled_back.state) == (1, "active")
    assert (now.state, now.manifest_json) == ("active", '{"number": 1}')
    assert refused[2] == "conflict"
    assert [entry.version for entry in left] == [1]


def test_without_a_store_the_default_and_those_of_jobs_are_looked_into(tiny, state_dir, store, tmp_path):
    async def run():
        absent = f"lmdb:{tmp_path / 'absent'}"
        async with tiny.running(state_dir, store=absent) as cluster:
            stub = cluster.client.stub
            before = (await stub.ListModels(training_pb2.ListModelsRequest())).versions
            await cluster.client.submit("one", store=store)
            await cluster.client.submit("two", store="redis://127.0.0.1:1/0")
            after = (await stub.ListModels(training_pb2.ListModelsRequest())).versions
            return before, after

    before, after = asyncio.run(run())
    assert list(before) == []
    assert [(entry.store, entry.version) for entry in after] == [(store, 2), (store, 1)]


def test_a_model_is_found_where_a_job_put_it(tiny, state_dir, store):
    async def run():
        async with tiny.running(state_dir) as cluster:
            get = training_pb2.GetModelRequest(model="tiny")
            unknown = await tiny.refusal(cluster.client.stub.GetModel(get))
            await cluster.client.submit("one", store=store)
            return unknown, await cluster.client.stub.GetModel(get)

    unknown, found = asyncio.run(run())
    assert unknown[2] == "not_found"
    assert found.version == 2


def test_requests_that_cannot_be_answered(tiny, state_dir, store, tmp_path):
    async def run():
        async with tiny.running(state_dir, data_roots=(str(tmp_path),)) as cluster:
            stub = cluster.client.stub
            get, activate = training_pb2.GetModelRequest, training_pb2.ActivateModelRequest
            return [
                await tiny.refusal(stub.GetModel(get(store=store, model="tiny", version=9))),
                await tiny.refusal(stub.GetModel(get(store=store, model="other"))),
                await tiny.refusal(stub.ActivateModel(activate(store=store, model="tiny", version=9))),
                await tiny.refusal(stub.GetModel(get(store="lmdb:/etc", model="tiny"))),
                await tiny.refusal(stub.GetModel(get(store="ftp://x", model="tiny"))),
                await tiny.refusal(
                    stub.ListModels(training_pb2.ListModelsRequest(store="redis://127.0.0.1:1/0"))
                ),
                await tiny.refusal(stub.GetModel(get())),
            ]

    refusals = asyncio.run(run())
    assert [code for _, _, code in refusals] == [
        "not_found",
        "not_found",
        "not_found",
        "not_permitted",
        "usage",
        "store_unavailable",
        "usage",
    ]
