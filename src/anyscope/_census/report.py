"""The report, as text."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .count import Counts
    from .options import Options
    from .record import Census

LARGEST = 10
ERRORS_PER_KIND = 10
LONGEST_REASON = 160


def report(census: Census, options: Options) -> str:
    """Write down what is known.

    Args:
        census: The record, complete or not.
        options: What was asked for.

    Returns:
        Lines of text.
    """
    lines = [*_head(census, options)]
    if census.results:
        lines += ["", *_sums(census.counted)]
    if census.counted:
        lines += ["", *_largest(census.counted, options.root)]
    if census.failed:
        lines += ["", *_errors(census.failed, options.root)]
    if options.db is not None and census.number is not None:
        part = "" if census.is_complete else ", which is not complete"
        lines += ["", f"Written to {plain(str(options.db))} as census {census.number}{part}"]
    return "".join(f"{line}\n" for line in lines)


def _head(census: Census, options: Options) -> Iterator[str]:
    """What was done."""
    yield f"Census of {plain(str(options.root))} ({options.backend}, {options.concurrency} at once)"
    if census.stopped:
        yield f"Stopped by {census.stopped} after {census.seconds:.1f} s: this is what was known by then"
    elif census.found:
        yield f"{census.found:,} file{'s' * (census.found != 1)} in {census.seconds:.1f} s"
    else:
        yield "There are no Python files (*.py)."


def _sums(counted: Mapping[Path, Counts]) -> Iterator[str]:
    """The table of sums."""
    every = counted.values()
    sums = {
        "files": len(every),
        "lines": sum(counts.lines for counts in every),
        "functions": sum(counts.functions for counts in every),
        "classes": sum(counts.classes for counts in every),
    }
    for name, number in sums.items():
        yield f"{name:<10}{number:>12,}"


def _largest(counted: Mapping[Path, Counts], root: Path) -> Iterator[str]:
    """The table of the largest files."""
    yield f"{'lines':>10}{'functions':>12}{'classes':>10}  largest files"
    for path, counts in sorted(counted.items(), key=lambda item: (-item[1].lines, item[0]))[:LARGEST]:
        yield f"{counts.lines:>10,}{counts.functions:>12,}{counts.classes:>10,}  {short(path, root)}"


def _errors(failed: Mapping[Path, Exception], root: Path) -> Iterator[str]:
    """The errors by their kind, the commonest first."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for path, error in sorted(failed.items()):
        kinds[type(error).__name__].append(f"{short(path, root)}: {reason(error, path)}")
    yield f"{len(failed):,} could not be counted"
    for kind, lines in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"  {kind} ({len(lines):,})"
        yield from (f"    {line}" for line in lines[:ERRORS_PER_KIND])
        if len(lines) > ERRORS_PER_KIND:
            yield f"    ... and {len(lines) - ERRORS_PER_KIND:,} more"


def short(path: Path, root: Path) -> str:
    """Name a file from the root on; the root itself by its last part.

    Args:
        path: The file.
        root: The root of the census.

    Returns:
        The name, as `plain` writes it.
    """
    return plain(path.name if path == root else str(path.relative_to(root)))


def reason(error: Exception, path: Path) -> str:
    """Say in one line what is wrong with a file, without saying again which.

    Args:
        error: What counting it raised.
        path: The file.

    Returns:
        The reason, with the line where the parser knows it.
    """
    if isinstance(error, SyntaxError):
        text = f"line {error.lineno}: {error.msg}" if error.lineno else str(error.msg)
        text = text.replace(f" for {str(path)!r}", "")
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = str(error)
    text = plain(text) or "no reason given"
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


def plain(text: str) -> str:
    """Escape what would not stay on its line, or cannot be written at all.

    Args:
        text: A file name, or the text of an error.

    Returns:
        The text with escapes for line ends, control characters and lone surrogates.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
