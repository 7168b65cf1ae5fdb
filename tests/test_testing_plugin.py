"""The pytest plugin, run as its users run it: by a pytest of its own, beside AnyIO's plugin, on every backend."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from anyscope import Key, ServiceExists, scope
from anyscope._lifetime.watching import WATCHERS
from anyscope.testing.plugin import Overrides

SOURCE = Path(__file__).parent.parent / "src"
BACKENDS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else []), "trio"]
CONFTEST = f"""
import pytest

BACKENDS = {{"asyncio": "asyncio", "uvloop": ("asyncio", {{"use_uvloop": True}}), "trio": ("trio", {{}})}}

@pytest.fixture(params={BACKENDS})
def anyio_backend(request):
    return BACKENDS[request.param]
"""


class Outcome:
    """What a run of pytest came to: its text, and the outcome of each test by its name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tests: dict[str, str] = {}
        for line in text.splitlines():
            outcome, _, rest = line.partition(" ")
            if outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED") and "::" in rest:
                self.tests.setdefault(rest.partition("::")[2].partition(" - ")[0], outcome)

    def of(self, name: str) -> list[str]:
        """The outcomes of one test, one for each backend; in the order of `BACKENDS`."""
        return [self.tests[f"{name}[{backend}]"] for backend in BACKENDS]


class Program:
    """A folder with tests, for a pytest in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("conftest.py", CONFTEST)

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def run(self, text: str, *options: str, plugin: str = "anyscope_pytest") -> Outcome:
        """Run one file of tests."""
        self.write("test_it.py", text)
        python_path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
        plugins = ["--disable-plugin-autoload", "-p", "anyio", "-p", plugin, "--anyio-mode=auto", "--strict-markers"]
        environment = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
        done = subprocess.run(  # in CI pytest says everything twice
            [sys.executable, "-m", "pytest", "-rA", "-W", "error", "-c", os.devnull, "--rootdir=.", *plugins, *options],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": python_path, "COLUMNS": "200", "PY_COLORS": "0"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return Outcome(done.stdout + done.stderr)


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


def all_of(outcome):
    return [outcome] * len(BACKENDS)


# ----------------------------------------------------------------------------------------------------- when unused
def test_loading_the_plugin_imports_nothing_of_the_library():
    """X: an environment that has the package pays nothing for it in the tests of others."""
    code = "import sys, anyscope_pytest as p; print([n for n in ('anyscope', 'anyio', 'trio') if n in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_tests_that_use_none_of_it_run_as_without_it(program):
    """X: no import, no fixture of their own, and fixtures of theirs with the same names are theirs."""
    outcome = program.run(
        """
        import sys, pytest

        @pytest.fixture
        def no_leaks():
            return "mine"

        @pytest.fixture
        def overrides():
            return "mine"

        def test_plain(request):
            assert "anyscope" not in sys.modules
            assert [name for name in request.fixturenames if "anyscope" in name] == []

        async def test_async(request):
            assert "anyscope" not in sys.modules

        async def test_own_fixtures(no_leaks, overrides):
            assert (no_leaks, overrides) == ("mine", "mine")
        """
    )
    assert outcome.tests["test_plain"] == "PASSED", outcome.text
    assert outcome.of("test_async") == outcome.of("test_own_fixtures") == all_of("PASSED")


def test_the_entry_point_names_the_plugin():
    """X: pytest finds it by the name `anyscope`, as `-p anyscope` and by itself."""
    project = (SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nanyscope = "anyscope_pytest"' in project
    assert '"src/anyscope_pytest.py"' in project


def test_fixtures_and_mark_are_documented(program):
    """X: `pytest --fixtures` and `pytest --markers` say what there is."""
    fixtures = program.run("", "--fixtures").text
    assert "no_leaks -- " in fixtures
    assert "Fail the async test if it leaves tasks" in fixtures
    assert "overrides -- " in fixtures
    assert "faulty -- " in fixtures
    assert "@pytest.mark.virtual_time: run an async test of AnyIO's plugin in virtual time" in (
        program.run("", "--markers").text
    )


# -------------------------------------------------------------------------------------------------------- no_leaks
def test_no_leaks_fails_the_test_that_leaves_something_behind(program):
    """X: on every backend, with the same text; the test itself fails, and clean ones pass."""
    outcome = program.run(
        """
        import anyio, pytest
        from anyscope import scope

        @pytest.fixture
        async def app():
            async with scope(name="app") as s:
                yield s
                s.cancel()

        @pytest.fixture
        async def group():
            async with anyio.create_task_group() as group:
                yield group
                group.cancel_scope.cancel()

        async def test_clean(app, no_leaks, group):
            assert await app.task(anyio.sleep, 0).unwrap() is None

        async def test_task(no_leaks, app):
            app.start_soon(anyio.sleep_forever)

        @pytest.mark.usefixtures("no_leaks")
        async def test_task_of_a_group(group):
            group.start_soon(anyio.sleep_forever, name="mine")

        class TestClass:
            async def test_method(self, app, no_leaks):
                app.on_exit(print)

        async def test_scope(no_leaks):
            global held
            held = scope(name="held")
            await held.__aenter__()

        async def test_own_error(app, no_leaks):
            app.start_soon(anyio.sleep_forever)
            raise ValueError("mine")
        """,
        "-k",
        "not test_scope",
    )
    assert outcome.of("test_clean") == all_of("PASSED"), outcome.text
    for name in ("test_task", "test_task_of_a_group", "TestClass::test_method", "test_own_error"):
        assert outcome.of(name) == all_of("FAILED"), outcome.text
    lines = [line.removeprefix("E").strip() for line in outcome.text.splitlines()]
    times = len(BACKENDS)
    assert lines.count("task sleep_forever (#0) of app, started at test_it.py:21 in test_task") == times
    assert lines.count("task mine, started at test_it.py:25 in test_task_of_a_group") == times
    assert lines.count("clean-up print (#0) of app, registered at test_it.py:29 in test_method") == times
    assert lines.count("ValueError: mine") >= times
    if sys.version_info >= (3, 11):
        assert lines.count("task sleep_forever (#0) of app, started at test_it.py:37 in test_own_error") == times
    assert "anyscope.testing.leaks.Leaked: 1 thing was left behind:" in outcome.text.replace("E  ", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_leaks_finds_a_scope_that_was_never_left(program, backend):
    """X: a scope that was entered by hand and forgotten; its task group would disturb other tests of the loop."""
    outcome = program.run(
        """
        from anyscope import scope

        held = []

        async def test_scope(no_leaks):
            held.append(scope(name="held"))
            await held[0].__aenter__()
        """,
        "-k",
        backend,
    )
    assert "  scope held, entered at test_it.py:8 in test_scope" in outcome.text


def test_no_leaks_checks_each_example_of_hypothesis(program):
    """X: a property test of AnyIO's plugin, whose loop it makes anew for each example."""
    outcome = program.run(
        """
        import anyio, pytest
        from hypothesis import HealthCheck, given, settings, strategies

        quick = settings(max_examples=5, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        held = []

        @quick
        @given(number=strategies.integers())
        async def test_clean(no_leaks, number):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)

        @quick
        @given(number=strategies.just(1))
        async def test_leak(no_leaks, number):
            group = anyio.create_task_group()
            held.append(group)
            await group.__aenter__()
            group.start_soon(anyio.sleep_forever, name="mine")
            try:
                raise ValueError("first")
            finally:
                pass
        """
    )
    assert outcome.of("test_clean") == all_of("PASSED"), outcome.text
    assert outcome.of("test_leak") == all_of("FAILED")
    if sys.version_info >= (3, 11):
        assert "task mine, started at test_it.py:20 in test_leak" in outcome.text


def test_no_leaks_is_refused_for_a_plain_test(program):
    """X: nothing could be checked there, so it is told."""
    outcome = program.run("def test_plain(no_leaks): pass")
    assert outcome.tests == {"test_plain": "ERROR"}
    assert "the fixture no_leaks is for async tests\nRight: async def test_plain(...):" in outcome.text


# ------------------------------------------------------------------------------------------------------- overrides
def test_overrides_hold_in_the_program_and_only_during_the_test(program):
    """X: scopes at any depth, eager services, late ones; and the next test has the real one."""
    program.write(
        "program.py",
        """
        from anyscope import scope, use

        class Database:
            name = "real"
            def close(self):
                print("real closed")

        async def handler():
            return (await use(Database)).name

        async def main():
            async with scope(name="app").provide(Database, Database, Database.close, eager=True) as s:
                return await s.task(handler).unwrap()

        async def late():
            async with scope(name="app") as s, scope(name="inner") as inner:
                s.provide(Database, Database)
                return await inner.run(handler)
        """,
    )
    outcome = program.run(
        """
        import program
        from program import Database

        class FakeDatabase(Database):
            name = "fake"

        async def test_fake(overrides):
            closed = []
            overrides(Database, FakeDatabase, closed.append)
            assert await program.main() == "fake"
            assert await program.main() == "fake"
            assert (await program.late()).unwrap() == "fake"
            assert len(closed) == 3

        async def test_real():
            assert await program.main() == "real"

        async def test_generator(overrides):
            async def fake():
                yield FakeDatabase()
            overrides(Database, fake)
            assert await program.main() == "fake"

        def test_plain(overrides):
            import anyio
            overrides(Database, FakeDatabase)
            assert anyio.run(program.main) == "fake"

        async def test_useless(overrides):
            overrides("database", FakeDatabase)
            await program.main()

        async def test_failing(overrides):
            overrides("database", FakeDatabase)
            raise ValueError("mine")

        async def test_wrong(overrides):
            overrides(Database, 3)
        """
    )
    for name in ("test_fake", "test_real", "test_generator"):
        assert outcome.of(name) == all_of("PASSED"), outcome.text
    assert outcome.tests["test_plain"] == "PASSED"
    assert outcome.of("test_useless") == outcome.of("test_failing") == outcome.of("test_wrong") == all_of("FAILED")
    told = (
        "overrides('database', ...) at test_it.py:31 in test_useless did nothing: "
        "no scope that was entered during the test provides 'database'\n"
        "Right: the key that the program provides, and overrides(...) before it enters its scope"
    )
    assert outcome.text.count(told) == len(BACKENDS)
    assert "test_failing did nothing" not in outcome.text
    assert "overrides(Database, ...): expected a function that makes it, got int" in outcome.text


async def test_an_override_after_entry_holds_if_nothing_was_made():
    """X: a scope that was entered since the fixture exists, in another fixture for instance."""
    overrides = Overrides()
    try:
        async with scope().provide("db", lambda: "real") as s:
            async with scope().provide("db", lambda: "real"):
                pass
            overrides("db", lambda: "fake")
            assert await s.use("db") == "fake"
        assert overrides.problems() == []
    finally:
        overrides.end()


async def test_an_override_after_the_service_was_made_is_refused():
    """X: at the call, with who holds it; and at the end of the test too, should the call have been in a `try`."""
    overrides = Overrides()
    try:
        async with scope(name="app").provide("db", lambda: "real") as s:
            await s.use("db")
            with pytest.raises(ServiceExists, match=r"'db'.*(?s:.)*the body of app"):
                overrides("db", lambda: "fake")
            (problem,) = overrides.problems()
            assert problem.startswith("overrides('db', ...) at tests/test_testing_plugin.py:")
            assert " came too late: " in problem
    finally:
        overrides.end()
    assert WATCHERS == []


async def test_each_key_is_overridden_once():
    """X: which of two would hold is no question that a test should leave open."""
    overrides = Overrides()
    overrides("db", lambda: "first")
    with pytest.raises(ValueError, match=r"overrides\('db', \.\.\.\): it was overridden at tests/test_testing_plugin"):
        overrides("db", lambda: "second")
    overrides.end()


async def test_a_shared_recipe_and_a_given_value_are_overridden():
    """X: `shared=False` stays so, each scope gets its own fake; a value is replaced like a service."""
    key = Key[list]("session")
    overrides = Overrides()
    overrides(key, list)
    overrides("limit", lambda: 1)
    try:
        async with scope().provide(key, lambda: ["real"], shared=False).provide_value("limit", 9) as s:
            async with scope() as inner:
                first, second = await s.use(key), await inner.use(key)
                assert (first, second, first is second) == ([], [], False)
            s.provide_value("other", 3)
            assert (await s.use("limit"), await s.use("other")) == (1, 3)
    finally:
        overrides.end()
    assert overrides.problems() == []


async def test_an_override_of_a_recipe_that_was_used_is_refused():
    """X: with `shared=False`, what a scope has made of its own was made already."""
    overrides = Overrides()
    try:
        async with scope(name="app").provide("session", lambda: "real", shared=False), scope(name="request") as s:
            assert await s.use("session") == "real"
            with pytest.raises(ServiceExists, match="service 'session' of app > request has already been created"):
                overrides("session", lambda: "fake")
    finally:
        overrides.end()


async def test_the_last_of_several_factories_is_given_back():
    """X: a service that was replaced during the test is not turned back further than that."""
    overrides = Overrides()
    overrides("db", lambda: "fake")
    async with scope().provide("db", lambda: "first") as s:
        s.provide("db", lambda: "second", replace=True)
        overrides.end()
        assert await s.use("db") == "second"


async def test_a_scope_that_outlives_the_test_gets_its_own_factory_back():
    """X: where the fake has not been made; an override of a closed scope leaves nothing to give back."""
    overrides = Overrides()
    overrides("db", lambda: "fake")
    overrides("config", lambda: "fake")
    async with scope().provide("db", lambda: "real").provide("config", lambda: "real") as s:
        async with scope().provide("db", lambda: "real"):
            pass
        assert await s.use("config") == "fake"
        overrides.end()
        assert (await s.use("db"), await s.use("config")) == ("real", "fake")


# ---------------------------------------------------------------------------------------------------------- attack
def test_attack_is_a_fixture_that_knows_the_backend_of_the_test(program):
    """X: a plain test, once for each backend; the failure is pytest's to show."""
    outcome = program.run(
        """
        import anyio

        async def careful(sim):
            log = []
            async def work():
                log.append(1)
                try:
                    await anyio.sleep(1)
                finally:
                    log.pop()
            await sim.victim(work)
            assert not log

        async def careless(sim):
            log = []
            async def work():
                log.append(1)
                await anyio.sleep(1)
                log.pop()
            await sim.victim(work)
            assert not log, "never closed"

        def test_careful(attack):
            assert attack(careful, runs=20).struck > 10

        def test_careless(attack, anyio_backend_name):
            attack(careless, runs=20)
        """
    )
    assert outcome.of("test_careful") == all_of("PASSED")
    assert outcome.of("test_careless") == all_of("FAILED")
    for backend in ("asyncio", "trio"):
        assert f'Again: replay(careless, "{backend} cancel checkpoint=1 schedule=fifo")' in outcome.text


# ---------------------------------------------------------------------------------------------------------- faulty
def test_faulty_is_a_fixture(program):
    """X: the function, for a test that does not import it."""
    outcome = program.run(
        """
        import pytest

        async def double(x):
            return 2 * x

        async def test_it(faulty):
            flaky = faulty(double, at=2)
            assert await flaky(1) == 2
            with pytest.raises(Exception, match="fault injected into call 2 of double"):
                await flaky(1)
        """
    )
    assert outcome.of("test_it") == all_of("PASSED"), outcome.text


# ---------------------------------------------------------------------------------------------------- virtual_time
def test_virtual_time_costs_no_real_time_and_leaves_uvloop_out(program):
    """X: the test and its async fixtures, with marks on functions, classes, parameters; others are in real time."""
    outcome = program.run(
        """
        import time
        import anyio, pytest

        @pytest.fixture
        async def slept():
            await anyio.sleep(1000)
            yield anyio.current_time()
            await anyio.sleep(1000)

        @pytest.mark.virtual_time
        async def test_long(slept, no_leaks):
            began = time.monotonic()
            await anyio.sleep(86400)
            assert anyio.current_time() == pytest.approx(slept + 86400)
            assert time.monotonic() - began < 30

        async def test_real_again():
            began = time.monotonic()
            await anyio.sleep(0.05)
            assert time.monotonic() - began > 0.04

        @pytest.mark.virtual_time
        class TestAll:
            @pytest.mark.parametrize("seconds", [10, 10_000])
            async def test_method(self, seconds):
                began = anyio.current_time()
                with anyio.move_on_after(seconds):
                    await anyio.sleep_forever()
                assert anyio.current_time() == pytest.approx(began + seconds)

        @pytest.mark.parametrize("seconds", [0.01, pytest.param(9999, marks=pytest.mark.virtual_time)])
        async def test_parameter(seconds):
            await anyio.sleep(seconds)

        @pytest.mark.virtual_time
        def test_plain():
            pass
        """
    )
    virtual = {"asyncio", "trio"}
    for name in (
        "test_long[{}]",
        "test_real_again[{}]",
        "TestAll::test_method[{}-10]",
        "TestAll::test_method[{}-10000]",
        "test_parameter[{}-0.01]",
        "test_parameter[{}-9999]",
    ):
        for backend in virtual:
            assert outcome.tests[name.format(backend)] == "PASSED", outcome.text
    if "uvloop" in BACKENDS:
        assert "4 skipped" in outcome.text, outcome.text
        assert "virtual_time: uvloop has no clock but the real one" in outcome.text
        assert outcome.tests["test_real_again[uvloop]"] == outcome.tests["test_parameter[uvloop-0.01]"] == "PASSED"
    assert outcome.tests["test_plain"] == "ERROR"
    assert "the mark virtual_time is for async tests\nRight: async def test_plain(...):" in outcome.text


def test_a_deadlock_in_virtual_time_says_where_the_test_stands(program):
    """X: at once, and without the tasks of AnyIO's plugin."""
    outcome = program.run(
        """
        import anyio, pytest

        @pytest.mark.virtual_time
        async def test_stuck():
            await anyio.Event().wait()
        """
    )
    lines = [line.lstrip("E ") for line in outcome.text.splitlines() if line.startswith("E ")]
    assert lines.count("(the test itself): test_it.py:6 in test_stuck") == 2
    assert not any(line.startswith(("Task-", "anyio.")) for line in lines)


def test_virtual_time_works_with_anyios_own_backends_in_strict_mode(program):
    """X: AnyIO's own fixture, of the scope module, shared with tests in real time; and its mark."""
    program.write("conftest.py", "")
    outcome = program.run(
        """
        import time
        import anyio, pytest

        pytestmark = pytest.mark.anyio

        async def test_real():
            assert anyio.current_time() > 1

        @pytest.mark.virtual_time
        async def test_virtual():
            await anyio.sleep(86400)

        async def test_real_after():
            began = time.monotonic()
            await anyio.sleep(0.05)
            assert time.monotonic() - began > 0.04
        """,
        "--anyio-mode=strict",
    )
    names = [f"{name}[{backend}]" for name in ("test_real", "test_virtual", "test_real_after") for backend in
             ("asyncio", "trio")]  # fmt: skip
    assert {name: outcome.tests.get(name) for name in names} == dict.fromkeys(names, "PASSED"), outcome.text


def test_virtual_time_keeps_the_options_of_the_backend(program):
    """X: those that the test was given, as parameters here."""
    outcome = program.run(
        """
        import asyncio
        import anyio, pytest

        @pytest.mark.virtual_time
        @pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": True})], ids=["debug"])
        async def test_debug():
            await anyio.sleep(9999)
            assert asyncio.get_running_loop().get_debug()
        """
    )
    assert outcome.tests == {"test_debug[debug]": "PASSED"}, outcome.text


def test_virtual_time_tells_what_it_cannot_do(program):
    """X: a loop that is shared with other tests, one of the user's own, and a test that AnyIO does not run."""
    program.write("conftest.py", "")
    outcome = program.run(
        """
        import asyncio
        import anyio, pytest

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module")
        async def server():
            yield

        async def test_keeps_the_loop(server):
            pass

        @pytest.mark.virtual_time
        async def test_loop_of_others():
            pass

        @pytest.mark.virtual_time
        async def test_wider_fixture(server):
            pass

        @pytest.mark.virtual_time
        @pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": asyncio.new_event_loop})])
        async def test_own_loop():
            pass
        """
    )
    for backend in ("asyncio", "trio"):
        assert outcome.tests[f"test_wider_fixture[{backend}]"] == "ERROR", outcome.text
        assert outcome.tests[f"test_loop_of_others[{backend}]"] == "FAILED", outcome.text
    told = "the mark virtual_time needs an event loop of its own, but "
    after = ", and shares its loop with other tests\n"
    assert f"{told}its fixture server has the scope module{after}" in outcome.text
    assert f"{told}an async fixture of a wider scope is alive{after}" in outcome.text
    assert "loop_factory of this backend makes loops with a clock of their own" in outcome.text


def test_virtual_time_goes_with_hypothesis(program):
    """X: each example runs in virtual time."""
    outcome = program.run(
        """
        import anyio, pytest
        from hypothesis import HealthCheck, given, settings, strategies

        @pytest.mark.parametrize("is_virtual", [False, pytest.param(True, marks=pytest.mark.virtual_time)])
        @settings(max_examples=9, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(number=strategies.integers(100, 999))
        async def test_it(is_virtual, number):
            if is_virtual:
                began = anyio.current_time()
                await anyio.sleep(number)
                assert anyio.current_time() == pytest.approx(began + number)
        """,
    )
    for name in ("asyncio-False", "asyncio-True", "trio-False", "trio-True"):
        assert outcome.tests[f"test_it[{name}]"] == "PASSED", outcome.text


def test_virtual_time_needs_anyios_plugin(program):
    """X: a test that another plugin runs is told to be marked for AnyIO's."""
    outcome = program.run(
        """
        import pytest

        @pytest.mark.virtual_time
        async def test_unmarked():
            pass
        """,
        "--anyio-mode=strict",
    )
    assert outcome.tests == {"test_unmarked": "ERROR"}, outcome.text
    assert "the mark virtual_time is for tests of AnyIO's plugin\nRight: @pytest.mark.anyio" in outcome.text
