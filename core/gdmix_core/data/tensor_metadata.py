"""`tensor_metadata.json`: what LinkedIn GDMix says of the columns of TFRecord files.

{"numberOfTrainingSamples": 179087,
 "features": [{"name": "global", "dtype": "float", "shape": [50], "isSparse": true}, ...],
 "labels": [{"name": "response", "dtype": "int", "shape": [], "isSparse": false}]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gdmix_core.data.input_files import file_faults
from gdmix_core.errors import DataError

DTYPES: Final[dict[str, Literal["int", "float", "string"]]] = {
    "int": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "string": "string",
    "bytes": "string",
}
"""What each dtype is in a TFRecord file, which knows int64, float32 and bytes alone."""

_FIELDS: Final = ("name", "dtype", "shape", "isSparse")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One column.

    Attributes:
        name: Its name; a sparse one is stored as `<name>_indices` and `<name>_values`.
        dtype: What its values are.
        shape: () for a scalar, (n,) for a vector of n.
        sparse: Whether it is stored as indices and values.
    """

    name: str
    dtype: Literal["int", "float", "string"]
    shape: tuple[int, ...]
    sparse: bool


def read_tensor_metadata(path: str) -> tuple[Tensor, ...]:
    """Read the columns that a metadata file describes, features first.

    Raises:
        DataError: It cannot be read, is no such file, or names a column twice.
    """
    with file_faults(path, "tensor metadata"), open(path, encoding="utf-8") as file:  # noqa: PTH123
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read as tensor metadata: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds no JSON object; allowed: an object with features and labels")
    tensors = [
        _tensor(path, f"{key}[{number}]", entry)
        for key in ("features", "labels")
        for number, entry in enumerate(_entries(path, key, document.get(key, [])))
    ]
    names = [tensor.name for tensor in tensors]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is described twice")
    if not tensors:
        raise DataError(f"{path}: describes no columns")
    return tuple(tensors)


def _entries(path: str, key: str, found: Any) -> Sequence[Any]:
    if not isinstance(found, list):
        raise DataError(f"{path}: {key}: found {type(found).__name__}; allowed: a list")
    return found


def _tensor(path: str, where: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: {where}: found {entry!r}; allowed: an object with {', '.join(_FIELDS)}")
    missing = [name for name in _FIELDS if name not in entry]
    if missing:
        raise DataError(f"{path}: {where}: {', '.join(missing)} missing; needed are {', '.join(_FIELDS)}")
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or not name:
        raise DataError(f"{path}: {where}.name: found {name!r}; allowed: a name")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DataError(f"{path}: {where}.dtype ({name}): found {dtype!r}; allowed: {', '.join(DTYPES)}")
    sizes_fit = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    if not sizes_fit or len(shape) > 1:
        raise DataError(f"{path}: {where}.shape ({name}): found {shape!r}; allowed: [] or [length]")
    sparse = entry["isSparse"]
    if not isinstance(sparse, bool):
        raise DataError(f"{path}: {where}.isSparse ({name}): found {sparse!r}; allowed: true or false")
    if sparse and not shape:
        raise DataError(f"{path}: {where}.shape ({name}): a sparse column needs its length; found []")
    return Tensor(name, DTYPES[dtype], tuple(shape), sparse)
