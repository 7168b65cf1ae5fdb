"""A call on a scope by whoever holds it, also by a task that the scope does not own.

While it lasts the scope does not close. The backend cancels a caller that stands inside the scope; for
any other one the call opens a cancel scope of its own, which the scope's cancellation reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._vocabulary.errors import ScopeCancelled
from .place import HERE, Place, beneath, here, is_inside, keeper_under, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from .owner import Owner


class Call:
    """Work that runs in the calling task and belongs to a scope, as a context manager.

    Args:
        owner: The owner that it belongs to.
        label: What it is called.

    Attributes:
        cut: Whether the scope's cancellation ended it in a task that is not itself cancelled; the `with`
            block then ends quietly.
    """

    __slots__ = ("_former", "_place", "_scope", "_unlisten", "cut", "label", "owner")

    def __init__(self, owner: Owner, label: str) -> None:
        self.owner = owner
        self.label = label
        self.cut = False
        self._former: Place | None = None
        self._place: Place | None = None
        self._scope: anyio.CancelScope | None = None
        self._unlisten: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        owner = self.owner
        if keeper_under(owner) is None:
            owner.works.join(self)
        if not is_inside(owner):
            self._enter_scope()
        self._former = HERE.get()
        if self._former is None or self._former.owner is not owner or not self._former.is_genuine():
            self._place = Place(owner, beneath(here()))
            stand_in(self._place)
        return self

    def _enter_scope(self) -> None:
        self._scope = anyio.CancelScope()
        self._scope.__enter__()
        if self.owner.cancelled:
            self._scope.cancel()
        else:
            self._unlisten = self.owner.listeners.add(lambda _: self._cut_off())

    def _cut_off(self) -> None:
        assert self._scope is not None
        self._scope.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._place is not None and HERE.get() is self._place:
            HERE.set(self._former)
        if self._unlisten is not None:
            self._unlisten()
        self.owner.works.part(self)
        if self._scope is None:
            return False
        absorbed = self._scope.__exit__(kind, error, traceback)
        self.cut = bool(absorbed) and error is not None  # Trio says that it absorbs nothing, too
        return self.cut

    def refuse_if_cut(self, action: str) -> None:
        """Raise `ScopeCancelled` where the scope's cancellation ended the call."""
        if self.cut:
            self.owner.explain_cut()
            raise ScopeCancelled(path=self.owner.path, action=action, reason=self.owner.cancel_reason)

    @property
    def is_unborn(self) -> bool:
        """Never: it has begun when it is known."""
        return False

    def abandon(self) -> None:
        """The caller ends it; there is nothing to bury."""
