"""Services, model against implementation (V1-V7, V9-V11, S9, S10).

`Model` says in plain data what DESIGN.md says in words: who finds which service, when it is made, by whom it is waited
for, what comes of a build that fails or that nobody wants any more, and in which order everything is closed. The rules
of `ServiceTree` do the same to it and to real scopes (see machines.py). After each step these must be equal: what each
asker got (the very object, or the error), the state of each service in `tree()`, every object that was made, and every
object that was closed, in order.

An object is known by its recipe, by the scope it was made in and by its number there, so a second one would show.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from anyscope import AnyscopeError, Scope, current_scope, scope, use
from machines import Boom, Fault, Machine, World, budget, fraction, group, picked, told

KEYS = ["a", "b", "c"]


# ------------------------------------------------------------------ the model
@dataclass(frozen=True)
class Recipe:
    """How a service is made.

    Attributes:
        form: `plain` and `value` are there at once; `async`, `generator`, `manager` and `entered` are built in a task.
        lasts: Seconds and a fraction that a build takes in the end; 0 for no checkpoint.
        fails: How many builds fail in each scope before one succeeds; what fails lasts, or who asks in the same moment
            would make it fail again or not, as the schedule has it.
        needs: What a build asks for first, in order, with a pause before each.
        close: How it is closed: `not` at all, `at once`, `later`, or it `fails`.
        shared: Whether the scopes below share it.
        number: Which recipe it is.
    """

    form: str
    lasts: int
    fails: int
    needs: tuple[str, ...]
    close: str
    shared: bool
    number: int = 0

    @property
    def is_built(self) -> bool:
        return self.form not in ("plain", "value")

    @property
    def is_closed(self) -> bool:
        return self.close != "not"


@dataclass(eq=False, repr=False)
class ModelScope:
    """A scope, its table of services, and how many wait for its builds."""

    name: str
    parent: ModelScope | None
    phase: str = "open"
    is_cancelled: bool = False
    reason: str = ""
    is_body_waiting: bool = False
    works: int = 0
    cells: dict[str, Cell] = field(default_factory=dict)
    children: dict[ModelScope, None] = field(default_factory=dict)
    listeners: dict[ModelScope, None] = field(default_factory=dict)
    to_close: list[tuple[Cell, str, int]] = field(default_factory=list)
    created: int = 0
    closing: Cell | None = None
    closed: list[str] = field(default_factory=list)
    body_fault: Fault | None = None
    reports: list[tuple[Fault, str]] = field(default_factory=list)
    left: object = "not"

    def _repr_pretty_(self, printer: Any, _: object) -> None:
        printer.text(self.name)

    @property
    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path} > {self.name}"

    @property
    def chain(self) -> Iterator[ModelScope]:
        s: ModelScope | None = self
        while s is not None:
            yield s
            s = s.parent


@dataclass(eq=False)
class Cell:
    """A key in a scope."""

    owner: ModelScope
    key: str
    recipe: Recipe
    origin: Cell | None = None
    value: str | None = None
    is_retired: bool = False
    build: Build | None = None
    uses: int = 0

    @property
    def state(self) -> str:
        if self.is_retired:
            return "closing" if self.owner.closing is self else "closed"
        if self.value is not None:
            return "ready"
        return "declared" if self.build is None else "building"

    @property
    def is_untouched(self) -> bool:
        return not self.uses and (self.state == "declared" or (self.recipe.form == "value" and not self.is_retired))


@dataclass(eq=False)
class Waiter:
    """Somebody who asks: `then` is called with the value or with what went wrong."""

    owner: ModelScope
    then: Callable[[str | Fault], None]
    is_task: bool = False
    by: Build | None = None
    waits_for: Build | None = None


@dataclass(eq=False)
class Build:
    """A service being made."""

    cell: Cell
    waiters: list[Waiter] = field(default_factory=list)
    asks: Waiter | None = None
    is_over: bool = False


class Model:
    """The tree of scopes with their services, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scopes: list[ModelScope] = []
        self.made: list[str] = []
        self.tries: Counter[tuple[int, str]] = Counter()
        self.answers: dict[str, list[str]] = {}
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

    # -------------------------------------------------------------- who finds what (V2, V6, V7, V9)
    def find(self, s: ModelScope, key: str) -> Cell | None:
        for each in s.chain:
            cell = each.cells.get(key)
            if cell is not None and (cell.origin is None or cell.state != "declared"):
                return cell
        return None

    def ask(self, s: ModelScope, key: str, waiter: Waiter, default: str | None = None) -> None:
        cell = None if s.phase == "closed" else self.find(s, key)
        if s.phase == "closed":
            waiter.then(Fault("ScopeClosed"))
        elif cell is None:
            waiter.then(Fault("ServiceNotFound") if default is None else default)
        elif cell.recipe.shared or cell.owner is s:
            self.get(cell, waiter)
        elif s.phase == "closing":
            waiter.then(Fault("ScopeClosed"))
        else:
            own = s.cells[key] = Cell(s, key, cell.recipe, origin=cell)
            self.get(own, waiter)

    def ask_nowait(self, s: ModelScope, key: str) -> str:
        cell = None if s.phase == "closed" else self.find(s, key)
        if s.phase == "closed":
            return "ScopeClosed"
        if cell is None:
            return "ServiceNotFound"
        if not cell.recipe.shared and cell.owner is not s:
            return "ServiceNotReady"
        if cell.is_retired:
            return "ScopeClosed"
        if cell.value is None:
            return "ServiceNotReady"
        cell.uses += 1
        return cell.value

    # -------------------------------------------------------------- making (V3, V4, V11)
    def get(self, cell: Cell, waiter: Waiter) -> None:
        if cell.is_retired:
            waiter.then(Fault("ScopeClosed"))
        elif cell.value is not None:
            cell.uses += 1
            waiter.then(cell.value)
        elif cell.build is not None:
            self._join(cell.build, waiter)
        elif cell.owner.phase == "closing":
            waiter.then(Fault("ScopeClosed"))
        elif cell.recipe.is_built:
            cell.build = Build(cell)
            self._join(cell.build, waiter)
            self._go_on_building(cell.build, 0)
        else:
            made = self._make(cell)
            if isinstance(made, str):
                self._install(cell, made)
                cell.uses += 1
            waiter.then(made)

    def _join(self, build: Build, waiter: Waiter) -> None:
        if waiter.by is not None and self._leads_to(build, waiter.by):
            waiter.then(Fault("ServiceCycle"))
            return
        build.waiters.append(waiter)
        build.cell.owner.works += 1
        waiter.waits_for = build

    def _leads_to(self, build: Build | None, end: Build) -> bool:
        while build is not None and build is not end:
            build = None if build.asks is None else build.asks.waits_for
        return build is end

    def _go_on_building(self, build: Build, number: int) -> None:
        recipe, place = build.cell.recipe, self.scopes.index(build.cell.owner)
        if number < len(recipe.needs):
            self.later(fraction(pause(recipe, place, number)), lambda: build.is_over or self._need(build, number))
        elif recipe.lasts:
            seconds = recipe.lasts + fraction(pause(recipe, place, -1))
            self.later(seconds, lambda: build.is_over or self._end_build(build, self._make(build.cell)))
        else:
            self._end_build(build, self._make(build.cell))

    def _need(self, build: Build, number: int) -> None:
        def then(answer: str | Fault) -> None:
            build.asks = None
            if isinstance(answer, Fault):
                self._end_build(build, answer)
            else:
                self._go_on_building(build, number + 1)

        build.asks = Waiter(build.cell.owner, then, by=build)
        self.ask(build.cell.owner, build.cell.recipe.needs[number], build.asks)

    def _make(self, cell: Cell) -> str | Fault:
        place = (cell.recipe.number, cell.owner.name)
        self.tries[place] += 1
        number = self.tries[place] - cell.recipe.fails
        if number <= 0:
            return Fault("Boom", name_of(cell.recipe.number, cell.key, cell.owner.name, number))
        self.made.append(name_of(cell.recipe.number, cell.key, cell.owner.name, number))
        return self.made[-1]

    def _install(self, cell: Cell, value: str) -> None:
        cell.value = value
        if cell.origin is not None:
            cell.origin.uses += 1
        if cell.recipe.is_closed:
            self.push(cell, value)

    def push(self, cell: Cell, value: str) -> None:
        cell.owner.to_close.append((cell, value, cell.owner.created))
        cell.owner.created += 1

    def _end_build(self, build: Build, made: str | Fault) -> None:
        build.is_over, build.cell.build = True, None
        waiters, build.waiters = build.waiters, []
        if isinstance(made, str):
            self._install(build.cell, made)
            build.cell.uses += len(waiters)
        for waiter in waiters:
            waiter.waits_for = None
            waiter.then(made)
        build.cell.owner.works -= len(waiters)
        self.go_on(build.cell.owner)

    def leave(self, waiter: Waiter) -> None:
        """It is cancelled; a build that nobody waits for any more is given up."""
        build, waiter.waits_for = waiter.waits_for, None
        if build is None:
            return
        build.waiters.remove(waiter)
        if not build.waiters:
            self._give_up(build)
        build.cell.owner.works -= 1
        self.go_on(build.cell.owner)

    def _give_up(self, build: Build) -> None:
        build.is_over, build.cell.build = True, None
        if build.asks is not None:
            self.leave(build.asks)

    # -------------------------------------------------------------- providing (V1, V6, V10)
    def provide(self, s: ModelScope, key: str, recipe: Recipe, *, may_replace: bool) -> str:
        old = s.cells.get(key)
        if s.phase in ("closing", "closed"):
            return "ScopeClosed"
        is_free = old is None or (may_replace and old.is_untouched)
        if not is_free and not (old.origin is not None and old.state == "declared"):
            return "ServiceExists"
        self._put(s, key, recipe)
        return ""

    def override(self, s: ModelScope, key: str, recipe: Recipe) -> str:
        old = s.cells.get(key)
        if s.phase in ("closing", "closed"):
            return "ScopeClosed"
        if old is None or old.origin is not None:
            return "ServiceNotFound"
        if not old.is_untouched:
            return "ServiceExists"
        self._put(s, key, Recipe(**{**vars(recipe), "shared": old.recipe.shared}))
        return ""

    def _put(self, s: ModelScope, key: str, recipe: Recipe) -> None:
        cell = s.cells[key] = Cell(s, key, recipe)
        if recipe.form == "value":
            cell.value = name_of(recipe.number, key, s.name, 1)
            self.made.append(cell.value)
            if recipe.is_closed:
                self.push(cell, cell.value)

    # -------------------------------------------------------------- the life of a scope (S2, S5, V5)
    def enter(self, s: ModelScope, source: ModelScope | None, eager: list[tuple[str, Recipe]]) -> None:
        self.scopes.append(s)
        if s.parent is not None:
            s.parent.children[s] = None
            s.parent.works += 1
        if source is not None:
            source.listeners[s] = None
        for key, recipe in eager:
            s.cells[key] = Cell(s, key, recipe)
        self._make_eager(s, [key for key, _ in eager])

    def _make_eager(self, s: ModelScope, keys: list[str]) -> None:
        def then(answer: str | Fault) -> None:
            if isinstance(answer, Fault):
                self.end_body(s, answer)
            else:
                self._make_eager(s, keys[1:])

        if keys:
            self.get(s.cells[keys[0]], Waiter(s, then))
        else:
            s.is_body_waiting = True

    def end_body(self, s: ModelScope, fault: Fault | None = None) -> None:
        s.is_body_waiting = False
        s.phase = "draining"
        s.body_fault = fault
        if fault is not None:
            self.cancel(s, fault.reason if fault.text else f" ({fault.kind}")
        self.go_on(s)

    def cancel(self, s: ModelScope, reason: str) -> None:
        marked: list[ModelScope] = []
        self._mark(s, reason, marked)
        builds = [cell.build for each in marked for cell in each.cells.values() if cell.build is not None]
        for waiter in [waiter for build in self._builds() for waiter in build.waiters]:
            if waiter.is_task and waiter.owner in marked:
                self.leave(waiter)
                waiter.then(Fault("cancelled"))
        for build in builds:
            if not build.is_over:
                asks, build.asks = build.asks, None
                if asks is not None:
                    self.leave(asks)
                self._end_build(build, Fault("ScopeCancelled"))
        for each in marked:
            if each.is_body_waiting:
                self.end_body(each)

    def _mark(self, s: ModelScope, reason: str, marked: list[ModelScope]) -> None:
        if s.is_cancelled or s.phase in ("closing", "closed"):
            return
        s.is_cancelled, s.reason = True, reason
        marked.append(s)
        for child in (*s.listeners, *s.children):
            self._mark(child, reason, marked)

    def _builds(self) -> list[Build]:
        return [cell.build for s in self.scopes for cell in s.cells.values() if cell.build is not None]

    def go_on(self, s: ModelScope) -> None:
        if s.phase == "draining" and not s.works:
            s.phase = "closing"
            self._close_next(s)

    def _close_next(self, s: ModelScope) -> None:
        s.closing = None
        if not s.to_close:
            self._close(s)
            return
        cell, value, index = s.to_close.pop()
        s.closing = cell
        cell.is_retired, cell.value = True, None
        s.closed.append(value)
        if cell.recipe.close == "fails":
            s.reports.append((Fault("Boom", value), f"in clean-up service {cell.key!r} (#{index}) of {s.path}"))
        if cell.recipe.close == "later":
            seconds = 1 + fraction(pause(cell.recipe, self.scopes.index(s), -2))
            self.later(seconds, lambda: self._close_next(s))
        else:
            self._close_next(s)

    def _close(self, s: ModelScope) -> None:
        s.phase = "closed"
        s.cells.clear()
        errors = ([(s.body_fault, f"in the body of {s.path}")] if s.body_fault is not None else []) + s.reports
        if s.body_fault is not None and not s.reports:
            s.left = s.body_fault
        else:
            s.left = group(s.path, errors) if errors else "quietly"
        if s.parent is not None:
            del s.parent.children[s]
            s.parent.works -= 1
            self.go_on(s.parent)

    # -------------------------------------------------------------- how it looks
    def view(self) -> list[str]:
        lines = [line for s in self.scopes if s.parent is None for line in self._tree(s, "")]
        for s in self.scopes:
            ready = sum(cell.state == "ready" for cell in s.cells.values())
            lines.append(f"{s.name}: {ready} services, {len(s.to_close)} to close, closed {s.closed}, left {s.left}")
        lines += [f"{name} got {sorted(answers)}" for name, answers in self.answers.items()]
        return [*lines, *sorted(self.made)]

    def _tree(self, s: ModelScope, indent: str) -> Iterator[str]:
        yield f"{indent}scope {s.name} {s.phase}"
        for cell in s.cells.values():
            waiting = f", {len(cell.build.waiters)} waiting" if cell.build is not None else ""
            yield f"{indent}  service {cell.key!r} {cell.state}{waiting}"
        for child in s.children:
            yield from self._tree(child, f"{indent}  ")


def pause(recipe: Recipe, place: int, number: int) -> int:
    """The number of a pause: before a need, before the end of a build (-1), or in a close (-2)."""
    return recipe.number * 1000 + place * 10 + number + 5


def name_of(recipe: int, key: str, scope_name: str, number: int) -> str:
    """What an object is called, or a failure: the last number is not above 0 then."""
    return f"{key}/{recipe} of {scope_name} no. {number}"


# ------------------------------------------------------------------ the library
class Made:
    """An object that a factory made; a context manager for `enter=True`."""

    def __init__(self, name: str, close: Callable[[Made], Any]) -> None:
        self.name = name
        self._close = close

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close(self)


class Services(World):
    """Real scopes with real services."""

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        self.numbers: dict[str, int] = {}
        self.orders: dict[str, anyio.Event] = {}
        self.left: dict[str, object] = {}
        self.closed: dict[str, list[str]] = {}
        self.made: list[str] = []
        self.alive: dict[str, Made] = {}
        self.tries: Counter[tuple[int, str]] = Counter()
        self.answers: dict[str, list[str]] = {}
        self.askers: dict[str, list[anyio.CancelScope]] = {}

    # -------------------------------------------------------------- scopes
    def open(self, name: str, how: str, parent: str, eager: list[tuple[str, Recipe]]) -> None:
        self.group.start_soon(self._host, name, how, parent, eager)

    async def _host(self, name: str, how: str, parent: str, eager: list[tuple[str, Recipe]]) -> None:
        above: dict[str, Any] = {"parent": None}
        if how == "parent":
            above = {"parent": self.scopes[parent]}
        elif how == "signal":
            above = {"signal": self.scopes[parent].signal}
        s = scope(name=name, **above)
        self.orders[name] = anyio.Event()
        self.scopes[name], self.closed[name], self.numbers[name] = s, [], len(self.numbers)
        for key, recipe in eager:
            self._declare(s.provide, key, recipe, eager=True)
        try:
            async with s:
                await self.orders[name].wait()
            self.left[name] = "quietly"
        except Exception as error:
            self.left[name] = error
        assert not [made for made in self.alive if f" of {name} no. " in made], "it outlived its scope"

    def close(self, name: str) -> None:
        self.orders[name].set()

    def cancel(self, name: str, reason: str) -> None:
        self.scopes[name].cancel(reason)

    def wait(self) -> None:
        """Let time go by."""

    # -------------------------------------------------------------- providing
    def provide(self, name: str, key: str, recipe: Recipe, *, may_replace: bool = False) -> str:
        s = self.scopes[name]
        if recipe.form != "value":
            return self._refusal(
                lambda: self._declare(s.provide, key, recipe, shared=recipe.shared, replace=may_replace)
            )
        made = Made(name_of(recipe.number, key, name, 1), self._close)
        answer = self._refusal(lambda: s.provide_value(key, made, self._closer(recipe)))
        if not answer:
            self._note(made, recipe)
        return answer

    def replace(self, name: str, key: str, recipe: Recipe) -> str:
        return self.provide(name, key, recipe, may_replace=True)

    def override(self, name: str, key: str, recipe: Recipe) -> str:
        return self._refusal(lambda: self._declare(self.scopes[name].override, key, recipe))

    def _declare(self, declare: Any, key: str, recipe: Recipe, **options: bool) -> None:
        is_closed_by_itself = recipe.form in ("generator", "manager", "entered")
        if recipe.form == "entered":
            options["enter"] = True
        close = None if is_closed_by_itself else self._closer(recipe)
        declare(key, self._factory(key, recipe), close, **options)

    def _closer(self, recipe: Recipe) -> Callable[[Made], Any] | None:
        if recipe.close == "not":
            return None
        return self._close if recipe.close == "later" else self._close_now

    def _close_now(self, made: Made) -> None:
        """Close it, in the scope that it was made in, which is the current one."""
        recipe = self.recipes[made.name]
        name = current_scope_name(made)
        assert self.alive.pop(made.name) is made, "closed twice"
        self.closed[name].append(made.name)
        if recipe.close == "fails":
            raise Boom(made.name)

    async def _close(self, made: Made) -> None:
        self._close_now(made)
        recipe = self.recipes[made.name]
        if recipe.close == "later":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1 + fraction(pause(recipe, self.numbers[current_scope_name(made)], -2)))

    @property
    def recipes(self) -> dict[str, Recipe]:
        return self.__dict__.setdefault("_recipes", {})

    def _factory(self, key: str, recipe: Recipe) -> Callable[[], Any]:
        async def prepared() -> Made:
            place = self.numbers[current_scope().name]
            for number, need in enumerate(recipe.needs):
                await anyio.sleep(fraction(pause(recipe, place, number)))
                await use(need)
            if recipe.lasts:
                await anyio.sleep(recipe.lasts + fraction(pause(recipe, place, -1)))
            return make()

        def make() -> Made:
            name = current_scope().name
            self.tries[recipe.number, name] += 1
            number = self.tries[recipe.number, name] - recipe.fails
            if number <= 0:
                raise Boom(name_of(recipe.number, key, name, number))
            return self._note(Made(name_of(recipe.number, key, name, number), self._close), recipe)

        async def generator() -> AsyncIterator[Made]:
            made = await prepared()
            try:
                yield made
            finally:
                await self._close(made)

        forms = {"plain": make, "async": prepared, "generator": generator, "entered": prepared}
        return contextlib.asynccontextmanager(generator) if recipe.form == "manager" else forms[recipe.form]

    def _note(self, made: Made, recipe: Recipe) -> Made:
        assert made.name not in self.made, "made twice"
        self.made.append(made.name)
        self.recipes[made.name] = recipe
        if recipe.is_closed:
            self.alive[made.name] = made
        return made

    # -------------------------------------------------------------- asking
    def ask(self, name: str, key: str, scopes: list[str], default: str | None, by_tasks: bool) -> None:
        self.answers[name], self.askers[name] = [], [anyio.CancelScope() for _ in scopes]
        for number, scope_name in enumerate(scopes):
            begin = self.scopes[scope_name].start_soon if by_tasks else self.group.start_soon
            begin(self._ask, name, number, scope_name, key, default)

    async def _ask(self, name: str, number: int, scope_name: str, key: str, default: str | None) -> None:
        s, answer = self.scopes[scope_name], "cancelled"
        try:
            with self.askers[name][number]:
                made = await (s.use(key) if default is None else s.use(key, default))
                answer = made if isinstance(made, str) else self._check(made)
        except (AnyscopeError, Boom) as error:
            answer = told(error, is_brief=True)
        finally:
            self.answers[name].append(answer)

    def _check(self, made: Made) -> str:
        assert not self.recipes[made.name].is_closed or self.alive.get(made.name) is made, "it is closed already"
        return made.name

    def give_up(self, name: str, number: int) -> None:
        self.askers[name][number].cancel()

    def ask_nowait(self, name: str, key: str) -> str:
        try:
            return self._check(self.scopes[name].use_nowait(key))
        except AnyscopeError as error:
            return type(error).__name__

    def has(self, name: str, key: str) -> str:
        return str(self.scopes[name].has(key))

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
                shown = [line.partition(", cancelled")[0] for line in s.tree().split("\n")]
                lines += [line for line in shown if line.split()[0] in ("scope", "service")]
        for name, s in self.scopes.items():
            counts = s.statistics()
            words = f"{counts.services} services, {counts.clean_ups} to close, closed {self.closed[name]}"
            lines.append(f"{name}: {words}, left {told(self.left.get(name, 'not'), is_brief=True)}")
        lines += [f"{name} got {sorted(answers)}" for name, answers in self.answers.items()]
        return [*lines, *sorted(self.made)]


def current_scope_name(made: Made) -> str:
    """The scope that an object was made in, by its name."""
    return made.name.partition(" of ")[2].partition(" no. ")[0]


# ------------------------------------------------------------------ the rules
FORMS = st.sampled_from(["plain", "async", "generator", "manager", "entered", "value"])
NEEDS = st.lists(st.sampled_from(KEYS), max_size=2, unique=True).map(tuple)
HOWS = st.sampled_from(["parent", "parent", "parent", "signal", "root"])
CLOSES = st.sampled_from(["not", "at once", "later", "fails"])


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw a recipe that the library accepts."""
    form = draw(FORMS)
    is_built = form not in ("plain", "value")
    fails = 0 if form == "value" else draw(st.sampled_from([0, 0, 1, 2]))
    needs = draw(NEEDS) if is_built else ()
    closes = CLOSES if form in ("plain", "async", "value") else CLOSES.filter(lambda close: close != "not")
    return Recipe(
        form,
        lasts=draw(st.sampled_from([1, 3] if fails and not needs else [0, 1, 3])) if is_built else 0,
        fails=fails,
        needs=needs,
        close=draw(closes),
        shared=True if form == "value" else draw(st.booleans()),
    )


MOST_SCOPES = 6


def scopes(machine: ServiceTree) -> list[ModelScope]:
    """Those that are not closed, three times as often as the others."""
    present = [s for s in machine.model.scopes if s.phase != "closed"]
    return [*present, *present, *machine.model.scopes]


def usable(machine: ServiceTree) -> list[ModelScope]:
    """Likewise, but none that is cancelled and not closing, nor below one: what is made there would be cut."""
    return [s for s in scopes(machine) if not any(each.is_cancelled and each.phase == "draining" for each in s.chain)]


def with_a_body(machine: ServiceTree) -> list[ModelScope]:
    """Those whose body waits for an order."""
    return [s for s in machine.model.scopes if s.is_body_waiting]


has_a_body = precondition(lambda machine: bool(with_a_body(machine)))
has_room = precondition(lambda machine: len(machine.model.scopes) < MOST_SCOPES)
is_usable = precondition(lambda machine: bool(usable(machine)))
has_a_parent = precondition(lambda machine: bool(parents(machine)))
has_waiters = precondition(lambda machine: bool(machine.waiters))


def parents(machine: ServiceTree) -> list[ModelScope]:
    """Those that take a child."""
    return [s for s in machine.model.scopes if s.phase in ("open", "draining") and not s.is_cancelled]


class ServiceTree(Machine):
    """Rules that do the same to the model and to real scopes."""

    new_world = Services

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.waiters: dict[str, list[Waiter]] = {}
        self.number = 0

    def pass_model_time(self, seconds: float) -> None:
        self.model.pass_time(seconds)

    def model_view(self) -> list[str]:
        return self.model.view()

    def new_number(self) -> int:
        self.number += 1
        return self.number

    def numbered(self, recipe: Recipe) -> Recipe:
        return Recipe(**{**vars(recipe), "number": self.new_number()})

    # -------------------------------------------------------------- scopes
    @initialize(
        below=st.lists(st.tuples(st.integers(0, 3), HOWS), max_size=3),
        provided=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(KEYS), recipes()), max_size=4),
    )
    def plant(self, below: list[tuple[int, str]], provided: list[tuple[int, str, Recipe]]) -> None:
        """There is always one scope, and soon more, with services."""
        self._open("root", None, {})
        for number, how in below:
            self._open(how, self.model.scopes[number % len(self.model.scopes)], {})
        for number, key, recipe in provided:
            self.provide(self.model.scopes[number % len(self.model.scopes)], key, recipe)

    @has_room
    @has_a_parent
    @rule(parent=picked(parents), how=HOWS)
    def open(self, parent: ModelScope, how: str) -> None:
        """S9, S10: a child, one that hears the cancellation alone and sees no services, or a root."""
        self._open(how, parent, {})

    @has_room
    @has_a_parent
    @rule(parent=picked(parents), eager=st.dictionaries(st.sampled_from(KEYS), recipes(), min_size=1, max_size=2))
    def open_eager(self, parent: ModelScope, eager: dict[str, Recipe]) -> None:
        """V3: a child that makes services as it is entered; the step lasts until it has."""
        self._open("parent", parent, eager)

    def _open(self, how: str, parent: ModelScope | None, eager: dict[str, Recipe]) -> None:
        name = f"s{self.new_number()}"
        wanted = [
            (key, self.numbered(Recipe(**{**vars(recipe), "shared": True})))
            for key, recipe in eager.items()
            if recipe.form != "value"
        ]
        s = ModelScope(name, parent if how == "parent" else None)
        self.model.enter(s, parent if how == "signal" else None, wanted)
        self.record("open", name, how, parent.name if parent else "", wanted, seconds=30.0 if wanted else 1.0)

    @has_a_body
    @rule(s=picked(with_a_body))
    def close(self, s: ModelScope) -> None:
        """V5: the body ends."""
        self.model.end_body(s)
        self.record("close", s.name)

    @rule(s=picked(scopes))
    def cancel(self, s: ModelScope) -> None:
        """S5, V11: those who wait are told so, if they are not cancelled themselves."""
        reason = f"stop {self.new_number()}"
        self.model.cancel(s, f" ({reason})")
        self.record("cancel", s.name, reason)

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        """V3: builds go on."""
        self.record("wait", seconds=seconds)

    # -------------------------------------------------------------- providing
    @rule(s=picked(scopes), key=st.sampled_from(KEYS), recipe=recipes())
    def provide(self, s: ModelScope, key: str, recipe: Recipe) -> None:
        """V1, V6: in a scope, or over one of the same key above it."""
        recipe = self.numbered(recipe)
        self.record("provide", s.name, key, recipe, answer=self.model.provide(s, key, recipe, may_replace=False))

    @rule(s=picked(scopes), key=st.sampled_from(KEYS), recipe=recipes().filter(lambda recipe: recipe.form != "value"))
    def replace(self, s: ModelScope, key: str, recipe: Recipe) -> None:
        """V6: `replace=True`, before anybody has used the old one."""
        recipe = self.numbered(recipe)
        self.record("replace", s.name, key, recipe, answer=self.model.provide(s, key, recipe, may_replace=True))

    @rule(s=picked(scopes), key=st.sampled_from(KEYS), recipe=recipes().filter(lambda recipe: recipe.form != "value"))
    def override(self, s: ModelScope, key: str, recipe: Recipe) -> None:
        """V10: for what this very scope provides, before its first use."""
        recipe = self.numbered(recipe)
        self.record("override", s.name, key, recipe, answer=self.model.override(s, key, recipe))

    # -------------------------------------------------------------- asking
    @is_usable
    @rule(
        key=st.sampled_from(KEYS),
        scopes=st.runner().flatmap(lambda machine: st.lists(st.sampled_from(usable(machine)), min_size=1, max_size=4)),
        default=st.booleans(),
    )
    def ask(self, key: str, scopes: list[ModelScope], default: bool) -> None:
        """V2, V3, V7: several at once, from whichever scopes, in tasks of nobody."""
        found = [self.model.find(s, key) for s in scopes if s.phase != "closed"]
        if any(cell is not None and not cell.recipe.shared for cell in found):
            scopes = scopes[:1] * len(scopes)  # whose recipe each scope's own follows would be up to the schedule
        self._ask(key, scopes, "nothing" if default else None, by_tasks=False)

    @is_usable
    @rule(key=st.sampled_from(KEYS), s=picked(usable), number=st.integers(1, 3))
    def ask_in_tasks(self, key: str, s: ModelScope, number: int) -> None:
        """V3, V11: likewise in tasks of one scope, which are cancelled with it."""
        if s.phase in ("closing", "closed"):
            return
        self._ask(key, [s] * number, None, by_tasks=True)

    def _ask(self, key: str, scopes: list[ModelScope], default: str | None, *, by_tasks: bool) -> None:
        name = f"ask-{self.new_number()}"
        self.model.answers[name], self.waiters[name] = [], []
        if by_tasks:
            scopes[0].created += len(scopes)  # tasks and clean-ups are numbered together
        for s in scopes:
            s.works += by_tasks
            self.waiters[name].append(Waiter(s, self._then(name, s if by_tasks else None), is_task=by_tasks))
            self.model.ask(s, key, self.waiters[name][-1], default)
        self.record("ask", name, key, [s.name for s in scopes], default, by_tasks)

    def _then(self, name: str, host: ModelScope | None) -> Callable[[str | Fault], None]:
        def then(answer: str | Fault) -> None:
            self.model.answers[name].append(str(answer))
            if host is not None:
                host.works -= 1
                self.model.go_on(host)

        return then

    @has_waiters
    @rule(name=picked(lambda machine: list(machine.waiters)), number=st.integers(0, 3))
    def give_up(self, name: str, number: int) -> None:
        """V3, V11: one who asks is cancelled; the others still get it."""
        waiters = self.waiters[name]
        waiter = waiters[number % len(waiters)]
        if waiter.waits_for is not None:
            self.model.leave(waiter)
            waiter.then("cancelled")
        self.record("give_up", name, number % len(waiters))

    @rule(s=picked(scopes), key=st.sampled_from(KEYS))
    def ask_nowait(self, s: ModelScope, key: str) -> None:
        """V2: what is there already."""
        self.record("ask_nowait", s.name, key, answer=self.model.ask_nowait(s, key))

    @rule(s=picked(scopes), key=st.sampled_from(KEYS))
    def has(self, s: ModelScope, key: str) -> None:
        """V2: also after the end."""
        self.record("has", s.name, key, answer=str(any(key in each.cells for each in s.chain)))

    def finish(self) -> None:
        """Everything that there is is made in the last two scopes, then all bodies end."""
        for s in [s for s in self.model.scopes if s in usable(self) and s.phase != "closed"][-2:]:
            for key in KEYS:
                self._ask(key, [s], None, by_tasks=False)
        self.record("wait", seconds=30)
        for s in reversed(self.model.scopes):
            if s.is_body_waiting:
                self.close(s)
        self.record("wait", seconds=100)
        assert all(s.phase == "closed" for s in self.model.scopes)


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_service_tree(backend: str) -> None:
    """V1-V7, V9-V11: whatever is provided, asked for, cancelled and closed, it goes as in the model."""
    machine = type("ServiceTree", (ServiceTree,), {"backend": backend})
    run_state_machine_as_test(machine, settings=budget(200, 20))
