"""What type checkers refuse of results and tasks (T1, T2, T4). Read by mypy and pyright, never run.

Each refused line carries a `type: ignore` with mypy's code, which pyright honours too. Both checkers call an ignore
that is not needed an error, so this file fails as soon as one of them accepts one of these lines.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from anyscope import Err, Ok, Result, Scope, Task


async def fetch(user: int) -> str:
    return str(user)


def sync(user: int) -> str:
    return str(user)


def value_before_narrowing(result: Result[int]) -> int:
    return result.value  # type: ignore[union-attr]


def error_of_a_success(result: Result[int]) -> None:
    if result:
        print(result.error)  # type: ignore[attr-defined]


def value_of_a_failure(result: Result[int]) -> None:
    if isinstance(result, Err):
        print(result.value)  # type: ignore[attr-defined]


def pair_may_be_none(result: Result[int]) -> int:
    _, value = result.pair()
    return value  # type: ignore[return-value]


def wrong_value(result: Result[int]) -> str:
    return result.unwrap()  # type: ignore[return-value]


def wrong_default(result: Result[int]) -> int:
    return result.unwrap_or(None)  # type: ignore[return-value]


def frozen(result: Ok[int]) -> None:
    result.value = 3  # type: ignore[misc]


def an_err_holds_an_exception() -> None:
    Err("no")  # type: ignore[type-var]


def a_base_exception_is_no_result(error: KeyboardInterrupt) -> Result[int]:
    return Err(error)  # type: ignore[arg-type]


class Final(Ok[int]):  # type: ignore[misc]
    pass


async def a_task_of_another_type(s: Scope) -> None:
    _: Task[int] = s.task(fetch, 1)  # type: ignore[arg-type]


async def a_sync_function(s: Scope) -> None:
    _ = s.task(sync, 1)  # type: ignore[arg-type]


async def a_coroutine_object(s: Scope) -> None:
    _ = s.task(fetch(1))  # type: ignore[arg-type]


async def an_option_of_the_wrong_type(s: Scope) -> None:
    await s.run(fetch, 1, timeout="3")  # type: ignore[arg-type]


async def a_result_is_not_the_value(s: Scope) -> str:
    return await s.task(fetch, 1)  # type: ignore[return-value]


async def a_run_that_is_not_awaited(s: Scope) -> str:
    return s.run(fetch, 1)  # type: ignore[return-value]
