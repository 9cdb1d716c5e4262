"""The page for authors of plugins, followed to the letter."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybuild.plugin
from support import program
from support.processes import adopt_orphans

PAGE = Path(__file__).parents[2] / "plugins" / "README.md"
_BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WRITE = re.compile(r"(Write|Add)\s+this\s+to\s+`([^`]+)`:\s*\Z")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A shell in an empty directory, with `pybuild` on its PATH."""
    adopt_orphans()
    with program.world("inline") as world:
        tools = world.base / "bin"
        tools.mkdir()
        (tools / "pybuild").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m pybuild "$@"\n')
        (tools / "pybuild").chmod(0o755)
        env = {**world.env, "PATH": f"{tools}{os.pathsep}{world.env['PATH']}"}
        pipe = subprocess.PIPE
        shell = subprocess.Popen(["bash", "-eu"], stdin=pipe, stdout=pipe, text=True, env=env, cwd=tmp_path)
        yield shell
        assert shell.stdin is not None
        shell.stdin.close()
        assert shell.wait(60) == 0
        assert shell.stdout is not None
        shell.stdout.close()


def say(shell: "subprocess.Popen[str]", script: str) -> str:
    """Let the shell run a script and return what it wrote."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{script}\necho '<end>'\n")
    shell.stdin.flush()
    out = ""
    while not out.endswith("<end>\n"):
        line = shell.stdout.readline()
        assert line, f"the shell has ended in:\n{script}\n{out}"
        out += line
    return out.removesuffix("<end>\n")


def test_all_of_it_works_as_it_says(shell: "subprocess.Popen[str]", tmp_path: Path) -> None:
    text = PAGE.read_text()
    out, told, files = "", 0, 0
    for block in _BLOCK.finditer(text):
        kind, body = block[1], block[2]
        named = _WRITE.search(text[: block.start()])
        if named:
            place = Path(say(shell, "pwd").strip()) / named[2]
            place.write_text((place.read_text() if named[1] == "Add" else "") + body)
            files += 1
        elif kind == "sh":
            out = say(shell, body)
        elif kind == "text":
            # What is told of earlier commands of a block may be more than what the page shows
            assert out.endswith(body), body
            told += 1
        else:
            raise AssertionError(f"nobody knows what to do with: {body}")
    assert (told, files) == (8, 7)


def test_it_names_all_there_is() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(named) == sorted(pybuild.plugin.__all__)
