"""Leaving the block of an owner, as an `__aexit__` has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._vocabulary.errors import reraise
from .._vocabulary.notes import is_group

if TYPE_CHECKING:
    from .owner import Owner


async def leave_block(owner: Owner, error: BaseException | None) -> bool:
    """Close the owner, raise what leaves, and tell whether the body's error is absorbed."""
    leaving = await owner.leave(error)
    try:
        if leaving is None:
            return error is not None
        if leaving is error:
            return False
        if is_group(leaving):
            leaving.__suppress_context__ = True  # the body's error is in the group already
        return reraise(leaving)
    finally:
        del error, leaving  # the frames of an error must not lead back to it
