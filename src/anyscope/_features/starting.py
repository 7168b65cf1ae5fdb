"""The other ways to start work: in the calling task, and AnyIO's own `start_soon` and `start`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from anyio.abc import TaskStatus

from .._lifetime.call import Call
from .._lifetime.ending import sort_out
from .._lifetime.late import refuse
from .._lifetime.works import Wait
from .._vocabulary.errors import ScopeClosed, TaskCancelled
from .._vocabulary.options import call_async, check_name, check_seconds, name_of, require_async
from .._vocabulary.results import Err, Ok, Result
from .attempt import attempt, failed
from .task import Task
from .telling import hooked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .._vocabulary.hooks import TaskKind
    from .tasks import Tasks

T = TypeVar("T")


def start_task(
    tasks: Tasks,
    fn: Callable[..., Coroutine[Any, Any, T]],
    args: tuple[Any, ...],
    *,
    name: str | None,
    timeout: float | None,
) -> Task[T]:
    """`s.task`: check everything, then start or queue it."""
    tasks.owner.require_open("task", fn)
    limit = None if timeout is None else check_seconds("timeout", timeout)
    name = None if name is None else check_name("name", name)
    task = Task(tasks, call_async("s.task", fn, args), fn, name, limit)  # keywords would cost a dict
    task.launch()
    return task


def start_soon(
    tasks: Tasks, fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], *, name: str | None, daemon: bool
) -> None:
    """`s.start_soon`: no result, and a failure cancels the scope."""
    tasks.owner.require_open("start_soon", fn)
    name = None if name is None else check_name("name", name)
    kind: TaskKind = "daemon" if daemon else "start_soon"
    Task(tasks, call_async("s.start_soon", fn, args), fn, name=name, kind=kind).launch()


async def run_here(
    tasks: Tasks,
    fn: Callable[..., Coroutine[Any, Any, T]],
    args: tuple[Any, ...],
    name: str | None,
    timeout: float | None,
) -> Result[T]:
    """`s.run`: as a task, but in the calling one."""
    owner = tasks.owner
    try:
        owner.require_open("run", fn)  # what `admit` does, without its frame
    except ScopeClosed as late:
        await refuse(late)
    limit = None if timeout is None else check_seconds("timeout", timeout)
    subject = fn if name is None else check_name("name", name)
    coro = call_async("s.run", fn, args)
    with Call(owner, subject, owner.next_index()) as call:
        if limit is not None or owner.hooks is not None:
            result = await _told(call, coro, limit)
        else:
            try:
                result = Ok(await coro)  # what `attempt` does, without its frame
            except Exception as error:
                result = failed(error)
        try:
            tasks.count(result.pair()[0])
            return result
        finally:
            del result  # the frames of an error lead to this one
    owner.explain_cut()
    cut = TaskCancelled(task=call.full_label, reason=owner.cancel_reason)
    tasks.count(cut)
    return Err(cut)


async def _told(call: Call, coro: Coroutine[Any, Any, T], limit: float | None) -> Result[T]:
    """Await it for at most `limit` seconds, and tell the hooks."""
    work = attempt(coro, limit, call.full_label)
    if call.owner.hooks is None:
        return await work
    assert call.index is not None
    return await hooked(work, call.owner, call.title, call.index, "run")


async def start(
    tasks: Tasks, fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], *, name: str | None
) -> Any:
    """`s.start`: wait until the task says `task_status.started(value)`, and give that value.

    Until then the task belongs to the caller: its errors and its cancellation are the caller's.
    """
    await tasks.owner.admit("start", fn)
    require_async("s.start", fn, args)
    name = None if name is None else check_name("name", name)

    ready = Ready()

    async def child(*, task_status: TaskStatus[Any]) -> None:
        ready.status = task_status
        owner.works.part(waiting)
        coro = fn(*args, task_status=ready)
        await Task(tasks, coro, fn, name=name, kind="start").drive_when_ready(ready)

    owner, title = tasks.owner, name or name_of(fn)
    waiting = Wait(title)
    owner.works.join(waiting)  # or a scope that is left before the task begins would not wait for it
    try:
        value = await owner.group.start(child, name=title)
    except BaseException as raised:
        if ready.failure is not None and sort_out(raised).error is None:  # AnyIO's asyncio lets go of it
            owner.report(ready.failure, owner.next_index(), f"in {title} of {owner.path}")
        raise
    finally:
        owner.works.part(waiting)
    ready.heard = True
    return value


class Ready(TaskStatus[Any]):
    """Passes `started()` on, and remembers that it was said.

    Attributes:
        status: What it is passed on to. Written once, when the task begins.
        said: Whether it was said. Written by `started`.
        heard: Whether the caller of `s.start` has got the value. Written by `start`.
        failure: The error of a task that ended before it said so. Written by the task.
    """

    status: TaskStatus[Any]

    def __init__(self) -> None:
        self.said = False
        self.heard = False
        self.failure: Exception | None = None

    def started(self, value: Any = None) -> None:
        """The task is ready; from now on it belongs to the scope."""
        self.status.started(value)
        self.said = True
