"""What a pool costs beside its peers.

Run it with `nox -s benchmarks`, or `python benchmarks/pools.py [--quick]`. How it is measured is told in `common.py`.
On Trio there is no peer: all of them need asyncio. Their connections are stubs, so the figures are those of the pools
alone.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Pool
from common import Area, Case, Here, Table, Target, main_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from common import Work

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
        resources: How many there are at most, by default `RESOURCES`.
    """

    name: str
    needs = "asyncio"

    def __init__(self, create_delay: float = 0.0, *, is_full: bool = True, resources: int | None = None) -> None:
        self.create_delay = create_delay
        self.most = resources or RESOURCES
        self.least = self.most if is_full else 0

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
    needs = ""

    async def open(self, stack: AsyncExitStack) -> None:
        """Open it."""
        self.pool = await stack.enter_async_context(
            Pool(self.create, min=self.least, max=self.most, acquire_timeout=LIMIT, name="things")
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
    needs = ""

    async def open(self, stack: AsyncExitStack) -> None:
        """Make all of them, or none."""
        self.semaphore = anyio.Semaphore(self.most)
        self.things: deque[object] = deque(object() for _ in range(self.least))

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

        # As many workers as resources: it makes three at a time otherwise.
        self.pool = pools.AsyncConnectionPool(
            "", connection_class=Stub, min_size=self.least, max_size=self.most, open=False, num_workers=self.most
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

        self.pool = await stack.enter_async_context(
            asyncpg.create_pool(connect=connect, connection_class=Stub, min_size=self.least, max_size=self.most)
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

        self.pool = pools.AsyncAdaptedQueuePool(create, pool_size=self.most, max_overflow=0, timeout=LIMIT)
        for each in [await self.spawn(self.pool.connect) for _ in range(self.least)]:
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
    return found + [kind for kind in PEERS if backend != "trio" and is_installed(kind)]


def is_installed(kind: type[Candidate]) -> bool:
    """Whether it can be imported."""
    return all(find_spec(module) for module in PEERS.get(kind, ()))


# ------------------------------------------------------------------ what is measured
ALL: tuple[type[Candidate], ...] = (Limited, Bare, Ours, *PEERS)


def case(kind: type[Candidate], opened: Any, **options: Any) -> Case:
    """A candidate."""
    return Case(kind.name, partial(opened, kind), needs=kind.needs, is_here=is_installed(kind), **options)


@asynccontextmanager
async def full(kind: Callable[..., Candidate], **options: Any) -> AsyncIterator[Candidate]:
    """One that is open."""
    async with AsyncExitStack() as stack:
        pool = kind(**options)
        await pool.open(stack)
        yield pool


@asynccontextmanager
async def alone(kind: type[Candidate], repeats: int) -> AsyncIterator[Work]:
    """One use after the other by the only task."""
    async with full(kind) as pool:

        async def use() -> None:
            for _ in range(repeats):
                await pool.use(None)

        yield use


@asynccontextmanager
async def executing(repeats: int) -> AsyncIterator[Work]:
    """`execute` by the only task."""

    async def job(_: object) -> None:
        """The least that it can do."""

    async with full(Ours) as ours:

        async def use() -> None:
            for _ in range(repeats):
                await ours.pool.execute(job)  # type: ignore[attr-defined]

        yield use


@asynccontextmanager
async def contended(kind: Callable[[], Candidate], repeats: int, *, tasks: int = TASKS) -> AsyncIterator[Work]:
    """Many tasks compete; the work gives what the slowest did for each use of the fastest."""
    uses, used = [0] * tasks, [0]
    gate, done = anyio.Event(), anyio.Event()
    async with full(kind) as pool, anyio.create_task_group() as group:

        async def user(index: int) -> None:
            await gate.wait()
            while used[0] < repeats:
                await pool.use(0)
                uses[index] += 1
                used[0] += 1
            done.set()

        for index in range(tasks):
            group.start_soon(user, index)
        await anyio.wait_all_tasks_blocked()  # all have begun, which is not what is measured

        async def work() -> float:
            gate.set()
            await done.wait()  # by then each of them has had all of its turns but the last
            return min(uses) / max(uses)

        yield work


@asynccontextmanager
async def spike(kind: type[Candidate], _: int) -> AsyncIterator[Work]:
    """Fifty requests to an empty pool."""
    async with full(kind, create_delay=CREATE, is_full=False) as pool:

        async def work() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(REQUESTS):
                    group.start_soon(pool.use, USE)

        yield work


@asynccontextmanager
async def ideal(_: int) -> AsyncIterator[Work]:
    """What it would take at best."""
    yield partial(anyio.sleep, IDEAL)


# ------------------------------------------------------------------ the tables
async def single(here: Here) -> Table:
    """No other task."""
    cases = [case(kind, alone) for kind in ALL]
    cases.insert(3, Case("anyscope.Pool.execute", executing))
    targets = [
        Target("5", Ours.name, 0.6, Limited.name),
        Target("7, stretch", "anyscope.Pool.execute", 10, kind="most"),
    ]
    return Table("one task alone, per use", cases, targets)


async def many(here: Here) -> Table:
    """A hundred tasks and ten resources."""
    targets = [
        Target("5", Ours.name, bound, kind.name) for kind, bound in ((Limited, 0.6), (Psycopg, 0.5), (Asyncpg, 0.5))
    ]
    title = "100 tasks, 10 resources, one checkpoint while holding, per use"
    return Table(title, [case(kind, contended, least=20 * TASKS) for kind in ALL], targets)


async def shares(here: Here) -> Table:
    """The same, and who got how much."""
    uses = 2_000 if here.effort.is_quick else 20_000
    cases = [case(kind, contended, least=uses) for kind in ALL]
    title = "the same: uses of the task that got the fewest, for each use of the one that got the most"
    targets = [Target("5", Ours.name, 0.9, kind="least")]
    return Table(title, cases, targets, shows="figure", unit="", is_ratio=False, is_once=True)


async def spikes(here: Here) -> Table:
    """A burst."""
    cases = [Case("ideal", ideal), *(case(kind, spike) for kind in ALL)]
    title = f"50 requests of 5 ms, an empty pool of at most 10, creation 30 ms (ideal {IDEAL * 1e3:.0f} ms), wall time"
    return Table(title, cases, [Target("5", Ours.name, 1.5, "ideal")], shows="wall", unit="ms")


async def growth(here: Here) -> Table:
    """One resource, and more and more tasks that wait for it, ten turns each at least."""
    waiters = here.effort.sizes(1, 10, 100, 1_000, 10_000)
    cases = [
        Case(
            f"{kind.name}: {n:,} waiting",
            partial(contended, partial(kind, resources=1), tasks=n + 1),
            least=max(10 * (n + 1), 1_000),
        )
        for kind in (Ours, Bare)
        for n in waiters
    ]
    targets = [Target("7", Ours.name, 1.5, kind="flat")]
    return Table("one resource, more and more waiting tasks, per use", cases, targets, is_ratio=False)


AREA = Area(
    "pools",
    "Pools, with stubs as resources. Peers need asyncio.",
    [single, many, shares, spikes, growth],
)

if __name__ == "__main__":
    main_of(AREA)
