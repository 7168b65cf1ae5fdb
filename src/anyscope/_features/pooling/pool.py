"""The resource pool, as users see it.

Over 400 lines, two thirds of them docstrings: each method says what cancellation does to it, and shows itself at work.
"""

from __future__ import annotations

import inspect
import sys
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar, overload

import anyio
from anyio.lowlevel import checkpoint

from ..._lifetime.backend import TURNS, running_task
from ..._lifetime.owner import Owner
from ..._lifetime.start import Start
from ..._vocabulary.errors import PoolClosed, PoolMisuse
from ..._vocabulary.notes import group_of
from ..._vocabulary.options import require_callable
from ..._vocabulary.pools import PoolStats, bound_of, check_sizes, settings_of
from .acquire import Acquire
from .keeper import Keeper
from .numbers import described, statistics_of, timeout_of
from .stock import Stock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from typing_extensions import Self, TypedDict, TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")
R = TypeVar("R")

if TYPE_CHECKING:

    class PoolOptions(TypedDict, Generic[T], total=False):
        """The options of a pool, for type checkers."""

        destroy: Callable[[T], object] | None
        min: int
        max: int
        acquire_timeout: float | None
        name: str | None
        max_waiting: int | None
        max_idle: float | None
        max_lifetime: float | None
        check: Callable[[T], object] | None
        check_after: float
        reset: Callable[[T], object] | None
        discard_on: type[BaseException] | tuple[type[BaseException], ...]
        create_timeout: float | None
        close_timeout: float | None
        backoff: tuple[float, float]
        leak_after: float | None


INHERIT: Any = object()


class Pool(Generic[T]):
    """Resources that are made when needed, lent to one task at a time, and kept for the next.

    `s.pool(...)` makes one that lives as long as the scope. Standing alone it is entered with `async with`.

    All time spans are seconds, `None` for no bound.

    Args:
        create: Makes one resource: a plain or async function, one that gives an async context manager, or an async
            generator function. It runs in a task of the pool, as do `check`, `reset` and `destroy`, and nobody who
            waits for a resource cancels it.
        destroy: Ends one; plain or async. By default its `aclose()` or `close()` is called, if there is one; a context
            manager is left.
        min: How many are made at once and kept. Default 0.
        max: How many there may be, those being created and destroyed included. Default 10.
        acquire_timeout: How long a task waits for one in all: in the queue, for `create` and for `check`. Default 30.
        name: What it is called. Default the name of `create`.
        max_waiting: How many tasks may wait for others to give back; more get `PoolFull` at once. Default any number.
        max_idle: What nobody has used for so long goes, as long as more than `min` are there. Default 600.
        max_lifetime: What is older goes, as soon as nobody uses it. Each lives up to a tenth less. Default 3600.
        check: Says whether one is healthy, by giving anything but `False`; an error means that it is not.
        check_after: It is asked for what was idle for so long or longer; 0 for always. Default 1.
        reset: Makes one fit for the next user, after each use; `False` or an error means that it could not.
        discard_on: Errors that end the use of a resource: it is destroyed when a block ends with one of them. Default
            `ConnectionError` and `EOFError`.
        create_timeout: Bound of one creation, and of one check. Default 30.
        close_timeout: Bound of one destruction, of one reset, and of the wait for holders at the end. Default 5.
        backoff: The first and the longest pause between failing creations. Default 0.1 and 5.
        leak_after: A resource that is lent for longer is told of as a WARNING, with the place where it was acquired.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that it cannot have.

    Example:
        >>> import anyio
        >>> from anyscope import Pool
        >>> async def main():
        ...     async with Pool(lambda: object(), name="things", max=2) as pool:
        ...         async with pool.acquire():
        ...             print(pool)
        >>> anyio.run(main)
        <Pool things open, 1 of 2 in use, 0 available, 0 waiting>
    """

    __slots__ = ("__weakref__", "_keeper", "_own", "_settings", "_sizes", "_state")

    @overload
    def __init__(self, create: Callable[[], AsyncIterator[T]], **options: Unpack[PoolOptions[T]]) -> None: ...
    @overload
    def __init__(self, create: Callable[[], Awaitable[T]], **options: Unpack[PoolOptions[T]]) -> None: ...
    @overload
    def __init__(
        self, create: Callable[[], AbstractAsyncContextManager[T]], **options: Unpack[PoolOptions[T]]
    ) -> None: ...
    @overload
    def __init__(self, create: Callable[[], T], **options: Unpack[PoolOptions[T]]) -> None: ...
    def __init__(
        self,
        create: Callable[[], Any],
        *,
        destroy: Callable[[T], object] | None = None,
        min: int = 0,
        max: int = 10,
        acquire_timeout: float | None = 30.0,
        name: str | None = None,
        max_waiting: int | None = None,
        max_idle: float | None = 600.0,
        max_lifetime: float | None = 3600.0,
        check: Callable[[T], object] | None = None,
        check_after: float = 1.0,
        reset: Callable[[T], object] | None = None,
        discard_on: type[BaseException] | tuple[type[BaseException], ...] = (ConnectionError, EOFError),
        create_timeout: float | None = 30.0,
        close_timeout: float | None = 5.0,
        backoff: tuple[float, float] = (0.1, 5.0),
        leak_after: float | None = None,
    ) -> None:
        self._settings = settings_of(
            create, destroy, name, acquire_timeout, max_waiting, max_idle, max_lifetime, check, check_after, reset,
            discard_on, create_timeout, close_timeout, backoff, leak_after,
        )  # fmt: skip
        self._sizes = check_sizes(min, max)
        self._keeper = Keeper()
        self._own: Owner | None = None  # of a pool that stands alone; written by `__aenter__`
        self._state: Stock[T] | None = None  # written once, by `open_in`

    def open_in(self, owner: Owner) -> Self:
        """Begin to work, in tasks of `owner`, until that closes."""
        label = f"{self.name} of {owner.path}" if self._own is None else owner.path
        stock = self._state = Stock(owner, label, self._settings, self._sizes, self._keeper.wake)
        owner.push(self.name, self._close_with_scope, kind="pool", subject=self)
        _ = owner.spawn(Start(lambda: self._keeper.run(owner, stock.tick)), _keeper_name(stock))
        stock.grow()
        return self

    async def __aenter__(self) -> Self:
        if self._state is not None:
            raise PoolMisuse(
                pool=self._stock.label, problem="it was entered a second time", remedy="Make another one: Pool(...)"
            )
        self._own = Owner(name=self.name, close_timeout=None)
        await self._own.enter(self)
        return self.open_in(self._own)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._own is not None
        return await self._own.leave(error, self)  # noqa: ASYNC102  a group's exit waits on when cancelled

    @property
    def _stock(self) -> Stock[T]:
        if self._state is None:
            raise PoolMisuse(
                pool=self.name, problem="it is not open yet", remedy="Right: async with Pool(...) as pool: ..."
            )
        return self._state

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """The name given to it, or that of `create`."""
        return self._settings.name

    @property
    def closed(self) -> bool:
        """Whether closing has begun."""
        return self._state is not None and self._state.is_closed

    @property
    def stats(self) -> PoolStats:
        """Its numbers, as a frozen record; costs the same however many resources and waiting tasks there are.

        Raises:
            PoolMisuse: A pool that stands alone was not entered.
        """
        return statistics_of(self._stock)

    def __repr__(self) -> str:
        if self._state is None:
            return f"<Pool {self.name} not open>"
        state = "closed" if self.closed else "open"
        return f"<Pool {self._stock.label} {state}, {self.stats}>"

    # ------------------------------------------------------------------ getting one and giving it back

    def acquire(self, *, timeout: float | None = INHERIT) -> Acquire[T]:
        """Get a resource: `async with pool.acquire() as it`, or `it = await pool.acquire()` and `pool.release(it)`.

        Tasks are served in order of arrival. Cancelled while it waits, a task leaves the queue, and a resource that was
        just handed to it goes to the next one; a creation goes on, for others. A block that is cancelled leaves its
        resource in an unknown state: it is destroyed, unless `reset` says that it is fit.

        Args:
            timeout: Seconds to wait at most, `create` and `check` included; 0 takes only what is there, `None` waits
                for ever. Default the `acquire_timeout` of the pool.

        Returns:
            Something to be awaited, or entered with `async with`, which gives back when the block is left.

        Raises:
            PoolClosed: Closing has begun, or begins during the wait.
            PoolFull: When awaited: `max_waiting` tasks wait already.
            PoolTimeout: When awaited: nothing was to be had in time. The last error of `create` is its `__cause__`.
            PoolMisuse: A pool that stands alone was not entered; or what this gave is entered by two at a time.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists") as pool:
            ...         async with pool.acquire() as things:
            ...             things.append(1)
            ...         again = await pool.acquire(timeout=5)
            ...         print(again)
            ...         pool.release(again)
            >>> anyio.run(main)
            [1]
        """
        frame = sys._getframe(1)  # noqa: SLF001  there is no cheaper way to say where it was acquired
        limit = self._settings.acquire_timeout if timeout is INHERIT else bound_of("timeout", timeout)
        return Acquire(self._usable("acquire"), limit, (frame.f_code, frame.f_lasti))

    def acquire_nowait(self) -> T:
        """Get an idle resource at once; give it back with `release` or `discard`. Nothing can cancel this.

        Returns:
            The resource.

        Raises:
            anyio.WouldBlock: There is none that is fit to be lent unchecked, or others have come first.
            PoolClosed: Closing has begun.
            PoolMisuse: A pool that stands alone was not entered.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists", max=1, min=1) as pool:
            ...         await pool.ready()
            ...         it = pool.acquire_nowait()
            ...         try:
            ...             pool.acquire_nowait()
            ...         except anyio.WouldBlock:
            ...             print(pool)
            ...         pool.release(it)
            >>> anyio.run(main)
            <Pool lists open, 1 of 1 in use, 0 available, 0 waiting>
        """
        frame = sys._getframe(1)  # noqa: SLF001  as in `acquire`
        stock = self._usable("acquire_nowait")
        item = stock.take((frame.f_code, frame.f_lasti), stock.now())
        if item is None:
            raise anyio.WouldBlock
        return item.value

    @overload
    async def execute(
        self, fn: Callable[[T, Unpack[Ts]], Awaitable[R]], *args: Unpack[Ts], timeout: float | None = ...
    ) -> R: ...
    @overload
    async def execute(self, fn: Callable[[T, Unpack[Ts]], R], *args: Unpack[Ts], timeout: float | None = ...) -> R: ...
    async def execute(
        self, fn: Callable[[T, Unpack[Ts]], Any], *args: Unpack[Ts], timeout: float | None = INHERIT
    ) -> Any:
        """Call `fn(resource, *args)` with a resource, and give it back.

        Cancelled while it waits for one, it loses nothing; cancelled in `fn`, the resource is destroyed, unless `reset`
        says that it is fit. The cancellation and the errors of `fn` pass through.

        Args:
            fn: A plain or async function.
            *args: What it is given after the resource.
            timeout: Seconds to wait for a resource, as for `acquire`; `fn` itself has no bound.

        Returns:
            What `fn` gives.

        Raises:
            PoolClosed: Closing has begun, or begins during the wait.
            PoolFull: `max_waiting` tasks wait already.
            PoolTimeout: Nothing was to be had in time.
            TypeError: `fn` is no function, or a coroutine object.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def count(things, thing):
            ...     things.append(thing)
            ...     return len(things)
            >>> async def main():
            ...     async with Pool(list, name="lists") as pool:
            ...         print(await pool.execute(count, "a"), await pool.execute(count, "b"))
            >>> anyio.run(main)
            1 2
        """
        require_callable("pool.execute", fn)
        async with self.acquire(timeout=timeout) as resource:
            made = fn(resource, *args)
            return await made if inspect.isawaitable(made) else made

    def release(self, resource: T) -> None:
        """Give it back; it goes to the next who waits, after `reset` if there is one. Nothing can cancel this.

        Any task may give it back. After the pool has taken it away in closing, this does nothing.

        Args:
            resource: What `acquire` or `acquire_nowait` gave.

        Raises:
            PoolMisuse: It has been given back already, or is not one of its resources; the pool is as it was.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists") as pool:
            ...         pool.release(await pool.acquire())
            ...         print(pool)
            >>> anyio.run(main)
            <Pool lists open, 0 of 10 in use, 1 available, 0 waiting>
        """
        item = self._lent(resource, "release")
        if item is not None:
            self._stock.give_back(item, used=True)

    def discard(self, resource: T) -> None:
        """Give it back broken: it is destroyed, and another one takes its place if needed. Nothing can cancel this.

        Args:
            resource: What `acquire` or `acquire_nowait` gave.

        Raises:
            PoolMisuse: It has been given back already, or is not one of its resources; the pool is as it was.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists") as pool:
            ...         pool.discard(await pool.acquire())
            ...         print(dict(pool.stats.discarded))
            >>> anyio.run(main)
            {'user': 1}
        """
        item = self._lent(resource, "discard")
        if item is not None:
            self._stock.discard(item, "user")

    def _lent(self, resource: T, action: str) -> Any:
        stock = self._local(action)
        lent = [item for item in stock.items if item.state == "in use" and item.value is resource]
        if lent:
            task = running_task()
            return next((item for item in lent if item.holder is task), lent[0])
        if stock.is_closed:
            return None  # it was taken away when the pool closed
        if any(item.has_value and item.value is resource for item in stock.items):
            problem = f"{action}() of a resource that has been given back already"
        else:
            problem = f"{action}() of a {type(resource).__name__} that is not one of its resources"
        raise PoolMisuse(
            pool=stock.label,
            problem=problem,
            remedy="Right: async with pool.acquire() as it: ...   which gives back once, and to the right pool",
        )

    # ------------------------------------------------------------------ size

    async def ready(self, *, timeout: float | None = None) -> None:
        """Wait until `min` resources exist, lent ones included. Cancelled, it merely stops to wait.

        Args:
            timeout: Seconds to wait at most. Default `None`: for ever.

        Raises:
            PoolClosed: Closing has begun, or begins during the wait.
            PoolTimeout: They did not exist in time, the last error of `create` being its `__cause__`; the pool goes on.
            PoolMisuse: A pool that stands alone was not entered.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists", min=2) as pool:
            ...         await pool.ready(timeout=5)
            ...         print(pool)
            >>> anyio.run(main)
            <Pool lists open, 0 of 10 in use, 2 available, 0 waiting>
        """
        limit = bound_of("timeout", timeout)
        stock = self._usable("ready")
        if stock.is_warm():
            await checkpoint()
            return
        with anyio.move_on_after(limit):
            while not self._usable("ready").is_warm():
                await self._until_change()
        if not stock.is_warm():
            raise timeout_of(self._stock, limit, running_task())

    def resize(self, *, min: int | None = None, max: int | None = None) -> None:
        """Keep and allow other numbers from now on. Nobody who holds a resource is disturbed.

        What is too many goes as soon as nobody uses it; who waits is served at once if more are allowed.

        Args:
            min: How many are kept. Default as before.
            max: How many there may be. Default as before.

        Raises:
            TypeError: One is not an int.
            ValueError: One is too small, or `min` is more than `max`.
            PoolClosed: Closing has begun.
            PoolMisuse: A pool that stands alone was not entered.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists", max=1) as pool:
            ...         pool.resize(min=2, max=5)
            ...         await pool.ready()
            ...         print(pool)
            >>> anyio.run(main)
            <Pool lists open, 0 of 5 in use, 2 available, 0 waiting>
        """
        stock = self._usable("resize")
        stock.resize(*check_sizes(stock.min if min is None else min, stock.max if max is None else max))

    def refresh(self) -> None:
        """Replace every resource: the idle ones now, the others when they are given back.

        For new credentials, or after a fail-over. It waits for nothing, so there is nothing to cancel.

        Raises:
            PoolClosed: Closing has begun.
            PoolMisuse: A pool that stands alone was not entered.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists") as pool:
            ...         async with pool.acquire():
            ...             pool.refresh()
            ...         print(dict(pool.stats.discarded))
            >>> anyio.run(main)
            {'refresh': 1}
        """
        self._usable("refresh").refresh()

    # ------------------------------------------------------------------ closing

    async def aclose(self) -> None:
        """Close it before its scope does.

        Who waits gets `PoolClosed` at once. Holders are waited for, `close_timeout` seconds at most; what they have is
        destroyed then, as everything else. Cancelled, it leaves closing begun: call it again, or let the scope finish
        it; each resource is destroyed once all the same. Calling it on a closed pool does nothing.

        Raises:
            PoolMisuse: Somebody still had resources: who, since when, and where they were acquired. Or a pool that
                stands alone was not entered.
            Exception: What `destroy` raised, in a group if it is more than one error.
            ScopeMisuse: It was called from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import Pool
            >>> async def main():
            ...     async with Pool(list, name="lists", min=1) as pool:
            ...         await pool.ready()
            ...         await pool.aclose()
            ...         print(pool)
            >>> anyio.run(main)
            <Pool lists closed, 0 of 10 in use, 0 available, 0 waiting>
        """
        stock = self._local("aclose")
        deadline = stock.now() + self._settings.close_timeout
        stock.begin_to_close(deadline)
        began = stock.now()
        with anyio.CancelScope(deadline=deadline):
            while stock.holders():
                await self._until_change()
        self._take_away(began)
        for _ in range(TURNS):
            if all(item.has_begun for item in stock.items):
                break
            await checkpoint()
        stock.give_up_unborn()
        while stock.items:
            await self._until_change()
        self._keeper.stop()
        errors = stock.failures.take()
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise group_of(f"errors of pool {stock.label}", [(error, f"in pool {stock.label}") for error in errors])

    def _take_away(self, began: float) -> None:
        """What is still lent is destroyed, and who has it is told of."""
        stock, now = self._stock, self._stock.now()
        lent = stock.holders()
        if not lent:
            return
        stock.failures.add(
            PoolMisuse(
                pool=stock.label,
                problem=f"closed with {'1 resource' if len(lent) == 1 else f'{len(lent)} resources'} still lent, after "
                f"a wait of {now - began:.3g} s:\n" + "\n".join(f"  {described(item, now)}" for item in lent),
                remedy="Give them back before the scope ends: async with pool.acquire() as it: ...",
            )
        )
        for item in lent:
            stock.discard(item, "closed")

    async def _close_with_scope(self) -> None:
        began = self._stock.now()
        try:
            await self.aclose()
        except BaseException:
            if self._stock.items:  # the bound of the scope has come first
                self._take_away(began)
                self._stock.abandon()
            self._keeper.stop()
            raise

    async def _until_change(self) -> None:
        stock = self._stock
        if stock.changed is None or stock.changed.is_set():
            stock.changed = anyio.Event()
        await stock.changed.wait()

    def _usable(self, action: str) -> Stock[T]:
        """The stock, for a call that needs an open pool."""
        stock = self._state
        if stock is None or stock.is_closed or stock.thread != get_ident():
            raise PoolClosed(pool=self._local(action).label, action=f"{action}()")
        return stock

    def _local(self, action: str) -> Stock[T]:
        """The stock, for a call in the thread of its event loop."""
        stock = self._stock
        if stock.thread != get_ident():
            stock.owner.require_own_thread(f"pool.{action}")
        return stock


def _keeper_name(stock: Stock[Any]) -> str:
    return f"keeper of {stock.label}"


def task_names(pool: Pool[Any]) -> list[str]:
    """The names of an open pool's own tasks."""
    stock = stock_of(pool)
    return [_keeper_name(stock), *(item.task_name for item in stock.items)]


def is_pool(thing: object) -> TypeGuard[Pool[Any]]:
    """Whether it is a pool."""
    return isinstance(thing, Pool)


def stock_of(pool: Pool[T]) -> Stock[T]:
    """The stock of an open pool."""
    return pool._stock  # noqa: SLF001  a function of this module
