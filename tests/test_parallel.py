"""`parallel`, `parallel_aggregate` and `each`: every success and every error, in input order (A1-A4, A7-A11)."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import itertools
import pickle
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import (
    Aggregate,
    Completed,
    Err,
    Failed,
    Hooks,
    Ok,
    Progress,
    Result,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    TaskCancelled,
    TaskEnded,
    TaskStarted,
    TaskTimeout,
    current_scope,
    each,
    scope,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

BOTH = ["parallel", "parallel_aggregate"]
VAR: ContextVar[str] = ContextVar("VAR", default="unset")


class Gauge:
    """Counts how many jobs are inside, and what became of them."""

    def __init__(self) -> None:
        self.inside = self.most = self.begun = self.ended = 0
        self.order: list[Any] = []

    async def work(self, item: Any, seconds: float = 0.0) -> Any:
        self.begun += 1
        self.order.append(item)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await anyio.sleep(seconds)
        finally:
            self.inside -= 1
            self.ended += 1
        return item


async def value_of(item: Any) -> Any:
    """Suspend once, then return the item."""
    await checkpoint()
    return item


async def at_once(item: Any) -> Any:
    """Return the item without suspending."""
    return item


async def fail(error: BaseException) -> None:
    """Suspend once, then raise."""
    await checkpoint()
    raise error


async def nap(seconds: float) -> float:
    """Sleep, and return how long."""
    await anyio.sleep(seconds)
    return seconds


async def results_of(call: Awaitable[Any]) -> list[Result[Any]]:
    """The results of either form of the call, as a list."""
    found = await call
    return list(found.results) if isinstance(found, Aggregate) else found


def errors_of(results: list[Result[Any]]) -> list[Exception | None]:
    """The errors, in order."""
    return [result.pair()[0] for result in results]


# ------------------------------------------------------------------ A1: order, empty inputs, kinds of input
async def test_results_are_in_input_order() -> None:
    """A1, case 83: jobs that end in reverse order give results in input order."""
    async with scope() as s:
        assert await s.parallel(each(nap, [0.012, 0.006, 0.0])) == [Ok(0.012), Ok(0.006), Ok(0.0)]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "empty",
    [list, tuple, lambda: iter(()), lambda: (job for job in ()), lambda: each(at_once, [])],
    ids=["list", "tuple", "iterator", "generator", "each"],
)
@pytest.mark.parametrize(
    "options", [{}, {"concurrency": 3, "fail_fast": True}, {"timeout": 1, "job_timeout": 1}], ids=str
)
async def test_no_jobs_give_no_results(name: str, empty: Callable[[], Any], options: dict[str, Any]) -> None:
    """A1, case 84: an empty input of any kind gives an empty result at once."""
    async with scope() as s:
        assert await results_of(getattr(s, name)(empty(), **options)) == []


async def test_an_empty_aggregate_is_complete() -> None:
    """A2, case 84: of no jobs, all have completed, and there is nothing to raise."""
    async with scope() as s:
        report = await s.parallel_aggregate([])
    assert (report.completed, report.errors, report.values, report.results) == ((), (), [], ())
    assert report.all_completed
    assert not report.timed_out
    report.raise_errors()


async def test_one_job_and_a_large_limit() -> None:
    """Case 85: a limit beyond the number of jobs is no obstacle."""
    async with scope() as s:
        assert await s.parallel([functools.partial(value_of, 1)], concurrency=1000) == [Ok(1)]


@pytest.mark.parametrize(
    "form", [list, tuple, iter, lambda jobs: (job for job in jobs), set], ids=["list", "tuple", "iter", "gen", "set"]
)
async def test_any_iterable_will_do(form: Callable[[Any], Any]) -> None:
    """A1: a list, tuple, iterator, generator or set of jobs."""
    jobs = [functools.partial(value_of, n) for n in range(5)]
    async with scope() as s:
        assert sorted(result.unwrap() for result in await s.parallel(form(jobs))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [None, 0, "", False, [], ValueError("an object"), Ok(1), Err(ValueError())], ids=repr)
async def test_whatever_is_returned_is_a_success(value: object) -> None:
    """A2: a job that returns something falsy, an exception object or a Result has completed with it."""
    async with scope() as s:
        report = await s.parallel_aggregate([functools.partial(value_of, value), functools.partial(at_once, value)])
    assert report.all_completed
    assert [result.pair() for result in report.results] == [(None, value), (None, value)]


# ------------------------------------------------------------------ the limit
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 7, 50, 99])
async def test_the_limit_holds_at_every_moment(limit: int | None) -> None:
    """A7, case 87: never more than the limit inside, and the limit is reached; without one all run at once."""
    gauge, full = Gauge(), anyio.Event()

    async def job(n: int) -> int:
        if gauge.inside + 1 == min(limit or 50, 50):
            full.set()
        if not full.is_set():
            await gauge.work(n, 0.0)
            gauge.inside += 1  # stay inside until the limit has been reached
            with anyio.fail_after(5):
                await full.wait()
            gauge.inside -= 1
            return n
        found: int = await gauge.work(n, (n % 3) / 2000)
        return found

    async with scope() as s:
        results = await s.parallel(each(job, range(50)), concurrency=limit)
    assert results == [Ok(n) for n in range(50)]
    assert gauge.most == min(limit or 50, 50)
    assert gauge.order == list(range(50))


async def test_the_limit_of_the_scope_is_the_default() -> None:
    """T8: `scope(concurrency=n)` is also the default of the parallel family, and an own limit overrides it."""
    by_scope, by_call = Gauge(), Gauge()
    async with scope(concurrency=2) as s:
        await s.parallel([functools.partial(by_scope.work, n, 0.001) for n in range(10)])
        await s.parallel([functools.partial(by_call.work, n, 0.001) for n in range(10)], concurrency=5)
    assert (by_scope.most, by_call.most) == (2, 5)


async def test_jobs_start_in_order_whatever_the_limit() -> None:
    """A7: jobs start in input order, failing, trivial and slow ones mixed."""
    started: list[int] = []

    async def job(n: int) -> None:
        started.append(n)
        if n % 4 == 0:
            return
        await anyio.sleep((n * 7 % 5) / 2000)
        if n % 3 == 0:
            raise ValueError(n)

    for limit in (None, 1, 2, 5, 13):
        started.clear()
        async with scope() as s:
            await s.parallel(each(job, range(40)), concurrency=limit)
        assert started == list(range(40)), limit


# ------------------------------------------------------------------ lazy inputs
async def test_an_endless_generator_is_read_as_the_work_is_done() -> None:
    """A7: of an endless generator with `concurrency=10`, at most ten jobs are in hand at any moment."""
    taken = finished = 0
    most = 0

    async def job() -> None:
        nonlocal finished
        await anyio.sleep(0.001)
        finished += 1
        if finished == 100:
            raise ValueError("enough")

    def jobs() -> Iterator[Callable[[], Any]]:
        nonlocal taken, most
        while True:
            taken += 1
            most = max(most, taken - finished)
            yield job

    async with scope() as s:
        results = await s.parallel(jobs(), concurrency=10, fail_fast=True)
    assert most <= 10
    assert len(results) == taken
    assert [str(e) for e in errors_of(results) if e and not isinstance(e, TaskCancelled)] == ["enough"]


async def test_an_endless_generator_of_jobs_that_never_suspend() -> None:
    """A7, case 90: an endless input with `fail_fast` ends at the first error, also if nothing ever suspends."""

    async def job(n: int) -> int:
        if n == 3:
            raise ValueError("third")
        return n

    async with scope() as s:
        results = await s.parallel(each(job, itertools.count()), concurrency=2, fail_fast=True)
    assert results[:3] == [Ok(0), Ok(1), Ok(2)]
    assert isinstance(errors_of(results)[3], ValueError)
    assert all(isinstance(error, TaskCancelled) for error in errors_of(results)[4:])


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_a_generator_that_raises_midway(name: str, limit: int | None) -> None:
    """A7, case 89: started jobs are cancelled and have ended, and the generator's own error leaves bare."""
    gauge = Gauge()
    error = LookupError("no more")

    def jobs() -> Iterator[Callable[[], Any]]:
        yield functools.partial(gauge.work, 0, 1.0 if limit is None or limit > 2 else 0.001)
        yield functools.partial(gauge.work, 1, 1.0 if limit is None or limit > 2 else 0.001)
        raise error

    async with scope() as s:
        with anyio.fail_after(0.5), pytest.raises(LookupError) as caught:
            await getattr(s, name)(jobs(), concurrency=limit)
        assert caught.value is error
        assert gauge.inside == 0
        assert gauge.begun == gauge.ended == 2
        assert not s.cancelled


async def test_a_generator_that_raises_at_once() -> None:
    """A7: an error before the first job leaves bare."""

    def jobs() -> Iterator[Callable[[], Any]]:
        raise LookupError("none")
        yield

    async with scope() as s:
        with pytest.raises(LookupError, match="none"):
            await s.parallel(jobs())


class Watched:
    """A generator of jobs that knows whether it was closed."""

    def __init__(self, *jobs: Callable[[], Any]) -> None:
        self.closed = False
        self.jobs = self._jobs(jobs)

    def _jobs(self, jobs: tuple[Callable[[], Any], ...]) -> Iterator[Callable[[], Any]]:
        try:
            yield from itertools.cycle(jobs)
        finally:
            self.closed = True


async def test_a_generator_is_closed_on_every_way_out() -> None:
    """A7: fail-fast, time-out, an error of `on_progress`, a cancellation and a wrong job all close the generator."""

    def refuse(progress: Progress) -> None:
        raise KeyError(progress.done)

    async with scope() as s:
        failing = Watched(functools.partial(fail, ValueError()))
        await s.parallel(failing.jobs, concurrency=2, fail_fast=True)
        slow = Watched(functools.partial(nap, 1))
        await s.parallel(slow.jobs, concurrency=2, timeout=0.005)
        telling = Watched(functools.partial(value_of, 1))
        with pytest.raises(KeyError):
            await s.parallel(telling.jobs, concurrency=2, on_progress=refuse)
        wrong = Watched(functools.partial(value_of, 1), 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await s.parallel(wrong.jobs, concurrency=2)
        cut = Watched(functools.partial(nap, 1))
        with anyio.move_on_after(0.005):
            await s.parallel(cut.jobs, concurrency=2)
        # As cheap as it gets: what `cut` holds is only closed here, not by the garbage collector.
        assert [w.closed for w in (failing, slow, telling, wrong, cut)] == [True] * 5


async def test_a_generator_that_cleans_up_with_an_error() -> None:
    """A7: an error that the generator raises when it is closed is not lost."""

    def jobs() -> Iterator[Callable[[], Any]]:
        try:
            while True:
                yield functools.partial(fail, ValueError("job"))
        finally:
            raise LookupError("at the close")

    async with scope() as s:
        with pytest.raises(LookupError, match="at the close"):
            await s.parallel(jobs(), concurrency=2, fail_fast=True)


async def test_a_generator_that_calls_back_into_the_scope() -> None:
    """Case 92: a generator may start tasks of the scope, and look at the current scope."""
    async with scope(name="app") as s:
        tasks = []

        def jobs() -> Iterator[Callable[[], Any]]:
            for n in range(4):
                tasks.append(s.task(value_of, n))
                assert current_scope() is s
                yield tasks[-1].unwrap

        assert await s.parallel(jobs(), concurrency=2) == [Ok(0), Ok(1), Ok(2), Ok(3)]


async def test_a_generator_that_cancels_the_scope() -> None:
    """A10: a generator that cancels the scope ends the call, and no further job begins."""
    begun: list[int] = []

    async def job(n: int) -> None:
        begun.append(n)
        await anyio.sleep(1)

    async with scope() as s:

        def jobs() -> Iterator[Callable[[], Any]]:
            yield functools.partial(job, 0)
            s.cancel("enough")
            for n in range(1, 1000):
                yield functools.partial(job, n)

        await s.parallel(jobs())
        pytest.fail("went on")
    assert len(begun) < 5  # whoever had been hired by then may reach its first checkpoint


@pytest.mark.parametrize("how", ["by a job", "before"])
async def test_cancelled_jobs_do_not_begin(how: str) -> None:
    """A10: what has not begun when the cancellation comes does not begin, though nobody suspended since."""
    begun: list[int] = []

    async def job(n: int) -> None:
        begun.append(n)
        if n == 0:
            s.cancel("enough")
        await anyio.sleep(1)

    async with scope() as s:
        if how == "before":
            s.cancel("before")
        await s.parallel(each(job, range(1000)))
    assert len(begun) < 5


async def test_a_fatal_error_of_a_generator_leaves_bare() -> None:
    """S15: a KeyboardInterrupt that a generator of jobs raises ends the call as itself, after the jobs."""
    gauge = Gauge()

    def jobs() -> Iterator[Callable[[], Any]]:
        yield functools.partial(gauge.work, 0, 1)
        raise KeyboardInterrupt

    async with scope() as s:
        with pytest.raises(KeyboardInterrupt):
            await s.parallel(jobs())
        assert gauge.inside == 0


# ------------------------------------------------------------------ async sources
class Source:
    """An async source that knows the task of its first step and of its end, and can hold a cancel scope."""

    def __init__(
        self,
        jobs: Any,
        *,
        delay: float = 0.0,
        error: Exception | None = None,
        clean_up: float = 0.0,
        scoped: bool = False,
    ) -> None:
        self.jobs, self.delay, self.error, self.clean_up, self.scoped = jobs, delay, error, clean_up, scoped
        self.first_task = self.last_task = 0
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        self.first_task = anyio.get_current_task().id
        try:
            # Leaving the scope in another task than it was entered in, or inside a newer one, raises.
            with anyio.CancelScope() if self.scoped else contextlib.nullcontext():
                for job in self.jobs:
                    if self.delay:
                        await anyio.sleep(self.delay)
                    self.taken += 1
                    yield job
                if self.error is not None:
                    raise self.error
        finally:
            self.last_task = anyio.get_current_task().id
            if self.clean_up:
                await anyio.sleep(self.clean_up)
            self.closed = True

    def check(self) -> None:
        assert self.closed
        assert self.first_task == self.last_task != 0


@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("delay", [0.0, 0.001])
async def test_an_async_source(limit: int | None, delay: float) -> None:
    """Case 91: an async source, fast or slower than the jobs; results are in order."""
    gauge = Gauge()
    source = Source([functools.partial(gauge.work, n, 0.0005) for n in range(8)], delay=delay)
    async with scope() as s:
        results = await s.parallel(source, concurrency=limit)
        source.check()
    assert results == [Ok(n) for n in range(8)]
    assert gauge.order == list(range(8))
    assert limit is None or gauge.most <= limit


async def test_an_endless_async_source_is_read_lazily() -> None:
    """A7, case 88: of an endless async source with `concurrency=10`, at most ten jobs are in hand."""
    gauge = Gauge()
    most = 0

    async def job() -> None:
        nonlocal most
        most = max(most, source.taken - gauge.ended)
        await gauge.work(0, 0.0005)
        if gauge.ended >= 60:
            raise ValueError("enough")

    source = Source(itertools.repeat(job))
    async with scope() as s:
        await s.parallel(source, concurrency=10, fail_fast=True)
        source.check()
    assert gauge.most <= 10
    assert most <= 10
    assert gauge.inside == 0


@pytest.mark.parametrize("delay", [0.0, 0.001])
async def test_an_async_source_that_raises_midway(delay: float) -> None:
    """A7, case 91: the error of an async source leaves bare, after the started jobs have been cancelled and ended."""
    gauge = Gauge()
    error = LookupError("gone")
    source = Source([functools.partial(gauge.work, n, 1) for n in range(2)], delay=delay, error=error)
    async with scope() as s:
        with pytest.raises(LookupError) as caught:
            await s.parallel(source)
        assert caught.value is error
        assert gauge.inside == 0
        assert gauge.begun == gauge.ended
        source.check()


@pytest.mark.parametrize("scoped", [False, True])
async def test_an_async_source_is_closed_on_every_way_out(scoped: bool) -> None:
    """Case 91: every way out closes an async source, in the task of its first step, shielded."""

    def refuse(progress: Progress) -> None:
        raise KeyError(progress.done)

    sources: list[Source] = []

    def endless(job: Any) -> Source:
        sources.append(Source(itertools.repeat(job), clean_up=0.001, scoped=scoped))
        return sources[-1]

    async with scope() as s:
        await s.parallel(endless(functools.partial(fail, ValueError())), concurrency=2, fail_fast=True)
        await s.parallel(endless(functools.partial(nap, 1)), concurrency=2, timeout=0.005)
        with pytest.raises(KeyError):
            await s.parallel(endless(functools.partial(value_of, 1)), concurrency=2, on_progress=refuse)
        with pytest.raises(TypeError):
            await s.parallel(endless(3), concurrency=2)
        with anyio.move_on_after(0.005):
            await s.parallel(endless(functools.partial(nap, 1)), concurrency=2)
        with pytest.raises(KeyboardInterrupt):
            await s.parallel(endless(functools.partial(fail, KeyboardInterrupt())), concurrency=2)
        async with s.as_completed(endless(functools.partial(value_of, 1)), concurrency=2) as found:
            async for _ in found:
                break
        for source in sources:
            source.check()
    assert len(sources) == 7


async def test_an_async_source_that_fails_at_its_close() -> None:
    """A7: an error that an async source raises when it is closed leaves bare, as that of a generator does."""

    async def jobs() -> AsyncIterator[Any]:
        try:
            while True:
                yield functools.partial(fail, ValueError("job"))
        finally:
            raise LookupError("at the close")

    async with scope() as s:
        with pytest.raises(LookupError, match="at the close"):
            await s.parallel(jobs(), concurrency=2, fail_fast=True)


async def test_an_async_source_that_never_yields() -> None:
    """A4: the time-out and a cancellation reach a source that hangs."""

    async def hang() -> AsyncIterator[Any]:
        await anyio.sleep_forever()
        yield value_of

    async with scope() as s:
        assert await s.parallel(hang(), timeout=0.005) == []
        with anyio.move_on_after(0.005) as cut:
            await s.parallel(hang())
        assert cut.cancelled_caught


async def test_each_over_an_async_iterable() -> None:
    """`each(fn, async_items)` makes jobs of items that arrive over time, and closes them."""
    closed = False

    async def items() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for n in range(5):
                await checkpoint()
                yield n
        finally:
            closed = True

    async with scope() as s:
        assert await s.parallel(each(value_of, items()), concurrency=2) == [Ok(n) for n in range(5)]
    assert closed


async def test_an_async_source_that_never_suspends_does_not_starve_the_loop() -> None:
    """A7: jobs of a fast async source run while it is read, without a limit too, as a time-out does."""
    begun = 0

    async def job() -> None:
        nonlocal begun
        begun += 1
        if begun == 10:
            raise ValueError("enough")

    async def jobs() -> AsyncIterator[Any]:
        for _ in range(5000):
            yield job

    async with scope() as s:
        assert len(await s.parallel(jobs(), fail_fast=True)) < 5000


# ------------------------------------------------------------------ A3: fail-fast
@pytest.mark.parametrize("limit", [None, 2])
async def test_fail_fast(limit: int | None) -> None:
    """A3, case 93: the first error cancels the rest, which is told apart; what had finished is kept."""
    gauge, cleaned = Gauge(), 0

    async def clean() -> None:
        nonlocal cleaned
        try:
            await gauge.work(2, 1)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.002)
            cleaned += 1

    async def late_fail() -> None:
        await anyio.sleep(0.004)
        raise ValueError("boom")

    async with scope(name="app") as s:
        results = await s.parallel(
            [functools.partial(value_of, 0), late_fail, clean, clean, clean], concurrency=limit, fail_fast=True
        )
        assert gauge.inside == 0
    first, second, *rest = errors_of(results)
    assert first is None
    assert isinstance(second, ValueError)
    assert cleaned == gauge.begun == (1 if limit else 3)
    assert all(isinstance(error, TaskCancelled) and "job 1" in str(error.reason) for error in rest)
    assert len(rest) == 3


async def test_without_fail_fast_all_run_to_their_end() -> None:
    """Case 94: one error in its place, and every other job finishes."""
    async with scope() as s:
        results = await s.parallel(
            [functools.partial(nap, 0.002), functools.partial(fail, ValueError()), functools.partial(nap, 0.001)]
        )
    assert [bool(result) for result in results] == [True, False, True]


async def test_fail_fast_of_two_failures_in_the_same_tick() -> None:
    """A3: whoever fails besides the first one keeps its own error or is cancelled, and nothing is lost."""
    async with scope() as s:
        results = await s.parallel([functools.partial(fail, ValueError(n)) for n in range(5)], fail_fast=True)
    assert str(errors_of(results)[0]) == "0"
    assert all(isinstance(error, (ValueError, TaskCancelled)) for error in errors_of(results))


# ------------------------------------------------------------------ A4: time-outs
@pytest.mark.virtual_time
@pytest.mark.parametrize("name", BOTH)
async def test_a_timeout_keeps_what_has_finished(name: str) -> None:
    """A4, case 95: 4 of 10 done are kept, the others are `Err(TaskTimeout)`, and nothing is running."""
    gauge = Gauge()
    async with scope() as s:
        jobs = [functools.partial(gauge.work, n, n) for n in range(10)]
        results = await results_of(getattr(s, name)(jobs, timeout=3.5))
        assert gauge.inside == 0
    assert results[:4] == [Ok(0), Ok(1), Ok(2), Ok(3)]
    assert all(isinstance(error, TaskTimeout) and error.limit == 3.5 for error in errors_of(results)[4:])
    assert len(results) == 10


@pytest.mark.virtual_time
async def test_timed_out_is_told() -> None:
    """A2, A4: `timed_out` is true exactly where the call's time-out cut something off."""
    async with scope() as s:
        assert (await s.parallel_aggregate(each(nap, [1, 9]), timeout=5)).timed_out
        assert not (await s.parallel_aggregate(each(nap, [1, 2]), timeout=5)).timed_out
        own = await s.parallel_aggregate([functools.partial(fail, TimeoutError("own"))], timeout=5)
        assert not own.timed_out
        single = await s.parallel_aggregate(each(nap, [1, 9]), job_timeout=5)
        assert not single.timed_out
        assert isinstance(single.errors[0].error, TaskTimeout)


@pytest.mark.virtual_time
async def test_a_job_timeout_counts_from_the_start_of_the_job() -> None:
    """A4, case 54: `job_timeout` bounds each job from its start, not while it waits for a place."""
    async with scope() as s:
        results = await s.parallel(each(nap, [1, 1, 1, 3, 1]), concurrency=1, job_timeout=2)
        assert anyio.current_time() == pytest.approx(6)
    assert [bool(result) for result in results] == [True, True, True, False, True]
    error = results[3].pair()[0]
    assert isinstance(error, TaskTimeout)
    assert error.limit == 2


async def test_a_job_that_survives_its_timeout() -> None:
    """A4: a time-out that a job catches and returns from gives `Ok`, as it does for tasks (T7)."""

    async def stubborn() -> str:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            return "survived"
        return "slept"

    async with scope() as s:
        assert [bool(r) for r in await s.parallel([stubborn], job_timeout=0.005)] in ([True], [False])


# ------------------------------------------------------------------ A8: progress
@pytest.mark.virtual_time
@pytest.mark.parametrize("known", [True, False])
async def test_progress_is_live(known: bool) -> None:
    """A8, case 98: once per finished job, at the moment it finishes, with total where it is known; none afterwards."""
    seen: list[tuple[Progress, float]] = []

    async def job(seconds: float) -> None:
        await anyio.sleep(seconds)
        if seconds == 2:
            raise ValueError

    items: Any = [3, 1, 2]
    async with scope() as s:
        await anyio.sleep(10)
        await s.parallel(
            each(job, items if known else iter(items)), on_progress=lambda p: seen.append((p, anyio.current_time()))
        )
        count = len(seen)
        await anyio.sleep(10)
    total = 3 if known else None
    assert count == len(seen) == 3
    assert [(p.done, p.failed, p.total) for p, _ in seen] == [(1, 0, total), (2, 1, total), (3, 1, total)]
    assert [p.elapsed for p, _ in seen] == pytest.approx([1, 2, 3], abs=1e-3)
    assert [now for _, now in seen] == pytest.approx([11, 12, 13], abs=1e-3)


async def test_progress_that_raises_ends_the_call() -> None:
    """A8, case 98: what `on_progress` raises leaves bare, after the jobs have been cancelled and have ended."""
    gauge = Gauge()
    error = KeyError("display")

    def refuse(progress: Progress) -> None:
        raise error

    async with scope() as s:
        with pytest.raises(KeyError) as caught:
            await s.parallel([functools.partial(gauge.work, n, n) for n in range(3)], on_progress=refuse)
        assert caught.value is error
        assert gauge.inside == 0


async def test_progress_is_not_told_of_jobs_that_were_cut_off() -> None:
    """A8: at most once for each job, and never more than there are, when fail-fast cuts the others off."""
    seen: list[int] = []
    async with scope() as s:
        jobs: list[Any] = [functools.partial(fail, ValueError()), *[functools.partial(nap, 1)] * 3]
        await s.parallel(jobs, fail_fast=True, on_progress=lambda p: seen.append(p.done))
        assert seen == list(range(1, len(seen) + 1))
        assert 1 <= len(seen) <= 4


# ------------------------------------------------------------------ A9: context and hooks
@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("options", [{}, {"job_timeout": 5}])
@pytest.mark.parametrize("is_async", [False, True])
async def test_context_variables_are_isolated(limit: int | None, options: dict[str, Any], is_async: bool) -> None:
    """A9: what a job sets is seen by that job alone, also after it suspended, failed or never suspended."""
    VAR.set("caller")

    async def job(n: int) -> str:
        before = VAR.get()
        VAR.set(f"job {n}")
        if n % 3:
            await anyio.sleep(0.0005 * (n % 4))
        assert VAR.get() == f"job {n}"
        if n % 5 == 4:
            raise ValueError(n)
        return before

    jobs = [functools.partial(job, n) for n in range(20)]
    async with scope() as s:
        results = await s.parallel(Source(jobs) if is_async else jobs, concurrency=limit, **options)
    assert {result.unwrap() for result in results if result} == {"caller"}
    assert [str(error) for error in errors_of(results) if error] == ["4", "9", "14", "19"]
    assert VAR.get() == "caller"


async def test_context_of_cancelled_jobs() -> None:
    """A9: a job sees its own variables while it is being cancelled, and the caller never does."""
    seen: list[str] = []

    async def job(n: int) -> None:
        VAR.set(f"job {n}")
        try:
            await anyio.sleep(1)
        finally:
            seen.append(VAR.get())

    VAR.set("caller")
    async with scope() as s:
        with anyio.move_on_after(0.005):
            await s.parallel(each(job, range(3)))
        assert sorted(seen) == ["job 0", "job 1", "job 2"]
        assert VAR.get() == "caller"


async def test_hooks_fire_for_jobs() -> None:
    """A9: one start and one end for each job, inside it, with kind `job` and its outcome."""
    started: list[TaskStarted] = []
    ended: list[TaskEnded] = []

    class Recorder(Hooks):
        def task_started(self, event: TaskStarted) -> None:
            started.append(event)

        def task_ended(self, event: TaskEnded) -> None:
            ended.append(event)

    simple: list[tuple[Any, ...]] = []
    hooks = Hooks(
        before_task=lambda *a: simple.append(("before", *a)), after_task=lambda *a: simple.append(("after", *a))
    )
    async with scope(hooks=[Recorder(), hooks]) as s:
        await s.parallel([functools.partial(value_of, 1), functools.partial(fail, ValueError("x"))])
    assert [entry[0] for entry in simple].count("before") == 2
    assert [entry[0] for entry in simple].count("after") == 2
    assert sorted(type(entry[-1]).__name__ for entry in simple if entry[0] == "after") == ["NoneType", "ValueError"]
    if started:  # the richer layer, where its methods have these names
        assert [event.kind for event in started] == ["job", "job"]
        assert sorted(event.outcome for event in ended) == ["error", "ok"]


async def test_current_scope_in_jobs() -> None:
    """S11: a job sees the scope it was called on, whoever the caller is, also inside a nested scope."""

    async def where(_: int) -> str:
        await checkpoint()
        return current_scope().path

    async with scope(name="app") as s:
        async with scope(name="inner") as inner:
            assert await s.parallel(each(where, range(3))) == [Ok("app")] * 3
            assert await inner.parallel(each(where, range(3))) == [Ok("app > inner")] * 3
            assert current_scope() is inner
        assert current_scope() is s


# ------------------------------------------------------------------ A10: cancellation
async def test_a_job_cancels_the_scope() -> None:
    """A10: a job that cancels the scope ends the call; all jobs end, and no partial result is invented."""
    gauge = Gauge()

    async def cancel() -> None:
        await checkpoint()
        s.cancel("by a job")

    async with scope() as s:
        await s.parallel([functools.partial(gauge.work, 0, 1), cancel, functools.partial(gauge.work, 1, 1)])
        pytest.fail("went on")
    assert gauge.inside == 0
    assert s.cancel_reason == "by a job"


@pytest.mark.parametrize("limit", [None, 2])
async def test_cancelled_from_outside(limit: int | None) -> None:
    """A10, case 96: jobs are cancelled and waited for, clean-up included, and nothing of theirs runs afterwards."""
    log: list[str] = []

    async def job() -> None:
        try:
            await anyio.sleep(30)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.003)
                log.append("cleaned")

    async with scope() as s:
        with anyio.move_on_after(0.05) as cut:
            await s.parallel([job] * 5, concurrency=limit)
        assert cut.cancelled_caught
        assert log == ["cleaned"] * (limit or 5)
        await anyio.sleep(0.005)
        assert len(log) == (limit or 5)


@pytest.mark.parametrize("name", BOTH)
async def test_a_foreign_caller_is_told(name: str) -> None:
    """A10: a task that the scope does not own gets `ScopeCancelled` and lives on."""
    gauge = Gauge()
    outcome: list[object] = []

    async def foreign() -> None:
        try:
            await getattr(s, name)([functools.partial(gauge.work, 0, 1)] * 3)
        except ScopeCancelled as error:
            outcome.append(error)
            assert gauge.inside == 0
        await checkpoint()
        outcome.append("lives")

    async with anyio.create_task_group() as tg, scope(name="app") as s:
        tg.start_soon(foreign)
        await anyio.sleep(0.003)
        s.cancel("why")
        await anyio.sleep(1)
    error, last = outcome
    assert isinstance(error, ScopeCancelled)
    assert (error.path, error.reason, last) == ("app", "why", "lives")


@pytest.mark.parametrize("name", ["parallel", "race", "as_completed"])
async def test_a_foreign_caller_is_served(name: str) -> None:
    """A10: a task that the scope does not own gets its results as everybody else, and disturbs nothing."""
    outcome: list[object] = []

    async def foreign() -> None:
        if name == "as_completed":
            async with s.as_completed(each(value_of, [7])) as results:
                outcome.extend([pair async for pair in results])
        else:
            outcome.append(await getattr(s, name)(each(value_of, [7])))

    async with anyio.create_task_group() as tg, scope() as s:
        tg.start_soon(foreign)
        await anyio.sleep(0.005)
        assert not s.cancelled
    assert outcome == [{"parallel": [Ok(7)], "race": Ok(7), "as_completed": (0, Ok(7))}[name]]


async def test_a_closing_scope_waits_for_a_foreign_call() -> None:
    """S2: a scope does not close while a foreign task has a call on it, and clean-ups run after the jobs."""
    log: list[str] = []

    async def job() -> None:
        await anyio.sleep(0.005)
        log.append("job")

    async def foreign() -> None:
        log.append(str(await s.parallel([job])))

    async with anyio.create_task_group() as tg, scope() as s:
        s.on_exit(log.append, "clean-up")
        tg.start_soon(foreign)
        await anyio.sleep(0.001)
    assert log.index("job") < log.index("clean-up")
    assert "[Ok(value=None)]" in log


async def test_a_keyboard_interrupt_in_a_job_leaves_bare() -> None:
    """S15: a KeyboardInterrupt of a job ends the call as itself, never as a value, after the other jobs."""
    gauge = Gauge()
    interrupt = KeyboardInterrupt()
    for options in ({}, {"job_timeout": 5}, {"timeout": 5}):
        async with scope() as s:
            with pytest.raises(KeyboardInterrupt) as caught:
                await s.parallel([functools.partial(gauge.work, 0, 1), functools.partial(fail, interrupt)], **options)  # type: ignore[arg-type]
            assert caught.value is interrupt
            assert gauge.inside == 0


async def test_jobs_that_never_suspend_do_not_starve_the_loop() -> None:
    """Case 101: a timer task gets its turn, and cancels a call whose jobs never suspend."""
    done = 0

    async def job() -> None:
        nonlocal done
        done += 1

    def jobs() -> Iterator[Callable[[], Any]]:
        for _ in range(2_000_000):
            yield job

    async with scope() as s:

        async def timer() -> None:
            for _ in range(5):
                await checkpoint()
            s.cancel("timer")

        s.task(timer)
        await s.parallel(jobs(), concurrency=2)
    assert s.cancel_reason == "timer"
    assert done < 2_000_000


@pytest.mark.parametrize("name", BOTH)
async def test_use_after_close(name: str) -> None:
    """S12: a call on a closed or unopened scope is refused, and no job is run."""
    ran: list[int] = []

    async def job() -> None:
        ran.append(1)

    s = scope()
    with pytest.raises(ScopeMisuse):
        await getattr(s, name)([job])
    async with s:
        pass
    with pytest.raises(ScopeClosed):
        await getattr(s, name)([job])
    assert ran == []


# ------------------------------------------------------------------ S12: what is refused
@pytest.mark.parametrize("name", [*BOTH, "as_completed"])
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3", float("nan")], ids=repr)
async def test_wrong_limits(name: str, limit: Any) -> None:
    """S12, case 86: a wrong limit is refused before anything starts."""
    ran: list[int] = []

    async def job() -> None:
        ran.append(1)

    async with scope() as s:
        with pytest.raises((ValueError, TypeError), match="concurrency"):
            call = getattr(s, name)([job], concurrency=limit)
            await call
        await checkpoint()
    assert ran == []


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"timeout": True},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"job_timeout": -1},
        {"fail_fast": 1},
        {"on_progress": 3},
    ],
    ids=repr,
)
async def test_wrong_options(name: str, options: dict[str, Any]) -> None:
    """S12: wrong options are refused, the message names the option."""
    async with scope() as s:
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            await getattr(s, name)([functools.partial(value_of, 1)], **options)


@pytest.mark.parametrize("name", [*BOTH, "race", "any"])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_wrong_jobs_are_refused(name: str, place: int) -> None:
    """S12, case 104: coroutine objects, sync functions and other things are refused with nothing run and no warning."""
    ran: list[int] = []

    async def job() -> None:
        ran.append(1)

    def plain() -> None:
        ran.append(2)

    async with scope() as s:
        for make in (job, lambda: plain, lambda: 3, lambda: None):
            jobs: list[Any] = [job, job]
            jobs.insert(place, make())
            with pytest.raises(TypeError) as caught:
                await getattr(s, name)(jobs)
            assert f"s.{name}" in str(caught.value)
            del jobs, caught
            gc.collect()
        several: list[Any] = [job(), job(), job]
        with pytest.raises(TypeError):
            await getattr(s, name)(several)
        del several
        gc.collect()
        with pytest.raises(TypeError):
            await getattr(s, name)(job)
        with pytest.raises(TypeError):
            await getattr(s, name)(None)
    assert ran == []


async def test_a_coroutine_object_from_a_generator() -> None:
    """Case 104: a coroutine object that a generator gives ends the call with a TypeError, and is closed."""
    gauge = Gauge()
    async with scope() as s:
        with pytest.raises(TypeError):
            await s.parallel(job for job in [functools.partial(gauge.work, 0, 1), gauge.work(1)])  # type: ignore[misc]
        gc.collect()
    assert gauge.inside == 0


async def test_late_binding_is_told() -> None:
    """A11, case 102: lambdas over a loop variable are refused with the line to write instead."""
    ran: list[int] = []

    async def fetch(x: int) -> None:
        ran.append(x)

    async with scope() as s:
        for call in (s.parallel, s.parallel_aggregate, s.race, s.any):
            with pytest.raises(ValueError, match=r"each\(fetch, xs\)"):
                await call([lambda: fetch(x) for x in range(3)])  # noqa: B023
        with pytest.raises(ValueError, match=r"each\("):
            async with s.as_completed([lambda: fetch(x) for x in range(3)]):  # noqa: B023
                pass

        def function(y: int) -> list[Any]:
            jobs = []
            for y in range(2):

                async def job() -> None:
                    await fetch(y)  # noqa: B023

                jobs.append(job)
            return jobs

        with pytest.raises(ValueError, match=r"each\("):
            await s.parallel(function(0))
    assert ran == []


async def test_what_only_looks_like_late_binding() -> None:
    """A11: default arguments, cells of their own, and the same job several times are accepted."""

    def bound(x: int) -> Any:
        return lambda: value_of(x)

    async with scope() as s:
        assert await s.parallel([lambda x=x: value_of(x) for x in range(3)]) == [Ok(0), Ok(1), Ok(2)]
        assert await s.parallel([lambda *, x=x: value_of(x) for x in range(3)]) == [Ok(0), Ok(1), Ok(2)]
        assert await s.parallel([bound(x) for x in range(3)]) == [Ok(0), Ok(1), Ok(2)]
        assert await s.parallel([bound(7)] * 3) == [Ok(7)] * 3
        assert await s.parallel([lambda: value_of(1), lambda: value_of(1)]) == [Ok(1), Ok(1)]


# ------------------------------------------------------------------ failures
class Falsy(Exception):
    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Exception.__hash__


async def test_falsy_failures() -> None:
    """A2 (defect 26): success is told by the outcome: a falsy exception is a failure, a falsy value is not."""
    async with scope() as s:
        report = await s.parallel_aggregate(
            [functools.partial(fail, Falsy()), functools.partial(value_of, 0), functools.partial(fail, Falsy(0))]
        )
        fast = await s.parallel([functools.partial(fail, Falsy()), functools.partial(nap, 1)], fail_fast=True)
    assert [failure.index for failure in report.errors] == [0, 2]
    assert [done.index for done in report.completed] == [1]
    assert not report.all_completed
    assert isinstance(fast[1].pair()[0], TaskCancelled)
    with pytest.raises(ExceptionGroup):
        report.raise_errors()


@pytest.mark.parametrize(
    "error", [StopIteration(3), StopAsyncIteration(), GeneratorExit(), anyio.BrokenResourceError()], ids=repr
)
@pytest.mark.parametrize("early", [True, False])
async def test_control_flow_exceptions(error: BaseException, early: bool) -> None:
    """T5, case 8: StopIteration and its like are errors of the job; GeneratorExit ends the call."""

    async def job() -> None:
        if not early:
            await checkpoint()
        raise error

    async with scope() as s:
        if isinstance(error, GeneratorExit):
            with pytest.raises(GeneratorExit):
                await s.parallel([job])
            return
        found = errors_of(await s.parallel([job]))[0]
    assert type(found) is (RuntimeError if isinstance(error, StopIteration) else type(error))


async def test_the_same_exception_object_from_all_jobs() -> None:
    """Case 97: one object raised by all stands once in the group, with few notes."""
    error = ValueError("shared")

    async def job() -> None:
        raise error

    async with scope() as s:
        report = await s.parallel_aggregate([job] * 20_000, concurrency=10)
    assert len(report.errors) == 20_000
    with pytest.raises(ExceptionGroup) as caught:
        report.raise_errors()
    assert caught.value.exceptions == (error,)
    assert len(error.__notes__) == 1


async def test_a_hundred_thousand_failures() -> None:
    """Case 100: 10^5 jobs that all fail give 10^5 errors in order."""

    async def job(n: int) -> None:
        raise ValueError(n)

    async with scope() as s:
        report = await s.parallel_aggregate(each(job, range(100_000)), concurrency=10)
    assert [failure.index for failure in report.errors] == list(range(100_000))
    assert all(failure.error.args == (failure.index,) for failure in report.errors)


async def test_nested_calls() -> None:
    """T8: jobs that make calls of their own on the same scope end, at limit 1 too."""
    async with scope(concurrency=1) as s:

        async def job(n: int) -> list[Result[Any]]:
            return await s.parallel(each(value_of, range(n)))

        results = await s.parallel(each(job, range(4)))
        assert results == [Ok([Ok(k) for k in range(n)]) for n in range(4)]


async def test_jobs_that_fail_do_not_disturb_the_scope() -> None:
    """Case 30: errors in results are looked at, nothing leaves the scope."""
    async with scope() as s:
        await s.parallel([functools.partial(fail, ValueError())] * 3)
        assert not s.cancelled


# ------------------------------------------------------------------ A2: the aggregate
async def make_report() -> Aggregate[Any]:
    """Two completed, two failed (the seed's example)."""
    async with scope(name="app") as s:
        return await s.parallel_aggregate(
            [
                functools.partial(nap, 0.002),
                functools.partial(nap, 0.0),
                functools.partial(fail, KeyError("a")),
                functools.partial(fail, OSError("b")),
            ]
        )


async def test_the_aggregate() -> None:
    """A2, cases 105 and 106: both lists in index order, whatever the order of completion; an exact repr."""
    report = await make_report()
    assert report.completed == (Completed(0, 0.002), Completed(1, 0.0))
    assert [(failure.index, type(failure.error)) for failure in report.errors] == [(2, KeyError), (3, OSError)]
    assert isinstance(report.errors[0], Failed)
    assert report.values == [0.002, 0.0]
    assert not report.all_completed
    assert repr(report) == "<Aggregate of 4 jobs: 2 completed, 2 errors>"
    assert repr(Completed(0, 1)) == "Completed(index=0, value=1)"


async def test_raise_errors() -> None:
    """A2, cases 107 and 108: a group that names the scope; one note each, though called twice; `split` keeps it."""
    report = await make_report()
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as caught:
            report.raise_errors()
        assert caught.value.message == "2 of 4 jobs failed in scope app"
        assert [error.__notes__ for error in caught.value.exceptions] == [["in job 2 of app"], ["in job 3 of app"]]
        one, rest = caught.value.split(KeyError)
        assert one is not None
        assert rest is not None
        assert one.exceptions[0].__notes__ == ["in job 2 of app"]
        assert rest.exceptions[0].__notes__ == ["in job 3 of app"]


async def test_raise_errors_after_fail_fast() -> None:
    """A3: jobs that were only cancelled because another one failed are left out."""
    async with scope(name="app") as s:
        report = await s.parallel_aggregate(
            [functools.partial(nap, 1), functools.partial(fail, KeyError("a"))], fail_fast=True
        )
    assert [type(failure.error) for failure in report.errors] == [TaskCancelled, KeyError]
    with pytest.raises(ExceptionGroup) as caught:
        report.raise_errors()
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


async def test_a_group_is_one_error() -> None:
    """Case 109: a job that raises a group is one entry with the group as its error."""
    group = ExceptionGroup("inner", [ValueError(1), KeyError(2)])
    async with scope() as s:
        report = await s.parallel_aggregate([functools.partial(fail, group)])
    assert report.errors == (Failed(0, group),)


async def test_a_group_with_a_fatal_error() -> None:
    """S15: a group that holds a KeyboardInterrupt is never a value."""
    group = BaseExceptionGroup("inner", [ValueError(1), KeyboardInterrupt()])
    async with scope() as s:
        with pytest.raises(BaseException) as caught:
            await s.parallel([functools.partial(fail, group)])
    assert not isinstance(caught.value, Exception)


async def test_copies_of_an_aggregate() -> None:
    """Case 112: an aggregate pickles and copies, with its errors and its path."""
    report = await make_report()
    for again in (pickle.loads(pickle.dumps(report)), copy.copy(report), copy.deepcopy(report)):
        assert repr(again) == repr(report)
        assert again.values == report.values
        assert [(failure.index, repr(failure.error)) for failure in again.errors] == [
            (f.index, repr(f.error)) for f in report.errors
        ]
        with pytest.raises(ExceptionGroup, match="2 of 4 jobs failed in scope app"):
            again.raise_errors()


# ------------------------------------------------------------------ each()
def test_each_shows_itself() -> None:
    """`each()` shows its function and how many, never a value."""
    assert repr(each(value_of, [1, 2, 3])) == "<each value_of of 3>"
    assert repr(each(value_of, iter([1]))) == "<each value_of>"


async def test_each_can_be_used_again() -> None:
    """`each()` over a list can be used twice."""
    jobs = each(value_of, [1, 2])
    async with scope() as s:
        assert await s.parallel(jobs) == await s.parallel(jobs) == [Ok(1), Ok(2)]


@pytest.mark.parametrize(
    "wrong", [lambda: each(len, [1]), lambda: each(None, [1]), lambda: each(value_of, 3)], ids=["sync", "None", "int"]
)  # type: ignore[arg-type, call-overload]
def test_wrong_each(wrong: Callable[[], object]) -> None:
    """S12: a sync function and something that cannot be iterated over are refused at the call."""
    with pytest.raises(TypeError):
        wrong()


async def test_each_over_a_generator_that_raises() -> None:
    """A7: the items' own error leaves bare."""

    def items() -> Iterator[int]:
        yield 1
        raise LookupError("items")

    async with scope() as s:
        with pytest.raises(LookupError, match="items"):
            await s.parallel(each(value_of, items()))


async def test_each_over_a_generator_closes_it() -> None:
    """A7: a generator of items that was not read to its end is closed when the call is over."""
    closed = False

    def items() -> Iterator[int]:
        nonlocal closed
        try:
            yield from itertools.count()
        finally:
            closed = True

    held = items()
    async with scope() as s:
        await s.parallel(each(nap, held), concurrency=2, timeout=0.005)
        assert closed


@pytest.mark.parametrize("hooks", [(), Hooks()])
async def test_the_traceback_of_an_error_begins_in_the_job(hooks: Any) -> None:
    """A2: it has no frames of ours, whether the job fails when it is called, later, or not even that far."""

    def frames(result: object) -> list[str]:
        assert isinstance(result, Err)
        return [frame.name for frame in traceback.extract_tb(result.error.__traceback__)]

    async def later() -> None:
        await checkpoint()
        raise OSError

    async def of_one(_: int) -> None:
        await later()

    def early(_: int) -> Any:
        raise OSError

    async with scope(hooks=hooks) as s:
        assert [frames(r) for r in await s.parallel([later, lambda: early(1)])] == [["later"], ["<lambda>", "early"]]
        assert [frames(r) for r in await s.parallel(each(of_one, [1]))] == [["of_one", "later"]]
        wrong: Any = functools.partial(of_one, 1, 2)
        assert [frames(r) for r in await s.parallel([wrong])] == [[]]


@pytest.mark.parametrize("job_timeout", [None, 5.0])
async def test_a_job_that_gives_no_coroutine_ends_the_call(job_timeout: float | None) -> None:
    """A1: it is told which job that was and what it returned, with a limit for each job too; no job begins after it."""
    begun: list[int] = []

    async def good(item: int) -> int:
        begun.append(item)
        return item

    def bad(item: int) -> Any:
        return good(item) if item < 2 else item

    async with scope() as s:
        jobs: list[Any] = [lambda: bad(0), lambda: bad(1), lambda: bad(2), lambda: bad(3)]
        with pytest.raises(TypeError, match=r"job 2 \(.*\) is not async, it returned int, not a coroutine"):
            await s.parallel(jobs, concurrency=1, job_timeout=job_timeout)
    assert begun == [0, 1]
