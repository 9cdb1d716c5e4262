"""The commands: name -> where it is and what it is for. Neither help nor completion imports a command."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A command: `target` is "module:name" of a function annotated as `option` or typer has it, or of a typer app."""

    target: str
    help: str


BUILT_IN: dict[str, Row] = {
    "build": Row("pybuild.commands.build:build", "Build an image from a Dockerfile"),
    "shell": Row("pybuild.commands.shell:shell", "Look around in an image or a failed step"),
    "images": Row("pybuild.commands.images:images", "List images"),
    "inspect": Row("pybuild.commands.inspect:inspect", "Show all there is to know about images"),
    "history": Row("pybuild.commands.history:history", "Show how an image came to be"),
    "verify": Row("pybuild.commands.verify:verify", "Build an image again and compare"),
    "tag": Row("pybuild.commands.tag:tag", "Give an image another name"),
    "rmi": Row("pybuild.commands.rmi:rmi", "Remove images"),
    "save": Row("pybuild.commands.save:save", "Write images to an archive"),
    "load": Row("pybuild.commands.load:load", "Take images in from an archive or an OCI layout"),
    "import": Row("pybuild.commands.import_:import_", "Make an image of a root file system archive"),
    "explain": Row("pybuild.commands.explain:explain", "Tell why steps of a build were not cached"),
    "prune": Row("pybuild.commands.prune:prune", "Remove what nothing needs"),
    "df": Row("pybuild.commands.df:df", "Show how much of the disk is used"),
    "daemon": Row("pybuild.commands.daemon:app", "Start, stop and look at the daemon"),
    "doctor": Row("pybuild.commands.doctor:doctor", "Find out what builds can do here, and what would help"),
    "version": Row("pybuild.commands.version:version", "Show versions"),
    "completion": Row("pybuild.commands.completion:completion", "Print a completion script for a shell"),
}


def rows() -> Mapping[str, Row]:
    """Return all commands in the order of help.

    Commands of plugins are merged here, below the built-in ones: `{**plugins, **BUILT_IN}` never lets a plugin
    take a built-in name.
    """
    return BUILT_IN


def target_of(target: str) -> Any:
    """Import a command and return its function or application."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
