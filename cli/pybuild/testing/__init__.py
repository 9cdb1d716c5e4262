"""What tests of plugins use, as a plugin of pytest: `pytest -p pybuild.testing`.

Fixtures: `pybuild` runs the real program with the project's own plugin, in a store and a home of its own, and
`pybuild_cli` the same in the process of the tests, which takes a tenth of the time. `tiny_image` is the name of an
image there, `context` an empty directory to build from, `tmp_registry` a registry on loopback that is empty, and
`fake_daemon` a daemon that tells what the test has written down. With PYBUILD_TEST_PROGRAM naming the single binary
both programs are that one.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.plugin.projects import lay_out
from pybuild.testing.daemon import FakeDaemon, serving
from pybuild.testing.imports import QUICK_SECONDS, check_imports
from pybuild.testing.program import Ended, InProcess, Program
from pybuild.testing.registry import Registry, registry

__all__ = [
    "QUICK_SECONDS",
    "Ended",
    "FakeDaemon",
    "InProcess",
    "Program",
    "Registry",
    "check_imports",
    "context",
    "fake_daemon",
    "pybuild",
    "pybuild_cli",
    "tiny_image",
    "tmp_registry",
]


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
def pybuild_cli(pybuild: Program) -> Program:
    """The program of `pybuild` in this process: what it imports stays imported, and no executable can be run."""
    return InProcess(pybuild)


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


@pytest.fixture
def tmp_registry() -> Iterator[Registry]:
    """A registry on loopback, without anything in it."""
    with registry() as found:
        yield found


@pytest.fixture
def fake_daemon(pybuild: Program) -> Iterator[FakeDaemon]:
    """A daemon that tells what the test has written down, for `pybuild` and `pybuild_cli`."""
    # The path of a socket is short, that of pytest's directories is not
    directory = Path(tempfile.mkdtemp(prefix="pb-"))
    try:
        with serving(directory / "pybuild.sock", pybuild.env["PYBUILD_STORE"]) as daemon:
            pybuild.env["PYBUILD_RUNTIME_DIR"] = str(directory)
            pybuild.env["PYBUILD_INLINE"] = "0"
            yield daemon
    finally:
        shutil.rmtree(directory)
