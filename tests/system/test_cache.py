"""What a change must rebuild, and what it must not."""

import os
import time
from pathlib import Path

import pytest

from support.program import Pybuild
from support.watch import opened_files

pytestmark = pytest.mark.userns

TEXT = """\
FROM base
ENV A=1
COPY src /src
RUN cat /src/a > /out
COPY other /other
LABEL l=1
"""
STEPS = ["COPY src /src", "RUN cat /src/a > /out", "COPY other /other"]


@pytest.fixture
def filled(context: Path) -> Path:
    (context / "src").mkdir()
    (context / "src" / "a").write_text("a")
    (context / "src" / "b").write_text("b")
    (context / "other").write_text("other")
    (context / "unused").write_text("unused")
    return context


@pytest.fixture
def built(inline: Pybuild, filled: Path) -> Pybuild:
    inline.add_base()
    assert inline.build(filled, dockerfile=TEXT).redone() == STEPS
    return inline


def test_nothing_changed_nothing_redone_through_either_door(pybuild: Pybuild, filled: Path) -> None:
    pybuild.add_base()
    first = pybuild.build(filled, dockerfile=TEXT)
    again = pybuild.build(filled, dockerfile=TEXT)
    assert (first.redone(), again.redone()) == (STEPS, [])
    assert first.events[-1]["image_id"] == again.events[-1]["image_id"]


def test_dates_do_not_count(built: Pybuild, filled: Path) -> None:
    for path in filled.rglob("*"):
        os.utime(path, (1, 1))
    assert built.build(filled, dockerfile=TEXT).redone() == []


def test_a_file_written_anew_with_the_same_bytes_does_not_count(built: Pybuild, filled: Path) -> None:
    (filled / "src" / "a").unlink()
    (filled / "src" / "a").write_text("a")
    assert built.build(filled, dockerfile=TEXT).redone() == []


def test_another_place_for_the_same_context_does_not_count(built: Pybuild, filled: Path) -> None:
    moved = filled.with_name("moved")
    filled.rename(moved)
    assert built.build(moved, dockerfile=TEXT).redone() == []


def test_content_counts_from_its_copy_on(built: Pybuild, filled: Path) -> None:
    (filled / "other").write_text("changed")
    assert built.build(filled, dockerfile=TEXT).redone() == STEPS[2:]
    (filled / "src" / "a").write_text("A")
    assert built.build(filled, dockerfile=TEXT).redone() == STEPS


def test_a_change_of_the_same_size_and_date_counts(built: Pybuild, filled: Path) -> None:
    stat = (filled / "other").stat()
    (filled / "other").write_text("OTHER")
    os.utime(filled / "other", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert built.build(filled, dockerfile=TEXT).redone() == STEPS[2:]


def test_going_back_finds_the_old_results(built: Pybuild, filled: Path) -> None:
    (filled / "src" / "a").write_text("changed")
    built.build(filled, dockerfile=TEXT)
    (filled / "src" / "a").write_text("a")
    assert built.build(filled, dockerfile=TEXT).redone() == []


@pytest.mark.parametrize("change", ["mode", "new", "gone", "renamed", "link"])
def test_the_shape_of_a_directory_counts(built: Pybuild, filled: Path, change: str) -> None:
    match change:
        case "mode":
            (filled / "src" / "b").chmod(0o700)
        case "new":
            (filled / "src" / "c").write_text("")
        case "gone":
            (filled / "src" / "b").unlink()
        case "renamed":
            (filled / "src" / "b").rename(filled / "src" / "c")
        case _:
            (filled / "src" / "b").unlink()
            (filled / "src" / "b").symlink_to("a")
    assert STEPS[0] in built.build(filled, dockerfile=TEXT).redone()


def test_what_is_not_copied_does_not_count(built: Pybuild, filled: Path) -> None:
    (filled / "unused").write_text("changed")
    (filled / "brand-new").write_text("x")
    assert built.build(filled, dockerfile=TEXT).redone() == []


def test_what_is_ignored_does_not_count(inline: Pybuild, filled: Path) -> None:
    inline.add_base()
    (filled / ".dockerignore").write_text("src/b\n")
    inline.build(filled, dockerfile=TEXT)
    (filled / "src" / "b").write_text("changed")
    assert inline.build(filled, dockerfile=TEXT).redone() == []


def test_instructions_count_and_what_comes_before_them(built: Pybuild, filled: Path) -> None:
    assert built.build(filled, dockerfile=TEXT.replace("l=1", "l=2")).redone() == []
    assert "RUN cat -u /src/a > /out" in built.build(filled, dockerfile=TEXT.replace("RUN cat", "RUN cat -u")).redone()
    redone = built.build(filled, dockerfile=TEXT.replace("A=1", "A=2")).redone()
    assert STEPS[1] in redone
    assert built.build(filled, dockerfile=TEXT.replace("FROM", "# a comment\n\nFROM")).redone() == []


def test_arguments_count_where_they_are_declared(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    text = "FROM base\nRUN echo before > /b\nARG X\nRUN echo after > /a\n"
    inline.build(context, "--build-arg", "X=1", dockerfile=text)
    assert inline.build(context, "--build-arg", "X=1", dockerfile=text).redone() == []
    assert inline.build(context, "--build-arg", "X=2", dockerfile=text).redone() == ["RUN echo after > /a"]


def test_another_base_counts(built: Pybuild, filled: Path) -> None:
    built.build(filled, "-t", "base", dockerfile="FROM base\nRUN touch /new-base\n")
    assert built.build(filled, dockerfile=TEXT).redone() == STEPS


STAGES = """\
FROM base AS make
COPY src /src
RUN grep -v '^#' /src/code > /result || true
FROM base
COPY --from=make /result /result
RUN cp /result /final
"""


def test_a_stage_whose_output_is_the_same_does_not_invalidate_its_users(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    (context / "src").mkdir()
    (context / "src" / "code").write_text("# one\ncode\n")
    inline.build(context, dockerfile=STAGES)
    (context / "src" / "code").write_text("# two\ncode\n")
    redone = inline.build(context, dockerfile=STAGES).redone()
    assert redone == ["COPY src /src", "RUN grep -v '^#' /src/code > /result || true"]
    (context / "src" / "code").write_text("# two\nother code\n")
    assert len(inline.build(context, dockerfile=STAGES).redone()) == 4


def test_no_cache_redoes_all_or_the_named_stages(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    text = (
        "FROM base AS one\nRUN echo 1 > /1\nFROM base AS two\nRUN echo 2 > /2\n"
        "FROM base\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n"
    )
    inline.build(context, dockerfile=text)
    assert len(inline.build(context, "--no-cache", dockerfile=text).redone()) == 4
    assert "RUN echo 1 > /1" not in inline.build(context, "--no-cache-filter", "two", dockerfile=text).redone()
    assert "RUN echo 2 > /2" in inline.build(context, "--no-cache-filter", "two", dockerfile=text).redone()


def wait_until_old(directory: Path) -> None:
    """Wait until nothing there is so young that it may still change without its dates telling."""
    youngest = max(path.stat().st_ctime for path in (directory, *directory.rglob("*")))
    time.sleep(max(0.0, youngest + 0.5 - time.time()))


def test_a_cached_build_reads_no_file_of_the_context(pybuild: Pybuild, filled: Path) -> None:
    pybuild.add_base()
    pybuild.build(filled, dockerfile=TEXT)
    wait_until_old(filled)
    pybuild.build(filled, dockerfile=TEXT)
    with opened_files(filled) as opened:
        assert pybuild.build(filled, dockerfile=TEXT).redone() == []
    assert opened == []


def test_one_changed_file_is_the_only_one_read(inline: Pybuild, filled: Path) -> None:
    inline.add_base()
    inline.build(filled, dockerfile="FROM scratch\nCOPY src /src\n")
    wait_until_old(filled)
    inline.build(filled, dockerfile="FROM scratch\nCOPY src /src\n")
    (filled / "src" / "a").write_text("changed")
    with opened_files(filled) as opened:
        inline.build(filled, "-q", dockerfile="FROM base\nLABEL a=b\nCOPY src/a /only\n")
    assert set(opened) <= {"a"}


def test_layers_are_the_same_bytes_whichever_way_they_were_made(inline: Pybuild, daemon: Pybuild, filled: Path) -> None:
    images = []
    for program in (inline, daemon):
        program.add_base()
        images.append(
            program.image(filled, dockerfile="FROM base\nCOPY . /all/\nCOPY --chown=3:4 src /s\nWORKDIR /w\n")
        )
    one, two = images
    assert one.diff_ids[:3] == two.diff_ids[:3]


def test_independent_stages_run_side_by_side(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    stages = "".join(f"FROM base AS s{n}\nRUN sleep 1.5; echo {n} > /out-{n}\n" for n in range(3))
    text = stages + "FROM base\n" + "".join(f"COPY --from=s{n} /out-{n} /\n" for n in range(3))
    begin = time.monotonic()
    inline.build(context, dockerfile=text)
    assert time.monotonic() - begin < 4.2


def test_a_step_begins_when_what_it_waits_for_is_there(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    text = "FROM base AS slow\nRUN sleep 0.5; echo x > /x\nFROM scratch\nCOPY --from=slow /x /\n"
    events = inline.build(context, dockerfile=text).events
    labels = [step["label"] for step in next(event for event in events if event["event"] == "Planned")["steps"]]
    order = [
        (event["event"], labels[event["step"]]) for event in events if event["event"] in ("StepStarted", "StepDone")
    ]
    run, copy = (next(label for label in labels if word in label) for word in ("RUN", "COPY"))
    assert order.index(("StepDone", run)) < order.index(("StepStarted", copy))
