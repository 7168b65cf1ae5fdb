"""Polls under random orders: whatever is asked of one and when, the promises hold, and nobody waits in vain."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from anyscope import Poll, PollFailed, PollStatus, PollStopped, Task, TaskTimeout, scope
from polls import Refused

pytestmark = pytest.mark.virtual_time
SEEDS = range(int(os.environ.get("ANYSCOPE_SOAK", "1")) * 150)


class World:
    """A poll with random functions and options, and who uses it.

    Args:
        seed: What is drawn from.

    Attributes:
        busy: Fetches and deliveries at work: at most one.
        may_deliver: Whether `on_value` may begin.
        starts: When fetches began.
        waiting: The tasks that wait for something.
    """

    poll: Poll[int]

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.busy = 0
        self.may_deliver = True
        self.starts: list[float] = []
        self.waiting: list[Task[Any]] = []
        self.number = 0

    # ------------------------------------------------------------------ its functions
    async def fetch(self) -> int:
        """Succeed, fail or hang, and take some time or none; perhaps stop and start the poll meanwhile."""
        assert self.busy == 0
        self.busy += 1
        self.starts.append(anyio.current_time())
        self.number += 1
        number = self.number
        try:
            kind = self.random.choice(["quick", "quick", "slow", "long", "shielded", "fail", "meddle"])
            if kind == "meddle":
                self.meddle()
            with anyio.CancelScope(shield=kind == "shielded"):
                await anyio.sleep({"quick": 0, "slow": 0.05, "long": 0.35, "shielded": 0.2}.get(kind, 0.01))
            if kind == "fail":
                raise Refused("no")
            return number
        finally:
            self.busy -= 1

    def deliver(self, value: int) -> Any:
        """Take a value, in time."""
        assert self.may_deliver, "a value after stop()"
        assert self.busy == 0
        assert value == self.poll.latest == self.number
        if self.random.random() < 0.1:
            self.meddle()
        return self.slowly() if self.random.random() < 0.3 else None

    async def slowly(self) -> None:
        """Take time."""
        self.busy += 1
        try:
            await anyio.sleep(self.random.choice([0, 0.02, 0.3]))
        finally:
            self.busy -= 1

    def meddle(self) -> None:
        """Do something to the poll."""
        self.random.choice([self.stop, self.start, self.poll.pause, self.poll.resume])()

    def stop(self) -> None:
        """Stop it: no value from now on."""
        self.poll.stop()
        self.may_deliver = False

    def start(self) -> None:
        """Start it."""
        self.may_deliver = True
        self.poll.start()

    # ------------------------------------------------------------------ who uses it
    async def wait(self, call: Callable[[], Any]) -> object:
        """Wait for something."""
        try:
            return await call()
        except (PollStopped, PollFailed, Refused, TaskTimeout) as error:
            return error

    async def read(self) -> list[int]:
        """Read all of it."""
        seen = [value async for value in self.poll]
        assert seen == sorted(set(seen))
        return seen

    def look(self) -> PollStatus:
        """Look at it: what holds at every moment."""
        status = self.poll.status()
        ended = status.success_count + status.error_count
        assert ended <= status.poll_count <= ended + 1 + self.cuts(status)
        assert status.running == (status.state in ("waiting", "polling", "paused"))
        assert status.state != "polling" or status.in_flight
        if status.state == "waiting" and not status.in_flight:
            assert status.time_until_next is not None
            assert 0 <= status.time_until_next <= 1.02
        else:
            assert status.time_until_next is None or (status.time_until_next, status.state) == (0, "paused")
        assert self.busy <= status.in_flight
        return status

    @staticmethod
    def cuts(status: PollStatus) -> int:
        """How many fetches may have been cut: any number."""
        return status.poll_count


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_orders(seed: int) -> None:
    """L1-L6: see the top."""
    random.seed(seed)  # for the jitter
    world = World(seed)
    draw = world.random
    async with scope(name="app") as s:
        poll = world.poll = s.poll(
            world.fetch,
            world.deliver,
            interval=draw.choice([0.1, lambda _: draw.choice([0.05, 0.1])]),
            every=draw.choice(["start", "end"]),
            missed=draw.choice(["skip", "run"]),
            immediate=draw.random() < 0.7,
            jitter=draw.choice([0, 0.02]),
            timeout=draw.choice([None, 0.2]),
            on_error=draw.choice(["continue", "continue", "stop"]),
            max_backoff=draw.choice([None, 0.2]),
        )
        for _ in range(40):
            order = draw.choice(
                ["stop", "start", "start", "pause", "resume", "sleep", "sleep", "wait", "wait", "cancel"]
            )
            if order == "wait":
                calls: list[Any] = [poll.trigger, poll.next, poll.wait_done, poll.aclose]
                weights = [6, 3, 1, 1]
                call = draw.choices(calls, weights)[0]
                if call == poll.aclose:
                    world.may_deliver = True  # it stops the poll at some time from now on
                world.waiting.append(s.task(world.read) if draw.random() < 0.3 else s.task(world.wait, call))
            elif order == "cancel" and world.waiting:
                draw.choice(world.waiting).cancel()
            elif order == "sleep":
                await anyio.sleep(draw.choice([0, 0.01, 0.1, 0.5]))
            elif order in ("stop", "start"):
                getattr(world, order)()
            elif order in ("pause", "resume"):
                getattr(poll, order)()
            world.look()
        world.start()
        poll.resume()
        with anyio.fail_after(30):
            answer = await world.wait(poll.trigger)
        assert isinstance(answer, (int, Refused, TaskTimeout, PollStopped, PollFailed))
        poll.stop()
        world.may_deliver = False
        with anyio.fail_after(30):
            for task in world.waiting:
                await task
            await poll.aclose()
    status = world.look()
    assert (status.running, status.in_flight, world.busy) == (False, False, 0)


@pytest.mark.parametrize("seed", range(40))
async def test_every_fetch_is_on_the_grid(seed: int) -> None:
    """L2: with fetches of any length; what is left out is counted, and nothing else."""
    draw = random.Random(seed)
    missed = draw.choice(["skip", "run"])
    starts: list[float] = []

    async def fetch() -> None:
        starts.append(anyio.current_time() - origin)
        await anyio.sleep(draw.choice([0, 0.01, 0.05, 0.1, 0.11, 0.25, 0.3, 0.99]))

    async with scope() as s:
        origin = anyio.current_time()
        poll = s.poll(fetch, interval=0.1, missed=missed)  # type: ignore[arg-type]
        await anyio.sleep(59.955)
        status = poll.status()
    ticks = [start / 0.1 for start in starts]
    if missed == "skip":
        assert all(abs(tick - round(tick)) < 1e-3 for tick in ticks)
    used = {int(tick + 1e-3) for tick in ticks}
    assert len(used) == len(ticks), "two fetches for one tick"
    assert status.skipped_ticks == int(ticks[-1] + 1e-3) + 1 - len(ticks)
