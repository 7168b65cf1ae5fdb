"""Scratch."""
from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from anyscope import Pool, PoolClosed, PoolMisuse, PoolTimeout, PoolFull, scope, Hooks, CloseTimeout, ScopeMisuse
from anyscope.testing import Simulation
from pools import Factory, Thing, check_closed, check_open, check_serves, fill, pool_of, settle, use, each_backend, struck, Refused
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


@pytest.mark.virtual_time
async def test_ready_without_time() -> None:
    factory = Factory()
    async with pool_of(factory, min=2) as pool:
        await pool.ready()
        await pool.ready(timeout=0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("bound", [1, 20])
async def test_hanging_destroy_without_bound(bound: float) -> None:
    """S7."""
    factory = Factory(ends=["hang"])
    began = anyio.current_time()
    with pytest.raises((ExceptionGroup, CloseTimeout)) as caught:
        async with scope(name="app", close_timeout=bound) as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=None)
            await use(pool)
    assert anyio.current_time() - began < bound + 1
    assert any(isinstance(error, CloseTimeout) for error in leaves(caught.value)), leaves(caught.value)
    check_closed(pool, factory)


@pytest.mark.virtual_time
@pytest.mark.parametrize("close", [None, 60])
async def test_hanging_create_without_bound(close: float | None) -> None:
    """S7."""
    factory = Factory("hang")
    began = anyio.current_time()
    with pytest.raises((ExceptionGroup, CloseTimeout)) as caught:
        async with scope(name="app", close_timeout=1) as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=close, create_timeout=None, min=1)
            await anyio.sleep(0.1)
    assert anyio.current_time() - began < 3
    check_closed(pool, factory)


@pytest.mark.virtual_time
@pytest.mark.parametrize("what", ["check", "reset"])
async def test_hanging_check_without_bound(what: str) -> None:
    """S7."""
    factory = Factory()
    began = anyio.current_time()
    async def hang(_): await anyio.sleep_forever()
    with pytest.raises((ExceptionGroup, CloseTimeout)) as caught:
        async with scope(name="app", close_timeout=1) as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=None, create_timeout=None, check_after=0, **{what: hang})
            await use(pool)
            with suppress(PoolTimeout):
                await use(pool, timeout=0.1)
    assert anyio.current_time() - began < 3
    check_closed(pool, factory)


@pytest.mark.virtual_time
async def test_default_bounds_holder_and_hanging_destroy() -> None:
    """P11."""
    factory = Factory(ends=["hang"])
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db")
            await pool.acquire()
    errors = leaves(caught.value)
    print(errors)
    assert any(isinstance(error, PoolMisuse) for error in errors), errors
    assert pool.stats.destroy_errors == 1
    assert any(str(error) == "destroying took too long" for error in errors), errors


@pytest.mark.virtual_time
async def test_scope_bound_first_reports_holders() -> None:
    """P11."""
    factory = Factory()
    with pytest.raises((ExceptionGroup, CloseTimeout, PoolMisuse)) as caught:
        async with scope(name="app", close_timeout=1) as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=60)
            await pool.acquire()
    errors = leaves(caught.value)
    assert any(isinstance(error, PoolMisuse) for error in errors), errors


async def test_hooks_see_consistent_numbers() -> None:
    """P3."""
    wrong: list[str] = []
    pools: list[Pool[Any]] = []

    class Look(Hooks):
      def pool_changed(self, event: Any, /) -> None:
        if not pools: return
        try:
            check_open(pools[0])
        except AssertionError as e:
            wrong.append(f"{event.moment} {event.reason}: {e}")

    factory = Factory("ok", "err", "ok")
    async with scope(name="app", hooks=Look()) as s:
        pool = s.pool(factory.create, destroy=factory.destroy, name="db", max=2, min=1, backoff=(0.001, 0.002))
        pools.append(pool)
        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(use, pool, 0.001)
        pool.refresh()
        await settle()
        await use(pool)
        pool.discard(await pool.acquire())
        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(use, pool, 0.001)
    assert not wrong, wrong


@pytest.mark.parametrize("call", ["acquire_nowait", "release", "discard", "resize", "refresh"])
async def test_other_thread(call: str) -> None:
    """S12."""
    factory = Factory()
    async with pool_of(factory, max=2) as pool:
        await fill(pool, 2)
        thing = await pool.acquire()
        calls = dict(acquire_nowait=pool.acquire_nowait, release=lambda: pool.release(thing), discard=lambda: pool.discard(thing), resize=lambda: pool.resize(max=1), refresh=pool.refresh)
        before = pool.stats
        error = None
        try:
            await to_thread.run_sync(calls[call])
        except Exception as raised:
            error = raised
        print(repr(error))
        assert pool.stats == before
        assert isinstance(error, (PoolMisuse, ScopeMisuse)), error
        with suppress(PoolMisuse):
            pool.release(thing)
        await check_serves(pool)


async def test_execute_coroutine_object() -> None:
    """S12."""
    factory = Factory()
    async def fn(thing: Any) -> None: ...
    async with pool_of(factory, max=2) as pool:
        with pytest.raises(TypeError) as caught:
            await pool.execute(fn(1))  # type: ignore
        print(caught.value)
        assert pool.stats.acquired == 0
        gc.collect()
        with pytest.raises(TypeError) as caught:
            await pool.execute(3)  # type: ignore
        print(caught.value)
        assert pool.stats.acquired == 0


async def test_create_coroutine_object() -> None:
    """S12."""
    factory = Factory()
    async with scope() as s:
        with pytest.raises(TypeError) as caught:
            s.pool(factory.create())
        print(caught.value)
    gc.collect()


async def test_one_acquire_entered_by_two() -> None:
    factory = Factory()
    async with pool_of(factory, max=2) as pool:
        one = pool.acquire()
        errors = []
        async def enter() -> None:
            try:
                async with one as thing:
                    await thing.work(0.01)
            except PoolMisuse as e:
                errors.append(e)
        async with anyio.create_task_group() as tg:
            tg.start_soon(enter)
            tg.start_soon(enter)
        assert len(errors) == 1
        await check_serves(pool)


@pytest.mark.virtual_time
async def test_no_cycles_after_time_out() -> None:
    factory = Factory()
    async with pool_of(factory, max=1) as pool:
        async with pool.acquire():
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    with suppress(PoolTimeout):
                        await pool.acquire(timeout=1)
                await checkpoint()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                found = [o for o in gc.garbage if type(o).__module__.startswith("anyscope")]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert not found, found


@pytest.mark.virtual_time
async def test_suspect_with_reset() -> None:
    """P8."""
    checks = []
    factory = Factory()
    async with pool_of(factory, max=1, check=lambda t: checks.append(1), check_after=1000, reset=lambda t: None) as pool:
        with suppress(ValueError):
            async with pool.acquire():
                raise ValueError
        await use(pool)
        assert checks == [1]


@pytest.mark.virtual_time
async def test_many_time_outs() -> None:
    factory = Factory()
    async with pool_of(factory, max=1) as pool:
        async with pool.acquire():
            n = 0
            async def wait(k: int) -> None:
                await anyio.sleep(k / 10000)
                with suppress(PoolTimeout):
                    await pool.acquire(timeout=5)
            t = time.process_time()
            async with anyio.create_task_group() as tg:
                for k in range(5000):
                    tg.start_soon(wait, k)
            print("seconds", time.process_time() - t)


@pytest.mark.virtual_time
async def test_pool_in_service_factory() -> None:
    factory = Factory()
    async with scope(name="app") as s:
        async def make():
            from anyscope import current_scope
            return current_scope().pool(factory.create, destroy=factory.destroy, min=1)
        s.provide("pool", make)
        pool = await s.use("pool")
        await use(pool)
    check_closed(pool, factory)


@pytest.mark.virtual_time
async def test_pool_in_service_context_manager() -> None:
    factory = Factory()
    async with scope(name="app") as s:
        async def make():
            async with Pool(factory.create, destroy=factory.destroy, min=1) as pool:
                yield pool
        s.provide("pool", make)
        pool = await s.use("pool")
        await use(pool)
    check_closed(pool, factory)


@pytest.mark.virtual_time
async def test_pool_in_daemon() -> None:
    factory = Factory()
    pools = []
    async def daemon():
        async with Pool(factory.create, destroy=factory.destroy, min=1) as pool:
            pools.append(pool)
            async with pool.acquire() as thing:
                await thing.work(1000)
    async with scope(name="app") as s:
        s.start_soon(daemon, daemon=True)
        await anyio.sleep(1)
    check_closed(pools[0], factory)


@pytest.mark.virtual_time
async def test_pool_in_child_of_cancelled() -> None:
    factory = Factory()
    pools = []
    async with scope(name="app") as s:
        s.cancel()
        async with scope(name="child") as c:
            pools.append(c.pool(factory.create, destroy=factory.destroy, min=1))
            pools.append(s.pool(factory.create, destroy=factory.destroy, min=1))
            await pools[0].acquire()
    check_closed(pools[0], factory)
    print(factory.begun)


@pytest.mark.virtual_time
async def test_pool_used_in_on_exit() -> None:
    """clean-up after pool / before."""
    factory = Factory()
    async with scope(name="app") as s:
        pool = s.pool(factory.create, destroy=factory.destroy, min=1)
        s.on_exit(use, pool)
    check_closed(pool, factory)
