"""What has happened in a pool: counted for its statistics, told to hooks, and kept for the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..._lifetime.ending import Report
from ..._vocabulary.hooks import PoolEvent

if TYPE_CHECKING:
    from ..._lifetime.owner import Owner
    from ..._vocabulary.hooks import PoolMoment

COUNTS = (
    "begun", "acquired", "waited", "timeouts", "rejected", "cancelled", "created", "create_errors", "destroyed",
    "destroy_errors",
)  # fmt: skip
MOST_ERRORS = 100
"""Errors that are kept for the end; the others are counted."""


class Failures:
    """Errors that nobody was there to be given: closing raises them, and what comes later leaves the scope.

    Args:
        label: What messages call the pool.
        owner: The owner that they leave.

    Attributes:
        _errors: Those that have not been raised.
    """

    __slots__ = ("_errors", "_label", "_owner")

    def __init__(self, label: str, owner: Owner) -> None:
        self._errors: list[Exception] = []
        self._label = label
        self._owner = owner
        owner.collectors.append(self)

    def add(self, error: Exception) -> None:
        """Keep one."""
        if len(self._errors) < MOST_ERRORS:
            self._errors.append(error)
        else:
            self._owner.dropped += 1

    def take(self) -> list[Exception]:
        """Those that are to be raised now."""
        errors, self._errors = self._errors, []
        return errors

    def peek(self) -> None:
        """Nothing: what is entered after a pool does not see the errors of the pool, as in a nested `with`."""

    def reports(self) -> list[Report]:
        """What closing has not raised, because it was abandoned."""
        return [Report((1, index), error, f"in pool {self._label}") for index, error in enumerate(self._errors)]


class Tally:
    """Counts, and tells.

    Args:
        name: The name of the pool.
        owner: The owner whose hooks are told.

    Attributes:
        counts: What has happened so often.
        discarded: What was taken out of use, by reason.
        last_error: The last error of a function of the user's.
        is_heard: Whether anybody listens: who does not need a duration need not look at the clock.
    """

    is_heard: bool

    def __init__(self, name: str, owner: Owner) -> None:
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self.discarded: Counter[str] = Counter()
        self.last_error: Exception | None = None
        self._name = name
        self._path = owner.path
        self._hooks = owner.hooks if owner.hooks is not None and owner.hooks.pool_changed else None
        self.is_heard = self._hooks is not None

    def count(self, name: str, moment: PoolMoment, duration: float = 0.0, *, error: Exception | None = None) -> None:
        """Something happened that is counted, and told to hooks."""
        self.counts[name] += 1
        if error is not None:
            self.last_error = error
        if self.is_heard:
            self.tell(moment, duration, error=error)

    def discard(self, reason: str) -> None:
        """One was taken out of use."""
        self.discarded[reason] += 1
        self.tell("discarded", reason=reason)

    def tell(
        self, moment: PoolMoment, duration: float = 0.0, *, reason: str = "", error: Exception | None = None
    ) -> None:
        """Tell the hooks."""
        if self._hooks is not None:
            self._hooks.tell_pool_changed(PoolEvent(self._name, self._path, moment, duration, reason, error))
