"""--cache-to and --cache-from: results of steps travel between stores, in a directory or in an image."""

import base64
import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import busybox, program, registry
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("zstd", "uncompressed")]
TEXT = """\
FROM scratch AS rootfs
ADD base.tar /
FROM rootfs AS tools
RUN seq 9999 > /tool
FROM rootfs
COPY --from=tools /tool /tool
WORKDIR /w
WORKDIR /w
RUN head -c 30000 /dev/urandom > made; date +%N > when
"""


@pytest.fixture
def inputs(context: Path) -> Path:
    busybox.write_rootfs(context / "base.tar")
    (context / "Dockerfile").write_text(TEXT)
    return context


@pytest.fixture
def other(_adopted: None) -> Iterator[Pybuild]:
    with program.world("inline") as pybuild:
        yield pybuild


def image_id(result: Result) -> str:
    return str(result.events[-1]["image_id"])


def warnings(result: Result) -> list[str]:
    return [event["message"] for event in result.events if event["event"] == "Notice" and event["level"] == "warning"]


def blobs(cache: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (cache / "blobs/sha256").iterdir()}
    for name, data in found.items():
        assert hashlib.sha256(data).hexdigest() == name
    return found


def manifest(cache: Path) -> dict[str, Any]:
    assert json.loads((cache / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    [row] = json.loads((cache / "index.json").read_text())["manifests"]
    found: dict[str, Any] = json.loads(blobs(cache)[row["digest"][7:]])
    return found


@pytest.mark.parametrize("compression", ["gzip", *OTHERS])
def test_a_directory_brings_results_to_another_store(
    inline: Pybuild, other: Pybuild, inputs: Path, tmp_path: Path, compression: str
) -> None:
    cache = tmp_path / "cache"
    spec = f"type=local,dest={cache},mode=max,compression={compression}"
    first = inline.build(inputs, "--cache-to", spec)
    taken = other.build(inputs, "--cache-from", f"type=local,src={cache}")
    assert taken.redone() == []
    assert image_id(taken) == image_id(first)
    assert warnings(taken) == []
    # From now on they are the store's own, and a changed step is done alone
    assert other.build(inputs).redone() == []
    (inputs / "Dockerfile").write_text(TEXT + "RUN true\n")
    assert other.build(inputs, "--cache-from", f"type=local,src={cache}").redone() == ["RUN true"]


def test_the_directory_is_what_buildkit_has(inline: Pybuild, inputs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    inline.build(inputs, "--cache-to", f"type=local,dest={cache}")
    found = manifest(cache)
    assert found["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    config = json.loads(blobs(cache)[found["config"]["digest"][7:]])
    assert [layer["blob"] for layer in config["layers"]] == [layer["digest"] for layer in found["layers"]]
    for layer, row in zip(config["layers"], found["layers"], strict=True):
        assert layer["annotations"]["diffID"] == row["annotations"]["containerd.io/uncompressed"]
        assert layer["annotations"]["size"] == row["size"] == len(blobs(cache)[row["digest"][7:]])
    # The steps of the target alone: ADD, COPY, WORKDIR twice and RUN
    assert [len(record["layers"]) for record in config["records"]] == [1] * 5
    assert all(record["digest"].startswith("sha256:") for record in config["records"])


@pytest.mark.slow
def test_the_last_cache_makes_room_for_the_next(inline: Pybuild, inputs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    inline.build(inputs, "--cache-to", f"type=local,dest={cache},mode=max")
    before = set(blobs(cache))
    (inputs / "Dockerfile").write_text(TEXT.replace("made", "other"))
    inline.build(inputs, "--cache-to", f"type=local,dest={cache},mode=max")
    after = blobs(cache)
    named = {manifest(cache)["config"]["digest"][7:], *(row["digest"][7:] for row in manifest(cache)["layers"])}
    assert len(after) == len(named) + 1
    assert len(before & set(after)) == len(before) - 3
    inline.build(inputs, "--cache-to", f"type=local,dest={cache},tag=second")
    rows = json.loads((cache / "index.json").read_text())["manifests"]
    tags = [row["annotations"]["org.opencontainers.image.ref.name"] for row in rows]
    assert tags == ["latest", "second"]
    assert set(after) <= set(blobs(cache))


def test_an_image_carries_its_results(inline: Pybuild, other: Pybuild, inputs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    first = inline.build(inputs, "-t", "app", "--cache-to", "type=inline")
    plain = inline.build(inputs, "-t", "plain")
    assert image_id(plain) != image_id(first)
    assert image_id(inline.build(inputs, "--build-arg", "BUILDKIT_INLINE_CACHE=1")) == image_id(first)
    inline("save", "-o", archive, "app", "plain")
    with tarfile.open(archive) as tar:
        data = tar.extractfile("blobs/sha256/" + image_id(first)[7:])
        assert data is not None
        config = json.load(data)
    records = json.loads(base64.b64decode(config["moby.buildkit.cache.v0"]))
    assert [record["layers"][0]["layer"] for record in records] == [0, 1, 2, 3, 4]
    other("load", "-i", archive)
    taken = other.build(inputs, "--cache-from", "app")
    # The stage of the tool is not part of the image
    assert taken.redone() == ["RUN seq 9999 > /tool"]
    assert (
        "without `--cache-to type=inline`" in warnings(other.build(inputs, "--pull=never", "--cache-from", "plain"))[0]
    )


@pytest.mark.slow
def test_an_image_with_results_is_pulled(inline: Pybuild, other: Pybuild, inputs: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    inline.build(inputs, "--cache-to", "inline", "-o", f"type=oci,dest={layout},tar=false")
    with registry.fake() as remote:
        contents = remote.contents
        [row] = json.loads((layout / "index.json").read_text())["manifests"]
        for path in (layout / "blobs/sha256").iterdir():
            contents.blob(path.read_bytes())
        document = json.loads((layout / "blobs/sha256" / row["digest"][7:]).read_text())
        contents.document("app", "1", row["mediaType"], document)
        never = other.build(inputs, "--pull=never", "--cache-from", remote.name("app:1"))
        assert "no such image" in warnings(never)[0]
        other("prune", "-af")
        taken = other.build(inputs, "--cache-from", f"type=registry,ref={remote.name('app:1')}")
    assert taken.redone() == ["RUN seq 9999 > /tool"]
    assert other.names() == {"<none>:<none>"}


@pytest.mark.slow
def test_a_cache_that_is_absent_or_broken_is_a_warning(inline: Pybuild, inputs: Path, tmp_path: Path) -> None:
    for source in (f"type=local,src={tmp_path / 'none'}", "localhost:1/no-such-image", f"type=local,src={inputs}"):
        [told] = warnings(inline.build(inputs, "--cache-from", source))
        assert told.startswith("nothing is taken from the cache: ")
    (inputs / "f").write_text("f")
    (tmp_path / "file").write_text("")
    failed = inline.build(inputs, "--cache-to", f"type=local,dest={tmp_path / 'file'}", status=1)
    assert "cannot write the cache" in failed.events[-1]["failure"]["message"]
    told = inline.build(inputs, "--cache-to", f"type=local,dest={tmp_path / 'file'},ignore-error=true")
    assert "cannot write the cache" in warnings(told)[0]


@pytest.mark.slow
def test_a_layer_that_is_another_is_not_taken(inline: Pybuild, other: Pybuild, inputs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    inline.build(inputs, "--cache-to", f"type=local,dest={cache},compression=uncompressed")
    largest = max((cache / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[600] ^= 1
    largest.write_bytes(data)
    result = other.build(inputs, "--cache-from", f"type=local,src={cache}")
    assert "not what its name says" in warnings(result)[0]
    assert "ADD base.tar /" in result.redone()


def test_a_result_that_cannot_be_taken_is_told_once(
    inline: Pybuild, other: Pybuild, context: Path, tmp_path: Path
) -> None:
    (context / "f").write_text("f")
    text, cache = "FROM scratch\nCOPY f /\n", tmp_path / "cache"
    inline.build(context, "--cache-to", f"type=local,dest={cache},compression=uncompressed", dockerfile=text)
    largest = max((cache / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[600] ^= 1
    largest.write_bytes(data)
    result = other.build(context, "--cache-from", f"type=local,src={cache}", dockerfile=text)
    [told] = warnings(result)
    assert "not what its name says" in told
    assert result.redone() == ["COPY f /"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--cache-to", "type=registry", "wants ref=..."),
        ("--cache-to", "type=gha", "unknown type for --cache-to: gha"),
        ("--cache-to", "type=local", "wants dest=..."),
        ("--cache-to", "type=local,dest=x,mode=all", "unknown mode"),
        ("--cache-to", "type=inline,mode=max", "its own steps alone"),
        ("--cache-from", "type=local,dest=x", "unknown key of --cache-from type=local: dest"),
        ("--cache-from", "type=s3", "unknown type for --cache-from: s3"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    inline_base: Pybuild, context: Path, option: str, value: str, message: str
) -> None:
    assert message in inline_base("build", option, value, context, status=2).err
