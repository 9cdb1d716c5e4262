"""Writes manual pages and completion scripts: `python share.py DIRECTORY`, where pybuild is installed.

Both come from the commands themselves, so that they cannot tell anything else than `--help`.
"""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from pybuild import __version__
from pybuild.commands.completion import completion
from pybuild.commands.group import load
from pybuild.commands.table import BUILT_IN, target_of

COMPLETIONS = {
    "bash": "bash-completion/completions/pybuild",
    "zsh": "zsh/vendor-completions/_pybuild",
    "fish": "fish/vendor_completions.d/pybuild.fish",
}


def main(directory: Path) -> None:
    """Write all of them below a directory such as /usr/share."""
    for shell, name in COMPLETIONS.items():
        with redirect_stdout(StringIO()) as script:
            completion(shell)
        write(directory / name, script.getvalue())
    for name, row in BUILT_IN.items():
        lines = page(f"pybuild-{name}", row.help, load(name, target_of(row.target)), ["pybuild", name])
        write(directory / f"man/man1/pybuild-{name}.1", "\n".join([*lines, ".SH SEE ALSO", ".BR pybuild (1)", ""]))
    write(directory / "man/man1/pybuild.1", "\n".join([*root(), ""]))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def root() -> Iterator[str]:
    """The page that lists the commands."""
    yield from top("pybuild", "build container images without root, without Docker")
    yield from (".SH SYNOPSIS", r".B pybuild", r"\fICOMMAND\fR [\fIOPTION\fR...] [\fIARGUMENT\fR...]", ".SH COMMANDS")
    for name, row in BUILT_IN.items():
        yield from (".TP", rf".BR pybuild\-{escaped(name)} (1)", escaped(row.help))
    yield from (".SH EXIT STATUS", *statuses())


def statuses() -> Iterator[str]:
    told = {
        0: "done",
        1: "the build or the request failed",
        2: "the command line cannot be meant",
        3: "a bug in pybuild; the message names a log file",
        70: "a plugin that cannot be used, or has a bug",
        130: "interrupted",
    }
    for status, meaning in told.items():
        yield from (".TP", f".B {status}", meaning)


def page(title: str, summary: str, command: Any, words: list[str]) -> Iterator[str]:
    """The page of a command: its own text, its options, then those of its commands."""
    yield from top(title, summary)
    yield ".SH SYNOPSIS"
    yield from synopsis(command, words)
    yield ".SH DESCRIPTION"
    yield from described(command)
    yield from options(command, ".SH OPTIONS")
    for name, sub in commands(command):
        yield f".SH {escaped(' '.join([*words, name])).upper()}"
        yield from synopsis(sub, [*words, name])
        yield ".PP"
        yield from described(sub)
        yield from options(sub, "")


def top(title: str, summary: str) -> Iterator[str]:
    yield f'.TH {escaped(title.upper())} 1 "" "pybuild {__version__}"'
    yield from (".SH NAME", rf"{escaped(title)} \- {escaped(summary[:1].lower() + summary[1:])}")


def commands(command: Any) -> list[tuple[str, Any]]:
    """The commands of a group, whether they stand in a table or are typer's own."""
    if not hasattr(command, "list_commands"):
        return []
    return [(name, command.get_command(None, name)) for name in command.list_commands(None)]


def synopsis(command: Any, words: list[str]) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    names = [named(argument) + ("..." if argument.nargs == -1 else "") for argument in arguments]
    shown = [name if argument.required else f"[{name}]" for name, argument in zip(names, arguments, strict=True)]
    if commands(command):
        shown.append(r"\fICOMMAND\fR")
    yield f".B {escaped(' '.join(words))}"
    yield " ".join([r"[\fIOPTION\fR...]", *shown])


def described(command: Any) -> Iterator[str]:
    for number, paragraph in enumerate(filter(None, (command.help or "").split("\n\n"))):
        if number:
            yield ".PP"
        yield escaped(" ".join(paragraph.split()))
    for parameter in command.params:
        if parameter.param_type_name == "argument" and getattr(parameter, "help", ""):
            yield from (".TP", named(parameter), escaped(parameter.help))


def options(command: Any, heading: str) -> Iterator[str]:
    found = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    if heading and found:
        yield heading
    for parameter in found:
        if not getattr(parameter, "hidden", False):
            names = ", ".join(rf"\fB{escaped(name)}\fR" for name in (*parameter.opts, *parameter.secondary_opts))
            value = "" if parameter.is_flag else f" {named(parameter)}"
            yield from (".TP", names + value, escaped(parameter.help or ""))


def named(parameter: Any) -> str:
    return rf"\fI{escaped(parameter.metavar or str(parameter.name).upper())}\fR"


def escaped(text: str) -> str:
    """As roff has it: hyphens that are meant as such, no command at the start of a line."""
    line = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    main(Path(sys.argv[1]))
