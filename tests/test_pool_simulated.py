"""The pool under simulation: the stories of tests/pool_scenarios.py, as tests/test_simulated.py does it with others."""

from __future__ import annotations

from typing import Any

import pytest

from anyscope.testing import Scenario
from pool_scenarios import POOL_SCENARIOS
from test_simulated import _silence, check_the_promise

__all__ = ["_silence"]  # a fixture of this file too


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", POOL_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_of_the_pool_holds(scenario: Scenario, backend: Any) -> None:
    """P3-P11: see the docstring of the story."""
    check_the_promise(scenario, backend)
