"""A large file, line by line, through parse, filter and batch into SQLite: memory stays flat, and a stop loses nothing.

Run it with `python benchmarks/large_file.py [--megabytes 1024] [--backend trio]`. It makes the file from the sources of
the standard library, repeated; streams it into a database; does that again and cancels in the middle; and prints the
time, the peak of memory, and what the database holds. It fails where a promise is broken.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from anyscope import Pool, scope
from common import versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK = 1 << 20
BATCH = 1000
SCHEMA = """
CREATE TABLE IF NOT EXISTS found (line INTEGER PRIMARY KEY, depth INTEGER, name TEXT);
CREATE TABLE IF NOT EXISTS sums (batches INTEGER, found INTEGER);
INSERT INTO sums SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM sums);
"""


# ------------------------------------------------------------------ the file
def make_file(path: Path, size: int) -> int:
    """Write the sources of the standard library, again and again, until there are `size` bytes; gives the lines."""
    sources = [source.read_bytes() for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    block = b"".join(source if source.endswith(b"\n") else source + b"\n" for source in sources)
    written = lines = 0
    with path.open("wb") as file:
        while written < size:
            written += file.write(block)
            lines += block.count(b"\n")
    return lines


async def lines_of(path: Path) -> AsyncIterator[bytes]:
    """The lines of a file, read in worker threads."""
    with path.open("rb", buffering=0) as file:
        rest = b""
        while chunk := await to_thread.run_sync(file.read, CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
    if rest:
        yield rest


# ------------------------------------------------------------------ what is done with it
def parse(item: tuple[int, bytes]) -> tuple[int, int, str] | None:
    """The number of the line, how deep it is, and the name that it defines, if it does."""
    number, line = item
    text = line.lstrip()
    if text[:1] not in b"dca" or not text.startswith((b"def ", b"class ", b"async def ")):
        return None
    return number, len(line) - len(text), text.partition(b"(")[0].decode("utf-8", "replace").split()[-1].rstrip(":")


def connect(path: Path) -> sqlite3.Connection:
    """Open the database."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.executescript(SCHEMA)
    return connection


def insert(connection: sqlite3.Connection, batch: list[tuple[int, int, str]]) -> None:
    """Write one batch, whole or not at all."""
    with connection:
        connection.executemany("INSERT INTO found VALUES (?, ?, ?)", batch)
        connection.execute("UPDATE sums SET batches = batches + 1, found = found + ?", [len(batch)])


@dataclass
class Run:
    """One run.

    Attributes:
        path: The file.
        database: The database.
        stop_after: The batch after which it is cancelled, if it is.
        batches: How many batches were written.
        writing: How many are being written.
        most_writing: How many were at once.
    """

    path: Path
    database: Path
    stop_after: int | None = None
    batches: int = 0
    writing: int = 0
    most_writing: int = 0
    pools: list[Pool[Any]] = field(default_factory=list[Pool[Any]])

    async def go(self) -> None:
        """Stream the file into the database."""
        async with scope(name="large file") as s:
            pool = s.pool(
                lambda: to_thread.run_sync(connect, self.database),
                destroy=lambda connection: to_thread.run_sync(connection.close),
                name="sqlite",
                max=1,
            )
            self.pools.append(pool)

            async def write(batch: list[Any]) -> None:
                async with pool.acquire() as connection:
                    self.writing += 1
                    self.most_writing = max(self.most_writing, self.writing)
                    try:
                        await to_thread.run_sync(insert, connection, batch)
                    finally:
                        self.writing -= 1
                self.batches += 1
                if self.batches == self.stop_after:
                    s.cancel("enough")

            found = s.stream(lines_of(self.path)).enumerate(1).map(parse).filter(lambda row: row is not None)
            await found.batch(BATCH).for_each(write, concurrency=2)


# ------------------------------------------------------------------ what must be true
def check(run: Run, expected: int | None) -> tuple[int, int]:
    """What the database holds: complete batches, each once, and the sums of them."""
    connection = sqlite3.connect(run.database)
    (found,) = connection.execute("SELECT count(*) FROM found").fetchone()
    (batches, total) = connection.execute("SELECT batches, found FROM sums").fetchone()
    (state,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    assert state == "ok", state
    assert found == total, (found, total)
    assert expected is None or found == expected, (found, expected)
    assert batches >= run.batches, (batches, run.batches)
    assert run.most_writing <= 1, run.most_writing
    assert run.writing == 0, run.writing
    for pool in run.pools:
        assert pool.stats.created == pool.stats.destroyed, pool.stats
    return batches, found


def peak_memory() -> float:
    """The most memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    """Make the file, run twice, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    print(versions([]), options.backend)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.py")
        lines = make_file(path, options.megabytes << 20)
        before = peak_memory()
        print(f"{path.stat().st_size / (1 << 20):,.0f} MiB, {lines:,} lines; peak before: {before:.0f} MiB")

        whole = Run(path, Path(folder, "whole.sqlite"))
        began = time.perf_counter()
        anyio.run(whole.go, backend=options.backend)
        took = time.perf_counter() - began
        batches, found = check(whole, None)
        print(f"whole: {took:.1f} s, {lines / took:,.0f} lines a second, {found:,} definitions in {batches:,} batches")
        print(f"       peak: {peak_memory():.0f} MiB ({peak_memory() - before:+.0f})")

        part = Run(path, Path(folder, "part.sqlite"), stop_after=batches // 2)
        anyio.run(part.go, backend=options.backend)
        batches, found = check(part, None)
        print(
            f"cancelled after {part.stop_after:,} batches: {batches:,} batches with {found:,} definitions, consistent"
        )
        print(f"       peak: {peak_memory():.0f} MiB; threads left: {threading.active_count() - 1}")


if __name__ == "__main__":
    main()
