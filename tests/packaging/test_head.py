"""The self-unpacking program: its real head, with a small script in the place of what is frozen."""

import os
import shlex
import shutil
import subprocess
import tarfile
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest

from support import host

PACKAGING = Path(__file__).parents[2] / "packaging"
PROGRAM = '#!/bin/sh\n[ "$1" = --version ] || printf "%s\\n" "$0" "$@" "${LC_ALL-unset}" "$(umask)"\n'


def made(directory: Path, program: str = PROGRAM, padding: int = 0) -> Path:
    """Make a program that unpacks `program`, and that much of random data beside it."""
    tarball = directory / "small.tar.gz"
    with tarfile.open(tarball, "w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("pybuild", program.encode()), ("data", os.urandom(padding))):
            entry = tarfile.TarInfo(f"pybuild/{name}")
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, BytesIO(content))
    subprocess.run([PACKAGING / "join", "1.0", "x86_64", tarball, directory / "pybuild"], check=True)
    return directory / "pybuild"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


def run(program: Path, *args: str, home: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run it with nothing in its environment but what is given."""
    environment = {"PATH": "/usr/bin:/bin", **({"HOME": str(home)} if home else {}), **env}
    return subprocess.run([program, *args], env=environment, capture_output=True, text=True, timeout=60, check=False)


def copies(home: Path) -> list[Path]:
    return sorted((home / ".cache/pybuild/program").iterdir())


def is_temporary(done: "subprocess.CompletedProcess[str]", user: int | None = None) -> bool:
    """Tell whether it ran below a directory for temporary files, and remove what it has put there."""
    copy = Path(done.stdout.split("\n")[0]).parent
    name = f"pybuild-{os.geteuid() if user is None else user}"
    # The second is for when the first one is somebody else's
    if copy.parent not in (Path("/var/tmp", name), Path("/tmp", name)):
        return False
    shutil.rmtree(copy)
    with suppress(OSError):
        copy.parent.rmdir()
    return True


def test_runs_what_it_has_unpacked_with_the_words_and_settings_of_the_user(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path)
    first = run(program, "a b", "", home=home)
    [copy] = copies(home)
    assert first.stdout.splitlines() == [f"{copy}/pybuild", "a b", "", "unset", f"{_umask():04o}"]
    assert (copy.stat().st_mode & 0o777, copy.name.startswith("1.0-")) == (0o700, True)
    before = copy.stat().st_ino
    assert run(program, "a b", "", home=home).stdout == first.stdout
    assert copies(home)[0].stat().st_ino == before


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_several_at_once_for_the_first_time_make_one_copy(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path, padding=1 << 20)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    started = [subprocess.Popen([program, "x"], env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    told = {process.communicate(timeout=60)[0] for process in started}
    [copy] = copies(home)
    assert len(told) == 1
    assert told.pop().startswith(f"{copy}/pybuild\n".encode())


def test_another_version_has_a_copy_of_its_own_and_old_ones_go(tmp_path: Path, home: Path) -> None:
    run(made(tmp_path), home=home)
    [old] = copies(home)
    (home / ".cache/pybuild/program/.new.abcdef").mkdir()
    long_ago = time.time() - 40 * 24 * 3600
    for path in (old / "started", home / ".cache/pybuild/program/.new.abcdef"):
        os.utime(path, (long_ago, long_ago))
    run(made(tmp_path, padding=10), home=home)
    [new] = copies(home)
    assert new != old


def test_another_place_may_be_named(tmp_path: Path, home: Path) -> None:
    done = run(made(tmp_path), home=home, PYBUILD_UNPACK_DIR=str(tmp_path / "there"))
    assert done.stdout.startswith(f"{tmp_path}/there/1.0-")
    assert not (home / ".cache").exists()
    done = run(made(tmp_path), home=home, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.stdout.startswith(f"{tmp_path}/cache/pybuild/program/1.0-")


def test_without_a_home_it_goes_below_the_temporary_directories(tmp_path: Path) -> None:
    done = run(made(tmp_path))
    assert is_temporary(done), done.stderr


def test_a_damaged_program_says_so(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path, padding=100_000)
    content = program.read_bytes()
    program.write_bytes(content[:-1000])
    done = run(program, PYBUILD_UNPACK_DIR=str(home / "p"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: pybuild cannot unpack itself: {home}/p: unexpected end of file\n")
    assert list((home / "p").iterdir()) == []


def test_a_program_that_cannot_run_here_says_why(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path, program="#!/bin/sh\necho './pybuild: version `GLIBC_9.9 not found' >&2\nexit 1\n")
    done = run(program, PYBUILD_UNPACK_DIR=str(home))
    assert done.returncode == 1
    assert f"{home}: version `GLIBC_9.9 not found\n" in done.stderr
    assert "newer C library" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_to_says_so(tmp_path: Path, home: Path) -> None:
    home.chmod(0o500)
    done = run(made(tmp_path), home=home, PYBUILD_UNPACK_DIR=str(home / "p"))
    assert (done.returncode, done.stderr.split("\n")[0]) == (
        1,
        f"error: pybuild cannot unpack itself: {home}/p: Permission denied",
    )
    assert "PYBUILD_UNPACK_DIR" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root owns what others do not")
def test_what_belongs_to_another_user_is_neither_run_nor_written_to(tmp_path: Path) -> None:
    done = run(made(tmp_path), PYBUILD_UNPACK_DIR="/usr")
    assert done.returncode == 1
    assert "/usr: it belongs to another user" in done.stderr
    done = run(made(tmp_path), home=Path("/"))
    assert is_temporary(done), done.stderr


def _mounted(program: Path, where: Path, options: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run it with a tmpfs of these options at `where`."""
    reason = host.lacks_userns()
    if reason:
        pytest.skip(reason)
    script = (
        f"mount -t tmpfs -o mode=755,{options} none {shlex.quote(str(where))} && exec {shlex.quote(str(program))} go"
    )
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env}
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_home_that_programs_may_not_run_from_says_so_or_another_place_is_taken(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path)
    done = _mounted(program, home, "noexec", PYBUILD_UNPACK_DIR=str(home / "p"))
    assert done.returncode == 1
    assert f"{home}/p: no program may run there (noexec)\n" in done.stderr
    done = _mounted(program, home, "noexec", HOME=str(home))
    assert is_temporary(done, user=0), done.stderr


def test_a_home_that_is_read_only_says_so_or_another_place_is_taken(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path)
    done = _mounted(program, home, "ro", PYBUILD_UNPACK_DIR=str(home / "p"))
    assert (done.returncode, done.stderr.split("\n")[0]) == (
        1,
        f"error: pybuild cannot unpack itself: {home}/p: Read-only file system",
    )
    done = _mounted(program, home, "ro", HOME=str(home))
    assert is_temporary(done, user=0), done.stderr


def test_a_full_disk_says_so_and_nothing_half_done_stays(tmp_path: Path, home: Path) -> None:
    program = made(tmp_path, padding=3 << 20)
    done = _mounted(program, home, "size=1m", PYBUILD_UNPACK_DIR=str(home))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: pybuild cannot unpack itself: {home}: No space left on device\n")
