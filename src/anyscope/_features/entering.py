"""`s.enter`: a context manager for the life of the scope."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from .._lifetime.managers import as_manager, title_of
from .._lifetime.opening import Opening

if TYPE_CHECKING:
    from .._lifetime.owner import Owner


async def enter(owner: Owner, manager: object) -> Any:
    """`s.enter`: a context manager for the life of the scope, in a task of its own."""
    usable = as_manager(manager)
    if usable is None:
        raise _not_to_be_entered(manager)
    title = title_of(manager)
    await owner.admit("enter", title)
    opening: Opening[Any] = Opening(
        owner,
        title,
        title,
        kind="entered",
        manager=usable,
        opened=lambda _: owner.push(title, opening.leave, kind="entered"),
    )
    opening.launch()
    await opening.until_done()
    return opening.result()


def _not_to_be_entered(value: object) -> TypeError:
    if inspect.isawaitable(value) and inspect.iscoroutine(value):
        value.close()
    name = getattr(value, "__qualname__", type(value).__qualname__).rpartition("<locals>.")[2]
    is_maker = callable(value) and not inspect.iscoroutinefunction(value)
    right = f"s.enter({name}(...))" if is_maker else "s.enter(manager)"
    return TypeError(f"s.enter(...): expected a context manager, got {type(value).__name__}\nRight: await {right}")
