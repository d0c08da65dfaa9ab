"""What only the embedded store does: files that are built, renamed, unlinked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gdmix_core.errors import StoreCorrupt, StoreUnavailable, VersionGone
from gdmix_core.store import CoefficientBlock, decode_many, open_store
from gdmix_core.store.lmdb_files import SPILL_FILE


def test_a_reader_goes_on_reading_a_deleted_version(lmdb_case: Any, publish: Callable[..., Any]) -> None:
    with lmdb_case.open() as store, lmdb_case.open() as reader, lmdb_case.open() as late:
        publish(store)
        before = reader.get_many("movies", 1, {"per_user": [b"user3"]})
        store.delete_version("movies", 1)
        assert not (lmdb_case.root / "movies" / "versions" / "1.lmdb").exists()
        assert reader.get_many("movies", 1, {"per_user": [b"user3"]}) == before
        for other in (store, late):
            with pytest.raises(VersionGone):
                other.get_many("movies", 1, {"per_user": [b"user3"]})


def test_a_version_that_was_replaced_is_read_anew(lmdb_case: Any, publish: Callable[..., Any]) -> None:
    with lmdb_case.open() as reader:
        with lmdb_case.open() as store:
            publish(store, seed=1)
            old = reader.read_seal("movies", 1)
            lmdb_case.empty()
            publish(store, seed=2)
        assert reader.read_seal("movies", 1).token != old.token
        assert reader.read_manifest("movies", 1) == b'{"seed": 2}'


def test_nothing_is_left_of_the_building_site(
    lmdb_case: Any, publish: Callable[..., Any], make_block: Callable[..., CoefficientBlock], schema: int
) -> None:
    with lmdb_case.open() as store:
        publish(store)
        assert _names(lmdb_case.root) == {"lock", "active.json", "1.lmdb"}
        ticket = store.begin_version("movies")
        part = store.write_part(ticket, "c", 0, [make_block([b"a"])], schema=schema)
        with pytest.raises(StoreCorrupt):
            store.finish(ticket, [part], b"{}", {}, schema=schema, expected={"c": 5})
        store.abandon(ticket)
        assert _names(lmdb_case.root) == {"lock", "active.json", "1.lmdb"}


def _names(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


def test_spills_lie_where_the_attempt_wants_them(
    lmdb_case: Any, make_block: Callable[..., CoefficientBlock], schema: int, tmp_path: Path
) -> None:
    with lmdb_case.open() as store:
        ticket = store.begin_version("movies")
        parts = [
            store.write_part(
                ticket, "c", n, [make_block(ids)], schema=schema, spill=tmp_path / f"attempt-{n}"
            )
            for n, ids in enumerate([[b"a", b"b"], []])
        ]
        assert (tmp_path / "attempt-0" / SPILL_FILE).exists()
        store.finish(ticket, parts, b"{}", {}, schema=schema, expected={"c": 2})
        (tmp_path / "attempt-0" / SPILL_FILE).unlink()
        again = store.begin_version("movies")
        with pytest.raises(VersionGone, match="attempt-0"):
            store.finish(again, parts, b"{}", {}, schema=schema)


def test_a_damaged_spill_is_not_sealed(
    lmdb_case: Any, make_block: Callable[..., CoefficientBlock], schema: int, tmp_path: Path
) -> None:
    with lmdb_case.open() as store:
        ticket = store.begin_version("movies")
        block = make_block([b"%d" % i for i in range(500)])
        part = store.write_part(ticket, "c", 0, [block], schema=schema, spill=tmp_path)
        path = tmp_path / SPILL_FILE
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreCorrupt):
            store.finish(ticket, [part], b"{}", {}, schema=schema)
        with pytest.raises(VersionGone):
            store.read_seal("movies", ticket.version)


def test_the_map_grows_as_needed(
    lmdb_case: Any, make_block: Callable[..., CoefficientBlock], schema: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A first size far too small, as when pages fill badly.
    from gdmix_core.store import lmdb_files

    monkeypatch.setattr(lmdb_files, "_SPARE_MAP_BYTES", -1_000_000)
    with lmdb_case.open() as store:
        ticket = store.begin_version("movies")
        block = make_block([b"%05d" % i for i in range(7000)], most=9)
        part = store.write_part(ticket, "c", 0, [block], schema=schema)
        store.finish(ticket, [part], b"{}", {}, schema=schema)
        ids = [b"%05d" % i for i in range(7000)]
        decoded = decode_many(store.get_many("movies", ticket.version, {"c": ids}).records["c"], schema)
        assert decoded.coefficients.tolist() == block.coefficients.tolist()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        open_store(f"lmdb:{tmp_path / 'file'}") as store,
        pytest.raises(StoreUnavailable, match="cannot be used"),
    ):
        store.begin_version("movies")


def test_urls(tmp_path: Path) -> None:
    for url in (f"lmdb:{tmp_path}/s", f"lmdb://{tmp_path}/s"):
        with open_store(url) as store:
            assert store.url == f"lmdb:{tmp_path}/s"
            assert store.host_local
            assert store.list_models() == []
    assert list(tmp_path.iterdir()) == []


def test_importing_stores_stays_cheap() -> None:
    program = (
        "import sys, gdmix_core.store, gdmix_core.model;"
        "heavy = {'redis', 'lmdb', 'polars', 'numba', 'scipy.optimize', 'pyarrow.dataset'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 0)
