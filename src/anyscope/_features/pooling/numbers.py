"""What a pool tells of itself: its numbers, who holds what, and what is lent for too long."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import anyio

from ..._vocabulary.errors import PoolTimeout
from ..._vocabulary.pools import PoolStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .item import Item
    from .stock import Stock

logger = logging.getLogger("anyscope")


def statistics_of(stock: Stock[Any]) -> PoolStats:
    """The numbers, as they are now."""
    states, counts = stock.states, stock.tally.counts
    recycling = states["checking"] + states["resetting"]
    return PoolStats(
        total=states["idle"] + states["in use"] + recycling,
        available=states["idle"],
        in_use=states["in use"],
        recycling=recycling,
        creating=states["creating"],
        destroying=states["destroying"],
        waiting=max(len(stock.waiters) - states["checking"], 0),
        min=stock.min,
        max=stock.max,
        acquired=counts["acquired"],
        waited=counts["waited"],
        timeouts=counts["timeouts"],
        rejected=counts["rejected"],
        cancelled=counts["cancelled"],
        created=counts["created"],
        create_errors=counts["create_errors"],
        destroyed=counts["destroyed"],
        destroy_errors=counts["destroy_errors"],
        discarded=dict(stock.tally.discarded),
        leaks=stock.leaks.count,
        last_error=stock.tally.last_error,
    )


def timeout_of(stock: Stock[Any], limit: float, holder: object) -> PoolTimeout:
    """The error for who has waited in vain."""
    held = sum(item.holder is holder for item in stock.items)
    error = PoolTimeout(pool=stock.label, limit=limit, stats=statistics_of(stock), held=held)
    error.__cause__ = stock.create_error
    return error


class Leaks:
    """Tells of what is lent for too long, once, and of its return.

    Args:
        label: What messages call the pool.
        after: How long is too long, in seconds.

    Attributes:
        count: How many there have been.
    """

    count: int

    def __init__(self, label: str, after: float) -> None:
        self.count = 0
        self._label = label
        self._after = after

    def tell(self, items: Iterable[Item[Any]], now: float) -> float:
        """Tell of those that are due; gives when the next one will be."""
        due = math.inf
        if self._after == math.inf:
            return due
        for item in items:
            if item.state != "in use" or item.is_leak_told:
                continue
            if item.lent_at + self._after > now:
                due = min(due, item.lent_at + self._after)
                continue
            item.is_leak_told = True
            self.count += 1
            logger.warning("pool %s: lent for more than %g s, %s", self._label, self._after, described(item, now))
        return due

    def end(self, item: Item[Any]) -> None:
        """One that was told of is given back."""
        item.is_leak_told = False
        held = anyio.current_time() - item.lent_at
        logger.warning("pool %s: returned after %.3g s, acquired at %s", self._label, held, place_of(item.site))


def described(item: Item[Any], now: float) -> str:
    """Who has it, since when, and where it was acquired."""
    name = getattr(item.holder, "name", None) or getattr(item.holder, "get_name", lambda: "?")()
    return f"held by task {name} for {now - item.lent_at:.3g} s, acquired at {place_of(item.site)}"


def place_of(site: tuple[Any, int]) -> str:
    """A line of code, such as `app.py:12 in main`."""
    code = site[0]
    return "?" if code is None else f"{code.co_filename.rpartition('/')[2]}:{line_of(site)} in {code.co_name}"


def line_of(site: tuple[Any, int]) -> int:
    """The number of the line: searched for only when it is told, which costs more the longer the function is."""
    code, offset = site
    lines: Iterable[tuple[int, int, int | None]] = code.co_lines()
    return next(line for start, end, line in lines if start <= offset < end and line is not None)
