"""Misuse is told (S1, S12), and the errors of the library (E): the full text of each, with nothing started."""

# Handles are dropped on purpose here; and mypy looks with the eyes of Python 3.10.
# mypy: disable-error-code="unused-awaitable,attr-defined"

from __future__ import annotations

import asyncio
import copy
import gc
import math
import pickle
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyscope
from anyscope import (
    AnyscopeError,
    CloseTimeout,
    NoCurrentScope,
    PollFailed,
    PollStopped,
    PoolClosed,
    PoolFull,
    PoolMisuse,
    PoolStats,
    PoolTimeout,
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    ServiceCycle,
    ServiceExists,
    ServiceNotFound,
    ServiceNotReady,
    StreamClosed,
    StreamTimeout,
    Task,
    TaskCancelled,
    TaskNotDone,
    TaskTimeout,
    current_scope,
    each,
    scope,
)
from anyscope._vocabulary import errors


def without_addresses(value: object) -> str:
    """The id of a test: the same in each process that collects it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


RAN: list[str] = []
"""Whoever runs although it should not have been started says so here."""


@pytest.fixture(autouse=True)
def nothing_ran() -> Any:
    """Nothing that was refused has run; and what is left is collected here, so that a warning belongs to its test."""
    RAN.clear()
    yield
    gc.collect()
    assert RAN == []


async def fetch(item: object = None) -> None:
    """An async function."""
    RAN.append(f"fetch {item}")


def load(path: str = "") -> None:
    """A plain function."""
    RAN.append(f"load {path}")


async def rows() -> AsyncIterator[int]:
    """An async generator function."""
    RAN.append("rows")
    yield 1


def numbers() -> Any:
    """A generator function."""
    RAN.append("numbers")
    yield 1


class Loader:
    """A class."""

    def __init__(self) -> None:
        RAN.append("Loader")

    def __repr__(self) -> str:
        return "<loader>"


# ------------------------------------------------------------------------------------------------- options of scope()
SECONDS = "must be a number of seconds or None"
POSITIVE = "must be >= 0 seconds or None for no limit"
RIGHT_HOOKS = "Right: hooks=Hooks(before_task=...)"
COUNT = "must be an int >= 1 or None for no limit"


@dataclass(frozen=True)
class Wrong:
    """Options that are refused, with which error and text."""

    options: dict[str, Any]
    kind: type[Exception]
    text: str


WRONG_OPTIONS = [
    Wrong({"timeout": -1}, ValueError, f"timeout {POSITIVE}, got -1"),
    Wrong({"timeout": -0.5}, ValueError, f"timeout {POSITIVE}, got -0.5"),
    Wrong({"timeout": math.nan}, ValueError, f"timeout {POSITIVE}, got nan"),
    Wrong({"timeout": -math.inf}, ValueError, f"timeout {POSITIVE}, got -inf"),
    Wrong({"timeout": True}, TypeError, f"timeout {SECONDS}, got True (bool)"),
    Wrong({"timeout": "3"}, TypeError, f"timeout {SECONDS}, got '3' (str)"),
    Wrong({"timeout": [1]}, TypeError, f"timeout {SECONDS}, got [1] (list)"),
    Wrong(
        {"timeout": timedelta(seconds=3)},
        TypeError,
        f"timeout {SECONDS}, got a timedelta: write timeout=delta.total_seconds()",
    ),
    Wrong({"close_timeout": 0}, ValueError, "close_timeout must be > 0 seconds or None for no limit, got 0"),
    Wrong({"close_timeout": -1}, ValueError, "close_timeout must be > 0 seconds or None for no limit, got -1"),
    Wrong({"close_timeout": False}, TypeError, f"close_timeout {SECONDS}, got False (bool)"),
    Wrong(
        {"concurrency": 0},
        ValueError,
        "concurrency must be >= 1 or None for no limit, got 0: with 0 nothing could ever run",
    ),
    Wrong(
        {"concurrency": -1},
        ValueError,
        "concurrency must be >= 1 or None for no limit, got -1: with -1 nothing could ever run",
    ),
    Wrong({"concurrency": 1.5}, TypeError, f"concurrency {COUNT}, got 1.5 (float)"),
    Wrong({"concurrency": True}, TypeError, f"concurrency {COUNT}, got True (bool)"),
    Wrong({"concurrency": "3"}, TypeError, f"concurrency {COUNT}, got '3' (str)"),
    Wrong({"name": 3}, TypeError, "name must be a str or None, got 3 (int)"),
    Wrong({"name": ""}, ValueError, "name must be 1 to 100 printable characters, got ''"),
    Wrong({"name": "a\nb"}, ValueError, r"name must be 1 to 100 printable characters, got 'a\nb'"),
    Wrong({"name": "x" * 101}, ValueError, f"name must be 1 to 100 printable characters, got '{'x' * 100}'"),
    Wrong({"parent": "app"}, TypeError, "parent must be a Scope, or None for a root, got 'app' (str)"),
    Wrong({"parent": Scope}, TypeError, f"parent must be a Scope, or None for a root, got {Scope!r} (type)"),
    Wrong({"signal": 3}, TypeError, "signal must be a CancelSignal such as s.signal, got 3 (int)"),
    Wrong(
        {"hooks": load},
        TypeError,
        f"hooks must be a Hooks object or several of them, got {load!r} (function)\n{RIGHT_HOOKS}",
    ),
    Wrong(
        {"hooks": [3]},
        TypeError,
        f"hooks must be a Hooks object or several of them, got 3 (int)\n{RIGHT_HOOKS}",
    ),
]


@pytest.mark.parametrize("wrong", WRONG_OPTIONS, ids=lambda wrong: without_addresses(wrong.options)[:40])
def test_wrong_options_of_a_scope(wrong: Wrong) -> None:
    """S12: a wrong option is told when the scope is made: option, value, rule, remedy."""
    with pytest.raises(wrong.kind) as caught:
        scope(**wrong.options)
    assert str(caught.value) == wrong.text
    assert type(caught.value) is wrong.kind


def test_infinity_is_no_limit() -> None:
    """S12: an infinite number of seconds is no mistake, it means no limit."""
    scope(timeout=math.inf, close_timeout=math.inf)


# ------------------------------------------------------------------------------------------------- what is to run
Give = Callable[[], object]

WRONG_FUNCTIONS: dict[str, tuple[Give, str]] = {
    "coroutine object": (
        lambda: fetch(3),
        (
            "{call}(fetch(...)): expected an async function, got a coroutine object\n"
            "Wrong: {call}(fetch(x))\n"
            "Right: {call}(fetch, x)"
        ),
    ),
    "plain function": (
        lambda: load,
        (
            "{call}(load): load is not async, so it would block every other task\n"
            "Wrong: {call}(load)\n"
            "Right: {call}(anyio.to_thread.run_sync, load)"
        ),
    ),
    "class": (
        lambda: Loader,
        (
            "{call}(Loader): Loader is not async, so it would block every other task\n"
            "Wrong: {call}(Loader)\n"
            "Right: {call}(anyio.to_thread.run_sync, Loader)"
        ),
    ),
    "generator function": (
        lambda: numbers,
        (
            "{call}(numbers): numbers is not async, so it would block every other task\n"
            "Wrong: {call}(numbers)\n"
            "Right: {call}(anyio.to_thread.run_sync, numbers)"
        ),
    ),
    "async generator function": (
        lambda: rows,
        (
            "{call}(rows): rows is an async generator function, it yields many values\n"
            "Right: async for item in rows(...): ..."
        ),
    ),
    "None": (lambda: None, "{call}(...): expected an async function, got None (NoneType)"),
    "text": (lambda: "fetch", "{call}(...): expected an async function, got 'fetch' (str)"),
}


async def make(call: str, s: Scope, given: Any) -> None:
    """Make one call of the scope with something that is not an async function."""
    if call == "s.start_soon":
        s.start_soon(given)
    elif call == "s.task":
        s.task(given)
    elif call == "s.run":
        await s.run(given)
    elif call == "s.start":
        await s.start(given)
    elif call == "each":
        each(given, [1])
    else:
        await getattr(s, call[2:])([given])


@pytest.mark.parametrize("what", WRONG_FUNCTIONS)
@pytest.mark.parametrize(
    "call",
    ["s.task", "s.start_soon", "s.run", "s.start", "each", "s.parallel", "s.parallel_aggregate", "s.race", "s.any"],
)
async def test_not_an_async_function(call: str, what: str) -> None:
    """S12: what is not an async function is told at the call, in full, with nothing started and no warning."""
    give, text = WRONG_FUNCTIONS[what]
    async with scope(name="app", parent=None) as s:
        with pytest.raises(TypeError) as caught:
            await make(call, s, give())
        assert str(caught.value) == text.format(call=call)
        assert s.tree() == "scope app open"
    gc.collect()


@pytest.mark.parametrize("call", ["s.task", "s.start_soon", "s.run"])
async def test_arguments_that_do_not_fit(call: str) -> None:
    """S12: arguments that do not fit are told at the call, as Python does, and not in a task."""
    async with scope(name="app", parent=None) as s:
        with pytest.raises(TypeError, match="takes from 0 to 1 positional arguments but 3 were given"):
            made = getattr(s, call[2:])(fetch, 1, 2, 3)
            if isinstance(made, Awaitable):
                await made
        assert s.tree() == "scope app open"


async def test_a_function_that_returns_something_else() -> None:
    """S12: a lambda that turns out not to give a coroutine is told at the call, with what it gave."""
    async with scope(parent=None) as s:
        with pytest.raises(TypeError) as caught:
            s.task(lambda: 3)  # type: ignore[arg-type,return-value]
    assert str(caught.value) == "s.task(<lambda>): expected an async function, but it returned int, not a coroutine"


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"timeout": -1}, ValueError, f"timeout {POSITIVE}, got -1"),
        ({"timeout": math.nan}, ValueError, f"timeout {POSITIVE}, got nan"),
        ({"timeout": "1"}, TypeError, f"timeout {SECONDS}, got '1' (str)"),
        ({"timeout": True}, TypeError, f"timeout {SECONDS}, got True (bool)"),
        ({"name": 7}, TypeError, "name must be a str or None, got 7 (int)"),
        ({"name": ""}, ValueError, "name must be 1 to 100 printable characters, got ''"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["task", "run"])
async def test_wrong_options_of_a_task(call: str, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    """S12: a wrong option of `task` and `run` is told at the call; no coroutine is made and dropped."""
    async with scope(name="app", parent=None) as s:
        with pytest.raises(kind) as caught:
            made = getattr(s, call)(fetch, **options)
            if call == "run":
                await made
        assert str(caught.value) == text
        assert s.tree() == "scope app open"


@pytest.mark.parametrize("call", ["start_soon", "start"])
async def test_wrong_name_of_other_work(call: str) -> None:
    """S12: a wrong name is told by `start_soon` and `start` too, and no coroutine is left that was never awaited."""
    async with scope(name="app", parent=None) as s:
        with pytest.raises(ValueError, match="name must be 1 to 100 printable characters, got ''"):
            made = getattr(s, call)(fetch, name="")
            if call == "start":
                await made
        assert s.tree() == "scope app open"
    gc.collect()


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"concurrency": 0},
            ValueError,
            "concurrency must be >= 1 or None for no limit, got 0: with 0 nothing could ever run",
        ),
        ({"concurrency": True}, TypeError, f"concurrency {COUNT}, got True (bool)"),
        ({"timeout": -1}, ValueError, f"timeout {POSITIVE}, got -1"),
        ({"job_timeout": "3"}, TypeError, f"job_timeout {SECONDS}, got '3' (str)"),
        ({"fail_fast": "yes"}, TypeError, "fail_fast must be a bool, got 'yes' (str)"),
        ({"on_progress": 3}, TypeError, "on_progress must be a function or None, got 3 (int)"),
        (
            {"on_progress": fetch},
            TypeError,
            "on_progress must be a plain function, but fetch is async: it is called, never awaited",
        ),
    ],
    ids=without_addresses,
)
@pytest.mark.parametrize("call", ["parallel", "parallel_aggregate"])
async def test_wrong_options_of_parallel(call: str, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    """S12: a wrong option of the parallel family is told before any job starts."""
    async with scope(parent=None) as s:
        with pytest.raises(kind) as caught:
            await getattr(s, call)([fetch, fetch], **options)
    assert str(caught.value) == text


@pytest.mark.parametrize("call", ["race", "any"])
async def test_no_jobs_to_race(call: str) -> None:
    """A6, S12: without jobs there is no winner: told at once."""
    async with scope(parent=None) as s:
        with pytest.raises(ValueError, match="no jobs") as caught:
            await getattr(s, call)([])
    assert str(caught.value) == f"s.{call}(...): no jobs, so nobody could ever win\nGive it at least one job."


@pytest.mark.parametrize("call", ["parallel", "parallel_aggregate", "race", "any"])
async def test_jobs_that_are_no_jobs(call: str) -> None:
    """S12: one function where several jobs are wanted is told, with the right lines."""
    async with scope(parent=None) as s:
        with pytest.raises(TypeError) as caught:
            await getattr(s, call)(fetch)
    assert str(caught.value) == (
        f"s.{call}(...): expected several jobs, got {fetch!r} (function)\n"
        f"Right: s.{call}([first, second])   or: s.{call}(each(fetch, items))"
    )


@pytest.mark.parametrize("call", ["parallel", "parallel_aggregate", "race", "any"])
async def test_late_binding_lambdas(call: str) -> None:
    """A11: the late-binding trap is told at the call, with the line to write instead."""
    async with scope(parent=None) as s:
        with pytest.raises(ValueError, match="same variables") as caught:
            await getattr(s, call)([lambda: fetch(x) for x in range(3)])  # noqa: B023  the trap itself
    assert str(caught.value) == (
        f"s.{call}(...): several jobs are the same function over the same variables, so all of them would do the same\n"
        f"Wrong: s.{call}([lambda: fetch(x) for x in xs])   (every job sees the last x)\n"
        f"Right: s.{call}(each(fetch, xs))   (or [job] * 3 to do the same three times)"
    )


async def test_each_of_nothing_iterable() -> None:
    """S12: `each` over something that cannot be iterated over is told."""
    with pytest.raises(TypeError) as caught:
        each(fetch, 3)  # type: ignore[call-overload]
    assert str(caught.value) == "each(fetch, ...): expected an iterable, got 3 (int)"


async def test_on_exit_of_wrong_things() -> None:
    """S12, S14: `on_exit` of a coroutine object, or of what cannot be called, is told; nothing is registered."""
    async with scope(name="app", parent=None) as s:
        with pytest.raises(TypeError) as caught:
            s.on_exit(fetch(3))  # type: ignore[arg-type]
        assert str(caught.value) == (
            "s.on_exit(fetch(...)): expected an async function, got a coroutine object\n"
            "Wrong: s.on_exit(fetch(x))\n"
            "Right: s.on_exit(fetch, x)"
        )
        with pytest.raises(TypeError) as caught:
            s.on_exit(None)  # type: ignore[arg-type]
        assert str(caught.value) == "s.on_exit(...): expected a function, got None (NoneType)"
        assert s.tree() == "scope app open"


# ------------------------------------------------------------------------------------------------- the wrong moment
async def test_a_second_entry() -> None:
    """S1: a scope is single-use; a second entry is told, while it is open and after it has closed."""
    s = scope(name="app", parent=None)
    async with s:
        with pytest.raises(ScopeMisuse) as inside:
            await s.__aenter__()
        assert await s.run(anyio.sleep, 0)
    with pytest.raises(ScopeMisuse) as after:
        await s.__aenter__()
    for caught in (inside, after):
        assert caught.value.path == "app"
        assert "entered" in caught.value.problem
        assert caught.value.remedy
        assert str(caught.value) == f"scope app: {caught.value.problem}\n{caught.value.remedy}"


@pytest.mark.parametrize("call", ["task(fetch)", "start_soon(fetch)", "run(fetch)", "start(fetch)", "on_exit(load)"])
async def test_before_entry(call: str) -> None:
    """S12: whatever is asked of a scope before its entry is told, with the line that enters it."""
    s = scope(name="app", parent=None)
    with pytest.raises(ScopeMisuse) as caught:
        made = getattr(s, call.partition("(")[0])(load if "load" in call else fetch)
        if isinstance(made, Awaitable):
            await made
    assert str(caught.value) == (
        f"scope app: {call} came before it was entered\nEnter it first: async with scope(...) as s:"
    )


async def test_left_without_having_been_entered() -> None:
    """S1: `__aexit__` by hand on a new scope is told."""
    with pytest.raises(ScopeMisuse, match="left, but it is not open"):
        await scope(parent=None).__aexit__(None, None, None)


async def test_left_in_another_task() -> None:
    """S1: leaving in another task is told there, alike on both backends; the right task can still leave."""
    told: list[ScopeMisuse] = []

    async def leave(s: Scope) -> None:
        with pytest.raises(ScopeMisuse) as caught:
            await s.__aexit__(None, None, None)
        told.append(caught.value)

    async with scope(name="app", parent=None) as s, anyio.create_task_group() as group:
        group.start_soon(leave, s)
    assert str(told[0]) == (
        "scope app: it was left in another task than it was entered in\n"
        "A scope belongs to the task that entered it. The usual causes: a `yield` inside the block in an async\n"
        "generator or a fixture, or `__aenter__` and `__aexit__` called by hand. Open it with `async with` in the\n"
        "task that runs the block, and hand work to other tasks with s.task(...)."
    )
    assert s.closed


FROM_THREAD: dict[str, Callable[[Scope], object]] = {
    "s.cancel": lambda s: s.cancel("thread"),
    "s.task": lambda s: s.task(fetch),
    "s.start_soon": lambda s: s.start_soon(fetch),
    "s.on_exit": lambda s: s.on_exit(load),
}


@pytest.mark.parametrize("call", FROM_THREAD)
@pytest.mark.parametrize("thread", ["worker", "plain"])
async def test_from_another_thread(call: str, thread: str) -> None:
    """S5, S12: from another thread each call is told with the way through the loop, and the scope stays untouched."""
    told: list[BaseException] = []

    def attempt(s: Scope) -> None:
        try:
            FROM_THREAD[call](s)
        except BaseException as error:
            told.append(error)

    async with scope(name="app", parent=None) as s:
        if thread == "worker":
            await anyio.to_thread.run_sync(attempt, s)
        else:
            other = threading.Thread(target=attempt, args=(s,))
            other.start()
            other.join()
        assert not s.cancelled
        assert s.tree() == "scope app open"
        await anyio.lowlevel.checkpoint()
    assert isinstance(told[0], ScopeMisuse)
    assert str(told[0]) == (
        f"scope app: {call}(...) was called from another thread\n"
        "Take token = anyio.lowlevel.current_token() in the event loop, and call\n"
        f"anyio.from_thread.run_sync({call}, ..., token=token) in the thread."
    )


async def test_a_later_cancel_still_works_after_one_from_a_thread() -> None:
    """S5, H9: a refused cancel from a thread has poisoned nothing: the right one cancels at once."""
    async with scope(parent=None) as s:

        def attempt() -> None:
            with pytest.raises(ScopeMisuse):
                s.cancel()

        await anyio.to_thread.run_sync(attempt)
        s.cancel("right")
        await anyio.sleep_forever()
    assert s.cancel_reason == "right"


async def test_a_parent_that_is_not_open() -> None:
    """S9, S12: a parent that was not entered yet, or has closed, is told at the entry of the child."""
    parent = scope(name="app", parent=None)
    with pytest.raises(ScopeMisuse) as misuse:
        async with scope(name="child", parent=parent):
            RAN.append("child")
    assert str(misuse.value) == (
        "scope app: it was given as parent of scope child before it was entered\n"
        "Enter the parent first: async with scope(...) as parent:"
    )
    async with parent:
        pass
    with pytest.raises(ScopeClosed) as closed:
        async with scope(name="child", parent=parent):
            RAN.append("child")
    assert str(closed.value) == (
        "scope app is closed: entering child scope child came too late\n"
        "Open the child while its parent is open, or make it a root with parent=None."
    )


@pytest.mark.asyncio_only
async def test_a_parent_of_another_loop() -> None:
    """S1, S9: a parent that lives in another event loop is told; that one stays untouched."""
    told: list[BaseException] = []

    async def elsewhere(parent: Scope) -> None:
        async with scope(name="child", parent=parent):
            RAN.append("child")

    def run(parent: Scope) -> None:
        try:
            asyncio.run(elsewhere(parent))
        except BaseException as error:
            told.append(error)

    async with scope(name="app", parent=None) as s:
        await anyio.to_thread.run_sync(run, s)
        assert s.tree() == "scope app open"
    assert str(told[0]) == (
        "scope app: it was given as parent of scope child in another event loop\n"
        "A scope lives in one event loop: write parent=None there."
    )


def test_no_current_scope() -> None:
    """S11: outside of every scope `current_scope()` says so, and what to do."""
    with pytest.raises(NoCurrentScope) as caught:
        current_scope()
    assert str(caught.value) == (
        "current_scope(): no scope is open in this context\n"
        "Call it inside `async with scope() as s:` or in a task that a scope started. A thread or a callback started "
        "elsewhere has no current scope: hand the scope over as an argument."
    )
    assert isinstance(caught.value, LookupError)


# ------------------------------------------------------------------------------------------------- handles
async def test_the_truth_of_a_handle() -> None:
    """S12: `if task:` is a mistake that would always be true; it is told with both right lines."""
    async with scope(parent=None) as s:
        task = s.task(anyio.sleep, 0, name="nap")
        with pytest.raises(TypeError) as caught:
            bool(task)
    assert str(caught.value) == (
        "task nap (#0) is neither true nor false\nRight: if await task: ...   or: if task.done: ..."
    )


async def test_result_before_the_end() -> None:
    """T7: `result()` of a task that runs says so, and how to wait."""
    async with scope(name="app", parent=None) as s:
        task = s.task(anyio.sleep, 0, name="nap")
        with pytest.raises(TaskNotDone) as caught:
            task.result()
    assert str(caught.value) == "task nap (#0) of app has not finished yet\nWrite `await task` to wait for its result."


async def test_a_task_that_waits_for_itself() -> None:
    """S12: a task that awaits its own handle is told at once, instead of hanging."""
    handles: list[Task[Any]] = []

    async def narcissus() -> None:
        await handles[0]

    async with scope(name="app", parent=None) as s:
        handles.append(s.task(narcissus))
        error = (await handles[0]).pair()[0]
    assert isinstance(error, ScopeMisuse)
    assert str(error) == (
        "scope app: tasks wait for one another: narcissus (#0) -> narcissus (#0)\n"
        "None of them could ever end. Start the work that both need as a third task, and await that."
    )


async def test_a_ring_of_tasks() -> None:
    """S12: tasks that wait for one another in a ring: the one that closes it is told, and the ring is shown."""
    handles: list[Task[Any]] = []

    async def wait_for(index: int) -> None:
        for _ in range(index + 1):
            await anyio.lowlevel.checkpoint()
        (await handles[(index + 1) % 3]).unwrap()

    async with scope(name="app", parent=None) as s:
        handles.extend(s.task(wait_for, index, name=f"t{index}") for index in range(3))
        found = [(await handle).pair()[0] for handle in handles]
    assert all(error is found[0] for error in found), "the two others get it from the one they wait for"
    assert isinstance(found[0], ScopeMisuse)
    assert found[0].problem.startswith("tasks wait for one another: t")
    assert found[0].problem.count(" -> ") == 3


# ------------------------------------------------------------------------------------------------- the errors (E)
SAMPLES: list[AnyscopeError] = [
    AnyscopeError("plain"),
    ScopeMisuse(path="app", problem="it was left", remedy="Enter it."),
    ScopeClosed(path="app", action="task(fetch)"),
    ScopeCancelled(path="app", action="parallel", reason="user left"),
    ScopeTimeout(path="app", limit=3.0, running=("fetch (#1)",)),
    CloseTimeout(path="app", step="close (#0)", limit=10.0),
    NoCurrentScope(action="current_scope()"),
    TaskCancelled(task="fetch (#1) of app", reason="enough"),
    TaskTimeout(task="fetch (#1) of app", limit=2.0),
    TaskNotDone(task="fetch (#1) of app"),
    ServiceNotFound(key="Session", path="app", needed_by="service Repo of app", searched=(("app", ("Database",)),)),
    ServiceNotReady(key="Session", path="app", state="building"),
    ServiceExists(key="Session", path="app", state="ready", holders=("the body of app",)),
    ServiceCycle(ring=("Session", "Repo", "Session"), path="app"),
    PoolTimeout(pool="db of app", limit=3.0, stats=PoolStats(*[1] * 18, {"check": 2}, 0, None), held=1),
    PoolFull(pool="db of app", max_waiting=3),
    PoolClosed(pool="db of app", action="acquire()"),
    PoolMisuse(pool="db of app", problem="it was left", remedy="Enter it."),
    PollFailed(poll="health of app", failures=3, problem="OSError: no"),
    PollStopped(poll="health of app", action="next()", reason="stop() was called"),
    StreamClosed(stream="lines (#3) of app", problem="it was closed"),
    StreamTimeout(stream="lines (#3) of app", limit=2.0, per_item=True),
]


def all_errors(root: type[AnyscopeError] = AnyscopeError) -> list[type[AnyscopeError]]:
    """The root and everything below it that the library defines."""
    below = [kind for kind in root.__subclasses__() if kind.__module__.partition(".")[0] == "anyscope"]
    return [root, *(found for kind in below for found in all_errors(kind))]


def test_every_error_has_a_sample() -> None:
    """E: the tests below miss no class."""
    assert {type(sample) for sample in SAMPLES} == set(all_errors())


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", ["copy", "deepcopy", *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_errors_pickle_and_copy(error: AnyscopeError, how: str | int) -> None:
    """E: pickle and copy keep class, text, attributes and notes."""
    error.__notes__ = ["in task fetch (#1) of app"]
    twin = pickle.loads(pickle.dumps(error, how)) if isinstance(how, int) else getattr(copy, how)(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
    assert twin.__notes__ == ["in task fetch (#1) of app"]
    assert twin.args == error.args


def drawn(kind: type[AnyscopeError], depth: int = 1) -> list[str]:
    """The tree of the classes, as the docstring draws it."""
    builtin = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
    lines = [f"{'  ' * (depth + 1)}{kind.__name__}{f' ({builtin[0]})' if builtin else ''}"]
    for below in vars(errors).values():
        if isinstance(below, type) and kind in below.__bases__:
            lines += drawn(below, depth + 1)
    return lines


def test_the_tree_in_the_docstring() -> None:
    """E: the tree that the module's docstring shows is the tree of the classes, in the order of the module."""
    assert errors.__doc__ is not None
    shown = [line for line in errors.__doc__.splitlines() if line.startswith("    ")]
    assert shown == drawn(AnyscopeError)


def test_the_tree_in_the_docs() -> None:
    """E: docs/errors.md shows the same tree, with what each error is for."""
    text = Path(__file__).parent.parent.joinpath("docs", "errors.md").read_text(encoding="utf-8")
    lines = text.partition("```text\nAnyscopeError\n")[2].partition("```")[0].splitlines()
    shown = [re.sub(r"(?<=\S)  +.*", "", line) for line in lines]
    assert shown == [line.removeprefix("    ") for line in drawn(AnyscopeError)[1:]]


def test_every_error_is_public() -> None:
    """E: each error can be imported from `anyscope`, and shows itself as such."""
    for kind in all_errors():
        assert getattr(anyscope, kind.__name__) is kind
        assert kind.__module__ == "anyscope"
        assert kind.__name__ in anyscope.__all__
