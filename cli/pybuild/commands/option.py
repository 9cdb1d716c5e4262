"""What a parameter of a command is on the command line, said without typer.

A command is a function whose parameters are `Annotated[type, Option(...)]` or `Annotated[type, Argument(...)]`.
`group.load` turns these into typer's own for help, completion and complaints; `quick` reads them as they are.
"""


class Option:
    """An option called `names`; without names it is `--` and the parameter's name.

    Flags name themselves; one that can be said both ways is a single name of the form `--yes/--no`.
    """

    __slots__ = ("help", "metavar", "names")

    def __init__(self, *names: str, help: str, metavar: str | None = None) -> None:
        self.names, self.help, self.metavar = names, help, metavar


class Argument:
    """A positional argument; a list takes all that are left, and at least one unless it has a default."""

    __slots__ = ("help", "metavar")

    def __init__(self, *, help: str, metavar: str) -> None:
        self.help, self.metavar = help, metavar
