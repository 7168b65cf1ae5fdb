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
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..._lifetime.ending import sort_out
from ..._lifetime.place import stand_in
from ..._lifetime.start import Start
from ..._vocabulary.errors import TaskCancelled
from ..._vocabulary.notes import add_note
from ..._vocabulary.options import is_coroutine, name_of
from .closing import StreamPlace
from .handoff import Handoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import TaskGroup

    from .line import Line, Make

U = TypeVar("U")

AT_ONCE = 32
"""How many items in a row a worker does without waiting before it lets others run."""


class Mapping(Handoff[U]):
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
        _failed_at: The number of the failed item that counts.
        _first: Its error.
    """

    __slots__ = (
        "_busy",
        "_delivered",
        "_failed_at",
        "_first",
        "_fn",
        "_group",
        "_held",
        "_idle",
        "_is_exhausted",
        "_leader",
        "_limit",
        "_next",
        "_ordered",
        "_size",
        "_source",
        "_taken",
    )

    def __init__(self, line: Line, make: Make, fn: Callable[[Any], Any], limit: int, *, ordered: bool) -> None:
        super().__init__(line, f"map({name_of(fn)})", 0)
        self._source: AsyncIterator[Any] = make(self.line)
        self._fn = fn
        self._limit = limit
        self._ordered = ordered
        self._taken = self._delivered = 0
        self._leader: Worker | None = None
        self._is_exhausted = False
        self._idle: deque[anyio.Event] = deque()
        self._size = 0
        self._busy: dict[int, Worker] = {}
        self._held: dict[int, U] = {}
        self._next = 0
        self._failed_at: float = math.inf
        self._first: Exception | None = None
        self._group: TaskGroup | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether one more item may be taken."""
        return not self._is_exhausted and self._taken - self.consumed < 2 * self._limit

    def make_room(self) -> None:
        """The reader has taken something: somebody may lead again."""
        if self._idle and self._leader is None and self.is_wanted:
            self._idle.pop().set()

    # ------------------------------------------------------------------ the workers

    async def work(self) -> None:
        """Until the source has ended, or a call has failed."""
        async with anyio.create_task_group() as group:
            self._group = group
            self._hire()
        if self._first is not None:
            try:
                raise self._first
            finally:
                self._first = None  # no cycle through its frames
        if not self._is_exhausted or self._delivered < self._taken:
            raise self.cut_off("a worker was cancelled natively before it began")

    def _hire(self) -> None:
        assert self._group is not None
        self._size += 1
        worker = Worker()
        worker.handle = self._group.create_task(Start(lambda: self._work(worker)), name=self.worker_name)

    async def _work(self, worker: Worker) -> None:
        stand_in(StreamPlace(self.owner))
        in_a_row = 0
        while await self._may_lead():
            self._leader = worker
            try:
                item = await self._source.__anext__()
            except StopAsyncIteration:
                self._stop()
                return
            except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
                self._fail_with(self._taken, self._failure_in(raised))
                return  # noqa: ASYNC104  that is one
            finally:
                self._leader = None
            number = self._taken
            self._taken += 1
            self._let_another_lead()
            self._busy[number] = worker
            if not await self._do(number, item):
                return
            in_a_row += 1
            if in_a_row == AT_ONCE:
                in_a_row = 0
                await checkpoint()

    async def _may_lead(self) -> bool:
        """Wait until nobody else does and one more item is wanted; whether there may be one."""
        while not self._is_exhausted:
            if self._leader is None and self.is_wanted:
                return True
            turn = self._event()
            self._idle.append(turn)
            try:
                await turn.wait()
            finally:
                if not turn.is_set():
                    self._idle.remove(turn)
        return False

    def _let_another_lead(self) -> None:
        if not self.is_wanted:
            return
        if self._idle:
            self._idle.pop().set()
        elif self._size < self._limit:
            self._hire()

    async def _do(self, number: int, item: Any) -> bool:
        """Call the function with one item; whether the worker goes on."""
        try:
            made = self._fn(item)
            value: Any = await made if is_coroutine(made) else made
        except BaseException as raised:  # noqa: ASYNC103  raised unless it is a failure
            del self._busy[number]
            self._fail_with(number, self._failure_in(raised))
            return False  # noqa: ASYNC104  that is one
        del self._busy[number]
        self._deliver(number, value)
        return True

    def _failure_in(self, raised: BaseException) -> Exception:
        """The error that a call, or the source, has failed with; raises a cancellation that somebody ordered."""
        end = sort_out(raised)
        if end.error is not None:
            return end.error
        if end.fatal is not None or self._is_exhausted or anyio.current_effective_deadline() == -math.inf:
            raise raised
        return TaskCancelled(task=f"{self.what} of {self.line.label}", reason="cancelled natively")

    # ------------------------------------------------------------------ results and the end

    def _deliver(self, number: int, value: U) -> None:
        self._delivered += 1
        if not self._ordered:
            self.put(value)
            return
        self._held[number] = value
        while self._next in self._held:
            self.put(self._held.pop(self._next))
            self._next += 1

    def _stop(self) -> None:
        """Take no further item."""
        self._is_exhausted = True
        while self._idle:
            self._idle.pop().set()

    def _fail_with(self, number: int, error: Exception) -> None:
        """A call, or the source, has failed."""
        self._stop()
        if self._first is None or (self._ordered and number < self._failed_at):
            self._first, other = error, self._first
            self._failed_at = number
        else:
            other = error
        if other is not None:
            add_note(self._first, f"{type(other).__name__} of another call at that moment: {other}")
        later = [worker for at, worker in self._busy.items() if not self._ordered or at > self._failed_at]
        for worker in [*later, self._leader]:
            if worker is not None:
                worker.handle.cancel()


class Worker:
    """One worker.

    Attributes:
        handle: What cancels it. Written once, before it begins.
    """

    __slots__ = ("handle",)

    handle: anyio.TaskHandle[None]
