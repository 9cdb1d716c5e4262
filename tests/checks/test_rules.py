"""Each rule by itself, directives, and where a finding points."""

import random
import time

import pytest

from pybuild.checks.near import nearest
from pybuild.checks.report import MAX_FINDINGS
from pybuild.checks.rules import RULES
from pybuild.dockerfile.errors import DockerfileError
from pybuild.errors import UsageError
from pybuild.oci.image import ImageConfig, RunConfig
from pybuild.oci.platform import Platform

from .looking import look, told

BAD = {
    "StageNameCasing": "FROM scratch AS Upper\n",
    "FromAsCasing": "FROM scratch as lower\n",
    "NoEmptyContinuation": "FROM scratch\nLABEL a=b \\\n\n  c=d\n",
    "ConsistentInstructionCasing": "FROM scratch\nlabel a=b\n",
    "DuplicateStageName": "FROM scratch AS twice\nFROM scratch AS twice\n",
    "ReservedStageName": "FROM scratch AS context\n",
    "JSONArgsRecommended": "FROM scratch\nCMD run\n",
    "MaintainerDeprecated": "FROM scratch\nMAINTAINER me\n",
    "UndefinedArgInFrom": "FROM x${suffix}\n",
    "WorkdirRelativePath": "FROM scratch\nWORKDIR here\n",
    "UndefinedVar": "FROM scratch\nUSER $who\n",
    "MultipleInstructionsDisallowed": 'FROM scratch\nCMD ["a"]\nCMD ["b"]\n',
    "LegacyKeyValueFormat": "FROM scratch\nENV a b\n",
    "RedundantTargetPlatform": "FROM --platform=$TARGETPLATFORM scratch\n",
    "SecretsUsedInArgOrEnv": "FROM scratch\nARG api_token\n",
    "InvalidDefaultArgInFrom": "ARG name\nFROM $name\n",
    "FromPlatformFlagConstDisallowed": "FROM --platform=linux/amd64 scratch\n",
    "ExposeProtoCasing": "FROM scratch\nEXPOSE 53/UDP\n",
    "ExposeInvalidFormat": "FROM scratch\nEXPOSE 8080:80\n",
}
"""What needs neither an ignore file nor a base image."""


@pytest.mark.parametrize("rule", BAD)
def test_rule_alone_speaks_and_can_be_silenced(rule: str) -> None:
    text = BAD[rule]
    assert {name for _, name in told(text)} == {rule}
    assert told(f"# check=skip={rule}\n{text}") == []
    assert told(f"# check=skip=all\n{text}") == []
    assert told(text, {"BUILDKIT_DOCKERFILE_CHECK": f"skip=Other,{rule}"}) == []
    assert {name for _, name in told(f"# check=skip={rule.lower()}\n{text}")} == {rule}


def test_every_rule_is_tried_here() -> None:
    assert set(RULES) - set(BAD) == {"InvalidBaseImagePlatform", "CopyIgnoredFile", "InvalidDefinitionDescription"}


def test_build_argument_stands_in_for_the_directive() -> None:
    text = "# check=skip=MaintainerDeprecated\nFROM scratch\nMAINTAINER me\nCMD run\n"
    assert told(text) == [(4, "JSONArgsRecommended")]
    assert told(text, {"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended"}) == [(3, "MaintainerDeprecated")]
    with pytest.raises(UsageError, match="BUILDKIT_DOCKERFILE_CHECK: invalid check option: skp"):
        look(text, {"BUILDKIT_DOCKERFILE_CHECK": "skp=all"})


def test_comment_above_an_instruction_silences_it_there_alone() -> None:
    text = "FROM scratch AS a\n# check=skip=JSONArgsRecommended\nCMD run\nFROM scratch\nCMD run\n"
    assert told(text) == [(5, "JSONArgsRecommended")]
    assert told(text.replace("skip=J", "skp=J")) == [(3, "JSONArgsRecommended"), (5, "JSONArgsRecommended")]


def test_experimental_rule_speaks_when_asked_only() -> None:
    text = "FROM scratch\n# what it is\nARG port\n"
    assert told(text) == []
    assert told(text, {"BUILDKIT_DOCKERFILE_CHECK": "experimental=InvalidDefinitionDescription"}) == [
        (3, "InvalidDefinitionDescription")
    ]
    # Asked for, it does not listen to skip, as in BuildKit
    assert told(text, {"BUILDKIT_DOCKERFILE_CHECK": "skip=all;experimental=all"}) != []
    assert told("FROM scratch\n# port to serve\nARG port\n", {"BUILDKIT_DOCKERFILE_CHECK": "experimental=all"}) == []


def test_base_image_defines_variables_shell_and_triggers() -> None:
    text = "FROM base\nUSER $who\nCMD run $here\nWORKDIR $place\n"
    config = RunConfig(Env=["who=me"], Shell=["/bin/bash", "-c"], OnBuild=["ARG place=/srv", "CMD $x"])
    base = ImageConfig("amd64", "linux", config=config)
    assert told(text, bases={"base": base}) == [(1, "MultipleInstructionsDisallowed")]
    assert told(text) == [(2, "UndefinedVar"), (3, "JSONArgsRecommended"), (4, "UndefinedVar")]


def test_base_image_for_another_platform() -> None:
    found = look("FROM base\n", bases={"base": ImageConfig("arm64", "linux")})
    assert [finding.message for finding in found] == [
        'Base image base was pulled with platform "linux/arm64", expected "linux/amd64" for current build'
    ]
    asked = "ARG P=linux/arm64\nFROM --platform=$P base\n"
    assert look(asked, bases={"base": ImageConfig("arm64", "linux")}) == []


def test_platform_that_is_built_for_is_not_that_of_the_machine() -> None:
    text = "FROM --platform=$BUILDPLATFORM base AS tools\nFROM base\n"
    found = look(text, bases={"base": ImageConfig("amd64", "linux")}, platform=Platform("linux", "arm64"))
    assert [(finding.line, finding.rule) for finding in found] == [(2, "InvalidBaseImagePlatform")]


def test_a_stage_hands_its_state_down() -> None:
    text = (
        "FROM scratch AS a\nARG given=1\nENV e=2\nWORKDIR /x\nONBUILD ARG later=3\nFROM a\nWORKDIR $given/$e/$later\n"
    )
    assert told(text) == []


def test_stages_that_are_not_looked_into_hand_their_state_down_silently() -> None:
    text = "FROM scratch AS a\nENV e=1\nUSER $x\nFROM scratch AS b\nUSER $y\nFROM a\nUSER $e$z\n"
    assert told(text, only={2}) == [(7, "UndefinedVar")]


@pytest.mark.parametrize(
    ("text", "undefined"),
    [
        ("ENV a=$b b=1 c=$b", ["b"]),
        ("ARG a=1 b=$a c=$d", ["d"]),
        ("ARG a\nENV b=$a", []),
        ("LABEL \"$k\"='$v' x=\\$y", ["k"]),
        ("COPY --chown=$u <<E <<'F' /$d\n$body\nE\n$literal\nF\n", ["body", "d", "u"]),
        ("ENV a=${b:-c} d=${PATH}", ["b"]),
        ("RUN --mount=type=cache,target=/$c echo $shell", ["c"]),
        ('CMD ["$x"]\nENTRYPOINT ["$y"]\nHEALTHCHECK CMD ["$z"]\nONBUILD USER $later', []),
        ("VOLUME $v\nSTOPSIGNAL $s", ["v", "s"]),
        ("ENV a=${b", []),
    ],
)
def test_undefined_variables(text: str, undefined: list[str]) -> None:
    found = [finding for finding in look("FROM scratch\n" + text) if finding.rule == "UndefinedVar"]
    said = [finding.message.split("$")[1].split("'")[0] for finding in found]
    assert said == undefined


def test_build_argument_defines_what_it_is_declared_for() -> None:
    assert told("FROM scratch\nARG a\nENV b=${a}c\n", {"a": "1"}) == []
    assert told("FROM scratch\nENV b=$a\n", {"a": "1"}) == [(2, "UndefinedVar")]
    # One without a value leaves the default
    assert told("FROM scratch\nARG p=/x\nWORKDIR $p/y\n", {"p": None}) == []


@pytest.mark.parametrize(
    ("source", "ignore", "found"),
    [
        ("secret", "secret", True),
        ("./dir/../secret", "secret", True),
        ("/secret", "secret", True),
        ("dir/a", "dir", True),
        ("dir/a", "dir\n!dir/b", False),
        (".", "*", True),
        ("/", "**/*", True),
        (".", "dir", False),
        ("other", "secret", False),
    ],
)
def test_ignored_sources(source: str, ignore: str, found: bool) -> None:
    expected = [(2, "CopyIgnoredFile")] if found else []
    assert told(f"FROM scratch\nCOPY {source} /x/\n", ignore=ignore) == expected
    assert told(f"FROM scratch\nCOPY --from=image {source} /x/\n", ignore=ignore) == []
    assert told("FROM scratch\nADD https://example.org/secret /x/\n", ignore="*\n") == []


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("FROM scratch\nENV a=1 \\\n  b=$nope\n", (3, "$nope")),
        ("FROM scratch\nENV a=${nope:-x}\n", (2, "${nope")),
        ("FROM a as a\n", (1, "as")),
        ("FROM scratch AS SCRATCH\n", (1, "SCRATCH")),
        ("FROM scratch\n  CMD run  it\r\n", (2, "run  it")),
        ("FROM scratch\n\tENV a val\n", (2, "ENV a val")),
    ],
)
def test_finding_points_at_the_part_that_is_meant(text: str, marked: tuple[int, str]) -> None:
    finding = look(text)[-1]
    line = text.split("\n")[finding.mark_line - 1]
    assert (finding.mark_line, line[finding.column - 1 :][: finding.length]) == marked


def test_name_of_a_stage_is_found_behind_that_of_its_base() -> None:
    (finding,) = look("FROM scratch AS x\nFROM x AS x\n")
    assert (finding.rule, finding.mark_line, finding.column) == ("DuplicateStageName", 2, 11)


def test_a_file_full_of_mistakes_takes_little_time() -> None:
    known = "ENV " + " ".join(f"v{number}=1" for number in range(5000))
    lines = ["LABEL " + " ".join(f"l=$u{number}x{line}" for number in range(1000)) for line in range(20)]
    began = time.process_time()
    assert len(look("\n".join(["FROM scratch", known, *lines]))) == MAX_FINDINGS
    assert time.process_time() - began < 10


def test_whatever_it_is_checks_do_not_fail() -> None:
    rng = random.Random(1)
    parts = [
        *BAD.values(),
        "ONBUILD ",
        "${",
        "${x:-$y}",
        "'",
        "<<E\n$z\nE\n",
        "\\\n",
        "# check=skip=A\n",
        "COPY a b\n",
        " ",
        "\n",
    ]
    checked = 0
    for _ in range(600):
        try:
            look("".join(rng.choices(parts, k=rng.randint(1, 12))), ignore="*\n")
        except DockerfileError:
            # The parser's to refuse
            continue
        checked += 1
    assert checked > 30


def test_slips_are_recognised_by_their_distance() -> None:
    assert nearest("BULIDPLATFORM", ["TARGETPLATFORM", "BUILDPLATFORM"]) == "BUILDPLATFORM"
    assert nearest("abc", ["abcxx", "abx", "abcy"]) == "abx"
    assert nearest("abc", ["xyz", "abcdef"]) == ""
