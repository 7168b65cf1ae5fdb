"""What `anyscope` is tested with, for tests of programs that use it: virtual time, faults, leaks, overrides.

Works beside AnyIO's pytest plugin; the fixtures come with the package (`anyscope_pytest`).
"""

from ._private_trio import Unsupported as Unsupported
from ._watch import Deadlock as Deadlock
from ._watch import Livelock as Livelock
from .faults import Faulty as Faulty
from .faults import InjectedFault as InjectedFault
from .faults import faulty as faulty
from .leaks import Leak as Leak
from .leaks import Leaked as Leaked
from .leaks import no_leaks as no_leaks
from .virtual_time import backend_options as backend_options
from .virtual_time import run as run

__all__ = (
    "Deadlock",
    "Faulty",
    "InjectedFault",
    "Leak",
    "Leaked",
    "Livelock",
    "Unsupported",
    "backend_options",
    "faulty",
    "no_leaks",
    "run",
)
