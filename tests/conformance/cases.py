"""The cases, read from `cases/*.toml`, and their expectations, read from `expected/*.json`."""

import json
import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILDKIT, LANGUAGE = "buildkit 20.10", "language"
"""Where an expectation comes from: a build by BuildKit, or the documented behaviour of newer frontends."""

PATH = "Env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What the line `Env PATH` of an expectation by hand stands for."""

_DIFFERENCE = re.compile(r"^\| `([\w-]+)` \|", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One build. `before` are Dockerfiles of images that it is based on, by name, built first.

    `ours` is a difference from BuildKit that is meant: lines that begin with `-` where pybuild lacks one, with `+`
    where it has another, and `differs` its name in DIFFERENCES.md. `error` is a pattern of pybuild's message when the
    build is meant to fail. `expect` are the expected lines of a case that BuildKit did not check. `needs` are markers.
    """

    topic: str
    name: str
    dockerfile: str
    context: str = ""
    before: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    target: str = ""
    file: str = "Dockerfile"
    error: str = ""
    differs: str = ""
    ours: str = ""
    expect: str = ""
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.topic}/{self.name}"

    def marks(self) -> tuple[str, ...]:
        """Return the markers of what the build needs: archives are opened in a user namespace too."""
        runs = re.search(r"^\s*(ONBUILD\s+)?(RUN|ADD)\b", self.dockerfile, re.MULTILINE | re.IGNORECASE)
        return (*self.needs, "userns") if runs or self.before else self.needs

    def differences(self) -> list[str]:
        """Return what is meant to differ, a line each."""
        return [line for line in self.ours.splitlines() if line]


@dataclass(frozen=True)
class Expectation:
    """What a build makes: `lines` as `outcome.describe` gives them, or the `error` BuildKit told."""

    checked: str
    lines: tuple[str, ...] = ()
    error: str = ""


@cache
def cases() -> tuple[Case, ...]:
    """Return all cases, topic by topic."""
    found = []
    for path in sorted((HERE / "cases").glob("*.toml")):
        for name, said in tomllib.loads(path.read_text()).items():
            found.append(Case(path.stem, name, **{**said, "needs": tuple(said.get("needs", ()))}))
    return tuple(found)


@cache
def recorded(topic: str) -> dict[str, Expectation]:
    """Return what was recorded of a topic, by name of the case."""
    path = HERE / "expected" / f"{topic}.json"
    data = json.loads(path.read_text()) if path.exists() else {}
    return {
        name: Expectation(said["checked"], tuple(said.get("lines", ())), said.get("error", ""))
        for name, said in data.items()
    }


def expectation(case: Case) -> Expectation | None:
    """Return what the case is to give, None when nothing is known."""
    if case.expect:
        lines = (PATH if line == "Env PATH" else line for line in case.expect.splitlines() if line)
        return Expectation(LANGUAGE, tuple(lines))
    return recorded(case.topic).get(case.name)


def record(case: Case, found: Expectation) -> None:
    """Write what was recorded of a case; what its topic no longer has goes."""
    recorded.cache_clear()
    known = {**recorded(case.topic), case.name: found}
    names = [other.name for other in cases() if other.topic == case.topic and other.name in known]
    data: dict[str, Any] = {}
    for name in names:
        said = known[name]
        data[name] = {"checked": said.checked, **({"error": said.error} if said.error else {"lines": [*said.lines]})}
    text = json.dumps(data, indent=1, ensure_ascii=False)
    (HERE / "expected" / f"{case.topic}.json").write_text(text + "\n")


def listed_differences() -> set[str]:
    """Return the names in the table of DIFFERENCES.md."""
    return set(_DIFFERENCE.findall((HERE / "DIFFERENCES.md").read_text()))
