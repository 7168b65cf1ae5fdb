"""One step of an iterator inside a cancel scope of ours, which is left before the step returns.

A source may be in the middle of a `with` of its own when it yields: a cancel scope or a task group that stays open
across the yield (PEP 789). Around the step of such a source no scope can be left, for it is not the innermost one any
more. That is how such a source is found out, before it does damage: closed in another task it would corrupt the scopes
of this one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from ..._lifetime.backend import nursery_count, refuses_misnesting
from ..._vocabulary.errors import ScopeMisuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

T = TypeVar("T")


class Cut(Enum):
    """The type of `CUT`."""

    CUT = "CUT"


CUT: Final = Cut.CUT
"""Instead of an item: the scope was cancelled."""

Stepped: TypeAlias = "T | Cut"


class HoldsScopeError(Exception):
    """A source holds a scope open across its yield.

    Args:
        item: What the step gave.
        scope: The scope around the step if it is open still, as it always is on asyncio.
    """

    def __init__(self, item: Any, scope: anyio.CancelScope | None) -> None:
        super().__init__(item, scope)
        self.item = item
        self.scope = scope

    def leave(self) -> None:
        """Leave the scope, once the source has been closed in this task."""
        if self.scope is not None:
            self.scope.__exit__(None, None, None)


def holds_scope(path: str, label: str) -> ScopeMisuse:
    """The error for a source that was found out."""
    return ScopeMisuse(
        path=path,
        problem=f"stream {label} cannot be read like this: its source keeps a cancel scope or a task group open across "
        "its `yield`",
        remedy="Such a source must run in one task from its first step to its end: s.stream(..., own_task=True)",
    )


def is_misnesting(error: RuntimeError) -> bool:
    """Whether Trio complains of scopes that were not left in the order in which they were entered."""
    return str(error).startswith("Cancel scope stack corrupted")


async def step_within(scope: anyio.CancelScope, step: Callable[[], Awaitable[T]]) -> Stepped[T]:
    """Take a step in `scope`.

    Returns:
        The item, or `CUT` where the scope was cancelled.

    Raises:
        HoldsScopeError: The scope could not be left.
    """
    scope.__enter__()
    before = nursery_count()
    try:
        item = await step()
    except BaseException as error:  # noqa: ASYNC103  the scope may absorb it
        # Trio says that it absorbs nothing, too.
        if scope.__exit__(type(error), error, error.__traceback__):
            return CUT  # noqa: ASYNC104  it has
        raise
    if nursery_count() > before:  # Trio would give up the nursery, and its tasks break
        raise HoldsScopeError(item, scope)
    try:
        scope.__exit__(None, None, None)
    except RuntimeError as error:
        raise HoldsScopeError(item, scope if refuses_misnesting() else None) from error
    return item
