"""Which files there are, folder by folder; blocking, for a worker thread."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator


@dataclass(frozen=True, slots=True)
class Found:
    """What a step of the search gave.

    Attributes:
        files: Source files, in the order of their names.
        unread: The folders that could not be listed, and why.
    """

    files: list[Path] = field(default_factory=list[Path])
    unread: dict[Path, Exception] = field(default_factory=dict[Path, Exception])


def find(root: Path, skip: Collection[str]) -> Iterator[Found]:
    """Find the `*.py` files of a tree.

    Args:
        root: Where to begin; a file is all there is to find then, whatever its name.
        skip: Names of folders to leave out.

    Yields:
        The files of each folder, and what could not be listed on the way to it. Links to folders are not followed.
    """
    if not root.is_dir():
        yield Found([root])
        return
    unread: dict[Path, Exception] = {}

    def note(error: OSError) -> None:
        unread[Path(str(error.filename))] = error

    for folder, folders, files in os.walk(root, onerror=note):
        folders[:] = sorted(name for name in folders if name not in skip)
        yield Found([Path(folder, name) for name in sorted(files) if name.endswith(".py")], dict(unread))
        unread.clear()
    yield Found([], dict(unread))


async def search(root: Path, skip: Collection[str]) -> AsyncIterator[Found]:
    """The same, each step in a worker thread: no further ahead than somebody asks for.

    Args:
        root: Where to begin.
        skip: Names of folders to leave out.

    Yields:
        What each step gave.
    """
    steps = find(root, skip)
    while (found := await anyio.to_thread.run_sync(next, steps, None)) is not None:
        yield found
