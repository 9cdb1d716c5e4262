"""Blobs go where they are lacking, however the way there breaks."""

from threading import Event

import pytest

from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest
from pybuild.registry.blobs import Source
from pybuild.registry.client import Client
from pybuild.registry.errors import AuthError, RegistryError
from pybuild.registry.transport import Transport
from pybuild.registry.upload import check_push, mount, push_blob, put_manifest
from support.registry import Fault, Registry, digest
from support.web import Asked

from .conftest import client_of

BIG = bytes(range(256)) * 8192
SMALL = b"small" * 10


class Whole:
    """Content whose length may be a secret until its end."""

    def __init__(self, data: bytes, *, known: bool = True) -> None:
        self.data, self.known = data, known

    def read(self, offset: int) -> bytes:
        self.known = self.known or offset >= len(self.data)
        return self.data[offset : offset + 100_000]

    def length(self) -> int | None:
        return len(self.data) if self.known else None

    def digest(self) -> Digest:
        assert self.known
        return Digest(digest(self.data))


def fault(method: str, what: Fault) -> object:
    return lambda asked: what if asked.method == method and "uploads" in asked.path else None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("data", [b"", SMALL, BIG])
def test_a_blob_arrives(client: Client, fake: Registry, data: bytes, known: bool) -> None:
    told: list[int] = []
    push_blob(Source(client, "app"), Whole(data, known=known), told.append)
    assert fake.contents.stored == {"app": {digest(data)}}
    assert told == sorted(told)
    assert told[-1:] == [len(data)] * bool(data)
    if known and data == SMALL:
        assert not fake.asked("PATCH")


@pytest.mark.parametrize("known", [True, False])
def test_what_breaks_off_is_gone_on_with(client: Client, fake: Registry, known: bool) -> None:
    fake.contents.faults += [fault("PATCH", Fault(cut=cut)) for cut in (300_000, 500_000)]  # type: ignore[misc]
    push_blob(Source(client, "app"), Whole(BIG, known=known))
    assert fake.contents.stored == {"app": {digest(BIG)}}
    sent = [request.headers.get("Content-Range") for request in fake.web.asked if request.method == "PATCH"]
    assert [part is None for part in sent] == [True, False, False]
    assert len(fake.asked("POST")) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_registry_is_asked_again(client: Client, fake: Registry, method: str, status: int) -> None:
    fake.contents.faults += [fault(method, Fault(status=status))] * 2  # type: ignore[list-item]
    push_blob(Source(client, "app"), Whole(BIG))
    assert fake.contents.stored == {"app": {digest(BIG)}}


def test_content_that_was_changed_on_the_way_is_sent_again(client: Client, fake: Registry) -> None:
    damage = Fault(change=lambda block: b"x" + block[1:])
    fake.contents.faults.append(fault("PATCH", damage))  # type: ignore[arg-type]
    push_blob(Source(client, "app"), Whole(BIG))
    assert fake.contents.stored == {"app": {digest(BIG)}}
    fake.contents.lasting.append(fault("PATCH", damage))  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match=r"does not take the content .*digest did not match.* 3 times"):
        push_blob(Source(client, "other"), Whole(BIG))


def test_an_upload_that_the_registry_lost_is_begun_anew(client: Client, fake: Registry) -> None:
    def lose(asked: Asked) -> Fault | None:
        if asked.method == "PATCH":
            fake.contents.uploads[asked.path.rpartition("/")[2] + "-lost"] = bytearray()
            del fake.contents.uploads[asked.path.rpartition("/")[2]]
            return Fault(status=500)
        return None

    fake.contents.faults.append(lose)
    push_blob(Source(client, "app"), Whole(BIG))
    assert fake.contents.stored == {"app": {digest(BIG)}}
    assert len(fake.asked("POST")) == 2


def test_a_lost_answer_to_the_last_request_is_no_failure(client: Client, fake: Registry) -> None:
    push_blob(Source(client, "app"), Whole(BIG))
    fake.contents.lasting.append(fault("PUT", Fault(status=502)))  # type: ignore[arg-type]
    push_blob(Source(client, "app"), Whole(BIG))


def test_a_registry_that_stays_broken_is_given_up(client: Client, fake: Registry) -> None:
    fake.contents.lasting.append(fault("PATCH", Fault(status=500, body=b'{"errors":[{"message":"disk"}]}')))  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match=r"500 Internal Server Error|several|times"):
        push_blob(Source(client, "app"), Whole(BIG))


def test_a_blob_of_another_repository_is_taken_over(client: Client, fake: Registry) -> None:
    push_blob(Source(client, "base"), Whole(BIG))
    assert not mount(Source(client, "app"), Digest(digest(BIG)), ["none"])
    assert mount(Source(client, "app"), Digest(digest(BIG)), ["none", "base"])
    assert digest(BIG) in fake.contents.stored["app"]
    # What was begun for nothing is given up
    assert fake.asked("DELETE")


def test_whether_pushing_is_allowed_is_known_before(client: Client, fake: Registry) -> None:
    check_push(Source(client, "app"))
    assert not fake.contents.stored.get("app")
    assert [name for name in fake.contents.uploads if not name.endswith("ended")] == []
    fake.contents.lasting.append(lambda asked: Fault(status=403) if asked.method == "POST" else None)
    with pytest.raises(AuthError, match="access is denied"):
        check_push(Source(client, "app"))


def test_a_manifest_that_arrives_as_another_is_an_error(client: Client, fake: Registry) -> None:
    headers = {"Docker-Content-Digest": digest(b"other")}
    fake.contents.lasting.append(lambda asked: Fault(status=201, headers=headers) if asked.method == "PUT" else None)
    with pytest.raises(RegistryError, match="other content than was sent"):
        put_manifest(Source(client, "app"), "1", "application/x", b"{}", Digest(digest(b"{}")))


def test_what_fails_while_it_is_made_is_told_as_it_is(client: Client, fake: Registry) -> None:
    class Broken(Whole):
        def read(self, offset: int) -> bytes:
            if offset >= 200_000:
                raise PybuildError("the layer is damaged")
            return super().read(offset)

    with pytest.raises(PybuildError, match="the layer is damaged"):
        push_blob(Source(client, "app"), Broken(BIG, known=False))
    assert len(fake.asked("PATCH")) <= 1


def test_a_cancelled_push_ends(fake: Registry) -> None:
    cancel = Event()

    class Slow(Whole):
        def read(self, offset: int) -> bytes:
            if offset >= 200_000:
                cancel.set()
            return super().read(offset)

    with Transport({}, "", cancel) as transport, pytest.raises(PybuildError, match="cancelled"):
        push_blob(Source(client_of(fake.address, transport), "app"), Slow(BIG))
