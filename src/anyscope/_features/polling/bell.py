"""What the task of a poll waits for: that a time comes, or that something happens before.

On asyncio that is a bare future, and a timer of the loop that ends it. An event and a cancel scope with a deadline cost
several times as much, for at its deadline the scope cancels the task and takes that back. On Trio such a scope is what
a timer is; Trio's own, for those of AnyIO are a second object around each.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import TYPE_CHECKING, Any, Protocol

from ..._lifetime.backend import TrioSignal, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable

COARSE = 1e-3
"""Seconds of the step of a coarse clock, such as that of uvloop, whose timers may ring half a step too early."""


class Bell(Protocol):
    """One task waits, and anybody may end that; in one event loop."""

    async def wait(self, due: float) -> None:
        """Wait until it is rung or the time has come."""
        ...

    def ring(self) -> None:
        """End the wait, if there is one."""
        ...


def bell() -> Bell:
    """One for the running loop."""
    loop = running_loop()
    return LoopBell(loop) if isinstance(loop, asyncio.AbstractEventLoop) else TrioBell()


class TrioBell:
    """By a signal in a cancel scope of Trio.

    Attributes:
        _signal: Rung to end the wait; made by who waits.
    """

    __slots__ = ("_signal", "_trio")

    def __init__(self) -> None:
        self._trio: Any = sys.modules["trio"]
        self._signal: TrioSignal | None = None

    async def wait(self, due: float) -> None:
        """Wait until it is rung or the time has come."""
        self._signal = TrioSignal()
        with self._trio.CancelScope(deadline=due):
            await self._signal

    def ring(self) -> None:
        """End the wait, if there is one."""
        if self._signal is not None:
            self._signal.ring()
            self._signal = None


class LoopBell:
    """By a future and a timer of asyncio.

    A timer that has rung too early is set anew, but a step of a coarse clock later: such a loop would ring it at once,
    again and again until the step is over.

    Args:
        loop: The running loop.

    Attributes:
        _due: When the wait ends by itself. Written by `wait`.
        _signal: What is waited for; likewise.
        _stop: Stops the timer; written by `wait` and `_look`.
    """

    __slots__ = ("_due", "_loop", "_signal", "_stop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = math.inf
        self._signal: asyncio.Future[None] | None = None
        self._stop: Callable[[], None] | None = None

    async def wait(self, due: float) -> None:
        """Wait until it is rung or the time has come."""
        signal = self._signal = self._loop.create_future()
        self._due = due
        if due != math.inf:
            self._stop = self._loop.call_at(due, self._look).cancel
        try:
            await signal
        finally:
            self._signal = None
            if self._stop is not None:
                self._stop()
                self._stop = None

    def ring(self) -> None:
        """End the wait, if there is one."""
        signal = self._signal
        if signal is not None and not signal.done():
            signal.set_result(None)

    def _look(self) -> None:
        now = self._loop.time()
        if now < self._due:
            self._stop = self._loop.call_at(now + COARSE, self._look).cancel
        else:
            self.ring()
