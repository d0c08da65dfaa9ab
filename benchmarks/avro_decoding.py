"""How fast Avro rows become Arrow columns on one thread: our decoder, and fastavro.

    python benchmarks/avro_decoding.py [--rows 200000] [--codec null,deflate] [--rounds 3] [--directory DIR]

Two files of rows with uid, label and 20 features: (a) as arrays `x_indices` (int) and `x_values` (float); (b) as
Photon-ML's bag of name, term and value, with a metadata map in which the user's id lies. Ours reads all columns as
Arrow arrays, and for (b) in addition makes the keys `name`, byte 1, `term`; fastavro's rate is that of its Python
objects alone, before anything is made of them. Blocks are of 64 KB, as Java writes them. Kernels are compiled before
the clock starts; the best round counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

from gdmix_core.data.input_files import NeededColumn
from gdmix_core.data.name_term_values import name_term_values
from gdmix_core.data.readers_avro import read_avro

FEATURES = 20
ARRAYS = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "uid", "type": "long"},
        {"name": "label", "type": "double"},
        {"name": "x_indices", "type": {"type": "array", "items": "int"}},
        {"name": "x_values", "type": {"type": "array", "items": "float"}},
    ],
}
FEATURE = {
    "type": "record",
    "name": "FeatureAvro",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "term", "type": "string"},
        {"name": "value", "type": "double"},
    ],
}
PHOTON = {
    "type": "record",
    "name": "TrainingExampleAvro",
    "fields": [
        {"name": "uid", "type": ["null", "string", "long"]},
        {"name": "response", "type": "double"},
        {"name": "weight", "type": ["null", "double"]},
        {"name": "offset", "type": ["null", "double"]},
        {"name": "metadataMap", "type": ["null", {"type": "map", "values": "string"}]},
        {"name": "features", "type": {"type": "array", "items": FEATURE}},
    ],
}
COLUMNS = {
    "arrays": (("uid", "uid"), ("label", "number"), ("x", "vector")),
    "bag": (
        ("uid", "uid"),
        ("response", "number"),
        ("weight", "number"),
        ("offset", "number"),
        ("metadataMap.userId", "entity"),
        ("features", "list"),
    ),
}


def array_rows(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for i in range(count):
        yield {
            "uid": i,
            "label": float(i % 2),
            "x_indices": rng.integers(0, 100_000, FEATURES).tolist(),
            "x_values": rng.random(FEATURES).tolist(),
        }


def bag_rows(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for i in range(count):
        terms = rng.integers(0, 5_000, FEATURES).tolist()
        values = rng.random(FEATURES).tolist()
        yield {
            "uid": i,
            "response": float(i % 2),
            "weight": 1.0,
            "offset": None,
            "metadataMap": {"userId": f"user-{i // 20}", "itemId": f"item-{i % 1000}"},
            "features": [
                {"name": f"feature-{k}", "term": f"term-{term}", "value": value}
                for k, (term, value) in enumerate(zip(terms, values, strict=True))
            ],
        }


def best_seconds(call: Callable[[], int], rounds: int, rows: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        assert call() == rows
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(path: Path, form: str, keys: bool) -> int:
    columns = [NeededColumn(name, (use,)) for name, use in COLUMNS[form]]  # type: ignore[arg-type]
    rows = 0
    for batch in read_avro(str(path), columns):
        rows += batch.num_rows
        if keys:
            name_term_values(batch.column("features"), "features")
    return rows


def theirs(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in fastavro.reader(stream))


def measure(path: Path, form: str, rounds: int, rows: int) -> None:
    ours(path, form, form == "bag")  # compiles
    readers = {"ours": lambda: ours(path, form, False), "fastavro": lambda: theirs(path)}
    if form == "bag":
        readers["ours with keys"] = lambda: ours(path, form, True)
    for name, call in readers.items():
        seconds = best_seconds(call, rounds, rows)
        megabytes = path.stat().st_size / 1e6 / seconds
        print(f"{path.name:24}{name:16}{rows / seconds:12,.0f} rows/s{megabytes:8.0f} MB/s of file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--codec", default="null,deflate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        for form, schema, rows in (("arrays", ARRAYS, array_rows), ("bag", PHOTON, bag_rows)):
            for codec in options.codec.split(","):
                path = directory / f"{form}-{codec}.avro"
                with path.open("wb") as stream:
                    fastavro.writer(stream, schema, rows(options.rows), codec, sync_interval=64_000)
                measure(path, form, options.rounds, options.rows)


if __name__ == "__main__":
    main()
