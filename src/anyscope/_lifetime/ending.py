"""What leaves a scope: one decision, taken from everything that went wrong in it.

The table, first row that fits (docs/errors.md holds it for users, a test walks through it):

    something fatal (KeyboardInterrupt, SystemExit, ...)   that very exception; the rest hangs below it
    cancelled from outside, nothing failed                 the cancellation goes on
    only the body failed                                   that very exception
    cancelled from outside, something else failed          a group of the errors; the cancellation is
                                                           level-triggered and comes back at the next await
    only the deadline cut something off                    ScopeTimeout
    anything else that failed                              a group: body, deadline, tasks and
                                                           crashes by index, clean-ups as they ran
    cancelled by its own cancel(), parent or signal        nothing

Rejected: a `BaseExceptionGroup` of the cancellation and the errors. Trio would sort that out, but a
cancel scope of AnyIO on asyncio did swallow such a group whole before 4.16, and `asyncio.timeout` does
not look into it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import anyio

from .._vocabulary.notes import chain_lost, group_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._vocabulary.errors import ScopeTimeout

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


@dataclass(frozen=True, slots=True)
class Report:
    """An error that has to leave the scope.

    Attributes:
        rank: Where it stands: tasks by their index, then clean-ups by the order they ran in.
        error: The error.
        note: Where it happened, such as `in task fetch-7 (#3) of app > ingest`.
    """

    rank: tuple[int, int]
    error: Exception
    note: str


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """How the body of an `async with` block, or a task, ended.

    Attributes:
        error: The error, without any cancellation that came with it in a group.
        cut: The backend's cancellation, if there was one.
        fatal: A `BaseException` that is neither.
    """

    error: Exception | None = None
    cut: BaseException | None = None
    fatal: BaseException | None = None


QUIET = BodyEnd()
"""Nothing was raised."""


def sort_out(raised: BaseException) -> BodyEnd:
    """Tell errors, the backend's cancellation and fatal exceptions apart, also inside groups."""
    if isinstance(raised, Exception):
        return BodyEnd(error=raised)
    cancelled = anyio.get_cancelled_exc_class()  # noqa: ASYNC118  used at once
    if isinstance(raised, cancelled):
        return BodyEnd(cut=raised)
    if not isinstance(raised, BaseExceptionGroup):
        return BodyEnd(fatal=raised)
    group = cast("BaseExceptionGroup[BaseException]", raised)
    cut, rest = group.split(cancelled)
    leaf = None if cut is None else first_leaf(cut)
    if rest is None or isinstance(rest, Exception):
        return BodyEnd(error=rest, cut=leaf)
    return BodyEnd(fatal=group if cut is None else rest, cut=leaf)


def first_leaf(error: BaseException) -> BaseException:
    """The first exception in a group that is not itself a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def leaves_of(error: BaseException) -> list[BaseException]:
    """The errors themselves, out of groups within groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for each in group.exceptions for leaf in leaves_of(each)]


def gather(message: str, reports: Iterable[Report]) -> Exception:
    """All reports as one group, in order, each error with its note."""
    ordered = sorted(reports, key=lambda report: report.rank)
    return group_of(message, [(report.error, report.note) for report in ordered])


class Collector(Protocol):
    """Knows of errors that nobody has looked at."""

    def peek(self) -> Exception | None:
        """The first of them."""
        ...

    def reports(self) -> Iterable[Report]:
        """All of them, at the very end."""
        ...


class Trouble:
    """What went wrong in a scope, and who may know of more; a scope has none until the first of it.

    Attributes:
        cut: Whether the body or a task was really cut off by the cancellation; written by `explain_cut`.
        fatal: The first KeyboardInterrupt or the like.
        reports: The errors of tasks and clean-ups.
        collectors: Who is asked at the end for errors that nobody looked at; features append.
    """

    __slots__ = ("collectors", "cut", "fatal", "reports")

    def __init__(self) -> None:
        self.cut: bool = False
        self.fatal: BaseException | None = None
        self.reports: list[Report] = []
        self.collectors: list[Collector] = []

    def all_reports(self) -> list[Report]:
        """Those of the collectors too, for the end."""
        return [*self.reports, *(report for collector in self.collectors for report in collector.reports())]

    def first_error(self) -> Exception | None:
        """The first that is known, also one that nobody has looked at."""
        known = (report.error for report in self.reports)
        unseen = (collector.peek() for collector in self.collectors)
        return next((error for error in (*known, *unseen) if error is not None), None)


@dataclass(frozen=True, slots=True)
class Ending:
    """Everything that is known when a scope has closed.

    Attributes:
        path: The path of the scope.
        body: How its body ended.
        outside: The cancellation that goes on to whoever ordered it.
        fatal: A fatal exception of a task or a clean-up.
        timeout: The error of the deadline, if it cut something off.
        reports: The errors of tasks and clean-ups.
        dropped: How many more errors there were that were not kept.
    """

    path: str
    body: BodyEnd
    outside: BaseException | None
    fatal: BaseException | None
    timeout: ScopeTimeout | None
    reports: list[Report]
    dropped: int

    def leaves(self) -> BaseException | None:
        """The exception that leaves the block; `None` for a quiet end."""
        fatal = self.body.fatal or self.fatal
        errors = self._errors()
        if fatal is not None:
            if errors:
                chain_lost(fatal, self._group(errors))
            return fatal
        if self.outside is not None:
            errors = [report for report in errors if report.error is not self.timeout]
        if not errors:
            return self.outside
        if len(errors) == 1 and not self.reports:
            return errors[0].error
        return self._group(errors)

    def _errors(self) -> list[Report]:
        """The body's error first, then the deadline's, then those of tasks and clean-ups."""
        errors: list[Report] = []
        if self.body.error is not None:
            errors.append(Report((-2, 0), self.body.error, f"in the body of {self.path}"))
        if self.timeout is not None:
            errors.append(Report((-1, 0), self.timeout, f"in {self.path}"))
        return errors + self.reports

    def _group(self, errors: list[Report]) -> Exception:
        more = f" (and {self.dropped:,} more that were not kept)" if self.dropped else ""
        return gather(f"errors in scope {self.path}{more}", errors)
