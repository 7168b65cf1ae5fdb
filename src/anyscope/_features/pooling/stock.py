"""The stock of a pool: who has what, who waits, what is to be made. Every decision is here, and none of it awaits.

Invariants, at every moment in which a task can run
    * Each item is in exactly one state, and all that are not gone are in `items`: at most `max` (but for those that a
      lowered `max` has not got rid of yet).
    * A resource has at most one holder.
    * While something is idle, each waiter has a check of its own under way, and nothing that is idle is fit to be lent
      unchecked: nobody waits without a cause.
    * Waiters are served in order of arrival, hand to hand: what is given back goes to the first of them, and is never
      up for grabs. An idle resource is lent last in, first out, so that what is not needed gets old.
    * What frees a place, be it a failed creation, a destruction or a raised `max`, runs the same `grow` as a
      new waiter.

A waiter is a slot (law 1). Whoever leaves it gives back what was delivered, or leaves the queue. Creations, checks and
resets belong to nobody: what comes of them serves the first waiter, whoever that is by then.

Over 400 lines, a quarter of them prose: the invariants can be checked by reading one module, since nothing outside it
changes what they are about.

Rejected
    * A semaphore and a list: wake, then grab. A newcomer gets in between; measured, the slowest of a hundred tasks got
      nothing while the fastest did all its work.
    * Checking in the task of the one who asked: a cancelled check leaves a resource in an unknown state, and one that
      hangs uses up the asker's time although others are given back meanwhile.
    * Growing slowly, by doubling: it saves creations when uses are short, and costs several times the delay when they
      are not. A creation that nobody waits for any more by the time its task begins is not made.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..._lifetime.backend import running_clock, running_task_teller, signals
from ..._lifetime.start import start_apart
from ..._vocabulary.errors import PoolClosed, PoolFull
from .attempts import Attempts
from .item import Item
from .numbers import Leaks, timeout_of
from .shelf import Shelf
from .tally import Failures, Tally
from .waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    import anyio

    from ..._lifetime.owner import Owner
    from ..._vocabulary.pools import PoolSettings
    from .item import Order

T = TypeVar("T")

logger = logging.getLogger("anyscope")

JITTER = 0.1
"""Part of `max_lifetime` by which resources differ, so that what was made together does not end together."""
STATES = ("creating", "idle", "in use", "checking", "resetting", "destroying", "gone")


class Stock(Generic[T]):
    """All state of a pool.

    Args:
        owner: The owner whose tasks it runs in.
        label: What messages call it, such as `db of app`.
        settings: The options.
        sizes: How many are kept, and how many there may be.
        wake: Called with a time at which something is to be done; see `Keeper`.

    Attributes:
        items: All that are not gone, in order of creation.
        shelf: The idle ones.
        waiters: Who waits, in order of arrival. A plain dict searches for its first entry among those deleted before.
        states: How many items are in each state.
        has_own_limits: Whether somebody waits, or did lately, with another limit than that of the pool.
        is_closed: Whether closing has begun.
        changed: Set, and made anew, whenever an item is gone or given back; made by who waits for that.
        attempts: When to try again after creations that failed.
        tally: What has happened so often.
        create_error: That of `create`, until it works again.
        failures: Errors to be raised when the pool has closed.
        patience: Bound of one destruction, of one reset, in seconds. Lowered by `abandon`.
        thread: The thread that it lives in.
        leaks: Tells of what is lent for too long.
    """

    attempts: Attempts
    has_own_limits: bool
    is_closed: bool
    leaks: Leaks
    max: int
    min: int
    now: Callable[[], float]
    failures: Failures
    patience: float
    tally: Tally
    thread: int

    def __init__(
        self, owner: Owner, label: str, settings: PoolSettings, sizes: tuple[int, int], wake: Callable[[float], None]
    ) -> None:
        self.owner = owner
        self.label = label
        self.settings = settings
        self.min, self.max = sizes
        self.items: dict[Item[T], None] = {}
        self.shelf: Shelf[T] = Shelf(settings)
        self.waiters: OrderedDict[Waiter[T], None] = OrderedDict()
        self.states: dict[str, int] = dict.fromkeys(STATES, 0)
        self.has_own_limits = False
        self.is_closed = False
        self.changed: anyio.Event | None = None
        longest = min(settings.backoff[1], max(settings.backoff[0], settings.acquire_timeout / 2))
        self.attempts = Attempts(settings.backoff[0], longest)  # each who waits sees a real attempt
        self.tally = Tally(settings.name, owner)
        self.create_error: Exception | None = None
        self.failures = Failures(label, owner)
        self.patience = settings.close_timeout
        self.thread = threading.get_ident()
        self.now = running_clock()
        self._running_task = running_task_teller()
        self._signal, self._ring = signals()
        self._wake = wake
        self.leaks = Leaks(label, settings.leak_after)
        self._random = random.Random()  # noqa: S311  for jitter

    # ------------------------------------------------------------------ lending

    def take(self, site: tuple[Any, int], now: float) -> Item[T] | None:
        """Lend an idle resource that is fit; `None` if there is none, and a check of one has been begun if there is."""
        if self.waiters:
            return None  # they came first
        holder = self._running_task()
        item = self._pop_idle(now)
        if item is None:
            return None
        if self.shelf.must_be_checked(item, now):
            self._begin_check(item)
            return None
        self._lend(item, holder, site, now, now)
        return item

    def _pop_idle(self, now: float) -> Item[T] | None:
        """The idle resource to lend next; those that are too old are retired on the way."""
        while (item := self.shelf.pop(now)) is not None:
            if item.expires_at > now:
                return item
            self._retire(item, "lifetime")
        return None

    def _begin_check(self, item: Item[T]) -> None:
        self._set(item, "checking")
        item.obey("check")

    def _lend(self, item: Item[T], holder: object, site: tuple[Any, int], since: float, now: float) -> None:
        if item.state != "in use":  # else it goes from hand to hand
            self._set(item, "in use")
        item.holder, item.site, item.lent_at = holder, site, now
        item.uses += 1
        self.tally.counts["acquired"] += 1
        if self.tally.is_heard:
            self.tally.tell("acquired", now - since)
        if self.settings.leak_after < math.inf:
            self._wake(now + self.settings.leak_after)

    def enqueue(self, site: tuple[Any, int], limit: float, now: float) -> Waiter[T]:
        """Wait in line.

        Raises:
            PoolTimeout: There is no time to wait.
            PoolFull: Too many wait.
        """
        waiter: Waiter[T] = Waiter(now, limit, site, self._running_task(), self._signal())
        if limit == 0:
            self.tally.count("timeouts", "timeout")
            raise timeout_of(self, limit, waiter.holder)
        if self.settings.max_waiting is not None:
            self._refuse_if_full(self.settings.max_waiting)
        if limit != self.settings.acquire_timeout:
            self.has_own_limits = True
        self.waiters[waiter] = None
        self.tally.counts["waited"] += 1
        if self.states["idle"] or len(self.items) < self.max:
            self._serve()
        self._wake(waiter.deadline)
        return waiter

    def _refuse_if_full(self, most: int) -> None:
        """Whoever will get what nobody uses does not count among those who wait for others."""
        if len(self.waiters) >= most + max(self.max - self.states["in use"], 0):
            self.tally.count("rejected", "rejected")
            raise PoolFull(pool=self.label, max_waiting=most)

    def withdraw(self, waiter: Waiter[T]) -> None:
        """The one who waited was cut off: give back what was delivered, or leave the line."""
        self.tally.count("cancelled", "cancelled", self.now() - waiter.since)
        if waiter.item is not None:
            self.give_back_unused(waiter.item, waiter.use)
        else:
            self.waiters.pop(waiter, None)

    # ------------------------------------------------------------------ giving back

    def give_back_unused(self, item: Item[T], use: int) -> None:
        """Who was to have it was cut off; it may have been taken away in that very turn."""
        if item.is_lent(use):
            self.give_back(item)

    def give_back(self, item: Item[T], *, used: bool = False) -> None:
        """A holder is done with it."""
        self._end_use(item)
        if used and self.settings.reset is not None and not self.is_closed:
            self._set(item, "resetting")
            item.obey("reset")
            return
        self._offer(item)

    def discard(self, item: Item[T], reason: str) -> None:
        """A holder says that it is broken, or it is not known what state it is in."""
        self._end_use(item)
        self._retire(item, reason)

    def _end_use(self, item: Item[T]) -> None:
        if item.is_leak_told:
            self.leaks.end(item)
        item.holder = None
        if self.tally.is_heard:
            self.tally.tell("released", self.now() - item.lent_at)

    def _offer(self, item: Item[T]) -> None:
        """It is fit: hand it to the first who waits, or keep it."""
        now = self.now()
        reason = self._reason_to_retire(item, now)
        if reason is not None:
            self._retire(item, reason)
            return
        item.idle_since = now
        if item.is_suspect and self.settings.check is not None and self.waiters:
            self._begin_check(item)
            return
        if not self.waiters:
            self._set(item, "idle")
            self._wake(self.shelf.push(item, now))
            self._tell_change()
            return
        waiter, _ = self.waiters.popitem(last=False)
        self._lend(item, waiter.holder, waiter.site, waiter.since, now)
        waiter.item, waiter.use = item, item.uses
        self._ring(waiter.ready)

    def _reason_to_retire(self, item: Item[T], now: float) -> str | None:
        if self.is_closed:
            return "closed"
        if item.is_obsolete:
            return "refresh"
        if item.expires_at <= now:
            return "lifetime"
        if len(self.items) > self.max and len(self.items) - self.states["destroying"] > self.max:
            return "resize"
        return None

    def _retire(self, item: Item[T], reason: str) -> None:
        self._set(item, "destroying")
        item.obey("destroy")
        self.tally.discard(reason)
        self._tell_change()
        self.grow()

    # ------------------------------------------------------------------ what the items tell

    def has_created(self, item: Item[T]) -> None:
        """It is ready for use."""
        now = self.now()
        self._set(item, "resetting")  # neither idle nor lent, as hooks may look at the numbers
        self.tally.count("created", "created", now - item.begun_at)
        lifetime = self.settings.max_lifetime
        item.expires_at = now + lifetime * (1 - JITTER * self._random.random()) if lifetime < math.inf else math.inf
        if failures := self.attempts.succeeded():
            logger.info("pool %s: create works again, after %d failures", self.label, failures)
        self.create_error = None
        self._offer(item)
        self._tell_change()
        self.grow()

    def has_refreshed(self, item: Item[T], order: Order, error: Exception | None) -> None:
        """It was checked or reset."""
        if error is not None:
            self.tally.last_error = error
            self._retire(item, order)
            if not self.is_closed:
                self._serve()
            return
        if order == "check":
            item.is_suspect = False
        self._offer(item)

    def _serve(self) -> None:
        """Check for whoever waits what is idle (what needs no check has been lent); make new ones for the rest."""
        now = self.now()
        while len(self.waiters) > self.states["checking"] and (item := self._pop_idle(now)) is not None:
            self._begin_check(item)
        self.grow()

    def has_ended(self, item: Item[T], error: Exception | None) -> None:
        """Its task is over: it could not be created, or it has been destroyed."""
        if item.state == "creating":
            self._could_not_create(item, error or RuntimeError("create gave nothing"))
            self.forget(item)
            return
        self.forget(item)
        self.tally.count("destroyed", "destroyed", error=error)
        if error is not None:
            self.tally.counts["destroy_errors"] += 1
            self.failures.add(error)

    def _could_not_create(self, item: Item[T], error: Exception) -> None:
        self.tally.count("create_errors", "create_failed", error=error)
        self.create_error = error
        if self.attempts.failed(item.begun_at, self.now()) == 1:
            logger.warning("pool %s: create failed: %r", self.label, error)

    def forget(self, item: Item[T]) -> None:
        """There is no such resource: its place is free."""
        self._set(item, "gone")
        del self.items[item]
        self._tell_change()
        self.grow()

    # ------------------------------------------------------------------ growing

    def grow(self) -> None:
        """Begin as many creations as are wanted and allowed."""
        while self._wants_more():
            if self.attempts.failures:
                if self.states["creating"]:
                    return  # one attempt at a time
                if self.now() < self.attempts.next_at:
                    self._wake(self.attempts.next_at)
                    return
            item: Item[T] = Item(self, self.tally.counts["begun"], self.now())
            self.tally.counts["begun"] += 1
            self.items[item] = None
            self.states["creating"] += 1
            start_apart(self.owner, item.live, item.task_name)

    def _wants_more(self) -> bool:
        if self.is_closed or len(self.items) >= self.max:
            return False
        alive = len(self.items) - self.states["destroying"]
        coming = self.states["creating"] + self.states["checking"]
        return alive < self.min or len(self.waiters) > coming

    def is_warm(self) -> bool:
        """Whether `min` resources exist."""
        return len(self.items) - self.states["creating"] - self.states["destroying"] >= self.min

    def is_wanted(self) -> bool:
        """Whether a creation whose task begins only now is still of use."""
        if self.is_closed:
            return False
        alive = len(self.items) - self.states["destroying"]
        return alive <= self.min or len(self.waiters) > self.states["creating"] - 1 + self.states["checking"]

    # ------------------------------------------------------------------ the clock

    def tick(self, now: float) -> float:
        """Do what is due, and give the time at which something will be."""
        next_to_refuse = self._refuse_due(now)
        self._shrink(now)
        self.grow()
        return min(next_to_refuse, self._next_to_shrink(), self.leaks.tell(self.items, now))

    def _refuse_due(self, now: float) -> float:
        """Refuse who has waited in vain; gives when the next one will have.

        Those who came first are due first, unless somebody gave a limit of his own: then all are looked at. To do that
        always takes seconds when a server is down and thousands wait.
        """
        due: list[Waiter[T]] = []
        next_at = math.inf
        for waiter in self.waiters:
            if waiter.deadline <= now:
                due.append(waiter)
                continue
            next_at = min(next_at, waiter.deadline)
            if not self.has_own_limits:
                break
        for waiter in due:
            self.refuse(waiter)
        self.has_own_limits = self.has_own_limits and bool(self.waiters)
        return next_at

    def refuse(self, waiter: Waiter[T]) -> None:
        """It has waited in vain."""
        self.waiters.pop(waiter, None)
        self.tally.count("timeouts", "timeout", self.now() - waiter.since)
        waiter.error = timeout_of(self, waiter.limit, waiter.holder)
        self._ring(waiter.ready)

    def _shrink(self, now: float) -> None:
        """Retire what is too old, and what nobody has needed for long; the least recently used first."""
        for item in self.shelf.pop_expired(now):
            self._retire(item, "lifetime")
        while self._excess() > 0 and self.shelf.unneeded_at() <= now:
            self._retire(self.shelf.pop_oldest(), "idle")

    def _excess(self) -> int:
        return len(self.items) - self.states["destroying"] - self.min

    def _next_to_shrink(self) -> float:
        return min(self.shelf.expires_at(), self.shelf.unneeded_at() if self._excess() > 0 else math.inf)

    # ------------------------------------------------------------------ sizes, freshness, the end

    def resize(self, least: int, most: int) -> None:
        """Keep and allow other numbers from now on."""
        self.min, self.max = least, most
        while self.shelf and len(self.items) - self.states["destroying"] > most:
            self._retire(self.shelf.pop_oldest(), "resize")
        self._tell_change()
        self.grow()

    def refresh(self) -> None:
        """Replace everything: what is idle now, the rest as soon as it is given back."""
        for item in self.items:
            item.is_obsolete = True
        for item in self.shelf.clear():
            self._retire(item, "refresh")
        self.grow()

    def begin_to_close(self, deadline: float) -> None:
        """Nobody gets anything any more; what is not in use is destroyed."""
        if self.is_closed:
            return
        self.is_closed = True
        waiters, self.waiters = self.waiters, OrderedDict()
        for waiter in waiters:
            waiter.error = PoolClosed(pool=self.label, action="acquire()")
            self._ring(waiter.ready)
        for item in self.shelf.clear():
            self._retire(item, "closed")
        for item in self.items:
            if item.state in ("creating", "checking", "resetting"):
                item.hurry(deadline)
        self._tell_change()

    def abandon(self) -> None:
        """Closing takes too long: cut off what is under way, and give the rest no more time than that took."""
        bound = self.owner.close_timeout
        self.patience = min(self.patience, math.inf if bound is None else bound)
        now = self.now()
        for item in self.items:
            item.cut_off(now)

    def give_up_unborn(self) -> None:
        """Forget creations whose task never began, because the backend dropped it."""
        for item in [item for item in self.items if not item.has_begun]:
            self.has_ended(item, RuntimeError("cancelled natively before it began"))

    def holders(self) -> list[Item[T]]:
        """What is lent."""
        return [item for item in self.items if item.state == "in use"]

    # ------------------------------------------------------------------ small things

    def _set(self, item: Item[T], state: Any) -> None:
        self.states[item.state] -= 1
        self.states[state] += 1
        item.state = state

    def _tell_change(self) -> None:
        if self.changed is not None:
            self.changed.set()
