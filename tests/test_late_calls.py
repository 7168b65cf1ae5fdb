"""Calls of work that goes on in a scope which has been cancelled, and is being closed (S5, S12, R2, R7)."""

from __future__ import annotations

import gc
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from anyscope import Scope, ScopeClosed, ScopeTimeout, scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskStatus

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def nothing() -> None:
    """A job."""
    await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def manager() -> AsyncIterator[None]:
    """A context manager."""
    yield


async def child(s: Scope) -> None:
    """Open a child scope."""
    async with scope(parent=s):
        raise AssertionError("the child was entered")


async def completed(s: Scope) -> None:
    """Enter a call whose results come one by one."""
    async with s.as_completed([nothing]):
        raise AssertionError("the call was entered")


CALLS: dict[str, Callable[[Scope], Awaitable[Any]]] = {
    "run": lambda s: s.run(nothing),
    "start": lambda s: s.start(nothing),
    "parallel": lambda s: s.parallel([nothing]),
    "parallel_aggregate": lambda s: s.parallel_aggregate([nothing]),
    "race": lambda s: s.race([nothing]),
    "any": lambda s: s.any([nothing]),
    "as_completed": completed,
    "use": lambda s: s.use("late"),
    "enter": lambda s: s.enter(manager()),
    "child": child,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_daemon_that_was_cancelled_while_it_could_not_be_interrupted(
    call: Callable[[Scope], Awaitable[Any]],
) -> None:
    """S12: it sees its cancellation at its next call, not that the scope has closed; so the block ends quietly."""
    reached: list[str] = []

    async def daemon() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
        reached.append("late")
        await call(s)
        reached.append("too far")

    async with scope(name="app", parent=None).provide("late", nothing) as s:
        s.start_soon(daemon, daemon=True)
        await anyio.sleep(1)
        s.cancel("enough")
    assert reached == ["late"]
    assert s.cancel_reason == "enough"


@pytest.mark.parametrize("ordered", [True, False])
async def test_no_call_of_a_map_begins_after_the_cancellation(*, ordered: bool) -> None:
    """R7: a worker that could not be interrupted in its call does not go on with the next item."""
    begun: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    async def double(number: int) -> int:
        begun.append(number)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
        return 2 * number

    async with scope(name="app", parent=None) as s:
        doubled = s.stream(source()).map(double, concurrency=2, ordered=ordered)
        s.start_soon(doubled.for_each, nothing_with)
        await anyio.sleep(1)
        s.cancel("enough")
    assert begun == [0, 1]


async def nothing_with(_: int) -> None:
    """Take an item."""
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("own_task", [False, True])
async def test_a_reader_that_was_cancelled_while_it_could_not_be_interrupted(*, own_task: bool) -> None:
    """R2: it sees its cancellation at its next step, not that the stream has been closed."""
    seen: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    async def daemon() -> None:
        async for number in s.stream(source(), own_task=own_task):
            seen.append(number)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)

    async with scope(name="app", parent=None) as s:
        s.start_soon(daemon, daemon=True)
        await anyio.sleep(1)
        s.cancel("enough")
    assert seen == [0]


async def test_a_service_of_a_closed_scope() -> None:
    """S12: one who is cancelled sees that, though the scope has closed altogether."""
    async with scope(name="app", parent=None).provide("ready", nothing) as s:
        pass
    with anyio.CancelScope() as cut:
        cut.cancel()
        await s.use("ready")
    assert cut.cancelled_caught


@pytest.mark.parametrize("call", ["run", "parallel", "use"])
async def test_the_error_of_a_late_call_keeps_nothing_alive(call: str) -> None:
    """X6: it is in no cycle with the frames that it came through."""

    class Thing:
        pass

    async with scope(name="app", parent=None).provide("late", nothing) as s:
        pass

    async def caller() -> weakref.ref[Thing]:
        thing = Thing()
        with pytest.raises(ScopeClosed):
            await CALLS[call](s)
        return weakref.ref(thing)

    gc.collect()
    gc.disable()
    try:
        assert (await caller())() is None
    finally:
        gc.enable()


async def test_a_stranger_starts_a_task_as_the_block_is_left() -> None:
    """S6: the deadline holds, though the task has not begun when the block is left."""

    async def child(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep(100)

    async def stranger(s: Scope) -> None:
        calling.set()
        await s.start(child)

    calling = anyio.Event()
    began = anyio.current_time()
    async with anyio.create_task_group() as strangers:
        with pytest.raises(ScopeTimeout):
            async with scope(name="app", parent=None, timeout=1) as s:
                strangers.start_soon(stranger, s)
                await calling.wait()
    assert anyio.current_time() - began == 1
