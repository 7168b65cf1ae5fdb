"""One clean-up step: run once, shielded, within a bound, whatever it raises being reported; and that shield alone."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from .._vocabulary.errors import CloseTimeout, ScopeCancelled
from .ending import QUIET, sort_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._vocabulary.hooks import DisposalKind


def _nothing() -> None:
    """Nobody cares."""


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Something to be done when the scope closes.

    Attributes:
        index: Its number in the scope, in order of creation.
        label: What is closed, by name.
        function: A plain or async function.
        args: Its positional arguments.
        kind: What kind of thing is closed.
        subject: The thing, for whoever shows it.
    """

    index: int
    label: str
    function: Callable[..., object]
    args: tuple[Any, ...]
    kind: DisposalKind = "clean-up"
    subject: object = None

    def __str__(self) -> str:
        label = f"{self.kind} {self.label}" if self.kind in ("service", "stream") else self.label
        return f"{label} (#{self.index})"


@dataclass(frozen=True, slots=True)
class CleanUpEnd:
    """What became of a clean-up: at most an error or a fatal exception, and how long it took."""

    duration: float
    error: Exception | None = None
    fatal: BaseException | None = None


async def run_clean_up(
    step: CleanUp, *, path: str, bound: float | None, on_wait: Callable[[], object] = _nothing
) -> CleanUpEnd:
    """Run `step` for at most `bound` seconds, whatever is cancelled around it.

    `on_wait` is called when the step turns out to be more than a plain call. The caller runs this in a task of
    its own, because on asyncio a native `Task.cancel()` goes through any shield: there it can only hit the step
    that runs, and the next one runs all the same.
    """
    began = anyio.current_time()
    raised: BaseException | None = None
    limit = anyio.CancelScope(shield=True, deadline=math.inf if bound is None else began + bound)
    try:
        with limit:
            made = step.function(*step.args)
            if inspect.isawaitable(made):
                on_wait()
                await made
    except BaseException as error:  # noqa: ASYNC103  sorted out, then told or raised
        raised = error
    duration = anyio.current_time() - began
    end = QUIET if raised is None else sort_out(raised)
    if end.fatal is not None or end.error is not None:
        return CleanUpEnd(duration, end.error if end.fatal is None else None, end.fatal)
    # Not `cancelled_caught` alone: the limit does not absorb its own cancellation where a native one came too.
    if limit.cancelled_caught or (limit.cancel_called and end.cut is not None):
        assert bound is not None
        return CleanUpEnd(duration, CloseTimeout(path=path, step=str(step), limit=bound))
    if end.cut is not None:
        return CleanUpEnd(duration, ScopeCancelled(path=path, action=f"clean-up {step}", reason="cancelled natively"))
    return CleanUpEnd(duration)


def shield_closing(scope: anyio.CancelScope, bound: float | None) -> None:
    """From now on, what runs in `scope` is cut by nothing but `bound`, in seconds."""
    scope.shield = True
    scope.deadline = math.inf if bound is None else anyio.current_time() + bound
