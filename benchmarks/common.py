"""What the benchmarks share: the command line, and what was measured with what."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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


def print_all(
    tables: Tables, names: Iterable[str], *, quick: bool, backends: Iterable[str] = ("asyncio", "trio")
) -> None:
    """Print every table, on each backend; uvloop is one here, left out where it is not installed."""
    print(versions(names))
    for backend in backends:
        if backend == "uvloop" and find_spec("uvloop") is None:
            continue

        async def run(backend: str = backend) -> None:
            await tables(backend, quick=quick)

        options = {"use_uvloop": True} if backend == "uvloop" else {}
        anyio.run(run, backend="asyncio" if options else backend, backend_options=options)
