"""SOURCE_DATE_EPOCH: the times of configs, histories, layers and trees."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from support.images import Image, read_docker
from support.program import Pybuild

pytestmark = pytest.mark.userns

EPOCH = 1_000_000_000
WHEN = "2001-09-09T01:46:40Z"
DATED = {"SOURCE_DATE_EPOCH": str(EPOCH)}
TEXT = """\
FROM base
COPY f old /c/
ADD a.tar /a/
WORKDIR /w
RUN echo hi > /r; ln /r /r2; ln -s r /l; mkdir -p /d/e; touch -d @5 /d/e /d/old; rm -r /srv; mkdir /srv; cp /c/f /c/g
RUN true
"""


@pytest.fixture
def dated(context: Path) -> Path:
    for name, moment in (("f", 1_500_000_000), ("old", 500)):
        (context / name).write_text(name)
        os.utime(context / name, (moment, moment))
    with tarfile.open(context / "a.tar", "w") as archive:
        for name, moment in (("new", 1_600_000_000), ("older", 77)):
            member = tarfile.TarInfo(name)
            member.mtime = moment
            archive.addfile(member, io.BytesIO())
    return context


def times(image: Image, layer: int) -> dict[str, float]:
    return {
        node.path: node.mtime for node in image.layers[layer] if not node.path.rpartition("/")[2].startswith(".wh.")
    }


def test_config_history_and_copied_files_have_it(inline_base: Pybuild, dated: Path) -> None:
    image = inline_base.image(dated, dockerfile=TEXT, env=DATED)
    assert image.config["created"] == WHEN
    own = [row for row in image.history if row.get("comment") == "buildkit.dockerfile.v0"]
    assert [row["created"] for row in own] == [WHEN] * 5
    assert image.history[0]["created"] > WHEN
    assert times(image, -5) == dict.fromkeys(("c", "c/f", "c/old"), EPOCH)
    assert times(image, -4) == {"a": EPOCH, "a/new": 1_600_000_000, "a/older": 77}
    assert times(image, -3) == {"w": EPOCH}
    assert times(image, -2)["r"] > EPOCH
    # Without it the times of files are kept, and a Dockerfile can say it as well
    assert times(inline_base.image(dated, dockerfile=TEXT), -5)["c/f"] == 1_500_000_000
    image = inline_base.image(dated, dockerfile=f"ARG SOURCE_DATE_EPOCH={EPOCH}\n" + TEXT)
    assert image.config["created"] == WHEN


def test_layers_are_rewritten_when_an_output_asks(inline_base: Pybuild, dated: Path, tmp_path: Path) -> None:
    base = inline_base
    archive = tmp_path / "out.tar"
    told = base.build(
        dated, "-o", f"type=docker,dest={archive},rewrite-timestamp=true", "-t", "dated", dockerfile=TEXT, env=DATED
    )
    [image] = read_docker(archive)
    plain = base.image(dated, dockerfile=TEXT, env=DATED)
    assert image.config_digest == told.events[-1]["image_id"] != plain.config_digest
    assert base("images", "-q", "--no-trunc", "dated").text.strip() == image.config_digest
    # What the base brought stays as it is, and of the rest only times
    assert image.diff_ids[0] == plain.diff_ids[0]
    for layer in range(1, 6):
        rewritten, before = times(image, layer), times(plain, layer)
        assert rewritten == {path: min(moment, EPOCH) for path, moment in before.items()}
    assert times(image, -2)["d/old"] == 5
    same = {path: (node.type, node.mode, node.link, node.sha256) for path, node in plain.tree().items()}
    assert {path: (node.type, node.mode, node.link, node.sha256) for path, node in image.tree().items()} == same
    again = base.build(
        dated, "-o", f"type=oci,dest={archive},rewrite-timestamp=true", "--no-cache", dockerfile=TEXT, env=DATED
    )
    assert again.events[-1]["image_id"] == image.config_digest


def test_rewriting_needs_a_date(inline_base: Pybuild, dated: Path, tmp_path: Path) -> None:
    out = f"type=oci,dest={tmp_path / 'x'},rewrite-timestamp=true"
    told = inline_base.build(dated, "-o", out, dockerfile="FROM scratch\n").events
    assert any("no effect without SOURCE_DATE_EPOCH" in event.get("message", "") for event in told)
    failed = inline_base("build", "-o", "type=oci,rewrite-timestamp=maybe", dated, status=2)
    assert "true or false" in failed.err


def test_trees_and_flat_tars_have_it_everywhere(base: Pybuild, dated: Path, tmp_path: Path) -> None:
    text = "ARG SOURCE_DATE_EPOCH=1000000000\nFROM base AS b\nRUN echo > /f\nFROM scratch\nCOPY --from=b /f /d/f\n"
    (dated / "Dockerfile").write_text(text)
    base("build", "-o", tmp_path / "tree", dated)
    assert {os.stat(tmp_path / "tree" / name).st_mtime for name in ("d", "d/f")} == {EPOCH}
    flat = base("build", "-o", "type=tar", dated).out
    with tarfile.open(fileobj=io.BytesIO(flat)) as archive:
        assert {member.name: member.mtime for member in archive} == {"d": EPOCH, "d/f": EPOCH}


@pytest.mark.slow
def test_another_date_does_not_run_commands_again(inline_base: Pybuild, dated: Path) -> None:
    text = "FROM base\nRUN echo once\nCOPY f /f\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH\n"
    inline_base.build(dated, dockerfile=text, env={"SOURCE_DATE_EPOCH": "1"})
    redone = inline_base.build(dated, dockerfile=text, env={"SOURCE_DATE_EPOCH": "2"}).redone()
    assert redone == ["COPY f /f", "RUN echo $SOURCE_DATE_EPOCH"]
