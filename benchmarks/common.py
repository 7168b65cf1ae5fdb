"""What the benchmarks share: candidates that take turns, tables of what they cost, targets, and the command line.

A module of an area (`core.py`, `pools.py` and so on) gives functions that make tables. A *table* has *cases* that do
the same in different ways, and *targets*, which are data: a case, what it is compared with, a bound, and the reason if
the bound cannot be kept. In a *round* each case is measured once, so that a machine that gets slower gets slower for
all of them. How often a case repeats its work within a round is found out first, so that each takes about as long as
any other.

Figures are compared within a round only: the ratio of two cases is the median of the ratios of the rounds. Ratios can
be compared between machines, microseconds cannot.

A round measures CPU time (`time.process_time`) and wall time. What is measured by a case itself, such as memory, is
what its work returns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import platform
import sys
import time
import traceback
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Work = Callable[[], Awaitable[object]]
    Opened = Callable[[int], AbstractAsyncContextManager[Work]]
    Pause = Callable[[], Awaitable[object]]

BACKENDS = ("asyncio", "uvloop", "trio")
PEERS = ("uvloop", "aiometer", "aiostream", "streamable", "asyncstdlib", "svcs", "dishka", "wireup", "that-depends")
PEERS += ("psycopg-pool", "asyncpg", "SQLAlchemy")


def versions(names: Iterable[str]) -> str:
    """What was measured with what."""
    found = [_version_of(name) for name in ("anyscope", "anyio", "trio", *names)]
    return f"{platform.python_implementation()} {platform.python_version()}, {', '.join(found)}"


def _version_of(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} {'as it is here' if name == 'anyscope' else 'not installed'}"


def optional(name: str) -> Any:
    """A module that may not be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# ------------------------------------------------------------------ how long
@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        slice: Seconds that one case is measured in one round.
        seconds: How long the rounds of a table go on.
        least: So many rounds at least.
        most: And at most.
        is_quick: Whether the largest sizes are left out.
    """

    slice: float
    seconds: float
    least: int
    most: int
    is_quick: bool = False

    def sizes(self, *sizes: int) -> tuple[int, ...]:
        """Those that are measured."""
        return sizes[:-1] if self.is_quick else sizes


FULL = Effort(0.01, 1.2, 3, 50)
QUICK = Effort(0.002, 0.3, 3, 9, is_quick=True)


@dataclass
class Here:
    """Where a table is measured.

    Attributes:
        stack: What is opened for the table is closed with it.
    """

    backend: str
    effort: Effort
    stack: AsyncExitStack

    @property
    def is_trio(self) -> bool:
        """Whether what needs asyncio is left out."""
        return self.backend == "trio"

    @property
    def pause(self) -> Pause:
        """A checkpoint of the backend itself."""
        if self.is_trio:
            pause: Pause = importlib.import_module("trio").lowlevel.checkpoint
            return pause
        return partial(asyncio.sleep, 0)


# ------------------------------------------------------------------ cases
@dataclass
class Case:
    """A candidate.

    Attributes:
        opened: Gives, for a number of repeats, a block in which there is the work to be measured.
        per: Operations in one repeat; figures are for one operation.
        least: Repeats at least.
        needs: The backend that it needs, if it does: "asyncio" (or uvloop) or "trio".
        is_here: Whether what it needs is installed.
        repeats: How often the work is repeated, once that is known.
    """

    name: str
    opened: Opened
    per: int = 1
    least: int = 1
    needs: str = ""
    is_here: bool = True
    repeats: int = 0

    @classmethod
    def of(cls, name: str, run: Callable[[int], Awaitable[object]], **options: Any) -> Case:
        """A case that needs nothing to be opened, and is told the number of repeats."""
        return cls(name, lambda repeats: nullcontext(partial(run, repeats)), **options)

    @classmethod
    def each(cls, name: str, once: Callable[[], Awaitable[object]], **options: Any) -> Case:
        """A case that is called again and again."""
        return cls.of(name, partial(_repeated, once), **options)

    def absent(self, backend: str) -> str:
        """Why it cannot run here, or nothing."""
        if self.needs and (self.needs == "trio") != (backend == "trio"):
            return "-"
        return "" if self.is_here else "not installed"

    async def measure(self, repeats: int) -> Cost:
        """Do it so many times."""
        async with self.opened(repeats) as work:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            figure = await work()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        scale = 1e6 / (repeats * self.per)
        return Cost(cpu * scale, wall * scale, figure if isinstance(figure, float) else 0.0)

    async def settle(self, seconds: float) -> None:
        """Find out how many repeats take so long; that also warms it up."""
        self.repeats = self.least
        while True:
            took = (await self.measure(self.repeats)).cpu * self.repeats * self.per / 1e6
            if took >= seconds / 2:
                break
            self.repeats = min(self.repeats * 100, int(self.repeats * seconds / max(took, 1e-9)) + 1)


async def _repeated(once: Callable[[], Awaitable[object]], repeats: int) -> None:
    for _ in range(repeats):
        await once()


@dataclass(frozen=True)
class Cost:
    """Of one operation: microseconds of CPU time, of wall time, and what the work returned."""

    cpu: float
    wall: float
    figure: float


# ------------------------------------------------------------------ targets
Kind = Literal["ratio", "more", "most", "least", "flat"]
WORDS: dict[Kind, str] = {"ratio": "x", "more": " us more", "most": "", "least": "", "flat": "x"}


@dataclass
class Target:
    """What is to be reached.

    Attributes:
        issue: Who asks for it.
        one: The case.
        kind: What is compared with the bound: the `ratio` to another case, how much `more` it costs, its figure, which
            is the `most` or the `least` that it may be, or for a list of sizes, `one` being what their names begin
            with, how much dearer a size is than any smaller one (`flat`).
        reason: Why it is not met, where that is known. It is shown only then.
    """

    issue: str
    one: str
    bound: float
    other: str = ""
    kind: Kind = "ratio"
    reason: str = ""

    @property
    def bound_text(self) -> str:
        """The bound, in words."""
        if self.kind == "flat":
            return f"flat, <= {self.bound:g}x"
        sign = {"more": "<", "least": ">="}.get(self.kind, "<=")
        return f"{sign} {self.bound:.3g}{WORDS[self.kind]}" + (f" of {self.other}" if self.other else "")

    def value(self, figures: dict[str, list[float]]) -> float | None:
        """What was reached by one process, or nothing where one of the two does not run."""
        if self.kind == "flat":
            return self._growth([values for name, values in figures.items() if name.startswith(self.one)])
        one, other = figures.get(self.one), figures.get(self.other)
        if one is None or (self.other and other is None):
            return None
        if self.kind == "ratio":
            return paired(one, other or [])
        if self.kind == "more":
            return median(a - b for a, b in zip(one, other or [], strict=True))
        return median(one)

    @staticmethod
    def _growth(sizes: list[list[float]]) -> float | None:
        """How much dearer than a smaller one."""
        pairs = [(small, large) for index, small in enumerate(sizes) for large in sizes[index + 1 :]]
        return max((paired(large, small) for small, large in pairs), default=None)

    def is_met(self, value: float) -> bool:
        """Whether that is enough."""
        return value >= self.bound if self.kind == "least" else value <= self.bound

    def distance(self, value: float) -> float:
        """How far from the bound, as a part of it."""
        return abs(value / self.bound - 1)


def paired(one: list[float], other: list[float]) -> float:
    """How many times as much the one costs: the median of the ratios of the rounds."""
    return median(a / b if b else float(a > 0) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------ tables
@dataclass
class Table:
    """Cases that take turns, the first of which is what the others are compared with.

    Attributes:
        shows: What its figures are: CPU time, wall time, or what the work returns.
        unit: Of its figures.
        is_ratio: Whether the ratio to the first case says something.
        patience: How many times as long as others it is measured.
        is_once: Whether it is exact enough to be measured by one process, once.
    """

    title: str
    cases: list[Case]
    targets: list[Target] = field(default_factory=list)
    shows: Literal["cpu", "wall", "figure"] = "cpu"
    unit: str = "us"
    is_ratio: bool = True
    patience: float = 1
    is_once: bool = False
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_slow(self) -> bool:
        """Whether one process is enough, unless a figure is near its bound: large sizes take their time."""
        return any(target.kind == "flat" for target in self.targets)

    SCALES: ClassVar[dict[str, float]] = {"ms": 1e-3}

    async def measure(self, here: Here) -> None:
        """Take turns, there and back, as long as there is time."""
        cases = [case for case in self.cases if not case.absent(here.backend)]
        self.figures = {case.name: [] for case in cases}  # in their order, whoever comes first
        if self.is_once:
            for case in cases:
                self._note(case, await case.measure(case.least))
            return
        for case in cases:
            await (case.settle(here.effort.slice) if self.shows == "cpu" else self._settle_once(case))
        effort, turn = here.effort, 0
        until = time.perf_counter() + effort.seconds * self.patience
        while turn < effort.least or (time.perf_counter() < until and turn < effort.most * self.patience):
            for case in cases if turn % 2 else reversed(cases):
                self._note(case, await case.measure(case.repeats))
            turn += 1

    @staticmethod
    async def _settle_once(case: Case) -> None:
        """Do not look at how long it takes, only warm it up."""
        case.repeats = case.least
        await case.measure(case.repeats)

    def _note(self, case: Case, cost: Cost) -> None:
        value: float = getattr(cost, self.shows)
        if self.shows != "figure":
            value *= self.SCALES.get(self.unit, 1)
        self.figures[case.name].append(value)


@dataclass
class Measured:
    """A table as it was measured by one process on one backend, in a form that can be written as JSON.

    Attributes:
        absent: Why a case has no figures, by name.
    """

    area: str
    backend: str
    title: str
    unit: str
    names: list[str]
    figures: dict[str, list[float]]
    absent: dict[str, str]
    targets: list[Target]
    is_ratio: bool = True
    is_once: bool = False

    @classmethod
    def of(cls, area: str, here: Here, table: Table) -> Measured:
        """Take what is worth keeping."""
        return cls(
            area, here.backend, table.title, table.unit, [case.name for case in table.cases], table.figures,
            {case.name: case.absent(here.backend) for case in table.cases}, table.targets, table.is_ratio,
            table.is_once,
        )  # fmt: skip

    @classmethod
    def read(cls, line: str) -> Measured:
        """The opposite of `write`."""
        data = json.loads(line)
        data["targets"] = [Target(**target) for target in data["targets"]]
        return cls(**data)

    def write(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


# ------------------------------------------------------------------ areas
if TYPE_CHECKING:
    Maker = Callable[[Here], Awaitable[Table | None]]


@dataclass
class Area:
    """Tables that belong together.

    Attributes:
        makers: What makes a table, in order.
    """

    name: str
    about: str
    makers: list[Maker]

    async def measure(self, backend: str, effort: Effort, only: set[str], *, is_first: bool) -> bool:
        """Print each table as it is measured; True if all went well."""
        went_well = True
        for maker in self.makers:
            try:
                await self._measure(maker, backend, effort, only, is_first=is_first)
            except Exception:  # noqa: PERF203  the others are measured still
                went_well = False
                traceback.print_exc()
        return went_well

    async def _measure(self, maker: Maker, backend: str, effort: Effort, only: set[str], *, is_first: bool) -> None:
        async with AsyncExitStack() as stack:
            here = Here(backend, effort, stack)
            table = await maker(here)
            if table is None or (only and table.title.lower() not in only):
                return
            if not is_first and (table.is_once or (table.is_slow and not only)):
                return
            await table.measure(here)
            print(Measured.of(self.name, here, table).write(), flush=True)


def leave_imports_alone() -> None:
    """Keep the collector away from what the imports have made.

    A walk through all of that would empty the caches of the processor before each measurement, which costs most where
    most code is run.
    """
    gc.collect()
    gc.freeze()


def run_on(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run it; uvloop is a backend here."""
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    return anyio.run(main, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


def available() -> list[str]:
    """The backends that can be had here."""
    return [backend for backend in BACKENDS if backend == "asyncio" or find_spec(backend)]


def main_of(area: Area) -> None:
    """What the module of an area does: measure it, and print its tables or, for `run.py`, their figures."""
    parser = argparse.ArgumentParser(description=area.about)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--only", action="append", default=[], help="the title of a table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--later", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        run = importlib.import_module("run")
        sys.exit(run.main_of_areas([area.name], only=options.only, is_quick=options.quick))
    leave_imports_alone()
    effort = QUICK if options.quick else FULL
    work = partial(area.measure, options.child, effort, set(map(str.lower, options.only)), is_first=not options.later)
    sys.exit(not run_on(options.child, work))
