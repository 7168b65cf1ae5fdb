"""The rules of the house: how the package is built, what is public, what the repository may hold."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "anyscope"
PUBLIC_NAMES = Path(__file__).parent / "public_names.txt"
RUNTIMES = ("anyio", "asyncio", "trio")
FLOORS = {"_vocabulary": 0, "_lifetime": 1, "_features": 2, "_face": 3, "testing": 4, "integrations": 4, "__main__": 4}
TOP_LEVEL = {
    "pyproject.toml",
    "src",
    "tests",
    "benchmarks",
    "docs",
    "noxfile.py",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "SECURITY.md",
}


# ------------------------------------------------------------------------------------------------------ helpers
@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package: its dotted name and its tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def is_package(name: str) -> bool:
    """True for a folder of modules."""
    return (PACKAGE.parent / name.replace(".", "/") / "__init__.py").exists()


def floor(name: str) -> int | None:
    """The floor on which a module of ours lives; None where it has none."""
    parts = name.split(".")
    if len(parts) == 1:
        return 4  # the package itself re-exports all floors
    if parts[1].startswith("_census"):
        return 4
    return FLOORS.get(parts[1])


def imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, wherever in the module: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                up = parts[: len(parts) - node.level + is_package(name)]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def our_imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and module of each import of our own, the imported name left off."""
    for line, full in imports(name, tree):
        if full.partition(".")[0] == "anyscope":
            module = full
            while module not in modules():
                module = module.rpartition(".")[0]
            yield line, module


def functions() -> Iterator[tuple[str, int]]:
    """Each function of the package, nested ones too, and its length in lines without the docstring."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                has_doc = ast.get_docstring(node, clean=False) is not None
                doc = (first.end_lineno or 0) - first.lineno + 1 if has_doc else 0
                yield f"{name}.{node.name}:{node.lineno}", (node.end_lineno or 0) - node.lineno + 1 - doc


@functools.cache
def repository_files() -> list[str]:
    """Every file that is, or would be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [name for name in listed if (ROOT / name).is_file()]


def matches(pattern: str) -> list[str]:
    """Each line of the repository's text files that matches."""
    wanted = re.compile(pattern)
    found = []
    for name in repository_files():
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if wanted.search(line)]
    return found


def public_names() -> list[str]:
    """`anyscope.__all__`; skips where there is none yet."""
    names = getattr(importlib.import_module("anyscope"), "__all__", None)
    if not names:
        pytest.skip("anyscope has no __all__ yet")
    return list(names)


# ------------------------------------------------------------------------------------------------ (1) the floors
def test_every_module_has_a_floor() -> None:
    """Guards against a module that the layer rule does not know."""
    assert [name for name in modules() if floor(name) is None] == []


def test_a_module_imports_only_from_its_own_floor_or_below() -> None:
    """Guards the layers: nothing knows of what is built on top of it, not even for its types."""
    wrong = [
        f"{name}:{line} imports {target}"
        for name, tree in modules().items()
        for line, target in our_imports(name, tree)
        if (floor(target) or 0) > (floor(name) or 0)
    ]
    assert wrong == []


def test_the_vocabulary_knows_no_event_loop() -> None:
    """Guards floor 0: words and records that need no runtime."""
    wrong = [
        f"{name}:{line} imports {target}"
        for name, tree in modules().items()
        if floor(name) == 0
        for line, target in imports(name, tree)
        if target.partition(".")[0] in RUNTIMES
    ]
    assert wrong == []


def test_the_library_keeps_out_of_the_runtimes_private_parts() -> None:
    """Guards against AnyIO, asyncio or Trio changing under us; the testing package may, and says so."""
    wrong = []
    for name, tree in modules().items():
        if name.startswith("anyscope.testing"):
            continue
        for line, target in imports(name, tree):
            first, *rest = target.split(".")
            if first in RUNTIMES and any(part.startswith("_") for part in rest):
                wrong.append(f"{name}:{line} imports {target}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
                root = ast.unparse(node.value).partition(".")[0]
                if root in RUNTIMES:
                    wrong.append(f"{name}:{node.lineno} uses {ast.unparse(node)}")
    assert wrong == []


# ---------------------------------------------------------------------------------------- (2) the public surface
def test_the_public_names_are_the_stored_ones() -> None:
    """Guards against a public name that comes or goes by accident."""
    names = public_names()
    stored = PUBLIC_NAMES.read_text(encoding="utf-8").split()
    update = "python -c 'import anyscope; print(*sorted(anyscope.__all__), sep=chr(10))' > tests/public_names.txt"
    assert stored == sorted(names), f"meant? then: {update}"


def test_every_public_name_exists_once() -> None:
    """Guards `from anyscope import *`."""
    names = public_names()
    package = importlib.import_module("anyscope")
    assert [name for name in names if not hasattr(package, name)] == []
    assert len(names) == len(set(names))


def test_every_public_class_and_function_is_documented_and_at_home() -> None:
    """Guards what users read: a docstring of its own, and tracebacks and reprs that name `anyscope`, not a floor."""
    package = importlib.import_module("anyscope")
    wrong = []
    for name in public_names():
        thing = getattr(package, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            if not (thing.__doc__ or "").strip():
                wrong.append(f"{name} has no docstring")
            if thing.__module__ != "anyscope":
                wrong.append(f"{name} says that it lives in {thing.__module__}")
    assert wrong == []


# ------------------------------------------------------------------------------------------------ (3) the budget
def test_every_module_says_what_it_is() -> None:
    """Guards the docstring that opens each module."""
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_no_function_is_over_60_lines() -> None:
    """Guards against the function that nobody can hold in the head."""
    assert [(name, length) for name, length in functions() if length > 60] == []


def test_most_functions_are_short() -> None:
    """Guards the budget: half of the functions within 8 lines, nine of ten within 25."""
    lengths = sorted(length for _, length in functions())
    if len(lengths) < 20:
        pytest.skip("too few functions to tell")
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[len(lengths) * 9 // 10] <= 25


def _lines_of_docstrings(tree: ast.AST) -> int:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]
    return sum((node.body[0].end_lineno or 0) - node.body[0].lineno + 1 for node in documented)


def test_a_module_over_400_lines_says_why() -> None:
    """Docstrings counted too; in its own, with these words."""
    for name, tree in modules().items():
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if len(path.read_text(encoding="utf-8").splitlines()) > 400:
            assert "Over 400 lines" in (ast.get_docstring(tree) or ""), name


def test_no_module_is_over_400_lines() -> None:
    """Guards against the module that does everything; docstrings aside, for the face is mostly these."""
    sizes: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        sizes[str(path.relative_to(ROOT))] = len(text.splitlines()) - _lines_of_docstrings(ast.parse(text))
    assert {name: size for name, size in sizes.items() if size > 400} == {}


# -------------------------------------------------------------------------------------------- (4) the repository
def test_the_top_level_holds_nothing_else() -> None:
    """Guards the first thing that a visitor sees."""
    top = {name.split("/")[0] for name in repository_files()}
    assert {name for name in top if not name.startswith(".")} - TOP_LEVEL == set()


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    """Guards against what works on one machine only; the lines of programs (`#!`) are not meant."""
    folders = ("root", "home", "work", "tmp", "Users", "opt", "mnt")
    assert matches(rf"(?<![\w.~*])/(?:{'|'.join(folders)})/[A-Za-z_.]") == []


def test_no_registry_host_is_in_the_repository() -> None:
    """Guards against an address that only some machines can reach, as a lock file would hold."""
    assert matches(r"\b(?:pypi|pythonhosted|npmjs|debian|golang)[.](?:org|com|dev)\b") == []
