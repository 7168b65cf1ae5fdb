"""Hooks: what a scope tells to those who log, measure and trace (H1-H4, and T2, S9)."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import sys
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from anyscope import (
    Cancelled,
    CancelSource,
    Disposed,
    Err,
    Hooks,
    Ok,
    ScopeTimeout,
    TaskCancelled,
    TaskEnded,
    TaskStarted,
    TaskTimeout,
    current_scope,
    scope,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Boom(Exception):
    """An error of a user's function."""


async def ok(value: Any = None, after: float = 0) -> Any:
    await anyio.sleep(after)
    return value


async def bad(error: BaseException, after: float = 0) -> None:
    await anyio.sleep(after)
    raise error


async def hang() -> None:
    await anyio.sleep_forever()


class Simple(Hooks):
    """The simple layer, by overriding; everything it is told is in `log`."""

    def __init__(self, log: list[Any] | None = None, prefix: str = "") -> None:
        super().__init__()
        self.log: list[Any] = [] if log is None else log
        self.prefix = prefix

    def before_task(self, name: str, index: int, /) -> None:
        self.log.append((f"{self.prefix}before", name, index))

    def after_task(self, name: str, duration: float, error: BaseException | None, /) -> None:
        self.log.append((f"{self.prefix}after", name, error))

    def on_cancel(self, reason: object, /) -> None:
        self.log.append((f"{self.prefix}cancel", reason))

    def on_dispose(self, index: int, error: BaseException | None, /) -> None:
        self.log.append((f"{self.prefix}dispose", index, error))


class Full(Hooks):
    """The full layer: the records themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def task_started(self, event: TaskStarted, /) -> None:
        self.log.append(event)

    def task_ended(self, event: TaskEnded, /) -> None:
        self.log.append(event)

    def cancelled(self, event: Cancelled, /) -> None:
        self.log.append(event)

    def disposed(self, event: Disposed, /) -> None:
        self.log.append(event)


# ------------------------------------------------------------------ forms (H1)


async def test_hooks_as_functions() -> None:
    """H1, H2: `Hooks(before_task=..., ...)` calls each with the arguments of the contract."""
    log: list[Any] = []
    hooks = Hooks(
        before_task=lambda name, index: log.append(("before", name, index)),
        after_task=lambda name, duration, error: log.append(("after", name, duration >= 0, error)),
        on_cancel=lambda reason: log.append(("cancel", reason)),
        on_dispose=lambda index, error: log.append(("dispose", index, error)),
    )
    async with scope(hooks=hooks) as s:
        s.on_exit(lambda: None)
        await s.task(ok, name="fetch")
        s.cancel("stop")
    assert log == [
        ("before", "fetch", 1),
        ("after", "fetch", True, None),
        ("cancel", "stop"),
        ("dispose", 0, None),
    ]


async def test_hooks_as_a_subclass() -> None:
    """H1: overriding the methods does the same, and the state lives on the object."""
    hooks = Simple()
    async with scope(hooks=hooks) as s:
        s.on_exit(lambda: None)
        await s.task(ok, name="fetch")
        s.cancel("stop")
    assert hooks.log == [("before", "fetch", 1), ("after", "fetch", None), ("cancel", "stop"), ("dispose", 0, None)]


async def test_hooks_with_some_moments_only() -> None:
    """H1: what is not given is not called, and not missed."""
    log: list[str] = []
    async with scope(hooks=Hooks(before_task=lambda name, index: log.append(name))) as s:
        await s.task(ok)
        await s.task(bad, Boom())
        s.cancel()
    assert log == ["ok", "bad"]


async def test_a_subclass_that_is_given_functions_too() -> None:
    """H1: the function given wins over the method, the other methods stay."""
    log: list[Any] = []

    class Mixed(Hooks):
        def before_task(self, name: str, index: int, /) -> None:
            log.append("method")

        def after_task(self, name: str, duration: float, error: BaseException | None, /) -> None:
            log.append("after")

    async with scope(hooks=Mixed(before_task=lambda name, index: log.append("function"))) as s:
        await s.task(ok)
    assert log == ["function", "after"]


async def test_several_hooks_nest() -> None:
    """H1: `before` in the order given, `after` in reverse."""
    log: list[Any] = []
    async with scope(hooks=[Simple(log, "a "), Simple(log, "b "), Simple(log, "c ")]) as s:
        await s.task(ok)
    assert [entry[0] for entry in log] == ["a before", "b before", "c before", "c after", "b after", "a after"]


async def test_a_generator_of_hooks_is_accepted() -> None:
    """H1: "several" is any iterable, read once."""
    log: list[Any] = []
    async with scope(hooks=(Simple(log, p) for p in "ab")) as s:
        await s.task(ok)
    assert [entry[0] for entry in log] == ["abefore", "bbefore", "bafter", "aafter"]


async def test_children_inherit_outer_to_inner() -> None:
    """H1, S9: the parent's before the child's own, in reverse afterwards; the parent's tasks tell the parent's only."""
    log: list[Any] = []
    async with scope(hooks=Simple(log, "outer ")) as s:
        async with scope(hooks=Simple(log, "middle ")), scope(hooks=Simple(log, "inner ")) as inner:
            await inner.task(ok)
        assert [entry[0] for entry in log] == [
            "outer before", "middle before", "inner before", "inner after", "middle after", "outer after",
        ]  # fmt: skip
        log.clear()
        await s.task(ok)
    assert [entry[0] for entry in log] == ["outer before", "outer after"]


async def test_a_root_and_a_scope_with_a_signal_inherit_no_hooks() -> None:
    """H1, S9, S10: hooks come from the parent."""
    hooks = Simple()
    async with scope(hooks=hooks) as s:
        async with scope(parent=None) as root:
            await root.task(ok)
        async with scope(signal=s.signal) as alone:
            await alone.task(ok)
    assert hooks.log == []


@pytest.mark.parametrize("wrong", [print, [Simple(), 3], "hooks", 7, {"before_task": print}])
def test_what_is_no_hooks_is_refused(wrong: Any) -> None:
    """H1, S12: with the line to write."""
    with pytest.raises(TypeError, match=r"Right: hooks=Hooks\(before_task=\.\.\.\)"):
        scope(hooks=wrong)


def test_an_async_hook_is_refused() -> None:
    """H4, S12: hooks are called, never awaited."""
    with pytest.raises(TypeError, match="before_task must be a plain function, but hang is async"):
        Hooks(before_task=hang)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_cancel must be a function or None"):
        Hooks(on_cancel=3)  # type: ignore[arg-type]


def test_the_text_of_hooks_is_exact() -> None:
    """H1: repr shows which moments are used, in either layer."""
    assert repr(Hooks()) == "<Hooks nothing>"
    assert repr(Hooks(on_cancel=print, before_task=print)) == "<Hooks before_task, on_cancel>"
    assert repr(Simple()) == "<Simple before_task, after_task, on_cancel, on_dispose>"
    assert repr(Full()) == "<Full before_task, after_task, on_cancel, on_dispose>"


# ------------------------------------------------------------------ tasks (H2)


async def test_after_task_gets_the_error() -> None:
    """H2: the very exception, a `TaskTimeout`, a `TaskCancelled` with its reason, or `None`."""
    hooks, error = Simple(), Boom()
    async with scope(hooks=hooks) as s:
        await s.task(bad, error)
        await s.task(hang, timeout=0.001)
        task = s.task(hang)
        await anyio.sleep(0.001)
        task.cancel("why")
        await task
    failed, timed_out, cancelled = (entry[2] for entry in hooks.log if entry[0] == "after")
    assert failed is error
    assert type(timed_out) is TaskTimeout
    assert type(cancelled) is TaskCancelled
    assert cancelled.reason == "why"


@pytest.mark.virtual_time
async def test_the_duration_is_the_run_time_without_queueing() -> None:
    """H2, H3: in seconds; the queueing is in the record as `waited`."""
    hooks = Full()
    async with scope(name="app", concurrency=1, hooks=hooks) as s:
        s.task(anyio.sleep, 3, name="first")
        s.task(anyio.sleep, 2, name="second")
    ended = [event for event in hooks.log if isinstance(event, TaskEnded)]
    assert [(event.name, event.duration) for event in ended] == [("first", 3), ("second", 2)]
    assert [event.waited for event in ended] == [0, 3]
    assert [event.waited for event in hooks.log if isinstance(event, TaskStarted)] == [0, 3]


@pytest.mark.virtual_time
async def test_durations_of_tasks_that_fail_and_are_cancelled() -> None:
    """H2: the same clock for every end, also with a slow clean-up."""
    seen: dict[str, float] = {}

    async def slow_clean_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(4)

    hooks = Hooks(after_task=lambda name, duration, error: seen.update({name: duration}))
    async with scope(hooks=hooks) as s:
        await s.task(bad, Boom(), 1)
        await s.task(hang, timeout=2)
        task = s.task(slow_clean_up)
        await anyio.sleep(3)
        task.cancel()
        await s.run(ok, None, 5)
    assert seen == {"bad": 1, "hang": 2, "slow_clean_up": 7, "ok": 5}


async def test_the_records_of_each_kind() -> None:
    """H2: name, index, path, kind, outcome and error for every way to start work; frozen."""
    hooks = Full()
    events: dict[str, tuple[TaskStarted, TaskEnded]] = {}

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()

    async with scope(name="app", hooks=hooks), scope(name="in") as s:
        await s.task(ok, name="a task")
        await s.run(ok, name="a run")
        s.start_soon(ok, name="a start_soon")
        s.start_soon(ok, name="a daemon", daemon=True)
        await s.start(serve, name="a start")
        await anyio.sleep(0.005)
        for started in [event for event in hooks.log if isinstance(event, TaskStarted)]:
            (ended,) = [event for event in hooks.log if isinstance(event, TaskEnded) and event.index == started.index]
            events[started.kind] = started, ended
    assert sorted(events) == ["daemon", "run", "start", "start_soon", "task"]
    for kind, (started, ended) in events.items():
        assert started == TaskStarted(name=f"a {kind}", index=started.index, path="app > in", kind=kind, waited=0)
        assert ended == TaskEnded(
            name=f"a {kind}", index=started.index, path="app > in", kind=kind,
            waited=0, duration=ended.duration, outcome="ok", error=None,
        )  # fmt: skip
        with pytest.raises(dataclasses.FrozenInstanceError):
            started.name = "x"  # type: ignore[misc]
    assert len({started.index for started, _ in events.values()}) == 5


async def test_outcomes() -> None:
    """H2: `ok`, `error` or `cancelled`; a time-out is an error."""
    hooks = Full()
    async with scope(hooks=hooks) as s:
        for task in (s.task(ok), s.task(bad, Boom()), s.task(hang, timeout=0), s.task(hang, name="cut")):
            await anyio.sleep(0.001)
            task.cancel()
            await task
    outcomes = {event.index: event.outcome for event in hooks.log if isinstance(event, TaskEnded)}
    assert outcomes == {0: "ok", 1: "error", 2: "error", 3: "cancelled"}


async def test_every_start_has_its_end() -> None:
    """H2: exactly one, whatever became of the task, also when the scope is cancelled or crashes."""
    for end in ("normal", "cancel", "error", "crash", "deadline", "outside"):
        hooks = Full()
        try:
            with anyio.move_on_after(0.01 if end == "outside" else 30):
                async with scope(hooks=hooks, concurrency=5, timeout=0.005 if end == "deadline" else None) as s:
                    for n in range(4):
                        s.task(ok, n, 0.001 * n)
                    for _ in range(5):
                        s.task(hang, timeout=0.002 if end == "normal" else None)
                    await s.run(ok)
                    await anyio.sleep(0.002)
                    match end:
                        case "cancel":
                            s.cancel()
                        case "error":
                            raise Boom
                        case "crash":
                            s.start_soon(bad, Boom(), daemon=True)
                            await anyio.sleep_forever()
                        case "deadline" | "outside":
                            await anyio.sleep_forever()
        except (Boom, ExceptionGroup, ScopeTimeout):
            pass
        started = sorted(event.index for event in hooks.log if isinstance(event, TaskStarted))
        ended = sorted(event.index for event in hooks.log if isinstance(event, TaskEnded))
        assert started == ended, end
        assert len(set(started)) == len(started), end


async def test_a_task_that_never_began_is_not_told() -> None:
    """H2: one that was cancelled in the queue has neither a beginning nor an end."""
    hooks = Simple()
    async with scope(hooks=hooks, concurrency=1) as s:
        s.task(ok, 1, 0.002)
        s.task(ok, name="queued").cancel()
    assert [entry[1] for entry in hooks.log] == ["ok", "ok"]


async def test_run_is_told_as_a_task() -> None:
    """T2, H2: `run` gives the hooks a beginning and an end too, with its error."""
    hooks, error = Simple(), Boom()
    async with scope(hooks=hooks) as s:
        await s.run(ok, name="good")
        await s.run(bad, error)
        with anyio.move_on_after(0.001):
            await s.run(hang)
    kinds = [entry[:2] for entry in hooks.log]
    assert kinds == [(moment, name) for name in ("good", "bad", "hang") for moment in ("before", "after")]
    assert hooks.log[3][2] is error
    assert type(hooks.log[5][2]) is TaskCancelled


async def test_the_end_is_told_before_who_waits_goes_on() -> None:
    """H3: `after_task` runs inside the task, so its end is told before its result is had."""
    hooks = Simple()
    async with scope(hooks=hooks) as s:
        await s.task(ok)
        assert [entry[0] for entry in hooks.log] == ["before", "after"]


# ------------------------------------------------------------------ cancellation (H2)


async def test_on_cancel_for_an_explicit_cancel() -> None:
    """H2: once, with the first reason, at the call."""
    hooks = Full()
    async with scope(name="app", hooks=hooks) as s:
        s.cancel("first")
        assert hooks.log == [Cancelled(path="app", kind="cancel", reason="first")]
        s.cancel("second")
    assert hooks.log == [Cancelled(path="app", kind="cancel", reason="first")]


async def test_on_cancel_for_a_deadline() -> None:
    """H2: the reason is the `ScopeTimeout` that leaves."""
    hooks = Full()
    with pytest.raises(ScopeTimeout) as info:
        async with scope(name="app", hooks=hooks, timeout=0.005):
            await anyio.sleep_forever()
    assert hooks.log == [Cancelled(path="app", kind="deadline", reason=info.value)]


async def test_on_cancel_for_the_parent() -> None:
    """H2, S9: once for each scope, with the parent's reason."""
    hooks = Full()
    async with scope(name="app", hooks=hooks) as s, scope(name="in"):
        s.cancel("above")
    assert hooks.log == [
        Cancelled(path="app", kind="cancel", reason="above"),
        Cancelled(path="app > in", kind="parent", reason="above"),
    ]


async def test_on_cancel_for_a_signal() -> None:
    """H2, S10: kind `signal`, with its reason."""
    hooks, source = Full(), CancelSource()
    async with scope(name="app", hooks=hooks, signal=source.signal):
        source.cancel("stop")
    assert hooks.log == [Cancelled(path="app", kind="signal", reason="stop")]


async def test_on_cancel_for_an_error_of_the_body() -> None:
    """H2, S3: kind `error`, and the reason is the exception."""
    hooks, error = Full(), Boom()
    with pytest.raises(Boom):
        async with scope(name="app", hooks=hooks):
            raise error
    assert hooks.log == [Cancelled(path="app", kind="error", reason=error)]


async def test_on_cancel_for_a_crash() -> None:
    """H2, T3: the same for `start_soon`."""
    hooks, error = Full(), Boom()
    with pytest.raises(ExceptionGroup):
        async with scope(name="app", hooks=hooks) as s:
            s.start_soon(bad, error)
            await anyio.sleep_forever()
    assert [event for event in hooks.log if isinstance(event, Cancelled)] == [
        Cancelled(path="app", kind="error", reason=error)
    ]


@pytest.mark.parametrize("inside", [True, False], ids=["in the body", "while waiting"])
async def test_on_cancel_for_a_cancellation_from_outside(inside: bool) -> None:
    """H2, S8: kind `outside`, once, also if several tasks were cut off."""
    for _ in range(20):  # on asyncio the order in which tasks hear of a cancellation is a matter of chance
        hooks = Full()
        with anyio.move_on_after(0.001):
            async with scope(name="app", hooks=hooks) as s:
                for _ in range(3):
                    s.task(hang)
                if inside:
                    await anyio.sleep_forever()
        events = [event for event in hooks.log if isinstance(event, Cancelled)]
        assert [(event.path, event.kind) for event in events] == [("app", "outside")]


async def test_on_cancel_is_never_called_on_a_normal_end() -> None:
    """H2: also with failed tasks, daemons that are stopped, time-outs of tasks and cancelled tasks."""
    hooks = Simple()
    async with scope(hooks=hooks, timeout=30) as s:
        s.start_soon(hang, daemon=True)
        await s.task(bad, Boom())
        await s.task(hang, timeout=0.001)
        s.task(hang).cancel("task only")
        s.on_exit(lambda: None)
        await anyio.lowlevel.checkpoint()
    assert [entry for entry in hooks.log if entry[0] == "cancel"] == []
    assert not s.cancelled


async def test_on_cancel_is_not_called_for_unobserved_errors() -> None:
    """H2, S4: errors that leave at the end did not cancel anything."""
    hooks = Simple()
    with pytest.raises(ExceptionGroup):
        async with scope(hooks=hooks) as s:
            s.task(bad, Boom())
    assert [entry for entry in hooks.log if entry[0] == "cancel"] == []


async def test_a_child_that_enters_a_cancelled_parent_tells_it() -> None:
    """H2, S9: at its entry, with the parent's reason."""
    hooks = Full()
    async with scope(name="app", hooks=hooks) as s:
        s.cancel("before")
        async with scope(name="in"):
            pass
    assert hooks.log[1] == Cancelled(path="app > in", kind="parent", reason="before")


# ------------------------------------------------------------------ clean-up (H2)


async def test_on_dispose_index_and_error() -> None:
    """H2: once for each thing closed, last opened first; the index is the order of creation."""
    hooks, error = Full(), Boom("close")

    def fail() -> None:
        raise error

    def fine() -> None: ...

    with pytest.raises(ExceptionGroup) as info:
        async with scope(name="app", hooks=hooks) as s:
            s.on_exit(fine)
            await s.task(ok)
            s.on_exit(fail)
            s.on_exit(fine)
    assert info.value.exceptions == (error,)
    disposed = [event for event in hooks.log if isinstance(event, Disposed)]
    assert [(event.path, event.index, event.label, event.error) for event in disposed] == [
        ("app", 3, "fine", None),
        ("app", 2, "fail", error),
        ("app", 0, "fine", None),
    ]


@pytest.mark.virtual_time
async def test_on_dispose_tells_how_long_it_took() -> None:
    """H2: in seconds."""
    hooks = Full()
    async with scope(hooks=hooks) as s:
        s.on_exit(anyio.sleep, 3)
    (event,) = hooks.log
    assert event.duration == 3
    assert event.label == "sleep"


async def test_a_child_tells_its_clean_ups_to_the_hooks_of_the_parent() -> None:
    """H1, H2: with the path of the child."""
    hooks = Full()
    async with scope(name="app", hooks=hooks), scope(name="in") as child:
        child.on_exit(lambda: None)
    assert [(event.path, event.index) for event in hooks.log] == [("app > in", 0)]


# ------------------------------------------------------------------ inside the task (H3)


span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")


class Tracer(Hooks):
    """Makes a span current in each task, as a tracer does."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[tuple[str, str]] = []
        self._open: dict[tuple[str, int], contextvars.Token[str]] = {}

    def task_started(self, event: TaskStarted, /) -> None:
        self._open[event.path, event.index] = span.set(f"{span.get()}/{event.name}")

    def task_ended(self, event: TaskEnded, /) -> None:
        self.tokens.append((event.name, span.get()))
        span.reset(self._open.pop((event.path, event.index)))  # raises in any other context


async def current() -> str:
    await anyio.lowlevel.checkpoint()
    return span.get()


async def test_a_variable_set_in_before_task_is_seen_by_the_task_and_not_outside() -> None:
    """H3: the hook runs in the task's own context."""
    hooks = Tracer()
    async with scope(hooks=hooks) as s:
        first, second = s.task(current, name="a"), s.task(current, name="b")
        assert await first == Ok("none/a")
        assert await second == Ok("none/b")
        assert span.get() == "none"
        assert s.statistics().hook_failures == 0


async def test_spans_nest() -> None:
    """H3: tasks started inside a task see its span, also through child scopes and `run`."""
    hooks = Tracer()

    async def outer() -> list[str]:
        seen = [await current(), await s.task(current, name="inner").unwrap()]
        seen.append((await s.run(current, name="run")).unwrap())
        async with scope() as child:
            seen.append(await child.task(current, name="child").unwrap())
        seen.append(await current())
        return seen

    async with scope(hooks=hooks) as s:
        outcome = await s.task(outer, name="outer")
        assert outcome == Ok(["none/outer", "none/outer/inner", "none/outer/run", "none/outer/child", "none/outer"])
        assert s.statistics().hook_failures == 0


@pytest.mark.parametrize("end", ["ok", "error", "timeout", "cancelled", "scope cancelled"])
@pytest.mark.parametrize("kind", ["task", "run", "start_soon", "daemon", "start"])
async def test_the_span_is_current_until_after_task_and_gone_afterwards(kind: str, end: str) -> None:
    """H3: `after_task` finds what `before_task` has set, in the same context, however the task ended."""
    hooks = Tracer()

    async def work() -> str:
        if end == "ok":
            return await current()
        if end == "error":
            await bad(Boom())
        await hang()
        return ""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await work()

    limit = 0.002 if end == "timeout" else None
    try:
        async with scope(hooks=hooks) as s:
            if kind == "task":
                task = s.task(work, name="w", timeout=limit)
                await anyio.sleep(0.001)
                if end == "cancelled":
                    task.cancel()
                if end != "scope cancelled":
                    await task
            elif kind == "run":
                with anyio.move_on_after(0.002 if end == "cancelled" else 30):
                    if end == "scope cancelled":
                        s.start_soon(_cancel_soon, s, name="canceller")
                    await s.run(work, name="w", timeout=limit)
            elif kind == "start":
                await s.start(serve, name="w")
            else:
                s.start_soon(work, name="w", daemon=kind == "daemon")
            assert span.get() == "none"
            await anyio.sleep(0.002)
            s.cancel()
    except (Boom, ExceptionGroup):
        pass
    assert ("w", "none/w") in hooks.tokens
    assert hooks._open == {}
    assert span.get() == "none"
    assert s.statistics().hook_failures == 0


async def _cancel_soon(s: Any) -> None:
    await anyio.sleep(0.002)
    s.cancel()


async def test_the_scope_is_current_in_the_hooks_of_a_task() -> None:
    """H3, S11: a hook may look at the scope of its task."""
    seen: list[Any] = []
    hooks = Hooks(
        before_task=lambda name, index: seen.append(current_scope()),
        after_task=lambda name, duration, error: seen.append(current_scope()),
    )
    async with scope() as outer, scope(hooks=hooks) as s:
        await s.task(ok)
        await s.run(ok)
        async with scope(name="other"):
            await s.run(ok)
            assert current_scope().name == "other"
        assert outer.statistics().running == 0
    assert seen == [s] * 6


# ------------------------------------------------------------------ hooks that raise (H4)


class Broken(Hooks):
    """Raises at one moment."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment
        self.calls = 0

    def _called(self, moment: str) -> None:
        if moment == self.moment:
            self.calls += 1
            raise RuntimeError(f"bug in {moment}")

    def before_task(self, name: str, index: int, /) -> None:
        self._called("before_task")

    def after_task(self, name: str, duration: float, error: BaseException | None, /) -> None:
        self._called("after_task")

    def on_cancel(self, reason: object, /) -> None:
        self._called("on_cancel")

    def on_dispose(self, index: int, error: BaseException | None, /) -> None:
        self._called("on_dispose")


@pytest.mark.parametrize(
    ("moment", "times"), [("before_task", 5), ("after_task", 5), ("on_cancel", 1), ("on_dispose", 3)]
)
async def test_a_raising_hook_changes_nothing(moment: str, times: int, caplog: pytest.LogCaptureFixture) -> None:
    """H4: logged once with its traceback, then counted; the other hooks run, and so does everything else."""
    log: list[Any] = []
    closed: list[int] = []
    broken, error = Broken(moment), Boom()
    with caplog.at_level(logging.DEBUG, logger="anyscope"):
        async with scope(name="app", hooks=[Simple(log, "outer "), broken, Simple(log, "inner ")]) as s:
            for n in range(3):
                s.on_exit(closed.append, n)
            assert await s.task(ok, 1) == Ok(1)
            assert await s.task(bad, error) == Err(error)
            assert await s.run(ok, 2) == Ok(2)
            s.start_soon(ok)
            task = s.task(hang)
            await anyio.sleep(0.005)
            s.cancel("stop")
    assert task.status == "cancelled"
    assert closed == [2, 1, 0]
    assert broken.calls == times
    assert s.statistics().hook_failures == times
    for who in ("outer ", "inner "):
        moments = [entry[0].removeprefix(who) for entry in log if entry[0].startswith(who)]
        assert {m: moments.count(m) for m in moments} == {"before": 5, "after": 5, "cancel": 1, "dispose": 3}
    (record,) = caplog.records
    assert record.name == "anyscope"
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == f"bug in {moment}"


async def test_a_raising_method_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """H4: the record tells which hook it was: the user's class, for there may be several."""
    async with scope(hooks=Broken("on_cancel")) as s:
        s.cancel()
    (record,) = caplog.records
    assert "Broken" in record.getMessage()


async def test_a_raising_function_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """H4: the record tells which hook it was: the user's function."""

    def on_my_cancel(reason: object) -> None:
        raise RuntimeError("bug")

    async with scope(hooks=Hooks(on_cancel=on_my_cancel)) as s:
        s.cancel()
    (record,) = caplog.records
    assert "on_my_cancel" in record.getMessage()


async def test_a_raising_hook_of_the_full_layer(caplog: pytest.LogCaptureFixture) -> None:
    """H4: isolated as well."""

    class BrokenFull(Hooks):
        def task_started(self, event: TaskStarted, /) -> None:
            raise RuntimeError("bug")

    async with scope(hooks=BrokenFull()) as s:
        for _ in range(3):
            assert await s.task(ok, 1) == Ok(1)
        assert s.statistics().hook_failures == 3
    assert len(caplog.records) == 1


async def test_each_hook_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """H4: "the first failure of each hook": two broken ones, two records."""
    async with scope(hooks=[Broken("before_task"), Broken("before_task"), Broken("after_task")]) as s:
        for _ in range(4):
            await s.task(ok)
        assert s.statistics().hook_failures == 12
    assert len(caplog.records) == 3


async def test_a_broken_hook_of_the_parent_is_logged_once_for_all_children(caplog: pytest.LogCaptureFixture) -> None:
    """H4: a server with a scope per request does not fill its log."""
    async with scope(hooks=Broken("before_task")) as s:
        for _ in range(5):
            async with scope(hooks=Simple()) as child:
                await child.task(ok)
        assert s.statistics().hook_failures == 5
    assert len(caplog.records) == 1


async def test_a_hook_may_use_the_scope() -> None:
    """H4: starting a task or cancelling from inside a hook works."""
    log: list[str] = []

    def start_another(name: str, duration: float, error: BaseException | None) -> None:
        if name == "first":
            s.task(_note, log, name="second")

    async with scope(hooks=Hooks(after_task=start_another)) as s:
        s.task(ok, name="first")
    assert log == ["ran"]

    async with scope(hooks=Hooks(before_task=lambda name, index: s.cancel("from a hook"))) as s:
        task = s.task(hang)
    assert s.cancel_reason == "from a hook"
    assert task.status == "cancelled"


async def _note(log: list[str]) -> None:
    log.append("ran")


async def test_hooks_are_told_no_values() -> None:
    """H2, law 8: neither arguments nor results are in any record."""
    hooks = Full()
    async with scope(hooks=hooks) as s:
        await s.task(ok, "s3cret")
        s.on_exit(ok, "s3cret")
    assert len(hooks.log) == 3
    assert "s3cret" not in repr(hooks.log)
