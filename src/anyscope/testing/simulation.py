"""One run of a scenario: who is struck, where, and what must hold whatever happens.

The victim is awaited through `Watched`, which sees the checkpoints of a coroutine by sending to it: nothing private,
and on any loop. The schedule sees the steps of all tasks. At the chosen point the victim's scope, or its task on
asyncio, is cancelled.

Whatever the scenario asserts, a run fails if it never ends (virtual time finds that at once), if a task is left, if
`Task.cancel()` was accepted and yet the victim returned, or if something was said where nobody hears it: a coroutine
that was never awaited, an unraisable error, a ResourceWarning, an exception that reached the loop's handler.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import anyio

from .._vocabulary.results import Ok
from . import _private_asyncio, _private_trio, _private_uvloop
from ._schedules import Schedule, policy_of
from ._watch import Deadlock, Watch, place_of
from .faults import InjectedFault

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ._case import Case

__all__ = ("Outlived", "Overheard", "Scenario", "Simulation", "Swallowed")

T = TypeVar("T")
P = ParamSpec("P")

MOST_TURNS = 100_000
"""Turns of the loop without any time going by (on Trio a step is one): what a run of a scenario never has."""
PATIENCE = 30.0
"""Real seconds for a run on uvloop, which has no virtual time."""


class Swallowed(AssertionError):
    """A cancellation was accepted, and came to nothing."""


class Outlived(AssertionError):
    """A task is still there although the scenario has ended."""


class Overheard(AssertionError):
    """Something went wrong where nobody is told: a coroutine never awaited, an error that could not be raised."""


class Simulation:
    """What a scenario is given: it says who is the victim, and learns what befell it.

    Args:
        case: The run.
        schedule: Who runs next in it.

    Attributes:
        case: The same.
        has_struck: Whether the strike has been delivered.
        place: Where the victim stood then, such as `app.py:12 in fetch`; the fault point, for a fault; empty before.
        points: How many points there were at which the strike could have come.

    Example:
        >>> import anyio
        >>> from anyscope.testing import Simulation, sweep
        >>> async def scenario(sim: Simulation) -> None:
        ...     log = []
        ...     async def work():
        ...         log.append("open")
        ...         try:
        ...             await anyio.sleep(60)
        ...         finally:
        ...             log.append("closed")
        ...     done = await sim.victim(work)
        ...     assert (done is None) == sim.has_struck
        ...     assert log == ["open", "closed"]
        >>> sweep(scenario)
        <Report of scenario: 2 runs, 1 struck at 1 place>
    """

    def __init__(self, case: Case, schedule: Schedule) -> None:
        self.case: Case = case
        self.has_struck: bool = False
        self.place: str = ""
        self.points: int = 0
        self._schedule = schedule
        self._had_victim = False

    def __repr__(self) -> str:
        return f"<Simulation {self.case}{f', struck at {self.place}' if self.has_struck else ''}>"

    async def victim(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Ok[T] | None:
        """Run an async function, and strike it at the point that the run is about.

        Args:
            fn: The async function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            `Ok` with what it returned, or `None` if it was cancelled.

        Raises:
            RuntimeError: There has been a victim in this run.
            Swallowed: A native cancellation was accepted, and yet it returned.
            BaseException: What it raises.
        """
        if self._had_victim:
            raise RuntimeError("a run has one victim, and this one had it\nRight: await sim.victim(...) once in it")
        self._had_victim = True
        if self.case.strike == "native":
            return await self._natively(lambda: fn(*args, **kwargs))
        return await self._in_a_scope(lambda: fn(*args, **kwargs))

    def fault(self, name: str = "fault point") -> None:
        """A point at which the run may fail: stands for whatever the code under test relies on.

        Args:
            name: What it is called in the failure.

        Raises:
            InjectedFault: In a run with the strike `fault`, at the point that the run is about.
        """
        if self.case.strike != "fault":
            return
        self.points += 1
        if self.points == self.case.number:
            self.has_struck, self.place = True, name
            raise InjectedFault(name, self.points)

    @property
    def had_victim(self) -> bool:
        """Whether there was anything that could be struck."""
        return self._had_victim or self.points > 0

    async def _in_a_scope(self, call: Callable[[], Awaitable[T]]) -> Ok[T] | None:
        with anyio.CancelScope() as scope, self._armed(call, scope.cancel) as begin:
            return Ok(await begin())
        return None

    async def _natively(self, call: Callable[[], Awaitable[T]]) -> Ok[T] | None:
        accepted: list[bool] = []

        async def main() -> T:  # to be struck from its first step on, so the victim is called in it
            return await begin()

        with self._armed(call, lambda: accepted.append(task.cancel())) as begin:
            task = asyncio.ensure_future(main())
            await _ended(task)
        if task.cancelled():
            return None
        result = Ok(task.result())
        if any(accepted):
            raise Swallowed(f"Task.cancel() was accepted at {self.place}, and yet the victim returned")
        return result

    @contextmanager
    def _armed(
        self, call: Callable[[], Awaitable[T]], cancel: Callable[[], object]
    ) -> Generator[Callable[[], Awaitable[T]], None, None]:
        """Have the victim struck by `cancel` at the point that the run is about; gives what is to be called for it."""
        victims: list[Awaitable[T]] = []

        def reached() -> None:
            self.points += 1
            if self.case.number <= self.points <= self.case.number + self.case.again:
                self.has_struck = True
                self.place = self.place or (place_of(victims[0]) if victims else "its first step")
                cancel()

        def begin() -> Awaitable[T]:
            victims.append(call())
            return Watched(victims[0], reached) if self.case.at == "checkpoint" else victims[0]

        if self.case.strike == "fault":
            yield call
            return
        if self.case.at == "step":
            self._schedule.on_step = reached
        try:
            yield begin
        finally:
            self._schedule.on_step = None


class Watched(Awaitable[T]):
    """An awaitable that tells when it is about to wait.

    Args:
        inner: What is awaited.
        on_checkpoint: Called before each time.
    """

    def __init__(self, inner: Awaitable[T], on_checkpoint: Callable[[], None]) -> None:
        self._inner = inner
        self._on_checkpoint = on_checkpoint

    def __await__(self) -> Generator[Any, Any, T]:
        waiting = self._inner.__await__()
        resume: Callable[[Any], Any] = waiting.send
        sent: Any = None
        while True:
            try:
                message = resume(sent)
            except StopIteration as stop:
                return cast("T", stop.value)
            self._on_checkpoint()
            try:
                resume, sent = waiting.send, (yield message)
            except GeneratorExit:
                waiting.close()
                raise
            except BaseException as error:  # noqa: ASYNC103  it is thrown on
                resume, sent = waiting.throw, error


async def _ended(task: asyncio.Task[Any]) -> None:
    """Wait for it; if this wait is cancelled, for its end all the same, cancelled too."""
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])


# ------------------------------------------------------------------ one run
Scenario: TypeAlias = Callable[[Simulation], Awaitable[object]]


class Run:
    """One run of a scenario.

    Args:
        scenario: What is run.
        case: How.

    Attributes:
        simulation: What the scenario was given.
        schedule: Who ran next.
        error: What went wrong; `None` if nothing did.
    """

    def __init__(self, scenario: Scenario, case: Case) -> None:
        self.schedule: Schedule = Schedule(policy_of(case.schedule))
        self.simulation: Simulation = Simulation(case, self.schedule)
        self.error: BaseException | None = None
        self._scenario = scenario
        self._watch = Watch(MOST_TURNS)
        with _overhearing(self._watch) as heard:
            self._run()
            gc.collect()
        heard += [_said(context) for context in self._watch.problems]
        if heard and self.error is None:
            self.error = Overheard("; ".join(heard))

    def _run(self) -> None:
        options, around = _options(self.simulation.case, self._watch, self.schedule)
        backend = self.simulation.case.backend.partition("+")[0]
        try:
            with around:
                anyio.run(self._main, backend=backend, backend_options=options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: ASYNC103  what the scenario ended with is what is asked for
            self.error = error
        if self._watch.stuck is not None:
            self.error = self._watch.stuck
        if self.error is None and not self.simulation.had_victim:
            raise ValueError(
                f"{name_of_scenario(self._scenario)} has no victim: nothing was struck\n"
                "Right: await sim.victim(fn, *args) for what may be cancelled, or sim.fault() in what may fail"
            )

    async def _main(self) -> None:
        if self.simulation.case.backend == "asyncio+uvloop":
            with anyio.move_on_after(PATIENCE) as patience:
                await self._scenario(self.simulation)
            if patience.cancelled_caught:
                raise Deadlock(f"not ended after {PATIENCE:g} real seconds")
        else:
            await self._scenario(self.simulation)
        if self.simulation.case.backend != "trio" and (left := asyncio.all_tasks() - {asyncio.current_task()}):
            raise Outlived("tasks outlived the scenario: " + ", ".join(sorted(map(_named, left))))


def _named(task: Any) -> str:
    return f"{task.get_name()} at {place_of(task.get_coro())}"


def _options(case: Case, watch: Watch, schedule: Schedule) -> tuple[dict[str, Any], AbstractContextManager[None]]:
    """The options of the backend, and what must be open around its run."""
    if case.backend == "trio":
        return _private_trio.options(watch), _private_trio.scheduled(schedule)
    if case.backend == "asyncio":
        return _private_asyncio.scheduled_options(watch, schedule), nullcontext()
    return _private_uvloop.options(watch), nullcontext()


@contextmanager
def _overhearing(watch: Watch) -> Generator[list[str], None, None]:
    """Collect what is said where nobody hears it."""
    heard: list[str] = []

    def hear(unraisable: Any) -> None:
        heard.append(f"unraisable: {unraisable.exc_value!r}")

    before, sys.unraisablehook = sys.unraisablehook, hear
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield heard
        heard += [str(w.message) for w in caught if issubclass(w.category, (ResourceWarning, RuntimeWarning))]
    finally:
        sys.unraisablehook = before


def _said(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


def name_of_scenario(scenario: Scenario) -> str:
    """What a scenario is called."""
    return getattr(scenario, "__name__", type(scenario).__name__)
