"""A build that only adds to its base, and is pushed, leaves the base where it is; whoever needs its files has them."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import busybox, registry
from support.program import Pybuild
from support.registry import LAYER, Program, Registry, digest

pytestmark = pytest.mark.userns

LINKED = "COPY --link Dockerfile /added\nENV A=1\n"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return busybox.write_rootfs(tmp_path_factory.mktemp("base") / "base.tar").read_bytes()


def layer_of(data: bytes) -> tuple[str, bytes, str]:
    return f"{LAYER}+gzip", gzip.compress(data, 1, mtime=0), digest(data)


def extra() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("extra")
        archive.addfile(member, io.BytesIO())
    return out.getvalue()


@pytest.fixture
def remote(rootfs: bytes) -> Iterator[Registry]:
    with registry.fake() as found:
        found.contents.image("team/base", "1", [layer_of(rootfs), layer_of(extra())])
        # Somewhere and not everywhere, as registries have it
        found.contents.stored["team/base"] = {*found.contents.blobs}
        yield found


@pytest.fixture
def other() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


def layers_fetched(remote: Registry) -> int:
    """Return how many blobs but configs came."""
    configs = {
        json.loads(data)["config"]["digest"] for kind, data in remote.contents.documents.values() if "manifest" in kind
    }
    return len([path for path in remote.asked("GET", "/blobs/sha256") if path.rpartition("/")[2] not in configs])


def build(pybuild: Pybuild, context: Path, remote: Registry, steps: str = LINKED, *args: str) -> str:
    """Build and push what adds to the base; return the image's name."""
    name = remote.name("app:1")
    (context / "Dockerfile").write_text(f"FROM {remote.name('team/base:1')}\n{steps}")
    pybuild.build(context, "-t", name, "--push", *args)
    return name


def test_the_base_does_not_come_here(daemon: Pybuild, inline: Pybuild, remote: Registry, context: Path) -> None:
    dated = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    name = build(daemon, context, remote, LINKED, *dated)
    assert layers_fetched(remote) == 0
    base = json.loads(remote.contents.documents["team/base", "1"][1])
    app = json.loads(remote.contents.documents["app", "1"][1])
    assert app["layers"][:2] == base["layers"]
    assert {layer["digest"] for layer in app["layers"]} <= remote.contents.stored["app"]
    assert len([path for path in remote.asked("POST") if "mount=" in path]) == 2
    assert len(remote.asked("PATCH")) <= 1
    # Again: nothing is asked of the base, and no registry where none may be
    del remote.web.asked[:]
    build(daemon, context, remote, LINKED, "--pull=never", *dated)
    assert not [path for path in remote.asked("GET") if "base" in path]
    # It is the image that whoever has the base would have made
    assert inline.build(context, *dated).events[-1]["image_id"] == daemon.json("inspect", name)[0]["Id"]
    assert layers_fetched(remote) == 2


def test_bases_of_several_platforms_stay_where_they_are(
    inline: Pybuild, remote: Registry, rootfs: bytes, context: Path
) -> None:
    rows = []
    for architecture in ("arm64", "amd64"):
        data = layer_of(rootfs if architecture == "amd64" else extra())
        manifest = remote.contents.image("team/multi", architecture, [data], architecture=architecture)
        platform = {"os": "linux", "architecture": architecture}
        rows.append(registry.descriptor(manifest, registry.MANIFEST, platform=platform))
    index = {"schemaVersion": 2, "mediaType": registry.INDEX, "manifests": rows}
    remote.contents.document("team/multi", "1", registry.INDEX, index)
    remote.contents.stored["team/multi"] = {*remote.contents.blobs}
    name = remote.name("app:1")
    (context / "Dockerfile").write_text(f"FROM {remote.name('team/multi:1')}\n{LINKED}")
    inline.build(context, "--platform=linux/arm64,linux/amd64", "-t", name, "--push")
    assert layers_fetched(remote) == 0
    pushed = json.loads(remote.contents.documents["app", "1"][1])["manifests"]
    assert [row["platform"]["architecture"] for row in pushed] == ["arm64", "amd64"]
    inline("save", "--format", "oci", "-o", inline.base / "saved.tar", name)
    assert layers_fetched(remote) == 2


@pytest.mark.parametrize(
    "steps",
    [
        "COPY Dockerfile /etc/\n",
        "COPY --link --from=0 /etc/passwd /copied\n",
        pytest.param("WORKDIR /etc/x\n", marks=pytest.mark.slow),
        pytest.param("RUN cp /etc/passwd /copied\n", marks=pytest.mark.slow),
        pytest.param("COPY --link --from={base} /etc/passwd /copied\n", marks=pytest.mark.slow),
        pytest.param("FROM scratch\nCOPY --from=0 /etc/passwd /copied\n", marks=pytest.mark.slow),
        pytest.param("FROM scratch\nCOPY --from={base} /etc/passwd /copied\n", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_reads_the_base_has_it(inline: Pybuild, remote: Registry, context: Path, steps: str) -> None:
    if "--from=0" in steps and not steps.startswith("FROM"):
        steps = f"FROM {remote.name('team/base:1')}\n{steps}"
    build(inline, context, remote, steps.format(base=remote.name("team/base:1")))
    assert layers_fetched(remote) == 2


@pytest.mark.parametrize(
    "command",
    [
        "from",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("save", "layers", "shell", "pull", "export", "compare")
        ),
    ],
)
def test_whoever_looks_into_the_image_has_all_of_it(
    inline: Pybuild, remote: Registry, rootfs: bytes, context: Path, command: str
) -> None:
    name = build(inline, context, remote)
    size = inline.json("inspect", name)[0]["Size"]
    assert "ENV" in inline("history", name).text
    inline("prune", "-f")
    assert layers_fetched(remote) == 0
    match command:
        case "save":
            inline("save", "-o", inline.base / "saved.tar", name)
            assert "Loaded image" in inline("load", "-i", inline.base / "saved.tar").text
        case "layers":
            assert "etc/passwd" in inline("layers", "-l", "1", name).text
        case "shell":
            assert inline("shell", name, "--", "cat", "/added").text.startswith("FROM")
        case "from":
            inline.build(context, dockerfile=f"FROM {name}\nRUN test -e /added\n")
        case "pull":
            inline("pull", remote.name("team/base:1"))
        case "export":
            inline.build(context, "-o", f"type=tar,dest={inline.base / 'out.tar'}", dockerfile=f"FROM {name}\n")
        case "compare":
            assert "no difference" in inline("verify", name, context, status=None).text
    assert layers_fetched(remote) == 2
    if command in ("save", "layers", "shell", "from"):
        assert inline.json("inspect", name)[0]["Size"] > size
        assert not [*(inline.store / "absent").iterdir()]


def test_another_registry_gets_the_base_from_where_it_is(
    inline: Pybuild, remote: Registry, other: Registry, context: Path
) -> None:
    name = build(inline, context, remote)
    moved = other.name("moved:1")
    inline("tag", name, moved)
    pushed = inline("push", "-q", moved).text.strip()
    assert layers_fetched(remote) == 2
    assert pushed == digest(remote.contents.documents["app", "1"][1])
    assert {layer["digest"] for layer in json.loads(other.contents.documents["moved", "1"][1])["layers"]} <= (
        other.contents.stored["moved"]
    )
    # What has come along is kept for the next
    inline("tag", name, other.name("again:1"))
    del other.contents.stored["moved"]
    inline("push", "-q", other.name("again:1"))
    assert layers_fetched(remote) == 2
    assert inline("push", "-q", "--compression=zstd", moved).text.strip() != pushed


@pytest.mark.slow
def test_a_cut_on_either_side_is_gone_on_from(
    inline: Pybuild, remote: Registry, other: Registry, context: Path
) -> None:
    name = build(inline, context, remote)
    inline("tag", name, other.name("moved:1"))
    cut = registry.Fault(cut=100_000)
    remote.contents.faults.append(lambda asked: cut if "/blobs/" in asked.path and asked.method == "GET" else None)
    other.contents.faults.append(lambda asked: cut if asked.method == "PATCH" else None)
    pushed = inline("push", "-q", other.name("moved:1")).text.strip()
    assert pushed == digest(remote.contents.documents["app", "1"][1])
    assert not remote.contents.faults
    assert not other.contents.faults


def test_what_is_nowhere_any_more_is_told(inline: Pybuild, remote: Registry, context: Path) -> None:
    name = build(inline, context, remote)
    remote.contents.lasting.append(
        lambda asked: registry.Fault(status=404) if "team/base/blobs" in asked.path else None
    )
    failed = inline("save", "-o", inline.base / "saved.tar", name, status=1)
    assert f"layers of {name} are not here, but at {remote.name('team/base')}: GET http" in failed.err
    with registry.fake() as other:
        inline("tag", name, other.name("moved:1"))
        failed = inline("push", other.name("moved:1"), status=1)
        assert f"a layer of the image is not here, but at {remote.name('team/base')}: GET http" in failed.err
        assert not other.contents.documents
        inline("rmi", other.name("moved:1"))
    failed = inline.build(context, dockerfile=f"FROM scratch\nFROM {name}\nRUN true\n", status=1)
    assert failed.events[-1]["failure"]["line"] == 2
    failed = inline.build(context, "--pull=never", dockerfile=f"FROM {name}\nRUN true\n", status=1)
    assert "layers of the image are not here" in failed.err
    # Names are lost with the index, not what is where
    inline("images")
    (inline.store / "index.sqlite").write_bytes(b"no database")
    remote.contents.lasting.clear()
    [image] = [one for one in inline("images", "-aq", "--no-trunc").text.split() if one == inline_id(remote)]
    inline("save", "-o", inline.base / "saved.tar", image)
    inline("prune", "-f", "--all")
    assert not [*(inline.store / "absent").iterdir()]


def inline_id(remote: Registry) -> str:
    config: str = json.loads(remote.contents.documents["app", "1"][1])["config"]["digest"]
    return config


@pytest.mark.peers
def test_dockers_registry_has_the_base_already(inline: Pybuild, tmp_path: Path, context: Path) -> None:
    with registry.program(tmp_path / "registry") as found:
        assert isinstance(found, Program)
        (context / "big").write_bytes(os.urandom(300_000))
        base, name = found.name("base:1"), found.name("app:1")
        inline.build(context, "-t", base, "--push", dockerfile="FROM scratch\nCOPY big /\n")
        inline("rmi", base)
        inline("prune", "-f", "--all")
        inline.build(context, "-t", name, "--push", dockerfile=f"FROM {base}\nCOPY --link big /second\n")
        [absent] = (inline.store / "absent").iterdir()
        assert not (inline.store / "blobs/sha256" / absent.name).exists()
        inline("rmi", name)
        inline("prune", "-f", "--all")
        image = inline.image(context, dockerfile=f"FROM {name}\n")
        assert image.tree().keys() >= {"big", "second"}
