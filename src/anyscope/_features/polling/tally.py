"""What has happened in a poll: counted for its status, logged, and told to hooks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..._vocabulary.errors import because
from ..._vocabulary.hooks import PollEvent

if TYPE_CHECKING:
    from ..._lifetime.owner import Owner
    from ..._vocabulary.hooks import PollMoment, PollState

logger = logging.getLogger("anyscope")


class Tally:
    """Counts, logs and tells.

    Args:
        name: The name of the poll.
        owner: The owner whose hooks are told.

    Attributes:
        begun: How many fetches have begun.
        succeeded: How many have succeeded.
        failed: How many have failed.
        streak: How many have failed in a row. Written here, and reset by `begin_anew`.
        skipped: How many ticks were left out.
        last_started_at: When the last fetch began.
        last_duration: How long the last one took that has ended.
        last_success_at: When the last one succeeded.
        last_error: What the last one that failed has raised.
    """

    begun: int
    succeeded: int
    failed: int
    streak: int
    skipped: int

    def __init__(self, name: str, owner: Owner) -> None:
        self.begun = self.succeeded = self.failed = self.streak = self.skipped = 0
        self.last_started_at: float | None = None
        self.last_duration: float | None = None
        self.last_success_at: float | None = None
        self.last_error: Exception | None = None
        self._name = name
        self._path = owner.path
        self._hooks = owner.hooks if owner.hooks is not None and owner.hooks.polled else None
        self._failing_since = 0.0

    def begin_anew(self) -> None:
        """The poll is started again: what failed before does not count as in a row."""
        self.streak = 0

    def begin(self, now: float) -> None:
        """A fetch begins."""
        self.begun += 1
        self.last_started_at = now
        self._tell("started")

    def succeed(self, now: float, duration: float) -> None:
        """It has succeeded."""
        failures, self.streak = self.streak, 0
        self.succeeded += 1
        self.last_duration, self.last_success_at = duration, now
        if failures:
            logger.info("poll %s of %s: recovered, after %s", self._name, self._path, self._failures(failures, now))
        self._tell("succeeded", duration=duration)

    def fail(self, error: Exception, now: float, duration: float, *, is_void: bool) -> None:
        """It has failed; the first of a row is told at once, of the others only who looks closely hears.

        One that was cut, and failed in its clean-up, stands by itself.
        """
        self.failed += 1
        self.last_duration, self.last_error = duration, error
        if not is_void:
            self.streak += 1
        if self.streak == 1:
            self._failing_since = now
        level, traceback = (logging.WARNING, error) if is_void or self.streak == 1 else (logging.DEBUG, None)
        text = "poll %s of %s: fetch failed%s"
        logger.log(level, text, self._name, self._path, because(error), exc_info=traceback)
        self._tell("failed", duration=duration, error=error)

    def cut(self, duration: float) -> None:
        """It was cut short, by who stopped the poll."""
        self.last_duration = duration
        self._tell("cut", duration=duration)

    def skip(self, count: int) -> None:
        """So many ticks are left out."""
        if count:
            self.skipped += count
            self._tell("skipped", skipped=count)

    def end(self, state: PollState, error: Exception | None, now: float) -> None:
        """The poll has ended."""
        if state == "failed" and self.streak:
            failures = self._failures(self.streak, now)
            logger.info("poll %s of %s: given up, after %s", self._name, self._path, failures)
        self._tell("ended", state=state, error=error)

    def _failures(self, count: int, now: float) -> str:
        if count == 1:
            return "1 failure"
        return f"{count} failures in {now - self._failing_since:.3g} s"

    def _tell(
        self,
        moment: PollMoment,
        *,
        duration: float = 0.0,
        skipped: int = 0,
        state: str = "",
        error: Exception | None = None,
    ) -> None:
        if self._hooks is not None:
            event = PollEvent(self._name, self._path, moment, self.begun, duration, self.streak, skipped, state, error)
            self._hooks.tell_polled(event)
