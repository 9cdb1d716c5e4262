"""Reads image archives independently of pybuild: OCI layouts and docker archives, with every digest checked."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_KEPT = 1 << 20
"""Contents of files up to this size are kept; of larger ones only the digest."""


@dataclass(frozen=True)
class Node:
    """A member of a layer, its path without slashes at either end."""

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: float
    link: str
    sha256: str
    data: bytes | None
    xattrs: dict[str, str] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)

    @property
    def text(self) -> str:
        assert self.data is not None, f"too large to be kept: {self.path}"
        return self.data.decode()


@dataclass(frozen=True)
class Image:
    """An image as it lies in an archive."""

    names: tuple[str, ...]
    config: dict[str, Any]
    config_digest: str
    manifest: dict[str, Any]
    layers: list[list[Node]]

    @property
    def run(self) -> dict[str, Any]:
        """The part of the config that says how to run it."""
        found: dict[str, Any] = self.config.get("config") or {}
        return found

    @property
    def diff_ids(self) -> list[str]:
        found: list[str] = self.config["rootfs"]["diff_ids"]
        return found

    @property
    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.config["history"]
        return found

    def tree(self) -> dict[str, Node]:
        """Return what a container would see, by path."""
        return merge(self.layers)

    def read(self, path: str) -> str:
        """Return the content of a file as text."""
        return self.tree()[path].text

    def added(self, layer: int = -1) -> set[str]:
        """Return the paths in one layer."""
        return {node.path for node in self.layers[layer]}


def merge(layers: list[list[Node]]) -> dict[str, Node]:
    """Return layers laid over each other, whiteouts done."""
    tree: dict[str, Node] = {}
    for layer in layers:
        for node in layer:
            parent, _, name = node.path.rpartition("/")
            if name == ".wh..wh..opq":
                _drop(tree, parent, itself=False)
            elif name.startswith(".wh."):
                _drop(tree, f"{parent}/{name[4:]}".lstrip("/"), itself=True)
        for node in layer:
            if not node.path.rpartition("/")[2].startswith(".wh."):
                known = tree.get(node.path)
                if known and known.type == "dir" and node.type != "dir":
                    _drop(tree, node.path, itself=False)
                tree[node.path] = node
    return tree


def _drop(tree: dict[str, Node], path: str, *, itself: bool) -> None:
    below = f"{path}/" if path else ""
    for known in [known for known in tree if known.startswith(below) or (itself and known == path)]:
        if itself or known != path:
            del tree[known]


def _kind(member: tarfile.TarInfo) -> str:
    if member.isreg():
        return "file"
    names = {
        tarfile.DIRTYPE: "dir",
        tarfile.SYMTYPE: "symlink",
        tarfile.LNKTYPE: "hardlink",
        tarfile.CHRTYPE: "char",
        tarfile.BLKTYPE: "block",
        tarfile.FIFOTYPE: "fifo",
    }
    return names[member.type]


def read_layer(stream: Any) -> list[Node]:
    """Return the members of an uncompressed layer tar."""
    nodes = []
    with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as archive:
        for member in archive:
            digest, data = "", None
            if member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                sha, kept = hashlib.sha256(), []
                while chunk := content.read(_KEPT):
                    sha.update(chunk)
                    if member.size <= _KEPT:
                        kept.append(chunk)
                digest, data = sha.hexdigest(), b"".join(kept) if member.size <= _KEPT else None
            nodes.append(
                Node(
                    path=member.name.removeprefix("./").strip("/") if member.name != "." else "",
                    type=_kind(member),
                    mode=member.mode & 0o7777,
                    uid=member.uid,
                    gid=member.gid,
                    size=member.size,
                    mtime=member.mtime,
                    link=member.linkname,
                    sha256=digest,
                    data=data,
                    xattrs={
                        key.removeprefix("SCHILY.xattr."): value
                        for key, value in member.pax_headers.items()
                        if key.startswith("SCHILY.xattr.")
                    },
                    device=(member.devmajor, member.devminor) if member.isdev() else (0, 0),
                )
            )
    return nodes


class _Hashing(io.RawIOBase):
    """Passes a stream through and keeps the digest of all of it, trailing blocks included."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: bytes = self._stream.read(len(buffer))
        self.sha.update(data)
        buffer[: len(data)] = data
        return len(data)


def _layer(stream: Any, diff_id: str) -> list[Node]:
    head = stream.read(4)
    stream.seek(0)
    if head == b"\x28\xb5\x2f\xfd":
        from backports import zstd

        stream = zstd.ZstdFile(stream)
    elif head[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=stream)
    hashing = _Hashing(stream)
    nodes = read_layer(hashing)
    while hashing.read(_KEPT):
        pass
    assert f"sha256:{hashing.sha.hexdigest()}" == diff_id, "a layer is not what its diff_id says"
    return nodes


class _Directory:
    """An OCI layout directory with the one verb of an archive that is needed here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def extractfile(self, name: str) -> Any:
        return io.BytesIO((self.root / name).read_bytes())


def _blob(archive: Any, descriptor: dict[str, Any]) -> Any:
    algorithm, _, value = descriptor["digest"].partition(":")
    stream = archive.extractfile(f"blobs/{algorithm}/{value}")
    sha, size = hashlib.sha256(), 0
    while chunk := stream.read(_KEPT):
        sha.update(chunk)
        size += len(chunk)
    assert (sha.hexdigest(), size) == (value, descriptor["size"]), f"not what its descriptor says: {descriptor}"
    stream.seek(0)
    return stream


def read_oci(path: Path) -> list[Image]:
    """Return the images in an OCI archive or layout directory."""
    if path.is_dir():
        return _read_oci(_Directory(path))
    with tarfile.open(path) as archive:
        return _read_oci(archive)


def _read_oci(archive: Any) -> list[Image]:
    assert json.load(archive.extractfile("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    images = []
    for descriptor in json.load(archive.extractfile("index.json"))["manifests"]:
        manifest = json.load(_blob(archive, descriptor))
        config = json.load(_blob(archive, manifest["config"]))
        assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
        layers = [
            _layer(_blob(archive, layer), diff_id)
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        ]
        notes = descriptor.get("annotations", {})
        names = [
            notes[key] for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name") if key in notes
        ]
        images.append(Image(tuple(names), config, manifest["config"]["digest"], manifest, layers))
    # An image of several names has a descriptor for each.
    by_digest: dict[str, Image] = {}
    for image in images:
        known = by_digest.get(image.config_digest)
        by_digest[image.config_digest] = replace(known, names=known.names + image.names) if known else image
    return list(by_digest.values())


def read_docker(path: Path) -> list[Image]:
    """Return the images in a docker archive."""
    images = []
    with tarfile.open(path) as archive:
        manifest_file = archive.extractfile("manifest.json")
        assert manifest_file is not None
        for item in json.load(manifest_file):
            config_file = archive.extractfile(item["Config"])
            assert config_file is not None
            raw = config_file.read()
            config = json.loads(raw)
            layers = [
                _layer(archive.extractfile(name), diff_id)
                for name, diff_id in zip(item["Layers"], config["rootfs"]["diff_ids"], strict=True)
            ]
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            images.append(Image(tuple(item.get("RepoTags") or ()), config, digest, item, layers))
    return images
