"""Ignore files: the published behaviour as data, then what a walk and an attacker make of it."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybuild.context.errors import ContextError, IgnoreError
from pybuild.context.ignore import (
    MAX_FILE,
    MAX_PATTERNS,
    MAX_RUNNING,
    DirState,
    IgnoreMatcher,
    load_ignore,
    read_patterns,
)


def _conformance(name: str) -> list[dict[str, Any]]:
    default = Path(__file__).parents[2].parent / "shared" / "conformance"
    path = Path(os.environ.get("PYBUILD_CONFORMANCE", default)) / "dockerignore" / name
    if not path.exists():
        return []
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize("case", _conformance("match.json"), ids=lambda c: f"{c['patterns']}-{c['path']}")
def test_conforms_in_matching(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(IgnoreError):
            IgnoreMatcher(case["patterns"])
    else:
        assert IgnoreMatcher(case["patterns"]).matches(case["path"]) is case["matches"]


@pytest.mark.parametrize("case", _conformance("reader.json"), ids=lambda c: c["name"])
def test_conforms_in_reading(case: dict[str, Any]) -> None:
    assert read_patterns(case["content"].encode()) == case["patterns"]


@pytest.mark.parametrize("case", _conformance("clean.json"), ids=lambda c: str(c["patterns"]))
def test_conforms_in_cleaning(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(IgnoreError):
            IgnoreMatcher(case["patterns"])
    else:
        matcher = IgnoreMatcher(case["patterns"])
        assert len(matcher.patterns) == case["kept"]
        assert any(matcher.negated) is case["has_exclusions"]


@pytest.mark.parametrize(
    ("patterns", "path", "left_out"),
    [
        (["node_modules"], "node_modules/x/y.js", True),
        (["node_modules"], "src/node_modules/y.js", False),
        (["**/node_modules"], "src/node_modules/y.js", True),
        (["*.md", "!README.md"], "README.md", False),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*", "!src", "src/*.o"], "src/a.c", False),
        (["*", "!src", "src/*.o"], "src/a.o", True),
        (["**.go"], "deep/er/x.go", True),
        (["**foo"], "barfoo", True),
        (["**f*o"], "barfoo", False),
        (["foo**"], "foobar/x", True),
        (["a**b"], "ax/b", True),
        (["a**b"], "axb", False),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["x/*/y/**/z?"], "x/1/y/2/3/z4", True),
        (["temp?"], "temp\udcff", True),
        (["/root-only"], "root-only", False),
        (["[*]"], "*", True),
        (["[*]"], "x", False),
        (["a[^b]c"], "a/c", True),
        (["*"], "a\nb", True),
        (["**/*.x"], "d\n/a\n.x", True),
    ],
)
def test_decides_by_the_last_line_that_matches(patterns: list[str], path: str, left_out: bool) -> None:
    assert IgnoreMatcher(patterns).matches(path) is left_out


def test_a_directory_that_was_not_left_out_protects_nothing_in_it() -> None:
    # What builders do in a walk, though the last line that matches a parent is `!src`
    assert IgnoreMatcher(["**/node_modules", "!src"]).matches("src/node_modules")
    assert not IgnoreMatcher(["src", "**/node_modules", "!src"]).matches("src/node_modules")


def test_names_line_and_pattern_of_a_mistake() -> None:
    with pytest.raises(IgnoreError, match=r"line 3.*`\[a`") as caught:
        IgnoreMatcher.parse(b"ok\n# note\n[a\n")
    assert caught.value.line == 3
    assert caught.value.pattern == "[a"


def test_keeps_bytes_that_are_no_utf8() -> None:
    matcher = IgnoreMatcher.parse(b"\xff*\n")
    assert matcher.matches(b"\xffx".decode(errors="surrogateescape"))
    assert not matcher.matches("x")


def test_reads_windows_line_ends() -> None:
    assert read_patterns(b"a\r\n#c\r\n!b\r\n") == ["a", "!b"]


@pytest.mark.parametrize(
    "data",
    [
        b"x\n" * (MAX_PATTERNS + 1),
        b"x" * (64 * 1024 + 1),
        b"#\n" * (MAX_FILE // 2) + b"#",
        b"\n".join(b"*a?%d" % n + b"?" * (MAX_RUNNING // 999) for n in range(1000)),
    ],
    ids=["patterns", "line", "file", "wildcards"],
)
def test_refuses_more_than_its_limits(data: bytes) -> None:
    with pytest.raises(IgnoreError):
        IgnoreMatcher.parse(data)


# -- against a slow and obvious reading of the rules -----------------------------------------------


def _reference_pattern(pattern: str) -> re.Pattern[str]:
    rest = pattern[2:]
    if pattern.startswith("**") and not re.search(r"[*?\[\]\\]", rest):
        return re.compile("(.*/)?" + re.escape(rest[1:]) if rest.startswith("/") else ".*" + re.escape(rest), re.S)
    found, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 2 + pattern.startswith("/", at + 2)
            found += ".*" if at >= len(pattern) else "(.*/)?"
            continue
        char = pattern[at]
        if char == "[":
            end = pattern.index("]", at)
            found += pattern[at : end + 1]
            at = end
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return re.compile(found, re.S)


class _Reference:
    def __init__(self, patterns: list[str]) -> None:
        self.rules = [(p.startswith("!"), _reference_pattern(p.removeprefix("!"))) for p in patterns]

    def decide(self, path: str) -> tuple[bool, list[bool]]:
        parent = path.rpartition("/")[0]
        inherited = self.decide(parent)[1] if parent else [False] * len(self.rules)
        left_out, matched = False, [False] * len(self.rules)
        for number, (negated, pattern) in enumerate(self.rules):
            hit = inherited[number] or (negated == left_out and pattern.fullmatch(path) is not None)
            if hit:
                matched[number] = True
                left_out = not negated
        return left_out, matched


_pieces = st.sampled_from(["a", "b", "ab", "*", "?", "**", "[ab]", "[^a]", "[a-b]", "a*", "*b", "a*b", "**a"])
_patterns = st.tuples(st.sampled_from(["", "", "!"]), st.lists(_pieces, min_size=1, max_size=4), st.booleans()).map(
    lambda made: made[0] + ("/" if made[2] else "").join(made[1])
)
_paths = st.lists(st.text("ab.\n", min_size=1, max_size=3).filter(lambda n: n != "."), min_size=1, max_size=4).map(
    "/".join
)


@settings(max_examples=600)
@given(st.lists(_patterns, max_size=6), st.lists(_paths, min_size=1, max_size=6))
def test_agrees_with_the_rules_read_plainly(patterns: list[str], paths: list[str]) -> None:
    matcher, reference = IgnoreMatcher(patterns), _Reference(patterns)
    for path in paths:
        expected = reference.decide(path)[0]
        assert matcher.matches(path) is expected
        assert matcher.decide(path)[0] is expected
        state: DirState = matcher.root
        above: list[DirState] = []
        for name in path.split("/"):
            above.append(state)
            left_out, state = matcher.decide(state.prefix + name, state)
        assert left_out is expected
        # A walk that turns back where nothing may be brought back misses nothing
        if not expected:
            assert all(not parent.excluded or parent.may_reinclude() for parent in above)


# -- walks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "directory", "worth_a_look"),
    [
        (["node_modules"], "node_modules", False),
        (["node_modules", "!src/x"], "node_modules", False),
        (["node_modules", "!node_modules/keep/me"], "node_modules", True),
        (["node_modules", "!node_modules/keep/me"], "node_modules/keep", True),
        (["node_modules", "!node_modules/keep/me"], "node_modules/other", False),
        (["*", "!a/*/c/*.x"], "a", True),
        (["*", "!a/*/c/*.x"], "b", False),
        (["*", "!a/*/c/*.x"], "a/b/d", False),
        (["*", "!**/*.md"], "any/where", True),
        (["!x", "*"], "x", False),
    ],
)
def test_knows_where_nothing_is_brought_back(patterns: list[str], directory: str, worth_a_look: bool) -> None:
    state: DirState = IgnoreMatcher(patterns).root
    for name in directory.split("/"):
        state = state.enter(name)
    assert (not state.excluded or state.may_reinclude()) is worth_a_look


@pytest.mark.parametrize(
    "patterns",
    [
        ["**/**/**a"],
        ["**/" * 50 + "a*a*a*a*a*a*a*b"],
        ["*a" * 50 + "b"],
        ["[^a]*" * 50],
        ["*", *(f"!name{n}" for n in range(9_999))],
        ["*", *(f"!**/*{n}.x" for n in range(9_999))],
        [f"!**/a*b{n}?c[^x]" for n in range(10_000)],
    ],
    ids=lambda p: f"{p[-1][:20]}-{len(p)}",
)
def test_stays_fast_for_patterns_meant_to_be_slow(patterns: list[str]) -> None:
    matcher = IgnoreMatcher(patterns)
    paths = [f"src/aaaaaaaaaaaaaaaaaaaaaaaa{n}/aaaaaaaaaaaaaaaaaaaaaaaa{n}" for n in range(2_000)]
    began = time.process_time()
    for path in paths:
        matcher.matches(path)
    # Some 20 ms; a matcher that backtracks would not come back at all
    assert time.process_time() - began < 2


# -- files -----------------------------------------------------------------------------------------


def test_the_dockerfiles_own_ignore_file_wins_alone(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a\n")
    assert load_ignore(tmp_path, tmp_path / "Dockerfile").patterns == ["a"]
    (tmp_path / "Dockerfile.dockerignore").write_text("b\n")
    assert load_ignore(tmp_path, tmp_path / "Dockerfile").patterns == ["b"]
    assert load_ignore(tmp_path, None).patterns == ["a"]


def test_finds_the_ignore_file_beside_a_dockerfile_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "my.dockerignore").write_text("b\n")
    assert load_ignore(root, tmp_path / "my").patterns == ["b"]
    assert load_ignore(root, tmp_path / "missing" / "Dockerfile").patterns == []


def test_no_ignore_file_leaves_nothing_out(tmp_path: Path) -> None:
    assert not load_ignore(tmp_path, tmp_path / "Dockerfile")


@pytest.mark.parametrize("target", ["../canary", "{tmp}/canary", "dir/../../canary"])
def test_an_ignore_file_never_leads_out_of_the_context(tmp_path: Path, target: str) -> None:
    (tmp_path / "canary").write_text("secret\n")
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / ".dockerignore").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(ContextError, match=r"leads out of the context: `.dockerignore`"):
        load_ignore(root, None)


def test_an_ignore_file_may_be_a_link_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ignore").write_text("x\n")
    (tmp_path / ".dockerignore").symlink_to("etc/../etc/ignore")
    assert load_ignore(tmp_path, None).patterns == ["x"]


def test_an_ignore_file_that_is_a_fifo_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dockerignore")
    with pytest.raises(ContextError, match="not a regular file"):
        load_ignore(tmp_path, None)


def test_names_the_ignore_file_of_a_mistake(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a\n[\n")
    with pytest.raises(IgnoreError, match=r"line 2.*in `.dockerignore`"):
        load_ignore(tmp_path, None)
