"""Blobs are what their digest says, however the way to them breaks."""

import pytest

from pybuild.errors import CancelledError
from pybuild.oci.digest import Digest
from pybuild.oci.image import OCI_LAYER, Descriptor
from pybuild.registry.blobs import Source, fetch_blob
from pybuild.registry.client import Client
from pybuild.registry.errors import AuthError, MissingError, RegistryError, WrongContentError
from pybuild.registry.transport import Transport
from support.registry import Fault, Registry, digest
from support.web import Asked

DATA = bytes(range(256)) * 4096


def wanted(data: bytes = DATA) -> Descriptor:
    return Descriptor(OCI_LAYER, Digest(digest(data)), len(data))


def fetch(client: Client, descriptor: Descriptor) -> bytes:
    parts: list[bytes] = []
    fetch_blob([Source(client, "app")], descriptor, parts.append)
    return b"".join(parts)


def test_a_blob_comes_whole_with_its_progress(client: Client, fake: Registry) -> None:
    fake.contents.blob(DATA)
    told: list[int] = []
    parts: list[bytes] = []
    fetch_blob([Source(client, "app")], wanted(), parts.append, told.append)
    assert b"".join(parts) == DATA
    assert told == sorted(told)
    assert told[-1] == len(DATA)


@pytest.mark.parametrize("ignore", [False, True])
def test_what_breaks_off_is_gone_on_with(client: Client, fake: Registry, ignore: bool) -> None:
    fake.contents.blob(DATA)
    fake.contents.faults += [lambda _: Fault(cut=1000)] + [lambda _: Fault(cut=300_000, ignore_range=ignore)] * 2
    assert fetch(client, wanted()) == DATA
    ranges = [request.headers.get("Range") for request in fake.web.asked if "blobs" in request.path]
    assert ranges[:2] == [None, "bytes=1000-"]
    assert len(ranges) == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_registry_is_asked_again(client: Client, fake: Registry, status: int) -> None:
    fake.contents.blob(DATA)
    fake.contents.faults += [lambda _: Fault(status=status, headers={"Retry-After": "0"})] * 3
    assert fetch(client, wanted()) == DATA


def test_a_registry_that_stays_busy_is_given_up(client: Client, fake: Registry) -> None:
    fake.contents.lasting.append(lambda _: Fault(status=503, body=b'{"errors":[{"message":"no room"}]}'))
    with pytest.raises(
        RegistryError, match=r"GET http.*/v2/app/blobs/.* 503 Service Unavailable: no room \(after 5 tries"
    ):
        fetch(client, wanted())


def test_who_is_told_to_wait_for_long_does_not(client: Client, fake: Registry) -> None:
    fake.contents.lasting.append(lambda _: Fault(status=429, headers={"Retry-After": "86000"}))
    with pytest.raises(RegistryError, match=r"429 Too Many Requests .*86000 seconds") as caught:
        fetch(client, wanted())
    assert "pybuild login" in caught.value.hint
    assert len(fake.asked("GET", "/blobs/")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"x" + data[1:], "not what its digest says"),
        (lambda data: data + b"more", "more than the"),
    ],
)
def test_other_content_is_refused(client: Client, fake: Registry, change: object, message: str) -> None:
    fake.contents.blob(DATA)
    fake.contents.lasting.append(lambda _: Fault(change=change))  # type: ignore[arg-type]
    with pytest.raises(WrongContentError, match=message):
        fetch(client, wanted())


def test_a_blob_that_is_shorter_than_promised_is_refused(client: Client, fake: Registry) -> None:
    fake.contents.blobs[digest(DATA)] = DATA[:-7]
    with pytest.raises(RegistryError, match="ended after"):
        fetch(client, wanted())


def test_what_is_not_there_is_told_in_the_registrys_words(client: Client, fake: Registry) -> None:
    with pytest.raises(MissingError, match="404 Not Found: blobs unknown"):
        fetch(client, wanted())


def test_an_error_of_a_proxy_in_between_is_one_line(client: Client, fake: Registry) -> None:
    fake.contents.lasting.append(lambda _: Fault(status=403, body=b"<html>\n<b>no</b>" * 100_000))
    with pytest.raises(AuthError) as caught:
        fetch(client, wanted())
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_a_cancelled_build_waits_for_no_registry(fake: Registry) -> None:
    from threading import Event, Timer

    from .conftest import client_of

    gate = Event()
    cancel = Event()

    def stall(asked: Asked) -> None:
        cancel.set()
        gate.wait(20)

    fake.contents.lasting.append(stall)
    timer = Timer(20, gate.set)
    timer.start()
    try:
        with Transport({}, "", cancel) as transport, pytest.raises(CancelledError):
            fetch(client_of(fake.address, transport), wanted())
        assert not gate.is_set()
    finally:
        gate.set()
        timer.cancel()
