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
        "install": ("pybuild.commands.plugins:install", "Install a plugin: a wheel, a project, an executable, a name"),
        "remove": ("pybuild.commands.plugins:remove", "Remove a plugin that was installed here"),
        "verify": ("pybuild.commands.plugins:verify", "See whether installed plugins are what they were"),
        "disable": ("pybuild.commands.plugins:disable", "Switch a plugin off"),
        "enable": ("pybuild.commands.plugins:enable", "Switch a plugin on again"),
        "new": ("pybuild.commands.plugins:new", "Begin a plugin of your own"),
        "test": ("pybuild.commands.plugins:run_tests", "Run the tests of a plugin's project"),
        "env": ("pybuild.commands.plugins:env", "Show what plugins are given and where they are"),
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
    _check_known(name)
    _switch(name, off=True)


def enable(
    name: Annotated[str, Argument(help="The name of a plugin.", metavar="NAME")],
) -> None:
    """Switch a plugin on again."""
    _check_known(name)
    _switch(name, off=False)


def install(
    what: Annotated[str, Argument(help="A wheel, a project's directory, pybuild-NAME, or a name.", metavar="WHAT")],
    offline: Annotated[str, Option("--offline", help="Take wheels from here only.", metavar="DIR")] = "",
    link: Annotated[bool, Option("--link", help="Use a project in place.")] = False,
) -> None:
    """Install a plugin for yourself, with what it depends on. It runs with all your rights, as any program does."""
    from pybuild.commands.table import rows
    from pybuild.plugin.installing import install as put

    found = put(what, offline=offline, link=link, taken=rows())
    write_line(f"installed {found.name} {found.version}")


def remove(
    name: Annotated[str, Argument(help="A plugin, or its distribution.", metavar="NAME")],
) -> None:
    """Remove a plugin that `pybuild plugin install` has put there."""
    from pybuild.plugin.installing import remove as take_away

    for gone in take_away(name):
        write_line(f"removed {gone}")


def verify(
    name: Annotated[str, Argument(help="A distribution; all without.", metavar="[NAME]")] = "",
) -> int:
    """See whether the files of installed plugins are what they were; exit code 1 when not."""
    from pybuild.plugin.installing import verified

    found = [*verified(name)]
    if name and not found:
        raise NotFoundError(f"not installed here: {name}", "`pybuild plugin list` shows all")
    for one, changes in found:
        write_line("\n".join(f"{one} {change}" for change in changes or ["ok"]))
    return ExitCode.FAILED if any(changes for _, changes in found) else ExitCode.OK


def new(
    name: Annotated[str, Argument(help="What the command is to be called.", metavar="NAME")],
    directory: Annotated[str, Argument(help="Where to (pybuild-NAME).", metavar="[DIR]")] = "",
) -> None:
    """Begin a plugin: a project with a command, its tests and a CI file."""
    from pathlib import Path

    from pybuild.commands.table import rows
    from pybuild.plugin.projects import make

    place = Path(directory or f"pybuild-{name}")
    try:
        made = make(name, place, rows())
    except OSError as error:
        raise PybuildError(f"cannot write: {place}: {error.strerror}") from error
    write_line("\n".join([*map(str, made), "", f"Use it from there: pybuild plugin install --link {place}"]))


def run_tests(
    directory: Annotated[str, Argument(help="A project.", metavar="[DIR]")] = ".",
) -> int:
    """Run the tests of a plugin's project by pytest, against this pybuild."""
    import subprocess
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    from pybuild.plugin.projects import pytest_environment

    project = Path(directory).absolute()
    if not (project / "pyproject.toml").is_file():
        raise NotFoundError(f"no project: {directory}", "`pybuild plugin new NAME` makes one")
    if getattr(sys, "frozen", False) or find_spec("pytest") is None:
        raise PybuildError("pytest is not there", "`pip install pytest` beside pybuild")
    command = [sys.executable, "-P", "-m", "pytest", "--rootdir", str(project), str(project)]
    done = subprocess.run(command, env=pytest_environment(project), cwd=project)
    return ExitCode.FAILED if done.returncode else ExitCode.OK


def env(
    json: Annotated[bool, Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what plugins are given: versions that are part of the interface, and places."""
    import sys

    from pybuild import __version__
    from pybuild.plugin import places
    from pybuild.plugin.dependencies import ours
    from pybuild.plugin.found import API_VERSION

    values: dict[str, Any] = {
        "pybuild": __version__,
        "api": API_VERSION,
        "python": ".".join(map(str, sys.version_info[:3])),
        **ours(),
        "directories": places.plugin_directories(),
        "installed": places.site_directories(),
        "path": places.path_directories(),
    }
    if json:
        write_line(as_json(values))
    else:
        lists = {key: ", ".join(value) if isinstance(value, list) else str(value) for key, value in values.items()}
        write_line("\n".join(f"{key + ':':24}{value}" for key, value in lists.items() if value))


def _with_clash(plugin: Found) -> Found:
    from pybuild.commands.table import rows

    if plugin.kind in (COMMAND, EXECUTABLE) and plugin.name in rows() and not plugin.problem:
        return plugin._replace(problem="its name is that of a built-in command")
    return plugin


def _named(name: str) -> list[Found]:
    every = find()
    found = [plugin for plugin in every if plugin.name == name]
    if not found:
        from pybuild.commands.table import rows

        if name in rows():
            raise NotFoundError(f"no plugin that was installed: {name}: it is built in", f"`pybuild {name} --help`")
        known = ", ".join(sorted({plugin.name for plugin in every}))
        raise NotFoundError(
            f"no such plugin: {name}", f"known: {known}" if known else "none is installed: `pybuild plugin install`"
        )
    return found


def _check_known(name: str) -> None:
    """Raise NotFoundError for what is no plugin; one that was switched off and is gone may be named still."""
    from pybuild.plugin import places

    if name not in places.disabled():
        _named(name)


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
