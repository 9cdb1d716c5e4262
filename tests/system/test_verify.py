"""`pybuild verify`: what comes out the same, what does not and how that is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.program import Pybuild

pytestmark = pytest.mark.userns

DATED = {"SOURCE_DATE_EPOCH": "1000000000"}


def verify(pybuild: Pybuild, *args: str | Path, status: int = 0, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pybuild("verify", "--json", *args, status=status, **options).out)
    assert found["same"] == (status == 0)
    return found


def told(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["path"], row["field"]) for row in found["differences"]}


@pytest.mark.parametrize("door", ["daemon", pytest.param("inline", marks=pytest.mark.slow)])
def test_what_is_the_same_again_is_told_so(
    request: pytest.FixtureRequest, context: Path, tmp_path: Path, door: str
) -> None:
    base: Pybuild = request.getfixturevalue(door)
    base.add_base()
    (context / "Dockerfile").write_text("FROM base\nARG WHO\nCOPY f /f\nRUN echo $WHO > /who\n")
    (context / "f").write_text("f")
    out = f"type=oci,dest={tmp_path / 'o'},rewrite-timestamp=true"
    # An inline cache is a part of the image
    base.build(context, "-t", "app", "-o", out, "--cache-to=inline", "--build-arg=WHO=me", env=DATED)
    before = base.state()
    found = verify(base, "app")
    assert found["image"] == found["rebuilt"]
    assert "the same image" in base("verify", "app").text
    # Neither the cache nor the list of images is another one
    assert base.state()[0] == before[0]
    assert base.build(context, "--build-arg=WHO=me", env=DATED).redone() == []


def test_differences_are_told_file_by_file(inline_base: Pybuild, context: Path) -> None:
    base = inline_base
    (context / "Dockerfile").write_text(
        "FROM base\nCOPY --chmod=644 f g gone /d/\nENV A=1\nRUN ln -s one /link; mkdir /n; echo x > /made\n"
    )
    for name in ("f", "g", "gone"):
        (context / name).write_text(name)
    base.build(context, "-t", "changed")
    (context / "Dockerfile").write_text(
        "FROM base\nCOPY --chmod=600 f /d/\nCOPY --chown=5 g /d/\nCOPY g /d/new\nENV A=2\n"
        "RUN ln -s two /link; echo > /n; echo x > /made\n"
    )
    (context / "f").write_text("FF")
    images = base("images", "-aq").text
    found = verify(base, "changed", "--ignore=mtime", status=1)
    assert told(found) >= {
        ("", "config.Env"), ("/d/f", "mode"), ("/d/f", "size"), ("/d/f", "digest"), ("/d/g", "owner"),
        ("/d/gone", "type"), ("/d/new", "type"), ("/link", "link"), ("/n", "type"),
    }  # fmt: skip
    assert {path for path, _ in told(found)} == {"", "/d/f", "/d/g", "/d/gone", "/d/new", "/link", "/n"}
    rows = {(row["path"], row["field"]): (row["image"], row["rebuilt"]) for row in found["differences"]}
    assert rows["/d/f", "mode"] == ("0644", "0600")
    assert rows["/d/new", "type"] == ("absent", "file")
    assert base("images", "-aq").text == images
    table = base("verify", "changed", "--ignore", "mtime,config", status=1).text
    assert "/d/gone" in table
    assert "config" not in table


def test_times_are_differences_unless_they_are_bounded(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base\nRUN sleep 0.01; echo > /f\n")
    inline_base.build(context, "-t", "undated")
    failed = inline_base("verify", "undated", "--progress=plain", status=1)
    assert "/f" in failed.text
    assert "only times differ" in failed.err
    verify(inline_base, "undated", "--ignore=mtime")


@pytest.mark.slow
def test_inputs_may_be_given_and_must_be_when_unknown(inline_base: Pybuild, context: Path, tmp_path: Path) -> None:
    (context / "other").write_text("FROM base AS a\nARG X=1\nLABEL x=$X\nFROM a\n")
    inline_base.build(context, "-f", context / "other", "-t", "given", "--target", "a", "--build-arg=X=2")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Dockerfile").write_text((context / "other").read_text())
    verify(inline_base, "given", elsewhere)
    assert told(verify(inline_base, "given", elsewhere, "--build-arg=X=3", status=1)) >= {("", "config.Labels")}
    assert "what this image was built from" in inline_base("verify", "base", status=2).err
    assert "No such image" in inline_base("verify", "nothing", status=1).err
    assert "unknown field" in inline_base("verify", "given", "--ignore=colour", status=2).err
    inline_base("build", "-t", "piped", "-", stdin=b"FROM base\n")
    assert "name the CONTEXT" in inline_base("verify", "piped", status=2).err


def test_secrets_are_asked_for_and_not_kept(inline_base: Pybuild, context: Path) -> None:
    (context / "s").write_text("very-secret-value")
    (context / "Dockerfile").write_text("FROM base\nRUN --mount=type=secret,id=s cat /run/secrets/s | wc -c > /n\n")
    given = f"id=s,src={context / 's'}"
    inline_base.build(context, "-t", "closed", "--secret", given)
    assert "--secret id=s" in inline_base("verify", "closed", status=2).err
    verify(inline_base, "closed", "--secret", given, "--ignore=mtime")
    assert b"very-secret-value" not in b"".join(
        path.read_bytes() for path in inline_base.store.glob("index*") if path.is_file()
    )


@pytest.mark.slow
def test_another_base_is_told(inline_base: Pybuild, context: Path) -> None:
    inline_base.build(context, "-t", "below", dockerfile="FROM base\nLABEL a=1\n")
    (context / "Dockerfile").write_text("FROM below\nLABEL b=1\n")
    inline_base.build(context, "-t", "above")
    inline_base.build(context, "-t", "below", dockerfile="FROM base\nLABEL a=2\n")
    failed = inline_base("verify", "above", status=1)
    assert "the base image is not the one it was built on: below" in failed.err
