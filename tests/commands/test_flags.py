from pathlib import Path

import pytest

from pybuild.api.request import Limits, Output, Ulimit
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
    "text",
    ["", "type=image,dest=x", "dest=x", "type=local", "type=local,dest=-", "type=tar,dest=", "type=tar,x", 'type="tar'],
)
def test_other_outputs_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        flags.output(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "pushed", "names"),
    [
        ("type=image", None, []),
        ("type=image,name=a,push=false,unpack=true,store=true,compression=zstd,rewrite-timestamp=1", None, ["a"]),
        ('type=image,"name=a,host:5000/b:2"', None, ["a", "host:5000/b:2"]),
        ("type=image,push=true", {}, []),
        ("type=image,name=a,push=1,unpack=false,compression=zstd", {"name": "a", "compression": "zstd"}, ["a"]),
    ],
)
def test_images_are_kept_and_pushed_if_asked(
    tmp_path: Path, text: str, pushed: dict[str, str] | None, names: list[str]
) -> None:
    file = Output("oci", "-")
    others, found = flags.images([file, flags.output(text, tmp_path)])
    assert others == [file, *([] if pushed is None else [Output("registry", "", pushed)])]
    assert found == names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("push=maybe", "push of --output is true or false, not: maybe"),
        ("unpack=x", "unpack of --output is true or false, not: x"),
        ("store=false", "is always kept"),
        ("name=UPPER", "invalid name for --output"),
        ("push-by-digest=true", "unknown key of --output: push-by-digest"),
        ("compression=rar", "unknown compression: rar"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        flags.images([flags.output(f"type=image,{text}", tmp_path)])


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


def limits(**given: object) -> Limits:
    usual: dict[str, object] = {"memory": "", "memory_swap": "", "cpus": "", "cpu_quota": 0, "cpu_period": 0}
    return flags.limits(**{**usual, "cpuset_cpus": "", "pids_limit": 0, "mode": "strict", **given})  # type: ignore[arg-type]


def test_limits() -> None:
    assert limits() == Limits()
    assert limits(memory="64m", memory_swap="-1") == Limits(memory=64 << 20, memory_swap=-1)
    assert limits(cpus="1.5") == Limits(cpu_quota=150_000, cpu_period=100_000)
    assert limits(pids_limit=-1, cpuset_cpus="0-2,4") == Limits(cpuset_cpus="0-2,4")
    assert limits(mode="best-effort").best_effort


@pytest.mark.parametrize(
    "given",
    [
        {"memory": "1m"},
        {"memory_swap": "64m"},
        {"memory": "64m", "memory_swap": "32m"},
        {"cpus": "0"},
        {"cpus": "x"},
        {"cpus": "1", "cpu_quota": 5000},
        {"cpu_quota": 5},
        {"cpuset_cpus": "a"},
        {"pids_limit": -2},
        {"mode": "lax"},
    ],
)
def test_other_limits_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        limits(**given)


def test_durations() -> None:
    assert [flags.duration(text, "--timeout") for text in ("", "90", "1m30s", "500ms")] == [0, 90, 90, 0.5]
    for text in ("0", "-1s", "x", "1d"):
        with pytest.raises(UsageError):
            flags.duration(text, "--timeout")


@pytest.mark.parametrize(
    "content", [b"", b"no pem", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_certificates_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no certificates"):
        flags.ca_bundle(str(path))
    path.write_bytes(content + b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(UsageError, match="private key"):
        flags.ca_bundle(str(path))
    with pytest.raises(UsageError, match="cannot read"):
        flags.ca_bundle(str(tmp_path / "missing"))
