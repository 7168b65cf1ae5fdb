"""A place in the queue of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .item import Item

T = TypeVar("T")


class Waiter(Generic[T]):
    """A place in the queue.

    Attributes:
        since: When it began to wait.
        deadline: When it has waited in vain.
        limit: The seconds that were given.
        item: What was delivered. Written by the stock, like the next one.
        use: Which use of that it is.
        error: Why nothing will be.
        ready: Set with either.
        holder: The native task that waits.
        site: The code where it asked, and the offset of the instruction.
    """

    __slots__ = ("deadline", "error", "holder", "item", "limit", "ready", "since", "site", "use")

    deadline: float
    holder: object
    limit: float
    ready: Awaitable[None]
    since: float
    site: tuple[Any, int]
    use: int

    def __init__(
        self, since: float, limit: float, site: tuple[Any, int], holder: object, ready: Awaitable[None]
    ) -> None:
        self.since = since
        self.deadline = since + limit
        self.limit = limit
        self.item: Item[T] | None = None
        self.use = 0
        self.error: Exception | None = None
        self.ready = ready
        self.holder = holder
        self.site = site
