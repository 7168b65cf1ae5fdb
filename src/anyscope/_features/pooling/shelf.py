"""The idle resources of a pool: which of them to lend next, and which nobody needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from ..._vocabulary.pools import PoolSettings
    from .item import Item

T = TypeVar("T")


class Shelf(Generic[T]):
    """Idle resources; last in, first out, so that what is not needed gets old.

    Args:
        settings: The options of the pool.

    Attributes:
        _items: The one that was used last is at the end.
    """

    __slots__ = ("_items", "_settings")

    def __init__(self, settings: PoolSettings) -> None:
        self._items: list[Item[T]] = []
        self._settings = settings

    def __len__(self) -> int:
        return len(self._items)

    def must_be_checked(self, item: Item[T], now: float) -> bool:
        """Whether it is not to be lent unchecked."""
        if self._settings.check is None:
            return False
        return item.is_suspect or now - item.idle_since >= self._settings.check_after

    def push(self, item: Item[T], now: float) -> float:
        """Keep it; gives when it will be looked at, if nobody wants it before."""
        self._items.append(item)
        return min(item.expires_at, now + self._settings.max_idle)

    def pop(self, now: float) -> Item[T] | None:
        """The last one used that can be lent unchecked, or else the last one used; it may be too old."""
        if not self._items:
            return None
        item = self._items.pop()
        return self._swap_for_fit(item, now) if self.must_be_checked(item, now) else item

    def _swap_for_fit(self, unfit: Item[T], now: float) -> Item[T]:
        """One further down that can be lent unchecked, if there is one."""
        for index in range(len(self._items) - 1, -1, -1):
            item = self._items[index]
            if item.expires_at > now and not self.must_be_checked(item, now):
                self._items[index:] = [*self._items[index + 1 :], unfit]
                return item
        return unfit

    def pop_oldest(self) -> Item[T]:
        """The one that nobody has used for longest."""
        return self._items.pop(0)

    def pop_expired(self, now: float) -> list[Item[T]]:
        """All that are too old."""
        expired = [item for item in self._items if item.expires_at <= now]
        for item in expired:
            self._items.remove(item)
        return expired

    def clear(self) -> list[Item[T]]:
        """All of them."""
        items, self._items = self._items, []
        return items

    def expires_at(self) -> float:
        """When the first one will be too old."""
        return min((item.expires_at for item in self._items), default=math.inf)

    def unneeded_at(self) -> float:
        """When nobody will have needed the oldest one for `max_idle`."""
        return self._items[0].idle_since + self._settings.max_idle if self._items else math.inf
