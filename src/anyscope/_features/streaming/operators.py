"""The operators of a stream: each gives a new stream, and takes the old one over.

They only extend the recipe; nothing is made, and nothing is read, before the first step.

Over 400 lines, a good part of it docstrings and overloads: what a user looks up in one class stays in one.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeGuard, TypeVar, cast, overload

from ..._vocabulary.errors import ScopeMisuse
from ..._vocabulary.options import check_whole, require_callable
from . import checks, stages
from .buffer import Buffer
from .line import Line, Recipe, recipe_of
from .mapping import Mapping
from .merging import Fan, Merged
from .reading import Reading
from .retrying import Retries, caught, retried
from .timing import Batched, Debounced, Settled, Stamped, Throttled, Timed

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Hashable, Iterable

    from .buffer import Overflow
    from .checks import Errors
    from .line import Make
    from .merging import Halt
    from .stream import Stream

    Join: TypeAlias = Callable[[Line, tuple[Make, ...]], AsyncIterator[Any]]

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
S = TypeVar("S")

_MOST_DISTINCT = 100_000


class Operators(AsyncIterator[T], Generic[T]):
    """What makes a stream of another one; see `Stream`.

    Args:
        reading: What is read.
    """

    if TYPE_CHECKING:

        def __anext__(self) -> Coroutine[Any, Any, T]:
            """The next item."""
            ...

    else:
        # An attribute, for in the common case it is that of the source itself, and so costs nothing.
        __slots__ = ("__anext__", "__weakref__", "_reading")

    def __init__(self, reading: Reading[T]) -> None:
        self._reading = reading
        reading.handle = weakref.ref(self)
        self.go(reading.step)

    def go(self, step: Callable[[], Awaitable[T]]) -> None:
        """For the library itself: take the steps like this from now on."""
        setattr(self, "__anext__", step)  # noqa: B010  an attribute, which type checkers take for a method

    # ------------------------------------------------------------------ how operators are made

    def _goes_on(self, change: Callable[[Recipe], Recipe]) -> Stream[Any]:
        self._require_own()
        self._reading.extend(change)
        self._hands_over()
        return self._another(self._reading)

    def _require_own(self) -> None:
        """Refuse if an operator has taken over what this object read."""
        if self._reading.handle() is not self:
            raise _moved(self._reading)

    def _hands_over(self) -> None:
        """From now on this object itself cannot be read."""
        self.go(functools.partial(_refuse, self._reading))

    def _another(self, reading: Reading[Any]) -> Stream[Any]:
        return cast("Stream[Any]", type(self)(reading))

    def _through(self, operator: str, stage: Callable[..., AsyncIterator[Any]], *args: Any) -> Stream[Any]:
        """With a stage that is a generator."""
        return self._goes_on(lambda recipe: recipe.then(operator, lambda _, source: stage(source, *args)))

    def _joined(self, operator: str, others: tuple[object, ...], build: Join, *, survives: bool = False) -> Stream[Any]:
        """With other sources beside this one."""
        recipes = self._recipes_of(others, f"s.stream(...).{operator}")

        def change(recipe: Recipe) -> Recipe:
            makes = tuple(each.make for each in (recipe, *recipes))
            joined = Recipe(
                recipe.name,
                recipe.make,
                tuple(link for each in (recipe, *recipes) for link in each.given),
                is_restartable=all(each.is_restartable for each in (recipe, *recipes)),
                is_timed=any(each.is_timed for each in (recipe, *recipes)),
            )
            return joined.within(operator, lambda line, _: build(line, makes), survives=survives)

        return self._goes_on(change)

    def _recipes_of(self, others: tuple[object, ...], call: str) -> list[Recipe]:
        """The recipes of other sources, which are taken over if nothing is wrong with any of them."""
        streams = [self, *(other for other in others if _is_stream(other))]
        if len({id(stream) for stream in streams}) < len(streams):
            raise ValueError(f"{call}(...): a stream cannot be joined with itself, for it is read once")
        for stream in streams:
            stream._require_own()  # noqa: SLF001  of this class
            stream._reading.require_idle()  # noqa: SLF001  of this class
        recipes = [None if _is_stream(other) else recipe_of(other, call) for other in others]
        return [recipe or _given_up(other) for recipe, other in zip(recipes, others, strict=True)]

    # ------------------------------------------------------------------ each item

    @overload
    def map(
        self, fn: Callable[[T], Coroutine[Any, Any, U]], *, concurrency: int | None = ..., ordered: bool = ...
    ) -> Stream[U]: ...
    @overload
    def map(self, fn: Callable[[T], U], *, concurrency: int | None = ..., ordered: bool = ...) -> Stream[U]: ...
    def map(self, fn: Callable[[T], Any], *, concurrency: int | None = None, ordered: bool = True) -> Stream[Any]:
        """What `fn` makes of each item.

        With `concurrency`, that many calls run at once, in tasks of the scope; at most twice as many items are taken
        from the source and not yet by the reader. The first error cancels the calls after it and waits for them; it is
        raised bare, behind the results before it. Errors of other calls at that moment are notes on it.

        Args:
            fn: A plain or async function.
            concurrency: How many calls at once; by default one, in the reader's own task.
            ordered: Whether results come in the order of the items (default), or as they are ready.

        Raises:
            TypeError: `fn` cannot be called, or `concurrency` is no int.
            ValueError: `concurrency` is below 1.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch(page):
            ...     await anyio.sleep(0.01 / (page + 1))
            ...     return f"page {page}"
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream(range(3)).map(fetch, concurrency=2).collect())
            >>> anyio.run(main)
            ['page 0', 'page 1', 'page 2']
        """
        require_callable("s.stream(...).map", fn)
        if concurrency is None or check_whole("concurrency", concurrency, least=1) == 1:
            return self._through("map", stages.mapped, fn)
        limit = concurrency
        return self._goes_on(
            lambda recipe: recipe.within(
                "map", lambda line, make: Mapping(line, make, fn, limit, ordered=ordered), survives=True
            )
        )

    @overload
    def filter(self, test: Callable[[T], Coroutine[Any, Any, object]]) -> Stream[T]: ...
    @overload
    def filter(self, test: Callable[[T], object]) -> Stream[T]: ...
    def filter(self, test: Callable[[T], Any]) -> Stream[T]:
        """The items for which `test`, plain or async, gives something true."""
        require_callable("s.stream(...).filter", test)
        return self._through("filter", stages.filtered, test)

    def tap(self, fn: Callable[[T], object]) -> Stream[T]:
        """The same items, after `fn`, plain or async, was called with each."""
        require_callable("s.stream(...).tap", fn)
        return self._through("tap", stages.tapped, fn)

    @overload
    def flat_map(self, fn: Callable[[T], AsyncIterable[U]]) -> Stream[U]: ...
    @overload
    def flat_map(self, fn: Callable[[T], Iterable[U]]) -> Stream[U]: ...
    @overload
    def flat_map(self, fn: Callable[[T], Coroutine[Any, Any, AsyncIterable[U] | Iterable[U]]]) -> Stream[U]: ...
    def flat_map(self, fn: Callable[[T], Any]) -> Stream[Any]:
        """The items of the iterables, async or plain, that `fn` makes of each item, one after the other."""
        require_callable("s.stream(...).flat_map", fn)
        return self._goes_on(
            lambda recipe: recipe.then("flat_map", lambda line, source: stages.flat_mapped(line, source, fn))
        )

    @overload
    def scan(self, fn: Callable[[S, T], Coroutine[Any, Any, S]], initial: S) -> Stream[S]: ...
    @overload
    def scan(self, fn: Callable[[S, T], S], initial: S) -> Stream[S]: ...
    def scan(self, fn: Callable[[Any, T], Any], initial: Any) -> Stream[Any]:
        """The states after each item: `fn(state, item)`, plain or async, gives the next one.

        Args:
            fn: The function.
            initial: The state before the first item; it is not given itself.

        Raises:
            TypeError: `fn` cannot be called.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream([3, 4, 5]).scan(lambda total, n: total + n, 0).collect())
            >>> anyio.run(main)
            [3, 7, 12]
        """
        require_callable("s.stream(...).scan", fn)
        return self._through("scan", stages.scanned, fn, initial)

    def enumerate(self, start: int = 0) -> Stream[tuple[int, T]]:
        """Pairs of a number, counted from `start`, and the item."""
        return self._through("enumerate", stages.enumerated, checks.integer("start", start))

    def pairwise(self) -> Stream[tuple[T, T]]:
        """Pairs of each item and the one after it."""
        return self._through("pairwise", stages.paired)

    # ------------------------------------------------------------------ which items

    def take(self, count: int) -> Stream[T]:
        """The first `count` items; no more are read, and the source is closed after them."""
        number = check_whole("count", count, least=0)
        return self._goes_on(lambda recipe: recipe.within("take", lambda line, make: stages.taken(line, make, number)))

    @overload
    def take_while(self, test: Callable[[T], Coroutine[Any, Any, object]]) -> Stream[T]: ...
    @overload
    def take_while(self, test: Callable[[T], object]) -> Stream[T]: ...
    def take_while(self, test: Callable[[T], Any]) -> Stream[T]:
        """The items before the first that does not pass `test`, plain or async; then the source is closed."""
        require_callable("s.stream(...).take_while", test)
        return self._goes_on(
            lambda recipe: recipe.within("take_while", lambda line, make: stages.taken_while(line, make, test))
        )

    def skip(self, count: int) -> Stream[T]:
        """All but the first `count` items."""
        return self._through("skip", stages.skipped, check_whole("count", count, least=0))

    @overload
    def skip_while(self, test: Callable[[T], Coroutine[Any, Any, object]]) -> Stream[T]: ...
    @overload
    def skip_while(self, test: Callable[[T], object]) -> Stream[T]: ...
    def skip_while(self, test: Callable[[T], Any]) -> Stream[T]:
        """The items from the first on that does not pass `test`, plain or async."""
        require_callable("s.stream(...).skip_while", test)
        return self._through("skip_while", stages.skipped_while, test)

    def distinct(
        self,
        key: Callable[[T], Hashable | Coroutine[Any, Any, Hashable]] | None = None,
        *,
        most: int | None = _MOST_DISTINCT,
    ) -> Stream[T]:
        """Each item only once: the first of those that are equal, wherever they stand.

        Args:
            key: What of an item to compare, by a plain or async function; by default itself, which must be hashable.
            most: How many different ones may be remembered, default 100,000; `None` for no bound.

        Raises:
            OverflowError: While it is read: there were more different items than `most`.
        """
        if key is not None:
            require_callable("s.stream(...).distinct", key)
        if most is not None:
            check_whole("most", most, least=1)
        return self._through("distinct", stages.distinct, key, most)

    # ------------------------------------------------------------------ batches, buffers, time

    def batch(self, size: int, *, within: float | None = None) -> Stream[list[T]]:
        """Lists of `size` items; the last one, and one before an error, may be shorter, but none is empty.

        Args:
            size: How many items.
            within: Seconds after its first item in which a batch is given even if it is not full; the source is read
                in a task of its own then, up to `size` items ahead. A reader that is cut off loses nothing then: the
                batch is there for the next step.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: `size` is below 1, or `within` is not a finite number above zero.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream("abcde").batch(2, within=0.5).collect())
            >>> anyio.run(main)
            [['a', 'b'], ['c', 'd'], ['e']]
        """
        number = check_whole("size", size, least=1)
        if within is None:
            return self._through("batch", stages.batched, number)
        bound = checks.seconds("within", within)

        def build(line: Line, make: Any) -> AsyncIterator[list[T]]:
            return Batched(line.add(Stamped(line, make, number)), number, bound)

        return self._goes_on(lambda recipe: recipe.within("batch", build, survives=True))

    def buffer(self, size: int, *, overflow: Overflow = "wait") -> Stream[T]:
        """Read up to `size` items ahead, in a task of the scope.

        Args:
            size: How many items.
            overflow: What to do when there is no room: `wait` (default), `drop_oldest` of those that lie there, or
                `drop_newest`, the one that has just come.

        A reader that is cut off loses nothing. When the stream is closed, the task has ended.

        Raises:
            TypeError: `size` is no int.
            ValueError: `size` is below 1, or there is no such `overflow`.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def ticks():
            ...     for tick in range(10):
            ...         yield tick
            ...         await anyio.sleep(0.01)
            >>> async def main():
            ...     async with scope() as s:
            ...         latest = s.stream(ticks).buffer(1, overflow="drop_oldest")
            ...         print(await anext(latest))
            ...         await anyio.sleep(0.5)
            ...         print(await anext(latest))
            >>> anyio.run(main)
            0
            9
        """
        number = check_whole("size", size, least=1)
        checks.word("overflow", overflow, "wait", "drop_oldest", "drop_newest")
        return self._goes_on(
            lambda recipe: recipe.within(
                "buffer", lambda line, make: Buffer(line, make, number, overflow), survives=True
            )
        )

    def throttle(self, count: int, *, per: float = 1.0) -> Stream[T]:
        """At most `count` items in any `per` seconds; none is lost, the source is read as slowly.

        An item that has to wait is kept when the reader is cut off, and given at the next step.

        Args:
            count: How many items.
            per: In how many seconds, default 1.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: `count` is below 1, or `per` is not a finite number above zero.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         began = anyio.current_time()
            ...         async for item in s.stream("abc").throttle(1, per=0.02):
            ...             print(item, anyio.current_time() - began >= 0.02 * "abc".index(item))
            >>> anyio.run(main)
            a True
            b True
            c True
        """
        number, time = check_whole("count", count, least=1), checks.seconds("per", per)

        def change(recipe: Recipe) -> Recipe:
            def build(line: Line, make: Make) -> AsyncIterator[T]:
                return Throttled(make(line), number, time)

            return recipe.within("throttle", build, survives=recipe.survives)

        return self._goes_on(change)

    def debounce(self, quiet: float) -> Stream[T]:
        """Only items that no other one follows within `quiet` seconds, and the last; read in a task of the scope.

        An item is given when the quiet time is over. That task reads on whatever the reader does, up to 16 items ahead,
        so neither a slow reader nor one that is cut off misses any.

        Args:
            quiet: Seconds.

        Raises:
            TypeError: `quiet` is no number.
            ValueError: It is not finite and above zero.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def keys():
            ...     for text in ("s", "sc", "scope"):
            ...         yield text
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream(keys).debounce(0.05).collect())
            >>> anyio.run(main)
            ['scope']
        """
        bound = checks.seconds("quiet", quiet)

        def build(line: Line, make: Any) -> AsyncIterator[T]:
            return Settled(line.add(Debounced(line, make, bound)))

        return self._goes_on(lambda recipe: recipe.within("debounce", build, survives=True))

    def timeout(self, seconds: float) -> Stream[T]:
        """The same items, but waiting for one for longer than `seconds` raises `StreamTimeout`.

        It is raised at each further step too, unless the source is read in a task of its own, and so goes on. The time
        that the reader takes between two items does not count.
        """
        return self.timed(None, checks.seconds("seconds", seconds), "timeout")

    def timed(self, total: float | None, per_item: float | None, operator: str) -> Stream[T]:
        """For the library itself: with bounds that are checked."""

        def change(recipe: Recipe) -> Recipe:
            def build(line: Line, make: Any) -> AsyncIterator[T]:
                return Timed(line, make, total=total, per_item=per_item, survives=recipe.survives)

            return replace(recipe.within(operator, build, survives=recipe.survives), is_timed=True)

        return self._goes_on(change)

    # ------------------------------------------------------------------ errors

    def retry(self, times: int, *, on: Errors = Exception, pause: float = 0.0, max_pause: float = 60.0) -> Stream[T]:
        """Begin again after an error, from the first item on.

        The source must be one that can be read again: a function that makes an iterable, or an iterable such as a list
        that is no iterator.

        Args:
            times: How often.
            on: After which errors, by default any `Exception`. `ScopeCancelled` is none: it goes through.
            pause: Seconds before it begins again, doubled each time. Default 0.
            max_pause: The longest pause. Default 60.

        What was given before an error is given again. When the attempts are used up the last error is raised, with the
        earlier ones as notes. An error while a failed attempt is closed is not retried.

        Raises:
            TypeError: The source cannot be read again, or an option has the wrong type.
            ValueError: An option has an impossible value.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> attempts = []
            >>> def connect():
            ...     attempts.append("attempt")
            ...     if len(attempts) < 3:
            ...         raise ConnectionRefusedError
            ...     return ["one", "two"]
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream(connect).retry(5, on=OSError, pause=0.001).collect(), len(attempts))
            >>> anyio.run(main)
            ['one', 'two'] 3
        """
        retries = Retries(
            check_whole("times", times, least=1),
            checks.errors("on", on),
            checks.seconds("pause", pause, positive=False),
            checks.seconds("max_pause", max_pause, positive=False),
        )
        self._require_own()
        if self._reading.line is not None or not self._reading.recipe.is_restartable:
            raise TypeError(
                f"stream {self._reading.full_label} cannot begin again: its source is an iterator, or was read from\n"
                "Right: s.stream(read_lines).retry(3)   with the function that makes it, not s.stream(read_lines())"
            )

        def build(line: Line, make: Any) -> AsyncIterator[T]:
            return retried(line, make, retries)

        return self._goes_on(lambda recipe: recipe.within("retry", build))

    @overload
    def catch(self, handler: Callable[[Exception], None], *, on: Errors = ...) -> Stream[T]: ...
    @overload
    def catch(self, handler: Callable[[Exception], Coroutine[Any, Any, None]], *, on: Errors = ...) -> Stream[T]: ...
    @overload
    def catch(
        self,
        handler: Callable[[Exception], Coroutine[Any, Any, AsyncIterable[U] | Iterable[U] | None]],
        *,
        on: Errors = ...,
    ) -> Stream[T | U]: ...
    @overload
    def catch(
        self, handler: Callable[[Exception], AsyncIterable[U] | Iterable[U] | None], *, on: Errors = ...
    ) -> Stream[T | U]: ...
    def catch(self, handler: Callable[[Exception], Any], *, on: Errors = Exception) -> Stream[Any]:
        """After an error go on with the items of what `handler(error)` gives, or end where that is `None`.

        It sees errors of what stands before it, and none of what comes after it: neither of later operators, nor of the
        loop that reads, nor of what the handler gives.

        Args:
            handler: A plain or async function, which gives an async or plain iterable, or `None`.
            on: Which errors, by default any `Exception`. `ScopeCancelled` is none: it goes through.

        Raises:
            TypeError: `handler` cannot be called, or `on` is no class of errors.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def lines():
            ...     yield "one"
            ...     raise OSError("gone")
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream(lines).catch(lambda error: [f"({error})"], on=OSError).collect())
            >>> anyio.run(main)
            ['one', '(gone)']
        """
        require_callable("s.stream(...).catch", handler)
        classes = checks.errors("on", on)
        return self._goes_on(
            lambda recipe: recipe.then("catch", lambda line, source: caught(line, source, handler, classes))
        )

    # ------------------------------------------------------------------ several streams

    def merge(self, *others: AsyncIterable[U] | Iterable[U], buffer: int = 16, halt: Halt = "all") -> Stream[T | U]:
        """The items of this and of other sources as they come, each source in a task of the scope.

        The first error ends it: the other sources are closed, and it is raised bare, errors of others at that moment as
        notes on it.

        Args:
            *others: Streams or other iterables.
            buffer: How many items are read ahead, beside one for each source. Default 16.
            halt: Whether it ends when `all` have ended (default) or with the first (`any`).

        A reader that is cut off loses nothing. When the stream is closed, all sources are, each in its own task.

        Raises:
            TypeError: One of them is no iterable; none has been taken over then.
            ValueError: An option has an impossible value, or a stream is to be merged with itself.
            StreamClosed: One of the streams is closed.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def ticks(name, pause):
            ...     for number in range(2):
            ...         await anyio.sleep(pause)
            ...         yield f"{name}{number}"
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream(ticks("slow", 0.2)).merge(ticks("fast", 0.01)).collect())
            >>> anyio.run(main)
            ['fast0', 'fast1', 'slow0', 'slow1']
        """
        most = check_whole("buffer", buffer, least=1)
        checks.word("halt", halt, "all", "any")
        return self._joined("merge", others, lambda line, makes: Merged(line, makes, most, halt), survives=True)

    @overload
    def zip(self, other: AsyncIterable[U] | Iterable[U], /, *, strict: bool = ...) -> Stream[tuple[T, U]]: ...
    @overload
    def zip(
        self, other: AsyncIterable[U] | Iterable[U], another: AsyncIterable[V] | Iterable[V], /, *, strict: bool = ...
    ) -> Stream[tuple[T, U, V]]: ...
    @overload
    def zip(self, *others: AsyncIterable[Any] | Iterable[Any], strict: bool = ...) -> Stream[tuple[Any, ...]]: ...
    def zip(self, *others: Any, strict: bool = False) -> Stream[Any]:
        """Tuples of one item of each, until the first has ended.

        They are read one after the other, in this order; so when one has ended, those before it have given one item
        more, as with `zip` of Python.

        Args:
            *others: Streams or other iterables.
            strict: Whether it is an error (`ValueError`) if others have more items. Default false.

        Raises:
            TypeError: One of them is no iterable; none has been taken over then.
            ValueError: A stream is to be zipped with itself.
            StreamClosed: One of the streams is closed.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         print(await s.stream("ab").zip([1, 2], range(9)).collect())
            >>> anyio.run(main)
            [('a', 1, 0), ('b', 2, 1)]
        """
        return self._joined("zip", others, lambda line, makes: stages.zipped(line, makes, strict=strict))

    def chain(self, *others: AsyncIterable[U] | Iterable[U]) -> Stream[T | U]:
        """The items of this one, then those of the next, and so on."""
        return self._joined("chain", others, stages.chained)

    def broadcast(self, count: int, *, buffer: int = 16, overflow: Overflow = "wait") -> tuple[Stream[T], ...]:
        """Several streams with the same items; the source is read once, in a task of the scope.

        A reader that has left holds up no other one; after the last the source is closed.

        Args:
            count: How many streams.
            buffer: How many items may lie ready for each. Default 16.
            overflow: What to do for a reader that has no room: let all `wait` (default), or `drop_oldest` or
                `drop_newest` for that one.

        An error goes to all of them, to each after its items. A reader that is cut off loses nothing.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: An option has an impossible value.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         numbers, words = s.stream(range(3)).broadcast(2)
            ...         print(await numbers.zip(words.map(str)).collect())
            >>> anyio.run(main)
            [(0, '0'), (1, '1'), (2, '2')]
        """
        number, most = check_whole("count", count, least=1), check_whole("buffer", buffer, least=1)
        checks.word("overflow", overflow, "wait", "drop_oldest", "drop_newest")
        self._require_own()
        owner = self._reading.owner
        label = self._reading.full_label
        recipe = self._reading.give_up()
        fan = Fan(Line(owner, label), recipe, number, most, overflow)
        self._hands_over()
        return tuple(
            self._another(Reading(owner, Recipe(f"{recipe.name}.broadcast", _giver(outlet), (outlet,), survives=True)))
            for outlet in tuple(fan.outlets)
        )


def _moved(reading: Reading[Any]) -> ScopeMisuse:
    return ScopeMisuse(
        path=reading.owner.path,
        problem=f"stream {reading.label} was used after an operator had taken it over",
        remedy="Right: go on with what the operator gave: stream = s.stream(...).map(...)",
    )


async def _refuse(reading: Reading[Any]) -> Any:
    raise _moved(reading)


def _giver(outlet: AsyncIterator[Any]) -> Callable[[Line], AsyncIterator[Any]]:
    return lambda line: line.add(outlet)


def _is_stream(thing: object) -> TypeGuard[Operators[Any]]:
    return isinstance(thing, Operators)


def _given_up(stream: Any) -> Recipe:
    recipe: Recipe = stream._reading.give_up()  # noqa: SLF001  a function of this module
    stream._hands_over()  # noqa: SLF001  a function of this module
    return recipe
