"""`anyscope.testing`: simulation (X). Known defects are found, correct code is left in peace, a failure comes again.

The defects are those of real pools, locks and libraries in miniature: see `Lossy` and its siblings.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from anyscope import Ok, scope
from anyscope.testing import (
    Case,
    Deadlock,
    Failure,
    InjectedFault,
    Livelock,
    Outlived,
    Overheard,
    Scenario,
    Simulation,
    SimulationFailed,
    Swallowed,
    Unsupported,
    _private_asyncio,
    _private_trio,
    _replaying,
    attack,
    explore,
    replay,
    shrink,
    shuffle,
    simulation,
    sweep,
    sweeps,
)
from anyscope.testing._schedules import FAIR, Following, Priorities, Schedule, Shuffled, Youngest, policy_of, text_of

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])
checkpoint = anyio.lowlevel.checkpoint


# ------------------------------------------------------------------ programs with known defects
class Pool:
    """One resource, handed to whoever waits the longest; correct, if one trusts simulation."""

    def __init__(self) -> None:
        self.idle = ["r"]
        self.waiting: deque[tuple[anyio.Event, list[str]]] = deque()

    async def acquire(self) -> str:
        if self.idle:
            return self.idle.pop()
        event, slot = waiter = anyio.Event(), []
        self.waiting.append(waiter)
        try:
            await event.wait()
        except BaseException:
            self.give_up(waiter)
            raise
        return slot[0]

    def give_up(self, waiter: tuple[anyio.Event, list[str]]) -> None:
        if waiter[1]:
            self.release(waiter[1].pop())
        else:
            self.waiting.remove(waiter)

    def release(self, resource: str) -> None:
        if self.waiting:
            event, slot = self.waiting.popleft()
            slot.append(resource)
            event.set()
        else:
            self.idle.append(resource)


class Lossy(Pool):
    """Who is cancelled after the hand-off keeps what was handed to it."""

    def give_up(self, waiter: tuple[anyio.Event, list[str]]) -> None:
        if not waiter[1]:
            self.waiting.remove(waiter)


class Forgetful(Pool):
    """Who is cancelled stays in the queue."""

    def give_up(self, waiter: tuple[anyio.Event, list[str]]) -> None:
        pass


class Careless(Pool):
    """An await between taking and owning."""

    async def acquire(self) -> str:
        resource = await super().acquire()
        await checkpoint()
        return resource


class Double(Pool):
    """Looks, waits, takes: two may find the same one."""

    async def acquire(self) -> str:
        resource = self.idle[0]
        await checkpoint()
        return resource

    def release(self, resource: str) -> None:
        pass


def using(make: Callable[[], Pool]) -> Scenario:
    """Three use one resource; whatever happens, it is there in the end, and nobody shared it."""

    async def three_users(sim: Simulation) -> None:
        pool, holders = make(), 0

        async def use() -> None:
            nonlocal holders
            await checkpoint()
            resource = await pool.acquire()
            holders += 1
            try:
                assert holders == 1, "two holders"
                await checkpoint()
            finally:
                holders -= 1
                pool.release(resource)

        async with anyio.create_task_group() as tg:
            tg.start_soon(use)
            tg.start_soon(use)
            await sim.victim(use)
        pool.release(await pool.acquire())

    return three_users


# ------------------------------------------------------------------ they are found
@BOTH
@pytest.mark.parametrize("pool", [Lossy, Forgetful, Careless, Double])
def test_a_known_defect_is_found_and_comes_again(pool: type[Pool], backend: Any) -> None:
    """X: the canaries. A runtime that the simulation no longer has a hold on would leave them alone."""
    with pytest.raises(SimulationFailed) as caught:
        attack(using(pool), backend=backend)
    failure = caught.value.failure
    for _ in range(5):
        again = replay(using(pool), str(failure.case))
        assert again is not None
        assert (type(again.error), again.place, again.choices) == (type(failure.error), failure.place, failure.choices)
    assert replay(using(Pool), failure.case) is None


@BOTH
def test_each_way_of_looking_finds_the_lost_hand_off(backend: Any) -> None:
    """X: shuffled, by priorities, and explored; a sweep without other schedules cannot find it on Trio."""
    ways: list[Callable[[], object]] = [
        lambda: shuffle(using(Lossy), backend=backend, runs=400),
        lambda: explore(using(Lossy), backend=backend, strike="cancel", deviations=2),
    ]
    if backend == "asyncio":
        ways.append(lambda: sweep(using(Lossy), strike="native", at="step"))
        ways.append(lambda: shuffle(using(Lossy), strike="native"))
    for way in ways:
        with pytest.raises(SimulationFailed):
            way()
    assert sweep(using(Lossy), backend="trio", at="step").struck > 0


def test_the_sweep_that_needs_nothing_private_finds_an_await_before_owning_on_uvloop_too() -> None:
    """X: at checkpoints, by scope and natively, in real time."""
    pytest.importorskip("uvloop")
    for strike in ("cancel", "native"):
        with pytest.raises(SimulationFailed, match=r"three_users failed on asyncio.uvloop, .*cancelled at checkpoint"):
            sweep(stranded, backend="asyncio+uvloop", strike=strike)  # type: ignore[arg-type]
    assert attack(using(Pool), backend="asyncio+uvloop").struck >= 6


async def stranded(sim: Simulation) -> None:
    """A careless pool, without waiting for what is lost: the clock is real here."""
    pool = Careless()

    async def use() -> None:
        pool.release(await pool.acquire())

    await sim.victim(use)
    assert pool.idle, "lost"


stranded.__name__ = "three_users"


@BOTH
def test_correct_code_is_left_in_peace(backend: Any) -> None:
    """X: no false alarm in some thousand runs, with up to two deviations and a cancellation at each step."""
    report = attack(using(Pool), backend=backend, runs=300, deviations=2)
    report.add(explore(using(Pool), backend=backend, strike="cancel", deviations=1))
    assert report.runs > 500
    assert report.struck > 250


@BOTH
def test_one_case_is_one_run(backend: Any) -> None:
    """X: the same choices, every time: nothing depends on where things lie in memory."""
    traces = set()
    for _ in range(10):
        run = simulation.Run(using(Pool), Case(backend, "cancel", "step", 7, schedule="random:5"))
        traces.add((tuple(run.schedule.choices), run.simulation.place))
        clutter = [object() for _ in range(random.randrange(1000))]
        del clutter
    assert len(traces) == 1


# ------------------------------------------------------------------ what a failure tells
def test_a_failure_says_what_where_and_how_to_see_it_again() -> None:
    """X: backend, kind of cancellation, step, place, schedule, and the line that runs it again."""
    with pytest.raises(SimulationFailed) as caught:
        shuffle(using(Lossy), strike="native", runs=400)
    failure, text = caught.value.failure, str(caught.value)
    assert text.startswith("three_users failed on asyncio, natively cancelled at step ")
    assert "when the victim stood at test_testing_simulation.py:" in text
    assert "in acquire:\n  Deadlock: every task is blocked for ever:\n" in text
    assert f'Again: replay(three_users, "{failure.case}")\nFound in run {caught.value.runs}.' in text
    assert caught.value.__cause__ is failure.error
    assert isinstance(failure.error, Deadlock)


def test_what_was_not_struck_and_what_went_by_a_schedule_is_said() -> None:
    """X: the other forms of the text, word for word."""
    groups = ExceptionGroup("outer", [ValueError("two\nlines"), ExceptionGroup("inner", [KeyError("k")])])
    assert str(Failure(nothing, Case("trio", schedule="0:1"), "", groups, 4)) == (
        "nothing failed on trio, not struck by anything:\n"
        "  ValueError: two\n"
        "  lines\n"
        "  KeyError: 'k'\n"
        "Tasks went by the schedule 0:1, out of 4 choices.\n"
        'Again: replay(nothing, "trio schedule=0:1")'
    )
    case = Case("asyncio", "native", "step", 3, again=2)
    text = str(Failure(nothing, case, "app.py:1 in f", ValueError("x"), 0))
    assert text.splitlines()[0].partition(", ")[2] == (
        "natively cancelled at step 3 and the next 2, when the victim stood at app.py:1 in f:"
    )


def test_shrinking_leaves_only_the_deviations_that_matter() -> None:
    """X: from some hundred choices to one or two; the repeats of a native cancellation go too."""
    scenario = using(Lossy)
    draw = random.Random(1)
    while True:
        schedule = f"random:{draw.randrange(10**6)}"
        found = replay(scenario, Case("asyncio", "native", "step", draw.randint(1, 12), 2, schedule))
        if found is not None and found.choices > 6:
            break
    smallest = shrink(found)
    assert smallest.case.again == 0
    assert len(smallest.case.schedule.split(",")) <= 2
    assert type(smallest.error) is type(found.error)
    assert replay(scenario, smallest.case) is not None


def test_shrinking_gives_up_after_so_many_runs_and_keeps_what_does_not_fail_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """X: a failure that depends on something else is handed back as it is."""
    found = Failure(using(Pool), Case("asyncio", "cancel", "step", 2, schedule="random:3"), "", ValueError(), 3)
    assert shrink(found) is found
    monkeypatch.setattr(_replaying, "MOST_TRIES", 1)
    with pytest.raises(SimulationFailed) as caught:
        shuffle(using(Lossy), strike="native")
    assert replay(using(Lossy), caught.value.failure.case) is not None


# ------------------------------------------------------------------ what must hold in every run
async def nothing(sim: Simulation) -> None:
    """A scenario that can be struck once."""
    await sim.victim(checkpoint)


@BOTH
def test_a_deadlock_fails_the_run(backend: Any) -> None:
    """X: at once, through any shield, and whatever the program makes of it."""

    async def blocked(sim: Simulation) -> None:
        await nothing(sim)
        with anyio.CancelScope(shield=True):
            await anyio.Event().wait()

    failure = replay(blocked, Case(backend))
    assert failure is not None
    assert isinstance(failure.error, Deadlock)
    assert "in blocked" in str(failure.error)


@BOTH
def test_a_task_that_spins_fails_the_run(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """X: it never rests, so no time goes by."""
    monkeypatch.setattr(simulation, "MOST_TURNS", 500)

    async def spinning(sim: Simulation) -> None:
        await nothing(sim)
        while True:
            await checkpoint()

    failure = replay(spinning, Case(backend))
    assert failure is not None
    assert isinstance(failure.error, Livelock)


@pytest.mark.parametrize("backend", ["asyncio", "asyncio+uvloop"])
def test_a_task_that_is_left_fails_the_run(backend: Any) -> None:
    """X: on Trio there is no such thing."""
    if backend == "asyncio+uvloop":
        pytest.importorskip("uvloop")
    kept = []

    async def leaving(sim: Simulation) -> None:
        await nothing(sim)
        kept.append(asyncio.create_task(anyio.sleep(3600), name="forgotten"))
        await checkpoint()

    failure = replay(leaving, Case(backend))
    assert failure is not None
    assert isinstance(failure.error, Outlived)
    assert str(failure.error).startswith("tasks outlived the scenario: forgotten at ")


def test_a_native_cancellation_that_comes_to_nothing_fails_the_run() -> None:
    """X: `Task.cancel()` was accepted, and yet the victim returned."""

    async def deaf(sim: Simulation) -> None:
        async def shrug() -> None:
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                return

        await sim.victim(shrug)

    with pytest.raises(SimulationFailed) as caught:
        sweep(deaf, strike="native")
    assert isinstance(caught.value.failure.error, Swallowed)
    assert str(caught.value.failure.error).startswith("Task.cancel() was accepted at test_testing_simulation.py:")
    assert sweep(deaf).runs == 2  # in a scope of AnyIO's nothing is swallowed by that


@BOTH
def test_what_nobody_hears_fails_the_run(backend: Any) -> None:
    """X: never awaited, unraisable, ResourceWarning; with several, all are told."""

    class Sick:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    async def careless(sim: Simulation) -> None:
        await nothing(sim)
        checkpoint()  # type: ignore[unused-coroutine]
        Sick()
        warnings.warn("unclosed thing", ResourceWarning, stacklevel=1)
        warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)

    hook = sys.unraisablehook
    failure = replay(careless, Case(backend))
    assert sys.unraisablehook is hook
    assert failure is not None
    assert isinstance(failure.error, Overheard)
    assert "coroutine 'checkpoint' was never awaited" in str(failure.error)
    assert "unraisable: ValueError('in __del__')" in str(failure.error)
    assert "unclosed thing" in str(failure.error)
    assert "old-fashioned" not in str(failure.error)


def test_what_reaches_the_loops_handler_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """X: such as the error of a task that nobody asked."""

    async def careless(sim: Simulation) -> None:
        async def fail() -> None:
            raise ValueError("unseen")

        await nothing(sim)
        task = asyncio.create_task(fail())
        await checkpoint()
        await checkpoint()
        del task

    failure = replay(careless, Case("asyncio"))
    assert failure is not None
    assert isinstance(failure.error, Overheard)
    assert str(failure.error) == "Task exception was never retrieved: ValueError('unseen')"


@BOTH
def test_an_error_of_the_scenario_comes_before_what_else_went_wrong(backend: Any) -> None:
    """X: and what the interpreter is ended with passes."""

    async def failing(sim: Simulation) -> None:
        await nothing(sim)
        checkpoint()  # type: ignore[unused-coroutine]
        raise KeyError("first")

    failure = replay(failing, Case(backend))
    assert failure is not None
    assert isinstance(failure.error, KeyError)

    async def interrupted(sim: Simulation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(interrupted, Case(backend))


def test_what_takes_too_long_on_uvloop_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: there is no virtual time to see a deadlock by."""
    pytest.importorskip("uvloop")
    monkeypatch.setattr(simulation, "PATIENCE", 0.01)

    async def blocked(sim: Simulation) -> None:
        await nothing(sim)
        await anyio.sleep_forever()

    failure = replay(blocked, Case("asyncio+uvloop"))
    assert failure is not None
    assert isinstance(failure.error, Deadlock)
    assert str(failure.error) == "not ended after 0.01 real seconds"


# ------------------------------------------------------------------ the victim
@BOTH
def test_the_victim_gives_what_it_returns_or_none_when_it_was_cancelled(backend: Any) -> None:
    """X: `Ok`, so that a victim that returns None is told from one that was cancelled."""
    seen = []

    async def scenario(sim: Simulation) -> None:
        async def add(a: int, *, b: int) -> int:
            await anyio.sleep(1)
            return a + b

        seen.append((await sim.victim(add, 1, b=2), sim.has_struck, repr(sim)))

    sweep(scenario, backend=backend)
    assert seen[0][:2] == (None, True)
    case = f"{backend} cancel checkpoint"
    assert seen[0][2].startswith(f"<Simulation {case}=1 schedule=fifo, struck at test_testing_simulation.py:")
    assert seen[1] == (Ok(3), False, f"<Simulation {case}=2 schedule=fifo>")


def test_a_victim_that_is_struck_before_its_first_step_has_not_begun() -> None:
    """X: natively; its function is not even called."""
    called = []

    async def scenario(sim: Simulation) -> None:
        async def victim() -> None:
            called.append(True)

        await sim.victim(victim)

    failure = replay(scenario, Case("asyncio", "native", "step", 1))
    assert failure is None
    assert not called
    run = simulation.Run(scenario, Case("asyncio", "native", "step", 1))
    assert run.simulation.place == "its first step"


def test_a_run_has_one_victim() -> None:
    """X: a second one is refused, with the line to write."""

    async def greedy(sim: Simulation) -> None:
        await nothing(sim)
        with pytest.raises(RuntimeError, match=r"^a run has one victim, and this one had it\nRight: await sim.victim"):
            await nothing(sim)

    assert replay(greedy, Case()) is None


@BOTH
@pytest.mark.parametrize("strike", ["cancel", "fault"])
def test_a_scenario_without_a_victim_is_refused(backend: Any, strike: Any) -> None:
    """X: it would be green for ever."""

    async def empty(sim: Simulation) -> None:
        await checkpoint()
        if strike == "fault":
            await nothing(sim)

    if strike == "fault":
        assert sweep(empty, backend=backend, strike="fault").struck == 0
        return
    with pytest.raises(ValueError, match=r"^empty has no victim: nothing was struck\nRight: await sim.victim\(fn"):
        sweep(empty, backend=backend)


@BOTH
def test_a_fault_at_each_fault_point(backend: Any) -> None:
    """X: the k-th raises, until a run has fewer; the place is the point's name."""
    raised = []

    async def scenario(sim: Simulation) -> None:
        async def victim() -> None:
            sim.fault("open")
            await checkpoint()
            sim.fault()

        try:
            await sim.victim(victim)
        except InjectedFault as error:
            raised.append(str(error))

    report = sweep(scenario, backend=backend, strike="fault")
    assert raised == ["fault injected into call 1 of open", "fault injected into call 2 of fault point"]
    assert repr(report) == "<Report of scenario: 3 runs, 2 struck at 2 places>"
    assert report.places == {"open", "fault point"}
    assert explore(scenario, backend=backend, strike="fault", deviations=0).struck == 2
    assert shuffle(scenario, backend=backend, strike="fault", runs=40).struck > 0
    only_faults = replay(points_alone, Case(backend, "fault", number=1))
    assert only_faults is not None
    assert only_faults.place == "alone"


async def points_alone(sim: Simulation) -> None:
    """Fault points need no victim."""
    sim.fault("alone")


def test_a_cancelled_scenario_still_waits_for_its_victim() -> None:
    """X: natively, the victim is a task of its own; who cancels the scenario cancels that too."""
    ended = []

    async def scenario(sim: Simulation) -> None:
        async def victim() -> None:
            try:
                await anyio.sleep(60)
            finally:
                ended.append(True)

        with anyio.move_on_after(1):
            await sim.victim(victim)
        assert ended

    assert replay(scenario, Case("asyncio", "native", number=99)) is None


def test_what_is_awaited_may_be_closed_from_outside() -> None:
    """X: a coroutine that awaits the victim is closed, and the victim with it."""
    closed = []

    async def victim() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            closed.append(True)

    async def waits() -> None:
        await simulation.Watched(victim(), lambda: None)

    coro = waits()
    coro.send(None)
    coro.close()
    assert closed == [True]


# ------------------------------------------------------------------ cases and schedules as text
@pytest.mark.parametrize(
    "text",
    [
        "asyncio schedule=fifo",
        "trio cancel step=4 schedule=random:77",
        "asyncio native checkpoint=1 again=5 schedule=priorities:3:40",
        "trio fault=2 schedule=0:1,12:3",
        "asyncio+uvloop native checkpoint=1 schedule=fifo",
    ],
)
def test_a_case_is_a_line_of_text(text: str) -> None:
    """X: what is printed can be read again."""
    assert str(Case.of(text)) == text


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Case("curio"), "backend must be one of 'asyncio', 'asyncio+uvloop', 'trio', got 'curio'"),
        (lambda: Case(strike="kill"), "strike must be one of 'cancel', 'native', 'fault' or None, got 'kill'"),
        (lambda: Case(at="line"), "at must be one of 'checkpoint', 'step', got 'line'"),
        (lambda: Case("trio", "native"), "strike='native' is asyncio's Task.cancel(); on trio there is only"),
        (lambda: Case("asyncio", "cancel", again=1), "again repeats a native cancellation: it needs strike='native'"),
        (lambda: Case("asyncio+uvloop", "cancel", "step"), "uvloop's queue cannot be seen"),
        (lambda: Case("asyncio+uvloop", schedule="random:1"), "uvloop's queue cannot be seen: there are no steps"),
        (lambda: Case(schedule="lifo"), "schedule='lifo' is no schedule\nRight: 'fifo', 'random:SEED'"),
        (lambda: Case(schedule="1:0"), "schedule='1:0' is no schedule"),
        (lambda: Case.of("asyncio"), "'asyncio' is no case\nRight: 'asyncio native step=12"),
        (lambda: shuffle(nothing, runs=0), "runs must be >= 1, got 0"),
        (lambda: attack(nothing, runs=-1), "runs must be >= 1, got -1"),
        (lambda: explore(nothing, most_runs=0), "most_runs must be >= 1, got 0"),
        (lambda: explore(nothing, deviations=-1), "deviations must be >= 0, got -1"),
    ],
)
def test_a_case_that_cannot_be_is_refused(make: Callable[[], object], problem: str) -> None:
    """X: option, value, rule, remedy."""
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(problem)


def test_a_number_of_runs_that_is_none_is_refused() -> None:
    """X: there is no such thing as no limit here."""
    with pytest.raises(TypeError, match=r"^runs must be an int, got None \(NoneType\)$"):
        shuffle(nothing, runs=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^deviations must be an int, got True \(bool\)$"):
        explore(nothing, deviations=True)


def test_reports_and_failures_show_themselves() -> None:
    """X: exact texts."""
    assert repr(explore(nothing, deviations=0)) == "<Report of nothing: 1 run, none struck>"
    assert repr(sweep(nothing)) == "<Report of nothing: 2 runs, 1 struck at 1 place>"

    class Callable:
        async def __call__(self, sim: Simulation) -> None:
            await nothing(sim)

    assert repr(sweep(Callable())) == "<Report of Callable: 2 runs, 1 struck at 1 place>"


# ------------------------------------------------------------------ schedules
def test_no_task_takes_more_than_its_share_while_another_waits() -> None:
    """X: a schedule never does what a slower machine could not do, whatever the policy wants."""
    schedule = Schedule(Youngest())
    waited = taken = longest = 0
    for _ in range(500):
        choice = schedule.choose([0, 1])
        taken = taken + 1 if choice else 0
        longest = max(longest, taken)
        waited += choice == 0
    assert longest == FAIR
    assert waited > 20


def test_fairness_is_kept_over_rests_in_between() -> None:
    """X: who sleeps now and then starves the rest no more than who never does."""
    schedule = Schedule(Youngest())
    steps_of_two = 0
    for turn in range(100):  # 1 waits all the time; 2 is there every time, 3 only sometimes
        ready = [1, 2, 3] if turn % 3 else [1, 2]
        choice = schedule.choose(ready)
        if choice == 0:
            break
        steps_of_two += ready[choice] == 2
    else:
        pytest.fail("task 1 was starved")
    assert steps_of_two <= FAIR


def test_schedules_are_drawn_the_same_from_the_same_seed() -> None:
    """X: and what they decided can be written down and followed."""
    ready = [1, 2, 3, 4]
    for text in ("random:3", "priorities:3:30"):
        decided = []
        for _ in range(2):
            schedule = Schedule(policy_of(text))
            decided.append([schedule.choose(ready) for _ in range(40)])
        assert decided[0] == decided[1]
        assert len(set(decided[0])) > 1
        follower = Schedule(policy_of(text_of(schedule.deviations())))
        assert [follower.choose(ready) for _ in range(40)] == decided[0]
    assert text_of({}) == "fifo"
    assert isinstance(policy_of("random:3"), Shuffled)
    assert isinstance(policy_of("priorities:3:30"), Priorities)


def test_a_choice_that_is_not_there_any_more_becomes_the_last() -> None:
    """X: when the code has changed since the failure."""
    assert Following({0: 7}).pick([1, 2], 0) == 1


def test_exploring_runs_each_schedule_once() -> None:
    """X: every schedule with at most so many deviations, no other, none twice."""
    schedules: list[tuple[int, ...]] = []

    async def two_and_two(sim: Simulation) -> None:
        order: list[int] = []

        async def note(name: int) -> None:
            order.append(name)
            await checkpoint()
            order.append(name)

        async with anyio.create_task_group() as tg:
            for name in range(3):
                tg.start_soon(note, name)
        await nothing(sim)
        schedules.append(tuple(order))

    report = explore(two_and_two, deviations=1)
    assert report.runs == len(schedules)
    assert len(set(schedules)) > 4
    everything = explore(two_and_two, deviations=99)
    assert len(set(schedules)) == 90  # all orders of 0 0 1 1 2 2
    assert everything.runs >= 90
    assert explore(two_and_two, deviations=99, most_runs=7).runs == 7
    assert explore(two_and_two, strike="cancel", deviations=0, most_runs=2).runs == 2


def test_a_sweep_ends_at_some_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: also over a scenario that is struck wherever one looks."""
    monkeypatch.setattr(sweeps, "MOST_POINTS", 2)
    assert repr(sweep(using(Pool), at="step")) == "<Report of three_users: 2 runs, 2 struck at 1 place>"


# ------------------------------------------------------------------ the runtimes
def test_plain_callbacks_keep_their_order_under_any_schedule() -> None:
    """X: as asyncio documents; only steps of tasks are late, and cancelled handles count for nothing."""

    async def scenario(sim: Simulation) -> None:
        loop, order = asyncio.get_running_loop(), []
        loop.call_soon(order.append, -1).cancel()
        for number in range(5):
            loop.call_soon(order.append, number)
        loop.call_soon(order.append, 5).cancel()
        await sim.victim(anyio.sleep, 1)
        assert order == [0, 1, 2, 3, 4]

    shuffle(scenario, strike=None, runs=50)


def test_tasks_of_python_and_queues_without_tasks_are_scheduled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: a handle that was cancelled is skipped even if nothing else is ready."""

    async def scenario(sim: Simulation) -> None:
        loop = asyncio.get_running_loop()
        await nothing(sim)
        handle = loop.call_later(1, pytest.fail)
        loop.call_later(0.5, lambda: (loop.call_soon(pytest.fail).cancel(), handle.cancel()))
        await anyio.sleep(2)

    assert replay(scenario, Case()) is None


def test_a_task_factory_of_the_programs_own_is_used() -> None:
    """X: its tasks go first in, first out; the others are scheduled."""
    made = []

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        made.append(asyncio.Task(coro, loop=loop, **options))
        return made[-1]

    async def scenario(sim: Simulation) -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(note, number)
            await nothing(sim)
        assert order == [0, 1, 2]

    assert shuffle(scenario, strike=None, runs=20).runs == 20
    assert len(made) >= 60


def test_a_run_of_trio_in_another_thread_is_left_alone() -> None:
    """X: the scheduler of Trio is one for all threads."""
    done = []

    async def scenario(sim: Simulation) -> None:
        async def other() -> None:
            async with anyio.create_task_group() as tg:
                for number in range(5):
                    tg.start_soon(anyio.lowlevel.checkpoint)
                    done.append(number)

        thread = threading.Thread(target=trio.run, args=(other,))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await sim.victim(checkpoint)

    assert replay(scenario, Case("trio", schedule="random:1")) is None
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("module", [_private_asyncio, _private_trio])
def test_a_runtime_that_does_not_let_itself_be_scheduled_is_refused(module: Any, monkeypatch: Any) -> None:
    """X: two tasks are run in reverse order first; where that fails, nothing would be found."""
    check = module.check if module is _private_asyncio else module.check_schedules
    check()
    check.cache_clear()
    try:
        monkeypatch.setattr(module, "Youngest", lambda: Following({}))
        with pytest.raises(Unsupported, match="does not let a schedule choose which task goes next"):
            check()

        def broken() -> Any:
            raise AttributeError("_ready")

        monkeypatch.setattr(module, "Youngest", broken)
        with pytest.raises(Unsupported):
            check()
    finally:
        monkeypatch.undo()
        check.cache_clear()
        check()


def test_without_uvloop_the_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: with the name of what is missing."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(Unsupported, match=r"backend='asyncio.uvloop' needs uvloop, which is not installed"):
        replay(nothing, Case("asyncio+uvloop"))


def test_the_heap_is_frozen_for_the_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: unless somebody else has frozen it, who knows when to end that."""
    frozen = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: len(frozen))
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(gc, "unfreeze", frozen.clear)

    async def scenario(sim: Simulation) -> None:
        assert frozen
        await nothing(sim)

    attack(scenario, runs=1)
    assert not frozen
    frozen.append(True)
    attack(scenario, runs=1)
    assert frozen


# ------------------------------------------------------------------ the library
@BOTH
def test_a_scope_under_simulation(backend: Any) -> None:
    """X: an example of how the library is attacked; see tests/scenarios.py for the rest."""

    async def scenario(sim: Simulation) -> None:
        log: list[str] = []

        async def app() -> None:
            async with scope() as s:
                s.on_exit(log.append, "closed")
                log.append("opened")
                await s.run(anyio.sleep, 1)

        await sim.victim(app)
        assert log in ([], ["opened", "closed"])

    assert attack(scenario, backend=backend).struck > 100
