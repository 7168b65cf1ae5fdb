"""A scope as a branch of the tree of scopes: where it hangs, who may use it, and how cancellation comes down.

Cancellation is written down once, by `_mark_cancelled`, before anybody is told. Whether a scope was cancelled
and why is never guessed from a cancel scope or from the clock: `cancelled_caught` is false when a clean-up
raised, and a deadline that passed during a slow clean-up did not cause it.

The backend cancels a *nested* child by itself, and respects a `CancelScope(shield=True)` between the two. A
child in any other task is cancelled by hand. Both are marked at once.
"""

from __future__ import annotations

import math
import threading
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import anyio

from .._vocabulary.errors import ScopeClosed, ScopeMisuse, because
from .._vocabulary.hooks import CancelKind, Cancelled, Hooks
from .._vocabulary.options import name_of
from .backend import has_ended, new_group, running, running_loop
from .hookset import HookSet
from .late import refuse
from .place import HERE, Place, bottom_of, is_beneath, keeper_under, open_around
from .signal import CancelSignal, Listeners, wrong_thread
from .watching import WATCHERS, tell
from .works import Works

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.abc import TaskGroup

F = TypeVar("F")

Phase: TypeAlias = Literal["new", "open", "draining", "closing", "closed"]


class Ambient(Enum):
    """The type of `AMBIENT`."""

    AMBIENT = "AMBIENT"

    def __repr__(self) -> str:
        return "AMBIENT"


AMBIENT: Final = Ambient.AMBIENT
"""As `parent=`: the scope that is current where the new one is entered."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """That a scope was cancelled, by what, and why."""

    kind: CancelKind
    reason: object


def _nobody() -> None:
    """There is no face."""


class Branch:
    """The part of an owner that other scopes and callers deal with.

    Args:
        name: The name, checked.
        parent: The branch above, `None` for a root, or `AMBIENT`.
        signal: A signal to be cancelled by.
        hooks: The hooks of this scope alone.
    """

    __slots__ = (
        "_asked_parent",
        "_children",
        "_former_place",
        "_group",
        "_listeners",
        "_loop",
        "_own_hooks",
        "_place",
        "_signal",
        "_thread",
        "_unlisten",
        "_works",
        "cancellation",
        "context",
        "face",
        "hooks",
        "is_in_clean_up",
        "is_nested",
        "keeper",
        "name",
        "parent",
        "phase",
        "services",
    )

    def __init__(
        self, name: str, parent: Branch | Ambient | None, signal: CancelSignal | None, hooks: tuple[Hooks, ...]
    ) -> None:
        self.name: str = name
        # Gives the object that the user holds, which writes this; weakly, for it holds the owner.
        self.face: Callable[[], Any] = _nobody
        self._asked_parent = parent
        self._signal = signal
        self._own_hooks = hooks
        # Where it hangs; written once, by `enter`.
        self.parent: Branch | None = None
        self.is_nested: bool = False  # whether the backend cancels it along with its parent
        self.is_in_clean_up: bool = False  # whether it was entered in the clean-up of another scope
        self.keeper: Place | None = None  # the daemon or the service of the parent that it ends with
        self.hooks: HookSet | None = None
        self._loop: object = None
        self._thread = 0  # 0: not entered, so every thread may touch it
        self._group: TaskGroup | None = None
        self._place: Place | None = None
        self._former_place: Place | None = None
        self._unlisten: Callable[[], None] | None = None
        self.context: Context | None = None  # of the code that entered it, as it was then
        # How far it is; only moves forward, the owner says when.
        self.phase: Phase = "new"
        self.cancellation: Cancellation | None = None  # written once, by `_mark_cancelled`
        self._listeners: Listeners | None = None
        self._children: dict[Branch, None] | None = None  # made for the first of them
        self._works: Works | None = None
        # The table of services, or None; written and looked into by that feature alone.
        self.services: Any = None

    # ------------------------------------------------------------------ what it is called

    @property
    def path(self) -> str:
        """The names from the root to here, such as `app > ingest`."""
        names = [self.name]
        above = self.parent
        while above is not None:
            names.append(above.name)
            above = above.parent
        return " > ".join(reversed(names))

    @property
    def label(self) -> str:
        """What it is called among the works of its parent."""
        return f"scope {self.name}"

    @property
    def children(self) -> Iterator[Branch]:
        """The child scopes that are open."""
        return iter(self._children or ())

    @property
    def works(self) -> Works:
        """What has to end before it closes; made when there is the first of it, for many a scope has none."""
        if self._works is None:
            self._works = Works()
        return self._works

    @property
    def group(self) -> TaskGroup:
        """The task group, while it is open."""
        assert self._group is not None
        return self._group

    # ------------------------------------------------------------------ entering and leaving the tree

    async def enter(self, face: F) -> F:
        """Find the parent, then open the task group, last (law 4); the rest cannot fail.

        Args:
            face: What an `__aenter__` has to give, which this gives.
        """
        former = HERE.get()
        try:
            parent = self._find_parent(former)
        except ScopeClosed as late:
            await refuse(late)
        place = None if former is None or not former.is_genuine() else former
        if parent is not None:
            self.parent = parent
            self.is_nested = is_beneath(place, parent)
            self.is_in_clean_up = place is not None and place.owner.phase == "closing"
            self.keeper = keeper_under(parent)
            self.hooks = parent.hooks
        if self._own_hooks:
            self.hooks = HookSet(self.hooks, self._own_hooks)
        group = new_group()
        await group.__aenter__()
        self._group = group
        self._begin(former, place)
        return face

    def _find_parent(self, former: Place | None) -> Branch | None:
        if self.phase != "new":
            raise ScopeMisuse(
                path=self.path,
                problem="it was entered a second time",
                remedy="A scope is single-use: call scope(...) again for the next block.",
            )
        asked = self._asked_parent
        if asked is AMBIENT:
            return None if former is None or self._signal is not None else open_around(former)
        if asked is not None:
            asked.require_parental(self.name)
        return asked

    def _begin(self, former: Place | None, place: Place | None) -> None:
        self.phase = "open"
        self._thread = threading.get_ident()
        self._former_place = former
        self._place = Place(self, None if place is None else bottom_of(place))
        self._place.native, self._loop = running()
        HERE.set(self._place)
        self.context = copy_context()
        if self.cancellation is not None:
            self._mark_cancelled(self.cancellation)  # it was cancelled before it was entered
        if self.parent is not None:
            self.parent.adopt(self)
        if self._signal is not None:
            self._unlisten = self._signal.on_cancel(lambda reason: self.cancel(reason, kind="signal"))
        if WATCHERS:
            tell("entered", self)

    def adopt(self, child: Branch) -> None:
        """Take `child` in: wait for it, and hand cancellation down to it.

        Not where it belongs to something that this scope itself ends at last, shielded until then.
        """
        if self._children is None:
            self._children = {}
        self._children[child] = None
        if child.keeper is None:
            self.works.join(child)
        if self.cancellation is None or child.is_sheltered:
            return
        if child.is_nested and anyio.current_effective_deadline() != -math.inf:
            return  # it is opened behind a shield
        child.cancel(self.cancellation.reason, kind="parent")

    def take_over(self, child: Branch) -> None:
        """What kept `child` has ended: wait for it as for any other."""
        child.keeper = None
        self.works.join(child)
        if self.cancellation is not None:
            child.cancel(self.cancellation.reason, kind="parent")

    def release(self, child: Branch) -> None:
        """`child` has closed; nothing of it is kept."""
        assert self._children is not None
        del self._children[child]
        self.works.part(child)

    def detach(self) -> None:
        """Let go of everything, so that a context copy that still points here keeps little alive."""
        self.phase = "closed"
        self._group = self.context = None
        self.services = None
        if self._unlisten is not None:
            self._unlisten()
        if self.parent is not None:
            self.parent.release(self)
        if HERE.get() is self._place:
            HERE.set(self._former_place)
        self._place = self._former_place = None

    @property
    def is_sheltered(self) -> bool:
        """Whether it goes on when its parent is cancelled."""
        if self.is_in_clean_up:
            return True
        return self.keeper is not None and self.keeper.native is not None and self.keeper.is_sheltered

    @property
    def is_forsaken(self) -> bool:
        """Whether the task that entered it has ended without leaving it: nobody will ever close it."""
        return self._place is not None and has_ended(self._place.native)

    @property
    def is_unborn(self) -> bool:
        """Never: it has begun when it is known."""
        return False

    def abandon(self) -> None:
        """A child scope is left by its own task; there is nothing to bury."""

    # ------------------------------------------------------------------ who may call what

    def is_open_here(self, *, closing_too: bool = False) -> bool:
        """Whether it is the running loop's, and still takes new work, or at least has not closed."""
        phases = ("open", "draining", "closing") if closing_too else ("open", "draining")
        return self.phase in phases and self._loop is running_loop()

    def require_open(self, call: str, subject: object = None, *, closing_too: bool = False) -> None:
        """Refuse `call(subject)` from a foreign thread, before entry and after the end."""
        if self._thread != threading.get_ident():
            self.require_own_thread(f"s.{call}")
        if self.phase in ("open", "draining") or (closing_too and self.phase == "closing"):
            return
        shown = subject if isinstance(subject, str) else name_of(subject)
        action = call if subject is None else f"{call}({shown})"
        if self.phase == "new":
            raise ScopeMisuse(
                path=self.path,
                problem=f"{action} came before it was entered",
                remedy="Enter it first: async with scope(...) as s:",
            )
        raise ScopeClosed(path=self.path, action=action)

    async def admit(self, call: str, subject: object = None) -> None:
        """As `require_open`, for an async call: see `refuse`."""
        try:
            self.require_open(call, subject)
        except ScopeClosed as late:
            await refuse(late)

    def require_own_thread(self, call: str) -> None:
        """Refuse `call` from a foreign thread while there is anything to be disturbed."""
        if self._thread and self._thread != threading.get_ident() and self.phase != "closed":
            raise wrong_thread(self.path, call)

    def require_parental(self, child: str) -> None:
        """Refuse to be the parent of a scope named `child` before entry, after the end, and elsewhere."""
        if self.phase == "new":
            raise ScopeMisuse(
                path=self.path,
                problem=f"it was given as parent of scope {child} before it was entered",
                remedy="Enter the parent first: async with scope(...) as parent:",
            )
        if self.phase in ("closing", "closed"):
            raise ScopeClosed(
                path=self.path,
                action=f"entering child scope {child}",
                remedy="Open the child while its parent is open, or make it a root with parent=None.",
            )
        if self._loop is not running_loop():
            raise ScopeMisuse(
                path=self.path,
                problem=f"it was given as parent of scope {child} in another event loop",
                remedy="A scope lives in one event loop: write parent=None there.",
            )

    # ------------------------------------------------------------------ cancellation

    @property
    def cancelled(self) -> bool:
        """Whether it has been cancelled, by whatever."""
        return self.cancellation is not None

    @property
    def cancel_reason(self) -> object:
        """The reason of its cancellation."""
        return None if self.cancellation is None else self.cancellation.reason

    @property
    def listeners(self) -> Listeners:
        """Who wants to be told of a cancellation."""
        if self._listeners is None:
            self._listeners = Listeners()
        return self._listeners

    def cancel(self, reason: object = None, *, kind: CancelKind = "cancel") -> None:
        """Cancel everything in the scope and below it; the first reason wins.

        Iterative, because scopes may be nested deeper than Python's stack.
        """
        self.require_own_thread("s.cancel")
        waiting: list[tuple[Branch, CancelKind]] = [(self, kind)]
        while waiting:
            branch, why = waiting.pop()
            if why != "parent" and branch.may_not_have_heard:
                branch.group.cancel_scope.cancel()  # the first reason stays, but nothing is kept from it any more
            elif branch.cancellation is None and branch.phase not in ("closing", "closed"):
                branch._mark_cancelled(Cancellation(why, reason))  # noqa: SLF001  another one of this class
                heirs = [child for child in branch.children if not child.is_sheltered]
                waiting.extend((child, "parent") for child in reversed(heirs))

    @property
    def may_not_have_heard(self) -> bool:
        """Whether the backend was left to hand its parent's cancellation down, and a shield may keep it away."""
        told = self.cancellation is not None and self.cancellation.kind == "parent"
        return told and self.is_nested and self.phase in ("open", "draining")

    def _mark_cancelled(self, cancellation: Cancellation) -> None:
        self.cancellation = cancellation
        if self._group is not None and (cancellation.kind != "parent" or not self.is_nested):
            self._group.cancel_scope.cancel(because(cancellation.reason)[2:-1] or None)
        if self.hooks is not None:
            self.hooks.tell_cancelled(Cancelled(self.path, cancellation.kind, cancellation.reason))
        if self._listeners is not None:
            self._listeners.tell(cancellation.reason)
