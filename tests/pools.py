"""What the black-box cases of the resource pool share: a scripted factory, and what must hold after each case.

The cases are numbered as in the project's list of them: tests/test_pool_cases.py has 1 to 27, test_pool_closing.py
28 to 30 and 47 to 59, test_pool_quality.py 31 to 46 and 60 to 70.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Pool, scope
from anyscope.testing import Report, Scenario, Simulation, attack

SLOW = 0.05
"""Seconds that a slow function of a script takes."""
INHERIT: Any = object()
CREATIONS = {"instant": ["instant"], "slow": ["slow"], "failing": ["err", "ok"], "hanging": ["hang", "slow"]}
each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Refused(ConnectionRefusedError):
    """What a scripted function raises."""


class Thing:
    """A resource.

    Attributes:
        number: Its number in the factory.
        ends: How often its end was begun.
        is_gone: Whether that is over.
        has_user: Whether somebody uses it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.ends = 0
        self.is_gone = self.has_user = False

    def __repr__(self) -> str:
        return f"thing {self.number}"

    async def work(self, seconds: float = 0.0) -> None:
        """Use it, alone."""
        assert not self.has_user, f"{self} has two users"
        assert not self.ends, f"{self} is used after its end"
        self.has_user = True
        try:
            await pause(seconds)
        finally:
            self.has_user = False


class Script:
    """Says for each call what comes of it: `instant`, `ok`, `slow`, `err`, `false` or `hang`; the last one for ever.

    Args:
        *kinds: These.

    Attributes:
        calls: How many there were.
    """

    def __init__(self, *kinds: str) -> None:
        self.calls = 0
        self._kinds = itertools.chain(kinds, itertools.repeat(kinds[-1] if kinds else "ok"))

    async def __call__(self, _: object = None) -> bool:
        """Do what comes next."""
        self.calls += 1
        kind = next(self._kinds)
        if kind == "hang":
            await anyio.sleep_forever()
        if kind != "instant":
            await pause(SLOW if kind == "slow" else 0.0)
        if kind == "err":
            raise Refused(f"call {self.calls}")
        return kind != "false"


class Factory:
    """Makes things and ends them by a script, and watches what becomes of them.

    Args:
        *script: What comes of each creation, see `Script`.
        create_delay: Seconds that each takes in addition.
        ends: What comes of each end.
        destroy_delay: Seconds that each takes in addition.

    Attributes:
        things: All that there ever were.
        begun: How many creations were begun.
        peak: How many there have been at once, those being made and ended included.
        fault: Raised by each creation, while it is set.
    """

    def __init__(
        self, *script: str, create_delay: float = 0.0, ends: Iterable[str] = ("ok",), destroy_delay: float = 0.0
    ) -> None:
        self.things: list[Thing] = []
        self.begun = self.peak = 0
        self.fault: Exception | None = None
        self._delays = create_delay, destroy_delay
        self._creating, self._ending = Script(*script), Script(*ends)
        self._making = 0

    @property
    def alive(self) -> list[Thing]:
        """What there is."""
        return [thing for thing in self.things if not thing.is_gone]

    @property
    def gone(self) -> list[int]:
        """The numbers of those that are gone."""
        return [thing.number for thing in self.things if thing.is_gone]

    async def create(self) -> Thing:
        """Make one."""
        self.begun += 1
        self._making += 1
        self.peak = max(self.peak, len(self.alive) + self._making)
        try:
            if self._delays[0]:
                await anyio.sleep(self._delays[0])
            await self._creating()
            if self.fault is not None:
                raise self.fault
        finally:
            self._making -= 1
        self.things.append(Thing(len(self.things)))
        return self.things[-1]

    async def destroy(self, thing: Thing) -> None:
        """End one."""
        thing.ends += 1
        assert thing.ends == 1, f"{thing} is ended twice"
        try:
            if self._delays[1]:
                await anyio.sleep(self._delays[1])
            await self._ending()
        finally:
            thing.is_gone = True


# ------------------------------------------------------------------ what must hold
def check_open(pool: Pool[Any], *, in_use: int | None = None) -> None:
    """P3: what holds at every moment, and how many are lent."""
    stats = pool.stats
    counts = (stats.available, stats.in_use, stats.recycling, stats.creating, stats.destroying, stats.waiting)
    assert min(counts) >= 0, stats
    assert in_use is None or stats.in_use == in_use, stats
    assert stats.total == stats.available + stats.in_use + stats.recycling, stats
    assert stats.total + stats.creating + stats.destroying <= stats.max, stats
    assert not (stats.available and stats.waiting), stats
    assert stats.created == stats.destroyed + stats.total + stats.destroying, stats


def check_closed(pool: Pool[Any], factory: Factory) -> None:
    """P11: nothing is left, and each was ended once."""
    stats = pool.stats
    check_open(pool, in_use=0)
    assert pool.closed
    assert (stats.total, stats.creating, stats.destroying, stats.waiting) == (0, 0, 0, 0), stats
    assert stats.created == stats.destroyed == sum(stats.discarded.values()), stats
    assert not factory.alive, factory.alive
    assert all(thing.ends == 1 for thing in factory.things), [thing.ends for thing in factory.things]


async def check_serves(pool: Pool[Any], within: float = 60.0) -> None:
    """P4, P5: nothing is lost, all of `max` can be had."""
    with anyio.fail_after(within):
        things = [await pool.acquire() for _ in range(pool.stats.max)]
    assert len(set(map(id, things))) == pool.stats.max
    check_open(pool, in_use=pool.stats.max)
    for thing in things:
        pool.release(thing)


@asynccontextmanager
async def pool_of(factory: Factory, *, in_use: int | None = 0, **options: Any) -> AsyncIterator[Pool[Thing]]:
    """A pool in a scope of its own, and the checks around each case."""
    pools: list[Pool[Thing]] = []
    most = options.get("max", 10)
    try:
        async with scope(name="app") as s:
            pools.append(s.pool(factory.create, destroy=factory.destroy, **{"name": "db", **options}))
            yield pools[0]
            check_open(pools[0], in_use=in_use)
    finally:
        for pool in pools:
            check_closed(pool, factory)
            assert factory.peak <= max(most, pool.stats.max), "there were too many"


# ------------------------------------------------------------------ users
async def pause(seconds: float = 0.0) -> None:
    """Wait, for one turn at least."""
    await (anyio.sleep(seconds) if seconds else checkpoint())


async def turns(count: int) -> None:
    """Let so many turns of the loop go by."""
    for _ in range(count):
        await checkpoint()


async def settle() -> None:
    """Until nothing can run."""
    await anyio.wait_all_tasks_blocked()


async def use(pool: Pool[Thing], seconds: float = 0.0, *, timeout: float | None = INHERIT) -> Thing:
    """Use one."""
    async with pool.acquire() if timeout is INHERIT else pool.acquire(timeout=timeout) as thing:
        await thing.work(seconds)
        return thing


async def release_later(pool: Pool[Thing], thing: Thing, seconds: float = 0.0) -> None:
    """Give it back in a while."""
    await pause(seconds)
    pool.release(thing)


async def fill(pool: Pool[Thing], count: int) -> list[Thing]:
    """Have so many made, all of them idle afterwards."""
    things = [await pool.acquire() for _ in range(count)]
    for thing in things:
        pool.release(thing)
    return things


async def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives or raises, and the seconds that it takes."""
    begin = anyio.current_time()
    try:
        outcome = await call()
    except Exception as error:
        outcome = error
    return outcome, anyio.current_time() - begin


# ------------------------------------------------------------------ cancellation
async def user(pool: Pool[Thing]) -> None:
    """Two uses, with `async with`."""
    await use(pool)
    await use(pool, 0.01)


def struck(scenario: Scenario, backend: Any, runs: int = 30) -> Report:
    """Cancel everywhere: by scope and natively, at every checkpoint and step, under some schedules."""
    report = attack(scenario, backend=backend, runs=runs)
    assert report.struck > 20, report
    return report


def story(creation: str, victim: Any, *, before: int = 0, after: int = 1, **options: Any) -> Scenario:
    """A scenario: users before the victim and after it, all of which are served; nothing is lost."""
    script = CREATIONS[creation]

    async def scenario(sim: Simulation) -> None:
        served: list[int] = []

        async def bystander(number: int) -> None:
            await use(pool, 0.01)
            served.append(number)

        defaults: dict[str, Any] = {"max": 1, "create_timeout": 1, "acquire_timeout": 20}
        async with pool_of(Factory(*script), **{**defaults, **options}) as pool:
            async with anyio.create_task_group() as tg:
                for number in range(before):
                    tg.start_soon(bystander, number)
                for number in range(before, before + after):
                    tg.start_soon(bystander, number)
                await sim.victim(victim, pool)
            assert len(served) == before + after
            await check_serves(pool)

    return scenario
