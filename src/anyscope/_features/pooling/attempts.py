"""When to try again after creations that failed: after ever longer pauses, capped and jittered."""

from __future__ import annotations

import math
import random

_MOST_DOUBLINGS = 60


class Attempts:
    """Counts failures in a row.

    Args:
        first: The first pause, in seconds.
        longest: The longest.

    Attributes:
        failures: How many creations have failed in a row, those begun together counted once.
        next_at: No creation before that.
    """

    failures: int
    next_at: float

    def __init__(self, first: float, longest: float) -> None:
        self.failures = 0
        self.next_at = -math.inf
        self._first = first
        self._longest = longest
        self._failed_at = -math.inf
        self._random = random.Random()  # noqa: S311  for jitter

    def failed(self, begun_at: float, now: float) -> int:
        """One has failed; gives how many in a row, or 0 for one that was begun before the last failure was known."""
        if self.failures and begun_at <= self._failed_at:
            return 0
        self._failed_at = now
        pause = min(self._longest, self._first * 2.0 ** min(self.failures, _MOST_DOUBLINGS))
        self.failures += 1
        self.next_at = now + pause * (0.5 + self._random.random() / 2)
        return self.failures

    def succeeded(self) -> int:
        """One has succeeded; gives how many had failed before."""
        failures, self.failures = self.failures, 0
        return failures
