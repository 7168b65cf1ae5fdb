"""Stories about scopes, tasks, the parallel family and services, told to `anyscope.testing`: tests/test_simulated.py.

Each story has a victim, which may be cancelled at any point under any schedule, and a `Ledger` in which whatever is
opened, closed, begun, ended and failed is written down. The ledger knows the promise: no task outlives its scope, no
clean-up is missing, done twice or done too early, and no error vanishes. Stories say only what is special to them.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import (
    CloseTimeout,
    Err,
    Hooks,
    Key,
    Ok,
    Scope,
    ScopeCancelled,
    ScopeTimeout,
    TaskCancelled,
    current_scope,
    each,
    scope,
    use,
)
from anyscope.testing import Scenario, Simulation

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

SCENARIOS: list[Scenario] = []
VAR: ContextVar[str] = ContextVar("VAR")


class Mistake(Exception):
    """An error of a story: each is made once, and must be told once."""


class Ledger:
    """What was opened, closed, begun and ended, and which errors were made and told.

    Attributes:
        opened: What has been opened, in order.
        closing: Which clean-ups have begun, in order.
        closed: Which have ended.
        alive: The work that has begun and not ended.
        made: The errors that were raised in the story.
        told: The errors that came out of it, by value or by raising.
        expected: Types of errors that the library may raise in this story.
        users: Which work uses what; a story may fill it in.
    """

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closing: list[str] = []
        self.closed: list[str] = []
        self.alive: set[str] = set()
        self.made: list[Mistake] = []
        self.told: list[BaseException] = []
        self.expected: tuple[type[BaseException], ...] = ()
        self.users: dict[str, tuple[str, ...]] = {}

    # ------------------------------------------------------------------ for stories
    def open(self, s: Scope, name: str) -> None:
        """Open something in a scope, to be closed in two turns of the loop."""
        self.opened.append(name)
        s.on_exit(self.close, name)

    async def close(self, name: str) -> None:
        """Close it: nothing that could use it may be alive, and all that was opened later is closed."""
        assert not (users := self.alive & set(self.users.get(name, ()))), f"{name} is closed under {users}"
        self.closing.append(name)
        await checkpoint()
        await anyio.sleep(0.01)
        self.closed.append(name)

    async def work(self, name: str, seconds: float = 0.0) -> str:
        """Work for a while, and give the name, or fail."""
        assert name not in self.alive, f"{name} runs twice"
        self.alive.add(name)
        try:
            await anyio.sleep(seconds)
            return name
        finally:
            self.alive.discard(name)

    async def fail(self, name: str, seconds: float = 0.0) -> None:
        """Work for a while, and fail."""
        await self.work(name, seconds)
        raise self.mistake(name)

    def mistake(self, name: str) -> Mistake:
        """Make an error that must not vanish."""
        self.made.append(Mistake(name))
        return self.made[-1]

    def tell(self, error: object) -> None:
        """An error came out as a value."""
        if isinstance(error, BaseException):
            self.told += leaves(error)

    # ------------------------------------------------------------------ what must hold
    def check(self) -> None:
        """The promise."""
        assert not self.alive, f"still at work: {sorted(self.alive)}"
        for clean_ups in (self.closing, self.closed):
            assert sorted(clean_ups) == sorted(self.opened), f"opened {self.opened}, closed {clean_ups}"
        for mistake in self.made:
            times = sum(each is mistake for each in self.told)
            assert times == 1, f"{mistake!r} was told {times} times, out of {self.told!r}"
        strange = [e for e in self.told if not isinstance(e, (Mistake, *self.expected))]
        assert not strange, f"nobody made {strange!r}"

    def in_order(self) -> None:
        """All that was opened was opened by one scope: the last is closed first."""
        for clean_ups in (self.closing, self.closed):
            assert clean_ups == self.opened[::-1], f"opened {self.opened}, closed {clean_ups}"


def leaves(error: BaseException) -> list[BaseException]:
    """The errors themselves, out of groups within groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def story(*expected: type[BaseException]) -> Callable[[Callable[[Simulation, Ledger], Awaitable[object]]], Scenario]:
    """Make a scenario of a story: it gets a ledger, which is checked at the end."""

    def decorate(tell: Callable[[Simulation, Ledger], Awaitable[object]]) -> Scenario:
        async def scenario(sim: Simulation) -> None:
            ledger = Ledger()
            ledger.expected = expected
            try:
                await tell(sim, ledger)
            except AssertionError:
                raise
            except Exception as error:
                ledger.tell(error)
            ledger.check()

        scenario.__name__ = scenario.__qualname__ = tell.__name__  # type: ignore[attr-defined]
        scenario.__doc__ = tell.__doc__
        SCENARIOS.append(scenario)
        return scenario

    return decorate


# ------------------------------------------------------------------ scopes
@story()
async def a_scope_with_tasks_and_clean_ups(sim: Simulation, ledger: Ledger) -> None:
    """S2, S7: tasks end first, then daemons, then what was opened is closed, last first."""
    ledger.users = {"a": ("short", "long", "daemon"), "b": ("short", "long", "daemon")}

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.start_soon(ledger.work, "daemon", 1e6, daemon=True)
            s.start_soon(ledger.work, "short", 0.0)
            await checkpoint()
            ledger.open(s, "b")
            s.task(ledger.work, "long", 1.0)

    await sim.victim(victim)
    ledger.in_order()


@story()
async def scopes_in_scopes(sim: Simulation, ledger: Ledger) -> None:
    """S9: a parent waits for its children, wherever they run, before it closes anything."""

    async def child(name: str) -> None:
        async with scope(name=name) as s:
            ledger.open(s, name)
            await ledger.work(f"work of {name}", 0.5)
            s.start_soon(ledger.work, f"task of {name}", 0.5)

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "app")
            s.start_soon(child, "left")
            s.task(child, "right")
            async with scope(name="inner") as inner:
                ledger.open(inner, "inner")

    await sim.victim(victim)
    if "app" in ledger.opened:
        assert ledger.closing[-1] == "app"


@story()
async def a_child_of_a_scope_in_another_task(sim: Simulation, ledger: Ledger) -> None:
    """S9, S10: the victim is a foreign task; the scope that it hangs on closes at the same time."""

    async def victim(parent: Scope) -> None:
        async with scope(name="child", parent=parent) as s:
            ledger.open(s, "child")
            await ledger.work("child at work", 0.01)

    async with scope(name="signal") as source, scope(name="app", signal=source.signal) as s:
        ledger.open(s, "app")
        s.start_soon(cancel_soon, source)
        await sim.victim(victim, s)
    assert ledger.closing[-1] == "app"


async def cancel_soon(s: Scope) -> None:
    """Cancel a scope in the next turn, for a reason."""
    await checkpoint()
    s.cancel("enough")


@story()
async def errors_of_body_tasks_and_clean_ups(sim: Simulation, ledger: Ledger) -> None:
    """S3, S4, S8: whatever else happens, each error leaves the scope once."""

    async def fail(name: str) -> None:
        ledger.closing.append(name)
        await checkpoint()
        ledger.closed.append(name)
        raise ledger.mistake(name)

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.opened.append("failing clean-up")
            s.on_exit(fail, "failing clean-up")
            ledger.open(s, "clean-up")
            s.task(ledger.fail, "unseen")
            s.start_soon(ledger.fail, "crash")
            s.start_soon(ledger.fail, "daemon", daemon=True)
            await checkpoint()
            raise ledger.mistake("body")

    try:
        await sim.victim(victim)
    finally:
        assert sim.has_struck or len(ledger.made) >= 2, ledger.made


@story(ScopeTimeout)
async def a_deadline_when_the_work_ends(sim: Simulation, ledger: Ledger) -> None:
    """S6: a deadline in the very moment in which the last task ends: either, but not both and not neither."""
    outcome: list[object] = []

    async def victim() -> None:
        async with scope(name="app", timeout=1.0) as s:
            ledger.open(s, "a")
            task = s.task(ledger.work, "work", 1.0)
            outcome.append(await task)

    try:
        await sim.victim(victim)
    except ScopeTimeout:
        assert not any(isinstance(result, Ok) for result in outcome)
    else:
        assert sim.has_struck or outcome == [Ok("work")]


@story(CloseTimeout)
async def a_clean_up_that_hangs(sim: Simulation, ledger: Ledger) -> None:
    """S7: it is given up and told, and the next one runs."""

    async def hang() -> None:
        ledger.closing.append("hanging")
        try:
            await anyio.sleep_forever()
        finally:
            ledger.closed.append("hanging")

    async def victim() -> None:
        async with scope(name="app", close_timeout=1.0) as s:
            ledger.open(s, "a")
            ledger.opened.append("hanging")
            s.on_exit(hang)
            ledger.open(s, "b")
            await checkpoint()

    async with anyio.create_task_group() as tg:
        tg.start_soon(ledger.work, "bystander", 0.5)
        try:
            await sim.victim(victim)
        except CloseTimeout as error:
            ledger.tell(error)
        except BaseExceptionGroup as group:
            ledger.tell(group)
    ledger.in_order()
    if "hanging" in ledger.opened:
        assert len(ledger.told) == 1, ledger.told


@story()
async def hooks_of_a_scope(sim: Simulation, ledger: Ledger) -> None:
    """H1-H4: what begins ends, in the hooks too, and a hook that raises changes nothing."""
    seen: list[str] = []

    def before(name: str, index: int) -> None:
        seen.append(name)
        raise ValueError(name)

    hooks = Hooks(
        before_task=before,
        after_task=lambda name, duration, error: seen.remove(name),
        on_cancel=lambda reason: seen.append("cancelled"),
        on_dispose=lambda index, error: seen.append("disposed"),
    )

    async def victim() -> None:
        async with scope(name="app", hooks=hooks) as s:
            ledger.open(s, "a")
            s.task(ledger.work, "one", 0.01, name="one")
            s.task(ledger.work, "two", 0.0, name="two")
            await s.run(ledger.work, "three", 0.0, name="three")

    await sim.victim(victim)
    assert {"one", "two", "three"}.isdisjoint(seen)
    assert seen.count("disposed") == len(ledger.opened)
    assert seen.count("cancelled") <= 1


# ------------------------------------------------------------------ tasks
@story()
async def several_wait_for_a_task(sim: Simulation, ledger: Ledger) -> None:
    """T1, T7: a handle may be awaited by many, and by one that is cancelled; each gets the same result."""
    got: list[object] = []

    async def ask(task: Any) -> None:
        got.append(await task)

    async with scope(name="app") as s:
        task = s.task(ledger.work, "work", 0.01)
        s.start_soon(ask, task)
        await sim.victim(ask, task)
        s.start_soon(ask, task)
    assert got.count(Ok("work")) == len(got) >= 2


@story()
async def a_failing_task_and_those_who_ask(sim: Simulation, ledger: Ledger) -> None:
    """S4, T1: an error was looked at, or it leaves the scope: also if the one who looks is cancelled as it comes."""

    async def victim() -> None:
        async with scope(name="app") as s:
            task = s.task(ledger.fail, "work", 0.01)
            await checkpoint()
            result = await task
            if isinstance(result, Err):
                ledger.tell(result.error)

    await sim.victim(victim)


@story()
async def a_task_that_is_cancelled(sim: Simulation, ledger: Ledger) -> None:
    """T5, T7: a cancelled task ends as `TaskCancelled`, whoever else is cancelled; its reason is the first one."""

    async def victim() -> None:
        async with scope(name="app") as s:
            first, second = s.task(ledger.work, "first", 9.0), s.task(ledger.work, "second", 9.0)
            await checkpoint()
            first.cancel("not needed")
            result = await first
            assert isinstance(result, Err), result
            assert isinstance(result.error, TaskCancelled)
            second.cancel("nor this")

    await sim.victim(victim)


@story()
async def one_slot(sim: Simulation, ledger: Ledger) -> None:
    """T8: at most one at a time, in order; one that waits for another lends it its slot."""
    running = 0

    async def alone(name: str) -> None:
        nonlocal running
        running += 1
        assert running == 1, f"{running} run at once"
        try:
            await ledger.work(name, 0.0)
        finally:
            running -= 1

    async def lending(s: Scope) -> None:
        await s.task(alone, "inner")

    async def victim() -> None:
        async with scope(name="app", concurrency=1) as s:
            s.task(alone, "a")
            s.task(lending, s)
            dropped = s.task(alone, "b")
            await s.task(alone, "c")
            dropped.cancel()

    await sim.victim(victim)


@story()
async def tasks_that_say_when_they_have_started(sim: Simulation, ledger: Ledger) -> None:
    """T3: `start` returns once the task says so; the starter may be cancelled while the task begins."""

    async def serve(*, task_status: Any) -> None:
        ledger.alive.add("server")
        try:
            await anyio.sleep(0.01)
            task_status.started("port")
            await anyio.sleep(0.01)
        finally:
            ledger.alive.discard("server")

    async with scope(name="app") as s:
        ledger.open(s, "a")
        done = await sim.victim(s.start, serve)
        assert done is None or done.value == "port"


# ------------------------------------------------------------------ the parallel family
@story()
async def parallel_jobs(sim: Simulation, ledger: Ledger) -> None:
    """A1, A7, A8, A10: every job gets its result, at most two run at once; progress is told while they run."""
    told: list[int] = []

    def progress(p: Any) -> None:
        assert len(ledger.alive) <= 2
        told.append(p.done)

    async def job(number: int) -> int:
        assert len(ledger.alive) < 2
        await ledger.work(str(number), 0.01 * (number % 2))
        return number

    async def victim() -> list[Any]:
        async with scope(name="app") as s:
            return await s.parallel(each(job, range(5)), concurrency=2, on_progress=progress)

    done = await sim.victim(victim)
    assert told == list(range(1, len(told) + 1))
    if done is not None:
        assert done.value == [Ok(number) for number in range(5)]
        assert len(told) == 5


@story()
async def parallel_jobs_that_set_a_variable(sim: Simulation, ledger: Ledger) -> None:
    """A7, A9, A10: none sees what another one has set, though workers are replaced; at most two run at once."""

    async def job(number: int) -> int:
        assert len(ledger.alive) < 2
        assert VAR.get() == "caller"
        if number % 2:
            VAR.set(str(number))
        await ledger.work(str(number), 0.01 * (number % 3))
        return number

    async def victim() -> list[Any]:
        VAR.set("caller")
        async with scope(name="app") as s:
            return await s.parallel(each(job, range(6)), concurrency=2)

    done = await sim.victim(victim)
    if done is not None:
        assert done.value == [Ok(number) for number in range(6)]


@story()
async def parallel_jobs_that_fail(sim: Simulation, ledger: Ledger) -> None:
    """A2, A3: every success and every error is there; at the first error the rest is cancelled."""

    async def victim() -> None:
        async with scope(name="app") as s:
            jobs = [
                lambda: ledger.work("good", 0.0),
                lambda: ledger.fail("bad", 0.01),
                lambda: ledger.work("slow", 9.0),
            ]
            result = await s.parallel_aggregate(jobs, fail_fast=True)
            assert [item.index for item in result.completed] == [0]
            for failed in result.errors:
                if not isinstance(failed.error, TaskCancelled):
                    ledger.tell(failed.error)

    done = await sim.victim(victim)
    if done is None:  # the result of the job is lost with the caller
        ledger.made.clear()


@story()
async def jobs_from_an_async_source(sim: Simulation, ledger: Ledger) -> None:
    """A7: a source is closed once, in the end, wherever the jobs are cut off."""

    async def source() -> AsyncIterator[Callable[[], Any]]:
        ledger.opened.append("source")
        try:
            for number in range(4):
                await checkpoint()
                yield lambda number=number: ledger.work(str(number), 0.01)
        finally:
            ledger.closing.append("source")
            ledger.closed.append("source")

    async def victim() -> None:
        async with scope(name="app") as s:
            await s.parallel(source(), concurrency=2)

    await sim.victim(victim)


@story()
async def leaving_as_completed_early(sim: Simulation, ledger: Ledger) -> None:
    """A5: who leaves early leaves nothing behind."""

    async def victim() -> None:
        async with scope(name="app") as s:
            jobs = [lambda n=n: ledger.work(str(n), 0.01 * n) for n in range(4)]
            async with s.as_completed(jobs) as results:
                async for _, result in results:
                    assert result == Ok("0")
                    break
            assert not ledger.alive

    await sim.victim(victim)


@story()
async def a_race(sim: Simulation, ledger: Ledger) -> None:
    """A6: one wins, and the others have ended when it is told."""

    async def victim() -> None:
        async with scope(name="app") as s:
            result = await s.race([lambda n=n: ledger.work(str(n), 0.01) for n in range(3)])
            assert isinstance(result, Ok), result
            assert not ledger.alive

    await sim.victim(victim)


# ------------------------------------------------------------------ services
CONNECTION = Key[str]("connection")
SESSION = Key[str]("session")


@story()
async def two_ask_for_a_service(sim: Simulation, ledger: Ledger) -> None:
    """V3, V11: it is made once for all who ask; if the first who asked is cancelled, the others still get it."""
    got: list[str] = []

    async def connect() -> str:
        await anyio.sleep(0.01)
        ledger.opened.append("connection")
        return "connection"

    async def ask() -> None:
        got.append(await use(CONNECTION))

    async with scope(name="app").provide(CONNECTION, connect, close=ledger.close) as s:
        s.start_soon(ask)
        await sim.victim(ask)
        s.start_soon(ask)
    assert len(ledger.opened) == 1
    assert len(got) >= 2


@story()
async def a_service_only_the_victim_asks_for(sim: Simulation, ledger: Ledger) -> None:
    """V3, V4, V11: its build is given up with the last who waits; what it had opened is closed."""

    async def connect() -> AsyncIterator[str]:
        ledger.opened.append("connection")
        try:
            await checkpoint()
            yield "connection"
        finally:
            ledger.closing.append("connection")
            with anyio.CancelScope(shield=True):
                await checkpoint()
            ledger.closed.append("connection")

    async def ask() -> str:
        async with scope(name="request"):
            return await use(CONNECTION)

    async with scope(name="app").provide(CONNECTION, connect):
        done = await sim.victim(ask)
        assert await use(CONNECTION) == "connection"
        assert len(ledger.opened) - len(ledger.closed) == 1
        if done is not None:
            assert ledger.opened == ["connection"]


@story()
async def services_that_use_services(sim: Simulation, ledger: Ledger) -> None:
    """V5, V9: a session of each request's own is closed with the request, the connection with the application."""

    async def connect() -> str:
        await checkpoint()
        ledger.opened.append("connection")
        return "connection"

    @asynccontextmanager
    async def session() -> AsyncIterator[str]:
        connection = await use(CONNECTION)
        name = f"session of {current_scope().name}"
        async with anyio.create_task_group() as tg:
            tg.start_soon(ledger.work, f"keeper of {name}", 1e6)
            ledger.opened.append(name)
            try:
                yield f"{name} on {connection}"
            finally:
                with anyio.CancelScope(shield=True):
                    await ledger.close(name)
                tg.cancel_scope.cancel()

    async def request(name: str) -> None:
        async with scope(name=name):
            assert await use(SESSION) == f"session of {name} on connection"

    app = scope(name="app").provide(CONNECTION, connect, close=ledger.close)
    async with app.provide(SESSION, session, enter=True, shared=False) as s:
        s.start_soon(request, "left")
        await sim.victim(request, "right")
    if ledger.opened:
        assert ledger.closing[-1] == "connection"


@story(ValueError)  # it leaves the scope if nobody waits for the build any more
async def a_factory_that_fails_once(sim: Simulation, ledger: Ledger) -> None:
    """V3: all who wait get its error, and the next who asks makes it anew."""
    builds = 0

    async def connect() -> str:
        nonlocal builds
        builds += 1
        await checkpoint()
        if builds == 1:
            raise ValueError("not yet")
        ledger.opened.append("connection")
        return "connection"

    async def ask() -> None:
        for _ in range(3):
            with suppress(ValueError):
                assert await use(CONNECTION) == "connection"
                return

    async with scope(name="app").provide(CONNECTION, connect, close=ledger.close) as s:
        s.start_soon(ask)
        await sim.victim(ask)
        await ask()
        assert await use(CONNECTION) == "connection"
    assert builds <= 3


@story()
async def what_is_entered_is_left_in_its_task(sim: Simulation, ledger: Ledger) -> None:
    """S14: a context manager with a cancel scope across its yield, left once, last entered first."""

    @asynccontextmanager
    async def entered(name: str) -> AsyncIterator[str]:
        with anyio.CancelScope():
            ledger.opened.append(name)
            try:
                await checkpoint()
                yield name
            finally:
                ledger.closing.append(name)
                with anyio.CancelScope(shield=True):
                    await checkpoint()
                ledger.closed.append(name)

    async def victim() -> None:
        async with scope(name="app") as s:
            await s.enter(entered("a"))
            await s.enter(entered("b"))
            s.start_soon(ledger.work, "work", 0.01)
            await s.enter(entered("c"))

    await sim.victim(victim)
    ledger.in_order()


@story(ScopeCancelled)
async def a_scope_that_cancels_itself(sim: Simulation, ledger: Ledger) -> None:
    """S5, S9: `cancel` from a task, quietly, with the body in a child scope."""

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.start_soon(cancel_soon, s)
            async with scope(name="child") as child:
                ledger.open(child, "child")
                await ledger.work("body", 9.0)
            raise AssertionError("the body went on")
        assert s.cancel_reason == "enough" or sim.has_struck

    await sim.victim(victim)
    ledger.in_order()
