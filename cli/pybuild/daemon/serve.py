"""The life of a daemon: one for each runtime directory, from the lock to the last build.

`main` is what `pybuild daemon run` and the hidden `_child daemon` call. The lock file decides who is the daemon:
it is held until the process ends, however that comes, so a socket without a holder of the lock is a leftover.
"""

import fcntl
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pybuild.daemon.listeners import WITHOUT_TLS, Listener, Tls, listen, name_of, taken, tls_of
from pybuild.daemon.systemd import Notifier, inherited
from pybuild.errors import ConflictError, ExitCode, PybuildError, UsageError

if TYPE_CHECKING:
    from pybuild.daemon.engine import Engine

SOCKET, LOCK = "pybuild.sock", "daemon.lock"
IDLE_SECONDS = 600.0
GRACE_SECONDS = 10.0
CANCEL_SECONDS = 20.0
"""How long cancelled builds may take to clean up."""

_MAX_PATH = 107


@dataclass(frozen=True, slots=True)
class Settings:
    """How a daemon runs. `ready_fd` gets one byte when it listens; `log` is the file that standard error is.

    `listen` are addresses besides its own socket, with `tls` if that is not None.
    """

    runtime_dir: Path
    store_root: Path
    idle_seconds: float = IDLE_SECONDS
    grace_seconds: float = GRACE_SECONDS
    ready_fd: int = -1
    log: Path | None = None
    lock_seconds: float = 15.0
    listen: tuple[str, ...] = ()
    tls: Tls | None = None


def main(argv: Sequence[str] = (), *, load: "Callable[[], Engine] | None" = None) -> int:
    """Run a daemon in the foreground until it is stopped; return the exit status.

    `argv` may hold `--ready-fd N`, `--log PATH`, `--listen ADDRESS` several times, and `--tls-ca`, `--tls-cert` and
    `--tls-key` with paths. `load` replaces the engine, for tests.
    """
    os.umask(0o077)
    # A build context must not be our working directory: it would be busy, and it is not ours
    try:
        settings = _settings(argv)
        os.chdir("/")
        return run(settings, load=load)
    except PybuildError as error:
        hint = f" ({error.hint})" if error.hint else ""
        os.write(2, f"{error.message}{hint}\n".encode("utf-8", "backslashreplace"))
        return int(error.exit_code)


def _settings(argv: Sequence[str]) -> Settings:
    from pybuild.engine import paths

    options = dict(zip(argv[::2], argv[1::2]))
    unknown = set(options) - {"--ready-fd", "--log", "--listen", "--tls-ca", "--tls-cert", "--tls-key"}
    if unknown or len(argv) % 2:
        raise UsageError(f"unknown arguments of the daemon: {' '.join(argv)}")
    addresses = tuple(value for name, value in zip(argv[::2], argv[1::2]) if name == "--listen")
    config = paths.config()
    # Nobody far away can start it again
    idle = 0.0 if addresses else IDLE_SECONDS
    return Settings(
        runtime_dir=paths.runtime_dir(),
        store_root=paths.store_root(),
        idle_seconds=_seconds("PYBUILD_IDLE_TIMEOUT", config.get("idle_timeout"), idle),
        grace_seconds=_seconds("PYBUILD_STOP_GRACE", config.get("stop_grace"), GRACE_SECONDS),
        ready_fd=int(options.get("--ready-fd", -1)),
        log=Path(options["--log"]) if "--log" in options else None,
        listen=addresses,
        tls=tls_of(*(options.get(name, "") for name in ("--tls-ca", "--tls-cert", "--tls-key"))),
    )


def _seconds(variable: str, configured: object, default: float) -> float:
    """Return a time in seconds from environment or configuration: a number, or one with `s`, `m` or `h` after it."""
    given = os.environ.get(variable) or configured
    if given is None or given == "":
        return default
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(given).strip())
    if match is None:
        raise UsageError(f"not a time for {variable}: {given}", "write seconds, or `10m`; 0 is never")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def run(settings: Settings, *, load: "Callable[[], Engine] | None" = None) -> int:
    """Become the daemon of the runtime directory and serve; raise ConflictError when there is one already."""
    path = settings.runtime_dir / SOCKET
    with ExitStack() as stack:
        notifier = Notifier()
        handed = [taken(given, settings.tls) for given in inherited()]
        for listener in handed:
            stack.callback(listener.socket.close)
        lock = _lock(settings, activated=bool(handed))
        stack.callback(os.close, lock)
        listeners = [*handed, *listen(settings.listen, settings.tls)]
        if all(listener.name != name_of(path) for listener in handed):
            listeners.append(Listener(_listen(path), name_of(path)))
        for listener in listeners:
            stack.callback(listener.socket.close)
        if all(listener.tls is None for listener in listeners):
            _import_without_tls()
        from pybuild.daemon import logs

        logs.set_up(settings.log, debug=bool(os.environ.get("PYBUILD_DEBUG")))
        import asyncio

        asyncio.run(_serve(settings, listeners, notifier, load))
    return ExitCode.OK


def _lock(settings: Settings, *, activated: bool) -> int:
    """Return the held lock; one that is just ending is waited for."""
    path = settings.runtime_dir / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PybuildError(f"cannot write in the runtime directory: {path}: {error.strerror}") from error
    end = monotonic() + settings.lock_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            # Its socket is gone as soon as it is asked to stop, but for one that systemd keeps
            if (not activated and (settings.runtime_dir / SOCKET).exists()) or monotonic() > end:
                os.close(descriptor)
                raise ConflictError("a daemon is running already", "see `pybuild daemon status`") from error
            sleep(0.01)


def _listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`; only the holder of the lock may call it, so what is there is a leftover."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        # The umask makes it 0600 from the start
        if len(os.fsencode(path)) <= _MAX_PATH:
            listener.bind(str(path))
        else:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        os.chmod(path, 0o600)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PybuildError(f"cannot listen on the socket: {path}: {error.strerror}") from error
    return listener


def _import_without_tls() -> None:
    """Import aiohttp without `ssl`, which would read all CA certificates: 50 ms and 4 MB for a unix socket.

    Both asyncio and aiohttp work without it by design. Others that import it later get the real one.
    """
    absent: Any = None
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = absent
    try:
        gc.disable()
        import asyncio  # noqa: F401

        import aiohttp.web  # noqa: F401
    finally:
        gc.enable()
        if sys.modules.get("ssl", 0) is None:
            del sys.modules["ssl"]


async def _serve(
    settings: Settings,
    listeners: "Sequence[Listener]",
    notifier: Notifier,
    load: "Callable[[], Engine] | None",
) -> None:
    import asyncio
    import logging

    from aiohttp import web

    from pybuild import __version__
    from pybuild.daemon import engine
    from pybuild.daemon.app import make_app
    from pybuild.daemon.buildkit import Runner
    from pybuild.daemon.state import State

    log = logging.getLogger("pybuild.daemon")
    path = settings.runtime_dir / SOCKET
    names = [listener.name for listener in listeners]
    state = State(
        store_root=settings.store_root,
        socket=path,
        idle_seconds=settings.idle_seconds,
        load=load or (lambda: engine.load(settings.store_root)),
        listens=names,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, state.stop)
    # A client that goes away cancels its handler, and by that its build
    runner = Runner(make_app(state), handle_signals=False, access_log=None, handler_cancellation=True)
    await runner.setup()
    sites = [
        web.SockSite(runner, listener.socket, shutdown_timeout=2, ssl_context=listener.tls) for listener in listeners
    ]
    for site in sites:
        await site.start()
    log.info("pybuild %s listens on %s for store %s, pid %d", __version__, path, settings.store_root, os.getpid())
    for listener in listeners:
        if listener.name.startswith("tcp:"):
            log.info("listens on %s", listener.name)
            if listener.tls is None:
                log.warning("%s %s", listener.name, WITHOUT_TLS)
    notifier.tell(f"READY=1\nSTATUS=Listening on {', '.join(names)}")
    if settings.ready_fd >= 0:
        os.write(settings.ready_fd, b"\n")
        os.close(settings.ready_fd)
    state.rest()
    warming = asyncio.create_task(_warm_up(state))
    await state.stopping.wait()
    log.info("stopping")
    notifier.tell("STOPPING=1")
    if not any(listener.inherited and listener.name == name_of(path) for listener in listeners):
        path.unlink(missing_ok=True)
    for site in sites:
        await site.stop()
    warming.cancel()
    await state.finish_builds(settings.grace_seconds, CANCEL_SECONDS)
    await runner.cleanup()
    log.info("stopped")


async def _warm_up(state: Any) -> None:
    """Import the engine while the first client still asks who we are; then take all that out of the collector's sight.

    A failure is told to the first who needs the engine.
    """
    import logging

    try:
        await state.engine()
    except Exception:
        logging.getLogger("pybuild.daemon").exception("cannot load the engine")
        return
    gc.collect()
    gc.freeze()
