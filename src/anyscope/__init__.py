"""Structured concurrency with the batteries in, on AnyIO: the same code on asyncio and on Trio.

The house. A module imports only from its own floor and from those below; a test enforces it.

    floor 0  _vocabulary   errors, results, hooks, checks       knows nothing of event loops
    floor 1  _lifetime     signal, place, owner, closing        knows nothing of features
    floor 2  _features     tasks, services, pool, poll and so on   know an owner, never a Scope
    floor 3  _face         Scope, scope(), use() ...            thin methods
    floor 4  around it     __main__ and the census it takes
"""

from ._face.providing import Provides as Provides
from ._face.scope import Scope as Scope
from ._face.scope import current_scope as current_scope
from ._face.scope import scope as scope
from ._face.scope import use as use
from ._face.tree import ScopeStatistics as ScopeStatistics
from ._features.as_completed import AsCompleted as AsCompleted
from ._features.jobs import AsyncEach as AsyncEach
from ._features.jobs import Each as Each
from ._features.jobs import each as each
from ._features.parallel import Aggregate as Aggregate
from ._features.parallel import Completed as Completed
from ._features.parallel import Failed as Failed
from ._features.parallel import Progress as Progress
from ._features.polling.poll import Poll as Poll
from ._features.pooling.acquire import Acquire as Acquire
from ._features.pooling.pool import Pool as Pool
from ._features.task import Task as Task
from ._lifetime.branch import AMBIENT as AMBIENT
from ._lifetime.signal import CancelSignal as CancelSignal
from ._lifetime.signal import CancelSource as CancelSource
from ._vocabulary.errors import AnyscopeError as AnyscopeError
from ._vocabulary.errors import CloseTimeout as CloseTimeout
from ._vocabulary.errors import NoCurrentScope as NoCurrentScope
from ._vocabulary.errors import PollFailed as PollFailed
from ._vocabulary.errors import PollStopped as PollStopped
from ._vocabulary.errors import PoolClosed as PoolClosed
from ._vocabulary.errors import PoolFull as PoolFull
from ._vocabulary.errors import PoolMisuse as PoolMisuse
from ._vocabulary.errors import PoolTimeout as PoolTimeout
from ._vocabulary.errors import ScopeCancelled as ScopeCancelled
from ._vocabulary.errors import ScopeClosed as ScopeClosed
from ._vocabulary.errors import ScopeMisuse as ScopeMisuse
from ._vocabulary.errors import ScopeTimeout as ScopeTimeout
from ._vocabulary.errors import ServiceCycle as ServiceCycle
from ._vocabulary.errors import ServiceExists as ServiceExists
from ._vocabulary.errors import ServiceNotFound as ServiceNotFound
from ._vocabulary.errors import ServiceNotReady as ServiceNotReady
from ._vocabulary.errors import TaskCancelled as TaskCancelled
from ._vocabulary.errors import TaskNotDone as TaskNotDone
from ._vocabulary.errors import TaskTimeout as TaskTimeout
from ._vocabulary.hooks import Cancelled as Cancelled
from ._vocabulary.hooks import Disposed as Disposed
from ._vocabulary.hooks import Hooks as Hooks
from ._vocabulary.hooks import PollEvent as PollEvent
from ._vocabulary.hooks import PoolEvent as PoolEvent
from ._vocabulary.hooks import TaskEnded as TaskEnded
from ._vocabulary.hooks import TaskStarted as TaskStarted
from ._vocabulary.keys import Key as Key
from ._vocabulary.logging_hooks import LoggingHooks as LoggingHooks
from ._vocabulary.polls import PollStatus as PollStatus
from ._vocabulary.pools import PoolStats as PoolStats
from ._vocabulary.results import Err as Err
from ._vocabulary.results import Ok as Ok
from ._vocabulary.results import Result as Result

__all__ = (
    "AMBIENT",
    "Acquire",
    "Aggregate",
    "AnyscopeError",
    "AsCompleted",
    "AsyncEach",
    "CancelSignal",
    "CancelSource",
    "Cancelled",
    "CloseTimeout",
    "Completed",
    "Disposed",
    "Each",
    "Err",
    "Failed",
    "Hooks",
    "Key",
    "LoggingHooks",
    "NoCurrentScope",
    "Ok",
    "Poll",
    "PollEvent",
    "PollFailed",
    "PollStatus",
    "PollStopped",
    "Pool",
    "PoolClosed",
    "PoolEvent",
    "PoolFull",
    "PoolMisuse",
    "PoolStats",
    "PoolTimeout",
    "Progress",
    "Provides",
    "Result",
    "Scope",
    "ScopeCancelled",
    "ScopeClosed",
    "ScopeMisuse",
    "ScopeStatistics",
    "ScopeTimeout",
    "ServiceCycle",
    "ServiceExists",
    "ServiceNotFound",
    "ServiceNotReady",
    "Task",
    "TaskCancelled",
    "TaskEnded",
    "TaskNotDone",
    "TaskStarted",
    "TaskTimeout",
    "current_scope",
    "each",
    "scope",
    "use",
)


def _show_public_names() -> None:
    """Show `anyscope.Scope` and not where it is made, in tracebacks, reprs and pickles."""
    for name in __all__:
        found = globals()[name]
        if isinstance(found, type) or callable(found):
            found.__module__ = __name__


_show_public_names()
del _show_public_names
