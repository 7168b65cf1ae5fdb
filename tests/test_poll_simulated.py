"""Polls under simulation: the stories of tests/poll_scenarios.py, as tests/test_simulated.py does it with others."""

from __future__ import annotations

from typing import Any

import pytest

from anyscope.testing import Scenario
from poll_scenarios import POLL_SCENARIOS
from test_simulated import _silence, check_the_promise

__all__ = ["_silence"]  # a fixture of this file too


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", POLL_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_of_polls_holds(scenario: Scenario, backend: Any) -> None:
    """L1-L6: see the docstring of the story."""
    check_the_promise(scenario, backend)
