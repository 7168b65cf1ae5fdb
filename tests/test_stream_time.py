"""Operators about time and errors: `batch`, `throttle`, `debounce`, `retry`, `catch` (R6, R8, P07, P12, P13)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest

from anyscope import ScopeCancelled, Stream, StreamClosed, StreamTimeout, scope
from stream_sources import Broken, Source, double_later, opened

pytestmark = pytest.mark.virtual_time


class Timed(Source):
    """A source whose items come at given moments.

    Args:
        moments: Seconds from the first step, one for each item; the item is its number.
        options: As for any source.
    """

    def __init__(self, *moments: float, **options: Any) -> None:
        super().__init__(range(len(moments)), **options)
        self._moments = iter(moments)
        self._began: float | None = None

    async def __anext__(self) -> Any:
        if self._began is None:
            self._began = anyio.current_time()
        for moment in self._moments:
            await anyio.sleep(max(0.0, self._began + moment - anyio.current_time()))
            break
        return await super().__anext__()


async def timed(items: Stream[Any], pause: float = 0.0) -> list[tuple[float, Any]]:
    """All items, and when each came, in seconds from now."""
    began, got = anyio.current_time(), []
    async with items:
        async for item in items:
            got.append((round(anyio.current_time() - began, 6), item))
            await anyio.sleep(pause)
    return got


# ------------------------------------------------------------------ batch
async def test_p07_batches_by_size() -> None:
    """P07: 100, 100, 50; the last one may be shorter, and none is empty."""
    async with scope() as s:
        for within in (None, 1.0):
            sizes = await s.stream(range(250)).batch(100, within=within).map(len).collect()
            assert sizes == [100, 100, 50]
            assert await s.stream(range(200)).batch(100, within=within).map(len).collect() == [100, 100]
            assert await s.stream([]).batch(100, within=within).collect() == []


async def test_p07_batches_by_time() -> None:
    """P07: the time counts from the first item of the batch; never an empty one."""
    async with opened(Timed(0, 0.01, 0.2, 0.9)) as (_, stream):
        got = await timed(stream.batch(100, within=0.05))
    assert got == [(0.05, [0, 1]), (0.25, [2]), (0.9, [3])]


async def test_p07_a_full_batch_is_given_at_once() -> None:
    """P07: and the time of the next one counts from its own first item."""
    async with opened(Timed(0, 0.01, 0.04, 0.2, 5)) as (_, stream):
        got = await timed(stream.batch(2, within=0.05))
    assert got == [(0.01, [0, 1]), (0.09, [2]), (0.25, [3]), (5.0, [4])]


@pytest.mark.parametrize("within", [None, 10.0])
async def test_p07_a_partial_batch_comes_before_an_error(within: float | None) -> None:
    """P07, R8: at once, and then the error, bare."""
    error, got = Broken("source"), list[Any]()
    async with opened(Timed(0, 1, 2, error=error)) as (_, stream):
        began = anyio.current_time()
        with pytest.raises(Broken) as caught:
            async for batch in stream.batch(2, within=within):
                got.append(batch)
        assert caught.value is error
        assert got == [[0, 1], [2]]
        assert anyio.current_time() - began == pytest.approx(2)


@pytest.mark.parametrize("within", [None, 10.0])
async def test_an_error_behind_a_partial_batch_is_not_lost(within: float | None) -> None:
    """R8: the reader leaves after the partial batch: the block raises the error."""
    source = Source(range(3), error=Broken("source"))
    async with opened(source) as (_, stream):
        with pytest.raises(Broken, match="source"):
            async with stream.batch(2, within=within) as batches:
                async for batch in batches:
                    if len(batch) == 1:
                        break
        assert source.closes == 1


async def test_a_slow_reader_gets_what_came_meanwhile() -> None:
    """R8: up to the size, and no item waits for a reader that is there."""
    source = Timed(*(number / 100 for number in range(10)))
    async with opened(source) as (_, stream):
        got = await timed(stream.batch(4, within=0.015), pause=1)
    assert got == [(0.015, [0, 1]), (1.015, [2, 3, 4, 5]), (2.015, [6, 7, 8, 9])]


@pytest.mark.parametrize("cut", [0.003, 0.01, 0.04, 0.3])
async def test_a_cut_reader_of_batches_loses_nothing(cut: float) -> None:
    """R8: a batch that is being filled is kept for the next step."""
    got: list[list[int]] = []
    source = Timed(*(number * 0.013 for number in range(30)))
    async with opened(source) as (_, stream), stream.batch(5, within=0.05) as batches:
        while True:
            try:
                with anyio.move_on_after(cut):
                    got.append(await anext(batches))
            except StopAsyncIteration:
                break
    assert list(itertools.chain(*got)) == list(range(30))
    assert all(got)


# ------------------------------------------------------------------ throttle and debounce
async def test_p13_throttle() -> None:
    """P13: at most ten in any second; all come, as early as that allows, in order."""
    async with opened(range(25)) as (_, stream):
        got = await timed(stream.throttle(10))
    assert got == [(float(number // 10), number) for number in range(25)]
    async with opened(Timed(0, 0.9, 0.95, 1.0, 1.05, 9)) as (_, stream):
        got = await timed(stream.throttle(2, per=1))
    assert got == [(0, 0), (0.9, 1), (1.0, 2), (1.9, 3), (2.0, 4), (9, 5)]


async def test_throttle_reads_no_further_than_it_gives() -> None:
    """R6: the source is read as slowly; one item is in hand while it waits."""
    source = Source(range(5))
    async with opened(source) as (_, stream), stream.throttle(1) as items:
        assert await anext(items) == 0
        assert source.pulls == 1
        with anyio.move_on_after(0.5):
            await anext(items)
        assert source.pulls == 2
        assert await anext(items) == 1
        assert source.pulls == 2


@pytest.mark.parametrize("is_buffered", [True, False])
async def test_a_cut_reader_of_a_throttle_loses_nothing(is_buffered: bool) -> None:
    """R6: the item that is too early is kept for the next step."""
    got = []
    async with opened(Source(range(10)), buffer=2 * is_buffered) as (_, stream), stream.throttle(1, per=0.1) as items:
        while len(got) < 10:
            with anyio.move_on_after(0.03):
                got.append(await anext(items))
    assert got == list(range(10))


async def test_p13_debounce() -> None:
    """P13: the last before each quiet time, when that is over, and the last of all at the end."""
    async with opened(Timed(0, 0.02, 0.04, 0.2, 0.3, 0.31)) as (_, stream):
        got = await timed(stream.debounce(0.05))
    assert got == [(0.09, 2), (0.25, 3), (0.31, 5)]
    async with opened(Timed(0, 0.05, 0.1)) as (_, stream):  # exactly the quiet time is quiet
        assert await timed(stream.debounce(0.05)) == [(0.05, 0), (0.1, 1), (0.1, 2)]


async def test_debounce_before_an_error() -> None:
    """P13: the last one, then the error."""
    got = []
    async with opened(Timed(0, 0.01, error=Broken("source"))) as (_, stream):
        with pytest.raises(Broken, match="source"):
            async for item in stream.debounce(1):
                got.append(item)  # noqa: PERF401  kept when it raises
    assert got == [1]


@pytest.mark.parametrize("pause", [0.0, 0.07, 1.0, 30.0])
async def test_debounce_does_not_depend_on_the_reader(pause: float) -> None:
    """P13: what was followed by quiet is given, however slow the reader is."""
    moments = [round(at + step, 3) for at in range(10) for step in (0, 0.02, 0.04)]
    async with opened(Timed(*moments)) as (_, stream):
        got = await timed(stream.debounce(0.05), pause=pause)
    assert [item for _, item in got] == [number for number in range(30) if number % 3 == 2]


@pytest.mark.parametrize("cut", [0.003, 0.04, 0.7])
async def test_a_cut_reader_of_a_debounce_loses_nothing(cut: float) -> None:
    """P13: nor does it get what was not followed by quiet."""
    moments = [round(at + step, 3) for at in range(5) for step in (0, 0.02, 0.04)]
    got = []
    async with opened(Timed(*moments)) as (_, stream), stream.debounce(0.05) as items:
        while True:
            try:
                with anyio.move_on_after(cut):
                    got.append(await anext(items))
            except StopAsyncIteration:
                break
            await anyio.sleep(0.011)
    assert got == [2, 5, 8, 11, 14]


async def test_debounce_is_bounded() -> None:
    """Law 7: a reader that stops stops the source at last, and loses nothing."""
    source = Source(range(40), delay=1)
    async with opened(source) as (_, stream), stream.debounce(0.5) as items:
        assert await anext(items) == 0
        await anyio.sleep(100)
        assert source.given == 18
        assert [item async for item in items] == list(range(1, 40))


# ------------------------------------------------------------------ timeout
async def test_timeout_bounds_the_wait_for_an_item() -> None:
    """R4: not the reader's own time; of what is upstream only."""
    async with opened(Timed(0, 0.5, 1.4, 9)) as (_, stream):
        got = []
        with pytest.raises(StreamTimeout, match="no item within 1 s"):
            async for item in stream.timeout(1).map(double_later):
                got.append(item)
                await anyio.sleep(0.3)
        assert got == [0, 2, 4]


# ------------------------------------------------------------------ retry
class Attempts:
    """A function that makes a source, which fails a few times.

    Args:
        failures: How many attempts fail, each after two items.
        kind: Makes the error from the attempt's number.
    """

    def __init__(self, failures: int, kind: Callable[[str], Exception] = Broken) -> None:
        self.failures = failures
        self.kind = kind
        self.made: list[Source] = []
        self.moments: list[float] = []

    def __call__(self) -> Source:
        """Make the next one."""
        self.moments.append(anyio.current_time())
        number = len(self.made) + 1
        error = self.kind(f"attempt {number}") if number <= self.failures else None
        self.made.append(Source(range(2 if error else 3), error=error))
        return self.made[-1]


async def test_p12_retry_makes_a_fresh_source() -> None:
    """P12: for each attempt; what was given before an error is given again; each is closed once, before the next."""
    attempts = Attempts(2)
    async with scope() as s:
        assert await s.stream(attempts).retry(2).collect() == [0, 1, 0, 1, 0, 1, 2]
        assert [source.closes for source in attempts.made] == [1, 1, 1]


async def test_p12_when_the_attempts_are_used_up() -> None:
    """P12: the last error, with the earlier ones as notes; never a normal end."""
    attempts, got = Attempts(9), list[int]()
    async with scope() as s:
        with pytest.raises(Broken, match="attempt 3") as caught:
            async for item in s.stream(attempts).retry(2):
                got.append(item)
    assert got == [0, 1] * 3
    assert [source.closes for source in attempts.made] == [1, 1, 1]
    assert caught.value.__notes__ == [
        "attempt 1 failed with Broken: attempt 1",
        "attempt 2 failed with Broken: attempt 2",
    ]


@pytest.mark.parametrize(
    ("options", "pauses"),
    [
        ({}, [0, 0, 0, 0]),
        ({"pause": 1}, [1, 2, 4, 8]),
        ({"pause": 1, "max_pause": 3}, [1, 2, 3, 3]),
        ({"pause": 5, "max_pause": 0}, [0, 0, 0, 0]),
    ],
)
async def test_pauses_between_attempts(options: dict[str, Any], pauses: list[float]) -> None:
    """R6: doubled each time, up to the longest."""
    attempts = Attempts(4)
    async with scope() as s:
        await s.stream(attempts).retry(4, **options).drain()
    assert [later - earlier for earlier, later in itertools.pairwise(attempts.moments)] == pauses


async def test_a_thousand_attempts() -> None:
    """R6: the pause has a limit, also where doubling it would overflow."""
    attempts = Attempts(1500)
    async with scope() as s:
        assert await s.stream(attempts).retry(1500, pause=0.001, max_pause=0.002).count() == 3003


async def test_retry_only_after_some_errors() -> None:
    """R6: others go through at once."""
    attempts = Attempts(2, KeyError)
    async with scope() as s:
        with pytest.raises(KeyError):
            await s.stream(attempts).retry(5, on=(Broken, OSError)).drain()
        assert len(attempts.made) == 1
        assert await s.stream(attempts).retry(5, on=LookupError).count() == 5


async def test_retry_of_a_source_that_cannot_be_made() -> None:
    """R6: that is a failed attempt like any other."""
    asked = itertools.count(1)

    def connect() -> Iterable[int]:
        if next(asked) < 3:
            raise ConnectionRefusedError
        return [1, 2]

    async with scope() as s:
        assert await s.stream(connect).retry(2, on=OSError).collect() == [1, 2]
        assert await s.stream([1, 2]).retry(2).collect() == [1, 2]  # a list can be read again


async def test_retry_repeats_the_stages_before_it_and_not_those_after() -> None:
    """R6: state begins anew with each attempt, and an error downstream is none of its business."""
    attempts = Attempts(1)
    async with scope() as s:
        assert await s.stream(attempts).enumerate().retry(1).enumerate().collect() == [
            (0, (0, 0)), (1, (1, 1)), (2, (0, 0)), (3, (1, 1)), (4, (2, 2)),
        ]  # fmt: skip
        attempts = Attempts(0)

        def fail(_: int) -> None:
            raise Broken("downstream")

        with pytest.raises(Broken, match="downstream"):
            await s.stream(attempts).retry(5).map(fail).drain()
        assert len(attempts.made) == 1


@pytest.mark.parametrize("operator", ["merge", "zip", "chain"])
async def test_retry_of_several_sources(operator: str) -> None:
    """P12: all are made afresh; all can be read again, or it is refused."""
    left, right = Attempts(1), Attempts(0)
    async with scope() as s:
        joined = getattr(s.stream(left), operator)(s.stream(right)).retry(1)
        items = await joined.collect()
        assert items[-1] in (2, (2, 2))
        assert [source.closes for source in left.made] == [1, 1]
        assert [source.closes for source in right.made] == [1, 1]
        with pytest.raises(TypeError, match="cannot begin again"):
            getattr(s.stream(left), operator)(right()).retry(1)


async def test_what_was_read_from_cannot_be_read_again() -> None:
    """P12: a list can, until its first item has been taken."""
    async with opened([1, 2]) as (_, stream):
        assert await anext(stream) == 1
        with pytest.raises(TypeError, match="its source is an iterator, or was read from"):
            stream.retry(1)


async def test_retry_over_calls_at_once_and_time_outs() -> None:
    """R6: a `StreamTimeout` may be retried, and a map with several calls made anew."""
    moments = iter([[0, 5], [0, 0.1]])
    async with scope() as s:
        stream = s.stream(lambda: Timed(*next(moments)), item_timeout=1).map(double_later, concurrency=2)
        assert await stream.retry(1, on=TimeoutError).collect() == [0, 0, 2]


async def test_an_error_while_a_failed_attempt_is_closed() -> None:
    """R6: that is not retried; both errors can be seen."""
    error = Broken("source")
    async with scope() as s:
        with pytest.raises(OSError, match="closing") as caught:
            await s.stream(lambda: Source(range(1), error=error, close_error=OSError("closing"))).retry(3).drain()
        assert caught.value.__context__ is error


async def test_cancellation_in_the_pause() -> None:
    """R6: it ends there, and no attempt follows."""
    attempts = Attempts(5)
    async with scope() as s:
        with anyio.move_on_after(1):
            await s.stream(attempts).retry(5, pause=10).drain()
        await anyio.sleep(100)
    assert [source.closes for source in attempts.made] == [1]


@pytest.mark.parametrize("operator", ["retry", "catch"])
async def test_a_cancelled_scope_is_no_error(operator: str) -> None:
    """R2: `ScopeCancelled` goes through, whatever is to be caught."""
    calls = []

    async def cancelled() -> AsyncIterator[int]:
        calls.append("made")
        yield 1
        raise ScopeCancelled(path="app", action="reading", reason="enough")

    async with scope() as s:
        stream = s.stream(cancelled)
        with pytest.raises(ScopeCancelled):
            await (stream.retry(3) if operator == "retry" else stream.catch(calls.append)).drain()
    assert calls == ["made"]


# ------------------------------------------------------------------ catch
async def _later(error: Exception) -> Iterator[Any]:
    await anyio.sleep(0.01)
    return iter([str(error)])


async def _generated(error: Exception) -> AsyncIterator[Any]:
    yield str(error)


@pytest.mark.parametrize(
    ("handler", "rest"),
    [
        (lambda _: None, []),
        (lambda error: [str(error)], ["source"]),
        (_later, ["source"]),
        (_generated, ["source"]),
        (lambda _: [], []),
    ],
)
async def test_catch_goes_on_with_what_the_handler_gives(handler: Any, rest: list[Any]) -> None:
    """R6: nothing, or any iterable, from a plain or an async function; the source is closed."""
    source = Source(range(2), error=Broken("source"))
    async with opened(source) as (_, stream):
        assert await stream.catch(handler).collect() == [0, 1, *rest]
        assert source.closes == 1
    async with opened(range(2)) as (_, stream):
        assert await stream.catch(handler).collect() == [0, 1]


async def test_catch_only_some_errors() -> None:
    """R6: others go through, and what comes from downstream is never seen."""
    handled: list[Exception] = []
    async with scope() as s:
        with pytest.raises(Broken):
            await s.stream(Source(error=Broken())).catch(handled.append, on=(OSError, KeyError)).drain()
        assert await s.stream(Source(error=KeyError(1))).catch(handled.append, on=LookupError).collect() == []
        with pytest.raises(ZeroDivisionError):
            await s.stream([0]).catch(handled.append).map(lambda n: 1 // n).drain()
        with pytest.raises(ZeroDivisionError):
            async with s.stream([0]).catch(handled.append) as items:
                async for item in items:
                    1 // item
    assert [type(error) for error in handled] == [KeyError]


async def test_errors_of_the_handler() -> None:
    """R6: of the function, and of what it gives: raised, with the first error below; never caught again."""

    def fails(_: Exception) -> None:
        raise OSError("handler")

    rest = Source(error=OSError("rest"))
    async with scope() as s:
        with pytest.raises(OSError, match="handler") as caught:
            await s.stream(Source(error=Broken("source"))).catch(fails).drain()
        assert isinstance(caught.value.__context__, Broken)
        with pytest.raises(OSError, match="rest"):
            await s.stream(Source(error=Broken("source"))).catch(lambda _: rest).drain()
        assert rest.closes == 1
        with pytest.raises(TypeError, match=r"^catch\(\.\.\.\): expected an async or plain iterable"):
            await s.stream(Source(error=Broken("source"))).catch(lambda _: 3).drain()  # type: ignore[call-overload]


async def test_what_the_handler_gives_is_closed() -> None:
    """R3: when the reader leaves in the middle of it."""
    source, rest = Source(error=Broken("source")), Source(range(9))
    async with opened(source) as (_, stream):
        async with stream.catch(lambda _: rest) as items:
            async for _ in items:
                break
        assert (source.closes, rest.closes) == (1, 1)


async def test_a_time_out_may_be_caught() -> None:
    """R4, R6: and gone on after with something else."""
    async with opened(Timed(0, 9), item_timeout=1) as (_, stream):
        assert await stream.catch(lambda _: ["late"], on=StreamTimeout).collect() == [0, "late"]


# ------------------------------------------------------------------ ends, and who is under way
TIMED_OPERATORS: list[Any] = [
    lambda stream: stream.throttle(100),
    lambda stream: stream.timeout(9).throttle(100),
    lambda stream: stream.batch(2, within=1),
    lambda stream: stream.debounce(0.001),
]


async def paced(pause: float) -> AsyncIterator[int]:
    """Three items from a generator, of which Python can tell whether it has ended."""
    for number in range(3):
        await anyio.sleep(pause)
        yield number


@pytest.mark.virtual_time
@pytest.mark.parametrize("operator", TIMED_OPERATORS, ids=["throttle", "timeout.throttle", "batch", "debounce"])
async def test_a_second_loop_after_the_end_is_refused(operator: Any) -> None:
    """R2: as with every stream."""
    async with scope() as s:
        items = operator(s.stream(paced(0.01)))
        async for _ in items:
            pass
        with pytest.raises(StreamClosed, match="its source has ended"):
            aiter(items)


@pytest.mark.virtual_time
@pytest.mark.parametrize("operator", TIMED_OPERATORS[:2], ids=["throttle", "timeout.throttle"])
async def test_a_throttled_source_that_the_reader_cut_off_has_not_ended(operator: Any) -> None:
    """R2: the cut has ended the generator, and that does not look like the end of what it gives."""
    async with scope() as s:
        items = operator(s.stream(paced(0.1)))
        assert await anext(items) == 0
        with anyio.move_on_after(0.01):
            await anext(items)
        with pytest.raises(StreamClosed):
            await anext(items)


@pytest.mark.virtual_time
async def test_an_item_that_waits_for_its_turn_is_not_the_end() -> None:
    """R6: a reader that is cut off while the last one waits gets it, in a second loop too."""
    async with scope() as s:
        items = s.stream(range(2)).throttle(1, per=1.0)
        assert await anext(items) == 0
        with anyio.move_on_after(0.1):
            await anext(items)
        assert [item async for item in items] == [1]


@pytest.mark.virtual_time
async def test_nothing_is_closed_under_a_step_that_waits_for_its_turn() -> None:
    """R3: `aclose()` in another task waits for it, and nobody else begins a block meanwhile."""
    source = Source(range(9))
    async with scope() as s:
        items = s.stream(source).throttle(1, per=1.0)
        seen: list[Any] = []

        async def close() -> None:
            await anyio.sleep(0.5)
            with pytest.raises(anyio.BusyResourceError):
                await items.__aenter__()
            seen.append(source.closes)
            await items.aclose()
            seen.append(source.closes)

        s.start_soon(close)
        with pytest.raises(StreamClosed):
            async for item in items:
                seen.append((item, source.closes))  # noqa: PERF401  what came before the error counts
    assert seen == [(0, 0), 0, (1, 0), 1]
