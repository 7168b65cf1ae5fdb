"""`Scope`: the object that a user holds. Thin methods; the work is done on the floors below.

Over 400 lines, the longest module by far, and nearly all of it docstrings: one class is what a user looks things up in,
so its methods stay together.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .._features import entering, parallel, racing, services, starting
from .._features.as_completed import AsCompleted, as_completed
from .._features.parallel import Aggregate, Plan, Progress
from .._features.pooling.pool import Pool
from .._features.service import MISSING
from .._features.streaming.stream import Stream, open_stream
from .._features.tasks import Tasks
from .._lifetime.branch import AMBIENT, Ambient
from .._lifetime.hookset import as_hooks
from .._lifetime.owner import CLOSE_TIMEOUT, Owner
from .._lifetime.place import nearest_open
from .._lifetime.signal import CancelSignal
from .._vocabulary.errors import NoCurrentScope, ScopeCancelled
from .._vocabulary.keys import Key, label_of
from .._vocabulary.options import check_count, check_name, check_seconds, name_of, require_callable
from .polling import Polling
from .tree import ScopeStatistics, draw, statistics_of, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .._features.jobs import Jobs
    from .._features.pooling.pool import PoolOptions
    from .._features.task import Task
    from .._vocabulary.hooks import Hooks
    from .._vocabulary.results import Result

T = TypeVar("T")
D = TypeVar("D")

NO_HOOKS: tuple[Hooks, ...] = ()
"""What most scopes are given, and need not be looked into."""


class Scope(Polling):
    """Owns everything that is started inside it; make one with `scope()`.

    When the block `async with scope() as s:` ends, all of it has ended, in the right order, and no error
    has been lost.
    """

    __slots__ = ("__weakref__", "_concurrency", "_tasks")

    def __init__(self, owner: Owner, concurrency: int | None) -> None:
        self._owner = owner
        self._concurrency = concurrency
        self._tasks: Tasks | None = None
        owner.face = weakref.ref(self)

    # ------------------------------------------------------------------ the block

    # Plain functions that give the coroutine of the owner: that saves a coroutine around it, of every scope.

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        owner = self._owner
        return owner.enter(self) if owner.services is None else self._enter_with(owner.services)

    async def _enter_with(self, table: services.Services) -> Self:
        await self._owner.enter(self)
        await self._begin_services(table)
        return self

    async def _begin_services(self, table: services.Services) -> None:
        """Make what is eager; where that fails, close what there is and leave."""
        try:
            await table.begin()
        except BaseException as error:
            if not await self.__aexit__(type(error), error, error.__traceback__):  # noqa: ASYNC102  as in __aexit__
                raise
            raise ScopeCancelled(  # noqa: ASYNC104  the cancellation was this scope's own, and has been absorbed
                path=self.path, action="entering it", reason=self.cancel_reason
            ) from None

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, bool]:
        return self._owner.leave(error, self)

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """The name that it was given; `scope` by default."""
        return self._owner.name

    @property
    def path(self) -> str:
        """The names of the scopes from the root to this one, such as `app > ingest`."""
        return self._owner.path

    @property
    def parent(self) -> Scope | None:
        """The scope above, once entered; `None` for a root."""
        above = self._owner.parent
        return None if above is None else above.face()

    @property
    def concurrency(self) -> int | None:
        """How many of its tasks may run at once; `None` for any number."""
        return self._concurrency

    @property
    def closed(self) -> bool:
        """Whether the block has been left; nothing of it runs then."""
        return self._owner.phase == "closed"

    def __repr__(self) -> str:
        return summary(self._owner, self._tasks)

    def tree(self) -> str:
        """What the scope owns right now, as text: child scopes, tasks, clean-ups.

        The text is the same on both backends, and names things without showing any value.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         s.on_exit(print, "bye")
            ...         s.task(anyio.sleep, 0.01, name="nap")
            ...         print(s.tree())
            >>> anyio.run(main)
            scope app open
              task nap (#1) running
              clean-up print (#0)
            bye
        """
        return draw(self._owner)

    def statistics(self) -> ScopeStatistics:
        """Counts of what the scope owns and has owned, as a frozen record."""
        return statistics_of(self._owner, self._tasks)

    # ------------------------------------------------------------------ cancellation

    @property
    def signal(self) -> CancelSignal:
        """Its cancellation as something to hand around, as to `scope(signal=s.signal)`."""
        return CancelSignal(self._owner)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, by `cancel()`, its deadline, an error, its parent or from outside."""
        return self._owner.cancelled

    @property
    def cancel_reason(self) -> object:
        """What `cancel()` was given, or the error that caused the cancellation."""
        return self._owner.cancel_reason

    def cancel(self, reason: object = None) -> None:
        """Cancel the body, the tasks, the daemons and the child scopes; the block is left quietly.

        The first reason wins, further calls do nothing. Clean-up still runs to its end.

        Args:
            reason: Anything; it is in `cancel_reason` and in every `TaskCancelled`.

        Raises:
            ScopeMisuse: From another thread; nothing has changed then. Go through the event loop:
                `anyio.from_thread.run_sync(s.cancel, reason, token=token)`.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         task = s.task(anyio.sleep_forever)
            ...         s.cancel("user left")
            ...     print(task.result().error)
            >>> anyio.run(main)
            task sleep_forever (#0) of scope was cancelled (user left)
        """
        self._owner.cancel(reason)

    # ------------------------------------------------------------------ tasks

    def task(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Task[T]:
        """Start `fn(*args)` in a task of its own, now; its outcome is a value.

        A failing task does not disturb its siblings. An error that nobody looked at (the handle was
        neither awaited nor asked) leaves the scope in a group.

        Args:
            fn: An async function.
            *args: Its positional arguments.
            name: What to call it in errors, hooks and the tree; by default the name of `fn`.
            timeout: Seconds from its start after which it is cancelled, with `Err(TaskTimeout)`;
                `None` (default) for no limit.

        Returns:
            A handle, to be awaited for the `Result`.

        Raises:
            TypeError: `fn` is not an async function, or a coroutine object. Nothing was started.
            ScopeClosed: The scope has closed. In a cancelled one, the task runs to its first
                checkpoint.
            ScopeMisuse: Before entry, or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch(user):
            ...     if user < 0:
            ...         raise ValueError(f"no user {user}")
            ...     return f"user {user}"
            >>> async def main():
            ...     async with scope() as s:
            ...         good, bad = s.task(fetch, 42), s.task(fetch, -1)
            ...         print(await good)
            ...         print(await bad)
            >>> anyio.run(main)
            Ok(value='user 42')
            Err(error=ValueError('no user -1'))
        """
        return starting.start_task(self._tasks or self._make_tasks(), fn, args, name=name, timeout=timeout)

    async def run(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Result[T]:
        """Run `fn(*args)` in the calling task, and give its `Result`.

        No new task and no slot; hooks and `timeout` as for `task()`. When the caller is cancelled, that
        passes through. When the scope is cancelled while some other task called, the result is
        `Err(TaskCancelled)`.

        Args:
            fn: An async function.
            *args: Its positional arguments.
            name: What to call it; by default the name of `fn`.
            timeout: Seconds after which it is cancelled, with `Err(TaskTimeout)`; `None` (default) for no
                limit.

        Returns:
            `Ok(value)` or `Err(error)`.

        Raises:
            TypeError: `fn` is not an async function.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def half(x):
            ...     return x / 2
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.run(half, 3))
            >>> anyio.run(main)
            Ok(value=1.5)
        """
        return await starting.run_here(self._tasks or self._make_tasks(), fn, args, name, timeout)

    def start_soon(
        self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str | None = None, daemon: bool = False
    ) -> None:
        """Start `fn(*args)` as AnyIO's task groups do: no result, and a failure cancels the scope.

        Args:
            fn: An async function.
            *args: Its positional arguments.
            name: What to call it; by default the name of `fn`.
            daemon: Whether it serves the others: it is not waited for but cancelled, after all tasks
                have ended, and takes no slot. Default false.

        Raises:
            TypeError: `fn` is not an async function.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.
        """
        starting.start_soon(self._tasks or self._make_tasks(), fn, args, name=name, daemon=daemon)

    async def start(self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str | None = None) -> Any:
        """Start `fn(*args, task_status=...)`, and wait until it calls `task_status.started(value)`.

        Until then its errors and its cancellation are the caller's; afterwards a failure cancels the
        scope. It takes no slot.

        Args:
            fn: An async function with a keyword argument `task_status`.
            *args: Its positional arguments.
            name: What to call it; by default the name of `fn`.

        Returns:
            The value that it gave to `started()`.

        Raises:
            TypeError: `fn` is not an async function.
            RuntimeError: It ended without calling `started()`.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.
        """
        return await starting.start(self._tasks or self._make_tasks(), fn, args, name=name)

    def _make_tasks(self) -> Tasks:
        self._tasks = tasks = Tasks(self._owner, self._concurrency)
        return tasks

    # ------------------------------------------------------------------ the parallel family

    async def parallel(
        self,
        jobs: Jobs[T],
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
        job_timeout: float | None = None,
        fail_fast: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> list[Result[T]]:
        """Run many jobs at once, and give one `Result` for each, in input order.

        All jobs have ended when it returns. When the caller is cancelled, the jobs are cancelled and
        waited for.

        Args:
            jobs: Async functions without arguments, such as `each(fetch, urls)`: an iterable or an async
                iterable, read lazily and in order.
            concurrency: How many may run at once; default that of the scope, or else any number.
            timeout: Seconds for the whole call. What has finished by then is kept, the rest is
                `Err(TaskTimeout)`; `None` (default) for no limit.
            job_timeout: Seconds for each job, from its start; `None` (default) for no limit.
            fail_fast: Whether the first error cancels the rest, which is then `Err(TaskCancelled)`. Of an
                input of unknown length, jobs not yet taken have no result. Default false.
            on_progress: Called with a `Progress` once for each job that has ended. What it raises ends the
                call.

        Returns:
            `Ok(value)` or `Err(error)` for each job.

        Raises:
            TypeError: Something that is not an async function is among the jobs.
            ValueError: Several jobs are closures over the same variables, so they would do the same.
            Exception: What the iterable of jobs itself raised; the jobs have been cancelled and have
                ended.
            ScopeCancelled: The scope was cancelled, and the caller is a task that it does not own.
            ScopeClosed: The scope has closed.

        Example:
            >>> import anyio
            >>> from anyscope import each, scope
            >>> async def fetch(user):
            ...     if user < 0:
            ...         raise ValueError(f"no user {user}")
            ...     return f"user {user}"
            >>> async def main():
            ...     async with scope() as s:
            ...         for result in await s.parallel(each(fetch, [1, -1, 2]), concurrency=2):
            ...             print(result)
            >>> anyio.run(main)
            Ok(value='user 1')
            Err(error=ValueError('no user -1'))
            Ok(value='user 2')
        """
        plan = self._plan(concurrency, timeout, job_timeout, fail_fast, on_progress)
        return await parallel.parallel(self._owner, jobs, plan)

    async def parallel_aggregate(
        self,
        jobs: Jobs[T],
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
        job_timeout: float | None = None,
        fail_fast: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Aggregate[T]:
        """As `parallel()`, with successes and errors sorted apart.

        Args:
            jobs: As for `parallel()`.
            concurrency: As for `parallel()`.
            timeout: As for `parallel()`; `timed_out` of the result tells.
            job_timeout: As for `parallel()`.
            fail_fast: As for `parallel()`.
            on_progress: As for `parallel()`.

        Returns:
            An `Aggregate`: `completed`, `errors`, `all_completed`, `timed_out`, `values`, `results`.

        Raises:
            TypeError: As for `parallel()`.
            ValueError: As for `parallel()`.
            ScopeCancelled: As for `parallel()`.
            ScopeClosed: As for `parallel()`.

        Example:
            >>> import anyio
            >>> from anyscope import each, scope
            >>> async def half(x):
            ...     return 10 / x
            >>> async def main():
            ...     async with scope() as s:
            ...         report = await s.parallel_aggregate(each(half, [1, 0, 5]))
            ...     print(report)
            ...     print(report.values)
            ...     for failure in report.errors:
            ...         print(failure.index, repr(failure.error))
            >>> anyio.run(main)
            <Aggregate of 3 jobs: 2 completed, 1 errors>
            [10.0, 2.0]
            1 ZeroDivisionError('division by zero')
        """
        plan = self._plan(concurrency, timeout, job_timeout, fail_fast, on_progress)
        return await parallel.parallel_aggregate(self._owner, jobs, plan)

    def _plan(
        self,
        concurrency: int | None,
        timeout: float | None,
        job_timeout: float | None,
        fail_fast: bool,  # noqa: FBT001  a private passing on of options
        on_progress: Callable[[Progress], object] | None,
    ) -> Plan:
        limit = self._concurrency if concurrency is None else concurrency
        return Plan(limit=limit, timeout=timeout, job_timeout=job_timeout, fail_fast=fail_fast, on_progress=on_progress)

    def as_completed(self, jobs: Jobs[T], *, concurrency: int | None = None) -> AsCompleted[T]:
        """Run many jobs at once, and give their results as they finish.

        Leaving the block early cancels the jobs that are left and waits for them. A slow consumer holds
        the jobs back.

        Args:
            jobs: As for `parallel()`.
            concurrency: How many may run at once; default that of the scope, or else any number.

        Returns:
            An async context manager; what it gives yields pairs `(index, result)`.

        Raises:
            TypeError: As for `parallel()`.
            ValueError: As for `parallel()`.
            ScopeCancelled: As for `parallel()`, when the block is left.
            ScopeClosed: The scope has closed, when the block is entered.

        Example:
            >>> import anyio
            >>> from anyscope import each, scope
            >>> async def nap(seconds):
            ...     await anyio.sleep(seconds)
            ...     return seconds
            >>> async def main():
            ...     async with scope() as s:
            ...         async with s.as_completed(each(nap, [0.02, 0.0])) as results:
            ...             async for index, result in results:
            ...                 print(index, result)
            >>> anyio.run(main)
            1 Ok(value=0.0)
            0 Ok(value=0.02)
        """
        return as_completed(self._owner, jobs, concurrency=self._concurrency if concurrency is None else concurrency)

    async def race(self, jobs: Jobs[T]) -> Result[T]:
        """Run jobs against one another: the first to finish wins, with a value or an error.

        The losers are cancelled and have ended when it returns. What a loser raises all the same is
        logged as a warning.

        Args:
            jobs: As for `parallel()`; at least one. All of them run at once.

        Returns:
            The result of the winner.

        Raises:
            ValueError: There are no jobs.
            ScopeCancelled: As for `parallel()`.
            ScopeClosed: The scope has closed.

        Example:
            >>> import anyio
            >>> from anyscope import each, scope
            >>> async def nap(seconds):
            ...     await anyio.sleep(seconds)
            ...     return seconds
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.race(each(nap, [9, 0.01])))
            >>> anyio.run(main)
            Ok(value=0.01)
        """
        return await racing.race(self._owner, "s.race", jobs, only_success=False)

    async def any(self, jobs: Jobs[T]) -> Result[T]:
        """Run jobs against one another: the first that succeeds wins.

        The losers are cancelled and have ended when it returns.

        Args:
            jobs: As for `parallel()`; at least one. All of them run at once.

        Returns:
            The `Ok` of the winner; or `Err(ExceptionGroup)` with the errors of all, in input order.

        Raises:
            ValueError: There are no jobs.
            ScopeCancelled: As for `parallel()`.
            ScopeClosed: The scope has closed.

        Example:
            >>> import anyio
            >>> from anyscope import each, scope
            >>> async def half(x):
            ...     return 10 / x
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.any(each(half, [0, 5])))
            >>> anyio.run(main)
            Ok(value=2.0)
        """
        return await racing.race(self._owner, "s.any", jobs, only_success=True)

    # ------------------------------------------------------------------ lifetimes

    @overload
    async def enter(self, manager: AbstractAsyncContextManager[T], /) -> T: ...
    @overload
    async def enter(self, manager: AbstractContextManager[T], /) -> T: ...
    async def enter(self, manager: Any, /) -> Any:
        """Enter a context manager for the life of the scope.

        It is entered and left in one task of its own, so it may hold task groups and cancel scopes; it is
        left in its turn among the clean-ups, last entered first, shielded, for at most `close_timeout`
        seconds. It sees the error that ends the scope, or a `ScopeCancelled`, but cannot stop it. Should it
        end by itself before, for instance because a task of its own crashed, then that cancels the scope.

        When the caller is cancelled, entering it is.

        Args:
            manager: An async or a plain context manager.

        Returns:
            What its `__aenter__` or `__enter__` gives.

        Raises:
            TypeError: It is no context manager.
            Exception: What entering it raised.
            ScopeCancelled: The scope was cancelled meanwhile, and the caller is a task that it does not own.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.

        Example:
            >>> import anyio
            >>> from contextlib import asynccontextmanager
            >>> from anyscope import scope
            >>> @asynccontextmanager
            ... async def server():
            ...     async with anyio.create_task_group() as group:
            ...         group.start_soon(anyio.sleep_forever)
            ...         yield "serving"
            ...         group.cancel_scope.cancel()
            ...     print("stopped")
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.enter(server()))
            >>> anyio.run(main)
            serving
            stopped
        """
        return await entering.enter(self._owner, manager)

    @overload
    def pool(self, create: Callable[[], AsyncIterator[T]], **options: Unpack[PoolOptions[T]]) -> Pool[T]: ...
    @overload
    def pool(self, create: Callable[[], Awaitable[T]], **options: Unpack[PoolOptions[T]]) -> Pool[T]: ...
    @overload
    def pool(
        self, create: Callable[[], AbstractAsyncContextManager[T]], **options: Unpack[PoolOptions[T]]
    ) -> Pool[T]: ...
    @overload
    def pool(self, create: Callable[[], T], **options: Unpack[PoolOptions[T]]) -> Pool[T]: ...
    def pool(
        self,
        create: Callable[[], Any],
        *,
        destroy: Callable[[Any], object] | None = None,
        min: int = 0,
        max: int = 10,
        acquire_timeout: float | None = 30.0,
        name: str | None = None,
        max_waiting: int | None = None,
        max_idle: float | None = 600.0,
        max_lifetime: float | None = 3600.0,
        check: Callable[[Any], object] | None = None,
        check_after: float = 1.0,
        reset: Callable[[Any], object] | None = None,
        discard_on: type[BaseException] | tuple[type[BaseException], ...] = (ConnectionError, EOFError),
        create_timeout: float | None = 30.0,
        close_timeout: float | None = 5.0,
        backoff: tuple[float, float] = (0.1, 5.0),
        leak_after: float | None = None,
    ) -> Pool[Any]:
        """A pool of resources for the life of the scope: made when needed, lent to one task at a time, and kept.

        It closes in its turn among the clean-ups: who waits gets `PoolClosed`, who holds one is waited for, everything
        is destroyed.

        Args:
            create: Makes one resource: a plain or async function, one that gives an async context manager, or an async
                generator function. It runs in a task of the pool; cancelling who waits for it does not cancel it.
            destroy: Ends one; default its `aclose()` or `close()`.
            min: How many are kept. Default 0.
            max: How many there may be. Default 10.
            acquire_timeout: Seconds that a task waits for one at most, `create` and `check` included. Default 30.
            name: What it is called. Default the name of `create`.
            max_waiting: How many tasks may wait for others to give back; more get `PoolFull` at once. Default any
                number.
            max_idle: Seconds after which one that nobody needs goes, as long as there are more than `min`. Default 600.
            max_lifetime: Seconds after which one is replaced, less up to a tenth. Default 3600.
            check: Says whether one is healthy: not, if it gives `False` or raises.
            check_after: Seconds for which one is taken to be healthy after its last use. Default 1.
            reset: Makes one fit for the next user, after each use.
            discard_on: Errors after which one is destroyed. Default `ConnectionError` and `EOFError`.
            create_timeout: Seconds for one creation or check. Default 30.
            close_timeout: Seconds for one destruction or reset, and for holders at the end. Default 5.
            backoff: The first and the longest pause between failing creations, in seconds. Default 0.1 and 5.
            leak_after: Seconds after which a WARNING says who has one, and where it was acquired.

        Returns:
            The pool; it makes `min` resources in the background.

        Raises:
            ScopeClosed: The scope is not open.
            TypeError: An option has the wrong type.
            ValueError: An option has a value that it cannot have.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def connect():
            ...     return ["connection"]
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         pool = s.pool(connect, name="db", max=2)
            ...         async with pool.acquire() as connection:
            ...             print(connection, pool)
            >>> anyio.run(main)
            ['connection'] <Pool db of app open, 1 of 2 in use, 0 available, 0 waiting>
        """
        self._owner.require_open("pool", create)
        made: Pool[Any] = Pool(
            create, destroy=destroy, min=min, max=max, acquire_timeout=acquire_timeout, name=name,
            max_waiting=max_waiting, max_idle=max_idle, max_lifetime=max_lifetime, check=check,
            check_after=check_after, reset=reset, discard_on=discard_on, create_timeout=create_timeout,
            close_timeout=close_timeout, backoff=backoff, leak_after=leak_after,
        )  # fmt: skip
        return made.open_in(self._owner)

    # ------------------------------------------------------------------ streams

    @overload
    def stream(
        self,
        source: AsyncIterable[T] | Callable[[], AsyncIterable[T]],
        *,
        timeout: float | None = ...,
        item_timeout: float | None = ...,
        own_task: bool = ...,
        buffer: int = ...,
    ) -> Stream[T]: ...
    @overload
    def stream(
        self,
        source: Iterable[T] | Callable[[], Iterable[T]],
        *,
        timeout: float | None = ...,
        item_timeout: float | None = ...,
        own_task: bool = ...,
        buffer: int = ...,
    ) -> Stream[T]: ...
    def stream(
        self,
        source: Any,
        *,
        timeout: float | None = None,
        item_timeout: float | None = None,
        own_task: bool = False,
        buffer: int = 0,
    ) -> Stream[Any]:
        """Read a source in the hands of the scope: interrupted with it, and closed in any case.

        `async with s.stream(source) as items: async for item in items: ...` closes the source in the same task before
        the block is left; prefer it. A bare `async for item in s.stream(source)` closes it soon after the loop is left,
        in a task of the scope, and at the end of the scope at the latest.

        Cancelling the scope cuts whoever waits for an item. A task that is not the scope's gets `ScopeCancelled`, and
        `StreamClosed` where the scope ends; it is not cancelled itself.

        Args:
            source: An async or plain iterable, or a function without arguments that makes one. An iterator belongs to
                the stream from now on, which closes it.
            timeout: Seconds for which all items together may be waited for, `StreamTimeout` after that; the time that
                the body of the loop takes does not count. `None` (default) for no limit.
            item_timeout: The same for each item.
            own_task: Whether the source runs in a task of its own, from its first step to its end. Needed where it
                keeps a cancel scope or a task group open across its `yield`; also, an `item_timeout` does not end it
                then, and a step that is cut off loses nothing. Default false.
            buffer: How many items to read ahead, in such a task. Default 0, none.

        Raises:
            TypeError: The source is no iterable, or an option has the wrong type.
            ValueError: An option has an impossible value.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def lines():
            ...     yield "one"
            ...     yield "two"
            >>> async def main():
            ...     async with scope() as s:
            ...         async with s.stream(lines()) as items:
            ...             async for line in items:
            ...                 print(line)
            >>> anyio.run(main)
            one
            two
        """
        return open_stream(
            self._owner, source, timeout=timeout, item_timeout=item_timeout, own_task=own_task, buffer=buffer
        )

    def on_exit(self, fn: Callable[..., object], *args: Any) -> None:
        """Register a clean-up: `fn(*args)` runs when the scope closes, last registered first.

        It runs exactly once, after all tasks and child scopes have ended, shielded, for at most
        `close_timeout` seconds, in a task of its own. What it raises leaves the scope.

        Args:
            fn: A plain or async function.
            *args: Its positional arguments.

        Raises:
            TypeError: `fn` cannot be called.
            ScopeClosed: The scope has closed.
            ScopeMisuse: Before entry, or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         s.on_exit(print, "first in, last out")
            ...         s.on_exit(print, "last in, first out")
            >>> anyio.run(main)
            last in, first out
            first in, last out
        """
        require_callable("s.on_exit", fn)
        self._owner.require_open("on_exit", fn, closing_too=True)
        self._owner.push(name_of(fn), fn, args)


def scope(
    *,
    name: str | None = None,
    timeout: float | None = None,
    concurrency: int | None = None,
    parent: Scope | Ambient | None = AMBIENT,
    signal: CancelSignal | None = None,
    hooks: Hooks | Iterable[Hooks] = (),
    close_timeout: float | None = CLOSE_TIMEOUT,
) -> Scope:
    """Make the owner of what will be started in one block.

    Enter it with `async with scope(...) as s:`.

    Args:
        name: What to call it in errors, hooks and the tree; default `scope`.
        timeout: Seconds from entry after which everything in it is cancelled and the block raises
            `ScopeTimeout`; `None` (default) for no limit.
        concurrency: How many of its tasks may run at once, and the default for the parallel family;
            `None` (default) for any number.
        parent: The scope to belong to, also from another task. By default the one that is current where
            this one is entered; `None` makes a root.
        signal: A signal to be cancelled by. Given without `parent`, it is all that is inherited.
        hooks: A `Hooks` object or several; called after those of the parent.
        close_timeout: Seconds that each clean-up step may take, default 10; `None` for no bound.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has an impossible value.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> async def main():
        ...     async with scope(name="app") as s:
        ...         print(s)
        ...     print(s)
        >>> anyio.run(main)
        <Scope app open, 0 running>
        <Scope app closed>
    """
    if close_timeout is not CLOSE_TIMEOUT:
        close_timeout = check_seconds("close_timeout", close_timeout, positive=True)
    owner = Owner(  # by position: names would be a dict that Python makes and takes apart, each time
        "scope" if name is None else check_name("name", name),
        None if timeout is None else check_seconds("timeout", timeout),
        close_timeout,
        parent if parent is AMBIENT else _as_owner(parent),
        None if signal is None else _as_signal(signal),
        NO_HOOKS if hooks is NO_HOOKS else as_hooks(hooks),
    )
    return Scope(owner, None if concurrency is None else check_count("concurrency", concurrency))


def current_scope() -> Scope:
    """The innermost open scope of the running code.

    Raises:
        NoCurrentScope: There is none: outside of every block, in a thread or a callback that was started
            elsewhere.

    Example:
        >>> import anyio
        >>> from anyscope import current_scope, scope
        >>> async def where():
        ...     return current_scope().path
        >>> async def main():
        ...     async with scope(name="app"), scope(name="ingest") as s:
        ...         print(await where())
        >>> anyio.run(main)
        app > ingest
    """
    owner = nearest_open()
    found: Scope | None = None if owner is None else owner.face()
    if found is None:
        raise NoCurrentScope(action="current_scope()")
    return found


@overload
async def use(key: type[T] | Key[T], /) -> T: ...
@overload
async def use(key: type[T] | Key[T], default: D, /) -> T | D: ...
@overload
async def use(key: str, default: object = ..., /) -> Any: ...
async def use(key: type[Any] | Key[Any] | str, default: Any = MISSING, /) -> Any:
    """Give a service of the current scope; see `Scope.use`.

    In a factory and in a clean-up that is the scope that they belong to.

    Args:
        key: What it was provided as.
        default: What to give where no scope provides it; by default that is an error.

    Raises:
        NoCurrentScope: No scope is open here; also where a default is given.
        ServiceNotFound: No scope provides it.
        ServiceCycle: Its factory needs the service itself.
        Exception: What its factory raised.
        ScopeCancelled: As for `Scope.use`.
        ScopeClosed: As for `Scope.use`.
        TypeError: The key is no key.

    Example:
        >>> import anyio
        >>> from anyscope import scope, use
        >>> async def main():
        ...     async with scope().provide_value("greeting", "hello"):
        ...         print(await use("greeting"))
        >>> anyio.run(main)
        hello
    """
    owner = nearest_open(closing_too=True)
    if not isinstance(owner, Owner):
        raise NoCurrentScope(action=f"use({label_of(key)})")
    value = services.instant(owner, key)
    return await services.use(owner, key, default) if value is MISSING else value


def _as_owner(parent: object) -> Owner | None:
    if parent is None:
        return None
    if isinstance(parent, Scope):
        return parent._owner  # noqa: SLF001  the class of this very module
    raise TypeError(f"parent must be a Scope, or None for a root, got {parent!r} ({type(parent).__name__})")


def _as_signal(signal: object) -> CancelSignal:
    if isinstance(signal, CancelSignal):
        return signal
    raise TypeError(f"signal must be a CancelSignal such as s.signal, got {signal!r} ({type(signal).__name__})")
