"""What tests of plugins use, as a plugin of pytest: `pytest -p pybuild.testing`.

Fixtures: `pybuild` runs the real program with the project's own plugin, in a store and a home of its own;
`tiny_image` is the name of an image there; `context` is an empty directory to build from.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pybuild.plugin.projects import lay_out

QUICK_SECONDS = 0.05
"""A plugin's module is to be imported within that time."""


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    err: str


class Program:
    """The program in a world of its own; `env` is its environment."""

    def __init__(self, base: Path, plugins: Path) -> None:
        self.base = base
        for name in ("home", "runtime"):
            (base / name).mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYBUILD_", "XDG_", "CI"))}
        self.env = {
            **kept,
            "HOME": str(base / "home"),
            "PYBUILD_STORE": str(base / "store"),
            "PYBUILD_RUNTIME_DIR": str(base / "runtime"),
            "PYBUILD_INLINE": "1",
            "PYBUILD_PLUGIN_PATH": str(plugins),
        }

    def __call__(self, *words: str | Path, status: int = 0, stdin: str = "", cwd: Path | None = None) -> Ended:
        """Run a command to its end, expecting `status`."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pybuild", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=cwd,
            timeout=300,
        )
        assert done.returncode == status, f"exit code {done.returncode}: {' '.join(map(str, words))}\n{done.stderr}"
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def pybuild(tmp_path: Path, request: pytest.FixtureRequest) -> Program:
    """The program, with the plugin of the project whose tests these are."""
    base = tmp_path / "pybuild"
    base.mkdir()
    plugins = base / "plugins"
    folder = plugins / "under-test"
    folder.mkdir(parents=True, mode=0o755)
    root = request.config.rootpath
    if (root / "pyproject.toml").is_file():
        lay_out(root, folder, link=True)
    return Program(base, plugins)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty directory to build from."""
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


@pytest.fixture
def tiny_image(pybuild: Program, tmp_path: Path) -> str:
    """An image of two layers, each with a file: `a` and `b/c`."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "a").write_text("a\n")
    (directory / "c").write_text("c\n")
    (directory / "Dockerfile").write_text('FROM scratch\nCOPY a /\nCOPY c /b/c\nCMD ["/a"]\n')
    pybuild("build", "-q", "-t", "tiny:1", directory)
    return "tiny:1"


def check_imports(module: str) -> None:
    """Fail when importing a plugin's module takes long, or when it uses more of pybuild than plugins may."""
    code = f"""
import sys, time
class Watch:
    def find_spec(self, name, path=None, target=None):
        at = sys._getframe(1)
        while at.f_code.co_filename.startswith("<frozen importlib"):
            at = at.f_back
        user = at.f_globals.get("__name__", "")
        if name.startswith("pybuild.") and not user.startswith("pybuild.") and user != "pybuild":
            print("uses", name, user)
sys.meta_path.insert(0, Watch())
import pybuild.plugin
begun = time.process_time()
import {module}
print("took", time.process_time() - begun)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    allowed = ("pybuild.plugin", "pybuild.testing")
    beyond = [
        f"{user} uses {name}"
        for kind, name, user in (line for line in lines if line[0] == "uses")
        if user.partition(".")[0] == module.partition(".")[0] and name not in allowed
    ]
    assert not beyond, f"only pybuild.plugin is for plugins: {', '.join(beyond)}"
    took = next(float(line[1]) for line in lines if line[0] == "took")
    assert took < QUICK_SECONDS, (
        f"importing {module} takes {took * 1000:.0f} ms: import what is heavy inside of functions"
    )
