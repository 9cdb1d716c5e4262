"""`pybuild plugin`: which plugins there are, by their metadata; none is run for that."""

from typing import Annotated, Any

from pybuild.commands.option import Argument, Option
from pybuild.commands.output import as_json, table, write_line
from pybuild.errors import ExitCode, NotFoundError, PybuildError
from pybuild.plugin.found import COMMAND, EXECUTABLE, Found, find
from pybuild.plugin.option import Commands

app = Commands(
    "See which plugins there are, switch them on and off.",
    {
        "list": ("pybuild.commands.plugins:list_", "List plugins, and what is wrong with them"),
        "show": ("pybuild.commands.plugins:show", "Show all that is known of a plugin"),
        "disable": ("pybuild.commands.plugins:disable", "Switch a plugin off"),
        "enable": ("pybuild.commands.plugins:enable", "Switch a plugin on again"),
    },
)


def list_(
    json: Annotated[bool, Option("--json", help="One JSON object for each.")] = False,
) -> int:
    """List plugins, and what is wrong with them; exit code 1 when a name cannot be used."""
    found = [_with_clash(plugin) for plugin in find()]
    if json:
        for plugin in found:
            write_line(as_json(plugin._asdict()))
    elif found:
        rows = [
            [plugin.name, plugin.kind, plugin.distribution, plugin.version, plugin.problem or "ok"] for plugin in found
        ]
        write_line("\n".join(table(["NAME", "KIND", "FROM", "VERSION", "STATE"], rows)))
    return ExitCode.FAILED if any(plugin.problem not in ("", "disabled") for plugin in found) else ExitCode.OK


def show(
    name: Annotated[str, Argument(help="The name of a plugin.", metavar="NAME")],
    json: Annotated[bool, Option("--json", help="As JSON.")] = False,
) -> None:
    """Show all that is known of a plugin."""
    for plugin in _named(name):
        values: dict[str, Any] = _with_clash(plugin)._asdict()
        if json:
            write_line(as_json(values))
        else:
            write_line("\n".join(f"{key + ':':14}{value}" for key, value in values.items() if value))


def disable(
    name: Annotated[str, Argument(help="The name of a plugin.", metavar="NAME")],
) -> None:
    """Switch a plugin off: it stays where it is and is not used."""
    _named(name)
    _switch(name, off=True)


def enable(
    name: Annotated[str, Argument(help="The name of a plugin.", metavar="NAME")],
) -> None:
    """Switch a plugin on again."""
    _switch(name, off=False)


def _with_clash(plugin: Found) -> Found:
    from pybuild.commands.table import rows

    if plugin.kind in (COMMAND, EXECUTABLE) and plugin.name in rows() and not plugin.problem:
        return plugin._replace(problem="its name is that of a built-in command")
    return plugin


def _named(name: str) -> list[Found]:
    found = [plugin for plugin in find() if plugin.name == name]
    if not found:
        raise NotFoundError(f"no such plugin: {name}", "`pybuild plugin list` shows all")
    return found


def _switch(name: str, *, off: bool) -> None:
    import os

    from pybuild.commands.output import new_file
    from pybuild.plugin import places

    names = places.disabled()
    if off == (name in names):
        return
    from pathlib import Path

    try:
        os.makedirs(places.own_directory(), mode=0o700, exist_ok=True)
    except OSError as error:
        raise PybuildError(f"cannot make a directory: {places.own_directory()}: {error.strerror}") from error
    with new_file(Path(places.disabled_file())) as file:
        file.write("".join(f"{one}\n" for one in sorted(names ^ {name})).encode())
