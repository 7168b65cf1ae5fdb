"""What type checkers accept of services (V1, V2, S14). Read by mypy and pyright, never run.

Run `mypy --strict --warn-unused-ignores` and `pyright` on `tests/typing/services_*.py`.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import Any, Protocol

from typing_extensions import Self, assert_type

from anyscope import Key, Provides, Scope, scope, use

# ------------------------------------------------------------------ what is provided


class Database:
    def __init__(self, url: str = "sqlite://") -> None:
        self.url = url

    def close(self) -> None: ...

    async def aclose(self) -> None: ...

    async def fetch(self, number: int) -> str:
        return str(number)


class Replica(Database):
    lag: float = 0.0


class Client:
    """A context manager of its own, as HTTP clients are."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


class File:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None: ...


class Mailer(Protocol):
    async def send(self, text: str) -> bool: ...


class Smtp:
    """A `Mailer` by its shape."""

    async def send(self, text: str) -> bool:
        return bool(text)

    def quit(self) -> None: ...


class Store(ABC):
    @abstractmethod
    def get(self, key: str) -> bytes: ...

    def close(self) -> None:
        print("closed")


class Disk(Store):
    def get(self, key: str) -> bytes:
        return key.encode()


REPLICA = Key[Database]("replica")
RETRIES = Key[int]("retries")
MAILER = Key[Mailer]("mailer")
STORE = Key[Store]("store")
NAMES = Key[list[str]]("names")
MAYBE = Key[Database | None]("perhaps a database")
GREETER = Key[Callable[[str], str]]("greeter")


def make() -> Database:
    return Database()


async def open_db() -> Database:
    return Database()


def gen() -> Generator[Database]:
    yield Database()


def gen_iterator() -> Iterator[Database]:
    yield Database()


async def agen() -> AsyncGenerator[Database]:
    yield Database()


async def agen_iterator() -> AsyncIterator[Database]:
    yield Database()


async def agen_replica() -> AsyncGenerator[Replica]:
    yield Replica()


@contextmanager
def managed() -> Generator[Database]:
    yield Database()


@asynccontextmanager
async def amanaged() -> AsyncGenerator[Database]:
    yield Database()


def close_db(database: Database) -> None: ...


async def aclose_db(database: Database) -> None: ...


def close_anything(thing: object) -> None: ...


# ------------------------------------------------------------------ provide


def every_kind_of_factory_by_class(s: Scope) -> None:
    assert_type(s.provide(Database, make, replace=True), Scope)
    assert_type(s.provide(Database, open_db, eager=True), Scope)
    assert_type(s.provide(Database, gen, shared=False), Scope)
    assert_type(s.provide(Database, gen_iterator), Scope)
    assert_type(s.provide(Database, agen), Scope)
    assert_type(s.provide(Database, agen_iterator), Scope)
    assert_type(s.provide(Database, managed), Scope)
    assert_type(s.provide(Database, amanaged, eager=True, shared=True, replace=True), Scope)
    assert_type(s.provide(Database, Database), Scope)
    assert_type(s.provide(Database, lambda: Database("pg://")), Scope)
    assert_type(s.provide(Database, partial(Database, "pg://")), Scope)
    assert_type(s.provide(Database, agen_replica), Scope)
    assert_type(s.provide(Database, Replica), Scope)


def every_kind_of_factory_by_key(s: Scope) -> None:
    assert_type(s.provide(REPLICA, make), Scope)
    assert_type(s.provide(REPLICA, open_db, eager=True), Scope)
    assert_type(s.provide(REPLICA, gen), Scope)
    assert_type(s.provide(REPLICA, gen_iterator), Scope)
    assert_type(s.provide(REPLICA, agen), Scope)
    assert_type(s.provide(REPLICA, agen_iterator), Scope)
    assert_type(s.provide(REPLICA, agen_replica), Scope)
    assert_type(s.provide(REPLICA, managed, shared=False), Scope)
    assert_type(s.provide(REPLICA, amanaged), Scope)
    assert_type(s.provide(REPLICA, Replica), Scope)
    assert_type(s.provide(REPLICA, lambda: Replica()), Scope)
    assert_type(s.provide(RETRIES, lambda: 3), Scope)
    assert_type(s.provide(NAMES, lambda: ["a"]), Scope)
    assert_type(s.provide(NAMES, list), Scope)
    assert_type(s.provide(GREETER, lambda: str.upper), Scope)


def every_kind_of_factory_by_name(s: Scope) -> None:
    assert_type(s.provide("db", make, close_db), Scope)
    assert_type(s.provide("db", open_db, lambda db: db.close(), eager=True), Scope)
    assert_type(s.provide("db", agen), Scope)
    assert_type(s.provide("db", amanaged), Scope)
    assert_type(s.provide("client", Client, enter=True), Scope)
    assert_type(s.provide("config", lambda: {"retries": 3}), Scope)


def entered_only_when_asked(s: Scope) -> None:
    assert_type(s.provide(Client, Client), Scope)
    assert_type(s.provide(Client, Client, enter=True), Scope)
    assert_type(s.provide(File, File, enter=True, eager=True), Scope)
    assert_type(s.provide(Client, lambda: Client(), enter=True), Scope)
    assert_type(s.provide(Database, lambda: closing(Database()), enter=True), Scope)
    assert_type(s.provide(Database, lambda: nullcontext(Database()), enter=True), Scope)
    assert_type(s.provide(REPLICA, lambda: closing(Database()), enter=True), Scope)


async def connect() -> Client:
    return Client()


async def lease() -> AbstractAsyncContextManager[Database]:
    return amanaged()


async def sync_lease() -> AbstractContextManager[Database]:
    return managed()


def entered_after_waiting(s: Scope) -> None:
    assert_type(s.provide(Client, connect, enter=True), Scope)
    assert_type(s.provide(Database, lease, enter=True), Scope)
    assert_type(s.provide(REPLICA, lease, enter=True, shared=False), Scope)
    assert_type(s.provide(Database, sync_lease, enter=True), Scope)


def every_kind_of_close(s: Scope) -> None:
    assert_type(s.provide(Database, make, Database.close), Scope)
    assert_type(s.provide(Database, open_db, Database.aclose), Scope)
    assert_type(s.provide(Database, open_db, close=Database.aclose), Scope)
    assert_type(s.provide(Database, make, close=lambda db: db.close()), Scope)
    assert_type(s.provide(Database, open_db, close=lambda db: db.aclose()), Scope)
    assert_type(s.provide(Database, open_db, close_db), Scope)
    assert_type(s.provide(Database, open_db, aclose_db), Scope)
    assert_type(s.provide(Database, open_db, close_anything), Scope)
    assert_type(s.provide(Database, open_db, close=None), Scope)
    assert_type(s.provide(Database, Database, Database.aclose), Scope)
    assert_type(s.provide(REPLICA, open_db, close=lambda db: db.aclose()), Scope)
    assert_type(s.provide(REPLICA, Replica, Database.aclose), Scope)
    assert_type(s.provide(NAMES, lambda: ["a"], lambda names: names.clear()), Scope)


def protocols_and_abstract_classes(s: Scope) -> None:
    assert_type(s.provide(Mailer, Smtp), Scope)
    assert_type(s.provide(Mailer, lambda: Smtp()), Scope)
    assert_type(s.provide(MAILER, Smtp), Scope)
    assert_type(s.provide(Store, Disk), Scope)
    assert_type(s.provide(Store, Disk, Store.close), Scope)
    assert_type(s.provide(Store, Disk, close=lambda store: store.close()), Scope)
    assert_type(s.provide(STORE, Disk, close=lambda store: store.close()), Scope)
    assert_type(s.provide_value(Mailer, Smtp()), Scope)
    assert_type(s.provide_value(Store, Disk(), Store.close), Scope)


async def in_a_chain() -> None:
    app = scope(name="app").provide(Database, open_db, Database.aclose).provide_value(RETRIES, 3)
    assert_type(app, Scope)
    async with app.provide(REPLICA, agen).override(REPLICA, Replica) as s:
        assert_type(s, Scope)


def values(s: Scope) -> None:
    assert_type(s.provide_value(Database, Database()), Scope)
    assert_type(s.provide_value(Database, Replica(), Database.close), Scope)
    assert_type(s.provide_value(Database, Database(), lambda db: db.aclose()), Scope)
    assert_type(s.provide_value(REPLICA, Database(), close=Database.aclose), Scope)
    assert_type(s.provide_value(RETRIES, 3), Scope)
    assert_type(s.provide_value(MAYBE, None), Scope)
    assert_type(s.provide_value(GREETER, str.upper), Scope)
    assert_type(s.provide_value("retries", 3, close_anything), Scope)


def overrides(s: Scope) -> None:
    assert_type(s.override(Database, make), Scope)
    assert_type(s.override(Database, open_db, Database.aclose), Scope)
    assert_type(s.override(Database, Replica, close=lambda db: db.close()), Scope)
    assert_type(s.override(Database, agen), Scope)
    assert_type(s.override(Database, gen), Scope)
    assert_type(s.override(Database, managed), Scope)
    assert_type(s.override(REPLICA, amanaged), Scope)
    assert_type(s.override(REPLICA, lambda: closing(Database()), enter=True), Scope)
    assert_type(s.override(Client, Client, enter=True), Scope)
    assert_type(s.override(Mailer, Smtp), Scope)
    assert_type(s.override(Store, Disk, close=lambda store: store.close()), Scope)
    assert_type(s.override(Client, connect, enter=True), Scope)
    assert_type(s.override(REPLICA, lease, enter=True), Scope)
    assert_type(s.override("mailer", lambda: "pretends"), Scope)


# ------------------------------------------------------------------ provides


def decorators(s: Scope) -> None:
    assert_type(s.provides(Database), Provides[Database])
    assert_type(s.provides(REPLICA), Provides[Database])

    @s.provides(Database)
    def plain() -> Database:
        return Database()

    @s.provides(Database)
    async def waits() -> Database:
        return Database()

    @s.provides(Database)
    def yields() -> Iterator[Database]:
        yield Database()

    @s.provides(Database)
    async def ayields() -> AsyncGenerator[Database]:
        yield Database()

    @s.provides(REPLICA)
    @asynccontextmanager
    async def manages() -> AsyncGenerator[Database]:
        yield Database()

    @s.provides(Mailer)
    def mailer() -> Smtp:
        return Smtp()

    @s.provides(Store)
    async def store() -> AsyncGenerator[Disk]:
        yield Disk()

    @s.provides(RETRIES)
    def retries() -> int:
        return 3

    @s.provides("anything")
    async def anything() -> AsyncGenerator[object]:
        yield object()

    @s.provides("greeting")
    def greeting() -> str:
        return "hello"

    assert_type(plain(), Database)
    assert_type(greeting(), str)
    print(waits, yields, ayields, manages, mailer, store, retries, anything)


# ------------------------------------------------------------------ use


async def uses(s: Scope) -> str:
    assert_type(await s.use(Database), Database)
    assert_type(await s.use(REPLICA), Database)
    assert_type(await s.use(RETRIES), int)
    assert_type(await s.use(NAMES), list[str])
    assert_type(await s.use(MAYBE), Database | None)
    assert_type(await s.use(GREETER), Callable[[str], str])
    assert_type(await s.use(Mailer), Mailer)
    assert_type(await s.use(Store), Store)
    assert_type(await s.use(MAILER), Mailer)
    assert_type(await s.use("db"), Any)
    database = await s.use(Database)
    return await database.fetch(1)


async def uses_with_a_default(s: Scope) -> None:
    assert_type(await s.use(Database, None), Database | None)
    assert_type(await s.use(REPLICA, None), Database | None)
    assert_type(await s.use(RETRIES, "none"), int | str)
    assert_type(await s.use(Mailer, None), Mailer | None)
    assert_type(await s.use("db", None), Any)
    retries: int = await s.use(RETRIES, 3)
    print(retries)


async def uses_of_the_current_scope() -> None:
    assert_type(await use(Database), Database)
    assert_type(await use(REPLICA), Database)
    assert_type(await use(Mailer), Mailer)
    assert_type(await use(Store), Store)
    assert_type(await use("db"), Any)
    assert_type(await use(Database, None), Database | None)
    assert_type(await use(REPLICA, None), Database | None)
    assert_type(await use("db", None), Any)


def uses_at_once(s: Scope) -> None:
    assert_type(s.use_nowait(Database), Database)
    assert_type(s.use_nowait(REPLICA), Database)
    assert_type(s.use_nowait(Mailer), Mailer)
    assert_type(s.use_nowait("db"), Any)
    assert_type(s.has(Database), bool)
    assert_type(s.has(Mailer) and s.has(REPLICA) and s.has("db"), bool)


# ------------------------------------------------------------------ enter


async def enters(s: Scope, either: AbstractAsyncContextManager[int]) -> None:
    assert_type(await s.enter(managed()), Database)
    assert_type(await s.enter(amanaged()), Database)
    assert_type(await s.enter(Client()), Client)
    assert_type(await s.enter(File()), File)
    assert_type(await s.enter(closing(Database())), Database)
    assert_type(await s.enter(either), int)


# ------------------------------------------------------------------ generic code


async def pass_on(s: Scope, key: type[Database] | Key[Database]) -> Database:
    s.provide(key, open_db, Database.aclose)
    return await s.use(key)
