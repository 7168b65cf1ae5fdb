"""Polls: the black-box cases L01 to L20, each named after its number."""

from __future__ import annotations

import math
import random
import sys
import time
from datetime import timedelta
from typing import Any

import anyio
import pytest

from anyscope import PollFailed, PollStatus, PollStopped, TaskTimeout, scope
from polls import Refused, Source, app, collect, logged, settle
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.virtual_time


# ------------------------------------------------------------------ when


async def test_l01_a_fixed_rate_does_not_drift() -> None:
    """L2: fetches begin at `t0 + k * interval`, whatever each takes."""
    async with app() as s:
        source = Source(0.04)
        s.poll(source, interval=0.1)
        await anyio.sleep(0.35)
        assert source.starts == [0.0, 0.1, 0.2, 0.3]
        await anyio.sleep(100)
        assert source.starts[1000] == 100.0
        assert source.peak == 1


async def test_l01_every_end_counts_from_the_end() -> None:
    """L2: the interval is the pause then."""
    async with app() as s:
        source = Source(0.04)
        s.poll(source, interval=timedelta(milliseconds=100), every="end")
        await anyio.sleep(0.5)
        assert source.starts == [0.0, 0.14, 0.28, 0.42]


@pytest.mark.parametrize(
    ("missed", "starts", "skipped"), [("skip", [0.0, 0.2, 0.4], 2), ("run", [0.0, 0.13, 0.26, 0.39], 0)]
)
async def test_l02_a_fetch_that_takes_too_long(missed: Any, starts: list[float], skipped: int) -> None:
    """L2: the tick that came meanwhile is left out and counted, or made up for at once; never two at a time."""
    async with app() as s:
        source = Source(0.13)
        poll = s.poll(source, interval=0.1, missed=missed)
        await anyio.sleep(0.45)
        assert source.starts == starts
        assert poll.status().skipped_ticks == skipped
        assert source.peak == 1


@pytest.mark.parametrize(
    ("missed", "starts", "skipped"), [("skip", [0.0, 0.4, 0.5], 3), ("run", [0.0, 0.35, 0.4, 0.5], 2)]
)
async def test_l02_many_missed_ticks_make_no_burst(missed: Any, starts: list[float], skipped: int) -> None:
    """L2: several missed ticks are made up for once, and the grid stays."""
    async with app() as s:
        source = Source(0.35, 0)
        poll = s.poll(source, interval=0.1, missed=missed)
        await anyio.sleep(0.55)
        assert source.starts == starts
        assert poll.status().skipped_ticks == skipped


async def test_l02_a_fetch_of_just_an_interval_misses_nothing() -> None:
    """L2: the tick that comes as it ends is not late."""
    async with app() as s:
        source = Source(0.1)
        poll = s.poll(source, interval=0.1)
        await anyio.sleep(10.05)
        assert source.starts == [round(k / 10, 6) for k in range(101)]
        assert poll.status().skipped_ticks == 0


async def test_l03_not_immediate() -> None:
    """L1: one interval first, and the time until then is told."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1, immediate=False)
        assert poll.status().time_until_next == pytest.approx(0.1)
        await anyio.sleep(0.03)
        assert poll.status().time_until_next == pytest.approx(0.07)
        assert poll.status().state == "waiting"
        await anyio.sleep(0.1)
        assert source.starts == [0.1]
        assert poll.status().time_until_next == pytest.approx(0.07)


async def test_l04_stop_and_start_never_make_two() -> None:
    """L2, L4: also with a fetch that shields itself: one at a time, one loop afterwards."""
    async with app() as s:
        source = Source("stubborn", 0.01)
        values: list[int] = []
        poll = s.poll(source, values.append, interval=0.1)
        await anyio.sleep(0.05)
        for _ in range(3):
            poll.stop()
            assert poll.status().in_flight
            poll.start()
            await settle()
        assert (poll.status().state, poll.status().time_until_next) == ("waiting", None)
        await anyio.sleep(1.305)
        assert source.peak == 1
        assert source.starts == [0.0, 1.0, 1.05, 1.15, 1.25, 1.35]
        assert values == [2, 3, 4, 5]  # not 1, whose run was over; the last has just begun


async def test_l05_stop_cuts_the_fetch() -> None:
    """L4: and no `on_value` begins after it, also where the value is there already."""
    async with app() as s:
        source, values = Source("hang"), list[int]()
        poll = s.poll(source, values.append, interval=0.1)
        await settle()
        poll.stop()
        assert (poll.status().state, poll.status().time_until_next) == ("stopped", None)
        await settle()
        assert (source.cut, values) == ([1], [])
        assert not poll.status().in_flight

        async def stop_at_its_end() -> int:
            other.stop()
            return 1

        other = s.poll(stop_at_its_end, values.append, interval=0.1)
        await anyio.sleep(1)
        assert values == []
        with pytest.raises(LookupError):
            _ = other.latest
        assert (other.status().poll_count, other.status().success_count) == (1, 0)


async def test_l05_the_end_of_the_scope_cuts_the_fetch() -> None:
    """L1, S5: promptly, when it is cancelled, also while its tasks take time for that."""
    source, values = Source("hang"), list[int]()

    async def slow_to_leave() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                assert source.cut == [1]

    async with scope(name="app") as s:
        s.start_soon(slow_to_leave)
        poll = s.poll(source, values.append, interval=0.1)
        await settle()
        s.cancel("enough")
    assert (source.cut, values) == ([1], [])
    assert poll.status().state == "stopped"
    with pytest.raises(PollStopped, match=r"its scope was cancelled \(enough\)"):
        await poll.next()


async def test_l05_a_value_that_comes_with_the_cancellation_is_too_late() -> None:
    """L4: a fetch that shields itself ends after its scope was cancelled; its value goes nowhere."""
    values: list[int] = []

    async def slow_to_leave() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3)

    async with scope() as s:
        s.start_soon(slow_to_leave)
        poll = s.poll(Source("stubborn"), values.append, interval=0.1)
        await settle()
        s.cancel()
    assert values == []
    assert poll.status().success_count == 0


# ------------------------------------------------------------------ errors


async def test_l06_back_off_and_return_to_the_grid() -> None:
    """L5: pauses of 1, 1 and 2 intervals; counts, the last error; one WARNING and one INFO."""
    async with app() as s:
        source = Source(0, "fail", "fail", 0)
        with logged() as lines:
            poll = s.poll(source, interval=0.1, name="health")
            await anyio.sleep(0.25)
            status = poll.status()
            assert (status.failures, status.error_count, status.success_count) == (2, 2, 1)
            assert isinstance(status.last_error, Refused)
            await anyio.sleep(0.4)
        assert source.starts == [0.0, 0.1, 0.2, 0.4, 0.5, 0.6]
        status = poll.status()
        assert (status.failures, status.error_count, status.success_count) == (0, 2, 4)
        assert isinstance(status.last_error, Refused)
        assert lines == [
            "WARNING poll health of app: fetch failed (Refused: no)",
            "DEBUG poll health of app: fetch failed (Refused: no)",
            "INFO poll health of app: recovered, after 2 failures in 0.3 s",
        ]


async def test_l06_the_pause_counts_from_the_end_and_the_grid_stays() -> None:
    """L5: ticks that come in the pause are not missed ones; what a failing fetch overran is."""
    async with app() as s:
        source = Source(0, (0.25, Refused("late")), 0)
        poll = s.poll(source, interval=0.1)
        await anyio.sleep(0.65)
        assert source.starts == [0.0, 0.1, 0.45, 0.5, 0.6]
        assert poll.status().skipped_ticks == 2


@pytest.mark.parametrize(("most", "pauses"), [(None, [1, 2, 4, 8, 10, 10]), (3, [1, 2, 3, 3, 3, 3]), (0.5, [0.5] * 6)])
async def test_l06_the_longest_pause(most: float | None, pauses: list[float]) -> None:
    """L5: ten intervals where nothing is said."""
    async with app() as s:
        source = Source("fail")
        s.poll(source, interval=1, max_backoff=most)
        await anyio.sleep(sum(pauses) + 0.1)
        assert [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)] == pauses


async def test_l06_a_poll_that_fails_for_ever() -> None:
    """L5, law 7: nothing grows, and no power overflows."""
    async with app() as s:
        poll = s.poll(Source("fail"), interval=1, backoff=1000, max_backoff=1)
        await anyio.sleep(2000.5)
        assert poll.status().failures == 2001


async def test_l07_max_failures() -> None:
    """L5: after exactly three polls the scope fails with the third error."""
    errors = [Refused(str(number)) for number in range(4)]
    source = Source(*errors)
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            poll = s.poll(source, interval=0.1, max_failures=3, name="health")
            await anyio.sleep_forever()
    (failed,) = leaves(caught.value)
    assert isinstance(failed, PollFailed)
    assert failed.__cause__ is errors[2]
    assert (failed.poll, failed.failures, failed.problem) == ("health of app", 3, "Refused: 2")
    assert failed.__notes__ == ["in poll health (#0) of app"]
    assert len(source.starts) == 3
    assert poll.status().state == "failed"


async def test_l07_max_failures_are_in_a_row() -> None:
    """L5: a success in between begins anew."""
    async with app() as s:
        poll = s.poll(Source("fail", "fail", 0, "fail", "fail", 0), interval=1, max_failures=3)
        await anyio.sleep(10)
        assert poll.status().error_count == 4


async def test_l07_on_error_stop() -> None:
    """L5: the poll ends, who waits hears why, the scope goes on."""
    async with scope(name="app") as s:
        poll = s.poll(Source(0.1, "fail"), interval=1, on_error="stop")
        assert await poll.next() == 1
        with pytest.raises(PollFailed) as caught:
            await poll.next()
        assert isinstance(caught.value.__cause__, Refused)
        assert (poll.status().state, poll.latest) == ("failed", 1)
        with pytest.raises(PollFailed):
            await poll.next()
        with pytest.raises(PollFailed):
            await poll.trigger()
        await anyio.sleep(10)
        assert poll.status().poll_count == 2


async def test_l07_on_error_raise() -> None:
    """L5: the scope fails with the first."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            s.poll(Source("fail"), interval=1, on_error="raise")
            await anyio.sleep_forever()
    (failed,) = leaves(caught.value)
    assert isinstance(failed, PollFailed)
    assert failed.failures == 1


async def test_l07_on_error_a_function() -> None:
    """L5: it decides, knowing the error and the status."""
    seen: list[tuple[str, int, int]] = []

    def decide(error: Exception, status: PollStatus) -> Any:
        seen.append((str(error), status.failures, status.poll_count))
        return "continue" if status.failures < 3 else "stop"

    async with scope() as s:
        poll = s.poll(Source(0, "fail"), interval=1, on_error=decide)
        await anyio.sleep(20)
        assert seen == [("no", 1, 2), ("no", 2, 3), ("no", 3, 4)]
        assert poll.status().state == "failed"


async def test_l08_retry_after() -> None:
    """L5: an error may say when to come again."""

    class TooMany(Exception):
        retry_after: Any = 5

    class Later(Exception):
        retry_after = timedelta(seconds=3)

    async with app() as s:
        source = Source(TooMany(), Later(), 0)
        s.poll(source, interval=1)
        await anyio.sleep(9.5)
        assert source.starts == [0.0, 5.0, 8.0, 9.0]


@pytest.mark.parametrize("asked", [0, -1, math.nan, math.inf, "soon", True, object()])
async def test_l08_what_is_no_pause_is_none(asked: Any) -> None:
    """L5: nobody polls in a loop because of a strange header."""
    error = Refused("no")
    error.retry_after = asked  # type: ignore[attr-defined]
    async with app() as s:
        source = Source(error, 0)
        s.poll(source, interval=1)
        await anyio.sleep(1.5)
        assert source.starts == [0.0, 1.0]


async def test_l08_an_error_that_cannot_be_asked() -> None:
    """L5: not even its attributes can disturb the poll."""

    class Strange(Exception):
        @property
        def retry_after(self) -> float:
            raise RuntimeError("not now")

    async with app() as s:
        source = Source(Strange(), 0)
        s.poll(source, interval=1)
        await anyio.sleep(1.5)
        assert source.starts == [0.0, 1.0]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_l09_an_error_of_on_value(kind: str) -> None:
    """L5: a mistake in the program, which the scope tells, whatever the policy."""
    mistake = KeyError("level")

    def plain(_: int) -> None:
        raise mistake

    async def asynchronous(_: int) -> None:
        await anyio.sleep(0.01)
        raise mistake

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            poll = s.poll(Source(), plain if kind == "plain" else asynchronous, interval=1, name="config")
            await anyio.sleep_forever()
    assert leaves(caught.value) == [mistake]
    assert mistake.__notes__ == ["in poll config (#0) of app"]
    status = poll.status()
    assert (status.state, status.success_count, status.error_count, poll.latest) == ("failed", 1, 0, 1)
    with pytest.raises(PollFailed) as told:
        await poll.next()
    assert told.value.__cause__ is mistake


async def test_l10_a_fetch_that_hangs() -> None:
    """L5: its time-out is a failure, and the next one comes."""
    async with app() as s:
        source = Source("hang", 0)
        poll = s.poll(source, interval=0.1, timeout=0.02, name="health")
        await anyio.sleep(0.05)
        error = poll.status().last_error
        assert isinstance(error, TaskTimeout)
        assert str(error) == "task health of app ran over its timeout of 0.02 s"
        await anyio.sleep(0.2)
        assert source.starts == [0.0, 0.12, 0.2]
        assert source.cut == [1]


# ------------------------------------------------------------------ control


async def test_l11_callers_of_trigger_share_one_poll() -> None:
    """L4: five during a fetch get the value of the one after it."""
    async with app() as s:
        source = Source(0.05)
        poll = s.poll(source, interval=10)
        await anyio.sleep(0.01)
        tasks = [s.task(poll.trigger) for _ in range(5)]
        assert [await task.unwrap() for task in tasks] == [2] * 5
        assert source.starts == [0.0, 0.05]
        await anyio.sleep(10)
        assert source.starts == [0.0, 0.05, 10.0]
        poll.stop()
        with pytest.raises(PollStopped) as caught:
            await poll.trigger()
        assert str(caught.value) == (
            "poll Source of app has stopped (stop() was called): trigger() gives nothing\n"
            "poll.start() starts it again, as long as its scope is open."
        )


async def test_l12_pause_and_resume() -> None:
    """L4: none in between, one at once on resume, then the grid; no paused tick counts as skipped."""
    async with app() as s:
        source = Source()
        poll = s.poll(source, interval=0.1)
        await anyio.sleep(0.05)
        poll.pause()
        assert (poll.status().state, poll.status().running) == ("paused", True)
        assert poll.status().time_until_next is None
        await anyio.sleep(0.5)
        assert source.starts == [0.0]
        poll.resume()
        assert poll.status().time_until_next == 0.0
        await anyio.sleep(0.1)
        assert source.starts == [0.0, 0.55, 0.6]
        assert poll.status().skipped_ticks == 0
        poll.pause()
        await anyio.sleep(0.02)
        poll.resume()
        await anyio.sleep(0.1)
        assert source.starts == [0.0, 0.55, 0.6, 0.7]


# ------------------------------------------------------------------ values


async def test_l13_readers_are_conflated() -> None:
    """L6: a slow reader sees the newest value, and ends on `stop()`; two readers both see values."""
    async with scope() as s:
        poll = s.poll(Source(), interval=0.1)
        slow, quick = list[int](), list[int]()
        s.start_soon(collect, poll, slow, 0.25)
        s.start_soon(collect, poll, quick)
        await anyio.sleep(0.95)
        poll.stop()
    assert quick == list(range(1, 11))
    assert slow == [1, 3, 5, 8]


async def test_l14_latest() -> None:
    """L6: a `LookupError` before the first value, and the last good one after an error."""
    async with app() as s:
        poll = s.poll(Source(0, "fail"), interval=0.1, name="config")
        with pytest.raises(LookupError) as caught:
            _ = poll.latest
        assert str(caught.value) == "poll config of app has no value yet\nRight: await poll.next()"
        await anyio.sleep(0.15)
        assert poll.latest == 1
        assert poll.status().failures == 1


async def test_l15_it_does_not_keep_the_scope_open() -> None:
    """L1, S2: the fetch is cut and waited for."""
    source = Source("hang")
    started = anyio.current_time()
    async with scope() as s:
        poll = s.poll(source, interval=0.1)
        s.on_exit(lambda: source.cut.append(0))
        await settle()
    assert anyio.current_time() == started
    assert source.cut == [1, 0]
    assert poll.status().state == "stopped"


async def test_l16_until() -> None:
    """L6: the value is delivered, then the poll is done."""
    async with scope(name="app") as s:
        source, values, read = Source(), list[int](), list[int]()
        poll = s.poll(source, values.append, interval=1, until=lambda value: value == 3)
        s.start_soon(collect, poll, read)
        assert await poll.wait_done() == 3
        await anyio.sleep(5)
    assert (values, read, source.starts) == ([1, 2, 3], [1, 2, 3], [0.0, 1.0, 2.0])
    assert (poll.status().state, poll.status().running) == ("done", False)
    assert poll.latest == 3


async def test_l17_jitter() -> None:
    """L2: added to the tick, and the grid stays."""
    random.seed(3)
    async with app() as s:
        source = Source()
        s.poll(source, interval=0.1, jitter=0.02)
        await anyio.sleep(100.05)
        late = [start - k * 0.1 for k, start in enumerate(source.starts)]
        assert len(late) == 1001
        assert all(-1e-6 < each < 0.02 for each in late)
        assert late[0] == 0
        assert max(late) > 0.018
        assert 0.008 < sum(late) / len(late) < 0.012


@pytest.mark.parametrize(
    "options",
    [{"interval": 0}, {"interval": -1}, {"interval": math.nan}, {"interval": math.inf}, {"interval": timedelta(0)},
     {"interval": 1, "jitter": 1}, {"interval": 1, "jitter": math.nan}, {"interval": 1, "jitter": math.inf}],
)  # fmt: skip
async def test_l18_impossible_times(options: dict[str, Any]) -> None:
    """S12: told at the call, with nothing started."""
    async with scope() as s:
        with pytest.raises(ValueError, match="must be"):
            s.poll(Source(), **options)
        assert s.tree() == "scope scope open"


async def test_l19_the_time_until_next_while_a_fetch_is_under_way() -> None:
    """L3: unknown, and never a wrong number."""
    async with app() as s:
        poll = s.poll(Source(0.04), interval=0.1, every="end")
        assert poll.status().time_until_next == 0.0
        await anyio.sleep(0.01)
        assert (poll.status().in_flight, poll.status().time_until_next) == (True, None)
        await anyio.sleep(0.05)
        assert poll.status().time_until_next == pytest.approx(0.08)
        poll.stop()
        assert poll.status().time_until_next is None


async def test_l20_many_polls_are_cheap() -> None:
    """Scale: a task and a timer each at most, made in well under 50 microseconds, left in linear time."""
    async with scope() as s:
        before = len(anyio.get_running_tasks())
        began = time.process_time()
        polls = [s.poll(Source(), interval=3600) for _ in range(1000)]
        made = time.process_time() - began
        await settle()
        assert len(anyio.get_running_tasks()) - before == 1000
        began = time.process_time()
    left = time.process_time() - began
    assert made / 1000 < 500e-6  # generously, for a loaded machine
    assert left / 1000 < 2000e-6
    assert {poll.status().poll_count for poll in polls} == {1}
