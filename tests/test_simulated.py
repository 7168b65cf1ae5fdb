"""The library under simulation: each story of tests/scenarios.py, cancelled everywhere, under many schedules.

For each story and backend: a cancellation at every checkpoint of the victim and at every step of any task, by scope and
(asyncio) natively, once and three times over; 200 shuffled schedules for each kind of cancellation; every schedule that
deviates once from first in, first out. `ANYSCOPE_SOAK=20` does twenty times as many shuffled runs, and explores deeper.
"""

from __future__ import annotations

import os

import pytest

from anyscope.testing import Scenario, attack
from scenarios import SCENARIOS

SOAK = int(os.environ.get("ANYSCOPE_SOAK", "1"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_holds(scenario: Scenario, backend: str) -> None:
    report = attack(scenario, backend=backend, runs=200 * SOAK, deviations=1 if SOAK == 1 else 2)
    print(report)
