"""Finding the daemon of this user, and starting one when there is none.

In the runtime directory: `pybuild.sock` it listens on; `daemon.lock` it holds as long as it lives; `start.lock`
one starting client holds; `daemon.log`.
"""

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pybuild.client.errors import DaemonError
from pybuild.client.wire import Connection

START_SECONDS = 20.0
"""How long a daemon may take to be ready; it may have to wait for another one to end its builds."""


class Place(NamedTuple):
    """Where the daemon of a runtime directory is."""

    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "pybuild.sock"

    @property
    def lock(self) -> Path:
        return self.directory / "daemon.lock"

    @property
    def log(self) -> Path:
        return self.directory / "daemon.log"


def place() -> Place:
    """Return where this user's daemon is; the directory is made when absent."""
    from pybuild.engine.paths import runtime_dir

    return Place(runtime_dir())


def try_connect(where: Place) -> Connection | None:
    """Return a connection, None when no daemon listens."""
    try:
        return Connection(where.socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise DaemonError(f"cannot reach the daemon: {where.socket}: {error.strerror}") from error


def connect_or_start(where: Place) -> Connection:
    """Return a connection to the daemon, started first when there is none. Several clients start only one."""
    connection = try_connect(where)
    if connection is not None:
        return connection
    with _held(where.directory / "start.lock"):
        connection = try_connect(where)
        if connection is not None:
            return connection
        start(where)
        connection = try_connect(where)
    if connection is None:
        raise DaemonError("the daemon ended as soon as it had started", _see(where))
    return connection


def start(where: Place, command: Sequence[str] | None = None) -> None:
    """Start a daemon in a session of its own and return when it listens; raise DaemonError if it never does."""
    import select

    reader, writer = os.pipe()
    try:
        try:
            before = _launch(where, command or daemon_command(), writer)
        finally:
            os.close(writer)
        readable, _, _ = select.select([reader], [], [], START_SECONDS)
        if not readable:
            raise DaemonError(f"the daemon was not ready within {START_SECONDS:.0f} seconds", _see(where))
        if not os.read(reader, 1):
            # Its end of the pipe was closed by its death
            raise DaemonError(f"the daemon did not start{_last_words(where, before)}", _see(where))
    finally:
        os.close(reader)


def _launch(where: Place, command: Sequence[str], ready: int) -> int:
    """Start the daemon with `ready` to say when it is; return how long its log has been before."""
    try:
        log = os.open(where.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonError(f"cannot write the daemon's log: {where.log}: {error.strerror}") from error
    try:
        before = os.fstat(log).st_size
        _spawn([*command, "--ready-fd", "3", "--log", str(where.log)], log, ready)
        return before
    except OSError as error:
        raise DaemonError(f"cannot start the daemon: {error.strerror}", "use `--inline`") from error
    finally:
        os.close(log)


def start_in_background(where: Place) -> None:
    """Start a daemon and do not wait for it; raise DaemonError when not even that can be done.

    It has the starting clients' lock until it is ready, so that there are never two of them on their way.
    """
    try:
        lock = os.open(where.directory / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonError(f"cannot write in the runtime directory: {where.directory}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A byte written to the lock file and its closing are how the daemon says that it is ready
        _launch(where, daemon_command(), lock)
    except BlockingIOError:
        # Somebody else is just starting one
        return
    finally:
        os.close(lock)


def wait_for_start(where: Place) -> None:
    """Wait for a daemon that is on its way, if there is one, to be ready or gone."""
    if (where.directory / "start.lock").exists():
        with _held(where.directory / "start.lock"):
            return


def daemon_command() -> list[str]:
    """Return the command that runs this same program as a daemon."""
    return [*program_command(), "_child", "daemon"]


def program_command() -> list[str]:
    """Return the command that runs this same program, in the environment `program_environment`."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    # -P: without it `-m` would look for modules in the working directory, which is a build context as a rule
    return [sys.executable, "-P", "-m", "pybuild"]


def _spawn(command: Sequence[str], log: int, ready: int) -> None:
    # posix_spawn rather than subprocess: no fork of a process that may have threads, and nothing to wait for;
    # the child is left to init when this short-lived process ends
    if ready == 3:
        # Not every dup2 onto itself takes close-on-exec away
        os.set_inheritable(ready, True)
    os.posix_spawn(
        command[0],
        list(command),
        program_environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, ready, 3),
        ],
        setsid=True,
    )


def program_environment() -> dict[str, str]:
    """Return our environment, with the way to a checkout where the program is one."""
    environment = dict(os.environ)
    if getattr(sys, "frozen", False):
        return environment
    source = Path(__file__).resolve().parents[2]
    if source.name not in ("site-packages", "dist-packages"):
        # A checkout may have been found by the working directory or a relative path
        paths = [str(source), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(map(os.path.abspath, paths)))
    return environment


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonError(f"cannot write in the runtime directory: {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def wait_for_end(where: Place, seconds: float) -> bool:
    """Wait until no daemon holds the lock; tell whether that came in time."""
    from time import monotonic, sleep

    try:
        descriptor = os.open(where.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise DaemonError(f"cannot open the daemon's lock: {where.lock}: {error.strerror}") from error
    try:
        end = monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if monotonic() > end:
                    return False
                sleep(0.005)
    finally:
        os.close(descriptor)


def _last_words(where: Place, since: int) -> str:
    try:
        with where.log.open("rb") as log:
            log.seek(since)
            lines = log.read(1 << 16).decode(errors="replace").strip().split("\n")
    except OSError:
        return ""
    return f": {lines[-1]}" if lines[-1] else ""


def _see(where: Place) -> str:
    return f"its log is `{where.log}`; `--inline` works without a daemon"
