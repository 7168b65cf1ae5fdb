"""Streams under simulation: the stories of tests/stream_scenarios.py, as tests/test_simulated.py does with others."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from anyscope.testing import Scenario
from stream_scenarios import NEVER_NATIVELY, NEVER_NATIVELY_ON_3_10, STREAM_SCENARIOS
from test_simulated import _silence, attack_by_scope, check_the_promise

__all__ = ["_silence"]  # a fixture of this file too


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("scenario", STREAM_SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_promise_of_streams_holds(scenario: Scenario, backend: Any) -> None:
    """R1-R5: see the docstring of the story."""
    never_natively = NEVER_NATIVELY | (NEVER_NATIVELY_ON_3_10 if sys.version_info < (3, 11) else set())
    if backend == "asyncio" and scenario.__name__ in never_natively:
        assert attack_by_scope(scenario).struck > 50
        return
    check_the_promise(scenario, backend)
