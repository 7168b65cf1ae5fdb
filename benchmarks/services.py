"""What services cost: to look one up, and to open a scope for a request; as ratios within one run.

Run `python benchmarks/services.py [--quick]`. Containers that are not installed are skipped aloud. The candidates take
turns, each figure is CPU time, a row shows the median, the lowest and the highest, and the ratio of the medians; see
`core.py`. Ratios can be compared between machines, microseconds cannot.

The first eight uses of a service go a longer way, on which it is noted who holds it, so everything is warmed up.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from itertools import count as count_from
from typing import Any

import anyio
from common import parser_of, versions
from core import Figures, in_turn, per_op, show

from anyscope import Scope, scope, use

Call = Callable[[], Awaitable[object]]

WARM_UP = 20
TARGET = 1.0
"""Microseconds that a look-up two levels up may cost more than the call of a bare coroutine."""
BARE = "bare coroutine, dict look-up"
TWO_UP = "s.use, two levels up"


class Database:
    """What is looked up."""

    async def aclose(self) -> None:
        """Nothing to close."""


async def open_database() -> Database:
    """Make it, in the way of an async function."""
    return Database()


async def database() -> AsyncIterator[Database]:
    """Make it, in the way of a generator; for the containers, which read the annotation."""
    opened = Database()
    yield opened
    await opened.aclose()


# ------------------------------------------------------------------ a service that is ready


async def repeated(count: int, call: Call) -> float:
    """Microseconds for one of many calls."""
    for _ in range(WARM_UP):
        await call()

    async def loop() -> None:
        for _ in range(count):
            await call()

    return await per_op(count, loop)


async def repeated_at_once(count: int, call: Callable[[], object]) -> float:
    """Microseconds for one of many plain calls."""
    for _ in range(WARM_UP):
        call()

    async def loop() -> None:
        for _ in range(count):
            call()

    return await per_op(count, loop)


async def bare_look_ups(count: int) -> dict[str, float]:
    """The floor: a coroutine function that looks into a dict."""
    values = {Database: Database()}

    async def get(key: type) -> object:
        return values[key]

    return {BARE: await repeated(count, partial(get, Database))}


async def our_look_ups(count: int) -> dict[str, float]:
    """From the scope itself, from further down, and from wherever the code is."""
    async with scope(name="app").provide(Database, open_database, Database.aclose) as app:
        figures = {"s.use, own scope": await repeated(count, partial(app.use, Database))}
        async with scope(), scope() as second:
            figures[TWO_UP] = await repeated(count, partial(second.use, Database))
            figures["use(), two levels up"] = await repeated(count, partial(use, Database))
            async with AsyncExitStack() as eight_more:
                tenth = second
                for _ in range(8):
                    tenth = await eight_more.enter_async_context(scope())
                figures["s.use, ten levels up"] = await repeated(count, partial(tenth.use, Database))
    return figures


async def look_ups(peers: dict[str, Peer], count: int) -> dict[str, float]:
    """One round of all."""
    figures = await bare_look_ups(count) | await our_look_ups(count)
    for name, peer in peers.items():
        async with peer.ready() as get:
            figures[name] = await repeated(count, get)
    return figures


async def look_ups_at_once(count: int) -> dict[str, float]:
    """The same without a coroutine."""
    values = {Database: Database()}

    def get(key: type) -> object:
        return values[key]

    figures = {"bare function, dict look-up": await repeated_at_once(count, partial(get, Database))}
    async with scope(name="app").provide(Database, Database) as app, scope(), scope() as second:
        await app.use(Database)
        figures["s.use_nowait, own scope"] = await repeated_at_once(count, partial(app.use_nowait, Database))
        figures["s.use_nowait, two levels up"] = await repeated_at_once(count, partial(second.use_nowait, Database))
    return figures


def judge(figures: Figures) -> None:
    """Say whether the target holds."""
    more = statistics.median(a - b for a, b in zip(figures[TWO_UP], figures[BARE], strict=True))
    holds = "holds" if more < TARGET else "DOES NOT HOLD"
    print(f"  {TWO_UP}: {more:.2f} us more than the bare coroutine (to reach: < {TARGET:g} us): {holds}")


# ------------------------------------------------------------------ a scope for a request


async def with_stack() -> None:
    """The floor."""
    async with AsyncExitStack() as stack:
        opened = await open_database()
        stack.push_async_callback(opened.aclose)


async def with_stack_and_generator() -> None:
    """The floor for a generator."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asynccontextmanager(database)())


async def empty_stack() -> None:
    """The floor for nothing."""
    async with AsyncExitStack():
        pass


async def empty_group() -> None:
    """What a scope begins with."""
    async with anyio.create_task_group():
        pass


async def our_request() -> None:
    """Ours: a scope that makes a service of its own."""
    async with scope() as s:
        await s.use(Database)


async def our_empty_request() -> None:
    """Ours, with nothing in it."""
    async with scope():
        pass


def app_with(factory: Callable[[], Any], close: Callable[[Database], object] | None = None) -> Scope:
    """An application that gives each request a service of its own."""
    return scope(name="app").provide(Database, factory, close, shared=False)


async def requests(count: int) -> dict[str, float]:
    """An async factory and a close."""
    figures = {"AsyncExitStack": await repeated(count, with_stack)}
    async with app_with(open_database, Database.aclose):
        figures["scope, async function and close="] = await repeated(count, our_request)
    return figures


async def requests_with_generator(peers: dict[str, Peer], count: int) -> dict[str, float]:
    """An async generator."""
    figures = {"AsyncExitStack": await repeated(count, with_stack_and_generator)}
    async with app_with(database):
        figures["scope, async generator"] = await repeated(count, our_request)
    for name, peer in peers.items():
        async with peer.requests() as request:
            figures[name] = await repeated(count, request)
    return figures


async def empty_requests(peers: dict[str, Peer], count: int) -> dict[str, float]:
    """Nothing is asked for."""
    figures = {
        "AsyncExitStack": await repeated(count, empty_stack),
        "anyio task group": await repeated(count, empty_group),
    }
    async with app_with(database):
        figures["scope"] = await repeated(count, our_empty_request)
    for name, peer in peers.items():
        async with peer.requests(use_it=False) as request:
            figures[name] = await repeated(count, request)
    return figures


# ------------------------------------------------------------------ the peers


class Peer:
    """A container. Each method gives what is called many times."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Call]:
        """Give a call that looks up a service of the application that is ready."""
        raise NotImplementedError
        yield

    @asynccontextmanager
    async def requests(self, *, use_it: bool = True) -> AsyncIterator[Call]:
        """Give a call that opens a request, uses a service of its own, and leaves."""
        raise NotImplementedError
        yield


class Svcs(Peer):
    """svcs."""

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Call]:
        """Its container is what lives as long as a request."""
        async with self.module.Registry() as registry, self.module.Container(registry) as container:
            registry.register_factory(Database, database)
            yield partial(container.aget, Database)

    @asynccontextmanager
    async def requests(self, *, use_it: bool = True) -> AsyncIterator[Call]:
        """A container for each."""
        async with self.module.Registry() as registry:
            registry.register_factory(Database, database)

            async def request() -> None:
                async with self.module.Container(registry) as container:
                    if use_it:
                        await container.aget(Database)

            yield request


class Dishka(Peer):
    """dishka, with the locks that it has by default."""

    options: dict[str, Any] = {}  # noqa: RUF012  read only

    def container(self, level: str) -> Any:
        """A container with one service."""
        provider = self.module.Provider()
        provider.provide(database, scope=self.module.Scope[level])
        return self.module.make_async_container(provider, **self.options)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Call]:
        """From the container of the application."""
        container = self.container("APP")
        yield partial(container.get, Database)
        await container.close()

    @asynccontextmanager
    async def requests(self, *, use_it: bool = True) -> AsyncIterator[Call]:
        """A container below it for each."""
        container = self.container("REQUEST")

        async def request() -> None:
            async with container() as below:
                if use_it:
                    await below.get(Database)

        yield request
        await container.close()


class DishkaWithoutLock(Dishka):
    """dishka without locks: concurrent first uses make several services."""

    options = {"lock_factory": None}  # noqa: RUF012  read only


class Wireup(Peer):
    """wireup."""

    def container(self, lifetime: str) -> Any:
        """A container with one service."""
        made = self.module.injectable(database, lifetime=lifetime)
        return self.module.create_async_container(injectables=[made])

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Call]:
        """From the container of the application."""
        container = self.container("singleton")
        yield partial(container.get, Database)
        await container.close()

    @asynccontextmanager
    async def requests(self, *, use_it: bool = True) -> AsyncIterator[Call]:
        """A scope below it for each."""
        container = self.container("scoped")

        async def request() -> None:
            async with container.enter_scope() as below:
                if use_it:
                    await below.get(Database)

        yield request
        await container.close()


class ThatDepends(Peer):
    """that-depends."""

    numbers = count_from(1)  # it warns of two containers of one name

    def container(self, kind: str) -> Any:
        """A container with one service."""
        provider = getattr(self.module.providers, kind)(database)
        return type(
            f"Container{next(self.numbers)}",
            (self.module.BaseContainer,),
            {"database": provider, "default_scope": None},
        )

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Call]:
        """A provider of the application."""
        container = self.container("Resource")
        yield container.database.resolve
        await container.tear_down()

    @asynccontextmanager
    async def requests(self, *, use_it: bool = True) -> AsyncIterator[Call]:
        """A context for each."""
        container = self.container("ContextResource")

        async def request() -> None:
            async with self.module.container_context(container):
                if use_it:
                    await container.database.resolve()

        yield request


PEERS: dict[str, tuple[str, type[Peer]]] = {
    "svcs": ("svcs", Svcs),
    "dishka": ("dishka", Dishka),
    "dishka, lock_factory=None": ("dishka", DishkaWithoutLock),
    "wireup": ("wireup", Wireup),
    "that-depends": ("that_depends", ThatDepends),
}


def installed() -> dict[str, Peer]:
    """The containers that are there; what is not is said."""
    found: dict[str, Peer] = {}
    for name, (module, kind) in PEERS.items():
        try:
            found[name] = kind(import_module(module))
        except ImportError:  # noqa: PERF203  five of them
            print(f"{name} is not installed: skipped")
    return found


# ------------------------------------------------------------------ the tables


async def tables(backend: str, peers: dict[str, Peer], *, quick: bool) -> None:
    """All tables of one backend."""
    rounds, many, some = (5, 10_000, 200) if quick else (9, 50_000, 1000)
    print(f"\n=== {backend}")
    found = await in_turn(rounds, lambda: look_ups(peers, many))
    show("a service that is ready, await", found, BARE, {})
    judge(found)
    at_once = await in_turn(rounds, lambda: look_ups_at_once(many))
    show("a service that is ready, without await", at_once, "bare function, dict look-up", {})
    one = await in_turn(rounds, lambda: requests(some))
    show("a request with one service: an async function and a close", one, "AsyncExitStack", {})
    generator = await in_turn(rounds, lambda: requests_with_generator(peers, some))
    show("a request with one service: an async generator", generator, "AsyncExitStack", {})
    none = await in_turn(rounds, lambda: empty_requests(peers, some))
    show("a request with none", none, "AsyncExitStack", {})


def main() -> None:
    """Print every table; the containers on asyncio only, for which they are made."""
    options = parser_of("What services cost.").parse_args()
    print(versions(("svcs", "dishka", "wireup", "that-depends")))
    peers = installed()
    anyio.run(partial(tables, "asyncio", peers, quick=options.quick), backend="asyncio")
    anyio.run(partial(tables, "trio", {}, quick=options.quick), backend="trio")


if __name__ == "__main__":
    main()
