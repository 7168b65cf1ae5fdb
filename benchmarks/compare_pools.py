"""What pools do when a task is cancelled: the table of docs/pools-compared.md.

Run it with `python benchmarks/compare_pools.py` where the peers are installed. Each has one resource, a stub. All of it
is `Task.cancel()`, tried at each of the first turns of the loop; on asyncio only, which the peers need.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pools
from common import versions
from pools import Ours, candidates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pools import Candidate

TURNS = 8
"""Turns of the loop after which the cancellation is tried, from 0 on."""


class Counting:
    """Counts the creations that were begun and those that came to an end."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def watch(self, pool: Candidate) -> None:
        """Count from now on."""
        pause = pool.pause

        async def counted() -> None:
            self.begun += 1
            await pause()
            self.ended += 1

        pool.pause = counted  # type: ignore[method-assign]


async def turns(count: int) -> None:
    """Let so many turns of the loop go by."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcome(task: asyncio.Task[None]) -> str:
    """What became of a task that was cancelled."""
    await asyncio.wait([task], timeout=2)
    if not task.done():
        return "hangs"
    if task.cancelled():
        return "cancelled"
    return "swallowed" if task.exception() is None else f"{type(task.exception()).__name__}"


async def serves(pool: Candidate) -> str:
    """Whether its one resource can be had still."""
    try:
        await asyncio.wait_for(pool.use(0), 1)
    except Exception:
        return "lost"
    return "kept"


async def while_waiting(pool: Candidate, _: Counting, after: int) -> str:
    """Somebody else has it."""
    held = asyncio.Event()
    holder = asyncio.ensure_future(hold(pool, held))
    await turns(3 * TURNS)
    victim = asyncio.ensure_future(pool.use(0))
    await turns(1 + after)
    victim.cancel()
    ended = await outcome(victim)
    held.set()
    await holder
    return f"{ended}, {await serves(pool)}"


async def hold(pool: Candidate, until: asyncio.Event) -> None:
    """Use it until somebody says so."""
    resource = await pool.get()
    await until.wait()
    await pool.put(resource)


async def after_the_hand_off(pool: Candidate, _: Counting, after: int) -> str:
    """It is given back while the victim waits, who is cancelled so many turns later."""
    held = asyncio.Event()
    holder = asyncio.ensure_future(hold(pool, held))
    await turns(3 * TURNS)
    victim = asyncio.ensure_future(pool.use(10))
    await turns(3 * TURNS)
    held.set()
    await turns(after)
    victim.cancel()
    ended = await outcome(victim)
    await holder
    return f"{ended}, {await serves(pool)}"


async def while_giving_back(pool: Candidate, _: Counting, after: int) -> str:
    """The victim gives it back, and rests."""

    async def give_back() -> None:
        resource = await pool.get()
        asyncio.get_running_loop().call_soon(strike, after)
        await pool.put(resource)
        await asyncio.sleep(10)

    def strike(left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(strike, left - 1)
        else:
            victim.cancel()

    victim = asyncio.ensure_future(give_back())
    return f"{await outcome(victim)}, {await serves(pool)}"


async def while_creating(pool: Candidate, count: Counting, after: int) -> str:
    """The victim is the one for whom it is made, which takes 30 ms."""
    victim = asyncio.ensure_future(pool.use(0))
    await asyncio.sleep(0.01)
    await turns(after)
    victim.cancel()
    ended = await outcome(victim)
    served = await serves(pool)
    how = "creation goes on" if count.begun == count.ended else "creation is cut short"
    return f"{ended}, {how}, {served}"


CASES: dict[str, tuple[Callable[[Candidate, Counting, int], Awaitable[str]], bool]] = {
    "while waiting": (while_waiting, True),
    "just after the hand-off": (after_the_hand_off, True),
    "while one is created for it": (while_creating, False),
    "while giving it back": (while_giving_back, True),
}


async def tried(kind: type[Candidate], case: str) -> str:
    """All that happens in a case, whenever the cancellation comes."""
    found: list[str] = []
    run, is_full = CASES[case]
    for after in range(TURNS):
        async with AsyncExitStack() as stack:
            pool, count = kind(0 if is_full else pools.CREATE, is_full=is_full), Counting()
            count.watch(pool)
            await pool.open(stack)
            found.append(await run(pool, count, after))
    return "; ".join(dict.fromkeys(found))


async def main() -> None:
    """Print the table."""
    pools.RESOURCES = 1
    print(versions(("psycopg-pool", "asyncpg", "SQLAlchemy")))
    kinds = [kind for kind in candidates("asyncio") if kind is Ours or kind.get is not pools.Candidate.get]
    print("| cancelled |", " | ".join(kind.name for kind in kinds), "|")
    print("|---" * (len(kinds) + 1) + "|")
    for case in CASES:
        print(f"| {case} |", " | ".join([await tried(kind, case) for kind in kinds]), "|")


if __name__ == "__main__":
    asyncio.run(main())
