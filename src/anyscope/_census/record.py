"""What the census knows so far: the one thing that outlives the scope, however that ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import Aggregate, Err, Ok, Result
from .count import Counts

if TYPE_CHECKING:
    from .find import Found


@dataclass(slots=True)
class Census:
    """The record; written by the event loop's thread alone.

    Attributes:
        total: How many files were found; `None` until the search has ended. Written once.
        results: What became of each file so far, and of each folder that could not be listed.
        seconds: How long it took.
        stopped: Why it was ended early; empty if it was not.
        number: Its number in the database, once it has been written there.
    """

    total: int | None = None
    results: dict[Path, Result[Counts]] = field(default_factory=dict[Path, Result[Counts]])
    seconds: float = 0.0
    stopped: str = ""
    number: int | None = None

    def expect(self, found: Found) -> None:
        """Take note of what the search gave.

        Args:
            found: The files to come, and the folders that could not be listed.
        """
        self.total = len(found.files)
        for path, error in found.unread.items():
            self.results[path] = Err(error)

    def complete(self, found: Found, aggregate: Aggregate[Counts]) -> None:
        """Take the outcome of all jobs in place of what they wrote down one by one.

        Args:
            found: The files that the jobs were about.
            aggregate: What became of the jobs.
        """
        self.results.update(zip(found.files, aggregate.results, strict=True))

    @property
    def counted(self) -> dict[Path, Counts]:
        """The files that parsed, with their counts."""
        return {path: result.value for path, result in self.results.items() if isinstance(result, Ok)}

    @property
    def failed(self) -> dict[Path, Exception]:
        """The files that did not, and the folders that could not be listed, with their errors."""
        return {path: result.error for path, result in self.results.items() if isinstance(result, Err)}
