"""asyncio in virtual time, and under a schedule: its event loop with a clock and a ready queue of its own.

*Virtual time* uses nothing private: a selector is given to the loop, and `time()` is overridden, as its documentation
allows. When the selector is asked to wait and nothing can come from outside, the clock jumps to the end of that wait.
When it is asked to wait for ever, nothing can happen any more.

*A schedule* needs what is private, for asyncio has no hook for it: the loop's `_ready`, a deque of handles, is replaced
by one whose `popleft` asks the schedule; and a `Handle`'s `_callback` and `_cancelled` tell whose step it is. Plain
callbacks keep their order, and no task overtakes a callback that was asked for before: a step of a task may only be
late. `check` runs two tasks in reverse order, and refuses if that does not work: an asyncio in which the steps of tasks
are not recognised would be swept without a word and without effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import selectors
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ._schedules import Schedule, Youngest
from ._threads import GRACE, PATIENCE, POLL
from ._unsupported import Unsupported
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextvars import Context
    from typing import TypeVar

    from typing_extensions import TypeVarTuple, Unpack

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


class JumpingSelector(selectors.DefaultSelector):
    """Advances its clock, instead of waiting, when there is nothing to wait for.

    Args:
        watch: The run that it belongs to.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.now = 0.0
        self._watch = watch

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what is ready, or let virtual time go by."""
        if timeout is not None and timeout <= 0:
            if self._watch.has_turned():
                raise self._watch.spinning()
            return super().select(0)
        events = self._wait(endless=timeout is None)
        if events:
            return events
        if timeout is None:
            raise self._watch.dead()
        self._watch.has_rested()
        self.now += timeout
        return []

    def _wait(self, *, endless: bool) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait in real time for threads, and for a moment for sockets; nothing if none of them has anything."""
        begin = time.monotonic()
        while True:
            is_busy = self._watch.threads.is_busy()  # before the look, or a result could slip in between
            if events := super().select(0):
                return events
            is_watching = len(self.get_map()) > 1  # one is the loop's own wake-up pipe
            patience = PATIENCE if is_busy else GRACE if is_watching else 0.0
            if time.monotonic() - begin >= patience and not (endless and (is_busy or is_watching)):
                return []
            super().select(POLL)  # what it finds is found again


class RecordingMixin:
    """Keeps what reaches the loop's exception handler."""

    watch: Watch

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep it, and go on as usual."""
        self.watch.problems.append(context)
        super().call_exception_handler(context)  # type: ignore[misc]  # the loop that it is mixed into has it


class VirtualLoop(RecordingMixin, asyncio.SelectorEventLoop):
    """A selector loop whose time is virtual.

    Args:
        watch: The run that it belongs to.
    """

    def __init__(self, watch: Watch) -> None:
        self._jumping = JumpingSelector(watch)
        self.watch = watch
        watch.loops.append(self)
        super().__init__(self._jumping)

    def time(self) -> float:
        """The virtual time in seconds; it begins at 0."""
        return self._jumping.now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As usual; but what is never to happen is not waited for, day after day, as `sleep(inf)` would be."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]
    ) -> asyncio.Future[T]:
        """As usual, and count it for as long as it runs."""
        future = super().run_in_executor(executor, func, *args)
        self.watch.threads.executor_jobs += 1
        future.add_done_callback(self._executor_job_done)
        return future

    def _executor_job_done(self, _: object) -> None:
        self.watch.threads.executor_jobs -= 1


def options(watch: Watch) -> dict[str, Any]:
    """Options for `anyio.run(..., backend="asyncio", backend_options=...)`."""
    return {"loop_factory": lambda: VirtualLoop(watch)}


# ------------------------------------------------------------------ under a schedule
_CALLBACK = -1
"""Stands for a plain callback among the numbers of tasks."""
_STEPS = {"TaskStepMethWrapper", "task_wakeup", "__step", "__wakeup", "_Task__step", "_Task__wakeup"}
"""What a task's step and wake-up are called, in C and in Python."""


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is a number of its own.

    AnyIO keeps tasks in sets, and cancels them in the order of these, which is that of memory addresses otherwise: one
    schedule would not be one run.
    """

    def __init__(self, coro: Any, *, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


NumberedTask.__name__ = "Task"  # asyncio's messages show it


class ScheduledReady(deque[asyncio.Handle]):
    """The ready queue of a loop, out of which the schedule chooses.

    Attributes:
        schedule: Who chooses. Written once.
    """

    schedule: Schedule

    def popleft(self) -> asyncio.Handle:
        """Take the handle that goes on: of the tasks up to the first plain callback, or that callback."""
        positions, numbers = self._candidates()
        if not positions:
            return super().popleft()
        chosen = self.schedule.choose(numbers)
        handle = self[positions[chosen]]
        del self[positions[chosen]]
        if numbers[chosen] != _CALLBACK:
            self.schedule.step()
        return handle

    def _candidates(self) -> tuple[list[int], list[int]]:
        """Their positions in the queue, and the numbers of their tasks."""
        positions: list[int] = []
        numbers: list[int] = []
        for position, handle in enumerate(self):
            if handle._cancelled:
                continue
            task = _stepping(handle)
            positions.append(position)
            numbers.append(_CALLBACK if task is None else task.number)
            if task is None:
                break
        return positions, numbers


def _stepping(handle: Any) -> NumberedTask | None:
    """The task whose step this is."""
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, NumberedTask) and getattr(callback, "__name__", type(callback).__name__) in _STEPS:
        return owner
    return None


class ScheduledLoop(VirtualLoop):
    """A loop in virtual time in which a schedule says who runs next.

    Args:
        watch: The run that it belongs to.
        schedule: Says who runs next.
    """

    def __init__(self, watch: Watch, schedule: Schedule) -> None:
        super().__init__(watch)
        inside: Any = self
        inside._ready = ScheduledReady(inside._ready)
        inside._ready.schedule = schedule
        self._numbers = itertools.count()

    def create_task(self, coro: Any, **options: Any) -> Any:
        """Number it, unless the program has a factory of its own: then its tasks go first in, first out.

        Not by a factory: with one, Python 3.13.0 calls each task "None".
        """
        if self.get_task_factory() is not None:
            return super().create_task(coro, **options)
        return NumberedTask(coro, loop=self, number=next(self._numbers), **options)


def scheduled_options(watch: Watch, schedule: Schedule) -> dict[str, Any]:
    """As `options`, under a schedule."""
    check()
    return {"loop_factory": lambda: ScheduledLoop(watch, schedule)}


@functools.cache
def check() -> None:
    """Refuse an asyncio whose loop does not let itself be scheduled.

    Raises:
        Unsupported: Its insides have changed.
    """
    if _order_in_reverse() != ["second", "first", "second", "first"]:
        raise Unsupported("this version of asyncio does not let a schedule choose which task goes next")


def _order_in_reverse() -> list[str]:
    """Let two tasks begin, and be woken, in reverse order."""
    order: list[str] = []

    async def note(name: str, gate: asyncio.Event) -> None:
        order.append(name)
        await gate.wait()
        order.append(name)

    async def main() -> None:
        gate = asyncio.Event()
        tasks = [asyncio.ensure_future(note(name, gate)) for name in ("first", "second")]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait(tasks)

    try:
        loop = ScheduledLoop(Watch(), Schedule(Youngest()))
        with contextlib.closing(loop):
            loop.run_until_complete(main())
    except AttributeError:
        return []
    return order
