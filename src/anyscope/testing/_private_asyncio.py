"""asyncio in virtual time: an event loop whose selector advances a clock of its own instead of waiting.

Nothing private of asyncio is used here: a selector is given to the loop, and `time()` is overridden, as its
documentation allows. When the selector is asked to wait and nothing can come from outside, the clock jumps to the end
of that wait. When it is asked to wait for ever, nothing can happen any more.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from typing import TYPE_CHECKING, Any

from ._threads import GRACE, PATIENCE, POLL

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from ._watch import Watch


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
            if events := super().select(POLL):
                return events


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

    def call_at(  # type: ignore[override]  # handed through, whatever the arguments are
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As usual; but what is never to happen is not waited for, day after day, as `sleep(inf)` would be."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # handed through, whatever the arguments are
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
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
