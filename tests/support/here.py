"""Commands in this process, for what needs no other one: it takes a tenth of the time."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pybuild.commands.app import tell
from pybuild.commands.quick import parse
from pybuild.commands.table import find
from pybuild.errors import PybuildError


@dataclass(frozen=True)
class Told:
    """What a command wrote."""

    text: str
    err: str


Here = Callable[..., Told]


def make(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    """Run a command in this process, without a daemon and in a store of its own."""
    monkeypatch.setenv("PYBUILD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYBUILD_INLINE", "1")
    monkeypatch.delenv("CI", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))

    def run(*words: str | Path, status: int = 0, stdin: bytes | None = None, cwd: Path | None = None) -> Told:
        capsys.readouterr()
        with monkeypatch.context() as world:
            if cwd is not None:
                world.chdir(cwd)
            if stdin is not None:
                world.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            try:
                command, rest = find([*map(str, words)])
                values = parse(command, rest)
                assert values is not None, f"typer is to read this: {rest}"
                ended = command(**values)
            except PybuildError as error:
                ended = tell(error, error.exit_code)
        out, err = capsys.readouterr()
        assert (ended or 0) == status, f"exit code {ended}\n{out}{err}"
        return Told(out, err)

    return run
