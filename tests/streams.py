"""What the black-box cases of streams share: a source that says what becomes of it.

The cases are numbered as in the project's list of them: tests/test_streams.py has S01 to S15 and S30,
tests/test_streams_closing.py S16 to S27 and S29, tests/test_streams_own_task.py S28 and S31 to S37.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import Scope

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Source:
    """The numbers from 0 on.

    Args:
        count: How many.
        pause: Seconds before each.
        closing: Seconds that closing it takes.
        error: What it raises after the last item.
        closing_error: What closing it raises.

    Attributes:
        given: How many it has given.
        saw: What ended it.
        closed: How often it was closed; `begun` how often that began.
        tasks: The ids of the tasks that it ran in.
    """

    def __init__(
        self,
        count: int = 5,
        *,
        pause: float = 0.0,
        closing: float = 0.0,
        error: BaseException | None = None,
        closing_error: BaseException | None = None,
    ) -> None:
        self._count = count
        self._pause = pause
        self._closing = closing
        self._error = error
        self._closing_error = closing_error
        self.given = self.closed = self.begun = 0
        self.saw: BaseException | None = None
        self.tasks: set[int] = set()

    async def items(self) -> AsyncIterator[int]:
        """The numbers."""
        try:
            while self.given < self._count:
                self.tasks.add(anyio.get_current_task().id)
                await (anyio.sleep(self._pause) if self._pause else checkpoint())
                self.given += 1
                yield self.given - 1
            if self._error is not None:
                raise self._error
        except BaseException as error:
            self.saw = error
            raise
        finally:
            self.begun += 1
            self.tasks.add(anyio.get_current_task().id)
            await anyio.sleep(self._closing)
            self.closed += 1
            if self._closing_error is not None:
                raise self._closing_error


class Numbers:
    """A class that iterates, without `aclose`.

    Args:
        count: How many numbers it gives.
    """

    def __init__(self, count: int = 5) -> None:
        self.left = list(range(count))

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await checkpoint()
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


class Closable(Numbers):
    """The same, with `aclose`.

    Attributes:
        closed: How often it was called.
        has_ended: A name that a class of the user's may have, and that means nothing to the library.
    """

    closed = 0
    has_ended = True

    async def aclose(self) -> None:
        """Close it."""
        await checkpoint()
        self.closed += 1


async def turns(count: int) -> None:
    """Let others run."""
    for _ in range(count):
        await checkpoint()


def streams_of(s: Scope) -> list[str]:
    """The lines of the tree that tell of streams."""
    return [line.strip() for line in s.tree().splitlines() if line.strip().startswith("stream ")]
