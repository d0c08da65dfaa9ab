"""Avro model files: coefficients a second written and read, on one thread.

    python benchmarks/model_export.py [--entities 200000] [--coefficients 20] [--features 100000] [--rounds 3]

A random effect of so many entities with so many coefficients each, drawn from so many features named by a column and a
term. Written: from Parquet to a deflated Avro file, and the records alone without files and deflate. Read: the file to
flat arrays, and those to the numbers of an index. For comparison fastavro writes and reads a hundredth of the entities
from and to Python objects. Kernels are compiled before the clock starts; the best round counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from gdmix_core.data.feature_index import CoordinateNames
from gdmix_core.model.coefficients import RandomEffectCoefficients, iterate_blocks, write_random_effect
from gdmix_core.model.linear_model_avro import (
    MODEL_CLASSES,
    FeatureNames,
    map_models,
    read_models,
    write_models,
    write_random_effect_models,
)
from gdmix_core.model.linear_model_avro_file import SCHEMA
from gdmix_core.model.linear_model_avro_writing import RecordEncoder
from gdmix_core.store import CoefficientBlock

MODEL_CLASS = MODEL_CLASSES["logistic_regression"]


def make_names(features: int) -> FeatureNames:
    terms = pa.array([f"term {number}" for number in range(features - 1)], pa.large_string())
    bags, columns = (
        pa.array(["", *[text] * (features - 1)], pa.large_string()) for text in ("all", "category")
    )
    names = pa.concat_arrays([pa.array(["(INTERCEPT)"], pa.large_string()), columns.slice(1)])
    return FeatureNames.of_coordinate(
        CoordinateNames(bags, names, pa.concat_arrays([pa.array([""], pa.large_string()), terms]))
    )


def make_part(entities: int, coefficients: int, features: int) -> RandomEffectCoefficients:
    rng = np.random.default_rng(0)
    step = features // coefficients
    indices = (np.arange(coefficients) * step + rng.integers(0, step, (entities, coefficients))).astype(
        np.int32
    )
    indices[:, 0] = 0
    ids = b"".join(b"member-%012d" % number for number in range(entities))
    block = CoefficientBlock(
        ids_bytes=np.frombuffer(ids, np.uint8),
        ids_ptr=np.arange(entities + 1) * 19,
        coefficient_ptr=np.arange(entities + 1) * coefficients,
        indices=indices.ravel(),
        coefficients=rng.normal(size=indices.size),
    )
    return RandomEffectCoefficients(
        block,
        rows=np.ones(entities, np.int64),
        status=np.zeros(entities, np.uint8),
        iterations=np.ones(entities, np.int32),
        gradient_norm=np.zeros(entities),
    )


def best(call: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest round, after one that does not count."""
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def encode_only(block: CoefficientBlock, names: FeatureNames) -> int:
    return sum(len(data) for _, data in RecordEncoder(names, MODEL_CLASS, 0.0).encoded([block]))


def fastavro_write(path: Path, records: list[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        fastavro.writer(
            file, fastavro.parse_schema(SCHEMA), records, codec="deflate", codec_compression_level=1
        )


def fastavro_read(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(fastavro.reader(file))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entities", type=int, default=200_000)
    parser.add_argument("--coefficients", type=int, default=20)
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = make_names(options.features)
    part = make_part(options.entities, options.coefficients, options.features)
    total, few = len(part.block.indices), max(1, options.entities // 100)
    with tempfile.TemporaryDirectory() as directory:
        parquet, avro, small = (
            Path(directory) / name for name in ("part.parquet", "part.avro", "small.avro")
        )
        write_random_effect(parquet, part)

        def write() -> None:
            write_random_effect_models(avro, parquet, names, model_class=MODEL_CLASS)

        def report(what: str, seconds: float, coefficients: int = total) -> None:
            print(f"{what:<46} {coefficients / seconds:>14,.0f} coefficients/s  {seconds:>7.3f} s")

        print(
            f"{options.entities:,} entities, {total:,} coefficients, {options.features:,} features, "
            f"Parquet {parquet.stat().st_size / 1e6:.1f} MB"
        )
        report("read the Parquet file", best(lambda: list(iterate_blocks(parquet)), options.rounds))
        report("encode records in memory", best(lambda: encode_only(part.block, names), options.rounds))
        report("write Parquet to Avro", best(write, options.rounds))
        report("read Avro to flat arrays", best(lambda: read_models(avro), options.rounds))
        models = read_models(avro)
        report("map to the index", best(lambda: map_models(models, names), options.rounds))
        plain = encode_only(part.block, names)
        print(f"Avro file {avro.stat().st_size / 1e6:.1f} MB, {plain / 1e6:.1f} MB of records")
        first = make_part(few, options.coefficients, options.features)
        write_models(small, [first.block], names, model_class=MODEL_CLASS)
        records = fastavro_read(small)
        count = len(first.block.indices)
        report(
            "fastavro writes Python objects",
            best(lambda: fastavro_write(small, records), options.rounds),
            count,
        )
        report("fastavro reads to Python objects", best(lambda: fastavro_read(small), options.rounds), count)


if __name__ == "__main__":
    main()
