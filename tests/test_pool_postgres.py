"""The resource pool with what it is for: connections to a real PostgreSQL server (P3-P8, P11).

Each case runs with psycopg's connections in worker threads, on all backends, and with its async ones, which need
asyncio. The clock is the real one. Where psycopg or the server is missing all of this is skipped; with the environment
variable `ANYSCOPE_NEEDS_POSTGRES=1` it fails.
"""

from __future__ import annotations

import asyncio
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
import pytest
from anyio import to_thread

from anyscope import Pool, PoolMisuse, PoolTimeout, scope
from pools import check_open, check_serves
from postgres import CLIENTS, Server, why_not
from real_clock import anyio_backend as anyio_backend  # noqa: PLC0414  a fixture of this file too

if REASON := why_not():
    if os.environ.get("ANYSCOPE_NEEDS_POSTGRES") == "1":
        pytest.fail(f"ANYSCOPE_NEEDS_POSTGRES=1, but {REASON}", pytrace=False)
    pytest.skip(REASON, allow_module_level=True)

import psycopg

R = TypeVar("R")

LONG = "select pg_sleep(30)"
SLACK = 1.5
"""Seconds by which a busy machine may be late."""


# ------------------------------------------------------------------ the server
@pytest.fixture(scope="session")
def one_server() -> Iterator[Server]:
    """The server of this process."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server(one_server: Server) -> Server:
    """The same, running, with nobody connected, whatever the test before has done to it."""
    if not one_server.is_up:
        one_server.start()
    one_server.clear()
    return one_server


# ------------------------------------------------------------------ connections
class Driver(ABC):
    """Makes and ends connections, and keeps account of them.

    Args:
        address: Where the server is.

    Attributes:
        alive: Those that there are.
        failures: Why others could not be made.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.alive: list[Any] = []
        self.failures: list[BaseException | None] = []
        self._used: list[Any] = []

    async def create(self) -> Any:
        """Make one."""
        try:
            connection = await self.connect()
        except psycopg.OperationalError as error:
            self.failures.append(error)
            raise
        self.alive.append(connection)
        return connection

    async def destroy(self, connection: Any) -> None:
        """End it, also one with a query under way, of which the server knows the end only if it is told."""
        self.alive.remove(connection)
        with suppress(psycopg.Error):
            await self.stop(connection)
        await self.close(connection)

    async def check(self, connection: Any) -> bool:
        """Whether it answers."""
        return bool(await self.ask(connection, "select 1") == 1)

    async def reset(self, connection: Any) -> None:
        """Undo what was not committed."""
        await self.stop(connection)
        await self.rollback(connection)

    async def use(self, connection: Any, query: str) -> Any:
        """Ask it something, as its only user."""
        assert connection not in self._used, "it has two users"
        self._used.append(connection)
        try:
            return await self.ask(connection, query)
        finally:
            self._used.remove(connection)

    @abstractmethod
    async def connect(self) -> Any:
        """Make one."""

    @abstractmethod
    async def close(self, connection: Any) -> None:
        """Close it, as soon as nothing is under way."""

    @abstractmethod
    async def stop(self, connection: Any) -> None:
        """Stop the query that is under way, if there is one."""

    @abstractmethod
    async def ask(self, connection: Any, query: str) -> Any:
        """Give the first value of the answer."""

    @abstractmethod
    async def commit(self, connection: Any) -> None:
        """Keep what was done."""

    @abstractmethod
    async def rollback(self, connection: Any) -> None:
        """Undo it."""


def is_at_work(connection: Any) -> bool:
    """Whether the server owes an answer, as far as is known here."""
    return bool(connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)


class InThreads(Driver):
    """psycopg's plain connections, each call in a worker thread."""

    async def connect(self) -> Any:
        return await to_thread.run_sync(psycopg.connect, self.address)

    async def close(self, connection: psycopg.Connection[Any]) -> None:
        def close() -> None:
            with connection.lock:  # an abandoned thread may use it still
                connection.close()

        await to_thread.run_sync(close)

    async def stop(self, connection: psycopg.Connection[Any]) -> None:
        while is_at_work(connection):  # it may strike the BEGIN before the query, or nothing
            await to_thread.run_sync(connection.cancel_safe)
            await anyio.sleep(0.02)

    async def ask(self, connection: psycopg.Connection[Any], query: str) -> Any:
        def ask() -> Any:
            row = connection.execute(query.encode()).fetchone()
            return row and row[0]

        return await to_thread.run_sync(ask, abandon_on_cancel=True)

    async def commit(self, connection: psycopg.Connection[Any]) -> None:
        await to_thread.run_sync(connection.commit)

    async def rollback(self, connection: psycopg.Connection[Any]) -> None:
        await to_thread.run_sync(connection.rollback)


class Natively(Driver):
    """psycopg's async connections."""

    async def connect(self) -> Any:
        return await psycopg.AsyncConnection.connect(self.address)

    async def close(self, connection: psycopg.AsyncConnection[Any]) -> None:
        async with connection.lock:  # its holder may use it still
            await connection.close()

    async def stop(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while is_at_work(connection):  # see above
            await connection.cancel_safe()
            await anyio.sleep(0.02)

    async def ask(self, connection: psycopg.AsyncConnection[Any], query: str) -> Any:
        row = await (await connection.execute(query.encode())).fetchone()
        return row and row[0]

    async def commit(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.commit()

    async def rollback(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.rollback()


# ------------------------------------------------------------------ what the cases share
@asynccontextmanager
async def pool_of(server: Server, driver: Driver, **options: Any) -> AsyncGenerator[Pool[Any]]:
    """A pool in a scope of its own; nothing is left of it, on either side."""
    before = await asked(server.clients)
    defaults: dict[str, Any] = {
        "name": "db",
        "destroy": driver.destroy,
        "check": driver.check,
        "check_after": 0,
        "discard_on": psycopg.OperationalError,
        "create_timeout": 10,
        "backoff": (0.05, 0.2),
    }
    pools: list[Pool[Any]] = []
    async with scope(name="app") as s:
        pools.append(s.pool(driver.create, **{**defaults, **options}))
        yield pools[0]
        check_open(pools[0], in_use=0)
    check_gone(pools[0])
    assert driver.alive == []
    await becomes(server.clients, before)


def check_gone(pool: Pool[Any]) -> None:
    """P11: nothing is left, and each connection was ended once, without an error."""
    stats = pool.stats
    check_open(pool, in_use=0)
    assert pool.closed
    assert (stats.total, stats.creating, stats.destroying, stats.waiting) == (0, 0, 0, 0), stats
    assert stats.created == stats.destroyed == sum(stats.discarded.values()), stats
    assert stats.destroy_errors == 0, stats


async def asked(question: Callable[[], R]) -> R:
    """Ask the server, which blocks, in a thread."""
    return await to_thread.run_sync(question)


async def becomes(question: Callable[[], object], answer: object) -> None:
    """Wait for it: the server learns a moment later of what its clients do."""
    given: object = None
    with anyio.move_on_after(10):
        while (given := await asked(question)) != answer:
            await anyio.sleep(0.01)
    assert given == answer


async def rest(pool: Pool[Any]) -> None:
    """Wait until nothing is being done to any connection."""
    with anyio.fail_after(10):
        while pool.stats.available != pool.stats.total or pool.stats.creating or pool.stats.destroying:
            await anyio.sleep(0.01)


async def pid_of(pool: Pool[Any], driver: Driver) -> int:
    """Get one quickly, which answers what it is asked; gives its number on the server."""
    with anyio.fail_after(10):
        async with pool.acquire() as connection:
            assert await driver.use(connection, "select 42") == 42
            return int(await driver.use(connection, "select pg_backend_pid()"))


async def be_cut_off(server: Server, driver: Driver, pool: Pool[Any]) -> None:
    """Be cancelled when the server is in the middle of an answer."""

    async def ask() -> None:
        async with pool.acquire() as connection:
            await driver.use(connection, LONG)

    async with anyio.create_task_group() as tg:
        tg.start_soon(ask)
        await becomes(server.busy, 1)
        tg.cancel_scope.cancel()


class Outage:
    """Tasks that use a pool while its server goes away and comes back.

    Args:
        driver: Makes the connections.
        pool: The pool.

    Attributes:
        phase: `up`, `down`, `back`, or `over`. Written by the test.
        served: How often each task was, in the phase `back`.
        cut: How many queries ended with an error.
        refused: How many waited in vain.
    """

    BUDGET = 0.5

    def __init__(self, driver: Driver, pool: Pool[Any]) -> None:
        self.phase = "up"
        self.served: dict[int, int] = {}
        self.cut = self.refused = 0
        self._driver = driver
        self._pool = pool

    async def user(self, number: int) -> None:
        """One of the tasks."""
        self.served[number] = 0
        while self.phase != "over":
            began, phase = anyio.current_time(), self.phase
            try:
                async with self._pool.acquire(timeout=self.BUDGET) as connection:
                    assert anyio.current_time() - began < self.BUDGET + SLACK
                    assert await self._driver.use(connection, f"select {number}") == number
                    self.served[number] += self.phase == "back"
            except PoolTimeout as error:
                assert anyio.current_time() - began < self.BUDGET + SLACK
                self.refused += 1
                self._look_at(error, phase)
            except psycopg.OperationalError:
                self.cut += 1
            await anyio.sleep(0.005)

    async def patient(self) -> None:
        """One more, which waits for an answer when the server goes away."""
        with pytest.raises(psycopg.OperationalError):
            async with self._pool.acquire() as connection:
                await self._driver.use(connection, LONG)
        self.cut += 1

    def _look_at(self, error: PoolTimeout, phase: str) -> None:
        known: list[BaseException | None] = list(self._driver.failures)
        if phase == self.phase == "down":
            assert error.__cause__ is not None
        assert error.__cause__ is None or error.__cause__ in known


# ------------------------------------------------------------------ the cases
class Cases:
    """What both kinds of connections go through."""

    kind: type[Driver]

    @pytest.fixture
    def driver(self, server: Server) -> Driver:
        """Makes the connections."""
        return self.kind(server.address)

    async def test_load(self, server: Server, driver: Driver) -> None:
        """P3, P8: twenty tasks share four connections; what one of them leaves uncommitted is undone for the next."""
        await asked(lambda: server.ask("drop table if exists work"))
        await asked(lambda: server.ask("create table work (task int, turn int)"))
        most = 0

        async def user(task: int) -> None:
            for turn in range(5):
                async with pool.acquire() as connection:
                    await driver.use(connection, f"insert into work values ({task}, {turn}) returning 1")
                    if turn % 2:
                        await driver.commit(connection)

        async with pool_of(server, driver, max=4, reset=driver.reset) as pool:
            async with anyio.create_task_group() as tg:
                for task in range(20):
                    tg.start_soon(user, task)
                while pool.stats.acquired < 100:
                    most = max(most, await asked(server.clients))
            await rest(pool)
            check_open(pool, in_use=0)
            assert (pool.stats.acquired, pool.stats.discarded) == (100, {})
            assert await asked(server.clients) == pool.stats.total == pool.stats.created
        assert 1 < most <= 4
        assert await asked(lambda: server.ask("select count(*) from work")) == 40
        assert await asked(lambda: server.ask("select count(*) from work where turn % 2 = 0")) == 0

    async def test_outage(self, server: Server, driver: Driver) -> None:
        """P3, P6, P7: the server is killed under load and comes back; nobody waits too long, and nothing is lost."""
        async with pool_of(server, driver, max=4, reset=driver.reset) as pool:
            outage = Outage(driver, pool)
            async with anyio.create_task_group() as tg:
                for number in range(20):
                    tg.start_soon(outage.user, number)
                with anyio.fail_after(30):
                    while pool.stats.acquired < 40:
                        await anyio.sleep(0.01)
                    tg.start_soon(outage.patient)
                    await becomes(lambda: server.ask(f"select count(*) {CLIENTS} and query = '{LONG}'"), 1)
                    await asked(server.kill)
                    while not driver.failures:
                        await anyio.sleep(0.01)
                    outage.phase = "down"
                    refused = outage.refused
                    while outage.refused < refused + 20:
                        await anyio.sleep(0.01)
                    outage.phase = "starting"
                    await asked(server.start)
                    outage.phase = "back"
                    while min(outage.served.values()) < 3:
                        await anyio.sleep(0.01)
                outage.phase = "over"
            await rest(pool)
            await check_serves(pool, 10)
            await rest(pool)
            assert pool.stats.created == pool.stats.destroyed + pool.stats.total
            assert pool.stats.timeouts == outage.refused
            assert pool.stats.discarded["error"] == outage.cut > 0
            assert pool.stats.create_errors == len(driver.failures)
            await becomes(server.clients, pool.stats.total)

    @pytest.mark.parametrize("end", [Server.kill, Server.stop], ids=["killed", "stopped"])
    async def test_stale(self, server: Server, driver: Driver, end: Callable[[Server], None]) -> None:
        """P7: idle connections to a server that was restarted are skipped without a pause, and replaced."""
        async with pool_of(server, driver, max=8, min=8) as pool:
            await pool.ready(timeout=20)
            stale = list(driver.alive)
            await asked(functools.partial(end, server))
            await asked(server.start)
            began = anyio.current_time()
            async with pool.acquire(timeout=10) as connection:
                assert anyio.current_time() - began < 2
                assert connection not in stale
                assert await driver.use(connection, "select 42") == 42
            await check_serves(pool, 10)
            await rest(pool)
            assert pool.stats.discarded == {"check": 8}
            assert pool.stats.timeouts == pool.stats.create_errors == 0
            assert not [connection for connection in driver.alive if connection in stale]
            await becomes(server.clients, 8)

    async def test_cancelled_in_a_query(self, server: Server, driver: Driver) -> None:
        """P8: who is cancelled in the middle of an answer leaves a connection that nobody else gets."""
        async with pool_of(server, driver, max=1) as pool:
            before = await pid_of(pool, driver)
            await be_cut_off(server, driver, pool)
            assert await pid_of(pool, driver) != before
            assert pool.stats.discarded == {"cancelled": 1}
            await becomes(server.clients, 1)

    async def test_cancelled_and_reset(self, server: Server, driver: Driver) -> None:
        """P8: it is kept if `reset` proves that it is healthy, and replaced if not."""
        async with pool_of(server, driver, max=1, reset=driver.reset) as pool:
            before = await pid_of(pool, driver)
            await be_cut_off(server, driver, pool)
            after = await pid_of(pool, driver)
            assert pool.stats.discarded == ({} if after == before else {"reset": 1})
            await becomes(server.clients, 1)

    async def test_closing_waits_for_an_answer(self, server: Server, driver: Driver) -> None:
        """P11: a holder in the middle of a query gets the answer, and only then the connection is closed."""
        answers: list[Any] = []

        async def hold() -> None:
            async with pool.acquire() as connection:
                answers.append(await driver.use(connection, "select pg_advisory_xact_lock(1) is not null"))

        async def allow() -> None:
            while not pool.closed:
                await anyio.sleep(0.01)
            assert (pool.stats.in_use, answers) == (1, [])
            await asked(lambda: ask("select pg_advisory_unlock(1)"))

        async with pool_of(server, driver, close_timeout=10) as pool:
            with server.connected() as ask:
                ask("select pg_advisory_lock(1)")
                async with anyio.create_task_group() as tg:
                    tg.start_soon(hold)
                    await becomes(server.busy, 1)
                    tg.start_soon(allow)
                    await pool.aclose()
                    assert answers == [True]

    async def test_closing_takes_away(self, server: Server, driver: Driver) -> None:
        """P11: who takes too long is told of, its query is stopped, and its connection is closed."""
        errors: list[BaseException] = []

        async def hold() -> None:
            with pytest.raises(psycopg.OperationalError) as caught:
                async with pool.acquire() as connection:
                    await driver.use(connection, LONG)
            errors.append(caught.value)

        async with pool_of(server, driver, close_timeout=1) as pool, anyio.create_task_group() as tg:
            tg.start_soon(hold)
            await becomes(server.busy, 1)
            with anyio.fail_after(10), pytest.raises(PoolMisuse, match=r"1 resource still lent[^$]*in hold"):
                await pool.aclose()
            await becomes(server.clients, 0)
        assert [type(error) for error in errors] == [psycopg.errors.QueryCanceled]


class TestInThreads(Cases):
    """Connections in worker threads."""

    kind = InThreads


@pytest.mark.asyncio_only
class TestNatively(Cases):
    """Async connections."""

    kind = Natively

    async def test_cancelled_natively(self, server: Server, driver: Driver) -> None:
        """P5, P8: psycopg stops the query of a task that is cancelled natively, and `reset` proves that it did."""
        async with pool_of(server, driver, max=1, reset=driver.reset) as pool:
            before = await pid_of(pool, driver)
            task = asyncio.create_task(be_cut_off_natively(driver, pool))
            await becomes(server.busy, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await pid_of(pool, driver) == before
            assert pool.stats.discarded == {}


async def be_cut_off_natively(driver: Driver, pool: Pool[Any]) -> None:
    """Ask what takes long."""
    async with pool.acquire() as connection:
        await driver.use(connection, LONG)
