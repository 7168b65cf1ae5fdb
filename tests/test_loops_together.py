"""Several event loops in one process: in threads, one after the other, one within the other, and two in one thread.

S9: a scope lives in one event loop; and whichever loop runs, it is told by its own means (timers, tasks, signals).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import outcome
import pytest
import trio

from anyscope import Pool, ScopeTimeout, current_scope, scope
from anyscope._lifetime import backend


async def give(x: int) -> int:
    """After a checkpoint."""
    await anyio.lowlevel.checkpoint()
    return x


async def use_everything(turns: int = 3) -> list[str]:
    """Whatever asks which loop it is in: places, timers, tasks, calls, pools and streams."""
    done: list[str] = []

    async def numbers() -> Any:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield number

    for turn in range(turns):
        async with scope(name=f"outer-{turn}", parent=None) as outer:
            assert current_scope() is outer
            assert outer.parent is None
            started = [outer.task(give, n) for n in range(3)]
            assert [(await task).unwrap() for task in started] == [0, 1, 2]
            assert (await outer.run(give, 4)).unwrap() == 4
            async with scope(name="inner") as inner:
                assert inner.parent is outer
                inner.task(anyio.sleep_forever)
                inner.cancel("enough")
            pool: Pool[object] = outer.pool(object, max=1)
            async with pool.acquire():
                waiting = outer.task(pool.execute, one)
                await anyio.lowlevel.checkpoint()
            assert (await waiting).unwrap() == 1
            assert await outer.stream(numbers()).map(give, concurrency=2).collect() == [0, 1, 2]
        with pytest.raises(ScopeTimeout):
            async with scope(timeout=0.002, parent=None):
                await anyio.sleep_forever()
        done.append(f"turn {turn}")
    return done


async def one(_: object) -> int:
    """For `execute`."""
    await anyio.lowlevel.checkpoint()
    return 1


def as_guest(async_fn: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Future[Any]:
    """Run Trio on top of the running loop of asyncio; gives what it ends with."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[outcome.Outcome[Any]] = loop.create_future()
    trio.lowlevel.start_guest_run(
        async_fn,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=ended.set_result,
    )
    return ended


TURNS = [f"turn {turn}" for turn in range(3)]


def test_trio_as_a_guest_of_asyncio() -> None:
    """S9: both loops take turns in one thread, and each of their scopes lives in its own."""

    async def host() -> None:
        guest = as_guest(use_everything)
        assert await use_everything() == TURNS
        assert (await guest).unwrap() == TURNS
        assert await use_everything() == TURNS

    asyncio.run(host())


def test_what_runs_is_told_apart_where_trio_is_a_guest() -> None:
    """S9: the host's task and loop are its own, be Trio's run under way or not; so are the guest's."""
    trio_sees: list[object] = []
    may_end = threading.Event()

    async def guest() -> None:
        while not may_end.is_set():
            trio_sees[:] = backend.running_task(), backend.running_loop(), trio.lowlevel.current_task()
            await trio.lowlevel.checkpoint()

    async def host() -> None:
        ended = as_guest(guest)
        for _ in range(20):
            await asyncio.sleep(0)
            assert trio.lowlevel.in_trio_run()
            assert backend.running_task() is asyncio.current_task()
            assert backend.running_loop() is asyncio.get_running_loop()
            assert not backend.is_on_trio()
        assert trio_sees
        task, loop, itself = trio_sees
        assert task is itself
        assert type(loop) is trio.lowlevel.TrioToken
        may_end.set()
        (await ended).unwrap()

    asyncio.run(host())


def test_a_parent_in_the_other_loop_of_the_thread_is_not_current() -> None:
    """S9, S11: the guest inherits the host's context, but the scope in it is another loop's."""

    async def guest() -> str:
        async with scope(name="guest") as s:
            await trio.lowlevel.checkpoint()
            return s.path

    async def host() -> None:
        async with scope(name="host"):
            assert (await as_guest(guest)).unwrap() == "guest"

    asyncio.run(host())


def test_trio_run_by_a_task_of_asyncio() -> None:
    """S9: it holds asyncio up, and its scopes are its own."""

    async def main() -> None:
        async with scope(name="host") as s:
            assert trio.run(use_everything) == TURNS
            assert backend.running_task() is asyncio.current_task()
            assert (await s.run(give, 1)).unwrap() == 1

    asyncio.run(main())


def test_one_loop_after_the_other_in_one_thread() -> None:
    """S9: nothing is remembered of the loop before."""
    for _ in range(2):
        assert asyncio.run(use_everything()) == TURNS
        assert trio.run(use_everything) == TURNS


@pytest.mark.parametrize("outer", ["asyncio", "trio"])
@pytest.mark.parametrize("inner", ["asyncio", "trio"])
def test_a_loop_in_a_worker_thread_of_the_other(outer: str, inner: str) -> None:
    """S9: a program of one loop with another in a thread."""

    async def main() -> None:
        async with scope(name="host") as s:
            work = s.task(anyio.to_thread.run_sync, lambda: anyio.run(use_everything, backend=inner))
            assert (await s.run(use_everything)).unwrap() == TURNS
            assert (await work).unwrap() == TURNS

    anyio.run(main, backend=outer)


def test_a_loop_in_each_of_many_threads() -> None:
    """S9: they share nothing."""
    ended: list[list[str]] = []
    begin = threading.Barrier(8)

    def run(number: int) -> None:
        begin.wait(10)
        for turn in range(3):
            done = anyio.run(use_everything, 2, backend=("asyncio", "trio")[(number + turn) % 2])
            ended.append(done)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [TURNS[:2]] * 24


def test_outside_of_every_loop_there_is_nothing() -> None:
    """S12: neither task nor loop, in a thread that runs none."""
    assert backend.running_task() is None
    assert backend.running_loop() is None
    assert not backend.is_on_trio()


async def test_a_signal_that_is_rung_before_anybody_waits_for_it() -> None:
    """T1, P4: the wait ends at once; to ring it again does nothing."""
    make, ring = backend.signals()
    signal = make()
    ring(signal)
    with anyio.fail_after(1):
        await signal
    ring(signal)
