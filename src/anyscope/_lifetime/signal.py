"""Cancellation as something to hand around: a signal to listen to, and a source to fire it.

A signal carries cancellation and nothing else: no services, no hooks, no waiting. A scope has one, and
`CancelSource` makes one that belongs to no scope.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

import anyio

from .._vocabulary.errors import ScopeMisuse, because
from .._vocabulary.options import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("anyscope")


class Cancellable(Protocol):
    """What stands behind a signal: a scope's owner, or a source."""

    @property
    def label(self) -> str:
        """What it is called in a repr."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether it has been cancelled."""
        ...

    @property
    def cancel_reason(self) -> object:
        """The reason of its cancellation."""
        ...

    @property
    def listeners(self) -> Listeners:
        """Who wants to be told."""
        ...


class Listeners:
    """Callbacks that wait for one cancellation; each is called at most once, in order.

    Attributes:
        _callbacks: Who still waits, keyed by a token of its own so that leaving costs no search. Only
            `add`, the function that it returns, and `tell` write it; empty once told.
        thread: The thread of the event loop that they live in; written by `add`.
    """

    __slots__ = ("_callbacks", "thread")

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[object], object]] = {}
        self.thread: int = 0

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[[object], object]) -> Callable[[], None]:
        """Remember `callback`; gives the function that forgets it."""
        token = object()
        self.thread = threading.get_ident()
        self._callbacks[token] = callback

        def unregister() -> None:
            self._callbacks.pop(token, None)

        return unregister

    def tell(self, reason: object) -> None:
        """Call all of them, also those that come while this runs; what they raise is logged."""
        while self._callbacks:
            token = next(iter(self._callbacks))
            _call(self._callbacks.pop(token), reason)


def _call(callback: Callable[[object], object], reason: object) -> None:
    try:
        callback(reason)
    except Exception:
        logger.exception("on_cancel callback %s failed; the cancellation goes on", name_of(callback))


class CancelSignal:
    """The listening end of a cancellation, of a scope or of a `CancelSource`.

    Pass it as `scope(signal=...)` to inherit cancellation alone.

    Example:
        >>> from anyscope import CancelSource
        >>> source = CancelSource()
        >>> unregister = source.signal.on_cancel(lambda reason: print("stop:", reason))
        >>> source.cancel("user left")
        stop: user left
        >>> source.signal
        <CancelSignal of source cancelled (user left)>
    """

    __slots__ = ("_origin",)

    def __init__(self, origin: Cancellable) -> None:
        self._origin = origin

    @property
    def cancelled(self) -> bool:
        """Whether the cancellation has come."""
        return self._origin.cancelled

    @property
    def reason(self) -> object:
        """The reason it came with; `None` before, and where none was given."""
        return self._origin.cancel_reason

    def on_cancel(self, callback: Callable[[object], object]) -> Callable[[], None]:
        """Call `callback(reason)` once when the cancellation comes, or now if it already has.

        Args:
            callback: A plain function. What it raises is logged and stops nothing.

        Returns:
            A function that unregisters the callback; calling it again does nothing.
        """
        if self._origin.cancelled:
            _call(callback, self._origin.cancel_reason)
            return lambda: None
        return self._origin.listeners.add(callback)

    async def wait(self) -> object:
        """Wait until the cancellation comes, and give its reason.

        A checkpoint, also when it already has come. Cancelling the wait leaves nothing behind.
        """
        event = anyio.Event()
        unregister = self.on_cancel(lambda _: event.set())
        try:
            await event.wait()
        finally:
            unregister()
        return self._origin.cancel_reason

    def __repr__(self) -> str:
        state = f"cancelled{because(self.reason)}" if self.cancelled else "waiting"
        return f"<CancelSignal of {self._origin.label} {state}>"


class CancelSource:
    """A cancellation that belongs to no scope: fire it with `cancel()`, hand out its `signal`.

    From another thread go through the loop, as for a scope:
    `from_thread.run_sync(source.cancel, "reason", token=token)`.

    Args:
        name: What to call it in reprs and messages; default `source`.

    Example:
        >>> import anyio
        >>> from anyscope import CancelSource, scope
        >>> async def main():
        ...     stop = CancelSource()
        ...     async with scope(signal=stop.signal) as s:
        ...         stop.cancel("enough")
        ...         await anyio.sleep_forever()
        ...     print(s.cancel_reason)
        >>> anyio.run(main)
        enough
    """

    __slots__ = ("_cancelled", "_listeners", "_name", "_reason")

    def __init__(self, *, name: str = "source") -> None:
        self._name = name
        self._reason: object = None
        self._cancelled = False
        self._listeners = Listeners()

    @property
    def label(self) -> str:
        """The name that it was given."""
        return self._name

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` has been called."""
        return self._cancelled

    @property
    def cancel_reason(self) -> object:
        """The reason of the first `cancel()`."""
        return self._reason

    @property
    def listeners(self) -> Listeners:
        """Who wants to be told."""
        return self._listeners

    @property
    def signal(self) -> CancelSignal:
        """The listening end."""
        return CancelSignal(self)

    def cancel(self, reason: object = None) -> None:
        """Cancel whatever listens. The first call counts, later ones do nothing.

        Args:
            reason: Anything; it is shown in reprs and errors.

        Raises:
            ScopeMisuse: From another thread than the one in which somebody listens. Nothing has
                changed then.
        """
        if self._cancelled:
            return
        if self._listeners and self._listeners.thread != threading.get_ident():
            raise wrong_thread(self._name, "source.cancel")
        self._cancelled = True
        self._reason = reason
        self._listeners.tell(reason)

    def __repr__(self) -> str:
        state = f"cancelled{because(self._reason)}" if self._cancelled else "waiting"
        return f"<CancelSource {self._name} {state}>"


_AWAITED = {
    *(f"s.{call}" for call in ("run", "start", "use", "enter", "parallel", "parallel_aggregate", "race", "any")),
    *(f"pool.{call}" for call in ("acquire", "execute", "ready", "aclose")),
    *(f"poll.{call}" for call in ("trigger", "aclose", "next", "wait_done")),
    *(f"stream.{call}" for call in ("__anext__", "aclose")),
    "task.unwrap",
}


def wrong_thread(path: str, call: str) -> ScopeMisuse:
    """The error for a call from a thread that does not run the event loop."""
    door = "run" if call in _AWAITED else "run_sync"
    return ScopeMisuse(
        path=path,
        problem=f"{call}(...) was called from another thread",
        remedy=(
            "Take token = anyio.lowlevel.current_token() in the event loop, and call\n"
            f"anyio.from_thread.{door}({call}, ..., token=token) in the thread."
        ),
    )
