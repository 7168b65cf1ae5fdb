"""What the census knows so far: the one thing that outlives the scope, however that ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import Err, Ok, Result
from .count import Counts

if TYPE_CHECKING:
    from .find import Found


@dataclass(frozen=True, slots=True)
class Look:
    """How far a census is.

    Attributes:
        done: How many files have been counted, or could not be.
        failed: How many of them could not be, and how many folders could not be listed.
    """

    done: int
    failed: int


@dataclass(slots=True)
class Census:
    """The record; written by the event loop's thread alone.

    Attributes:
        found: How many files were found so far. Written by `expect`.
        results: What became of each file so far, and of each folder that could not be listed. Written by `note`.
        unread: The folders that could not be listed, which are among the results too. Written by `expect`.
        is_complete: Whether all files were found, and counted. Written once.
        seconds: How long it took.
        stopped: Why it was ended early; empty if it was not.
        number: Its number in the database.
    """

    found: int = 0
    results: dict[Path, Result[Counts]] = field(default_factory=dict[Path, Result[Counts]])
    unread: list[tuple[Path, Result[Counts]]] = field(default_factory=list[tuple[Path, Result[Counts]]])
    is_complete: bool = False
    seconds: float = 0.0
    stopped: str = ""
    number: int | None = None
    _failed: int = 0

    def expect(self, found: Found) -> list[Path]:
        """Take note of what a step of the search gave.

        Args:
            found: Files to come, and folders that could not be listed.

        Returns:
            The files.
        """
        self.found += len(found.files)
        for path, error in found.unread.items():
            self.unread.append((path, Err(error)))
            self.note(path, Err(error))
        return found.files

    def note(self, path: Path, result: Result[Counts]) -> None:
        """Write down what became of a file.

        Args:
            path: The file.
            result: Its counts, or why there are none.
        """
        self.results[path] = result
        self._failed += not result

    async def look(self) -> Look:
        """How far it is, for a poll."""
        return Look(len(self.results), self._failed)

    @property
    def counted(self) -> dict[Path, Counts]:
        """The files that parsed, with their counts."""
        return {path: result.value for path, result in self.results.items() if isinstance(result, Ok)}

    @property
    def failed(self) -> dict[Path, Exception]:
        """The files that did not, and the folders that could not be listed, with their errors."""
        return {path: result.error for path, result in self.results.items() if isinstance(result, Err)}
