"""What type checkers refuse of polls (L1-L6). Read by mypy and pyright, never run.

Each refused line carries a `type: ignore` with mypy's code, which pyright honours too. Both checkers call an ignore
that is not needed an error, so this file fails as soon as one of them accepts one of these lines.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from anyscope import Poll, PollStatus, Scope


class Config:
    level: str = "info"


async def fetch() -> Config:
    return Config()


async def fetch_from(url: str) -> Config:
    return Config()


def blocking() -> Config:
    return Config()


def takes_text(text: str) -> None: ...


def wrong_word(error: Exception, status: PollStatus) -> str:
    return "ignore"


def options(s: Scope) -> None:
    s.poll(fetch)  # type: ignore[call-arg]
    s.poll(fetch, 3)  # type: ignore[call-arg, arg-type]
    s.poll(blocking, interval=3)  # type: ignore[arg-type]
    s.poll(fetch(), interval=3)  # type: ignore[arg-type]
    s.poll(fetch_from, interval=3)  # type: ignore[arg-type]
    s.poll(fetch, takes_text, interval=3)  # type: ignore[misc]
    s.poll(fetch, interval="3")  # type: ignore[arg-type]
    s.poll(fetch, interval=3, every="tick")  # type: ignore[arg-type]
    s.poll(fetch, interval=3, missed="burst")  # type: ignore[arg-type]
    s.poll(fetch, interval=3, on_error="ignore")  # type: ignore[arg-type]
    s.poll(fetch, interval=3, on_error=wrong_word)  # type: ignore[arg-type]
    s.poll(fetch, interval=3, until=takes_text)  # type: ignore[misc]
    s.poll(fetch, interval=3, delay=3)  # type: ignore[call-arg]


async def uses(poll: Poll[Config]) -> None:
    text: str = poll.latest  # type: ignore[assignment]
    takes_text(await poll.next())  # type: ignore[arg-type]
    poll.status().failures = 3  # type: ignore[misc]
    poll.latest = Config()  # type: ignore[misc]
    poll.stop(3)  # type: ignore[call-arg]
    for config in poll:  # type: ignore[attr-defined]
        del config
    del text
