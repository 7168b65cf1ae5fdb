"""uvloop: a loop that keeps what reaches its exception handler. Its clock is the real one, its queue out of sight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._private_asyncio import RecordingMixin
from ._unsupported import Unsupported

if TYPE_CHECKING:
    from ._watch import Watch


def options(watch: Watch) -> dict[str, Any]:
    """Options for `anyio.run(..., backend="asyncio", backend_options=...)`.

    Raises:
        Unsupported: uvloop is not installed.
    """
    try:
        import uvloop
    except ImportError:
        raise Unsupported("backend='asyncio+uvloop' needs uvloop, which is not installed") from None

    recording: Any = type("RecordingUvloop", (RecordingMixin, uvloop.Loop), {})

    def make() -> Any:
        loop = recording()
        loop.watch = watch
        watch.loops.append(loop)
        return loop

    return {"loop_factory": make}
