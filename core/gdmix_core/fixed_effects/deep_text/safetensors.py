"""Reader of safetensors files: a JSON header, then the tensors' bytes.

Source: https://github.com/huggingface/safetensors, section "Format" of its README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import DataError

Float32Array: TypeAlias = npt.NDArray[np.float32]

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000
_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_safetensors(path: Path) -> Mapping[str, Float32Array]:
    """Return the tensors of a file by name; each is read when it is asked for.

    Raises:
        DataError: the file is no safetensors file.
    """
    try:
        return _Tensors(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no safetensors file: {error}") from error


class _Tensors(Mapping[str, Float32Array]):
    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header has {length:,} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._start = _LENGTH_BYTES + length
        self._tensors = header
        size = path.stat().st_size - self._start
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            if not 0 <= begin <= end <= size:
                raise ValueError(f"tensor {name} lies beyond the file's end")

    def __getitem__(self, name: str) -> Float32Array:
        tensor = self._tensors[name]
        kind, shape = tensor["dtype"], tuple(tensor["shape"])
        begin, end = tensor["data_offsets"]
        if kind not in _TYPES:
            raise DataError(f"{self._path}: tensor {name} is of type {kind}; allowed are {', '.join(_TYPES)}")
        dtype = np.dtype(_TYPES[kind])
        if end - begin != int(np.prod(shape)) * dtype.itemsize:
            raise DataError(
                f"{self._path}: tensor {name} has {end - begin} bytes, not those of shape {shape}"
            )
        flat = np.fromfile(self._path, dtype, (end - begin) // dtype.itemsize, offset=self._start + begin)
        if kind == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float32, copy=False).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
