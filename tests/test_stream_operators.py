"""The operators of streams (R6): what each gives, how each ends, and how far it reads."""

from __future__ import annotations

import gc
import itertools
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import ScopeCancelled, ScopeMisuse, Stream, StreamClosed, StreamTimeout, scope
from stream_sources import DOUBLES, OPERATORS, Broken, Operator, Source, endless, opened, turns

each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
each_double = pytest.mark.parametrize("double", DOUBLES.values(), ids=DOUBLES.keys())


# ------------------------------------------------------------------ what each gives
@each_operator
@pytest.mark.parametrize("size", [0, 1, 2, 5, 70])
async def test_an_operator_gives_what_its_model_gives(operator: Operator, size: int) -> None:
    """R6: of no items, one, and many; the source is closed once."""
    source = Source(range(size))
    async with opened(source) as (_, stream):
        assert sorted(await operator.apply(stream).collect()) == sorted(operator.model(list(range(size))))
        assert source.closes == 1


@each_operator
async def test_a_plain_iterable_will_do(operator: Operator) -> None:
    """R6: what is read may be a list, a plain generator or an async one."""
    expected = operator.model(list(range(5)))

    def numbers() -> Iterator[int]:
        yield from range(5)

    async def numbers_later() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    async with scope() as s:
        for source in (range(5), numbers(), numbers_later(), numbers_later):
            assert sorted(await operator.apply(s.stream(source)).collect()) == sorted(expected)


@each_double
@pytest.mark.parametrize("concurrency", [None, 1, 3])
async def test_map_takes_any_function(double: Callable[[int], Any], concurrency: int | None) -> None:
    """R6: plain, async, lambdas that give a coroutine, partials, objects."""
    async with opened(range(4)) as (_, stream):
        assert await stream.map(double, concurrency=concurrency).collect() == [0, 2, 4, 6]


@each_double
async def test_every_other_operator_takes_any_function(double: Callable[[int], Any]) -> None:
    """R6: the same for all that take one."""
    async with scope() as s:
        assert await s.stream(range(3)).filter(double).collect() == [1, 2]
        assert await s.stream(range(3)).tap(double).collect() == [0, 1, 2]
        assert await s.stream([1, 0, 2]).take_while(double).collect() == [1]
        assert await s.stream([1, 0, 2]).skip_while(double).collect() == [0, 2]
        assert await s.stream([1, 1, 2]).distinct(double).collect() == [1, 2]
        await s.stream(range(3)).for_each(double)


async def test_functions_of_two_arguments_may_be_async() -> None:
    """R6: `scan` and `reduce`."""

    async def add(state: int, item: int) -> int:
        await checkpoint()
        return state + item

    async with scope() as s:
        assert await s.stream([1, 2, 3]).scan(add, 10).collect() == [11, 13, 16]
        assert await s.stream([1, 2, 3]).reduce(add, 10) == 16
        assert await s.stream([1, 2, 3]).reduce(lambda a, b: add(a, b), 0) == 6
        assert await s.stream([1, 2, 3]).reduce(int.__add__, 0) == 6
        assert await s.stream(list[int]()).reduce(add, 10) == 10


async def test_a_function_may_give_a_coroutine_now_and_then() -> None:
    """R6: what a function gives is looked at each time, whatever it gave before."""

    def sometimes(number: int) -> Any:
        async def later() -> int:
            await checkpoint()
            return number

        return later() if number % 2 else number

    async with scope() as s:
        assert await s.stream(range(5)).map(sometimes).collect() == [0, 1, 2, 3, 4]
        assert await s.stream(range(5)).filter(sometimes).collect() == [1, 2, 3, 4]


async def test_flat_map_makes_any_iterable() -> None:
    """R6: async and plain ones, and async functions that give one; each is closed."""
    inner = [Source([10]), Source([20, 21])]

    async def later(number: int) -> Source:
        await checkpoint()
        return inner[number]

    async with scope() as s:
        assert await s.stream(range(2)).flat_map(later).collect() == [10, 20, 21]
        assert [each.closes for each in inner] == [1, 1]
        assert await s.stream(range(3)).flat_map(range).collect() == [0, 0, 1]
        assert await s.stream(range(3)).flat_map(lambda n: s.stream(range(n))).collect() == [0, 0, 1]


async def test_flat_map_closes_each_before_the_next() -> None:
    """R6: one at a time is open, however many there are."""
    made: list[Source] = []

    def make(_: int) -> Source:
        assert all(source.closed for source in made)
        made.append(Source(range(2)))
        return made[-1]

    async with opened(range(20)) as (_, stream):
        assert await stream.flat_map(make).count() == 40
        assert [source.closes for source in made] == [1] * 20


async def test_flat_map_refuses_what_is_none() -> None:
    """R6: with the name of the operator."""
    source = Source(range(3))
    async with opened(source) as (_, stream):
        with pytest.raises(TypeError, match=r"^flat_map\(\.\.\.\): expected an async or plain iterable.* got int\n"):
            await stream.flat_map(lambda n: n).collect()  # type: ignore[arg-type]
        assert source.closes == 1


@pytest.mark.parametrize("end", ["break", "error", "cancel"])
@pytest.mark.virtual_time
async def test_flat_map_closes_the_inner_one_too(end: str) -> None:
    """R6: from wherever it is left."""
    outer, inner = Source([1]), Source([1], hangs=end == "cancel", error=Broken())
    async with opened(outer) as (_, stream):
        with anyio.move_on_after(0.01):
            try:
                async with stream.flat_map(lambda _: inner) as items:
                    async for _ in items:
                        if end == "break":
                            break
            except Broken:
                assert end == "error"
        assert (outer.closes, inner.closes) == (1, 1)


async def test_distinct_is_bounded() -> None:
    """R6, law 7: more different items than may be remembered are an error, not a leak."""
    async with scope() as s:
        assert await s.stream([3, 1, 3, 2, 1]).distinct().collect() == [3, 1, 2]
        assert await s.stream(["a", "B", "A"]).distinct(str.lower).collect() == ["a", "B"]
        assert await s.stream(range(200)).distinct(lambda n: n % 3, most=3).collect() == [0, 1, 2]
        assert await s.stream(range(200)).distinct(most=None).count() == 200
        text = "distinct: more than 2 different items, and each has to be remembered\nGive most=... for more"
        with pytest.raises(OverflowError, match=re.escape(text)):
            await s.stream(range(3)).distinct(most=2).collect()


async def test_sinks() -> None:
    """R6: `collect`, `count`, `first`, `drain`, `for_each`, of none, one, and many; the source is closed."""
    seen: list[int] = []
    for size in (0, 1, 5):
        seen.clear()
        for ask, expected in (
            (lambda x: x.collect(), list(range(size))),
            (lambda x: x.count(), size),
            (lambda x: x.first("none"), 0 if size else "none"),
            (lambda x: x.drain(), None),
            (lambda x: x.for_each(seen.append), None),
            (lambda x: x.reduce(max, -1), size - 1),
        ):
            source = Source(range(size))
            async with opened(source) as (_, stream):
                assert await ask(stream) == expected
                assert source.closes == 1
        assert seen == list(range(size))


async def test_first_of_nothing() -> None:
    """R6: a `LookupError` that names the stream; no more is read than asked for."""
    async with opened(Source()) as (_, stream):
        text = "stream Source.map (#0) of app is empty: first() has nothing to give"
        with pytest.raises(LookupError, match=re.escape(text)):
            await stream.map(str).first()
    source = endless()
    async with opened(source) as (_, stream):
        assert await stream.first() == 0
        assert (source.pulls, source.closes) == (1, 1)


# ------------------------------------------------------------------ errors
@each_operator
@pytest.mark.parametrize("size", [0, 3])
async def test_an_error_of_the_source_comes_bare_after_what_was_before_it(operator: Operator, size: int) -> None:
    """R6: the very error, once, with all that a list of the items before it would give; the source is closed."""
    error, got = Broken("source"), list[Any]()
    source = Source(range(size), error=error)
    async with opened(source) as (_, stream):
        with pytest.raises(Broken) as caught:
            async with operator.apply(stream) as items:
                async for item in items:
                    got.append(item)
                if len(got) == 3 == size:
                    raise error  # `take` never came to it
        assert caught.value is error
        assert source.closes == 1
    if operator is OPERATORS["map 2 at once unordered"]:
        assert set(got) <= set(operator.model(list(range(size))))
    else:
        assert got == operator.model(list(range(size)))


FUNCTIONS: dict[str, Callable[[Stream[Any], Callable[..., Any]], Stream[Any]]] = {
    "map": lambda s, f: s.map(f),
    "map 2 at once": lambda s, f: s.map(f, concurrency=2),
    "map 2 at once unordered": lambda s, f: s.map(f, concurrency=2, ordered=False),
    "filter": lambda s, f: s.filter(f),
    "tap": lambda s, f: s.tap(f),
    "flat_map": lambda s, f: s.flat_map(f),
    "scan": lambda s, f: s.scan(lambda _, item: f(item), 0),
    "take_while": lambda s, f: s.take_while(f),
    "skip_while": lambda s, f: s.skip_while(f),
    "distinct": lambda s, f: s.distinct(f),
}


@pytest.mark.parametrize("apply", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("at", [0, 2])
async def test_an_error_of_the_function_comes_bare(apply: Callable[..., Stream[Any]], is_async: bool, at: int) -> None:
    """R6: the very error; the source is closed once."""
    error, source = Broken("function"), endless()

    def fails(item: int) -> Any:
        if item == at:
            raise error
        return (item + 1,)

    async def fails_later(item: int) -> Any:
        await checkpoint()
        return fails(item)

    async with opened(source) as (_, stream):
        with pytest.raises(Broken) as caught:
            await apply(stream, fails_later if is_async else fails).drain()
        assert caught.value is error
        assert source.closes == 1


@pytest.mark.parametrize("apply", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_cannot_end_the_stream_by_accident(apply: Callable[..., Stream[Any]], is_async: bool) -> None:
    """R2: `StopAsyncIteration` of a function is an error, not the end of the source."""

    def ends(item: int) -> Any:
        if item == 2:
            raise StopAsyncIteration
        return (item + 1,)

    async def ends_later(item: int) -> Any:
        return ends(item)

    async with opened(range(5)) as (_, stream):
        with pytest.raises(RuntimeError, match="StopAsyncIteration") as caught:
            await apply(stream, ends_later if is_async else ends).drain()
        assert isinstance(caught.value.__cause__, StopAsyncIteration)


@each_operator
async def test_an_error_of_closing_is_not_lost(operator: Operator) -> None:
    """R3: it leaves the block, whatever is in between."""
    source = endless(delay=0.001, close_error=Broken("closing"))
    async with opened(source) as (_, stream):
        with pytest.raises(Broken, match="closing"):
            async with operator.apply(stream) as items:
                with anyio.move_on_after(0.05):
                    async for _ in items:
                        break
        assert source.closes == 1


# ------------------------------------------------------------------ closing the whole chain
@each_operator
async def test_break_in_a_block_closes_before_it_is_left(operator: Operator) -> None:
    """R3, P05, P11: in the block."""
    source = endless(delay=0.001)
    async with opened(source) as (_, stream):
        async with operator.apply(stream) as items:
            with anyio.move_on_after(0.05):
                async for _ in items:
                    break
        assert source.closes == 1


@each_operator
async def test_break_without_a_block_closes_soon(operator: Operator) -> None:
    """R3: a few turns later, in the scope."""
    source = endless(delay=0.001)
    async with opened(source) as (_, stream):
        moved = operator.apply(stream)
        del stream
        with anyio.move_on_after(0.05):
            async for _ in moved:
                break
        del moved
        await turns(20)
        assert source.closes == 1
    assert source.closes == 1


@each_operator
async def test_an_error_downstream_closes(operator: Operator) -> None:
    """R3: the body's error leaves the block, and the source is closed."""
    source = endless(delay=0.001)
    async with opened(source) as (_, stream):
        with pytest.raises(KeyError, match="body"):
            async with operator.apply(stream) as items:
                with anyio.move_on_after(0.05):
                    async for _ in items:
                        break
                raise KeyError("body")
        assert source.closes == 1


@each_operator
@pytest.mark.parametrize("how", ["block", "dropped", "kept", "aclose"])
async def test_what_was_never_read_is_closed(operator: Operator, how: str) -> None:
    """R3: without one item asked for; nothing was read."""
    source, kept = endless(), list[Any]()
    async with scope() as s:
        if how == "block":
            async with operator.apply(s.stream(source)):
                pass
        elif how == "kept":
            kept.append(operator.apply(s.stream(source)))
        elif how == "dropped":
            operator.apply(s.stream(source))
        else:
            await operator.apply(s.stream(source)).aclose()
    assert (source.pulls, source.closes) == (0, 1)


@each_operator
@pytest.mark.parametrize("who", ["reader", "scope", "timeout"])
@pytest.mark.virtual_time
async def test_cancellation_while_waiting_upstream_closes(operator: Operator, who: str) -> None:
    """R2, R3: of the reader, of the scope, and by a time-out around `anext`; closing is not cut short by it."""
    source = Source(hangs=True, closing=0.1)
    async with scope(name="app") as s:
        items = operator.apply(s.stream(source))
        if who == "scope":
            s.start_soon(_cancel_later, s)
        with anyio.move_on_after(1 if who != "scope" else math.inf):
            if who == "timeout":
                await anext(items)
            else:
                await items.collect()
        await items.aclose()
        assert source.closes == source.closed == 1
    assert source.closes == source.closed == 1


@pytest.mark.parametrize("operator", ["flat_map", "retry", "catch"])
@pytest.mark.parametrize("how", ["reader", "scope", "break", "aclose"])
@pytest.mark.virtual_time
async def test_what_an_operator_makes_is_closed_to_the_end(operator: str, how: str) -> None:
    """R3: what was made on the way is closed like the source: cancelled or not, closing is not cut short."""
    inner = Source(range(2), hangs=True, closing=0.1)
    async with scope(name="app") as s:
        if operator == "flat_map":
            items = s.stream([1]).flat_map(lambda _: inner)
        elif operator == "retry":
            items = s.stream(lambda: inner).retry(3)
        else:
            items = s.stream(Source(error=Broken())).catch(lambda _: inner)
        if how == "scope":
            s.start_soon(_cancel_later, s)
        with anyio.move_on_after(1 if how == "reader" else math.inf):
            async with items:
                async for _ in items:
                    if how == "aclose":
                        await items.aclose()
                        break
                    if how == "break":
                        break
        assert inner.closes == inner.closed == 1
    assert inner.closes == inner.closed == 1


async def _cancel_later(s: Any) -> None:
    await anyio.sleep(1)
    s.cancel("enough")


@each_operator
@pytest.mark.virtual_time
async def test_a_foreign_reader_is_told_of_the_cancellation(operator: Operator) -> None:
    """R2: `ScopeCancelled`, never a silent end, and it lives on."""
    source, told = Source(hangs=True), list[Exception]()
    async with anyio.create_task_group() as group, scope(name="app") as s:
        items = operator.apply(s.stream(source))

        async def read() -> None:
            with pytest.raises(ScopeCancelled) as caught:
                async for _ in items:
                    pass
            told.append(caught.value)
            await anyio.sleep(1)
            told.append(caught.value)

        group.start_soon(read)
        await anyio.sleep(1)
        s.cancel("enough")
        await anyio.sleep(1)
    assert len(told) == 2
    assert source.closes == 1


@each_operator
@pytest.mark.virtual_time
async def test_a_foreign_reader_is_told_of_the_end(operator: Operator) -> None:
    """R2: `StreamClosed` when the scope ends, never a silent end."""
    source, told = Source(hangs=True), list[Exception]()
    async with anyio.create_task_group() as group:
        async with scope(name="app") as s:
            items = operator.apply(s.stream(source))

            async def read() -> None:
                with pytest.raises(StreamClosed) as caught:
                    async for _ in items:
                        pass
                told.append(caught.value)

            group.start_soon(read)
            await anyio.sleep(1)
        assert source.closes == 1
    assert len(told) == 1


@pytest.mark.parametrize("apply", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.virtual_time
async def test_cancellation_in_the_function_closes(apply: Callable[..., Stream[Any]]) -> None:
    """R3: the call is cut, and has ended, and the source is closed."""
    source, ended = endless(), list[str]()

    async def hangs(_: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("call")

    async with opened(source) as (_, stream):
        items = apply(stream, hangs)
        with anyio.move_on_after(1):
            await items.collect()
        assert set(ended) == {"call"}
        assert source.closes == 1


async def test_p11_five_operators_are_closed_as_one() -> None:
    """P11: the source is closed before the block is left, in the reader's task."""
    closed_in: list[object] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            closed_in.append(anyio.get_current_task().id)

    async with scope() as s:
        stream = s.stream(numbers()).map(str).filter(len).enumerate().batch(2).take(5)
        async with stream as items:
            async for batch in items:
                assert batch == [(0, "0"), (1, "1")]
                break
        assert closed_in == [anyio.get_current_task().id]


@pytest.mark.parametrize("timeout", ["timeout", "item_timeout"])
@pytest.mark.virtual_time
async def test_a_time_out_of_the_source_goes_through_the_chain(timeout: str) -> None:
    """R4: the next step raises again, and does not end as if complete; the source is closed."""
    source = Source(range(1), hangs=True)
    options: dict[str, Any] = {timeout: 1}
    async with opened(source, **options) as (_, stream):
        async with stream.map(str).enumerate() as items:
            assert await anext(items) == (0, "0")
            for _ in range(3):
                with pytest.raises(StreamTimeout):
                    await anext(items)
        assert source.closes == 1


# ------------------------------------------------------------------ how far it reads
@each_operator
@pytest.mark.virtual_time
async def test_no_operator_reads_further_than_its_bound(operator: Operator) -> None:
    """R7, R8: with a reader that stops, however long."""
    source = endless(delay=0.05 if operator.ahead > 100 else None)
    async with opened(source) as (_, stream), operator.apply(stream) as items:
        assert source.pulls == 0
        await anext(items)
        await anyio.sleep(2)
        assert source.pulls <= operator.needs + operator.ahead
        if operator in (OPERATORS["buffer"], OPERATORS["map 2 at once"]):
            assert source.pulls == operator.needs + operator.ahead  # the bound is used


async def test_p14_take_reads_no_more_than_it_gives() -> None:
    """P14: exactly three, and the source is closed when the loop is over, in a block or not."""
    source = endless()
    async with scope() as s:
        items = s.stream(source).take(3)
        assert [number async for number in items] == [0, 1, 2]
        assert (source.pulls, source.closes) == (3, 1)
        source = endless()
        assert await s.stream(source).take(0).collect() == []
        assert (source.pulls, source.closes) == (0, 1)


async def test_take_while_closes_at_once() -> None:
    """R6: with the first that does not pass."""
    source = endless()
    async with scope() as s:
        items = s.stream(source).take_while(lambda n: n < 2)
        assert [number async for number in items] == [0, 1]
        assert (source.pulls, source.closes) == (3, 1)


async def test_p09_zip_ends_with_the_shortest() -> None:
    """P09: all are closed; with `strict` that is an error."""
    for shorter, pulled in ((0, (3, 2, 2)), (1, (4, 3, 3))):
        sources = [Source(range(5)), Source(range(5)), Source(range(5))]
        sources[shorter] = Source(range(2 + shorter))
        async with scope() as s:
            rows = await s.stream(sources[0]).zip(sources[1], s.stream(sources[2])).collect()
        assert rows == [(n, n, n) for n in range(2 + shorter)]
        assert tuple(source.pulls for source in sources) == (pulled[0], pulled[1] + shorter, pulled[2])
        assert [source.closes for source in sources] == [1, 1, 1]


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (0, 1), (1, 0)])
async def test_p09_strict(sizes: tuple[int, int]) -> None:
    """P09: one has ended before the others, whichever; both are closed."""
    sources = [Source(range(size)) for size in sizes]
    async with opened(sources[0]) as (s, stream):
        with pytest.raises(ValueError, match=r"^zip: one of the streams has ended before the others$"):
            await stream.zip(sources[1], strict=True).collect()
        assert [source.closes for source in sources] == [1, 1]
        assert await s.stream(range(2)).zip(range(2), strict=True).collect() == [(0, 0), (1, 1)]


@pytest.mark.parametrize("operator", ["zip", "chain", "merge"])
@pytest.mark.parametrize("failing", [0, 1])
async def test_an_error_of_one_closes_all(operator: str, failing: int) -> None:
    """R6: bare; all sources are closed, the one that was never read too."""
    error, sources = Broken("one"), [Source(range(2)), Source(range(2))]
    sources[failing] = Source(range(1), error=error)
    async with opened(sources[0]) as (_, stream):
        with pytest.raises(Broken) as caught:
            await getattr(stream, operator)(sources[1]).collect()
        assert caught.value is error
        assert [source.closes for source in sources] == [1, 1]


async def test_chain_closes_each_before_the_next() -> None:
    """R6: one after the other, none read before its turn."""
    sources = [Source(range(2)), Source([]), Source(range(2, 4))]
    async with opened(sources[0]) as (_, stream):
        async with stream.chain(*sources[1:]) as items:
            assert [await anext(items) for _ in range(2)] == [0, 1]
            assert [source.pulls for source in sources] == [2, 0, 0]
            assert [await anext(items) for _ in range(2)] == [2, 3]
            assert [source.closes for source in sources] == [1, 1, 0]
            with pytest.raises(StopAsyncIteration):
                await anext(items)
        assert [source.closes for source in sources] == [1, 1, 1]


# ------------------------------------------------------------------ buffers
@pytest.mark.virtual_time
async def test_buffer_policies() -> None:
    """R6: what lies there when the reader comes back."""

    async def items_after(overflow: Any) -> list[int]:
        async with scope() as s:
            items = s.stream(Source(range(10), delay=0.1)).buffer(3, overflow=overflow)
            first = await anext(items)
            await anyio.sleep(5)
            return [first, *[item async for item in items]]

    assert await items_after("wait") == list(range(10))
    assert await items_after("drop_newest") == [0, 1, 2, 3]
    assert await items_after("drop_oldest") == [0, 7, 8, 9]


@pytest.mark.virtual_time
@pytest.mark.parametrize("operator", [OPERATORS[name] for name in ("buffer", "map 2 at once", "merge", "batch within")])
async def test_a_reader_that_is_cut_off_loses_nothing(operator: Operator) -> None:
    """R5: where items are made in a task of the scope, a time-out around `anext` takes none away."""
    got: list[Any] = []
    async with opened(Source(range(20), delay=0.03)) as (_, stream), operator.apply(stream) as items:
        while True:
            with anyio.move_on_after(0.01):
                try:
                    got.append(await anext(items))
                except StopAsyncIteration:
                    break
    assert got == operator.model(list(range(20)))


# ------------------------------------------------------------------ misuse
TAKEN_OVER = (
    "scope app: stream {name} (#0) was used after an operator had taken it over\n"
    "Right: go on with what the operator gave: stream = s.stream(...).map(...)"
)


@each_operator
async def test_an_operator_takes_the_stream_over(operator: Operator) -> None:
    """R6: single-use: the old handle can neither be read nor be given to another operator, and does no harm."""
    source = Source(range(5))
    async with opened(source) as (_, stream):
        items = operator.apply(stream)
        for use in (
            lambda: anext(stream),
            stream.collect,
            stream.drain,
            stream.count,
            stream.first,
            lambda: stream.for_each(print),
            lambda: stream.reduce(max, 0),
        ):
            with pytest.raises((ScopeMisuse, StreamClosed)) as caught:
                await use()
            if items.name != "Source.broadcast":
                assert str(caught.value) == TAKEN_OVER.format(name=items.name)
        for again in (lambda: stream.map(str), lambda: stream.broadcast(2), lambda: stream.merge([1])):
            with pytest.raises((ScopeMisuse, StreamClosed)):
                again()
        assert sorted(await items.collect()) == sorted(operator.model(list(range(5))))
    assert source.closes == 1


@pytest.mark.parametrize("operator", ["merge", "zip", "chain"])
async def test_what_is_joined_is_taken_over(operator: str) -> None:
    """R6: also the others, and all are closed with the result."""
    sources = [endless(), endless()]
    async with opened(sources[0]) as (s, stream):
        other = s.stream(sources[1])
        joined = getattr(stream, operator)(other)
        with pytest.raises(ScopeMisuse, match=r"stream Source \(#1\) was used after an operator had taken it over"):
            await anext(other)
        with pytest.raises(StreamClosed, match="it is part of another stream now"):
            other.map(str)
        await joined.aclose()
        assert [source.closes for source in sources] == [1, 1]


@pytest.mark.parametrize("operator", ["merge", "zip", "chain"])
async def test_a_wrong_join_takes_nothing_over(operator: str) -> None:
    """S12: nothing has happened, to any of them."""
    sources = [Source(range(3)), Source(range(3))]
    async with opened(sources[0]) as (s, stream):
        other, closed = s.stream(sources[1]), s.stream([1])
        await closed.aclose()
        moved = s.stream([1])
        assert await moved.map(str).count() == 1
        join = getattr(stream, operator)
        with pytest.raises(TypeError, match=rf"^s\.stream\(\.\.\.\)\.{operator}\(\.\.\.\): expected an async or plain"):
            join(other, 42)
        text = rf"^s\.stream\(\.\.\.\)\.{operator}\(\.\.\.\): a stream cannot be joined with itself"
        with pytest.raises(ValueError, match=text):
            join(other, other)
        with pytest.raises(ValueError, match=text):
            join(stream)
        with pytest.raises(StreamClosed):
            join(other, closed)
        with pytest.raises(ScopeMisuse):
            join(other, moved)
        assert await stream.collect() == [0, 1, 2]
        assert await other.collect() == [0, 1, 2]


async def test_what_is_being_read_cannot_be_taken_over() -> None:
    """R6: not while somebody waits in it for an item; afterwards the rest can be."""
    source = Source(range(3), delay=0.01)
    async with scope(name="app") as s:
        items, other = s.stream(source), s.stream(range(3))
        reader = s.task(lambda: anext(items))
        await turns(3)
        with pytest.raises(anyio.BusyResourceError):
            items.map(str)
        with pytest.raises(anyio.BusyResourceError):
            other.zip(items)
        assert (await reader).unwrap() == 0
        assert await items.map(str).collect() == ["1", "2"]
        assert await other.collect() == [0, 1, 2]
    assert source.closes == 1


async def test_the_rest_of_a_stream_can_be_taken_over() -> None:
    """R6: what was read stays read."""
    source = Source(range(6))
    async with opened(source) as (_, stream):
        assert await anext(stream) == 0
        mapped = stream.map(lambda n: 10 * n)
        assert await anext(mapped) == 10
        assert await mapped.batch(3).collect() == [[20, 30, 40], [50]]
        assert source.closes == 1


def _misuses() -> list[tuple[str, Callable[[Stream[Any]], object], type[Exception], str]]:
    fn = "expected a function, got 3 (int)"
    size = "{} must be an int >= {}, got {} ({})"
    least = "{} must be an int >= {}, got {}"
    return [
        *((name, (lambda s, name=name: getattr(s, name)(3)), TypeError, f"s.stream(...).{name}(...): {fn}")
          for name in ("map", "filter", "tap", "flat_map", "take_while", "skip_while", "distinct", "catch")),
        ("scan", lambda s: s.scan(3, 0), TypeError, f"s.stream(...).scan(...): {fn}"),
        ("map 0", lambda s: s.map(str, concurrency=0), ValueError, least.format("concurrency", 1, 0)),
        ("map True", lambda s: s.map(str, concurrency=True), TypeError, size.format("concurrency", 1, True, "bool")),
        ("map 1.5", lambda s: s.map(str, concurrency=1.5), TypeError, size.format("concurrency", 1, 1.5, "float")),
        ("take", lambda s: s.take(-1), ValueError, least.format("count", 0, -1)),
        ("take '3'", lambda s: s.take("3"), TypeError, size.format("count", 0, "'3'", "str")),
        ("skip", lambda s: s.skip(-1), ValueError, least.format("count", 0, -1)),
        ("enumerate", lambda s: s.enumerate("a"), TypeError, "start must be an int, got 'a' (str)"),
        ("enumerate True", lambda s: s.enumerate(True), TypeError, "start must be an int, got True (bool)"),
        ("distinct most", lambda s: s.distinct(most=0), ValueError, least.format("most", 1, 0)),
        ("batch", lambda s: s.batch(0), ValueError, least.format("size", 1, 0)),
        ("batch within", lambda s: s.batch(1, within=0), ValueError,
         "within must be > 0 seconds or None for no limit, got 0"),
        ("batch inf", lambda s: s.batch(1, within=math.inf), ValueError,
         "within must be a finite number of seconds, got inf"),
        ("buffer", lambda s: s.buffer(0), ValueError, least.format("size", 1, 0)),
        ("buffer drop", lambda s: s.buffer(1, overflow="drop"), ValueError,
         "overflow must be one of 'wait', 'drop_oldest', 'drop_newest', got 'drop'"),
        ("throttle", lambda s: s.throttle(0), ValueError, least.format("count", 1, 0)),
        ("throttle per", lambda s: s.throttle(1, per=-1), ValueError,
         "per must be > 0 seconds or None for no limit, got -1"),
        ("debounce", lambda s: s.debounce(None), ValueError, "quiet must be a finite number of seconds, got None"),
        ("debounce nan", lambda s: s.debounce(math.nan), ValueError,
         "quiet must be > 0 seconds or None for no limit, got nan"),
        ("timeout", lambda s: s.timeout("1"), TypeError,
         "seconds must be a number of seconds or None, got '1' (str)"),
        ("retry", lambda s: s.retry(0), ValueError, least.format("times", 1, 0)),
        ("retry on", lambda s: s.retry(1, on=BaseException), TypeError,
         "on must be an Exception class or a tuple of them, got <class 'BaseException'> (type)"),
        ("retry on ()", lambda s: s.retry(1, on=()), TypeError,
         "on must be an Exception class or a tuple of them, got () (tuple)"),
        ("retry pause", lambda s: s.retry(1, pause=-1), ValueError,
         "pause must be >= 0 seconds or None for no limit, got -1"),
        ("retry max_pause", lambda s: s.retry(1, max_pause=math.inf), ValueError,
         "max_pause must be a finite number of seconds, got inf"),
        ("retry read", lambda s: s.retry(1), TypeError,
         ("stream Source (#0) of app cannot begin again: its source is an iterator, or was read from\n"
         "Right: s.stream(read_lines).retry(3)   with the function that makes it, not s.stream(read_lines())")),
        ("catch on", lambda s: s.catch(print, on=[OSError]), TypeError,
         "on must be an Exception class or a tuple of them, got [<class 'OSError'>] (list)"),
        ("merge buffer", lambda s: s.merge([1], buffer=0), ValueError, least.format("buffer", 1, 0)),
        ("merge halt", lambda s: s.merge([1], halt="both"), ValueError,
         "halt must be one of 'all', 'any', got 'both'"),
        ("broadcast", lambda s: s.broadcast(0), ValueError, least.format("count", 1, 0)),
        ("broadcast buffer", lambda s: s.broadcast(1, buffer=0), ValueError, least.format("buffer", 1, 0)),
        ("broadcast overflow", lambda s: s.broadcast(1, overflow="no"), ValueError,
         "overflow must be one of 'wait', 'drop_oldest', 'drop_newest', got 'no'"),
    ]  # fmt: skip


@pytest.mark.parametrize(("misuse", "kind", "text"), [pytest.param(*rest, id=name) for name, *rest in _misuses()])
async def test_misuse_is_told_at_the_call(misuse: Callable[[Stream[Any]], object], kind: Any, text: str) -> None:
    """S12: the option, the value and the rule; nothing was started, and the stream can be read as before."""
    source = Source(range(3))
    async with opened(source) as (_, stream):
        with pytest.raises(kind) as caught:
            misuse(stream)
        assert str(caught.value) == text
        assert source.pulls == 0
        assert await stream.collect() == [0, 1, 2]


async def test_a_coroutine_is_no_function() -> None:
    """S12: the text shows the right line, and nobody complains that it was never awaited."""

    async def fetch(number: int = 0) -> int:
        return number

    async with opened(range(3)) as (_, stream):
        text = (
            "s.stream(...).map(fetch(...)): expected an async function, got a coroutine object\n"
            "Wrong: s.stream(...).map(fetch(x))\nRight: s.stream(...).map(fetch, x)"
        )
        with pytest.raises(TypeError) as caught:
            stream.map(fetch())  # type: ignore[call-overload]
        assert str(caught.value) == text
        with pytest.raises(TypeError, match=r"s\.stream\(\.\.\.\)\.merge\(\.\.\.\): expected an iterable, got a corou"):
            stream.merge(fetch())  # type: ignore[arg-type]


async def test_operators_on_what_is_closed() -> None:
    """R6: `StreamClosed`, and no source is lost."""
    source = Source(range(3))
    async with opened(source) as (s, stream):
        await stream.aclose()
        for use in (lambda: stream.map(str), lambda: stream.broadcast(2), lambda: stream.merge([1])):
            with pytest.raises(StreamClosed, match="it was closed"):
                use()
        other = s.stream(Source())
        with pytest.raises(StreamClosed):
            other.merge(stream)
        assert await other.collect() == []
    assert source.closes == 1


async def test_the_names_of_streams() -> None:
    """S13: the source and its operators."""
    async with scope(name="app") as s:
        stream = s.stream(range(3)).map(str, concurrency=2).merge("ab").batch(2, within=1).throttle(3).debounce(1)
        assert stream.name == "range.map.merge.batch.throttle.debounce"
        assert repr(stream) == "<Stream range.map.merge.batch.throttle.debounce (#0) of app new>"
        left, right = s.stream(range(3)).broadcast(2)
        assert (left.name, right.name) == ("range.broadcast", "range.broadcast")


async def test_a_source_that_cannot_be_made_loses_no_other_one() -> None:
    """R3: what was given is closed, though the line was never made."""

    def refuse() -> Iterator[int]:
        raise Broken("made")

    for join in ("merge", "zip", "chain"):
        source = endless()
        async with scope() as s:
            with pytest.raises(Broken, match="made"):
                await getattr(s.stream(source), join)(refuse).collect()
            assert source.closes == 1
            source = endless()
            left, _ = getattr(s.stream(source), join)(refuse).broadcast(2)
            with pytest.raises(Broken, match="made"):
                await anext(left)
        assert (source.pulls, source.closes) == (0, 1)


@each_operator
@pytest.mark.virtual_time
async def test_no_operator_leaves_cycles(operator: Operator) -> None:
    """Law 7: a stream that was read is freed at once, without the garbage collector."""
    async with scope() as s:
        for _ in range(2):  # the first time round there are things that are made once
            await operator.apply(s.stream(Source(range(5)))).drain()
            await turns(3)
            gc.collect()
        gc.disable()
        try:
            await operator.apply(s.stream(Source(range(5)))).drain()
            await turns(3)
            assert gc.collect() == 0
        finally:
            gc.enable()
