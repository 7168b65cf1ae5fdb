"""The operators of streams under simulation: the stories of tests/stream_operator_scenarios.py."""

from __future__ import annotations

from typing import Any

import pytest

from anyscope.testing import Scenario
from stream_operator_scenarios import STREAM_OPERATOR_SCENARIOS
from test_simulated import _silence, check_the_promise

__all__ = ["_silence"]  # a fixture of this file too


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", STREAM_OPERATOR_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_of_the_operators_holds(scenario: Scenario, backend: Any) -> None:
    """R3, R6-R8: see the docstring of the story."""
    check_the_promise(scenario, backend)
