"""The registry, the paths a worker may touch, and what failures say."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from gdmix_core import tasks
from gdmix_core.config import DataConfig
from gdmix_core.data.layout import DesignSpec
from gdmix_core.errors import (
    Cancelled,
    ConfigError,
    DataError,
    InternalError,
    NotPermitted,
    StoreUnavailable,
    UsageError,
)
from gdmix_trainer.context import TaskContext
from gdmix_trainer.data_roots import OTHER_TEXT_FIELDS, PATH_FIELDS, DataRoots, paths_of
from gdmix_trainer.failures import failure_of
from gdmix_trainer.messages import Lease
from gdmix_trainer.shard_cache import ShardCache
from gdmix_trainer.tasks.registry import TASK_FUNCTIONS, run_task, run_unit

LEASE = Lease("job", "stage", 1, 1, 1, 1)


def context() -> TaskContext:
    def pull(lease: Lease, name: str) -> Any:
        raise AssertionError(f"nobody expects {name} to be pulled")

    return TaskContext(LEASE, pull, ShardCache())


def test_every_task_kind_has_a_function() -> None:
    assert {task.kind for task in TASK_FUNCTIONS} == set(tasks.TASK_OF_KIND)


def text_fields(kind: Any, seen: set[Any]) -> Iterator[str]:
    """Yield the names of all fields that can hold text, in a task and in all that it holds."""
    if kind in seen or not (is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))):
        for inner in get_args(kind):
            yield from text_fields(inner, seen)
        return
    seen.add(kind)
    hints = get_type_hints(kind)
    names = list(kind.model_fields) if not is_dataclass(kind) else [field.name for field in fields(kind)]
    for name in names:
        if holds_text(hints[name]):
            yield name
        yield from text_fields(hints[name], seen)


def holds_text(kind: Any) -> bool:
    return (
        kind is str
        or (isinstance(kind, type) and issubclass(kind, str))
        or any(map(holds_text, get_args(kind)))
    )


def test_every_text_in_a_task_is_known_to_be_a_path_or_not() -> None:
    names = {name for task in TASK_FUNCTIONS for name in text_fields(task, set())}
    assert names - PATH_FIELDS - OTHER_TEXT_FIELDS == set()
    assert set() == PATH_FIELDS & OTHER_TEXT_FIELDS


def inspection(train: str, output: str) -> tasks.InspectData:
    return tasks.InspectData(
        output=output,
        data=DataConfig(train=(train,)),
        features={},
        entity_columns=(),
        task="linear_regression",
    )


def test_paths_of_nested_values_are_found() -> None:
    task = tasks.EvaluateFixedEffect(
        output="/out",
        design=DesignSpec(name="global", bags=("user",), intercept=True),
        dimension=1,
        loss=0,
        hessian=True,
        cache_key="key",
        shards=(tasks.ShardInput(shard=0, directory="/shard", scores=("/a", "/b")),),
        shard_count=1,
    )
    assert sorted(paths_of(task)) == ["/a", "/b", "/out", "/shard"]
    assert sorted(paths_of(inspection("/data/*.csv", "/out"))) == ["/data/*.csv", "/out"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("data/x.parquet", True),
        ("data", True),
        ("data/*/part-*.parquet", True),
        ("lmdb:{root}/data/store", True),
        ("lmdb:///{root}/data/store", True),
        ("redis://somewhere:6379/0", True),
        ("database/x.parquet", False),
        ("data/../secret", False),
        ("data/*/../../secret", False),
        ("data/link/x", False),
        ("lmdb:{root}/elsewhere", False),
        ("*/x.parquet", False),
    ],
)
def test_a_worker_touches_only_what_lies_below_its_data_roots(
    tmp_path: Path, path: str, allowed: bool
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("/")
    full = path.format(root=tmp_path) if "{root}" in path or "://" in path else str(tmp_path / path)
    roots = DataRoots([tmp_path / "data"])
    assert roots.allows(full) is allowed
    assert DataRoots().prefixes == ()


def test_a_task_outside_of_the_data_roots_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    with pytest.raises(NotPermitted, match="lies outside of this worker's data roots"):
        run_task(inspection(str(tmp_path), str(outside)), context(), DataRoots([tmp_path / "data"]))
    assert not outside.exists()


def test_only_working_directories_are_removed(tmp_path: Path) -> None:
    work = tmp_path / ".gdmix" / "jobs" / "j" / "work"
    work.mkdir(parents=True)
    for _ in range(2):  # an attempt whose result was lost did it already
        run_task(tasks.RemoveWork(output=str(work / "clean-up"), directory=str(work)), context(), DataRoots())
        assert not work.exists()
    for directory in (tmp_path, tmp_path / ".gdmix", work / ".." / ".." / ".." / ".."):
        with pytest.raises(NotPermitted, match="is not removed"):
            run_task(
                tasks.RemoveWork(output=str(tmp_path / "out"), directory=str(directory)),
                context(),
                DataRoots(),
            )
    assert tmp_path.exists()


def test_a_task_of_another_version_is_a_usage_error() -> None:
    for kind, text in (("fly", "{}"), ("remove_work", '{"output": 1}')):
        with pytest.raises(UsageError, match="does not understand"):
            run_unit(kind, text, context(), DataRoots())


def test_a_cancelled_unit_stops(tmp_path: Path) -> None:
    revoked = context()
    revoked.cancel()
    work = tmp_path / ".gdmix" / "work"
    work.mkdir(parents=True)
    with pytest.raises(Cancelled):
        run_task(tasks.RemoveWork(output=str(tmp_path / "o"), directory=str(work)), revoked, DataRoots())
    assert work.exists()


def full_disk() -> DataError:
    error = DataError("x.arrow: cannot be written: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "code", "message", "retryable"),
    [
        (DataError("bad row"), "data", "bad row", False),
        (ConfigError("bad key"), "config", "bad key", False),
        (NotPermitted("no"), "not_permitted", "no", False),
        (StoreUnavailable("down"), "store_unavailable", "down", True),
        (InternalError("bug"), "internal", "bug", True),
        (full_disk(), "data", "x.arrow: cannot be written: No space left on device", True),
        (OSError(errno.EIO, "broken"), "internal", "OSError: [Errno 5] broken", True),
        (MemoryError(), "internal", "a worker ran out of memory", True),
        (KeyError("x"), "internal", "KeyError: 'x'", True),
        (ValueError(), "internal", "ValueError", True),
    ],
)
def test_failures_say_whether_another_try_may_help(
    error: BaseException, code: str, message: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    failure = failure_of(LEASE, error)
    assert (failure.error_code, failure.message, failure.retryable) == (code, message, retryable)


def test_a_missed_drop_does_not_let_the_cache_grow() -> None:
    cache = ShardCache()
    for stage in range(20):
        cache.get(f"s{stage}", 0, object)
    assert len(cache) == 4
    kept = cache.get("s19", 0, object)
    assert cache.get("s19", 0, object) is kept
    cache.drop("s1")
    assert len(cache) == 0
