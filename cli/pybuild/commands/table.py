"""The commands: name -> where it is and what it is for. Neither help nor completion imports a command."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pybuild.plugin.found import COMMAND, EXECUTABLE, Found, usable
from pybuild.plugin.option import Commands, Row

BUILT_IN: dict[str, Row] = {
    "build": Row("pybuild.commands.build:build", "Build an image from a Dockerfile"),
    "shell": Row("pybuild.commands.shell:shell", "Look around in an image or a failed step"),
    "pull": Row("pybuild.commands.pull:pull", "Bring images here from their registries"),
    "push": Row("pybuild_push.command:push", "Bring images to their registries"),
    "login": Row("pybuild.commands.login:login", "Log in to a registry"),
    "logout": Row("pybuild.commands.logout:logout", "Forget the credentials for a registry"),
    "auth": Row("pybuild.commands.auth:app", "See which credentials are used, and why"),
    "images": Row("pybuild.commands.images:images", "List images"),
    "inspect": Row("pybuild.commands.inspect:inspect", "Show all there is to know about images"),
    "layers": Row("pybuild_layers.command:layers", "Show what each layer of an image adds, changes and hides"),
    "sbom": Row("pybuild_sbom.command:sbom", "List the packages in an image as a bill of materials"),
    "manifest": Row("pybuild.commands.manifest:app", "Make and see indexes of images for several platforms"),
    "history": Row("pybuild.commands.history:history", "Show how an image came to be"),
    "verify": Row("pybuild.commands.verify:verify", "Build an image again and compare"),
    "tag": Row("pybuild.commands.tag:tag", "Give an image another name"),
    "rmi": Row("pybuild.commands.rmi:rmi", "Remove images"),
    "save": Row("pybuild.commands.save:save", "Write images to an archive"),
    "load": Row("pybuild.commands.load:load", "Take images in from an archive or an OCI layout"),
    "import": Row("pybuild.commands.import_:import_", "Make an image of a root file system archive"),
    "explain": Row("pybuild.commands.explain:explain", "Tell why steps of a build were not cached"),
    "check": Row("pybuild_check.command:check", "Find mistakes in a Dockerfile, and what could be better"),
    "context": Row("pybuild_context.command:app", "See what a build would read, and what it never uses"),
    "ignore": Row("pybuild_ignore.command:app", "Look into .dockerignore: what it leaves out, and why"),
    "prune": Row("pybuild.commands.prune:prune", "Remove what nothing needs"),
    "df": Row("pybuild.commands.df:df", "Show how much of the disk is used"),
    "daemon": Row("pybuild.commands.daemon:app", "Start, stop and look at the daemon"),
    "host": Row("pybuild.commands.host:app", "See which daemons of other machines have names"),
    "env": Row("pybuild.commands.env:env", "Print what makes docker's tools build with pybuild"),
    "plugin": Row("pybuild.commands.plugins:app", "See which plugins there are, switch them on and off"),
    "doctor": Row("pybuild.commands.doctor:doctor", "Find out what builds can do here, and what would help"),
    "self": Row("pybuild.commands.self_:app", "Test this program where it stands"),
    "version": Row("pybuild.commands.version:version", "Show versions"),
    "completion": Row("pybuild.commands.completion:completion", "Print a completion script for a shell"),
}


def rows() -> Mapping[str, Row]:
    """Return the commands that come with pybuild in the order of help."""
    return BUILT_IN


def plugins() -> Mapping[str, Found]:
    """Return the plugins that are commands; none ever takes the name of a built-in one."""
    return {name: plugin for name, plugin in usable((COMMAND, EXECUTABLE)).items() if name not in BUILT_IN}


def find(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the command that the first words name, None for none, and the words that are left for it.

    Raises PluginError for a plugin that cannot be used. An executable takes the place of this process.
    """
    words = list(arguments)
    command = command_of(words.pop(0), words) if words else None
    while isinstance(command, Commands):
        row = command.rows.get(words[0]) if words else None
        if row is None:
            return None, words
        command = target_of(row.target)
        words.pop(0)
    return command, words


def command_of(name: str, words: Sequence[str]) -> Any:
    """Return the command of a name, None for none; an executable is run with `words`."""
    row = rows().get(name)
    if row is not None:
        return target_of(row.target)
    if name.startswith("-") or name not in (known := plugins()):
        return None
    from pybuild.plugin.load import load

    return load(known[name], words)


def target_of(target: str) -> Any:
    """Import a command and return its function or application."""
    module, _, attribute = target.partition(":")
    if not module.startswith("pybuild."):
        from pybuild.plugin.load import see_bundled

        see_bundled()
    return getattr(import_module(module), attribute)
