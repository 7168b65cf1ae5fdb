"""`LoggingHooks`: what a scope does, as log records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .errors import because
from .hooks import Hooks

if TYPE_CHECKING:
    from .hooks import Cancelled, Disposed, PollEvent, PoolEvent, TaskEnded, TaskStarted


class LoggingHooks(Hooks):
    """Hooks that log tasks, cancellations, clean-ups, pools and polls; arguments and values are never logged.

    What goes well is logged at `level`, a failed task or clean-up at WARNING with its traceback; what fails in a pool
    at WARNING too, without one, for that may happen again and again. Failing fetches of polls are left out: the polls
    log these themselves, on the logger `anyscope`, with or without hooks. Each record has the attributes `scope` (the
    path) and `subject` (the name of what it is about), and where something has ended `duration` in seconds and
    `outcome` (`ok`, `error`, `cancelled`), for formatters that write fields.

    Args:
        logger: Where to log; by default the logger `anyscope.trace`.
        level: The level of what goes well; by default DEBUG.

    Example:
        >>> import anyio, logging, sys
        >>> from anyscope import LoggingHooks, scope
        >>> logger = logging.getLogger("example")
        >>> logger.addHandler(logging.StreamHandler(sys.stdout))
        >>> logger.setLevel(logging.INFO)
        >>> async def main():
        ...     async with scope(name="app", hooks=LoggingHooks(logger, level=logging.INFO)) as s:
        ...         s.on_exit(print, "bye")
        ...         await s.task(anyio.sleep, 0)
        >>> anyio.run(main)  # doctest: +ELLIPSIS
        app: task sleep (#1) started
        app: task sleep (#1) ended after 0.0... s
        bye
        app: clean-up print (#0) closed after 0.0... s
    """

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.DEBUG) -> None:
        super().__init__()
        self._logger = logger or logging.getLogger("anyscope.trace")
        self._level = level

    def task_started(self, event: TaskStarted, /) -> None:
        """Log that a task begins, and how long it has queued."""
        if not self._logger.isEnabledFor(self._level):
            return
        queued = f" after queueing for {event.waited:.3f} s" if event.waited else ""
        subject = f"{event.kind} {event.name} (#{event.index})"
        fields = {"scope": event.path, "subject": subject}
        self._logger.log(self._level, "%s: %s started%s", event.path, subject, queued, extra=fields)

    def task_ended(self, event: TaskEnded, /) -> None:
        """Log how a task ended; a failure at WARNING, with its traceback."""
        verb = "was cancelled" if event.outcome == "cancelled" else "ended"
        subject = f"{event.kind} {event.name} (#{event.index})"
        error = event.error if event.outcome == "error" else None
        self._log_end(subject, verb, event, event.outcome, error)

    def cancelled(self, event: Cancelled, /) -> None:
        """Log that a scope is cancelled, by what, and why."""
        fields = {"scope": event.path, "subject": event.path}
        self._logger.log(
            self._level, "%s: cancelled by %s%s", event.path, event.kind, because(event.reason), extra=fields
        )

    def disposed(self, event: Disposed, /) -> None:
        """Log that something was closed; a failure at WARNING, with its traceback."""
        subject = f"{event.kind} {event.label} (#{event.index})"
        outcome = "ok" if event.error is None else "error"
        self._log_end(subject, "closed", event, outcome, event.error)

    def pool_changed(self, event: PoolEvent, /) -> None:
        """Log what happens in a pool; what fails at WARNING."""
        level = self._level if event.error is None else max(self._level, logging.WARNING)
        if not self._logger.isEnabledFor(level):
            return
        subject = f"pool {event.pool}"
        fields = {"scope": event.path, "subject": subject, "duration": event.duration}
        words = event.moment.replace("_", " ") + (f" ({event.reason})" if event.reason else "")
        after = f" after {event.duration:.3f} s" if event.duration else ""
        text = f"{words}{after}{because(event.error)}"
        self._logger.log(level, "%s: %s: %s", event.path, subject, text, extra=fields)

    def polled(self, event: PollEvent, /) -> None:
        """Log what happens in a poll; not what fails, which the poll has logged already."""
        if event.moment == "failed" or not self._logger.isEnabledFor(self._level):
            return
        subject = f"poll {event.poll}"
        fields = {"scope": event.path, "subject": subject, "duration": event.duration}
        number = "" if event.moment in ("skipped", "ended") else f"fetch {event.number} "
        after = f" after {event.duration:.3f} s" if event.duration else ""
        count = f" {event.skipped}" if event.skipped else ""
        state = f" ({event.state})" if event.state else ""
        text = f"{number}{event.moment}{count}{after}{state}"
        self._logger.log(self._level, "%s: %s: %s", event.path, subject, text, extra=fields)

    def _log_end(
        self, subject: str, verb: str, event: TaskEnded | Disposed, outcome: str, error: BaseException | None
    ) -> None:
        level = self._level if error is None else max(self._level, logging.WARNING)
        if not self._logger.isEnabledFor(level):
            return
        path, duration = event.path, event.duration
        fields = {"scope": path, "subject": subject, "duration": duration, "outcome": outcome}
        words = verb if error is None else f"failed{because(error)}"
        self._logger.log(level, "%s: %s %s after %.3f s", path, subject, words, duration, exc_info=error, extra=fields)
