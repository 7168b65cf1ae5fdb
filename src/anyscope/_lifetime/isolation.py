"""Code that runs in a context of its own, within a task that goes on: what it sets there is not seen elsewhere.

A task for each job would have that too, at ten times the price. There are two cheaper ways, and whoever runs many jobs
in one task takes both, one after the other:

*looking*    The job runs in the task's own context. Afterwards one looks whether a variable has been set: a tenth of a
    microsecond. As long as no job sets any, which is the rule, nothing has to be isolated. Where one was set the task
    has to end, for a variable cannot be unset, and whoever follows it has to run its jobs the other way.
*stepping*   The job's every step runs in a copy of the context, inside `Context.run`, which both backends allow, since
    what a task yields and is sent is passed on untouched: half a microsecond for each step.

Contexts are not compared by `==`, which would ask the values, and equal is not identical. CPython keeps the variables
of a context in one immutable map and puts another in its place when one is set; `gc.get_referents` gives that map.
Where it does not do so, `CAN_LOOK` is false, and all is stepped through.
"""

from __future__ import annotations

import types
from contextvars import ContextVar, copy_context
from gc import get_referents
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")


def variables() -> object:
    """What holds the variables of the current context: another object once one of them has been set."""
    return get_referents(copy_context())[0]


def _can_look() -> bool:
    before = variables()
    stays_alike = before is variables()
    ContextVar[int]("probe").set(1)
    return stays_alike and before is not variables()


CAN_LOOK = copy_context().run(_can_look)
"""Whether `variables` does what it says, with this Python."""


@types.coroutine
def stepped(through: Callable[..., Any], coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await `coro`, each of its steps made by `through(step, value)`.

    Args:
        through: Calls `step(value)` and gives what that gives; `Context.run`, for instance.
        coro: The coroutine.
    """
    send, throw = coro.send, coro.throw
    step: Callable[[Any], Any] = send
    value: Any = None
    while True:
        try:
            yielded = through(step, value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            del value  # an error that was thrown in would refer to this frame, and it to the error
        try:
            step, value = send, (yield yielded)
        except BaseException as error:  # noqa: ASYNC103  it goes on into the coroutine
            step, value = throw, error
