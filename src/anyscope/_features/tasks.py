"""The tasks of one scope together: their slots, their counts, and the errors that nobody has looked at.

An error must not vanish. When a task fails, its error is kept until the handle is awaited or asked; what is
still kept when the scope ends leaves it in a group. The first thousand are kept, of the others only the
number: a scope may live for months.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lifetime.ending import Report
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.results import Ok
from .slots import Slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._lifetime.owner import Owner
    from .._vocabulary.results import Result
    from .task import Task

KEPT = 1000
"""How many unobserved errors a scope keeps; of the others it keeps the number."""


class Tasks:
    """The tasks of one scope.

    Args:
        owner: Who owns them.
        limit: How many may run at once, `None` for any number.

    Attributes:
        slots: The slots, if there is a limit.
        succeeded: How many have ended well. This and the next two are written by `ended` alone.
        failed: How many have ended with an error.
        cancelled: How many were cancelled.
        _unobserved: The failed tasks that nobody has looked at, by index; at most `KEPT`.
        _beyond: The indexes of more of them, whose errors are kept by nobody but their handles.
    """

    __slots__ = ("_beyond", "_unobserved", "cancelled", "failed", "owner", "slots", "succeeded")

    def __init__(self, owner: Owner, limit: int | None) -> None:
        self.owner: Owner = owner
        self.slots: Slots[Task[Any]] | None = None if limit is None else Slots(limit)
        self.succeeded: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self._unobserved: dict[int, Task[Any]] = {}
        self._beyond: set[int] = set()
        owner.collectors.append(self)
        if self.slots is not None:
            owner.listeners.add(self._cancel_queued)

    def count(self, error: BaseException | None) -> bool:
        """Count the end of some work; true for a failure."""
        if error is None:
            self.succeeded += 1
        elif isinstance(error, TaskCancelled):
            self.cancelled += 1
        else:
            self.failed += 1
            return True
        return False

    def ended(self, task: Task[Any], result: Result[Any]) -> None:
        """Count `task`, and keep its error until somebody looks at it."""
        if isinstance(result, Ok):
            self.succeeded += 1
            return
        error = result.error
        if not self.count(error):
            return
        if task.kind != "task":
            self.owner.crash(error, task.index, self._note(task))
        elif len(self._unobserved) < KEPT:
            self._unobserved[task.index] = task
        else:
            self._beyond.add(task.index)

    def observed(self, task: Task[Any]) -> None:
        """Somebody looks at the error of `task`: it will not leave the scope by itself any more."""
        self._unobserved.pop(task.index, None)
        self._beyond.discard(task.index)

    @property
    def unobserved(self) -> int:
        """How many errors nobody has looked at."""
        return len(self._unobserved) + len(self._beyond)

    def peek(self) -> Exception | None:
        """The first error that nobody has looked at."""
        first = next(iter(self._unobserved.values()), None)
        return None if first is None else first.peek()

    def reports(self) -> Iterator[Report]:
        """The errors that nobody has looked at; they are kept no longer."""
        self.owner.dropped += len(self._beyond)
        for index, task in self._unobserved.items():
            error = task.peek()
            assert error is not None
            yield Report((0, index), error, self._note(task))
        self._unobserved.clear()

    def _note(self, task: Task[Any]) -> str:
        return f"in task {task.label} of {self.owner.path}"

    def _cancel_queued(self, reason: object) -> None:
        assert self.slots is not None
        for task in self.slots.queued:
            self.owner.explain_cut()
            task.cancel(reason)
