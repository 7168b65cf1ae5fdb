"""Leak checks: a block that leaves a task, an open scope, something opened in one or something lent behind fails.

What was there before the block is left out, so the check can stand anywhere. What is made in the block is written
down as it is made: scopes and what is opened in them by `_lifetime.watching`, native tasks by a task factory (asyncio)
or an instrument (Trio), both public. What was written down is held, so that garbage collection hides nothing: neither
a scope whose generator was dropped half-way, nor a task of asyncio that nobody refers to.

What an outer scope gets in the block is the block's, except for its services: they are made by whoever asks first, and
meant to stay. What belongs to such a service (its tasks and polls, and scopes of its own) is left out with it, and so
is what an outer pool makes for the block; but what the block has acquired there it must give back.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from .._features.polling.pilot import is_pilot
from .._features.pooling.numbers import line_of
from .._features.pooling.pool import is_pool, stock_of, task_names
from .._features.service import Service
from .._features.streaming.closing import Held
from .._features.streaming.handoff import Handoff
from .._features.task import Task
from .._lifetime.backend import running_loop
from .._lifetime.cleanup import CleanUp
from .._lifetime.opening import Opening
from .._lifetime.owner import Owner
from .._lifetime.place import nearest_open
from .._lifetime.watching import WATCHERS, What
from .._vocabulary.notes import add_note
from ._spawns import Spawns, place_at, place_of_caller, service_owner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from .._features.pooling.pool import Pool
    from .._lifetime.branch import Branch
    from ._spawns import Spawn

Kind: TypeAlias = Literal[
    "scope", "service", "context manager", "pool", "poll", "clean-up", "task", "resource", "stream"
]

TURNS = 50
"""How many turns of the event loop something has to end by itself: a cancelled task needs a few."""

UNTOLD = (None, None, "")
_KINDS: dict[str, Kind] = {"service": "service", "entered": "context manager", "pool": "pool"}
_MADE: dict[Kind, str] = {
    "scope": "entered", "service": "made", "context manager": "entered", "pool": "opened", "poll": "started",
    "clean-up": "registered", "task": "started", "resource": "acquired", "stream": "opened",
}  # fmt: skip
_REMEDIES: dict[Kind, str] = {
    "scope": "Right: async with scope(...) as s: ... in the task that runs the block, left before the check ends",
    "task": "Right: start it in a scope or task group that ends before the check, or cancel it and wait for it",
    "context manager": "Right: enter what is needed for the block in a scope of the block",
    "pool": "Right: make what is needed for the block in a scope of the block",
    "poll": "Right: start it in a scope of the block, or poll.stop() it before the check ends",
    "resource": "Right: async with pool.acquire() as it: ...   which gives it back",
    "stream": "Right: async with s.stream(...) as items: ...   which closes it, or read it to its end",
}


# ------------------------------------------------------------------ what is told


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was left behind.

    Attributes:
        kind: `scope`, `service`, `context manager`, `pool`, `poll`, `clean-up`, `task`, `stream`, or `resource` of a
            pool.
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
    """Fail if the block leaves a task, an open scope, something opened in a scope, a resource or a stream behind.

    What was there before does not count, nor do the services of scopes that were: these are made on first use, and
    meant to stay. Anything else that the block adds to an outer scope counts: a context manager entered there, a
    clean-up, a task, a poll. What is about to end has a few turns of the event loop to do so.

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
        _polling: The polls that ran by then.
        _lent: The resources of pools that were lent by then, each with which use of it that was.
        _limit: How much is written down before what has closed is thrown away.
    """

    def __init__(self) -> None:
        self._loop = running_loop()
        self._scopes: dict[Owner, str] = {}
        self._things: dict[int, tuple[Owner, object, str]] = {}
        self._before: dict[int, object] = {info.id: info.coro for info in anyio.get_running_tasks()}
        self._outer = nearest_open(closing_too=True)
        self._polling = {work for branch in self._all_scopes() for work in branch.works if is_pilot(work)}
        self._lent = {item: item.uses for _, pool in self._pools() for item in stock_of(pool).holders()}
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
        elif what != "entered" and not (what in ("launching", "polling", "streaming") and is_by_outer_service):
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
            yield from (self._leak_of(branch, step) for step in branch.clean_ups if step.kind != "stream")
        yield from self._left_in_outer()
        yield from self._left_polls()
        yield from self._left_streams()
        yield from self._left_resources()
        yield from self._left_tasks(still_open)

    def _left_in_outer(self) -> Iterator[Leak]:
        """What was opened in a scope around the block, services left out."""
        for branch, thing, _ in self._things.values():
            if branch in self._scopes or not isinstance(thing, CleanUp):
                continue
            if thing.kind not in ("service", "stream") and any(step is thing for step in branch.clean_ups):
                yield self._leak_of(branch, thing)

    def _left_polls(self) -> Iterator[Leak]:
        for branch, thing, place in self._things.values():
            if is_pilot(thing) and thing.has_task and thing not in self._polling:
                yield Leak("poll", thing.label.removeprefix("poll "), branch.path, place)

    def _left_streams(self) -> Iterator[Leak]:
        """What was made in the block and is not closed; its tasks are left out."""
        for branch, thing, place in self._things.values():
            if isinstance(thing, Held) and thing.state != "closed":
                yield Leak("stream", thing.label, branch.path, place)

    def _left_resources(self) -> Iterator[Leak]:
        """What was acquired from a pool around the block, and not given back."""
        for step, pool in self._pools():
            if id(step) in self._things:
                continue  # it is told itself
            stock = stock_of(pool)
            for item in stock.holders():
                if self._lent.get(item) != item.uses:
                    yield Leak(
                        "resource",
                        f"{pool.name} #{item.number}",
                        stock.owner.path,
                        place_at(item.site[0], line_of(item.site)),
                    )

    def _pools(self) -> Iterator[tuple[CleanUp, Pool[Any]]]:
        """Every open pool, with the step that will close it."""
        for branch in self._all_scopes():
            for step in () if not isinstance(branch, Owner) else branch.clean_ups:
                if is_pool(step.subject):
                    yield step, step.subject

    def _leak_of(self, branch: Owner, step: CleanUp) -> Leak:
        _, _, place = self._things.get(id(_opening_of(step) or step), UNTOLD)
        return Leak(_KINDS.get(step.kind, "clean-up"), f"{step.label} (#{step.index})", branch.path, place)

    def _left_tasks(self, still_open: list[Owner]) -> Iterator[Leak]:
        known = self._known_tasks()
        own = {f"{what} of {branch.path}" for branch in still_open for what in ("timer", "closer")}
        own.update(name for _, pool in self._pools() for name in task_names(pool))
        own.update(name for branch in self._all_scopes() for work in branch.works for name in _stream_tasks(work))
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
                elif is_pilot(work):
                    found[id(work.native)] = (branch, "", place)
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
    if is_pilot(thing):
        return not thing.has_task
    if isinstance(thing, Held):
        return thing.state == "closed"
    return branch.phase == "closed" or (isinstance(thing, Task) and thing.done)


def _stream_tasks(work: object) -> tuple[str, ...]:
    """The names of the tasks of a stream."""
    if isinstance(work, Held):
        return (work.task_name,)
    return (work.task_name, work.worker_name) if isinstance(work, Handoff) else ()


def _opening_of(step: CleanUp) -> Opening[Any] | None:
    """What was opened, where that is what the step closes: its place is that of who asked for it."""
    made_by: Any = getattr(step.function, "__self__", None)
    if isinstance(made_by, Service):
        made_by = made_by._opening
    return made_by if _is_opening(made_by) else None


def _is_opening(thing: object) -> TypeGuard[Opening[Any]]:
    return isinstance(thing, Opening)


def name_of_task(info: anyio.TaskInfo) -> str:
    """Its name; where asyncio numbered it, that of its function.

    Where there is a task factory and no name, Python 3.13.0 calls it `None`.
    """
    name = info.name or ""
    function = getattr(info.coro, "__qualname__", None)
    return function if isinstance(function, str) and re.fullmatch(r"Task-\d+|None|", name) else name
