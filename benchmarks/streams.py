"""What a stream costs beside its peers.

Run it with `nox -s benchmarks`, or `python benchmarks/streams.py [--quick]`. How it is measured is told in `common.py`.
A peer that cannot run on Trio has no figure there. The sources are async generators that never wait and the work of a
concurrent map is one checkpoint of the backend itself, so the figures are those of the machinery.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from anyscope import scope
from common import Area, Case, Here, Table, Target, main_of, optional

if TYPE_CHECKING:
    from anyscope import Scope, Stream
    from common import Work

LIMIT = 10
"""Calls at once in a concurrent map."""
LONG = 60.0
"""Seconds of a time-out that never comes."""
SHARED = (
    "ten bare workers that share the source, and keep no order, bound or error, cost what their row shows: more than "
    "half of the time of ours. What is on top is the reader's own task, which gets the items one by one, the bound on "
    "reading ahead, and what an error or a cancellation needs to know of the calls under way"
)
HAND_OFF = (
    "without a buffer the source runs only when an item is asked for, so each item costs two task switches, which are "
    "most of what the memory stream of capacity 0 costs too; 2.4 times faster was the best seen. With a buffer the "
    "bound is kept"
)

Run = Callable[[int], Awaitable[object]]

aiometer, aiostream, asyncstdlib, streamable = map(optional, ("aiometer", "aiostream", "asyncstdlib", "streamable"))


def reading(name: str, run: Run, least: int = 100, **options: Any) -> Case:
    """A case that reads so many items; at least that many, for what is opened and closed must not weigh."""
    return Case.of(name, run, least=least, **options)


async def open_scope(here: Here) -> Scope:
    """The scope whose streams they are."""
    return await here.stack.enter_async_context(scope(name="benchmark"))


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


def of_aiostream(change: Callable[[Any, Any], Any], name: str, least: int = 100, *, anywhere: bool = False) -> Case:
    """A stream of aiostream."""

    def run(count: int) -> Awaitable[None]:
        return drain_context(change(aiostream.stream.iterate(numbers(count)), aiostream.pipe))

    return peer(f"aiostream {name}", aiostream, run, least, anywhere=anywhere)


def of_streamable(change: Callable[[Any], Any], name: str, least: int = 100, *, anywhere: bool = False) -> Case:
    """A stream of streamable."""
    run = bare(lambda source: change(streamable.stream(source)))
    return peer(f"streamable {name}", streamable, run, least, anywhere=anywhere)


def of_asyncstdlib(change: Callable[[Any, Any], Any], name: str) -> Case:
    """An iterator of asyncstdlib, which runs anywhere."""
    return peer(f"asyncstdlib {name}", asyncstdlib, bare(lambda source: change(asyncstdlib, source)), anywhere=True)


def peer(name: str, module: Any, run: Run, least: int = 100, *, anywhere: bool = False) -> Case:
    """One of another library, which may need asyncio."""
    return reading(name, run, least, needs="" if anywhere else "asyncio", is_here=module is not None)


def same(stream: Stream[int]) -> Stream[int]:
    """No operator."""
    return stream


def halves(count: int) -> tuple[AsyncIterator[int], AsyncIterator[int]]:
    """Two sources, with so many items together."""
    return numbers(count // 2), numbers(count - count // 2)


# ------------------------------------------------------------------ per item
async def pass_through(here: Here) -> Table:
    """Nothing but reading."""
    s = await open_scope(here)

    async def again(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in source:
            yield item

    cases = [
        reading("async for", bare(lambda source: source)),
        reading("s.stream", ours(s, same)),
        reading("s.stream, async with", lambda count: drain_block(s.stream(numbers(count)))),
        reading("contextlib.aclosing", lambda count: drain_block(aclosing(numbers(count)))),  # type: ignore[type-var]
        reading("a generator around it", bare(again)),
        of_aiostream(lambda stream, _: stream, "iterate", anywhere=True),
        of_streamable(lambda stream: stream, "stream", anywhere=True),
    ]
    scoped = lambda count: drain_block(asyncstdlib.scoped_iter(numbers(count)))  # noqa: E731  a case like others
    cases.append(peer("asyncstdlib scoped_iter", asyncstdlib, scoped, anywhere=True))
    targets = [Target("6", name, 1.3, "async for") for name in ("s.stream", "s.stream, async with")]
    return Table("pass-through, per item", cases, targets, patience=2)


async def bare_workers(work: Callable[[int], Awaitable[int]], count: int) -> None:
    """The floor: some tasks that share the source."""
    source, results = numbers(count), list[int]()

    async def serve() -> None:
        async for item in source:
            results.append(await work(item))

    async with anyio.create_task_group() as group:
        for _ in range(LIMIT):
            group.start_soon(serve)


async def concurrent_map(here: Here) -> Table:
    """Ten calls at once, each of which lets others run once."""
    s = await open_scope(here)

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
        reading("await in a generator, one by one", bare(one_by_one)),
        reading("bare workers, no results for a reader", partial(bare_workers, work), 2_000),
        reading("s.stream ordered", ours(s, lambda stream: stream.map(work, concurrency=LIMIT)), 5_000),
        reading(
            "s.stream unordered", ours(s, lambda stream: stream.map(work, concurrency=LIMIT, ordered=False)), 5_000
        ),
        of_streamable(lambda stream: stream.map(work, concurrency=LIMIT), "ordered", 2_000),
        of_streamable(lambda stream: stream.map(work, concurrency=LIMIT, as_completed=True), "unordered", 2_000),
        of_aiostream(lambda stream, pipe: stream | pipe.map(work, task_limit=LIMIT), "ordered", 500),
        of_aiostream(lambda stream, pipe: stream | pipe.map(work, ordered=False, task_limit=LIMIT), "unordered", 500),
        reading("task group and semaphore, no results", by_hand, 500),
    ]
    mapped = lambda count: aiometer.amap(work, range(count), max_at_once=LIMIT)  # noqa: E731  a case like others
    cases.append(
        peer("aiometer.amap, unordered", aiometer, lambda count: drain_block(mapped(count)), 500, anywhere=True)
    )
    versus = [("streamable", 1 / 2), ("aiostream", 1 / 10)]
    targets = [
        Target("6", f"s.stream {how}", most, f"{other} {how}", reason=SHARED)
        for how in ("ordered", "unordered")
        for other, most in versus
    ]
    return Table("map with 10 calls at once, one checkpoint each, per item", cases, targets, patience=2)


async def merge(here: Here) -> Table:
    """Two sources at once."""
    s = await open_scope(here)

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
        reading("AnyIO memory stream of 64, two producers", partial(by_hand, 64), 2_000),
        reading("s.stream.merge", ours_of_two, 5_000),
    ]
    merged = lambda count: drain_context(aiostream.stream.merge(*halves(count)))  # noqa: E731  a case like others
    flat = lambda count: drain(streamable.stream(halves(count)).flatten(concurrency=2))  # noqa: E731
    cases += [
        peer("aiostream merge", aiostream, merged, 1_000),
        peer("streamable flatten(concurrency=2)", streamable, flat, 2_000),
    ]
    return Table("merge of two, per item", cases, [Target("6", "s.stream.merge", 1 / 5, "aiostream merge")])


async def feed(source: AsyncIterator[int], send: Any) -> None:
    """Put it all into a memory stream."""
    with send:
        async for item in source:
            await send.send(item)


def safe_channel(count: int) -> Any:
    """The way of Trio, which is imported where it runs only: it makes AnyIO slower on asyncio."""
    return importlib.import_module("trio").as_safe_channel(numbers)(count)


def is_odd(item: int) -> bool:
    """A plain function."""
    return item % 2 == 1


def next_of(item: int) -> int:
    """Another."""
    return item + 1


async def batches_of(source: AsyncIterator[int]) -> AsyncIterator[list[int]]:
    """By hand."""
    batch: list[int] = []
    async for item in source:
        batch.append(item)
        if len(batch) == 100:
            yield batch
            batch = []
    if batch:
        yield batch


async def batch(here: Here) -> Table:
    """An operator that needs no task."""
    s = await open_scope(here)
    cases = [
        reading("a generator by hand", bare(batches_of)),
        reading("s.stream.batch", ours(s, lambda stream: stream.batch(100))),
        of_aiostream(lambda stream, pipe: stream | pipe.chunks(100), "chunks", anywhere=True),
        of_streamable(lambda stream: stream.group(100), "group", anywhere=True),
        of_asyncstdlib(lambda library, source: library.batched(source, 100), "batched"),
    ]
    return Table("batches of 100, per item", cases, [Target("6", "s.stream.batch", 1 / 2, "aiostream chunks")])


async def plain_filter(here: Here) -> Table:
    """Another."""
    s = await open_scope(here)
    cases = [
        reading("a generator expression", bare(lambda source: (item async for item in source if is_odd(item)))),
        reading("s.stream.filter", ours(s, lambda stream: stream.filter(is_odd))),
        of_aiostream(lambda stream, pipe: stream | pipe.filter(is_odd), "filter", anywhere=True),
        of_streamable(lambda stream: stream.filter(is_odd), "filter", anywhere=True),
        of_asyncstdlib(lambda library, source: library.filter(is_odd, source), "filter"),
    ]
    targets = [Target("6", "s.stream.filter", 1 / 2, "aiostream filter")]
    return Table("filter with a plain function, per item", cases, targets)


async def plain_map(here: Here) -> Table:
    """A third."""
    s = await open_scope(here)
    cases = [
        reading("a generator expression", bare(lambda source: (next_of(item) async for item in source))),
        reading("s.stream.map", ours(s, lambda stream: stream.map(next_of))),
        of_aiostream(lambda stream, pipe: stream | pipe.map(next_of), "map", anywhere=True),
        of_streamable(lambda stream: stream.map(next_of), "map", anywhere=True),
        of_asyncstdlib(lambda library, source: library.map(next_of, source), "map"),
    ]
    targets = [Target("6", "s.stream.map", 1 / 2, "aiostream map")]
    return Table("map with a plain function, per item", cases, targets)


async def hand_off(here: Here) -> Table:
    """The source in a task of its own."""
    s = await open_scope(here)

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
        reading("AnyIO memory stream of 0, producer task", partial(by_hand, 0), 2_000),
        reading("AnyIO memory stream of 64, producer task", partial(by_hand, 64), 2_000),
        reading("s.stream own_task", ours(s, same, own_task=True), 2_000),
        reading("s.stream buffer=64", ours(s, same, buffer=64), 5_000),
        of_streamable(lambda stream: stream.buffer(64), "buffer(64)", 2_000),
        reading("asyncio.Queue of 64, producer task", queued, 2_000, needs="asyncio"),
    ]
    cases.append(reading("trio.as_safe_channel", lambda count: drain_block(safe_channel(count)), 2_000, needs="trio"))
    targets = [
        Target("6", "s.stream own_task", 1 / 3, "AnyIO memory stream of 0, producer task", reason=HAND_OFF),
        Target("6", "s.stream buffer=64", 1 / 3, "AnyIO memory stream of 64, producer task"),
    ]
    return Table("hand-off from a task of the source's own, per item", cases, targets)


async def time_out(here: Here) -> Table:
    """A time-out for each item, which never comes."""
    s = await open_scope(here)

    async def by_hand(count: int) -> None:
        step = numbers(count).__anext__
        try:
            while True:
                with anyio.fail_after(LONG):
                    await step()
        except StopAsyncIteration:
            pass

    cases = [
        reading("fail_after for each item", by_hand),
        reading("s.stream item_timeout", ours(s, same, item_timeout=LONG), 2_000),
        reading(
            "s.stream item_timeout, async with",
            lambda count: drain_block(s.stream(numbers(count), item_timeout=LONG)),
        ),
        reading("s.stream timeout", ours(s, same, timeout=LONG), 2_000),
        reading("s.stream item_timeout, buffer=64", ours(s, same, item_timeout=LONG, buffer=64), 5_000),
        of_aiostream(lambda stream, pipe: stream | pipe.timeout(LONG), "timeout", 500),
    ]
    return Table("a time-out for each item, per item", cases)


async def foreign(here: Here) -> Table:
    """A reader that is none of the scope's tasks."""
    s = await open_scope(here)

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
        reading("CancelScope for each item", by_hand),
        reading("s.stream, a foreign reader", partial(elsewhere, {}), 2_000),
        reading("s.stream buffer=64, a foreign reader", partial(elsewhere, {"buffer": 64}), 5_000),
        reading("s.stream, its own reader", ours(s, same)),
    ]
    return Table("read by a task that is not the scope's, per item", cases)


# ------------------------------------------------------------------ per stream
async def first_of(items: Any) -> None:
    """Leave the loop after one item."""
    async for _ in items:
        break


async def first_in(block: Any) -> None:
    """The same within a block."""
    async with block as items:
        await first_of(items)


def many(once: Callable[[], Awaitable[object]], pause: Callable[[], Awaitable[object]]) -> Run:
    """One stream after the other; what closes them in the background gets its turns."""

    async def run(count: int) -> None:
        for _ in range(count):
            await once()
        for _ in range(5):
            await pause()

    return run


async def per_stream(here: Here) -> Table:
    """To open one, and to leave it."""
    s = await open_scope(here)

    def case(name: str, once: Callable[[], Awaitable[object]], **options: Any) -> Case:
        return Case.of(name, many(once, here.pause), least=50, **options)

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
    of_peers: list[tuple[str, Any, Callable[[], Awaitable[object]]]] = [
        ("aiostream, its context, break", aiostream, lambda: first_in(aiostream.stream.iterate(numbers(3)).stream())),
        ("streamable, break", streamable, lambda: first_of(streamable.stream(numbers(3)))),
        ("asyncstdlib scoped_iter, break", asyncstdlib, lambda: first_in(asyncstdlib.scoped_iter(numbers(3)))),
    ]
    cases += [case(name, once, is_here=module is not None) for name, module, once in of_peers]
    cases.append(case("trio.as_safe_channel, break", lambda: first_in(safe_channel(3)), needs="trio"))
    return Table("open a stream of 3 items and leave it, per stream", cases)


# ------------------------------------------------------------------ growth
FLAT = [Target("7", "", 1.5, kind="flat")]


async def growth_of_length(here: Here) -> Table:
    """More and more items."""
    s = await open_scope(here)

    async def read(size: int) -> None:
        await drain(s.stream(numbers(size)))

    sizes = here.effort.sizes(1_000, 10_000, 100_000, 1_000_000)
    cases = [Case.each(f"{size:,} items", partial(read, size), per=size) for size in sizes]
    return Table("a stream with more and more items, per item", cases, FLAT)


async def growth_of_chains(here: Here) -> Table:
    """More and more stages."""
    s = await open_scope(here)

    async def read(number: int) -> None:
        stream: Stream[int] = s.stream(numbers(1_000))
        for _ in range(number):
            stream = stream.map(next_of)
        await drain(stream)

    cases = [Case.each(f"{number} maps", partial(read, number), per=1_000 * number) for number in (1, 2, 5, 10, 20)]
    return Table("a chain of plain maps, per item and map", cases, FLAT)


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


async def growth_of_crowds(here: Here) -> Table:
    """More and more streams that are read in turn."""
    s = await open_scope(here)

    def crowd(count: int) -> Case:
        @asynccontextmanager
        async def opened(repeats: int) -> AsyncIterator[Work]:
            async with open_streams(s, count) as streams:

                async def read() -> None:
                    for _ in range(repeats):
                        for stream in streams:
                            await anext(stream)

                yield read

        return Case(f"{count:,} open", opened, per=count)

    cases = [crowd(count) for count in here.effort.sizes(1, 10, 100, 1_000, 10_000)]
    return Table("read in turn, more and more streams of one scope, per item", cases, FLAT)


async def growth_of_neighbours(here: Here) -> Table:
    """More and more streams beside one that is opened and left."""
    s = await open_scope(here)

    def beside(count: int) -> Case:
        @asynccontextmanager
        async def opened(repeats: int) -> AsyncIterator[Work]:
            async with open_streams(s, count):

                async def come_and_go() -> None:
                    for _ in range(repeats):
                        await first_in(s.stream(numbers(3)))

                yield come_and_go

        return Case(f"{count:,} open", opened)

    cases = [beside(count) for count in here.effort.sizes(1, 10, 100, 1_000, 10_000)]
    return Table("open one more, read an item and leave it, beside many, per stream", cases, FLAT)


AREA = Area(
    "streams",
    "Streams. Where a peer needs asyncio there is no figure for Trio.",
    [
        pass_through, concurrent_map, merge, batch, plain_filter, plain_map, hand_off, time_out, foreign, per_stream,
        growth_of_length, growth_of_chains, growth_of_crowds, growth_of_neighbours,
    ],
)  # fmt: skip

if __name__ == "__main__":
    main_of(AREA)
