"""Documents of images."""

import json

import pytest

from pybuild.oci.digest import InvalidDigestError, digest_of
from pybuild.oci.image import (
    MAX_DOCUMENT,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Healthcheck,
    History,
    ImageConfig,
    Index,
    InvalidImageError,
    Manifest,
    RootFS,
    RunConfig,
    decode,
    encode,
)

DIFF_ID = digest_of(b"layer")


def test_a_config_survives_the_round_trip() -> None:
    config = ImageConfig(
        architecture="arm",
        os="linux",
        variant="v7",
        created="2026-01-01T00:00:00Z",
        config=RunConfig(
            Env=["B=2", "A=1"],
            Labels={"b": "2", "a": "1"},
            ExposedPorts={"80/tcp": {}},
            Healthcheck=Healthcheck(Test=["CMD", "true"], Interval=1_000_000_000),
            Cmd=[],
        ),
        rootfs=RootFS(diff_ids=[DIFF_ID]),
        history=[History(created_by="RUN x", empty_layer=True)],
    )
    data = encode(config)
    assert decode(data, ImageConfig) == config
    assert encode(decode(data, ImageConfig)) == data


def test_maps_are_sorted_and_empty_fields_left_out() -> None:
    one = encode(ImageConfig(config=RunConfig(Labels={"b": "2", "a": "1"})))
    two = encode(ImageConfig(config=RunConfig(Labels={"a": "1", "b": "2"})))
    assert one == two
    assert b"Env" not in one
    assert b"variant" not in one


def test_manifests_and_indexes_say_their_version() -> None:
    layer = Descriptor(OCI_LAYER, DIFF_ID, 5)
    manifest = json.loads(encode(Manifest(media_type=OCI_MANIFEST, config=layer, layers=[layer])))
    assert manifest["schemaVersion"] == 2
    assert manifest["layers"] == [{"mediaType": OCI_LAYER, "digest": DIFF_ID, "size": 5}]
    assert json.loads(encode(Index(manifests=[])))["schemaVersion"] == 2


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"os":"linux","x":{"y":[1]},"rootfs":{"type":"layers","diff_ids":[]}}', ImageConfig).os == "linux"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"os":1}',
        b'{"rootfs":{"diff_ids":"x"}}',
        b'{"config":{"Env":[1]}}',
        b'{"os":"\xff"}',
    ],
)
def test_what_is_no_config_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode(data, ImageConfig)


def test_digests_inside_are_checked() -> None:
    path = "sha256:../../../../etc/passwd"
    with pytest.raises(InvalidDigestError):
        decode(json.dumps({"rootfs": {"type": "layers", "diff_ids": [path]}}).encode(), ImageConfig)
    row = {"mediaType": OCI_LAYER, "digest": path, "size": 1}
    with pytest.raises(InvalidDigestError):
        decode(json.dumps({"schemaVersion": 2, "manifests": [row]}).encode(), Index)
    with pytest.raises(InvalidDigestError):
        decode(json.dumps({"schemaVersion": 2, "config": row, "layers": []}).encode(), Manifest)


def test_large_documents_are_refused() -> None:
    with pytest.raises(InvalidImageError, match="over the limit"):
        decode(b" " * (MAX_DOCUMENT + 1), ImageConfig)
