"""The scorer beside MLServer 1.7.1, which serves the same model as a custom runtime over gRPC.

    python benchmarks/scoring/mlserver.py --processes 1 --venv ~/.cache/gdmix-benchmarks/mlserver

Both run at the same time, and are loaded in turn: a closed loop for the peak rate, then the same rate for both, half
of MLServer's peak. MLServer holds the coefficients in numpy arrays and gets what is to be scored as tensors in
`raw_input_contents`; the scorer reads them from its store, and gets the columnar form. MLServer's number of
`parallel_workers` is the fastest of `--workers`; 0 is one process, n are n + 1. Its environment is made when needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
from checking import CheckingClient, Protocol, Reading, summary
from generator import INFER_PATH, Load
from load import Row, medians
from model import NAME, Request, entity_id, framed
from servers import PATIENCE_SECONDS, RunningScorer, Served, end, free_port
from workload import CUT_SECONDS, Workload, parser, published, scorer_of, show_json, table, wait_until_quiet

from gdmix_proto.inference.v2 import inference_pb2 as inference
from gdmix_proto.inference.v2 import inference_pb2_grpc as inference_grpc

_PACKAGES: Final = ("mlserver==1.7.1", "uvloop<0.22")
"""Its parallel workers do not start with later versions of uvloop."""


def main() -> None:
    options = parser(__doc__)
    add = options.add_argument
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gdmix-benchmarks" / "mlserver"
    add("--venv", type=Path, default=default, help="MLServer's environment (default: %(default)s)")
    add("--workers", type=int, nargs="+", help="numbers of parallel_workers to try (default: 0 to processes)")
    given = options.parse_args()
    executable = _environment(given.venv)
    workers = given.workers or list(range(given.processes + 1))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workload = stack.enter_context(published(given))
        next(iter(workload.models.values())).save_arrays(work / "arrays.npz")
        tried = {n: _trial(executable, n, work, workload, given.connections) for n in workers}
        best = max(tried, key=lambda number: tried[number])
        print(f"MLServer's requests/s by parallel_workers: {json.dumps(tried)}; {best} it is", flush=True)
        rival = stack.enter_context(_run_mlserver(executable, best, work))
        scorer = stack.enter_context(scorer_of(workload, given))
        sides = {
            "MLServer": (rival, _infer_load(rival, workload), _infer_checker(rival, workload)),
            "scorer": (scorer, workload.load(scorer), workload.checker(scorer)),
        }
        checkers = {name: stack.enter_context(side[2]) for name, side in sides.items()}
        rows: dict[str, list[Row]] = {name: [] for name in sides}
        for number in range(given.rounds):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            peaks = {
                name: _run(given, *sides[name][:2], checkers[name], connections=given.connections)
                for name in order
            }
            rate = 0.5 * float(str(peaks["MLServer"]["answers/s"]))
            for name in order:
                same = _run(given, *sides[name][:2], checkers[name], rate=rate)
                rows[name].append(_row(peaks[name], same))
            print(table([{"round": name, **rows[name][-1]} for name in order]), flush=True)
    middle = {name: medians(found) for name, found in rows.items()}
    ratios = [
        float(str(ours["peak/s"])) / float(str(theirs["peak/s"]))
        for ours, theirs in zip(rows["scorer"], rows["MLServer"], strict=True)
    ]
    print(f"\n1 x {given.candidates} candidates, {given.store}, medians of {given.rounds} rounds\n")
    print(table([{"server": name, **row} for name, row in middle.items()]))
    print(f"\nThroughput: {statistics.median(ratios):.2f} times MLServer's.")
    show_json(given, {"rows": rows, "ratio": statistics.median(ratios), "parallel_workers": tried})


def _run(
    given: argparse.Namespace,
    server: Served,
    load: Load,
    checker: CheckingClient,
    *,
    connections: int = 0,
    rate: float = 0.0,
) -> Row:
    """Load a server: in a closed loop over connections, or at a rate."""
    wait_until_quiet(given.quiet)
    seconds = given.seconds
    starting = load.start_open(rate, seconds) if rate else load.start_closed(seconds, connections)
    with starting as running:
        time.sleep(CUT_SECONDS)
        counted = server.counters() if isinstance(server, RunningScorer) else None
        begin, cpu = time.time(), server.cpu_seconds()
        time.sleep(max(0.1, seconds - 2.0 * CUT_SECONDS))
        end_, used = time.time(), server.cpu_seconds() - cpu
        ended = server.counters() if isinstance(server, RunningScorer) else None
        samples = running.join().within(begin, end_)
    checks: dict[str, Any] = summary(checker.between(begin, end_))
    answered: float = len(samples) - samples.failed
    if (
        counted is not None and ended is not None
    ):  # its refusals are no answers; the checks are not the generator's
        all_ok = ended.since(counted).total("requests_total", outcome="OK")
        answered = min(answered, max(0.0, all_ok - checks["checked"]))
    return {
        "answers/s": answered / (end_ - begin),
        "per core": answered / max(used, 1e-9),
        "p50": samples.quantile_ms(0.5),
        "p99": samples.quantile_ms(0.99),
        "offered/s": rate,
        "failed": samples.failed + checks["checked"] - checks["outcomes"].get("OK", 0) + checks["wrong"],
        "checked": checks["checked"],
    }


def _row(peak: Row, same: Row) -> Row:
    return {
        "peak/s": peak["answers/s"],
        "peak/s per core": peak["per core"],
        "peak p50 ms": peak["p50"],
        "peak p99 ms": peak["p99"],
        "same rate": same["offered/s"],
        "answers/s": same["answers/s"],
        "p50 ms": same["p50"],
        "p99 ms": same["p99"],
        "checked": int(str(peak["checked"])) + int(str(same["checked"])),
        "wrong": int(str(peak["failed"])) + int(str(same["failed"])),
    }


# ---- MLServer --------------------------------------------------------------------------------------------


def _environment(venv: Path) -> Path:
    """Return MLServer's executable, installed if need be."""
    executable = venv / "bin" / "mlserver"
    if not executable.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", *_PACKAGES], check=True)
    return executable.absolute()


@contextmanager
def _run_mlserver(executable: Path, workers: int, work: Path) -> Iterator[Served]:
    """Run MLServer on the saved arrays until the end of the block; it is ready when the block begins."""
    folder = Path(tempfile.mkdtemp(dir=work))
    port = free_port()
    shutil.copy(Path(__file__).with_name("mlserver_runtime.py"), folder)
    settings = {
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": port,
        "metrics_endpoint": None,
        "debug": False,
        "parallel_workers": workers,
    }
    model = {
        "name": NAME,
        "implementation": "mlserver_runtime.BenchmarkRuntime",
        "parameters": {"uri": str(work / "arrays.npz")},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(executable), "start", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    try:
        _wait_until_ready(port, process, folder / "log")
        own = psutil.Process(process.pid)
        yield Served(process, port, [own, *own.children(recursive=True)])
    finally:
        end(process)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_grpc.GRPCInferenceServiceStub(channel)
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if stub.ModelReady(inference.ModelReadyRequest(name=NAME), timeout=2.0).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.2)
    raise SystemExit(f"MLServer did not become ready:\n{log.read_text()[-4000:]}")


def _trial(executable: Path, workers: int, work: Path, workload: Workload, connections: int) -> float:
    """Return the peak rate with a number of workers, from a short run."""
    with _run_mlserver(executable, workers, work) as server:
        load = _infer_load(server, workload)
        load.start_closed(2.0, connections).join()
        samples = load.start_closed(5.0, connections).join()
        return round(samples.rate, 1)


def _infer_load(server: Served, workload: Workload) -> Load:
    bodies = [framed(_to_tensors(request)) for request in workload.requests[:8]]
    return Load(server.address, INFER_PATH, bodies, {})


def _infer_checker(server: Served, workload: Workload) -> CheckingClient:
    bodies = [_to_tensors(request) for request in workload.requests]
    expected = {0: next(iter(workload.expected.values()))}
    return CheckingClient(server.address, bodies, expected, protocol=Protocol(INFER_PATH, _read_tensors))


def _to_tensors(request: Request) -> bytes:
    """Return a request as a serialized `inference.ModelInferRequest`, its numbers in `raw_input_contents`."""
    items = [entity_id("i", int(number)) for number in request.items]
    shape = list(request.item_indices.shape)
    tensors: list[tuple[str, str, list[int], bytes]] = [
        ("user_id", "BYTES", [1], _length_prefixed([entity_id("u", request.user)])),
        ("user_indices", "INT32", [len(request.user_indices)], request.user_indices.astype("<i4").tobytes()),
        ("user_values", "FP64", [len(request.user_values)], request.user_values.astype("<f8").tobytes()),
        ("item_id", "BYTES", [len(items)], _length_prefixed(items)),
        ("item_indices", "INT32", shape, request.item_indices.astype("<i4").tobytes()),
        ("item_values", "FP64", shape, request.item_values.astype("<f8").tobytes()),
    ]
    return inference.ModelInferRequest(
        model_name=NAME,
        inputs=[
            inference.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
            for name, datatype, shape, _ in tensors
        ],
        raw_input_contents=[data for *_, data in tensors],
    ).SerializeToString()


def _length_prefixed(ids: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in ids)


def _read_tensors(data: bytes) -> Reading:
    """Read an `inference.ModelInferResponse`."""
    answer = inference.ModelInferResponse.FromString(data)
    found = {
        output.name: np.frombuffer(raw, "<f8")
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    return Reading(0, "", found["scores"], found["predictions"])


if __name__ == "__main__":
    main()
