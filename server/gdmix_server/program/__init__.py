"""What a training job does, as a pure generator: it yields stages and reports, and is sent their outcomes.

Read `training.training_program` first: it is the algorithm. A program does no I/O and knows no clock, so
the coordinator resumes a job by running its program again and answering from the journal.
"""

from gdmix_server.program.job import job_program
from gdmix_server.program.program_input import ProgramInput
from gdmix_server.program.steps import Steps
from gdmix_server.program.training import training_program

__all__ = ["ProgramInput", "Steps", "job_program", "training_program"]
