"""What type checkers refuse of services (V1, V2, S14). Read by mypy and pyright, never run.

Each refused line carries a `type: ignore` with mypy's code, which pyright honours too. Both checkers call an ignore
that is not needed an error, so this file fails as soon as one of them accepts one of these lines.
What is wrong and not refused by both is listed at the end.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Protocol

from anyscope import Key, Scope, scope, use


class Database:
    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class Replica(Database):
    def promote(self) -> None: ...


class Cache:
    def close(self) -> None: ...

    def clear(self) -> None: ...


class Mailer(Protocol):
    async def send(self, text: str) -> bool: ...


class Smtp:
    async def send(self, text: str) -> bool:
        return bool(text)

    def quit(self) -> None: ...


class Mute:
    def send(self, text: str) -> bool:
        return bool(text)


REPLICA = Key[Database]("replica")
RETRIES = Key[int]("retries")
MAILER = Key[Mailer]("mailer")


def make() -> Database:
    return Database()


async def open_db() -> Database:
    return Database()


async def open_cache() -> Cache:
    return Cache()


def gen_cache() -> Generator[Cache]:
    yield Cache()


async def agen_cache() -> AsyncGenerator[Cache]:
    yield Cache()


async def agen_db() -> AsyncGenerator[Database]:
    yield Database()


@contextmanager
def managed_cache() -> Generator[Cache]:
    yield Cache()


@asynccontextmanager
async def amanaged_cache() -> AsyncGenerator[Cache]:
    yield Cache()


async def open_named(name: str) -> Database:
    return Database()


def close_cache(cache: Cache) -> None: ...


def close_nothing() -> None: ...


def a_factory_of_another_type(s: Scope) -> None:
    s.provide(REPLICA, Cache)  # type: ignore[arg-type]
    s.provide(REPLICA, lambda: Cache())  # type: ignore[arg-type]
    s.provide(REPLICA, open_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, gen_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, agen_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, managed_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, amanaged_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, lambda: closing(Cache()), enter=True)  # type: ignore[arg-type]
    s.provide(RETRIES, lambda: "3")  # type: ignore[arg-type]
    s.provide(MAILER, Mute)  # type: ignore[arg-type]


def a_key_is_invariant(s: Scope, key: Key[Replica]) -> Key[Database]:
    s.provide(key, make)  # type: ignore[arg-type]
    return key  # type: ignore[return-value]


def a_close_of_another_type(s: Scope) -> None:
    s.provide(REPLICA, open_db, close_cache)  # type: ignore[arg-type]
    s.provide(Database, open_db, close_cache)  # type: ignore[arg-type]
    s.provide(REPLICA, open_db, Cache.clear)  # type: ignore[arg-type]
    s.provide(Database, open_db, Cache.clear)  # type: ignore[arg-type]
    s.provide(REPLICA, make, Replica.promote)  # type: ignore[arg-type]
    s.provide(Database, make, Replica.promote)  # type: ignore[arg-type]
    s.provide(REPLICA, open_db, close_nothing)  # type: ignore[arg-type]
    s.provide(Database, open_db, close=3)  # type: ignore[call-overload]
    s.provide("db", open_db, close="close")  # type: ignore[call-overload]
    s.provide(REPLICA, open_db, close=lambda db: db.clear())  # type: ignore[attr-defined]


def a_close_of_the_factorys_own_type(s: Scope) -> None:
    s.provide(MAILER, Smtp, Smtp.quit)  # type: ignore[arg-type]


def a_close_where_the_code_after_the_yield_closes(s: Scope) -> None:
    s.provide(REPLICA, agen_db, Database.close)  # type: ignore[arg-type]
    s.provide(Database, agen_db, Database.aclose)  # type: ignore[arg-type]
    s.override(REPLICA, agen_db, Database.aclose)  # type: ignore[arg-type]


def a_value_of_another_type(s: Scope) -> None:
    s.provide_value(REPLICA, Cache())  # type: ignore[misc]
    s.provide_value(RETRIES, "3")  # type: ignore[misc]
    s.provide_value(RETRIES, None)  # type: ignore[misc]
    s.provide_value(MAILER, Mute())  # type: ignore[misc]
    s.provide_value(REPLICA, Database(), close_cache)  # type: ignore[arg-type]
    s.provide_value(Database, Database(), Cache.clear)  # type: ignore[arg-type]


def an_override_of_another_type(s: Scope) -> None:
    s.override(REPLICA, Cache)  # type: ignore[arg-type]
    s.override(REPLICA, agen_cache)  # type: ignore[arg-type]
    s.override(REPLICA, open_cache)  # type: ignore[arg-type]
    s.override(REPLICA, open_db, close_cache)  # type: ignore[arg-type]
    s.override(REPLICA, make, eager=True)  # type: ignore[call-overload]


def a_factory_that_is_none(s: Scope) -> None:
    s.provide(Database)  # type: ignore[call-overload]
    s.provide(Database, Database())  # type: ignore[call-overload]
    s.provide(REPLICA, open_db())  # type: ignore[call-overload]
    s.provide(REPLICA, open_named)  # type: ignore[arg-type]
    s.provide("db", open_named)  # type: ignore[arg-type]
    s.provide("db", None)  # type: ignore[call-overload]
    s.provide("db", agen_cache, eager="yes")  # type: ignore[call-overload]
    s.provide_value(Database)  # type: ignore[call-overload]
    s.override(Database)  # type: ignore[call-overload]


def a_manager_that_nobody_asked_to_enter(s: Scope) -> None:
    s.provide(REPLICA, lambda: closing(Database()))  # type: ignore[arg-type]
    s.override(REPLICA, lambda: closing(Database()), enter=False)  # type: ignore[arg-type]

    @s.provides(Database)  # type: ignore[arg-type]
    def closes() -> closing[Database]:
        return closing(Database())


def a_key_that_is_none(s: Scope) -> None:
    s.provide(42, make)  # type: ignore[call-overload]
    s.provide(Database(), make)  # type: ignore[call-overload]
    s.provide(None, make)  # type: ignore[call-overload]
    s.provide_value(42, 42)  # type: ignore[call-overload]
    s.override(42, make)  # type: ignore[call-overload]
    s.provides(42)  # type: ignore[call-overload]
    s.has(42)  # type: ignore[arg-type]
    Key[int](3)  # type: ignore[arg-type]
    scope().provide(("db", 1), make)  # type: ignore[call-overload]


def decorated_factories_of_another_type(s: Scope) -> None:
    @s.provides(Database)  # type: ignore[arg-type]
    def plain() -> Cache:
        return Cache()

    @s.provides(Database)  # type: ignore[arg-type]
    async def waits() -> Cache:
        return Cache()

    @s.provides(Database)  # type: ignore[arg-type]
    async def yields() -> AsyncGenerator[Cache]:
        yield Cache()

    @s.provides(REPLICA)  # type: ignore[arg-type]
    @asynccontextmanager
    async def manages() -> AsyncGenerator[Cache]:
        yield Cache()

    @s.provides(Mailer)  # type: ignore[arg-type]
    def mailer() -> Mute:
        return Mute()

    @s.provides(REPLICA)  # type: ignore[arg-type]
    async def named(name: str) -> Database:
        return Database()

    print(plain, waits, yields, manages, mailer, named)


async def a_use_of_what_is_no_key(s: Scope) -> None:
    await s.use(42)  # type: ignore[call-overload]
    await s.use(Database())  # type: ignore[call-overload]
    await s.use(None)  # type: ignore[call-overload]
    await s.use()  # type: ignore[call-overload]
    await s.use(Database, default=None)  # type: ignore[call-overload]
    await use(42)  # type: ignore[call-overload]
    await use(None, None)  # type: ignore[call-overload]
    await use()  # type: ignore[call-overload]
    s.use_nowait(42)  # type: ignore[call-overload]
    s.use_nowait(Database, None)  # type: ignore[call-overload]


async def a_service_is_of_its_type(s: Scope) -> Cache:
    retries: str = await s.use(RETRIES)  # type: ignore[arg-type]
    maybe: Database = await s.use(Database, None)  # type: ignore[arg-type]
    now: Cache = s.use_nowait(REPLICA)  # type: ignore[assignment]
    print(retries, maybe, now)
    return await use(Database)  # type: ignore[arg-type]


async def a_use_that_is_not_awaited(s: Scope) -> Database:
    return s.use(Database)  # type: ignore[return-value]


async def entering_what_cannot_be(s: Scope) -> None:
    await s.enter(3)  # type: ignore[call-overload]
    await s.enter(amanaged_cache)  # type: ignore[call-overload]
    await s.enter(Database())  # type: ignore[call-overload]
    await s.enter(agen_cache())  # type: ignore[call-overload]
    await s.enter()  # type: ignore[call-overload]


async def an_entered_one_is_of_its_type(s: Scope) -> Database:
    return await s.enter(managed_cache())  # type: ignore[arg-type]


# ------------------------------------------------------------------ what is wrong and not refused
#
# A class given as the key is a `type[T]`, which is covariant: a checker may take `Database | Cache` for `T`, or
# `object`. pyright does so everywhere, mypy only for `provide_value`. So mypy refuses these, and pyright accepts them;
# with a `Key`, as a decorator, and wherever `close` tells the type, both refuse them (above).
#
#     s.provide(Database, Cache)                         mypy: arg-type
#     s.provide(Database, open_cache)                    mypy: arg-type
#     s.provide(Database, agen_cache)                    mypy: arg-type
#     s.provide(Database, managed_cache)                 mypy: arg-type
#     s.provide(Mailer, Mute)                            mypy: arg-type
#     s.override(Database, Cache)                        mypy: arg-type
#     s.provide(Database, lambda: closing(Database()))   mypy: arg-type; without enter=True it is the `closing`
#
# Both accept this one: `T` is `object`, or `Database | Cache`.
#
#     s.provide_value(Database, Cache())
