"""Who is running, and timers: what is asked of the backend itself, by its public functions.

AnyIO tells the task and the loop too, but by way of objects that cost 2 to 4 microseconds each time; an empty
scope costs 12. The look-ups here cost a tenth of that or less. A timer of asyncio costs a twentieth of a task that
sleeps, which is what it takes on Trio.

Which of the two runs is asked of sniffio's thread-local name, as AnyIO does first, in 60 ns: Trio writes it for as long
as its own code runs, so it is right where both are in one thread (Trio as a guest of asyncio, or started by a task of
asyncio), and for each thread and each loop anew.

Rejected
    * `trio.lowlevel.in_trio_run()`: it says yes to the asyncio that Trio is a guest of; and its no, which is what a
      program with asyncio gets that has merely loaded Trio, takes half a microsecond: an exception.
    * Asking asyncio first: its no is an exception as well, and it says yes where a task of asyncio runs Trio.
    * Remembering the answer of a thread or a loop: two loops in one thread take turns, callback by callback.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import sys
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from anyio.abc import TaskGroup

TURNS = 50
"""How many turns of the loop to wait for something that takes a few."""


def thread_local() -> Any:
    """Whose `name` says what runs in this thread. Trio needs sniffio; where that is missing, all is asyncio's."""
    try:
        sniffio = importlib.import_module("sniffio")
    except ModuleNotFoundError:
        return SimpleNamespace(name=None)
    return sniffio.thread_local


LIBRARY: Any = thread_local()


def running_task() -> object:
    """The native task that is running, or `None` in a plain callback of the loop."""
    try:
        return _trio().lowlevel.current_task() if LIBRARY.name == "trio" else asyncio.current_task()
    except RuntimeError:
        return None


def running() -> tuple[object, object]:
    """The native task that is running, and an object that stands for its loop; for code that does run in a task."""
    if LIBRARY.name == "trio":
        lowlevel = _trio().lowlevel
        return lowlevel.current_task(), lowlevel.current_trio_token()
    return asyncio.current_task(), asyncio.get_running_loop()


def has_ended(task: object) -> bool:
    """Whether a native task has ended; only asyncio lets others outlive it that way."""
    return isinstance(task, asyncio.Task) and task.done()


def running_loop() -> object:
    """An object that stands for the running event loop, or `None` outside of one."""
    try:
        return _trio().lowlevel.current_trio_token() if LIBRARY.name == "trio" else asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_on_trio() -> bool:
    """Whether the running code is Trio's."""
    return bool(LIBRARY.name == "trio")


def _trio() -> Any:
    """The module, which is loaded where its code runs, and need not be installed elsewhere."""
    return sys.modules["trio"]


def running_clock() -> Callable[[], float]:
    """What tells the time of the running loop, as `anyio.current_time()` does in four times as long."""
    if is_on_trio():
        clock: Callable[[], float] = _trio().current_time
        return clock
    return asyncio.get_running_loop().time


def soon_caller() -> Callable[[Callable[[], object]], object]:
    """What has the running loop call a function soon.

    It may be called in any thread and at any moment, also by `__del__`; RuntimeError once the loop has ended.
    """
    if is_on_trio():
        call: Callable[[Callable[[], object]], object] = _trio().lowlevel.current_trio_token().run_sync_soon
        return call
    loop = asyncio.get_running_loop()
    return lambda function: loop.call_soon_threadsafe(_call_as_asyncio, function)


def _call_as_asyncio(function: Callable[[], object]) -> None:
    """Call it so that AnyIO finds its backend, which it looks for by way of sniffio, and that by way of a task."""
    before, LIBRARY.name = LIBRARY.name, "asyncio"
    try:
        function()
    finally:
        LIBRARY.name = before


def refuses_misnesting() -> bool:
    """Whether leaving a cancel scope, while one that was opened in it is still open, changes nothing but raises.

    So it is on asyncio. Trio raises too, but gives up the inner one.
    """
    return not is_on_trio()


_GROUP_MAKERS: dict[bool, Callable[[], TaskGroup]] = {}
"""For asyncio and for Trio, once a group was made there."""


def new_group() -> TaskGroup:
    """A task group of AnyIO, made by its class: `anyio.create_task_group` asks first what runs, which is known here."""
    make = _GROUP_MAKERS.get(LIBRARY.name == "trio")
    return _first_group() if make is None else make()


def _first_group() -> TaskGroup:
    group = anyio.create_task_group()
    is_simple = not inspect.signature(type(group)).parameters
    _GROUP_MAKERS[is_on_trio()] = type(group) if is_simple else anyio.create_task_group
    return group


def running_task_teller() -> Callable[[], object]:
    """What tells the running task of the running loop, without asking which backend it is, each time."""
    if is_on_trio():
        current: Callable[[], object] = _trio().lowlevel.current_task
        return current
    return asyncio.current_task


class TrioSignal(Awaitable[None]):
    """What one task of Trio waits for, as it would for a future: half of what an event costs, which many may wait for.

    Attributes:
        _is_rung: Whether it was rung. Written by `ring`.
        _waiter: The task that waits.
    """

    __slots__ = ("_is_rung", "_waiter")

    def __init__(self) -> None:
        self._is_rung = False
        self._waiter: Any = None

    def __await__(self) -> Generator[Any, Any, None]:
        if not self._is_rung:
            lowlevel = _trio().lowlevel
            self._waiter = lowlevel.current_task()
            yield from lowlevel.wait_task_rescheduled(self._give_up).__await__()

    def _give_up(self, _: object) -> Any:
        self._waiter = None
        return _trio().lowlevel.Abort.SUCCEEDED

    def ring(self) -> None:
        """End the wait, or the one to come."""
        self._is_rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            _trio().lowlevel.reschedule(waiter)


def ring(signal: Any) -> None:
    """End the wait for a signal of asyncio; one who was cancelled natively does not wait any more."""
    if not signal.done():
        signal.set_result(None)


def signals() -> tuple[Callable[[], Awaitable[None]], Callable[[Any], None]]:
    """What makes a signal that one task awaits, and what ends the wait for it, for the running loop.

    On asyncio that is a bare future, for a third of what an `anyio.Event` costs: an event in an event with a queue.
    """
    if is_on_trio():
        return TrioSignal, TrioSignal.ring
    return asyncio.Future, ring


def nursery_count() -> int:
    """How many nurseries the running task of Trio has open; none on asyncio, which does not tell."""
    return len(_trio().lowlevel.current_task().child_nurseries) if is_on_trio() else 0


async def pass_on_cancellation() -> None:
    """Raise the cancellation of the running task if it is cancelled by a scope; else no checkpoint.

    On asyncio it may take some turns of the loop to arrive.
    """
    for _ in range(TURNS):
        if anyio.current_effective_deadline() != -math.inf:
            return
        await checkpoint_if_cancelled()


def forget_native_cancellation() -> None:
    """Take back the native cancellations of the running task, which were dealt with.

    Otherwise `asyncio.TaskGroup` would take them for cancellations that are still to come.
    """
    task = running_task()
    if sys.version_info >= (3, 11) and isinstance(task, asyncio.Task):
        while task.cancelling():
            task.uncancel()


def call_later(delay: float, callback: Callable[[], object]) -> Callable[[], None] | None:
    """Have the loop call `callback` in `delay` seconds; gives what prevents that, or `None` on Trio."""
    if is_on_trio():
        return None
    return asyncio.get_running_loop().call_later(delay, callback).cancel


async def sleep_then(sleeper: anyio.CancelScope, delay: float, callback: Callable[[], object]) -> None:
    """For a task of its own, on Trio: call `callback` in `delay` seconds unless `sleeper` is cancelled."""
    with sleeper:
        await anyio.sleep(delay)
        callback()
