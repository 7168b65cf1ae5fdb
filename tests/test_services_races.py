"""Services: many who ask at once, cancellation, rings, crashes, closing and threads (S5-S8, V3-V5, V7, V8, V11)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from anyscope import (
    CloseTimeout,
    Err,
    Ok,
    Scope,
    ScopeCancelled,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    ServiceCycle,
    ServiceExists,
    ServiceNotFound,
    ServiceNotReady,
    TaskCancelled,
    current_scope,
    scope,
    use,
)
from anyscope._lifetime import backend
from anyscope._lifetime import owner as owner_module
from anyscope._lifetime.opening import Opening

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Boom(Exception):
    """An error of a user's function."""


class Slow:
    """A factory that waits until it is told to go on, and counts."""

    def __init__(self, *, error: Exception | None = None, stubborn: int = 0) -> None:
        self.go = anyio.Event()
        self.error = error
        self.stubborn = stubborn
        self.begun = self.ended = self.cut = self.at_once = 0

    async def __call__(self) -> str:
        self.begun += 1
        self.at_once += 1
        assert self.at_once == 1, "two builds at once"
        try:
            await self.go.wait()
            if self.error is not None:
                raise self.error
            self.ended += 1
            return f"value {self.begun}"
        except anyio.get_cancelled_exc_class():
            self.cut += 1
            with anyio.CancelScope(shield=True):
                for _ in range(self.stubborn):
                    await anyio.lowlevel.checkpoint()
            raise
        finally:
            self.at_once -= 1


@contextlib.contextmanager
def only(kind: type[Exception]) -> Iterator[None]:
    """Errors of this kind may leave in a group: those of builds that nobody waited for any more (S4)."""
    try:
        yield
    except ExceptionGroup as group:
        if group.split(kind)[1] is not None:
            raise


async def settle() -> None:
    """Until nothing can run."""
    await anyio.wait_all_tasks_blocked()


# ------------------------------------------------------------------ single flight (V3, V11)


@pytest.mark.parametrize("form", ["async", "generator", "entered"])
async def test_made_once_for_many(form: str) -> None:
    """V3: however many ask at the same time, from whichever scope, it is made once and all get that one."""
    made: list[object] = []

    async def slow() -> object:
        await anyio.sleep(0.005)
        made.append(object())
        return made[-1]

    async def generator() -> AsyncIterator[object]:
        yield await slow()

    async def ask(depth: int) -> object:
        if depth:
            async with scope():
                return await ask(depth - 1)
        return await use("x")

    factories: dict[str, Callable[[], Any]] = {"async": slow, "generator": generator}
    factories["entered"] = lambda: contextlib.asynccontextmanager(generator)()
    async with scope().provide("x", factories[form], enter=form == "entered") as s:
        tasks = [s.task(ask, number % 4) for number in range(20)]
        values = [await task.unwrap() for task in tasks]
    assert len(made) == 1
    assert all(value is made[0] for value in values)


HOW_TO_LEAVE = ["cancel scope", "task.cancel", "move_on_after", "timeout=", "child scope"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", HOW_TO_LEAVE)
async def test_the_first_who_asked_leaves(how: str) -> None:
    """V3, V11: however the first one is cancelled, the others get that very build."""
    slow = Slow()
    cancel_scope = anyio.CancelScope()
    child = scope(name="child")

    async def first() -> None:
        if how == "cancel scope":
            with cancel_scope:
                await use("x")
        elif how == "move_on_after":
            with anyio.move_on_after(1):
                await use("x")
        elif how == "child scope":
            async with child:
                await use("x")
        else:
            await use("x")

    async with scope().provide("x", slow) as s:
        task = s.task(first, timeout=1 if how == "timeout=" else None)
        await settle()
        others = [s.task(use, "x") for _ in range(5)]
        await anyio.sleep(2)
        cancel_scope.cancel()
        if how == "task.cancel":
            task.cancel()
        if how == "child scope":
            child.cancel()
        await task
        assert "building, 5 waiting" in s.tree()
        slow.go.set()
        assert [await other for other in others] == [Ok("value 1")] * 5
    assert (slow.begun, slow.cut) == (1, 0)


@pytest.mark.asyncio_only
@pytest.mark.parametrize("times", [1, 3])
async def test_the_first_who_asked_is_cancelled_natively(times: int) -> None:
    """V3, V11: native cancellation takes one who waits away, and nobody else."""
    slow = Slow()
    async with scope().provide("x", slow) as s:
        first = asyncio.create_task(s.use("x"))
        await settle()
        others = [s.task(use, "x") for _ in range(5)]
        await settle()
        for _ in range(times):
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        slow.go.set()
        assert [await other for other in others] == [Ok("value 1")] * 5
    assert slow.begun == 1


@pytest.mark.parametrize("stubborn", [0, 1, 5])
async def test_all_leave_and_somebody_asks_again(stubborn: int) -> None:
    """V11: the build is cancelled with the last who waits, and the next `use` makes it anew, never two at once."""
    slow = Slow(stubborn=stubborn)
    async with scope().provide("x", slow) as s:
        tasks = [s.task(use, "x") for _ in range(5)]
        await settle()
        for task in tasks:
            task.cancel()
        for task in tasks:
            assert isinstance((await task).error, TaskCancelled)  # type: ignore[union-attr]
        await settle()
        assert (slow.begun, slow.cut) == (1, 1)
        assert s.tree() == "scope scope open\n  service 'x' declared"
        slow.go.set()
        assert await s.use("x") == "value 2"


@pytest.mark.virtual_time
@pytest.mark.parametrize("stubborn", [0, 1, 5])
async def test_somebody_asks_while_it_is_being_given_up(stubborn: int) -> None:
    """V11: who comes while an abandoned build still cleans up waits for that, and then it is made anew."""
    slow = Slow(stubborn=stubborn)
    async with scope().provide("x", slow) as s:
        for _ in range(5):
            with anyio.CancelScope() as limit:
                async with anyio.create_task_group() as group:
                    group.start_soon(s.use, "x")
                    await settle()
                    limit.cancel()
        late = s.task(use, "x")
        slow.go.set()
        assert (await late.unwrap()).startswith("value")
    assert slow.ended == 1


async def test_a_build_that_does_not_heed_its_cancellation() -> None:
    """V3, V11: if an abandoned build gives a value all the same, that is the service, and it is closed."""
    log: list[str] = []

    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
        return "made anyway"

    async with scope().provide("x", stubborn, log.append) as s:
        task = s.task(use, "x")
        await settle()
        task.cancel()
        await task
        assert await s.use("x") == "made anyway"
    assert log == ["made anyway"]


async def test_an_abandoned_context_manager_is_left() -> None:
    """V4, V11: a generator that is abandoned before its yield is cancelled there; after it, it is a service."""
    log: list[str] = []
    reached = anyio.Event()

    async def generator() -> AsyncIterator[str]:
        log.append("begin")
        try:
            reached.set()
            await anyio.sleep(0 if len(log) > 2 else 3600)
            yield "x"
        finally:
            log.append("end")

    async with scope().provide("x", generator) as s:
        task = s.task(use, "x")
        await reached.wait()
        task.cancel()
        await task
        await settle()
        assert log == ["begin", "end"]
        assert await s.use("x") == "x"
        assert log == ["begin", "end", "begin"]
    assert log == ["begin", "end", "begin", "end"]


@pytest.mark.virtual_time
async def test_opened_and_abandoned_in_the_same_moment() -> None:
    """S7, V4, V11: what has been opened is closed: its clean-up may await, although nobody waits any more."""
    log: list[str] = []

    async def connect() -> AsyncIterator[str]:
        await go.wait()
        log.append("opened")
        try:
            yield "connection"
        finally:
            await anyio.lowlevel.checkpoint()
            log.append("closed")

    for _ in range(30):
        go = anyio.Event()
        async with scope().provide("x", connect) as s:
            task = s.task(use, "x")
            await settle()
            task.cancel()
            go.set()
            await task
    assert log.count("closed") == log.count("opened")


# ------------------------------------------------------------------ a failing build (V3)


async def test_a_failing_build() -> None:
    """V3: all who wait get that very error, it is reported once, and the next use tries again."""
    error = Boom("refused")
    slow = Slow(error=error)
    async with scope().provide("x", slow) as s:
        tasks = [s.task(use, "x") for _ in range(6)]
        await settle()
        slow.go.set()
        results = [await task for task in tasks]
        assert all(isinstance(result, Err) and result.error is error for result in results)
        assert slow.begun == 1
        slow.error = None
        assert await s.use("x") == "value 2"


async def test_the_traceback_of_a_failing_build_does_not_grow() -> None:
    """V3: an error that was given to many has the same traceback for the last as for the first."""
    slow = Slow(error=Boom())
    lengths: list[int] = []

    async def ask() -> None:
        try:
            await use("x")
        except Boom as error:
            lengths.append(len(traceback.extract_tb(error.__traceback__)))

    async with scope().provide("x", slow) as s:
        tasks = [s.task(ask) for _ in range(20)]
        await settle()
        slow.go.set()
        for task in tasks:
            await task
    assert len(lengths) == 20
    assert len(set(lengths)) == 1


async def test_a_failing_build_of_a_plain_factory() -> None:
    """V3: a plain factory's error is the caller's, and the next use tries again."""
    errors = [Boom("1"), Boom("2")]

    def factory() -> str:
        if errors:
            raise errors.pop(0)
        return "third time"

    async with scope().provide("x", factory) as s:
        for text in ("1", "2"):
            with pytest.raises(Boom, match=text):
                await s.use("x")
        assert await s.use("x") == "third time"


async def test_a_failing_dependency() -> None:
    """V3: the error of what a service needs is the error of the service; nothing stays half made."""
    log: list[str] = []

    async def broken() -> None:
        raise Boom

    async def repo() -> AsyncIterator[str]:
        log.append("begin")
        try:
            await use("db")
            yield "repo"
        finally:
            log.append("end")

    async with scope().provide("db", broken).provide("repo", repo) as s:
        for _ in range(2):
            with pytest.raises(Boom):
                await s.use("repo")
        assert s.statistics().clean_ups == 0
    assert log == ["begin", "end"] * 2


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_a_fatal_exception_of_a_build(fatal: type[BaseException]) -> None:
    """V3, S15: KeyboardInterrupt and SystemExit of an async factory end the scope, which is closed first."""
    log: list[str] = []

    async def factory() -> None:
        await anyio.lowlevel.checkpoint()
        raise fatal

    with pytest.raises(fatal):
        async with scope().provide("x", factory).provide_value("y", "closed", log.append) as s:
            await s.use("x")
    assert log == ["closed"]


async def test_an_error_that_nobody_waits_for_is_told() -> None:
    """S4, V3: a build that fails after it was abandoned leaves the scope as an error."""

    async def factory() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("x", factory) as s:
            with anyio.CancelScope() as limit:
                async with anyio.create_task_group() as group:
                    group.start_soon(s.use, "x")
                    await settle()
                    limit.cancel()
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert caught.value.exceptions[0].__notes__ == ["in service 'x' of app"]


# ------------------------------------------------------------------ nobody delays anybody (V11)


async def test_a_ready_one_is_not_delayed() -> None:
    """V11: what is ready is given without a checkpoint while something else is being made."""
    slow = Slow()
    async with scope().provide("slow", slow).provide("ready", lambda: 1) as s:
        await s.use("ready")
        s.task(use, "slow")
        await settle()
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            assert await s.use("ready") == 1
            assert await use("ready") == 1
            assert s.use_nowait("ready") == 1
        assert not cancelled.cancelled_caught
        slow.go.set()


async def test_others_are_made_meanwhile() -> None:
    """V11: two that do not need one another are made at the same time."""
    slow, other = Slow(), Slow()
    async with scope().provide("slow", slow).provide("other", other) as s:
        task = s.task(use, "slow")
        await settle()
        other.go.set()
        assert await s.use("other") == "value 1"
        assert not task.done
        slow.go.set()


async def test_a_build_takes_no_slot() -> None:
    """T8, V3: with concurrency=1, a factory may use tasks although the one who asks holds the slot."""

    async def part() -> int:
        await anyio.lowlevel.checkpoint()
        return 2

    async def factory() -> int:
        results = await current_scope().parallel([part, part])
        return await current_scope().task(part).unwrap() + sum(result.unwrap() for result in results)

    async with scope(concurrency=1).provide("x", factory) as s:
        assert await s.task(use, "x") == Ok(6)
        assert await s.task(use, "x") == Ok(6)


# ------------------------------------------------------------------ rings (V7, V11)


def needs(*keys: str) -> Callable[[], Any]:
    """A factory that uses these in turn."""

    async def factory() -> str:
        for key in keys:
            await anyio.lowlevel.checkpoint()
            await use(key)
        return "made"

    return factory


async def test_a_service_that_needs_itself() -> None:
    """V7: the shortest ring, with the remedy."""
    async with scope(name="app").provide("a", needs("a")) as s:
        with pytest.raises(ServiceCycle) as caught:
            await s.use("a")
        assert str(caught.value) == (
            "services of app wait for one another: 'a' -> 'a'\n"
            "The factory of 'a' asks for 'a' itself. To build on the one of the scope above: "
            "await current_scope().parent.use(...)"
        )
        assert caught.value.ring == ("'a'", "'a'")


async def test_a_ring_of_three() -> None:
    """V7: the ring is shown, and can be asked for again."""
    app = scope(name="app").provide("a", needs("b")).provide("b", needs("c")).provide("c", needs("a"))
    async with app as s:
        for _ in range(2):
            with pytest.raises(ServiceCycle) as caught:
                await s.use("a")
            assert str(caught.value) == (
                "services of app wait for one another: 'c' -> 'a' -> 'b' -> 'c'\n"
                "Let one of them ask for the other when it is first needed, not in its factory."
            )
        assert [s.tree().count(word) for word in ("declared", "building")] == [3, 0]


@pytest.mark.parametrize("count", [2, 3, 7])
async def test_a_ring_across_tasks(count: int) -> None:
    """V7, V11: each asked for by a task of its own, all at once: found, and nobody hangs."""
    app = scope(name="app")
    for number in range(count):
        app.provide(f"{number}", needs(f"{(number + 1) % count}"))
    async with app as s:
        tasks = [s.task(use, f"{number}") for number in range(count)]
        errors = [(await task).error for task in tasks]  # type: ignore[union-attr]
    assert all(isinstance(error, ServiceCycle) for error in errors)
    assert {len(error.ring) for error in errors} == {count + 1}  # type: ignore[union-attr]


async def test_a_ring_through_generators_and_scopes() -> None:
    """V7: through a generator's set-up, through parallel, and across two scopes."""

    async def generator() -> AsyncIterator[object]:
        yield await use("parallel")

    async def parallel() -> list[object]:
        results = await current_scope().parallel([functools.partial(use, key) for key in ("fine", "generator")])
        return [result.unwrap() for result in results]

    app = scope(name="app").provide("generator", generator).provide("parallel", parallel)
    async with app.provide("fine", lambda: 1), scope(name="child") as child:
        for key in ("generator", "parallel"):
            with pytest.raises(ServiceCycle) as caught:
                await child.use(key)
            assert len(caught.value.ring) == 3


async def test_a_ring_through_an_inner_scope_of_the_factory() -> None:
    """V7: a scope that a factory opens stands below it."""

    async def factory() -> object:
        async with scope(name="inner") as inner:
            return await inner.use("a")

    async with scope(name="app").provide("a", factory) as s:
        with pytest.raises(ServiceCycle):
            await s.use("a")


async def test_a_ring_between_parent_and_child() -> None:
    """V7: a parent's factory that reaches down to a child's service which needs it again."""
    async with scope(name="app") as app, scope(name="child") as child:
        app.provide("a", functools.partial(child.use, "b"))
        child.provide("b", needs("a"))
        with pytest.raises(ServiceCycle):
            await child.use("b")


async def test_a_diamond_is_no_ring() -> None:
    """V7: two that need the same one, at once and in turn."""
    made: list[int] = []

    async def base() -> None:
        await anyio.sleep(0.002)
        made.append(1)

    async def top() -> None:
        for result in await current_scope().parallel([functools.partial(use, key) for key in ("left", "right")]):
            result.unwrap()

    app = scope().provide("base", base).provide("left", needs("base")).provide("right", needs("base"))
    async with app.provide("top", top) as s:
        await s.use("top")
    assert made == [1]


async def test_a_factory_that_survives_a_ring() -> None:
    """V7: who closes a ring may do without; then all are made."""

    async def optional() -> str:
        try:
            await use("a")
        except ServiceCycle:
            return "without"
        return "with"

    async with scope().provide("a", needs("b")).provide("b", optional) as s:
        assert await s.use("a") == "made"
        assert await s.use("b") == "without"


@pytest.mark.parametrize("kind", ["task", "group", "run"])
async def test_a_background_task_asks_for_the_service_that_started_it(kind: str) -> None:
    """V7, V11: this is no ring, for nobody waits for that task: it gets the service as soon as it is ready."""
    got: list[object] = []

    async def background() -> None:
        got.append(await use("a"))

    async def service() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            if kind == "group":
                group.start_soon(background)
            elif kind == "task":
                current_scope().start_soon(background)
            else:
                group.start_soon(current_scope().run, background)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            yield "a"

    async with scope().provide("a", service) as s:
        assert await s.use("a") == "a"
        await settle()
        assert got == ["a"]


@pytest.mark.virtual_time
async def test_a_background_task_asks_for_a_service_that_takes_long() -> None:
    """V7: the same, where making it takes half a minute."""
    got: list[object] = []

    async def background() -> None:
        got.append(await use("a"))

    async def factory() -> str:
        current_scope().start_soon(background)
        await anyio.sleep(30)
        return "a"

    async with scope().provide("a", factory) as s:
        assert await s.use("a") == "a"
        await settle()
        assert got == ["a"]


@pytest.mark.virtual_time
async def test_a_factory_that_waits_for_a_task_which_waits_for_it() -> None:
    """V7: a real ring through a task does not hang."""

    async def factory() -> object:
        return await current_scope().task(use, "a").unwrap()

    async with scope(name="app").provide("a", factory) as s:
        with pytest.raises(ServiceCycle):
            await s.use("a")
        assert anyio.current_time() <= 60


# ------------------------------------------------------------------ the scope is cancelled meanwhile (S5, S6, S8)


async def test_the_body_waits_and_the_scope_is_cancelled() -> None:
    """S5, V3: the block is left quietly, every time."""
    for _ in range(20):
        async with scope(name="app").provide("x", anyio.sleep_forever) as s:

            async def cancel(s: Scope = s) -> None:
                await settle()
                s.cancel("stop")

            s.start_soon(cancel)
            await s.use("x")
        assert s.cancel_reason == "stop"


@pytest.mark.virtual_time
async def test_tasks_wait_and_the_scope_is_cancelled() -> None:
    """S5, V3: likewise where tasks wait; they are cancelled, and nothing is an error."""
    for _ in range(20):
        async with scope(name="app").provide("x", anyio.sleep_forever) as s:
            tasks = [s.task(use, "x") for _ in range(5)]
            await settle()
            s.cancel("stop")
        assert all(isinstance(task.result().error, TaskCancelled) for task in tasks)  # type: ignore[union-attr]


@pytest.mark.virtual_time
async def test_a_child_waits_and_the_parent_is_cancelled() -> None:
    """S5, S9, V3: likewise where children wait, nested or in a task."""

    async def child() -> None:
        async with scope(name="child"):
            await use("x")

    for _ in range(20):
        async with scope(name="app").provide("x", anyio.sleep_forever) as s:
            s.start_soon(child)
            async with scope(name="nested"):
                s.start_soon(use, "x")
                await settle()
                s.cancel("stop")


@pytest.mark.virtual_time
async def test_the_deadline_strikes_while_building() -> None:
    """S6, V3: the block raises ScopeTimeout, bare."""
    for _ in range(20):
        with pytest.raises(ScopeTimeout) as caught:
            async with scope(name="app", timeout=3).provide("x", anyio.sleep_forever) as s:
                await s.use("x")
        assert str(caught.value) == "scope app ran over its timeout of 3 s; still running: service 'x'"


@pytest.mark.virtual_time
async def test_cancelled_from_outside_while_building() -> None:
    """S8, V3: `move_on_after` around the scope composes."""
    for _ in range(20):
        with anyio.move_on_after(3) as limit:
            async with scope(name="app").provide("x", anyio.sleep_forever) as s:
                await s.use("x")
        assert limit.cancelled_caught


@pytest.mark.asyncio_only
async def test_cancelled_natively_while_building() -> None:
    """S7, S8: native cancellation of the host while its body waits for a build goes on, and nothing is left."""
    slow = Slow()
    inner = scope(name="app").provide("x", slow)

    async def host() -> None:
        async with inner as s:
            await s.use("x")

    task = asyncio.create_task(host())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.closed
    assert (slow.begun, slow.cut) == (1, 1)


@pytest.mark.virtual_time
async def test_the_body_fails_while_building() -> None:
    """S3, V3: that very error leaves, bare, although a task waits for a build."""
    error = Boom()
    for _ in range(20):
        with pytest.raises(Boom) as caught:
            async with scope(name="app").provide("x", Slow()) as s:
                with anyio.CancelScope() as limit:
                    async with anyio.create_task_group() as group:
                        group.start_soon(s.use, "x")
                        await settle()
                        limit.cancel()
                raise error
        assert caught.value is error


@pytest.mark.asyncio_only
async def test_cancelled_before_the_task_that_asks_has_begun() -> None:
    """S5, V3: a task of the cancelled scope that gets as far as `use` is cancelled too, and no error of the scope."""
    async with scope(name="app").provide("x", anyio.sleep_forever) as s:
        s.start_soon(use, "x")
        await settle()
        s.start_soon(use, "x")
        s.cancel("stop")


async def test_a_stranger_waits_and_the_scope_is_cancelled() -> None:
    """V3: who is not cancelled itself is told by ScopeCancelled, and lives on."""
    told: list[str] = []
    s = scope(name="app").provide("x", anyio.sleep_forever)

    async def stranger() -> None:
        try:
            await s.use("x")
        except ScopeCancelled as error:
            told.append(str(error))

    async with anyio.create_task_group() as group, s:
        for _ in range(3):
            group.start_soon(stranger)
        await settle()
        s.cancel("stop")
    assert told == ["scope app was cancelled (stop): service 'x' was cut off"] * 3


async def test_use_in_a_cancelled_scope() -> None:
    """V3, S5: what is ready is given; what is not is made to its first checkpoint; nothing hangs."""
    async with scope(name="app").provide_value("ready", 1).provide("plain", lambda: 2).provide("slow", Slow()) as s:
        s.cancel("stop")
        assert await s.use("ready") == 1
        assert await s.use("plain") == 2
        await s.use("slow")
        pytest.fail("it went on")


@pytest.mark.virtual_time
async def test_a_daemon_waits_for_a_build() -> None:
    """S2, V11: a daemon, and what is made for it alone, never keeps the scope alive."""

    async def daemon() -> None:
        await use("x")

    with anyio.fail_after(100):
        async with scope(name="app").provide("x", anyio.sleep_forever) as s:
            s.start_soon(daemon, daemon=True)
            await anyio.sleep(1)


async def test_a_daemon_waits_for_a_build_and_the_scope_is_cancelled() -> None:
    """S5, V3: a daemon that waits for a build is cancelled with the scope, and the block is left quietly."""
    async with scope(name="app").provide("x", anyio.sleep_forever) as s:
        s.start_soon(use, "x", daemon=True)
        await settle()
        s.cancel("stop")


async def test_a_scope_in_a_build_is_cancelled_with_the_parent() -> None:
    """S9, V3: a scope that a factory has open while it is building is cancelled, for the same reason."""
    seen: list[object] = []

    async def factory() -> None:
        async with scope(name="inner") as inner:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append((inner.cancelled, inner.cancel_reason))

    async with scope(name="app").provide("x", factory) as s:
        s.task(use, "x")
        await settle()
        s.cancel("stop")
    assert seen == [(True, "stop")]


@pytest.mark.virtual_time
async def test_the_body_ends_while_a_task_waits_for_a_build() -> None:
    """S2, V3: a task that waits for a build is a task: the scope waits for both."""

    async def slow() -> str:
        await anyio.sleep(50)
        return "slow"

    async with scope(name="app").provide("x", slow) as s:
        task = s.task(use, "x")
    assert task.result() == Ok("slow")


# ------------------------------------------------------------------ closing (S7, V5)


def closing(log: list[str], name: str, *, error: Exception | None = None, hang: bool = False) -> Callable[[], Any]:
    """A generator factory with a clean-up of several turns."""

    async def factory() -> AsyncIterator[str]:
        try:
            yield name
        finally:
            log.append(f"{name} begins")
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            if hang:
                await anyio.sleep_forever()
            if error is not None:
                raise error
            log.append(f"{name} ends")

    return factory


def begun_and_ended(*names: str) -> list[str]:
    return [f"{name} {what}" for name in names for what in ("begins", "ends")]


async def use_all(s: Scope, keys: str) -> None:
    for key in keys:
        await s.use(key)


async def test_a_close_that_fails() -> None:
    """V5, S4: the others are closed, and each error leaves with a note that names its service."""
    log: list[str] = []

    async def bad_close(value: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise Boom("d")

    app = scope(name="app").provide("a", closing(log, "a")).provide("b", closing(log, "b", error=Boom("b")))
    with pytest.raises(ExceptionGroup) as caught:
        async with app.provide("c", closing(log, "c")).provide("d", lambda: 1, bad_close) as s:
            await use_all(s, "abcd")
    assert str(caught.value).startswith("errors in scope app")
    assert [str(error) for error in caught.value.exceptions] == ["d", "b"]
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["in clean-up service 'd' (#3) of app"],
        ["in clean-up service 'b' (#1) of app"],
    ]
    assert log == ["c begins", "c ends", "b begins", "a begins", "a ends"]


async def test_a_close_that_fails_after_the_body_failed() -> None:
    """S3, S4, V5: both leave, the body's first; what closing merely raises again is no news."""
    body, late = Boom("body"), Boom("late")
    log: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("a", closing(log, "a")).provide("b", closing(log, "b", error=late)) as s:
            await use_all(s, "ab")
            raise body
    assert caught.value.exceptions == (body, late)
    assert log == ["b begins", "a begins", "a ends"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("form", ["generator", "close"])
async def test_a_close_that_hangs(form: str) -> None:
    """V5, S7: it is abandoned after close_timeout, reported by name, and the next one is closed."""
    log: list[str] = []

    async def hang(value: object) -> None:
        await anyio.sleep_forever()

    app = scope(name="app", close_timeout=4).provide("a", closing(log, "a"))
    if form == "generator":
        app.provide("b", closing(log, "b", hang=True))
    else:
        app.provide("b", lambda: "b", hang)
    with pytest.raises(ExceptionGroup) as caught:
        async with app as s:
            await use_all(s, "ab")
    (error,) = caught.value.exceptions
    assert isinstance(error, CloseTimeout)
    assert str(error) == (
        "scope app: clean-up service 'b' (#1) took longer than 4 s and was abandoned\n"
        "Make it faster, or give the scope a longer close_timeout (None = no bound)."
    )
    assert log[-2:] == ["a begins", "a ends"]
    assert anyio.current_time() == 4


@pytest.mark.virtual_time
async def test_cancelled_while_closing() -> None:
    """V5, S7, S8: a cancel scope outside waits until everything is closed, and then goes on."""
    log: list[str] = []

    async def slow_close(value: str) -> None:
        log.append(f"{value} begins")
        await anyio.sleep(5)
        log.append(f"{value} ends")

    with anyio.move_on_after(2) as limit:
        app = scope(name="app").provide("a", lambda: "a", slow_close).provide("b", lambda: "b", slow_close)
        async with app as s:
            await use_all(s, "ab")
        await anyio.lowlevel.checkpoint()
        pytest.fail("the cancellation was swallowed")
    assert limit.cancelled_caught
    assert log == begun_and_ended("b", "a")
    assert anyio.current_time() == 10


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["cancel", "deadline", "error", "outside"])
async def test_everything_is_closed_whatever_ends_the_scope(how: str) -> None:
    """V5, S7 (probe P5b): two services whose closing awaits are both closed, in order, once."""
    log: list[str] = []
    app = scope(name="app", timeout=1 if how == "deadline" else None)
    app.provide("a", closing(log, "a")).provide("b", closing(log, "b"))
    with anyio.move_on_after(1 if how == "outside" else 100), contextlib.suppress(Boom, ScopeTimeout):
        async with app as s:
            await use_all(s, "ab")
            if how == "cancel":
                s.cancel()
            if how == "error":
                raise Boom
            await anyio.sleep_forever()
    assert log == begun_and_ended("b", "a")


@pytest.mark.asyncio_only
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("step", range(14))
async def test_cancelled_natively_at_every_step(step: int, every: int) -> None:
    """S7, V5: once or over and over, from any moment: each service that was opened is closed once, in order."""
    log: list[str] = []
    opened: list[str] = []

    def made(name: str) -> Callable[[], Any]:
        async def factory() -> AsyncIterator[str]:
            await asyncio.sleep(0)
            opened.append(name)
            try:
                yield name
            finally:
                log.append(f"{name} begins")
                for _ in range(3):
                    await asyncio.sleep(0)
                log.append(f"{name} ends")

        return factory

    async def host() -> None:
        async with scope(name="app").provide("a", made("a")).provide("b", made("b")) as s:
            await use_all(s, "ab")
            await asyncio.sleep(3600)

    task = asyncio.create_task(host())
    for _ in range(step):
        await asyncio.sleep(0)
    turn = 0
    while not task.done():
        if turn == 0 or (every < 3 and turn % every == 0):
            task.cancel()
        turn += 1
        await asyncio.sleep(0)
        assert turn < 500
    assert task.cancelled()
    assert log == begun_and_ended(*reversed(opened))


@pytest.mark.parametrize("how", ["error", "cancel", "good"])
@pytest.mark.parametrize("form", ["generator", "plain generator", "enter"])
async def test_a_context_manager_sees_why_the_scope_ends(how: str, form: str) -> None:
    """V4, S3: the body's error, a ScopeCancelled, or nothing; it cannot swallow any of them."""
    seen: list[BaseException | None] = []
    error = Boom()

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        except BaseException as caught:
            seen.append(caught)
        else:
            seen.append(None)

    def plain() -> Iterator[int]:
        try:
            yield 1
        except BaseException as caught:
            seen.append(caught)
            raise
        else:
            seen.append(None)

    class Transaction:
        async def __aenter__(self) -> int:
            return 1

        async def __aexit__(self, kind: object, caught: BaseException | None, tb: object) -> bool:
            seen.append(caught)
            return True

    factories: dict[str, Callable[[], Any]] = {"generator": generator, "plain generator": plain, "enter": Transaction}
    app = scope(name="app").provide("x", factories[form], enter=form == "enter")
    leaves: BaseException | None = None
    try:
        async with app as s:
            await s.use("x")
            if how == "error":
                raise error
            if how == "cancel":
                s.cancel("stop")
    except Boom as caught:
        leaves = caught
    assert leaves is (error if how == "error" else None)
    (found,) = seen
    if how == "cancel":
        assert isinstance(found, ScopeCancelled)
        assert str(found) == "scope app was cancelled (stop): everything in it was cut off"
    else:
        assert found is leaves


async def test_the_error_that_is_shown_keeps_its_traceback() -> None:
    """S3, V4: passing through services leaves no trace in the body's error."""

    async def generator() -> AsyncIterator[int]:
        yield 1

    async def raised_by(count: int) -> int:
        app = scope()
        for number in range(count):
            app.provide(f"{number}", generator)
        try:
            async with app as s:
                for number in range(count):
                    await s.use(f"{number}")
                raise Boom
        except Boom as error:
            return len(traceback.extract_tb(error.__traceback__))

    assert await raised_by(0) == await raised_by(1) == await raised_by(9)


async def test_a_task_group_across_the_yield_sees_the_error() -> None:
    """V4, S3: wrapped by a task group on its way, the body's error is still no news."""
    error = Boom()

    async def service() -> AsyncIterator[int]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield 1

    with pytest.raises(Boom) as caught:
        async with scope().provide("x", service) as s:
            await s.use("x")
            raise error
    assert caught.value is error


@pytest.mark.parametrize("form", ["generator", "close"])
async def test_a_fatal_exception_while_closing(form: str) -> None:
    """S15, V5: a KeyboardInterrupt in one close leaves the scope bare, after the others were closed."""
    log: list[str] = []

    async def generator() -> AsyncIterator[int]:
        yield 1
        raise KeyboardInterrupt

    def close(value: int) -> None:
        raise KeyboardInterrupt

    app = scope().provide("a", closing(log, "a"))
    if form == "generator":
        app.provide("b", generator)
    else:
        app.provide("b", lambda: 1, close)
    with pytest.raises(KeyboardInterrupt):
        async with app.provide("c", closing(log, "c")) as s:
            await use_all(s, "abc")
    assert log == begun_and_ended("c", "a")


# ------------------------------------------------------------------ use in clean-ups


async def test_use_in_clean_ups() -> None:
    """V5: what was made earlier is still there, what was made later is closed, what was not made is not made."""
    got: list[object] = []
    errors: list[str] = []

    async def ask() -> None:
        for key in ("early", "late", "never"):
            try:
                got.append(await use(key))
            except ScopeClosed as error:
                errors.append(str(error))
        assert got == ["early"]
        with pytest.raises(ScopeClosed):
            current.use_nowait("late")
        with pytest.raises(ServiceNotReady):
            current.use_nowait("never")

    app = scope(name="app").provide("early", lambda: "early", lambda _: None)
    app.provide("late", lambda: "late", lambda _: None).provide("never", lambda: "never")
    async with app as current:
        await use("early")
        current.on_exit(ask)
        for _ in range(20):
            await use("late")
    assert got == ["early"]
    assert errors == [
        (
            "scope app is closed: use('late') came too late\n"
            "The service has been closed. What is made later is closed earlier: have it made first."
        ),
        (
            "scope app is closed: use('never') came too late\n"
            "Start the work inside the `async with` block, or open a new scope for it."
        ),
    ]


async def test_a_service_uses_another_while_it_is_closed() -> None:
    """V5: a generator's clean-up may use what it needed, by `use` as well."""
    log: list[str] = []

    async def repo() -> AsyncIterator[str]:
        await use("db")
        yield "repo"
        log.append(f"flushed to {await use('db')}")

    app = scope().provide("db", lambda: "db", lambda _: log.append("db closed"))
    async with app.provide("repo", repo) as s:
        await s.use("repo")
    assert log == ["flushed to db", "db closed"]


async def test_a_childs_clean_up_uses_the_parents_service() -> None:
    """V3, V5: a child's clean-up may have a parent's service made, for the parent is open."""
    log: list[str] = []

    async def flush() -> None:
        log.append(await use("db"))

    async with scope(name="app").provide("db", lambda: "db", lambda _: log.append("db closed")):
        async with scope(name="child") as child:
            child.on_exit(flush)
        assert log == ["db"]
    assert log == ["db", "db closed"]


# ------------------------------------------------------------------ services that crash (V8)


async def crashing(trigger: anyio.Event, error: Exception) -> None:
    await trigger.wait()
    raise error


@pytest.mark.parametrize("is_asked_by_child", [False, True])
async def test_a_service_that_crashes(is_asked_by_child: bool) -> None:
    """V8, S4: a task of its own raises: the scope is cancelled, and the original error leaves with a note."""
    trigger, error = anyio.Event(), Boom("lost the connection")
    log: list[str] = []

    async def service() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(crashing, trigger, error)
            try:
                yield "x"
            finally:
                log.append("cleaned up")

    async def ask() -> None:
        async with scope(name="child"):
            await use("x")

    app = scope(name="app").provide("first", lambda: 1, lambda _: log.append("first closed"))
    with pytest.raises(ExceptionGroup) as caught:
        async with app.provide("x", service) as s:
            await s.use("first")
            await (s.task(ask).unwrap() if is_asked_by_child else s.use("x"))
            trigger.set()
            await anyio.sleep_forever()
    found, text = caught.value, ""
    while isinstance(found, ExceptionGroup):
        text += " ".join(getattr(found, "__notes__", []))
        (found,) = found.exceptions
    assert found is error
    assert "in service 'x' of app" in text + " ".join(getattr(error, "__notes__", []))
    assert log == ["cleaned up", "first closed"]


async def test_a_crashed_service_is_given_to_nobody() -> None:
    """V8: neither the short way nor the long one gives it out any more, nor is it made anew."""
    trigger = anyio.Event()

    async def service() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(crashing, trigger, Boom())
            yield "x"

    async def late(s: Scope) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.02)
            with pytest.raises(ScopeClosed):
                await s.use("x")
            with pytest.raises(ScopeClosed):
                s.use_nowait("x")
            checked.append(1)

    checked: list[int] = []
    with pytest.raises(ExceptionGroup):
        async with scope(name="app").provide("x", service) as s:
            for _ in range(20):
                await s.use("x")
            s.start_soon(late, s)
            trigger.set()
            await anyio.sleep_forever()
    assert checked == [1]


async def test_a_service_that_ends_by_itself() -> None:
    """V8: a service whose own cancel scope ends it is lost, which is told."""
    trigger = anyio.Event()

    async def service() -> AsyncIterator[str]:
        async def stop() -> None:
            await trigger.wait()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            yield "x"

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("x", service) as s:
            await s.use("x")
            trigger.set()
            await anyio.sleep_forever()
    (error,) = caught.value.exceptions
    assert isinstance(error, ScopeCancelled | RuntimeError)
    assert error.__notes__ == ["in service 'x' of app"]


@pytest.mark.virtual_time
async def test_a_deadline_across_the_yield() -> None:
    """V8: a service's own `fail_after` that passes while it is used takes the scope down."""

    async def service() -> AsyncIterator[str]:
        with anyio.fail_after(5):
            yield "x"

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("x", service) as s:
            await s.use("x")
            await anyio.sleep_forever()
    assert [type(error) for error in caught.value.exceptions] == [TimeoutError]
    assert anyio.current_time() == 5


@pytest.mark.asyncio_only
async def test_the_task_of_a_service_is_cancelled_natively() -> None:
    """V8, S7: somebody cancels all tasks: the scope ends, and the service was left."""
    log: list[str] = []

    async def service() -> AsyncIterator[str]:
        tasks.append(asyncio.current_task())
        try:
            yield "x"
        finally:
            log.append("left")

    tasks: list[Any] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app").provide("x", service) as s:
            await s.use("x")
            tasks[0].cancel()
            await anyio.sleep_forever()
    assert [str(error) for error in caught.value.exceptions] == [
        "scope app was cancelled (cancelled natively): service 'x' was cut off"
    ]
    assert log == ["left"]


@pytest.mark.asyncio_only
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_the_task_of_a_build_is_cancelled_natively(turns: int) -> None:
    """V3, S7: who waits is told and does not hang, and the next use tries again, before its first step as well."""
    slow = Slow()
    async with scope(name="app").provide("x", slow) as s:
        before = asyncio.all_tasks()
        waiter = asyncio.create_task(s.use("x"))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        (build,) = asyncio.all_tasks() - before - {waiter}
        if turns == 0:
            waiter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter
        else:
            build.cancel()
            with pytest.raises(ScopeCancelled) as caught:
                await waiter
            assert str(caught.value) == "scope app was cancelled (cancelled natively): service 'x' was cut off"
        slow.go.set()
        assert (await s.use("x")).startswith("value")


# ------------------------------------------------------------------ threads


async def test_use_nowait_from_a_thread() -> None:
    """V2: what is ready may be read from a worker thread and a foreign one; what is not is refused clearly."""
    async with scope(name="app").provide_value("ready", 1).provide("x", lambda: 2) as s:
        assert await anyio.to_thread.run_sync(s.use_nowait, "ready") == 1
        assert await anyio.to_thread.run_sync(s.has, "x") is True
        with pytest.raises(ServiceNotReady):
            await anyio.to_thread.run_sync(s.use_nowait, "x")
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(s.use_nowait("ready")))
        thread.start()
        thread.join()
        assert got == [1]


async def test_from_thread_run() -> None:
    """V2, V3: a worker thread has a service made by way of from_thread.run."""
    slow = Slow()
    slow.go.set()
    async with scope(name="app").provide("x", slow) as s:
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, s.use, "x") == "value 1"
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, use, "x") == "value 1"


async def test_providing_from_a_thread() -> None:
    """V1, S12: only the scope's own thread changes what it provides."""
    async with scope(name="app").provide("x", lambda: 1) as s:
        for call in (
            lambda: s.provide("y", lambda: 1),
            lambda: s.provide_value("y", 1),
            lambda: s.override("x", lambda: 1),
        ):
            with pytest.raises(ScopeMisuse, match="thread"):
                await anyio.to_thread.run_sync(call)
        assert not s.has("y")


def in_another_loop(s: Scope) -> object:
    """Ask from a thread with an event loop of its own."""

    async def ask() -> object:
        with anyio.fail_after(0.5):
            return await s.use("x")

    try:
        return anyio.run(ask)
    except BaseException as error:
        return error


async def test_use_from_another_loop() -> None:
    """V2, S12: ready, it is given; not made yet, the wrong thread is told, and nothing has happened."""
    slow = Slow()
    slow.go.set()
    async with scope(name="app").provide("x", slow) as s:
        error = await anyio.to_thread.run_sync(in_another_loop, s)
        assert isinstance(error, ScopeMisuse)
        assert slow.begun == 0
        value = await s.use("x")
        assert await anyio.to_thread.run_sync(in_another_loop, s) == value


async def test_use_from_another_loop_while_it_is_being_made() -> None:
    """V2, S12: the same error while it is being made; waiting there would never end."""
    slow = Slow()
    async with scope(name="app").provide("x", slow) as s:
        task = s.task(use, "x")
        await settle()
        error = await anyio.to_thread.run_sync(in_another_loop, s)
        slow.go.set()
        await task
        assert isinstance(error, ScopeMisuse)


# ------------------------------------------------------------------ overriding what is being made (V10)


async def test_override_while_it_is_being_made() -> None:
    """V6, V10: a build under way is a use."""
    slow = Slow()
    async with scope(name="app").provide("x", slow) as s:
        task = s.task(use, "x")
        await settle()
        for call in (lambda: s.override("x", lambda: 1), lambda: s.provide("x", lambda: 1, replace=True)):
            with pytest.raises(ServiceExists) as caught:
                call()
            assert caught.value.state == "building"
        slow.go.set()
        assert await task.unwrap() == "value 1"


# ------------------------------------------------------------------ shuffles


@pytest.mark.parametrize("seed", range(120))
@pytest.mark.virtual_time
async def test_shuffles(seed: int) -> None:
    """V3, V5, V11: random askers, cancellations, failures and delays: one build at a time, each value closed once."""
    chance = random.Random(seed)
    building: dict[str, int] = {}
    alive: list[tuple[str, int]] = []
    made: list[tuple[str, int]] = []
    closed: list[int] = []
    is_over: list[bool] = []

    def maker(key: str, needed: list[str]) -> Callable[[], Any]:
        async def prepare() -> tuple[str, int]:
            assert building.get(key, 0) == 0
            building[key] = 1
            try:
                for need in needed:
                    await use(need)
                await anyio.sleep(chance.choice([0, 0, 1, 2]))
                if chance.random() < 0.3:
                    raise Boom(key)
                value = (key, len(made))
                made.append(value)
                alive.append(value)
                return value
            finally:
                building[key] = 0

        async def generator() -> AsyncIterator[object]:
            value = await prepare()
            try:
                yield value
            finally:
                with anyio.CancelScope(shield=True):  # without: see test_opened_and_abandoned_in_the_same_moment
                    await close(value)

        return generator if chance.random() < 0.5 else prepare

    async def ask(s: Scope) -> None:
        await anyio.sleep(chance.choice([0, 0, 1, 2, 3]))
        key = chance.choice("abcd")
        with anyio.move_on_after(chance.choice([0, 1, 1, 2, 100])):
            value = await s.use(key)
            assert value in alive

    async def close(value: tuple[str, int]) -> None:
        await anyio.sleep(chance.choice([0, 1]))
        alive.remove(value)
        if is_over:
            closed.append(value[1])

    app = scope(name="app")
    for number, key in enumerate("abcd"):
        factory = maker(key, [other for other in "abcd"[:number] if chance.random() < 0.5])
        app.provide(key, factory, close if factory.__name__ == "prepare" else None)
    with only(Boom):
        async with app as s, scope(name="child") as child:
            tasks = [chance.choice([s, child]).task(ask, child) for _ in range(12)]
            for task in chance.sample(tasks, 3):
                await anyio.sleep(chance.choice([0, 1]))
                task.cancel()
            results = [await task for task in tasks]
            is_over.append(True)
        for result in results:
            assert result or isinstance(result.error, (Boom, TaskCancelled)), result
    assert alive == []
    assert closed == sorted(closed, reverse=True)


class Turns:
    """Services of a few turns each, every step of which can be cut; what was opened has to be closed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.open: list[str] = []
        self.wrong: list[str] = []

    async def pass_some(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await anyio.lowlevel.checkpoint()

    def maker(self, key: str, *needs: str) -> Callable[[], Any]:
        async def make() -> str:
            for need in needs:
                await use(need)
            await self.pass_some()
            self.open.append(key)
            return key

        return make

    async def close(self, key: str) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        if self.open.pop() != key:
            self.wrong.append(key)

    async def ask(self, s: Scope) -> None:
        await self.pass_some()
        async with scope(name="child", parent=s) as child:
            await child.use(self.chance.choice("abc"))
            await self.pass_some()

    async def run(self, s: Scope) -> None:
        s.provide("a", self.maker("a"), self.close).provide("b", self.maker("b", "a"), self.close)
        s.provide("c", self.maker("c", "a", "b"), self.close)
        async with s:
            for _ in range(4):
                s.start_soon(self.ask, s)
            await self.ask(s)
            await self.pass_some()


SEEDS = range(100)


@pytest.mark.parametrize("seed", SEEDS)
async def test_shuffled_cancellation(seed: int) -> None:
    """S5, S7, V5: the scope is cancelled at any turn: it is left quietly, and what was opened is closed, in order."""
    turns = Turns(seed)
    s = scope(name="app")
    async with anyio.create_task_group() as group:
        group.start_soon(turns.run, s)
        for _ in range(1 + seed % 25):
            await anyio.lowlevel.checkpoint()
        s.cancel("stop")
    assert (turns.open, turns.wrong) == ([], [])


@pytest.mark.parametrize("seed", SEEDS)
async def test_shuffled_cancellation_from_outside(seed: int) -> None:
    """S7, S8, V5: likewise by a cancel scope around it."""
    turns = Turns(seed)
    s = scope(name="app")
    async with anyio.create_task_group() as group:
        group.start_soon(turns.run, s)
        for _ in range(1 + seed % 25):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert (turns.open, turns.wrong) == ([], [])


@pytest.mark.asyncio_only
@pytest.mark.parametrize("seed", range(100))
async def test_shuffled_native_cancellation(seed: int) -> None:
    """S7, S8, V5: likewise by native cancellation of the host, once or at several turns."""
    turns = Turns(seed)
    s = scope(name="app")
    host = asyncio.create_task(turns.run(s))
    for _ in range(1 + seed % 25):
        await asyncio.sleep(0)
    is_cut = host.cancel()
    while not host.done():
        if seed % 3 == 0:
            host.cancel()
        await asyncio.sleep(0)
    assert host.cancelled() is is_cut
    assert (turns.open, turns.wrong) == ([], [])


# ------------------------------------------------------------------ what hardly ever happens
async def test_two_ways_to_the_same_build_are_no_ring() -> None:
    """V7: that a build is waited for by several others is looked at once, and is fine."""

    async def slow() -> str:
        await anyio.sleep(0.01)
        return "d"

    async def both() -> list[object]:
        results = await current_scope().parallel([lambda: use("b"), lambda: use("c")])
        return [result.unwrap() for result in results]

    made = scope(name="app").provide("d", slow).provide("b", lambda: use("d")).provide("c", lambda: use("d"))
    async with made.provide("a", both).provide("z", lambda: use("a")) as s:
        first = s.task(use, "a")
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert await s.use("z") == ["d", "d"]
        assert await first.unwrap() == ["d", "d"]


async def test_a_fatal_error_of_something_open() -> None:
    """V8, S15: it leaves the scope bare, and the rest is closed."""

    class Fatal(BaseException):
        pass

    closed: list[str] = []

    async def crash() -> None:
        await anyio.lowlevel.checkpoint()
        raise Fatal("pulled the plug")

    async def server() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(crash)
            yield "serving"

    with pytest.raises(BaseException) as caught:
        async with scope(name="app").provide("server", server) as s:
            s.on_exit(closed.append, "the rest")
            await s.use("server")
            await anyio.sleep_forever()
    fatal: BaseException = caught.value
    while not isinstance(fatal, Fatal):
        (fatal,) = fatal.exceptions  # type: ignore[attr-defined]
    assert closed == ["the rest"]


async def test_an_opening_that_begins_after_it_was_given_up_as_lost() -> None:
    """V3: it does nothing any more; who waits is told."""
    ran: list[str] = []

    async def make() -> None:
        ran.append("made")

    async with scope(name="app") as s:
        coro = make()
        opening: Opening[None] = Opening(
            s._owner, "x", "service x", kind="service", coro=coro, unbegun=coro, opened=lambda _: None
        )
        opening.launch()
        assert opening.is_unborn
        opening.abandon()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        with pytest.raises(ScopeCancelled, match="service x was cut off"):
            opening.result()
    assert ran == []


async def test_many_scopes_below_are_not_all_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """V7: a hint is worth a look at some scopes, not at a hundred thousand."""
    monkeypatch.setattr("anyscope._features.searching.MOST_BELOW", 1)
    async with scope(name="app") as app, scope(name="below"), scope(name="deeper").provide("x", object):
        with pytest.raises(ServiceNotFound) as caught:
            await app.use("x")
    assert caught.value.hints == ()


async def test_a_class_that_cannot_be_hashed_is_no_key() -> None:
    """V1, S12: Python's own error."""

    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

    class Unhashable(metaclass=Meta):
        pass

    async with scope().provide("x", object) as s:
        with pytest.raises(TypeError, match="unhashable"):
            await s.use(Unhashable)


async def test_waiting_for_a_cancellation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: one that never arrives is not waited for for ever."""
    monkeypatch.setattr(backend, "TURNS", 0)
    with anyio.CancelScope() as cut:
        cut.cancel()
        await backend.pass_on_cancellation()
    monkeypatch.setattr(backend, "TURNS", 50)
    with anyio.CancelScope() as cut:
        cut.cancel()
        await backend.pass_on_cancellation()
        raise AssertionError("it has arrived")
    await backend.pass_on_cancellation()


async def test_a_closer_that_is_slow_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """S7: another one is started when it seems to be lost; the clean-ups run once."""
    monkeypatch.setattr(owner_module, "TURNS", 1)
    for _ in range(50):
        closed: list[str] = []
        async with scope() as s:
            s.on_exit(closed.append, "a")
            s.on_exit(closed.append, "b")
        assert closed == ["b", "a"]


async def test_a_fatal_error_between_clean_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    """S7, S15: a KeyboardInterrupt that strikes in the closer itself leaves the scope, after everything is closed."""
    closed: list[str] = []
    struck: list[str] = []

    class Fatal(BaseException):
        pass

    async def clean_up(self: Any, step: Any) -> None:
        if not struck:
            struck.append("now")
            self._clean_ups.append(step)
            raise Fatal("Ctrl-C")
        await original(self, step)

    original = owner_module.Owner._clean_up
    monkeypatch.setattr(owner_module.Owner, "_clean_up", clean_up)
    with pytest.raises(Fatal):
        async with scope() as s:
            s.on_exit(closed.append, "a")
            s.on_exit(closed.append, "b")
    assert closed == ["b", "a"]


async def test_a_defect_in_the_closer_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """S4: it leaves the scope, and does not make the closer try for ever."""

    async def clean_up(self: Any, step: Any) -> None:
        raise ArithmeticError("a defect")

    monkeypatch.setattr(owner_module.Owner, "_clean_up", clean_up)
    with pytest.raises(BaseException) as caught:
        async with scope() as s:
            s.on_exit(list)
    assert "a defect" in "".join(traceback.format_exception(caught.value))
