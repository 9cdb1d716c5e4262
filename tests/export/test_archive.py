"""Archives are what others can read, and the same bytes every time."""

import io
import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import msgspec
import pytest

from export.conftest import ONE, TWO, image_of, layer_of
from pybuild.export.archive import write_docker, write_oci
from pybuild.export.errors import ExportError
from pybuild.export.image import ExportImage
from pybuild.export.layout import write_layout
from pybuild.oci.digest import digest_of
from pybuild.oci.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from support.images import read_docker, read_oci

TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@pytest.mark.parametrize("compression", TYPES)
def test_oci_archives_hold_the_image(image: ExportImage, tmp_path: Path, compression: str) -> None:
    path = tmp_path / "oci.tar"
    with path.open("wb") as file:
        digest = write_oci([image], file, compression=compression)
    [read] = read_oci(path)
    assert read.config_digest == image.id
    assert read.diff_ids == [digest_of(ONE), digest_of(TWO), digest_of(ONE)]
    assert read.names == ("docker.io/library/app:1", "1")
    assert {layer["mediaType"] for layer in read.manifest["layers"]} == {TYPES[compression]}
    with tarfile.open(path) as archive:
        names = archive.getnames()
        [row] = json.load(archive.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
    assert len(names) == len(set(names))
    assert row["digest"] == digest
    assert row["platform"] == {"architecture": "amd64", "os": "linux"}


def test_docker_archives_hold_both_forms(image: ExportImage, tmp_path: Path) -> None:
    path = tmp_path / "docker.tar"
    other = image_of(layer_of(x=b"x"), ONE, names=())
    with path.open("wb") as file:
        write_docker([image, other], file)
    first, second = read_docker(path)
    assert (first.names, second.names) == (("app:1",), ())
    assert (first.config_digest, second.config_digest) == (image.id, other.id)
    assert [read.config_digest for read in read_oci(path)] == [image.id, other.id]
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == len(set(archive.getnames()))
        rows = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert rows[0]["Layers"] == [f"blobs/sha256/{diff_id[7:]}" for diff_id in image.config.rootfs.diff_ids]
    assert rows[1]["RepoTags"] is None


def test_every_name_is_told(tmp_path: Path) -> None:
    image = image_of(ONE, names=("app:1", "host.example:5000/team/app:2"))
    for write, path in ((write_docker, tmp_path / "d.tar"), (None, tmp_path / "o.tar")):
        with path.open("wb") as file:
            if write is None:
                write_oci([image], file, compression="none")
            else:
                write([image], file)
    told = {name for read in read_oci(tmp_path / "o.tar") for name in read.names}
    assert {"docker.io/library/app:1", "host.example:5000/team/app:2"} <= told
    [read] = read_docker(tmp_path / "d.tar")
    assert read.names == ("app:1", "host.example:5000/team/app:2")


@pytest.mark.parametrize("compression", TYPES)
def test_the_same_image_gives_the_same_bytes(compression: str) -> None:
    written = []
    for _ in range(2):
        out = io.BytesIO()
        write_oci([image_of(ONE, TWO)], out, compression=compression)
        written.append(out.getvalue())
    assert written[0] == written[1]


def test_a_pipe_takes_an_archive(image: ExportImage, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        with os.fdopen(read_end, "rb") as file:
            received.append(file.read())

    thread = threading.Thread(target=receive)
    thread.start()
    with os.fdopen(write_end, "wb") as file:
        write_oci([image], file, compression="gzip")
    thread.join()
    (tmp_path / "piped.tar").write_bytes(received[0])
    [read] = read_oci(tmp_path / "piped.tar")
    assert read.config_digest == image.id


def test_a_layout_directory_holds_the_image(image: ExportImage, tmp_path: Path) -> None:
    dest = tmp_path / "layout"
    write_layout(image, dest, compression="gzip")
    [read] = read_oci(dest)
    assert read.config_digest == image.id
    assert sorted(os.listdir(tmp_path)) == ["layout"]


def test_a_layout_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    image = image_of(ONE, TWO)

    def broken(diff_id: str) -> int:
        raise OSError(5, "Input/output error")

    msgspec.structs.force_setattr(image, "open_layer", broken)
    with pytest.raises(ExportError):
        write_layout(image, tmp_path / "layout", compression="none")
    assert os.listdir(tmp_path) == []


def test_a_directory_with_other_things_is_left_alone(image: ExportImage, tmp_path: Path) -> None:
    dest = tmp_path / "layout"
    dest.mkdir()
    (dest / "mine").touch()
    with pytest.raises(ExportError):
        write_layout(image, dest, compression="none")
    assert os.listdir(dest) == ["mine"]
    assert os.listdir(tmp_path) == ["layout"]


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "oci"])
def test_skopeo_reads_it(image: ExportImage, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    if kind == "oci":
        write_layout(image, path, compression="gzip")
    else:
        with path.open("wb") as file:
            if kind == "docker-archive":
                write_docker([image], file)
            else:
                write_oci([image], file, compression="gzip")
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    skopeo = ["skopeo", "--policy", str(policy)]
    told = subprocess.run(
        [*skopeo, "inspect", "--config", f"{kind}:{path}"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["rootfs"]["diff_ids"] == image.config.rootfs.diff_ids
    copied = tmp_path / "copied.tar"
    subprocess.run(
        [*skopeo, "copy", "-q", f"{kind}:{path}", f"docker-archive:{copied}:copied:1"],
        env=environment,
        capture_output=True,
        check=True,
    )
    [read] = read_docker(copied)
    assert read.diff_ids == image.config.rootfs.diff_ids
