"""A poll, as users see it.

Over 400 lines, most of them documentation: of each method what it does, what it raises, and an example.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

from anyio.lowlevel import checkpoint

from ..._lifetime.backend import pass_on_cancellation
from ..._lifetime.place import beneath, here
from ..._vocabulary.errors import ScopeMisuse
from .course import Course
from .pilot import Pilot

if TYPE_CHECKING:
    from ..._lifetime.owner import Owner
    from ..._vocabulary.polls import PollSettings, PollStatus

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Poll(Generic[T_co]):
    """A function that is called again and again for the life of a scope; `s.poll(...)` makes one.

    Its values come in three ways: to `on_value`; to `async for value in poll`, and `await poll.next()`; and `latest`.
    Readers get the newest value there is: one that is slow misses some, and none pile up. There may be any number.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> async def main():
        ...     answers = iter(["starting", "starting", "ready"])
        ...     async def ask():
        ...         return next(answers)
        ...     async with scope(name="app") as s:
        ...         poll = s.poll(ask, interval=0.01, until=lambda answer: answer == "ready", name="server")
        ...         print(await poll.wait_done())
        ...         print(poll)
        >>> anyio.run(main)
        ready
        <Poll server of app done, 3 polls, 0 failed>
    """

    __slots__ = ("__weakref__", "_course", "_pilot")

    def __init__(self, owner: Owner, settings: PollSettings) -> None:
        self._course: Course[T_co] = Course(owner, settings)
        self._course.start()
        self._pilot: Pilot[T_co] = Pilot(owner, self._course)
        self._pilot.launch()

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """The name given to it, or that of its function."""
        return self._course.settings.name

    def status(self) -> PollStatus:
        """What it does now and has done, as a frozen record; may be asked from other threads too.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30)
            ...         await poll.next()
            ...         status = poll.status()
            ...         print(status.state, status.poll_count, 29 < status.time_until_next <= 30)
            >>> anyio.run(main)
            waiting 1 True
        """
        return self._course.status()

    def __repr__(self) -> str:
        return f"<Poll {self._course.label} {self._course.status()}>"

    # ------------------------------------------------------------------ what it is told

    def stop(self) -> None:
        """End it: a fetch that is under way is cut, and no `on_value` begins any more.

        An `on_value` that is under way goes on to its end. Who waits for a value gets `PollStopped`. Does nothing to a
        poll that has ended. It may be started again.

        Raises:
            ScopeMisuse: From another thread. Nothing has changed then.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, print, interval=30)
            ...         poll.stop()
            ...         print(poll)
            >>> anyio.run(main)
            <Poll fetch of app stopped, 0 polls, 0 failed>
        """
        self._require_own_thread("stop")
        self._course.end("stopped", "stop() was called")

    def start(self) -> None:
        """Begin again after `stop()`, a failure or the end: at once, or after an interval, as it was made.

        The ticks are counted from now, and failures in a row anew; all other counts go on. If the fetch that was cut
        takes time to leave, the next one waits for that: there are never two. Does nothing to a poll that runs.

        Raises:
            ScopeClosed: The scope has closed.
            ScopeMisuse: From another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30, until=lambda value: value == "level")
            ...         await poll.wait_done()
            ...         poll.start()  # wait for it once more
            ...         await poll.wait_done()
            ...         print(poll)
            >>> anyio.run(main)
            <Poll fetch of app done, 2 polls, 0 failed>
        """
        self._require_own_thread("start")
        course = self._course
        if course.is_on:
            return
        course.owner.require_open("poll.start", self.name)
        course.start()
        self._pilot.launch()

    def pause(self) -> None:
        """Poll no more until `resume()`; a fetch that is under way goes on, and `trigger()` works.

        Raises:
            ScopeMisuse: From another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30)
            ...         await poll.next()
            ...         poll.pause()
            ...         print(poll)
            >>> anyio.run(main)
            <Poll fetch of app paused, 1 poll, 0 failed>
        """
        self._require_own_thread("pause")
        self._course.pause()

    def resume(self) -> None:
        """Poll again: at once if that was due meanwhile, else when it is due.

        Raises:
            ScopeMisuse: From another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=0.01)
            ...         poll.pause()
            ...         await anyio.sleep(0.05)
            ...         poll.resume()
            ...         await poll.next()
            ...         print(poll)
            >>> anyio.run(main)
            <Poll fetch of app waiting, 1 poll, 0 failed>
        """
        self._require_own_thread("resume")
        self._course.resume()

    async def trigger(self) -> T_co:
        """Poll now, and give the value; `on_value` has had it by then.

        A fetch that is under way does not count, for it may have seen what was before: the next one begins when it is
        over. All who ask meanwhile share that one. The ticks stay where they are.

        When the caller is cancelled the poll goes on for the others.

        Raises:
            Exception: What the fetch raised.
            PollStopped: The poll is not running, or was stopped meanwhile.
            PollFailed: It has failed.
            ScopeMisuse: In its own fetch or `on_value`, which would wait for itself; or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=300)
            ...         await poll.next()
            ...         print(await poll.trigger(), poll.status().poll_count)
            >>> anyio.run(main)
            level 2
        """
        self._check_wait("trigger")
        course = self._course
        if not course.is_on:
            await course.refuse(course.run, "trigger()")
        ask = course.ask()
        ask.waiters += 1
        try:
            while ask.outcome is None and not ask.is_refused:
                await course.until_change()
        finally:
            ask.waiters -= 1
            if not ask.waiters:
                course.withdraw(ask)
        if ask.outcome is None:
            await course.refuse(ask.run, "trigger()")
        try:
            return ask.outcome.unwrap()
        finally:
            del ask  # the error's traceback leads through this frame

    async def aclose(self) -> None:
        """Stop it, and wait until its fetch and `on_value` have ended; what they use may be closed then.

        When the caller is cancelled the poll is stopped all the same.

        Raises:
            ScopeMisuse: In its own fetch or `on_value`, or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30)
            ...         await poll.aclose()
            ...         print(poll.status().in_flight)
            >>> anyio.run(main)
            False
        """
        self._check_wait("aclose")
        self.stop()
        course, flight = self._course, self._course.flight
        await checkpoint()
        while flight is not None and course.flight is flight:
            await course.until_change()

    # ------------------------------------------------------------------ its values

    @property
    def latest(self) -> T_co:
        """The newest value; it stays when later polls fail, and when the poll has ended.

        Raises:
            LookupError: There is none yet.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30)
            ...         await poll.next()
            ...         print(poll.latest)
            >>> anyio.run(main)
            level
        """
        if not self._course.version:
            raise LookupError(f"poll {self._course.label} has no value yet\nRight: await poll.next()")
        return self._course.value

    async def next(self) -> T_co:
        """Wait for the next value. When the caller is cancelled nothing changes for the poll.

        Raises:
            PollStopped: The poll is stopped or done, or has been meanwhile.
            PollFailed: It has failed.
            ScopeMisuse: In its own fetch or `on_value`, which would wait for itself; or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30)
            ...         print(await poll.next())
            >>> anyio.run(main)
            level
        """
        self._check_wait("next")
        course = self._course
        run, version = course.run, course.version
        while run.state is None and course.version == version:
            await course.until_change()
        if course.version == version:
            await course.refuse(run, "next()")
        return course.value

    async def wait_done(self) -> T_co:
        """Wait until it is done, because of `until` or of an interval of `None`, and give the last value.

        When the caller is cancelled nothing changes for the poll.

        Raises:
            PollStopped: It was stopped.
            PollFailed: It has failed.
            LookupError: It is done without having had a value.
            ScopeMisuse: In its own fetch or `on_value`, which would wait for itself; or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=30, until=lambda value: value == "level")
            ...         print(await poll.wait_done())
            >>> anyio.run(main)
            level
        """
        self._check_wait("wait_done")
        run = self._course.run
        await checkpoint()
        while run.state is None:
            await self._course.until_change()
        if run.state != "done":
            await self._course.refuse(run, "wait_done()")
        return self.latest

    def __aiter__(self) -> AsyncIterator[T_co]:
        """The values, beginning with the newest if there is one.

        Ends when the poll is stopped or done; the last value of a poll that is done is given before.

        Raises:
            PollFailed: The poll has failed; its last value is given before.
            ScopeMisuse: In its own fetch or `on_value`, which would wait for itself; or from another thread.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def fetch():
            ...     return "level"
            >>> async def main():
            ...     async with scope(name="app") as s:
            ...         poll = s.poll(fetch, interval=0.01, until=lambda value: value == "level")
            ...         async for value in poll:
            ...             print(value)
            >>> anyio.run(main)
            level
        """
        self._check_wait("__aiter__")
        return Reader(self._course)

    # ------------------------------------------------------------------ checks

    def _require_own_thread(self, call: str) -> None:
        self._course.owner.require_own_thread(f"poll.{call}")

    def _check_wait(self, call: str) -> None:
        self._require_own_thread(call)
        if beneath(here()) is self._pilot:
            shown = "async for" if call == "__aiter__" else f"{call}()"
            raise ScopeMisuse(
                path=self._course.owner.path,
                problem=f"poll {self.name} waits for itself: {shown} in its own fetch or on_value",
                remedy="It could never end. Wait for the poll in another task: s.task(...)",
            )


class Reader(AsyncIterator[T]):
    """One who reads the values of a poll.

    Args:
        course: The poll.

    Attributes:
        _version: The value that was given last.
    """

    __slots__ = ("_course", "_run", "_version")

    def __init__(self, course: Course[T]) -> None:
        self._course = course
        self._run = course.run
        self._version = 0

    async def __anext__(self) -> T:
        course, run = self._course, self._run
        while run.state != "stopped":
            if course.version_in(run) > self._version:
                self._version = course.version
                return course.value
            if run.state == "failed":
                await course.refuse(run, "async for")
            if run.state == "done":
                break
            await course.until_change()
        await pass_on_cancellation()  # as in `Course.refuse`
        raise StopAsyncIteration
