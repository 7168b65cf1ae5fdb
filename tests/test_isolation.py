"""Jobs of one worker do not see each other's context variables, however a worker finds out (A9, A7, R7)."""

from __future__ import annotations

import functools
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from anyscope import current_scope, each, scope
from anyscope._features import crew
from anyscope._features.streaming import mapping
from anyscope._lifetime.isolation import CAN_LOOK, variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from anyscope import Scope

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VAR: ContextVar[Any] = ContextVar("VAR", default="nothing")
LATE: ContextVar[str] = ContextVar("LATE")


async def in_parallel(s: Scope, fn: Callable[[int], Awaitable[Any]], n: int, limit: int) -> list[Any]:
    """As jobs of one call."""
    return [result.unwrap() for result in await s.parallel(each(fn, range(n)), concurrency=limit)]  # type: ignore[arg-type]


async def in_map(s: Scope, fn: Callable[[int], Awaitable[Any]], n: int, limit: int) -> list[Any]:
    """As calls of one map."""
    return await s.stream(range(n)).map(fn, concurrency=limit).collect()


WAYS = pytest.mark.parametrize("way", [in_parallel, in_map])


@pytest.fixture(params=[True, False], ids=["looking", "stepping"])
def can_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With this Python, and with one on which nothing can be looked at."""
    possible = CAN_LOOK and request.param
    monkeypatch.setattr(crew, "CAN_LOOK", possible)
    monkeypatch.setattr(mapping, "CAN_LOOK", possible)
    return possible


def test_looking_tells_a_change_from_none() -> None:
    """A9: what holds the variables is another object after each change, also to an equal value, and only then."""

    def look() -> None:
        VAR.set(1)
        before = variables()
        assert copy_context().run(variables) is before
        VAR.set(True)  # which is equal
        assert variables() is not before

    assert CAN_LOOK
    copy_context().run(look)


@WAYS
@pytest.mark.parametrize("limit", [2, 3])
@pytest.mark.usefixtures("can_look")
async def test_no_job_sees_what_another_one_set(way: Callable[..., Any], limit: int) -> None:
    """A9, R7: whether the others suspend, set a variable that has none yet, or an equal one, or set it back."""
    VAR.set(1)

    async def job(n: int) -> tuple[Any, str]:
        seen = VAR.get(), LATE.get("unset")
        if n % 4 == 1:
            VAR.set(True)
        if n % 4 == 2:
            LATE.set("set")
            await anyio.sleep(1)
        if n % 4 == 3:
            VAR.reset(VAR.set("for a while"))
        if n % 5 == 4:
            await anyio.lowlevel.checkpoint()
        return seen

    async with scope() as s:
        seen = await way(s, job, 40, limit)
    assert [(type(value), late) for value, late in seen] == [(int, "unset")] * 40
    assert (type(VAR.get()), LATE.get("unset")) == (int, "unset")


@WAYS
@pytest.mark.usefixtures("can_look")
async def test_each_job_sets_a_variable(way: Callable[..., Any]) -> None:
    """A7, A9: as many as may work at once go on doing so, no more, and workers are not replaced for each job."""
    VAR.set("caller")
    running = most = 0
    tasks: set[int] = set()

    async def job(n: int) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        tasks.add(anyio.get_current_task().id)
        seen = VAR.get()
        VAR.set(n)
        await anyio.sleep(n > 2)  # the first ones end before all workers have been hired
        running -= 1
        return seen

    async with scope() as s:
        began = anyio.current_time()
        seen = await way(s, job, 30, 3)
        took = anyio.current_time() - began
    assert seen == ["caller"] * 30
    assert (most, took) == (3, 9)
    assert len(tasks) <= 7


@WAYS
@pytest.mark.usefixtures("can_look")
async def test_a_job_that_sets_a_variable_and_fails(way: Callable[..., Any]) -> None:
    """A9: what it had set is not seen by those after it."""
    VAR.set("caller")

    async def job(n: int) -> object:
        seen = VAR.get()
        VAR.set(n)
        if way is in_parallel:
            raise ValueError(seen)
        return seen

    async with scope() as s:
        if way is in_map:
            assert await way(s, job, 10, 2) == ["caller"] * 10
            return
        results = await s.parallel(each(job, range(10)), concurrency=1)
    assert [str(result.pair()[0]) for result in results] == ["caller"] * 10


@pytest.mark.usefixtures("can_look")
async def test_a_generator_of_jobs_does_not_see_what_they_set() -> None:
    """A9: nor does a source of a stream."""
    seen: list[object] = []

    async def job() -> None:
        VAR.set("job")

    async def call(_: int) -> None:
        VAR.set("call")

    def jobs() -> Iterator[Callable[[], Any]]:
        for _ in range(5):
            seen.append(VAR.get())
            yield job

    async def items() -> AsyncIterator[int]:
        for number in range(5):
            seen.append(VAR.get())
            yield number

    VAR.set("caller")
    async with scope() as s:
        await s.parallel(jobs(), concurrency=1)
        await s.stream(items()).map(call, concurrency=2).collect()
    assert seen == ["caller"] * 10


@WAYS
@pytest.mark.usefixtures("can_look")
async def test_plain_functions_and_jobs_with_a_time_out(way: Callable[..., Any]) -> None:
    """A4, R7: a plain function may set a variable too, and so may what runs below a time-out."""
    VAR.set("caller")

    def note(n: int) -> object:
        seen = VAR.get()
        VAR.set(n)
        return seen

    async def job(n: int) -> object:
        return note(n)

    async with scope() as s:
        if way is in_map:
            assert await s.stream(range(9)).map(note, concurrency=2).collect() == ["caller"] * 9
            return
        jobs = [functools.partial(job, n) for n in range(9)]
        results = await s.parallel(jobs, concurrency=2, job_timeout=5)
    assert [result.unwrap() for result in results] == ["caller"] * 9


@WAYS
async def test_cancelled_as_a_worker_is_replaced(way: Callable[..., Any]) -> None:
    """A10: the one that is hired in its place begins nothing."""
    begun: list[int] = []

    async def job(n: int) -> None:
        begun.append(n)
        VAR.set(n)
        s.cancel("enough")

    async with scope() as s:
        await way(s, job, 10, 2)
    assert begun in ([0], [0, 1])


@pytest.mark.parametrize("limit", [1, 2, None])
@pytest.mark.usefixtures("can_look")
async def test_a_generator_of_jobs_that_holds_a_variable(limit: int | None) -> None:
    """A7, A9: it may set it back after its last job, and when it is closed; no job sees it."""
    ends: list[str] = []

    async def job() -> object:
        await anyio.sleep(1)
        return VAR.get()

    async def fail() -> None:
        raise ValueError

    def jobs(*work: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
        token = VAR.set("source")
        try:
            for each_job in work:
                assert VAR.get() == "source"
                yield each_job
        finally:
            VAR.reset(token)
            ends.append(VAR.get())

    VAR.set("caller")
    async with scope() as s:
        results = await s.parallel(jobs(*[job] * 5), concurrency=limit)
        await s.parallel(jobs(*[fail] * 50), concurrency=limit, fail_fast=True)
    assert [result.unwrap() for result in results] == ["caller"] * 5
    assert ends == ["caller"] * 2


async def test_what_a_source_sets_is_not_taken_for_what_a_call_has_set() -> None:
    """R7: no worker is replaced for that."""
    tasks: set[int] = set()

    async def items() -> AsyncIterator[int]:
        for number in range(10):
            VAR.set(number)
            yield number

    async def call(number: int) -> int:
        tasks.add(anyio.get_current_task().id)
        await anyio.sleep(1)
        return number

    async with scope() as s:
        assert await s.stream(items()).map(call, concurrency=2).collect() == list(range(10))
    assert len(tasks) == 2


@pytest.mark.usefixtures("can_look")
async def test_progress_is_told_in_the_context_of_the_call() -> None:
    """A8, A9: it does not see what jobs have set, and they do not see what it sets."""
    VAR.set("caller")
    seen: list[object] = []

    async def job(number: int) -> object:
        before = VAR.get()
        VAR.set(number)
        return before

    def progress(_: object) -> None:
        seen.append(VAR.get())
        LATE.set("progress")

    async with scope() as s:
        results = await s.parallel(each(job, range(4)), concurrency=1, on_progress=progress)
    assert seen == ["caller"] * 4
    assert [result.unwrap() for result in results] == ["caller"] * 4
    assert LATE.get("unset") == "unset"


@pytest.mark.parametrize("kind", ["plain", "once", "slow", "scope"])
@pytest.mark.usefixtures("can_look")
async def test_a_source_that_holds_a_variable(kind: str) -> None:
    """R7: it sees what it has set, whichever worker leads and whatever calls set, and may set it back."""
    seen: list[object] = []

    async def items() -> AsyncIterator[int]:
        token = VAR.set("source")
        try:
            for number in range(8):
                seen.append(VAR.get())
                yield number
        finally:
            VAR.reset(token)

    def plain(number: int) -> object:
        before = VAR.get()
        VAR.set(number)
        return before

    async def once(number: int) -> object:
        return plain(number) if number == 3 else VAR.get()

    async def slow(number: int) -> object:
        await anyio.sleep(8 - number)
        return VAR.get()

    async def in_scope(_: int) -> object:
        async with scope():
            return VAR.get()

    call: Any = {"plain": plain, "once": once, "slow": slow, "scope": in_scope}[kind]
    VAR.set("caller")
    async with scope() as s:
        assert await s.stream(items()).map(call, concurrency=2).collect() == ["caller"] * 8
    assert seen == ["source"] * 8


async def test_progress_is_told_where_the_scope_is_current() -> None:
    """A8: whatever scope is current for the caller."""
    seen: list[str] = []

    async def job() -> str:
        return current_scope().name

    async with scope(name="outer") as outer, scope(name="inner"):
        results = await outer.parallel([job], on_progress=lambda _: seen.append(current_scope().name))
    assert (results[0].unwrap(), seen) == ("outer", ["outer"])


async def test_a_list_of_jobs_that_changes_while_they_run() -> None:
    """A1: one result for each job that was begun."""
    jobs: list[Callable[[], Any]] = []

    async def add() -> str:
        jobs.extend([end, end])
        return "added"

    async def remove() -> str:
        jobs.clear()
        return "removed"

    async def end() -> str:
        return "ended"

    async with scope() as s:
        jobs[:] = [add]
        grown = await s.parallel(jobs, concurrency=1)
        jobs[:] = [remove, end, end]
        shrunk = await s.parallel(jobs, concurrency=1)
    assert [result.unwrap() for result in grown] == ["added", "ended", "ended"]
    assert [result.unwrap() for result in shrunk] == ["removed"]


@pytest.mark.usefixtures("can_look")
async def test_a_source_that_sets_a_variable_only_later() -> None:
    """R7: it sees it from then on, and no call does."""
    seen: list[object] = []

    async def items() -> AsyncIterator[int]:
        for number in range(8):
            if number == 3:
                VAR.set("source")
            seen.append(VAR.get())
            yield number

    async def call(number: int) -> object:
        before = VAR.get()
        await anyio.sleep(number % 3)
        VAR.set(number)
        return before

    def late(number: int) -> object:
        return VAR.get() if number < 5 else VAR.set(number) and "caller"

    VAR.set("caller")
    async with scope() as s:
        assert await s.stream(items()).map(call, concurrency=2).collect() == ["caller"] * 8
        assert await s.stream(items()).map(late, concurrency=2).collect() == ["caller"] * 8
    assert seen == [*["caller"] * 3, *["source"] * 5] * 2
