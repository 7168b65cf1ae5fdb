"""The resource pool as a black box, cases 31 to 46 and 60 to 70: what is broken, numbers, diagnosis (P3-P9, P12)."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import sys
import time
import warnings
import weakref
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Hooks, Pool, PoolEvent, PoolFull, PoolMisuse, PoolTimeout, scope
from anyscope.testing import backend_options
from pools import (
    SLOW,
    Factory,
    Refused,
    Script,
    Thing,
    check_open,
    check_serves,
    fill,
    pool_of,
    settle,
    timed,
    turns,
    use,
)
from scenarios import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


# ------------------------------------------------------------------ what is discarded wakes who waits
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_case_31_every_holder_discards(count: int) -> None:
    """P4: the place of a discarded one serves the next in line: all are served, each with a new one."""

    async def discard() -> None:
        thing = await pool.acquire()
        await thing.work()
        pool.discard(thing)

    factory = Factory()
    async with pool_of(factory, max=count) as pool:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                for _ in range(20):
                    tg.start_soon(discard)
        await settle()
        assert len(factory.things) == 20
        assert (pool.stats.total, pool.stats.timeouts, pool.stats.discarded) == (0, 0, {"user": 20})


@pytest.mark.virtual_time
async def test_case_32_a_failed_creation_frees_its_place() -> None:
    """P4: who waits behind it gets a resource after the first pause, and not at its own time-out."""
    async with pool_of(Factory("err", "ok"), max=1, backoff=(0.1, 5)) as pool, anyio.create_task_group() as tg:
        served: list[float] = []
        begin = anyio.current_time()

        async def wait(limit: float) -> None:
            with suppress(PoolTimeout):
                await use(pool, timeout=limit)
                served.append(anyio.current_time() - begin)

        tg.start_soon(wait, 0.01)
        tg.start_soon(wait, 30)
    assert len(served) == 1
    assert served[0] <= 0.1


@pytest.mark.virtual_time
async def test_case_32_a_blip_costs_one_pause() -> None:
    """P7: creations that fail together are one failure of the server: the next attempt is after the first pause."""
    async with pool_of(Factory(*["err"] * 10, "ok"), max=10, backoff=(0.1, 5)) as pool:
        begin = anyio.current_time()
        async with anyio.create_task_group() as tg:
            for _ in range(10):
                tg.start_soon(use, pool)
        assert anyio.current_time() - begin <= 0.1
        assert pool.stats.create_errors <= 10


async def test_case_33_one_place_is_one_creation() -> None:
    """P4: a discard with ten in line begins one creation, not ten."""
    factory = Factory()
    async with pool_of(factory, max=1) as pool:
        thing = await pool.acquire()
        async with anyio.create_task_group() as tg:
            for _ in range(10):
                tg.start_soon(use, pool)
            await settle()
            pool.discard(thing)
        assert (factory.begun, pool.stats.acquired) == (2, 11)


@pytest.mark.parametrize("is_checked", [False, True])
async def test_case_34_all_that_is_idle_is_useless(is_checked: bool) -> None:
    """P4, P8: all replaced or all unhealthy: the next acquire makes a new one; a stranger is refused."""
    factory = Factory()
    check = Script("false") if is_checked else None
    async with pool_of(factory, max=3, check=check, check_after=0) as pool:
        old = await fill(pool, 3)
        if check is None:
            pool.refresh()
        else:
            await anyio.sleep(0.01)  # longer than `check_after`
        with anyio.fail_after(5):
            assert await use(pool) not in old
        await settle()
        assert all(thing.is_gone for thing in old)
        assert pool.stats.discarded == {"refresh" if check is None else "check": 3}
        with pytest.raises(PoolMisuse, match="not one of its resources"):
            pool.discard(old[0])


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(4))
async def test_case_35_it_never_drains_for_good(seed: int) -> None:
    """P3, P7: whatever happened, in the end there are `min` again, and it serves."""
    rng = random.Random(seed)
    kinds = rng.choices(["instant", "ok", "slow", "err", "hang"], [4, 4, 2, 4, 1], k=200)
    ends = rng.choices(["ok", "slow"], k=50)
    options: dict[str, Any] = {"create_timeout": 0.5, "check_after": 0.01, "reset": Script("ok", "err", "ok", "ok")}
    factory = Factory(*kinds, "ok", ends=[*ends, "ok"])

    async def step() -> None:
        kind = rng.choice(["use", "discard", "cancel", "error", "give up"])
        with anyio.move_on_after(rng.random() * 0.2 if kind == "cancel" else 100), suppress(PoolTimeout, OSError):
            async with pool.acquire(timeout=0.1 if kind == "give up" else 60) as thing:
                await thing.work(rng.random() * 0.02)
                if kind == "discard":
                    pool.discard(thing)
                elif kind == "error":
                    raise rng.choice([ConnectionError, TimeoutError])

    async def steps() -> None:
        for _ in range(100):
            await step()
            check_open(pool)

    async with pool_of(factory, min=2, max=4, check=Script("ok", "false", "ok", "err", "ok"), **options) as pool:
        async with anyio.create_task_group() as tg:
            for _ in range(10):
                tg.start_soon(steps)
        await anyio.sleep(60)
        assert 2 <= pool.stats.total <= 4
        await check_serves(pool)


async def test_case_36_broken_and_given_back_at_once() -> None:
    """P10: one of both counts, and it has one end."""
    factory = Factory()
    async with pool_of(factory, max=1) as pool:
        async with pool.acquire() as thing:
            pool.discard(thing)
            for give_back in (pool.release, pool.discard):
                with pytest.raises(PoolMisuse):
                    give_back(thing)
        await settle()
        assert (thing.ends, pool.stats.total, pool.stats.discarded) == (1, 0, {"user": 1})
        with suppress(ConnectionError):
            async with pool.acquire() as thing:
                pool.discard(thing)
                raise ConnectionError
        assert pool.stats.discarded == {"user": 2}


# ------------------------------------------------------------------ when nothing can be created
@pytest.mark.virtual_time
async def test_case_37_no_herd_and_no_tight_loop() -> None:
    """P6, P7: all who wait fail in time, with the reason; few attempts are made, each waiter sees one."""
    fault = Refused("down")
    factory = Factory()
    factory.fault = fault
    outcomes: list[Any] = []

    async def wait() -> None:
        outcomes.append(await timed(lambda: use(pool)))

    async with pool_of(factory, max=10, acquire_timeout=0.5) as pool:
        async with anyio.create_task_group() as tg:
            for _ in range(100):
                tg.start_soon(wait)
        assert len(outcomes) == 100
        for outcome, seconds in outcomes:
            assert isinstance(outcome, PoolTimeout)
            assert outcome.__cause__ is fault
            assert seconds == pytest.approx(0.5)
        assert 10 < factory.begun <= 20, "the first ten at once, then one at a time"
        begun = factory.begun
        await anyio.sleep(100)
        assert factory.begun <= begun + 1, "nobody asks any more"
        assert pool.stats.last_error is fault


@pytest.mark.virtual_time
async def test_case_38_min_comes_back_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """P7: without traffic, within one pause after the outage; the pauses grow up to the longest, and begin anew."""
    attempts: list[float] = []
    failures: list[float] = []

    class Watch(Hooks):
        def pool_changed(self, event: PoolEvent) -> None:
            if event.moment == "create_failed":
                failures.append(anyio.current_time())
                assert isinstance(event.error, Refused)

    factory = Factory()

    async def create() -> Thing:
        attempts.append(anyio.current_time())
        factory.fault = Refused("down") if begin <= anyio.current_time() < begin + 20 else None
        return await factory.create()

    async with scope(name="app", hooks=Watch()) as s:
        begin = anyio.current_time()
        pool: Pool[Thing] = s.pool(create, destroy=factory.destroy, name="db", min=1, backoff=(0.1, 2))
        await pool.ready()
        assert anyio.current_time() <= begin + 22
        pauses = [later - sooner for sooner, later in itertools.pairwise(attempts)]
        assert pauses[0] <= 0.1
        assert max(pauses) <= 2
        assert min(pauses[6:]) >= 1, "half of the longest at least"
        assert pool.stats.create_errors == len(failures) == len(attempts) - 1
        begin = anyio.current_time()
        pool.discard(await pool.acquire())
        await anyio.sleep(1)
        assert failures[-1] < begin + 1
        assert len(attempts) - len(failures) == 1
        first = attempts.index(begin)
        assert attempts[first + 1] - attempts[first] <= 0.1, "the pauses begin anew"
        check_open(pool, in_use=0)
    assert [r.getMessage() for r in caplog.records if "create failed" in r.getMessage()] == [
        "pool db of app: create failed: Refused('down')"
    ] * 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["false", "err"])
async def test_case_39_stale_ones_cost_no_pause(kind: str) -> None:
    """P7: eight unhealthy idle ones: checked one after the other, and a new one is made, without any pause."""
    check = Script(kind)
    factory = Factory()
    async with pool_of(factory, max=8, check=check) as pool:
        old = await fill(pool, 8)
        await anyio.sleep(100)
        thing, seconds = await timed(lambda: use(pool))
        assert seconds == 0
        assert thing not in old
        assert check.calls <= 8
        assert pool.stats.create_errors == 0


# ------------------------------------------------------------------ time
@pytest.mark.virtual_time
@pytest.mark.parametrize("most", [1, 2])
async def test_case_40_a_destroy_that_hangs(most: int) -> None:
    """P3, P4: others do not wait for it if there is a place; else until it is given up, after `close_timeout`."""
    factory = Factory(ends=["hang", "ok"])
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, max=most, close_timeout=2) as pool:
            first = await pool.acquire()
            pool.discard(first)
            second, seconds = await timed(lambda: use(pool))
            assert second is not first
            assert seconds == pytest.approx(2 if most == 1 else 0)
            await anyio.sleep(3)
            assert (pool.stats.destroying, pool.stats.destroy_errors, first.ends) == (0, 1, 1)
    assert [type(error) for error in leaves(caught.value)] == [TimeoutError]


@pytest.mark.virtual_time
@pytest.mark.parametrize("jump", [-3600.0, 3600.0, 1e9])
async def test_case_41_the_clock_on_the_wall_jumps(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6, P9: nothing is thrown away or given up because of it."""
    factory = Factory()
    check = Script("ok")
    async with pool_of(factory, max=2, min=1, check=check, leak_after=5, max_idle=60) as pool:
        thing = await pool.acquire()
        await use(pool)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + jump)
        await use(pool)
        other = await pool.acquire(timeout=0)
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0.5)
        await anyio.sleep(0.1)
        assert (pool.stats.in_use, pool.stats.leaks, check.calls, factory.begun, factory.gone) == (2, 0, 0, 2, [])
        pool.release(thing)
        pool.release(other)
        await settle()
        assert factory.alive == [thing, other]


@pytest.mark.virtual_time
async def test_case_42_what_was_made_together_does_not_end_together() -> None:
    """P9: lifetimes differ by up to a tenth; never more than `max` at once; what is lent goes when it is given back."""
    factory = Factory()
    async with pool_of(factory, min=60, max=60, max_lifetime=10, max_idle=None) as pool:
        await pool.ready()
        begin = anyio.current_time()
        old = list(factory.things)
        held = await pool.acquire()
        ends: dict[Thing, float] = {}
        for _ in range(1100):
            await anyio.sleep(0.01)
            check_open(pool, in_use=1)
            ends |= {thing: anyio.current_time() - begin for thing in old if thing.is_gone and thing not in ends}
        assert set(ends) == {thing for thing in old if thing is not held}
        assert min(ends.values()) >= 9
        assert max(ends.values()) <= 10.02
        assert max(ends.values()) - min(ends.values()) >= 0.5
        await held.work(100)
        assert not held.ends
        pool.release(held)
        await settle()
        assert held.is_gone
        assert pool.stats.total == 60
        assert set(pool.stats.discarded) == {"lifetime"}


@pytest.mark.virtual_time
async def test_case_42_too_old_is_never_lent() -> None:
    """P9: also in the very moment in which its time is over."""
    async with pool_of(Factory(), max=1, max_lifetime=10) as pool:
        thing = await pool.acquire()
        await anyio.sleep(20)
        pool.release(thing)
        assert await use(pool) is not thing
        old = await pool.acquire()
        async with anyio.create_task_group() as tg:
            got: list[Thing] = []

            async def wait() -> None:
                got.append(await use(pool))

            tg.start_soon(wait)
            await anyio.sleep(20)
            pool.release(old)
        assert old.is_gone
        assert len(got) == 1
        assert got[0] is not old


# ------------------------------------------------------------------ health
@pytest.mark.virtual_time
async def test_case_43_checked_only_after_a_rest() -> None:
    """P8: not if it was used a moment ago."""
    check = Script("ok")
    async with pool_of(Factory(), check=check, check_after=0.5) as pool:
        thing = await use(pool)
        assert check.calls == 0
        await anyio.sleep(0.1)
        assert await use(pool) is thing
        assert check.calls == 0
        await anyio.sleep(0.6)
        assert await use(pool) is thing
        assert check.calls == 1
        for _ in range(10):
            await anyio.sleep(0.4)
            assert await use(pool) is thing
        assert check.calls == 1, "it is the rest that counts, not the age"
        assert pool.stats.created == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["err", "false", "hang"])
async def test_case_44_a_check_that_fails(kind: str) -> None:
    """P8: the next one is tried; the unhealthy one is destroyed and counted, and its error is told."""
    factory = Factory()
    async with pool_of(factory, max=2, check=Script(kind, "ok"), create_timeout=1) as pool:
        old = await fill(pool, 2)
        await anyio.sleep(10)
        thing, seconds = await timed(lambda: use(pool))
        assert thing in old
        assert seconds == (1 if kind == "hang" else 0)
        await settle()
        (bad,) = (other for other in old if other is not thing)
        assert bad.is_gone
        assert pool.stats.discarded == {"check": 1}
        assert type(pool.stats.last_error) is {"err": Refused, "false": ValueError, "hang": TimeoutError}[kind]


@pytest.mark.parametrize("answer", [None, True, 0, ""], ids=repr)
async def test_case_44_all_but_false_is_healthy(answer: object) -> None:
    """P8: a check may be a plain function, and give nothing."""
    async with pool_of(Factory(), check=lambda _: answer, check_after=0) as pool:
        thing = await use(pool)
        await anyio.sleep(0.01)
        assert await use(pool) is thing


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (ConnectionError(), False),
        (ConnectionResetError(), False),
        (EOFError(), False),
        (ExceptionGroup("both", [ValueError(), ExceptionGroup("inner", [EOFError()])]), False),
        (ValueError(), True),
        (OSError(), True),
        (ExceptionGroup("none", [ValueError()]), True),
    ],
    ids=repr,
)
async def test_case_45_errors_in_a_block(error: Exception, is_kept: bool) -> None:
    """P8: some say that it is broken; after others it is checked before it is lent again, however soon that is."""
    check = Script("ok")
    async with pool_of(Factory(), check=check, check_after=1000) as pool:
        with pytest.raises(type(error)) as caught:
            async with pool.acquire() as thing:
                raise error
        assert caught.value is error
        assert pool.stats.discarded == ({} if is_kept else {"error": 1})
        assert check.calls == 0
        again = await use(pool)
        assert (again is thing) == is_kept
        assert check.calls == is_kept
        await use(pool)
        assert check.calls == is_kept, "it has proved to be healthy"


async def test_case_45_own_errors() -> None:
    """P8: `discard_on` says which; without a check the others are kept."""
    async with pool_of(Factory(), discard_on=KeyError) as pool:
        for error, kept in ((KeyError(), False), (ConnectionError(), True)):
            with pytest.raises(type(error)):
                async with pool.acquire() as thing:
                    raise error
            assert (await use(pool) is thing) == kept


async def test_case_45_checked_also_when_somebody_waits_for_it() -> None:
    """P8: what is suspect is not handed over unchecked."""
    check = Script("false", "ok")
    async with pool_of(Factory(), max=1, check=check, check_after=1000) as pool, anyio.create_task_group() as tg:
        with suppress(KeyError):
            async with pool.acquire() as thing:
                tg.start_soon(use, pool)
                await settle()
                raise KeyError
        await settle()
        assert check.calls == 1
        assert thing.is_gone
    assert pool.stats.acquired == 2


@pytest.mark.parametrize("way", ["cancelled", "KeyboardInterrupt", "GeneratorExit"])
@pytest.mark.parametrize("reset", [None, "ok", "err", "false"])
async def test_case_46_cut_off_in_use(reset: str | None, way: str) -> None:
    """P8: its state is unknown: it is destroyed, unless a reset says that it is well."""
    async with pool_of(Factory(), reset=Script(reset) if reset else None) as pool:
        if way == "cancelled":
            with anyio.CancelScope() as cut:
                async with pool.acquire() as thing:
                    cut.cancel()
                    await checkpoint()
            assert cut.cancelled_caught
        else:
            kind = {"KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit}[way]
            block = pool.acquire()
            thing = await block.__aenter__()
            await block.__aexit__(kind, kind(), None)
        await settle()
        assert thing.is_gone == (reset != "ok")
        reason = {None: "cancelled", "err": "reset", "false": "reset"}
        assert pool.stats.discarded == ({} if reset == "ok" else {reason[reset]: 1})
        assert (await use(pool) is thing) == (reset == "ok")
        await settle()


# ------------------------------------------------------------------ numbers, hooks, diagnosis
@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(3))
async def test_case_60_the_numbers_agree_at_every_moment(seed: int) -> None:
    """P3, P12: looked at in every turn, by a bystander and by every hook."""
    rng = random.Random(seed)
    seen: set[str] = set()

    def look() -> None:
        check_open(pool)
        stats = pool.stats
        seen.update(name for name in ("waiting", "creating", "destroying", "recycling") if getattr(stats, name))

    async def watch() -> None:
        for _ in range(3000):
            look()
            await checkpoint()

    async def work() -> None:
        for _ in range(10):
            with suppress(ConnectionError), anyio.move_on_after(rng.random() * 0.1):
                async with pool.acquire() as thing:
                    await thing.work(rng.choice([0, 0.001, 0.05]))
                    look()
                    if rng.random() < 0.2:
                        raise ConnectionError
            look()

    options: dict[str, Any] = {"check": Script("ok", "ok", "false"), "check_after": 0, "reset": Script("ok", "err")}
    factory = Factory("ok", "err", "slow", "ok", ends=["ok", "slow", "ok"])
    async with pool_of(factory, min=1, max=5, **options) as pool:
        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            for _ in range(20):
                tg.start_soon(work)
        await settle()
        assert seen == {"waiting", "creating", "destroying", "recycling"}


class Recorder(Hooks):
    """Collects what pools tell."""

    def __init__(self) -> None:
        self.events: list[PoolEvent] = []

    def pool_changed(self, event: PoolEvent) -> None:
        self.events.append(event)

    def durations(self, moment: str) -> list[float]:
        """Of all events of that kind."""
        return [round(event.duration, 6) for event in self.events if event.moment == moment]


@pytest.mark.virtual_time
async def test_case_61_what_is_counted() -> None:
    """P12, H2: three at once, two after a wait, one in vain and one cancelled; with how long it took."""
    hooks = Recorder()
    factory = Factory(create_delay=0.5)
    async with scope(name="app", hooks=hooks) as s:
        pool: Pool[Thing] = s.pool(factory.create, destroy=factory.destroy, name="db", min=1, max=1)
        await pool.ready()
        for _ in range(3):
            await use(pool, 0.1)
        thing = await pool.acquire()
        async with anyio.create_task_group() as tg:
            tg.start_soon(use, pool, 0.2)
            await anyio.sleep(0.1)
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0.3)
            with anyio.move_on_after(0.4):
                await pool.acquire()
            pool.release(thing)
        stats = pool.stats
        assert (stats.acquired, stats.waited, stats.timeouts, stats.cancelled, stats.rejected) == (5, 3, 1, 1, 0)
        check_open(pool, in_use=0)
    assert hooks.durations("acquired") == [0, 0, 0, 0, 0.8]
    assert hooks.durations("released") == [0.1, 0.1, 0.1, 0.8, 0.2]
    assert hooks.durations("created") == [0.5]
    assert hooks.durations("timeout") == [0.3]
    assert hooks.durations("cancelled") == [0.4]
    assert [e.reason for e in hooks.events if e.moment == "discarded"] == ["closed"]
    assert {(e.pool, e.path) for e in hooks.events} == {("db", "app")}
    assert hooks.durations("destroyed") == [0]


@pytest.mark.virtual_time
async def test_case_62_lent_for_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """P12: told once with the place where it was acquired, and once when it is back; not if that is in time."""
    caplog.set_level(logging.WARNING, "anyscope")
    async with pool_of(Factory(), leak_after=0.1) as pool:
        await use(pool, 0.05)
        await use(pool, 0.09)
        assert not caplog.records
        thing = await pool.acquire()
        await anyio.sleep(0.3)
        pool.release(thing)
        await use(pool, 0.05)
        assert pool.stats.leaks == 1
        await anyio.sleep(1)
    late, back = [record.getMessage() for record in caplog.records]
    assert late.startswith("pool db of app: lent for more than 0.1 s, held by task ")
    assert "in test_case_62_lent_for_too_long" in late
    assert "for 0.1 s, acquired at test_pool_quality.py:" in late
    assert back.startswith("pool db of app: returned after 0.3 s, acquired at test_pool_quality.py:")


@pytest.mark.virtual_time
async def test_case_63_a_lost_resource(caplog: pytest.LogCaptureFixture) -> None:
    """P11, P12: a raw resource that was dropped cannot be seen to be lost, so nothing is done behind anybody's back.

    No finalizer ends it and no garbage collection gives it back: `leak_after` tells of it, and the close ends it, in
    the task of the pool.
    """
    factory = Factory()
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(factory, in_use=1, max=1, leak_after=1) as pool:
            await pool.acquire()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                gc.collect()
            assert (pool.stats.in_use, factory.gone) == (1, [])
            await anyio.sleep(2)
            assert pool.stats.leaks == 1
    assert [type(error) for error in leaves(caught.value)] == [PoolMisuse]
    assert any("lent for more than 1 s" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_case_64_made_before_the_loop_runs(backend: str) -> None:
    """P10: it works in the first loop that enters it, and says that there is no second time."""
    pool: Pool[object] = Pool(object, name="db")
    with pytest.raises(PoolMisuse, match="not open yet"):
        pool.release(pool)

    async def main() -> int:
        async with pool:
            async with pool.acquire():
                pass
            check_open(pool, in_use=0)
        return pool.stats.created

    def run() -> int:
        return anyio.run(main, backend=backend, backend_options=backend_options(backend))

    assert run() == 1
    with pytest.raises(PoolMisuse, match="entered a second time"):
        run()


@pytest.mark.parametrize("way", ["discard", "error", "reset", "refresh"])
async def test_case_65_what_is_gone_is_forgotten(way: str) -> None:
    """P3: a thousand come and go, and nothing of the pool refers to them."""
    refs: list[weakref.ref[Thing]] = []

    def create() -> Thing:
        thing = Thing(len(refs))
        refs.append(weakref.ref(thing))
        return thing

    async with scope() as s:
        pool: Pool[Thing] = s.pool(create, max=3, reset=Script("false") if way == "reset" else None)
        for _ in range(1000):
            thing = await pool.acquire()
            if way == "discard":
                pool.discard(thing)
            elif way == "error":
                with suppress(EOFError):
                    pool.release(thing)
                    async with pool.acquire():
                        raise EOFError
            else:
                pool.release(thing)
                if way == "refresh":
                    pool.refresh()
            del thing
        await settle()
        gc.collect()
        alive = [ref for ref in refs if ref() is not None]
        assert len(refs) >= 1000
        assert len(alive) == pool.stats.total
        assert pool.stats.total <= 1
    gc.collect()
    assert not [ref for ref in refs if ref() is not None]


async def test_case_66_a_hook_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """H4: the pool works as if it were not there; the first failure is logged."""

    class Bad(Hooks):
        calls = 0

        def pool_changed(self, event: PoolEvent) -> None:
            self.calls += 1
            raise KeyError(event.moment)

    hooks, factory = Bad(), Factory("ok", "err", "ok")
    async with scope(name="app", hooks=hooks) as s:
        pool: Pool[Thing] = s.pool(factory.create, destroy=factory.destroy, max=1, backoff=(0.001, 0.001))
        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(use, pool)
        pool.discard(await pool.acquire())
        await use(pool)
        check_open(pool, in_use=0)
    assert pool.stats.acquired == 7
    assert hooks.calls > 20
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_case_67_so_many_may_wait() -> None:
    """P6: one more is refused at once; when one has left there is room for another."""
    async with pool_of(Factory(), max=1, max_waiting=3) as pool:
        thing = await pool.acquire()
        leaver = anyio.CancelScope()

        async def leave() -> None:
            with leaver:
                await use(pool)

        async with anyio.create_task_group() as tg:
            for _ in range(2):
                tg.start_soon(use, pool)
            tg.start_soon(leave)
            await settle()
            assert pool.stats.waiting == 3
            with pytest.raises(PoolFull):
                await pool.acquire()
            with pytest.raises(PoolFull, match="3 tasks wait already") as caught:
                await pool.acquire()
            assert (caught.value.max_waiting, pool.stats.rejected, pool.stats.waiting) == (3, 2, 3)
            leaver.cancel()
            await settle()
            assert pool.stats.waiting == 2
            tg.start_soon(use, pool)
            await settle()
            assert pool.stats.waiting == 3
            pool.release(thing)
        assert leaver.cancelled_caught


async def test_case_67_places_are_not_in_the_way() -> None:
    """P6: who takes an idle one does not wait, so `max_waiting=0` refuses nobody that can be served."""
    async with pool_of(Factory(), max=1, min=1, max_waiting=0) as pool:
        await pool.ready()
        async with pool.acquire():
            with pytest.raises(PoolFull):
                await pool.acquire()
        await use(pool)


KINDS = ("ok", "err", "slow", "hang")


@pytest.mark.virtual_time
@pytest.mark.parametrize("create", KINDS)
async def test_case_68_everything_that_can_go_wrong(create: str) -> None:
    """P3, P5, P11: each way of `create` with each of check, reset and destroy; eight users with little patience."""
    for check, reset, destroy in itertools.product(KINDS, repeat=3):
        await many_users(create, check, reset, destroy)


async def many_users(create: str, check: str, reset: str, destroy: str) -> None:
    """Eight users of a pool in which things go wrong."""
    factory = Factory("ok", create, "ok", ends=["ok", destroy, "ok"])
    options: dict[str, Any] = {"check": Script("ok", check), "reset": Script("ok", reset), "check_after": 0}
    times: dict[str, Any] = {"create_timeout": 3 * SLOW, "close_timeout": 2 * SLOW, "acquire_timeout": 4 * SLOW}

    async def user(number: int) -> None:
        for turn in range(3):
            with anyio.move_on_after((number + turn) * SLOW / 2), suppress(PoolTimeout):
                await use(pool, 0.01)
            check_open(pool)

    try:
        async with pool_of(factory, max=3, min=1, backoff=(0.01, 0.1), **options, **times) as pool:
            async with anyio.create_task_group() as tg:
                for number in range(8):
                    tg.start_soon(user, number)
            await turns(3)
    except ExceptionGroup as group:
        assert destroy in {"err", "hang"}
        assert {type(error) for error in leaves(group)} <= {Refused, TimeoutError}


async def test_case_69_execute() -> None:
    """P1: value, error and cancellation go through as they are, and the resource is given back."""
    async with pool_of(Factory(), max=1) as pool:

        async def slow(thing: Thing, number: int) -> tuple[Thing, int]:
            await checkpoint()
            return thing, number

        def plain(thing: Thing, *numbers: int) -> tuple[Thing, int]:
            return thing, sum(numbers)

        thing, number = await pool.execute(slow, 42)
        assert number == 42
        assert await pool.execute(plain, 1, 2) == (thing, 3)
        assert await pool.execute(plain, timeout=1) == (thing, 0)
        error = ValueError("as it is")

        def failing(_: Thing) -> None:
            raise error

        with pytest.raises(ValueError, match="as it is") as caught:
            await pool.execute(failing)
        assert caught.value is error
        check_open(pool, in_use=0)
        with anyio.CancelScope() as cut:
            cut.cancel()
            await pool.execute(slow, 1)
        assert cut.cancelled_caught
        check_open(pool, in_use=0)
        async with pool.acquire():
            with pytest.raises(PoolTimeout):
                await pool.execute(plain, timeout=0)


@pytest.mark.virtual_time
async def test_case_70_ready_in_vain() -> None:
    """P6, P7: it says why, in time; the pool stays open and works when it can."""
    factory = Factory()
    factory.fault = fault = Refused("down")
    async with pool_of(factory, min=2, max=2) as pool:
        outcome, seconds = await timed(lambda: pool.ready(timeout=0.5))
        assert isinstance(outcome, PoolTimeout)
        assert seconds == pytest.approx(0.5)
        assert outcome.__cause__ is fault
        assert not pool.closed
        factory.fault = None
        await pool.ready(timeout=10)
        assert pool.stats.available == 2
        async with pool.acquire(), pool.acquire():
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=0.1)
            assert caught.value.__cause__ is None, "that is over"
        assert pool.stats.last_error is fault


@pytest.mark.virtual_time
async def test_case_70_ready_counts_what_is_lent() -> None:
    """P7: what was made and went to somebody at once is there too."""
    async with pool_of(Factory(create_delay=0.1), min=2, max=2) as pool, anyio.create_task_group() as tg:
        for _ in range(2):
            tg.start_soon(use, pool, 50)
        _, seconds = await timed(lambda: pool.ready(timeout=10))
        assert seconds == pytest.approx(0.1)
        assert pool.stats.in_use == 2
        pool.resize(max=3)
        tg.start_soon(use, pool, 50)
        pool.resize(min=3)
        _, seconds = await timed(lambda: pool.ready(timeout=10))
        assert seconds == pytest.approx(0.1)


@pytest.mark.virtual_time
async def test_case_70_ready_hears_of_a_smaller_min() -> None:
    """P7, P9: it waits for what is wanted now."""
    async with pool_of(Factory("hang"), min=2, create_timeout=100, close_timeout=1) as pool:
        async with anyio.create_task_group() as tg:
            tg.start_soon(pool.ready)
            await anyio.sleep(1)
            begin = anyio.current_time()
            pool.resize(min=0)
        assert anyio.current_time() == begin
