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
from ..._vocabulary.options import COROUTINE, is_coroutine, name_of
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
        _leader: The worker that waits for an item.
        _is_exhausted: Whether no further item is to be taken.
        _idle: The workers that wait to lead, the one that will be next at the end.
        _workers: Those that there are.
        _held: Results that wait for those before them.
        _next: How many have been given; where they are in order, the number of the next one.
        _steps: The context in which the source takes its steps, whoever leads, if it has set something: no call sees
            that, and it may set it back. Written by the leader.
        _is_stepping: Whether each call runs in a copy of the context. Written by the first worker in whose own one
            something was set.
    """

    __slots__ = (
        "_ahead",
        "_fn",
        "_held",
        "_idle",
        "_is_exhausted",
        "_is_stepping",
        "_leader",
        "_limit",
        "_next",
        "_ordered",
        "_source",
        "_steps",
        "_taken",
        "_workers",
    )

    def __init__(self, line: Line, make: Make, fn: Callable[[Any], Any], limit: int, *, ordered: bool) -> None:
        super().__init__(line, f"map({name_of(fn)})", 0, "call")
        self._source: AsyncIterator[Any] = make(self.line)
        self._fn = fn
        self._limit = limit
        self._ahead = 2 * limit  # how many items may be taken before their results have been read
        self._ordered = ordered
        self._taken = 0
        self._leader: Worker | None = None
        self._is_exhausted = False
        self._idle: deque[anyio.Event] = deque()
        self._workers: dict[Worker, None] = {}
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
        return self._is_exhausted and self._next == self._taken

    def make_room(self) -> None:
        """The reader has taken something: somebody may lead again."""
        if self._idle and self._can_lead:
            self._idle.pop().set()

    # ------------------------------------------------------------------ the workers

    def begin(self) -> None:
        """Start the first worker."""
        self._hire()

    def _hire(self) -> None:
        worker = Worker()
        self._workers[worker] = None
        worker.handle = self.start(lambda: self._work(worker))

    def _replace(self, worker: Worker) -> None:
        """Hire one for a worker that has to leave, since a call has set something in its context."""
        self._is_stepping = True
        del self._workers[worker]
        worker.pristine.run(self._hire)

    # Each item comes through here, and a call costs a twentieth.
    async def _work(self, worker: Worker) -> None:
        worker.begin()
        imprint, fn, in_a_row = worker.imprint, self._fn, 0
        try:
            while (
                self._leader is None and not self._is_exhausted and self._taken - self.consumed < self._ahead
            ) or await self._may_lead():
                if self.is_ending:
                    await checkpoint_if_cancelled()  # a call that could not be interrupted is over: no other begins
                self._leader = worker
                try:
                    is_plain = self._steps is None and self._taken
                    item = await (self._source.__anext__() if is_plain else self._careful_item())
                except StopAsyncIteration:
                    self._stop()
                    return
                except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
                    self._fail_with(self._taken, self._failure_in(raised, worker), worker)
                    return  # noqa: ASYNC104  that is one
                finally:
                    self._leader = None
                if self._steps is None and variables() is not imprint:
                    self._steps, self._is_stepping = copy_context(), True  # only now the source has set something
                number = worker.number = self._taken
                self._taken = number + 1
                if self._idle or len(self._workers) < self._limit:
                    self._let_another_lead()
                is_stepping = self._is_stepping
                try:
                    made: Any = self._apart(worker, item) if is_stepping else fn(item)
                    value: U = await made if type(made) is COROUTINE or is_coroutine(made) else made
                except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
                    self._fail_with(number, self._failure_in(raised, worker), worker)
                    return  # noqa: ASYNC104  that is one
                finally:
                    worker.number = -1
                self._deliver(number, value)
                del item, made, value  # it may be long until the next one
                if not is_stepping and variables() is not imprint:
                    self._replace(worker)
                    return
                in_a_row += 1
                if in_a_row == AT_ONCE:
                    in_a_row = 0
                    await checkpoint()
        finally:
            self._workers.pop(worker, None)
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

    async def _apart(self, worker: Worker, item: Any) -> U:
        """Call the function in a context of its own."""
        return await stepped(worker.pristine.copy().run, self._call(item))

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
        held = self._held
        if self._ordered and number != self._next:
            held[number] = value
            return
        self.ready.append(value)
        self._next += 1
        while held and self._next in held:
            self.ready.append(held.pop(self._next))
            self._next += 1
        if self._news is not None:
            self.tell()

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
        later = [worker for worker in self._workers if worker.number > first]
        for worker in [*later, self._leader]:
            if worker is not None and worker is not failed:
                worker.dismiss()


class Worker:
    """One worker.

    Attributes:
        handle: What cancels it; `None` when it has ended. Written when it is started, and by itself.
        is_dismissed: Whether it was cancelled because another one has failed.
        number: That of the item it works on; -1 if there is none.
        pristine: A copy of its context as it was at first. Written by `begin`.
        imprint: What held the variables of its context then. Written by `begin`.
    """

    __slots__ = ("handle", "imprint", "is_dismissed", "number", "pristine")

    def __init__(self) -> None:
        self.handle: anyio.TaskHandle[None] | None = None
        self.is_dismissed = False
        self.number = -1

    def begin(self) -> None:
        """Remember what its context is, before any call."""
        self.pristine = copy_context()
        self.imprint = variables()

    def dismiss(self) -> None:
        """Cancel it in the middle of its work."""
        assert self.handle is not None
        self.is_dismissed = True
        self.handle.cancel()
