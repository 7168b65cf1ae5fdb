"""What containers do when it gets difficult: the probes behind `docs/services-compared.md`, as a Markdown table.

Run `python benchmarks/compare_services.py`. What is not installed is skipped aloud. Each probe of each library runs in
a process of its own, for at most ten seconds, for some of them hang; nothing in the tables is written by hand. A dash
means that the library has no such call: dependencies of FastAPI are made for one request.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from textwrap import shorten
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
from sniffio import current_async_library

from anyscope import scope
from common import versions

Factory: TypeAlias = "Callable[..., AsyncIterator[Any]]"
Services: TypeAlias = "dict[type, Factory]"
Get: TypeAlias = "Callable[[type], Awaitable[Any]]"
Body: TypeAlias = "Callable[[], Awaitable[object]]"

NONE = "-"
HANGS = "hangs"


class First:
    """A service."""


class Second:
    """A service."""


class Third:
    """A service."""


class Missing:
    """A service that nobody provides."""


# ------------------------------------------------------------------ the libraries


class Library:
    """Opens services, for the application or for one request, and closes them at the end of the block."""

    module = ""
    reads_signatures = False
    """Whether a factory has what it needs as its parameters."""
    asks = True
    """Whether a service can be asked for while the program runs."""

    def __init__(self) -> None:
        self.it: Any = import_module(self.module)

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """Provide services, made by async generator functions; give what asks for one."""
        raise NotImplementedError
        yield

    async def run(self, services: Services, body: Body) -> None:
        """Open these services for one request, in this order, and run a body with them."""
        async with self.opened(services, level="request") as get:
            for key in services:
                await get(key)
            await body()


class Anyscope(Library):
    """Ours. Close steps are given 0.2 seconds here, so that nobody waits for ten."""

    module = "anyscope"

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """One scope, or one below it."""
        app = scope(name="app", close_timeout=0.2)
        for key, factory in services.items():
            app.provide(key, factory, shared=level == "app")
        async with app:
            if level == "app":
                yield app.use
                return
            async with scope(name="request", close_timeout=0.2) as request:
                yield request.use


class Stack(Library):
    """The standard library: an exit stack and a dict."""

    module = "contextlib"

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """Enter what is not in the dict."""
        made: dict[type, Any] = {}
        async with AsyncExitStack() as stack:

            async def get(key: type) -> Any:
                if key not in made:
                    made[key] = await stack.enter_async_context(asynccontextmanager(services[key])())
                return made[key]

            yield get


class Svcs(Library):
    """svcs."""

    module = "svcs"

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """A registry and a container."""
        async with self.it.Registry() as registry, self.it.Container(registry) as container:
            for key, factory in services.items():
                # The body's error is hidden from factories unless they ask for it.
                registry.register_factory(key, factory, suppress_context_exit=False)
            yield container.aget


class Dishka(Library):
    """dishka, with the lock that it has by default; on Trio with that of AnyIO."""

    module = "dishka"
    reads_signatures = True

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """A container, or one below it."""
        provider = self.it.Provider(scope=self.it.Scope[level.upper()])
        for key, factory in services.items():
            provider.provide(factory, provides=key)
        options = {"lock_factory": anyio.Lock} if current_async_library() == "trio" else {}
        container = self.it.make_async_container(provider, **options)
        try:
            if level == "app":
                yield container.get
            else:
                async with container() as request:
                    yield request.get
        except BaseException as error:
            await container.close(error)
            raise
        await container.close()


class Wireup(Library):
    """wireup."""

    module = "wireup"
    reads_signatures = True

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """A container, or a scope of it."""
        lifetime = "singleton" if level == "app" else "scoped"
        made = [self.it.injectable(factory, lifetime=lifetime) for factory in services.values()]
        container = self.it.create_async_container(injectables=made)
        try:
            if level == "app":
                yield container.get
                return
            async with container.enter_scope() as request:
                yield request.get
        finally:
            await container.close()


class ThatDepends(Library):
    """that-depends."""

    module = "that_depends"

    @asynccontextmanager
    async def opened(self, services: Services, *, level: str = "app") -> AsyncIterator[Get]:
        """A container of resources, or a context for one."""
        kind = self.it.providers.Resource if level == "app" else self.it.providers.ContextResource
        providers = {key.__name__: kind(factory) for key, factory in services.items()}
        container = type("Container", (self.it.BaseContainer,), {**providers, "default_scope": None})

        async def get(key: type) -> Any:
            return await providers[key.__name__].resolve()

        if level == "app":
            try:
                yield get
            finally:
                await container.tear_down()
        else:
            async with self.it.container_context(container):
                yield get


class Fastapi(Library):
    """FastAPI's dependencies."""

    module = "fastapi"
    asks = False

    async def run(self, services: Services, body: Body) -> None:
        """Send one request to an application with one route."""
        app = self.it.FastAPI()
        app.get("/", dependencies=[self.it.Depends(factory) for factory in services.values()])(self.handler(body))

        async def receive() -> dict[str, Any]:
            await anyio.lowlevel.checkpoint()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            """Nobody reads the answer."""

        request = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "root_path": ""}
        await app(request, receive, send)

    @staticmethod
    def handler(body: Body) -> Body:
        """The body as a route."""

        async def handle() -> None:
            await body()

        return handle


LIBRARIES: dict[str, type[Library]] = {
    "anyscope": Anyscope,
    "AsyncExitStack": Stack,
    "svcs": Svcs,
    "dishka": Dishka,
    "wireup": Wireup,
    "that-depends": ThatDepends,
    "FastAPI Depends": Fastapi,
}


# ------------------------------------------------------------------ services to probe with


class Log:
    """What happened to services, in order."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.builds = 0
        self.closing: list[str] = []
        self.closed: list[str] = []
        self.errors: list[BaseException] = []

    def factory(self, key: type, *, opening: Body | None = None, closing: Body | None = None) -> Factory:
        """An async generator function that makes a service."""

        async def make() -> AsyncIterator[Any]:
            self.builds += 1
            if opening is not None:
                await opening()
            self.made.append(key())
            try:
                seen = yield self.made[-1]
                if isinstance(seen, Exception):  # how dishka shows it
                    self.errors.append(seen)
            except Exception as error:
                self.errors.append(error)
                raise
            finally:
                await self._close(key.__name__, closing)

        make.__annotations__["return"] = AsyncIterator[key]  # for those that read it
        return make

    async def _close(self, name: str, closing: Body | None) -> None:
        self.closing.append(name)
        if closing is not None:
            await closing()
        self.closed.append(name)


def asking(key: type, other: type, where: dict[str, Get]) -> Factory:
    """A factory that asks for another service."""

    async def make() -> AsyncIterator[Any]:
        await where["get"](other)
        yield key()

    make.__annotations__["return"] = AsyncIterator[key]
    return make


def needing(key: type, other: type) -> Factory:
    """A factory that has another service as its parameter."""

    async def make(other: Any) -> AsyncIterator[Any]:
        yield key()

    make.__annotations__ = {"other": other, "return": AsyncIterator[key]}
    return make


async def nothing() -> None:
    """A body."""


async def fail() -> None:
    """A body, or a close, that fails."""
    raise ValueError("no")


def shown(error: BaseException) -> str:
    """The type of an error, and what is in a group."""
    inside = sorted({shown(one) for one in getattr(error, "exceptions", ())})
    return f"{type(error).__name__}({', '.join(inside)})" if inside else type(error).__name__


# ------------------------------------------------------------------ the probes


async def asked_by_five(library: Library, level: str) -> str:
    """How many instances do five tasks get that ask for a service at once?"""
    log = Log()
    got: list[Any] = []
    services = {First: log.factory(First, opening=partial(anyio.sleep, 0.02))}
    async with library.opened(services, level=level) as get:

        async def ask() -> None:
            got.append(await get(First))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
    return f"{len({id(one) for one in got})} instance{'s' * (log.builds > 1)}, {len(log.closed)} closed"


async def first_cancelled(library: Library) -> str:
    """The first who asks is cancelled while it is made: what do two others get?"""
    log = Log()
    got: list[Any] = []
    services = {First: log.factory(First, opening=partial(anyio.sleep, 0.06))}
    async with library.opened(services) as get:

        async def ask() -> None:
            try:
                got.append(await get(First))
            except Exception as error:
                got.append(error)

        async with anyio.create_task_group() as group:
            first = anyio.CancelScope()

            async def ask_first() -> None:
                with first:
                    await get(First)

            group.start_soon(ask_first)
            await anyio.sleep(0.01)
            group.start_soon(ask)
            group.start_soon(ask)
            await anyio.sleep(0.01)
            first.cancel()
    kinds = sorted({shown(one) if isinstance(one, Exception) else f"{type(one).__name__}()" for one in got})
    return f"{', '.join(kinds) or 'nothing'}; {log.builds} build{'s' * (log.builds > 1)}"


async def ring_of(library: Library, services: Services, where: dict[str, Get]) -> str:
    """What comes of services that need one another."""
    result = HANGS
    with anyio.move_on_after(1):
        try:
            async with library.opened(services) as get:
                where["get"] = get
                result = "found too late"
                try:
                    result = HANGS
                    await get(First)
                except Exception as error:
                    result = f"{shown(error)} when used"
        except Exception as error:
            result = f"{shown(error)} before use"
    return result


async def ring_by_asking(library: Library) -> str:
    """Two factories ask the container for one another."""
    where: dict[str, Get] = {}
    services = {First: asking(First, Second, where), Second: asking(Second, First, where)}
    return await ring_of(library, services, where)


async def ring_by_signature(library: Library) -> str:
    """Two factories have one another as parameter."""
    return await ring_of(library, {First: needing(First, Second), Second: needing(Second, First)}, {})


async def delay_of_a_ready_one(library: Library) -> str:
    """How long does a look-up of a ready service take while another is made, for 0.2 seconds?"""
    log = Log()
    services = {First: log.factory(First), Second: log.factory(Second, opening=partial(anyio.sleep, 0.2))}
    async with library.opened(services) as get, anyio.create_task_group() as group:
        await get(First)
        group.start_soon(get, Second)
        await anyio.sleep(0.05)
        began = time.perf_counter()
        await get(First)
        delay = time.perf_counter() - began
    return "none" if delay < 0.01 else f"{delay:.2f} s"


async def closes_when_cancelled(library: Library) -> str:
    """Cancelled by a cancel scope while two services are open, each of which takes 10 ms to close."""
    log = Log()
    services = {key: log.factory(key, closing=partial(anyio.sleep, 0.01)) for key in (First, Second)}
    with anyio.move_on_after(0.1):
        await library.run(services, anyio.sleep_forever)
    return f"{len(log.closing)} begun, {len(log.closed)} completed"


async def close_that_fails(library: Library) -> str:
    """The second of three fails to close."""
    log = Log()
    services = {key: log.factory(key, closing=fail if key is Second else None) for key in (First, Second, Third)}
    error = "no error"
    try:
        await library.run(services, nothing)
    except Exception as failed:
        error = shown(failed)
    return f"{len(log.closed)} of the 2 others closed; {error}"


async def close_that_hangs(library: Library) -> str:
    """The second of two takes for ever to close; everything is cancelled after two seconds."""
    log = Log()
    services = {First: log.factory(First), Second: log.factory(Second, closing=anyio.sleep_forever)}
    began, error = time.perf_counter(), "no error"
    with anyio.move_on_after(2) as limit:
        try:
            await library.run(services, nothing)
        except Exception as failed:
            error = shown(failed)
    if limit.cancelled_caught:
        return "no bound"
    return f"{error} after {time.perf_counter() - began:.1f} s, {len(log.closed)} of 1 other closed"


async def task_group_across_the_yield(library: Library) -> str:
    """A service holds a task group; a child task is the first to ask for it."""

    async def make() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield First()
            group.cancel_scope.cancel()

    make.__annotations__["return"] = AsyncIterator[First]
    try:
        async with library.opened({First: make}) as get:
            async with anyio.create_task_group() as askers:
                askers.start_soon(get, First)
            await anyio.sleep(0.01)
    except BaseException as error:
        return shown(error)
    return "closed cleanly"


async def error_of_the_body(library: Library) -> str:
    """The body fails: does the factory see why?"""
    log = Log()
    try:
        await library.run({First: log.factory(First)}, fail)
    except ValueError:
        leaving = "and it leaves as it is"
    except Exception as error:
        leaving = f"and it leaves as {shown(error)}"
    else:
        leaving = "and it is swallowed"
    return f"{'yes' if log.errors else 'no'}, {leaving}"


async def missing(library: Library) -> str:
    """Nobody provides it."""
    async with library.opened({First: Log().factory(First)}) as get:
        try:
            await get(Missing)
        except Exception as error:
            first_line = (str(error).strip() or "(no text)").splitlines()[0]
            return f"{shown(error)}: `{shorten(first_line, 75, placeholder=' ...')}`"
    return "nothing"


Probe: TypeAlias = "Callable[[Library], Awaitable[str]]"
PROBES: dict[str, Probe] = {
    "five tasks ask at once, for a service of the application": partial(asked_by_five, level="app"),
    "five tasks ask at once, for a service of one request": partial(asked_by_five, level="request"),
    "who asked first is cancelled: the two others get": first_cancelled,
    "factories that ask for one another": ring_by_asking,
    "factories with one another as parameter": ring_by_signature,
    "wait for a ready service while another is made": delay_of_a_ready_one,
    "cancelled with two services open: closes": closes_when_cancelled,
    "the second of three fails to close": close_that_fails,
    "a close that hangs": close_that_hangs,
    "a service that holds a task group, first asked for by a child task": task_group_across_the_yield,
    "the factory sees the error of the body": error_of_the_body,
    "a service that nobody provides": missing,
}
OF_A_RUNNING_REQUEST = (closes_when_cancelled, close_that_fails, close_that_hangs, error_of_the_body)


def applies(library: type[Library], probe: Probe) -> bool:
    """Whether the library has what is probed."""
    if probe is ring_by_signature:
        return library.reads_signatures
    return library.asks or probe in OF_A_RUNNING_REQUEST


# ------------------------------------------------------------------ running them


def run_here(backend: str, name: str, title: str) -> None:
    """Run one probe and print what came of it; the rest of standard output is the library's."""

    async def run() -> str:
        try:
            with anyio.fail_after(8):
                return await PROBES[title](LIBRARIES[name]())
        except BaseException as error:
            return f"the probe fails: {shown(error)}"

    print(f"\n{anyio.run(run, backend=backend)}")


def run_apart(backend: str, name: str, title: str) -> str:
    """Run one probe in a process of its own."""
    if not applies(LIBRARIES[name], PROBES[title]):
        return NONE
    command = [sys.executable, "-W", "ignore", __file__, "--probe", backend, name, title]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "hangs, and cannot be cancelled"
    return done.stdout.splitlines()[-1] if done.returncode == 0 else "the process dies"


def table(backend: str, names: list[str]) -> None:
    """Print what all libraries do on one backend, a column each."""
    with ThreadPoolExecutor(2) as pool:
        rows = {title: list(pool.map(partial(run_apart, backend, title=title), names)) for title in PROBES}
    print(f"\n### {backend}\n")
    print(f"| | {' | '.join(names)} |")
    print(f"|---{'|---' * len(names)}|")
    for title, cells in rows.items():
        print(f"| {title} | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


def works(backend: str, name: str) -> bool:
    """Whether a service can be opened, used and closed at all."""
    command = [sys.executable, "-W", "ignore", __file__, "--works", backend, name]
    done = subprocess.run(command, capture_output=True, timeout=10, check=False)
    if done.returncode != 0:
        print(f"{name} does not work on {backend}: skipped")
    return done.returncode == 0


def try_here(backend: str, name: str) -> None:
    """Open a service, use it and close it."""
    log = Log()
    anyio.run(LIBRARIES[name]().run, {First: log.factory(First)}, nothing, backend=backend)
    assert log.closed == ["First"]


def installed() -> list[str]:
    """The libraries that are there; what is not is said."""
    found = []
    for name, library in LIBRARIES.items():
        try:
            import_module(library.module)
            found.append(name)
        except ImportError:  # noqa: PERF203  seven of them
            print(f"{name} is not installed: skipped")
    return found


def main() -> None:
    """Print a table for each backend."""
    parser = argparse.ArgumentParser(description="What containers do when it gets difficult.")
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--works", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        run_here(*options.probe)
    elif options.works:
        try_here(*options.works)
    else:
        print(versions(("svcs", "dishka", "wireup", "that-depends", "fastapi")))
        names = installed()
        for backend in ("asyncio", "trio"):
            table(backend, [name for name in names if works(backend, name)])


if __name__ == "__main__":
    main()
