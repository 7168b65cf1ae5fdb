"""A source in a task of its own, with a buffer or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from anyio.lowlevel import checkpoint

from .handoff import Handoff

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator

    from .line import Line, Make

T = TypeVar("T")

Overflow: TypeAlias = Literal["wait", "drop_oldest", "drop_newest"]


def make_place(ready: deque[T], most: int, overflow: Overflow) -> bool:
    """Whether there is a place for one more item; what is dropped for it, if not that one itself, is the oldest."""
    if len(ready) < most:
        return True
    if overflow == "drop_newest":
        return False
    ready.popleft()
    return True


class Buffer(Handoff[T]):
    """Reads in a task of its own, up to `most` items ahead.

    Args:
        line: The line that this is a link of.
        make: Makes what it reads from.
        most: How many items may lie here; 0 for none that is not asked for.
        overflow: What becomes of one for which there is no room.
    """

    __slots__ = ("_overflow", "source")

    def __init__(self, line: Line, make: Make, most: int, overflow: Overflow = "wait") -> None:
        super().__init__(line, "source" if overflow == "wait" else "buffer", most)
        self.source: AsyncIterator[T] = make(self.line)
        self._overflow: Overflow = overflow

    async def work(self) -> None:
        """Read on."""
        step, ready, most = self.source.__anext__, self.ready, self.most
        is_bounded = self._overflow == "wait"
        while True:
            if is_bounded and len(ready) >= most:
                await self.until_wanted()
            try:
                item = await step()
            except StopAsyncIteration:
                return
            if is_bounded:
                self.put(item)
            else:
                if make_place(ready, most, self._overflow):
                    self.put(item)
                await checkpoint()  # a source that never waits would let nobody else run
