"""Caches go into directories of a client and come from there, by the content store that its session serves."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag

import pytest

from pybuild.api.request import Output
from pybuild.buildkit import messages
from pybuild.buildkit.contents import INFO, READ, STORE, WRITE, ClientCaches, ClientLayout, ContentError, ContentStore
from pybuild.buildkit.grpc import Call, Code, GrpcError, only
from pybuild.errors import PybuildError, UsageError
from pybuild.export.errors import InvalidArchiveError
from pybuild.oci.cacheconfig import CACHE_CONFIG
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import MAX_DOCUMENT, OCI_LAYER, Descriptor, Index, Manifest, decode
from support.grpc import Loop

BIG = bytes(range(256)) * 6000
SOURCE = Output("local", "/cache", {})


class Client:
    """A client with one store, `local:/cache`, that takes blobs as containerd does."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.left: dict[str, bytes] = {}
        self.full = False

    def choose(self, call: Call) -> None:
        if call.one(STORE) != "local:/cache":
            raise GrpcError(Code.NOT_FOUND, f"unknown store {call.one(STORE)}")

    async def info(self, call: Call) -> None:
        self.choose(call)
        digest = messages.CONTENT_REQUEST.decode(await only(call))["digest"]
        if digest not in self.blobs:
            raise GrpcError(Code.NOT_FOUND, f"content {digest}: not found")
        await call.send(b"")

    async def read(self, call: Call) -> None:
        self.choose(call)
        digest = messages.READ_CONTENT.decode(await only(call))["digest"]
        if digest not in self.blobs:
            raise GrpcError(Code.NOT_FOUND, f"content {digest}: not found")
        data = self.blobs[digest]
        for start in range(0, len(data), 100_000):
            await call.send(messages.CONTENT.encode({"offset": start, "data": data[start : start + 100_000]}))

    async def write(self, call: Call) -> None:
        self.choose(call)
        while (message := await call.receive()) is not None:
            request = messages.WRITE_CONTENT.decode(message)
            if self.full:
                raise GrpcError(Code.UNKNOWN, "no space left on device")
            if request["expected"] in self.blobs:
                raise GrpcError(Code.ALREADY_EXISTS, "content exists")
            have = self.left.get(request["ref"], b"") if request["offset"] else b""
            if request["offset"] != len(have):
                raise GrpcError(Code.OUT_OF_RANGE, f"write @{request['offset']} must occur at {len(have)}")
            have += request["data"]
            self.left[request["ref"]] = have
            if request["action"] == 2:
                assert request["total"] == len(have)
                assert request["expected"] == digest_of(have)
                self.blobs[request["expected"]] = self.left.pop(request["ref"])
            await call.send(b"")


class Told:
    """What a job is told."""

    def __init__(self) -> None:
        self.cancel = Flag()
        self.ended: list[str] = []
        self.counts: dict[str, int] = {}

    def begin(self, name: str) -> str:
        return name

    def end(self, digest: str, error: str = "") -> None:
        self.ended.append(error)

    def count(self, digest: str, label: str, current: int, *, done: bool = False) -> None:
        self.counts[label] = current


class World:
    def __init__(self, loop: Loop) -> None:
        self.client = Client()
        self.job = Told()
        self.session = loop.session({INFO: self.client.info, READ: self.client.read, WRITE: self.client.write})
        self.store = ContentStore(self.session, "/cache", self.job.cancel)
        self.caches = ClientCaches(self.session, self.job)  # type: ignore[arg-type]

    def layout(self, digest: str) -> ClientLayout:
        return self.caches.layout(SOURCE._replace(attrs={"digest": digest}))


@pytest.fixture
def world() -> Iterator[World]:
    with Loop() as loop:
        yield World(loop)


def opened(tmp_path: Path, data: bytes) -> int:
    (tmp_path / "layer").write_bytes(data)
    return os.open(tmp_path / "layer", os.O_RDONLY)


def test_a_cache_is_written_and_read_again(world: World, tmp_path: Path) -> None:
    layer = Descriptor(OCI_LAYER, digest_of(BIG), len(BIG))
    world.client.left[f"pybuild-{layer.digest}"] = b"left by a write that was interrupted"
    world.caches.write(SOURCE, b'{"a": 1}', [(layer, lambda: opened(tmp_path, BIG))])
    told = decode(world.caches.told["cache.manifest"].encode(), Descriptor)
    assert world.client.blobs.keys() == {layer.digest, digest_of(b'{"a": 1}'), told.digest}
    assert world.client.left == {}
    assert world.job.ended == [""]
    assert world.job.counts[f"writing layer {layer.digest}"] == len(BIG)
    layout = world.layout(told.digest)
    assert [row.digest for row in decode(layout.read("index.json") or b"", Index).manifests or []] == [told.digest]
    manifest = decode(layout.read("blobs/sha256/" + told.digest[7:]) or b"", Manifest)
    assert manifest.config == Descriptor(CACHE_CONFIG, digest_of(b'{"a": 1}'), 8)
    assert manifest.layers == [layer]
    with (tmp_path / "copy").open("w+b") as file:
        assert layout.copy("blobs/sha256/" + layer.digest[7:], file.fileno()) == layer.digest
        assert file.read() == BIG


def test_what_the_client_has_is_not_sent_again(world: World) -> None:
    layer = Descriptor(OCI_LAYER, digest_of(BIG), len(BIG))
    world.client.blobs[layer.digest] = BIG
    world.caches.write(SOURCE, b"{}", [(layer, lambda: pytest.fail("the layer was opened"))])
    assert len(world.client.blobs) == 3
    # And one that another build brings there meanwhile
    counted: list[int] = []
    world.store.write(layer.digest, len(BIG), io.BytesIO(BIG), counted.append)
    assert counted == []


def test_what_is_not_as_it_is_called_is_refused(world: World) -> None:
    digest = digest_of(b"right")
    world.client.blobs[digest] = b"wrong"
    with pytest.raises(InvalidArchiveError, match="not what its name says"):
        world.layout(digest).read("blobs/sha256/" + digest[7:])
    world.client.blobs[digest] = bytes(MAX_DOCUMENT + 1)
    with pytest.raises(InvalidArchiveError, match="is over"):
        world.layout(digest).read("blobs/sha256/" + digest[7:])
    with pytest.raises(InvalidArchiveError, match="not a blob"):
        world.layout(digest).read("blobs/sha256/../../etc/passwd")


def test_errors_of_the_client_are_told(world: World) -> None:
    absent = Digest("sha256:" + hashlib.sha256(b"absent").hexdigest())
    with pytest.raises(ContentError, match=r"/cache: content sha256:.*: not found"):
        world.layout(absent).read("blobs/sha256/" + absent[7:])
    for attrs in ({}, {"digest": "../x"}):
        with pytest.raises(UsageError, match="digest"):
            world.caches.layout(SOURCE._replace(attrs=attrs))
    world.client.full = True
    with pytest.raises(ContentError, match="/cache: no space left"):
        world.caches.write(SOURCE, b"{}", [])
    assert world.job.ended[-1].startswith("the cache in the client's directory /cache")
    with pytest.raises(ContentError, match="unknown store local:/other"):
        ContentStore(world.session, "/other", Flag()).write(absent, 6, io.BytesIO(b"absent"), lambda size: None)


def test_a_client_without_such_a_directory() -> None:
    job = Told()
    with pytest.raises(PybuildError, match="no session that serves its directory /cache"):
        ClientCaches(None, job).write(SOURCE, b"{}", [])  # type: ignore[arg-type]
    assert job.ended == ["the client has no session that serves its directory /cache"]
