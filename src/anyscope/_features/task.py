"""A task: work in a task of its own whose outcome is a value.

A `Task` is a handle, the place where its code stands, and what `_drive` runs. It ends exactly once, in
`_finish`, which everything passes through: a normal end, a cancellation while it was still queued, and a
child that the backend dropped before its first step.

Over 400 lines, since handle and work are one object: two would have to be kept in step at each of these ends.
"""

from __future__ import annotations

import math
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeGuard, TypeVar

import anyio

from .._lifetime.backend import signals
from .._lifetime.ending import sort_out
from .._lifetime.opening import is_part_of_opening
from .._lifetime.place import HERE, Place, bottom_of, stand_in
from .._lifetime.start import Start
from .._lifetime.watching import WATCHERS, tell
from .._vocabulary.errors import ScopeCancelled, ScopeMisuse, TaskCancelled, TaskNotDone
from .._vocabulary.options import name_of
from .._vocabulary.results import Err, Ok, Result
from .attempt import NATIVELY, attempt, failed
from .telling import hooked, outcome_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from .._lifetime.branch import Branch
    from .._vocabulary.hooks import TaskKind
    from .tasks import Tasks

T_co = TypeVar("T_co", covariant=True)

TaskStatus: TypeAlias = Literal["queued", "running", "ok", "error", "cancelled"]


class Readiness(Protocol):
    """Whether a task has said that it is ready, and its starter heard it."""

    said: bool
    heard: bool
    failure: Exception | None


class Task(Place, Generic[T_co]):
    """The handle of a task that was started with `s.task(...)`.

    `await task` gives its `Result`, any number of times and from any task. Giving up the wait does not
    cancel the task.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> async def double(x):
        ...     return 2 * x
        >>> async def main():
        ...     async with scope(name="app") as s:
        ...         task = s.task(double, 21)
        ...         print(task)
        ...         print(await task)
        >>> anyio.run(main)
        <Task double (#0) of app running>
        Ok(value=42)
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_coro",
        "_function",
        "_given_name",
        "_limit",
        "_queued_at",
        "_result",
        "_scope",
        "_spawned",
        "_waiters",
        "_why",
        "awaiting",
        "index",
        "kind",
        "tasks",
    )

    def __init__(
        self,
        tasks: Tasks,
        coro: Coroutine[Any, Any, T_co],
        function: object,
        name: str | None = None,
        limit: float | None = None,
        *,
        kind: TaskKind = "task",
    ) -> None:
        super().__init__(tasks.owner)
        self.tasks: Tasks = tasks
        self.kind: TaskKind = kind
        self.index: int = tasks.owner.next_index()
        # The task that this one waits for right now; written by `_wait_in`, read to find rings.
        self.awaiting: Task[Any] | None = None
        self._given_name = name
        self._function = function
        self._limit = limit
        # The user's coroutine until this task begins to await it; closed if it never does.
        self._coro: Coroutine[Any, Any, T_co] | None = coro
        self._context: Context | None = None  # the caller's, kept while the task is queued
        self._queued_at: float | None = None  # when it began to queue; kept for hooks only
        self._result: Result[T_co] | None = None  # written once, by `_finish`
        # The signals of those who wait, in order, and what rings each; made by the first of them.
        self._waiters: dict[Awaitable[None], Callable[[Any], None]] | None = None
        self._why: tuple[object] | None = None  # the reason of the first `cancel()`
        # The backend's handle until this task ends; not longer, because it leads back here.
        self._spawned: anyio.TaskHandle[None] | None = None
        self._scope: anyio.CancelScope | None = None  # the shield of a daemon, which hides the handle's

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """The name given to it, or that of its function."""
        return name_of(self._function) if self._given_name is None else self._given_name

    @property
    def label(self) -> str:
        """Its name and index, such as `fetch (#3)`."""
        return f"{self.name} (#{self.index})"

    @property
    def full_label(self) -> str:
        """Its name, index and scope, such as `fetch (#3) of app`."""
        return f"{self.label} of {self.owner.path}"

    @property
    def who(self) -> str:
        """How messages speak of it, such as `task fetch (#3) of app`."""
        return f"task {self.full_label}"

    @property
    def is_kept(self) -> bool:
        """Whether the scope ends it when it closes, as it does a daemon."""
        return self.kind == "daemon"

    @property
    def scope(self) -> Any:
        """The scope that started it; `None` once nobody holds that any more."""
        return self.owner.face()

    @property
    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._result is not None

    @property
    def status(self) -> TaskStatus:
        """`queued`, `running`, `ok`, `error` or `cancelled`."""
        if self._result is None:
            return "queued" if self._spawned is None and self.native is None else "running"
        return outcome_of(self.peek())

    def peek(self) -> Exception | None:
        """The error, if it ended with one, without counting as having looked at it."""
        return None if self._result is None else self._result.pair()[0]

    def __repr__(self) -> str:
        return f"<Task {self.label} of {self.owner.path} {self.status}>"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"task {self.label} is neither true nor false\nRight: if await task: ...   or: if task.done: ..."
        )

    # ------------------------------------------------------------------ how to get at the result

    def result(self) -> Result[T_co]:
        """The result of a task that has ended.

        Raises:
            TaskNotDone: It has not ended yet.
        """
        if self._result is None:
            raise TaskNotDone(task=self.full_label)
        if type(self._result) is Err:
            self.tasks.observed(self)
        return self._result

    def __await__(self) -> Generator[Any, Any, Result[T_co]]:
        """Wait for the end and give the `Result`; no checkpoint when the task has ended already.

        Raises:
            ScopeMisuse: The task waits for itself, alone or in a ring of tasks.
        """
        if self._result is None:
            self.owner.require_own_thread("task.unwrap")  # which says how, in its error
            waiter = _task_beneath()
            yield from self._until_ended() if waiter is None else self._wait_in(waiter)
        return self.result()

    async def unwrap(self) -> T_co:
        """Wait for the end and give the value, or raise the task's own error, not wrapped."""
        result = await self
        try:
            return result.unwrap()
        finally:
            del self, result  # the error's traceback leads through this frame

    def _until_ended(self) -> Generator[Any, Any, None]:
        """Wait, by a signal for each who does: a native cancellation ends the one that it strikes."""
        waiters = self._waiters
        if waiters is None:
            waiters = self._waiters = {}
        make_signal, ring = signals()
        signal = make_signal()
        waiters[signal] = ring
        try:
            yield from signal.__await__()
        finally:
            del waiters[signal]

    def _wait_in(self, waiter: Task[Any]) -> Generator[Any, Any, None]:
        """Wait in another task of ours, or on its behalf."""
        if waiter.is_genuine():  # not in a job that merely runs on its behalf
            _refuse_ring(waiter, self)
            waiter.awaiting = self
        slots = self.tasks.slots if waiter.tasks is self.tasks else None
        if slots is not None:
            slots.lend(waiter, self)
        try:
            yield from self._until_ended()
        finally:
            if waiter.awaiting is self:
                waiter.awaiting = None
            if slots is not None:
                slots.stop_lending(waiter, self)

    # ------------------------------------------------------------------ cancellation

    def cancel(self, reason: object = None) -> None:
        """Cancel the task; its result is then `Err(TaskCancelled(reason))`, unless it catches that.

        Does nothing to a task that has ended; the first reason wins. A task that is still queued ends
        at once, any other at its next checkpoint.

        Args:
            reason: Anything; it is shown in the error.

        Raises:
            ScopeMisuse: From another thread. Nothing has changed then.
        """
        if self._result is not None:
            return
        self.owner.require_own_thread("task.cancel")
        if self._why is None:
            self._why = (reason,)
        if self._scope is not None:
            self._scope.cancel()
        elif self._spawned is None:
            self._finish(self._cut_off())
        else:
            self._spawned.cancel()

    @property
    def is_unborn(self) -> bool:
        """Whether it was given to the backend and has not begun."""
        return self.native is None and self._spawned is not None and self._result is None

    def abandon(self) -> None:
        """End the handle of a child that the backend dropped before its first step."""
        if self.is_unborn:
            self._why = self._why or (NATIVELY,)
            self._finish(self._cut_off())

    def _cut_off(self) -> Err[Exception]:
        """The result of a task that was cancelled, with the first reason that applies."""
        if self._why is not None:
            return Err(TaskCancelled(task=self.full_label, reason=self._why[0]))
        cancellation = self.tasks.owner.explain_cut()
        reason = NATIVELY if cancellation is None else cancellation.reason
        return Err(TaskCancelled(task=self.full_label, reason=reason))

    # ------------------------------------------------------------------ the life of it

    def launch(self) -> None:
        """Begin now, or queue for a slot."""
        owner, slots = self.owner, self.tasks.slots
        if WATCHERS:
            tell("launching", owner, self)
        if self.kind == "daemon":
            owner.works.join_daemon(self)
        else:
            owner.works.join(self)
        if slots is None or self.kind == "daemon" or is_part_of_opening():
            self.begin()
        else:
            self._context = copy_context()
            if owner.hooks is not None:
                self._queued_at = anyio.current_time()
            slots.admit(self)

    def begin(self) -> None:
        """Start the child task."""
        handle = self._spawned = self.tasks.owner.spawn(Start(self._drive), self.name, self._context)
        self._context = None
        is_cancelled = self.owner.cancellation is not None and self.kind != "daemon"
        if is_cancelled and anyio.current_effective_deadline() != -math.inf:
            handle.cancel()  # AnyIO's asyncio does not look for new tasks while all others are shielded

    async def _drive(self) -> None:
        if self._result is not None:
            return  # given up as lost, see abandon
        stand_in(self)
        coro, self._coro = self._coro, None
        assert coro is not None
        work = self._shielded(coro) if self.kind == "daemon" else self._attempt(coro)
        if self.owner.hooks is not None:
            waited = 0.0 if self._queued_at is None else anyio.current_time() - self._queued_at
            work = hooked(work, self.tasks.owner, self.name, self.index, self.kind, waited=waited)
        try:
            self._finish(await work)
        finally:
            del self  # the frames of an error lead here, and the task to the error

    async def drive_when_ready(self, ready: Readiness) -> None:
        """Run in a child that belongs to the caller of `s.start` until it says that it is ready."""
        stand_in(self)
        self.owner.works.join(self)
        coro, self._coro = self._coro, None
        assert coro is not None
        work = attempt(coro, None, self.full_label)
        if self.owner.hooks is not None:
            work = hooked(work, self.tasks.owner, self.name, self.index, self.kind)
        try:
            result = await work
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            if not ready.said:
                self.owner.works.part(self)
                raise
            if not ready.heard and self.owner.cancellation is None:
                self._why = self._why or (None,)  # AnyIO cancels it with its starter, and that is not the scope's end
            result = self._interrupted(raised)
        if type(result) is Err and not ready.said:
            ready.failure = result.error
            self.owner.works.part(self)
            result.unwrap()
        self._finish(result)

    async def _shielded(self, coro: Coroutine[Any, Any, T_co]) -> Result[T_co]:
        """A daemon serves the clean-up of tasks that are being cancelled, so it is not cut with them."""
        with anyio.CancelScope(shield=True) as self._scope:
            if self._why is not None:
                self._scope.cancel()  # stopped before it began
            return await self._attempt(coro)
        raise AssertionError("every cancellation has become a result")

    async def _attempt(self, coro: Coroutine[Any, Any, T_co]) -> Result[T_co]:
        try:
            if self._limit is None:
                return Ok(await coro)  # what `attempt` does, without its frame
            return self._or_cut_off(await attempt(coro, self._limit, self.full_label))
        except Exception as error:
            return self._or_cut_off(failed(error))
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            return self._interrupted(raised)  # noqa: ASYNC104  sorted out, then told or raised
        finally:
            del self  # as in _drive

    def _or_cut_off(self, result: Result[T_co]) -> Result[T_co]:
        """The result; but a report that a scope of ours was cancelled is no failure: it is that cancellation.

        A daemon gets one, which is shielded itself but waits for a service that is no longer made.
        """
        error = result.pair()[0]
        if isinstance(error, ScopeCancelled) and _was_cancelled(self.owner, error.path):
            return self._cut_off()
        return result

    def _interrupted(self, raised: BaseException) -> Err[Exception]:
        end = sort_out(raised)
        if end.error is not None:
            return failed(end.error)
        if end.fatal is not None:
            self.tasks.owner.end_for(end.fatal)
        return self._cut_off()

    def _finish(self, result: Result[T_co]) -> None:
        if self._coro is not None:
            self._coro.close()
            self._coro = None
        self._result = result
        self._spawned = None
        self.end()
        if self._waiters is not None:
            for signal, ring in self._waiters.items():
                ring(signal)
        if self.tasks.slots is not None:
            self.tasks.slots.end(self)
        self.tasks.ended(self, result)
        self.owner.works.part(self)


def _was_cancelled(branch: Branch | None, path: str) -> bool:
    """Whether the scope at `path` was cancelled, if that is `branch` or one above it."""
    while branch is not None:
        if branch.cancelled and branch.path == path:
            return True
        branch = branch.parent
    return False


def _task_beneath() -> Task[Any] | None:
    """The task of ours in which the running code is, or on whose behalf it runs."""
    place = HERE.get()
    if place is None:
        return None
    bottom = bottom_of(place)  # asked first, since it is mostly the body of a scope, of which no more need be known
    return bottom if _is_task(bottom) and place.is_genuine() else None


def _is_task(place: object) -> TypeGuard[Task[Any]]:
    return isinstance(place, Task)


def _refuse_ring(waiter: Task[Any], awaited: Task[Any]) -> None:
    ring: list[Task[Any]] = [waiter]
    last: Task[Any] | None = awaited
    while last is not None:
        ring.append(last)
        if last is waiter:
            raise ScopeMisuse(
                path=waiter.owner.path,
                problem=f"tasks wait for one another: {' -> '.join(task.label for task in ring)}",
                remedy="None of them could ever end. Start the work that both need as a third task, and await that.",
            )
        last = last.awaiting
