"""Fail where something has become much dearer: a handful of ratios against those that are kept in `guard.json`.

CI runs it as `nox -s guard`. Never absolute times: each ratio is ours to something bare, measured in turn. It must not
fail because a machine is busy, and must fail where ours costs 1.5 times what it did. So a ratio may be up to `SLACK`
times the one that is kept, and what is over that is measured again when all others have been, up to `TRIES` times: it
fails only if each try is over the bound. A busy machine makes some tries dearer, a regression all of them.

Another Python, or another version of what is bare, has other ratios. So those are kept too: the session installs what
was kept, and with another Python nothing is judged.

    python benchmarks/guard.py             judge
    python benchmarks/guard.py --keep      measure, and keep the ratios, after a change that is meant
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import core
import polls
import pools
import services
import streams
from common import Effort, Here, Table, leave_imports_alone, paired, run_on

if TYPE_CHECKING:
    from common import Maker

KEPT = Path(__file__).with_suffix(".json")
SLACK = 1.3
TRIES = 6
ROUNDS = 15
EFFORT = Effort(0.004, 0, ROUNDS, ROUNDS, is_quick=True)
BACKENDS = ("asyncio", "trio")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PEERS = ("anyio", "trio")
"""What is bare, where it is not the standard library."""


@dataclass
class Guard:
    """A ratio.

    Attributes:
        maker: Makes the table in which both are.
        tries: What was measured.
    """

    name: str
    maker: Maker
    ours: str
    bare: str
    backend: str = ""
    tries: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        """By what it is kept."""
        return f"{self.name}, {self.backend}"

    async def measure(self) -> None:
        """One try."""
        async with AsyncExitStack() as stack:
            here = Here(self.backend, EFFORT, stack)
            table = await self.maker(here)
            assert table is not None
            both = [case for case in table.cases if case.name in {self.ours, self.bare}]
            pair = Table(self.name, both)
            await pair.measure(here)
        self.tries.append(paired(pair.figures[self.ours], pair.figures[self.bare]))


GUARDS = [
    Guard("s.task to a bare spawn", core.one_by_one, "await s.task(f)", core.BARE),
    Guard("s.run to a bare spawn", core.one_by_one, "await s.run(f)", core.BARE),
    Guard("parallel to a plain loop", core.many_jobs, core.OURS, core.LOOP),
    Guard("empty scope to an empty group", core.empty, "empty scope", "empty AnyIO task group"),
    Guard("pool alone to a semaphore with fail_after", pools.single, pools.Ours.name, pools.Limited.name),
    Guard("pool contended to a semaphore with fail_after", pools.many, pools.Ours.name, pools.Limited.name),
    Guard("poll to a loop and a sleep", polls.cycle, "s.poll", polls.LOOP),
    Guard("stream to a bare async for", streams.pass_through, "s.stream", "async for"),
    Guard(
        "concurrent map to a task group with a semaphore",
        streams.concurrent_map,
        "s.stream ordered",
        "task group and semaphore, no results",
    ),
    Guard("service to a dict", services.look_ups, services.TWO_UP, services.BARE),
]


def all_of(backend: str) -> list[Guard]:
    """Each, on one backend."""
    return [Guard(g.name, g.maker, g.ours, g.bare, backend) for g in GUARDS]


def keep(backend: str) -> None:
    """Measure everything a few times, and keep the medians: now and then the lowest is far too low."""
    guards = all_of(backend)
    for _ in range(TRIES):
        for guard in guards:
            run_on(backend, guard.measure)
    ratios = {guard.key: round(median(guard.tries), 3) for guard in guards}
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {"ratios": {}}
    measured = {"python": PYTHON, "versions": {name: metadata.version(name) for name in PEERS}}
    if any(kept.get(key) != value for key, value in measured.items()):
        kept["ratios"] = {}  # they are those of something else
    kept = {**measured, "ratios": {**kept["ratios"], **ratios}}
    KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(f"{len(ratios)} ratios are kept")


def judge(backend: str) -> int:
    """Measure until each has been within its bound once, or often enough; returns the exit code."""
    file = json.loads(KEPT.read_text(encoding="utf-8"))
    if file["python"] != PYTHON:
        print(f"guard: nothing is judged, for the ratios were kept with Python {file['python']}, and this is {PYTHON}")
        return 0
    kept: dict[str, float] = file["ratios"]
    guards, began = all_of(backend), time.monotonic()
    over = guards
    for _ in range(TRIES):
        for guard in over:
            run_on(backend, guard.measure)
        over = [guard for guard in over if min(guard.tries) > kept[guard.key] * SLACK]
    for guard in guards:
        tries = ", ".join(f"{value:.2f}" for value in guard.tries)
        verdict = "OVER ITS BOUND" if guard in over else "within"
        print(f"{guard.key:58}{tries:>6} (kept {kept[guard.key]:.2f}, bound {kept[guard.key] * SLACK:.2f}): {verdict}")
    took = time.monotonic() - began
    print(f"guard: {len(guards) - len(over)} of {len(guards)} ratios are within their bounds, after {took:.0f} seconds")
    return 1 if over else 0


def main() -> int:
    """The command line. Each backend has a process of its own: where Trio is loaded, asyncio is slower."""
    parser = argparse.ArgumentParser(description="Hold ratios to bounds.")
    parser.add_argument("--keep", action="store_true", help="measure, and keep what is measured")
    parser.add_argument("--backend", choices=BACKENDS, help="only this one")
    options = parser.parse_args()
    if options.backend is None:
        commands = [[sys.executable, *sys.argv, "--backend", backend] for backend in BACKENDS]
        return max(subprocess.run(command, check=False).returncode for command in commands)
    leave_imports_alone()
    if options.keep:
        keep(options.backend)
        return 0
    return judge(options.backend)


if __name__ == "__main__":
    sys.exit(main())
