"""Context managers of either kind, and which of them are meant to be entered and nothing else."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from .._vocabulary.options import name_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Manager: TypeAlias = "AbstractAsyncContextManager[Any]"


def as_manager(value: object) -> Manager | None:
    """`value` as an async context manager, if it is one of either kind; the async kind goes first."""
    if _has_methods(value, "__aenter__", "__aexit__"):
        return cast("Manager", value)
    return _Plain(value) if _has_methods(value, "__enter__", "__exit__") else None


def title_of(manager: object) -> str:
    """What to call a context manager: the generator function that it was made from, or else its class."""
    return name_of(getattr(manager, "gen", None) or type(manager))


def _no_generator() -> Any:
    return None


# The classes of what the two decorators make; contextlib gives them no public name.
_ASYNC_MADE = type(asynccontextmanager(_no_generator)())
_MADE = type(contextmanager(_no_generator)())


def self_evident_manager(made: Any) -> Manager | None:
    """What to enter, if `made` is a generator, or was made by one of the two decorators of contextlib."""
    if inspect.isasyncgen(made):
        return as_manager(asynccontextmanager(_give(made))())
    if inspect.isgenerator(made):
        return as_manager(contextmanager(_give(made))())
    return as_manager(made) if issubclass(type(made), (_ASYNC_MADE, _MADE)) else None


def _give(made: Any) -> Callable[[], Any]:
    return lambda: made


def _has_methods(value: object, *names: str) -> bool:
    return not isinstance(value, type) and all(hasattr(type(value), name) for name in names)


class _Plain(AbstractAsyncContextManager[Any]):
    """A plain context manager in the form of an async one."""

    def __init__(self, manager: Any) -> None:
        self.gen: object = getattr(manager, "gen", None) or type(manager)  # for `title_of`
        self._manager: AbstractContextManager[Any] = manager

    async def __aenter__(self) -> Any:
        return self._manager.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._manager.__exit__(kind, error, traceback)
