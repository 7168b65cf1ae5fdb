"""Stories about streams, told to `anyscope.testing`: tests/test_stream_simulated.py.

A `Brook` is the ledger of such a story: it makes the sources, and knows the promise. Each source that has begun is
closed once, before its scope is left, and never while it makes an item; who closes it lets it finish that; items come
in order, none twice, and none is lost where nothing may be; no error vanishes; and a loop ends by itself only where its
source has ended.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"
# ruff: noqa: PERF401  (the loops are what is tested)

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import CloseTimeout, Scope, ScopeCancelled, ScopeMisuse, Stream, StreamClosed, StreamTimeout, scope
from anyscope.testing import Scenario, Simulation
from scenarios import Ledger, Mistake, cancel_soon, leaves

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

STREAM_SCENARIOS: list[Scenario] = []

NEVER_NATIVELY_ON_3_10 = {
    "a_stranger_reads_when_the_scope_ends",
    "a_stranger_reads_when_the_scope_is_cancelled",
    "cut_off_again_and_again",
    "shielded_readers",
    "tasks_of_the_scope_read",
    "time_outs_of_items",
}
"""On Python 3.10 AnyIO loses a native cancellation that meets that of a scope; in these stories it does."""

NEVER_NATIVELY = {"a_nested_task_group_reads"}
"""AnyIO 4.16 loses one too when a task group is cancelled, and a scope in one of its tasks as well, which then waits in
a `finally`: what that scope has to take back is taken back from the host of the group."""


class Source:
    """A source of the numbers from 0 on, and what became of it.

    Attributes:
        given: How many numbers it has given.
        is_working: Whether it makes an item.
        has_begun: Whether it was asked for one.
        has_ended: Whether all have been given.
        was_asked: Whether it was closed by somebody else, between two items.
        closings: How often its clean-up began.
        closed: How often that ended.
    """

    def __init__(
        self, brook: Brook, count: int, pause: float, fail_at: int | None, closing: float, *, fails: bool
    ) -> None:
        self._brook = brook
        self._count = count
        self._pause = pause
        self._fail_at = fail_at
        self._closing = closing
        self._fails = fails
        self.given = 0
        self.is_working = self.has_begun = self.has_ended = self.was_asked = False
        self.closings = 0
        self.closed = 0

    async def items(self) -> AsyncIterator[int]:
        """The numbers."""
        self.has_begun = True
        try:
            while self.given < self._count:
                await self._work()
                self.given += 1
                yield self.given - 1
            self.has_ended = True
        except GeneratorExit:
            self.was_asked = True
            raise
        finally:
            await self._close()

    async def _work(self) -> None:
        self.is_working = True
        try:
            await (anyio.sleep(self._pause) if self._pause else checkpoint())
            if self.given == self._fail_at:
                raise self._brook.mistake("source")
        finally:
            self.is_working = False

    async def _close(self) -> None:
        assert not self.is_working, "closed while it runs"
        self.closings += 1
        error = sys.exc_info()[1]
        try:
            await checkpoint()
            await anyio.sleep(self._closing if self.was_asked else 0)
        except BaseException:
            if isinstance(error, Mistake):
                self._brook.made.remove(error)  # its own cancellation has taken its place
            raise
        self.closed += 1
        if self._fails:
            raise self._brook.mistake("closing")

    def check(self, *, completely: bool) -> None:
        """It was closed once; `completely` where nothing can have cut that short."""
        assert self.closings == self.has_begun, f"closed {self.closings} times"
        if completely and self.was_asked:
            assert self.closed == 1, "its closing was cut short"


class Brook(Ledger):
    """A ledger of streams.

    Attributes:
        sources: All that were made.
        is_gentle: Whether whoever closes a source lets it finish that, in this story.
    """

    def __init__(self, expected: tuple[type[BaseException], ...], *, is_gentle: bool) -> None:
        super().__init__()
        self.expected = expected
        self.sources: list[Source] = []
        self.is_gentle = is_gentle

    def source(
        self,
        count: int = 3,
        *,
        pause: float = 0.0,
        fail_at: int | None = None,
        closing: float = 0.01,
        fails: bool = False,
    ) -> Source:
        """Make one: of so many items, each after a pause; failing at one, or in its clean-up of so many seconds."""
        self.sources.append(Source(self, count, pause, fail_at, closing, fails=fails))
        return self.sources[-1]

    def check(self) -> None:
        """The promise."""
        super().check()
        for source in self.sources:
            source.check(completely=self.is_gentle)


def story(
    *expected: type[BaseException], gentle: bool = True
) -> Callable[[Callable[[Simulation, Brook], Awaitable[object]]], Scenario]:
    """Make a scenario of a story: it gets a ledger, which is checked at the end."""

    def decorate(tell: Callable[[Simulation, Brook], Awaitable[object]]) -> Scenario:
        async def scenario(sim: Simulation) -> None:
            brook = Brook(expected, is_gentle=gentle)
            try:
                await tell(sim, brook)
            except AssertionError:
                raise
            except Exception as error:
                brook.tell(error)
            assert not any(isinstance(each, AssertionError) for each in brook.told), brook.told
            brook.check()

        scenario.__name__ = scenario.__qualname__ = tell.__name__  # type: ignore[attr-defined]
        scenario.__doc__ = tell.__doc__
        STREAM_SCENARIOS.append(scenario)
        return scenario

    return decorate


# ------------------------------------------------------------------ loops and blocks
@story()
async def a_loop_to_the_end(sim: Simulation, brook: Brook) -> None:
    """R1: all items in order, and the source is closed."""
    source, seen = brook.source(3), []

    async def victim() -> None:
        async with scope(name="app") as s:
            async for item in s.stream(source.items()):
                seen.append(item)
                await checkpoint()
            assert source.has_ended

    await sim.victim(victim)
    assert seen == list(range(len(seen)))
    assert sim.has_struck or len(seen) == 3


@story()
async def a_loop_that_is_left(sim: Simulation, brook: Brook) -> None:
    """R3: `break` closes in a task of the scope, at the end of the scope at the latest, even when cancelled."""
    first, second = brook.source(9), brook.source(9, closing=0.5)

    async def victim() -> None:
        async with scope(name="app") as s:
            async for _ in s.stream(first.items()):
                break
            await anyio.sleep(0.1)
            async for item in s.stream(second.items()):
                if item:
                    break
        assert first.closed == second.closed == 1

    await sim.victim(victim)


@story(gentle=False)  # what closes in the victim's own task is cut by what cuts that
async def a_block_that_is_left(sim: Simulation, brook: Brook) -> None:
    """R1: closed in the same task before the block is left."""
    source = brook.source(9)

    async def victim() -> None:
        async with scope(name="app") as s:
            me = anyio.get_current_task().id
            try:
                async with s.stream(where(source.items(), me)) as items:
                    async for item in items:
                        if item:
                            break
            finally:
                assert source.closings == source.has_begun

    await sim.victim(victim)


async def where(source: AsyncIterator[int], task: int) -> AsyncIterator[int]:
    """Reads a source, and closes it in the task that it was told."""
    try:
        async for item in source:
            yield item
    finally:
        assert anyio.get_current_task().id == task, "closed in another task"
        await source.aclose()  # type: ignore[attr-defined]


@story()
async def a_body_that_fails(sim: Simulation, brook: Brook) -> None:
    """R1, R3: the source sees that it is closed and not the error, which leaves bare."""
    source = brook.source(9)

    async def victim() -> None:
        async with scope(name="app") as s:
            async for item in s.stream(source.items()):
                if item:
                    raise brook.mistake("body")

    await sim.victim(victim)


@story()
async def sources_that_fail(sim: Simulation, brook: Brook) -> None:
    """R2, S4: what a source raises reaches the reader once, what its closing raises leaves the scope."""

    async def victim() -> None:
        async with scope(name="app") as s:
            try:
                async for _ in s.stream(brook.source(3, fail_at=1).items()):
                    await checkpoint()
            except Exception as error:
                brook.tell(error)
            async for _ in s.stream(brook.source(3, fails=True).items()):
                break
            await checkpoint()
            async with s.stream(brook.source(3, fails=True).items()) as items:
                async for _ in items:
                    break

    try:
        await sim.victim(victim)
    finally:
        brook.is_gentle = not sim.has_struck


# ------------------------------------------------------------------ who reads
@story(StreamClosed, ScopeCancelled)
async def a_stranger_reads_when_the_scope_ends(sim: Simulation, brook: Brook) -> None:
    """R2: it is told, not cancelled, and the scope is left only after the source is closed."""
    source = brook.source(10**6, pause=0.1)
    told: list[BaseException] = []

    async def stranger(items: Stream[int]) -> None:
        try:
            async for _ in items:
                await checkpoint()
        except (StreamClosed, ScopeCancelled) as error:
            told.append(error)
            await checkpoint()
        else:
            raise AssertionError("it ended by itself")

    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 1)
        async with scope(name="app") as s:
            items = s.stream(source.items())
            tg.start_soon(sim.victim, stranger, items)
            await anyio.sleep(0.25)
        assert source.closings == source.has_begun
    assert sim.has_struck or told


@story()
async def a_stranger_reads_when_the_scope_is_cancelled(sim: Simulation, brook: Brook) -> None:
    """R2: here the host is the victim."""
    source = brook.source(10**6, pause=0.1)
    told: list[str] = []

    async def stranger(items: Stream[int]) -> None:
        try:
            async for _ in items:
                await checkpoint()
        except (StreamClosed, ScopeCancelled) as error:
            await checkpoint()
            told.append(type(error).__name__)
        else:
            raise AssertionError("it ended by itself")

    async def victim(tg: Any) -> None:
        async with scope(name="app") as s:
            items = s.stream(source.items())
            tg.start_soon(stranger, items)
            await anyio.sleep(0.15)
            s.cancel("enough")
            await checkpoint()

    async with anyio.create_task_group() as tg:
        await sim.victim(victim, tg)
    assert len(told) == 1 or sim.has_struck, told


@story()
async def tasks_of_the_scope_read(sim: Simulation, brook: Brook) -> None:
    """R2: a task, a daemon, a child scope and a nested task group, each with a stream; the scope is cancelled."""

    async def read(items: Stream[int]) -> None:
        async for _ in items:
            await checkpoint()
        raise AssertionError("it ended by itself")

    async def in_child(parent: Scope) -> None:
        async with scope(name="child"):
            await read(parent.stream(brook.source(10**6, pause=0.1).items()))

    async def victim() -> None:
        async with scope(name="app") as s:
            s.start_soon(read, s.stream(brook.source(10**6, pause=0.1).items()))
            s.start_soon(read, s.stream(brook.source(10**6, pause=0.1).items(), own_task=True), daemon=True)
            s.start_soon(in_child, s)
            s.start_soon(cancel_later, s)
            await read(s.stream(brook.source(10**6, pause=0.1).items()))

    await sim.victim(victim)


@story(ScopeCancelled)
async def a_nested_task_group_reads(sim: Simulation, brook: Brook) -> None:
    """R2: its tasks are the scope's by the backend alone; either cancellation may come first."""
    own = brook.source(10**6, pause=0.1)

    async def read(items: Stream[int]) -> None:
        with suppress(ScopeCancelled):
            async for _ in items:
                await checkpoint()
            raise AssertionError("it ended by itself")

    async def victim() -> None:
        async with scope(name="app") as s:
            s.start_soon(cancel_later, s)
            async with anyio.create_task_group() as tg:
                tg.start_soon(read, s.stream(brook.source(10**6, pause=0.1).items()))
                tg.start_soon(read, s.stream(own.items(), own_task=True))

    await sim.victim(victim)


async def cancel_later(s: Scope) -> None:
    """Cancel a scope after a while."""
    await anyio.sleep(0.15)
    s.cancel("enough")


@story()
async def one_after_another(sim: Simulation, brook: Brook) -> None:
    """R1: who reads on where another one has left off misses nothing, and nothing comes twice."""
    source, seen = brook.source(6), []

    async def read(items: Stream[int], most: int) -> None:
        async for item in items:
            seen.append(item)
            await checkpoint()
            most -= 1
            if not most:
                break

    async def victim() -> None:
        async with scope(name="app") as s:
            items = s.stream(source.items())
            await read(items, 2)
            await s.task(read, items, 1).unwrap()
            async with anyio.create_task_group() as tg:
                tg.start_soon(read, items, 1)
            await read(items.map(lambda item: item), 99)

    await sim.victim(victim)
    assert seen == list(range(len(seen)))
    assert sim.has_struck or len(seen) == 6


@story(StreamClosed, ScopeCancelled)
async def two_readers_at_once(sim: Simulation, brook: Brook) -> None:
    """R2: one of them is told, the other goes on."""
    source = brook.source(4, pause=0.01)
    seen: list[int] = []

    async def read(items: Stream[int]) -> None:
        while True:
            try:
                async for item in items:
                    seen.append(item)
            except anyio.BusyResourceError:
                await anyio.sleep(0.001)
            except StreamClosed:
                return
            else:
                return

    async def victim() -> None:
        async with scope(name="app") as s:
            items = s.stream(source.items())
            s.start_soon(read, items)
            s.start_soon(read, items)
            await read(items)

    await sim.victim(victim)
    assert seen == list(range(len(seen)))
    assert sim.has_struck or len(seen) == 4


@story(StreamClosed)
async def closed_by_another_task(sim: Simulation, brook: Brook) -> None:
    """R2: who waits for an item gets `StreamClosed`; `aclose` returns when the source is closed."""
    source, owned = brook.source(10**6, pause=1), brook.source(10**6, pause=1)
    told: list[BaseException] = []

    async def read(items: Stream[int]) -> None:
        try:
            async for _ in items:
                await checkpoint()
        except StreamClosed as error:
            told.append(error)
        else:
            raise AssertionError("it ended by itself")

    async def close(one: Stream[int], other: Stream[int]) -> None:
        await anyio.sleep(1.5)
        await one.aclose()
        assert source.closings == source.has_begun
        await other.aclose()
        assert owned.closings == owned.has_begun

    async with scope(name="app") as s:
        items, others = s.stream(source.items()), s.stream(owned.items(), own_task=True)
        readers = s.task(read, items), s.task(read, others)
        await sim.victim(close, items, others)
        if not sim.has_struck:
            for reader in readers:
                await reader.unwrap()
            assert len(told) == 2
        await items.aclose()
        await others.aclose()
    brook.is_gentle = False


@story()
async def shielded_readers(sim: Simulation, brook: Brook) -> None:
    """R2: a scope that is cancelled cannot reach them, and waits for what they do."""
    source, seen = brook.source(4, pause=0.01), []

    async def read(items: Stream[int]) -> None:
        with anyio.CancelScope(shield=True):
            async for item in items:
                seen.append(item)

    async def victim() -> None:
        async with scope(name="app") as s:
            task = s.task(read_own, s)
            s.start_soon(cancel_soon, s)
            await checkpoint()
            await task

    async def read_own(s: Scope) -> None:
        await read(s.stream(source.items()))

    await sim.victim(victim)
    assert seen in ([], [0, 1, 2, 3])


# ------------------------------------------------------------------ own tasks
@story()
async def cut_off_again_and_again(sim: Simulation, brook: Brook) -> None:
    """R5: a step that is cut off loses nothing where the source has a task of its own."""
    source, seen = brook.source(6, pause=0.01), []

    async def victim() -> None:
        async with scope(name="app") as s, s.stream(source.items(), own_task=True) as items:
            while True:
                with anyio.move_on_after(0.004), suppress(StopAsyncIteration):
                    seen.append(await anext(items))
                    continue
                if source.has_ended and len(seen) == 6:
                    return

    await sim.victim(victim)
    assert seen == list(range(len(seen)))
    assert sim.has_struck or len(seen) == 6


@story()
async def read_ahead_and_failed(sim: Simulation, brook: Brook) -> None:
    """R5: all items, then the bare error; no more than was asked for."""
    source, seen = brook.source(9, fail_at=4), []

    async def victim() -> None:
        async with scope(name="app") as s:
            try:
                async for item in s.stream(source.items(), buffer=2):
                    seen.append(item)
                    assert source.given <= len(seen) + 3
                    await anyio.sleep(0.01)
            except Exception as error:
                brook.tell(error)
                assert seen == [0, 1, 2, 3]
            else:
                raise AssertionError("it ended by itself")

    await sim.victim(victim)
    assert seen == list(range(len(seen)))


@story()
async def own_tasks_that_nobody_reads(sim: Simulation, brook: Brook) -> None:
    """R5, S2: they do not keep the scope, and what they raise at their end is told."""

    async def victim() -> None:
        async with scope(name="app") as s:
            full = s.stream(brook.source(9, fails=True).items(), buffer=2)
            idle = s.stream(brook.source(9, fails=True).items(), own_task=True)
            assert await anext(full) == await anext(idle) == 0
            await anext(s.stream(brook.source(9, fails=True).items(), own_task=True))
            await checkpoint()

    await sim.victim(victim)


@asynccontextmanager
async def holding(*, group: bool) -> AsyncIterator[None]:
    """A scope, and a task group with a task."""
    with anyio.move_on_after(1e6):
        if not group:
            yield
            return
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.sleep, 0.01)
            yield


async def holding_scopes(source: AsyncIterator[int], sim: Simulation) -> AsyncIterator[int]:
    """A source that breaks PEP 789; AnyIO's task group, closed by GeneratorExit, would lose a native cancellation."""
    async with holding(group=sim.case.strike != "native"):
        try:
            async for item in source:
                yield item
        finally:
            await source.aclose()  # type: ignore[attr-defined]


@story(gentle=False)  # the source itself cancels its clean-up
async def scopes_across_yields_in_an_own_task(sim: Simulation, brook: Brook) -> None:
    """R5: begun and closed in one task, whatever happens to the reader."""

    async def victim() -> None:
        async with scope(name="app") as s:
            async for item in s.stream(holding_scopes(brook.source(9).items(), sim), own_task=True):
                await checkpoint()
                if item == 2:
                    break
            async for _ in s.stream(holding_scopes(brook.source(2).items(), sim), own_task=True):
                await checkpoint()
            with anyio.CancelScope():
                await checkpoint()

    await sim.victim(victim)


@story(gentle=False)
async def scopes_across_yields_in_a_block(sim: Simulation, brook: Brook) -> None:
    """R1, R5: closed in the reader's own task, with its scopes around everything in between."""

    async def victim() -> None:
        async with scope(name="app") as s:
            async with s.stream(holding_scopes(brook.source(9).items(), sim)) as items:
                async for item in items:
                    await checkpoint()
                    if item == 2:
                        break
            with anyio.CancelScope():
                await checkpoint()

    await sim.victim(victim)


@story(ScopeMisuse, gentle=False)
async def scopes_across_yields_in_a_bare_loop(sim: Simulation, brook: Brook) -> None:
    """R5: found out at the first item, closed at once, and the task is usable afterwards."""

    async def victim() -> None:
        async with scope(name="app") as s:
            for options in ({}, {"item_timeout": 5.0}):
                try:
                    async for _ in s.stream(holding_scopes(brook.source(9).items(), sim), **options):
                        raise AssertionError("it was not found out")
                except ScopeMisuse:
                    pass
                with anyio.CancelScope():
                    await checkpoint()

    await sim.victim(victim)


# ------------------------------------------------------------------ time
@story()
async def time_outs_of_items(sim: Simulation, brook: Brook) -> None:
    """R4: raised again and again, or with an own task once, and then it goes on."""
    slow, owned = brook.source(3, pause=1), brook.source(3, pause=1)
    seen: list[int] = []

    async def victim() -> None:
        async with scope(name="app") as s:
            items = s.stream(slow.items(), item_timeout=0.5)
            for _ in range(2):
                try:
                    await anext(items)
                except StreamTimeout:
                    continue
                raise AssertionError("in time")
            others = s.stream(owned.items(), item_timeout=0.6, own_task=True)
            while not owned.has_ended:
                with suppress(StreamTimeout, StopAsyncIteration):
                    seen.append(await anext(others))

    await sim.victim(victim)
    assert seen == list(range(len(seen)))
    assert sim.has_struck or len(seen) == 3


@story(CloseTimeout)
async def a_closing_that_hangs(sim: Simulation, brook: Brook) -> None:
    """R3: bounded by `close_timeout`, and told."""
    brook.is_gentle = False

    async def victim() -> None:
        async with scope(name="app", close_timeout=1) as s:
            async for _ in s.stream(brook.source(9, closing=1e9).items()):
                break
            await checkpoint()
            others = s.stream(brook.source(9, closing=1e9).items(), own_task=True)
            assert await anext(others) == 0
            assert await anext(s.stream(brook.source(9, closing=1e9).items())) == 0

    try:
        await sim.victim(victim)
    except BaseExceptionGroup as group:
        brook.tell(group)
    except CloseTimeout as error:
        brook.tell(error)
    open_ones = sum(source.was_asked for source in brook.sources)
    assert len(brook.told) == open_ones, (brook.told, open_ones)


# ------------------------------------------------------------------ strangers
@story()
async def everything_is_cancelled_natively(sim: Simulation, brook: Brook) -> None:
    """R3, S7: a stranger cancels whatever runs, once; asyncio only. Every source is closed all the same."""
    brook.is_gentle = False

    async def stranger() -> None:
        await checkpoint()
        if sim.case.backend == "asyncio":
            for task in asyncio.all_tasks() - {asyncio.current_task(), main}:
                task.cancel()

    main = asyncio.current_task() if sim.case.backend == "asyncio" else None

    async def read(s: Scope, *, own_task: bool) -> None:
        async for item in s.stream(brook.source(9).items(), own_task=own_task):
            if item:
                break

    async def victim() -> None:
        async with scope(name="app") as s:
            s.start_soon(read_quietly, s, False)
            s.start_soon(stranger)
            s.start_soon(read_quietly, s, True)
            await read(s, own_task=True)
            await read(s, own_task=False)

    async def read_quietly(s: Scope, own_task: bool) -> None:
        with suppress(StreamClosed, ScopeCancelled):
            await read(s, own_task=own_task)

    try:
        await sim.victim(victim)
    except BaseExceptionGroup as group:
        strange = [each for each in leaves(group) if not isinstance(each, (ScopeCancelled, asyncio.CancelledError))]
        assert not strange, strange
    except ScopeCancelled:
        pass
