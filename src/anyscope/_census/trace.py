"""`--trace`: what the census's scope does, on stderr."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, TextIO

from .. import LoggingHooks

if TYPE_CHECKING:
    from collections.abc import Generator

LOGGER = "anyscope.census"


@contextlib.contextmanager
def tracing(stream: TextIO) -> Generator[LoggingHooks]:
    """Log to `stream` for as long as the block lasts.

    Args:
        stream: Where to.

    Yields:
        The hooks that log what a scope does.
    """
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(relativeCreated)8.0f ms  %(message)s"))
    logger.addHandler(handler)
    before, propagates = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield LoggingHooks(logger)
    finally:
        logger.setLevel(before)
        logger.propagate = propagates
        logger.removeHandler(handler)
