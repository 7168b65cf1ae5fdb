"""Streams as a black box: reading and closing (R1, R3), misuse and texts (S12, S13)."""

# ruff: noqa: PERF401  (the loops are what is tested)

from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

import anyscope
from anyscope import (
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    Stream,
    StreamClosed,
    StreamTimeout,
    current_scope,
    scope,
)
from scenarios import leaves
from streams import Closable, Numbers, Source, streams_of, turns

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


# ------------------------------------------------------------------ reading to the end
async def test_s01_all_items_and_nothing_is_left() -> None:
    """R1: in order, the source closed once, and nothing registered in the scope."""
    source = Source(5)
    async with scope(name="app") as s:
        assert [item async for item in s.stream(source.items())] == [0, 1, 2, 3, 4]
        assert source.closed == 1
        assert streams_of(s) == []
        async with s.stream(source.items()) as items:
            assert [item async for item in items] == []
    assert source.closed == 2


async def test_s02_an_empty_source() -> None:
    """R1: the body never runs."""
    source = Source(0)
    async with scope() as s:
        async for _ in s.stream(source.items()):
            raise AssertionError("there is nothing")
        assert source.closed == 1


async def plain_numbers(count: int) -> AsyncIterator[int]:
    """Numbers."""
    for number in range(count):
        yield number


def sync_numbers(log: list[str]) -> Iterator[int]:
    """Numbers of a plain generator."""
    try:
        yield from range(5)
    finally:
        log.append("closed")


async def test_s03_every_kind_of_source() -> None:
    """R1: async generator, classes with and without `aclose`, memory stream, list, generator, function, text."""
    send, receive = anyio.create_memory_object_stream[int](5)
    for number in range(5):
        send.send_nowait(number)
    send.close()
    log: list[str] = []
    closable = Closable()
    async with scope() as s:
        sources: list[Any] = [
            plain_numbers(5),
            lambda: plain_numbers(5),
            Numbers(),
            closable,
            receive,
            range(5),
            [0, 1, 2, 3, 4],
            sync_numbers(log),
            lambda: sync_numbers(log),
            iter(range(5)),
        ]
        for source in sources:
            async with s.stream(source) as items:
                assert [item async for item in items] == [0, 1, 2, 3, 4]
        assert log == ["closed"] * 2
        assert closable.closed == 1
        with pytest.raises(anyio.ClosedResourceError):
            receive.receive_nowait()
        for source in (sync_numbers(log), Closable()):
            assert await anext(s.stream(source)) == 0
        await turns(10)
        assert log == ["closed"] * 3


async def test_a_plain_iterable_lets_others_run() -> None:
    """R2: a list never waits, so the stream does now and then."""
    ran: list[int] = []

    async def other() -> None:
        while len(ran) < 5:
            ran.append(len(ran))
            await checkpoint()

    async with scope() as s:
        s.start_soon(other)
        async for _ in s.stream(range(1000)):
            pass
        assert len(ran) == 5


# ------------------------------------------------------------------ leaving
async def test_s04_break_closes_promptly() -> None:
    """R3: within a few turns, in a task of the scope."""
    source = Source(5)
    async with scope(name="app") as s:
        async for _ in s.stream(source.items()):
            break
        await turns(10)
        assert source.closed == 1
        assert isinstance(source.saw, GeneratorExit)
        assert streams_of(s) == []


@pytest.mark.virtual_time
async def test_s05_the_scope_waits_for_what_break_began() -> None:
    """R3: also where it is the last statement."""
    source = Source(5, closing=0.05)
    async with scope() as s:
        async for _ in s.stream(source.items()):
            break
    assert source.closed == 1


async def test_s06_a_block_closes_in_the_same_task() -> None:
    """R1: before the line after the block."""
    source = Source(5)
    async with scope() as s:
        async with s.stream(source.items()) as items:
            async for _ in items:
                break
        assert source.closed == 1
        assert source.tasks == {anyio.get_current_task().id}


@pytest.mark.parametrize("in_block", [True, False])
async def test_s07_the_source_does_not_see_the_error_of_the_body(in_block: bool) -> None:
    """R1: it is closed, and the error leaves as it is."""
    source, error = Source(5), KeyError("body")

    async def body(s: Scope) -> None:
        if in_block:
            async with s.stream(source.items()) as items:
                async for _ in items:
                    raise error
        async for _ in s.stream(source.items()):
            raise error

    with pytest.raises(KeyError) as caught:
        async with scope() as s:
            await body(s)
    assert caught.value is error
    assert isinstance(source.saw, GeneratorExit)
    assert source.closed == 1


@pytest.mark.parametrize("own_task", [False, True])
async def test_s08_an_error_of_the_source_leaves_bare(own_task: bool) -> None:
    """R2: after the items, with the source's traceback; another step does not hang."""
    source, seen = Source(2, error=ValueError("source")), []
    async with scope() as s:
        items = s.stream(source.items(), own_task=own_task)
        with pytest.raises(ValueError, match="source") as caught:
            async for item in items:
                seen.append(item)
        assert seen == [0, 1]
        assert "items" in [entry.name for entry in caught.traceback]
        with pytest.raises((StopAsyncIteration, ValueError)):
            await anext(items)
        assert source.closed == 1


async def test_s09_return_out_of_a_loop() -> None:
    """R3: as `break`."""
    source = Source(5)

    async def find(s: Scope) -> int:
        async for item in s.stream(source.items()):
            if item == 2:
                return item
        raise AssertionError("not found")

    async with scope() as s:
        assert await find(s) == 2
        await turns(10)
        assert source.closed == 1


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_s10_a_handle_in_a_cycle(elsewhere: bool) -> None:
    """R3: closed in the scope once it is collected, in whichever thread."""
    source = Source(5)
    async with scope() as s:
        ring: list[Any] = [s.stream(source.items())]
        ring.append(ring)
        assert await anext(ring[0]) == 0
        del ring
        await turns(10)
        assert source.closed == 0
        if elsewhere:
            await anyio.to_thread.run_sync(gc.collect)
        else:
            gc.collect()
        await turns(10)
        assert source.closed == 1
        assert streams_of(s) == []


async def test_a_handle_that_is_dropped_in_another_thread() -> None:
    """R3: closed in the scope all the same; and what was never read, or has ended, is just forgotten."""
    source = Source(5)
    async with scope() as s:
        kept: list[Stream[int]] = [s.stream(source.items()), s.stream(Source(5).items()), s.stream([])]
        assert await anext(kept[0]) == 0
        assert await anext(kept[2], None) is None
        await anyio.to_thread.run_sync(kept.clear)
        await turns(10)
        assert source.closed == 1
        assert streams_of(s) == []


@pytest.mark.parametrize("own_task", [False, True])
async def test_s11_a_thousand_streams_leave_nothing(own_task: bool) -> None:
    """R3: neither in the scope nor in memory."""
    closed = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
            yield 2
        finally:
            closed += 1

    async with scope(name="app") as s:
        handles = []
        for _ in range(1000):
            items = s.stream(numbers(), own_task=own_task)
            handles.append(weakref.ref(items))
            async for _ in items:
                break
            del items
        await turns(10)
        assert closed == 1000
        assert s.tree() == "scope app open"
        assert [ref for ref in handles if ref() is not None] == []
        assert len(s.signal._origin.listeners) == 0  # type: ignore[attr-defined]


async def test_s12_a_second_loop_goes_on() -> None:
    """R1: no item is lost, none comes twice."""
    seen: list[int] = []
    async with scope() as s, s.stream(Source(5).items()) as items:
        for most in (1, 3, 5):
            async for item in items:
                seen.append(item)
                if item >= most:
                    break
    assert seen == [0, 1, 2, 3, 4]


async def test_s13_a_closed_stream_says_so() -> None:
    """R2: never a silent end."""
    text = (
        "stream Source.items (#0) of app cannot be read: it was closed\n"
        "A stream is read once, by one loop at a time: make another one with s.stream(...)."
    )
    async with scope(name="app") as s:
        async with s.stream(Source(5).items()) as items:
            async for _ in items:
                break
        for _ in range(2):
            with pytest.raises(StreamClosed) as caught:
                async for _ in items:
                    raise AssertionError("it is closed")
            assert str(caught.value) == text
        with pytest.raises(StreamClosed, match="it was closed"):
            items.map(str)
        await items.aclose()
        new = s.stream(Source(5).items())
        await new.aclose()
        with pytest.raises(StreamClosed, match="it was closed"):
            await anext(new)


async def test_a_second_loop_over_what_has_ended_says_so() -> None:
    """R2: it would look like a source without items."""
    async with scope(name="app") as s:
        for options in ({}, {"own_task": True}, {"timeout": 5.0}):
            items = s.stream(Source(2).items(), **options)  # type: ignore[arg-type]
            assert [item async for item in items] == [0, 1]
            with pytest.raises(StreamClosed, match="its source has ended"):
                async for _ in items:
                    raise AssertionError("it has ended")
            with pytest.raises(StopAsyncIteration):
                await anext(items)

        async def again(items: Stream[int]) -> None:
            async for _ in items:
                raise AssertionError("it has ended")

        items = s.stream(Source(2).items())
        assert [item async for item in items] == [0, 1]
        assert isinstance((await s.task(again, items)).pair()[0], StreamClosed)


async def test_s14_an_error_of_closing_leaves_the_scope() -> None:
    """R3, S4: once, with a note that says where."""
    error = OSError("disk")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            async for _ in s.stream(Source(5, closing_error=error).items()):
                break
            await turns(10)
    assert leaves(caught.value) == [error]
    assert error.__notes__ == ["in stream Source.items (#0) of app"]


async def test_an_error_of_closing_at_the_end_leaves_the_scope() -> None:
    """R3, S4: the same text where the scope closes it at its end."""
    error = OSError("disk")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            items = s.stream(Source(5, closing_error=error).items())
            assert await anext(items) == 0
    assert leaves(caught.value) == [error]
    assert error.__notes__ == ["in clean-up stream Source.items (#0) of app"]


async def test_an_error_of_closing_leaves_the_block() -> None:
    """R1, S3: bare; but behind an error of the body it leaves the scope."""
    error, other = OSError("disk"), KeyError("body")
    async with scope(name="app") as s:
        with pytest.raises(OSError, match="disk") as caught:
            async with s.stream(Source(5, closing_error=error).items()) as items:
                await anext(items)
        assert caught.value is error
    with pytest.raises(ExceptionGroup) as group:
        async with scope(name="app") as s, s.stream(Source(5, closing_error=error).items()) as items:
            await anext(items)
            raise other
    assert leaves(group.value) == [other, error]


async def test_an_error_of_closing_leaves_aclose() -> None:
    """R1: bare, once."""
    async with scope(name="app") as s:
        items = s.stream(Source(5, closing_error=OSError("disk")).items())
        await anext(items)
        with pytest.raises(OSError, match="disk"):
            await items.aclose()
        await items.aclose()


# ------------------------------------------------------------------ one at a time
async def test_s30_a_second_reader_is_told() -> None:
    """R2: the first one is not harmed, be it read directly, guarded, or out of a task of its own."""

    async def read(items: Stream[int], seen: list[int]) -> None:
        async for item in items:
            seen.append(item)

    for options in ({}, {"own_task": True}, {"timeout": 9.0}):
        async with scope() as s:
            seen: list[int] = []
            items = s.stream(Source(5, pause=0.001).items(), **options)  # type: ignore[arg-type]
            s.start_soon(read, items, seen)
            await turns(3)
            with pytest.raises(anyio.BusyResourceError):
                await anext(items)
            with pytest.raises(anyio.BusyResourceError):
                async for _ in items:
                    raise AssertionError("two readers")
            with pytest.raises(anyio.BusyResourceError):
                items.map(str)
        assert seen == [0, 1, 2, 3, 4]


async def test_s30_a_second_reader_of_a_direct_loop_is_told() -> None:
    """R2: the maker loops, and another task wants to."""
    told: list[BaseException] = []

    async def read(items: Stream[int]) -> None:
        for step in (lambda: anext(aiter(items)), items.collect):
            try:
                await step()
            except anyio.BusyResourceError as error:
                told.append(error)

    async with scope() as s:
        for own_task in (False, True):
            items = s.stream(Source(5, pause=0.001).items(), own_task=own_task)
            seen: list[int] = []
            async for item in items:
                seen.append(item)
                if item == 2:
                    s.start_soon(read, items)
            assert seen == [0, 1, 2, 3, 4]
    assert len(told) >= 2


async def test_a_stream_goes_from_hand_to_hand() -> None:
    """R1, R2: wherever a loop is left, another task may go on; each is guarded as it needs to be."""
    seen: list[int] = []

    async def read(items: Stream[int], most: int) -> None:
        async for item in items:
            seen.append(item)
            if item >= most:
                break

    async with scope() as s:
        items = s.stream(Source(9).items())
        await read(items, 2)
        await s.task(read, items, 4).unwrap()
        await read(items, 6)
        async with anyio.create_task_group() as tg:
            tg.start_soon(read, items, 99)
    assert seen == list(range(9))


# ------------------------------------------------------------------ operators take it over
async def test_a_handle_that_an_operator_took_over() -> None:
    """R6: it says where its items went, and dropping it closes nothing."""
    async with scope(name="app") as s:
        items = s.stream(Source(5).items())
        assert await anext(items) == 0
        names = items.map(str)
        with pytest.raises(ScopeMisuse) as caught:
            async for _ in items:
                raise AssertionError("taken over")
        assert "stream Source.items.map (#0)" in str(caught.value)
        del items
        gc.collect()
        assert [name async for name in names] == ["1", "2", "3", "4"]


async def test_a_block_closes_what_an_operator_took_over() -> None:
    """R1, R6: the block is that of the whole chain."""
    source = Source(5)
    async with scope() as s:
        async with s.stream(source.items()) as items:
            async for name in items.map(str):
                assert name == "0"
                break
            await turns(10)
            assert source.closed == 0
        assert source.closed == 1
        assert source.tasks == {anyio.get_current_task().id}


# ------------------------------------------------------------------ where it runs
async def test_a_source_of_its_own_task_sees_the_scope() -> None:
    """S11: `current_scope()` in a source, and where the scope closes it."""
    seen: list[str] = []

    async def where() -> AsyncIterator[int]:
        try:
            seen.append(current_scope().name)
            yield 1
            yield 2
        finally:
            seen.append(current_scope().name)

    async with scope(name="app") as s:
        async for _ in s.stream(where(), own_task=True):
            break
        await turns(10)
        async for _ in s.stream(where()):
            break
        await turns(10)
    assert seen == ["app"] * 4


async def test_the_short_form_closes_itself() -> None:
    """R3: `await anext(s.stream(...))`, where nobody holds the handle, also during the step."""
    source = Source(5)
    async with scope(name="app") as s:
        assert await anext(s.stream(source.items())) == 0
        await turns(10)
        assert source.closed == 1
        assert streams_of(s) == []


# ------------------------------------------------------------------ misuse
def not_a_source() -> list[tuple[Any, str]]:
    """What is refused, and the text."""

    async def returns() -> int:
        return 1

    return [
        (
            5,
            (
                "s.stream(...): expected an async or plain iterable, or a function that makes one, got int\n"
                "Right: s.stream(read_lines())   with   async def read_lines(): ... yield line"
            ),
        ),
        (
            returns(),
            (
                "s.stream(...): expected an iterable, got a coroutine: returns returns, it does not yield\n"
                "Right: await returns(...), and give what it returns"
            ),
        ),
    ]


async def test_what_is_no_source_is_told() -> None:
    """S12: at the call, with nothing started."""
    async with scope(name="app") as s:
        for source, text in not_a_source():
            with pytest.raises(TypeError) as caught:
                s.stream(source)
            assert str(caught.value) == text
        assert s.tree() == "scope app open"


async def test_a_function_that_makes_no_iterable_is_told() -> None:
    """S12: at the first step, for it is called then."""

    async def returns() -> list[int]:
        return [1]

    async with scope(name="app") as s:
        for function, made in ((lambda: 5, "int"), (returns, "coroutine")):
            with pytest.raises(TypeError) as caught:
                await anext(s.stream(function))  # type: ignore[call-overload]
            text = f"s.stream(...): the function that was to make an iterable returned {made}"
            assert str(caught.value) == text


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"timeout": 0}, ValueError, "timeout must be > 0 seconds or None for no limit, got 0"),
        ({"timeout": -1}, ValueError, "timeout must be > 0 seconds or None for no limit, got -1"),
        ({"item_timeout": math.nan}, ValueError, "item_timeout must be > 0 seconds or None for no limit, got nan"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds or None, got True (bool)"),
        ({"item_timeout": "5"}, TypeError, "item_timeout must be a number of seconds or None, got '5' (str)"),
        ({"buffer": -1}, ValueError, "buffer must be an int >= 0, got -1"),
        ({"buffer": 1.5}, TypeError, "buffer must be an int >= 0, got 1.5 (float)"),
        ({"buffer": True}, TypeError, "buffer must be an int >= 0, got True (bool)"),
    ],
    ids=str,
)
async def test_options_that_make_no_sense_are_told(options: dict[str, Any], error: type[Exception], text: str) -> None:
    """S12: option, value and rule."""
    async with scope(name="app") as s:
        with pytest.raises(error) as caught:
            s.stream([1], **options)
        assert str(caught.value) == text
        assert s.tree() == "scope app open"
        assert await s.stream([1], timeout=math.inf, item_timeout=math.inf).collect() == [1]


async def test_s15_before_entry_and_after_the_end() -> None:
    """S12: at the call, and no generator is left that was never begun."""
    s = scope(name="app")
    with pytest.raises(ScopeMisuse) as caught:
        s.stream(Source().items())
    assert str(caught.value) == (
        "scope app: stream(Source.items) came before it was entered\nEnter it first: async with scope(...) as s:"
    )
    async with s:
        pass
    with pytest.raises(ScopeClosed) as closed:
        s.stream(Source().items())
    assert str(closed.value).startswith("scope app is closed: stream(Source.items)")


async def test_use_from_another_thread_is_told() -> None:
    """S12: the call, a step, closing; nothing is disturbed."""
    source = Source(5)
    async with scope(name="app") as s:
        items = s.stream(source.items())

        def elsewhere() -> None:
            with pytest.raises(ScopeMisuse, match=r"s.stream\(...\) was called from another thread"):
                s.stream([1])
            for call, text in ((items.__anext__, "stream.__anext__"), (items.aclose, "stream.aclose")):
                with pytest.raises(ScopeMisuse) as caught:
                    call().send(None)
                assert str(caught.value) == (
                    f"scope app: {text}(...) was called from another thread\n"
                    "Take token = anyio.lowlevel.current_token() in the event loop, and call\n"
                    f"anyio.from_thread.run({text}, ..., token=token) in the thread."
                )

        await anyio.to_thread.run_sync(elsewhere)
        assert [item async for item in items] == [0, 1, 2, 3, 4]


async def test_a_source_that_closes_its_own_stream_is_told() -> None:
    """S12: instead of waiting for itself for ever."""
    handles: list[Stream[int]] = []

    async def selfish() -> AsyncIterator[int]:
        yield 0
        yield 1
        await handles[0].aclose()

    async with scope(name="app") as s:
        for in_loop in (True, False):
            handles[:] = [s.stream(selfish())]
            seen: list[int] = []
            with pytest.raises(ScopeMisuse) as caught:
                if in_loop:
                    async for item in handles[0]:
                        seen.append(item)
                while not in_loop:
                    seen.append(await anext(handles[0]))
            assert seen == [0, 1]
            assert "was closed from within, while it makes an item\nRight: return from the source" in str(caught.value)
        handles.clear()


# ------------------------------------------------------------------ looking at it
async def test_the_texts_of_a_stream() -> None:
    """S13: name, number, scope and state; never an item."""
    async with scope(name="app") as s:
        items = s.stream(Source(3).items())
        assert items.name == "Source.items"
        assert repr(items) == "<Stream Source.items (#0) of app new>"
        assert await anext(items) == 0
        assert repr(items) == "<Stream Source.items (#0) of app open>"
        names = items.map(str).filter(bool)
        assert repr(names) == "<Stream Source.items.map.filter (#0) of app open>"
        await names.aclose()
        assert repr(names) == "<Stream Source.items.map.filter (#0) of app closed>"
        assert repr(s.stream([5])) == "<Stream list (#1) of app new>"
        assert repr(s.stream(Numbers())) == "<Stream Numbers (#2) of app new>"
        assert repr(s.stream(lambda: [5], timeout=3)) == "<Stream <lambda> (#3) of app new>"
        assert repr(s.stream(sync_numbers([]), buffer=3)) == "<Stream sync_numbers (#4) of app new>"


async def test_the_tree_shows_open_streams() -> None:
    """S13: with their state; neither they nor their tasks are calls, or running."""
    async with scope(name="app") as s:
        items, others = s.stream(Source(3).items()).map(str), s.stream(Source(3).items(), own_task=True)
        assert await anext(others) == 0
        await turns(3)
        assert s.tree() == "scope app open\n  stream Source.items.map (#0) new\n  stream Source.items (#1) open"
        assert s.statistics().running == 0
        assert repr(s) == "<Scope app open, 0 running>"
        await items.aclose()
        async with s.stream(Source(9).items()).map(str, concurrency=2) as mapped:
            assert await anext(mapped) == "0"
            await turns(3)
            assert streams_of(s) == ["stream Source.items (#1) open", "stream Source.items.map (#2) open"]
            assert s.statistics().running == 0
            assert "call" not in s.tree()


async def test_the_tree_shows_streams_that_are_being_closed() -> None:
    """S13: in a task of the scope, and as a clean-up."""
    seen: list[str] = []
    scopes: list[Scope] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            seen.append(scopes[0].tree())

    async with scope(name="app") as s:
        scopes.append(s)
        async for _ in s.stream(numbers()):
            break
        await turns(10)
        items = s.stream(numbers())
        await anext(items)
    assert seen == [
        "scope app open\n  stream numbers (#0) closing",
        "scope app closing\n  stream numbers (#1) closing",
    ]


async def test_hooks_hear_what_the_scope_closes() -> None:
    """H2: with the number of the stream."""
    disposed: list[tuple[int, object]] = []
    hooks = anyscope.Hooks(on_dispose=lambda index, error: disposed.append((index, error)))
    async with scope(name="app", hooks=hooks) as s:
        s.on_exit(bool)
        items = s.stream(Source(3).items())
        await anext(items)
        s.on_exit(bool)
    assert disposed == [(1, None), (2, None), (0, None)]


def test_errors_of_streams_are_what_they_say() -> None:
    """E: a time-out is a TimeoutError; all are AnyscopeErrors."""
    assert issubclass(StreamTimeout, TimeoutError)
    assert issubclass(StreamTimeout, anyscope.AnyscopeError)
    assert issubclass(StreamClosed, anyscope.AnyscopeError)
    assert not issubclass(StreamClosed, ScopeCancelled)
    assert isinstance(BaseExceptionGroup("", [StreamClosed(stream="s", problem="p")]), ExceptionGroup)


# ------------------------------------------------------------------ sinks, and operators that the core knows of
async def test_sinks_read_to_the_end_and_close() -> None:
    """R6: each closes the source, also where it stops early."""
    async with scope(name="app") as s:
        source = Source(4)
        assert await s.stream(source.items()).collect() == [0, 1, 2, 3]
        assert await s.stream(Source(4).items()).count() == 4
        assert await s.stream(Source(4).items()).reduce(lambda state, item: state + item, 0) == 6
        assert await s.stream(Source(0).items()).reduce(lambda state, item: state + item, 7) == 7
        seen: list[int] = []
        await s.stream(Source(4).items()).for_each(seen.append)
        assert seen == [0, 1, 2, 3]
        await s.stream(Source(4).items()).drain()
        early = Source(4)
        assert await s.stream(early.items()).first() == 0
        assert early.closed == source.closed == 1
        assert await s.stream(Source(0).items()).first("none") == "none"
        with pytest.raises(LookupError) as caught:
            await s.stream(Source(0).items()).first()
        assert "Source.items" in str(caught.value)
        assert str(caught.value).endswith("is empty: first() has nothing to give")
        assert streams_of(s) == []


async def test_a_stream_that_is_part_of_another_one() -> None:
    """R6: it says so, is the other one's to close, and leaves the tree."""
    source = Source(3)
    async with scope(name="app") as s:
        part = s.stream(source.items())
        assert await anext(part) == 0
        whole = s.stream([7]).merge(part)
        assert streams_of(s) == ["stream list.merge (#1) new"]
        with pytest.raises((StreamClosed, ScopeMisuse)):
            await anext(part)
        assert sorted(await whole.collect()) == [1, 2, 7]
        assert source.closed == 1


@pytest.mark.virtual_time
async def test_waiting_for_one_more_until_a_time() -> None:
    """R8: what the hand-off offers to batches in time."""
    async with scope(name="app") as s:
        batches = [batch async for batch in s.stream(Source(5, pause=1).items()).batch(3, within=1.5)]
    assert batches == [[0, 1], [2, 3], [4]]
