"""`race` and `any`: the first to finish, or the first to succeed; the others have ended by then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from .._lifetime.call import Call
from .._vocabulary.errors import TaskCancelled, reraise
from .._vocabulary.notes import group_of
from .._vocabulary.results import Err, Result
from .crew import Crew
from .jobs import Checked, Jobs

if TYPE_CHECKING:
    from .._lifetime.owner import Owner

logger = logging.getLogger("anyscope")

T = TypeVar("T")


class Race(Generic[T]):
    """Jobs against one another.

    Args:
        owner: The scope's owner.
        jobs: The jobs, checked.
        only_success: Whether an error cannot win.

    Attributes:
        winner: The first result that counts; written once, by `_deliver`.
        errors: The errors before it, which only a race for success has.
    """

    __slots__ = ("_crew", "_only_success", "_owner", "errors", "winner")

    def __init__(self, owner: Owner, jobs: Checked[T], *, only_success: bool) -> None:
        self._owner = owner
        self._only_success = only_success
        self._crew = Crew(owner, jobs, limit=None, deliver=self._deliver)
        self.winner: Result[T] | None = None
        self.errors: dict[int, Exception] = {}

    async def run(self) -> Result[T]:
        """Run it and give the winner; the losers have been cancelled and have ended."""
        crew = self._crew
        with Call(self._owner, crew.jobs.call) as call:
            await crew.run()
        if crew.error_to_raise is not None:
            reraise(crew.error_to_raise)
        call.refuse_if_cut(crew.jobs.call)
        if self.winner is not None:
            return self.winner
        if not self.errors:
            raise _nobody(crew.jobs.call)
        path = self._owner.path
        notes = [(error, f"in job {index} of {path}") for index, error in sorted(self.errors.items())]
        return Err(group_of(f"all {len(notes)} jobs failed in scope {path}", notes))

    def _deliver(self, index: int, result: Result[T]) -> None:
        error = result.pair()[0]
        if self.winner is not None:
            if error is not None and not isinstance(error, TaskCancelled):
                self._tell_late(index, error)
            return
        if error is not None and self._only_success:
            self.errors[index] = error
            return
        self.winner = result
        self._crew.halt()

    def _tell_late(self, index: int, error: Exception) -> None:
        text = "%s in scope %s: job %d failed after another one had won"
        try:
            logger.warning(text, self._crew.jobs.call, self._owner.path, index, exc_info=error)
        except BaseException as raised:  # noqa: ASYNC103  told
            self._crew.fail(raised)


async def race(owner: Owner, call: str, jobs: Jobs[T], *, only_success: bool) -> Result[T]:
    """`s.race` and `s.any`."""
    checked = Checked(call, jobs)
    if checked.total == 0:
        raise _nobody(call)
    await owner.admit(call.partition(".")[2])
    return await Race(owner, checked, only_success=only_success).run()


def _nobody(call: str) -> ValueError:
    return ValueError(f"{call}(...): no jobs, so nobody could ever win\nGive it at least one job.")
