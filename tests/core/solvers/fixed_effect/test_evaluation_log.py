from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdmix_core.errors import Conflict
from gdmix_core.solvers.fixed_effect import (
    EvaluationLog,
    EvaluationRequest,
    FixedEffectSolution,
    LbfgsDriver,
    NewtonDriver,
    resume,
)
from gdmix_core.solvers.losses import Loss

both = pytest.mark.parametrize("driver", [NewtonDriver, LbfgsDriver])


def run(problem, driver, log: EvaluationLog, stop_after: int | None = None) -> FixedEffectSolution | None:
    """Solve as a coordinator does; stop before the evaluation `stop_after`, as a killed one."""
    step = resume(driver, log)
    while isinstance(step, EvaluationRequest):
        if step.number == stop_after:
            driver.close()
            return None
        sums = problem.sums(step.theta, step.hessian)
        log.append(step, sums)
        step = driver.tell(sums)
    return step


def fingerprint(solution: FixedEffectSolution) -> tuple[object, ...]:
    return (
        solution.theta.tobytes(),
        solution.status,
        solution.iterations,
        solution.evaluations,
        solution.value,
        solution.variances.tobytes(),
    )


@both
@pytest.mark.parametrize("loss", [Loss.LOGISTIC, Loss.POISSON])
def test_a_solve_cut_at_any_point_goes_on_to_the_same_bytes(case, tmp_path: Path, driver, loss: Loss) -> None:
    problem = case(loss, 200, 6, weighted=True, seed=4)
    with EvaluationLog(tmp_path / "whole") as log:
        whole = run(problem, driver(problem.problem, variance="full"), log)
    content = (tmp_path / "whole").read_bytes()
    for cut in range(whole.evaluations + 1):
        path = tmp_path / f"cut-{cut}"
        with EvaluationLog(path) as log:
            run(problem, driver(problem.problem, variance="full"), log, stop_after=cut)
        with EvaluationLog(path) as log:
            assert sum(1 for _ in log.records()) == cut
            again = run(problem, driver(problem.problem, variance="full"), log)
        assert fingerprint(again) == fingerprint(whole)
        assert path.read_bytes() == content


@both
def test_a_torn_tail_is_dropped(case, tmp_path: Path, driver) -> None:
    problem = case(Loss.LOGISTIC, 100, 3)
    path = tmp_path / "log"
    with EvaluationLog(path) as log:
        whole = run(problem, driver(problem.problem, variance="full"), log)
    content = path.read_bytes()
    for length in [0, 3, 8, 9, 20, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with EvaluationLog(path) as log:
            again = run(problem, driver(problem.problem, variance="full"), log)
        assert fingerprint(again) == fingerprint(whole)
        assert path.read_bytes() == content
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    path.write_bytes(damaged)
    with EvaluationLog(path) as log:
        assert sum(1 for _ in log.records()) < whole.evaluations
        assert fingerprint(run(problem, driver(problem.problem, variance="full"), log)) == fingerprint(whole)


def test_a_finished_log_gives_the_solution_without_an_evaluation(case, tmp_path: Path) -> None:
    problem = case(Loss.SQUARED, 100, 3)
    with EvaluationLog(tmp_path / "log") as log:
        whole = run(problem, NewtonDriver(problem.problem, variance="full"), log)
        again = resume(NewtonDriver(problem.problem, variance="full"), log)
    assert isinstance(again, FixedEffectSolution)
    assert fingerprint(again) == fingerprint(whole)


def test_a_log_of_another_problem_is_refused(case, tmp_path: Path) -> None:
    problem = case(Loss.LOGISTIC, 100, 3)
    other = case(Loss.LOGISTIC, 100, 3, prior=True)
    path = tmp_path / "log"
    with EvaluationLog(path) as log:
        run(problem, NewtonDriver(problem.problem), log)
        with pytest.raises(Conflict, match=f"{path}: evaluation 0 .* another config"):
            resume(NewtonDriver(other.problem), log)
        with pytest.raises(Conflict, match="evaluation 0"):
            resume(LbfgsDriver(problem.problem), log)
    np.arange(9).tofile(path)
    with pytest.raises(Conflict, match="not an evaluation log"):
        EvaluationLog(path)
