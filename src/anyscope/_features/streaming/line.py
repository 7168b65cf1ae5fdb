"""What a stream is made of: a recipe, and the line of iterators that is made from it.

A *recipe* says what follows what, and has made nothing yet; operators make a longer one of it. A *line* holds what was
made from one: the source, and an iterator for each stage, in this order. Closing a stage does not close what it reads
from (neither do Python's generators), so the line closes all of them, the last one first, each whatever became of the
others.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from anyio.lowlevel import checkpoint

from ..._vocabulary.notes import chain_lost
from ..._vocabulary.options import is_coroutine, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._lifetime.owner import Owner

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

AT_ONCE = 32
"""How many items of a plain iterable, which never waits, are given before others may run."""

Make: TypeAlias = "Callable[[Line], AsyncIterator[Any]]"


class Link:
    """What knows of itself whether it has to be closed, and whether somebody waits in it."""

    __slots__ = ()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to be closed."""
        return False

    @property
    def is_running(self) -> bool:
        """Whether a reader waits in it for an item."""
        return False

    def interrupt(self, why: Exception) -> None:
        """Raise that for a reader who waits in it, where that can be done without a scope around the step."""


class Line(Link):
    """The iterators of one stream, or of a part of it that is closed as one.

    Args:
        owner: The scope's owner.
        label: What the stream is called in messages.

    Attributes:
        links: The iterators, those that read after those that they read from. Written by `add` and `aclose`.
    """

    __slots__ = ("label", "links", "owner")

    def __init__(self, owner: Owner, label: str) -> None:
        self.owner: Owner = owner
        self.label: str = label
        self.links: list[Any] = []

    def add(self, link: Any) -> Any:
        """Close `link` along with the line; gives it back."""
        self.links.append(link)
        return link

    def part(self) -> Line:
        """A line of its own for what a link of this one reads from, and closes itself."""
        return Line(self.owner, self.label)

    def open_part(self) -> Line:
        """A line for what is made and closed while this one is read; whatever cuts that, it is closed along with it."""
        part: Line = self.add(self.part())
        return part

    async def close_part(self, part: Line) -> None:
        """Close such a part. Not in a `finally`: in the middle of a cancellation that would be cut short."""
        self.links.remove(part)
        await part.aclose()

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left to be closed."""
        return not any(_needs_closing(link) for link in self.links)

    @property
    def is_running(self) -> bool:
        """Whether somebody waits in it for an item, as far as Python can tell."""
        return any(_is_running(link) for link in self.links)

    def interrupt(self, why: Exception) -> None:
        """Interrupt each link."""
        for link in self.links:
            if isinstance(link, Link):
                link.interrupt(why)

    async def aclose(self) -> None:
        """Close everything, the last link first.

        Raises:
            Exception: What closing raised; if that was several, the first one, and the others hang below it.
        """
        raised: list[BaseException] = []
        while self.links:
            try:
                await _close(self.links.pop())
            except BaseException as error:  # noqa: ASYNC103, PERF203  raised below; all have to be closed
                raised.append(error)
        if raised:
            _raise_first(raised)  # noqa: ASYNC104  that does


def _raise_first(raised: list[BaseException]) -> None:
    """A cancellation goes before errors, which it must not be lost among."""
    raised.sort(key=lambda error: isinstance(error, Exception))
    try:
        for error in raised[1:]:
            chain_lost(raised[0], error)
        raise raised[0]
    finally:
        raised.clear()  # no cycle through this frame


def _needs_closing(link: Any) -> bool:
    if isinstance(link, AsyncGeneratorType):
        return link.ag_frame is not None
    if isinstance(link, Link):
        return not link.has_ended
    return hasattr(link, "aclose")


def is_over(iterator: Any) -> bool:
    """Whether it can give nothing more, as far as Python can tell."""
    return iterator.has_ended if isinstance(iterator, Link) else getattr(iterator, "ag_frame", iterator) is None


def _is_running(link: Any) -> bool:
    if isinstance(link, AsyncGeneratorType):
        return link.ag_running
    return isinstance(link, Link) and link.is_running


async def _close(link: Any) -> None:
    close = getattr(link, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except BaseExceptionGroup as group:
        # A task group across a `yield` wraps the GeneratorExit that closes it.
        _, rest = cast("BaseExceptionGroup[BaseException]", group).split(GeneratorExit)
        if rest is not None:
            raise rest from None


# ---------------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a line is made.

    Attributes:
        name: What the stream is called: its source and its operators, such as `read_lines.map.filter`.
        make: Makes it, adds each iterator to the given line, and gives the last one.
        given: What is there already and has to be closed even if the line is never made.
        is_restartable: Whether making it again begins again.
        survives: Whether its last iterator outlives it when somebody who waits for an item is cut off. A generator does
            not: it has ended then.
        is_timed: Whether there is a time-out in it, which has to be remembered.
    """

    name: str
    make: Make
    given: tuple[Any, ...]
    is_restartable: bool = False
    survives: bool = False
    is_timed: bool = False

    def begin(self, line: Line) -> AsyncIterator[Any]:
        """Make it; where that fails, `line` holds what there was already."""
        line.links.clear()
        try:
            return self.make(line)
        except BaseException:
            line.links[:] = self.given
            raise

    def then(self, operator: str, stage: Callable[[Line, AsyncIterator[Any]], AsyncIterator[Any]]) -> Recipe:
        """With one more stage, a generator, which reads from what there was."""
        return self.within(operator, lambda line, make: stage(line, make(line)))

    def within(
        self, operator: str, build: Callable[[Line, Make], AsyncIterator[Any]], *, survives: bool = False
    ) -> Recipe:
        """With one more stage, which makes what it reads from itself."""

        def make(line: Line) -> AsyncIterator[Any]:
            return cast("AsyncIterator[Any]", line.add(build(line, self.make)))

        name = f"{self.name}.{operator}" if operator else self.name
        return replace(self, name=name, make=make, survives=survives)


def begun(recipe: Recipe, line: Line, last: AsyncIterator[Any]) -> Recipe:
    """The recipe of a line that was made, and maybe read from, already."""
    links = tuple(line.links)

    def make(line: Line) -> AsyncIterator[Any]:
        line.links.extend(links)
        return last

    return replace(recipe, make=make, given=links, is_restartable=False)


def recipe_of(source: object, call: str = "s.stream") -> Recipe:
    """The recipe of a source: an async or plain iterable, or a function that makes one.

    Raises:
        TypeError: It is something else.
    """
    given: Any = source
    if isinstance(source, (AsyncIterator, Iterator)):
        return Recipe(_name(given), lambda line: _opened(line, given, call), (_closable(given),))
    if isinstance(source, (AsyncIterable, Iterable)):
        return Recipe(_name(given), lambda line: _opened(line, given, call), (), is_restartable=True)
    if is_coroutine(source):
        source.close()
        name = name_of(source)
        raise TypeError(
            f"{call}(...): expected an iterable, got a coroutine: {name} returns, it does not yield\n"
            f"Right: await {name}(...), and give what it returns"
        )
    if callable(source):
        function = cast("Callable[[], Any]", source)
        return Recipe(name_of(function), lambda line: _opened(line, function(), call), (), is_restartable=True)
    raise TypeError(
        f"{call}(...): expected an async or plain iterable, or a function that makes one, "
        f"got {type(source).__name__}\nRight: {call}(read_lines())   with   async def read_lines(): ... yield line"
    )


def _name(source: object) -> str:
    name = getattr(source, "__qualname__", None)
    return name_of(source) if isinstance(name, str) else type(source).__name__


def _opened(line: Line, source: Any, call: str) -> AsyncIterator[Any]:
    """The iterator of a source, to be closed along with the line."""
    given: Any = source  # which the checks narrow to iterables of they do not know what
    if isinstance(source, AsyncIterable):
        return cast("AsyncIterator[Any]", line.add(aiter(given)))
    if isinstance(source, Iterable):
        iterator = iter(given)
        line.add(_closable(iterator))
        return cast("AsyncIterator[Any]", line.add(_stepped(iterator)))
    if is_coroutine(source):
        source.close()
    raise TypeError(f"{call}(...): the function that was to make an iterable returned {type(source).__name__}")


async def _stepped(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    for number, item in enumerate(iterator, 1):
        yield item
        if not number % AT_ONCE:
            await checkpoint()


class _Plain(Link):
    """Closes a plain generator."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    @property
    def has_ended(self) -> bool:
        return inspect.getgeneratorstate(self._generator) == inspect.GEN_CLOSED

    async def aclose(self) -> None:
        self._generator.close()


def _closable(source: object) -> object:
    return _Plain(source) if isinstance(source, GeneratorType) else source
