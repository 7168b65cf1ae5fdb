"""Stories about resource pools, told to `anyscope.testing`: tests/test_pool_simulated.py.

A `Shop` makes and destroys the resources, and knows the promise: each is destroyed once, never used by two at a time
or after its end, and there are never more than `max`.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Pool, PoolClosed, PoolMisuse, PoolTimeout, scope
from anyscope.testing import Scenario, Simulation
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

POOL_SCENARIOS: list[Scenario] = []


class Thing:
    """A resource.

    Attributes:
        number: Its number in the shop.
        user: Who uses it.
        is_gone: Whether it was destroyed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.user: object = None
        self.is_gone = False

    def __repr__(self) -> str:
        return f"thing {self.number}"


class Shop:
    """Makes things, and watches what becomes of them.

    Args:
        most: How many there may be.
        script: For each creation: `ok`, `slow`, `fail` or `hang`; the last one for all further ones.
    """

    def __init__(self, most: int, *script: str) -> None:
        self.things: list[Thing] = []
        self._most = most
        self._making = 0
        self._script = itertools.chain(script, itertools.repeat(script[-1] if script else "ok"))

    @property
    def alive(self) -> int:
        """How many there are."""
        return sum(not thing.is_gone for thing in self.things)

    async def create(self) -> Thing:
        """Make one."""
        self._making += 1
        try:
            assert self.alive + self._making <= self._most, "too many"
            kind = next(self._script)
            if kind == "slow":
                await anyio.sleep(0.05)
            elif kind == "hang":
                await anyio.sleep(1000)
            else:
                await checkpoint()
            if kind == "fail":
                raise ConnectionRefusedError("no")
            self.things.append(Thing(len(self.things)))
            return self.things[-1]
        finally:
            self._making -= 1

    async def destroy(self, thing: Thing) -> None:
        """End one."""
        assert not thing.is_gone, f"{thing} is destroyed twice"
        assert thing.user is None, f"{thing} is destroyed in use"
        await checkpoint()
        thing.is_gone = True

    async def use(self, pool: Pool[Thing], seconds: float = 0.01, times: int = 1) -> None:
        """Use some, one after the other."""
        for _ in range(times):
            async with pool.acquire() as thing:
                await self.work_with(thing, seconds)

    async def work_with(self, thing: Thing, seconds: float = 0.01) -> None:
        """Use one, alone."""
        assert thing.user is None, f"{thing} has two users"
        assert not thing.is_gone, f"{thing} is used after its end"
        thing.user = object()
        try:
            await anyio.sleep(seconds)
        finally:
            thing.user = None

    def check_closed(self, pool: Pool[Any]) -> None:
        """Nothing is left, and the numbers agree."""
        stats = pool.stats
        assert self.alive == 0, [thing for thing in self.things if not thing.is_gone]
        assert stats.created == stats.destroyed == len(self.things), (stats, self.things)
        assert (stats.total, stats.creating, stats.destroying, stats.waiting) == (0, 0, 0, 0), stats


def check_open(pool: Pool[Any]) -> None:
    """What holds at every moment of an open pool (P3)."""
    stats = pool.stats
    assert stats.total == stats.available + stats.in_use + stats.recycling, stats
    assert stats.total + stats.creating + stats.destroying <= stats.max, stats
    assert not (stats.available and stats.waiting), stats
    assert stats.created == stats.destroyed + stats.total + stats.destroying, stats


def story(tell: Callable[[Simulation], Awaitable[object]]) -> Scenario:
    """Collect a story."""
    POOL_SCENARIOS.append(tell)
    return tell


async def serves_all(pool: Pool[Thing], shop: Shop) -> None:
    """Nothing is lost: all of `max` can be had, and at once once they exist."""
    with anyio.fail_after(30):
        things = [await pool.acquire() for _ in range(pool.stats.max)]
    assert len(set(map(id, things))) == pool.stats.max
    check_open(pool)
    for thing in things:
        pool.release(thing)


@story
async def three_users_of_one(sim: Simulation) -> None:
    """P3, P5: hand to hand, and whoever is cancelled passes it on."""
    shop = Shop(1)
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)
        s.start_soon(shop.use, pool)
        s.start_soon(shop.use, pool)
        await sim.victim(shop.use, pool, 0.01, 2)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def creations_that_are_slow_and_fail(sim: Simulation) -> None:
    """P4, P7: a cancelled acquire cancels no creation; a failed one wakes the next."""
    shop = Shop(2, "slow", "fail", "ok", "fail", "ok")
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=2)
        s.start_soon(shop.use, pool)
        await sim.victim(shop.use, pool)
        s.start_soon(shop.use, pool)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def a_creation_that_hangs(sim: Simulation) -> None:
    """P4, P6: it is given up after its time, and others are served meanwhile."""
    shop = Shop(2, "hang", "ok")
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=2, create_timeout=5)
        s.start_soon(shop.use, pool)
        await sim.victim(shop.use, pool)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def a_deadline_and_a_hand_off_at_once(sim: Simulation) -> None:
    """P6: it is either had in time or passed on, never both and never neither."""
    shop = Shop(1)
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1, acquire_timeout=0.01)
        await pool.ready()

        async def impatient() -> None:
            with suppress(PoolTimeout):
                await shop.use(pool)

        s.start_soon(impatient)
        s.start_soon(impatient)
        await sim.victim(impatient)
        await anyio.sleep(1)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def checks_and_resets(sim: Simulation) -> None:
    """P8: what fails a check or a reset goes, and the next one is tried."""
    shop = Shop(2)
    asked = itertools.count()

    async def flaky(thing: Thing) -> bool:
        await shop.work_with(thing, 0.001)
        return next(asked) % 3 != 1

    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(
            shop.create, destroy=shop.destroy, max=2, check=flaky, check_after=0, reset=flaky, min=1
        )
        s.start_soon(shop.use, pool, 0.01, 2)
        s.start_soon(shop.use, pool)
        await sim.victim(shop.use, pool, 0.01, 2)
        await anyio.sleep(1)
        check_open(pool)
        with anyio.fail_after(30):
            await shop.use(pool)
    shop.check_closed(pool)


@story
async def cancelled_in_use(sim: Simulation) -> None:
    """P8: what a cancelled user had is destroyed, for its state is unknown."""
    shop = Shop(1)
    used: list[Thing] = []
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)

        async def user() -> None:
            async with pool.acquire() as thing:
                used.append(thing)
                await shop.work_with(thing)
                used.clear()

        await sim.victim(user)
        await serves_all(pool, shop)
        assert not any(thing is other for thing in used for other in shop.things[1:])
        assert all(thing.is_gone for thing in used)
    shop.check_closed(pool)


@story
async def closing_while_all_is_in_motion(sim: Simulation) -> None:
    """P11: with holders, waiters and a creation under way; the scope is cancelled, or ends."""
    shop = Shop(2, "ok", "slow")
    pools: list[Pool[Thing]] = []

    async def victim() -> None:
        async with scope(name="app") as s:
            pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=2)
            pools.append(pool)
            for _ in range(4):
                s.start_soon(shop.use, pool, daemon=True)
            await anyio.sleep(0.02)

    await sim.victim(victim)
    for pool in pools:
        shop.check_closed(pool)


@story
async def a_foreign_waiter_while_it_closes(sim: Simulation) -> None:
    """P11: who waits gets `PoolClosed` at once, in whichever task; who holds is waited for."""
    shop = Shop(1)
    told: list[BaseException] = []

    async def foreign(pool: Pool[Thing]) -> None:
        try:
            await shop.use(pool, 0.05)
        except PoolClosed as error:
            told.append(error)

    async with anyio.create_task_group() as tg:
        async with scope(name="app") as s:
            pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)
            tg.start_soon(foreign, pool)
            tg.start_soon(foreign, pool)
            await sim.victim(foreign, pool)
            await checkpoint()
        assert pool.closed
    shop.check_closed(pool)


@story
async def closing_is_cancelled_and_done_again(sim: Simulation) -> None:
    """P11: each is destroyed once."""
    shop = Shop(2)
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, min=2, max=2)
        await pool.ready()
        thing = await pool.acquire()
        s.start_soon(_release_soon, pool, thing)
        await sim.victim(pool.aclose)
        await pool.aclose()
    shop.check_closed(pool)


async def _release_soon(pool: Pool[Thing], thing: Thing) -> None:
    await anyio.sleep(0.01)
    pool.release(thing)


@story
async def a_holder_that_never_gives_back(sim: Simulation) -> None:
    """P11: it is waited for, told, and what it had is destroyed."""
    shop = Shop(1)
    kept: list[Thing] = []
    errors: list[BaseException] = []

    async def victim() -> None:
        async with scope(name="app") as s:
            pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)
            kept.append(await pool.acquire())

    try:
        await sim.victim(victim)
    except (PoolMisuse, BaseExceptionGroup) as error:
        errors = leaves(error)
    assert len(errors) == len(kept)
    assert shop.alive == 0


@story
async def context_managers_as_resources(sim: Simulation) -> None:
    """P2: entered and left once, in one task, with a cancel scope across the yield."""
    open_now: list[int] = []
    numbers = itertools.count()

    @asynccontextmanager
    async def connection() -> AsyncIterator[int]:
        number = next(numbers)
        with anyio.CancelScope():
            await checkpoint()
            open_now.append(number)
            try:
                yield number
            finally:
                with anyio.CancelScope(shield=True):
                    await checkpoint()
                open_now.remove(number)

    async def user(pool: Pool[int]) -> None:
        async with pool.acquire() as number:
            assert number in open_now
            await anyio.sleep(0.01)

    async def victim() -> None:
        async with scope(name="app") as s:
            pool: Pool[int] = s.pool(connection, max=2)
            s.start_soon(user, pool)
            await user(pool)
            s.start_soon(user, pool)

    await sim.victim(victim)
    assert not open_now


@story
async def sizes_and_freshness(sim: Simulation) -> None:
    """P9: resized and refreshed while all is in use."""
    shop = Shop(3)
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=3, min=1)

        async def change() -> None:
            await checkpoint()
            pool.resize(max=1)
            await anyio.sleep(0.01)
            pool.refresh()
            await checkpoint()
            pool.resize(max=3, min=2)

        for _ in range(3):
            s.start_soon(shop.use, pool, 0.01, 2)
        await sim.victim(change)
        await shop.use(pool)
        pool.resize(max=3)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def tasks_of_the_pool_are_cancelled_natively(sim: Simulation) -> None:
    """P5, S7: a stranger cancels whatever runs, once; asyncio only. No resource is lost, and the scope says so."""
    shop = Shop(2, "ok", "slow")
    pools: list[Pool[Thing]] = []

    async def stranger() -> None:
        await checkpoint()
        if sim.case.backend == "asyncio":
            for task in asyncio.all_tasks() - {asyncio.current_task(), main}:
                task.cancel()

    main = asyncio.current_task() if sim.case.backend == "asyncio" else None

    async def victim() -> None:
        async with scope(name="app") as s:
            pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=2)
            pools.append(pool)
            s.start_soon(_quietly, shop, pool)
            s.start_soon(stranger)
            s.start_soon(_quietly, shop, pool)
            await anyio.sleep(0.02)

    with suppress(BaseExceptionGroup, Exception):
        await sim.victim(victim)
    assert shop.alive == 0


@story
async def executing(sim: Simulation) -> None:
    """P1, P5: cancelled anywhere in `execute`, what it had is given back or destroyed."""
    shop = Shop(1, "slow", "ok")
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)

        async def query(thing: Thing, answer: int) -> int:
            await shop.work_with(thing)
            return answer

        async def victim() -> None:
            assert await pool.execute(query, 3) == 3
            assert await pool.execute(query, 4) == 4

        s.start_soon(shop.use, pool)
        await sim.victim(victim)
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def waiting_until_it_is_warm(sim: Simulation) -> None:
    """P7: `ready`, with creations that are slow and fail."""
    shop = Shop(3, "slow", "fail", "ok")
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=3, min=3)
        s.start_soon(pool.ready)
        await sim.victim(pool.ready)
        await pool.ready()
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def given_back_by_another_task(sim: Simulation) -> None:
    """P1: acquired in one task, released in another."""
    shop = Shop(1)
    send, receive = anyio.create_memory_object_stream[Thing](10)
    async with receive, send, scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=1)

        async def give_back() -> None:
            async for thing in receive:
                await checkpoint()
                pool.release(thing)

        async def take() -> None:
            for _ in range(3):
                send.send_nowait(await pool.acquire())

        s.start_soon(give_back)
        s.start_soon(take)
        await sim.victim(take)
        s.start_soon(take)
        await anyio.sleep(1)
        send.close()
        await serves_all(pool, shop)
    shop.check_closed(pool)


@story
async def a_pool_alone(sim: Simulation) -> None:
    """P11: without a scope, cancelled from birth to end; a creation and a reset that hang."""
    shop = Shop(2, "hang", "ok")
    pools: list[Pool[Thing]] = []

    async def victim() -> None:
        async with Pool(
            shop.create, destroy=shop.destroy, max=2, min=1, create_timeout=3, close_timeout=1, reset=_hang
        ) as pool:
            pools.append(pool)
            await shop.use(pool, times=2)

    await sim.victim(victim)
    for pool in pools:
        shop.check_closed(pool)


@story
async def a_pool_in_a_service_and_a_daemon(sim: Simulation) -> None:
    """P11: opened in a service's own task and in a daemon, which end before and after their users."""
    shop = Shop(4)

    async def service() -> AsyncIterator[Pool[Thing]]:
        async with Pool(shop.create, destroy=shop.destroy, max=2, min=1) as pool:
            await pool.ready()
            yield pool

    async def daemon() -> None:
        async with Pool(shop.create, destroy=shop.destroy, max=2, min=1) as pool:
            while True:
                await shop.use(pool)

    async def victim() -> None:
        async with scope(name="app") as s:
            s.provide("pool", service)
            s.start_soon(daemon, daemon=True)
            await shop.use(await s.use("pool"))
            await anyio.sleep(0.02)

    await sim.victim(victim)
    assert shop.alive == 0


@story
async def a_child_of_a_scope_that_is_cancelled(sim: Simulation) -> None:
    """P11: its pool closes in its turn."""
    shop = Shop(2)
    pools: list[Pool[Thing]] = []
    async with scope(name="app") as s:

        async def victim() -> None:
            async with scope(name="child") as child:
                pool: Pool[Thing] = child.pool(shop.create, destroy=shop.destroy, max=2, min=1)
                pools.append(pool)
                child.start_soon(shop.use, pool)
                await shop.use(pool)

        async def cancel() -> None:
            await anyio.sleep(0.005)
            s.cancel()

        s.start_soon(cancel)
        await sim.victim(victim)
    for pool in pools:
        shop.check_closed(pool)


@story
async def nothing_has_a_bound_but_the_scope(sim: Simulation) -> None:
    """S7: creations and resets that hang are cut off when the scope closes; each is destroyed once."""
    shop = Shop(2, "ok", "hang")
    pools: list[Pool[Thing]] = []

    async def victim() -> None:
        async with scope(name="app", close_timeout=1) as s:
            pool: Pool[Thing] = s.pool(
                shop.create, destroy=shop.destroy, max=2, close_timeout=None, create_timeout=None, reset=_hang
            )
            pools.append(pool)
            s.start_soon(shop.use, pool)
            s.start_soon(shop.use, pool)
            await anyio.sleep(0.02)
            s.cancel()

    with suppress(BaseExceptionGroup, Exception):
        await sim.victim(victim)
    for pool in pools:
        shop.check_closed(pool)


@story
async def two_close_it_at_once(sim: Simulation) -> None:
    """P11: while others wait; both come to an end, and each resource is destroyed once."""
    shop = Shop(2, "ok", "slow")
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(shop.create, destroy=shop.destroy, max=2, min=2)
        for _ in range(3):
            s.start_soon(_quietly, shop, pool)
        s.start_soon(pool.aclose)
        await sim.victim(pool.aclose)
        await pool.aclose()
        shop.check_closed(pool)


async def _hang(_: object) -> None:
    await anyio.sleep(1000)


async def _quietly(shop: Shop, pool: Pool[Thing]) -> None:
    with suppress(PoolClosed, PoolTimeout):
        await shop.use(pool)
