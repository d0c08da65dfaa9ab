"""Score files in the layout of LinkedIn GDMix: Avro records of uid, scores, label and weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gdmix_core.compiled import compiled, kernel_input
from gdmix_core.data.avro_writing import write_blocks
from gdmix_core.model.linear_model_avro_kernels import put_long

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

SCORE: Final = "predictionScore"
SCORE_PER_COORDINATE: Final = "predictionScorePerCoordinate"
_ROWS_IN_BLOCK: Final = 32_768
_MOST_BYTES_IN_ROW: Final = 10 + 8 + 11 + 8 + 8


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """The scores of n rows.

    Attributes:
        uid: int64[n].
        score: float64[n], with the offset: the scores of all coordinates before this one.
        own_score: float64[n], of this coordinate alone.
        label: float64[n].
        weight: float64[n].
    """

    uid: Int64Array
    score: Float64Array
    own_score: Float64Array
    label: Float64Array
    weight: Float64Array


def write_scores(
    path: str | Path, rows: ScoreRows, *, uid: str, label: str, weight: str, integer_label: bool
) -> None:
    """Write a score file; it appears complete or not at all.

    Args:
        path: the file.
        rows: what to write.
        uid: name of the field of the row id.
        label: of the label; "" writes none.
        weight: of the weight.
        integer_label: whether the label is an int, not a double.

    Raises:
        DataError: the file cannot be written.
    """
    write_blocks(path, _blocks(rows, bool(label), integer_label), _layout(uid, label, weight, integer_label))


def _layout(uid: str, label: str, weight: str, integer_label: bool) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [{"name": uid, "type": "long"}, {"name": SCORE, "type": "double"}]
    if label:
        kind = "int" if integer_label else "double"
        fields.append({"name": label, "type": ["null", kind], "default": None})
    fields += [{"name": weight, "type": "double"}, {"name": SCORE_PER_COORDINATE, "type": "double"}]
    return {"name": "validation_result", "type": "record", "fields": fields}


def _blocks(rows: ScoreRows, labelled: bool, integer_label: bool) -> Iterator[tuple[int, memoryview]]:
    buffer = np.empty(_ROWS_IN_BLOCK * _MOST_BYTES_IN_ROW, np.uint8)
    uid = kernel_input(rows.uid, np.int64)
    score, label = kernel_input(rows.score, np.float64), kernel_input(rows.label, np.float64)
    weight, own_score = kernel_input(rows.weight, np.float64), kernel_input(rows.own_score, np.float64)
    for begin in range(0, len(rows.uid), _ROWS_IN_BLOCK):
        end = min(begin + _ROWS_IN_BLOCK, len(rows.uid))
        used = _encode(uid, score, label, weight, own_score, labelled, integer_label, begin, end, buffer)
        yield end - begin, buffer.data[:used]


@compiled
def _encode(
    uid: Int64Array,
    score: Float64Array,
    label: Float64Array,
    weight: Float64Array,
    own_score: Float64Array,
    labelled: bool,
    integer_label: bool,
    begin: int,
    end: int,
    out: npt.NDArray[np.uint8],
) -> int:
    number = np.empty(1, np.float64)
    raw = number.view(np.uint8)
    at = 0
    for i in range(begin, end):
        at = put_long(out, at, uid[i])
        number[0] = score[i]
        for k in range(8):
            out[at + k] = raw[k]
        at += 8
        if labelled:
            out[at] = 2  # the second type of the union
            at += 1
            if integer_label:
                at = put_long(out, at, int(label[i]))
            else:
                number[0] = label[i]
                for k in range(8):
                    out[at + k] = raw[k]
                at += 8
        number[0] = weight[i]
        for k in range(8):
            out[at + k] = raw[k]
        at += 8
        number[0] = own_score[i]
        for k in range(8):
            out[at + k] = raw[k]
        at += 8
    return at
