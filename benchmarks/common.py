"""What the benchmarks share: the command line, and what was measured with what."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tables(Protocol):
    """Prints tables."""

    async def __call__(self, backend: str, *, quick: bool) -> None:
        """Print all of one backend."""


def parser_of(description: str) -> argparse.ArgumentParser:
    """A command line with `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer operations and rounds")
    return parser


def versions(names: Iterable[str]) -> str:
    """What was measured with what."""
    found = [_version_of(name) for name in ("anyscope", "anyio", "trio", *names)]
    return f"{platform.python_implementation()} {platform.python_version()}, {', '.join(found)}"


def _version_of(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} {'as it is here' if name == 'anyscope' else 'not installed'}"


def print_all(tables: Tables, names: Iterable[str], *, quick: bool) -> None:
    """Print every table, on asyncio and on Trio."""
    print(versions(names))
    for backend in ("asyncio", "trio"):

        async def run(backend: str = backend) -> None:
            await tables(backend, quick=quick)

        anyio.run(run, backend=backend)
