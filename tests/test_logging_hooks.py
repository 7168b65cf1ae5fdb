"""`LoggingHooks`: what a scope does, as log records (H5), and what hooks hear of services (H2)."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyscope import Disposed, Hooks, LoggingHooks, scope, use

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.virtual_time


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)

    @property
    def lines(self) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in self.seen]


@pytest.fixture
def records() -> Iterator[Records]:
    handler = Records()
    logger = logging.getLogger("anyscope.trace")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


async def fail() -> None:
    await anyio.sleep(0.25)
    raise ValueError("no such user\nsecond line")


async def test_pools_are_logged(records: Records) -> None:
    """H5, P12: what happens at DEBUG, with seconds and reason; what fails at WARNING."""
    script = iter([ConnectionRefusedError("no"), None])

    async def create() -> object:
        await anyio.sleep(0.25)
        if error := next(script):
            raise error
        return object()

    async with scope(name="app", hooks=LoggingHooks()) as s:
        pool = s.pool(create, name="db", max=1, backoff=(0.5, 0.5), close_timeout=1)
        async with pool.acquire():
            await anyio.sleep(1)
    shown = [re.sub(r"acquired after [01]\.\d+ s", "acquired after a while", line) for line in records.lines]
    assert shown[:5] == [
        "WARNING app: pool db: create failed (ConnectionRefusedError: no)",
        "DEBUG app: pool db: created after 0.250 s",
        "DEBUG app: pool db: acquired after a while",
        "DEBUG app: pool db: released after 1.000 s",
        "DEBUG app: pool db: discarded (closed)",
    ]
    assert shown[5] == "DEBUG app: pool db: destroyed"
    record = records.seen[1]
    assert (record.__dict__["scope"], record.__dict__["subject"]) == ("app", "pool db")
    assert record.__dict__["duration"] == pytest.approx(0.25)


async def test_what_is_not_wanted_of_pools_is_not_logged() -> None:
    """H5: nothing is put together for a level that nobody hears."""
    logger = logging.getLogger("anyscope.quiet")
    logger.setLevel(logging.ERROR)
    async with scope(hooks=LoggingHooks(logger)) as s:
        pool = s.pool(object, name="db", max=1)
        async with pool.acquire():
            pass
    assert pool.stats.created == 1


async def test_tasks_are_logged(records: Records) -> None:
    """H5: beginnings and ends at DEBUG, with the seconds; a failure at WARNING, with its traceback."""
    async with scope(name="app", hooks=LoggingHooks()) as s:
        await s.task(anyio.sleep, 1.5)
        await s.run(fail)
        task = s.task(anyio.sleep_forever, name="serve")
        await anyio.sleep(0.5)
        task.cancel("enough")
    assert records.lines == [
        "DEBUG app: task sleep (#0) started",
        "DEBUG app: task sleep (#0) ended after 1.500 s",
        "DEBUG app: run fail (#1) started",
        "WARNING app: run fail (#1) failed (ValueError: no such user) after 0.250 s",
        "DEBUG app: task serve (#2) started",
        "DEBUG app: task serve (#2) was cancelled after 0.500 s",
    ]
    warning = records.seen[3]
    assert warning.exc_info is not None
    assert isinstance(warning.exc_info[1], ValueError)
    assert [record.exc_info for record in records.seen if record is not warning] == [None] * 5


async def test_fields_for_formatters(records: Records) -> None:
    """H5: scope, subject, and at an end duration and outcome."""
    async with scope(name="app", hooks=LoggingHooks()), scope(name="in") as s:
        await s.task(anyio.sleep, 2)
        s.cancel()
    fields = [
        {name: vars(record)[name] for name in ("scope", "subject", "duration", "outcome") if name in vars(record)}
        for record in records.seen
    ]
    assert fields == [
        {"scope": "app > in", "subject": "task sleep (#0)"},
        {"scope": "app > in", "subject": "task sleep (#0)", "duration": 2.0, "outcome": "ok"},
        {"scope": "app > in", "subject": "app > in"},
    ]


async def test_queueing_is_logged(records: Records) -> None:
    """H5: how long a task waited for its slot."""
    async with scope(name="app", concurrency=1, hooks=LoggingHooks()) as s:
        s.task(anyio.sleep, 1)
        s.task(anyio.sleep, 1)
    assert records.lines[2] == "DEBUG app: task sleep (#1) started after queueing for 1.000 s"


async def test_cancellations_are_logged(records: Records) -> None:
    """H5: by what, and the reason."""
    async with scope(name="app", hooks=LoggingHooks()) as s, scope(name="in"):
        s.cancel("user 100%s left")
        await anyio.lowlevel.checkpoint()
    assert records.lines == [
        "DEBUG app: cancelled by cancel (user 100%s left)",
        "DEBUG app > in: cancelled by parent (user 100%s left)",
    ]


async def test_disposals_are_logged(records: Records) -> None:
    """H5: each thing that is closed, by its kind and name; a failure at WARNING."""

    async def service() -> AsyncIterator[str]:
        yield "s3cret"

    def broken() -> None:
        raise OSError("disk full")

    with pytest.raises(ExceptionGroup):
        async with scope(name="app", hooks=LoggingHooks()).provide("db", service) as s:
            await use("db")
            s.on_exit(broken)
            s.on_exit(anyio.sleep, 0.5)
    assert records.lines == [
        "DEBUG app: clean-up sleep (#2) closed after 0.500 s",
        "WARNING app: clean-up broken (#1) failed (OSError: disk full) after 0.000 s",
        "DEBUG app: service 'db' (#0) closed after 0.000 s",
    ]


async def test_level_and_logger_are_chosen() -> None:
    """H5: what goes well at the level given, a failure at WARNING or above; nothing below the logger's own level."""
    handler, logger = Records(), logging.getLogger("shop")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    for level in (logging.DEBUG, logging.INFO, logging.ERROR):
        async with scope(name="app", hooks=LoggingHooks(logger, level=level)) as s:
            await s.run(fail)
            if level == logging.DEBUG:
                await s.run(anyio.sleep, 1)
    assert handler.lines == [
        "WARNING app: run fail (#0) failed (ValueError: no such user) after 0.250 s",
        "INFO app: run fail (#0) started",
        "WARNING app: run fail (#0) failed (ValueError: no such user) after 0.250 s",
        "ERROR app: run fail (#0) started",
        "ERROR app: run fail (#0) failed (ValueError: no such user) after 0.250 s",
    ]


def test_repr() -> None:
    """H5: what it is and what it hears."""
    assert repr(LoggingHooks()) == "<LoggingHooks before_task, after_task, on_cancel, on_dispose, pool_changed, polled>"


async def test_the_kinds_of_disposals() -> None:
    """H2: a record says what kind of thing was closed; the index is the order of creation."""
    heard: list[tuple[int, str, str]] = []

    class Heard(Hooks):
        def disposed(self, event: Disposed, /) -> None:
            heard.append((event.index, event.kind, event.label))

    class Manager:
        async def __aenter__(self) -> int:
            return 1

        async def __aexit__(self, *_: object) -> None:
            return None

    async with scope(hooks=Heard()).provide("db", object, close=lambda _: None) as s:
        s.on_exit(list)
        await s.enter(Manager())
        await use("db")
    assert heard == [(2, "service", "'db'"), (1, "entered", "Manager"), (0, "clean-up", "list")]


async def test_a_failing_hook_changes_nothing_for_services(caplog: pytest.LogCaptureFixture) -> None:
    """H4: a hook that raises when a service is closed is logged, and the other services are closed."""
    closed: list[Any] = []

    def broken(index: int, error: BaseException | None) -> None:
        raise ValueError(index)

    async with scope(hooks=Hooks(on_dispose=broken)) as s:
        for key in ("a", "b"):
            s.provide(key, lambda key=key: key, close=closed.append)
            await s.use(key)
    assert closed == ["b", "a"]
    assert [record.name for record in caplog.records] == ["anyscope"]
