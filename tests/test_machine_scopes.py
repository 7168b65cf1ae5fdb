"""The scope tree, model against implementation (S2-S10, S13, T1, T3, T5-T7, H1, H2).

`Model` says in plain data what DESIGN.md says in words: who is cancelled with whom, who waits for whom, what leaves a
scope. The rules of `ScopeTree` do the same to it and to real scopes (see machines.py). After each step these must be
equal: the text of every tree, the `repr` and counts of every scope, the outcome of every task, what each scope raised,
which clean-ups ran in which order, and every event that the hooks were told.

Beyond the model, the real work itself looks about: a clean-up runs only when no task and no child of its scope is left,
and nothing of a scope is left behind its block.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from anyscope import AnyscopeError, Err, Hooks, Result, Scope, Task, scope
from machines import Boom, Fault, Machine, World, budget, fraction, group, picked, told

PATIENCE = 3
"""The `close_timeout` of each scope, in seconds, and a fraction."""


# ------------------------------------------------------------------ the model
@dataclass(frozen=True)
class Plan:
    """What a piece of work does.

    Attributes:
        lasts: How many seconds and a fraction; 0 for no checkpoint at all, `None` for ever.
        fails: Whether it raises at its end.
        cut: What it does when cancelled: it `goes`, `lingers` for a second, `stays` with a value, or `fails`.
    """

    lasts: int | None = None
    fails: bool = False
    cut: str = "goes"


@dataclass(eq=False, repr=False)
class ModelScope:
    """A scope. `works`, `daemons` and `children` hold what is alive, in order of arrival."""

    name: str
    how: str
    parent: ModelScope | None
    host: ModelTask | None
    number: int
    cut_plan: str
    has_hooks: bool
    phase: str = "open"
    limit: float | None = None
    cancelled: tuple[str, str] | None = None  # by what, and the reason as it is shown
    was_cut: bool = False
    is_cut_from_outside: bool = False
    is_body_waiting: bool = True
    body_fault: Fault | None = None
    created: int = 0
    works: dict[Any, None] = field(default_factory=dict)
    daemons: dict[ModelTask, None] = field(default_factory=dict)
    children: dict[ModelScope, None] = field(default_factory=dict)
    listeners: dict[ModelScope, None] = field(default_factory=dict)
    clean_ups: list[ModelCleanUp] = field(default_factory=list)
    closing: ModelCleanUp | None = None
    ran: list[str] = field(default_factory=list)
    reports: list[tuple[tuple[int, int], Fault, str]] = field(default_factory=list)
    unobserved: dict[ModelTask, None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 0, "error": 0, "cancelled": 0})
    timeout_fault: Fault | None = None
    fault: Fault | None = None
    left: str = ""

    def _repr_pretty_(self, printer: Any, _: object) -> None:
        printer.text(self.name)

    @property
    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path} > {self.name}"

    @property
    def label(self) -> str:
        return f"scope {self.name}"

    def next_index(self) -> int:
        self.created += 1
        return self.created - 1


@dataclass(frozen=True)
class Jobs:
    """A call of `s.parallel`: a plan for each job, how many run at once, and whether the first error ends it."""

    plans: tuple[Plan, ...]
    at_once: int | None = None
    fail_fast: bool = False


@dataclass(eq=False)
class ModelCall:
    """A call of `s.parallel` under way: how many jobs were taken, and the indexes of those that run."""

    label: str = "s.parallel"
    taken: int = 0
    running: dict[int, int] = field(default_factory=dict)
    results: dict[int, str] = field(default_factory=dict)
    is_halted: bool = False


@dataclass(eq=False, repr=False)
class ModelTask:
    """A piece of work; `child` is the scope that it is the host of, `jobs` what it calls `s.parallel` with."""

    owner: ModelScope
    name: str
    index: int
    kind: str
    plan: Plan
    number: int
    limit: float | None = None
    child: ModelScope | None = None
    jobs: Jobs | None = None
    call: ModelCall | None = None
    value: object = ""
    state: str = "running"
    why: str | None = None
    is_lingering: bool = False
    is_watched: bool = False
    fault: Fault | None = None

    def _repr_pretty_(self, printer: Any, _: object) -> None:
        printer.text(self.name)

    @property
    def label(self) -> str:
        return f"{self.name} (#{self.index})"

    @property
    def note(self) -> str:
        return f"in task {self.label} of {self.owner.path}"


@dataclass(eq=False)
class ModelCleanUp:
    name: str
    index: int
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} (#{self.index})"


class Model:
    """The tree of scopes, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scopes: list[ModelScope] = []
        self.tasks: list[ModelTask] = []
        self.hooks: list[str] = []
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._number = itertools.count()

    # -------------------------------------------------------------- time
    def later(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._number), call))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, call = heapq.heappop(self._timers)
            call()
        self.now = end

    # -------------------------------------------------------------- cancellation (S5, S6, S9, S10)
    def cancel(self, s: ModelScope, kind: str, reason: str) -> None:
        marked: list[ModelScope] = []
        self._mark(s, kind, reason, marked)
        for each in marked:
            self._cut_everything(each)

    def _mark(self, s: ModelScope, kind: str, reason: str, marked: list[ModelScope]) -> None:
        if s.cancelled is not None or s.phase in ("closing", "closed"):
            return
        s.cancelled = (kind, reason)
        marked.append(s)
        if s.has_hooks:
            self.hooks.append(f"{s.path} cancelled by {shown_kind(kind, reason)}{reason}")
        for child in s.listeners:
            self._mark(child, "signal", reason, marked)
        for child in s.children:
            self._mark(child, "parent", reason, marked)

    def _cut_everything(self, s: ModelScope) -> None:
        if s.is_body_waiting:
            is_failing = s.cut_plan == "fails"
            self.end_body(s, fault=Fault("Boom", f"{s.name} cut") if is_failing else None, is_cut=not is_failing)
        for work in list(s.works):
            if isinstance(work, ModelTask) and work.child is None:
                self.interrupt(work)

    def cut(self, s: ModelScope) -> None:
        """Something of it was really cut off, so its deadline, if it was that, is an error."""
        s.was_cut = True
        if s.cancelled is not None and s.cancelled[0] == "parent" and s.parent is not None:
            self.cut(s.parent)

    # -------------------------------------------------------------- tasks (T1, T3, T5-T7)
    def start(self, task: ModelTask) -> None:
        s = task.owner
        self.tasks.append(task)
        (s.daemons if task.kind == "daemon" else s.works)[task] = None
        if s.has_hooks:
            self.hooks.append(f"{s.path} {task.label} {task.kind} began")
        if task.limit is not None:
            self.later(task.limit, lambda: self.interrupt(task, by_limit=True))
        if task.child is not None:
            return
        if task.jobs is not None:
            self._start_jobs(task)
        elif task.plan.lasts == 0:
            self.end_by_itself(task)
        elif task.plan.lasts is not None:
            self.later(task.plan.lasts + fraction(task.number), lambda: self.end_by_itself(task))
        if s.cancelled is not None and task.kind != "daemon":
            self.interrupt(task)

    def end_by_itself(self, task: ModelTask) -> None:
        if task.state == "running" and not task.is_lingering:
            self.end(task, Fault("Boom", task.name) if task.plan.fails else None)

    def interrupt(self, task: ModelTask, *, by_limit: bool = False) -> None:
        if task.state != "running" or task.is_lingering:
            return
        if task.plan.cut == "lingers":
            task.is_lingering = True
            self.later(1 + fraction(-task.number), lambda: self._let_go(task, by_limit=by_limit))
        elif task.plan.cut == "goes":
            self._let_go(task, by_limit=by_limit)
        else:
            self.end(task, Fault("Boom", f"{task.name} cut") if task.plan.cut == "fails" else None)

    def _let_go(self, task: ModelTask, *, by_limit: bool) -> None:
        s = task.owner
        if by_limit and task.why is None and s.cancelled is None:
            text = f"task {task.label} of {s.path} ran over its timeout of {task.limit:g} s"
            self.end(task, Fault("TaskTimeout", text))
            return
        if task.why is None:
            self.cut(s)
        self.end_cancelled(task)

    def end_cancelled(self, task: ModelTask) -> None:
        s = task.owner
        assert task.why is not None or s.cancelled is not None
        reason = task.why if task.why is not None else s.cancelled[1]
        self._end(task, "cancelled", Fault("TaskCancelled", f"task {task.label} of {s.path} was cancelled{reason}"))

    def end(self, task: ModelTask, fault: Fault | None) -> None:
        self._end(task, "ok" if fault is None else "error", fault)

    def _end(self, task: ModelTask, state: str, fault: Fault | None) -> None:
        s = task.owner
        task.state, task.fault = state, fault
        if task.call is not None:
            self._end_call(task, task.call)
        s.counts[state] += 1
        if s.has_hooks:
            self.hooks.append(f"{s.path} {task.label} {task.kind} ended {state}")
        if state == "error" and task.kind in ("start_soon", "daemon"):
            assert fault is not None
            s.reports.append(((0, task.index), fault, task.note))
            self.cancel(s, "error", fault.reason)
        elif state == "error" and task.kind == "task" and not task.is_watched:
            s.unobserved[task] = None
        s.works.pop(task, None)
        s.daemons.pop(task, None)
        self.go_on(s)

    # -------------------------------------------------------------- jobs (A1, A3, A7, A9, A10)
    def _start_jobs(self, task: ModelTask) -> None:
        task.call = ModelCall()
        task.owner.works[task.call] = None
        if task.owner.cancelled is None:
            self._take_jobs(task, task.jobs, task.call)

    def _take_jobs(self, task: ModelTask, jobs: Jobs, call: ModelCall) -> None:
        while call.taken < len(jobs.plans) and len(call.running) != jobs.at_once and not call.is_halted:
            number = call.taken
            plan = jobs.plans[number]
            call.taken += 1
            call.running[number] = -1
            if task.owner.has_hooks:
                call.running[number] = task.owner.next_index()
                self.hooks.append(f"{_job(task, call, number)} began")
            if plan.lasts == 0:
                self._end_job(task, jobs, call, number)
            else:
                self._later_end_job(task, jobs, call, number)
        if not call.running and task.state == "running":
            task.value = [call.results[number] for number in range(len(jobs.plans))]
            self.end(task, None)

    def _later_end_job(self, task: ModelTask, jobs: Jobs, call: ModelCall, number: int) -> None:
        def end() -> None:
            if number in call.running:
                self._end_job(task, jobs, call, number)
                self._take_jobs(task, jobs, call)

        self.later(jobs.plans[number].lasts + fraction(task.number * 100 + number), end)

    def _end_job(self, task: ModelTask, jobs: Jobs, call: ModelCall, number: int) -> None:
        is_failing = jobs.plans[number].fails
        name = f"{task.name}.{number}"
        if task.owner.has_hooks:
            self.hooks.append(f"{_job(task, call, number)} ended {'error' if is_failing else 'ok'}")
        del call.running[number]
        call.results[number] = f"Boom: {name}" if is_failing else name
        if is_failing and jobs.fail_fast:
            call.is_halted = True
            self._cut_jobs(task, call)
            for other in set(range(len(jobs.plans))) - set(call.results):
                text = f"task job {other} of s.parallel in {task.owner.path} was cancelled (job {number} failed)"
                call.results[other] = f"TaskCancelled: {text}"

    def _cut_jobs(self, task: ModelTask, call: ModelCall) -> None:
        if task.owner.has_hooks:
            self.hooks += [f"{_job(task, call, number)} ended cancelled" for number in call.running]
        call.running.clear()

    def _end_call(self, task: ModelTask, call: ModelCall) -> None:
        self._cut_jobs(task, call)
        del task.owner.works[call]

    # -------------------------------------------------------------- the life of a scope (S2-S4, S7-S9)
    def enter(self, s: ModelScope, source: ModelScope | None) -> None:
        self.scopes.append(s)
        if s.parent is not None:
            s.parent.children[s] = None
            s.parent.works[s] = None
            if s.parent.cancelled is not None:
                self.cancel(s, "parent", s.parent.cancelled[1])
        if source is not None:
            source.listeners[s] = None
            if source.cancelled is not None:
                self.cancel(s, "signal", source.cancelled[1])
        if s.limit is not None:
            self.later(s.limit, lambda: self._expire(s))

    def _expire(self, s: ModelScope) -> None:
        if s.cancelled is None and s.phase in ("open", "draining"):
            running = ", ".join(dict.fromkeys(work.label for work in list(s.works)[:5]))
            more = f" and {len(s.works) - 5} more" if len(s.works) > 5 else ""
            tail = f"; still running: {running}{more}" if running else ""
            text = f"scope {s.path} ran over its timeout of {s.limit:g} s{tail}"
            s.timeout_fault = Fault("ScopeTimeout", text)
            self.cancel(s, "deadline", s.timeout_fault.reason)

    def end_body(self, s: ModelScope, *, fault: Fault | None = None, is_cut: bool = False) -> None:
        s.is_body_waiting = False
        s.phase = "draining"
        if is_cut:
            self.cut(s)
        if fault is not None:
            s.body_fault = fault
            self.cancel(s, "error", fault.reason)
        self.go_on(s)

    def go_on(self, s: ModelScope) -> None:
        """Tasks and children first, then the daemons, then the clean-ups, one after the other."""
        if s.phase == "draining" and not s.works:
            s.phase = "closing"
            for daemon in list(s.daemons):
                daemon.why = daemon.why or " (its scope has ended)"
                self.interrupt(daemon)
        if s.phase == "closing" and not s.daemons and s.closing is None:
            self._clean_up(s)

    def _clean_up(self, s: ModelScope) -> None:
        if not s.clean_ups:
            self._close(s)
            return
        step = s.closing = s.clean_ups.pop()
        s.ran.append(step.name)
        if step.kind == "hangs":
            limit = PATIENCE + fraction(s.number)
            text = f"scope {s.path}: clean-up {step} took longer than {limit:g} s and was abandoned"
            self.later(limit, lambda: self._cleaned_up(s, step, Fault("CloseTimeout", text)))
            return
        fault = Fault("Boom", step.name) if "fails" in step.kind else None
        if step.kind.startswith("later"):
            self.later(1 + fraction(step.number), lambda: self._cleaned_up(s, step, fault))
        else:
            self._cleaned_up(s, step, fault)

    def _cleaned_up(self, s: ModelScope, step: ModelCleanUp, fault: Fault | None) -> None:
        s.closing = None
        if fault is not None:
            s.reports.append(((1, len(s.reports)), fault, f"in clean-up {step} of {s.path}"))
        if s.has_hooks:
            self.hooks.append(f"{s.path} disposed of {step}: {fault.kind if fault else 'ok'}")
        self._clean_up(s)

    def _close(self, s: ModelScope) -> None:
        s.phase = "closed"
        is_cut_above = s.how in ("task", "start_soon") and s.parent.cancelled is not None
        fault = self._leaving(s, is_outside=is_cut_above or s.is_cut_from_outside)
        is_cut = fault is None and is_cut_above
        s.fault = fault
        s.left = "cancelled" if is_cut or s.is_cut_from_outside else "quietly"
        if s.parent is not None:
            del s.parent.children[s], s.parent.works[s]
        if s.host is None:
            if s.parent is not None:
                self.go_on(s.parent)
        elif is_cut:
            self.cut(s.parent)
            self.end_cancelled(s.host)
        else:
            self.end(s.host, fault)

    def _leaving(self, s: ModelScope, *, is_outside: bool) -> Fault | None:
        """What leaves it: see the table in docs/errors.md."""
        reports = [*s.reports, *(((0, task.index), task.fault, task.note) for task in s.unobserved)]
        errors = []
        if s.body_fault is not None:
            errors.append((s.body_fault, f"in the body of {s.path}"))
        if s.was_cut and s.cancelled is not None and s.cancelled[0] == "deadline" and not is_outside:
            errors.append((s.timeout_fault, f"in {s.path}"))
        if len(errors) == 1 and not reports:
            return errors[0][0]
        errors += [(fault, note) for _, fault, note in sorted(reports, key=lambda report: report[0])]
        if not errors:
            return None
        return group(s.path, errors)

    # -------------------------------------------------------------- how it looks (S13)
    def view(self) -> list[str]:
        lines = [line for s in self.scopes if s.parent is None for line in self._tree(s, "")]
        for s in self.scopes:
            lines += [self._summary(s), f"{s.name} ran {s.ran}, left {s.fault or s.left or 'not'}"]
        lines += [f"{task.name} {task.state}: {task.fault} {task.value}" for task in self.tasks if task.kind == "task"]
        return lines + sorted(self.hooks)

    def _tree(self, s: ModelScope, indent: str) -> Iterator[str]:
        yield f"{indent}scope {s.name} {s.phase}{_shown(s)}"
        for work in (*s.works, *s.daemons):
            if isinstance(work, ModelCall) or (isinstance(work, ModelTask) and work.kind == "run"):
                yield f"{indent}  call {work.label}"
            elif isinstance(work, ModelTask):
                yield f"{indent}  task {work.label} running{'' if work.kind == 'task' else f' ({work.kind})'}"
        if s.closing is not None:
            yield f"{indent}  clean-up {s.closing} closing"
        for step in reversed(s.clean_ups):
            yield f"{indent}  clean-up {step}"
        for child in s.children:
            yield from self._tree(child, f"{indent}  ")

    def _summary(self, s: ModelScope) -> str:
        words = [f"<Scope {s.path} {s.phase}{_shown(s)}"]
        if s.phase != "closed":
            running = sum(not isinstance(work, ModelScope) for work in (*s.works, *s.daemons))
            words += [f"{running} running"] + [f"{len(s.children)} children"] * bool(s.children)
        counts = f"{s.counts['ok']} ok, {s.counts['error']} failed, {s.counts['cancelled']} cancelled"
        unobserved = 0 if s.phase == "closed" else len(s.unobserved)
        return f"{', '.join(words)}> {counts}, {unobserved} unobserved, {len(s.clean_ups)} clean-ups"


def _job(task: ModelTask, call: ModelCall, number: int) -> str:
    return f"{task.owner.path} {task.name}.{number} (#{call.running[number]}) job"


def _shown(s: ModelScope) -> str:
    return "" if s.cancelled is None else f", cancelled{s.cancelled[1]}"


def shown_kind(kind: str, reason: str) -> str:
    """Who of a parent and a child hears first of a cancellation from outside is a matter of the schedule."""
    return "outside" if reason == " (cancelled from outside)" else kind


# ------------------------------------------------------------------ the library
class Recorder(Hooks):
    """Hooks that write down what they are told."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def task_started(self, event: Any, /) -> None:
        self.log.append(f"{event.path} {event.name} (#{event.index}) {event.kind} began")

    def task_ended(self, event: Any, /) -> None:
        assert event.outcome == ("ok" if event.error is None else event.outcome)
        self.log.append(f"{event.path} {event.name} (#{event.index}) {event.kind} ended {event.outcome}")

    def cancelled(self, event: Any, /) -> None:
        reason = shown(event.reason)
        self.log.append(f"{event.path} cancelled by {shown_kind(event.kind, reason)}{reason}")

    def disposed(self, event: Any, /) -> None:
        outcome = "ok" if event.error is None else type(event.error).__name__
        self.log.append(f"{event.path} disposed of {event.label} (#{event.index}): {outcome}")


def shown(reason: object) -> str:
    """A reason as the library shows it."""
    return f" ({told(reason).partition(' [')[0].partition(' {')[0]})"


@dataclass
class Body:
    """What the body of a scope waits for, and the orders that it gets."""

    order: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None
    cancel: str | None = None


class Scopes(World):
    """Real scopes, each entered by a task of its own that waits for orders."""

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        self.bodies: dict[str, Body] = {}
        self.around: dict[str, anyio.CancelScope] = {}
        self.left: dict[str, object] = {}
        self.ran: dict[str, list[str]] = {}
        self.alive: dict[str, set[str]] = {}
        self.handles: dict[str, Task[Any]] = {}
        self.values: dict[str, object] = {}
        self.hooks: list[str] = []

    # -------------------------------------------------------------- scopes
    def open(self, name: str, how: str, parent: str, host: str, options: dict[str, Any], cut: str) -> str:
        if how not in ("task", "start_soon"):
            self.group.start_soon(self._host, name, how, parent, options, cut)
            return ""
        return self._refusal(lambda: self._start(parent, how, host, self._host, name, how, parent, options, cut))

    async def _host(self, name: str, how: str, parent: str, options: dict[str, Any], cut: str) -> None:
        if how == "parent":
            options = {**options, "parent": self.scopes[parent]}
        elif how == "signal":
            options = {**options, "signal": self.scopes[parent].signal}
        elif how == "root":
            options = {**options, "hooks": Recorder(self.hooks)}
        try:
            await self._enter(name, scope(name=name, **options), cut)
        except Exception as error:
            self.left[name] = error
            if how in ("task", "start_soon"):
                raise
        finally:
            assert not self.alive.get(name), "something outlived its scope"

    async def _enter(self, name: str, s: Scope, cut: str) -> None:
        with anyio.CancelScope() as self.around[name]:
            try:
                async with s:
                    self.scopes[name], self.ran[name] = s, []
                    self.alive.setdefault(name, set())
                    await self._body(name, cut)
                self.left[name] = "quietly"
            except anyio.get_cancelled_exc_class():
                self.left[name] = "cancelled"
                raise

    async def _body(self, name: str, cut: str) -> None:
        body = self.bodies[name] = Body()
        try:
            await body.order.wait()
            if body.cancel is not None:
                self.scopes[name].cancel(body.cancel)
                await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if cut == "fails":
                raise Boom(f"{name} cut") from None
            raise
        if body.error is not None:
            raise body.error

    def close(self, name: str) -> None:
        self.bodies[name].order.set()

    def fail(self, name: str) -> None:
        self.bodies[name].error = Boom(f"body of {name}")
        self.bodies[name].order.set()

    def cancel(self, name: str, reason: str) -> None:
        self.scopes[name].cancel(reason)

    def cancel_inside(self, name: str, reason: str) -> None:
        self.bodies[name].cancel = reason
        self.bodies[name].order.set()

    def cancel_outside(self, name: str) -> None:
        self.around[name].cancel()

    def wait(self) -> None:
        """Let time go by."""

    # -------------------------------------------------------------- tasks and clean-ups
    def spawn(self, scope_name: str, kind: str, name: str, plan: Plan, number: int, limit: float | None) -> str:
        work = (self._work, scope_name, name, plan, number)
        if kind == "run":
            self.group.start_soon(self._run, scope_name, name, work)
            return ""
        return self._refusal(lambda: self._start(scope_name, kind, name, *work, timeout=limit))

    def _start(self, scope_name: str, kind: str, name: str, fn: Any, *args: Any, timeout: float | None = None) -> None:
        s = self.scopes[scope_name]
        if kind == "task":
            self.handles[name] = s.task(fn, *args, name=name, timeout=timeout)
        else:
            s.start_soon(fn, *args, name=name, daemon=kind == "daemon")

    async def _run(self, scope_name: str, name: str, work: Any) -> None:
        try:
            self.values[name] = await self.scopes[scope_name].run(*work, name=name)
        except AnyscopeError as error:
            self.values[name] = error

    async def _work(self, scope_name: str, name: str, plan: Plan, number: int) -> str:
        alive = self.alive[scope_name]
        alive.add(name)
        try:
            if plan.lasts is None:
                await anyio.sleep_forever()
            elif plan.lasts:
                await anyio.sleep(plan.lasts + fraction(number))
            if plan.fails:
                raise Boom(name)
            return name
        except anyio.get_cancelled_exc_class():
            if plan.cut == "stays":
                return name
            if plan.cut == "fails":
                raise Boom(f"{name} cut") from None
            if plan.cut == "lingers":
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1 + fraction(-number))
            raise
        finally:
            alive.remove(name)

    def fan_out(self, scope_name: str, name: str, jobs: Jobs, number: int, limit: float | None) -> str:
        work = (self._fan_out, scope_name, name, jobs, number)
        return self._refusal(lambda: self._start(scope_name, "task", name, *work, timeout=limit))

    async def _fan_out(self, scope_name: str, name: str, jobs: Jobs, number: int) -> None:
        def job(index: int, plan: Plan) -> Callable[[], Coroutine[Any, Any, str]]:
            async def work() -> str:
                return await self._work(scope_name, f"{name}.{index}", plan, number * 100 + index)

            work.__qualname__ = f"{name}.{index}"
            return work

        results = await self.scopes[scope_name].parallel(
            [job(index, plan) for index, plan in enumerate(jobs.plans)],
            concurrency=jobs.at_once,
            fail_fast=jobs.fail_fast,
        )
        self.values[name] = [told(result.error) if isinstance(result, Err) else result.value for result in results]

    def cancel_task(self, name: str, reason: str) -> None:
        self.handles[name].cancel(reason)

    def look(self, name: str) -> str:
        """Ask for the result, which counts as having seen it."""
        return self._refusal(self.handles[name].result)

    def watch(self, name: str) -> None:
        """Wait for the result, in a task of nobody."""
        self.group.start_soon(self._watch, name)

    async def _watch(self, name: str) -> None:
        result: Result[Any] = await self.handles[name]
        assert result is self.handles[name].result()

    def on_exit(self, scope_name: str, kind: str, name: str, number: int) -> str:
        def at_once() -> Awaitable[None] | None:
            self._look_about(scope_name)
            self.ran[scope_name].append(name)
            if kind.startswith(("later", "hangs")):
                return later()
            if kind == "fails":
                raise Boom(name)
            return None

        async def later() -> None:
            await anyio.sleep(1 + fraction(number) if kind != "hangs" else 1000)
            self._look_about(scope_name)
            if kind == "later fails":
                raise Boom(name)

        at_once.__qualname__ = name
        return self._refusal(lambda: self.scopes[scope_name].on_exit(at_once))

    def _look_about(self, scope_name: str) -> None:
        s = self.scopes[scope_name]
        assert not self.alive[scope_name], "a clean-up runs although work is left"
        below = [each.path for each in self.scopes.values() if each.parent is s and not each.closed]
        assert not below, f"a clean-up runs although {below} is open"

    def _refusal(self, call: Callable[[], object]) -> str:
        try:
            call()
        except AnyscopeError as error:
            return type(error).__name__
        return ""

    # -------------------------------------------------------------- how it looks
    def view(self) -> list[str]:
        lines: list[str] = []
        for s in self.scopes.values():
            if s.parent is None:
                lines += s.tree().split("\n")
        for name, s in self.scopes.items():
            counts = s.statistics()
            words = f"{counts.succeeded} ok, {counts.failed} failed, {counts.cancelled} cancelled"
            lines.append(f"{s!r} {words}, {counts.unobserved} unobserved, {counts.clean_ups} clean-ups")
            lines.append(f"{name} ran {self.ran[name]}, left {told(self.left.get(name, 'not'))}")
            assert counts.hook_failures == 0
        for name, task in self.handles.items():
            lines.append(f"{name} {task.status}: {told(task.peek())} {self.values.get(name, '')}")
        return lines + sorted(self.hooks)


# ------------------------------------------------------------------ the rules
HOWS = st.sampled_from(["task", "start_soon", "parent", "signal", "root"])
PLANS = st.builds(
    Plan,
    lasts=st.sampled_from([None, 0, 1, 3]),
    fails=st.booleans(),
    cut=st.sampled_from(["goes", "lingers", "stays", "fails"]),
)
JOBS = st.builds(
    Jobs,
    plans=st.lists(st.builds(Plan, lasts=st.sampled_from([0, 1, 3]), fails=st.booleans()), min_size=1, max_size=4).map(
        tuple
    ),
    at_once=st.sampled_from([None, 1, 2]),
    fail_fast=st.booleans(),
)
KINDS = st.sampled_from(["start_soon", "daemon", "run", "task"])
LIMITS = st.sampled_from([None, None, None, 1, 3])
CLEAN_UPS = st.sampled_from(["plain", "fails", "later", "later fails", "hangs"])
MOST_SCOPES = 8


def scopes(machine: ScopeTree) -> list[ModelScope]:
    """Those that are not closed, three times as often as the others."""
    present = [s for s in machine.model.scopes if s.phase != "closed"]
    return [*present, *present, *machine.model.scopes]


def with_a_body(machine: ScopeTree) -> list[ModelScope]:
    """Those whose body waits for an order."""
    return [s for s in machine.model.scopes if s.is_body_waiting]


def crashes_when_cut(s: ModelScope) -> bool:
    """Whether an error will cancel it, or a scope below it, when it is cut from outside."""
    works = [work for work in s.works if isinstance(work, ModelTask) and work.kind == "start_soon"]
    is_crashing = s.cut_plan == "fails" or any(work.plan.cut == "fails" for work in works)
    return is_crashing or any(crashes_when_cut(child) for child in (*s.children, *s.listeners))


def tasks(machine: ScopeTree) -> list[ModelTask]:
    """Those with a handle, and no scope of their own."""
    return [task for task in machine.model.tasks if task.kind == "task" and task.child is None]


has_a_body = precondition(lambda machine: bool(with_a_body(machine)))
has_a_task = precondition(lambda machine: bool(tasks(machine)))
has_room = precondition(lambda machine: len(machine.model.scopes) < MOST_SCOPES)


class ScopeTree(Machine):
    """Rules that do the same to the model and to real scopes."""

    new_world = Scopes

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.number = 0

    def pass_model_time(self, seconds: float) -> None:
        self.model.pass_time(seconds)

    def model_view(self) -> list[str]:
        return self.model.view()

    def new_number(self) -> int:
        self.number += 1
        return self.number

    # -------------------------------------------------------------- opening
    @initialize(
        timeout=LIMITS,
        below=st.lists(st.tuples(st.integers(0, 4), HOWS, LIMITS), max_size=4),
        works=st.lists(st.tuples(st.integers(0, 4), KINDS, PLANS), max_size=5),
    )
    def plant(
        self, timeout: int | None, below: list[tuple[int, str, int | None]], works: list[tuple[int, str, Plan]]
    ) -> None:
        """There is always one scope, and soon more, with work in them."""
        self._open("root", None, timeout, "goes")
        for number, how, limit in below:
            self._open(how, self.model.scopes[number % len(self.model.scopes)], limit, "goes")
        for number, kind, plan in works:
            self._spawn(self.model.scopes[number % len(self.model.scopes)], kind, plan, None)

    @has_room
    @rule(parent=picked(scopes), how=HOWS, timeout=LIMITS, cut=st.sampled_from(["goes", "fails"]))
    def open(self, parent: ModelScope, how: str, timeout: int | None, cut: str) -> None:
        """S1, S9, S10: a child in a task of its parent or in another, one that hears its signal alone, or a root."""
        self._open(how, parent, timeout, cut)

    def _open(self, how: str, parent: ModelScope | None, timeout: int | None, cut: str) -> None:
        number = self.new_number()
        name, host_name = f"s{number}", f"host-{number}"
        limit = None if timeout is None else timeout + fraction(number)
        options = {"timeout": limit, "close_timeout": PATIENCE + fraction(number)}
        act = ("open", name, how, parent.name if parent else "", host_name, options, cut)
        above = None if how in ("signal", "root") else parent
        if above is not None and above.phase in ("closing", "closed"):
            self.record(*act, answer="ScopeClosed" if how != "parent" else "")
            return
        host: ModelTask | None = None
        if how in ("task", "start_soon"):
            assert parent is not None
            host = ModelTask(parent, host_name, parent.next_index(), how, Plan(), number)
        s = ModelScope(name, how, above, host, number, cut, how == "root" or bool(above and above.has_hooks))
        s.limit = limit
        if host is not None:
            host.child = s
            self.model.start(host)
        self.model.enter(s, parent if how == "signal" else None)
        self.record(*act)

    # -------------------------------------------------------------- ending
    @has_a_body
    @rule(s=picked(with_a_body))
    def close(self, s: ModelScope) -> None:
        """S2: the body ends."""
        self.model.end_body(s)
        self.record("close", s.name)

    @has_a_body
    @rule(s=picked(with_a_body))
    def fail(self, s: ModelScope) -> None:
        """S3: the body raises."""
        self.model.end_body(s, fault=Fault("Boom", f"body of {s.name}"))
        self.record("fail", s.name)

    @rule(s=picked(scopes))
    def cancel(self, s: ModelScope) -> None:
        """S5: from without; of a closed one: nothing."""
        reason = f"stop {self.new_number()}"
        self.model.cancel(s, "cancel", f" ({reason})")
        self.record("cancel", s.name, reason)

    @has_a_body
    @rule(s=picked(with_a_body))
    def cancel_inside(self, s: ModelScope) -> None:
        """S5: the body cancels its own scope."""
        reason = f"stop {self.new_number()}"
        self.model.cancel(s, "cancel", f" ({reason})")
        self.record("cancel_inside", s.name, reason)

    @has_a_body
    @rule(s=picked(with_a_body))
    def cancel_outside(self, s: ModelScope) -> None:
        """S8: a cancel scope around it is cancelled; what crashes then may come first, and be the reason."""
        if crashes_when_cut(s):
            return
        s.is_cut_from_outside = True
        self.model.cancel(s, "outside", " (cancelled from outside)")
        self.record("cancel_outside", s.name)

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        """S6, T6: time goes by."""
        self.record("wait", seconds=seconds)

    # -------------------------------------------------------------- tasks and clean-ups
    @rule(s=picked(scopes), plan=PLANS, limit=LIMITS)
    def task(self, s: ModelScope, plan: Plan, limit: int | None) -> None:
        """T1, T6, S12: `s.task`, from outside of the scope."""
        self._spawn(s, "task", plan, limit)

    @rule(s=picked(scopes), kind=KINDS, plan=PLANS)
    def start(self, s: ModelScope, kind: str, plan: Plan) -> None:
        """T2, T3: the other ways to start work."""
        self._spawn(s, kind, plan, None)

    @rule(s=picked(scopes), jobs=JOBS, limit=LIMITS)
    def parallel(self, s: ModelScope, jobs: Jobs, limit: int | None) -> None:
        """A1, A3, A7, A10: `s.parallel`, called by a task of the scope."""
        number = self.new_number()
        name = f"crew-{number}"
        seconds = None if limit is None else limit + fraction(-1000 - number)
        act = ("fan_out", s.name, name, jobs, number, seconds)
        if s.phase in ("closing", "closed"):
            self.record(*act, answer="ScopeClosed")
            return
        task = ModelTask(s, name, s.next_index(), "task", Plan(), number, seconds, jobs=jobs)
        self.model.start(task)
        self.record(*act)

    def _spawn(self, s: ModelScope, kind: str, plan: Plan, limit: int | None) -> None:
        number = self.new_number()
        seconds = None if limit is None else limit + fraction(-1000 - number)
        act = ("spawn", s.name, kind, f"{kind}-{number}", plan, number, seconds)
        if s.phase in ("closing", "closed"):
            self.record(*act, answer="" if kind == "run" else "ScopeClosed")
            return
        task = ModelTask(s, f"{kind}-{number}", s.next_index(), kind, plan, number, seconds)
        self.model.start(task)
        self.record(*act)

    @has_a_task
    @rule(task=picked(tasks))
    def cancel_task(self, task: ModelTask) -> None:
        """T7: `task.cancel`."""
        reason = f"no more {self.new_number()}"
        if task.state == "running":
            task.why = task.why or f" ({reason})"
            self.model.interrupt(task)
        self.record("cancel_task", task.name, reason)

    @has_a_task
    @rule(task=picked(tasks))
    def look(self, task: ModelTask) -> None:
        """S4, T7: who asks for the result has seen the error."""
        task.owner.unobserved.pop(task, None)
        self.record("look", task.name, answer="TaskNotDone" if task.state == "running" else "")

    @has_a_task
    @rule(task=picked(tasks))
    def watch(self, task: ModelTask) -> None:
        """S4, T1: so has who waits for it."""
        task.owner.unobserved.pop(task, None)
        task.is_watched = True
        self.record("watch", task.name)

    @rule(s=picked(scopes), kind=CLEAN_UPS)
    def on_exit(self, s: ModelScope, kind: str) -> None:
        """S7, S14: a clean-up, also while the scope closes."""
        number = self.new_number()
        if s.phase != "closed":
            s.clean_ups.append(ModelCleanUp(f"c{number}", s.next_index(), kind, number))
        self.record("on_exit", s.name, kind, f"c{number}", number, answer="ScopeClosed" * (s.phase == "closed"))

    def finish(self) -> None:
        """All bodies end, then what still runs is cancelled."""
        for s in reversed(self.model.scopes):
            if s.is_body_waiting:
                self.close(s)
        self.record("wait", seconds=2)
        for s in self.model.scopes:
            if s.phase in ("open", "draining"):
                self.cancel(s)
        self.record("wait", seconds=100)
        assert all(s.phase == "closed" for s in self.model.scopes)


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_scope_tree(backend: str) -> None:
    """S2-S10, S13, T1-T3, T5-T7, H1, H2: whatever is done to a tree of scopes, it looks as the model does."""
    machine = type("ScopeTree", (ScopeTree,), {"backend": backend})
    run_state_machine_as_test(machine, settings=budget(200, 20))
