"""Faults seeded into the library, each of which `anyscope.testing` must find: finding nothing would say nothing else.

A fault is what a careless change would do: a clean-up in the wrong order, a hand-back that is left out, an error
dropped. It is planted by patching, a story is attacked, and what is found must be a failure of the right kind, which
comes again with the fault (`replay`) and is gone without it. Most stories are those of tests/scenarios.py; where none
of them can tell, there is one here.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import logging
import math
import re
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import CancelSource, Key, Ok, Scope, ScopeClosed, scope, use
from anyscope._features import entering, racing, services, starting
from anyscope._features.crew import Crew
from anyscope._features.parallel import Collector
from anyscope._features.service import Service
from anyscope._features.slots import Slots
from anyscope._features.task import Task
from anyscope._features.tasks import Tasks
from anyscope._lifetime import owner as owner_module
from anyscope._lifetime.branch import Branch
from anyscope._lifetime.cleanup import CleanUp, run_clean_up
from anyscope._lifetime.ending import Ending
from anyscope._lifetime.hookset import HookSet
from anyscope._lifetime.opening import Opening
from anyscope._lifetime.owner import Owner
from anyscope._lifetime.place import Place, stand_in
from anyscope._lifetime.signal import CancelSignal
from anyscope._lifetime.start import Start
from anyscope._lifetime.works import Works
from anyscope._vocabulary.hooks import TaskEnded, TaskStarted
from anyscope.testing import (
    Report,
    Scenario,
    Simulation,
    SimulationFailed,
    explore,
    replay,
    shuffle,
    sweep,
)
from scenarios import SCENARIOS, Ledger, story

Patch = pytest.MonkeyPatch
Search = Callable[..., Report]

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
STORIES = {each.__name__: each for each in SCENARIOS}
OWN: list[Scenario] = []


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """What the library logs in some ten thousand runs would be kept by pytest."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# ------------------------------------------------------------------ how a fault is searched for
def at_once(scenario: Scenario, *, backend: Any) -> Report:
    """One run is enough: nothing has to strike, and no schedule is special."""
    return explore(scenario, backend=backend, deviations=0)


def by_schedule(scenario: Scenario, *, backend: Any) -> Report:
    """Nothing strikes; one choice is other than first in, first out."""
    return explore(scenario, backend=backend, deviations=1)


def by_scope(scenario: Scenario, *, backend: Any) -> Report:
    """An AnyIO scope is cancelled at each checkpoint of the victim."""
    return sweep(scenario, backend=backend)


def by_step(scenario: Scenario, *, backend: Any) -> Report:
    """An AnyIO scope is cancelled before each step of any task."""
    return sweep(scenario, backend=backend, at="step")


def natively(scenario: Scenario, *, backend: Any) -> Report:
    """`asyncio.Task.cancel()` at each checkpoint of the victim."""
    return sweep(scenario, backend=backend, strike="native")


def shuffled(scenario: Scenario, *, backend: Any) -> Report:
    """An AnyIO scope is cancelled at some step, under some schedule."""
    return shuffle(scenario, backend=backend, runs=500)


@dataclass(frozen=True)
class Fault:
    """A known fault, and who must find it how.

    Attributes:
        plant: Puts it into the library.
        story: The name of the story that can tell.
        search: The cheapest search that must find it.
        says: What the failure must say.
        backends: Where there is such a fault.
    """

    plant: Callable[[Patch], None]
    story: str
    search: Search
    says: str
    backends: tuple[str, ...]


FAULTS: list[Fault] = []


def fault(
    story: str, search: Search, *, says: str, backends: tuple[str, ...] = ("asyncio", "trio")
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Make a fault of a function that plants it."""

    def decorate(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS.append(Fault(plant, story, search, says, backends))
        return plant

    return decorate


def own(tell: Callable[[Simulation, Ledger], Awaitable[object]]) -> Scenario:
    """Make a scenario of a story that is told here alone."""
    made = story()(tell)
    SCENARIOS.remove(made)
    OWN.append(made)
    STORIES[made.__name__] = made
    return made


# ------------------------------------------------------------------ stories that scenarios.py does not tell
@own
async def a_queued_task_is_dropped(sim: Simulation, ledger: Ledger) -> None:
    """T7, T8: who is cancelled in the queue, or while it runs, holds up nobody."""

    async def victim() -> None:
        async with scope(name="app", concurrency=1) as s:
            running, queued, last = (s.task(ledger.work, name, 1.0) for name in "abc")
            await checkpoint()
            queued.cancel()
            running.cancel()
            assert await last == Ok("c")

    await sim.victim(victim)


@own
async def a_lender_goes_on(sim: Simulation, ledger: Ledger) -> None:
    """T8: a task that has lent its slot gets it back before it goes on."""

    async def alone(name: str) -> None:
        assert not ledger.alive, f"{name} runs beside {ledger.alive}"
        await ledger.work(name, 0.01)

    async def lending(s: Scope) -> None:
        borrower, _ = s.task(alone, "borrower"), s.task(alone, "bystander")
        await borrower
        await alone("lender")

    async def victim() -> None:
        async with scope(name="app", concurrency=1) as s:
            s.start_soon(lending, s)

    await sim.victim(victim)


@own
async def a_child_that_would_never_end(sim: Simulation, ledger: Ledger) -> None:
    """S9: a cancelled parent cancels its children, wherever they run, and whatever they do."""

    async def child(s: Scope) -> None:
        async with scope(name="child", parent=s) as inner:
            ledger.open(inner, "child")
            await anyio.sleep_forever()

    ledger.expected = (ScopeClosed,)  # it may come too late
    async with anyio.create_task_group() as tg, scope(name="app") as s:
        tg.start_soon(child, s)
        await sim.victim(anyio.sleep, 0.01)
        s.cancel("enough")


@own
async def a_scope_that_hears_a_signal(sim: Simulation, ledger: Ledger) -> None:
    """S10: a signal cancels the scope that was given it."""
    source = CancelSource()

    async def victim() -> None:
        async with scope(name="app", signal=source.signal) as s:
            ledger.open(s, "a")
            await anyio.sleep_forever()

    async def fire() -> None:
        await checkpoint()
        source.cancel("enough")

    async with anyio.create_task_group() as tg:
        tg.start_soon(fire)
        await sim.victim(victim)


@own
async def a_child_that_outlives_the_body(sim: Simulation, ledger: Ledger) -> None:
    """S9: a parent closes nothing before its children have closed."""

    async def child(s: Scope) -> None:
        async with scope(name="child", parent=s) as inner:
            ledger.open(inner, "child")
            await ledger.work("child at work", 1.0)

    ledger.expected = (ScopeClosed,)  # it may come too late
    async with anyio.create_task_group() as tg:

        async def victim() -> None:
            async with scope(name="app") as s:
                ledger.open(s, "app")
                tg.start_soon(child, s)
                await anyio.sleep(0.5)

        await sim.victim(victim)
    assert not ledger.closing or ledger.closing[-1] == "app", ledger.closing


@own
async def a_daemon_that_serves_to_the_end(sim: Simulation, ledger: Ledger) -> None:
    """S2: a daemon serves the tasks until the last has ended, also while they are being cancelled."""
    serving: set[str] = set()

    async def serve() -> None:
        serving.add("daemon")
        try:
            await anyio.sleep_forever()
        finally:
            serving.clear()

    async def served() -> None:
        try:
            await ledger.work("served", 1.0)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            assert serving, "the daemon was stopped before the task that it serves"

    async def victim() -> None:
        async with scope(name="app") as s:
            s.start_soon(serve, daemon=True)
            await anyio.sleep(0.1)
            s.start_soon(served)

    await sim.victim(victim)


@own
async def a_scope_that_is_left_at_once(sim: Simulation, ledger: Ledger) -> None:
    """S2: closing takes as long as what is waited for, and no longer."""

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.start_soon(anyio.sleep_forever, daemon=True)
            s.task(checkpoint)
            s.task(ledger.work, "work", 1.0)

    began = anyio.current_time()
    await sim.victim(victim)
    assert (took := anyio.current_time() - began) < 2, f"it took {took:g} seconds"


@own
async def a_deadline_that_nobody_heeds(sim: Simulation, ledger: Ledger) -> None:
    """S6: a deadline that cut nothing off is not told."""

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await ledger.work("work", 2.0)

    async def victim() -> None:
        async with scope(name="app", timeout=1.0) as s:
            s.task(shielded)

    await sim.victim(victim)


@own
async def one_who_asks_and_leaves(sim: Simulation, ledger: Ledger) -> None:
    """S4, T1: who has given up waiting for a task has not looked at its error."""

    async def victim(task: Task[None]) -> None:
        ledger.tell((await task).pair()[0])

    async with scope(name="app") as s:
        await sim.victim(victim, s.task(ledger.fail, "work", 1.0))


CONNECTION = Key[str]("connection")


@own
async def a_build_that_takes_long(sim: Simulation, ledger: Ledger) -> None:
    """V3, V11: it begins once for two who ask, goes on if one of them leaves, and ends if both do."""
    builds: list[str] = []

    async def connect() -> str:
        builds.append("begun")
        await ledger.work("factory", 1.0)
        return "connection"

    async def ask(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await use(CONNECTION)

    async with scope(name="app").provide(CONNECTION, connect) as s:
        s.start_soon(ask, 0.5)
        await sim.victim(ask, math.inf)
        if sim.has_struck:
            await anyio.sleep(0.6)
            assert not ledger.alive, "it is built for nobody"
        assert sim.has_struck or builds == ["begun"], builds


@own
async def a_build_that_opens_something(sim: Simulation, ledger: Ledger) -> None:
    """V3, V11: what a factory has given is owned by its scope, even if nobody waits in that moment."""

    async def connect() -> str:
        await checkpoint()
        ledger.opened.append("connection")
        return "connection"

    async def ask() -> None:
        await use(CONNECTION)

    async with scope(name="app").provide(CONNECTION, connect, close=ledger.close):
        await sim.victim(ask)


@own
async def the_next_who_asks(sim: Simulation, ledger: Ledger) -> None:
    """V3: if creation fails, the next who asks tries again."""
    ledger.expected = (ValueError,)  # it leaves the scope if nobody waits for the build any more
    builds: list[str] = []

    async def connect() -> str:
        builds.append("begun")
        await checkpoint()
        if len(builds) == 1:
            raise ValueError("not yet")
        return "connection"

    async def ask() -> None:
        with suppress(ValueError):
            await use(CONNECTION)

    async with scope(name="app").provide(CONNECTION, connect):
        await sim.victim(ask)
        await ask()
        try:
            assert await use(CONNECTION) == "connection"
        except ValueError:
            raise AssertionError("it is not made anew") from None


@own
async def a_transaction(sim: Simulation, ledger: Ledger) -> None:
    """S14: what is entered sees why its scope ends: a transaction does not commit what was cut off."""
    log: list[str] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            log.append("rolled back")
            raise
        log.append("committed")

    async def victim() -> None:
        async with scope(name="app") as s:
            await s.enter(transaction())
            await ledger.work("first half", 0.1)
            await ledger.work("second half", 0.1)
            log.append("done")

    await sim.victim(victim)
    assert log in (["done", "committed"], ["done", "rolled back"], ["rolled back"], []), log


# ------------------------------------------------------------------ faults: clean-ups
CLEAN_UPS = "a_scope_with_tasks_and_clean_ups"


@fault(CLEAN_UPS, at_once, says=r"AssertionError: opened \['a', 'b'\], closed \['a', 'b'\]")
def two_clean_ups_are_swapped(patch: Patch) -> None:
    push = Owner.push

    def swapped(self: Owner, *args: Any, **options: Any) -> None:
        push(self, *args, **options)
        self._clean_ups[-2:] = self._clean_ups[-2:][::-1]

    patch.setattr(Owner, "push", swapped)


@fault(CLEAN_UPS, by_scope, says=r"opened \['a'\], closed \['a', 'a'\]")
def a_clean_up_is_taken_off_the_stack_when_it_has_run(patch: Patch) -> None:
    """And not before, so that one which is left early runs again."""
    clean_up = Owner._clean_up

    async def again(self: Owner, step: Any) -> None:
        await clean_up(self, step)
        if self.cancelled:
            await clean_up(self, step)

    patch.setattr(Owner, "_clean_up", again)


@fault(CLEAN_UPS, natively, says=r"opened \['a'.*\], closed \[", backends=("asyncio",))
def clean_ups_run_in_the_host(patch: Patch) -> None:
    """Under a shield, which a native cancellation goes through."""

    async def in_the_host(self: Owner) -> BaseException | None:
        try:
            with anyio.CancelScope(shield=True):
                await self._close_shielded(is_cancelled=self.cancelled)
        except anyio.get_cancelled_exc_class() as cut:
            return cut
        return None

    patch.setattr(Owner, "_start_closer", in_the_host)


@fault(CLEAN_UPS, by_scope, says=r"opened \['a'.*\], closed \[")
def the_closer_does_not_shield_itself(patch: Patch) -> None:
    async def bare(self: Owner) -> None:
        self._closer_began = True
        stand_in(Place(self))
        await self._close_shielded(is_cancelled=False)

    patch.setattr(Owner, "_close", bare)


@fault("a_clean_up_that_hangs", at_once, says="Deadlock: every task is blocked for ever")
def a_clean_up_has_no_bound(patch: Patch) -> None:
    def endless(step: CleanUp, **options: Any) -> Any:
        return run_clean_up(step, **{**options, "bound": None})

    patch.setattr(owner_module, "run_clean_up", endless)


# ------------------------------------------------------------------ faults: errors
ERRORS = "errors_of_body_tasks_and_clean_ups"


@fault(ERRORS, shuffled, says=r"Mistake\('unseen'\) was told 0 times")
def errors_that_nobody_looked_at_are_swallowed(patch: Patch) -> None:
    patch.setattr(Tasks, "reports", lambda self: iter(()))


@fault("a_failing_task_and_those_who_ask", by_step, says=r"Mistake\('work'\) was told 0 times", backends=("asyncio",))
@fault("one_who_asks_and_leaves", by_scope, says=r"Mistake\('work'\) was told 0 times")
def an_error_counts_as_seen_once_somebody_waits_for_it(patch: Patch) -> None:
    """Although the one who waits may be cancelled before it looks."""
    ended = Tasks.ended

    def seen(self: Tasks, task: Task[Any], result: Any) -> None:
        ended(self, task, result)
        if task._waiters is not None:
            self.observed(task)

    patch.setattr(Tasks, "ended", seen)


@fault(ERRORS, at_once, says=r"Mistake\('failing clean-up'\) was told 0 times")
def errors_of_clean_ups_are_swallowed(patch: Patch) -> None:
    async def quiet(step: CleanUp, **options: Any) -> Any:
        return replace(await run_clean_up(step, **options), error=None)

    patch.setattr(owner_module, "run_clean_up", quiet)


@fault(ERRORS, at_once, says=r"was told 0 times")
def only_the_first_error_leaves(patch: Patch) -> None:
    patch.setattr(Ending, "_group", lambda self, errors: errors[0].error)


@fault("a_scope_that_cancels_itself", at_once, says="AssertionError: the body went on")
def a_cancellation_from_outside_is_swallowed(patch: Patch) -> None:
    leave = Owner.leave

    async def quiet(self: Owner, raised: BaseException | None, face: object) -> bool:
        cancelled = anyio.get_cancelled_exc_class()
        with suppress(cancelled):
            return await leave(self, raised, face) or isinstance(raised, cancelled)
        return True

    patch.setattr(Owner, "leave", quiet)


@fault(CLEAN_UPS, natively, says=r"Swallowed: Task.cancel\(\) was accepted", backends=("asyncio",))
def a_native_cancellation_is_swallowed(patch: Patch) -> None:
    a_cancellation_from_outside_is_swallowed(patch)


@fault(
    "a_deadline_when_the_work_ends", by_schedule, says=r"assert not any\(isinstance\(result, Ok\)", backends=("trio",)
)
@fault("a_deadline_that_nobody_heeds", at_once, says="nobody made .*ScopeTimeout")
def a_deadline_that_cut_nothing_off_is_told(patch: Patch) -> None:
    expire = Owner._expire

    def cutting(self: Owner, timeout: float) -> None:
        expire(self, timeout)
        self.trouble.cut = True

    patch.setattr(Owner, "_expire", cutting)


# ------------------------------------------------------------------ faults: who waits for whom
@fault("a_child_that_would_never_end", at_once, says="Deadlock: every task is blocked for ever")
def a_child_in_another_task_is_not_cancelled(patch: Patch) -> None:
    cancel = Branch.cancel

    def alone(self: Branch, *args: Any, **options: Any) -> None:
        children, self._children = self._children, {}
        cancel(self, *args, **options)
        self._children = children

    patch.setattr(Branch, "cancel", alone)


@fault("a_scope_that_hears_a_signal", at_once, says="Deadlock: every task is blocked for ever")
def a_signal_is_not_heard(patch: Patch) -> None:
    patch.setattr(CancelSignal, "on_cancel", lambda self, callback: lambda: None)


@fault("a_child_that_outlives_the_body", at_once, says=r"AssertionError: \['app', 'child'\]")
def a_parent_does_not_wait_for_its_children(patch: Patch) -> None:
    adopt = Branch.adopt

    def adopt_and_forget(self: Branch, child: Branch) -> None:
        adopt(self, child)
        self.works.part(child)

    patch.setattr(Branch, "adopt", adopt_and_forget)


@fault("a_daemon_that_serves_to_the_end", at_once, says="Deadlock: every task is blocked for ever")
def daemons_are_never_stopped(patch: Patch) -> None:
    patch.setattr(Works, "join_daemon", lambda self, daemon: None)


@fault("a_daemon_that_serves_to_the_end", by_scope, says="the daemon was stopped before the task that it serves")
def daemons_are_cut_off_with_the_tasks(patch: Patch) -> None:
    patch.setattr(Task, "_shielded", Task._attempt)


@fault("scopes_in_scopes", by_schedule, says="Deadlock: every task is blocked for ever")
@fault("a_scope_that_is_left_at_once", at_once, says="it took 6.01 seconds")
def the_closer_looks_and_then_listens(patch: Patch) -> None:
    """What ends in between wakes nobody: the lost wake-up. Only the warning that closing is slow looks again."""

    async def late(self: Works) -> None:
        await checkpoint()
        self._changed = anyio.Event()
        await self._changed.wait()

    patch.setattr(Works, "_until_change", late)


@fault("several_wait_for_a_task", by_scope, says=r"assert got.count\(Ok")
def who_gives_up_waiting_cancels_the_task(patch: Patch) -> None:
    wait = Task.__await__

    def jealous(self: Task[Any]) -> Generator[Any, Any, Any]:
        try:
            return (yield from wait(self))
        except BaseException:
            self.cancel()
            raise

    patch.setattr(Task, "__await__", jealous)


@fault("tasks_that_say_when_they_have_started", by_step, says="nobody made .*ScopeCancelled", backends=("asyncio",))
def a_starter_that_is_cancelled_takes_the_scope_along(patch: Patch) -> None:
    class Heard(starting.Ready):
        heard = property(lambda self: True, lambda self, heard: None)

    patch.setattr(starting, "Ready", Heard)


@fault("hooks_of_a_scope", by_scope, says=r"isdisjoint\(seen\)")
def a_cancelled_task_has_no_end_in_the_hooks(patch: Patch) -> None:
    tell_ended = HookSet.tell_ended

    def untold(self: HookSet, event: TaskEnded) -> None:
        if event.outcome != "cancelled":
            tell_ended(self, event)

    patch.setattr(HookSet, "tell_ended", untold)


@fault("hooks_of_a_scope", at_once, says="Deadlock: every task is blocked for ever", backends=("asyncio",))
def a_hook_that_raises_takes_the_work_along(patch: Patch) -> None:
    """On Trio a deadlock is thrown into who waits; the closer, which survives anything, waits on for ever."""

    def bare(self: HookSet, event: TaskStarted) -> None:
        for call in self.before:
            call._function(event)

    patch.setattr(HookSet, "tell_started", bare)


# ------------------------------------------------------------------ faults: slots
@fault("a_queued_task_is_dropped", at_once, says="Deadlock: every task is blocked for ever")
def a_cancelled_task_keeps_its_slot(patch: Patch) -> None:
    """The hand-back is dropped on cancel."""
    end = Slots.end

    def keep(self: Slots[Any], task: Any) -> None:
        if task.status != "cancelled":
            end(self, task)

    patch.setattr(Slots, "end", keep)


@fault("one_slot", at_once, says="Deadlock: every task is blocked for ever")
def nobody_lends_a_slot(patch: Patch) -> None:
    patch.setattr(Slots, "_fulfil", lambda self, lender: None)


@fault("a_lender_goes_on", at_once, says="bystander runs beside {'lender'}")
def a_lent_slot_goes_to_the_queue(patch: Patch) -> None:
    end = Slots.end

    def hand_on(self: Slots[Any], task: Any) -> None:
        self._lenders.pop(task, None)
        end(self, task)

    patch.setattr(Slots, "end", hand_on)


@fault("one_slot", by_scope, says="Overheard: .* was never awaited")
def the_coroutine_of_a_queued_task_is_dropped(patch: Patch) -> None:
    finish = Task._finish

    def careless(self: Task[Any], result: Any) -> None:
        self._coro = None
        finish(self, result)

    patch.setattr(Task, "_finish", careless)


# ------------------------------------------------------------------ faults: the parallel family
@fault("parallel_jobs", at_once, says="assert done.value == ")
def one_job_more_than_the_limit_runs(patch: Patch) -> None:
    init = Crew.__init__

    def generous(self: Crew[Any], *args: Any, limit: int | None, **options: Any) -> None:
        init(self, *args, limit=None if limit is None else limit + 1, **options)

    patch.setattr(Crew, "__init__", generous)


@fault("parallel_jobs", at_once, says="assert done.value == ")
def results_come_in_the_order_in_which_jobs_end(patch: Patch) -> None:
    patch.setattr(Collector, "_keep", lambda self, _, result: self.results.append(result))


@fault("a_race", shuffled, says="assert not ledger.alive")
def a_race_does_not_wait_for_the_losers(patch: Patch) -> None:
    async def impatient(self: racing.Race[Any]) -> Any:
        over, deliver = anyio.Event(), self._crew._deliver

        def tell(index: int, result: Any) -> None:
            deliver(index, result)
            over.set()

        self._crew._deliver = tell
        self._owner.spawn(Start(self._crew.run), "race")
        await over.wait()
        return self.winner

    patch.setattr(racing.Race, "run", impatient)


@fault("jobs_from_an_async_source", by_step, says=r"opened \['source'\], closed \[\]")
def a_source_that_was_cut_off_is_not_closed(patch: Patch) -> None:
    async def forget(self: Crew[Any], source: Any) -> None:
        pass

    patch.setattr(Crew, "_close_reader", forget)


@fault("parallel_jobs_that_fail", at_once, says=r"Mistake\('bad'\) was told 0 times")
def the_error_that_made_it_stop_is_not_kept(patch: Patch) -> None:
    deliver = Collector._deliver

    def forgetful(self: Collector[Any], index: int, result: Any) -> None:
        deliver(self, index, result)
        if self.first_failure == index:
            del self.results[index]

    patch.setattr(Collector, "_deliver", forgetful)


# ------------------------------------------------------------------ faults: services
@fault("two_ask_for_a_service", at_once, says=r"assert len\(ledger.opened\) == 1")
def two_who_ask_make_two(patch: Patch) -> None:
    patch.setattr(Service, "_build", None)


@fault("a_build_that_takes_long", by_scope, says="it is built for nobody")
def a_build_is_never_given_up(patch: Patch) -> None:
    patch.setattr(Opening, "_left_by_one", lambda self: None)


@fault("a_build_that_takes_long", at_once, says=r"\['begun', 'begun'\]")
def a_build_is_given_up_with_the_first_who_leaves(patch: Patch) -> None:
    left_by_one = Opening._left_by_one

    def hasty(self: Opening[Any]) -> None:
        if self.waiters:
            self._given_up.cancel()
        left_by_one(self)

    patch.setattr(Opening, "_left_by_one", hasty)


@fault("services_that_use_services", shuffled, says="AssertionError: opened", backends=("asyncio",))
@fault("a_build_that_opens_something", by_step, says=r"opened \['connection'\], closed \[\]")
def a_turn_goes_by_between_making_and_owning(patch: Patch) -> None:
    open_it = Opening._open

    async def late(self: Opening[Any]) -> None:
        if self._manager is not None:
            await open_it(self)
            return
        value = await self._coro  # type: ignore[misc]
        await checkpoint()
        self._succeed(value)

    patch.setattr(Opening, "_open", late)


@fault("two_ask_for_a_service", at_once, says=r"opened \['connection'\], closed \[\]")
def a_service_is_never_closed(patch: Patch) -> None:
    patch.setattr(Service, "push_close", lambda self: None)


@fault("two_ask_for_a_service", at_once, says=r"closed \['connection', 'connection'\]")
def a_service_is_closed_twice(patch: Patch) -> None:
    def doubly(self: Service) -> None:
        close: Any = self.recipe.close
        for _ in range(2):
            self._push(lambda: close("connection"))

    patch.setattr(Service, "push_close", doubly)


@fault("the_next_who_asks", at_once, says="it is not made anew")
def a_build_that_failed_is_kept(patch: Patch) -> None:
    def kept(self: Service) -> Opening[Any] | None:
        last = self._opening
        return last if last is not None and not last.was_given_up else None

    patch.setattr(Service, "_build", property(kept))


@fault("services_that_use_services", at_once, says=r"nobody made \[AssertionError")
def a_session_of_one_request_is_given_to_all(patch: Patch) -> None:
    patch.setattr(services, "_own", lambda owner, service: service)


@fault("what_is_entered_is_left_in_its_task", at_once, says="(?i)nobody made .*cancel scope")
def what_is_entered_is_left_in_another_task(patch: Patch) -> None:
    async def enter(owner: Owner, manager: Any) -> Any:
        value = await manager.__aenter__()
        owner.push("manager", manager.__aexit__, (None, None, None))
        return value

    patch.setattr(entering, "enter", enter)


@fault("what_is_entered_is_left_in_its_task", by_scope, says="ScopeCancelled.* entered.* was cut off")
def what_is_open_is_cut_off_with_the_tasks(patch: Patch) -> None:
    open_it = Opening._open

    async def bare(self: Opening[Any]) -> None:
        self._scope = anyio.CancelScope()  # shielding this one shields nothing
        await open_it(self)

    patch.setattr(Opening, "_open", bare)


@fault("a_transaction", by_scope, says=r"\['committed'\]")
def what_is_entered_is_left_as_if_all_was_well(patch: Patch) -> None:
    patch.setattr(Owner, "departure", None)


# ------------------------------------------------------------------ the tests
CASES = [
    pytest.param(each, backend, id=f"{each.plant.__name__}-{each.story}-{backend}")
    for each in FAULTS
    for backend in each.backends
]


def _line_of(error: BaseException) -> str:
    """Where it was raised: a bare `assert` says nothing else."""
    frames = traceback.extract_tb(error.__traceback__)  # none, for what the simulation itself says
    return frames[-1].line or "" if frames else ""


@pytest.mark.parametrize(("seeded", "backend"), CASES)
def test_a_seeded_fault_is_found(seeded: Fault, backend: str) -> None:
    """X: it is found, the failure says what is wrong, comes again, and is gone without the fault."""
    if backend == "trio":
        pytest.importorskip("trio")
    scenario = STORIES[seeded.story]
    with pytest.MonkeyPatch.context() as patch:
        seeded.plant(patch)
        with pytest.raises(SimulationFailed) as caught:
            seeded.search(scenario, backend=backend)
        failure = caught.value.failure
        again = replay(scenario, str(failure.case))
        assert again is not None
        assert type(again.error) is type(failure.error)
    said = f"{failure}\n{_line_of(failure.error)}"
    assert re.search(seeded.says, said), said
    assert f'Again: replay({seeded.story}, "{failure.case}")' in str(failure)
    assert replay(scenario, failure.case) is None


@BACKENDS
@pytest.mark.parametrize("scenario", OWN, ids=lambda scenario: scenario.__name__)
def test_without_a_fault_these_stories_hold(scenario: Scenario, backend: Any) -> None:
    """X: what is found in them is the fault's."""
    if backend == "trio":
        pytest.importorskip("trio")
    report = by_step(scenario, backend=backend)
    report.add(shuffle(scenario, backend=backend, runs=30))
    if backend == "asyncio" and sys.version_info >= (3, 11):  # on 3.10 AnyIO loses one that meets a scope's own
        report.add(natively(scenario, backend=backend))
    assert report.struck > 10, "the story is too short to say anything"
