"""A registry in memory, and a client of it that is in a hurry."""

from collections.abc import Iterator
from threading import Event

import pytest

from pybuild.registry import client as client_module
from pybuild.registry.authorization import Authorization, Credentials
from pybuild.registry.client import Client
from pybuild.registry.hosts import host_of
from pybuild.registry.transport import Transport
from support import registry


@pytest.fixture
def fake() -> Iterator[registry.Registry]:
    with registry.fake() as found:
        yield found


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport({}, "", Event()) as found:
        yield found


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def client(fake: registry.Registry, transport: Transport) -> Client:
    return client_of(fake.address, transport)


def client_of(address: str, transport: Transport, credentials: Credentials | None = None) -> Client:
    host = host_of(address, ())
    return Client(host, transport, Authorization(host, transport, lambda name: credentials, {}))
