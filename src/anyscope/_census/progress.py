"""How far the census is: one line that is rewritten on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .. import Progress

WIDTH = 60


class ProgressLine:
    """Shows the progress of a call of the parallel family; pass it as `on_progress`.

    Args:
        stream: Where to; whether it is a terminal decides how often, and whether the line is rewritten.

    Attributes:
        _parts: Into how many parts the work is cut: there is at most one message for each.
        _told: The part that was told last; only grows.
    """

    __slots__ = ("_parts", "_stream", "_terminal", "_told")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._parts = 100 if self._terminal else 10
        self._told = 0

    def __call__(self, progress: Progress) -> None:
        """Tell of it, if there is something new to tell.

        Args:
            progress: What the parallel family reports.
        """
        total = progress.total or progress.done
        part = progress.done * self._parts // total
        if part > self._told:
            self._told = part
            self._tell(f"{progress.done * 100 // total:3} %  {progress.done:,} of {total:,} files", progress.failed)

    def clear(self) -> None:
        """Take the line off a terminal, so that the report starts on an empty one."""
        if self._terminal:
            self._write("\r" + " " * WIDTH + "\r")

    def _tell(self, text: str, failed: int) -> None:
        """Write one message."""
        line = f"{text}, {failed:,} failed" if failed else text
        self._write(f"\r{line:<{WIDTH}}" if self._terminal else line + "\n")

    def _write(self, text: str) -> None:
        """Write at once. Progress is a nicety: nobody there to read it is no reason to end the census."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
