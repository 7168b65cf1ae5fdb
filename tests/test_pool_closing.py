"""The resource pool as a black box, cases 28 to 30 and 47 to 59: giving back, closing (P1, P5, P8, P10, P11)."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Pool, PoolClosed, PoolMisuse, scope
from anyscope.testing import Simulation
from pools import (
    Factory,
    Refused,
    Script,
    Thing,
    check_closed,
    check_open,
    check_serves,
    each_backend,
    fill,
    pool_of,
    release_later,
    settle,
    story,
    struck,
    timed,
    turns,
    use,
    user,
)
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

WAYS = ["release", "discard", "block", "destroy fails"]


# ------------------------------------------------------------------ giving back
@pytest.mark.virtual_time
async def test_case_28_a_reset_is_not_cut_off() -> None:
    """P4, P5: who leaves the block is cancelled at once; the reset runs to its end, and the resource is used again."""
    log: list[float] = []

    async def reset(_: Thing) -> None:
        await anyio.sleep(0.2)
        log.append(anyio.current_time())

    async with pool_of(Factory(), max=1, reset=reset) as pool:
        await pool.ready()
        begin = anyio.current_time()
        with anyio.CancelScope() as cut:
            async with pool.acquire() as thing:
                cut.cancel()
            await checkpoint()
        assert cut.cancelled_caught
        assert anyio.current_time() == begin
        assert pool.stats.recycling == 1
        assert await use(pool) is thing
        assert log[0] == pytest.approx(begin + 0.2)


@each_backend
@pytest.mark.parametrize("reset", ["instant", "slow", "err", "false", "hang"])
def test_case_28_cancelled_around_a_reset(reset: str, backend: str) -> None:
    """P5, P8: whatever the reset does, and wherever its user is cancelled."""
    options = {"reset": Script(reset), "close_timeout": 1, "max": 1}
    struck(story("instant", user, before=1, after=1, **options), backend)


@pytest.mark.virtual_time
async def test_case_29_a_reset_that_hangs() -> None:
    """P8: it is cut off after `close_timeout`; the place is filled again; who released has gone on at once."""
    factory = Factory()
    async with pool_of(factory, max=1, min=1, reset=Script("hang", "ok"), close_timeout=0.5) as pool:
        await pool.ready()
        first, seconds = await timed(lambda: use(pool))
        assert seconds == 0
        second, seconds = await timed(lambda: use(pool))
        assert second is not first
        assert seconds == pytest.approx(0.5)
        assert factory.gone == [first.number]
        assert pool.stats.discarded == {"reset": 1}
        assert isinstance(pool.stats.last_error, TimeoutError)


async def test_case_30_no_over_grant() -> None:
    """P3: what has been handed to a waiter cannot be had by another, also before that has run."""
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()
        with pytest.raises(anyio.WouldBlock):
            pool.acquire_nowait()
        async with anyio.create_task_group() as tg:
            tg.start_soon(use, pool)
            await settle()
            pool.release(thing)
            with pytest.raises(anyio.WouldBlock):
                pool.acquire_nowait()
            assert pool.stats.in_use == 1
        assert pool.acquire_nowait() is thing
        pool.release(thing)


@pytest.mark.parametrize("again", ["release", "discard"])
@pytest.mark.parametrize("first", ["release", "discard"])
async def test_case_47_given_back_twice(first: str, again: str) -> None:
    """P10: the second time is a `PoolMisuse`, and nothing has changed."""
    factory = Factory()
    async with pool_of(factory, max=2) as pool:
        thing = await pool.acquire()
        getattr(pool, first)(thing)
        before = pool.stats
        with pytest.raises(PoolMisuse, match=rf"pool db of app: {again}\(\) of a resource that has been given back"):
            getattr(pool, again)(thing)
        assert pool.stats == before
        assert pool.stats.discarded == ({} if first == "release" else {"user": 1})
        await check_serves(pool)


async def test_case_47_given_back_while_it_is_reset_or_gone() -> None:
    """P10: also while it is being reset; and one that is gone is no resource of the pool any more."""
    async with pool_of(Factory(), max=1, reset=Script("slow")) as pool:
        thing = await pool.acquire()
        pool.release(thing)
        assert pool.stats.recycling == 1
        for give_back in (pool.release, pool.discard):
            with pytest.raises(PoolMisuse, match="given back already"):
                give_back(thing)
        again = await pool.acquire()
        assert again is thing
        pool.discard(again)
        await settle()
        with pytest.raises(PoolMisuse, match="not one of its resources"):
            pool.release(thing)


async def test_case_47_given_back_in_its_block() -> None:
    """P1, P10: the block does not give it back again, whoever has it by then."""
    async with pool_of(Factory(), max=1) as pool:
        async with pool.acquire() as thing:
            pool.release(thing)
        assert pool.stats.available == 1
        with suppress(ConnectionError):
            async with pool.acquire() as thing:
                pool.release(thing)
                async with pool.acquire() as again:
                    assert again is thing
                    assert pool.stats.in_use == 1
                pool.acquire_nowait()
                raise ConnectionError
        assert pool.stats.in_use == 1, "the error came to a block that had given it back"
        pool.release(thing)
        assert pool.stats.acquired == 4


async def test_case_48_each_task_gives_back_its_own() -> None:
    """P10: two that are the same object are told apart by who has them.

    With raw resources the pool cannot know that the hand of another task is stale: a release by a task that has none is
    taken for that of who has it. What it does promise: a task that has one gives back that one, and a block that was
    given back for it does not touch the next holder.
    """
    shared = object()
    async with scope(name="app") as s:
        pool: Pool[object] = s.pool(lambda: shared, max=2)
        mine = await pool.acquire()
        done, go_on = anyio.Event(), anyio.Event()

        async def other() -> None:
            async with pool.acquire() as same:
                assert same is mine
                pool.release(same)
                done.set()
                await go_on.wait()
                assert pool.acquire_nowait() is shared
                done.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            await done.wait()
            assert (pool.stats.in_use, pool.stats.available) == (1, 1)
            done = anyio.Event()
            go_on.set()
            await done.wait()
            await settle()
            assert pool.stats.in_use == 2, "the end of its block left alone what it acquired by hand"
        pool.release(mine)
        check_open(pool, in_use=1)
        pool.release(shared)
        with pytest.raises(PoolMisuse):
            pool.release(shared)
        check_open(pool, in_use=0)


async def test_case_48_a_block_leaves_the_next_holder_alone() -> None:
    """P10: it was released by another hand within the block, and somebody else has it now."""
    async with pool_of(Factory(), max=1) as pool:
        entered, stolen = anyio.Event(), anyio.Event()
        things: list[Thing] = []

        async def robbed() -> None:
            async with pool.acquire() as thing:
                things.append(thing)
                entered.set()
                await stolen.wait()

        async with anyio.create_task_group() as tg:
            tg.start_soon(robbed)
            await entered.wait()
            tg.start_soon(steal, pool, things[0], stolen)
            await settle()
        check_open(pool, in_use=0)
        assert pool.stats.acquired == 2


async def steal(pool: Pool[Thing], thing: Thing, stolen: anyio.Event) -> None:
    """Take from the other holder what it has, and have it until that one's block has ended."""
    pool.release(thing)
    assert await pool.acquire() is thing
    stolen.set()
    await settle()
    assert pool.stats.in_use == 1
    await thing.work()
    pool.release(thing)


async def test_case_49_given_back_to_the_wrong_pool() -> None:
    """P10: a resource of another pool, or no resource at all."""
    async with pool_of(Factory(), max=1, name="x") as x, pool_of(Factory(), max=1, name="y") as y:
        thing = await x.acquire()
        (idle,) = await fill(y, 1)
        before = x.stats, y.stats
        for wrong in (thing, object(), None, "thing"):
            for give_back in (y.release, y.discard):
                with pytest.raises(
                    PoolMisuse, match=f"pool y of app > app: .*a {type(wrong).__name__} that is not one of"
                ):
                    give_back(wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(PoolMisuse, match="given back already"):
            y.release(idle)
        assert (x.stats, y.stats) == before
        x.release(thing)


# ------------------------------------------------------------------ closing
@pytest.mark.virtual_time
@pytest.mark.parametrize("delay", [0.0, 0.01, 5.0])
@pytest.mark.parametrize("way", WAYS)
async def test_case_50_it_ends_however_the_last_holder_leaves(way: str, delay: float) -> None:
    """P11: at whatever moment, in whichever way; at the very end of `close_timeout` too."""
    factory = Factory(ends=["err" if way == "destroy fails" else "ok"])
    errors: list[BaseException] = []

    async def holder() -> None:
        async with pool.acquire() as thing:
            entered.set()
            await anyio.sleep(delay)
            if way in {"release", "discard"} and pool.stats.in_use:
                getattr(pool, way)(thing)

    async with anyio.create_task_group() as tg:
        entered = anyio.Event()
        try:
            async with pool_of(factory, in_use=None, max=1) as pool:
                tg.start_soon(holder)
                await entered.wait()
        except ExceptionGroup as group:
            errors += leaves(group)
    kinds = {type(error) for error in errors}
    assert kinds <= {Refused, PoolMisuse}
    assert (Refused in kinds) == (way == "destroy fails")
    assert PoolMisuse not in kinds or delay == 5


@pytest.mark.virtual_time
async def test_case_51_who_waits_is_told_at_once() -> None:
    """P11: with `PoolClosed`; nobody is served after the close has begun."""
    told: list[tuple[type[BaseException], float]] = []

    async def wait() -> None:
        outcome, seconds = await timed(lambda: use(pool))
        told.append((type(outcome), seconds))

    async with anyio.create_task_group() as tg:
        async with pool_of(Factory(), in_use=1, max=1) as pool:
            thing = await pool.acquire()
            for _ in range(3):
                tg.start_soon(wait)
            await settle()
            assert pool.stats.waiting == 3
            tg.start_soon(release_later, pool, thing, 1)
        assert told == [(PoolClosed, 0.0)] * 3
    assert (pool.stats.acquired, pool.stats.waiting) == (1, 0)


@pytest.mark.virtual_time
async def test_case_51_who_waits_for_ready_is_told_at_once() -> None:
    """P11: `ready()` is a wait too."""
    told: list[Any] = []

    async def wait() -> None:
        told.append(await timed(lambda: pool.ready(timeout=20)))

    async with anyio.create_task_group() as tg, pool_of(Factory("hang"), min=1) as pool:
        tg.start_soon(wait)
        await settle()
    ((outcome, seconds),) = told
    assert isinstance(outcome, PoolClosed)
    assert seconds == 0


@pytest.mark.virtual_time
async def test_case_52_a_holder_is_waited_for() -> None:
    """P11: it is not disturbed, and what it had is destroyed when it is given back."""
    factory = Factory()
    used: list[float] = []

    async def holder() -> None:
        async with pool.acquire() as thing:
            entered.set()
            await thing.work(3)
            used.append(anyio.current_time())
            assert not thing.ends

    async with anyio.create_task_group() as tg:
        entered = anyio.Event()
        async with pool_of(factory, in_use=1, max=2) as pool:
            await fill(pool, 2)
            tg.start_soon(holder)
            await entered.wait()
            begin = anyio.current_time()
        assert anyio.current_time() == begin + 3
    assert used == [begin + 3]
    assert pool.stats.discarded == {"closed": 2}


async def test_case_53_a_closed_pool() -> None:
    """P10, P11: everything says `PoolClosed`, at once; giving back says nothing."""
    factory = Factory()
    async with pool_of(factory, max=1, min=1) as pool:
        await pool.ready()
        prepared = pool.acquire()
        entered = pool.acquire()
        thing = await pool.acquire()
        async with anyio.create_task_group() as tg:
            tg.start_soon(release_later, pool, thing)
            await pool.aclose()
        assert pool.closed
        for action in (pool.acquire, pool.acquire_nowait, pool.refresh, pool.resize):
            with pytest.raises(PoolClosed, match=rf"pool db of app is closed: {action.__name__}\(\) came too late"):
                action()
        for wait in (lambda: pool.execute(Thing.work), pool.ready, lambda: use(pool)):
            with pytest.raises(PoolClosed):
                await wait()
        pool.release(thing)
        pool.discard(thing)
        with anyio.fail_after(1):
            with pytest.raises(PoolClosed):
                await prepared
            with pytest.raises(PoolClosed):
                await entered.__aenter__()
        check_closed(pool, factory)
        assert repr(pool) == "<Pool db of app closed, 0 of 1 in use, 0 available, 0 waiting>"
        await pool.aclose()


@pytest.mark.virtual_time
async def test_case_53_given_back_after_it_was_taken_away() -> None:
    """P11: who gives back too late what the pool has destroyed meanwhile is not troubled."""
    factory = Factory()
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, in_use=1, max=1, close_timeout=1) as pool:
            thing = await pool.acquire()
    assert [type(error) for error in leaves(caught.value)] == [PoolMisuse]
    assert thing.is_gone
    pool.release(thing)
    pool.discard(thing)
    check_closed(pool, factory)


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["ok", "err", "hang", "slow"])
async def test_case_54_a_creation_under_way(kind: str) -> None:
    """P11: the close waits for it, up to `close_timeout`, and its product is destroyed."""
    factory = Factory(kind, create_delay=0.3)
    async with pool_of(factory, min=2, close_timeout=1) as pool:
        await settle()
        assert pool.stats.creating == 2
        begin = anyio.current_time()
    assert anyio.current_time() - begin == pytest.approx(1 if kind == "hang" else 0.35 if kind == "slow" else 0.3)
    assert len(factory.things) == (2 if kind in {"ok", "slow"} else 0)


@pytest.mark.parametrize("count", range(4))
async def test_case_54_a_creation_that_has_hardly_begun(count: int) -> None:
    """P11: so many turns before the close."""
    factory = Factory()
    async with pool_of(factory, min=3):
        await turns(count)


@pytest.mark.virtual_time
async def test_case_55_destroys_that_fail_and_hang() -> None:
    """P11: the others are destroyed, each error is reported once, and it takes no longer than it may."""
    factory = Factory(ends=["err", "hang", "ok"])
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, min=3, close_timeout=0.2) as pool:
            await pool.ready()
            begin = anyio.current_time()
    assert anyio.current_time() == pytest.approx(begin + 0.2)
    errors = leaves(caught.value)
    assert [type(error) for error in errors] == [Refused, TimeoutError]
    assert pool.stats.destroy_errors == 2
    assert all(thing.ends == 1 for thing in factory.things)


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["ok", "hang"])
@pytest.mark.parametrize("function", ["reset", "check"])
async def test_case_55_a_destroy_is_not_cut_off_by_what_came_before(function: str, kind: str) -> None:
    """P11: closed in the very turn that orders a reset or a check: it is bounded, the destroy has a time of its own."""
    factory = Factory(destroy_delay=0.5)
    options = {function: Script(kind), "check_after": 0.5, "close_timeout": 1, "create_timeout": 3}
    async with pool_of(factory, in_use=0, max=1, **options) as pool:
        thing = await pool.acquire()
        pool.release(thing)
        if function == "check":
            await anyio.sleep(1)
            with pytest.raises(anyio.WouldBlock):
                pool.acquire_nowait()
        assert pool.stats.recycling == 1
        _, seconds = await timed(pool.aclose)
        assert seconds == pytest.approx(1.5 if kind == "hang" else 0.5)
        assert pool.stats.destroy_errors == 0


async def test_case_55_a_plain_destroy_takes_no_time() -> None:
    """P11: what has been done to its end was done in time."""
    gone: list[object] = []
    async with scope() as s:
        pool: Pool[object] = s.pool(object, destroy=gone.append, min=2, close_timeout=0)
        await pool.ready()
    assert len(gone) == pool.stats.destroyed == 2
    assert pool.stats.destroy_errors == 0


@pytest.mark.virtual_time
async def test_case_55_not_in_place_of_the_error_of_the_body() -> None:
    """P11: that of the body comes first, those of `destroy` beside it."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            factory = Factory(ends=["err"])
            pool = s.pool(factory.create, destroy=factory.destroy)
            await use(pool)
            raise KeyError("body")
    assert [type(error) for error in leaves(caught.value)] == [KeyError, Refused]
    check_closed(pool, factory)


@pytest.mark.virtual_time
async def test_case_55_aclose_raises_what_the_scope_then_does_not() -> None:
    """P11: an error is reported once."""
    async with pool_of(Factory(ends=["err"])) as pool:
        await use(pool)
        with pytest.raises(Refused):
            await pool.aclose()
        await pool.aclose()


@each_backend
@pytest.mark.parametrize("creation", ["instant", "slow", "err", "hang"])
def test_case_56_a_close_that_is_cancelled(creation: str, backend: Any) -> None:
    """P5, P11: called again it goes on; each resource is destroyed once."""

    async def scenario(sim: Simulation) -> None:
        factory = Factory("instant", creation, "ok", ends=["ok", "slow"])
        async with pool_of(factory, max=2, close_timeout=1) as pool:
            thing = await pool.acquire()
            async with anyio.create_task_group() as tg:
                tg.start_soon(until_closed, pool)
                tg.start_soon(release_later, pool, thing, 0.1)
                await sim.victim(pool.aclose)
                if sim.has_struck:
                    await pool.aclose()
                    check_closed(pool, factory)

    struck(scenario, backend)


async def until_closed(pool: Pool[Thing]) -> None:
    """Use it again and again."""
    with suppress(PoolClosed):
        while True:
            await use(pool, 0.01)


@each_backend
@pytest.mark.parametrize("reset", [None, "instant"])
def test_case_56_a_close_without_patience(reset: str | None, backend: Any) -> None:
    """P5, P11: what is taken away from who has hardly got it is ended once, also if that one is cancelled then."""

    async def scenario(sim: Simulation) -> None:
        factory = Factory("instant", ends=["instant"])
        options: dict[str, Any] = {"reset": Script(reset)} if reset else {}
        async with pool_of(factory, in_use=None, max=1, close_timeout=0, **options) as pool:
            thing = await pool.acquire()

            async def close() -> None:
                pool.release(thing)
                await checkpoint()
                with suppress(PoolMisuse):
                    await pool.aclose()

            async def victim() -> None:
                with suppress(PoolClosed):
                    async with pool.acquire():
                        pass

            async with anyio.create_task_group() as tg:
                tg.start_soon(close)
                await sim.victim(victim)
            await settle()
            check_open(pool, in_use=0)

    struck(scenario, backend, runs=150)


@each_backend
def test_case_56_a_scope_that_is_cancelled(backend: Any) -> None:
    """P11: wherever its owner is cancelled, a pool destroys what it has."""

    async def scenario(sim: Simulation) -> None:
        factory = Factory("instant", "slow", ends=["ok", "slow"])

        async def victim() -> None:
            async with pool_of(factory, max=2, min=1, close_timeout=1) as pool, anyio.create_task_group() as tg:
                tg.start_soon(use, pool, 0.01)
                tg.start_soon(use, pool, 0.02)
                await use(pool)

        await sim.victim(victim)
        assert not factory.alive

    struck(scenario, backend)


@pytest.mark.parametrize("check", [None, "ok"])
async def test_case_57_refresh(check: str | None) -> None:
    """P9: the idle ones are replaced at once, the one in use when it is given back; no place is lost."""
    factory = Factory()
    async with pool_of(factory, max=3, min=2, check=Script(check) if check else None) as pool:
        first = await fill(pool, 3)
        held = await pool.acquire()
        pool.refresh()
        await settle()
        assert sorted(factory.gone) == sorted(thing.number for thing in first if thing is not held)
        assert pool.stats.in_use == 1
        assert not held.ends
        pool.release(held)
        await settle()
        assert held.is_gone
        assert pool.stats.discarded == {"refresh": 3}
        assert pool.stats.total == 2, "min is kept"
        await check_serves(pool)
        assert all(thing.is_gone for thing in first)


@each_backend
@pytest.mark.parametrize("creation", ["instant", "slow", "err", "hang"])
def test_case_57_cancelled_while_all_is_replaced(creation: str, backend: Any) -> None:
    """P5, P9: `refresh()` is one step; whatever goes on around it, no place is lost."""

    async def scenario(sim: Simulation) -> None:
        factory = Factory("instant", "instant", creation, "ok", ends=["ok", "slow"])
        async with pool_of(factory, max=2, create_timeout=1) as pool:
            old = await fill(pool, 2)

            async def victim() -> None:
                async with pool.acquire():
                    await checkpoint()
                    pool.refresh()
                    await checkpoint()
                await use(pool)

            async with anyio.create_task_group() as tg:
                tg.start_soon(use, pool, 0.01)
                await sim.victim(victim)
            pool.refresh()
            await check_serves(pool)
            assert all(thing.ends for thing in old)

    struck(scenario, backend)


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["create", "destroy", "check", "reset"])
async def test_case_58_closed_from_inside(where: str) -> None:
    """P11: from a function of its own that the close waits for: no deadlock, it ends when its time is over."""
    pools: list[Pool[object]] = []
    calls: list[float] = []

    async def close(*_: object) -> object:
        if not calls:
            calls.append(anyio.current_time())
            await pools[0].aclose()
        return object()

    functions: dict[str, Any] = {"create": object, where: close}
    outcome: list[BaseException] = []
    try:
        async with scope() as s:
            pools.append(s.pool(**functions, max=1, close_timeout=1, check_after=0))
            async with anyio.create_task_group() as tg:
                tg.start_soon(quietly, pools[0])
                await anyio.sleep(0.1)
                tg.start_soon(quietly, pools[0])
                await anyio.sleep(0.1)
    except ExceptionGroup as group:
        outcome += leaves(group)
    assert calls
    assert anyio.current_time() - calls[0] <= 2.2
    assert all(isinstance(error, TimeoutError) for error in outcome), outcome
    check_open(pools[0], in_use=0)
    assert pools[0].stats.total == pools[0].stats.creating == pools[0].stats.destroying == 0


async def quietly(pool: Pool[object]) -> None:
    """A use that may be refused."""
    with suppress(PoolClosed):
        async with pool.acquire():
            await checkpoint()


@pytest.mark.virtual_time
async def test_case_59_a_resource_that_is_never_given_back() -> None:
    """P11: the close ends after `close_timeout`, and says which task has it, since when, and from where."""
    factory = Factory()
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, in_use=2, max=2, close_timeout=0.5) as pool:
            async with anyio.create_task_group() as tg:
                tg.start_soon(never_give_back, pool, name="the-culprit")
            await pool.acquire()
            await anyio.sleep(2)
            begin = anyio.current_time()
    assert anyio.current_time() == pytest.approx(begin + 0.5)
    (error,) = leaves(caught.value)
    assert isinstance(error, PoolMisuse)
    text = str(error)
    assert "pool db of app: closed with 2 resources still lent, after a wait of 0.5 s" in text
    assert re.search(
        r"held by task the-culprit for 2\.5 s, acquired at test_pool_closing\.py:\d+ in never_give_back", text
    )
    assert re.search(r"for 2\.5 s, acquired at test_pool_closing\.py:\d+ in test_case_59", text)
    check_closed(pool, factory)


async def never_give_back(pool: Pool[Thing]) -> None:
    """Forget it."""
    await pool.acquire()


@asynccontextmanager
async def connection(log: list[str]) -> AsyncIterator[str]:
    """A resource with an inside."""
    log.append("open")
    try:
        yield "connection"
    finally:
        await checkpoint()
        log.append("closed")


@pytest.mark.virtual_time
async def test_case_59_a_context_manager_that_is_never_given_back() -> None:
    """P2, P11: it is left all the same."""
    log: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            pool: Pool[str] = s.pool(lambda: connection(log))
            await pool.acquire()
    assert [type(error) for error in leaves(caught.value)] == [PoolMisuse]
    assert log == ["open", "closed"]
