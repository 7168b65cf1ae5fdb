"""The owner: one task group, and everything that must have ended before its block is left.

    new -> open -> draining -> closing -> closed

*open*: the body runs. *draining*: the body is out; tasks, child scopes and calls from foreign tasks are
waited for, and may still start new work. *closing*: daemons are stopped, then what was opened is closed,
last opened first. *closed*: nothing of it runs.

Invariants
    * A work in `_live` or `_daemons` has not ended; the group is not left while there is one.
    * `cancellation` is written once, by `_mark_cancelled`, before anything is told of it: whether and
      why a scope was cancelled is never guessed from a cancel scope or from the clock.
    * Each clean-up is taken off the stack before it runs, so it runs once.
    * Nothing of a child that has closed is kept.

How it closes. Waiting for tasks, stopping daemons and clean-up happen in the *closer*, a child task that
shields itself, while the host waits where it always waits, in the group's `__aexit__`. That wait already
survives being cancelled over and over, by scopes and natively; and a native `Task.cancel()` of the host,
which goes through any shield, does not reach the clean-up. A scope with nothing to wait for and nothing to
close does not start it, and costs little more than its group.

Rejected
    * Clean-up in the host under a shield: cut short by a native cancel (measured, 3 of 7 runs).
    * A second group for daemons, or one opened on demand: the first doubles the cost of every scope, the
      second corrupts the backend's scope stack when the user has a `move_on_after` open.
    * `deadline` on the group's cancel scope: it says that it fired but not whether it was first, and child
      scopes in other tasks hear nothing. A daemon that sleeps and then calls `cancel` has neither flaw.

One trap of asyncio remains visible here: a child that is cancelled natively before its first step never
runs a line of ours, and AnyIO then cancels the whole group in silence. `_note_stray_cancellation` turns
that into an error, and `_bury_the_unborn` gives the child its end.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from .._vocabulary.errors import ScopeCancelled, ScopeClosed, ScopeMisuse, ScopeTimeout, because
from .._vocabulary.hooks import Cancelled, CancelKind, Disposed, Hooks
from .._vocabulary.options import name_of
from .backend import running_loop, running_task
from .cleanup import CleanUp, run_clean_up
from .ending import BodyEnd, Ending, Report, sort_out
from .hookset import HookSet
from .place import HERE, Place, beneath, here, is_inside, nearest_open, stand_in
from .signal import CancelSignal, Listeners, wrong_thread

Phase: TypeAlias = Literal["new", "open", "draining", "closing", "closed"]

MISNESTING_ADVICE = (
    "A scope belongs to the task that entered it. The usual causes: a `yield` inside the block in an async\n"
    "generator or a fixture, or `__aenter__` and `__aexit__` called by hand. Open it with `async with` in the\n"
    "task that runs the block, and hand work to other tasks with s.task(...)."
)


class Ambient(Enum):
    """The type of `AMBIENT`."""

    AMBIENT = "AMBIENT"

    def __repr__(self) -> str:
        return "AMBIENT"


AMBIENT = Ambient.AMBIENT
"""As `parent=`: the scope that is current where the new one is entered."""


class Work(Protocol):
    """Something that has to end before its scope closes."""

    @property
    def label(self) -> str:
        """What it is called in errors and in the tree."""
        ...

    def abandon_if_unborn(self) -> None:
        """End it now if the backend dropped it before its first step; else do nothing."""
        ...


class Daemon(Work, Protocol):
    """A work that is stopped, not waited for."""

    def cancel(self, reason: object = None) -> None:
        """Ask it to end."""
        ...


@dataclass(frozen=True, slots=True)
class Cancellation:
    """That a scope was cancelled, by what, and why."""

    kind: CancelKind
    reason: object


class Owner:
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
        "_asked_parent",
        "_children",
        "_clean_ups",
        "_cut",
        "_daemons",
        "_emptied",
        "_fatal",
        "_former_place",
        "_group",
        "_indexes",
        "_listeners",
        "_live",
        "_loop",
        "_place",
        "_reports",
        "_signal",
        "_thread",
        "_timer",
        "_unlisten",
        "cancellation",
        "close_timeout",
        "collectors",
        "dropped",
        "face",
        "hooks",
        "is_nested",
        "name",
        "own_hooks",
        "parent",
        "phase",
        "timeout",
    )

    def __init__(
        self,
        *,
        name: str = "scope",
        timeout: float | None = None,
        close_timeout: float | None = 10.0,
        parent: Owner | None | Ambient = AMBIENT,
        signal: CancelSignal | None = None,
        hooks: tuple[Hooks, ...] = (),
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.close_timeout = close_timeout
        self.own_hooks = hooks
        self.face: Any = None  # the object that the user holds; written by it
        self._asked_parent = parent
        self._signal = signal
        # What the owner is in, set once at entry.
        self.parent: Owner | None = None
        self.hooks: HookSet | None = None
        self.is_nested = False  # whether the backend cancels it along with its parent
        self._loop: object = None
        self._thread = 0  # 0: not entered, so every thread may touch it
        # How far it is. `phase` only moves forward, in `open`, `leave` and `_close`.
        self.phase: Phase = "new"
        self.cancellation: Cancellation | None = None
        # Whether the body or a task was really cut off by the cancellation, and not merely late.
        self._cut = False
        self._fatal: BaseException | None = None
        self._reports: list[Report] = []
        self.dropped = 0  # errors that were counted but not kept; the collectors add to it
        # Who is asked at the end for errors that nobody looked at; features append.
        self.collectors: list[Callable[[], Iterable[Report]]] = []
        self._indexes = 0
        self._live: dict[Work, None] = {}
        self._daemons: dict[Daemon, None] = {}
        self._children: dict[Owner, None] = {}
        self._clean_ups: list[CleanUp] = []
        self._emptied: anyio.Event | None = None  # set whenever a work ends, made by who waits
        self._listeners: Listeners | None = None
        self._unlisten: Callable[[], None] | None = None
        self._timer: anyio.TaskHandle[None] | None = None
        self._group: TaskGroup | None = None
        self._place: Place | None = None
        self._former_place: Place | None = None

    # ------------------------------------------------------------------ what it is called

    @property
    def path(self) -> str:
        """The names from the root to here, such as `app > ingest`."""
        names = [self.name]
        above = self.parent
        while above is not None:
            names.append(above.name)
            above = above.parent
        return " > ".join(reversed(names))

    @property
    def label(self) -> str:
        """What it is called among the works of its parent."""
        return f"scope {self.name}"

    # ------------------------------------------------------------------ entering

    async def open(self) -> None:
        """Enter the block: find the parent, then open the task group, last (law 4)."""
        parent = self._find_parent()
        self.parent = parent
        self.is_nested = parent is not None and is_inside(parent)
        self._inherit_hooks()
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._begin()

    def _begin(self) -> None:
        """The synchronous rest of entering; nothing here can fail, for the group is open."""
        self.phase = "open"
        self._thread = threading.get_ident()
        self._loop = running_loop()
        self._former_place = HERE.get()
        self._place = Place(self, beneath(here()))
        stand_in(self._place)
        if self.cancellation is not None:
            self._mark_cancelled(self.cancellation)  # it was cancelled before it was entered
        if self.parent is not None:
            self._attach(self.parent)
        if self._signal is not None:
            self._unlisten = self._signal.on_cancel(lambda reason: self.cancel(reason, kind="signal"))
        if self.timeout is not None:
            self._start_timer(self.timeout)

    def _find_parent(self) -> Owner | None:
        if self.phase != "new":
            raise ScopeMisuse(path=self.path, problem="it was entered a second time", remedy="A scope is single-use: call scope(...) again for the next block.")
        asked = self._asked_parent
        if asked is AMBIENT:
            return None if self._signal is not None else nearest_open()
        if asked is not None:
            _check_parent(self.name, asked)
        return asked

    def _inherit_hooks(self) -> None:
        inherited = None if self.parent is None else self.parent.hooks
        self.hooks = HookSet(inherited, self.own_hooks) if self.own_hooks else inherited

    def _attach(self, parent: Owner) -> None:
        parent.join(self)
        parent._children[self] = None
        if parent.cancellation is not None:
            self.cancel(parent.cancellation.reason, kind="parent")

    def _start_timer(self, timeout: float) -> None:
        if timeout == 0:
            self._expire(timeout)
        else:
            assert self._group is not None
            self._timer = self._group.start_soon(self._wait_for_deadline, timeout, name=f"deadline of {self.path}")

    async def _wait_for_deadline(self, timeout: float) -> None:
        await anyio.sleep(timeout)
        self._expire(timeout)

    def _expire(self, timeout: float) -> None:
        running = tuple(work.label for work in self._live)
        self.cancel(ScopeTimeout(path=self.path, limit=timeout, running=running), kind="deadline")

    # ------------------------------------------------------------------ who may call what

    def is_open_here(self) -> bool:
        """Whether it is the running loop's, and still takes new work."""
        return self.phase in ("open", "draining") and self._loop is running_loop()

    def require_open(self, call: str, subject: object = None, *, closing_too: bool = False) -> None:
        """Refuse `call(subject)` from a foreign thread, before entry and after the end."""
        self.require_own_thread(f"s.{call}")
        if self.phase == "open" or self.phase == "draining" or (closing_too and self.phase == "closing"):
            return
        action = call if subject is None else f"{call}({name_of(subject)})"
        if self.phase == "new":
            raise ScopeMisuse(path=self.path, problem=f"{action} came before it was entered", remedy="Enter it first: async with scope(...) as s:")
        raise ScopeClosed(path=self.path, action=action)

    def require_own_thread(self, call: str) -> None:
        """Refuse `call` from a foreign thread while there is anything to be disturbed."""
        if self._thread and self._thread != threading.get_ident() and self.phase != "closed":
            raise wrong_thread(self.path, call)

    # ------------------------------------------------------------------ work

    def next_index(self) -> int:
        """The number of the next task or clean-up, in order of creation."""
        index = self._indexes
        self._indexes = index + 1
        return index

    @property
    def created(self) -> int:
        """How many numbers `next_index` has given."""
        return self._indexes

    def spawn(self, coro: Coroutine[Any, Any, None], name: str, context: Context | None = None) -> anyio.TaskHandle[None]:
        """Start a child of the task group."""
        assert self._group is not None
        return self._group.create_task(coro, name=name, context=context)

    @property
    def group(self) -> TaskGroup:
        """The task group, while it is open."""
        assert self._group is not None
        return self._group

    def join(self, work: Work) -> None:
        """Wait for `work` before closing."""
        self._live[work] = None

    def join_daemon(self, daemon: Daemon) -> None:
        """Stop `daemon` after everything in `join` has ended, and wait for it then."""
        self._daemons[daemon] = None

    def part(self, work: Any) -> None:
        """`work` has ended."""
        if work in self._live:
            del self._live[work]
        else:
            self._daemons.pop(work, None)
        if self._emptied is not None:
            self._emptied.set()

    @property
    def works(self) -> Iterator[Work]:
        """What has not ended yet: tasks, calls, child scopes, then daemons."""
        yield from self._live
        yield from self._daemons

    @property
    def children(self) -> Iterator[Owner]:
        """The child scopes that are open."""
        return iter(self._children)

    def push(self, label: str, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Register a clean-up step."""
        self._clean_ups.append(CleanUp(self.next_index(), label, function, args))

    @property
    def clean_ups(self) -> tuple[CleanUp, ...]:
        """The clean-up steps that have not run, in order of creation."""
        return tuple(self._clean_ups)

    # ------------------------------------------------------------------ cancellation

    @property
    def cancelled(self) -> bool:
        """Whether it has been cancelled, by whatever."""
        return self.cancellation is not None

    @property
    def cancel_reason(self) -> object:
        """The reason of its cancellation."""
        return None if self.cancellation is None else self.cancellation.reason

    @property
    def listeners(self) -> Listeners:
        """Who wants to be told of a cancellation."""
        if self._listeners is None:
            self._listeners = Listeners()
        return self._listeners

    def cancel(self, reason: object = None, *, kind: CancelKind = "cancel") -> None:
        """Cancel everything in the scope and below it; the first reason wins.

        Iterative, because scopes may be nested deeper than Python's stack.
        """
        self.require_own_thread("s.cancel")
        waiting: list[tuple[Owner, CancelKind]] = [(self, kind)]
        while waiting:
            owner, why = waiting.pop()
            if owner.cancellation is None and owner.phase not in ("closing", "closed"):
                owner._mark_cancelled(Cancellation(why, reason))
                waiting.extend((child, "parent") for child in reversed(owner._children))

    def _mark_cancelled(self, cancellation: Cancellation) -> None:
        self.cancellation = cancellation
        if cancellation.kind != "parent" or not self.is_nested:
            self._deliver()
        if self.hooks is not None:
            self.hooks.tell_cancelled(Cancelled(self.path, cancellation.kind, cancellation.reason))
        if self._listeners is not None:
            self._listeners.tell(cancellation.reason)

    def _deliver(self) -> None:
        """Cancel the group. A nested child is left to the backend, which then respects shields."""
        if self._group is not None:
            self._group.cancel_scope.cancel(because(self.cancel_reason)[2:-1] or None)

    def crash(self, error: Exception, index: int, note: str) -> None:
        """An error that nobody holds in a handle: it will leave the scope, and it cancels it."""
        self.report(error, index, note)
        self.cancel(error, kind="error")

    def report(self, error: Exception, index: int, note: str) -> None:
        """An error that will leave the scope at its end."""
        self._reports.append(Report((0, index), error, note))

    def end_for(self, fatal: BaseException) -> None:
        """A `BaseException` such as KeyboardInterrupt ends the scope, and leaves it bare."""
        if self._fatal is None:
            self._fatal = fatal
        self.cancel(fatal, kind="error")

    def explain_cut(self) -> Cancellation | None:
        """Called by who was just cancelled without an order of its own: whose cancellation it was.

        Returns:
            The scope's cancellation, which this may be the first to notice when it came from outside;
            or `None`, when it was a native cancellation of that one task.
        """
        if self.cancellation is None:
            if anyio.current_effective_deadline() != -float("inf"):
                return None
            self._note_stray_cancellation()
        self._cut = True
        return self.cancellation

    def _note_stray_cancellation(self) -> None:
        assert self._group is not None
        if not self._group.cancel_scope.cancel_called:
            self.cancel("cancelled from outside", kind="outside")
            return
        # Nobody told the group to cancel itself, so AnyIO did: see the last paragraph at the top.
        error = ScopeCancelled(path=self.path, action="everything in it", reason="one of its tasks was cancelled natively before it began")
        self.crash(error, -1, f"in {self.path}")

    # ------------------------------------------------------------------ leaving

    async def leave(self, raised: BaseException | None) -> BaseException | None:
        """Leave the block: wait, close, and give the exception that leaves it (`None`: quietly)."""
        self._check_leaving()
        body = sort_out(raised)
        foreign_cut = body.cut is not None and anyio.current_effective_deadline() != -float("inf")
        self._cancel_after(body, foreign_cut=foreign_cut)
        self.phase = "draining"
        if self._live or self._daemons or self._clean_ups:
            self.group.start_soon(self._close, name=f"closer of {self.path}")
        else:
            self.phase = "closing"  # the group is not left at once, and must take nothing new meanwhile
            self._stop_timer()
        outside = await self._leave_group(None if foreign_cut else body.cut)
        while self._live or self._daemons or self._clean_ups:
            outside = await self._close_again() or outside
        self._detach()
        return self._ending(body, body.cut if foreign_cut else outside).leaves()

    def _check_leaving(self) -> None:
        if self.phase != "open":
            raise ScopeMisuse(path=self.path, problem="it was left, but it is not open", remedy=MISNESTING_ADVICE)
        assert self._place is not None
        if self._place.native is not running_task():
            raise ScopeMisuse(path=self.path, problem="it was left in another task than it was entered in", remedy=MISNESTING_ADVICE)

    def _cancel_after(self, body: BodyEnd, *, foreign_cut: bool) -> None:
        if body.cut is not None:
            if foreign_cut:
                self.cancel("cancelled natively", kind="outside")
            self.explain_cut()
        if body.error is not None:
            self.cancel(body.error, kind="error")
        elif body.fatal is not None:
            self.cancel(body.fatal, kind="error")

    async def _leave_group(self, cut: BaseException | None) -> BaseException | None:
        """Leave the task group; gives the cancellation that it does not absorb."""
        traceback: TracebackType | None = None if cut is None else cut.__traceback__
        try:
            absorbed = await self.group.__aexit__(None if cut is None else type(cut), cut, traceback)
        except BaseException as error:  # noqa: BLE001  sorted out, and raised again by who enters the scope
            end = sort_out(error)
            if end.error is not None:
                self.report(end.error, self.created, f"in {self.path}")
            self._fatal = self._fatal or end.fatal
            return end.cut
        return None if absorbed else cut

    async def _close_again(self) -> BaseException | None:
        """Go on closing where the closer was itself cancelled natively, or never began."""
        self._bury_the_unborn()
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    group.start_soon(self._close, name=f"closer of {self.path}")
        except BaseException as error:  # noqa: BLE001  as in _leave_group
            return sort_out(error).cut
        return None

    def _ending(self, body: BodyEnd, outside: BaseException | None) -> Ending:
        reports = [*self._reports, *(report for collect in self.collectors for report in collect())]
        timeout = None
        if self._cut and self.cancellation is not None and self.cancellation.kind == "deadline":
            timeout = self.cancellation.reason
            assert isinstance(timeout, ScopeTimeout)
        return Ending(self.path, body, outside, self._fatal, timeout, reports, self.dropped)

    def _detach(self) -> None:
        """Let go of everything, so that a context copy that still points here keeps little alive."""
        self.phase = "closed"
        self._group = self._timer = None
        if self._unlisten is not None:
            self._unlisten()
        if self.parent is not None:
            del self.parent._children[self]
            self.parent.part(self)
        if HERE.get() is self._place:
            HERE.set(self._former_place)
        self._former_place = None

    # ------------------------------------------------------------------ the closer

    async def _close(self) -> None:
        """Wait for the work, stop the daemons, run the clean-ups; in a child task, see the top."""
        place = Place(self)
        stand_in(place)
        try:
            await self._until_empty(self._live)
        except anyio.get_cancelled_exc_class():
            # Cancelled along with the group. The shield comes only now so that this is noticed: the
            # group may have been cancelled because a child was lost before it began.
            self._bury_the_unborn()
        with anyio.CancelScope(shield=True):
            await self._until_empty(self._live)
            self._stop_timer()
            self.phase = "closing"
            for daemon in list(self._daemons):
                daemon.cancel("its scope has ended")
            await self._until_empty(self._daemons)
            while self._clean_ups:
                await self._clean_up(self._clean_ups.pop())

    async def _until_empty(self, works: dict[Any, None]) -> None:
        while works:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    async def _clean_up(self, step: CleanUp) -> None:
        path = self.path
        end = await run_clean_up(step, path=path, bound=self.close_timeout)
        if end.error is not None:
            self._reports.append(Report((1, len(self._reports)), end.error, f"in clean-up {step} of {path}"))
        self._fatal = self._fatal or end.fatal
        if self.hooks is not None:
            self.hooks.tell_disposed(Disposed(path, step.index, step.label, end.duration, end.error or end.fatal))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _bury_the_unborn(self) -> None:
        """End the handles of children that were cancelled natively before their first step."""
        gc.collect()  # what is left of such a child hangs in a reference cycle of asyncio's
        for work in list(self.works):
            work.abandon_if_unborn()

    def abandon_if_unborn(self) -> None:
        """A child scope is left by its own task; there is nothing to bury."""


def _check_parent(name: str, parent: Owner) -> None:
    if parent.phase == "new":
        raise ScopeMisuse(path=parent.path, problem=f"it was given as parent of scope {name} before it was entered", remedy="Enter the parent first: async with scope(...) as parent:")
    if parent.phase in ("closing", "closed"):
        raise ScopeClosed(path=parent.path, action=f"entering child scope {name}", remedy="Open the child while its parent is open, or make it a root with parent=None.")
    if parent._loop is not running_loop():
        raise ScopeMisuse(path=parent.path, problem=f"it was given as parent of scope {name} in another event loop", remedy="A scope lives in one event loop. Use parent=None, and cancel it from there by way of from_thread.run_sync.")
