"""Notes on exceptions (PEP 678), also on Python 3.10, and groups of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def add_note(error: BaseException, note: str) -> None:
    """Add `note` to `error`, unless it stands there already.

    On Python 3.10 it sets `__notes__` by hand, which `exceptiongroup` and newer tools display.
    """
    notes: list[str] | None = getattr(error, "__notes__", None)
    if notes is None:
        notes = []
        setattr(error, "__notes__", notes)  # noqa: B010  type checkers do not know the attribute on 3.10
    if note not in notes:
        notes.append(note)


def group_of(message: str, errors: Iterable[tuple[Exception, str]]) -> ExceptionGroup[Exception]:
    """One group of `errors`, each with its note; an object that failed many times is told once.

    The same exception object may have been raised by 100,000 jobs. It stands once in the group, with
    the note of its first place and a count of the others.
    """
    places: dict[int, tuple[Exception, str, int]] = {}
    for error, note in errors:
        first = places.get(id(error))
        places[id(error)] = (error, note, 0) if first is None else (error, first[1], first[2] + 1)
    for error, note, others in places.values():
        add_note(error, f"{note} (and in {others} more places)" if others else note)
    return ExceptionGroup(message, [error for error, _, _ in places.values()])


def chain_lost(leaving: BaseException, lost: BaseException) -> None:
    """Hang `lost` below the context of `leaving`, so that its traceback shows both."""
    last = leaving
    seen = {id(lost)}
    while last.__context__ is not None and id(last) not in seen:
        seen.add(id(last))
        last = last.__context__
    if last is not lost:
        last.__context__ = lost


def without(error: BaseException, known: BaseException | None) -> BaseException | None:
    """What is left of `error` when the exception object `known` is taken out; both may be groups.

    A group is known by its members: task groups wrap it in another one, and may make it anew.
    """
    if known is None:
        return error
    members = {id(leaf) for leaf in _leaves(known)}
    if not isinstance(error, BaseExceptionGroup):
        return None if id(error) in members else error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return group.split(lambda each: id(each) in members)[1]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group that are not groups themselves; of any other exception, that one."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _leaves(member)


def is_group(error: BaseException) -> bool:
    """Whether `error` is an exception group."""
    return isinstance(error, BaseExceptionGroup)
