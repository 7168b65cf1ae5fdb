"""What a poll does and when: all of it is decided here, and no decision goes across an await.

A poll *runs* from a start to an end; it may be started again, which is another `Run`. A *flight* is one fetch with the
`on_value` of its value.

    waiting -> polling -> waiting ...       paused in between, if asked to
    any of these -> stopped, failed, done   the run is over

Rules
    * There is at most one flight, whatever happens: the one task of the poll makes them, one after the other. A flight
      whose run is over is void. What it gives is not used; the flights of a later run begin after it has left.
    * `stop()` ends the run at once: from then on no value is delivered, neither to `on_value` nor to who waits.
    * Who waits for something remembers the run that was on then. How that ended is what it hears, even if the poll is
      started again before it gets to run.
    * Whoever asks for a poll (`trigger`) shares the next flight, of whichever cause. One that is under way does not
      count: what it sees may be older than the question.

What the user's functions raise here (`interval`, `on_error`) goes to the pilot, which crashes the scope with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

import anyio

from ..._lifetime.backend import pass_on_cancellation, running_clock
from ..._vocabulary.errors import PollFailed, PollStopped, because
from ..._vocabulary.polls import PollStatus
from ..._vocabulary.results import Err
from .bell import bell
from .flight import Ask, Flight, Run
from .tally import Tally
from .timing import Timing

if TYPE_CHECKING:
    from ..._lifetime.owner import Owner
    from ..._vocabulary.hooks import PollState
    from ..._vocabulary.polls import PollSettings
    from ..._vocabulary.results import Result
    from .bell import Bell

T = TypeVar("T")


class Course(Generic[T]):
    """The state of a poll, and what becomes of it.

    Args:
        owner: The scope's owner.
        settings: The options.

    Attributes:
        bell: Rung to make the pilot look again.
        run: The present run, or the last one. Written by `start`.
        flight: The fetch or delivery that is under way. Written by `take_off` and `leave`.
        is_paused: Whether none begins by itself. Written by `pause`, `resume` and `start`.
        value: The newest value, if there is one. Written by `_take`.
        version: How many values there have been, so that a reader knows a new one. Written likewise.
        _ask: Those who wait for the next flight.
        _changed: Set when something has happened that somebody may wait for; made by the first who does.
    """

    __slots__ = (
        "_ask",
        "_changed",
        "bell",
        "flight",
        "is_paused",
        "now",
        "owner",
        "run",
        "settings",
        "tally",
        "timing",
        "value",
        "version",
    )

    value: T

    def __init__(self, owner: Owner, settings: PollSettings) -> None:
        self.owner: Owner = owner
        self.settings: PollSettings = settings
        self.now = running_clock()
        self.bell: Bell = bell()
        self.tally: Tally = Tally(settings.name, owner)
        self.timing: Timing = Timing(settings)
        self.run: Run = Run()
        self.run.state, self.run.reason = "stopped", "it was not started"
        self.flight: Flight[T] | None = None
        self.is_paused: bool = False
        self.version: int = 0
        self._ask: Ask[T] | None = None
        self._changed: anyio.Event | None = None

    @property
    def label(self) -> str:
        """The poll and its scope, such as `health of app`."""
        return f"{self.settings.name} of {self.owner.path}"

    @property
    def is_on(self) -> bool:
        """Whether it has not ended."""
        return self.run.state is None

    # ------------------------------------------------------------------ orders of the user

    def start(self) -> None:
        """Begin a run, with a grid of its own."""
        now, settings = self.now(), self.settings
        interval = None if settings.immediate else settings.interval_after(self.status)
        self.run = Run()
        self.is_paused = False
        self.tally.begin_anew()
        if settings.immediate:
            self.timing.begin_at_once(now)
        elif interval is None:
            self.end("done", "its interval was None")
        else:
            self.timing.begin_after(now, interval)
        self.notify()

    def end(
        self, state: PollState, reason: str = "", *, failure: Exception | None = None, run: Run | None = None
    ) -> None:
        """End the present run, or `run`, unless it is over: cut the fetch, and tell all who wait."""
        run, flight = run or self.run, self.flight
        if run.state is not None:
            return
        run.state, run.reason, run.failure, run.failures = state, reason, failure, self.tally.streak
        run.version = self.version
        if self._ask is not None:
            self._ask.is_refused = True
            self._ask = None
        if flight is not None and flight.outcome is None:  # one of an earlier run is cut already
            flight.scope.cancel()
            if flight.ask is not None:
                flight.ask.is_refused = True
        self.notify()
        self.tally.end(state, failure, self.now())

    def pause(self) -> None:
        """Begin no flight by itself any more."""
        self.is_paused = True
        self.notify()

    def resume(self) -> None:
        """Begin flights again; where ticks have come meanwhile, one at once."""
        if self.is_paused:
            self.is_paused = False
            self.timing.forget_missed(self.now())
            self.notify()

    def ask(self) -> Ask[T]:
        """Have a flight begin as soon as there is none."""
        if self._ask is None:
            self._ask = Ask(self.run)
            self.notify()
        return self._ask

    def withdraw(self, ask: Ask[T]) -> None:
        """The last who asked has left: nothing need be done for them."""
        if self._ask is ask:
            self._ask = None

    # ------------------------------------------------------------------ the life of a flight

    @property
    def due(self) -> float:
        """When the next flight is due; infinity where nobody knows."""
        if self._ask is not None:
            return -math.inf
        return math.inf if self.is_paused else self.timing.due

    @property
    def is_due(self) -> bool:
        """Whether one has to begin now."""
        return self.is_on and self.due <= self.now()

    def take_off(self) -> Flight[T]:
        """A flight begins."""
        now = self.now()
        if self.is_paused or self.tally.streak:
            self.timing.forget_missed(now)
        skipped = self.timing.take_off(now)
        flight = self.flight = Flight(self.run, self._ask, now)
        self._ask = None
        self.tally.skip(skipped)
        self.tally.begin(now)
        return flight

    def land(self, flight: Flight[T], outcome: Result[T] | None) -> None:
        """The fetch has ended; `None` if it was cut. A value is delivered to who waits, unless it comes too late."""
        now = self.now()
        duration = now - flight.begun_at
        error = None if outcome is None else outcome.pair()[0]
        if outcome is None or (flight.is_void and error is None):
            self.tally.cut(duration)
            return
        flight.outcome = outcome
        if error is not None:
            self.tally.fail(error, now, duration, is_void=flight.is_void)
            return
        self._take(outcome.unwrap())
        self.tally.succeed(now, duration)

    def _take(self, value: T) -> None:
        self.value = value
        self.version += 1
        self.notify()

    def go_on(self, flight: Flight[T]) -> None:
        """All of a flight has been done: when is the next one, if there is one?

        Each of the user's functions that is asked here may stop the poll, and start it again.

        Raises:
            PollFailed: The policy is to crash the scope.
        """
        if flight.is_void:
            return
        assert flight.outcome is not None
        error = flight.outcome.pair()[0]
        if error is not None:
            self._judge(flight, error)
        elif self.settings.is_last(flight.outcome.unwrap()):
            self.end("done", "what it waited for has come", run=flight.run)
        self._plan(flight, error)

    def _judge(self, flight: Flight[T], error: Exception) -> None:
        verdict = self.settings.verdict_on(error, self.status())
        if verdict == "continue":
            return
        self.end("failed", failure=error, run=flight.run)
        if verdict == "raise" and flight.run.failure is error:  # else `on_error` itself has stopped it, and that counts
            raise self._failure_of(flight.run)

    def _plan(self, flight: Flight[T], error: Exception | None) -> None:
        interval = None if flight.is_void else self.settings.interval_after(self.status)
        if interval is None:
            self.end("done", "its interval has become None", run=flight.run)
        elif self.is_on and self.run is flight.run:
            self.tally.skip(self._land(interval, error))

    def _land(self, interval: float, error: Exception | None) -> int:
        now = self.now()
        if error is None:
            return self.timing.land(now, interval)
        pause = self.settings.pause_after(error, self.tally.streak, interval)
        return self.timing.land_for_pause(now, interval, pause)

    def leave(self, flight: Flight[T], failure: Exception | None) -> None:
        """Nothing of a flight is under way any more; `failure` is what one of the user's other functions raised."""
        self.flight = None
        if failure is not None:
            self.end("failed", failure=failure, run=flight.run)
        if flight.ask is not None:
            outcome = flight.outcome
            flight.ask.outcome = Err(failure) if outcome and failure is not None else outcome
            flight.ask.is_refused = outcome is None
        self.notify()

    # ------------------------------------------------------------------ those who wait

    def version_in(self, run: Run) -> int:
        """The newest value that came before the end of `run`."""
        return self.version if run.state is None else run.version

    def notify(self) -> None:
        """Something has happened."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        self.bell.ring()

    async def until_change(self) -> None:
        """Wait until something has happened."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    # ------------------------------------------------------------------ what it tells

    async def refuse(self, run: Run, action: str) -> NoReturn:
        """Tell who waits for something of a run that is over.

        Not one who is cancelled along with the poll, and merely has not heard of it yet: that is no error of theirs.

        Raises:
            PollFailed: The run has failed.
            PollStopped: Or has ended otherwise.
        """
        await pass_on_cancellation()
        if run.state == "failed":
            raise self._failure_of(run)
        raise PollStopped(poll=self.label, action=action, reason=run.reason)

    def _failure_of(self, run: Run) -> PollFailed:
        """The error that says that a run has failed."""
        problem = because(run.failure)[2:-1]
        error = PollFailed(poll=self.label, failures=run.failures, problem=problem)
        error.__cause__ = run.failure
        return error

    @property
    def state(self) -> PollState:
        """The word for what it does; nothing is looked at twice, as another thread may ask."""
        ended, flight = self.run.state, self.flight
        if ended is not None:
            return ended
        if flight is not None and not flight.is_void:
            return "polling"
        return "paused" if self.is_paused else "waiting"

    def status(self) -> PollStatus:
        """The record of it."""
        tally = self.tally
        return PollStatus(
            state=self.state,
            running=self.is_on,
            in_flight=self.flight is not None,
            poll_count=tally.begun,
            success_count=tally.succeeded,
            error_count=tally.failed,
            failures=tally.streak,
            skipped_ticks=tally.skipped,
            last_started_at=tally.last_started_at,
            last_duration=tally.last_duration,
            last_success_at=tally.last_success_at,
            last_error=tally.last_error,
            time_until_next=self._time_until_next(),
        )

    def _time_until_next(self) -> float | None:
        due = self.due
        if not self.is_on or self.flight is not None or due == math.inf:
            return None
        try:
            return max(0.0, due - self.now())
        except RuntimeError:
            return None  # in a thread where Trio does not run there is no time
