from pathlib import Path

import pytest

from pybuild.api.request import Output, Ulimit
from pybuild.commands import flags
from pybuild.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("1g", 1 << 30), ("5", 5), ("10kb", 10240), ("1.5MiB", 3 << 19), ("7b", 7)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert flags.size(text, "--shm-size") == size


@pytest.mark.parametrize("text", ["", "m", "-1", "64x", "1e3", "64m m"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        flags.size(text, "--shm-size")


def test_ulimits() -> None:
    assert flags.ulimit("nofile=10") == Ulimit("nofile", 10, 10)
    assert flags.ulimit("nofile=10:20") == Ulimit("nofile", 10, 20)
    assert flags.ulimit("core=0:-1") == Ulimit("core", 0, -1)
    assert flags.ulimit("memlock=unlimited") == Ulimit("memlock", -1, -1)


@pytest.mark.parametrize("text", ["nofile", "nofile=", "nofile=x", "files=1", "nofile=2:1", "nofile=-1:5", "core=-2"])
def test_other_ulimits_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        flags.ulimit(text)


def test_build_args_take_values_from_the_environment() -> None:
    environ = {"FROM_ENV": "e", "SOURCE_DATE_EPOCH": "7"}
    found = flags.build_args(["A=1", "B=x=y", "C=", "FROM_ENV", "ABSENT"], environ)
    assert found == {"SOURCE_DATE_EPOCH": "7", "A": "1", "B": "x=y", "C": "", "FROM_ENV": "e", "ABSENT": None}
    assert flags.build_args(["SOURCE_DATE_EPOCH=9"], environ) == {"SOURCE_DATE_EPOCH": "9"}
    with pytest.raises(UsageError):
        flags.build_args(["=1"], {})


def test_labels() -> None:
    assert flags.labels(["a=1", "b", "c=d=e"]) == {"a": "1", "b": "", "c": "d=e"}
    with pytest.raises(UsageError):
        flags.labels(["=x"])


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("h:1.2.3.4", "h:1.2.3.4"),
        ("h=1.2.3.4", "h:1.2.3.4"),
        ("h:::1", "h:::1"),
        ("h:[::1]", "h:::1"),
        ("h:host-gateway", "h:host-gateway"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert flags.add_host(text) == host


@pytest.mark.parametrize("text", ["h", "h:", ":1.2.3.4", "h:1.2.3", "a b:1.2.3.4"])
def test_other_hosts_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        flags.add_host(text)


def test_outputs(tmp_path: Path) -> None:
    assert flags.output("type=oci,dest=x.tar", tmp_path) == Output("oci", str(tmp_path / "x.tar"))
    assert flags.output("type=docker,dest=/x/../y.tar", tmp_path) == Output("docker", "/y.tar")
    assert flags.output("type=oci", tmp_path) == Output("oci", "-")
    assert flags.output("-", tmp_path) == Output("tar", "-")
    assert flags.output("out", tmp_path) == Output("local", str(tmp_path / "out"))
    given = 'type=tar,"dest=a,b.tar",compression=gzip'
    assert flags.output(given, tmp_path) == Output("tar", str(tmp_path / "a,b.tar"), {"compression": "gzip"})


@pytest.mark.parametrize(
    "text", ["", "type=image", "dest=x", "type=local", "type=local,dest=-", "type=tar,dest=", "type=tar,x", 'type="tar']
)
def test_other_outputs_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        flags.output(text, tmp_path)


def test_an_archive_does_not_replace_a_directory_nor_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    for text in ("type=tar,dest=d", "type=local,dest=f"):
        with pytest.raises(UsageError):
            flags.output(text, tmp_path)


def test_networks() -> None:
    assert flags.network("none") == "none"
    assert flags.network("bridge") == "default"
    with pytest.raises(UsageError):
        flags.network("strange")
