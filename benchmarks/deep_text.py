"""Quality and speed of deep text effects on MovieLens-100K, outside of a job.

    gdmix-cli data fetch movielens-100k --directory examples/movielens/data
    python benchmarks/deep_text.py quality --seeds 3
    python benchmarks/deep_text.py quality --seeds 3 --workers 2
    python benchmarks/deep_text.py serving
    python benchmarks/deep_text.py pipeline

`quality` fits the deep global effect of a movie's title, genres and year and a person's age, gender and occupation,
each seed in a process of its own, TensorFlow's start included, and prints the validation AUC, which nothing was chosen
by.
With `--workers 2` a gang of two processes on this machine does. `serving` scores one person and 100
candidates. `pipeline` reads and encodes training batches without training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions
from gdmix_core.fixed_effects.plugin import FitData, FitProgress, Gang, Rows, Task

DATA = Path(__file__).resolve().parent.parent / "examples" / "movielens" / "data" / "movielens-100k"
OPTIONS: dict[str, Any] = {
    "text": ["title"],
    "numbers": ["age", "release_year"],
    "categories": ["gender", "occupation", {"column": "genres", "list": True}],
    "encoder": {"kind": "cnn", "filters": 32},
    "word_embedding": {"size": 32},
    "optimizer": {"learning_rate": 0.003},
    "batch_size": 512,
    "max_len": 8,
    "epochs": 4,
    "early_stopping": {"refit": True},
}
COLUMNS = ["age", "release_year", "gender", "occupation", "genres", "title"]


@dataclass(frozen=True)
class Shard:
    """Rows in memory."""

    data: Rows

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.data)

    def read(self) -> Rows:
        """Return them."""
        return self.data


@dataclass
class Context:
    """A fit outside of a job."""

    checkpoints: Path
    logs: Path
    seed: int
    gang: Gang | None = None
    threads: int = 2
    task: Task = "logistic_regression"
    quiet: bool = False

    def report(self, progress: FitProgress) -> None:
        """Print evaluations."""
        if progress.metrics and not self.quiet:
            values = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            print(f"  step {progress.step:,}: loss {progress.loss:.4f}  {values}", file=sys.stderr)

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Print it."""
        print("warning:" if warning else "notice:", text, file=sys.stderr)


def read(path: Path, shards: int) -> list[Shard]:
    """Read a table as shards."""
    table = pq.read_table(path, columns=["response", *COLUMNS]).combine_chunks()
    batch = table.to_batches()[0]
    cuts = np.linspace(0, batch.num_rows, shards + 1).astype(int)
    pieces = [batch.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    return [
        Shard(
            Rows(
                piece.select(COLUMNS),
                piece["response"].to_numpy().astype(np.float64),
                np.ones(piece.num_rows),
                np.zeros(piece.num_rows),
            )
        )
        for piece in pieces
    ]


def fit_once(
    options: DeepTextOptions, data: Path, seed: int, quiet: bool, gang: Gang | None, directory: Path
) -> dict[str, float]:
    """Fit and evaluate in this process."""
    start = time.perf_counter()
    train, validation = read(data / "train.parquet", 8), read(data / "validation.parquet", 2)
    threads = 2 if gang is None else max(1, 2 // gang.size)
    context = Context(directory, directory, seed, gang=gang, quiet=quiet, threads=threads)
    model = DeepText().fit(options, FitData(train, validation), context)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    from gdmix_core.fixed_effects.deep_text.evaluation import evaluate

    score = np.concatenate([model.score(shard.data.columns) for shard in validation])
    label = np.concatenate([shard.data.label for shard in validation])
    found = evaluate("logistic_regression", score, label, np.ones(len(label)))
    return {**found, "seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, **model.describe()}


def fit_processes(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Fit in a process, or a gang of them, of its own; return what the chief found."""
    command = [sys.executable, __file__, "--data", str(arguments.data), "--options", arguments.options]
    command += ["fit", "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as scratch:
        command += ["--directory", scratch]
        if arguments.workers > 1:
            held = [socket.create_server(("127.0.0.1", 0)) for _ in range(arguments.workers)]
            command += ["--addresses", ",".join(f"127.0.0.1:{server.getsockname()[1]}" for server in held)]
            for server in held:
                server.close()
        members = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(arguments.workers)
        ]
        output = [member.communicate()[0] for member in members]
        if any(member.returncode for member in members):
            raise SystemExit("a fit failed")
    found: dict[str, float] = json.loads(output[0].splitlines()[-1])
    return found


def pipeline(arguments: argparse.Namespace) -> None:
    from gdmix_core.fixed_effects.deep_text.learning import learn_inputs
    from gdmix_core.fixed_effects.deep_text.network import signature
    from gdmix_core.fixed_effects.deep_text.split import Selection, parts_of
    from gdmix_core.fixed_effects.deep_text.stream import TrainingStream, prefetched

    options = DeepTextOptions.model_validate_json(arguments.options)
    train = read(arguments.data / "train.parquet", 8)
    start = time.perf_counter()
    inputs, _ = learn_inputs(options, train, "logistic_regression")
    rows = sum(shard.rows for shard in train)
    print(f"what is learned before training: {rows / (time.perf_counter() - start):,.0f} rows/s")
    stream = TrainingStream(inputs, parts_of(train, 0, 1), Selection(0, 0.0, False), 0, 0, options.batch_size)
    for name, batches in (
        ("encoded batches", stream.batches(0)),
        ("batches through tf.data", iter(prefetched(lambda: stream.batches(0), signature(inputs)))),
    ):
        next(batches)
        start = time.perf_counter()
        for _ in itertools.islice(batches, arguments.batches):
            pass
        speed = arguments.batches * options.batch_size / (time.perf_counter() - start)
        print(f"{name} of {options.batch_size} rows: {speed:,.0f} rows/s")


def quality(arguments: argparse.Namespace) -> None:
    results = []
    for seed in range(arguments.seeds):
        results.append(fit_processes(arguments, seed))
        print(f"seed {seed}: " + "  ".join(f"{name} {value:.4g}" for name, value in results[-1].items()))
    aucs = [result["auc"] for result in results]
    print(
        f"validation AUC: mean {statistics.mean(aucs):.4f}, {min(aucs):.4f} to {max(aucs):.4f}; "
        f"fit, TensorFlow's start included: median {statistics.median(r['seconds'] for r in results):.1f} s, "
        f"{statistics.median(r['cpu_seconds'] for r in results):.1f} s of processor time"
    )


def serving(arguments: argparse.Namespace) -> None:
    train = read(arguments.data / "train.parquet", 8)
    options = DeepTextOptions.model_validate({**json.loads(arguments.options), "epochs": 0.2})
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(Path(scratch), Path(scratch), 0, quiet=True)
        fitted = DeepText().fit(options, FitData(train, []), context)
        saved = Path(scratch) / "model"
        saved.mkdir()
        fitted.save(saved)
        start = time.perf_counter()
        model = DeepText().load(saved)
        loaded = time.perf_counter()
        model.warm_up()
        print(f"load {loaded - start:.2f} s, warm-up {time.perf_counter() - loaded:.2f} s")
    rng = np.random.default_rng(0)
    rows = train[0].data.columns
    requests = []
    for _ in range(arguments.requests):
        candidates = rows.take(pa.array(rng.integers(0, rows.num_rows, 100)))
        person = rows.take(pa.array(np.repeat(rng.integers(0, rows.num_rows), 100)))
        sides = [person if name in {"age", "gender", "occupation"} else candidates for name in COLUMNS]
        requests.append(
            pa.RecordBatch.from_arrays(
                [side[name] for side, name in zip(sides, COLUMNS, strict=True)], COLUMNS
            )
        )
    times = []
    for request in requests:
        start = time.perf_counter()
        model.score(request)
        times.append(time.perf_counter() - start)
    difference = np.abs(model.score(rows) - fitted.score(rows)).max()
    print(
        f"1 person x 100 candidates: p50 {np.quantile(times, 0.5) * 1e3:.2f} ms, p99 "
        f"{np.quantile(times, 0.99) * 1e3:.2f} ms over {len(times)} requests; scores differ from the fit's by "
        f"{difference:.1e} at most"
    )
    start = time.perf_counter()
    model.score(rows)
    print(f"bulk scoring: {rows.num_rows / (time.perf_counter() - start):,.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--options", default=json.dumps(OPTIONS), help="JSON, as in a config")
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("quality")
    many.add_argument("--seeds", type=int, default=3)
    many.add_argument("--workers", type=int, default=1)
    once = commands.add_parser("fit")
    once.add_argument("--seed", type=int, default=0)
    once.add_argument("--directory", type=Path, required=True, help="for checkpoints and event files")
    once.add_argument("--addresses", help="of a gang's members")
    once.add_argument("--rank", type=int, default=0)
    once.add_argument("--verbose", action="store_true")
    serve = commands.add_parser("serving")
    serve.add_argument("--requests", type=int, default=300)
    pipe = commands.add_parser("pipeline")
    pipe.add_argument("--batches", type=int, default=500)
    arguments = parser.parse_args()
    if arguments.command == "quality":
        quality(arguments)
    elif arguments.command == "serving":
        serving(arguments)
    elif arguments.command == "pipeline":
        pipeline(arguments)
    else:
        options = DeepTextOptions.model_validate_json(arguments.options)
        gang = Gang(arguments.rank, arguments.addresses.split(",")) if arguments.addresses else None
        quiet = not arguments.verbose
        found = fit_once(options, arguments.data, arguments.seed, quiet, gang, arguments.directory)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
