"""`gdmix-cli quickstart`: from nothing to a published model that scores online."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdmix_client.cli.options import JsonOption, QuietOption, WorkersOption
from gdmix_client.cli.printing import note, result, result_document
from gdmix_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from gdmix_client.movielens_users import MovieLensUser
    from gdmix_client.types import Job

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
    """Get MovieLens-100K, train a mixed-effect model on it, publish it and score with it, all on this machine."""
    from gdmix_client.cli.train import read_config, report_end, run_to_the_end
    from gdmix_client.movielens import TRAIN_FILE, VALIDATION_FILE, fetch_movielens

    data = directory / "data"
    if source is not None or not all((data / name).is_file() for name in (TRAIN_FILE, VALIDATION_FILE)):
        if not quiet:
            note("getting MovieLens-100K")
        fetch_movielens(data, source)
    config = directory / CONFIG_FILE
    _write_config(config)
    job = run_to_the_end(read_config(config), workers=workers, quiet=quiet)
    if not json:
        report_end(job, json=False, try_next=False)
    _score(job, data, config, quiet=quiet, json=json)


def _score(job: Job, data: Path, config: Path, *, quiet: bool, json: bool) -> None:
    """Score one user's candidates and print them.

    Raises:
        GdmixError: the job did not succeed, or the scorer did not start or answer.
    """
    from gdmix_client.cli import recommendations as shown
    from gdmix_client.cli.following import raise_if_unsuccessful, termination_as_interrupt
    from gdmix_client.cli.report import next_steps, shortened, train_document

    user: MovieLensUser | None = None
    best: list[shown.RecommendationDocument] = []
    if job.published is not None:
        if not quiet:
            note("starting a scorer on the published model")
        try:
            with termination_as_interrupt():
                user, best = shown.recommend(job, data)
        except (UsageError, DataError) as error:
            if config.read_text(encoding="utf-8") == CONFIG_TEXT:
                raise
            note(f"no recommendations: the model of the changed {config} is not for these movies: {error}")
    if json:
        document = shown.QuickstartDocument(
            **train_document(job).model_dump(exclude_unset=True),
            user_id=user and user.user_id,
            recommendations=best,
        )
        result_document(document.model_dump(mode="json", exclude_unset=True))
    elif user is not None:
        again = shortened(str(config.absolute()))
        result(f"\n{shown.recommendations_text(user, job, best)}")
        result(f"\n{next_steps(job)}\n  gdmix-cli train {again}    # after a look at it, or a change")
        result(f"\n{shown.how_to_score(job, data)}")
    raise_if_unsuccessful(job)


def _write_config(path: Path) -> None:
    """Write the config unless there is one: somebody may have changed it to try something."""
    if path.exists():
        return
    try:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(CONFIG_TEXT, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
