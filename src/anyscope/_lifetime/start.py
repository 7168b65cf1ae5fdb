"""What the backend is given to run for each child task of ours."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .owner import Owner


class Start(Coroutine[Any, Any, None]):
    """Makes the coroutine of a child task at its first step.

    A real coroutine that the backend drops before its first step (asyncio does, after a native cancel)
    makes Python warn that it was never awaited. This object is dropped without a sound.

    Args:
        begin: Makes the coroutine.
    """

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begin().__await__()

    def send(self, value: Any, /) -> Any:
        """Required of a coroutine, but the backends await this one."""
        raise AssertionError("a Start is awaited, not sent to")

    def throw(self, *args: Any) -> Any:
        """Required of a coroutine, but the backends await this one."""
        raise AssertionError("a Start is awaited, not thrown at")

    def close(self) -> None:
        """There is nothing to close before the first step."""


def start_apart(owner: Owner, begin: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Start a child task in the context that the scope was entered in, for it may be asked for by anybody, anywhere."""
    assert owner.context is not None
    _ = owner.spawn(Start(begin), name, owner.context.copy())
