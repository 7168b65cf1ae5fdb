"""Who runs next: the schedules of a simulation.

A backend's run loop (`_private_asyncio`, `_private_trio`) asks `Schedule.choose` whenever several tasks could go on. A
`Policy` decides; the schedule sees to it that this is fair, and writes down what was decided, so that the same
can be done again. Choice 0 is the task that has been ready the longest: what first in, first out would do.

*Fair* means: while a task is ready and waits, no other takes more than `FAIR` steps. Both backends are far more just
than that, and programs may rely on a loop that turns often enough (this library takes a task for lost that did not
begin within 50 turns). A schedule is to do what a slow or loaded machine does, not what none does.

Rejected: stopping a task only when it spins (another that sleeps a little in between starves the rest all the same),
and shuffling plain callbacks of asyncio too (they are documented to run in the order in which they were asked for).
"""

from __future__ import annotations

import random
import re
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FAIR = 16
"""Steps that a task may take while another is ready and waits."""
CHANGES = 3
"""How often a priority drops in one run. Most defects are a matter of the order of three points or fewer (see PCT)."""

FIFO = "fifo"


class Policy(Protocol):
    """Decides which of several ready tasks goes on."""

    def pick(self, ready: Sequence[int], number: int) -> int:
        """Choose an index into `ready`, at the choice with that number, from 0."""
        ...


class Schedule:
    """Decides fairly who runs next, and writes down what it decided.

    Args:
        policy: Who decides where nothing would be unfair.

    Attributes:
        choices: For each choice how many tasks were ready, and which was taken. Written by `choose`.
        on_step: Called before each step of a task. Written by who counts.
        _clock: Counts the calls of `choose`; the time in which fairness is measured.
        _ready_since: When each task that is ready became so.
        _recent: When each task took its last `FAIR` steps.
    """

    def __init__(self, policy: Policy) -> None:
        self.choices: list[tuple[int, int]] = []
        self.on_step: Callable[[], None] | None = None
        self._policy = policy
        self._clock = 0
        self._ready_since: dict[int, int] = {}
        self._recent: dict[int, deque[int]] = {}

    def choose(self, ready: Sequence[int]) -> int:
        """Choose an index into `ready`: numbers of tasks (or a callback's), the one that is ready the longest first."""
        self._clock += 1
        for key in ready:
            self._ready_since.setdefault(key, self._clock)
        choice = 0
        if len(ready) > 1:
            choice = self._policy.pick(ready, len(self.choices))
            if self._is_unfair(ready[choice], to=ready[0]):
                choice = 0
            self.choices.append((len(ready), choice))
        key = ready[choice]
        del self._ready_since[key]
        self._recent.setdefault(key, deque(maxlen=FAIR)).append(self._clock)
        return choice

    def _is_unfair(self, key: int, *, to: int) -> bool:
        """Whether the one has taken its share while the other was waiting."""
        recent = self._recent.get(key)
        return recent is not None and len(recent) == FAIR and recent[0] >= self._ready_since[to]

    def step(self) -> None:
        """A task is about to take a step."""
        if self.on_step is not None:
            self.on_step()

    def deviations(self) -> dict[int, int]:
        """The choices that were not first in, first out, by their number."""
        return {number: choice for number, (_, choice) in enumerate(self.choices) if choice}


class Following:
    """First in, first out, but for some choices.

    Args:
        deviations: What to choose where, by the number of the choice.
    """

    def __init__(self, deviations: Mapping[int, int]) -> None:
        self._deviations = deviations

    def pick(self, ready: Sequence[int], number: int) -> int:
        """As told; what is not there any more becomes the last one."""
        return min(self._deviations.get(number, 0), len(ready) - 1)


class Youngest:
    """The task that came last, always: with it a backend shows whether it does as it is told."""

    def pick(self, ready: Sequence[int], number: int) -> int:
        """The highest number."""
        return max(range(len(ready)), key=ready.__getitem__)


class Shuffled:
    """Any task, each as likely as the other.

    Args:
        seed: Makes it repeatable.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, ready: Sequence[int], number: int) -> int:
        """Draw one."""
        return self._random.randrange(len(ready))


class Priorities:
    """The task with the highest priority; priorities are drawn, and a few times the highest one drops to the lowest.

    This is PCT, "A randomized scheduler with probabilistic guarantees of finding bugs" (Burckhardt and others, 2010):
    it lets one task lag far behind the others, which mere shuffling hardly ever does.

    Args:
        seed: Makes it repeatable.
        horizon: About how many choices the run has.
    """

    def __init__(self, seed: int, horizon: int) -> None:
        self._random = random.Random(seed)
        self._changes = {self._random.randrange(max(horizon, 1)) for _ in range(CHANGES)}
        self._priorities: dict[int, float] = {}

    def pick(self, ready: Sequence[int], number: int) -> int:
        """The highest; at a point of change it drops first."""
        for key in ready:
            self._priorities.setdefault(key, self._random.random())
        if number in self._changes:
            self._priorities[ready[self._highest(ready)]] = -1.0 - number
        return self._highest(ready)

    def _highest(self, ready: Sequence[int]) -> int:
        return max(range(len(ready)), key=lambda index: self._priorities[ready[index]])


# ------------------------------------------------------------------ written as text
_NUMBER = r"(0|[1-9]\d*)"
_SHUFFLED = re.compile(rf"random:{_NUMBER}")
_PRIORITIES = re.compile(rf"priorities:{_NUMBER}:{_NUMBER}")
_DEVIATIONS = re.compile(rf"{_NUMBER}:[1-9]\d*(,{_NUMBER}:[1-9]\d*)*")


def policy_of(text: str) -> Policy:
    """Read a schedule as text.

    Raises:
        ValueError: It is none.
    """
    if text == FIFO:
        return Following({})
    if match := _SHUFFLED.fullmatch(text):
        return Shuffled(int(match[1]))
    if match := _PRIORITIES.fullmatch(text):
        return Priorities(int(match[1]), int(match[2]))
    if _DEVIATIONS.fullmatch(text):
        return Following({int(number): int(choice) for number, choice in (p.split(":") for p in text.split(","))})
    raise ValueError(
        f"schedule={text!r} is no schedule\n"
        "Right: 'fifo', 'random:SEED', 'priorities:SEED:HORIZON', or 'NUMBER:CHOICE,...' for what deviates from fifo"
    )


def text_of(deviations: Mapping[int, int]) -> str:
    """Write deviations from first in, first out as text."""
    return ",".join(f"{number}:{choice}" for number, choice in sorted(deviations.items())) or FIFO
