"""The comparison itself runs, on a scale that measures nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.userns, pytest.mark.slow]


def test_a_small_round_prints_a_line_for_every_piece_of_work() -> None:
    options = [
        "--rounds",
        "1",
        "--scale",
        "0.001",
        "--tools",
        "pybuild,pybuild-inline",
        "--only",
        "20 steps,1.25,nothing",
    ]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run.py"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "–" not in line]) >= 5, done.stdout + done.stderr
    assert lines[-1].startswith("daemon of pybuild: peak")
