"""Checks of the options of streams, before any side effect."""

from __future__ import annotations

from typing import TypeAlias, TypeGuard, cast

from ..._vocabulary.options import check_seconds

Errors: TypeAlias = "type[Exception] | tuple[type[Exception], ...]"


def integer(option: str, value: object) -> int:
    """An int.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int, got {value!r} ({type(value).__name__})")
    return value


def seconds(option: str, value: object, *, positive: bool = True) -> float:
    """A number of seconds that there must be.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, or zero where that makes no sense, or infinite.
    """
    checked = check_seconds(option, value, positive=positive)
    if checked is None:
        raise ValueError(f"{option} must be a finite number of seconds, got {value!r}")
    return checked


def limit(option: str, value: object) -> float | None:
    """An optional number of seconds above zero."""
    return check_seconds(option, value, positive=True)


def word(option: str, value: object, *words: str) -> None:
    """One of a few words.

    Raises:
        ValueError: It is none of them.
    """
    if value not in words:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, words))}, got {value!r}")


def errors(option: str, value: object) -> tuple[type[Exception], ...]:
    """One class of errors or several.

    Raises:
        TypeError: It is something else; cancellation and the like are no errors.
    """
    if _is_error(value):
        return (value,)
    if _are_errors(value):
        return value
    raise TypeError(f"{option} must be an Exception class or a tuple of them, got {value!r} ({type(value).__name__})")


def _is_error(value: object) -> TypeGuard[type[Exception]]:
    return isinstance(value, type) and issubclass(value, Exception)


def _are_errors(value: object) -> TypeGuard[tuple[type[Exception], ...]]:
    return isinstance(value, tuple) and value != () and all(map(_is_error, cast("tuple[object, ...]", value)))
