"""What has to end before a scope closes: works, which are waited for, and daemons, which are stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Work(Protocol):
    """Something that has to end before its scope closes."""

    @property
    def label(self) -> str:
        """What it is called in errors and in the tree."""
        ...

    @property
    def is_unborn(self) -> bool:
        """Whether it was given to the backend and has not begun."""
        ...

    def abandon(self) -> None:
        """End it now: it has not begun, because the backend has dropped it."""
        ...


class Wait:
    """Somebody's wait, for as long as which the scope does not close.

    Args:
        label: What is waited for.
    """

    __slots__ = ("label",)

    def __init__(self, label: str) -> None:
        self.label = label

    @property
    def is_unborn(self) -> bool:
        """Never: it has begun when it is known."""
        return False

    def abandon(self) -> None:
        """The one who waits ends it; there is nothing to bury."""


class Daemon(Work, Protocol):
    """A work that is stopped, not waited for."""

    def cancel(self, reason: object = None) -> None:
        """Ask it to end."""
        ...


class Works:
    """The works and daemons of one scope that have not ended.

    Attributes:
        live: The works, in the order in which they came. Written by `join` and `part`.
        daemons: The daemons, likewise. Written by `join_daemon` and `part`.
        _changed: Set when one of them ends; made by the closer, the only one who waits.
    """

    __slots__ = ("_changed", "daemons", "live")

    def __init__(self) -> None:
        self.live: dict[Work, None] = {}
        self.daemons: dict[Daemon, None] = {}
        self._changed: anyio.Event | None = None

    def __iter__(self) -> Iterator[Work]:
        yield from list(self.live)  # a copy, for `forget` may strike at any moment
        yield from list(self.daemons)

    def join(self, work: Work) -> None:
        """Wait for `work` before closing."""
        self.live[work] = None

    def join_daemon(self, daemon: Daemon) -> None:
        """Stop `daemon` after everything in `live` has ended, and wait for it then."""
        self.daemons[daemon] = None

    def part(self, work: Work) -> None:
        """`work` has ended, be it a daemon or not, or it need not be waited for any more."""
        if work in self.live:
            del self.live[work]
        else:
            self.daemons.pop(work, None)  # type: ignore[call-overload]  # a dict of daemons may be asked for any work
        if self._changed is not None:
            self._changed.set()

    def forget(self, daemon: Daemon) -> None:
        """`daemon` was found to have ended, by the garbage collector, while nobody waits for that: it tells nobody."""
        self.daemons.pop(daemon, None)

    @property
    def are_left(self) -> bool:
        """Whether there are any."""
        return bool(self.live or self.daemons)

    @property
    def has_unborn(self) -> bool:
        """Whether some of them have not begun."""
        return any(work.is_unborn for work in self)

    async def until_ended(self, works: Collection[Work]) -> None:
        """Wait until the last of `live` or of `daemons` has ended."""
        while works:
            await self._until_change()

    async def _until_change(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()
