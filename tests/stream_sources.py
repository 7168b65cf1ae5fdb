"""What the tests of stream operators share: sources that count, and every operator with what it should give."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Scope, Stream, scope


class Broken(Exception):
    """What a source, or a function, raises."""


class Source:
    """An async iterator that counts, and watches how it is used.

    Args:
        items: What it gives; may be endless.
        error: What it raises after them.
        delay: Seconds before each item; `None` for none, not even a checkpoint.
        hangs: Whether it waits for ever after the items.
        closing: Seconds that closing takes.
        close_error: What closing raises.

    Attributes:
        pulls: How many items it was asked for.
        given: How many it gave.
        closes: How often its closing was begun.
        closed: How often that came to its end.
    """

    def __init__(
        self,
        items: Iterable[Any] = (),
        *,
        error: Exception | None = None,
        delay: float | None = 0.0,
        hangs: bool = False,
        closing: float = 0.0,
        close_error: Exception | None = None,
    ) -> None:
        self._items = iter(items)
        self._error = error
        self._delay = delay
        self._hangs = hangs
        self._closing = closing
        self._close_error = close_error
        self._is_in_step = False
        self.pulls = self.given = self.closes = self.closed = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        assert not self.closes, "read after it was closed"
        assert not self._is_in_step, "read by two at a time"
        self.pulls += 1
        self._is_in_step = True
        try:
            if self._delay is not None:
                await anyio.sleep(self._delay)
            for item in self._items:
                self.given += 1
                return item
            if self._hangs:
                await anyio.sleep_forever()
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        finally:
            self._is_in_step = False

    async def aclose(self) -> None:
        """Close it."""
        assert not self._is_in_step, "closed in the middle of a step"
        self.closes += 1
        await anyio.sleep(self._closing)
        self.closed += 1
        if self._close_error is not None:
            raise self._close_error


def endless(**options: Any) -> Source:
    """Numbers from 0 on."""
    return Source(itertools.count(), **options)


class Double:
    """A callable object."""

    def __call__(self, number: int) -> int:
        """Twice the number."""
        return 2 * number


class DoubleLater:
    """A callable object whose call is async."""

    async def __call__(self, number: int) -> int:
        """Twice the number."""
        await checkpoint()
        return 2 * number


async def double_later(number: int) -> int:
    """Twice the number."""
    await checkpoint()
    return 2 * number


async def times(factor: int, number: int) -> int:
    """A multiple of the number."""
    await checkpoint()
    return factor * number


DOUBLES: dict[str, Callable[[int], Any]] = {
    "plain": lambda number: 2 * number,
    "async": double_later,
    "lambda of a coroutine": lambda number: double_later(number),
    "partial": functools.partial(times, 2),
    "object": Double(),
    "async object": DoubleLater(),
    "builtin": (2).__mul__,
}


@dataclass(frozen=True)
class Operator:
    """An operator, and what it makes of a list.

    Attributes:
        apply: Applies it.
        model: The same for a list.
        ahead: How many items it may have asked its source for beyond those that a reader of `k` items needs.
        needs: How many items of the source the first item of the result needs.
    """

    apply: Callable[[Stream[Any]], Stream[Any]]
    model: Callable[[list[Any]], list[Any]]
    ahead: int = 0
    needs: int = 1


def _pairs(items: list[Any]) -> list[Any]:
    return list(itertools.pairwise(items))


def _batches(items: list[Any]) -> list[Any]:
    return [items[at : at + 2] for at in range(0, len(items), 2)]


def _same(items: list[Any]) -> list[Any]:
    return items


def _doubled(items: list[Any]) -> list[Any]:
    return [2 * item for item in items]


OPERATORS: dict[str, Operator] = {
    "map": Operator(lambda s: s.map(lambda x: 2 * x), _doubled),
    "map async": Operator(lambda s: s.map(double_later), _doubled),
    "map 2 at once": Operator(lambda s: s.map(double_later, concurrency=2), _doubled, ahead=4),
    "map 2 at once unordered": Operator(lambda s: s.map(double_later, concurrency=2, ordered=False), _doubled, ahead=4),
    "filter": Operator(lambda s: s.filter(lambda x: x % 2 == 0), lambda items: [x for x in items if x % 2 == 0]),
    "tap": Operator(lambda s: s.tap(lambda _: None), _same),
    "flat_map": Operator(lambda s: s.flat_map(lambda x: [x, x]), lambda items: [x for x in items for _ in range(2)]),
    "scan": Operator(lambda s: s.scan(lambda a, b: a + b, 0), lambda items: list(itertools.accumulate(items))),
    "enumerate": Operator(lambda s: s.enumerate(1), lambda items: list(enumerate(items, 1))),
    "pairwise": Operator(lambda s: s.pairwise(), _pairs, needs=2),
    "take": Operator(lambda s: s.take(3), lambda items: items[:3]),
    "take_while": Operator(
        lambda s: s.take_while(lambda x: x < 3), lambda items: list(itertools.takewhile(lambda x: x < 3, items))
    ),
    "skip": Operator(lambda s: s.skip(1), lambda items: items[1:], needs=2),
    "skip_while": Operator(
        lambda s: s.skip_while(lambda x: x < 1),
        lambda items: list(itertools.dropwhile(lambda x: x < 1, items)),
        needs=2,
    ),
    "distinct": Operator(lambda s: s.distinct(), lambda items: list(dict.fromkeys(items))),
    "batch": Operator(lambda s: s.batch(2), _batches, needs=2),
    "batch within": Operator(lambda s: s.batch(2, within=5), _batches, ahead=2, needs=2),
    "buffer": Operator(lambda s: s.buffer(2), _same, ahead=2),
    "buffer drop_newest": Operator(lambda s: s.buffer(100, overflow="drop_newest"), _same, ahead=1000),
    "buffer drop_oldest": Operator(lambda s: s.buffer(100, overflow="drop_oldest"), _same, ahead=1000),
    "throttle": Operator(lambda s: s.throttle(100, per=0.01), _same),
    "debounce": Operator(lambda s: s.debounce(0.01), lambda items: items[-1:], ahead=1000, needs=1),
    "timeout": Operator(lambda s: s.timeout(5), _same),
    "catch": Operator(lambda s: s.catch(lambda _: None, on=LookupError), _same),
    "merge": Operator(lambda s: s.merge(buffer=1), _same, ahead=1),
    "zip": Operator(lambda s: s.zip(itertools.count()), lambda items: list(zip(items, range(99), strict=False))),
    "chain": Operator(lambda s: s.chain([]), _same),
    "broadcast": Operator(lambda s: s.broadcast(1, buffer=1)[0], _same, ahead=1),
}


@asynccontextmanager
async def opened(source: object, **options: Any) -> AsyncIterator[tuple[Scope, Stream[Any]]]:
    """A scope, and a stream in it."""
    async with scope(name="app") as s:
        yield s, s.stream(source, **options)


async def turns(count: int = 10) -> None:
    """Let others run."""
    for _ in range(count):
        await checkpoint()
