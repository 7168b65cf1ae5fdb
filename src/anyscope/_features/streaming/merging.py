"""Several sources at once into one stream, and one source into several."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..._lifetime.place import stand_in
from ..._lifetime.start import Start
from ..._vocabulary.notes import add_note
from .closing import StreamPlace
from .handoff import Handoff

if TYPE_CHECKING:
    from .buffer import Overflow
    from .line import Line, Make

T = TypeVar("T")

Halt: TypeAlias = Literal["all", "any"]


class Merged(Handoff[Any]):
    """The items of several sources as they come, each source in a task of its own.

    Each has at most one item in hand for which there is no room yet, so a slow source holds up no other one.

    Args:
        line: The line that this is a link of.
        makes: Make what it reads from.
        most: How many items may lie here.
        halt: Whether it ends with the last source or with the first that ends.

    Attributes:
        _sources: The sources, each with the line that holds what it is made of.
        _ended: How many of them have ended.
        _first: The first error.
    """

    __slots__ = ("_ended", "_first", "_group", "_halt", "_sources")

    def __init__(self, line: Line, makes: tuple[Make, ...], most: int, halt: Halt) -> None:
        super().__init__(line, "merge", most)
        parts = [self.line.add(self.line.part()) for _ in makes]
        self._sources: list[tuple[Line, AsyncIterator[Any]]] = [
            (part, make(part)) for make, part in zip(makes, parts, strict=True)
        ]
        self._halt: Halt = halt
        self._ended = 0
        self._first: Exception | None = None
        self._group = anyio.create_task_group()

    async def work(self) -> None:
        """Read all of them."""
        async with self._group:
            for part, source in self._sources:
                begin = functools.partial(self._read, part, source)
                self._group.create_task(Start(begin), name=self.worker_name)
        if self._first is not None:
            try:
                raise self._first
            finally:
                self._first = None  # no cycle through its frames
        if self._ended < (len(self._sources) if self._halt == "all" else 1):
            raise self.cut_off("a task of it was cancelled natively")

    async def _read(self, part: Line, source: AsyncIterator[Any]) -> None:
        stand_in(StreamPlace(self.owner))
        bound = self.owner.close_timeout
        # Entered before the first step, for one around the closing would lie across scopes that the source holds open.
        with anyio.CancelScope() as closing:
            try:
                await self._pass_on(source)
            except Exception as error:
                self._fail_with(error)
            finally:
                closing.shield = True
                closing.deadline = math.inf if bound is None else anyio.current_time() + bound
                await self._close(part)  # noqa: ASYNC102  shielded by the scope around it

    async def _close(self, part: Line) -> None:
        try:
            await part.aclose()
        except Exception as error:
            self._fail_with(error)

    async def _pass_on(self, source: AsyncIterator[Any]) -> None:
        step, ready, most = source.__anext__, self.ready, self.most
        in_a_row = 0
        while True:
            if len(ready) >= most:
                await self.until_wanted()
                in_a_row = 0
            try:
                item = await step()
            except StopAsyncIteration:
                self._ended += 1
                if self._halt == "any":
                    self._group.cancel_scope.cancel()
                return
            self.put(item)
            in_a_row += 1
            if in_a_row == most:  # a source that never waits must not keep all room for itself
                in_a_row = 0
                await checkpoint()

    def _fail_with(self, error: Exception) -> None:
        if self._first is None:
            self._first = error
        else:
            add_note(self._first, f"{type(error).__name__} of another source at that moment: {error}")
        self._group.cancel_scope.cancel()


class Fan(Handoff[Any]):
    """Reads one source for several readers.

    Args:
        line: The line of the first reader.
        make: Makes what it reads from.
        count: How many readers.
        most: How many items may lie ready for each.
        overflow: What becomes of an item for which a reader has no room.

    Attributes:
        outlets: The readers that have not closed.
    """

    __slots__ = ("_overflow", "_source", "outlets")

    def __init__(self, line: Line, make: Make, count: int, most: int, overflow: Overflow) -> None:
        super().__init__(line, "broadcast", most)
        self._source: AsyncIterator[Any] = make(self.line)
        self._overflow: Overflow = overflow
        self.outlets: list[Outlet[Any]] = [Outlet(self) for _ in range(count)]

    @property
    def is_wanted(self) -> bool:
        """Whether there is room for one more item."""
        return self._overflow != "wait" or all(len(outlet.ready) < self.most for outlet in self.outlets)

    async def work(self) -> None:
        """Read on."""
        while True:
            await self.until_wanted()
            try:
                item = await self._source.__anext__()
            except StopAsyncIteration:
                return
            for outlet in self.outlets:
                self._offer(outlet.ready, item)
            self.tell()
            await checkpoint()

    def _offer(self, ready: deque[Any], item: Any) -> None:
        if len(ready) >= self.most:
            if self._overflow == "drop_newest":
                return
            ready.popleft()
        ready.append(item)

    async def until_more(self, ready: deque[Any]) -> None:
        """Wait until `ready` holds something.

        Raises:
            StopAsyncIteration: The source has ended.
            Exception: It has failed.
        """
        while not ready:
            await self.until_news_or_end()

    async def leave(self, outlet: Outlet[Any]) -> None:
        """A reader reads no more; with the last one the source is closed."""
        if outlet in self.outlets:
            self.outlets.remove(outlet)
            self.make_room()
        if not self.outlets:
            await self.aclose()


class Outlet(AsyncIterator[T]):
    """One reader of a `Fan`.

    Args:
        fan: The fan.

    Attributes:
        ready: Items for this reader.
    """

    __slots__ = ("_fan", "ready")

    def __init__(self, fan: Fan) -> None:
        self._fan = fan
        self.ready: deque[T] = deque()

    async def __anext__(self) -> T:
        await self._fan.until_more(self.ready)
        item = self.ready.popleft()
        self._fan.make_room()
        return item

    async def aclose(self) -> None:
        """Read no more."""
        self.ready.clear()
        await self._fan.leave(self)
