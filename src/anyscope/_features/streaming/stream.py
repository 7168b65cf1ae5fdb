"""`Stream`: what users see.

The object is a handle: what it reads, and how that is closed, is in `reading`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..._vocabulary.options import check_whole
from . import checks
from .buffer import Buffer
from .line import recipe_of
from .operators import Operators
from .reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from typing_extensions import Self

    from ..._lifetime.owner import Owner

T = TypeVar("T")
S = TypeVar("S")
D = TypeVar("D")

_NOTHING: Any = object()


class Stream(Operators[T]):
    """Items that come one after the other, read once, by one loop at a time; `Scope.stream` makes one.

    `async for item in stream` reads it. Inside `async with stream:` it is closed, in the same task, before the block is
    left; without, soon after the loop is left, and at the end of the scope at the latest.

    Operators such as `map` give a new stream and take this one over: it cannot be read by itself any more. Nothing is
    read before the result is. Functions that they are given may be plain or async; what those raise is raised bare, and
    so is what the source raises, after all that came before it.

    A reader that is cut off (`move_on_after` around a step) loses nothing where items are made in tasks of the scope:
    `own_task=True`, `buffer`, `merge`, `broadcast`, `debounce`, `batch(within=)`, `map(concurrency=)`. In its own task
    that ends the source, as always in Python, if it is a generator, or if an operator stands between.

    When the scope is cancelled or ends, whoever waits for an item does not wait on, in whichever task that is: a task
    of the scope is cancelled with it, any other one gets `ScopeCancelled` or `StreamClosed`. A loop ends by itself only
    where the source has ended.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> async def numbers():
        ...     for number in range(1, 1000):
        ...         yield number
        >>> async def main():
        ...     async with scope() as s:
        ...         async for batch in s.stream(numbers()).filter(lambda n: n % 2).take(5).batch(2):
        ...             print(batch)
        >>> anyio.run(main)
        [1, 3]
        [5, 7]
        [9]
    """

    __slots__ = ()

    def __aiter__(self) -> Self:
        self._reading.begin_loop()
        return self

    async def __aenter__(self) -> Self:
        self._reading.begin_block()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._reading.aclose()  # noqa: ASYNC102  shielded there where it is needed
        except Exception as raised:
            if error is None:
                raise
            self._reading.report(raised)  # the block's own goes first, and this one must not vanish

    def __del__(self) -> None:
        """Have it closed soon, in a task of its scope."""
        reading = getattr(self, "_reading", None)
        if reading is not None:
            reading.was_dropped(self)

    def __repr__(self) -> str:
        return f"<Stream {self._reading.full_label} {self._reading.state}>"

    @property
    def name(self) -> str:
        """What it is made of, such as `read_lines.map.filter`."""
        return self._reading.name

    async def aclose(self) -> None:
        """Close the source, and everything between; whoever waits for an item in another task gets `StreamClosed`.

        A loop in the task that made the stream is not interrupted unless the source has a task of its own. If that is a
        generator, the loop gets one more item first, if one comes; else the source is closed under it.

        Cancelled, it still closes what can be closed, shielded and for at most `close_timeout` of the scope.

        Raises:
            Exception: What closing raised.
        """
        await self._reading.aclose()

    # ------------------------------------------------------------------ sinks

    async def collect(self) -> list[T]:
        """All items, as a list; the source is closed then."""
        self._require_own()
        async with self:
            return [item async for item in self]

    @overload
    async def reduce(self, fn: Callable[[S, T], Coroutine[Any, Any, S]], initial: S) -> S: ...
    @overload
    async def reduce(self, fn: Callable[[S, T], S], initial: S) -> S: ...
    async def reduce(self, fn: Callable[[Any, T], Any], initial: Any) -> Any:
        """The state after all items: `fn(state, item)`, plain or async, gives the next one.

        Args:
            fn: The function.
            initial: The state before the first item, which is the result where there is none.

        Raises:
            TypeError: `fn` cannot be called.
            Exception: What the source or `fn` raised; the source is closed.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream([3, 4, 5]).reduce(lambda total, n: total + n, 0))
            >>> anyio.run(main)
            12
        """
        state = initial
        async with self.scan(fn, initial) as states:
            async for state in states:  # noqa: B007  the last one is the result
                pass
        return state

    async def for_each(self, fn: Callable[[T], object], *, concurrency: int | None = None) -> None:
        """Call `fn`, plain or async, with each item.

        Args:
            fn: The function.
            concurrency: How many calls at once, as for `map`; by default one.

        Raises:
            Exception: What a call raised: those that ran have been cancelled and have ended.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def save(number):
            ...     await anyio.sleep(0.01 * number)
            ...     print(number)
            >>> async def main():
            ...     async with scope() as s:
            ...         await s.stream([3, 1, 2]).for_each(save, concurrency=3)
            >>> anyio.run(main)
            1
            2
            3
        """
        await self.map(fn, concurrency=concurrency, ordered=False).drain()

    @overload
    async def first(self) -> T: ...
    @overload
    async def first(self, default: D) -> T | D: ...
    async def first(self, default: Any = _NOTHING) -> Any:
        """The first item; the source is closed then.

        Args:
            default: What to give where there is none.

        Raises:
            LookupError: There is none, and no default.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream([3, 4, 5]).filter(lambda n: n > 3).first())
            ...         print(await s.stream([]).first(None))
            >>> anyio.run(main)
            4
            None
        """
        self._require_own()
        async with self:
            async for item in self:
                return item
        if default is _NOTHING:
            raise LookupError(f"stream {self._reading.full_label} is empty: first() has nothing to give")
        return default

    async def count(self) -> int:
        """How many items there are."""
        self._require_own()
        number = 0
        async with self:
            async for _ in self:
                number += 1
        return number

    async def drain(self) -> None:
        """Read all items, for what that does."""
        self._require_own()
        async with self:
            async for _ in self:
                pass


def open_stream(
    owner: Owner,
    source: object,
    *,
    timeout: float | None,
    item_timeout: float | None,
    own_task: bool,
    buffer: int,
) -> Stream[Any]:
    """`s.stream`: check everything, then make it; nothing is read yet."""
    total, per_item = checks.limit("timeout", timeout), checks.limit("item_timeout", item_timeout)
    most = check_whole("buffer", buffer, least=0)
    recipe = recipe_of(source)
    owner.require_open("stream", recipe.name)
    if own_task or most:
        recipe = recipe.within("", lambda line, make: Buffer(line, make, most), survives=True)
    stream: Stream[Any] = Stream(Reading(owner, recipe))
    if total is None and per_item is None:
        return stream
    return stream.timed(total, per_item, "")
