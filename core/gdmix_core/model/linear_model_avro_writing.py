"""Coefficients written as Avro model files: one record an entity, encoded by compiled code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import kernel_input
from gdmix_core.data.avro_writing import encoded_text, write_blocks
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import DataError, UsageError
from gdmix_core.model import linear_model_avro_kernels as kernels
from gdmix_core.model.coefficients import Source, iterate_blocks, read_fixed_effect
from gdmix_core.model.linear_model_avro_file import SCHEMA
from gdmix_core.model.linear_model_avro_names import FeatureNames, first_not_utf8
from gdmix_core.store.record import CoefficientBlock

GLOBAL_MODEL: Final = "global model"
_PACKAGE: Final = "com.linkedin.photon.ml.supervised"
MODEL_CLASSES: Final = {
    "logistic_regression": f"{_PACKAGE}.classification.LogisticRegressionModel",
    "linear_regression": f"{_PACKAGE}.regression.LinearRegressionModel",
    "poisson_regression": f"{_PACKAGE}.regression.PoissonRegressionModel",
}
"""`modelClass` by task."""

_BLOCK_BYTES: Final = 1 << 20
_NULL: Final = b"\x00"
_PRESENT: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class WrittenModels:
    """What a model file holds.

    Attributes:
        models: number of records.
        coefficients: number of means in all of them.
        left_out: coefficients that the sparsity threshold kept out.
    """

    models: int
    coefficients: int
    left_out: int


def write_random_effect_models(
    path: str | Path,
    sources: Source | Sequence[Source],
    names: FeatureNames,
    *,
    model_class: str | None,
    sparsity_threshold: float = 0.0,
) -> WrittenModels:
    """Write one record for each entity of a random effect's coefficient files.

    Args:
        path: the model file; it appears complete or not at all, and its bytes depend on the models alone.
        sources: one coefficient file, or several in order.
        names: of the coordinate's coefficients.
        model_class: see `MODEL_CLASSES`; None writes null.
        sparsity_threshold: coefficients with an absolute value up to it are left out; 0 keeps all, zeros too. An
            intercept is always written.

    Raises:
        DataError: a file cannot be read or written, an id is not UTF-8, or an index has no name.
        UsageError: the threshold is negative or not finite.
    """
    several = [sources] if isinstance(sources, str | Path | bytes) else sources
    blocks = (block for source in several for block in iterate_blocks(source))
    return write_models(path, blocks, names, model_class=model_class, sparsity_threshold=sparsity_threshold)


def write_fixed_effect_model(
    path: str | Path,
    source: Source,
    names: FeatureNames,
    *,
    model_class: str | None,
    model_id: str = GLOBAL_MODEL,
    sparsity_threshold: float = 0.0,
) -> WrittenModels:
    """Write the one record of a fixed effect; arguments are those of `write_random_effect_models`.

    Raises:
        DataError: a file cannot be read or written, or there are not as many names as coefficients.
        UsageError: the threshold is negative or not finite.
    """
    effect = read_fixed_effect(source)
    dimension = len(effect.coefficients)
    if dimension != len(names):
        raise DataError(
            f"a fixed effect of {dimension} coefficients has {len(names)} names: it belongs to another feature index"
        )
    ids = ByteStrings.of([model_id])
    block = CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=np.array([0, dimension]),
        indices=np.arange(dimension, dtype=np.int32),
        coefficients=effect.coefficients,
        variances=effect.variances,
    )
    return write_models(path, [block], names, model_class=model_class, sparsity_threshold=sparsity_threshold)


def write_models(
    path: str | Path,
    blocks: Iterable[CoefficientBlock],
    names: FeatureNames,
    *,
    model_class: str | None,
    sparsity_threshold: float = 0.0,
) -> WrittenModels:
    """Write one record for each entity of some blocks, in their order and that of their coefficients.

    A variance of NaN is an unknown one and left out; arguments are those of `write_random_effect_models`.

    Raises:
        DataError: the file cannot be written, an id is not UTF-8, or an index has no name.
        UsageError: the threshold is negative or not finite.
    """
    if not (math.isfinite(sparsity_threshold) and sparsity_threshold >= 0):
        raise UsageError(f"the sparsity threshold is {sparsity_threshold}; allowed: finite numbers from 0")
    encoder = RecordEncoder(names, model_class, sparsity_threshold)
    write_blocks(path, encoder.encoded(blocks), SCHEMA)
    return WrittenModels(encoder.models, encoder.kept, encoder.coefficients - encoder.kept)


class RecordEncoder:
    """What is fixed while a file is written, and what was encoded so far.

    Attributes:
        models: number of records.
        coefficients: number of coefficients that went in.
        kept: number of those that were not left out.
    """

    def __init__(self, names: FeatureNames, model_class: str | None, threshold: float) -> None:
        keys = names.keys()
        self._keys = kernel_input(keys.data, np.uint8)
        self._keys_ptr = kernel_input(keys.ptr, np.int64)
        self._item_bytes = np.diff(keys.ptr) + 8
        self._class = _bytes(_NULL if model_class is None else _PRESENT + encoded_text(model_class))
        self._loss = _bytes(_PRESENT + encoded_text(""))
        self._threshold = float(threshold)
        self._intercept = names.intercept()
        self.models = self.coefficients = self.kept = 0

    def encoded(self, blocks: Iterable[CoefficientBlock]) -> Iterator[tuple[int, memoryview]]:
        """Yield numbers of records and their bytes, about a megabyte at a time; bytes are valid until the next."""
        buffer = np.empty(0, np.uint8)
        for block in blocks:
            self._check(block)
            bound = self._size_bounds(block)
            ready, variances = _ready(block)
            begin = 0
            while begin < block.entities:
                end = max(begin + 1, int(np.searchsorted(bound, bound[begin] + _BLOCK_BYTES, "right")) - 1)
                if len(buffer) < bound[end] - bound[begin]:
                    buffer = np.empty(int(bound[end] - bound[begin]), np.uint8)
                used, kept = kernels.encode_records(
                    ready.ids_bytes, ready.ids_ptr, ready.coefficient_ptr,
                    ready.indices, ready.coefficients, variances,
                    self._keys, self._keys_ptr, self._class, self._loss,
                    self._threshold, self._intercept, begin, end, buffer,
                )  # fmt: skip
                self.models += end - begin
                self.coefficients += int(block.coefficient_ptr[end] - block.coefficient_ptr[begin])
                self.kept += kept
                yield end - begin, buffer.data[:used]
                begin = end

    def _check(self, block: CoefficientBlock) -> None:
        if block.indices.size and not 0 <= block.indices.min() <= block.indices.max() < len(self._item_bytes):
            raise DataError(
                f"coefficient indices go from {block.indices.min()} to {block.indices.max()}, but there are names "
                f"for 0 to {len(self._item_bytes) - 1}: the coefficients belong to another feature index"
            )
        wrong = first_not_utf8(ByteStrings(block.ids_bytes, block.ids_ptr))
        if wrong is not None:
            raise DataError(
                f"entity id {block.id_of(wrong)!r} is not UTF-8, which Avro cannot hold as a string"
            )

    def _size_bounds(self, block: CoefficientBlock) -> npt.NDArray[np.int64]:
        """Return int64[E+1], running sum of the most bytes that each record can take."""
        items = np.zeros(len(block.indices) + 1, np.int64)
        np.cumsum(self._item_bytes[block.indices], out=items[1:])
        lists = 1 if block.variances is None else 2
        fixed = len(self._class) + len(self._loss) + 4 * kernels.LONGEST_NUMBER
        sizes = lists * np.diff(items[block.coefficient_ptr]) + np.diff(block.ids_ptr) + fixed
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _ready(block: CoefficientBlock) -> tuple[CoefficientBlock, npt.NDArray[np.float64]]:
    """Return a block whose arrays kernels take, and its variances, empty for none."""
    ready = CoefficientBlock(
        ids_bytes=kernel_input(block.ids_bytes, np.uint8),
        ids_ptr=kernel_input(block.ids_ptr, np.int64),
        coefficient_ptr=kernel_input(block.coefficient_ptr, np.int64),
        indices=kernel_input(block.indices, np.int32),
        coefficients=kernel_input(block.coefficients, np.float64),
    )
    variances = np.empty(0) if block.variances is None else block.variances
    return ready, kernel_input(variances, np.float64)


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return kernel_input(np.frombuffer(data, np.uint8), np.uint8)
