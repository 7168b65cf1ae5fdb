"""Every error that anyscope itself raises.

The tree, held to the classes by a test:

    AnyscopeError
      ScopeMisuse (RuntimeError)
      ScopeClosed
      ScopeCancelled
      ScopeTimeout (TimeoutError)
      CloseTimeout (TimeoutError)
      NoCurrentScope (LookupError)
      TaskCancelled
      TaskTimeout (TimeoutError)
      TaskNotDone
      ServiceNotFound (LookupError)
      ServiceNotReady
      ServiceExists
      ServiceCycle
      PoolTimeout (TimeoutError)
      PoolFull
      PoolClosed
      PoolMisuse (RuntimeError)
      PollFailed
      PollStopped
      StreamClosed
      StreamTimeout (TimeoutError)

Each carries typed attributes and builds its text from them, so that a program never has to parse a
message. Wrong types and wrong values of options are Python's own `TypeError` and `ValueError`.

Over 400 lines, most of them prose: the tree is one thing, and is read as one.
"""

from __future__ import annotations

from typing import Any, NoReturn

_LONGEST = 200  # characters of a reason that are shown
_MOST = 20  # keys of one scope that are shown


def _revive(cls: type[AnyscopeError], args: tuple[Any, ...], state: dict[str, Any]) -> AnyscopeError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AnyscopeError(Exception):
    """The root of the tree: catch it to catch whatever anyscope itself raises.

    Errors pickle and copy with their attributes and notes (not with their traceback, which Python
    cannot pickle).
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which fails for keyword-only constructors.
        return _revive, (type(self), self.args, self.__dict__.copy())


class ScopeMisuse(AnyscopeError, RuntimeError):
    """A scope was used at the wrong moment, in the wrong task or from the wrong thread.

    Attributes:
        path: The path of the scope, such as `app > ingest`.
        problem: What happened, in one sentence.
        remedy: What to write instead.
    """

    def __init__(self, *, path: str, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"scope {path}: {problem}\n{remedy}")


class ScopeClosed(AnyscopeError):
    """A scope was used after it had closed.

    Attributes:
        path: The path of the scope.
        action: What was asked of it, such as `task(fetch)`.
        remedy: What to do instead.
    """

    def __init__(
        self,
        *,
        path: str,
        action: str,
        remedy: str = "Start the work inside the `async with` block, or open a new scope for it.",
    ) -> None:
        self.path = path
        self.action = action
        self.remedy = remedy
        super().__init__(f"scope {path} is closed: {action} came too late\n{remedy}")


class ScopeCancelled(AnyscopeError):
    """Work was cut off because the scope it belongs to was cancelled.

    Raised where the caller itself is not being cancelled, such as in a task that merely called
    `parallel` on somebody else's scope.

    Attributes:
        path: The path of the scope.
        action: What was cut off.
        reason: The reason that the scope was cancelled with.
    """

    def __init__(self, *, path: str, action: str, reason: object = None) -> None:
        self.path = path
        self.action = action
        self.reason = reason
        super().__init__(f"scope {path} was cancelled{because(reason)}: {action} was cut off")


class ScopeTimeout(AnyscopeError, TimeoutError):
    """The deadline of a scope cut its body or a task off.

    Attributes:
        path: The path of the scope.
        limit: The `timeout` of the scope in seconds.
        running: What was still running when the deadline passed.
    """

    def __init__(self, *, path: str, limit: float, running: tuple[str, ...] = ()) -> None:
        self.path = path
        self.limit = limit
        self.running = running
        super().__init__(f"scope {path} ran over its timeout of {limit:g} s{_still_running(running)}")


class CloseTimeout(AnyscopeError, TimeoutError):
    """A clean-up step took longer than `close_timeout` and was abandoned.

    Attributes:
        path: The path of the scope.
        step: The name of the clean-up.
        limit: The `close_timeout` of the scope in seconds.
    """

    def __init__(self, *, path: str, step: str, limit: float) -> None:
        self.path = path
        self.step = step
        self.limit = limit
        super().__init__(
            f"scope {path}: clean-up {step} took longer than {limit:g} s and was abandoned\n"
            "Make it faster, or give the scope a longer close_timeout (None = no bound)."
        )


class NoCurrentScope(AnyscopeError, LookupError):
    """`current_scope()` was called where no scope is open.

    Attributes:
        action: What needed the current scope.
    """

    def __init__(self, *, action: str) -> None:
        self.action = action
        super().__init__(
            f"{action}: no scope is open in this context\n"
            "Call it inside `async with scope() as s:` or in a task that a scope started. A thread or a "
            "callback started elsewhere has no current scope: hand the scope over as an argument."
        )


class TaskCancelled(AnyscopeError):
    """A report about a task that was cancelled; the error inside its `Err`.

    It is an `Exception` on purpose: the backend's own cancellation belongs to one cancel scope and is
    never handed out as a value.

    Attributes:
        task: The label of the task, such as `fetch (#3) of app`.
        reason: The reason given to `cancel()`, or why its scope was cancelled.
    """

    def __init__(self, *, task: str, reason: object = None) -> None:
        self.task = task
        self.reason = reason
        super().__init__(f"task {task} was cancelled{because(reason)}")


class TaskTimeout(AnyscopeError, TimeoutError):
    """A task ran over its own `timeout`, or a job over the time that `parallel` had.

    Attributes:
        task: The label of the task.
        limit: The limit in seconds.
    """

    def __init__(self, *, task: str, limit: float) -> None:
        self.task = task
        self.limit = limit
        super().__init__(f"task {task} ran over its timeout of {limit:g} s")


class TaskNotDone(AnyscopeError):
    """`task.result()` was asked before the task had finished.

    Attributes:
        task: The label of the task.
    """

    def __init__(self, *, task: str) -> None:
        self.task = task
        super().__init__(f"task {task} has not finished yet\nWrite `await task` to wait for its result.")


class ServiceNotFound(AnyscopeError, LookupError):
    """No scope of the chain provides the service.

    Attributes:
        key: The key that was asked for, as text.
        path: The path of the scope that was asked.
        needed_by: The service whose factory asked, such as `service Repo of app`; empty where other code did.
        searched: The scopes that were searched, innermost first: pairs of the path and what is provided there.
        hints: What may have been meant, a sentence each.
    """

    def __init__(
        self,
        *,
        key: str,
        path: str,
        needed_by: str = "",
        searched: tuple[tuple[str, tuple[str, ...]], ...] = (),
        hints: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self.path = path
        self.needed_by = needed_by
        self.searched = searched
        self.hints = hints
        needed = f", needed by {needed_by}" if needed_by else ""
        lines = [
            f"no service {key} in {path}{needed}",
            *(f"  {where} provides {_listed(keys)}" for where, keys in searched),
            *hints,
            f"Provide it in the scope that is to own it: s.provide({key}, factory)",
        ]
        super().__init__("\n".join(lines))


class ServiceNotReady(AnyscopeError):
    """`use_nowait()` was asked for a service that has not been created yet.

    Attributes:
        key: The key, as text.
        path: The path of the scope that provides it.
        state: `declared` or `building`.
    """

    def __init__(self, *, key: str, path: str, state: str) -> None:
        self.key = key
        self.path = path
        self.state = state
        problem = "is still being created" if state == "building" else "has not been created yet"
        super().__init__(
            f"service {key} of {path} {problem}\n"
            f"Right: await s.use({key}), or provide it with eager=True to have it from the start."
        )


class ServiceExists(AnyscopeError):
    """A key was provided a second time in one scope, or replaced after its first use.

    Attributes:
        key: The key, as text.
        path: The path of the scope that provides it.
        state: How far the service is that stands in the way: `declared`, `building`, `ready` or `closed`.
        holders: Who has it, as far as known: the first few users.
    """

    def __init__(self, *, key: str, path: str, state: str, holders: tuple[str, ...] = ()) -> None:
        self.key = key
        self.path = path
        self.state = state
        self.holders = holders
        if state == "declared":
            problem = "is already provided there"
            remedy = f"To replace it before its first use: s.provide({key}, factory, replace=True)"
        else:
            names = ", ".join(holders)
            if state == "building":
                problem = f"is being created, for {names}"
            else:
                problem = f"has already been created ({state})" + (f", and held by {names}" if holders else "")
            remedy = "Replace a service before its first use; or shadow it in a child scope, for that one alone."
        super().__init__(f"service {key} of {path} {problem}\n{remedy}")


class ServiceCycle(AnyscopeError):
    """Services need one another, so that none of them could ever be created.

    Attributes:
        ring: What waits for what, as text; the last is the first again.
        path: The path of the scope in which the ring was closed.
    """

    def __init__(self, *, ring: tuple[str, ...], path: str) -> None:
        self.ring = ring
        self.path = path
        if len(ring) == 2:
            remedy = (
                f"The factory of {ring[0]} asks for {ring[0]} itself. To build on the one of the scope above: "
                "await current_scope().parent.use(...)"
            )
        else:
            remedy = "Let one of them ask for the other when it is first needed, not in its factory."
        super().__init__(f"services of {path} wait for one another: {' -> '.join(ring)}\n{remedy}")


def because(reason: object) -> str:
    """The tail of a sentence that gives a reason: its text, or the type and text of an error."""
    if reason is None:
        return ""
    try:
        text = str(reason).partition("\n")[0]
    except Exception:
        text = "its text cannot be shown"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f" ({type(reason).__name__}: {text})" if isinstance(reason, BaseException) else f" ({text})"


def _listed(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:_MOST]) or "nothing"
    return f"{shown} and {len(keys) - _MOST} more" if len(keys) > _MOST else shown


def _still_running(running: tuple[str, ...]) -> str:
    if not running:
        return ""
    shown = ", ".join(running[:5])
    more = f" and {len(running) - 5} more" if len(running) > 5 else ""
    return f"; still running: {shown}{more}"


def reraise(error: BaseException) -> NoReturn:
    """Raise an error that was kept: its context stays, and no reference cycle through this frame.

    Python would put what is being handled where the error's context is. An error without one gets that,
    which for a time-out shows where it struck.
    """
    context = error.__context__
    try:
        raise error
    finally:
        if context is not None:
            error.__context__ = context
        del error, context


class PoolTimeout(AnyscopeError, TimeoutError):
    """Nothing could be had from a pool in time; the last error of `create` is its `__cause__`, if there was one.

    Attributes:
        pool: The pool and its scope, such as `db of app`.
        limit: The seconds that were given.
        stats: The numbers of the pool at that moment, as a `PoolStats`.
        held: How many of its resources the very task that asked has already.
    """

    def __init__(self, *, pool: str, limit: float, stats: Any, held: int) -> None:
        self.pool = pool
        self.limit = limit
        self.stats = stats
        self.held = held
        text = f"pool {pool}: nothing to be had within {limit:g} s ({stats})"
        if held:
            text += (
                f"\nThis task already holds {held} of {stats.max}: release before you acquire again, "
                "or take what is needed at once."
            )
        super().__init__(text)


class PoolFull(AnyscopeError):
    """As many tasks wait for a pool as `max_waiting` allows.

    Attributes:
        pool: The pool and its scope, such as `db of app`.
        max_waiting: The option.
    """

    def __init__(self, *, pool: str, max_waiting: int) -> None:
        self.pool = pool
        self.max_waiting = max_waiting
        super().__init__(
            f"pool {pool}: {max_waiting} tasks wait already, which is max_waiting\n"
            "Try again later, do less at once, or raise max_waiting or max."
        )


class PoolClosed(AnyscopeError):
    """A pool was asked for something after its closing had begun.

    Attributes:
        pool: The pool and its scope, such as `db of app`.
        action: What was asked of it.
    """

    def __init__(self, *, pool: str, action: str) -> None:
        self.pool = pool
        self.action = action
        super().__init__(
            f"pool {pool} is closed: {action} came too late\n"
            "A pool closes with its scope: use it inside the block, or make it in a scope that lives longer."
        )


class PoolMisuse(AnyscopeError, RuntimeError):
    """A pool was used wrongly; it has not changed.

    Attributes:
        pool: The pool and its scope, such as `db of app`.
        problem: What happened.
        remedy: What to write instead.
    """

    def __init__(self, *, pool: str, problem: str, remedy: str) -> None:
        self.pool = pool
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"pool {pool}: {problem}\n{remedy}")


class PollFailed(AnyscopeError):
    """A poll was given up because of an error, which is the `__cause__`.

    It leaves the scope where `on_error` is `"raise"` or `max_failures` is reached, and is raised to who waits for a
    value of a poll that failed in whichever way.

    Attributes:
        poll: The poll and its scope, such as `health of app`.
        failures: How many polls had failed in a row; 0 where one of the other functions failed.
        problem: The last error, as text.
    """

    def __init__(self, *, poll: str, failures: int, problem: str) -> None:
        self.poll = poll
        self.failures = failures
        self.problem = problem
        times = f" {failures} times in a row" if failures > 1 else ""
        super().__init__(
            f"poll {poll} failed{times}, with {problem}\n"
            'What may go wrong now and then is best left to on_error="continue" without max_failures; '
            "poll.status() and the hooks tell of it."
        )


class PollStopped(AnyscopeError):
    """A poll was asked for something that a stopped one cannot give.

    Attributes:
        poll: The poll and its scope, such as `health of app`.
        action: What was asked of it.
        reason: Why it had stopped.
    """

    def __init__(self, *, poll: str, action: str, reason: str) -> None:
        self.poll = poll
        self.action = action
        self.reason = reason
        super().__init__(
            f"poll {poll} has stopped ({reason}): {action} gives nothing\n"
            "poll.start() starts it again, as long as its scope is open."
        )


class StreamClosed(AnyscopeError):
    """A stream was read after it had been closed or read to its end, or while it was closed by somebody else.

    Attributes:
        stream: The stream and its scope, such as `lines (#3) of app`.
        problem: What had happened, such as `its scope has ended`.
    """

    def __init__(self, *, stream: str, problem: str) -> None:
        self.stream = stream
        self.problem = problem
        super().__init__(
            f"stream {stream} cannot be read: {problem}\n"
            "A stream is read once, by one loop at a time: make another one with s.stream(...)."
        )


class StreamTimeout(AnyscopeError, TimeoutError):
    """A stream was waited for longer than allowed; the time that the body of the loop takes does not count.

    Attributes:
        stream: The stream and its scope, such as `lines (#3) of app`.
        limit: The seconds that were given.
        per_item: Whether that was the limit of one item, or of all of them together.
    """

    def __init__(self, *, stream: str, limit: float, per_item: bool) -> None:
        self.stream = stream
        self.limit = limit
        self.per_item = per_item
        waited = f"no item within {limit:g} s" if per_item else f"its items took more than {limit:g} s in all"
        super().__init__(f"stream {stream}: {waited}")
