"""The overlay by the way of older kernels, which is not taken by itself on a newer one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pybuild.sandbox import syscalls

pytestmark = pytest.mark.userns

SCRIPT = """
import os, sys
sys.path[:] = {path!r}
from pybuild.sandbox import overlay
os.umask(0)
tree = overlay.by_options({lowers!r}, {upper!r}, {work!r})
for name in ("one", "top"):
    print(open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=tree)).read())
os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=tree))
"""


@pytest.mark.parametrize("count", [1, 60, 200, 400])
def test_any_number_of_layers_with_long_names(tmp_path: Path, count: int) -> None:
    lowers = []
    for number in range(count):
        layer = tmp_path / f"a-name-as-long-as-those-of-snapshots-are-{number:040}"
        layer.mkdir()
        (layer / "top").write_text(str(number))
        lowers.insert(0, os.fsencode(layer))
    (Path(os.fsdecode(lowers[-1])) / "one").write_text("one")
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    script = SCRIPT.format(
        path=sys.path, lowers=lowers, upper=os.fsencode(tmp_path / "upper"), work=os.fsencode(tmp_path / "work")
    )
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["one", str(count - 1)], done.stderr
    assert [path.name for path in (tmp_path / "upper").iterdir()] == ["new"]
    subprocess.run(["unshare", "-Ur", "rm", "-rf", tmp_path / "work"], check=True)


def test_options_the_kernel_would_cut_are_an_error() -> None:
    with pytest.raises(OSError, match="too long"):
        syscalls.mount(b"overlay", b"/nowhere", b"overlay", 0, b"x" * 4096)
