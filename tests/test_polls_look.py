"""Looking at polls: their texts, status and tree, what hooks and logs hear, leaks, and misuse at the call."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pickle
import sys
from typing import Any

import anyio
import pytest

from anyscope import Hooks, LoggingHooks, Poll, PollEvent, PollFailed, PollStatus, PollStopped, ScopeClosed, scope
from anyscope._vocabulary.hooks import Hooks as AnyHooks
from anyscope.testing import Leak, Leaked, no_leaks
from polls import Refused, Source, app, logged, settle

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

virtual_time = pytest.mark.virtual_time


class Log(Hooks):
    """Writes down what polls do.

    Attributes:
        events: All of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[PollEvent] = []

    def polled(self, event: PollEvent, /) -> None:
        """Write it down."""
        self.events.append(event)

    @property
    def moments(self) -> list[str]:
        """What happened."""
        return [event.moment for event in self.events]


# ------------------------------------------------------------------ texts


@virtual_time
async def test_repr_from_birth_to_end() -> None:
    """S13: one line with name, scope, state and counts."""
    async with app() as s:
        poll = s.poll(Source(0.1, 0, (0, Refused("no"))), interval=1, name="health")
        assert poll.name == "health"
        assert repr(poll) == "<Poll health of app waiting, 0 polls, 0 failed>"
        await settle()
        assert repr(poll) == "<Poll health of app polling, 1 poll, 0 failed>"
        await anyio.sleep(2.5)
        assert repr(poll) == "<Poll health of app waiting, 3 polls, 1 failed>"
        poll.pause()
        assert repr(poll) == "<Poll health of app paused, 3 polls, 1 failed>"
        poll.stop()
        assert repr(poll) == "<Poll health of app stopped, 3 polls, 1 failed>"


async def test_the_name_is_that_of_the_fetch() -> None:
    """S13: where none is given."""

    async def fetch_config(section: str = "all") -> str:
        return section

    async with app() as s:
        assert s.poll(fetch_config, interval=1).name == "fetch_config"
        assert s.poll(functools.partial(fetch_config, "mail"), interval=1).name == "fetch_config"
        assert s.poll(Source(), interval=1).name == "Source"


async def test_the_tree_shows_polls_while_they_run() -> None:
    """S13: with state and counts; they are no running tasks."""
    async with scope(name="app") as s:
        poll = s.poll(Source(), interval=60, name="health")
        s.poll(Source("hang"), interval=60, name="config")
        await settle()
        assert s.tree().split("\n") == [
            "scope app open",
            "  poll health (#0) waiting, 1 poll, 0 failed",
            "  poll config (#1) polling, 1 poll, 0 failed",
        ]
        assert repr(s) == "<Scope app open, 0 running>"
        assert s.statistics().running == 0
        poll.stop()
        await settle()
        assert s.tree() == "scope app open\n  poll config (#1) polling, 1 poll, 0 failed"


@virtual_time
async def test_the_status_is_a_frozen_record() -> None:
    """L3: every field, before and after; it can be copied and sent."""
    async with app() as s:
        origin = anyio.current_time()
        poll = s.poll(Source(0.25, (0.5, Refused("no"))), interval=1)
        first = poll.status()
        assert first == PollStatus("waiting", True, False, 0, 0, 0, 0, 0, None, None, None, None, 0.0)
        await anyio.sleep(1.75)
        status = poll.status()
        assert isinstance(status.last_error, Refused)
        assert dataclasses.replace(status, last_error=None) == PollStatus(
            state="waiting",
            running=True,
            in_flight=False,
            poll_count=2,
            success_count=1,
            error_count=1,
            failures=1,
            skipped_ticks=0,
            last_started_at=origin + 1,
            last_duration=0.5,
            last_success_at=origin + 0.25,
            last_error=None,
            time_until_next=0.75,
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            status.failures = 0  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(first)) == first


def test_texts_of_the_errors() -> None:
    """E: what, which, and what to write instead; they can be sent."""
    failed = PollFailed(poll="health of app", failures=3, problem="Refused: no")
    assert str(failed) == (
        "poll health of app failed 3 times in a row, with Refused: no\n"
        'What may go wrong now and then is best left to on_error="continue" without max_failures; '
        "poll.status() and the hooks tell of it."
    )
    assert str(PollFailed(poll="p of app", failures=1, problem="X: y")).startswith("poll p of app failed, with X: y\n")
    stopped = PollStopped(poll="health of app", action="next()", reason="stop() was called")
    for error in (failed, stopped):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))


# ------------------------------------------------------------------ hooks


@virtual_time
async def test_hooks_hear_of_all_that_happens() -> None:
    """H2: a record for each moment, with the seconds, the error and the counts."""
    log = Log()
    async with scope(name="app", hooks=log) as s:
        poll = s.poll(Source(1.25, (0.25, Refused("no")), "hang"), interval=0.5, name="health")
        await anyio.sleep(3)
        poll.stop()
        await settle()
    error = poll.status().last_error
    assert log.events == [
        PollEvent("health", "app", "started", 1),
        PollEvent("health", "app", "succeeded", 1, 1.25),
        PollEvent("health", "app", "skipped", 1, skipped=2),
        PollEvent("health", "app", "started", 2),
        PollEvent("health", "app", "failed", 2, 0.25, failures=1, error=error),
        PollEvent("health", "app", "started", 3, failures=1),
        PollEvent("health", "app", "ended", 3, failures=1, state="stopped"),
        PollEvent("health", "app", "cut", 3, 0.75, failures=1),
    ]


@virtual_time
async def test_hooks_hear_how_a_poll_ended() -> None:
    """H2: `done`, `failed` with the error, and with its scope; inherited, outer first."""
    outer, inner = Log(), Log()
    async with scope(name="app", hooks=outer), scope(name="part", hooks=inner) as s:
        await s.poll(Source(), interval=1, until=bool, name="a").wait_done()
        with pytest.raises(PollFailed):
            await s.poll(Source("fail"), interval=1, on_error="stop", name="b").wait_done()
        s.poll(Source(), interval=1, immediate=False, name="c")
    assert outer.events == inner.events
    ends = {event.poll: event for event in inner.events if event.moment == "ended"}
    assert {name: end.state for name, end in ends.items()} == {"a": "done", "b": "failed", "c": "stopped"}
    assert isinstance(ends["b"].error, Refused)
    assert (ends["a"].path, ends["c"].number) == ("app > part", 0)


@virtual_time
async def test_a_hook_that_fails_changes_nothing() -> None:
    """H4: it is logged once and counted."""

    class Broken(Hooks):
        def polled(self, event: PollEvent, /) -> None:
            raise KeyError(event.moment)

    async with app(hooks=Broken()) as s:
        with logged() as lines:
            await s.poll(Source(), interval=1, until=lambda value: value == 3).wait_done()
        assert lines == [
            "ERROR hook Broken.polled failed; it changes nothing, and its further failures are only counted"
        ]
        assert s.statistics().hook_failures >= 6


@virtual_time
async def test_logging_hooks_do_not_tell_failures_twice() -> None:
    """H5: all that happens at the level of the hooks; failures are the poll's own to log."""
    seen: list[logging.LogRecord] = []
    logger = logging.getLogger("anyscope.trace")
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with logged() as lines:
            async with scope(name="app", hooks=LoggingHooks()) as s:
                poll = s.poll(Source(0.25, (0.125, Refused("no")), 1.25, "hang"), interval=0.5, name="health")
                await anyio.sleep(3.25)
                poll.stop()
                await settle()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [f"{record.levelname} {record.getMessage()}" for record in seen] == [
        "DEBUG app: poll health: fetch 1 started",
        "DEBUG app: poll health: fetch 1 succeeded after 0.250 s",
        "DEBUG app: poll health: fetch 2 started",
        "DEBUG app: poll health: fetch 3 started",
        "DEBUG app: poll health: fetch 3 succeeded after 1.250 s",
        "DEBUG app: poll health: skipped 2",
        "DEBUG app: poll health: fetch 4 started",
        "DEBUG app: poll health: ended (stopped)",
        "DEBUG app: poll health: fetch 4 cut after 0.750 s",
    ]
    assert seen[1].__dict__["subject"] == "poll health"
    assert [line for line in lines if "WARNING" in line] == ["WARNING poll health of app: fetch failed (Refused: no)"]
    assert repr(AnyHooks()) == "<Hooks nothing>"


async def test_what_is_not_wanted_of_polls_is_not_logged() -> None:
    """H5: nothing is put together for a level that nobody hears."""
    logger = logging.getLogger("anyscope.quiet")
    logger.setLevel(logging.ERROR)
    async with app(hooks=LoggingHooks(logger)) as s:
        assert await s.poll(Source(), interval=1, until=bool).wait_done() == 1


@virtual_time
async def test_the_end_of_a_failing_poll_is_logged() -> None:
    """L5: with how long it had failed; the WARNING was the first of the row."""
    with pytest.raises(ExceptionGroup), logged() as lines:
        async with scope(name="app") as s:
            s.poll(Source("fail"), interval=1, max_failures=3, name="health")
            await anyio.sleep_forever()
    assert lines == [
        "WARNING poll health of app: fetch failed (Refused: no)",
        "DEBUG poll health of app: fetch failed (Refused: no)",
        "DEBUG poll health of app: fetch failed (Refused: no)",
        "INFO poll health of app: given up, after 3 failures in 3 s",
    ]
    with logged() as lines:
        async with scope(name="app") as s:
            with pytest.raises(PollFailed):
                await s.poll(Source("fail"), interval=1, on_error="stop", name="health").next()
    assert lines[1:] == ["INFO poll health of app: given up, after 1 failure"]


# ------------------------------------------------------------------ leaks


async def test_a_poll_that_is_left_is_told() -> None:
    """X: the poll alone, without its task."""
    async with scope(name="app") as s:
        before = s.poll(Source(), interval=60, name="before")
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                left = s.poll(Source(), interval=60, name="health")
        (leak,) = caught.value.leaks
        assert (leak.kind, leak.name, leak.path) == ("poll", "health (#1)", "app")
        assert str(caught.value) == (
            f"1 thing was left behind:\n  poll health (#1) of app, started at {leak.place}\n"
            "Right: start it in a scope of the block, or poll.stop() it before the check ends"
        )
        assert "test_polls_look.py:" in leak.place
        left.stop()
        before.stop()


@virtual_time
async def test_a_fetch_that_does_not_leave_is_told() -> None:
    """X: its poll was stopped, but it is there."""
    async with scope(name="app") as s:
        with pytest.raises(Leaked) as caught:
            async with no_leaks():
                poll = s.poll(Source("stubborn"), interval=60, name="health")
                await settle()
                poll.stop()
        assert [(leak.kind, leak.name) for leak in caught.value.leaks] == [("poll", "health (#0)")]


async def test_polls_that_are_not_left() -> None:
    """X: stopped, in a scope of the block, there before, or of a service of an outer scope."""

    async def config() -> Poll[int]:
        return s.poll(Source(), interval=60, name="config")

    async with scope(name="app") as s:
        s.provide("config", config)
        before = s.poll(Source(), interval=60)
        async with no_leaks():
            async with scope() as inner:
                inner.poll(Source(), interval=60)
                await settle()
            s.poll(Source(), interval=60).stop()
            assert isinstance(await s.use("config"), Poll)
            await before.aclose()
            await settle()
            before.start()
            before.resume()


async def test_polls_that_have_ended_are_not_kept_by_the_check() -> None:
    """X: however many there are."""
    async with scope() as s, no_leaks():
        for _ in range(1100):
            s.poll(Source(), interval=60).stop()
            if len(s._owner.works.daemons) > 50:
                await settle()


async def test_a_poll_in_a_scope_that_is_left_open() -> None:
    """X: told with its scope."""
    left = scope(name="left")
    with pytest.raises(Leaked) as caught:
        async with no_leaks():
            s = await left.__aenter__()
            poll = s.poll(Source(), interval=60, name="health")
            await settle()
    assert [(leak.kind, leak.name) for leak in caught.value.leaks] == [("scope", "left"), ("poll", "health (#0)")]
    assert isinstance(caught.value.leaks[0], Leak)
    await left.__aexit__(None, None, None)
    assert poll.status().state == "stopped"


# ------------------------------------------------------------------ misuse


async def fetch(url: str, *, retries: int) -> str:
    """Needs arguments."""
    return url * retries


async def generate() -> Any:
    """Is no fetch."""
    yield 1


def blocking() -> int:
    """Is not async."""
    return 1


class Fetcher:
    """Something with an async `__call__`, and an async method."""

    async def __call__(self, number: int = 1) -> int:
        """Can be called without arguments."""
        return number

    async def method(self) -> int:
        """Likewise."""
        return 2


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: fetch("a", retries=1), "s.poll(fetch(...)): expected an async function, got a coroutine object\n"),
        (lambda: blocking, "s.poll(blocking): blocking is not async, so it would block every other task\n"),
        (lambda: generate, "s.poll(generate): generate is an async generator function, it yields many values\n"),
        (lambda: 3, "s.poll(...): expected an async function, got 3 (int)"),
        (
            lambda: fetch,
            "s.poll(fetch): fetch needs url, retries=retries, but it is called without arguments\nRight: s.poll(lambda",
        ),
        (lambda: functools.partial(fetch, "a"), "s.poll(fetch): fetch needs retries=retries, but it is called without"),
    ],
)
async def test_what_is_no_fetch(wrong: Any, text: str) -> None:
    """S12: told at the call, with the right line, and nothing has started."""
    async with app() as s:
        with pytest.raises(TypeError) as caught:
            s.poll(wrong(), interval=1)
        assert str(caught.value).startswith(text)
        assert s.tree() == "scope app open"


@pytest.mark.parametrize(
    "fine", [Fetcher(), Fetcher().method, functools.partial(fetch, "a", retries=2), lambda: fetch("b", retries=2)]
)
async def test_what_is_a_fetch(fine: Any) -> None:
    """S12: whatever gives a coroutine without being given anything."""
    async with app() as s:
        assert await s.poll(fine, interval=1).next() in (1, 2, "aa", "bb")


async def test_a_fetch_without_a_signature_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: what cannot be seen tells itself when it is called."""
    import inspect

    def no_signature(_: object) -> Any:
        raise ValueError("no signature found")

    fine = functools.partial(fetch, "a", retries=2)
    async with app() as s:
        with monkeypatch.context() as patch:
            patch.setattr(inspect, "signature", no_signature)
            poll = s.poll(fine, interval=1)
        assert await poll.next() == "aa"


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"interval": "1"},
        TypeError,
        "interval must be a number of seconds, a timedelta or a function of the status, got",
    ),
    ({"interval": True}, TypeError, "interval must be a number of seconds"),
    ({"interval": None}, TypeError, "interval must be a number of seconds"),
    ({"interval": fetch}, TypeError, "interval must be a plain function, but fetch is async"),
    ({"every": "end "}, ValueError, "every must be 'start' or 'end', got 'end '"),
    ({"missed": None}, ValueError, "missed must be 'skip' or 'run', got None"),
    ({"immediate": 1}, TypeError, "immediate must be True or False, got 1 (int)"),
    ({"jitter": -1}, ValueError, "jitter must be >= 0 seconds"),
    ({"jitter": None}, ValueError, "jitter must be a finite number of seconds, got None"),
    ({"jitter": 2}, ValueError, "jitter (2) must be < interval (1), or polls would pass one another"),
    ({"timeout": 0}, ValueError, "timeout must be > 0 seconds"),
    ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
    ({"on_error": "ignore"}, ValueError, "on_error must be 'continue' or 'stop' or 'raise' or a function"),
    ({"on_error": fetch}, TypeError, "on_error must be a plain function, but fetch is async"),
    ({"backoff": 0.5}, ValueError, "backoff must be a factor >= 1, and finite, got 0.5"),
    ({"backoff": math.inf}, ValueError, "backoff must be a factor >= 1, and finite, got inf"),
    ({"backoff": math.nan}, ValueError, "backoff must be a factor >= 1, and finite, got nan"),
    ({"backoff": "2"}, TypeError, "backoff must be a factor >= 1, got '2' (str)"),
    ({"max_backoff": 0}, ValueError, "max_backoff must be > 0 seconds"),
    ({"max_backoff": math.inf}, ValueError, "max_backoff must be finite, got inf"),
    ({"max_failures": 0}, ValueError, "max_failures must be >= 1"),
    ({"max_failures": 3, "on_error": "stop"}, ValueError, "max_failures=3 means nothing with on_error='stop'"),
    ({"max_failures": 3, "on_error": "raise"}, ValueError, "max_failures=3 means nothing with on_error='raise'"),
    ({"until": fetch}, TypeError, "until must be a plain function, but fetch is async"),
    ({"until": 3}, TypeError, "until must be a function or None, got 3 (int)"),
    ({"on_value": 3}, TypeError, "on_value(...): expected a function, got 3 (int)"),
    ({"name": ""}, ValueError, "name must be 1 to 100 printable characters"),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG, ids=map(str, range(len(WRONG))))
async def test_wrong_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    """S12: the option, the value, the rule and the remedy, at the call."""
    async with app() as s:
        with pytest.raises(kind) as caught:
            s.poll(Source(), **{"interval": 1, **options})
        assert str(caught.value).startswith(text)
        assert s.tree() == "scope app open"


async def test_a_poll_of_a_scope_that_is_not_open() -> None:
    """S12: before entry and after the end."""
    s = scope(name="app")
    with pytest.raises(RuntimeError, match="came before it was entered"):
        s.poll(Source(), interval=1)
    async with s:
        pass
    with pytest.raises(ScopeClosed, match=r"poll\(Source\) came too late"):
        s.poll(Source(), interval=1)
