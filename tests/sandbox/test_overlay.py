"""The overlay by the way of older kernels, which is not taken by itself on a newer one."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pybuild.sandbox import overlay, syscalls
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import SandboxSpec

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


def refusing(at: str) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", at)

    return refuse


def test_kernels_before_6_5_refuse_late_and_get_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(syscalls, "fsopen", lambda kind: os.open("/dev/null", os.O_RDONLY))
    monkeypatch.setattr(overlay, "by_options", lambda lowers, upper, work: 7)
    spec = SandboxSpec(argv=("x",), lowers=(b"/a", b"/b"), staging=os.fsencode(tmp_path))
    for name in ("fsconfig_string", "fsconfig_flag"):
        monkeypatch.setattr(syscalls, name, lambda *_: None)
    monkeypatch.setattr(syscalls, "fsconfig_create", refusing("fsconfig create"))
    assert overlay.mount(spec) == 7
    monkeypatch.setattr(syscalls, "fsconfig_flag", refusing("fsconfig userxattr"))
    with pytest.raises(SandboxError, match="cannot mount the layers"):
        overlay.mount(spec)
