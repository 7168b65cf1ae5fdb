"""Jobs: async functions without arguments, and where they come from.

`[lambda: fetch(x) for x in xs]` calls `fetch` with the last `x` every time, because a closure holds
variables and not values. So `each(fetch, xs)` makes jobs from one function and many arguments, and the trap
is told where it can be seen: functions of the same code over the very same closure cells are the same job.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sized
from types import FunctionType
from typing import Any, Generic, TypeAlias, TypeGuard, TypeVar, overload

from .._vocabulary.options import is_coroutine, name_of, require_async

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")

Job: TypeAlias = Callable[[], Coroutine[Any, Any, T]]
"""An async function without arguments."""

Jobs: TypeAlias = Iterable[Callable[[], Coroutine[Any, Any, T]]] | AsyncIterable[Callable[[], Coroutine[Any, Any, T]]]
"""Where jobs come from; consumed lazily, in order."""


class Each(Generic[T_co]):
    """Jobs that call one function with each of many arguments; made by `each()`.

    Args:
        fn: An async function of one argument.
        items: The arguments; read lazily, and more than once only if they can be.
    """

    __slots__ = ("fn", "items")

    def __init__(self, fn: Callable[[Any], Coroutine[Any, Any, T_co]], items: Iterable[Any]) -> None:
        self.fn: Callable[[Any], Coroutine[Any, Any, T_co]] = fn
        self.items: Iterable[Any] = items

    def __iter__(self) -> Iterator[Callable[[], Coroutine[Any, Any, T_co]]]:
        for item in self.items:
            yield functools.partial(self.fn, item)

    def __repr__(self) -> str:
        return f"<each {name_of(self.fn)}{_count(self.items)}>"


class AsyncEach(Generic[T_co]):
    """Jobs that call one function with each of many arguments that arrive over time; made by `each()`.

    Args:
        fn: An async function of one argument.
        items: The arguments.
    """

    __slots__ = ("fn", "items")

    def __init__(self, fn: Callable[[Any], Coroutine[Any, Any, T_co]], items: AsyncIterable[Any]) -> None:
        self.fn: Callable[[Any], Coroutine[Any, Any, T_co]] = fn
        self.items: AsyncIterable[Any] = items

    async def __aiter__(self) -> AsyncIterator[Callable[[], Coroutine[Any, Any, T_co]]]:
        async for item in self.items:
            yield functools.partial(self.fn, item)

    def __repr__(self) -> str:
        return f"<each {name_of(self.fn)}>"


@overload
def each(fn: Callable[[A], Coroutine[Any, Any, T]], items: Iterable[A]) -> Each[T]: ...
@overload
def each(fn: Callable[[A], Coroutine[Any, Any, T]], items: AsyncIterable[A]) -> AsyncEach[T]: ...
def each(
    fn: Callable[[Any], Coroutine[Any, Any, T]], items: Iterable[Any] | AsyncIterable[Any]
) -> Each[T] | AsyncEach[T]:
    """Make jobs from one function and many arguments: `fn(items[0])`, `fn(items[1])`, ...

    Args:
        fn: An async function of one argument.
        items: The arguments, an iterable or an async iterable; read lazily.

    Returns:
        Something to give to `parallel`, `parallel_aggregate`, `as_completed`, `race` or `any`.

    Raises:
        TypeError: `fn` is not an async function, or `items` cannot be iterated over.

    Example:
        >>> import anyio
        >>> from anyscope import each, scope
        >>> async def square(x):
        ...     return x * x
        >>> async def main():
        ...     async with scope() as s:
        ...         print(await s.parallel(each(square, [1, 2, 3]), concurrency=2))
        >>> anyio.run(main)
        [Ok(value=1), Ok(value=4), Ok(value=9)]
    """
    require_async("each", fn, ())
    if isinstance(items, Iterable):
        return Each(fn, items)
    if isinstance(items, AsyncIterable):
        return AsyncEach(fn, items)
    raise TypeError(f"each({name_of(fn)}, ...): expected an iterable, got {items!r} ({type(items).__name__})")


def _count(items: object) -> str:
    return f" of {len(items)}" if isinstance(items, Sized) else ""


class Checked(Generic[T]):
    """The jobs of one call, checked as early as they can be.

    With `each` a job is done as `begin(item)`, for an item of the source, so that it has not to be made only to be
    called; otherwise the items are the jobs, and there is no `begin`.

    Args:
        call: The call that the user wrote, such as `s.parallel`.
        jobs: What was passed.

    Attributes:
        total: How many there are, `None` where that is not known.
        begin: The function of `each`, to be called with an item.
        _known: The functions that were found to be async, so that each is looked at once.
    """

    __slots__ = ("_known", "begin", "call", "jobs", "total")

    def __init__(self, call: str, jobs: Jobs[T]) -> None:
        if not isinstance(jobs, (Iterable, AsyncIterable)):
            raise TypeError(
                f"{call}(...): expected several jobs, got {jobs!r} ({type(jobs).__name__})\n"
                f"Right: {call}([first, second])   or: {call}(each(fetch, items))"
            )
        self.call: str = call
        self.jobs: Jobs[T] = jobs
        self.total: int | None = _total(jobs)
        self.begin: Callable[[Any], Any] | None = jobs.fn if _is_each(jobs) or _is_async_each(jobs) else None
        self._known: set[object] = set()
        if isinstance(jobs, (list, tuple)):
            self._check_all(jobs)

    def _check_all(self, jobs: list[Job[T]] | tuple[Job[T], ...]) -> None:
        given: list[Any] = list(jobs)
        wrong = [job for job in given if is_coroutine(job)]
        for coro in wrong[1:]:
            coro.close()  # the first is closed by the message about it
        for job in wrong[:1] or given:
            self.check(job)
        _refuse_late_binding(self.call, jobs)

    def check(self, job: object) -> None:
        """Refuse what is certainly not an async function, without calling it."""
        kind: object = job.__code__ if type(job) is FunctionType else _kind(job)
        if kind not in self._known:
            require_async(self.call, job, ())
            self._known.add(kind)

    def __iter__(self) -> Iterator[Any]:
        """The items, of a source that is not async."""
        assert isinstance(self.jobs, Iterable)
        if _is_each(self.jobs):
            return iter(self.jobs.items)
        if isinstance(self.jobs, (list, tuple)):
            return iter(self.jobs)
        return map(self._checked, self.jobs)

    def reader(self) -> AsyncGenerator[Any, None]:
        """The items of an async source; closing the reader closes the source, in the same task."""
        assert isinstance(self.jobs, AsyncIterable)
        if _is_async_each(self.jobs):
            return _read(self.jobs.items)
        return _read(self.jobs, self._checked)

    def name_of(self, item: object) -> str:
        """The name of the job that is done with an item."""
        return name_of(item if self.begin is None else self.begin)

    def _checked(self, job: Job[T]) -> Job[T]:
        self.check(job)
        return job


async def _read(items: AsyncIterable[Any], check: Callable[[Any], Any] | None = None) -> AsyncGenerator[Any, None]:
    iterator = aiter(items)
    try:
        async for item in iterator:
            yield item if check is None else check(item)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()  # noqa: ASYNC102  shielded by the feeder's scope


def _is_each(jobs: object) -> TypeGuard[Each[Any]]:
    return isinstance(jobs, Each)


def _is_async_each(jobs: object) -> TypeGuard[AsyncEach[Any]]:
    return isinstance(jobs, AsyncEach)


def _kind(job: object) -> object:
    """What stands for all jobs that are async for the same reason."""
    if isinstance(job, functools.partial):
        return _kind(job.func) if not isinstance(job.func, FunctionType) else job.func.__code__
    return job


def _total(jobs: object) -> int | None:
    if isinstance(jobs, Each):
        jobs = jobs.items
    return len(jobs) if isinstance(jobs, Sized) else None


def _refuse_late_binding(call: str, jobs: Iterable[Job[Any]]) -> None:
    seen: dict[object, object] = {}
    for job in jobs:
        if type(job) is not FunctionType or not job.__closure__:
            continue
        kwdefaults = job.__kwdefaults__ or {}
        key = (
            job.__code__,
            tuple(map(id, job.__closure__)),
            tuple(map(id, job.__defaults__ or ())),
            tuple((name, id(value)) for name, value in kwdefaults.items()),
        )
        if seen.setdefault(key, job) is not job:
            raise ValueError(
                f"{call}(...): several jobs are the same function over the same variables, "
                "so all of them would do the same\n"
                f"Wrong: {call}([lambda: fetch(x) for x in xs])   (every job sees the last x)\n"
                f"Right: {call}(each(fetch, xs))   (or [job] * 3 to do the same three times)"
            )
