"""What type checkers refuse of streams (R1, R6). Read by mypy and pyright, never run.

Each refused line carries a `type: ignore` with mypy's code, which pyright honours too. Both checkers call an ignore
that is not needed an error, so this file fails as soon as one of them accepts one of these lines.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from anyscope import Scope, Stream


async def fetch(word: str) -> str:
    return word


async def numbers() -> list[int]:
    return [1]


def read(path: str) -> list[str]:
    return [path]


def sources(s: Scope) -> None:
    s.stream(3)  # type: ignore[call-overload]
    s.stream(numbers())  # type: ignore[call-overload]
    s.stream(numbers)  # type: ignore[arg-type]
    s.stream(read)  # type: ignore[arg-type]
    s.stream([1], buffer="3")  # type: ignore[call-overload]
    s.stream([1], limit=3)  # type: ignore[call-overload]


def operators(n: Stream[int]) -> None:
    n.map(fetch)  # type: ignore[arg-type]
    n.map(3)  # type: ignore[call-overload]
    n.map(str, 3)  # type: ignore[call-overload]
    n.filter(str.isdigit)  # type: ignore[arg-type]
    n.flat_map(lambda number: number)  # type: ignore[arg-type, return-value]
    n.scan(lambda state, number: state + number)  # type: ignore[call-overload]
    n.take("3")  # type: ignore[arg-type]
    n.batch(3, 0.5)  # type: ignore[call-arg]
    n.buffer(3, overflow="drop")  # type: ignore[arg-type]
    n.merge([1], halt="both")  # type: ignore[arg-type]
    n.merge(3)  # type: ignore[arg-type]
    n.zip(3)  # type: ignore[call-overload]
    n.retry(3, on=KeyboardInterrupt)  # type: ignore[arg-type]
    n.retry(3, on=[OSError])  # type: ignore[arg-type]
    n.throttle(per=1)  # type: ignore[call-arg]
    n.debounce()  # type: ignore[call-arg]


async def sinks(n: Stream[int]) -> None:
    await n.for_each(fetch)  # type: ignore[arg-type]
    await n.reduce(max)  # type: ignore[call-overload]
    await n.first(default=1, other=2)  # type: ignore[call-overload]
    for _ in n:  # type: ignore[attr-defined]
        pass
