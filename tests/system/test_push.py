"""Images go to registries, once, and others find there what we had."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import pytest

from support import busybox, registry
from support.program import Pybuild
from support.registry import DOCKER_LAYER, LAYER, MANIFEST, Fault, Program, Registry, digest

pytestmark = pytest.mark.userns


@pytest.fixture
def remote() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


def rootfs(pybuild: Pybuild, name: str, content: bytes) -> Path:
    path = pybuild.base / f"{name.replace('/', '-')}.tar"
    source = pybuild.base / "file"
    source.write_bytes(content)
    with tarfile.open(path, "w") as archive:
        archive.add(source, "file")
    return path


def manifest_of(remote: Registry, repository: str, tag: str) -> dict[str, object]:
    kind, data = remote.contents.documents[repository, tag]
    assert kind == MANIFEST
    found: dict[str, object] = json.loads(data)
    return found


def test_an_image_is_sent_once(pybuild: Pybuild, remote: Registry) -> None:
    name = remote.name("team/app:1")
    pybuild("import", rootfs(pybuild, "app", os.urandom(500_000)), name)
    told = json.loads(pybuild("push", "--json", name).text)
    data = remote.contents.documents["team/app", "1"][1]
    sizes = {"fresh": True, "size": len(data)}
    assert told == {"name": name, "digest": digest(data), "image_id": told["image_id"], **sizes}
    manifest = json.loads(data)
    assert manifest["config"]["digest"] == told["image_id"]
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"{LAYER}+gzip"]
    assert remote.contents.stored["team/app"] == {told["image_id"], manifest["layers"][0]["digest"]}
    del remote.web.asked[:]
    assert pybuild("push", "-q", name).text == f"{digest(data)}\n"
    assert {request.method for request in remote.web.asked} == {"HEAD", "PUT"}
    [shown] = pybuild.json("inspect", name)
    assert shown["RepoDigests"] == [f"{remote.name('team/app')}@{digest(data)}"]


def test_tags_and_repositories_share_what_was_sent(inline: Pybuild, remote: Registry) -> None:
    names = [remote.name(name) for name in ("app:1", "app:2", "other:1")]
    inline("import", rootfs(inline, "app", os.urandom(300_000)), names[0])
    for name in names[1:]:
        inline("tag", names[0], name)
    inline("push", *names)
    assert len(remote.asked("PATCH")) == 1
    assert remote.contents.stored["app"] == remote.contents.stored["other"]
    assert manifest_of(remote, "app", "2") == manifest_of(remote, "other", "1")
    inline("tag", names[0], remote.name("app:3"))
    inline("push", "--all-tags", remote.name("app"))
    assert manifest_of(remote, "app", "3") == manifest_of(remote, "app", "1")
    assert inline("push", "-a", remote.name("app:1"), status=2)
    failed = inline("push", remote.name("nothing:1"), status=1)
    assert "No such image" in failed.err


@pytest.mark.parametrize(
    ("kind", "ending"), [("gzip", "+gzip"), ("zstd", "+zstd"), pytest.param("none", "", marks=pytest.mark.slow)]
)
def test_layers_go_as_asked_and_come_back_the_same(inline: Pybuild, remote: Registry, kind: str, ending: str) -> None:
    name = remote.name("app:1")
    image = inline("import", rootfs(inline, "app", b"x" * 3_000_000), name).text.strip()
    inline("push", "--compression", kind, name)
    assert manifest_of(remote, "app", "1")["layers"][0]["mediaType"] == f"{LAYER}{ending}"  # type: ignore[index]
    inline("rmi", name)
    inline("prune", "-f", "--all")
    assert inline("pull", "-q", name).text.strip() == image
    assert "unknown compression" in inline("push", "--compression", "lzma", name, status=2).err
    level = inline("push", "--compression", kind, "--compression-level", "99", name, status=2)
    assert "the level of" in level.err


def test_a_build_is_pushed_and_its_base_is_taken_over(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    pybuild("import", rootfs(pybuild, "base", os.urandom(300_000)), remote.name("base:1"))
    pybuild("push", remote.name("base:1"))
    del remote.web.asked[:]
    (context / "file").write_bytes(os.urandom(1000))
    text = f"FROM {remote.name('base:1')}\nCOPY file /copied\n"
    metadata = pybuild.base / "metadata.json"
    name = remote.name("app:1")
    built = pybuild.build(context, "-t", name, "--push", "--metadata-file", metadata, dockerfile=text).events[-1]
    data = remote.contents.documents["app", "1"][1]
    assert json.loads(metadata.read_text())["containerimage.digest"] == digest(data)
    assert built["exported"] == [f"{name}@{digest(data)}"]
    assert [path for path in remote.asked("POST") if "mount=" in path and "from=base" in path]
    sent = [len(request.path) for request in remote.web.asked if request.method == "PATCH"]
    assert len(sent) == 1, "the layer of the base was sent again"
    pybuild.build(context, "-o", f"type=registry,name={remote.name('app:2')},compression=zstd", dockerfile=text)
    assert manifest_of(remote, "app", "2")["layers"][1]["mediaType"] == f"{LAYER}+zstd"  # type: ignore[index]


def test_who_replaces_an_index_by_one_of_its_images_is_told(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    name = remote.name("app:1")
    pybuild.build(
        context, "-t", name, "--platform=linux/amd64,linux/arm64", "--push", dockerfile="FROM scratch\nLABEL a=b\n"
    )
    index = digest(remote.contents.documents["app", "1"][1])
    pybuild("rmi", name)
    pybuild("prune", "-a", "-f")
    pybuild("pull", "--platform=linux/arm64", name)
    told = pybuild("push", name).err
    assert f"warning: {name} was an index of several platforms and is now the image for linux/arm64 alone; " in told
    assert f"can be had as {remote.name('app')}@{index}\n" in told
    assert "config" in json.loads(remote.contents.documents["app", "1"][1])
    assert "warning" not in pybuild("push", name).err
    # Of a name that was never an index nobody is asked
    pybuild("tag", name, remote.name("other:1"))
    del remote.web.asked[:]
    assert "warning" not in pybuild("push", remote.name("other:1")).err
    assert not [path for path in remote.asked("HEAD") if "/manifests/" in path]


def test_an_output_of_type_image_is_kept_and_pushed_if_asked(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    (context / "file").write_text("x")
    text = "FROM scratch\nCOPY file /\n"
    kept, pushed = remote.name("kept:1"), remote.name("pushed:1")
    last = pybuild.build(
        context, "-t", "app:1", "-t", kept, "-o", f"type=image,name={kept},push=false", dockerfile=text
    )
    assert last.events[-1]["tags"] == ["app:1", kept]
    assert not remote.web.asked
    last = pybuild.build(context, "-o", f"type=image,name={pushed},push=true,unpack=true", dockerfile=text)
    assert last.events[-1]["exported"] == [f"{pushed}@{digest(remote.contents.documents['pushed', '1'][1])}"]
    assert pybuild.names() == {"app:1", kept, pushed}


def test_what_was_pulled_leaves_with_the_digest_it_had(inline: Pybuild, remote: Registry) -> None:
    data = rootfs(inline, "x", b"x").read_bytes()
    layer = gzip.compress(data, 9, mtime=7)
    manifest = remote.contents.image("theirs", "1", [(DOCKER_LAYER, layer, digest(data))], docker=True)
    inline("pull", remote.name("theirs:1"))
    inline("tag", remote.name("theirs:1"), remote.name("ours:1"))
    assert inline("push", "-q", remote.name("ours:1")).text.strip() == digest(manifest)
    assert remote.contents.documents["ours", "1"] == remote.contents.documents["theirs", "1"]
    other = inline("push", "-q", "--compression=zstd", remote.name("ours:2"), status=1)
    assert "No such image" in other.err
    assert inline("push", "-q", "--compression=zstd", remote.name("ours:1")).text.strip() != digest(manifest)


def test_who_may_not_push_learns_it_before_the_build(inline: Pybuild, remote: Registry, context: Path) -> None:
    inline.add_base()
    remote.contents.lasting.append(lambda asked: Fault(status=403) if asked.method == "POST" else None)
    remote.contents.image("large", "1", [(LAYER, b"layer", digest(b"layer"))])
    text = f"FROM {remote.name('large:1')}\nFROM base\nCOPY --from=0 /a /\nRUN echo long\n"
    failed = inline.build(context, "-t", remote.name("app:1"), "--push", dockerfile=text, status=1)
    # Nor is anything fetched for nothing
    assert not [path for path in remote.asked("GET") if "large" in path]
    assert "access is denied" in failed.events[-1]["failure"]["message"]
    assert not [event for event in failed.events if event["event"] == "StepStarted"]
    nameless = inline.build(context, "--push", dockerfile=text, status=2)
    assert "no name to be pushed under" in nameless.err


def test_a_push_goes_on_where_it_broke_off(inline: Pybuild, remote: Registry) -> None:
    name = remote.name("app:1")
    inline("import", rootfs(inline, "app", os.urandom(4_000_000)), name)

    def cut(asked: object) -> Fault | None:
        return Fault(cut=1_500_000) if asked.method == "PATCH" else None  # type: ignore[attr-defined]

    remote.contents.faults += [cut, cut]
    inline("push", name)
    assert len(remote.asked("PATCH")) == 3
    assert len(remote.asked("POST")) == 2
    inline("rmi", name)
    inline("prune", "-f", "--all")
    inline("pull", name)


def test_nothing_is_named_unless_all_is_there(inline: Pybuild, remote: Registry) -> None:
    name = remote.name("app:1")
    inline("import", rootfs(inline, "app", os.urandom(300_000)), name)
    remote.contents.lasting.append(
        lambda asked: Fault(status=507, body=b'{"errors":[{"message":"quota"}]}') if asked.method == "PATCH" else None
    )
    failed = inline("push", name, status=1)
    assert "507 Insufficient Storage: quota" in failed.err
    assert not remote.contents.documents


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with registry.program(tmp_path / "registry") as found:
        yield found


@pytest.mark.peers
@pytest.mark.parametrize(
    "kind", ["gzip", pytest.param("zstd", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.slow)]
)
def test_others_find_what_we_pushed_and_we_what_they_did(
    inline: Pybuild, program: Program, tmp_path: Path, context: Path, kind: str
) -> None:
    busybox.write_rootfs(tmp_path / "rootfs.tar")
    inline("import", tmp_path / "rootfs.tar", "base")
    name, copied = program.name("team/app:1"), program.name("copied/app:1")
    output = f"type=registry,compression={kind}"
    inline.build(context, "-t", name, "-o", output, dockerfile="FROM base\nRUN echo 1 > /one\nENV A=1\n")
    image = inline.json("inspect", name)[0]["Id"]
    skopeo = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
    ours = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True
    )
    pushed = inline("push", "-q", "--compression", kind, name).text.strip()
    assert json.loads(ours.stdout)["Digest"] == pushed
    assert json.loads(ours.stdout)["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "A=1",
    ]
    subprocess.run([*skopeo, f"docker://{name}", f"docker://{copied}"], check=True, capture_output=True)
    assert inline("pull", copied).text.strip() == f"{copied}@{pushed}"
    assert inline.json("inspect", copied)[0]["Id"] == image
    layout = tmp_path / "layout"
    subprocess.run(
        ["skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:1"],
        check=True,
        capture_output=True,
    )
    again = program.name("again:1")
    subprocess.run(
        [
            "skopeo",
            "copy",
            "--dest-tls-verify=false",
            "--format",
            "oci" if kind == "zstd" else "v2s2",
            f"oci:{layout}:1",
            f"docker://{again}",
        ],
        check=True,
        capture_output=True,
    )
    inline("pull", again)
    assert inline.image(context, dockerfile=f"FROM {again}\nRUN cat /one > /two\n").read("two") == "1\n"


_MEASURED = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def peak(inline: Pybuild, *args: str) -> int:
    """Run the program and return the most memory it, or its worker, took, in MiB."""
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "pybuild", *args]
    done = subprocess.run(command, env=inline.env, check=True, capture_output=True, text=True, timeout=600)
    return int(done.stdout.split()[-1]) >> 10


def write_tar(path: Path, size: int, *, random: bool) -> None:
    """Write an archive of one file of so many MiB."""
    block = bytearray(os.urandom(1 << 20) if random else 1 << 20)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("big")
        member.size = size << 20
        archive.addfile(member, cast(IO[bytes], _Blocks(block, size)))


class _Blocks(io.RawIOBase):
    """A MiB again and again, each time a little different."""

    def __init__(self, block: bytearray, count: int) -> None:
        self._block, self._count = block, count
        self._data = io.BytesIO()

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while size:
            data = self._data.read(size)
            if not data:
                self._block[:4] = self._count.to_bytes(4, "big")
                self._count -= 1
                self._data = io.BytesIO(self._block)
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


@pytest.mark.peers
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("size", "random", "most"),
    [(64, False, 40), pytest.param(1024, True, 150, marks=pytest.mark.slow)],
    ids=["64m", "1g"],
)
def test_a_big_layer_takes_little_memory_both_ways(
    inline: Pybuild, program: Program, size: int, random: bool, most: int
) -> None:
    """`most` is what images may take beside the program, in MiB."""
    name = program.name("big:1")
    tar = inline.base / "big.tar"
    write_tar(tar, size, random=random)
    idle = peak(inline, "images", "-q")
    image = inline("import", tar, name).text.strip()
    tar.unlink()
    # The program itself and its worker, each no more than that above what it takes anyway
    assert peak(inline, "push", "-q", name) - idle < most
    inline("rmi", name)
    inline("prune", "-f", "--all")
    assert peak(inline, "pull", "-q", name) - idle < most
    assert inline.json("inspect", name)[0]["Id"] == image
