"""`parallel` and `parallel_aggregate`: every success and every error, in input order."""

from __future__ import annotations

from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from .._lifetime.call import Call
from .._vocabulary.errors import TaskCancelled, TaskTimeout, reraise
from .._vocabulary.notes import group_of
from .._vocabulary.options import check_callback, check_count, check_seconds
from .._vocabulary.results import Err, Ok, Result
from .crew import Crew
from .jobs import Checked, Jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._lifetime.owner import Owner

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call of the parallel family is, told once for each job that has ended.

    Attributes:
        done: How many jobs have ended.
        failed: How many of those with an error.
        total: How many jobs there are; `None` where the input does not say.
        elapsed: Seconds since the call.
    """

    done: int
    failed: int
    total: int | None
    elapsed: float


@dataclass(frozen=True, slots=True)
class Completed(Generic[T_co]):
    """A job that succeeded.

    Attributes:
        index: Its place in the input, from 0.
        value: What it returned.
    """

    index: int
    value: T_co


@dataclass(frozen=True, slots=True)
class Failed:
    """A job that did not succeed.

    Attributes:
        index: Its place in the input, from 0.
        error: What it raised; `TaskCancelled` or `TaskTimeout` where it was cut off.
    """

    index: int
    error: Exception


class Aggregate(Generic[T_co]):
    """Everything that became of a number of jobs; what `parallel_aggregate` gives.

    Args:
        results: One result for each job, in input order.
        timed_out: Whether the call's `timeout` cut some of them off.
        path: The path of the scope, for messages.
    """

    __slots__ = ("_path", "results", "timed_out")

    def __init__(self, results: Sequence[Result[T_co]], *, timed_out: bool = False, path: str = "scope") -> None:
        self.results: tuple[Result[T_co], ...] = tuple(results)
        self.timed_out: bool = timed_out
        self._path = path

    @property
    def completed(self) -> tuple[Completed[T_co], ...]:
        """The jobs that succeeded, in input order."""
        return tuple(
            Completed(index, result.value) for index, result in enumerate(self.results) if isinstance(result, Ok)
        )

    @property
    def errors(self) -> tuple[Failed, ...]:
        """The jobs that did not, in input order, those that were cut off included."""
        return tuple(
            Failed(index, result.error) for index, result in enumerate(self.results) if isinstance(result, Err)
        )

    @property
    def values(self) -> list[T_co]:
        """The values of the jobs that succeeded, in input order."""
        return [result.value for result in self.results if isinstance(result, Ok)]

    @property
    def all_completed(self) -> bool:
        """Whether every job succeeded; true where there was none."""
        return all(isinstance(result, Ok) for result in self.results)

    def raise_errors(self) -> None:
        """Raise all errors in one group, each with a note that says which job it was.

        Jobs that were only cancelled because another one failed are left out.

        Raises:
            ExceptionGroup: At least one job failed.
        """
        failed = self.errors
        real = [failure for failure in failed if not isinstance(failure.error, TaskCancelled)] or failed
        if real:
            message = f"{len(failed)} of {len(self.results)} jobs failed in scope {self._path}"
            reraise(group_of(message, [(failure.error, f"in job {failure.index} of {self._path}") for failure in real]))

    def __repr__(self) -> str:
        words = [f"{len(self.values)} completed", f"{len(self.errors)} errors"]
        if self.timed_out:
            words.append("timed out")
        return f"<Aggregate of {len(self.results)} jobs: {', '.join(words)}>"


@dataclass(slots=True, kw_only=True)
class Plan:
    """The options of a call, checked.

    Attributes:
        limit: How many jobs at once.
        timeout: Seconds for the whole call.
        job_timeout: Seconds for each job.
        fail_fast: Whether the first error cancels the rest.
        on_progress: Called once for each job that has ended.
    """

    limit: int | None
    timeout: float | None
    job_timeout: float | None
    fail_fast: bool
    on_progress: Callable[[Progress], object] | None

    def __post_init__(self) -> None:
        self.limit = check_count("concurrency", self.limit)
        self.timeout = check_seconds("timeout", self.timeout)
        self.job_timeout = check_seconds("job_timeout", self.job_timeout)
        if not isinstance(self.fail_fast, bool):
            raise TypeError(f"fail_fast must be a bool, got {self.fail_fast!r} ({type(self.fail_fast).__name__})")
        check_callback("on_progress", self.on_progress)


class Collector(Generic[T]):
    """Collects the results of one call.

    Args:
        owner: The scope's owner.
        jobs: The jobs, checked.
        plan: The options.

    Attributes:
        results: The results in input order, `None` for jobs that have not ended. Written by `_deliver`.
        done: How many jobs have ended.
        failed: How many of them with an error.
        timed_out: Whether the timeout of the call cut something off.
        first_failure: The job that made a fail-fast call stop.
    """

    __slots__ = (
        "_began",
        "_context",
        "_crew",
        "_owner",
        "_plan",
        "done",
        "failed",
        "first_failure",
        "results",
        "timed_out",
    )

    def __init__(self, owner: Owner, jobs: Checked[T], plan: Plan) -> None:
        self._owner = owner
        self._plan = plan
        self._crew = Crew(owner, jobs, limit=plan.limit, job_timeout=plan.job_timeout, deliver=self._deliver)
        self._began = 0.0
        # Of the call, for `on_progress`: which is told when a job has ended, whatever that has set. Made by `collect`.
        self._context: Context | None = None
        self.results: list[Result[T] | None] = []
        self.done = 0
        self.failed = 0
        self.timed_out = False
        self.first_failure: int | None = None

    async def collect(self) -> list[Result[T]]:
        """Do the jobs and give their results in input order; all of them have ended by then."""
        crew = self._crew
        self._began = anyio.current_time()
        with Call(self._owner, crew.jobs.call) as call:
            if self._plan.on_progress is not None:
                self._context = copy_context()
            if self._plan.timeout is None:
                await crew.run()
            else:
                with anyio.move_on_after(self._plan.timeout) as limit:
                    await crew.run()
                self.timed_out = limit.cancelled_caught
        if crew.error_to_raise is not None:
            reraise(crew.error_to_raise)
        call.refuse_if_cut(crew.jobs.call)
        return self._all_results()

    def _all_results(self) -> list[Result[T]]:
        """One for each job that was taken, and where some were cut off and it is known how many, for the others too."""
        is_cut = self.timed_out or self.first_failure is not None
        due = (self._crew.jobs.total if is_cut else None) or self._crew.taken
        results = self.results
        if self.done == due:
            return cast("list[Result[T]]", results)
        results.extend([None] * (due - len(results)))
        return [self._cut_off(index) if result is None else result for index, result in enumerate(results)]

    def _cut_off(self, index: int) -> Result[Any]:
        task = f"job {index} of {self._crew.jobs.call} in {self._owner.path}"
        if self.timed_out:
            assert self._plan.timeout is not None
            return Err(TaskTimeout(task=task, limit=self._plan.timeout))
        return Err(TaskCancelled(task=task, reason=f"job {self.first_failure} failed"))

    def _deliver(self, index: int, result: Result[T]) -> None:
        self.done += 1
        if index == len(self.results):
            self.results.append(result)
        else:
            self._keep(index, result)
        if type(result) is Err:
            self.failed += 1
            if self._plan.fail_fast and self.first_failure is None:
                self.first_failure = index
                self._crew.halt()
        if self._context is not None:
            self._tell_progress(self._context)

    def _tell_progress(self, context: Context) -> None:
        assert self._plan.on_progress is not None
        elapsed = anyio.current_time() - self._began
        try:
            context.run(self._plan.on_progress, Progress(self.done, self.failed, self._crew.jobs.total, elapsed))
        except BaseException as error:  # noqa: ASYNC103  told
            self._crew.fail(error)

    def _keep(self, index: int, result: Result[T]) -> None:
        """One that came out of turn."""
        results = self.results
        results.extend([None] * (index + 1 - len(results)))
        results[index] = result


async def parallel(owner: Owner, jobs: Jobs[T], plan: Plan) -> list[Result[T]]:
    """`s.parallel`."""
    return await (await _collector(owner, "s.parallel", jobs, plan)).collect()


async def parallel_aggregate(owner: Owner, jobs: Jobs[T], plan: Plan) -> Aggregate[T]:
    """`s.parallel_aggregate`."""
    collector = await _collector(owner, "s.parallel_aggregate", jobs, plan)
    results = await collector.collect()
    return Aggregate(results, timed_out=collector.timed_out, path=owner.path)


async def _collector(owner: Owner, call: str, jobs: Jobs[T], plan: Plan) -> Collector[T]:
    checked = Checked(call, jobs)
    await owner.admit(call.partition(".")[2])
    return Collector(owner, checked, plan)
