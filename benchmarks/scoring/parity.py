"""Offline against online: every validation row of MovieLens-100K, scored by a running service, in three forms.

    gdmix-cli data fetch movielens-100k --directory examples/movielens/data
    python benchmarks/scoring/parity.py

Trains examples/movielens/movielens.yaml into LMDB and into Redis and scores all 20,000 validation rows as named
columns, as packed arrays, and by the Open Inference Protocol. Compared with the sums of the model directory's
coefficients, written out in numpy without any code of the scorer; the job's own validation metrics, made of its
workers' scores, must come out of the answers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import polars as pl
from servers import redis_server
from sklearn.metrics import log_loss, roc_auc_score

from gdmix_client import ColumnarRequest, FeatureRows, Job, JobState, LocalCluster, LocalScorer, Scorer
from gdmix_core.config import load_config
from gdmix_core.data.encoding import RowEncoder
from gdmix_core.data.feature_index import FeatureIndex
from gdmix_core.security import bearer_metadata
from gdmix_proto.inference.v2 import inference_pb2 as wire

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "movielens" / "movielens.yaml"
BATCH = 500
COLUMNS = ["user_id", "movie_id", "age", "gender", "occupation", "genres", "release_year"]
USER = ("age", "gender", "occupation")
Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print(f"{'store':6} {'form':10} {'largest difference':>20} {'AUC':>18} {'log loss':>18}")
    with tempfile.TemporaryDirectory() as scratch, redis_server() as redis:
        for name, store in (("lmdb", f"lmdb:{scratch}/store"), ("redis", redis)):
            compare(name, store, Path(scratch) / name)


def compare(name: str, store: str, output: Path) -> None:
    """Train into one store and score its validation rows in every form."""
    config = load_config(EXAMPLE, {"output": str(output), "store": store})
    with LocalCluster(workers=2) as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.wait(client.submit(config).job_id)
    if job.state is not JobState.SUCCEEDED or job.published is None:
        raise SystemExit(job.error)
    rows = pl.read_parquet(config.data.validation)
    directory = Path(job.published.directory)
    expected = offline(directory, rows)
    report(name, "training", expected, expected, rows, told(job))
    with LocalScorer(store) as local, local.client() as scorer:
        local.wait_until_ready()
        index = FeatureIndex.load(directory / "feature_index.parquet")
        forms: dict[str, Callable[[pl.DataFrame], Array]] = {
            "readable": lambda part: readable(scorer, part),
            "columnar": lambda part: columnar(scorer, part, index),
        }
        for form, score in forms.items():
            found = np.concatenate([score(part) for part in batches(rows)])
            report(name, form, found, expected, rows)
        with grpc.insecure_channel(local.address) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                wire.ModelInferRequest.SerializeToString,
                wire.ModelInferResponse.FromString,
            )
            metadata = bearer_metadata(local.connection.token)

            def ask(request: wire.ModelInferRequest) -> wire.ModelInferResponse:
                return infer(request, timeout=10, metadata=metadata)

            found = np.concatenate([inference(ask, part) for part in batches(rows)])
            report(name, "inference", found, expected, rows)


def report(
    store: str,
    form: str,
    found: Array,
    expected: Array,
    rows: pl.DataFrame,
    told: dict[str, Any] | None = None,
) -> None:
    """Print one line; of the training job, the metrics that it told."""
    labels = rows["response"].to_numpy()
    auc, loss = roc_auc_score(labels, found), log_loss(labels, 1 / (1 + np.exp(-found)))
    difference = f"{np.abs(found - expected).max():.1e}"
    if told is not None:
        auc, loss, difference = told["auc"], told["logloss"], "(its own metrics)"
    print(f"{store:6} {form:10} {difference:>20} {auc:18.15f} {loss:18.15f}", flush=True)


def told(job: Job) -> dict[str, Any]:
    """Return the metrics of the whole model, as the job reports them."""
    return {metric.name: metric.value for metric in job.kept_coordinates[-1].validation}


def batches(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return (rows.slice(start, BATCH) for start in range(0, len(rows), BATCH))


# ---- offline ---------------------------------------------------------------------------------------------


def offline(directory: Path, rows: pl.DataFrame) -> Array:
    """Return the sums of all coefficients, by names and terms alone."""
    fixed = pl.read_parquet(directory / "global" / "coefficients.parquet")
    dense = {bag: design(fixed.filter(pl.col("bag") == bag), rows) for bag in ("user", "movie")}
    weights = {
        bag: fixed.filter(pl.col("bag") == bag)["coefficient"].to_numpy() for bag in ("", "user", "movie")
    }
    scores = weights[""][0] + dense["user"] @ weights["user"] + dense["movie"] @ weights["movie"]
    for coordinate, column, bag in (("per_user", "user_id", "movie"), ("per_movie", "movie_id", "user")):
        own = coefficients(directory / coordinate, rows[column], dense[bag].shape[1] + 1)
        scores += own[:, 0] + (own[:, 1:] * dense[bag]).sum(axis=1)
    return np.asarray(scores)


def design(features: pl.DataFrame, rows: pl.DataFrame) -> Array:
    """Return a bag's features as a dense matrix, in the order of the coefficients."""
    columns = []
    for name, term in features.select("name", "term").iter_rows():
        if name in {"age", "release_year"}:
            columns.append(rows[name])
        elif name == "genres":
            columns.append(rows[name].list.contains(term))
        else:
            columns.append(rows[name] == term)
    return np.column_stack([column.cast(pl.Float64).fill_null(0.0).to_numpy() for column in columns])


def coefficients(directory: Path, ids: pl.Series, dimension: int) -> Array:
    """Return each row's entity's coefficients, zeros where there are none."""
    found = {
        one["entity_id"].decode(): (one["indices"], one["coefficients"])
        for path in sorted(directory.glob("part-*.parquet"))
        for one in pl.read_parquet(path).iter_rows(named=True)
    }
    table = np.zeros((len(ids), dimension))
    for row, one in enumerate(ids.cast(pl.String)):
        if one in found:
            table[row, found[one][0]] = found[one][1]
    return table


# ---- online ----------------------------------------------------------------------------------------------


def readable(scorer: Scorer, part: pl.DataFrame) -> Array:
    return scorer.score({}, part.select(COLUMNS).to_dict(as_series=False), timeout_seconds=10).scores


def columnar(scorer: Scorer, part: pl.DataFrame, index: FeatureIndex) -> Array:
    encoder = RowEncoder(index)
    arrays = {name: part[name].to_arrow() for name in COLUMNS[2:]}
    bags = encoder.join([encoder.encode(arrays, len(part))])
    request = ColumnarRequest(
        candidates=len(part),
        schema_fingerprint=index.schema_fingerprint,
        features=[
            FeatureRows(bag=bag, indices=m.indices, values=m.values, row_offsets=m.indptr.astype(np.int32))
            for bag, m in bags.items()
        ],
        entities={name: part[name].to_numpy() for name in ("user_id", "movie_id")},
    )
    return scorer.score_columnar(request, timeout_seconds=10).scores


def inference(ask: Callable[[wire.ModelInferRequest], wire.ModelInferResponse], part: pl.DataFrame) -> Array:
    request = wire.ModelInferRequest(model_name="movielens")
    for name in COLUMNS:
        shape = [len(part), 1]
        if name == "genres":
            lists = part[name].fill_null([]).to_list()
            shape[1] = max(map(len, lists)) or 1
            values = [term for one in lists for term in [*one, *[""] * (shape[1] - len(one))]]
            kind, data = "BYTES", prefixed(values)
        elif part[name].dtype == pl.String:
            kind, data = "BYTES", prefixed(part[name].fill_null("").to_list())
        elif part[name].dtype.is_integer():
            kind, data = "INT64", part[name].to_numpy().astype("<i8").tobytes()
        else:
            kind, data = "FP64", part[name].to_numpy().astype("<f8").tobytes()
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(data)
    response = ask(request)
    position = [output.name for output in response.outputs].index("scores")
    return np.frombuffer(response.raw_output_contents[position], "<f8")


def prefixed(values: list[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)


if __name__ == "__main__":
    main()
