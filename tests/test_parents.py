"""Parents, signals and the current scope (S9, S10, S11), through the public interface only."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from anyscope import (
    CancelSignal,
    CancelSource,
    Err,
    Hooks,
    NoCurrentScope,
    Ok,
    Scope,
    ScopeClosed,
    ScopeMisuse,
    ScopeTimeout,
    TaskCancelled,
    current_scope,
    scope,
)


class Holder:
    """A task that no scope has started, in which child scopes are opened."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.child: Scope | None = None
        self.entered = anyio.Event()

    async def hold(self, make: Callable[[], Scope], seconds: float = float("inf")) -> None:
        """Enter the scope, stay in it for a while, and go on afterwards."""
        async with make() as self.child:
            self.log.append("in")
            self.entered.set()
            try:
                await anyio.sleep(seconds)
                self.log.append("slept")
            finally:
                self.log.append("out")
        self.log.append("goes on")
        await anyio.lowlevel.checkpoint()
        self.log.append("alive")


@asynccontextmanager
async def foreign() -> AsyncIterator[Callable[..., Any]]:
    """Gives `start(fn, *args)`, which starts a task outside of every scope that is opened in the block."""
    async with anyio.create_task_group() as group:
        yield group.start_soon


# ------------------------------------------------------------------ who is the parent (S9)


async def test_by_default_the_parent_is_the_current_scope_at_entry() -> None:
    """S9: the parent is looked up where the scope is entered, not where it is made."""
    made_outside = scope(name="child")
    assert made_outside.parent is None
    async with scope(name="app") as s:
        async with made_outside as child:
            assert child.parent is s
            assert child.path == "app > child"
        made_inside = scope(name="later")
    async with made_inside as root:
        assert root.parent is None
        assert root.path == "later"


async def test_a_task_opens_children_of_the_scope_that_started_it() -> None:
    """S9, S11: inside a task the ambient parent is the scope of the task."""

    async def work() -> str:
        async with scope(name="child") as child:
            return child.path

    async with scope(name="app") as s, scope(name="inner") as inner:
        assert await s.task(work) == Ok("app > child")
        assert await inner.task(work) == Ok("app > inner > child")


async def test_parent_none_makes_a_root() -> None:
    """S9: `parent=None` inherits nothing, also no cancellation."""
    called: list[str] = []
    hooks = Hooks(before_task=lambda name, index: called.append(name))
    holder = Holder()
    async with foreign() as start, scope(name="app", hooks=hooks) as s:
        start(holder.hold, lambda: scope(name="root", parent=None), 0.01)
        await holder.entered.wait()
        assert holder.child is not None
        assert holder.child.parent is None
        assert holder.child.path == "root"
        holder.child.task(anyio.sleep, 0)
        s.cancel("no matter")
    assert called == []
    assert holder.log == ["in", "slept", "out", "goes on", "alive"]
    assert not holder.child.cancelled


async def test_parent_none_inside_the_block_is_still_inside_it() -> None:
    """S9: a root opened in a body of another scope is cut by the backend with it, and the error passes through."""
    async with scope(name="app") as s:
        async with scope(name="root", parent=None) as root:
            assert root.parent is None
            s.cancel("both")
            await anyio.sleep_forever()
        pytest.fail("the cancellation of the outer scope ended in the inner one")
    assert s.cancelled


async def test_an_explicit_parent_may_be_another_than_the_current_one() -> None:
    """S9: `parent=p` wins over the current scope."""
    async with scope(name="a") as a, scope(name="b") as b, scope(name="c", parent=a) as c:
        assert c.parent is a
        assert c.path == "a > c"
        assert a.statistics().children == 2
        assert b.statistics().children == 0


async def test_a_parent_that_is_not_a_scope_is_refused_at_the_call() -> None:
    """S9, S12: a wrong `parent=` is a `TypeError` that shows it."""
    with pytest.raises(TypeError, match=r"parent must be a Scope, or None for a root, got 'app' \(str\)"):
        scope(parent="app")  # type: ignore[arg-type]


async def test_a_parent_that_was_not_entered_is_refused() -> None:
    """S9, S12: the parent has to be open."""
    parent = scope(name="app")
    with pytest.raises(ScopeMisuse, match="before it was entered"):
        async with scope(name="child", parent=parent):
            pytest.fail("entered")


@pytest.mark.parametrize("ended", ["normally", "cancelled"])
async def test_a_child_of_a_closed_parent_is_refused_and_nothing_opened(ended: str) -> None:
    """S9: entering a child of a closed scope raises `ScopeClosed` at once, and the child can be asked nothing."""
    async with scope(name="app") as s:
        if ended == "cancelled":
            s.cancel()
    child = scope(name="child", parent=s)
    with pytest.raises(ScopeClosed, match="scope app is closed: entering child scope child came too late") as info:
        async with child:
            pytest.fail("entered")
    assert info.value.path == "app"
    with pytest.raises(NoCurrentScope):
        current_scope()
    await anyio.lowlevel.checkpoint()


async def test_a_child_can_be_entered_while_the_parent_waits_for_its_tasks() -> None:
    """S9: a parent whose body has ended takes children as long as it takes tasks."""

    async def late() -> str:
        await anyio.sleep(0.01)
        async with scope(name="child") as child:
            return child.path

    async with scope(name="app") as s:
        task = s.task(late)
    assert task.result() == Ok("app > child")


async def test_a_child_cannot_be_entered_while_the_parent_cleans_up() -> None:
    """S9: what a child needs may be closed already."""
    seen: list[BaseException] = []

    async def clean_up() -> None:
        try:
            async with scope(name="child", parent=s):
                pytest.fail("entered")
        except ScopeClosed as error:
            seen.append(error)

    async with scope(name="app") as s:
        s.on_exit(clean_up)
    assert len(seen) == 1


# ------------------------------------------------------------------ inheritance (S9)


async def test_a_child_inherits_neither_name_nor_timeout_nor_concurrency() -> None:
    """S9: only services, hooks and cancellation come from the parent."""
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.005)
        running -= 1

    async with scope(name="app", timeout=60, concurrency=1), scope() as child:
        assert child.name == "scope"
        assert child.path == "app > scope"
        assert child.concurrency is None
        for _ in range(3):
            child.task(work)
    assert most == 3


@pytest.mark.virtual_time
async def test_a_childs_time_out_is_its_own() -> None:
    """S9: a child's deadline neither comes from the parent nor cuts it."""
    async with scope(name="app", timeout=100) as s:
        with pytest.raises(ScopeTimeout, match="scope app > child ran over its timeout of 1 s"):
            async with scope(name="child", timeout=1):
                await anyio.sleep_forever()
        assert not s.cancelled
        await anyio.sleep(50)


async def test_hooks_are_inherited_also_by_an_explicit_child_in_a_foreign_task() -> None:
    """S9, H1: the hooks of the parent see the tasks of the child."""
    called: list[str] = []
    holder = Holder()
    hooks = Hooks(before_task=lambda name, index: called.append(name))
    async with foreign() as start, scope(name="app", hooks=hooks) as s:
        start(holder.hold, lambda: scope(name="child", parent=s), 0.01)
        await holder.entered.wait()
        assert holder.child is not None
        await holder.child.task(anyio.sleep, 0, name="of the child")
    assert called == ["of the child"]


async def test_an_error_in_a_child_does_not_cancel_the_parent() -> None:
    """S9: errors go up through the block only; caught there, the parent knows nothing of them."""
    async with scope(name="app") as s:
        sibling = s.task(anyio.sleep, 0.01)
        with pytest.raises(KeyError):
            async with scope(name="child"):
                raise KeyError("k")
        assert not s.cancelled
        assert s.statistics().failed == 0
    assert sibling.result() == Ok(None)


async def test_an_uncaught_error_of_a_child_goes_up_through_the_block() -> None:
    """S9, S3: one error object, not wrapped by either scope."""
    error = KeyError("k")
    with pytest.raises(KeyError) as info:
        async with scope(name="app") as s, scope(name="child") as child:
            raise error
    assert info.value is error
    assert s.cancel_reason is error
    assert child.cancel_reason is error


async def test_an_error_of_a_child_in_a_foreign_task_stays_there() -> None:
    """S9: the parent of a child in a foreign task hears nothing of its errors."""

    async def child_that_fails() -> None:
        with pytest.raises(KeyError):
            async with scope(name="child", parent=s):
                raise KeyError("k")

    async with foreign() as start, scope(name="app") as s:
        start(child_that_fails)
        await anyio.sleep(0.01)
        assert not s.cancelled
        assert s.statistics().children == 0


async def test_a_cancelled_child_does_not_cancel_the_parent() -> None:
    """S9: cancellation goes down, never up."""
    async with scope(name="app") as s:
        async with scope(name="child") as child:
            child.cancel("enough")
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        assert not s.cancelled
    assert child.cancel_reason == "enough"
    assert s.cancel_reason is None


# ------------------------------------------------------------------ cancellation by the parent (S9)


async def test_a_cancelled_parent_cancels_body_and_tasks_of_a_nested_child() -> None:
    """S9: with the parent's reason, down to the tasks of the child."""
    async with scope(name="app") as s:
        async with scope(name="child") as child:
            task = child.task(anyio.sleep_forever)
            s.cancel("user left")
            assert child.cancelled
            assert child.cancel_reason == "user left"
            await anyio.sleep_forever()
        pytest.fail("the body of the parent went on after a checkpoint")
    match task.result():
        case Err(TaskCancelled() as error):
            assert error.reason == "user left"
        case other:
            pytest.fail(f"{other}")


async def test_a_cancelled_parent_cancels_its_children_in_foreign_tasks() -> None:
    """S9: the child's block ends quietly, and the foreign task goes on."""
    holder = Holder()
    async with foreign() as start, scope(name="app") as s:
        start(holder.hold, lambda: scope(name="child", parent=s))
        await holder.entered.wait()
        assert holder.child is not None
        task = holder.child.task(anyio.sleep_forever)
        s.cancel("user left")
        assert holder.child.cancel_reason == "user left"
    assert holder.log == ["in", "out", "goes on", "alive"]
    match task.result():
        case Err(TaskCancelled() as error):
            assert error.reason == "user left"
        case other:
            pytest.fail(f"{other}")


@pytest.mark.asyncio_only
async def test_a_cancelled_parent_cancels_its_children_in_tasks_of_asyncio() -> None:
    """S9: the same for a task that was made by asyncio itself, before there was any scope."""
    holder, parents = Holder(), []
    ready = anyio.Event()

    async def hold() -> None:
        await ready.wait()
        await holder.hold(lambda: scope(name="child", parent=parents[0]))

    task = asyncio.create_task(hold())
    async with scope(name="app") as s:
        parents.append(s)
        ready.set()
        await holder.entered.wait()
        s.cancel("user left")
    await task
    assert holder.log == ["in", "out", "goes on", "alive"]


async def test_a_child_entered_under_a_cancelled_parent_is_cancelled_at_its_first_checkpoint() -> None:
    """S9: the body runs up to its first checkpoint; the reason is the parent's."""
    log: list[str] = []

    async def enter_late() -> None:
        async with scope(name="child", parent=s) as child:
            log.append(f"in {child.cancelled} {child.cancel_reason}")
            await anyio.lowlevel.checkpoint()
            log.append("not reached")
        log.append("goes on")

    async def still_closing() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)

    async with foreign() as start, scope(name="app") as s:
        s.task(still_closing)
        await anyio.lowlevel.checkpoint()
        s.cancel("too late")
        start(enter_late)
    assert log == ["in True too late", "goes on"]


async def test_a_nested_child_entered_under_a_cancelled_parent() -> None:
    """S9: the same where the child is opened in the parent's own body."""
    log: list[str] = []
    async with scope(name="app") as s:
        s.cancel("too late")
        async with scope(name="child") as child:
            log.append(f"in {child.cancelled} {child.cancel_reason}")
            await anyio.lowlevel.checkpoint()
            log.append("not reached")
        log.append("nor here")
        await anyio.lowlevel.checkpoint()
        log.append("not at all")
    assert log[0] == "in True too late"
    assert "not reached" not in log
    assert "not at all" not in log


@pytest.mark.virtual_time
async def test_the_parents_deadline_cuts_a_child_in_a_foreign_task() -> None:
    """S9, S6: the parent raises `ScopeTimeout`; the child's block ends quietly, and its task goes on."""
    holder = Holder()
    async with foreign() as start:
        with pytest.raises(ScopeTimeout) as info:
            async with scope(name="app", timeout=5) as s:
                start(holder.hold, lambda: scope(name="child", parent=s))
                await anyio.sleep_forever()
    assert holder.log == ["in", "out", "goes on", "alive"]
    assert info.value.path == "app"
    assert holder.child is not None
    assert holder.child.cancel_reason is info.value


@pytest.mark.virtual_time
async def test_the_parents_deadline_cuts_a_child_that_the_parent_waits_for() -> None:
    """S9, S6: with the body gone and only the child left, the deadline still cut something off."""
    holder = Holder()
    async with foreign() as start:
        with pytest.raises(ScopeTimeout) as info:
            async with scope(name="app", timeout=5) as s:
                start(holder.hold, lambda: scope(name="child", parent=s))
                await holder.entered.wait()
        assert info.value.running == ("scope child",)
    assert holder.log == ["in", "out", "goes on", "alive"]


@pytest.mark.virtual_time
async def test_the_earlier_deadline_of_parent_and_child_wins() -> None:
    """S9, S6: a later deadline of the child is no time-out of the child."""
    with pytest.raises(ScopeTimeout, match="scope app ran over its timeout of 1 s"):
        async with scope(name="app", timeout=1), scope(name="child", timeout=2):
            await anyio.sleep_forever()
    with pytest.raises(ScopeTimeout, match="scope app > child ran over its timeout of 1 s"):
        async with scope(name="app", timeout=2), scope(name="child", timeout=1):
            await anyio.sleep_forever()


@pytest.mark.virtual_time
async def test_equal_deadlines_give_one_time_out() -> None:
    """S9, S6: parent and child due in the same instant: one `ScopeTimeout`, and nothing is left cancelled."""
    with pytest.raises(ScopeTimeout):
        async with scope(name="app", timeout=1), scope(name="child", timeout=1):
            await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()


@pytest.mark.virtual_time
async def test_a_closing_parent_waits_for_its_children_before_it_cleans_up() -> None:
    """S9: what the parent has opened is closed after the child in the foreign task has ended."""
    holder = Holder()
    async with foreign() as start:
        async with scope(name="app") as s:
            s.on_exit(holder.log.append, "clean-up of app")
            start(holder.hold, lambda: scope(name="child", parent=s), 5)
            await holder.entered.wait()
            began = anyio.current_time()
        assert anyio.current_time() - began == 5
    assert holder.log[:3] == ["in", "slept", "out"]
    assert sorted(holder.log[3:]) == ["alive", "clean-up of app", "goes on"]  # in two tasks, so in any order


@pytest.mark.virtual_time
async def test_a_cancelled_parent_waits_for_the_clean_up_of_its_children() -> None:
    """S9: also when cancelled, inner clean-up ends before outer clean-up begins."""
    log: list[str] = []

    async def slow_clean_up() -> None:
        await anyio.sleep(3)
        log.append("child cleaned up")

    async def hold_child() -> None:
        async with scope(name="child", parent=s) as child:
            child.on_exit(slow_clean_up)
            await anyio.sleep_forever()

    async with foreign() as start, scope(name="app") as s:
        s.on_exit(log.append, "app cleaned up")
        start(hold_child)
        await anyio.sleep(1)
        s.cancel()
    assert log == ["child cleaned up", "app cleaned up"]


async def test_two_hundred_nested_scopes_end_from_the_inside_out() -> None:
    """S9: the outermost is cancelled; all end, in order, without a recursion error."""
    ended: list[int] = []

    async def nest(depth: int) -> None:
        if depth == 200:
            await anyio.sleep_forever()
        async with scope(name=f"s{depth}") as s:
            s.on_exit(ended.append, depth)
            opened.append(s)
            await nest(depth + 1)

    opened: list[Scope] = []
    async with scope(name="outermost") as outermost:
        outermost.task(nest, 0)
        while len(opened) < 200:
            await anyio.lowlevel.checkpoint()
        outermost.cancel("all of you")
    assert ended == list(reversed(range(200)))
    assert {s.cancel_reason for s in opened} == {"all of you"}
    assert all(s.closed for s in opened)


async def test_two_hundred_scopes_nested_in_the_body_end_from_the_inside_out() -> None:
    """S9: the same without a task in between; the outermost is cancelled from the innermost block."""
    ended: list[int] = []
    alive: list[int] = []

    async def nest(depth: int) -> None:
        async with scope() as s:
            s.on_exit(ended.append, depth)
            if depth < 200:
                await nest(depth + 1)
                alive.append(depth)
            else:
                outermost.cancel("all of you")
                await anyio.sleep_forever()

    async with scope(name="outermost") as outermost:
        await nest(1)
    assert ended == list(reversed(range(1, 201)))
    assert alive == []


async def test_scopes_nested_in_a_task() -> None:
    """S9: several scopes inside one another in one task, each under the one around it."""

    async def work() -> str:
        async with scope(name="a"), scope(name="b"), scope(name="c") as c:
            return c.path

    async with scope(name="app") as s:
        assert await s.task(work) == Ok("app > a > b > c")
        assert await s.run(work) == Ok("app > a > b > c")


async def test_two_hundred_scopes_in_a_chain_of_foreign_tasks() -> None:
    """S9: cancellation travels down a chain of explicit parents of any length."""
    opened: list[Scope] = []
    alive = 0

    async def hold(parent: Scope) -> None:
        nonlocal alive
        async with scope(parent=parent) as s:
            opened.append(s)
            await anyio.sleep_forever()
        alive += 1

    async with foreign() as start, scope() as s:
        parent = s
        for n in range(200):
            start(hold, parent)
            while len(opened) <= n:
                await anyio.lowlevel.checkpoint()
            parent = opened[-1]
        s.cancel("all of you")
    assert {s.cancel_reason for s in opened} == {"all of you"}
    assert alive == 200


@pytest.mark.virtual_time
async def test_a_child_under_the_users_shield_runs_to_its_end() -> None:
    """S9: the shield is the user's order; the child knows that its parent was cancelled, and is not cut off."""
    log: list[str] = []
    async with scope(name="app") as s:
        with anyio.CancelScope(shield=True):
            async with scope(name="child") as child:
                task = child.task(anyio.sleep, 3)
                s.cancel("user left")
                log.append(f"{child.cancelled} {child.cancel_reason}")
                await anyio.sleep(5)
                log.append("body ran to its end")
        log.append("left")
        await anyio.lowlevel.checkpoint()
        log.append("not reached")
    assert log == ["True user left", "body ran to its end", "left"]
    assert task.result() == Ok(None)
    assert anyio.current_time() >= 5


@pytest.mark.virtual_time
async def test_a_root_under_the_users_shield_knows_nothing() -> None:
    """S9: with `parent=None` as well, the inner scope is not even marked as cancelled."""
    async with scope(name="app") as s:
        with anyio.CancelScope(shield=True):
            async with scope(parent=None) as root:
                s.cancel()
                await anyio.sleep(1)
                assert not root.cancelled


# ------------------------------------------------------------------ growth (S9)


async def test_closed_children_leave_nothing_behind() -> None:
    """S9: 100,000 children opened and closed under one parent, and no object more than after the first thousand."""

    async def open_and_close(times: int) -> None:
        for _ in range(times):
            async with scope():
                pass

    async with scope() as s:
        await open_and_close(1000)
        gc.collect()
        before = len(gc.get_objects())
        await open_and_close(10_000)
        gc.collect()
        assert len(gc.get_objects()) - before < 100
        assert s.statistics().children == 0


@pytest.mark.virtual_time
@pytest.mark.timeout(60)
async def test_a_hundred_thousand_children() -> None:
    """S9: the same for the full number, and the last is as cheap as the first; no garbage for the collector either."""
    import tracemalloc

    async with scope(hooks=Hooks(on_cancel=lambda reason: None)) as s:
        signal = s.signal
        for _ in range(50_000):
            async with scope():
                pass
        tracemalloc.start()
        try:
            # A window of the second half is traced: tracing all of it would take a minute.
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(1000):
                async with scope(signal=signal, parent=s):
                    pass
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 50_000
        for _ in range(49_000):
            async with scope():
                pass
        assert s.statistics().children == 0


async def test_a_closed_child_is_freed() -> None:
    """S9: the parent does not hold its closed children, nor do a parent's tasks."""
    refs: list[weakref.ref[Any]] = []

    class Marker:
        pass

    async with scope() as s:
        for _ in range(3):
            async with scope() as child:
                marker = Marker()
                child.on_exit(lambda marker: None, marker)
                refs.append(weakref.ref(marker))
                del marker
                child.task(anyio.sleep, 0)
            del child
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3
        assert not s.closed


# ------------------------------------------------------------------ signals (S10)


async def test_signal_alone_inherits_cancellation_and_nothing_else() -> None:
    """S10: no parent, no hooks, no path; but the cancellation with its reason."""
    called: list[str] = []
    holder = Holder()
    hooks = Hooks(before_task=lambda name, index: called.append(name))
    async with foreign() as start, scope(name="app", hooks=hooks) as s:
        start(holder.hold, lambda: scope(name="alone", signal=s.signal))
        await holder.entered.wait()
        assert holder.child is not None
        assert holder.child.parent is None
        assert holder.child.path == "alone"
        assert s.statistics().children == 0
        await holder.child.task(anyio.sleep, 0)
        s.cancel("stop")
    assert called == []
    assert holder.child.cancel_reason == "stop"
    assert holder.log == ["in", "out", "goes on", "alive"]


async def test_signal_alone_ignores_the_current_scope() -> None:
    """S10: inside the block of another scope too, a scope with a signal has no parent."""
    source = CancelSource()
    async with scope(name="app"), scope(name="alone", signal=source.signal) as alone:
        assert alone.parent is None
        assert alone.path == "alone"


async def test_nobody_waits_for_a_scope_that_only_listens() -> None:
    """S10: the scope of the signal closes without waiting for the listener."""
    holder = Holder()
    async with foreign() as start:
        async with scope(name="app") as s:
            start(holder.hold, lambda: scope(signal=s.signal), 0.01)
            await holder.entered.wait()
        assert s.closed
        assert holder.log == ["in"]
    assert holder.log == ["in", "slept", "out", "goes on", "alive"]


@pytest.mark.parametrize("fired", ["signal", "parent"])
async def test_with_signal_and_parent_both_hold(fired: str) -> None:
    """S10: whichever comes first cancels, and gives its reason."""
    source, holder = CancelSource(), Holder()
    async with foreign() as start, scope(name="app") as s:
        start(holder.hold, lambda: scope(name="child", parent=s, signal=source.signal))
        await holder.entered.wait()
        assert holder.child is not None
        assert holder.child.path == "app > child"
        if fired == "signal":
            source.cancel("from the signal")
            assert not s.cancelled
        else:
            s.cancel("from the parent")
        assert holder.child.cancel_reason == f"from the {fired}"
        source.cancel("later")
        assert holder.child.cancel_reason == f"from the {fired}"
    assert holder.log == ["in", "out", "goes on", "alive"]


async def test_a_signal_that_has_fired_before_cancels_at_entry() -> None:
    """S10: the body runs up to its first checkpoint."""
    source = CancelSource()
    source.cancel("long ago")
    async with scope(signal=source.signal) as s:
        assert s.cancel_reason == "long ago"
        await anyio.lowlevel.checkpoint()
        pytest.fail("went on after a checkpoint")
    assert s.cancelled


async def test_one_source_cancels_many_scopes() -> None:
    """S10: each listener ends, whatever task it is in."""
    source = CancelSource()
    holders = [Holder() for _ in range(10)]
    async with foreign() as start:
        for holder in holders:
            start(holder.hold, lambda: scope(signal=source.signal))
        for holder in holders:
            await holder.entered.wait()
        source.cancel("all of you")
    assert [holder.log for holder in holders] == [["in", "out", "goes on", "alive"]] * 10


async def test_a_closed_scope_no_longer_listens() -> None:
    """S10: a scope that has closed is not cancelled by its signal afterwards, and is not kept alive by it."""
    source = CancelSource()
    async with scope(signal=source.signal) as s:
        pass
    source.cancel("late")
    assert not s.cancelled


async def test_what_is_no_signal_is_refused() -> None:
    """S10, S12: a scope itself, for instance, has to be written `s.signal`."""
    async with scope() as s:
        with pytest.raises(TypeError, match=r"signal must be a CancelSignal such as s\.signal"):
            scope(signal=s)  # type: ignore[arg-type]


async def test_the_signal_of_a_scope_tells_its_state() -> None:
    """S10: `cancelled` and `reason`, before and after, also when the scope has closed."""
    async with scope() as s:
        signal = s.signal
        assert isinstance(signal, CancelSignal)
        assert (signal.cancelled, signal.reason) == (False, None)
        s.cancel("stop")
        assert (signal.cancelled, signal.reason) == (True, "stop")
    assert (signal.cancelled, signal.reason) == (True, "stop")


async def test_a_signal_that_never_fired_stays_silent() -> None:
    """S10: a normal end is no cancellation."""
    called: list[object] = []
    async with scope() as s:
        signal = s.signal
        signal.on_cancel(called.append)
    assert not signal.cancelled
    assert called == []


async def test_on_cancel_is_called_once_in_order() -> None:
    """S10: callbacks run in order of registration, each once, with the reason."""
    called: list[tuple[str, object]] = []
    async with scope() as s:
        for name in ("a", "b", "c"):
            s.signal.on_cancel(lambda reason, name=name: called.append((name, reason)))
        s.cancel("first")
        s.cancel("second")
    assert called == [("a", "first"), ("b", "first"), ("c", "first")]


async def test_on_cancel_after_the_fact_is_called_at_once() -> None:
    """S10: nobody misses a cancellation by being late."""
    called: list[object] = []
    source = CancelSource()
    source.cancel("over")
    unregister = source.signal.on_cancel(called.append)
    assert called == ["over"]
    unregister()


async def test_unregister() -> None:
    """S10: an unregistered callback is not called, and unregistering twice or after the fact does nothing."""
    called: list[object] = []
    source = CancelSource()
    first = source.signal.on_cancel(lambda reason: called.append("first"))
    second = source.signal.on_cancel(lambda reason: called.append("second"))
    first()
    first()
    source.cancel()
    second()
    assert called == ["second"]


async def test_the_same_callback_twice_is_two_registrations() -> None:
    """S10: unregistering one leaves the other."""
    called: list[object] = []
    source = CancelSource()
    first = source.signal.on_cancel(called.append)
    source.signal.on_cancel(called.append)
    first()
    source.cancel("x")
    assert called == ["x"]


async def test_a_callback_that_unregisters_another() -> None:
    """S10: one that has not been called yet can still be taken back while the others are told."""
    called: list[str] = []
    source = CancelSource()
    source.signal.on_cancel(lambda reason: (called.append("first"), unregister()))
    unregister = source.signal.on_cancel(lambda reason: called.append("second"))
    source.cancel()
    assert called == ["first"]


async def test_a_raising_callback_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """S10: the cancellation reaches everybody, and the log has the traceback."""
    called: list[object] = []

    def broken(reason: object) -> None:
        raise RuntimeError("callback bug")

    async with scope() as s:
        s.signal.on_cancel(broken)
        s.signal.on_cancel(called.append)
        with caplog.at_level(logging.ERROR, logger="anyscope"):
            s.cancel("stop")
    assert called == ["stop"]
    (record,) = caplog.records
    assert record.name == "anyscope"
    assert "broken" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "callback bug"


async def test_wait_gives_the_reason() -> None:
    """S10: `await signal.wait()` ends with the cancellation, for every waiter."""
    source = CancelSource()
    reasons: list[object] = []

    async def wait() -> None:
        reasons.append(await source.signal.wait())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
        await anyio.sleep(0.01)
        assert reasons == []
        source.cancel("now")
    assert reasons == ["now"] * 3
    assert await source.signal.wait() == "now"


async def test_wait_is_a_checkpoint_also_afterwards() -> None:
    """S10: a wait for what has happened can be cancelled, and lets others run."""
    source = CancelSource()
    source.cancel()
    with anyio.CancelScope() as cut:
        cut.cancel()
        await source.signal.wait()
    assert cut.cancelled_caught


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """S10: 1,000 waits given up, and not one callback is left in the source."""
    source = CancelSource()
    gc.collect()
    for round_ in range(2):
        for _ in range(1000):
            with anyio.CancelScope() as cut:
                cut.cancel()
                await source.signal.wait()
        gc.collect()
        if round_ == 0:
            before = len(gc.get_objects())
    assert len(gc.get_objects()) - before < 50
    source.cancel()


async def test_a_wait_in_the_cancelled_scope_itself_is_cut_off() -> None:
    """S10: a task of the scope is cancelled like everything else in it, instead of being told."""
    seen: list[object] = []

    async def watch() -> None:
        try:
            seen.append(await s.signal.wait())
        finally:
            seen.append("ended")

    async with scope() as s:
        task = s.task(watch)
        await anyio.lowlevel.checkpoint()
        s.cancel("stop")
    assert seen[-1] == "ended"
    assert task.done


async def test_a_source_is_cancelled_once() -> None:
    """S10: the first reason wins."""
    source = CancelSource()
    assert (source.signal.cancelled, source.signal.reason) == (False, None)
    source.cancel("first")
    source.cancel("second")
    assert (source.signal.cancelled, source.signal.reason) == (True, "first")


async def test_a_source_refuses_another_thread_and_changes_nothing() -> None:
    """S10, S5: a call from a foreign thread is told with the line to write instead; by way of the loop it works."""
    source = CancelSource(name="stop")
    token = anyio.lowlevel.current_token()
    async with scope(signal=source.signal) as s:

        def in_thread() -> None:
            with pytest.raises(
                ScopeMisuse, match=r"anyio\.from_thread\.run_sync\(source\.cancel, \.\.\., token=token\)"
            ):
                source.cancel("directly")
            assert not source.signal.cancelled
            anyio.from_thread.run_sync(source.cancel, "through the loop", token=token)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(in_thread)
        assert s.cancel_reason == "through the loop"


async def test_the_text_of_signals_and_sources_is_exact() -> None:
    """S10: repr shows whose signal it is, its state and reason."""
    source = CancelSource(name="stop")
    assert repr(source) == "<CancelSource stop waiting>"
    assert repr(source.signal) == "<CancelSignal of stop waiting>"
    source.cancel()
    assert repr(source) == "<CancelSource stop cancelled>"
    assert repr(source.signal) == "<CancelSignal of stop cancelled>"
    other = CancelSource()
    other.cancel(ValueError("bad\nsecond line"))
    assert repr(other) == "<CancelSource source cancelled (ValueError: bad)>"
    async with scope(name="app") as s:
        assert repr(s.signal) == "<CancelSignal of scope app waiting>"
        s.cancel("user left")
        assert repr(s.signal) == "<CancelSignal of scope app cancelled (user left)>"


# ------------------------------------------------------------------ the current scope (S11)


async def test_a_scope_that_nobody_holds_is_current_until_it_has_closed() -> None:
    """S11: also for what runs while it is being left."""
    seen: list[str] = []

    async def late() -> None:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        gc.collect()
        seen.append(current_scope().path)

    async with scope(name="app"):
        current_scope().task(late)
    assert seen == ["app"]


def test_there_is_no_current_scope_outside_of_a_loop() -> None:
    """S11: `NoCurrentScope`, a `LookupError` that says what to do."""
    with pytest.raises(NoCurrentScope, match=r"current_scope\(\): no scope is open in this context") as info:
        current_scope()
    assert isinstance(info.value, LookupError)
    assert info.value.action == "current_scope()"


async def test_the_current_scope_is_the_innermost_open_one() -> None:
    """S11: it changes at entry and at exit, and is the object of `as s`."""
    with pytest.raises(NoCurrentScope):
        current_scope()
    async with scope(name="app") as s:
        assert current_scope() is s
        async with scope(name="child") as child:
            assert current_scope() is child
        assert current_scope() is s
    with pytest.raises(NoCurrentScope):
        current_scope()


@pytest.mark.parametrize("how", ["raised", "cancelled", "timed out"])
async def test_the_former_scope_is_current_again_however_the_block_ended(how: str) -> None:
    """S11: after an error, a cancellation and a time-out too."""
    async with scope(name="app") as s:
        try:
            async with scope(name="child", timeout=0 if how == "timed out" else None) as child:
                if how == "cancelled":
                    child.cancel()
                if how == "raised":
                    raise KeyError
                await anyio.lowlevel.checkpoint()
        except (KeyError, ScopeTimeout):
            pass
        assert current_scope() is s


async def test_a_task_sees_the_scope_that_started_it() -> None:
    """S11: whoever called `s.task`, and from whichever scope's body."""

    async def where() -> Scope:
        await anyio.lowlevel.checkpoint()
        return current_scope()

    async def start_in(other: Scope) -> Scope:
        found = await other.task(where).unwrap()
        assert current_scope() is b
        return found

    async with scope(name="a") as a, scope(name="b") as b:
        assert await a.task(where) == Ok(a)  # called in the body of b
        assert await b.task(where) == Ok(b)
        assert await b.task(start_in, a) == Ok(a)  # called in a task of b


async def test_a_task_sees_the_scope_that_started_it_when_a_stranger_called() -> None:
    """S11: the caller has no current scope itself, before and after."""
    scopes: list[Scope] = []
    opened, called = anyio.Event(), anyio.Event()

    async def where() -> Scope:
        return current_scope()

    async def stranger() -> None:
        await opened.wait()
        assert await scopes[0].task(where) == Ok(scopes[0])
        with pytest.raises(NoCurrentScope):
            current_scope()
        called.set()

    async with foreign() as start:
        start(stranger)
        async with scope() as s:
            scopes.append(s)
            opened.set()
            await called.wait()


async def test_every_kind_of_work_sees_its_scope() -> None:
    """S11: `run`, `start_soon`, `start`, daemons and clean-ups as well as tasks."""
    seen: dict[str, Scope] = {}

    async def look(kind: str) -> None:
        seen[kind] = current_scope()

    async def ready(*, task_status: anyio.abc.TaskStatus[Scope]) -> None:
        task_status.started(current_scope())
        seen["start"] = current_scope()

    async with scope(name="outer") as outer, scope(name="inner") as inner:
        await outer.run(look, "run")
        assert current_scope() is inner
        outer.start_soon(look, "start_soon")
        daemon = anyio.Event()

        async def look_and_tell() -> None:
            await look("daemon")
            daemon.set()

        outer.start_soon(look_and_tell, daemon=True)
        assert await outer.start(ready) is outer
        await daemon.wait()
        assert current_scope() is inner
    assert seen == dict.fromkeys(["run", "start_soon", "start", "daemon"], outer)


async def test_a_clean_up_runs_while_its_scope_closes() -> None:
    """S11: the closing scope is open no more, so the one above it is current, or none."""
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(current_scope())
        except NoCurrentScope:
            seen.append(None)

    async with scope(name="app") as s:
        async with scope(name="child") as child:
            child.on_exit(look)
        s.on_exit(look)
    assert seen == [s, None]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_each_task_has_its_own_copy_of_the_context() -> None:
    """S11: what was set before is seen, what a task sets is not seen outside, nor by its siblings."""

    async def change(to: str) -> tuple[str, str]:
        before = variable.get()
        variable.set(to)
        await anyio.sleep(0.005)
        return before, variable.get()

    variable.set("caller")
    async with scope() as s:
        first, second = s.task(change, "first"), s.task(change, "second")
        variable.set("changed later")
        third = s.task(change, "third")
        assert await first == Ok(("caller", "first"))
        assert await second == Ok(("caller", "second"))
        assert await third == Ok(("changed later", "third"))
        assert variable.get() == "changed later"


async def test_a_queued_task_has_the_context_of_its_caller_at_the_call() -> None:
    """S11, T8: a task that waits for a slot starts with what was set when it was called, not later."""

    async def read() -> str:
        return variable.get()

    async with scope(concurrency=1) as s:
        s.task(anyio.sleep, 0.005)
        variable.set("at the call")
        queued = s.task(read)
        variable.set("later")
        assert await queued == Ok("at the call")


async def test_run_keeps_the_context_of_the_caller() -> None:
    """S11, T2: `run` is the calling task, so what it sets stays."""

    async def change() -> None:
        variable.set("set by run")

    variable.set("before")
    async with scope() as s:
        await s.run(change)
        assert variable.get() == "set by run"
        assert current_scope() is s


# ------------------------------------------------------------------ context copies out of date (S9, S11)


@pytest.mark.asyncio_only
async def test_a_task_of_asyncio_that_outlives_the_scope_has_no_current_scope() -> None:
    """S11, S9: the copied context still points at the closed scope; that is not an open one, nor a parent."""
    go = anyio.Event()

    async def outlive() -> tuple[str, bool]:
        before = current_scope().name
        await go.wait()
        with pytest.raises(NoCurrentScope):
            current_scope()
        async with scope(name="new") as new:
            return f"{before} {new.path}", new.parent is None

    async with scope(name="app"):
        task = asyncio.create_task(outlive())
        await anyio.lowlevel.checkpoint()
    go.set()
    assert await task == ("app new", True)


@pytest.mark.asyncio_only
async def test_a_task_of_asyncio_falls_back_to_the_next_open_scope() -> None:
    """S11: the innermost *open* scope of the copied context."""
    go = anyio.Event()

    async def outlive() -> str:
        await go.wait()
        return current_scope().name

    async with scope(name="app"):
        async with scope(name="child"):
            task = asyncio.create_task(outlive())
        go.set()
        assert await task == "app"


@pytest.mark.asyncio_only
async def test_a_scope_in_a_task_of_asyncio_is_a_child_that_hears_of_cancellation() -> None:
    """S9: the ambient parent of a foreign task is not above it in the backend, and reaches it all the same."""
    holder = Holder()
    async with scope(name="app") as s:
        task = asyncio.create_task(holder.hold(lambda: scope(name="child")))
        await holder.entered.wait()
        assert holder.child is not None
        assert holder.child.parent is s
        s.cancel("user left")
    await task
    assert holder.log == ["in", "out", "goes on", "alive"]
    assert holder.child.cancel_reason == "user left"


@pytest.mark.asyncio_only
async def test_a_scope_in_a_task_of_asyncio_is_waited_for() -> None:
    """S9: the parent closes nothing that an ambient child in a foreign task may use."""
    holder = Holder()
    async with scope(name="app") as s:
        s.on_exit(holder.log.append, "clean-up of app")
        task = asyncio.create_task(holder.hold(lambda: scope(name="child"), 0.01))
        await holder.entered.wait()
    await task
    assert holder.log.index("out") < holder.log.index("clean-up of app")


async def test_a_copied_context_points_at_a_closed_scope() -> None:
    """S11: entered by hand with `Context.run`, after the end."""
    async with scope():
        context = contextvars.copy_context()
        assert context.run(current_scope) is current_scope()
    with pytest.raises(NoCurrentScope):
        context.run(current_scope)


async def test_a_task_group_opened_outside_has_no_current_scope() -> None:
    """S11: a task whose starter had no scope has none."""
    seen: list[object] = []

    async def look(send: anyio.Event) -> None:
        await send.wait()
        with pytest.raises(NoCurrentScope):
            current_scope()
        seen.append("none")

    event = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(look, event)
        async with scope():
            event.set()
            await anyio.sleep(0.005)
    assert seen == ["none"]


async def test_a_task_group_opened_outside_but_used_inside_sees_the_scope_only_while_it_is_open() -> None:
    """S11, H7 of the substrate: the child of the outer group copies the context of the block."""
    seen: list[str] = []
    closed = anyio.Event()

    async def look() -> None:
        seen.append(current_scope().name)
        await closed.wait()
        async with scope(name="new") as new:
            seen.append(new.path)

    async with anyio.create_task_group() as group:
        async with scope(name="app"):
            group.start_soon(look)
            await anyio.sleep(0.005)
        closed.set()
    assert seen == ["app", "new"]


async def test_a_worker_thread_has_no_current_scope() -> None:
    """S11: a thread may not use the scope of the loop that it was started from."""
    async with scope():
        with anyio.CancelScope(shield=True), pytest.raises(NoCurrentScope):
            await anyio.to_thread.run_sync(current_scope)


@pytest.mark.parametrize("inner", ["asyncio", "trio"])
async def test_an_event_loop_in_a_worker_thread_does_not_inherit(inner: str) -> None:
    """S9, S11: the copied context points at a scope of another loop; scopes there are roots."""

    async def in_the_other_loop() -> str:
        with pytest.raises(NoCurrentScope):
            current_scope()
        async with scope(name="other") as other:
            assert other.parent is None
            assert await other.task(anyio.sleep, 0) == Ok(None)
            assert current_scope() is other
        return other.path

    async with scope(name="app") as s:
        run = anyio.to_thread.run_sync(lambda: anyio.run(in_the_other_loop, backend=inner))
        assert await run == "other"
        assert current_scope() is s
        assert s.statistics().children == 0


async def test_a_parent_of_another_loop_is_refused() -> None:
    """S9, S12: an explicit parent has to live in the same event loop."""

    async def in_the_other_loop() -> None:
        with pytest.raises(ScopeMisuse, match="in another event loop"):
            async with scope(name="child", parent=s):
                pytest.fail("entered")

    async with scope(name="app") as s:
        await anyio.to_thread.run_sync(lambda: anyio.run(in_the_other_loop, backend="asyncio"))
        assert s.statistics().children == 0


async def test_a_plain_thread_does_not_see_the_scope() -> None:
    """S11: `threading.Thread` starts with an empty context."""
    seen: list[type[BaseException]] = []

    def look() -> None:
        try:
            current_scope()
        except NoCurrentScope as error:
            seen.append(type(error))

    async with scope():
        thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
        thread.start()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(thread.join)
    assert seen == [NoCurrentScope]


# ------------------------------------------------------------------------------------ cancelled while it is left
@pytest.mark.parametrize("kind", ["child", "run"])
@pytest.mark.virtual_time
async def test_a_cancellation_from_outside_reaches_foreign_work_while_the_scope_is_left(kind: str) -> None:
    """S5, S9: found by a state machine. Its own tasks are cut by the group; who hangs on it elsewhere was not told."""
    left: list[float] = []

    async def foreign(s: Scope) -> None:
        if kind == "run":
            assert isinstance(await s.run(anyio.sleep, 100), Err)
        else:
            async with scope(name="child", parent=s):
                await anyio.sleep(100)
        left.append(anyio.current_time())

    async with anyio.create_task_group() as tg:
        began = anyio.current_time()
        with anyio.move_on_after(5) as outside:
            async with scope(name="app") as s:
                tg.start_soon(foreign, s)
                await anyio.sleep(1)
        assert outside.cancelled_caught
        assert s.cancel_reason == "cancelled from outside"
        assert [time - began for time in left] == [pytest.approx(5)]
