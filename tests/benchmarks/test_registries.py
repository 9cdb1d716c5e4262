"""The comparison of transfers runs, on a scale that measures nothing but memory."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.userns, pytest.mark.slow, pytest.mark.peers]


def test_a_small_transfer_is_measured_and_bounded() -> None:
    command = [sys.executable, Path(__file__).with_name("registries.py"), "--size", "64", "--rounds", "1"]
    done = subprocess.run([*command, "--tools", "pybuild,skopeo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stdout + done.stderr
    assert all(line.endswith("MB above idle") for line in lines), done.stdout + done.stderr
