"""Where the running code stands: in which scope, and in which native task.

One context variable holds it. A context is copied into every task and thread that is started, also by
strangers (`asyncio.create_task`, a worker thread with an event loop of its own), so what it says may be
out of date: a place also remembers the native task that it was set in, and whoever relies on it for
more than a look-up asks `is_genuine` first.

The variable is never reset with a token, which only works in the very context that set it; the former
place is restored by identity instead.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from .backend import running_task

if TYPE_CHECKING:
    from .branch import Branch


class Place:
    """A native task that runs code of one scope: its body, a task, or its clean-up.

    Attributes:
        owner: The scope's owner. Never changes.
        native: The native task; set once, by that task itself, when it begins.
        below: The task of ours on whose behalf the code runs, if it is not one itself: the one whose
            body opened this scope or made this call. Never changes.
    """

    __slots__ = ("below", "native", "owner")

    def __init__(self, owner: Branch, below: Place | None = None) -> None:
        self.owner: Branch = owner
        self.native: object = None
        self.below: Place | None = below

    @property
    def who(self) -> str:
        """Who runs here, for messages: the body of a scope, a task, or what is being opened."""
        return f"the body of {self.owner.path}"

    @property
    def is_kept(self) -> bool:
        """Whether the scope itself ends it when it closes: a daemon, or what is kept open until then.

        A closing scope does not wait for what such a place does in it, a child scope for instance: it would
        wait for ever.
        """
        return False

    @property
    def is_sheltered(self) -> bool:
        """Whether it is kept, and goes on when its scope is cancelled."""
        return self.is_kept

    def end(self) -> None:
        """Nothing runs here any more; the native task's context leads back here."""
        self.native = None

    def is_genuine(self) -> bool:
        """Whether the running code really is in this place, and not in a copy of its context."""
        return self.native is not None and self.native is running_task()


HERE: ContextVar[Place | None] = ContextVar("anyscope.place", default=None)


def stand_in(place: Place) -> None:
    """Make `place` the current one, in the task that begins with it."""
    place.native = running_task()
    HERE.set(place)


def is_inside(owner: Branch) -> bool:
    """Whether the running task is one that the backend cancels along with `owner`.

    True only where it is certain: a task that a scope started, or the body of one, up the chain of scopes
    that were each opened inside the next. Everyone else has to be told by hand.
    """
    return is_beneath(here(), owner)


def is_beneath(place: Place | None, owner: Branch) -> bool:
    """As `is_inside`, for code of which it is known where it stands, as `here` tells."""
    inner: Branch | None = None if place is None else place.owner
    while inner is not None and inner is not owner:
        if not inner.is_nested:
            return False
        inner = inner.parent
    return inner is owner


def here() -> Place | None:
    """The current place, if the running code really is in it."""
    place = HERE.get()
    return place if place is not None and place.is_genuine() else None


def beneath(place: Place | None) -> Place | None:
    """The task at the bottom of `place`: itself, where it has nothing below."""
    return None if place is None else bottom_of(place)


def bottom_of(place: Place) -> Place:
    """What `place` runs on behalf of, be the running code really in it or in a copy of its context."""
    return place if place.below is None else place.below


def keeper_under(owner: Branch) -> Place | None:
    """What `owner` itself ends when it closes and the running code belongs to, if there is such a thing.

    The code stands in it, or in a scope that was opened in it, or anywhere in and below that scope.
    """
    place = HERE.get()
    if place is None:
        return None
    bottom = bottom_of(place)
    if bottom.is_kept and bottom.owner is owner and bottom.native is not None:
        return bottom
    branch: Branch | None = bottom.owner
    while branch is not None and branch is not owner:
        if branch.keeper is not None and branch.parent is owner:
            return branch.keeper
        branch = branch.parent
    return None


def nearest_open(*, closing_too: bool = False) -> Branch | None:
    """The owner of the innermost scope of this context and loop that is still open, or closing."""
    place = HERE.get()
    return None if place is None else open_around(place, closing_too=closing_too)


def open_around(place: Place, *, closing_too: bool = False) -> Branch | None:
    """As `nearest_open`, for code whose context says `place`."""
    owner: Branch | None = place.owner
    while owner is not None and not owner.is_open_here(closing_too=closing_too):
        owner = owner.parent
    return owner
