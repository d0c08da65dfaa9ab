"""Whatever happens, in whatever order: every unit is accepted once, nothing stalls, the result is the same.

`Drive` checks every batch: fences rise, leases are journaled before they are sent, a unit that is done stays as
it is, nobody gets more than it has threads, sequence numbers rise, a gang is out or done as a whole or not at all.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gdmix_core.tasks import EvaluateFixedEffect
from gdmix_server.state.events import OptimiserAsked, OptimiserFinished
from gdmix_server.state.instructions import StartGang, StartOptimiser, TellOptimiser
from gdmix_server.state.model import JobState

WORKERS = st.sampled_from("abc")
ROUNDS = 3


@pytest.mark.parametrize("gang_first", [False, True])
def test_any_order(by_hand, gang_first):
    def train_gang():
        outcome = yield by_hand.gang("gang", 2)
        assert len(set(outcome.directories)) == 2

    def program(job):
        if gang_first:
            yield from train_gang()
        first = yield by_hand.units("first", 4, rows=(1, 9, 3, 3))
        assert len(first.results) == 4
        yield by_hand.fixed_effect((3, 1, 4, 1, 5))
        if not gang_first:
            yield from train_gang()
        last = yield by_hand.units("last", 2)
        assert len(set(last.directories)) == 2

    class AnyOrder(RuleBasedStateMachine):
        """Workers come, work, fail, fall silent, vanish; the coordinator dies; the optimiser goes on."""

        def __init__(self) -> None:
            super().__init__()
            patient = by_hand.with_settings(attempts=10**6, deaths=10**6, workers_wait_seconds=1e9)
            self.drive = by_hand.Drive(program, patient)
            self.round = 0
            self.asked = False
            self.finished_tasks = []
            self.addresses: dict[int, str] = {}
            self.reported: set[int] = set()
            self.connected: set[str] = set()
            self.take(self.drive.submit())

        def take(self, batch) -> None:
            """Play the driver: after `StartOptimiser` and after each round it wants the next one."""
            for instruction in batch:
                if isinstance(instruction, StartOptimiser):
                    self.round, self.asked = self.round or 1, False
                # The same batch may call the members back again.
                if isinstance(instruction, StartGang) and instruction.lease.fence in self.drive.out:
                    members = self.drive.members()
                    told = tuple(self.addresses[sent.lease.fence] for sent in members)
                    assert instruction.addresses == told, "those of this attempt"
                if isinstance(instruction, TellOptimiser):
                    assert [s for _, numbers in instruction.nodes for s in numbers] == [0, 1, 2, 3, 4]
                    assert instruction.round_number == self.round
                    self.round, self.asked = self.round + 1, False

        @precondition(lambda self: 0 < self.round <= ROUNDS and not self.asked)
        @rule()
        def ask(self) -> None:
            self.asked = True
            self.take(
                self.drive.handle(
                    OptimiserAsked(
                        now=self.drive.now, job_id="j", stage="fit", round_number=self.round, hessian=False
                    )
                )
            )

        @precondition(lambda self: self.round == ROUNDS + 1)
        @rule()
        def converge(self) -> None:
            self.round += 1
            self.take(
                self.drive.handle(
                    OptimiserFinished(now=self.drive.now, job_id="j", stage="fit", outcome=by_hand.OUTCOME)
                )
            )

        @rule(worker=WORKERS, threads=st.integers(1, 3), remembers=st.booleans())
        def connect(self, worker: str, threads: int, remembers: bool) -> None:
            """A new worker, one whose connection broke, or a new process under an old name."""
            held = [sent.lease for sent in self.drive.sent_to(worker)] if remembers else []
            threads = max(threads, len(held))
            self.connected.add(worker)
            self.take(self.drive.connect(worker, threads=threads, held=held))

        @precondition(lambda self: self.connected)
        @rule(data=st.data())
        def disconnect(self, data) -> None:
            worker = data.draw(st.sampled_from(sorted(self.connected)))
            self.connected.discard(worker)
            self.take(self.drive.disconnect(worker))

        @precondition(lambda self: self.drive.out)
        @rule(data=st.data())
        def finish(self, data) -> None:
            sent = self.drive.out[data.draw(st.sampled_from(sorted(self.drive.out)))]
            self.finish_one(sent)

        def finish_one(self, sent) -> None:
            self.finished_tasks.append(sent)
            self.reported.add(sent.lease.fence)
            self.take(self.drive.finish(sent))

        @precondition(lambda self: self.drive.members())
        @rule(data=st.data(), everybody=st.booleans())
        def join(self, data, everybody: bool) -> None:
            """Members say where they listen, once or again."""
            members = self.drive.members()
            for sent in members if everybody else [data.draw(st.sampled_from(members))]:
                address = self.addresses.setdefault(sent.lease.fence, f"here:{len(self.addresses) + 1}")
                self.take(self.drive.join(sent, address))

        @precondition(lambda self: self.finished_tasks)
        @rule(data=st.data())
        def finish_again(self, data) -> None:
            self.take(self.drive.finish(data.draw(st.sampled_from(self.finished_tasks))))

        @precondition(lambda self: self.drive.out)
        @rule(data=st.data())
        def fail(self, data) -> None:
            sent = self.drive.out[data.draw(st.sampled_from(sorted(self.drive.out)))]
            self.take(self.drive.fail(sent))

        @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 20.0]))
        def wait(self, seconds: float) -> None:
            self.take(self.drive.wait(seconds, *(sorted(self.connected) if seconds > 10 else ())))

        @rule(seconds=st.sampled_from([5.0, 60.0]))
        def stand_still(self, seconds: float) -> None:
            self.drive.now += seconds

        @rule(forgetful=WORKERS)
        def kill_coordinator(self, forgetful: str) -> None:
            """A worker may have been killed together with it, and come back under its name."""
            held = {
                worker: self.drive.sent_to(worker) if worker != forgetful else [] for worker in self.connected
            }
            self.asked = False
            self.take(self.drive.restart())
            for worker in sorted(self.connected):
                leases = [sent.lease for sent in held[worker]]
                for sent in held[worker]:
                    if self.drive.machine.is_current(sent.lease):
                        self.drive.out[sent.lease.fence] = sent
                threads = self.drive.threads[worker]
                self.take(self.drive.connect(worker, threads=threads, held=leases))

        @rule()
        def cancel_and_resume(self) -> None:
            if not self.drive.job().state.ended:
                self.drive.cancel()
                self.asked = False
                self.take(self.drive.resume())

        @invariant()
        def it_never_fails(self) -> None:
            assert self.drive.job().state in {JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED}
            assert all(self.drive.machine.is_current(sent.lease) for sent in self.drive.out.values())

        def teardown(self) -> None:
            """With one healthy worker, the job gets to its end from wherever it was."""
            self.take(self.drive.connect("healthy", threads=2))
            self.reported.clear()
            for _ in range(200):
                if self.drive.job().state.ended:
                    break
                if 0 < self.round <= ROUNDS and not self.asked:
                    self.ask()
                elif self.round == ROUNDS + 1:
                    self.converge()
                elif sent := [
                    one
                    for one in self.drive.sent_to("healthy")
                    # What a gang's member brought counts, and ends its lease, with the last one's only.
                    if one.lease.fence not in self.reported
                ]:
                    self.finish_one(sent[0])
                else:
                    for worker in sorted(self.connected):
                        self.disconnect_named(worker)
                    self.take(self.drive.wait(6.0, "healthy"))
            assert self.drive.job().state is JobState.SUCCEEDED, self.drive.job()
            done = {key: row for key, row in self.drive.units.items() if row.done}
            assert sorted((stage, unit) for _, stage, unit in done) == [
                *(("first", unit) for unit in range(4)),
                *(("gang", unit) for unit in range(2)),
                *(("last", unit) for unit in range(2)),
            ]
            assert not any(isinstance(sent.task, EvaluateFixedEffect) for sent in self.drive.out.values())

        def disconnect_named(self, worker: str) -> None:
            self.connected.discard(worker)
            self.take(self.drive.disconnect(worker))

    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_events_give_the_same_instructions(by_hand, seed):
    """The machine has no clock, no randomness and no order of its own."""

    def story():
        drive = by_hand.Drive(by_hand.one_stage(6))
        told = [drive.connect("a", threads=2), drive.connect("b"), drive.submit("j"), drive.submit("k")]
        for step in range(8):
            sent = [drive.out[fence] for fence in sorted(drive.out)]
            one = sent[(seed + step) % len(sent)]
            told.append(drive.fail(one) if (seed + step) % 4 == 0 else drive.finish(one))
        return [*told, drive.disconnect("b"), drive.wait(4), drive.restart()]

    assert story() == story()
