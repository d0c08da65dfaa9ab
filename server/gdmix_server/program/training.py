"""The training program: prepare the data, go through the coordinates, keep the best pass, publish."""

from __future__ import annotations

from gdmix_server.program.descent import Descent
from gdmix_server.program.preparation import prepare_data
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.publishing import publish
from gdmix_server.program.steps import Steps
from gdmix_server.state.model import Report


def training_program(job: ProgramInput) -> Steps[None]:
    """Train and publish a mixed-effect model by block coordinate descent.

    Each coordinate is fitted with the others' current scores as its offset, `passes` times through; the pass
    that measured best on the validation rows is published. A pass that improves nothing is the last.

    Raises:
        gdmix_core.errors.GdmixError: The job cannot succeed; the message says why.
    """
    prepared = yield from prepare_data(job.config)
    descent = Descent(job.config, prepared)
    for pass_number in range(1, job.config.passes + 1):
        for coordinate in job.config.coordinates:
            yield from descent.train(coordinate, pass_number)
        improved = descent.finish_pass(pass_number)
        if not improved and pass_number < job.config.passes:
            yield Report(notice=f"pass {pass_number} improved nothing; stopping there")
            break
    yield Report(kept_pass=descent.best.pass_number)
    yield from publish(job, prepared, descent.best)
