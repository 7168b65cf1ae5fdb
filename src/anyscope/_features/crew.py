"""A crew: a few workers that take jobs from one shared iterator.

A task per job costs 20 to 50 microseconds and several kilobytes on AnyIO; a worker that takes the next job
costs about one, and reads the input only as fast as the work is done. The crew grows as it is needed: each
worker hires two more when it gets its first job, so a thousand workers for twenty jobs, or for jobs that
never suspend, are not a thousand tasks.

Jobs must not see each other's context variables, though one worker runs many of them. A job runs in the
worker's own context, and the first one that leaves a variable set there ends the worker; from then on each
job of the crew runs step by step in a copy of the context, see `_lifetime/isolation.py`. Rejected: a fresh
task for each job (the cost above), and one more for each job that sets a variable (some set one in each).

An async source is driven by one task from its first step to its `aclose()`, for it may hold scopes across
its yields; there each job gets a task.

Invariants
    * Jobs are taken in order, and begin in that order: nothing is awaited between the two.
    * At most `limit` jobs have been taken and not ended.
    * After `halt` no job begins; what runs is cancelled. The group of the call waits for all of it.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._lifetime.cleanup import shield_closing
from .._lifetime.ending import sort_out
from .._lifetime.isolation import CAN_LOOK, stepped, variables
from .._lifetime.place import Place, beneath, here, stand_in
from .._lifetime.start import Start
from .._vocabulary.errors import TaskCancelled
from .._vocabulary.options import COROUTINE, is_coroutine
from .._vocabulary.results import Err, Ok, Result
from .attempt import NATIVELY, attempt, failed
from .jobs import Each
from .telling import hooked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from .._lifetime.owner import Owner
    from .jobs import Checked

T = TypeVar("T")

END: Any = object()
"""What a source gives at its end."""
BUILT_IN: frozenset[type] = frozenset(map(type, (iter([]), iter(()), iter(range(0)))))
"""Iterators that run no code of anybody's, and so need no context."""

AT_ONCE = 1024
"""How many jobs the workers of a crew run without suspending before they let others run."""
EACH_AT_ONCE = 32
"""How many of them each worker may run, however many workers there are."""
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
            they end. It may end the call by `fail` or `halt`, and raises nothing.

    Attributes:
        taken: How many jobs have been taken so far.
        halted: Whether no further job begins. Written by `halt`.
        error: What the source, a check or `on_progress` raised; it ends the call.
        fatal: A KeyboardInterrupt or the like of a job; it ends the call.
        gate: Awaited before a job is taken; how a slow consumer holds the crew back. Set before the crew begins.
        _is_stepping: Whether each job runs in a copy of the context. Written by the first worker in whose own one
            something was set.
    """

    __slots__ = (
        "_at_once",
        "_below",
        "_busy",
        "_deliver",
        "_group",
        "_is_plain",
        "_is_stepping",
        "_iterator",
        "_job_timeout",
        "_limit",
        "_owner",
        "_queue",
        "_room",
        "_size",
        "_source",
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
        self._is_stepping = not CAN_LOOK
        self._deliver = deliver
        self._size = 0  # how many workers have been hired
        self._at_once = AT_ONCE  # how many jobs in a row one of so many workers runs; asked for after each job
        self._busy = 0  # how many jobs of an async source run
        self._queue: deque[tuple[int, Any]] = deque()  # items of an async source whose task has not begun
        self._room: anyio.Event | None = None  # set when one of them ends
        self._group: TaskGroup | None = None
        self._iterator: Iterator[Any] | None = None
        # Where the iterator runs, always: what it sets no job sees, and it may set it back. Made by the first worker.
        self._source: Context | None = None
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
            (self._source or copy_context()).run(source.close)

    def fail(self, raised: BaseException) -> None:
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
            self._at_once = max(EACH_AT_ONCE, AT_ONCE // self._size)
            assert self._group is not None
            self._group.create_task(Start(self._serve), name=f"{self.jobs.call} worker")

    def _replace(self) -> None:
        """Hire a worker for one that has to leave."""
        self._size -= 1
        self._hire()

    async def _serve(self) -> None:
        worker = Worker()
        await stepped(worker.step, self._work(worker))

    def _taker(self) -> Callable[[Any, Any], Any]:
        """What takes an item, as `next` does."""
        if type(self._iterator) in BUILT_IN:
            return next
        if self._source is None:
            self._source = copy_context()
        run: Callable[..., Any] = self._source.run
        return functools.partial(run, next)

    # Each job comes through here, and a call costs a twentieth.
    async def _work(self, worker: Worker) -> None:  # noqa: C901, PLR0912, PLR0915  see above
        stand_in(Place(self._owner, self._below))
        pristine, imprint = copy_context(), variables()
        iterator, take, now = self._iterator, self._taker(), time.monotonic
        begin, is_plain, gate = self.jobs.begin, self._is_plain, self.gate
        assert iterator is not None
        is_new, in_a_row, until = True, 0, now() + LONGEST
        await checkpoint_if_cancelled()  # hired in a call that has been cancelled since
        while True:
            if gate is not None:
                await gate()
            if self.halted:
                return
            try:
                item = take(iterator, END)
            except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
                self.fail(error)
                return  # noqa: ASYNC104  sorted out, then told or raised
            if item is END:
                return
            index = self.taken
            self.taken = index + 1
            if is_new:
                is_new = False
                self._hire()
                self._hire()
            steps, is_stepping = worker.steps, self._is_stepping
            if is_stepping or not is_plain:
                work = self._do(item, index)
                outcome = await (stepped(pristine.copy().run, work) if is_stepping else work)
            else:  # as in `_do`, without a coroutine around that of the job
                try:
                    coro = item() if begin is None else begin(item)
                    if type(coro) is not COROUTINE and not is_coroutine(coro):
                        self._refuse(item, index, coro)
                        return
                    outcome = Ok(await coro)
                except Exception as error:
                    outcome = failed(error)
                except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
                    outcome = self._interrupted(raised, index)  # noqa: ASYNC104  sorted out, then told or raised
            suspended = worker.steps != steps
            if outcome is None:
                return
            self._deliver(index, outcome)
            if not is_stepping and variables() is not imprint:
                self._is_stepping = True
                pristine.run(self._replace)
                return
            if suspended:
                in_a_row, until = 0, now() + LONGEST
            in_a_row += 1
            if in_a_row >= self._at_once or now() > until:
                await checkpoint()
                in_a_row, until = 0, now() + LONGEST
            elif suspended or index < WATCHED:
                await checkpoint_if_cancelled()

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
                shield_closing(closing, self._owner.close_timeout)
                await self._close_reader(source)  # noqa: ASYNC102  shielded by the feeder's scope

    async def _close_reader(self, source: AsyncGenerator[Any, None]) -> None:
        try:
            await source.aclose()
        except Exception as error:
            self.halt(error)

    async def _read(self, source: AsyncGenerator[Any, None]) -> None:
        while True:  # `halt` cancels the group, and with it this
            await self._until_room()
            item = await anext(source, END)
            if item is END:
                return
            self._queue.append((self.taken, item))
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
        index, item = self._queue.popleft()  # by whichever task begins first: so jobs begin in order
        try:
            outcome = await self._do(item, index)
            if outcome is not None:
                self._deliver(index, outcome)
        finally:
            self._busy -= 1
            if self._room is not None:
                self._room.set()

    # ------------------------------------------------------------------ one job

    async def _do(self, item: Any, index: int) -> Result[T] | None:
        """Do the job of an item; `None` if the call ends because of it."""
        try:
            coro = item() if self.jobs.begin is None else self.jobs.begin(item)
            if not is_coroutine(coro):
                self._refuse(item, index, coro)
                return None
            if self._is_plain:
                return Ok(await coro)
            return await self._guarded(coro, item, index)
        except Exception as error:
            return failed(error)
        except BaseException as raised:  # noqa: ASYNC103  sorted out, then told or raised
            return self._interrupted(raised, index)  # noqa: ASYNC104  sorted out, then told or raised

    def _refuse(self, item: Any, index: int, made: object) -> None:
        job = f"job {index} ({self.jobs.name_of(item)})"
        returned = f"it returned {type(made).__name__}, not a coroutine"
        self.halt(TypeError(f"{self.jobs.call}: {job} is not async, {returned}"))

    async def _guarded(self, coro: Coroutine[Any, Any, T], item: Any, index: int) -> Result[T]:
        name = self.jobs.name_of(item)
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


class Worker:
    """One worker.

    Attributes:
        steps: How many steps it has made: one, and one more for each time that it suspended.
    """

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0

    def step(self, step: Callable[[Any], Any], value: Any) -> Any:
        """Make one."""
        self.steps += 1
        return step(value)
