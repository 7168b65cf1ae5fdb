"""At most n tasks of a scope at once; the others wait in order of arrival.

There is no semaphore. A task that may not run yet has not been started at all: it waits in a queue as
a plain object, and whoever gives a slot back starts the next one. Nothing can be lost between waking and
running, and 100,000 queued tasks are 100,000 small objects instead of as many suspended tasks.

Lending. A task that waits for a queued task of its own scope would wait for ever when it holds the last
slot. It lends its slot instead: the awaited task starts in it at once, and gives it back when it ends,
before the lender goes on. So at most n tasks are running, not counting those that have lent their slot.

    A awaits B (queued):  A -slot-> B      B awaits C (queued):  B -slot-> C
    C ends:               C -slot-> B      B ends:               B -slot-> A

A lender that is cancelled does not wait for its slot: its clean-up runs beside the borrower, for as long
as that takes. The alternative, a cancellation that waits for somebody else's work, is worse.

A task that a factory of a service starts while it builds takes no slot: whoever waits for the service may hold
the last one.

Invariant: `len(holders) <= limit`, and while a task is queued, `len(holders) == limit`.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Runnable(Protocol):
    """What can wait for a slot and be started in it."""

    def begin(self) -> None:
        """Start it now."""
        ...


R = TypeVar("R", bound=Runnable)


class Slots(Generic[R]):
    """The slots of one scope.

    Args:
        limit: How many may run at once.

    Attributes:
        _holders: Who runs in a slot. Written by `_grant`, `lend` and `end`.
        _queue: Who waits, in order of arrival; a dict because the middle of it leaves too.
        _wishes: For whom a task waits that could lend it its slot; several, where the task has jobs
            that wait on its behalf. Written by `lend` and `stop_lending`.
        _lenders: Borrower to lender, as long as the borrower runs and the lender waits for it.
    """

    __slots__ = ("_holders", "_lenders", "_queue", "_wishes", "limit")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._holders: set[R] = set()
        self._queue: dict[R, None] = {}
        self._wishes: dict[R, list[R]] = {}
        self._lenders: dict[R, R] = {}

    @property
    def queued(self) -> tuple[R, ...]:
        """Who waits, in order of arrival."""
        return tuple(self._queue)

    def admit(self, task: R) -> None:
        """Start `task` if a slot is free, else queue it."""
        if len(self._holders) < self.limit:
            self._grant(task)
        else:
            self._queue[task] = None

    def lend(self, lender: R, borrower: R) -> None:
        """`lender` waits for `borrower` from now on: if that one is queued, it starts in its slot."""
        self._wishes.setdefault(lender, []).append(borrower)
        self._fulfil(lender)

    def stop_lending(self, lender: R, borrower: R) -> None:
        """`lender` waits no longer; a slot still out goes to the queue when `borrower` ends."""
        wishes = self._wishes[lender]
        wishes.remove(borrower)
        if not wishes:
            del self._wishes[lender]
        if self._lenders.get(borrower) is lender:
            del self._lenders[borrower]

    def end(self, task: R) -> None:
        """`task` has ended: its slot goes to its lender, else to the first in the queue."""
        if task not in self._holders:
            self._queue.pop(task, None)  # cancelled in the queue, or while its slot was lent
            return
        self._holders.remove(task)
        lender = self._lenders.pop(task, None)
        if lender is not None:
            self._holders.add(lender)
            self._fulfil(lender)
        elif self._queue:
            self._start(next(iter(self._queue)))

    def _fulfil(self, lender: R) -> None:
        """Let the slot of `lender` work for the first queued task that it waits for."""
        if lender not in self._holders:
            return
        for borrower in self._wishes.get(lender, ()):
            if borrower in self._queue:
                self._holders.remove(lender)
                self._lenders[borrower] = lender
                self._start(borrower)
                return

    def _start(self, task: R) -> None:
        del self._queue[task]
        self._grant(task)

    def _grant(self, task: R) -> None:
        self._holders.add(task)
        task.begin()
