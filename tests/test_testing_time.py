"""Virtual time of `anyscope.testing` (X): `run` and `backend_options` on both backends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyscope
from anyscope import scope
from anyscope.testing import Deadlock, Livelock, Unsupported, _private_asyncio, _private_trio, backend_options, run
from anyscope.testing._watch import place_of

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def _backends_are_installed(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("backend") == "trio":
        pytest.importorskip("trio")


@pytest.fixture
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads hold the clock for a twentieth of a second only."""
    for module in (_private_asyncio, _private_trio):
        monkeypatch.setattr(module, "PATIENCE", 0.05)


@BACKENDS
def test_sleeping_is_exact_and_costs_nothing(backend: str) -> None:
    """X: an hour is an hour, from 0 on, and takes no real time."""

    async def main() -> list[float]:
        seen = [anyio.current_time()]
        async with scope() as s:
            for hours in (2, 1):
                s.task(anyio.sleep, hours * 3600)
            await anyio.sleep(1800)
            seen.append(anyio.current_time())
        return [*seen, anyio.current_time()]

    began = time.monotonic()
    assert run(main, backend=backend) == [0, 1800, 7200]
    assert time.monotonic() - began < 10


@BACKENDS
def test_arguments_and_errors_go_through(backend: str) -> None:
    """X: what the function gets, and what it raises."""

    async def half(number: float) -> float:
        await anyio.sleep(number)
        return 10 / number

    assert run(half, 5, backend=backend) == 2
    with pytest.raises(ZeroDivisionError):
        run(half, 0, backend=backend)


def test_there_is_no_virtual_time_elsewhere() -> None:
    """X, S12: told at once."""
    with pytest.raises(ValueError, match="virtual time is for the backends 'asyncio' and 'trio', got 'uvloop'"):
        backend_options("uvloop")


@BACKENDS
def test_a_deadlock_says_who_waits_where(backend: str) -> None:
    """X: it is told at once, with each task and its line."""

    async def wait_for_ever() -> None:
        await anyio.Event().wait()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_ever, name="the waiter")
            await anyio.sleep(5)

    with pytest.raises(Deadlock) as caught:
        run(main, backend=backend)
    first, *lines = str(caught.value).splitlines()
    assert first == "every task is blocked for ever:"
    assert any(line.startswith("  the waiter: test_testing_time.py:") for line in lines)
    assert any(line.endswith(" in wait_for_ever") for line in lines)
    assert any(line.endswith(" in main") for line in lines)


@BACKENDS
def test_a_deadlock_goes_through_shields_and_except(backend: str) -> None:
    """X: whatever the program makes of it, the run raises it."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    async def main() -> str:
        try:
            async with scope() as s:
                s.task(stubborn)
        except BaseException:  # noqa: ASYNC103  this is what a careless program does
            return "all is well"
        return "it ended"

    with pytest.raises(Deadlock):
        run(main, backend=backend)


@BACKENDS
def test_a_livelock_is_told(backend: str) -> None:
    """X: a task that spins lets no time go by."""

    async def spin() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(spin, name="spinner")
            await anyio.sleep(1)

    with pytest.raises(Livelock) as caught:
        run(main, backend=backend, most_turns=1000)
    assert str(caught.value).startswith("no time went by in 1,000 turns of the event loop:\n")


@BACKENDS
def test_many_turns_are_no_livelock_while_time_goes_by(backend: str) -> None:
    """X: the count begins anew whenever time goes by."""

    async def main() -> float:
        for _ in range(20):
            for _ in range(80):
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(1)
        return anyio.current_time()

    assert run(main, backend=backend, most_turns=200) == 20


@BACKENDS
def test_worker_threads_hold_the_clock(backend: str) -> None:
    """X: no virtual time goes by while a thread works, also beside a sleeping task."""

    async def main() -> tuple[float, float]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 100)
            await anyio.to_thread.run_sync(time.sleep, 0.05)
            after = anyio.current_time()
        return after, anyio.current_time()

    assert run(main, backend=backend) == (0, 100)


@BACKENDS
def test_a_thread_of_the_program_holds_the_clock(backend: str) -> None:
    """X: one that it started itself, too."""

    async def main() -> float:
        event, token = anyio.Event(), anyio.lowlevel.current_token()

        def work() -> None:
            time.sleep(0.05)
            anyio.from_thread.run_sync(event.set, token=token)

        thread = threading.Thread(target=work)
        thread.start()
        with anyio.move_on_after(100):
            await event.wait()
        thread.join()
        return anyio.current_time()

    assert run(main, backend=backend) == 0


def test_calls_in_an_executor_hold_the_clock() -> None:
    """X: asyncio's own way to use threads."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(None, time.sleep, 0.05), 100)
        return loop.time()

    assert run(main) == 0


@BACKENDS
@pytest.mark.usefixtures("_little_patience")
def test_a_thread_that_takes_too_long_holds_the_clock_no_more(backend: str) -> None:
    """X: or a time-out on a blocked thread could never strike."""

    async def main() -> float:
        done = threading.Event()
        with anyio.move_on_after(100):
            await anyio.to_thread.run_sync(done.wait, 0.5, abandon_on_cancel=True)
        done.set()
        return anyio.current_time()

    assert run(main, backend=backend) == 100


@BACKENDS
def test_sockets_work(backend: str) -> None:
    """X: what comes from this process is there before time goes by; an idle socket holds it for a moment only."""

    async def main() -> tuple[bytes, float, float]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

        async def echo(client: Any) -> None:
            async with client:
                await client.send(await client.receive())

        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                with anyio.fail_after(100):
                    await stream.send(b"hello")
                    answer = await stream.receive()
            answered = anyio.current_time()
            await anyio.sleep(50)
            group.cancel_scope.cancel()
        return answer, answered, anyio.current_time()

    assert run(main, backend=backend) == (b"hello", 0, 50)


@BACKENDS
def test_options_are_for_anyio_run(backend: str) -> None:
    """X: the same for whoever runs the loop."""

    async def main() -> float:
        await anyio.sleep(60)
        return anyio.current_time()

    assert anyio.run(main, backend=backend, backend_options=backend_options(backend)) == 60


def test_what_reaches_the_loop_is_kept_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    """X: as asyncio does, it is logged too."""

    async def main() -> list[str]:
        loop: Any = asyncio.get_running_loop()
        loop.call_soon(lambda: 1 / 0)
        await anyio.sleep(1)
        return [context["message"] for context in loop.watch.problems]

    (message,) = run(main)
    assert message.startswith("Exception in callback")
    assert len(caplog.records) == 1


def test_a_changed_trio_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """X: what the package needs of Trio's private parts is looked for, and what is missing is named."""
    trio = pytest.importorskip("trio")
    _private_trio.check()
    monkeypatch.delattr(trio.testing.MockClock, "_autojump")
    with pytest.raises(
        Unsupported, match=rf"virtual time needs MockClock._autojump, which trio {trio.__version__} does"
    ):
        backend_options("trio")


def test_the_place_of_a_coroutine() -> None:
    """X: the innermost line of the program's own."""

    async def outer(inner: Callable[[], Any]) -> None:
        await inner()

    async def inner() -> None:
        await asyncio.sleep(1)

    async def main() -> str:
        task = asyncio.create_task(outer(inner))
        await asyncio.sleep(0.5)
        place = place_of(task.get_coro())
        await task
        return place

    assert run(main).endswith(" in inner")
    assert place_of(None) == "?"


STUBBORN = """
import sys

import anyio

from anyscope.testing import Deadlock, run


async def main():
    while True:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()
        except Exception:
            raise  # there is no event loop any more
        except BaseException:
            pass


try:
    run(main, backend=sys.argv[1])
except Deadlock as error:
    print(str(error).splitlines()[0])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_that_catches_each_deadlock_and_waits_again_is_ended(backend: str) -> None:
    """X: found by a seeded fault. Trio's run is broken off, its tasks are never unwound: in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(anyscope.__file__).parent.parent)}
    command = [sys.executable, "-c", STUBBORN, backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == "every task is blocked for ever:\n", done.stderr
