"""The training program: prepare the data, go through the coordinates, keep the best pass, publish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from gdmix_core.config import JobConfig, with_means, with_values
from gdmix_core.metrics import parse_metric
from gdmix_core.tasks import CheckStore
from gdmix_server.program.convergence import descend_until_converged
from gdmix_server.program.descent import NO_TRIAL, Descent, Trial
from gdmix_server.program.preparation import prepare_data
from gdmix_server.program.prepared import Prepared
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.publishing import publish
from gdmix_server.program.results import write_results
from gdmix_server.program.shrinkage import learn_shrinkage, learns
from gdmix_server.program.steps import Steps, run
from gdmix_server.state.model import Report


def training_program(job: ProgramInput) -> Steps[None]:
    """Train and publish a mixed-effect model by block coordinate descent.

    Each coordinate is fitted with the others' current scores as its offset, `passes` times through; the pass
    that measured best on the validation rows is published. A pass that improves nothing is the last. With
    `passes: until_converged` the joint optimum is published, whatever it measures. Where a strength is `auto`,
    it is learned first, and the descent begins at the joint optimum with it. With a
    `search`, every point of the grid is such a descent over the same prepared data, and the best one is
    published.

    Raises:
        gdmix_core.errors.GdmixError: The job cannot succeed; the message says why.
    """
    config, changes = with_means(job.config)
    job = replace(job, config=config)
    check = CheckStore(output="", store=job.store, model=job.config.model)
    yield from run("store", "looking at the store", [check])
    for change in changes:
        yield Report(notice=change)
    prepared = yield from prepare_data(job.config)
    best: Descent | None = None
    for trial in trials(job.config):
        descent = yield from _descend(job.config, prepared, trial)
        if best is None or _improves(descent, best):
            best = descent
    assert best is not None
    if best.trial is not NO_TRIAL:
        yield Report(notice=f"trial {best.trial.number} measured best: {best.trial}")
    yield Report(kept_pass=best.best.pass_number, kept_trial=best.trial.number)
    if job.config.results == "gdmix":
        yield from write_results(best.config, prepared, best.best.trained)
    yield from publish(replace(job, config=best.config), prepared, best.best, best.trial)


def trials(config: JobConfig) -> Iterator[Trial]:
    """Yield the points of the config's grid, the last place varying fastest; one without values if there is none."""
    if not config.search:
        yield NO_TRIAL
        return
    for number, values in enumerate(product(*config.search.values()), start=1):
        yield Trial(number, dict(zip(config.search, values, strict=True)))


def _descend(config: JobConfig, prepared: Prepared, trial: Trial) -> Steps[Descent]:
    """Go through the coordinates until the passes are over, one improves nothing, or the joint optimum is reached."""
    if trial is not NO_TRIAL:
        config = with_values(config, dict(trial.values))
        yield Report(notice=f"trial {trial.number}: {trial}")
    descent = Descent(config, prepared, trial)
    if learns(config):
        learned = yield from learn_shrinkage(config, prepared, trial.number)
        descent.config, descent.shrinkage = learned.config, learned.groups
        descent.begun, descent.crossing = dict(learned.begun), learned.crossing
        descent.standing = {**learned.standing, **{n: of.scores["train"] for n, of in learned.begun.items()}}
        config = learned.config
    if config.passes == "until_converged":
        yield from descend_until_converged(descent)
        return descent
    for pass_number in range(1, config.passes + 1):
        for coordinate in config.coordinates:
            yield from descent.train(coordinate, pass_number)
        improved = descent.finish_pass(pass_number)
        if not improved and pass_number < config.passes:
            yield Report(notice=f"pass {pass_number} improved nothing; stopping there")
            break
    return descent


def _improves(candidate: Descent, best: Descent) -> bool:
    value, so_far = candidate.best.value, best.best.value
    if value is None or so_far is None:
        return False
    return parse_metric(candidate.config.effective_metrics[0]).improves(value, so_far)
