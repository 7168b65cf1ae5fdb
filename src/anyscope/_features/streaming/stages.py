"""The operators that need no task: one generator each, which reads from the one before.

They do not close what they read from, the line does; but one that ends early does, so that a source is not kept open by
a loop that has all it wants. What they read from is made before they begin, for a generator that never begins cannot
close anything.

A function of the user's may be plain or async: what it gives is awaited if it is a coroutine. Asking that of each
result would cost more than the rest of the stage, so the type of the last plain result is remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ..._vocabulary.options import is_coroutine
from .line import recipe_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from .line import Line, Make

T = TypeVar("T")


def _type_of(value: object) -> type[object]:
    return type(value)


async def mapped(source: AsyncIterator[T], fn: Callable[[T], Any]) -> AsyncIterator[Any]:
    """What `fn` makes of each item."""
    plain: type[object] | None = None
    async for item in source:
        made = fn(item)
        if type(made) is not plain:
            if is_coroutine(made):
                made = await made
            else:
                plain = _type_of(made)
        yield made


async def filtered(source: AsyncIterator[T], test: Callable[[T], Any]) -> AsyncIterator[T]:
    """The items that pass."""
    plain: type[object] | None = None
    async for item in source:
        passed = test(item)
        if type(passed) is not plain:
            if is_coroutine(passed):
                passed = await passed
            else:
                plain = _type_of(passed)
        if passed:
            yield item


async def tapped(source: AsyncIterator[T], fn: Callable[[T], Any]) -> AsyncIterator[T]:
    """Each item, after `fn` has seen it."""
    async for item in source:
        made = fn(item)
        if made is not None and is_coroutine(made):
            await made
        yield item


async def scanned(source: AsyncIterator[T], fn: Callable[[Any, T], Any], initial: Any) -> AsyncIterator[Any]:
    """What `fn` makes of what it made last and of each item."""
    state = initial
    async for item in source:
        made = fn(state, item)
        state = await made if is_coroutine(made) else made
        yield state


async def flat_mapped(line: Line, source: AsyncIterator[T], fn: Callable[[T], Any]) -> AsyncIterator[Any]:
    """The items of what `fn` makes of each item, one after the other."""
    async for item in source:
        made = fn(item)
        recipe = recipe_of(await made if is_coroutine(made) else made, "flat_map")
        inner = line.open_part()
        async for each in recipe.make(inner):
            yield each
        await line.close_part(inner)


def taken(line: Line, make: Make, count: int) -> AsyncIterator[Any]:
    """The first `count` items."""
    part: Line = line.add(line.part())
    return _taken(part, make(part), count)


async def _taken(part: Line, source: AsyncIterator[T], count: int) -> AsyncIterator[T]:
    left = count
    if left:
        async for item in source:
            yield item
            left -= 1
            if not left:
                break
    await part.aclose()


def taken_while(line: Line, make: Make, test: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """The items before the first that does not pass."""
    part: Line = line.add(line.part())
    return _taken_while(part, make(part), test)


async def _taken_while(part: Line, source: AsyncIterator[T], test: Callable[[T], Any]) -> AsyncIterator[T]:
    async for item in source:
        passed = test(item)
        if not (await passed if is_coroutine(passed) else passed):
            break
        yield item
    await part.aclose()


async def skipped(source: AsyncIterator[T], count: int) -> AsyncIterator[T]:
    """All but the first `count` items."""
    left = count
    async for item in source:
        if left:
            left -= 1
        else:
            yield item


async def skipped_while(source: AsyncIterator[T], test: Callable[[T], Any]) -> AsyncIterator[T]:
    """The items from the first on that does not pass."""
    is_skipping = True
    async for item in source:
        if is_skipping:
            passed = test(item)
            is_skipping = bool(await passed if is_coroutine(passed) else passed)
        if not is_skipping:
            yield item


async def enumerated(source: AsyncIterator[T], start: int) -> AsyncIterator[tuple[int, T]]:
    """Each item with its number."""
    number = start
    async for item in source:
        yield number, item
        number += 1


async def distinct(source: AsyncIterator[T], key: Callable[[T], Hashable] | None, most: int | None) -> AsyncIterator[T]:
    """The items that have not been there before."""
    seen: set[Any] = set()
    async for item in source:
        mark: Any = item if key is None else key(item)
        if key is not None and is_coroutine(mark):
            mark = await mark
        if mark in seen:
            continue
        if most is not None and len(seen) >= most:
            raise OverflowError(
                f"distinct: more than {most:,} different items, and each has to be remembered\n"
                "Give most=... for more of them, or most=None for no bound."
            )
        seen.add(mark)
        yield item


async def paired(source: AsyncIterator[T]) -> AsyncIterator[tuple[T, T]]:
    """Each item with the one before it."""
    last: list[T] = []
    async for item in source:
        if last:
            yield last.pop(), item
        last.append(item)


async def batched(source: AsyncIterator[T], size: int) -> AsyncIterator[list[T]]:
    """Lists of `size` items; the last one, also before an error, may be shorter."""
    batch: list[T] = []
    try:
        async for item in source:
            batch.append(item)
            if len(batch) == size:
                full, batch = batch, []
                yield full
    except Exception as error:
        if batch:
            try:
                yield batch
            except GeneratorExit:
                raise error from None  # the reader leaves without having heard of it
        raise
    if batch:
        yield batch


def zipped(line: Line, makes: tuple[Make, ...], *, strict: bool) -> AsyncIterator[tuple[Any, ...]]:
    """One item of each, until the first has ended."""
    parts: list[Line] = [line.add(line.part()) for _ in makes]
    sources = [make(part) for make, part in zip(makes, parts, strict=True)]
    return _zipped(parts, sources, strict=strict)


async def _zipped(
    parts: list[Line], sources: list[AsyncIterator[Any]], *, strict: bool
) -> AsyncIterator[tuple[Any, ...]]:
    while len(items := await _row(sources)) == len(sources):
        yield tuple(items)
    is_uneven = strict and (bool(items) or await _any_left(sources[1:]))
    for part in parts:
        await part.aclose()
    if is_uneven:
        raise ValueError("zip: one of the streams has ended before the others")


async def _row(sources: list[AsyncIterator[Any]]) -> list[Any]:
    """An item of each, or of those before the first that has ended."""
    items: list[Any] = []
    for source in sources:
        try:
            items.append(await source.__anext__())
        except StopAsyncIteration:  # noqa: PERF203  a row is short
            break
    return items


async def _any_left(sources: list[AsyncIterator[Any]]) -> bool:
    for source in sources:
        if await _row([source]):
            return True
    return False


def chained(line: Line, makes: tuple[Make, ...]) -> AsyncIterator[Any]:
    """All items of the first, then all of the next, and so on."""
    parts: list[Line] = [line.add(line.part()) for _ in makes]
    return _chained(parts, [make(part) for make, part in zip(makes, parts, strict=True)])


async def _chained(parts: list[Line], sources: list[AsyncIterator[Any]]) -> AsyncIterator[Any]:
    for part, source in zip(parts, sources, strict=True):
        async for item in source:
            yield item
        await part.aclose()
