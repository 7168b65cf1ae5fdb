"""When a poll is due: on a grid that never moves, or so long after the end of the last one.

The grid is `origin + k * interval`, multiplied out each time, so that a thousand ticks drift no more than one. Jitter
and pauses after failures move a single poll and never the grid. An interval that changes (it may be a function) begins
a new grid at the last tick that was used.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..._vocabulary.polls import PollSettings

TOLERANCE = 1e-6
"""Seconds that make no difference: a fetch may take just an interval, a pause may end on a tick, and floats round."""


class Timing:
    """The times of one poll.

    Args:
        settings: The options of the poll.

    Attributes:
        due: When the next poll is due. Written here alone.
        _origin: Where the grid begins.
        _interval: The distance of its ticks; 0 until it is first known.
        _number: The next tick that nothing has been done about.
        _begun_at: When the latest poll began.
    """

    __slots__ = ("_begun_at", "_interval", "_number", "_origin", "_settings", "due")

    def __init__(self, settings: PollSettings) -> None:
        self._settings = settings
        self.due: float = math.inf
        self._origin: float = 0.0
        self._interval: float = 0.0
        self._number: int = 0
        self._begun_at: float = 0.0

    def begin_at_once(self, now: float) -> None:
        """Begin a grid whose first tick is now."""
        self._origin = self.due = now
        self._interval, self._number = 0.0, 0

    def begin_after(self, now: float, interval: float) -> None:
        """Begin a grid whose first tick is in an interval."""
        self._origin, self._interval, self._number = now, interval, 1
        self.due = self._tick() + self._jitter()

    def take_off(self, now: float) -> int:
        """A poll begins, for the latest tick that has come if there is one; gives how many more have come."""
        self._begun_at = now
        passed = self._passed(now + TOLERANCE)
        self._number += passed
        return max(passed - 1, 0)

    def forget_missed(self, now: float) -> None:
        """Of the ticks that have come, only the latest counts: the others were not wanted."""
        self._number += max(self._passed(now + TOLERANCE) - 1, 0)

    def land(self, now: float, interval: float) -> int:
        """A poll has ended, and all went well; gives how many ticks are left out because it took so long."""
        missed = self._missed(now, interval)
        if self._settings.every == "end":
            self.due = now + interval + self._jitter()
        elif missed and self._settings.missed == "run":
            missed -= 1
            self._number += missed
            self.due = now
        else:
            self._number += missed
            self.due = self._tick() + self._jitter()
        return missed

    def land_for_pause(self, now: float, interval: float, pause: float) -> int:
        """A poll has failed; gives how many ticks are left out because it took so long."""
        missed = self._missed(now, interval)
        self._number += missed
        self.due = now + pause + self._jitter()
        return missed

    def _missed(self, now: float, interval: float) -> int:
        """How many ticks have come while the poll was under way, with the interval that counts from now on."""
        if interval != self._interval:
            self._origin += (self._number - 1) * self._interval
            self._interval, self._number = interval, 1
            self._number += self._passed(self._begun_at + TOLERANCE)  # nobody has missed these
        return self._passed(now - TOLERANCE)

    def _tick(self) -> float:
        return self._origin + self._number * self._interval

    def _passed(self, now: float) -> int:
        """How many ticks have come that nothing has been done about."""
        late = now - self._tick()
        if late < 0 or self._settings.every == "end":
            return 0
        return 1 + math.floor(late / self._interval) if self._interval else 1

    def _jitter(self) -> float:
        jitter = self._settings.jitter
        if self._settings.every == "start":
            jitter = min(jitter, self._interval)  # the interval may be a function, and be short now
        return random.random() * jitter if jitter else 0.0  # noqa: S311  no secret
