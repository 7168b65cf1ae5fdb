"""What the tests of polls share: a scripted fetch that watches itself, and a block that takes the time.

The black-box cases are numbered as in the project's list of them: tests/test_polls.py has L01 to L20.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyscope import Poll, Scope, scope


class Refused(ConnectionRefusedError):
    """What a scripted fetch raises."""


class Source:
    """Something to be fetched, and what became of each fetch.

    Args:
        *script: For each fetch: seconds that it takes, an error that it raises, a pair of both, `fail`, `hang` or
            `stubborn` (a second, shielded); the last one for all further ones.

    Attributes:
        starts: When each began, from the first look at the clock on.
        ended: The numbers of those that were not cut.
        cut: The numbers of those that were.
        peak: How many there were at once.
    """

    def __init__(self, *script: Any) -> None:
        self.starts: list[float] = []
        self.ended: list[int] = []
        self.cut: list[int] = []
        self.peak = self.busy = 0
        self.origin = anyio.current_time()
        self._script = itertools.chain(script, itertools.repeat(script[-1] if script else 0))

    async def __call__(self) -> int:
        """Give the number of this fetch, from 1."""
        self.starts.append(round(anyio.current_time() - self.origin, 6))
        number = len(self.starts)
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            await self._play(next(self._script))
        except anyio.get_cancelled_exc_class():
            self.cut.append(number)
            raise
        finally:
            self.busy -= 1
        self.ended.append(number)
        return number

    async def _play(self, part: Any) -> None:
        if part == "hang":
            await anyio.sleep_forever()
        elif part == "stubborn":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
        elif part == "fail":
            raise Refused("no")
        elif isinstance(part, Exception):
            raise part
        elif isinstance(part, tuple):
            await anyio.sleep(part[0])
            raise part[1]
        else:
            await anyio.sleep(part)


@asynccontextmanager
async def app(**options: Any) -> AsyncIterator[Scope]:
    """A scope that is cancelled after the block: what is about polls is over then."""
    async with scope(name="app", **options) as s:
        yield s
        s.cancel()


async def settle() -> None:
    """Some turns of the loop, in which no time goes by."""
    for _ in range(20):
        await checkpoint()


async def collect(poll: Poll[Any], into: list[Any], pause: float = 0.0) -> None:
    """Read it, slowly."""
    async for value in poll:
        into.append(value)
        if pause:
            await anyio.sleep(pause)


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the library logs: level and first line."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage().splitlines()[0]}")

    logger, handler = logging.getLogger("anyscope"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
