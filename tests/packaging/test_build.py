"""Freezing is reproducible: who has the same sources and the same system has the same bytes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    if not shutil.which("python3.11", path="/usr/bin:/bin"):
        pytest.skip("the program is frozen with Python 3.11 only")
    made = []
    for name in ("one", "another"):
        # Neither the place nor the user's home is to be seen in what comes out
        (tmp_path / name).mkdir()
        env = {
            **os.environ,
            "TMPDIR": str(tmp_path / name),
            "HOME": str(tmp_path / name),
            "SOURCE_DATE_EPOCH": "1700000000",
        }
        subprocess.run([PACKAGING / "build", tmp_path / name / "dist"], env=env, check=True, stdout=subprocess.DEVNULL)
        made.append((tmp_path / name / "dist" / "SHA256SUMS").read_text())
    assert made[0] == made[1]
    assert len(made[0].splitlines()) == 3
