"""`pybuild ignore`, on real directories."""

import json
import re
from pathlib import Path

import pytest

from pybuild_ignore import rules
from pybuild_ignore.lint import lint, look
from pybuild_ignore.rules import RULES
from support.here import Here


def make(root: Path, *paths: str) -> None:
    """Make files, or directories where a path ends with a slash."""
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")


def found(root: Path, text: str | None) -> list[tuple[str, int]]:
    """Return codes and lines."""
    if text is not None:
        (root / ".dockerignore").write_text(text)
    return [(finding.rule, finding.line) for finding in look(str(root), "").findings]


PATHS = ("src/a.py", "src/deep/b.log", "src/c.log", "top.log", "docs/d.md", "docs/keep.md", "out/x/y", "[odd]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# docs\n\ndocs\n", []),
        ("docs\n[z-\n", [(rules.MALFORMED, 2)]),
        ("[z-\ndosc\n!\n", [(rules.MALFORMED, 1), (rules.NOTHING, 2), (rules.MALFORMED, 3)]),
        ("docs\ndosc\n", [(rules.NOTHING, 2)]),
        ("**/.git\n.env\n**/*.pyc\n.venv\n", []),
        ("docs\ndocs/*.md\n", [(rules.SHADOWED, 2)]),
        ("docs/*.md\ndocs\n", []),
        ("docs\n\n/docs/\n", [(rules.TWICE, 3)]),
        ("docs\n!docs/keep.md\n", []),
        ("docs/*\n!docs/keep.md\n", []),
        ("!docs/keep.md\ndocs\n", [(rules.BRINGS_NOTHING, 1)]),
        ("docs\n!src\n", [(rules.BRINGS_NOTHING, 2)]),
        ("docs\n!gone\n", [(rules.BRINGS_NOTHING, 2)]),
        ("**/*.log\n!src\n", [(rules.BRINGS_NOTHING, 2)]),
        ("**/*.log\n!src/**\n", []),
        ("*.log\n", [(rules.DEPTH, 1)]),
        ("b.log\n", [(rules.DEPTH, 1)]),
        ("**/*.log\n", []),
        ("*.log\nsrc\n", []),
        ("src/[!a].log\n", [(rules.NOTHING, 1), (rules.CLASS, 1)]),
        ("src/[^a].log\n", []),
        ("docs # no longer\n", [(rules.NOTHING, 1), (rules.COMMENT, 1)]),
        ("*\n!src\n", []),
    ],
)
def test_what_is_said_of_lines(context: Path, text: str, expected: list[tuple[str, int]]) -> None:
    make(context, *PATHS)
    assert sorted(found(context, text)) == sorted(expected)


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        (".git/HEAD", "", rules.NEEDLESS),
        ("web/node_modules/x/index.js", "", rules.NEEDLESS),
        ("env/pyvenv.cfg", "home = /usr/bin", rules.NEEDLESS),
        ("a/__pycache__/b.pyc", "", rules.NEEDLESS),
        (".DS_Store", "", rules.NEEDLESS),
        (".env", "", rules.SECRET),
        ("a/.env.production", "", rules.SECRET),
        (".env.example", "", None),
        ("environment", "", None),
        (".ssh/id_ed25519", "", rules.SECRET),
        (".ssh/id_ed25519.pub", "", None),
        (".aws/credentials", "", rules.SECRET),
        ("credentials", "", None),
        ("server.key", "-----BEGIN PRIVATE KEY-----", rules.SECRET),
        ("translation.key", "hello", None),
        ("ca.pem", "-----BEGIN CERTIFICATE-----", None),
        (".npmrc", "//host/:_authToken=x", rules.SECRET),
        (".npmrc", "save-exact=true", None),
    ],
)
def test_what_should_be_left_out(context: Path, path: str, content: str, code: str | None) -> None:
    make(context, path)
    (context / path).write_text(content)
    assert [rule for rule, _ in found(context, None)] == ([code] if code else [])
    if code:
        assert lint(str(context), fix=True) == 0
        assert found(context, None) == []


def test_a_line_that_makes_builds_walk_what_is_left_out_is_told(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybuild_ignore.lint.MANY", 10)
    make(context, "big/keep.js", *(f"big/f{number}" for number in range(9)))
    assert found(context, "big\n!**/keep.js\n") == [(rules.WALKS, 2)]
    assert found(context, "big\n!big/keep.js\n") == []


def test_fix_changes_what_can_be_changed_and_keeps_the_rest(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(context, *PATHS, ".git/HEAD", "node_modules/x")
    before = "# mine\n*.log\n!src\ndocs\r\ndocs\nnode_modules # npm\nsrc/[!z].log\ndosc"
    (context / ".dockerignore").write_bytes(before.encode())
    assert lint(str(context), fix=True) == 1
    assert (context / ".dockerignore").read_bytes().decode() == (
        "# mine\n**/*.log\n!src/**\ndocs\r\n# npm\nnode_modules\nsrc/[^z].log\ndosc\n**/.git\n"
    )
    told = capsys.readouterr().out
    assert "`dosc` matches nothing [IGN002]" in told
    # Once more changes nothing
    lint(str(context), fix=True)
    assert capsys.readouterr().out == told


def test_what_is_missing_is_about_the_file_and_not_about_a_line(here: Here, context: Path) -> None:
    make(context, ".env", "docs/a")
    (context / ".dockerignore").write_text("docs\n")
    told = ".env is not left out: settings that often hold secrets; add `**/.env`"
    run = ("ignore", "lint", ".")
    assert here(*run, cwd=context, status=1).text == f".dockerignore: warning: {told} [IGN010]\n\n1 warning found\n"
    assert here(*run, "--format", "github", cwd=context, status=1).text == (
        f"::warning file=.dockerignore,title=IGN010::{told}\n"
    )
    sarif = json.loads(here(*run, "--format=sarif", cwd=context, status=1).text)
    [result] = sarif["runs"][0]["results"]
    assert "region" not in result["locations"][0]["physicalLocation"]


def test_the_formats(here: Here, context: Path) -> None:
    make(context, "docs/a", "%,x/")
    (context / ".dockerignore").write_text("docs\n  dosc\n")
    run = ("ignore", "lint", ".")
    assert here(*run, cwd=context, status=1).text == (
        ".dockerignore:2:3: warning: `dosc` matches nothing [IGN002]\n    dosc\n    ^^^^\n\n1 warning found\n"
    )
    assert here(*run, "--format", "github", cwd=context, status=1).text == (
        "::warning file=.dockerignore,line=2,endLine=2,col=3,endColumn=7,title=IGN002::`dosc` matches nothing\n"
    )
    [plain] = json.loads(here(*run, "--format=json", cwd=context, status=1).text)["findings"]
    assert (plain["code"], plain["line"], plain["column"], plain["length"]) == ("IGN002", 2, 3, 4)
    sarif = json.loads(here(*run, "--format=sarif", cwd=context, status=1).text)
    [result] = sarif["runs"][0]["results"]
    assert result["ruleId"] == "IGN002"
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 2, "startColumn": 3, "endColumn": 7}
    assert here(*run, "--skip", "ign002", cwd=context).text == "no warnings found\n"
    assert "no such rule: IGN999" in here(*run, "--skip", "IGN999", status=2).err
    assert "unknown format: x" in here(*run, "--format", "x", status=2).err


def test_the_file_beside_the_dockerfile_counts(context: Path) -> None:
    make(context, "docs/a", "other.Dockerfile")
    (context / ".dockerignore").write_text("dosc\n")
    (context / "other.Dockerfile.dockerignore").write_text("docs\n")
    assert look(str(context), str(context / "other.Dockerfile")).findings == []
    assert len(look(str(context), "").findings) == 1


def test_every_rule_is_explained(here: Here) -> None:
    text = here("ignore", "lint", "--explain", "all").text
    for code, rule in RULES.items():
        assert rule.reason
        assert f"{code}  {rule.about}\n  {rule.reason}\n  Write: {rule.example}\n" in text
    assert here("ignore", "lint", "--explain", "ign006").text.startswith(
        "IGN006  A name is left out at the root only\n"
    )


def test_why_names_the_line(here: Here, context: Path) -> None:
    make(context, *PATHS)
    (context / ".dockerignore").write_text("# all logs\n**/*.log\n\n!src/c.log\ndocs/\n")
    paths = ["src/deep/b.log", "src/c.log", "docs/d.md", "src/a.py", "not/there.log", "."]
    assert here("ignore", "why", *paths, "-C", context).text.splitlines() == [
        "src/deep/b.log: left out by .dockerignore:2: **/*.log",
        "src/c.log: stays by .dockerignore:4: !src/c.log",
        "docs/d.md: left out by .dockerignore:5: docs (through docs/)",
        "src/a.py: stays, no line matches",
        "not/there.log: left out by .dockerignore:2: **/*.log",
        ".: stays, no line matches",
    ]
    assert json.loads(here("ignore", "why", "--json", context / "docs", "-C", context).text) == {
        "path": "docs",
        "leftOut": True,
        "line": 5,
        "pattern": "docs",
        "through": "",
    }
    assert "not in the context: ../x" in here("ignore", "why", "../x", "-C", context, status=2).err


def test_test_is_for_scripts(here: Here, context: Path) -> None:
    make(context, *PATHS)
    (context / ".dockerignore").write_text("docs\n")
    run = ("ignore", "test", "-C", context)
    assert here(*run, "docs", "docs/d.md").text == ""
    assert here(*run, "docs", "src", status=1).text == "src: stays, no line matches\n"
    assert here(*run, "--stays", "src").text == ""
    assert here(*run, "--stays", "docs", status=1).text == "docs: left out by .dockerignore:1: docs\n"
    assert here(*run, "-p", "src", "-p", "!docs", "src").text == ""
    assert re.search(r"by .dockerignore:3: !docs\n", here(*run, "-p", "src", "-p", "!docs", "docs", status=1).text)
