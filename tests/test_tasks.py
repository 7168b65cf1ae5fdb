"""Tasks: handles, the four ways to start work, time-outs and cancellation (T1-T7, S4, S5), as a user sees them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from anyscope import (
    Err,
    Hooks,
    Ok,
    Scope,
    ScopeClosed,
    ScopeMisuse,
    Task,
    TaskCancelled,
    TaskNotDone,
    TaskTimeout,
    scope,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Boom(Exception):
    """An error of a user's function."""


class Probe:
    """Something whose lifetime is watched."""


async def ok(value: Any = None, after: float = 0) -> Any:
    await anyio.sleep(after)
    return value


async def bad(error: BaseException, after: float = 0) -> None:
    await anyio.sleep(after)
    raise error


async def hang() -> None:
    await anyio.sleep_forever()


def error_of(task: Task[Any]) -> Any:
    """The error of a task that has ended with one."""
    match task.result():
        case Err(error):
            return error
        case other:
            pytest.fail(f"{task} gave {other}")


def reason_of(task: Task[Any]) -> object:
    """The reason of a task that was cancelled."""
    error = error_of(task)
    assert type(error) is TaskCancelled
    return error.reason


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


@contextmanager
def no_collector() -> Iterator[None]:
    """Only reference counts free anything in the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ------------------------------------------------------------------ task (T1, T7)


async def test_a_task_gives_its_result_as_often_as_asked() -> None:
    """T1: awaiting twice gives the same object; so does `result()`."""
    async with scope() as s:
        task = s.task(ok, 1)
        first = await task
        assert first == Ok(1)
        assert await task is first
        assert task.result() is first


async def test_a_failed_task_gives_its_error_as_often_as_asked() -> None:
    """T1: the very exception object, and the scope ends normally since it was looked at."""
    error = Boom("no")
    async with scope() as s:
        task = s.task(bad, error)
        first = await task
        assert isinstance(first, Err)
        assert first.error is error
        assert await task is first


async def test_a_task_starts_now_and_not_when_awaited() -> None:
    """T1: it runs while the caller does something else."""
    log: list[str] = []

    async def work() -> None:
        log.append("ran")

    async with scope() as s:
        s.task(work)
        await anyio.sleep(0.005)
        assert log == ["ran"]


async def test_the_caller_is_not_suspended_by_task() -> None:
    """T1: `s.task` returns before a line of the function has run."""
    log: list[str] = []

    async def work() -> None:
        log.append("task")

    async with scope() as s:
        s.task(work)
        log.append("caller")
    assert log == ["caller", "task"]


async def test_a_failing_task_does_not_disturb_its_siblings() -> None:
    """T1: a failure is a value; the others run on, and the scope is not cancelled."""
    async with scope() as s:
        sibling = s.task(ok, "fine", 0.01)
        failing = s.task(bad, Boom())
        assert not await failing
        assert not s.cancelled
        assert not sibling.done
    assert sibling.result() == Ok("fine")


@pytest.mark.parametrize("value", [None, 0, ValueError("a value"), Ok(1), Err(KeyError())], ids=repr)
async def test_whatever_a_function_returns_is_its_value(value: object) -> None:
    """T1, T4: `None`, an exception object and a result are values like any other, not interpreted."""
    async with scope() as s:
        result = await s.task(ok, value)
        assert type(result) is Ok
        assert result.value is value


@pytest.mark.parametrize(
    "error",
    [Boom("no"), TimeoutError("mine"), ExceptionGroup("many", [Boom(), KeyError()]), StopAsyncIteration()],
    ids=repr,
)
async def test_exceptions_become_values_unchanged(error: Exception) -> None:
    """T5: the very object, also a group, a time-out of the function's own and `StopAsyncIteration`."""
    async with scope() as s:
        task = s.task(bad, error)
        await task
        assert error_of(task) is error
        assert task.status == "error"


async def test_stop_iteration_is_a_runtime_error() -> None:
    """T5: Python does not let a `StopIteration` out of a coroutine; it is the cause of the error."""
    async with scope() as s:
        task = s.task(bad, StopIteration(3))
        await task
        assert type(error_of(task)) is RuntimeError
        assert type(error_of(task).__cause__) is StopIteration


async def test_a_handle_tells_all_about_its_task() -> None:
    """T7: name, index, scope, status and done, from the start to the end."""
    async with scope(name="app") as s:
        first, second = s.task(ok, 1), s.task(bad, Boom(), name="second")
        assert (first.name, first.index, first.scope, first.status, first.done) == ("ok", 0, s, "running", False)
        assert (second.name, second.index) == ("second", 1)
        await first
        await second
        assert (first.status, first.done) == ("ok", True)
        assert (second.status, second.done) == ("error", True)
        third = s.task(hang)
        third.cancel()
        await third
        assert (third.index, third.status, third.done) == (2, "cancelled", True)


async def test_the_text_of_a_handle_is_exact() -> None:
    """T7: repr shows name, index, path and status."""
    async with scope(name="app") as s, scope(name="in", concurrency=1) as inner:
        task = s.task(ok, name="fetch 7")
        assert repr(task) == "<Task fetch 7 (#0) of app running>"
        await task
        assert repr(task) == "<Task fetch 7 (#0) of app ok>"
        failed = s.task(bad, Boom("secret"))
        await failed
        assert repr(failed) == "<Task bad (#1) of app error>"
        first, second = inner.task(hang), inner.task(hang)
        assert repr(first) == "<Task hang (#0) of app > in running>"
        assert repr(second) == "<Task hang (#1) of app > in queued>"
        inner.cancel("over")
    assert repr(second) == "<Task hang (#1) of app > in cancelled>"


async def test_asking_too_early() -> None:
    """T7: `result()` before the end raises `TaskNotDone`, and changes nothing."""
    async with scope(name="app") as s:
        task = s.task(ok, 1)
        with pytest.raises(TaskNotDone, match=r"task ok \(#0\) of app has not finished yet") as info:
            task.result()
        assert info.value.task == "ok (#0) of app"
        assert await task == Ok(1)


async def test_a_handle_is_neither_true_nor_false() -> None:
    """T7: `if task:` is a forgotten `await`, and told so."""
    async with scope() as s:
        task = s.task(ok)
        with pytest.raises(TypeError, match="Right: if await task"):
            bool(task)


class Client:
    async def get(self, path: str) -> str:
        await anyio.lowlevel.checkpoint()
        return f"got {path}"

    async def __call__(self, path: str) -> str:
        await anyio.lowlevel.checkpoint()
        return f"called {path}"

    @staticmethod
    async def static(path: str) -> str:
        return f"static {path}"

    @classmethod
    async def of_class(cls, path: str) -> str:
        return f"class {path}"


@pytest.mark.parametrize(
    ("fn", "name", "value"),
    [
        (ok, "ok", "/"),
        (partial(ok, after=0), "ok", "/"),
        (partial(partial(ok), after=0), "ok", "/"),
        (Client().get, "Client.get", "got /"),
        (Client(), "Client", "called /"),
        (partial(Client()), "Client", "called /"),
        (Client.static, "Client.static", "static /"),
        (Client.of_class, "Client.of_class", "class /"),
        (lambda path: ok(path), "<lambda>", "/"),
    ],
)
async def test_names_of_functions(fn: Any, name: str, value: str) -> None:
    """T1, T7: partials, methods, callables and lambdas run, and are called what a person would call them."""
    async with scope() as s:
        task = s.task(fn, "/")
        assert task.name == name
        assert await task == Ok(value)
        assert await s.run(fn, "/") == Ok(value)


async def test_a_local_function_has_its_short_name() -> None:
    """T7: without the function that it was made in."""

    async def fetch() -> None: ...

    async with scope() as s:
        assert s.task(fetch).name == "fetch"


async def test_the_backend_knows_the_name() -> None:
    """T7: a debugger of the backend shows the name; two tasks may share it."""

    async def own_name() -> str:
        return str(anyio.get_current_task().name)

    async with scope() as s:
        first, second = s.task(own_name, name="fetch 7"), s.task(own_name, name="fetch 7")
        assert await first == await second == Ok("fetch 7")


# ------------------------------------------------------------------ refused at the call (S12, T1-T3)


async def agen() -> Any:
    yield 1


def plain() -> int:
    raise AssertionError("a plain function was called")


@pytest.mark.parametrize("call", ["task", "run", "start_soon", "start"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (plain, "plain is not async"),
        (agen, "async generator"),
        (3, "got 3"),
        (None, "got None"),
        (print, "print is not async"),
        (Client, "Client"),
    ],
)
async def test_what_is_no_async_function_is_refused(call: str, wrong: Any, says: str) -> None:
    """S12, T1-T3: a `TypeError` at the call, nothing called, nothing started and nothing counted."""
    async with scope() as s:
        with pytest.raises(TypeError, match=says):
            made = getattr(s, call)(wrong)
            if made is not None:
                await made
        assert s.statistics().running == 0
        assert s.task(ok).index == 0


@pytest.mark.parametrize("call", ["task", "run", "start_soon", "start"])
async def test_a_coroutine_object_is_refused_with_the_right_line(call: str) -> None:
    """S12: it shows the wrong and the right line, and there is no warning about a coroutine never awaited."""
    async with scope() as s:
        with pytest.raises(TypeError, match=rf"Wrong: s\.{call}\(ok\(x\)\)\nRight: s\.{call}\(ok, x\)"):
            made = getattr(s, call)(ok(1))
            if made is not None:
                await made
        gc.collect()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "3", True, -0.001])
async def test_a_wrong_timeout_is_refused(timeout: Any) -> None:
    """S12, T6: nothing is started."""
    async with scope() as s:
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            s.task(hang, timeout=timeout)
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            await s.run(hang, timeout=timeout)
        assert s.statistics().running == 0


@pytest.mark.parametrize("name", ["", 7, "two\nlines", "x" * 101])
async def test_a_wrong_name_is_refused(name: Any) -> None:
    """S12, T1: names go into logs and trees, so they are short and printable."""
    async with scope() as s:
        for start in (s.task, s.start_soon):
            with pytest.raises((TypeError, ValueError), match="name must be"):
                start(hang, name=name)
        with pytest.raises((TypeError, ValueError), match="name must be"):
            await s.run(hang, name=name)
        with pytest.raises((TypeError, ValueError), match="name must be"):
            await s.start(hang, name=name)
        assert s.statistics().running == 0


async def test_arguments_that_do_not_fit_are_told_at_the_call() -> None:
    """S12, T1: a forgotten argument is a `TypeError` in the line that forgot it, not in a task."""
    async with scope() as s:
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            s.task(bad)
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            s.start_soon(bad)
        assert s.statistics().running == 0


@pytest.mark.parametrize("call", ["task", "run", "start_soon", "start"])
async def test_before_entry_and_after_the_end(call: str) -> None:
    """S12, T1-T3: `ScopeMisuse` before, `ScopeClosed` after; nothing is called and no warning is left."""

    async def use(s: Scope) -> None:
        made = getattr(s, call)(ok)
        if made is not None:
            await made

    s = scope(name="app")
    with pytest.raises(ScopeMisuse, match=rf"{call}\(ok\) came before it was entered"):
        await use(s)
    async with s:
        pass
    with pytest.raises(ScopeClosed, match=rf"scope app is closed: {call}\(ok\) came too late"):
        await use(s)
    gc.collect()


@pytest.mark.parametrize("call", ["task", "start_soon"])
async def test_from_another_thread(call: str) -> None:
    """S12: refused with the line to write, and nothing started; by way of the loop it works."""
    ran: list[int] = []

    async def work() -> None:
        ran.append(threading.get_ident())

    async with scope() as s:
        token = anyio.lowlevel.current_token()

        def in_thread() -> None:
            with pytest.raises(ScopeMisuse, match=r"anyio\.from_thread\.run_sync"):
                getattr(s, call)(work)
            anyio.from_thread.run_sync(getattr(s, call), work, token=token)

        await anyio.to_thread.run_sync(in_thread)
    assert ran == [threading.get_ident()]


async def test_tasks_can_be_started_while_the_scope_waits() -> None:
    """T1: a task may start another one after the body has ended; it is waited for."""
    results: list[object] = []

    async def first() -> None:
        await anyio.sleep(0.005)
        results.append(await s.task(ok, "second", 0.005))

    async with scope() as s:
        s.task(first)
    assert results == [Ok("second")]


async def test_a_task_started_in_a_cancelled_scope_runs_to_its_first_checkpoint() -> None:
    """T1, S5: as in every task group of AnyIO."""
    log: list[str] = []

    async def work() -> None:
        log.append("started")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        s.cancel("stop")
        task = s.task(work)
    assert log == ["started"]
    assert reason_of(task) == "stop"


# ------------------------------------------------------------------ waiting (T1)


async def test_ten_waiters_get_the_same_result() -> None:
    """T1: whoever waits, in whatever task."""
    seen: list[object] = []

    async def wait(task: Task[Any]) -> None:
        seen.append(await task)

    async with scope() as s:
        task = s.task(ok, object(), 0.005)
        for _ in range(5):
            s.task(wait, task)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait, task)
    assert len(seen) == 10
    assert all(each is task.result() for each in seen)


async def test_a_cancelled_waiter_does_not_cancel_the_task() -> None:
    """T1: giving up the wait is the waiter's business."""
    async with scope() as s:
        task = s.task(ok, 1, 0.01)
        with anyio.CancelScope() as cut:
            cut.cancel()
            await task
        assert cut.cancelled_caught
        waiter = s.task(partial(_wait_for, task))
        await anyio.lowlevel.checkpoint()
        waiter.cancel()
        await waiter
        assert not task.done
        assert await task == Ok(1)


async def _wait_for(task: Task[Any]) -> Any:
    return await task


@pytest.mark.asyncio_only  # Trio has no order among the tasks of one turn
async def test_those_who_wait_go_on_in_the_order_in_which_they_came() -> None:
    """T1: they are served as they came, and one that gave up is passed over."""
    seen: list[int] = []

    async def wait(number: int) -> None:
        await task
        seen.append(number)

    async with scope() as s:
        task = s.task(anyio.Event().wait)
        waiters: list[Task[None]] = []
        for number in range(5):
            waiters.append(s.task(wait, number))
            await anyio.wait_all_tasks_blocked()
        waiters[2].cancel()
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        for waiter in waiters:
            await waiter
    assert seen == [0, 1, 3, 4]


async def test_giving_up_the_wait_again_and_again_leaves_nothing_behind() -> None:
    """T1: a task that runs for months may be looked after once a second."""

    async def look(times: int) -> None:
        for _ in range(times):
            with anyio.CancelScope() as cut:
                cut.cancel()
                await task

    async with scope() as s:
        task = s.task(anyio.sleep_forever)
        await look(20)
        gc.collect()
        before = len(gc.get_objects())
        await look(500)
        gc.collect()
        assert len(gc.get_objects()) - before < 100
        task.cancel()


@pytest.mark.parametrize("first", ["the task ends", "the wait is given up"])
async def test_a_wait_that_is_given_up_as_the_task_ends(first: str) -> None:
    """T1: whichever of the two the waiter sees, the result is there and the others get it."""
    ending = anyio.Event()

    async def wait() -> Any:
        return await task

    async with scope() as s:
        task = s.task(ending.wait)
        one, other = s.task(wait), s.task(wait)
        await anyio.wait_all_tasks_blocked()
        steps: list[Callable[[], object]] = [task.cancel, one.cancel]
        for step in steps if first == "the task ends" else reversed(steps):
            step()
        await one
        err, value = await other
        assert err is None
        assert value is task.result()
        assert type(error_of(task)) is TaskCancelled


async def test_a_foreign_task_gets_the_result_after_the_scope_has_gone() -> None:
    """T1: a handle outlives its scope, and needs no checkpoint then."""
    async with scope() as s:
        task = s.task(ok, 1)
    assert s.closed
    with anyio.CancelScope() as cut:
        cut.cancel()
        assert await task == Ok(1)
    assert not cut.cancelled_caught
    assert await task.unwrap() == 1


async def test_a_foreign_waiter_hears_of_a_cancelled_task() -> None:
    """T1, T5: the waiter itself is not cancelled; it gets a report."""
    seen: list[object] = []

    async def wait(handles: list[Task[Any]]) -> None:
        while not handles:
            await anyio.lowlevel.checkpoint()
        seen.append((await handles[0]).pair()[0])
        await anyio.lowlevel.checkpoint()
        seen.append("alive")

    handles: list[Task[Any]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(wait, handles)
        async with scope() as s:
            handles.append(s.task(hang))
            await anyio.sleep(0.005)
            s.cancel("stop")
    assert isinstance(seen[0], TaskCancelled)
    assert seen[1] == "alive"


async def test_a_task_that_awaits_itself_is_told() -> None:
    """T1: no hang; the error names the ring."""
    handles: list[Task[Any]] = []

    async def work() -> None:
        await handles[0]

    async with scope(name="app") as s:
        handles.append(s.task(work))
        await handles[0]
        error = error_of(handles[0])
        assert type(error) is ScopeMisuse
        assert "work (#0) -> work (#0)" in str(error)


async def test_two_tasks_that_await_each_other_are_told() -> None:
    """T1: the second to wait gets the error, the first gets the second's result."""
    handles: list[Task[Any]] = []

    async def work(other: int) -> Any:
        return await handles[other]

    async with scope() as s:
        handles += [s.task(work, 1), s.task(work, 0)]
        results = [await handle for handle in handles]
        refused = [result for result in results if not result]
        assert len(refused) == 1
        assert type(refused[0].error) is ScopeMisuse
        assert Ok(refused[0]) in results


async def test_unwrap_in_one_step() -> None:
    """T4: `await task.unwrap()` gives the value, or raises the very error, no group and no wrapper."""
    error = Boom("no")
    async with scope() as s:
        assert await s.task(ok, 7).unwrap() == 7
        with pytest.raises(Boom) as info:
            await s.task(bad, error).unwrap()
        assert info.value is error
        cancelled = s.task(hang)
        cancelled.cancel("why")
        with pytest.raises(TaskCancelled, match="why"):
            await cancelled.unwrap()


async def test_the_traceback_begins_in_the_users_function_and_does_not_grow() -> None:
    """T4: what a task's error shows is the user's code; a hundred `unwrap()` add nothing."""

    async def outer() -> None:
        await inner()

    async def inner() -> None:
        await anyio.lowlevel.checkpoint()
        raise Boom("no")

    async with scope() as s:
        for timeout in (None, 10):
            task = s.task(outer, timeout=timeout)
            await task
            names = [entry.name for entry in traceback.extract_tb(error_of(task).__traceback__)]
            assert names == ["outer", "inner"]
            depths = set()
            for _ in range(100):
                with pytest.raises(Boom) as info:
                    await task.unwrap()
                depths.add(len(traceback.extract_tb(info.value.__traceback__)))
                del info
            assert len(depths) == 1


async def test_the_traceback_of_run_begins_in_the_users_function() -> None:
    """T2, T4: for `run` the same."""
    async with scope() as s:
        for timeout in (None, 10):
            match await s.run(bad, Boom(), timeout=timeout):
                case Err(error):
                    assert [entry.name for entry in traceback.extract_tb(error.__traceback__)] == ["bad"]
                case other:
                    pytest.fail(f"{other}")


async def test_cause_and_context_of_an_error_stay() -> None:
    """T4: `raise ... from ...` in the task is what the one who unwraps sees."""
    cause = KeyError("cause")

    async def work() -> None:
        try:
            raise cause
        except KeyError as error:
            raise Boom("effect") from error

    async with scope() as s:
        task = s.task(work)
        for _ in range(3):
            with pytest.raises(Boom) as info:
                await task.unwrap()
            assert info.value.__cause__ is cause
            assert info.value.__context__ is cause


# ------------------------------------------------------------------ observed or not (S4)


async def test_an_error_that_nobody_looked_at_leaves_the_scope() -> None:
    """S4: in a group that names the scope, with a note that names task, index and path."""
    error = Boom("lost?")
    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s, scope(name="ingest") as inner:
            s.task(ok)
            inner.task(ok)
            inner.task(bad, error, name="fetch-7")
    assert info.value.message == "errors in scope app > ingest"
    assert info.value.exceptions == (error,)
    assert notes_of(error) == ["in task fetch-7 (#1) of app > ingest"]


async def test_awaiting_observes() -> None:
    """S4: `await task`, even of somebody who throws the result away."""
    async with scope() as s:
        task = s.task(bad, Boom())
        await task
        assert s.statistics().unobserved == 0


async def test_asking_for_the_result_observes() -> None:
    """S4: `result()` after the end, without any wait."""
    async with scope() as s:
        task = s.task(bad, Boom())
        await anyio.sleep(0.005)
        assert s.statistics().unobserved == 1
        task.result()
        assert s.statistics().unobserved == 0


@pytest.mark.parametrize("look", ["done", "status", "repr", "tree", "peek at the scope", "name"])
async def test_looking_at_the_state_does_not_observe(look: str) -> None:
    """S4: only who gets the error in hand has seen it."""
    with pytest.raises(ExceptionGroup) as info:
        async with scope() as s:
            task = s.task(bad, Boom())
            await anyio.sleep(0.005)
            assert task.done
            _ = {
                "done": lambda: task.done,
                "status": lambda: task.status,
                "repr": lambda: repr(task),
                "tree": s.tree,
                "peek at the scope": lambda: (repr(s), s.statistics()),
                "name": lambda: task.name,
            }[look]()
    assert [type(each) for each in info.value.exceptions] == [Boom]


async def test_giving_up_the_wait_does_not_observe() -> None:
    """S4: a waiter that was cancelled before the end has seen nothing."""
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            task = s.task(bad, Boom(), 0.01)
            with anyio.CancelScope() as cut:
                cut.cancel()
                await task
            assert cut.cancelled_caught


async def test_asking_too_early_does_not_observe() -> None:
    """S4: `result()` before the end gave nothing."""
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            task = s.task(bad, Boom(), 0.005)
            with pytest.raises(TaskNotDone):
                task.result()


async def test_exactly_the_unobserved_errors_leave_in_order_of_index() -> None:
    """S4: three failed unseen, two were cancelled, one was awaited and one succeeded: a group of three, by index."""
    errors = [Boom(n) for n in range(4)]
    with pytest.raises(ExceptionGroup) as info:
        async with scope() as s:
            tasks = [s.task(bad, error, 0.01 - n / 500) for n, error in enumerate(errors)]
            for _ in range(2):
                s.task(hang).cancel()
            s.task(ok)
            await tasks[1]
    assert info.value.exceptions == (errors[0], errors[2], errors[3])


async def test_a_task_that_was_cancelled_is_nobodys_loss() -> None:
    """S4, T7: unobserved cancellations do not leave the scope."""
    async with scope() as s:
        task = s.task(hang)
        task.cancel("no longer needed")
    assert reason_of(task) == "no longer needed"


async def test_an_unobserved_time_out_is_an_error() -> None:
    """S4, T6: `TaskTimeout` is a failure like any other."""
    with pytest.raises(ExceptionGroup) as info:
        async with scope() as s:
            s.task(hang, timeout=0.001)
    assert [type(each) for each in info.value.exceptions] == [TaskTimeout]


async def test_an_error_of_a_cancelled_scopes_task_is_not_lost() -> None:
    """S4, S5: what a task raises in its clean-up leaves the scope even after `cancel()`."""

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("in clean-up")

    with pytest.raises(ExceptionGroup) as info:
        async with scope() as s:
            s.task(work)
            await anyio.lowlevel.checkpoint()
            s.cancel()
    assert str(info.value.exceptions[0]) == "in clean-up"
    await anyio.lowlevel.checkpoint()


async def test_one_error_object_of_many_tasks_stands_once_in_the_group() -> None:
    """S4: with the place of the first and the number of the others."""
    error = Boom("shared")
    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s:
            for _ in range(3):
                s.task(bad, error)
    assert info.value.exceptions == (error,)
    assert len(notes_of(error)) == 1
    assert "and in 2 more places" in notes_of(error)[0]


async def test_very_many_unobserved_errors_are_counted() -> None:
    """S4: a bounded list, and the total in the message."""
    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s:
            for n in range(1500):
                s.task(bad, Boom(n))
            await anyio.sleep(0.02)
            while s.statistics().running:
                await anyio.lowlevel.checkpoint()
            assert s.statistics().unobserved == 1500
    assert len(info.value.exceptions) == 1000
    assert "500 more" in str(info.value)


# ------------------------------------------------------------------ run (T2)


async def test_run_is_the_calling_task() -> None:
    """T2: no new task."""

    async def which() -> int:
        return anyio.get_current_task().id

    async with scope() as s:
        assert await s.run(which) == Ok(anyio.get_current_task().id)
        assert await s.task(which) != Ok(anyio.get_current_task().id)


async def test_run_gives_a_result() -> None:
    """T2: errors are values, and are the caller's: they do not leave the scope by themselves."""
    error = Boom()
    async with scope() as s:
        assert await s.run(ok, 1) == Ok(1)
        assert await s.run(bad, error) == Err(error)
        assert s.statistics().failed == 1
        assert s.statistics().unobserved == 0


async def test_run_has_a_timeout() -> None:
    """T2, T6: the work is cut off, the caller goes on."""
    log: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cut off")

    async with scope(name="app") as s:
        match await s.run(work, timeout=0.005):
            case Err(TaskTimeout() as error):
                assert error.limit == 0.005
                assert "work (#0)" in error.task
            case other:
                pytest.fail(f"{other}")
        assert log == ["cut off"]
        assert not s.cancelled
        await anyio.lowlevel.checkpoint()


async def test_run_under_the_callers_cancel_scope() -> None:
    """T2: the caller's own cancellation passes through `run`, it is not made a value of."""
    async with scope() as s:
        with anyio.move_on_after(0.005) as limit:
            await s.run(hang)
            pytest.fail("run gave a value")
        assert limit.cancelled_caught
        assert not s.cancelled


async def test_run_from_a_foreign_task_when_the_scope_is_cancelled() -> None:
    """T2, T5: the caller lives on with `Err(TaskCancelled)`; the scope has waited for the call."""
    results: list[object] = []
    log: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cut off")

    async def stranger(scopes: list[Scope]) -> None:
        while not scopes:
            await anyio.lowlevel.checkpoint()
        results.append(await scopes[0].run(work))
        await anyio.lowlevel.checkpoint()
        results.append("alive")

    scopes: list[Scope] = []
    async with anyio.create_task_group() as group:
        group.start_soon(stranger, scopes)
        async with scope() as s:
            s.on_exit(log.append, "closed")
            scopes.append(s)
            await anyio.sleep(0.01)
            s.cancel("stop")
    assert isinstance(results[0], Err)
    assert type(results[0].error) is TaskCancelled
    assert results[0].error.reason == "stop"
    assert results[1] == "alive"
    assert log == ["cut off", "closed"]


async def test_run_in_the_body_when_the_scope_is_cancelled() -> None:
    """T2, S5: a caller inside the scope is cancelled itself; the block ends quietly."""
    async with scope() as s:
        s.start_soon(_cancel, s)
        await s.run(hang)
        pytest.fail("run gave a value to a cancelled body")
    assert s.cancelled


async def _cancel(s: Scope) -> None:
    await anyio.sleep(0.005)
    s.cancel("stop")


async def test_run_from_a_foreign_task_in_a_cancelled_scope() -> None:
    """T2: refused or cut at the first checkpoint, and the caller lives on."""
    log: list[object] = []
    scopes: list[Scope] = []

    async def work() -> None:
        log.append("begun")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async def stranger() -> None:
        while not scopes:
            await anyio.lowlevel.checkpoint()
        result = await scopes[0].run(work)
        log.append(type(result.pair()[0]))

    async def slow() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(stranger)
        async with scope() as s:
            s.task(slow)
            await anyio.lowlevel.checkpoint()
            s.cancel()
            scopes.append(s)
    assert log == ["begun", TaskCancelled]


async def test_a_cancellation_in_run_that_the_function_catches_is_a_value() -> None:
    """T2, T7: inside a time-out, a function that returns all the same is `Ok`."""

    async def stubborn() -> int:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return 7
        return 0

    async with scope() as s:
        assert await s.run(stubborn, timeout=0.001) == Ok(7)
        assert await s.task(stubborn, timeout=0.001) == Ok(7)
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("fatal", [KeyboardInterrupt("k"), SystemExit(3)], ids=repr)
async def test_run_lets_a_fatal_exception_through(fatal: BaseException) -> None:
    """T2, T5: never a value."""
    with pytest.raises(type(fatal)) as info:
        async with scope() as s:
            await s.run(bad, fatal)
    assert info.value is fatal


# ------------------------------------------------------------------ start_soon (T3)


async def test_start_soon_gives_nothing_and_is_waited_for() -> None:
    """T3: as AnyIO's, but without a handle."""
    log: list[str] = []

    async def work() -> None:
        await anyio.sleep(0.005)
        log.append("done")

    async with scope() as s:
        assert s.start_soon(work) is None
    assert log == ["done"]


async def test_a_failure_of_start_soon_cancels_the_scope() -> None:
    """T3, S4: body and tasks are cancelled with that error as the reason; it leaves in a group, with its note."""
    error = Boom("crash")
    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s:
            sibling = s.task(hang)
            s.start_soon(bad, error, name="pump")
            await anyio.sleep_forever()
    assert info.value.exceptions == (error,)
    assert notes_of(error) == ["in task pump (#1) of app"]
    assert s.cancel_reason is error
    assert reason_of(sibling) is error


async def test_several_crashes_are_ordered_by_index() -> None:
    """T3, S4: whatever the backend's order of ending."""
    errors = [Boom(n) for n in range(5)]
    with pytest.raises(ExceptionGroup) as info:
        async with scope() as s:
            for error in errors:
                s.start_soon(_raise_after_barrier, error)
            await anyio.sleep_forever()
    assert set(info.value.exceptions) == set(errors)
    assert list(info.value.exceptions) == errors


async def _raise_after_barrier(error: Exception) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.005)
    raise error


async def test_a_daemon_does_not_keep_the_scope_alive() -> None:
    """T3: it is cancelled at the end of body and tasks, and the end is a normal one."""
    log: list[str] = []

    async def serve() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("daemon cancelled")

    async with scope() as s:
        s.start_soon(serve, daemon=True)
        s.task(_log_after, log, "task done", 0.01)
        await anyio.lowlevel.checkpoint()
    assert log == ["task done", "daemon cancelled"]
    assert not s.cancelled


async def _log_after(log: list[str], text: str, seconds: float) -> None:
    await anyio.sleep(seconds)
    log.append(text)


async def test_a_daemon_serves_until_the_last_task_of_a_cancelled_scope_has_cleaned_up() -> None:
    """T3, S2: daemons go after the tasks, also when everything is cancelled."""
    log: list[str] = []
    asked, answered = anyio.Event(), anyio.Event()

    async def serve() -> None:
        try:
            await asked.wait()
            answered.set()
            await anyio.sleep_forever()
        finally:
            log.append("daemon cancelled")

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                asked.set()
                await answered.wait()
                log.append("task cleaned up")

    async with scope() as s:
        s.start_soon(serve, daemon=True)
        s.task(work)
        await anyio.lowlevel.checkpoint()
        s.cancel()
    assert log == ["task cleaned up", "daemon cancelled"]


async def test_a_daemon_that_returns_early_is_no_failure() -> None:
    """T3: nothing happens."""
    async with scope() as s:
        s.start_soon(ok, daemon=True)
        await anyio.sleep(0.005)
        assert s.statistics().running == 0
        assert not s.cancelled


async def test_a_daemon_that_crashes_cancels_the_scope() -> None:
    """T3, S4: nobody else would tell."""
    error = Boom("daemon")
    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s:
            s.start_soon(bad, error, daemon=True)
            await anyio.sleep_forever()
    assert info.value.exceptions == (error,)
    assert s.cancel_reason is error


async def test_a_daemon_that_raises_while_it_is_stopped() -> None:
    """T3, S4: a failed daemon is reported at a normal end too."""

    async def serve() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("while stopping")

    with pytest.raises(ExceptionGroup, match="errors in scope app") as info:
        async with scope(name="app") as s:
            s.start_soon(serve, daemon=True)
            await anyio.lowlevel.checkpoint()
    assert [str(each) for each in info.value.exceptions] == ["while stopping"]


# ------------------------------------------------------------------ start (T3)


async def test_start_waits_until_the_task_is_ready() -> None:
    """T3: it gives the value of `started()`, and the task goes on."""
    log: list[str] = []

    async def serve(port: int, *, task_status: anyio.abc.TaskStatus[str]) -> None:
        await anyio.sleep(0.005)
        log.append("started")
        task_status.started(f"listening on {port}")
        await anyio.sleep(0.005)
        log.append("done")

    async with scope() as s:
        assert await s.start(serve, 80) == "listening on 80"
        assert log == ["started"]
        assert s.statistics().running == 1
    assert log == ["started", "done"]


async def test_started_without_a_value_gives_none() -> None:
    """T3: as AnyIO does."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()

    async with scope() as s:
        assert await s.start(serve) is None


async def test_an_error_before_started_is_the_callers() -> None:
    """T3: raised by `start`, the very object; the scope is not cancelled and nothing leaves it."""
    error = Boom("not today")

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    async with scope() as s:
        with pytest.raises(Boom) as info:
            await s.start(serve)
        assert info.value is error
        assert not s.cancelled
        assert s.statistics().running == 0
        assert await s.task(ok, 1) == Ok(1)


async def test_a_task_that_ends_without_started() -> None:
    """T3: `start` raises `RuntimeError`, the scope goes on."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await anyio.lowlevel.checkpoint()

    async with scope() as s:
        with pytest.raises(RuntimeError, match="started"):
            await s.start(serve)
        assert not s.cancelled
        assert s.statistics().running == 0


async def test_a_caller_that_is_cancelled_before_started() -> None:
    """T3: the task is cancelled with it, and `start` ends only when the task has."""
    log: list[str] = []

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("task ended")

    async with scope() as s:
        with anyio.move_on_after(0.005) as limit:
            await s.start(serve)
        log.append("caller goes on")
        assert limit.cancelled_caught
        assert not s.cancelled
        assert s.statistics().running == 0
        await anyio.lowlevel.checkpoint()
    assert log == ["task ended", "caller goes on"]


async def test_the_callers_time_out_has_no_hold_on_a_started_task() -> None:
    """T3: after `started()` the task belongs to the scope alone."""
    log: list[str] = []

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep(0.01)
        log.append("ran to its end")

    async with scope() as s:
        with anyio.move_on_after(0.005):
            await s.start(serve)
            await anyio.sleep_forever()
    assert log == ["ran to its end"]


async def test_a_crash_after_started_cancels_the_scope() -> None:
    """T3, S4: like that of `start_soon`."""
    error = Boom("later")

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await anyio.lowlevel.checkpoint()
        raise error

    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app") as s:
            await s.start(serve)
            await anyio.sleep_forever()
    assert info.value.exceptions == (error,)
    assert notes_of(error)[0].startswith("in task serve (#")
    assert s.cancel_reason is error


async def test_a_started_task_is_cancelled_with_its_scope() -> None:
    """T3, S5: quietly."""
    log: list[str] = []

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("ended")

    async with scope() as s:
        await s.start(serve)
        s.cancel("stop")
    assert log == ["ended"]


async def test_a_cancelled_scope_cuts_a_task_that_is_not_ready() -> None:
    """T3, S5: `start` in the body of the scope that is cancelled meanwhile; the block ends quietly."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await anyio.sleep_forever()

    async with scope() as s:
        s.start_soon(_cancel, s)
        await s.start(serve)
        pytest.fail("start gave a value")
    assert s.cancel_reason == "stop"


@pytest.mark.asyncio_only
async def test_a_starter_who_is_cancelled_as_the_task_gets_ready_takes_only_the_task_along() -> None:
    """T3, S5: found by simulation. AnyIO cancels a task that is ready in that moment; the scope was cancelled too."""
    errors = []

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep_forever()

    hooks = Hooks(after_task=lambda name, duration, error: errors.append(error))
    async with scope(name="app", hooks=hooks) as s:
        with anyio.CancelScope() as waiting:
            asyncio.get_running_loop().call_soon(waiting.cancel)
            await s.start(serve)
        assert waiting.cancelled_caught
        await anyio.lowlevel.checkpoint()
        assert not s.cancelled
        assert s.statistics().running == 0
    assert [str(error) for error in errors] == ["task serve (#0) of app was cancelled"]


async def test_start_without_a_task_status_parameter() -> None:
    """T3, S12: the function does not fit; the scope goes on."""
    async with scope() as s:
        with pytest.raises(TypeError, match="task_status"):
            await s.start(ok)
        assert not s.cancelled


# ------------------------------------------------------------------ time-outs (T6)


@pytest.mark.virtual_time
async def test_a_time_out_cuts_the_task_off() -> None:
    """T6: `Err(TaskTimeout)`, a `TimeoutError` that tells task and limit; the work really stops."""
    log: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep(10)
            log.append("not reached")
        finally:
            log.append(f"cut at {anyio.current_time() - began:g}")

    began = anyio.current_time()
    async with scope(name="app") as s:
        task = s.task(work, timeout=2)
        await task
        error = error_of(task)
        assert isinstance(error, TimeoutError)
        assert type(error) is TaskTimeout
        assert error.limit == 2
        assert "ran over its timeout of 2 s" in str(error)
        assert task.status == "error"
        assert log == ["cut at 2"]
        assert not s.cancelled
        await anyio.sleep(20)
    assert log == ["cut at 2"]


async def test_time_outs_and_cancellations_name_their_task_alike() -> None:
    """T6, T7: the attribute `task` has one form in every report: name, index, path."""
    async with scope(name="app") as s:
        first, second = s.task(hang, timeout=0), s.task(hang)
        second.cancel()
        await first
        await second
        assert error_of(first).task == "hang (#0) of app"
        assert error_of(second).task == "hang (#1) of app"


async def test_a_time_out_of_zero_cuts_at_the_first_checkpoint() -> None:
    """T6: zero is a limit, not "none"."""
    log: list[str] = []

    async def work() -> None:
        log.append("begun")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        assert not await s.task(work, timeout=0)
    assert log == ["begun"]


async def test_an_infinite_time_out_is_none() -> None:
    """T6: infinity means no limit, as `None` does."""
    async with scope() as s:
        assert await s.task(ok, 1, timeout=float("inf")) == Ok(1)
        assert await s.task(ok, 1, timeout=None) == Ok(1)


@pytest.mark.virtual_time
async def test_a_time_out_does_not_count_the_queueing() -> None:
    """T6, T8: it counts from when the function starts."""
    async with scope(concurrency=1) as s:
        s.task(anyio.sleep, 10)
        queued = s.task(ok, "fine", 2, timeout=3)
        assert await queued == Ok("fine")
        assert anyio.current_time() == 12


@pytest.mark.virtual_time
async def test_a_task_that_ends_in_the_instant_of_its_time_out() -> None:
    """T6: a result or a time-out, never both and never neither."""
    async with scope() as s:
        task = s.task(ok, 1, 5, timeout=5)
        result = await task
        assert result == Ok(1) or type(error_of(task)) is TaskTimeout


async def test_a_time_out_of_the_functions_own_is_not_ours() -> None:
    """T6, T5: `fail_after` inside a task is the function's own error."""

    async def work() -> None:
        with anyio.fail_after(0.001):
            await anyio.sleep_forever()

    async with scope() as s:
        task = s.task(work, timeout=30)
        await task
        assert type(error_of(task)) is TimeoutError


async def test_the_first_of_time_out_and_cancel_wins() -> None:
    """T6, T7: a task that was cancelled before its time-out is cancelled, however long its clean-up."""

    async def slow_clean_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)

    async with scope() as s:
        task = s.task(slow_clean_up, timeout=0.005)
        await anyio.lowlevel.checkpoint()
        task.cancel("mine")
        await task
        assert reason_of(task) == "mine"


# ------------------------------------------------------------------ cancelling a task (T7)


async def test_cancel_gives_a_report_with_the_reason() -> None:
    """T7, T5: siblings run on, the scope ends normally."""
    async with scope(name="app") as s:
        sibling, task = s.task(ok, 1, 0.01), s.task(hang)
        await anyio.lowlevel.checkpoint()
        task.cancel("why")
        await task
        error = error_of(task)
        assert type(error) is TaskCancelled
        assert isinstance(error, Exception)
        assert (error.reason, error.task) == ("why", "hang (#1) of app")
        assert str(error) == "task hang (#1) of app was cancelled (why)"
        assert task.status == "cancelled"
        assert not s.cancelled
    assert sibling.result() == Ok(1)


async def test_a_report_is_never_the_backends_cancellation() -> None:
    """T5: not handed out as a value, and not as cause or context of one either."""
    async with scope() as s:
        task = s.task(hang)
        await anyio.lowlevel.checkpoint()
        task.cancel()
        await task
        seen: BaseException | None = error_of(task)
        while seen is not None:
            assert not isinstance(seen, anyio.get_cancelled_exc_class())
            seen = seen.__cause__ or seen.__context__


async def test_cancel_without_a_reason() -> None:
    """T7: the text does not invent one."""
    async with scope(name="app") as s:
        task = s.task(hang)
        task.cancel()
        await task
        assert reason_of(task) is None
        assert str(error_of(task)) == "task hang (#0) of app was cancelled"


async def test_the_first_reason_wins() -> None:
    """T7: cancelling twice, and cancelling the scope afterwards, changes nothing."""
    async with scope() as s:
        task = s.task(hang)
        await anyio.lowlevel.checkpoint()
        task.cancel("first")
        task.cancel("second")
        s.cancel("third")
    assert reason_of(task) == "first"


async def test_cancelling_before_the_first_step() -> None:
    """T7: the handle finishes, and the function runs no further than its first checkpoint."""
    log: list[str] = []

    async def work() -> None:
        log.append("begun")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        task = s.task(work)
        task.cancel("at once")
        await task
        assert reason_of(task) == "at once"
        assert "not reached" not in log
        assert s.statistics().running == 0


async def test_cancelling_while_queued() -> None:
    """T7, T8: it ends at once and never runs, and leaves no warning."""
    ran: list[str] = []

    async def work() -> None:
        ran.append("ran")

    async with scope(concurrency=1) as s:
        s.task(anyio.sleep, 0.01)
        task = s.task(work)
        assert task.status == "queued"
        task.cancel("not needed")
        assert task.done
        assert reason_of(task) == "not needed"
    assert ran == []
    gc.collect()


async def test_cancelling_after_the_end() -> None:
    """T7: does nothing, also after the scope has gone."""
    async with scope() as s:
        task = s.task(ok, 1)
        await task
        task.cancel("late")
        assert task.result() == Ok(1)
    task.cancel("later")
    assert task.result() == Ok(1)
    assert task.status == "ok"


async def test_a_task_cancels_itself() -> None:
    """T7: it works at its next checkpoint."""
    log: list[str] = []
    handles: list[Task[Any]] = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        handles[0].cancel("myself")
        log.append("still here")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        handles.append(s.task(work))
    assert log == ["still here"]
    assert reason_of(handles[0]) == "myself"


async def test_a_task_that_cancels_itself_and_returns_is_ok() -> None:
    """T7: without a checkpoint afterwards nothing was cut off."""
    handles: list[Task[Any]] = []

    async def work() -> int:
        handles[0].cancel()
        return 7

    async with scope() as s:
        handles.append(s.task(work))
    assert handles[0].result() == Ok(7)


async def test_a_task_that_catches_its_cancellation_is_ok() -> None:
    """T7: what it returns is its value, and what it raises is its error."""

    async def stubborn(end: Callable[[], Any]) -> Any:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return end()

    def fail() -> None:
        raise Boom("instead")

    async with scope() as s:
        good, failing = s.task(stubborn, lambda: 7), s.task(stubborn, fail)
        await anyio.lowlevel.checkpoint()
        good.cancel()
        failing.cancel()
        assert await good == Ok(7)
        await failing
    assert failing.status == "error"
    assert type(error_of(failing)) is Boom


async def test_a_shielded_part_finishes_first() -> None:
    """T7: the user's shield is respected, by `task.cancel()` and by `s.cancel()`."""
    log: list[str] = []

    async def work(name: str) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.005)
            log.append(name)
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        task = s.task(work, "by handle")
        await anyio.lowlevel.checkpoint()
        task.cancel()
        await task
        s.task(work, "by scope")
        await anyio.lowlevel.checkpoint()
        s.cancel()
    assert log == ["by handle", "by scope"]


async def test_cancel_from_another_thread_is_refused() -> None:
    """T7, S5: nothing has changed then; by way of the loop it works."""
    async with scope() as s:
        token = anyio.lowlevel.current_token()
        task = s.task(hang)

        def in_thread() -> None:
            with pytest.raises(ScopeMisuse, match=r"anyio\.from_thread\.run_sync\(task\.cancel, \.\.\., token=token\)"):
                task.cancel("directly")
            assert not task.done
            anyio.from_thread.run_sync(task.cancel, "through the loop", token=token)

        await anyio.to_thread.run_sync(in_thread)
        await task
        assert reason_of(task) == "through the loop"


@pytest.mark.asyncio_only
async def test_a_task_that_is_cancelled_natively_is_reported() -> None:
    """T5: somebody else's `Task.cancel()` hits this one task; the scope and its siblings go on."""
    native: list[Any] = []

    async def work() -> None:
        native.append(asyncio.current_task())
        await anyio.sleep_forever()

    async with scope() as s:
        task, sibling = s.task(work), s.task(ok, 1, 0.01)
        await anyio.sleep(0.001)
        native[0].cancel()
        await task
        assert type(error_of(task)) is TaskCancelled
        assert not s.cancelled
        assert await sibling == Ok(1)


@pytest.mark.asyncio_only
async def test_a_waiter_that_is_cancelled_natively_takes_nobody_along() -> None:
    """T1: its native cancellation ends what it waits for, which is therefore nobody else's."""
    seen: list[object] = []

    async def wait() -> None:
        seen.append(await task)

    async with scope() as s:
        task = s.task(ok, 1, 0.01)
        strangers = [asyncio.create_task(wait()) for _ in range(3)]
        await anyio.sleep(0.001)
        strangers[1].cancel()
        await asyncio.wait(strangers)
        assert seen == [Ok(1), Ok(1)]
        assert strangers[1].cancelled()


# ------------------------------------------------------------------ cancelling the scope (S5)


async def test_the_reason_reaches_every_task() -> None:
    """S5, T5: each report has the reason of the scope."""
    async with scope(name="app") as s:
        tasks = [s.task(hang) for _ in range(3)]
        assert not s.cancelled
        assert s.cancel_reason is None
        await anyio.lowlevel.checkpoint()
        s.cancel("user left")
        assert s.cancelled
        assert s.cancel_reason == "user left"
    assert [reason_of(task) for task in tasks] == ["user left"] * 3
    assert str(error_of(tasks[2])) == "task hang (#2) of app was cancelled (user left)"


async def test_the_block_is_left_quietly() -> None:
    """S5: the body is cut at its next checkpoint, and what comes after the block runs."""
    log: list[str] = []
    async with scope() as s:
        s.cancel()
        log.append("until the next checkpoint")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")
    await anyio.lowlevel.checkpoint()
    log.append("after")
    assert log == ["until the next checkpoint", "after"]


async def test_the_scopes_first_reason_wins() -> None:
    """S5: cancelling is idempotent."""
    async with scope() as s:
        s.cancel("first")
        s.cancel("second")
        s.cancel()
    assert s.cancel_reason == "first"
    s.cancel("after the end")
    assert s.cancel_reason == "first"


async def test_a_cancel_after_the_end_does_nothing() -> None:
    """S5: a scope that ended well stays so."""
    async with scope() as s:
        pass
    s.cancel("late")
    assert not s.cancelled


async def test_a_task_cancels_its_scope() -> None:
    """S5: from inside a task too; it is itself cut at its next checkpoint."""
    log: list[str] = []

    async def work() -> None:
        s.cancel("from inside")
        log.append("still here")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")

    async with scope() as s:
        task = s.task(work)
        await anyio.sleep_forever()
    assert log == ["still here"]
    assert reason_of(task) == "from inside"


async def test_cancelling_the_scope_from_another_thread() -> None:
    """S5: refused with the line to write, and the scope untouched; that line works."""
    async with scope(name="app") as s:
        token = anyio.lowlevel.current_token()

        def in_thread() -> None:
            with pytest.raises(ScopeMisuse, match=r"anyio\.from_thread\.run_sync\(s\.cancel, \.\.\., token=token\)"):
                s.cancel("directly")
            assert not s.cancelled
            anyio.from_thread.run_sync(s.cancel, "through the loop", token=token)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(in_thread)
        await anyio.sleep_forever()
    assert s.cancel_reason == "through the loop"


@pytest.mark.parametrize("inside", [True, False], ids=["in the body", "while waiting"])
@pytest.mark.parametrize("number", [1, 5])
async def test_cancelled_from_outside(number: int, inside: bool) -> None:
    """S8: the cancellation passes through the block, nothing else leaves it, and the tasks have ended."""
    for _ in range(20):  # on asyncio the order in which tasks hear of a cancellation is a matter of chance
        with anyio.move_on_after(0.001) as limit:
            async with scope() as s:
                tasks = [s.task(hang) for _ in range(number)]
                if inside:
                    await anyio.sleep_forever()
            pytest.fail("the block was left as if nothing had happened")
        assert limit.cancelled_caught
        assert s.cancelled
        assert [type(error_of(task)) for task in tasks] == [TaskCancelled] * number


async def test_a_task_that_ends_well_in_spite_of_the_cancellation() -> None:
    """S5, T7: one that had its result when the scope was cancelled keeps it."""
    async with scope() as s:
        task = s.task(ok, 1)
        await task
        s.cancel()
    assert task.result() == Ok(1)


# ------------------------------------------------------------------ what is not an Exception (T5, S15)


class Fatal(BaseException):
    """A user's own exception of that sort."""


@pytest.mark.parametrize("kind", ["task", "start_soon", "daemon", "start"])
@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit, GeneratorExit, Fatal])
async def test_a_fatal_exception_ends_the_scope_and_leaves_bare(kind: str, fatal: type[BaseException]) -> None:
    """T5, S15: not a value and not in a group; siblings are cancelled, everything is closed."""
    error = fatal("end")
    log: list[str] = []

    async def started(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await bad(error)

    with pytest.raises(fatal) as info:
        async with scope() as s:
            s.on_exit(log.append, "closed")
            sibling = s.task(hang)
            if kind == "task":
                s.task(bad, error)
            elif kind == "start":
                await s.start(started)
            else:
                s.start_soon(bad, error, daemon=kind == "daemon")
            await anyio.sleep_forever()
    assert info.value is error
    assert reason_of(sibling) is error
    assert log == ["closed"]


async def test_who_waits_for_a_task_that_ended_fatally_gets_a_report() -> None:
    """T5: never the fatal exception as a value."""
    handles: list[Task[Any]] = []
    with pytest.raises(KeyboardInterrupt):
        async with scope() as s:
            handles.append(s.task(bad, KeyboardInterrupt()))
            await anyio.sleep_forever()
    assert type(error_of(handles[0])) is TaskCancelled
    assert type(reason_of(handles[0])) is KeyboardInterrupt


async def test_errors_beside_a_fatal_exception_are_not_lost() -> None:
    """T5, S4: they hang below it."""
    fatal = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as info:
        async with scope() as s:
            s.task(bad, Boom("beside"))
            await anyio.sleep(0.005)
            s.task(bad, fatal)
    assert info.value is fatal
    below: list[BaseException] = []
    seen: BaseException | None = fatal
    while seen is not None:
        below += leaves(seen)
        seen = seen.__context__
    assert [str(each) for each in below if isinstance(each, Boom)] == ["beside"]


async def test_a_fatal_exception_in_a_group_is_fatal() -> None:
    """T5: a function with a task group of its own may raise it wrapped."""
    group = BaseExceptionGroup("mixed", [Boom(), KeyboardInterrupt("k")])
    with pytest.raises(BaseException) as info:
        async with scope() as s:
            sibling = s.task(hang)
            s.task(bad, group)
    assert not isinstance(info.value, Exception)
    assert [type(each) for each in leaves(info.value)] == [Boom, KeyboardInterrupt]
    assert sibling.status == "cancelled"


# ------------------------------------------------------------------ nothing is left behind (T1, S9)


async def test_a_finished_task_is_freed_without_the_collector() -> None:
    """T1: no cycle keeps a finished task, its function or its value."""
    with no_collector():
        async with scope() as s:

            async def work() -> Probe:
                await anyio.lowlevel.checkpoint()
                return Probe()

            task = s.task(work)
            value = weakref.ref(await task.unwrap())
            fn = weakref.ref(work)
            del task, work
            await anyio.sleep(0.005)
            assert fn() is None
            assert value() is None


@pytest.mark.parametrize("how", ["await", "unwrap", "run", "timeout", "cancel", "result"])
async def test_a_failed_task_is_freed_without_the_collector(how: str) -> None:
    """T4: neither the error nor what its frames hold is kept by a cycle through our own frames."""
    probes: list[weakref.ref[Any]] = []

    async def work() -> None:
        probe = Probe()
        probes.append(weakref.ref(probe))
        await anyio.lowlevel.checkpoint()
        if how == "cancel":
            await anyio.sleep_forever()
        raise Boom

    async def use(s: Scope) -> None:
        if how == "run":
            assert not await s.run(work)
        elif how == "unwrap":
            # No name for the handle: a frame that holds it while it raises would itself be a cycle.
            with suppress(Boom):
                await s.task(work).unwrap()
        else:
            task = s.task(work, timeout=30 if how == "timeout" else None)
            await anyio.sleep(0.001)
            if how == "cancel":
                task.cancel()
            if how == "result":
                while not task.done:
                    await anyio.lowlevel.checkpoint()
                assert not task.result()
            else:
                assert not await task

    with no_collector():
        async with scope() as s:
            await use(s)
            await anyio.sleep(0.005)
            assert [probe() for probe in probes] == [None]


async def test_an_error_that_leaves_is_freed_without_the_collector() -> None:
    """S4: the same for errors of tasks that leave the scope, once the program has let go of them.

    An error that cancelled the scope is its `cancel_reason`, so it stays with whoever holds the scope.
    """
    probes: list[weakref.ref[Any]] = []

    async def work() -> None:
        probe = Probe()
        probes.append(weakref.ref(probe))
        await anyio.lowlevel.checkpoint()
        raise Boom

    async def use() -> None:
        with suppress(ExceptionGroup):
            async with scope() as s:
                s.task(work)

    with no_collector():
        await use()
        await anyio.sleep(0.005)
        assert probes.pop()() is None


async def test_a_thousand_short_tasks_leave_nothing_behind() -> None:
    """T1: the scope of a server does not grow with the tasks that it has had."""

    async def burst() -> None:
        for _ in range(250):
            s.task(ok)
        await anyio.sleep(0.005)
        while s.statistics().running:
            await anyio.lowlevel.checkpoint()
        for _ in range(5):  # the backend lets go of a task a turn or two after its last step
            await anyio.lowlevel.checkpoint()

    async with scope() as s:
        await burst()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(4):
            await burst()
        gc.collect()
        assert len(gc.get_objects()) - before < 500  # a task that stayed would be several objects, a thousand times
        assert s.statistics().running == 0
        assert s.statistics().succeeded == 1250


async def test_a_closed_scope_keeps_no_result() -> None:
    """T1: what no handle holds is gone with the scope, even if the scope itself is kept."""
    probes: list[weakref.ref[Any]] = []

    async def work() -> Probe:
        probe = Probe()
        probes.append(weakref.ref(probe))
        return probe

    async with scope(concurrency=2) as s:
        for _ in range(5):
            s.task(work)
    await anyio.sleep(0.005)
    gc.collect()
    assert [probe() for probe in probes] == [None] * 5
    assert s.closed


@pytest.mark.virtual_time
async def test_a_task_started_in_a_cancelled_scope_is_cut_though_all_others_are_shielded() -> None:
    """S5, T7: found by a state machine. AnyIO's asyncio does not look for new tasks then; who waits would for ever."""
    results: list[object] = []

    async def lingers(s: Scope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                results.append(await s.task(anyio.sleep_forever))

    async with scope(name="app") as s:
        s.start_soon(lingers, s)
        await anyio.sleep(1)
        s.cancel("stop")
    assert [str(result.error) for result in results if isinstance(result, Err)] == [
        "task sleep_forever (#1) of app was cancelled (stop)"
    ]


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_awaited_in_the_loop_of_another_thread(other: str) -> None:
    """S12, T1: told at the await, with the way through the task's own loop; whoever waits there is not disturbed."""
    told: list[BaseException] = []
    release = anyio.Event()

    async def work() -> int:
        await release.wait()
        return 1

    async def wait() -> None:
        try:
            await task
        except BaseException as error:  # noqa: ASYNC103  looked at below
            told.append(error)

    async with scope(name="app", parent=None) as s:
        task = s.task(work)
        thread = threading.Thread(target=anyio.run, args=(wait,), kwargs={"backend": other})
        thread.start()
        thread.join()
        release.set()
        assert await task == Ok(1)
    assert [type(error) for error in told] == [ScopeMisuse]
    assert str(told[0]) == (
        "scope app: task.unwrap(...) was called from another thread\n"
        "Take token = anyio.lowlevel.current_token() in the event loop, and call\n"
        "anyio.from_thread.run(task.unwrap, ..., token=token) in the thread."
    )
