"""Fault injection: a function whose n-th call raises, hangs or is slow."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import anyio

from .._vocabulary.options import check_seconds, name_of, require_callable

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

Error: TypeAlias = BaseException | type[BaseException]


class InjectedFault(Exception):
    """What a faulty call raises where nothing else is asked for.

    Args:
        function: The name of the function.
        call: The number of the call, from 1.

    Attributes:
        function: The same.
        call: The same.
    """

    def __init__(self, function: str, call: int) -> None:
        super().__init__(function, call)
        self.function: str = function
        self.call: int = call

    def __str__(self) -> str:
        return f"fault injected into call {self.call} of {self.function}"


class Faulty(Protocol[P, R_co]):
    """What `faulty()` gives: a function of the same type, which counts its calls.

    Attributes:
        calls: How many calls there were, the faulty ones included.
    """

    calls: int

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, or suffer the fault."""
        ...


def faulty(
    fn: Callable[P, R_co],
    *,
    at: int | Collection[int] = 1,
    error: Error | None = None,
    hang: bool = False,
    delay: float | None = None,
) -> Faulty[P, R_co]:
    """Wrap a function so that some of its calls fail, hang or are slow; the others do what it does.

    A call that fails or hangs does not reach the function; a slow one does, after the delay. Calls of an async
    function are counted when they begin to run.

    Args:
        fn: A plain or an async function.
        at: Which call, from 1, or several: `at=3`, `at={1, 3}`, `at=range(2, 100)`. Default the first.
        error: What to raise: an exception or a class of one; default `InjectedFault`.
        hang: Whether to wait for ever instead, until cancelled. Only of an async function.
        delay: Seconds to wait before the call instead. A plain function blocks its thread for so long.

    Returns:
        A function with the name and the signature of `fn`; `.calls` counts.

    Raises:
        TypeError: `fn` is not a function, `at` not an int or a collection of these, `error` no exception, or `fn` is
            plain and cannot hang.
        ValueError: Two of `error`, `hang` and `delay`, or a call before the first.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> from anyscope.testing.faults import faulty
        >>> async def fetch(user):
        ...     return f"user {user}"
        >>> async def main():
        ...     flaky = faulty(fetch, at=2)
        ...     async with scope() as s:
        ...         for user in (1, 2, 3):
        ...             print(await s.run(flaky, user))
        ...     print(flaky.calls)
        >>> anyio.run(main)
        Ok(value='user 1')
        Err(error=InjectedFault('fetch', 2))
        Ok(value='user 3')
        3
    """
    require_callable("faulty", fn)
    is_async = _is_async(fn)
    name = name_of(fn)
    _check_one(name, error=error is not None, hang=hang, delay=delay is not None)
    _check_error(name, error)
    if hang and not is_async:
        raise TypeError(
            f"faulty({name}, hang=True): {name} is not async, so it could not be cancelled while it hangs\n"
            f"Right: faulty({name}, delay=seconds), which blocks its thread, or wrap the async function that calls it"
        )
    fault = _Fault(name, _calls_at(name, at), error, hang=hang, delay=_check_delay(name, delay))
    wrapper: Any = _wrap_async(cast("Any", fn), fault) if is_async else _wrap_plain(fn, fault)
    wrapper.calls = 0
    fault.wrapper = wrapper
    return cast("Faulty[P, R_co]", wrapper)


@dataclass
class _Fault:
    """What happens when, and how often it was asked.

    Attributes:
        wrapper: The function that shows the count, in `.calls`. Written once.
    """

    name: str
    at: Collection[int]
    error: Error | None
    hang: bool
    delay: float | None
    wrapper: Any = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # a plain function may be called by several threads

    def strikes(self) -> int:
        """Count one call; gives its number if it is a faulty one, else 0."""
        with self._lock:
            self.wrapper.calls += 1
            call: int = self.wrapper.calls
        return call if call in self.at else 0

    def exception(self, call: int) -> Error:
        """What to raise."""
        return InjectedFault(self.name, call) if self.error is None else self.error


def _wrap_async(fn: Callable[..., Any], fault: _Fault) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if call := fault.strikes():
            if fault.hang:
                await anyio.sleep_forever()
            if fault.delay is None:
                raise fault.exception(call)
            await anyio.sleep(fault.delay)
        return await fn(*args, **kwargs)

    return wrapper


def _wrap_plain(fn: Callable[..., Any], fault: _Fault) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if call := fault.strikes():
            if fault.delay is None:
                raise fault.exception(call)
            time.sleep(fault.delay)
        return fn(*args, **kwargs)

    return wrapper


# ------------------------------------------------------------------ misuse


def _is_async(fn: object) -> bool:
    """Whether calling it gives a coroutine, as far as its looks tell; a partial and an object with `__call__` too."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004  not whether it can be called, but what is


def _check_one(name: str, **asked: bool) -> None:
    given = [f"{option}=..." for option, is_given in asked.items() if is_given]
    if len(given) > 1:
        raise ValueError(
            f"faulty({name}, {', '.join(given)}): a call can do only one of these\n"
            f"Right: faulty(faulty({name}, at=1, {given[0]}), at=2, {given[1]}), one wrapper for each"
        )


def _check_delay(name: str, delay: float | None) -> float | None:
    seconds = check_seconds("delay", delay)
    if delay is not None and seconds is None:
        raise ValueError(f"faulty({name}, delay=inf): that never ends\nRight: faulty({name}, hang=True)")
    return seconds


def _check_error(name: str, error: object) -> None:
    is_class = isinstance(error, type) and issubclass(error, BaseException)
    if error is not None and not is_class and not isinstance(error, BaseException):
        raise TypeError(f"faulty({name}, error=...): error must be an exception or a class of one, got {error!r}")


def _calls_at(name: str, at: int | Collection[int]) -> Collection[int]:
    """The numbers of the faulty calls."""
    calls: Collection[Any] = at if isinstance(at, Collection) else (at,)
    if isinstance(at, (str, bytes)) or not all(isinstance(call, int) and not isinstance(call, bool) for call in calls):
        raise TypeError(f"faulty({name}, at=...): at must be an int or a collection of ints, got {at!r}")
    if not calls or min(calls) < 1:
        raise ValueError(
            f"faulty({name}, at=...): calls are numbered from 1, got {at!r}\nRight: faulty({name}, at=1) for the first"
        )
    return calls if isinstance(calls, range) else frozenset(calls)
