"""The resource pool as a black box, cases 1 to 27: sizes, order, time, cancellation (P1-P9)."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Pool, PoolTimeout, scope
from anyscope.testing import Simulation
from pools import (
    CREATIONS,
    Factory,
    Refused,
    Script,
    Thing,
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

each_creation = pytest.mark.parametrize("creation", CREATIONS)


# ------------------------------------------------------------------ basics and sizing
async def test_case_01_nothing_is_made_unasked() -> None:
    """P7: with `min=0` nothing is created before somebody asks."""
    factory = Factory()
    async with pool_of(factory) as pool:
        await pool.ready()
        await settle()
        assert factory.begun == pool.stats.total == 0


@pytest.mark.virtual_time
async def test_case_02_min_is_warmed_at_once_and_together() -> None:
    """P7: `min` resources are created in the background, side by side; `ready()` waits for them."""
    factory = Factory(create_delay=0.1)
    async with pool_of(factory, min=3) as pool:
        _, seconds = await timed(pool.ready)
        assert seconds == pytest.approx(0.1)
        assert (factory.begun, pool.stats.available, pool.stats.total) == (3, 3, 3)


async def test_case_03_what_is_idle_is_used_again() -> None:
    """P3: the same resource, the last one given back first."""
    factory = Factory()
    async with pool_of(factory) as pool:
        first = await use(pool)
        assert await use(pool) is first
        assert pool.stats.created == 1
        one, two, three = [await pool.acquire() for _ in range(3)]
        for thing in (two, three, one):
            pool.release(thing)
        assert [pool.acquire_nowait() for _ in range(3)] == [one, three, two]
        for thing in (one, two, three):
            pool.release(thing)


async def test_case_04_who_finds_nothing_waits_for_what_is_given_back() -> None:
    """P3: with all of `max` lent, a released one goes to who waits."""
    factory = Factory()
    async with pool_of(factory, max=2) as pool:
        things = [await pool.acquire() for _ in range(2)]
        async with anyio.create_task_group() as tg:
            got: list[Thing] = []

            async def wait() -> None:
                got.append(await use(pool))

            tg.start_soon(wait)
            await settle()
            assert not got
            assert pool.stats.waiting == 1
            pool.release(things[1])
            assert pool.stats.in_use == 2, "it is never up for grabs"
        assert got == [things[1]]
        pool.release(things[0])
        assert pool.stats.created == 2


WRONG: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("min", {"min": -1}, ValueError),
    ("max", {"max": 0}, ValueError),
    ("min", {"min": 3, "max": 2}, ValueError),
    ("max", {"max": 2.0}, TypeError),
    ("min", {"min": True}, TypeError),
    ("max_waiting", {"max_waiting": -1}, ValueError),
    ("max_waiting", {"max_waiting": "3"}, TypeError),
    ("acquire_timeout", {"acquire_timeout": -1}, ValueError),
    ("acquire_timeout", {"acquire_timeout": "1"}, TypeError),
    ("acquire_timeout", {"acquire_timeout": float("nan")}, ValueError),
    ("max_idle", {"max_idle": -1}, ValueError),
    ("max_lifetime", {"max_lifetime": 0}, ValueError),
    ("check_after", {"check_after": -1}, ValueError),
    ("create_timeout", {"create_timeout": 0}, ValueError),
    ("close_timeout", {"close_timeout": -1}, ValueError),
    ("leak_after", {"leak_after": 0}, ValueError),
    ("backoff", {"backoff": (2, 1)}, ValueError),
    ("backoff", {"backoff": 1}, TypeError),
    ("discard_on", {"discard_on": [ValueError]}, TypeError),
    ("discard_on", {"discard_on": (int,)}, TypeError),
    ("check", {"check": True}, TypeError),
    ("reset", {"reset": 1}, TypeError),
    ("destroy", {"destroy": 1}, TypeError),
    ("name", {"name": 1}, TypeError),
]


@pytest.mark.parametrize(("option", "options", "kind"), WRONG, ids=[str(options) for _, options, _ in WRONG])
async def test_case_05_wrong_options_are_named(option: str, options: dict[str, Any], kind: type[Exception]) -> None:
    """P1: an option that cannot be is refused at once, by name, and nothing is left behind."""
    factory = Factory()
    async with scope() as s:
        with pytest.raises(kind, match=option):
            s.pool(factory.create, **options)
    with pytest.raises(kind, match=option):
        Pool(factory.create, **options)
    assert factory.begun == 0


async def test_case_05_wrong_sizes_and_times_later_on() -> None:
    """P1, P9: as strict in `resize`, `acquire` and `ready`; the pool is unchanged."""
    factory = Factory()
    async with pool_of(factory, min=1, max=2) as pool:
        for wrong in ({"min": -1}, {"max": 0}, {"min": 3}, {"min": 2, "max": 1}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                pool.resize(**wrong)
        with pytest.raises(ValueError, match="timeout"):
            await pool.acquire(timeout=-1)
        with pytest.raises(TypeError, match="timeout"):
            await pool.ready(timeout="1")  # type: ignore[arg-type]  # on purpose
        assert (pool.stats.min, pool.stats.max) == (1, 2)


async def test_case_06_unknown_options() -> None:
    """P1: Python itself refuses them."""
    async with scope() as s:
        with pytest.raises(TypeError, match="mn"):
            s.pool(Factory().create, mn=2)  # type: ignore[call-overload]  # on purpose


class Closable:
    """A resource that can be closed."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        log.append("made")

    def close(self) -> None:
        self.log.append("ended")


class Asynclosable(Closable):
    """One with both: `aclose` goes first."""

    def close(self) -> None:
        raise AssertionError("aclose goes first")

    async def aclose(self) -> None:
        await checkpoint()
        self.log.append("ended")


class Enterable:
    """A context manager without a `close`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def __aenter__(self) -> str:
        self.log.append("made")
        return "entered"

    async def __aexit__(self, *_: object) -> None:
        await checkpoint()
        self.log.append("ended")


def forms_of(log: list[str]) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any] | None]]:
    """Every form that `create` and `destroy` may have."""

    def plain() -> object:
        log.append("made")
        return object()

    async def slow() -> object:
        await checkpoint()
        return plain()

    async def generator() -> AsyncIterator[object]:
        yield await slow()
        await checkpoint()
        log.append("ended")

    def plain_generator() -> Iterator[object]:
        yield plain()
        log.append("ended")

    async def end(_: object) -> None:
        await checkpoint()
        log.append("ended")

    async def later() -> Any:
        await checkpoint()
        return asynccontextmanager(generator)()

    return {
        "plain, plain": (plain, lambda _: log.append("ended")),
        "plain, async": (plain, end),
        "async, plain": (slow, lambda _: log.append("ended")),
        "async, async": (slow, end),
        "async context manager": (asynccontextmanager(generator), None),
        "plain context manager": (contextmanager(plain_generator), None),
        "async generator": (generator, None),
        "plain generator": (plain_generator, None),
        "awaited context manager": (later, None),
        "close": (lambda: Closable(log), None),
        "aclose": (lambda: Asynclosable(log), None),
        "entered": (lambda: Enterable(log), None),
        "close, destroy": (lambda: Closable(log), end),
    }


@pytest.mark.parametrize("form", forms_of([]))
async def test_case_07_every_form_of_create_and_destroy(form: str) -> None:
    """P2: whichever it is, one is made, used by many and ended once."""
    log: list[str] = []
    create, destroy = forms_of(log)[form]
    async with scope() as s:
        pool: Pool[Any] = s.pool(create, destroy=destroy, max=1)
        async with pool.acquire() as first:
            assert log == ["made"]
        async with pool.acquire() as again:
            assert again is first
        check_open(pool, in_use=0)
        assert log == ["made"]
    assert log == ["made", "ended"]
    assert pool.stats.created == pool.stats.destroyed == 1


@pytest.mark.parametrize("value", [None, 0, "", False, (), [], 0.0], ids=repr)
async def test_case_08_falsy_resources_are_resources(value: object) -> None:
    """P3: what a resource is does not matter, nor that several are the same object."""
    made: list[object] = []

    def create() -> object:
        made.append(value)
        return value

    async with scope() as s:
        pool: Pool[object] = s.pool(create, max=2)
        async with pool.acquire() as one, pool.acquire() as two:
            assert one is two is value
            assert pool.stats.in_use == 2
        assert len(made) == pool.stats.available == 2
        got = await pool.acquire()
        assert got is value
        pool.release(got)
        assert len(made) == 2
        check_open(pool, in_use=0)
    assert pool.stats.destroyed == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(5))
async def test_case_09_never_more_than_max(seed: int) -> None:
    """P3: counting those that are still being created or destroyed, whatever the users do."""
    rng = random.Random(seed)
    factory = Factory("ok", "err", "slow", "ok", "err", "ok", create_delay=0.002, destroy_delay=0.01)

    async def user() -> None:
        for _ in range(3):
            thing = await pool.acquire()
            await thing.work(rng.random() * 0.01)
            check_open(pool)
            (pool.discard if rng.random() < 0.4 else pool.release)(thing)

    async with pool_of(factory, max=5) as pool, anyio.create_task_group() as tg:
        for _ in range(50):
            tg.start_soon(user)
    assert factory.peak == 5
    assert pool.stats.acquired == 150


@pytest.mark.virtual_time
async def test_case_10_a_spike_is_served_by_what_there_is() -> None:
    """P4: whichever comes first, released or created, serves who waits: nobody waits for a slow creation."""
    factory = Factory(create_delay=0.15)
    served: list[float] = []
    async with pool_of(factory, min=5, max=10) as pool:
        await pool.ready()
        begin = anyio.current_time()

        async def request() -> None:
            await use(pool, 0.002)
            served.append(anyio.current_time() - begin)

        async with anyio.create_task_group() as tg:
            for _ in range(50):
                tg.start_soon(request)
        assert max(served) == pytest.approx(0.02)
        await anyio.sleep(1)
        assert pool.stats.total <= 10
    assert len(served) == 50


@pytest.mark.virtual_time
async def test_case_11_shrinks_to_min_and_not_below() -> None:
    """P9: what was used least recently goes, and what is within `min` is left in peace."""
    factory = Factory(destroy_delay=1)
    async with pool_of(factory, min=2, max=4, max_idle=0.2, max_lifetime=None) as pool:
        things = [await pool.acquire() for _ in range(4)]
        for thing in things:
            pool.release(thing)
            await anyio.sleep(0.03)
        seen = set()
        for _ in range(1000):
            await anyio.sleep(0.01)
            check_open(pool, in_use=0)
            seen.add(pool.stats.total)
        assert seen == {4, 3, 2}
        assert factory.gone == [0, 1]
        assert factory.begun == 4
        assert pool.stats.discarded == {"idle": 2}


@pytest.mark.virtual_time
async def test_case_12_min_is_restored_without_an_acquire() -> None:
    """P7: `min` is kept, not only warmed; also while the end of the discarded one takes its time."""
    factory = Factory(destroy_delay=3)
    async with pool_of(factory, min=2, max=4) as pool:
        await pool.ready()
        pool.discard(await pool.acquire())
        assert pool.stats.total == 1
        await anyio.sleep(0.1)
        assert pool.stats.total == 2, "there is room for it"
        await anyio.sleep(10)
        assert (pool.stats.total, factory.begun) == (2, 3)


async def test_case_12_min_is_restored_when_the_place_is_free() -> None:
    """P7: as soon as the end of the discarded one is over, when there is no other place."""
    factory = Factory()
    async with pool_of(factory, min=2, max=2) as pool:
        await pool.ready()
        pool.discard(await pool.acquire())
        await settle()
        assert (pool.stats.total, pool.stats.available, factory.begun) == (2, 2, 3)


@pytest.mark.parametrize("all_at_once", [False, True])
async def test_case_13_resize_down(all_at_once: bool) -> None:
    """P9: what is too much goes when it is given back, and no more than that; holders are not disturbed."""
    factory = Factory()
    async with pool_of(factory, max=10) as pool:
        things = [await pool.acquire() for _ in range(8)]
        pool.resize(max=3)
        await settle()
        assert (pool.stats.in_use, pool.stats.max, factory.gone) == (8, 3, [])
        for thing in things:
            await thing.work()
            pool.release(thing)
            if not all_at_once:
                await settle()
        await settle()
        assert pool.stats.available == pool.stats.total == 3
        assert pool.stats.discarded == {"resize": 5}


async def test_case_13_resize_down_while_idle() -> None:
    """P9: what is idle and too much goes at once, the least recently used first."""
    factory = Factory()
    async with pool_of(factory, max=10) as pool:
        await fill(pool, 8)
        pool.resize(max=3)
        await settle()
        assert pool.stats.available == 3
        assert factory.gone == [0, 1, 2, 3, 4]


async def test_case_13_resize_up() -> None:
    """P4, P9: a raised `max` serves who waits, and a raised `min` is made, at once."""
    factory = Factory()
    got: list[Thing] = []

    async def wait() -> None:
        thing = await pool.acquire()
        got.append(thing)
        await go_on.wait()
        pool.release(thing)

    async with pool_of(factory, max=3) as pool, anyio.create_task_group() as tg:
        go_on = anyio.Event()
        for _ in range(8):
            tg.start_soon(wait)
        await settle()
        assert (len(got), pool.stats.waiting) == (3, 5)
        pool.resize(max=10)
        await settle()
        assert (len(got), pool.stats.waiting) == (8, 0)
        pool.resize(min=10)
        await settle()
        assert pool.stats.total == 10
        go_on.set()


# ------------------------------------------------------------------ order and fairness
async def test_case_14_nobody_starves() -> None:
    """P3: of 100 tasks with 10 resources, the slowest keeps up with the fastest."""
    ops = [0] * 100
    when_first: list[int] = []

    async def work(number: int) -> None:
        for _ in range(30):
            await use(pool)
            ops[number] += 1
        when_first.append(min(ops))

    async with pool_of(Factory(), max=10) as pool, anyio.create_task_group() as tg:
        for number in range(100):
            tg.start_soon(work, number)
    assert when_first[0] >= 25
    assert pool.stats.acquired == 3000


async def test_case_15_nobody_barges_in() -> None:
    """P3: who releases and acquires again without a pause in between comes after who waits."""
    order: list[str] = []
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()

        async def wait() -> None:
            async with pool.acquire():
                order.append("waiter")
                await checkpoint()

        async with anyio.create_task_group() as tg:
            tg.start_soon(wait)
            await settle()
            pool.release(thing)
            with pytest.raises(anyio.WouldBlock):
                pool.acquire_nowait()
            async with pool.acquire():
                order.append("holder")
    assert order == ["waiter", "holder"]


async def order_behind_a_suspect(creation: str) -> list[str]:
    """Who is served first, of two that come one after the other, when the topmost of two idle ones must be checked."""
    order: list[str] = []

    async def acquire(name: str) -> None:
        async with pool.acquire():
            order.append(name)
            await anyio.sleep(5)

    options: dict[str, Any] = {"max": 2, "check": Script(creation), "check_after": 1000, "create_timeout": 3}
    async with pool_of(Factory(), **options) as pool:
        fit = await pool.acquire()
        with suppress(ValueError):
            async with pool.acquire():
                pool.release(fit)
                raise ValueError
        assert pool.stats.available == 2
        async with anyio.create_task_group() as tg:
            for name in ("first", "second"):
                tg.start_soon(acquire, name)
                await turns(3)
            await anyio.sleep(0.01)
            order.append("at once ends")
    return order


@pytest.mark.virtual_time
@pytest.mark.parametrize("check", ["slow", "hang"])
async def test_case_15_nobody_barges_in_past_a_check(check: str) -> None:
    """P3: who waits for a check is not overtaken, and is served with a fit one while there is one."""
    assert await order_behind_a_suspect(check) == ["first", "at once ends", "second"]


@pytest.mark.virtual_time
async def test_case_15_a_fit_one_is_lent_while_another_is_to_be_checked() -> None:
    """P3, P7: nobody waits for a check of one while there is another that needs none."""
    check = Script("hang")
    async with pool_of(Factory(), max=2, check=check, check_after=1000, create_timeout=1) as pool:
        fit = await pool.acquire()
        with suppress(ValueError):
            async with pool.acquire() as suspect:
                pool.release(fit)
                raise ValueError
        for _ in range(2):
            assert await timed(lambda: use(pool)) == (fit, 0)
        assert check.calls == 0
        async with pool.acquire():
            other, seconds = await timed(lambda: use(pool))
            assert other not in {fit, suspect}
            assert (seconds, check.calls) == (1, 1)


@pytest.mark.virtual_time
async def test_case_16_first_come_first_served() -> None:
    """P3: in order of arrival; one that has given up is skipped, and costs nobody a turn."""
    order: list[tuple[str, float]] = []
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()
        begin = anyio.current_time()

        async def wait(name: str, limit: float) -> None:
            with suppress(PoolTimeout):
                async with pool.acquire(timeout=limit):
                    order.append((name, round(anyio.current_time() - begin, 6)))
                    await anyio.sleep(0.1)

        async with anyio.create_task_group() as tg:
            for name, limit in (("W1", 10), ("W2", 0.05), ("W3", 10), ("W4", 10)):
                tg.start_soon(wait, name, limit)
                await settle()
            await anyio.sleep(0.2)
            pool.release(thing)
    base = order[0][1]
    assert [(name, round(when - base, 6)) for name, when in order] == [("W1", 0), ("W3", 0.1), ("W4", 0.2)]


@pytest.mark.virtual_time
async def test_case_17_a_task_that_waits_for_itself_is_told() -> None:
    """P6: an acquire in a block that holds the last one times out, and the error says why."""
    async with pool_of(Factory(), max=1) as pool:
        async with pool.acquire():
            with pytest.raises(PoolTimeout, match="This task already holds 1 of 1") as caught:
                await pool.acquire(timeout=0.1)
        assert (caught.value.held, caught.value.limit, caught.value.stats.in_use) == (1, 0.1, 1)
        assert isinstance(caught.value, TimeoutError)
        thing = await pool.acquire()
        outcome: list[Any] = []

        async def other() -> None:
            outcome.append((await timed(lambda: pool.acquire(timeout=0.1)))[0])

        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
        assert isinstance(outcome[0], PoolTimeout)
        assert outcome[0].held == 0, "another task has it"
        assert "This task" not in str(outcome[0])
        pool.release(thing)


@pytest.mark.virtual_time
async def test_case_17_what_was_given_back_is_not_held() -> None:
    """P6: the error does not count what the task had before."""
    async with pool_of(Factory(destroy_delay=1), max=1) as pool:
        pool.discard(await pool.acquire())
        with pytest.raises(PoolTimeout) as caught:
            await pool.acquire(timeout=0.1)
        assert (caught.value.held, caught.value.stats.destroying) == (0, 1)


# ------------------------------------------------------------------ time
@pytest.mark.virtual_time
async def test_case_18_one_budget_for_all_checks() -> None:
    """P6: a time-out is for all tries together, not for each."""
    checks = []

    async def check(_: Thing) -> bool:
        checks.append(anyio.current_time())
        await anyio.sleep(0.2)
        return False

    async with pool_of(Factory(), max=4, check=check, acquire_timeout=0.5) as pool:
        await fill(pool, 4)
        await anyio.sleep(2)
        outcome, seconds = await timed(lambda: use(pool))
        assert isinstance(outcome, PoolTimeout)
        assert seconds == pytest.approx(0.5)
        assert len(checks) == 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("script", ["err", "hang"])
async def test_case_18_one_budget_for_all_creations(script: str) -> None:
    """P6: nor for each creation; the last error of one is the cause."""
    async with pool_of(Factory(script, create_delay=0.2), create_timeout=0.3, backoff=(0.01, 0.01)) as pool:
        outcome, seconds = await timed(lambda: use(pool, timeout=0.7))
        assert isinstance(outcome, PoolTimeout)
        assert seconds == pytest.approx(0.7)
        assert isinstance(outcome.__cause__, Refused if script == "err" else TimeoutError)
        assert pool.stats.create_errors >= 2


@pytest.mark.virtual_time
async def test_case_19_a_time_out_leaves_nothing_behind() -> None:
    """P6: what is released later is idle, and the next acquire has it at once."""
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0.1)
        pool.release(thing)
        assert pool.stats.available == 1
        assert await timed(lambda: use(pool)) == (thing, 0.0)
        assert pool.stats.timeouts == 1


@pytest.mark.virtual_time
async def test_case_20_no_time_at_all() -> None:
    """P6: `timeout=0` takes what is idle; else it fails without waiting, and with the error of `create`."""
    factory = Factory()
    async with pool_of(factory, max=2, backoff=(1, 1)) as pool:
        outcome, seconds = await timed(lambda: use(pool, timeout=0))
        assert isinstance(outcome, PoolTimeout)
        assert seconds == 0
        assert outcome.__cause__ is None
        (thing,) = await fill(pool, 1)
        assert await timed(lambda: use(pool, timeout=0)) == (thing, 0)
        async with pool.acquire():
            factory.fault = Refused("no")
            assert isinstance((await timed(lambda: use(pool, timeout=0.1)))[0], PoolTimeout)
            outcome, seconds = await timed(lambda: use(pool, timeout=0))
            assert isinstance(outcome, PoolTimeout)
            assert (outcome.__cause__, seconds) == (factory.fault, 0)


# ------------------------------------------------------------------ cancellation
async def take_and_release(pool: Pool[Thing]) -> None:
    """A use in which nothing can be cancelled."""
    async with pool.acquire():
        pass


@each_backend
@each_creation
def test_case_21_cancelled_while_it_waits_and_when_it_is_served(creation: str, backend: str) -> None:
    """P5: a waiter may be cancelled at any moment: nothing is lost, the next in line is served."""
    struck(story(creation, user, before=1, after=1), backend)


@pytest.mark.parametrize("count", range(9))
async def test_case_21_cancelled_some_turns_after_the_release(count: int) -> None:
    """P5: either it is cancelled in the queue or at its next checkpoint; the next waiter has it in the same turn."""
    reached: list[str] = []
    async with pool_of(Factory(), max=1, reset=Script("instant")) as pool:
        thing = await pool.acquire()

        async def first(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as cut:
                task_status.started(cut)
                async with pool.acquire():
                    reached.append("first")
                    await anyio.sleep_forever()
            assert cut.cancelled_caught

        async def second() -> None:
            async with pool.acquire():
                reached.append("second")

        async with anyio.create_task_group() as tg:
            cut = await tg.start(first)
            await settle()
            tg.start_soon(second)
            await settle()
            pool.release(thing)
            await turns(count)
            cut.cancel()
        assert reached in (["second"], ["first", "second"])
        await settle()
        assert pool.stats.available == pool.stats.total == 1


@pytest.mark.asyncio_only
@pytest.mark.parametrize("count", range(9))
async def test_case_22_a_native_cancellation_is_never_swallowed(count: int) -> None:
    """P5: whenever `Task.cancel()` comes, the task ends as cancelled, and nobody has called `uncancel()`."""
    left: list[int] = []
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()

        async def wait() -> None:
            try:
                async with pool.acquire():
                    await anyio.sleep_forever()
            finally:
                if sys.version_info >= (3, 11):
                    current = asyncio.current_task()
                    assert current is not None
                    left.append(current.cancelling())

        task = asyncio.ensure_future(wait())
        await settle()
        pool.release(thing)
        await turns(count)
        assert task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert left == ([1] if sys.version_info >= (3, 11) else [])
        await check_serves(pool)


@each_backend
def test_case_22_a_scope_is_told_that_it_was_heard(backend: str) -> None:
    """P5: a victim that would wait for ever always ends as cancelled."""

    async def scenario(sim: Simulation) -> None:
        async with pool_of(Factory(), max=1) as pool:
            thing = await pool.acquire()

            async def victim() -> None:
                async with pool.acquire():
                    await anyio.sleep(1)
                    if sim.has_struck:
                        await anyio.sleep_forever()  # a deadlock, if the cancellation was swallowed

            async with anyio.create_task_group() as tg:
                tg.start_soon(release_later, pool, thing)
                if await sim.victim(victim) is None:
                    assert sim.has_struck
            await check_serves(pool)

    struck(scenario, backend)


@each_backend
@pytest.mark.parametrize("check", ["instant", "slow", "err", "hang"])
def test_case_23_cancelled_while_its_resource_is_checked(check: str, backend: str) -> None:
    """P4, P5, P8: the check goes on and its outcome serves another; nothing is tried again for who has left."""

    async def scenario(sim: Simulation) -> None:
        checking = Script(check, "ok")
        async with pool_of(Factory(), max=1, check=checking, create_timeout=1, check_after=0.5) as pool:
            await fill(pool, 1)
            await anyio.sleep(1)
            if await sim.victim(use, pool) is None:
                await anyio.sleep(2)
            assert checking.calls <= 1
            check_open(pool, in_use=0)
            assert pool.stats.recycling == 0
            await check_serves(pool)

    struck(scenario, backend)


@pytest.mark.virtual_time
@pytest.mark.parametrize("wait", [0.1, 0.2])
@pytest.mark.parametrize("release", [0.1, 0.2])
@pytest.mark.parametrize("waiter_goes_first", [False, True])
async def test_case_24_the_time_is_over_when_it_is_handed_over(
    wait: float, release: float, waiter_goes_first: bool
) -> None:
    """P6: exactly one of both: it is had in time, or `PoolTimeout` and it goes on to the next."""
    outcomes: list[Any] = []
    async with pool_of(Factory(), max=1) as pool:
        thing = await pool.acquire()

        async def waiter() -> None:
            outcomes.append((await timed(lambda: use(pool, timeout=wait)))[0])

        async with anyio.create_task_group() as tg:
            jobs: list[tuple[Any, ...]] = [(waiter,), (release_later, pool, thing, release)]
            for job in jobs if waiter_goes_first else reversed(jobs):
                tg.start_soon(*job)
            await settle()
            tg.start_soon(waiter)
        assert pool.stats.timeouts == sum(isinstance(outcome, PoolTimeout) for outcome in outcomes)
        assert all(outcome is thing or isinstance(outcome, PoolTimeout) for outcome in outcomes)
        if wait != release:
            assert {outcome is thing for outcome in outcomes} == {wait > release}
        assert pool.stats.available == 1


@each_backend
@each_creation
def test_case_24_all_schedules_of_that(creation: str, backend: str) -> None:
    """P6: also with a cancellation in that very turn."""

    async def impatient(pool: Pool[Thing]) -> None:
        with suppress(PoolTimeout):
            await use(pool, 0.01, timeout=0.01)

    struck(story(creation, impatient, before=1, after=1), backend)


@pytest.mark.virtual_time
async def test_case_25_a_cancelled_acquire_cancels_no_creation() -> None:
    """P4: what is made for the one who left serves the next."""
    factory = Factory(create_delay=1)
    times: dict[str, float] = {}

    async def acquire(name: str, limit: float) -> None:
        with anyio.move_on_after(limit):
            await use(pool)
        times[name] = anyio.current_time() - begin

    async with pool_of(factory) as pool:
        begin = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(acquire, "first", 0.1)
            await anyio.sleep(0.2)
            tg.start_soon(acquire, "second", 10)
        assert times == {"first": pytest.approx(0.1), "second": pytest.approx(1.0)}
        assert factory.begun == pool.stats.created == 1


@each_backend
@each_creation
def test_case_25_the_same_everywhere(creation: str, backend: str) -> None:
    """P4, P5: no creation is begun twice because somebody left."""

    async def scenario(sim: Simulation) -> None:
        script = CREATIONS[creation]
        factory = Factory(*script)
        async with pool_of(factory, max=1, create_timeout=1) as pool:
            await sim.victim(take_and_release, pool)
            await use(pool)
            await check_serves(pool)
            assert factory.begun == pool.stats.created + pool.stats.create_errors == len(script)

    struck(scenario, backend)


@pytest.mark.virtual_time
async def test_case_26_a_hundred_that_give_up_begin_no_more_than_max() -> None:
    """P4: creations are begun for resources, not for those who ask."""
    factory = Factory(create_delay=1)
    async with pool_of(factory, max=5) as pool:
        for _ in range(3):
            async with anyio.create_task_group() as tg:
                for _ in range(100):
                    tg.start_soon(use, pool)
                await anyio.sleep(0.1)
                assert pool.stats.creating == 5
                tg.cancel_scope.cancel()
            assert pool.stats.waiting == 0
        assert factory.begun == 5
        assert pool.stats.cancelled == 300
        await anyio.sleep(2)
        assert pool.stats.available == 5


async def test_case_26_a_creation_whose_demand_is_gone_is_not_begun() -> None:
    """P4: what is released before the creation has begun serves who asked for it."""
    factory = Factory()
    async with pool_of(factory, max=2) as pool:
        thing = await pool.acquire()

        async def release() -> None:
            pool.release(thing)

        async with anyio.create_task_group() as tg:
            tg.start_soon(use, pool)
            tg.start_soon(release)
        await settle()
        assert factory.begun == pool.stats.total == 1


@each_backend
@each_creation
def test_case_27_cancelled_anywhere_in_a_block(creation: str, backend: str) -> None:
    """P5: entering and leaving `async with pool.acquire()` lose nothing, wherever it is cancelled."""
    struck(story(creation, user, after=0), backend)


@each_backend
@each_creation
def test_case_27_cancelled_anywhere_in_execute(creation: str, backend: str) -> None:
    """P1, P5: nor does `execute`."""

    async def victim(pool: Pool[Thing]) -> None:
        await pool.execute(Thing.work, 0.01)

    struck(story(creation, victim, before=1, after=0, max=2), backend)
