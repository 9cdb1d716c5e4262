"""What all tests share: markers that know what the machine offers, and the real program in a world of its own."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import busybox, debian, host, processes, program

# The checkout may belong to somebody else; examples that failed belong into the tests
settings.register_profile("pybuild", database=None, deadline=None)
settings.load_profile("pybuild")


def pytest_configure() -> None:
    """A shell starts what it has in the background deaf to Ctrl-C, nohup to hanging up; programs hand that down."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, saying why; what is required is left to fail instead."""
    required = host.required()
    wanted = {mark.name for item in items for mark in item.iter_markers()} & host.LACKS.keys()
    reasons = {name: reason for name in wanted - required if (reason := host.LACKS[name]())}
    for item in items:
        for mark in item.iter_markers():
            if mark.name in reasons:
                item.add_marker(pytest.mark.skip(reason=reasons[mark.name]))


@pytest.fixture(scope="session")
def _adopted() -> None:
    processes.adopt_orphans()


@pytest.fixture(autouse=True)
def _groups_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who looks into control groups sees those of everybody: no two such tests run at once."""
    if request.node.get_closest_marker("cgroups") is None:
        yield
        return
    with open(Path(tempfile.gettempdir(), f"pybuild-tests-groups-{os.geteuid()}"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def inline(_adopted: None) -> Iterator[program.Pybuild]:
    """The program without a daemon."""
    with program.world("inline") as pybuild:
        yield pybuild


@pytest.fixture
def daemon(_adopted: None) -> Iterator[program.Pybuild]:
    """The program with a daemon that it starts by itself."""
    with program.world("daemon") as pybuild:
        yield pybuild


@pytest.fixture(params=["inline", "daemon"])
def pybuild(request: pytest.FixtureRequest, _adopted: None) -> Iterator[program.Pybuild]:
    """The program through both doors, one after the other."""
    with program.world(request.param) as pybuild:
        yield pybuild


@pytest.fixture(scope="module", params=["inline", "daemon"])
def base(request: pytest.FixtureRequest, _adopted: None) -> Iterator[program.Pybuild]:
    """The program through both doors with an image `base`, in a store that the tests of a file share."""
    with program.world(request.param) as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture(scope="module")
def inline_base(_adopted: None) -> Iterator[program.Pybuild]:
    """As `base`, without a daemon only."""
    with program.world("inline") as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty directory to build from."""
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


@pytest.fixture
def busybox_tar(tmp_path: Path) -> Path:
    """A root file system tar with a shell."""
    return busybox.write_rootfs(tmp_path / "busybox.tar")


@pytest.fixture(scope="session")
def debian_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian root file system tar, made once a run or kept where PYBUILD_TEST_CACHE says."""
    kept = os.environ.get(debian.CACHE)
    if kept:
        return debian.rootfs(Path(kept))
    # All workers of a run share the directory above their own.
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return debian.rootfs(base / "debian")
