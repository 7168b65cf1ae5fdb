"""What CI runs: `nox`; one part of it: `nox -s types`; a list: `nox -l`.

A Python that is not on this machine is skipped aloud, and never downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2026.8"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
nox.options.sessions = ["lint", "types", "docs", "demo", "guard", "minimums", "tests", "coverage"]
os.environ.update(UV_PYTHON_DOWNLOADS="never", PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
os.environ.pop("PYTHONPATH", None)

ROOT = Path(__file__).parent
PACKAGE = "anyscope"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
# Run the library many thousand times, and reach no line of it that the other tests do not.
SIMULATIONS = ["tests/test_machine_scopes.py", "tests/test_machine_services.py", "tests/test_seeded_faults.py"]
SIMULATIONS += ["tests/test_simulated.py", "tests/test_poll_simulated.py", "tests/test_pool_simulated.py"]
SIMULATIONS += ["tests/test_stream_simulated.py", "tests/test_stream_operators_simulated.py"]
SIMULATIONS += ["tests/test_random_trees.py", "tests/test_polls_random.py"]
# Sweeps on the highest Python alone, and whole programs on the lowest, too. What depends on the version is elsewhere.
SWEEPS = ["tests/test_pool_closing.py", "tests/test_lifetimes_natively.py", "tests/test_services_races.py"]
PROGRAMS = ["tests/test_testing_plugin.py", "tests/test_testing_simulation.py"]
PYTEST = ("pytest", "-n", "logical")  # a worker for each core
# What ruff does not have. Not 910 and 911 (a checkpoint on every path): they look at each private helper by itself, and
# an await of what has ended already is no checkpoint on purpose.
FLAKE8_ASYNC = "ASYNC101,ASYNC102,ASYNC103,ASYNC104,ASYNC106,ASYNC111,ASYNC112,ASYNC113,ASYNC118,ASYNC123"


def _is_here(version: str) -> bool:
    """True if this Python can really be started: a pyenv shim may exist for one that cannot."""
    program = shutil.which(f"python{version}")
    if program is None:
        return sys.version_info[:2] == tuple(int(part) for part in version.split("."))
    return subprocess.run([program, "-c", ""], check=False, capture_output=True).returncode == 0


def _with_postgres() -> dict[str, str]:
    """The environment for the tests; where PostgreSQL can be had, these must not be skipped."""
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "postgres.py"), "install"], check=False)
    return {"ANYSCOPE_NEEDS_POSTGRES": "1"} if done.returncode == 0 else {}


HERE = [version for version in PYTHONS if _is_here(version)] or [f"{sys.version_info[0]}.{sys.version_info[1]}"]
LOWEST, HIGHEST = HERE[0], HERE[-1]
GUARDED = json.loads((ROOT / "benchmarks" / "guard.json").read_text(encoding="utf-8"))


def _install(session: nox.Session, *groups: str, extras: str = "", args: tuple[str, ...] = ()) -> None:
    chosen = [option for group in groups for option in nox.project.dependency_groups(PROJECT, group)]
    session.install(*args, f".{extras}", *chosen)


@nox.session(python=HIGHEST)
def lint(session: nox.Session) -> None:
    """Style, order, and the mistakes that a linter can see."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = [str(path) for path in sorted(Path("src").rglob("*.py"))]
    session.run("flake8-async", "--anyio", "--enable", FLAKE8_ASYNC, *sources)


@nox.session(python=HIGHEST)
def types(session: nox.Session) -> None:
    """The code is typed without gaps, and so is what users see of it; each public symbol is documented."""
    _install(session, "types")
    session.run("mypy", "src", *(str(path) for path in sorted(Path("tests/typing").glob("*.py"))))
    session.run("pyright", "--pythonpath", _python_of(session))
    command = ["pyright", "--ignoreexternal", "--outputjson", "--verifytypes", PACKAGE]
    output = session.run(*command, silent=True, success_codes=[0, 1], stderr=None)
    session.log(_complete(session, json.loads(str(output))["typeCompleteness"]))


def _python_of(session: nox.Session) -> str:
    return str(session.run("python", "-c", "import sys; print(sys.executable)", silent=True)).strip()


def _complete(session: nox.Session, report: dict[str, object]) -> str:
    """Judge pyright's report on the public surface, or fail with what is missing."""
    score = report["completenessScore"]
    undocumented = {key: report[key] for key in ("missingFunctionDocStringCount", "missingClassDocStringCount")}
    incomplete = [
        f"{symbol['name']}: {symbol['diagnostics'][0]['message'] if symbol['diagnostics'] else 'type unknown'}"
        for symbol in report["symbols"]  # type: ignore[attr-defined]
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
    ]
    if score != 1 or any(undocumented.values()) or incomplete:
        session.error("\n".join([f"types {score:.2%} complete, undocumented: {undocumented}", *incomplete]))
    return "public types 100 % complete, every public symbol documented"


@nox.session(python=HIGHEST)
def docs(session: nox.Session) -> None:
    """The documentation builds without a warning, every reference resolved."""
    _install(session, "docs", extras="[trio]")
    target = session.create_tmp()
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", "html", "docs", f"{target}/html")


@nox.session(python=HIGHEST)
def demo(session: nox.Session) -> None:
    """The demo runs to its end, on both backends."""
    _install(session, extras="[trio]")
    for backend in ("asyncio", "trio"):
        session.run("python", "-m", PACKAGE, "--backend", backend, "--db", f"{session.create_tmp()}/census.sqlite")


@nox.session(python=LOWEST)
def minimums(session: nox.Session) -> None:
    """The oldest versions that the project says it works with, on the oldest Python here."""
    if session.venv_backend != "uv":
        session.skip("needs uv to resolve the lowest versions")
    # Direct dependencies of the library at their lowest; the test tools as new as they come.
    _install(session, extras="[trio]", args=("--resolution=lowest-direct",))
    frozen = str(session.run("uv", "pip", "freeze", silent=True)).splitlines()
    pins = [line for line in frozen if line.partition("==")[0] in {"anyio", "exceptiongroup", "trio"}]
    session.log(f"lowest: {', '.join(pins)}")
    _install(session, "test", args=(*pins,))
    session.run(*PYTEST, *(f"--ignore={name}" for name in SIMULATIONS + SWEEPS + PROGRAMS), *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, each on asyncio, asyncio with uvloop, and Trio."""
    _install(session, "test")
    session.env.update(_with_postgres())
    has_all_lines = session.python in {LOWEST, HIGHEST}  # every line that depends on the version
    apart = SIMULATIONS + ([] if session.python == HIGHEST else SWEEPS) + ([] if has_all_lines else PROGRAMS)
    left_out = [f"--ignore={name}" for name in apart]
    if not has_all_lines:
        session.run(*PYTEST, *left_out, *session.posargs)
        return
    if not session.posargs:  # apart, for measuring them takes minutes
        session.run(*PYTEST, *SIMULATIONS)
    session.env["COVERAGE_FILE"] = str(ROOT / f".coverage.{session.python}")
    session.run("coverage", "run", "-m", *PYTEST, *left_out, *session.posargs)


@nox.session(python=HIGHEST)
def coverage(session: nox.Session) -> None:
    """Every line and branch is run, over all Pythons and backends together."""
    session.install("coverage[toml]")
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(python=HIGHEST, default=False)
def soak(session: nox.Session) -> None:
    """The simulations of the library many more times: `nox -s soak -- 50` for fifty times as many runs."""
    _install(session, "test")
    session.env["ANYSCOPE_SOAK"] = session.posargs[0] if session.posargs else "20"
    endless = ("--timeout=0", "-o", "faulthandler_timeout=0")
    session.run(*PYTEST, *endless, "--durations=10", *SIMULATIONS)


@nox.session(python=HIGHEST, default=False)
def mutants(session: nox.Session) -> None:
    """Small changes to the code, which a test must notice: `nox -s mutants -- slots works`, or for hours all of them.

    What survives is explained in tests/surviving_mutants.toml; anything else that survives fails the session.
    """
    _install(session, "test", "mutants")
    names = [f"anyscope.*.{module}.*" for module in session.posargs]
    session.run("mutmut", "run", *names, env={"ANYSCOPE_BACKENDS": "asyncio"})
    kept = nox.project.load_toml("tests/surviving_mutants.toml")["mutant"]
    known = {(each["file"], each["was"], each["became"]) for each in kept}
    results = str(session.run("mutmut", "results", silent=True))
    survivors = [line.rpartition(":")[0].strip() for line in results.splitlines() if line.endswith(": survived")]
    changes = {name: _change_of(str(session.run("mutmut", "show", name, silent=True))) for name in survivors}
    if new := {name: change for name, change in changes.items() if change not in known}:
        session.error("survived, and is not explained:\n" + "\n".join(f"{n}: {c}" for n, c in new.items()))
    session.log(f"{len(changes)} mutants survived, each of them explained")


def _change_of(diff: str) -> tuple[str, str, str]:
    """The file of a mutant, the lines that it takes away, and those that it puts in their place."""
    lines = diff.splitlines()
    file = next(line.removeprefix("--- src/anyscope/") for line in lines if line.startswith("--- "))
    was = [line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---")]
    became = [line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")]
    return file, "\n".join(was), "\n".join(became)


@nox.session(python=GUARDED["python"] if GUARDED["python"] in HERE else HIGHEST)
def guard(session: nox.Session) -> None:
    """No ratio of ours to something bare is much worse than the one that is kept; half a minute."""
    pins = [] if "--keep" in session.posargs else [f"{name}=={kept}" for name, kept in GUARDED["versions"].items()]
    _install(session, extras="[trio]", args=tuple(pins))
    session.run("python", "benchmarks/guard.py", *session.posargs)


@nox.session(python=HIGHEST, default=False)
def benchmarks(session: nox.Session) -> None:
    """Ours beside the newest peers and the floor: `-- --quick`, or `-- --write docs/benchmarks.md` for the page."""
    _install(session, "bench", args=("--upgrade",))
    session.run("python", "benchmarks/run.py", *session.posargs)
