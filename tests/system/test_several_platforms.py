"""One build for several platforms: an index and its images, from the Dockerfile to the store and out again."""

import json
import os
import platform as machine
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pybuild.oci.platform import host_platform
from support import processes, registry
from support.program import Pybuild
from support.registry import Fault, Program, Registry, digest

pytestmark = pytest.mark.userns

INDEX = "application/vnd.oci.image.index.v1+json"
HOST = str(host_platform(machine.machine()))
OTHER = "linux/riscv64"
BOTH = f"{HOST},{OTHER}"
CROSS = (
    "FROM --platform=$BUILDPLATFORM base AS tools\nRUN echo once >> /seen\n"
    "FROM tools AS cross\nARG TARGETPLATFORM\nARG BUILDPLATFORM\n"
    'RUN echo "$BUILDPLATFORM>$TARGETPLATFORM" > /told\n'
    "FROM scratch\nCOPY --from=tools /seen /seen\nCOPY --from=cross /told /told\nCOPY f /f\nWORKDIR /w\n"
)


def document(archive: Path, digest: str) -> Any:
    if archive.is_dir():
        return json.loads((archive / "blobs" / "sha256" / digest[7:]).read_bytes())
    with tarfile.open(archive) as opened:
        member = opened.extractfile("blobs/sha256/" + digest[7:])
        assert member is not None
        return json.loads(member.read())


def top(archive: Path) -> Any:
    if archive.is_dir():
        return json.loads((archive / "index.json").read_bytes())
    with tarfile.open(archive) as opened:
        member = opened.extractfile("index.json")
        assert member is not None
        return json.loads(member.read())


@pytest.fixture
def cross(context: Path) -> Path:
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text(CROSS)
    return context


def test_each_platform_gets_its_image_and_shared_steps_are_done_once(pybuild: Pybuild, cross: Path) -> None:
    pybuild.add_base()
    iid, metadata, out = (pybuild.base / name for name in ("iid", "metadata", "out.tar"))
    flags = ["--iidfile", iid, "--metadata-file", metadata, "-o", f"type=oci,dest={out},compression=none"]
    built = pybuild.build(cross, "--platform", HOST, f"--platform={OTHER},{HOST}", "-t", "app:1", *flags)
    last = built.events[-1]
    assert last["platforms"] == [HOST, OTHER]
    assert last["image_id"] == iid.read_text()
    assert json.loads(metadata.read_text()) == {"containerimage.digest": last["image_id"], "image.name": "app:1"}
    labels = [step["label"] for step in built.events[0]["steps"]]
    assert len(labels) == len(set(labels))
    for label in (
        f"[{HOST} tools 2/2] RUN echo once",
        f"[{HOST}->riscv64 cross 2/2] RUN",
        f"[{OTHER} stage-2 1/5] FROM",
    ):
        assert len([one for one in labels if one.startswith(label)]) == 1, labels
    # The first copy to scratch is the same for both, though their stages are two
    done = [labels[event["step"]] for event in built.events if event["event"] == "StepDone" and not event["cached"]]
    assert len([label for label in done if "COPY --from=tools" in label]) == 1
    assert len([label for label in done if "COPY --from=cross" in label]) == 2
    [row] = top(out)["manifests"]
    assert (row["mediaType"], row["digest"]) == (INDEX, last["image_id"])
    rows = document(out, row["digest"])["manifests"]
    assert [f"{row['platform']['os']}/{row['platform']['architecture']}" for row in rows] == [HOST, OTHER]
    pybuild("save", "app:1", "-o", pybuild.base / "saved.tar")
    [saved] = top(pybuild.base / "saved.tar")["manifests"]
    assert (saved["digest"], saved["annotations"]["io.containerd.image.name"]) == (
        row["digest"],
        "docker.io/library/app:1",
    )
    again = pybuild.build(cross, "--platform", BOTH, "-t", "app:1")
    assert again.events[-1]["image_id"] == last["image_id"]
    assert not again.redone()


def test_trees_have_a_directory_for_each_platform(inline_base: Pybuild, cross: Path, tmp_path: Path) -> None:
    tree, flat, layout = tmp_path / "tree", tmp_path / "flat.tar", tmp_path / "layout"
    outputs = ["-o", str(tree), "-o", f"type=tar,dest={flat}", "-o", f"type=oci,tar=false,dest={layout}"]
    inline_base.build(cross, "--platform", BOTH, *outputs)
    names = {HOST: HOST.replace("/", "_"), OTHER: "linux_riscv64"}
    assert sorted(path.name for path in tree.iterdir()) == sorted(names.values())
    with tarfile.open(flat) as archive:
        for platform, name in names.items():
            assert (tree / name / "told").read_text() == f"{HOST}>{platform}\n"
            assert (tree / name / "seen").read_text() == "once\n"
            member = archive.extractfile(f"{name}/told")
            assert member is not None
            assert member.read().decode() == f"{HOST}>{platform}\n"
    [row] = top(layout)["manifests"]
    assert [found["platform"]["architecture"] for found in document(layout, row["digest"])["manifests"]][1] == "riscv64"
    refused = inline_base.build(cross, "--platform", BOTH, "-o", f"type=docker,dest={tmp_path / 'd'}", status=2)
    assert "type=docker holds one platform" in refused.err
    assert not [event for event in refused.events if event["event"] == "Planned"]


def test_the_index_is_an_image_of_the_store(pybuild: Pybuild, context: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /f\n"
    (context / "f").write_text("f")
    index = pybuild.build(context, "--platform", BOTH, "-t", "app", dockerfile=text).events[-1]["image_id"]
    assert pybuild("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}").text == f"{index} app\n"
    [shown] = pybuild.json("inspect", "app")
    assert (shown["Id"], shown["RepoTags"]) == (index, ["app:latest"])
    assert f"{shown['Os']}/{shown['Architecture']}" == HOST
    members = {row["ImageData"]["Platform"]["architecture"]: row["ImageId"] for row in shown["Manifests"]}
    assert len(members) == 2
    [other] = pybuild.json("inspect", members["riscv64"])
    assert other["Config"]["Labels"] == {"arch": "riscv64"}
    # Nothing that the index holds goes: not by its id, and not by a prune
    assert "belongs to the index app:latest" in pybuild("rmi", members["riscv64"], status=1).err
    pybuild("prune", "-f")
    pybuild("prune", "-f", "--all")
    assert pybuild("history", members["riscv64"])
    pybuild("tag", "app", "other:2")
    assert "Untagged: app:latest" in pybuild("rmi", "app").text
    assert pybuild.json("inspect", index[7:19])[0]["Id"] == index
    pybuild("tag", members["riscv64"], "alone")
    gone = pybuild("rmi", "other:2").text.splitlines()
    assert [line for line in gone if line.startswith("Deleted")] == [
        f"Deleted: {index}",
        f"Deleted: {next(image for arch, image in members.items() if arch != 'riscv64')}",
    ]
    assert pybuild.names() == {"alone:latest"}


def test_one_platform_of_an_index_is_looked_at_and_saved(pybuild: Pybuild, context: Path, tmp_path: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /f\n"
    (context / "f").write_text("f")
    pybuild.build(context, "--platform", BOTH, "-t", "app", dockerfile=text)
    [shown] = pybuild.json("inspect", "--platform", OTHER, "app")
    assert (shown["Architecture"], shown["Config"]["Labels"]) == ("riscv64", {"arch": "riscv64"})
    assert "Manifests" not in shown
    pybuild("save", "--platform", OTHER, "-o", tmp_path / "one.tar", "app")
    pybuild("rmi", "app")
    pybuild("load", "-i", tmp_path / "one.tar")
    assert pybuild.json("inspect", "app")[0]["Id"] == shown["Id"]
    for command in ("inspect", "save"):
        refused = pybuild(command, "--platform", "linux/s390x", "app", status=None).err
        assert refused.startswith("error: No such image for linux/s390x: app\nhint: there is one for linux/riscv64")


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_an_index_comes_back_from_an_archive(inline: Pybuild, context: Path, tmp_path: Path, form: str) -> None:
    (context / "f").write_text("f")
    text = "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nCOPY f /f\n"
    built = inline.build(context, "--platform", f"{BOTH},linux/arm/v6", "-t", "app:1", "-t", "app:2", dockerfile=text)
    archive = tmp_path / "saved.tar"
    inline("save", "--format", form, "-o", archive, "app:1", "app:2")
    inline("rmi", "app:1", "app:2")
    inline("prune", "-f", "--all")
    assert inline("load", "-i", archive).text.split() == ["Loaded", "image:", "app:1", "Loaded", "image:", "app:2"]
    [shown] = inline.json("inspect", "app:2")
    assert (shown["Id"], len(shown["Manifests"])) == (built.events[-1]["image_id"], 3)
    assert inline("images", "-q").text.split() == [shown["Id"][7:19]]


def test_what_an_index_lost_its_name_to_goes_with_a_prune(inline: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nARG V\nLABEL v=$V\nCOPY f /f\n")
    (context / "f").write_bytes(os.urandom(100_000))
    for version in ("1", "2"):
        inline.build(context, "--platform", BOTH, "-t", "app", f"--build-arg=V={version}")
    items = json.loads(inline("prune", "-f", "--format", "json").text)["items"]
    assert sorted(item["kind"] for item in items if item["kind"] in ("index", "image")) == ["image", "image", "index"]
    [shown] = inline.json("inspect", "app")
    assert shown["Config"]["Labels"] == {"v": "2"}
    assert inline("verify", "app").text.startswith("Reproduced: ")


def test_from_takes_the_image_of_its_platform(inline: Pybuild, context: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\n"
    inline.build(context, "--platform", BOTH, "-t", "localhost:1/app", dockerfile=text)
    image = inline.image(context, "--platform", OTHER, dockerfile="FROM localhost:1/app\nLABEL a=b\n")
    assert "ARCH=riscv64" in image.config["config"]["Env"]
    image = inline.image(context, dockerfile="FROM localhost:1/app\nLABEL a=b\n")
    assert image.config["architecture"] == HOST.split("/")[1]
    both = inline.build(context, "--platform", BOTH, "-t", "above", dockerfile="FROM localhost:1/app\nLABEL a=b\n")
    rows = inline.json("inspect", both.events[-1]["image_id"])[0]["Manifests"]
    for row in rows:
        [shown] = inline.json("inspect", row["ImageId"])
        assert f"ARCH={row['ImageData']['Platform']['architecture']}" in shown["Config"]["Env"]


def test_a_foreign_run_without_an_emulator_fails_before_the_first_step(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base AS here\nRUN echo long\nFROM scratch\nCOPY --from=here /bin /bin\nRUN echo hi\n"
    failed = inline_base.build(
        context, "--platform", BOTH, dockerfile=text.replace("FROM base", f"FROM --platform={HOST} base"), status=1
    )
    failure = failed.events[-1]["failure"]
    assert (failure["line"], failure["source"]) == (5, "RUN echo hi")
    assert f"RUN needs an emulator of {OTHER}, which this machine ({HOST}) does not have" in failure["message"]
    assert "qemu-user" in failure["hint"]
    assert not [event for event in failed.events if event["event"] == "StepStarted"]


def test_wrong_platforms_are_told(inline: Pybuild, context: Path) -> None:
    for value in ("linux/amd64,", "linux/amd64,nonsense/", "linux/amd64,a b"):
        assert (
            "invalid platform" in inline.build(context, "--platform", value, dockerfile="FROM scratch\n", status=2).err
        )


@pytest.fixture
def remote() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


def pushed(remote: Registry, repository: str, tag: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the digest of an index at a registry, and its manifests by architecture."""
    kind, data = remote.contents.documents[repository, tag]
    assert kind == INDEX
    rows = json.loads(data)["manifests"]
    return digest(data), {
        row["platform"]["architecture"]: json.loads(remote.contents.documents[repository, row["digest"]][1])
        for row in rows
    }


def test_the_index_goes_to_the_registry_with_its_images(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    (context / "f").write_text("f")
    text = "FROM scratch\nCOPY f /f\nARG TARGETARCH\nENV A=$TARGETARCH\n"
    name, metadata, iid = remote.name("team/app:1"), pybuild.base / "m.json", pybuild.base / "iid"
    flags = ["--push", "--metadata-file", metadata, "--iidfile", iid]
    built = pybuild.build(context, "--platform", BOTH, "-t", name, *flags, dockerfile=text).events[-1]
    found, manifests = pushed(remote, "team/app", "1")
    assert json.loads(metadata.read_text())["containerimage.digest"] == iid.read_text() == built["digest"] == found
    assert sorted(manifests) == sorted([HOST.split("/")[1], "riscv64"])
    # The layer is the same to both
    assert len({layer["digest"] for manifest in manifests.values() for layer in manifest["layers"]}) == 1
    assert len(remote.asked("PATCH")) == 1
    assert pybuild.json("inspect", name)[0]["RepoDigests"] == [f"{remote.name('team/app')}@{found}"]
    del remote.web.asked[:]
    other = remote.name("team/app:2")
    pybuild("tag", name, other)
    told = json.loads(pybuild("push", "--json", other).text)
    assert (told["digest"], told["fresh"], told["image_id"]) == (found, False, built["image_id"])
    assert not remote.asked("PATCH")
    pybuild("push", "--compression", "zstd", "--all-tags", remote.name("team/app"))
    assert pushed(remote, "team/app", "1") == pushed(remote, "team/app", "2")
    assert pushed(remote, "team/app", "1")[0] != found


def test_no_tag_is_moved_unless_all_images_are_there(inline: Pybuild, remote: Registry, context: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\n"
    inline.build(context, "--platform", BOTH, "-t", remote.name("app:1"), dockerfile=text)
    manifests = iter((None, Fault(status=507, body=b"")))
    remote.contents.lasting.append(
        lambda asked: next(manifests) if asked.method == "PUT" and "/manifests/" in asked.path else None
    )
    assert "507" in inline("push", remote.name("app:1"), status=1).err
    assert not [tag for _, tag in remote.contents.documents if not tag.startswith("sha256:")]


@pytest.mark.parametrize(
    "kind", ["registry", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("local", "inline"))]
)
def test_a_cache_from_elsewhere_serves_every_platform(
    inline: Pybuild, remote: Registry, context: Path, tmp_path: Path, kind: str
) -> None:
    (context / "f").write_text("f")
    text = "FROM scratch\nARG TARGETARCH\nWORKDIR /$TARGETARCH\nCOPY f f\n"
    name = remote.name("app:1")
    to, source = {
        "registry": (
            f"type=registry,ref={remote.name('cache:1')},mode=max",
            f"type=registry,ref={remote.name('cache:1')}",
        ),
        "local": (f"type=local,dest={tmp_path / 'cache'}", f"type=local,src={tmp_path / 'cache'}"),
        "inline": ("type=inline", name),
    }[kind]
    build = ["--platform", BOTH, "-t", name]
    first = inline.build(context, *build, "--push", "--cache-to", to, dockerfile=text)
    inline("rmi", name)
    inline("prune", "-f", "--all")
    again = inline.build(context, *build, "--cache-from", source, dockerfile=text)
    assert not again.redone()
    if kind != "inline":
        assert again.events[-1]["image_id"] == first.events[-1]["image_id"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Program]:
    with registry.program(tmp_path / "registry") as found:
        yield found


@pytest.mark.peers
def test_others_find_each_platform_of_what_was_pushed(
    inline: Pybuild, served: Program, context: Path, tmp_path: Path
) -> None:
    # podman takes no long path for this one
    short = inline.base / "pr"
    text = "FROM scratch\nARG TARGETARCH TARGETVARIANT\nENV A=$TARGETARCH$TARGETVARIANT\nCOPY f /f\n"
    (context / "f").write_text("f")
    name = served.name("team/app:1")
    wanted = {"linux/amd64": "amd64", "linux/arm64": "arm64", "linux/arm/v6": "armv6"}
    inline.build(context, "--platform", ",".join(wanted), "-t", name, dockerfile=text)
    ours = inline("push", "-q", name).text.strip()
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True
    ).stdout
    assert digest(raw) == ours
    rows = {row["platform"]["architecture"]: row["digest"] for row in json.loads(raw)["manifests"]}
    for platform, value in wanted.items():
        os_, architecture, *variant = platform.split("/")
        choice = ["--override-os", os_, "--override-arch", architecture, *(f"--override-variant={v}" for v in variant)]
        seen = json.loads(
            subprocess.run(
                ["skopeo", *choice, "inspect", "--tls-verify=false", f"docker://{name}"],
                check=True,
                capture_output=True,
            ).stdout
        )
        assert f"A={value}" in seen["Env"]
        assert seen["Architecture"] == architecture
        podman = ["podman", "--root", str(tmp_path / "p"), "--runroot", str(short), "--storage-driver", "vfs"]
        pull = [*podman, "pull", "-q", "--tls-verify=false", "--platform", platform, name]
        ran = subprocess.run(pull, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        shown = subprocess.run(
            [*podman, "image", "inspect", ran.stdout.strip()],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            check=True,
        ).stdout
        [image] = json.loads(shown)
        assert (image["Architecture"], f"A={value}" in image["Config"]["Env"]) == (architecture, True)
        assert rows[architecture] in " ".join(image["RepoDigests"]) or image["Digest"] in (rows[architecture], ours)
        # And it comes back as it went
        inline("rmi", name, status=None)
        told = inline("pull", "--platform", platform, name).text
        assert told.strip() == f"{name}@{ours}"
    # podman keeps its namespaces by a process that never ends by itself
    processes.end_all([*processes.find("catatonit", "-P"), *processes.find("podman")])
    copied = served.name("copied:1")
    skopeo = ["skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*skopeo, f"docker://{name}", f"docker://{copied}"], check=True, capture_output=True)
    assert inline("pull", "--platform=linux/arm64", copied).text.strip() == f"{copied}@{ours}"
