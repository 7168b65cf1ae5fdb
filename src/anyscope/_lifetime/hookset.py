"""The hooks of one scope: its parent's first, then its own, each isolated from the program.

A hook that raises changes nothing: its first failure is logged with the traceback, the others are
only counted. `before` runs outer to inner, `after` in reverse, so that tracers nest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

from .._vocabulary.hooks import Cancelled, Disposed, Hooks, PollEvent, PoolEvent, TaskEnded, TaskStarted, name_if_used

logger = logging.getLogger("anyscope")


class HookCall:
    """One overridden method of one `Hooks` object.

    Attributes:
        failures: How often it has raised. Written by `__call__` alone.
    """

    __slots__ = ("_function", "_name", "failures")

    def __init__(self, function: Callable[[Any], object], name: str) -> None:
        self._function = function
        self._name = name
        self.failures = 0

    def __call__(self, event: object) -> None:
        try:
            self._function(event)
        except Exception:
            self.failures += 1
            if self.failures == 1:
                logger.exception(
                    "hook %s failed; it changes nothing, and its further failures are only counted",
                    self._name,
                )


class HookSet:
    """What to call at each of the moments; never changes once a scope is open.

    Args:
        inherited: The set of the parent scope, called before ours (and after ours in reverse).
        own: The hooks given to this scope.
    """

    __slots__ = ("after", "before", "cancelled", "disposed", "polled", "pool_changed")

    def __init__(self, inherited: HookSet | None, own: Iterable[Hooks]) -> None:
        hooks = tuple(own)
        self.before: tuple[HookCall, ...] = _calls(hooks, "before_task", "task_started")
        self.after: tuple[HookCall, ...] = _calls(hooks, "after_task", "task_ended")
        self.cancelled: tuple[HookCall, ...] = _calls(hooks, "on_cancel", "cancelled")
        self.disposed: tuple[HookCall, ...] = _calls(hooks, "on_dispose", "disposed")
        self.pool_changed: tuple[HookCall, ...] = _calls(hooks, "pool_changed", "pool_changed")
        self.polled: tuple[HookCall, ...] = _calls(hooks, "polled", "polled")
        if inherited is not None:
            self.before = inherited.before + self.before
            self.after = inherited.after + self.after
            self.cancelled = inherited.cancelled + self.cancelled
            self.disposed = inherited.disposed + self.disposed
            self.pool_changed = inherited.pool_changed + self.pool_changed
            self.polled = inherited.polled + self.polled

    @property
    def failures(self) -> int:
        """How often hooks have raised so far."""
        calls = self.before + self.after + self.cancelled + self.disposed + self.pool_changed + self.polled
        return sum(call.failures for call in calls)

    def tell_started(self, event: TaskStarted) -> None:
        """Outer to inner."""
        for call in self.before:
            call(event)

    def tell_ended(self, event: TaskEnded) -> None:
        """Inner to outer."""
        for call in reversed(self.after):
            call(event)

    def tell_cancelled(self, event: Cancelled) -> None:
        """Outer to inner."""
        for call in self.cancelled:
            call(event)

    def tell_disposed(self, event: Disposed) -> None:
        """Outer to inner."""
        for call in self.disposed:
            call(event)

    def tell_pool_changed(self, event: PoolEvent) -> None:
        """Outer to inner."""
        for call in self.pool_changed:
            call(event)

    def tell_polled(self, event: PollEvent) -> None:
        """Outer to inner."""
        for call in self.polled:
            call(event)


def _calls(hooks: tuple[Hooks, ...], simple: str, full: str) -> tuple[HookCall, ...]:
    named = [(each, name_if_used(each, simple, full)) for each in hooks]
    return tuple(HookCall(getattr(each, full), name) for each, name in named if name is not None)


def _is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def as_hooks(value: object) -> tuple[Hooks, ...]:
    """The option `hooks=`: one `Hooks` object or an iterable of them."""
    if isinstance(value, Hooks):
        return (value,)
    if _is_iterable(value):
        found = tuple(value)
        wrong = [each for each in found if not isinstance(each, Hooks)]
        if not wrong:
            return found
        value = wrong[0]
    raise TypeError(
        f"hooks must be a Hooks object or several of them, got {value!r} ({type(value).__name__})\n"
        "Right: hooks=Hooks(before_task=...)"
    )
