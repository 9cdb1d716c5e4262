"""Durations, ports, signals, modes and owners: what expanded words mean."""

import pytest

from pybuild.dockerfile.durations import parse_duration
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.modes import parse_chmod
from pybuild.dockerfile.ports import has_host_part, parse_port_spec
from pybuild.dockerfile.signals import check_signal

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("1m30s", 90 * SECOND),
        ("1.5h", 5400 * SECOND),
        (".5s", SECOND // 2),
        ("5.s", 5 * SECOND),
        ("+2ms3us4ns", 2_003_004),
        ("1µs1μs", 2_000),
        ("-1s", -SECOND),
        ("1.0000000019s", SECOND + 1),
        ("2562047h", 2562047 * 3600 * SECOND),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "1", "s", ".s", "1 s", "1d", "1m 2s", "--1s", "1s-", "9" * 5000 + "s", "2562048h", "١s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/UDP", ["80/udp"]),
        ("80/", ["80/tcp"]),
        ("8000-8002/sctp", ["8000/sctp", "8001/sctp", "8002/sctp"]),
        ("8080:80", ["80/tcp"]),
        ("127.0.0.1:8080:80/udp", ["80/udp"]),
        ("127.0.0.1::80", ["80/tcp"]),
        ("[::1]:8080:80", ["80/tcp"]),
        ("65535", ["65535/tcp"]),
    ],
)
def test_ports(text: str, ports: list[str]) -> None:
    assert parse_port_spec(text) == ports
    assert has_host_part(text) is (":" in text)


@pytest.mark.parametrize(
    "text", ["", "/tcp", "http", "80/http", "65536", "9-8", "1-", "-1", "80:", "x:80", "host:1:80", "80 81", "٨٠"]
)
def test_no_ports(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_port_spec(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("sigkill", 9),
        ("9", 9),
        ("64", 64),
        ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63),
        ("CLD", 17),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert check_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "0", "65", "-1", "SIGTERMM", "RTMIN+31", "RTMIN-1", "RTMIN+", "RTMIN+٣", "15 "]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidValueError):
        check_signal(text)


def test_near_signal_is_named() -> None:
    with pytest.raises(InvalidValueError, match=r"invalid signal: SIGTREM \(did you mean SIGTERM\?\)"):
        check_signal("SIGTREM")


@pytest.mark.parametrize(
    ("text", "mode", "is_dir", "result"),
    [
        ("755", 0o600, False, 0o755),
        ("0", 0o7777, True, 0),
        ("07777", 0, False, 0o7777),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("go-rwx,u=rw", 0o777, False, 0o600),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("a+X", 0o611, False, 0o711),
        ("g=u,o=g", 0o740, False, 0o777),
        ("o-g", 0o767, False, 0o761),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("ug-s", 0o6755, False, 0o755),
        ("u=rwx", 0o4755, False, 0o755),
        ("u=rwx", 0o4755, True, 0o4755),
        ("u+r-w=x", 0o700, False, 0o100),
        ("=", 0o1777, False, 0),
    ],
)
def test_modes(text: str, mode: int, is_dir: bool, result: int) -> None:
    assert parse_chmod(text).apply(mode, is_dir) == result


@pytest.mark.parametrize(
    "text", ["", "8", "10000", "0o755", "u", "u+", "x", "u+q", "u+x,", "u+rg", "-1", "u x", "u+x" * 30_000 + "!"]
)
def test_no_modes(text: str) -> None:
    if text == "u+":
        # chmod(1) takes it too: nothing is added
        assert parse_chmod(text).apply(0o644, False) == 0o644
        return
    with pytest.raises(InvalidValueError):
        parse_chmod(text)
