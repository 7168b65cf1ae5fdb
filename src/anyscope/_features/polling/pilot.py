"""The one task of a poll: it waits, fetches, delivers, and asks the course what is next.

    * One task for each poll that runs, and none for one that has ended: a start begins another. A start that comes
      before the old task has left finds it still there, and leaves the new run to it.
    * It is a daemon of its scope: it does not keep the scope open, goes on while tasks are waited for, which may need
      its values, and is stopped and waited for before anything is closed. Unlike other daemons it is not shielded: when
      the scope is cancelled its fetch is cut at once, and nobody is served any more.
    * A timer exists only while it waits.
    * Whatever strikes the task, the course hears of an end, so that nobody waits in vain.

Whether a cancellation is the scope's is told by looking at the scopes around the task when it arrives. If none of them
is cancelled it was a native one, or that of a future that somebody had cancelled. While the task waits that changes
nothing, as there is nobody else to go on; to a fetch it is a failure like any other. But where the task that entered
the scope has ended without leaving it, the loop is at its end, and waits for those that it cancels: so that is obeyed.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ..._lifetime.backend import forget_native_cancellation
from ..._lifetime.ending import sort_out
from ..._lifetime.place import Place, stand_in
from ..._lifetime.start import Start
from ..._lifetime.watching import WATCHERS, tell
from ..._vocabulary.errors import TaskCancelled, because
from ..._vocabulary.options import is_coroutine, name_of
from ..._vocabulary.results import Err
from ..attempt import NATIVELY, attempt, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ..._lifetime.owner import Owner
    from ..._vocabulary.results import Result
    from .course import Course
    from .flight import Flight

T = TypeVar("T")


class Pilot(Place, Generic[T]):
    """Runs a poll.

    Args:
        owner: The scope's owner.
        course: What decides.

    Attributes:
        index: Its number in the scope, in order of creation.
        _spawned: Stands for the task that was started; `None` without one. Written by `launch` and `_leave`.
        _task: The backend's handle of that task, to cut it when the scope closes. Written likewise, for it leads back.
    """

    __slots__ = ("_owner", "_spawned", "_task", "course", "index")

    def __init__(self, owner: Owner, course: Course[T]) -> None:
        super().__init__(owner)
        self._owner = owner
        self.course: Course[T] = course
        self.index: int = owner.next_index()
        self._spawned: object = None
        self._task: anyio.TaskHandle[None] | None = None

    # ------------------------------------------------------------------ what it is

    @property
    def label(self) -> str:
        """Its name and index, such as `poll health (#3)`."""
        return f"poll {self.course.settings.name} (#{self.index})"

    @property
    def who(self) -> str:
        """How messages speak of it, such as `poll health (#3) of app`."""
        return f"{self.label} of {self.owner.path}"

    @property
    def is_kept(self) -> bool:
        """The scope ends it when it closes; what it does meanwhile is not waited for."""
        return True

    @property
    def is_sheltered(self) -> bool:
        """It is cut when its scope is cancelled."""
        return False

    @property
    def has_task(self) -> bool:
        """Whether its task has not ended."""
        return self._spawned is not None

    @property
    def is_unborn(self) -> bool:
        """Whether its task was given to the backend and has not begun."""
        return self.has_task and self.native is None

    def abandon(self) -> None:
        """End it: the backend dropped the task before its first step."""
        if self.is_unborn:
            self._leave()
            self.course.end("stopped", "its task was cancelled natively before it began")

    def cancel(self, reason: object = None) -> None:
        """Its scope closes."""
        self.course.end("stopped", self._why() if self._owner.cancelled else "its scope has ended")
        if self._task is not None:
            self._task.cancel()

    def launch(self) -> None:
        """Begin the task, unless there is one, or nothing to do."""
        if self.has_task or not self.course.is_on:
            return
        if WATCHERS:
            tell("polling", self._owner, self)
        self._spawned = spawned = object()
        self._owner.works.join_daemon(self)
        self._task = self._owner.spawn(Start(functools.partial(self._drive, spawned)), self.who)

    # ------------------------------------------------------------------ the task

    async def _drive(self, spawned: object) -> None:
        if self._spawned is not spawned:
            return  # given up as lost, see abandon
        stand_in(self)
        raised: BaseException | None = None
        try:
            await self._live()
        except BaseException as error:  # noqa: ASYNC103  sorted out below, then told
            raised = error
        self._leave()
        self._conclude(raised)
        del raised  # its traceback leads to this frame

    async def _live(self) -> None:
        course = self.course
        while course.is_on:
            await self._wait()
            if _is_cancelled():
                return  # also where the cancellation itself is late to arrive
            if course.is_due:
                await self._fly()

    async def _wait(self) -> None:
        """Wait until a poll is due or something has happened; a checkpoint in any case."""
        course = self.course
        try:
            if course.is_due:
                await checkpoint()
                return
            await course.bell.wait(course.due)
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103  see the top
            if self._is_to_end():
                raise
            forget_native_cancellation()

    def _leave(self) -> None:
        self._spawned = self._task = None
        self.end()
        self._owner.works.part(self)

    def _conclude(self, raised: BaseException | None) -> None:
        end = None if raised is None else sort_out(raised)
        if end is not None and end.fatal is not None:
            self._owner.end_for(end.fatal)
        if end is not None and end.error is not None:
            self._crash(end.error)
        if self.course.is_on:
            self.course.end("stopped", self._why())

    def _why(self) -> str:
        if self._owner.is_forsaken:
            return "its scope was never left, and the event loop ends"
        if self._owner.cancellation is None:
            self._owner.explain_cut()  # it may be the first to notice
        return f"its scope was cancelled{because(self._owner.cancel_reason)}"

    def _crash(self, error: Exception) -> None:
        self._owner.crash(error, self.index, f"in {self.who}")

    # ------------------------------------------------------------------ a flight

    async def _fly(self) -> None:
        course = self.course
        flight = course.take_off()
        failure: Exception | None = None
        try:
            await self._fetch_and_deliver(flight)
        except Exception as error:
            failure = error
        finally:
            course.leave(flight, failure)
        if failure is not None:
            self._crash(failure)

    async def _fetch_and_deliver(self, flight: Flight[T]) -> None:
        course = self.course
        outcome = await self._fetch(flight)
        if course.is_on and _is_cancelled():
            course.end("stopped", self._why())  # what it gave comes too late
        course.land(flight, outcome)
        if outcome and not flight.is_void and course.settings.on_value is not None:
            await self._deliver(course.settings.on_value, outcome.unwrap())
        course.go_on(flight)

    async def _fetch(self, flight: Flight[T]) -> Result[T] | None:
        """What the fetch gives; `None` where it was cut."""
        if flight.is_void:
            return None  # a hook has stopped it
        settings = self.course.settings
        made = _called(settings.fetch)
        if isinstance(made, Err):
            return made
        outcome: Result[T] | None = None
        try:
            with flight.scope:
                outcome = await attempt(made, settings.timeout, self.course.label)
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            outcome = failed(self._understood(raised))
        self._forget_strangers()
        return outcome

    async def _deliver(self, on_value: Callable[[Any], object], value: T) -> None:
        try:
            made = on_value(value)
            if is_coroutine(made):  # not anything that can be awaited: a Task that it started is the scope's affair
                await made
            self._forget_strangers()
        except BaseException as raised:
            error = self._understood(raised)
            if error is not raised:
                raise error from None  # noqa: ASYNC104  a native cancellation, or an error out of a group
            raise

    def _understood(self, raised: BaseException) -> Exception:
        """The error in what was raised by a function of the user's; it raises what ends the task."""
        end = sort_out(raised)
        if end.fatal is None and end.error is not None:
            return end.error
        if end.fatal is not None or self._is_to_end():
            raise raised
        return TaskCancelled(task=self.course.label, reason=NATIVELY)

    def _forget_strangers(self) -> None:
        """Take back native cancellations that a function of the user's has answered, be it with an error or a value."""
        cancelling = getattr(self.native, "cancelling", None)  # what asyncio has from 3.11 on; mostly there are none
        if cancelling is not None and cancelling() and not _is_cancelled():
            forget_native_cancellation()

    def _is_to_end(self) -> bool:
        """Whether the cancellation that has just come ends the task."""
        return _is_cancelled() or self._owner.is_forsaken


def _is_cancelled() -> bool:
    """Whether a scope around the running task is cancelled."""
    return anyio.current_effective_deadline() == -math.inf


def _called(fetch: Callable[[], Any]) -> Coroutine[Any, Any, Any] | Err[Exception]:
    """The coroutine of a fetch, or the error of what made it.

    Raises:
        TypeError: It is no async function, which could not be seen before it was called.
    """
    try:
        made = fetch()
    except Exception as error:
        return failed(error)
    if is_coroutine(made):
        return made
    name = name_of(fetch)
    raise TypeError(
        f"s.poll({name}): expected an async function, but it returned {type(made).__name__}, not a coroutine"
    )


def is_pilot(work: object) -> TypeGuard[Pilot[Any]]:
    """Whether a work of a scope is a poll."""
    return isinstance(work, Pilot)
