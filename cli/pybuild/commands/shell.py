"""`pybuild shell`: a terminal in an image, or in what a failed step left."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

from pybuild.api.events import Failed, Notice, ShellEnded, ShellOpened
from pybuild.api.request import ShellRequest
from pybuild.commands.option import Argument, Option
from pybuild.errors import PybuildError, UsageError

NOT_EXECUTABLE = 126


def shell(
    name: Annotated[
        str, Argument(help="An image, or the name a failed build with --shell-on-fail told.", metavar="IMAGE|BUILD")
    ],
    command: Annotated[
        list[str] | None, Argument(help="What to run, after `--`; a shell without it.", metavar="COMMAND")
    ] = None,
    env: Annotated[
        list[str] | None,
        Option("-e", "--env", help="Variable; NAME alone takes it from the environment.", metavar="NAME=V"),
    ] = None,
    user: Annotated[str, Option("-u", "--user", help="User, and group after a colon.", metavar="USER")] = "",
    workdir: Annotated[str, Option("-w", "--workdir", help="Where to be.", metavar="DIR")] = "",
    network: Annotated[str, Option(help="As of `pybuild build`.", metavar="MODE")] = "",
    root_emulation: Annotated[str, Option(help="As of `pybuild build`; images only.", metavar="HOW")] = "auto",
    snapshotter: Annotated[str, Option(help="As of `pybuild build`; images only.", metavar="KIND")] = "",
    isolation: Annotated[str, Option(help="As of `pybuild build`.", metavar="KIND")] = "",
    inline: Annotated[
        bool | None,
        Option("--inline/--no-inline", help="In this process, or in the daemon; the default is what is ready."),
    ] = None,
) -> int:
    """Run a command, or a shell on a terminal, in the tree of an image; its changes are gone afterwards.

    In the tree of a failed step that was kept, with all that the step had, they stay. The exit status is the command's.
    """
    from pybuild.commands import flags, proxies
    from pybuild.engine import paths

    settings = paths.config()
    request = ShellRequest(
        name=name,
        command=tuple(command or ()),
        env=variables(env or ()),
        user=user,
        workdir=workdir,
        network=flags.network(network) if network else "",
        terminal=os.isatty(0) and os.isatty(1),
        term=os.environ.get("TERM", ""),
        proxies=proxies.configured(settings, os.environ),
        root_emulation=flags.emulation(root_emulation),
        snapshotter=flags.snapshotter(snapshotter, settings),
        isolation=flags.isolation(isolation, settings),
    )
    from pybuild.client import connect

    with connect(inline=inline) as backend, closing(backend.shell(request)) as events:
        for event in events:
            match event:
                case ShellOpened():
                    _use(backend.attach(event.token), request.terminal)
                case Notice():
                    _tell(f"{event.level}: {event.message}")
                case ShellEnded():
                    return _ended(event)
                case Failed():
                    return _failed(event)
    raise PybuildError("the shell ended without a result")


def variables(given: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` and `NAME` options; the latter take their value from the environment, if it has one."""
    values: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError(f"--env is NAME=VALUE or NAME, not: {item}")
        if equals or name in os.environ:
            values[name] = value if equals else os.environ[name]
    return values


def _use(fds: list[int], terminal: bool) -> None:
    from pybuild.client import relay

    sys.stdout.flush()
    if terminal:
        relay.visit_terminal(fds, 0, 1)
    else:
        relay.visit_pipes(fds, 0, 1, 2)


def _ended(event: ShellEnded) -> int:
    # What could not be executed has said so itself, on its terminal or standard error
    return event.status if event.status >= 0 else NOT_EXECUTABLE


def _failed(event: Failed) -> int:
    from pybuild.plugin.events import exit_code_of
    from pybuild.progress.failure import failure_lines

    _tell("\n".join(failure_lines(event.failure)))
    return exit_code_of(event)


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
