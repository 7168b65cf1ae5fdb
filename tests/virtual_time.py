"""Virtual time for the tests, on asyncio and on Trio.

A test that sleeps for an hour takes a millisecond: when nothing can run, the clock jumps to the next deadline. Both
clocks start at 0 and give the same times. Rules, the same on both backends:

* *Threads hold the clock.* While a worker thread or a thread of the test's own runs, no jump is made, so the clock
  shows the same time afterwards, unless the threads take longer than `PATIENCE` real seconds: then it goes on.
* *Nothing left to happen is an error.* No task can run, no deadline is pending, no thread runs, no socket is watched:
  the test fails at once with `DeadlockError`, which says where each task waits. It goes through any shield.

This is test code and uses what the runtimes keep private where there is no other way: which of AnyIO's worker threads
are busy, Trio's `MockClock._autojump` (it has no hook for "idle"), and Trio's way of delivering a KeyboardInterrupt,
to raise an error in a task that is blocked behind a shield. Rejected: freezing time for ever while threads run (a
test that times out on a blocked thread would hang), and wrapping the worker functions (misses threads of the test).
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import math
import os
import selectors
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

PATIENCE = 1.0
"""Real seconds for which running threads hold the clock."""
GRACE = 0.02
"""Real seconds for which watched sockets and pipes hold the clock: what comes from this process is there at once."""
POLL = 0.003
"""Real seconds between two looks at running threads."""

_RUNTIME = tuple(f"{os.sep}{name}{os.sep}" for name in ("anyio", "trio", "asyncio", "outcome", "_pytest", "pluggy"))


class DeadlockError(BaseException):
    """Every task is blocked and nothing can ever wake one. A BaseException, so that code under test lets it pass."""


class ThreadWatch:
    """Tells whether any thread is at work that was not there when the watch began."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())
        self.executor_jobs = 0
        """Calls handed to an executor by the loop and not finished yet. Written by `VirtualLoop` alone."""

    def busy(self) -> bool:
        """True while a thread may still wake the loop. To be asked *before* the loop looks for wake-ups."""
        if self.executor_jobs:
            return True
        pooled = concurrent.futures.thread._threads_queues
        return any(_works(t) for t in threading.enumerate() if t not in self._before and t not in pooled)


def _works(thread: threading.Thread) -> bool:
    """Sort a live thread: AnyIO's and Trio's workers live on when idle, any other thread is at work."""
    from anyio._backends import _asyncio

    if isinstance(thread, _asyncio.WorkerThread):
        return thread.queue.unfinished_tasks > 0
    worker = getattr(getattr(thread, "_target", None), "__self__", None)
    if type(worker).__module__ == "trio._core._thread_cache":
        return worker not in worker._thread_cache._idle_workers
    return True


def blocked_tasks() -> str:
    """List the tasks of the running loop, each with the line of the program on which it waits."""
    lines = []
    for info in sorted(anyio.get_running_tasks(), key=lambda info: str(info.name)):
        name = str(info.name)
        if name.startswith("<") or "_call_in_runner_task" in repr(info.coro):
            continue
        if "_run_tests_and_fixtures" in repr(info.coro):
            name = "(the test itself)"
        lines.append(f"  {name}: {_where(info.coro)}")
    return "\n".join(lines)


def _where(coro: Any) -> str:
    place = "?"
    while coro is not None:
        frame = next((f for a in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(coro, a, None))), None)
        if frame is not None and not any(part in frame.f_code.co_filename for part in _RUNTIME):
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return place


class Watch:
    """What one test's runs report back to its fixture."""

    def __init__(self) -> None:
        self.threads = ThreadWatch()
        self.deadlock: DeadlockError | None = None
        """The first deadlock found; raised in place of whatever the test made of it."""
        self.problems: list[dict[str, Any]] = []
        """Contexts that reached a loop's exception handler."""
        self.loops: list[Any] = []

    def dead(self) -> DeadlockError:
        """Make, and remember, the error for a deadlock."""
        error = DeadlockError(f"every task is blocked for ever:\n{blocked_tasks()}")
        self.deadlock = self.deadlock or error
        return error

    def adopt(self, loop_class: type[Any], *args: Any) -> Any:
        """Make a loop that reports to this watch."""
        loop = loop_class(*args)
        loop.watch = self
        self.loops.append(loop)
        return loop


# ---------------------------------------------------------------------------------------------------- asyncio
class _JumpingSelector(selectors.DefaultSelector):
    """Advances its clock, instead of waiting, when there is nothing to wait for."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.now = 0.0
        self._watch = watch

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        begin = time.monotonic()
        while True:
            busy = self._watch.threads.busy()  # before the look, or a result could slip in between
            if events := super().select(0):
                return events
            watching = len(self.get_map()) > 1  # one is the loop's own wake-up pipe
            patience = PATIENCE if busy else GRACE if watching else 0.0
            if time.monotonic() - begin >= patience and not (timeout is None and (busy or watching)):
                break
            if events := super().select(POLL):
                return events
        if timeout is None:
            raise self._watch.dead()
        self.now += timeout
        return []


class RecordingMixin:
    """Keeps what reaches the loop's exception handler."""

    watch: Watch

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.watch.problems.append(context)
        super().call_exception_handler(context)  # type: ignore[misc]


class VirtualLoop(RecordingMixin, asyncio.SelectorEventLoop):
    """A selector loop whose time is virtual."""

    def __init__(self, watch: Watch) -> None:
        self._jumping = _JumpingSelector(watch)
        self.watch = watch
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self.watch.threads.executor_jobs += 1
        future.add_done_callback(self._executor_job_done)
        return future

    def _executor_job_done(self, _: object) -> None:
        self.watch.threads.executor_jobs -= 1


def asyncio_options(watch: Watch) -> dict[str, Any]:
    """Options for `anyio.run(..., backend="asyncio", backend_options=...)`: virtual time."""
    return {"loop_factory": lambda: watch.adopt(VirtualLoop, watch)}


def uvloop_options(watch: Watch) -> dict[str, Any]:
    """Options for asyncio on uvloop, whose clock is the real one."""
    import uvloop

    loop_class = type("RecordingUvloop", (RecordingMixin, uvloop.Loop), {})
    return {"loop_factory": lambda: watch.adopt(loop_class)}


# ------------------------------------------------------------------------------------------------------- trio
def trio_options(watch: Watch) -> dict[str, Any]:
    """Options for `anyio.run(..., backend="trio", backend_options=...)`: virtual time."""
    import trio.testing

    clock = trio.testing.MockClock(autojump_threshold=0)
    idle = _TrioIdle(clock, watch)
    clock._autojump = idle.jump  # type: ignore[method-assign]
    return {"clock": clock, "instruments": [idle]}


class _TrioIdle:
    """Stands in for MockClock's jump, and is the instrument that knows what was true before the last look at I/O.

    A class of its own and not a subclass: Trio's MockClock is final.
    """

    def __init__(self, clock: Any, watch: Watch) -> None:
        self._clock = clock
        self._watch = watch
        self._busy = False
        self._since: float | None = None
        """Real time at which the present wait for threads began; None while something else happens."""
        self._raised = 0

    def before_io_wait(self, timeout: float) -> None:
        import trio

        limiter = trio.to_thread.current_default_thread_limiter()
        self._busy = limiter.borrowed_tokens > 0 or self._watch.threads.busy()
        if timeout == 0 and self._clock.autojump_threshold:
            self._since = None  # a task can run: the wait is over

    def jump(self) -> None:
        """Trio found every task blocked, for `autojump_threshold` real seconds."""
        import trio

        statistics = trio.lowlevel.current_statistics()
        step, io = statistics.seconds_to_next_deadline, statistics.io_statistics
        readers = getattr(io, "tasks_waiting_read", 1)  # one is Trio's own, on its wake-up socket
        watching = readers > 1 or getattr(io, "tasks_waiting_write", 0) > 0
        if (self._busy or watching) and self._hold(PATIENCE if self._busy else GRACE, math.isinf(step)):
            return
        self._since = None
        if self._clock.autojump_threshold:
            self._clock.autojump_threshold = 0
        if math.isinf(step):
            self._break_out(self._watch.dead())
        elif step > 0:
            self._clock.jump(step)

    def _hold(self, patience: float, endless: bool) -> bool:
        now = time.monotonic()
        self._since = self._since or now
        if not endless and now - self._since >= patience:
            return False
        if not self._clock.autojump_threshold:
            self._clock.autojump_threshold = POLL
        return True

    def _break_out(self, error: DeadlockError) -> None:
        """Raise in the main task; if that did not help, in every blocked task, as Trio raises KeyboardInterrupt."""
        from trio._core._run import GLOBAL_RUN_CONTEXT

        def throw() -> None:
            raise error

        runner = GLOBAL_RUN_CONTEXT.runner
        main = runner.main_task
        self._raised += 1
        targets = [main] if self._raised == 1 else list(runner.tasks)
        for task in targets:
            if task is not runner.init_task and task._abort_func is not None:
                task._attempt_abort(throw)
