"""`map` and `for_each` with several calls at once (R7, P01 to P06)."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Scope, ScopeMisuse, TaskCancelled, current_scope, scope, use
from stream_sources import Broken, Source, double_later, endless, opened, turns

VARIABLE: ContextVar[str] = ContextVar("variable", default="nothing")
each_order = pytest.mark.parametrize("ordered", [True, False])


class Calls:
    """Calls of a function that sleeps, counted.

    Args:
        seconds: How long each call takes, by item.
        errors: What the calls with some items raise.

    Attributes:
        begun: The items of the calls that have begun.
        ended: Those that have ended well.
        cut: Those that were cut off, and have ended.
        running: Those that run.
        most: How many ran at once.
    """

    def __init__(self, seconds: Callable[[int], float] = lambda _: 0.01, **errors: Exception) -> None:
        self.seconds = seconds
        self.errors = {int(name[1:]): error for name, error in errors.items()}
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cut: list[int] = []
        self.running: set[int] = set()
        self.most = 0

    async def __call__(self, item: int) -> int:
        """Sleep, then fail or give the item."""
        self.begun.append(item)
        self.running.add(item)
        self.most = max(self.most, len(self.running))
        try:
            await anyio.sleep(self.seconds(item))
            if item in self.errors:
                raise self.errors[item]
            self.ended.append(item)
            return item
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            self.cut.append(item)
            raise
        finally:
            self.running.discard(item)


# ------------------------------------------------------------------ order, limit, bound
@pytest.mark.virtual_time
async def test_p01_ordered() -> None:
    """P01, R7: in the order of the items, at most ten at once and ten where there are as many, bounded read-ahead."""
    calls, source = Calls(lambda item: (item * 7 % 13) / 100), endless()
    async with opened(source) as (_, stream), stream.map(calls, concurrency=10) as items:
        for number in range(100):
            assert await anext(items) == number
            assert source.pulls <= number + 1 + 20
    assert calls.most == 10
    assert not calls.running


@each_order
@pytest.mark.virtual_time
async def test_workers_hold_nothing_while_they_wait(ordered: bool) -> None:
    """R7: an item and its result are let go as soon as the reader has them, however long the source waits then."""

    class Thing:
        pass

    seen: list[weakref.ref[Thing]] = []

    async def source() -> AsyncIterator[Thing]:
        for _ in range(7):
            yield Thing()
        await anyio.sleep(60)

    async def call(thing: Thing) -> Thing:
        await checkpoint()
        seen.append(weakref.ref(thing))
        made = Thing()
        seen.append(weakref.ref(made))
        return made

    async with opened(source()) as (_, stream), stream.map(call, concurrency=3, ordered=ordered) as things:
        for _ in range(7):
            await anext(things)
        await turns(5)
        gc.collect()
        assert [ref() for ref in seen] == [None] * 14


@pytest.mark.virtual_time
async def test_p02_unordered() -> None:
    """P02, R7: as they are ready, each once."""
    calls = Calls({0: 0.03, 1: 0.01, 2: 0.02, 3: 0.005}.__getitem__)
    async with opened(range(4)) as (_, stream):
        assert await stream.map(calls, concurrency=3, ordered=False).collect() == [1, 3, 2, 0]
    assert calls.most == 3


@each_order
@pytest.mark.parametrize("limit", [2, 3, 7])
async def test_the_bound_holds_when_the_reader_stops(ordered: bool, limit: int) -> None:
    """R7: twice the limit, taken and not read; and it goes on from there."""
    source = endless(delay=None)
    async with opened(source) as (_, stream), stream.map(double_later, concurrency=limit, ordered=ordered) as items:
        assert await anext(items) == 0
        await turns(50)
        assert source.pulls == 1 + 2 * limit
        got = [await anext(items) for _ in range(20)]
        await turns(50)
        assert source.pulls == 21 + 2 * limit
        if ordered:
            assert got == [2 * number for number in range(1, 21)]


@pytest.mark.virtual_time
async def test_a_slow_first_call_holds_back_no_more_than_the_bound() -> None:
    """R7: results behind a slow one are held, and no more are made than the bound."""
    calls, source = Calls(lambda item: 10 if item == 0 else 0.01), endless()
    async with opened(source) as (_, stream), stream.map(calls, concurrency=3) as items:
        assert await anext(items) == 0
        assert source.pulls == 6
        assert (sorted(calls.ended), calls.ended[-1]) == ([0, 1, 2, 3, 4, 5], 0)


async def test_p06_one_at_a_time_needs_no_task() -> None:
    """P06: strictly one after the other, in the reader's own task and context."""
    tasks: set[int] = set()

    async def note(item: int) -> int:
        tasks.add(anyio.get_current_task().id)
        await checkpoint()
        return item

    for concurrency in (None, 1):
        async with opened(range(5)) as (_, stream):
            assert await stream.map(note, concurrency=concurrency).count() == 5
    assert tasks == {anyio.get_current_task().id}


async def test_no_more_workers_than_needed() -> None:
    """R7: calls that do not wait need one worker, whatever the limit."""
    tasks: set[int] = set()
    async with opened(Source(range(100), delay=None)) as (_, stream):
        await stream.map(lambda _: tasks.add(anyio.get_current_task().id), concurrency=50).drain()
    assert len(tasks) <= 4


async def test_calls_that_never_wait_let_others_run() -> None:
    """R7: neither the source nor the function has a checkpoint; still the reader, and others, come in between."""
    async with opened(endless(delay=None)) as (_, stream):
        with anyio.CancelScope() as cut:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_after, cut, 20)
                await stream.map(lambda n: n, concurrency=2).drain()
        assert cut.cancelled_caught


async def _cancel_after(cut: anyio.CancelScope, count: int) -> None:
    await turns(count)
    cut.cancel()


# ------------------------------------------------------------------ errors
@pytest.mark.virtual_time
async def test_p03_ordered_error() -> None:
    """P03, R7: those before it are given, those after it are cancelled and have ended, then it is raised bare."""
    error, source = Broken("three"), endless()
    calls = Calls(lambda item: 0.02 if item == 3 else 1.0, _3=error)
    got: list[int] = []
    async with opened(source) as (_, stream):
        with pytest.raises(Broken) as caught:
            async with stream.map(calls, concurrency=6) as items:
                async for item in items:
                    got.append(item)  # noqa: PERF401  kept when it raises
        assert caught.value is error
        assert not hasattr(error, "__notes__")
        assert got == [0, 1, 2] == sorted(calls.ended)
        assert sorted(calls.cut) == [4, 5]
        assert sorted(calls.begun) == [0, 1, 2, 3, 4, 5]
        assert source.closes == 1


@pytest.mark.virtual_time
async def test_p03_unordered_error() -> None:
    """P03, R7: those that were ready are given, all others are cancelled and have ended, then it is raised bare."""
    error, source = Broken("three"), endless()
    calls = Calls(lambda item: {1: 0.01, 3: 0.02}.get(item, 1.0), _3=error)
    got: list[int] = []
    async with opened(source) as (_, stream):
        with pytest.raises(Broken) as caught:
            async with stream.map(calls, concurrency=4, ordered=False) as items:
                async for item in items:
                    got.append(item)  # noqa: PERF401  kept when it raises
        assert caught.value is error
        assert got == [1]
        assert sorted(calls.cut) == [0, 2, 4]
        assert source.closes == 1


@pytest.mark.virtual_time
async def test_an_earlier_error_counts_when_ordered() -> None:
    """R7: the call before the one that failed may fail as well: then that is what a plain loop would have met."""
    first, second, third = Broken("one"), Broken("five"), Broken("two")
    calls = Calls(lambda item: 0.01 if item == 5 else 0.5 if item == 2 else 1.0, _1=first, _5=second, _2=third)
    got: list[int] = []
    async with opened(endless()) as (_, stream):
        with pytest.raises(Broken) as caught:
            async for item in stream.map(calls, concurrency=6):
                got.append(item)  # noqa: PERF401  kept when it raises
    assert caught.value is first
    assert got == [0]
    assert first.__notes__ == [  # type: ignore[attr-defined]
        "Broken of another call at that moment: five",
        "Broken of another call at that moment: two",
    ]


@pytest.mark.virtual_time
@each_order
async def test_p04_two_errors_at_once(ordered: bool) -> None:
    """P04, R7: one is raised, the other is a note on it."""
    errors = [Broken("zero"), Broken("one")]
    moment = anyio.Event()

    async def fail(item: int) -> None:
        await moment.wait()
        raise errors[item]

    async def come() -> None:
        await anyio.sleep(1)
        moment.set()

    async with opened(range(2)) as (s, stream):
        s.start_soon(come)
        with pytest.raises(Broken) as caught:
            await stream.map(fail, concurrency=2, ordered=ordered).drain()
    other = errors[1 - errors.index(caught.value)]
    assert caught.value.__notes__ == [f"Broken of another call at that moment: {other}"]
    assert not ordered or caught.value is errors[0]


@pytest.mark.virtual_time
async def test_the_first_error_counts_when_unordered() -> None:
    """R7: the one that came first, whatever its number."""

    async def fail(item: int) -> None:
        try:
            await anyio.sleep(0.01 if item == 1 else 10)
        finally:
            raise Broken(str(item))

    async with opened(range(2)) as (_, stream):
        with pytest.raises(Broken, match="1") as caught:
            await stream.map(fail, concurrency=2, ordered=False).drain()
        assert caught.value.__notes__ == ["Broken of another call at that moment: 0"]


@pytest.mark.virtual_time
@each_order
async def test_an_error_does_not_wait_for_the_source(ordered: bool) -> None:
    """R7: whoever waits for an item then waits no more."""
    source = Source(range(1), hangs=True)
    async with opened(source) as (_, stream):
        with anyio.fail_after(5), pytest.raises(Broken):
            await stream.map(Calls(_0=Broken()), concurrency=2, ordered=ordered).drain()
        assert source.closes == 1


@pytest.mark.virtual_time
async def test_an_error_that_answers_the_cancellation_is_a_note() -> None:
    """R7: what a cancelled call raises instead of ending does not vanish; the same object is no note on itself."""
    error = Broken("first")

    async def stubborn(item: int) -> None:
        try:
            await anyio.sleep(0.01 if item == 0 else 10)
        finally:
            if item == 1:
                raise Broken("second")
            raise error

    async with opened(range(3)) as (_, stream):
        with pytest.raises(Broken) as caught:
            await stream.map(stubborn, concurrency=3).drain()
    assert caught.value is error
    assert error.__notes__ == ["Broken of another call at that moment: second"]  # type: ignore[attr-defined]


@pytest.mark.virtual_time
@each_order
async def test_an_error_of_the_source(ordered: bool) -> None:
    """R7: the calls that run are finished first when ordered, and cut when not; then the source's error, bare."""
    error = Broken("source")
    source, calls, got = Source(range(4), error=error), Calls(lambda item: 0 if item == 1 else 1), list[int]()
    async with opened(source) as (_, stream):
        with pytest.raises(Broken) as caught:
            async for item in stream.map(calls, concurrency=8, ordered=ordered):
                got.append(item)
        assert source.closes == 1
    assert caught.value is error
    assert got == ([0, 1, 2, 3] if ordered else [1])
    assert len(calls.begun) == len(calls.ended) + len(calls.cut)


@pytest.mark.virtual_time
async def test_an_error_while_closing_with_calls_in_flight_is_not_lost() -> None:
    """R3: the reader has left; the block raises it."""

    async def stubborn(item: int) -> int:
        if item:
            try:
                await anyio.sleep(10)
            finally:
                raise Broken("in flight")
        return item

    async with opened(endless()) as (_, stream):
        with pytest.raises(Broken, match="in flight"):
            async with stream.map(stubborn, concurrency=2) as items:
                async for _ in items:
                    await anyio.sleep(1)
                    break


@pytest.mark.virtual_time
@each_order
async def test_p05_break_cuts_the_calls(ordered: bool) -> None:
    """P05: calls in flight are cancelled and have ended, the source is closed, before the block is left."""
    calls, source = Calls(lambda item: item), endless()
    async with opened(source) as (_, stream):
        async with stream.map(calls, concurrency=3, ordered=ordered) as items:
            async for _ in items:
                await anyio.sleep(0.5)
                break
        assert not calls.running
        assert calls.cut
        assert source.closes == 1
        begun = len(calls.begun)
        await anyio.sleep(10)
        assert len(calls.begun) == begun


@pytest.mark.virtual_time
async def test_a_fatal_exception_of_a_call_ends_the_scope() -> None:
    """S15: it leaves the scope as itself; other calls have ended, and the source is closed."""

    class Fatal(BaseException):
        pass

    fatal, source, calls = Fatal(), endless(), Calls(lambda _: 5.0)

    async def fails(item: int) -> int:
        if item == 2:
            raise fatal
        return await calls(item)

    with pytest.raises(Fatal) as caught:
        async with opened(source) as (_, stream):
            await stream.map(fails, concurrency=4).drain()
    assert caught.value is fatal
    assert not calls.running
    assert source.closes == 1


@pytest.mark.virtual_time
async def test_a_fatal_exception_goes_before_an_error(anyio_backend_name: str) -> None:
    """S15: the error hangs below it; on asyncio a cancellation stands there instead when the scope is left."""

    class Fatal(BaseException):
        pass

    async def fails(item: int) -> None:
        try:
            await anyio.sleep(0.01 if item == 0 else 10)
        finally:
            raise Broken("zero") if item == 0 else Fatal

    with pytest.raises(Fatal) as caught:
        async with opened(range(2)) as (_, stream):
            await stream.map(fails, concurrency=2).drain()
    if anyio_backend_name == "trio":
        assert "Broken: zero" in "".join(traceback.format_exception(caught.value))


@pytest.mark.virtual_time
async def test_for_each_is_like_map() -> None:
    """R7: with several calls at once; the first error cancels the others and waits for them."""
    calls = Calls()
    async with opened(range(10)) as (_, stream):
        await stream.for_each(calls, concurrency=4)
    assert (sorted(calls.ended), calls.most) == (list(range(10)), 4)
    error = Broken("two")
    calls = Calls(lambda item: 0.01 if item == 2 else 1.0, _2=error)
    async with opened(range(10)) as (_, stream):
        with pytest.raises(Broken) as caught:
            await stream.for_each(calls, concurrency=4)
        assert caught.value is error
        assert not calls.running
    with pytest.raises(ValueError, match="concurrency must be an int >= 1, got 0"):
        async with opened(range(10)) as (_, stream):
            await stream.for_each(calls, concurrency=0)


# ------------------------------------------------------------------ native cancellation
def _workers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if " worker of " in task.get_name()]


@each_order
@pytest.mark.asyncio_only
@pytest.mark.parametrize("turn", range(12))
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_worker_cancelled_natively_never_truncates(ordered: bool, turn: int, which: int) -> None:
    """R2: before its first step or after, in a call, in the source or in between: an error, or every item."""
    source, got = Source(range(12)), list[int]()
    async with opened(source) as (s, stream):
        items = stream.map(double_later, concurrency=3, ordered=ordered)

        async def strike() -> None:
            await turns(turn)
            workers = sorted(_workers(), key=lambda task: task.get_name())
            for task in workers[which : which + 1]:
                task.cancel()

        s.start_soon(strike)
        try:
            with anyio.fail_after(5):
                async for item in items:
                    got.append(item)
        except TaskCancelled as error:
            assert "natively" in str(error)
            await items.aclose()
        else:
            assert sorted(got) == [2 * number for number in range(12)]
        assert source.closes == 1


@pytest.mark.asyncio_only
async def test_the_only_worker_dropped_before_its_first_step() -> None:
    """R2: the stream has not ended, and says so."""
    async with opened(range(3)) as (s, stream):
        items = stream.map(double_later, concurrency=2)

        async def strike() -> None:
            while not (workers := _workers()):
                await asyncio.sleep(0)
            workers[0].cancel()

        s.start_soon(strike)
        with pytest.raises(TaskCancelled, match="cancelled natively"):
            await items.collect()


@pytest.mark.asyncio_only
@pytest.mark.virtual_time
async def test_a_call_cancelled_natively_after_the_end_of_the_source() -> None:
    """R7: that is an error too."""
    calls = Calls(lambda item: item + 1)
    async with opened(range(2)) as (s, stream):
        items, got = stream.map(calls, concurrency=2), list[int]()

        async def strike() -> None:
            await asyncio.sleep(1.5)
            for task in _workers():
                task.cancel()

        s.start_soon(strike)
        with pytest.raises(TaskCancelled, match=r"map\(Calls\).*cancelled natively"):
            async for item in items:
                got.append(item)
        assert got == [0]


@pytest.mark.asyncio_only
@pytest.mark.virtual_time
@pytest.mark.parametrize("victim", [0, 1])
async def test_a_worker_cancelled_while_it_waits_for_its_turn(victim: int) -> None:
    """R2: whichever of the two would have been next: an error after what is ready, no hang."""
    async with opened(endless()) as (_, stream):
        items, got = stream.map(Calls(), concurrency=2), list[int]()
        assert await anext(items) == 0
        await anyio.sleep(1)
        workers = _workers()
        assert await anext(items) == 1
        workers[victim].cancel()
        with anyio.fail_after(5), pytest.raises(TaskCancelled, match="cancelled natively"):
            async for item in items:
                got.append(item)
        assert got == [2, 3, 4, 5][: len(got)]


# ------------------------------------------------------------------ what calls may do
@each_order
async def test_calls_have_contexts_of_their_own(ordered: bool) -> None:
    """A9: what one call sets no other one sees, though a worker does many; across its own waits it does."""

    async def look(item: int) -> str:
        before = VARIABLE.get()
        VARIABLE.set(f"call {item}")
        await checkpoint()
        assert VARIABLE.get() == f"call {item}"
        return before

    def look_at_once(item: int) -> str:
        before = VARIABLE.get()
        VARIABLE.set(f"call {item}")
        return before

    for fn in (look, look_at_once):
        async with opened(range(20)) as (_, stream):
            assert set(await stream.map(fn, concurrency=3, ordered=ordered).collect()) == {"nothing"}
        assert VARIABLE.get() == "nothing"


@pytest.mark.virtual_time
async def test_calls_stand_in_the_scope() -> None:
    """S11: `current_scope()`, services, pools, tasks and further streams."""
    async with scope(name="app").provide("factor", lambda: 3) as s:
        pool = s.pool(lambda: object(), max=2)

        async def work(item: int) -> int:
            assert current_scope() is s
            factor: int = await use("factor")
            async with pool.acquire():
                await anyio.sleep(0.1)
            made = await s.task(double_later, item).unwrap()
            inner = await s.stream(range(item)).map(double_later, concurrency=2).collect()
            async with scope(name="inner") as child:
                assert child.parent is s
            return factor * made + sum(inner)

        expected = [6 * item + sum(2 * each for each in range(item)) for item in range(8)]
        assert await s.stream(range(8)).map(work, concurrency=4).collect() == expected
        assert pool.stats.in_use == 0


@pytest.mark.virtual_time
async def test_a_time_out_in_a_call_is_its_own() -> None:
    """R7: cancel scopes of a call neither cut others nor are taken for a cancellation of the worker."""

    async def impatient(item: int) -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep(0.02 if item % 2 else 0.005)
            return "in time"
        return "late"

    async with opened(range(4)) as (_, stream):
        got = await stream.map(impatient, concurrency=2).collect()
        assert got == ["in time", "late", "in time", "late"]


@pytest.mark.virtual_time
async def test_maps_over_maps() -> None:
    """R7: one reads what the other makes; all calls are in flight at once, and all end when it is left."""
    first, second, source = Calls(), Calls(), endless()
    async with opened(source) as (_, stream):
        async with stream.map(first, concurrency=2).map(second, concurrency=3) as items:
            assert [await anext(items) for _ in range(50)] == list(range(50))
        assert not first.running | second.running
        assert source.closes == 1


@pytest.mark.virtual_time
async def test_the_scope_is_cancelled_with_calls_in_flight() -> None:
    """S5: they have ended when it is left, and no item is called with afterwards."""
    calls, source = Calls(lambda _: 10.0), endless()

    async def cancel(s: Scope) -> None:
        await anyio.sleep(1)
        s.cancel("enough")

    async with opened(source) as (s, stream):
        s.start_soon(cancel, s)
        await stream.map(calls, concurrency=4).drain()
    assert sorted(calls.cut) == [0, 1, 2, 3] == calls.begun
    assert source.closes == 1


@pytest.mark.virtual_time
async def test_a_call_closes_its_own_stream() -> None:
    """R3: from within; the reader is told, and nothing hangs."""
    async with opened(endless()) as (s, stream):
        items: Any = None

        async def close(item: int) -> int:
            if item == 3:
                s.start_soon(items.aclose)
            await anyio.sleep(0.1)
            return item

        items = stream.map(close, concurrency=2)
        with anyio.fail_after(10):
            got = []
            try:
                async for item in items:
                    got.append(item)  # noqa: PERF401  kept when it raises
            except Exception as error:
                assert "it was closed" in str(error)
            assert got[:2] == [0, 1]


async def test_the_look_of_the_workers() -> None:
    """S13: tasks are named after the function."""
    names: set[str | None] = set()

    async def note(_: int) -> None:
        names.add(anyio.get_current_task().name)
        await checkpoint()

    async with opened(range(3)) as (_, stream):
        await stream.map(note, concurrency=2).drain()
    assert names == {"map(note) worker of range.map (#0) of app"}


@each_order
async def test_a_source_that_holds_a_scope_is_refused(ordered: bool) -> None:
    """R5: several tasks read it in turn; it is closed, nothing is harmed, and a task of its own is the cure."""
    closed = []

    async def holding() -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group():
                for number in range(5):
                    yield number
        finally:
            closed.append("source")

    async with scope(name="app") as s:
        with pytest.raises(ScopeMisuse, match=r"keeps a cancel scope or a task group open(.|\n)*own_task=True"):
            await s.stream(holding()).map(double_later, concurrency=3, ordered=ordered).drain()
        assert closed == ["source"]
        await turns()
        cured = s.stream(holding(), own_task=True).map(double_later, concurrency=3, ordered=ordered)
        assert sorted(await cured.collect()) == [0, 2, 4, 6, 8]


@each_order
@pytest.mark.virtual_time
async def test_as_many_calls_run_as_may_though_the_first_ones_were_quick(ordered: bool) -> None:
    """R7: a reader that was slow for a while, when few workers were needed, does not keep their number down."""
    running = 0
    seen = list[int]()

    async def call(item: int) -> int:
        nonlocal running
        if item >= 18:
            running += 1
            await anyio.sleep(10)
            running -= 1
        return item

    async def look() -> None:
        await anyio.sleep(2)
        seen.append(running)

    async with opened(Source(range(60), delay=0.002)) as (s, stream):
        got = list[int]()
        s.start_soon(look)
        async for item in stream.map(call, concurrency=10, ordered=ordered):
            got.append(item)
            if item == 0:
                await anyio.sleep(1)  # until twice as many are taken as may be called at once
        assert sorted(got) == list(range(60))
    assert seen == [10]
