"""A crew: a few workers that take jobs from one shared iterator.

A task per job costs 20 to 50 microseconds and several kilobytes on AnyIO; a worker that takes the next job
costs about one, and reads the input only as fast as the work is done. The crew grows as it is needed: each
worker hires two more when it gets its first job, so a thousand workers for twenty jobs, or for jobs that
never suspend, are not a thousand tasks.

Jobs must not see each other's context variables, though one worker runs many of them. Each job runs in a
copy of the worker's context: its coroutine is driven step by step inside `Context.run`, which both backends
allow, since what a task yields and is sent is passed on untouched. Rejected: a fresh task for each job (the
cost above), and a comparison of contexts after each job (equal is not identical).

An async source is driven by one task from its first step to its `aclose()`, for it may hold scopes across
its yields; there each job gets a task.

Invariants
    * Jobs are taken in order, and begin in that order: nothing is awaited between the two.
    * At most `limit` jobs have been taken and not ended.
    * After `halt` no job begins; what runs is cancelled. The group of the call waits for all of it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._lifetime.ending import sort_out
from .._lifetime.owner import Owner
from .._lifetime.place import Place, beneath, here, stand_in
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.options import name_of
from .._vocabulary.results import Err, Ok, Result
from .jobs import Checked, Job
from .tasks import NATIVELY, attempt, failed
from .telling import hooked

T = TypeVar("T")

AT_ONCE = 32
"""How many jobs a worker runs without suspending before it lets others run."""
LONGEST = 0.005
"""How many seconds it does so at most."""


class InContext(Awaitable[T]):
    """The rest of a coroutine whose every step runs in `context`; the first one has been taken.

    Args:
        context: The context of the job.
        coro: The coroutine, suspended.
        yielded: What it yielded to the backend when it suspended.
    """

    __slots__ = ("_context", "_coro", "_yielded")

    def __init__(self, context: Context, coro: Coroutine[Any, Any, T], yielded: object) -> None:
        self._context = context
        self._coro = coro
        self._yielded = yielded

    def __await__(self) -> Generator[Any, Any, T]:
        run, send, throw, yielded = self._context.run, self._coro.send, self._coro.throw, self._yielded
        step: Callable[[Any], Any]
        value: Any
        while True:
            try:
                step, value = send, (yield yielded)
            except BaseException as error:  # noqa: BLE001  handed on to the job, which decides
                step, value = throw, error
            try:
                yielded = run(step, value)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                del value  # an error that was thrown in would refer to this frame, and it to the error


class Crew(Generic[T]):
    """The workers of one call of the parallel family.

    Args:
        owner: The scope's owner, whose hooks are told.
        jobs: The jobs, checked.
        limit: How many may run at once; `None` for any number.
        job_timeout: Seconds for each job; `None` for no limit.
        deliver: Called with the index and result of each job that has ended, in the order in which
            they end. What it raises ends the call.

    Attributes:
        taken: How many jobs have been taken so far.
        halted: Whether no further job begins. Written by `halt`.
        error: What the source, a check or `deliver` raised; it ends the call.
        fatal: A KeyboardInterrupt or the like of a job; it ends the call.
        gate: Awaited before a job is taken; how a slow consumer holds the crew back.
    """

    __slots__ = (
        "_below",
        "_busy",
        "_deliver",
        "_done",
        "_group",
        "_iterator",
        "_job_timeout",
        "_limit",
        "_owner",
        "_room",
        "_size",
        "error",
        "fatal",
        "gate",
        "halted",
        "jobs",
        "taken",
    )

    def __init__(
        self,
        owner: Owner,
        jobs: Checked[T],
        *,
        limit: int | None,
        deliver: Callable[[int, Result[T]], object],
        job_timeout: float | None = None,
    ) -> None:
        self.jobs = jobs
        self.taken = 0
        self.halted = False
        self.error: BaseException | None = None
        self.fatal: BaseException | None = None
        self.gate: Callable[[], Awaitable[None]] | None = None
        self._owner = owner
        self._limit = limit
        self._job_timeout = job_timeout
        self._deliver = deliver
        self._size = 0  # how many workers have been hired
        self._busy = 0  # how many jobs of an async source run
        self._room: anyio.Event | None = None  # set when one of them ends
        self._group: TaskGroup | None = None
        self._iterator: Iterator[Job[T]] | None = None
        self._below = beneath(here())

    @property
    def error_to_raise(self) -> BaseException | None:
        """What has to leave the call."""
        return self.fatal or self.error

    async def run(self) -> None:
        """Do all jobs, or those until `halt`; all of them have ended when this returns."""
        async with anyio.create_task_group() as group:
            self.start(group)
        self.close()

    def start(self, group: TaskGroup) -> None:
        """Start working in `group`, which has to wait for it."""
        self._group = group
        if isinstance(self.jobs.jobs, AsyncIterable):
            group.start_soon(self._feed, name=f"{self.jobs.call} source")
        else:
            self._iterator = iter(self.jobs)
            self._hire()

    def close(self) -> None:
        """Close a generator of jobs that was not read to its end."""
        close = getattr(self.jobs.jobs, "close", None)
        if inspect.isgenerator(self.jobs.jobs) and close is not None:
            close()

    def halt(self, error: BaseException | None = None) -> None:
        """Begin no further job and cancel those that run; the first error is kept."""
        if self.error is None:
            self.error = error
        self.halted = True
        assert self._group is not None
        self._group.cancel_scope.cancel()

    # ------------------------------------------------------------------ workers

    def _hire(self) -> None:
        limit = self._limit
        if (limit is None or self._size < limit) and (self.jobs.total is None or self._size < self.jobs.total):
            self._size += 1
            assert self._group is not None
            self._group.start_soon(self._work, name=f"{self.jobs.call} worker")

    async def _work(self) -> None:
        stand_in(Place(self._owner, self._below))
        base = copy_context()
        is_new, run_without_pause, since = True, 0, time.monotonic()
        while True:
            if self.gate is not None:
                await self.gate()
            job = self._take()
            if job is None:
                return
            if is_new:
                is_new = False
                self._hire()
                self._hire()
            index = self.taken - 1
            result = self._begin(job, index, base.copy())
            if not isinstance(result, (Ok, Err)):
                result = await result
                run_without_pause, since = 0, time.monotonic()
            if not self._ended(index, result):
                return
            run_without_pause += 1
            if run_without_pause >= AT_ONCE or time.monotonic() - since > LONGEST:
                await checkpoint()
                run_without_pause, since = 0, time.monotonic()
            else:
                await checkpoint_if_cancelled()

    def _take(self) -> Job[T] | None:
        """The next job; `None` at the end, or where the source failed."""
        if self.halted:
            return None
        assert self._iterator is not None
        try:
            job = next(self._iterator, None)
        except Exception as error:  # noqa: BLE001  the source's error ends the call
            self.halt(error)
            return None
        if job is not None:
            self.taken += 1
        return job
