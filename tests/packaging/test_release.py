"""The program on systems that have no Python, and the release that is made for the oldest of them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import frozen, systems
from support.program import Pybuild

TOP = Path(__file__).parents[2]
SUITES = ["bookworm", "trixie"]

pytestmark = [pytest.mark.slow, pytest.mark.endless, pytest.mark.network, pytest.mark.userns, pytest.mark.timeout(3600)]


@pytest.fixture(autouse=True)
def _possible() -> None:
    reason = systems.lacks() or ("root's mounts are not undone" if os.geteuid() == 0 else "")
    if reason:
        pytest.skip(reason)


def works(suite: str, program: str | Path, tree: Path) -> None:
    """See that the program builds in a system without Python, as somebody with one id only."""
    systems.unpack(suite, tree)
    assert not list(tree.glob("usr/bin/python*"))
    done = systems.run(tree, program, f"exec {systems.USER} /tmp/pybuild self check")
    if "version `GLIBC_" in done.stderr and program == frozen.PROGRAM:
        pytest.skip(f"the program was built here, where the C library is newer than that of {suite}")
    assert done.stdout.endswith("\nall works\n"), (done.stdout, done.stderr)


@pytest.mark.multiid
@pytest.mark.frozen
@pytest.mark.parametrize("suite", SUITES)
def test_works_where_there_is_no_python(tmp_path: Path, suite: str) -> None:
    works(suite, frozen.PROGRAM, tmp_path / "tree")


@pytest.mark.multiid
@pytest.mark.frozen
def test_the_debian_package_is_installed_and_runs(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    shutil.copytree(Path(frozen.PROGRAM).parent, dist)
    subprocess.run([TOP / "packaging/deb", dist], check=True, stdout=subprocess.DEVNULL)
    [package] = dist.glob("*.deb")
    tree = systems.unpack("bookworm", tmp_path / "tree")
    script = f"dpkg -i /tmp/{package.name} >&2; {systems.USER} pybuild self check; dpkg -r pybuild >&2; ls /usr/lib"
    done = systems.run(tree, package, script)
    if "libc6 (>=" in done.stderr:
        pytest.skip("the program was built here, where the C library is newer than that of bookworm")
    checked, works, left = done.stdout.rpartition("\nall works\n")
    assert (checked != "", works != "", "pybuild" in left) == (True, True, False), (done.stdout, done.stderr)
    assert "/usr/lib/pybuild/pybuild\n" in checked


@pytest.mark.multiid
@pytest.mark.frozen
def test_its_own_image_builds_in_a_container(inline: Pybuild, context: Path) -> None:
    """The container is a RUN of the program's own: without root, without privileges."""
    inline("import", systems.archive("bookworm"), "system")
    dist = Path(frozen.PROGRAM).parent
    inline("build", "-q", "-f", TOP / "packaging/image/Dockerfile", "--build-arg=BASE=system", "-t", "own", dist)
    text = b"FROM own\nRUN pybuild self check && PYBUILD_ISOLATION=chroot pybuild self check\n"
    told = inline("build", "--progress=plain", "-f", "-", context, stdin=text).err
    assert len(re.findall(r"^#\d+ [0-9.]+ all works$", told, re.MULTILINE)) == 2, told


@pytest.mark.multiid
def test_a_release_is_built_by_pybuild_and_works_on_systems_old_and_new(inline: Pybuild, tmp_path: Path) -> None:
    """Python is built in there without what takes a quarter of an hour more and makes it a bit faster."""
    inline("import", systems.archive("bullseye"), "bullseye")
    inline(
        "build", "-f", TOP / "packaging/release/Dockerfile", "-o", tmp_path / "dist", TOP,
        "--build-arg=BASE=bullseye", "--build-arg=CONFIGURE=", "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        "--ca-bundle=/etc/ssl/certs/ca-certificates.crt", timeout=3000,
    )  # fmt: skip
    assert os.path.getsize(tmp_path / "dist" / "pybuild") <= 20_000_000
    for suite in ["bullseye", *SUITES]:
        works(suite, tmp_path / "dist" / "pybuild", tmp_path / suite)
