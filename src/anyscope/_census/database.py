"""The database of censuses: a pool of SQLite connections in worker threads, as a service of the census's scope."""

from __future__ import annotations

import functools
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from .. import current_scope
from .options import UsageError
from .report import plain, reason, short

if TYPE_CHECKING:
    from .. import Pool
    from .options import Options
    from .record import Census

IN_MEMORY = ":memory:"
SCHEMA = """
CREATE TABLE IF NOT EXISTS census (id INTEGER PRIMARY KEY, root TEXT, backend TEXT, files INTEGER, failed INTEGER);
CREATE TABLE IF NOT EXISTS files (
    census INTEGER REFERENCES census, path TEXT, lines INTEGER, functions INTEGER, classes INTEGER
);
CREATE TABLE IF NOT EXISTS errors (census INTEGER REFERENCES census, path TEXT, kind TEXT, reason TEXT);
"""


class Database:
    """Holds what censuses found; each has a number, and each is written whole or not at all.

    Args:
        connections: A pool of connections. A worker thread uses one at a time.
    """

    __slots__ = ("_connections",)

    def __init__(self, connections: Pool[sqlite3.Connection]) -> None:
        self._connections = connections

    async def write(self, census: Census, options: Options) -> int:
        """Write down a complete census in one transaction.

        A cancellation waits for the thread, so the census is there afterwards, or it is not, but never a part.

        Args:
            census: What was found.
            options: What was asked for.

        Returns:
            The number of the census.
        """
        root = options.root
        head = (plain(str(root)), options.backend, len(census.counted), len(census.failed))
        files = [(short(path, root), c.lines, c.functions, c.classes) for path, c in census.counted.items()]
        failed = census.failed.items()
        errors = [(short(path, root), type(error).__name__, reason(error, path)) for path, error in failed]
        async with self._connections.acquire() as connection:
            return await anyio.to_thread.run_sync(_write, connection, head, files, errors)


def _write(
    connection: sqlite3.Connection, head: tuple[Any, ...], files: list[tuple[Any, ...]], errors: list[tuple[Any, ...]]
) -> int:
    """Do it, in a worker thread."""
    with connection:
        insert = "INSERT INTO census (root, backend, files, failed) VALUES (?, ?, ?, ?)"
        number = connection.execute(insert, head).lastrowid or 0
        connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", [(number, *row) for row in files])
        connection.executemany("INSERT INTO errors VALUES (?, ?, ?, ?)", [(number, *row) for row in errors])
    return number


async def open_database(path: str) -> Database:
    """Open a database in the current scope, and make its tables where there are none: the factory of the service.

    Args:
        path: A file, or `:memory:`.

    Returns:
        The database; its connections close with the scope.

    Raises:
        UsageError: SQLite cannot use that.
    """
    connect = functools.partial(anyio.to_thread.run_sync, functools.partial(_connect, path))
    try:
        first = await connect()  # a pool would try again and again
    except sqlite3.Error as error:
        raise UsageError(f"cannot use {path!r} as a database: {error}") from None
    await _close(first)
    # SQLite has one writer at a time, so there is one connection.
    return Database(current_scope().pool(connect, destroy=_close, name="sqlite", max=1))


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)  # the pool lends it to one user at a time
    try:
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


async def _close(connection: sqlite3.Connection) -> None:
    await anyio.to_thread.run_sync(connection.close)
