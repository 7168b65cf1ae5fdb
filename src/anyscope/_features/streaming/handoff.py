"""Items that are made in tasks of the scope and taken by whoever reads.

The task holds the source from its first step to its end, so the source may hold scopes across its yields. Between the
two lies a bounded deque; either side waits only where it has to, on an event that the other one sets. So a reader that
is cut off loses nothing: what was made for it lies in the deque for the next one.

A memory stream of AnyIO would do the same for ten times as much per item (a checkpoint and a record of each wait), and
its end looks like that of the source when the producer fails. Here an error lies behind the items that came before it,
and a task that failed does not take the scope along: its error is the reader's; if nobody reads on, it is the scope's.

Invariants
    * The task is a daemon of the scope: ended with it, never waited for. It is cancelled by us alone, behind a shield:
      where AnyIO too cancels what a scope of ours has cancelled, it takes one cancellation too many back from the task
      that runs the scope, which may be a native one.
    * What it reads from is closed in that very task, shielded and bounded, by a scope that was entered before the first
      step and is left after the last.
    * It asks for no more than `most` items ahead of the reader; with none, for one when somebody waits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import anyio

from ..._lifetime.backend import pass_on_cancellation
from ..._lifetime.cleanup import shield_closing
from ..._lifetime.ending import QUIET, sort_out
from ..._lifetime.place import stand_in
from ..._lifetime.start import start_apart
from ..._vocabulary.errors import CloseTimeout, ScopeCancelled
from ..._vocabulary.results import Err
from .line import Link
from .place import StreamPlace

if TYPE_CHECKING:
    from ..._lifetime.ending import BodyEnd
    from ..._lifetime.owner import Owner
    from .line import Line

T = TypeVar("T")


class Handoff(Link, AsyncIterator[T]):
    """What a task makes, as an iterator; what the task does is up to the subclass.

    Args:
        line: The line that this is a link of.
        what: What the task is called.
        most: How many items may lie here before the task waits.

    Attributes:
        ready: Items that wait for the reader. Written by `put` and by the reader.
        line: What the task reads from; it closes that.
        has_ended: Whether the task has, and all that it made has been taken.
        consumed: How many items have been taken.
        _state: `new`, `running` or `over`, of the task.
        _has_begun: Whether the backend has begun it.
        is_ending: Whether it was told to end, by whomever; asked for each item, which is dear with a scope of AnyIO.
        _is_unwanted: Whether it was told so by `cancel`.
        _failure: Why it ended.
        _is_told: Whether somebody was given that.
        _is_left: Whether who closed it could not wait for it to end.
        _waiting: How many readers wait.
        _stopped: What a reader that waits is given instead of an item. Written by `interrupt`.
        _news: Set when something is ready, or the end is; made by who waits for that.
        _room: Set when the task may go on.
        _gone: Set when the task is over; made by `aclose`.
        _whole: Around all that the task does, to end it.
        _unlisten: Ends that it hears of the scope's cancellation. Written by `_start`.
        _shield: Within that: shields the closing of what it reads from.
    """

    __slots__ = (
        "_event",
        "_failure",
        "_gone",
        "_has_begun",
        "_is_left",
        "_is_told",
        "_is_unwanted",
        "_news",
        "_room",
        "_shield",
        "_state",
        "_stopped",
        "_unlisten",
        "_waiting",
        "_whole",
        "consumed",
        "is_ending",
        "line",
        "most",
        "owner",
        "ready",
        "what",
    )

    def __init__(self, line: Line, what: str, most: int) -> None:
        self.owner: Owner = line.owner
        self.what: str = what
        self.line: Line = line.part()
        self.most: int = most
        self.ready: deque[T] = deque()
        self.consumed = 0
        self._state = "new"
        self.is_ending = False
        self._has_begun = self._is_unwanted = self._is_told = self._is_left = False
        self._failure: Err[Exception] | None = None
        self._waiting = 0
        self._stopped: Exception | None = None
        self._event: type[anyio.Event] = type(anyio.Event())  # of the backend: made in a third of the time
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._gone: anyio.Event | None = None
        self._whole = anyio.CancelScope(shield=True)
        self._shield = anyio.CancelScope()

    # ------------------------------------------------------------------ the reader

    async def __anext__(self) -> T:
        while not self.ready:
            await self.until_news_or_end()
        return self.take()

    async def until_news_or_end(self) -> None:
        """Wait for something new.

        Raises:
            StopAsyncIteration: There will be nothing, for the source has ended.
            Exception: The task has failed.
        """
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)
        if self._state == "over":
            await self._end()
        if self._state == "new":
            self._start()
        await self._until_news()

    def take(self) -> T:
        """The next of those that are ready."""
        self.consumed += 1
        item = self.ready.popleft()
        self.make_room()
        return item

    async def until_ready(self, deadline: float) -> bool:
        """Wait for one more until `deadline`; whether there is one."""
        if not self.ready and self._state == "running":
            with anyio.CancelScope(deadline=deadline):
                while not self.ready and self._state == "running":
                    await self._until_news()
        return bool(self.ready)

    async def until_news(self, deadline: float) -> None:
        """Wait for something new, or for `deadline`."""
        with anyio.CancelScope(deadline=deadline):
            await self._until_news()

    async def _end(self) -> None:
        """Raise why there are no more items; the cancellation of the reader itself goes first."""
        if self._failure is None:
            raise StopAsyncIteration
        if isinstance(self._failure.error, ScopeCancelled):
            await pass_on_cancellation()
        self._is_told = True
        self._failure.unwrap()

    async def _until_news(self) -> None:
        self._waiting += 1
        self.make_room()
        if self._news is None:
            self._news = self._event()
        try:
            await self._news.wait()
        finally:
            self._waiting -= 1
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)

    @property
    def is_over(self) -> bool:
        """Whether the task has ended; what it made may lie here still."""
        return self._state == "over"

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be closed, told or taken."""
        return self._state == "over" and not self.ready and (self._failure is None or self._is_told)

    @property
    def is_running(self) -> bool:
        """Whether a reader waits for an item."""
        return self._waiting > 0

    def interrupt(self, why: Exception) -> None:
        """Give that to a reader who waits."""
        self._stopped = why
        self.tell()

    # ------------------------------------------------------------------ for the task

    def put(self, item: T) -> None:
        """Give an item to the reader."""
        self.ready.append(item)
        if self._news is not None:
            self.tell()

    def tell(self) -> None:
        """There is news for whoever reads."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def make_room(self) -> None:
        """The task may look whether to go on."""
        if self._room is not None:
            self._room.set()
            self._room = None

    @property
    def is_wanted(self) -> bool:
        """Whether one more item may be asked for."""
        return len(self.ready) < self.most or (self._waiting > 0 and not self.ready)

    async def until_wanted(self) -> None:
        """Wait for room."""
        while not self.is_wanted:
            self._room = self._event()
            await self._room.wait()

    @abstractmethod
    async def work(self) -> None:
        """What the task does."""

    # ------------------------------------------------------------------ the task

    @property
    def label(self) -> str:
        """What it is called among the works of the scope."""
        return self.what

    @property
    def task_name(self) -> str:
        """What the task is called."""
        return f"{self.what} of {self.line.label}"

    @property
    def worker_name(self) -> str:
        """What further tasks are called that the task starts."""
        return f"{self.what} worker of {self.line.label}"

    def _start(self) -> None:
        self._state = "running"
        self.owner.works.join_daemon(self)
        self._unlisten = self.owner.listeners.add(self._scope_was_cancelled)
        if self.owner.cancelled:
            self._tell_to_end()
        start_apart(self.owner, self._drive, self.task_name)

    async def _drive(self) -> None:
        if self._state == "over":
            return  # taken for lost, see `abandon`
        self._has_begun = True
        place = StreamPlace(self.owner)
        stand_in(place)
        failure: Exception | None = None
        raised: BaseException | None = None
        is_closed = False
        try:
            with self._whole, self._shield:
                try:
                    await self.work()
                except Exception as error:
                    failure = error
                finally:
                    shield_closing(self._shield, self.owner.close_timeout)
                    await self.line.aclose()  # noqa: ASYNC102  shielded by a scope around it all
                    is_closed = True
        except BaseException as error:  # noqa: ASYNC103  sorted out, then told
            raised = error
        self._conclude(failure, raised, is_closed=is_closed)
        place.end()
        del failure, raised  # their tracebacks lead to this frame

    def _scope_was_cancelled(self, _: object) -> None:
        self._tell_to_end()

    def _tell_to_end(self) -> None:
        self.is_ending = True
        self._whole.cancel()

    def _conclude(self, failure: Exception | None, raised: BaseException | None, *, is_closed: bool) -> None:
        end = QUIET if raised is None else sort_out(raised)
        if end.fatal is not None:
            self.owner.end_for(end.fatal)
            self._fail(self.cut_off(end.fatal))
        errors = [failure, None if is_closed else self._unclosed(end), end.error]
        for error in errors:
            if error is not None:
                self._fail(error)
        if self._failure is None and not self._is_unwanted and (end.cut is not None or self._whole.cancelled_caught):
            cancellation = self.owner.explain_cut()
            self._fail(self.cut_off("cancelled natively" if cancellation is None else cancellation.reason))
        self._finish()

    def _unclosed(self, end: BodyEnd) -> Exception | None:
        """Why the closing was cut short, if it was: it overran, or the task was cancelled natively."""
        bound, path = self.owner.close_timeout, self.owner.path
        # Not `cancelled_caught`: on asyncio it is false where the task was cancelled after it had begun.
        if bound is not None and self._shield.cancel_called:
            return CloseTimeout(path=path, step=self.task_name, limit=bound)
        if end.cut is None or anyio.current_effective_deadline() == -math.inf:
            return None  # a source's own scopes may let that of an outer one through
        action = f"closing {self.task_name}"
        return ScopeCancelled(path=path, action=action, reason="cancelled natively")

    def _fail(self, error: Exception) -> None:
        """The first error goes to the reader, others leave the scope."""
        if self._failure is None:
            self._failure = Err(error)
        else:
            self.report(error)

    def cut_off(self, reason: object) -> ScopeCancelled:
        """The error for a reader, when the task was cancelled by somebody else."""
        self._is_told = True  # whose cancellation it is tells that
        return ScopeCancelled(path=self.owner.path, action=self.task_name, reason=reason)

    def _tell_scope(self) -> None:
        """Give the scope the error of a task that has ended, if nobody is left who could be given it."""
        if self._is_left and self._state == "over" and self._failure is not None and not self._is_told:
            self._is_told = True
            self.report(self._failure.error)

    def report(self, error: Exception) -> None:
        """An error that leaves the scope at its end."""
        self.owner.report(error, self.owner.next_index(), f"in {self.task_name}")

    def _finish(self) -> None:
        self._state = "over"
        self._tell_scope()
        self._unlisten()
        self.owner.works.part(self)
        self.tell()
        if self._gone is not None:
            self._gone.set()

    # ------------------------------------------------------------------ ending it

    def cancel(self, reason: object = None) -> None:
        """End the task."""
        self._is_unwanted = True
        self._tell_to_end()

    @property
    def is_unborn(self) -> bool:
        """Whether the task was given to the backend and has not begun."""
        return self._state == "running" and not self._has_begun

    def abandon(self) -> None:
        """The backend has dropped the task; what it was to read from is closed with the stream."""
        self._failure = Err(self.cut_off("cancelled natively"))
        self._finish()

    async def aclose(self) -> None:
        """End the task, wait for that, and raise its error if nobody was given that."""
        if self._state == "running":
            self.cancel()
            self._gone = self._gone or self._event()
            try:
                await self._gone.wait()
            except BaseException:
                self._is_left = True  # cancelled natively, once more
                self._tell_scope()
                raise
        self._state = "over"
        if not self._has_begun:
            await self.line.aclose()
        if self._failure is not None and not self._is_told:
            self._is_told = True
            self._failure.unwrap()
