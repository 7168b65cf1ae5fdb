"""Rarer stories, of what meets seldom: see scenarios.py for the ledger, and for what a story is.

Whatever is imported from here stands in `scenarios.SCENARIOS` too.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import (
    CancelSource,
    CloseTimeout,
    Err,
    Hooks,
    Key,
    Ok,
    Result,
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeTimeout,
    ServiceCycle,
    Task,
    TaskCancelled,
    TaskTimeout,
    current_scope,
    each,
    scope,
    use,
)
from anyscope.testing import Simulation
from scenarios import Ledger, Mistake, story

CONNECTION = Key[str]("connection")
SESSION = Key[str]("session")
CACHE = Key[str]("cache")

NEVER_NATIVELY_ON_3_10 = {
    "a_source_of_jobs_that_hangs",
    "a_source_that_is_fired",
    "as_completed_by_a_stranger",
    "deadlines_at_the_same_moment",
    "hooks_that_act",
    "progress_that_fails_and_that_cancels",
    "strangers_of_strangers",
    "strangers_that_wait",
    "the_first_success",
    "time_outs_at_the_same_moment",
    "two_errors_at_the_same_moment",
}
"""On Python 3.10 AnyIO loses a native cancellation that meets that of a scope; in these stories it does."""


class Fatal(BaseException):
    """As KeyboardInterrupt, but an event loop lets it pass."""


# ------------------------------------------------------------------ what stories are made of
@asynccontextmanager
async def kept(ledger: Ledger, name: str, *, slow: float = 0.0) -> AsyncIterator[str]:
    """A context manager that says in the ledger when it is open, and how it is left."""
    await anyio.sleep(slow)
    ledger.opened.append(name)
    try:
        yield name
    finally:
        with anyio.CancelScope(shield=True):
            await ledger.close(name)


def opens(ledger: Ledger, name: str, seconds: float = 0.0) -> Callable[[], Awaitable[str]]:
    """An async factory; what it makes is closed with `ledger.close`."""

    async def connect() -> str:
        await anyio.sleep(seconds)
        ledger.opened.append(name)
        return name

    return connect


def fails(ledger: Ledger, name: str) -> Callable[[], Awaitable[None]]:
    """A clean-up that fails."""

    async def fail() -> None:
        ledger.closing.append(name)
        await checkpoint()
        ledger.closed.append(name)
        raise ledger.mistake(name)

    ledger.opened.append(name)
    return fail


def hangs(ledger: Ledger, name: str) -> Callable[[], Awaitable[None]]:
    """A clean-up that hangs."""

    async def hang() -> None:
        ledger.closing.append(name)
        try:
            await anyio.sleep_forever()
        finally:
            ledger.closed.append(name)

    ledger.opened.append(name)
    return hang


async def cancel_later(s: Scope | CancelSource, seconds: float) -> None:
    """Cancel a scope in some time."""
    await anyio.sleep(seconds)
    s.cancel("enough")


@asynccontextmanager
async def elsewhere(s: Scope, seconds: float = 1e6) -> AsyncIterator[Scope]:
    """The scope is open in another task, and cancelled in some time, or when the block is left."""

    async def host(*, task_status: Any) -> None:
        async with s:
            task_status.started()
            await cancel_later(s, seconds)

    async with anyio.create_task_group() as tg:
        await tg.start(host)
        try:
            yield s
        finally:
            s.cancel("done")


def tell_result(ledger: Ledger, result: Result[Any]) -> None:
    """A result came out."""
    if isinstance(result, Err):
        ledger.tell(result.error)


# ------------------------------------------------------------------ clean-ups
@story(CloseTimeout)
async def clean_ups_that_fail_and_hang(sim: Simulation, ledger: Ledger) -> None:
    """S4, S7, H2, H4: each ends once, in order, and each error is told, whatever the body and the hooks do."""
    disposed: list[int] = []

    def dispose(index: int, error: BaseException | None) -> None:
        disposed.append(index)
        raise ValueError(index)

    async def victim() -> None:
        async with scope(name="app", close_timeout=0.5, hooks=Hooks(on_dispose=dispose)) as s:
            ledger.open(s, "a")
            s.on_exit(fails(ledger, "b"))
            s.on_exit(hangs(ledger, "c"))
            s.task(ledger.fail, "unseen", 0.01)
            await checkpoint()
            s.on_exit(fails(ledger, "d"))
            ledger.open(s, "e")
            await ledger.fail("body", 0.01)

    try:
        await sim.victim(victim)
    finally:
        ledger.in_order()
        assert disposed == sorted(disposed, reverse=True)
        assert len(disposed) == len(ledger.opened)


@story()
async def a_scope_in_a_clean_up(sim: Simulation, ledger: Ledger) -> None:
    """S7: a clean-up may open a scope, start tasks in it, and wait for them; nothing that cancels reaches them."""
    done: list[str] = []

    async def tidy(name: str) -> None:
        ledger.closing.append(name)
        async with scope(name=f"tidying {name}") as s:
            ledger.open(s, f"inner {name}")
            s.start_soon(ledger.work, f"task {name}", 0.01)
            done.append(await s.task(ledger.work, f"other {name}", 0.02).unwrap())
        ledger.closed.append(name)

    async def victim() -> None:
        async with scope(name="app") as s, scope(name="child") as child:
            for name, owner in (("a", s), ("b", child)):
                ledger.opened.append(name)
                owner.on_exit(tidy, name)
            s.start_soon(ledger.work, "work", 0.01)
            child.start_soon(ledger.fail, "crash", 0.015)

    try:
        await sim.victim(victim)
    finally:
        assert len(done) == len([name for name in ledger.opened if not name.startswith("inner")])


@story(ScopeCancelled, ScopeClosed)
async def services_in_clean_ups(sim: Simulation, ledger: Ledger) -> None:
    """V3, V5, S7: a clean-up uses what was made before it, and a child's what its parent still can make."""
    used: list[str] = []

    async def tidy(key: Key[str]) -> None:
        ledger.closing.append(f"tidy {key}")
        ledger.closed.append(f"tidy {key}")
        used.append(await use(key))

    async def victim() -> None:
        app = scope(name="app").provide(CONNECTION, opens(ledger, "connection", 0.01), close=ledger.close)
        async with app.provide(CACHE, opens(ledger, "cache", 0.01), close=ledger.close) as s:
            await use(CONNECTION)
            ledger.opened.append(f"tidy {CONNECTION}")
            s.on_exit(tidy, CONNECTION)
            async with scope(name="child") as child:
                for key in (CONNECTION, CACHE):
                    ledger.opened.append(f"tidy {key}")
                    child.on_exit(tidy, key)
                child.start_soon(ledger.work, "work", 0.01)

    await sim.victim(victim)
    assert used.count("connection") == ledger.opened.count(f"tidy {CONNECTION}")
    assert "connection" not in ledger.opened or ledger.closing[-1] == "connection"
    assert sim.has_struck or used.count("cache") == 1


# ------------------------------------------------------------------ what is entered
@story()
async def entering_what_fails(sim: Simulation, ledger: Ledger) -> None:
    """S14, S4: of a context manager that cannot be entered the error is told once; what was entered before is left."""

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        async with kept(ledger, "inside"):
            await checkpoint()
            raise ledger.mistake("entry")
            yield

    async def victim() -> None:
        async with scope(name="app") as s:
            await s.enter(kept(ledger, "a"))
            s.start_soon(ledger.work, "work", 0.03)
            try:
                await s.enter(failing())
            except Mistake as error:
                ledger.tell(error)
            await s.enter(kept(ledger, "b", slow=0.01))

    await sim.victim(victim)


class Swallowing(AbstractAsyncContextManager[None]):
    """A context manager that lets no error pass."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name

    async def __aenter__(self) -> None:
        await checkpoint()
        self.ledger.opened.append(self.name)

    async def __aexit__(self, *error: object) -> bool:
        with anyio.CancelScope(shield=True):
            await self.ledger.close(self.name)
        return True


@story()
async def leaving_what_swallows_and_what_fails(sim: Simulation, ledger: Ledger) -> None:
    """S3, S4, S14: errors that a context manager swallows leave the scope all the same, with those of leaving."""

    @asynccontextmanager
    async def failing(name: str) -> AsyncIterator[None]:
        ledger.opened.append(name)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await ledger.close(name)
            raise ledger.mistake(name)

    async def victim() -> None:
        async with scope(name="app") as s:
            await s.enter(Swallowing(ledger, "a"))
            await s.enter(failing("b"))
            await s.enter(Swallowing(ledger, "c"))
            s.task(ledger.fail, "task", 0.01)
            await ledger.fail("body", 0.02)

    await sim.victim(victim)
    ledger.in_order()


@story(CloseTimeout)
async def leaving_what_hangs(sim: Simulation, ledger: Ledger) -> None:
    """S7, S14: a context manager that cannot be left is cancelled in its own task, and told; the next is left."""

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(ledger.work, "of its own", 1e6)
            ledger.opened.append("hanging")
            try:
                yield
            finally:
                ledger.closing.append("hanging")
                try:
                    await anyio.sleep_forever()
                finally:
                    ledger.closed.append("hanging")

    async def victim() -> None:
        async with scope(name="app", close_timeout=0.5) as s:
            await s.enter(kept(ledger, "a"))
            await s.enter(hanging())
            await s.enter(kept(ledger, "b"))
            s.task(ledger.fail, "unseen", 0.01)

    await sim.victim(victim)
    ledger.in_order()


@story()
async def a_stranger_enters_something(sim: Simulation, ledger: Ledger) -> None:
    """S14: who asked is no task of the scope, which is cancelled at that time: what was entered is left, once."""

    async def victim(s: Scope) -> None:
        with suppress(ScopeCancelled):
            assert await s.enter(kept(ledger, "a", slow=0.01)) == "a"
            await s.enter(kept(ledger, "b", slow=0.01))

    async with elsewhere(scope(name="app"), 0.02) as s:
        await sim.victim(victim, s)


# ------------------------------------------------------------------ deadlines
@story(ScopeTimeout)
async def deadlines_at_the_same_moment(sim: Simulation, ledger: Ledger) -> None:
    """S6, S9, T6: of a scope, of its child, of a task and of what surrounds them, when the work ends."""
    results: list[Result[str]] = []

    async def victim() -> None:
        with anyio.move_on_after(1.0):
            async with scope(name="app", timeout=1.0) as s:
                ledger.open(s, "a")
                async with scope(name="child", timeout=1.0) as child:
                    ledger.open(child, "b")
                    results.append(await child.task(ledger.work, "task", 1.0, timeout=1.0))
                    results.append(await s.run(ledger.work, "run", 0.0, timeout=1.0))

    await sim.victim(victim)
    for result in results:
        assert isinstance(result, Ok) or isinstance(result.error, (TaskTimeout, TaskCancelled)), result
    ledger.in_order()


@story(TaskTimeout)
async def a_task_that_ends_as_it_is_cancelled_and_times_out(sim: Simulation, ledger: Ledger) -> None:
    """T6, T7: it ends once, whichever comes first, and all who ask get the same."""
    got: list[Result[Any]] = []

    async def ask(task: Task[Any]) -> None:
        got.append(await task)

    async def stop(task: Task[Any]) -> None:
        await anyio.sleep(1.0)
        task.cancel("stop")

    async with scope(name="app") as s:
        task = s.task(ledger.fail, "work", 1.0, timeout=1.0)
        s.start_soon(stop, task)
        s.start_soon(ask, task)
        await sim.victim(ask, task)
    assert all(result is got[0] for result in got)
    tell_result(ledger, got[0])
    ledger.expected += (TaskCancelled,)


# ------------------------------------------------------------------ parents and signals
@story(ScopeClosed)
async def a_parent_that_closes_as_a_stranger_enters_a_child(sim: Simulation, ledger: Ledger) -> None:
    """S9: a child is waited for, or it is not entered; its parent closes nothing before it."""

    async def stranger(parent: Scope, name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        async with scope(name=name, parent=parent) as s:
            ledger.open(s, name)
            await ledger.work(f"body of {name}", 0.02)
            s.start_soon(ledger.work, f"task of {name}", 0.01)

    async def parent(tg: anyio.abc.TaskGroup) -> None:
        async with scope(name="app") as s:
            ledger.open(s, "app")
            for number in range(3):
                tg.start_soon(stranger, s, f"child {number}", 0.01 * number)
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tg:
        await sim.victim(parent, tg)
    assert not ledger.opened or ledger.closing[-1] == "app"


@story()
async def a_source_that_is_fired(sim: Simulation, ledger: Ledger) -> None:
    """S10: the signal of a source and a parent together; listeners hear once, and leave nothing behind."""
    heard: list[object] = []
    source = CancelSource()

    async def listen() -> None:
        heard.append(await source.signal.wait())

    async def victim(parent: Scope) -> None:
        async with scope(name="child", parent=parent, signal=source.signal) as s:
            ledger.open(s, "child")
            s.start_soon(listen)
            await s.task(ledger.work, "task", 1e6)

    unregister = source.signal.on_cancel(heard.append)
    async with scope(name="app") as s:
        s.start_soon(listen)
        s.start_soon(cancel_later, source, 0.01)
        await sim.victim(victim, s)
        assert not s.cancelled
    unregister()
    assert set(heard) == {"enough"}
    assert 2 <= len(heard) <= 3
    assert not source._listeners  # nothing is kept


@story()
async def hooks_that_act(sim: Simulation, ledger: Ledger) -> None:
    """H2, H4: hooks that start tasks, cancel, and open scopes; each task still begins and ends once in them."""
    seen: list[str] = []
    app = scope(name="app")

    def before(name: str, index: int) -> None:
        seen.append(f"begun {name}")
        if name == "one":
            app.task(ledger.work, "hooked", 0.01, name="hooked")
        if name == "stop":
            app.cancel("by a hook")

    def after(name: str, duration: float, error: BaseException | None) -> None:
        seen.append(f"ended {name}")
        if name == "one":
            app.start_soon(ledger.work, "after", 0.0, name="after")

    def cancelled(reason: object) -> None:
        seen.append("cancelled")
        app.start_soon(ledger.work, "too late", 0.0, name="too late")

    def disposed(index: int, error: BaseException | None) -> None:
        app.start_soon(ledger.work, "closing", 0.0)  # refused

    hooks = Hooks(before_task=before, after_task=after, on_cancel=cancelled, on_dispose=disposed)

    async def victim() -> None:
        nonlocal app
        async with scope(name="app", hooks=hooks) as app:
            ledger.open(app, "a")
            app.task(ledger.work, "one", 0.0, name="one")
            await app.run(ledger.work, "two", 0.01, name="two")
            app.start_soon(ledger.work, "stop", 0.01, name="stop")

    await sim.victim(victim)
    begun = sorted(each.split()[-1] for each in seen if each.startswith("begun"))
    ended = sorted(each.split()[-1] for each in seen if each.startswith("ended"))
    assert begun == ended
    assert seen.count("cancelled") <= 1


# ------------------------------------------------------------------ tasks
@story()
async def cancelling_queued_tasks(sim: Simulation, ledger: Ledger) -> None:
    """T7, T8: a queued task that is cancelled ends at once, and the rest keep their order and their slots."""
    order: list[int] = []
    tasks: list[Task[int]] = []

    async def job(number: int) -> int:
        assert len(ledger.alive) < 2
        order.append(number)
        await ledger.work(f"job {number}", 0.01)
        return number

    async def victim() -> None:
        async with scope(name="app", concurrency=2) as s:
            tasks.extend(s.task(job, number) for number in range(7))
            tasks[3].cancel("queued")
            await anyio.sleep(0.015)
            tasks[1].cancel("done or running")
            tasks[5].cancel("queued or running")
            assert isinstance(await tasks[6], Ok)

    await sim.victim(victim)
    assert len(set(order)) == len(order)
    assert 3 not in order
    for task in tasks:
        assert task.done


@story()
async def a_task_of_another_scope(sim: Simulation, ledger: Ledger) -> None:
    """T1, T8: one waits with a slot for a task of another scope, which waits for one here."""
    first, second = scope(name="first", concurrency=1), scope(name="second", concurrency=1)
    got: list[object] = []

    async def here() -> str:
        return await second.task(there).unwrap()

    async def there() -> str:
        await checkpoint()
        return await ledger.work("work", 0.01)

    async def ask(task: Task[str]) -> None:
        got.append(await task)

    async with first, second:
        task = first.task(here)
        first.start_soon(ask, task)
        await sim.victim(ask, task)
        await ask(task)
    assert got
    assert all(result == Ok("work") for result in got)


@story()
async def a_daemon_that_fails_as_it_is_stopped(sim: Simulation, ledger: Ledger) -> None:
    """S2, S4: what a daemon raises when it is told to stop is told, and the clean-ups run."""

    async def serve(name: str, seconds: float) -> None:
        ledger.alive.add(name)
        try:
            await anyio.sleep(seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ledger.alive.discard(name)
            raise ledger.mistake(name)

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.start_soon(serve, "never", 1e6, daemon=True)
            s.start_soon(serve, "soon", 0.02, daemon=True)
            s.start_soon(ledger.work, "good", 1e6, daemon=True)
            s.task(ledger.work, "work", 0.01)

    await sim.victim(victim)


@story()
async def starting_what_fails(sim: Simulation, ledger: Ledger) -> None:
    """T3: before it has started, an error is the caller's; afterwards it takes the scope down."""

    async def serve(name: str, *, task_status: Any) -> None:
        if name == "late":
            task_status.started(name)
        await ledger.fail(name, 0.01)

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            try:
                await s.start(serve, "early")
            except Mistake as error:
                ledger.tell(error)
            assert await s.start(serve, "late") == "late"
            await ledger.work("body", 1e6)

    done = await sim.victim(victim)
    if done is None and sim.case.backend == "asyncio":  # AnyIO loses an error that meets the starter's cancellation
        ledger.made = [mistake for mistake in ledger.made if str(mistake) != "early"]


@story()
async def a_fatal_error(sim: Simulation, ledger: Ledger) -> None:
    """S15, T5: it leaves the scope as itself, after the clean-ups, and with it what else went wrong."""

    async def fatal() -> None:
        await ledger.work("fatal", 0.01)
        raise Fatal

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.task(ledger.fail, "unseen", 0.0)
            async with scope(name="child") as child:
                ledger.open(child, "b")
                child.task(fatal)
                child.start_soon(ledger.work, "task", 1e6)
                await ledger.work("body", 1e6)

    try:
        await sim.victim(victim)
    except Fatal as error:
        below: BaseException | None = error
        while below is not None:
            if isinstance(below, Exception):
                ledger.tell(below)
            below = below.__cause__ or below.__context__
    ledger.in_order()


@story()
async def a_task_that_does_not_heed_its_cancellation(sim: Simulation, ledger: Ledger) -> None:
    """T7: it is waited for, and its value is `Ok`; nothing is closed before."""
    ledger.users = {"a": ("stubborn",)}
    tasks: list[Task[str]] = []

    async def stubborn() -> str:
        ledger.alive.add("stubborn")
        try:
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep_forever()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            return "at last"
        finally:
            ledger.alive.discard("stubborn")

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            tasks.append(s.task(stubborn))
            await anyio.sleep(0.01)
            tasks[0].cancel("stop")
            result = await tasks[0]
            assert result == Ok("at last") or sim.has_struck

    await sim.victim(victim)
    assert all(task.done for task in tasks)


# ------------------------------------------------------------------ the parallel family
@story()
async def parallel_in_parallel(sim: Simulation, ledger: Ledger) -> None:
    """A1, A7, A10: jobs that have jobs of their own, in the same scope and in one of theirs."""

    async def leaf(number: int) -> int:
        await ledger.work(f"leaf {number}", 0.01 * (number % 2))
        return number

    async def inner(number: int) -> list[int]:
        s = current_scope()
        if number:
            results = await s.parallel(each(leaf, [2, 3]), concurrency=1)
        else:
            async with scope(name="of a job", concurrency=1) as own:
                ledger.open(own, "of a job")
                results = await own.parallel(each(leaf, [0, 1]))
        return [result.unwrap() for result in results]

    async def victim() -> list[Result[list[int]]]:
        async with scope(name="app", concurrency=2) as s:
            ledger.open(s, "app")
            return await s.parallel(each(inner, range(2)))

    done = await sim.victim(victim)
    assert done is None or done.value == [Ok([0, 1]), Ok([2, 3])]


@story()
async def the_first_success(sim: Simulation, ledger: Ledger) -> None:
    """A6: errors do not win; where all fail, all errors are in the group."""

    async def victim(mistakes: Ledger) -> None:
        async with scope(name="app") as s:
            jobs = [lambda n=n: mistakes.fail(str(n), 0.01 * (n % 2)) for n in range(3)]
            result: Result[Any] = await s.any([*jobs, lambda: ledger.work("good", 0.01)])
            assert result == Ok("good") or mistakes.made
            assert not ledger.alive
            result = await s.any([lambda n=n: ledger.fail(str(n), 0.01 * (n % 2)) for n in range(3)])
            assert not ledger.alive
            assert isinstance(result, Err), result
            tell_result(ledger, result)

    if await sim.victim(victim, Ledger()) is None:
        ledger.made.clear()


@story(TaskTimeout)
async def time_outs_at_the_same_moment(sim: Simulation, ledger: Ledger) -> None:
    """A4: of the call and of each job, as the jobs end: each job has one result."""
    told: list[int] = []
    job_timeout = 1.25 if sim.case.strike == "native" else 1.0  # a native cancellation that meets both, AnyIO loses

    async def victim() -> list[Result[str]]:
        async with scope(name="app") as s:
            jobs = [lambda n=n: ledger.work(f"job {n}", 0.5 * n) for n in range(4)]
            return await s.parallel(
                jobs, timeout=1.0, job_timeout=job_timeout, concurrency=3, on_progress=lambda p: told.append(p.done)
            )

    done = await sim.victim(victim)
    assert told == list(range(1, len(told) + 1))
    if done is not None:
        assert [result == Ok(f"job {n}") for n, result in enumerate(done.value)][:2] == [True, True]
        assert all(result or isinstance(result.pair()[0], TaskTimeout) for result in done.value)
        assert len(done.value) == 4


def source_of_jobs(ledger: Ledger) -> Callable[[], AsyncIterator[Callable[[], Any]]]:
    """An async source that opens something, and hangs at last."""

    async def source() -> AsyncIterator[Callable[[], Any]]:
        async with kept(ledger, "source"):
            for number in range(3):
                await anyio.sleep(0.01)
                yield lambda number=number: ledger.work(f"job {number}", 0.015)
            await anyio.sleep_forever()

    return source


@story(TaskTimeout)
async def a_source_of_jobs_that_hangs(sim: Simulation, ledger: Ledger) -> None:
    """A4, A7: a time-out cuts it off; it is closed in its own task, and what had finished is kept."""

    async def victim() -> int:
        async with scope(name="app") as s:
            results = await s.parallel(source_of_jobs(ledger)(), concurrency=2, timeout=0.04)
            assert not ledger.alive
            return sum(bool(result) for result in results)

    done = await sim.victim(victim)
    assert done is None or 1 <= done.value <= 3


@story()
async def as_completed_by_a_stranger(sim: Simulation, ledger: Ledger) -> None:
    """A5, A10: the consumer is no task of the scope, and slow; the scope is cancelled meanwhile."""
    got: list[int] = []

    async def victim(s: Scope) -> None:
        try:
            async with s.as_completed(source_of_jobs(ledger)(), concurrency=2) as results:
                async for index, result in results:
                    assert result == Ok(f"job {index}")
                    got.append(index)
                    await anyio.sleep(0.01)
        except ScopeCancelled:
            got.append(-1)
            await checkpoint()
        finally:
            assert not ledger.alive
            assert ledger.opened == ledger.closed

    async with elsewhere(scope(name="app"), 0.035) as s:
        done = await sim.victim(victim, s)
    assert done is None or got[-1] == -1
    assert sorted(set(got)) == sorted(got)


@story()
async def progress_that_fails_and_that_cancels(sim: Simulation, ledger: Ledger) -> None:
    """A8: what `on_progress` raises ends the call; it may cancel the scope too."""
    calls: list[int] = []

    def progress(p: Any) -> None:
        calls.append(p.done)
        if p.done == 2:
            raise ledger.mistake("progress")

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            jobs = [lambda n=n: ledger.work(f"job {n}", 0.01 * n) for n in range(5)]
            try:
                await s.parallel(jobs, on_progress=progress, concurrency=3)
            except Mistake as error:
                ledger.tell(error)
            assert not ledger.alive
            jobs = [lambda n=n: ledger.work(f"job {n}", 0.01 * n) for n in range(5)]
            await s.parallel(jobs, on_progress=lambda p: s.cancel("by progress"))
            raise AssertionError("the body went on")

    if await sim.victim(victim) is None:
        ledger.made.clear()
    assert calls in ([], [1], [1, 2])


@story(TaskCancelled)
async def two_errors_at_the_same_moment(sim: Simulation, ledger: Ledger) -> None:
    """A3: both jobs fail in one turn, the others are cancelled and take their time; each error is there once."""

    async def slow() -> None:
        try:
            await ledger.work("slow", 1e6)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)

    async def late() -> None:
        try:
            await ledger.work("late", 1e6)
        finally:
            raise ledger.mistake("late")

    async def victim() -> None:
        async with scope(name="app") as s:
            jobs = [lambda: ledger.fail("one", 0.01), slow, lambda: ledger.fail("two", 0.01), late]
            result = await s.parallel_aggregate(jobs, fail_fast=True)
            assert not ledger.alive
            assert len(result.errors) == 4
            for failed in result.errors:
                ledger.tell(failed.error)

    if await sim.victim(victim) is None:
        ledger.made.clear()


@story()
async def strangers_that_wait(sim: Simulation, ledger: Ledger) -> None:
    """S5, S9: one that waits in a call of a scope it does not belong to goes on when that scope is cancelled."""
    ends: list[str] = []

    async def wait(s: Scope) -> None:
        result = await s.run(anyio.sleep, 1e6)
        assert isinstance(result, Err)
        assert isinstance(result.error, TaskCancelled)
        with suppress(ScopeCancelled, ScopeClosed):
            await s.parallel(each(ledger.work, ["a", "b"]))
        with suppress(ScopeCancelled, ScopeClosed):
            await s.use(CONNECTION)
        await checkpoint()
        ends.append("stranger")

    app = scope(name="app").provide(CONNECTION, opens(ledger, "connection", 0.01), close=ledger.close)
    async with elsewhere(app, 0.01) as s, anyio.create_task_group() as tg:
        ledger.open(s, "app")
        tg.start_soon(wait, s)
        await sim.victim(wait, s)
    assert ends.count("stranger") >= 1


# ------------------------------------------------------------------ services
@story()
async def an_eager_service_that_fails(sim: Simulation, ledger: Ledger) -> None:
    """V3, S4: the body does not run, what was made before is closed, and the error is told."""

    async def fail() -> str:
        await checkpoint()
        raise ledger.mistake("eager")

    async def victim() -> None:
        app = scope(name="app").provide(CONNECTION, opens(ledger, "connection"), close=ledger.close, eager=True)
        app.provide(CACHE, lambda: kept(ledger, "cache", slow=0.01), enter=True, eager=True)
        async with app.provide(SESSION, fail, eager=True):
            raise AssertionError("it was entered")

    await sim.victim(victim)
    ledger.in_order()


@story(ScopeTimeout, ScopeCancelled)
async def eager_services_and_a_deadline(sim: Simulation, ledger: Ledger) -> None:
    """V3, S6: the deadline strikes as the second is ready: what was made is closed, last first."""

    async def victim() -> None:
        app = scope(name="app", timeout=1.0)
        app.provide(CONNECTION, lambda: kept(ledger, "connection", slow=0.5), enter=True, eager=True)
        app.provide(CACHE, opens(ledger, "cache", 0.5), close=ledger.close, eager=True)
        async with app as s:
            ledger.open(s, "body")
            await checkpoint()

    await sim.victim(victim)
    ledger.in_order()


@story(ScopeCancelled)
async def a_session_for_each_scope(sim: Simulation, ledger: Ledger) -> None:
    """V9: scopes within scopes, and many tasks in each: each scope has one of its own, closed before the outer one."""
    used: set[tuple[str, str]] = set()

    def session() -> AbstractAsyncContextManager[str]:
        return kept(ledger, f"of {current_scope().path}", slow=0.01)

    async def ask() -> None:
        used.add((current_scope().path, await use(SESSION)))

    async def victim(parent: Scope) -> None:
        async with scope(name="request", parent=parent) as s:
            s.start_soon(ask)
            async with scope(name="inner") as inner:
                s.start_soon(ask)
                inner.task(ask)
                await ask()

    async with scope(name="app").provide(SESSION, session, enter=True, shared=False) as s:
        s.start_soon(ask)
        await sim.victim(victim, s)
    assert all(name == f"of {path}" for path, name in used)
    assert len(ledger.opened) == len(set(ledger.opened))
    assert ledger.closing == sorted(ledger.closing, key=len, reverse=True)


@story(ServiceCycle)
async def a_ring_across_tasks(sim: Simulation, ledger: Ledger) -> None:
    """V7, V11: two ask at once, one of them is cancelled: nobody hangs, whoever still waits is told."""
    told: list[str] = []

    def needs(key: Key[str], other: Key[str]) -> Callable[[], AsyncIterator[str]]:
        async def make() -> AsyncIterator[str]:
            await checkpoint()
            yield await use(other)
            raise AssertionError(f"{key} was made")

        return make

    async def ask(key: Key[str]) -> None:
        try:
            await use(key)
        except ServiceCycle as error:
            told.append(str(error))

    app = scope(name="app").provide(CONNECTION, needs(CONNECTION, CACHE)).provide(CACHE, needs(CACHE, SESSION))
    async with app.provide(SESSION, needs(SESSION, CONNECTION)) as s:
        s.start_soon(ask, CONNECTION)
        s.start_soon(ask, CACHE)
        await sim.victim(ask, SESSION)
        await ask(CONNECTION)
    assert len(told) >= 3


@story(ServiceCycle)
async def a_ring_through_a_task_of_a_factory(sim: Simulation, ledger: Ledger) -> None:
    """V7, V11: the ring is not certain, and is told in time; the factory's own scope ends."""

    async def connect() -> str:
        async with scope(name="in the factory") as s:
            ledger.open(s, "in the factory")
            return await s.task(use, CACHE).unwrap()

    async def cache() -> str:
        return await use(CONNECTION)

    async def ask(key: Key[str]) -> None:
        with suppress(ServiceCycle):
            await use(key)

    async with scope(name="app").provide(CONNECTION, connect).provide(CACHE, cache) as s:
        s.start_soon(ask, CACHE)
        await sim.victim(ask, CONNECTION)


@story(ScopeCancelled)
async def a_service_that_crashes(sim: Simulation, ledger: Ledger) -> None:
    """V8, V5, S4: it takes the scope down, its error is told, and the rest is closed in order."""

    async def serve() -> AsyncIterator[str]:
        async with anyio.create_task_group() as tg, kept(ledger, "cache"):
            tg.start_soon(ledger.fail, "crash", 0.02)
            yield "cache"

    async def victim() -> None:
        app = scope(name="app").provide(CONNECTION, opens(ledger, "connection"), close=ledger.close)
        async with app.provide(CACHE, serve) as s:
            await use(CONNECTION)
            ledger.open(s, "a")
            s.start_soon(use, CACHE)
            await ledger.work("body", 1e6 if sim.case.number % 2 else 0.015)

    await sim.victim(victim)
    if "connection" in ledger.opened:
        assert ledger.closing[-1] == "connection"


@story(ScopeCancelled)
async def a_service_as_its_scope_is_cancelled(sim: Simulation, ledger: Ledger) -> None:
    """V3, V11, S5: a stranger and a child ask as the scope is cancelled; whatever was made is closed."""

    async def ask(s: Scope) -> None:
        with suppress(ScopeCancelled, ScopeClosed):
            await s.use(CACHE)
        await checkpoint()

    async def child() -> None:
        async with scope(name="child"):
            await use(CACHE)

    async def cache() -> AsyncIterator[str]:
        connection = await use(CONNECTION)
        async with kept(ledger, "cache", slow=0.01):
            yield f"cache of {connection}"

    app = scope(name="app").provide(CONNECTION, opens(ledger, "connection", 0.01), close=ledger.close)
    async with elsewhere(app.provide(CACHE, cache), 0.02) as s, anyio.create_task_group() as tg:
        tg.start_soon(ask, s)
        s.start_soon(child)
        await sim.victim(ask, s)
    ledger.in_order()


@story()
async def a_factory_with_a_scope_that_is_given_up(sim: Simulation, ledger: Ledger) -> None:
    """V11: what it had opened and started ends before anybody makes it anew."""
    builds = 0

    async def connect() -> AsyncIterator[str]:
        nonlocal builds
        builds += 1
        assert not ledger.alive
        async with scope(name="pool") as s:
            ledger.open(s, f"pool {builds}")
            s.start_soon(ledger.work, "keeper", 1e6, daemon=True)
            await s.parallel(each(ledger.work, ["a", "b"]))
            ledger.opened.append(f"connection {builds}")
            try:
                yield "connection"
            finally:
                with anyio.CancelScope(shield=True):
                    await ledger.close(f"connection {builds}")

    async def ask() -> None:
        assert await use(CONNECTION) == "connection"

    async with scope(name="app").provide(CONNECTION, connect) as s:
        async with anyio.create_task_group() as tg:
            tg.start_soon(ask_and_leave, s)
            await sim.victim(ask)
        await ask()


async def ask_and_leave(s: Scope) -> None:
    """Ask for the connection, but not for long."""
    with anyio.move_on_after(0.005):
        await s.use(CONNECTION)


# ------------------------------------------------------------------ daemons, services and what they own
@story()
async def a_daemon_with_a_scope_of_its_own(sim: Simulation, ledger: Ledger) -> None:
    """S2, S9: it ends with the daemon, not before the tasks that it serves, and is not waited for before that."""
    ledger.users = {"app": ("of the daemon", "served")}
    served: list[int] = []

    async def serve(send: Any, *, task_status: Any) -> None:
        async with scope(name="daemon's") as own:
            ledger.open(own, "daemon's")
            own.start_soon(ledger.work, "of the daemon", 1e6)
            inner = current_scope().parent
            assert inner is not None
            task_status.set()
            while True:
                served.extend(result.unwrap() for result in await inner.parallel(each(double, [1, 2])))
                await anyio.sleep(0.01)

    async def double(number: int) -> int:
        await checkpoint()
        return 2 * number

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "app")
            ready = anyio.Event()
            s.start_soon(lambda: serve(None, task_status=ready), daemon=True, name="serve")
            s.start_soon(ledger.work, "served", 0.015)
            await ready.wait()

    await sim.victim(victim)
    assert set(served) <= {2, 4}
    if "app" in ledger.opened:
        assert ledger.closing[-1] == "app"


@story(TaskCancelled)
async def a_victim_in_a_clean_up(sim: Simulation, ledger: Ledger) -> None:
    """S7: a part of a clean-up is cancelled by itself, which goes on; so do the next ones."""

    async def tidy(name: str) -> None:
        ledger.closing.append(name)
        await sim.victim(part)
        ledger.closed.append(name)

    async def part() -> None:
        async with scope(name="tidying") as s:
            ledger.open(s, "inner")
            await s.task(ledger.work, "task", 0.01)
            await s.parallel(each(ledger.work, ["a", "b"]))

    async with scope(name="app", timeout=0.01) as s:
        with anyio.CancelScope(shield=True):
            ledger.open(s, "first")
            ledger.opened.append("tidy")
            s.on_exit(tidy, "tidy")
            ledger.open(s, "last")
            await anyio.sleep(0.02)


# ------------------------------------------------------------------ families
@story()
async def strangers_of_strangers(sim: Simulation, ledger: Ledger) -> None:
    """S9: a child in another task, with a child in yet another: closed from the outermost leaf to the root."""
    order = ["root", "middle", "leaf"]

    async def descend(above: Scope, depth: int, tg: anyio.abc.TaskGroup) -> None:
        async with scope(name=order[depth], parent=above) as s:
            ledger.open(s, order[depth])
            if depth < 2:
                tg.start_soon(descend, s, depth + 1, tg)
                await ledger.work(f"body of {order[depth]}", 0.01)
            s.start_soon(ledger.work, f"task of {order[depth]}", 0.02)

    async def victim(above: Scope, tg: anyio.abc.TaskGroup) -> None:
        await descend(above, 1, tg)

    async with anyio.create_task_group() as tg, elsewhere(scope(name="root"), 0.025) as root:
        ledger.open(root, "root")
        await sim.victim(victim, root, tg)
    assert ledger.closing == [name for name in reversed(order) if name in ledger.opened]


@story()
async def a_body_that_raises_a_group(sim: Simulation, ledger: Ledger) -> None:
    """S3, S8: a task group in the body fails as it is cancelled; what is no cancellation leaves the scope."""

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            s.start_soon(ledger.work, "task", 1e6)
            async with anyio.create_task_group() as tg:
                tg.start_soon(ledger.fail, "one", 0.01)
                tg.start_soon(failing_late, ledger)
                async with scope(name="child") as child:
                    ledger.open(child, "b")
                    child.task(failing_late, ledger)
                    await ledger.work("body", 1e6)

    done = await sim.victim(victim)
    if done is None and sim.case.strike == "native":  # AnyIO's group loses its errors if it is struck as it is left
        ledger.made.clear()
    ledger.in_order()


async def failing_late(ledger: Ledger) -> None:
    """Fail once one is cancelled."""
    try:
        await anyio.sleep_forever()
    finally:
        raise ledger.mistake("late")


@story()
async def a_starter_whose_scope_is_cancelled(sim: Simulation, ledger: Ledger) -> None:
    """T3, S5: a stranger starts something in a scope that is cancelled as it gets ready; its clean-up runs."""

    async def serve(*, task_status: Any) -> None:
        async with scope(name="server") as own:
            ledger.open(own, "server")
            own.start_soon(ledger.work, "listener", 1e6)
            await anyio.sleep(0.01)
            task_status.started("port")
            await ledger.work("server", 1e6)

    async def victim(s: Scope) -> None:
        with suppress(ScopeCancelled):
            assert await s.start(serve) == "port"
        await checkpoint()

    async with elsewhere(scope(name="app"), 0.01) as s:
        ledger.open(s, "app")
        await sim.victim(victim, s)
    assert ledger.closing[-1] == "app"


# ------------------------------------------------------------------ slots
@story()
async def chains_of_lenders(sim: Simulation, ledger: Ledger) -> None:
    """T8: tasks that wait for queued ones in a chain, some of them cancelled: the limit holds, nobody hangs."""
    running = 0

    async def busy(name: str) -> None:
        nonlocal running
        running += 1
        try:
            assert running <= 2
            await ledger.work(name, 0.01)
        finally:
            running -= 1

    async def chain(depth: int, s: Scope) -> int:
        await busy(f"depth {depth}")
        if not depth:
            return 0
        first, second = s.task(chain, depth - 1, s), s.task(busy, f"beside {depth}")
        if depth == 1:
            second.cancel("not needed")
        await second
        return 1 + await first.unwrap()

    async def victim() -> int:
        async with scope(name="app", concurrency=2) as s:
            task = s.task(chain, 2, s)
            s.task(busy, "other")
            return await task.unwrap()

    done = await sim.victim(victim)
    assert done is None or done.value == 2


# ------------------------------------------------------------------ calls by others
@story(TaskCancelled)
async def a_call_that_fails_as_its_scope_is_cancelled(sim: Simulation, ledger: Ledger) -> None:
    """T2, S5: a stranger calls `run`: the error that was made is the result, whatever comes at that moment."""
    ends: list[bool] = []

    async def victim(s: Scope) -> None:
        with suppress(ScopeClosed):
            result = await s.run(ledger.fail, "call", 0.01)
            tell_result(ledger, result)
        ends.append(True)

    async with elsewhere(scope(name="app"), 0.01) as s:
        if await sim.victim(victim, s) is None and not ends:
            ledger.made.clear()  # it is lost with who was given it
    assert ends or sim.has_struck


@story()
async def a_consumer_that_fails(sim: Simulation, ledger: Ledger) -> None:
    """A5: an error in the body of `as_completed`, as jobs fail and end: it leaves bare, and the jobs have ended."""

    async def victim() -> None:
        async with scope(name="app") as s:
            ledger.open(s, "a")
            jobs = [lambda n=n: ledger.work(f"job {n}", 0.01 * n) for n in range(4)]
            try:
                async with s.as_completed(jobs, concurrency=2) as results:
                    async for index, result in results:
                        assert result == Ok(f"job {index}")
                        async for _, other in results:
                            assert other
                            raise ledger.mistake("consumer")
            finally:
                assert not ledger.alive

    if await sim.victim(victim) is None:
        ledger.made.clear()
