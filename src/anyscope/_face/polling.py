"""The polls of a scope, as its user sees them: a part of `Scope`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .._features.polling.poll import Poll
from .._vocabulary.polls import settings_of
from .providing import Providing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import timedelta

    from .._vocabulary.polls import Every, Missed, OnError, PollStatus

T = TypeVar("T")


class Polling(Providing):
    """What a `Scope` does about polls, and about services."""

    __slots__ = ()

    def poll(
        self,
        fetch: Callable[[], Coroutine[Any, Any, T]],
        on_value: Callable[[T], object] | None = None,
        *,
        interval: float | timedelta | Callable[[PollStatus], float | timedelta | None],
        every: Every = "start",
        missed: Missed = "skip",
        immediate: bool = True,
        jitter: float = 0.0,
        timeout: float | None = None,
        on_error: OnError | Callable[[Exception, PollStatus], OnError] = "continue",
        backoff: float = 2.0,
        max_backoff: float | None = None,
        max_failures: int | None = None,
        until: Callable[[T], object] | None = None,
        name: str | None = None,
    ) -> Poll[T]:
        """Call `fetch` again and again, for the life of the scope.

        There are never two fetches of one poll at a time. It does not keep the scope open: it goes on while tasks are
        waited for, and is stopped then, its fetch cut and waited for. When the scope is cancelled that happens at once.

        An error of `fetch` does not vanish: the first of a row is logged as a WARNING on the logger `anyscope`, the
        recovery as INFO, the others as DEBUG; `status()` and hooks tell of each; and `on_error` says what comes of it.
        An error of any other function given here is a mistake in the program, and leaves the scope.

        Args:
            fetch: An async function without arguments.
            on_value: Called with each value, before the next fetch; plain or async.
            interval: Seconds, a microsecond at least, or a `timedelta`; or a function of the `PollStatus`, asked anew
                after each fetch, that gives one of these, or `None` to end the poll.
            every: `"start"` (default): fetches begin on a grid of intervals, counted from the first one, which does not
                drift. `"end"`: so long after the end of the last one.
            missed: What becomes of a tick that comes while a fetch is under way: `"skip"` (default) leaves it out,
                `"run"` makes up for it at once, for several of them once.
            immediate: Whether the first fetch begins now (default), or after an interval.
            jitter: Seconds, up to which each fetch is late by chance; the ticks stay where they are. Default 0.
            timeout: Seconds for each fetch, `None` (default) for any time; one that takes longer is cancelled and has
                failed with `TaskTimeout`.
            on_error: After a failure: `"continue"` (default); `"stop"` ends the poll; `"raise"` cancels the scope,
                which raises `PollFailed`. Or a plain function of the error and the `PollStatus` that gives one of these
                words.
            backoff: After the n-th failure in a row the pause is `interval * backoff ** (n - 1)`, counted from its
                end. Default 2; 1 for the same pause each time. An error with an attribute `retry_after` (seconds) has
                that pause instead. The next success returns to the ticks.
            max_backoff: The longest pause in seconds; default 10 intervals.
            max_failures: After so many in a row the scope is cancelled, and raises `PollFailed`. Default any number.
            until: A plain function; once it says true of a value, that one is delivered and the poll is done.
            name: What it is called. Default the name of `fetch`.

        Returns:
            The poll, which has been started.

        Raises:
            ScopeClosed: The scope is not open.
            ScopeMisuse: Before entry, or from another thread.
            TypeError: `fetch` is no async function, or needs arguments; or an option has the wrong type.
            ValueError: An option has a value that it cannot have.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch_config():
            ...     return {"level": "debug"}
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch_config, print, interval=30, name="config")
            ...         await poll.next()
            ...         print(poll)
            >>> anyio.run(main)
            {'level': 'debug'}
            <Poll config of app waiting, 1 poll, 0 failed>
        """
        self._owner.require_open("poll", fetch)
        settings = settings_of(
            fetch, on_value, interval, every, missed, immediate, jitter, timeout, on_error, backoff, max_backoff,
            max_failures, until, name,
        )  # fmt: skip
        return Poll(self._owner, settings)
