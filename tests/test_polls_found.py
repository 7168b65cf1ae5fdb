"""What attacks on polls have found, each as a small test."""

# Some results are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import to_thread

from anyscope import Poll, PollFailed, PollStopped, current_scope, scope
from anyscope._features.polling.course import Course
from anyscope._features.polling.flight import Flight, Run
from polls import Refused, Source, app, collect, logged, settle

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.virtual_time


# ------------------------------------------------------------------ native cancellation (L5, S7)
@pytest.mark.parametrize("moment", ["waiting", "fetching"])
def test_the_end_of_the_loop_ends_a_poll_whose_scope_was_never_left(moment: str) -> None:
    """S7: `asyncio.run` cancels what is left and waits for it; a poll that went on would keep the program for ever."""
    polls: list[Poll[Any]] = []

    async def main() -> None:
        s = scope(name="app")
        await s.__aenter__()
        polls.append(s.poll(anyio.sleep_forever if moment == "fetching" else Source(), interval=1))
        await settle()
        raise KeyError("forgotten")

    def run() -> None:
        with logged(), pytest.raises(KeyError):
            asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it goes on"
    assert not polls[0].status().running
    assert polls[0]._course.run.reason == "its scope was never left, and the event loop ends"


@pytest.mark.asyncio_only
@pytest.mark.skipif(sys.version_info < (3, 11), reason="such cancellations are not counted there")
@pytest.mark.parametrize("answer", ["an error", "a value"])
async def test_a_fetch_that_answers_a_native_cancellation(answer: str) -> None:
    """L5: the cancellation is dealt with then, and disturbs no later fetch."""
    values: list[int] = []
    counts: list[int] = []

    async def fetch() -> int:
        task: Any = asyncio.current_task()
        counts.append(task.cancelling())
        if len(counts) == 1:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                if answer == "an error":
                    raise Refused("in its clean-up") from None
        return len(counts)

    def on_value(value: int) -> None:
        task: Any = asyncio.current_task()
        counts.append(task.cancelling())
        values.append(value)

    async with app() as s:
        poll = s.poll(fetch, on_value, interval=1)
        await settle()
        native: Any = poll._pilot.native
        native.cancel()
        await anyio.sleep(1.5)
        assert len(values) == (1 if answer == "an error" else 2)
        assert not any(counts)


@pytest.mark.asyncio_only
@pytest.mark.skipif(sys.version_info < (3, 11), reason="such cancellations are not counted there")
async def test_an_on_value_that_ignores_a_native_cancellation() -> None:
    """L5: it disturbs no later fetch."""
    counts: list[int] = []

    async def fetch() -> None:
        task: Any = asyncio.current_task()
        counts.append(task.cancelling())

    async def on_value(_: None) -> None:
        if len(counts) == 1:
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()

    async with app() as s:
        poll = s.poll(fetch, on_value, interval=1)
        await settle()
        native: Any = poll._pilot.native
        native.cancel()
        await anyio.sleep(1.5)
        assert counts == [0, 0]


# ------------------------------------------------------------------ who waits (L4, L6)
@pytest.mark.parametrize("call", ["trigger", "next", "wait_done", "async for"])
async def test_who_is_cancelled_along_with_the_poll_hears_nothing_else(call: str) -> None:
    """L6: that the poll was stopped besides is no error of theirs, and no end of a loop."""
    told: list[object] = []

    async def wait(poll: Poll[Any]) -> None:
        try:
            if call == "async for":
                await collect(poll, [])
            else:
                await getattr(poll, call)()
            told.append("went on")
        except PollStopped as error:
            told.append(error)

    async with scope(name="app") as s:
        poll = s.poll(Source("hang"), interval=1)
        s.start_soon(wait, poll)
        await settle()
        poll.stop()
        s.cancel()
    assert told == []


async def test_a_trigger_goes_on_for_the_others_when_one_is_cancelled() -> None:
    """L4: those who share a fetch are not bound to one another."""
    async with app() as s:
        poll = s.poll(Source(1), interval=10)
        await settle()
        first, second = s.task(poll.trigger), s.task(poll.trigger)
        await settle()
        first.cancel()
        with anyio.fail_after(5):
            assert await second.unwrap() == 2


async def test_a_stop_refuses_a_trigger_at_once_though_the_fetch_takes_its_time() -> None:
    """L4: whoever waits is not kept until a fetch has left that cannot be cut."""
    async with app() as s:
        poll = s.poll(Source("stubborn"), interval=10, immediate=False)
        asking = s.task(poll.trigger)
        await settle()
        assert poll.status().in_flight
        poll.stop()
        with anyio.fail_after(0.5):
            error, _ = await asking
        assert isinstance(error, PollStopped)
        assert poll.status().in_flight


async def test_aclose_waits_for_nothing_of_a_later_run() -> None:
    """L4: only for what was under way when it was called."""
    async with app() as s:
        poll = s.poll(Source("stubborn", "hang"), interval=10)
        await settle()
        closing = s.task(poll.aclose)
        await settle()
        poll.start()
        with anyio.fail_after(1.5):
            await closing
        await settle()
        assert (poll.status().state, poll.status().poll_count) == ("polling", 2)


# ------------------------------------------------------------------ looking at it (L3)
class Fleeting:
    """Stands for the state of a poll of which whatever is looked at is gone by the next look."""

    def __init__(self, **seen: Any) -> None:
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return self._seen.pop(name, None)


async def test_a_look_from_another_thread_while_a_flight_ends() -> None:
    """L3: `status()` may be asked from any thread, so nothing is read twice that may be gone the second time."""
    state: Any = Course.state
    run, ended = Run(), Run()
    ended.state = "done"
    flight = Flight[int](run, None, 0.0)
    assert state.fget(Fleeting(run=run, flight=flight)) == "polling"
    assert state.fget(Fleeting(run=ended, flight=flight)) == "done"


async def test_a_status_from_a_thread() -> None:
    """L3: on both backends; on Trio there is no time in a thread, so nobody knows how long it takes."""
    async with app() as s:
        poll = s.poll(Source(), interval=10)
        await settle()
        status = await to_thread.run_sync(poll.status)
        assert status.state == "waiting"
        assert status.time_until_next in (None, pytest.approx(10, abs=0.5))


# ------------------------------------------------------------------ readers of a poll that was started again (L6)
async def test_a_reader_of_a_poll_that_was_done_ends_though_it_was_started_again() -> None:
    """L6: however slow it is, it sees the newest value once more, and ends."""
    async with app() as s:
        poll = s.poll(Source(), interval=0.1, until=lambda value: value == 3)
        seen: list[int] = []
        reading = s.task(collect, poll, seen, 0.25)
        await anyio.sleep(0.3)
        assert poll.status().state == "done"
        poll.start()
        with anyio.fail_after(5):
            await reading
        assert seen[0] == 1
        assert len(seen) == 2
        assert poll.status().running


async def test_a_reader_of_a_poll_that_has_failed_hears_so_though_it_was_started_again() -> None:
    """L6: a failure does not vanish because later values come."""
    async with app() as s:
        poll = s.poll(Source(0, "fail", 0), interval=0.1, on_error="stop")
        seen: list[int] = []
        reading = s.task(collect, poll, seen, 0.25)
        await anyio.sleep(0.15)
        assert poll.status().state == "failed"
        poll.start()
        with anyio.fail_after(5):
            result = await reading
        assert seen == [1]
        error, _ = result
        assert isinstance(error, PollFailed)


# ------------------------------------------------------------------ errors (L5)
class Mute(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_an_error_without_a_text() -> None:
    """L5: that its text cannot be had makes no failure of another kind of it."""
    async with app() as s:
        with logged() as lines:
            poll = s.poll(Source(Mute(), 0), interval=1, name="health")
            await anyio.sleep(1.5)
        assert lines == [
            "WARNING poll health of app: fetch failed (Mute: its text cannot be shown)",
            "INFO poll health of app: recovered, after 1 failure",
        ]
        assert poll.status().success_count == 1


async def test_a_poll_that_ends_for_a_mistake_has_not_given_up() -> None:
    """L5: only failures in a row are given up after."""
    with logged() as lines, pytest.raises(ExceptionGroup):
        async with scope(name="app") as s:
            s.poll(Source(), [].__getitem__, interval=1)
            await anyio.sleep(1)
    assert lines == []


# ------------------------------------------------------------------ times (L18)
@pytest.mark.parametrize("interval", [5e-324, 1e-310, 1e-7, 10**400])
async def test_intervals_that_no_clock_can_tell(interval: float) -> None:
    """L18: told at the call; a thousandth of what the clock resolves is a loop that never rests."""
    async with app() as s:
        with pytest.raises(ValueError, match="interval must be"):
            s.poll(Source(), interval=interval)
        assert s.tree() == "scope app open"


async def test_an_interval_of_a_microsecond() -> None:
    """L18: the shortest there is."""
    async with app() as s:
        poll = s.poll(Source(), interval=1e-6, until=lambda value: value == 10)
        with anyio.fail_after(1):
            assert await poll.wait_done() == 10


# ------------------------------------------------------------------ rings and services
async def test_two_polls_that_wait_for_each_other_are_freed_by_a_time_limit() -> None:
    """L2: nobody tells of such a ring; `timeout` ends it, as a failure that is told."""
    polls: list[Poll[Any]] = []

    async def first() -> object:
        return await polls[1].trigger()

    async def second() -> object:
        return await polls[0].trigger()

    async with app() as s:
        with logged() as lines:
            polls.append(s.poll(first, interval=10, name="first", timeout=2))
            polls.append(s.poll(second, interval=10, name="second"))
            await anyio.sleep(5)
        assert any("first of app: fetch failed (TaskTimeout" in line for line in lines)
        polls[1].stop()
        assert not polls[1].status().running


async def test_a_service_with_a_poll_in_a_scope_of_its_own() -> None:
    """V11: where nobody waits for the service any more, its poll ends with it, and none pile up."""
    polls: list[Poll[int]] = []

    async def config() -> AsyncIterator[Poll[int]]:
        async with scope(name="config") as own:
            polls.append(own.poll(Source(2), interval=1))
            await polls[-1].next()
            yield polls[-1]

    async with scope(name="app") as s:
        s.provide("config", config)
        for _ in range(3):
            with anyio.move_on_after(1):
                await s.use("config")
            await settle()
            assert [poll.status().state for poll in polls if poll.status().running] == []
        poll = await s.use("config")
        assert poll.status().running
        assert current_scope() is s
    assert polls[-1].status().state == "stopped"


async def test_who_is_told_twice_to_end() -> None:
    """S2: a scope that closes has nothing to cut where the task of a poll has left."""
    async with app() as s:
        poll = s.poll(Source(), interval=1)
        poll.stop()
        await settle()
        poll._pilot.cancel()
        assert str(poll.status()) == "stopped, 0 polls, 0 failed"


# ------------------------------------------------------------------ coarse clocks (L2)
EARLY = 4e-4
"""Seconds that timers ring too early on the loop below; on uvloop it is up to half a millisecond."""


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop whose timers ring too early."""

    timers = 0

    def call_at(self, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        """Set a timer, and count it."""
        self.timers += 1
        return super().call_at(max(when - EARLY, self.time()), *args, **options)


def test_a_timer_that_rings_too_early() -> None:
    """L2: no tick comes too early because of it, and the timer is set anew once, not again and again."""
    late: list[float] = []
    used: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HastyLoop)
        interval, count = 0.003, 5

        async def fetch() -> int:
            late.append(loop.time() - begun - interval * (len(late) + 1))
            return len(late)

        async with scope() as s:
            begun, before = loop.time(), loop.timers
            await s.poll(fetch, interval=interval, immediate=False, until=lambda n: n == count).wait_done()
            used.append(loop.timers - before)

    anyio.run(main, backend_options={"loop_factory": HastyLoop})
    assert len(late) == 5
    assert min(late) >= 0
    assert used[0] <= 2 * len(late)
