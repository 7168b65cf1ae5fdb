"""Fixtures and checks that every test of the project gets.

Async tests, and sync ones that ask for `anyio_backend`, run once per backend: `asyncio` and `trio` in virtual time
(`anyscope.testing`), `asyncio+uvloop` in real time. Marks narrow that: `virtual_time`, `asyncio_only`, `trio_only`.
The environment variable `ANYSCOPE_BACKENDS` (`asyncio,trio`) restricts a whole run.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import inspect
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from anyscope.testing import _private_uvloop
from anyscope.testing._watch import Watch
from anyscope.testing.virtual_time import options_of

OPTIONS = {
    "asyncio": functools.partial(options_of, "asyncio"),
    "asyncio+uvloop": _private_uvloop.options,
    "trio": functools.partial(options_of, "trio"),
}
NEEDS = {"asyncio+uvloop": "uvloop", "trio": "trio"}
# Each example runs a loop of its own; in CI the same examples each time. Hypothesis must be imported before the heap is
# frozen (below): Trio registers its scheduler's random source with it, and that looks for the source's owners.
hypothesis.settings.register_profile("anyscope", deadline=None, derandomize=bool(os.environ.get("CI")), database=None)
hypothesis.settings.load_profile("anyscope")
WATCH = pytest.StashKey[Watch]()


# ---------------------------------------------------------------------------------------------- which backends
def chosen_backends() -> list[str]:
    """Give the ids of the backends of this run."""
    asked = [name.strip() for name in os.environ.get("ANYSCOPE_BACKENDS", "").split(",") if name.strip()]
    if unknown := set(asked) - set(OPTIONS):
        raise pytest.UsageError(f"ANYSCOPE_BACKENDS: {sorted(unknown)} unknown, there are {sorted(OPTIONS)}")
    return [name for name in OPTIONS if not asked or name in asked]


def _suits(name: str, item: Any) -> bool:
    if name == "asyncio+uvloop" and item.get_closest_marker("virtual_time"):
        return False
    if name == "trio" and item.get_closest_marker("asyncio_only"):
        return False
    return name == "trio" or not item.get_closest_marker("trio_only")


def _param(name: str) -> Any:
    needed = NEEDS.get(name)
    missing = needed is not None and importlib.util.find_spec(needed) is None
    return pytest.param(name, id=name, marks=[pytest.mark.skip(f"{needed} is not installed")] if missing else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that runs on a backend the backends that its marks allow."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    if any("anyio_backend" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")):
        return
    names = [name for name in chosen_backends() if _suits(name, metafunc.definition)]
    metafunc.parametrize("anyio_backend", [_param(name) for name in names], indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """The backend and its options: a fresh clock for each test. Afterwards: nothing may be left behind."""
    watch = request.node.stash[WATCH] = Watch()
    name = request.param
    yield name.partition("+")[0], OPTIONS[name](watch)
    gc.collect()
    gc.freeze()  # keeps the next collection cheap: pytest's own records of thousands of tests are left out of it
    if watch.stuck is None:
        _check_left_behind(watch)


def _check_left_behind(watch: Watch) -> None:
    tasks = [task for loop in watch.loops for task in getattr(loop, "left_tasks", ())]
    watch.loops.clear()
    if tasks:
        pytest.fail("tasks outlived the test:\n" + "\n".join(f"  {task}" for task in tasks), pytrace=False)
    if watch.problems:
        lines = [f"  {c.get('message')}: {c.get('exception', '')!r}" for c in watch.problems]
        pytest.fail("the loop's exception handler was called:\n" + "\n".join(lines), pytrace=False)


@pytest.fixture
def loop_problems(anyio_backend: object, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What reached asyncio's exception handler so far; a test that expects it looks, then clears the list."""
    return request.node.stash[WATCH].problems


# ---------------------------------------------------------------------------------------------- checks per test
@pytest.fixture(autouse=True, scope="session")
def _note_left_tasks() -> Iterator[None]:
    """Look at asyncio's tasks before AnyIO's test runner cancels them: it has no hook for that."""
    from anyio._backends._asyncio import TestRunner

    original = TestRunner.__exit__

    def look_then_exit(self: Any, *args: Any) -> None:
        loop = self.get_loop()
        loop.left_tasks = [repr(task) for task in asyncio.all_tasks(loop) if task is not self._runner_task]
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestRunner, "__exit__", look_then_exit)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Report a deadlock as itself, whatever the test and the task groups on its way made of it."""
    cause = result = None
    try:
        result = yield
    except BaseException as error:
        cause = error
    watch = pyfuncitem.stash.get(WATCH, None)
    if watch is not None and watch.stuck is not None:
        pytest.fail(str(watch.stuck), pytrace=False)
    if cause is not None:
        raise cause
    return result


def pytest_collection_finish() -> None:
    """Leave what exists before the first test out of every later garbage collection."""
    gc.collect()
    gc.freeze()


# ------------------------------------------------------------------------------------------ documents are tests
class DocumentEvaluator(PythonEvaluator):
    """Runs a block; where it defines `async def main()`, runs that too, on both backends in virtual time."""

    def __call__(self, example: Example) -> None:
        """Evaluate one block, after those that it builds on: another worker may have run them."""
        done: set[int] = example.namespace.setdefault("__evaluated__", set())
        for earlier in list(example.document.examples()):
            if earlier.line < example.line and earlier.line not in done and earlier.region.evaluator is self:
                earlier.evaluate()
        done.add(example.line)
        example.namespace.setdefault("__name__", "document")
        example.namespace.pop("main", None)
        super().__call__(example)
        main = example.namespace.get("main")
        if not inspect.iscoroutinefunction(main):
            return
        for name in [name for name in chosen_backends() if name != "asyncio+uvloop"]:
            watch = Watch()
            anyio.run(main, backend=name, backend_options=OPTIONS[name](watch))
            _check_left_behind(watch)


class Documents:
    """A plugin and not a hook of this file: a conftest's hooks do not see files outside its folder."""

    pytest_collect_file = staticmethod(
        Sybil(
            parsers=[CodeBlockParser("python", DocumentEvaluator()), SkipParser()],
            path=str(Path(__file__).parent.parent),
            patterns=["README.md", "docs/*.md", "docs/**/*.md"],
        ).pytest()
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the Python blocks of README.md and docs/ as tests."""
    config.pluginmanager.register(Documents(), "anyscope-documents")
