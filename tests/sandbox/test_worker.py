"""The worker as a process: how it starts, answers, fails and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pybuild.errors import CancelledError
from pybuild.layer.errors import LayerError
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.sandbox import idmap, worker
from pybuild.sandbox.errors import JobFailedError, SandboxError, UserNamespaceError
from pybuild.sandbox.worker import Worker
from pybuild.tree.entry import DIR, FILE, Entry

from .conftest import Box, modes

pytestmark = pytest.mark.userns


def spool(place: Path, data: bytes = b"") -> int:
    """Return a descriptor of a nameless file at its beginning."""
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def processes_below(pid: int) -> set[int]:
    """Return the living descendants of a process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            parents[int(entry.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def wait_until(what: object, seconds: float = 10) -> None:
    """Wait until calling `what` gives something true."""
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("mode", modes())
def test_mode_is_the_one_asked_for(mode: str) -> None:
    with Worker.start(idmap.choose(mode)) as started:
        assert started.mode == mode
        uid_map = Path(f"/proc/{started.pid}/uid_map").read_text().split()
    assert uid_map[:2] == ["0", str(os.geteuid())]


def test_environment_of_the_worker_holds_nothing_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_TEST_SECRET", "canary")
    monkeypatch.setenv("LD_PRELOAD", "")
    environment = worker.worker_environment()
    assert environment.keys() <= {"PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR"}


def test_working_directory_is_not_where_modules_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pybuild", "socket", "msgspec", "struct"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", *sys.path])
    with Worker.start() as started:
        started.call("remove", [os.fsencode(tmp_path / "nothing")])


def test_errors_keep_their_type_message_and_hint(box: Box) -> None:
    source, out = spool(box.place, b"this is no archive" * 100), spool(box.place)
    with pytest.raises(LayerError) as caught:
        box.worker.call("ingest", [True], [source, out], result=Packed)
    assert caught.value.message
    assert type(caught.value).__module__ == "pybuild.layer.errors"
    os.close(source)
    os.close(out)


def test_system_errors_are_told_by_job_and_path(box: Box) -> None:
    with pytest.raises(SandboxError, match="cannot unpack_context: No such file or directory: /no/such/place"):
        box.worker.call("unpack_context", [b"/no/such/place", 0, 0], [0])


def test_bug_in_a_job_is_no_expected_error(box: Box) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'no such job'"):
        box.worker.call("no such job", None)
    # The worker goes on
    box.worker.call("remove", [os.fsencode(box.place / "nothing")])


def test_descriptors_stay_the_callers_and_are_not_lost(box: Box) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        box.run("/bin/true")
    assert len(os.listdir("/proc/self/fd")) == before


def test_layer_goes_in_and_comes_out(box: Box) -> None:
    tar = spool(box.place)
    writer = TarWriter(tar)
    writer.add(Entry(path=b"d", type=DIR, mode=0o750))
    writer.add(Entry(path=b"d/f", type=FILE, mode=0o640, size=5), b"hello")
    packed = writer.finish()
    os.lseek(tar, 0, os.SEEK_SET)
    out = spool(box.place)
    indexed = box.worker.call("ingest", [True], [tar, out], result=Packed)
    assert (indexed.diff_id, indexed.size) == (packed.diff_id, packed.size)
    for name in ("apply", "flatten"):
        os.lseek(out, 0, os.SEEK_SET)
        place = box.place / name / "fs"
        mode = box.worker.mode
        parameters = [os.fsencode(place), [], mode] if name == "apply" else [os.fsencode(place), mode, [[]]]
        box.worker.call(name, parameters, [out])
        assert (place / "d/f").read_text() == "hello"
        box.worker.call("remove", [os.fsencode(place.parent)])
        assert not place.parent.exists()
    os.close(tar)
    os.close(out)


def test_many_threads_share_a_worker(box: Box) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                box.worker.call("remove", [os.fsencode(box.place / "nothing")])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_cancelled_job_that_is_no_run_just_stops(box: Box) -> None:
    # A fifo for an archive: the job waits for what never comes
    fifo = box.place / "fifo"
    os.mkfifo(fifo)
    archive = os.open(fifo, os.O_RDWR)
    job = box.worker.submit("apply", [os.fsencode(box.place / "tree"), [], box.worker.mode], [archive])
    wait_until((box.place / "tree").exists)
    job.cancel()
    with pytest.raises(CancelledError):
        job.result(None)
    os.close(archive)


def test_killed_worker_takes_everything_along(box: Box) -> None:
    spec = box.spec("/bin/sh", "-c", "setsid sleep 987662 & sleep 987663")
    job, fds = box.submit(spec)
    wait_until(lambda: len(processes_below(box.worker.pid)) >= 5)
    family = processes_below(box.worker.pid)
    os.kill(box.worker.pid, signal.SIGKILL)
    with pytest.raises(JobFailedError, match="ended without an answer"):
        box.finish(spec, job, fds)
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}/ns").exists() and _alive(pid)])
    with pytest.raises(JobFailedError):
        box.run("/bin/true")


def test_closed_worker_leaves_nothing_when_close_returns(box: Box) -> None:
    job, fds = box.submit(box.spec("/bin/sh", "-c", "setsid sleep 987664 & sleep 987665"))
    wait_until(lambda: len(processes_below(box.worker.pid)) >= 5)
    family = processes_below(box.worker.pid)
    box.worker.close()
    assert not [pid for pid in family if _alive(pid)]
    with pytest.raises(JobFailedError):
        job.result(dict)
    with pytest.raises(JobFailedError, match="has been ended"):
        box.run("/bin/true")
    for fd in fds:
        os.close(fd)


def test_worker_ends_with_its_parent(plain_root: Path, tmp_path: Path) -> None:
    script = f"""
import os, sys, time
sys.path[:] = {sys.path!r}
from pybuild.sandbox.worker import Worker
from pybuild.sandbox.spec import SandboxSpec
worker = Worker.start()
os.mkdir({str(tmp_path / "s")!r})
null = os.open("/dev/null", os.O_RDWR)
spec = SandboxSpec(argv=("/bin/sleep", "987666"), lowers=({os.fsencode(plain_root)!r},),
                   staging={os.fsencode(tmp_path / "s")!r})
job = worker.submit("run", [spec, worker.mode], [null, null, null])
print(worker.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = int(parent.stdout.readline())
        wait_until(lambda: len(processes_below(started)) >= 3)
        family = {started, *processes_below(started)}
        parent.kill()
    wait_until(lambda: not [pid for pid in family if _alive(pid)])
    with Worker.start() as cleaner:
        cleaner.call("remove", [os.fsencode(tmp_path / "s")])


def test_job_process_that_is_killed_is_told(box: Box) -> None:
    spec = box.spec("/bin/sleep", "987667")
    job, fds = box.submit(spec)
    wait_until(lambda: _sleeping(box, b"987667"))
    for pid in processes_below(box.worker.pid):
        if _parent(pid) == box.worker.pid and any(_parent(other) == pid for other in processes_below(box.worker.pid)):
            os.kill(pid, signal.SIGKILL)
            break
    with pytest.raises(JobFailedError):
        box.finish(spec, job, fds)
    assert box.run("/bin/true").status == 0


def test_init_that_is_killed_is_no_success(box: Box) -> None:
    spec = box.spec("/bin/sleep", "987668")
    job, fds = box.submit(spec)
    wait_until(lambda: _sleeping(box, b"987668"))
    os.kill(_parent(_sleeping(box, b"987668")[0]), signal.SIGKILL)
    ran = box.finish(spec, job, fds)
    assert "was killed" in ran.result.end.problem
    assert ran.result.packed is None


def test_refused_namespace_comes_with_advice() -> None:
    script = f"""
import sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from pybuild.sandbox import idmap
from pybuild.sandbox.worker import Worker
from pybuild.errors import PybuildError
Path("/proc/sys/user/max_user_namespaces").write_text("0")
try:
    Worker.start(idmap.IdMap("single", ((0, 0, 1),), ((0, 0, 1),)))
except PybuildError as error:
    print(type(error).__name__, error.message, error.hint, sep="|")
"""
    done = subprocess.run(["unshare", "-Ur", sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{UserNamespaceError.__name__}|cannot make a user namespace: No space left")
    assert "user.max_user_namespaces" in done.stdout


def test_system_whose_proc_is_partly_hidden_still_runs(plain_root: Path, tmp_path: Path) -> None:
    script = f"""
import sys, os
sys.path[:] = {sys.path!r}
from pybuild.sandbox import idmap, syscalls
from pybuild.sandbox.worker import Worker
from pybuild.sandbox.spec import SandboxSpec
from pybuild.engine.jobs import RunResult
syscalls.mount(b"none", b"/proc/sys", b"tmpfs", 0)
out = os.open({str(tmp_path / "out")!r}, os.O_RDWR | os.O_CREAT)
tar = os.open({str(tmp_path / "tar")!r}, os.O_RDWR | os.O_CREAT)
os.mkdir({str(tmp_path / "s")!r})
with Worker.start(idmap.choose("single")) as worker:
    spec = SandboxSpec(argv=("/bin/sh", "-c", "test -e /proc/self/stat && echo there"),
                       lowers=({os.fsencode(plain_root)!r},), staging={os.fsencode(tmp_path / "s")!r})
    print(worker.call("run", [spec, "single"], [out, out, tar], result=RunResult).end)
    worker.call("remove", [{os.fsencode(tmp_path / "s")!r}])
"""
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "status=0" in done.stdout, done.stderr
    assert (tmp_path / "out").read_text() == "there\n"


def _sleeping(box: Box, mark: bytes) -> list[int]:
    return [pid for pid in processes_below(box.worker.pid) if mark in _command(pid)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
