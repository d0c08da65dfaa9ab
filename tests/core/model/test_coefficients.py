"""Coefficient files: every array comes back to the bit, and equal arrays give equal bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.errors import DataError
from gdmix_core.model import coefficients as files
from gdmix_core.model.coefficients import (
    FixedEffectCoefficients,
    RandomEffectCoefficients,
    iterate_blocks,
    read_fixed_effect,
    read_random_effect,
    write_fixed_effect,
    write_random_effect,
)
from gdmix_core.store import CoefficientBlock

MakePart = Callable[..., RandomEffectCoefficients]


def _assert_same_block(found: CoefficientBlock, wanted: CoefficientBlock) -> None:
    for name in ("ids_bytes", "ids_ptr", "coefficient_ptr", "indices", "coefficients"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    if wanted.variances is None:
        assert found.variances is None
    else:
        np.testing.assert_array_equal(found.variances, wanted.variances)


@pytest.mark.parametrize("entities", [0, 1, 7, 40_000])
@pytest.mark.parametrize("variances", [False, True])
def test_random_effects_come_back(
    tmp_path: Path, make_part: MakePart, entities: int, variances: bool
) -> None:
    part = make_part([b"entity-%06d\xff" % i for i in range(entities)], seed=1, variances=variances)
    write_random_effect(tmp_path / "part", part)
    found = read_random_effect(tmp_path / "part")
    _assert_same_block(found.block, part.block)
    for name in ("rows", "status", "iterations", "gradient_norm"):
        np.testing.assert_array_equal(getattr(found, name), getattr(part, name))
        assert getattr(found, name).dtype == getattr(part, name).dtype


def test_blocks_put_together_are_the_whole(tmp_path: Path, make_part: MakePart) -> None:
    part = make_part([b"%06d" % i for i in range(70_000)], seed=2)
    write_random_effect(tmp_path / "part", part)
    blocks = list(iterate_blocks(tmp_path / "part"))
    assert [block.entities for block in blocks] == [32768, 32768, 4464]
    start = 0
    for block in blocks:
        end = start + block.entities
        first, last = part.block.coefficient_ptr[start], part.block.coefficient_ptr[end]
        np.testing.assert_array_equal(
            block.coefficient_ptr, part.block.coefficient_ptr[start : end + 1] - first
        )
        np.testing.assert_array_equal(block.indices, part.block.indices[first:last])
        np.testing.assert_array_equal(block.coefficients, part.block.coefficients[first:last])
        assert block.id_of(block.entities - 1) == f"{end - 1:06d}"
        start = end


def test_other_tools_read_what_the_specification_says(tmp_path: Path, make_part: MakePart) -> None:
    part = make_part([b"a", b"b"], seed=5, variances=True)
    write_random_effect(tmp_path / "part", part)
    table = pq.read_table(tmp_path / "part")
    assert {field.name: str(field.type) for field in table.schema} == {
        "entity_id": "binary",
        "indices": "list<element: int32 not null>",
        "coefficients": "list<element: double not null>",
        "variances": "list<element: double not null>",
        "rows": "int64",
        "status": "uint8",
        "iterations": "int32",
        "gradient_norm": "double",
    }
    assert table.column("entity_id").to_pylist() == [b"a", b"b"]
    ptr = part.block.coefficient_ptr
    assert table.column("coefficients").to_pylist() == [
        part.block.coefficients[ptr[i] : ptr[i + 1]].tolist() for i in range(2)
    ]


def test_equal_arrays_give_equal_bytes(tmp_path: Path, make_part: MakePart) -> None:
    ids = [b"%05d" % i for i in range(3000)]
    for name in ("one", "two"):
        write_random_effect(tmp_path / name, make_part(ids, seed=3))
    write_random_effect(tmp_path / "other", make_part(ids, seed=4))
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "two"]


@pytest.mark.parametrize("variances", [None, np.array([1.0, 2.0, 3.0])])
def test_fixed_effects_come_back(tmp_path: Path, variances: np.ndarray | None) -> None:
    path = tmp_path / "fixed"
    values = np.array([1.0, -0.0, 1e-300])
    write_fixed_effect(
        path,
        values,
        bags=["", "u", "u"],
        names=["(INTERCEPT)", "age", "sex"],
        terms=["", "", "F"],
        variances=variances,
    )
    for source in (path, path.read_bytes()):
        found = read_fixed_effect(source)
        assert isinstance(found, FixedEffectCoefficients)
        assert found.coefficients.tobytes() == values.tobytes()
        assert (found.variances is None) == (variances is None)
    assert pq.read_table(path).column("term").to_pylist() == ["", "", "F"]


def test_wrong_and_damaged_files_are_named(tmp_path: Path, make_part: MakePart) -> None:
    missing, text, foreign, cut = (tmp_path / name for name in ("missing", "text", "foreign", "cut"))
    text.write_text("no Parquet")
    pq.write_table(pa.table({"entity_id": ["a"]}), foreign)
    write_random_effect(cut, make_part([b"%05d" % i for i in range(2000)]))
    data = bytearray(cut.read_bytes())
    data[100:3000] = bytes(2900)
    cut.write_bytes(data)
    for path in (missing, text, foreign, cut):
        for read in (read_random_effect, lambda source: list(iterate_blocks(source)), read_fixed_effect):
            with pytest.raises(DataError, match=path.name):
                read(path)
    with pytest.raises(DataError, match="column 'entity_id' must be binary, found string"):
        read_random_effect(foreign)
    with pytest.raises(DataError, match="in the store"):
        read_fixed_effect(b"nothing")


def test_a_shuffled_fixed_effect_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"index": pa.array([1, 0], pa.int32()), "coefficient": [1.0, 2.0]}), tmp_path / "shuffled"
    )
    with pytest.raises(DataError, match="does not count from 0 to 1"):
        read_fixed_effect(tmp_path / "shuffled")


def test_nothing_half_written_is_left(tmp_path: Path, make_part: MakePart) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_random_effect(tmp_path / "no" / "part", make_part([b"a"]))
    broken = make_part([b"a", b"b"])
    short = RandomEffectCoefficients(
        broken.block, broken.rows, broken.status, broken.iterations, broken.gradient_norm[:1]
    )
    with pytest.raises(ValueError, match="same length"):
        write_random_effect(tmp_path / "part", short)
    assert list(tmp_path.iterdir()) == []
    assert files.INTERCEPT_NAME == "(INTERCEPT)"
