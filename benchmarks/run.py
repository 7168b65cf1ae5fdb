"""Run all benchmarks, print their tables and the verdicts on the targets, and write the page of the documentation.

    nox -s benchmarks                                   everything, about a quarter of an hour
    nox -s benchmarks -- --quick                        smaller, under two minutes
    nox -s benchmarks -- --write docs/benchmarks.md     the page

Each area (`core.py`, `services.py` and so on) is measured on each backend by a process of its own, several times; what
is near a bound is measured by some more. How a figure comes about is told in `common.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import report
from common import PEERS, Measured, available, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common import Area

NAMES = ("core", "services", "pools", "polls", "streams")
TRIES, MORE = 3, 2
"""Processes for each area and backend, and some more for what is near a bound."""


class Runner:
    """Runs areas in processes of their own, one after the other.

    Attributes:
        went_well: Whether all of them ended well.
    """

    def __init__(self, *, is_quick: bool) -> None:
        self.is_quick = is_quick
        self.found: list[Measured] = []
        self.went_well = True

    def measure(self, area: str, backend: str, number: int, only: list[str]) -> None:
        """One try. Its number is the seed of hashes, so that a second run has the same ones."""
        command = [sys.executable, str(Path(__file__).with_name(f"{area}.py")), "--child", backend]
        command += ["--quick"] * self.is_quick + ["--later"] * (number > 1)
        command += [word for title in only for word in ("--only", title)]
        began = time.monotonic()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": str(number)}
        )
        self.found += [Measured.read(line) for line in done.stdout.splitlines() if line.startswith("{")]
        self.went_well = self.went_well and done.returncode == 0
        print(f"{area} on {backend}, try {number}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def near(self, areas: list[str], backends: list[str]) -> Iterator[tuple[str, str, list[str]]]:
        """What should be measured again: area, backend, titles."""
        tables = report.join(self.found)
        for area in areas:
            for backend in backends:
                titles = [table.of.title for table in tables if table.of.area == area and table.is_near(backend)]
                if titles:
                    yield area, backend, titles

    def run(self, areas: list[str], backends: list[str], only: list[str], tries: int) -> None:
        """All tries, so that those of one area are far apart."""
        for number in range(1, tries + 1):
            for area in areas:
                for backend in backends:
                    self.measure(area, backend, number, only)
        if self.is_quick:
            return
        again = list(self.near(areas, backends))
        for number in range(tries + 1, tries + MORE + 1):
            for area, backend, titles in again:
                self.measure(area, backend, number, titles)


def area_of(name: str) -> Area:
    """What a module says about itself."""
    area: Area = import_module(name).AREA
    return area


def main_of_areas(areas: list[str], *, only: list[str], is_quick: bool) -> int:
    """Measure some areas and print them; for a module that is run by itself."""
    return measure_and_tell(areas, available(), only, is_quick=is_quick, tries=1, write=None)


def measure_and_tell(
    areas: list[str], backends: list[str], only: list[str], *, is_quick: bool, tries: int, write: Path | None
) -> int:
    """Do all of it; returns the exit code."""
    runner, began = Runner(is_quick=is_quick), time.monotonic()
    print(versions(PEERS))
    runner.run(areas, backends, only, tries)
    tables = report.join(runner.found)
    for area in areas:
        print(f"\n{report.area_text(area, area_of(area).about, tables)}")
    verdicts = report.verdicts_of(tables)
    if verdicts:
        print(f"\n{report.targets_text(verdicts)}")
    took = time.monotonic() - began
    print(f"\nin {took:.0f} seconds")
    if only and not runner.found:
        print(f"no table is called {' or '.join(map(repr, only))}: give a whole title", file=sys.stderr)
        return 1
    if not runner.went_well:
        print("some of it failed, see above", file=sys.stderr)
        return 1
    if write is not None:
        processes = f"{tries} processes" if tries > 1 else "one process"
        how = (
            f"By {processes} for each area and backend, in {took / 60:.1f} minutes"
            + ", with `--quick`" * is_quick
            + "."
        )
        write.write_text(report.page({name: area_of(name).about for name in areas}, tables, how=how), encoding="utf-8")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="All benchmarks, and the verdicts on the targets.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes, no second try")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write a Markdown page")
    parser.add_argument("--area", action="append", choices=NAMES, help="only this one")
    parser.add_argument("--backend", action="append", choices=available(), help="only this one")
    parser.add_argument("--only", action="append", default=[], metavar="TITLE", help="only the table with this title")
    parser.add_argument("--tries", type=int, help=f"processes for each area and backend; by default {TRIES}, or 1")
    options = parser.parse_args()
    return measure_and_tell(
        options.area or list(NAMES),
        options.backend or available(),
        options.only,
        is_quick=options.quick,
        tries=options.tries or (1 if options.quick else TRIES),
        write=options.write,
    )


if __name__ == "__main__":
    sys.exit(main())
