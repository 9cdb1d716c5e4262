"""The entry point: what is answered before anything is imported."""

import subprocess
import sys

import pytest

from pybuild import __version__

ENVIRONMENT = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run pybuild and have it say what it imported."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pybuild", *words],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_imports_nothing(flag: str) -> None:
    done = run(flag)
    assert (done.returncode, done.stdout) == (0, f"pybuild {__version__}\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {name for name in imported if name.startswith("pybuild.")}
    assert "typer" not in imported


@pytest.mark.parametrize("words", [[], ["cook"], ["worker"], ["worker", "3"], ["worker", "3", "many"]])
def test_unknown_role_is_refused(words: list[str]) -> None:
    done = run("_child", *words)
    assert done.returncode == 2
    assert "`_child` is for pybuild itself" in done.stderr
