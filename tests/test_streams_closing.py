"""Streams as a black box: who reads is interrupted, time-outs, closing under cancellation (R2, R3, R4)."""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"
# ruff: noqa: PERF401  (the loops are what is tested)

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import (
    CloseTimeout,
    Err,
    Scope,
    ScopeCancelled,
    ScopeMisuse,
    ScopeTimeout,
    Stream,
    StreamClosed,
    StreamTimeout,
    TaskCancelled,
    scope,
)
from scenarios import leaves
from streams import Source, streams_of, turns

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

modes: Any = pytest.mark.parametrize("options", [{}, {"own_task": True}, {"buffer": 2}, {"timeout": 1e6}], ids=str)


class Told:
    """A task that is none of the scope's, and reads.

    Attributes:
        items: What it has got.
        error: How it ended.
        lives: Whether it could wait afterwards.
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.error: BaseException | None = None
        self.lives = False

    async def read(self, stream: Stream[Any]) -> None:
        """Read until it is stopped."""
        try:
            async for item in stream:
                self.items.append(item)
        except Exception as error:
            self.error = error
        await checkpoint()
        self.lives = True


# ------------------------------------------------------------------ the scope is cancelled, or ends
@pytest.mark.virtual_time
@modes
async def test_s16_a_source_that_waits_is_cut_off(options: dict[str, Any]) -> None:
    """R2: when a child cancels the scope, at that time."""
    source = Source(5, pause=10)

    async def cancel(s: Scope) -> None:
        await anyio.sleep(0.02)
        s.cancel("enough")

    began = anyio.current_time()
    async with scope() as s:
        s.start_soon(cancel, s)
        async for _ in s.stream(source.items(), **options):
            raise AssertionError("too late")
        raise AssertionError("it ended by itself")
    assert anyio.current_time() - began == pytest.approx(0.02)
    assert source.begun == 1


async def test_s17_a_source_that_never_waits_is_cut_off() -> None:
    """R2: at the next item."""
    seen: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    async with scope() as s:
        async for item in s.stream(numbers()):
            seen.append(item)
            if item == 100:
                s.cancel()
        raise AssertionError("it ended by itself")
    assert seen == list(range(101))


@pytest.mark.virtual_time
@modes
async def test_s18_a_stranger_is_told_of_the_cancellation(options: dict[str, Any]) -> None:
    """R2: at once, and it lives on."""
    told, source = Told(), Source(5, pause=10)
    async with anyio.create_task_group() as tg, scope(name="app") as s:
        tg.start_soon(told.read, s.stream(source.items(), **options))
        await anyio.sleep(0.02)
        s.cancel("enough")
        began = anyio.current_time()
    assert isinstance(told.error, ScopeCancelled)
    assert str(told.error) == "scope app was cancelled (enough): stream Source.items (#0) was cut off"
    assert told.lives
    assert anyio.current_time() == began
    assert source.begun == 1


@pytest.mark.virtual_time
@modes
async def test_s19_a_stranger_is_told_of_the_end(options: dict[str, Any]) -> None:
    """R2: it gets `StreamClosed`; the scope is left when the source is closed."""
    told, source = Told(), Source(5, pause=0.1, closing=0.5)
    async with anyio.create_task_group() as tg:
        async with scope(name="app") as s:
            tg.start_soon(told.read, s.stream(source.items(), **options))
            await anyio.sleep(0.15)
        assert source.begun == 1
    assert isinstance(told.error, StreamClosed)
    assert told.error.problem == "its scope has ended"
    assert told.items == [0]
    assert told.lives


@pytest.mark.virtual_time
async def test_s19_a_stranger_between_two_items_is_told() -> None:
    """R2: at its next step, and the source is closed meanwhile."""
    source = Source(5)
    async with scope(name="app") as s:
        items = s.stream(source.items())
        assert await anext(items) == 0
    assert source.closed == 1
    with pytest.raises(StreamClosed, match="its scope has ended"):
        await anext(items)
    with pytest.raises(StreamClosed, match="its scope has ended"):
        items.map(str)
    await items.aclose()


@pytest.mark.virtual_time
async def test_s20_a_grandchild_is_cancelled() -> None:
    """R2: natively, as all else there: a task, a daemon, a child scope, a nested task group."""
    ends: list[str] = []

    async def read(items: Stream[int], name: str) -> None:
        try:
            async for _ in items:
                pass
        except anyio.get_cancelled_exc_class():
            ends.append(name)
            raise
        except ScopeCancelled:
            ends.append(f"{name}, told")

    async def in_child(s: Scope) -> None:
        async with scope(name="child") as child:
            child.start_soon(read, s.stream(Source(5, pause=10).items()), "grandchild")
            await read(s.stream(Source(5, pause=10).items()), "child")

    async with scope(name="app") as s:
        s.start_soon(read, s.stream(Source(5, pause=10).items()), "task")
        s.start_soon(read, s.stream(Source(5, pause=10).items(), own_task=True), "daemon", daemon=True)
        s.start_soon(in_child, s)
        await anyio.sleep(0.1)
        s.cancel()
    assert sorted(ends) == ["child", "daemon, told", "grandchild", "task"]
    ends.clear()
    async with scope(name="app") as s, anyio.create_task_group() as tg:
        tg.start_soon(read, s.stream(Source(5, pause=10).items()), "nested")
        await anyio.sleep(0.1)
        s.cancel()
    assert ends in (["nested"], ["nested, told"])


@pytest.mark.virtual_time
async def test_daemons_that_read_do_not_keep_the_scope() -> None:
    """R2, S2: they are cancelled with it, before the source is closed."""
    source, ends = Source(5, pause=10), []

    async def read(items: Stream[int]) -> None:
        try:
            async for _ in items:
                pass
        finally:
            ends.append(source.begun)

    async with scope() as s:
        items = s.stream(source.items())
        s.start_soon(read, items, daemon=True)
        s.start_soon(lambda: read_own(s, read), daemon=True)
        await anyio.sleep(0.1)
    assert ends == [1, 1]
    assert source.begun == 1


@pytest.mark.virtual_time
async def test_daemons_that_read_are_told_of_a_cancellation() -> None:
    """R2: they serve on until the tasks have ended, so nobody else would interrupt them at once."""
    told: list[BaseException] = []

    async def read(s: Scope) -> None:
        try:
            async for _ in s.stream(Source(5, pause=10).items()):
                pass
        except ScopeCancelled as error:
            told.append(error)

    async def linger() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        assert len(told) == 1

    async with scope() as s:
        s.start_soon(read, s, daemon=True)
        s.start_soon(linger)
        await anyio.sleep(0.1)
        s.cancel()
    assert len(told) == 1


@pytest.mark.virtual_time
async def test_a_stranger_that_makes_the_stream_itself_is_told() -> None:
    """R2: it is none of the scope's tasks all the same."""
    told: list[BaseException] = []

    async def read(s: Scope) -> None:
        try:
            async for item in s.stream(Source(5, pause=0.1).items()):
                assert item < 2
        except StreamClosed as error:
            told.append(error)

    async with anyio.create_task_group() as tg, scope() as s:
        tg.start_soon(read, s)
        await anyio.sleep(0.25)
    assert len(told) == 1


async def test_a_reader_that_is_shielded_no_more_is_cut_off() -> None:
    """R2: at the next item, also of a source that never waits."""
    seen: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(99):
            yield number

    async with scope() as s:
        items = s.stream(numbers())
        with anyio.CancelScope(shield=True):
            async for item in items:
                seen.append(item)
                s.cancel()
                if item == 5:
                    break
        async for item in items:
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.virtual_time
async def test_a_time_out_in_a_loop_below_an_operator_is_remembered() -> None:
    """R4: a time-out is no end, in whichever loop."""
    async with scope() as s:
        paces = [0.01, 0.01, 1.0]

        async def numbers() -> AsyncIterator[int]:
            for number, pace in enumerate(paces):
                await anyio.sleep(pace)
                yield number

        items = s.stream(numbers(), item_timeout=0.1).map(str)
        with pytest.raises(StreamTimeout):
            async for _ in items:
                pass
        with pytest.raises(StreamTimeout):
            await anext(items)


@pytest.mark.virtual_time
async def test_who_waits_for_a_direct_step_may_be_cancelled() -> None:
    """R3: the reader has it closed at its next step."""
    source, seen = Source(9, pause=1), []

    async def close(items: Stream[int]) -> None:
        with anyio.move_on_after(0.1):
            await items.aclose()

    async with scope() as s:
        items = s.stream(source.items())
        with pytest.raises(StreamClosed, match="it was closed"):
            async for item in items:
                seen.append(item)
                if item == 1:
                    s.start_soon(close, items)
        await turns(10)
        assert seen == [0, 1, 2]
        assert source.closed == 1


async def read_own(s: Scope, read: Callable[[Stream[int]], Any]) -> None:
    """A daemon that makes its own stream."""
    await read(s.stream(Source(5, pause=10).items()))


@pytest.mark.virtual_time
@pytest.mark.parametrize("own_task", [False, True])
async def test_a_task_that_reads_is_waited_for(own_task: bool) -> None:
    """S36: it gets all items before the scope ends."""
    seen: list[int] = []

    async def read(items: Stream[int]) -> None:
        async for item in items:
            await anyio.sleep(0.1)
            seen.append(item)

    async with scope() as s:
        s.start_soon(read, s.stream(Source(5).items(), own_task=own_task))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.virtual_time
@pytest.mark.parametrize("made_here", [True, False])
async def test_a_shielded_reader_reads_on(made_here: bool) -> None:
    """R2: as all that is shielded it cannot be cut off, and the scope waits; afterwards it is cancelled."""
    source, seen = Source(3, pause=0.1), []

    async def read(items: Stream[int]) -> None:
        with anyio.CancelScope(shield=True):
            async for item in items:
                seen.append(item)
        await checkpoint()
        raise AssertionError("not cancelled")

    async with scope() as s:
        items = s.stream(source.items())
        if made_here:
            s.start_soon(cancel_in, s, 0.05)
            await read(items)
        s.start_soon(read, items)
        await anyio.sleep(0.05)
        s.cancel()
    assert seen == [0, 1, 2]
    assert source.closed == 1


async def cancel_in(s: Scope, seconds: float) -> None:
    """Cancel a scope after a while."""
    await anyio.sleep(seconds)
    s.cancel("later")


async def test_a_stream_made_in_a_cancelled_scope() -> None:
    """R2: it can be made, and read where that is shielded; else the reader is cancelled, or told."""
    source, unread, told = Source(3), Source(3), Told()
    async with anyio.create_task_group() as tg, scope(name="app") as s:
        s.cancel("over")
        tg.start_soon(told.read, s.stream(unread.items()))
        with anyio.CancelScope(shield=True):
            assert await s.stream(source.items()).collect() == [0, 1, 2]
            await turns(3)
        async for _ in s.stream(unread.items()):
            raise AssertionError("cancelled")
        raise AssertionError("cancelled")
    assert isinstance(told.error, ScopeCancelled)
    assert (source.closed, unread.given) == (1, 0)


async def test_a_stream_of_a_parent_that_a_child_reads() -> None:
    """R2, R3: the stream is the parent's; a child that is cancelled closes nothing of it."""
    source = Source(5)
    async with scope(name="app") as s:
        items = s.stream(source.items())
        async with scope(name="child") as child:
            async for item in items:
                if item == 1:
                    child.cancel()
                    await checkpoint()
        assert source.closed == 0
        assert await anext(items) == 2
        assert streams_of(s) == ["stream Source.items (#0) open"]
    assert source.closed == 1


@pytest.mark.virtual_time
async def test_a_child_that_is_cancelled_in_a_step_ends_the_source() -> None:
    """R2: as always in Python, but the next step says so and does not look like its end."""
    source = Source(5, pause=1)
    async with scope(name="app") as s:
        items = s.stream(source.items())
        with anyio.move_on_after(0.5):
            await anext(items)
        text = "waiting for an item was cut off, which has ended its source"
        for _ in range(2):
            with pytest.raises(StreamClosed, match=text):
                await anext(items)
        others = s.stream(Source(5, pause=1).items())
        with anyio.move_on_after(2.5):
            async for _ in others:
                pass
        with pytest.raises(StreamClosed, match="its source has ended"):
            async for _ in others:
                raise AssertionError("cut off")


async def test_a_class_that_iterates_survives_a_step_that_is_cut() -> None:
    """R2: only a generator ends then."""
    send, receive = anyio.create_memory_object_stream[int](1)
    async with scope() as s, send, s.stream(receive) as items:
        with anyio.CancelScope() as cut:
            cut.cancel()
            await anext(items)
        send.send_nowait(1)
        assert await anext(items) == 1


# ------------------------------------------------------------------ closing under cancellation
@pytest.mark.virtual_time
@pytest.mark.parametrize("in_block", [True, False])
@modes
async def test_s21_closing_is_shielded(in_block: bool, options: dict[str, Any]) -> None:
    """R3: the body is cancelled while the source is between two items."""
    source = Source(5, closing=0.02)
    async with scope() as s:
        if in_block:
            async with s.stream(source.items(), **options) as items:
                assert await anext(items) == 0
                await turns(10)
                s.cancel()
                await checkpoint()
        async for _ in s.stream(source.items(), **options):
            await turns(10)
            s.cancel()
            await checkpoint()
    assert source.closed == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("in_block", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
@modes
async def test_s21_closing_is_bounded(
    in_block: bool, is_cancelled: bool, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """R3, S7: by `close_timeout`, with an error that names the source. Where it is not cancelled a block waits."""
    caplog.set_level(logging.ERROR)
    source = Source(5, closing=30)
    waits = in_block and not is_cancelled and "own_task" not in options and "buffer" not in options
    began = anyio.current_time()
    try:
        async with scope(name="app", close_timeout=0.05) as s:
            if in_block:
                async with s.stream(source.items(), **options) as items:
                    assert await anext(items) == 0
                    await turns(10)
                    if is_cancelled:
                        s.cancel()
                        await checkpoint()
            else:
                items = s.stream(source.items(), **options)
                assert await anext(items) == 0
                await turns(10)
                if is_cancelled:
                    s.cancel()
    except BaseExceptionGroup as group:
        errors = leaves(group)
    except CloseTimeout as error:
        errors = [error]
    else:
        errors = []
    assert {type(error) for error in errors} == (set() if waits else {CloseTimeout})
    assert len(errors) <= 2  # the source's task tells it, and who closes that
    assert all("Source.items (#0)" in str(error) for error in errors)
    assert anyio.current_time() - began == pytest.approx(30 if waits else 0.05, abs=0.06)


@pytest.mark.virtual_time
@pytest.mark.parametrize("in_block", [True, False])
@modes
async def test_s21_closing_without_a_bound(in_block: bool, options: dict[str, Any]) -> None:
    """S7: `close_timeout=None` waits as long as it takes."""
    source = Source(5, closing=1000)
    async with scope(name="app", close_timeout=None) as s:
        if in_block:
            async with s.stream(source.items(), **options) as items:
                assert await anext(items) == 0
                await turns(10)
                s.cancel()
                await checkpoint()
        async for _ in s.stream(source.items(), **options):
            await turns(10)
            s.cancel()
    assert source.closed == 1


@pytest.mark.virtual_time
async def test_s22_a_deadline_of_the_scope_is_the_scopes() -> None:
    """R4, S6: no error of the stream."""
    source, seen = Source(99, pause=0.01), []
    with pytest.raises(ScopeTimeout):
        async with scope(timeout=0.055) as s:
            async for item in s.stream(source.items()):
                seen.append(item)
    assert seen == [0, 1, 2, 3, 4]
    assert source.begun == 1


# ------------------------------------------------------------------ time-outs
@pytest.mark.virtual_time
@pytest.mark.parametrize("own_task", [False, True])
async def test_s23_a_time_out_in_all(own_task: bool) -> None:
    """R4: the waiting is bounded; the body's time does not count, and is not cut."""
    source, seen = Source(9, pause=0.02), []
    async with scope(name="app") as s:
        items = s.stream(source.items(), timeout=0.05, own_task=own_task)
        with pytest.raises(StreamTimeout) as caught:
            async for item in items:
                seen.append(item)
                if not own_task:
                    await anyio.sleep(1)
        assert seen == [0, 1]
        assert str(caught.value) == "stream Source.items (#0) of app: its items took more than 0.05 s in all"
        assert (caught.value.limit, caught.value.per_item) == (0.05, False)
        for _ in range(2):
            with pytest.raises(StreamTimeout):
                await anext(items)
        assert source.begun == (0 if own_task else 1)
    assert source.begun == 1


@pytest.mark.virtual_time
async def test_s24_a_time_out_of_one_item() -> None:
    """R4: raised again and again, in whichever loop; the source is closed."""
    source = Source(9, pause=0.1)
    async with scope(name="app") as s:
        items = s.stream(source.items(), item_timeout=0.03)
        with pytest.raises(StreamTimeout) as caught:
            async for _ in items:
                raise AssertionError("too late")
        assert str(caught.value) == "stream Source.items (#0) of app: no item within 0.03 s"
        with pytest.raises(StreamTimeout):
            await anext(items)
        with pytest.raises(StreamTimeout):
            async for _ in items.map(str):
                raise AssertionError("too late")
        assert source.begun == 1


@pytest.mark.virtual_time
async def test_s24_a_time_out_below_an_operator_is_remembered() -> None:
    """R4: the generator above it has ended, and that is not the end of the source."""
    async with scope(name="app") as s:
        items = s.stream(Source(9, pause=0.1).items(), item_timeout=0.03).map(str)
        for _ in range(3):
            with pytest.raises(StreamTimeout):
                await anext(items)


@pytest.mark.virtual_time
async def test_s25_the_task_is_usable_after_a_time_out() -> None:
    """R4: nothing of it is left."""
    async with scope() as s:
        with pytest.raises(StreamTimeout):
            async with s.stream(Source(9, pause=1).items(), item_timeout=0.03) as items:
                async for _ in items:
                    raise AssertionError("too late")
        assert anyio.current_effective_deadline() == math.inf
        await anyio.sleep(1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("own_task", [False, True])
async def test_s26_the_time_of_the_body_does_not_count(own_task: bool) -> None:
    """R4: for one item as for all."""
    async with scope() as s:
        async for _ in s.stream(Source(9).items(), item_timeout=0.02, timeout=0.02, own_task=own_task):
            await anyio.sleep(0.05)


@pytest.mark.virtual_time
async def test_s27_an_own_task_survives_a_time_out() -> None:
    """R4, R5: the late item comes at the next step, and all later ones."""
    seen: list[int] = []
    late = 0
    async with scope() as s:
        items = s.stream(Source(4, pause=0.05).items(), own_task=True, item_timeout=0.03)
        while True:
            try:
                seen.append(await anext(items))
            except StreamTimeout:
                late += 1
            except StopAsyncIteration:
                break
    assert seen == [0, 1, 2, 3]
    assert late == 4


@pytest.mark.virtual_time
async def test_both_time_outs() -> None:
    """R4: whichever comes first."""
    async with scope() as s:
        items = s.stream(Source(9, pause=0.02).items(), timeout=0.05, item_timeout=0.03)
        with pytest.raises(StreamTimeout, match="in all"):
            await items.collect()
        items = s.stream(Source(9, pause=0.04).items(), timeout=0.05, item_timeout=0.03)
        with pytest.raises(StreamTimeout, match="no item within"):
            await items.collect()


# ------------------------------------------------------------------ closed by somebody else
@pytest.mark.virtual_time
@modes
async def test_s29_closed_by_another_task(options: dict[str, Any]) -> None:
    """R2: who waits is told; `aclose` returns when the source is closed."""
    told, source = Told(), Source(5, pause=1)
    async with scope() as s:
        items = s.stream(source.items(), **options)
        s.start_soon(told.read, items)
        await anyio.sleep(1.5)
        async with anyio.create_task_group() as tg:
            tg.start_soon(items.aclose)
            tg.start_soon(items.aclose)  # waits for the other
        assert source.begun == 1
        assert isinstance(told.error, StreamClosed)
        assert told.error.problem == "it was closed"
        assert (told.items, told.lives) == ([0], True)


@pytest.mark.virtual_time
async def test_s29_a_loop_in_the_maker_ends_its_step_first() -> None:
    """R2: nothing of ours is around that step; it gets its item, and is told then."""
    source, seen = Source(5, pause=1), []

    async def close(items: Stream[int]) -> None:
        await anyio.sleep(2.5)
        await items.aclose()
        assert source.closed == 1

    async with scope() as s:
        items = s.stream(source.items())
        s.start_soon(close, items)
        with pytest.raises(StreamClosed, match="it was closed"):
            async for item in items:
                seen.append(item)
        assert seen == [0, 1, 2]


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [ValueError("source"), None])
async def test_s29_a_loop_in_the_maker_that_ends_meanwhile(error: Exception | None) -> None:
    """R2: whoever closes it learns of that too."""
    source = Source(2, pause=1, error=error)

    async def close(items: Stream[int]) -> None:
        await anyio.sleep(1.99)
        await items.aclose()
        assert streams_of(s) == []

    async with scope() as s:
        items = s.stream(source.items())
        task = s.task(close, items)
        try:
            async for _ in items:
                await anyio.sleep(0.98)
        except (ValueError, StreamClosed):
            pass
        await task.unwrap()
        assert source.closed == 1


@pytest.mark.virtual_time
async def test_s29_a_loop_that_waits_for_a_task_of_its_own_is_interrupted() -> None:
    """R2: there it can be, wherever the task is in the line."""
    for options in ({"own_task": True}, {"buffer": 2}, {"own_task": True, "timeout": 99.0}):
        for extend in (lambda items: items, lambda items: items.map(str), lambda items: items.take(9)):
            source, seen = Source(5, pause=1), []
            async with scope() as s:
                items = extend(s.stream(source.items(), **options))  # type: ignore[arg-type]
                s.start_soon(close_in, items, 1.5)
                with pytest.raises(StreamClosed, match="it was closed"):
                    async for item in items:
                        seen.append(item)
                await anyio.sleep(0.1)
                assert streams_of(s) == []
            assert len(seen) == 1
            assert source.begun == 1


async def close_in(items: Stream[Any], seconds: float) -> None:
    """Close a stream after a while."""
    began = anyio.current_time()
    await anyio.sleep(seconds)
    await items.aclose()
    assert anyio.current_time() - began < seconds + 0.1


@pytest.mark.virtual_time
async def test_who_waits_for_the_closing_may_be_cancelled() -> None:
    """R3: the closing goes on."""
    told, source = Told(), Source(5, pause=1, closing=1)
    async with scope() as s:
        items = s.stream(source.items())
        s.start_soon(told.read, items)
        await anyio.sleep(1.5)
        with anyio.move_on_after(0.5):
            await items.aclose()
        await anyio.sleep(2)
        assert source.begun == 1
        assert streams_of(s) == []


@pytest.mark.virtual_time
async def test_a_stage_that_closes_its_own_stream_from_another_task() -> None:
    """R2: it is cancelled along with what it closes, and nobody waits for ever."""
    handles: list[Stream[Any]] = []

    async def close(item: int) -> None:
        for handle in handles:  # a call that begins when the reader has been told already finds none
            await handle.aclose()

    async with scope() as s:
        handles.append(s.stream(Source(5).items()).map(close, concurrency=2))
        with anyio.fail_after(5):
            with pytest.raises(StreamClosed):
                async for _ in handles[0]:
                    raise AssertionError("closed")
        handles.clear()


# ------------------------------------------------------------------ native cancellation, and worse
@pytest.mark.asyncio_only
@modes
async def test_a_reader_that_is_cancelled_natively(options: dict[str, Any]) -> None:
    """R3, S7: the cancellation is not swallowed, the source is closed, the scope goes on."""
    source = Source(5, pause=0.01, closing=0.001)

    async def read(s: Scope) -> None:
        async for _ in s.stream(source.items(), **options):
            pass

    async with scope() as s:
        task = s.task(read, s)
        await turns(5)
        native = task._native_task() if hasattr(task, "_native_task") else None
        for each in asyncio.all_tasks():
            if native is None and "read" in each.get_name():
                each.cancel()
        assert isinstance((await task), Err)
        await anyio.sleep(0.02)
        assert source.begun == 1
        assert streams_of(s) == []


@pytest.mark.asyncio_only
async def test_a_closing_task_that_is_cancelled_before_it_begins() -> None:
    """R3, S7: the scope closes the source all the same, and says what happened."""
    source = Source(5)
    with pytest.raises((ScopeCancelled, ExceptionGroup)):
        async with scope() as s:
            async for _ in s.stream(source.items()):
                break
            await asyncio.sleep(0)  # the loop is told
            closing = [task for task in asyncio.all_tasks() if task.get_name().startswith("closing stream")]
            assert len(closing) == 1
            closing[0].cancel()
    assert source.closed == 1


@pytest.mark.asyncio_only
async def test_a_closing_task_that_is_cancelled_later() -> None:
    """R3, S7: it ends, and says that it was cut short."""
    source = Source(5, closing=10)
    with pytest.raises((ScopeCancelled, ExceptionGroup)) as caught:
        async with scope() as s:
            async for _ in s.stream(source.items()):
                break
            await turns(5)
            closing = [task for task in asyncio.all_tasks() if task.get_name().startswith("closing stream")]
            assert len(closing) == 1
            closing[0].cancel()
            await turns(5)
            assert streams_of(s) == []
    assert [type(each) for each in leaves(caught.value)] == [ScopeCancelled]
    assert source.begun == 1


@pytest.mark.asyncio_only
async def test_a_closing_in_the_clean_up_that_is_cancelled() -> None:
    """R3, S7: natively, while the scope itself closes it."""
    source = Source(5, closing=10)

    def strike() -> None:
        for task in asyncio.all_tasks():
            if task.get_name().startswith("closer of"):
                task.cancel()

    with pytest.raises((ScopeCancelled, ExceptionGroup)):
        async with scope() as s:
            items = s.stream(source.items())
            await anext(items)
            asyncio.get_running_loop().call_later(0.01, strike)
    assert source.begun == 1


class Fatal(BaseException):
    """As KeyboardInterrupt, but an event loop lets it pass."""


@pytest.mark.parametrize("place", ["step", "closing"])
@pytest.mark.parametrize("in_block", [True, False])
@modes
async def test_a_fatal_exception_ends_the_scope(place: str, in_block: bool, options: dict[str, Any]) -> None:
    """S15: it leaves bare, and everything is closed."""
    fatal = Fatal()
    source = Source(2, error=fatal) if place == "step" else Source(9, closing_error=fatal)
    other = Source(9)
    with pytest.raises(BaseException) as caught:
        async with scope() as s:
            others = s.stream(other.items())
            await anext(others)
            if in_block:
                async with s.stream(source.items(), **options) as items:
                    async for item in items:
                        await turns(10)
                        if item == 1 and place == "closing":
                            break
            else:
                async for item in s.stream(source.items(), **options):
                    await turns(10)
                    if item == 1 and place == "closing":
                        break
                await turns(10)
                await anyio.sleep(1 if place == "step" else 0)
    assert caught.value is fatal
    assert source.begun == other.closed == 1


async def test_the_errors_of_a_whole_line() -> None:
    """R3: each link is closed whatever became of the others; the first error leaves, the others hang below it."""
    first, second = OSError("outer"), OSError("inner")
    source = Source(9, closing_error=second)

    async def outer(items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for item in items:
                yield item
        finally:
            raise first

    async with scope() as s:
        inner = s.stream(source.items())
        async with s.stream(outer(inner)) as items:
            pass
        with pytest.raises(OSError, match="outer") as caught:
            async with s.stream(outer(inner)) as items:
                await anext(items)
        assert caught.value is first
        with pytest.raises(OSError, match="inner"):
            await inner.aclose()
        assert source.closed == 1


async def test_a_line_of_several_links_that_fail() -> None:
    """R3: the errors of all of them are told."""
    inner, outer = OSError("inner"), OSError("outer")

    async def flat(number: int) -> AsyncIterator[int]:
        try:
            yield number
            yield number
        finally:
            raise outer

    async with scope() as s:
        with pytest.raises(OSError, match="outer") as caught:
            async with s.stream(Source(9, closing_error=inner).items()).flat_map(flat) as items:
                await anext(items)
        told: list[BaseException | None] = [caught.value]
        while told[-1] is not None:
            told.append(told[-1].__context__)
        assert inner in told


# ------------------------------------------------------------------ time-outs and what they cut
async def test_a_time_out_refuses_a_source_that_holds_a_scope() -> None:
    """R5: it cannot be left before it; an own task can."""

    async def holding() -> AsyncIterator[int]:
        with anyio.CancelScope():
            yield 1
            yield 2

    async with scope(name="app") as s:
        with pytest.raises(ScopeMisuse, match=r"own_task=True"):
            async with s.stream(holding(), timeout=5) as items:
                await anext(items)
        await checkpoint()
        assert await s.stream(holding(), timeout=5, own_task=True).collect() == [1, 2]


def test_a_task_cancelled_is_an_error() -> None:
    """T5: the report of a reader that was cancelled."""
    assert issubclass(TaskCancelled, Exception)
