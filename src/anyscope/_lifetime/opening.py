"""Opening something in a task of its own, for all who wait for it, and keeping it open there.

What is opened is the coroutine of a factory, or a context manager. There is one task for each, a child of the
owner, and none for a coroutine that has given its value.

    waiting -> open -> closed          a context manager; a coroutine ends where it is open
            -> failed                  whoever waits gets the error
            -> given up                the last who waited has left; who comes later tries again

Rules
    * It belongs to the owner and not to the one who asked first. Until it is open it is cancelled with the scope.
      It is given up when nobody waits for it any more. The scope waits for those who wait, but not for a daemon
      that does, which it would never stop then.
    * A context manager is entered and left in that one task, so it may hold task groups and cancel scopes.
      Once entered the task is shielded, since it serves tasks that are being cancelled; it is left in its turn
      among the clean-ups.
    * It sees why the scope ends: the error of the body, or a report of the cancellation. A transaction that were
      left as if all was well would commit. What it raises of that error is no news; anything else is reported.
    * Nobody else would tell when it ends before it was told to, for instance because a task of its own crashed:
      that takes the scope down.
    * An error that nobody fetched is reported by the scope.

Rings. Code that opens something may wait for the opening of something else, and the other way round. Each opening
writes down what it waits for, and whoever is about to close a ring gets `ServiceCycle` instead. That is certain
when the waiting code is the opening's own task, or stands below it. A task that this one started may wait on its
behalf, or quite independently of it: such a ring is given `PATIENCE` seconds to resolve itself.

Rejected: a lock held while something is opened. It makes everybody wait for everybody, and hangs where the code
asks for itself.

Over 400 lines: opening, waiting for it and leaving it are one life in one task, and share each of its states.
"""

from __future__ import annotations

import math
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import anyio

from .._vocabulary.errors import ScopeCancelled, ServiceCycle, reraise
from .._vocabulary.notes import without
from .._vocabulary.results import Err
from .backend import pass_on_cancellation
from .ending import sort_out
from .place import Place, beneath, here, keeper_under, stand_in
from .start import Start
from .watching import WATCHERS, tell
from .works import Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from .._vocabulary.hooks import DisposalKind
    from .owner import Owner

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a ring may last which runs through tasks that a factory started; nothing should take so long to make."""

OPENING: ContextVar[Opening[Any] | None] = ContextVar("anyscope.opening", default=None)
"""The opening that the running code descends from, by the copying of contexts."""


def _nothing() -> None:
    """Nobody cares."""


class Opening(Place, Generic[T]):
    """Something that is being opened, or is open.

    Args:
        owner: The scope that it belongs to.
        title: What it is called in a ring, such as `Database`.
        label: What it is called elsewhere, such as `service Database`.
        kind: What it is among the things that a scope closes.
        manager: The context manager to enter; or else
        coro: The awaitable that gives the value.
        unbegun: What to close if it never begins, because Python would warn that it was never awaited.
        opened: Called with the value as soon as it is open.
        crashed: Called when it has ended before it was told to.

    Attributes:
        value: What was opened. Written once, by `_succeed`.
        failure: Why it could not be opened. Written once, by `_fail`.
        was_given_up: Whether it ended because nobody waited. Written once, by `_cut_short`.
        waiters: How many wait for it. Written by `_wait`.
        awaited: What its code waits for, and whether that certainly holds it up; written by `until_done`.
        _told: Set when it is to be left. Written by `leave`.
        _departure: The error that the context manager gets to see then. Written by `leave`.
        _gone: Set when its task has ended.
        _exit_raised: What leaving it raised.
        _is_observed: Whether somebody has been given the error, or it is no news.
        _is_cut_off: Whether it failed because it was itself cancelled.
        _given_up: Cancelled when nobody waits any more. It is the outer one of two, so that what is entered in that
            very moment can still be kept: the inner one shields it then.
        _scope: The shield of what is open; cancelled when leaving it overruns.
    """

    __slots__ = (
        "_coro",
        "_crashed",
        "_departure",
        "_done",
        "_exit_raised",
        "_given_up",
        "_gone",
        "_is_cut_off",
        "_is_observed",
        "_manager",
        "_opened",
        "_owner",
        "_scope",
        "_told",
        "_unbegun",
        "awaited",
        "failure",
        "kind",
        "label",
        "title",
        "value",
        "waiters",
        "was_given_up",
    )

    value: T

    def __init__(
        self,
        owner: Owner,
        title: str,
        label: str,
        *,
        kind: DisposalKind,
        manager: AbstractAsyncContextManager[T] | None = None,
        coro: Awaitable[T] | None = None,
        unbegun: Coroutine[Any, Any, Any] | None = None,
        opened: Callable[[T], None],
        crashed: Callable[[], object] = _nothing,
    ) -> None:
        super().__init__(owner)
        self._owner = owner
        self.title = title
        self.label = label
        self.kind: DisposalKind = kind
        self._manager = manager
        self._coro = coro
        self._unbegun = unbegun
        self._opened = opened
        self._crashed = crashed
        self.failure: Err[Exception] | None = None
        self.was_given_up = False
        self.waiters = 0
        self.awaited: list[tuple[Opening[Any], bool]] = []
        self._given_up = anyio.CancelScope()
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        event = type(self._done)  # of the backend: made in a third of the time
        self._told = event()
        self._gone = event()
        self._departure: Exception | None = None
        self._exit_raised: BaseException | None = None
        self._is_observed = False
        self._is_cut_off = False

    # ------------------------------------------------------------------ what it is

    @property
    def who(self) -> str:
        """How messages speak of it."""
        return f"{self.label} of {self.owner.path}"

    @property
    def is_kept(self) -> bool:
        """The scope ends it when it closes; what it does meanwhile is not waited for."""
        return True

    @property
    def is_sheltered(self) -> bool:
        """Once it is open it goes on when its scope is cancelled."""
        return self.is_done

    @property
    def is_manager(self) -> bool:
        """Whether it is a context manager, which has to be left."""
        return self._manager is not None

    @property
    def is_done(self) -> bool:
        """Whether it is known how opening it went."""
        return self._done.is_set()

    @property
    def is_unborn(self) -> bool:
        """Whether it was given to the backend and has not begun."""
        return self.native is None and not self.is_done

    def abandon(self) -> None:
        """End it: the backend dropped it before its first step."""
        self._discard()
        self._cut_short()

    # ------------------------------------------------------------------ those who wait

    def launch(self, context: Context | None = None) -> None:
        """Begin, as a child of the owner."""
        if WATCHERS:
            tell("opening", self._owner, self)
        self._owner.works.join_daemon(self)
        _ = self._owner.spawn(Start(self._drive), self.label, context)

    async def until_done(self) -> None:
        """Wait until it is open or could not be opened; when the last who waits leaves, it is given up.

        Raises:
            ServiceCycle: It waits itself for the code that asks.
        """
        asker, is_certain = _asker()
        if asker is None:
            await self._wait()
            return
        if is_certain:
            _refuse(_ring(asker, self, certain_only=True))
        edge = (self, is_certain)
        asker.awaited.append(edge)
        try:
            await self._wait_on_behalf(asker)
        finally:
            asker.awaited.remove(edge)

    async def _wait_on_behalf(self, asker: Opening[Any]) -> None:
        ring = _ring(asker, self, certain_only=False)
        if not ring:
            await self._wait()
            return
        with anyio.move_on_after(PATIENCE):
            await self._wait()
        if not self.is_done:
            _refuse(ring)

    async def _wait(self) -> None:
        self.waiters += 1
        wait = Wait(self.label)
        if keeper_under(self._owner) is None:
            self._owner.works.join(wait)  # or a call by a foreign task would not hold the scope open
        try:
            await self._done.wait()
            if self._is_cut_off:
                await pass_on_cancellation()  # that of the one who waits is no error, it is only late
        except BaseException:
            self.waiters -= 1
            self._left_by_one()
            raise
        finally:
            self._owner.works.part(wait)
        self.waiters -= 1

    def cancel(self, reason: object = None) -> None:
        """Its scope closes: it is not made any more."""
        self._given_up.cancel()

    def _left_by_one(self) -> None:
        if self.waiters:
            return
        if not self.is_done:
            self._given_up.cancel()
        elif self.failure is not None and not self._is_observed:
            self._report(self.failure.error)

    def result(self) -> T:
        """The value of what was opened, or the error.

        Raises:
            Exception: What opening it raised; its traceback does not grow when it is raised to many.
        """
        if self.failure is None:
            return self.value
        self._is_observed = True
        return self.failure.unwrap()

    # ------------------------------------------------------------------ its task

    async def _drive(self) -> None:
        if self.is_done:
            return  # given up as lost, see abandon
        stand_in(self)
        OPENING.set(self)
        raised: BaseException | None = None
        try:
            with self._given_up, self._scope:
                if self._given_up.cancel_called:
                    self._discard()  # nobody waits any more, and nothing has begun
                else:
                    await self._open()
        except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
            raised = error
        self._conclude(raised)
        del raised  # its traceback leads to this frame
        self.end()
        self._gone.set()

    async def _open(self) -> None:
        if self._manager is None:
            assert self._coro is not None
            self._succeed(await self._coro)
            return
        async with self._manager as value:
            self._scope.shield = True
            self._succeed(value)
            await self._told.wait()
            if self._departure is not None:
                raise self._departure

    def _conclude(self, raised: BaseException | None) -> None:
        if self._told.is_set():
            self._exit_raised = raised
        elif not self.is_done:
            self._conclude_unopened(raised)
        elif self._manager is not None:
            self._crash(raised)

    def _conclude_unopened(self, raised: BaseException | None) -> None:
        end = None if raised is None else sort_out(raised)
        if end is not None and end.fatal is not None:
            self._owner.end_for(end.fatal)
            self._refuse_all(end.fatal)
        elif end is not None and end.error is not None:
            self._fail(end.error)
        else:
            self._cut_short()

    def _succeed(self, value: T) -> None:
        self.value = value
        self._opened(value)
        self._finish()

    def _fail(self, error: Exception) -> None:
        self.failure = Err(error)
        if not self.waiters and not self._is_observed:
            self._report(error)
        self._finish()

    def _cut_short(self) -> None:
        """It was cancelled: by those who waited, by the scope, or natively."""
        if self._given_up.cancel_called:
            self.was_given_up = True
            self._finish()
            return
        cancellation = self._owner.explain_cut()
        self._refuse_all("cancelled natively" if cancellation is None else cancellation.reason)

    def _refuse_all(self, reason: object) -> None:
        """Those who wait and are not cancelled themselves get a report; it is no news to anybody else."""
        self._is_observed = self._is_cut_off = True
        self._fail(self._cut_off(reason))

    def _cut_off(self, reason: object) -> ScopeCancelled:
        return ScopeCancelled(path=self.owner.path, action=self.label, reason=reason)

    def _finish(self) -> None:
        self._done.set()
        self._owner.works.part(self)

    def _discard(self) -> None:
        if self._unbegun is not None:
            self._unbegun.close()

    # ------------------------------------------------------------------ errors

    def _report(self, error: Exception) -> None:
        self._owner.report(error, self._owner.next_index(), f"in {self.who}")

    def _crash(self, raised: BaseException | None) -> None:
        """It ended before it was told to."""
        self._crashed()
        end = None if raised is None else sort_out(raised)
        if end is not None and end.fatal is not None:
            self._owner.end_for(end.fatal)
            return
        error = None if end is None else end.error
        if error is None:
            error = self._cut_off("it ended by itself" if end is None else "cancelled natively")
        self._owner.crash(error, self._owner.next_index(), f"in {self.who}")

    # ------------------------------------------------------------------ leaving it

    async def leave(self) -> None:
        """A clean-up step: leave the context manager, in its own task; where that overruns, cancel it.

        Raises:
            BaseException: What leaving it raised, but for the error that it was shown.
        """
        departure = self._departure = self._owner.departure
        traceback = None if departure is None else departure.__traceback__
        self._told.set()
        overrun = await self._until_gone()
        if departure is not None:
            departure.__traceback__ = traceback
        raised = None if self._exit_raised is None else without(self._exit_raised, departure)
        self._exit_raised = None
        if raised is not None:
            reraise(raised)
        if overrun is not None:
            raise overrun

    async def _until_gone(self) -> BaseException | None:
        """Wait for the end of the task; gives the cancellation of a step that ran out of time.

        A native cancellation of this step does not reach the other task, and changes nothing.
        """
        overrun: BaseException | None = None
        while not self._gone.is_set():
            try:
                with anyio.CancelScope(shield=overrun is not None):
                    await self._gone.wait()
            except anyio.get_cancelled_exc_class() as cut:  # noqa: ASYNC103, PERF203  an overrun is raised by leave
                if overrun is None and anyio.current_effective_deadline() == -math.inf:
                    overrun = cut
                    self._scope.cancel()
        return overrun


def _asker() -> tuple[Opening[Any] | None, bool]:
    """The opening that the running code is part of, and whether that one certainly waits for this code."""
    bottom = beneath(here())
    if _is_opening(bottom):
        return (None, False) if bottom.is_done else (bottom, True)
    ancestor = OPENING.get()
    return (None, False) if ancestor is None or ancestor.is_done else (ancestor, False)


def _is_opening(place: object) -> TypeGuard[Opening[Any]]:
    return isinstance(place, Opening)


def is_part_of_opening() -> bool:
    """Whether the running code descends from something that is being opened."""
    ancestor = OPENING.get()
    return ancestor is not None and not ancestor.is_done


def _ring(asker: Opening[Any], asked: Opening[Any], *, certain_only: bool) -> tuple[Opening[Any], ...]:
    """The ring that `asker` closes by waiting for `asked`, from the one round to the same; empty if none."""
    paths: list[tuple[Opening[Any], ...]] = [(asker, asked)]
    seen: set[Opening[Any]] = set()
    while paths:
        path = paths.pop()
        if path[-1] is asker:
            return path
        if path[-1] not in seen:
            seen.add(path[-1])
            paths.extend((*path, each) for each, is_certain in path[-1].awaited if is_certain or not certain_only)
    return ()


def _refuse(ring: tuple[Opening[Any], ...]) -> None:
    if ring:
        raise ServiceCycle(ring=tuple(each.title for each in ring), path=ring[0].owner.path)
