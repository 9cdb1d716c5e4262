"""Limits by control groups of version 2, under a kernel of Debian's in a virtual machine."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import run

pytestmark = [pytest.mark.slow, pytest.mark.network]

ROOT = Path(__file__).parents[2]
PACKAGE = "linux-image-amd64"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a kernel, from the mirror that this machine has."""
    if os.uname().machine != "x86_64" or (why := run.missing()):
        pytest.skip(why if os.uname().machine == "x86_64" else "kernels are fetched for x86_64 only")
    kept = os.environ.get("PYBUILD_TEST_CACHE")
    place = Path(kept) if kept else tmp_path_factory.mktemp("kernel")
    if not (found := sorted(place.glob("linux-image-*-amd64_*.deb"))):
        listed = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True)
        names = [line.split()[-1] for line in listed.stdout.splitlines() if "Depends: linux-image-" in line]
        if not names or subprocess.run(["apt-get", "download", names[0]], cwd=place, capture_output=True).returncode:
            pytest.skip(f"{PACKAGE} cannot be fetched")
        found = sorted(place.glob("linux-image-*-amd64_*.deb"))
    return found[-1]


@pytest.mark.timeout(1800)
def test_limits_hold_in_groups_that_were_given_to_a_user(kernel: Path) -> None:
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp=/tmp/t", "-q", "-rs", "--timeout=900"]
    env = ["PYTHONDONTWRITEBYTECODE=1", f"PYTHONPATH={ROOT / 'cli'}", "PYBUILD_TEST_CACHE=/tmp"]
    # What can only be told by the clock is not for a machine that is twenty times slower
    which = ["-m", "cgroups", "-k", "not processor_time", "tests/system/test_limits.py"]
    user = pwd.getpwuid(os.getuid()).pw_name
    required = "PYBUILD_TEST_REQUIRE=userns cgroups"
    status, told = run.boot(kernel, [*env, required, *line, *which], user=user, seconds=1500, directory=ROOT)
    assert status == 0, told
    assert "skipped" not in told
