"""The database of censuses: SQLite by the standard library, in worker threads, as a service of the census's scope."""

from __future__ import annotations

import functools
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from .options import UsageError
from .report import plain, reason, short

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .record import Census

T = TypeVar("T")

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
        connection: An open connection, to be used by one thread at a time.

    Attributes:
        _turn: Lets one thread at a time use the connection, also when it is closed.
    """

    __slots__ = ("_connection", "_turn")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._turn = anyio.CapacityLimiter(1)

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
        return await self._in_thread(self._write, head, files, errors)

    def _write(self, head: tuple[Any, ...], files: list[tuple[Any, ...]], errors: list[tuple[Any, ...]]) -> int:
        """Do it, in a worker thread."""
        with self._connection:
            insert = "INSERT INTO census (root, backend, files, failed) VALUES (?, ?, ?, ?)"
            number = self._connection.execute(insert, head).lastrowid or 0
            self._connection.executemany(f"INSERT INTO files VALUES ({number}, ?, ?, ?, ?)", files)  # noqa: S608  an int
            self._connection.executemany(f"INSERT INTO errors VALUES ({number}, ?, ?, ?)", errors)  # noqa: S608  an int
        return number

    async def close(self) -> None:
        """Close the connection, after whichever thread is still using it."""
        await self._in_thread(self._connection.close)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await anyio.to_thread.run_sync(function, *args, limiter=self._turn)


async def open_database(path: str) -> Database:
    """Open a database, and make its tables where there are none: the factory of the service.

    Args:
        path: A file, or `:memory:`.

    Returns:
        The database.

    Raises:
        UsageError: SQLite cannot use that.
    """
    try:
        return Database(await anyio.to_thread.run_sync(functools.partial(_connect, path)))
    except sqlite3.Error as error:
        raise UsageError(f"cannot use {path!r} as a database: {error}") from None


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)  # Database lets one thread at a time use it
    try:
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection
