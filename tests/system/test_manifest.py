"""Indexes made of images by hand, looked at, and brought to a registry."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import registry
from support.program import Pybuild
from support.registry import LAYER, Program, Registry, digest

pytestmark = pytest.mark.userns

INDEX = "application/vnd.oci.image.index.v1+json"
TEXT = "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\n"


@pytest.fixture
def remote() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


def rows(pybuild: Pybuild, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pybuild.json("manifest", "inspect", name)["manifests"]
    return found


def test_an_index_is_made_of_images_here_and_elsewhere(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    layer = [(LAYER, bytes(1024), digest(bytes(1024)))]
    theirs = remote.contents.image("theirs", "1", layer, architecture="s390x")
    row = {"mediaType": registry.MANIFEST, "digest": digest(theirs), "size": len(theirs)}
    platform = {"architecture": "s390x", "os": "linux", "os.version": "7"}
    attestation = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}, "mediaType": registry.MANIFEST}
    more = {**attestation, "digest": digest(b"no"), "size": 2, "platform": {"architecture": "unknown", "os": "unknown"}}
    manifests = [{**row, "platform": platform}, more]
    value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    whole = remote.contents.document("theirs", "all", INDEX, value)
    for architecture in ("arm64", "riscv64"):
        pybuild.build(context, "-t", architecture, f"--platform=linux/{architecture}", dockerfile=TEXT)
    told = pybuild("manifest", "create", remote.name("app:1"), "arm64", remote.name("theirs:all")).text
    index = told.split("(")[1].split(")")[0]
    assert told == f"Created manifest list {remote.name('app:1')} ({index})\n"
    refused = pybuild("manifest", "create", remote.name("app:1"), "riscv64", status=1)
    assert "--amend" in refused.err
    pybuild("manifest", "create", "--amend", remote.name("app:1"), "riscv64")
    assert [row["platform"] for row in rows(pybuild, remote.name("app:1"))] == [
        {"architecture": "arm64", "os": "linux"},
        platform,
        {"architecture": "riscv64", "os": "linux"},
    ]
    del remote.web.asked[:]
    pushed = pybuild("manifest", "push", remote.name("app:1")).text.strip()
    kind, data = remote.contents.documents["app", "1"]
    assert (kind, digest(data)) == (INDEX, pushed)
    # What came from there has the manifest it had, and none of it was sent
    assert [one["digest"] for one in json.loads(data)["manifests"]][1] == digest(theirs)
    assert not remote.asked("PATCH")
    assert json.loads(pybuild("manifest", "inspect", "--raw", "--remote", remote.name("app:1")).out) == json.loads(data)
    raw = pybuild("manifest", "inspect", "--raw", remote.name("theirs:all")).out
    assert raw == whole


def test_what_docker_shows_of_a_manifest_is_shown(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    layer = [(LAYER, bytes(1024), digest(bytes(1024)))]
    data = remote.contents.image("old", "1", layer, docker=True)
    shown = pybuild.json("manifest", "inspect", "--verbose", remote.name("old:1"))
    assert shown["Ref"] == remote.name("old:1")
    assert (shown["Descriptor"]["digest"], shown["SchemaV2Manifest"]) == (digest(data), json.loads(data))
    pybuild.build(context, "--platform=linux/arm64,linux/arm/v6", "-t", remote.name("app:1"), dockerfile=TEXT)
    pybuild("push", remote.name("app:1"))
    for where in ([], ["--remote"]):
        both = pybuild.json("manifest", "inspect", "--verbose", *where, remote.name("app:1"))
        assert [one["Descriptor"]["platform"].get("variant") for one in both] == [None, "v6"]
        for one in both:
            # Sizes and digests are those of what is shown
            assert one["OCIManifest"]["config"]["digest"]
    assert "No such" in pybuild("inspect", remote.name("absent:1"), status=1).err
    absent = pybuild("manifest", "inspect", remote.name("absent:1"), status=1)
    assert "404" in absent.err or "not" in absent.err


def test_an_image_of_an_index_is_annotated(inline: Pybuild, context: Path) -> None:
    inline.build(context, "--platform=linux/arm64,linux/riscv64", "-t", "app", dockerfile=TEXT)
    before = inline.json("inspect", "app")[0]
    inline("tag", "app", "other")
    options = ["--arch=arm", "--variant", "v7", "--os-version=1", "--os-features=a,b", "--annotation", "k=v=w"]
    inline("manifest", "annotate", "app", "linux/arm64", *options)
    [first, second] = rows(inline, "app")
    expected = {"architecture": "arm", "os": "linux", "os.features": ["a", "b"], "os.version": "1", "variant": "v7"}
    assert (first["platform"], first["annotations"]) == (expected, {"k": "v=w"})
    assert second == rows(inline, "other")[1]
    after = inline.json("inspect", "other")[0]
    assert after["Id"] != before["Id"]
    assert [row["ImageId"] for row in after["Manifests"]] == [row["ImageId"] for row in before["Manifests"]]
    assert not [line for line in inline("images", "-aq", "--no-trunc").text.split() if line == before["Id"]]
    image = before["Manifests"][1]["ImageId"]
    inline("manifest", "annotate", "app", image[7:19], "--os-version", "2")
    assert rows(inline, "app")[1]["platform"]["os.version"] == "2"
    for arguments, message, status in (
        (["app", "linux/s390x", "--arch=x"], "no such image", 1),
        (["nothing", "linux/arm64", "--arch=x"], "no such index", 1),
        (["app", "linux/arm64"], "nothing to say", 2),
        (["app", "linux/arm64", "--annotation", "novalue"], "KEY=VALUE", 2),
    ):
        assert message in inline("manifest", "annotate", *arguments, status=status).err


def test_an_index_goes_to_another_name_and_away_from_here(inline: Pybuild, remote: Registry, context: Path) -> None:
    inline.build(context, "--platform=linux/arm64,linux/riscv64", "-t", "app", dockerfile=TEXT)
    found = inline("manifest", "push", "--purge", "app", f"docker://{remote.name('there:2')}").text.strip()
    assert digest(remote.contents.documents["there", "2"][1]) == found
    assert not inline.names()
    assert "No such image" in inline("manifest", "push", "app", status=1).err
    told = inline("manifest", "create", "again:1", f"{remote.name('there')}@{found}")
    inline("manifest", "push", "again:1", remote.name("there:3"))
    assert remote.contents.documents["there", "3"] == remote.contents.documents["there", "2"], told.text


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Program]:
    with registry.program(tmp_path / "registry") as found:
        yield found


@pytest.mark.peers
def test_skopeo_reads_the_index_that_was_made(inline: Pybuild, served: Program, context: Path) -> None:
    names = []
    for architecture in ("arm64", "riscv64"):
        names.append(served.name(f"parts:{architecture}"))
        inline.build(context, "-t", names[-1], "--push", f"--platform=linux/{architecture}", dockerfile=TEXT)
        inline("rmi", names[-1])
    inline("manifest", "create", served.name("whole:1"), *names)
    pushed = inline("manifest", "push", served.name("whole:1")).text.strip()
    for architecture in ("arm64", "riscv64"):
        command = ["skopeo", "--override-arch", architecture, "inspect", "--tls-verify=false"]
        told = subprocess.run([*command, f"docker://{served.name('whole:1')}"], check=True, capture_output=True).stdout
        assert f"A={architecture}" in json.loads(told)["Env"]
        assert json.loads(told)["Digest"] == pushed
