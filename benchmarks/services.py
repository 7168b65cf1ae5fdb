"""What services cost: to look one up, and to open a scope for a request.

Run it with `nox -s benchmarks`, or `python benchmarks/services.py [--quick]`. How it is measured is told in
`common.py`.

The first eight uses of a service go a longer way, on which it is noted who holds it, so everything is warmed up.
The containers are measured on asyncio, for which they are made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count as count_from
from typing import Any

import anyio

from anyscope import Key, Scope, scope, use
from common import Area, Case, Here, Table, Target, main_of, optional

Call = Callable[[], Awaitable[object]]

WARM_UP = 20
BARE = "bare coroutine, dict look-up"
TWO_UP = "s.use, two levels up"
REQUEST = (
    "what opens a service, and what closes it, is a task of its own each, so that a native cancellation cannot cut the "
    "clean-up; the peers start no task, and their clean-up is cut (see the page on services compared)"
)


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


# ------------------------------------------------------------------ how it is called
def called(name: str, opened: Callable[[], AbstractAsyncContextManager[Call]], **options: Any) -> Case:
    """A case that opens something, and calls what that gives again and again."""

    @asynccontextmanager
    async def block(repeats: int) -> AsyncIterator[Call]:
        async with opened() as call:
            for _ in range(WARM_UP):
                await call()
            yield partial(repeat, call, repeats)

    return Case(name, block, **options)


def called_at_once(name: str, opened: Callable[[], AbstractAsyncContextManager[Callable[[], object]]]) -> Case:
    """The same with a plain function."""

    @asynccontextmanager
    async def block(repeats: int) -> AsyncIterator[Call]:
        async with opened() as call:
            for _ in range(WARM_UP):
                call()
            yield partial(repeat_at_once, call, repeats)

    return Case(name, block)


async def repeat(call: Call, repeats: int) -> None:
    """One after the other."""
    for _ in range(repeats):
        await call()


async def repeat_at_once(call: Callable[[], object], repeats: int) -> None:
    """The same."""
    for _ in range(repeats):
        call()


# ------------------------------------------------------------------ a service that is ready
@asynccontextmanager
async def in_dict() -> AsyncIterator[Call]:
    """The floor: a coroutine function that looks into a dict."""
    values = {Database: Database()}

    async def get(key: type) -> object:
        return values[key]

    yield partial(get, Database)


@asynccontextmanager
async def below(levels: int) -> AsyncIterator[Scope]:
    """A scope so many levels below the one that provides the service."""
    async with AsyncExitStack() as stack:
        s = await stack.enter_async_context(scope(name="app").provide(Database, open_database, Database.aclose))
        await s.use(Database)
        for _ in range(levels):
            s = await stack.enter_async_context(scope())
        yield s


@asynccontextmanager
async def used(levels: int) -> AsyncIterator[Call]:
    """From the scope itself, or from further down."""
    async with below(levels) as s:
        yield partial(s.use, Database)


@asynccontextmanager
async def used_here() -> AsyncIterator[Call]:
    """From wherever the code is."""
    async with below(2):
        yield partial(use, Database)


async def look_ups(here: Here) -> Table:
    """With `await`."""
    cases = [
        called(BARE, in_dict),
        called("s.use, own scope", partial(used, 0)),
        called(TWO_UP, partial(used, 2)),
        called("use(), two levels up", used_here),
        called("s.use, ten levels up", partial(used, 10)),
        *(called(name, peer.ready, needs="asyncio", is_here=peer.is_here) for name, peer in peers().items()),
    ]
    targets = [Target("3", TWO_UP, 1.0, BARE, kind="more")]
    return Table("a service that is ready, await", cases, targets)


@asynccontextmanager
async def in_dict_at_once() -> AsyncIterator[Callable[[], object]]:
    """The floor without a coroutine."""
    values = {Database: Database()}

    def get(key: type) -> object:
        return values[key]

    yield partial(get, Database)


@asynccontextmanager
async def used_at_once(levels: int) -> AsyncIterator[Callable[[], object]]:
    """Ours without a coroutine."""
    async with below(levels) as s:
        yield partial(s.use_nowait, Database)


async def look_ups_at_once(here: Here) -> Table:
    """Without `await`."""
    cases = [
        called_at_once("bare function, dict look-up", in_dict_at_once),
        called_at_once("s.use_nowait, own scope", partial(used_at_once, 0)),
        called_at_once("s.use_nowait, two levels up", partial(used_at_once, 2)),
    ]
    return Table("a service that is ready, without await", cases)


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


# ------------------------------------------------------------------ the peers


class Peer:
    """A container. Each method gives what is called many times."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def is_here(self) -> bool:
        """Whether it is installed."""
        return self.module is not None

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


def peers() -> dict[str, Peer]:
    """The containers."""
    return {name: kind(optional(module)) for name, (module, kind) in PEERS.items()}


# ------------------------------------------------------------------ more and more services
KEYS = [Key[Database](f"database {number}") for number in range(1_000)]


@asynccontextmanager
async def many(n: int) -> AsyncIterator[tuple[Scope, AsyncExitStack]]:
    """A scope that provides so many, and what closes it."""
    async with AsyncExitStack() as stack:
        s = scope()
        for key in KEYS[:n]:
            s.provide(key, open_database, Database.aclose)
        yield await stack.enter_async_context(s), stack


async def resolve(s: Scope, n: int) -> None:
    """Make them, one after the other."""
    for key in KEYS[:n]:
        await s.use(key)


def resolving(n: int, *, is_close: bool) -> Case:
    """To make so many, or to close them."""

    @asynccontextmanager
    async def opened(repeats: int) -> AsyncIterator[Call]:
        async with AsyncExitStack() as all_of_them:
            scopes = [await all_of_them.enter_async_context(many(n)) for _ in range(repeats)]

            async def make() -> None:
                for s, _ in scopes:
                    await resolve(s, n)

            async def close() -> None:
                for _, stack in reversed(scopes):
                    await stack.aclose()

            if is_close:
                await make()
            yield close if is_close else make

    return Case(f"{'close' if is_close else 'make'}: {n:,} services", opened, per=n)


async def growth(here: Here) -> Table:
    """To make them, and to close them."""
    cases = [
        resolving(n, is_close=is_close) for is_close in (False, True) for n in here.effort.sizes(1, 10, 100, 1_000)
    ]
    targets = [Target("7", kind, 1.5, kind="flat") for kind in ("make", "close")]
    return Table("more and more services in one scope, per service", cases, targets, is_ratio=False)


# ------------------------------------------------------------------ requests, as tables
@asynccontextmanager
async def within(app: Scope, call: Call) -> AsyncIterator[Call]:
    """In an application."""
    async with app:
        yield call


async def requests(here: Here) -> Table:
    """An async factory and a close."""
    ours = "scope, async function and close="
    cases = [
        Case.each("AsyncExitStack", with_stack),
        called(ours, lambda: within(app_with(open_database, Database.aclose), our_request)),
    ]
    targets = [Target("3, research note", ours, 50, kind="most", reason=REQUEST)]
    return Table("a request with one service: an async function and a close", cases, targets)


async def requests_with_generator(here: Here) -> Table:
    """An async generator."""
    ours = "scope, async generator"
    cases = [
        Case.each("AsyncExitStack", with_stack_and_generator),
        called(ours, lambda: within(app_with(database), our_request)),
        *(called(name, peer.requests, needs="asyncio", is_here=peer.is_here) for name, peer in peers().items()),
    ]
    targets = [Target("3, research note", ours, 120, kind="most", reason=REQUEST)]
    return Table("a request with one service: an async generator", cases, targets)


async def empty_requests(here: Here) -> Table:
    """Nothing is asked for."""
    cases = [
        Case.each("AsyncExitStack", empty_stack),
        Case.each("anyio task group", empty_group),
        called("scope", lambda: within(app_with(database), our_empty_request)),
        *(
            called(name, partial(peer.requests, use_it=False), needs="asyncio", is_here=peer.is_here)
            for name, peer in peers().items()
        ),
    ]
    return Table("a request with none", cases)


AREA = Area(
    "services",
    "Services: to look one up, and to open a scope for a request. The containers need asyncio.",
    [look_ups, look_ups_at_once, requests, requests_with_generator, empty_requests, growth],
)

if __name__ == "__main__":
    main_of(AREA)
