"""`anyscope.testing.faults`: the n-th call raises, hangs or is slow, and the rest is left as it was."""

from __future__ import annotations

import functools
import inspect
import pickle
import time

import anyio
import pytest

from anyscope import scope
from anyscope.testing.faults import InjectedFault, faulty


async def double(x: int) -> int:
    """Twice."""
    return 2 * x


def plain_double(x: int) -> int:
    return 2 * x


# ------------------------------------------------------------------------------------------------- which call
async def test_the_first_call_fails_by_default_and_the_others_do_their_work():
    """X: only the first call of an async function fails, and all are counted."""
    flaky = faulty(double)
    with pytest.raises(InjectedFault, match=r"^fault injected into call 1 of double$") as caught:
        await flaky(1)
    assert (caught.value.function, caught.value.call) == ("double", 1)
    assert [await flaky(2), await flaky(x=3)] == [4, 6]
    assert flaky.calls == 3


@pytest.mark.parametrize(
    ("at", "failed"), [(2, [2]), ({1, 3}, [1, 3]), ([4], [4]), (range(2, 100), [2, 3, 4]), ((9,), [])]
)
async def test_any_calls_can_be_chosen(at, failed):
    """X: one number, or any collection of numbers."""
    flaky, seen = faulty(double, at=at), []
    for number in range(1, 5):
        try:
            await flaky(number)
        except InjectedFault as error:
            seen.append(error.call)
            assert error.call == number
    assert seen == failed


def test_a_plain_function_is_faulty_too():
    """X: the n-th call of a plain function raises."""
    flaky = faulty(plain_double, at=2)
    assert flaky(1) == 2
    with pytest.raises(InjectedFault, match="call 2 of plain_double"):
        flaky(1)
    assert flaky(1) == 2


async def test_the_async_call_counts_when_it_runs():
    """X: a call that was made but has not begun is not counted, so the numbers follow the order of running."""
    flaky = faulty(double, at=1)
    first, second = flaky(1), flaky(2)
    assert flaky.calls == 0
    with pytest.raises(InjectedFault):
        await second
    assert await first == 2


async def test_calls_of_many_threads_are_counted_once_each():
    """X: no call is lost from the count, whichever thread makes it."""
    flaky = faulty(plain_double, at=range(1, 100_000, 2))
    failed = []

    def work():
        for _ in range(500):
            try:
                flaky(1)
            except InjectedFault as error:
                failed.append(error.call)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(anyio.to_thread.run_sync, work)
    assert flaky.calls == 2000
    assert sorted(failed) == list(range(1, 2001, 2))


# ------------------------------------------------------------------------------------------------- what happens
@pytest.mark.parametrize("error", [OSError("gone"), OSError, KeyboardInterrupt])
async def test_the_error_can_be_chosen(error):
    """X: an exception object, a class, also one that is no Exception."""
    flaky = faulty(double, error=error)
    with pytest.raises(error if isinstance(error, type) else type(error)) as caught:
        await flaky(1)
    if not isinstance(error, type):
        assert caught.value is error


async def test_a_hang_lasts_until_it_is_cancelled_and_does_not_reach_the_function():
    """X: the call waits for ever, cancellably."""
    reached = []

    async def work():
        reached.append(1)

    stuck = faulty(work, hang=True)
    with anyio.move_on_after(0.01) as limit:
        await stuck()
    assert limit.cancelled_caught
    assert reached == []
    await stuck()
    assert reached == [1]


@pytest.mark.virtual_time
async def test_a_delay_is_exact_and_then_the_call_is_made():
    """X: a slow call sleeps, then does its work."""
    slow = faulty(double, at=2, delay=60)
    began = anyio.current_time()
    assert await slow(1) == 2
    assert anyio.current_time() == began
    assert await slow(2) == 4
    assert anyio.current_time() == pytest.approx(began + 60)


def test_a_plain_function_is_slow_by_blocking():
    """X: a plain function blocks its thread for the delay."""
    slow = faulty(plain_double, delay=0.02)
    began = time.monotonic()
    assert slow(2) == 4
    assert time.monotonic() - began >= 0.02


async def test_several_faults_are_several_wrappers():
    """X: the advice of the error works: one wrapper for each kind of fault."""
    flaky = faulty(faulty(double, at=1, error=OSError), at=2, error=KeyError)
    with pytest.raises(OSError):
        await flaky(1)
    with pytest.raises(KeyError):
        await flaky(1)
    assert await flaky(1) == 2


# ------------------------------------------------------------------------------------------- what it looks like
def test_it_looks_like_the_function():
    """X: name, docstring, signature, and whether it is async."""
    flaky = faulty(double)
    assert (flaky.__name__, flaky.__doc__) == ("double", "Twice.")
    assert inspect.signature(flaky) == inspect.signature(double)
    assert inspect.iscoroutinefunction(flaky)
    assert not inspect.iscoroutinefunction(faulty(plain_double))


async def test_partials_methods_and_callable_objects_are_async_if_what_they_call_is():
    """X: everything that is awaited can hang."""

    class Client:
        async def get(self, x):
            return x

        async def __call__(self, x):
            return x

    for fn in (functools.partial(double, 1), Client().get, Client(), functools.partial(Client(), 1)):
        assert inspect.iscoroutinefunction(faulty(fn, hang=True))


async def test_it_is_bound_as_a_method():
    """X: put into a class it gets `self`, so methods can be patched."""

    class Client:
        async def get(self, x):
            return self, x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "get", faulty(Client.get, at=2))
        client = Client()
        assert await client.get(3) == (client, 3)
        with pytest.raises(InjectedFault, match=r"call 2 of Client\.get"):
            await client.get(3)


async def test_scopes_take_it_like_the_function():
    """X: tasks and services are made of faulty functions without further ado."""
    async with scope().provide("db", faulty(double.__get__(21))) as s:
        assert isinstance((await s.task(faulty(double), 1)).pair()[0], InjectedFault)
        with pytest.raises(InjectedFault):
            await s.use("db")
        assert await s.use("db") == 42


def test_the_fault_pickles():
    """X: the error crosses a process."""
    error = pickle.loads(pickle.dumps(InjectedFault("f", 3)))
    assert (error.function, error.call, str(error)) == ("f", 3, "fault injected into call 3 of f")


# -------------------------------------------------------------------------------------------------------- misuse
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"error": OSError, "hang": True}, ValueError, r"faulty\(double, error=\.\.\., hang=\.\.\.\): a call can do "),
        ({"hang": True, "delay": 1}, ValueError, r"hang=\.\.\., delay=\.\.\.\): a call can do only one of these"),
        ({"error": "gone"}, TypeError, "error must be an exception or a class of one, got 'gone'"),
        ({"error": int}, TypeError, "error must be an exception or a class of one, got <class 'int'>"),
        ({"at": 0}, ValueError, "calls are numbered from 1, got 0"),
        ({"at": {1, -1}}, ValueError, "calls are numbered from 1"),
        ({"at": ()}, ValueError, r"calls are numbered from 1, got \(\)"),
        ({"at": True}, TypeError, "at must be an int or a collection of ints, got True"),
        ({"at": "1"}, TypeError, "at must be an int or a collection of ints, got '1'"),
        ({"at": 1.0}, TypeError, r"at must be an int or a collection of ints, got 1\.0"),
        ({"at": [1, None]}, TypeError, r"at must be an int or a collection of ints, got \[1, None\]"),
        ({"delay": -1}, ValueError, "delay must be >= 0 seconds"),
        ({"delay": float("inf")}, ValueError, r"never ends\nRight: faulty\(double, hang=True\)"),
        ({"delay": "1"}, TypeError, "delay must be a number of seconds"),
    ],
)
def test_misuse_is_told_at_the_call(options, kind, text):
    """X: option, value and rule, before anything is wrapped."""
    with pytest.raises(kind, match=text):
        faulty(double, **options)


def test_a_plain_function_cannot_hang():
    """X: it could not be cancelled."""
    with pytest.raises(TypeError, match="plain_double is not async, so it could not be cancelled while it hangs"):
        faulty(plain_double, hang=True)


def test_what_cannot_be_called_is_refused():
    """X: a value, and a coroutine object with the right line and without a warning."""
    with pytest.raises(TypeError, match=r"faulty\(\.\.\.\): expected a function, got 3"):
        faulty(3)
    with pytest.raises(TypeError, match=r"Right: faulty\(double, x\)"):
        faulty(double(3))
