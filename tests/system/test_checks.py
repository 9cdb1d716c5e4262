"""Build checks through the program: alone, and with a build."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from support.program import Pybuild

BAD = "FROM scratch AS Up\nCOPY a /\nLABEL k=$nope\n"


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad")
    (directory / "Dockerfile").write_text(BAD)
    (directory / "a").write_text("a")
    return directory


def rules(pybuild: Pybuild, *args: str | Path, status: int, stdin: bytes | None = None) -> list[tuple[int, str]]:
    """Return line and rule of what a check tells as JSON."""
    told = json.loads(pybuild("build", "--check", "--format=json", *args, status=status, stdin=stdin).text)
    return [(warning["location"]["ranges"][0]["start"]["line"], warning["ruleName"]) for warning in told["warnings"]]


def test_check_tells_places_and_builds_nothing(pybuild: Pybuild, bad: Path) -> None:
    result = pybuild("build", "--check", bad, status=1)
    assert "Dockerfile:1:17: warning: Stage name 'Up' should be lowercase [StageNameCasing]\n" in result.text
    assert "  LABEL k=$nope\n          ^^^^^\n" in result.text
    assert result.text.endswith("2 warnings found\n")
    assert result.err == ""
    assert rules(pybuild, bad, status=1) == [(1, "StageNameCasing"), (3, "UndefinedVar")]
    assert pybuild("images", "-a", "-q").text == ""
    assert json.loads(pybuild("df", "--format=json").text.splitlines()[1])["TotalCount"] == "0"


def test_clean_file_ends_well(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM never/pulled:1\nRUN exit 1\n")
    assert inline_base("build", "--call=check", context).text == "no warnings found\n"


def test_what_a_build_would_fail_with_is_told_with_its_line(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base AS x\nCOPY --from=later x /\nFROM base AS later\n")
    inline_base("build", "--check", context)
    result = inline_base("build", "--check", "--target=x", context, status=1)
    assert "Dockerfile:2:1: stage needs to be defined before its use: later\n" in result.text
    (context / "Dockerfile").write_text("FROM base\nRUM x\n")
    result = inline_base("build", "--check", context, status=1)
    assert "Dockerfile:2:1: unknown instruction: RUM (did you mean RUN?)\n  RUM x\n  ^^^\n" in result.text


def test_dockerfile_that_is_not_there(inline_base: Pybuild, context: Path) -> None:
    result = inline_base("build", "--check", context, status=1)
    assert result.err.startswith("error: cannot find the Dockerfile: ")
    assert result.text == ""


def test_target_narrows_what_is_looked_into(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base AS a\nLABEL a=$x\nFROM base AS b\nLABEL a=$y\nFROM a\nLABEL a=$z\n")
    assert rules(inline_base, context, status=1) == [(2, "UndefinedVar"), (4, "UndefinedVar"), (6, "UndefinedVar")]
    assert rules(inline_base, "--target=b", context, status=1) == [(4, "UndefinedVar")]
    # A build tells of the stages it needs
    result = inline_base.build(context)
    assert [event["line"] for event in result.events if event.get("rule")] == [2, 6]


def test_image_under_the_name_of_a_context(inline_base: Pybuild, context: Path) -> None:
    inline_base.build(context, "-t", "has:env", dockerfile="FROM scratch\nENV known=1\n")
    (context / "Dockerfile").write_text("FROM upstream\nLABEL a=$known\n")
    assert rules(inline_base, context, status=1) == [(2, "UndefinedVar")]
    assert rules(inline_base, "--build-context=upstream=docker-image://has:env", context, status=0) == []


def test_context_from_standard_input(pybuild: Pybuild) -> None:
    assert rules(pybuild, "-", status=1, stdin=b"FROM scratch\nCMD x\n") == [(2, "JSONArgsRecommended")]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("Dockerfile", "FROM scratch\nCOPY left /\n"), (".dockerignore", "left\n")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    assert rules(pybuild, "-", status=1, stdin=packed.getvalue()) == [(2, "CopyIgnoredFile")]


def test_paths_for_other_programs_are_those_from_here(inline_base: Pybuild, bad: Path) -> None:
    result = inline_base("build", "--check", "--format=github", bad.name, cwd=bad.parent, status=1)
    assert result.text.startswith(f"::warning file={bad.name}/Dockerfile,line=1,")


def test_build_tells_findings_once_and_briefly(pybuild: Pybuild, bad: Path) -> None:
    for _ in range(2):
        result = pybuild("build", "--progress=plain", bad)
        told = result.err[result.err.index("2 warnings found") :]
        assert " - StageNameCasing: Stage name 'Up' should be lowercase (line 1)\n" in told
        assert " - UndefinedVar: Usage of undefined variable '$nope' (line 3)\nbuilt sha256:" in told
        assert result.err.count("StageNameCasing") == 1
    notices = [event for event in pybuild.build(bad).events if event.get("rule")]
    assert [(event["level"], event["line"], event["rule"]) for event in notices] == [
        ("warning", 1, "StageNameCasing"),
        ("warning", 3, "UndefinedVar"),
    ]
    assert "StageNameCasing" not in pybuild("build", "-q", bad).err


def test_findings_as_errors_fail_a_build_before_it_begins(pybuild: Pybuild, bad: Path) -> None:
    error = ("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true")
    result = pybuild("build", "--progress=plain", *error, bad, status=1)
    assert "Dockerfile: lint violation found for rules: StageNameCasing, UndefinedVar\n" in result.err
    assert "hint: `--build-arg BUILDKIT_DOCKERFILE_CHECK` asks for this" in result.err
    assert " - UndefinedVar: " in result.err
    assert "#1 " not in result.err
    assert "and an error" in pybuild("build", "--check", *error, bad, status=1).text
    skipped = ("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=StageNameCasing,UndefinedVar;error=true")
    pybuild("build", *skipped, bad)
    assert pybuild("build", "--check", *skipped, bad).text == "no warnings found\n"
    wrong = ("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=nonsense")
    assert "invalid build argument BUILDKIT_DOCKERFILE_CHECK" in pybuild("build", *wrong, bad, status=2).err
    pybuild("build", "--check", *wrong, bad, status=2)
