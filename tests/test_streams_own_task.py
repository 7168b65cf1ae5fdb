"""Streams as a black box: sources in tasks of their own, and sources that hold scopes across their yields (R5)."""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"
# ruff: noqa: PERF401  (the loops are what is tested)

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Err, Ok, Scope, ScopeCancelled, ScopeMisuse, Stream, StreamClosed, StreamTimeout, scope
from anyscope._features.streaming.buffer import Buffer
from anyscope._features.streaming.line import Line, Link
from scenarios import leaves
from streams import Closable, Source, streams_of, turns

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


# ------------------------------------------------------------------ demand
@pytest.mark.virtual_time
async def test_s28_a_reader_that_is_cut_off_loses_nothing() -> None:
    """R5: an item that came too late lies there for the next step."""
    seen: list[int] = []
    paces = itertools.cycle([0.0004, 0.0011, 0.0, 0.0023, 0.0009])

    async def numbers() -> AsyncIterator[int]:
        for number in range(200):
            await anyio.sleep(next(paces))
            yield number

    async with scope() as s:
        items = s.stream(numbers(), own_task=True)
        is_over = False
        while not is_over:
            with anyio.move_on_after(0.001):
                try:
                    seen.append(await anext(items))
                except StopAsyncIteration:
                    is_over = True
    assert seen == list(range(200))


@pytest.mark.virtual_time
@pytest.mark.parametrize("buffer", [0, 1, 3])
async def test_s31_no_further_ahead_than_asked_for(buffer: int) -> None:
    """R5: the items that lie there and one in hand; with none, on demand alone."""
    source, taken = Source(20), 0
    async with scope() as s:
        items = s.stream(source.items(), own_task=True, buffer=buffer)
        await turns(10)
        assert source.given == 0
        async for _ in items:
            taken += 1
            await anyio.sleep(0.1)
            assert source.given == min(20, taken + buffer)
    assert taken == 20


@pytest.mark.virtual_time
async def test_s32_a_failing_source_disturbs_nobody() -> None:
    """R5: all items, then the bare error; the scope and its other tasks go on."""
    seen: list[int] = []
    async with scope() as s:
        other = s.task(anyio.sleep, 1)
        with pytest.raises(ValueError, match="source"):
            async for item in s.stream(Source(2, error=ValueError("source")).items(), buffer=5):
                await anyio.sleep(0.1)
                seen.append(item)
        assert seen == [0, 1]
        assert await other == Ok(None)
        assert streams_of(s) == []


@pytest.mark.parametrize("at_the_end", [True, False])
async def test_s33_an_error_that_nobody_reads_leaves_the_scope(at_the_end: bool) -> None:
    """R5, S4: of a step or of the closing, once."""
    step, closing = ValueError("step"), OSError("closing")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            items = s.stream(Source(1, error=step).items(), buffer=2)
            others = s.stream(Source(9, closing_error=closing).items(), own_task=True)
            assert await anext(items) == await anext(others) == 0
            await turns(10)
            if not at_the_end:
                del items, others
                await turns(10)
    assert set(leaves(caught.value)) == {step, closing}


async def test_an_error_of_a_step_and_one_of_closing() -> None:
    """R5, S4: the reader gets the first, the scope the other."""
    step, closing = ValueError("step"), OSError("closing")

    async def outer(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
        raise step

    class Failing:
        def __aiter__(self) -> AsyncIterator[int]:
            return self

        async def __anext__(self) -> int:
            await checkpoint()
            raise step

        async def aclose(self) -> None:
            raise closing

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            with pytest.raises(ValueError, match="step"):
                await s.stream(Failing(), own_task=True).collect()
    assert leaves(caught.value) == [closing]
    assert closing.__notes__ == ["in source of Failing (#0) of app"]


@pytest.mark.virtual_time
async def test_s36_what_nobody_reads_does_not_keep_the_scope() -> None:
    """R5, S2: a full buffer, an idle source, and one that waits for ever."""
    began = anyio.current_time()
    sources = [Source(9), Source(9), Source(9, pause=1e6)]
    async with scope() as s:
        full, idle, slow = (s.stream(source.items(), buffer=2) for source in sources)
        assert await anext(full) == await anext(idle) == 0
        with anyio.move_on_after(1):
            await anext(slow)
    assert anyio.current_time() - began == 1
    assert [source.begun for source in sources] == [1, 1, 1]


async def test_s37_a_producer_that_fails_is_no_end() -> None:
    """R2, R5: also where its send side is closed first."""
    send, receive = anyio.create_memory_object_stream[int](5)

    async def source() -> AsyncIterator[int]:
        async def produce() -> None:
            async with send:
                await send.send(1)
                raise ValueError("producer")

        async with anyio.create_task_group() as tg:
            tg.start_soon(produce)
            async with receive:
                async for item in receive:
                    yield item

    seen: list[int] = []
    async with scope() as s:
        with pytest.raises(ExceptionGroup) as caught:
            async for item in s.stream(source(), own_task=True):
                seen.append(item)
        assert [str(each) for each in leaves(caught.value)] == ["producer"]
    assert seen in ([], [1])


async def test_a_source_that_runs_in_one_task() -> None:
    """R5: from its first step to its end, none of it in the reader's."""
    source = Source(3)
    async with scope() as s:
        assert await s.stream(source.items(), own_task=True).collect() == [0, 1, 2]
    assert len(source.tasks) == 1
    assert anyio.get_current_task().id not in source.tasks


# ------------------------------------------------------------------ sources that hold scopes
@asynccontextmanager
async def a_scope() -> AsyncIterator[None]:
    """A cancel scope with a deadline."""
    with anyio.move_on_after(1000):
        yield


@asynccontextmanager
async def a_task_group() -> AsyncIterator[None]:
    """A task group with a task."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 0)
        yield


@asynccontextmanager
async def a_busy_task_group() -> AsyncIterator[None]:
    """A task group with a task that never ends."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep_forever)
        yield
        tg.cancel_scope.cancel()


@asynccontextmanager
async def one_of_ours() -> AsyncIterator[None]:
    """A scope of this library."""
    async with scope(name="source") as s:
        s.start_soon(anyio.sleep, 0)
        yield


HOLDERS: Any = pytest.mark.parametrize("holder", [a_scope, a_task_group, a_busy_task_group, one_of_ours])
LOG: list[str] = []


async def holding(holder: Any, count: int = 5) -> AsyncIterator[int]:
    """A source that breaks PEP 789."""
    context: AbstractAsyncContextManager[None] = holder()
    try:
        async with context:
            for number in range(count):
                await checkpoint()
                yield number
    finally:
        LOG.append("closed")


@pytest.fixture(autouse=True)
def _log() -> None:
    LOG.clear()


async def check_usable(s: Scope) -> None:
    """The task, and a scope in it, are what they were."""
    assert LOG == ["closed"]
    with anyio.CancelScope() as inner:
        await checkpoint()
    assert not inner.cancelled_caught
    assert not s.cancelled
    async with scope(name="usable") as usable:
        assert await usable.run(anyio.sleep, 0) == Ok(None)
    with anyio.move_on_after(0) as cut:
        await anyio.sleep(1)
    assert cut.cancelled_caught


@HOLDERS
@pytest.mark.parametrize("end", ["break", "end", "block", "error"])
@pytest.mark.parametrize("options", [{}, {"item_timeout": 5.0}, {"timeout": 5.0}], ids=str)
async def test_s34_in_a_task_of_its_own(holder: Any, end: str, options: dict[str, Any]) -> None:
    """R5: begun and closed there, with or without time-outs; the reader's task sees nothing of it."""
    async with scope(name="app") as s:
        items = s.stream(holding(holder), own_task=True, **options)
        if end == "block":
            async with items:
                assert await anext(items) == 0
        elif end == "error":
            with pytest.raises(KeyError):
                async with items:
                    raise KeyError(await anext(items))
        else:
            async for item in items:
                if item == 2 and end == "break":
                    break
        del items
        await turns(20)
        await check_usable(s)
        assert s.tree() == "scope app open"


@HOLDERS
@pytest.mark.parametrize("when", ["between", "during"])
async def test_s34_in_a_task_of_its_own_when_cancelled(holder: Any, when: str) -> None:
    """R5: the scope is cancelled between two items, or while one is waited for."""
    async with scope(name="host") as host:
        async with scope(name="app") as s:
            items = s.stream(holding(holder), own_task=True)
            assert await anext(items) == 0
            s.cancel("enough")
            if when == "between":
                await checkpoint()
            await anext(items)
            raise AssertionError("cancelled")
        await check_usable(host)


@HOLDERS
@pytest.mark.parametrize("end", ["break", "end", "error", "unread"])
async def test_s35_in_a_block(holder: Any, end: str) -> None:
    """R1, R5: its scopes lie around the body, and are left before the block is."""
    async with scope(name="app") as s:
        try:
            async with s.stream(holding(holder)) as items:
                async for item in items:
                    await checkpoint()
                    if end == "error":
                        raise KeyError(item)
                    if item == 2 and end == "break":
                        break
                    if end == "unread":
                        break
        except (KeyError, BaseExceptionGroup) as error:
            assert end == "error"
            assert [type(each) for each in leaves(error)] == [KeyError]
        await check_usable(s)
        assert s.tree() == "scope app open"


@HOLDERS
@pytest.mark.parametrize("when", ["between", "during"])
async def test_s35_in_a_block_when_cancelled(holder: Any, when: str) -> None:
    """R1, R5: nothing is corrupted, and no error is made of it."""
    async with scope(name="host") as host:
        async with scope(name="app") as s:
            async with s.stream(holding(holder)) as items:
                async for item in items:
                    if item == 1:
                        s.cancel("enough")
                        if when == "between":
                            await checkpoint()
            raise AssertionError("cancelled")
        await check_usable(host)


@HOLDERS
@pytest.mark.parametrize("options", [{}, {"item_timeout": 5.0}, {"timeout": 5.0}], ids=str)
@pytest.mark.parametrize("in_block", [True, False])
async def test_s35b_is_told_where_it_cannot_be_read(holder: Any, options: dict[str, Any], in_block: bool) -> None:
    """R5: in a bare loop, and with time-outs; at the first item, and the task is usable."""
    if in_block and not options:
        pytest.skip("that can be read")
    async with scope(name="app") as s:
        items = s.stream(holding(holder), **options)
        with pytest.raises(ScopeMisuse) as caught:
            if in_block:
                async with items:
                    await anext(items)
            async for _ in items:
                raise AssertionError("it was not found out")
        assert str(caught.value) == (
            "scope app: stream holding (#0) cannot be read like this: its source keeps a cancel scope or a task group "
            "open across its `yield`\n"
            "Such a source must run in one task from its first step to its end: s.stream(..., own_task=True)"
        )
        del items
        await turns(10)
        await check_usable(s)
        assert s.tree() == "scope app open"


@HOLDERS
async def test_s35b_a_stranger_is_told(holder: Any) -> None:
    """R5: whose steps are guarded, so that not even a block helps."""

    async def stranger(items: Stream[int]) -> None:
        for in_block in (True, False):
            with pytest.raises(ScopeMisuse, match="own_task=True"):
                if in_block:
                    async with items:
                        await anext(items)
                async for _ in items:
                    raise AssertionError("it was not found out")
            break
        with anyio.move_on_after(0) as cut:
            await anyio.sleep(1)
        assert cut.cancelled_caught

    async with anyio.create_task_group() as tg, scope(name="app") as s:
        tg.start_soon(stranger, s.stream(holding(holder)))
        await turns(20)
        await check_usable(s)


@HOLDERS
async def test_s35b_is_told_while_it_is_cancelled(holder: Any) -> None:
    """R5: a source that is found out by a reader that is cancelled."""

    async def reader(s: Scope) -> None:
        async for _ in s.stream(holding(holder)):
            raise AssertionError("it was not found out")

    async with scope(name="app") as s:
        task = s.task(reader, s)
        await turns(1)
        task.cancel()
        assert isinstance(await task, Err)
        await turns(10)
        if LOG:
            await check_usable(s)


@HOLDERS
async def test_a_block_of_a_source_that_holds_scopes_is_closed_in_its_task(holder: Any) -> None:
    """R1, R5: also where another task asks for it."""
    async with scope(name="app") as s:
        async with s.stream(holding(holder)) as items:
            assert await anext(items) == 0
            s.start_soon(items.aclose)
            await turns(10)
            assert LOG == []
            with pytest.raises(Exception, match="it was closed"):
                await anext(items)
        await check_usable(s)


@HOLDERS
async def test_a_block_of_a_source_that_holds_scopes_may_go_on_with_an_operator(holder: Any) -> None:
    """R1, R5: no scope of ours is put over those of the source."""
    async with scope(name="app") as s:
        async with s.stream(holding(holder)) as items:
            assert await anext(items) == 0
            assert [name async for name in items.map(str)] == ["1", "2", "3", "4"]
        await check_usable(s)


@HOLDERS
async def test_a_block_of_a_source_that_holds_scopes_is_read_in_its_task(holder: Any) -> None:
    """R1, R5: another task is told, and disturbs nothing."""
    async with scope(name="app") as s:
        async with s.stream(holding(holder)) as items:
            assert await anext(items) == 0
            for call in (items.collect, items.__anext__):
                error, _ = await s.task(call)
                assert isinstance(error, ScopeMisuse)
                assert "own_task=True" in str(error)
            assert await anext(items) == 1
        await check_usable(s)


async def test_a_scope_without_a_deadline_in_a_cancelled_block() -> None:
    """R5: Trio shows nothing of such a scope, so its closing may fail under cancellation; then that is told."""

    async def source() -> AsyncIterator[int]:
        try:
            with anyio.CancelScope():
                yield 1
                yield 2
        finally:
            LOG.append("closed")

    async with scope(name="host") as host:
        try:
            async with scope(name="app") as s, s.stream(source()) as items:
                await anext(items)
                s.cancel()
                await checkpoint()
        except ExceptionGroup as group:
            assert [type(each) for each in leaves(group)] == [ScopeMisuse]
            assert "own_task=True" in str(leaves(group)[0])
        await check_usable(host)


async def test_a_task_group_that_fails_when_it_is_closed() -> None:
    """R5: its errors are told, and the `GeneratorExit` that closed it is not."""
    error = ValueError("task")

    async def source() -> AsyncIterator[int]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(fail)
            yield 1
            yield 2

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async with scope() as s:
        with pytest.raises(ExceptionGroup) as caught:
            async with s.stream(source()) as items:
                assert await anext(items) == 1
                await turns(3)
        assert leaves(caught.value) == [error]
        with pytest.raises(ExceptionGroup) as caught:
            async with s.stream(source(), own_task=True) as items:
                assert await anext(items) == 1
                await turns(3)
        assert leaves(caught.value) == [error]


# ------------------------------------------------------------------ native cancellation
def tasks_named(text: str) -> list[asyncio.Task[Any]]:
    """The tasks of the loop that are called so."""
    return [task for task in asyncio.all_tasks() if text in task.get_name()]


@pytest.mark.asyncio_only
@pytest.mark.parametrize("after", [0, 3])
async def test_an_own_task_that_is_cancelled_natively(after: int) -> None:
    """R2, S7: the reader is told, not left waiting; before its first step, and later."""
    source = Source(5, pause=0.01)
    told: list[BaseException] = []

    async def read(items: Stream[int]) -> None:
        try:
            async for _ in items:
                pass
        except ScopeCancelled as error:
            told.append(error)
            raise

    with pytest.raises((ScopeCancelled, ExceptionGroup)):
        async with scope(name="app") as s:
            task = s.task(read, s.stream(source.items(), own_task=True))
            while not tasks_named("source of"):
                await asyncio.sleep(0)
            await turns(after)
            tasks_named("source of")[0].cancel()
            (await task).unwrap()
    assert source.begun == (1 if after else 0)
    assert len(told) == (1 if after else 0)


@pytest.mark.asyncio_only
async def test_an_own_task_that_is_cancelled_natively_while_it_closes() -> None:
    """R3, S7: the closing is cut short, and that is told; Python 3.10 cannot tell it from our own cancellation."""
    source = Source(5, closing=10)
    may_tell = suppress(ExceptionGroup) if sys.version_info < (3, 11) else pytest.raises(ExceptionGroup)
    with may_tell as caught:
        async with scope(name="app") as s:
            async for _ in s.stream(source.items(), own_task=True):
                break
            await turns(10)
            tasks_named("source of")[0].cancel()
            await turns(10)
    assert caught is None or [type(each) for each in leaves(caught.value)] == [ScopeCancelled]
    assert source.begun == 1


@pytest.mark.asyncio_only
async def test_who_closes_an_own_task_is_cancelled_natively() -> None:
    """S4: an error of the closing is not lost with him."""
    error = OSError("closing")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            items = s.stream(Source(5, closing=0.01, closing_error=error).items(), own_task=True)
            await anext(items)
            task = s.task(items.aclose)
            await turns(3)
            closer = [each for each in asyncio.all_tasks() if "aclose" in each.get_name()]
            closer[0].cancel()
            assert isinstance(await task, Err)
    assert leaves(caught.value) == [error]


# ------------------------------------------------------------------ memory
async def test_dropped_streams_leave_no_garbage() -> None:
    """R3: nothing of ours is in a cycle, be it read or not."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def use(s: Scope) -> None:
        for options in ({}, {"own_task": True}, {"timeout": 5.0}):
            async for _ in s.stream(numbers(), **options):  # type: ignore[arg-type]
                pass
            async for _ in s.stream(numbers(), **options):  # type: ignore[arg-type]
                break
            s.stream(numbers(), **options)  # type: ignore[call-overload]
            await turns(10)

    async with scope() as s:
        await use(s)
        gc.collect()
        gc.disable()
        try:
            await use(s)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            ours = [each for each in gc.garbage if type(each).__module__.startswith("anyscope._features.streaming")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert ours == []
        assert streams_of(s) == []


def test_a_link_is_nothing_special() -> None:
    """The base of what a line is made of has nothing to say."""
    link = Link()
    link.interrupt(ValueError())
    assert not link.has_ended
    assert not link.is_running


async def test_stream_timeouts_survive_in_an_own_task_with_stages() -> None:
    """R4: above a stage they do not."""
    async with scope() as s:
        items = s.stream(Source(3, pause=0.01).items(), own_task=True).map(str).timeout(0.001)
        for _ in range(2):
            with pytest.raises(StreamTimeout):
                await anext(items)


# ------------------------------------------------------------------ rare ends
async def test_an_own_task_in_a_cancelled_scope() -> None:
    """R2: a shielded reader of a scope that is cancelled already is told; on both backends alike."""
    source = Source(5)
    async with scope(name="app") as s:
        s.cancel("over")
        with anyio.CancelScope(shield=True):
            with pytest.raises(ScopeCancelled) as caught:
                await anext(s.stream(source.items(), own_task=True))
            await turns(10)
        assert str(caught.value) == "scope app was cancelled (over): source of Source.items (#0) of app was cut off"
    assert source.given == 0


async def test_a_task_that_was_taken_for_lost_does_nothing() -> None:
    """S7: should it begin after all."""
    source, other = Source(5), Source(5)
    async with scope(name="app") as s:
        owner = s._owner
        items, others = s.stream(source.items(), own_task=True), s.stream(other.items())
        reading = items._reading
        buffer = Buffer(Line(owner, "test"), lambda line: line.add(source.items()), 1)
        buffer._start()
        assert buffer.is_unborn
        buffer.abandon()
        with pytest.raises(ScopeCancelled, match="cancelled natively"):
            await anext(buffer)
        await turns(3)
        assert source.given == 0
        assert await anext(others) == 0
        held = others._reading
        held.leave()
        assert held.is_unborn
        held.abandon()
        await turns(3)
        assert not held.is_unborn
        assert (held.state, other.begun) == ("closing", 0)
        await reading.aclose()
    assert (held.state, other.begun) == ("closed", 1)


async def test_an_error_of_closing_under_cancellation_is_told_as_it_is() -> None:
    """R3, S4: a RuntimeError like any other."""
    error = RuntimeError("closing")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s, s.stream(Source(5, closing_error=error).items()) as items:
            await anext(items)
            s.cancel()
            await checkpoint()
    assert leaves(caught.value) == [error]


async def test_what_has_ended_is_forgotten_at_once() -> None:
    """R3: there is nothing to be closed; and a handle that was never made complete is none."""

    def numbers() -> Iterator[int]:
        yield 1

    async with scope(name="app") as s:
        async for _ in s.stream(numbers()):
            pass
        async for _ in s.stream(Source(1).items(), own_task=True):
            pass
        async for _ in s.stream(Source(1).items(), timeout=5):
            pass
        assert s.tree() == "scope app open"
        Stream.__new__(Stream)


@pytest.mark.virtual_time
async def test_an_own_task_is_cancelled_with_the_scope_at_once() -> None:
    """R2: and not only when the tasks of the scope have ended."""
    source = Source(5, pause=10)

    async def linger() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        assert source.begun == 1

    async with scope() as s:
        items = s.stream(source.items(), own_task=True)
        with anyio.move_on_after(0.1):
            await anext(items)
        s.start_soon(linger)
        await anyio.sleep(0.1)
        s.cancel()
    assert source.begun == 1


@pytest.mark.virtual_time
async def test_a_batch_that_waits_for_more_is_interrupted() -> None:
    """R2: whoever closes the stream does not wait for the batch to be full."""
    source = Source(5, pause=1)

    async def close(items: Stream[list[int]]) -> None:
        await anyio.sleep(1.5)
        await items.aclose()
        assert anyio.current_time() - began < 2

    began = anyio.current_time()
    async with scope() as s:
        items = s.stream(source.items()).batch(5, within=100)
        s.start_soon(close, items)
        with pytest.raises(StreamClosed):
            async for _ in items:
                raise AssertionError("it is not full")
    assert source.begun == 1


async def test_a_cancellation_is_not_lost_among_errors_of_closing() -> None:
    """R3: it leaves, whichever link raised it, with the error below it."""
    error = OSError("closing")

    class Failing:
        async def aclose(self) -> None:
            raise error

    class Waiting:
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    async with scope() as s:
        line = Line(s._owner, "test")
        line.links += [Waiting(), Failing()]
        told: list[BaseException] = []
        with anyio.CancelScope() as cut:
            cut.cancel()
            try:
                await line.aclose()
            except BaseException as raised:
                told.append(raised)
                raise
        assert cut.cancelled_caught
        assert isinstance(told[0], anyio.get_cancelled_exc_class())
        context: BaseException | None = told[0]
        while context is not None and context is not error:
            context = context.__context__
        assert context is error


async def test_what_a_lost_task_was_to_read_is_closed_all_the_same() -> None:
    """R3: by whoever closes the stream; and the error is raised once."""
    closable = Closable()
    async with scope(name="app") as s:
        buffer = Buffer(Line(s._owner, "test"), lambda line: line.add(closable), 1)
        buffer._start()
        buffer.abandon()
        await buffer.aclose()
        assert closable.closed == 1
    failing = Source(1, error=ValueError("step"))
    async with scope(name="app") as s:
        buffer = Buffer(Line(s._owner, "test"), lambda line: line.add(failing.items()), 3)
        assert await anext(buffer) == 0
        await turns(10)
        with pytest.raises(ValueError, match="step"):
            await buffer.aclose()
        await buffer.aclose()


async def test_a_step_after_an_interruption() -> None:
    """R2: whoever asks what was interrupted gets that, too."""
    async with scope(name="app") as s:
        stream = s.stream(range(3), own_task=True)
        link = stream._reading._make()
        link.interrupt(ValueError("enough"))  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="enough"):
            await link.__anext__()


@pytest.mark.virtual_time
async def test_the_time_of_all_items_is_over_for_good() -> None:
    """R4: where the source goes on, too: the next step raises at once, though an item is there by then."""

    async def late() -> AsyncIterator[int]:
        for number in range(3):
            await anyio.sleep(1)
            yield number

    async with scope(name="app") as s, s.stream(late(), own_task=True, timeout=1.5) as items:
        assert await anext(items) == 0
        for _ in range(2):
            began = anyio.current_time()
            with pytest.raises(StreamTimeout, match=r"its items took more than 1.5 s in all"):
                await anext(items)
        assert anyio.current_time() == began
        await anyio.sleep(5)
        with pytest.raises(StreamTimeout):
            await anext(items)
