"""The resource pool with worker processes, which speak JSON lines over pipes (P2, P3, P5, P6, P8, P11)."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from anyscope import Pool, PoolTimeout, scope
from pools import check_open
from real_clock import anyio_backend as anyio_backend  # noqa: PLC0414  a fixture of this file too
from workers import Worker, WorkerLost, Workshop

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent")


@pytest.fixture(autouse=True)
def _broken_pipes(loop_problems: list[dict[str, Any]]) -> Iterator[None]:
    """On Python 3.10 asyncio tells of the pipe to a process that was killed before all was written to it."""
    yield
    if sys.version_info < (3, 11):
        gc.collect()  # that is when it does
        loop_problems[:] = [each for each in loop_problems if not isinstance(each.get("exception"), BrokenPipeError)]


@asynccontextmanager
async def workers(shop: Workshop, **options: Any) -> AsyncIterator[Pool[Worker]]:
    """A pool of them; afterwards each has ended, once."""
    async with scope(name="app") as s:
        pool: Pool[Worker] = s.pool(shop.start, **{"name": "workers", "max": 2, **options})
        yield pool
        check_open(pool, in_use=0)
    stats = pool.stats
    assert stats.created == stats.destroyed == sum(stats.discarded.values()), stats
    assert stats.destroy_errors == 0, stats
    assert all(worker.has_ended for worker in shop.workers)


async def square(pool: Pool[Worker], value: int, *, seconds: float = 0.0) -> tuple[int, int]:
    """The answer to a job, and whose it is."""
    async with pool.acquire() as worker:
        return await worker.square(value, seconds=seconds), worker.pid


async def test_work_is_shared() -> None:
    """P3: thirty jobs, three processes, each with one job at a time; every answer is right."""
    answers: dict[int, int] = {}
    pids: Counter[int] = Counter()

    async def ask(value: int) -> None:
        answers[value], pid = await square(pool, value, seconds=0.005)
        pids[pid] += 1

    async with workers(Workshop(), min=3, max=3) as pool, anyio.create_task_group() as tg:
        await pool.ready()
        for value in range(30):
            tg.start_soon(ask, value)
    assert answers == {value: value * value for value in range(30)}
    assert len(pids) == pool.stats.created == 3


async def test_a_worker_that_is_killed_at_work() -> None:
    """P8: who has it is told, it is discarded, and another one takes its place."""
    shop = Workshop()
    async with workers(shop, max=1) as pool:
        async with anyio.create_task_group() as tg:
            with pytest.raises(WorkerLost):
                async with pool.acquire() as worker:
                    tg.start_soon(shoot, worker)
                    await worker.square(1, seconds=60)
        answer, pid = await square(pool, 3)
        assert (answer, pool.stats.discarded) == (9, {"error": 1})
        assert pid != worker.pid


async def shoot(worker: Worker) -> None:
    """Shoot it soon."""
    await anyio.sleep(0.02)
    worker.kill()


async def test_a_worker_that_is_killed_while_idle() -> None:
    """P8: `check` finds out, and nobody gets it."""
    shop = Workshop()
    async with workers(shop, min=2, check=Worker.drain, check_after=0) as pool:
        await pool.ready()
        for worker in shop.workers:
            worker.kill()
        assert (await square(pool, 4))[0] == 16
        assert pool.stats.discarded == {"check": 2}


async def test_a_job_that_is_cancelled() -> None:
    """P8: its worker is in an unknown state, and ends; nobody gets the answer to another one's job."""
    shop = Workshop()
    async with workers(shop, max=1) as pool:
        with anyio.move_on_after(0.05):
            await square(pool, 5, seconds=0.2)
        assert (await square(pool, 6))[0] == 36
        assert pool.stats.discarded == ({"cancelled": 1} if len(shop.workers) > 1 else {})


async def test_a_job_that_is_cancelled_and_drained() -> None:
    """P8: the worker is kept where `reset` reads what is left."""
    shop = Workshop()
    async with workers(shop, max=1, min=1, reset=Worker.drain) as pool:
        await pool.ready()
        with anyio.move_on_after(0.05):
            await square(pool, 5, seconds=0.2)
        assert (await square(pool, 6))[0] == 36
        assert (len(shop.workers), pool.stats.discarded) == (1, {})


async def test_workers_that_do_not_want_to_end() -> None:
    """P11: one whose input has ended, and which stays, is killed within the time that `destroy` takes for it."""
    shop = Workshop("stubborn")

    async def end(worker: Worker) -> None:
        await worker.aclose(0.1)

    began = time.monotonic()
    async with workers(shop, min=2, destroy=end) as pool:
        await pool.ready()
    assert time.monotonic() - began < 30
    assert [worker.has_ended for worker in shop.workers] == [True, True]


async def test_a_close_that_is_cancelled() -> None:
    """P11: every process has ended all the same."""
    shop = Workshop()
    with anyio.CancelScope() as cut:
        async with workers(shop, min=2) as pool:
            await pool.ready()
            assert (await square(pool, 7))[0] == 49
            cut.cancel()
    assert pool.stats.destroyed == len(shop.workers) == 2
    assert all(worker.has_ended for worker in shop.workers)


async def test_a_program_that_is_not_there() -> None:
    """P6: who waits is told why there is nothing."""

    async def start() -> Worker:
        return Worker(await anyio.open_process(["anyscope-no-such-program"]))

    async with scope() as s:
        pool = s.pool(start, min=1, backoff=(0.01, 0.05))
        cause = await cause_of_a_timeout(pool)
    assert isinstance(cause, FileNotFoundError)


async def cause_of_a_timeout(pool: Pool[Worker]) -> BaseException | None:
    """What a time-out gives as its cause after two creations have failed, however long a process takes to start."""
    with anyio.fail_after(30):
        while pool.stats.create_errors < 2:
            await anyio.sleep(0.005)
    with pytest.raises(PoolTimeout) as caught:
        await pool.acquire(timeout=0.01)
    return caught.value.__cause__


async def test_a_worker_that_dies_as_it_begins() -> None:
    """P6: it is no worker, and nothing is left of it."""
    shop = Workshop()

    async def start() -> Worker:
        worker = await shop.start()
        worker.kill()
        try:
            await worker.drain()
        finally:
            await worker.aclose()
        return worker

    async with scope() as s:
        pool = s.pool(start, min=1, backoff=(0.01, 0.05))
        cause = await cause_of_a_timeout(pool)
    assert isinstance(cause, WorkerLost)
    assert all(worker.has_ended for worker in shop.workers)
