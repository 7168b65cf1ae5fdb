"""How a service is made: what `provide` was told, and what to do with that which the factory gives.

A factory gives a value, something to be awaited for the value, or a context manager that gives it when entered.
Generators and what `@contextmanager` and `@asynccontextmanager` make are entered; any other context manager only
where `enter=True` says so, for many a service is one by accident: an `anyio.Lock` entered is a lock that is held.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._lifetime.managers import Manager, as_manager, self_evident_manager
from .._vocabulary.keys import check_key, label_of
from .._vocabulary.options import is_coroutine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a service.

    Attributes:
        factory: Gives the value, or what gives it; called without arguments.
        close: Called with the value to close it.
        enter: Whether what the factory gives is a context manager that is to be entered.
        eager: Whether it is made when the scope is entered.
        shared: Whether the scopes below share the one of the scope that provides it.
    """

    factory: Callable[[], Any]
    close: Callable[[Any], object] | None = None
    enter: bool = False
    eager: bool = False
    shared: bool = True

    def check(self, where: str, key: object) -> None:
        """Refuse what cannot work, before anything is done."""
        check_key(key)
        shown = label_of(key)
        _check_factory(where, shown, self.factory)
        check_close(where, shown, self.close)
        if self.eager and not self.shared:
            raise ValueError(
                f"{where}({shown}, ...): eager=True makes the one service of this scope, shared=False one for each "
                "scope that asks\nRight: one of the two"
            )
        if self.close is not None and (self.enter or _is_generator_function(self.factory)):
            raise _two_closes(where, shown)

    def manager_of(self, made: object, key: object) -> Manager | None:
        """The context manager to enter for what the factory gave, if that is one."""
        manager = self_evident_manager(made)
        if manager is None and self.enter:
            manager = as_manager(made)
            if manager is None and inspect.isawaitable(made):
                manager = _Awaited(made, label_of(key))
            if manager is None:
                raise _no_manager(label_of(key), made)
        if manager is not None and self.close is not None:
            raise _two_closes("provide", label_of(key))
        return manager


def check_close(where: str, shown: str, close: object) -> None:
    """Refuse a `close` that cannot be called."""
    if close is not None and not callable(close):
        raise TypeError(
            f"{where}({shown}, ...): close must be a function or None, got {type(close).__name__}\n"
            f"Right: {where}({shown}, factory, close=lambda value: value.aclose())"
        )


def _check_factory(where: str, shown: str, factory: object) -> None:
    if is_coroutine(factory):
        factory.close()  # it will never run: without this Python adds a "never awaited" warning of its own
        name = getattr(factory, "__qualname__", "open_it").rpartition("<locals>.")[2]
        raise TypeError(
            f"{where}({shown}, {name}(...)): expected a function, got a coroutine object\n"
            f"Wrong: {where}({shown}, {name}(x))\n"
            f"Right: {where}({shown}, functools.partial({name}, x))"
        )
    if not callable(factory):
        raise TypeError(
            f"{where}({shown}, ...): expected a function that makes it, got {type(factory).__name__}\n"
            f"Right: {where}({shown}, factory), or for what exists already s.provide_value({shown}, value)"
        )


def _is_generator_function(factory: Any) -> bool:
    core = inspect.unwrap(factory)
    return inspect.isasyncgenfunction(core) or inspect.isgeneratorfunction(core)


def _two_closes(where: str, shown: str) -> TypeError:
    return TypeError(
        f"{where}({shown}, ...): a context manager closes what it gives by itself, and close= was given too\n"
        "Right: put the closing after its `yield`, or into its __aexit__"
    )


def _no_manager(shown: str, made: object) -> TypeError:
    return TypeError(
        f"service {shown}: enter=True, but the factory gave {type(made).__name__}, which is no context manager\n"
        f"Right: s.provide({shown}, factory), and close=... to close it"
    )


class _Awaited(AbstractAsyncContextManager[Any]):
    """A context manager that has to be awaited first."""

    def __init__(self, made: Awaitable[Any], shown: str) -> None:
        self._made = made
        self._shown = shown
        self._manager: Manager | None = None

    async def __aenter__(self) -> Any:
        made = await self._made
        self._manager = as_manager(made)
        if self._manager is None:
            raise _no_manager(self._shown, made)
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        return await self._manager.__aexit__(kind, error, traceback)  # noqa: ASYNC102  the scope shields and bounds it
