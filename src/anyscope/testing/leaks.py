"""Leak checks: a block that leaves a task, an open scope or something opened in one behind fails, and says where from.

What was there before the block is left out, so the check can stand anywhere. What is made in the block is written
down as it is made: scopes and what is opened in them by `_lifetime.watching`, native tasks by a task factory (asyncio)
or an instrument (Trio), both public. What was written down is held, so that garbage collection hides nothing: neither
a scope whose generator was dropped half-way, nor a task of asyncio that nobody refers to.

What an outer scope gets in the block is the block's, except for its services: they are made by whoever asks first, and
meant to stay. What belongs to such a service (its tasks, and scopes of its own) is left out with it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, cast

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from .._features.service import Service
from .._features.services import FactoryPlace
from .._features.task import Task
from .._lifetime.backend import running_loop
from .._lifetime.cleanup import CleanUp
from .._lifetime.opening import OPENING, Opening
from .._lifetime.owner import Owner
from .._lifetime.place import HERE, bottom_of, nearest_open
from .._lifetime.watching import WATCHERS, What
from .._vocabulary.notes import add_note

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from types import FrameType

    from .._lifetime.branch import Branch

Kind: TypeAlias = Literal["scope", "service", "context manager", "clean-up", "task"]

TURNS = 50
"""How many turns of the event loop something has to end by itself: a cancelled task needs a few."""

_RUNTIME = {
    "anyio", "anyscope", "asyncio", "contextlib", "functools", "outcome", "trio", "uvloop", "_pytest", "pluggy",
}  # fmt: skip
UNTOLD = (None, None, "")
_SUSPENDABLE = CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR
_KINDS: dict[str, Kind] = {"service": "service", "entered": "context manager"}
_MADE: dict[Kind, str] = {
    "scope": "entered", "service": "made", "context manager": "entered", "clean-up": "registered", "task": "started",
}  # fmt: skip
_REMEDIES: dict[Kind, str] = {
    "scope": "Right: async with scope(...) as s: ... in the task that runs the block, left before the check ends",
    "task": "Right: start it in a scope or task group that ends before the check, or cancel it and wait for it",
    "context manager": "Right: enter what is needed for the block in a scope of the block",
}


# ------------------------------------------------------------------ what is told


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was left behind.

    Attributes:
        kind: `scope`, `service`, `context manager`, `clean-up` or `task`.
        name: What it is called.
        path: The path of the scope that it is or belongs to; empty for a task of no scope.
        place: Where it was made, such as `app.py:12 in main`; empty where that is not known.
    """

    kind: Kind
    name: str
    path: str
    place: str

    def __str__(self) -> str:
        owner = f" of {self.path}" if self.path and self.kind != "scope" else ""
        name = self.path if self.kind == "scope" else self.name
        return f"{self.kind} {name}{owner}" + (f", {_MADE[self.kind]} at {self.place}" if self.place else "")


class Leaked(AssertionError):
    """A block left something behind.

    Args:
        leaks: What was left, scopes first.

    Attributes:
        leaks: The same.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        super().__init__(leaks)
        self.leaks: tuple[Leak, ...] = leaks

    def __str__(self) -> str:
        count = "1 thing was" if len(self.leaks) == 1 else f"{len(self.leaks)} things were"
        kinds = {leak.kind for leak in self.leaks}
        remedies = [text for kind, text in _REMEDIES.items() if kind in kinds]
        if "scope" in kinds:
            del remedies[1:]  # the rest belongs to the scope, or comes to light when that is mended
        return "\n".join([f"{count} left behind:", *(f"  {leak}" for leak in self.leaks), *remedies])


@asynccontextmanager
async def no_leaks() -> AsyncGenerator[None, None]:
    """Fail if the block leaves a task, an open scope, or something opened in a scope behind.

    What was there before does not count, nor do the services of scopes that were: these are made on first use, and
    meant to stay. Anything else that the block adds to an outer scope counts: a context manager entered there, a
    clean-up, a task. What is about to end has a few turns of the event loop to do so.

    All tasks and scopes of the event loop are looked at, so what others begin in the meantime counts too: use it where
    the block is all that happens.

    Raises:
        Leaked: Something was left behind. Where the block raises an error itself, that leaves instead, with the
            leaks as a note.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> from anyscope.testing.leaks import Leaked, no_leaks
        >>> async def handler(s):
        ...     s.start_soon(anyio.sleep_forever)
        >>> async def main():
        ...     async with scope(name="app") as s:
        ...         try:
        ...             async with no_leaks():
        ...                 await handler(s)
        ...         except Leaked as error:
        ...             print(error)
        ...         s.cancel()
        >>> anyio.run(main)
        1 thing was left behind:
          task sleep_forever (#0) of app, started at <doctest ...>:2 in handler
        Right: start it in a scope or task group that ends before the check, or cancel it and wait for it
    """
    recorder = Recorder()
    try:
        yield
        leaks = await recorder.settle()
    except Exception as error:
        if leaks := await recorder.settle():
            add_note(error, str(Leaked(leaks)))
        raise
    finally:
        recorder.end()
    if leaks:
        raise Leaked(leaks)


# ------------------------------------------------------------------ what is written down


class Recorder:
    """Writes down what is made in the running event loop from now on, until `end`.

    Attributes:
        _scopes: The scopes that were entered, each with its place. Written by `_watch` and `_prune`.
        _things: What was started, opened or registered: its scope, itself, its place; by identity. Written likewise.
        _before: The native tasks that were there, by id; each with its coroutine, for ids are used again.
        _outer: A scope around the block, through which the others around it are found.
        _limit: How much is written down before what has closed is thrown away.
    """

    def __init__(self) -> None:
        self._loop = running_loop()
        self._scopes: dict[Owner, str] = {}
        self._things: dict[int, tuple[Owner, object, str]] = {}
        self._before: dict[int, object] = {info.id: info.coro for info in anyio.get_running_tasks()}
        self._outer = nearest_open(closing_too=True)
        self._limit = 1000
        self._spawns = Spawns.of_running_loop()
        WATCHERS.append(self._watch)

    def end(self) -> None:
        """No longer."""
        WATCHERS.remove(self._watch)
        self._spawns.leave()
        self._scopes.clear()
        self._things.clear()

    def _watch(self, what: What, branch: Branch, subject: object) -> None:
        if what == "provided" or not isinstance(branch, Owner) or running_loop() is not self._loop:
            return
        is_by_outer_service = self._is_by_outer_service(service_owner())
        if what == "entered" and not is_by_outer_service:
            self._scopes[branch] = place_of_caller()
        elif what != "entered" and not (what == "launching" and is_by_outer_service):
            self._things[id(subject)] = (branch, subject, place_of_caller())
        if len(self._scopes) + len(self._things) > self._limit:
            self._prune()

    def _prune(self) -> None:
        self._scopes = {branch: place for branch, place in self._scopes.items() if branch.phase != "closed"}
        self._things = {key: thing for key, thing in self._things.items() if not _is_over(*thing[:2])}
        self._limit = 2 * (len(self._scopes) + len(self._things)) + 1000

    def _is_by_outer_service(self, owner: Branch | None) -> bool:
        return owner is not None and owner not in self._scopes

    # ------------------------------------------------------------------ what is left

    async def settle(self) -> tuple[Leak, ...]:
        """What is left after some turns of the event loop."""
        for _ in range(TURNS):
            if not any(self._leaks()):
                return ()
            await cancel_shielded_checkpoint()
        return tuple(self._leaks())

    def _leaks(self) -> Iterator[Leak]:
        still_open = [branch for branch in self._scopes if branch.phase != "closed"]
        for branch in still_open:
            yield Leak("scope", branch.name, branch.path, self._scopes[branch])
            yield from (self._leak_of(branch, step) for step in branch.clean_ups)
        yield from self._left_in_outer()
        yield from self._left_tasks(still_open)

    def _left_in_outer(self) -> Iterator[Leak]:
        """What was opened in a scope around the block, services left out."""
        for branch, thing, _ in self._things.values():
            if branch in self._scopes or not isinstance(thing, CleanUp):
                continue
            if thing.kind != "service" and any(step is thing for step in branch.clean_ups):
                yield self._leak_of(branch, thing)

    def _leak_of(self, branch: Owner, step: CleanUp) -> Leak:
        _, _, place = self._things.get(id(_opening_of(step) or step), UNTOLD)
        return Leak(_KINDS.get(step.kind, "clean-up"), f"{step.label} (#{step.index})", branch.path, place)

    def _left_tasks(self, still_open: list[Owner]) -> Iterator[Leak]:
        known = self._known_tasks()
        own = {f"{what} of {branch.path}" for branch in still_open for what in ("timer", "closer")}
        for info, spawn in self._new_tasks():
            branch, label, place = known.get(info.id, (None, name_of_task(info), ""))
            if label and label not in own and not self._is_by_outer_service(spawn.service):
                yield Leak("task", label, "" if branch is None else branch.path, place or spawn.place)
        for branch, thing, place in self._things.values():
            if isinstance(thing, Task) and thing.status == "queued":  # for a slot; it has no native task
                yield Leak("task", thing.label, branch.path, place)

    def _new_tasks(self) -> list[tuple[anyio.TaskInfo, Spawn]]:
        """In the order in which they were started, for the backends keep none."""
        me = anyio.get_current_task().id
        new = [
            (info, self._spawns.record_of(info.id))
            for info in anyio.get_running_tasks()
            if info.id != me and self._before.get(info.id) is not info.coro
        ]
        return sorted(new, key=lambda each: (each[1].number, each[0].name or ""))

    def _known_tasks(self) -> dict[int, tuple[Branch, str, str]]:
        """The native tasks of scopes, by id: scope, label and place.

        No label for those that only keep something open, which is told itself.
        """
        found: dict[int, tuple[Branch, str, str]] = {}
        for branch in self._all_scopes():
            for work in branch.works:
                _, _, place = self._things.get(id(work), UNTOLD)
                if isinstance(work, Task):
                    found[id(work.native)] = (branch, work.label, place)
        for branch, thing, place in self._things.values():
            if _is_opening(thing):
                found[id(thing.native)] = (branch, "" if thing.is_done else thing.label, place)
        return found

    def _all_scopes(self) -> Iterator[Branch]:
        root = self._outer
        while root is not None and root.parent is not None:
            root = root.parent
        seen: set[Branch] = set()
        stack = [*self._scopes, *([root] if root is not None else [])]
        while stack:
            branch = stack.pop()
            if branch not in seen:
                seen.add(branch)
                yield branch
                stack.extend(branch.children)


def _is_over(branch: Branch, thing: object) -> bool:
    return branch.phase == "closed" or (isinstance(thing, Task) and thing.done)


def _opening_of(step: CleanUp) -> Opening[Any] | None:
    """What was opened, where that is what the step closes: its place is that of who asked for it."""
    made_by: Any = getattr(step.function, "__self__", None)
    if isinstance(made_by, Service):
        made_by = made_by._opening
    return made_by if _is_opening(made_by) else None


def _is_opening(thing: object) -> TypeGuard[Opening[Any]]:
    return isinstance(thing, Opening)


def service_owner() -> Branch | None:
    """The scope of the service that the running code belongs to, if it belongs to one."""
    opening = OPENING.get()
    if opening is not None and opening.kind == "service":
        return opening.owner
    place = HERE.get()
    bottom = None if place is None else bottom_of(place)
    return bottom.owner if isinstance(bottom, FactoryPlace) else None


def name_of_task(info: anyio.TaskInfo) -> str:
    """Its name; where asyncio numbered it, that of its function.

    Where there is a task factory and no name, Python 3.13.0 calls it `None`.
    """
    name = info.name or ""
    function = getattr(info.coro, "__qualname__", None)
    return function if isinstance(function, str) and re.fullmatch(r"Task-\d+|None|", name) else name


# ------------------------------------------------------------------ where native tasks come from


@dataclass(frozen=True, slots=True)
class Spawn:
    """How a native task came about.

    Attributes:
        task: The task. Holding it keeps asyncio from forgetting one that nobody refers to.
        number: Which it was.
        place: Where it was started.
        service: The scope of the service that started it, if one did.
    """

    task: Any = None
    number: float = math.inf
    place: str = ""
    service: Branch | None = None


class Spawns:
    """Where the native tasks of one event loop were started, while somebody wants to know.

    Attributes:
        _records: By the id of the task. Written as tasks come and go.
        _users: How many want to know. Written by `of_running_loop` and `leave`.
    """

    _all: dict[object, Spawns] = {}  # noqa: RUF012  one for each loop, shared by all that want to know

    def __init__(self, loop: object) -> None:
        self._loop = loop
        self._records: dict[int, Spawn] = {}
        self._count = 0
        self._limit = 1000
        self._users = 0
        self._stop = _watch_trio(self) if _is_trio() else _watch_asyncio(self)

    @classmethod
    def of_running_loop(cls) -> Spawns:
        """That of the running loop; to be left later."""
        loop = running_loop()
        spawns = cls._all.get(loop) or cls._all.setdefault(loop, cls(loop))
        spawns._users += 1
        return spawns

    def leave(self) -> None:
        """One less wants to know."""
        self._users -= 1
        if not self._users:
            del self._all[self._loop]
            self._stop()

    def record_of(self, task: int) -> Spawn:
        """How the task of this id came about, as far as is known."""
        return self._records.get(task, UNKNOWN)

    def add(self, task: Any) -> None:
        """A task was started by the running code."""
        self._count += 1
        self._records[id(task)] = Spawn(task, self._count, place_of_caller(), service_owner())
        if len(self._records) > self._limit and isinstance(task, asyncio.Future):
            self._records = {key: record for key, record in self._records.items() if not record.task.done()}
            self._limit = 2 * len(self._records) + 1000

    # The names of the next two are Trio's: this is an instrument.

    def task_spawned(self, task: object) -> None:
        """Trio started a task."""
        self.add(task)

    def task_exited(self, task: object) -> None:
        """A task of Trio has ended."""
        self._records.pop(id(task), None)


UNKNOWN = Spawn()


def _is_trio() -> bool:
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def _watch_trio(spawns: Spawns) -> Any:
    import trio

    trio.lowlevel.add_instrument(cast("Any", spawns))
    return lambda: trio.lowlevel.remove_instrument(cast("Any", spawns))


def _watch_asyncio(spawns: Spawns) -> Any:
    """By a task factory; a loop that has one keeps it, for AnyIO knows an eager one by its looks."""
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is not None:
        return lambda: None

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        spawns.add(task)
        return task

    loop.set_task_factory(cast("Any", factory))
    return lambda: loop.set_task_factory(None) if cast("Any", loop.get_task_factory()) is factory else None


# ------------------------------------------------------------------ where the running code stands


def place_of_caller() -> str:
    """The innermost line of the running task that is neither ours nor a runtime's, such as `app.py:12 in main`.

    Beyond the first plain call that drives a coroutine it is no longer this task, but who runs the loop.
    """
    frame: FrameType | None = sys._getframe(1)
    was_suspendable = False
    while frame is not None and (_is_suspendable(frame) or not was_suspendable):
        if not _is_runtime(frame):
            return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
        was_suspendable = was_suspendable or _is_suspendable(frame)
        frame = frame.f_back
    return ""


def _is_suspendable(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & _SUSPENDABLE)


def _is_runtime(frame: FrameType) -> bool:
    if frame.f_code.co_filename.startswith("<"):
        return False  # typed in, or an example in a docstring, which is run as part of its module
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] in _RUNTIME


def _short(filename: str) -> str:
    """Relative to the working directory, where it is below that."""
    with suppress(OSError):  # the directory may have been removed, by a test for instance
        here = os.getcwd()  # noqa: PTH109  as text, to be compared with text
        return filename.removeprefix(here + os.sep)
    return filename
