"""What a stream costs beside its peers, as ratios within one run.

Run it with `nox -s benchmarks`, or `python benchmarks/streams.py [--quick]`. A peer that is not installed is left out;
where it cannot run on Trio, its line says so. The sources are async generators that never wait and the work of a
concurrent map is one checkpoint of the backend itself, so the figures are those of the machinery.

The candidates of a table take turns, in many short rounds, for a shared machine changes its speed all the time. Costs
are CPU time (`time.process_time`) per item, or per stream where the title says so: medians with the lowest and the
highest. A ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from common import parser_of, print_all
from core import per_op

from anyscope import scope

if TYPE_CHECKING:
    from anyscope import Scope, Stream

LIMIT = 10
"""Calls at once in a concurrent map."""
LONG = 60.0
"""Seconds of a time-out that never comes."""

Run = Callable[[int], Awaitable[object]]
Pause = Callable[[], Awaitable[object]]


def optional(name: str) -> Any:
    """A module that may not be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


aiometer, aiostream, asyncstdlib, streamable = map(optional, ("aiometer", "aiostream", "asyncstdlib", "streamable"))


# ------------------------------------------------------------------ tables
@dataclass
class Case:
    """A candidate.

    Attributes:
        run: Reads so many items, or opens so many streams.
        share: It is dear, and so gets only one of so many.
        needs_asyncio: Whether it cannot run on Trio.
    """

    name: str
    run: Run
    share: int = 1
    needs_asyncio: bool = False


@dataclass
class Table:
    """Candidates that take turns, the first of which is what the others are compared with.

    Attributes:
        targets: What is to be reached: one, the other, and how many times what that costs the first may cost.
        patience: How many times as many rounds as others it gets, for small differences.
    """

    title: str
    cases: list[Case]
    targets: list[tuple[str, str, float]] = field(default_factory=list)
    patience: int = 1
    figures: dict[str, list[float]] = field(default_factory=dict)

    async def measure(self, count: int, rounds: int, *, is_trio: bool) -> None:
        """Take turns, after one to warm up."""
        here = [case for case in self.cases if not (is_trio and case.needs_asyncio)]
        for turn in range(rounds * self.patience + 1):
            for case in here if turn % 2 else reversed(here):
                number = max(count // case.share, 100)
                cost = await per_op(number, partial(case.run, number))
                if turn:
                    self.figures.setdefault(case.name, []).append(cost)

    def show(self) -> None:
        """Print it."""
        print(f"\n{self.title}")
        for case in self.cases:
            if case.name not in self.figures:
                print(f"  {case.name:41}no peer here: it needs asyncio")
                continue
            values = self.figures[case.name]
            spread = f"{min(values):.2f} .. {max(values):.2f}"
            ratio = f"{self.ratio(case.name, self.cases[0].name):.2f}x"
            print(f"  {case.name:41}{statistics.median(values):9.2f} us{spread:>20}{ratio:>10}")
        for one, other, most in self.targets:
            if one in self.figures and other in self.figures:
                print(f"    {self.verdict(one, other, most)}")

    def ratio(self, one: str, other: str) -> float:
        """How many times as much the first costs."""
        return statistics.median(a / b for a, b in zip(self.figures[one], self.figures[other], strict=True))

    def verdict(self, one: str, other: str, most: float) -> str:
        """Whether a target is reached."""
        ratio = self.ratio(one, other)
        said = "reached" if ratio <= most else "NOT REACHED"
        if most < 1:
            return f"{one}: {1 / ratio:.1f} times faster than {other} (to reach: {1 / most:.0f} times): {said}"
        return f"{one}: {ratio:.2f}x of {other} (to reach: {most}x): {said}"


@dataclass
class Here:
    """Where it is measured.

    Attributes:
        s: The scope whose streams they are; it is open all the time.
        pause: A checkpoint of the backend itself.
    """

    s: Scope
    backend: str
    pause: Pause

    @property
    def is_trio(self) -> bool:
        """Whether peers that need asyncio are left out."""
        return self.backend == "trio"


# ------------------------------------------------------------------ parts
async def numbers(count: int) -> AsyncIterator[int]:
    """A source that never waits."""
    for number in range(count):
        yield number


async def drain(items: AsyncIterable[object]) -> None:
    """Read it all."""
    async for _ in items:
        pass


async def drain_block(items: Any) -> None:
    """Read it all within a block, which closes it."""
    async with items as opened:
        async for _ in opened:
            pass


async def drain_context(items: Any) -> None:
    """The same for aiostream, whose streams are opened by a method."""
    await drain_block(items.stream())


def ours(s: Scope, change: Callable[[Stream[int]], Stream[Any]], **options: Any) -> Run:
    """A stream of this library."""
    return lambda count: drain(change(s.stream(numbers(count), **options)))


def bare(change: Callable[[AsyncIterator[int]], AsyncIterable[object]]) -> Run:
    """Something that is an iterator by itself."""
    return lambda count: drain(change(numbers(count)))


def of_aiostream(change: Callable[[Any, Any], Any], name: str, share: int = 1, *, anywhere: bool = False) -> list[Case]:
    """A stream of aiostream."""
    if aiostream is None:
        return []

    def run(count: int) -> Awaitable[None]:
        return drain_context(change(aiostream.stream.iterate(numbers(count)), aiostream.pipe))

    return [Case(f"aiostream {name}", run, share, needs_asyncio=not anywhere)]


def of_streamable(change: Callable[[Any], Any], name: str, share: int = 1, *, anywhere: bool = False) -> list[Case]:
    """A stream of streamable."""
    if streamable is None:
        return []
    run = bare(lambda source: change(streamable.stream(source)))
    return [Case(f"streamable {name}", run, share, needs_asyncio=not anywhere)]


def of_asyncstdlib(change: Callable[[Any, Any], Any], name: str) -> list[Case]:
    """An iterator of asyncstdlib, which runs anywhere."""
    if asyncstdlib is None:
        return []
    return [Case(f"asyncstdlib {name}", bare(lambda source: change(asyncstdlib, source)))]


def same(stream: Stream[int]) -> Stream[int]:
    """No operator."""
    return stream


def halves(count: int) -> tuple[AsyncIterator[int], AsyncIterator[int]]:
    """Two sources, with so many items together."""
    return numbers(count // 2), numbers(count - count // 2)


# ------------------------------------------------------------------ per item
def pass_through(here: Here) -> Table:
    """Nothing but reading."""
    s = here.s

    async def again(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in source:
            yield item

    cases = [
        Case("async for", bare(lambda source: source)),
        Case("s.stream", ours(s, same)),
        Case("s.stream, async with", lambda count: drain_block(s.stream(numbers(count)))),
        Case("contextlib.aclosing", lambda count: drain_block(aclosing(numbers(count)))),  # type: ignore[type-var]
        Case("a generator around it", bare(again)),
        *of_aiostream(lambda stream, _: stream, "iterate", 4, anywhere=True),
        *of_streamable(lambda stream: stream, "stream", anywhere=True),
    ]
    if asyncstdlib is not None:
        scoped = lambda count: drain_block(asyncstdlib.scoped_iter(numbers(count)))  # noqa: E731  a case like others
        cases.append(Case("asyncstdlib scoped_iter", scoped))
    return Table(
        "pass-through",
        cases,
        [("s.stream", "async for", 1.3), ("s.stream, async with", "async for", 1.3)],
        patience=4,
    )


def concurrent_map(here: Here) -> Table:
    """Ten calls at once, each of which lets others run once."""
    s = here.s

    async def work(item: int) -> int:
        await here.pause()
        return item

    async def one_by_one(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in source:
            yield await work(item)

    async def limited(semaphore: anyio.Semaphore, item: int) -> None:
        async with semaphore:
            await work(item)

    async def by_hand(count: int) -> None:
        semaphore = anyio.Semaphore(LIMIT)
        async with anyio.create_task_group() as group:
            async for item in numbers(count):
                group.start_soon(limited, semaphore, item)

    cases = [
        Case("await in a generator, one by one", bare(one_by_one)),
        Case("s.stream ordered", ours(s, lambda stream: stream.map(work, concurrency=LIMIT)), 2),
        Case("s.stream unordered", ours(s, lambda stream: stream.map(work, concurrency=LIMIT, ordered=False)), 2),
        *of_streamable(lambda stream: stream.map(work, concurrency=LIMIT), "ordered", 4),
        *of_streamable(lambda stream: stream.map(work, concurrency=LIMIT, as_completed=True), "unordered", 4),
        *of_aiostream(lambda stream, pipe: stream | pipe.map(work, task_limit=LIMIT), "ordered", 20),
        *of_aiostream(lambda stream, pipe: stream | pipe.map(work, ordered=False, task_limit=LIMIT), "unordered", 20),
        Case("task group and semaphore, no results", by_hand, 20),
    ]
    if aiometer is not None:
        mapped = partial(aiometer.amap, work, max_at_once=LIMIT)
        cases.append(Case("aiometer.amap, unordered", lambda count: drain_block(mapped(range(count))), 20))
    versus = [("streamable", 1 / 2), ("aiostream", 1 / 10)]
    targets = [(f"s.stream {how}", f"{peer} {how}", most) for how in ("ordered", "unordered") for peer, most in versus]
    return Table(f"map with {LIMIT} calls at once, one checkpoint each", cases, targets)


def merge(here: Here) -> Table:
    """Two sources at once."""
    s = here.s

    async def by_hand(most: int, count: int) -> None:
        send, receive = anyio.create_memory_object_stream[int](most)
        async with anyio.create_task_group() as group:
            with send:
                for half in halves(count):
                    group.start_soon(feed, half, send.clone())
            await drain_block(receive)

    async def ours_of_two(count: int) -> None:
        one, other = halves(count)
        await drain(s.stream(one).merge(other))

    cases = [
        Case("AnyIO memory stream of 64, two producers", partial(by_hand, 64), 4),
        Case("s.stream.merge", ours_of_two),
    ]
    if aiostream is not None:
        merged = lambda count: drain_context(aiostream.stream.merge(*halves(count)))  # noqa: E731  a case like others
        cases.append(Case("aiostream merge", merged, 8, needs_asyncio=True))
    if streamable is not None:
        flat = lambda count: drain(streamable.stream(halves(count)).flatten(concurrency=2))  # noqa: E731
        cases.append(Case("streamable flatten(concurrency=2)", flat, 4, needs_asyncio=True))
    return Table("merge of two", cases, [("s.stream.merge", "aiostream merge", 1 / 5)])


async def feed(source: AsyncIterator[int], send: Any) -> None:
    """Put it all into a memory stream."""
    with send:
        async for item in source:
            await send.send(item)


def is_odd(item: int) -> bool:
    """A plain function."""
    return item % 2 == 1


def next_of(item: int) -> int:
    """Another."""
    return item + 1


def small(here: Here) -> list[Table]:
    """The operators that need no task."""
    s = here.s

    async def batches(source: AsyncIterator[int]) -> AsyncIterator[list[int]]:
        batch: list[int] = []
        async for item in source:
            batch.append(item)
            if len(batch) == 100:
                yield batch
                batch = []
        if batch:
            yield batch

    batch = [
        Case("a generator by hand", bare(batches)),
        Case("s.stream.batch", ours(s, lambda stream: stream.batch(100))),
        *of_aiostream(lambda stream, pipe: stream | pipe.chunks(100), "chunks", 4, anywhere=True),
        *of_streamable(lambda stream: stream.group(100), "group", anywhere=True),
        *of_asyncstdlib(lambda library, source: library.batched(source, 100), "batched"),
    ]
    kept = [
        Case("a generator expression", bare(lambda source: (item async for item in source if is_odd(item)))),
        Case("s.stream.filter", ours(s, lambda stream: stream.filter(is_odd))),
        *of_aiostream(lambda stream, pipe: stream | pipe.filter(is_odd), "filter", 4, anywhere=True),
        *of_streamable(lambda stream: stream.filter(is_odd), "filter", anywhere=True),
        *of_asyncstdlib(lambda library, source: library.filter(is_odd, source), "filter"),
    ]
    mapped = [
        Case("a generator expression", bare(lambda source: (next_of(item) async for item in source))),
        Case("s.stream.map", ours(s, lambda stream: stream.map(next_of))),
        *of_aiostream(lambda stream, pipe: stream | pipe.map(next_of), "map", 4, anywhere=True),
        *of_streamable(lambda stream: stream.map(next_of), "map", anywhere=True),
        *of_asyncstdlib(lambda library, source: library.map(next_of, source), "map"),
    ]
    return [
        Table("batches of 100", batch, [("s.stream.batch", "aiostream chunks", 1 / 2)]),
        Table("filter with a plain function", kept, [("s.stream.filter", "aiostream filter", 1 / 2)]),
        Table("map with a plain function", mapped, [("s.stream.map", "aiostream map", 1 / 2)]),
    ]


def hand_off(here: Here) -> Table:
    """The source in a task of its own."""
    s = here.s

    async def by_hand(most: int, count: int) -> None:
        send, receive = anyio.create_memory_object_stream[int](most)
        async with anyio.create_task_group() as group:
            group.start_soon(feed, numbers(count), send)
            await drain_block(receive)

    async def fill(queue: asyncio.Queue[int | None], count: int) -> None:
        async for item in numbers(count):
            await queue.put(item)
        await queue.put(None)

    async def queued(count: int) -> None:
        queue: asyncio.Queue[int | None] = asyncio.Queue(64)
        task = asyncio.ensure_future(fill(queue, count))
        while await queue.get() is not None:
            pass
        await task

    cases = [
        Case("AnyIO memory stream of 0, producer task", partial(by_hand, 0), 4),
        Case("AnyIO memory stream of 64, producer task", partial(by_hand, 64), 4),
        Case("s.stream own_task", ours(s, same, own_task=True), 4),
        Case("s.stream buffer=64", ours(s, same, buffer=64)),
        *of_streamable(lambda stream: stream.buffer(64), "buffer(64)", 4),
        Case("asyncio.Queue of 64, producer task", queued, 4, needs_asyncio=True),
    ]
    if here.is_trio:
        safe = importlib.import_module("trio").as_safe_channel(numbers)
        cases.append(Case("trio.as_safe_channel", lambda count: drain_block(safe(count)), 4))
    targets = [("s.stream own_task", cases[0].name, 1 / 3), ("s.stream buffer=64", cases[1].name, 1 / 3)]
    return Table("hand-off from a task of the source's own", cases, targets)


def time_out(here: Here) -> Table:
    """A time-out for each item, which never comes."""
    s = here.s

    async def by_hand(count: int) -> None:
        step = numbers(count).__anext__
        try:
            while True:
                with anyio.fail_after(LONG):
                    await step()
        except StopAsyncIteration:
            pass

    cases = [
        Case("fail_after for each item", by_hand, 4),
        Case("s.stream item_timeout", ours(s, same, item_timeout=LONG), 4),
        Case(
            "s.stream item_timeout, async with",
            lambda count: drain_block(s.stream(numbers(count), item_timeout=LONG)),
            4,
        ),
        Case("s.stream timeout", ours(s, same, timeout=LONG), 4),
        Case("s.stream item_timeout, buffer=64", ours(s, same, item_timeout=LONG, buffer=64), 4),
        *of_aiostream(lambda stream, pipe: stream | pipe.timeout(LONG), "timeout", 20),
    ]
    return Table("a time-out for each item", cases)


def foreign(here: Here) -> Table:
    """A reader that is none of the scope's tasks."""
    s = here.s

    async def by_hand(count: int) -> None:
        step = numbers(count).__anext__
        try:
            while True:
                with anyio.CancelScope():
                    await step()
        except StopAsyncIteration:
            pass

    async def elsewhere(options: dict[str, Any], count: int) -> None:
        stream = s.stream(numbers(count), **options)
        async with anyio.create_task_group() as group:
            group.start_soon(drain, stream)

    cases = [
        Case("CancelScope for each item", by_hand, 4),
        Case("s.stream, a foreign reader", partial(elsewhere, {}), 4),
        Case("s.stream buffer=64, a foreign reader", partial(elsewhere, {"buffer": 64}), 4),
        Case("s.stream, its own reader", ours(s, same)),
    ]
    return Table("read by a task that is not the scope's", cases)


# ------------------------------------------------------------------ per stream
async def first_of(items: Any) -> None:
    """Leave the loop after one item."""
    async for _ in items:
        break


async def first_in(block: Any) -> None:
    """The same within a block."""
    async with block as items:
        await first_of(items)


def many(once: Callable[[], Awaitable[object]], pause: Pause) -> Run:
    """One stream after the other; what closes them in the background gets its turns."""

    async def run(count: int) -> None:
        for _ in range(count):
            await once()
        for _ in range(5):
            await pause()

    return run


def per_stream(here: Here) -> Table:
    """To open one, and to leave it."""
    s = here.s

    def case(name: str, once: Callable[[], Awaitable[object]], *, needs_asyncio: bool = False) -> Case:
        return Case(name, many(once, here.pause), 20, needs_asyncio=needs_asyncio)

    cases = [
        case("async for, break", lambda: first_of(numbers(3))),
        case("s.stream, break", lambda: first_of(s.stream(numbers(3)))),
        case("aclosing, break", lambda: first_in(aclosing(numbers(3)))),  # type: ignore[type-var]
        case("s.stream, async with, break", lambda: first_in(s.stream(numbers(3)))),
        case("async for, all 3 items", lambda: drain(numbers(3))),
        case("s.stream, all 3 items", lambda: drain(s.stream(numbers(3)))),
        case("s.stream own_task, async with, break", lambda: first_in(s.stream(numbers(3), own_task=True))),
        case("s.stream own_task, all 3 items", lambda: drain(s.stream(numbers(3), own_task=True))),
    ]
    if aiostream is not None:
        cases.append(
            case("aiostream, its context, break", lambda: first_in(aiostream.stream.iterate(numbers(3)).stream()))
        )
    if streamable is not None:
        cases.append(case("streamable, break", lambda: first_of(streamable.stream(numbers(3)))))
    if asyncstdlib is not None:
        cases.append(case("asyncstdlib scoped_iter, break", lambda: first_in(asyncstdlib.scoped_iter(numbers(3)))))
    if here.is_trio:
        safe = importlib.import_module("trio").as_safe_channel(numbers)
        cases.append(case("trio.as_safe_channel, break", lambda: first_in(safe(3))))
    return Table("open a stream of 3 items and leave it, per stream", cases)


# ------------------------------------------------------------------ growth
@asynccontextmanager
async def open_streams(s: Scope, count: int) -> AsyncIterator[list[Stream[int]]]:
    """So many streams that are being read."""
    streams = [s.stream(numbers(1_000_000)) for _ in range(count)]
    for stream in streams:
        await anext(stream)
    try:
        yield streams
    finally:
        for stream in streams:
            await stream.aclose()


async def growth(s: Scope, rounds: int, *, quick: bool) -> None:
    """Whether a cost stays the same for more items, more stages, more streams."""
    sizes = [1_000, 10_000, 100_000, *(() if quick else (1_000_000,))]
    lengths: dict[str, list[float]] = {f"{size:,} items": [] for size in sizes}
    stages = (1, 2, 5, 10, 20)
    chains: dict[str, list[float]] = {f"{number} of them": [] for number in stages}
    crowds = (1, 10, 100, 1_000)
    among: dict[str, list[float]] = {f"{number:,} open": [] for number in crowds}
    closings: dict[str, list[float]] = {name: [] for name in among}
    for turn in range(rounds + 1):
        figures = [await of_length(s, size) for size in sizes]
        figures += [await of_stages(s, number) for number in stages]
        pairs = [await of_crowd(s, number) for number in crowds]
        figures += [reading for reading, _ in pairs] + [opening for _, opening in pairs]
        rows = [*lengths.values(), *chains.values(), *among.values(), *closings.values()]
        for row, figure in zip(rows, figures, strict=True):
            if turn:
                row.append(figure)
    for title, found in (
        ("s.stream with more and more items, per item", lengths),
        ("a chain of plain maps, per item and map", chains),
        ("read in turn, more and more streams of one scope, per item", among),
        ("open one more, read one item and leave it, among so many that are open, per stream", closings),
    ):
        names = list(found)
        cases = [Case(name, drain) for name in names]  # type: ignore[arg-type]  measured already
        Table(title, cases, [(names[-1], names[0], 1.5)], figures=found).show()


async def of_length(s: Scope, size: int) -> float:
    """Per item."""
    times = max(20_000 // size, 1)

    async def work() -> None:
        for _ in range(times):
            await drain(s.stream(numbers(size)))

    return await per_op(size * times, work)


async def of_stages(s: Scope, number: int) -> float:
    """Per item and stage."""
    stream: Stream[int] = s.stream(numbers(5_000))
    for _ in range(number):
        stream = stream.map(next_of)
    return await per_op(5_000 * number, partial(drain, stream))


async def of_crowd(s: Scope, number: int) -> tuple[float, float]:
    """Per item, where so many are read in turn; and per stream that is opened and closed beside them."""
    async with open_streams(s, number) as streams:
        each = 20_000 // number

        async def read() -> None:
            for _ in range(each):
                for stream in streams:
                    await anext(stream)

        reading = await per_op(each * number, read)

        async def come_and_go() -> None:
            for _ in range(500):
                await first_in(s.stream(numbers(3)))

        return reading, await per_op(500, come_and_go)


# ------------------------------------------------------------------ all of it
def pause_of(backend: str) -> Pause:
    """A checkpoint of the backend itself."""
    if backend == "trio":
        pause: Pause = importlib.import_module("trio").lowlevel.checkpoint
        return pause
    return partial(asyncio.sleep, 0)


async def tables(backend: str, *, quick: bool) -> None:
    """All tables of one backend."""
    rounds, count = (9, 10_000) if quick else (25, 20_000)
    print(f"\n=== {backend}")
    async with scope(name="benchmark") as s:
        here = Here(s, backend, pause_of(backend))
        alone = [pass_through(here), concurrent_map(here), merge(here), *small(here)]
        for table in (*alone, hand_off(here), time_out(here), foreign(here), per_stream(here)):
            await table.measure(count, rounds, is_trio=here.is_trio)
            table.show()
        await growth(s, 3 if quick else 7, quick=quick)


if __name__ == "__main__":
    chosen = parser_of("What a stream costs beside its peers.").parse_args()
    names = ("uvloop", "aiostream", "streamable", "asyncstdlib", "aiometer")
    print_all(tables, names, quick=chosen.quick, backends=("asyncio", "uvloop", "trio"))
