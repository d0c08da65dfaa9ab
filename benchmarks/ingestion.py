"""How fast input becomes arrays: rows a second of the index pass and of encoding, on one thread.

    python benchmarks/ingestion.py [--rows 400000] [--formats parquet,csv,jsonl] [--directory DIR]

The data: uid, label, weight, one entity column, and 20 feature columns: 12 numeric, 6 categorical (10 to
50,000 terms), 1 list of one to four out of 20 terms, 1 text of six words out of 2,000. Files are written to a
temporary directory unless one is given. Kernels are compiled before the clock starts; the best round counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from gdmix_core.config import DataConfig, FeatureColumn
from gdmix_core.data.encoding import encode_split
from gdmix_core.data.feature_index import FeatureIndex, index_split, merge_index
from gdmix_core.data.inspection import inspect_data

CARDINALITIES = (10, 20, 100, 1_000, 10_000, 50_000)


def make_table(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    columns: dict[str, pa.Array] = {
        "uid": pa.array(rng.permutation(rows).astype(np.int64)),
        "label": pa.array(rng.integers(0, 2, rows).astype(np.float64)),
        "weight": pa.array(rng.random(rows) + 0.5),
        "user_id": pa.array(np.char.add("user-", rng.integers(0, max(1, rows // 20), rows).astype(str))),
    }
    columns |= {f"number_{i}": pa.array(np.round(rng.normal(size=rows), 4)) for i in range(12)}
    for i, size in enumerate(CARDINALITIES):
        terms = pa.array([f"term {k}" for k in range(size)])
        columns[f"category_{i}"] = terms.take(pa.array((size * rng.random(rows) ** 2).astype(np.int64)))
    lengths = rng.integers(1, 5, rows)
    genres = pa.array([f"genre {k}" for k in range(20)]).take(pa.array(rng.integers(0, 20, lengths.sum())))
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    columns["genres"] = pa.ListArray.from_arrays(pa.array(offsets), genres)
    words = rng.integers(0, 2_000, (rows, 6)).astype(str)
    text = words[:, 0]
    for k in range(1, 6):
        text = np.char.add(np.char.add(text, " w"), words[:, k])
    columns["title"] = pa.array(text)
    return pa.table(columns)


def write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=100_000)
        return
    joined = [
        "|".join(items) for items in table.column("genres").to_pylist()
    ]  # text files hold the list as one string
    flat = table.set_column(table.schema.get_field_index("genres"), "genres", pa.array(joined))
    if path.suffix == ".csv":
        pa_csv.write_csv(flat, path)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in flat.to_pylist())


def features(text_file: bool) -> dict[str, tuple[FeatureColumn, ...]]:
    genres = {"column": "genres", "kind": "list"} | ({"separator": "|"} if text_file else {})
    columns: list[object] = [
        *({"column": f"number_{i}", "kind": "numeric"} for i in range(12)),
        *({"column": f"category_{i}", "kind": "categorical"} for i in range(len(CARDINALITIES))),
        genres,
        {"column": "title", "kind": "text", "weighting": "tfidf"},
    ]
    return {"all": tuple(FeatureColumn.model_validate(column) for column in columns)}


def measure(path: Path, rows: int, repeats: int) -> None:
    data = DataConfig.model_validate({"train": str(path), "columns": {"weight": "weight"}})
    bags = features(path.suffix != ".parquet")
    splits, encoding = inspect_data(data, bags, ("user_id",), "logistic_regression")
    best_index = best_encode = float("inf")
    for _ in range(repeats + 1):  # the first round also warms kernels and the page cache
        started = time.perf_counter()
        directories = []
        for number, split in enumerate(splits):
            directory = path.parent / f"{path.name}-partial-{number}"
            directory.mkdir(exist_ok=True)
            index_split(split, encoding, directory)
            directories.append(directory)
        sizes, _ = merge_index(encoding, [str(d) for d in directories], str(path.parent))
        indexed = time.perf_counter()
        index = FeatureIndex.load(path.parent)
        nonzeros = 0
        for split in splits:
            nonzeros += len(encode_split(split, encoding, index).rows.bags["all"].indices)
        encoded = time.perf_counter()
        best_index = min(best_index, indexed - started)
        best_encode = min(best_encode, encoded - indexed)
    print(
        f"{path.suffix[1:]:8} {rows:>9,} rows  {path.stat().st_size / rows:6.0f} bytes/row  "
        f"index {rows / best_index:>11,.0f} rows/s  encode {rows / best_encode:>11,.0f} rows/s  "
        f"{sizes['all']:,} features, {nonzeros / rows:.1f} nonzeros/row  "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--formats", default="parquet,csv,jsonl")
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        table = make_table(arguments.rows)
        for form in arguments.formats.split(","):
            path = directory / f"rows.{form}"
            write(table, path)
            measure(path, arguments.rows, arguments.repeats)


if __name__ == "__main__":
    main()
