"""What type checkers refuse of pools (P1, P2). Read by mypy and pyright, never run.

Each refused line carries a `type: ignore` with mypy's code, which pyright honours too. Both checkers call an ignore
that is not needed an error, so this file fails as soon as one of them accepts one of these lines.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from anyscope import Pool, Scope


class Connection:
    def close(self) -> None: ...


class Cache:
    def clear(self) -> None: ...


async def connect() -> Connection:
    return Connection()


async def connect_to(url: str) -> Connection:
    return Connection()


async def count(connection: Connection, table: str) -> int:
    return len(table)


def options(s: Scope) -> None:
    s.pool(connect, max="3")  # type: ignore[call-overload]
    s.pool(connect, maximum=3)  # type: ignore[call-overload]
    s.pool(connect, destroy=Cache.clear)  # type: ignore[arg-type]
    s.pool(connect, reset=Cache.clear)  # type: ignore[arg-type]
    s.pool(connect_to)  # type: ignore[arg-type]
    s.pool(3)  # type: ignore[call-overload]
    Pool(connect, discard_on=[OSError])  # type: ignore[call-overload]


async def uses(pool: Pool[Connection]) -> None:
    pool.release(Cache())  # type: ignore[arg-type]
    pool.discard(3)  # type: ignore[arg-type]
    await pool.execute(count)  # type: ignore[call-arg, arg-type]
    await pool.execute(count, 3)  # type: ignore[arg-type]
    await pool.execute(Cache.clear)  # type: ignore[call-arg, arg-type]
    async with pool.acquire() as connection:
        connection.clear()  # type: ignore[attr-defined]
    await pool.acquire(limit=3)  # type: ignore[call-arg]
    pool.stats.total = 3  # type: ignore[misc]
