"""Train what job.yaml says, say what personalization added, and ask the model for one score; see README.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from gdmix_client import JobState, LocalCluster, LocalScorer
from gdmix_core.config.load import load_config

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, nargs="?", default=HERE / "job.yaml")
    config = load_config(parser.parse_args().job)

    with LocalCluster(workers=2) as cluster, cluster.client() as client:
        cluster.wait_until_ready()
        job = client.wait(client.submit(config).job_id)
    if job.state is not JobState.SUCCEEDED:
        raise SystemExit(f"the job {job.state}: {job.error}")
    assert job.published is not None

    first = {metric.name: metric.value for metric in job.kept_coordinates[0].validation}
    for coordinate in job.kept_coordinates:
        shown = "  ".join(
            f"{metric.name} {metric.value:.4f} ({metric.value - first[metric.name]:+.4f})"
            for metric in coordinate.validation
        )
        print(f"{coordinate.name:10}{shown}")

    # Where the outside model runs, its score comes with the request, for each candidate.
    row = pq.read_table(config.data.validation[0]).slice(0, 1).to_pylist()[0]
    score = pq.read_table(config.coordinates["outside"].scores.validation)["score"][0].as_py()
    person = {"user_id": row["user_id"], "age": row["age"]}
    movie = {name: row[name] for name in ("movie_id", "genres", "release_year")}
    with LocalScorer(job.published.store) as local, local.client() as scorer:
        local.wait_until_ready()
        answer = scorer.score(person, [movie], fixed_effect_scores=[score], contributions=True)
    parts = ", ".join(f"{name} {values[0]:+.3f}" for name, values in answer.contributions.items())
    print(f"person {row['user_id']}, movie {row['movie_id']}: {answer.predictions[0]:.3f} ({parts})")


if __name__ == "__main__":
    main()
