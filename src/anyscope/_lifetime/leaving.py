"""How a block is left with what leaves it, as an `__aexit__` has to."""

from __future__ import annotations

from .._vocabulary.errors import reraise
from .._vocabulary.notes import is_group


def leave_with(leaving: BaseException | None, error: BaseException | None) -> bool:
    """Raise what leaves the block, or tell whether the body's error is absorbed."""
    if leaving is None:
        return error is not None
    try:
        if leaving is error:
            return False
        if is_group(leaving):
            leaving.__suppress_context__ = True  # the body's error is in the group already
        return reraise(leaving)
    finally:
        del error, leaving  # the frames of an error must not lead back to it
