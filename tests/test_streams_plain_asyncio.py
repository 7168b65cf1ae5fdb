"""Streams in a loop that AnyIO did not start, as under a web server: `asyncio.run`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from anyscope import scope
from anyscope._lifetime import backend


def test_a_dropped_stream_is_closed() -> None:
    """R3: the loop is asked for it in a plain callback, where AnyIO has no task to find its backend by."""
    closed: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(0)
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("source")

    async def main() -> None:
        async with scope() as s:
            async for _ in s.stream(source()):
                break
            for _ in range(10):
                await asyncio.sleep(0)
            assert closed == ["source"]

    asyncio.run(main())


def test_the_loop_is_asked_where_there_is_no_sniffio(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: AnyIO finds its backend by itself then."""
    called: list[bool] = []

    async def main() -> None:
        assert backend.running_task() is asyncio.current_task()
        backend.soon_caller()(lambda: called.append(True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    monkeypatch.setitem(sys.modules, "sniffio", None)
    monkeypatch.setattr(backend, "LIBRARY", backend.thread_local())
    asyncio.run(main())
    assert called == [True]
