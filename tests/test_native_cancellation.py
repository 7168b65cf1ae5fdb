"""Native cancellation on asyncio (S7, S8, T7): `Task.cancel()`, `asyncio.timeout`, `wait_for`, cancelled futures.

A native cancel goes through any shield and hits one task, once. The stories below are cut at each of their first loop
steps, once or over and over; whatever the moment: the cancellation is never swallowed, each clean-up that was
registered begins and ends exactly once, last opened first, and no task is left.
"""

# Handles are dropped on purpose here; and mypy looks with the eyes of Python 3.10.
# mypy: disable-error-code="unused-awaitable,attr-defined"

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest

from anyscope import Err, Ok, Scope, ScopeCancelled, ScopeTimeout, Task, TaskCancelled, each, scope

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.asyncio_only

STEPS = 16
needs_timeout = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and uncancel are new in 3.11")


async def turns(count: int) -> int:
    """Pass `count` turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)
    return count


class Ledger:
    """What was opened, and which clean-ups began and ended."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.began: list[str] = []
        self.ended: list[str] = []

    def open(self, s: Scope, name: str) -> None:
        """Register a clean-up of three turns."""
        self.opened.append(name)
        s.on_exit(self.close, name)

    async def close(self, name: str) -> None:
        """The clean-up."""
        self.began.append(name)
        await turns(3)
        self.ended.append(name)

    def check(self, *, finished: bool = True) -> None:
        """Each clean-up began exactly once, last opened first; and ended, unless it was itself cancelled."""
        assert sorted(self.began) == sorted(self.opened)
        if finished:
            assert self.began == self.opened[::-1]
            assert self.ended == self.began


# ------------------------------------------------------------------------------------------------- the stories
async def body_works(ledger: Ledger) -> None:
    """Nothing but a body."""
    async with scope(name="app") as s:
        ledger.open(s, "a")
        await turns(4)
        ledger.open(s, "b")
        await turns(4)


async def exit_waits(ledger: Ledger) -> None:
    """The body is over at once, and the exit waits for tasks."""
    async with scope(name="app") as s:
        ledger.open(s, "a")
        for count in (2, 4, 6):
            s.task(turns, count)


async def nested_scopes(ledger: Ledger) -> None:
    """Three scopes, each with clean-up and a task."""
    async with scope(name="app") as one:
        ledger.open(one, "one")
        async with scope(name="ingest") as two:
            ledger.open(two, "two")
            two.task(turns, 3)
            async with scope(name="fetch") as three:
                ledger.open(three, "three")
                three.task(turns, 2)
                await turns(2)


async def daemons_and_tasks(ledger: Ledger) -> None:
    """Daemons, start_soon and tasks together."""
    async with scope(name="app", timeout=3600) as s:
        ledger.open(s, "a")
        s.start_soon(anyio.sleep_forever, daemon=True)
        s.start_soon(turns, 3)
        s.task(turns, 5)
        await turns(2)
        ledger.open(s, "b")


async def awaits_a_task(ledger: Ledger) -> None:
    """The body waits for a handle."""
    async with scope(name="app", concurrency=1) as s:
        ledger.open(s, "a")
        assert await s.task(turns, 3) == Ok(3)
        assert await s.run(turns, 2) == Ok(2)


async def parallel_jobs(ledger: Ledger) -> None:
    """The body is in `parallel`."""
    async with scope(name="app") as s:
        ledger.open(s, "a")
        assert await s.parallel(each(turns, [1, 4, 2, 3]), concurrency=2) == [Ok(1), Ok(4), Ok(2), Ok(3)]


async def jobs_as_completed(ledger: Ledger) -> None:
    """The body is in a loop over `as_completed`."""
    async with scope(name="app") as s:
        ledger.open(s, "a")
        async with s.as_completed(each(turns, [3, 1, 2]), concurrency=2) as results:
            async for _index, result in results:
                assert result
                await turns(1)


async def races(ledger: Ledger) -> None:
    """The body is in `race`."""
    async with scope(name="app") as s:
        ledger.open(s, "a")
        assert await s.race(each(turns, [9, 3, 7])) == Ok(3)


async def starts(ledger: Ledger) -> None:
    """The body waits until a task says that it is ready."""

    async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        await turns(2)
        task_status.started(7)
        await turns(3)

    async with scope(name="app") as s:
        ledger.open(s, "a")
        assert await s.start(serve) == 7


async def child_scope_in_a_task(ledger: Ledger) -> None:
    """A child scope is open in a task of its parent."""

    async def work() -> None:
        async with scope(name="child") as child:
            ledger.open(child, "child")
            await turns(3)

    async with scope(name="app") as s:
        ledger.open(s, "app")
        s.start_soon(work)
        await turns(2)


STORIES = [
    body_works,
    exit_waits,
    nested_scopes,
    daemons_and_tasks,
    awaits_a_task,
    parallel_jobs,
    jobs_as_completed,
    races,
    starts,
    child_scope_in_a_task,
]


async def play(
    story: Callable[[Ledger], Awaitable[None]], step: int, repeat: str
) -> tuple[Ledger, bool, asyncio.Task[None]]:
    """Run a story in a task of its own, and cancel it natively from the given step on."""
    ledger, before = Ledger(), asyncio.all_tasks()

    async def run() -> None:
        await story(ledger)

    told = asyncio.create_task(run())
    await turns(step)
    hit = told.cancel()
    for _ in range({"once": 0, "twice": 1, "in two steps": 0, "at every step": 300}[repeat]):
        if told.done():
            break
        if repeat == "at every step":
            await asyncio.sleep(0)
        told.cancel()
    if repeat == "in two steps":
        await turns(2)
        told.cancel()
    await asyncio.wait([told])
    left = asyncio.all_tasks() - before
    assert not left, left
    return ledger, hit, told


@pytest.mark.parametrize("repeat", ["once", "twice", "in two steps", "at every step"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_cancelled_at_each_step(story: Callable[[Ledger], Awaitable[None]], repeat: str) -> None:
    """S7, S8: at whichever step, the cancellation passes, clean-up is done exactly once, and no task is left."""
    if story is races and sys.version_info < (3, 11):
        pytest.skip("on 3.10 AnyIO swallows a native cancel in the very turn in which the losers are cancelled")
    for step in range(STEPS):
        ledger, hit, told = await play(story, step, repeat)
        ledger.check(finished=story is not child_scope_in_a_task)
        assert sorted(ledger.ended) == sorted(ledger.opened)
        if hit:
            assert told.cancelled(), f"swallowed at step {step}: {told!r}"
        else:
            assert told.exception() is None


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_the_stories_end_by_themselves(story: Callable[[Ledger], Awaitable[None]]) -> None:
    """The sweep is honest: undisturbed, each story ends well and closes everything."""
    ledger = Ledger()
    await story(ledger)
    ledger.check(finished=story is not child_scope_in_a_task)


async def cancel_everything_at_each_step(story: Callable[[Ledger], Awaitable[None]]) -> None:
    """At each step in turn, cancel every task that the story has at that moment, and see that it ends."""
    for step in range(2 * STEPS):
        ledger, before = Ledger(), asyncio.all_tasks()

        async def run(ledger: Ledger = ledger) -> None:
            await story(ledger)

        told = asyncio.create_task(run())
        await turns(step)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.wait([told], timeout=5)
        assert told.done(), f"hangs when cancelled at step {step}"
        if not told.cancelled():
            told.exception()
        assert sorted(ledger.began) == sorted(ledger.opened), f"at step {step}"
        assert asyncio.all_tasks() == before, f"at step {step}"
        del told
        gc.collect()


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # the next test looks at those
# Without `starts`: AnyIO 4.16's own TaskGroup.start() waits for ever for a child cancelled before its first step.
@pytest.mark.parametrize("story", [s for s in STORIES if s is not starts], ids=lambda story: story.__name__)
async def test_every_task_cancelled_at_each_step(story: Callable[[Ledger], Awaitable[None]]) -> None:
    """S7: all tasks are cancelled natively, the library's own too: each clean-up begins exactly once, and it ends."""
    await cancel_everything_at_each_step(story)


@pytest.mark.virtual_time
@pytest.mark.parametrize("story", [s for s in STORIES if s is not starts], ids=lambda story: story.__name__)
async def test_no_warning_when_every_task_is_cancelled(story: Callable[[Ledger], Awaitable[None]]) -> None:
    """S12: a task of the library's own that is cancelled before its first step leaves no "never awaited" warning."""
    await cancel_everything_at_each_step(story)


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_the_closer_cancelled_over_and_over(times: int) -> None:
    """S7: whatever runs the clean-up is cancelled natively several times; every step still begins once."""
    ledger = Ledger()

    async def run() -> None:
        async with scope(name="app", parent=None) as s:
            for name in "abcdef":
                ledger.open(s, name)

    before = asyncio.all_tasks()
    told = asyncio.create_task(run())
    while not ledger.began:
        await asyncio.sleep(0)
    for _ in range(times):
        for task in asyncio.all_tasks() - before - {told}:
            task.cancel()
        await turns(2)
    await asyncio.wait([told], timeout=5)
    assert told.done()
    assert ledger.began == list("fedcba")
    assert isinstance(told.exception(), ExceptionGroup)
    assert all("clean-up" in str(error) for error in told.exception().exceptions)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------- what passes through
async def test_the_cancellation_itself_leaves() -> None:
    """S8: it is asyncio's CancelledError that leaves the block; the scope says that it was cancelled natively."""
    seen: list[object] = []

    async def run() -> None:
        try:
            async with scope(parent=None) as s:
                seen.append(s)
                s.task(anyio.sleep_forever)
                await anyio.sleep_forever()
        except BaseException as error:
            seen.append(type(error))
            raise

    told = asyncio.create_task(run())
    await turns(3)
    told.cancel()
    await asyncio.wait([told])
    assert told.cancelled()
    assert seen[1] is asyncio.CancelledError
    assert isinstance(seen[0], Scope)
    assert seen[0].cancelled
    assert seen[0].closed


async def test_errors_of_clean_up_are_not_swallowed() -> None:
    """S8: natively cancelled while a clean-up fails: the group of errors leaves."""

    def close() -> None:
        raise OSError("close")

    async def run() -> None:
        async with scope(name="app", parent=None) as s:
            s.on_exit(close)
            await anyio.sleep_forever()

    told = asyncio.create_task(run())
    await turns(3)
    told.cancel()
    with pytest.raises(ExceptionGroup) as caught:
        await told
    assert [repr(error) for error in caught.value.exceptions] == ["OSError('close')"]


@needs_timeout
async def test_the_cancel_count_is_left_alone() -> None:
    """S8: the scope neither uncancels nor cancels its host: `cancelling()` is 1 behind the block."""
    counts: list[int] = []

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with scope(parent=None) as s:
                s.task(anyio.sleep_forever)
                s.on_exit(turns, 2)
                await anyio.sleep_forever()
        except asyncio.CancelledError:
            counts.append(task.cancelling())
            counts.append(task.uncancel())
        await turns(2)

    told = asyncio.create_task(run())
    await turns(3)
    told.cancel()
    await told
    assert counts == [1, 0]


@needs_timeout
@pytest.mark.parametrize("how", ["own cancel", "deadline", "error"])
async def test_a_quiet_or_failing_end_leaves_no_count(how: str) -> None:
    """S5, S6: a scope that cancels itself leaves `cancelling()` of its host at 0."""
    task = asyncio.current_task()
    assert task is not None
    try:
        async with scope(parent=None, timeout=0.005 if how == "deadline" else None) as s:
            s.task(anyio.sleep_forever)
            if how == "own cancel":
                s.cancel()
            if how == "error":
                raise ValueError(how)
            await anyio.sleep_forever()
    except (ScopeTimeout, ValueError):
        pass
    assert task.cancelling() == 0
    await turns(2)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="AnyIO swallows one of the two on 3.10")
async def test_native_and_own_cancel_in_one_turn() -> None:
    """S5, S8: `s.cancel()` and a native cancel in the same turn of the loop: the native one is not swallowed."""
    for first in ("scope", "native"):
        ledger, scopes = Ledger(), list[Scope]()

        async def run(ledger: Ledger = ledger, scopes: list[Scope] = scopes) -> None:
            async with scope(parent=None) as s:
                scopes.append(s)
                ledger.open(s, "a")
                s.task(anyio.sleep_forever)
                await anyio.sleep_forever()
            await anyio.sleep_forever()

        told = asyncio.create_task(run())
        await turns(3)
        for call in (scopes[0].cancel, told.cancel)[:: 1 if first == "scope" else -1]:
            call()
        await asyncio.wait([told], timeout=1)
        assert told.cancelled(), first
        ledger.check()


# ------------------------------------------------------------------------------------------------- asyncio's time-outs
@needs_timeout
@pytest.mark.parametrize("exit_waits", [False, True])
async def test_asyncio_timeout_around(exit_waits: bool) -> None:
    """S8: `asyncio.timeout` around a scope raises its TimeoutError, and everything has been closed."""
    ledger = Ledger()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.01), scope(parent=None) as s:
            ledger.open(s, "a")
            task = s.task(anyio.sleep_forever)
            if not exit_waits:
                await anyio.sleep_forever()
    assert type(caught.value) is TimeoutError
    ledger.check()
    assert isinstance(task.result(), Err)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await turns(2)


async def test_wait_for_around() -> None:
    """S8: `asyncio.wait_for` around a scope raises TimeoutError after clean-up."""
    ledger = Ledger()

    async def run() -> None:
        async with scope(parent=None) as s:
            ledger.open(s, "a")
            s.task(anyio.sleep_forever)
            await anyio.sleep_forever()

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(run(), 0.01)
    ledger.check()


@needs_timeout
async def test_asyncio_timeout_inside() -> None:
    """S8: an `asyncio.timeout` inside the body is the body's own matter: caught there, the scope goes on."""
    async with scope(parent=None) as s:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await anyio.sleep_forever()
        assert await s.task(turns, 2) == Ok(2)
    assert not s.cancelled


@needs_timeout
async def test_asyncio_timeout_inside_leaves() -> None:
    """S3: not caught in the body, it is the body's error, and leaves as the same object."""
    raised: list[BaseException] = []
    with pytest.raises(TimeoutError) as caught:
        async with scope(parent=None) as s:
            s.task(anyio.sleep_forever)
            try:
                async with asyncio.timeout(0.005):
                    await anyio.sleep_forever()
            except TimeoutError as error:
                raised.append(error)
                raise
    assert caught.value is raised[0]


@pytest.mark.parametrize("inner", ["timeout", "wait_for"])
async def test_asyncio_time_outs_in_a_task(inner: str) -> None:
    """T1: a time-out of asyncio's inside a task is that task's error; siblings are not disturbed."""
    if inner == "timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout is new in 3.11")

    async def work() -> None:
        if inner == "wait_for":
            await asyncio.wait_for(anyio.sleep_forever(), 0.005)
        elif sys.version_info >= (3, 11):
            async with asyncio.timeout(0.005):
                await anyio.sleep_forever()

    async with scope(parent=None) as s:
        task, sibling = s.task(work), s.task(anyio.sleep, 0.01)
        error = (await task).pair()[0]
        assert isinstance(error, asyncio.TimeoutError)
        assert await sibling == Ok(None)


@needs_timeout
@pytest.mark.virtual_time
async def test_asyncio_timeout_and_scope_deadline_at_one_moment() -> None:
    """S6, S8: both at once give one TimeoutError and leave no cancellation behind."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), scope(timeout=1, parent=None) as s:
            s.task(anyio.sleep_forever)
            await anyio.sleep_forever()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await turns(2)


# ------------------------------------------------------------------------------------------------- one child is hit
def only_new(before: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    """The one task that is there now and was not before."""
    (task,) = asyncio.all_tasks() - before
    return task


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.parametrize("body", ["ends", "waits for it", "waits for ever"])
async def test_a_task_cancelled_before_its_first_step(body: str) -> None:
    """T7, H6: its handle finishes, also for a waiter outside of the scope; nothing hangs, and the scope tells it."""
    ran: list[str] = []
    results: list[object] = []

    async def work() -> None:
        ran.append("ran")

    async def wait_outside(handle: Task[None]) -> None:
        results.append(await handle)

    async with anyio.create_task_group() as group:
        with pytest.raises(ExceptionGroup) as caught:
            async with scope(name="app", parent=None) as s:
                await turns(2)
                before = asyncio.all_tasks()
                handle = s.task(work)
                only_new(before).cancel()
                group.start_soon(wait_outside, handle)
                if body == "waits for it":
                    await handle
                if body == "waits for ever":
                    await anyio.sleep_forever()
    assert ran == []
    assert str(handle.result().pair()[0]) == "task work (#0) of app was cancelled (cancelled natively)"
    assert results == [handle.result()]
    (told,) = caught.value.exceptions
    assert isinstance(told, ScopeCancelled)
    assert "cancelled natively before it began" in str(told)


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.parametrize("kind", ["start_soon", "daemon"])
async def test_other_work_cancelled_before_its_first_step(kind: str) -> None:
    """H6: the same for start_soon and daemons: the scope ends, closes, and tells it."""
    ledger = Ledger()
    with pytest.raises(ExceptionGroup):
        async with scope(name="app", parent=None) as s:
            ledger.open(s, "a")
            await turns(2)
            before = asyncio.all_tasks()
            s.start_soon(turns, 3, daemon=kind == "daemon")
            only_new(before).cancel()
            await anyio.sleep_forever()
    ledger.check()
    gc.collect()


@pytest.mark.virtual_time  # where a hang is told at once
async def test_siblings_of_the_unborn_are_cancelled_and_told() -> None:
    """H6: AnyIO cancels the whole group then; siblings end as cancelled, not in silence."""
    with pytest.raises(ExceptionGroup):
        async with scope(name="app", parent=None) as s:
            sibling = s.task(anyio.sleep_forever)
            await turns(2)
            before = asyncio.all_tasks()
            s.task(turns, 1)
            only_new(before).cancel()
    assert isinstance(sibling.result().pair()[0], TaskCancelled)


async def test_a_task_cancelled_in_the_middle() -> None:
    """T5, T7: a child that is cancelled natively gives Err(TaskCancelled); nobody else is disturbed."""
    natives: list[asyncio.Task[Any]] = []

    async def work() -> None:
        current = asyncio.current_task()
        assert current is not None
        natives.append(current)
        await anyio.sleep_forever()

    async with scope(name="app", parent=None) as s:
        task, sibling = s.task(work), s.task(turns, 9)
        await turns(3)
        natives[0].cancel()
        assert str((await task).pair()[0]) == "task work (#0) of app was cancelled (cancelled natively)"
        assert await sibling == Ok(9)
    assert not s.cancelled


async def test_a_start_soon_cancelled_in_the_middle() -> None:
    """T3: as in AnyIO's task groups, a start_soon that is cancelled natively is no failure, and others go on."""
    natives: list[asyncio.Task[Any]] = []

    async def work() -> None:
        current = asyncio.current_task()
        assert current is not None
        natives.append(current)
        await anyio.sleep_forever()

    async with scope(name="app", parent=None) as s:
        s.start_soon(work)
        sibling = s.task(turns, 9)
        await turns(3)
        natives[0].cancel()
    assert sibling.result() == Ok(9)
    assert not s.cancelled


async def test_a_native_cancel_at_each_step_of_one_task() -> None:
    """T7: at whichever step a task is cancelled natively, from its second on, only it ends as cancelled."""
    for step in range(8):
        natives: list[asyncio.Task[Any]] = []

        async def work(natives: list[asyncio.Task[Any]] = natives) -> int:
            current = asyncio.current_task()
            assert current is not None
            natives.append(current)
            return await turns(5)

        async with scope(name="app", parent=None) as s:
            task, sibling = s.task(work), s.task(turns, 12)
            while not natives:
                await asyncio.sleep(0)
            await turns(step)
            hit = natives[0].cancel() and not task.done
            result = await task
            assert isinstance(result.pair()[0], TaskCancelled) if hit else result == Ok(5), step
            assert await sibling == Ok(12)


async def test_a_task_that_catches_a_native_cancel() -> None:
    """T7: a task that catches its cancellation and returns is Ok, also when it was a native one."""

    async def stubborn() -> int:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return 7
        return 0

    async with scope(parent=None) as s:
        before = asyncio.all_tasks()
        task = s.task(stubborn)
        native = only_new(before)
        await turns(2)
        native.cancel()
        assert await task == Ok(7)


# ------------------------------------------------------------------------------------------------- cancelled futures
async def test_a_cancelled_future_in_a_task() -> None:
    """T5, H6: a CancelledError that nobody ordered ends that task alone, as Err(TaskCancelled)."""

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with scope(name="app", parent=None) as s:
        task, sibling = s.task(work), s.task(turns, 4)
        assert str((await task).pair()[0]) == "task work (#0) of app was cancelled (cancelled natively)"
        assert await sibling == Ok(4)
    assert not s.cancelled


async def test_a_cancelled_future_in_the_body() -> None:
    """S8, H6: it is not swallowed: the CancelledError leaves the block after clean-up, and says so in the reason."""
    ledger = Ledger()
    with pytest.raises(asyncio.CancelledError):
        async with scope(name="app", parent=None) as s:
            ledger.open(s, "a")
            task = s.task(anyio.sleep_forever)
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
    ledger.check()
    assert s.cancel_reason == "cancelled natively"
    assert isinstance(task.result().pair()[0], TaskCancelled)
    await turns(2)


async def test_a_cancelled_future_in_run() -> None:
    """T2, H6: in `s.run` it passes through to the caller, who is the one that awaited it."""

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(asyncio.CancelledError):
        async with scope(name="app", parent=None) as s:
            await s.run(work)
    assert s.closed


@pytest.mark.parametrize("how", ["parallel", "as_completed"])
async def test_a_cancelled_future_in_a_job(how: str) -> None:
    """A1, H6: in a job it is Err(TaskCancelled) of that job; the others are not disturbed."""

    async def work(cancels: bool) -> int:
        if cancels:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return await turns(3)

    async with scope(name="app", parent=None) as s:
        jobs = each(work, [False, True, False])
        if how == "parallel":
            results = dict(enumerate(await s.parallel(jobs)))
        else:
            async with s.as_completed(jobs) as completed:
                results = {index: result async for index, result in completed}
    assert results[0] == results[2] == Ok(3)
    assert isinstance(results[1].pair()[0], TaskCancelled)


async def test_a_cancelled_future_in_a_clean_up() -> None:
    """S7, S4: a clean-up that dies of a cancelled future is reported, and the next one runs."""
    ledger = Ledger()

    async def close() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            ledger.open(s, "a")
            s.on_exit(close)
    ledger.check()
    (error,) = caught.value.exceptions
    assert str(error) == "scope app was cancelled (cancelled natively): clean-up close (#1) was cut off"


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.parametrize("after", range(6))
async def test_a_slot_is_not_given_away_after_the_group_has_gone(after: int) -> None:
    """S7, T8: the holder of the only slot is lost, then the exit's own tasks are hit: who queued gets an end too."""
    queued: list[Task[Any]] = []
    known: set[asyncio.Task[Any]] = set()

    async def run() -> None:
        async with scope(name="app", concurrency=1) as s:
            await turns(2)
            before = asyncio.all_tasks()
            s.task(turns, 3)
            queued.append(s.task(turns, 1))
            (asyncio.all_tasks() - before).pop().cancel()
            known.update(asyncio.all_tasks())

    host = asyncio.create_task(run())
    while not known:
        await turns(1)
    await turns(after)
    for started in asyncio.all_tasks() - known:
        started.cancel()
    known.clear()
    await asyncio.wait([host], timeout=30)
    assert host.done(), "it hangs"
    host.exception()
    assert queued[0].done
