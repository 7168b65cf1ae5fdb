"""Several sources at once into one stream, and one source into several."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..._lifetime.cleanup import shield_closing
from ..._vocabulary.errors import CloseTimeout
from .buffer import make_place
from .handoff import Handoff
from .line import Link
from .team import Team

if TYPE_CHECKING:
    from .buffer import Overflow
    from .line import Line, Make, Recipe

T = TypeVar("T")

Halt: TypeAlias = Literal["all", "any"]


class Merged(Team[Any]):
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
    """

    __slots__ = ("_ended", "_halt", "_sources")

    def __init__(self, line: Line, makes: tuple[Make, ...], most: int, halt: Halt) -> None:
        super().__init__(line, "merge", most, "source")
        parts = [self.line.add(self.line.part()) for _ in makes]
        self._sources: list[tuple[Line, AsyncIterator[Any]]] = [
            (part, make(part)) for make, part in zip(makes, parts, strict=True)
        ]
        self._halt: Halt = halt
        self._ended = 0

    @property
    def is_complete(self) -> bool:
        """Whether as many sources have ended as had to."""
        return self._ended >= (len(self._sources) if self._halt == "all" else 1)

    def begin(self) -> None:
        """Read all of them."""
        for part, source in self._sources:
            _ = self.start(functools.partial(self._read, part, source))

    async def _read(self, part: Line, source: AsyncIterator[Any]) -> None:
        bound = self.owner.close_timeout
        # Entered before the first step, for one around the closing would lie across scopes that the source holds open.
        closing = anyio.CancelScope()
        try:
            with closing:
                try:
                    await self._pass_on(source)
                except Exception as error:
                    self._fail_with(error)
                finally:
                    shield_closing(closing, bound)
                    await self._close(part)  # noqa: ASYNC102  shielded by the scope around it
        finally:
            # Not `cancelled_caught`: on asyncio a scope catches nothing if one around it was cancelled before.
            if closing.cancel_called:
                assert bound is not None
                self._fail_with(CloseTimeout(path=self.owner.path, step=f"merge of {self.line.label}", limit=bound))

    async def _close(self, part: Line) -> None:
        try:
            await part.aclose()
        except Exception as error:
            self._fail_with(error)

    async def _pass_on(self, source: AsyncIterator[Any]) -> None:
        step, share = source.__anext__, max(1, self.most // len(self._sources))
        in_a_row = 0
        while True:
            if len(self.ready) >= self.most:
                await self._until_room()
                in_a_row = 0
            try:
                item = await step()
            except StopAsyncIteration:
                self._ended += 1
                if self._halt == "any":
                    self.stop_all()
                return
            self.put(item)
            in_a_row += 1
            if in_a_row == share:  # a source that never waits must not keep all room for itself
                in_a_row = 0
                await checkpoint()

    async def _until_room(self) -> None:
        """Wait until there is room. All who wait may go on then: each in its turn, and a slow one holds up nobody."""
        if self._room is None:
            self._room = self._event()
        await self._room.wait()

    def make_room(self) -> None:
        """The reader has taken something."""
        if len(self.ready) < self.most:
            super().make_room()

    def _fail_with(self, error: Exception) -> None:
        self.note_failure(0, error)
        self.stop_all()


class Fan(Handoff[Any]):
    """Reads one source for several readers.

    Args:
        line: The line of the first reader.
        recipe: What it reads from.
        count: How many readers.
        most: How many items may lie ready for each.
        overflow: What becomes of an item for which a reader has no room.

    Attributes:
        outlets: The readers that have not closed.
    """

    __slots__ = ("_overflow", "_recipe", "outlets")

    def __init__(self, line: Line, recipe: Recipe, count: int, most: int, overflow: Overflow) -> None:
        super().__init__(line, "broadcast", most)
        self.line.links.extend(recipe.given)
        self._recipe = recipe
        self._overflow: Overflow = overflow
        self.outlets: list[Outlet[Any]] = [Outlet(self) for _ in range(count)]

    @property
    def is_wanted(self) -> bool:
        """Whether there is room for one more item."""
        return self._overflow != "wait" or all(len(outlet.ready) < self.most for outlet in self.outlets)

    async def work(self) -> None:
        """Read on."""
        source = self._recipe.begin(self.line)
        while True:
            await self.until_wanted()
            try:
                item = await source.__anext__()
            except StopAsyncIteration:
                return
            for outlet in self.outlets:
                if make_place(outlet.ready, self.most, self._overflow):
                    outlet.ready.append(item)
            self.tell()
            await checkpoint()

    async def leave(self, outlet: Outlet[Any]) -> None:
        """A reader reads no more; with the last one the source is closed."""
        self.outlets.remove(outlet)
        self.make_room()
        if not self.outlets:
            await self.aclose()


class Outlet(Link, AsyncIterator[T]):
    """One reader of a `Fan`.

    Args:
        fan: The fan.

    Attributes:
        ready: Items for this reader.
        _is_waiting: Whether it waits for one.
        _stopped: What it is given instead. Written by `interrupt`.
    """

    __slots__ = ("_fan", "_is_waiting", "_stopped", "ready")

    def __init__(self, fan: Fan) -> None:
        self._fan = fan
        self._is_waiting = False
        self._stopped: Exception | None = None
        self.ready: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self.ready:
            if self._stopped is not None:
                raise self._stopped.with_traceback(None)
            self._is_waiting = True
            try:
                await self._fan.until_news_or_end()
            finally:
                self._is_waiting = False
        item = self.ready.popleft()
        self._fan.make_room()
        return item

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to be read, closed or told."""
        return not self.ready and self._fan.has_ended

    @property
    def is_running(self) -> bool:
        """Whether it waits for an item."""
        return self._is_waiting

    def interrupt(self, why: Exception) -> None:
        """Give that to it; the fan and its other readers go on."""
        self._stopped = why
        self._fan.tell()

    async def aclose(self) -> None:
        """Read no more."""
        self.ready.clear()
        await self._fan.leave(self)
