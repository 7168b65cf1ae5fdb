"""What one run in virtual time knows of itself: its threads, its deadlock, and who waits where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from ._threads import ThreadWatch

MOST_TURNS = 1_000_000
"""Turns of the event loop without any time going by, after which nothing useful can be expected any more."""

_RUNTIME = tuple(f"{os.sep}{name}{os.sep}" for name in ("anyio", "trio", "asyncio", "outcome", "_pytest", "pluggy"))


class Deadlock(BaseException):
    """Every task is blocked, and nothing can ever wake one; the text says who waits where.

    A `BaseException`, so that code under test lets it pass.
    """


class Livelock(BaseException):
    """The event loop never rests, so that no time goes by: some task spins; the text says who is there.

    A `BaseException`, so that code under test lets it pass.
    """


class Watch:
    """One run in virtual time, perhaps over several event loops.

    Args:
        most_turns: Turns of the loop without any time going by, after which it is a `Livelock`.

    Attributes:
        threads: Tells whether a thread may still wake the loop.
        stuck: The first deadlock or livelock that was found. Written by `dead` and `spinning`.
        problems: Contexts that reached a loop's exception handler. Written by the loops.
        loops: The loops of asyncio that were made.
        _turns: Turns since time went by.
    """

    def __init__(self, most_turns: int = MOST_TURNS) -> None:
        self.threads: ThreadWatch = ThreadWatch()
        self.stuck: Deadlock | Livelock | None = None
        self.problems: list[dict[str, Any]] = []
        self.loops: list[Any] = []
        self._most_turns = most_turns
        self._turns = 0

    def dead(self) -> Deadlock:
        """Make, and remember, the error for a deadlock."""
        error = Deadlock(f"every task is blocked for ever:\n{present_tasks()}")
        self.stuck = self.stuck or error
        return error

    def has_turned(self) -> bool:
        """Count a turn of the loop; true if there have been too many."""
        self._turns += 1
        return self._turns > self._most_turns

    def has_rested(self) -> None:
        """Time goes by."""
        self._turns = 0

    def spinning(self) -> Livelock:
        """Make, and remember, the error for a livelock."""
        self._turns = 0
        error = Livelock(f"no time went by in {self._most_turns:,} turns of the event loop:\n{present_tasks()}")
        self.stuck = self.stuck or error
        return error


def present_tasks() -> str:
    """List the tasks of the running loop, each with the line of the program on which it stands."""
    lines: list[str] = []
    for info in sorted(anyio.get_running_tasks(), key=lambda info: str(info.name)):
        name = str(info.name)
        if name.startswith("<") or "_call_in_runner_task" in repr(info.coro):
            continue  # Trio's own, and the one that AnyIO's pytest plugin runs tests in
        if "_run_tests_and_fixtures" in repr(info.coro):
            name = "(the test itself)"
        lines.append(f"  {name}: {place_of(info.coro)}")
    return "\n".join(lines)


def place_of(coro: Any) -> str:
    """The innermost line of a suspended coroutine that is not the runtime's own."""
    place = "?"
    while coro is not None:
        frames = (getattr(coro, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))
        frame = next((frame for frame in frames if frame is not None), None)
        if frame is not None and not any(part in frame.f_code.co_filename for part in _RUNTIME):
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        inner = (getattr(coro, name, None) for name in ("cr_await", "gi_yieldfrom", "ag_await"))
        coro = next((each for each in inner if each is not None), None)
    return place
