"""Services: made on first use in the scope that provides them, once, and closed with it.

    declared -> building -> ready -> closing -> closed        a build that fails or is given up leads back

A scope that provides something has a table of services; a look-up goes up the chain of scopes, live, and takes
the nearest table that has the key. What it finds belongs to the scope of that table: made in its context (context
variables and current scope), by its tasks, closed among its clean-ups. So the first who asks lends it nothing, and
a service that needs another finds only what its own scope sees.

Invariants
    * There is at most one build of a service at a time, and at most one instance. There is no lock: whoever comes
      while it is being built waits for that very build, and all of them decide without awaiting.
    * A service that is ready is given out without waiting for anything.
    * A service is made while its scope is open or drains, and closed after every task and child scope has ended.
    * The value is shown nowhere, only the key.

`shared=False` is a recipe that others cook: a scope that asks finds it above, and makes a service of its own by it.

Rejected
    * Copies of the parent's table in the child: what is provided later would not be seen, and walking up costs
      some ten nanoseconds a level.
    * A factory that is called with the scope. It would have to be found out whether it wants that; it can ask for
      `current_scope()` and `use(...)`.
    * A task for every build. A factory that gives its value at once needs none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._lifetime.late import refuse
from .._lifetime.opening import OPENING, Opening
from .._lifetime.place import HERE, Place, bottom_of
from .._lifetime.watching import WATCHERS, tell
from .._vocabulary.errors import ScopeClosed, ScopeMisuse, ServiceExists, ServiceNotReady
from .._vocabulary.keys import check_key, label_of
from .recipes import Recipe, check_close
from .searching import chain, not_found, not_own
from .service import MISSING, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from .._lifetime.branch import Branch
    from .._lifetime.owner import Owner


class Services:
    """The services of one scope.

    Args:
        owner: The scope.

    Attributes:
        cells: The services by key, in the order in which they were provided.
        _given: The values that were provided before entry, to be closed with the scope; replaced ones too.
    """

    __slots__ = ("_given", "cells", "owner")

    def __init__(self, owner: Owner) -> None:
        self.owner: Owner = owner
        self.cells: dict[Any, Service] = {}
        self._given: list[Service] = []

    def __iter__(self) -> Iterator[Service]:
        return iter(self.cells.values())

    def new_context(self, service: Service) -> Context:
        """The context for one factory: that of the scope at entry, in which the scope is the current one."""
        assert self.owner.context is not None
        context = self.owner.context.copy()
        context.run(HERE.set, FactoryPlace(self.owner, service.label))
        context.run(OPENING.set, None)  # the scope may have been entered by a factory
        return context

    def install(self, service: Service) -> None:
        """Provide it from now on, in the place of whatever was there under its key."""
        self.cells[service.key] = service
        if not service.was_given:
            return
        if self.owner.phase == "new":
            self._given.append(service)
        else:
            service.push_close()

    async def begin(self) -> None:
        """The scope has been entered: take charge of the values, and make what is eager, in order."""
        for service in self._given:
            service.push_close()
        self._given.clear()
        for service in list(self):
            if service.recipe.eager:
                await service.get()


class FactoryPlace(Place):
    """Where a factory runs: in its scope, and in whichever task asked."""

    __slots__ = ("_label",)

    def __init__(self, owner: Owner, label: str) -> None:
        super().__init__(owner)
        self._label = label

    @property
    def who(self) -> str:
        """How messages speak of it."""
        return f"service {self._label} of {self.owner.path}"


# ------------------------------------------------------------------ what the scope offers


def provide(owner: Owner, key: object, recipe: Recipe, *, may_replace: bool) -> None:
    """`s.provide`: declare a service."""
    recipe.check("s.provide", key)
    table = _table_to_provide(owner, "provide", key)
    if recipe.eager and owner.phase != "new":
        raise ScopeMisuse(
            path=owner.path,
            problem=f"provide({label_of(key)}, eager=True) came after it was entered",
            remedy=f"It is made at entry. Right: s.provide({label_of(key)}, ...) and then await s.use(...)",
        )
    _require_free(table, key, may_replace=may_replace)
    _install_new(table, Service(table, key, recipe))


def provide_value(owner: Owner, key: object, value: object, close: Callable[[Any], object] | None) -> None:
    """`s.provide_value`: a service that exists already."""
    check_key(key)
    check_close("s.provide_value", label_of(key), close)
    table = _table_to_provide(owner, "provide_value", key)
    _require_free(table, key, may_replace=False)
    _install_new(table, Service(table, key, Recipe(_no_factory, close), value=value))


def override(owner: Owner, key: object, recipe: Recipe) -> None:
    """`s.override`: another factory for what this scope provides, before its first use."""
    recipe.check("s.override", key)
    table = _table_to_provide(owner, "override", key)
    old = table.cells.get(key)
    if old is None or old.origin is not None:
        raise not_own(owner, key)
    if not old.is_untouched:
        raise _exists(old)
    recipe = replace(recipe, eager=old.recipe.eager, shared=old.recipe.shared)
    table.install(Service(table, key, recipe))


async def use(owner: Owner, key: Any, default: Any = MISSING) -> Any:
    """`s.use`: the value of a service, made first where need be."""
    try:
        service = _find(owner, "use", key)
        own = None if service is None else _own(owner, service)
    except ScopeClosed as late:
        await refuse(late)
    if own is not None:
        return await own.get()
    if default is not MISSING:
        return default
    raise not_found(owner, key, needed_by=_needed_by())


def use_nowait(owner: Owner, key: Any) -> Any:
    """`s.use_nowait`: the value of a service that has been made."""
    service = _find(owner, "use_nowait", key)
    if service is None:
        raise not_found(owner, key, needed_by=_needed_by())
    if not service.recipe.shared and service.owner is not owner:
        raise ServiceNotReady(key=service.label, path=owner.path, state="declared")
    return service.get_nowait()


def has(owner: Owner, key: object) -> bool:
    """`s.has`: whether the scope, or one above it, provides a service; before entry and after the end, too."""
    check_key(key)
    return any(each.services is not None and key in each.services.cells for each in chain(owner))


def instant(owner: Owner, key: Any) -> Any:
    """The value of a service that is ready, by the shortest way; `MISSING` where that does not do."""
    branch: Branch | None = owner
    try:
        while branch is not None:
            table = branch.services
            if table is not None and key in table.cells:
                service = table.cells[key]
                usable = service.is_booked and owner.phase != "closed"
                return service.value if usable and (branch is owner or service.recipe.shared) else MISSING
            branch = branch.parent
    except TypeError:  # a list, for instance, which no dict can be asked for
        check_key(key)
        raise
    return MISSING


# ------------------------------------------------------------------ below that


def _find(owner: Owner, call: str, key: Any) -> Service | None:
    """The service of the nearest scope that provides `key`; refused before entry and after the end."""
    check_key(key)
    if owner.phase in ("new", "closed"):
        owner.require_open(call, label_of(key))
    branch: Branch | None = owner
    while branch is not None:
        table: Services | None = branch.services
        service = None if table is None else table.cells.get(key)
        # One that only follows a recipe from above, and was not made after all, is made by the present recipe.
        if service is not None and (service.origin is None or service.state != "declared"):
            return service
        branch = branch.parent
    return None


def _own(owner: Owner, service: Service) -> Service:
    """The service itself; or where each scope has its own, that of `owner`."""
    if service.recipe.shared or service.owner is owner:
        return service
    owner.require_open("use", service.label)
    table = _table_of(owner)
    own = Service(table, service.key, service.recipe, origin=service)
    table.install(own)
    return own


def _table_of(owner: Owner) -> Services:
    if owner.services is None:
        owner.services = Services(owner)
    table: Services = owner.services
    return table


def _table_to_provide(owner: Owner, call: str, key: object) -> Services:
    if owner.phase != "new":
        owner.require_open(call, label_of(key))
    return _table_of(owner)


def _install_new(table: Services, service: Service) -> None:
    table.install(service)
    if WATCHERS and table.owner.phase != "new":
        tell("provided", table.owner, service.key)


def _require_free(table: Services, key: object, *, may_replace: bool) -> None:
    old = table.cells.get(key)
    if old is None or (may_replace and old.is_untouched) or (old.origin is not None and old.state == "declared"):
        return
    raise _exists(old)


def _exists(old: Service) -> ServiceExists:
    state = "declared" if old.is_untouched else old.state
    if state == "declared" and old.holders:
        state = "ready"  # in the scopes that have one of their own
    return ServiceExists(key=old.label, path=old.owner.path, state=state, holders=tuple(old.holders))


def _needed_by() -> str:
    """The service whose factory is running, if one is."""
    place = HERE.get()
    bottom = None if place is None else bottom_of(place)
    if isinstance(bottom, FactoryPlace) or (isinstance(bottom, Opening) and not bottom.is_done):
        return bottom.who
    return ""


def _no_factory() -> None:
    raise AssertionError("a value that was given needs no factory")
