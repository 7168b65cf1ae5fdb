"""Trio in virtual time: its `MockClock`, which jumps when every task is blocked.

What is private here, and why there is no other way:

* `MockClock._autojump` is what Trio calls when it has been idle; it knows of no threads and of no deadlock. It is
  replaced on the instance.
* A deadlock is raised in the main task, and if that did not help in every blocked task, the way Trio delivers a
  KeyboardInterrupt: through the run's main task and `Task._attempt_abort`. A cancellation would stop at shields.

`check` says so if a version of Trio has none of these any more.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from ._threads import GRACE, PATIENCE, POLL

if TYPE_CHECKING:
    from ._watch import Watch


class Unsupported(Exception):
    """This version of a runtime lacks what the testing package needs; the text says what."""


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
        elif step > 0:
            self._watch.has_rested()
            self._clock.jump(step)

    def _hold(self, patience: float, *, is_endless: bool) -> bool:
        now = time.monotonic()
        self._since = self._since or now
        if not is_endless and now - self._since >= patience:
            return False
        if not self._clock.autojump_threshold:
            self._clock.autojump_threshold = POLL
        return True

    def _break_out(self, error: BaseException) -> None:
        """Raise in the main task; if that did not help, in every blocked task."""
        import trio

        def throw() -> None:
            raise error

        root: Any = trio.lowlevel.current_root_task()
        self._raised += 1
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
