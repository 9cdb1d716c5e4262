"""From a Dockerfile to a plan: what enters it, what the config becomes, what an op says."""

import pytest

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.errors import DockerfileError
from pybuild.dockerfile.parse import parse
from pybuild.errors import NotFoundError, UsageError
from pybuild.oci.digest import Digest
from pybuild.oci.image import DEFAULT_PATH, ImageConfig, RunConfig
from pybuild.oci.platform import Platform
from pybuild.plan.make import make
from pybuild.plan.ops import (
    BaseImage,
    CopyOp,
    FromImage,
    FromStage,
    NeedBases,
    Plan,
    RemoteFile,
    RemoteTree,
    RunOp,
    WorkdirOp,
)

LINUX = Platform("linux", "amd64")


def base(**config: object) -> BaseImage:
    image = ImageConfig(architecture="amd64", os="linux", config=RunConfig(**config))  # type: ignore[arg-type]
    return BaseImage(Digest("sha256:" + "0" * 64), image)


def planned(text: str, bases: dict[str, BaseImage] | None = None, **request: object) -> Plan:
    step = make(parse(text), BuildRequest(**request), bases or {}, LINUX)  # type: ignore[arg-type]
    assert isinstance(step, Plan), step
    return step


def config(text: str, bases: dict[str, BaseImage] | None = None, **request: object) -> RunConfig:
    return planned(text, bases, **request).target.config


def history(text: str, **request: object) -> list[str]:
    return [step.created_by for step in planned(text, **request).target.steps]


def run_ops(text: str, **request: object) -> list[RunOp]:
    return [step.op for step in planned(text, **request).target.steps if isinstance(step.op, RunOp)]


def test_missing_bases_are_asked_for_with_their_lines() -> None:
    step = make(parse("FROM a AS x\nFROM b\nCOPY --from=x /f /\nCOPY --from=c /f /\n"), BuildRequest(), {}, LINUX)
    assert isinstance(step, NeedBases)
    assert {key: needed.line for key, needed in step.images.items()} == {"a": 1, "b": 2}


def test_stages_the_target_does_not_need_are_left_out() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nFROM nosuch AS c\nFROM scratch\nCOPY --from=a /x /x\n"
    assert [stage.name for stage in planned(text).stages] == ["a", "stage-3"]


def test_target_may_have_any_case_and_a_near_name_is_offered() -> None:
    text = "FROM scratch AS first\nFROM scratch AS second\n"
    assert planned(text, target="FIRST").target.name == "first"
    with pytest.raises(NotFoundError) as caught:
        planned(text, target="secnd")
    assert "second" in caught.value.hint


def test_scratch_starts_with_path_and_root() -> None:
    assert config("FROM scratch\n") == RunConfig(Env=[f"PATH={DEFAULT_PATH}"], WorkingDir="/")


def test_base_config_is_inherited_and_path_is_added() -> None:
    bases = {"b": base(Env=["A=1"], User="me", Cmd=["x"], Labels={"l": "1"}, WorkingDir="/w")}
    result = config("FROM b\nENV A=2 B=$A\n", bases)
    assert result.Env == ["A=2", f"PATH={DEFAULT_PATH}", "B=1"]
    assert (result.User, result.Cmd, result.Labels, result.WorkingDir) == ("me", ["x"], {"l": "1"}, "/w")


def test_global_arg_reaches_from_and_only_a_bare_arg_in_a_stage() -> None:
    text = "ARG BASE=scratch\nARG V=1\nFROM $BASE\nENV A=$V\nARG V\nENV B=$V\n"
    env = config(text).Env
    assert env is not None
    assert env[1:] == ["A=", "B=1"]
    env = config(text, build_args={"V": "2"}).Env
    assert env is not None
    assert env[1:] == ["A=", "B=2"]


def test_build_argument_wins_over_the_default() -> None:
    text = "FROM scratch\nARG V=1\nLABEL v=$V\n"
    assert config(text).Labels == {"v": "1"}
    assert config(text, build_args={"V": "2"}).Labels == {"v": "2"}
    assert config(text, build_args={"V": None}).Labels == {"v": "1"}


def test_unused_build_argument_is_a_warning() -> None:
    [warning] = planned("FROM scratch\n", build_args={"NO": "1", "HTTP_PROXY": "p"}).warnings
    assert "NO" in warning.message


def test_arguments_of_buildkit_need_no_arg() -> None:
    args = {
        "BUILDKIT_SYNTAX": "x",
        "BUILDKIT_INLINE_CACHE": "1",
        "BUILDKIT_SBOM_SCAN_CONTEXT": "1",
        "BUILDKIT_SBOM_SCAN_STAGE": "false",
        "BUILDKIT_SINTAX": "x",
    }
    told = [warning.message for warning in planned("FROM scratch\n", build_args=args).warnings]
    assert [message.rpartition(": ")[2] for message in told] == [
        "BUILDKIT_SBOM_SCAN_CONTEXT",
        "BUILDKIT_SINTAX (did you mean BUILDKIT_SYNTAX?)",
    ]


def test_platform_arguments_need_a_bare_arg() -> None:
    text = "FROM scratch\nARG TARGETARCH\nARG TARGETSTAGE\nLABEL a=$TARGETARCH s=$TARGETSTAGE o=$TARGETOS\n"
    assert config(text).Labels == {"a": "amd64", "s": "default", "o": ""}


def test_entrypoint_clears_the_cmd_of_the_base_but_not_its_own() -> None:
    bases = {"b": base(Cmd=["base"])}
    assert config('FROM b\nENTRYPOINT ["e"]\n', bases).Cmd is None
    assert config('FROM b\nCMD ["own"]\nENTRYPOINT ["e"]\n', bases).Cmd == ["own"]
    assert config("FROM b\nENTRYPOINT []\n", bases).Entrypoint is None


def test_shell_form_uses_the_shell_of_the_stage() -> None:
    result = config('FROM scratch\nCMD a b\nSHELL ["/bin/bash", "-ec"]\nENTRYPOINT x\n')
    assert result.Cmd == ["/bin/sh", "-c", "a b"]
    assert result.Entrypoint == ["/bin/bash", "-ec", "x"]
    assert result.Shell == ["/bin/bash", "-ec"]


@pytest.mark.parametrize(
    ("lines", "stored", "made"),
    [
        ("WORKDIR /a", "/a", "/a"),
        ("WORKDIR /a\nWORKDIR b", "/a/b", "/a/b"),
        ("WORKDIR /a/../c/", "/a/../c/", "/c"),
        ("WORKDIR x", "/x", "/x"),
        ("ENV D=/e\nWORKDIR $D/f", "/e/f", "/e/f"),
    ],
)
def test_workdir(lines: str, stored: str, made: str) -> None:
    target = planned(f"FROM scratch\n{lines}\n").target
    assert target.config.WorkingDir == stored
    op = target.steps[-1].op
    assert isinstance(op, WorkdirOp)
    assert op.path == made


def test_workdir_at_the_root_makes_no_layer() -> None:
    assert planned("FROM scratch\nWORKDIR /\n").target.steps[0].op is None


@pytest.mark.parametrize(
    ("dest", "workdir", "expected"),
    [
        ("x", "/w", "/w/x"),
        ("x/", "/w", "/w/x/"),
        (".", "/w", "/w/"),
        ("./", "/", "/"),
        ("/a/./b/../c", "/", "/a/c"),
        ("/", "/w", "/"),
    ],
)
def test_destination_is_below_the_working_directory(dest: str, workdir: str, expected: str) -> None:
    op = planned(f"FROM scratch\nWORKDIR {workdir}\nCOPY f {dest}\n").target.steps[-1].op
    assert isinstance(op, CopyOp)
    assert op.dest == expected


def test_copy_names_its_source() -> None:
    text = "FROM scratch AS a\nFROM scratch\nCOPY --from=a /x /\nCOPY --from=0 /x /\nCOPY --from=img:1 /x /\n"
    steps = planned(text, {"img:1": base()}).target.steps
    assert [step.op.source for step in steps if isinstance(step.op, CopyOp)] == [
        FromStage(0),
        FromStage(0),
        FromImage("img:1"),
    ]


def test_heredoc_sources_are_expanded_unless_quoted() -> None:
    text = "FROM scratch\nENV A=1\nCOPY <<x <<'y' /d/\n$A '$A'\nx\n$A\ny\n"
    op = planned(text).target.steps[-1].op
    assert isinstance(op, CopyOp)
    assert op.inline == (("x", b"1 '1'\n"), ("y", b"$A\n"))


def test_run_sees_env_and_args_and_history_shows_the_args() -> None:
    text = "FROM scratch\nENV E=1\nARG A=2\nARG UNSET\nRUN make\n"
    [op] = run_ops(text)
    assert op.env == (("PATH", DEFAULT_PATH), ("E", "1"), ("A", "2"))
    assert op.argv == ("/bin/sh", "-c", "make")
    assert history(text)[-1] == "RUN |2 A=2 UNSET= /bin/sh -c make # buildkit"


def test_proxies_reach_run_and_nothing_else() -> None:
    text = "FROM scratch\nRUN x\n"
    [op] = run_ops(text, build_args={"http_proxy": "http://p"})
    assert op.hidden_env == (("http_proxy", "http://p"),)
    assert history(text, build_args={"http_proxy": "http://p"}) == ["RUN /bin/sh -c x # buildkit"]


def test_run_with_one_heredoc_is_a_script() -> None:
    [plain, interpreter, piped] = run_ops(
        "FROM scratch\nRUN <<A\necho 1\nA\nRUN <<B\n#!/bin/awk -f\nBEGIN{}\nB\nRUN cat <<C\nx\nC\n"
    )
    assert plain.argv == ("/bin/sh", "-c", "echo 1\n")
    assert interpreter.argv == ("/dev/pipes/B",)
    assert interpreter.scripts == (("B", b"#!/bin/awk -f\nBEGIN{}\n"),)
    assert piped.argv == ("/bin/sh", "-c", "cat <<C\nx\nC")


def test_history_is_written_as_buildkit_writes_it() -> None:
    text = """FROM scratch
ENV A=1 B="x y"
LABEL l=1
ARG P=1
ARG Q
CMD ["a", "b c"]
ENTRYPOINT ["e"]
EXPOSE 80 53/udp
VOLUME /v /w
USER me
SHELL ["/bin/bash", "-c"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1m30s --retries=3 CMD x y
MAINTAINER somebody
COPY --chown=1:2 --chmod=755 a b /d/
COPY --exclude=x --parents --chmod=u+x a/./b /d/
ADD c /e
WORKDIR /w
"""
    assert history(text) == [
        "ENV A=1 B=x y",
        "LABEL l=1",
        "ARG P=1",
        "ARG Q",
        'CMD ["a" "b c"]',
        'ENTRYPOINT ["e"]',
        "EXPOSE [53/udp 80/tcp]",
        "VOLUME [/v /w]",
        "USER me",
        "SHELL [/bin/bash -c]",
        "STOPSIGNAL SIGTERM",
        "HEALTHCHECK {Test:[CMD-SHELL x y] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
        "MAINTAINER somebody",
        "COPY --chown=1:2 --chmod=755 a b /d/ # buildkit",
        "COPY --parents --chmod=u+x a/./b /d/ # buildkit",
        "ADD c /e # buildkit",
        "WORKDIR /w",
    ]


def test_flags_of_copy_are_expanded_and_chmod_undoes_link() -> None:
    text = "FROM scratch\nARG E=*.o M=u+x\nCOPY --link --exclude=$E --exclude=!keep.o a /\n"
    steps = planned(text + "COPY --link --chmod=$M a /\n").target.steps
    linked, changed = (step.op for step in steps if isinstance(step.op, CopyOp))
    assert (linked.excludes, linked.link) == (("*.o", "!keep.o"), True)
    assert (changed.chmod, changed.link) == ("u+x", False)


def test_onbuild_is_kept_and_runs_in_the_next_build() -> None:
    assert config("FROM scratch\nONBUILD RUN x\nONBUILD COPY . /src\n").OnBuild == ["RUN x", "COPY . /src"]
    bases = {"b": base(OnBuild=["ENV A=1", "RUN x"])}
    plan = planned("FROM b\nENV B=$A\n", bases)
    assert plan.target.config.OnBuild is None
    assert [step.created_by for step in plan.target.steps] == ["ENV A=1", "RUN /bin/sh -c x # buildkit", "ENV B=1"]


def test_onbuild_of_a_stage_runs_in_the_stage_built_from_it() -> None:
    plan = planned("FROM scratch AS a\nONBUILD ENV A=1\nFROM a\n")
    assert [step.created_by for step in plan.target.steps] == ["ENV A=1"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("FROM scratch\nRUN --mount=type=cache,target=/c,size=1 x\n", 2, "size"),
        ("FROM scratch\nRUN --security=insecure x\n", 2, "--security"),
        ("FROM scratch\nCOPY https://example.org/x /\n", 2, "can't be a URL"),
        ("FROM scratch\nCOPY --chmod=u+y a /\n", 2, "invalid chmod"),
        ("FROM scratch\nARG M=77777\nCOPY --chmod=$M a /\n", 3, "invalid chmod"),
        ("FROM scratch\nADD https:///x /\n", 2, "no host"),
        ("FROM scratch\nCOPY --from=$X a /\n", 2, "--from"),
        ("FROM scratch\nCOPY --from=later a /\nFROM scratch AS later\nFROM scratch\nCOPY --from=0 a /\n", 2, "later"),
        ("FROM scratch\nCOPY --from=0 a /\n", 2, "defined before"),
        ("FROM scratch\nEXPOSE nope\n", 2, "nope"),
        ("FROM scratch\nSTOPSIGNAL SIGNOPE\n", 2, "SIGNOPE"),
        ('FROM scratch\nENV A="${B:?is needed}"\n', 2, "is needed"),
        ("FROM ${NONE}\n", 1, "empty"),
        ("FROM --platform=linux/s390x/a/b scratch\n", 1, "invalid platform"),
        ("ARG P\nFROM --platform=$P scratch\n", 2, "empty platform"),
        ("FROM scratch\nRUN --network=host x\n", 2, "network"),
    ],
)
def test_errors_name_their_line(text: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        planned(text)
    assert caught.value.span is not None
    assert caught.value.span.start_line == line
    assert message in caught.value.message


def test_platforms_of_stages() -> None:
    text = (
        "ARG TARGETARCH\nFROM --platform=$BUILDPLATFORM scratch AS tools\nARG TARGETPLATFORM\nARG BUILDPLATFORM\n"
        "ARG TARGETVARIANT\nENV A=$TARGETPLATFORM,$BUILDPLATFORM,$TARGETVARIANT,$TARGETARCH\nRUN x\n"
        "FROM --platform=linux/s390x tools AS more\nFROM scratch\nCOPY --from=more /x /x\nRUN y\n"
    )
    plan = planned(text, platform="arm")
    assert [str(stage.platform) for stage in plan.stages] == ["linux/amd64", "linux/amd64", "linux/arm/v7"]
    assert plan.stages[0].config.Env == [f"PATH={DEFAULT_PATH}", "A=linux/arm/v7,linux/amd64,v7,"]
    runs = [step.op for stage in plan.stages for step in stage.steps if isinstance(step.op, RunOp)]
    assert [op.platform for op in runs] == ["linux/amd64", "linux/arm/v7"]
    [alone] = planned("FROM --platform=local scratch\n", platform="linux/arm64").stages
    assert alone.platform == LINUX


def test_an_image_must_be_for_the_platform_that_was_asked_for() -> None:
    image = ImageConfig(architecture="arm64", os="linux", variant="v8")
    bases = {"b": BaseImage(Digest("sha256:" + "0" * 64), image)}
    plan = planned("FROM b\nFROM scratch\nCOPY --from=0 /a /a\n", bases)
    assert [str(stage.platform) for stage in plan.stages] == ["linux/arm64", "linux/amd64"]
    # The build checks tell this one
    assert not plan.warnings
    newer = {"b": BaseImage(Digest("sha256:" + "0" * 64), ImageConfig(architecture="amd64", os="linux", variant="v3"))}
    assert [(warning.message, warning.line) for warning in planned("FROM b\n", newer).warnings] == [
        ("the base image is for linux/amd64/v3, expected linux/amd64: b", 1)
    ]
    assert not planned("FROM b\n", bases, platform="linux/arm64").warnings
    for text, request in (("FROM b\n", "linux/amd64"), ("FROM --platform=$BUILDPLATFORM b\n", "")):
        with pytest.raises(DockerfileError, match="is for linux/arm64, not for linux/amd64: b"):
            planned(text, bases, platform=request)


def test_a_plan_is_for_one_platform() -> None:
    with pytest.raises(UsageError, match="one platform at a time"):
        planned("FROM scratch\n", platform="linux/amd64,linux/arm64")


def dated(text: str, asked: list[object], bases: dict[str, BaseImage] | None = None, **request: object) -> Plan:
    """Plan where all that is fetched is of second 99; what was asked for is in `asked`."""

    def moment(source: object) -> int:
        asked.append(source)
        return 99

    plan = make(parse(text), BuildRequest(**request), bases or {}, LINUX, lambda: 77, moment)  # type: ignore[arg-type]
    assert isinstance(plan, Plan), plan
    return plan


def test_source_date_epoch_of_a_named_context() -> None:
    named = {"Src": "https://h/a.git", "here": "/somewhere"}
    use = "FROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x\n"
    asked: list[object] = []
    given = {"SOURCE_DATE_EPOCH": "src"}
    for plan in (
        dated("ARG SOURCE_DATE_EPOCH=src\n" + use, asked, build_contexts=named),
        dated("ARG SOURCE_DATE_EPOCH=5\n" + use, asked, build_contexts=named, build_args=given),
        dated(use, asked, build_contexts=named, build_args=given),
        # A context goes before a stage
        dated("FROM alpine AS src\n" + use, asked, build_contexts=named, build_args=given),
    ):
        assert plan.source_date_epoch == 99
        run = plan.target.steps[-1].op
        assert isinstance(run, RunOp)
        assert ("SOURCE_DATE_EPOCH", "99") in run.env
    assert asked == ["https://h/a.git"] * 4
    asked.clear()
    plan = dated(use, asked, build_contexts=named, build_args={"SOURCE_DATE_EPOCH": "here"}, rewrite_timestamp=True)
    assert (plan.source_date_epoch, asked) == (None, [])
    assert "no effect without" in plan.warnings[0].message


@pytest.mark.parametrize("value", ["docker-image://img", "oci-layout:///l"])
def test_source_date_epoch_of_an_image(value: str) -> None:
    text = "ARG A\nARG SOURCE_DATE_EPOCH=i\nFROM scratch\n"
    request = BuildRequest(build_contexts={"i": value})
    need = make(parse(text), request, {}, LINUX)
    assert isinstance(need, NeedBases)
    [(key, needed)] = need.images.items()
    assert (needed.line, needed.reference) == (2, value.removeprefix("docker-image://"))
    for created, seconds in (
        ("2001-09-09T01:46:40.123456789Z", 1_000_000_000),
        ("", None),
        ("0001-01-01T00:00:00Z", None),
    ):
        image = BaseImage(Digest("sha256:" + "0" * 64), ImageConfig(architecture="amd64", os="linux", created=created))
        plan = make(parse(text), request, {key: image}, LINUX)
        assert isinstance(plan, Plan)
        assert plan.source_date_epoch == seconds


def test_source_date_epoch_of_a_stage() -> None:
    asked: list[object] = []
    text = """\
ARG SOURCE_DATE_EPOCH=SRC
ARG HOST=wrong
FROM scratch AS src
ARG HOST=h NAME=${SOURCE_DATE_EPOCH:-f}
ADD https://$HOST/$NAME /
FROM scratch
ARG SOURCE_DATE_EPOCH
COPY --from=src / /
RUN x
"""
    plan = dated(text, asked)
    assert plan.source_date_epoch == 99
    assert asked == [RemoteFile("https://h/f", "f")]
    run = plan.target.steps[-1].op
    assert isinstance(run, RunOp)
    assert ("SOURCE_DATE_EPOCH", "99") in run.env
    asked.clear()
    # The stage counts although nothing else needs it, wherever it stands
    late = "FROM scratch AS main\nFROM scratch AS src\nADD https://h/a.git#v1 /\n"
    assert dated(late, asked, target="main", build_args={"SOURCE_DATE_EPOCH": "src"}).source_date_epoch == 99
    assert isinstance(asked[0], RemoteTree)
    assert asked[0].ref == "v1"


def test_what_cannot_be_fetched_for_source_date_epoch_is_told_at_its_line() -> None:
    def moment(source: object) -> int:
        raise UsageError("gone", "look")

    text = "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD https://h/f /\nFROM scratch\n"
    with pytest.raises(DockerfileError) as caught:
        make(parse(text), BuildRequest(), {}, LINUX, lambda: 0, moment)
    assert caught.value.span is not None
    assert (caught.value.span.start_line, caught.value.message, caught.value.hint) == (3, "gone", "look")


@pytest.mark.parametrize(
    ("stage", "line", "message"),
    [
        ("FROM alpine AS s\nADD https://h/f /\n", 2, "must be FROM scratch"),
        ("FROM scratch AS s\nADD https://h/f /\nENV A=1\n", 4, "nothing but one ADD"),
        ("FROM scratch AS s\nADD https://h/f /\nADD https://h/g /\n", 4, "ADD one URL"),
        ("FROM scratch AS s\nADD https://h/f https://h/g /\n", 3, "ADD one URL"),
        ("FROM scratch AS s\nADD file https://h/g /\n", 3, "ADD one URL"),
        ("FROM scratch AS s\n", 2, "ADD one URL"),
    ],
)
def test_source_date_epoch_of_a_stage_that_has_none(stage: str, line: int, message: str) -> None:
    asked: list[object] = []
    with pytest.raises(DockerfileError, match=message) as caught:
        dated(f"ARG SOURCE_DATE_EPOCH=s\n{stage}FROM scratch\n", asked)
    assert caught.value.span is not None
    assert (caught.value.span.start_line, asked) == (line, [])


def test_source_date_epoch_must_be_a_number() -> None:
    assert planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "5"}).source_date_epoch == 5
    assert planned("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n").source_date_epoch == 7
    assert (
        planned("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "0"}).source_date_epoch == 0
    )
    assert planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "context"}).source_date_epoch is None
    for text, args in (
        ("FROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x\n", {"SOURCE_DATE_EPOCH": "context"}),
        ("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x\n", {}),
    ):
        plan = make(parse(text), BuildRequest(build_args=args), {}, LINUX, lambda: 77)
        assert isinstance(plan, Plan)
        assert plan.source_date_epoch == 77
        run = plan.target.steps[-1].op
        assert isinstance(run, RunOp)
        assert ("SOURCE_DATE_EPOCH", "77") in run.env
    with pytest.raises(UsageError):
        planned("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": "x"})
    with pytest.raises(UsageError) as unknown:
        planned("FROM scratch AS Two\n", build_args={"SOURCE_DATE_EPOCH": "x"}, build_contexts={"one": "/d"})
    assert unknown.value.hint.endswith("contexts and stages: one, two")
    with pytest.raises(DockerfileError) as caught:
        planned("ARG A=-1\nARG SOURCE_DATE_EPOCH=$A\nFROM scratch\n")
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2
    [warning] = planned("FROM scratch\n", rewrite_timestamp=True).warnings
    assert "no effect without" in warning.message
