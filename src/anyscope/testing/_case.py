"""What makes one run of a scenario, as a value and as a line of text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ._schedules import FIFO, policy_of

Strike: TypeAlias = Literal["cancel", "native", "fault"]
"""What befalls the victim: the cancellation of a scope around it, `asyncio.Task.cancel()`, or an error."""
At: TypeAlias = Literal["checkpoint", "step"]
"""What is counted: the victim's own checkpoints, or the steps of all tasks while the victim lives."""

BACKENDS = ("asyncio", "asyncio+uvloop", "trio")


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a scenario: the same case is the same run, again and again.

    Attributes:
        backend: `asyncio`, `trio`, or `asyncio+uvloop`.
        strike: What befalls the victim: `cancel`, `native` or `fault`; `None` for nothing.
        at: What `number` counts: each `checkpoint` of the victim, or each `step` of any task. For a fault it is the
            scenario's fault points, whatever this says.
        number: At which of these it strikes, from 1.
        again: How many times more a native cancellation is delivered, at each of the next points.
        schedule: Who runs next: `fifo`, `random:SEED`, `priorities:SEED:HORIZON`, or what deviates from first in,
            first out: `NUMBER:CHOICE,...`.

    Example:
        >>> from anyscope.testing import Case
        >>> case = Case("asyncio", "native", at="step", number=12, schedule="3:1")
        >>> str(case)
        'asyncio native step=12 schedule=3:1'
        >>> Case.of(str(case)) == case
        True
    """

    backend: str = "asyncio"
    strike: Strike | None = None
    at: At = "checkpoint"
    number: int = 0
    again: int = 0
    schedule: str = FIFO

    def __post_init__(self) -> None:
        _check(self)
        policy_of(self.schedule)

    def __str__(self) -> str:
        words = [self.backend]
        if self.strike == "fault":
            words.append(f"fault={self.number}")
        elif self.strike is not None:
            words += [self.strike, f"{self.at}={self.number}"]
        if self.again:
            words.append(f"again={self.again}")
        return " ".join([*words, f"schedule={self.schedule}"])

    @classmethod
    def of(cls, text: str) -> Case:
        """Read what `str` wrote.

        Args:
            text: The line, as a failure prints it.

        Returns:
            The case.

        Raises:
            ValueError: It is no such line.
        """
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no case\nRight: 'asyncio native step=12 again=1 schedule=3:1,7:2'")
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        if "fault" in found:
            found["strike"], found["number"] = "fault", found.pop("fault")
        values: dict[str, Any] = {**found, **{name: int(found[name]) for name in ("number", "again") if name in found}}
        return cls(**values)


_LINE = re.compile(
    r"(?P<backend>\S+)"
    r"( fault=(?P<fault>\d+)| (?P<strike>cancel|native) (?P<at>checkpoint|step)=(?P<number>\d+))?"
    r"( again=(?P<again>\d+))? schedule=(?P<schedule>\S+)"
)


def _check(case: Case) -> None:
    """Refuse what cannot be run.

    Raises:
        ValueError: Some field has a value that is none, or two do not go together.
    """
    if case.backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {case.backend!r}")
    if case.strike not in (None, *get_args(Strike)):
        raise ValueError(f"strike must be one of {', '.join(map(repr, get_args(Strike)))} or None, got {case.strike!r}")
    if case.at not in get_args(At):
        raise ValueError(f"at must be one of {', '.join(map(repr, get_args(At)))}, got {case.at!r}")
    if case.strike == "native" and case.backend == "trio":
        raise ValueError("strike='native' is asyncio's Task.cancel(); on trio there is only strike='cancel'")
    if case.again and case.strike != "native":
        raise ValueError("again repeats a native cancellation: it needs strike='native'")
    if case.backend == "asyncio+uvloop" and (case.at == "step" or case.schedule != FIFO):
        raise ValueError(
            "uvloop's queue cannot be seen: there are no steps and no schedules on it\n"
            "Right: at='checkpoint' with the schedule 'fifo', or backend='asyncio'"
        )
