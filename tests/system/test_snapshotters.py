"""Builds where layers cannot be stacked: RUN works on trees that are handed on from step to step."""

import json
import os
from pathlib import Path

import pytest

from support import busybox
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

STEPS = (
    "FROM base\n"
    "RUN echo one > /one; mkdir -p /opt/d; echo > /opt/d/old; touch -d @7 /one /opt/d/old /opt/d /opt\n"
    "COPY file /opt/d/file\n"
    "RUN cat /opt/d/file > /seen; rm -r /opt/d; mkdir /opt/d; touch -d @8 /seen /opt/d /opt\n"
    "RUN rm /one; test ! -e /opt/d/file\n"
)


def build(pybuild: Pybuild, context: Path, text: str, *args: str, **options: object) -> Result:
    (context / "Dockerfile").write_text(text)
    return pybuild("build", "--progress=json", *args, context, **options)  # type: ignore[arg-type]


def image(result: Result) -> str:
    return str(next(event["image_id"] for event in result.events if event["event"] == "Built"))


def layers(pybuild: Pybuild, result: Result) -> list[str]:
    config = json.loads(pybuild("inspect", image(result)).text)
    return list((config[0] if isinstance(config, list) else config)["RootFS"]["Layers"])


def snapshots(pybuild: Pybuild) -> list[str]:
    return sorted(name.split("-")[1] for name in os.listdir(pybuild.store / "snapshots") if "-copy-" in name)


def test_layers_are_those_of_an_overlay(inline_base: Pybuild, context: Path) -> None:
    (context / "file").write_text("content")
    # /dev, /proc and /sys are made by the first RUN, now
    build(inline_base, context, "FROM base\nRUN true\n", "-t", "ready")
    text = STEPS.replace("FROM base", "FROM ready")
    copied = build(inline_base, context, text, "--snapshotter=copy")
    assert snapshots(inline_base) == ["copy"]
    stacked = build(inline_base, context, text, "--snapshotter=overlay", "--no-cache")
    assert stacked.redone()
    assert layers(inline_base, copied) == layers(inline_base, stacked)
    again = build(inline_base, context, text, env={"PYBUILD_SNAPSHOTTER": "copy"})
    assert not again.redone()
    assert os.listdir(inline_base.store / "tmp") == []


def test_stages_share_what_is_below_and_nothing_above(inline_base: Pybuild, context: Path) -> None:
    text = (
        "FROM base AS a\nRUN echo a > /a\n"
        "FROM a AS b\nRUN echo b > /b; cat /a\n"
        "FROM a AS c\nRUN test ! -e /b; echo c > /c\n"
        "FROM b\nCOPY --from=c /c /c\n"
        "RUN --mount=from=c,target=/mnt/c --mount=from=a,target=/mnt/a,rw cat /mnt/c/c /mnt/c/a; echo x > /mnt/a/x; "
        "test ! -e /mnt/c/b; ! touch /mnt/c/no; test -e /b; test ! -e /x\n"
        "RUN --mount=target=/ctx,rw rm /ctx/file; test ! -e /ctx/file\n"
        "RUN test ! -e /mnt/a/x; test -e /c\n"
    )
    (context / "file").write_text("content")
    build(inline_base, context, text, "--snapshotter=copy")
    assert (context / "file").exists()
    assert os.listdir(inline_base.store / "tmp") == []


def test_failed_step_spoils_nothing(inline_base: Pybuild, context: Path) -> None:
    start = "FROM base\nRUN echo good > /good\n"
    build(inline_base, context, start, "--snapshotter=copy")
    failed = build(inline_base, context, start + "RUN rm /good; exit 9\n", "--snapshotter=copy", status=1)
    assert "exit code 9" in failed.err
    well = build(inline_base, context, start + "RUN grep good /good\n", "--snapshotter=copy")
    assert well.redone() == ["RUN grep good /good"]
    assert os.listdir(inline_base.store / "tmp") == []


def test_kept_tree_of_a_failed_step_is_whole(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN echo below > /below\nRUN echo half > /half; exit 9\n"
    failed = build(inline_base, context, text, "--snapshotter=copy", "--shell-on-fail", status=1)
    name = next(event["failure"]["kept"] for event in failed.events if event["event"] == "Failed")
    assert inline_base("shell", name, "--", "cat", "/below", "/half").text == "below\nhalf\n"
    inline_base("shell", name, "--", "sh", "-c", "echo more >> /half")
    assert inline_base("shell", name, "--", "cat", "/half").text == "half\nmore\n"


def test_shell_in_an_image_changes_nothing(inline_base: Pybuild) -> None:
    args = ("shell", "--snapshotter=copy", "base", "--", "sh", "-c", "test ! -e /own; echo > /own; ls /own")
    assert inline_base(*args).text == inline_base(*args).text == "/own\n"


def test_store_on_an_overlay_gets_copies_and_says_so(inline: Pybuild, context: Path) -> None:
    # The overlay hides the store that is there
    busybox.write_rootfs(context / "base.tar")
    (context / "file").write_text("content")
    text = STEPS.replace("FROM base", "FROM scratch\nADD base.tar /")
    done = build(inline, context, text, lack="store_on_overlay", env={"TMPDIR": str(inline.base)})
    notices = [event["message"] for event in done.events if event["event"] == "Notice"]
    assert any("RUN works on copies of the layers" in text for text in notices), notices


def test_unknown_snapshotter_is_a_mistake(inline: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\n")
    wrong = inline("build", "--snapshotter=zfs", context, status=2)
    assert "unknown snapshotter: zfs" in wrong.err
    wrong = inline("build", context, status=2, env={"PYBUILD_SNAPSHOTTER": "zfs"})
    assert "known: auto, overlay, copy" in wrong.err


@pytest.mark.slow
@pytest.mark.parametrize("snapshotter", ["overlay", "copy"])
def test_more_layers_than_an_overlay_takes(inline_base: Pybuild, context: Path, snapshotter: str) -> None:
    for number in range(5):
        (context / str(number)).write_text(str(number))
    # COPY of the same file to another place makes a layer without running anything
    many = "".join(f"COPY {number % 5} /many/{number}\n" for number in range(520))
    runs = "RUN cat /many/0 /many/400 /many/519; rm /many/7\nRUN test ! -e /many/7; ls /many | wc -l\n"
    done = build(inline_base, context, f"FROM base\n{many}{runs}", f"--snapshotter={snapshotter}", "--no-cache")
    said = "".join(event["text"] for event in done.events if event["event"] == "StepLog")
    assert said == "004519\n"
