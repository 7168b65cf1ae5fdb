"""Services: what a scope makes on first use and closes at its end (S14, V1-V7, V9, V10, V12)."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import functools
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import pytest

from anyscope import (
    Disposed,
    Hooks,
    Key,
    NoCurrentScope,
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    ServiceCycle,
    ServiceExists,
    ServiceNotFound,
    ServiceNotReady,
    current_scope,
    each,
    scope,
    use,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


class Boom(Exception):
    """An error of a user's function."""


class Database:
    """A service."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append("database closed")


class Secret:
    """A value that nobody may look at."""

    def __repr__(self) -> str:
        raise AssertionError("the value was shown")

    def __str__(self) -> str:
        raise AssertionError("the value was shown")

    def __format__(self, spec: str) -> str:
        raise AssertionError("the value was shown")


class Sender(Protocol):
    """A Protocol as key."""

    def send(self, text: str) -> str: ...


class Store(abc.ABC):
    """An abstract class as key."""

    @abc.abstractmethod
    def load(self) -> str: ...


class Log:
    """What was opened and closed, in order; and factories that write it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def make(self, name: str, *needs: str) -> Callable[[], AsyncIterator[str]]:
        async def factory() -> AsyncIterator[str]:
            for need in needs:
                await use(need)
            self.lines.append(f"open {name}")
            try:
                yield name
            finally:
                await anyio.lowlevel.checkpoint()
                self.lines.append(f"close {name}")

        return factory

    def plain(self, name: str) -> Callable[[], str]:
        def factory() -> str:
            self.lines.append(f"open {name}")
            return name

        return factory

    def close(self, name: str) -> None:
        self.lines.append(f"close {name}")


# ------------------------------------------------------------------ keys (V1)


async def test_keys_of_every_kind() -> None:
    """V1: a class, a Protocol, an abstract class, a Key and a string are keys."""

    class Mail:
        def send(self, text: str) -> str:
            return f"sent {text}"

    class Files(Store):
        def load(self) -> str:
            return "loaded"

    limit = Key[int]("limit")
    app = scope(name="app").provide(Database, Database).provide(Sender, Mail).provide(Store, Files)
    async with app.provide(limit, lambda: 3).provide("name", lambda: "anyscope") as s:
        assert isinstance(await s.use(Database), Database)
        assert (await s.use(Sender)).send("hello") == "sent hello"
        assert (await s.use(Store)).load() == "loaded"
        assert await s.use(limit) == 3
        assert await s.use("name") == "anyscope"


async def test_keys_of_one_name_are_different() -> None:
    """V1: a Key is known by identity; a Key, a class and a string of one name are three keys."""
    first, second = Key[int]("Database"), Key[int]("Database")
    app = scope().provide_value(first, 1).provide_value(second, 2).provide_value("Database", 3)
    async with app.provide(Database, Database) as s:
        assert [await s.use(first), await s.use(second), await s.use("Database")] == [1, 2, 3]
        assert isinstance(await s.use(Database), Database)


async def test_a_generic_class_is_a_key() -> None:
    """V1: a generic class without its parameter is a class like any other."""

    class Repo(contextlib.AbstractContextManager[int]):
        def __exit__(self, *args: object) -> None: ...

    async with scope().provide(Repo, Repo) as s:
        assert isinstance(await s.use(Repo), Repo)


REFUSED: list[tuple[object, str]] = [
    (list[int], "list[int]"),
    (None, "a value of type NoneType"),
    (3, "a value of type int"),
    ([], "a value of type list"),
    (("db", 1), "a value of type tuple"),
]


@pytest.mark.parametrize(("key", "shown"), REFUSED, ids=[shown for _, shown in REFUSED])
async def test_what_is_no_key(key: Any, shown: str) -> None:
    """V1, S12: anything else is refused with what to write instead, by every method alike."""
    text = (
        f"a service key must be a class, a Key or a str, got {shown}\n"
        'Right: THIS = Key[type_of_the_service]("name"), once, and then provide(THIS, ...) and use(THIS)'
    )
    async with scope(name="app") as s:
        calls: list[Callable[[], object]] = [
            lambda: s.provide(key, Database),
            lambda: s.provide_value(key, 1),
            lambda: s.provides(key),
            lambda: s.override(key, Database),
            lambda: s.use_nowait(key),
            lambda: s.has(key),
        ]
        for call in calls:
            with pytest.raises(TypeError) as caught:
                call()
            assert str(caught.value) == text
        for asking in (s.use(key), s.use(key, None), use(key)):
            with pytest.raises(TypeError) as caught:
                await asking
            assert str(caught.value) == text
        assert s.tree() == "scope app open"


async def test_an_empty_string_is_no_key() -> None:
    """V1, S12: an empty name says nothing."""
    with pytest.raises(ValueError, match="a service key"):
        scope().provide("", Database)


async def test_an_unhashable_key_after_others() -> None:
    """V1: a key that no dict can be asked for is told as such, also where there are services."""
    async with scope().provide_value("x", 1) as s:
        with pytest.raises(TypeError, match="a service key must be a class"):
            await s.use([])  # type: ignore[call-overload]


def test_key_repr() -> None:
    """V1: a Key shows its name."""
    assert repr(Key[int]("limit")) == "Key('limit')"
    assert Key[int]("limit").name == "limit"


# ------------------------------------------------------------------ providing (V1)


async def test_provide_chains_and_gives_the_scope() -> None:
    """V1: every way of providing gives the scope back, before and after entry."""
    s = scope(name="app")
    assert s.provide("a", lambda: 1) is s
    assert s.provide_value("b", 2) is s
    assert s.override("a", lambda: 10) is s
    async with s as entered:
        assert entered is s
        assert s.provide("c", lambda: 3).provide_value("d", 4) is s
        assert [await s.use(key) for key in "abcd"] == [10, 2, 3, 4]


async def test_provides_decorates() -> None:
    """V1: `@s.provides(key)` gives the function back, and what it yields is the service."""
    log: list[str] = []
    s = scope(name="app")

    @s.provides("early")
    def early() -> str:
        return "early"

    async with s:

        @s.provides("late")
        async def late() -> AsyncIterator[str]:
            yield "late"
            log.append("closed")

        assert early() == "early"
        assert (await s.use("early"), await s.use("late")) == ("early", "late")
    assert log == ["closed"]


async def test_a_value_is_never_called() -> None:
    """V1: provide_value gives what it was given, also a function, a class, a coroutine function, or None."""

    async def function() -> None: ...

    values: dict[str, Any] = {"f": function, "c": Database, "n": None, "l": anyio.Lock(), "x": print}
    s = scope()
    for key, value in values.items():
        s.provide_value(key, value)
    async with s:
        for key, value in values.items():
            assert await s.use(key) is value
            assert s.use_nowait(key) is value


async def test_a_value_is_closed_with_the_scope() -> None:
    """V1, V5: the value's close runs, plain or async, also when nobody used it; and only after entry."""
    log: list[str] = []
    database = Database(log)
    async with scope().provide_value(Database, database, Database.aclose).provide_value("x", "x", log.append) as s:
        s.provide_value("y", "y", log.append)
        assert log == []
    assert log == ["y", "x", "database closed"]
    scope().provide_value("z", "z", log.append)
    assert len(log) == 3


async def test_none_is_a_service() -> None:
    """V2, V3: a factory may give None, once."""
    log: list[int] = []
    async with scope().provide("none", lambda: log.append(1)) as s:
        assert await s.use("none") is None
        assert await s.use("none", "default") is None
        assert s.use_nowait("none") is None
    assert log == [1]


async def coroutine() -> None: ...


async def test_refused_factories() -> None:
    """V1, S12: what cannot make a service is told at the call, and nothing has changed."""
    s = scope(name="app")
    with pytest.raises(TypeError) as caught:
        s.provide("db", 3)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "s.provide('db', ...): expected a function that makes it, got int\n"
        "Right: s.provide('db', factory), or for what exists already s.provide_value('db', value)"
    )
    with pytest.raises(TypeError) as caught:
        s.provide("db", coroutine())  # type: ignore[arg-type]
    assert str(caught.value) == (
        "s.provide('db', coroutine(...)): expected a function, got a coroutine object\n"
        "Wrong: s.provide('db', coroutine(x))\n"
        "Right: s.provide('db', functools.partial(coroutine, x))"
    )
    with pytest.raises(TypeError) as caught:
        s.provide("db", Database, 3)  # type: ignore[call-overload]
    assert str(caught.value) == (
        "s.provide('db', ...): close must be a function or None, got int\n"
        "Right: s.provide('db', factory, close=lambda value: value.aclose())"
    )
    with pytest.raises(TypeError) as caught:
        s.provide_value("db", 1, 3)  # type: ignore[call-overload]
    assert str(caught.value) == (
        "s.provide_value('db', ...): close must be a function or None, got int\n"
        "Right: s.provide_value('db', factory, close=lambda value: value.aclose())"
    )
    async with s:
        assert not s.has("db")


async def test_close_together_with_a_context_manager() -> None:
    """V4, S12: a generator closes by itself, so a close= beside it is a mistake."""

    async def database() -> AsyncIterator[int]:
        yield 1

    text = (
        "s.provide('db', ...): a context manager closes what it gives by itself, and close= was given too\n"
        "Right: put the closing after its `yield`, or into its __aexit__"
    )
    for call in (
        lambda: scope().provide("db", database, print),
        lambda: scope().provide("db", contextlib.asynccontextmanager(database), print),
        lambda: scope().provide("db", anyio.Lock, print, enter=True),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == text
    async with scope().provide("db", lambda: database(), print) as s:
        with pytest.raises(TypeError, match="a context manager closes what it gives by itself"):
            await s.use("db")


async def test_eager_and_unshared_contradict() -> None:
    """V3, V9: eager=True together with shared=False is refused."""
    with pytest.raises(ValueError, match="eager") as caught:
        scope().provide("db", Database, eager=True, shared=False)
    assert str(caught.value) == (
        "s.provide('db', ...): eager=True makes the one service of this scope, shared=False one for each scope that "
        "asks\nRight: one of the two"
    )


async def test_eager_after_entry() -> None:
    """V3, S12: what is made at entry cannot be provided afterwards."""
    async with scope(name="app") as s:
        with pytest.raises(ScopeMisuse) as caught:
            s.provide("db", Database, eager=True)
        assert str(caught.value) == (
            "scope app: provide('db', eager=True) came after it was entered\n"
            "It is made at entry. Right: s.provide('db', ...) and then await s.use(...)"
        )
        assert not s.has("db")


async def test_before_entry_and_after_the_end() -> None:
    """V2, S12: a scope gives services between entry and end; it takes them from the start."""
    s = scope(name="app").provide("db", Database)
    with pytest.raises(ScopeMisuse) as caught:
        await s.use("db")
    assert str(caught.value) == (
        "scope app: use('db') came before it was entered\nEnter it first: async with scope(...) as s:"
    )
    with pytest.raises(ScopeMisuse, match=r"use_nowait\('db'\) came before it was entered"):
        s.use_nowait("db")
    async with s:
        await s.use("db")
    with pytest.raises(ScopeClosed, match=r"scope app is closed: use\('db'\) came too late"):
        await s.use("db")
    with pytest.raises(ScopeClosed, match=r"scope app is closed: use_nowait\('db'\) came too late"):
        s.use_nowait("db")
    for call in (lambda: s.provide("x", Database), lambda: s.provide_value("x", 1), lambda: s.override("db", Database)):
        with pytest.raises(ScopeClosed, match="scope app is closed"):
            call()


async def test_after_the_end_also_after_many_uses() -> None:
    """V2: the short way to a service that was used often ends with the scope too, from a grandchild as well."""
    async with scope(name="app").provide("db", lambda: 1) as s:
        async with scope(name="child") as child:
            for _ in range(30):
                assert await child.use("db") == 1
        with pytest.raises(ScopeClosed, match="scope app > child is closed"):
            await child.use("db")
        for _ in range(30):
            assert await s.use("db") == 1
    with pytest.raises(ScopeClosed, match="scope app is closed"):
        await s.use("db")


# ------------------------------------------------------------------ factories (V4)


class Manager:
    """A context manager of both kinds, and awaitable too."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __enter__(self) -> str:
        self.log.append("plain enter")
        return "plain"

    def __exit__(self, *args: object) -> None:
        self.log.append("plain exit")

    async def __aenter__(self) -> str:
        await anyio.lowlevel.checkpoint()
        self.log.append("async enter")
        return "async"

    async def __aexit__(self, *args: object) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append("async exit")

    def __await__(self) -> Generator[Any, Any, str]:
        yield from anyio.lowlevel.checkpoint().__await__()
        self.log.append("awaited")
        return "awaited value"


class PlainOnly:
    """A sync context manager."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __enter__(self) -> str:
        self.log.append("enter")
        return "entered"

    def __exit__(self, *args: object) -> None:
        self.log.append("exit")


async def test_factories_that_give_a_value() -> None:
    """V4: a plain function, a lambda, a class, a partial, a bound method and an object with __call__."""

    class Maker:
        def __call__(self) -> str:
            return "called"

        def make(self) -> str:
            return "bound"

    factories: list[Callable[[], Any]] = [
        lambda: "lambda",
        functools.partial("{}".format, "partial"),
        Maker(),
        Maker().make,
        Database,
    ]
    s = scope()
    for number, factory in enumerate(factories):
        s.provide(f"{number}", factory)
    async with s:
        values = [await s.use(f"{number}") for number in range(len(factories))]
    assert values[:4] == ["lambda", "partial", "called", "bound"]
    assert isinstance(values[4], Database)


async def test_factories_that_are_awaited() -> None:
    """V4: an async function, a partial of one, an async __call__, and a lambda that gives an awaitable."""

    async def make(text: str = "async") -> str:
        await anyio.lowlevel.checkpoint()
        return text

    class Maker:
        async def __call__(self) -> str:
            return await make("called")

    log: list[str] = []
    app = scope().provide("a", make).provide("b", functools.partial(make, "partial")).provide("c", Maker())
    async with app.provide("d", lambda: make("lambda")).provide("e", lambda: Manager(log)) as s:
        assert [await s.use(key) for key in "abcd"] == ["async", "partial", "called", "lambda"]
        assert await s.use("e") == "awaited value"
    assert log == ["awaited"]


async def test_generators_are_entered_and_left() -> None:
    """V4: a generator and an async generator function, partials of them, and those of contextlib."""
    log: list[str] = []

    def plain(name: str = "plain") -> Iterator[str]:
        yield name
        log.append(name)

    async def slow(name: str = "slow") -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        yield name
        await anyio.lowlevel.checkpoint()
        log.append(name)

    factories: list[Callable[[], Any]] = [
        plain,
        slow,
        functools.partial(plain, "partial"),
        functools.partial(slow, "slow partial"),
        lambda: slow("lambda"),
        contextlib.contextmanager(functools.partial(plain, "contextmanager")),
        contextlib.asynccontextmanager(functools.partial(slow, "asynccontextmanager")),
    ]
    s = scope()
    for number, factory in enumerate(factories):
        s.provide(f"{number}", factory)
    async with s:
        values = [await s.use(f"{number}") for number in range(len(factories))]
        assert log == []
    names = ["plain", "slow", "partial", "slow partial", "lambda", "contextmanager", "asynccontextmanager"]
    assert values == names
    assert log == names[::-1]


async def test_a_lock_is_not_entered_unasked() -> None:
    """V4: other context managers are plain values, unless enter=True says otherwise."""
    log: list[str] = []
    async with scope().provide("lock", anyio.Lock).provide("plain", lambda: PlainOnly(log)) as s:
        lock = await s.use("lock")
        assert not lock.locked()
        assert isinstance(await s.use("plain"), PlainOnly)
    assert log == []


async def test_enter_enters_what_it_is_given() -> None:
    """V4: enter=True enters a plain, an async, and an awaited context manager, and leaves it at the end."""
    log: list[str] = []

    async def later() -> PlainOnly:
        await anyio.lowlevel.checkpoint()
        return PlainOnly(log)

    app = scope().provide("plain", lambda: PlainOnly(log), enter=True).provide("lock", anyio.Lock, enter=True)
    async with app.provide("both", lambda: Manager(log), enter=True).provide("later", later, enter=True) as s:
        assert await s.use("plain") == "entered"
        assert await s.use("both") == "async"
        assert await s.use("later") == "entered"
        assert await s.use("lock") is None
        assert log == ["enter", "async enter", "enter"]
    assert log[3:] == ["exit", "async exit", "exit"]


async def test_enter_of_a_generator_changes_nothing() -> None:
    """V4: a generator function is entered in any case."""
    log = Log()
    async with scope().provide("x", log.make("x"), enter=True) as s:
        assert await s.use("x") == "x"
    assert log.lines == ["open x", "close x"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_enter_of_what_is_no_context_manager(is_async: bool) -> None:
    """V4: enter=True where there is nothing to enter is told by the type alone."""

    async def slow() -> Secret:
        return Secret()

    async with scope().provide("x", slow if is_async else Secret, enter=True) as s:
        with pytest.raises(TypeError) as caught:
            await s.use("x")
        assert str(caught.value) == (
            "service 'x': enter=True, but the factory gave Secret, which is no context manager\n"
            "Right: s.provide('x', factory), and close=... to close it"
        )


async def test_a_generator_that_yields_nothing() -> None:
    """V4: a generator that ends without a yield fails the use, and nothing hangs."""

    async def nothing() -> AsyncIterator[int]:
        return
        yield

    async with scope().provide("x", nothing) as s:
        with pytest.raises(RuntimeError, match="didn't yield"):
            await s.use("x")


async def test_a_generator_that_yields_twice() -> None:
    """V4, V5: a second yield is an error of its closing, told by the scope."""

    async def twice() -> AsyncIterator[int]:
        yield 1
        yield 2

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("x", twice) as s:
            assert await s.use("x") == 1
    assert [str(error) for error in caught.value.exceptions] == ["generator didn't stop"]
    assert caught.value.exceptions[0].__notes__ == ["in clean-up service 'x' (#0) of app"]


async def test_entered_and_left_in_one_task() -> None:
    """V4: a task group and a cancel scope across the yield, asked for by a child's task that has ended since."""
    log: list[str] = []

    async def beat() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("beat ended")

    async def service() -> AsyncIterator[str]:
        with anyio.fail_after(1000):
            async with anyio.create_task_group() as group:
                group.start_soon(beat)
                yield "beating"
                group.cancel_scope.cancel()
        log.append("left")

    async def ask() -> str:
        async with scope(name="child"):
            value: str = await use("heart")
            return value

    async with scope(name="app").provide("heart", service) as s:
        assert await s.task(ask).unwrap() == "beating"
        assert log == []
    assert log == ["beat ended", "left"]


async def test_a_scope_across_the_yield() -> None:
    """V4, S9: a service may hold a scope of its own open, whose tasks use what was made before."""
    log: list[str] = []

    async def work() -> None:
        assert await use("config") == "config"
        try:
            await anyio.sleep_forever()
        finally:
            log.append("work ended")

    async def service() -> AsyncIterator[Scope]:
        await use("config")
        async with scope(name="inner") as inner:
            inner.start_soon(work, daemon=True)
            yield inner
        log.append("inner left")

    app = scope(name="app").provide("config", lambda: "config", lambda _: log.append("config closed"))
    async with app.provide("worker", service) as s:
        inner = await s.use("worker")
        assert inner.path == "app > inner"
        assert inner.parent is s
        await anyio.lowlevel.checkpoint()
    assert log == ["work ended", "inner left", "config closed"]
    assert inner.closed


# ------------------------------------------------------------------ where it is made (V3)


async def test_made_in_the_context_of_the_provider() -> None:
    """V3: context variables and current scope are the provider's, whichever task and scope asks."""
    seen: list[tuple[str, str, str]] = []
    left: list[str] = []

    def note(kind: str) -> str:
        seen.append((kind, WHERE.get(), current_scope().path))
        return kind

    async def slow() -> str:
        return note("async")

    async def generator() -> AsyncIterator[str]:
        yield note("generator")
        left.append(WHERE.get())

    async def ask() -> None:
        WHERE.set("request")
        async with scope(name="request") as request:
            for key in ("plain", "async", "generator"):
                await request.use(key)

    WHERE.set("app")
    app = scope(name="app").provide("plain", lambda: note("plain")).provide("async", slow)
    async with app.provide("generator", generator) as s:
        WHERE.set("body")
        await s.task(ask).unwrap()
    assert seen == [(kind, "app", "app") for kind in ("plain", "async", "generator")]
    assert left == ["app"]


async def test_made_in_the_context_of_the_provider_although_provided_later() -> None:
    """V3: the context is the one that the scope was entered with, not that of a request which came first."""

    async def request() -> None:
        WHERE.set("request 1")
        current_scope().provide("x", WHERE.get)

    WHERE.set("app")
    async with scope(name="app") as s:
        await s.task(request).unwrap()
        s.provide("y", WHERE.get)
        assert await s.use("y") == "app"


async def test_unshared_made_in_the_context_of_the_asking_scope() -> None:
    """V3, V9: the asking scope's own instance is made in that scope's context, not in that of one of its tasks."""

    async def task() -> str:
        WHERE.set("one task")
        value: str = await use("x")
        return value

    WHERE.set("app")
    async with scope(name="app").provide("x", WHERE.get, shared=False), scope(name="request") as request:
        assert await request.task(task).unwrap() == "app"


async def test_context_variables_of_a_factory_stay_there() -> None:
    """V3: what a factory sets is seen neither by the next one nor by who asks."""
    seen: list[str] = []

    def first() -> None:
        WHERE.set("first")

    async def second() -> None:
        seen.append(WHERE.get())
        WHERE.set("second")

    async with scope().provide("a", first).provide("b", second).provide("c", lambda: seen.append(WHERE.get())) as s:
        for key in "abc":
            await s.use(key)
    assert seen == ["nowhere", "nowhere"]
    assert WHERE.get() == "nowhere"


async def test_tasks_of_a_factory_belong_to_the_provider() -> None:
    """V3: `current_scope().task(...)` in a factory is the provider's task, and outlives the scope that asked."""
    log: list[str] = []
    go = anyio.Event()

    async def work() -> None:
        await go.wait()
        log.append(current_scope().path)

    async def service() -> str:
        current_scope().task(work)
        return "x"

    async with scope(name="app").provide("x", service):
        async with scope(name="child"):
            await use("x")
        assert log == []
        go.set()
    assert log == ["app"]


async def test_what_a_service_needs_is_looked_up_from_its_own_scope() -> None:
    """V3, V6: a factory sees what its scope sees, not what the one who asks shadows."""

    async def repo() -> str:
        return f"repo on {await use('db')}"

    async with scope(name="app").provide("db", lambda: "app's db").provide("repo", repo) as app:
        child = scope(name="child").provide("db", lambda: "child's db")
        async with child:
            assert await child.use("repo") == "repo on app's db"
            assert await child.use("db") == "child's db"
            assert await app.use("db") == "app's db"


# ------------------------------------------------------------------ looking up (V2, V6)


async def test_the_forms_of_use() -> None:
    """V2: s.use, use, use_nowait and has agree."""
    async with scope(name="app").provide("db", Database) as s:
        assert s.has("db")
        assert not s.has("other")
        with pytest.raises(ServiceNotReady) as caught:
            s.use_nowait("db")
        assert str(caught.value) == (
            "service 'db' of app has not been created yet\n"
            "Right: await s.use('db'), or provide it with eager=True to have it from the start."
        )
        assert (caught.value.key, caught.value.path, caught.value.state) == ("'db'", "app", "declared")
        value = await s.use("db")
        assert value is await use("db")
        assert value is s.use_nowait("db")
        assert value is await s.use("db", None)
        async with scope(name="child") as child:
            assert child.has("db")
            assert value is child.use_nowait("db")


async def test_use_without_a_scope() -> None:
    """V2, S11: `use` outside any scope says so."""
    with pytest.raises(NoCurrentScope, match=r"use\('db'\)"):
        await use("db")


async def test_defaults() -> None:
    """V2: the default is for what nobody provides; an error of a factory is an error."""

    async def broken() -> None:
        raise Boom

    async with scope().provide("broken", broken) as s:
        assert await s.use("x", None) is None
        assert await s.use("x", 3) == 3
        assert await use("x", "default") == "default"
        with pytest.raises(Boom):
            await s.use("broken", None)
        with pytest.raises(ServiceNotFound):
            s.use_nowait("x")


async def test_a_live_chain() -> None:
    """V2, S9: what the parent provides later is seen by children that are open already, and grandchildren."""
    async with scope(name="app") as app, scope(name="a") as a, scope(name="b") as b:
        assert not b.has("late")
        app.provide("late", lambda: "late")
        assert b.has("late")
        assert await b.use("late") == "late"
        a.provide_value("middle", 2)
        assert await b.use("middle") == 2
        assert not app.has("middle")


async def test_a_nearer_one_provided_later_wins() -> None:
    """V2, V6: nearest first, live, also after many uses of the one above."""
    async with scope().provide_value("x", "app"), scope() as middle, scope() as inner:
        for _ in range(20):
            assert await inner.use("x") == "app"
        middle.provide_value("x", "middle")
        assert await inner.use("x") == "middle"
        inner.provide_value("x", "inner")
        assert await inner.use("x") == "inner"


async def test_shadowing() -> None:
    """V6: a child's own is for itself and below; parent and siblings keep theirs."""
    async with scope(name="app").provide("x", lambda: "app") as app:
        async with scope().provide("x", lambda: "child") as child, scope() as grandchild:
            assert [await s.use("x") for s in (grandchild, child, app)] == ["child", "child", "app"]
        async with scope() as sibling:
            assert await sibling.use("x") == "app"


async def test_decorating_the_service_above() -> None:
    """V6, V7: a child's factory builds on the parent's service of the same key."""

    async def loud() -> str:
        above = current_scope().parent
        assert above is not None
        return f"{await above.use('x')}!"

    async with scope().provide("x", lambda: "hello"), scope().provide("x", loud) as child:
        assert await child.use("x") == "hello!"


async def test_a_root_and_a_signal_inherit_nothing() -> None:
    """V2, S10: parent=None and signal= cut the chain; parent= names it."""
    async with scope().provide_value("x", 1) as app:
        async with scope(parent=None) as root:
            assert not root.has("x")
        async with scope(signal=app.signal) as follower:
            assert not follower.has("x")
        async with scope(parent=None), scope(parent=app) as child:
            assert await child.use("x") == 1


# ------------------------------------------------------------------ twice (V6)


async def test_the_same_key_twice() -> None:
    """V6: refused with the remedy, and the first one stays."""
    async with scope(name="app").provide("db", lambda: 1) as s:
        for call in (
            lambda: s.provide("db", lambda: 2),
            lambda: s.provide_value("db", 2),
            lambda: s.provides("db")(lambda: 2),
        ):
            with pytest.raises(ServiceExists) as caught:
                call()
            assert str(caught.value) == (
                "service 'db' of app is already provided there\n"
                "To replace it before its first use: s.provide('db', factory, replace=True)"
            )
            assert (caught.value.state, caught.value.holders) == ("declared", ())
        assert await s.use("db") == 1


async def test_replace_before_and_after_the_first_use() -> None:
    """V6: replace=True works until somebody has it; then the error names who."""
    async with scope(name="app").provide("db", lambda: 1) as s:
        s.provide("db", lambda: 2, replace=True)

        async def handler() -> int:
            value: int = await use("db")
            return value

        assert await s.task(handler).unwrap() == 2
        assert await s.use("db") == 2
        with pytest.raises(ServiceExists) as caught:
            s.provide("db", lambda: 3, replace=True)
        assert str(caught.value) == (
            "service 'db' of app has already been created (ready), and held by task handler (#0) of app, "
            "the body of app\n"
            "Replace a service before its first use; or shadow it in a child scope, for that one alone."
        ) or str(caught.value) == (
            "service 'db' of app has already been created (ready), and held by handler (#0) of app, the body of app\n"
            "Replace a service before its first use; or shadow it in a child scope, for that one alone."
        )
        assert await s.use("db") == 2


async def test_replace_a_value() -> None:
    """V6: a value that nobody has used may be replaced; its close runs all the same, for it exists."""
    log: list[object] = []
    async with scope().provide_value("x", 1, log.append).provide("x", lambda: 2, log.append, replace=True) as s:
        assert await s.use("x") == 2
    assert sorted(log) == [1, 2]  # type: ignore[type-var]
    async with scope(name="app").provide_value("x", 1) as s:
        assert await s.use("x") == 1
        with pytest.raises(ServiceExists, match=r"held by the body of app"):
            s.provide("x", lambda: 2, replace=True)


async def test_replace_after_a_failed_build() -> None:
    """V6: a build that failed has made nothing, so another factory may take its place."""

    async def broken() -> None:
        raise Boom

    async with scope().provide("x", broken) as s:
        with pytest.raises(Boom):
            await s.use("x")
        s.provide("x", lambda: 2, replace=True)
        assert await s.use("x") == 2


async def test_replace_what_is_not_there() -> None:
    """V6: replace=True is a permission and not a demand."""
    async with scope().provide("x", lambda: 1, replace=True) as s:
        assert await s.use("x") == 1


# ------------------------------------------------------------------ missing (V7)


async def not_found(s: Scope, key: Any) -> ServiceNotFound:
    with pytest.raises(ServiceNotFound) as caught:
        await s.use(key)
    assert isinstance(caught.value, LookupError)
    with pytest.raises(ServiceNotFound) as again:
        s.use_nowait(key)
    assert str(again.value) == str(caught.value)
    return caught.value


async def test_missing() -> None:
    """V7: key, path, what is there."""
    async with scope(name="app").provide_value("config", 1).provide(Database, Database), scope(name="request") as s:
        error = await not_found(s, "mailer")
        assert str(error) == (
            "no service 'mailer' in app > request\n"
            "  app > request provides nothing\n"
            "  app provides 'config', Database\n"
            "Provide it in the scope that is to own it: s.provide('mailer', factory)"
        )
        assert (error.key, error.path, error.needed_by) == ("'mailer'", "app > request", "")
        assert error.searched == (("app > request", ()), ("app", ("'config'", "Database")))
        assert error.hints == ()


async def hints(s: Scope, key: Any) -> tuple[str, ...]:
    return (await not_found(s, key)).hints


async def test_missing_misspelt() -> None:
    """V7: a near miss in spelling."""
    async with scope(name="app").provide_value("database", 1) as s:
        assert await hints(s, "databse") == ("Did you mean 'database', which app provides?",)


async def test_missing_but_a_relative_is_there() -> None:
    """V7: a subclass and a base class."""

    class Postgres(Database):
        pass

    async with scope(name="app").provide(Postgres, Postgres) as s:
        assert await hints(s, Database) == ("app provides Postgres, a subclass of Database: provide it as Database",)
    async with scope(name="app").provide(Database, Database) as s:
        assert await hints(s, Postgres) == ("app provides Database, a base class of Postgres: ask for that",)


async def test_missing_but_a_namesake_is_there() -> None:
    """V7: another Key of that name, a class of another module, and another kind of key."""
    other = type("Database", (), {"__module__": "elsewhere"})
    async with scope(name="app").provide_value(Key[int]("limit"), 1) as s:
        assert await hints(s, Key[int]("limit")) == (
            "app provides another Key('limit'): a Key is known by identity, so share the object",
        )
        assert await hints(s, "limit") == ("app provides Key('limit'), which is another kind of key",)
    async with scope(name="app").provide(other, other) as s:
        assert await hints(s, Database) == (f"app provides Database of module elsewhere, not of {Database.__module__}",)
        assert await hints(s, "Database") == ("app provides Database, which is another kind of key",)


async def test_missing_but_provided_below() -> None:
    """V7: a scope below has it."""
    async with scope(name="app") as app, scope(name="middle"), scope(name="request").provide_value("user", 1):
        assert await hints(app, "user") == (
            "app > middle > request provides it, but a scope sees only what it and the scopes above it provide",
        )


@pytest.mark.parametrize("kind", ["plain", "async", "generator", "parallel"])
async def test_missing_and_needed_by(kind: str) -> None:
    """V7: who needs it is named, whatever kind of factory asks."""

    def plain() -> object:
        return current_scope().use_nowait("db")

    async def slow() -> object:
        return await use("db")

    async def generator() -> AsyncIterator[object]:
        yield await use("db")

    async def parallel() -> object:
        (result,) = await current_scope().parallel([functools.partial(use, "db")])
        return result.unwrap()

    factories: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "async": slow,
        "generator": generator,
        "parallel": parallel,
    }
    async with scope(name="app").provide("repo", factories[kind]), scope(name="request") as s:
        with pytest.raises(ServiceNotFound) as caught:
            await s.use("repo")
        assert caught.value.needed_by == "service 'repo' of app"
        assert str(caught.value) == (
            "no service 'db' in app, needed by service 'repo' of app\n"
            "  app provides 'repo'\n"
            "Provide it in the scope that is to own it: s.provide('db', factory)"
        )


async def test_captive_dependency() -> None:
    """V7: an application's service cannot get hold of a request's; the message says where it is."""

    async def mailer() -> object:
        return await use("session")

    async with scope(name="app").provide("mailer", mailer), scope(name="request").provide_value("session", 1) as s:
        with pytest.raises(ServiceNotFound) as caught:
            await s.use("mailer")
        assert caught.value.hints == (
            "app > request provides it, but a scope sees only what it and the scopes above it provide",
        )


# ------------------------------------------------------------------ eager (V3)


async def test_eager_in_order() -> None:
    """V3: made at entry, in the order of the calls; lazy ones are not."""
    log = Log()
    app = scope(name="app").provide("b", log.make("b"), eager=True).provide("lazy", log.make("lazy"))
    async with app.provide("a", log.plain("a"), log.close, eager=True) as s:
        assert log.lines == ["open b", "open a"]
        assert s.use_nowait("b") == "b"
        assert s.use_nowait("a") == "a"
    assert log.lines == ["open b", "open a", "close a", "close b"]


async def test_eager_needs_another() -> None:
    """V3, V5: what an eager one needs is made first, and closed after it, whatever the order of the calls."""
    log = Log()
    app = scope().provide("repo", log.make("repo", "db"), eager=True).provide("db", log.make("db"), eager=True)
    async with app:
        pass
    assert log.lines == ["open db", "open repo", "close repo", "close db"]


async def test_eager_fails() -> None:
    """V3: that very error leaves the entry, what was opened is closed, the rest is not begun."""
    log = Log()
    error = Boom("no connection")
    seen: list[object] = []

    async def rolled_back() -> AsyncIterator[int]:
        try:
            yield 1
        except BaseException as caught:
            seen.append(caught)
            raise
        finally:
            log.lines.append("rolled back")

    async def broken() -> None:
        raise error

    app = scope(name="app").provide("a", log.plain("a"), log.close, eager=True)
    app.provide("b", rolled_back, eager=True).provide("c", broken, eager=True).provide("d", log.make("d"), eager=True)
    with pytest.raises(Boom) as caught:
        async with app:
            pytest.fail("the body ran")
    assert caught.value is error
    assert seen == [error]
    assert log.lines == ["open a", "rolled back", "close a"]
    assert app.closed
    with pytest.raises(NoCurrentScope):
        current_scope()


async def test_eager_fails_in_a_child() -> None:
    """V3, S9: a child whose entry failed leaves nothing behind in its parent."""

    def broken() -> None:
        raise Boom

    async with scope(name="app") as s:
        with pytest.raises(Boom):
            async with scope(name="child").provide("x", broken, eager=True):
                pytest.fail("the body ran")
        assert s.tree() == "scope app open"
        assert current_scope() is s


async def test_eager_cycle() -> None:
    """V3, V7: a cycle among eager ones leaves the entry."""
    a, b = functools.partial(use, "b"), functools.partial(use, "a")
    with pytest.raises(ServiceCycle) as caught:
        async with scope(name="app").provide("a", a, eager=True).provide("b", b, eager=True):
            pytest.fail("the body ran")
    assert caught.value.ring == ("'b'", "'a'", "'b'")


@pytest.mark.virtual_time
async def test_eager_and_a_deadline() -> None:
    """V3, S6: the timeout counts from entry, so it may strike while an eager one is made."""
    log = Log()
    app = scope(name="app", timeout=3).provide("a", log.make("a"), eager=True)
    with pytest.raises(ScopeTimeout, match="scope app ran over its timeout of 3 s"):
        async with app.provide("slow", anyio.sleep_forever, eager=True):
            pytest.fail("the body ran")
    assert anyio.current_time() == 3
    assert log.lines == ["open a", "close a"]


@pytest.mark.virtual_time
async def test_eager_and_a_cancellation_from_outside() -> None:
    """V3, S8: an outer cancel scope ends the entry, after closing what was opened."""
    log = Log()
    with anyio.move_on_after(3) as limit:
        async with scope().provide("a", log.make("a"), eager=True).provide("s", anyio.sleep_forever, eager=True):
            pytest.fail("the body ran")
    assert limit.cancelled_caught
    assert log.lines == ["open a", "close a"]


@pytest.mark.virtual_time
async def test_eager_and_its_own_cancel() -> None:
    """V3, S5: cancelled during entry there is no body to leave quietly, so it is told."""
    log = Log()

    async def gives_up() -> None:
        current_scope().cancel("no licence")
        await anyio.sleep_forever()

    app = scope(name="app").provide("a", log.make("a"), eager=True).provide("b", gives_up, eager=True)
    with pytest.raises(ScopeCancelled) as caught:
        async with app:
            pytest.fail("the body ran")
    assert str(caught.value) == "scope app was cancelled (no licence): entering it was cut off"
    assert log.lines == ["open a", "close a"]


# ------------------------------------------------------------------ order of closing (V5)


async def test_closed_last_created_first() -> None:
    """V5: the order of creation counts, not that of providing; unused ones are never made."""
    log = Log()
    app = scope()
    for name in ("a", "b", "c", "d"):
        app.provide(name, log.make(name))
    async with app as s:
        for name in ("c", "a", "b"):
            await s.use(name)
    assert log.lines == ["open c", "open a", "open b", "close b", "close a", "close c"]


async def test_closed_after_those_who_need_it() -> None:
    """V5: what a service needs is ready before it, and closed after it; to any depth."""
    log = Log()
    app = scope().provide("a", log.make("a", "b", "d")).provide("b", log.make("b", "c"))
    async with app.provide("c", log.make("c")).provide("d", log.make("d", "c")) as s:
        await s.use("a")
    assert log.lines == [f"open {name}" for name in "cbda"] + [f"close {name}" for name in "adbc"]


async def test_one_stack_for_everything() -> None:
    """S14, V5: services, values, entered context managers and clean-ups are closed in one order."""
    log = Log()

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        log.close("manager")

    async with scope().provide("plain", log.plain("plain"), log.close).provide("gen", log.make("gen")) as s:
        await s.use("plain")
        await s.enter(manager())
        s.on_exit(log.close, "clean-up")
        await s.use("gen")
        s.provide_value("value", "value", log.close)
    closes = [line for line in log.lines if line.startswith("close")]
    assert closes == ["close value", "close gen", "close clean-up", "close manager", "close plain"]


async def test_tasks_daemons_and_children_end_first() -> None:
    """V5, S2: nothing that could use a service runs when it is closed."""
    log = Log()

    async def task() -> None:
        await anyio.sleep(0.002)
        log.lines.append(f"task uses {await use('db')}")

    async def daemon() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.lines.append(f"daemon uses {await use('db')}")

    async def child() -> None:
        async with scope(name="child") as c:
            c.on_exit(lambda: log.lines.append(f"child's clean-up uses {c.use_nowait('db')}"))
            await anyio.sleep(0.01)

    async with scope().provide("db", log.make("db")) as s:
        s.start_soon(daemon, daemon=True)
        s.start_soon(child)
        s.task(task)
        await s.use("db")
    assert log.lines == [
        "open db",
        "task uses db",
        "child's clean-up uses db",
        "daemon uses db",
        "close db",
    ]


async def test_first_used_while_draining() -> None:
    """V3, V5: a task that outlives the body may still have a service made."""
    log = Log()
    go = anyio.Event()

    async def task() -> None:
        await go.wait()
        await anyio.lowlevel.checkpoint()
        await use("db")

    async with scope().provide("db", log.make("db")) as s:
        s.task(task)
        go.set()
    assert log.lines == ["open db", "close db"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_close_in_both_forms(is_async: bool) -> None:
    """V5: close may be plain or async; it is called once, with the value."""
    log: list[str] = []

    def close(value: str) -> None:
        log.append(value)

    async def slow_close(value: str) -> None:
        await anyio.lowlevel.checkpoint()
        close(value)

    async with scope(name="app").provide("x", lambda: "x", slow_close if is_async else close) as s:
        await s.use("x")
        await s.use("x")
    assert log == ["x"]


# ------------------------------------------------------------------ one for each scope (V9)


async def test_unshared_each_scope_has_its_own() -> None:
    """V9: provided once at the top, one for each scope that uses it, closed with that scope."""
    log: list[str] = []
    numbers = iter(range(1, 10))

    def session() -> str:
        name = f"session {next(numbers)} of {current_scope().name}"
        log.append(f"open {name}")
        return name

    async with scope(name="app").provide("s", session, lambda name: log.append(f"close {name}"), shared=False) as app:
        async with scope(name="a") as a:
            assert await a.use("s") == await use("s") == a.use_nowait("s") == "session 1 of a"
            async with scope(name="b") as b:
                assert await b.use("s") == "session 2 of b"
            assert log[-1] == "close session 2 of b"
            assert await a.use("s") == "session 1 of a"
        assert await app.use("s") == "session 3 of app"
        async with scope(name="unused"):
            pass
    assert log == [
        "open session 1 of a",
        "open session 2 of b",
        "close session 2 of b",
        "close session 1 of a",
        "open session 3 of app",
        "close session 3 of app",
    ]


async def test_unshared_is_never_another_scopes() -> None:
    """V9: use_nowait does not give the parent's instance, and `has` is true where it can be made."""
    async with scope(name="app").provide("s", object, shared=False) as app:
        own = await app.use("s")
        for _ in range(20):
            assert await app.use("s") is own
        async with scope(name="a") as a:
            assert a.has("s")
            with pytest.raises(ServiceNotReady, match="has not been created yet"):
                a.use_nowait("s")
            mine = await a.use("s")
            assert mine is not own
            assert a.use_nowait("s") is mine
            async with scope(name="b") as b:
                with pytest.raises(ServiceNotReady):
                    b.use_nowait("s")
                assert await b.use("s") not in (own, mine)


async def test_unshared_around_a_shared_one() -> None:
    """V9: sessions of requests around one database; what a session needs is looked up from the request."""
    log: list[str] = []

    async def session() -> AsyncIterator[str]:
        database, user = await use("db"), await use("user")
        yield f"{user} on {database}"
        log.append(f"{user} done")

    async def request(user: str) -> str:
        async with scope(name="request").provide_value("user", user):
            value: str = await use("session")
            assert await use("session") == value
            return value

    made: list[str] = []
    app = scope(name="app").provide("db", lambda: made.append("db") or "db", lambda _: log.append("db closed"))
    async with app.provide("session", session, shared=False) as s:
        results = await s.parallel(each(request, ["ann", "bob", "cid"]))
        assert [result.unwrap() for result in results] == ["ann on db", "bob on db", "cid on db"]
        with pytest.raises(ServiceNotFound) as caught:
            await s.use("session")
        assert caught.value.needed_by == "service 'session' of app"
    assert made == ["db"]
    assert sorted(log[:3]) == ["ann done", "bob done", "cid done"]
    assert log[3:] == ["db closed"]


async def test_unshared_needs_unshared() -> None:
    """V9: what an unshared one needs is the same scope's own."""

    class Unit:
        pass

    async def repo() -> tuple[str, Unit]:
        return current_scope().name, await use(Unit)

    provider = scope(name="app").provide(Unit, Unit, shared=False).provide("repo", repo, shared=False)
    async with provider as app, scope(name="a") as a:
        assert await a.use("repo") == ("a", await a.use(Unit))
        assert (await app.use("repo"))[1] is not await a.use(Unit)


async def test_unshared_single_flight_within_one_scope() -> None:
    """V3, V9: once per scope, however many ask there at the same time."""
    made: list[str] = []

    async def session() -> int:
        made.append(current_scope().name)
        await anyio.sleep(0.002)
        return len(made)

    async def request(name: str) -> None:
        async with scope(name=name) as s:
            values = await s.parallel([functools.partial(use, "session")] * 5)
            assert len({value.unwrap() for value in values}) == 1

    async with scope().provide("session", session, shared=False) as app:
        await app.parallel_aggregate(each(request, ["a", "b", "c"]))
    assert sorted(made) == ["a", "b", "c"]


async def test_unshared_fails_in_one_scope_alone() -> None:
    """V3, V9: a failing build in one scope is tried again there, and disturbs no other."""
    count = 0

    async def session() -> int:
        nonlocal count
        count += 1
        if count == 1:
            raise Boom
        return count

    async with scope().provide("session", session, shared=False), scope() as a, scope() as b:
        with pytest.raises(Boom):
            await a.use("session")
        assert await b.use("session") == 2
        assert await a.use("session") == 3


async def test_unshared_replaced_after_a_failed_build() -> None:
    """V6, V9: where a build below has failed and nothing was made, a replacement counts there too."""

    def broken() -> None:
        raise Boom

    async with scope(name="app").provide("x", broken, shared=False) as app, scope(name="child") as child:
        with pytest.raises(Boom):
            await child.use("x")
        app.provide("x", lambda: "new", shared=False, replace=True)
        assert await child.use("x") == "new"


async def test_unshared_may_be_shadowed_until_it_is_made() -> None:
    """V6, V9: a scope that has its own instance cannot provide the key; before, it can."""
    async with scope(name="app").provide("s", lambda: "own", shared=False), scope(name="child") as child:
        assert await child.use("s") == "own"
        with pytest.raises(ServiceExists, match="has already been created"):
            child.provide("s", lambda: "other")
        async with scope().provide("s", lambda: "other") as grandchild:
            assert await grandchild.use("s") == "other"


async def test_unshared_leaves_nothing_in_the_parent() -> None:
    """V9, S9: closed children leave no service behind above them."""
    async with scope(name="app").provide("s", lambda: 1, lambda _: None, shared=False) as app:
        for _ in range(200):
            async with scope() as s:
                await s.use("s")
        assert app.tree() == "scope app open\n  service 's' declared"
        assert app.statistics().clean_ups == 0


# ------------------------------------------------------------------ overriding (V10)


async def test_override_before_entry_and_after() -> None:
    """V10: another factory until the first use; eager stays eager, values too can be replaced."""
    log = Log()
    app = scope(name="app").provide("a", log.make("real a"), eager=True).provide("b", log.make("real b"))
    app.provide_value("c", "real c").override("a", log.make("fake a")).override("c", lambda: "fake c")
    async with app as s:
        assert log.lines == ["open fake a"]
        s.override("b", log.plain("fake b"), log.close)
        assert [await s.use(key) for key in "abc"] == ["fake a", "fake b", "fake c"]
    assert log.lines == ["open fake a", "open fake b", "close fake b", "close fake a"]


async def test_override_twice_and_with_enter() -> None:
    """V10: the last override counts."""
    log: list[str] = []
    app = scope().provide("x", lambda: 1).override("x", lambda: 2).override("x", lambda: PlainOnly(log), enter=True)
    async with app as s:
        assert await s.use("x") == "entered"
    assert log == ["enter", "exit"]


async def test_override_stays_unshared() -> None:
    """V9, V10: whether it is shared stays as it was."""
    app = scope().provide("x", lambda: 1, shared=False).override("x", object)
    async with app as a, scope() as b:
        assert await a.use("x") is not await b.use("x")


async def test_override_of_what_is_not_there() -> None:
    """V10: only in the scope that owns the key; the error says who does."""
    with pytest.raises(ServiceNotFound) as caught:
        scope(name="app").provide("db", Database).override("bd", Database)
    assert caught.value.path == "app"
    async with scope(name="app").provide("db", Database), scope(name="child") as child:
        with pytest.raises(ServiceNotFound) as caught:
            child.override("db", Database)
        assert str(caught.value) == (
            "no service 'db' in app > child\n"
            "  app > child provides nothing\n"
            "app provides it: override it there, or shadow it here with s.provide('db', factory)\n"
            "Provide it in the scope that is to own it: s.provide('db', factory)"
        )
        with pytest.raises(ServiceNotFound) as caught:
            child.override("nothing", Database)
        assert caught.value.hints == ("override() is for a service that the scope itself provides",)


async def test_override_of_a_misspelt_key() -> None:
    """V7, V10: near misses are told here too: a typo is what the strictness is for."""
    with pytest.raises(ServiceNotFound) as caught:
        scope(name="app").provide("database", Database).override("databse", Database)
    assert "Did you mean 'database', which app provides?" in caught.value.hints


async def test_override_after_its_first_use() -> None:
    """V10: refused, naming who holds it, tasks and services alike."""

    async def repo() -> object:
        return await use("db")

    async def handler() -> object:
        return await use("db")

    async with scope(name="app").provide("db", Database).provide("repo", repo) as s:
        await s.use("repo")
        await s.task(handler)
        async with scope(name="request"):
            await use("db")
        with pytest.raises(ServiceExists) as caught:
            s.override("db", Database)
    error = caught.value
    assert error.state == "ready"
    assert error.holders[0] == "service 'repo' of app"
    assert "handler (#0) of app" in error.holders[1]
    assert error.holders[2].startswith("the body of app")
    assert str(error).startswith("service 'db' of app has already been created (ready), and held by service 'repo' ")


async def test_override_after_use_nowait() -> None:
    """V10: whoever has an eager one or a value holds it too."""
    async with scope(name="app").provide_value("x", 1) as s:
        s.use_nowait("x")
        with pytest.raises(ServiceExists, match="held by the body of app"):
            s.override("x", lambda: 2)


async def test_override_of_an_unshared_one_after_its_first_use() -> None:
    """V9, V10: a scope below that has an instance already has used it, so it is too late."""
    async with scope(name="app").provide("x", lambda: "real", shared=False) as app, scope(name="child") as child:
        assert await child.use("x") == "real"
        with pytest.raises(ServiceExists):
            app.override("x", lambda: "fake")


async def test_holders_do_not_grow() -> None:
    """V10, law 7: who holds a service is known of the first few uses, not of 10^5."""

    async def handler() -> None:
        current_scope().use_nowait("x")

    async with scope(name="app").provide_value("x", 1) as s:
        for _ in range(100):
            await s.task(handler)
        with pytest.raises(ServiceExists) as caught:
            s.override("x", lambda: 2)
    assert len(caught.value.holders) <= 20


# ------------------------------------------------------------------ looking at it (V12, S13)


class Events(Hooks):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def disposed(self, event: Disposed, /) -> None:
        self.events.append(event)


async def test_values_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """V12: neither tree, repr and statistics, nor hooks, logs and errors look at a value."""
    caplog.set_level(0)
    events = Events()

    async def slow() -> Secret:
        return Secret()

    async def generator() -> AsyncIterator[Secret]:
        yield Secret()
        raise Boom

    def bad_close(value: Secret) -> None:
        raise Boom

    app = scope(name="app", hooks=events).provide_value("value", Secret(), bad_close).provide("slow", slow, bad_close)
    texts: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with app.provide("gen", generator).provide("own", Secret, shared=False) as s:
            for key in ("value", "slow", "gen", "own"):
                for _ in range(10):
                    await s.use(key)
                with pytest.raises(ServiceExists) as exists:
                    s.override(key, Secret)
                texts.append(str(exists.value))
            with pytest.raises(ServiceNotFound) as missing:
                await s.use("valeu")
            texts += [str(missing.value), s.tree(), repr(s), repr(s.statistics())]
    texts += [repr(events.events), repr(caught.value), str(caught.value)]
    texts += [f"{error!r} {error.__notes__}" for error in caught.value.exceptions]
    assert not any("Secret" in text for text in texts)
    assert not any("Secret" in record.getMessage() for record in caplog.records)


async def test_a_value_in_the_place_of_the_key_is_not_shown() -> None:
    """V12: key and value swapped, the likeliest mistake, does not print the value."""
    with pytest.raises(TypeError) as caught:
        scope().provide_value({"password": "hunter2"}, "config")  # type: ignore[call-overload]
    assert "hunter2" not in str(caught.value)


async def test_hooks_are_told_the_key() -> None:
    """V12, H2: one record for each service that was closed, in order, with its error."""
    events = Events()
    simple: list[tuple[int, object]] = []
    error = Boom()

    def bad_close(value: object) -> None:
        raise error

    hooks = [events, Hooks(on_dispose=lambda index, failure: simple.append((index, failure)))]
    app = scope(name="app", hooks=hooks).provide("a", lambda: 1, bad_close).provide(Database, Database)
    with pytest.raises(ExceptionGroup):
        async with app.provide("c", Log().make("c")) as s:
            for key in ("a", Database, "c"):
                await s.use(key)  # type: ignore[call-overload]
    shown = [(event.path, event.index, event.label, event.kind, event.error) for event in events.events]
    assert shown == [("app", 1, "'c'", "service", None), ("app", 0, "'a'", "service", error)]
    assert simple == [(1, None), (0, error)]


async def test_tree_shows_states() -> None:
    """S13, V12: declared, building with who waits, ready and closing; by key, in order of providing."""
    go = anyio.Event()
    trees: list[str] = []
    s = scope(name="app")

    async def slow() -> str:
        await go.wait()
        return "slow"

    async def close(value: object) -> None:
        trees.append(s.tree())

    s.provide("idle", Database).provide("slow", slow, close).provide(Database, Database, close).provide_value("v", 1)
    async with s:
        assert s.tree() == (
            "scope app open\n"
            "  service 'idle' declared\n"
            "  service 'slow' declared\n"
            "  service Database declared\n"
            "  service 'v' ready"
        )
        await s.use(Database)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(s.use, "slow")
            await anyio.wait_all_tasks_blocked()
            assert s.tree() == (
                "scope app open\n"
                "  service 'idle' declared\n"
                "  service 'slow' building, 3 waiting\n"
                "  service Database ready\n"
                "  service 'v' ready"
            )
            with pytest.raises(ServiceNotReady) as caught:
                s.use_nowait("slow")
            assert str(caught.value).startswith("service 'slow' of app is still being created\n")
            assert (s.statistics().services, s.statistics().running) == (2, 0)
            go.set()
        assert s.statistics().services == 3
        assert s.statistics().clean_ups == 2
    assert trees == [
        (
            "scope app closing\n"
            "  service 'idle' declared\n"
            "  service 'slow' closing\n"
            "  service Database ready\n"
            "  service 'v' ready"
        ),
        (
            "scope app closing\n"
            "  service 'idle' declared\n"
            "  service 'slow' closed\n"
            "  service Database closing\n"
            "  service 'v' ready"
        ),
    ]


async def test_tree_of_nested_scopes() -> None:
    """S13: each scope shows its own services."""
    async with scope(name="app").provide_value("x", 1) as app, scope(name="child").provide("y", Database):
        assert app.tree() == ("scope app open\n  service 'x' ready\n  scope child open\n    service 'y' declared")


async def test_errors_pickle_and_copy() -> None:
    """E: the errors of services pickle with their attributes."""
    import copy
    import pickle

    async with scope(name="app").provide("a", lambda: 1) as s:
        errors: list[Any] = [await not_found(s, "b")]
        with pytest.raises(ServiceNotReady) as not_ready:
            s.use_nowait("a")
        with pytest.raises(ServiceExists) as exists:
            s.provide("a", lambda: 1)
        errors += [not_ready.value, exists.value, ServiceCycle(ring=("'a'", "'a'"), path="app")]
    for error in errors:
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert vars(twin) == vars(error)
