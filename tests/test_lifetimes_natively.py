"""Lifetimes under native cancellation on asyncio (S7, S8, S14): the host, the keepers, the closer, everything at once.

Whatever is hit, and whenever: what was opened begins to be closed exactly once, no task is left and nothing hangs.
Where only the host is hit, everything is closed to its end, last opened first.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from anyscope import CloseTimeout, Scope, ScopeCancelled, scope

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = [
    pytest.mark.asyncio_only,
    # AnyIO's own: a child of a manager's own task group that is hit before its first step.
    pytest.mark.filterwarnings("ignore:coroutine 'idle' was never awaited:RuntimeWarning"),
]


async def turns(count: int) -> None:
    """Pass `count` turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def idle() -> None:
    """A task of a manager's own group."""
    await anyio.sleep_forever()


class Ledger:
    """What was opened, and what of it began and ended to close."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.began: list[str] = []
        self.ended: list[str] = []
        self.seen: list[BaseException | None] = []

    @asynccontextmanager
    async def manager(self, name: str) -> AsyncIterator[str]:
        """Two turns to open, three to close, with a task of its own."""
        await turns(2)
        async with anyio.create_task_group() as group:
            group.start_soon(idle)
            self.opened.append(name)
            try:
                yield name
            except BaseException as error:
                self.seen.append(error)
                raise
            else:
                self.seen.append(None)
            finally:
                await self.close(name)
                group.cancel_scope.cancel()

    async def make(self, name: str) -> str:
        """An async factory."""
        await turns(2)
        self.opened.append(name)
        return name

    async def generate(self, name: str) -> AsyncIterator[str]:
        """A generator factory."""
        await turns(2)
        self.opened.append(name)
        try:
            yield name
        finally:
            await self.close(name)

    async def close(self, name: str) -> None:
        """Three turns."""
        self.began.append(name)
        await turns(3)
        self.ended.append(name)

    def check(self, where: object, *, whole: bool) -> None:
        """All that was opened began to be closed once; with `whole`, to the end and in order."""
        assert sorted(self.began) == sorted(self.opened), where
        assert len(set(self.began)) == len(self.began), where
        if whole:
            assert self.ended == self.began == self.opened[::-1], where


async def full_story(ledger: Ledger) -> None:
    """Two tasks, a daemon, two managers, a service with close, and a generator service."""
    made = scope(name="app").provide("value", functools.partial(ledger.make, "value"), close=ledger.close)
    async with made.provide("gen", functools.partial(ledger.generate, "gen")) as s:
        s.start_soon(anyio.sleep_forever, daemon=True)
        s.task(turns, 9)
        await s.enter(ledger.manager("first"))
        await s.use("value")
        await s.use("gen")
        await s.enter(ledger.manager("second"))
        ledger.opened.append("exit")
        s.on_exit(ledger.close, "exit")
        s.task(turns, 4)
        await turns(2)


async def entered_scope_story(ledger: Ledger) -> None:
    """A scope that is entered into another one, with a daemon, a task and a clean-up."""
    async with scope(name="app", timeout=3600) as s:
        await s.enter(ledger.manager("first"))
        inner = await s.enter(scope(name="inner"))
        ledger.opened.append("inner")
        inner.on_exit(ledger.close, "inner")
        inner.start_soon(anyio.sleep_forever, daemon=True)
        inner.task(turns, 8)
        await s.enter(ledger.manager("second"))


async def draining_story(ledger: Ledger) -> None:
    """Everything is opened by a task, after the body has ended."""

    async def work(s: Scope) -> None:
        await s.enter(ledger.manager("first"))
        s.start_soon(anyio.sleep_forever, daemon=True)
        await s.enter(ledger.manager("second"))
        await turns(2)

    async with scope(name="app") as s:
        s.start_soon(work, s)


async def daemon_story(ledger: Ledger) -> None:
    """Nothing but daemons and one clean-up."""
    async with scope(name="app") as s:
        ledger.opened.append("exit")
        s.on_exit(ledger.close, "exit")
        for _ in range(3):
            s.start_soon(anyio.sleep_forever, daemon=True)
        await turns(1)


Story = Callable[[Ledger], Awaitable[None]]
STORIES: list[Story] = [full_story, entered_scope_story, draining_story, daemon_story]
stories = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)


def name_of(task: asyncio.Task[Any]) -> str:
    """The task by its name and number, for messages."""
    return f"{task.get_name()} {task.get_coro()!r}"


class Play:
    """One run of a story in a task of its own."""

    def __init__(self, story: Story) -> None:
        self.ledger = Ledger()
        self.before = asyncio.all_tasks()
        self.known: list[asyncio.Task[Any]] = []

        async def run() -> None:
            await story(self.ledger)

        self.host = asyncio.create_task(run())

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks of the story that are alive, in order of their appearance; the host is the first."""
        alive = asyncio.all_tasks() - self.before
        fresh = sorted(alive - set(self.known), key=lambda task: (task is not self.host, task.get_name()))
        self.known += fresh
        return [task for task in self.known if task in alive]

    async def end(self, where: object) -> None:
        """Wait for the end, and see that nothing is left."""
        await asyncio.wait([self.host], timeout=1000)
        assert self.host.done(), f"hangs: {where}"
        if not self.host.cancelled():
            self.host.exception()
        self.known.clear()
        assert asyncio.all_tasks() == self.before, where


@stories
async def test_the_stories_end_by_themselves(story: Story) -> None:
    """The sweep is honest: undisturbed, each story ends well and closes everything."""
    play = Play(story)
    await play.end("undisturbed")
    assert play.host.result() is None if not play.host.cancelled() else False
    assert play.ledger.opened
    play.ledger.check("undisturbed", whole=True)
    assert all(seen is None for seen in play.ledger.seen)


@stories
@pytest.mark.parametrize("repeat", [1, 2, 5, 1000])
async def test_the_host_at_each_step(story: Story, repeat: int) -> None:
    """S7, S8, S14: the host is hit at each step, once or again and again: all is closed to its end, in order."""
    step, hit = 0, True
    while hit:
        play = Play(story)
        await turns(step)
        hit = play.host.cancel()
        for _ in range(repeat - 1):
            await turns(1)
            if not play.host.cancel():
                break
        await play.end(step)
        play.ledger.check(step, whole=True)
        assert play.host.cancelled() == hit, f"swallowed at step {step}"
        step += 1
    assert step > 10


async def hit_one(story: Story, *, again: int, whole: bool) -> int:
    """Hit each task that is alive at each step, one in each run; gives the number of runs."""
    runs = step = 0
    while True:
        number = 0
        while True:
            play = Play(story)
            for _ in range(step):
                play.tasks()
                await turns(1)
            alive = play.tasks()
            if number >= len(alive):
                await play.end("not hit")
                break
            target = alive[number]
            where = f"step {step}, task {number}: {name_of(target)}"
            target.cancel()
            for _ in range(again):
                await turns(1)
                target.cancel()
            del alive, target
            await play.end(where)
            play.ledger.check(where, whole=whole)
            runs, number = runs + 1, number + 1
        step += 1
        if not number:
            return runs


@pytest.mark.virtual_time  # where a hang is told at once
@stories
@pytest.mark.parametrize("again", [0, 1, 4])
async def test_each_task_at_each_step(story: Story, again: int) -> None:
    """S7, S14: any one task is hit, the library's own too: all that was opened begins to close once, nothing hangs."""
    assert await hit_one(story, again=again, whole=False) > 20
    gc.collect()


@pytest.mark.virtual_time  # where a hang is told at once
@stories
@pytest.mark.parametrize("again", [0, 1, 4])
async def test_every_task_at_each_step(story: Story, again: int) -> None:
    """S7, S14: all tasks are hit at once, the library's own too, and those that are there in the next turns."""
    step, alive = 0, True
    while alive:
        play = Play(story)
        await turns(step)
        alive = bool(play.tasks())
        for _ in range(again + 1):
            for task in play.tasks():
                task.cancel()
            await turns(1)
        await play.end(step)
        play.ledger.check(step, whole=False)
        step += 1
    assert step > 10
    gc.collect()


@pytest.mark.virtual_time  # where a hang is told at once
@stories
async def test_all_but_the_host_at_each_step(story: Story) -> None:
    """S7, S14: everything but the host is hit."""
    step, alive = 0, True
    while alive:
        play = Play(story)
        await turns(step)
        alive = bool(play.tasks())
        for task in play.tasks()[1:]:
            task.cancel()
        await play.end(step)
        play.ledger.check(step, whole=False)
        step += 1
    gc.collect()


# ------------------------------------------------------------------------------------------------- one is hit
def find(part: str) -> asyncio.Task[Any]:
    """The task that has `part` in its name."""
    (task,) = [task for task in asyncio.all_tasks() if part in task.get_name()]
    return task


@pytest.mark.virtual_time
async def test_the_keeper_while_entering() -> None:
    """S14: the caller gets ScopeCancelled, which it may catch; the scope goes on."""
    ledger = Ledger()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async with scope(name="app") as s:
        asyncio.get_running_loop().call_later(1, lambda: find("slow").cancel())
        with pytest.raises(ScopeCancelled) as caught:
            await s.enter(slow())
        assert str(caught.value) == "scope app was cancelled (cancelled natively): slow was cut off"
        assert await s.enter(ledger.manager("a")) == "a"
        assert not s.cancelled
    ledger.check("", whole=True)


@pytest.mark.virtual_time
async def test_the_keeper_while_open() -> None:
    """S14: a keeper that is hit while it is open ends by itself: that cancels the scope, and is told."""
    ledger = Ledger()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(ledger.manager("a"))
            await s.enter(ledger.manager("b"))
            keeper = next(task for task in asyncio.all_tasks() if "manager" in task.get_name())
            keeper.cancel()
            del keeper
            await anyio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, ScopeCancelled)
    assert str(error).startswith("scope app was cancelled (cancelled natively): ")
    ledger.check("", whole=False)
    assert s.cancelled


@pytest.mark.virtual_time
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_the_keeper_while_leaving(times: int) -> None:
    """S7: a keeper that is hit while it is left: that is told, and the next ones are left."""
    ledger = Ledger()
    hits: list[int] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        await anyio.sleep(2)

    def hit() -> None:
        hits.append(1)
        find("slow").cancel()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(ledger.manager("a"))
            await s.enter(slow())
            for _ in range(times):
                asyncio.get_running_loop().call_later(1, hit)
    (error,) = caught.value.exceptions
    assert isinstance(error, ScopeCancelled)
    assert str(error) == "scope app was cancelled (cancelled natively): clean-up slow (#1) was cut off"
    assert len(hits) == times
    ledger.check("", whole=True)


@pytest.mark.virtual_time
async def test_the_closer_while_it_leaves_a_manager() -> None:
    """S7: the closer is hit while a manager is left: that does not reach it, and a later overrun is told as such."""
    log: list[str] = []

    @asynccontextmanager
    async def slow(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep(2)
            log.append(name)

    async def hangs() -> None:
        await anyio.sleep_forever()

    def hit() -> None:
        find("closer").cancel()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(slow("a"))
            s.on_exit(hangs)
            await s.enter(slow("b"))
            for _ in range(3):
                asyncio.get_running_loop().call_later(1, hit)
    (error,) = caught.value.exceptions
    assert isinstance(error, CloseTimeout)
    assert str(error).splitlines()[0] == "scope app: clean-up hangs (#1) took longer than 3 s and was abandoned"
    assert log == ["b", "a"]
    assert anyio.current_time() == pytest.approx(7)


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", [1, 3, 4, 5])
async def test_the_closer_while_an_overrun_manager_ends(moment: float) -> None:
    """S7: hit before, at, or after the moment when a manager overruns: it is CloseTimeout, and the next one is left."""
    ledger = Ledger()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            ledger.ended.append("slow")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(ledger.manager("a"))
            await s.enter(slow())
            for _ in range(2):
                asyncio.get_running_loop().call_later(moment, lambda: find("closer").cancel())
    assert [type(error) for error in caught.value.exceptions] == [CloseTimeout]
    assert ledger.ended == ["slow", "a"]
    assert anyio.current_time() == pytest.approx(6)


@pytest.mark.virtual_time  # where a hang is told at once
@pytest.mark.parametrize("what", ["daemon", "manager", "service"])
async def test_the_closer_is_lost_while_a_task_opens_something(what: str) -> None:
    """S7: the closer is hit before its first step, and a task opens something later: the scope ends all the same."""
    ledger = Ledger()

    async def run() -> None:
        async with scope(name="app").provide("gen", functools.partial(ledger.generate, "gen")) as s:

            async def work() -> None:
                with anyio.CancelScope(shield=True):
                    await turns(9)
                    if what == "daemon":
                        s.start_soon(anyio.sleep_forever, daemon=True)
                    elif what == "manager":
                        await s.enter(ledger.manager("late"))
                    else:
                        await s.use("gen")

            s.start_soon(work)
            await turns(2)
            asyncio.get_running_loop().call_soon(lambda: find("closer").cancel())

    before = asyncio.all_tasks()
    host = asyncio.create_task(run())
    await asyncio.wait([host], timeout=1000)
    hangs = not host.done()
    if hangs:  # let it end all the same
        for task in asyncio.all_tasks() - before - {host}:
            task.cancel()
        await asyncio.wait([host], timeout=1000)
    if host.done() and not host.cancelled():
        host.exception()
    assert not hangs
    ledger.check("", whole=False)
    gc.collect()


@pytest.mark.virtual_time
async def test_a_deadline_and_a_native_cancel_while_entering() -> None:
    """S6, S14: both in one moment leave nothing open."""
    ledger = Ledger()

    async def run() -> None:
        async with scope(name="app", timeout=1) as s:
            await s.enter(ledger.manager("a"))

            @asynccontextmanager
            async def slow() -> AsyncIterator[None]:
                await anyio.sleep_forever()
                yield

            await s.enter(slow())

    host = asyncio.create_task(run())
    asyncio.get_running_loop().call_later(1, host.cancel)
    await asyncio.wait([host], timeout=1000)
    assert host.done()
    if not host.cancelled():
        host.exception()
    ledger.check("", whole=True)
