"""What scopes, tasks and the parallel family cost, as ratios within one run.

Run it with `nox -s benchmarks`, or `python benchmarks/core.py [--quick]` where the peers are installed.

Each figure is CPU time (`time.process_time`). The candidates of a table take turns, so that a machine that gets
slower gets slower for all of them; a row shows the median, the lowest and the highest, and the ratio of the medians.
Ratios can be compared between machines, microseconds cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from common import parser_of, print_all

from anyscope import each, scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

try:
    import aiometer
except ImportError:  # a peer; its row is left out
    aiometer = None

Figures = dict[str, list[float]]


async def trivial(x: int = 0) -> int:
    """The least that a job can do."""
    return x


async def per_op(count: int, work: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of CPU time for each of `count` operations that `work` does."""
    gc.collect()
    began = time.process_time()
    await work()
    return (time.process_time() - began) / count * 1e6


async def in_turn(rounds: int, measure: Callable[[], Awaitable[dict[str, float]]]) -> Figures:
    """Repeat a measurement of several candidates, after one round to warm up."""
    await measure()
    found = [await measure() for _ in range(rounds)]
    return {name: [figures[name] for figures in found] for name in found[0]}


def show(title: str, figures: Figures, base: str, targets: dict[str, str]) -> None:
    """Print one table, ratios to `base`."""
    print(f"\n{title}")
    floor = statistics.median(figures[base])
    for name, values in figures.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f} .. {max(values):.2f}"
        target = f"   (to reach: {targets[name]})" if name in targets else ""
        print(f"  {name:36}{middle:9.2f} us{spread:>20}{middle / floor:9.2f}x{target}")


async def parallel_of(n: int) -> None:
    """Ours."""
    async with scope() as s:
        await s.parallel(each(trivial, range(n)), concurrency=10)


async def many_jobs(n: int) -> dict[str, float]:
    """The jobs are trivial, so this is what the machinery costs."""
    few = n // 20  # the peers cost so much more that fewer items do; the figure is per item

    async def loop() -> None:
        results = []
        for x in range(n):
            results.append(await trivial(x))  # noqa: PERF401  the floor: a plain loop that keeps the results

    figures = {
        "plain loop": await per_op(n, loop),
        "s.parallel, concurrency=10": await per_op(n, lambda: parallel_of(n)),
        "anyio.amap, no limit": await per_op(few, lambda: anyio.amap(trivial, range(few))),
    }
    if aiometer is not None:
        jobs = [functools.partial(trivial, x) for x in range(few)]
        figures["aiometer.run_all, max_at_once=10"] = await per_op(few, lambda: aiometer.run_all(jobs, max_at_once=10))
    return figures


async def one_by_one(count: int) -> dict[str, float]:
    """Start and await one task at a time: bare, `s.task`, and `s.run`."""
    async with anyio.create_task_group() as group, scope() as s:

        async def bare() -> None:
            for _ in range(count):
                await group.start_soon(trivial)

        async def tasks() -> None:
            for _ in range(count):
                await s.task(trivial)

        async def runs() -> None:
            for _ in range(count):
                await s.run(trivial)

        return {
            "bare group: await start_soon(f)": await per_op(count, bare),
            "await s.task(f)": await per_op(count, tasks),
            "await s.run(f)": await per_op(count, runs),
        }


async def thousand() -> dict[str, float]:
    """Start a thousand tasks, then await them."""
    async with anyio.create_task_group() as group, scope() as s:

        async def bare() -> None:
            for handle in [group.start_soon(trivial) for _ in range(1000)]:
                await handle

        async def tasks() -> None:
            for task in [s.task(trivial) for _ in range(1000)]:
                await task

        return {
            "bare group: 1,000 start_soon(f)": await per_op(1000, bare),
            "1,000 s.task(f), then awaited": await per_op(1000, tasks),
        }


async def empty(count: int) -> dict[str, float]:
    """Open and close, with nothing inside."""

    async def bare() -> None:
        for _ in range(count):
            async with anyio.create_task_group():
                pass

    async def scopes() -> None:
        for _ in range(count):
            async with scope():
                pass

    return {"empty task group": await per_op(count, bare), "empty scope": await per_op(count, scopes)}


async def tables(backend: str, *, quick: bool) -> None:
    """All tables of one backend."""
    rounds, n, count = (3, 20_000, 300) if quick else (7, 100_000, 2000)
    print(f"\n=== {backend}")
    target = "<= 10x of the loop, 10x less than the peers"
    jobs = await in_turn(rounds, lambda: many_jobs(n))
    show(f"parallel over {n:,} trivial jobs, per job", jobs, "plain loop", {"s.parallel, concurrency=10": target})
    single = await in_turn(rounds, lambda: one_by_one(count))
    targets = {"await s.task(f)": "<= 1.25x", "await s.run(f)": "<= 0.2x"}
    show("one task at a time", single, "bare group: await start_soon(f)", targets)
    targets = {"1,000 s.task(f), then awaited": "<= 1.25x"}
    show("many tasks, per task", await in_turn(rounds, thousand), "bare group: 1,000 start_soon(f)", targets)
    nothing = await in_turn(rounds, lambda: empty(count))
    show("nothing inside", nothing, "empty task group", {"empty scope": "<= 1.5x"})


async def gather_of(n: int) -> None:
    """The standard library's way: a task for each job."""
    await asyncio.gather(*[trivial(x) for x in range(n)])


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
    asyncio.run((parallel_of if what == "parallel" else gather_of)(n))
    print(peak() - before)


def show_memory(n: int) -> None:
    """Print the table of memory."""
    ours, theirs = (statistics.median(grown(what, n) for _ in range(3)) for what in ("parallel", "gather"))
    print(f"\n=== memory: growth of the peak over {n:,} trivial jobs (asyncio, a process each, median of 3)")
    print(f"  {'asyncio.gather of all':36}{theirs:9.1f} MiB")
    print(f"  {'s.parallel, concurrency=10':36}{ours:9.1f} MiB{ours / theirs:29.2f}x   (to reach: <= 0.1x)")


def main() -> None:
    """Print every table."""
    parser = parser_of("What scopes, tasks and the parallel family cost.")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory[0], int(options.memory[1]))
        return
    print_all(tables, ("aiometer",), quick=options.quick)
    show_memory(20_000 if options.quick else 100_000)


if __name__ == "__main__":
    main()
