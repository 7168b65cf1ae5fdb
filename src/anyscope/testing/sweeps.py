"""Many runs of one scenario: struck at every point, under many schedules, and under all near the usual one.

Cancelling at every checkpoint finds an await between taking a thing and owning it. It does not find the hand-off race
in any mode (measured on five pools with known defects): a waiter that has been handed something and is cancelled
before it runs. That takes a cancellation at every *step* of any task, together with other *schedules*; so `attack` does
all of it.

The first failure ends everything: it is made as small as it can be, and raised as a `SimulationFailed` that holds the
line with which to run it again.
"""

from __future__ import annotations

import gc
import itertools
import random
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._case import At, Case, Strike
from ._failures import Report, SimulationFailed, failure_of
from ._replaying import shrink
from ._schedules import FIFO, text_of
from .simulation import Run, Scenario

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = (
    "Backend",
    "attack",
    "explore",
    "shuffle",
    "sweep",
)

Backend: TypeAlias = Literal["asyncio", "asyncio+uvloop", "trio"]

MOST_POINTS = 5_000
"""Points at which a sweep strikes at most; a scenario has some dozens."""
MOST_RUNS = 20_000
"""Runs of one `explore` at most."""
FIRST_HORIZON = 40
"""Points and choices that a run is taken to have before one was seen."""
CALM = 5
"""One run of so many in `shuffle` is not struck: a schedule alone may be enough."""


# ------------------------------------------------------------------ many cases
class _Campaign:
    """Runs cases one after the other, and ends at the first that fails.

    Args:
        scenario: What is run.

    Attributes:
        report: What has been done. Written by `run`.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.report = Report(scenario)

    def run(self, case: Case) -> Run:
        """Run one.

        Raises:
            SimulationFailed: It failed.
        """
        run = Run(self.report.scenario, case)
        self.report.runs += 1
        if run.simulation.has_struck:
            self.report.struck += 1
            self.report.places.add(run.simulation.place)
        if failure := failure_of(run, self.report.scenario):
            smallest = shrink(failure)
            raise SimulationFailed(smallest, self.report.runs) from smallest.error
        return run


@contextmanager
def _old_heap_left_out() -> Generator[None, None, None]:
    """What was there before is no garbage of the runs: without it a collection after each run costs 1 ms, not 70."""
    was_frozen = gc.get_freeze_count() > 0  # then somebody else has done so, and knows when to end it
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()


def sweep(
    scenario: Scenario,
    *,
    backend: Backend = "asyncio",
    strike: Strike = "cancel",
    at: At = "checkpoint",
    again: int = 0,
    schedule: str = FIFO,
) -> Report:
    """Run a scenario again and again, each time striking one point later, until a run is not reached any more.

    Args:
        scenario: An async function that is given a `Simulation`.
        backend: `asyncio` (default), `trio`, or `asyncio+uvloop` (in real time, only at checkpoints).
        strike: `cancel` (default) for an AnyIO scope around the victim, `native` for `asyncio.Task.cancel()`, `fault`
            for an error at each `sim.fault()`.
        at: `checkpoint` (default) strikes at each of the victim's own; `step` before each step of any task.
        again: How many times more a native cancellation is delivered, at the next points. Default 0.
        schedule: Who runs next, as in `Case`. Default `fifo`.

    Returns:
        How many runs there were, and where they were struck.

    Raises:
        SimulationFailed: A run failed.
        ValueError: An argument has no such value, or the scenario has no victim.
        Unsupported: This version of a runtime cannot be simulated.

    Example:
        >>> import anyio
        >>> from anyscope.testing import SimulationFailed, sweep
        >>> async def scenario(sim):
        ...     lent = []
        ...     async def borrow():
        ...         lent.append("book")
        ...         await anyio.sleep(60)
        ...         lent.clear()  # forgotten: try and finally
        ...     await sim.victim(borrow)
        ...     assert not lent, f"never returned: {lent}"
        >>> try:
        ...     sweep(scenario, backend="trio")
        ... except SimulationFailed as error:
        ...     print(error)
        scenario failed on trio, cancelled at checkpoint 1, when the victim stood at <doctest ...>:5 in borrow:
          AssertionError: never returned: ['book']
        Tasks went first in, first out.
        Again: replay(scenario, "trio cancel checkpoint=1 schedule=fifo")
        Found in run 1.
    """
    campaign = _Campaign(scenario)
    with _old_heap_left_out():
        for number in range(1, MOST_POINTS + 1):
            case = Case(backend, strike, at, number, again, schedule)
            if not campaign.run(case).simulation.has_struck:
                break
    return campaign.report


def shuffle(
    scenario: Scenario,
    *,
    backend: Backend = "asyncio",
    strike: Strike | None = "cancel",
    runs: int = 200,
    seed: int = 0,
) -> Report:
    """Run a scenario under other schedules, struck at a step drawn at random.

    Every other run shuffles; the rest go by priorities of which a few change (PCT), where some task lags far behind.
    One run in five is not struck.

    Args:
        scenario: An async function that is given a `Simulation`.
        backend: `asyncio` (default) or `trio`.
        strike: `cancel` (default), `native`, `fault`, or `None` for schedules alone.
        runs: How many runs. Default 200.
        seed: Other seeds give other runs, the same seed the same ones. Default 0.

    Returns:
        How many runs there were, and where they were struck.

    Raises:
        SimulationFailed: A run failed.
        ValueError: An argument has no such value, or the scenario has no victim.
        Unsupported: This version of a runtime cannot be simulated.

    Example:
        >>> import anyio
        >>> from anyscope.testing import SimulationFailed, shuffle
        >>> async def scenario(sim):
        ...     count = 0
        ...     async def add():
        ...         nonlocal count
        ...         before = count
        ...         await anyio.sleep(0)
        ...         count = before + 1
        ...     async with anyio.create_task_group() as tg:
        ...         tg.start_soon(add)
        ...         await anyio.sleep(0)
        ...         await anyio.sleep(0)
        ...         await sim.victim(add)
        ...     assert count == 2, count
        >>> try:
        ...     shuffle(scenario, strike=None)
        ... except SimulationFailed as error:
        ...     print(error.failure.error)
        1
    """
    _check_number("runs", runs, least=1)
    campaign = _Campaign(scenario)
    draw = random.Random(seed)
    horizon = choices = FIRST_HORIZON
    with _old_heap_left_out():
        for number in range(runs):
            schedule = _drawn_schedule(draw, number, choices)
            is_calm = strike is None or number % CALM == 0
            point = 0 if is_calm else draw.randint(1, horizon)
            run = campaign.run(Case(backend, None if is_calm else strike, "step", point, 0, schedule))
            if is_calm:  # not cut short: it shows how long a run is
                horizon, choices = max(run.simulation.points, 1), len(run.schedule.choices)
    return campaign.report


def _drawn_schedule(draw: random.Random, number: int, choices: int) -> str:
    seed = draw.randrange(2**32)
    return f"priorities:{seed}:{choices}" if number % 2 else f"random:{seed}"


def explore(
    scenario: Scenario,
    *,
    backend: Backend = "asyncio",
    strike: Strike | None = None,
    deviations: int = 2,
    most_runs: int = MOST_RUNS,
) -> Report:
    """Run a scenario under every schedule that deviates at most so many times from first in, first out.

    With a strike, under each of these once for each step at which it can come.

    Args:
        scenario: An async function that is given a `Simulation`.
        backend: `asyncio` (default) or `trio`.
        strike: `cancel`, `native` or `fault`; default `None`, schedules alone.
        deviations: How many choices may be other than first in, first out. Default 2.
        most_runs: An end to it: schedules beyond that are not run. Default 20,000.

    Returns:
        How many runs there were (`most_runs`, if that ended it), and where they were struck.

    Raises:
        SimulationFailed: A run failed.
        ValueError: An argument has no such value, or the scenario has no victim.
        Unsupported: This version of a runtime cannot be simulated.

    Example:
        >>> import anyio
        >>> from anyscope.testing import explore
        >>> async def scenario(sim):
        ...     order = []
        ...     async def note(name):
        ...         order.append(name)
        ...         await anyio.sleep(0)
        ...     async with anyio.create_task_group() as tg:
        ...         tg.start_soon(note, "a")
        ...         await sim.victim(note, "b")
        ...     assert sorted(order) == ["a", "b"]
        >>> explore(scenario, deviations=1)
        <Report of scenario: 3 runs, none struck>
    """
    _check_number("most_runs", most_runs, least=1)
    _check_number("deviations", deviations, least=0)
    campaign = _Campaign(scenario)
    with _old_heap_left_out():
        for number in itertools.count(1):
            before = campaign.report.struck
            case = Case(backend, strike, "step", number if strike else 0)
            _explore_case(campaign, case, deviations, most_runs)
            if campaign.report.struck == before or campaign.report.runs >= most_runs:
                return campaign.report
    raise AssertionError


def _explore_case(campaign: _Campaign, case: Case, deviations: int, most_runs: int) -> None:
    """Run a case under every schedule that is near enough, depth first."""
    schedule: dict[int, int] | None = {}
    while schedule is not None and campaign.report.runs < most_runs:
        run = campaign.run(replace(case, schedule=text_of(schedule)))
        schedule = _next_schedule(run.schedule.choices, deviations)


def _next_schedule(choices: list[tuple[int, int]], deviations: int) -> dict[int, int] | None:
    """The schedule after this one: the last choice that may be another becomes the next one; what follows is fifo."""
    deviating = sum(1 for _, choice in choices if choice)
    for number in range(len(choices) - 1, -1, -1):
        ready, choice = choices[number]
        deviating -= bool(choice)
        if choice + 1 < ready and deviating < deviations:
            earlier = {at: chosen for at, (_, chosen) in enumerate(choices[:number]) if chosen}
            return {**earlier, number: choice + 1}
    return None


def attack(scenario: Scenario, *, backend: Backend = "asyncio", runs: int = 200, deviations: int = 1) -> Report:
    """Do all of it: sweeps over checkpoints and steps, shuffled schedules, and every schedule near the usual one.

    On asyncio with AnyIO's cancellation and natively, once and three times over; on uvloop over checkpoints alone. A
    scenario of fifty steps takes some thousand runs of about 2 ms.

    Args:
        scenario: An async function that is given a `Simulation`.
        backend: `asyncio` (default), `trio` or `asyncio+uvloop`.
        runs: Shuffled runs for each kind of cancellation. Default 200.
        deviations: How many choices may deviate in the schedules that are explored, without a strike. Default 1.

    Returns:
        How many runs there were, and where they were struck.

    Raises:
        SimulationFailed: A run failed.
        ValueError: An argument has no such value, or the scenario has no victim.
        Unsupported: This version of a runtime cannot be simulated.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> from anyscope.testing import attack
        >>> async def scenario(sim):
        ...     log = []
        ...     async def work():
        ...         async with scope() as s:
        ...             s.on_exit(lambda: log.append("closed"))
        ...             log.append("open")
        ...             await anyio.sleep(1)
        ...     await sim.victim(work)
        ...     assert log in ([], ["open", "closed"])
        >>> report = attack(scenario, runs=20)
        >>> report.struck > 40
        True
    """
    _check_number("runs", runs, least=1)
    report = Report(scenario)
    with _old_heap_left_out():
        try:
            for part in _attacks(scenario, backend, runs, deviations):
                report.add(part)
        except SimulationFailed as failed:
            failed.runs += report.runs
            raise
    return report


def _attacks(scenario: Scenario, backend: Backend, runs: int, deviations: int) -> Iterator[Report]:
    kinds: tuple[tuple[Strike, int], ...] = (("cancel", 0),)
    if backend != "trio":
        kinds = (*kinds, ("native", 0), ("native", 2))
    for strike, again in kinds:
        yield sweep(scenario, backend=backend, strike=strike, again=again)
        if backend != "asyncio+uvloop":
            yield sweep(scenario, backend=backend, strike=strike, again=again, at="step")
    if backend == "asyncio+uvloop":
        return
    for strike in dict(kinds):
        yield shuffle(scenario, backend=backend, strike=strike, runs=runs)
    yield explore(scenario, backend=backend, deviations=deviations)


def _check_number(option: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{option} must be >= {least}, got {value!r}")
