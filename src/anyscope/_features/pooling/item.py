"""One resource of a pool: its whole life, in one task.

    creating -> idle <-> in use             lent and given back, without this task
                idle  -> checking -> idle
             in use   -> resetting -> idle
    any of these -> destroying -> gone

Rules
    * Created, checked, reset and destroyed in this one task, which belongs to the pool: no user of the pool can be
      cancelled in the middle of one of these, and a context manager is left in the task that entered it.
    * The stock orders, this task obeys and tells the stock how it ended. Whatever strikes the task, a native
      cancellation too, the stock hears of an end.
    * The task is shielded: a resource outlives the cancellation of its scope until the pool closes.

A bound of its own cannot be put around the entering of a context manager, which may leave cancel scopes open: so
creating and destroying are bounded by the deadline of the scope around the whole life. What runs in between is bounded
by a scope that is opened and closed around it.
"""

from __future__ import annotations

import inspect
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import anyio

from ..._lifetime.ending import sort_out
from ..._lifetime.managers import as_manager, self_evident_manager
from ..._lifetime.place import Place, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._lifetime.managers import Manager
    from .stock import Stock

T = TypeVar("T")
State: TypeAlias = Literal["creating", "idle", "in use", "checking", "resetting", "destroying", "gone"]
Order: TypeAlias = Literal["check", "reset", "destroy"]

_NO_CALLER = (None, 0)


class ItemPlace(Place):
    """Where a resource is created, checked, reset and destroyed: the pool ends that, not the scope."""

    @property
    def is_kept(self) -> bool:
        """The closing scope does not wait for what a resource does in it."""
        return True


class Item(Generic[T]):
    """One resource.

    Args:
        stock: The stock that it belongs to.
        number: Its number in the pool.
        now: The time.

    Attributes:
        uses: How often it was lent. Written by the stock.
        state: How far it is. Written by the stock.
        value: The resource, from `idle` on. Written once, by this task.
        begun_at: When it was asked for.
        expires_at: When it is too old to be lent.
        idle_since: When it was last given back, or created.
        is_suspect: Whether it must be checked before it is lent again. Written by the stock.
        is_obsolete: Whether it is to be destroyed as soon as nobody uses it. Written by the stock.
        holder: The native task that has it. Written by the stock, like the next three.
        site: The code where it was acquired, and the offset of the instruction.
        lent_at: When it was lent.
        is_leak_told: Whether it was told that it has been lent for long.
        has_begun: Whether the task has.
        _scope: Around the whole life.
        _bound: Around what is being done: that one, or one of its own. Written by this task.
        _latest: When a check or a reset must have ended. Written by `hurry`.
    """

    __slots__ = (
        "_bound",
        "_latest",
        "_manager",
        "_order",
        "_ordered",
        "_scope",
        "_stock",
        "begun_at",
        "expires_at",
        "has_begun",
        "holder",
        "idle_since",
        "is_leak_told",
        "is_obsolete",
        "is_suspect",
        "lent_at",
        "number",
        "site",
        "state",
        "uses",
        "value",
    )

    begun_at: float
    expires_at: float
    has_begun: bool
    idle_since: float
    is_leak_told: bool
    is_obsolete: bool
    is_suspect: bool
    lent_at: float
    number: int
    uses: int
    value: T

    def __init__(self, stock: Stock[T], number: int, now: float) -> None:
        self.number = number
        self.begun_at = now
        self.uses = 0
        self.state: State = "creating"
        self.idle_since = self.lent_at = 0.0
        self.expires_at = math.inf
        self.is_suspect = self.is_obsolete = self.is_leak_told = self.has_begun = False
        self.holder: object = None
        self.site: tuple[Any, int] = _NO_CALLER
        self._stock = stock
        self._manager: Manager | None = None
        self._order: Order | None = None
        self._ordered = anyio.Event()
        self._latest = math.inf
        self._scope = self._bound = anyio.CancelScope(shield=True)

    def is_lent(self, use: int) -> bool:
        """Whether it is in that use still."""
        return self.state == "in use" and self.uses == use

    @property
    def has_value(self) -> bool:
        """Whether it has been created."""
        return hasattr(self, "value")

    @property
    def task_name(self) -> str:
        """The name of the task."""
        return f"{self._stock.settings.name} #{self.number} of {self._stock.owner.path}"

    # ------------------------------------------------------------------ orders, from the stock

    def obey(self, order: Order) -> None:
        """Do this next."""
        self._order = order
        self._ordered.set()

    def hurry(self, deadline: float) -> None:
        """What is under way, or has been ordered, must end by then; its destruction has a time of its own."""
        self._latest = deadline
        if self.state == "creating" or self._bound is not self._scope:
            self._bound.deadline = min(self._bound.deadline, deadline)

    def cut_off(self, now: float) -> None:
        """What is under way must end now."""
        self.hurry(now)
        if self.state == "destroying" and self._order is None:
            self._scope.deadline = min(self._scope.deadline, now)

    # ------------------------------------------------------------------ the life of it

    async def live(self) -> None:
        """The task."""
        self.has_begun = True
        if self.state == "gone":
            return  # taken for lost
        if not self._stock.is_wanted():
            self._stock.forget(self)
            return
        stand_in(ItemPlace(self._stock.owner))
        error: Exception | None = None
        try:
            with self._scope:
                await self._live()
        except BaseException as raised:  # noqa: ASYNC103  told to the stock
            error = self._understood(raised)
        is_cut = self._scope.cancelled_caught or (self._scope.cancel_called and self.state == "creating")
        if error is None and is_cut:
            error = self._overrun()
        self._stock.has_ended(self, error)

    async def _live(self) -> None:
        settings = self._stock.settings
        self._scope.deadline = self._stock.now() + settings.create_timeout
        await self._create()
        if self._scope.cancel_called:
            await self._destroy_too_late()
            return
        self._scope.deadline = math.inf
        self._stock.has_created(self)
        while (order := await self._next_order()) != "destroy":
            self._stock.has_refreshed(self, order, await self._refresh(order))
        self._scope.deadline = self._stock.now() + self._stock.patience
        await self._destroy()

    async def _create(self) -> None:
        settings = self._stock.settings
        made = settings.create()
        manager = self_evident_manager(made)
        if manager is None and inspect.isawaitable(made):
            made = await made
            manager = self_evident_manager(made)
        if manager is None and settings.destroy is None and _closer_of(made) is None:
            manager = as_manager(made)
        self.value = made if manager is None else await manager.__aenter__()
        self._manager = manager

    async def _destroy(self) -> None:
        if self._manager is not None:
            await self._manager.__aexit__(None, None, None)
            return
        destroy = self._stock.settings.destroy
        if destroy is not None:
            ended: Any = destroy(self.value)
        else:
            close = _closer_of(self.value)
            ended = None if close is None else close()
        if inspect.isawaitable(ended):
            await ended

    async def _destroy_too_late(self) -> None:
        """It came into being in the very moment in which its time was over."""
        if self._manager is not None:
            await self._destroy()  # no scope can be put around that, see the top
            return
        with anyio.move_on_after(self._stock.patience, shield=True):
            await self._destroy()

    async def _refresh(self, order: Order) -> Exception | None:
        """Check or reset it; gives why it is not fit to be lent again."""
        settings = self._stock.settings
        function = settings.check if order == "check" else settings.reset
        assert function is not None
        bound = settings.create_timeout if order == "check" else self._stock.patience
        answer: Any = False
        try:
            deadline = min(self._stock.now() + bound, self._latest)
            with anyio.CancelScope(deadline=deadline) as self._bound:
                answer = function(self.value)
                if inspect.isawaitable(answer):
                    answer = await answer
                return ValueError(f"{order} gave False") if answer is False else None
        except BaseException as raised:  # noqa: ASYNC103
            return self._understood(raised)  # noqa: ASYNC104  told to the stock
        finally:
            self._bound = self._scope
        return self._overrun()

    async def _next_order(self) -> Order:
        """Wait for one; nothing else makes a resource act that nobody uses, not even a native cancellation.

        But where the scope was never left, nobody will order anything: the event loop ends, and so does the resource.
        """
        while self._order is None:
            with suppress(anyio.get_cancelled_exc_class()):  # noqa: ASYNC118  used at once
                await self._ordered.wait()
            if self._stock.owner.is_forsaken:
                return "destroy"
        order, self._order = self._order, None
        self._ordered = anyio.Event()
        return order

    def _understood(self, raised: BaseException) -> Exception:
        end = sort_out(raised)
        if end.fatal is not None:
            self._stock.owner.end_for(end.fatal)
            return RuntimeError(f"ended by {type(end.fatal).__name__}")
        if end.error is not None:
            return end.error
        return self._overrun() if self._bound.cancel_called else RuntimeError("cancelled natively")

    def _overrun(self) -> TimeoutError:
        return TimeoutError(f"{self.state} took too long")


def _closer_of(value: object) -> Callable[[], Any] | None:
    """What closes a resource by default."""
    close: Any = getattr(value, "aclose", None) or getattr(value, "close", None)
    return close if callable(close) else None
