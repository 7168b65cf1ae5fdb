"""The backends with the real clock, for tests whose other side keeps to no other: a server, a process.

`from real_clock import anyio_backend` in a test file gives its tests these.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anyscope.testing._private_asyncio import RecordingMixin
from conftest import WATCH


class RecordingLoop(RecordingMixin, asyncio.SelectorEventLoop):
    """asyncio's own loop; what reaches its exception handler fails the test."""


@pytest.fixture
def anyio_backend(anyio_backend: tuple[str, dict[str, Any]], request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The backends, with the real clock."""
    name, options = anyio_backend
    if request.param == "asyncio+uvloop":
        return name, options
    if name == "trio":
        return name, {}

    def make() -> RecordingLoop:
        loop = RecordingLoop()
        loop.watch = request.node.stash[WATCH]
        loop.watch.loops.append(loop)
        return loop

    return name, {"loop_factory": make}
