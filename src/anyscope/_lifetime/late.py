"""A call that came too late: its scope is closing already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from anyio.lowlevel import checkpoint_if_cancelled

if TYPE_CHECKING:
    from .._vocabulary.errors import ScopeClosed


async def refuse(late: ScopeClosed) -> NoReturn:
    """Raise it, unless the caller has been cancelled: then that comes first.

    A task of a cancelled scope that could not be interrupted for a while comes to its next call when the scope is being
    closed already. That is no mistake of anybody, and must not end as an error of the scope.

    Args:
        late: What came too late.
    """
    try:
        await checkpoint_if_cancelled()
        raise late
    finally:
        del late  # the error's traceback leads to this frame
