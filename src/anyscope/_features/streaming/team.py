"""A hand-off whose work is done by several tasks at once, in one group.

The first error ends it: the others are cancelled and waited for, and it is raised bare, errors of others at that moment
as notes on it. That holds too when the reader has left meanwhile: the error comes out of closing then.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ..._lifetime.ending import leaves_of, sort_out
from ..._lifetime.place import stand_in
from ..._lifetime.start import Start
from ..._vocabulary.errors import TaskCancelled
from ..._vocabulary.notes import add_note
from .handoff import Handoff
from .place import StreamPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from anyio.abc import TaskGroup

    from .line import Line

T = TypeVar("T")


class Team(Handoff[T]):
    """Several tasks that make items for one reader.

    Args:
        line: The line that this is a link of.
        what: What it is called.
        most: How many items may lie here before the tasks wait.
        member: What one of the tasks is called.

    Attributes:
        failures: What has failed, the first one that counts at the lowest rank. Written by `note_failure`.
        _group: The group of the tasks, while it is open.
    """

    __slots__ = ("_group", "_member", "failures")

    def __init__(self, line: Line, what: str, most: int, member: str) -> None:
        super().__init__(line, what, most)
        self.failures: list[tuple[int, Exception]] = []
        self._group: TaskGroup | None = None
        self._member = member

    @abstractmethod
    def begin(self) -> None:
        """Start the first tasks."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether all was done that was to be done."""

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> anyio.TaskHandle[None]:
        """Start a task of the group."""
        assert self._group is not None
        return self._group.create_task(Start(lambda: self._in_place(work)), name=self.worker_name)

    async def _in_place(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        place = StreamPlace(self.owner)
        stand_in(place)
        try:
            await checkpoint_if_cancelled()  # started when the others had been cancelled already
            await work()
        finally:
            place.end()

    def stop_all(self) -> None:
        """Cancel all of them."""
        assert self._group is not None
        self._group.cancel_scope.cancel()

    async def work(self) -> None:
        """Until all of them have ended."""
        cut: BaseException | None = None
        try:
            async with anyio.create_task_group() as self._group:
                self.begin()
        except BaseException as raised:  # noqa: ASYNC103  raised below, unless an error goes first
            cut = raised
        try:
            self._raise_what_counts(cut)  # noqa: ASYNC104  see above
        finally:
            self.failures.clear()  # no cycle through their frames
            self._group = None
            del cut
        if not self.is_complete:
            raise self.cancelled_natively()  # one of them; AnyIO ends the others then

    def cancelled_natively(self) -> TaskCancelled:
        """The error for a task of it that was cancelled by somebody else."""
        return TaskCancelled(task=self.task_name, reason="cancelled natively")

    def note_failure(self, rank: int, error: Exception) -> None:
        """One has failed."""
        self.failures.append((rank, error))

    def _raise_what_counts(self, cut: BaseException | None) -> None:
        """Something fatal goes first, then errors, then a cancellation."""
        first = min(self.failures, key=lambda failure: failure[0])[1] if self.failures else None
        if first is not None:
            for _, other in self.failures:
                if other is not first:
                    add_note(first, f"{type(other).__name__} of another {self._member} at that moment: {other}")
        fatal = None if cut is None else sort_out(cut).fatal
        if fatal is not None:
            if first is not None:
                self.report(first)
            raise _unwrapped(fatal)
        try:
            if first is not None:
                raise first
            if cut is not None:
                raise cut
        finally:
            del first, cut


def _unwrapped(fatal: BaseException) -> BaseException:
    """Itself, without the group that a task group has put around it."""
    leaves = leaves_of(fatal)
    return leaves[0] if len(leaves) == 1 else fatal
