"""What is raised where a runtime cannot be had as the testing package needs it."""

from __future__ import annotations


class Unsupported(Exception):
    """This version of a runtime lacks what the testing package needs; the text says what."""
