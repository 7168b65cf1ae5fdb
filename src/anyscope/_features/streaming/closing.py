"""How a stream is closed, and what interrupts those who read it.

    new -> open -> closing -> closed

A stream object is only a handle. What has to outlive it is here: dropping the handle (`break`) must close the source,
in a task of the scope and not in an orphan of the garbage collector. So the scope knows it, as a daemon: one that it
does not wait for but ends.

A line is closed once, and never while a step is under way: by the reader (`async with`), by a task of the scope (a
dropped handle), or as a clean-up of the scope that ends.

Rejected: closing in `__del__`, which runs in any thread, at any moment. It only asks the loop to have it done.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio

from ..._lifetime.backend import running_task, soon_caller
from ..._lifetime.cleanup import CleanUp, run_clean_up, shield_closing
from ..._lifetime.place import stand_in
from ..._lifetime.start import start_apart
from ..._lifetime.watching import WATCHERS, tell
from ..._vocabulary.errors import CloseTimeout, ScopeCancelled, ScopeMisuse, StreamClosed
from .line import Line, Recipe
from .place import StreamPlace
from .stepping import holds_scope, is_misnesting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._lifetime.owner import Owner

GLANCE = 0.01
"""Seconds between two looks at whether a step that is taken directly is over."""

State: TypeAlias = Literal["new", "open", "closing", "closed"]


class Held(ABC):
    """A stream in the hands of its scope.

    Args:
        owner: The scope's owner.
        recipe: What is read.

    Attributes:
        recipe: What is read, or was. Written by the reading.
        index: Its number in the scope.
        state: How far it is.
        handle: Gives the stream object that reads it, weakly; it writes this.
        line: What was made from the recipe; `None` until the first step. Written by the reading.
        reader: The native task that takes the steps. Written by the reading.
        is_block: Whether an `async with` will close it, in the reader's task. Written by the reading.
        is_inside: Whether the backend cancels that reader along with the scope. Written by the reading.
        is_guarded: Whether steps of that reader are guarded. Written by the reading.
        is_stepping: Whether a step is under way that is not taken directly. Written by the reading.
        is_left: Whether to close as soon as the step that is under way is over.
        step_scope: The scope of the step under way, if there is one. Written by the reading.
        why: What each further step raises.
        enclosing: A scope that could not be left, see `stepping`; it is, when the source has been closed.
        holds_scope: Whether the source is known to hold a scope, and there is no such scope around it.
        _spawned: Whether a task was started to close it; `_has_begun` whether that has begun.
        _closed: Set when it is closed; made by who waits for that.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_has_begun",
        "_run_soon",
        "_spawned",
        "_unlisten",
        "enclosing",
        "handle",
        "holds_scope",
        "index",
        "is_block",
        "is_guarded",
        "is_inside",
        "is_left",
        "is_stepping",
        "line",
        "owner",
        "reader",
        "recipe",
        "state",
        "step_scope",
        "why",
    )

    holds_scope: bool
    is_block: bool
    is_guarded: bool
    is_inside: bool
    is_left: bool
    is_stepping: bool

    def __init__(self, owner: Owner, recipe: Recipe) -> None:
        self.owner: Owner = owner
        self.recipe: Recipe = recipe
        self.index: int = owner.next_index()
        self.state: State = "new"
        self.handle: Callable[[], Any] = _nobody
        self.line: Line | None = None
        self.reader: object = _nobody
        self.is_block = False
        self.is_inside = self.is_guarded = self.is_stepping = self.is_left = False
        self.step_scope: anyio.CancelScope | None = None
        self.why: Exception | None = None
        self.enclosing: anyio.CancelScope | None = None
        self.holds_scope = False
        self._spawned = self._has_begun = False
        self._closed: anyio.Event | None = None
        self._run_soon = soon_caller()
        self._unlisten = owner.listeners.add(self._scope_was_cancelled)
        if owner.cancelled:
            self._scope_was_cancelled(owner.cancel_reason)
        owner.works.join_daemon(self)
        if WATCHERS:
            tell("streaming", owner, self)

    # ------------------------------------------------------------------ what it is called

    @property
    def name(self) -> str:
        """The source and its operators, such as `read_lines.map.filter`."""
        return self.recipe.name

    @property
    def label(self) -> str:
        """Its name and number, such as `read_lines.map (#3)`."""
        return f"{self.recipe.name} (#{self.index})"

    @property
    def full_label(self) -> str:
        """Its name, number and scope, such as `read_lines.map (#3) of app`."""
        return f"{self.label} of {self.owner.path}"

    @property
    def task_name(self) -> str:
        """What the task is called that closes it."""
        return f"closing stream {self.full_label}"

    # ------------------------------------------------------------------ interruptions

    @abstractmethod
    async def step(self) -> Any:
        """The next item."""

    def _scope_was_cancelled(self, reason: object) -> None:
        self.why = self.why or ScopeCancelled(path=self.owner.path, action=f"stream {self.label}", reason=reason)
        if self.is_inside:
            self.look_again()  # the backend cancels it, unless it is shielded
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        """Cut a guarded step, and have a direct reader ask here before the next one."""
        if self.step_scope is not None and self.is_guarded:
            self.step_scope.cancel()
        elif self.line is not None and self.why is not None:
            self.line.interrupt(self.why)
        self.look_again()

    def look_again(self) -> None:
        """Have the next step taken here, and not directly."""
        handle = self.handle()
        if handle is not None:
            handle.go(self.step)

    @property
    def is_busy(self) -> bool:
        """Whether a step is under way, as far as Python can tell."""
        return self.is_stepping or (self.line is not None and self.line.is_running)

    def cancel(self, reason: object = None) -> None:
        """Its scope has ended, and all who could read it there: close it, if need be after the step under way."""
        if self.state in ("closing", "closed"):
            return
        self.why = self.why or self.closed_error("its scope has ended")
        self._interrupt()
        if self.is_stepping:
            self.is_left = True
        else:
            self._push()

    def leave(self) -> None:
        """Have the scope close it."""
        if self.state in ("closing", "closed") or self.is_bound:
            return
        if self.owner.phase == "closing":
            self._push()
        else:
            self._spawn()

    def _push(self) -> None:
        """Close it as a clean-up of the scope, which waits for it, bounds it, and tells what it raises."""
        self.state = "closing"
        self.owner.push(self.name, self._close_at_last, kind="stream", index=self.index)
        self._part()

    async def _close_at_last(self) -> None:
        try:
            await self._close_line()
        finally:
            self._finish()

    @property
    def is_unborn(self) -> bool:
        """Whether the task that is to close it was given to the backend and has not begun."""
        return self._spawned and not self._has_begun and self.state == "closing"

    def abandon(self) -> None:
        """The backend has dropped that task: the scope closes it then."""
        self._has_begun = True
        self._push()

    # ------------------------------------------------------------------ closing

    def was_dropped(self, handle: object) -> None:
        """The handle is going; called by its `__del__`, in any thread and at any moment."""
        current = self.handle()  # none, where it goes as part of a cycle
        if self.state not in ("new", "open") or self.is_block or (current is not None and current is not handle):
            return
        if self._has_nothing_to_close() and self.owner.phase in ("open", "draining"):
            self.state = "closed"
            self._unlisten()
            self.owner.works.forget(self)
        else:
            with suppress(RuntimeError):  # the loop has ended, and with it the scope
                self._run_soon(self._close_soon)

    def _has_nothing_to_close(self) -> bool:
        if self.is_stepping or threading.get_ident() != self.owner.listeners.thread:
            return False
        if self.line is None:
            return not self.recipe.given
        return self.line.has_ended and not self.line.is_running

    def _close_soon(self) -> None:
        """Close it in a task of the scope; called by the loop."""
        if self.is_busy:
            self.is_left = True  # `await anext(s.stream(...))`: nobody holds the handle
        else:
            self.leave()

    def _spawn(self) -> None:
        self.state = "closing"
        self._spawned = True
        start_apart(self.owner, self._close_in_task, self.task_name)

    async def _close_in_task(self) -> None:
        if self._has_begun:
            return  # taken for lost, see `abandon`
        self._has_begun = True
        owner = self.owner
        place = StreamPlace(owner)
        stand_in(place)
        step = CleanUp(self.index, self.name, self._close_line, (), "stream")
        end = await run_clean_up(step, path=owner.path, bound=owner.close_timeout)
        if end.error is not None:
            self.report(end.error)
        if end.fatal is not None:
            owner.end_for(end.fatal)
        self.forget()
        place.end()

    async def _close_line(self) -> None:
        await self._line_to_close().aclose()

    def _line_to_close(self) -> Line:
        if self.line is None:
            self.line = Line(self.owner, self.full_label)
            self.line.links.extend(self.recipe.given)
        return self.line

    async def aclose(self) -> None:
        """Close it in this task, or wait for whoever does."""
        if self.state == "closed":
            return
        self.owner.require_own_thread("stream.aclose")
        if self.is_busy and self.reader is running_task():
            raise self._is_own_source()
        self.why = self.why or self.closed_error("it was closed")
        self._interrupt()
        if self.state == "closing" or self.is_busy or (self.is_bound and self.reader is not running_task()):
            self.is_left = True
            await self._until_closed()
            return
        self.state = "closing"
        try:
            await self._close_here()
        finally:
            self.forget()

    def _is_own_source(self) -> ScopeMisuse:
        return ScopeMisuse(
            path=self.owner.path,
            problem=f"stream {self.label} was closed from within, while it makes an item",
            remedy="Right: return from the source, or break out of the loop that reads it",
        )

    @property
    def is_bound(self) -> bool:
        """Whether it can only be closed by its block, in that task."""
        return self.holds_scope or self.enclosing is not None

    async def _until_closed(self) -> None:
        """Wait for whoever closes it; if nobody does, have the scope do so."""
        while self.state == "open" and self.is_busy and not self.is_stepping:  # noqa: ASYNC110  no event for that
            # Read directly: nothing of ours runs when that step is over.
            await anyio.sleep(GLANCE)
        if not self.is_stepping:
            self.leave()
        if self.state == "closed":
            return
        if self._closed is None:
            self._closed = anyio.Event()
        await self._closed.wait()

    async def _close_here(self) -> None:
        """Close it in the reader's task; shielded and bounded where that is being cancelled.

        Where it is not, no scope of ours is around it: the source may hold one of its own. A cancellation that comes
        in the middle of it then meets the source's clean-up as it would meet any `finally`.
        """
        line, scope = self._line_to_close(), self.enclosing
        is_cancelled = anyio.current_effective_deadline() == -math.inf
        if scope is None and (self.holds_scope or not is_cancelled):
            await line.aclose()
            return
        scope = scope or anyio.CancelScope().__enter__()
        if is_cancelled:
            shield_closing(scope, self.owner.close_timeout)
        try:
            await self._close_within(scope, line)
        except RuntimeError as error:
            if not is_misnesting(error):
                raise
            raise holds_scope(self.owner.path, self.label) from error  # one that could not be seen

    async def _close_within(self, scope: anyio.CancelScope, line: Line) -> None:
        """Close it and leave the scope around it, which has been entered and is cancelled by nothing but the bound."""
        bound = self.owner.close_timeout
        try:
            await line.aclose()
        except BaseException as error:  # noqa: ASYNC103  the scope may absorb it
            # Not `cancelled_caught`: on asyncio it is false where the outer one came after the scope was entered.
            if bound is not None and scope.cancel_called and not isinstance(error, Exception):
                self.report(CloseTimeout(path=self.owner.path, step=f"stream {self.label}", limit=bound))
            if not scope.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            scope.__exit__(None, None, None)

    def report(self, error: Exception) -> None:
        """An error that leaves the scope at its end."""
        self.owner.report(error, self.owner.next_index(), f"in stream {self.full_label}")

    def forget(self) -> None:
        """It is closed."""
        self._part()
        self._finish()

    def _part(self) -> None:
        """It is no daemon of the scope any more."""
        self._unlisten()
        self.owner.works.part(self)

    def _finish(self) -> None:
        self.state = "closed"
        if self._closed is not None:
            self._closed.set()

    def closed_error(self, problem: str) -> StreamClosed:
        """The error for who reads on."""
        return StreamClosed(stream=self.full_label, problem=problem)


def _nobody() -> None:
    """There is no handle."""
