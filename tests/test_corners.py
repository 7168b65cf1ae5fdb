"""Corners that no story leads to by itself, some looked at from inside; each says which line of thought it holds."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

import anyio
import pytest

from anyscope import (
    AMBIENT,
    Aggregate,
    Err,
    Hooks,
    Ok,
    ScopeTimeout,
    TaskCancelled,
    TaskTimeout,
    each,
    scope,
)
from anyscope._lifetime import backend, place
from anyscope._lifetime.ending import first_leaf, sort_out
from anyscope._lifetime.start import Start
from anyscope._vocabulary.errors import because
from anyscope._vocabulary.notes import chain_lost

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


async def ok(x: object = 1) -> object:
    """Succeed at once."""
    return x


# ------------------------------------------------------------------ jobs
async def test_fail_fast_among_jobs_that_never_suspend() -> None:
    """A3: a late failure stops the worker that has it, before it looks for a cancellation."""
    begun: list[int] = []

    async def job(n: int) -> None:
        begun.append(n)
        if n == 70:
            raise ValueError(n)

    async with scope() as s:
        results = await s.parallel(each(job, range(100)), concurrency=1, fail_fast=True)
    assert begun == list(range(71))
    assert isinstance(results[99], Err)
    assert isinstance(results[99].error, TaskCancelled)


async def test_a_job_that_fails_before_it_is_a_coroutine() -> None:
    """A1: the error of a lambda itself is that job's error."""
    async with scope() as s:
        (result,) = await s.parallel([lambda: 1 / 0])  # type: ignore[list-item]
    assert isinstance(result, Err)
    assert isinstance(result.error, ZeroDivisionError)


async def test_a_job_that_is_not_async_after_all() -> None:
    """S12: a lambda can only be told by what it returns; that ends the call."""
    async with scope() as s:
        with pytest.raises(TypeError, match=r"^s\.parallel: job 0 \(<lambda>\) is not async, it returned int"):
            await s.parallel([lambda: 3])  # type: ignore[list-item]


async def test_two_errors_of_one_call() -> None:
    """A7: the first error of a source is the one that leaves the call."""

    async def jobs() -> AsyncIterator[Any]:
        try:
            yield ok
            raise ValueError("first")
        finally:
            raise LookupError("second")

    async with scope() as s:
        with pytest.raises(LookupError) as caught:
            await s.parallel(jobs())
        assert isinstance(caught.value.__context__, ValueError)


async def test_an_error_while_the_call_is_being_halted() -> None:
    """A7: what comes after the first error does not replace it."""

    async def jobs() -> AsyncIterator[Any]:
        try:
            while True:
                yield ok
        finally:
            raise LookupError("at the close")

    def refuse(progress: object) -> NoReturn:
        raise ValueError("progress")

    async with scope() as s:
        with pytest.raises(ValueError, match="progress"):
            await s.parallel(jobs(), concurrency=1, on_progress=refuse)


async def test_an_error_raised_together_with_a_cancellation() -> None:
    """A1, E14: of a group with the cancellation in it, a job keeps the error."""

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as cut:
            raise BaseExceptionGroup("both", [cut, ValueError("clean-up")]) from None

    async def fail() -> None:
        await anyio.sleep(0.001)
        raise LookupError

    async with scope() as s:
        first, _ = await s.parallel([job, fail], fail_fast=True)
        task = s.task(job)
        await anyio.sleep(0.001)
        task.cancel()
        for result in (first, await task):
            assert isinstance(result, Err)
            assert isinstance(result.error, ExceptionGroup)
            assert [str(error) for error in result.error.exceptions] == ["clean-up"]


async def test_each_is_an_iterable_of_jobs() -> None:
    """A: what `each` makes can be read by anybody."""
    jobs = list(each(ok, [1, 2]))
    assert [await job() for job in jobs] == [1, 2]

    async def items() -> AsyncIterator[int]:
        yield 3

    later = each(ok, items())
    assert [await job() async for job in later] == [3]
    assert repr(later) == "<each ok>"


async def test_an_async_source_without_aclose() -> None:
    """A7: an async iterable need not be a generator."""

    class Source:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> Callable[[], Any]:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return ok

    async with scope() as s:
        assert await s.parallel(Source()) == [Ok(1), Ok(1)]


def test_the_repr_of_an_aggregate_that_ran_out_of_time() -> None:
    """A2: the repr says so."""
    results: list[Any] = [Ok(1), Err(TaskTimeout(task="job 1", limit=1))]
    assert repr(Aggregate(results, timed_out=True)) == "<Aggregate of 2 jobs: 1 completed, 1 errors, timed out>"


async def test_jobs_that_wait_on_behalf_of_one_task() -> None:
    """T8: two jobs of a task wait for two queued tasks; its one slot serves both, one after the other."""
    async with scope(concurrency=1) as s:

        async def lead() -> object:
            return await s.parallel([second.unwrap, third.unwrap], concurrency=2)

        first = s.task(lead)
        second, third = s.task(ok, 2), s.task(ok, 3)
        assert await first == Ok([Ok(2), Ok(3)])


# ------------------------------------------------------------------ tasks that never began
async def test_a_daemon_that_is_stopped_before_it_begins() -> None:
    """T3: it runs to its first checkpoint, as every task that is cancelled early."""
    log: list[str] = []

    async def serve() -> None:
        log.append("began")
        await anyio.sleep_forever()

    async with scope() as s:
        s.start_soon(serve, daemon=True)
        (daemon,) = s._owner.works.daemons
        daemon.cancel("early")
        while s.statistics().running:
            await anyio.lowlevel.checkpoint()
    assert log == ["began"]


async def test_a_task_given_up_as_lost_does_not_begin_later() -> None:
    """T7: should the backend run a child after all, its handle has ended already, and nothing of it runs."""
    ran: list[int] = []

    async def note() -> None:
        ran.append(1)

    async with scope() as s:
        task = s.task(note)
        task.abandon()
        assert task.status == "cancelled"
        await anyio.sleep(0.001)
        task.abandon()  # once is enough
    assert not ran


@pytest.mark.asyncio_only
async def test_a_lost_task_can_still_be_cancelled() -> None:
    """T7, H6: cancelling the handle of a child that the backend dropped does nothing, and hangs nothing."""
    with suppress(Exception):
        async with scope() as s:
            before = asyncio.all_tasks()
            task = s.task(ok)
            for child in asyncio.all_tasks() - before:
                child.cancel()
            del child
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.002)
            gc.collect()
            task.cancel("late")
    assert task.status == "cancelled"


@pytest.mark.asyncio_only
async def test_a_lost_task_beside_one_that_takes_its_time() -> None:
    """H6, S2: the one is buried, the other is waited for."""
    log: list[str] = []

    async def slow() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        log.append("slow")

    with suppress(Exception):
        async with scope() as s:
            s.task(slow)
            await anyio.sleep(0.001)
            before = asyncio.all_tasks()
            lost = s.task(ok)
            for child in asyncio.all_tasks() - before:
                child.cancel()
    assert log == ["slow"]
    assert lost.status == "cancelled"


@pytest.mark.asyncio_only
async def test_the_second_closer_survives_the_host_s_cancellation_too() -> None:
    """S7: the closer is cancelled natively, then the host while the next closer waits; clean-up is done once."""
    log: list[str] = []
    release, entered = anyio.Event(), anyio.Event()

    async def foreign(parent: Any) -> None:
        async with scope(parent=parent):
            entered.set()
            await release.wait()

    async def host() -> None:
        async with anyio.create_task_group() as group, scope(name="app") as s:
            s.on_exit(log.append, "clean-up")
            group.start_soon(foreign, s)
            await entered.wait()

    told = asyncio.create_task(host())
    for target in ("closer of app", "closer of app", "host"):
        for _ in range(30):
            await anyio.lowlevel.checkpoint()
        for task in asyncio.all_tasks():
            if task.get_name() == target or (target == "host" and task is told):
                task.cancel()
    release.set()
    with suppress(asyncio.CancelledError):
        await told
    assert log == ["clean-up"]


# ------------------------------------------------------------------ scopes
async def test_cancelled_before_entry() -> None:
    """S5: a scope may be cancelled before it is entered; its block runs to its first checkpoint."""
    s = scope(name="early")
    s.cancel("never mind")
    reached = False
    async with s:
        await anyio.sleep_forever()
        reached = True
    assert not reached
    assert s.cancel_reason == "never mind"


async def test_a_context_that_changed_inside_the_block_is_left_alone() -> None:
    """S11: the former place is restored only where ours is still the current one."""
    async with scope():
        place.HERE.set(None)
    assert place.HERE.get() is None


async def test_a_child_of_a_foreign_child_is_not_nested() -> None:
    """S9: only an unbroken chain of blocks is left to the backend to cancel."""
    reasons: list[object] = []

    async def foreign(parent: Any) -> None:
        async with scope(parent=parent) as child:
            async with scope(parent=parent) as second:
                await anyio.sleep_forever()
            reasons.append(second.cancel_reason)
        reasons.append(child.cancel_reason)

    async with anyio.create_task_group() as group, scope() as s:
        group.start_soon(foreign, s)
        await anyio.sleep(0.001)
        s.cancel("stop")
    assert reasons == ["stop"]  # the inner block cuts the outer one at its end


class FakeGroup:
    """A task group whose exit does what the test says."""

    def __init__(self, real: Any, outcome: BaseException | bool) -> None:
        self.real = real
        self.outcome = outcome
        self.cancel_scope = real.cancel_scope

    async def __aexit__(self, *seen: object) -> bool:
        with suppress(BaseException):
            await self.real.__aexit__(None, None, None)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


async def test_a_group_that_fails_by_itself() -> None:
    """S4: whatever the task group raises, no error of it is lost."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            s._owner._group = FakeGroup(s._owner._group, ExceptionGroup("inner", [ValueError("lost?")]))
    assert caught.value.exceptions[0].__notes__ == ["in app"]


@pytest.mark.asyncio_only
async def test_a_group_that_passes_the_cancellation_on_without_raising() -> None:
    """Law 4: what `__aexit__` of the group returns decides; false means that the exception goes on."""

    async def host() -> None:
        with anyio.CancelScope() as outer:
            async with scope() as s:
                s._owner._group = FakeGroup(s._owner._group, False)
                outer.cancel()
                await anyio.sleep_forever()
        assert outer.cancelled_caught

    await host()


async def test_hooks_hear_of_a_fatal_exception() -> None:
    """H2, S15: it is the error of the work, and goes on."""
    heard: list[BaseException | None] = []
    hooks = Hooks(after_task=lambda name, duration, error: heard.append(error))

    async def fatal() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with scope(hooks=hooks) as s:
            await s.run(fatal)
    assert [type(error) for error in heard] == [KeyboardInterrupt]


def test_the_base_hooks_do_nothing() -> None:
    """H4: a subclass may call them."""
    hooks = Hooks()
    assert hooks.before_task("x", 0) is None
    assert hooks.after_task("x", 0.0, None) is None
    assert hooks.on_cancel(None) is None
    assert hooks.on_dispose(0, None) is None


async def test_a_decorated_async_function() -> None:
    """S12: a plain wrapper made with functools.wraps is async if what it wraps is."""

    @functools.wraps(ok)
    def wrapper(x: object) -> Any:
        return ok(x)

    async with scope() as s:
        assert await s.task(wrapper, 7) == Ok(7)


# ------------------------------------------------------------------ small parts
def test_outside_of_any_loop() -> None:
    """S11: nothing is running there, and that is no error."""
    assert backend.running_task() is None
    assert backend.running_loop() is None
    assert repr(AMBIENT) == "AMBIENT"


def test_long_reasons_are_cut() -> None:
    """S13: a reason is shown in one line of bounded length."""
    assert because("x" * 1000) == f" ({'x' * 200}...)"


@pytest.mark.asyncio_only
async def test_a_group_with_everything_in_it() -> None:
    """S8, S15: cancellation, error and fatal exception are told apart however deep they are."""
    cut, fatal = asyncio.CancelledError(), KeyboardInterrupt()
    end = sort_out(BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [cut]), fatal]))
    assert end.cut is cut
    assert first_leaf(end.fatal) is fatal if end.fatal else False


def test_lost_errors_hang_below_whatever_context_there_is() -> None:
    """S15: the chain that is there stays."""
    leaving, cause, lost = KeyboardInterrupt(), ValueError("why"), LookupError("lost")
    leaving.__context__ = cause
    chain_lost(leaving, lost)
    assert leaving.__context__ is cause
    assert cause.__context__ is lost
    chain_lost(leaving, lost)
    chain_lost(lost, lost)
    assert lost.__context__ is None


def test_a_start_is_only_ever_awaited() -> None:
    """T7: dropping it unstarted does nothing."""
    start = Start(lambda: ok())  # type: ignore[arg-type, return-value]
    start.close()
    with pytest.raises(AssertionError):
        start.send(None)
    with pytest.raises(AssertionError):
        start.throw(ValueError())


@pytest.mark.virtual_time
async def test_a_time_out_in_a_group_keeps_its_place() -> None:
    """S6: after the body's error, before the tasks'."""

    def jobs() -> Iterator[Any]:
        yield ok

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(timeout=0.002) as s:
            await s.parallel(jobs())
            s.on_exit(anyio.sleep, -1)
            await anyio.sleep(1)
    assert isinstance(caught.value.exceptions[0], ScopeTimeout)
