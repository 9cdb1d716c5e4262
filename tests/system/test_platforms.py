"""Images for platforms other than the machine's."""

import json
import os
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from support import busybox
from support.program import COMMAND, Pybuild

pytestmark = pytest.mark.userns

RISCV = 243
OTHER = "linux/riscv64"


def foreign_program() -> bytes:
    """Return the header of a program for a processor that no machine of these tests has, and nothing behind it."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, RISCV, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0) + bytes(64)


@pytest.fixture
def foreign(context: Path) -> Path:
    (context / "sh").write_bytes(foreign_program())
    (context / "sh").chmod(0o755)
    return context


def test_without_run_any_platform_just_works(inline_base: Pybuild, context: Path) -> None:
    (context / "f").write_text("f")
    text = (
        "FROM --platform=$BUILDPLATFORM base AS tools\nARG TARGETARCH TARGETVARIANT BUILDARCH\n"
        "RUN echo $TARGETARCH,$TARGETVARIANT > /told; test $BUILDARCH != $TARGETARCH\n"
        "FROM scratch\nCOPY --from=tools /told /told\nCOPY f /f\nWORKDIR /w\n"
    )
    image = inline_base.image(context, "--platform", "linux/arm/v6", dockerfile=text)
    assert [image.config.get(key) for key in ("os", "architecture", "variant")] == ["linux", "arm", "v6"]
    assert image.read("told") == "arm,v6\n"


def row_of(place: Path, name: str) -> dict[str, Any]:
    """Return the only row of an index in an OCI archive or layout directory."""
    if place.is_dir():
        data = (place / name).read_bytes()
    else:
        with tarfile.open(place) as archive:
            member = archive.extractfile(name)
            assert member is not None
            data = member.read()
    [row] = json.loads(data)["manifests"]
    return dict(row)


@pytest.mark.parametrize("form", ["tar=true", pytest.param("tar=false", marks=pytest.mark.slow)])
def test_an_index_of_platforms_may_be_around_one_image(
    inline: Pybuild, context: Path, tmp_path: Path, form: str
) -> None:
    text = "FROM --platform=linux/arm/v6 scratch\nLABEL a=b\n"
    out = tmp_path / "out"
    flag = "--build-arg=BUILDKIT_MULTI_PLATFORM=1"
    built = inline.build(context, flag, "-t", "app", "-o", f"type=oci,dest={out},{form}", dockerfile=text)
    assert row_of(out, "index.json")["annotations"]["org.opencontainers.image.ref.name"] == "latest"
    outer = row_of(out, "index.json")
    assert outer["mediaType"] == "application/vnd.oci.image.index.v1+json"
    inner = row_of(out, "blobs/sha256/" + outer["digest"][7:])
    assert inner["platform"] == {"architecture": "arm", "os": "linux", "variant": "v6"}
    inline("rmi", "app")
    assert "app:latest" in inline("load", "-i", out).text
    assert inline("images", "-q", "--no-trunc", "app").text.strip() == built.events[-1]["image_id"]


def test_a_base_for_another_platform_keeps_it(inline_base: Pybuild, context: Path) -> None:
    inline_base.build(context, "-t", "other", "--platform", OTHER, dockerfile="FROM scratch\nLABEL a=b\n")
    result = inline_base.build(context, dockerfile="FROM other\n")
    told = [event["message"] for event in result.events if event["event"] == "Notice"]
    assert any('Base image other was pulled with platform "linux/riscv64", expected "linux/' in text for text in told)
    assert inline_base.image(context, dockerfile="FROM other\n").config["architecture"] == "riscv64"
    failed = inline_base.build(context, "--platform", OTHER, dockerfile="FROM base\n", status=1)
    assert failed.events[-1]["failure"]["line"] == 1


def test_a_local_image_for_another_platform_is_told(inline: Pybuild, context: Path) -> None:
    # Nobody listens there
    name = "localhost:1/a:1"
    inline.build(context, "-t", name, "--platform=linux/arm64", dockerfile="FROM scratch\nENV A=1\n")
    for image, told in ((name, True), ("localhost:1/entirely-other:1", False)):
        text = f"FROM --platform={OTHER} {image}\n"
        failure = inline.build(context, dockerfile=text, status=1).events[-1]["failure"]
        assert failure["hint"].startswith("the local image is for linux/arm64; ") == told


def test_run_without_an_emulator_tells_what_to_install(inline_base: Pybuild, foreign: Path) -> None:
    text = "FROM scratch\nCOPY sh /bin/sh\nRUN echo hi\n"
    failure = inline_base.build(foreign, "--platform", OTHER, dockerfile=text, status=1).events[-1]["failure"]
    assert failure["line"] == 3
    assert "RUN needs an emulator of linux/riscv64" in failure["message"]
    assert "qemu-user" in failure["hint"]
    # What is no program at all is another matter
    failure = inline_base.build(foreign, dockerfile=text, status=1).events[-1]["failure"]
    assert "emulator" not in failure["message"]


MAGIC = "".join(f"\\x{byte:02x}" for byte in foreign_program()[:20])
HANDLED = """\
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
printf '%s' ":other:M::$1::$2:F" > /proc/sys/fs/binfmt_misc/register || exit 77
shift 2
exec "$@"
"""


def test_run_goes_through_the_handler_of_binfmt_misc(inline: Pybuild, foreign: Path) -> None:
    """The handler here is busybox, which takes the path of the program as the name of its applet."""
    (foreign / "Dockerfile").write_text("FROM scratch\nCOPY sh /bin/sh\nRUN echo hi > /out\n")
    out = foreign.parent / "tree"
    build = [*COMMAND, "build", "--platform", OTHER, "-o", str(out), str(foreign)]
    # Since Linux 6.7 a user namespace may have handlers of its own
    script = ["sh", "-c", HANDLED, "sh", MAGIC, str(busybox.BUSYBOX), *build]
    ran = subprocess.run(["unshare", "-Urm", *script], env=inline.env, capture_output=True, text=True)
    if ran.returncode == 77:
        pytest.skip(f"no binfmt_misc in a user namespace here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    assert (out / "out").read_text() == "hi\n"
    assert os.access(out / "bin/sh", os.X_OK)
