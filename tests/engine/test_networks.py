"""Which network a RUN gets, and what is said when it is not the one hoped for."""

from typing import Any, cast

import pytest

from pybuild.api.events import Event, Notice
from pybuild.engine.networks import Networks
from pybuild.engine.workers import Workers
from pybuild.sandbox import network
from pybuild.sandbox.errors import NetworkError


class Fake:
    """Workers whose network is this one, or cannot be had."""

    def __init__(self, error: NetworkError | None = None) -> None:
        self.error, self.opened, self.closed, self.namespace = error, 0, 0, 7

    def open_network(self, _: object) -> "Fake":
        self.opened += 1
        if self.error:
            raise self.error
        return self

    def close(self) -> None:
        self.closed += 1


def networks(fake: Fake, told: list[Event]) -> Networks:
    return Networks(cast(Workers, fake), told.append)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine has a helper and an address here."""
    monkeypatch.setattr(network, "find_helpers", lambda: [network.Helper("pasta", "/x")])
    monkeypatch.setattr(network, "host_address", lambda: "192.0.2.5")


@pytest.mark.parametrize("wanted", ["default", "private"])
def test_private_network_is_made_once_and_closed(wanted: str) -> None:
    fake, told = Fake(), cast(list[Event], [])
    with networks(fake, told) as found:
        assert fake.opened == 0
        first, second = found.get(wanted), found.get(wanted)
        assert first is second
        assert (first.mode, first.namespace) == ("private", 7)
        assert first.resolv_conf is not None
        assert first.resolv_conf.startswith(b"nameserver 10.0.2.3\n")
        assert (fake.opened, fake.closed, told) == (1, 0, [])
    assert fake.closed == 1


def test_default_falls_back_to_the_host_with_one_line() -> None:
    fake, told = Fake(NetworkError("no tun", "fix it")), cast(list[Event], [])
    with networks(fake, told) as found:
        assert [found.get("default").mode for _ in range(3)] == ["host"] * 3
    assert told == [Notice("info", "RUN uses the network of the host: no tun")]
    assert fake.opened == 1


def test_private_does_not_fall_back() -> None:
    with networks(Fake(NetworkError("no tun", "fix it")), []) as found, pytest.raises(NetworkError, match="no tun"):
        found.get("private")


@pytest.mark.parametrize("wanted", ["none", "host"])
def test_what_is_asked_for_by_name_is_given_without_a_word(wanted: str) -> None:
    fake, told = Fake(NetworkError("no")), cast(list[Event], [])
    with networks(fake, told) as found:
        assert found.get(wanted).mode == wanted
    assert (told, fake.opened) == ([], 0)


def test_host_gateway_is_where_the_host_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: Any = ("a:10.0.0.1", "b:host-gateway", "c:fd00::1")
    with networks(Fake(), []) as found:
        assert found.get("private").hosts(hosts) == ("a:10.0.0.1", "b:192.0.2.5", "c:fd00::1")
        assert found.get("host").hosts(hosts)[1] == "b:127.0.0.1"
    monkeypatch.setattr(network, "host_address", lambda: None)
    with networks(Fake(), []) as found, pytest.raises(NetworkError, match="b:host-gateway"):
        found.get("private").hosts(hosts)
