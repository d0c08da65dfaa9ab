"""Runs the optimisers of fixed effects: asks the driver, has rounds evaluated elsewhere, tells it the sums.

The numerics are those of `gdmix_core.solvers.fixed_effect`; here is what surrounds them: threads, the log of
evaluations that makes a killed coordinator go on to the same bytes, and the arrays at both ends. Whatever
goes wrong becomes an `OptimiserFailed` event, never an exception in somebody's face.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gdmix_core.errors import GdmixError, InternalError
from gdmix_server.array_store import Array, ArrayStore
from gdmix_server.state.events import Event, OptimiserAsked, OptimiserFailed, OptimiserFinished
from gdmix_server.state.instructions import TellOptimiser
from gdmix_server.state.model import FixedEffectOutcome, FixedEffectStage

if TYPE_CHECKING:
    from gdmix_core.solvers.fixed_effect import EvaluationRequest, FixedEffectSolution, FixedEffectSums

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Key = tuple[str, str]

_THREADS: Final = 2
SUMS: Final = "sums"
"""Name of the array that an evaluation pushes: one row for each maximal whole subtree of its shards."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What a driver said last, and the objective where it was told about last."""

    said: EvaluationRequest | FixedEffectSolution
    objective: float = 0.0
    gradient_ratio: float = 0.0


class Optimisation:
    """The solve of one stage. Its methods compute and write files: they belong on a thread, one at a time."""

    def __init__(self, stage: FixedEffectStage, l2: Array, log_path: Path) -> None:
        """Create the driver and run it through the evaluations that an earlier coordinator logged.

        Raises:
            GdmixError: the problem makes no sense, or the log belongs to another one.
        """
        import numpy as np

        from gdmix_core.solvers.fixed_effect import (
            EvaluationLog,
            FixedEffectProblem,
            choose_driver,
            resume,
        )
        from gdmix_core.solvers.losses import Loss

        self._stage = stage
        self._problem = FixedEffectProblem(
            dimension=stage.dimension,
            intercept=stage.design.intercept,
            l2=l2,
            prior_mean=np.zeros(stage.dimension),
            loss=Loss(stage.loss),
        )
        self._driver = choose_driver(
            self._problem,
            rows=sum(stage.shard_rows),
            nonzeros=stage.nonzeros,
            solver=_solver(stage.solver),
            variance=stage.variance,
        )
        self._driver.max_iterations = stage.max_iterations
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = EvaluationLog(log_path)
        self._began = time.monotonic()
        try:
            self.step = _Step(resume(self._driver, self._log))
        except BaseException:
            self.close()
            raise

    @property
    def seconds(self) -> float:
        """Wall time since the driver was created."""
        return time.monotonic() - self._began

    def tell(self, round_number: int, pushed: Mapping[tuple[int, ...], Array]) -> _Step:
        """Complete the tree of a round, log its root, and tell the driver.

        Args:
            round_number: the round; one that is not being waited for changes nothing.
            pushed: the sums of each worker, by the shards they are of.

        Raises:
            InternalError: the sums do not fit together.
        """
        from gdmix_core.solvers.fixed_effect import FixedEffectSolution
        from gdmix_core.solvers.fixed_effect.problem import Evaluation

        request = self.step.said
        if isinstance(request, FixedEffectSolution) or request.number != round_number:
            return self.step
        sums = self._reduce(pushed)
        at = Evaluation.of(self._problem, request.theta, sums)
        self._log.append(request, sums)
        self.step = _Step(self._driver.tell(sums), at.value, at.tolerance_ratio)
        return self.step

    def close(self) -> None:
        """Drop the driver; the log stays."""
        self._driver.close()
        self._log.close()

    def _reduce(self, pushed: Mapping[tuple[int, ...], Array]) -> FixedEffectSums:
        from gdmix_core.solvers.fixed_effect import FixedEffectSums
        from gdmix_core.solvers.summation_tree import Node, owned_nodes, reduce_nodes

        leaves = len(self._stage.shards)
        nodes: dict[Node, FixedEffectSums] = {}
        for shards, rows in pushed.items():
            owned = owned_nodes(shards, leaves)
            if rows.ndim != 2 or len(rows) != len(owned):
                raise InternalError(
                    f"stage {self._stage.name}: the sums of shards {list(shards)} have shape "
                    f"{list(rows.shape)}; expected is one row for each of {len(owned)} subtrees"
                )
            for node, row in zip(owned, rows, strict=True):
                nodes[node] = FixedEffectSums.from_array(row, self._stage.dimension)
        return reduce_nodes(nodes, leaves)


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of a stage's optimisation: taken by StartOptimiser, empty until the driver is there."""

    optimisation: Optimisation | None = None


class OptimiserRunner:
    """The optimisations of all jobs; its methods belong to the event loop's thread and return at once.

    The work of one stage is done piece after piece, on threads; what a stopped optimisation still has to say
    is not listened to.
    """

    def __init__(self, arrays: ArrayStore, post: Callable[[Event], None]) -> None:
        """Take arrays from, and put them into, `arrays`; tell what happens by `post`."""
        self._arrays = arrays
        self._post = post
        self._running: dict[_Key, _Slot] = {}
        self._last: dict[_Key, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="optimiser")
        self._prepared = False

    def prepare(self) -> None:
        """Import the solvers on a thread, once, so that the first round need not wait for them."""
        if not self._prepared:
            self._prepared = True
            self._threads.submit(_import_solvers)

    def start(self, job_id: str, stage: FixedEffectStage) -> None:
        """Create a stage's driver; OptimiserAsked, OptimiserFinished or OptimiserFailed follows."""
        key = (job_id, stage.name)
        self.stop(*key)
        slot = self._running[key] = _Slot()
        self._spawn(key, slot, self._start(key, slot, stage))

    def tell(self, told: TellOptimiser) -> None:
        """Tell a driver about a round; it has taken the leases' arrays when this returns."""
        key = (told.job_id, told.stage)
        slot = self._running.get(key)
        if slot is None:
            return
        try:
            pushed = {shards: self._arrays.pushed(lease, SUMS) for lease, shards in told.nodes}
        except GdmixError as error:
            self._fail(key, slot, error)
            return
        self._spawn(key, slot, self._tell(key, slot, told.round_number, pushed))

    def stop(self, job_id: str, stage: str) -> None:
        """Drop a driver; its log stays for a resume."""
        key = (job_id, stage)
        slot = self._running.pop(key, None)
        if slot is not None:
            self._spawn(key, slot, self._close(slot))

    def end_stage(self, job_id: str, stage: str) -> None:
        """Drop a driver and its log: the stage's outcome is in the journal."""
        self.stop(job_id, stage)
        path = self._log_path(job_id, stage)
        if (job_id, stage) in self._last or path.exists():
            self._spawn((job_id, stage), _Slot(), self._remove(path))

    def end_job(self, job_id: str) -> None:
        """Drop all drivers of a job; their logs stay for a resume."""
        for key in [running for running in self._running if running[0] == job_id]:
            self.stop(*key)

    async def idle(self, job_id: str) -> None:
        """Wait until nothing of a job is under way."""
        while tasks := [task for key, task in self._last.items() if key[0] == job_id]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Drop everything and wait for the threads."""
        for key in list(self._running):
            self.stop(*key)
        while self._last:
            await asyncio.wait(list(self._last.values()))
        await asyncio.to_thread(self._threads.shutdown)

    # ---- pieces of work ----------------------------------------------------------------------------------

    async def _start(self, key: _Key, slot: _Slot, stage: FixedEffectStage) -> None:
        def create() -> Optimisation:
            l2 = self._arrays.saved(key[0], stage.l2)
            return Optimisation(stage, l2, self._log_path(*key))

        slot.optimisation = await self._in_thread(create)
        await self._go_on(key, slot, slot.optimisation, slot.optimisation.step)

    async def _tell(
        self, key: _Key, slot: _Slot, round_number: int, pushed: Mapping[tuple[int, ...], Array]
    ) -> None:
        optimisation = slot.optimisation
        if optimisation is not None and self._running.get(key) is slot:
            step = await self._in_thread(lambda: optimisation.tell(round_number, pushed))
            await self._go_on(key, slot, optimisation, step)

    async def _close(self, slot: _Slot) -> None:
        if slot.optimisation is not None:
            await self._in_thread(slot.optimisation.close)

    async def _remove(self, path: Path) -> None:
        await self._in_thread(lambda: path.unlink(missing_ok=True))

    async def _go_on(self, key: _Key, slot: _Slot, optimisation: Optimisation, step: _Step) -> None:
        from gdmix_core.solvers.fixed_effect import FixedEffectSolution

        if self._running.get(key) is not slot:
            return
        job_id, stage = key
        said = step.said
        if isinstance(said, FixedEffectSolution):
            outcome = await self._in_thread(lambda: self._save(key, optimisation, said))
            if self._running.get(key) is slot:
                self._post(OptimiserFinished(now=time.time(), job_id=job_id, stage=stage, outcome=outcome))
            return
        self._arrays.unshare(job_id, f"{stage}/theta@{said.number - 1}")
        self._arrays.share(job_id, f"{stage}/theta@{said.number}", said.theta)
        self._post(
            OptimiserAsked(
                now=time.time(),
                job_id=job_id,
                stage=stage,
                round_number=said.number,
                hessian=said.hessian,
                objective=step.objective,
                gradient_ratio=step.gradient_ratio,
            )
        )

    def _save(
        self, key: _Key, optimisation: Optimisation, solution: FixedEffectSolution
    ) -> FixedEffectOutcome:
        """Put the solution on disk; on a thread."""
        job_id, stage = key
        self._arrays.save(job_id, f"{stage}/theta", solution.theta)
        if solution.variances is not None:
            self._arrays.save(job_id, f"{stage}/variances", solution.variances)
        return FixedEffectOutcome(
            status=solution.status.name.lower(),
            converged=solution.status.name == "CONVERGED",
            iterations=solution.iterations,
            evaluations=solution.evaluations,
            objective=solution.value,
            gradient_norm=solution.gradient_norm,
            gradient_ratio=solution.tolerance_ratio,
            has_variances=solution.variances is not None,
            seconds=optimisation.seconds,
        )

    def _spawn(self, key: _Key, slot: _Slot, work: Coroutine[Any, Any, None]) -> None:
        """Do a piece of work after the earlier ones of its stage."""
        earlier = self._last.get(key)

        async def guarded() -> None:
            if earlier is not None:
                await asyncio.wait([earlier])
            try:
                await work
            except GdmixError as error:
                self._fail(key, slot, error)
            except Exception as error:
                logger.exception("the optimiser of stage %s of job %s failed", key[1], key[0])
                kind = type(error).__name__
                self._fail(
                    key, slot, InternalError(f"the optimiser of stage {key[1]} failed: {kind}: {error}")
                )

        task = asyncio.get_running_loop().create_task(guarded(), name=f"optimiser {key[0]} {key[1]}")
        self._last[key] = task
        task.add_done_callback(lambda done: self._last.pop(key) if self._last.get(key) is done else None)

    def _fail(self, key: _Key, slot: _Slot, error: GdmixError) -> None:
        if self._running.get(key) is slot:
            self.stop(*key)
            failed = OptimiserFailed(
                now=time.time(), job_id=key[0], stage=key[1], error_code=error.code, message=str(error)
            )
            self._post(failed)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _log_path(self, job_id: str, stage: str) -> Path:
        return self._arrays.job_directory(job_id) / f"{stage}.evaluations"


def _solver(name: str) -> Any:
    """Return the config's word for a solver; `choose_driver` refuses what it does not know."""
    return name


def _import_solvers() -> None:
    with suppress(ImportError):
        import gdmix_core.solvers.fixed_effect
        import gdmix_core.solvers.summation_tree  # noqa: F401
