"""Quality and time of the whole MovieLens-100K job: submit to published, on a warm local cluster.

    gdmix-cli data fetch movielens-100k --directory examples/movielens/data
    python benchmarks/movielens.py --rounds 3

Trains the example configs, the second one until it has converged as well, on a coordinator and two workers that are up
already, and prints the metrics of every coordinate in every pass, the job's time from submission to publication
(median, fastest, slowest), and how long the cluster took from nothing to ready.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from gdmix_client import JobState, LocalCluster
from gdmix_core.config import load_config

JOBS: tuple[tuple[str, dict[str, object]], ...] = (
    ("movielens-one-pass.yaml", {}),
    ("movielens-fixed-l2.yaml", {}),
    ("movielens-fixed-l2.yaml", {"passes": "until_converged"}),
    ("movielens.yaml", {}),
)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "movielens"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        with LocalCluster(workers=arguments.workers) as cluster, cluster.client() as client:
            cluster.wait_until_ready()
            print(
                f"coordinator and {arguments.workers} workers ready after {time.perf_counter() - start:.2f} s"
            )
            for place, (name, changes) in enumerate(JOBS):
                times = []
                for number in range(arguments.rounds + 1):
                    output = Path(scratch) / str(place) / str(number)
                    start = time.perf_counter()
                    submitted = client.submit(
                        load_config(EXAMPLES / name, {"output": str(output), **changes})
                    )
                    job = client.wait(submitted.job_id)
                    times.append(time.perf_counter() - start)
                    if job.state is not JobState.SUCCEEDED:
                        raise SystemExit(job.error)
                print(
                    f"\n{name} {changes or ''}: {job.train_rows:,} training and {job.validation_rows:,} validation rows"
                )
                for report in job.coordinates:
                    metrics = "  ".join(
                        f"{m.name} {m.value:.4f}" for m in report.validation if m.value is not None
                    )
                    print(
                        f"  pass {report.pass_number} {report.name:10} {report.entities:6,} models  {metrics}  "
                        f"{report.unconverged} unconverged  {report.seconds:.2f} s"
                    )
                warm = times[1:]
                print(
                    f"  submit to published: median {statistics.median(warm):.2f} s, {min(warm):.2f} to "
                    f"{max(warm):.2f} s over {len(warm)} runs (the first, not counted: {times[0]:.2f} s)"
                )


if __name__ == "__main__":
    main()
