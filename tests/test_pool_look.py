"""Looking at a pool: its texts, its numbers, what hooks hear; a pool that stands alone; and its rare ends."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import (
    CloseTimeout,
    Hooks,
    PollEvent,
    Pool,
    PoolClosed,
    PoolEvent,
    PoolMisuse,
    PoolStats,
    PoolTimeout,
    ScopeCancelled,
    scope,
)
from anyscope._features.pooling import stock as stock_module
from anyscope._features.pooling.pool import stock_of, task_names
from pools import Factory, Refused, Thing, check_closed, check_serves, pool_of, settle, use
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Log(Hooks):
    """Writes down what pools do.

    Attributes:
        events: All of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[PoolEvent] = []

    def pool_changed(self, event: PoolEvent, /) -> None:
        """Write it down."""
        self.events.append(event)

    @property
    def moments(self) -> list[str]:
        """What happened."""
        return [event.moment for event in self.events]


# ------------------------------------------------------------------ texts and numbers


async def test_repr_from_birth_to_end() -> None:
    """S13: one line with name, scope, state and numbers."""
    factory = Factory()
    pool = Pool(factory.create, destroy=factory.destroy, name="db", max=2)
    assert repr(pool) == "<Pool db not open>"
    assert (pool.name, pool.closed) == ("db", False)
    async with scope(name="app"), pool:
        assert repr(pool) == "<Pool app > db open, 0 of 2 in use, 0 available, 0 waiting>"
        async with pool.acquire():
            assert repr(pool) == "<Pool app > db open, 1 of 2 in use, 0 available, 0 waiting>"
        assert repr(pool) == "<Pool app > db open, 0 of 2 in use, 1 available, 0 waiting>"
    assert repr(pool) == "<Pool app > db closed, 0 of 2 in use, 0 available, 0 waiting>"
    check_closed(pool, factory)


async def test_the_name_is_that_of_create() -> None:
    """S13: where none is given."""
    async with scope(name="app") as s:
        assert s.pool(Factory().create).name == "Factory.create"
        assert repr(s.pool(dict)) == "<Pool dict of app open, 0 of 10 in use, 0 available, 0 waiting>"


async def test_the_tree_shows_pools_with_their_numbers() -> None:
    """S13: as long as they are open, and while they close."""
    ending = anyio.Event()

    async def destroy(_: object) -> None:
        trees.append(s.tree())
        ending.set()

    trees: list[str] = []
    async with scope(name="app") as s:
        pool = s.pool(dict, destroy=destroy, name="db", max=3)
        async with pool.acquire():
            assert s.tree().split("\n") == ["scope app open", "  pool db (#0): 1 of 3 in use, 0 available, 0 waiting"]
    assert trees[0].split("\n")[:2] == ["scope app closing", "  pool db (#0) closing"]


async def test_the_numbers_are_frozen_and_can_be_sent() -> None:
    """P12: a record that does not change, and can be pickled and copied, as can the error that carries it."""
    async with scope(name="app") as s:
        pool = s.pool(dict, name="db", max=1)
        async with pool.acquire():
            stats = pool.stats
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=0)
        pool.discard(await pool.acquire())
        assert (stats.in_use, stats.discarded) == (1, {})
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.in_use = 3  # type: ignore[misc]
        for twin in (pickle.loads(pickle.dumps(pool.stats)), copy.deepcopy(pool.stats)):
            assert isinstance(twin, PoolStats)
            assert twin == pool.stats
            assert twin.discarded == {"user": 1}
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)
        assert again.stats == dataclasses.replace(stats, timeouts=1)


async def test_texts_of_misuse() -> None:
    """P10: what happened, to which pool, and the right line."""
    async with scope(name="app") as s:
        pool = s.pool(dict, name="db", max=1)
        given = pool.acquire()
        async with given:
            with pytest.raises(PoolMisuse) as caught:
                await given.__aenter__()
            assert str(caught.value) == (
                "pool db of app: what one acquire() gave was entered twice\n"
                "Right: async with pool.acquire() as it: ...   anew for each resource"
            )
        async with given:  # one after the other is fine
            pass
        assert pool.stats.available == 1
    with pytest.raises(PoolClosed) as closed:
        await pool.acquire()
    assert str(closed.value) == (
        "pool db of app is closed: acquire() came too late\n"
        "A pool closes with its scope: use it inside the block, or make it in a scope that lives longer."
    )


@pytest.mark.parametrize("call", ["acquire", "acquire_nowait", "resize", "refresh"])
async def test_a_closed_pool(call: str) -> None:
    """P10: says so, whatever it is asked for."""
    async with scope(name="app") as s:
        pool = s.pool(dict, name="db")
        await pool.aclose()
        with pytest.raises(PoolClosed, match=rf"pool db of app is closed: {call}\(\) came too late"):
            getattr(pool, call)()
        with pytest.raises(PoolClosed, match="ready"):
            await pool.ready()


# ------------------------------------------------------------------ hooks


@pytest.mark.virtual_time
async def test_what_hooks_hear() -> None:
    """P12, H2: each moment, with name, path, duration, reason and error."""
    log = Log()
    factory = Factory("ok", "err", "ok", create_delay=0.5, ends=("ok", "err"))
    with pytest.raises(ExceptionGroup):
        async with scope(name="app", hooks=log) as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", max=1, max_waiting=0)
            async with pool.acquire():
                await anyio.sleep(2)
                with pytest.raises(PoolTimeout):
                    await pool.acquire(timeout=0)
                with pytest.raises(Exception, match="0 tasks wait already, which is max_waiting"):
                    await pool.acquire()
            pool.discard(await pool.acquire())
            with anyio.move_on_after(0.1):
                await pool.acquire()
            async with pool.acquire():
                pass
    assert all((event.pool, event.path) == ("db", "app") for event in log.events)
    seen = [(event.moment, round(event.duration, 2), event.reason, type(event.error).__name__) for event in log.events]
    nothing = "NoneType"
    assert seen[:8] == [
        ("created", 0.5, "", nothing),
        ("acquired", 0.5, "", nothing),
        ("timeout", 0, "", nothing),
        ("rejected", 0, "", nothing),
        ("released", 2, "", nothing),
        ("acquired", 0, "", nothing),
        ("released", 0, "", nothing),
        ("discarded", 0, "user", nothing),
    ]
    assert ("cancelled", 0.1, "", nothing) in seen
    assert ("create_failed", 0, "", "Refused") in seen
    assert seen[-2:] == [("discarded", 0, "closed", nothing), ("destroyed", 0, "", "Refused")]
    assert log.events[-1].error is pool.stats.last_error
    counts = pool.stats
    assert (counts.acquired, counts.timeouts, counts.rejected, counts.cancelled) == (3, 1, 1, 1)
    for moment, count in (("created", counts.created), ("destroyed", counts.destroyed), ("acquired", counts.acquired)):
        assert log.moments.count(moment) == count


async def test_a_hook_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """H4: it is logged once, and the other hooks hear all."""

    def bad(event: PoolEvent) -> None:
        raise ValueError("bad hook")

    class Bad(Hooks):
        """Raises."""

        def pool_changed(self, event: PoolEvent, /) -> None:
            """Raise."""
            bad(event)

    log = Log()
    factory = Factory()
    async with scope(name="app", hooks=[Bad(), log]) as s:
        pool = s.pool(factory.create, destroy=factory.destroy, max=1)
        await use(pool)
    assert log.moments == ["created", "acquired", "released", "discarded", "destroyed"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "bad hook" in caplog.text
    check_closed(pool, factory)


def test_hooks_that_do_not_care() -> None:
    """H2: a subclass need not override it."""
    assert Hooks().pool_changed(PoolEvent("db", "app", "acquired")) is None
    assert Hooks().polled(PollEvent("health", "app", "succeeded")) is None


# ------------------------------------------------------------------ alone


async def test_a_pool_alone() -> None:
    """P1: entered with `async with`, it closes at the end of the block, and waits for nobody."""
    factory = Factory()
    async with Pool(factory.create, destroy=factory.destroy, name="db", min=1, max=2) as pool:
        await pool.ready()
        assert await pool.execute(lambda thing: thing.number) == 0
        thing = pool.acquire_nowait()
        assert thing.number == 0
        pool.release(thing)
    check_closed(pool, factory)


async def test_a_pool_alone_that_is_used_wrongly() -> None:
    """P10: before its block, and entered again."""
    pool = Pool(dict, name="db")
    with pytest.raises(PoolMisuse) as caught:
        pool.acquire()
    assert str(caught.value) == "pool db: it is not open yet\nRight: async with Pool(...) as pool: ..."
    async with scope(name="app"), pool:
        with pytest.raises(PoolMisuse) as caught:
            await pool.__aenter__()
        assert str(caught.value) == "pool app > db: it was entered a second time\nMake another one: Pool(...)"
        await use_any(pool)
    with pytest.raises(PoolMisuse, match="entered a second time"):
        await pool.__aenter__()


async def use_any(pool: Pool[Any]) -> None:
    """Use one, and do nothing with it."""
    async with pool.acquire():
        await checkpoint()


async def test_the_error_of_the_block_of_a_pool_alone() -> None:
    """P11: it leaves as it is, and the pool is closed."""
    factory = Factory()
    pool = Pool(factory.create, destroy=factory.destroy)
    with pytest.raises(KeyError, match="mine"):
        async with pool:
            await use(pool)
            raise KeyError("mine")
    check_closed(pool, factory)


async def test_a_pool_alone_is_cancelled_with_its_task() -> None:
    """P11: a cancellation closes it too, and goes on."""
    factory = Factory()
    pool = Pool(factory.create, destroy=factory.destroy, min=2)
    with anyio.CancelScope() as cut:
        async with pool:
            await pool.ready()
            cut.cancel()
            await anyio.sleep_forever()
    assert cut.cancelled_caught
    check_closed(pool, factory)


@pytest.mark.virtual_time
async def test_an_error_of_destroy_leaves_a_pool_alone() -> None:
    """P11: and each of several."""
    factory = Factory(ends=("err",))
    pool = Pool(factory.create, destroy=factory.destroy, name="db", min=2, max=2)
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app"), pool:
            await pool.ready()
    assert [type(error) for error in leaves(caught.value)] == [Refused, Refused]
    assert "errors of pool app > db" in str(caught.value.exceptions[0]) or "errors of pool" in str(caught.value)


# ------------------------------------------------------------------ waiting, at its bounds


@pytest.mark.virtual_time
async def test_those_for_whom_one_is_made_do_not_count_as_waiting() -> None:
    """P6: `max_waiting=0` refuses nobody for whom there is a place."""
    factory = Factory(create_delay=1)
    async with pool_of(factory, max=2, max_waiting=0) as pool, anyio.create_task_group() as tg:
        tg.start_soon(use, pool, 1)
        tg.start_soon(use, pool, 1)
        await settle()
        assert (pool.stats.creating, pool.stats.waiting) == (2, 2)
        with pytest.raises(Exception, match="which is max_waiting"):
            await pool.acquire()
        assert pool.stats.rejected == 1


@pytest.mark.virtual_time
async def test_a_server_that_is_down_fills_the_queue() -> None:
    """P6: while nothing can be made, as many wait as `max_waiting` and `max` together, and no more."""
    async with pool_of(Factory("err"), max=2, max_waiting=1, acquire_timeout=1) as pool:
        outcomes: list[str] = []

        async def ask() -> None:
            try:
                await use(pool)
            except Exception as error:
                outcomes.append(type(error).__name__)

        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(ask)
        assert sorted(outcomes) == ["PoolFull"] * 2 + ["PoolTimeout"] * 3


async def test_no_time_takes_only_what_is_there() -> None:
    """P6: `timeout=0` makes nothing, and waits for nothing."""
    factory = Factory()
    async with pool_of(factory, max=1) as pool:
        with pytest.raises(PoolTimeout) as caught:
            await pool.acquire(timeout=0)
        assert str(caught.value) == (
            "pool db of app: nothing to be had within 0 s (0 of 1 in use, 0 available, 0 waiting)"
        )
        await settle()
        assert factory.begun == 0
        await use(pool)
        await use(pool, timeout=0)
        assert factory.begun == 1


# ------------------------------------------------------------------ rare ends


@pytest.mark.virtual_time
async def test_what_has_expired_in_this_very_moment_is_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: whoever comes first, the one who asks or the clock."""
    monkeypatch.setattr(stock_module, "JITTER", 0.0)
    factory = Factory("instant")
    async with pool_of(factory, max=2, max_lifetime=5) as pool:
        for _ in range(5):
            await use(pool)
            (item,) = stock_of(pool).items
            await anyio.sleep_until(item.expires_at)
            thing = await use(pool)
            assert thing is not item.value
        assert pool.stats.discarded == {"lifetime": 5}


def late(number: int, log: list[int]) -> Any:
    """A creation that takes longer than it may, and cannot be cut off."""

    async def plain() -> Thing:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3)
        return Thing(number)

    @asynccontextmanager
    async def manager() -> AsyncIterator[Thing]:
        yield await plain()
        log.append(number)

    return plain, manager


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_manager", [False, True])
async def test_what_comes_too_late_is_ended(is_manager: bool) -> None:
    """P11: a resource that `create` gives after its time was over is ended, once, and serves nobody."""
    log: list[int] = []
    create = late(7, log)[is_manager]
    end = None if is_manager else lambda thing: log.append(thing.number)
    async with scope(name="app") as s:
        pool: Pool[Thing] = s.pool(create, destroy=end, name="db", max=1, create_timeout=1, acquire_timeout=2)
        with pytest.raises(PoolTimeout):
            await pool.acquire()
        await anyio.sleep(2)
        assert log == [7]
        assert (pool.stats.created, pool.stats.create_errors, pool.stats.total) == (0, 1, 0)
        assert isinstance(pool.stats.last_error, TimeoutError)
        assert str(pool.stats.last_error) == "creating took too long"


@pytest.mark.parametrize("fatal", [KeyboardInterrupt("enough"), SystemExit(3)], ids=repr)
async def test_a_fatal_error_of_create_ends_the_scope(fatal: BaseException) -> None:
    """S6: it leaves bare, and nobody waits for ever."""

    def create() -> None:
        raise fatal

    with pytest.raises(type(fatal)) as caught:
        async with scope(name="app") as s:
            pool = s.pool(create, name="db", max=1)
            await pool.acquire()
    assert caught.value is fatal
    assert repr(pool.stats.last_error) == f"RuntimeError('ended by {type(fatal).__name__}')"


@pytest.mark.virtual_time
async def test_more_errors_of_destroy_than_are_kept() -> None:
    """P11: the first hundred leave, the others are counted."""

    def destroy(_: object) -> None:
        raise Refused("no")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            pool = s.pool(dict, destroy=destroy, name="db", min=103, max=103)
            await pool.ready()
    assert len(leaves(caught.value)) == 100
    assert pool.stats.destroy_errors == 103
    assert "(and 3 more that were not kept)" in str(caught.value)


@pytest.mark.virtual_time
async def test_the_bound_of_the_scope_comes_before_that_of_the_pool() -> None:
    """P11, S8: what is still lent by then is destroyed all the same, and the overrun is told."""
    factory = Factory()
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of_brief_scope(factory) as pool:
            await pool.acquire()
    assert any(isinstance(error, CloseTimeout) for error in leaves(caught.value))
    check_closed(pool, factory)


@asynccontextmanager
async def pool_of_brief_scope(factory: Factory) -> AsyncIterator[Pool[Thing]]:
    """A pool that would wait for longer than its scope does."""
    async with scope(name="app", close_timeout=1) as s:
        yield s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=60)


@pytest.mark.asyncio_only
async def test_tasks_that_the_backend_has_dropped() -> None:
    """P11: a creation whose task was cancelled natively before its first step is given up, and the pool closes."""
    factory = Factory()
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, min=2, max=2) as pool:
            for task in asyncio.all_tasks():
                if task.get_name() in task_names(pool)[1:]:
                    task.cancel()
            await pool.aclose()
    (error,) = leaves(caught.value)
    assert isinstance(error, ScopeCancelled)
    assert error.reason == "one of its tasks was cancelled natively before it began"
    assert factory.begun == 0


async def test_a_task_that_was_taken_for_lost_and_begins_after_all() -> None:
    """P11: it makes nothing."""
    factory = Factory()
    async with pool_of(factory, min=1, max=1) as pool:
        stock_of(pool).give_up_unborn()
        await pool.ready()
        await settle()
        assert (factory.begun, pool.stats.create_errors) == (1, 1)
        await check_serves(pool)


async def test_scopes_and_tasks_of_a_resource() -> None:
    """P4, S5: a resource may open a scope of its own, for its whole life; the closing scope waits for none of these."""
    log: list[str] = []

    async def create() -> AsyncIterator[Any]:
        async with scope(name="inner") as inner:
            inner.start_soon(anyio.sleep_forever, daemon=True)
            yield inner
        log.append("closed")

    with anyio.fail_after(5):
        async with scope(name="app") as s:
            pool = s.pool(create, name="db", max=1)
            async with pool.acquire() as inner:
                assert (await inner.task(checkpoint)).unwrap() is None
    assert log == ["closed"]


@pytest.mark.asyncio_only
@pytest.mark.parametrize("moment", ["create", "check", "reset"])
async def test_a_task_of_the_pool_that_is_cancelled_natively(moment: str) -> None:
    """P5: what it was at has failed; the next one is tried, and nothing is lost."""
    factory = Factory()
    struck: list[str] = []

    async def strike(_: object = None) -> None:
        if not struck:
            struck.append(moment)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await checkpoint()

    async def create() -> Thing:
        if moment == "create":
            await strike()
        return await factory.create()

    options: dict[str, Any] = {moment: strike} if moment != "create" else {}
    async with scope(name="app") as s:
        pool = s.pool(
            create, destroy=factory.destroy, name="db", max=1, check_after=0, backoff=(0.001, 0.002), **options
        )
        await use(pool)
        await use(pool)
        assert struck == [moment]
        assert repr(pool.stats.last_error) == "RuntimeError('cancelled natively')"
    check_closed(pool, factory)
