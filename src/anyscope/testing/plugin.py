"""What the pytest plugin does once a test asks for it; what pytest loads is the module `anyscope_pytest`.

That one is outside of this package, because importing anything of a package imports the package: a plugin in here
would load `anyscope` and AnyIO at the start of every pytest in the environment.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import pytest

from .._features import services
from .._features.recipes import Recipe
from .._lifetime.backend import running_loop
from .._lifetime.owner import Owner
from .._lifetime.watching import WATCHERS, What
from .._vocabulary.errors import ServiceExists
from .._vocabulary.keys import label_of
from ._spawns import place_of_caller
from .leaks import no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from .._features.service import Service
    from .._lifetime.branch import Branch
    from .._vocabulary.keys import Key

T = TypeVar("T")


# ------------------------------------------------------------------ no_leaks


class LeakCheck:
    """What the fixture `no_leaks` gives: that the test is checked."""

    @classmethod
    def of(cls, request: pytest.FixtureRequest) -> LeakCheck:
        """For this test, which has to be async."""
        require_async_test(request, "the fixture no_leaks")
        return cls()


def checked(test: Callable[..., Any]) -> Callable[..., Any]:
    """The async test, made to fail if it leaves something behind."""

    @functools.wraps(test)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        async with no_leaks():
            await test(*args, **kwargs)

    return wrapper


def require_async_test(request: pytest.FixtureRequest, asked: str) -> None:
    """Refuse what can only be done to an async test."""
    test: Any = request.function
    if hasattr(test, "hypothesis"):
        test = _innermost(test.hypothesis.inner_test)
    if not inspect.iscoroutinefunction(test):
        pytest.fail(f"{asked} is for async tests\nRight: async def {request.node.originalname}(...):", pytrace=False)


# ------------------------------------------------------------------ overrides


@dataclass
class _Override:
    """One call of `overrides(key, factory)`.

    Attributes:
        applied: The services that were replaced, each with what replaced it. Written by `_apply`.
        refused: Why it came too late, in scopes where it did. Written by `_apply`.
    """

    key: Any
    recipe: Recipe
    place: str
    applied: list[tuple[Service, Service]]
    refused: list[ServiceExists]


class Overrides:
    """Has services made by other factories for the length of a test: the fixture `overrides`.

    It holds for every scope that is entered while the fixture lives and provides the key, at whatever depth of the
    program. At the end, the test fails if there was none, or if one had its service made already.

    Example:
        >>> import anyio
        >>> from anyscope import scope
        >>> async def program():
        ...     async with scope(name="app").provide("mailer", lambda: "sends real mail") as s:
        ...         print(await s.use("mailer"))
        >>> overrides = Overrides()
        >>> overrides("mailer", lambda: "pretends")
        >>> anyio.run(program)
        pretends
        >>> overrides.end()
        >>> anyio.run(program)
        sends real mail
    """

    def __init__(self) -> None:
        self._overrides: dict[Any, _Override] = {}
        # Those that have been entered, for an override that is asked for later.
        self._scopes: weakref.WeakKeyDictionary[Owner, None] = weakref.WeakKeyDictionary()  # in order of entry
        WATCHERS.append(self._watch)

    @overload
    def __call__(
        self, key: type[T] | Key[T], factory: Callable[[], AsyncIterator[T]] | Callable[[], Iterator[T]]
    ) -> None: ...
    @overload
    def __call__(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], AbstractAsyncContextManager[T]] | Callable[[], AbstractContextManager[T]],
        *,
        enter: bool = ...,
    ) -> None: ...
    @overload
    def __call__(
        self, key: type[T] | Key[T], factory: Callable[[], Awaitable[T]], close: Callable[[T], object] | None = None
    ) -> None: ...
    @overload
    def __call__(
        self, key: type[T] | Key[T], factory: Callable[[], T], close: Callable[[T], object] | None = None
    ) -> None: ...
    @overload
    def __call__(
        self,
        key: str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = ...,
    ) -> None: ...
    def __call__(
        self,
        key: type[Any] | Key[Any] | str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = False,
    ) -> None:
        """Have the service of this key made by another factory, wherever a scope provides it.

        Args:
            key: What the program provides it as.
            factory: As for `Scope.provide`. Whether the service is eager or shared stays as it was.
            close: As for `Scope.provide`.
            enter: As for `Scope.provide`.

        Raises:
            TypeError: As for `Scope.provide`.
            ValueError: The key has an override already.
            ServiceExists: A scope that was entered during the test has made the service already.
        """
        recipe = Recipe(factory, close, enter=enter)
        recipe.check("overrides", key)
        if key in self._overrides:
            shown = label_of(key)
            raise ValueError(
                f"overrides({shown}, ...): it was overridden at {self._overrides[key].place} already\n"
                f"Right: one overrides({shown}, ...) for each test"
            )
        override = self._overrides[key] = _Override(key, recipe, place_of_caller() or "?", [], [])
        for owner in list(self._scopes):
            if owner.phase in ("open", "draining"):
                self._apply(override, owner)
        if override.refused:
            raise override.refused[-1]

    def _watch(self, what: What, branch: Branch, subject: object) -> None:
        if not isinstance(branch, Owner) or what not in ("entered", "provided"):
            return
        if what == "entered":
            self._scopes[branch] = None
        for override in self._overrides.values():
            if what == "entered" or override.key == subject:
                self._apply(override, branch)

    def _apply(self, override: _Override, owner: Owner) -> None:
        table: services.Services | None = owner.services
        old = None if table is None else table.cells.get(override.key)
        if table is None or old is None:
            return
        if old.origin is not None:  # one of its own, made by the recipe of a scope above
            override.refused.append(_exists(old))
            return
        try:
            services.override(owner, override.key, override.recipe)
        except ServiceExists as error:
            override.refused.append(error)
        else:
            override.applied.append((old, table.cells[override.key]))

    # ------------------------------------------------------------------ the end of the test

    def problems(self) -> list[str]:
        """What has to fail the test: overrides that did nothing, or came too late."""
        return [text for override in self._overrides.values() for text in self._problems_of(override)]

    def _problems_of(self, override: _Override) -> Iterator[str]:
        call = f"overrides({label_of(override.key)}, ...) at {override.place}"
        yield from (f"{call} came too late: {error}" for error in override.refused)
        if not override.applied and not override.refused:
            yield (
                f"{call} did nothing: no scope that was entered during the test provides {label_of(override.key)}\n"
                "Right: the key that the program provides, and overrides(...) before it enters its scope"
            )

    def end(self) -> None:
        """No longer; a scope that is still open and has not made the service gets its own factory back."""
        WATCHERS.remove(self._watch)
        for override in self._overrides.values():
            for old, new in override.applied:
                cells = new.table.cells if isinstance(new.table, services.Services) else {}
                if new.owner.phase != "closed" and new.is_untouched and cells.get(override.key) is new:
                    cells[override.key] = old
        self._scopes.clear()


def _exists(service: Service) -> ServiceExists:
    holders = tuple(service.holders)
    return ServiceExists(key=service.label, path=service.owner.path, state=service.state, holders=holders)


# ------------------------------------------------------------------ virtual_time


@dataclass
class VirtualBackend:
    """What AnyIO's plugin is given for a test in virtual time: the backend, with options that are checked to be used.

    Attributes:
        name: The name of the backend.
        options: Its options: those of the test's own, and those for virtual time.
        clocks: The event loops or clocks that were made. A loop is added when it is made.
    """

    name: str
    options: dict[str, Any]
    clocks: list[object]

    @classmethod
    def of(cls, backend: str | tuple[str, dict[str, Any]]) -> VirtualBackend:
        """The same backend in virtual time; the test is skipped where there is none."""
        from .virtual_time import backend_options

        name, options = (backend, {}) if isinstance(backend, str) else backend
        _skip_real_clock(name, options)
        virtual = cls(name, {**options, **backend_options(name)}, [])
        if name == "trio":
            virtual.clocks.append(virtual.options["clock"])
        else:
            virtual.options["loop_factory"] = functools.partial(virtual._make_loop, virtual.options["loop_factory"])
        return virtual

    def _make_loop(self, factory: Callable[[], Any]) -> Any:
        loop = factory()
        self.clocks.append(loop)
        return loop

    def is_in_use(self) -> bool:
        """Whether the running test really is in virtual time."""
        if self.name == "trio":
            import trio

            return any(clock is trio.lowlevel.current_clock() for clock in self.clocks)
        return any(loop is running_loop() for loop in self.clocks)


def _skip_real_clock(name: str, options: dict[str, Any]) -> None:
    factory = options.get("loop_factory")
    module = str(getattr(factory, "__module__", "")).partition(".")[0]
    if options.get("use_uvloop") or module in ("uvloop", "winloop"):
        pytest.skip("virtual_time: uvloop has no clock but the real one")
    if name == "asyncio" and factory is not None:
        pytest.skip("virtual_time: the loop_factory of this backend makes loops with a clock of their own")


def in_virtual_time(request: pytest.FixtureRequest) -> Generator[VirtualBackend, None, None]:
    """Let everything that asks for `anyio_backend` after this get one in virtual time, until the test has ended."""
    require_async_test(request, "the mark virtual_time")
    if "anyio_backend" not in request.fixturenames:
        pytest.fail("the mark virtual_time is for tests of AnyIO's plugin\nRight: @pytest.mark.anyio", pytrace=False)
    _refuse_shared_loop(request)
    virtual = VirtualBackend.of(request.getfixturevalue("anyio_backend"))
    # Neither a fixture of this name nor a parameter would do: both would take the place of the user's own. What pytest
    # keeps of the fixture is changed instead, which every later request is given.
    kept: Any = request._get_active_fixturedef("anyio_backend")
    before = kept.cached_result
    kept.cached_result = ((virtual.name, virtual.options), *before[1:])
    try:
        yield virtual
    finally:
        kept.cached_result = before


def _refuse_shared_loop(request: pytest.FixtureRequest) -> None:
    """An async fixture of a wider scope keeps its event loop for several tests, and would take this one along."""
    definitions = request.node._fixtureinfo.name2fixturedefs
    for name in request.fixturenames:
        for definition in definitions.get(name, ())[-1:]:
            is_async = inspect.iscoroutinefunction(definition.func) or inspect.isasyncgenfunction(definition.func)
            if is_async and definition.scope != "function":
                _refuse(f"its fixture {name} has the scope {definition.scope}")


def _refuse(why: str) -> NoReturn:
    pytest.fail(
        f"the mark virtual_time needs an event loop of its own, but {why}, and shares its loop with other tests\n"
        "Right: async fixtures of the scope function, or the test in a module without wider ones",
        pytrace=False,
    )


def certainly_virtual(virtual: VirtualBackend, test: Callable[..., Any]) -> Callable[..., Any]:
    """The async test, made to fail if it does not run in virtual time after all."""

    @functools.wraps(test)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        if not virtual.is_in_use():
            _refuse("an async fixture of a wider scope is alive")
        await test(*args, **kwargs)

    return wrapper


# ------------------------------------------------------------------ the test itself


def run_checked(item: pytest.Function, virtual: object) -> Generator[None, object, object]:
    """Around the call of a test that uses any of this.

    The test function itself is wrapped, and not what is around it: then the check runs in the test's own task, and it
    is the test that fails, not its tear-down.
    """
    checks: list[Callable[[Any], Any]] = []
    if isinstance(item.funcargs.get("no_leaks"), LeakCheck):
        checks.append(checked)
    if isinstance(virtual, VirtualBackend):
        checks.append(functools.partial(certainly_virtual, virtual))
    with _wrapped(item, checks):
        result = yield
    overrides = item.funcargs.get("overrides")
    if isinstance(overrides, Overrides) and (problems := overrides.problems()):
        pytest.fail("\n".join(problems), pytrace=False)
    return result


def _innermost(test: Any) -> Any:
    """The test itself, where AnyIO has put one of its own in its place for an earlier run with Hypothesis."""
    return getattr(test, "_anyio_original_func", test)


@contextmanager
def _wrapped(item: pytest.Function, wraps: list[Callable[[Any], Any]]) -> Generator[None, None, None]:
    """Meanwhile, the test function is another one; that of a test of Hypothesis is the one that it calls."""
    if not wraps:
        yield
        return
    holder, attribute = (item.obj.hypothesis, "inner_test") if hasattr(item.obj, "hypothesis") else (item, "obj")
    original = getattr(holder, attribute)
    test = _innermost(original)
    for wrap in wraps:
        test = wrap(test)
    setattr(holder, attribute, test)
    try:
        yield
    finally:
        setattr(holder, attribute, original)
