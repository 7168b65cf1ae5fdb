"""What a poll is told and what it tells: its settings, checked, and its status, frozen."""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import dataclass
from datetime import timedelta
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .options import (
    check_callback,
    check_count,
    check_name,
    check_seconds,
    is_coroutine,
    name_of,
    require_async,
    require_callable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .hooks import PollState

Every: TypeAlias = Literal["start", "end"]
Missed: TypeAlias = Literal["skip", "run"]
OnError: TypeAlias = Literal["continue", "stop", "raise"]

ON_ERROR: tuple[OnError, ...] = ("continue", "stop", "raise")
SHORTEST = 1e-6
"""The shortest interval in seconds: what a `timedelta` can tell, and a clock hardly can."""
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
LONGEST_BACKOFF = 10
"""The longest pause after failures, in intervals, where `max_backoff` does not say."""


@dataclass(frozen=True, slots=True)
class PollStatus:
    """A poll at one moment. Times are those of `anyio.current_time()`, durations are seconds.

    Attributes:
        state: `waiting` for the next poll; `polling`, which lasts until `on_value` has ended; `paused`; or how it
            ended: `stopped`, `failed`, `done`.
        running: Whether it has not ended; a paused one is running.
        in_flight: Whether a fetch or its `on_value` is under way. It may be in any state, for one that was stopped
            takes a while to leave.
        poll_count: Fetches that have begun: those that succeeded, failed, were cut, and the one under way.
        success_count: How many have succeeded.
        error_count: How many have failed.
        failures: How many have failed in a row.
        skipped_ticks: How often one was due while another was still under way, and was left out.
        last_started_at: When the last one began.
        last_duration: How long the last one took that has ended.
        last_success_at: When the last one succeeded.
        last_error: The last error of a fetch.
        time_until_next: How long until the next one begins; `None` where that is not known: while one is under way, or
            the poll is paused and nobody has asked for one, or has ended.
    """

    state: PollState
    running: bool
    in_flight: bool
    poll_count: int
    success_count: int
    error_count: int
    failures: int
    skipped_ticks: int
    last_started_at: float | None
    last_duration: float | None
    last_success_at: float | None
    last_error: Exception | None
    time_until_next: float | None

    def __str__(self) -> str:
        polls = "1 poll" if self.poll_count == 1 else f"{self.poll_count} polls"
        return f"{self.state}, {polls}, {self.error_count} failed"


@dataclass(frozen=True, slots=True)
class PollSettings:
    """The options of a poll, checked; see `Scope.poll`."""

    fetch: Callable[[], Any]
    on_value: Callable[[Any], object] | None
    interval: float | Callable[[PollStatus], object]
    every: Every
    missed: Missed
    immediate: bool
    jitter: float
    timeout: float | None
    on_error: OnError | Callable[[Exception, PollStatus], object]
    backoff: float
    max_backoff: float | None
    max_failures: int | None
    until: Callable[[Any], object] | None
    name: str

    def interval_after(self, status: Callable[[], PollStatus]) -> float | None:
        """The interval now; `None` to end. Only a function of the user's needs the status, which costs to make.

        Raises:
            TypeError: The user's function gave something else.
            ValueError: Or an impossible number.
        """
        if not callable(self.interval):
            return self.interval
        given: Any = self.interval(status())
        return None if given is None else _interval("what interval(status) gives", given)

    def verdict_on(self, error: Exception, status: PollStatus) -> OnError:
        """What to do after a failure.

        Raises:
            ValueError: The user's function gave something else than one of the three words.
        """
        if self.max_failures is not None and status.failures >= self.max_failures:
            return "raise"
        if not callable(self.on_error):
            return self.on_error
        verdict: OnError = _one_of("what on_error(error, status) gives", self.on_error(error, status), ON_ERROR)
        return verdict

    def is_last(self, value: object) -> bool:
        """Whether the poll is done with that value.

        Raises:
            TypeError: `until` gave a coroutine, which would be true whatever comes of it.
        """
        answer = None if self.until is None else self.until(value)
        if is_coroutine(answer):
            answer.close()
            raise TypeError("until must be a plain function, but gave a coroutine: it is called, never awaited")
        return bool(answer)

    def pause_after(self, error: Exception, failures: int, interval: float) -> float:
        """How long to wait after a failure, the last of `failures` in a row."""
        asked = _retry_after(error)
        if asked is not None:
            return asked
        longest = LONGEST_BACKOFF * interval if self.max_backoff is None else self.max_backoff
        try:
            return min(longest, interval * self.backoff ** (failures - 1))
        except OverflowError:
            return longest


def settings_of(  # noqa: PLR0917  the options of a poll, in the order of its signature
    fetch: object,
    on_value: object,
    interval: object,
    every: object,
    missed: object,
    immediate: object,
    jitter: object,
    timeout: object,
    on_error: object,
    backoff: object,
    max_backoff: object,
    max_failures: object,
    until: object,
    name: object,
) -> PollSettings:
    """Check the options of a poll.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that it cannot have.
    """
    require_fetch(fetch)
    check_callback("until", until)
    times: Any = interval if callable(interval) else _interval("interval", interval)
    if callable(interval):
        check_callback("interval", interval)
    return PollSettings(
        fetch=_as_is(fetch),
        on_value=_optional_function("on_value", on_value),
        interval=times,
        every=_one_of("every", every, ("start", "end")),
        missed=_one_of("missed", missed, ("skip", "run")),
        immediate=_truth("immediate", immediate),
        jitter=_jitter(jitter, times, every),
        timeout=check_seconds("timeout", timeout, positive=True),
        on_error=_on_error(on_error),
        backoff=_backoff(backoff),
        max_backoff=_finite("max_backoff", max_backoff),
        max_failures=_max_failures(max_failures, on_error),
        until=_as_is(until),
        name=name_of(fetch) if name is None else check_name("name", name),
    )


def require_fetch(fetch: object) -> None:
    """Refuse what is not an async function that can be called without arguments."""
    require_async("s.poll", fetch, ())
    needed = _needed_by(fetch)
    if needed:
        name, shown = name_of(fetch), ", ".join(needed)
        raise TypeError(
            f"s.poll({name}): {name} needs {shown}, but it is called without arguments\n"
            f"Right: s.poll(lambda: {name}({shown}), ...)"
        )


def _needed_by(fetch: Any) -> list[str]:
    """The parameters without which it cannot be called, as one would write them in a call."""
    if _plainly_needs_none(fetch):
        return []  # a signature takes a tenth of what it costs to start a poll
    try:
        parameters = inspect.signature(fetch).parameters.values()
    except (TypeError, ValueError):
        return []  # written in C, for instance: it will tell itself
    needed = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    return [f"{each.name}={each.name}" if each.kind is each.KEYWORD_ONLY else each.name for each in needed]


def _plainly_needs_none(fetch: Any) -> bool:
    """Whether it is a function of no parameters, or a method of none but its object."""
    is_method = type(fetch) is MethodType
    function = fetch.__func__ if is_method else fetch
    if type(function) is not FunctionType:
        return False
    code = function.__code__
    return code.co_argcount == is_method and not code.co_kwonlyargcount


def _as_is(value: Any) -> Any:
    return value


def _optional_function(option: str, value: object) -> Any:
    if value is not None:
        require_callable(option, value)
    return value


def _interval(option: str, value: object) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{option} must be a number of seconds, a timedelta or a function of the status, "
            f"got {value!r} ({type(value).__name__})"
        )
    if not SHORTEST <= value <= sys.float_info.max:
        least = "a microsecond or more" if 0 < value < 1 else "> 0 seconds, and finite"
        raise ValueError(f"{option} must be {least}, got {value!r}")
    return float(value)


def _finite(option: str, value: object) -> float | None:
    seconds = check_seconds(option, value, positive=True)
    if value is not None and seconds is None:
        raise ValueError(f"{option} must be finite, got {value!r}: a poll that never comes again is a stopped one")
    return seconds


def _jitter(value: object, interval: object, every: object) -> float:
    seconds = check_seconds("jitter", value)
    if seconds is None:
        raise ValueError(f"jitter must be a finite number of seconds, got {value!r}")
    if every == "start" and isinstance(interval, float) and seconds >= interval:
        raise ValueError(f"jitter ({seconds:g}) must be < interval ({interval:g}), or polls would pass one another")
    return seconds


def _backoff(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"backoff must be a factor >= 1, got {value!r} ({type(value).__name__})")
    if not 1 <= value < math.inf:
        raise ValueError(f"backoff must be a factor >= 1, and finite, got {value!r}: 1 for the same pause each time")
    return float(value)


def _on_error(value: object) -> Any:
    if callable(value):
        check_callback("on_error", value)
        return value
    return _one_of("on_error", value, ON_ERROR, " or a function (error, status)")


def _max_failures(value: object, on_error: object) -> int | None:
    count = check_count("max_failures", value)
    if count is not None and on_error in ("stop", "raise"):
        raise ValueError(
            f"max_failures={count} means nothing with on_error={on_error!r}, which ends the poll at its first failure\n"
            "Right: leave on_error out, which raises after so many; or let a function (error, status) decide"
        )
    return count


def _one_of(option: str, value: Any, words: tuple[Any, ...], more: str = "") -> Any:
    if value in words:
        return value
    raise ValueError(f"{option} must be {' or '.join(map(repr, words))}{more}, got {value!r}")


def _truth(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"{option} must be True or False, got {value!r} ({type(value).__name__})")


def _retry_after(error: Exception) -> float | None:
    """The pause that an error asks for, as errors of HTTP clients do: a positive, finite number or a timedelta."""
    try:
        asked: Any = getattr(error, "retry_after", None)
        return None if asked is None else _interval("retry_after", asked)
    except Exception:
        return None  # whatever it is, it is no pause
