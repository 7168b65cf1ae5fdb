"""A real PostgreSQL server of the tests' own, on a free port of this machine, in a folder that is gone afterwards.

As a program: `python tests/postgres.py install` installs the server where it is missing and where that is possible.

Whatever becomes of the process that started a server, nothing is left of it. A guard, a small process that waits for
the end of its input, ends the server and removes its folder: the input ends with the process at the latest.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("initdb", "postgres")
ACCOUNTS = ("postgres", "nobody")
PATIENCE = 30.0
"""Seconds for the server to be there, or to be gone."""
PORTS = range(20_000, 32_000)
"""Below those that clients get: a client that finds nobody may otherwise be connected with itself."""
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A client may go away in the middle of a query: psycopg's async connections do where a cancellation is repeated, as
    # AnyIO does. From version 14 on.
    "client_connection_check_interval": "100ms",
}
ADMIN = "anyscope-admin"


# ------------------------------------------------------------------ what there is
def find(program: str) -> str | None:
    """Where it is: on the path, or where Debian hides it; the highest version there."""
    if found := shutil.which(program):
        return found
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{program}")
    return max(map(str, versions), key=_version_of, default=None)


def _version_of(program: str) -> float:
    with suppress(ValueError):
        return float(Path(program).parts[-3])
    return 0.0


def why_not() -> str:
    """Why there can be no server here, or nothing."""
    if os.name != "posix":
        return "the tests' PostgreSQL server is started on POSIX only"
    if missing := [program for program in PROGRAMS if find(program) is None]:
        return f"PostgreSQL is not installed: no {' and no '.join(missing)} (python tests/postgres.py install)"
    try:
        import psycopg

        _ = psycopg.Connection
    except ImportError as error:  # also where it lacks its own library
        return f"psycopg cannot be imported: {error}"
    return ""


def account() -> dict[str, Any]:
    """Whom the programs run as, for `Popen`: they refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError(f"run by root, and there is no other account: {', '.join(ACCOUNTS)}")


# ------------------------------------------------------------------ the server
class Server:
    """A server, not started yet.

    Attributes:
        port: Its port, the same after each start.
    """

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="anyscope-"))
        command = [sys.executable, "-I", "-S", __file__, "guard", str(self._folder)]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._account = account()
        if self._account:
            os.chown(self._folder, self._account["user"], self._account["group"])
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            options = ("--username=anyscope", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
            code = self._run("initdb", f"--pgdata={self._data}", *options, log=log).wait()
        if code:
            raise self._failure("initdb failed")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *options: str, log: Any) -> subprocess.Popen[bytes]:
        path = find(program)
        assert path is not None, why_not()
        # Its messages in English, its folder as the present one: the account may have no access to ours.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self._folder)}
        return subprocess.Popen(
            [path, *options],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # or Ctrl-C would reach it, before the tests have ended
            user=self._account.get("user"),
            group=self._account.get("group"),
            extra_groups=self._account.get("extra_groups"),
        )

    def _failure(self, problem: str) -> RuntimeError:
        log = self._log.read_text(encoding="utf-8", errors="replace")
        return RuntimeError(f"{problem}; the end of its log:\n{log[-2000:]}")

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> str:
        """What a client needs to know."""
        return f"host=127.0.0.1 port={self.port} user=anyscope dbname=postgres sslmode=disable connect_timeout=10"

    def start(self) -> None:
        """Start it, also again, and wait until it answers."""
        attempts = 1 if self.port else 5  # somebody may be quicker to take a port that was free
        for _ in range(attempts):
            self.port = self.port if attempts == 1 else free_port()
            options = [option for name, value in OPTIONS.items() for option in ("-c", f"{name}={value}")]
            with self._log.open("ab") as log:
                self._process = self._run("postgres", "-D", str(self._data), "-p", str(self.port), *options, log=log)
            if self._answers():
                return
            self.kill()
        raise self._failure("the server did not start")

    def _answers(self) -> bool:
        import psycopg

        deadline = time.monotonic() + PATIENCE
        while self.is_up and time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                self.ask("select 1")
                return True
            time.sleep(0.02)
        return False

    def stop(self) -> None:
        """End it in good order: whoever is connected is told."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Have all of its processes drop everything at once, as if it had crashed."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _pid_file_of(self._folder).unlink(missing_ok=True)

    def close(self) -> None:
        """End it, and leave nothing of it."""
        self.kill()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    # -------------------------------------------------------------- what it says

    @contextmanager
    def connected(self) -> Generator[Callable[[str], Any]]:
        """A connection that is not counted, as a function that gives the first value of an answer."""
        import psycopg

        with closing(psycopg.connect(self.address, autocommit=True, application_name=ADMIN)) as connection:

            def ask(query: str) -> Any:
                cursor = connection.execute(query.encode())
                row = cursor.fetchone() if cursor.description else None
                return row and row[0]

            yield ask

    def ask(self, query: str) -> Any:
        """Ask it something; gives the first value of the answer."""
        with self.connected() as ask:
            return ask(query)

    def clients(self) -> int:
        """How many are connected; itself not counted."""
        return int(self.ask(f"select count(*) {CLIENTS}"))

    def busy(self) -> int:
        """How many of them wait for an answer."""
        return int(self.ask(f"select count(*) {CLIENTS} and state = 'active'"))

    def clear(self) -> None:
        """Throw all of them out."""
        self.ask(f"select count(pg_terminate_backend(pid)) {CLIENTS}")


CLIENTS = f"from pg_stat_activity where backend_type = 'client backend' and application_name <> '{ADMIN}'"


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


# ------------------------------------------------------------------ the guard
def _pid_file_of(folder: Path) -> Path:
    return folder / "data" / "postmaster.pid"


def guard(folder: Path) -> None:
    """Wait until whoever started this is gone, or says so; leave nothing."""
    sys.stdin.buffer.read()
    with suppress(OSError, ValueError):
        pid = int(_pid_file_of(folder).read_text(encoding="utf-8").split("\n", 1)[0])
        deadline = time.monotonic() + PATIENCE
        os.kill(pid, signal.SIGQUIT)
        while time.monotonic() < deadline:
            os.kill(pid, 0)  # an error as soon as it is gone
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ installing
def install() -> bool:
    """Install the server if it is missing and if that is possible; says aloud what comes of it, and gives it."""
    if all(find(program) for program in PROGRAMS):
        print("PostgreSQL is here")
        return True
    command = _installer()
    if command is None:
        print("PostgreSQL is not installed, and cannot be without apt-get and the rights of root: tests are skipped")
        return False
    subprocess.run([*command, "update", "-q"], check=False)
    done = subprocess.run([*command, "install", "-q", "-y", "--no-install-recommends", "postgresql"], check=False)
    if done.returncode or not all(find(program) for program in PROGRAMS):
        print(f"PostgreSQL could not be installed, apt-get ended with {done.returncode}: its tests will be skipped")
        return False
    print("PostgreSQL has been installed")
    return True


def _installer() -> list[str] | None:
    if shutil.which("apt-get") is None:
        return None
    silent = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if os.geteuid() == 0:
        return silent
    if shutil.which("sudo") is None:
        return None
    may = subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    return ["sudo", "-n", *silent] if may else None


def main() -> None:
    """What it does as a program."""
    if sys.argv[1:] == ["install"]:
        sys.exit(0 if install() else 3)
    elif len(sys.argv) == 3 and sys.argv[1] == "guard":
        guard(Path(sys.argv[2]))
    else:
        sys.exit("usage: python tests/postgres.py install")


if __name__ == "__main__":
    main()
