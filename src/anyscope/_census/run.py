"""The census itself: one scope that owns the search, the calls, the database, and the watch for Ctrl-C."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from .. import Scope, scope
from .count import Counts, count
from .database import IN_MEMORY, Database, Outcome, open_database
from .find import search
from .options import PROGRAM, Options, UsageError, parse
from .progress import ProgressLine
from .record import Census
from .report import plain, report
from .trace import tracing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .. import Hooks

USAGE = 2
INTERRUPTED = 130  # as shells say it: 128 + SIGINT
INTERRUPT = "Ctrl-C"
BATCH = 200
"""How many files are written to the database at once."""


def main(argv: Sequence[str]) -> int:
    """Take a census as the command line asks, and print it.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit code: 0, also where files do not parse; 1 when nobody read the report to its end; 2 for wrong
        usage; 130 after Ctrl-C.
    """
    try:
        options = parse(argv)
        if options.trace:
            with tracing(sys.stderr) as hooks:
                census = take(options, None, hooks)
        else:
            census = take(options, ProgressLine(sys.stderr))
        _print(report(census, options))
    except UsageError as error:
        sys.stderr.write(f"{PROGRAM}: error: {plain(str(error))}\n")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return 1
    return INTERRUPTED if census.stopped else 0


def take(options: Options, progress: ProgressLine | None, *hooks: Hooks) -> Census:
    """Take a census on an event loop of its own.

    Args:
        options: What to count, and how.
        progress: Shown how far it is, if given.
        *hooks: Told about tasks and clean-ups.

    Returns:
        All that is known; after Ctrl-C that is a part of it.
    """
    census = Census()
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # For all threads at once: the files' own warnings are none of ours.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            anyio.run(count_all, options, census, progress, *hooks, backend=options.backend)
    except BaseException as error:  # noqa: ASYNC103  the loop has ended already
        if not is_interrupt(error):
            raise
        census.stopped = INTERRUPT  # before the watch was on, or after it was off
    finally:
        if progress is not None:
            progress.clear()
        census.seconds = time.perf_counter() - began
    return census


def is_interrupt(error: BaseException) -> bool:
    """Tell whether Ctrl-C, and nothing else, ended an event loop that did not watch for it.

    Args:
        error: What left the loop. On Trio that may be a group; from AnyIO's asyncio on Python 3.10, a cancellation.

    Returns:
        Whether there is no other error in it.
    """
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return all(map(is_interrupt, inner)) if inner else isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))


async def count_all(options: Options, census: Census, progress: ProgressLine | None, *hooks: Hooks) -> None:
    """Find the files, count each of them and write the results to the database, all under one scope.

    Args:
        options: What to count, and how.
        census: Where to write down what is known, as soon as it is.
        progress: Shown how far it is, if given.
        *hooks: Told about tasks and clean-ups.

    Raises:
        UsageError: The database cannot be used.
    """
    threads = anyio.CapacityLimiter(options.concurrency)
    open_it = functools.partial(open_database, str(options.db or IN_MEMORY))
    # Eager: that a file is no database has to be known before an hour of counting.
    async with scope(name="census", hooks=hooks).provide(Database, open_it, eager=True) as s:
        s.start_soon(stop_on_interrupt, s, daemon=True)
        if progress is not None:
            s.poll(census.look, progress.tell, interval=progress.interval, immediate=False, name="progress")
        database = await s.use(Database)
        census.number = await database.begin(options)

        async def count_one(path: Path) -> Outcome:
            result = await s.run(_count_in_thread, path, threads)
            census.note(path, result)
            return path, result

        files = s.stream(search(options.root, options.skip)).flat_map(census.expect)
        counted = files.map(count_one, concurrency=options.concurrency, ordered=False)
        write = functools.partial(database.write, census.number, options.root)
        await counted.batch(BATCH, within=1.0).for_each(write)
        await write(census.unread, is_end=True)
        census.is_complete = True
    if s.cancelled:
        census.stopped = str(s.cancel_reason)
    if progress is not None:
        progress.tell(await census.look())


async def _count_in_thread(path: Path, threads: anyio.CapacityLimiter) -> Counts:
    return await anyio.to_thread.run_sync(count, path, limiter=threads)


async def stop_on_interrupt(s: Scope) -> None:
    """Cancel a scope when the user presses Ctrl-C: a daemon of that scope.

    Args:
        s: The scope. Where the event loop cannot receive signals (asyncio on Windows), Ctrl-C is left to it.
    """
    try:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                s.cancel(INTERRUPT)
    except NotImplementedError:  # asyncio on Windows
        await anyio.lowlevel.checkpoint()


def _print(text: str) -> None:
    """Write to stdout, whatever its encoding, and find out here whether somebody reads it."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _drop_stdout() -> None:
    """Nobody reads it: let the interpreter's own flush at the end go nowhere, and not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
