"""`as_completed`: results in the order in which jobs end, while the others run (A5)."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Ok, Result, ScopeCancelled, ScopeClosed, ScopeMisuse, current_scope, each, scope

VAR: ContextVar[str] = ContextVar("VAR", default="unset")


class Gauge:
    """Counts the jobs inside and those that have ended, clean-up included."""

    def __init__(self) -> None:
        self.inside = self.most = self.begun = self.cleaned = 0

    async def work(self, seconds: float = 0.0) -> float:
        self.begun += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await anyio.sleep(seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.inside -= 1
            self.cleaned += 1
        return seconds

    def check(self) -> None:
        assert self.inside == 0
        assert self.begun == self.cleaned


async def nap(seconds: float) -> float:
    """Sleep, and return how long."""
    await anyio.sleep(seconds)
    return seconds


async def fail(error: BaseException) -> Any:
    """Suspend once, then raise."""
    await checkpoint()
    raise error


async def collect(results: AsyncIterator[tuple[int, Result[Any]]]) -> list[tuple[int, Result[Any]]]:
    """All that is left."""
    return [pair async for pair in results]


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [None, 2])
async def test_results_come_as_jobs_end(limit: int | None) -> None:
    """A5, case 121: pairs of index and result in the order of completion, at the time of completion."""
    seen: list[tuple[int, Result[float], float]] = []
    async with scope() as s, s.as_completed(each(nap, [4, 1, 2]), concurrency=limit) as results:
        async for index, result in results:
            seen.append((index, result, anyio.current_time()))
    assert [index for index, _, _ in seen] == [1, 2, 0]
    assert [now for _, _, now in seen] == pytest.approx([1, 2 if limit is None else 3, 4], abs=1e-3)


@pytest.mark.parametrize(
    "empty", [list, tuple, lambda: iter(()), lambda: each(nap, [])], ids=["list", "tuple", "iter", "each"]
)
async def test_no_jobs(empty: Callable[[], Any]) -> None:
    """A5, case 84: no jobs give no results."""
    async with scope() as s, s.as_completed(empty()) as results:
        assert await collect(results) == []


async def test_errors_are_results() -> None:
    """A5: a job that fails gives an `Err`, and the others go on."""
    error = ValueError("x")
    async with scope() as s, s.as_completed([functools.partial(fail, error), functools.partial(nap, 0.003)]) as results:
        pairs = await collect(results)
    assert [index for index, _ in pairs] == [0, 1]
    assert pairs[0][1].pair()[0] is error
    assert pairs[1][1] == Ok(0.003)


async def test_after_the_end() -> None:
    """A5: an iterator that has ended stays ended."""
    async with scope() as s, s.as_completed(each(nap, [0])) as results:
        assert len(await collect(results)) == 1
        assert await collect(results) == []


class Leave(Exception):
    pass


async def _break(s: Any, jobs: Any) -> None:
    async with s.as_completed(jobs) as results:
        async for _ in results:
            break


async def _return(s: Any, jobs: Any) -> object:
    async with s.as_completed(jobs) as results:
        async for pair in results:
            return pair
    return None


async def _raise(s: Any, jobs: Any) -> None:
    error = Leave()
    with pytest.raises(Leave) as caught:
        async with s.as_completed(jobs) as results:
            async for _ in results:
                raise error
    assert caught.value is error


async def _never_read(s: Any, jobs: Any) -> None:
    async with s.as_completed(jobs):
        await anyio.sleep(0.002)


async def _leave_at_once(s: Any, jobs: Any) -> None:
    async with s.as_completed(jobs):
        pass


async def _cut(s: Any, jobs: Any) -> None:
    with anyio.move_on_after(0.003) as cut:
        async with s.as_completed(jobs) as results:
            async for _ in results:
                await anyio.sleep(1)
    assert cut.cancelled_caught


async def _cut_inside(s: Any, jobs: Any) -> None:
    async with s.as_completed(jobs) as results:
        with anyio.move_on_after(0.003) as cut:
            async for _ in results:
                await anyio.sleep(1)
        assert cut.cancelled_caught


async def _interrupt(s: Any, jobs: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with s.as_completed(jobs):
            await anyio.sleep(0.001)
            raise KeyboardInterrupt


WAYS = [_break, _return, _raise, _never_read, _leave_at_once, _cut, _cut_inside, _interrupt]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_every_way_out_cancels_the_rest_and_waits(way: Callable[[Any, Any], Any]) -> None:
    """A5, case 121: however the block is left, the remaining jobs are cancelled and have ended; the scope lives on."""
    gauge = Gauge()
    async with scope() as s:
        await way(s, [gauge.work, *[functools.partial(gauge.work, 5)] * 3])
        gauge.check()
        begun = gauge.begun
        await anyio.sleep(0.003)
        assert gauge.begun == begun
        assert not s.cancelled


@pytest.mark.parametrize("way", [way for way in WAYS if way is not _leave_at_once], ids=lambda way: way.__name__)
async def test_every_way_out_closes_a_generator(way: Callable[[Any, Any], Any]) -> None:
    """A7: however the block is left, a generator of jobs is closed by then."""
    gauge = Gauge()

    def jobs() -> Iterator[Callable[[], Any]]:
        yield gauge.work
        for _ in range(50):
            yield functools.partial(gauge.work, 5)

    held = jobs()
    async with scope(concurrency=2) as s:
        await way(s, held)
        gauge.check()
        assert inspect.getgeneratorstate(held) == inspect.GEN_CLOSED  # also where it was closed before it began


async def test_an_error_of_the_body_while_jobs_fail() -> None:
    """A5: the error of the body leaves bare, whatever the jobs raise while they are cancelled."""

    async def bad() -> None:
        try:
            await anyio.sleep(1)
        finally:
            raise ValueError("clean-up")

    error = Leave()
    async with scope() as s:
        with pytest.raises(Leave) as caught:
            async with s.as_completed([bad, bad]):
                await anyio.sleep(0.001)
                raise error
    assert caught.value is error


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_slow_consumer_holds_the_jobs_back(is_async: bool) -> None:
    """A5, case 122: of an endless input with limit 2, never more than two are taken whose results were not."""
    gauge = Gauge()
    taken = consumed = most = 0

    def jobs() -> Iterator[Callable[[], Any]]:
        nonlocal taken, most
        for _ in itertools.count():
            taken += 1
            most = max(most, taken - consumed)
            yield gauge.work

    async def async_jobs() -> AsyncIterator[Callable[[], Any]]:
        for job in jobs():
            yield job

    async with scope() as s:
        async with s.as_completed(async_jobs() if is_async else jobs(), concurrency=2) as results:
            async for _ in results:
                consumed += 1
                await anyio.sleep(0.001)
                if consumed == 10:
                    break
        gauge.check()
    assert most <= 3  # one may be taken in the very step in which a result is handed over
    assert gauge.most <= 2


async def test_entered_twice() -> None:
    """S12: a second entry is refused, while it is open and afterwards, and the first one is not disturbed."""
    async with scope() as s:
        call = s.as_completed(each(nap, [0.002]))
        async with call as results:
            with pytest.raises(ScopeMisuse):
                await call.__aenter__()
            assert len(await collect(results)) == 1
        with pytest.raises(ScopeMisuse):
            await call.__aenter__()


async def test_made_and_never_entered() -> None:
    """Case 123: what is made and dropped does nothing: no job runs, nothing escapes into another task."""
    async with scope() as s:
        s.as_completed([lambda: pytest.fail("ran")])
        gc.collect()
        await checkpoint()


@pytest.mark.timeout(5)
async def test_iterated_without_entering() -> None:
    """S12, case 123: used without `async with`, it says so and does not hang."""
    async with scope() as s:
        results = s.as_completed(each(nap, [0]))
        with anyio.move_on_after(0.01) as hung, pytest.raises(ScopeMisuse):
            await results.__anext__()
        assert not hung.cancelled_caught


async def test_iterated_after_leaving() -> None:
    """A5: iterated after its block was left, it does not hang."""
    async with scope() as s:
        async with s.as_completed(each(nap, [1, 1])) as results:
            pass
        with anyio.move_on_after(0.01) as hung:
            with pytest.raises((StopAsyncIteration, ScopeMisuse, ScopeClosed)):
                await results.__anext__()
        assert not hung.cancelled_caught


async def test_several_consumers() -> None:
    """A5: several tasks may take from one iterator; each result goes to one of them, and all of them end."""
    taken: list[int] = []
    async with scope() as s, s.as_completed(each(nap, [0.001 * n for n in range(6)])) as results:

        async def consume() -> None:
            async for index, _ in results:
                taken.append(index)

        with anyio.fail_after(0.5):
            async with anyio.create_task_group() as tg:
                tg.start_soon(consume)
                tg.start_soon(consume)
    assert sorted(taken) == list(range(6))


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_the_scope_is_cancelled_while_consuming(is_waiting: bool) -> None:
    """A10: the block of a cancelled scope ends, all jobs have ended, and the scope is left quietly."""
    gauge = Gauge()
    async with scope() as s:
        async with s.as_completed([gauge.work, functools.partial(gauge.work, 5)]) as results:
            async for _ in results:
                s.cancel("enough")
                if not is_waiting:
                    await anyio.sleep(1)
        pytest.fail("went on")
    gauge.check()
    assert s.cancel_reason == "enough"


async def test_a_foreign_consumer_is_told() -> None:
    """A10: a task that the scope does not own gets `ScopeCancelled` at the end of the block, and lives on."""
    gauge = Gauge()
    outcome: list[object] = []

    async def foreign() -> None:
        with pytest.raises(ScopeCancelled) as caught:
            async with s.as_completed([functools.partial(gauge.work, 5)] * 2) as results:
                await collect(results)
        gauge.check()
        outcome.append(caught.value.reason)
        await checkpoint()
        outcome.append("lives")

    async with anyio.create_task_group() as tg, scope() as s:
        tg.start_soon(foreign)
        await anyio.sleep(0.003)
        s.cancel("why")
        await anyio.sleep(1)
    assert outcome == ["why", "lives"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_source_that_raises_midway(is_async: bool) -> None:
    """A7: the error of the source is raised to the consumer, bare, after the jobs have ended."""
    gauge, error = Gauge(), LookupError("gone")

    def jobs() -> Iterator[Callable[[], Any]]:
        yield functools.partial(gauge.work, 5)
        raise error

    async def async_jobs() -> AsyncIterator[Callable[[], Any]]:
        for job in jobs():
            yield job

    async with scope() as s:
        with pytest.raises(LookupError) as caught:
            async with s.as_completed(async_jobs() if is_async else jobs()) as results:
                await collect(results)
        assert caught.value is error
        gauge.check()


async def test_a_source_that_raises_while_nobody_reads() -> None:
    """S4: an error of the source that the consumer did not come to see is not lost."""

    def jobs() -> Iterator[Callable[[], Any]]:
        yield functools.partial(nap, 0)
        raise LookupError("gone")

    with pytest.raises(Exception) as caught:
        async with scope() as s, s.as_completed(jobs()):
            await anyio.sleep(0.003)
    assert "gone" in repr(caught.value)


async def test_a_keyboard_interrupt_in_a_job() -> None:
    """S15: a KeyboardInterrupt of a job leaves the block as itself."""
    gauge = Gauge()
    async with scope() as s:
        with pytest.raises(KeyboardInterrupt):
            async with s.as_completed(
                [functools.partial(fail, KeyboardInterrupt()), functools.partial(gauge.work, 5)]
            ) as results:
                await collect(results)
        gauge.check()


async def test_wrong_jobs_are_refused_at_the_call() -> None:
    """S12: coroutine objects and sync functions are refused at the call, with nothing run and no warning."""

    async def job() -> None:
        pytest.fail("ran")

    async with scope() as s:
        for wrong in (job(), len, 3):
            with pytest.raises(TypeError, match=r"s\.as_completed"):
                s.as_completed([job, wrong])  # type: ignore[list-item]
        del wrong
        gc.collect()


async def test_on_a_closed_scope() -> None:
    """S12: entering it on a closed scope is refused."""
    async with scope() as s:
        pass
    with pytest.raises(ScopeClosed):
        async with s.as_completed(each(nap, [0])):
            pass


async def test_context_and_current_scope() -> None:
    """A9: jobs see the caller's variables and the scope; what they set is seen by nobody else."""
    VAR.set("caller")

    async def job(n: int) -> tuple[str, str]:
        before = VAR.get()
        VAR.set(f"job {n}")
        await checkpoint()
        return before, current_scope().path

    async with scope(name="app") as s, scope(name="inner") as inner:
        async with s.as_completed(each(job, range(4)), concurrency=2) as results:
            assert [result for _, result in await collect(results)] == [Ok(("caller", "app"))] * 4
        assert current_scope() is inner
    assert VAR.get() == "caller"


async def test_a_closing_scope_waits_for_a_foreign_block() -> None:
    """S2: a scope does not run its clean-ups while a foreign task is inside a block of it."""
    log: list[str] = []
    entered = anyio.Event()

    async def foreign() -> None:
        async with s.as_completed(each(nap, [0.005])) as results:
            entered.set()
            log.extend(str(index) for index, _ in await collect(results))

    async with anyio.create_task_group() as tg, scope() as s:
        s.on_exit(log.append, "clean-up")
        tg.start_soon(foreign)
        await entered.wait()
    assert log == ["0", "clean-up"]


async def test_blocks_in_blocks() -> None:
    """A5: two blocks of one scope, one in the other, left by a break of the outer loop."""
    gauge = Gauge()
    async with scope() as s:
        async with s.as_completed([gauge.work, functools.partial(gauge.work, 5)]) as outer:
            async for _ in outer:
                async with s.as_completed([gauge.work, functools.partial(gauge.work, 5)]) as inner:
                    async for _ in inner:
                        break
                break
        gauge.check()
        assert not s.cancelled


async def test_its_repr() -> None:
    """S13: one line with state and counts, and no value."""
    async with scope() as s:
        call = s.as_completed(each(nap, [0.001, 0.001]))
        assert repr(call) == "<AsCompleted new, 0 taken, 0 ready>"
        async with call as results:
            assert "running" in repr(results)
            await collect(results)
            assert repr(results) == "<AsCompleted ended, 2 taken, 0 ready>"
