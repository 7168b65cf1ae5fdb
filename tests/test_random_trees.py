"""Native cancellation on asyncio at random (S7, S8, T7): `Task.cancel()` on whichever tasks, at whichever steps.

`test_native_cancellation.py` sweeps the moments of chosen stories. Here the stories themselves are drawn by lot: trees
of scopes with tasks, daemons and clean-ups, hit natively one to four times. A failure names its seed, and a seed plays
the same way each time.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from typing import Any

import anyio
import pytest

from anyscope import Err, Ok, Scope, Task, TaskCancelled, scope

pytestmark = [pytest.mark.asyncio_only, pytest.mark.virtual_time]  # where a hang is told at once

ROUNDS = 250
needs_uncancel = pytest.mark.skipif(sys.version_info < (3, 11), reason="Task.cancelling is new in 3.11")


async def turns(count: int) -> int:
    """Pass `count` turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)
    return count


class Story:
    """A tree of scopes drawn by lot, and what became of it.

    Attributes:
        opened: The clean-ups of each scope, in order of registration.
        began: Those that began.
        ended: Those that ran to their end.
        handles: Every task handle.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.opened: dict[str, list[int]] = {}
        self.began: dict[str, list[int]] = {}
        self.ended: dict[str, list[int]] = {}
        self.handles: list[Task[Any]] = []
        self.scopes: list[Scope] = []
        self.named = 0

    async def run(self, depth: int = 0) -> None:
        """Open one scope of the tree, with everything in it."""
        draw = self.draw
        name = f"s{len(self.scopes)}"
        self.opened[name], self.began[name], self.ended[name] = [], [], []
        async with scope(name=name, concurrency=draw.choice([None, None, 1, 2]), timeout=draw.choice([None, 60])) as s:
            self.scopes.append(s)
            own: list[Task[Any]] = []
            for _ in range(draw.randrange(5)):
                own += self.act(s, depth)
                await turns(draw.randrange(2))
            if depth < 3 and draw.random() < 0.4:
                await self.run(depth + 1)
            if own and draw.random() < 0.3:
                await draw.choice(own)  # not one of an outer scope: that may be waiting for this one
            await turns(draw.randrange(4))

    def act(self, s: Scope, depth: int) -> list[Task[Any]]:
        """Do one thing to a scope; gives the handle, where there is one."""
        what = self.draw.choice(["on_exit", "on_exit", "task", "task", "start_soon", "daemon", "child"])
        if what == "on_exit":
            number = len(self.opened[s.name])
            self.opened[s.name].append(number)
            s.on_exit(self.close, s.name, number, self.draw.randrange(4))
        elif what == "start_soon":
            s.start_soon(turns, self.draw.randrange(6), name=self.new_name())
        elif what == "daemon":
            s.start_soon(anyio.sleep_forever, daemon=True, name=self.new_name())
        elif what == "task":
            return self.kept(s.task(turns, self.draw.randrange(6), name=self.new_name()))
        elif depth < 3:
            return self.kept(s.task(self.run, depth + 1, name=self.new_name()))
        return []

    def new_name(self) -> str:
        """A name that no other task has, so that a set of tasks can be put in order."""
        self.named += 1
        return f"work-{self.named}"

    def kept(self, handle: Task[Any]) -> list[Task[Any]]:
        """Remember a handle."""
        self.handles.append(handle)
        return [handle]

    async def close(self, name: str, number: int, count: int) -> None:
        """A clean-up of some turns."""
        self.began[name].append(number)
        await turns(count)
        self.ended[name].append(number)

    def check(self) -> None:
        """Everything has ended; each clean-up began exactly once, last registered first."""
        assert all(s.closed for s in self.scopes)
        assert all(handle.done for handle in self.handles)
        assert self.began == {name: numbers[::-1] for name, numbers in self.opened.items()}


async def play(seed: int, *, host_only: bool) -> None:
    """Run the story of `seed`, hit it natively a few times, and look at what is left."""
    story, draw, before = Story(seed), random.Random(-1 - seed), asyncio.all_tasks()
    host = asyncio.create_task(story.run())
    hit = False
    for _ in range(draw.randint(1, 4)):
        await turns(draw.randrange(8))
        # The set has no order of its own; names are the same in each run.
        there = sorted(asyncio.all_tasks() - before - {host}, key=lambda task: task.get_name())
        victim = host if host_only or not there else draw.choice([host, *there])
        hit = victim.cancel() or hit
        del victim, there  # what we hold is not dropped, and so not found to be unborn
    await asyncio.wait([host], timeout=30)
    assert host.done(), "it hangs"
    story.check()
    if host_only:
        assert story.ended == story.began, "a clean-up was cut short although nobody hit its task"
        assert host.cancelled() == hit, "the cancellation was swallowed"
        if not hit:
            host.result()
    elif not host.cancelled():
        host.exception()
    del host, story
    gc.collect()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("part", range(4))
async def test_the_host_is_hit(part: int) -> None:
    """S7, S8: only the host is hit: that is never swallowed, and each clean-up runs to its end exactly once."""
    for seed in range(part * ROUNDS, (part + 1) * ROUNDS):
        try:
            await play(seed, host_only=True)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("part", range(4))
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # of a host hit at step 0
async def test_any_task_is_hit(part: int) -> None:
    """S7, T7: any task is hit, the library's own too: it ends, each clean-up begins once, and every handle is done."""
    for seed in range(part * ROUNDS, (part + 1) * ROUNDS):
        try:
            await play(seed, host_only=False)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("daemons", [0, 1, 3])
async def test_what_the_exit_starts_is_hit(daemons: int, after: int) -> None:
    """S7: what the exit starts for itself is hit, also before its first step: daemons are stopped and it closes."""
    closed: list[str] = []

    async def run() -> None:
        async with scope(name="app") as s:
            s.on_exit(closed.append, "first")
            s.on_exit(closed.append, "second")
            for _ in range(daemons):
                s.start_soon(anyio.sleep_forever, daemon=True)
            await turns(2)
            known.update(asyncio.all_tasks())

    known: set[asyncio.Task[Any]] = set()
    before = asyncio.all_tasks()
    host = asyncio.create_task(run())
    while not known:
        await turns(1)
    started = asyncio.all_tasks() - known
    await turns(after)
    while started:
        started.pop().cancel()
    known.clear()
    await asyncio.wait([host], timeout=30)
    assert host.done(), "it hangs"
    assert closed == ["second", "first"]
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("kind", ["task", "start_soon"])
async def test_a_slot_is_not_given_away_after_the_group_has_gone(kind: str, after: int) -> None:
    """S7, T8: the holder of the only slot is hit before its first step, then the exit: who queued gets an end too."""
    queued: list[Task[int]] = []

    async def run() -> None:
        async with scope(name="app", concurrency=1) as s:
            await turns(2)
            before = asyncio.all_tasks()
            getattr(s, kind)(turns, 3)
            queued.append(s.task(turns, 1))
            (asyncio.all_tasks() - before).pop().cancel()
            known.update(asyncio.all_tasks())

    known: set[asyncio.Task[Any]] = set()
    host = asyncio.create_task(run())
    while not known:
        await turns(1)
    await turns(after)
    started = asyncio.all_tasks() - known
    while started:
        started.pop().cancel()
    known.clear()
    await asyncio.wait([host], timeout=30)
    assert host.done(), "it hangs"
    host.exception()
    assert queued[0].done


async def test_a_hit_on_one_task_leaves_the_others_alone() -> None:
    """T7: of ten tasks the fifth is hit in the middle: it alone is cancelled, and its waiters are told so."""
    async with scope(name="app") as s:
        before = asyncio.all_tasks()
        handles = [s.task(turns, 5, name=f"fetch-{number}") for number in range(10)]
        await turns(2)
        next(task for task in asyncio.all_tasks() - before if task.get_name() == "fetch-5").cancel()
        results = [await handle for handle in handles]
    (error,) = [result.error for result in results if isinstance(result, Err)]
    assert isinstance(error, TaskCancelled)
    assert str(error) == "task fetch-5 (#5) of app was cancelled (cancelled natively)"
    assert [result for result in results if isinstance(result, Ok)] == [Ok(5)] * 9


@needs_uncancel
async def test_the_count_of_cancellations_is_that_of_the_calls() -> None:
    """S8: as many cancellations as there were calls are pending afterwards: the scope takes none and adds none."""
    counts: list[int] = []

    async def host() -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            async with scope() as one:
                one.on_exit(turns, 4)
                async with scope() as two:
                    two.task(turns, 9)
                    two.on_exit(turns, 4)
        finally:
            counts.append(me.cancelling())

    for calls in range(4):
        told = asyncio.create_task(host())
        await turns(3)
        for _ in range(calls):
            told.cancel()
            await turns(2)
        await asyncio.wait([told])
        assert told.cancelled() == (calls > 0)
    assert counts == [0, 1, 2, 3]
