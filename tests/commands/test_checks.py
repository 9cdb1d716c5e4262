"""What `build --check` writes, format by format."""

import base64
import json
from typing import Any

import pytest

from pybuild.api.events import Checked, Failure, Finding
from pybuild.checks.rules import RULES
from pybuild.commands.checks import form_of, report
from pybuild.errors import UsageError

SOURCE = "FROM scratch AS Up\nENV a=1 \\\n\tb=$c\nCMD x\n"
FINDINGS = (
    Finding("StageNameCasing", "Stage name 'Up' should be lowercase", 1, 1, 1, 17, 2),
    Finding("UndefinedVar", "Usage of undefined variable '$c'", 2, 3, 3, 4, 2),
    Finding("InvalidBaseImagePlatform", "50%: a,b\n::error::c", 4, 4, 4, 0, 0),
)
CHECKED = Checked("my dir/Dockerfile", SOURCE, FINDINGS, as_errors=False, time=1.0)
FAILURE = Failure(
    "DockerfileError", "it cannot be", "mend it", file="Dockerfile", line=4, column=1, length=3, source="CMD x"
)


def test_text_has_places_source_and_carets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert report(CHECKED._replace(failure=FAILURE), "text").split("\n") == [
        "my dir/Dockerfile:1:17: warning: Stage name 'Up' should be lowercase [StageNameCasing]",
        "  FROM scratch AS Up",
        "                  ^^",
        "see https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "",
        "my dir/Dockerfile:2: warning: Usage of undefined variable '$c' [UndefinedVar]",
        "  ENV a=1 \\",
        "  \tb=$c",
        "  \t  ^^",
        "see https://docs.docker.com/go/dockerfile/rule/undefined-var/",
        "",
        "my dir/Dockerfile:4: warning: 50%: a,b\\n::error::c [InvalidBaseImagePlatform]",
        "  CMD x",
        "",
        "Dockerfile:4:1: it cannot be",
        "  CMD x",
        "  ^^^",
        "hint: mend it",
        "",
        "3 warnings found, and an error",
    ]
    assert report(CHECKED._replace(findings=()), "text") == "no warnings found"
    assert report(CHECKED._replace(findings=FINDINGS[:1]), "text").endswith("\n1 warning found")


def test_json_is_that_of_docker() -> None:
    told = json.loads(report(CHECKED._replace(failure=FAILURE), "json"))
    first, second, third = told["warnings"]
    assert first["ruleName"] == "StageNameCasing"
    assert first["detail"] == "Stage name 'Up' should be lowercase"
    assert first["url"] == RULES["StageNameCasing"].url
    assert second["location"] == {"ranges": [{"start": {"line": 2}, "end": {"line": 3}}]}
    assert "url" not in third
    assert base64.b64decode(told["sources"][0]["data"]).decode() == SOURCE
    assert told["buildError"]["message"] == "it cannot be (mend it)"
    assert "buildError" not in json.loads(report(CHECKED, "json"))


@pytest.mark.parametrize("failure", [None, FAILURE, FAILURE._replace(line=0)])
@pytest.mark.parametrize("as_errors", [False, True])
def test_sarif_has_the_structure_of_2_1_0(failure: Failure | None, as_errors: bool) -> None:
    log = json.loads(report(CHECKED._replace(failure=failure, as_errors=as_errors), "sarif"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert isinstance(driver["name"], str)
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    assert len(run["results"]) == 3 + (failure is not None)
    for result in run["results"]:
        assert result["ruleId"] == identifiers[result["ruleIndex"]]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"] == {"uri": "my%20dir/Dockerfile"}
        check_region(location["physicalLocation"].get("region"))
    levels = [result["level"] for result in run["results"]]
    assert levels[:3] == ["error" if as_errors else "warning"] * 3
    assert levels[3:] == ["error"] * (failure is not None)


def check_region(region: dict[str, Any] | None) -> None:
    """All numbers count from 1, and `endColumn` is behind the last character (SARIF 3.30)."""
    if region is None:
        return
    assert set(region) <= {"startLine", "endLine", "startColumn", "endColumn"}
    assert region["startLine"] >= 1
    assert region.get("endLine", region["startLine"]) >= region["startLine"]
    if "startColumn" in region:
        assert 1 <= region["startColumn"] < region["endColumn"]


def test_sarif_points_at_the_part_that_is_meant() -> None:
    results = json.loads(report(CHECKED, "sarif"))["runs"][0]["results"]
    regions = [result["locations"][0]["physicalLocation"]["region"] for result in results]
    assert regions == [
        {"startLine": 1, "startColumn": 17, "endColumn": 19},
        {"startLine": 3, "startColumn": 4, "endColumn": 6},
        {"startLine": 4, "endLine": 4},
    ]


def test_github_commands_cannot_be_broken_out_of() -> None:
    lines = report(CHECKED._replace(file="a,b:c", failure=FAILURE), "github").split("\n")
    assert lines == [
        "::warning file=a%2Cb%3Ac,line=1,endLine=1,col=17,endColumn=19,title=StageNameCasing"
        "::Stage name 'Up' should be lowercase",
        "::warning file=a%2Cb%3Ac,line=2,endLine=3,title=UndefinedVar::Usage of undefined variable '$c'",
        "::warning file=a%2Cb%3Ac,line=4,endLine=4,title=InvalidBaseImagePlatform::50%25: a,b%0A::error::c",
        "::error file=a%2Cb%3Ac,line=4,col=1::it cannot be",
    ]
    assert report(CHECKED._replace(as_errors=True), "github").count("::error file=") == 3


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ((False, "", ""), ""),
        ((True, "", ""), "text"),
        ((True, "", "json"), "json"),
        ((False, "check", ""), "text"),
        ((False, "check,format=sarif", ""), "sarif"),
        ((True, "lint", "github"), "github"),
        ((False, "build", ""), ""),
    ],
)
def test_words_for_a_check(given: tuple[bool, str, str], form: str) -> None:
    assert form_of(*given) == form


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((False, "outline", ""), "unknown method for --call: outline"),
        ((True, "build", ""), "exclude each other"),
        ((False, "", "json"), "--format is for --check"),
        ((True, "", "yaml"), "unknown format for --check: yaml"),
        ((False, "check,form=json", ""), "--call is METHOD"),
    ],
)
def test_wrong_words_for_a_check(given: tuple[bool, str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        form_of(*given)
