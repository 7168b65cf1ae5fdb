"""What the state machines share: rules record a program, and the program is played at the end, on an event loop.

A rule of Hypothesis is a plain function, and an event loop cannot be left and entered again between two of them. So a
rule changes the *model* alone, and writes down what is to be done to the library and how everything must look then.
When the rules are through, `teardown` plays the whole program in one loop in virtual time, and compares after each
step. Hypothesis shrinks the rules, so a failure is a short list of calls. A rule acts on something that the model has
at that moment (`picked`), for a rule that finds nothing to act on would throw the whole program away.

Each step takes one second of virtual time, in which everything comes to rest. What lasts a while lasts a number of
seconds and a fraction of its own (`fraction`), so no two things happen at the same time and the model needs no rule for
what goes first. Things of the same moment do race, and the schedule, which is drawn too, says how they come out.
"""

from __future__ import annotations

import difflib
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, TypeVar

import anyio
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize

from anyscope import AnyscopeError
from anyscope.testing import Case, Simulation, replay

T = TypeVar("T")

SOAK = int(os.environ.get("ANYSCOPE_SOAK", "1"))
SCHEDULES = st.one_of(st.just("fifo"), st.integers(0, 99).map("random:{}".format))


def budget(examples: int, steps: int) -> settings:
    """How many programs of how many steps; `ANYSCOPE_SOAK` times as many of them for `nox -s soak`."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    phases = [Phase.generate, Phase.shrink]
    return settings(
        max_examples=examples * SOAK, stateful_step_count=steps, phases=phases, suppress_health_check=checks
    )


def picked(choose: Callable[[Any], list[T]]) -> st.SearchStrategy[T]:
    """One of those that `choose` finds in the machine; the rule must be ruled out while there is none."""
    return st.runner().flatmap(lambda machine: st.sampled_from(choose(machine)))


def fraction(number: int) -> float:
    """A part of a second that belongs to `number` alone, as do its sums with others."""
    return 0.1 + 0.8 * Random(number).random()


class Boom(Exception):
    """An error of a user's function."""


@dataclass(eq=False)
class Fault:
    """An exception of the model; `notes` grow, as those of the real one do."""

    kind: str
    text: str = ""
    members: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        members = "; ".join(map(str, self.members))
        notes = "".join(f" [{note}]" for note in self.notes)
        text = f": {self.text}" if self.text else ""
        return f"{self.kind}{text}{notes}" + (f" {{{members}}}" if members else "")

    @property
    def reason(self) -> str:
        """How it is shown as the reason of a cancellation."""
        return f" ({self.kind}: {self.text})"


def group(path: str, errors: list[tuple[Fault, str]]) -> Fault:
    """What leaves a scope in which all this went wrong (S4)."""
    for fault, note in errors:
        fault.notes.append(note)
    text = f"errors in scope {path} ({len(errors)} sub-exception{'s' if len(errors) > 1 else ''})"
    return Fault("ExceptionGroup", text, [fault for fault, _ in errors])


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes:
        act: The name of a method of the world.
        args: Its arguments.
        answer: What it must give, as text.
        seconds: How long to wait afterwards.
        view: How everything must look then, line by line.
    """

    act: str
    args: tuple[Any, ...]
    answer: str
    seconds: float
    view: list[str]

    def __str__(self) -> str:
        return f"{self.act}({', '.join(map(repr, self.args))})"


class World:
    """The library's side of a machine: does the steps, and tells how everything looks.

    Attributes:
        group: Where tasks live that no scope owns. Written by the player.
    """

    group: anyio.abc.TaskGroup

    def view(self) -> list[str]:
        """Tell how everything looks."""
        raise NotImplementedError


class Machine(RuleBasedStateMachine):
    """A model that is changed by rules, and the program that has to do the same to the library.

    Attributes:
        backend: Where the program is played.
        new_world: Makes the library's side.
        steps: The program so far.
        schedule: Who runs next in it.
        wrong: The first difference that was seen.
    """

    backend: ClassVar[str]
    new_world: ClassVar[Callable[[], World]]

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.schedule = "fifo"
        self.wrong: list[AssertionError] = []

    @initialize(schedule=SCHEDULES)
    def is_played(self, schedule: str) -> None:
        """Say who runs next."""
        self.schedule = schedule

    def pass_model_time(self, seconds: float) -> None:
        """Let the time of the model go by."""
        raise NotImplementedError

    def model_view(self) -> list[str]:
        """Tell how everything looks in the model."""
        raise NotImplementedError

    def finish(self) -> None:
        """Record the steps with which each program ends."""
        raise NotImplementedError

    def record(self, act: str, *args: Any, answer: str = "", seconds: float = 1.0) -> None:
        """The model has been changed: record what does the same to the library."""
        self.pass_model_time(seconds)
        self.steps.append(Step(act, args, answer, seconds, self.model_view()))

    def teardown(self) -> None:
        """Play the program."""
        if not self.steps:
            return
        self.finish()
        gc.freeze()  # what Hypothesis keeps is no garbage of this run, which is collected at its end
        failure = replay(self._scenario, Case(self.backend, schedule=self.schedule))
        if self.wrong:
            raise self.wrong[0]
        if failure is not None:
            raise failure.error

    async def _scenario(self, sim: Simulation) -> None:
        await sim.victim(self._play)

    async def _play(self) -> None:
        world = self.new_world()
        async with anyio.create_task_group() as group:
            world.group = group
            try:
                await self._perform(world)
            except AssertionError as error:
                self.wrong.append(error)
                group.cancel_scope.cancel()

    async def _perform(self, world: World) -> None:
        for number, step in enumerate(self.steps, 1):
            answer = str(getattr(world, step.act)(*step.args) or "")
            _same(f"step {number}, {step}, gave", [answer], [step.answer])
            await anyio.sleep(step.seconds)
            _same(f"after step {number}, {step}, at {anyio.current_time():g} s", world.view(), step.view)


def _same(what: str, seen: list[str], expected: list[str]) -> None:
    if seen != expected:
        lines = difflib.ndiff(expected, seen)
        raise AssertionError("\n".join([f"{what} (- the model, + the library):", *lines]))


def told(error: object, *, is_brief: bool = False) -> str:
    """An exception as text: its type, its first line, its notes and its members; the model writes the same.

    Briefly: of an error of the library its type alone.
    """
    if not isinstance(error, BaseException):
        return str(error)
    text = "" if is_brief and isinstance(error, AnyscopeError) else f": {first_line(error)}"
    notes = "".join(f" [{note}]" for note in getattr(error, "__notes__", ()))
    members = "; ".join(told(member, is_brief=is_brief) for member in getattr(error, "exceptions", ()))
    return f"{type(error).__name__}{text}{notes}" + (f" {{{members}}}" if members else "")


def first_line(error: BaseException) -> str:
    """The first line of its text."""
    return str(error).partition("\n")[0]
