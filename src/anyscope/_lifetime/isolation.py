"""Code that runs in a context of its own, within a task that goes on: what it sets there is not seen elsewhere.

A task for each job would have that too, at ten times the price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

T = TypeVar("T")


class InContext(Generic[T]):
    """The rest of a coroutine whose every step runs in `context`; the first one has been taken.

    Args:
        context: The context of the job.
        coro: The coroutine, suspended.
        yielded: What it yielded to the backend when it suspended.
    """

    __slots__ = ("_context", "_coro", "_yielded")

    def __init__(self, context: Context, coro: Coroutine[Any, Any, T], yielded: object) -> None:
        self._context = context
        self._coro = coro
        self._yielded = yielded

    def __await__(self) -> Generator[Any, Any, T]:
        run, send, throw, yielded = self._context.run, self._coro.send, self._coro.throw, self._yielded
        step: Callable[[Any], Any]
        value: Any
        while True:
            try:
                step, value = send, (yield yielded)
            except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
                step, value = throw, error
            try:
                yielded = run(step, value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                del value  # an error that was thrown in would refer to this frame, and it to the error
