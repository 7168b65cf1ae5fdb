"""`Hooks`: what a scope tells to those who log, measure and trace.

A class with methods rather than a bag of functions: its state (histograms, open spans) lives on the
object, and later events are new methods that break nobody. Two layers:

* the simple one, `before_task`, `after_task`, `on_cancel`, `on_dispose`, with the few arguments that
  nearly everybody wants;
* beneath it one method per moment that gets a frozen record with everything that is known. Overriding
  it replaces the simple one for that moment. New fields in a record break nobody.

Only what is overridden is ever called, so a scope without hooks pays one test per task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from .options import check_callback, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

TaskKind: TypeAlias = Literal["task", "run", "job", "start_soon", "start", "daemon"]
Outcome: TypeAlias = Literal["ok", "error", "cancelled"]
DisposalKind: TypeAlias = Literal["clean-up", "entered", "service", "pool"]
CancelKind: TypeAlias = Literal["cancel", "deadline", "error", "parent", "signal", "outside"]


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A task is about to run; told inside the task, in its own context.

    Attributes:
        name: The name of the task.
        index: Its number in the scope, counted from 0.
        path: The path of the scope.
        kind: How it was started: `task`, `run`, `job`, `start_soon`, `start` or `daemon`.
        waited: Seconds that it queued for a slot before it could run.
    """

    name: str
    index: int
    path: str
    kind: TaskKind
    waited: float


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A task has run; told inside the task, in its own context.

    Attributes:
        name: The name of the task.
        index: Its number in the scope, counted from 0.
        path: The path of the scope.
        kind: How it was started.
        waited: Seconds that it queued for a slot before it could run.
        duration: Seconds that it ran, without the queueing.
        outcome: `ok`, `error` or `cancelled`.
        error: What it raised, or a `TaskCancelled`, or `None`.
    """

    name: str
    index: int
    path: str
    kind: TaskKind
    waited: float
    duration: float
    outcome: Outcome
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A scope was cancelled; told once per scope, and never on a normal end.

    Attributes:
        path: The path of the scope.
        kind: What did it: an explicit `cancel`, the `deadline`, an `error`, the `parent`, a `signal`,
            or a cancel scope `outside`.
        reason: The reason given, or the error, or `None`.
    """

    path: str
    kind: CancelKind
    reason: object


@dataclass(frozen=True, slots=True)
class Disposed:
    """Something that a scope had opened was closed.

    Attributes:
        path: The path of the scope.
        index: Its number in the scope in order of creation, counted from 0.
        label: What was closed, by name; a service by its key.
        duration: Seconds that closing took.
        error: What closing raised, or `None`.
        kind: `clean-up` for a function given to `on_exit`, `entered` for a context manager, or `service`.
    """

    path: str
    index: int
    label: str
    duration: float
    error: BaseException | None
    kind: DisposalKind = "clean-up"


PoolMoment: TypeAlias = Literal[
    "created", "create_failed", "acquired", "released", "discarded", "destroyed", "timeout", "rejected", "cancelled"
]


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something happened in a resource pool.

    Attributes:
        pool: The name of the pool.
        path: The path of its scope.
        moment: `created`, `create_failed`, `acquired`, `released`, `discarded`, `destroyed`; or what became of who
            waited: `timeout`, `rejected` (because of `max_waiting`), `cancelled`.
        duration: Seconds: that creating took, that an acquirer waited, that a resource was in use; else 0.
        reason: Why it was discarded, as in `PoolStats.discarded`; else empty.
        error: What creating or destroying raised, or `None`.
    """

    pool: str
    path: str
    moment: PoolMoment
    duration: float = 0.0
    reason: str = ""
    error: Exception | None = None


PollMoment: TypeAlias = Literal["started", "succeeded", "failed", "cut", "skipped", "ended"]
PollState: TypeAlias = Literal["waiting", "polling", "paused", "stopped", "failed", "done"]


@dataclass(frozen=True, slots=True)
class PollEvent:
    """Something happened in a poll; told in its own task, but for `ended`.

    Attributes:
        poll: The name of the poll.
        path: The path of its scope.
        moment: `started`: a fetch begins; then `succeeded`, `failed`, or `cut` (by `stop()`, or the end of the scope).
            `skipped`: ticks were missed. `ended`: the poll does not go on.
        number: Which fetch of the poll it is, counted from 1; 0 for one that has made none.
        duration: Seconds that the fetch took; else 0.
        failures: How many fetches have failed in a row.
        skipped: How many ticks were missed; else 0.
        state: For `ended`, how: `stopped`, `failed` or `done`; else empty.
        error: What the fetch raised, or what the poll failed with, or `None`.
    """

    poll: str
    path: str
    moment: PollMoment
    number: int = 0
    duration: float = 0.0
    failures: int = 0
    skipped: int = 0
    state: str = ""
    error: Exception | None = None


class Hooks:
    """Functions that a scope calls as it works: pass some, or subclass and override.

    Hooks are plain functions, not async. What they raise is logged and changes nothing.

    Args:
        before_task: Called as `before_task(name, index)` inside a task before it runs.
        after_task: Called as `after_task(name, duration, error)` inside the task after it ran.
        on_cancel: Called as `on_cancel(reason)` once per scope, when it is cancelled.
        on_dispose: Called as `on_dispose(index, error)` for each thing that is closed.

    Example:
        >>> import anyio
        >>> from anyscope import Hooks, scope
        >>> async def main():
        ...     async with scope(hooks=Hooks(before_task=lambda name, index: print(index, name))) as s:
        ...         await s.task(anyio.sleep, 0)
        >>> anyio.run(main)
        0 sleep
    """

    def __init__(
        self,
        *,
        before_task: Callable[[str, int], object] | None = None,
        after_task: Callable[[str, float, BaseException | None], object] | None = None,
        on_cancel: Callable[[object], object] | None = None,
        on_dispose: Callable[[int, BaseException | None], object] | None = None,
    ) -> None:
        given = {
            "before_task": before_task,
            "after_task": after_task,
            "on_cancel": on_cancel,
            "on_dispose": on_dispose,
        }
        for moment, function in given.items():
            if function is not None:
                check_callback(moment, function)
                # On the instance, where it shadows the method of the class.
                setattr(self, moment, function)

    def before_task(self, name: str, index: int, /) -> object:
        """Called inside a task, in its context, before it runs."""
        return None

    def after_task(self, name: str, duration: float, error: BaseException | None, /) -> object:
        """Called inside the task, in its context, after it ran for `duration` seconds."""
        return None

    def on_cancel(self, reason: object, /) -> object:
        """Called once per scope, when it is cancelled, with the reason."""
        return None

    def on_dispose(self, index: int, error: BaseException | None, /) -> object:
        """Called for each thing that the scope closed; `index` is its order of creation."""
        return None

    def task_started(self, event: TaskStarted, /) -> object:
        """The full record behind `before_task`."""
        return self.before_task(event.name, event.index)

    def task_ended(self, event: TaskEnded, /) -> object:
        """The full record behind `after_task`."""
        return self.after_task(event.name, event.duration, event.error)

    def cancelled(self, event: Cancelled, /) -> object:
        """The full record behind `on_cancel`."""
        return self.on_cancel(event.reason)

    def disposed(self, event: Disposed, /) -> object:
        """The full record behind `on_dispose`."""
        return self.on_dispose(event.index, event.error)

    def pool_changed(self, event: PoolEvent, /) -> object:
        """Something happened in a pool of the scope; there is no simple form of it."""
        return None

    def polled(self, event: PollEvent, /) -> object:
        """Something happened in a poll of the scope; there is no simple form of it."""
        return None

    def __repr__(self) -> str:
        used = [simple for simple, full in _MOMENTS if name_if_used(self, simple, full)]
        return f"<{type(self).__name__} {', '.join(used) or 'nothing'}>"


_MOMENTS = (
    ("before_task", "task_started"),
    ("after_task", "task_ended"),
    ("on_cancel", "cancelled"),
    ("on_dispose", "disposed"),
    ("pool_changed", "pool_changed"),
    ("polled", "polled"),
)


def name_if_used(hooks: Hooks, simple: str, full: str) -> str | None:
    """What to call the function that `hooks` has of its own for a moment, in either layer, if any."""
    for moment in (full, simple):
        if moment in vars(hooks):
            return f"{moment}={name_of(vars(hooks)[moment])}"
        if getattr(type(hooks), moment) is not getattr(Hooks, moment):
            return f"{type(hooks).__name__}.{moment}"
    return None
