"""Awaiting work so that its errors become values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio

from .._vocabulary.errors import TaskTimeout
from .._vocabulary.results import Err, Ok, Result

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

T = TypeVar("T")

NATIVELY = "cancelled natively"
"""The reason of a cancellation that no scope ordered: `asyncio.Task.cancel()`, or a cancelled future."""


async def attempt(coro: Awaitable[T], limit: float | None, label: str) -> Result[T]:
    """Await `coro`, called `label`, for at most `limit` seconds; errors become values, cancellations pass."""
    try:
        if limit is None:
            return Ok(await coro)
        with anyio.move_on_after(limit):
            return Ok(await coro)
        return Err(TaskTimeout(task=label, limit=limit))
    except Exception as error:
        return failed(error)


def failed(error: Exception) -> Err[Exception]:
    """An `Err` whose traceback begins in the user's code, if that has begun; our own frame would make a cycle of it."""
    traceback: TracebackType | None = error.__traceback__
    return Err(error.with_traceback(None if traceback is None else traceback.tb_next))
