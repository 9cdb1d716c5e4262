"""What refers to an image is found by it, whether or not its registry knows of referrers."""

import json

import pytest

from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import OCI_MANIFEST, Descriptor, Manifest, encode
from pybuild.registry.blobs import Source
from pybuild.registry.client import Client
from pybuild.registry.errors import MissingError
from pybuild.registry.referrers import described, put_referrer, referrers
from support.registry import INDEX, LAYER, Registry, digest
from support.web import Asked

SBOM, OTHER = "application/spdx+json", "application/x-other"


@pytest.fixture
def source(client: Client, fake: Registry) -> Source:
    fake.contents.image("app", "1", [(LAYER, b"layer", digest(b"layer"))])
    return Source(client, "app")


def refer(source: Source, subject: Descriptor, artifact_type: str, note: str) -> Digest:
    manifest = encode(
        Manifest(media_type=OCI_MANIFEST, artifact_type=artifact_type, subject=subject, annotations={"note": note})
    )
    row = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest), {"note": note}, artifact_type=artifact_type)
    put_referrer(source, subject.digest, row, manifest)
    return row.digest


@pytest.mark.parametrize("page", [0, 1, 5])
def test_what_refers_is_listed(source: Source, fake: Registry, page: int) -> None:
    fake.contents.referrers = page
    subject = described(source, "1")
    assert referrers(source, subject.digest) == []
    first, second = refer(source, subject, SBOM, "one"), refer(source, subject, OTHER, "two")
    assert refer(source, subject, SBOM, "one") == first
    assert [row.digest for row in referrers(source, subject.digest)] == [first, second]
    [row] = referrers(source, subject.digest, SBOM)
    assert (row.digest, row.artifact_type, row.annotations) == (first, SBOM, {"note": "one"})
    tag = ("app", subject.digest.replace(":", "-"))
    assert (tag in fake.contents.documents) == (page == 0)


def test_an_index_of_others_keeps_what_they_wrote(source: Source, fake: Registry) -> None:
    subject = described(source, "1")
    theirs = {"mediaType": OCI_MANIFEST, "digest": digest(b"theirs"), "size": 6, "data": "dGhlaXJz"}
    tag = subject.digest.replace(":", "-")
    fake.contents.document("app", tag, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [theirs], "x": 1})
    ours = refer(source, subject, SBOM, "one")
    index = json.loads(fake.contents.documents["app", tag][1])
    assert index["manifests"][0] == theirs
    assert index["manifests"][1]["digest"] == ours
    assert index["x"] == 1


def test_a_row_that_others_overwrite_is_added_again(source: Source, fake: Registry) -> None:
    subject = described(source, "1")
    tag = subject.digest.replace(":", "-")

    def overwrite(asked: Asked) -> None:
        if asked.method == "GET" and tag in asked.path and ("app", tag) in fake.contents.documents:
            fake.contents.lasting.remove(overwrite)
            fake.contents.document("app", tag, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})

    fake.contents.lasting.append(overwrite)
    ours = refer(source, subject, SBOM, "one")
    assert not fake.contents.lasting
    assert [row.digest for row in referrers(source, subject.digest)] == [ours]


def test_what_is_no_list_is_refused(source: Source, fake: Registry) -> None:
    subject = described(source, "1")
    tag = subject.digest.replace(":", "-")
    fake.contents.document("app", tag, INDEX, {"schemaVersion": 2, "mediaType": INDEX})
    with pytest.raises(PybuildError, match="is none"):
        refer(source, subject, SBOM, "one")
    with pytest.raises(MissingError):
        described(source, "2")
