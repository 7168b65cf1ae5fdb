"""Where native tasks come from: written down as they start, by a task factory (asyncio) or an instrument (Trio)."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from typing import TYPE_CHECKING, Any, cast

from .._features.pooling.item import ItemPlace
from .._features.services import FactoryPlace
from .._lifetime.backend import is_on_trio, running_loop
from .._lifetime.opening import OPENING
from .._lifetime.place import HERE, bottom_of

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from .._lifetime.branch import Branch

_RUNTIME = {
    "anyio", "anyscope", "asyncio", "contextlib", "functools", "outcome", "trio", "uvloop", "_pytest", "pluggy",
}  # fmt: skip
_SUSPENDABLE = CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR


def service_owner() -> Branch | None:
    """The scope of the service or pool that the running code belongs to, if it belongs to one."""
    opening = OPENING.get()
    if opening is not None and opening.kind == "service":
        return opening.owner
    place = HERE.get()
    bottom = None if place is None else bottom_of(place)
    return bottom.owner if isinstance(bottom, (FactoryPlace, ItemPlace)) else None


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
        self._stop = _watch_trio(self) if is_on_trio() else _watch_asyncio(self)

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
            return place_at(frame.f_code, frame.f_lineno)
        was_suspendable = was_suspendable or _is_suspendable(frame)
        frame = frame.f_back
    return ""


def place_at(code: CodeType, line: int) -> str:
    """A line of code, such as `app.py:12 in main`."""
    return f"{_short(code.co_filename)}:{line} in {code.co_name}"


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
