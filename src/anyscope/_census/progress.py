"""How far the census is: one line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .record import Look

WIDTH = 60


class ProgressLine:
    """Shows the progress; a poll looks, and gives it what it saw.

    Args:
        stream: Where to; whether it is a terminal decides how often, and whether the line is rewritten.

    Attributes:
        _told: What was told last.
    """

    __slots__ = ("_stream", "_terminal", "_told")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._told: Look | None = None

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return 0.1 if self._terminal else 1.0

    def tell(self, look: Look) -> None:
        """Tell of it, if there is something new to tell.

        Args:
            look: How far it is.
        """
        if look == self._told:
            return
        self._told = look
        line = f"{look.done:,} file{'s' * (look.done != 1)}" + (f", {look.failed:,} failed" if look.failed else "")
        self._write(f"\r{line:<{WIDTH}}" if self._terminal else line + "\n")

    def clear(self) -> None:
        """Take the line off a terminal, so that the report starts on an empty one."""
        if self._terminal:
            self._write("\r" + " " * WIDTH + "\r")

    def _write(self, text: str) -> None:
        """Write at once. Progress is a nicety: nobody there to read it is no reason to end the census."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
