"""Whether a thread is at work that may wake the event loop: while one is, virtual time stands still.

Private parts, because nobody tells this openly: which threads belong to an executor (`concurrent.futures`), which
of AnyIO's worker threads have work (its asyncio backend), and which of Trio's cached ones are idle. Should these
change, a thread counts as at work for as long as it lives, and time may go on only after `PATIENCE` real seconds; the
tests of virtual time notice that.

Rejected: freezing time for ever while threads run (a program that times out on a blocked thread would hang), and
wrapping AnyIO's and asyncio's functions (misses threads that the program starts itself).
"""

from __future__ import annotations

import concurrent.futures.thread
import threading
from typing import Any

PATIENCE = 1.0
"""Real seconds for which running threads hold the clock."""
GRACE = 0.02
"""Real seconds for which watched sockets and pipes hold the clock: what comes from this process is there at once."""
POLL = 0.003
"""Real seconds between two looks at running threads."""


class ThreadWatch:
    """Tells whether any thread is at work that was not there when the watch began.

    Attributes:
        executor_jobs: Calls handed to an executor by the loop and not finished yet. Written by the loop alone.
    """

    def __init__(self) -> None:
        self._before = set(threading.enumerate())
        self.executor_jobs: int = 0

    def is_busy(self) -> bool:
        """True while a thread may still wake the loop. To be asked *before* the loop looks for wake-ups."""
        if self.executor_jobs:
            return True
        pooled: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
        return any(_works(t) for t in threading.enumerate() if t not in self._before and t not in pooled)


def _works(thread: threading.Thread) -> bool:
    """Sort a live thread: AnyIO's and Trio's workers live on when idle, any other thread is at work."""
    jobs: Any = getattr(thread, "queue", None)
    if type(thread).__module__ == "anyio._backends._asyncio":
        return bool(jobs.unfinished_tasks > 0)
    worker: Any = getattr(getattr(thread, "_target", None), "__self__", None)
    if type(worker).__module__ == "trio._core._thread_cache":
        return worker not in worker._thread_cache._idle_workers
    return True
