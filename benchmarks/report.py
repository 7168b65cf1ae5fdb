"""What was measured, as text: tables, the targets with their verdicts, and the page of the documentation."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from common import BACKENDS, PEERS, paired, versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from common import Measured, Target

TITLES = {"asyncio": "asyncio", "uvloop": "uvloop", "trio": "Trio"}
NEAR, NEAR_ALONE = 0.1, 0.25
"""A part of the bound: a figure that is not further from it is measured again. The second is for one process' word."""

INTRO = """\
This page is written by `nox -s benchmarks -- --write docs/benchmarks.md`; nothing below these paragraphs is typed by
hand.

Read the ratios: microseconds are those of one machine, ratios carry over to others. `1.77 us (1.75 .. 1.82) 16.1x` is
the median of all rounds, the tenth and the ninetieth percentile, and how many times as much it is as the first row.
Figures are CPU time, unless a title says wall time, or another unit is given. All of it runs on one event loop, so wall
time is the same on a machine that has nothing else to do.

How a second run comes to the same verdicts, also where a figure is near its bound and the machine is shared:

- The cases of a table take turns, there and back, in many short rounds. Figures are compared within a round only, so
  what slows the machine down slows both of them; a ratio is the median of the ratios of the rounds.
- Each area is measured on each backend by several processes, one after the other and minutes apart, for the layout of
  memory moves a figure by some percent from process to process; growth by one process, for it takes long. A ratio is
  the median of the ratios of the processes.
- Where that is within 10 % of a bound the table is measured by more processes; where only one process has measured it,
  within 25 %, and whatever is not met. `(1.18 .. 1.23)` beside a verdict
  are the lowest and the highest of the processes.
- A process that measures asyncio or uvloop does not load Trio, with which AnyIO and anyscope are slower there, since
  they have to ask which of the two it is.
- What can be counted (memory blocks, uses for each task) is counted, once.

The targets are those of the project's issues 2 (core), 3 (services), 5 (pools), 6 (streams) and 7 (growth, and stretch
goals). `flat` means that at no size one of many costs more than so many times what one of fewer costs. `nox -s guard`,
which CI runs, holds some of the ratios to bounds that leave room for noise.
"""


# ------------------------------------------------------------------ what was measured, put together
@dataclass
class Joined:
    """One table: by backend what each process measured.

    Attributes:
        of: What the first process said about the table.
    """

    of: Measured
    tries: dict[str, list[Measured]] = field(default_factory=dict)

    @property
    def backends(self) -> list[str]:
        """Where it was measured."""
        return [backend for backend in BACKENDS if backend in self.tries]

    def values(self, target: Target, backend: str) -> list[float]:
        """What each process says of a target."""
        found = [target.value(measured.figures) for measured in self.tries.get(backend, [])]
        return [value for value in found if value is not None]

    def is_near(self, backend: str) -> bool:
        """Whether a target's value is near the bound, or over it, and only one process says so."""
        if self.of.is_once:
            return False
        values = [(target, self.values(target, backend)) for target in self.of.targets]
        return any(_is_near(target, found) for target, found in values if found)

    def cell(self, name: str, backend: str) -> str:
        """What one case costs."""
        tries = [measured.figures for measured in self.tries[backend] if name in measured.figures]
        if not tries:
            return self.tries[backend][0].absent.get(name, "") or "-"
        values = [value for figures in tries for value in figures[name]]
        ratio = ""
        if self.of.is_ratio and (first := self.of.names[0]) in tries[0]:
            ratio = f" {ratio_text(median(paired(figures[name], figures[first]) for figures in tries))}"
        return f"{figure_text(median(values))} {self.of.unit} {spread_text(values)}".rstrip() + ratio

    def rows(self) -> Iterator[list[str]]:
        """The table."""
        yield ["", *(TITLES[backend] for backend in self.backends)]
        for name in self.of.names:
            yield [name, *(self.cell(name, backend) for backend in self.backends)]


def _is_near(target: Target, found: list[float]) -> bool:
    value = median(found)
    if len(found) > 1:
        return target.distance(value) < NEAR
    return target.distance(value) < NEAR_ALONE or not target.is_met(value)


def figure_text(value: float, *, is_fine: bool = False) -> str:
    """Three digits; below one two of them, unless it is to be compared with a bound."""
    if is_fine and abs(value) < 1:
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio_text(value: float) -> str:
    """The same of a ratio."""
    return f"{figure_text(value)}x"


def spread_text(values: list[float]) -> str:
    """Most of them, if there are several."""
    if len(values) < 2:
        return ""
    tenths = quantiles(values, n=10, method="inclusive")
    return f"({figure_text(tenths[0])} .. {figure_text(tenths[-1])})"


def join(found: Iterable[Measured]) -> list[Joined]:
    """Put together what several processes measured of one table."""
    tables: dict[tuple[str, str], Joined] = {}
    for measured in found:
        table = tables.setdefault((measured.area, measured.title), Joined(measured))
        table.tries.setdefault(measured.backend, []).append(measured)
    return list(tables.values())


# ------------------------------------------------------------------ targets
@dataclass
class Verdict:
    """Whether a target is met, by backend; where there is nothing to compare with, it has none."""

    table: Joined
    target: Target

    @property
    def values(self) -> dict[str, list[float]]:
        """By backend, what each process says."""
        found = {backend: self.table.values(self.target, backend) for backend in self.table.backends}
        return {backend: values for backend, values in found.items() if values}

    def is_met(self, backend: str) -> bool:
        """Whether it is met there."""
        return self.target.is_met(median(self.values[backend]))

    @property
    def missed(self) -> list[str]:
        """Where it is not met."""
        return [backend for backend in self.values if not self.is_met(backend)]

    def cell(self, backend: str) -> str:
        """The value and the verdict."""
        if backend not in self.values:
            return "-"
        values = self.values[backend]
        unit = {"ratio": "x", "flat": "x", "more": " us"}.get(self.target.kind, f" {self.table.of.unit}".rstrip())
        text = partial(figure_text, is_fine=self.target.kind == "ratio")
        spread = f" ({text(min(values))} .. {text(max(values))})" if len(values) > 1 else ""
        return f"{'met' if self.is_met(backend) else '**NOT met**'}: {text(median(values))}{unit}{spread}"

    @property
    def what(self) -> str:
        """Which table and case."""
        return f"{self.table.of.title}: {self.target.one}".removesuffix(": ")

    @property
    def bound(self) -> str:
        """What is to be reached."""
        unit = self.table.of.unit if self.target.kind in {"most", "least"} else ""
        return f"{self.target.bound_text} {unit}".rstrip()

    def row(self, backends: Iterable[str]) -> list[str]:
        """A line of the table of targets."""
        return [self.target.issue, self.what, self.bound, *(self.cell(backend) for backend in backends)]


def verdicts_of(tables: Iterable[Joined]) -> list[Verdict]:
    """All of them, in the order of the issues."""
    found = [Verdict(table, target) for table in tables for target in table.of.targets]
    return sorted((each for each in found if each.values), key=lambda verdict: verdict.target.issue)


def summary(verdicts: list[Verdict]) -> str:
    """How many are met."""
    all_of_them = [(verdict, backend) for verdict in verdicts for backend in verdict.values]
    stretch = [(verdict, backend) for verdict, backend in all_of_them if "stretch" in verdict.target.issue]
    firm = [each for each in all_of_them if each not in stretch]
    met, met_stretch = (sum(verdict.is_met(backend) for verdict, backend in part) for part in (firm, stretch))
    return (
        f"{met} of {len(firm)} targets are met, each backend counted by itself, and {met_stretch} of {len(stretch)} "
        "stretch goals."
    )


def reasons(verdicts: list[Verdict]) -> Iterator[str]:
    """Why the others are not."""
    for verdict in verdicts:
        if verdict.missed:
            where = ", ".join(TITLES[backend] for backend in verdict.missed)
            reason = verdict.target.reason or "no reason is known: it is open"
            yield f"- **{verdict.what}, {verdict.bound}** ({where}): {reason}."


# ------------------------------------------------------------------ Markdown
def table_text(rows: Iterable[list[str]]) -> str:
    """A table that reads well as it is."""
    lines = list(rows)
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def area_text(name: str, about: str, tables: Iterable[Joined]) -> str:
    """The tables of one area."""
    parts = [f"## {name.capitalize()}", about]
    for table in tables:
        if table.of.area == name:
            parts += [f"### {table.of.title[0].upper()}{table.of.title[1:]}", table_text(table.rows())]
    return "\n\n".join(parts)


def targets_text(verdicts: list[Verdict]) -> str:
    """The targets, and why some are not met."""
    backends = [backend for backend in BACKENDS if any(backend in verdict.values for verdict in verdicts)]
    head = ["issue", "what", "to reach", *(TITLES[backend] for backend in backends)]
    parts = ["## Targets", summary(verdicts)]
    parts.append(table_text([head, *(verdict.row(backends) for verdict in verdicts)]))
    if missed := list(reasons(verdicts)):
        parts += ["### What is not met, and why", "\n".join(missed)]
    return "\n\n".join(parts)


def page(areas: dict[str, str], tables: list[Joined], *, how: str) -> str:
    """The page of the documentation."""
    parts = ["# Benchmarks", INTRO.strip(), f"{machine()} {how}", targets_text(verdicts_of(tables))]
    parts += [area_text(name, about, tables) for name, about in areas.items()]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------ the machine
def machine() -> str:
    """What it was measured on and with: the model of the processor, and no name."""
    today = datetime.now(timezone.utc).date().isoformat()
    return f"Measured on {today}, on {os.cpu_count()} cores ({processor()}), {platform.system()}: {versions(PEERS)}."


def processor() -> str:
    """What the operating system calls it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        lines = (line.partition(":") for line in listed.read_text().splitlines())
        names = [value.strip() for name, _, value in lines if name.strip() == "model name"]
        if names:
            return names[0]
    return platform.processor() or platform.machine() or sys.platform
