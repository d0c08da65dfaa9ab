"""Avro model files: fastavro reads what was written and writes what is read; nothing is lost in silence."""

from __future__ import annotations

import io
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmix_core.config import FeatureColumn
from gdmix_core.data.byte_strings import ByteStrings
from gdmix_core.data.feature_index import CoordinateNames, FeatureIndex, IndexedColumn, fingerprint
from gdmix_core.errors import DataError, GdmixError, NotFound, UsageError
from gdmix_core.model import linear_model_avro as avro
from gdmix_core.model import linear_model_avro_writing
from gdmix_core.model.coefficients import RandomEffectCoefficients, write_fixed_effect, write_random_effect
from gdmix_core.model.linear_model_avro import FeatureNames, LinearModels, read_models, write_models
from gdmix_core.model.linear_model_avro_file import SCHEMA
from gdmix_core.store import CoefficientBlock

LOGISTIC = avro.MODEL_CLASSES["logistic_regression"]
PAIRS = [
    ("(INTERCEPT)", ""),
    ("age", ""),
    ("genre", "a,b"),
    ("genre", "Ω é 東京"),
    ("title", ""),
    ("", "x" * 200),
]
NAMES = FeatureNames.of(PAIRS)
Item = tuple[str, str, float]


def make_block(
    models: dict[str, dict[int, float]], variances: dict[int, float] | None = None
) -> CoefficientBlock:
    """Make a block of models given by index; `variances` by index are those of every model."""
    ids = ByteStrings.of(models)
    indices = [index for model in models.values() for index in model]
    return CoefficientBlock(
        ids_bytes=ids.data,
        ids_ptr=ids.ptr,
        coefficient_ptr=np.cumsum([0, *map(len, models.values())]),
        indices=np.array(indices, np.int32),
        coefficients=np.array([value for model in models.values() for value in model.values()], np.float64),
        variances=None if variances is None else np.array([variances[index] for index in indices]),
    )


def items(values: Sequence[Item]) -> list[dict[str, Any]]:
    return [{"name": name, "term": term, "value": value} for name, term, value in values]


def record(model_id: str, means: Sequence[Item], variances: Sequence[Item] | None = None) -> dict[str, Any]:
    return {
        "modelId": model_id,
        "modelClass": LOGISTIC,
        "means": items(means),
        "variances": None if variances is None else items(variances),
        "lossFunction": "",
    }


def write_by_fastavro(
    path: Path, records: list[dict[str, Any]], schema: dict[str, Any] = SCHEMA, **options: Any
) -> Path:
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), records, **options)
    return path


def read_by_fastavro(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(fastavro.reader(file))


def as_records(models: LinearModels) -> dict[str, dict[tuple[str, str], tuple[float, float | None]]]:
    """Return value and variance by model and feature."""
    found: dict[str, dict[tuple[str, str], tuple[float, float | None]]] = {}
    for model in range(len(models)):
        mine = found[models.id_of(model)] = {}
        for c in range(models.ptr[model], models.ptr[model + 1]):
            variance = None if models.variances is None else float(models.variances[c])
            mine[models.names.text(models.features[c])] = (
                float(models.values[c]),
                None if variance is None or np.isnan(variance) else variance,
            )
    return found


# ---- names -----------------------------------------------------------------------------------------------


def coordinate_names(*features: tuple[str, str, str]) -> CoordinateNames:
    return CoordinateNames(*(pa.array([f[i] for f in features], pa.large_string()) for i in range(3)))


def test_names_of_a_coordinate() -> None:
    names = FeatureNames.of_coordinate(
        coordinate_names(
            ("", "(INTERCEPT)", ""),
            ("user", "age", ""),
            ("user", "genre", "a,b"),
            ("user", "ntv", "country\x01de"),
            ("user", "ntv", "\x01only term"),
            ("user", "ntv", "only name\x01"),
            ("user", "ntv", "several\x01of\nthe\x01m"),
            ("user", "taste", "0"),
        )
    )
    assert [names.text(i) for i in range(len(names))] == [
        ("(INTERCEPT)", ""),
        ("age", ""),
        ("genre", "a,b"),
        ("country", "de"),
        ("", "only term"),
        ("only name", ""),
        ("several", "of\nthe\x01m"),
        ("taste", "0"),
    ]
    assert names.intercept() == 0


def test_names_of_a_feature_index() -> None:
    columns = (
        IndexedColumn("user", FeatureColumn(column="age", kind="numeric"), None, 0, 1, mean=0.0,
                      standard_deviation=1.0),
        IndexedColumn("user", FeatureColumn(column="genre", kind="categorical"), None, 1, 2,
                      ByteStrings.of(["f", "m"]), np.ones(2, np.int64)),
    )  # fmt: skip
    index = FeatureIndex(columns, 10, fingerprint(columns))
    with_intercept = FeatureNames.of_coordinate(index.coordinate_names(["user"], True))
    assert [with_intercept.text(i) for i in range(4)] == [
        ("(INTERCEPT)", ""),
        ("age", ""),
        ("genre", "f"),
        ("genre", "m"),
    ]
    without = FeatureNames.of_coordinate(index.coordinate_names(["user"], False))
    assert without.text(0) == ("age", "")
    assert without.intercept() == -1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([("a", "x", ""), ("b", "y", ""), ("b", "x", "")], r"'x' and the term '' \(bags: a, b\)"),
        ([("", "(INTERCEPT)", ""), ("a", "(INTERCEPT)", "")], r"\(bags: the intercept, a\)"),
        ([("a", "genre", "f"), ("b", "ntv", "genre\x01f")], r"'genre' and the term 'f' \(bags: a, b\)"),
    ],
)
def test_features_that_a_model_file_cannot_tell_apart(
    features: list[tuple[str, str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        FeatureNames.of_coordinate(coordinate_names(*features))


@given(st.lists(st.tuples(st.text(max_size=70), st.text(max_size=70)), unique=True, max_size=20))
@settings(max_examples=50, deadline=None)
def test_keys_are_names(pairs: list[tuple[str, str]]) -> None:
    keys = FeatureNames.of(pairs).keys()
    assert len(set(keys.to_list())) == len(pairs)
    back = FeatureNames.from_keys(keys)
    assert [back.text(i) for i in range(len(back))] == pairs


# ---- writing ---------------------------------------------------------------------------------------------


def test_fastavro_reads_a_random_effect(tmp_path: Path) -> None:
    block = make_block({"user é": {0: 0.5, 2: -1.25, 5: 1e-300}, "nobody": {}, "7": {1: 0.0, 3: np.pi}})
    written = write_models(tmp_path / "models.avro", [block], NAMES, model_class=LOGISTIC)
    assert (written.models, written.coefficients, written.left_out) == (3, 5, 0)
    assert read_by_fastavro(tmp_path / "models.avro") == [
        record("user é", [(*PAIRS[0], 0.5), (*PAIRS[2], -1.25), (*PAIRS[5], 1e-300)]),
        record("nobody", []),
        record("7", [(*PAIRS[1], 0.0), (*PAIRS[3], np.pi)]),
    ]


def test_the_schema_is_the_one_of_gdmix(tmp_path: Path) -> None:
    write_models(tmp_path / "models.avro", [], NAMES, model_class=None)
    with (tmp_path / "models.avro").open("rb") as file:
        reader: Any = fastavro.reader(file)
        assert list(reader) == []
        schema = reader.writer_schema
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    assert schema["name"].rpartition(".")[2] == "BayesianLinearModelAvro"
    assert list(fields) == ["modelId", "modelClass", "means", "variances", "lossFunction"]
    assert fields["modelClass"] == fields["lossFunction"] == ["null", "string"]
    assert {f["name"]: f["type"] for f in fields["means"]["items"]["fields"]} == {
        "name": "string",
        "term": "string",
        "value": "double",
    }


def test_variances(tmp_path: Path) -> None:
    variances = {0: 0.25, 1: np.nan, 2: 4.0}
    block = make_block({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {1: 1.0}, "c": {}}, variances)
    write_models(tmp_path / "models.avro", [block], NAMES, model_class=None)
    first, second, third = read_by_fastavro(tmp_path / "models.avro")
    assert first["modelClass"] is None
    assert first["variances"] == items([(*PAIRS[0], 0.25), (*PAIRS[2], 4.0)])
    assert len(first["means"]) == 3
    assert second["variances"] is None
    assert third["variances"] is None


def test_the_sparsity_threshold(tmp_path: Path) -> None:
    block = make_block(
        {"a": {0: 0.0, 1: 0.1, 2: -0.1, 3: -0.2, 4: 0.0, 5: np.nan}}, dict.fromkeys(range(6), 1.0)
    )
    written = write_models(
        tmp_path / "models.avro", [block], NAMES, model_class=LOGISTIC, sparsity_threshold=0.1
    )
    assert (written.coefficients, written.left_out) == (3, 3)
    (found,) = read_by_fastavro(tmp_path / "models.avro")
    kept = [(PAIRS[0], 0.0), (PAIRS[3], -0.2)]
    assert [((i["name"], i["term"]), i["value"]) for i in found["means"][:2]] == kept
    assert np.isnan(found["means"][2]["value"])
    assert [(i["name"], i["term"]) for i in found["variances"]] == [PAIRS[0], PAIRS[3], PAIRS[5]]
    everything = write_models(tmp_path / "models.avro", [block], NAMES, model_class=LOGISTIC)
    assert (everything.coefficients, everything.left_out) == (6, 0)


@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.inf])
def test_thresholds_that_make_no_sense(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(UsageError, match="sparsity threshold"):
        write_models(tmp_path / "a.avro", [], NAMES, model_class=None, sparsity_threshold=threshold)


def test_coefficient_files_become_model_files(
    tmp_path: Path, make_part: Callable[..., RandomEffectCoefficients]
) -> None:
    names = FeatureNames.of([("f", str(i)) for i in range(50)])
    parts = [make_part([b"%06d" % i for i in range(k, 40_000, 2)], seed=k, variances=True) for k in range(2)]
    sources = []
    for number, part in enumerate(parts):
        sources.append(tmp_path / f"part-{number}.parquet")
        write_random_effect(sources[-1], part)
    path = tmp_path / "models.avro"
    written = avro.write_random_effect_models(path, sources, names, model_class=LOGISTIC)
    assert written.models == 40_000
    assert written.coefficients == sum(len(part.block.indices) for part in parts)
    found = read_by_fastavro(path)
    for i, part in itertools.product((0, 17, 19_999), parts):
        block = part.block
        mine = slice(block.coefficient_ptr[i], block.coefficient_ptr[i + 1])
        theirs = found[i + (20_000 if part is parts[1] else 0)]
        assert theirs["modelId"] == block.id_of(i)
        assert [int(item["term"]) for item in theirs["means"]] == block.indices[mine].tolist()
        assert [item["value"] for item in theirs["means"]] == block.coefficients[mine].tolist()
        assert block.variances is not None
        assert [item["value"] for item in theirs["variances"] or []] == block.variances[mine].tolist()
    # Our reader agrees, and gives back what a coordinate's coefficients were.
    back, counts = avro.import_random_effect(path, names)
    assert (counts.models, counts.unknown_features, counts.without_variance) == (40_000, 0, 0)
    assert back.id_of(1) == "000001"
    assert back.coefficients.sum() == pytest.approx(sum(part.block.coefficients.sum() for part in parts))
    avro.write_random_effect_models(tmp_path / "one.avro", sources[0], names, model_class=LOGISTIC)
    one, _ = avro.import_random_effect(tmp_path / "one.avro", names)
    for name in ("ids_bytes", "ids_ptr", "coefficient_ptr", "indices", "coefficients", "variances"):
        np.testing.assert_array_equal(getattr(one, name), getattr(parts[0].block, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(parts[0].block, name).dtype


def test_a_fixed_effect_there_and_back(tmp_path: Path) -> None:
    coefficients, variances = np.linspace(-1, 1, 6), np.linspace(0, 1, 6)
    write_fixed_effect(
        tmp_path / "fixed.parquet",
        coefficients,
        bags=["", *["b"] * 5],
        names=[name for name, _ in PAIRS],
        terms=[term for _, term in PAIRS],
        variances=variances,
    )
    path = tmp_path / "global_model.avro"
    avro.write_fixed_effect_model(path, tmp_path / "fixed.parquet", NAMES, model_class=LOGISTIC)
    (found,) = read_by_fastavro(path)
    assert found["modelId"] == "global model"
    assert [item["value"] for item in found["means"]] == coefficients.tolist()
    effect, counts = avro.import_fixed_effect(path, NAMES)
    np.testing.assert_array_equal(effect.coefficients, coefficients)
    np.testing.assert_array_equal(effect.variances, variances)
    assert counts.coefficients == 6
    with pytest.raises(DataError, match="6 coefficients has 2 names"):
        avro.write_fixed_effect_model(
            path, tmp_path / "fixed.parquet", FeatureNames.of(PAIRS[:2]), model_class=LOGISTIC
        )


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    paths = [tmp_path / "a.avro", tmp_path / "elsewhere" / "b.avro", tmp_path / "other.avro"]
    for path, value in zip(paths, (1.0, 1.0, 2.0), strict=True):
        write_models(path, [make_block({"a": {1: value}})], NAMES, model_class=LOGISTIC)
    same, again, other = (path.read_bytes() for path in paths)
    assert same == again
    assert same[-16:] != other[-16:], "the sync marker is made of the contents"


def test_nothing_of_a_file_that_cannot_be_written_stays(tmp_path: Path) -> None:
    good = make_block({"a": {1: 1.0}})
    not_text = CoefficientBlock(
        np.frombuffer(b"ok\xff", np.uint8), np.array([0, 2, 3]), np.zeros(3, np.int64),
        np.empty(0, np.int32), np.empty(0),
    )  # fmt: skip
    for wrong, message in (
        (make_block({"a": {6: 1.0}}), "another feature index"),
        (not_text, "is not UTF-8"),
    ):
        with pytest.raises(DataError, match=message):
            write_models(tmp_path / "a.avro", [good, wrong], NAMES, model_class=LOGISTIC)
    with pytest.raises(DataError, match=r"absent/a\.avro"):
        write_models(tmp_path / "absent" / "a.avro", [good], NAMES, model_class=LOGISTIC)
    assert list(tmp_path.iterdir()) == []


def test_a_model_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_model_avro_writing, "_BLOCK_BYTES", 100)
    block = make_block({str(number): {5: 1.0, 1: float(number)} for number in range(10)})
    write_models(tmp_path / "a.avro", [block], NAMES, model_class=LOGISTIC)
    with (tmp_path / "a.avro").open("rb") as file:
        assert sum(1 for _ in fastavro.block_reader(file)) == 10
    assert as_records(read_models(tmp_path / "a.avro"))["9"] == {PAIRS[5]: (1.0, None), PAIRS[1]: (9.0, None)}


# ---- reading ---------------------------------------------------------------------------------------------

FEATURE = st.sampled_from(PAIRS)
MODEL = st.dictionaries(FEATURE, st.floats(allow_nan=False), max_size=6)


@given(
    st.dictionaries(st.text(max_size=80), st.tuples(MODEL, st.none() | MODEL), max_size=8),
    st.sampled_from(["null", "deflate", "bzip2"]),
    st.sampled_from([1, 16_000]),
)
@settings(max_examples=80, deadline=None)
def test_what_fastavro_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    models: dict[str, tuple[dict[tuple[str, str], float], dict[tuple[str, str], float] | None]],
    codec: str,
    sync_interval: int,
) -> None:
    records = [
        record(
            name,
            [(*pair, value) for pair, value in means.items()],
            None if variances is None else [(*pair, value) for pair, value in variances.items()],
        )
        for name, (means, variances) in models.items()
    ]
    path = tmp_path_factory.mktemp("fastavro") / "models.avro"
    write_by_fastavro(path, records, codec=codec, sync_interval=sync_interval)
    found = read_models(path)
    assert found.model_classes == ((LOGISTIC,) if models else ())
    assert as_records(found) == {
        name: {
            pair: (means.get(pair, 0.0), (variances or {}).get(pair))
            for pair in dict.fromkeys([*means, *(variances or {})])
        }
        for name, (means, variances) in models.items()
    }
    # Where means come with their variances, they keep the file's order.
    if found.variances is None:
        assert [found.names.text(i) for i in found.features] == [
            (item["name"], item["term"]) for one in records for item in one["means"]
        ]


def test_several_files_are_one(tmp_path: Path) -> None:
    paths = [tmp_path / "part-00000.avro", tmp_path / "part-00001.avro"]
    write_by_fastavro(paths[0], [record("b", [("x", "1", 1.0)]), record("a", [("y", "", 2.0)])])
    write_by_fastavro(paths[1], [record("c", [("y", "", 3.0), ("z", "", 4.0)], [("z", "", 0.5)])])
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-00000.avro").touch()
    assert avro.model_files(tmp_path) == paths
    assert avro.model_files(paths[0]) == paths[:1]
    found = read_models(paths)
    assert found.ids.to_list() == [b"b", b"a", b"c"]
    assert len(found.names) == 3
    assert as_records(found)["c"] == {("y", ""): (3.0, None), ("z", ""): (4.0, 0.5)}
    write_by_fastavro(paths[1], [record("a", [])])
    with pytest.raises(DataError, match=r"2 files from .*part-00000.*modelId 'a'"):
        read_models(paths)


def test_no_model_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        avro.model_files(tmp_path / "absent")
    with pytest.raises(NotFound, match=r"ends in \.avro"):
        avro.model_files(tmp_path)
    with pytest.raises(DataError, match="absent: no such file"):
        read_models(tmp_path / "absent")


def avro_bytes(data: bytes) -> bytes:
    """Encode bytes as Avro does, with their length in front."""
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema("bytes"), data)
    return file.getvalue()


def container(data: bytes, codec: str, schema: Any = SCHEMA, records: int = 1) -> bytes:
    """Return an Avro file of one block."""
    entries = {"avro.codec": codec, "avro.schema": json.dumps(schema)}
    head = b"".join(avro_bytes(text.encode()) for entry in entries.items() for text in entry)
    return b"Obj\x01\x04" + head + b"\0" + b"s" * 16 + bytes([2 * records]) + avro_bytes(data) + b"s" * 16


def test_codecs_that_spark_writes(tmp_path: Path) -> None:
    plain = io.BytesIO()
    wanted = record("a", [("x" * 50, "", 1.0)] * 1)
    fastavro.schemaless_writer(plain, fastavro.parse_schema(SCHEMA), wanted)
    data = plain.getvalue()
    packed = pa.Codec("snappy").compress(data, asbytes=True)
    path = tmp_path / "a.avro"
    path.write_bytes(container(packed + zlib.crc32(data).to_bytes(4, "big"), "snappy"))
    assert as_records(read_models(path)) == {"a": {("x" * 50, ""): (1.0, None)}}
    path.write_bytes(container(packed + b"\0\0\0\0", "snappy"))
    with pytest.raises(DataError, match="block 1: its snappy data are damaged: the checksum"):
        read_models(path)
    path.write_bytes(container(packed[:-3] + zlib.crc32(data).to_bytes(4, "big"), "snappy"))
    with pytest.raises(DataError, match="block 1: its snappy data are damaged"):
        read_models(path)
    path.write_bytes(container(pa.Codec("zstd").compress(data, asbytes=True), "zstandard"))
    assert as_records(read_models(path)) == {"a": {("x" * 50, ""): (1.0, None)}}
    path.write_bytes(container(data, "lzo"))
    with pytest.raises(DataError, match="the codec is 'lzo'; allowed: bzip2, deflate, null, snappy"):
        read_models(path)


def nullable(kind: Any) -> list[Any]:
    return [kind, "null"]


SPARK: dict[str, Any] = {
    "type": "record",
    "name": "topLevelRecord",
    "fields": [
        {"name": "variances", "type": nullable({"type": "array", "items": nullable("means.means")})},
        {"name": "modelId", "type": nullable("string")},
        {
            "name": "means",
            "type": nullable(
                {
                    "type": "array",
                    "items": nullable(
                        {
                            "type": "record",
                            "name": "means",
                            "namespace": "means",
                            "fields": [
                                {"name": "value", "type": nullable("float")},
                                {"name": "name", "type": nullable("string")},
                                {"name": "term", "type": nullable("string")},
                            ],
                        }
                    ),
                }
            ),
        },
    ],
}
# A name is to be known before it is used.
SPARK["fields"].append(SPARK["fields"].pop(0))


def test_another_layout_of_the_same_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    model = record("a", [("x", "1", 0.5), ("y", "", 2.0)], [("y", "", 0.25)])
    write_by_fastavro(path, [model], SPARK, codec="deflate")
    assert as_records(read_models(path)) == {"a": {("x", "1"): (0.5, None), ("y", ""): (2.0, 0.25)}}
    assert read_models(path).model_classes == ()
    write_by_fastavro(path, [{**model, "modelId": None}], SPARK)
    with pytest.raises(DataError, match="block 1 cannot be read as linear models"):
        read_models(path)


def test_a_layout_that_differs_in_words_only(tmp_path: Path) -> None:
    text = {"type": "string", "avro.java.string": "String"}
    schema = json.loads(json.dumps(SCHEMA).replace('"string"', json.dumps(text)))
    schema["doc"] = "a model"
    schema["namespace"] = "elsewhere"
    path = write_by_fastavro(tmp_path / "a.avro", [record("a", [("x", "", 1.0)])], schema)
    assert as_records(read_models(path)) == {"a": {("x", ""): (1.0, None)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["fields"].pop(0), "no field 'modelId'"),
        (lambda s: s["fields"].pop(2), "no field 'means'"),
        (lambda s: s["fields"][2]["type"]["items"]["fields"].pop(1), "items of 'means' have no field 'term'"),
        (lambda s: s["fields"][2].update(type="string"), "field 'means' of its schema is not an array"),
        (lambda s: s["fields"][3].update(type="string"), "field 'variances' of its schema is not an array"),
        (lambda s: s["fields"][3].update(type={"type": "array", "items": "string"}), "items of 'variances'"),
    ],
)
def test_schemas_of_something_else(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    schema = json.loads(json.dumps(SCHEMA))
    change(schema)
    path = tmp_path / "a.avro"
    path.write_bytes(container(b"", "null", schema))
    with pytest.raises(DataError, match=message):
        read_models(path)


def test_files_that_are_no_model_files(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    for content, message in (
        (b"", "is not an Avro file"),
        (b"PAR1 and more", "is not an Avro file"),
        (b"Obj\x01\x00" + b"s" * 16, "the header holds no schema"),
        (b"Obj\x01\x02\x16avro.schema\x04[]\x00" + b"s" * 16, "no field 'modelId'"),
        (b"Obj\x01" + b"\xff" * 20, "more than 64 bits"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_models(path)


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_no_file_cut_or_changed_anywhere_is_misread(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.avro"
    records = [record("one", [("x", "", 1.0)], [("x", "", 2.0)]), record("two", [("y", "1", 3.0)])]
    write_by_fastavro(path, records, codec=codec)
    whole = path.read_bytes()
    header = whole.index(whole[-16:]) + 16
    for length in range(len(whole)):
        if length == header:
            continue  # a file without blocks is complete: it holds no models
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.avro"):
            read_models(path)
    rng = np.random.default_rng(0)
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            read_models(path)
        except GdmixError:
            refused += 1
    assert refused > len(whole) // 3


@given(st.binary(max_size=60), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_any_bytes_in_a_block(tmp_path_factory: pytest.TempPathFactory, data: bytes, records: int) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.avro"
    path.write_bytes(container(data, "null", records=records))
    try:
        found = read_models(path)
    except DataError:
        return
    assert len(found) == records


def test_arrays_in_pieces(tmp_path: Path) -> None:
    x, y = (b"\x02" + name + b"\x00" + np.float64(1.0).tobytes() for name in (b"x", b"y"))
    pieces = b"\x02" + x + b"\x01" + bytes([2 * len(y)]) + y + b"\x00"
    path = tmp_path / "a.avro"
    path.write_bytes(container(b"\x02a" + b"\x00" + pieces + b"\x00" + b"\x00", "null"))
    assert as_records(read_models(path)) == {"a": {("x", ""): (1.0, None), ("y", ""): (1.0, None)}}
    path.write_bytes(container(b"\x02a" + b"\x00" + pieces + b"\x00" + b"\x00" + b"z", "null"))
    with pytest.raises(DataError, match="block 1: the end is damaged"):
        read_models(path)
    path.write_bytes(container(b"\x02\xff" + b"\x00" + pieces + b"\x00" + b"\x00", "null"))
    with pytest.raises(DataError, match=r"modelId .* is not UTF-8"):
        read_models(path)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record("a", []), record("b", []), record("a", [])], "two models have the modelId 'a'"),
        (
            [record("a", [("x", "", 1.0)]), record("b", [("x", "", 1.0), ("y", "", 1.0), ("x", "", 2.0)])],
            "model 'b' has two coefficients with the name 'x' and the term ''",
        ),
        (
            [record("a", [("x", "", 1.0)], [("x", "t", 1.0), ("x", "t", 1.0)])],
            "model 'a' has two variances with the name 'x' and the term 't'",
        ),
    ],
)
def test_what_may_not_be_there_twice(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    path = write_by_fastavro(tmp_path / "a.avro", records)
    with pytest.raises(DataError, match=message):
        read_models(path)


# ---- models on a feature index ---------------------------------------------------------------------------


def test_models_on_an_index(tmp_path: Path) -> None:
    path = write_by_fastavro(
        tmp_path / "a.avro",
        [
            record("zoe", [("new", "", 9.0), (*PAIRS[3], 3.0), (*PAIRS[0], 0.5), (*PAIRS[1], 1.0)]),
            record("adam", [("new", "", 8.0), ("newer", "1", 7.0)]),
            record("", [(*PAIRS[2], 2.0)]),
        ],
    )
    block, counts = avro.map_models(read_models(path), NAMES)
    assert [block.id_of(i) for i in range(3)] == ["", "adam", "zoe"]
    assert block.coefficient_ptr.tolist() == [0, 1, 1, 4]
    assert block.indices.tolist() == [2, 0, 1, 3]
    assert block.indices.dtype == np.int32
    assert block.coefficients.tolist() == [2.0, 0.5, 1.0, 3.0]
    assert block.variances is None
    assert (counts.models, counts.coefficients, counts.without_variance) == (3, 4, 4)
    assert (counts.unknown_features, counts.unknown_coefficients) == (2, 3)
    assert counts.unknown_examples == (("new", ""), ("newer", "1"))
    # Without an intercept in the coordinate, that of the model is unknown too.
    _, without = avro.map_models(read_models(path), FeatureNames.of(PAIRS[1:]))
    assert ("(INTERCEPT)", "") in without.unknown_examples
    _, nothing = avro.map_models(read_models(path), FeatureNames.of([]))
    assert nothing.coefficients == 0
    assert nothing.unknown_coefficients == 7


def test_variances_are_taken_over_when_all_are_there(tmp_path: Path) -> None:
    x, y = PAIRS[1], PAIRS[2]
    complete = record("a", [(*y, 1.0), (*x, 2.0), ("new", "", 3.0)], [(*x, 0.2), (*y, 0.1)])
    path = write_by_fastavro(tmp_path / "a.avro", [complete])
    block, counts = avro.map_models(read_models(path), NAMES)
    assert block.variances is not None
    assert block.variances.tolist() == [0.2, 0.1]
    assert counts.without_variance == 0
    write_by_fastavro(path, [complete, record("b", [(*x, 1.0)])])
    block, counts = avro.map_models(read_models(path), NAMES)
    assert block.variances is None
    assert counts.without_variance == 1


def test_a_fixed_effect_on_an_index(tmp_path: Path) -> None:
    path = write_by_fastavro(tmp_path / "a.avro", [record("g", [(*PAIRS[4], 4.0), (*PAIRS[0], 0.5)])])
    effect, _ = avro.import_fixed_effect(path, NAMES)
    assert effect.coefficients.tolist() == [0.5, 0.0, 0.0, 0.0, 4.0, 0.0]
    assert effect.variances is None
    write_by_fastavro(path, [record("g", []), record("h", [])])
    with pytest.raises(DataError, match="holds 2 models; that of a fixed effect is one"):
        avro.import_fixed_effect(path, NAMES)


@pytest.mark.parametrize(
    ("means", "variances", "message"),
    [
        ([("x", "", np.nan)], None, "the value of .* 'x' .* is nan"),
        ([("x", "", -np.inf)], None, "the value of .* 'x' .* is -inf"),
        ([("x", "", 1.0)], [("x", "", -1.0)], "the variance of .* 'x' .* is -1.0"),
        ([("x", "", 1.0)], [("x", "", np.inf)], "the variance of .* 'x' .* is inf"),
    ],
)
def test_values_that_cannot_be_a_warm_start(
    tmp_path: Path, means: list[Item], variances: list[Item] | None, message: str
) -> None:
    path = write_by_fastavro(tmp_path / "a.avro", [record("m", []), record("n", means, variances)])
    with pytest.raises(DataError, match=f"model 'n': {message}"):
        avro.map_models(read_models(path), NAMES)


# ---- splitting -------------------------------------------------------------------------------------------


def test_split(tmp_path: Path) -> None:
    crossed = [
        ("bob_gdmixcross_x", "1", 1.0),
        ("ann_gdmixcross_x", "1", 2.0),
        ("(INTERCEPT)", "", 0.75),
        ("bob_gdmixcross_y,é", "", 3.0),
        ("ann_gdmixcross_y_gdmixcross_z", "", 4.0),
        ("ann_gdmixcross_(INTERCEPT)", "", 5.0),
    ]
    source = write_by_fastavro(tmp_path / "a.avro", [record("global", crossed, crossed[1:])])
    done = avro.split_models(source, tmp_path / "out", files=1)
    assert (done.models, done.coefficients, done.intercept) == (2, 5, 0.75)
    assert done.files == (tmp_path / "out" / "part-00000.avro",)
    ann = [("x", "1", 2.0), ("y_gdmixcross_z", "", 4.0), ("(INTERCEPT)", "", 5.0)]
    bob = [("x", "1", 1.0), ("y,é", "", 3.0)]
    assert read_by_fastavro(done.files[0]) == [record("ann", ann, ann), record("bob", bob, bob[1:])]


def test_split_into_files(tmp_path: Path) -> None:
    features = [(f"m{i}_gdmixcross_f{k}", "", float(i * k)) for k in range(3) for i in range(100)]
    source = write_by_fastavro(tmp_path / "a.avro", [record("global", features)])
    first = avro.split_models([source], tmp_path / "first", files=4)
    again = avro.split_models(source, tmp_path / "again", files=4)
    assert first.intercept is None
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in again.files]
    found = [read_by_fastavro(path) for path in first.files]
    assert min(map(len, found)) > 0
    for models in found:
        ids = [model["modelId"] for model in models]
        assert ids == sorted(ids)
    together = {model["modelId"]: model for models in found for model in models}
    assert together == {
        f"m{i}": record(f"m{i}", [(f"f{k}", "", float(i * k)) for k in range(3)]) for i in range(100)
    }


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record("g", []), record("h", [])], "holds 2 models; the splitter takes one"),
        ([], "holds 0 models"),
        (
            [record("g", [("a_gdmixcross_x", "", 1.0), ("plain", "", 1.0), ("other", "_gdmixcross_", 1.0)])],
            "2 of 3 features are not named <model>_gdmixcross_<feature>.*: 'plain', 'other'",
        ),
        ([record("g", [("_gdmixcross_x", "", 1.0)])], "1 of 1 features"),
        ([record("g", [("a_gdmixcross_", "", 1.0)])], "1 of 1 features"),
    ],
)
def test_models_that_cannot_be_split(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    source = write_by_fastavro(tmp_path / "a.avro", records)
    with pytest.raises(DataError, match=message):
        avro.split_models(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_split_into_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="number of files is 0"):
        avro.split_models(tmp_path / "a.avro", tmp_path, files=0)
