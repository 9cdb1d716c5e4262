"""Addresses of daemons elsewhere, and what becomes of them on ssh's command line."""

from pathlib import Path

import pytest

from pybuild.client import connect, hosts
from pybuild.client.hosts import Host
from pybuild.client.ssh import command_line
from pybuild.errors import UsageError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("PYBUILD_CONFIG", str(path))
    monkeypatch.delenv(hosts.CERTIFICATES, raising=False)
    return path


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ssh://machine", Host("", "ssh", "machine")),
        ("ssh://me@machine:2222", Host("", "ssh", "machine", 2222, "me")),
        ("ssh://me@[fe80::1]:22/run/x.sock", Host("", "ssh", "fe80::1", 22, "me", "/run/x.sock")),
        ("ssh://machine/", Host("", "ssh", "machine")),
        ("tcp://127.0.0.1:99", Host("", "tcp", "127.0.0.1", 99)),
        ("tcp://[::1]:99", Host("", "tcp", "::1", 99)),
        ("tcp://localhost", Host("", "tcp", "localhost", 2375)),
        ("unix:///run/x.sock", Host("", "unix", path="/run/x.sock")),
    ],
)
def test_addresses(settings: Path, text: str, host: Host) -> None:
    assert hosts.find(text) == host._replace(name=text)


@pytest.mark.parametrize(
    "text",
    [
        *("ssh://", "ssh://-oProxyCommand=id", "ssh://-x@machine", "ssh://me@-machine", "ssh://a;id", "ssh://$(id)"),
        *("ssh://a b", "ssh://a\n", "ssh://a`id`", "ssh://a|b", "ssh://a&b", "ssh://a'b", 'ssh://a"b', "ssh://a\\b"),
        *("ssh://a:b", "ssh://a:0", "ssh://a:65536", "ssh://a:", "ssh://a:-1", "ssh://a:١", "ssh://a?x", "ssh://a#x"),
        *("ssh://@a", "ssh://a%20b", "ssh://[::1", "ssh://[::1]x", "ssh://[a]", "ssh://me:word@a", "ssh://é"),
        *("tcp://me@127.0.0.1", "tcp://127.0.0.1/x", "tcp://10.0.0.1:1", "tcp://machine:2376", "unix://x", "http://a"),
        *("ftp://a", "machine", "", "-machine", "ssh:/a"),
    ],
)
def test_what_is_no_address(settings: Path, text: str) -> None:
    with pytest.raises(UsageError):
        hosts.find(text)


def test_nothing_of_an_address_is_an_option_or_a_command(settings: Path) -> None:
    host = hosts.find("ssh://me@machine:2222/run/a;b$(c).sock")
    words = command_line(host)
    assert words[-4:-1] == ["2222", "--", "machine"]
    assert words[-1] == "pybuild daemon dial-stdio --socket '/run/a;b$(c).sock'"


def test_names_of_the_settings(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write_text(
        '[hosts.one]\nurl = "tcp://machine"\nca = "/c/ca"\ncert = "/c/cert"\nkey = "/c/key"\n'
        '[hosts.two]\nurl = "ssh://other"\ncommand = "/opt/pybuild"\n'
    )
    one = Host("one", "tcp", "machine", 2376, ca="/c/ca", cert="/c/cert", key="/c/key")
    assert hosts.find("one") == one
    monkeypatch.setenv(hosts.VARIABLE, "two")
    assert hosts.chosen() == Host("two", "ssh", "other", command="/opt/pybuild")
    with pytest.raises(UsageError, match=r"no such host: three"):
        hosts.find("three")
    with pytest.raises(UsageError, match="--inline builds here"):
        connect(inline=True)


@pytest.mark.parametrize(
    "text",
    [
        "hosts = 1",
        "hosts.a = 1",
        "[hosts.a]",
        "[hosts.a]\nurl = 1",
        '[hosts.a]\nurl = "tcp://x"\nca = "a"',
        '[hosts.a]\nurl = "ssh://x"\nca = "a"\ncert = "a"\nkey = "a"',
        '[hosts.a]\nurl = "ssh://x"\nword = "a"',
    ],
)
def test_settings_that_cannot_be(settings: Path, text: str) -> None:
    settings.write_text(text)
    with pytest.raises(UsageError):
        hosts.find("a")


def test_certificates_of_the_environment(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hosts.CERTIFICATES, "/c")
    assert hosts.find("tcp://machine")[2:] == (
        "machine",
        2376,
        "",
        "",
        "/c/ca.pem",
        "/c/cert.pem",
        "/c/key.pem",
        "pybuild",
    )
