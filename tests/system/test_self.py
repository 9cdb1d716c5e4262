"""`pybuild self check` on a machine where all works, and where something does not."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pybuild.commands.smallest import executable
from support import program
from support.program import Pybuild

CHECK = ("self", "check", "--json")


def left(pybuild: Pybuild) -> list[Path]:
    return [path for path in pybuild.base.rglob("*pybuild-check*") if path.exists()]


@pytest.mark.userns
def test_all_works_and_nothing_is_left(inline: Pybuild) -> None:
    told = json.loads(inline(*CHECK).out)
    assert told["works"] is True
    assert [item["name"] for item in told["tried"]] == [
        "libraries",
        "a build from scratch",
        "the same from the cache",
        "the daemon",
        "saving and loading",
        "tidying up",
    ]
    assert os.path.isabs(told["program"])
    assert not inline.store.exists()
    assert left(inline) == []


def test_what_does_not_work_is_told_and_the_status_says_so(inline: Pybuild) -> None:
    # No worker can say that it is there
    done = inline("self", "check", status=1, env={"PYBUILD_ISOLATION": "bogus"})
    assert "a build from scratch" in done.text
    assert "failed" in done.text
    assert "isolation" in done.text
    assert "something does not work here" in done.text
    assert left(inline) == []


def test_a_place_that_cannot_be_written_to_is_one_sentence(inline: Pybuild) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    done = inline("self", "check", status=1, env={"PYBUILD_STORE": "/proc/nowhere"})
    assert done.err.startswith("error: cannot make a place to try in: /proc")


def test_a_user_without_a_home_is_told(inline: Pybuild) -> None:
    if os.geteuid():
        pytest.skip("only root becomes a user without an entry in /etc/passwd")
    env = {name: value for name, value in inline.env.items() if name not in ("HOME", "PYBUILD_STORE")}
    command = ["setpriv", "--reuid=48231", "--regid=48231", "--clear-groups", *program.COMMAND, "images"]
    os.chmod(inline.base, 0o755)
    os.chown(inline.runtime, 48231, 48231)
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: no home directory is known: HOME is not set, and user 48231 has no entry" in done.stderr
    assert "PYBUILD_STORE" in done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_smallest_program_makes_a_directory(machine: str, tmp_path: Path) -> None:
    if os.uname().machine != machine:
        pytest.skip(f"this is no {machine}")
    if os.geteuid():
        pytest.skip("it writes to the root directory, which only root may change")
    (tmp_path / "try").write_bytes(executable())
    (tmp_path / "try").chmod(0o755)
    for status in (0, 17):
        done = subprocess.run(["chroot", tmp_path, "/try"], check=False)
        assert done.returncode == status
    assert (tmp_path / "made").stat().st_mode & 0o700 == 0o700


def test_no_program_for_what_is_not_known() -> None:
    assert executable("s390x") == b""
