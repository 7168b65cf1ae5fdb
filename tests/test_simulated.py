"""The library under simulation: each story of tests/scenarios.py, cancelled everywhere, under many schedules.

For each story and backend: a cancellation at every checkpoint of the victim and at every step of any task, by scope and
(asyncio) natively, once and three times over; 100 shuffled schedules (on asyncio half of them with each kind of
cancellation); every schedule that deviates once from first in, first out. `nox -s soak -- 20` does twenty times as many
shuffled runs, explores schedules with two deviations, and cancels at each step of those with one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from anyscope.testing import Report, Scenario, attack, explore, shuffle, sweep
from rarer_scenarios import NEVER_NATIVELY_ON_3_10 as RARER
from scenarios import SCENARIOS

SOAK = int(os.environ.get("ANYSCOPE_SOAK", "1"))
NEVER_NATIVELY_ON_3_10 = RARER | {
    "a_race",
    "a_scope_that_cancels_itself",
    "batches_by_time_and_a_reader_that_is_cut",
    "debounced_and_throttled",
    "leaving_as_completed_early",
    "parallel_jobs_that_fail",
}
"""On Python 3.10 AnyIO loses a native cancellation that meets that of a scope; in these stories it does."""


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """What the library logs in some hundred thousand runs would be kept by pytest."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_holds(scenario: Scenario, backend: Any) -> None:
    """See the docstring of the story: it names the rules."""
    check_the_promise(scenario, backend)


def check_the_promise(scenario: Scenario, backend: Any) -> None:
    """Run a story in all these ways."""
    if sys.version_info < (3, 11) and backend == "asyncio" and scenario.__name__ in NEVER_NATIVELY_ON_3_10:
        assert attack_by_scope(scenario).struck > 50
        return
    runs = (50 if backend == "asyncio" else 100) * SOAK  # for each kind of cancellation
    report = attack(scenario, backend=backend, runs=runs, deviations=min(SOAK, 2))
    if SOAK > 1:
        for strike in ("cancel", "native") if backend == "asyncio" else ("cancel",):
            report.add(explore(scenario, backend=backend, strike=strike, deviations=1, most_runs=1000 * SOAK))
    assert report.struck > 50, "the story is too short to say anything"


def attack_by_scope(scenario: Scenario) -> Report:
    """As `attack` on asyncio, without native cancellation."""
    report = sweep(scenario)
    for part in (sweep(scenario, at="step"), shuffle(scenario, runs=100 * SOAK), explore(scenario, deviations=1)):
        report.add(part)
    return report
