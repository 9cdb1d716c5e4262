"""What ADD of addresses and named contexts become in a plan."""

import pytest

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.errors import DockerfileError
from pybuild.dockerfile.parse import parse
from pybuild.oci.platform import Platform
from pybuild.plan.contexts import key_of
from pybuild.plan.make import make
from pybuild.plan.ops import (
    CopyOp,
    FromNamed,
    FromStage,
    NeedBases,
    Plan,
    Remote,
    RemoteFile,
    RemoteTree,
    RunOp,
)

LINUX = Platform("linux", "amd64")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def planned(text: str, **contexts: str) -> Plan:
    named = {name.replace("_", "-"): value for name, value in contexts.items()}
    step = make(parse(text), BuildRequest(build_contexts=named), {}, LINUX)
    assert isinstance(step, Plan), step
    return step


def added(arguments: str) -> CopyOp:
    [step] = planned(f"FROM scratch\nADD {arguments}\n").target.steps
    assert isinstance(step.op, CopyOp)
    return step.op


def remote(arguments: str) -> Remote:
    [found] = added(arguments).remotes
    return found


def test_local_and_remote_sources_are_told_apart() -> None:
    op = added("a user@host http://h/x git@h:y.git#z ext::sh /d/")
    assert op.sources == ("a", "user@host", "ext::sh")
    assert op.remotes == (RemoteFile("http://h/x", "x"), RemoteTree("git@h:y.git", "ssh", "h", ref="z"))


def test_archives_that_are_fetched_are_unpacked_when_that_is_said() -> None:
    assert (remote("http://h/x /"), remote("--unpack http://h/x /")) == (
        RemoteFile("http://h/x", "x"),
        RemoteFile("http://h/x", "x", unpack=True),
    )
    assert added("a http://h/x /").unpack


@pytest.mark.parametrize(
    ("arguments", "keep"),
    [
        ("https://h/a.git /", False),
        ("--keep-git-dir https://h/a.git /", True),
        ("https://h/a.git?keep-git-dir /", True),
        ("--keep-git-dir=false https://h/a.git?keep-git-dir=1 /", False),
    ],
)
def test_the_flag_wins_over_the_address(arguments: str, keep: bool) -> None:
    found = remote(arguments)
    assert isinstance(found, RemoteTree)
    assert found.keep_git_dir is keep


def test_a_commit_may_be_said_twice_and_not_in_two_ways() -> None:
    found = remote(f"--checksum={COMMIT} https://h/a.git?checksum={COMMIT[:8]} /")
    assert isinstance(found, RemoteTree)
    assert found.commit == COMMIT
    with pytest.raises(DockerfileError, match="contradicts"):
        added(f"--checksum={COMMIT} https://h/a.git?checksum=fedcba9 /")


def test_errors_show_no_password() -> None:
    with pytest.raises(DockerfileError) as failed:
        added("--checksum=sha256:0 https://me:hush@h/x /")
    assert "hush" not in failed.value.source + failed.value.message


def test_names_of_contexts() -> None:
    assert [
        key_of(name) for name in ("alpine", "docker.io/library/alpine:latest", "a/b:1", "Stage", "host:5000/x")
    ] == [
        "alpine",
        "alpine",
        "a/b:1",
        "stage",
        "host:5000/x",
    ]


def test_named_contexts_come_before_stages_and_images() -> None:
    text = """\
FROM scratch AS own
RUN false
FROM tool AS used
COPY --from=own /a /
FROM docker.io/library/tool
COPY --from=own /c /
COPY --from=image /d /
RUN --mount=from=own,target=/m true
"""
    plan = planned(text, own="/files", tool="/tree", image="target:used")
    assert [(stage.name, stage.base) for stage in plan.stages] == [
        ("used", FromNamed("tool")),
        ("stage-2", FromNamed("tool")),
    ]
    ops = [step.op for stage in plan.stages for step in stage.steps]
    assert [op.source for op in ops if isinstance(op, CopyOp)] == [FromNamed("own"), FromNamed("own"), FromStage(1)]
    assert [op.sources() for op in ops if isinstance(op, RunOp)] == [[FromNamed("own")]]


def test_images_and_layouts_are_asked_for_as_bases() -> None:
    named = {"a": "docker-image://x:1", "b": "oci-layout:///l:t"}
    for text, reference in (("FROM a\n", "x:1"), ("FROM scratch\nCOPY --from=b /x /\n", "oci-layout:///l:t")):
        step = make(parse(text), BuildRequest(build_contexts=named), {}, LINUX)
        assert isinstance(step, NeedBases)
        assert [needed.reference for needed in step.images.values()] == [reference]


def test_a_context_that_means_a_stage_needs_it_before() -> None:
    with pytest.raises(DockerfileError, match="no stage before") as failed:
        planned("FROM scratch AS first\nFROM a\nCOPY --from=b / /\n", a="target:first", b="target:later")
    assert failed.value.span is not None
    assert failed.value.span.start_line == 3
