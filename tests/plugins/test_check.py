"""`pybuild check`: rules of style on parsed files, and the command as a whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.plugin import parse_dockerfile
from pybuild_check.rules import STYLES
from pybuild_check.shell import commands
from pybuild_check.style import look
from support.here import Here
from support.program import Pybuild

APT = "apt-get install -y --no-install-recommends"


def told(text: str, *, strict: bool = False) -> list[str]:
    return [finding.rule for finding in look(parse_dockerfile(text), strict=strict)]


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("RUN sudo make", ["Sudo"]),
        ("RUN a && sudo -E make", ["Sudo"]),
        ("RUN echo 'no sudo here'", []),
        ("RUN cd /src && make", ["CdInsteadOfWorkdir"]),
        ("RUN make && cd /src", []),
        ("RUN (cd sub && make)", []),
        (f"RUN apt-get update && {APT} curl && rm -rf /var/lib/apt/lists/*", []),
        (f"RUN apt-get update && {APT} curl", ["AptLists"]),
        (f"RUN --mount=type=cache,target=/var/lib/apt/lists apt-get update && {APT} curl", []),
        ("RUN apt-get update", ["AptUpdateAlone"]),
        ("RUN apt-get update && apt-get -y upgrade", []),
        ("RUN apt-get install --no-install-recommends x", ["AptWithoutYes"]),
        ("RUN apt-get install -qy --no-install-recommends x", []),
        ("RUN DEBIAN_FRONTEND=noninteractive apt-get install -y x", ["AptRecommends"]),
        ("RUN apt-get -o APT::Install-Recommends=false install -y x", []),
        (f"RUN {APT.replace('apt-get', 'apt')} x", ["AptForPeople"]),
        ("RUN apk add curl", ["ApkCache"]),
        ("RUN apk add --no-cache curl", []),
        ("RUN --mount=type=cache,target=/var/cache/apk apk add curl", []),
        ("RUN dnf install x && dnf clean all", ["DnfWithoutYes"]),
        ("RUN dnf install -y x", ["DnfCache"]),
        ("RUN yum -y install x && yum clean all", []),
        ("RUN pip install flask", ["PipCache"]),
        ("RUN python3 -m pip install flask", ["PipCache"]),
        ("RUN pip3 install --no-cache-dir flask", []),
        ("RUN --mount=type=cache,target=/root/.cache/pip pip install flask", []),
        ("RUN curl -s x | tar x", ["PipeHidesFailure"]),
        ("RUN set -o pipefail && curl -s x | tar x", []),
        ('SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN curl -s x | tar x', []),
        ("RUN curl x || true", []),
        ("RUN set -o pipefail; curl x | sh", ["DownloadToShell"]),
        ("RUN service nginx start", ["NoInit"]),
        ('RUN ["service", "nginx", "start"]', ["NoInit"]),
        ("RUN echo service", []),
        ("RUN useradd -u 1000000 app", ["UserWithHugeLog"]),
        ("RUN useradd -l -u 1000000 app", []),
        ("RUN useradd -u 1000 app", []),
        ("ADD a /a", ["AddInsteadOfCopy"]),
        ("ADD a.tar.gz /a", []),
        ("ADD https://host/a /a", []),
        ("ADD $WHAT /a", []),
        ("COPY a b", ["RelativeDestination"]),
        ("WORKDIR /x\nCOPY a b", []),
        ("COPY a $DEST", []),
        ("COPY a /app\nRUN chown -R x /app", ["OwnerInStepOfItsOwn"]),
        ("COPY a /app\nRUN chown -R x /other", []),
        ("USER root", ["LastUserRoot"]),
        ("USER 0:0", ["LastUserRoot"]),
        ("USER root\nRUN a\nUSER app", []),
        ("RUN <<end\napt-get update\ncd /x\nend", ["AptUpdateAlone"]),
        ("RUN echo 'a", []),
    ],
)
def test_rules_about_instructions(line: str, rules: list[str]) -> None:
    assert told(f"FROM scratch\n{line}\n") == rules


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("FROM debian", ["BaseWithoutVersion"]),
        ("FROM debian:latest", ["BaseWithoutVersion"]),
        ("FROM host:5000/debian", ["BaseWithoutVersion"]),
        ("FROM debian:12", []),
        (f"FROM debian@sha256:{'a' * 64}", []),
        ("ARG BASE\nFROM $BASE", []),
        ("FROM debian:12 AS Base\nFROM base", []),
        ("FROM debian:12 AS one\nUSER root\nFROM one\nUSER app", []),
        ("FROM debian:12 AS one\nWORKDIR /x\nFROM one\nCOPY a b", []),
    ],
)
def test_rules_about_stages(text: str, rules: list[str]) -> None:
    assert told(text) == rules


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        (f"RUN {APT} a=1 b", ["PackageWithoutVersion"]),
        (f"RUN {APT} a=1 $B", []),
        ("RUN pip install --no-cache-dir a==1 b", ["PackageWithoutVersion"]),
        ("RUN pip install --no-cache-dir -r requirements.txt", []),
        ("RUN pip install --no-cache-dir .", []),
        ("RUN npm install -g a@1 b", ["PackageWithoutVersion"]),
        ("RUN npm install -g @scope/a", ["PackageWithoutVersion"]),
        ("RUN apk add --no-cache a=1", []),
        ("RUN a\nRUN b", ["StepsInARow"]),
        ("RUN a\nCOPY x /\nRUN b", []),
    ],
)
def test_rules_that_are_strict_speak_when_asked(line: str, rules: list[str]) -> None:
    assert told(f"FROM scratch\n{line}\n", strict=True) == rules
    assert told(f"FROM scratch\n{line}\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "# check=skip=Sudo\nFROM scratch\nRUN sudo a",
        "# check=skip=all\nFROM scratch\nRUN sudo a",
        "FROM scratch\n# check=skip=PipCache,Sudo\nRUN sudo a",
        "FROM scratch\n# hadolint ignore=DL3001,DL3004\nRUN sudo a",
        "# hadolint global ignore=DL3004\nFROM scratch\nRUN sudo a",
    ],
)
def test_comments_silence_rules(text: str) -> None:
    assert told(text) == []
    assert told(text.replace("Sudo", "Other").replace("3004", "3999").replace("skip=all", "skip=x")) == ["Sudo"]


def test_a_place_is_that_of_the_word_in_its_line() -> None:
    [finding] = look(parse_dockerfile("FROM scratch\n\nRUN a && \\\n    sudo-less && sudo b\n"))
    assert (finding.line, finding.end_line, finding.mark_line, finding.column, finding.length) == (3, 4, 4, 18, 4)


def test_commands_of_a_script() -> None:
    script = (
        "set -e; A=1 B='x y' run \"a b\" > out 2>&1 # no; comment\nif test -f /x; then (cd y && /bin/ls | wc -l); fi"
    )
    assert [called.words for called in commands(script)] == [
        ("set", "-e"),
        ("run", "a b", "out", "2", "1"),
        ("test", "-f", "/x"),
        ("cd", "y"),
        ("/bin/ls",),
        ("wc", "-l"),
        ("fi",),
    ]
    assert [called.behind for called in commands("a | b && c")] == ["|", "&&", "\n"]


@given(st.text(max_size=60))
def test_no_script_makes_it_fail(script: str) -> None:
    for called in commands(script):
        assert called.words


def test_the_command_tells_checks_style_and_what_a_build_fails_with(pybuild: Pybuild, context: Path) -> None:
    file = context / "Dockerfile"
    file.write_text("FROM scratch AS Up\nRUN sudo a\nCOPY --from=nope$ /a /b\nCOPY a /a\nCMD x\n")
    (context / ".dockerignore").write_text("a\n")
    ended = pybuild("check", "--format", "json", cwd=context, status=1)
    assert [(one["code"], one["line"]) for one in json.loads(ended.text)["findings"]] == [
        ("StageNameCasing", 1),
        ("Sudo", 2),
        ("BuildError", 3),
        ("CopyIgnoredFile", 4),
        ("JSONArgsRecommended", 5),
    ]


def test_the_ways_to_ask(here: Here, context: Path) -> None:
    file = context / "Dockerfile"
    file.write_text("FROM scratch\nRUN sudo a\n")
    text = "Dockerfile:2:5: warning: sudo in a step [Sudo]\n  RUN sudo a\n      ^^^^\n\n1 warning found\n"
    assert here("check", cwd=context, status=1).text == text
    assert here("check", ".", cwd=context, status=1).text == text
    assert here("check", file, status=1).text == text.replace("Dockerfile:", f"{file}:", 1)
    assert here("check", "-", stdin=file.read_bytes(), status=1).text == text.replace("Dockerfile:", "-:", 1)
    assert here("check", file, "--skip", "Sudo").text == "no warnings found\n"
    assert here("check", file, "--skip", "DL3004").text == "no warnings found\n"
    assert here("check", file, "--no-style").text == "no warnings found\n"
    sarif = json.loads(here("check", file, "--format=sarif", status=1).text)["runs"][0]
    assert sarif["tool"]["driver"]["rules"][0]["fullDescription"]["text"] == STYLES["Sudo"].rule.reason
    assert "title=Sudo::sudo in a step" in here("check", file, "--format=github", status=1).text
    assert "no such rule: X" in here("check", file, "--skip", "X", status=2).err
    assert "no such Dockerfile: " in here("check", context / "none", status=1).err


def test_every_rule_is_explained(here: Here) -> None:
    text = here("check", "--explain", "all").text
    for name, style in STYLES.items():
        assert style.rule.reason
        assert f"{name}  {style.rule.about}\n  {style.rule.reason}\n  Write: {style.rule.example}\n" in text
    assert "StageNameCasing  " in text
    assert here("check", "--explain", "DL3004").text.startswith("Sudo  ")
