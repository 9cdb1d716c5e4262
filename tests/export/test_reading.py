"""Archives of strangers: every way to lie is found out before an image counts."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pybuild.export.errors import InvalidArchiveError
from pybuild.export.reading import FoundImage, FoundIndex, find_images
from pybuild.oci.digest import digest_of
from pybuild.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from pybuild.oci.platform import Platform

HOST = Platform("linux", "amd64")
LAYER = b"layer"


class Files:
    """An archive in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def has(self, name: str) -> bool:
        return name in self.files


Document = dict[str, Any]


class Layout:
    """An OCI layout being put together."""

    def __init__(self) -> None:
        self.files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, data: bytes | Document, media_type: str, **more: Any) -> Document:
        """Add a blob and return its descriptor."""
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.files[f"blobs/sha256/{digest_of(raw)[7:]}"] = raw
        return {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw), **more}

    def config(self, architecture: str = "amd64", **more: Any) -> Document:
        rootfs = {"type": "layers", "diff_ids": [digest_of(LAYER)]}
        return {"architecture": architecture, "os": "linux", "rootfs": rootfs, "config": {}, **more}

    def manifest(self, config: Document | None = None, **more: Any) -> Document:
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(config or self.config(), OCI_CONFIG),
            "layers": [self.blob(LAYER, OCI_LAYER)],
            **more,
        }

    def image(self, *, name: str = "", architecture: str = "amd64", **more: Any) -> Document:
        notes = {"annotations": {"io.containerd.image.name": name}} if name else {}
        return self.blob(self.manifest(self.config(architecture)), OCI_MANIFEST, **notes, **more)

    def find(self, *rows: Document, **more: Any) -> list[Any]:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*rows], **more}
        self.files["index.json"] = json.dumps(index).encode()
        return find_images(Files(self.files), HOST)


@pytest.fixture
def layout() -> Layout:
    return Layout()


def names(found: list[FoundImage]) -> list[list[str]]:
    return [[name.familiar() for name in image.names] for image in found]


def test_an_image_is_found(layout: Layout) -> None:
    [image] = layout.find(layout.image(name="docker.io/library/app:1"))
    assert names([image]) == [["app:1"]]
    assert image.config.rootfs.diff_ids == [digest_of(LAYER)]
    [layer] = image.layers
    assert layer.descriptor is not None
    assert (layer.name, layer.descriptor.digest) == (f"blobs/sha256/{digest_of(LAYER)[7:]}", digest_of(LAYER))


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [
        ({}, []),
        ({"org.opencontainers.image.ref.name": "latest"}, []),
        ({"org.opencontainers.image.ref.name": "app:2"}, ["app:2"]),
        ({"org.opencontainers.image.ref.name": "host.example/app"}, ["host.example/app:latest"]),
        ({"org.opencontainers.image.ref.name": "2", "io.containerd.image.name": "docker.io/library/app:2"}, ["app:2"]),
    ],
)
def test_names_come_from_either_annotation(layout: Layout, notes: dict[str, str], wanted: list[str]) -> None:
    assert names(layout.find({**layout.image(), "annotations": notes})) == [wanted]


def test_one_image_may_have_several_names(layout: Layout) -> None:
    found = layout.find(layout.image(name="a:1"), layout.image(name="b:1"), layout.image(name="a:1"))
    assert names(found) == [["a:1", "b:1"]]


def platform(architecture: str, variant: str = "") -> Document:
    told = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
    return {"platform": told}


def several(layout: Layout, *names: str) -> tuple[list[Document], Document]:
    """Return the rows of images for these architectures, and that of an index of them."""
    rows = [layout.image(architecture=name, **platform(name)) for name in names]
    return rows, layout.blob({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}, OCI_INDEX)


def test_an_index_stays_together(layout: Layout) -> None:
    rows, inner = several(layout, "arm64", "amd64", "s390x")
    other = layout.blob({"schemaVersion": 2, "manifests": [layout.image(**platform("amd64"))]}, OCI_INDEX)
    named = [{**inner, "annotations": {"io.containerd.image.name": name}} for name in ("app:1", "app:2")]
    index, image = layout.find(*named, other)
    assert isinstance(index, FoundIndex)
    assert isinstance(image, FoundImage)
    assert [one.config.architecture for one in index.images] == ["arm64", "amd64", "s390x"]
    assert [row.platform for row in index.rows] == [row["platform"] for row in rows]
    assert [name.familiar() for name in index.names] == ["app:1", "app:2"]


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_of_an_index_what_is_there_counts(layout: Layout, part: str) -> None:
    rows, inner = several(layout, "arm64", "amd64", "s390x")
    for row in (rows[0], rows[2]):
        name = f"blobs/sha256/{row['digest'][7:]}"
        lacking = (
            name if part == "manifest" else f"blobs/sha256/{json.loads(layout.files[name])['config']['digest'][7:]}"
        )
        del layout.files[lacking]
    [image] = layout.find({**inner, "annotations": {"io.containerd.image.name": "app:1"}})
    assert isinstance(image, FoundImage)
    assert image.config.architecture == "amd64"
    assert names([image]) == [["app:1"]]


def test_docker_media_types_are_known(layout: Layout) -> None:
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": layout.blob(layout.config(), DOCKER_CONFIG),
        "layers": [layout.blob(LAYER, DOCKER_LAYER_GZIP)],
    }
    row = layout.blob(manifest, DOCKER_MANIFEST, **platform("amd64"))
    inner = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST_LIST, "manifests": [row]}
    assert len(layout.find(layout.blob(inner, DOCKER_MANIFEST_LIST))) == 1


def test_an_image_for_another_platform_loads_when_it_is_the_only_one(layout: Layout) -> None:
    [image] = layout.find(layout.image(architecture="s390x", **platform("s390x")))
    assert image.config.architecture == "s390x"


def test_an_index_without_the_host_is_told(layout: Layout) -> None:
    rows, inner = several(layout, "arm64", "s390x")
    for row in rows:
        del layout.files[f"blobs/sha256/{row['digest'][7:]}"]
    with pytest.raises(InvalidArchiveError, match="linux/amd64"):
        layout.find(inner)


def test_attestations_are_no_images(layout: Layout) -> None:
    proof = layout.blob(
        {"schemaVersion": 2, "config": layout.blob(b"{}", OCI_CONFIG), "layers": []},
        OCI_MANIFEST,
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
        platform={"os": "unknown", "architecture": "unknown"},
    )
    inner = layout.blob({"schemaVersion": 2, "manifests": [proof, layout.image(**platform("amd64"))]}, OCI_INDEX)
    assert len(layout.find(inner)) == 1


def test_a_top_index_for_several_platforms_gives_one_image(layout: Layout) -> None:
    rows = [layout.image(name="app:1", architecture=name, **platform(name)) for name in ("arm64", "amd64")]
    [image] = layout.find(*rows)
    assert image.config.architecture == "amd64"


def _renamed(layout: Layout) -> Document:
    row = layout.image()
    name = f"blobs/sha256/{row['digest'][7:]}"
    layout.files[name] = layout.files[name].replace(b'"schemaVersion": 2', b'"schemaVersion":  2')
    return row


def _gone(layout: Layout) -> Document:
    row = layout.image()
    del layout.files[f"blobs/sha256/{row['digest'][7:]}"]
    return row


def _manifest(**change: Any) -> Callable[[Layout], Document]:
    return lambda layout: layout.blob(layout.manifest(**change), OCI_MANIFEST)


def _config(**change: Any) -> Callable[[Layout], Document]:
    return lambda layout: layout.blob(layout.manifest(layout.config(**change)), OCI_MANIFEST)


def _without(key: str) -> Callable[[Layout], Document]:
    return lambda layout: layout.blob({k: v for k, v in layout.manifest().items() if k != key}, OCI_MANIFEST)


def _nested(layout: Layout) -> Document:
    row = layout.image()
    for _ in range(20):
        row = layout.blob({"schemaVersion": 2, "manifests": [row]}, OCI_INDEX)
    return row


def _wrong_size(part: str) -> Callable[[Layout], Document]:
    def change(layout: Layout) -> Document:
        manifest = layout.manifest()
        if part == "config":
            manifest["config"] = {**manifest["config"], "size": 3}
        return layout.blob(manifest, OCI_MANIFEST)

    return change


LIES: dict[str, Callable[[Layout], Document]] = {
    "manifest with another digest": _renamed,
    "manifest that is absent": _gone,
    "manifest with another size": lambda layout: {**layout.image(), "size": 3},
    "config with another size": _wrong_size("config"),
    "digest with a path": lambda layout: {**layout.image(), "digest": "sha256:../../../etc/passwd"},
    "digest of another algorithm": lambda layout: {**layout.image(), "digest": "sha512:" + "0" * 128},
    "manifest and index at once": _manifest(manifests=[]),
    "manifest that says it is an index": _manifest(mediaType=OCI_INDEX),
    "index that says it is a manifest": lambda layout: layout.blob(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "manifests": [layout.image()]}, OCI_INDEX
    ),
    "unknown kind of document": lambda layout: layout.blob(layout.manifest(), "application/x-other"),
    "no config": _without("config"),
    "no layers": _without("layers"),
    "layers null": _manifest(layers=None),
    "too few layers": _manifest(layers=[]),
    "layers of the wrong type": _manifest(layers="x"),
    "layer with a path for a digest": _manifest(layers=[{"mediaType": OCI_LAYER, "digest": "sha256:../x", "size": 1}]),
    "foreign layer": _manifest(
        layers=[
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": digest_of(LAYER),
                "size": len(LAYER),
                "urls": ["https://example.invalid/x"],
            }
        ]
    ),
    "config of a program": lambda layout: layout.blob(
        {**layout.manifest(), "config": layout.blob(layout.config(), "application/vnd.cncf.helm.config.v1+json")},
        OCI_MANIFEST,
    ),
    "first version of the schema": _manifest(schemaVersion=1),
    "config with other layers": _config(rootfs={"type": "layers", "diff_ids": [digest_of(b"x"), digest_of(b"y")]}),
    "config without layers": _config(rootfs={"type": "layers", "diff_ids": []}),
    "config with a path for a diff_id": _config(rootfs={"type": "layers", "diff_ids": ["sha256:../../x"]}),
    "config of the wrong type": _config(config="x"),
    "config for windows": _config(os="windows"),
    "indexes in indexes": _nested,
    "empty index": lambda layout: layout.blob({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
    "index without rows": lambda layout: layout.blob({"schemaVersion": 2}, OCI_INDEX),
    "name that is none": lambda layout: layout.image(name="UPPER::case"),
    "name with control characters": lambda layout: layout.image(name="a\x1b[31m:b"),
    "name that is a digest": lambda layout: layout.image(name=f"app@{digest_of(b'x')}"),
    "deep JSON": lambda layout: layout.blob(
        json.dumps(layout.manifest()).encode()[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", OCI_MANIFEST
    ),
    "deep config": lambda layout: layout.blob(
        {
            **layout.manifest(),
            "config": layout.blob(
                json.dumps(layout.config()).encode()[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
                OCI_CONFIG,
            ),
        },
        OCI_MANIFEST,
    ),
    "six hundred layers": lambda layout: layout.blob(
        layout.manifest(
            layout.config(rootfs={"type": "layers", "diff_ids": [digest_of(LAYER)] * 600}),
            layers=[layout.blob(LAYER, OCI_LAYER)] * 600,
        ),
        OCI_MANIFEST,
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_in_a_layout_is_found(layout: Layout, name: str) -> None:
    row = LIES[name](layout)
    with pytest.raises(InvalidArchiveError) as caught:
        layout.find(row)
    assert len(caught.value.message) < 500
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"manifests":[]}',
        b'{"schemaVersion":2,"manifests":[],"layers":[]}',
        b"[" * 200_000,
        b'{"schemaVersion":2,"x":' + b"[" * 200_000,
    ],
    ids=lambda data: data[:40].decode(),
)
def test_an_index_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArchiveError):
        find_images(Files({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": data}), HOST)


def test_what_holds_no_image_is_told() -> None:
    with pytest.raises(InvalidArchiveError) as caught:
        find_images(Files({"etc/passwd": b""}), HOST)
    assert "import" in caught.value.hint


# Docker archives

CONFIG = json.dumps(Layout().config()).encode()


def docker(*rows: Any, **files: bytes) -> Files:
    return Files(
        {
            "manifest.json": json.dumps([*rows]).encode(),
            f"{digest_of(CONFIG)[7:]}.json": CONFIG,
            "abc/layer.tar": LAYER,
            **{name.replace("__", "/"): data for name, data in files.items()},
        }
    )


ROW = {"Config": f"{digest_of(CONFIG)[7:]}.json", "RepoTags": ["app:1", "other/app:2"], "Layers": ["abc/layer.tar"]}


def test_a_docker_archive_is_read() -> None:
    found = find_images(docker(ROW, {**ROW, "RepoTags": None}), HOST)
    assert names(found) == [["app:1", "other/app:2"], []]
    assert [layer.name for layer in found[0].layers] == ["abc/layer.tar"]
    assert found[0].config_bytes == CONFIG


DOCKER_LIES: dict[str, Callable[[], Files]] = {
    "not a list": lambda: Files({"manifest.json": b'{"a":1}'}),
    "empty list": docker,
    "no JSON": lambda: Files({"manifest.json": b"nonsense"}),
    "deep JSON": lambda: Files({"manifest.json": b"[" * 200_000}),
    "deep rows": lambda: Files({"manifest.json": b'[{"Config":"x","y":' + b"[" * 200_000}),
    "no config": lambda: docker({**ROW, "Config": "x.json"}),
    "config without name": lambda: docker({"Layers": []}),
    "config with another digest": lambda: docker(
        {**ROW, "Config": f"{digest_of(b'x')[7:]}.json"}, **{f"{digest_of(b'x')[7:]}.json": CONFIG}
    ),
    "too few layers": lambda: docker({**ROW, "Layers": []}),
    "layers null": lambda: docker({**ROW, "Layers": None}),
    "bad name": lambda: docker({**ROW, "RepoTags": ["UPPER"]}),
}


@pytest.mark.parametrize("name", DOCKER_LIES)
def test_a_lie_in_a_docker_archive_is_found(name: str) -> None:
    with pytest.raises(InvalidArchiveError):
        find_images(DOCKER_LIES[name](), HOST)
