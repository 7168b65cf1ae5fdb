"""`map` with several calls at once: a few long-lived workers, in one task group, in one task of the scope.

A task per item costs 10 to 60 microseconds before any work is done, a worker that takes the next item about one. The
workers share the source: one of them, the *leader*, waits for an item, and before it works on it lets another one lead.
So the source is read by one at a time, no wake-up is spent where items are there already, and a slow source keeps one
worker waiting and the others out of the way.

Read ahead: at most `2 * limit` items are taken from the source and not yet by the reader, being worked on or done. With
only `limit` of them each worker would have to wait for the reader after each item.

The first error ends it: no further item is taken, what runs is cancelled and waited for, and the error comes after the
results before it. Where results are given in order, those calls go on that belong before the failed one: the reader
sees what a plain loop would have shown it. Errors of other calls at that moment are notes on the first.

No call sees the context variables of the one before it. It runs in the worker's own context, and the first one that
leaves a variable set there ends the worker; from then on each call runs step by step in a copy of the context, see
`_lifetime/isolation.py`.

Invariants
    * At most `limit` calls run, and nobody but the leader is in the source.
    * While something is wanted, somebody leads, or `limit` workers are in a call: whoever goes into one leaves an idle
      worker behind, or hires one. A worker that is woken to lead does so: it leaves only with all the others, at the
      end, after an error, or cancelled (natively too: that ends the group); or alone, where a call has set something in
      its context, when another one is hired in its place.
"""

from __future__ import annotations

import math
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..._lifetime.ending import sort_out
from ..._lifetime.isolation import CAN_LOOK, stepped, variables
from ..._vocabulary.options import is_coroutine, name_of
from .stepping import HoldsScopeError, holds_scope, step_within
from .team import Team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .line import Line, Make

U = TypeVar("U")

AT_ONCE = 32
"""How many items in a row a worker does without waiting before it lets others run."""


class Mapping(Team[U]):
    """Calls a function with each item, several at once.

    Args:
        line: The line that this is a link of.
        make: Makes what it reads from.
        fn: The function.
        limit: How many calls at once.
        ordered: Whether results come in the order of the items, or as they are ready.

    Attributes:
        _taken: How many items have been taken from the source.
        _delivered: How many of them have a result.
        _leader: The worker that waits for an item.
        _is_exhausted: Whether no further item is to be taken.
        _idle: The workers that wait to lead, the one that will be next at the end.
        _size: How many workers there are.
        _busy: Those that work on an item, by its number.
        _held: Results that wait for those before them.
        _next: The number of the next one to be given.
        _steps: The context in which the source takes its steps, whoever leads, if it has set something: no call sees
            that, and it may set it back. Written by the leader.
        _is_stepping: Whether each call runs in a copy of the context. Written by the first worker in whose own one
            something was set.
    """

    __slots__ = (
        "_ahead",
        "_busy",
        "_delivered",
        "_fn",
        "_held",
        "_idle",
        "_is_exhausted",
        "_is_stepping",
        "_leader",
        "_limit",
        "_next",
        "_ordered",
        "_size",
        "_source",
        "_steps",
        "_taken",
    )

    def __init__(self, line: Line, make: Make, fn: Callable[[Any], Any], limit: int, *, ordered: bool) -> None:
        super().__init__(line, f"map({name_of(fn)})", 0, "call")
        self._source: AsyncIterator[Any] = make(self.line)
        self._fn = fn
        self._limit = limit
        self._ahead = 2 * limit  # how many items may be taken before their results have been read
        self._ordered = ordered
        self._taken = self._delivered = 0
        self._leader: Worker | None = None
        self._is_exhausted = False
        self._idle: deque[anyio.Event] = deque()
        self._size = 0
        self._busy: dict[int, Worker] = {}
        self._held: dict[int, U] = {}
        self._next = 0
        self._is_stepping = not CAN_LOOK
        self._steps: Context | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether one more item may be taken."""
        return not self._is_exhausted and self._taken - self.consumed < self._ahead

    @property
    def is_complete(self) -> bool:
        """Whether the source has ended, and each of its items has a result."""
        return self._is_exhausted and self._delivered == self._taken

    def make_room(self) -> None:
        """The reader has taken something: somebody may lead again."""
        if self._idle and self._can_lead:
            self._idle.pop().set()

    # ------------------------------------------------------------------ the workers

    def begin(self) -> None:
        """Start the first worker."""
        self._hire()

    def _hire(self) -> None:
        self._size += 1
        worker = Worker()
        worker.handle = self.start(lambda: self._work(worker))

    def _replace(self, worker: Worker) -> None:
        """Hire one for a worker that has to leave, since a call has set something in its context."""
        self._is_stepping = True
        self._size -= 1
        worker.pristine.run(self._hire)

    async def _work(self, worker: Worker) -> None:
        worker.begin()
        in_a_row = 0
        try:
            while (self._can_lead or await self._may_lead()) and await self._do_next(worker):
                in_a_row += 1
                if in_a_row == AT_ONCE:
                    in_a_row = 0
                    await checkpoint()
        finally:
            worker.handle = None  # no cycle: it holds this task

    @property
    def _can_lead(self) -> bool:
        """Whether nobody else does, and one more item is wanted."""
        # `is_wanted` again, for this is asked for each item.
        return self._leader is None and not self._is_exhausted and self._taken - self.consumed < self._ahead

    async def _may_lead(self) -> bool:
        """Wait until it can; whether there may be one more item."""
        while not self._is_exhausted:
            if self._can_lead:
                return True
            turn = self._event()
            self._idle.append(turn)
            await turn.wait()
        return False

    async def _do_next(self, worker: Worker) -> bool:
        """Take an item and call the function with it; whether the worker goes on."""
        if self.is_ending:
            await checkpoint_if_cancelled()  # a call that could not be interrupted is over: the next one may not begin
        self._leader = worker
        try:
            item = await (self._source.__anext__() if self._taken and self._steps is None else self._careful_item())
        except StopAsyncIteration:
            self._stop()
            return False
        except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
            self._fail_with(self._taken, self._failure_in(raised, worker), worker)
            return False  # noqa: ASYNC104  that is one
        finally:
            self._leader = None
        if self._steps is None and variables() is not worker.imprint:
            self._steps, self._is_stepping = copy_context(), True  # only now the source has set something
        number = self._taken
        self._taken += 1
        self._busy[number] = worker
        if self._idle or self._size < self._limit:
            self._let_another_lead()
        is_stepping = self._is_stepping
        try:
            if is_stepping:
                value = await stepped(worker.pristine.copy().run, self._call(item))
            else:
                made = self._fn(item)
                value = await made if is_coroutine(made) else made
        except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
            self._fail_with(number, self._failure_in(raised, worker), worker)
            return False  # noqa: ASYNC104  that is one
        finally:
            del self._busy[number]
        self._deliver(number, value)
        if not is_stepping and variables() is not worker.imprint:
            self._replace(worker)
            return False
        return True

    async def _call(self, item: Any) -> U:
        made: Any = self._fn(item)
        value: U = await made if is_coroutine(made) else made
        return value

    async def _careful_item(self) -> Any:
        return await (self._first_item() if self._steps is None else stepped(self._steps.run, self._next_item()))

    async def _first_item(self) -> Any:
        """Look whether the source holds a scope open: it is read by several tasks in turn, so it may not.

        And whether it sets a context variable, as one does that holds a span open: then it has a context for all steps.
        """
        steps = copy_context()
        imprint = steps.run(variables)
        try:
            item = await step_within(anyio.CancelScope(), lambda: stepped(steps.run, self._next_item()))
        except HoldsScopeError as held:
            try:
                await self.line.aclose()
            finally:
                held.leave()
            raise holds_scope(self.owner.path, self.line.label) from None
        if not CAN_LOOK or steps.run(variables) is not imprint:
            self._steps = steps
        return item

    async def _next_item(self) -> Any:
        return await self._source.__anext__()

    def _let_another_lead(self) -> None:
        """One that is idle, if one more item is wanted; or else a new one, which waits until one is."""
        if not self._idle:
            self._hire()
        elif self.is_wanted:
            self._idle.pop().set()

    def _failure_in(self, raised: BaseException, worker: Worker) -> Exception:
        """The error that a call, or the source, has failed with; raises a cancellation that somebody ordered."""
        end = sort_out(raised)
        if isinstance(end.error, StopAsyncIteration):  # which would look like the end of the stream
            error = RuntimeError(f"{self.what} raised StopAsyncIteration")
            error.__cause__ = end.error
            return error
        if end.error is not None:
            return end.error
        if end.fatal is not None or worker.is_dismissed or anyio.current_effective_deadline() == -math.inf:
            raise raised
        return self.cancelled_natively()

    # ------------------------------------------------------------------ results and the end

    def _deliver(self, number: int, value: U) -> None:
        self._delivered += 1
        if not self._ordered:
            self.put(value)
            return
        held = self._held
        if number != self._next:
            held[number] = value
            return
        self.put(value)
        self._next += 1
        while held and self._next in held:
            self.put(held.pop(self._next))
            self._next += 1

    def _stop(self) -> None:
        """Take no further item."""
        self._is_exhausted = True
        while self._idle:
            self._idle.pop().set()

    def _fail_with(self, number: int, error: Exception, failed: Worker) -> None:
        """A call, or the source, has failed: what comes after it is not wanted any more."""
        self._stop()
        self.note_failure(number if self._ordered else -1, error)
        first = min(rank for rank, _ in self.failures)
        later = [worker for at, worker in self._busy.items() if at > first]
        for worker in [*later, self._leader]:
            if worker is not None and worker is not failed:
                worker.dismiss()


class Worker:
    """One worker.

    Attributes:
        handle: What cancels it; `None` when it has ended. Written when it is started, and by itself.
        is_dismissed: Whether it was cancelled because another one has failed.
        pristine: A copy of its context as it was at first. Written by `begin`.
        imprint: What held the variables of its context then. Written by `begin`.
    """

    __slots__ = ("handle", "imprint", "is_dismissed", "pristine")

    def __init__(self) -> None:
        self.handle: anyio.TaskHandle[None] | None = None
        self.is_dismissed = False

    def begin(self) -> None:
        """Remember what its context is, before any call."""
        self.pristine = copy_context()
        self.imprint = variables()

    def dismiss(self) -> None:
        """Cancel it in the middle of its work."""
        assert self.handle is not None
        self.is_dismissed = True
        self.handle.cancel()
