"""A call on a scope by whoever holds it, also by a task that the scope does not own.

While it lasts the scope does not close. The backend cancels a caller that stands inside the scope; for
any other one the call opens a cancel scope of its own, which the scope's cancellation reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._vocabulary.errors import ScopeCancelled
from .._vocabulary.options import name_of
from .place import HERE, Place, beneath, here, is_beneath, keeper_under, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from .owner import Owner


class Call:
    """Work that runs in the calling task and belongs to a scope, as a context manager.

    Args:
        owner: The owner that it belongs to.
        subject: What it is called, or the function that gives it its name.
        index: Its number in the scope, if it has one.

    Attributes:
        cut: Whether the scope's cancellation ended it in a task that is not itself cancelled; the `with`
            block then ends quietly.
    """

    __slots__ = ("_former", "_place", "_scope", "_subject", "_unlisten", "cut", "index", "owner")

    def __init__(self, owner: Owner, subject: object, index: int | None = None) -> None:
        self.owner = owner
        self._subject = subject
        self.index = index
        self.cut = False
        self._former: Place | None = None
        self._place: Place | None = None
        self._scope: anyio.CancelScope | None = None
        self._unlisten: Callable[[], None] | None = None

    @property
    def title(self) -> str:
        """Its name; found out here, because it is hardly ever asked for."""
        return self._subject if isinstance(self._subject, str) else name_of(self._subject)

    @property
    def label(self) -> str:
        """Its name and index, such as `fetch (#3)`."""
        return self.title if self.index is None else f"{self.title} (#{self.index})"

    @property
    def full_label(self) -> str:
        """Its name, index and scope, such as `fetch (#3) of app`."""
        return f"{self.label} of {self.owner.path}"

    def __enter__(self) -> Self:
        owner, place = self.owner, here()
        if keeper_under(owner) is None:
            owner.works.join(self)
        if place is None or place.owner is not owner:
            if not is_beneath(place, owner):
                self._enter_scope()
            self._former = HERE.get()
            self._place = Place(owner, beneath(place))
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
