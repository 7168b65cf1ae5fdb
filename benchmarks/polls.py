"""What polls cost: a cycle, one that is asked for, and ten thousand polls of one scope.

Run it with `nox -s benchmarks`, or `python benchmarks/polls.py [--quick]`. How it is measured is told in `common.py`.
No library for Python that polls on AnyIO was found, so the peers are what one writes by hand: a task with a loop and a
sleep, of AnyIO, of asyncio and of Trio.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from anyscope import scope
from common import Area, Case, Here, Table, Target, main_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyscope import Scope
    from common import Work

SHORT = 1e-6
"""Seconds of an interval that has gone by when one comes to look."""
CROWD = 1e-2
"""Seconds of the interval where there are many."""
HOUR = 3600.0
COLLECTED = (
    "what grows is the work of the collector of garbage, which looks through all that is kept, again and again while "
    "it becomes more: a poll that waits is some 46 objects to it, and a bare task of AnyIO with a loop, which grows "
    "too (see its rows), 30. With it off the growth was 1.1x on asyncio and 1.25x on Trio, a bare task's 1.05x and 1.3x"
)
LOOP = "a task with a loop and anyio.sleep"


class Countdown:
    """What is fetched; it knows when that was often enough.

    Attributes:
        left: Fetches that are still to come.
    """

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = anyio.Event()

    async def fetch(self) -> int:
        """The least that a fetch can do."""
        self.left -= 1
        if not self.left:
            self.done.set()
        return self.left


def ignore(_: object) -> None:
    """What is done with a value."""


# ------------------------------------------------------------------ ways to poll
async def loop_of(countdown: Countdown, interval: float) -> None:
    """By hand, with AnyIO."""
    while True:
        ignore(await countdown.fetch())
        await anyio.sleep(interval)


async def bounded_loop_of(countdown: Countdown, interval: float) -> None:
    """The same with a time-out for each fetch."""
    while True:
        with anyio.fail_after(HOUR):
            ignore(await countdown.fetch())
        await anyio.sleep(interval)


async def native_loop_of(sleep: Callable[[float], Awaitable[object]], countdown: Countdown, interval: float) -> None:
    """By hand, with what the backend has."""
    while True:
        ignore(await countdown.fetch())
        await sleep(interval)


def sleeper(here: Here) -> Callable[[float], Awaitable[object]]:
    """How the backend sleeps."""
    sleep: Any = importlib.import_module("trio").sleep if here.is_trio else asyncio.sleep
    return sleep  # type: ignore[no-any-return]


def by_hand(run: Callable[..., Any]) -> Callable[[Scope, Countdown, float], None]:
    """Start one that is a task."""

    def start(s: Scope, countdown: Countdown, interval: float) -> None:
        s.start_soon(run, countdown, interval)

    return start


def ours(**options: Any) -> Callable[[Scope, Countdown, float], None]:
    """Start one of ours."""

    def start(s: Scope, countdown: Countdown, interval: float) -> None:
        s.poll(countdown.fetch, ignore, interval=interval, **options)

    return start


def cycles(name: str, start: Callable[[Scope, Countdown, float], object], polls: int = 1) -> Case:
    """So many cycles of one poll, or of many together."""
    interval = SHORT if polls == 1 else CROWD

    @asynccontextmanager
    async def opened(repeats: int) -> AsyncIterator[Work]:
        async with scope() as s:

            async def work() -> None:
                countdown = Countdown(repeats)
                for _ in range(polls):
                    start(s, countdown, interval)
                await countdown.done.wait()

            yield work
            s.cancel()

    return Case(name, opened, least=200 if polls == 1 else 10 * polls)


async def cycle(here: Here) -> Table:
    """One poll whose interval is over at once."""
    cases = [
        cycles(LOOP, by_hand(loop_of)),
        cycles("the same of asyncio or Trio", by_hand(partial(native_loop_of, sleeper(here)))),
        cycles("the same of AnyIO, with fail_after", by_hand(bounded_loop_of)),
        cycles("s.poll", ours()),
        cycles('s.poll, every="end"', ours(every="end")),
        cycles("s.poll, timeout=3600", ours(timeout=HOUR)),
    ]
    return Table("one poll, interval 1 microsecond, per cycle", cases)


async def crowd(here: Here) -> Table:
    """A hundred polls side by side."""
    cases = [
        cycles(LOOP, by_hand(loop_of), 100),
        cycles("the same of asyncio or Trio", by_hand(partial(native_loop_of, sleeper(here))), 100),
        cycles("s.poll", ours(), 100),
    ]
    return Table("100 polls, interval 10 milliseconds, per cycle", cases)


async def asked_for(here: Here) -> Table:
    """A fetch that somebody asks for and waits for."""
    asked, answered = anyio.create_memory_object_stream[None](1), anyio.create_memory_object_stream[int](1)
    for end in (*asked, *answered):
        here.stack.enter_context(end)
    s = await here.stack.enter_async_context(scope())
    fetch = Countdown(-1).fetch
    poll = s.poll(fetch, interval=HOUR)
    await poll.next()

    async def server() -> None:
        async for _ in asked[1]:
            await answered[0].send(await fetch())

    s.start_soon(server, daemon=True)

    async def ask() -> None:
        await asked[0].send(None)
        await answered[1].receive()

    cases = [
        Case.each("await fetch()", fetch),
        Case.each("two AnyIO memory streams and a task", ask),
        Case.each("await poll.trigger()", poll.trigger),
    ]
    return Table("a fetch that is asked for, per fetch", cases)


# ------------------------------------------------------------------ many
def bare_task(group: TaskGroup, countdown: Countdown, interval: float) -> None:
    """Start one that is a task of AnyIO's."""
    group.start_soon(loop_of, countdown, interval)


def cancel(owner: Scope | TaskGroup) -> None:
    """End all that is in it."""
    (owner.cancel_scope if isinstance(owner, TaskGroup) else owner).cancel()


def starting(name: str, make: Callable[[], Any], start: Callable[..., object], polls: int, part: str) -> Case:
    """So many in one scope or group: to start them with their first fetch, or to close them."""

    @asynccontextmanager
    async def opened(repeats: int) -> AsyncIterator[Work]:
        async with AsyncExitStack() as stack:
            owners = [await stack.enter_async_context(make()) for _ in range(repeats)]
            for owner in owners:
                stack.callback(cancel, owner)

            async def begin() -> None:
                for owner in owners:
                    countdown = Countdown(polls)
                    for _ in range(polls):
                        start(owner, countdown, HOUR)
                    await countdown.done.wait()

            if part == "close":
                await begin()
                await anyio.wait_all_tasks_blocked()
            yield stack.aclose if part == "close" else begin

    return Case(f"{part} {name}: {polls:,}", opened, per=polls)


async def growth(here: Here) -> Table:
    """To start and to close more and more."""
    sizes = here.effort.sizes(10, 100, 1_000, 10_000)
    kinds: list[tuple[str, Callable[[], Any], Callable[..., object]]] = [
        ("s.poll", scope, ours()),
        ("s.start_soon of a loop", scope, by_hand(loop_of)),
        ("bare AnyIO task with a loop", anyio.create_task_group, bare_task),
    ]
    cases = [starting(*kind, n, part) for part in ("start", "close") for kind in kinds for n in sizes]
    targets = [Target("7", f"{part} s.poll", 1.5, kind="flat", reason=COLLECTED) for part in ("start", "close")]
    return Table("more and more polls of one scope, interval an hour, per poll", cases, targets, is_ratio=False)


AREA = Area(
    "polls",
    "Polls. No peer was found: beside them is what one writes by hand.",
    [cycle, crowd, asked_for, growth],
)

if __name__ == "__main__":
    main_of(AREA)
