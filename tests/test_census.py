"""The demo, `python -m anyscope`: end to end as its users run it, and its pieces."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from anyscope import Err, Ok, current_scope, scope
from anyscope._census import run
from anyscope._census.count import Counts, count, count_text
from anyscope._census.database import Database, Outcome, open_database
from anyscope._census.find import find
from anyscope._census.options import INSTALLED, Options, UsageError, parse
from anyscope._census.progress import ProgressLine
from anyscope._census.record import Census, Look
from anyscope._census.report import plain, reason, report

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

COMMAND = [sys.executable, "-m", "anyscope"]
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
SOURCE = "class A:\n    def f(self):\n        async def g():\n            pass\n"


@pytest.fixture(autouse=True)
def _backends_are_installed(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("backend") == "trio":
        pytest.importorskip("trio")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of eight files of which six fail, and of some others that do not count."""
    root = tmp_path / "tree"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "a.py").write_text(SOURCE, encoding="utf-8")
    (root / "deep" / "b.py").write_text("x = '\\d'\nassert (x, 1)\n", encoding="utf-8")  # the parser warns of both
    (root / "deep" / "deeper" / "syntax.py").write_text("x = 1\nx = = 2\n", encoding="utf-8")
    (root / "deep" / "encoding.py").write_text("# coding: klingon\n", encoding="utf-8")
    (root / "deep" / "gone.py").symlink_to("nowhere")
    (root / "deep" / "latin.py").write_bytes(b"x = 1\n" * 2000 + b"x = '\xe4'\n")
    (root / "deep" / "nested.py").write_text("(" * 100_000, encoding="utf-8")
    (root / "deep" / "null.py").write_bytes(b"x = '\0'\n")
    (root / "note.txt").write_text("none of ours", encoding="utf-8")
    return root


def census(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [*COMMAND, *map(str, args)], check=False, capture_output=True, encoding="utf-8", env=environment, timeout=50
    )


# -------------------------------------------------------------------------------------------------- end to end
@BACKENDS
def test_it_reports_counts_and_failures(tree: Path, backend: str) -> None:
    """Files that do not parse are told with their reasons, they do not fail the census, and warnings are not shown."""
    done = census(tree, "--backend", backend, "--concurrency", "2")
    assert done.returncode == 0
    assert f"{tree} ({backend}, 2 at once)\n8 files in " in done.stdout
    for name, number in {"files": 2, "lines": 6, "functions": 2, "classes": 1}.items():
        assert re.search(rf"^{name} +{number}$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +4 +2 +1  a[.]py\n +2 +0 +0  deep/b[.]py$", done.stdout.replace(os.sep, "/"), re.MULTILINE)
    assert "\n6 could not be counted\n" in done.stdout
    for name in ("deeper/syntax", "encoding", "gone", "latin", "nested", "null"):
        assert re.search(rf"^    deep/{name}[.]py: .+$", done.stdout.replace(os.sep, "/"), re.MULTILINE)
    assert done.stderr.splitlines()[-1] == "8 files, 6 failed"
    assert len(done.stderr.splitlines()) <= 10
    assert "Warning" not in done.stderr


@BACKENDS
def test_ctrl_c_prints_what_is_known(tmp_path: Path, backend: str) -> None:
    """Ctrl-C in the middle: a partial report, exit code 130, no traceback."""
    first = tmp_path / "0.py"
    first.write_text("def f(x):\n    return [x, x + 1, {x: x}]\n" * 1500, encoding="utf-8")
    for number in range(1, 400):
        os.link(first, tmp_path / f"{number}.py")
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path), "--backend", backend, "--concurrency", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        shown = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=50)
    assert re.fullmatch(r"\d+ files\n", shown)
    assert process.returncode == 130
    assert re.search(r"^Stopped by Ctrl-C after [\d.]+ s: this is what was known by then$", out, re.MULTILINE)
    known = re.search(r"^files +(\d+)$", out, re.MULTILINE)
    assert known is not None
    assert int(shown.split()[0]) <= int(known[1]) < 400
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--concurrency", "0"], "from 1 to 256, got '0'"),
        (["--concurrency", "many"], "from 1 to 256, got 'many'"),
        (["--backend", "curio"], "invalid choice: 'curio'"),
    ],
)
def test_wrong_options_end_with_code_2(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what is possible."""
    with pytest.raises(SystemExit) as ended:
        run.main(args)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_path_is_one_line_and_code_2(tmp_path: Path) -> None:
    """No traceback, no usage text."""
    done = census(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"python -m anyscope: error: cannot read '.*nowhere': No such file or directory\n", done.stderr)


def test_nobody_reads_the_report(tree: Path) -> None:
    """A pipe that was closed at the other end: nothing is said, and the code tells."""
    process = subprocess.Popen([*COMMAND, str(tree)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert "Error" not in errors
    assert "Traceback" not in errors


# ---------------------------------------------------------------------------------------------------- in process
@BACKENDS
def test_main_counts_one_file(tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is a census of one file, whatever its name; warnings of its parser are not for the user."""
    script = tmp_path / "script"
    script.write_text("x = '\\d'\n" + SOURCE, encoding="utf-8")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert run.main([str(script), "--backend", backend]) == 0
    assert [warning for warning in shown if issubclass(warning.category, (SyntaxWarning, DeprecationWarning))] == []
    out = capsys.readouterr().out
    assert "\n1 file in " in out
    assert "5           2         1  script\n" in out


def test_an_empty_tree_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to count is not an error."""
    assert run.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("\nThere are no Python files (*.py).\n")


def test_a_missing_backend_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trio is an extra."""
    monkeypatch.setitem(sys.modules, "trio", None)
    assert run.main(["--backend", "trio"]) == 2
    error = capsys.readouterr().err
    assert error == "python -m anyscope: error: trio is not installed; to have it: pip install anyscope[trio]\n"


def test_the_program_is_not_run_by_an_import() -> None:
    """Tools import every module."""
    assert importlib.import_module("anyscope.__main__").main is run.main


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 1)])
def test_what_ends_it_outside_of_the_loop_is_a_code(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the report is written, say."""
    dropped: list[bool] = []

    def fail(argv: object) -> None:
        raise error

    monkeypatch.setattr(run, "parse", fail)
    monkeypatch.setattr(run, "_drop_stdout", lambda: dropped.append(True))
    assert run.main([]) == code
    assert len(dropped) == (error is BrokenPipeError)


def test_ctrl_c_where_nothing_watches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interrupt leaves the loop as it is, and the report is printed all the same."""

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(anyio, "run", interrupt)
    assert run.main([str(tmp_path)]) == 130
    assert re.search(r"Stopped by Ctrl-C after [\d.]+ s: this is what was known by then", capsys.readouterr().out)


def test_other_errors_are_not_taken_for_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the demo shows itself."""

    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(anyio, "run", fail)
    with pytest.raises(ZeroDivisionError):
        run.main([str(tmp_path)])


def test_what_an_interrupt_looks_like() -> None:
    """Alone, in a group, or as the cancellation that asyncio makes of it; but never with another error beside it."""
    interrupt = KeyboardInterrupt()
    assert run.is_interrupt(interrupt)
    assert run.is_interrupt(asyncio.CancelledError())
    assert run.is_interrupt(BaseExceptionGroup("two", [interrupt, BaseExceptionGroup("one", [interrupt])]))
    assert not run.is_interrupt(BaseExceptionGroup("two", [interrupt, ZeroDivisionError()]))
    assert not run.is_interrupt(SystemExit())


async def test_the_watch_gives_up_where_signals_cannot_be_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asyncio on Windows: the census goes on without it."""

    def refuse(*signals: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(anyio, "open_signal_receiver", refuse)
    async with scope() as s:
        await run.stop_on_interrupt(s)
        assert not s.cancelled


@BACKENDS
def test_the_watch_cancels_the_scope(backend: str) -> None:
    """Ctrl-C becomes a cancellation with a reason."""

    async def main() -> object:
        async with scope() as s:
            s.start_soon(run.stop_on_interrupt, s, daemon=True)
            while signal.getsignal(signal.SIGINT) is before:
                await anyio.sleep(0.001)
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
        return s.cancel_reason

    before: object = None

    async def note_handler_first() -> object:
        nonlocal before
        before = signal.getsignal(signal.SIGINT)  # that of the loop itself
        return await main()

    assert anyio.run(note_handler_first, backend=backend) == "Ctrl-C"


# --------------------------------------------------------------------------------------------------- the options
# ------------------------------------------------------------------ the database and the trace
def rows(db: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask a database."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(query).fetchall()


@BACKENDS
def test_each_census_is_added_to_the_database(tree: Path, tmp_path: Path, backend: str) -> None:
    """Each has a number; files and errors refer to it, by their names from the root on."""
    db = tmp_path / "census.db"
    for number in (1, 2):
        census = run.take(Options(root=tree, backend=backend, db=db), None)
        assert census.number == number
    assert rows(db, "SELECT * FROM census") == [(number, str(tree), backend, 2, 6, 1) for number in (1, 2)]
    files = [("a.py", 4, 2, 1), (str(Path("deep", "b.py")), 2, 0, 0)]
    assert sorted(rows(db, "SELECT path, lines, functions, classes FROM files WHERE census = 2")) == files
    assert sorted(rows(db, "SELECT kind FROM errors WHERE census = 1")) == sorted(
        (type(error).__name__,) for error in census.failed.values()
    )


def test_the_report_says_where_it_was_written(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line, and only with --db."""
    db = tmp_path / "census.db"
    assert run.main([str(tree), "--db", str(db)]) == 0
    assert capsys.readouterr().out.endswith(f"\n\nWritten to {db} as census 1\n")
    assert run.main([str(tree)]) == 0
    assert "Written" not in capsys.readouterr().out


@pytest.mark.parametrize("what", ["a folder", "in no folder", "no database"])
def test_an_impossible_database_ends_with_code_2(
    what: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything is counted."""
    path = {"a folder": tmp_path, "in no folder": tmp_path / "none" / "x.db", "no database": tree / "a.py"}[what]
    said = "file is not a database" if what == "no database" else "unable to open database file"
    assert run.main([str(tree), "--db", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"python -m anyscope: error: cannot use {str(path)!r} as a database: {said}\n"


@BACKENDS
def test_a_census_that_was_stopped_is_written_as_far_as_it_came(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole batches, the sums agree with them, and it says that it is not complete."""
    for number in range(10):
        (tmp_path / f"{number}.py").write_text(SOURCE, encoding="utf-8")
    write, written = Database.write, 0

    async def write_and_stop(self: Database, *args: Any, **options: Any) -> None:
        nonlocal written
        await write(self, *args, **options)
        written += 1
        if written == 2:
            current_scope().cancel("Ctrl-C")

    monkeypatch.setattr(Database, "write", write_and_stop)
    monkeypatch.setattr(run, "BATCH", 3)
    db = tmp_path / "census.db"
    census = run.take(Options(root=tmp_path, backend=backend, db=db, concurrency=1), None)
    assert (census.stopped, census.is_complete) == ("Ctrl-C", False)
    assert rows(db, "SELECT files, failed, is_complete FROM census") == [(6, 0, 0)]
    assert rows(db, "SELECT count(*) FROM files") == [(6,)]
    assert report(census, Options(root=tmp_path, db=db)).endswith("as census 1, which is not complete\n")


async def test_a_write_is_all_or_nothing(tmp_path: Path) -> None:
    """V5: cancelled in the middle it is waited for, and a failing one leaves nothing."""
    db = tmp_path / "census.db"
    outcomes: list[Outcome] = [(tmp_path / f"{number}.py", Ok(Counts(1, 0, 0))) for number in range(1000)]
    async with scope():
        database = await open_database(str(db))
        number = await database.begin(Options(root=tmp_path))
        with anyio.CancelScope() as cut:
            cut.cancel()
            await database.write(number, tmp_path, outcomes)
        written = len(rows(db, "SELECT * FROM files"))
        assert rows(db, "SELECT files FROM census") == [(written,)]
        assert written in {0, 1000}
        broken: Outcome = (tmp_path / "x.py", Ok(cast("Counts", Counts(object(), 0, 0))))  # type: ignore[arg-type]
        with pytest.raises(sqlite3.Error):
            await database.write(number, tmp_path, [*outcomes, broken])
        assert len(rows(db, "SELECT * FROM files")) == written


def test_the_trace_shows_tasks_pools_and_clean_ups(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """H5: in place of the progress, on stderr; afterwards the logger is as it was."""
    logger = logging.getLogger("anyscope.census")
    before = (logger.level, logger.propagate, list(logger.handlers))
    assert run.main([str(tree / "a.py"), "--trace"]) == 0
    lines = [re.sub(r"^ *\d+ ms  | after .*", "", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "census: daemon stop_on_interrupt (#1) started",
        "census: pool sqlite: created",
        "census: pool sqlite: acquired",
        "census: pool sqlite: released",
        "census: run _count_in_thread (#3) started",
        "census: run _count_in_thread (#3) ended",
        *["census: pool sqlite: acquired", "census: pool sqlite: released"] * 2,
        "census: daemon stop_on_interrupt (#1) was cancelled",
        "census: pool sqlite: discarded (closed)",
        "census: pool sqlite: destroyed",
        "census: pool sqlite (#0) closed",
    ]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_the_default_is_the_standard_library_without_what_is_installed() -> None:
    """Thousands of real files that are on every machine."""
    options = parse([])
    assert options == Options(root=Path(sysconfig.get_path("stdlib")), skip=INSTALLED)


def test_a_path_of_the_users_own_is_counted_whole(tmp_path: Path) -> None:
    """Whoever names a virtual environment wants to see what is in it."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "a.py").touch()
    options = parse([str(tmp_path)])
    assert files_under(options.root, options.skip) == [tmp_path / "site-packages" / "a.py"]
    assert files_under(options.root, INSTALLED) == []


def files_under(root: Path, skip: frozenset[str]) -> list[Path]:
    """What a search finds."""
    return [path for found in find(root, skip) for path in found.files]


def test_a_path_that_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    """A pipe would be read for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        parse([str(pipe)])
    with pytest.raises(OSError, match="not a regular file"):
        count(pipe)


# ------------------------------------------------------------------------------------------------------ the pieces
def test_a_folder_that_cannot_be_listed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the failures of the report."""
    locked = tmp_path / "locked"
    error = PermissionError(13, "Permission denied", str(locked))

    def walk(root: Path, onerror: object) -> object:
        assert callable(onerror)
        onerror(error)
        return [(str(root), ["z", "b"], ["b.py", "a.py"])]

    monkeypatch.setattr(os, "walk", walk)
    record = Census()
    files = [path for found in find(tmp_path, frozenset()) for path in record.expect(found)]
    assert files == [tmp_path / "a.py", tmp_path / "b.py"]
    assert record.found == 2
    assert record.failed == {locked: error}
    assert [path for path, _ in record.unread] == [locked]
    assert "    locked: Permission denied\n" in report(record, Options(root=tmp_path))


@BACKENDS
def test_a_folder_that_cannot_be_listed_is_in_the_database(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the errors, with what became of the files."""
    error = PermissionError(13, "Permission denied", str(tmp_path / "locked"))

    def walk(root: Path, onerror: Callable[[OSError], object]) -> object:
        yield str(root), [], []
        onerror(error)

    monkeypatch.setattr(os, "walk", walk)
    db = tmp_path / "census.db"
    run.take(Options(root=tmp_path, backend=backend, db=db), None)
    assert rows(db, "SELECT path, kind, reason FROM errors") == [("locked", "PermissionError", "Permission denied")]
    assert rows(db, "SELECT files, failed, is_complete FROM census") == [(0, 1, 1)]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", Counts(0, 0, 0)),
        ("x = 1", Counts(1, 0, 0)),
        ("x = 1\n", Counts(1, 0, 0)),
        ("if x:\n  def f(): pass\nelse:\n  class A:\n    async def g(self): pass\n", Counts(5, 2, 1)),
        ("try: pass\nexcept E:\n  def f(): pass\nfinally:\n  class A: pass\n", Counts(5, 1, 1)),
        ("match x:\n  case 1:\n    class A: pass\nf = lambda: 1\n", Counts(4, 0, 1)),
    ],
)
def test_counts(text: str, counts: Counts) -> None:
    """Wherever statements can be."""
    assert count_text(text) == counts


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, *looks: Look) -> str:
    """Tell progress to a stream."""
    line = ProgressLine(stream)
    for look in looks:
        line.tell(look)
    line.clear()
    return stream.getvalue()


def test_progress_in_a_pipe_is_a_line_now_and_then() -> None:
    """Each second one, unless nothing has changed."""
    assert ProgressLine(io.StringIO()).interval == 1.0
    shown = show(io.StringIO(), Look(1, 0), Look(1, 0), Look(1200, 2))
    assert shown == "1 file\n1,200 files, 2 failed\n"


def test_progress_on_a_terminal_is_one_line() -> None:
    """Rewritten ten times a second, and taken off at the end."""
    assert ProgressLine(Terminal()).interval == 0.1
    shown = show(Terminal(), *(Look(done, 0) for done in range(1, 101)))
    assert "\n" not in shown
    assert shown.count("\r") == 102
    assert shown.endswith("\r" + " " * 60 + "\r")


def test_progress_without_a_reader_does_no_harm() -> None:
    """Nobody reads it: the census goes on."""
    closed = Terminal()
    line = ProgressLine(closed)
    closed.close()
    line.tell(Look(1, 0))
    line.clear()


def test_the_report_of_many_errors_is_capped(tmp_path: Path) -> None:
    """By kind, the commonest first, with the count of the rest."""
    record = Census(found=14, seconds=1.0)
    record.results = {tmp_path / f"{n:02}.py": Err(ValueError(f"number {n}")) for n in range(13)}
    record.results[tmp_path / "no.py"] = Err(RecursionError())
    lines = report(record, Options(root=tmp_path)).splitlines()
    assert lines[lines.index("14 could not be counted") :] == [
        "14 could not be counted",
        "  ValueError (13)",
        *(f"    {n:02}.py: number {n}" for n in range(10)),
        "    ... and 3 more",
        "  RecursionError (1)",
        "    no.py: no reason given",
    ]


def test_the_report_shows_the_largest_files_only(tmp_path: Path) -> None:
    """Ten of them, by their lines."""
    record = Census(found=12)
    record.results = {tmp_path / f"{n:02}.py": Ok(Counts(n, 0, 0)) for n in range(12)}
    lines = report(record, Options(root=tmp_path)).splitlines()
    assert [line.split()[-1] for line in lines[-10:]] == [f"{n:02}.py" for n in range(11, 1, -1)]
    assert "could not" not in lines


def test_reasons_are_one_short_line() -> None:
    """Without the path, which stands before them, and with the line where there is one."""
    path = Path("a.py")
    assert reason(SyntaxError("invalid syntax", ("a.py", 3, 1, "x = =")), path) == "line 3: invalid syntax"
    assert reason(SyntaxError(f"unknown encoding for {str(path)!r}: klingon"), path) == "unknown encoding: klingon"
    assert reason(FileNotFoundError(2, "No such file"), path) == "No such file"
    assert reason(OSError("not a regular file"), path) == "not a regular file"
    assert reason(ValueError("two\nlines"), path) == "two\\nlines"
    assert reason(ValueError("x" * 200), path) == "x" * 157 + "..."


def test_names_that_cannot_be_written_are_escaped() -> None:
    """File names are bytes: line ends, terminal codes and lone surrogates may be among them."""
    assert plain("größe\x1b[2J\n\udcff") == "größe\\x1b[2J\\n\\udcff"
