"""Who asks is told to whom it concerns, and to nobody else."""

import base64
from typing import Any

import pytest

from pybuild.oci.platform import Platform
from pybuild.oci.reference import parse_reference
from pybuild.registry.authorization import Credentials, belongs_to
from pybuild.registry.blobs import Source
from pybuild.registry.challenge import Challenge, parse_challenges
from pybuild.registry.client import Client
from pybuild.registry.errors import AuthError, RegistryError
from pybuild.registry.images import fetch_image
from pybuild.registry.transport import Transport
from support import registry
from support.registry import LAYER, Fault, Registry, digest
from support.web import Asked

from .conftest import client_of

BLOB = b"layer"
BASIC = "Basic " + base64.b64encode(b"me:p:w").decode()
ME = Credentials("me", "p:w")


@pytest.fixture
def guarded(fake: Registry) -> Registry:
    """A registry with a token server, which knows `me`."""
    fake.contents.image("app", "latest", [(LAYER, BLOB, digest(BLOB))])
    fake.contents.challenge = f'Bearer realm="{fake.web.url("/token")}",service="reg,1",scope="repository:app:pull"'

    def tokens(asked: Asked, query: dict[str, list[str]]) -> tuple[int, Any]:
        who = asked.headers.get("Authorization") or query.get("refresh_token", ["nobody"])[0]
        token = f"token-{len(fake.contents.accepted)}-{who[:5]}"
        fake.contents.accepted.add(f"Bearer {token}")
        return 200, {"access_token" if asked.method == "POST" else "token": token, "expires_in": 300}

    fake.contents.tokens = tokens
    return fake


def fetch(client: Client, fake: Registry) -> Any:
    return fetch_image(Source(client, "app"), parse_reference(fake.name("app")), Platform("linux", "amd64"))


def test_a_token_is_had_for_nobody_and_used_again(client: Client, guarded: Registry) -> None:
    assert fetch(client, guarded)
    assert len(guarded.asked("GET", "/token")) == 1
    [asked] = guarded.asked("GET", "/token")
    assert "service=reg%2C1" in asked
    assert "scope=repository%3Aapp%3Apull" in asked
    assert len(guarded.asked("GET", "/v2/app/")) == 3


def test_a_user_is_told_to_the_token_server_alone(transport: Transport, guarded: Registry) -> None:
    assert fetch(client_of(guarded.address, transport, ME), guarded)
    for request in guarded.web.asked:
        sent = request.headers.get("Authorization")
        assert sent == BASIC if "/token" in request.path else sent != BASIC


def test_an_identity_token_gives_others(transport: Transport, guarded: Registry) -> None:
    assert fetch(client_of(guarded.address, transport, Credentials(identity_token="idtok")), guarded)
    assert guarded.asked("POST", "/token") == ["/token"]


def test_a_token_that_has_run_out_is_fetched_anew(
    client: Client, guarded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybuild.registry import authorization

    assert fetch(client, guarded)
    guarded.contents.accepted.clear()
    monkeypatch.setattr(authorization, "_FRESH_SECONDS", 0.0)
    assert fetch(client, guarded)
    assert len(guarded.asked("GET", "/token")) == 2


def test_a_password_is_sent_once_it_is_asked_for(transport: Transport, guarded: Registry) -> None:
    guarded.contents.challenge, guarded.contents.accepted = 'Basic realm="r"', {BASIC}
    assert fetch(client_of(guarded.address, transport, ME), guarded)
    assert [request.headers.get("Authorization") for request in guarded.web.asked] == [None, BASIC, BASIC]


@pytest.mark.parametrize(
    ("credentials", "hint"), [(None, "pybuild login 127.0.0.1"), (ME, "pybuild auth why 127.0.0.1")]
)
def test_who_may_not_is_told_what_to_do(
    transport: Transport, guarded: Registry, credentials: Credentials | None, hint: str
) -> None:
    guarded.contents.challenge = 'Basic realm="r"'
    with pytest.raises(AuthError, match="access is denied") as caught:
        fetch(client_of(guarded.address, transport, credentials), guarded)
    assert hint in caught.value.hint
    assert "p:w" not in str(caught.value)


def test_a_token_that_is_not_enough_is_not_tried_for_ever(client: Client, guarded: Registry) -> None:
    def tokens(asked: Asked, query: dict[str, list[str]]) -> tuple[int, Any]:
        return 200, {"token": "useless"}

    guarded.contents.tokens = tokens
    with pytest.raises(AuthError):
        fetch(client, guarded)
    assert len(guarded.web.asked) == 3


@pytest.mark.parametrize(
    ("status", "value", "message"),
    [
        (401, {"details": "wrong password"}, "denied.*wrong password"),
        (500, {}, "token server answers 500"),
        (200, {}, "no token"),
        (200, {"token": "a\nb"}, "no token"),
        (200, [1], "not to be understood"),
    ],
)
def test_a_token_server_that_fails_is_told(
    client: Client, guarded: Registry, status: int, value: Any, message: str
) -> None:
    guarded.contents.tokens = lambda asked, query: (status, value)
    with pytest.raises(RegistryError, match=message):
        fetch(client, guarded)


def test_a_token_server_elsewhere_is_asked_as_nobody(transport: Transport, guarded: Registry) -> None:
    with registry.fake() as other:
        other.contents.tokens = guarded.contents.tokens
        url = other.web.url("/token").replace("127.0.0.1", "127.0.0.2").replace(":" + str(other.web.port), "")
        guarded.contents.challenge = f'Bearer realm="{url}:{other.web.port}/token"'.replace("/token:", ":")
        # Nothing listens at that address: what counts is that it may be asked, and with what
        client = client_of(guarded.address, transport, ME)
        client.authorization._url = guarded.web.url("/v2/")
        assert not client.authorization._believed(f"http://127.0.0.2:{other.web.port}/token")
        assert client.authorization._believed(guarded.web.url("/token"))


@pytest.mark.parametrize(
    ("realm", "host", "believed"),
    [
        ("quay.io", "quay.io", True),
        ("auth.docker.io", "registry-1.docker.io", True),
        ("gitlab.com", "registry.gitlab.com", True),
        ("gitlab.example.co.uk", "registry.gitlab.example.co.uk", True),
        ("auth.example.com", "registry.example.com", True),
        ("docker.io.evil.com", "registry-1.docker.io", False),
        ("evil.co.uk", "good.co.uk", False),
        ("co.uk", "good.co.uk", False),
        ("com", "example.com", False),
        ("evil.com", "example.com", False),
        ("evildocker.io", "registry-1.docker.io", False),
        ("10.0.0.2", "10.0.0.1", False),
        ("127.0.0.1", "registry.example.com", False),
        ("localhost", "registry.localhost", False),
    ],
)
def test_token_servers_of_the_same_domain_are_believed(realm: str, host: str, believed: bool) -> None:
    assert belongs_to(realm, host) is believed


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], []),
        (['Basic realm="a b"'], [Challenge("basic", {"realm": "a b"})]),
        (
            ['Bearer realm="https://x/t?a=1,2",service=s, scope="repository:a:pull,push"'],
            [Challenge("bearer", {"realm": "https://x/t?a=1,2", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            ['BASIC realm="q\\"q", Bearer realm=r', "Negotiate"],
            [Challenge("basic", {"realm": 'q"q'}), Challenge("bearer", {"realm": "r"}), Challenge("negotiate", {})],
        ),
        (["=,=", ""], []),
    ],
)
def test_challenges_are_read_in_all_their_forms(headers: list[str], found: list[Challenge]) -> None:
    assert parse_challenges(headers) == found


def test_a_refusal_carries_the_registrys_words(client: Client, guarded: Registry) -> None:
    guarded.contents.lasting.append(
        lambda asked: Fault(status=403, body=b'{"errors":[{"code":"DENIED","message":"over quota"}]}')
    )
    with pytest.raises(AuthError, match="over quota"):
        fetch(client, guarded)
