"""What type checkers accept of results and tasks (T1, T2, T4). Read by mypy and pyright, never run.

Run `mypy --strict --warn-unused-ignores` and `pyright` on `tests/typing/results_*.py`.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from typing_extensions import assert_never, assert_type

from anyscope import Err, Ok, Result, Scope, Task, scope


async def fetch(user: int, *, retries: int = 0) -> str:
    return str(user + retries)


async def nothing() -> None: ...


class Client:
    async def get(self, url: str) -> bytes:
        return url.encode()

    async def __call__(self, url: str) -> int:
        return len(url)


# ------------------------------------------------------------------ narrowing


def by_match(result: Result[int]) -> int:
    match result:
        case Ok(value):
            assert_type(value, int)
            return value
        case Err(error):
            assert_type(error, Exception)
            return 0
        case _:
            assert_never(result)


def by_isinstance(result: Result[int]) -> int:
    if isinstance(result, Ok):
        assert_type(result, Ok[int])
        return result.value
    assert_type(result, Err[Exception])
    assert_type(result.error, Exception)
    return 0


def by_truth(result: Result[int]) -> int:
    if result:
        assert_type(result.value, int)
        return result.value
    assert_type(result.error, Exception)
    return 0


def by_falsehood(result: Result[list[str]]) -> list[str]:
    if not result:
        assert_type(result, Err[Exception])
        raise result.error
    return result.value


def by_pair(result: Result[str]) -> str:
    err, value = result.pair()
    assert_type(err, Exception | None)
    assert_type(value, str | None)
    return "" if value is None else value


def by_unpacking(result: Result[str]) -> None:
    err, value = result
    print(err, value)


# ------------------------------------------------------------------ methods


def methods(result: Result[int]) -> None:
    assert_type(result.unwrap(), int)
    assert_type(result.map(str), Ok[str] | Err[Exception])
    assert_type(Ok(1).map(str), Ok[str])
    assert_type(Ok(1).unwrap(), int)
    number: int = result.unwrap_or(0)
    maybe: int | None = result.unwrap_or(None)
    print(number, maybe)


def literal(result: Ok[int]) -> None:
    assert_type(result.pair(), tuple[None, int])


# ------------------------------------------------------------------ building


def build(good: bool) -> Result[int]:
    return Ok(3) if good else Err(ValueError("no"))


def covariant(narrow: Ok[bool], error: Err[KeyError]) -> tuple[Result[int], Result[object]]:
    wide: Ok[int] = narrow
    any_error: Err[LookupError] = error
    return wide, any_error


def some_results(results: list[Result[int]]) -> list[int]:
    return [result.value for result in results if isinstance(result, Ok)]


# ------------------------------------------------------------------ tasks


async def tasks(s: Scope, client: Client) -> None:
    task = s.task(fetch, 42)
    _ = assert_type(task, Task[str])
    assert_type(await task, Ok[str] | Err[Exception])
    assert_type(await task.unwrap(), str)
    assert_type(task.result(), Ok[str] | Err[Exception])
    assert_type(task.done, bool)
    assert_type(task.name, str)
    assert_type(task.index, int)
    none, get, call = s.task(nothing), s.task(client.get, "/"), s.task(client, "/")
    _ = assert_type(none, Task[None])
    _ = assert_type(get, Task[bytes])
    _ = assert_type(call, Task[int])
    partly = s.task(partial(fetch, retries=3), 1, name="fetch", timeout=0.5)
    late = s.task(lambda: fetch(3))
    _ = assert_type(partly, Task[str])
    _ = assert_type(late, Task[str])
    err, value = await task
    print(err, value)


async def runs(s: Scope, client: Client) -> None:
    assert_type(await s.run(fetch, 42), Ok[str] | Err[Exception])
    assert_type(await s.run(client.get, "/", timeout=1), Ok[bytes] | Err[Exception])
    assert_type(await s.run(lambda: fetch(3), name="fetch"), Ok[str] | Err[Exception])


async def generic(s: Scope, fn: Callable[[int], Coroutine[Any, Any, list[float]]]) -> list[float]:
    wide: Task[object] = s.task(fetch, 1)  # a task only gives values: it is covariant
    print(wide)
    return await s.task(fn, 1).unwrap()


async def block() -> int:
    async with scope(name="app", timeout=3) as s:
        assert_type(s, Scope)
        match await s.task(fetch, 1):
            case Ok(value):
                return len(value)
            case Err(error):
                raise error
    return 0
