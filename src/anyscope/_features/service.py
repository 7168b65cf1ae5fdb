"""One service: how far it is, who holds it, its build and its closing. The whole is told in `services`."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from .._lifetime.late import refuse
from .._lifetime.opening import Opening
from .._lifetime.place import HERE, bottom_of
from .._vocabulary.errors import ScopeClosed, ServiceNotReady
from .._vocabulary.keys import label_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from .._lifetime.owner import Owner
    from .recipes import Recipe

ServiceState: TypeAlias = Literal["declared", "building", "ready", "closing", "closed"]

BOOKED = 8
"""How many uses of a service are looked at for who it is; later ones take the short way."""


class Table(Protocol):
    """What a service knows of the table that it stands in."""

    owner: Owner

    def new_context(self, service: Service) -> Context:
        """The context for a factory."""
        ...


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "MISSING"


MISSING = Missing.MISSING
"""No default was given; no value is there."""


class Service:
    """One key in one scope.

    Args:
        table: The services of its scope.
        key: The key.
        recipe: How it is made.
        value: The value, where it exists already.
        origin: The one above whose recipe it follows, where each scope has its own.

    Attributes:
        value: The value while it is ready. Written by `_succeed` and `_retire`.
        is_closed: Whether closing it has begun, or it has crashed. Written by `_retire`.
        is_booked: Whether enough is known of who holds it; then the value is given out the short way.
        holders: Who holds it: those of the first `BOOKED` uses. Written by `book`.
        _uses: How many of these there were.
        _opening: The build under way, or the last one.
    """

    __slots__ = (
        "_opening",
        "_uses",
        "holders",
        "is_booked",
        "is_closed",
        "key",
        "origin",
        "owner",
        "recipe",
        "table",
        "value",
        "was_given",
    )

    def __init__(
        self, table: Table, key: Any, recipe: Recipe, *, value: object = MISSING, origin: Service | None = None
    ) -> None:
        self.table: Table = table
        self.owner: Owner = table.owner
        self.key: Any = key
        self.recipe: Recipe = recipe
        self.value: Any = value
        self.was_given: bool = value is not MISSING
        self.origin: Service | None = origin
        self.is_closed: bool = False
        self.is_booked: bool = False
        self.holders: dict[str, None] = {}
        self._uses = 0
        self._opening: Opening[Any] | None = None

    # ------------------------------------------------------------------ what it is

    @property
    def label(self) -> str:
        """The key as text."""
        return label_of(self.key)

    @property
    def state(self) -> ServiceState:
        """How far it is."""
        if self.is_closed:
            step = self.owner.closing
            return "closing" if step is not None and step.subject is self else "closed"
        if self.value is not MISSING:
            return "ready"
        return "declared" if self._build is None else "building"

    @property
    def waiters(self) -> int:
        """How many wait for it to be made."""
        return 0 if self._build is None else self._build.waiters

    @property
    def _build(self) -> Opening[Any] | None:
        return None if self._opening is None or self._opening.is_done else self._opening

    @property
    def is_untouched(self) -> bool:
        """Whether it may still be replaced: nothing was made, and nobody has it."""
        return not self._uses and (self.state == "declared" or (self.was_given and not self.is_closed))

    # ------------------------------------------------------------------ getting it

    async def get(self) -> Any:
        """The value, made first where need be."""
        while self.value is MISSING:
            self.owner.require_own_thread("s.use")
            build = self._build
            if build is None:
                await self._admit()
                build = self._begin()
            if build is None:
                break  # made at once
            await build.until_done()
            if not build.was_given_up:
                build.result()  # raises what making it raised
        return self._hand_out()

    def get_nowait(self) -> Any:
        """The value, if it is there."""
        if self.value is MISSING and not self.is_closed:
            raise ServiceNotReady(key=self.label, path=self.owner.path, state=self.state)
        return self._hand_out()

    def _hand_out(self) -> Any:
        if self.is_closed:
            raise self._closed()
        self.book()
        return self.value

    def book(self) -> None:
        """Write down who uses it, until enough is known."""
        if self._uses < BOOKED:
            self._uses += 1
            self.holders[_asker()] = None
        self.is_booked = self._uses == BOOKED and self.value is not MISSING

    def _closed(self) -> ScopeClosed:
        return ScopeClosed(
            path=self.owner.path,
            action=f"use({self.label})",
            remedy="The service has been closed. What is made later is closed earlier: have it made first.",
        )

    # ------------------------------------------------------------------ making it

    async def _admit(self) -> None:
        if self.is_closed:
            await refuse(self._closed())
        await self.owner.admit("use", self.label)

    def _begin(self) -> Opening[Any] | None:
        """Call the factory; gives the build, or `None` where the value is there at once."""
        context = self.table.new_context(self)
        made = context.run(self.recipe.factory)
        manager = self.recipe.manager_of(made, self.key)
        if manager is None and not inspect.isawaitable(made):
            self._succeed(made)
            return None
        self.holders = {_asker(): None}
        self._opening = Opening(
            self.owner,
            self.label,
            f"service {self.label}",
            kind="service",
            manager=manager,
            coro=None if manager is not None else made,
            unbegun=made if inspect.iscoroutine(made) else None,
            opened=self._succeed,
            crashed=self._retire,
        )
        self._opening.launch(context)
        return self._opening

    def _succeed(self, value: Any) -> None:
        self.value = value
        self.holders.clear()
        if self.origin is not None:
            self.origin.book()
        if self._opening is not None and self._opening.is_manager:
            self._push(self._leave)
        else:
            self.push_close()

    def push_close(self) -> None:
        """Have the value closed with the scope, if it has to be."""
        if self.recipe.close is not None:
            self._push(self._close)

    def _push(self, step: Callable[[], object]) -> None:
        self.owner.push(self.label, step, kind="service", subject=self)

    # ------------------------------------------------------------------ closing it

    def _close(self) -> object:
        value = self.value
        self._retire()
        assert self.recipe.close is not None
        return self.recipe.close(value)

    async def _leave(self) -> None:
        self._retire()
        assert self._opening is not None
        await self._opening.leave()

    def _retire(self) -> None:
        """It is given to nobody any more."""
        self.value = MISSING
        self.is_closed, self.is_booked = True, False


def _asker() -> str:
    place = HERE.get()
    return "code outside of any scope" if place is None else bottom_of(place).who
