"""What `anyscope` is tested with, for tests of programs that use it.

Works beside AnyIO's pytest plugin; the fixtures come with the package (`anyscope_pytest`).
"""

# sweeps                  many runs of one scenario: every point of cancellation, many schedules
# _failures, _replaying   what they give; one case again, and made smaller
# simulation              one run of it, and what must always hold
# _case, _schedules       what makes a run: as a value, and who goes next
# virtual_time            runs in which waiting takes no time
# _private_asyncio, _private_trio, _private_uvloop   all that is private to a runtime, checked before it is used
# _watch, _threads        deadlocks, livelocks, and threads that hold the clock
# faults, leaks, plugin, _spawns   faulty functions, leak checks, and what the pytest fixtures do

from ._case import At as At
from ._case import Case as Case
from ._case import Strike as Strike
from ._failures import Failure as Failure
from ._failures import Report as Report
from ._failures import SimulationFailed as SimulationFailed
from ._replaying import replay as replay
from ._replaying import shrink as shrink
from ._unsupported import Unsupported as Unsupported
from ._watch import Deadlock as Deadlock
from ._watch import Livelock as Livelock
from .faults import Faulty as Faulty
from .faults import InjectedFault as InjectedFault
from .faults import faulty as faulty
from .leaks import Leak as Leak
from .leaks import Leaked as Leaked
from .leaks import no_leaks as no_leaks
from .simulation import Outlived as Outlived
from .simulation import Overheard as Overheard
from .simulation import Scenario as Scenario
from .simulation import Simulation as Simulation
from .simulation import Swallowed as Swallowed
from .sweeps import Backend as Backend
from .sweeps import attack as attack
from .sweeps import explore as explore
from .sweeps import shuffle as shuffle
from .sweeps import sweep as sweep
from .virtual_time import backend_options as backend_options
from .virtual_time import run as run

__all__ = (
    "At",
    "Backend",
    "Case",
    "Deadlock",
    "Failure",
    "Faulty",
    "InjectedFault",
    "Leak",
    "Leaked",
    "Livelock",
    "Outlived",
    "Overheard",
    "Report",
    "Scenario",
    "Simulation",
    "SimulationFailed",
    "Strike",
    "Swallowed",
    "Unsupported",
    "attack",
    "backend_options",
    "explore",
    "faulty",
    "no_leaks",
    "replay",
    "run",
    "shrink",
    "shuffle",
    "sweep",
)
