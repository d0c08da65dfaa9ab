"""Fixed effects: distributed derivatives of one global model and the optimisers that drive them."""

from __future__ import annotations

from gdmix_core.solvers.fixed_effect.choice import Solver, choose_driver
from gdmix_core.solvers.fixed_effect.derivatives import (
    evaluate,
    hessian_diagonal,
    hessian_vector_product,
    score,
)
from gdmix_core.solvers.fixed_effect.evaluation_log import EvaluationLog, resume
from gdmix_core.solvers.fixed_effect.lbfgs import LbfgsDriver
from gdmix_core.solvers.fixed_effect.newton import NewtonDriver
from gdmix_core.solvers.fixed_effect.problem import (
    Driver,
    EvaluationRequest,
    FixedEffectProblem,
    FixedEffectSolution,
    FixedEffectStatus,
)
from gdmix_core.solvers.fixed_effect.shard import FixedEffectShard, FixedEffectSums

__all__ = [
    "Driver",
    "EvaluationLog",
    "EvaluationRequest",
    "FixedEffectProblem",
    "FixedEffectShard",
    "FixedEffectSolution",
    "FixedEffectStatus",
    "FixedEffectSums",
    "LbfgsDriver",
    "NewtonDriver",
    "Solver",
    "choose_driver",
    "evaluate",
    "hessian_diagonal",
    "hessian_vector_product",
    "resume",
    "score",
]
