"""What a parameter of a command is on the command line, said without typer.

A command is a function whose parameters are `Annotated[type, Option(...)]` or `Annotated[type, Argument(...)]`.
The command line turns these into typer's own for help, completion and complaints, and reads ordinary words as they
are, without typer, whose import takes longer than many a command. A group of commands is a `Commands`.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple


class Option:
    """An option called `names`; without names it is `--` and the parameter's name.

    Flags name themselves; one that can be said both ways is a single name of the form `--yes/--no`. With `bare` an
    option takes its value after `=` only, and has that one without (`--pull`, `--pull=never`).
    """

    __slots__ = ("bare", "help", "metavar", "names")

    def __init__(self, *names: str, help: str, metavar: str | None = None, bare: str = "") -> None:
        self.names, self.help, self.metavar, self.bare = names, help, metavar, bare


class Argument:
    """A positional argument; a list takes all that are left, and at least one unless it has a default."""

    __slots__ = ("help", "metavar")

    def __init__(self, *, help: str, metavar: str) -> None:
        self.help, self.metavar = help, metavar


class Row(NamedTuple):
    """A command: `target` is "module:name" of a function annotated as above or as typer has it, of a typer app, or of
    a `Commands`; `help` is one line about it.
    """

    target: str
    help: str


class Commands:
    """A command that has commands: `rows` by name. None is imported before it is called."""

    __slots__ = ("help", "rows")

    def __init__(self, help: str, rows: Mapping[str, tuple[str, str]]) -> None:
        self.help, self.rows = help, {name: Row(*row) for name, row in rows.items()}


ProgressKind = Annotated[str, Option(help="auto, tty, plain or json (one event a line).", metavar="KIND")]
"""`--progress`"""

InsecureRegistries = Annotated[
    list[str] | None,
    Option(
        "--insecure-registry",
        help="A registry that may speak plain HTTP, or show any certificate.",
        metavar="HOST[:PORT]",
    ),
]
"""`--insecure-registry`"""
