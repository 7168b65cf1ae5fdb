"""What many runs of a scenario give: a report of those that held, or the one that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._schedules import FIFO
from .simulation import name_of_scenario

if TYPE_CHECKING:
    from ._case import Case
    from .simulation import Run, Scenario


class Report:
    """What a sweep did; it found nothing, or it would have raised.

    Args:
        scenario: What was run.

    Attributes:
        scenario: The same.
        runs: How many runs there were.
        struck: How many of these were struck.
        places: Where the victim stood then.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario: Scenario = scenario
        self.runs: int = 0
        self.struck: int = 0
        self.places: set[str] = set()

    def __repr__(self) -> str:
        places = f"{len(self.places)} place{'s' if len(self.places) != 1 else ''}"
        runs = f"{self.runs} run{'s' if self.runs != 1 else ''}"
        struck = f"{self.struck} struck at {places}" if self.struck else "none struck"
        return f"<Report of {name_of_scenario(self.scenario)}: {runs}, {struck}>"

    def add(self, other: Report) -> None:
        """Count another report's runs too.

        Args:
            other: The other one.
        """
        self.runs += other.runs
        self.struck += other.struck
        self.places |= other.places


@dataclass(frozen=True, eq=False)
class Failure:
    """One run that failed.

    Attributes:
        scenario: What was run.
        case: How: the same case fails again.
        place: Where the victim stood when it was struck; empty if it was not.
        error: What went wrong.
        choices: How many times there was a choice of who goes next.
    """

    scenario: Scenario
    case: Case
    place: str
    error: BaseException
    choices: int

    def __str__(self) -> str:
        name = name_of_scenario(self.scenario)
        lines = [f"{name} failed on {self.case.backend}, {_blow(self.case, self.place)}:"]
        lines += [f"  {type(leaf).__name__}: {leaf}".replace("\n", "\n  ") for leaf in leaves(self.error)]
        lines += [f"{_order(self.case, self.choices)}", f'Again: replay({name}, "{self.case}")']
        return "\n".join(lines)


class SimulationFailed(AssertionError):
    """A run of a scenario failed; the text says how, and how to run it again.

    Args:
        failure: The run, made as small as it could be.
        runs: How many runs it took to find it.

    Attributes:
        failure: The same.
        runs: The same.
    """

    def __init__(self, failure: Failure, runs: int) -> None:
        super().__init__(failure, runs)
        self.failure: Failure = failure
        self.runs: int = runs

    def __str__(self) -> str:
        return f"{self.failure}\nFound in run {self.runs}."


def leaves(error: BaseException) -> list[BaseException]:
    """The errors themselves, out of groups within groups."""
    inner: tuple[BaseException, ...] | None = getattr(error, "exceptions", None)
    return [error] if inner is None else [leaf for each in inner for leaf in leaves(each)]


def _blow(case: Case, place: str) -> str:
    if not place:
        return "not struck by anything"
    if case.strike == "fault":
        return f"with a fault at fault point {case.number} ({place})"
    how = "natively cancelled" if case.strike == "native" else "cancelled"
    again = f" and the next {case.again}" if case.again else ""
    return f"{how} at {case.at} {case.number}{again}, when the victim stood at {place}"


def _order(case: Case, choices: int) -> str:
    if case.schedule == FIFO:
        return "Tasks went first in, first out."
    return f"Tasks went by the schedule {case.schedule}, out of {choices} choices."


def failure_of(run: Run, scenario: Scenario) -> Failure | None:
    """What went wrong in a run, or `None`."""
    if run.error is None:
        return None
    simulation = run.simulation
    return Failure(scenario, simulation.case, simulation.place, run.error, len(run.schedule.choices))
