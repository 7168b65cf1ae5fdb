"""Virtual time: tests in which waiting costs nothing and is exact, on asyncio and on Trio.

When nothing can run, the clock jumps to the next deadline. Both clocks begin at 0 and show the same times. Rules,
the same on both backends:

* *Threads hold the clock.* While a worker thread or a thread of the program's own runs, no jump is made, so the clock
  shows the same time afterwards, unless the threads take longer than a real second: then it goes on.
* *Nothing left to happen is an error.* No task can run, no deadline is pending, no thread runs, no socket is watched:
  that is a `Deadlock`, raised through any shield, which says who waits where.
* *So is never to rest.* A task that spins lets no time go by; that is a `Livelock`.

Not for uvloop, whose clock is the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from . import _private_asyncio, _private_trio
from ._watch import MOST_TURNS, Deadlock, Livelock, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Deadlock", "Livelock", "backend_options", "run")

T = TypeVar("T")


def backend_options(backend: str) -> dict[str, Any]:
    """Options that make a backend run in virtual time.

    Args:
        backend: `asyncio` or `trio`.

    Returns:
        What to give to `anyio.run(..., backend_options=...)`, or with the name as a pair to the fixture
        `anyio_backend` of AnyIO's pytest plugin; for one run.

    Raises:
        ValueError: There is no virtual time for that backend.
        Unsupported: This version of Trio lacks what is needed.

    Example:
        >>> import anyio
        >>> from anyscope.testing import backend_options
        >>> anyio.run(anyio.sleep, 3600, backend_options=backend_options("asyncio"))
    """
    return options_of(backend, Watch())


def options_of(backend: str, watch: Watch) -> dict[str, Any]:
    """As `backend_options`, reporting to `watch`."""
    if backend == "asyncio":
        return _private_asyncio.options(watch)
    if backend == "trio":
        return _private_trio.options(watch)
    raise ValueError(f"virtual time is for the backends 'asyncio' and 'trio', got {backend!r}")


def run(fn: Callable[..., Awaitable[T]], *args: Any, backend: str = "asyncio", most_turns: int = MOST_TURNS) -> T:
    """Run an async function to its end, in virtual time.

    Args:
        fn: The async function.
        *args: Its positional arguments.
        backend: `asyncio` (default) or `trio`.
        most_turns: Turns of the event loop without any time going by, after which it is a `Livelock`.

    Returns:
        What it returns.

    Raises:
        Deadlock: Nothing could ever happen any more, whatever the program made of it.
        Livelock: It never rested.
        BaseException: What it raises.

    Example:
        >>> import anyio
        >>> from anyscope.testing import run
        >>> async def main():
        ...     await anyio.sleep(3600)
        ...     return anyio.current_time()
        >>> run(main)
        3600.0
        >>> run(main, backend="trio")
        3600.0
    """
    watch = Watch(most_turns)
    try:
        return anyio.run(fn, *args, backend=backend, backend_options=options_of(backend, watch))
    finally:
        if watch.stuck is not None:
            raise watch.stuck
