"""Asking a pool for a resource: `await pool.acquire()`, or `async with pool.acquire() as it`."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from anyio.lowlevel import checkpoint

from ..._lifetime.ending import leaves_of
from ..._vocabulary.errors import PoolClosed, PoolMisuse
from .numbers import place_of

if TYPE_CHECKING:
    from types import TracebackType

    from .item import Item
    from .stock import Stock
    from .waiter import Waiter

T = TypeVar("T")


class Acquire(Awaitable[T], Generic[T]):
    """What `pool.acquire()` gives: await it, or enter it with `async with`, which gives the resource back too.

    Args:
        stock: The stock of the pool.
        limit: The seconds to wait at most.
        site: The code that asks, and the offset of the instruction in it.

    Example:
        >>> import anyio
        >>> from anyscope import Pool
        >>> async def main():
        ...     async with Pool(list, name="lists") as pool:
        ...         asking = pool.acquire(timeout=5)
        ...         async with asking:
        ...             print(repr(asking).partition(", asked")[0])
        >>> anyio.run(main)
        <Acquire of pool lists, entered

    Attributes:
        _is_entered: Whether a block with it is waited for or open.
        _item: What the block has.
        _use: Which use of that it is.
    """

    __slots__ = ("_is_entered", "_item", "_limit", "_site", "_stock", "_use")

    def __init__(self, stock: Stock[T], limit: float, site: tuple[Any, int]) -> None:
        self._stock = stock
        self._limit = limit
        self._site = site
        self._is_entered = False
        self._item: Item[T] | None = None
        self._use = 0

    def __repr__(self) -> str:
        state = "entered, " if self._is_entered else ""
        return f"<Acquire of pool {self._stock.label}, {state}asked for at {place_of(self._site)}>"

    def __await__(self) -> Generator[Any, Any, T]:
        item = yield from acquire(self._stock, self._limit, self._site).__await__()
        return item.value

    async def __aenter__(self) -> T:
        if self._is_entered:
            raise PoolMisuse(
                pool=self._stock.label,
                problem="what one acquire() gave was entered twice",
                remedy="Right: async with pool.acquire() as it: ...   anew for each resource",
            )
        self._is_entered = True
        try:
            item = await acquire(self._stock, self._limit, self._site)
        except BaseException:
            self._is_entered = False
            raise
        self._item, self._use = item, item.uses
        return item.value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        item, self._item = self._item, None
        self._is_entered = False
        assert item is not None
        if not item.is_lent(self._use):
            return  # it was given back in the block
        if error is None:
            self._stock.give_back(item, used=True)
        else:
            end_failed_use(self._stock, item, error)


async def acquire(stock: Stock[T], limit: float, site: tuple[Any, int]) -> Item[T]:
    """Get a resource, at once or in turn."""
    if stock.is_closed:
        raise PoolClosed(pool=stock.label, action="acquire()")
    now = stock.now()
    item = stock.take(site, now)
    if item is None:
        waiter = stock.enqueue(site, limit, now)
        try:
            await waiter.ready
        except BaseException:
            stock.withdraw(waiter)
            raise
        return waiter.item or raise_error_of(waiter)
    use = item.uses
    try:
        await checkpoint()
    except BaseException:
        stock.tally.count("cancelled", "cancelled")
        stock.give_back_unused(item, use)
        raise
    return item


def raise_error_of(waiter: Waiter[Any]) -> NoReturn:
    """Raise it, and let nothing that its traceback leads to lead back to it."""
    error, waiter.error = waiter.error, None
    assert error is not None
    try:
        raise error
    finally:
        del error


def end_failed_use(stock: Stock[T], item: Item[T], error: BaseException) -> None:
    """An error has left a block with a resource: keep it, have it reset, or discard it (P8)."""
    if any(isinstance(leaf, stock.settings.discard_on) for leaf in leaves_of(error)):
        stock.discard(item, "error")
    elif isinstance(error, Exception):
        item.is_suspect = True
        stock.give_back(item, used=True)
    elif stock.settings.reset is not None:
        stock.give_back(item, used=True)
    else:
        stock.discard(item, "cancelled")
