"""What the command line asks for, checked before anything is started."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "python -m anyscope"
BACKENDS = ("asyncio", "trio")
MOST_AT_ONCE = 256
INSTALLED = frozenset({"site-packages", "dist-packages"})


class UsageError(Exception):
    """The census cannot be taken as asked; its text is the line that the user sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to count, and how.

    Attributes:
        root: A folder, or one file.
        skip: Names of folders to leave out.
        backend: The event loop, `asyncio` or `trio`.
        concurrency: How many files are in hand at once, each in a worker thread.
        db: The file of the database to write to; `None` keeps it in memory.
        trace: Whether to log what the scope does, in place of the progress.
    """

    root: Path
    skip: frozenset[str] = frozenset()
    backend: str = "asyncio"
    concurrency: int = 8
    db: Path | None = None
    trace: bool = False


def parse(argv: Sequence[str]) -> Options:
    """Read the command line.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The options, their backend and their root found usable.

    Raises:
        UsageError: The backend is not installed, or the root cannot be read.
        SystemExit: argparse has said what is wrong (code 2), or has helped (code 0).
    """
    given = _parser().parse_args(argv)
    asked: Path | None = given.path
    options = Options(
        root=Path(sysconfig.get_path("stdlib")) if asked is None else asked,
        skip=INSTALLED if asked is None else frozenset(),
        backend=given.backend,
        concurrency=given.concurrency,
        db=given.db,
        trace=given.trace,
    )
    _check_backend(options.backend)
    _check_root(options.root)
    return options


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Take a census of Python source files: lines, functions, classes, and what fails."
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        type=Path,
        help="a folder or a file (default: this Python's standard library)",
    )
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="the event loop (default: asyncio)")
    parser.add_argument(
        "--concurrency", metavar="N", type=_count, default=8, help="how many files at once (default: 8)"
    )
    parser.add_argument("--db", metavar="PATH", type=Path, help="write the result to this SQLite database too")
    parser.add_argument(
        "--trace", action="store_true", help="log tasks, clean-ups and the pool to stderr, not the progress"
    )
    return parser


def _count(text: str) -> int:
    """Read the value of `--concurrency`."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not 1 <= number <= MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_AT_ONCE}, got {text!r}")
    return number


def _check_backend(name: str) -> None:
    """Refuse a backend that is not installed."""
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{name} is not installed; to have it: pip install anyscope[{name}]")


def _check_root(root: Path) -> None:
    """Refuse a root that cannot be read, by reading a little of it."""
    try:
        if root.is_dir():
            os.scandir(root).close()
        elif root.exists() and not root.is_file():
            raise UsageError(f"cannot read {str(root)!r}: neither a folder nor a file")
        else:
            root.open("rb").close()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(root)!r}: {getattr(error, 'strerror', None) or error}") from error
