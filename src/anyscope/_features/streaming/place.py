"""Where the code of a stream runs, if not in the reader's task, and what shields its closing there."""

from __future__ import annotations

import math

import anyio

from ..._lifetime.place import Place


class StreamPlace(Place):
    """Where the code of a stream runs in a task of the scope: the scope ends that, and does not wait for it."""

    @property
    def is_kept(self) -> bool:
        """The closing scope does not wait for what is done in it."""
        return True

    @property
    def is_sheltered(self) -> bool:
        """It is cancelled along with its scope."""
        return False


def shield_closing(scope: anyio.CancelScope, bound: float | None) -> None:
    """From now on, what runs in `scope` is cut by nothing but `bound`, in seconds."""
    scope.shield = True
    scope.deadline = math.inf if bound is None else anyio.current_time() + bound
