"""What a poll consists of: runs, from a start to an end; flights, one for each fetch; and who asked for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from ..._vocabulary.hooks import PollState
    from ..._vocabulary.results import Result

T = TypeVar("T")


class Run:
    """A poll from a start to an end.

    Attributes:
        state: How it ended; `None` while it goes on. Written once, by the course, like all others.
        reason: Why it was stopped.
        failure: What it failed with.
        failures: How many fetches had failed in a row then.
        version: How many values there had been then.
    """

    __slots__ = ("failure", "failures", "reason", "state", "version")

    def __init__(self) -> None:
        self.state: PollState | None = None
        self.reason = ""
        self.failure: Exception | None = None
        self.failures = 0
        self.version = 0


class Ask(Generic[T]):
    """Those who asked for a poll, and share the next flight.

    Args:
        run: The run that was on when they asked.

    Attributes:
        waiters: How many wait; written by the poll. With none, nothing is done for them.
        outcome: What they get. Written once.
        is_refused: Whether there will be none, because the run is over. Written once.
    """

    __slots__ = ("is_refused", "outcome", "run", "waiters")

    def __init__(self, run: Run) -> None:
        self.run: Run = run
        self.waiters: int = 0
        self.outcome: Result[T] | None = None
        self.is_refused: bool = False


class Flight(Generic[T]):
    """One fetch, and the delivery of its value.

    Args:
        run: The run that it belongs to.
        ask: Those who wait for it, if there are any.
        begun_at: When it began.

    Attributes:
        outcome: What the fetch gave; `None` while it is under way, and if it was cut. Written once, by the course.
        scope: Around the fetch, to cut it.
    """

    __slots__ = ("ask", "begun_at", "outcome", "run", "scope")

    def __init__(self, run: Run, ask: Ask[T] | None, begun_at: float) -> None:
        self.run: Run = run
        self.ask: Ask[T] | None = ask
        self.begun_at: float = begun_at
        self.outcome: Result[T] | None = None
        self.scope: anyio.CancelScope = anyio.CancelScope()

    @property
    def is_void(self) -> bool:
        """Whether nobody wants what it gives any more."""
        return self.run.state is not None
