"""The database of censuses: a pool of SQLite connections in worker threads, as a service of the census's scope."""

from __future__ import annotations

import functools
import sqlite3
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from .. import Ok, current_scope
from .options import UsageError
from .report import plain, reason, short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import TypeVarTuple, Unpack

    from .. import Pool, Result
    from .count import Counts
    from .options import Options

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")

IN_MEMORY = ":memory:"
SCHEMA = """
CREATE TABLE IF NOT EXISTS census (
    id INTEGER PRIMARY KEY, root TEXT, backend TEXT, files INTEGER, failed INTEGER, is_complete INTEGER
);
CREATE TABLE IF NOT EXISTS files (
    census INTEGER REFERENCES census, path TEXT, lines INTEGER, functions INTEGER, classes INTEGER
);
CREATE TABLE IF NOT EXISTS errors (census INTEGER REFERENCES census, path TEXT, kind TEXT, reason TEXT);
"""

Outcome: TypeAlias = "tuple[Path, Result[Counts]]"


class Database:
    """Holds what censuses found; each has a number.

    It agrees with itself at any moment: what one transaction adds are whole batches, with the sums of the census.

    Args:
        connections: A pool of connections. A worker thread uses one at a time.
    """

    __slots__ = ("_connections",)

    def __init__(self, connections: Pool[sqlite3.Connection]) -> None:
        self._connections = connections

    async def begin(self, options: Options) -> int:
        """Begin a census.

        Args:
            options: What was asked for.

        Returns:
            Its number.
        """
        return await self._do(_begin, plain(str(options.root)), options.backend)

    async def write(self, number: int, root: Path, outcomes: list[Outcome], *, is_end: bool = False) -> None:
        """Write down what became of some files, in one transaction.

        A cancellation waits for the thread, so they are there afterwards, or they are not, but never a part.

        Args:
            number: The number of the census.
            root: The root of the census, from which files are named.
            outcomes: The files, with their counts or their errors.
            is_end: Whether the census is complete with them.
        """
        files: list[tuple[Any, ...]] = []
        errors: list[tuple[Any, ...]] = []
        for path, result in outcomes:
            if isinstance(result, Ok):
                counts = result.value
                files.append((number, short(path, root), counts.lines, counts.functions, counts.classes))
            else:
                error = result.error
                errors.append((number, short(path, root), type(error).__name__, reason(error, path)))
        await self._do(_write, number, files, errors, is_end)

    async def _do(self, work: Callable[[sqlite3.Connection, Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
        """Do it in a worker thread."""
        async with self._connections.acquire() as connection:
            return await anyio.to_thread.run_sync(work, connection, *args)


def _begin(connection: sqlite3.Connection, root: str, backend: str) -> int:
    with connection:
        insert = "INSERT INTO census (root, backend, files, failed, is_complete) VALUES (?, ?, 0, 0, 0)"
        return connection.execute(insert, (root, backend)).lastrowid or 0


def _write(
    connection: sqlite3.Connection,
    number: int,
    files: list[tuple[Any, ...]],
    errors: list[tuple[Any, ...]],
    is_end: bool,  # noqa: FBT001  given through a thread, by position
) -> None:
    with connection:
        connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", files)
        connection.executemany("INSERT INTO errors VALUES (?, ?, ?, ?)", errors)
        sums = "UPDATE census SET files = files + ?, failed = failed + ?, is_complete = ? WHERE id = ?"
        connection.execute(sums, (len(files), len(errors), is_end, number))


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
