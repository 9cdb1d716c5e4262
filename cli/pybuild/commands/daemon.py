"""`pybuild daemon start|stop|status|run|logs|dial-stdio`"""

import sys
from typing import Annotated, Any

import typer

from pybuild.commands.group import SETTINGS
from pybuild.commands.output import as_json, write_line
from pybuild.errors import ExitCode, PybuildError, UsageError

STOP_SECONDS = 40.0
"""How long `stop` waits for builds to end or be cancelled."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    help="Start, stop and look at the daemon. Builds start it by themselves; it ends when it has been idle.",
    no_args_is_help=False,
)


def _refuse_host(what: str) -> None:
    """Raise UsageError when another daemon is meant than that of this user and machine."""
    from pybuild.client.hosts import chosen

    host = chosen()
    if host is not None:
        raise UsageError(f"`daemon {what}` is for the daemon of this machine, and the host is {host.name}")


@app.command()
def start() -> None:
    """Start the daemon, if none runs, and print its socket."""
    from pybuild.client.remote import Remote

    _refuse_host("start")
    with Remote.connect() as remote:
        write_line(str(remote.status()["socket"]))


@app.command()
def stop(
    now: Annotated[bool, typer.Option("--now", help="Cancel its builds instead of waiting for them.")] = False,
) -> None:
    """Stop the daemon and wait for its end; builds get some seconds to end."""
    from pybuild.client.errors import DaemonError
    from pybuild.client.remote import Remote
    from pybuild.client.start import place, wait_for_end, wait_for_start

    _refuse_host("stop")
    where = place()
    wait_for_start(where)
    remote = Remote.running(where)
    if remote is None:
        if not wait_for_end(where, STOP_SECONDS):
            raise DaemonError("the daemon is stopping, but does not end", f"its log is `{where.log}`")
        write_line("not running")
        return
    with remote:
        remote.stop(now=now)
    if not wait_for_end(where, STOP_SECONDS):
        raise DaemonError("the daemon does not end", f"its log is `{where.log}`")
    write_line("stopped")


@app.command()
def status(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell whether the daemon runs, and where its socket is; with a host, that of the host."""
    from time import time

    from pybuild.progress.amounts import human_duration

    told = _told()
    if json_:
        write_line(as_json(told))
    elif not told["running"]:
        write_line("not running")
    else:
        up = human_duration(max(0.0, time() - float(told["started"])))
        write_line(f"running since {up}, pid {told['pid']}, version {told['version']}, {told['builds']} builds")
        for name in told["listens"]:
            write_line(f"listens on {name}")
        write_line(f"store {told['store']}")


def _told() -> dict[str, Any]:
    from pybuild.client.hosts import chosen
    from pybuild.client.remote import Remote
    from pybuild.client.start import place, wait_for_start

    host = chosen()
    if host is not None:
        from pybuild.client.distant import Distant

        with Distant(host) as distant:
            return {"running": True, "host": host.url, **distant.status()}
    where = place()
    wait_for_start(where)
    told: dict[str, Any] = {"running": False, "socket": str(where.socket), "log": str(where.log)}
    remote = Remote.running(where)
    if remote is not None:
        with remote:
            told = {**told, "running": True, **remote.status()}
    return told


@app.command()
def run(
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", help="Listen there too; without TLS on loopback only.", metavar="tcp://ADDR:PORT"),
    ] = None,
    tls_ca: Annotated[
        str, typer.Option("--tls-ca", help="Whose certificates clients must show (PEM).", metavar="FILE")
    ] = "",
    tls_cert: Annotated[
        str, typer.Option("--tls-cert", help="The daemon's own certificate (PEM).", metavar="FILE")
    ] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", help="The key of that (PEM).", metavar="FILE")] = "",
) -> int:
    """Run the daemon in the foreground until it is stopped; sockets of systemd's are taken over."""
    import signal

    from pybuild.daemon.serve import main

    # The daemon has its own ways to end
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    files = {"--tls-ca": tls_ca, "--tls-cert": tls_cert, "--tls-key": tls_key}
    given = [word for name, path in files.items() if path for word in (name, path)]
    return main([*(word for address in listen or () for word in ("--listen", address)), *given])


@app.command("dial-stdio", hidden=True)
def dial_stdio(
    socket: Annotated[str, typer.Option("--socket", help="That of the daemon; this user's without it.")] = "",
) -> None:
    """Be a connection to the daemon, started if none runs: what `--host ssh://` runs on the far side."""
    import os
    import signal
    from pathlib import Path

    from pybuild.client.start import connect_or_start, place
    from pybuild.client.stdio import relay

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if not socket:
        where = place()
        connect_or_start(where).close()
    os.chdir("/")
    relay(Path(socket) if socket else where.socket)


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is added.")] = False,
    tail: Annotated[int, typer.Option("-n", "--tail", help="Print the last lines only; 0 is all.", min=0)] = 0,
) -> int:
    """Print the log of the daemon."""
    from time import sleep

    from pybuild.client.start import place

    path = place().log
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
            _print(lines[-tail:] if tail else lines)
            while follow:
                sleep(0.2)
                _print(file.read().splitlines())
    except FileNotFoundError as error:
        raise PybuildError("the daemon has not run yet: there is no log") from error
    except OSError as error:
        raise PybuildError(f"cannot read the log: {path}: {error.strerror}") from error
    return ExitCode.OK


def _print(lines: list[str]) -> None:
    from pybuild.progress.escape import escape

    if lines:
        write_line("\n".join(map(escape, lines)))
        sys.stdout.flush()
