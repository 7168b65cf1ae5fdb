"""What attacks on the pool have found, each as a small test: ends without a bound, numbers in hooks, other threads."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from anyscope import CloseTimeout, Hooks, Pool, PoolClosed, PoolEvent, PoolMisuse, PoolTimeout, ScopeMisuse, scope
from anyscope._features.pooling.waiter import Waiter
from pools import Factory, check_closed, check_open, check_serves, fill, pool_of, settle, use
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


# ------------------------------------------------------------------ the bound of the scope (P11, S7)
async def hang(_: object) -> None:
    """A function of the user's that does not end."""
    await anyio.sleep_forever()


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", ["create", "check", "reset", "destroy"])
async def test_what_has_no_bound_has_that_of_the_scope(moment: str) -> None:
    """S7: the step that closes the pool is abandoned, and what is under way is cut off, or the scope never ended."""
    factory = Factory("hang" if moment == "create" else "ok", ends=["hang" if moment == "destroy" else "ok"])
    options: dict[str, Any] = {moment: hang} if moment in {"check", "reset"} else {}
    began = anyio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=1) as s:
            pool = s.pool(
                factory.create, destroy=factory.destroy, name="db", create_timeout=None, close_timeout=None,
                check_after=0, **options,
            )  # fmt: skip
            for _ in range(2):
                with suppress(PoolTimeout):
                    await use(pool, timeout=0.1)
    assert anyio.current_time() - began < 1.5
    assert isinstance(leaves(caught.value)[0], CloseTimeout)
    assert pool.stats.destroy_errors == (moment == "destroy")
    assert any(str(error) == "destroying took too long" for error in leaves(caught.value)) == (moment == "destroy")
    check_closed(pool, factory)


@pytest.mark.virtual_time
@pytest.mark.parametrize("close_timeout", [5, 60, None])
async def test_holders_are_told_of_when_the_scope_has_no_more_time(close_timeout: float | None) -> None:
    """P11: beside the overrun, and what they had is destroyed: within the bound of the scope, here for nothing."""
    factory = Factory(ends=["hang"])
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            pool = s.pool(factory.create, destroy=factory.destroy, name="db", close_timeout=close_timeout)
            await pool.acquire()
    overrun, holder, destroying = leaves(caught.value)
    assert isinstance(overrun, CloseTimeout)
    assert isinstance(holder, PoolMisuse)
    waited = 5 if close_timeout == 5 else 10
    assert f"closed with 1 resource still lent, after a wait of {waited} s" in str(holder)
    assert holder.__notes__ == ["in pool db of app"]
    assert str(destroying) == "destroying took too long"
    assert anyio.current_time() <= 20
    check_closed(pool, factory)


# ------------------------------------------------------------------ numbers (P3, P12)
class Looking(Hooks):
    """Looks at the numbers of a pool in each of its moments."""

    def __init__(self) -> None:
        self.pool: Pool[Any] | None = None
        self.seen: set[str] = set()

    def pool_changed(self, event: PoolEvent, /) -> None:
        """Look."""
        if self.pool is not None:
            check_open(self.pool)
            self.seen.add(event.moment)


@pytest.mark.virtual_time
async def test_hooks_see_numbers_that_agree(caplog: pytest.LogCaptureFixture) -> None:
    """P3: at every moment, also in the middle of one of ours."""
    hooks = Looking()
    factory = Factory("ok", "err", "ok")
    async with scope(name="app", hooks=hooks) as s:
        pool = hooks.pool = s.pool(factory.create, destroy=factory.destroy, name="db", max=2, min=1, max_waiting=9)
        for _ in range(2):
            async with anyio.create_task_group() as tg:
                for _ in range(5):
                    tg.start_soon(use, pool, 0.001)
            pool.refresh()
            await settle()
            pool.discard(await pool.acquire())
    assert {"created", "create_failed", "acquired", "released", "discarded", "destroyed"} <= hooks.seen
    assert not [record for record in caplog.records if "hook" in record.getMessage()]


# ------------------------------------------------------------------ ready (P7)
@pytest.mark.virtual_time
async def test_ready_without_time() -> None:
    """P7: as `acquire(timeout=0)`: what is there is there."""
    async with pool_of(Factory("slow"), min=2, max=2) as pool:
        with pytest.raises(PoolTimeout):
            await pool.ready(timeout=0)
        await pool.ready()
        await pool.ready(timeout=0)


# ------------------------------------------------------------------ misuse (S12, P10)
THREAD_CALLS: dict[str, Callable[[Pool[Any], Any], object]] = {
    "acquire": lambda pool, _: pool.acquire(),
    "acquire_nowait": lambda pool, _: pool.acquire_nowait(),
    "release": lambda pool, thing: pool.release(thing),
    "discard": lambda pool, thing: pool.discard(thing),
    "resize": lambda pool, _: pool.resize(max=1),
    "refresh": lambda pool, _: pool.refresh(),
}


@pytest.mark.parametrize("call", THREAD_CALLS)
async def test_called_from_another_thread(call: str) -> None:
    """S12: refused, with the right line, and the pool is as it was; after its end nothing can be disturbed."""
    async with pool_of(Factory(), max=2) as pool:
        await fill(pool, 2)
        thing = await pool.acquire()
        before = pool.stats
        with pytest.raises(ScopeMisuse) as caught:
            await anyio.to_thread.run_sync(THREAD_CALLS[call], pool, thing)
        assert f"pool.{call}(...) was called from another thread" in str(caught.value)
        assert ("from_thread.run(" in str(caught.value)) == (call == "acquire")
        assert pool.stats == before
        pool.release(thing)
        await check_serves(pool)
    with suppress(PoolClosed):
        await anyio.to_thread.run_sync(THREAD_CALLS[call], pool, thing)


async def test_a_coroutine_object_where_a_function_is_wanted() -> None:
    """S12: the right line; nothing is acquired, and nothing was never awaited."""
    factory = Factory()

    async def query(_: object) -> None: ...

    async with pool_of(factory, max=2) as pool:
        with pytest.raises(TypeError) as caught:
            await pool.execute(query(3))  # type: ignore[call-overload]
        assert str(caught.value).endswith("Wrong: pool.execute(query(x))\nRight: pool.execute(query, x)")
        with pytest.raises(TypeError, match=r"pool\.execute\(\.\.\.\): expected a function, got 3 \(int\)"):
            await pool.execute(3)  # type: ignore[call-overload]
        assert pool.stats.acquired == 0
    async with scope(name="app") as s:
        with pytest.raises(TypeError) as caught:
            s.pool(factory.create())
    assert str(caught.value) == (
        "create must be a function, got a coroutine object\n"
        "Wrong: create=Factory.create()\n"
        "Right: create=Factory.create"
    )
    gc.collect()


async def test_what_one_acquire_gave_is_entered_by_two() -> None:
    """P10: the second is told, while the first still waits; a cancelled entry may be tried again."""
    told: list[PoolMisuse] = []
    async with pool_of(Factory(), max=1) as pool:
        given = pool.acquire()

        async def enter() -> None:
            try:
                async with given as thing:
                    await thing.work()
            except PoolMisuse as error:
                told.append(error)

        thing = await pool.acquire()
        async with anyio.create_task_group() as tg:
            tg.start_soon(enter)
            tg.start_soon(enter)
            await settle()
            assert len(told) == 1
            tg.cancel_scope.cancel()
        pool.release(thing)
        await enter()
        assert len(told) == 1
        await check_serves(pool)


# ------------------------------------------------------------------ time-outs (P6, P13)
@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [None, 0.5, 3])
async def test_each_is_refused_in_his_own_time(limit: float | None) -> None:
    """P6: with the limit of the pool, and with some that have one of their own, longer or shorter."""
    told: dict[int, float] = {}
    async with pool_of(Factory(), max=1, acquire_timeout=1) as pool, pool.acquire():

        async def wait(number: int) -> None:
            await anyio.sleep(number / 10)
            own = {"timeout": limit} if limit is not None and number % 2 else {}
            began = anyio.current_time()
            with pytest.raises(PoolTimeout):
                await pool.acquire(**own)
            told[number] = anyio.current_time() - began

        for _ in range(2):
            async with anyio.create_task_group() as tg:
                for number in range(6):
                    tg.start_soon(wait, number)
            assert told == {
                number: pytest.approx(limit if limit is not None and number % 2 else 1) for number in range(6)
            }


@pytest.mark.virtual_time
async def test_those_who_wait_are_not_all_looked_at_for_each_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """P13: a server that is down, and many who come one after the other: each is looked at once or twice."""
    looks: list[Waiter[Any]] = []
    deadline = vars(Waiter)["deadline"]
    counted = property(lambda waiter: looks.append(waiter) or deadline.__get__(waiter), deadline.__set__)
    monkeypatch.setattr(Waiter, "deadline", counted)
    async with pool_of(Factory(), max=1, acquire_timeout=1) as pool, pool.acquire():

        async def wait(number: int) -> None:
            await anyio.sleep(number / 1000)
            with pytest.raises(PoolTimeout):
                await pool.acquire()

        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(wait, number)
    assert 100 <= len(looks) <= 500


# ------------------------------------------------------------------ the rest
async def test_repr_of_what_acquire_gives() -> None:
    """S13: of which pool, and where it was asked for."""
    async with pool_of(Factory(), max=1) as pool:
        line = sys._getframe().f_lineno + 1
        given = pool.acquire()
        place = f"asked for at test_pool_found.py:{line} in test_repr_of_what_acquire_gives"
        assert repr(given) == f"<Acquire of pool db of app, {place}>"
        async with given:
            assert repr(given) == f"<Acquire of pool db of app, entered, {place}>"
        assert repr(given) == f"<Acquire of pool db of app, {place}>"


@pytest.mark.asyncio_only
async def test_cancelled_natively_and_served_in_one_step() -> None:
    """P5: what is handed to one who is cancelled already goes on to the next."""
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()
        first, second = asyncio.ensure_future(use(pool)), asyncio.ensure_future(use(pool))
        await checkpoint()
        assert pool.stats.waiting == 2
        first.cancel()
        pool.release(thing)
        assert await second is thing
        assert first.cancelled()
        assert (pool.stats.cancelled, pool.stats.discarded) == (1, {})


@pytest.mark.virtual_time
async def test_an_error_in_the_block_is_checked_after_the_reset_too() -> None:
    """P8: any error but those of `discard_on` keeps it, checked before its next use; `reset` does not replace that."""
    log: list[str] = []
    async with pool_of(
        Factory(), max=1, check=lambda _: log.append("check"), check_after=1000, reset=lambda _: log.append("reset")
    ) as pool:
        with suppress(ValueError):
            async with pool.acquire():
                raise ValueError
        await use(pool)
        await use(pool)
        assert log[:3] == ["reset", "check", "reset"]
    assert log.count("check") == 1


@pytest.mark.virtual_time
async def test_a_time_out_leaves_no_cycle() -> None:
    """A burst of them is freed at once, not by the collector, and with them whatever their frames hold."""
    async with pool_of(Factory(), max=1) as pool, pool.acquire():
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                with suppress(PoolTimeout):
                    await pool.acquire(timeout=1)
            await checkpoint()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = [each for each in gc.garbage if type(each).__module__.startswith("anyscope")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not found


def test_the_end_of_the_loop_ends_a_pool_whose_scope_was_never_left() -> None:
    """S7: `asyncio.run` cancels what is left and waits for it; its resources are destroyed, and the program ends."""
    destroyed: list[object] = []

    async def main() -> None:
        s = scope(name="app")
        await s.__aenter__()
        pool = s.pool(object, destroy=destroyed.append, min=2, name="things")
        await pool.ready()
        raise KeyError("forgotten")

    def run() -> None:
        with pytest.raises(KeyError):
            asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it goes on"
    assert len(destroyed) == 2
