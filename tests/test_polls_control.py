"""Polls under control: stopped, started, paused and asked, from outside and from inside their own functions."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from datetime import timedelta
from typing import Any

import anyio
import pytest
from anyio import from_thread, to_thread
from anyio.lowlevel import checkpoint, current_token

from anyscope import (
    Poll,
    PollFailed,
    PollStatus,
    PollStopped,
    Scope,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    TaskCancelled,
    current_scope,
    scope,
)
from anyscope._lifetime.backend import forget_native_cancellation
from anyscope._lifetime.owner import Owner
from polls import Refused, Source, app, collect, logged, settle
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.virtual_time


def owner_of(s: Scope) -> Owner:
    """What stands behind a scope."""
    return s._owner


# ------------------------------------------------------------------ stop and start


async def test_a_new_start_is_a_new_grid_and_counts_go_on() -> None:
    """L4: from the moment of `start()`; failures in a row are counted anew."""
    async with app() as s:
        source = Source(0, "fail", "fail", 0)
        poll = s.poll(source, interval=0.1)
        await anyio.sleep(0.25)
        poll.stop()
        poll.stop()
        await anyio.sleep(0.07)
        assert poll.status().failures == 2
        poll.start()
        poll.start()
        assert poll.status().failures == 0
        await anyio.sleep(0.15)
        assert source.starts == [0.0, 0.1, 0.2, 0.32, 0.42]
        status = poll.status()
        assert (status.poll_count, status.success_count, status.error_count) == (5, 3, 2)


async def test_start_waits_an_interval_if_it_was_made_so() -> None:
    """L1, L4: `immediate=False` holds for each start."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1, immediate=False)
        await anyio.sleep(0.15)
        poll.stop()
        await anyio.sleep(0.05)
        poll.start()
        await anyio.sleep(0.15)
        assert source.starts == [0.1, 0.3]


async def test_a_stopped_poll_has_no_task() -> None:
    """Scale: nothing is left of it until it is started again."""
    async with app() as s:
        polls = [s.poll(Source(), interval=1, until=bool) for _ in range(100)]
        await settle()
        assert s.tree() == "scope app open"
        assert not owner_of(s).works.daemons
        polls[0].start()
        assert s.tree() == "scope app open\n  poll Source (#0) waiting, 1 poll, 0 failed"


@pytest.mark.parametrize("where", ["fetch", "on_value", "async on_value", "until", "interval", "on_error"])
@pytest.mark.parametrize("also_start", [False, True])
async def test_stop_from_inside(where: str, also_start: bool) -> None:
    """L4: each of its functions may stop it, and start it again."""
    called: list[str] = []
    values: list[int] = []

    def act() -> None:
        if not called:
            called.append(where)
            poll.stop()
            if also_start:
                poll.start()

    async def fetch() -> int:
        starts.append(anyio.current_time() - origin)
        if where == "fetch":
            act()
            await checkpoint()
        if where == "on_error" and len(starts) == 1:
            raise Refused("no")
        return len(starts)

    def on_value(value: int) -> None:
        values.append(value)
        if where == "on_value":
            act()

    async def on_value_async(value: int) -> None:
        await anyio.sleep(0.01)
        act()
        await anyio.sleep(0.01)  # is not cut
        values.append(value)

    def until(_: int) -> bool:
        if where == "until":
            act()
        return where == "until" and len(starts) == 1

    def interval(_: PollStatus) -> float:
        if where == "interval":
            act()
        return 0.1

    def on_error(_: Exception, __: PollStatus) -> Any:
        act()
        return "raise"

    async with app() as s:
        starts: list[float] = []
        origin = anyio.current_time()
        chosen: Any = on_value_async if where == "async on_value" else on_value
        poll = s.poll(fetch, chosen, interval=interval, until=until, on_error=on_error)
        await anyio.sleep(0.35)
        assert called == [where]
        assert poll.status().running == also_start
        assert not poll.status().in_flight
        first = [] if where in ("fetch", "on_error") else [1]
        assert values == ([*first, 2, 3, 4, 5] if also_start else first)
        began = 0.02 if where == "async on_value" else 0.0
        later = [0.1, 0.2, 0.3] if where != "async on_value" else [0.11, 0.21, 0.31]
        expected = [0.0, began, *later] if also_start else [0.0]
        assert starts == pytest.approx(expected)


async def test_an_on_value_that_stops_the_poll_is_not_cut() -> None:
    """L4: it goes on to its end, and who triggered it gets the value."""
    ended: list[int] = []

    async def on_value(value: int) -> None:
        poll.stop()
        await anyio.sleep(1)
        ended.append(value)

    async with app() as s:
        poll = s.poll(Source(), on_value, interval=1, immediate=False)
        assert await poll.trigger() == 1
        assert ended == [1]
        assert poll.status().state == "stopped"


async def test_start_while_on_value_is_under_way() -> None:
    """L2: the next fetch waits for its end."""
    async with app() as s:
        source = Source()

        async def slowly(_: int) -> None:
            await anyio.sleep(0.5)

        poll = s.poll(source, slowly, interval=10)
        await settle()
        poll.stop()
        poll.start()
        status = poll.status()
        assert (status.state, status.in_flight, status.time_until_next) == ("waiting", True, None)
        await anyio.sleep(1)
        assert source.starts == [0.0, 0.5]


async def test_start_after_the_end_of_the_scope() -> None:
    """S12: told, and nothing has started."""
    async with scope(name="app") as s:
        poll = s.poll(Source(), interval=1)
    with pytest.raises(ScopeClosed, match=r"poll\.start\(Source\) came too late"):
        poll.start()
    for call in (poll.stop, poll.pause, poll.resume):
        call()
    assert repr(poll) == "<Poll Source of app stopped, 0 polls, 0 failed>"
    with pytest.raises(PollStopped, match="its scope has ended"):
        await poll.trigger()
    assert [value async for value in poll] == []


async def test_a_poll_in_a_scope_that_is_being_cancelled() -> None:
    """S5: it ends at once, without a fetch."""
    source = Source()
    polls: list[Poll[int]] = []
    async with scope(name="app") as s:

        async def last_breath() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    polls.append(s.poll(source, interval=0.1))
                    await anyio.sleep(1)
                    assert polls[0].status().state == "stopped"
                    polls[0].start()
                    await anyio.sleep(1)

        s.start_soon(last_breath)
        await settle()
        s.cancel("enough")
    assert source.starts == []
    assert polls[0].status().state == "stopped"


# ------------------------------------------------------------------ pause


async def test_pause_lets_a_fetch_end() -> None:
    """L4: its value is delivered, and no other is fetched."""
    async with app() as s:
        source, values = Source(0.05), list[int]()
        poll = s.poll(source, values.append, interval=0.1)
        await settle()
        poll.pause()
        assert poll.status().state == "polling"
        await anyio.sleep(0.5)
        assert (values, poll.status().state) == ([1], "paused")
        poll.resume()
        poll.resume()
        await anyio.sleep(0.25)
        assert source.starts == [0.0, 0.5, 0.6, 0.7]


async def test_pause_of_a_poll_that_counts_from_the_end() -> None:
    """L4: resumed when it is due."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1, every="end")
        await anyio.sleep(0.05)
        poll.pause()
        await anyio.sleep(0.01)
        poll.resume()
        await anyio.sleep(0.05)
        poll.pause()
        await anyio.sleep(0.3)
        poll.resume()
        await anyio.sleep(0.11)
        assert source.starts == [0.0, 0.1, 0.41, 0.51]


async def test_stop_ends_a_pause() -> None:
    """L4: a start begins without it."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1)
        poll.pause()
        await anyio.sleep(1)
        assert source.starts == []
        poll.stop()
        poll.start()
        await anyio.sleep(0.05)
        assert source.starts == [1.0]


# ------------------------------------------------------------------ trigger


async def test_trigger_while_it_is_paused() -> None:
    """L4: one poll, and it is paused as before."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1)
        poll.pause()
        await anyio.sleep(0.35)
        assert await poll.trigger() == 1
        await anyio.sleep(0.5)
        assert (source.starts, poll.status().state, poll.status().skipped_ticks) == ([0.35], "paused", 0)
        poll.resume()
        await anyio.sleep(0.1)
        assert source.starts == [0.35, 0.85, 0.9]
        poll.pause()
        await anyio.sleep(0.5)
        assert await poll.trigger() == 4
        assert poll.status().skipped_ticks == 0


async def test_trigger_in_a_pause_after_failures() -> None:
    """L4, L5: success returns to the grid."""
    async with app() as s:
        source = Source(0, "fail", "fail", "fail", 0)
        poll = s.poll(source, interval=0.1)
        await anyio.sleep(0.45)
        assert source.starts == [0.0, 0.1, 0.2, 0.4]
        assert await poll.trigger() == 5
        await anyio.sleep(0.2)
        assert source.starts == [0.0, 0.1, 0.2, 0.4, 0.45, 0.5, 0.6]
        assert poll.status().skipped_ticks == 0


async def test_trigger_of_a_poll_that_counts_from_the_end() -> None:
    """L4: the interval counts from the end of the triggered one."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1, every="end")
        await anyio.sleep(0.05)
        await poll.trigger()
        await anyio.sleep(0.25)
        assert source.starts == [0.0, 0.05, 0.15, 0.25]


async def test_trigger_raises_what_the_fetch_raises() -> None:
    """L4: that very error, to each; its traceback does not grow."""
    async with app() as s:
        poll = s.poll(Source(0, (0.01, Refused("late")), 0), interval=10, name="health")
        await settle()
        results = [s.task(poll.trigger) for _ in range(3)]
        errors = [(await task).pair()[0] for task in results]
        assert errors[0] is errors[1] is errors[2] is poll.status().last_error
        assert await poll.trigger() == 3


async def test_trigger_that_ends_the_poll() -> None:
    """L4, L5: who asked gets the error of the fetch; who asked later hears that it has failed."""
    async with app() as s:
        poll = s.poll(Source(0, (0.1, Refused("late"))), interval=10, on_error="stop")
        await settle()
        first = s.task(poll.trigger)
        await settle()
        second = s.task(poll.trigger)
        assert isinstance((await first).pair()[0], Refused)
        assert isinstance((await second).pair()[0], PollFailed)


async def test_trigger_of_a_poll_whose_on_value_fails() -> None:
    """L4, L5: who asked from elsewhere hears of it."""
    results: list[BaseException] = []

    def fail(_: int) -> None:
        raise KeyError("level")

    async def ask(poll: Poll[int]) -> None:
        try:
            await poll.trigger()
        except BaseException as error:
            results.append(error)
            raise

    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as tg, scope() as s:
            poll = s.poll(Source(), fail, interval=1, immediate=False)
            tg.start_soon(ask, poll)
            await anyio.sleep_forever()
    assert isinstance(results[0], KeyError)


async def test_stop_refuses_who_waits_for_a_trigger() -> None:
    """L4: before the poll has begun, and while it is under way."""
    async with app() as s:
        poll = s.poll(Source("hang"), interval=10, immediate=False)
        under_way = s.task(poll.trigger)
        await settle()
        queued = s.task(poll.trigger)
        await settle()
        poll.stop()
        poll.start()
        for task in (under_way, queued):
            error = (await task).pair()[0]
            assert isinstance(error, PollStopped)
            assert (error.poll, error.action, error.reason) == ("Source of app", "trigger()", "stop() was called")


async def test_a_trigger_that_nobody_waits_for_is_forgotten() -> None:
    """L4: cancelled before it began, it costs no poll; others still get theirs."""
    async with app() as s:
        source = Source(0.1)
        poll = s.poll(source, interval=10)
        await settle()
        gone = s.task(poll.trigger)
        await settle()
        gone.cancel()
        await anyio.sleep(1)
        assert source.starts == [0.0]
        gone, kept = s.task(poll.trigger), s.task(poll.trigger)
        await settle()
        gone.cancel()
        assert await kept.unwrap() == 2


async def test_trigger_waits_for_on_value() -> None:
    """L4: what `on_value` does has been done by then; a call meanwhile is for the next."""
    applied: list[int] = []

    async def apply(value: int) -> None:
        await anyio.sleep(0.1)
        applied.append(value)

    async with app() as s:
        source = Source()
        poll = s.poll(source, apply, interval=10, immediate=False)
        first = s.task(poll.trigger)
        await anyio.sleep(0.05)
        second = s.task(poll.trigger)
        assert (await first.unwrap(), applied) == (1, [1])
        assert (await second.unwrap(), applied) == (2, [1, 2])


@pytest.mark.parametrize("call", ["trigger", "next", "wait_done", "aclose"])
@pytest.mark.parametrize("where", ["fetch", "on_value"])
async def test_a_poll_that_waits_for_itself(where: str, call: str) -> None:
    """S12: told at the call, for it could never end."""
    told: list[str] = []

    async def wait(place: str) -> None:
        if place == where:
            async with scope(name="inner"):
                try:
                    await getattr(poll, call)()
                except ScopeMisuse as error:
                    told.append(str(error))
                with pytest.raises(ScopeMisuse, match="waits for itself: async for in its own"):
                    _ = poll.__aiter__()

    async def fetch() -> int:
        await wait("fetch")
        return 1

    async with app() as s:
        poll = s.poll(fetch, lambda _: wait("on_value"), interval=10, name="health")
        await settle()
        assert len(told) == 1
        assert told[0] == (
            f"scope app: poll health waits for itself: {call}() in its own fetch or on_value\n"
            "It could never end. Wait for the poll in another task: s.task(...)"
        )
        assert poll.status().running


async def test_one_poll_may_wait_for_another() -> None:
    """S12: that is no ring."""
    async with app() as s:
        first = s.poll(Source(), interval=1)
        await settle()
        second = s.poll(first.trigger, interval=1)
        assert await second.next() == 2


# ------------------------------------------------------------------ aclose


async def test_aclose_waits_for_the_fetch() -> None:
    """L4: what it uses may be closed afterwards."""
    async with app() as s:
        source = Source("stubborn")
        poll = s.poll(source, interval=0.1)
        await settle()
        closing = s.task(poll.aclose)
        await settle()
        poll.start()
        await closing
        assert source.ended == [1]
        assert poll.status().state in ("waiting", "polling")
        await poll.aclose()
        await poll.aclose()
        assert poll.status().state == "stopped"
        assert source.busy == 0


async def test_aclose_that_is_cancelled() -> None:
    """L4: the poll is stopped all the same."""
    async with app() as s:
        source = Source("stubborn")
        poll = s.poll(source, interval=0.1)
        await settle()
        with anyio.move_on_after(0.1) as cut:
            await poll.aclose()
        assert cut.cancelled_caught
        assert (poll.status().state, source.busy) == ("stopped", 1)
        await anyio.sleep(1)
        assert source.peak == 1
        assert len(source.starts) == 1


# ------------------------------------------------------------------ who waits


async def test_next_and_who_waits_at_the_end() -> None:
    """L6: the value after the call; `PollStopped` where there is none, also for who is started again at once."""
    async with app() as s:
        poll = s.poll(Source(0.1), interval=1)
        assert await poll.next() == 1
        assert await poll.next() == 2
        waiting = s.task(poll.next)
        done = s.task(poll.wait_done)
        read: list[int] = []
        reading = s.task(collect, poll, read)
        await settle()
        poll.stop()
        poll.start()
        for task in (waiting, done):
            assert isinstance((await task).pair()[0], PollStopped)
        assert (await reading).pair() == (None, None)
        assert read == [2]
        poll.stop()
        with pytest.raises(PollStopped, match=r"next\(\) gives nothing"):
            await poll.next()
        with pytest.raises(PollStopped):
            await poll.wait_done()


async def test_a_reader_of_a_poll_that_fails() -> None:
    """L6: sees the last value, then the failure; so does one that comes later."""
    async with app() as s:
        poll = s.poll(Source(0, "fail"), interval=1, on_error="stop")
        for _ in range(2):
            read: list[int] = []
            with pytest.raises(PollFailed) as caught:
                await collect(poll, read)
            assert read == [1]
            assert isinstance(caught.value.__cause__, Refused)
        with pytest.raises(PollFailed):
            await poll.wait_done()


async def test_a_reader_of_a_poll_that_is_done() -> None:
    """L6: the last value is not lost, however slow the reader is, and whenever it comes."""
    async with app() as s:
        poll = s.poll(Source(), interval=0.1, until=lambda value: value == 5)
        slow: list[int] = []
        s.start_soon(collect, poll, slow, 0.35)
        assert await poll.wait_done() == 5
        await anyio.sleep(1)
        assert slow == [1, 4, 5]
        assert [value async for value in poll] == [5]
        assert await poll.wait_done() == 5
        with pytest.raises(PollStopped, match="what it waited for has come"):
            await poll.next()
        poll.start()
        assert await poll.next() == 6


async def test_who_waits_in_a_foreign_task() -> None:
    """L6, S5: hears of the end of the scope, and lives on."""
    told: list[object] = []

    async def wait(call: Any) -> None:
        try:
            told.append(await call())
        except PollStopped as error:
            told.append(error.reason)

    async def read(poll: Poll[int]) -> None:
        told.append([value async for value in poll])

    async with anyio.create_task_group() as tg:
        async with scope() as s:
            poll = s.poll(Source("hang"), interval=1)
            for call in (poll.next, poll.trigger, poll.wait_done):
                tg.start_soon(wait, call)
            tg.start_soon(read, poll)
            await settle()
            s.cancel("enough")
        await settle()
    assert sorted(map(str, told)) == ["[]", *["its scope was cancelled (enough)"] * 3]


async def test_a_wait_that_is_cancelled_leaves_the_poll_alone() -> None:
    """L6: in each way of waiting."""
    async with app() as s:
        poll = s.poll(Source(), interval=1)
        await settle()
        for call in (poll.next, poll.wait_done, poll.trigger):
            with anyio.move_on_after(0):
                await call()
        assert await poll.next() >= 2
        assert poll.status().running


async def test_it_goes_on_while_tasks_are_waited_for() -> None:
    """L1, S2: they may need its values; it ends before anything is closed."""
    seen: list[object] = []

    async def wait_for(poll: Poll[int]) -> None:
        seen.append(await poll.trigger())
        seen.append(await poll.next())

    source = Source()
    async with scope() as s:
        s.on_exit(lambda: seen.append(poll.status().state))
        poll = s.poll(source, interval=1)
        s.start_soon(wait_for, poll)
    assert seen == [1, 2, "stopped"] or seen == [2, 3, "stopped"]


# ------------------------------------------------------------------ intervals that change


async def test_an_interval_that_is_a_function() -> None:
    """L1: asked after each fetch; a change begins a new grid at the last tick; `None` ends the poll."""
    given = iter([0.1, 0.1, timedelta(seconds=1), 1, 0.5, None])

    def interval(status: PollStatus) -> Any:
        asked.append(status.poll_count)
        assert (status.in_flight, status.time_until_next) == (True, None)
        return next(given)

    async with app() as s:
        source = Source(0.04)
        asked: list[int] = []
        poll = s.poll(source, interval=interval)
        assert await poll.wait_done() == 6
        assert source.starts == [0.0, 0.1, 0.2, 1.2, 2.2, 2.7]
        assert asked == [1, 2, 3, 4, 5, 6]
        assert poll.status().state == "done"
        with pytest.raises(PollStopped, match="its interval has become None"):
            await poll.trigger()


async def test_an_interval_that_is_none_from_the_beginning() -> None:
    """L1: with `immediate=False` there is no poll at all."""
    async with app() as s:
        poll = s.poll(Source(), interval=lambda _: None, immediate=False)
        assert repr(poll) == "<Poll Source of app done, 0 polls, 0 failed>"
        assert s.tree() == "scope app open"
        with pytest.raises(LookupError, match="has no value yet"):
            await poll.wait_done()
        with pytest.raises(PollStopped, match="its interval was None"):
            await poll.next()
        poll.start()
        assert poll.status().state == "done"


async def test_an_interval_that_is_a_function_and_failures() -> None:
    """L5: the pauses are multiples of what it gives then."""
    async with app() as s:
        source = Source("fail")
        s.poll(source, interval=lambda status: float(status.failures), immediate=True)
        await anyio.sleep(20)
        assert source.starts == [0.0, 1.0, 5.0, 17.0]


async def test_jitter_is_never_longer_than_an_interval_that_changes() -> None:
    """L2: or polls would pass one another."""
    async with app() as s:
        source = Source()
        s.poll(source, interval=lambda _: 0.1, jitter=50)
        await anyio.sleep(10)
        assert all(k * 0.1 <= start < (k + 1) * 0.1 for k, start in enumerate(source.starts))
        assert len(source.starts) >= 99


async def test_jitter_from_the_end_may_be_long() -> None:
    """L2: there is no tick to be passed."""
    async with app() as s:
        source = Source()
        s.poll(source, interval=0.1, jitter=50, every="end")
        await anyio.sleep(500)
        assert 10 < len(source.starts) < 60


async def test_an_interval_that_is_a_function_is_asked_at_the_call() -> None:
    """S12: what it raises there leaves nothing behind."""

    def wrong(_: PollStatus) -> float:
        raise KeyError("interval")

    async with app() as s:
        with pytest.raises(KeyError):
            s.poll(Source(), interval=wrong, immediate=False)
        with pytest.raises(ValueError, match=r"what interval\(status\) gives must be > 0 seconds, and finite, got -1"):
            s.poll(Source(), interval=lambda _: -1, immediate=False)
        assert s.tree() == "scope app open"


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"interval": lambda _: -1}, "what interval(status) gives must be > 0 seconds, and finite, got -1"),
        ({"interval": lambda _: "1"}, "must be a number of seconds, a timedelta or a function of the status, got '1'"),
        ({"interval": lambda _: next(iter(()))}, "StopIteration"),
        ({"interval": 1, "until": lambda value: value.missing}, "'int' object has no attribute 'missing'"),
    ],
)
async def test_mistakes_in_other_functions(options: dict[str, Any], problem: str) -> None:
    """L5: they go to the scope, like those of `on_value`."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            poll = s.poll(Source(), **options)
            await anyio.sleep_forever()
    (error,) = leaves(caught.value)
    assert problem in str(error)
    assert (poll.status().state, poll.latest) == ("failed", 1)


async def test_an_until_that_gives_a_coroutine() -> None:
    """L6, S12: it would be true whatever comes of it."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.poll(Source(), interval=1, until=lambda _: anyio.sleep(1))
            await anyio.sleep_forever()
    assert [str(error) for error in leaves(caught.value)] == [
        "until must be a plain function, but gave a coroutine: it is called, never awaited"
    ]


async def test_an_on_value_that_starts_a_task() -> None:
    """S4: the task is not waited for, and its error is the scope's to tell."""

    async def handle(value: int) -> None:
        await anyio.sleep(5)
        raise Refused(f"value {value}")

    source = Source()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            poll = s.poll(source, lambda value: s.task(handle, value), interval=1)
            await anyio.sleep(1.5)
            poll.stop()
    assert source.starts == [0.0, 1.0]
    assert [str(error) for error in leaves(caught.value)] == ["value 1", "value 2"]


async def test_a_poll_behind_a_shield_outlives_the_cancellation_of_a_scope_around() -> None:
    """S5: what a shield keeps going may wait for a poll."""
    async with scope(name="app") as s:
        with anyio.CancelScope(shield=True):
            async with scope(name="flush") as inner:
                poll = inner.poll(Source(), interval=1, until=lambda value: value == 3)
                await settle()
                s.cancel("enough")
                assert inner.cancelled
                assert await poll.wait_done() == 3


async def test_nothing_keeps_a_poll_alive() -> None:
    """Scale: neither the scope nor a ring of references, once it has ended and nobody holds it."""
    async with app() as s:
        gc.collect()
        gc.disable()
        try:
            polls = [
                s.poll(Source(), interval=1, until=bool),
                s.poll(Source("hang"), interval=1),
                s.poll(Source("fail"), interval=1),
                s.poll(Source("fail"), interval=1, on_error="stop"),
                s.poll(Source(), interval=1),
            ]
            await settle()
            for poll in polls[1:3]:
                poll.stop()
            await polls[4].trigger()
            await polls[4].aclose()
            await settle()
            watched = [weakref.ref(each) for each in polls]
            del polls, poll
            await settle()
            assert [each() for each in watched] == [None] * 5
        finally:
            gc.enable()


@pytest.mark.parametrize("answer", [None, True, "retry", RuntimeError("no")])
async def test_mistakes_in_on_error(answer: Any) -> None:
    """L5: what it raises, and a word that is none."""

    def decide(_: Exception, __: PollStatus) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.poll(Source("fail"), interval=1, on_error=decide)
            await anyio.sleep_forever()
    (error,) = leaves(caught.value)
    if isinstance(answer, Exception):
        assert error is answer
    else:
        assert str(error) == (
            f"what on_error(error, status) gives must be 'continue' or 'stop' or 'raise', got {answer!r}"
        )


async def test_a_lambda_that_is_no_async_function() -> None:
    """S12: seen at its first call, it is a mistake and no failure; an error in the lambda itself is one."""
    fetch: Any = lambda: 3  # noqa: E731
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.poll(fetch, interval=1)
            await anyio.sleep_forever()
    (error,) = leaves(caught.value)
    assert str(error).endswith("<lambda>): expected an async function, but it returned int, not a coroutine")
    numbers: dict[str, float] = {}
    async with app() as s:
        poll = s.poll(lambda: anyio.sleep(numbers["pause"]), interval=1)
        await settle()
        assert isinstance(poll.status().last_error, KeyError)
        numbers["pause"] = 0.1
        await poll.next()


async def test_an_error_of_a_fetch_that_was_cut() -> None:
    """L5: it is told, and nothing more: neither the scope nor the next run is concerned."""

    async def fetch() -> int:
        number.append(1)
        if len(number) > 1:
            return 2
        try:
            await anyio.sleep_forever()
        finally:
            raise Refused("while it was cut")

    async with scope(name="app") as s:
        number: list[int] = []
        poll = s.poll(fetch, interval=1, on_error="raise", name="health")
        await settle()
        with logged() as lines:
            poll.stop()
            poll.start()
            assert await poll.next() == 2
        assert lines == ["WARNING poll health of app: fetch failed (Refused: while it was cut)"]
        status = poll.status()
        assert (status.error_count, status.failures, status.success_count) == (1, 0, 1)
        assert isinstance(status.last_error, Refused)


async def test_an_error_of_a_fetch_that_was_cut_in_a_group() -> None:
    """L5: an error that comes with the cancellation in one group is an error all the same."""

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Refused("child")

    async def fetch() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(fail)
            tg.start_soon(anyio.sleep_forever)

    async with scope(name="app") as s:
        poll = s.poll(fetch, interval=1)
        await settle()
        poll.stop()
        await settle()
        assert leaves(poll.status().last_error or Exception())[0].args == ("child",)
        poll.start()
        await settle()
    assert poll.status().error_count == 2
    assert poll.status().state == "stopped"


@pytest.mark.parametrize("where", ["fetch", "on_value"])
async def test_a_fatal_exception(where: str) -> None:
    """L5, S15: ends the scope, and is never an error of the fetch."""

    class Fatal(BaseException):
        pass

    async def fetch() -> int:
        await checkpoint()
        if where == "fetch":
            raise Fatal
        return 1

    async def on_value(_: int) -> None:
        await checkpoint()
        raise Fatal

    with pytest.raises(Fatal):
        async with scope(name="app") as s:
            poll = s.poll(fetch, on_value, interval=1)
            await anyio.sleep_forever()
    assert (poll.status().state, poll.status().error_count) == ("stopped", 0)
    with pytest.raises(PollStopped, match=r"its scope was cancelled \(Fatal: \)"):
        await poll.next()


async def test_an_on_value_in_a_group_that_is_cancelled_and_fails() -> None:
    """S4: its error leaves the scope that was cancelled meanwhile."""

    async def on_value(_: int) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                raise Refused("late")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.poll(Source(), on_value, interval=1)
            await settle()
            s.cancel()
    assert [str(error) for error in leaves(caught.value)] == ["late"]


async def test_an_on_value_is_cut_when_the_scope_ends() -> None:
    """L1, S2: as a fetch is."""
    cut: list[bool] = []

    async def on_value(_: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cut.append(True)

    async with scope() as s:
        poll = s.poll(Source(), on_value, interval=1)
        await settle()
    assert cut == [True]
    assert poll.status().state == "stopped"


# ------------------------------------------------------------------ the scope around it


async def test_the_deadline_of_the_scope_cuts_it() -> None:
    """S6: a poll alone is no reason for a `ScopeTimeout`; a body that is cut off is."""
    async with scope(timeout=1) as s:
        poll = s.poll(Source("hang"), interval=1)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(2)
        assert poll.status().state == "stopped"
    with pytest.raises(ScopeTimeout):
        async with scope(timeout=1) as s:
            s.poll(Source("hang"), interval=1)
            await anyio.sleep(2)


async def test_a_cancellation_from_outside_cuts_it() -> None:
    """S8: also where the poll is the first to notice."""
    source = Source("hang")
    with anyio.move_on_after(1):
        async with scope(name="app") as s:
            poll = s.poll(source, interval=1)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
                assert source.cut == [1]
                assert poll.status().state == "stopped"
                assert s.cancelled
            await checkpoint()
    with pytest.raises(PollStopped, match="cancelled from outside"):
        await poll.next()


async def test_it_sees_its_scope_and_its_tasks_are_the_scopes() -> None:
    """S11: the current scope is that of the poll; child scopes in a fetch end with it."""
    paths: list[str] = []

    async def fetch() -> None:
        paths.append(current_scope().path)
        async with scope(name="inner") as inner:
            paths.append(inner.path)
            await anyio.sleep_forever()

    async def elsewhere(s: Scope) -> None:
        async with scope(name="elsewhere"):
            s.poll(fetch, interval=1)
            await settle()

    async with scope(name="app") as s:
        await s.task(elsewhere, s)
        assert "poll" in s.tree()
    assert paths == ["app", "app > inner"]


async def test_a_scope_in_a_fetch_is_cancelled_with_it() -> None:
    """S5, S9: as one in a task, with the reason."""
    inner: list[Scope] = []

    async def fetch() -> None:
        async with scope(name="inner") as s:
            inner.append(s)
            await anyio.sleep_forever()

    async with scope(name="app") as s:
        s.poll(fetch, interval=1)
        await settle()
        s.cancel("enough")
        assert (inner[0].cancelled, inner[0].cancel_reason) == (True, "enough")
    assert inner[0].closed


async def test_a_service_may_have_a_poll() -> None:
    """V, L1: it is made in the scope that provides the service, and may use other services."""
    polls: list[Poll[str]] = []

    async def fetch() -> str:
        return str(await current_scope().use("greeting"))

    async def config() -> str:
        polls.append(current_scope().poll(fetch, interval=10))
        return await polls[0].next()

    async with scope(name="app") as s:
        s.provide("greeting", lambda: "hello").provide("config", config)
        async with scope(name="request") as request:
            assert await request.use("config") == "hello"
        assert polls[0].status().running
    assert polls[0].status().state == "stopped"


async def test_other_threads() -> None:
    """S12: may look; what changes something tells the way through the loop, and has done nothing."""

    def look() -> tuple[PollStatus, int]:
        return poll.status(), poll.latest

    async with app() as s:
        poll = s.poll(Source(), interval=10)
        await settle()
        status, latest = await to_thread.run_sync(look)
        assert (status.poll_count, latest) == (1, 1)
        assert status.time_until_next is None or 9 < status.time_until_next <= 10
        for call in (poll.stop, poll.start, poll.pause, poll.resume):
            with pytest.raises(ScopeMisuse, match=rf"from_thread\.run_sync\(poll\.{call.__name__}, "):
                await to_thread.run_sync(call)
        with pytest.raises(ScopeMisuse, match=r"from_thread\.run\(poll\.trigger, "):
            await to_thread.run_sync(lambda: poll.trigger().send(None))
        token = current_token()
        value = await to_thread.run_sync(lambda: from_thread.run(poll.trigger, token=token))
        assert value == 2


# ------------------------------------------------------------------ native cancellation


def sniffed() -> str:
    """The backend."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"


def task_of(poll: Poll[Any]) -> Any:
    """The native task of a poll."""
    return poll._pilot.native


@pytest.mark.asyncio_only
async def test_a_native_cancellation_while_it_waits_changes_nothing() -> None:
    """L5: there is nobody else to go on."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=1)
        await settle()
        for _ in range(3):
            task_of(poll).cancel()
            await settle()
        await anyio.sleep(1.5)
        assert source.starts == [0.0, 1.0]
        if sys.version_info >= (3, 11):
            assert task_of(poll).cancelling() == 0


async def test_a_group_in_a_fetch_after_a_native_cancellation() -> None:
    """L5: what was dealt with is taken back, or `asyncio.TaskGroup` would take it for one that is still to come."""

    async def fail() -> None:
        raise Refused("child")

    async def fetch() -> None:
        if sys.version_info >= (3, 11) and in_asyncio:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        raise Refused("no group")

    in_asyncio = sniffed() == "asyncio"
    async with app() as s:
        poll = s.poll(fetch, interval=1, immediate=False)
        await settle()
        if in_asyncio:
            task_of(poll).cancel()
        forget_native_cancellation()  # of this task: there is none
        await anyio.sleep(1.5)
        assert leaves(poll.status().last_error or Exception())[0].args in {("child",), ("no group",)}
        assert isinstance(leaves(poll.status().last_error or Exception())[0], Refused)


@pytest.mark.asyncio_only
async def test_a_native_cancellation_of_a_fetch_is_a_failure() -> None:
    """L5: as is a future that somebody has cancelled."""
    async with app() as s:
        source = Source("hang", 0)
        poll = s.poll(source, interval=1, name="health")
        await settle()
        task_of(poll).cancel()
        await settle()
        error = poll.status().last_error
        assert isinstance(error, TaskCancelled)
        assert str(error) == "task health of app was cancelled (cancelled natively)"
        await anyio.sleep(1.5)
        assert source.starts == [0.0, 1.0]

        async def cancelled() -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        other = s.poll(cancelled, interval=1)
        await settle()
        assert isinstance(other.status().last_error, TaskCancelled)
        assert other.status().running


@pytest.mark.asyncio_only
async def test_a_native_cancellation_of_on_value_is_a_mistake() -> None:
    """L5: what it had begun is half done, and nobody else would tell."""

    async def on_value(_: int) -> None:
        await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            poll = s.poll(Source(), on_value, interval=1)
            await settle()
            task_of(poll).cancel()
            await anyio.sleep_forever()
    assert [type(error) for error in leaves(caught.value)] == [TaskCancelled]
    assert poll.status().state == "failed"


@pytest.mark.asyncio_only
async def test_a_native_cancellation_before_the_first_step() -> None:
    """S7: the poll is stopped, who waits hears of it, and the scope tells."""
    told: list[BaseException] = []

    async def wait(poll: Poll[int]) -> None:
        try:
            await poll.next()
        except PollStopped as error:
            told.append(error)

    async with anyio.create_task_group() as tg:
        with pytest.raises(BaseExceptionGroup):
            async with scope(name="app") as s:
                before = asyncio.all_tasks()
                poll = s.poll(Source(), interval=1)
                (new,) = asyncio.all_tasks() - before
                new.cancel()
                tg.start_soon(wait, poll)
                await anyio.sleep_forever()
        await settle()
        assert poll.status().state == "stopped"
        assert len(told) == 1
        poll._pilot.abandon()  # again: nothing


@pytest.mark.asyncio_only
async def test_a_poll_that_was_taken_for_lost_does_not_begin() -> None:
    """S7: should its task begin all the same, it finds that it is not wanted."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=1)
        poll._pilot.abandon()
        await settle()
        assert source.starts == []
        assert poll.status().state == "stopped"
        poll.start()
        await settle()
        assert source.starts == [0.0]


async def test_a_hook_that_stops_the_poll() -> None:
    """L4, H4: before the fetch begins: there is none."""
    from anyscope import Hooks, PollEvent

    class Stop(Hooks):
        def polled(self, event: PollEvent, /) -> None:
            if event.moment == "started":
                polls[0].stop()

    polls: list[Poll[int]] = []
    async with app(hooks=Stop()) as s:
        source = Source()
        polls.append(s.poll(source, interval=1))
        await settle()
        assert source.starts == []
        assert (polls[0].status().state, polls[0].status().poll_count) == ("stopped", 1)


async def test_a_defect_of_the_task_is_told() -> None:
    """S4: whatever goes wrong in the task itself: who waits hears of an end, and the scope tells."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            poll = s.poll(Source(), interval=1, immediate=False)
            poll._course.timing.due = "soon"  # type: ignore[assignment]
            await anyio.sleep_forever()
    assert isinstance(leaves(caught.value)[0], TypeError)
    assert poll.status().state == "stopped"
