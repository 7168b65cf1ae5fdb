"""One case: run again, and made as small as it can be."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from ._case import Case
from ._failures import failure_of
from ._schedules import text_of
from .simulation import Run

if TYPE_CHECKING:
    from ._failures import Failure
    from .simulation import Scenario

MOST_TRIES = 400
"""Runs that `shrink` spends at most."""


def replay(scenario: Scenario, case: Case | str) -> Failure | None:
    """Run one case.

    Args:
        scenario: What is run: an async function that is given a `Simulation`.
        case: How: a `Case`, or the line that a failure printed.

    Returns:
        The failure, or `None` if it did not fail.

    Raises:
        ValueError: The line is no case, or the scenario has no victim.
        Unsupported: This version of a runtime cannot be simulated.

    Example:
        >>> from anyscope.testing import replay
        >>> async def scenario(sim):
        ...     async def victim():
        ...         sim.fault("read")
        ...     await sim.victim(victim)
        >>> print(replay(scenario, "trio fault=1 schedule=fifo"))
        scenario failed on trio, with a fault at fault point 1 (read):
          InjectedFault: fault injected into call 1 of read
        Tasks went first in, first out.
        Again: replay(scenario, "trio fault=1 schedule=fifo")
    """
    run = Run(scenario, Case.of(case) if isinstance(case, str) else case)
    return failure_of(run, scenario)


def shrink(failure: Failure) -> Failure:
    """Make a failure as small as it can be: with no deviation from first in, first out that it does not need.

    Args:
        failure: What failed.

    Returns:
        The smallest case found that fails with an error of the same type; the same one if it does not fail again.

    Raises:
        Unsupported: This version of a runtime cannot be simulated.
    """
    scenario = failure.scenario
    tries = itertools.count(1)

    def attempt(case: Case) -> tuple[Failure, Run] | None:
        if next(tries) > MOST_TRIES:
            return None
        run = Run(scenario, case)
        found = failure_of(run, scenario)
        return (found, run) if found is not None and type(found.error) is type(failure.error) else None

    first = attempt(failure.case)
    if first is None:
        return failure
    smallest, deviations = first[0], first[1].schedule.deviations()
    size = len(deviations)
    while size and deviations:  # ever smaller parts are left out, down to single ones
        for part in _parts(sorted(deviations, reverse=True), size):
            fewer = {number: choice for number, choice in deviations.items() if number not in part}
            if found := attempt(replace(smallest.case, schedule=text_of(fewer))):
                smallest, deviations = found[0], fewer
        size //= 2
    while smallest.case.again and (found := attempt(replace(smallest.case, again=smallest.case.again - 1))):
        smallest = found[0]
    return smallest


def _parts(numbers: list[int], size: int) -> list[set[int]]:
    return [set(numbers[start : start + size]) for start in range(0, len(numbers), size)]
