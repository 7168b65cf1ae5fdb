"""Checks of options and functions: each tells the option, the value, the rule and the remedy.

Wrong type: `TypeError`. Wrong value: `ValueError`. At the call that is wrong, before any side effect.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any, TypeGuard

COROUTINE: type[CoroutineType[Any, Any, Any]] = CoroutineType
"""The type of what an `async def` gives; to be asked for first where a call of `is_coroutine` is too much."""
_CO_COROUTINE = inspect.CO_COROUTINE
_LONGEST_NAME = 100


def check_seconds(option: str, value: object, *, positive: bool = False) -> float | None:
    """Check an optional number of seconds; infinity means the same as `None`, no limit."""
    if value is None or (type(value) is float and 0 < value < math.inf):
        return value
    if isinstance(value, timedelta):
        raise TypeError(
            f"{option} must be a number of seconds or None, got a timedelta: write {option}=delta.total_seconds()"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a number of seconds or None, got {value!r} ({type(value).__name__})")
    if math.isnan(value) or value < 0 or (positive and value == 0):
        rule = "> 0" if positive else ">= 0"
        raise ValueError(f"{option} must be {rule} seconds or None for no limit, got {value!r}")
    return None if value == math.inf else float(value)


def check_count(option: str, value: object) -> int | None:
    """Check an optional number of things that may run at once: an int of at least one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int >= 1 or None for no limit, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(
            f"{option} must be >= 1 or None for no limit, got {value!r}: with {value} nothing could ever run"
        )
    return value


def check_whole(option: str, value: object, *, least: int) -> int:
    """Check a whole number.

    Raises:
        TypeError: It is none.
        ValueError: It is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int >= {least}, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{option} must be an int >= {least}, got {value!r}")
    return value


def check_name(option: str, value: object) -> str:
    """Check a name: a printable text of at most 100 characters, for it goes into logs."""
    if not isinstance(value, str):
        raise TypeError(f"{option} must be a str or None, got {value!r} ({type(value).__name__})")
    if not value or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"{option} must be 1 to {_LONGEST_NAME} printable characters, got {value[:_LONGEST_NAME]!r}")
    return value


def check_callback(option: str, value: object) -> None:
    """Check an optional plain (not async) function that will be called back."""
    if value is None:
        return
    if not callable(value):
        raise TypeError(f"{option} must be a function or None, got {value!r} ({type(value).__name__})")
    if inspect.iscoroutinefunction(value):
        raise TypeError(
            f"{option} must be a plain function, but {name_of(value)} is async: it is called, never awaited"
        )


def name_of(fn: object) -> str:
    """How a person would call `fn`: its qualified name without the function that it was made in."""
    if type(fn) is FunctionType:
        return fn.__qualname__.rpartition("<locals>.")[2]
    if isinstance(fn, functools.partial):
        return name_of(fn.func)
    name = getattr(fn, "__qualname__", None)
    return (name if isinstance(name, str) else type(fn).__qualname__).rpartition("<locals>.")[2]


def is_coroutine(value: object) -> TypeGuard[Coroutine[Any, Any, Any]]:
    """Whether `value` is a coroutine object; the exact type is asked first, it is much cheaper."""
    return type(value) is COROUTINE or isinstance(value, Coroutine)


def call_async(where: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
    """Call an async function and give its coroutine; refuse everything else before it does anything.

    Args:
        where: The call that the user wrote, such as `s.task`, for the message.
        fn: What should be an async function.
        args: Its positional arguments; that they fit is told here too, at the wrong call.
    """
    if type(fn) is FunctionType and fn.__code__.co_flags & _CO_COROUTINE:
        coro: Coroutine[Any, Any, Any] = fn(*args)
        return coro  # by far the most frequent case, and nothing else to be told of it
    require_async(where, fn, args)
    made: object = fn(*args)
    if is_coroutine(made):
        return made
    raise TypeError(
        f"{where}({name_of(fn)}): expected an async function, but it returned {type(made).__name__}, not a coroutine"
    )


def require_async(where: str, fn: object, args: tuple[Any, ...]) -> None:
    """Refuse what is certainly not an async function, without calling it."""
    if type(fn) is FunctionType and fn.__code__.co_flags & _CO_COROUTINE:
        return
    if is_coroutine(fn):
        raise TypeError(_coroutine_object(where, fn))
    if not callable(fn):
        raise TypeError(f"{where}(...): expected an async function, got {fn!r} ({type(fn).__name__})")
    name = name_of(fn)
    core = _innermost(fn)
    if inspect.iscoroutinefunction(core) or inspect.iscoroutinefunction(fn):
        return
    if inspect.isasyncgenfunction(core):
        raise TypeError(
            f"{where}({name}): {name} is an async generator function, it yields many values\n"
            f"Right: async for item in {name}(...): ..."
        )
    if isinstance(core, BuiltinFunctionType) or inspect.isclass(core) or _is_plain_function(core):
        shown = ", ".join([name, *("..." for _ in args[:1])])
        raise TypeError(
            f"{where}({shown}): {name} is not async, so it would block every other task\n"
            f"Wrong: {where}({shown})\n"
            f"Right: {where}(anyio.to_thread.run_sync, {shown})"
        )


def _is_plain_function(core: object) -> bool:
    # A lambda may well return a coroutine: `lambda: fetch(3)` is told by its result, not by its looks.
    return isinstance(core, FunctionType) and core.__name__ != "<lambda>"


def _innermost(fn: Any) -> object:
    """What runs in the end: without partials, method bindings, `functools.wraps` and `__call__`."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif _has_own_call(fn):
            fn = type(fn).__call__
        else:
            return fn


def _has_own_call(fn: object) -> bool:
    # Not callable(): the question is whether it is a Python function that is called in the end.
    if isinstance(fn, (FunctionType, BuiltinFunctionType, type)):
        return False
    return isinstance(getattr(type(fn), "__call__", None), FunctionType)  # noqa: B004  see above


def _coroutine_object(where: str, coro: Coroutine[Any, Any, Any]) -> str:
    coro.close()  # it will never run: without this Python adds a "never awaited" warning of its own
    name = getattr(coro, "__qualname__", "fetch").rpartition("<locals>.")[2]
    return (
        f"{where}({name}(...)): expected an async function, got a coroutine object\n"
        f"Wrong: {where}({name}(x))\n"
        f"Right: {where}({name}, x)"
    )


def require_callable(where: str, fn: object) -> None:
    """Refuse what cannot be called, and a coroutine object with the right line."""
    if is_coroutine(fn):
        raise TypeError(_coroutine_object(where, fn))
    if not callable(fn):
        raise TypeError(f"{where}(...): expected a function, got {fn!r} ({type(fn).__name__})")
