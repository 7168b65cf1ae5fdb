"""Lifetimes: `s.enter`, clean-ups, the closing of a scope, and the warning that it is slow (S2, S4-S8, S13-S15)."""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import functools
import io
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from anyscope import (
    CloseTimeout,
    Disposed,
    Err,
    Hooks,
    Ok,
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    ServiceCycle,
    current_scope,
    each,
    scope,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Boom(Exception):
    """An error of a user's function."""


class Db:
    """A service."""


@asynccontextmanager
async def kept(log: list[Any], name: str = "it") -> AsyncIterator[str]:
    """Writes down when it is entered and left, and what it sees then."""
    await anyio.lowlevel.checkpoint()
    log.append(f"open {name}")
    try:
        yield name
    except BaseException as error:
        log.append(f"{name} sees {type(error).__name__}: {error}")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        log.append(f"close {name}")


@contextmanager
def plain(log: list[Any], name: str = "it") -> Iterator[str]:
    """The same, not async."""
    log.append(f"open {name}")
    try:
        yield name
    except BaseException as error:
        log.append(f"{name} sees {type(error).__name__}: {error}")
        raise
    finally:
        log.append(f"close {name}")


@asynccontextmanager
async def transaction(log: list[Any]) -> AsyncIterator[None]:
    """Commits on a good end only."""
    try:
        yield
    except BaseException as error:
        log.append(error)
        raise
    else:
        log.append("commit")


@asynccontextmanager
async def with_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Holds a task group with a running task across its yield."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield group
        group.cancel_scope.cancel()


@asynccontextmanager
async def with_cancel_scope() -> AsyncIterator[anyio.CancelScope]:
    """Holds a cancel scope across its yield."""
    with anyio.CancelScope() as held:
        yield held


@asynccontextmanager
async def with_fail_after() -> AsyncIterator[anyio.CancelScope]:
    """Holds a deadline across its yield."""
    with anyio.fail_after(3600) as held:
        yield held


@asynccontextmanager
async def with_scope() -> AsyncIterator[Scope]:
    """Holds a scope of its own across its yield, with a daemon and a task that has ended."""
    async with scope(name="inner") as inner:
        inner.start_soon(anyio.sleep_forever, daemon=True)
        await inner.task(anyio.sleep, 0)
        yield inner


HOLDERS: list[Callable[[], AbstractAsyncContextManager[Any]]] = [
    with_group,
    with_cancel_scope,
    with_fail_after,
    with_scope,
    functools.partial(scope, name="x"),
]
holders = pytest.mark.parametrize("holder", HOLDERS, ids=["group", "cancel scope", "fail_after", "scope", "itself"])


# ------------------------------------------------------------------ entering
async def test_enter_gives_what_the_manager_gives() -> None:
    """S14: the value of an async and of a plain context manager; both are left when the scope closes."""
    log: list[Any] = []
    async with scope() as s:
        assert await s.enter(kept(log, "a")) == "a"
        assert await s.enter(plain(log, "b")) == "b"
        log.append("body")
    assert log == ["open a", "open b", "body", "close b", "close a"]


async def test_enter_objects_that_are_both_kinds() -> None:
    """S14: an object of both kinds is entered as the async one."""
    log: list[str] = []

    class Both:
        def __enter__(self) -> str:
            return "plain"

        def __exit__(self, *_: object) -> None:
            log.append("plain")

        async def __aenter__(self) -> str:
            return "async"

        async def __aexit__(self, *_: object) -> None:
            log.append("async")

    async with scope() as s:
        assert await s.enter(Both()) == "async"
    assert log == ["async"]


async def test_enter_gives_none_too() -> None:
    """S14: a manager that gives `None` is entered all the same, a file is closed."""
    file = io.StringIO()
    async with scope() as s:
        assert await s.enter(nullcontext()) is None
        assert await s.enter(file) is file
        assert not file.closed
    assert file.closed


async def test_one_stack_for_everything() -> None:
    """S14: entered managers, clean-ups and services share one stack, last opened first closed."""
    log: list[Any] = []

    def service() -> Iterator[str]:
        with plain(log, "service") as value:
            yield value

    async with (
        scope().provide("gen", service).provide("value", lambda: "v", close=lambda _: log.append("close v")) as s
    ):
        await s.enter(kept(log, "a"))
        s.on_exit(log.append, "on_exit 1")
        await s.use("gen")
        await s.enter(plain(log, "b"))
        await s.use("value")
        s.on_exit(log.append, "on_exit 2")
        await s.enter(kept(log, "c"))
        log.clear()
    assert log == ["close c", "on_exit 2", "close v", "close b", "close service", "on_exit 1", "close a"]


async def test_left_after_tasks_children_and_daemons() -> None:
    """S2: it is left only when tasks, child scopes and daemons have ended."""
    log: list[Any] = []

    async def work(name: str) -> None:
        try:
            async with scope(name="child"):
                await anyio.sleep(0.001)
        finally:
            log.append(name)

    async def daemon() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("daemon")

    async with scope() as s:
        await s.enter(kept(log))
        s.task(work, "task")
        s.start_soon(daemon, daemon=True)
    assert log == ["open it", "task", "daemon", "close it"]


async def test_entered_and_left_in_one_task() -> None:
    """S14: entered and left in the same task, which is none of the caller's."""
    seen: list[int] = []

    class Manager:
        async def __aenter__(self) -> None:
            seen.append(anyio.get_current_task().id)

        async def __aexit__(self, *_: object) -> None:
            seen.append(anyio.get_current_task().id)

    async with scope() as s:
        await s.enter(Manager())
    assert seen[0] == seen[1] != anyio.get_current_task().id


@holders
async def test_holders_end_well(holder: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    """S14: what holds task groups, cancel scopes and scopes across its yield is entered and left without trouble."""
    log: list[Any] = []
    async with scope(name="app") as s:
        await s.enter(kept(log, "a"))
        await s.enter(holder())
        await s.enter(kept(log, "b"))
        await s.enter(holder())
        assert await s.task(anyio.sleep, 0) == Ok(None)
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
    assert log == ["open a", "open b", "close b", "close a"]


@holders
@pytest.mark.parametrize("error", [Boom("body"), StopAsyncIteration("body"), LookupError("body")], ids=repr)
async def test_holders_and_an_error_of_the_body(
    holder: Callable[[], AbstractAsyncContextManager[Any]], error: Exception
) -> None:
    """S3: the very error of the body leaves, whatever the managers made of it on their way."""
    with pytest.raises(type(error)) as caught:
        async with scope(name="app") as s:
            await s.enter(holder())
            await s.enter(holder())
            raise error
    assert caught.value is error


@holders
async def test_holders_and_a_group_from_the_body(holder: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
    """S3: the body's error may itself be a group, which a task group wraps in another one (and Trio rebuilds)."""
    error = ExceptionGroup("inner", [Boom("a"), ValueError("b")])
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(holder())
            await s.enter(holder())
            raise error
    assert caught.value is error


async def test_a_group_that_a_manager_splits() -> None:
    """S3: `except*` rebuilds a group from the same errors: that is no news either."""
    error = ExceptionGroup("inner", [Boom("a"), ValueError("b")])

    @asynccontextmanager
    async def splits() -> AsyncIterator[None]:
        try:
            yield
        except BaseExceptionGroup as group:
            rest = group.split(TypeError)[1]
            assert rest is not None
            raise rest.derive(rest.exceptions) from None

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(splits())
            raise error
    assert caught.value is error


@pytest.mark.parametrize("make", [kept, plain], ids=["async", "plain"])
async def test_stop_iteration_of_the_body(make: Callable[[list[Any]], Any]) -> None:
    """S3: StopIteration, as of an empty `next(...)`, leaves as itself, though no coroutine can raise it."""
    error = StopIteration("body")
    caught: BaseException | None = None
    try:
        async with scope(name="app") as s:
            await s.enter(make([]))
            raise error
    except BaseException as raised:
        caught = raised
    assert caught is error


async def test_the_error_of_the_body_stays_as_it_is() -> None:
    """S3: a hundred managers that see it leave its traceback, context, cause and notes as they were."""

    async def story(count: int) -> BaseException:
        try:
            async with scope(name="app") as s:
                for number in range(count):
                    await s.enter(HOLDERS[number % len(HOLDERS)]())
                    await s.enter(kept([]))
                    await s.enter(plain([]))
                try:
                    raise ValueError("context")
                except ValueError as context:
                    raise Boom("body") from context
        except Boom as error:
            return error
        raise AssertionError("unreachable")

    without, many = await story(0), await story(33)
    frames = [
        [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)] for error in (without, many)
    ]
    assert frames[0] == frames[1] == ["story"]
    assert repr(many.__context__) == repr(many.__cause__) == "ValueError('context')"
    assert not hasattr(many, "__notes__")


async def test_it_sees_the_error_of_a_crashed_task() -> None:
    """S14, S4: it sees the very error of the task that brought the scope down; that is told once."""
    log: list[Any] = []
    error = Boom("task")

    async def crash() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(transaction(log))
            await s.enter(with_group())
            s.start_soon(crash)
            await anyio.sleep_forever()
    assert log == [error]
    assert caught.value.exceptions == (error,)


async def test_it_cannot_suppress() -> None:
    """S3, S14: a manager that swallows the error is none the wiser: it leaves, and outer managers see it."""
    log: list[Any] = []
    error = Boom("body")
    with pytest.raises(Boom) as caught:
        async with scope(name="app") as s:
            await s.enter(kept(log, "outer"))
            await s.enter(suppress(Boom))
            raise error
    assert caught.value is error
    assert log == ["open outer", "outer sees Boom: body", "close outer"]


async def test_it_cannot_suppress_a_cancellation() -> None:
    """S8, S14: nor a cancellation from outside."""
    log: list[Any] = []
    with anyio.CancelScope() as outer:
        async with scope(name="app") as s:
            await s.enter(kept(log, "outer"))
            await s.enter(suppress(BaseException))
            outer.cancel()
            await anyio.sleep_forever()
        raise AssertionError("it went on")
    assert outer.cancelled_caught
    assert log[1:] == [
        "outer sees ScopeCancelled: scope app was cancelled (cancelled from outside): everything in it was cut off",
        "close outer",
    ]


# ------------------------------------------------------------------ what goes wrong when it is left
async def test_an_exit_that_raises() -> None:
    """S4: what leaving raises leaves the scope in a group, with a note; the next ones see it, and are left."""
    log: list[Any] = []

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        yield
        raise Boom("exit")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(kept(log))
            await s.enter(bad())
    assert str(caught.value) == "errors in scope app (1 sub-exception)"
    assert repr(caught.value.exceptions) == "(Boom('exit'),)"
    assert caught.value.exceptions[0].__notes__ == ["in clean-up bad (#1) of app"]
    assert log == ["open it", "it sees Boom: exit", "close it"]


async def test_an_exit_that_raises_another_error() -> None:
    """S4: what it raises instead of the error that it was shown is told beside it, the body's first."""

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        try:
            yield
        except Boom as error:
            raise OSError("exit") from error

    error = Boom("body")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(bad())
            raise error
    assert [repr(each) for each in caught.value.exceptions] == ["Boom('body')", "OSError('exit')"]
    assert caught.value.exceptions[0] is error
    assert caught.value.exceptions[1].__cause__ is error


async def test_an_exit_that_raises_a_group_with_the_shown_error() -> None:
    """S4: of a group that holds the shown error too, only the rest is news."""

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        try:
            yield
        except Boom as error:
            raise ExceptionGroup("both", [error, ExceptionGroup("deep", [error, OSError("exit")])]) from None

    error = Boom("body")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(bad())
            raise error
    first, second = caught.value.exceptions
    assert first is error
    assert isinstance(second, ExceptionGroup)
    assert repr(second.exceptions[0].exceptions) == "(OSError('exit'),)"  # type: ignore[union-attr]


async def test_a_failing_task_group_of_a_manager_while_it_is_left() -> None:
    """S4: a task of the manager's own that fails while it is left is told."""

    @asynccontextmanager
    async def server() -> AsyncIterator[None]:
        async def serve() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise Boom("serve")

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            await anyio.lowlevel.checkpoint()
            yield
            group.cancel_scope.cancel()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(server())
            await anyio.sleep(0.001)
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert repr(group.exceptions) == "(Boom('serve'),)"


@pytest.mark.virtual_time
async def test_an_exit_that_hangs() -> None:
    """S7: it is cancelled at its bound and told as CloseTimeout; the next one is left."""
    log: list[Any] = []

    @asynccontextmanager
    async def hangs() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cancelled")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(kept(log))
            await s.enter(hangs())
            start = anyio.current_time()
    assert anyio.current_time() - start == pytest.approx(3)
    (error,) = caught.value.exceptions
    assert isinstance(error, CloseTimeout)
    assert str(error).splitlines()[0] == "scope app: clean-up hangs (#1) took longer than 3 s and was abandoned"
    assert error.__notes__ == ["in clean-up hangs (#1) of app"]
    assert [*log[:2], log[-1]] == ["open it", "cancelled", "close it"]
    assert log[2].startswith("it sees CloseTimeout: scope app: clean-up hangs (#1) took longer than 3 s")


@pytest.mark.virtual_time
async def test_an_exit_that_hangs_and_an_error_of_the_body() -> None:
    """S4, S7: both are told, the body's first, and the body's has its own traceback."""

    @asynccontextmanager
    async def hangs() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep_forever()

    error = Boom("body")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(hangs())
            raise error
    assert caught.value.exceptions[0] is error
    assert isinstance(caught.value.exceptions[1], CloseTimeout)
    assert len(list(traceback.walk_tb(error.__traceback__))) == 1


@pytest.mark.virtual_time
async def test_an_exit_that_takes_long_to_be_cancelled() -> None:
    """S7: what does something shielded when it is cut off at its bound may end that; nothing runs on afterwards."""
    log: list[Any] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(20)
            log.append("ended")

    with pytest.raises(ExceptionGroup):
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(kept(log))
            await s.enter(slow())
    assert [*log[:2], log[-1]] == ["open it", "ended", "close it"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["on_exit", "enter"])
async def test_what_an_overrun_exit_raises(how: str) -> None:
    """S4: an error raised when the exit is cut off at its bound is not lost."""

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("could not flush")

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        await slow()

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", close_timeout=3) as s:
            if how == "enter":
                await s.enter(manager())
            else:
                s.on_exit(slow)
    assert "could not flush" in "".join(traceback.format_exception(caught.value))


@pytest.mark.virtual_time
async def test_an_interrupt_of_an_overrun_exit() -> None:
    """S15: a KeyboardInterrupt raised when the exit is cut off at its bound leaves the scope."""

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyboardInterrupt("exit")

    caught: list[BaseException] = []
    try:
        async with scope(name="app", close_timeout=3) as s:
            await s.enter(manager())
    except BaseException as error:
        caught.append(error)
    assert [repr(error) for error in caught] == ["KeyboardInterrupt('exit')"]


@pytest.mark.parametrize("moment", ["enter", "exit"])
@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_fatal_in_enter_and_exit(moment: str, fatal: type[BaseException]) -> None:
    """S15: it leaves the scope bare, and everything else is closed."""
    log: list[Any] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        if moment == "enter":
            raise fatal(moment)
        yield
        raise fatal(moment)

    caught: list[BaseException] = []
    try:
        async with scope(name="app") as s:
            await s.enter(kept(log))
            await s.enter(manager())
            log.append("body")
    except BaseException as error:
        caught.append(error)
    assert [type(error) for error in caught] == [fatal]
    assert log[0] == "open it"
    assert log[-1] == "close it"
    assert ("body" in log) == (moment == "exit")


async def test_fatal_in_the_body() -> None:
    """S15: a KeyboardInterrupt of the body: what is kept open sees a report, not the interrupt, and it leaves bare."""
    log: list[Any] = []
    fatal = KeyboardInterrupt("body")
    caught: list[BaseException] = []
    try:
        async with scope(name="app") as s:
            await s.enter(kept(log))
            await s.enter(with_group())
            raise fatal
    except BaseException as error:
        caught.append(error)
    assert caught == [fatal]
    assert log[1:] == [
        "it sees ScopeCancelled: scope app was cancelled (KeyboardInterrupt: body): everything in it was cut off",
        "close it",
    ]


# ------------------------------------------------------------------ what goes wrong when it is entered
async def test_an_error_while_entering() -> None:
    """S14: it is the caller's alone: caught there, the scope goes on, and there is nothing to leave."""
    log: list[Any] = []
    error = Boom("enter")

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        await anyio.lowlevel.checkpoint()
        raise error
        yield

    async with scope(name="app") as s:
        with pytest.raises(Boom) as caught:
            await s.enter(bad())
        assert caught.value is error
        assert await s.enter(kept(log)) == "it"
        assert s.statistics().clean_ups == 1
    assert log == ["open it", "close it"]


async def test_an_error_while_entering_that_leaves_the_body() -> None:
    """S3: not caught, it is the body's error, told once."""
    error = Boom("enter")

    @contextmanager
    def bad() -> Iterator[None]:
        raise error
        yield

    with pytest.raises(Boom) as caught:
        async with scope(name="app") as s:
            await s.enter(bad())
    assert caught.value is error


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["caller", "scope", "outside", "task", "deadline", "parent"])
async def test_cancelled_while_entering(how: str) -> None:
    """S14: when the caller is cancelled, entering is; nothing is left open, and the scope ends."""
    log: list[Any] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        log.append("begin")
        try:
            await anyio.sleep_forever()
            yield
        finally:
            log.append("cut off")

    async def enter(s: Scope) -> None:
        await s.enter(slow())
        log.append("entered")

    limit = pytest.raises(ScopeTimeout) if how == "deadline" else nullcontext()
    with anyio.CancelScope() as outer, limit:
        async with scope(name="p") as parent, scope(name="app", timeout=1 if how == "deadline" else None) as s:
            await s.enter(kept(log, "first"))
            task = s.task(enter, s)
            await anyio.sleep(0.1)
            if how == "task":
                task.cancel("enough")
                await task
                assert isinstance(task.result(), Err)
                log.append("goes on")
            elif how == "caller":
                with anyio.move_on_after(0.1):
                    await enter(s)
                task.cancel()
            elif how == "deadline":
                await anyio.sleep_forever()
            else:
                {"scope": s.cancel, "outside": outer.cancel, "parent": parent.cancel}[how]()
                await anyio.sleep_forever()
    assert log.count("begin") == log.count("cut off") == (2 if how == "caller" else 1)
    assert log[-1] == "close first"
    assert "entered" not in log


@pytest.mark.virtual_time
async def test_cut_off_while_entering_from_a_foreign_task() -> None:
    """S5: the scope is cancelled, and the caller belongs to somebody else: it gets ScopeCancelled and lives on."""
    log: list[Any] = []
    scopes: list[Scope] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async def foreign() -> None:
        try:
            await scopes[0].enter(slow())
        except ScopeCancelled as error:
            log.append(str(error))
        await anyio.sleep(1)
        log.append("lives on")

    async with anyio.create_task_group() as group, scope(name="app") as s:
        scopes.append(s)
        group.start_soon(foreign)
        await anyio.sleep(0.1)
        s.cancel("why")
    assert log == ["scope app was cancelled (why): slow was cut off", "lives on"]


@pytest.mark.virtual_time
async def test_cut_off_while_entering_and_failing_then() -> None:
    """S4: what entering raises when nobody waits for it any more is told by the scope."""

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("cut")
        yield

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            with anyio.move_on_after(1):
                await s.enter(slow())
            await anyio.sleep(1)
    assert repr(caught.value.exceptions) == "(Boom('cut'),)"
    assert caught.value.exceptions[0].__notes__ == ["in slow of app"]


@pytest.mark.virtual_time
async def test_the_scope_closes_while_a_task_enters() -> None:
    """S2, S14: entering in a task is waited for at the end of the body; what it opened is left last opened first."""
    log: list[Any] = []

    async def late(s: Scope) -> None:
        await anyio.sleep(1)
        await s.enter(kept(log, "late"))
        s.start_soon(anyio.sleep_forever, daemon=True)
        log.append("entered")

    async with scope(name="app") as s:
        await s.enter(kept(log, "early"))
        s.task(late, s)
    assert log == ["open early", "open late", "entered", "close late", "close early"]


async def test_entering_in_a_cancelled_scope() -> None:
    """S5: in a cancelled scope nothing is begun."""
    log: list[Any] = []
    async with scope(name="app") as s:
        s.cancel()
        await s.enter(kept(log))
    assert log == []


async def test_entering_something_inside_of_something_that_is_being_entered() -> None:
    """S14: what is opened on the way in was open first, and is left last."""
    log: list[Any] = []

    @asynccontextmanager
    async def outer() -> AsyncIterator[str]:
        inner = await current_scope().enter(kept(log, "inner"))
        async with kept(log, "outer"):
            yield inner

    async with scope(name="app") as s:
        assert await s.enter(outer()) == "inner"
    assert log == ["open inner", "open outer", "close outer", "close inner"]


async def test_a_clean_up_registered_by_an_exit() -> None:
    """S14: a manager that is left may register a clean-up, which runs next."""
    log: list[Any] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield
        s.on_exit(log.append, "registered late")

    async with scope(name="app") as s:
        await s.enter(kept(log))
        await s.enter(manager())
    assert log == ["open it", "registered late", "close it"]


async def test_a_service_that_enters_itself_in_a_ring() -> None:
    """V7, S14: a ring through `s.enter` is told, and does not hang."""

    @asynccontextmanager
    async def ring() -> AsyncIterator[None]:
        await current_scope().use("service")
        yield

    async def factory() -> None:
        await current_scope().enter(ring())

    with pytest.raises(ServiceCycle) as caught:
        async with scope(name="app").provide("service", factory) as s:
            await s.use("service")
    assert str(caught.value).startswith("services of app wait for one another: ")


# ------------------------------------------------------------------ the wrong moment, the wrong thing
async def test_enter_after_the_end() -> None:
    """S12: told at the call, with the name that a person would give it; nothing is entered."""
    log: list[Any] = []
    async with scope(name="app") as s:
        pass
    with pytest.raises(ScopeClosed) as caught:
        await s.enter(kept(log))
    assert str(caught.value).splitlines()[1:] == [
        "Start the work inside the `async with` block, or open a new scope for it."
    ]
    assert caught.value.path == "app"
    assert log == []


async def test_the_name_of_a_manager_in_messages() -> None:
    """S12: a message names the user's function, not `_AsyncGeneratorContextManager`."""
    async with scope(name="app") as s:
        pass
    with pytest.raises(ScopeClosed) as caught:
        await s.enter(kept([]))
    assert str(caught.value).splitlines()[0] == "scope app is closed: enter(kept) came too late"


async def test_enter_while_closing() -> None:
    """S12: a clean-up cannot enter anything."""
    seen: list[str] = []

    async def close(s: Scope) -> None:
        with pytest.raises(ScopeClosed) as caught:
            await s.enter(nullcontext())
        seen.append(str(caught.value).splitlines()[0])

    async with scope(name="app") as s:
        s.on_exit(close, s)
    assert seen == ["scope app is closed: enter(nullcontext) came too late"]


async def test_enter_before_entry() -> None:
    """S12: told at the call."""
    log: list[Any] = []
    s = scope(name="app")
    with pytest.raises(ScopeMisuse) as caught:
        await s.enter(nullcontext())
    assert str(caught.value) == (
        "scope app: enter(nullcontext) came before it was entered\nEnter it first: async with scope(...) as s:"
    )
    assert log == []


async def test_enter_from_another_thread() -> None:
    """S12: from another thread and its own event loop: told, and the scope is untouched."""
    log: list[Any] = []

    def other_thread(s: Scope) -> str:
        async def main() -> str:
            with pytest.raises(ScopeMisuse) as caught:
                await s.enter(kept(log))
            return str(caught.value)

        return anyio.run(main)

    async with scope(name="app") as s:
        text = await anyio.to_thread.run_sync(other_thread, s)
        assert s.statistics().clean_ups == 0
    assert "s.enter" in text
    assert "thread" in text
    assert log == []


async def coroutine_function() -> None:
    """An async function, which is no context manager."""


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (3, "int", "s.enter(manager)"),
        (None, "NoneType", "s.enter(manager)"),
        ("file", "str", "s.enter(manager)"),
        (kept, "function", "s.enter(kept(...))"),
        (scope, "function", "s.enter(scope(...))"),
        (anyio.Lock, "type", "s.enter(Lock(...))"),
        (object(), "object", "s.enter(manager)"),
    ],
)
async def test_enter_nonsense(value: Any, kind: str, right: str) -> None:
    """S12: no context manager: TypeError with the line to write instead, and nothing is begun."""
    async with scope(name="app") as s:
        with pytest.raises(TypeError) as caught:
            await s.enter(value)
        assert str(caught.value) == f"s.enter(...): expected a context manager, got {kind}\nRight: await {right}"
        assert s.statistics().clean_ups == 0


async def test_enter_a_coroutine() -> None:
    """S12: a coroutine object is refused without a "never awaited" warning."""
    async with scope(name="app") as s:
        with pytest.raises(TypeError) as caught:
            await s.enter(coroutine_function())  # type: ignore[call-overload]
    assert str(caught.value).startswith("s.enter(...): expected a context manager, got coroutine\n")


async def test_enter_a_generator() -> None:
    """S12: a bare generator is no context manager."""

    def generator() -> Generator[None, None, None]:
        yield

    async with scope(name="app") as s:
        with pytest.raises(TypeError, match="expected a context manager, got generator"):
            await s.enter(generator())  # type: ignore[call-overload]


# ------------------------------------------------------------------ what it sees: transactions
async def crash(error: Exception) -> None:
    raise error


async def test_a_transaction_commits_on_a_good_end() -> None:
    """S14: body and tasks ended well: it is left without an error."""
    log: list[Any] = []
    async with scope(name="app", timeout=60) as s:
        await s.enter(transaction(log))
        s.task(anyio.sleep, 0.001)
        s.start_soon(anyio.sleep_forever, daemon=True)
    assert log == ["commit"]


async def test_a_transaction_commits_when_a_task_fails_that_was_looked_at() -> None:
    """S14, T1: a task's error that somebody took is no reason to roll back."""
    log: list[Any] = []
    async with scope(name="app") as s:
        await s.enter(transaction(log))
        assert isinstance(await s.task(crash, Boom()), Err)
    assert log == ["commit"]


ENDS = ["error", "cancel", "deadline", "outside", "parent", "crash", "crash while draining", "signal", "keeper crash"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("nested", [False, True])
async def test_a_transaction_rolls_back(how: str, nested: bool) -> None:
    """S14: error, cancel, deadline, outside, parent, crash: it sees that, in each of its layers."""
    log: list[Any] = []
    error = Boom("error")

    @asynccontextmanager
    async def ends() -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(crash, error)
            yield

    async def fail_late() -> None:
        await anyio.sleep(1)
        raise error

    raised: list[BaseException] = []
    with anyio.CancelScope() as outer:
        try:
            async with (
                scope(name="signal") as signaller,
                scope(name="p") as parent,
                scope(
                    name="app",
                    timeout=2 if how == "deadline" else None,
                    signal=signaller.signal if how == "signal" else None,
                    parent=parent,
                ) as s,
            ):
                await s.enter(transaction(log))
                if nested:
                    await s.enter(with_group())
                    await s.enter(with_scope())
                    await s.enter(transaction(log))
                if how == "error":
                    raise error
                if how == "crash":
                    s.start_soon(crash, error)
                elif how == "keeper crash":
                    await s.enter(ends())
                elif how == "crash while draining":
                    s.start_soon(fail_late)
                else:
                    calls = {"cancel": s.cancel, "outside": outer.cancel, "parent": parent.cancel}
                    calls.get(how, signaller.cancel if how == "signal" else lambda: None)()
                if how != "crash while draining":
                    await anyio.sleep_forever()
        except Exception as caught:
            raised.append(caught)
    assert len(log) == (2 if nested else 1)
    assert "commit" not in log
    if how in ("error", "crash", "crash while draining"):
        assert all(seen is error for seen in log)
    elif how == "keeper crash":
        assert all(isinstance(seen, ExceptionGroup) and seen.exceptions == (error,) for seen in log)
    elif how == "deadline":
        assert all(seen is raised[0] for seen in log)
        assert isinstance(raised[0], ScopeTimeout)
    else:
        reason = {"cancel": "", "signal": "", "parent": "", "outside": " (cancelled from outside)"}[how]
        text = f"scope signal > p > app was cancelled{reason}: everything in it was cut off"
        assert [str(seen) for seen in log] == [text] * len(log)
        assert all(isinstance(seen, ScopeCancelled) for seen in log)


@pytest.mark.virtual_time
async def test_no_silent_roll_back_at_the_deadline() -> None:
    """S6, S14: a deadline that cut nobody off ends quietly: so a transaction must not have been rolled back."""
    log: list[Any] = []

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4)

    told = False
    try:
        async with scope(name="app", timeout=2) as s:
            await s.enter(transaction(log))
            s.task(stubborn)
    except ScopeTimeout:
        told = True
    assert told == (log != ["commit"])


async def test_a_transaction_and_an_error_that_nobody_looked_at() -> None:
    """S4, S14: a task's error that nobody looked at makes the block raise: a transaction should see it."""
    log: list[Any] = []
    error = Boom("task")
    with pytest.raises(ExceptionGroup):
        async with scope(name="app") as s:
            await s.enter(transaction(log))
            s.task(crash, error)
    assert log != ["commit"]


# ------------------------------------------------------------------ it ends by itself
@pytest.mark.virtual_time
async def test_a_manager_that_crashes() -> None:
    """S14, V8: a crash of a task of its own cancels the scope, and is told with a note."""
    log: list[Any] = []

    @asynccontextmanager
    async def server() -> AsyncIterator[None]:
        async def serve() -> None:
            await anyio.sleep(1)
            raise Boom("serve")

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            yield

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(kept(log))
            await s.enter(server())
            await anyio.sleep_forever()
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert repr(group.exceptions) == "(Boom('serve'),)"
    assert group.__notes__ == ["in server of app"]
    assert anyio.current_time() == pytest.approx(1)
    assert log[-1] == "close it"
    assert "sees ExceptionGroup" in log[1]


@pytest.mark.virtual_time
async def test_a_manager_that_ends_quietly() -> None:
    """S14: an early end without an error is a crash too."""

    @asynccontextmanager
    async def server() -> AsyncIterator[None]:
        with anyio.move_on_after(1):
            yield

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(server())
            await anyio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, ScopeCancelled)
    assert str(error) == "scope app was cancelled (it ended by itself): server was cut off"


@pytest.mark.virtual_time
async def test_a_manager_that_crashes_while_the_scope_drains() -> None:
    """S14: also when the body has ended, and tasks are waited for."""

    @asynccontextmanager
    async def server() -> AsyncIterator[None]:
        with anyio.fail_after(1):
            yield

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(server())
            s.task(anyio.sleep_forever)
    assert [type(error) for error in caught.value.exceptions] == [TimeoutError]


@pytest.mark.virtual_time
async def test_a_manager_that_crashes_while_others_are_closed() -> None:
    """S4: one that crashes while a later one is being left is told, and not left a second time."""
    log: list[Any] = []

    @asynccontextmanager
    async def server() -> AsyncIterator[None]:
        try:
            with anyio.fail_after(1):
                yield
        finally:
            log.append("server")

    async def slow() -> None:
        await anyio.sleep(2)
        log.append("slow")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            await s.enter(kept(log))
            await s.enter(server())
            s.on_exit(slow)
    assert [type(error) for error in caught.value.exceptions] == [TimeoutError]
    assert log[-1] == "close it"
    assert log.count("server") == 1
    assert log.index("server") < log.index("slow")


# ------------------------------------------------------------------ what is opened inside of what is kept
Opened = Callable[[Scope], Awaitable[object]]


LONG = 1000.0
"""Seconds that a call lasts which is not to be waited for: a wait for it shows, and yet the test ends."""


async def opens_a_scope(s: Scope) -> None:
    async with scope(name="child"):
        await anyio.sleep(LONG)


async def opens_a_named_scope(s: Scope) -> None:
    async with scope(name="child", parent=s), scope(name="grandchild"):
        await anyio.sleep(LONG)


async def runs(s: Scope) -> None:
    await s.run(anyio.sleep, LONG)


async def runs_jobs(s: Scope) -> None:
    with suppress(ScopeCancelled):
        await s.parallel(each(anyio.sleep, [0, LONG]))


async def completes_jobs(s: Scope) -> None:
    with suppress(ScopeCancelled):
        async with s.as_completed(each(anyio.sleep, [0, LONG])) as results:
            async for _ in results:
                pass


async def races(s: Scope) -> None:
    with suppress(ScopeCancelled):
        await s.race(each(anyio.sleep, [LONG, LONG]))


async def opens_a_scope_whose_task_calls_up(s: Scope) -> None:
    async with scope(name="requests") as requests:
        requests.start_soon(runs, s)
        await anyio.sleep(LONG)


async def opens_a_scope_whose_task_opens_a_child(s: Scope) -> None:
    async with scope(name="requests") as requests:
        requests.start_soon(opens_a_named_scope, s)
        await anyio.sleep(LONG)


async def opens_a_scope_whose_task_runs_jobs(s: Scope) -> None:
    async with scope(name="requests") as requests:
        requests.start_soon(runs_jobs, s)
        await anyio.sleep(LONG)


async def starts_a_task_that_calls(s: Scope) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(runs, s)
        group.start_soon(opens_a_named_scope, s)
        group.start_soon(runs_jobs, s)


OPENED: list[Opened] = [
    opens_a_scope,
    opens_a_named_scope,
    runs,
    runs_jobs,
    completes_jobs,
    races,
    starts_a_task_that_calls,
    opens_a_scope_whose_task_calls_up,
    opens_a_scope_whose_task_opens_a_child,
    opens_a_scope_whose_task_runs_jobs,
]


def _kept_cases() -> Iterator[Any]:
    """What is opened, by what, in a scope that ends how."""
    for opened in OPENED:
        for keeper in ("daemon", "entered", "service"):
            for end in ("good", "cancel", "error", "deadline", "outside"):
                name = f"{opened.__name__}-{keeper}-{end}"
                yield pytest.param(opened, keeper, end, id=name)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("opened", "keeper", "end"), list(_kept_cases()))
async def test_what_a_kept_task_opens_is_not_waited_for(opened: Opened, keeper: str, end: str) -> None:
    """S2: a scope or a call opened in what the closing scope itself ends would be waited for, for ever."""
    error = Boom("body")

    @asynccontextmanager
    async def manager(s: Scope) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(opened, s)
            yield
            group.cancel_scope.cancel()

    with anyio.CancelScope() as outer:
        expected: Any = nullcontext()
        if end in ("error", "deadline"):
            expected = pytest.raises(Boom if end == "error" else ScopeTimeout)
        with expected:
            async with scope(name="app", timeout=2 if end == "deadline" else None) as s:
                if keeper == "daemon":
                    s.start_soon(opened, s, daemon=True)
                elif keeper == "entered":
                    await s.enter(manager(s))
                else:
                    await s.provide("service", lambda: manager(s)).use("service")
                await anyio.sleep(1)
                if end == "cancel":
                    s.cancel()
                elif end == "error":
                    raise error
                elif end == "outside":
                    outer.cancel()
                if end != "good":
                    await anyio.sleep_forever()
    assert anyio.current_time() < LONG


def _entered_cases() -> Iterator[Any]:
    """What a task of an entered scope opens, and how the scope above it ends."""
    for opened in OPENED:
        for end in ("good", "cancel", "error"):
            yield pytest.param(opened, end, id=f"{opened.__name__}-{end}")


@pytest.mark.virtual_time
@pytest.mark.parametrize(("opened", "end"), list(_entered_cases()))
async def test_what_a_task_of_an_entered_scope_opens(opened: Opened, end: str) -> None:
    """S2, S5, S14: `x = await s.enter(scope())`: what a task of x asks of s neither holds up s nor outlives it."""
    log: list[Any] = []

    async def work(s: Scope) -> None:
        try:
            await opened(s)
        finally:
            log.append("ended")

    with pytest.raises(Boom) if end == "error" else nullcontext():
        async with scope(name="app") as s:
            x = await s.enter(scope(name="x"))
            x.start_soon(work, s, daemon=True)
            await anyio.sleep(1)
            if end == "cancel":
                s.cancel()
            elif end == "error":
                raise Boom
    assert log == ["ended"]
    assert anyio.current_time() < LONG


@pytest.mark.virtual_time
async def test_an_entered_scope_waits_for_its_tasks() -> None:
    """S2, S14: an entered scope is left in its turn: its tasks are waited for."""
    log: list[Any] = []

    async def work() -> None:
        await anyio.sleep(1)
        log.append("task of x")

    async with scope(name="app") as s:
        await s.enter(kept(log, "a"))
        x = await s.enter(scope(name="x"))
        await s.enter(kept(log, "b"))
        x.task(work)
        assert x.path == "app > x"
    assert log == ["open a", "open b", "close b", "task of x", "close a"]
    assert x.closed


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["cancel", "error", "outside"])
async def test_an_entered_scope_is_cancelled_with_its_owner(how: str) -> None:
    """S9: a task of an entered scope does not outlive a cancelled owner, however it ends."""
    log: list[Any] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cut off")

    with anyio.CancelScope() as outer, pytest.raises(Boom) if how == "error" else nullcontext():
        async with scope(name="app") as s:
            x = await s.enter(scope(name="x"))
            x.start_soon(work)
            await anyio.sleep(1)
            if how == "error":
                raise Boom
            s.cancel() if how == "cancel" else outer.cancel()
            await anyio.sleep_forever()
    assert log == ["cut off"]
    assert x.cancelled
    assert anyio.current_time() == pytest.approx(1)


@pytest.mark.virtual_time
async def test_an_entered_scope_that_fails() -> None:
    """S14, S4: a task of an entered scope that crashes takes both down, and is told."""

    async def work() -> None:
        await anyio.sleep(1)
        raise Boom("task of x")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app") as s:
            x = await s.enter(scope(name="x"))
            x.start_soon(work)
            await anyio.sleep_forever()
    (group,) = caught.value.exceptions
    assert str(group) == "errors in scope app > x (1 sub-exception)"
    assert isinstance(group, ExceptionGroup)
    assert repr(group.exceptions) == "(Boom('task of x'),)"


# ------------------------------------------------------------------ telling that closing is slow
class Heard(logging.Handler):
    """What was logged on `anyscope`, and when, as seconds of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[float, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((round(anyio.current_time(), 3), record.levelname, record.getMessage()))


@pytest.fixture
def heard() -> Iterator[list[tuple[float, str, str]]]:
    """What is logged on the logger of the library."""
    handler, logger = Heard(), logging.getLogger("anyscope")
    logger.addHandler(handler)
    yield handler.heard
    logger.removeHandler(handler)


Log = list[tuple[float, str, str]]


@pytest.mark.virtual_time
async def test_a_slow_clean_up_is_told_once(heard: Log) -> None:
    """S7, S13: half of its bound has gone by: one warning, with the tree."""
    async with scope(name="app", close_timeout=10) as s:
        await s.enter(kept([], "first"))
        s.on_exit(anyio.sleep, 9)
    assert heard == [
        (
            5,
            "WARNING",
            (
                "scope app: half of 10 s has gone by while it closes, waiting for clean-up sleep (#1)\n"
                "scope app closing\n"
                "  clean-up sleep (#1) closing\n"
                "  entered kept (#0)"
            ),
        )
    ]


@pytest.mark.virtual_time
async def test_a_slow_exit_and_a_slow_close_are_told(heard: Log) -> None:
    """S7, S13: one warning each for a manager that is slow to leave and a service that is slow to close."""

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        await anyio.sleep(6)

    async def close(_: object) -> None:
        await anyio.sleep(7)

    async with scope(name="app", close_timeout=10).provide(Db, Db, close=close) as s:
        await s.enter(slow())
        await s.use(Db)
    assert heard == [
        (
            5,
            "WARNING",
            (
                "scope app: half of 10 s has gone by while it closes, waiting for clean-up service Db (#1)\n"
                "scope app closing\n"
                "  service Db closing\n"
                "  entered slow (#0)"
            ),
        ),
        (
            12,
            "WARNING",
            (
                "scope app: half of 10 s has gone by while it closes, waiting for clean-up slow (#0)\n"
                "scope app closing\n"
                "  service Db closed\n"
                "  entered slow (#0) closing"
            ),
        ),
    ]


@pytest.mark.virtual_time
@pytest.mark.parametrize("bound", [10, None])
async def test_clean_ups_that_are_not_slow(bound: float | None, heard: Log) -> None:
    """S7: many that together take long are not told, nor anything where there is no bound."""
    async with scope(name="app", close_timeout=bound) as s:
        for seconds in (4.9, 0, 3, 4.9, 0.1, 4.9, 2.5, 2.5, 4.9) if bound else (100, 100):
            s.on_exit(anyio.sleep, seconds)
            s.on_exit(len, "")
    assert heard == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("gap", [0, 0.1, 2.5, 4.9])
async def test_each_slow_one_among_many_is_told(gap: float, heard: Log) -> None:
    """S7: a slow one after another, or after quick ones: told once each, at half of its own time."""
    async with scope(name="app", close_timeout=10) as s:
        for _ in range(3):
            s.on_exit(anyio.sleep, 6)
            s.on_exit(anyio.sleep, gap)
            s.on_exit(len, "")
    assert [when for when, *_ in heard] == pytest.approx(
        [gap + 5 + number * (gap + 6) for number in range(3)], abs=0.01
    )


@pytest.mark.virtual_time
async def test_a_clean_up_that_overruns_is_told_once(heard: Log) -> None:
    """S7: warned of at half of its time, abandoned at all of it; no warning of the next one, which is quick."""
    with pytest.raises(ExceptionGroup):
        async with scope(name="app", close_timeout=10) as s:
            s.on_exit(anyio.sleep, 1)
            s.on_exit(anyio.sleep_forever)
    assert [when for when, *_ in heard] == [5]
    assert anyio.current_time() == pytest.approx(11)


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["cancel", "error", "outside"])
async def test_tasks_of_a_cancelled_scope_that_take_long(how: str, heard: Log) -> None:
    """S5, S13: tasks that do not heed the cancellation: one warning that names them."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)

    async def child() -> None:
        async with scope(name="child") as inner:
            inner.start_soon(stubborn)

    with anyio.CancelScope() as outer, pytest.raises(Boom) if how == "error" else nullcontext():
        async with scope(name="app", close_timeout=10) as s:
            s.task(stubborn, name="a")
            s.start_soon(child)
            await anyio.sleep(1)
            if how == "error":
                raise Boom
            s.cancel("why") if how == "cancel" else outer.cancel()
            await anyio.sleep_forever()
    mine = [entry for entry in heard if entry[2].startswith("scope app:")]
    assert [entry[:2] for entry in mine] == [(6, "WARNING")]
    lines = mine[0][2].splitlines()
    assert lines[0] == (
        "scope app: half of 10 s has gone by while it closes, waiting for a (#0), child (#1), scope child"
    )
    reason = {"cancel": " (why)", "error": " (Boom: )", "outside": " (cancelled from outside)"}[how]
    assert lines[1] == f"scope app draining, cancelled{reason}"
    assert "  task a (#0) running" in lines
    assert len([entry for entry in heard if "child: " in entry[2]]) == 1


@pytest.mark.virtual_time
async def test_tasks_are_waited_for_without_a_word(heard: Log) -> None:
    """S2: a scope that has neither a time-out nor was cancelled waits for its tasks for as long as they like."""
    async with scope(name="app", close_timeout=10) as s:
        s.task(anyio.sleep, 1e6)
    assert heard == []


@pytest.mark.virtual_time
async def test_waiting_in_a_scope_with_a_time_out(heard: Log) -> None:
    """S6, S13: half of the time that is left at the end of the body has gone by: one warning."""
    async with scope(name="app", timeout=10) as s:
        s.task(anyio.sleep, 9, name="work")
        await anyio.sleep(2)
    assert heard == [
        (
            6,
            "WARNING",
            (
                "scope app: half of 8 s has gone by while it closes, waiting for work (#0)\n"
                "scope app draining\n"
                "  task work (#0) running"
            ),
        )
    ]


@pytest.mark.virtual_time
async def test_a_quick_wait_in_a_scope_with_a_time_out(heard: Log) -> None:
    """S6: nothing is told of a wait of less than half of that, nor of the clean-ups after it."""
    async with scope(name="app", timeout=10, close_timeout=30) as s:
        s.on_exit(anyio.sleep, 14)
        s.task(anyio.sleep, 5, name="work")
        await anyio.sleep(2)
    assert heard == []


@pytest.mark.virtual_time
async def test_waiting_over_the_time_out(heard: Log) -> None:
    """S6, S13: each of the two waits is told once: for the tasks until the deadline, and for the cancelled ones."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)
        await anyio.lowlevel.checkpoint()

    with pytest.raises(ScopeTimeout):
        async with scope(name="app", timeout=10, close_timeout=20) as s:
            s.task(stubborn)
    assert [entry[0] for entry in heard] == [5, 20]
    assert "half of 10 s" in heard[0][2]
    assert "half of 20 s" in heard[1][2]


@pytest.mark.virtual_time
async def test_a_slow_give_up_of_something_that_is_entered(heard: Log) -> None:
    """S13: what is being entered and does not heed the cancellation is told by its name."""

    @asynccontextmanager
    async def stubborn() -> AsyncIterator[None]:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(8)
        yield

    async with scope(name="app", close_timeout=10) as s:
        with anyio.move_on_after(1):
            await s.enter(stubborn())
        s.cancel()
    assert heard == [
        (
            6,
            "WARNING",
            (
                "scope app: half of 10 s has gone by while it closes, waiting for stubborn\n"
                "scope app closing, cancelled\n"
                "  entering stubborn"
            ),
        )
    ]


# ------------------------------------------------------------------ hooks, tree, statistics
async def test_disposed_records_have_a_kind() -> None:
    """H2: `clean-up`, `entered` or `service`, with label, index and error."""
    log: list[Disposed] = []

    class Recorder(Hooks):
        def disposed(self, event: Disposed, /) -> None:
            log.append(event)

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        yield
        raise Boom("exit")

    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(ExceptionGroup):
        async with scope(name="app", hooks=Recorder()) as s:
            s.provide(Db, Db, close=lambda _: None).provide(int, generator)
            s.on_exit(len, "")
            await s.enter(nullcontext())
            await s.use(Db)
            await s.use(int)
            await s.enter(bad())
            await s.enter(scope(name="x"))
    assert [(event.index, event.kind, event.label, repr(event.error)) for event in log] == [
        (5, "entered", "Scope", "None"),
        (4, "entered", "bad", "Boom('exit')"),
        (3, "service", "int", "None"),
        (2, "service", "Db", "None"),
        (1, "entered", "nullcontext", "None"),
        (0, "clean-up", "len", "None"),
    ]
    assert {event.path for event in log} == {"app"}
    assert Disposed("app", 0, "x", 0.0, None).kind == "clean-up"


async def test_the_shown_error_is_no_error_of_the_disposal() -> None:
    """H2, S3: a manager that merely passes the body's error on was disposed of without an error."""
    log: list[tuple[int, BaseException | None]] = []
    with pytest.raises(Boom):
        async with scope(hooks=Hooks(on_dispose=lambda index, error: log.append((index, error)))) as s:
            await s.enter(kept([]))
            await s.enter(with_group())
            raise Boom
    assert log == [(1, None), (0, None)]


@pytest.mark.virtual_time
async def test_the_tree_shows_what_is_entered() -> None:
    """S13: what is being entered, what is kept open, and what will be closed, in this order."""

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await anyio.sleep(1)
        yield

    async with scope(name="app") as s:
        await s.enter(kept([]))
        s.on_exit(len, "")
        task = s.task(s.enter, slow())
        await anyio.sleep(0.5)
        assert s.tree().splitlines() == [
            "scope app open",
            "  task Scope.enter (#2) running",
            "  entering slow",
            "  clean-up len (#1)",
            "  entered kept (#0)",
        ]
        assert (s.statistics().running, s.statistics().clean_ups) == (1, 2)
        await task
        assert (s.statistics().running, s.statistics().clean_ups) == (0, 3)


async def test_the_current_scope_inside_of_a_manager() -> None:
    """S11: what a manager runs sees the scope that it was entered in as the current one."""
    seen: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        seen.append(current_scope().path)
        yield

    async with scope(name="app") as s, scope(name="child"):
        await s.enter(manager())
    assert seen == ["app"]


# ------------------------------------------------------------------ at each step
class Ledger:
    """What was opened, and what of it began and ended to close."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.began: list[str] = []
        self.ended: list[str] = []
        self.done: list[str] = []
        self.tx: list[Any] = []

    @asynccontextmanager
    async def manager(self, name: str) -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            self.opened.append(name)
            try:
                yield name
            except BaseException as error:
                self.tx.append(error)
                raise
            else:
                self.tx.append("commit")
            finally:
                await self.close(name)
                group.cancel_scope.cancel()

    async def make(self, name: str) -> str:
        await anyio.lowlevel.checkpoint()
        self.opened.append(name)
        return name

    async def generate(self, name: str) -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        self.opened.append(name)
        try:
            yield name
        finally:
            await self.close(name)

    async def close(self, name: str) -> None:
        self.began.append(name)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        self.ended.append(name)

    async def work(self, name: str) -> None:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        self.done.append(name)

    async def story(self) -> None:
        """Two tasks, a daemon, two managers, a service with close, and a generator service."""
        made = scope(name="app").provide("value", functools.partial(self.make, "value"), close=self.close)
        async with made.provide("gen", functools.partial(self.generate, "gen")) as s:
            s.start_soon(anyio.sleep_forever, daemon=True)
            s.task(self.work, "one")
            await s.enter(self.manager("first"))
            await s.use("value")
            await s.use("gen")
            await s.enter(self.manager("second"))
            self.opened.append("exit")
            s.on_exit(self.close, "exit")
            s.task(self.work, "two")
            await anyio.lowlevel.checkpoint()
            self.done.append("body")

    def check(self, step: int) -> None:
        """What was opened was closed once and to the end, last opened first; committed only if all was well."""
        assert self.began == self.opened[::-1], f"at step {step}"
        assert self.ended == self.began, f"at step {step}"
        if "commit" in self.tx:
            assert sorted(self.done) == ["body", "one", "two"], f"at step {step}"
            assert self.tx == ["commit", "commit"], f"at step {step}"


@pytest.mark.parametrize("where", ["outside", "scope", "parent"])
async def test_cancelled_at_each_step(where: str) -> None:
    """S7, S8, S14: at whichever step: all that was opened is closed once, in order; a commit only on a good end."""
    step = 0
    while True:
        ledger = Ledger()
        ended: list[Ledger] = []
        async with anyio.create_task_group() as group:
            stop = anyio.CancelScope()

            async def run(ledger: Ledger = ledger, ended: list[Ledger] = ended, stop: Any = stop) -> None:
                with stop:
                    if where == "parent":
                        async with scope(name="p") as parent:
                            parent.on_exit(len, "")
                            await ledger.story()
                    elif where == "scope":
                        async with scope(name="p") as parent:
                            task = parent.task(ledger.story)
                            await task
                            task.result()
                    else:
                        await ledger.story()
                ended.append(ledger)

            group.start_soon(run)
            for _ in range(step):
                await anyio.lowlevel.checkpoint()
            hit = not ended
            stop.cancel()
        ledger.check(step)
        step += 1
        if not hit:
            break
    assert step > 20
    assert ledger.done.count("body") == 1
    assert ledger.tx == ["commit", "commit"]


@pytest.mark.parametrize("how", ["cancel", "error", "crash"])
async def test_ended_at_each_step_from_inside(how: str) -> None:
    """S5, S14: a task of the scope ends it at each step of its life."""
    for step in range(30):
        ledger = Ledger()
        error = Boom("inside")

        async def end(s: Scope, step: int = step, error: Exception = error) -> None:
            for _ in range(step):
                await anyio.lowlevel.checkpoint()
            if how == "cancel":
                s.cancel()
            else:
                raise error

        try:
            async with scope(name="app") as s:
                if how != "error":
                    s.start_soon(end, s)
                await s.enter(ledger.manager("first"))
                s.on_exit(ledger.close, "exit")
                ledger.opened.append("exit")
                await s.enter(ledger.manager("second"))
                if how == "error":
                    await end(s)
                await anyio.lowlevel.checkpoint()
                ledger.done += ["body", "one", "two"]
        except Boom as caught:
            assert caught is error
        except ExceptionGroup as caught:
            assert caught.exceptions == (error,), repr(caught)
        ledger.check(step)
