"""Random effects: many small generalised linear models, solved exactly, compiled, in batches."""

from gdmix_core.solvers.entity_status import EntityStatus
from gdmix_core.solvers.random_effect.problems import EntityProblems, EntitySolutions
from gdmix_core.solvers.random_effect.products import hessian_vector_product, linear_predictor
from gdmix_core.solvers.random_effect.solve import solve

__all__ = [
    "EntityProblems",
    "EntitySolutions",
    "EntityStatus",
    "hessian_vector_product",
    "linear_predictor",
    "solve",
]
