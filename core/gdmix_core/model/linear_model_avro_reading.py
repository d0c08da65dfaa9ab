"""Avro model files read into flat arrays: no Python object for a model or a coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gdmix_core.compiled import kernel_input
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.errors import DataError, NotFound
from gdmix_core.model import linear_model_avro_kernels as kernels
from gdmix_core.model.linear_model_avro_file import Block, read_blocks
from gdmix_core.model.linear_model_avro_names import (
    FeatureNames,
    arrow_strings,
    first_not_utf8,
    gathered,
    repeated_string,
    strings_of,
)

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LinearModels:
    """Linear models as flat arrays.

    Attributes:
        ids: the models' ids, all different, in file order.
        ptr: int64[M+1], bounds of the models' coefficients.
        names: name and term of every feature that occurs.
        features: int32[C], number in `names` of each coefficient's feature; no feature twice in a model.
        values: float64[C], the means.
        variances: float64[C], NaN where a coefficient has none; None when none has. A feature that has a variance and
            no mean is there with the mean 0.
        model_classes: the different values of `modelClass`, without null, sorted.
    """

    ids: ByteStrings
    ptr: Int64Array
    names: FeatureNames
    features: Int32Array
    values: Float64Array
    variances: Float64Array | None
    model_classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def id_of(self, model: int) -> str:
        """Return one model's id for a message."""
        return self.ids[model].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Values:
    """Values of some lists: list i has entries ptr[i]:ptr[i+1]; features are numbers, the same for all."""

    ptr: Int64Array
    features: Int32Array
    values: Float64Array

    def list_numbers(self) -> Int64Array:
        """Return the number of each entry's list."""
        return np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """One block: features are dictionary-encoded keys, first those of the means, then those of the variances."""

    ids: ByteStrings
    classes: frozenset[bytes]
    features: pa.DictionaryArray
    mean_ptr: Int64Array
    means: Float64Array
    variance_ptr: Int64Array
    variances: Float64Array


def model_files(path: str | Path) -> list[Path]:
    """Return the model files that a path stands for: itself, or the `.avro` files of a directory, by name.

    Raises:
        NotFound: there is no such file, or none in the directory.
    """
    place = Path(path)
    if not place.is_dir():
        if not place.exists():
            raise NotFound(f"{place}: there is no such file or directory")
        return [place]
    found = sorted(file for file in place.glob("*.avro") if not file.name.startswith((".", "_")))
    if not found:
        raise NotFound(f"{place}: holds no file that ends in .avro")
    return found


def read_models(paths: str | Path | Sequence[str | Path]) -> LinearModels:
    """Read one model file, or several as if they were one.

    Raises:
        DataError: a file is absent, damaged or truncated, its schema lacks a field, two models have one id, or two
            coefficients of a model one name and term.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    blocks = [_decoded(block) for path in several for block in read_blocks(path)]
    where = str(several[0]) if len(several) == 1 else f"{len(several)} files from {several[0]}"
    ids = ByteStrings.concatenate([block.ids for block in blocks])
    twice = repeated_string(ids)
    if twice is not None:
        raise DataError(f"{where}: two models have the modelId {twice.decode(errors='replace')!r}")
    names, means, variances = _put_together(blocks)
    _check_text(names, ids, where)
    for what, found in (("coefficients", means), ("variances", variances)):
        seen = np.full(len(names), -1, np.int64)
        at = kernels.first_repetition(found.ptr, found.features, seen)
        if at >= 0:
            model = int(np.searchsorted(found.ptr, at, "right")) - 1
            name, term = names.text(int(found.features[at]))
            raise DataError(
                f"{where}: model {ids[model].decode(errors='replace')!r} has two {what} with the name {name!r} and "
                f"the term {term!r}"
            )
    means, aligned = _aligned(means, variances, len(names))
    classes = frozenset[bytes]().union(*(block.classes for block in blocks)) - {b""}
    return LinearModels(
        ids=ids,
        ptr=means.ptr,
        names=names,
        features=means.features,
        values=means.values,
        variances=aligned,
        model_classes=tuple(sorted(name.decode(errors="replace") for name in classes)),
    )


def _decoded(block: Block) -> _Decoded:
    data, records = kernel_input(block.data, np.uint8), block.records
    none, no_bytes = np.empty(0, np.int64), np.empty(0, np.uint8)
    fault, means, variances = kernels.decode_records(
        data, records, False, none, none, none, none, no_bytes, none, none, no_bytes
    )
    if fault >= 0:
        which = f"record {fault}" if fault < records else "the end"
        raise DataError(f"{block.where}: {which} is damaged: it does not follow the schema")
    ids, classes = np.empty(2 * records, np.int64), np.empty(2 * records, np.int64)
    mean_ptr, variance_ptr = np.zeros(records + 1, np.int64), np.zeros(records + 1, np.int64)
    mean_values, variance_values = np.empty(means), np.empty(variances)
    keys = np.empty(2 * (means + variances), np.int64)
    kernels.decode_records(
        data, records, True, ids, classes,
        mean_ptr, keys[: 2 * means], mean_values.view(np.uint8),
        variance_ptr, keys[2 * means :], variance_values.view(np.uint8),
    )  # fmt: skip
    return _Decoded(
        ids=gathered(data, ids),
        classes=frozenset(arrow_strings(gathered(data, classes)).unique().to_pylist()),
        features=arrow_strings(gathered(data, keys)).dictionary_encode(),
        mean_ptr=mean_ptr,
        means=mean_values,
        variance_ptr=variance_ptr,
        variances=variance_values,
    )


def _put_together(blocks: Sequence[_Decoded]) -> tuple[FeatureNames, _Values, _Values]:
    """Return the names of all features, and means and variances with the features' numbers."""
    kind = pa.dictionary(pa.int32(), pa.large_binary())
    unified = pa.chunked_array([block.features for block in blocks], kind).unify_dictionaries()
    dictionary = unified.chunk(0).dictionary if unified.num_chunks else pa.array([], pa.large_binary())
    places = [chunk.indices.to_numpy() for chunk in unified.chunks]
    cut = list(zip(places, blocks, strict=True))
    none = [np.empty(0, np.int32)]
    return (
        FeatureNames.from_keys(strings_of(dictionary)),
        _Values(
            _joined_ptr([block.mean_ptr for block in blocks]),
            np.concatenate(none + [place[: len(block.means)] for place, block in cut]),
            np.concatenate([np.empty(0)] + [block.means for block in blocks]),
        ),
        _Values(
            _joined_ptr([block.variance_ptr for block in blocks]),
            np.concatenate(none + [place[len(block.means) :] for place, block in cut]),
            np.concatenate([np.empty(0)] + [block.variances for block in blocks]),
        ),
    )


def _joined_ptr(pointers: Sequence[Int64Array]) -> Int64Array:
    sizes = [np.diff(pointer) for pointer in pointers]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.empty(0, np.int64), *sizes]))])


def _aligned(means: _Values, variances: _Values, features: int) -> tuple[_Values, Float64Array | None]:
    """Return the means, with a 0 for each variance that has none, and each one's variance or NaN."""
    if len(variances.values) == 0:
        return means, None
    if np.array_equal(means.ptr, variances.ptr) and np.array_equal(means.features, variances.features):
        return means, variances.values
    mean_keys = means.list_numbers() * features + means.features
    variance_keys = variances.list_numbers() * features + variances.features
    alone = np.isin(variance_keys, mean_keys, invert=True)
    keys = np.concatenate([mean_keys, variance_keys[alone]])
    order = np.argsort(keys // features, kind="stable")
    keys = keys[order]
    complete = _Values(
        means.ptr + np.concatenate([[0], np.cumsum(alone)])[variances.ptr],
        (keys % features).astype(np.int32),
        np.concatenate([means.values, np.zeros(np.count_nonzero(alone))])[order],
    )
    sorter = np.argsort(keys)
    aligned = np.full(len(keys), np.nan)
    aligned[sorter[np.searchsorted(keys, variance_keys, sorter=sorter)]] = variances.values
    return complete, aligned


def _check_text(names: FeatureNames, ids: ByteStrings, where: str) -> None:
    for what, strings in (("modelId", ids), ("name", names.names), ("term", names.terms)):
        wrong = first_not_utf8(strings)
        if wrong is not None:
            raise DataError(f"{where}: {what} {strings[wrong]!r} is not UTF-8: the file is damaged")
