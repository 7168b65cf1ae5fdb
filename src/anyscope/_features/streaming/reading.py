"""Reading a stream: who reads, what interrupts it, and how it is closed.

    new -> open -> closing -> closed

A stream object is only a handle. What has to outlive it is here: dropping the handle (`break`) must close the source,
in a task of the scope and not in an orphan of the garbage collector. So the scope knows the reading, as a daemon: one
that it does not wait for but ends.

How a step is taken
    *directly*  in the very task that made the stream, inside the scope: the handle's `__anext__` *is* that of the last
        iterator. That costs nothing; and the backend cancels this task along with the scope, so nothing of ours need
        be around the step. It begins with the second item.
    *guarded*   in any other task: a cancel scope around each single step, left before the item is returned. Through it
        the scope's cancellation and end, and `aclose()`, reach a task that is not theirs: it gets an error and lives on.
    *looked at* the first step, and those of streams that must remember that they failed.

Invariants
    * No scope and no task group of ours is open while the reader runs code between two items (law 3).
    * A line is closed once: by the reader (in `async with`), by a task of the scope (a dropped handle), or as a clean-up
      of the scope, and never while a step is under way.
    * Once closed, or interrupted, a step raises why. `StopAsyncIteration` means that the source has ended.

Rejected
    * An async generator as the wrapper: cut once, it ends as if the source had; it cannot be closed while it runs;
      `break` leaves it to the garbage collector.
    * One cancel scope for the whole loop: it would be open in the reader's code.
    * Closing in `__del__`: it runs in any thread, at any moment. It only asks the loop to have it done.

A step that the reader itself cuts (`move_on_after` around `anext`) ends a generator, as always in Python, and the next
step then looks like its end; so a second loop over what has ended is refused. `own_task=True` is what to use there.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import anyio

from ..._lifetime.backend import pass_on_cancellation, refuses_misnesting, running_task, soon_caller
from ..._lifetime.cleanup import CleanUp, run_clean_up
from ..._lifetime.place import Place, is_inside, keeper_under, stand_in
from ..._lifetime.start import Start
from ..._lifetime.watching import WATCHERS, tell
from ..._vocabulary.errors import CloseTimeout, ScopeCancelled, StreamClosed, StreamTimeout
from .line import Line, Recipe, begun
from .stepping import CUT, HoldsScopeError, holds_scope, step_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..._lifetime.owner import Owner

T = TypeVar("T")

State: TypeAlias = Literal["new", "open", "closing", "closed"]


class StreamPlace(Place):
    """Where the code of a stream runs in a task of the scope: the scope ends that, and does not wait for it."""

    @property
    def is_kept(self) -> bool:
        """The closing scope does not wait for what is done in it."""
        return True

    @property
    def is_sheltered(self) -> bool:
        """It is cancelled along with its scope."""
        return False


class Reading(Generic[T]):
    """A stream in the hands of its scope.

    Args:
        owner: The scope's owner.
        recipe: What to read.

    Attributes:
        recipe: What is read, or was. Written by `extend`.
        index: Its number in the scope.
        state: How far it is.
        handle: Gives the stream object that reads it, weakly; it writes this.
        is_block: Whether an `async with` will close it, in the reader's task. Written by the handle.
        _line: What was made from the recipe; `None` until the first step.
        _last: The last iterator of it.
        _reader: The native task that takes the steps.
        _maker: The one that made the stream.
        _is_guarded: Whether steps of that reader are guarded. Written by `_welcome`.
        _has_stepped: Whether the first step has been taken.
        _step: The scope of the step under way, if it is guarded.
        _is_stepping: Whether a step is under way that is not taken directly.
        _is_left: Whether to close as soon as the step that is under way is over.
        _why: What each further step raises.
        _enclosing: A scope that could not be left, see `stepping`; it is, when the source has been closed.
        _spawned: Whether a task was started to close it; `_has_begun` whether that has begun.
        _closed: Set when it is closed; made by who waits for that.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_enclosing",
        "_has_begun",
        "_has_stepped",
        "_is_guarded",
        "_is_left",
        "_is_stepping",
        "_last",
        "_line",
        "_maker",
        "_reader",
        "_run_soon",
        "_spawned",
        "_step",
        "_unlisten",
        "_why",
        "handle",
        "index",
        "is_block",
        "owner",
        "recipe",
        "state",
    )

    def __init__(self, owner: Owner, recipe: Recipe) -> None:
        self.owner: Owner = owner
        self.recipe: Recipe = recipe
        self.index: int = owner.next_index()
        self.state: State = "new"
        self.handle: Callable[[], Any] = _nobody
        self.is_block = False
        self._line: Line | None = None
        self._last: AsyncIterator[T] | None = None
        self._reader: object = None
        self._maker: object = running_task()
        self._is_guarded = False
        self._has_stepped = False
        self._step: anyio.CancelScope | None = None
        self._is_stepping = False
        self._is_left = False
        self._why: Exception | None = None
        self._enclosing: anyio.CancelScope | None = None
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

    # ------------------------------------------------------------------ operators

    def extend(self, change: Callable[[Recipe], Recipe]) -> None:
        """Go on with a changed recipe; what was read so far stays read.

        Raises:
            StreamClosed: It is closed.
            BusyResourceError: Somebody reads it right now.
        """
        self.recipe = change(self.surrender())

    def surrender(self) -> Recipe:
        """The recipe of all that is left to be read, which is no longer the affair of this line."""
        if self.state not in ("new", "open"):
            raise self._why or self._closed_error("it is closed")
        line, last = self._line, self._last
        if line is None or last is None:
            return self.recipe
        if self._is_stepping or line.is_running:
            raise anyio.BusyResourceError("reading")
        self._line = self._last = None
        self._has_stepped = False
        return begun(self.recipe, line, last)

    def give_up(self) -> Recipe:
        """As `surrender`; another reading closes it from now on."""
        recipe = self.surrender()
        self._forget()
        self._why = self._closed_error("it is part of another stream now")
        return recipe

    # ------------------------------------------------------------------ steps

    def begin_loop(self) -> None:
        """A loop over it begins.

        Raises:
            StreamClosed: It has been read to its end.
        """
        line = self._line
        if line is None or self._why is not None or line.is_running:
            return
        if line.has_ended and hasattr(self._last, "ag_frame"):  # of others Python cannot tell
            raise self._closed_error("it has been read to its end")

    async def step(self) -> T:
        """The next item.

        Raises:
            StopAsyncIteration: The source has ended.
            StreamClosed: It is closed, or was closed during the step.
            ScopeCancelled: The scope was cancelled, and the reader is none of its tasks.
            BusyResourceError: Another task waits for an item.
            Exception: What the source, or an operator, raised.
        """
        if self._is_stepping:
            raise anyio.BusyResourceError("reading")
        task = running_task()
        if task is not self._reader:
            self._welcome(task)
        if self._why is not None:
            await self._refuse(self._why)
        self._is_stepping = True
        try:
            item = await self._take()
        except (StreamTimeout, StreamClosed, ScopeCancelled) as error:
            if self._why is None and not self.recipe.survives:
                self._why = error  # a generator among the stages would end now, as if the source had
            raise
        finally:
            self._is_stepping = False
            if self._is_left:
                self._leave()
        self._go_direct()
        return item

    async def _refuse(self, why: Exception) -> None:
        """Raise why nothing can be read; the cancellation of the reader itself goes first."""
        if self._is_left:
            self._leave()
        if isinstance(why, ScopeCancelled):
            await pass_on_cancellation()
            if self.state in ("new", "open") and not self._is_guarded:
                return  # it is shielded from the cancellation
        try:
            raise why.with_traceback(None)
        finally:
            del why

    def _welcome(self, task: object) -> None:
        self._reader = task
        is_own = task is self._maker and is_inside(self.owner) and keeper_under(self.owner) is None
        self._is_guarded = not is_own

    def _go_direct(self) -> None:
        """From now on the handle takes its steps from the last iterator itself, where that will do."""
        if self._has_stepped or self._is_guarded or self._why is not None:
            return
        self._has_stepped = True
        handle = self.handle()
        if handle is not None and self._last is not None and not self.recipe.is_timed:
            handle.go(self._last.__anext__)

    async def _take(self) -> T:
        last = self._last
        if last is None:
            last = self._make()
        needs_look = not self._has_stepped and not self.recipe.survives and (not self.is_block or refuses_misnesting())
        if not (self._is_guarded or needs_look):
            return await last.__anext__()
        self._step = scope = anyio.CancelScope()
        try:
            item = await step_within(scope, last.__anext__)
        except HoldsScopeError as held:
            return await self._holds_scope(held)
        finally:
            self._step = None
        if item is not CUT:
            return item
        assert self._why is not None
        self._is_left = True
        await self._refuse(self._why)
        raise AssertionError("a guarded step that was cut is refused")

    def _make(self) -> AsyncIterator[T]:
        self.state = "open"
        self._line = line = Line(self.owner, self.full_label)
        self._last = last = self.recipe.make(line)
        return last

    async def _holds_scope(self, held: HoldsScopeError) -> T:
        """The source keeps a scope open: only a block can read it, for only that closes it in this very task."""
        if self.is_block and not self._is_guarded:
            self._enclosing = held.scope
            item: T = held.item
            return item
        assert self._line is not None
        self._why = self._closed_error("it was refused, and closed")
        try:
            await self._line.aclose()
        finally:
            held.leave()
            self._forget()
        raise holds_scope(self.owner.path, self.label)

    # ------------------------------------------------------------------ interruptions

    def _scope_was_cancelled(self, reason: object) -> None:
        self._why = self._why or ScopeCancelled(path=self.owner.path, action=f"stream {self.label}", reason=reason)
        self._interrupt()

    def _interrupt(self) -> None:
        """Cut a guarded step, and have a direct reader ask here before the next one."""
        if self._step is not None and self._is_guarded:
            self._step.cancel()
        handle = self.handle()
        if handle is not None:
            handle.go(self.step)

    def cancel(self, reason: object = None) -> None:
        """Its scope has ended, and all who could read it there: close it, as a clean-up, or after the step under way."""
        if self.state in ("closing", "closed"):
            return
        self._why = self._why or self._closed_error("its scope has ended")
        self._interrupt()
        if self._is_stepping:
            self._is_left = True
        else:
            self._push()

    def _leave(self) -> None:
        """Have the scope close it."""
        if self.state in ("closing", "closed"):
            return
        if self.owner.phase == "closing":
            self._push()
        else:
            self._spawn()

    def _push(self) -> None:
        """Close it as a clean-up of the scope, which waits for it, bounds it, and tells what it raises."""
        self.state = "closing"
        self.owner.push(self.name, self._close_at_last, kind="stream")
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
        if self.state not in ("new", "open") or self.handle() is not handle:
            return
        if self._has_nothing_to_close() and self.owner.phase in ("open", "draining"):
            self.state = "closed"
            self._unlisten()
            self.owner.works.forget(self)
        else:
            with suppress(RuntimeError):  # the loop has ended, and with it the scope
                self._run_soon(self._close_soon)

    def _has_nothing_to_close(self) -> bool:
        if self._is_stepping or threading.get_ident() != self.owner.listeners.thread:
            return False
        if self._line is None:
            return not self.recipe.given
        return self._line.has_ended and not self._line.is_running

    def _close_soon(self) -> None:
        """Close it in a task of the scope; called by the loop."""
        if self._is_stepping or (self._line is not None and self._line.is_running):
            self._is_left = True  # `await anext(s.stream(...))`: nobody holds the handle
        else:
            self._leave()

    def _spawn(self) -> None:
        self.state = "closing"
        self._spawned = True
        context = None if self.owner.context is None else self.owner.context.copy()
        _ = self.owner.spawn(Start(self._close_in_task), f"closing stream {self.full_label}", context)

    async def _close_in_task(self) -> None:
        if self._has_begun:
            return  # taken for lost, see `abandon`
        self._has_begun = True
        owner = self.owner
        stand_in(StreamPlace(owner))
        step = CleanUp(self.index, self.name, self._close_line, (), "stream")
        end = await run_clean_up(step, path=owner.path, bound=owner.close_timeout)
        if end.error is not None:
            self.report(end.error)
        if end.fatal is not None:
            owner.end_for(end.fatal)
        self._forget()

    async def _close_line(self) -> None:
        await self._line_to_close().aclose()

    def _line_to_close(self) -> Line:
        if self._line is None:
            self._line = Line(self.owner, self.full_label)
            self._line.links.extend(self.recipe.given)
        return self._line

    async def aclose(self) -> None:
        """Close it in this task, or wait for whoever does."""
        if self.state == "closed":
            return
        self._why = self._why or self._closed_error("it was closed")
        self._interrupt()
        if self.state == "closing" or self._is_read_elsewhere():
            self._is_left = True
            await self._until_closed()
            return
        self.state = "closing"
        try:
            await self._close_here()
        finally:
            self._forget()

    def _is_read_elsewhere(self) -> bool:
        if self._is_stepping:
            return True
        return self._line is not None and self._line.is_running and self._reader is not running_task()

    async def _until_closed(self) -> None:
        if self._closed is None:
            self._closed = anyio.Event()
        await self._closed.wait()

    async def _close_here(self) -> None:
        """Close it in the reader's task; shielded and bounded where that is being cancelled.

        Where it is not, no scope of ours is around it: the source may hold one of its own.
        """
        line, scope = self._line_to_close(), self._enclosing
        if anyio.current_effective_deadline() != -math.inf:
            try:
                await line.aclose()
            finally:
                if scope is not None:
                    scope.__exit__(None, None, None)
            return
        bound = self.owner.close_timeout
        if scope is None:
            scope = anyio.CancelScope().__enter__()
        scope.shield = True
        scope.deadline = math.inf if bound is None else anyio.current_time() + bound
        try:
            await line.aclose()
        except BaseException as error:
            if not scope.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            scope.__exit__(None, None, None)
        if scope.cancelled_caught:
            assert bound is not None
            self.report(CloseTimeout(path=self.owner.path, step=f"stream {self.label}", limit=bound))

    def report(self, error: Exception) -> None:
        """An error that leaves the scope at its end."""
        self.owner.report(error, self.owner.next_index(), f"in stream {self.full_label}")

    def _forget(self) -> None:
        """It is closed."""
        self._part()
        self._finish()

    def _part(self) -> None:
        """It is no daemon of the scope any more."""
        self._unlisten()
        self.owner.works.part(self)

    def _finish(self) -> None:
        self.state = "closed"
        self._last = None
        if self._closed is not None:
            self._closed.set()

    def _closed_error(self, problem: str) -> StreamClosed:
        return StreamClosed(stream=self.full_label, problem=problem)


def _nobody() -> None:
    """There is no handle."""
