"""Looking at a scope: repr, statistics and tree, the same text on every backend (S13)."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from anyscope import Hooks, Scope, ScopeStatistics, ScopeTimeout, scope


async def ok(value: Any = None, after: float = 0) -> Any:
    await anyio.sleep(after)
    return value


async def fail() -> None:
    raise ValueError("s3cret")


async def hang() -> None:
    await anyio.sleep_forever()


async def started(*, task_status: anyio.abc.TaskStatus[None]) -> None:
    task_status.started()
    await anyio.sleep_forever()


def lines(text: str) -> list[str]:
    return text.split("\n")


# ------------------------------------------------------------------ repr


async def test_repr_from_birth_to_end() -> None:
    """S13: one line with path, state and counts."""
    s = scope(name="app")
    assert repr(s) == "<Scope app new>"
    async with s:
        assert repr(s) == "<Scope app open, 0 running>"
        s.task(hang)
        assert repr(s) == "<Scope app open, 1 running>"
        s.cancel()
        assert repr(s) == "<Scope app open, cancelled, 1 running>"
    assert repr(s) == "<Scope app closed, cancelled>"
    async with scope() as s:
        pass
    assert repr(s) == "<Scope scope closed>"


async def test_repr_shows_the_reason() -> None:
    """S13: its text, or type and first line of an error."""
    async with scope(name="app") as s:
        s.cancel("user left")
        assert repr(s) == "<Scope app open, cancelled (user left), 0 running>"
    with pytest.raises(KeyError):
        async with scope(name="app") as s:
            raise KeyError("k")
    assert repr(s) == "<Scope app closed, cancelled (KeyError: 'k')>"
    with pytest.raises(ScopeTimeout):
        async with scope(name="app", timeout=0) as s:
            await anyio.lowlevel.checkpoint()
    assert repr(s) == "<Scope app closed, cancelled (ScopeTimeout: scope app ran over its timeout of 0 s)>"


async def test_repr_shows_path_queue_and_children() -> None:
    """S13: what there is none of is left out, but for what runs."""
    async with scope(name="app", concurrency=2) as s:
        for _ in range(5):
            s.task(hang)
        assert repr(s) == "<Scope app open, 2 running, 3 queued>"
        async with scope(name="in") as child:
            assert repr(child) == "<Scope app > in open, 0 running>"
            assert repr(s) == "<Scope app open, 2 running, 3 queued, 1 children>"
        assert repr(child) == "<Scope app > in closed>"
        s.cancel()


async def test_repr_while_draining_and_closing() -> None:
    """S13: the states between the end of the body and the end of the block."""
    seen: list[str] = []

    async def look() -> None:
        await anyio.sleep(0.005)
        seen.append(repr(s))

    async with scope(name="app") as s:
        s.task(look)
        s.on_exit(lambda: seen.append(repr(s)))
    assert seen == ["<Scope app draining, 1 running>", "<Scope app closing, 0 running>"]


async def test_repr_is_one_line() -> None:
    """S13: also when the reason has several."""
    async with scope(name="app") as s:
        s.cancel(ValueError("one\ntwo"))
        assert repr(s) == "<Scope app open, cancelled (ValueError: one), 0 running>"
    async with scope(name="app") as s:
        s.cancel("one\ntwo")
        assert "\n" not in repr(s)


# ------------------------------------------------------------------ statistics


def counts(s: Scope) -> dict[str, int]:
    """The statistics without what is zero."""
    return {name: number for name, number in dataclasses.asdict(s.statistics()).items() if number}


async def test_statistics_is_a_frozen_record() -> None:
    """S13: a picture of one moment; it does not change afterwards, nor can it be changed."""
    async with scope() as s:
        before = s.statistics()
        assert type(before) is ScopeStatistics
        assert set(dataclasses.asdict(before).values()) == {0}
        task = s.task(ok)
        await task
        assert before.succeeded == 0
        assert s.statistics().succeeded == 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.succeeded = 1  # type: ignore[misc]
        assert s.statistics() == s.statistics()


async def test_statistics_count_what_has_been() -> None:
    """S13: succeeded, failed, cancelled, and what nobody has looked at."""
    async with scope() as s:
        good, bad, timed_out, cut = s.task(ok), s.task(fail), s.task(hang, timeout=0), s.task(hang)
        await anyio.sleep(0.005)
        cut.cancel()
        await cut
        assert counts(s) == {"succeeded": 1, "failed": 2, "cancelled": 1, "unobserved": 2}
        await bad
        assert counts(s)["unobserved"] == 1
        await timed_out
        await good
        assert counts(s) == {"succeeded": 1, "failed": 2, "cancelled": 1}
        await s.run(ok)
        await s.run(fail)
        assert counts(s) == {"succeeded": 2, "failed": 3, "cancelled": 1}
    assert counts(s) == {"succeeded": 2, "failed": 3, "cancelled": 1}


async def test_statistics_count_what_is() -> None:
    """S13: running (daemons and calls included), queued, children, clean-ups."""
    async with scope(concurrency=2) as s:
        for _ in range(3):
            s.task(hang)
        s.start_soon(hang, daemon=True)
        await s.start(started)
        s.on_exit(ok)
        s.on_exit(ok)
        assert counts(s) == {"running": 4, "queued": 1, "clean_ups": 2}
        async with scope(), scope(parent=s):
            assert counts(s) == {"running": 4, "queued": 1, "clean_ups": 2, "children": 2}

        async def look() -> dict[str, int]:
            return counts(s)

        assert (await s.run(look)).unwrap() == {"running": 5, "queued": 1, "clean_ups": 2}
        s.cancel()
    assert {name: counts(s).get(name, 0) for name in ("running", "queued", "clean_ups", "children")} == {
        "running": 0, "queued": 0, "clean_ups": 0, "children": 0,
    }  # fmt: skip


async def test_statistics_before_entry() -> None:
    """S13: all zero, and no error."""
    assert counts(scope()) == {}


async def test_statistics_count_failures_of_hooks() -> None:
    """S13, H4: those of inherited hooks too."""

    def broken(name: str, index: int) -> None:
        raise RuntimeError

    async with scope(hooks=Hooks(before_task=broken)) as s, scope() as child:
        await s.task(ok)
        await child.task(ok)
        assert s.statistics().hook_failures == 2
        assert child.statistics().hook_failures == 2


# ------------------------------------------------------------------ tree


async def test_the_tree_of_an_empty_scope() -> None:
    """S13: one line, in each state."""
    s = scope(name="app")
    assert s.tree() == "scope app new"
    async with s:
        assert s.tree() == "scope app open"
        s.cancel("why")
        assert s.tree() == "scope app open, cancelled (why)"
    assert s.tree() == "scope app closed, cancelled (why)"


async def test_the_tree_shows_everything_that_is_owned() -> None:
    """S13: tasks with status and kind, calls, clean-ups in the order they will run, child scopes below."""
    async with scope(name="app", concurrency=2) as s:
        s.on_exit(print)
        s.task(hang, name="first")
        s.start_soon(hang, name="pump")
        s.task(hang, name="waits")
        s.start_soon(hang, name="keeper", daemon=True)
        await s.start(started, name="server")
        s.on_exit(ok)
        async with scope(name="ingest") as inner:
            inner.task(hang, name="fetch-7")
            inner.on_exit(ok)
            async with scope(name="deep"):
                pass
            async with scope(name="deeper") as deeper, scope(name="deepest"):
                deeper.task(hang)

                async def look() -> str:
                    return s.tree()

                text = (await s.run(look, name="looking")).unwrap()
                s.cancel()
    assert lines(text) == [
        "scope app open",
        "  task first (#1) running",
        "  task pump (#2) running (start_soon)",
        "  task waits (#3) queued",
        "  task server (#5) running (start)",
        "  call looking (#7)",
        "  task keeper (#4) running (daemon)",
        "  clean-up ok (#6)",
        "  clean-up print (#0)",
        "  scope ingest open",
        "    task fetch-7 (#0) running",
        "    clean-up ok (#1)",
        "    scope deeper open",
        "      task hang (#0) running",
        "      scope deepest open",
    ]


async def test_the_tree_of_several_children_is_in_order_of_entry() -> None:
    """S13: those that have closed are gone."""
    ready = anyio.Event()

    async def hold(name: str) -> None:
        async with scope(name=name):
            opened.append(name)
            await ready.wait()

    opened: list[str] = []
    async with scope(name="app") as s:
        for name in ("a", "b", "c"):
            s.task(hold, name, name=f"hold {name}")
            while name not in opened:
                await anyio.lowlevel.checkpoint()
        assert lines(s.tree()) == [
            "scope app open",
            "  task hold a (#0) running",
            "  task hold b (#1) running",
            "  task hold c (#2) running",
            "  scope a open",
            "  scope b open",
            "  scope c open",
        ]
        ready.set()
        await anyio.sleep(0.005)
        assert s.tree() == "scope app open"


async def test_the_tree_while_closing() -> None:
    """S13: what has ended or run is gone, what is left is shown."""
    seen: list[str] = []

    async def look() -> None:
        await anyio.sleep(0.005)
        seen.append(s.tree())

    async with scope(name="app") as s:
        s.on_exit(lambda: seen.append(s.tree()))
        s.task(look)
        s.start_soon(hang, name="keeper", daemon=True)
    assert seen == [
        "scope app draining\n  task look (#1) running\n  task keeper (#2) running (daemon)\n  clean-up <lambda> (#0)",
        "scope app closing\n  clean-up <lambda> (#0) closing",
    ]


async def test_the_tree_of_a_cancelled_scope_that_still_cleans_up() -> None:
    """S13, S5: a task that is being cancelled is running until it has ended."""

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.005)
                seen.append(s.tree())

    seen: list[str] = []
    async with scope(name="app") as s, scope(name="in") as inner:
        inner.task(slow)
        await anyio.lowlevel.checkpoint()
        s.cancel("stop")
    assert seen == [
        "scope app open, cancelled (stop)\n  scope in draining, cancelled (stop)\n    task slow (#0) running"
    ]


async def test_the_tree_shows_no_values() -> None:
    """S13, law 8: neither arguments, nor results, nor the texts of errors of tasks."""
    async with scope(name="app") as s:
        s.on_exit(ok, "s3cret")
        task = s.task(ok, "s3cret", 0.001)
        failing = s.task(fail)
        for _ in range(2):
            for text in (s.tree(), repr(s), repr(s.statistics()), repr(task), repr(failing)):
                assert "s3cret" not in text
            await task
            await failing


async def test_the_tree_of_very_deep_scopes() -> None:
    """S13: no recursion error, and each level is indented below the one above."""

    async def nest(depth: int) -> None:
        async with scope(name=f"s{depth}"):
            if depth < 150:
                await nest(depth + 1)
            else:
                trees.append(root.tree())

    trees: list[str] = []
    async with scope(name="root") as root:
        await nest(1)
    assert lines(trees[0]) == ["scope root open", *(f"{'  ' * n}scope s{n} open" for n in range(1, 151))]


async def test_path_parent_and_the_other_properties() -> None:
    """S13, S9: what a scope tells about itself."""
    s = scope(name="app", concurrency=3)
    assert (s.name, s.path, s.parent, s.concurrency, s.closed, s.cancelled) == ("app", "app", None, 3, False, False)
    async with s, scope(name="in") as child:
        assert (child.name, child.path, child.parent) == ("in", "app > in", s)
        assert not s.closed
    assert s.closed
    assert (child.path, child.parent) == ("app > in", s)
