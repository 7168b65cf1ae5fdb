"""What scopes, tasks and the parallel family cost.

Run it with `nox -s benchmarks`, or `python benchmarks/core.py [--quick]` where the peers are installed. How it is
measured is told in `common.py`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import re
import resource
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from gc import get_referents
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from anyscope import Err, Ok, Result, each, scope
from common import Area, Case, Here, Table, Target, main_of, optional

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyscope import Scope
    from common import Work

aiometer = optional("aiometer")

LOOP, OURS = "plain loop", "s.parallel, concurrency=10"
BARE = "bare AnyIO group, await start_soon(f)"
PROMISED = (
    "the value of each job, or its error, is kept as a result, and its context is looked at (A9): that alone, in a "
    "plain loop, costs what the row `promises alone` shows; the rest is that any worker takes the next job, that its "
    "result goes to its place, that others get their turn, and that a cancellation is seen in time"
)

COLLECTED = (
    "what grows is the work of the collector of garbage: all are cancelled at once, and what they raise and hold until "
    "they have left comes to have it look through all that is alive, with us once between 8,000 and 12,000 children, "
    "with bare groups between 12,000 and 20,000 (see their rows). With it off both are flat, and a child takes as many "
    "calls of functions where 10,000 close as where 100 do"
)


async def trivial(x: int = 0) -> int:
    """The least that a job can do."""
    return x


# ------------------------------------------------------------------ parallel
async def parallel_of(n: int) -> None:
    """Ours."""
    async with scope() as s:
        await s.parallel(each(trivial, range(n)), concurrency=10)


async def loop_of(n: int) -> None:
    """The floor: a plain loop that keeps the results."""
    results = []
    for x in range(n):
        results.append(await trivial(x))  # noqa: PERF401  this is what is compared with


async def promises_of(n: int) -> None:
    """A plain loop that keeps what is promised of a job: a value or an error, and a context that is its own."""
    imprint, results = get_referents(copy_context())[0], list[Result[int]]()
    for x in range(n):
        try:
            results.append(Ok(await trivial(x)))
        except Exception as error:
            results.append(Err(error))
        assert get_referents(copy_context())[0] is imprint


async def amap_of(n: int) -> None:
    """That of AnyIO."""
    await anyio.amap(trivial, range(n))


async def aiometer_of(n: int) -> None:
    """That of aiometer."""
    await aiometer.run_all([functools.partial(trivial, x) for x in range(n)], max_at_once=10)


async def gather_of(n: int) -> None:
    """The standard library's way: a task for each job."""
    await asyncio.gather(*[trivial(x) for x in range(n)])


def times(n: int, of: Callable[[int], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """With so many jobs."""
    return lambda: of(n)


async def many_jobs(here: Here) -> Table:
    """The jobs are trivial, so this is what the machinery costs."""
    n = 20_000 if here.effort.is_quick else 100_000
    few = n // 20  # the peers cost so much more that fewer items do; the figure is per item
    cases = [
        Case.each(LOOP, times(n, loop_of), per=n),
        Case.each("promises alone", times(n, promises_of), per=n),
        Case.each(OURS, times(n, parallel_of), per=n),
        Case.each("anyio.amap, no limit", times(few, amap_of), per=few),
        Case.each("aiometer.run_all, max_at_once=10", times(few, aiometer_of), per=few, is_here=bool(aiometer)),
        Case.each("asyncio.gather of all", times(few, gather_of), per=few, needs="asyncio"),
    ]
    targets = [
        Target("2", OURS, 10, LOOP, reason=PROMISED),
        Target("2", OURS, 1 / 10, "anyio.amap, no limit"),
        Target("2", OURS, 1 / 10, "aiometer.run_all, max_at_once=10"),
        Target("7, stretch", OURS, 1.5, kind="most", reason=PROMISED),
    ]
    return Table("parallel over 100,000 trivial jobs, per job", cases, targets, patience=2)


# ------------------------------------------------------------------ tasks
async def native_task(here: Here) -> Callable[[int], Awaitable[None]]:
    """A task of the backend alone, and its result."""
    if here.is_trio:
        trio = importlib.import_module("trio")
        nursery = await here.stack.enter_async_context(trio.open_nursery())

        async def set_after(done: Any, results: list[int]) -> None:
            results.append(await trivial())
            done.set()

        async def one_of_trio() -> None:
            done, results = trio.Event(), list[int]()
            nursery.start_soon(set_after, done, results)
            await done.wait()

        return functools.partial(repeat, one_of_trio)

    async def one_of_asyncio() -> None:
        await asyncio.create_task(trivial())

    return functools.partial(repeat, one_of_asyncio)


async def repeat(once: Callable[[], Awaitable[object]], count: int) -> None:
    """One after the other."""
    for _ in range(count):
        await once()


async def one_by_one(here: Here) -> Table:
    """Start and await one task at a time."""
    native = await native_task(here)
    group = await here.stack.enter_async_context(anyio.create_task_group())
    s = await here.stack.enter_async_context(scope())

    async def bare(count: int) -> None:
        for _ in range(count):
            await group.start_soon(trivial)

    async def tasks(count: int) -> None:
        for _ in range(count):
            await s.task(trivial)

    async def runs(count: int) -> None:
        for _ in range(count):
            await s.run(trivial)

    cases = [
        Case.of(BARE, bare),
        Case.of("bare asyncio or Trio task", native),
        Case.of("await s.task(f)", tasks),
        Case.of("await s.run(f)", runs),
    ]
    targets = [
        Target("2", "await s.task(f)", 1.25, BARE),
        Target("2", "await s.run(f)", 0.2, BARE),
        Target(
            "7, stretch",
            "await s.task(f)",
            0.5,
            BARE,
            reason="each task is a task of AnyIO's own. One that takes over a parked task would cost less, but more "
            "than half with a cancel scope, a context and a name of its own, and much is wrong with it: see the "
            "decision on carrier tasks",
        ),
    ]
    return Table("one task at a time", cases, targets, patience=3)


async def thousand(here: Here) -> Table:
    """Start a thousand tasks, then await them."""
    group = await here.stack.enter_async_context(anyio.create_task_group())
    s = await here.stack.enter_async_context(scope())

    async def bare() -> None:
        for handle in [group.start_soon(trivial) for _ in range(1000)]:
            await handle

    async def tasks() -> None:
        for task in [s.task(trivial) for _ in range(1000)]:
            await task

    async def gathered() -> None:
        for task in [asyncio.create_task(trivial()) for _ in range(1000)]:
            await task

    first = "bare AnyIO group, 1,000 start_soon(f)"
    cases = [
        Case.each(first, bare, per=1000),
        Case.each("bare asyncio, 1,000 create_task", gathered, per=1000, needs="asyncio"),
        Case.each("1,000 s.task(f), then awaited", tasks, per=1000),
    ]
    targets = [Target("2", "1,000 s.task(f), then awaited", 1.25, first)]
    return Table("1,000 tasks, per task", cases, targets)


async def empty_group() -> None:
    """The floor."""
    async with anyio.create_task_group():
        pass


async def empty_scope() -> None:
    """Ours."""
    async with scope():
        pass


async def empty(here: Here) -> Table:
    """Open and close, with nothing inside."""

    async def native() -> None:
        async with importlib.import_module("trio").open_nursery():
            pass

    async def standard() -> None:
        async with asyncio.TaskGroup():
            pass

    cases = [
        Case.each("empty AnyIO task group", empty_group),
        Case.each("bare asyncio.TaskGroup", standard, needs="asyncio", is_here=hasattr(asyncio, "TaskGroup")),
        Case.each("bare Trio nursery", native, needs="trio"),
        Case.each("empty scope", empty_scope),
    ]
    reason = (
        "what a scope adds to its group takes as long on uvloop as on asyncio, as the rows show: three objects, a "
        "place in the context (two `ContextVar.set` and a copy), a weak reference to what the user holds; the group "
        "itself takes less there"
    )
    targets = [Target("2", "empty scope", 1.5, "empty AnyIO task group", reason=reason)]
    return Table("nothing inside", cases, targets, patience=3)


# ------------------------------------------------------------------ growth
async def growth_of_jobs(here: Here) -> Table:
    """More and more jobs."""
    sizes = here.effort.sizes(100, 1_000, 10_000, 100_000, 1_000_000)
    cases = [Case.each(f"{n:,} jobs", times(n, parallel_of), per=n) for n in sizes]
    return Table("parallel with more and more jobs, per job", cases, [Target("7", "", 1.5, kind="flat")])


async def nested(make: Callable[[], Any], depth: int) -> None:
    """So many, one within the other."""
    async with AsyncExitStack() as stack:
        for _ in range(depth):
            await stack.enter_async_context(make())


async def growth_of_depth(here: Here) -> Table:
    """Scopes within scopes."""
    cases = [
        Case.each(f"{kind}, {depth:,} deep", functools.partial(nested, make, depth), per=depth)
        for kind, make in (("scopes", scope), ("AnyIO groups", anyio.create_task_group))
        for depth in (1, 10, 100, 1_000)
    ]
    reason = (
        "the bare groups of AnyIO, of which each scope has one, grow as much (their rows): whoever leaves one walks up "
        "all the cancel scopes around it, to see whether one is cancelled. Nothing of ours is done more often or longer"
    )
    targets = [Target("7", "scopes", 1.5, kind="flat", reason=reason)]
    return Table("open and close nested ones, per scope", cases, targets)


async def growth_of_children(here: Here) -> Table:
    """Children that are opened and closed, one after the other, under one parent."""
    sizes = here.effort.sizes(100, 1_000, 10_000, 100_000)

    async def children(n: int) -> None:
        async with scope():
            for _ in range(n):
                async with scope():
                    pass

    cases = [Case.each(f"{n:,} children", functools.partial(children, n), per=n) for n in sizes]
    title = "children of one scope, one after the other, per child"
    return Table(title, cases, [Target("7", "", 1.5, kind="flat")])


def start_waiting(s: Scope, n: int) -> None:
    """Start tasks that wait for ever."""
    for _ in range(n):
        s.start_soon(anyio.sleep_forever)


def start_children(s: Scope, n: int) -> None:
    """Start tasks that hold a scope each, for ever."""

    async def child() -> None:
        async with scope(parent=s):
            await anyio.sleep_forever()

    for _ in range(n):
        s.start_soon(child)


def start_groups(group: TaskGroup, n: int) -> None:
    """The floor: tasks that hold a bare group each, for ever."""

    async def child() -> None:
        async with anyio.create_task_group():
            await anyio.sleep_forever()

    for _ in range(n):
        group.start_soon(child)


def add_clean_ups(s: Scope, n: int) -> None:
    """Have something to do at the end."""
    for _ in range(n):
        s.on_exit(int)


def cancel(owner: Scope | TaskGroup) -> None:
    """End all that is in it."""
    (owner.cancel_scope if isinstance(owner, TaskGroup) else owner).cancel()


def closing(fill: Callable[[Any, int], None], n: int, *, is_cancelled: bool, make: Callable[[], Any] = scope) -> Any:
    """Measure the end of a scope that owns so many things, or of a group, and nothing before it."""

    @asynccontextmanager
    async def opened(repeats: int) -> AsyncIterator[Work]:
        stack = AsyncExitStack()
        async with stack:
            for _ in range(repeats):
                owner = await stack.enter_async_context(make())
                fill(owner, n)
                if is_cancelled:
                    stack.callback(cancel, owner)
            await anyio.wait_all_tasks_blocked()
            yield stack.aclose

    return opened


async def growth_of_what_is_owned(here: Here) -> Table:
    """The end of a scope."""
    few = here.effort.sizes(100, 1_000, 10_000)
    kinds: list[tuple[str, Any, tuple[int, ...], bool]] = [
        ("clean-ups", add_clean_ups, here.effort.sizes(100, 1_000, 10_000, 100_000), False),
        ("waiting tasks", start_waiting, few, True),
        ("children in tasks of their own", start_children, few, True),
    ]
    group, reasons = anyio.create_task_group, {"children in tasks of their own": COLLECTED}
    cases = [
        Case(f"{kind}: {n:,}", closing(fill, n, is_cancelled=is_cancelled), per=n)
        for kind, fill, sizes, is_cancelled in kinds
        for n in sizes
    ]
    cases += [
        Case(f"bare AnyIO groups in tasks: {n:,}", closing(start_groups, n, is_cancelled=True, make=group), per=n)
        for n in here.effort.sizes(100, 1_000, 10_000, 20_000)
    ]
    targets = [Target("7", kind, 1.5, kind="flat", reason=reasons.get(kind, "")) for kind, *_ in kinds]
    return Table("close a scope that owns more and more, per thing", cases, targets, is_ratio=False)


# ------------------------------------------------------------------ memory
async def one_stream(s: Scope) -> None:
    """Open one, and leave it after an item."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async with s.stream(numbers()) as items:
        async for _ in items:
            break


async def one_child(_: Scope) -> None:
    """Open and close it."""
    async with scope():
        pass


async def one_call(s: Scope) -> None:
    """A call of `parallel`."""
    await s.parallel([trivial])


async def one_poll(s: Scope) -> None:
    """Start one, and stop it."""
    poll = s.poll(trivial, interval=3600)
    await poll.next()
    poll.stop()


ENDING: dict[str, Callable[[Scope], Awaitable[object]]] = {
    "tasks": lambda s: s.task(trivial),
    "children": one_child,
    "streams": one_stream,
    "calls of parallel": one_call,
    "polls": one_poll,
}


async def what_is_left(kind: str, count: int) -> float:
    """Blocks of memory for each that has ended, while the scope is open."""
    async with scope() as s:
        for _ in range(200):
            await ENDING[kind](s)
        before = blocks()
        for _ in range(count):
            await ENDING[kind](s)
        return (await blocks_after_rest(before)) / count


def blocks() -> int:
    """Blocks of memory that are in use."""
    gc.collect()
    return sys.getallocatedblocks()


async def blocks_after_rest(before: int) -> float:
    """How many more there are, when what ends in the background has ended."""
    await anyio.wait_all_tasks_blocked()
    return float(max(blocks() - before, 0))


async def what_has_ended(here: Here) -> Table:
    """Nothing may grow with it."""
    count = 5_000 if here.effort.is_quick else 100_000
    less = {"polls": count // 10}
    cases = [Case.of(kind, functools.partial(what_is_left, kind), least=less.get(kind, count)) for kind in ENDING]
    targets = [Target("7", kind, 0.1, kind="most") for kind in ENDING]
    title = "what 100,000 that have ended (10,000 polls) leave behind in an open scope, memory blocks for each"
    return Table(title, cases, targets, shows="figure", unit="", is_ratio=False, is_once=True)


async def rows_of(n: int) -> None:
    """A stream with a concurrent map, which keeps nothing."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(n):
            yield number

    async with scope() as s:
        await s.stream(numbers()).map(trivial, concurrency=10).for_each(trivial)


MEMORY = {"asyncio.gather of all": gather_of, OURS: parallel_of, "s.stream, map of 10 at once": rows_of}


async def memory(here: Here) -> Table | None:
    """How much a process grows, each in a process of its own; on asyncio only, where gather is."""
    if here.backend != "asyncio":
        return None
    n = 20_000 if here.effort.is_quick else 100_000

    async def figure(what: str, _: int) -> float:
        return grown(what, n)

    cases = [Case.of(name, functools.partial(figure, name)) for name in MEMORY]
    targets = [Target("2", OURS, 0.1, "asyncio.gather of all")]
    title = "growth of the peak of memory over 100,000 trivial jobs or items, a process each"
    return Table(title, cases, targets, shows="figure", unit="MiB", is_once=True)


def grown(what: str, n: int) -> float:
    """MiB by which the peak of a process grows in doing it; in a process of its own."""
    command = [sys.executable, __file__, "--memory", what, str(n)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak() -> float:
    """The peak of this process in MiB. Linux counts a parent's into `ru_maxrss`, so its own file is read there."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def measure_memory(what: str, n: int) -> None:
    """Print the growth, for `grown`."""
    before = peak()
    asyncio.run(MEMORY[what](n))
    print(peak() - before)


AREA = Area(
    "core",
    "Scopes, tasks and the parallel family.",
    [
        many_jobs, one_by_one, thousand, empty, growth_of_jobs, growth_of_depth, growth_of_children,
        growth_of_what_is_owned, what_has_ended, memory,
    ],
)  # fmt: skip

if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], int(sys.argv[3]))
    else:
        main_of(AREA)
