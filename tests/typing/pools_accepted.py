"""What type checkers accept of pools (P1, P2). Read by mypy and pyright, never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from typing_extensions import Self, assert_type

from anyscope import Acquire, Hooks, Pool, PoolEvent, PoolStats, PoolTimeout, Scope


class Connection:
    async def fetch(self, question: str, *, limit: int = 1) -> list[str]:
        return [question] * limit

    def ping(self) -> bool:
        return True

    async def aclose(self) -> None: ...


class Client:
    """A context manager of its own."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...


async def connect() -> Connection:
    return Connection()


def connect_at_once() -> Connection:
    return Connection()


async def generate() -> AsyncGenerator[Connection, None]:
    yield Connection()


async def iterate() -> AsyncIterator[Connection]:
    yield Connection()


@asynccontextmanager
async def managed() -> AsyncGenerator[Connection, None]:
    yield Connection()


async def ping(connection: Connection) -> bool:
    return connection.ping()


async def count(connection: Connection, table: str, least: int) -> int:
    return len(table) + least


def name_of(connection: Connection) -> str:
    return repr(connection)


def sqlite() -> sqlite3.Connection:
    return sqlite3.connect(":memory:")


# ------------------------------------------------------------------ what is made decides what is lent


async def makes(s: Scope) -> None:
    assert_type(s.pool(connect), Pool[Connection])
    assert_type(s.pool(connect_at_once), Pool[Connection])
    assert_type(s.pool(Connection), Pool[Connection])
    assert_type(s.pool(generate), Pool[Connection])
    assert_type(s.pool(iterate), Pool[Connection])
    assert_type(s.pool(managed), Pool[Connection])
    assert_type(s.pool(Client), Pool[Client])
    assert_type(s.pool(sqlite, destroy=sqlite3.Connection.close), Pool[sqlite3.Connection])
    assert_type(Pool(connect), Pool[Connection])
    assert_type(Pool(managed), Pool[Connection])
    async with Pool(connect, max=3) as alone:
        assert_type(alone, Pool[Connection])


def options(s: Scope) -> None:
    s.pool(
        connect,
        destroy=Connection.aclose,
        min=1,
        max=4,
        acquire_timeout=None,
        name="db",
        max_waiting=10,
        max_idle=None,
        max_lifetime=60,
        check=ping,
        check_after=0,
        reset=Connection.ping,
        discard_on=(ConnectionError, sqlite3.Error),
        create_timeout=3,
        close_timeout=1.5,
        backoff=(0.1, 1),
        leak_after=30,
    )


# ------------------------------------------------------------------ what is lent


async def lends(pool: Pool[Connection]) -> None:
    asked: Acquire[Connection] = pool.acquire()
    assert_type(await asked, Connection)
    assert_type(await pool.acquire(timeout=1), Connection)
    assert_type(pool.acquire_nowait(), Connection)
    async with pool.acquire(timeout=None) as connection:
        assert_type(connection, Connection)
        assert_type(await connection.fetch("life"), list[str])
    pool.release(connection)
    pool.discard(connection)


async def executes(pool: Pool[Connection]) -> None:
    assert_type(await pool.execute(Connection.fetch, "life"), list[str])
    assert_type(await pool.execute(count, "users", 3), int)
    assert_type(await pool.execute(name_of), str)
    assert_type(await pool.execute(Connection.ping, timeout=1), bool)


# ------------------------------------------------------------------ what it tells


def tells(pool: Pool[Connection], error: PoolTimeout) -> None:
    assert_type(pool.stats, PoolStats)
    assert_type(pool.stats.in_use, int)
    assert_type(pool.stats.last_error, Exception | None)
    assert_type(pool.name, str)
    assert_type(pool.closed, bool)
    assert_type(error.held, int)
    assert_type(error.limit, float)


class Metrics(Hooks):
    def pool_changed(self, event: PoolEvent, /) -> None:
        assert_type(event.duration, float)
        assert_type(event.reason, str)
