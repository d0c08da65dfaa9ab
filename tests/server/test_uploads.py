"""Uploads: what is kept of files that come in whole, in parts, twice at once, or wrong; over the wire and without."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import sys

import grpc
import grpc.aio
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.arrays import MAX_CHUNK_BYTES
from gdmix_core.errors import (
    Conflict,
    DataError,
    InternalError,
    NotFound,
    Overloaded,
    Unavailable,
    UsageError,
)
from gdmix_proto.v1 import training_pb2, training_pb2_grpc
from gdmix_server.uploads import FORBIDDEN_ENDINGS, FORMATS, UploadHeader, Uploads, check, directory

PATIENCE_SECONDS = 30.0


def parquet(uid=(1, 2, 3), score=(0.5, -1.5, 4.0)):
    """Return scores as the bytes of a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"uid": np.asarray(uid, np.int64), "score": np.asarray(score, float)}), stream)
    return stream.getvalue()


GOOD = parquet()
OTHER = parquet([7, 8], [1.0, 2.0])
UNSAFE = GOOD.replace(b"\x15\x04\x25\x02\x18\x03uid", b"\x15\x04\x25\x00\x18\x03uid")
"""Says that no uid is null where statistics count nulls: Arrow 26 ends the process that reads it."""


def header(data=GOOD, **changes):
    """Return the header of a file."""
    facts = {"name": "dnn", "format": "parquet", "byte_size": len(data)}
    return UploadHeader(**(facts | {"sha256": hashlib.sha256(data).hexdigest()} | changes))


async def chunks(data, size=100):
    """Yield a file's bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Sender:
    """Sends bytes, says that all are taken, and waits to be let go."""

    def __init__(self, data):
        self.data = data
        self.taken, self.go = asyncio.Event(), asyncio.Event()

    async def __aiter__(self):
        async for chunk in chunks(self.data):
            yield chunk
        self.taken.set()
        await self.go.wait()

    async def start(self, uploads, said):
        """Return the task of an upload whose bytes have been taken."""
        task = asyncio.create_task(uploads.receive(said, self))
        await asyncio.wait_for(self.taken.wait(), PATIENCE_SECONDS)
        return task


def send(uploads, data=GOOD, **changes):
    """Upload a file."""
    offset = changes.get("offset", 0)
    return uploads.receive(header(data, **changes), chunks(data[offset:]))


def files(uploads):
    """Return the names of all files below the directory of uploads."""
    home = uploads._directory
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


async def refused(call, kind, said):
    """Await a call that must fail."""
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert said in str(caught.value)


async def break_off(uploads, data=GOOD, at=250, **changes):
    """Upload the beginning of a file; then the sender goes away."""
    task = await Sender(data[:at]).start(uploads, header(data, **changes))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a coroutine function with uploads in a directory, and closes them."""

    def run_it(function, **settings):
        async def inner():
            uploads = Uploads(tmp_path / "uploads", **settings)
            uploads.clean()
            try:
                return await asyncio.wait_for(function(uploads), 2 * PATIENCE_SECONDS)
            finally:
                uploads.end(Unavailable("over"))
                await uploads.close()

        return asyncio.run(inner())

    return run_it


# ---- whole files -----------------------------------------------------------------------------------------


def test_a_file_becomes_scores_under_a_name(run):
    async def test(uploads):
        done = await send(uploads, role="validation")
        assert (done.name, done.role, done.format, done.ready) == ("dnn", "validation", "parquet", True)
        assert (done.rows, done.min_score, done.max_score, done.mean_score) == (3, -1.5, 4.0, 1.0)
        assert done.received == done.byte_size == len(GOOD)
        assert uploads.get("dnn") == done
        assert uploads.listed() == [done]
        assert files(uploads) == ["dnn", "dnn/scores.parquet", "dnn/upload.json"]
        table = pq.read_table(uploads.path_of("dnn"))
        assert table.to_pydict() == {"uid": [1, 2, 3], "score": [0.5, -1.5, 4.0]}

    run(test)


def test_columns_and_formats_are_those_of_the_header(run):
    async def test(uploads):
        text = b"id,value\n4,0.25\n"
        done = await send(uploads, text, format="csv", uid_column="id", score_column="value")
        assert (done.rows, done.format) == (1, "csv")
        await refused(send(uploads, text, name="b", format="csv"), DataError, "column 'uid' is missing")

    run(test)


def test_scores_give_way_only_when_told_to(run):
    async def test(uploads):
        first = await send(uploads)
        await refused(send(uploads, OTHER), Conflict, "is there already; replace it")
        assert uploads.get("dnn") == first
        second = await send(uploads, OTHER, replace=True)
        assert uploads.listed() == [second]
        assert pq.read_table(uploads.path_of("dnn"))["uid"].to_pylist() == [7, 8]
        assert files(uploads) == ["dnn", "dnn/scores.parquet", "dnn/upload.json"]

    run(test)


def test_a_bad_replacement_changes_nothing(run):
    async def test(uploads):
        first = await send(uploads)
        bad = parquet([1, 1], [0.5, 0.5])
        await refused(send(uploads, bad, replace=True), DataError, "row 2 has uid 1 of row 1 again")
        await refused(send(uploads, OTHER, replace=True, sha256="0" * 64), DataError, "sha256")
        assert uploads.listed() == [first]
        assert pq.read_table(uploads.path_of("dnn"))["uid"].to_pylist() == [1, 2, 3]
        assert files(uploads) == ["dnn", "dnn/scores.parquet", "dnn/upload.json"]

    run(test)


def test_deleting(run):
    async def test(uploads):
        await send(uploads)
        await break_off(uploads, OTHER, name="other")
        await uploads.delete("dnn")
        await uploads.delete("other")
        assert files(uploads) == []
        await refused(uploads.delete("dnn"), NotFound, "there is no upload 'dnn'")

    run(test)


def test_what_is_not_there_is_said_with_what_is(run):
    async def test(uploads):
        with pytest.raises(NotFound, match="uploads that are there: none"):
            uploads.path_of("dnn")
        await send(uploads, name="b")
        await send(uploads, name="a")
        for name in ("dnn", "../a", ""):
            with pytest.raises(NotFound, match=r"there: a, b$"):
                uploads.path_of(name)
        with pytest.raises(NotFound, match="of a file with sha256 00"):
            uploads.get("a", "00")
        await break_off(uploads, name="c")
        with pytest.raises(NotFound, match="'c' is not complete yet"):
            uploads.path_of("c")

    run(test)


# ---- headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "upload '' is not a name"),
        ({"name": "../x"}, "upload '../x' is not a name"),
        ({"name": "a/b"}, "is not a name"),
        ({"name": ".hidden"}, "is not a name"),
        ({"name": "x" * 65}, "is not a name"),
        *(({"name": f"x{ending}"}, "it ends like a file's") for ending in (*FORBIDDEN_ENDINGS, ".CSV")),
        ({"format": "jsonl"}, "format: found 'jsonl'; allowed are 'parquet', 'avro', 'csv'"),
        ({"role": "test"}, "role: found 'test'; allowed are '', 'train', 'validation'"),
        ({"uid_column": ""}, "uid_column: allowed are 1 to 256"),
        ({"score_column": "a\n"}, "score_column: allowed are 1 to 256"),
        ({"sha256": "00"}, "sha256: found '00'; allowed are 64"),
        ({"byte_size": 0}, "byte_size: found 0"),
        ({"byte_size": 10_001}, "byte_size: found 10001; allowed are 1 to 10000 bytes"),
        ({"offset": -1}, "offset: found -1; allowed are 0 to"),
        ({"byte_size": 9, "offset": 10}, "offset: found 10; allowed are 0 to 9"),
    ],
)
def test_headers_that_make_no_sense(run, changes, said):
    async def test(uploads):
        await refused(send(uploads, **changes), UsageError, said)
        assert files(uploads) == []

    run(test, max_bytes=10_000)


# ---- bytes that are not those of the header --------------------------------------------------------------


def test_a_wrong_checksum(run):
    async def test(uploads):
        await refused(send(uploads, sha256="a" * 64), DataError, f"not {'a' * 64} as the header says")
        assert files(uploads) == []
        assert (await send(uploads, sha256=header().sha256.upper())).ready

    run(test)


def test_more_bytes_than_the_header_says(run):
    async def test(uploads):
        await refused(send(uploads, byte_size=len(GOOD) - 1), DataError, f"at least {len(GOOD)} bytes")
        assert files(uploads) == []

    run(test)


def test_fewer_bytes_than_the_header_says_are_an_unfinished_upload(run):
    """To the coordinator a connection that breaks can look like one that ends."""

    async def test(uploads):
        sending = uploads.receive(header(), chunks(GOOD[:-1]))
        with pytest.raises(DataError, match=f"only {len(GOOD) - 1} bytes were sent, which are kept"):
            await sending
        with pytest.raises(NotFound):
            uploads.path_of("dnn")
        assert (await send(uploads, offset=len(GOOD) - 1)).ready

    run(test)


def test_a_chunk_that_is_too_large(run):
    async def test(uploads):
        data = bytes(MAX_CHUNK_BYTES + 1)
        sending = uploads.receive(header(data), chunks(data, len(data)))
        await refused(sending, DataError, "allowed are at most 4194304")
        assert files(uploads) == []

    run(test)


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_of_no_format(run, form):
    async def test(uploads):
        await refused(send(uploads, b"\xff\xfe" * 500, format=form), DataError, "upload 'dnn'")
        assert files(uploads) == []

    run(test)


def test_a_file_that_is_cut_short(run):
    async def test(uploads):
        await refused(send(uploads, GOOD[:-20]), DataError, "cut short")
        assert files(uploads) == []

    run(test)


def test_too_many_rows(run):
    async def test(uploads):
        await refused(send(uploads), DataError, "holds 3 rows; allowed are at most 2")
        assert files(uploads) == []
        assert (await send(uploads, OTHER)).rows == 2

    run(test, max_rows=2)


def test_a_file_that_ends_its_reader_ends_nobody_else(run):
    assert UNSAFE != GOOD

    async def test(uploads):
        await refused(send(uploads, UNSAFE), DataError, "upload 'dnn'")
        assert files(uploads) == []
        assert (await send(uploads)).ready

    run(test)


@pytest.mark.parametrize(
    ("end", "kind", "said", "kept"),
    [
        ("os.abort()", DataError, "it is damaged", False),
        ("os.kill(os.getpid(), 9)", InternalError, "the check failed", True),
        ("raise ValueError", InternalError, "the check failed", True),
    ],
)
def test_a_check_that_dies(run, monkeypatch, end, kind, said, kept):
    monkeypatch.setattr(check, "CHECK_COMMAND", (sys.executable, "-c", f"import os; {end}"))

    async def test(uploads):
        await refused(send(uploads), kind, said)
        assert [upload.received for upload in uploads.listed()] == [len(GOOD)] * kept
        monkeypatch.undo()
        assert (await send(uploads, offset=len(GOOD) * kept)).ready

    run(test)


def test_a_disk_without_room(run, monkeypatch):
    async def test(uploads):
        with monkeypatch.context() as patch:
            patch.setattr(directory, "_FREE_BYTES", 1 << 60)
            await refused(send(uploads), Overloaded, "has no room for")
        assert files(uploads) == []
        assert (await send(uploads)).ready

    run(test)


# ---- in parts --------------------------------------------------------------------------------------------


def test_a_broken_upload_goes_on_where_it_ends(run):
    async def test(uploads):
        await break_off(uploads)
        there = uploads.get("dnn", header().sha256)
        assert (there.ready, there.received, there.byte_size) == (False, 250, len(GOOD))
        await refused(send(uploads, offset=249), Conflict, "250 bytes are there, so allowed are 0 and 250")
        await break_off(uploads, at=len(GOOD) - 5)  # from the beginning again
        assert uploads.get("dnn").received == len(GOOD) - 5
        assert (await send(uploads, offset=len(GOOD) - 5)).rows == 3
        assert files(uploads) == ["dnn", "dnn/scores.parquet", "dnn/upload.json"]

    run(test)


def test_it_goes_on_in_another_process(run):
    async def first(uploads):
        await break_off(uploads)

    async def second(uploads):
        assert uploads.get("dnn").received == 250
        assert (await send(uploads, offset=250)).ready

    run(first)
    run(second)


def test_only_the_same_file_goes_on(run):
    async def test(uploads):
        await break_off(uploads)
        await refused(send(uploads, OTHER, offset=250), Conflict, "0 bytes are there")
        assert uploads.get("dnn").received == 250
        await break_off(uploads, OTHER, at=100)
        assert [upload.sha256 for upload in uploads.listed()] == [header(OTHER).sha256]
        await refused(send(uploads, offset=250), Conflict, "0 bytes are there")

    run(test)


def test_a_part_that_was_changed_is_noticed(run):
    async def test(uploads):
        await break_off(uploads)
        (part,) = (path for path in uploads._directory.glob("dnn/partial-*") if path.suffix != ".json")
        part.write_bytes(bytes(250))
        await refused(send(uploads, offset=250), DataError, "sha256")
        assert files(uploads) == []

    run(test)


def test_a_replacement_in_parts_leaves_the_scores_until_it_is_complete(run):
    async def test(uploads):
        first = await send(uploads)
        await break_off(uploads, OTHER, replace=True)
        assert uploads.get("dnn") == first
        assert uploads.get("dnn", header(OTHER).sha256).received == 250
        assert [upload.ready for upload in uploads.listed()] == [True, False]
        assert (await send(uploads, OTHER, replace=True, offset=250)).rows == 2

    run(test)


def test_the_end_of_the_coordinator_keeps_what_came(run):
    async def first(uploads):
        sending = await Sender(GOOD[:300]).start(uploads, header())
        uploads.end(Unavailable("farewell"))
        await refused(sending, Unavailable, "farewell")
        assert uploads.get("dnn").received == 300
        await refused(send(uploads, OTHER), Unavailable, "farewell")

    async def second(uploads):
        assert (await send(uploads, offset=uploads.get("dnn").received)).ready

    run(first)
    run(second)


class Check:
    """A check that says when it begins, and waits to be let go; by two pipes of the file system."""

    def __init__(self, directory, monkeypatch):
        self.began, self.go = directory / "began", directory / "go"
        os.mkfifo(self.began)
        os.mkfifo(self.go)
        script = (
            f"import runpy; open({str(self.began)!r}, 'w').close(); open({str(self.go)!r}).read()\n"
            "runpy.run_module('gdmix_core.data.uploaded_scores', run_name='__main__')"
        )
        monkeypatch.setattr(check, "CHECK_COMMAND", (sys.executable, "-c", script))

    async def begins(self):
        await asyncio.wait_for(asyncio.to_thread(self.began.read_bytes), PATIENCE_SECONDS)

    async def goes_on(self):
        await asyncio.wait_for(asyncio.to_thread(self.go.write_bytes, b""), PATIENCE_SECONDS)


def test_the_end_of_the_coordinator_ends_checks(run, monkeypatch, tmp_path):
    check = Check(tmp_path, monkeypatch)

    before = set(psutil.Process().children())

    async def first(uploads):
        sending = asyncio.create_task(send(uploads))
        await check.begins()
        assert len(set(psutil.Process().children()) - before) == 1
        uploads.end(Unavailable("farewell"))
        await refused(sending, Unavailable, "farewell")
        await uploads.close()
        assert set(psutil.Process().children()) == before

    async def second(uploads):
        assert uploads.get("dnn").received == len(GOOD)
        assert (await send(uploads, offset=len(GOOD))).ready

    run(first)
    monkeypatch.undo()
    run(second)


def test_a_check_goes_on_when_the_sender_goes_away(run, monkeypatch, tmp_path):
    check = Check(tmp_path, monkeypatch)

    async def test(uploads):
        sending = asyncio.create_task(send(uploads))
        await check.begins()
        sending.cancel()
        await asyncio.wait([sending])
        await refused(send(uploads), Conflict, "at this moment")
        await check.goes_on()
        await asyncio.wait(uploads._checking)
        assert uploads.get("dnn").ready

    run(test)


# ---- at once ---------------------------------------------------------------------------------------------


def test_one_name_is_uploaded_by_one_at_a_time(run):
    async def test(uploads):
        sender = Sender(GOOD)
        sending = await sender.start(uploads, header())
        await refused(send(uploads, OTHER, replace=True), Conflict, "at this moment")
        await refused(uploads.delete("dnn"), Conflict, "at this moment")
        assert (await send(uploads, OTHER, name="other")).ready
        sender.go.set()
        assert (await sending).ready
        await uploads.delete("dnn")

    run(test)


# ---- what a process that died has left -------------------------------------------------------------------


def test_leftovers_are_cleaned_away(run, tmp_path):
    home = tmp_path / "uploads"

    async def first(uploads):
        await send(uploads)
        await break_off(uploads, name="unfinished")

    run(first)
    before = sorted(home.rglob("*"))
    strays = [
        home / "dnn" / "scores.parquet.tmp",
        home / "dnn" / f"partial-{'0' * 64}",
        home / "dnn" / f"partial-{'1' * 64}.json",
        home / "dead" / "scores.parquet.tmp",
        home / "headless" / "scores.parquet",
    ]
    for path in strays:
        path.parent.mkdir(exist_ok=True)
        path.touch()

    async def second(uploads):
        assert [upload.name for upload in uploads.listed()] == ["dnn", "unfinished"]

    run(second)
    assert sorted(home.rglob("*")) == before


def test_a_replacement_that_was_half_renamed_is_completed(run, tmp_path):
    async def first(uploads):
        return await send(uploads)

    old = run(first)
    home = tmp_path / "uploads" / "dnn"
    (home / "scores.parquet").write_bytes(OTHER)
    new = {**json.loads((home / "upload.json").read_text()), "rows": 2}
    (home / "upload.json.tmp").write_text(json.dumps(new))

    async def second(uploads):
        assert old.rows == 3
        assert uploads.get("dnn").rows == 2

    run(second)
    assert sorted(path.name for path in home.iterdir()) == ["scores.parquet", "upload.json"]


def test_files_of_others_are_left_alone(run, tmp_path):
    stranger = tmp_path / "uploads" / "photos" / "holiday.jpg"
    stranger.parent.mkdir(parents=True)
    stranger.touch()

    async def test(uploads):
        assert uploads.listed() == []
        await refused(uploads.delete("photos"), NotFound, "there is no upload 'photos'")

    run(test)
    assert stranger.exists()


# ---- over the wire ---------------------------------------------------------------------------------------


def messages(data=GOOD, size=100, **changes):
    """Yield the messages of an upload."""
    said = header(data, **changes)
    fields = {field: getattr(said, field) for field in UploadHeader.__dataclass_fields__}
    yield training_pb2.UploadScoresRequest(header=training_pb2.UploadHeader(**fields))
    for start in range(said.offset, len(data), size):
        yield training_pb2.UploadScoresRequest(data=data[start : start + size])


def refusal_of(cluster, sent):
    """Return status name, message and error code of an upload that must fail.

    Not by `grpc.aio`: it may tell of a write that failed because of the refusal (grpc issue 36066).
    """
    with grpc.insecure_channel(cluster.address) as channel:
        try:
            training_pb2_grpc.TrainingServiceStub(channel).UploadScores(iter(sent))
        except grpc.RpcError as error:
            codes = [value for key, value in error.trailing_metadata() or () if key == "gdmix-error-code"]
            return error.code().name, error.details() or "", "".join(map(str, codes))
    raise AssertionError("the call succeeded")


def test_the_four_calls(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            stub = cluster.client.stub
            done = await stub.UploadScores(messages(role="train", uid_column="", score_column=""))
            assert done.state == training_pb2.UPLOAD_STATE_READY
            assert (done.name, done.role, done.rows, done.mean_score) == ("dnn", "train", 3, 1.0)
            assert done.sha256 == header().sha256
            assert await stub.GetUpload(training_pb2.GetUploadRequest(name="dnn")) == done
            request = training_pb2.GetUploadRequest(name="dnn", sha256=done.sha256)
            assert await stub.GetUpload(request) == done
            assert list((await stub.ListUploads(training_pb2.ListUploadsRequest())).uploads) == [done]
            assert (state_dir / "uploads" / "dnn" / "scores.parquet").is_file()
            await stub.DeleteUpload(training_pb2.DeleteUploadRequest(name="dnn"))
            return await tiny.refusal(stub.GetUpload(training_pb2.GetUploadRequest(name="dnn")))

    status, message, code = asyncio.run(run())
    assert (status.name, code) == ("NOT_FOUND", "not_found")
    assert message == "there is no upload 'dnn'; uploads that are there: none"


def test_refusals_are_those_of_the_catalog(tiny, state_dir, tmp_path):
    async def run():
        settings = {"uploads": tmp_path / "elsewhere", "max_upload_bytes": 5000, "max_upload_rows": 10}
        async with tiny.running(state_dir, **settings) as cluster:
            stub = cluster.client.stub
            twice = [*messages(), next(messages())]
            await stub.UploadScores(messages())
            assert (tmp_path / "elsewhere" / "dnn").is_dir()
            sent = [
                [],
                [training_pb2.UploadScoresRequest(data=b"x")],
                twice,
                messages(bytes(5001), name="large"),
                messages(parquet(range(11), range(11)), name="long"),
                messages(),
                messages(name="b", sha256="0" * 64),
            ]
            return [await asyncio.to_thread(refusal_of, cluster, upload) for upload in sent]

    refusals = asyncio.run(run())
    assert [(status, code) for status, _, code in refusals] == [
        ("INVALID_ARGUMENT", "usage"),
        ("INVALID_ARGUMENT", "usage"),
        ("FAILED_PRECONDITION", "conflict"),
        ("INVALID_ARGUMENT", "usage"),
        ("INVALID_ARGUMENT", "data"),
        ("FAILED_PRECONDITION", "conflict"),
        ("INVALID_ARGUMENT", "data"),
    ]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["dnn"]


def test_a_second_header_is_no_data(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            twice = [next(messages()), *messages()]
            return await asyncio.to_thread(refusal_of, cluster, twice)

    _, message, code = asyncio.run(run())
    assert code == "usage"
    assert "header: there twice" in message
    assert list((state_dir / "uploads").iterdir()) == []


def test_a_stream_that_is_cancelled_goes_on_later(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            stub = cluster.client.stub
            call = stub.UploadScores()
            for message in list(messages())[:4]:
                await call.write(message)
            request = training_pb2.GetUploadRequest(name="dnn", sha256=header().sha256)

            async def there():
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        return await stub.GetUpload(request)

            async def gone_on():  # until the coordinator has heard of it, the name is taken
                while True:
                    reached = (await stub.GetUpload(request)).received
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        return await stub.UploadScores(messages(offset=reached))

            found = await asyncio.wait_for(there(), tiny.patience)
            assert found.state == training_pb2.UPLOAD_STATE_UPLOADING
            call.cancel()
            return (await asyncio.wait_for(gone_on(), tiny.patience)).state

    assert asyncio.run(run()) == training_pb2.UPLOAD_STATE_READY


def test_a_coordinator_that_ends_says_so_to_who_is_sending(tiny, state_dir):
    async def run():
        async with tiny.running(state_dir) as cluster:
            call = cluster.client.stub.UploadScores()
            for message in list(messages())[:4]:
                await call.write(message)
            request = training_pb2.GetUploadRequest(name="dnn")

            async def there():
                while True:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        return await cluster.client.stub.GetUpload(request)

            await asyncio.wait_for(there(), tiny.patience)
            ending = asyncio.create_task(cluster.coordinator.stop())
            refused = await tiny.refusal(call)
            await ending
            cluster.coordinator.stop = _nothing
        async with tiny.running(state_dir) as cluster:
            stub = cluster.client.stub
            reached = (await stub.GetUpload(request)).received
            return refused, await stub.UploadScores(messages(offset=reached))

    (status, message, code), done = asyncio.run(run())
    assert (status.name, message, code) == ("UNAVAILABLE", "the coordinator is shutting down", "unavailable")
    assert done.rows == 3


async def _nothing():
    pass


def test_memory_does_not_grow_with_the_file(run):
    """Of 64 MiB in large chunks not even half is in memory at any time."""
    piece = np.random.default_rng(1).bytes(1 << 20)
    size, digest = 64, hashlib.sha256()
    for _ in range(size):
        digest.update(piece)
    most = 0
    process = psutil.Process()

    async def many():
        nonlocal most
        for _ in range(size):
            most = max(most, process.memory_info().rss)
            yield bytes(bytearray(piece))

    async def test(uploads):
        before = process.memory_info().rss
        said = header(GOOD, byte_size=size << 20, sha256=digest.hexdigest())
        await refused(uploads.receive(said, many()), DataError, "is no parquet file")
        assert most - before < 32 << 20

    run(test)
