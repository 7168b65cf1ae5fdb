"""Which files there are; blocking, for a worker thread."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave.

    Attributes:
        files: The source files, in the order of their names, folder by folder.
        unread: The folders that could not be listed, and why.
    """

    files: list[Path] = field(default_factory=list[Path])
    unread: dict[Path, Exception] = field(default_factory=dict[Path, Exception])


def find(root: Path, skip: Collection[str], on_folder: Callable[[], object]) -> Found:
    """Find the `*.py` files of a tree.

    Args:
        root: Where to begin; a file is all there is to find then, whatever its name.
        skip: Names of folders to leave out.
        on_folder: Called for each folder; what it raises ends the search.

    Returns:
        The files, and the folders that could not be listed. Links to folders are not followed.
    """
    found = Found()
    if not root.is_dir():
        found.files.append(root)
        return found

    def note(error: OSError) -> None:
        found.unread[Path(str(error.filename))] = error

    for folder, folders, files in os.walk(root, onerror=note):
        on_folder()
        folders[:] = sorted(name for name in folders if name not in skip)
        found.files.extend(Path(folder, name) for name in sorted(files) if name.endswith(".py"))
    return found
