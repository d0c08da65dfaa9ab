"""Which program a job is."""

from __future__ import annotations

from gdmix_server.program.inference import inference_program
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.steps import Steps
from gdmix_server.program.training import training_program


def job_program(job: ProgramInput) -> Steps[None]:
    """Run the program of the job's action; raises as that one."""
    if job.config.action == "inference":
        yield from inference_program(job)
    else:
        yield from training_program(job)
