"""`anyscope.testing.leaks`: what a block leaves behind is told, with the place where it was made; nothing else is."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import pickle
import sys
import threading
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyscope import CloseTimeout, Pool, ScopeMisuse, current_scope, scope, use
from anyscope._lifetime.watching import WATCHERS
from anyscope.testing._spawns import Spawns
from anyscope.testing.leaks import Leak, Leaked, Recorder, no_leaks

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


@pytest.fixture(autouse=True)
def _nothing_stays():
    """The check itself leaves nothing behind."""
    yield
    assert WATCHERS == []
    assert Spawns._all == {}


def here(offset: int = 0) -> str:
    """The place of the caller, as the check tells it."""
    frame = inspect.currentframe().f_back
    return f"tests/test_testing_leaks.py:{frame.f_lineno + offset} in {frame.f_code.co_name}"


async def open_and_hold(holders, **options):
    """Enter a scope that only the list holds."""
    made = scope(**options)
    await made.__aenter__()
    holders.append(made)
    return made


async def forever():
    await anyio.sleep_forever()


@asynccontextmanager
async def server():
    async with anyio.create_task_group() as group:
        group.start_soon(forever)
        yield "serving"
        group.cancel_scope.cancel()


# -------------------------------------------------------------------------------------------- nothing left behind
async def test_a_block_that_cleans_up_passes():
    """X: tasks, services, context managers, child scopes: all of it closed with its scope."""
    async with no_leaks(), scope(name="app", timeout=9).provide("db", server) as s:
        await s.use("db")
        await s.enter(server())
        s.on_exit(print)
        s.task(anyio.sleep, 0)
        s.start_soon(forever, daemon=True)
        async with scope(name="inner"):
            await s.parallel([forever, forever], timeout=0.01)


async def test_a_cancelled_task_has_time_to_end():
    """X: what is about to end is no leak, also where it takes some turns of the loop."""

    async def slow_to_end():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await checkpoint()

    async with anyio.create_task_group() as group, no_leaks():
        group.start_soon(slow_to_end)
        await checkpoint()
        group.cancel_scope.cancel()


async def test_what_was_there_before_does_not_count():
    """X: tasks, scopes and what is open in them, around the block."""
    async with scope(name="app").provide("db", server) as s:
        s.start_soon(forever, daemon=True)
        await s.enter(server())
        await s.use("db")
        s.on_exit(print)
        async with no_leaks():
            await s.run(anyio.sleep, 0)


async def test_a_service_of_an_outer_scope_may_stay_with_all_that_is_its_own():
    """X: it is made by whoever asks first, and closed with its scope, tasks and scopes of its own included."""

    async def factory():
        current_scope().start_soon(forever, daemon=True)
        async with scope(name="inside") as inside, anyio.create_task_group() as group:
            inside.start_soon(forever)
            group.start_soon(forever)
            yield await use("config")
            group.cancel_scope.cancel()
            inside.cancel()

    def config():
        current_scope().start_soon(forever, daemon=True)
        return {}

    def busy():
        current_scope().start_soon(forever)  # queued: there is one slot

    async with (
        scope(name="app", concurrency=1)
        .provide("db", factory)
        .provide("config", config, close=print)
        .provide("busy", busy)
    ) as s:
        s.task(forever)
        async with no_leaks():
            assert await s.use("db") == {}
            await s.use("busy")
        assert (s.statistics().services, s.statistics().queued) == (3, 1)
        s.cancel()


async def test_many_scopes_and_tasks_keep_the_records_small():
    """X: what has closed is thrown away while the block runs."""
    recorder = Recorder()
    try:
        for _ in range(60):
            async with scope() as s:
                for _ in range(50):
                    s.on_exit(id, 1)
                    s.start_soon(anyio.sleep, 0)
        assert await recorder.settle() == ()
        assert len(recorder._scopes) + len(recorder._things) < 1500
        assert len(recorder._spawns._records) < 1500
    finally:
        recorder.end()


async def test_tasks_of_an_outer_scope_keep_the_records_small():
    """X: what has ended is thrown away there too."""
    async with scope() as s:
        recorder = Recorder()
        try:
            for _ in range(3000):
                await s.task(checkpoint)
            assert len(recorder._things) < 1500
        finally:
            recorder.end()


async def test_an_outer_scope_that_closes_meanwhile_takes_all_with_it():
    """X: what the block adds to it has been closed, so nothing is left."""

    async def other(ready, leave):
        async with scope(name="other", parent=None) as s:
            ready.append(s)
            await leave.wait()

    ready, leave = [], anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(other, ready, leave)
        while not ready:
            await checkpoint()
        async with no_leaks():
            ready[0].on_exit(id, 1)
            await ready[0].enter(server())
            leave.set()


async def test_the_check_may_end_in_a_task_of_its_own():
    """X: whoever ends it, as the tear-down of a fixture may, is not left behind by that."""
    check = no_leaks()
    await check.__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(check.__aexit__, None, None, None)


# ------------------------------------------------------------------------------------------------------- tasks
async def test_a_task_that_outlives_the_block_is_told():
    """X: name, path and place of a task of an outer scope."""
    async with scope(name="app") as s, scope(name="ingest") as inner:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                inner.task(forever, name="fetch")
                inner.start_soon(forever)
                place = here(-2), here(-1)
        assert caught.value.leaks == (
            Leak("task", "fetch (#0)", "app > ingest", place[0]),
            Leak("task", "forever (#1)", "app > ingest", place[1]),
        )
        assert str(caught.value) == (
            "2 things were left behind:\n"
            f"  task fetch (#0) of app > ingest, started at {place[0]}\n"
            f"  task forever (#1) of app > ingest, started at {place[1]}\n"
            "Right: start it in a scope or task group that ends before the check, or cancel it and wait for it"
        )
        s.cancel()


async def test_a_task_of_any_scope_around_the_block_is_told_with_its_path():
    """X: also of one that is not the innermost."""
    async with scope(name="app") as s, scope(name="inner"):
        with pytest.raises(Leaked, match=r"  task forever \(#0\) of app, started"):
            async with no_leaks():
                s.start_soon(forever)
        s.cancel()


async def test_a_task_whose_id_was_that_of_an_earlier_one_is_told():
    """X: ids are used again, so the coroutine counts as well."""
    async with anyio.create_task_group() as group:
        recorder = Recorder()
        group.start_soon(forever)
        for info in anyio.get_running_tasks():
            if recorder._before.get(info.id) is not info.coro:
                recorder._before[info.id] = "an earlier one"
        assert [leak.kind for leak in await recorder.settle()] == ["task"]
        recorder.end()
        group.cancel_scope.cancel()


async def test_a_task_that_no_line_of_the_program_started_has_no_place():
    """X: it is not that of the one who runs the loop."""

    async def ready(*, task_status):
        task_status.started()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                group.start_soon(group.start, ready)
                for _ in range(9):
                    await checkpoint()
        assert [leak.place for leak in caught.value.leaks] == [""]
        group.cancel_scope.cancel()


async def test_a_task_that_waits_for_a_slot_is_told():
    """X: it has no native task yet, and would run once the block is forgotten."""
    async with scope(name="app", concurrency=1) as s:
        s.task(forever)
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                s.task(forever, name="queued")
                place = here(-1)
        assert caught.value.leaks == (Leak("task", "queued (#1)", "app", place),)
        s.cancel()


async def test_a_task_that_waited_for_a_slot_has_the_place_where_it_was_asked_for():
    """X: not that of whoever gave the slot back."""
    async with scope(name="app", concurrency=1) as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                s.task(checkpoint)
                s.task(forever)
                place = here(-1)
                for _ in range(9):
                    await checkpoint()
        assert caught.value.leaks == (Leak("task", "forever (#1)", "app", place),)
        s.cancel()


async def test_a_task_of_a_task_group_is_told():
    """X: native tasks, also those that a helper started."""

    def helper(group):
        group.start_soon(forever)

    async with anyio.create_task_group() as group:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                helper(group)
        (leak,) = caught.value.leaks
        line = helper.__code__.co_firstlineno + 1
        assert (leak.kind, leak.path) == ("task", "")
        assert leak.name.endswith("forever")
        assert leak.place == f"tests/test_testing_leaks.py:{line} in helper"
        group.cancel_scope.cancel()


async def test_a_task_of_a_task_is_told_with_its_own_place():
    """X: who started it stands there, not who started that one."""

    async def parent(group):
        group.start_soon(forever)

    async with anyio.create_task_group() as group:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                group.start_soon(parent, group)
                await anyio.sleep(0.01)
        assert [leak.place.rpartition(" ")[2] for leak in caught.value.leaks] == ["parent"]
        group.cancel_scope.cancel()


@pytest.mark.asyncio_only
async def test_a_task_that_nobody_refers_to_is_found():
    """X: asyncio itself forgets a task once nobody refers to it; the check holds it, and names its function."""

    async def forgotten():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Leaked) as caught:
        async with no_leaks():
            asyncio.create_task(forgotten())  # noqa: RUF006  that nobody refers to it is the point
            place = here(-1)
            await asyncio.sleep(0)
            gc.collect()
            (task,) = [each for each in asyncio.all_tasks() if "forgotten" in repr(each)]
    (leak,) = caught.value.leaks
    assert (leak.name.endswith("forgotten"), leak.place) == (True, place)
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.asyncio_only
async def test_a_task_factory_of_the_program_is_left_alone():
    """X: then tasks are found all the same, without a place."""
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **options):
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        async with anyio.create_task_group() as group:
            with pytest.raises(Leaked, match=r"forever\n") as caught:
                async with no_leaks():
                    group.start_soon(forever)
            assert caught.value.leaks[0].place == ""
            assert loop.get_task_factory() is factory
            group.cancel_scope.cancel()
    finally:
        loop.set_task_factory(None)


@pytest.mark.asyncio_only
async def test_a_task_factory_that_is_set_in_the_block_stays():
    """X: the check takes back only its own."""
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **options):
        return asyncio.Task(coro, loop=loop, **options)

    async with no_leaks():
        loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    loop.set_task_factory(None)


@pytest.mark.asyncio_only
async def test_the_task_factory_of_the_check_goes_with_it():
    """X: nothing stays set in the loop, and what tasks are given is passed on."""
    async with no_leaks():
        assert asyncio.get_running_loop().get_task_factory() is not None
        options = {"context": __import__("contextvars").copy_context()} if sys.version_info >= (3, 11) else {}
        task = asyncio.create_task(checkpoint(), name="nap", **options)
        assert task.get_name() == "nap"
        await task
    assert asyncio.get_running_loop().get_task_factory() is None


# ------------------------------------------------------------------------------------------------------ scopes
async def test_an_open_scope_is_told_with_all_that_is_open_in_it():
    """X: the scope, what it will have to close, and its tasks, each with its place; no task of our own machinery."""
    holders = []
    with pytest.raises(Leaked) as caught:
        async with no_leaks():
            s = await open_and_hold(holders, name="app", timeout=60)
            s.provide("db", server).provide("config", dict, close=print)
            await s.use("db")
            await s.use("config")
            await s.enter(server())
            s.on_exit(print)
            s.start_soon(forever, name="work")
            line = here(-1)
    first, *others = caught.value.leaks
    entered = inspect.getsourcelines(open_and_hold)[1] + 3
    assert first == Leak("scope", "app", "app", f"tests/test_testing_leaks.py:{entered} in open_and_hold")
    number = int(line.partition(":")[2].partition(" ")[0])
    name = line.partition(" ")[2]
    told = [(leak.kind, leak.name, leak.path, leak.place) for leak in others if leak.path]
    assert told == [
        (kind, what, "app", f"tests/test_testing_leaks.py:{number - before} {name}")
        for kind, what, before in (
            ("service", "'db' (#0)", 4),
            ("service", "'config' (#1)", 3),
            ("context manager", "server (#2)", 2),
            ("clean-up", "print (#3)", 1),
            ("task", "work (#4)", 0),
        )
    ]
    # What the two servers run in task groups of their own is no scope's.
    assert [leak.name.rpartition(".")[2] for leak in others if not leak.path] == ["forever", "forever"]
    text = str(caught.value).splitlines()
    assert text[0] == "8 things were left behind:"
    assert text[1].startswith("  scope app, entered at tests")
    assert text[2].startswith("  service 'db' (#0) of app, made at tests")
    assert text[4].startswith("  context manager server (#2) of app, entered at tests")
    assert text[5].startswith("  clean-up print (#3) of app, registered at tests")
    assert text[-1].startswith("Right: async with scope(...) as s: ...")
    await holders.pop().__aexit__(ValueError, ValueError(), None)


async def test_a_scope_of_a_generator_that_was_never_closed_is_found():
    """X: also where the generator is garbage by then; a nested scope is found by its path."""

    async def stream():
        async with scope(name="outer"), scope(name="inner"):
            yield 1

    with pytest.raises(Leaked) as caught:
        async with no_leaks():
            generator = stream()
            assert await generator.__anext__() == 1
    assert [leak.path for leak in caught.value.leaks] == ["outer", "outer > inner"]
    await generator.aclose()


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
async def test_a_scope_whose_generator_is_garbage_is_found(caplog, loop_problems):
    """X: the check holds what it wrote down, so collecting the generator hides nothing."""
    misuse = []

    async def stream():
        try:
            async with scope(name="lost"):
                yield 1
        except ScopeMisuse as error:  # it is left by whoever collects the garbage
            misuse.append(error)

    with pytest.raises(Leaked, match=r"scope lost, entered at tests.* in stream"):
        async with no_leaks():
            coroutine = stream().__anext__()
            await coroutine
            del coroutine
            gc.collect()
            await anyio.sleep(0.01)
    loop_problems.clear()


async def test_a_scope_that_closes_meanwhile_is_no_leak():
    """X: a scope of another task that is on its way out has its turns to end."""

    async def other(ready):
        async with scope(name="other"):
            ready.set()
            await checkpoint()

    async with anyio.create_task_group() as group:
        ready = anyio.Event()
        async with no_leaks():
            group.start_soon(other, ready)
            await ready.wait()


async def test_what_is_entered_in_an_outer_scope_is_told():
    """X: a context manager and a clean-up that each call adds to a scope which lives on."""
    async with scope(name="app") as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                await s.enter(server())
                s.on_exit(print)
                places = here(-2), here(-1)
        things = [leak for leak in caught.value.leaks if leak.kind != "task"]
        assert things == [
            Leak("context manager", "server (#0)", "app", places[0]),
            Leak("clean-up", "print (#1)", "app", places[1]),
        ]
        assert "Right: enter what is needed for the block in a scope of the block" in str(caught.value)


async def test_a_resource_that_was_acquired_from_an_outer_pool_is_told():
    """X: what the pool makes for the block stays, what the block has acquired does not."""

    @asynccontextmanager
    async def connect():
        async with server():
            yield object()

    async with scope(name="app") as s:
        pool = s.pool(connect, name="db", max=3)
        before = await pool.acquire()
        async with no_leaks(), pool.acquire():
            pass
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                kept = [await pool.acquire(), await pool.acquire()]
                place = here(-1)
        assert caught.value.leaks == tuple(Leak("resource", f"db #{number}", "app", place) for number in (1, 2))
        assert str(caught.value) == (
            "2 things were left behind:\n"
            f"  resource db #1 of app, acquired at {place}\n"
            f"  resource db #2 of app, acquired at {place}\n"
            "Right: async with pool.acquire() as it: ...   which gives it back"
        )
        async with no_leaks():
            pool.release(before)
            before = await pool.acquire()
            pool.release(before)
        for each in kept:
            pool.release(each)


async def test_a_resource_that_is_acquired_anew_in_the_block_is_told():
    """X: that it was lent before to somebody else does not excuse it."""
    async with scope(name="app") as s, Pool(object, name="things") as pool:
        first = await pool.acquire()
        with pytest.raises(Leaked, match="resource things #0 of app > things, acquired at"):
            async with no_leaks():
                pool.release(first)
                assert await pool.acquire() is first
        pool.release(first)
        await s.run(checkpoint)


async def test_a_pool_that_is_made_in_an_outer_scope_is_told():
    """X: the pool alone, with neither its tasks nor what it has lent."""
    async with scope(name="app") as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                pool = s.pool(object, name="things", min=2)
                place = here(-1)
                thing = await pool.acquire()
        assert caught.value.leaks == (Leak("pool", "things (#0)", "app", place),)
        assert str(caught.value) == (
            f"1 thing was left behind:\n  pool things (#0) of app, opened at {place}\n"
            "Right: make what is needed for the block in a scope of the block"
        )
        pool.release(thing)


async def test_a_pool_of_the_block_that_is_closed_is_no_leak():
    """X: neither in a scope of the block, nor alone."""
    async with no_leaks(), scope() as s, Pool(object, min=1) as alone:
        for pool in (s.pool(object, max=2), alone):
            async with pool.acquire():
                pass


async def numbers():
    """A source."""
    while True:
        await checkpoint()
        yield 1


async def test_a_stream_of_an_outer_scope_that_is_left_open_is_told():
    """X: be it read or not, without the tasks that belong to it; one that was there before is not."""
    async with scope(name="app") as s:
        before = s.stream(numbers(), own_task=True)
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                await anext(before)
                new, places = s.stream([1]), [here()]
                read, places = s.stream(numbers(), buffer=3).map(str, concurrency=3), [*places, here()]
                await anext(read)
        assert caught.value.leaks == (
            Leak("stream", "list (#1)", "app", places[0]),
            Leak("stream", "numbers.map (#2)", "app", places[1]),
        )
        assert str(caught.value) == (
            "2 things were left behind:\n"
            f"  stream list (#1) of app, opened at {places[0]}\n"
            f"  stream numbers.map (#2) of app, opened at {places[1]}\n"
            "Right: async with s.stream(...) as items: ...   which closes it, or read it to its end"
        )
        await new.aclose()


async def test_a_stream_that_is_closed_is_no_leak():
    """X: at once, by its end, or soon after its loop was left."""
    async with scope(name="app") as s, no_leaks():
        for options in ({}, {"own_task": True}):
            async with s.stream(numbers(), **options) as items:
                await anext(items)
            async for _ in s.stream(numbers(), **options):
                break
            assert await s.stream([1], **options).collect() == [1]
            s.stream(numbers(), **options)


@pytest.mark.virtual_time
async def test_a_stream_whose_closing_hangs_is_told():
    """X: once, in a scope of the block or around it, and as long as it hangs."""

    async def slow():
        try:
            yield 1
        finally:
            await anyio.sleep(5)

    async with scope(name="app") as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                await anext(s.stream(slow()))
        assert [str(leak).partition(",")[0] for leak in caught.value.leaks] == ["stream slow (#0) of app"]
    async with anyio.create_task_group() as tg:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                tg.start_soon(_leave_a_stream, slow)
        kinds = [leak.kind for leak in caught.value.leaks]
        assert kinds.count("scope") == kinds.count("stream") == 1


async def _leave_a_stream(source):
    """Leave one to its scope."""
    async with scope(name="inner") as s:
        await anext(kept := s.stream(source()))
        s.on_exit(id, kept)


async def test_streams_that_are_forgotten_are_not_kept():
    """X: what is written down of streams that are closed is thrown away."""
    async with scope(name="app") as s, no_leaks():
        for _ in range(1100):
            s.stream([1])


async def test_a_stream_of_an_outer_service_is_no_leak():
    """X: a service is meant to stay, with all that it reads."""
    kept = []

    async def feed():
        kept.append(current_scope().stream(numbers(), own_task=True))
        await anext(kept[0])
        return "feed"

    async with scope(name="app").provide("feed", feed) as s:
        async with no_leaks():
            assert await s.use("feed") == "feed"
        kept.clear()


async def test_a_service_of_the_block_that_is_being_made_is_told_as_a_task():
    """X: what is still being opened in an outer scope is a task of that scope."""

    @asynccontextmanager
    async def slow():
        await anyio.sleep_forever()
        yield

    async with scope(name="app") as s, anyio.create_task_group() as group:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                group.start_soon(s.enter, slow())
                await anyio.sleep(0.01)
        assert ("task", "slow", "app") in [(leak.kind, leak.name, leak.path) for leak in caught.value.leaks]
        group.cancel_scope.cancel()


async def test_a_clean_up_that_was_cut_short_is_no_leak_but_an_error_of_its_scope():
    """X: a closed scope has nothing left; what went wrong in it leaves as its own error."""
    with pytest.raises(ExceptionGroup) as caught:
        async with no_leaks(), scope(close_timeout=0.01) as s:
            s.on_exit(forever)
    assert isinstance(caught.value.exceptions[0], CloseTimeout)


async def test_scopes_of_other_loops_do_not_count():
    """X: another thread's event loop is another matter."""
    entered, leave = threading.Event(), threading.Event()

    async def other():
        async with scope(name="other"):
            entered.set()
            await anyio.to_thread.run_sync(leave.wait)

    thread = threading.Thread(target=anyio.run, args=[other])
    async with no_leaks():
        thread.start()
        await anyio.to_thread.run_sync(entered.wait)
    leave.set()
    thread.join()


# ------------------------------------------------------------------------------------------- errors, and nesting
async def test_the_error_of_the_block_leaves_with_the_leaks_as_a_note():
    """X: no error is lost, and neither is what was left behind."""
    async with anyio.create_task_group() as group:
        with pytest.raises(ValueError, match="mine") as caught:
            async with no_leaks():
                group.start_soon(forever)
                raise ValueError("mine")
        (note,) = caught.value.__notes__
        assert note.startswith("1 thing was left behind:\n  task ")
        group.cancel_scope.cancel()


async def test_an_error_alone_has_no_note():
    """X: nothing is added where nothing was left."""
    with pytest.raises(ValueError, match="mine") as caught:
        async with no_leaks():
            raise ValueError("mine")
    assert not hasattr(caught.value, "__notes__")


async def test_a_cancelled_block_passes_the_cancellation_on():
    """X: the check does not get in the way."""
    with anyio.move_on_after(0.01) as limit:
        async with no_leaks():
            await anyio.sleep_forever()
    assert limit.cancelled_caught


async def test_checks_may_be_nested():
    """X: each tells what was left in its own block, places included."""
    async with anyio.create_task_group() as group:
        with pytest.raises(Leaked) as outer:
            async with no_leaks():
                with pytest.raises(Leaked) as inner:
                    async with no_leaks():
                        group.start_soon(forever)
                assert len(inner.value.leaks) == 1
                async with no_leaks():
                    pass
        assert outer.value.leaks == inner.value.leaks
        assert outer.value.leaks[0].place
        group.cancel_scope.cancel()


async def test_it_decorates_a_function_too():
    """X: each call is checked."""

    @no_leaks()
    async def step(group):
        group.start_soon(forever)

    async with anyio.create_task_group() as group:
        with pytest.raises(Leaked):
            await step(group)
        group.cancel_scope.cancel()


def test_the_error_can_be_copied_and_pickled():
    """X: it crosses processes, as a test run that is spread over several needs."""
    error = Leaked((Leak("scope", "app", "app", "a.py:1 in f"), Leak("task", "t", "", "")))
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert other.leaks == error.leaks
        assert str(other) == str(error)
    assert isinstance(error, AssertionError)
    assert str(error).splitlines()[2] == "  task t"


# ------------------------------------------------------------------------------------------------------ places
async def test_a_place_skips_libraries_between():
    """X: a scope entered through an exit stack is that of the line which said so."""
    from contextlib import AsyncExitStack

    stack = AsyncExitStack()
    with pytest.raises(Leaked) as caught:
        async with no_leaks():
            await stack.enter_async_context(scope(name="app"))
            place = here(-1)
    assert [leak.place for leak in caught.value.leaks] == [place]
    await stack.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="there, a directory in use cannot be removed")
async def test_a_place_is_told_without_a_working_directory(tmp_path, monkeypatch):
    """X: a test that removes the directory it stands in is not disturbed; files are told in full then."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    async with scope(name="app") as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                s.on_exit(print)
        monkeypatch.chdir(tmp_path)
        assert caught.value.leaks[0].place.startswith(f"{__file__}:")


async def test_a_place_in_a_plain_context_manager():
    """X: the line in the generator of a plain context manager."""

    @contextmanager
    def registered(s):
        s.on_exit(print)
        yield

    async with scope(name="app") as s:
        with pytest.raises(Leaked, match=r"clean-up print .* in registered"):
            async with no_leaks():
                with registered(s):
                    pass


@pytest.mark.asyncio_only
async def test_a_task_started_by_a_callback_has_the_place_of_the_callback():
    """X: not that of whoever runs the loop."""
    loop = asyncio.get_running_loop()
    tasks = []
    with pytest.raises(Leaked, match="in callback"):
        async with no_leaks():

            def callback():
                tasks.append(loop.create_task(forever()))

            loop.call_soon(callback)
            await asyncio.sleep(0)
    tasks[0].cancel()


async def test_nothing_is_written_down_without_a_check(caplog):
    """X: a program pays for one look at an empty list."""
    caplog.set_level(logging.DEBUG)
    assert WATCHERS == []
    async with scope() as s:
        s.on_exit(print)
    assert Spawns._all == {}
