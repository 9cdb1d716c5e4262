"""Builds where newuidmap is there and fails: they go on with one id, and say so."""

import os
import shutil
from pathlib import Path

import pytest

from support import confined
from support.program import Pybuild

pytestmark = [
    pytest.mark.userns,
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed"),
]

TEXT = "FROM base\nRUN chown 7:8 /bin && id -u > /id\nRUN stat -c %u:%g /bin > /owner\n"


def told(events: list[dict[str, object]]) -> list[str]:
    lines = [str(event["message"]) for event in events if event["event"] == "Notice"]
    return [line for line in lines if line.startswith("building with one user id")]


def test_refused_helper_is_told_once_and_the_build_goes_on(inline_base: Pybuild, context: Path) -> None:
    out = inline_base.base / "out"
    args = ("--network=host", "-o", f"type=local,dest={out}")
    result = inline_base.build(context, *args, dockerfile=TEXT, lack="refused_helper")
    [line] = told(result.events)
    assert "`newuidmap` failed" in line
    assert "SETUID and SETGID" in line
    assert (out / "id").read_text() == "0\n"
    assert (out / "owner").read_text() == "7:8\n"
    # The mode that was found out is that of the keys, too
    again = inline_base.build(context, "--network=host", dockerfile=TEXT, lack="refused_helper")
    assert again.redone() == []
    alike = inline_base.build(context, "--network=host", dockerfile=TEXT, env={"PYBUILD_ID_MODE": "single"})
    assert alike.redone() == []


def test_no_results_of_one_id_are_kept_under_another_key(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN true # once\n"
    inline_base.build(context, "--network=host", dockerfile=text, lack="refused_helper")
    ids = inline_base("doctor", "--json", status=None)
    redone = inline_base.build(context, "--network=host", dockerfile=text).redone()
    assert redone == ([] if '"mode": "single"' in ids.text else ["RUN true # once"])


def test_stages_side_by_side_agree_on_the_mode(inline_base: Pybuild, context: Path) -> None:
    text = "FROM scratch\n" + "".join(f"COPY --from=s{n} /f{n} /\n" for n in range(4))
    stages = "".join(f"FROM base AS s{n}\nRUN echo {n} > /f{n} && chown 5 /f{n}\n" for n in range(4))
    result = inline_base.build(context, "--network=host", dockerfile=stages + text, lack="refused_helper")
    assert len(told(result.events)) == 1
    again = inline_base.build(context, "--network=host", dockerfile=stages + text, lack="refused_helper")
    assert again.redone() == []


def test_mode_that_was_asked_for_is_not_replaced(inline_base: Pybuild, context: Path) -> None:
    env = {"PYBUILD_ID_MODE": "multi"}
    text = "FROM base\nRUN true # multi\n"
    result = inline_base.build(context, dockerfile=text, lack="refused_helper", env=env, status=1)
    failure = result.events[-1]["failure"]
    assert (failure["kind"], failure["line"]) == ("StepError", 2)
    assert "`newuidmap` failed" in failure["message"]
    assert "SETUID and SETGID" in failure["hint"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put another newuidmap in its place")
@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ("failing_helper", "`newuidmap` failed: no luck"),
        ("idle_helper", "`newuidmap` ended well and has mapped nothing"),
        ("other_group", "owned by a different user"),
    ],
)
def test_helpers_that_fail_in_other_ways(inline: Pybuild, lack: str, words: str) -> None:
    inline.add_base()
    context = inline.base / "context"
    context.mkdir()
    for path in (inline.base, *inline.base.rglob("*")):
        os.chown(path, confined.USER, confined.USER, follow_symlinks=False)
    result = inline.build(context, "--network=host", dockerfile=TEXT, lack=lack)
    [line] = told(result.events)
    assert words in line
    assert result.redone() == ["RUN chown 7:8 /bin && id -u > /id", "RUN stat -c %u:%g /bin > /owner"]
