"""What a pool costs beside its peers, as ratios within one run.

Run it with `nox -s benchmarks`, or `python benchmarks/pools.py [--quick]`. A peer that is not installed is left out; on
Trio there is none: all of them need asyncio. Their connections are stubs, so the figures are those of the pools alone.

The candidates of a table take turns. Costs are CPU time (`time.process_time`), medians with the lowest and the highest;
the spike is wall time.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from common import parser_of, print_all

from anyscope import Pool

RESOURCES, TASKS = 10, 100
LIMIT = 5.0
CREATE, USE, REQUESTS = 0.03, 0.005, 50
IDEAL = CREATE + USE * REQUESTS / RESOURCES
"""Of the spike: all resources are made at once, and used without a pause by five requests each."""


# ------------------------------------------------------------------ candidates
class Candidate(ABC):
    """A pool that is open.

    Args:
        create_delay: Seconds that the creation of a resource takes.
        is_full: Whether all resources are made before it is measured.
    """

    name: str
    needs_asyncio = True

    def __init__(self, create_delay: float = 0.0, *, is_full: bool = True) -> None:
        self.create_delay = create_delay
        self.is_full = is_full

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None:
        """Open it until the stack ends."""

    async def get(self) -> Any:
        """Get a resource within 5 seconds."""
        raise NotImplementedError

    async def put(self, resource: Any) -> None:
        """Give it back."""
        raise NotImplementedError

    async def use(self, seconds: float | None) -> None:
        """Get a resource, hold it for so long (`None`: not at all, 0: a checkpoint), give it back."""
        resource = await self.get()
        try:
            await hold(seconds)
        finally:
            await self.put(resource)

    async def pause(self) -> None:
        """Take the time of a creation."""
        await anyio.sleep(self.create_delay)


async def hold(seconds: float | None) -> None:
    """Use a resource."""
    if seconds is not None:
        await (anyio.sleep(seconds) if seconds else checkpoint())


class Ours(Candidate):
    """This library's."""

    name = "anyscope.Pool"
    needs_asyncio = False

    async def open(self, stack: AsyncExitStack) -> None:
        """Open it."""
        least = RESOURCES if self.is_full else 0
        self.pool = await stack.enter_async_context(
            Pool(self.create, min=least, max=RESOURCES, acquire_timeout=LIMIT, name="things")
        )
        await self.pool.ready()

    async def create(self) -> object:
        """Make one."""
        await self.pause()
        return object()

    async def get(self) -> Any:
        """Get one."""
        return await self.pool.acquire()

    async def put(self, resource: Any) -> None:
        """Give it back."""
        self.pool.release(resource)

    async def use(self, seconds: float | None) -> None:
        """Use one."""
        async with self.pool.acquire():
            await hold(seconds)


class Bare(Candidate):
    """`anyio.Semaphore` and a deque: no pool, but what one writes by hand."""

    name = "Semaphore and deque, no time-out"
    needs_asyncio = False

    async def open(self, stack: AsyncExitStack) -> None:
        """Make all of them, or none."""
        self.semaphore = anyio.Semaphore(RESOURCES)
        self.things: deque[object] = deque(object() for _ in range(RESOURCES if self.is_full else 0))

    async def use(self, seconds: float | None) -> None:
        """Use one."""
        async with self.semaphore:
            await self.borrow(seconds)

    async def borrow(self, seconds: float | None) -> None:
        """Use one that is free, or make it."""
        if not self.things:
            await self.pause()
            self.things.append(object())
        thing = self.things.pop()
        try:
            await hold(seconds)
        finally:
            self.things.append(thing)


class Limited(Bare):
    """The same, with a time-out for the wait."""

    name = "Semaphore and deque, fail_after(5)"

    async def use(self, seconds: float | None) -> None:
        """Use one."""
        with anyio.fail_after(LIMIT):
            await self.semaphore.acquire()
        try:
            await self.borrow(seconds)
        finally:
            self.semaphore.release()


class Psycopg(Candidate):
    """psycopg's."""

    name = "psycopg_pool.AsyncConnectionPool"

    async def open(self, stack: AsyncExitStack) -> None:
        """Open it with stubs."""
        psycopg, pools = importlib.import_module("psycopg"), importlib.import_module("psycopg_pool")
        idle, candidate = psycopg.pq.TransactionStatus.IDLE, self

        class Stub:
            """A connection to nowhere."""

            closed = False
            pgconn = SimpleNamespace(transaction_status=idle)

            @classmethod
            async def connect(cls, *_: object, **__: object) -> Stub:
                await candidate.pause()
                return cls()

            async def close(self) -> None: ...

        least = RESOURCES if self.is_full else 0
        # As many workers as resources: it makes three at a time otherwise.
        self.pool = pools.AsyncConnectionPool(
            "", connection_class=Stub, min_size=least, max_size=RESOURCES, open=False, num_workers=RESOURCES
        )
        await stack.enter_async_context(self.pool)
        await self.pool.wait()

    async def get(self) -> Any:
        """Get one."""
        return await self.pool.getconn(timeout=LIMIT)

    async def put(self, resource: Any) -> None:
        """Give it back."""
        await self.pool.putconn(resource)


class Asyncpg(Candidate):
    """asyncpg's."""

    name = "asyncpg pool"

    async def open(self, stack: AsyncExitStack) -> None:
        """Open it with stubs."""
        asyncpg = importlib.import_module("asyncpg")
        candidate = self

        class Stub(asyncpg.Connection):  # type: ignore[misc]
            """A connection to nowhere."""

            def __init__(self) -> None:
                self._protocol = SimpleNamespace(queries_count=0, _is_cancelling=lambda: False)
                self._proxy = None

            def _on_release(self, stacklevel: int = 1) -> None: ...

            def is_closed(self) -> bool:
                return False

            async def reset(self, *, timeout: float | None = None) -> None: ...

            async def close(self, *, timeout: float | None = None) -> None:
                self.terminate()

            def terminate(self) -> None:
                holder = self._pool_holder()
                if holder is not None:
                    holder._release_on_close()  # noqa: SLF001  the rest of the driver does it

            def __del__(self) -> None: ...

        async def connect(*_: object, **__: object) -> Stub:
            await candidate.pause()
            return Stub()

        least = RESOURCES if self.is_full else 0
        self.pool = await stack.enter_async_context(
            asyncpg.create_pool(connect=connect, connection_class=Stub, min_size=least, max_size=RESOURCES)
        )

    async def get(self) -> Any:
        """Get one."""
        return await self.pool.acquire(timeout=LIMIT)

    async def put(self, resource: Any) -> None:
        """Give it back."""
        await self.pool.release(resource)


class Sqlalchemy(Candidate):
    """SQLAlchemy's."""

    name = "SQLAlchemy AsyncAdaptedQueuePool"

    async def open(self, stack: AsyncExitStack) -> None:
        """Open it with stubs."""
        pools = importlib.import_module("sqlalchemy.pool")
        concurrency = importlib.import_module("sqlalchemy.util.concurrency")
        self.spawn = getattr(concurrency, "greenlet_spawn")  # noqa: B009  the module has no types of it

        def create() -> Any:
            if self.create_delay:
                concurrency.await_only(self.pause())
            return SimpleNamespace(close=lambda: None, rollback=lambda: None)

        self.pool = pools.AsyncAdaptedQueuePool(create, pool_size=RESOURCES, max_overflow=0, timeout=LIMIT)
        if self.is_full:
            for each in [await self.spawn(self.pool.connect) for _ in range(RESOURCES)]:
                each.close()

    async def get(self) -> Any:
        """Get one."""
        return await self.spawn(self.pool.connect)

    async def put(self, resource: Any) -> None:
        """Give it back."""
        await self.spawn(resource.close)


PEERS: dict[type[Candidate], tuple[str, ...]] = {
    Psycopg: ("psycopg", "psycopg_pool"),
    Asyncpg: ("asyncpg",),
    Sqlalchemy: ("sqlalchemy", "greenlet"),
}


def candidates(backend: str) -> list[type[Candidate]]:
    """Those that can run here."""
    found: list[type[Candidate]] = [Ours, Bare, Limited]
    for kind, modules in PEERS.items() if backend == "asyncio" else ():
        try:
            for module in modules:
                importlib.import_module(module)
        except ImportError:
            continue
        found.append(kind)
    return found


# ------------------------------------------------------------------ what is measured
async def alone(kind: type[Candidate], count: int) -> float:
    """Microseconds for one use by the only task."""
    async with AsyncExitStack() as stack:
        pool = kind()
        await pool.open(stack)
        gc.collect()
        began = time.process_time()
        for _ in range(count):
            await pool.use(None)
        return (time.process_time() - began) / count * 1e6


async def contended(kind: type[Candidate], count: int, tasks: int = TASKS) -> tuple[float, float]:
    """Microseconds for one use where many tasks compete, and what the slowest did for each use of the fastest."""
    uses = [0] * tasks
    async with AsyncExitStack() as stack:
        pool = kind()
        await pool.open(stack)

        async def user(index: int) -> None:
            await gate.wait()
            while sum_of[0] < count:
                await pool.use(0)
                uses[index] += 1
                sum_of[0] += 1

        sum_of = [0]
        gate = anyio.Event()
        async with anyio.create_task_group() as tg:
            for index in range(tasks):
                tg.start_soon(user, index)
            await anyio.sleep(0.2)  # all have begun, which is not what is measured
            gc.collect()
            began = time.process_time()
            gate.set()
        cost = (time.process_time() - began) / sum_of[0] * 1e6
    return cost, min(uses) / max(uses)


async def spike(kind: type[Candidate]) -> float:
    """Milliseconds until fifty requests to an empty pool are served."""
    async with AsyncExitStack() as stack:
        pool = kind(CREATE, is_full=False)
        await pool.open(stack)
        began = time.perf_counter()
        async with anyio.create_task_group() as tg:
            for _ in range(REQUESTS):
                tg.start_soon(pool.use, USE)
        return (time.perf_counter() - began) * 1e3


Rows = dict[str, list[float]]


def show(title: str, rows: Rows, unit: str, base: float, targets: dict[str, str], *, digits: int = 2) -> None:
    """Print one table, ratios to `base`."""
    print(f"\n{title}")
    for name, values in rows.items():
        middle = statistics.median(values)
        spread = f"{min(values):.{digits}f} .. {max(values):.{digits}f}"
        target = f"   (to reach: {targets[name]})" if name in targets else ""
        print(f"  {name:36}{middle:9.{digits}f} {unit}{spread:>20}{middle / base:9.2f}x{target}")


def middle_of(rows: Rows, kind: type[Candidate]) -> float:
    """The median of one."""
    return statistics.median(rows[kind.name])


async def tables(backend: str, *, quick: bool) -> None:
    """All tables of one backend."""
    rounds, count = (3, 5_000) if quick else (7, 20_000)
    kinds = candidates(backend)
    single: Rows = {kind.name: [] for kind in kinds}
    many: Rows = {kind.name: [] for kind in kinds}
    shares: Rows = {kind.name: [] for kind in kinds}
    spikes: Rows = {kind.name: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind in kinds:
            cost, (load, share), burst = await alone(kind, count), await contended(kind, count), await spike(kind)
            if turn:  # the first is to warm up
                for rows, value in ((single, cost), (many, load), (shares, share), (spikes, burst)):
                    rows[kind.name].append(value)
    print(f"\n=== {backend}")
    show("alone, per use", single, "us", middle_of(single, Limited), {Ours.name: "<= 0.6x"})
    title = f"{TASKS} tasks, {RESOURCES} resources, one checkpoint while holding, per use"
    target = {Ours.name: "<= 0.6x, and half of psycopg_pool and asyncpg"}
    show(title, many, "us", middle_of(many, Limited), target)
    show("the slowest task's uses for each of the fastest's", shares, "  ", 1, {Ours.name: ">= 0.9"})
    title = f"{REQUESTS} requests of 5 ms, empty pool of {RESOURCES}, creation 30 ms (ideal {IDEAL * 1e3:.0f} ms)"
    show(title, spikes, "ms", IDEAL * 1e3, {Ours.name: "<= 1.5x"}, digits=0)
    for kind in (Ours, Bare):
        await show_growth(kind, count)


async def show_growth(kind: type[Candidate], count: int) -> None:
    """The table of one candidate with more and more tasks, at least ten uses each."""
    growth: Rows = {f"{tasks:,} tasks": [] for tasks in (10, 100, 1_000, 10_000)}
    for _ in range(3):
        for tasks in (10, 100, 1_000, 10_000):
            growth[f"{tasks:,} tasks"].append((await contended(kind, max(count, 10 * tasks), tasks))[0])
    base = statistics.median(growth["100 tasks"])
    targets = {"10,000 tasks": "<= 1.5x"} if kind is Ours else {}
    show(f"{kind.name}, with more and more tasks, per use", growth, "us", base, targets)


if __name__ == "__main__":
    options = parser_of("What a pool costs beside its peers.").parse_args()
    print_all(tables, ("psycopg-pool", "asyncpg", "SQLAlchemy"), quick=options.quick)
