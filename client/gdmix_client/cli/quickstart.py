"""`gdmix-cli quickstart`: from nothing to a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdmix_client.cli.options import JsonOption, QuietOption, WorkersOption
from gdmix_client.cli.printing import note, result

CONFIG_FILE = "movielens.yaml"
CONFIG_TEXT = """\
# Will this person like this movie? A global model, one for each person, one for each movie.
model: movielens
task: logistic_regression
data:
  train: data/train.parquet
  validation: data/validation.parquet
  columns: {uid: uid, label: response}
features:
  user: [{column: age, kind: numeric}, gender, occupation]
  movie: [{column: genres, kind: list}, {column: release_year, kind: numeric}]
coordinates:
  global:    {fixed_effect: logistic_regression, features: [user, movie], l2: 10}
  per_user:  {random_effect: user_id,  features: [movie], l2: 10}
  per_movie: {random_effect: movie_id, features: [user],  l2: 10}
passes: 3
metrics: [auc, logloss, "auc:user_id"]
output: model
"""


def quickstart(
    directory: Annotated[
        Path, typer.Option("--directory", metavar="DIRECTORY", help="Where data, config and model go.")
    ] = Path("gdmix-quickstart"),
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PATH", help="A copy of ml-100k (zip or folder) instead of the network."
        ),
    ] = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Get MovieLens-100K, train a mixed-effect model on it and publish it, all on this machine."""
    from gdmix_client.cli.report import next_steps, shortened
    from gdmix_client.cli.train import read_config, train_locally
    from gdmix_client.movielens import TRAIN_FILE, VALIDATION_FILE, fetch_movielens

    data = directory / "data"
    if source is not None or not all((data / name).is_file() for name in (TRAIN_FILE, VALIDATION_FILE)):
        if not quiet:
            note("getting MovieLens-100K")
        fetch_movielens(data, source)
    config = directory / CONFIG_FILE
    _write_config(config)
    job = train_locally(read_config(config), workers=workers, quiet=quiet, json=json, try_next=False)
    if not json:
        again = shortened(str(config.absolute()))
        result(f"\n{next_steps(job)}\n  gdmix-cli train {again}    # after a look at it, or a change")


def _write_config(path: Path) -> None:
    """Write the config unless there is one: somebody may have changed it to try something."""
    from gdmix_core.errors import UsageError

    if path.exists():
        return
    try:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(CONFIG_TEXT, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
