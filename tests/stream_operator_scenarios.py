"""Stories about the operators of streams, told to `anyscope.testing`: tests/test_stream_operators_simulated.py.

A `Tale` knows the promise: each source is closed once and never read afterwards, or by two at a time; no more calls run
at once than allowed, and none after the stream was closed; no error vanishes, and none is told twice; a loop that ends
by itself has seen every item, once and in order.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Scope, Stream, scope
from anyscope.testing import Scenario, Simulation
from scenarios import leaves

STREAM_OPERATOR_SCENARIOS: list[Scenario] = []
VAR: ContextVar[str] = ContextVar("VAR", default="caller")


class Mistake(Exception):
    """An error of a story: each is made once, and must be told once, or be noted on another one."""


class Feed:
    """A source.

    Args:
        tale: The story.
        items: How many items.
        fails: Whether it fails after them.
        pause: Seconds before each.
    """

    def __init__(self, tale: Tale, items: int, *, fails: bool = False, pause: float = 0.0) -> None:
        self._tale = tale
        self._left = iter(range(items))
        self._fails = fails
        self._pause = pause
        self._is_in_step = False
        self.given = 0
        self.closes = self.closed = 0
        tale.feeds.append(self)

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> int:
        assert not self._is_in_step, "read by two at a time"
        assert not self.closes, "read after it was closed"
        self._is_in_step = True
        try:
            await anyio.sleep(self._pause)
            for item in self._left:
                self.given += 1
                return item
            if self._fails:
                self._fails = False
                raise self._tale.mistake("source")
            raise StopAsyncIteration
        finally:
            self._is_in_step = False

    async def aclose(self) -> None:
        """Close it, in two turns of the loop."""
        assert not self._is_in_step, "closed in the middle of a step"
        self.closes += 1
        await checkpoint()
        await anyio.sleep(0.001)
        self.closed += 1


class Tale:
    """What happened.

    Attributes:
        feeds: The sources.
        running: The calls that run.
        made: The errors that were raised.
        told: Those that came out.
        is_over: Whether the scope has closed; nothing runs after that.
        is_read_here: Whether sources are read, and closed, in the victim's own task. No scope is around that, for a
            source may hold one of its own; so a cancellation that comes in the middle of it cuts it short.
    """

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.running: set[object] = set()
        self.most = 1
        self.made: list[Mistake] = []
        self.told: list[BaseException] = []
        self.is_over = self.is_read_here = False

    def feed(self, items: int = 4, *, fails: bool = False, pause: float = 0.0) -> Feed:
        """A source."""
        return Feed(self, items, fails=fails, pause=pause)

    def mistake(self, name: str) -> Mistake:
        """Make an error that must not vanish."""
        self.made.append(Mistake(f"{name} {len(self.made)}"))
        return self.made[-1]

    async def call(self, item: int) -> int:
        """What operators call: slower for some than for others."""
        assert not self.is_over, "called after the end"
        token = object()
        self.running.add(token)
        assert len(self.running) <= self.most, "too many calls at once"
        try:
            await anyio.sleep(0.01 * (item % 3))
            return item
        finally:
            self.running.discard(token)

    async def failing_call(self, item: int) -> int:
        """Fails with some."""
        await self.call(item)
        if item in (2, 3):
            raise self.mistake("call")
        return item

    def check(self) -> None:
        """The promise."""
        assert not self.running, "calls outlive their stream"
        for feed in self.feeds:
            assert feed.closes == 1, f"a source was closed {feed.closes} times"
            assert feed.closed == 1 or self.is_read_here, "the closing of a source was cut short"
        notes = [note for error in self.told for note in getattr(error, "__notes__", ())]
        for mistake in self.made:
            times = sum(each is mistake for each in self.told)
            times += sum(str(note).endswith(f": {mistake}") for note in notes)
            assert times == 1, f"{mistake!r} was told {times} times, out of {self.told!r}, {notes}"
        strange = [error for error in self.told if not isinstance(error, Mistake)]
        assert not strange, f"nobody made {strange!r}"


def story(tell: Callable[[Tale, Scope, Simulation], Awaitable[object]]) -> Scenario:
    """Make a scenario of a story, which is told in a scope of its own, by the victim."""

    async def scenario(sim: Simulation) -> None:
        tale = Tale()

        async def victim() -> None:
            async with scope(name="app") as s:
                await tell(tale, s, sim)

        try:
            await sim.victim(victim)
        except AssertionError:
            raise
        except Exception as error:
            assert not any(isinstance(leaf, AssertionError) for leaf in leaves(error)), error
            tale.told += leaves(error)
        tale.is_over = True
        await anyio.sleep(1)
        tale.check()

    scenario.__name__ = scenario.__qualname__ = tell.__name__  # type: ignore[attr-defined]
    scenario.__doc__ = tell.__doc__
    STREAM_OPERATOR_SCENARIOS.append(scenario)
    return scenario


async def read_all(items: Stream[Any]) -> list[Any]:
    """Read in a block."""
    async with items:
        return [item async for item in items]


@story
async def calls_at_once_in_order(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: all results, in order, unless somebody was cancelled; never too many calls."""
    tale.most = 2
    got = await read_all(s.stream(tale.feed(7)).map(tale.call, concurrency=2))
    assert got == list(range(7))


@story
async def calls_at_once_as_they_come(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: each result once."""
    tale.most = 3
    got = await read_all(s.stream(tale.feed(7)).map(tale.call, concurrency=3, ordered=False))
    assert sorted(got) == list(range(7))


@story
async def calls_that_set_a_variable(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: none sees what another one has set, though workers are replaced; each result once, in order."""
    tale.most = 2

    async def call(item: int) -> int:
        assert VAR.get() == "caller"
        if item % 2:
            VAR.set(str(item))
        return await tale.call(item)

    got = await read_all(s.stream(tale.feed(7)).map(call, concurrency=2))
    assert got == list(range(7))


@story
async def calls_that_fail_in_order(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: the results before the error, then the error; the errors of others are notes on it."""
    tale.most, got = 4, list[int]()
    try:
        async with s.stream(tale.feed(7)).map(tale.failing_call, concurrency=4) as items:
            async for item in items:
                got.append(item)
    except Mistake:
        assert got == [0, 1]
        raise


@story
async def calls_that_fail_and_a_source_that_does(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: the same without order, and with an error of the source."""
    tale.most = 4
    await read_all(s.stream(tale.feed(4, fails=True)).map(tale.failing_call, concurrency=4, ordered=False))


@story
async def leaving_calls_in_flight(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R3, P05: without a block, the stream is closed by the scope."""
    tale.most = 3
    async for item in s.stream(tale.feed(9)).map(tale.call, concurrency=3):
        if item == 1:
            break


@story
async def calls_over_two_sources_at_once(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7, R8: a map over a merge; each item once."""
    tale.most = 2
    merged = s.stream(tale.feed(3)).merge(tale.feed(3, pause=0.01), buffer=1)
    got = await read_all(merged.map(tale.call, concurrency=2))
    assert sorted(got) == [0, 0, 1, 1, 2, 2]


@story
async def merged_sources_of_which_two_fail(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R8: one error is raised, the other, if it comes to it, is a note; the third source is closed."""
    sources = tale.feed(2, fails=True), tale.feed(9, pause=0.001)
    await read_all(s.stream(tale.feed(2, fails=True)).merge(*sources))


@story
async def merged_until_the_first_ends(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R8: all items of the one that ended are there."""
    got = await read_all(s.stream(tale.feed(3)).map(lambda n: n + 100).merge(tale.feed(50, pause=0.01), halt="any"))
    assert [item for item in got if item >= 100] == [100, 101, 102]


@story
async def zipped_with_what_is_shorter(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P09: pairs, and both are closed."""
    tale.is_read_here = True
    left = s.stream(tale.feed(5)).map(tale.call, concurrency=1)
    assert await read_all(left.zip(s.stream(tale.feed(3)).buffer(1))) == [(0, 0), (1, 1), (2, 2)]


@story
async def two_readers_of_one_source(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P10: both get all; one of them leaves early."""
    left, right = s.stream(tale.feed(6)).broadcast(2, buffer=1)
    got: list[int] = []

    async def read() -> None:
        async with left:
            async for item in left:
                got.append(item)
                await anyio.sleep(0.001)

    s.start_soon(read)
    async with right:
        async for item in right:
            if item == 2:
                break
    del right
    await s.run(anyio.sleep, 1)
    assert got == list(range(6))


@story
async def a_dead_reader_that_holds_up_nobody(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P10: it gets what the policy leaves it."""
    live, dead = s.stream(tale.feed(6)).broadcast(2, buffer=2, overflow="drop_oldest")
    got = await read_all(live)
    assert got == sorted(set(got))
    assert await read_all(dead) == [4, 5]


@story
async def buffers_of_all_kinds(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R6: in order, without repeats; the one that waits loses nothing."""
    source = s.stream(tale.feed(8)).buffer(1).buffer(2, overflow="drop_oldest")
    got = await read_all(source.buffer(2, overflow="drop_newest"))
    assert got == sorted(set(got))
    assert await read_all(s.stream(tale.feed(5)).buffer(2)) == list(range(5))


@story
async def batches_by_time_and_a_reader_that_is_cut(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P07: every item once, in order, in no empty batch, with time-outs around the steps."""
    got: list[int] = []
    async with s.stream(tale.feed(7, pause=0.01)).batch(3, within=0.025) as batches:
        while True:
            try:
                with anyio.move_on_after(0.012):
                    batch = await anext(batches)
                    assert batch
                    got += batch
            except StopAsyncIteration:
                break
    assert got == list(range(7))


@story
async def debounced_and_throttled(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P13: the last one comes, and nothing twice."""
    got = await read_all(s.stream(tale.feed(6, pause=0.01)).debounce(0.015).throttle(1, per=0.02))
    assert got == [5]


@story
async def three_attempts(tale: Tale, s: Scope, sim: Simulation) -> None:
    """P12: each source is closed before the next one is made; the errors are told in the end, all of them."""
    tale.is_read_here = True

    def make() -> Feed:
        assert all(feed.closes for feed in tale.feeds)
        return tale.feed(2, fails=True)

    got: list[int] = []
    last: list[Mistake] = []
    try:
        async with s.stream(make).retry(2, pause=0.01) as items:
            async for item in items:
                got.append(item)  # noqa: PERF401  kept when it raises
        raise AssertionError("ended as if complete")
    except Mistake as error:
        assert got == [0, 1] * 3
        assert len(tale.made) == 3
        assert len(error.__notes__) == 2  # type: ignore[attr-defined]
        last.append(error)
        raise
    finally:
        tale.made[:] = last  # those before are told by the notes, and by nobody if it was cancelled in a pause


@story
async def going_on_after_an_error(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R6: with something else, which is closed as well."""
    tale.is_read_here = True

    def handle(error: Exception) -> Stream[int]:
        tale.told.append(error)
        return s.stream(tale.feed(2)).map(lambda n: n + 100)

    got = await read_all(s.stream(tale.feed(2, fails=True)).map(tale.call, concurrency=1).catch(handle))
    assert got == [0, 1, 100, 101]


@story
async def a_part_of_each_of_many(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R6: `flat_map` of sources that are made, read in part, and closed; no more is read than is taken."""
    tale.is_read_here = True
    got = await read_all(s.stream(range(3)).flat_map(lambda _: s.stream(tale.feed(5)).take(2)).take(5))
    assert got == [0, 1, 0, 1, 0]
    assert [feed.given for feed in tale.feeds] == [2, 2, 1]


@story
async def each_with_something_of_a_pool(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R7: calls take from a pool that is smaller than their number; every item is done once."""
    pool = s.pool(object, max=2)
    done: list[int] = []
    tale.most = 2

    async def work(item: int) -> None:
        async with pool.acquire():
            await tale.call(item)
            done.append(item)

    await s.stream(tale.feed(6)).for_each(work, concurrency=3)
    assert sorted(done) == list(range(6))
    assert pool.stats.in_use == 0


@story
async def generators_all_the_way(tale: Tale, s: Scope, sim: Simulation) -> None:
    """R3, P11: a generator as the source, calls at once in between, left in the middle."""
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.001)
                for number in range(5):
                    await checkpoint()
                    yield number
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            closed.append("source")

    tale.most = 2
    try:
        async with s.stream(numbers, own_task=True).map(tale.call, concurrency=2).enumerate().batch(2) as batches:
            async for batch in batches:
                assert batch == [(0, 0), (1, 1)]
                break
    finally:
        assert closed in ([], ["source"])
    assert closed == ["source"]
