"""Images in the store: listed, named, saved, loaded, removed; the same through both doors."""

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.images import read_docker, read_oci
from support.program import Pybuild

pytestmark = pytest.mark.userns


APP = "FROM base\nENV A=1\nRUN echo hi > /hi\nLABEL kind=test\nCMD sh\n"


@pytest.fixture
def app(pybuild: Pybuild, context: Path) -> Pybuild:
    """A store with `base` and `app:1`."""
    pybuild.add_base()
    pybuild.build(context, "-t", "app:1", dockerfile=APP)
    return pybuild


@pytest.fixture(scope="module")
def kept(base: Pybuild, tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    """As `app`, for tests that leave the store as they find it."""
    base.build(tmp_path_factory.mktemp("empty"), "-t", "app:1", dockerfile=APP)
    return base


def test_listing_inspecting_and_history(kept: Pybuild) -> None:
    table = kept("images").text.splitlines()
    assert table[0].split()[:3] == ["REPOSITORY", "TAG", "IMAGE"]
    assert len(table) == 3
    short = kept("images", "-q", "app:1").text.strip()
    [whole] = kept.json("inspect", "app:1")
    assert whole["Id"].startswith(f"sha256:{short}")
    assert whole["RepoTags"] == ["app:1"]
    assert whole["Config"]["Cmd"] == ["/bin/sh", "-c", "sh"]
    assert kept("inspect", "--format", "{{.Config.Env}} {{json .Config.Labels}}", "app:1").text.endswith(
        '{"kind":"test"}\n'
    )
    assert kept("inspect", "--format", "{{.Id}}", whole["Id"][7:19]).text.strip() == whole["Id"]
    rows = [json.loads(line) for line in kept("images", "--format", "json").text.splitlines()]
    assert {row["Repository"] for row in rows} == {"base", "app"}
    assert "echo hi" in kept("history", "--no-trunc", "app:1").text
    assert len(kept("images", "--filter", "label=kind=test", "-q").text.split()) == 1


def test_tags_come_and_go(app: Pybuild) -> None:
    app("tag", "app:1", "registry.example:5000/team/app:2")
    assert "registry.example:5000/team/app:2" in app.names()
    assert "Untagged" in app("rmi", "app:1").text
    assert "app:1" not in app.names()
    removed = app("rmi", "registry.example:5000/team/app:2").text
    assert "Deleted" in removed
    assert app.names() == {"base:latest"}


@pytest.mark.parametrize(
    ("kind", "packing"),
    [("docker", "plain"), ("docker", "gzip"), ("oci", "plain"), ("oci", "gzip"), ("oci", "directory")],
)
def test_what_is_saved_loads_again(kept: Pybuild, tmp_path: Path, kind: str, packing: str) -> None:
    saved = tmp_path / "saved.tar"
    kept("save", "--format", kind, "-o", saved, "app:1", "base")
    images = (read_docker if kind == "docker" else read_oci)(saved)
    assert len(images) == 2
    [before] = kept.json("inspect", "app:1")
    kept("rmi", "app:1", "base")
    assert kept.names() == set()
    source = saved
    if packing == "gzip":
        source = tmp_path / "saved.tar.gz"
        source.write_bytes(gzip.compress(saved.read_bytes(), 1))
    elif packing == "directory":
        source = tmp_path / "layout"
        source.mkdir()
        subprocess.run(["tar", "-xf", saved, "-C", source], check=True)
    assert "app:1" in kept("load", "-i", source).text
    [after] = kept.json("inspect", "app:1")
    assert (after["Id"], after["RootFS"]) == (before["Id"], before["RootFS"])
    assert kept.names() == {"app:1", "base:latest"}


def test_save_and_load_through_pipes(app: Pybuild, context: Path) -> None:
    data = app("save", "app:1").out
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert "manifest.json" in archive.getnames()
    app("rmi", "app:1")
    assert "app:1" in app("load", stdin=data).text
    assert app.image(context, dockerfile="FROM app:1\nRUN cat /hi > /again\n").read("again") == "hi\n"


def test_prune_removes_what_nobody_needs_and_df_tells(app: Pybuild, context: Path) -> None:
    app.build(context, "-t", "app:1", dockerfile="FROM base\nRUN head -c 3000000 /dev/urandom > /big\n")
    app.build(context, "-t", "app:1", dockerfile="FROM base\nRUN echo small > /small\n")
    before = sum(path.stat().st_size for path in (app.store / "blobs").rglob("*") if path.is_file())
    assert "TYPE" in app("df").text
    app("prune", "-a", "-f")
    after = sum(path.stat().st_size for path in (app.store / "blobs").rglob("*") if path.is_file())
    assert before - after > 2_900_000
    assert app.names() == {"base:latest", "app:1"}
    assert app.image(context, dockerfile="FROM app:1\n").read("small") == "small\n"


def test_imported_trees_take_changes(pybuild: Pybuild, busybox_tar: Path, context: Path) -> None:
    packed = busybox_tar.with_suffix(".gz")
    packed.write_bytes(gzip.compress(busybox_tar.read_bytes(), 1))
    pybuild("import", "--change", 'CMD ["sh"]', "--change", "ENV A=b", packed, "changed")
    [image] = pybuild.json("inspect", "changed")
    assert image["Config"]["Cmd"] == ["sh"]
    assert "A=b" in image["Config"]["Env"]
    assert pybuild.image(context, dockerfile="FROM changed\nRUN echo $A > /a\n").read("a") == "b\n"


def test_the_store_never_shows_who_built(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    (context / "f").write_text("x")
    image = inline.image(context, dockerfile="FROM base\nCOPY f /\nRUN touch /g\n")
    assert {(node.uid, node.gid) for layer in image.layers for node in layer} == {(0, 0)}


def test_completion_and_help(inline: Pybuild) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "pybuild" in inline("completion", shell).text
    assert "build" in inline("--help").text
    assert inline("--version").text.strip()
    for command in ("build", "images", "inspect", "history", "tag", "rmi", "save", "load", "import", "prune", "df"):
        assert inline(command, "--help").text


def test_an_image_with_a_name_goes_to_standard_output(inline: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    archive = inline("build", "-t", "named:1", "-o", "type=oci,dest=-", context)
    place = inline.base / "named.tar"
    place.write_bytes(archive.out)
    [image] = read_oci(place)
    assert "docker.io/library/named:1" in image.names
