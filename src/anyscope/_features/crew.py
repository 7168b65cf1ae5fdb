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

import math
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._lifetime.ending import sort_out
from .._lifetime.isolation import InContext
from .._lifetime.place import Place, beneath, here, stand_in
from .._lifetime.start import Start
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.options import is_coroutine, name_of
from .._vocabulary.results import Err, Ok, Result
from .attempt import NATIVELY, attempt, failed
from .jobs import Each
from .telling import hooked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from .._lifetime.owner import Owner
    from .jobs import Checked, Job

T = TypeVar("T")

AT_ONCE = 32
"""How many jobs a worker runs without suspending before it lets others run."""
LONGEST = 0.005
"""How many seconds it does so at most."""
WATCHED = 64
"""Up to which job the workers look for a cancellation after each one, even if it did not suspend."""


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
        "_is_plain",
        "_iterator",
        "_job_timeout",
        "_limit",
        "_owner",
        "_queue",
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
        # Whether the coroutine of a job can be run as it is; never changes, and is asked for each job.
        self._is_plain = job_timeout is None and owner.hooks is None
        self._deliver = deliver
        self._size = 0  # how many workers have been hired
        self._busy = 0  # how many jobs of an async source run
        self._queue: deque[tuple[int, Job[T]]] = deque()  # jobs of an async source whose task has not begun
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
        try:
            async with anyio.create_task_group() as group:
                self._start(group)
        finally:
            self._close_source()

    def _start(self, group: TaskGroup) -> None:
        """Start working in `group`, which has to wait for it."""
        self._group = group
        if isinstance(self.jobs.jobs, AsyncIterable):
            group.create_task(Start(self._feed), name=f"{self.jobs.call} source")
        else:
            self._iterator = iter(self.jobs)
            self._hire()

    def _close_source(self) -> None:
        """Close a generator of jobs that was not read to its end."""
        jobs: object = self.jobs.jobs
        source: object = jobs.items if isinstance(jobs, Each) else jobs
        if isinstance(source, GeneratorType):
            source.close()

    def _fail(self, raised: BaseException) -> None:
        """Something other than a job raised: it leaves the call."""
        if isinstance(raised, Exception):
            self.halt(raised)
        else:
            self.fatal = raised
            self.halt()

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
            self._group.create_task(Start(self._work), name=f"{self.jobs.call} worker")

    async def _work(self) -> None:
        stand_in(Place(self._owner, self._below))
        base = copy_context()
        now = time.monotonic
        is_new, in_a_row, since = True, 0, now()
        await checkpoint_if_cancelled()  # hired in a call that has been cancelled since
        while True:
            if self.gate is not None:
                await self.gate()
            job = self._take()
            if job is None:
                return
            index = self.taken - 1
            if is_new:
                is_new = False
                self._hire()
                self._hire()
            outcome = self._first_step(job, index, base.copy())
            suspended = False
            if isinstance(outcome, InContext):
                suspended = True
                outcome = await self._rest(outcome, index)
                in_a_row, since = 0, now()
            if outcome is None:
                return
            self._hand_over(index, outcome)
            in_a_row += 1
            if in_a_row >= AT_ONCE or now() - since > LONGEST:
                await checkpoint()
                in_a_row, since = 0, now()
            elif suspended or index < WATCHED:
                await checkpoint_if_cancelled()

    def _take(self) -> Job[T] | None:
        """The next job; `None` at the end, after `halt`, or where the source failed."""
        if self.halted:
            return None
        assert self._iterator is not None
        try:
            job = next(self._iterator, None)
        except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
            self._fail(error)
            return None  # noqa: ASYNC104  sorted out, then told or raised
        if job is not None:
            self.taken += 1
        return job

    # ------------------------------------------------------------------ an async source

    async def _feed(self) -> None:
        """Read the source, from its first step to its `aclose()`, and start a task for each job."""
        stand_in(Place(self._owner, self._below))
        # Entered before the source's first step: one around its `aclose()` would lie across scopes that
        # the source may hold open.
        with anyio.CancelScope() as closing:
            source = self.jobs.reader()
            try:
                await self._read(source)
            except Exception as error:
                self.halt(error)
            finally:
                closing.shield = True
                closing.deadline = anyio.current_time() + (self._owner.close_timeout or math.inf)
                await self._close_reader(source)  # noqa: ASYNC102  shielded by the feeder's scope

    async def _close_reader(self, source: AsyncGenerator[Job[T], None]) -> None:
        try:
            await source.aclose()
        except Exception as error:
            self.halt(error)

    async def _read(self, source: AsyncGenerator[Job[T], None]) -> None:
        while True:  # `halt` cancels the group, and with it this
            await self._until_room()
            job = await anext(source, None)
            if job is None:
                return
            self._queue.append((self.taken, job))
            self.taken += 1
            self._busy += 1
            assert self._group is not None
            self._group.create_task(Start(self._do_one), name=f"{self.jobs.call} job")
            await checkpoint()  # a source that never suspends must not hold everybody up

    async def _until_room(self) -> None:
        if self.gate is not None:
            await self.gate()
        while self._limit is not None and self._busy >= self._limit:
            self._room = anyio.Event()
            await self._room.wait()

    async def _do_one(self) -> None:
        stand_in(Place(self._owner, self._below))
        index, job = self._queue.popleft()  # by whichever task begins first: so jobs begin in order
        try:
            outcome = self._first_step(job, index, copy_context())
            if isinstance(outcome, InContext):
                outcome = await self._rest(outcome, index)
            if outcome is not None:
                self._hand_over(index, outcome)
        finally:
            self._busy -= 1
            if self._room is not None:
                self._room.set()

    # ------------------------------------------------------------------ one job

    def _first_step(self, job: Job[T], index: int, context: Context) -> Result[T] | InContext[T] | None:
        """Begin `job`; most trivial ones end here. `None` if the call ends because of it."""
        try:
            coro: object = context.run(job)
        except Exception as error:
            return failed(error)
        if not is_coroutine(coro):
            what = f"job {index} ({name_of(job)}) is not async, it returned {type(coro).__name__}, not a coroutine"
            self.halt(TypeError(f"{self.jobs.call}: {what}"))
            return None
        started: Coroutine[Any, Any, Any] = coro
        if not self._is_plain:
            started = self._guarded(coro, job, index)
        try:
            yielded = context.run(started.send, None)
        except StopIteration as stop:
            return Ok(stop.value) if self._is_plain else stop.value
        except Exception as error:
            return failed(error)
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            return self._interrupted(raised, index)  # noqa: ASYNC104  sorted out, then told or raised
        return InContext(context, started, yielded)

    async def _rest(self, started: InContext[Any], index: int) -> Result[T] | None:
        try:
            value = await started
        except Exception as error:
            return failed(error)
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            return self._interrupted(raised, index)  # noqa: ASYNC104  sorted out, then told or raised
        return Ok(value) if self._is_plain else value

    async def _guarded(self, coro: Coroutine[Any, Any, T], job: Job[T], index: int) -> Result[T]:
        name = name_of(job)
        work = attempt(coro, self._job_timeout, f"{name} ({self._site(index)})")
        if self._owner.hooks is not None:
            work = hooked(work, self._owner, name, self._owner.next_index(), "job")
        return await work

    def _site(self, index: int) -> str:
        return f"job {index} of {self.jobs.call} in {self._owner.path}"

    def _interrupted(self, raised: BaseException, index: int) -> Result[T] | None:
        end = sort_out(raised)
        if end.error is not None:
            return failed(end.error)
        if end.fatal is not None:
            self.fatal = end.fatal
            self.halt()
            return None
        if self.halted or anyio.current_effective_deadline() == -float("inf"):
            raise raised
        return Err(TaskCancelled(task=self._site(index), reason=NATIVELY))

    def _hand_over(self, index: int, result: Result[T]) -> None:
        try:
            self._deliver(index, result)
        except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
            self._fail(error)
