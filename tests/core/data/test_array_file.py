from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gdmix_core.data.array_file import ArrayFile, atomic_path, read_segment, write_arrays
from gdmix_core.errors import DataError, InternalError

DTYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]


def some_arrays(length: int = 5) -> dict[str, np.ndarray]:
    return {"a": np.arange(length, dtype=np.int64), "b": np.linspace(0.0, 1.0, 2 * length)}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4))
def test_round_trip_keeps_every_byte(
    data: st.DataObject, dtypes: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "x.arrow"
    segments = [
        {f"c{i}": data.draw(hnp.arrays(dtype, st.integers(0, 7))) for i, dtype in enumerate(dtypes)}
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    write_arrays(path, iter(segments), {"k": [1, "é"]})
    with ArrayFile(path) as file:
        assert file.segments == len(segments)
        assert file.metadata == {"k": [1, "é"]}
        assert list(file.dtypes.values()) == [np.dtype(dtype) for dtype in dtypes]
        for number, segment in enumerate(segments):
            found = file.segment(number)
            assert list(found) == list(segment)
            for name, array in segment.items():
                assert found[name].dtype == array.dtype
                assert found[name].tobytes() == array.tobytes()


def test_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [some_arrays()], {"x": 1, "y": 2})
    write_arrays(tmp_path / "b", [some_arrays()], {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_strided_arrays_are_written_as_their_elements(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [{"x": np.arange(10)[::-3]}])
    assert read_segment(tmp_path / "a")["x"].tolist() == [9, 6, 3, 0]


def test_any_arrow_reader_can_open_the_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [some_arrays(3), some_arrays(2)], {"x": 1})
    with pa.OSFile(str(tmp_path / "a")) as source, pa.ipc.open_file(source) as reader:
        table = reader.read_all()
    table.validate(full=True)
    assert table.column("a").to_pylist() == [[0, 1, 2], [0, 1]]
    assert json.loads(table.schema.metadata[b"gdmix"]) == {"x": 1}


def test_views_outlive_the_file_and_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, [{"x": np.arange(3)}])
    view = read_segment(path)["x"]
    write_arrays(path, [{"x": np.zeros(3, np.int64)}])
    assert view.tolist() == [0, 1, 2]
    path.unlink()
    assert view.tolist() == [0, 1, 2]


def test_writing_to_a_view_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, [{"x": np.arange(3)}])
    read_segment(path)["x"][:] = 7
    assert read_segment(path)["x"].tolist() == [0, 1, 2]


def test_reads_only_the_arrays_asked_for(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [some_arrays()])
    assert list(read_segment(tmp_path / "a", 0, ["b"])) == ["b"]
    with pytest.raises(DataError, match="holds no array 'c'; it holds a, b"):
        read_segment(tmp_path / "a", 0, ["c"])


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, [some_arrays()])
    before = path.read_bytes()

    def segments():
        yield some_arrays()
        raise ValueError("the source failed")

    with pytest.raises(ValueError, match="the source failed"):
        write_arrays(path, segments())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_atomic_path_reports_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing/a: cannot be written: No such file"):
        write_arrays(tmp_path / "missing" / "a", [some_arrays()])
    with pytest.raises(DataError, match="cannot be written"), atomic_path(tmp_path / "b"):
        pass


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "needs at least one segment"),
        ([{"x": np.zeros(2, np.bool_)}], "dtype bool"),
        ([{"x": np.zeros((2, 2))}], "2 dimensions"),
        ([{"x": np.zeros(2)}, {"y": np.zeros(2)}], "segment 1 holds"),
        ([{"x": np.zeros(2)}, {"x": np.zeros(2, np.int64)}], "segment 1, array 'x' is int64"),
    ],
)
def test_refuses_what_it_cannot_hold(tmp_path: Path, segments: list, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        write_arrays(tmp_path / "a", segments)
    assert list(tmp_path.iterdir()) == []


def test_names_the_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: cannot be read: No such file"):
        ArrayFile(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="the file is empty"):
        ArrayFile(tmp_path / "empty")
    (tmp_path / "text").write_text("uid,label\n1,0\n")
    with pytest.raises(DataError, match="is not a complete Arrow file"):
        ArrayFile(tmp_path / "text")
    write_arrays(tmp_path / "whole", [some_arrays(100)])
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises(DataError, match="is not a complete Arrow file"):
        ArrayFile(tmp_path / "cut")
    table = pa.table({"x": [1]})
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write(table)
    with pytest.raises(DataError, match="not an array file"):
        ArrayFile(tmp_path / "other")


def test_refuses_segments_that_do_not_exist_and_closed_files(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [some_arrays()])
    with ArrayFile(tmp_path / "a") as file, pytest.raises(InternalError, match="has 1 segments"):
        file.segment(1)
    with pytest.raises(InternalError, match="closed"):
        file.segment(0)
