"""What type checkers accept of streams (R1, R6). Read by mypy and pyright, never run.

What a checker lets through although it fails, or is not what was meant: a `str` where a list of them was meant (it is
read by the character); a function that gives a coroutine only now and then, for it counts as giving either; `retry` of
a source that can be read only once; a second use of what an operator has taken over; an item that is not hashable where
`distinct` has no key. mypy joins the types of several sources to `object` where they share no other base.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator

from typing_extensions import assert_type

from anyscope import Scope, Stream


class Feed:
    """An async iterable class."""

    def __aiter__(self) -> AsyncIterator[int]:
        raise NotImplementedError


async def numbers() -> AsyncGenerator[int, None]:
    yield 1


async def iterate() -> AsyncIterator[int]:
    yield 1


def plain() -> Iterator[int]:
    yield 1


async def fetch(number: int) -> str:
    return str(number)


def show(number: int) -> str:
    return str(number)


async def is_even(number: int) -> bool:
    return number % 2 == 0


async def add(state: float, number: int) -> float:
    return state + number


async def pages(number: int) -> AsyncIterator[str]:
    yield str(number)


async def listed(number: int) -> list[str]:
    return [str(number)]


async def save(number: int) -> None: ...


# ------------------------------------------------------------------ what is read


async def sources(s: Scope, feed: AsyncIterable[int], items: Iterable[int]) -> None:
    assert_type(s.stream(numbers()), Stream[int])
    assert_type(s.stream(numbers), Stream[int])
    assert_type(s.stream(iterate()), Stream[int])
    assert_type(s.stream(iterate), Stream[int])
    assert_type(s.stream(plain()), Stream[int])
    assert_type(s.stream(plain), Stream[int])
    assert_type(s.stream(feed), Stream[int])
    assert_type(s.stream(items), Stream[int])
    assert_type(s.stream([1, 2]), Stream[int])
    assert_type(s.stream(range(3)), Stream[int])
    assert_type(s.stream(Feed()), Stream[int])
    assert_type(s.stream(Feed), Stream[int])
    assert_type(s.stream(lambda: [1, 2]), Stream[int])
    assert_type(s.stream(s.stream([1])), Stream[int])
    assert_type(s.stream(numbers(), timeout=1, item_timeout=0.5, own_task=True, buffer=3), Stream[int])


async def reads(s: Scope, stream: Stream[int]) -> None:
    async for item in stream:
        assert_type(item, int)
    async with s.stream(numbers()) as items:
        async for item in items:
            assert_type(item, int)
        assert_type(await anext(items), int)
    assert_type(stream.name, str)
    await stream.aclose()


# ------------------------------------------------------------------ each item


def each_item(n: Stream[int]) -> None:
    assert_type(n.map(fetch), Stream[str])
    assert_type(n.map(show), Stream[str])
    assert_type(n.map(str), Stream[str])
    assert_type(n.map(lambda number: number / 2), Stream[float])
    assert_type(n.map(lambda number: fetch(number)), Stream[str])
    assert_type(n.map(fetch, concurrency=10, ordered=False), Stream[str])
    assert_type(n.filter(is_even), Stream[int])
    assert_type(n.filter(lambda number: number > 3), Stream[int])
    assert_type(n.tap(save), Stream[int])
    assert_type(n.tap(print), Stream[int])
    assert_type(n.flat_map(pages), Stream[str])
    assert_type(n.flat_map(listed), Stream[str])
    assert_type(n.flat_map(lambda number: [number, number]), Stream[int])
    assert_type(n.flat_map(range), Stream[int])
    assert_type(n.scan(add, 0.0), Stream[float])
    assert_type(n.scan(lambda state, number: [*state, number], list[int]()), Stream[list[int]])
    assert_type(n.enumerate(), Stream[tuple[int, int]])
    assert_type(n.enumerate(1).map(lambda pair: pair[0]), Stream[int])
    assert_type(n.pairwise(), Stream[tuple[int, int]])


def which_items(n: Stream[int]) -> None:
    assert_type(n.take(3), Stream[int])
    assert_type(n.take_while(is_even), Stream[int])
    assert_type(n.take_while(lambda number: number < 3), Stream[int])
    assert_type(n.skip(3), Stream[int])
    assert_type(n.skip_while(is_even), Stream[int])
    assert_type(n.distinct(), Stream[int])
    assert_type(n.distinct(lambda number: number % 3, most=None), Stream[int])
    assert_type(n.distinct(fetch), Stream[int])


def batches_and_time(s: Scope, n: Stream[int]) -> None:
    assert_type(n.batch(10), Stream[list[int]])
    assert_type(n.batch(10, within=0.5), Stream[list[int]])
    assert_type(n.buffer(10, overflow="drop_oldest"), Stream[int])
    assert_type(n.throttle(10, per=0.5), Stream[int])
    assert_type(n.debounce(0.5), Stream[int])
    assert_type(n.timeout(0.5), Stream[int])
    assert_type(s.stream(numbers()).map(fetch).filter(str.isdigit).batch(10), Stream[list[str]])
    assert_type(s.stream(numbers).map(fetch, concurrency=3).map(len).scan(max, 0).pairwise(), Stream[tuple[int, int]])


# ------------------------------------------------------------------ errors, several streams


def handle(error: Exception) -> list[str]:
    return [str(error)]


async def handle_later(error: Exception) -> list[str]:
    return [str(error)]


async def generate(error: Exception) -> AsyncIterator[str]:
    yield str(error)


def end(error: Exception) -> None: ...


async def end_later(error: Exception) -> None: ...


def errors(n: Stream[int]) -> None:
    assert_type(n.retry(3), Stream[int])
    assert_type(n.retry(3, on=OSError, pause=0.1, max_pause=3), Stream[int])
    assert_type(n.retry(3, on=(OSError, LookupError)), Stream[int])
    assert_type(n.catch(end), Stream[int])
    assert_type(n.catch(end_later), Stream[int])
    assert_type(n.catch(handle), Stream[int | str])
    assert_type(n.catch(handle_later), Stream[int | str])
    assert_type(n.catch(generate, on=(OSError, LookupError)), Stream[int | str])


async def several(s: Scope, n: Stream[int]) -> None:
    assert_type(n.merge(s.stream(["a"])), Stream[int | str])
    assert_type(n.merge(numbers(), buffer=3, halt="any"), Stream[int])
    assert_type(n.merge(["a"], ["b"]), Stream[int | str])
    assert_type(n.zip(["a"]), Stream[tuple[int, str]])
    assert_type(n.zip(["a"], strict=True), Stream[tuple[int, str]])
    assert_type(n.zip(s.stream(["a"]), numbers()), Stream[tuple[int, str, int]])
    assert_type(n.chain(["a"]), Stream[int | str])
    first, second = n.broadcast(2)
    assert_type(first, Stream[int])
    assert_type(second.map(fetch), Stream[str])
    for each in n.broadcast(3, buffer=2, overflow="wait"):
        assert_type(each, Stream[int])


# ------------------------------------------------------------------ sinks


async def sinks(n: Stream[int]) -> None:
    assert_type(await n.collect(), list[int])
    assert_type(await n.map(fetch).collect(), list[str])
    assert_type(await n.reduce(add, 0.0), float)
    assert_type(await n.reduce(max, 0), int)
    assert_type(await n.reduce(lambda state, number: state + str(number), ""), str)
    assert_type(await n.first(), int)
    assert_type(await n.first(None), int | None)
    assert_type(await n.first("none"), int | str)
    assert_type(await n.count(), int)
    await n.for_each(save)
    await n.for_each(print, concurrency=3)
    await n.drain()
