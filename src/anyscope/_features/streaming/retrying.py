"""Going on after an error: from the beginning, or with something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from ..._vocabulary.errors import ScopeCancelled
from ..._vocabulary.notes import add_note
from ..._vocabulary.options import is_coroutine
from .line import recipe_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .line import Line, Make

_MOST_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to begin again, after which errors, and after which pauses in seconds."""

    times: int
    on: tuple[type[Exception], ...]
    pause: float
    longest: float

    def pause_after(self, failures: int) -> float:
        """The pause after so many failures: doubled each time, up to the longest."""
        return min(self.longest, self.pause * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


def is_cancellation(error: Exception) -> bool:
    """Whether it tells that the scope was cancelled: no error that one could go on after."""
    return isinstance(error, ScopeCancelled)


async def retried(line: Line, make: Make, retries: Retries) -> AsyncIterator[Any]:
    """All items, from the beginning after each error."""
    failures: list[str] = []
    while True:
        part = line.open_part()
        try:
            async for item in make(part):
                yield item
            break
        except retries.on as error:
            if is_cancellation(error):
                raise
            if len(failures) >= retries.times:
                for note in failures:
                    add_note(error, note)
                raise
            failures.append(f"attempt {len(failures) + 1} failed with {type(error).__name__}: {error}")
            await line.close_part(part)  # what that raises hangs below, for both have happened
        await anyio.sleep(retries.pause_after(len(failures)))
    await line.close_part(part)


async def caught(
    line: Line,
    source: AsyncIterator[Any],
    handler: Callable[[Exception], Any],
    on: tuple[type[Exception], ...],
) -> AsyncIterator[Any]:
    """All items, and after an error those of what `handler` makes of it."""
    try:
        async for item in source:
            yield item
    except on as error:
        if is_cancellation(error):
            raise
        made = handler(error)
        made = await made if is_coroutine(made) else made
    else:
        return
    if made is None:
        return
    recipe, part = recipe_of(made, "catch"), line.open_part()
    async for item in recipe.make(part):
        yield item
    await line.close_part(part)
