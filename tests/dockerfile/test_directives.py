"""Parser directives."""

import pytest

from pybuild.dockerfile.directives import (
    Check,
    detect_check,
    detect_syntax,
    is_builtin_syntax,
    parse_check,
    read_directives,
)
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span
from pybuild.dockerfile.parse import parse
from pybuild.errors import UsageError


def test_reads_all_three_in_any_order() -> None:
    found = read_directives("#check=skip=all\n# Syntax = docker/dockerfile:1 // x\n  # escape=`\nFROM a\n", "f")
    assert {name: item.value for name, item in found.items()} == {
        "check": "skip=all",
        "syntax": "docker/dockerfile:1 // x",
        "escape": "`",
    }
    assert found["escape"].span == Span(3, 3, 3, 10)


@pytest.mark.parametrize("first", ["# a comment", "", "FROM a", "# other=1", "# escape =", "#"])
def test_anything_else_ends_them(first: str) -> None:
    assert read_directives(f"{first}\n# escape=`\n", "f") == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# syntax=a/b:1\n", ("a/b:1", 1)),
        ("#!/usr/bin/env docker\n# syntax=a\n", ("a", 2)),
        ("\ufeff# syntax=a\n", ("a", 1)),
        ("# escape=`\r\n# syntax=a more words\r\n", ("a", 2)),
        ("// syntax=a\nfunc main() {}", ("a", 1)),
        ('{"syntax": "a", "n": [1]}', ("a", 1)),
        ('#!x\n{"syntax": "a"}', ("a", 2)),
        ('{"syntax": 1}', None),
        ('{"syntax": ""}', None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000, None),
        ("\n# syntax=a\n", None),
        ("FROM a\n", None),
        ("", None),
    ],
)
def test_detects_the_frontend(text: str, found: tuple[str, int] | None) -> None:
    assert detect_syntax(text) == found


def test_detects_check_below_a_shebang() -> None:
    assert detect_check("#!x\n# escape=`\n# check=skip=A;error=true // why\n") == ("skip=A;error=true", 3)
    assert detect_check("// check=skip=all\n") is None


@pytest.mark.parametrize(
    ("reference", "builtin"),
    [
        ("docker/dockerfile", True),
        ("docker/dockerfile:1.7-labs", True),
        ("docker.io/docker/dockerfile:1@sha256:00", True),
        ("index.docker.io/docker/dockerfile:labs", True),
        ("docker/dockerfile@sha256:00", True),
        ("docker/dockerfile-upstream:master", True),
        ("docker/dockerfile2", False),
        ("dockerfile:1", False),
        ("example.org/docker/dockerfile:1", False),
    ],
)
def test_knows_the_frontends_that_are_built_in(reference: str, builtin: bool) -> None:
    assert is_builtin_syntax(reference) is builtin


def test_reads_check_options() -> None:
    assert parse_check("skip=A, B ;error=TRUE; experimental=all") == Check(
        skip=frozenset({"A", "B"}), experimental_all=True, error=True
    )
    assert parse_check("skip=all").skips("Any")
    assert not parse_check("skip=A").skips("a")


@pytest.mark.parametrize("text", ["skp=A", "error=1", "all"])
def test_refuses_other_check_options(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_check(text)


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("# escape=`\n# syntax=example.org/other:1\nFROM scratch\n", 2, "take the line out"),
        ("# syntax = mirror.example/docker/dockerfile:1.7\nFROM scratch\n", 1, "copy of docker/dockerfile"),
        ("//syntax=other\nnothing of this language\n", 1, "BUILDKIT_SYNTAX"),
    ],
)
def test_other_frontends_are_refused_before_anything_is_read(text: str, line: int, hint: str) -> None:
    with pytest.raises(DockerfileError, match="unknown frontend") as caught:
        parse(text)
    assert caught.value.span is not None
    assert caught.value.span.start_line == line
    assert hint in caught.value.hint


def test_the_build_argument_wins_over_the_file() -> None:
    text = "# syntax=example.org/other:1\nFROM scratch\n"
    assert len(parse(text, frontend="docker/dockerfile:1 and more").stages) == 1
    with pytest.raises(UsageError, match=r"example\.org/x"):
        parse("FROM scratch\n", frontend="example.org/x")
