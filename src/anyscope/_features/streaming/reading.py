"""Reading a stream: who takes the steps, and what is around them.

How a step is taken
    *directly*  in a loop of the very task that made the stream, inside the scope: the handle's `__anext__` *is* that of
        the last iterator. That costs nothing; and the backend cancels this task along with the scope, so nothing of
        ours need be around the step. It begins with the second item.
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

What the reader itself cuts (`move_on_after` around a loop or `anext`) ends a generator, as always in Python, and the
next step would look like its end; so a second loop over what has ended is refused, and so is a step after one that was
cut. `own_task=True` is what to use there.

Two things nobody is told of, for nothing of ours runs then: that a task calls `anext` on a stream which another one
reads directly, in a loop; and that it does so after its own loop was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from ..._lifetime.backend import nursery_count, pass_on_cancellation, refuses_misnesting, running_task
from ..._lifetime.place import is_inside, keeper_under
from ..._vocabulary.errors import ScopeCancelled, StreamClosed, StreamTimeout
from .closing import Held
from .line import Line, Recipe, begun, is_over
from .stepping import CUT, HoldsScopeError, holds_scope, step_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..._lifetime.owner import Owner
    from .closing import State

T = TypeVar("T")


class Reading(Held, Generic[T]):
    """A stream that is read.

    Args:
        owner: The scope's owner.
        recipe: What to read.

    Attributes:
        _last: The last iterator of the line.
        _maker: The native task that made the stream.
        _has_stepped: Whether the first step has been taken.
        _is_looped: Whether a loop has begun. Steps taken one by one are not taken directly: the reader may cut one off,
            and has to be told then that this has ended the source.
    """

    __slots__ = ("_has_stepped", "_is_looped", "_last", "_maker")

    holds_scope: bool
    is_guarded: bool
    is_inside: bool
    is_stepping: bool
    recipe: Recipe
    state: State
    why: Exception | None

    def __init__(self, owner: Owner, recipe: Recipe) -> None:
        self._last: AsyncIterator[T] | None = None
        self._maker: object = running_task()
        self._has_stepped = self._is_looped = False
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
        if self.is_busy:
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
            StreamClosed: Its source has ended.
        """
        self._is_looped = True
        if self.line is None or self.why is not None:
            return
        if self.reader is not running_task():
            self.look_again()
        if self._is_over:
            raise self.closed_error("its source has ended")

    def begin_block(self) -> None:
        """A block that will close it begins.

        Raises:
            BusyResourceError: Somebody reads it right now, and would have it closed under him.
            ScopeMisuse: It is read in the block of another task, which alone can close it.
        """
        if self.is_bound and self.reader is not running_task():
            raise holds_scope(self.owner.path, self.label)
        if self.is_busy:
            raise anyio.BusyResourceError("reading")
        self.is_block = True

    @property
    def _is_over(self) -> bool:
        """Whether the last iterator can give nothing more, as far as Python can tell."""
        return is_over(self._last)

    async def step(self) -> T:
        """The next item.

        Raises:
            StopAsyncIteration: The source has ended.
            StreamClosed: It is closed, or was closed during the step.
            ScopeCancelled: The scope was cancelled, and the reader is none of its tasks.
            BusyResourceError: Another task waits for an item.
            Exception: What the source, or an operator, raised.
        """
        if self.is_busy:
            raise anyio.BusyResourceError("reading")
        task = running_task()
        if task is not self.reader:
            self._welcome(task)
        if self.why is not None:
            await self._refuse(self.why)
        self.is_stepping = True
        try:
            item = await self._take()
        except BaseException as error:
            self._remember(error)
            raise
        finally:
            self.is_stepping = False
            if self.is_left:
                self.leave()
        self._go_direct()
        return item

    def _remember(self, error: BaseException) -> None:
        """A generator that was cut off has ended, as if the source had: further steps raise why instead."""
        if self.why is not None or self.recipe.survives:
            return
        if isinstance(error, (StreamTimeout, StreamClosed, ScopeCancelled)):
            self.why = error
        elif not isinstance(error, Exception) and self._is_over:
            self.why = self.closed_error("waiting for an item was cut off, which has ended its source")

    async def _refuse(self, why: Exception) -> None:
        """Raise why nothing can be read; the cancellation of the reader itself goes first."""
        if self.is_left:
            self.leave()
        if isinstance(why, ScopeCancelled):
            await pass_on_cancellation()
            if self.state in ("new", "open") and self.is_inside:
                return  # it is shielded from the cancellation
        try:
            raise why.with_traceback(None)
        finally:
            del why

    def _welcome(self, task: object) -> None:
        self.owner.require_own_thread("stream.__anext__")
        if self.is_bound:
            raise holds_scope(self.owner.path, self.label)
        self.reader = task
        self.is_inside = is_inside(self.owner) and keeper_under(self.owner) is None
        self.is_guarded = not (self.is_inside and task is self._maker)

    def _go_direct(self) -> None:
        """From now on a loop takes its steps from the last iterator itself, where that will do."""
        if self.is_guarded or self.why is not None:
            return
        self._has_stepped = True
        handle = self.handle()
        if handle is not None and self._last is not None and self._is_looped and not self.recipe.is_timed:
            handle.go(self._last.__anext__)

    async def _take(self) -> T:
        last = self._last
        if last is None:
            last = self._make()
        needs_look = not (self._has_stepped or self.recipe.survives or self.is_bound)
        if needs_look and self.is_block and not self.is_guarded and not refuses_misnesting():
            return await self._step_beside(last)
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

    async def _step_beside(self, last: AsyncIterator[T]) -> T:
        """Look at a first step without a scope around it: Trio would give up the one that the source holds."""
        before = nursery_count(), anyio.current_effective_deadline()  # a scope without either cannot be seen
        item = await last.__anext__()
        self.holds_scope = (nursery_count(), anyio.current_effective_deadline()) != before
        return item

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
        self.why = self.closed_error("it was refused, and closed")
        self.enclosing = held.scope
        self.holds_scope = held.scope is None
        try:
            await self._close_here()
        finally:
            self.forget()
        raise holds_scope(self.owner.path, self.label)
