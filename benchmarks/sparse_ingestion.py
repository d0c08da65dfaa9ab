"""From files of sparse rows to prepared shards, on one thread, format by format.

    python benchmarks/sparse_ingestion.py [--rows 200000] [--rounds 3]

Rows of 20 features out of 1,000, as a recommender's logs have them: uid, label, a user id, and one bag, which
is a struct of indices and values in Parquet, `bag_indices` and `bag_values` in TFRecord and Avro, and a list
of {name, term, value} in Avro of Photon-ML. Measured are the index pass, encoding with spilling, and building
the home shards: all that lies between a file and training. Beside it: how fast the format's own decoder gives
these rows without any of that. The best of the rounds counts; kernels are compiled before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data.encoding import encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.home_shards import HomeShardPaths, build_home_shard
from gdmix_core.data.inspection import inspect_data
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.data.readers import needed_columns, read_split
from gdmix_core.data.spill import write_spill
from gdmix_core.tasks import MAIN_SOURCE

FEATURES = 20
DIMENSION = 1_000
SHARDS = 4


class Rows:
    """The rows, as arrays."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(0)
        self.uid = np.arange(rows)
        self.label = rng.integers(0, 2, rows)
        self.user = rng.integers(0, max(1, rows // 20), rows)
        draws = rng.integers(0, DIMENSION // FEATURES, (rows, FEATURES))
        self.indices = draws + np.arange(FEATURES) * (DIMENSION // FEATURES)
        self.values = rng.random((rows, FEATURES)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.uid)


def write_parquet(rows: Rows, path: Path) -> None:
    offsets = np.arange(0, len(rows) * FEATURES + 1, FEATURES, dtype=np.int32)
    lists = [pa.ListArray.from_arrays(offsets, array.ravel()) for array in (rows.indices, rows.values)]
    bag = pa.StructArray.from_arrays(lists, ["indices", "values"])
    table = pa.table({"uid": rows.uid, "label": rows.label, "user_id": rows.user, "bag": bag})
    pq.write_table(table, path, row_group_size=100_000)


def write_tfrecord(rows: Rows, path: Path) -> None:
    import tensorflow as tf

    train = tf.train
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(len(rows)):
            feature = {
                name: train.Feature(int64_list=train.Int64List(value=values))
                for name, values in (
                    ("uid", [rows.uid[i]]),
                    ("label", [rows.label[i]]),
                    ("user_id", [rows.user[i]]),
                    ("bag_indices", rows.indices[i]),
                )
            }
            feature["bag_values"] = train.Feature(float_list=train.FloatList(value=rows.values[i]))
            writer.write(train.Example(features=train.Features(feature=feature)).SerializeToString())
    described = [
        {"name": name, "dtype": "long", "shape": [], "isSparse": False}
        for name in ("uid", "label", "user_id")
    ]
    described.append({"name": "bag", "dtype": "float", "shape": [DIMENSION], "isSparse": True})
    (path.parent / "tensor_metadata.json").write_text(json.dumps({"features": described}))


def write_avro(rows: Rows, path: Path) -> None:
    fields: list[dict[str, Any]] = [{"name": name, "type": "long"} for name in ("uid", "label", "user_id")]
    fields += [
        {"name": "bag_indices", "type": {"type": "array", "items": "long"}},
        {"name": "bag_values", "type": {"type": "array", "items": "float"}},
    ]
    records = (
        {
            "uid": int(rows.uid[i]),
            "label": int(rows.label[i]),
            "user_id": int(rows.user[i]),
            "bag_indices": rows.indices[i].tolist(),
            "bag_values": rows.values[i].tolist(),
        }
        for i in range(len(rows))
    )
    _write_avro(path, fields, records)


def write_photon(rows: Rows, path: Path) -> None:
    item = {
        "type": "record",
        "name": "NameTermValueAvro",
        "fields": [
            {"name": "name", "type": "string"},
            {"name": "term", "type": "string"},
            {"name": "value", "type": "double"},
        ],
    }
    fields: list[dict[str, Any]] = [{"name": name, "type": "long"} for name in ("uid", "label", "user_id")]
    fields.append({"name": "bag", "type": {"type": "array", "items": item}})
    records = (
        {
            "uid": int(rows.uid[i]),
            "label": int(rows.label[i]),
            "user_id": int(rows.user[i]),
            "bag": [
                {"name": f"feature{j % 10}", "term": str(j), "value": value}
                for j, value in zip(rows.indices[i].tolist(), rows.values[i].tolist(), strict=True)
            ],
        }
        for i in range(len(rows))
    )
    _write_avro(path, fields, records)


def _write_avro(path: Path, fields: list[dict[str, Any]], records: Iterator[dict[str, Any]]) -> None:
    schema = fastavro.parse_schema({"type": "record", "name": "Row", "fields": fields})
    with path.open("wb") as file:
        fastavro.writer(file, schema, records, codec="deflate", sync_interval=1 << 20)


WRITERS: dict[str, tuple[Callable[[Rows, Path], None], str]] = {
    "Parquet": (write_parquet, "rows.parquet"),
    "TFRecord": (write_tfrecord, "rows.tfrecord"),
    "Avro, arrays": (write_avro, "rows.avro"),
    "Avro, name-term-value": (write_photon, "photon.avro"),
}


def measure(name: str, path: Path, rows: int, rounds: int) -> None:
    kind = "name_term_value" if "name" in name else "vector"
    column: dict[str, object] = {"column": "bag", "kind": kind}
    if kind == "vector":
        column["dimension"] = DIMENSION
    data: dict[str, object] = {"train": str(path)}
    if path.suffix == ".tfrecord":
        data["metadata"] = str(path.parent / "tensor_metadata.json")
    splits, encoding = inspect_data(
        DataConfig.model_validate(data),
        {"bag": (FeatureColumn.model_validate(column),)},
        ("user_id",),
        "logistic_regression",
    )
    needed = needed_columns(encoding)
    best = {stage: float("inf") for stage in ("decode", "index", "encode", "shards", "all")}
    for _ in range(rounds + 1):  # the first round compiles
        clock = [time.perf_counter()]
        for split in splits:
            for _part in read_split(split, needed):
                pass
        clock.append(time.perf_counter())
        prepare(splits, encoding, path.parent, clock)
        decode, index, encode, shards = np.diff(clock)
        for stage, seconds in zip(
            best, (decode, index, encode, shards, index + encode + shards), strict=True
        ):
            best[stage] = min(best[stage], float(seconds))
    rates = "  ".join(f"{stage} {rows / seconds:>10,.0f}" for stage, seconds in best.items())
    print(f"{name:22} {path.stat().st_size / rows:6.0f} bytes/row   {rates}   rows/s", flush=True)


def prepare(splits: Any, encoding: Any, directory: Path, clock: list[float]) -> None:
    partials, spills = [], []
    for number, split in enumerate(splits):
        partials.append(directory / f"partial-{number}")
        partials[-1].mkdir(exist_ok=True)
        index_split(split, encoding, partials[-1])
    sizes, _ = merge_index(encoding, partials, directory)
    index = FeatureIndex.load(directory)
    clock.append(time.perf_counter())
    for number, split in enumerate(splits):
        spills.append(directory / f"spill-{number}")
        write_spill(spills[-1], encode_split(split, encoding, index).rows, SHARDS)
    clock.append(time.perf_counter())
    for shard in range(SHARDS):
        paths = HomeShardPaths(
            rows=directory / "rows",
            designs={"global": directory / "design"},
            groupings={"per_user": directory / "grouping"},
        )
        build_home_shard(
            shard,
            {MAIN_SOURCE: spills},
            paths,
            designs=[DesignSpec(name="global", bags=("bag",), intercept=True)],
            groupings=[
                GroupingSpec(
                    name="per_user", entity_column="user_id", partitions=4, bags=("bag",), intercept=True
                )
            ],
            bag_sizes=sizes,
        )
    clock.append(time.perf_counter())


def fastavro_rate(path: Path, rows: int) -> None:
    started = time.perf_counter()
    with path.open("rb") as file:
        for _ in fastavro.reader(file):
            pass
    print(
        f"{path.name}: fastavro's own rate {rows / (time.perf_counter() - started):,.0f} rows/s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    rows = Rows(arguments.rows)
    with tempfile.TemporaryDirectory() as temporary:
        for name, (write, file) in WRITERS.items():
            path = Path(temporary, file)
            write(rows, path)
            measure(name, path, len(rows), arguments.rounds)
            if path.suffix == ".avro":
                fastavro_rate(path, len(rows))


if __name__ == "__main__":
    main()
