"""The pytest plugin of anyscope: the fixtures `attack`, `no_leaks`, `overrides`, `faulty`; the mark `virtual_time`.

Loading it imports nothing of `anyscope`, and a test that uses none of this runs as if it were not there. What the
fixtures do stands in `anyscope.testing.plugin`; the first test that asks for one imports that.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from anyscope.testing.plugin import LeakCheck, Overrides, VirtualBackend

_IN_VIRTUAL_TIME = "_anyscope_in_virtual_time"
_CHANGE_THE_TEST = {"no_leaks", "overrides", _IN_VIRTUAL_TIME}


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "virtual_time: run an async test of AnyIO's plugin in virtual time: sleeping takes no real time (anyscope)",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Give each test with the mark a fixture, to be set up before all others; last, for AnyIO makes new items."""
    for item in session.items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("virtual_time") is not None:
            item.fixturenames = [_IN_VIRTUAL_TIME, *item.fixturenames]  # a new list: the old one is its siblings' too


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have a test that uses any of this checked."""
    if _CHANGE_THE_TEST.isdisjoint(pyfuncitem.fixturenames):
        return (yield)
    from anyscope.testing.plugin import run_checked

    return (yield from run_checked(pyfuncitem, pyfuncitem.funcargs.get(_IN_VIRTUAL_TIME)))


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> LeakCheck:
    """Fail the async test if it leaves tasks, open scopes or things opened in them behind."""
    from anyscope.testing.plugin import LeakCheck

    return LeakCheck.of(request)


@pytest.fixture
def overrides() -> Iterator[Overrides]:
    """During the test, `overrides(key, factory)` has the services of this key made by `factory`."""
    from anyscope.testing.plugin import Overrides

    overrides = Overrides()
    yield overrides
    overrides.end()


@pytest.fixture
def faulty() -> Callable[..., object]:
    """The function `anyscope.testing.faulty`: a function whose n-th call raises, hangs or is slow."""
    from anyscope.testing.faults import faulty

    return faulty


@pytest.fixture
def attack(anyio_backend_name: str) -> Callable[..., object]:
    """The function `anyscope.testing.attack`, on the backend of the test, which is a plain function."""
    from anyscope.testing import attack

    return functools.partial(attack, backend=anyio_backend_name)  # type: ignore[arg-type]  # a name of AnyIO's


@pytest.fixture
def _anyscope_in_virtual_time(request: pytest.FixtureRequest) -> Iterator[VirtualBackend]:
    from anyscope.testing.plugin import in_virtual_time

    yield from in_virtual_time(request)
