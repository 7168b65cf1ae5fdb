"""Tells the hooks of a scope that a piece of work begins and ends, inside the task that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio

from .._lifetime.ending import sort_out
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.hooks import Outcome, TaskEnded, TaskKind, TaskStarted

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .._lifetime.owner import Owner
    from .._vocabulary.results import Result

T = TypeVar("T")


async def hooked(
    work: Awaitable[Result[T]], owner: Owner, name: str, index: int, kind: TaskKind, *, waited: float = 0.0
) -> Result[T]:
    """Await `work`, and tell the hooks of its beginning and its end; for scopes that have hooks."""
    hooks, path = owner.hooks, owner.path
    assert hooks is not None
    hooks.tell_started(TaskStarted(name, index, path, kind, waited))
    error: BaseException | None = None
    began = anyio.current_time()
    try:
        result = await work
        error = result.pair()[0]
    except BaseException as raised:
        error = raised
        if sort_out(raised).cut is not None:
            error = TaskCancelled(task=f"{name} (#{index}) of {path}", reason=owner.cancel_reason)
        raise
    else:
        return result
    finally:
        duration = anyio.current_time() - began
        hooks.tell_ended(TaskEnded(name, index, path, kind, waited, duration, outcome_of(error), error))


def outcome_of(error: BaseException | None) -> Outcome:
    """The word for how something ended."""
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, TaskCancelled) else "error"
