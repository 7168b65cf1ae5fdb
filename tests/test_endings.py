"""How a scope ends (S2-S8, S15): what leaves the block, in which order things are closed, and how often.

The table `TABLE` is documentation too: one line is one story, and says exactly what leaves the block. In every story
the clean-up is `#0` and the task is `#1`. The clock: the task fails at 1, the body ends or raises at 2, the outer AnyIO
scope cancels at 4, the deadline is at 5, a clean-up step may take 10.
"""

# Handles are dropped on purpose here; and mypy looks with the eyes of Python 3.10.
# mypy: disable-error-code="unused-awaitable,possibly-undefined"

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyscope import (
    CloseTimeout,
    Err,
    Ok,
    Scope,
    ScopeClosed,
    ScopeTimeout,
    Task,
    TaskCancelled,
    current_scope,
    scope,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

# ------------------------------------------------------------------------------------------------- the table
BODY = "ValueError('body'), in the body of app"
TIME = "ScopeTimeout, in app"
TASK = "KeyError('task'), in task work (#1) of app"
CRASH = "RuntimeError('crash'), in task work (#1) of app"
CLOSE = "OSError('close'), in clean-up close (#0) of app"
LATE = "CloseTimeout, in clean-up close (#0) of app"

NOTHING = "nothing"
SAME = "the body's own error"
BARE_TIME = "ScopeTimeout"
CANCELLATION = "the cancellation"


@dataclass(frozen=True)
class Row:
    """One story, and what leaves the block: a word, or the members of a group in order.

    Attributes:
        body: `ends` or `raises` (both at 2), `waits` (for ever), `cancels` (calls `s.cancel()` at 2), or
            `raises when cut`.
        task: `-` (none), `fails` (nobody looks), `fails, seen`, `crashes` (start_soon), `daemon fails`, `waits` (for
            ever), `fails when cut`.
        close: `-` (no clean-up), `ok`, `slow` (3 s), `fails`, `overruns`.
        leaves: What leaves the block.
        deadline: Whether the scope has a deadline (at 5).
        outer: Whether an outer AnyIO scope cancels (at 4).
    """

    body: str
    task: str
    close: str
    leaves: str | tuple[str, ...]
    deadline: bool = False
    outer: bool = False

    @property
    def id(self) -> str:
        """What pytest calls it."""
        parts = [f"body {self.body}"]
        parts += [f"task {self.task}"] if self.task != "-" else []
        parts += [f"clean-up {self.close}"] if self.close != "-" else []
        parts += ["deadline"] if self.deadline else []
        parts += ["outer cancel"] if self.outer else []
        return ", ".join(parts)


TABLE = [
    # -- nothing cancels from outside, no deadline: the body ends
    Row("ends", "-", "-", NOTHING),
    Row("ends", "-", "ok", NOTHING),
    Row("ends", "-", "fails", (CLOSE,)),
    Row("ends", "-", "overruns", (LATE,)),
    Row("ends", "fails", "ok", (TASK,)),
    Row("ends", "fails", "fails", (TASK, CLOSE)),
    Row("ends", "fails", "overruns", (TASK, LATE)),
    Row("ends", "fails, seen", "ok", NOTHING),
    Row("ends", "fails, seen", "fails", (CLOSE,)),
    Row("ends", "crashes", "ok", (CRASH,)),
    Row("ends", "crashes", "fails", (CRASH, CLOSE)),
    Row("ends", "daemon fails", "ok", (CRASH,)),
    Row("ends", "daemon fails", "overruns", (CRASH, LATE)),
    # -- the body raises
    Row("raises", "-", "-", SAME),
    Row("raises", "-", "ok", SAME),
    Row("raises", "-", "fails", (BODY, CLOSE)),
    Row("raises", "-", "overruns", (BODY, LATE)),
    Row("raises", "waits", "ok", SAME),
    Row("raises", "fails", "ok", (BODY, TASK)),
    Row("raises", "fails", "fails", (BODY, TASK, CLOSE)),
    Row("raises", "fails", "overruns", (BODY, TASK, LATE)),
    Row("raises", "fails, seen", "ok", SAME),
    Row("raises", "fails, seen", "fails", (BODY, CLOSE)),
    Row("raises", "fails when cut", "ok", (BODY, TASK)),
    Row("raises", "crashes", "ok", (CRASH,)),  # at 1: the body is cut off before it can raise
    Row("raises", "daemon fails", "fails", (CRASH, CLOSE)),
    # -- it cancels itself
    Row("cancels", "-", "ok", NOTHING),
    Row("cancels", "waits", "ok", NOTHING),
    Row("cancels", "waits", "fails", (CLOSE,)),
    Row("cancels", "waits", "overruns", (LATE,)),
    Row("cancels", "fails", "ok", (TASK,)),
    Row("cancels", "fails when cut", "ok", (TASK,)),
    Row("cancels", "waits", "slow", NOTHING, deadline=True),  # past the deadline only while closing
    Row("cancels", "waits", "overruns", (LATE,), deadline=True),
    # -- the deadline is there, but cuts nothing off
    Row("ends", "-", "ok", NOTHING, deadline=True),
    Row("ends", "-", "overruns", (LATE,), deadline=True),  # passes during the clean-up only
    Row("raises", "-", "overruns", (BODY, LATE), deadline=True),
    Row("raises", "waits", "ok", SAME, deadline=True),
    Row("ends", "fails", "slow", (TASK,), deadline=True),
    # -- the deadline cuts something off
    Row("waits", "-", "-", BARE_TIME, deadline=True),
    Row("waits", "-", "ok", BARE_TIME, deadline=True),
    Row("waits", "waits", "ok", BARE_TIME, deadline=True),
    Row("ends", "waits", "ok", BARE_TIME, deadline=True),
    Row("ends", "waits", "slow", BARE_TIME, deadline=True),
    Row("waits", "-", "fails", (TIME, CLOSE), deadline=True),
    Row("ends", "waits", "overruns", (TIME, LATE), deadline=True),
    Row("waits", "fails", "ok", (TIME, TASK), deadline=True),
    Row("waits", "fails", "fails", (TIME, TASK, CLOSE), deadline=True),
    Row("waits", "fails, seen", "ok", BARE_TIME, deadline=True),
    Row("waits", "fails when cut", "overruns", (TIME, TASK, LATE), deadline=True),
    Row("waits", "crashes", "ok", (CRASH,), deadline=True),  # the crash was first, the deadline cut nothing
    Row("waits", "daemon fails", "ok", (CRASH,), deadline=True),
    # A body that answers the cut with an error of its own was not cut off, as with AnyIO's fail_after.
    Row("raises when cut", "-", "ok", SAME, deadline=True),
    Row("raises when cut", "fails", "fails", (BODY, TASK, CLOSE), deadline=True),
    Row("raises when cut", "waits", "ok", (BODY, TIME), deadline=True),  # but the task was
    Row("raises when cut", "waits", "fails", (BODY, TIME, CLOSE), deadline=True),
    # -- cancelled from outside
    Row("waits", "-", "-", CANCELLATION, outer=True),
    Row("waits", "-", "ok", CANCELLATION, outer=True),
    Row("waits", "waits", "slow", CANCELLATION, outer=True),
    Row("ends", "waits", "ok", CANCELLATION, outer=True),
    Row("waits", "-", "fails", (CLOSE,), outer=True),
    Row("waits", "-", "overruns", (LATE,), outer=True),
    Row("waits", "fails", "ok", (TASK,), outer=True),
    Row("waits", "fails", "fails", (TASK, CLOSE), outer=True),
    Row("waits", "fails, seen", "ok", CANCELLATION, outer=True),
    Row("waits", "fails when cut", "overruns", (TASK, LATE), outer=True),
    Row("raises when cut", "-", "ok", SAME, outer=True),
    Row("raises when cut", "fails", "ok", (BODY, TASK), outer=True),
    Row("waits", "waits", "slow", CANCELLATION, deadline=True, outer=True),  # the deadline passes while closing
    Row("waits", "fails", "slow", (TASK,), deadline=True, outer=True),
    Row("ends", "-", "ok", NOTHING, outer=True),  # it has ended before
    Row("raises", "-", "ok", SAME, outer=True),
]


class Story:
    """Plays a row, and keeps what left the block."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.error = ValueError("body")
        self.left: BaseException | None = None
        self.closed = 0
        self.handle: Task[None] | None = None

    async def play(self) -> None:
        """Run it, with the outer scope around it."""
        with anyio.move_on_after(4 if self.row.outer else math.inf) as outer:
            try:
                async with scope(name="app", timeout=5 if self.row.deadline else None, parent=None) as s:
                    if self.row.close != "-":
                        s.on_exit(self.close)
                    self.start(s)
                    await self.body(s)
            except anyio.get_cancelled_exc_class() as error:
                self.left = error
                raise
            except BaseException as error:
                self.left = error
            now = anyio.current_time()
            await anyio.lowlevel.checkpoint()
            assert not (self.row.outer and now >= 4), "the outer cancellation was swallowed"
        assert outer.cancelled_caught == (self.row.outer and anyio.current_time() >= 4)
        assert s.closed
        assert self.closed == (self.row.close != "-")

    async def body(self, s: Scope) -> None:
        """What the block does."""
        if self.row.body == "raises when cut":
            try:
                await anyio.sleep(2)
                self.look()
                await anyio.sleep_forever()
            finally:
                raise self.error
        await anyio.sleep(2)
        self.look()
        if self.row.body == "raises":
            raise self.error
        if self.row.body == "cancels":
            s.cancel("enough")
        if self.row.body in ("waits", "cancels"):
            await anyio.sleep_forever()

    def look(self) -> None:
        """Look at the task's error, if the story says so."""
        if self.row.task == "fails, seen":
            assert self.handle is not None
            assert isinstance(self.handle.result(), Err)

    def start(self, s: Scope) -> None:
        """Start what the story has as a task."""
        if self.row.task in ("crashes", "daemon fails"):
            s.start_soon(fail_at_1, RuntimeError("crash"), name="work", daemon=self.row.task == "daemon fails")
        elif self.row.task in ("fails", "fails, seen"):
            self.handle = s.task(fail_at_1, KeyError("task"), name="work")
        elif self.row.task == "waits":
            self.handle = s.task(anyio.sleep_forever, name="work")
        elif self.row.task == "fails when cut":
            self.handle = s.task(fail_when_cut, KeyError("task"), name="work")

    async def close(self) -> None:
        """The clean-up."""
        self.closed += 1
        await anyio.sleep({"ok": 0, "slow": 3, "fails": 0, "overruns": 1000}[self.row.close])
        if self.row.close == "fails":
            raise OSError("close")

    close.__qualname__ = "close"

    def what_left(self) -> str | tuple[str, ...]:
        """What left the block, in the words of the table."""
        if self.left is None:
            return NOTHING
        if self.left is self.error:
            return SAME
        if isinstance(self.left, BaseExceptionGroup):
            assert isinstance(self.left, ExceptionGroup)
            assert self.left.message == "errors in scope app"
            return tuple(shown(member) for member in self.left.exceptions)
        if isinstance(self.left, anyio.get_cancelled_exc_class()):
            return CANCELLATION
        return type(self.left).__name__


async def fail_at_1(error: Exception) -> None:
    """Fail after a second."""
    await anyio.sleep(1)
    raise error


async def fail_when_cut(error: Exception) -> None:
    """Fail as soon as it is cancelled."""
    try:
        await anyio.sleep_forever()
    finally:
        raise error


def notes_of(error: BaseException) -> list[str]:
    """The notes of an error, also on Python 3.10."""
    return list(getattr(error, "__notes__", ()))


def shown(error: BaseException) -> str:
    """A member of a group: our own errors by type, others with their text; and the notes."""
    own = isinstance(error, (ScopeTimeout, CloseTimeout))
    return ", ".join([type(error).__name__ if own else repr(error), *notes_of(error)])


@pytest.mark.virtual_time
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
async def test_what_leaves_the_block(row: Row) -> None:
    """S2-S8: what leaves the block, its members in order and their notes, is what the table says."""
    story = Story(row)
    await story.play()
    assert story.what_left() == row.leaves
    if row.leaves == SAME:
        assert not notes_of(story.error), "an error that leaves bare gets no notes"


def test_the_table_has_no_row_twice() -> None:
    """The table is documentation: each of its rows tells another story."""
    ids = [row.id for row in TABLE]
    assert len(set(ids)) == len(ids) >= 30


@pytest.mark.virtual_time
@pytest.mark.parametrize("body", ["ends", "waits"])
async def test_a_cancellation_from_outside_reaches_many_tasks_in_any_order(body: str) -> None:
    """S8: whoever hears of the outer cancellation first (host, closer, task), it alone leaves."""
    left: BaseException | None = None
    with anyio.move_on_after(1) as outer:
        try:
            async with scope(name="app", timeout=9, parent=None) as s:
                handles = [s.task(anyio.sleep_forever) for _ in range(20)]
                if body == "waits":
                    await anyio.sleep_forever()
        except BaseException as error:
            left = error
            raise
    assert isinstance(left, anyio.get_cancelled_exc_class())
    assert outer.cancelled_caught
    assert {str(handle.result().pair()[0]).partition(" was ")[2] for handle in handles} == {
        "cancelled (cancelled from outside)"
    }


@pytest.mark.virtual_time
@pytest.mark.parametrize("turn", range(8))
async def test_a_cancellation_from_outside_before_the_deadline(turn: int) -> None:
    """S8: Trio draws by lot in which order tasks run: in each order the cancellation passes, and nothing else."""
    row = Row("waits", "waits", "slow", CANCELLATION, deadline=True, outer=True)
    story = Story(row)
    await story.play()
    assert story.what_left() == row.leaves, turn


# ------------------------------------------------------------------------------------------------- fatal exceptions
class Unheard(BaseException):
    """A BaseException of the user's own."""


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit, Unheard])
@pytest.mark.parametrize("where", ["body", "task", "crash", "daemon", "run", "clean-up", "async clean-up"])
async def test_a_fatal_exception_leaves_bare(where: str, fatal: type[BaseException]) -> None:
    """S15: that very object leaves, everything is closed, and other errors hang in its context chain."""
    raised, failed, log = fatal("stop"), KeyError("unseen"), list[str]()

    async def throw() -> None:
        await anyio.lowlevel.checkpoint()
        raise raised

    def throw_at_once() -> None:
        raise raised

    async def fail() -> None:
        raise failed

    async def close(name: str) -> None:
        await anyio.sleep(0.001)
        log.append(name)

    with pytest.raises(fatal) as caught:
        async with scope(name="app", parent=None) as s:
            s.on_exit(close, "first")
            if "clean-up" in where:
                s.on_exit(throw if "async" in where else throw_at_once)
            s.on_exit(close, "last")
            s.task(fail)
            await anyio.sleep(0.005)
            if where == "body":
                raise raised
            if where == "run":
                await s.run(throw)
            if where == "task":
                s.task(throw)
            if where in ("crash", "daemon"):
                s.start_soon(throw, daemon=where == "daemon")
            if "clean-up" not in where:
                await anyio.sleep_forever()
    assert caught.value is raised
    assert log == ["last", "first"]
    assert s.closed
    assert failed in with_contexts(raised)


def with_contexts(error: BaseException | None) -> list[BaseException]:
    """The error, its contexts, and the members of the groups among them."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        last = waiting.pop()
        if last is None or last in found:
            continue
        found.append(last)
        waiting.append(last.__context__)
        if isinstance(last, BaseExceptionGroup):
            waiting.extend(last.exceptions)
    return found


async def test_a_fatal_exception_in_the_body_and_a_failing_clean_up() -> None:
    """S15, S4: what a clean-up raised after a KeyboardInterrupt of the body is in that one's context chain."""
    raised, failed = KeyboardInterrupt(), OSError("close")

    def close() -> None:
        raise failed

    with pytest.raises(KeyboardInterrupt) as caught:
        async with scope(parent=None) as s:
            s.on_exit(close)
            raise raised
    assert caught.value is raised
    assert failed in with_contexts(raised)


# ------------------------------------------------------------------------------------------------- the body's error
async def test_the_bodys_error_is_not_touched() -> None:
    """S3: the same object leaves with its cause and context, and its traceback does not go through the library."""
    cause = LookupError("cause")
    with pytest.raises(ValueError, match="body") as caught:
        async with scope(parent=None) as s:
            s.task(anyio.sleep_forever)
            raise ValueError("body") from cause
    assert caught.value.__cause__ is cause
    frames = [entry.path for entry in caught.traceback]
    assert all("anyscope" not in str(path).replace("\\", "/").rpartition("/src/")[2] for path in frames)
    assert s.cancel_reason is caught.value


async def test_a_group_of_the_body_is_an_error_like_any_other() -> None:
    """S3: an ExceptionGroup that the body raises leaves as that same object."""
    group = ExceptionGroup("mine", [KeyError(1)])
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(parent=None) as s:
            s.on_exit(print)
            raise group
    assert caught.value is group


async def test_a_group_of_the_body_stays_a_member() -> None:
    """S4: an ExceptionGroup of the body is one member of the scope's group, not spliced into it."""
    group = ExceptionGroup("mine", [KeyError(1)])

    async def fail() -> None:
        raise ValueError("task")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            task = s.task(fail)
            while not task.done:
                await anyio.lowlevel.checkpoint()
            raise group
    assert caught.value.exceptions[0] is group
    assert notes_of(group) == ["in the body of app"]
    assert len(caught.value.exceptions) == 2


async def test_nested_scopes_name_their_path() -> None:
    """S4: message and notes say the whole path of the scope in which it happened, and each level adds nothing."""

    async def fail() -> None:
        raise ValueError("task")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None), scope(name="ingest") as s:
            s.task(fail, name="fetch-7")
    assert caught.value.message == "errors in scope app > ingest"
    assert notes_of(caught.value.exceptions[0]) == ["in task fetch-7 (#0) of app > ingest"]
    assert notes_of(caught.value) == []


async def test_tasks_stand_in_order_of_their_index() -> None:
    """S4: the order is by our own index, not by who failed first."""

    async def fail(turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        raise ValueError(turns)

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            for turns in (9, 3, 6, 0):
                s.task(fail, turns)
    assert [error.args[0] for error in caught.value.exceptions] == [9, 3, 6, 0]


async def test_a_crash_while_the_exit_waits_cancels_the_others() -> None:
    """T3, S4: a start_soon that fails after the body has ended cancels the tasks, and leaves in the group."""

    async def fail() -> None:
        await anyio.sleep(0.002)
        raise RuntimeError("crash")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            s.start_soon(fail)
            task = s.task(anyio.sleep_forever)
    assert [shown(error) for error in caught.value.exceptions] == ["RuntimeError('crash'), in task fail (#0) of app"]
    assert isinstance(task.result().pair()[0], TaskCancelled)


async def test_a_daemon_that_fails_when_it_is_stopped_is_told() -> None:
    """S4: an error that a daemon raises on its way out leaves the scope."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            s.start_soon(fail_when_cut, RuntimeError("late"), name="upkeep", daemon=True)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
    assert [shown(error) for error in caught.value.exceptions] == ["RuntimeError('late'), in task upkeep (#0) of app"]


async def test_a_cancelled_task_is_no_failure() -> None:
    """S4, T7: a task that was cancelled by its handle, and that nobody looked at, leaves nothing."""
    async with scope(parent=None) as s:
        s.task(anyio.sleep_forever).cancel("enough")
    assert s.closed


@pytest.mark.virtual_time
async def test_an_unseen_time_out_of_a_task_is_a_failure() -> None:
    """S4, T6: a task that ran over its own timeout failed, so it is told when nobody looked."""
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            s.task(anyio.sleep_forever, name="fetch", timeout=1)
    assert [str(error) for error in caught.value.exceptions] == ["task fetch (#0) of app ran over its timeout of 1 s"]


async def test_three_thousand_unseen_failures() -> None:
    """S4, law 7: 1000 errors are kept, and the message tells of the rest."""

    async def fail(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            for number in range(3000):
                s.task(fail, number)
    assert caught.value.message == "errors in scope app (and 2,000 more that were not kept)"
    assert len(caught.value.exceptions) == 1000
    indexes = [error.args[0] for error in caught.value.exceptions]
    assert indexes == sorted(indexes)


async def test_one_object_raised_by_many_tasks_stands_once() -> None:
    """S4: one exception object that failed many tasks is one member, with a count of the other places."""
    error = ValueError("shared")

    async def fail() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            for _ in range(100):
                s.task(fail, name="fetch")
    assert caught.value.exceptions == (error,)
    assert notes_of(error) == ["in task fetch (#0) of app (and in 99 more places)"]


async def test_one_object_raised_by_body_and_clean_up_stands_once() -> None:
    """S3, S4: a clean-up that raises the body's own error again adds no second member."""
    error = ValueError("body")

    def close() -> None:
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            s.on_exit(close)
            raise error
    assert caught.value.exceptions == (error,)


# ------------------------------------------------------------------------------------------------- deadlines
async def test_deadline_zero() -> None:
    """S6: with `timeout=0` the body runs to its first checkpoint, and the block raises ScopeTimeout."""
    log = []
    with pytest.raises(ScopeTimeout) as caught:
        async with scope(name="app", timeout=0, parent=None):
            log.append("ran")
            await anyio.lowlevel.checkpoint()
            log.append("went on")
    assert log == ["ran"]
    assert str(caught.value) == "scope app ran over its timeout of 0 s"


async def test_deadline_zero_without_a_checkpoint() -> None:
    """S6: a deadline of 0 that cut nothing off is no error."""
    async with scope(timeout=0, parent=None):
        pass


async def test_an_overrun_without_a_checkpoint_is_no_error() -> None:
    """S6: a body that blocks past the deadline and then returns was not cut off."""
    async with scope(timeout=0.005, parent=None) as s:
        time.sleep(0.01)
    assert s.cancel_reason is None


@pytest.mark.virtual_time
async def test_the_time_out_names_what_still_ran() -> None:
    """S6: ScopeTimeout says path, limit and which tasks were still running; attributes and text agree."""
    with pytest.raises(ScopeTimeout) as caught:
        async with scope(name="app", parent=None), scope(name="ingest", timeout=1.5) as s:
            s.task(anyio.sleep, 1, name="quick")
            s.task(anyio.sleep_forever, name="slow")
            s.start_soon(anyio.sleep_forever, name="slower")
    error = caught.value
    assert (error.path, error.limit, error.running) == ("app > ingest", 1.5, ("slow (#1)", "slower (#2)"))
    assert str(error) == ("scope app > ingest ran over its timeout of 1.5 s; still running: slow (#1), slower (#2)")
    assert isinstance(error, TimeoutError)
    assert s.cancel_reason is error


@pytest.mark.virtual_time
async def test_the_time_out_of_many_tasks_is_short() -> None:
    """S6, law 7: the text names five of the tasks and counts the others."""
    with pytest.raises(ScopeTimeout) as caught:
        async with scope(name="app", timeout=1, parent=None) as s:
            for _ in range(8):
                s.task(anyio.sleep_forever, name="t")
    assert str(caught.value).endswith("still running: t (#0), t (#1), t (#2), t (#3), t (#4) and 3 more")
    assert len(caught.value.running) == 8


@pytest.mark.virtual_time
async def test_the_same_deadline_inside_and_outside() -> None:
    """S6: two scopes with one deadline give exactly one time-out, and what comes afterwards is not cancelled."""
    with pytest.raises(ScopeTimeout):
        async with scope(name="outer", timeout=1, parent=None), scope(name="inner", timeout=1):
            await anyio.sleep_forever()
    await anyio.sleep(1)


@pytest.mark.virtual_time
async def test_the_parents_deadline_is_the_parents_error() -> None:
    """S6, S9: a child cut off by its parent's deadline leaves quietly; the parent raises the time-out."""
    with pytest.raises(ScopeTimeout) as caught:
        async with scope(name="outer", timeout=1, parent=None), scope(name="inner", timeout=5) as inner:
            await anyio.sleep_forever()
    assert caught.value.path == "outer"
    assert inner.cancel_reason is caught.value


@pytest.mark.virtual_time
@pytest.mark.parametrize("swallows", ["body", "task"])
async def test_a_deadline_that_passes_behind_a_shield_cuts_nothing(swallows: str) -> None:
    """S6: it counts what was really cut off; afterwards the next checkpoint is not cancelled."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3)

    async with scope(timeout=1, parent=None) as s:
        if swallows == "task":
            s.task(stubborn)
        else:
            await stubborn()
    assert anyio.current_time() == 3
    await anyio.lowlevel.checkpoint()


@pytest.mark.virtual_time
async def test_move_on_after_gives_a_quiet_end() -> None:
    """S6: for a quiet end, `move_on_after` around the scope composes."""
    with anyio.move_on_after(1) as limit:
        async with scope(timeout=9, parent=None) as s:
            s.task(anyio.sleep_forever)
            await anyio.sleep_forever()
    assert limit.cancelled_caught
    await anyio.lowlevel.checkpoint()


@pytest.mark.virtual_time
async def test_cancel_before_the_deadline_with_a_stubborn_task() -> None:
    """S6: an explicit cancel before the deadline is not a time-out, however late the tasks end."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(7)
        await anyio.sleep_forever()

    async with scope(timeout=2, parent=None) as s:
        s.task(stubborn)
        await anyio.sleep(1)
        s.cancel("enough")
    assert anyio.current_time() == 7
    assert s.cancel_reason == "enough"


async def test_after_a_quiet_end_nothing_is_cancelled() -> None:
    """S5: after `s.cancel()` the block is left quietly, and the code behind it runs undisturbed."""
    async with scope(parent=None) as s:
        s.task(anyio.sleep_forever)
        s.cancel("one")
        s.cancel("two")
        await anyio.sleep_forever()
    await anyio.sleep(0.001)
    assert (s.cancelled, s.cancel_reason) == (True, "one")


# ------------------------------------------------------------------------------------------------- clean-up
@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["body ends", "body raises", "s.cancel", "deadline", "outer cancel"])
async def test_clean_up_is_lifo_once_shielded_and_bounded(end: str) -> None:
    """S7: last in, first out; each once; a step can await although cancelled; one that overruns is abandoned."""
    log: list[tuple[str, float]] = []

    async def close(name: str, seconds: float) -> None:
        log.append((name, anyio.current_time()))
        await anyio.sleep(seconds)
        log.append((f"{name} done", anyio.current_time()))

    with anyio.move_on_after(1 if end == "outer cancel" else math.inf):
        with pytest.raises(ExceptionGroup) as caught:
            timeout = 1 if end == "deadline" else None
            async with scope(name="app", timeout=timeout, close_timeout=3, parent=None) as s:
                s.on_exit(close, "c", 1)
                s.on_exit(close, "b", 99)
                s.on_exit(log.append, ("plain", 0.0))
                s.on_exit(close, "a", 2)
                if end in ("body ends", "body raises", "s.cancel"):
                    await anyio.sleep(1)
                    if end == "body raises":
                        raise ValueError("body")
                    if end == "s.cancel":
                        s.cancel()
                else:
                    await anyio.sleep_forever()
    assert log == [("a", 1), ("a done", 3), ("plain", 0.0), ("b", 3), ("c", 6), ("c done", 7)]
    late = caught.value.exceptions[-1]
    assert isinstance(late, CloseTimeout)
    assert (late.path, late.step, late.limit) == ("app", "close (#1)", 3)
    assert notes_of(late) == ["in clean-up close (#1) of app"]
    assert str(late) == (
        "scope app: clean-up close (#1) took longer than 3 s and was abandoned\n"
        "Make it faster, or give the scope a longer close_timeout (None = no bound)."
    )
    assert [type(error) for error in caught.value.exceptions[:-1]] == {
        "body raises": [ValueError],
        "deadline": [ScopeTimeout],
    }.get(end, [])


@pytest.mark.virtual_time
async def test_no_bound_for_clean_up() -> None:
    """S7: with `close_timeout=None` a step takes as long as it takes."""
    log = []

    async def close() -> None:
        await anyio.sleep(10_000)
        log.append("closed")

    async with scope(close_timeout=None, parent=None) as s:
        s.on_exit(close)
    assert log == ["closed"]


@pytest.mark.virtual_time
async def test_cancellation_deadline_and_error_together_close_once() -> None:
    """S7: error, deadline, cancel() and a cancellation from outside at one moment still close everything once."""
    log: list[int] = []

    async def close(number: int) -> None:
        await anyio.sleep(1)
        log.append(number)

    async def at_5(call: Callable[[], object]) -> None:
        await anyio.sleep(5)
        call()

    async def fail() -> None:
        await anyio.sleep(5)
        raise RuntimeError("crash")

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(5), pytest.raises(BaseException):
            async with scope(timeout=5, parent=None) as s:
                for number in range(3):
                    s.on_exit(close, number)
                group.start_soon(at_5, s.cancel)
                s.start_soon(fail)
                await anyio.sleep(5)
                raise ValueError("body")
    assert log == [2, 1, 0]


@pytest.mark.virtual_time
async def test_daemons_outlive_the_clean_up_of_tasks() -> None:
    """S2: the shielded clean-up of a cancelled task may use a daemon, which is stopped afterwards."""
    log: list[str] = []

    async def daemon() -> None:
        try:
            while True:
                await anyio.sleep(1)
                log.append("daemon serves")
        finally:
            log.append("daemon stopped")

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2.5)
            log.append("task cleaned up")

    async with scope(parent=None) as s:
        s.on_exit(log.append, "closed")
        s.start_soon(daemon, daemon=True)
        s.task(work)
        await anyio.sleep(0.1)
        s.cancel()
    assert log == ["daemon serves", "daemon serves", "task cleaned up", "daemon stopped", "closed"]


async def test_the_current_scope_of_a_clean_up() -> None:
    """S11: for a clean-up step the innermost open scope is the parent, since its own scope is closing."""
    seen: list[Any] = []

    async def close() -> None:
        seen.append(current_scope())

    async with scope(parent=None) as parent, scope() as s:
        s.on_exit(close)
    assert seen == [parent]


async def test_a_clean_up_registered_by_a_clean_up_runs_next() -> None:
    """S14: what a clean-up step registers is closed next, for it was opened last."""
    log: list[str] = []
    async with scope(parent=None) as s:

        async def close() -> None:
            log.append("outer")
            s.on_exit(log.append, "inner")

        s.on_exit(log.append, "first")
        s.on_exit(close)
    assert log == ["outer", "inner", "first"]


async def test_clean_up_may_open_scopes_of_its_own() -> None:
    """S7: a clean-up step may open a root scope and run tasks in it."""
    results: list[object] = []

    async def flush() -> int:
        await anyio.sleep(0.001)
        return 7

    async def close() -> None:
        async with scope(parent=None) as inner:
            results.append(await inner.task(flush))

    async with scope(parent=None) as s:
        s.on_exit(close)
        s.cancel()
    assert results == [Ok(7)]


async def test_a_clean_up_that_cancels_its_own_scope_changes_nothing() -> None:
    """S5, S7: `s.cancel()` from a clean-up step comes too late to cancel anything, and the other steps run."""
    log: list[str] = []
    async with scope(parent=None) as s:
        s.on_exit(log.append, "first")
        s.on_exit(s.cancel, "late")
    assert log == ["first"]


# ------------------------------------------------------------------------------------------------- late starts
async def test_a_task_started_after_cancel_runs_to_its_first_checkpoint() -> None:
    """S5, T7: a cancelled scope still takes a task; it runs to its first checkpoint and ends as cancelled."""
    log: list[str] = []

    async def work() -> None:
        log.append("began")
        await anyio.lowlevel.checkpoint()
        log.append("went on")

    async with scope(name="app", parent=None) as s:
        s.cancel("enough")
        task = s.task(work, name="late")
    assert log == ["began"]
    assert str(task.result().pair()[0]) == "task late (#0) of app was cancelled (enough)"


async def test_tasks_started_while_the_exit_waits_are_waited_for() -> None:
    """S2: a task may start further tasks while the body has already ended; all of them run to their end."""
    log: list[int] = []

    async def chain(left: int) -> None:
        await anyio.sleep(0.001)
        log.append(left)
        if left:
            current_scope().task(chain, left - 1)

    async with scope(parent=None) as s:
        s.on_exit(lambda: log.append(-1))
        s.task(chain, 4)
    assert log == [4, 3, 2, 1, 0, -1]


CALLS: dict[str, Callable[[Scope], Any]] = {
    "task(sleep)": lambda s: s.task(anyio.sleep, 1),
    "start_soon(sleep)": lambda s: s.start_soon(anyio.sleep, 1),
    "run(sleep)": lambda s: s.run(anyio.sleep, 1),
    "start(sleep)": lambda s: s.start(anyio.sleep, 1),
    "on_exit(print)": lambda s: s.on_exit(print),
}


async def call(s: Scope, action: str) -> None:
    """Make the call, and await what it gives."""
    made = CALLS[action](s)
    if isinstance(made, Awaitable):
        await made


@pytest.mark.parametrize("action", CALLS)
async def test_use_after_close(action: str) -> None:
    """S12: whatever is asked of a closed scope, it says that it is closed, and how to do it instead."""
    async with scope(name="app", parent=None) as s:
        pass
    with pytest.raises(ScopeClosed) as caught:
        await call(s, action)
    assert str(caught.value) == (
        f"scope app is closed: {action} came too late\n"
        "Start the work inside the `async with` block, or open a new scope for it."
    )
    assert (caught.value.path, caught.value.action) == ("app", action)
    gc.collect()


@pytest.mark.parametrize("action", [action for action in CALLS if action != "on_exit(print)"])
async def test_use_during_clean_up(action: str) -> None:
    """S12: a clean-up step cannot start work in its scope any more."""
    told: list[BaseException] = []

    async with scope(name="app", parent=None) as s:

        async def close() -> None:
            with pytest.raises(ScopeClosed) as caught:
                await call(s, action)
            told.append(caught.value)

        s.on_exit(close)
    assert [getattr(error, "action", None) for error in told] == [action]


async def test_a_child_of_a_closing_scope_is_refused() -> None:
    """S9: a clean-up step cannot open a child of the scope that is closing; nothing of the child is opened."""
    told: list[BaseException] = []
    async with scope(name="app", parent=None) as s:

        async def close() -> None:
            with pytest.raises(ScopeClosed) as caught:
                async with scope(name="late", parent=s):
                    raise AssertionError("the child was entered")
            told.append(caught.value)

        s.on_exit(close)
    text = (
        "scope app is closed: entering child scope late came too late\n"
        "Open the child while its parent is open, or make it a root with parent=None."
    )
    assert [str(error) for error in told] == [text]
