"""Every combination of how a scope may end (S2-S8), 225 of them, as one table.

`test_endings.py` tells the stories that are worth telling; this is the whole product, so that no combination is left
to chance: {body} x {task} x {what cancels} x {clean-up}. The clock: the task fails at 1, the body ends or raises at 2.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyscope import Err, Scope, scope

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

# body     `ends` at 2; `raises` at 2, or as soon as it is cut off; `is cut` (waits for ever)
# task     `-` (none), fails at 1 `unseen` or `seen` (its handle was asked), `crashes` at 1 (start_soon), `daemon` (one
#          that crashes at 1)
# cancels  `itself` (nothing, but a body that waits calls s.cancel() at 3), `deadline` at 5, `outer` AnyIO scope at 4,
#          `outer first` (that at 4, deadline at 5), `deadline first` (that at 5, outer at 6), `any` (each of the five)
# leaves   by clean-up: it is `ok`, it `fails`, it `overruns` its ten seconds. One word: that very exception leaves,
#          bare. Words with a plus: the members of a group `errors in scope app`, in order.
TABLE = """
body    | task    | cancels        | clean-up ok     | fails                   | overruns
ends    | -       | any            | nothing         | +close                  | +late
ends    | unseen  | any            | +task           | +task +close            | +task +late
ends    | seen    | any            | nothing         | +close                  | +late
ends    | crashes | any            | +crash          | +crash +close           | +crash +late
ends    | daemon  | any            | +crash          | +crash +close           | +crash +late
raises  | -       | any            | body            | +body +close            | +body +late
raises  | unseen  | any            | +body +task     | +body +task +close      | +body +task +late
raises  | seen    | any            | body            | +body +close            | +body +late
raises  | crashes | any            | +body +crash    | +body +crash +close     | +body +crash +late
raises  | daemon  | any            | +body +crash    | +body +crash +close     | +body +crash +late
is cut  | -       | itself         | nothing         | +close                  | +late
is cut  | unseen  | itself         | +task           | +task +close            | +task +late
is cut  | seen    | itself         | nothing         | +close                  | +late
is cut  | -       | deadline       | deadline        | +deadline +close        | +deadline +late
is cut  | unseen  | deadline       | +deadline +task | +deadline +task +close  | +deadline +task +late
is cut  | seen    | deadline       | deadline        | +deadline +close        | +deadline +late
is cut  | -       | outer          | cancellation    | +close                  | +late
is cut  | unseen  | outer          | +task           | +task +close            | +task +late
is cut  | seen    | outer          | cancellation    | +close                  | +late
is cut  | -       | outer first    | cancellation    | +close                  | +late
is cut  | unseen  | outer first    | +task           | +task +close            | +task +late
is cut  | seen    | outer first    | cancellation    | +close                  | +late
is cut  | -       | deadline first | deadline        | +deadline +close        | +late
is cut  | unseen  | deadline first | +deadline +task | +deadline +task +close  | +task +late
is cut  | seen    | deadline first | deadline        | +deadline +close        | +late
is cut  | crashes | any            | +crash          | +crash +close           | +crash +late
is cut  | daemon  | any            | +crash          | +crash +close           | +crash +late
"""
CANCELS = ("itself", "deadline", "outer", "outer first", "deadline first")
CLEAN_UPS = ("ok", "fails", "overruns")
DEADLINE = {"deadline": 5, "outer first": 5, "deadline first": 5}
OUTER = {"outer": 4, "outer first": 4, "deadline first": 6}
NOTES = {
    "body": "in the body of app",
    "deadline": "in app",
    "task": "in task work (#1) of app",
    "crash": "in task work (#1) of app",
    "close": "in clean-up close (#0) of app",
    "late": "in clean-up close (#0) of app",
}
SHOWN = {
    "body": "ValueError('body')",
    "task": "KeyError('task')",
    "crash": "RuntimeError('crash')",
    "close": "OSError('close')",
    "deadline": "ScopeTimeout('scope app ran over its timeout of 5 s')",
    "late": (
        "CloseTimeout('scope app: clean-up close (#0) took longer than 10 s and was abandoned\\n"
        "Make it faster, or give the scope a longer close_timeout (None = no bound).')"
    ),
}


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    body: str
    task: str
    cancels: str
    clean_up: str
    leaves: str

    @property
    def id(self) -> str:
        """What pytest calls it."""
        return f"body {self.body}, task {self.task}, cancelled by {self.cancels}, clean-up {self.clean_up}"


def cases() -> Iterator[Case]:
    """Unfold the table."""
    for line in TABLE.strip().splitlines()[1:]:
        body, task, cancels, *leaves = (cell.strip() for cell in line.split("|"))
        for by in CANCELS if cancels == "any" else (cancels,):
            yield from (Case(body, task, by, how, what) for how, what in zip(CLEAN_UPS, leaves, strict=True))


CASES = list(cases())


class Story:
    """Plays one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.error = ValueError("body")
        self.handle: Any = None
        self.closed = 0
        self.left: BaseException | None = None

    async def play(self) -> None:
        """Open the scope inside the outer one, and keep what leaves it."""
        outer_at = OUTER.get(self.case.cancels, math.inf)
        with anyio.move_on_after(outer_at) as outer:
            try:
                async with scope(name="app", timeout=DEADLINE.get(self.case.cancels), parent=None) as s:
                    s.on_exit(self.close)
                    self.start(s)
                    await self.body(s)
            except anyio.get_cancelled_exc_class() as error:
                self.left = error
                raise
            except BaseException as error:
                self.left = error
            was_due = anyio.current_time() >= outer_at
            await anyio.lowlevel.checkpoint()
            assert not was_due, "the cancellation from outside was swallowed"
        assert outer.cancelled_caught == (anyio.current_time() >= outer_at)
        assert self.closed == 1
        assert s.closed

    def start(self, s: Scope) -> None:
        """Start the task."""
        if self.case.task in ("crashes", "daemon"):
            s.start_soon(fail, RuntimeError("crash"), name="work", daemon=self.case.task == "daemon")
        elif self.case.task != "-":
            self.handle = s.task(fail, KeyError("task"), name="work")

    async def body(self, s: Scope) -> None:
        """What the block does."""
        try:
            await anyio.sleep(2)
            if self.case.task == "seen":
                assert isinstance(self.handle.result(), Err)
        finally:
            if self.case.body == "raises":
                raise self.error
        if self.case.body == "is cut":
            await anyio.sleep(1)
            if self.case.cancels == "itself":
                s.cancel()
            await anyio.sleep_forever()

    async def close(self) -> None:
        """The clean-up."""
        self.closed += 1
        if self.case.clean_up == "fails":
            raise OSError("close")
        if self.case.clean_up == "overruns":
            await anyio.sleep_forever()

    close.__qualname__ = "close"

    def what_left(self) -> str:
        """What left, in the words of the table."""
        if self.left is None:
            return "nothing"
        if self.left is self.error:
            return "body"
        if isinstance(self.left, anyio.get_cancelled_exc_class()):
            return "cancellation"
        if not isinstance(self.left, BaseExceptionGroup):
            return word_for(self.left)
        assert type(self.left) is ExceptionGroup
        assert self.left.message == "errors in scope app"
        words = [word_for(member) for member in self.left.exceptions]
        notes = [getattr(member, "__notes__", None) for member in self.left.exceptions]
        assert notes == [[NOTES[word]] for word in words]
        assert "body" not in words or self.left.exceptions[words.index("body")] is self.error
        return " ".join(f"+{word}" for word in words)


def word_for(error: BaseException) -> str:
    """The word for an error, by its exact type and text."""
    return next((word for word, shown in SHOWN.items() if shown == repr(error)), repr(error))


async def fail(error: Exception) -> None:
    """Fail after a second."""
    await anyio.sleep(1)
    raise error


@pytest.mark.virtual_time
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_what_leaves_the_block(case: Case) -> None:
    """S2-S8: the table."""
    story = Story(case)
    await story.play()
    assert story.what_left() == case.leaves


def test_the_table_is_complete() -> None:
    """S2-S8: each combination stands in it exactly once."""
    found = {(case.body, case.task, case.cancels, case.clean_up) for case in CASES}
    assert len(found) == len(CASES) == 3 * 5 * len(CANCELS) * len(CLEAN_UPS)


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [1000, 1001, 10_000])
async def test_very_many_unseen_failures(number: int) -> None:
    """S4, law 7: 1000 of them are kept, in order of index, and the message counts the others."""

    async def fail_at_once() -> None:
        raise KeyError

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            for started in range(number):
                s.task(fail_at_once, name="work")
                if started % 1000 == 0:
                    await anyio.sleep(1)
    more = f" (and {number - 1000:,} more that were not kept)" if number > 1000 else ""
    assert caught.value.message == f"errors in scope app{more}"
    notes = [note for member in caught.value.exceptions for note in getattr(member, "__notes__", ())]
    indexes = [int(note.removeprefix("in task work (#").removesuffix(") of app")) for note in notes]
    assert len(indexes) == 1000
    assert indexes == sorted(set(indexes))


async def test_failed_clean_ups_stand_in_the_order_they_ran() -> None:
    """S4, S7: tasks by index first, then the clean-ups, last registered first, each with its own number."""

    async def fail(name: str) -> None:
        raise OSError(name)

    fail.__qualname__ = "fail"
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="app", parent=None) as s:
            for name in ("a", "b", "c"):
                s.on_exit(fail, name)
            s.task(fail, "task")
    assert [(str(error), getattr(error, "__notes__", None)) for error in caught.value.exceptions] == [
        ("task", ["in task fail (#3) of app"]),
        ("c", ["in clean-up fail (#2) of app"]),
        ("b", ["in clean-up fail (#1) of app"]),
        ("a", ["in clean-up fail (#0) of app"]),
    ]
