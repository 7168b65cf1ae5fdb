"""What type checkers accept of polls (L1-L6). Read by mypy and pyright, never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Literal

from typing_extensions import assert_type

from anyscope import Hooks, Poll, PollEvent, PollFailed, PollStatus, PollStopped, Scope


class Config:
    level: str = "info"


class Special(Config):
    """A kind of config."""


class Client:
    async def fetch(self, path: str = "/") -> Config:
        return Config()


async def fetch() -> Config:
    return Config()


async def fetch_from(url: str) -> Special:
    return Special()


async def apply(config: Config) -> None: ...


def apply_at_once(config: Config) -> int:
    return len(config.level)


def interval(status: PollStatus) -> float | timedelta | None:
    return None if status.failures else 3


def decide(error: Exception, status: PollStatus) -> Literal["continue", "stop", "raise"]:
    return "stop" if status.failures > 3 else "continue"


# ------------------------------------------------------------------ what is fetched decides what is given


def makes(s: Scope, client: Client) -> None:
    assert_type(s.poll(fetch, interval=3), Poll[Config])
    assert_type(s.poll(client.fetch, interval=0.5), Poll[Config])
    assert_type(s.poll(lambda: fetch_from("a"), interval=timedelta(minutes=1)), Poll[Special])
    assert_type(s.poll(functools.partial(fetch_from, "a"), interval=interval), Poll[Special])


def widens(poll: Poll[Special]) -> Poll[Config]:
    return poll  # it only gives


def options(s: Scope) -> None:
    s.poll(
        fetch,
        apply,
        interval=3,
        every="end",
        missed="run",
        immediate=False,
        jitter=0.5,
        timeout=2,
        on_error="continue",
        backoff=1.5,
        max_backoff=60,
        max_failures=10,
        until=lambda config: config.level == "debug",
        name="config",
    )
    s.poll(fetch, apply_at_once, interval=lambda status: 2 * status.failures or 1, on_error=decide)
    s.poll(fetch, lambda config: config.level, interval=3, on_error="stop")
    s.poll(fetch, interval=3, on_error=lambda error, status: "raise")


# ------------------------------------------------------------------ what it gives and does


async def gives(poll: Poll[Config]) -> None:
    assert_type(poll.latest, Config)
    assert_type(await poll.next(), Config)
    assert_type(await poll.trigger(), Config)
    assert_type(await poll.wait_done(), Config)
    async for config in poll:
        assert_type(config, Config)
    await poll.aclose()


def does(poll: Poll[Config]) -> None:
    poll.stop()
    poll.start()
    poll.pause()
    poll.resume()


# ------------------------------------------------------------------ what it tells


def tells(poll: Poll[Config], failed: PollFailed, stopped: PollStopped) -> None:
    status = poll.status()
    assert_type(status, PollStatus)
    assert_type(status.running, bool)
    assert_type(status.poll_count, int)
    assert_type(status.last_error, Exception | None)
    assert_type(status.time_until_next, float | None)
    assert_type(poll.name, str)
    assert_type(failed.failures, int)
    assert_type(stopped.reason, str)


class Metrics(Hooks):
    def polled(self, event: PollEvent, /) -> None:
        assert_type(event.duration, float)
        assert_type(event.error, Exception | None)
