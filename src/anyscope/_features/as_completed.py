"""`as_completed`: results in the order in which jobs end, while the others run.

An async context manager that gives an iterator, not an async generator: a generator would hold its task
group open across its `yield`, and a consumer that leaves early would leave the closing to the garbage
collector, in some other task (PEP 789).

The crew is held back by a slow consumer: of an endless input with `concurrency=10`, never more than ten jobs
have been taken whose results have not been.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from .._lifetime.call import Call
from .._lifetime.ending import sort_out
from .._lifetime.start import Start
from .._vocabulary.errors import ScopeMisuse, reraise
from .._vocabulary.options import check_count
from .crew import Crew
from .jobs import Checked, Jobs

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import TaskGroup

    from .._lifetime.owner import Owner
    from .._vocabulary.results import Result

T = TypeVar("T")


class AsCompleted(Generic[T]):
    """Use it as `async with s.as_completed(jobs) as results: async for index, result in results: ...`.

    Leaving the block early cancels the jobs that are left, and waits for them.

    Args:
        owner: The scope's owner.
        jobs: The jobs, checked.
        limit: How many may run at once.

    Attributes:
        _ready: Results that wait for the consumer; `_deliver` appends, `__anext__` takes.
        _ended: Whether the crew has done all that it will do.
        _left: Whether the block has been left.
        _told: Whether a consumer has seen the end, and with it the error of the source.
        _news: Set when one of these two changes, for the consumer.
        _room: Set when the consumer takes a result, for the workers that wait for that.
        _consumed: How many results the consumer has taken.
    """

    __slots__ = (
        "_call",
        "_consumed",
        "_crew",
        "_ended",
        "_group",
        "_left",
        "_limit",
        "_news",
        "_owner",
        "_ready",
        "_room",
        "_told",
    )

    def __init__(self, owner: Owner, jobs: Checked[T], *, limit: int | None) -> None:
        self._owner = owner
        self._limit = limit
        self._crew = Crew(owner, jobs, limit=limit, deliver=self._deliver)
        self._crew.gate = None if limit is None else self._until_room
        self._ready: deque[tuple[int, Result[T]]] = deque()
        self._consumed = 0
        self._ended = False
        self._left = False
        self._told = False
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._call: Call | None = None
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> AsCompleted[T]:
        if self._call is not None:
            raise ScopeMisuse(
                path=self._owner.path,
                problem="as_completed was entered a second time",
                remedy="Call s.as_completed(...) again.",
            )
        await self._owner.admit("as_completed")
        self._call = Call(self._owner, self._crew.jobs.call)
        self._call.__enter__()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.create_task(Start(self._run), name="s.as_completed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._group is not None
        assert self._call is not None
        self._group.cancel_scope.cancel()
        # An error of the body leaves bare, so the group only sees a cancellation, which it must judge.
        is_cut = isinstance(error, anyio.get_cancelled_exc_class())
        seen = (kind, error, traceback) if is_cut else (None, None, None)
        try:
            absorbed = await self._group.__aexit__(*seen)  # noqa: ASYNC102  a group's exit waits on when cancelled
        except BaseException as leaving:  # noqa: ASYNC103  sorted out, then told or raised
            if not self._call.__exit__(type(leaving), leaving, leaving.__traceback__):
                if isinstance(error, Exception) and sort_out(leaving).error is None:
                    return False  # noqa: ASYNC104  the error of the body goes before a cancellation that came later
                raise
            absorbed = True
        else:
            self._call.__exit__(None, None, None)
        self._left = True
        if error is not None and not is_cut:
            return False
        self._raise_what_nobody_saw()
        return bool(absorbed)

    def _raise_what_nobody_saw(self) -> None:
        assert self._call is not None
        unseen = None if self._told else self._crew.error_to_raise
        if unseen is not None:
            reraise(unseen)
        self._call.refuse_if_cut("s.as_completed")

    async def _run(self) -> None:
        await self._crew.run()
        self._ended = True
        self._tell()

    def __aiter__(self) -> AsCompleted[T]:
        return self

    async def __anext__(self) -> tuple[int, Result[T]]:
        if self._call is None or self._left:
            raise ScopeMisuse(
                path=self._owner.path,
                problem="the results of as_completed were asked for outside of its block",
                remedy="Right: async with s.as_completed(jobs) as results: async for index, result in results: ...",
            )
        while not self._ready:
            if self._ended:
                self._told = True
                if self._crew.error_to_raise is not None:
                    reraise(self._crew.error_to_raise)
                raise StopAsyncIteration
            if self._news is None or self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        self._consumed += 1
        if self._room is not None:
            self._room.set()
        return self._ready.popleft()

    def _deliver(self, index: int, result: Result[T]) -> None:
        self._ready.append((index, result))
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _until_room(self) -> None:
        while self._limit is not None and self._crew.taken - self._consumed >= self._limit:
            if self._room is None or self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "running" if self._call is not None else "new"
        return f"<AsCompleted {state}, {self._crew.taken} taken, {len(self._ready)} ready>"


def as_completed(owner: Owner, jobs: Jobs[T], *, concurrency: int | None) -> AsCompleted[T]:
    """`s.as_completed`."""
    return AsCompleted(owner, Checked("s.as_completed", jobs), limit=check_count("concurrency", concurrency))
