"""The owner: one task group, and everything that must have ended before its block is left.

    new -> open -> draining -> closing -> closed

*open*: the body runs. *draining*: the body is out; tasks, child scopes and calls from foreign tasks are
waited for, and may still start new work. *closing*: daemons are stopped, then what was opened is closed,
last opened first. *closed*: nothing of it runs.

Invariants
    * A work in `works` has not ended; the group is not left while there is one.
    * Each clean-up is taken off the stack before it runs, so it runs once.
    * Nothing of a child that has closed is kept.

How it closes. Waiting for tasks, stopping daemons and clean-up happen in the *closer*, a child task that
shields itself, while the host waits where it always waits, in the group's `__aexit__`. That wait already
survives being cancelled over and over, by scopes and natively; and a native `Task.cancel()` of the host,
which goes through any shield, does not reach the clean-up. A scope with nothing to wait for and nothing to
close does not start it, and costs little more than its group.

Daemons and open context managers end only when the closer tells them to, and the group waits for them. So a
closer that was cancelled natively before its first step must not go unnoticed: the host sees it begin before
it waits. Hit later, the closer goes on where it was.

Over 400 lines: one state machine, whose phases read and write the same few attributes; what stands by itself
(branches, clean-up, endings, timers of others) has modules of its own.

Rejected
    * Clean-up in the host under a shield: cut short by a native cancel (measured, 3 of 7 runs).
    * A second group for daemons, or one opened on demand: the first doubles the cost of every scope, the
      second corrupts the backend's scope stack when the user has a `move_on_after` open.
    * `deadline` on the group's cancel scope: it says that it fired but not whether it was first, and child
      scopes in other tasks hear nothing. A timer that calls `cancel` has neither flaw.

One trap of asyncio remains visible here: a child that is cancelled natively before its first step never
runs a line of ours, and AnyIO then cancels the whole group in silence. `_note_stray_cancellation` turns
that into an error, and `_bury_the_unborn` gives the child its end.
"""

from __future__ import annotations

import functools
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from .._vocabulary.errors import ScopeCancelled, ScopeMisuse, ScopeTimeout
from .._vocabulary.hooks import Disposed, Hooks
from .backend import TURNS, call_later, pass_on_cancellation, running_task, sleep_then
from .branch import AMBIENT, Ambient, Branch, Cancellation, Phase
from .cleanup import CleanUp, run_clean_up
from .ending import QUIET, BodyEnd, Collector, Ending, Report, Trouble, sort_out
from .leaving import leave_with
from .place import Place, stand_in
from .start import Start
from .watching import WATCHERS, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from contextvars import Context

    from .._vocabulary.hooks import DisposalKind
    from .signal import CancelSignal
    from .works import Work

logger = logging.getLogger("anyscope")

MISNESTING_ADVICE = (
    "A scope belongs to the task that entered it. The usual causes: a `yield` inside the block in an async\n"
    "generator or a fixture, or `__aenter__` and `__aexit__` called by hand. Open it with `async with` in the\n"
    "task that runs the block, and hand work to other tasks with s.task(...)."
)


CLOSE_TIMEOUT = 10.0
"""Seconds that a clean-up step may take where nothing is said of it."""


def _nothing() -> None:
    """There is nothing to be stopped."""


class Owner(Branch):
    """Owns what is started and opened in one scope; the scope itself is a face on it.

    Args:
        name: The name, checked.
        timeout: The deadline in seconds from entry, checked.
        close_timeout: The bound of each clean-up step in seconds, checked.
        parent: The owner above, `None` for a root, or `AMBIENT`.
        signal: A signal to be cancelled by.
        hooks: The hooks of this scope alone.
    """

    __slots__ = (
        "__weakref__",
        "_clean_ups",
        "_closer_began",
        "_created",
        "_deadline",
        "_stop_timer",
        "_stop_watch",
        "_trouble",
        "close_timeout",
        "closing",
        "dropped",
        "timeout",
    )

    phase: Phase  # of the branch; written here

    def __init__(  # noqa: PLR0917  by position it is made in less time
        self,
        name: str = "scope",
        timeout: float | None = None,
        close_timeout: float | None = CLOSE_TIMEOUT,
        parent: Branch | Ambient | None = AMBIENT,
        signal: CancelSignal | None = None,
        hooks: tuple[Hooks, ...] = (),
    ) -> None:
        Branch.__init__(self, name, parent, signal, hooks)  # in less time than by way of `super`
        self.timeout: float | None = timeout
        self.close_timeout: float | None = close_timeout
        self._trouble: Trouble | None = None  # made when there is some
        self.dropped: int = 0  # errors that were counted but not kept; the collectors add to it
        self._created = 0
        self._clean_ups: list[CleanUp] = []
        # Prevents that the deadline strikes; made by `_start_timer`, which also writes the time of it.
        self._stop_timer: Callable[[], None] = _nothing
        self._deadline = math.inf
        # The closer alone writes these: whether one has begun, the step that it is at, and what prevents that
        # somebody is told that this one is slow.
        self._closer_began = False
        self.closing: CleanUp | None = None
        self._stop_watch: Callable[[], None] = _nothing

    # ------------------------------------------------------------------ work

    def _begin(self, former: Place | None, place: Place | None) -> None:
        super()._begin(former, place)
        if self.timeout is not None:
            self._start_timer(self.timeout)

    def next_index(self) -> int:
        """The number of the next task or clean-up, in order of creation."""
        self._created += 1
        return self._created - 1

    def spawn(
        self, coro: Coroutine[Any, Any, None], name: str, context: Context | None = None
    ) -> anyio.TaskHandle[None]:
        """Start a child of the task group."""
        return self.group.create_task(coro, name=name, context=context)

    def push(
        self,
        label: str,
        function: Callable[..., object],
        args: tuple[Any, ...] = (),
        kind: DisposalKind = "clean-up",
        subject: object = None,
        *,
        index: int | None = None,
    ) -> None:
        """Register a clean-up step, with the number of what it closes if that has one."""
        index = self.next_index() if index is None else index
        self._clean_ups.append(CleanUp(index, label, function, args, kind, subject))
        if WATCHERS:
            tell("pushed", self, self._clean_ups[-1])

    @property
    def clean_ups(self) -> tuple[CleanUp, ...]:
        """The clean-up steps that have not run, in order of creation."""
        return tuple(self._clean_ups)

    # ------------------------------------------------------------------ the deadline

    def _start_timer(self, timeout: float) -> None:
        self._deadline = anyio.current_time() + timeout
        if timeout == 0:
            self._expire(timeout)
        else:
            self._stop_timer = self._call_later(timeout, functools.partial(self._expire, timeout))

    def _call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        stop = call_later(delay, callback)
        if stop is not None:
            return stop
        sleeper = anyio.CancelScope(shield=True)
        _ = self.spawn(Start(functools.partial(sleep_then, sleeper, delay, callback)), f"timer of {self.path}")
        return sleeper.cancel

    def _expire(self, timeout: float) -> None:
        running = tuple(dict.fromkeys(work.label for work in self.works.live))
        self.cancel(ScopeTimeout(path=self.path, limit=timeout, running=running), kind="deadline")

    # ------------------------------------------------------------------ what goes wrong

    @property
    def trouble(self) -> Trouble:
        """What went wrong so far, for who knows of more."""
        if self._trouble is None:
            self._trouble = Trouble()
        return self._trouble

    @property
    def collectors(self) -> list[Collector]:
        """Who is asked at the end for errors that nobody looked at; features append."""
        return self.trouble.collectors

    def report(self, error: Exception, index: int, note: str) -> None:
        """An error that will leave the scope at its end."""
        self.trouble.reports.append(Report((0, index), error, note))

    def crash(self, error: Exception, index: int, note: str) -> None:
        """An error that nobody holds in a handle: it will leave the scope, and it cancels it."""
        self.report(error, index, note)
        self.cancel(error, kind="error")

    def end_for(self, fatal: BaseException) -> None:
        """A `BaseException` such as KeyboardInterrupt ends the scope, and leaves it bare."""
        self.trouble.fatal = self.trouble.fatal or fatal
        self.cancel(fatal, kind="error")

    @property
    def departure(self) -> Exception | None:
        """What a context manager that is left now gets to see, as a nested `with` would show it.

        The error that will leave the block, the first if there are several; or a report of a cancellation, for a
        transaction must not commit then.
        """
        error = self._first_error()
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            return self._report_of(error)  # no coroutine can raise that: Python makes a RuntimeError of it
        return error

    def _first_error(self) -> Exception | None:
        cancellation = self.cancellation
        if cancellation is None or (cancellation.kind == "deadline" and not self.trouble.cut):
            return self.trouble.first_error()
        if cancellation.kind in ("error", "deadline") and isinstance(cancellation.reason, Exception):
            return cancellation.reason
        return self._report_of(cancellation.reason)

    def _report_of(self, reason: object) -> ScopeCancelled:
        return ScopeCancelled(path=self.path, action="everything in it", reason=reason)

    def explain_cut(self) -> Cancellation | None:
        """Called by who was just cancelled without an order of its own: whose cancellation it was.

        Returns:
            The scope's cancellation, which this may be the first to notice when it came from outside;
            or `None`, when it was a native cancellation of that one task.
        """
        if self.cancellation is None:
            if anyio.current_effective_deadline() != -math.inf:
                return None
            self._note_stray_cancellation()
        self.trouble.cut = True
        if self.cancellation is not None and self.cancellation.kind == "parent" and isinstance(self.parent, Owner):
            self.parent.explain_cut()
        return self.cancellation

    def _note_stray_cancellation(self) -> None:
        # While the body runs, only AnyIO itself cancels the group without our order; while it is left,
        # AnyIO does so too when the host is cancelled from outside, and `leave` tells the two apart.
        if self.phase == "open" and self.group.cancel_scope.cancel_called:
            self.crash(self._stray_cancellation(), -1, f"in {self.path}")
        else:
            self.cancel("cancelled from outside", kind="outside")

    def _stray_cancellation(self) -> ScopeCancelled:
        """The error for the last paragraph at the top."""
        reason = "one of its tasks was cancelled natively before it began"
        return ScopeCancelled(path=self.path, action="everything in it", reason=reason)

    # ------------------------------------------------------------------ leaving

    async def leave(self, raised: BaseException | None, face: object) -> bool:
        """Leave the block, as an `__aexit__` has to: wait, close, and raise what leaves it.

        Args:
            raised: What the body raised.
            face: What the user holds, or nobody: it is kept until then, for tasks may still ask for the current scope.

        Returns:
            Whether the error of the body is absorbed.
        """
        if self.phase != "open" or self._place is None or self._place.native is not running_task():
            self._refuse_leaving()
        body, native, foreign_cut = QUIET, None, False
        if raised is not None:
            body = sort_out(raised)
            foreign_cut = body.cut is not None and anyio.current_effective_deadline() != -math.inf
            self._cancel_after(body, foreign_cut=foreign_cut)
        if self._clean_ups or (self._works is not None and self._works.are_left):
            self.phase = "draining"
            native = await self._start_closer()
        else:
            self.phase = "closing"  # the group is not left at once, and must take nothing new meanwhile
            if self.timeout is not None:
                self._stop_timer()
        cut, group = None if foreign_cut else body.cut, self.group
        try:
            absorbed = await (
                group.__aexit__(None, None, None) if cut is None else group.__aexit__(type(cut), cut, cut.__traceback__)
            )
            outside = native if absorbed or cut is None else cut
        except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
            outside = self._take(error) or native
        if outside is None and self.cancellation is not None and not foreign_cut:
            outside = await self._outside()
        self.detach()
        if body is QUIET and outside is None and self._trouble is None:
            return False  # by far the most frequent end
        try:
            return leave_with(self._leaving(body, body.cut if foreign_cut else outside), raised)
        finally:
            self._trouble = None
            del raised, face, body, native, cut, outside  # the frames of an error must not lead back to it

    async def _start_closer(self) -> BaseException | None:
        """Start the closer, and see it begin, since some things end by its word alone.

        Returns:
            A native cancellation of the host in the meantime.
        """
        native: BaseException | None = None
        turns = 0
        while not self._closer_began:
            if turns % TURNS == 0:
                _ = self.spawn(Start(self._close), f"closer of {self.path}")
            turns += 1
            try:
                await cancel_shielded_checkpoint()
            except anyio.get_cancelled_exc_class() as cut:  # noqa: ASYNC103  raised when everything is closed
                native = cut
                self.cancel("cancelled natively", kind="outside")
        return native

    async def _outside(self) -> BaseException | None:
        """The cancellation of an outer scope, if there is one, that the group did not pass on.

        A Trio nursery whose children all ended quietly does not raise it, and what is left of the block
        may have no checkpoint. Where nobody outside ordered the cancellation that seemed to come from
        there, that is told.
        """
        try:
            await pass_on_cancellation()
        except anyio.get_cancelled_exc_class() as cut:  # noqa: ASYNC103  sorted out, then told or raised
            return cut  # noqa: ASYNC104  sorted out, then told or raised
        if self.cancellation is not None and self.cancellation.kind == "outside":
            self.report(self._stray_cancellation(), -1, f"in {self.path}")
        return None

    def _refuse_leaving(self) -> NoReturn:
        is_open = self.phase == "open"
        problem = "it was left in another task than it was entered in" if is_open else "it was left, but it is not open"
        raise ScopeMisuse(path=self.path, problem=problem, remedy=MISNESTING_ADVICE)

    def _cancel_after(self, body: BodyEnd, *, foreign_cut: bool) -> None:
        if body.cut is not None:
            if foreign_cut:
                self.cancel("cancelled natively", kind="outside")
            self.explain_cut()
        if body.error is not None or body.fatal is not None:
            self.cancel(body.error or body.fatal, kind="error")

    def _take(self, raised: BaseException) -> BaseException | None:
        """Keep what a task group raised; gives the cancellation in it."""
        end = sort_out(raised)
        if end.error is not None:
            self.report(end.error, self._created, f"in {self.path}")
        if end.fatal is not None:
            self.trouble.fatal = self.trouble.fatal or end.fatal
        return end.cut

    def _leaving(self, body: BodyEnd, outside: BaseException | None) -> BaseException | None:
        trouble, timeout = self.trouble, None
        reports = trouble.all_reports()
        if trouble.cut and self.cancellation is not None and self.cancellation.kind == "deadline":
            assert isinstance(self.cancellation.reason, ScopeTimeout)
            timeout = self.cancellation.reason
        return Ending(self.path, body, outside, trouble.fatal, timeout, reports, self.dropped).leaves()

    # ------------------------------------------------------------------ the closer

    async def _close(self) -> None:
        """Wait for the work, stop the daemons, run the clean-ups; in a child task, see the top."""
        if self._closer_began:
            return  # another one was started, because this one seemed to be lost
        self._closer_began = True
        stand_in(Place(self))
        cancelled = anyio.get_cancelled_exc_class()  # noqa: ASYNC118  used at once
        # The shield comes only later, so that a cancellation of the group is noticed.
        is_cancelled = False
        while self.works.live and not is_cancelled:
            with suppress(cancelled):
                await self._until_ended(self.works.live, self._deadline - anyio.current_time())
            is_cancelled = anyio.current_effective_deadline() == -math.inf
        if is_cancelled and self.cancellation is None:
            self._note_stray_cancellation()  # those who are not in the group hear it from us alone
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    await self._close_shielded(is_cancelled=is_cancelled)
                    break
                except Exception:
                    raise  # a defect of ours
                except BaseException as raised:  # noqa: ASYNC103  a native cancellation or a KeyboardInterrupt
                    self._take(raised)  # go on where it was

    async def _close_shielded(self, *, is_cancelled: bool) -> None:
        if is_cancelled:
            await self._bury_the_unborn()
        bound = math.inf if self.close_timeout is None else self.close_timeout
        await self._until_ended(self.works.live, bound)
        self._stop_timer()
        self.phase = "closing"
        for daemon in list(self.works.daemons):
            daemon.cancel("its scope has ended")
        await self._bury_the_unborn()
        await self._until_ended(self.works.daemons, bound)
        await self._until_orphans_ended(bound)
        while self._clean_ups:
            await self._clean_up(self._clean_ups.pop())
            await self._until_orphans_ended(bound)

    async def _until_orphans_ended(self, bound: float) -> None:
        """Wait for scopes that strangers hung here from a daemon or a service, such as its server's requests.

        While that served they were its affair; now that it has ended they are the scope's, as any other's.
        """
        for child in list(self.children):
            if child.keeper is not None and child.keeper.native is None:
                self.take_over(child)
        await self._until_ended(self.works.live, bound)

    async def _until_ended(self, works: Collection[Work], bound: float) -> None:
        """Wait for `works`; tell once if that takes more than half of `bound`, which is not enforced here."""
        if not works:
            return
        if 0 < bound < math.inf:
            with anyio.move_on_after(bound / 2):
                await self.works.until_ended(works)
                return
            self._warn(", ".join(dict.fromkeys(work.label for work in works)), bound)
        await self.works.until_ended(works)

    async def _clean_up(self, step: CleanUp) -> None:
        path = self.path
        self.closing = step
        end = await run_clean_up(step, path=path, bound=self.close_timeout, on_wait=lambda: self._watch(step))
        self._stop_watch()
        self.closing = None
        if end.error is not None:
            reports = self.trouble.reports
            reports.append(Report((1, len(reports)), end.error, f"in clean-up {step} of {path}"))
        if end.fatal is not None:
            self.trouble.fatal = self.trouble.fatal or end.fatal
        if self.hooks is not None:
            error = end.error or end.fatal
            self.hooks.tell_disposed(Disposed(path, step.index, step.label, end.duration, error, step.kind))

    # ------------------------------------------------------------------ telling that closing is slow

    def _watch(self, step: CleanUp) -> None:
        """The step waits: have it told if it waits for long."""
        bound = self.close_timeout
        if bound is not None:
            self._stop_watch = self._call_later(bound / 2, lambda: self._warn(f"clean-up {step}", bound))

    def _warn(self, what: str, bound: float) -> None:
        face = self.face()
        tree = "" if face is None else f"\n{face.tree()}"
        logger.warning(
            "scope %s: half of %g s has gone by while it closes, waiting for %s%s", self.path, bound, what, tree
        )

    async def _bury_the_unborn(self) -> None:
        """End the handles of children that were cancelled natively before their first step.

        A child that merely has not had its turn yet has it within a few turns of the loop. Should that
        ever take longer, it does not begin any more: its group is cancelled.
        """
        for _ in range(TURNS):
            if not self.works.has_unborn:
                return
            await checkpoint()
        if self.cancellation is None and self.works.has_unborn:
            # First, so that a slot that is given back now goes to no queued task.
            self.crash(self._stray_cancellation(), -1, f"in {self.path}")
        for work in list(self.works):
            if work.is_unborn:
                work.abandon()
