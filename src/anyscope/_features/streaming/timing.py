"""Time-outs and rates: how long to wait for items, how many of them in a time, how long they must be quiet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..._vocabulary.errors import StreamTimeout
from .buffer import Buffer
from .handoff import Handoff
from .line import Link, is_over
from .stepping import CUT, HoldsScopeError, holds_scope, step_within

if TYPE_CHECKING:
    from .buffer import Overflow
    from .line import Line, Make

T = TypeVar("T")

CERTAIN = 16
"""How many items a debounced source may be ahead of its reader, not counting the one that may yet be replaced."""


class Timed(Link, AsyncIterator[T]):
    """Bounds the wait for items, each and all together; the time that the reader takes in between does not count.

    A scope around each single step, and none in between. A step that is cut ends a generator; the time-out is then
    raised again at each further step, for the end would look like that of the source.

    Args:
        line: The line that this is a link of.
        make: Makes what it reads from.
        total: Seconds for all items together, or `None`.
        per_item: Seconds for each item, or `None`.
        survives: Whether what it reads from outlives a step that is cut.

    Attributes:
        _left: Seconds that are left of `total`.
        _error: What each further step raises.
    """

    __slots__ = ("_error", "_label", "_left", "_line", "_per_item", "_source", "_survives", "_total")

    def __init__(self, line: Line, make: Make, *, total: float | None, per_item: float | None, survives: bool) -> None:
        self._line: Line = line.part()
        self._source: AsyncIterator[T] = make(self._line)
        self._label = line.label
        self._total = math.inf if total is None else total
        self._per_item = math.inf if per_item is None else per_item
        self._left = self._total
        self._survives = survives
        self._error: StreamTimeout | None = None

    async def __anext__(self) -> T:
        if self._error is not None:
            raise self._error.with_traceback(None)
        began = anyio.current_time()
        limit = min(self._left, self._per_item)
        try:
            item = await step_within(anyio.CancelScope(deadline=began + limit), self._source.__anext__)
        except HoldsScopeError as held:
            return await self._refuse(held)
        self._left -= anyio.current_time() - began
        if item is not CUT:
            return item
        raise self._overrun(per_item=limit == self._per_item)

    def _overrun(self, *, per_item: bool) -> StreamTimeout:
        limit = self._per_item if per_item else self._total
        error = StreamTimeout(stream=self._label, limit=limit, per_item=per_item)
        if not (self._survives and per_item):
            self._error = error
        return error

    async def _refuse(self, held: HoldsScopeError) -> T:
        """Close the source while its scope is the innermost one: ours can be left only then."""
        try:
            await self._line.aclose()
        finally:
            held.leave()
        path = self._line.owner.path
        raise holds_scope(path, self._label.removesuffix(f" of {path}")) from None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of what it reads from is left to be closed."""
        return self._line.has_ended

    def interrupt(self, why: Exception) -> None:
        """Interrupt what it reads from."""
        self._line.interrupt(why)

    async def aclose(self) -> None:
        """Close what it reads from."""
        await self._line.aclose()


class Throttled(Link, AsyncIterator[T]):
    """At most `count` items in any `per` seconds; those that come too early wait.

    Args:
        source: What it reads from.
        count: How many items.
        per: In how many seconds.

    Attributes:
        _given: When the last `count` items were given.
        _waiting: The item that is too early, in a list; kept here, for the reader may be cut off.
        _is_stepping: Whether somebody waits for an item, or with one for its time.
    """

    __slots__ = ("_count", "_given", "_is_stepping", "_per", "_source", "_waiting")

    def __init__(self, source: AsyncIterator[T], count: int, per: float) -> None:
        self._source = source
        self._count = count
        self._per = per
        self._given: deque[float] = deque(maxlen=count)
        self._waiting: list[T] = []
        self._is_stepping = False

    async def __anext__(self) -> T:
        self._is_stepping = True
        try:
            if not self._waiting:
                self._waiting.append(await self._source.__anext__())
            await self._until_its_time()
        finally:
            self._is_stepping = False
        self._given.append(anyio.current_time())
        return self._waiting.pop()

    async def _until_its_time(self) -> None:
        if len(self._given) == self._count:
            wait = self._given[0] + self._per - anyio.current_time()
            if wait > 0:
                await anyio.sleep(wait)

    @property
    def has_ended(self) -> bool:
        """Whether it can give nothing more."""
        return not self._waiting and is_over(self._source)

    @property
    def is_running(self) -> bool:
        """Whether a reader waits for an item, or for its time."""
        return self._is_stepping


class Stamped(Buffer[tuple[float, T]]):
    """Reads in a task of its own, and notes when each item came."""

    __slots__ = ()

    def __init__(self, line: Line, make: Make, most: int, overflow: Overflow = "wait") -> None:
        super().__init__(line, lambda part: part.add(_stamped(make(part))), most, overflow)


async def _stamped(source: AsyncIterator[T]) -> AsyncIterator[tuple[float, T]]:
    async for item in source:
        yield anyio.current_time(), item


class Batched(Link, AsyncIterator[list[T]]):
    """Batches of at most `size` items, given when they are full, or `within` seconds after their first item came.

    Args:
        source: What it reads from.
        size: How many items a batch holds at most.
        within: Seconds after its first item in which a batch is given at the latest, if somebody waits for it.

    Attributes:
        _batch: What was taken and not given yet; kept here, for the reader may be cut off.
        _due: When it has to be given.
    """

    __slots__ = ("_batch", "_due", "_size", "_source", "_within")

    def __init__(self, source: Stamped[T], size: int, within: float) -> None:
        self._source = source
        self._size = size
        self._within = within
        self._batch: list[T] = []
        self._due = math.inf

    async def __anext__(self) -> list[T]:
        while len(self._batch) < self._size:
            if not self._batch:
                came, item = await self._source.__anext__()
                self._due = came + self._within
                self._batch.append(item)
            elif not await self._add_one():
                break
        batch, self._batch = self._batch, []
        return batch

    @property
    def has_ended(self) -> bool:
        """Whether it can give nothing more."""
        return not self._batch and is_over(self._source)

    async def _add_one(self) -> bool:
        """Whether one more came in time; the end and an error come after what is there."""
        if not await self._source.until_ready(self._due):
            return False
        self._batch.append(self._source.take()[1])
        return True


class Debounced(Handoff["tuple[float, T]"]):
    """Gives an item when none has followed it for `quiet` seconds, and the last one at the end.

    What follows what is decided by the task that reads, when it reads: a reader that is slow, or is cut off, changes
    nothing. Of the items that lie here all but the newest are certain, and that one is when it has lain long enough.

    Args:
        line: The line that this is a link of.
        make: Makes what it reads from.
        quiet: The seconds.
    """

    __slots__ = ("_quiet", "_source")

    def __init__(self, line: Line, make: Make, quiet: float) -> None:
        super().__init__(line, "debounce", CERTAIN + 1)
        self._source: AsyncIterator[T] = make(self.line)
        self._quiet = quiet

    async def work(self) -> None:
        """Read on."""
        step, ready = self._source.__anext__, self.ready
        while True:
            await self.until_wanted()
            try:
                item = await step()
            except StopAsyncIteration:
                return
            now = anyio.current_time()
            if ready and now < ready[-1][0] + self._quiet:
                ready[-1] = now, item
            else:
                self.put((now, item))
            await checkpoint()  # a source that never waits would let nobody else run

    async def until_settled(self) -> None:
        """Wait until the oldest item that lies here is certain.

        Raises:
            StopAsyncIteration: The source has ended.
            Exception: It has failed.
        """
        while not self.ready:
            await self.until_news_or_end()
        while not self.is_over:
            due = self.ready[0][0] + self._quiet
            if anyio.current_time() >= due:
                return
            await self.until_news(due)


class Settled(Link, AsyncIterator[T]):
    """The items of a `Debounced`, without the times."""

    __slots__ = ("_source",)

    def __init__(self, source: Debounced[T]) -> None:
        self._source = source

    async def __anext__(self) -> T:
        await self._source.until_settled()
        return self._source.take()[1]

    @property
    def has_ended(self) -> bool:
        """Whether it can give nothing more."""
        return is_over(self._source)
