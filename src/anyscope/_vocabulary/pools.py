"""What a pool is told and what it tells: its settings, checked, and its numbers, frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from .options import check_name, check_seconds, check_whole, is_coroutine, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The numbers of a pool at one moment.

    `available + in_use + recycling + creating + destroying` is never more than `max` (but for a moment after `max` has
    been lowered), and while something is available nobody waits.

    Attributes:
        total: Resources that exist: `available + in_use + recycling`.
        available: Idle ones, to be had at once.
        in_use: Lent ones.
        recycling: Ones that are being checked or reset.
        creating: Ones that are being created.
        destroying: Ones that are being destroyed.
        waiting: Tasks that wait and for whom nothing is being checked.
        min: How many are kept.
        max: How many there may be.
        acquired: How often one was lent.
        waited: How often a task had to wait for it.
        timeouts: How often a task waited in vain.
        rejected: How often `max_waiting` was reached.
        cancelled: How often a task was cancelled while it waited.
        created: Resources created so far.
        create_errors: How often that failed.
        destroyed: Resources destroyed so far: `created == destroyed + total + destroying`.
        destroy_errors: How often that failed, or took too long.
        discarded: How many were taken out of use, by reason: `lifetime`, `idle`, `check`, `reset`, `error`,
            `cancelled`, `user`, `refresh`, `resize`, `closed`.
        leaks: How often one was lent for longer than `leak_after`.
        last_error: The last error of `create`, `check`, `reset` or `destroy`.
    """

    total: int
    available: int
    in_use: int
    recycling: int
    creating: int
    destroying: int
    waiting: int
    min: int
    max: int
    acquired: int
    waited: int
    timeouts: int
    rejected: int
    cancelled: int
    created: int
    create_errors: int
    destroyed: int
    destroy_errors: int
    discarded: Mapping[str, int]
    leaks: int
    last_error: Exception | None

    def __str__(self) -> str:
        return f"{self.in_use} of {self.max} in use, {self.available} available, {self.waiting} waiting"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The options of a pool, checked; see `Scope.pool`. Seconds are `math.inf` where there is no bound."""

    create: Callable[[], Any]
    destroy: Callable[[Any], object] | None
    name: str
    acquire_timeout: float
    max_waiting: int | None
    max_idle: float
    max_lifetime: float
    check: Callable[[Any], object] | None
    check_after: float
    reset: Callable[[Any], object] | None
    discard_on: tuple[type[BaseException], ...]
    create_timeout: float
    close_timeout: float
    backoff: tuple[float, float]
    leak_after: float


def settings_of(  # noqa: PLR0917  the options of a pool, in the order of its signature
    create: object,
    destroy: object,
    name: str | None,
    acquire_timeout: object,
    max_waiting: object,
    max_idle: object,
    max_lifetime: object,
    check: object,
    check_after: object,
    reset: object,
    discard_on: object,
    create_timeout: object,
    close_timeout: object,
    backoff: object,
    leak_after: object,
) -> PoolSettings:
    """Check the options of a pool.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that it cannot have.
    """
    made = _function("create", create)
    return PoolSettings(
        create=made,
        destroy=_optional_function("destroy", destroy),
        name=name_of(made) if name is None else check_name("name", name),
        acquire_timeout=bound_of("acquire_timeout", acquire_timeout),
        max_waiting=None if max_waiting is None else check_whole("max_waiting", max_waiting, least=0),
        max_idle=bound_of("max_idle", max_idle),
        max_lifetime=_positive("max_lifetime", max_lifetime),
        check=_optional_function("check", check),
        check_after=bound_of("check_after", check_after),
        reset=_optional_function("reset", reset),
        discard_on=_error_types(discard_on),
        create_timeout=_positive("create_timeout", create_timeout),
        close_timeout=bound_of("close_timeout", close_timeout),
        backoff=_backoff(backoff),
        leak_after=_positive("leak_after", leak_after),
    )


def check_sizes(least: object, most: object) -> tuple[int, int]:
    """Check the sizes of a pool.

    Raises:
        TypeError: One is not an int.
        ValueError: One is too small, or `min` is more than `max`.
    """
    low, high = check_whole("min", least, least=0), check_whole("max", most, least=1)
    if low > high:
        raise ValueError(f"min ({low}) must be <= max ({high})")
    return low, high


def bound_of(option: str, value: object) -> float:
    """Check seconds; infinity for `None`."""
    seconds = check_seconds(option, value)
    return math.inf if seconds is None else seconds


def _positive(option: str, value: object) -> float:
    seconds = check_seconds(option, value, positive=True)
    return math.inf if seconds is None else seconds


def _function(option: str, value: object) -> Callable[..., Any]:
    if is_coroutine(value):
        value.close()  # it will never run: without this Python adds a "never awaited" warning of its own
        name = name_of(value)
        raise TypeError(
            f"{option} must be a function, got a coroutine object\nWrong: {option}={name}()\nRight: {option}={name}"
        )
    if not callable(value):
        raise TypeError(f"{option} must be a function, got {value!r} ({type(value).__name__})")
    return value


def _optional_function(option: str, value: object) -> Callable[..., Any] | None:
    return None if value is None else _function(option, value)


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _error_types(value: Any) -> tuple[type[BaseException], ...]:
    types = value if _is_tuple(value) else (value,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"discard_on must be a class of exceptions or a tuple of these, got {each!r}")
    return types


def _backoff(value: Any) -> tuple[float, float]:
    if not _is_tuple(value) or len(value) != 2:
        raise TypeError(f"backoff must be a pair (first, longest) of seconds, got {value!r}")
    first, longest = (_positive("backoff", each) for each in value)
    if not first <= longest < math.inf:
        raise ValueError(f"backoff must be a pair (first, longest) of seconds, the first the shorter, got {value!r}")
    return first, longest
