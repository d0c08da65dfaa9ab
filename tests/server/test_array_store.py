"""Arrays under leases and keys."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gdmix_core.errors import InternalError, NotFound, StaleLease, Unavailable, UsageError
from gdmix_server.array_store import ArrayStore
from gdmix_server.state.model import Lease


def lease(unit=0, fence=1, stage="s", job_id="j"):
    return Lease(job_id=job_id, stage=stage, unit=unit, attempt=1, fence=fence, epoch=1)


@pytest.fixture
def arrays(tmp_path):
    return ArrayStore(tmp_path, max_array_bytes=1_000, max_total_bytes=1_600)


def push(arrays, under, name, array):
    with arrays.push(under, name, array.dtype.str, array.shape) as coming:
        coming.append(array.tobytes())
        return coming.finish()


def test_a_pushed_array_is_there_until_its_lease_is_released(arrays):
    arrays.grant(lease())
    assert push(arrays, lease(), "a", np.arange(3.0)) == 24
    np.testing.assert_array_equal(arrays.pushed(lease(), "a"), np.arange(3.0))
    assert arrays.used_bytes == 24
    arrays.release(lease())
    assert arrays.used_bytes == 0
    assert not arrays.stands(lease())
    with pytest.raises(InternalError, match="without its array 'a'"):
        arrays.pushed(lease(), "a")


def test_pushing_again_replaces(arrays):
    arrays.grant(lease())
    push(arrays, lease(), "a", np.zeros(100))
    push(arrays, lease(), "a", np.ones(2))
    assert arrays.used_bytes == 16
    assert arrays.pushed(lease(), "a").tolist() == [1.0, 1.0]


def test_what_may_not_be_pushed(arrays):
    with pytest.raises(StaleLease, match="fence 1, epoch 1"):
        arrays.push(lease(), "a", "<f8", [1])
    arrays.grant(lease())
    for name in ("", "../x", ".hidden", "a/b", "x" * 129):
        with pytest.raises(UsageError, match="an array named"):
            arrays.push(lease(), name, "<f8", [1])
    with pytest.raises(UsageError, match="at most 1000"):
        arrays.push(lease(), "a", "<f8", [126])
    with arrays.push(lease(), "a", "<f8", [125]), pytest.raises(Unavailable, match="try again later"):
        arrays.push(lease(), "b", "<f8", [125])
    assert arrays.used_bytes == 0


def test_a_broken_push_gives_its_room_back_and_changes_nothing(arrays):
    arrays.grant(lease())
    push(arrays, lease(), "a", np.ones(2))
    with arrays.push(lease(), "a", "<f8", [4]) as coming:
        coming.append(b"x" * 8)
        with pytest.raises(UsageError, match="only 8 were sent"):
            coming.finish()
    assert arrays.used_bytes == 16
    assert arrays.pushed(lease(), "a").tolist() == [1.0, 1.0]


def test_a_lease_that_is_released_while_its_array_comes_in(arrays):
    arrays.grant(lease())
    with arrays.push(lease(), "a", "<f8", [1]) as coming:
        arrays.release(lease())
        coming.append(b"x" * 8)
        with pytest.raises(StaleLease, match="revoked"):
            coming.finish()
    assert arrays.used_bytes == 0


def test_a_new_lease_of_a_unit_ends_the_old_one(arrays):
    arrays.grant(lease(fence=1))
    push(arrays, lease(fence=1), "a", np.ones(2))
    arrays.grant(lease(fence=1))
    assert arrays.pushed(lease(fence=1), "a").size == 2
    arrays.grant(lease(fence=2))
    assert not arrays.stands(lease(fence=1))
    assert arrays.used_bytes == 0


def test_settled_waits_for_all_that_is_coming(arrays):
    async def run():
        arrays.grant(lease())
        await arrays.settled(lease())
        with arrays.push(lease(), "a", "<f8", [1]):
            waiting = asyncio.ensure_future(arrays.settled(lease()))
            await asyncio.sleep(0)
            assert arrays.coming(lease())
            assert not waiting.done()
        await waiting
        assert not arrays.coming(lease())

    asyncio.run(run())


def test_kept_arrays_lie_on_disk_by_atomic_rename(arrays, tmp_path):
    async def run():
        arrays.grant(lease())
        push(arrays, lease(), "l2", np.arange(4.0))
        await arrays.keep(lease())
        await arrays.keep(lease(unit=9))

    asyncio.run(run())
    directory = tmp_path / "jobs" / "j" / "arrays" / "s"
    assert [path.name for path in directory.iterdir()] == ["l2.npy"]
    assert ArrayStore(tmp_path).saved("j", "s/l2").tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_may_be_pulled(arrays):
    async def run():
        arrays.save("j", "fit/theta", np.arange(2.0))
        arrays.share("j", "fit/theta@3", np.arange(3.0))
        arrays.grant(lease(), (("theta", "fit/theta"), ("now", "fit/theta@3"), ("gone", "fit/nothing")))
        assert (await arrays.pull(lease(), "theta")).tolist() == [0.0, 1.0]
        assert (await arrays.pull(lease(), "now")).tolist() == [0.0, 1.0, 2.0]
        for name in ("gone", "fit/theta"):
            with pytest.raises(NotFound, match="no array"):
                await arrays.pull(lease(), name)
        with pytest.raises(StaleLease):
            await arrays.pull(lease(fence=7), "theta")
        arrays.grant(lease(unit=1), None)
        with pytest.raises(StaleLease, match="restarted"):
            await arrays.pull(lease(unit=1), "theta")

    asyncio.run(run())


def test_ends_of_stages_and_jobs_free_memory_and_leave_the_disk(arrays, tmp_path):
    arrays.save("j", "s/kept", np.ones(1))
    for unit, stage in ((0, "s"), (0, "t")):
        arrays.grant(lease(unit, stage=stage))
        push(arrays, lease(unit, stage=stage), "a", np.ones(2))
        arrays.share("j", f"{stage}/theta@1", np.ones(3))
    arrays.end_stage("j", "s")
    assert arrays.used_bytes == 40
    arrays.end_job("j")
    assert arrays.used_bytes == 0
    assert arrays.saved("j", "s/kept").size == 1
    arrays.remove_job("j")
    arrays.remove_job("j")
    assert not (tmp_path / "jobs" / "j").exists()


@pytest.mark.parametrize("key", ["../../x/y", "s/../x", "s", "s/", "/x"])
def test_keys_cannot_leave_the_state_directory(arrays, key):
    with pytest.raises(InternalError, match="cannot be part"):
        arrays.save("j", key, np.ones(1))


def test_a_damaged_array_on_disk(arrays, tmp_path):
    arrays.save("j", "s/a", np.ones(100))
    path = tmp_path / "jobs" / "j" / "arrays" / "s" / "a.npy"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InternalError, match="cannot be read"):
        arrays.saved("j", "s/a")
