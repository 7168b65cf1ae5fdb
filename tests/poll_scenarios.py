"""Stories about polls, told to `anyscope.testing`: tests/test_poll_simulated.py.

A `Feed` is what is polled, and knows the promise: never two fetches at a time, no value after a stop or the end of the
scope, and nothing of it is left at work. Whoever waits for a value gets one, or hears why there is none.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Poll, PollFailed, PollStopped, Scope, current_scope, scope
from anyscope.testing import Scenario, Simulation

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

POLL_SCENARIOS: list[Scenario] = []


class Feed:
    """Something to be polled, which watches itself.

    Args:
        script: For each fetch: `ok`, `slow`, `fail`, `hang`, or `shield` (slow, and not to be cut); the last one for
            all further ones.

    Attributes:
        begun: How many fetches there were.
        busy: How many fetches and deliveries are at work: at most one.
        values: What was delivered.
        is_over: Set by a story when nothing may be delivered any more.
    """

    def __init__(self, *script: str) -> None:
        self.begun = self.busy = 0
        self.values: list[int] = []
        self.is_over = False
        self._script = itertools.chain(script, itertools.repeat(script[-1] if script else "ok"))

    async def fetch(self) -> int:
        """Give its number."""
        assert not self.is_over, "a fetch after the end"
        self._begin()
        self.begun += 1
        number = self.begun
        try:
            await self._play(next(self._script))
        finally:
            self.busy -= 1
        return number

    async def _play(self, kind: str) -> None:
        if kind == "hang":
            await anyio.sleep(1000)
        with anyio.CancelScope(shield=kind == "shield"):
            await (checkpoint() if kind in ("ok", "fail") else anyio.sleep(0.03))
        if kind == "fail":
            raise ConnectionRefusedError("no")

    def deliver(self, value: int) -> None:
        """Take it."""
        assert not self.is_over, "a value after the end"
        assert not self.busy
        assert not self.values or value > self.values[-1]
        self.values.append(value)

    async def deliver_slowly(self, value: int) -> None:
        """Take it, and take time for that."""
        self.deliver(value)
        self._begin()
        try:
            await checkpoint()
            await anyio.sleep(0.005)
        finally:
            self.busy -= 1

    def _begin(self) -> None:
        assert self.busy == 0, "two at a time"
        self.busy += 1

    def check(self, poll: Poll[int]) -> None:
        """After its end: nothing is at work, and the numbers agree."""
        self.is_over = True
        status = poll.status()
        assert self.busy == 0
        assert status.state in ("stopped", "failed", "done"), status
        assert not status.in_flight
        assert status.poll_count >= self.begun  # it may have been cut before its first step
        assert status.success_count + status.error_count <= status.poll_count
        assert len(self.values) <= status.success_count
        assert status.time_until_next is None
        assert poll._course.owner.phase != "closed" or not poll._pilot.has_task


def story(tell: Callable[[Simulation], Awaitable[object]]) -> Scenario:
    """Collect a story."""
    POLL_SCENARIOS.append(tell)
    return tell


async def lives(poll: Poll[int]) -> None:
    """It answers, whatever has happened."""
    with anyio.fail_after(60):
        poll.stop()  # for a fetch may hang
        poll.start()
        while True:
            with suppress(ConnectionRefusedError):
                await poll.trigger()
                break


async def ask(poll: Poll[int], answers: list[object], times: int = 2) -> None:
    """Trigger it some times."""
    for _ in range(times):
        try:
            answers.append(await poll.trigger())
        except (PollStopped, PollFailed, ConnectionRefusedError) as error:
            answers.append(error)


async def read(poll: Poll[int], answers: list[object]) -> None:
    """Read some values, and one more by `next`."""
    last = 0
    try:
        async for value in poll:
            assert value > last
            last = value
            answers.append(value)
            if len(answers) > 2:
                break
        answers.append(await poll.next())
    except (PollStopped, PollFailed) as error:
        answers.append(error)


@story
async def callers_of_trigger(sim: Simulation) -> None:
    """L4: all are served, whoever is cancelled; what each gets began after its call."""
    feed = Feed("slow", "ok", "fail", "ok")
    answers: list[object] = []
    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver, interval=10)
        first, second = s.task(ask, poll, answers), s.task(ask, poll, answers)
        before = feed.begun
        await sim.victim(ask, poll, [])
        number = await poll.trigger() if feed.begun >= 3 else None
        assert number is None or number > before
        with anyio.fail_after(60):
            await first
            await second
        assert len(answers) == 4
        await lives(poll)
    feed.check(poll)


@story
async def readers(sim: Simulation) -> None:
    """L6: those who are not cancelled go on, and see the newest."""
    feed = Feed("ok", "slow")
    answers: list[object] = []
    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver_slowly, interval=0.01)
        task = s.task(read, poll, answers)
        await sim.victim(read, poll, [])
        with anyio.fail_after(60):
            await task
        assert len(answers) == 4
        assert poll.latest >= answers[-1]  # type: ignore[operator]
    feed.check(poll)


@story
async def stops_and_starts(sim: Simulation) -> None:
    """L2, L4: never two at a time, however it is stopped and started, with fetches that cannot be cut."""
    feed = Feed("hang", "shield", "slow", "ok", "shield", "ok")

    async def disturb() -> None:
        for _ in range(2):
            poll.stop()
            poll.start()
            await checkpoint()
            poll.pause()
            await anyio.sleep(0.01)
            poll.resume()
            await anyio.sleep(0.02)

    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver_slowly, interval=0.01)
        other = s.task(disturb)
        await sim.victim(disturb)
        await other
        poll.stop()
        begun = len(feed.values)
        await anyio.sleep(0.1)
        assert len(feed.values) == begun, "a value after stop()"
        await lives(poll)
    feed.check(poll)


@story
async def a_scope_with_polls(sim: Simulation) -> None:
    """L1, S2, S5: whatever they do when it ends or is cancelled, they have ended with it."""
    feeds = [Feed("hang"), Feed("ok"), Feed("shield"), Feed("fail"), Feed("slow")]
    polls: list[Poll[int]] = []

    async def victim() -> None:
        async with scope(name="app") as s:
            polls.extend(s.poll(feed.fetch, feed.deliver_slowly, interval=0.01) for feed in feeds)
            s.start_soon(polls[1].trigger)
            await anyio.sleep(0.02)

    await sim.victim(victim)
    for feed, poll in zip(feeds, polls):  # noqa: B905  it may have been cancelled before it made them all
        feed.check(poll)


@story
async def a_scope_that_is_cancelled(sim: Simulation) -> None:
    """L4, S5: after `cancel()` nothing is delivered, though a task takes its time to leave."""
    feed = Feed("shield", "ok")

    async def slow_to_leave() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)

    async def victim(s: Scope) -> None:
        await anyio.sleep(0.01)
        s.cancel("enough")
        feed.is_over = True
        await checkpoint()

    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver, interval=0.01)
        s.start_soon(slow_to_leave)
        await sim.victim(victim, s)
        s.cancel("in any case")
        feed.is_over = True
        await checkpoint()
    feed.check(poll)


@story
async def policies(sim: Simulation) -> None:
    """L5: failing polls end as they were told to, and who waits hears of it."""
    feed, other = Feed("ok", "fail"), Feed("ok", "ok", "ok")
    answers: list[object] = []
    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver, interval=0.01, on_error="stop")
        done = s.poll(other.fetch, other.deliver, interval=0.01, until=lambda value: value == 3)
        task = s.task(read, poll, answers)
        await sim.victim(read, poll, [])
        with anyio.fail_after(60):
            await task
            assert await done.wait_done() == 3
        assert isinstance(answers[-1], PollFailed)
        assert poll.status().state == "failed"
        assert other.values == [1, 2, 3]
        feed.check(poll)
        other.check(done)


@story
async def a_scope_that_fails_because_of_a_poll(sim: Simulation) -> None:
    """L5, S4: the error is told once, whatever else happens."""
    feed = Feed("ok", "fail")
    polls: list[Poll[int]] = []
    told: list[BaseException] = []

    async def victim() -> None:
        async with scope(name="app") as s:
            polls.append(s.poll(feed.fetch, feed.deliver, interval=0.01, max_failures=2))
            await polls[0].trigger()
            await anyio.sleep(1)

    try:
        await sim.victim(victim)
    except (BaseExceptionGroup, ConnectionRefusedError) as error:
        told.append(error)
    for poll in polls:
        feed.check(poll)
        if poll.status().failures == 2:
            assert len(told) == 1


@story
async def closing_a_poll(sim: Simulation) -> None:
    """L4: after `aclose()` nothing of it is at work, also if the first was cancelled."""
    feed = Feed("shield", "slow", "hang")
    async with scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver_slowly, interval=0.01)
        s.start_soon(poll.aclose)
        await checkpoint()
        poll.start()
        await sim.victim(poll.aclose)
        with anyio.fail_after(60):
            await poll.aclose()
        assert feed.busy == 0
        feed.check(poll)


@story
async def those_who_wait_in_foreign_tasks(sim: Simulation) -> None:
    """L6, S5: they hear of the end of the scope, and live on."""
    feed = Feed("ok", "hang")
    answers: list[list[object]] = [[], [], []]

    async with anyio.create_task_group() as tg, scope(name="app") as s:
        poll = s.poll(feed.fetch, feed.deliver, interval=0.01)
        for each in answers[:2]:
            tg.start_soon(read, poll, each)
        tg.start_soon(ask, poll, answers[2])
        with anyio.move_on_after(0.02):
            await sim.victim(ask, poll, [])
        s.cancel()
    assert all(isinstance(each[-1], (int, PollStopped)) for each in answers if each), answers
    feed.check(poll)


@story
async def a_poll_of_a_service(sim: Simulation) -> None:
    """V, L1: a service with a poll of its own, asked for by many, of whom some are cancelled."""
    feeds: list[Feed] = []
    polls: list[Poll[int]] = []

    async def config() -> Poll[int]:
        feeds.append(Feed("slow", "ok"))  # another one where the first was given up
        polls.append(current_scope().poll(feeds[-1].fetch, feeds[-1].deliver, interval=0.01))
        await polls[-1].next()
        return polls[-1]

    async def use_it(s: Scope) -> int:
        poll: Poll[int] = await s.use("config")
        return await poll.trigger()

    async with scope(name="app") as s:
        s.provide("config", config)
        task = s.task(use_it, s) if sim.case.number % 2 else None
        await sim.victim(use_it, s)
        if task is not None:
            await task
        for poll in polls:
            await poll.aclose()
    for feed, poll in zip(feeds, polls, strict=True):
        feed.check(poll)


@story
async def tasks_of_polls_are_cancelled_natively(sim: Simulation) -> None:
    """S7, L5: a stranger cancels whatever runs, once; asyncio only. Nobody waits in vain, and all of it ends."""
    feeds = [Feed("ok"), Feed("slow"), Feed("hang")]
    polls: list[Poll[int]] = []
    answers: list[object] = []

    async def stranger() -> None:
        await checkpoint()
        if sim.case.backend == "asyncio":
            for task in asyncio.all_tasks() - {asyncio.current_task(), main}:
                task.cancel()

    main = asyncio.current_task() if sim.case.backend == "asyncio" else None

    async def victim() -> None:
        async with scope(name="app") as s:
            polls.extend(s.poll(feed.fetch, feed.deliver, interval=0.01) for feed in feeds)
            s.start_soon(stranger)
            s.start_soon(ask, polls[0], answers)
            s.start_soon(read, polls[1], answers)
            await anyio.sleep(0.02)

    with suppress(BaseExceptionGroup, Exception):
        await sim.victim(victim)
    for feed, poll in zip(feeds, polls):  # noqa: B905  it may have been cancelled before it made them all
        feed.check(poll)
