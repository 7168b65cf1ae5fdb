"""Reading a stream: who takes the steps, and what is around them.

How a step is taken
    *directly*  in the very task that made the stream, inside the scope: the handle's `__anext__` *is* that of the last
        iterator. That costs nothing; and the backend cancels this task along with the scope, so nothing of ours need
        be around the step. It begins with the second item.
    *guarded*   in any other task: a cancel scope around each single step, left before the item is returned. Through it
        the scope's cancellation and end, and `aclose()`, reach a task that is not theirs: it gets an error, no more.
    *looked at* the first step, and those of streams that must remember that they failed.

Invariants
    * No scope and no task group of ours is open while the reader runs code between two items (law 3).
    * Once closed, or interrupted, a step raises why. `StopAsyncIteration` means that the source has ended.

Rejected
    * An async generator as the wrapper: cut once, it ends as if the source had; it cannot be closed while it runs;
      `break` leaves it to the garbage collector.
    * One cancel scope for the whole loop: it would be open in the reader's code.

A step that the reader itself cuts (`move_on_after` around `anext`) ends a generator, as always in Python, and the next
step then looks like its end; so a second loop over what has ended is refused. `own_task=True` is what to use there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from ..._lifetime.backend import pass_on_cancellation, refuses_misnesting, running_task
from ..._lifetime.place import is_inside, keeper_under
from ..._vocabulary.errors import ScopeCancelled, StreamClosed, StreamTimeout
from .closing import Held
from .line import Line, Recipe, begun
from .stepping import CUT, HoldsScopeError, holds_scope, step_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..._lifetime.owner import Owner

T = TypeVar("T")


class Reading(Held, Generic[T]):
    """A stream that is read.

    Args:
        owner: The scope's owner.
        recipe: What to read.

    Attributes:
        is_block: Whether an `async with` will close it, in the reader's task. Written by the handle.
        _last: The last iterator of the line.
        _maker: The native task that made the stream.
        _has_stepped: Whether the first step has been taken.
    """

    __slots__ = ("_has_stepped", "_last", "_maker", "is_block")

    def __init__(self, owner: Owner, recipe: Recipe) -> None:
        self.is_block = False
        self._last: AsyncIterator[T] | None = None
        self._maker: object = running_task()
        self._has_stepped = False
        super().__init__(owner, recipe)

    # ------------------------------------------------------------------ operators

    def extend(self, change: Callable[[Recipe], Recipe]) -> None:
        """Go on with a changed recipe; what was read so far stays read.

        Raises:
            StreamClosed: It is closed.
            BusyResourceError: Somebody reads it right now.
        """
        self.recipe = change(self.surrender())

    def require_idle(self) -> None:
        """Refuse if it is closed, or read right now."""
        if self.state not in ("new", "open"):
            raise self.why or self.closed_error("it is closed")
        if self.is_stepping or (self.line is not None and self.line.is_running):
            raise anyio.BusyResourceError("reading")

    def surrender(self) -> Recipe:
        """The recipe of all that is left to be read, which is no longer the affair of this line."""
        self.require_idle()
        line, last = self.line, self._last
        if line is None or last is None:
            return self.recipe
        self.line = self._last = None
        self._has_stepped = False
        return begun(self.recipe, line, last)

    def give_up(self) -> Recipe:
        """As `surrender`; another reading closes it from now on."""
        recipe = self.surrender()
        self.forget()
        self.why = self.closed_error("it is part of another stream now")
        return recipe

    # ------------------------------------------------------------------ steps

    def begin_loop(self) -> None:
        """A loop over it begins.

        Raises:
            StreamClosed: It has been read to its end.
        """
        line = self.line
        if line is None or self.why is not None or line.is_running:
            return
        if line.has_ended and hasattr(self._last, "ag_frame"):  # of others Python cannot tell
            raise self.closed_error("it has been read to its end")

    async def step(self) -> T:
        """The next item.

        Raises:
            StopAsyncIteration: The source has ended.
            StreamClosed: It is closed, or was closed during the step.
            ScopeCancelled: The scope was cancelled, and the reader is none of its tasks.
            BusyResourceError: Another task waits for an item.
            Exception: What the source, or an operator, raised.
        """
        if self.is_stepping:
            raise anyio.BusyResourceError("reading")
        task = running_task()
        if task is not self.reader:
            self._welcome(task)
        if self.why is not None:
            await self._refuse(self.why)
        self.is_stepping = True
        try:
            item = await self._take()
        except (StreamTimeout, StreamClosed, ScopeCancelled) as error:
            if self.why is None and not self.recipe.survives:
                self.why = error  # a generator among the stages would end now, as if the source had
            raise
        finally:
            self.is_stepping = False
            if self.is_left:
                self.leave()
        self._go_direct()
        return item

    async def _refuse(self, why: Exception) -> None:
        """Raise why nothing can be read; the cancellation of the reader itself goes first."""
        if self.is_left:
            self.leave()
        if isinstance(why, ScopeCancelled):
            await pass_on_cancellation()
            if self.state in ("new", "open") and not self.is_guarded:
                return  # it is shielded from the cancellation
        try:
            raise why.with_traceback(None)
        finally:
            del why

    def _welcome(self, task: object) -> None:
        self.reader = task
        is_own = task is self._maker and is_inside(self.owner) and keeper_under(self.owner) is None
        self.is_guarded = not is_own

    def _go_direct(self) -> None:
        """From now on the handle takes its steps from the last iterator itself, where that will do."""
        if self._has_stepped or self.is_guarded or self.why is not None:
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
        if not (self.is_guarded or needs_look):
            return await last.__anext__()
        self.step_scope = scope = anyio.CancelScope()
        try:
            item = await step_within(scope, last.__anext__)
        except HoldsScopeError as held:
            return await self._holds_scope(held)
        finally:
            self.step_scope = None
        if item is not CUT:
            return item
        assert self.why is not None
        self.is_left = True
        await self._refuse(self.why)
        raise AssertionError("a guarded step that was cut is refused")

    def _make(self) -> AsyncIterator[T]:
        self.state = "open"
        self.line = line = Line(self.owner, self.full_label)
        self._last = last = self.recipe.begin(line)
        return last

    async def _holds_scope(self, held: HoldsScopeError) -> T:
        """The source keeps a scope open: only a block can read it, for only that closes it in this very task."""
        if self.is_block and not self.is_guarded:
            self.enclosing = held.scope
            item: T = held.item
            return item
        assert self.line is not None
        self.why = self.closed_error("it was refused, and closed")
        try:
            await self.line.aclose()
        finally:
            held.leave()
            self.forget()
        raise holds_scope(self.owner.path, self.label)
