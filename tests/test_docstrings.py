"""The examples in docstrings are run, and every public name has one where there is something to show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import anyscope

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(anyscope.__path__, "anyscope.")
    if not module.name.endswith("__main__")
)
SHOWN_BY_EXAMPLE = ("CancelSignal", "CancelSource", "Err", "Hooks", "Ok", "Task", "current_scope", "each", "scope")


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    """Every docstring example of the library runs and prints exactly what stands below it."""
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


@pytest.mark.parametrize("name", SHOWN_BY_EXAMPLE)
def test_main_names_have_an_example(name: str) -> None:
    """The names that a newcomer meets first show themselves at work."""
    assert ">>>" in (getattr(anyscope, name).__doc__ or "")
