"""The one task of a pool that watches the clock.

Who waits, what is idle and when the next attempt is due: all of it is told to the keeper as a time, and costs nothing
unless that is earlier than what it sleeps for already. A cancel scope with a deadline around each wait would cost more
than the wait (measured: 20 microseconds, two to three times a hand-off).

When it wakes it looks at everything and asks what is next. The time that it slept for may be out of date by then, for
who waited has been served meanwhile: that costs one look for each time-out that has gone by, however many have waited.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._lifetime.owner import Owner


class Keeper:
    """Calls back when something is due.

    Attributes:
        _due: When it will look next.
        _is_over: Whether it is to end.
        _wait: The scope around the present wait.
    """

    __slots__ = ("_due", "_is_over", "_wait")

    def __init__(self) -> None:
        self._due = math.inf
        self._is_over = False
        self._wait: anyio.CancelScope | None = None

    def wake(self, when: float) -> None:
        """Something is due at that time."""
        if when < self._due:
            self._due = when
            if self._wait is not None:
                self._wait.deadline = when

    def stop(self) -> None:
        """End the task."""
        self._is_over = True
        if self._wait is not None:
            self._wait.cancel()

    async def run(self, owner: Owner, tick: Callable[[float], float]) -> None:
        """The task of `owner`. `tick` does what is due and gives the time at which something will be."""
        cancelled = anyio.get_cancelled_exc_class()  # noqa: ASYNC118  used at once
        while not (self._is_over or owner.is_forsaken):
            with suppress(cancelled):  # a native cancellation: there is nobody else to watch the clock
                with anyio.CancelScope(shield=True, deadline=self._due) as self._wait:
                    await anyio.sleep_forever()
            now = anyio.current_time()
            if now >= self._due:
                self._due = math.inf
                self.wake(tick(now))
