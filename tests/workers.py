"""Worker processes that speak JSON lines over pipes, as a pool lends them."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

PROGRAM = """
import json, os, signal, sys, time

if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    time.sleep(job.get("seconds", 0))
    print(json.dumps({"number": job["number"], "answer": job.get("value", 0) ** 2}), flush=True)
if "stubborn" in sys.argv:
    time.sleep(60)
"""
LONGEST = 1_000_000
LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead)


class WorkerLost(ConnectionError):
    """The process has gone away."""


class Worker:
    """A worker process.

    Args:
        process: It.

    Attributes:
        pid: Its number; known once it has begun.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = 0
        self._process = process
        self._jobs = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)
        self._numbers = itertools.count()

    @property
    def has_ended(self) -> bool:
        """Whether it is gone, and its end was seen."""
        return self._process.returncode is not None

    async def begin(self) -> None:
        """Wait until it is there."""
        self.pid = int(await self._line())

    async def square(self, value: int, *, seconds: float = 0.0) -> Any:
        """Have it do a job."""
        number = await self._send(value=value, seconds=seconds)
        got = json.loads(await self._line())
        assert got["number"] == number, "the answer to another job"
        return got["answer"]

    async def drain(self) -> None:
        """Read what is left of former jobs, up to the answer to a new one."""
        number = await self._send()
        while json.loads(await self._line())["number"] != number:
            pass

    def kill(self) -> None:
        """Shoot it."""
        self._process.send_signal(signal.SIGKILL)

    async def aclose(self, patience: float = 5.0) -> None:
        """End its input, upon which it ends; if it does not, kill it."""
        with anyio.move_on_after(patience):
            await self._process.aclose()

    async def _send(self, **job: Any) -> int:
        number = next(self._numbers)
        try:
            await self._jobs.send(json.dumps({"number": number, **job}).encode() + b"\n")
        except LOST as error:
            raise WorkerLost(f"worker {self.pid} takes nothing more") from error
        return number

    async def _line(self) -> bytes:
        try:
            return await self._answers.receive_until(b"\n", LONGEST)
        except LOST as error:
            raise WorkerLost(f"worker {self.pid} has gone away") from error


class Workshop:
    """Starts worker processes.

    Args:
        *arguments: Of each.

    Attributes:
        workers: All that there ever were.
    """

    def __init__(self, *arguments: str) -> None:
        self.workers: list[Worker] = []
        self._arguments = arguments

    async def start(self) -> Worker:
        """Start one, and wait until it is there."""
        worker = Worker(await anyio.open_process([sys.executable, "-c", PROGRAM, *self._arguments], stderr=None))
        self.workers.append(worker)
        try:
            await worker.begin()
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(ProcessLookupError):
                worker.kill()
                await worker.aclose()
            raise
        return worker
