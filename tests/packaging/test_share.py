"""Manual pages and completions, as they are made of the commands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pybuild.commands.table import BUILT_IN

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("share")
    environment = {"PYTHONPATH": f"{TOP / 'cli'}:{TOP / 'plugins'}", "HOME": str(directory), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, TOP / "packaging" / "share.py", directory], env=environment, check=True)
    return directory


def test_each_command_has_a_page_and_the_first_one_lists_them(share: Path) -> None:
    pages = {path.name for path in (share / "man/man1").iterdir()}
    assert pages == {"pybuild.1", *(f"pybuild-{name}.1" for name in BUILT_IN)}
    listed = re.findall(r"^\.BR pybuild\\-(\S+) \(1\)$", (share / "man/man1/pybuild.1").read_text(), re.MULTILINE)
    assert [name.replace("\\", "") for name in listed] == [*BUILT_IN]


def test_a_page_tells_options_and_those_of_commands_in_it(share: Path) -> None:
    build = (share / "man/man1/pybuild-build.1").read_text()
    assert r"\fB\-\-build\-arg\fR" in build
    assert ".SH PYBUILD DAEMON LOGS" in (share / "man/man1/pybuild-daemon.1").read_text()


def test_pages_are_right_for_groff(share: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    for page in (share / "man/man1").iterdir():
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, text=True, check=True)
        assert done.stderr == "", page


def test_completions_are_where_shells_look_for_them(share: Path) -> None:
    bash = share / "bash-completion/completions/pybuild"
    subprocess.run(["bash", "-n", bash], check=True)
    assert "complete" in bash.read_text()
    assert (share / "zsh/vendor-completions/_pybuild").read_text().startswith("#compdef pybuild")
    assert (share / "fish/vendor_completions.d/pybuild.fish").exists()
