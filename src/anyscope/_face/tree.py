"""Looking at a scope: one line, a frozen record of counts, and the tree of what it owns.

Names, states and counts are shown, values never (law 8): they may hold secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._features.polling.pilot import Pilot, is_pilot
from .._features.pooling.pool import is_pool
from .._features.streaming.closing import Held
from .._features.streaming.handoff import Handoff
from .._features.task import Task
from .._lifetime.opening import Opening
from .._lifetime.owner import Owner
from .._lifetime.works import Wait
from .._vocabulary.errors import because

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._features.service import Service
    from .._features.tasks import Tasks
    from .._lifetime.cleanup import CleanUp


@dataclass(frozen=True, slots=True)
class ScopeStatistics:
    """Counts of one scope at one moment.

    Attributes:
        running: Tasks and calls that have begun and not ended, daemons included, but neither polls nor streams.
        queued: Tasks that wait for a slot.
        succeeded: Tasks that ended with a value.
        failed: Tasks that ended with an error.
        cancelled: Tasks that were cancelled.
        unobserved: Failed tasks whose error nobody has looked at.
        children: Child scopes that are open.
        services: Services of this scope that have been made and not closed.
        clean_ups: Clean-ups that have not run yet, the closing of services included.
        hook_failures: How often hooks have raised, those of the parents included.
    """

    running: int
    queued: int
    succeeded: int
    failed: int
    cancelled: int
    unobserved: int
    children: int
    services: int
    clean_ups: int
    hook_failures: int


def statistics_of(owner: Owner, tasks: Tasks | None) -> ScopeStatistics:
    """Count now."""
    queued = len(tasks.slots.queued) if tasks is not None and tasks.slots is not None else 0
    children = sum(1 for _ in owner.children)
    others = (Owner, Opening, Pilot, Wait, Held, Handoff)
    not_running = queued + sum(isinstance(work, others) for work in owner.works)
    return ScopeStatistics(
        running=len(owner.works.live) + len(owner.works.daemons) - not_running,
        queued=queued,
        succeeded=tasks.succeeded if tasks else 0,
        failed=tasks.failed if tasks else 0,
        cancelled=tasks.cancelled if tasks else 0,
        unobserved=tasks.unobserved if tasks else 0,
        children=children,
        services=sum(1 for service in owner.services or () if service.state == "ready"),
        clean_ups=len(owner.clean_ups),
        hook_failures=owner.hooks.failures if owner.hooks else 0,
    )


def summary(owner: Owner, tasks: Tasks | None) -> str:
    """One line: state, path and counts."""
    words = [f"<Scope {owner.path} {owner.phase}{_cancellation(owner)}"]
    if owner.phase not in ("new", "closed"):
        counts = statistics_of(owner, tasks)
        words.append(f"{counts.running} running")
        words += [
            f"{number} {what}" for what, number in (("queued", counts.queued), ("children", counts.children)) if number
        ]
    return ", ".join(words) + ">"


def draw(owner: Owner) -> str:
    """The tree, a line for each thing, children indented below their owner."""
    return "\n".join(_lines(owner))


def _lines(owner: Owner) -> Iterator[str]:
    # A stack instead of recursion: scopes may be nested deeper than Python's own stack.
    stack: list[tuple[int, Any]] = [(0, owner)]
    while stack:
        depth, current = stack.pop()
        indent = "  " * depth
        yield f"{indent}scope {current.name} {current.phase}{_cancellation(current)}"
        for work in current.works:
            if isinstance(work, Task):
                kind = "" if work.kind == "task" else f" ({work.kind})"
                yield f"{indent}  task {work.label} {work.status}{kind}"
            elif isinstance(work, Opening):
                yield from (f"{indent}  entering {work.label}" for _ in range(work.kind == "entered"))
            elif is_pilot(work):
                yield f"{indent}  {work.label} {work.course.status()}"
            elif isinstance(work, Held):
                yield f"{indent}  stream {work.label} {work.state}"
            elif not isinstance(work, (Owner, Wait, Handoff)):
                yield f"{indent}  call {work.label}"
        yield from (f"{indent}  {line}" for line in (*_services(current), *_to_close(current)))
        stack.extend((depth + 1, child) for child in reversed(list(current.children)))


def _services(owner: Owner) -> Iterator[str]:
    service: Service
    for service in owner.services or ():
        waiting = f", {service.waiters} waiting" if service.waiters else ""
        yield f"service {service.label} {service.state}{waiting}"


def _to_close(owner: Owner) -> Iterator[str]:
    """What is being closed, and then what will be, in this order; services have a line of their own."""
    if owner.closing is not None and owner.closing.kind != "service":
        yield f"{_kind_of(owner.closing)}{owner.closing} closing"
    for step in reversed(owner.clean_ups):
        if is_pool(step.subject):
            yield f"pool {step}: {step.subject.stats}"
        elif step.kind != "service":
            yield f"{_kind_of(step)}{step}"


def _kind_of(step: CleanUp) -> str:
    """What kind of thing it closes, where that does not say so itself."""
    return "" if step.kind == "stream" else f"{step.kind} "


def _cancellation(owner: Owner) -> str:
    return f", cancelled{because(owner.cancel_reason)}" if owner.cancelled else ""
