"""Tells the hooks of a scope that a piece of work begins and ends, inside the task that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from .._lifetime.ending import sort_out
from .._lifetime.owner import Owner
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.hooks import Outcome, TaskEnded, TaskKind, TaskStarted
from .._vocabulary.results import Result

T = TypeVar("T")


class Telling:
    """What is known about the work when it ends; the `with` body sets `error`."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None


@contextmanager
def told(owner: Owner, name: str, index: int, kind: TaskKind, waited: float = 0.0) -> Iterator[Telling]:
    """Tell of the beginning, and at the end of its duration and error; for scopes that have hooks."""
    hooks = owner.hooks
    assert hooks is not None
    path, telling = owner.path, Telling()
    hooks.tell_started(TaskStarted(name, index, path, kind, waited))
    began = anyio.current_time()
    try:
        yield telling
    except BaseException as raised:
        telling.error = sort_out(raised).cut and TaskCancelled(task=f"{name} (#{index}) of {path}", reason=owner.cancel_reason) or raised
        raise
    finally:
        duration = anyio.current_time() - began
        outcome = outcome_of(telling.error)
        hooks.tell_ended(TaskEnded(name, index, path, kind, waited, duration, outcome, telling.error))


async def hooked(work: Awaitable[Result[T]], owner: Owner, name: str, index: int, kind: TaskKind) -> Result[T]:
    """Await `work`, and tell the hooks of its beginning and end."""
    with told(owner, name, index, kind) as telling:
        result = await work
        telling.error = result.pair()[0]
    return result


def outcome_of(error: BaseException | None) -> Outcome:
    """The word for how something ended."""
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, TaskCancelled) else "error"
