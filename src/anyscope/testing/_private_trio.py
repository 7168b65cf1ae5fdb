"""Trio in virtual time, and under a schedule: its `MockClock`, which jumps when every task is blocked.

What is private here, and why there is no other way:

* `MockClock._autojump` is what Trio calls when it has been idle; it knows of no threads and of no deadlock. It is
  replaced on the instance.
* A deadlock is raised in the main task, and if that did not help in every blocked task, the way Trio delivers a
  KeyboardInterrupt: through the run's main task and `Task._attempt_abort`. A cancellation would stop at shields.
* A schedule stands in for `trio._core._run._r`, which shuffles each batch of ready tasks once
  `_ALLOW_DETERMINISTIC_SCHEDULING` is set: it keeps one task and puts the others back into the run queue, so that it
  has the same say as on asyncio.

`check` and `check_schedules` say so if a version of Trio has none of these any more.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._schedules import Schedule, Youngest
from ._threads import GRACE, PATIENCE, POLL
from ._unsupported import Unsupported

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._watch import Watch


def check() -> None:
    """Refuse a version of Trio that has changed.

    Raises:
        Unsupported: Something that this module needs is missing.
    """
    import trio.lowlevel
    import trio.testing

    needed: tuple[tuple[Any, str], ...] = (
        (trio.testing.MockClock, "_autojump"),
        (trio.lowlevel.Task, "_attempt_abort"),
    )
    missing = [f"{owner.__name__}.{name}" for owner, name in needed if not hasattr(owner, name)]
    if missing:
        raise Unsupported(f"virtual time needs {', '.join(missing)}, which trio {trio.__version__} does not have")


def options(watch: Watch) -> dict[str, Any]:
    """Options for `anyio.run(..., backend="trio", backend_options=...)`."""
    import trio.testing

    check()
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    idle = Idle(clock, watch)
    clock._autojump = idle.jump
    return {"clock": clock, "instruments": [idle]}


MOST_RAISED = 20
"""How often a program may catch a deadlock and wait again."""


class Idle:
    """Stands in for MockClock's jump, and is the instrument that knows what was true before the last look at I/O.

    A class of its own and not a subclass: Trio's MockClock is final.

    Args:
        clock: The clock.
        watch: The run that it belongs to.

    Attributes:
        _is_busy: Whether a thread was at work before the last look at I/O.
        _since: Real time at which the present wait for threads began; `None` while something else happens.
        _raised: How often a deadlock or livelock has been raised.
    """

    def __init__(self, clock: Any, watch: Watch) -> None:
        self._clock = clock
        self._watch = watch
        self._is_busy = False
        self._since: float | None = None
        self._raised = 0

    def before_io_wait(self, timeout: float) -> None:
        """Trio is about to look for I/O, for at most `timeout` seconds."""
        import trio

        limiter = trio.to_thread.current_default_thread_limiter()
        self._is_busy = limiter.borrowed_tokens > 0 or self._watch.threads.is_busy()
        if timeout == 0:
            if self._clock.autojump_threshold:
                self._since = None  # a task can run: the wait is over
            if self._watch.has_turned():
                self._break_out(self._watch.spinning())

    def jump(self) -> None:
        """Trio found every task blocked, for `autojump_threshold` real seconds."""
        import trio

        statistics = trio.lowlevel.current_statistics()
        step, io = statistics.seconds_to_next_deadline, statistics.io_statistics
        readers = getattr(io, "tasks_waiting_read", 1)  # one is Trio's own, on its wake-up socket
        is_watching = readers > 1 or getattr(io, "tasks_waiting_write", 0) > 0
        if (self._is_busy or is_watching) and self._hold(
            PATIENCE if self._is_busy else GRACE, is_endless=math.isinf(step)
        ):
            return
        self._since = None
        if self._clock.autojump_threshold:
            self._clock.autojump_threshold = 0
        if math.isinf(step):
            self._break_out(self._watch.dead())
        else:
            self._watch.has_rested()
            self._clock.jump(max(step, 0.0))

    def _hold(self, patience: float, *, is_endless: bool) -> bool:
        now = time.monotonic()
        self._since = self._since or now
        if not is_endless and now - self._since >= patience:
            return False
        if not self._clock.autojump_threshold:
            self._clock.autojump_threshold = POLL
        return True

    def _break_out(self, error: BaseException) -> None:
        """Raise in the main task; if that did not help, in every blocked task; and in the end in Trio itself."""
        import trio

        def throw() -> None:
            raise error

        root: Any = trio.lowlevel.current_root_task()
        self._raised += 1
        if self._raised > MOST_RAISED:
            raise error  # the program catches it and waits again: the run breaks off, its tasks left as they are
        for task in _below(root)[:1] if self._raised == 1 else _below(root):
            if task._abort_func is not None:
                task._attempt_abort(throw)


def _below(root: Any) -> list[Any]:
    """All tasks of the run, the main task first; not the root, which is Trio's own."""
    found: list[Any] = []
    waiting: list[Any] = [child for nursery in root.child_nurseries for child in nursery.child_tasks]
    waiting.sort(key=_is_system_task)
    while waiting:
        task = waiting.pop(0)
        found.append(task)
        waiting.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found


def _is_system_task(task: Any) -> bool:
    return str(task.name).startswith("<")


# ------------------------------------------------------------------ under a schedule
class Chooser(random.Random):
    """Stands in for the random source of Trio's scheduler: of a batch, the schedule's choice runs, and the rest waits.

    Args:
        schedule: Says who runs next, in this thread; a run of Trio in another thread is left alone.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self._thread = threading.get_ident()
        self._numbers: dict[Any, int] = {}
        self._arrivals: dict[Any, int] = {}
        self._arrived = itertools.count()

    def shuffle(self, x: Any) -> None:  # type: ignore[override]  # on 3.10 it may be given a function too
        """Leave one task in the batch, which comes sorted by the age of its tasks; it may be empty."""
        from trio._core._run import GLOBAL_RUN_CONTEXT

        if threading.get_ident() != self._thread:
            super().shuffle(x)
            return
        for task in x:
            self._arrivals.setdefault(task, next(self._arrived))
            self._numbers.setdefault(task, len(self._numbers))
        if not x:
            return
        x.sort(key=self._arrivals.__getitem__)
        chosen = x[self._schedule.choose([self._numbers[task] for task in x])]
        GLOBAL_RUN_CONTEXT.runner.runq.extend(task for task in x if task is not chosen)
        del self._arrivals[chosen]
        x[:] = [chosen]
        self._schedule.step()


@contextmanager
def scheduled(schedule: Schedule) -> Generator[None, None, None]:
    """Within this block, a run of Trio in this thread follows the schedule."""
    check_schedules()
    with _scheduled(schedule):
        yield


@contextmanager
def _scheduled(schedule: Schedule) -> Generator[None, None, None]:
    from trio._core import _run

    runs: Any = _run
    before = runs._r, runs._ALLOW_DETERMINISTIC_SCHEDULING
    runs._r, runs._ALLOW_DETERMINISTIC_SCHEDULING = Chooser(schedule), True
    try:
        yield
    finally:
        runs._r, runs._ALLOW_DETERMINISTIC_SCHEDULING = before


@functools.cache
def check_schedules() -> None:
    """Refuse a Trio whose scheduler does not let itself be told who is next.

    Raises:
        Unsupported: Its insides have changed.
    """
    import trio

    if _order_in_reverse() != ["second", "first", "second", "first"]:
        raise Unsupported(f"trio {trio.__version__} does not let a schedule choose which task goes next")


def _order_in_reverse() -> list[str]:
    """Let two tasks begin, and be woken, in reverse order."""
    import trio.lowlevel

    order: list[str] = []

    async def note(name: str, gate: trio.Event) -> None:
        order.append(name)
        await gate.wait()
        order.append(name)

    async def main() -> None:
        gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "first", gate)
            nursery.start_soon(note, "second", gate)
            await trio.lowlevel.checkpoint()
            gate.set()

    try:
        with _scheduled(Schedule(Youngest())):
            trio.run(main)
    except AttributeError:
        return []
    return order
