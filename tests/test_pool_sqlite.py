"""The resource pool with SQLite connections, each call in a worker thread (P2, P3, P8, P11)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from anyscope import Pool, scope
from pools import check_open


class Connection(sqlite3.Connection):
    """A connection that counts its ends."""

    ends = 0

    def close(self) -> None:
        """Close it."""
        self.ends += 1
        super().close()


class Store:
    """A database in a file.

    Args:
        path: The file.

    Attributes:
        connections: All that there ever were.
    """

    def __init__(self, path: Path) -> None:
        self.connections: list[Connection] = []
        self._path = path
        with self.opened() as connection:
            connection.execute("create table work (task integer, turn integer)")
        connection.close()

    def opened(self, patience: float = 30.0) -> Connection:
        """A connection."""
        return sqlite3.connect(self._path, timeout=patience, check_same_thread=False, factory=Connection)

    async def create(self) -> Connection:
        """Make one for the pool."""
        self.connections.append(await to_thread.run_sync(self.opened))
        return self.connections[-1]

    async def create_impatient(self) -> Connection:
        """Make one that waits for no other."""
        self.connections.append(await to_thread.run_sync(self.opened, 0.0))
        return self.connections[-1]

    def count(self) -> int:
        """How many rows everybody can see."""
        connection = self.opened()
        try:
            return int(connection.execute("select count(*) from work").fetchone()[0])
        finally:
            connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new one."""
    return Store(tmp_path / "work.db")


async def close(connection: Connection) -> None:
    """End it, in a thread."""
    await to_thread.run_sync(connection.close)


async def rollback(connection: Connection) -> None:
    """Undo what was not kept."""
    await to_thread.run_sync(connection.rollback)


def write(connection: Connection, task: int, turn: int) -> None:
    """Write a row, and do not keep it yet."""
    connection.execute("insert into work values (?, ?)", (task, turn))


@asynccontextmanager
async def pool_of(store: Store, **options: Any) -> AsyncIterator[Pool[Connection]]:
    """A pool in a scope of its own; each connection is closed once."""
    async with scope(name="app") as s:
        pool: Pool[Connection] = s.pool(store.create, **{"destroy": close, "name": "db", "reset": rollback, **options})
        yield pool
        check_open(pool, in_use=0)
    assert [connection.ends for connection in store.connections] == [1] * len(store.connections)
    assert pool.stats.created == pool.stats.destroyed == len(store.connections)


async def test_what_is_not_kept_is_undone(store: Store) -> None:
    """P3, P8: ten tasks share three connections; `reset` takes back what a task has left behind."""

    async def user(task: int) -> None:
        for turn in range(4):
            async with pool.acquire() as connection:
                await to_thread.run_sync(write, connection, task, turn)
                if turn % 2:
                    await to_thread.run_sync(connection.commit)

    async with pool_of(store, max=3) as pool, anyio.create_task_group() as tg:
        for task in range(10):
            tg.start_soon(user, task)
    assert store.count() == 20
    assert 1 <= len(store.connections) <= 3


async def test_a_transaction_that_is_cancelled(store: Store) -> None:
    """P8: nothing of it is kept, and the connection is fit again."""
    inside = threading.Event()

    def slow(connection: Connection) -> None:
        write(connection, 1, 1)
        inside.set()

    async with pool_of(store, max=1) as pool:
        with anyio.CancelScope() as cut:
            async with pool.acquire() as connection:
                cut.cancel()
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(slow, connection)
                await to_thread.run_sync(connection.commit)
        assert inside.is_set()
        async with pool.acquire() as again:
            assert again is connection
            assert not again.in_transaction
        assert pool.stats.discarded == {}
    assert store.count() == 0


async def test_a_locked_database(store: Store) -> None:
    """P8: the error leaves as it is; the connection goes where `discard_on` says so."""
    other = store.opened()
    other.execute("begin exclusive")
    async with scope() as s:
        pool = s.pool(store.create_impatient, destroy=close, max=1, discard_on=sqlite3.OperationalError)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            async with pool.acquire() as connection:
                await to_thread.run_sync(write, connection, 1, 1)
        other.close()
        async with pool.acquire() as connection:
            await to_thread.run_sync(write, connection, 1, 2)
            await to_thread.run_sync(connection.commit)
        assert pool.stats.discarded == {"error": 1}
    assert store.count() == 1


async def test_closing_waits_for_a_thread(store: Store) -> None:
    """P11: a connection that a thread uses is closed after that."""
    go, inside = threading.Event(), threading.Event()
    ends: list[int] = []

    def work(connection: Connection) -> None:
        inside.set()
        go.wait(10)
        ends.append(connection.ends)
        with connection:
            write(connection, 1, 1)

    async def use() -> None:
        async with pool.acquire() as connection:
            await to_thread.run_sync(work, connection)

    async with pool_of(store, max=1) as pool, anyio.create_task_group() as tg:
        tg.start_soon(use)
        await to_thread.run_sync(inside.wait, 10)
        tg.start_soon(pool.aclose)
        while not pool.closed:
            await checkpoint()
        go.set()
    assert ends == [0]
    assert store.count() == 1
