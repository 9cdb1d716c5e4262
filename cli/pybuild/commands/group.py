"""The root group: commands are found by the table and imported when they run."""

import os
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from typer.core import TyperGroup, TyperOption
from typer.main import get_command as to_command

from pybuild.commands.table import command_of, plugins, rows, target_of
from pybuild.errors import CancelledError, UsageError
from pybuild.plugin.option import Argument, Commands, Option, Row

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class TableGroup(TyperGroup):
    """A group whose commands stand in a table and are imported when they run."""

    table: ClassVar[Mapping[str, Row]] = {}

    def names(self) -> Mapping[str, str]:
        """Return the help of each command by name."""
        return {name: row.help for name, row in self.table.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.names()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        row = self.table.get(cmd_name)
        return None if row is None else load(cmd_name, target_of(row.target))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*self.names().items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, known = args[0], self.names()
        if name not in known and not name.startswith("-"):
            near = nearest(name, [*known])
            path = ctx.command_path
            raise UsageError(
                f"no such command: {' '.join([*path.split()[1:], name])}",
                f"did you mean `{near}`?" if near else f"`{path} --help` lists them",
            )
        return super().resolve_command(ctx, args)


class LazyGroup(TableGroup):
    """The root: the built-in commands, and those of plugins."""

    _words: Sequence[str] = ()

    def names(self) -> Mapping[str, str]:
        return {name: row.help for name, row in rows().items()} | {
            name: plugin.summary for name, plugin in plugins().items()
        }

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = command_of(cmd_name, self._words)
        return None if command is None else load(cmd_name, command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # An executable never comes back for them
        self._words = args[1:]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in rows().items()])
        found = plugins().items()
        if found:
            with formatter.section("Plugins"):
                told = [(name, f"cannot be used: {it.problem}" if it.problem else it.summary) for name, it in found]
                formatter.write_dl(told)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # typer would end with the right status and not a word
            raise CancelledError("interrupted") from error


def load(name: str, found: Any) -> Any:
    """Return what typer makes of a command: a function, an application of typer's or a group."""
    if isinstance(found, typer.Typer):
        command = to_command(found)
    elif isinstance(found, Commands):
        command = to_command(group_of(found))
    else:
        command = to_command(typer_of(found, name))
        command.params += [debug_option(), host_option()]
    command.name = name
    return command


def group_of(commands: Commands) -> typer.Typer:
    """Return an application of several commands."""
    kind = type("Group", (TableGroup,), {"table": commands.rows})
    app = typer.Typer(
        cls=kind,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
    )

    def root() -> None:
        pass

    root.__doc__ = commands.help
    app.callback()(root)
    return app


def typer_of(function: Callable[..., Any], name: str) -> typer.Typer:
    """Return an application of one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, context_settings=SETTINGS)(with_typers_own(function))
    return app


def with_typers_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with typer's annotations in the place of ours."""
    own = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    own.__doc__, own.__kwdefaults__ = function.__doc__, function.__kwdefaults__
    hints = get_type_hints(function, include_extras=True)
    own.__annotations__ = {name: _typers_own(annotation) for name, annotation in hints.items()}
    return own


def _typers_own(annotation: Any) -> Any:
    found, *marks = get_args(annotation) or (annotation,)
    match marks:
        case [Option() as option]:
            return Annotated[found, typer.Option(*option.names, help=option.help, metavar=option.metavar)]
        case [Argument() as argument]:
            return Annotated[found, typer.Argument(help=argument.help, metavar=argument.metavar)]
    return annotation


def debug_option() -> TyperOption:
    """Return `-v/--debug`, which every command takes; it is a matter of the boundary, not of the command."""
    return TyperOption(
        param_decls=["-v", "--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_debug,
        help="Show tracebacks of errors.",
    )


def _debug(ctx: Any, param: Any, value: bool) -> None:
    if value:
        os.environ["PYBUILD_DEBUG"] = "1"


def host_option() -> TyperOption:
    """Return `--host`, which every command takes: whose daemon is asked is no matter of the command either."""
    return TyperOption(
        param_decls=["--host"],
        is_eager=True,
        expose_value=False,
        callback=_host,
        metavar="HOST",
        help="The daemon to ask: ssh://[USER@]MACHINE, tcp://..., unix://... or a name of the configuration.",
    )


def _host(ctx: Any, param: Any, value: str | None) -> None:
    if value is not None:
        from pybuild.commands.app import choose_host

        choose_host(value)


def nearest(name: str, names: list[str]) -> str:
    """Return the name most like `name`, "" when none is."""
    from difflib import get_close_matches

    return (get_close_matches(name, names, 1, 0.6) or [""])[0]


def make_root() -> Any:
    """Return the root command."""
    app = typer.Typer(
        cls=LazyGroup,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
    )

    @app.callback(invoke_without_command=True)
    def root(ctx: typer.Context) -> None:
        """Build container images without root, without Docker.

        `pybuild COMMAND --help` tells about a command.
        """
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help())

    command = to_command(app)
    command.params += [debug_option(), host_option()]
    version = TyperOption(
        param_decls=["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_version,
        help="Show the version.",
    )
    command.params.append(version)
    return command


def _version(ctx: Any, param: Any, value: bool) -> None:
    if value:
        from pybuild import __version__

        typer.echo(f"pybuild {__version__}")
        raise typer.Exit
