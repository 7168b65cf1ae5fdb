"""Who wants to know of scopes and of what is opened in them: the checks and overrides of `anyscope.testing`.

Nobody does in a program, where each of the places that ask costs one look at an empty list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from .branch import Branch

What: TypeAlias = Literal["entered", "launching", "polling", "opening", "pushed", "provided"]
"""A scope was entered, nothing of it has run; a task of it is started or queued; a poll is started; something begins to
be opened in it; a clean-up step was registered; or it provides one more service, after entry. With all but the first
goes what it is: the `Task`, the `Pilot`, the `Opening`, the `CleanUp`, the key."""

WATCHERS: list[Callable[[What, Branch, object], None]] = []
"""Called in the task that does it, before it goes on; with scopes of every event loop and thread."""


def tell(what: What, branch: Branch, subject: object = None) -> None:
    """Tell everybody; ask first whether there is anybody."""
    for watcher in WATCHERS:
        watcher(what, branch, subject)
