"""Avro: rows as streams of record batches, of the asked columns only.

What the fields of a schema are as columns is told in `avro_columns`, with these additions: a key of a map is asked
for as `<map>.<key>`, and two lists `<bag>_indices` and `<bag>_values` are in addition a column `<bag>` of sparse
vectors. Whether a union of numbers and strings holds the ones or the others is read off the file's first block; a
value of the other type further on is an error.

The decoder is ours because fastavro, which the tests compare it with, makes a Python object of every value, wanted
or not; `benchmarks/avro_decoding.py` measures both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gdmix_core.data.avro_columns import (
    ARROW_TYPES,
    NAME_TERM_VALUE,
    SPARSE_VECTOR,
    Form,
    Keyed,
    Kind,
    Mixed,
    Single,
    Unsupported,
    arrow_type,
    column_forms,
    sparse_pairs,
)
from gdmix_core.data.avro_decoder import (
    BATCH_BYTES,
    BATCH_ROWS,
    DecodedRows,
    RowDecoder,
    SlotWords,
    strings_at,
)
from gdmix_core.data.avro_file import AvroBlock, AvroFile
from gdmix_core.data.avro_operations import ItemSlots, SingleSlot, Slots
from gdmix_core.data.avro_program import NUMBER_WORD, Families, Keys, Wanted, make_program
from gdmix_core.data.input_files import NeededColumn, Use, file_faults
from gdmix_core.data.row_checks import in_file
from gdmix_core.errors import DataError

LARGEST_BLOCK = 1 << 30
"""Bytes of a block, in the file and after decompression."""


def avro_head(path: str) -> tuple[pa.Schema, int]:
    """Return the columns of a file and how many rows its first block has, 0 when it has none.

    The first block is read only where the schema does not tell the columns: for the keys of maps, and for unions
    of numbers and strings (which are of Arrow's null type when all of it is null).

    Raises:
        DataError: The file cannot be read, or its header is not Avro's.
    """
    with file_faults(path, "Avro"), in_file(path), AvroFile(path, largest_block=LARGEST_BLOCK) as file:
        forms = column_forms(file.schema)
        rows = file.first_rows()
        unsettled = [name for name, form in forms.items() if isinstance(form, Keyed | Mixed)]
        found = _first_block(file, forms, unsettled) if unsettled and rows else {}
    fields: list[tuple[str, pa.DataType]] = []
    for name, form in forms.items():
        if isinstance(form, Keyed):
            keys = sorted(set(found[name].flatten().to_pylist())) if name in found else []
            fields += [(f"{name}.{key}", ARROW_TYPES[form.kind]) for key in keys]
        elif isinstance(form, Mixed):
            kind = _family(found.get(name), form)
            fields.append((name, ARROW_TYPES[kind or "null"]))
        else:
            fields.append((name, arrow_type(form)))
    fields += [(bag, SPARSE_VECTOR) for bag in sparse_pairs(forms)]
    return pa.schema(fields), rows


def read_avro(path: str, columns: Sequence[NeededColumn]) -> Iterator[pa.RecordBatch]:
    """Stream columns of an Avro file, in the asked order; a batch has at most 65,536 rows.

    Raises:
        DataError: The file cannot be read or is damaged, a column is missing or of a type that no column can
            have, text is not UTF-8, or a column of numbers and strings holds both.
    """
    with file_faults(path, "Avro"), in_file(path), AvroFile(path, largest_block=LARGEST_BLOCK) as file:
        forms = column_forms(file.schema)
        names = [column.name for column in columns]
        pairs = {bag: pair for bag, pair in sparse_pairs(forms).items() if bag in names}
        parts = dict.fromkeys(part for name in names for part in pairs.get(name, (name,)))
        wanted = [_wanted(name, forms) for name in parts]
        mixed = [column.name for column in columns if isinstance(forms.get(column.name), Mixed)]
        if mixed:
            families = _first_block(file, forms, mixed)
            uses = {column.name: column.uses for column in columns}
            wanted = [_settled(column, families, uses.get(column.name, ())) for column in wanted]
        decoder = RowDecoder(make_program(file.schema, wanted))
        first_row = 0
        for blocks in _groups(file.blocks()):
            for rows in decoder.decode(blocks, first_row):
                arrays = _arrays(decoder.columns, rows)
                listed = [
                    _sparse(*(arrays[part] for part in pairs[name])) if name in pairs else arrays[name]
                    for name in names
                ]
                yield pa.RecordBatch.from_arrays(listed, names)
            first_row += sum(block.rows for block in blocks)


def _wanted(name: str, forms: Mapping[str, Form]) -> Wanted:
    """Return what is to be read for a column that is asked for."""
    form = forms.get(name)
    if form is None:
        # Names of Avro's fields have no dots: the map's name is the longest one that fits.
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            field, key = ".".join(parts[:length]), ".".join(parts[length:])
            outer = forms.get(field)
            if isinstance(outer, Keyed):
                return Wanted(name, field, Single(outer.kind), key)
        raise DataError(f"column {name!r} is missing")
    if isinstance(form, Keyed):
        raise DataError(f"column {name!r} is a map in Avro; ask for one of its keys, as '{name}.<key>'")
    if isinstance(form, Unsupported):
        raise DataError(f"column {name!r} is of Avro type {form.avro_type}, which cannot be read")
    return Wanted(name, name, form)


def _settled(column: Wanted, families: Mapping[str, pa.Array], uses: Sequence[Use]) -> Wanted:
    """Return the column as numbers or strings, whichever its file begins with; else what its uses can take."""
    if not isinstance(column.form, Mixed):
        return column
    kind = _family(families.get(column.name), column.form)
    if kind is None:
        kind = column.form.number if set(uses) <= {"uid", "number"} else "string"
    return replace(column, form=Single(kind))


def _family(words: pa.Array | None, form: Mixed) -> Kind | None:
    """Return what the first value that is not null is; None when there is none."""
    families = np.empty(0, np.int64) if words is None else words.to_numpy()
    families = families[families != 0]
    if not len(families):
        return None
    return form.number if families[0] == NUMBER_WORD else "string"


def _first_block(file: AvroFile, forms: Mapping[str, Form], names: Sequence[str]) -> dict[str, pa.Array]:
    """Read the first batch of rows: of maps the keys, of numbers and strings which of them they are."""
    wanted = [Wanted(name, name, Keys() if isinstance(forms[name], Keyed) else Families()) for name in names]
    decoder = RowDecoder(make_program(file.schema, wanted))
    block = next(file.blocks(), None)
    if block is None:
        return {}
    return _arrays(decoder.columns, next(decoder.decode([block], 0)))


def _groups(blocks: Iterator[AvroBlock]) -> Iterator[list[AvroBlock]]:
    """Put small blocks together."""
    group: list[AvroBlock] = []
    rows = size = 0
    for block in blocks:
        if group and (rows + block.rows > BATCH_ROWS or size + len(block.data) > BATCH_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(block)
        rows += block.rows
        size += len(block.data)
    if group:
        yield group


def _arrays(columns: Mapping[str, Slots], rows: DecodedRows) -> dict[str, pa.Array]:
    return {name: _array(name, slots, rows) for name, slots in columns.items()}


def _array(name: str, slots: Slots, rows: DecodedRows) -> pa.Array:
    if isinstance(slots, SingleSlot):
        array = _values(slots, rows)
    else:
        lengths = rows.slots[slots.lengths]
        if isinstance(slots, ItemSlots):
            items = _values(slots.items, rows)
        else:
            parts = [_values(part, rows) for part in (slots.name, slots.term, slots.value)]
            items = pa.StructArray.from_arrays(parts, fields=list(NAME_TERM_VALUE))
        offsets = np.zeros(len(lengths.words) + 1, np.int32)
        np.cumsum(lengths.words, out=offsets[1:])
        array = pa.Array.from_buffers(
            pa.list_(items.type), rows.rows, [_validity(lengths), pa.py_buffer(offsets)], children=[items]
        )
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        row = rows.first_row + _first_invalid(array) + 1
        raise DataError(f"column {name!r}: row {row} is not valid UTF-8 text") from error
    return array


def _values(slot: SingleSlot, rows: DecodedRows) -> pa.Array:
    slot_words = rows.slots[slot.values]
    words, kind = slot_words.words, ARROW_TYPES[slot.kind]
    if slot.kind == "null":
        return pa.nulls(len(words))
    validity = _validity(slot_words)
    if slot.kind == "string":
        text, offsets = strings_at(rows.data, words)
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
    elif slot.kind == "bool":
        buffers = [validity, pa.py_buffer(np.packbits(words != 0, bitorder="little"))]
    else:
        buffers = [validity, pa.py_buffer(words)]
    return pa.Array.from_buffers(kind, len(words), buffers)


def _validity(slot: SlotWords) -> pa.Buffer | None:
    return None if slot.null is None else pa.py_buffer(np.packbits(~slot.null, bitorder="little"))


def _sparse(indices: pa.Array, values: pa.Array) -> pa.Array:
    """Return two lists as one column of sparse vectors, null where both are."""
    null = pc.and_(indices.is_null(), values.is_null())
    parts = [indices, values.cast(SPARSE_VECTOR.field("values").type, safe=False)]
    mask = null if indices.null_count and values.null_count else None
    return pa.StructArray.from_arrays(parts, fields=list(SPARSE_VECTOR), mask=mask)


def _first_invalid(array: pa.Array) -> int:
    """Return the first row whose text is not UTF-8, by halves."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.concat_arrays([array.slice(low, middle - low)]).validate(full=True)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
