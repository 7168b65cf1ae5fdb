"""`race` and `any`: the first to finish, or the first to succeed; the losers have ended by then (A6)."""

from __future__ import annotations

import functools
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Err, Hooks, Ok, ScopeCancelled, ScopeClosed, current_scope, each, scope

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

BOTH = ["race", "any"]


async def nap(seconds: float) -> float:
    """Sleep, and return how long."""
    await anyio.sleep(seconds)
    return seconds


async def at_once(item: Any) -> Any:
    """Return the item without suspending."""
    return item


async def fail(error: BaseException, seconds: float = 0.0) -> Any:
    """Sleep, then raise."""
    await anyio.sleep(seconds)
    raise error


@pytest.mark.parametrize("name", BOTH)
async def test_the_first_to_finish_wins(name: str) -> None:
    """A6, case 113: the fastest wins, wherever it stands in the input."""
    async with scope() as s:
        assert await getattr(s, name)(each(nap, [1, 0.002, 1])) == Ok(0.002)
        assert await getattr(s, name)(each(nap, [0.002])) == Ok(0.002)


@pytest.mark.parametrize("name", BOTH)
async def test_the_losers_have_ended(name: str) -> None:
    """A6, case 113: losers are cancelled and have finished their clean-up before it returns; nothing runs later."""
    log: list[str] = []

    async def loser() -> None:
        try:
            await anyio.sleep(1)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.003)
                log.append("cleaned")

    async with scope() as s:
        jobs: list[Callable[[], Any]] = [loser, functools.partial(nap, 0.002), loser]
        assert await getattr(s, name)(jobs) == Ok(0.002)
        assert log == ["cleaned", "cleaned"]
        await anyio.sleep(0.005)
        assert len(log) == 2
        assert not s.cancelled


async def test_an_error_wins_a_race() -> None:
    """A6, case 114: the first to settle fails: `race` gives its error, `any` goes on to the first success."""
    error = ValueError("fast")
    jobs: list[Callable[[], Any]] = [functools.partial(fail, error), functools.partial(nap, 0.003)]
    async with scope() as s:
        assert await s.race(jobs) == Err(error)
        assert await s.any(jobs) == Ok(0.003)


@pytest.mark.parametrize("value", [None, 0, "", False, ValueError("an object")], ids=repr)
async def test_a_falsy_value_wins(value: object) -> None:
    """A6: success is told by the outcome, never by truthiness."""
    async with scope() as s:
        for call in (s.race, s.any):
            jobs: list[Callable[[], Any]] = [functools.partial(at_once, value), functools.partial(nap, 1)]
            assert (await call(jobs)).pair() == (None, value)


async def test_all_fail() -> None:
    """A6, case 115: `any` of failures gives all errors in input order, whatever the order in which they came."""
    errors = [ValueError("a"), KeyError("b"), OSError("c")]
    async with scope(name="app") as s:
        result = await s.any([functools.partial(fail, error, 0.006 - 0.002 * n) for n, error in enumerate(errors)])
    group = result.pair()[0]
    assert isinstance(group, ExceptionGroup)
    assert list(group.exceptions) == errors
    assert group.message == "all 3 jobs failed in scope app"
    assert [error.__notes__ for error in group.exceptions] == [[f"in job {n} of app"] for n in range(3)]


async def test_all_fail_with_falsy_errors() -> None:
    """A6: errors that are false in a boolean context are errors."""

    class Falsy(Exception):
        def __bool__(self) -> bool:
            return False

    async with scope() as s:
        result = await s.any([functools.partial(fail, Falsy())])
        assert isinstance(result, Err)
        first = await s.any([functools.partial(fail, Falsy()), functools.partial(nap, 0.003)])
        assert first == Ok(0.003)


@pytest.mark.parametrize("name", BOTH)
async def test_nobody_can_win(name: str) -> None:
    """Case 116: no jobs is a `ValueError`, for lists, generators and async sources."""

    async def nothing() -> AsyncIterator[Callable[[], Any]]:
        for job in ():
            yield job

    async with scope() as s:
        for jobs in ([], (), iter(()), each(nap, []), nothing()):
            with pytest.raises(ValueError, match=rf"s\.{name}\(\.\.\.\): no jobs"):
                await getattr(s, name)(jobs)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("job", [nap, at_once])
async def test_all_finish_in_the_same_tick(name: str, job: Callable[[Any], Any]) -> None:
    """Case 117: one winner; the others are ignored, and never lost as an unobserved failure."""
    async with scope() as s:
        result = await getattr(s, name)(each(job, [0, 0, 0]))
    assert result == Ok(0)


@pytest.mark.parametrize("winner_is_first", [True, False])
async def test_a_winner_and_a_failure_in_the_same_tick(winner_is_first: bool) -> None:
    """Case 117: a failure in the tick of the winner does not leave the scope."""
    event = anyio.Event()

    async def win() -> str:
        await event.wait()
        return "won"

    async def lose() -> str:
        await event.wait()
        raise ValueError("lost")

    async def start() -> None:
        event.set()

    async with scope() as s:
        s.task(start)
        assert await s.any([win, lose] if winner_is_first else [lose, win]) == Ok("won")


@pytest.mark.parametrize("name", BOTH)
async def test_a_loser_that_raises_is_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Case 118: the winner is returned, and what a loser raises while it is cancelled is logged with its traceback."""

    async def loser() -> None:
        try:
            await anyio.sleep(1)
        finally:
            raise ValueError("while being cancelled")

    async with scope(name="app") as s:
        jobs: list[Callable[[], Any]] = [loser, functools.partial(nap, 0.002)]
        with caplog.at_level(logging.WARNING, logger="anyscope"):
            assert await getattr(s, name)(jobs) == Ok(0.002)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "app" in record.getMessage()
    assert "job 0" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.parametrize("way", BOTH)
async def test_what_a_handler_of_the_log_raises(way: str) -> None:
    """A6: where telling of a loser's error fails, that leaves the call bare, and the losers have ended."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyError(record.levelname)

    async def lose() -> None:
        try:
            await anyio.sleep(5)
        finally:
            raise OSError("late")

    handler, log = Handler(), logging.getLogger("anyscope")
    log.addHandler(handler)
    try:
        async with scope() as s:
            with pytest.raises(KeyError, match="WARNING"):
                await getattr(s, way)([lose, functools.partial(nap, 0.01)])
    finally:
        log.removeHandler(handler)


@pytest.mark.parametrize("name", BOTH)
async def test_a_loser_that_returns_is_not_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Case 118: a loser that ends quietly, or returns in spite of its cancellation, is not worth a word."""

    async def stubborn() -> str:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            return "late"
        return "slept"

    async with scope() as s:
        jobs: list[Callable[[], Any]] = [stubborn, functools.partial(nap, 0.002), functools.partial(nap, 1)]
        assert await getattr(s, name)(jobs) == Ok(0.002)
    assert caplog.records == []


@pytest.mark.parametrize("name", BOTH)
async def test_each_job_runs_once(name: str) -> None:
    """Case 119: each function is called exactly once."""
    calls = [0, 0, 0]

    async def job(n: int) -> int:
        calls[n] += 1
        await anyio.sleep(0.001 + n)
        return n

    async with scope() as s:
        assert await getattr(s, name)(each(job, range(3))) == Ok(0)
    assert calls == [1, 1, 1]


@pytest.mark.parametrize("name", BOTH)
async def test_a_trivial_winner_ends_an_endless_input(name: str) -> None:
    """A6: a first job that wins without suspending stops the reading of an endless generator, which is closed."""
    closed = False

    def jobs() -> Iterator[Callable[[], Any]]:
        nonlocal closed
        try:
            for n in itertools.count():
                yield functools.partial(at_once, n)
        finally:
            closed = True

    held = jobs()
    async with scope() as s:
        assert await getattr(s, name)(held) == Ok(0)
        assert closed


async def test_a_race_reads_a_fast_async_source_with_care() -> None:
    """A6: jobs of an async source that never suspends run while it is read, so that the first can win."""
    taken = 0

    async def jobs() -> AsyncIterator[Callable[[], Any]]:
        nonlocal taken
        for n in range(5000):
            taken += 1
            yield functools.partial(at_once, n)

    async with scope() as s:
        assert await s.race(jobs()) == Ok(0)
    assert taken < 5000


async def test_a_generator_that_raises() -> None:
    """A7: a generator of racers that raises midway ends the race with that error, bare, after its jobs."""
    ended = 0

    async def job() -> None:
        nonlocal ended
        try:
            await anyio.sleep(1)
        finally:
            ended += 1

    def jobs() -> Iterator[Callable[[], Any]]:
        yield job
        yield job
        raise LookupError("gone")

    async with scope() as s:
        with pytest.raises(LookupError, match="gone"):
            await s.race(jobs())
        assert ended == 2


@pytest.mark.parametrize("name", BOTH)
async def test_cancelled_from_outside(name: str) -> None:
    """A10: cancelled from outside, all racers have ended."""
    inside = 0

    async def job() -> None:
        nonlocal inside
        inside += 1
        try:
            await anyio.sleep(1)
        finally:
            inside -= 1

    async with scope() as s:
        with anyio.move_on_after(0.003) as cut:
            await getattr(s, name)([job] * 3)
        assert cut.cancelled_caught
        assert inside == 0


@pytest.mark.parametrize("name", BOTH)
async def test_a_foreign_caller_is_told(name: str) -> None:
    """A10: a task that the scope does not own gets `ScopeCancelled` and lives on."""
    outcome: list[object] = []

    async def foreign() -> None:
        with pytest.raises(ScopeCancelled) as caught:
            await getattr(s, name)(each(nap, [1, 1]))
        outcome.append(caught.value.reason)
        await checkpoint()
        outcome.append("lives")

    async with anyio.create_task_group() as tg, scope() as s:
        tg.start_soon(foreign)
        await anyio.sleep(0.003)
        s.cancel("why")
        await anyio.sleep(1)
    assert outcome == ["why", "lives"]


@pytest.mark.parametrize("name", BOTH)
async def test_a_keyboard_interrupt_leaves_bare(name: str) -> None:
    """S15: a KeyboardInterrupt of a racer leaves as itself, never as a value, also from a loser."""

    async def loser() -> None:
        try:
            await anyio.sleep(1)
        finally:
            raise KeyboardInterrupt

    async with scope() as s:
        with pytest.raises(KeyboardInterrupt):
            await getattr(s, name)([functools.partial(fail, KeyboardInterrupt()), functools.partial(nap, 1)])
        with pytest.raises(KeyboardInterrupt):
            await getattr(s, name)([loser, functools.partial(nap, 0.002)])


async def test_hooks_and_current_scope() -> None:
    """A9: hooks fire for racers, losers included, and the scope is current in them."""
    errors: list[str] = []

    async def where() -> str:
        await anyio.sleep(0.002)
        return current_scope().path

    hooks = Hooks(after_task=lambda name, duration, error: errors.append(type(error).__name__))
    async with scope(name="app", hooks=hooks) as s:
        assert await s.race([where, functools.partial(nap, 1)]) == Ok("app")
    assert sorted(errors) == ["NoneType", "TaskCancelled"]


async def test_a_race_in_a_race() -> None:
    """A6: racers may race; the concurrency of the scope does not hold a race back."""
    async with scope(concurrency=1) as s:
        inner = functools.partial(s.race, each(nap, [1, 0.002]))
        assert await s.race([functools.partial(nap, 1), inner]) == Ok(Ok(0.002))


@pytest.mark.parametrize("name", BOTH)
async def test_a_race_on_a_closed_scope(name: str) -> None:
    """S12: refused, with nothing run."""
    async with scope() as s:
        pass
    with pytest.raises(ScopeClosed):
        await getattr(s, name)([lambda: pytest.fail("ran")])
