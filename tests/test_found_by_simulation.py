"""Defects that stories under simulation have found, each as the shortest story that shows it.

Whatever is cancelled, when and by whom: what was asked for its own cancellation gets it, what hangs on a scope is told
and waited for, and no error is lost on the way.
"""

# Handles are dropped on purpose here.
# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import pytest

from anyscope import Scope, ScopeTimeout, scope

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.virtual_time


async def crash() -> None:
    """Fail."""
    raise ValueError("crash")


# ------------------------------------------------------------------ a shield between a parent and its child
@pytest.mark.parametrize("how", ["cancel", "timeout", "crash", "body"])
async def test_a_child_behind_a_shield_is_cancelled_by_its_own_means(how: str) -> None:
    """S3, S5, S6: its cancelled parent does not reach it; nothing else did any more, and it hung."""
    began = anyio.current_time()
    async with scope(name="app") as s:
        s.cancel("enough")
        with anyio.move_on_after(100, shield=True) as guard, suppress(ScopeTimeout, ValueError, ExceptionGroup):
            async with scope(name="child", timeout=1 if how == "timeout" else None) as child:
                assert not child.cancelled
                child.start_soon(anyio.sleep_forever)
                if how == "cancel":
                    child.cancel("now")
                if how == "crash":
                    child.start_soon(crash)
                if how == "body":
                    raise ValueError("body")
        assert not guard.cancelled_caught
        assert child.cancelled
    assert anyio.current_time() - began < 2


async def test_a_parent_that_is_cancelled_later_does_not_keep_a_shielded_child_from_its_deadline() -> None:
    """S5, S6: it was told of the parent's cancellation, which did not arrive; the first reason stays."""
    began = anyio.current_time()
    async with scope(name="app") as s:
        with anyio.move_on_after(100, shield=True):
            async with scope(name="child", timeout=2) as child:
                child.start_soon(_cancel_after, s, 1)
                await anyio.sleep_forever()
            assert child.cancel_reason == "enough"
    assert anyio.current_time() - began == pytest.approx(2)


async def _cancel_after(s: Scope, seconds: float) -> None:
    await anyio.sleep(seconds)
    s.cancel("enough")


async def test_a_deadline_in_a_clean_up_holds() -> None:
    """S6, S7: a clean-up that opens a scope of its own, after the parent was cancelled."""

    async def tidy() -> None:
        async with scope(name="tidying", timeout=1):
            await anyio.sleep(1000)

    began = anyio.current_time()
    with suppress(ExceptionGroup, ScopeTimeout):
        async with scope(name="app") as s, scope(name="child", close_timeout=None) as child:
            child.on_exit(tidy)
            s.cancel("enough")
    assert anyio.current_time() - began == pytest.approx(1)


async def test_a_clean_up_that_opens_a_scope_is_not_cut_short() -> None:
    """S7, S9: the scope hangs on a cancelled one above, in another task; that cut it in the middle of the clean-up."""
    log: list[str] = []

    async def tidy() -> None:
        async with scope(name="tidying"):
            await anyio.sleep(1)
            log.append("tidied")

    async def foreign(s: Scope, ready: anyio.Event) -> None:
        async with scope(name="child", parent=s) as child:
            child.on_exit(tidy)
            ready.set()

    async with anyio.create_task_group() as tg, scope(name="app") as s:
        ready = anyio.Event()
        tg.start_soon(foreign, s, ready)
        await ready.wait()
        s.cancel("enough")
    assert log == ["tidied"]


# ------------------------------------------------------------------ what strangers hang on a scope
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("kind", ["daemon", "ended daemon", "service"])
async def test_the_scopes_of_a_servers_requests_are_waited_for(kind: str, *, cancelled: bool) -> None:
    """S9, V5: a request's task is a stranger in a copy of the server's context, as `asyncio.start_server` makes it."""
    log: list[str] = []

    async def request(s: Scope) -> None:
        async with scope(name="request", parent=s):
            await anyio.sleep(5)
        log.append("request ended")

    async def serve(tg: anyio.abc.TaskGroup, s: Scope) -> None:
        tg.start_soon(request, s)
        if kind == "daemon":
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:

        async def service() -> AsyncIterator[int]:
            tg.start_soon(request, s)
            yield 1

        async with scope(name="app").provide("server", service) as s:
            s.on_exit(log.append, "database closed")
            if kind == "service":
                await s.use("server")
            else:
                s.start_soon(serve, tg, s, daemon=True)
            await anyio.sleep(1)
            if cancelled:
                s.cancel("enough")
        log.append("app left")
    assert log == ["request ended", "database closed", "app left"]


# ------------------------------------------------------------------ errors on the way
async def test_the_error_of_a_task_whose_starter_is_cancelled_is_told() -> None:
    """S4, T3: AnyIO's asyncio lets go of it."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            await anyio.sleep(1000)
        finally:
            raise ValueError("clean-up failed")

    found: list[BaseException] = []
    with anyio.move_on_after(1):
        try:
            async with scope(name="app") as s:
                await s.start(serve)
        except BaseException as error:
            found += [error, *getattr(error, "exceptions", ())]
            if not isinstance(error, Exception):
                raise
    assert [str(error) for error in found if isinstance(error, ValueError)] == ["clean-up failed"]


@pytest.mark.parametrize("native", [False, True])
async def test_the_error_of_a_consumer_is_not_replaced_by_a_cancellation(
    anyio_backend_name: str, *, native: bool
) -> None:
    """A5, S8: it was raised first; the cancellation came while the jobs were ending."""
    if native and anyio_backend_name == "trio":
        return

    async def slow() -> None:
        try:
            await anyio.sleep(1000)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    async def consume() -> None:
        async with scope(name="app") as s, s.as_completed([slow]):
            await anyio.sleep(0.5)
            raise ValueError("consumer")

    async def consume_natively() -> None:
        task = asyncio.ensure_future(consume())
        await asyncio.sleep(1)
        task.cancel()
        await task

    errors: list[Any] = []
    with anyio.move_on_after(None if native else 1):
        try:
            await (consume_natively() if native else consume())
        except ValueError as error:
            errors.append(error)
    assert [str(error) for error in errors] == ["consumer"]
