"""What streams do when it gets difficult: the table of docs/streams-compared.md.

Run it with `python benchmarks/compare_streams.py` where the peers are installed. Each cell is what was seen when it was
run, on an asyncio loop of its own, which the peers need; all but the last row, which is about Trio.

A stream is read as its library says: ours within `async with`, those of aiostream within their `stream()`, those of
asyncstdlib within `scoped_iter`, a generator within `aclosing`. streamable has no such block. A row about a bare loop
says so.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Any

import aiostream
import anyio
import asyncstdlib
import streamable

from anyscope import Scope, scope
from common import versions

CALLS = 3
"""Calls at once in a concurrent map."""
NONE = "has none"

Block = AbstractAsyncContextManager[AsyncIterable[Any]]
Source = AsyncIterator[int]
Fn = Callable[[int], Awaitable[int]]


# ------------------------------------------------------------------ candidates
class Subject:
    """A way to read a stream; `s` is the scope in which that is done, if there is one."""

    name: str

    def home(self) -> AbstractAsyncContextManager[Any]:
        """What is around all of it."""
        return nullcontext()

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """To be read in a bare loop."""
        raise NotImplementedError

    def block(self, s: Any, source: Source) -> Block:
        """To be read in a block."""
        raise NotImplementedError

    def filtered(self, s: Any, source: Source) -> Block:
        """Some of the items."""
        raise NotImplementedError

    def mapped(self, s: Any, source: Source, fn: Fn) -> Block:
        """With three calls at once, in order."""
        raise NotImplementedError

    def merged(self, s: Any, one: Source, other: Source) -> Block:
        """Two at once."""
        raise NotImplementedError

    def buffered(self, s: Any, source: Source) -> Block:
        """Read ahead."""
        raise NotImplementedError


class Ours(Subject):
    """This library."""

    name = "anyscope"

    def home(self) -> AbstractAsyncContextManager[Scope]:
        """Its scope."""
        return scope()

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """Without a block."""
        items: AsyncIterable[int] = s.stream(source)
        return items

    def block(self, s: Any, source: Source) -> Block:
        """The stream is one."""
        items: Block = s.stream(source)
        return items

    def filtered(self, s: Any, source: Source) -> Block:
        """An operator."""
        items: Block = s.stream(source).filter(bool)
        return items

    def mapped(self, s: Any, source: Source, fn: Fn) -> Block:
        """An operator."""
        items: Block = s.stream(source).map(fn, concurrency=CALLS)
        return items

    def merged(self, s: Any, one: Source, other: Source) -> Block:
        """An operator."""
        items: Block = s.stream(one).merge(other)
        return items

    def buffered(self, s: Any, source: Source) -> Block:
        """An option."""
        items: Block = s.stream(source, buffer=2)
        return items


class Aiostream(Subject):
    """aiostream."""

    name = "aiostream"

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """Allowed, with a warning."""
        items: AsyncIterable[int] = aiostream.stream.iterate(source)
        return items

    def block(self, s: Any, source: Source) -> Block:
        """Its streamer."""
        items: Block = aiostream.stream.iterate(source).stream()
        return items

    def filtered(self, s: Any, source: Source) -> Block:
        """A pipe."""
        items: Block = (aiostream.stream.iterate(source) | aiostream.pipe.filter(bool)).stream()
        return items

    def mapped(self, s: Any, source: Source, fn: Fn) -> Block:
        """A pipe."""
        items: Block = (aiostream.stream.iterate(source) | aiostream.pipe.map(fn, task_limit=CALLS)).stream()
        return items

    def merged(self, s: Any, one: Source, other: Source) -> Block:
        """A combination."""
        items: Block = aiostream.stream.merge(one, other).stream()
        return items


class Streamable(Subject):
    """streamable."""

    name = "streamable"

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """The only way."""
        items: AsyncIterable[int] = streamable.stream(source)
        return items

    def filtered(self, s: Any, source: Source) -> Block:
        """An operation."""
        return nullcontext(streamable.stream(source).filter(bool))

    def mapped(self, s: Any, source: Source, fn: Fn) -> Block:
        """An operation."""
        return nullcontext(streamable.stream(source).map(fn, concurrency=CALLS))

    def merged(self, s: Any, one: Source, other: Source) -> Block:
        """A list that is made flat."""
        return nullcontext(streamable.stream([one, other]).flatten(concurrency=2))

    def buffered(self, s: Any, source: Source) -> Block:
        """An operation."""
        return nullcontext(streamable.stream(source).buffer(2))


class Asyncstdlib(Subject):
    """asyncstdlib."""

    name = "asyncstdlib"

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """Some iterator of its own."""
        return asyncstdlib.map(int, source)

    def block(self, s: Any, source: Source) -> Block:
        """Its block."""
        return asyncstdlib.scoped_iter(source)

    def filtered(self, s: Any, source: Source) -> Block:
        """An iterator."""
        return asyncstdlib.scoped_iter(asyncstdlib.filter(bool, source))


class Generator(Subject):
    """No library."""

    name = "async generator"

    def bare(self, s: Any, source: Source) -> AsyncIterable[int]:
        """As it is."""
        return source

    def block(self, s: Any, source: Source) -> Block:
        """In `aclosing`."""
        return aclosing(source)  # type: ignore[type-var]

    def filtered(self, s: Any, source: Source) -> Block:
        """A generator expression."""
        return aclosing(item async for item in source if item)


SUBJECTS = (Ours(), Aiostream(), Streamable(), Asyncstdlib(), Generator())


# ------------------------------------------------------------------ what is seen
class Log:
    """What a source and the calls of a map have seen.

    Attributes:
        pulled: How many items were read from the source.
        closer: Which task closed the source, by its id: held, it could not tell of its error. `None`: nobody has.
        has_closed: Whether its clean-up has come to its end, which takes a few turns.
        seen: What ended the source.
        begun: The calls that have begun.
        cut: The calls that were cancelled; `ended` those that have come to an end, cancelled or not.
        told: What reached the loop's exception handler.
        before: The tasks that were there at first.
    """

    def __init__(self) -> None:
        self.pulled = 0
        self.closer: int | None = None
        self.has_closed = False
        self.seen = ""
        self.begun: set[int] = set()
        self.cut: set[int] = set()
        self.ended: set[int] = set()
        self.told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.told.append(repr(context)))
        self.before = asyncio.all_tasks()

    async def source(self, count: int = 1_000, *, then_waits: bool = False, fails: bool = False) -> Source:
        """Items that need no waiting; after them it waits for ever, if told to."""
        try:
            for number in range(count):
                self.pulled += 1
                yield number
            if then_waits:
                await asyncio.Event().wait()
        except BaseException as error:
            self.seen = type(error).__name__
            raise
        finally:
            self.closer = id(asyncio.current_task())
            await turns(5)
            self.has_closed = True
            if fails:
                raise ValueError("of the clean-up")

    async def call(self, number: int) -> int:
        """A call that never ends by itself; cancelled, it needs a few turns."""
        self.begun.add(number)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.cut.add(number)
            await turns(5)
            raise
        finally:
            self.ended.add(number)
        return number

    def left(self) -> str:
        """The tasks that are left over."""
        number = len(asyncio.all_tasks() - self.before)
        return "nothing left" if not number else f"{number} task{'s' * (number > 1)} left"

    def closed(self) -> str:
        """How far the clean-up of the source has come."""
        if self.has_closed:
            return "source closed by then"
        return "source not closed by then" if self.closer is None else "source closed by then, its clean-up cut short"

    def calls(self, among: set[int]) -> str:
        """What became of the calls."""
        if not among:
            return "none under way"
        if not among & self.cut:
            return "run on"
        if among <= self.cut:
            return "cancelled and waited for" if among <= self.ended else "cancelled, not waited for"
        return f"{len(among & self.cut)} of {len(among)} cancelled"


async def turns(count: int) -> None:
    """Let so many turns of the loop go by."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle() -> None:
    """Give everything that is under way the time to end, but a call that nobody cancelled."""
    await turns(50)
    gc.collect()
    await turns(50)


# ------------------------------------------------------------------ cases
async def drained(subject: Subject, build: Callable[[Any], Block]) -> None:
    """Read it all."""
    async with subject.home() as s, build(s) as items:
        async for _ in items:
            pass


async def break_bare(subject: Subject, log: Log) -> str:
    """A loop without a block is left after the first item."""
    async with subject.home() as s:
        async for _ in subject.bare(s, log.source()):
            break
        turn = 0
        while log.closer is None and turn < 50:
            await turns(1)
            turn += 1
        if log.closer is None:
            await settle()
            return "closed when the garbage collector finds it" if log.closer is not None else "not closed"
        whose = "the reader's task" if log.closer == id(asyncio.current_task()) else "another task"
        return f"closed {turn} turns later, in {whose}"


async def break_at_the_end(subject: Subject, log: Log) -> str:
    """The same, and the program goes on at once: is it waited for?"""
    async with subject.home() as s:
        async for _ in subject.bare(s, log.source()):
            break
    return "waited for at the end of the scope" if log.has_closed else "nobody waits for it"


async def break_block(subject: Subject, log: Log) -> str:
    """A loop in its block is left."""
    async with subject.home() as s:
        async with subject.block(s, log.source()) as items:
            async for _ in items:
                break
        return "closed before the block is left" if log.has_closed else "not closed then"


async def break_fails(subject: Subject, log: Log) -> str:
    """The clean-up of the source raises, after a bare loop was left."""
    try:
        async with subject.home() as s:
            async for _ in subject.bare(s, log.source(fails=True)):
                break
        await settle()
    except Exception as error:
        return "leaves the scope" if "of the clean-up" in shown(error) else repr(error)
    return "is logged by the loop" if any("of the clean-up" in each for each in log.told) else "is lost"


def shown(error: BaseException) -> str:
    """All that an error says: itself, its notes, those within, those that it came from."""
    parts = [repr(error), *getattr(error, "__notes__", ())]
    parts += [shown(each) for each in getattr(error, "exceptions", ())]
    parts += [shown(each) for each in (error.__cause__, error.__context__) if each is not None]
    return " ".join(parts)


async def break_mapped(subject: Subject, log: Log) -> str:
    """A concurrent map is left while calls are under way."""

    async def quick_or_slow(number: int) -> int:
        if number:
            return await log.call(number)
        await turns(5)
        return number

    async with subject.home() as s:
        async with subject.mapped(s, log.source(), quick_or_slow) as items:
            async for _ in items:
                await turns(5)
                break
        del items
        began = set(log.begun)
        before = log.calls(began)
        await settle()
        return before if before == log.calls(began) else f"{before}; {log.calls(began)} later"


async def error_in_map(subject: Subject, log: Log) -> str:
    """The first call fails, and a sibling needs a few turns to end."""

    async def failing(number: int) -> int:
        if number:
            return await log.call(number)
        await turns(5)
        raise ValueError("the first")

    async with subject.home() as s:
        try:
            async with subject.mapped(s, log.source(), failing) as items:
                async for _ in items:
                    pass
        except NotImplementedError:
            raise
        except Exception as error:
            bare = "bare" if isinstance(error, ValueError) else type(error).__name__
            seen = log.calls(set(log.begun))
            return f"{bare}; siblings {seen}"
    return "no error"


async def further_errors(subject: Subject, log: Log) -> str:
    """The first call fails, and a sibling raises an error of its own, when that cancels it at the latest."""

    async def failing(number: int) -> int:
        if number != 1:
            await turns(5 if number == 0 else 50)
            raise ValueError("the first")
        try:
            await turns(10)
        finally:
            raise KeyError("the second")

    try:
        await drained(subject, lambda s: subject.mapped(s, log.source(3), failing))
    except NotImplementedError:
        raise
    except Exception as error:
        if "the second" in shown(error):
            return "a note on the first" if "the second" in str(getattr(error, "__notes__", "")) else "with the first"
    await settle()
    return "is logged by the loop" if any("the second" in each for each in log.told) else "is lost"


async def body_fails(subject: Subject, log: Log) -> str:
    """The body of the loop raises; what does the source get?"""
    with suppress(KeyError):
        async with subject.home() as s, subject.block(s, log.source()) as items:
            async for _ in items:
                {}["of the body"]
    return f"gets {log.seen}"


async def cancelled(log: Log, work: Callable[[], Awaitable[None]], ready: Callable[[], bool]) -> str:
    """Cancel a task once it waits, and say what became of it."""
    victim = asyncio.ensure_future(work())
    while not ready() and not victim.done():
        await turns(1)
    if victim.done():
        await victim
    await turns(10)
    victim.cancel()
    await asyncio.wait([victim], timeout=2)
    if not victim.done():
        return "hangs"
    return "cancelled" if victim.cancelled() else f"{type(victim.exception()).__name__}"


async def cancelled_source(subject: Subject, log: Log) -> str:
    """The task is cancelled while the source waits; as a filter, which all have."""
    source = log.source(2, then_waits=True)
    what = await cancelled(log, lambda: drained(subject, lambda s: subject.filtered(s, source)), lambda: log.pulled > 1)
    closed = log.closed()
    await settle()
    return f"{what}; {closed}; {log.left()}"


async def cancelled_map(subject: Subject, log: Log) -> str:
    """The task is cancelled while calls are under way."""
    source = log.source()
    what = await cancelled(
        log, lambda: drained(subject, lambda s: subject.mapped(s, source, log.call)), lambda: bool(log.begun)
    )
    calls = log.calls(set(log.begun))
    await settle()
    return f"{what}; calls {calls}; {log.left()}"


async def cancelled_ahead(subject: Subject, log: Log) -> str:
    """The task is cancelled while a buffer waits for the source."""
    source = log.source(2, then_waits=True)
    what = await cancelled(log, lambda: drained(subject, lambda s: subject.buffered(s, source)), lambda: log.pulled > 1)
    closed = log.closed()
    await settle()
    return f"{what}; {closed}; {log.left()}"


async def read_ahead(subject: Subject, log: Log) -> str:
    """The reader takes one item, and rests."""

    async def quick(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async with subject.home() as s, subject.mapped(s, log.source(), quick) as items:
        async for _ in items:
            await turns(200)
            break
        return str(log.pulled - 1)


Case = Callable[[Subject, Log], Awaitable[str]]
CASES: dict[str, Case] = {
    "`break` in a bare loop": break_bare,
    "that clean-up, when the work is done": break_at_the_end,
    "that clean-up raises": break_fails,
    "`break` within its block": break_block,
    "the body of the loop raises: the source": body_fails,
    "`break` out of a concurrent map: calls under way": break_mapped,
    "a call of a concurrent map fails": error_in_map,
    "a second call fails after that": further_errors,
    "task cancelled while the source waits": cancelled_source,
    "task cancelled while calls of a map run": cancelled_map,
    "task cancelled while a buffer waits for the source": cancelled_ahead,
    f"items read ahead by a map with {CALLS} calls": read_ahead,
}


def tried(subject: Subject, case: Case) -> str:
    """What happens, on a loop of its own."""

    async def run() -> str:
        try:
            return await asyncio.wait_for(case(subject, Log()), 5)
        except NotImplementedError:
            return NONE
        except TimeoutError:
            return "hangs"

    return anyio.run(run, backend="asyncio")


# ------------------------------------------------------------------ Trio
def on_trio(subject: Subject) -> str:
    """What of it runs there."""
    kinds: dict[str, Callable[[Any], Block]] = {
        "filter": lambda s: subject.filtered(s, few()),
        "concurrent map": lambda s: subject.mapped(s, few(), same),
        "merge": lambda s: subject.merged(s, few(), few()),
        "buffer": lambda s: subject.buffered(s, few()),
    }
    found = {name: runs_on_trio(subject, build) for name, build in kinds.items()}
    yes = [name for name, runs in found.items() if runs]
    no = [name for name, runs in found.items() if runs is False]
    return ", ".join([*yes, *(f"not {name}" for name in no)])


def runs_on_trio(subject: Subject, build: Callable[[Any], Block]) -> bool | None:
    """Whether one does; `None` if there is no such thing."""
    try:
        anyio.run(drained, subject, build, backend="trio")
    except NotImplementedError:
        return None
    except Exception:
        return False
    return True


async def few() -> Source:
    """Some items."""
    for number in range(5):
        yield number


async def same(number: int) -> int:
    """A call."""
    return number


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print(versions(("aiostream", "streamable", "asyncstdlib")))
    print()
    print("| |", " | ".join(subject.name for subject in SUBJECTS), "|")
    print("|---" * (len(SUBJECTS) + 1) + "|")
    for name, case in CASES.items():
        print(f"| {name} |", " | ".join(tried(subject, case) for subject in SUBJECTS), "|")
    print("| runs on Trio |", " | ".join(on_trio(subject) for subject in SUBJECTS), "|")


if __name__ == "__main__":
    main()
