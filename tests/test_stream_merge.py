"""`merge` and `broadcast` (R6, R8, P08, P10)."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from anyscope import CloseTimeout, ScopeCancelled, Stream, StreamClosed, TaskCancelled, scope
from stream_sources import Broken, Source, double_later, endless, opened, turns

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

each_overflow = pytest.mark.parametrize("overflow", ["wait", "drop_oldest", "drop_newest"])


# ------------------------------------------------------------------ merge
@pytest.mark.virtual_time
async def test_p08_a_slow_source_holds_up_no_other() -> None:
    """P08: items come as they are there; all of them; each source is closed once."""
    fast, slow = Source(range(6), delay=0.01), Source("ab", delay=0.035)
    async with opened(fast) as (_, stream):
        assert await stream.merge(slow).collect() == [0, 1, 2, "a", 3, 4, 5, "b"]
        assert (fast.closes, slow.closes) == (1, 1)


@pytest.mark.parametrize("buffer", [1, 4])
@pytest.mark.parametrize("count", [2, 3])
async def test_p08_bounded_when_the_reader_stops(buffer: int, count: int) -> None:
    """P08, R8: the buffer, and one more of each source."""
    sources = [endless() for _ in range(count)]
    async with opened(sources[0]) as (_, stream):
        async with stream.merge(*sources[1:], buffer=buffer) as items:
            assert await anext(items) == 0
            await turns(200)
            assert sum(source.given for source in sources) <= 1 + buffer + count - 1
            for _ in range(50):
                await anext(items)
            await turns(200)
            assert sum(source.given for source in sources) <= 51 + buffer + count - 1
            for read in range(52, 80):
                await anext(items)
                await turns(20)
                assert sum(source.given for source in sources) <= read + buffer + count - 1
        assert [source.closes for source in sources] == [1] * count


@pytest.mark.parametrize("is_slow", [True, False])
@pytest.mark.parametrize("buffer", [1, 16])
async def test_merge_is_fair(is_slow: bool, buffer: int) -> None:
    """R8: sources that never wait share the room, whether the reader is slow or fast."""
    async with opened(Source(["a"] * 10_000, delay=None)) as (_, stream):
        others = [Source([name] * 10_000, delay=None) for name in "bc"]
        seen: Counter[str] = Counter()
        async with stream.merge(*others, buffer=buffer) as items:
            async for item in items:
                seen[item] += 1
                if is_slow:
                    await turns(8)
                if seen.total() == 300:
                    break
        assert min(seen[name] for name in "abc") >= 30


@pytest.mark.virtual_time
async def test_halt_any() -> None:
    """R8: it ends with the first that ends; what was ready is given, the others are closed."""
    short, long = Source(range(2), delay=0.021), endless(delay=0.015)
    async with opened(short) as (_, stream):
        assert await stream.merge(long, halt="any").collect() == [0, 0, 1, 1, 2, 3]
        assert (short.closes, long.closes) == (1, 1)
    async with opened(Source()) as (_, stream):
        assert await stream.merge(Source(hangs=True), halt="any").collect() == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("halt", ["all", "any"])
async def test_an_error_comes_bare_after_what_was_ready(halt: Any) -> None:
    """R8: the others are closed; a source that had ended before is none the worse."""
    error = Broken("one")
    failing, other = Source(range(2), error=error, delay=0.021), endless(delay=0.015)
    got: list[int] = []
    async with opened(failing) as (_, stream):
        with pytest.raises(Broken) as caught:
            async with stream.merge(other, halt=halt) as items:
                async for item in items:
                    got.append(item)  # noqa: PERF401  kept when it raises
        assert caught.value is error
        assert got == [0, 0, 1, 1, 2, 3]
        assert (failing.closes, other.closes) == (1, 1)


@pytest.mark.virtual_time
async def test_two_errors_at_once() -> None:
    """R8: one is raised, the other is a note on it."""
    moment = anyio.Event()

    async def failing(name: str) -> AsyncIterator[int]:
        await moment.wait()
        raise Broken(name)
        yield 0

    async def come() -> None:
        await anyio.sleep(1)
        moment.set()

    async with opened(failing("x")) as (s, stream):
        s.start_soon(come)
        with pytest.raises(Broken) as caught:
            await stream.merge(failing("y")).collect()
        other = {"x": "y", "y": "x"}[str(caught.value)]
        assert caught.value.__notes__ == [f"Broken of another source at that moment: {other}"]


@pytest.mark.virtual_time
async def test_an_error_of_closing_one_ends_the_others() -> None:
    """R3, R8: it is raised as soon as it happens, with those of the others as notes."""
    short = Source(range(1), delay=0.01, close_error=Broken("short"))
    long = endless(delay=0.02, close_error=Broken("long"))
    async with opened(short) as (_, stream):
        with pytest.raises(Broken, match="short") as caught:
            await stream.merge(long).collect()
        assert caught.value.__notes__ == ["Broken of another source at that moment: long"]
        assert (short.closes, long.closes) == (1, 1)


@pytest.mark.virtual_time
async def test_a_source_that_cannot_be_closed_is_reported() -> None:
    """S7: after `close_timeout`; the others are closed meanwhile."""
    stuck, other = endless(closing=100), endless()
    async with scope(name="app", close_timeout=1) as s:
        with pytest.raises(CloseTimeout, match=r"merge of Source\.merge \(#0\) of app"):
            async with s.stream(stuck).merge(other) as items:
                await anext(items)
        assert (stuck.closes, other.closes) == (1, 1)
        stuck = endless(closing=100)
        with pytest.raises(CloseTimeout, match=r"buffer of Source\.buffer \(#1\) of app"):
            async with s.stream(stuck).buffer(1, overflow="drop_oldest") as items:
                await anext(items)
    async with scope(name="app", close_timeout=None) as s:
        stuck = endless(closing=100)
        async with s.stream(stuck).merge(endless()) as items:
            await anext(items)


@pytest.mark.virtual_time
async def test_merged_sources_may_hold_scopes() -> None:
    """R5: each runs in one task from its first step to its end."""

    async def holding(name: str) -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0.01)
            for _ in range(3):
                yield name
        with anyio.fail_after(10):
            yield name.upper()

    async with opened(holding("a")) as (_, stream):
        assert sorted(await stream.merge(holding("b")).collect()) == [*"ABaaabbb"]
    async with opened(holding("a")) as (_, stream), stream.merge(holding("b")) as items:
        async for _ in items:
            break
    with anyio.fail_after(1):
        await anyio.sleep(0.5)


async def test_merge_of_streams_and_lists() -> None:
    """R8: streams of several stages, plain iterables; one alone."""
    async with scope() as s:
        left, right = s.stream(range(3)).map(double_later, concurrency=2), s.stream("ab").buffer(1)
        assert sorted(await left.merge(right, [7]).map(str).collect()) == ["0", "2", "4", "7", "a", "b"]
        assert await s.stream(range(3)).merge().collect() == [0, 1, 2]


@pytest.mark.asyncio_only
@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("victim", [0, 1])
async def test_a_source_cancelled_natively_never_truncates(turn: int, victim: int) -> None:
    """R2: before its first step or after, it is an error, or every item is there."""
    sources = [Source(range(6)), Source(range(6))]
    async with opened(sources[0]) as (s, stream):
        items = stream.merge(sources[1])

        async def strike() -> None:
            await turns(turn)
            for task in asyncio.all_tasks():
                if task.get_name() == f"merge source {victim}":
                    task.cancel()

        s.start_soon(strike)
        try:
            with anyio.fail_after(5):
                assert sorted(await items.collect()) == sorted([*range(6), *range(6)])
        except TaskCancelled as error:
            assert "natively" in str(error)
        assert [source.closes for source in sources] == [1, 1]


# ------------------------------------------------------------------ broadcast
async def read(items: Stream[Any], into: list[Any], pause: float = 0.0) -> None:
    """Read all."""
    async for item in items:
        into.append(item)
        await anyio.sleep(pause)


@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_all_readers_get_all(count: int) -> None:
    """P10: each in its own pace, and the source is read and closed once."""
    source, got = Source(range(20)), [list[int]() for _ in range(count)]
    async with opened(source) as (s, stream):
        readers = stream.broadcast(count, buffer=3)
        assert len(readers) == count
        for number, reader in enumerate(readers):
            s.start_soon(read, reader, got[number], number / 100)
    assert got == [list(range(20))] * count
    assert (source.pulls, source.closes) == (21, 1)


@pytest.mark.virtual_time
@each_overflow
async def test_p10_a_dead_reader(overflow: Any) -> None:
    """P10: it holds up the others under `wait`, and nobody otherwise; its own part is what the policy says."""
    source = Source(range(10), delay=0.01)
    async with opened(source) as (_, stream):
        live, dead = stream.broadcast(2, buffer=3, overflow=overflow)
        got = []
        with anyio.move_on_after(5):
            async for item in live:
                got.append(item)  # noqa: PERF401  kept when it raises
        assert got == (list(range(3)) if overflow == "wait" else list(range(10)))
        await live.aclose()
        rest = [item async for item in dead]
        assert rest == {"wait": list(range(10)), "drop_oldest": [7, 8, 9], "drop_newest": [0, 1, 2]}[overflow]
        if overflow == "wait":
            assert source.pulls == 11


@pytest.mark.virtual_time
@each_overflow
@pytest.mark.parametrize("how", ["closed", "dropped", "broken off", "never read"])
async def test_p10_a_reader_that_has_left_holds_up_nobody(overflow: Any, how: str) -> None:
    """P10: closed, dropped, left by `break`, or dropped unread."""
    source = Source(range(50), delay=0.001)
    async with opened(source) as (_, stream):
        live, leaver = stream.broadcast(2, buffer=2, overflow=overflow)
        if how == "closed":
            await leaver.aclose()
            with pytest.raises(StreamClosed):
                await anext(leaver)
        elif how != "never read":
            async for _ in leaver:
                break
        if how in ("dropped", "broken off", "never read"):
            del leaver
            await turns()
        with anyio.fail_after(5):
            got = [item async for item in live]
        assert got[-3:] == [47, 48, 49]
        await live.aclose()
        assert source.closes == 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_broadcast_source_that_never_waits_lets_others_run(overflow: Any) -> None:
    """P10: the readers come to their turn."""
    async with opened(endless(delay=None)) as (_, stream):
        for items in stream.broadcast(2, buffer=2, overflow=overflow):
            async with items:
                got = [await anext(items) for _ in range(5)]
                assert got == sorted(set(got))


@pytest.mark.virtual_time
async def test_the_source_is_closed_after_the_last_reader() -> None:
    """P10: not before; and only once."""
    source = endless(delay=0.01)
    async with opened(source) as (_, stream):
        first, second = stream.broadcast(2)
        async with first as one:
            await anext(one)
        assert source.closes == 0
        async with second as two:
            assert [await anext(two) for _ in range(3)] == [0, 1, 2]
        assert source.closes == 1
        await first.aclose()
    assert source.closes == 1


@pytest.mark.virtual_time
@each_overflow
async def test_an_error_goes_to_all_readers(overflow: Any) -> None:
    """P10: to each after its items, bare."""
    error, got, told = Broken("source"), [list[int](), list[int]()], list[Exception]()
    async with opened(Source(range(2), error=error)) as (s, stream):

        async def reader(items: Stream[int], into: list[int]) -> None:
            with pytest.raises(Broken) as caught:
                await read(items, into, 0.1)
            told.append(caught.value)

        for items, into in zip(stream.broadcast(2, overflow=overflow), got, strict=True):
            s.start_soon(reader, items, into)
    assert got == [[0, 1], [0, 1]]
    assert told == [error, error]


@pytest.mark.virtual_time
async def test_the_end_of_the_scope_reaches_all_readers() -> None:
    """R2: foreign readers are told, none of them silently ended."""
    source, told = Source(hangs=True), list[Exception]()
    for end in ("cancel", "end"):
        async with anyio.create_task_group() as group, scope(name="app") as s:

            async def reader(items: Stream[int]) -> None:
                with pytest.raises((ScopeCancelled, StreamClosed)) as caught:
                    await items.collect()
                told.append(caught.value)

            for items in s.stream(source := Source(hangs=True)).broadcast(3):
                group.start_soon(reader, items)
            await anyio.sleep(1)
            if end == "cancel":
                s.cancel("enough")
        assert [type(error).__name__ for error in told] == [
            {"cancel": "ScopeCancelled", "end": "StreamClosed"}[end]
        ] * 3
        told.clear()
        assert source.closes == 1


@pytest.mark.virtual_time
async def test_broadcast_then_operators_then_zip_again() -> None:
    """R6: what is broadcast is a stream like any other."""
    async with opened(range(6)) as (_, stream):
        left, right = stream.broadcast(2)
        both = left.map(double_later, concurrency=2).zip(right.map(str))
        assert await both.collect() == [(2 * number, str(number)) for number in range(6)]


@pytest.mark.virtual_time
async def test_a_reader_of_a_broadcast_that_is_cut_off_loses_nothing() -> None:
    """R5: a time-out around `anext` takes none away."""
    got = []
    async with opened(Source(range(10), delay=0.03)) as (_, stream):
        (items,) = stream.broadcast(1)
        while len(got) < 10:
            with anyio.move_on_after(0.01):
                got.append(await anext(items))
    assert got == list(range(10))


async def test_the_bound_of_a_broadcast() -> None:
    """R7: with `wait`, the buffer of the slowest."""
    source = endless()
    async with opened(source) as (_, stream):
        fast, slow = stream.broadcast(2, buffer=3)
        assert source.pulls == 0
        assert [await anext(fast) for _ in range(3)] == [0, 1, 2]
        await turns(50)
        assert source.pulls == 3
        assert await anext(slow) == 0
        await turns(50)
        assert source.pulls == 4


async def test_a_broadcast_that_was_read_ends_for_good() -> None:
    """R2: a second loop over it is refused, as with every stream, and it costs no task to drop it."""
    async with opened(range(3)) as (_, stream):
        (items,) = stream.broadcast(1)
        assert [item async for item in items] == [0, 1, 2]
        with pytest.raises(StreamClosed, match="its source has ended"):
            aiter(items)
        assert repr(items) == "<Stream range.broadcast (#1) of app open>"
        del items


@pytest.mark.asyncio_only
@pytest.mark.virtual_time
async def test_an_error_of_closing_is_told_though_the_closer_is_cancelled_again() -> None:
    """S7: a native cancellation goes through the wait for the task; its error leaves the scope then."""
    error = Broken("closing")
    source = endless(closing=5, close_error=error)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with scope(name="app") as s:

            async def read() -> None:
                async with s.stream(source).buffer(1) as items:
                    await anext(items)
                    await anyio.sleep_forever()

            task = asyncio.create_task(read())
            for _ in range(2):
                await anyio.sleep(1)
                task.cancel()
            await turns()
            assert task.cancelled()
    assert caught.value.exceptions == (error,)
    assert error.__notes__ == ["in source of Source.buffer (#0) of app"]  # type: ignore[attr-defined]
    assert source.closed == 1


# ------------------------------------------------------------------ readers of a broadcast that are closed by others
@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [1, 2])
async def test_a_reader_of_a_broadcast_is_interrupted(count: int) -> None:
    """R2: `aclose()` in another task reaches a loop in the task that made it, and the other readers go on."""
    async with opened(Source(range(5), delay=1.0)) as (s, stream):
        first, *others = stream.broadcast(count)

        async def close() -> None:
            await anyio.sleep(1.5)
            await first.aclose()

        s.start_soon(close)
        rest = [s.task(other.collect) for other in others]
        got = list[int]()
        with anyio.fail_after(3), pytest.raises(StreamClosed, match="it was closed"):
            async for item in first:
                got.append(item)
        assert got == [0]
        assert [(await task).unwrap() for task in rest] == [[0, 1, 2, 3, 4]] * len(others)


@pytest.mark.virtual_time
async def test_a_broadcast_that_is_read_is_busy() -> None:
    """S30: no operator takes it from its reader, and closing it below a stage ends."""
    async with scope(name="app") as s:
        (items,) = s.stream(Source(range(3), delay=1.0)).broadcast(1)
        reader = s.task(items.collect)
        await anyio.sleep(0.5)
        with pytest.raises(anyio.BusyResourceError):
            items.map(str)
        assert (await reader).unwrap() == [0, 1, 2]
    async with scope(name="app") as s:
        (below,) = s.stream(endless(delay=60.0)).broadcast(1)
        items = below.map(str)

        async def close() -> None:
            await anyio.sleep(0.5)
            with anyio.fail_after(1):
                await items.aclose()

        s.start_soon(close)
        with pytest.raises(StreamClosed):
            async for _ in items:
                raise AssertionError("nothing comes")
