"""What a name stands for: for a platform, checked, and nothing that means two things."""

import json
from typing import Any

import pytest

from pybuild.errors import PybuildError
from pybuild.oci.image import InvalidImageError
from pybuild.oci.platform import Platform, parse_platform
from pybuild.oci.reference import parse_reference
from pybuild.registry.blobs import Source
from pybuild.registry.client import Client
from pybuild.registry.errors import MissingError, RegistryError, WrongContentError
from pybuild.registry.images import fetch_image, resolve
from support.registry import DOCKER_LIST, INDEX, LAYER, MANIFEST, Fault, Registry, descriptor, digest

AMD64 = Platform("linux", "amd64")
BLOB = b"layer"
LAYERS = [(LAYER, BLOB, digest(BLOB))]


def fetch(client: Client, fake: Registry, name: str = "app", platform: Platform = AMD64) -> Any:
    reference = parse_reference(fake.name(name))
    return fetch_image(Source(client, reference.path), reference, platform)


@pytest.mark.parametrize("docker", [False, True])
def test_a_manifest_gives_config_and_layers(client: Client, fake: Registry, docker: bool) -> None:
    manifest = fake.contents.image("app", "latest", LAYERS, docker=docker, author="me")
    image = fetch(client, fake)
    assert (image.digest, image.manifest.digest) == (digest(manifest), digest(manifest))
    assert image.config.author == "me"
    assert [layer.digest for layer in image.layers] == [digest(BLOB)]
    assert not fake.asked("GET", digest(BLOB))
    assert resolve(Source(client, "app"), "latest") == digest(manifest)


def with_platforms(fake: Registry, media_type: str, *names: str) -> bytes:
    rows = []
    for name in names:
        platform = parse_platform(name)
        manifest = fake.contents.image("app", name.replace("/", "-"), LAYERS, author=name)
        given = {"os": platform.os, "architecture": platform.architecture}
        rows.append(descriptor(manifest, MANIFEST, platform={**given, "variant": platform.variant}))
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    unknown = {"os": "unknown", "architecture": "unknown"}
    rows.insert(0, descriptor(b"{}", MANIFEST, platform=unknown, annotations=attestation))
    return fake.contents.document(
        "app", "latest", media_type, {"schemaVersion": 2, "mediaType": media_type, "manifests": rows}
    )


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/amd64/v3", "linux/amd64/v2"),
        ("linux/arm64", "linux/arm64"),
    ],
)
def test_an_index_gives_the_best_for_a_platform(
    client: Client, fake: Registry, media_type: str, asked: str, found: str
) -> None:
    names = ("linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/amd64/v2", "linux/arm64")
    index = with_platforms(fake, media_type, *names)
    image = fetch(client, fake, platform=parse_platform(asked))
    assert image.config.author == found
    assert image.digest == digest(index)
    assert image.manifest.digest != image.digest


def test_an_index_without_the_platform_tells_which_it_has(client: Client, fake: Registry) -> None:
    with_platforms(fake, INDEX, "linux/arm64", "linux/s390x")
    with pytest.raises(MissingError, match="no image for linux/amd64") as caught:
        fetch(client, fake)
    assert "linux/arm64, linux/s390x" in caught.value.hint
    assert "unknown" not in caught.value.hint


def test_a_digest_names_one_thing_only(client: Client, fake: Registry) -> None:
    manifest = fake.contents.image("app", "latest", LAYERS)
    assert fetch(client, fake, f"app@{digest(manifest)}").digest == digest(manifest)
    other = fake.contents.image("app", "latest", LAYERS, author="other")
    fake.contents.documents["app", digest(manifest)] = MANIFEST, other
    with pytest.raises(WrongContentError):
        fetch(client, fake, f"app@{digest(manifest)}")


def _both(document: dict[str, Any]) -> Any:
    return {**document, "manifests": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_both, "manifest and index at once"),
        (lambda document: {**document, "mediaType": INDEX}, "not of the type"),
        (lambda document: {**document, "schemaVersion": 3}, "schemaVersion"),
        (lambda document: [document], "at once|invalid"),
        (lambda document: {**document, "layers": None}, "no layers"),
        (lambda document: {**document, "layers": document["layers"] * 2}, "speaks of 1"),
        (lambda document: {**document, "config": {**document["config"], "mediaType": "text/x"}}, "no image"),
        (lambda document: {**document, "config": {**document["config"], "digest": "sha256:../.."}}, "not a sha256"),
        (lambda document: {**document, "config": {**document["config"], "size": 3}}, "more than the 3 bytes"),
        (
            lambda document: {**document, "layers": [{**document["layers"][0], "mediaType": f"{LAYER}.foreign"}]},
            "unknown type",
        ),
        (lambda _: b"{", "invalid|no JSON"),
        (lambda _: b"[" * 100_000, "invalid|no JSON|nested"),
        (lambda _: b"{" + b" " * (5 << 20) + b"}", "over the limit"),
    ],
)
def test_documents_that_are_not_what_they_should_be_are_refused(
    client: Client, fake: Registry, change: Any, message: str
) -> None:
    document = json.loads(fake.contents.image("app", "latest", LAYERS))
    fake.contents.document("app", "latest", MANIFEST, change(document))
    with pytest.raises(PybuildError, match=message) as caught:
        fetch(client, fake)
    assert isinstance(caught.value, RegistryError | InvalidImageError | PybuildError)
    assert len(caught.value.message) < 500


def test_images_of_old_are_told_as_such(client: Client, fake: Registry) -> None:
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    fake.contents.document("app", "latest", media_type, {"schemaVersion": 1, "fsLayers": []})
    with pytest.raises(InvalidImageError, match="schema 1"):
        fetch(client, fake)


def test_indexes_that_hold_each_other_end(client: Client, fake: Registry) -> None:
    inner = fake.contents.document("app", "x", INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    for _ in range(5):
        rows = [descriptor(inner, INDEX)]
        inner = fake.contents.document("app", "latest", INDEX, {"schemaVersion": 2, "manifests": rows})
    with pytest.raises(InvalidImageError, match="nested"):
        fetch(client, fake)


def test_a_redirect_is_followed_without_what_is_secret(client: Client, fake: Registry) -> None:
    from support import registry

    fake.contents.image("app", "latest", LAYERS)
    fake.contents.challenge, fake.contents.accepted = 'Basic realm="x"', set()
    with registry.fake() as other:
        other.contents = fake.contents
        # Another port is another host
        fake.contents.lasting.append(
            lambda asked: (
                Fault(status=307, headers={"Location": other.web.url(asked.path) + "?sig=secret"})
                if asked.headers["Host"] == fake.address and "blobs" in asked.path
                else None
            )
        )
        fake.contents.challenge = ""
        other.web.contents = fake.contents  # type: ignore[attr-defined]
        client.authorization.header = lambda scopes: "Bearer secret"  # type: ignore[method-assign]
        assert fetch(client, fake).config.os == "linux"
        assert all(request.headers.get("Authorization") == "Bearer secret" for request in fake.web.asked)
        assert other.web.asked
        assert not any(request.headers.get("Authorization") for request in other.web.asked)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1", "/v2/app/manifests/latest"]
)
def test_redirects_lead_to_http_only_and_end(client: Client, fake: Registry, location: str) -> None:
    fake.contents.lasting.append(lambda _: Fault(status=302, headers={"Location": location}))
    with pytest.raises(RegistryError, match=r"less safe|more than 5|no address"):
        fetch(client, fake)
