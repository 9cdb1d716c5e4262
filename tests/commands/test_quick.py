"""Ordinary command lines are read without typer, and just as typer reads them."""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from pybuild.commands.group import typer_of
from pybuild.commands.quick import parse, with_bare_values
from pybuild.commands.table import rows, target_of
from pybuild.plugin.option import Commands, Row
from support.fake_world import World


def functions(named: Mapping[str, Row], above: str = "") -> dict[str, FunctionType]:
    """Return the functions of all commands, those in groups included."""
    found: dict[str, FunctionType] = {}
    for name, row in named.items():
        match target_of(row.target):
            case FunctionType() as function:
                found[above + name] = function
            case Commands() as group:
                found |= functions(group.rows, f"{above}{name} ")
    return found


COMMANDS = functions(rows())
PIECES = st.sampled_from(
    [
        *("-t", "--tag", "--tag=a", "-ta", "-t=a", "-f", "-f-", "--file", "--file=", "-q", "--quiet", "--quiet=1"),
        *("--inline", "--no-inline", "--no-cache", "--build-arg", "--build-arg=A=b=c", "-qa", "-aq", "-a", "--all"),
        *("--format", "{{.ID}}", "--", "-", "", ".", "name", "other", "--human", "--no-human", "-n", "--unknown"),
        *("--cpu-quota", "--cpu-quota=7", "--pids-limit=-1", "12", "-3", "1e3", "--cpu-period= 5", "-m1g"),
        *("--help", "-h", "--tag-", "-", "-o", "type=oci", "--metadata-file", "--force", "-é", "--é", "ö=ü", "\udcff"),
    ]
)


def as_typer_has_it(name: str, words: list[str]) -> dict[str, Any] | None:
    """Return the arguments typer would call the command with, None when it complains or shows help."""
    command = get_command(typer_of(COMMANDS[name], name))
    seen: list[dict[str, Any]] = []

    def note(**values: Any) -> None:
        # What is left out is an empty tuple to it, and None to the function
        seen.append({key: list(value) or None if isinstance(value, tuple) else value for key, value in values.items()})

    command.callback = note
    try:
        command.main(args=words, prog_name=name, standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return None
    return seen[0] if seen else None


@given(st.sampled_from(sorted(COMMANDS)), st.lists(PIECES, max_size=7))
def test_it_reads_what_typer_reads(name: str, words: list[str]) -> None:
    values = parse(COMMANDS[name], words)
    if values is None:
        return
    function = COMMANDS[name]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    complete = {**dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)), **values}
    complete.pop("debug", None)
    assert complete == as_typer_has_it(name, [word for word in words if word not in ("-v", "--debug")])


@pytest.mark.parametrize(
    ("name", "words", "values"),
    [
        ("build", ["-t", "a", "--tag=b", "-tc", "."], {"tag": ["a", "b", "c"], "context": "."}),
        ("build", [".", "--no-inline", "-q", "-f", "-"], {"context": ".", "inline": False, "quiet": True, "file": "-"}),
        ("build", ["--", "-x"], {"context": "-x"}),
        ("build", ["--pull", "."], {"pull": "always", "context": "."}),
        ("build", ["--pull=never", "."], {"pull": "never", "context": "."}),
        ("build", ["-v", "."], {"debug": True, "context": "."}),
        ("rmi", ["a", "-f", "b"], {"name": ["a", "b"], "force": True}),
        ("tag", ["a", "b"], {"name": "a", "new_name": "b"}),
        ("images", [], {}),
        ("shell", ["-eA=b", "x", "--", "ls", "-l"], {"env": ["A=b"], "name": "x", "command": ["ls", "-l"]}),
        ("shell", ["x"], {"name": "x"}),
        ("shell", ["x", "ls", "-l"], None),
        ("build", [], None),
        ("build", [".", "more"], None),
        ("build", ["--help"], None),
        ("build", ["-t"], None),
        ("rmi", ["-f"], None),
    ],
)
def test_what_it_makes_of_words(name: str, words: list[str], values: dict[str, Any] | None) -> None:
    assert parse(COMMANDS[name], words) == values


def test_all_parameters_of_all_commands_can_be_read() -> None:
    hidden = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    assert not [name for name, function in COMMANDS.items() if function.__code__.co_flags & hidden]
    for name, function in COMMANDS.items():
        required = function.__code__.co_argcount - len(function.__defaults__ or ())
        assert parse(function, ["word"] * required) is not None, name


def test_an_ordinary_build_imports_little(world: World) -> None:
    world.connect().__exit__(None, None, None)
    context = world.base / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch")
    arguments = ["build", "-t", "x", "--build-arg", "A=b", str(context)]
    code = f"import sys; from pybuild.commands.app import run; print(run({arguments!r}), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    status, *modules = done.stdout.split()
    assert status == "0", done.stderr
    assert "pybuild.client.remote" in modules
    heavy = {"typer", "msgspec", "ssl", "dataclasses", "inspect", "hashlib", "asyncio", "aiohttp", "sqlite3", "tomllib"}
    assert not heavy & set(modules)


def test_an_option_said_without_its_value_has_one_for_typer_too() -> None:
    words = with_bare_values(COMMANDS["build"], ["-qt", "x", "--pull", ".", "--", "--pull"])
    assert words == ["-qt", "x", "--pull=always", ".", "--", "--pull"]
    found = as_typer_has_it("build", with_bare_values(COMMANDS["build"], ["-q", "--pull", "."]))
    assert found is not None
    assert (found["pull"], found["context"]) == ("always", ".")
