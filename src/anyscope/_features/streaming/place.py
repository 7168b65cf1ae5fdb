"""Where the code of a stream runs, if not in the reader's task."""

from __future__ import annotations

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
