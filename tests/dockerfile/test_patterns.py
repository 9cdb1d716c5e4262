"""Wildcard patterns against the regular expressions they stand for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.dockerfile.errors import ExpansionError
from pybuild.dockerfile.patterns import (
    MAX_PATTERN,
    Pattern,
    parse_pattern,
    remove_prefix,
    remove_suffix,
    replace,
)

patterns = st.text("ab*?", max_size=6)
values = st.text("abc", max_size=10)


def regex(pattern: str, *, longest: bool = True) -> str:
    star = ".*" if longest else ".*?"
    return "".join({"*": star, "?": "."}.get(char, char) for char in pattern)


@given(patterns, values, st.booleans())
def test_prefix_is_as_the_expression_finds_it(pattern: str, value: str, longest: bool) -> None:
    match = re.match(regex(pattern, longest=longest), value, re.DOTALL)
    expected = value[match.end() :] if match else value
    assert remove_prefix(value, parse_pattern(pattern), longest=longest) == expected


@given(patterns, values, st.booleans())
def test_suffix_is_the_prefix_of_the_mirrored(pattern: str, value: str, longest: bool) -> None:
    lengths = [n for n in range(len(value) + 1) if re.fullmatch(regex(pattern), value[len(value) - n :], re.DOTALL)]
    cut = (max if longest else min)(lengths, default=0)
    assert remove_suffix(value, parse_pattern(pattern), longest=longest) == value[: len(value) - cut]


@given(patterns, values)
def test_first_match_is_replaced(pattern: str, value: str) -> None:
    expected = re.sub(regex(pattern), "<>", value, count=1, flags=re.DOTALL)
    assert replace(value, parse_pattern(pattern), "<>", every=False, limit=1000) == expected


@pytest.mark.parametrize(
    ("value", "pattern", "result"),
    [
        ("banana", "an", "b<><>a"),
        ("banana", "a*n", "b<>a"),
        ("banana", "*", "<>"),
        ("banana", "?", "<><><><><><>"),
        ("abc", "", "<>a<>b<>c<>"),
        ("", "", "<>"),
        ("", "x", ""),
        ("aaa", "aa", "<>a"),
        ("a*b*", "\\*", "a<>b<>"),
    ],
)
def test_every_match_is_replaced(value: str, pattern: str, result: str) -> None:
    assert replace(value, parse_pattern(pattern), "<>", every=True, limit=1000) == result


def test_replacing_stops_at_the_limit() -> None:
    with pytest.raises(ExpansionError, match="larger than 100 bytes"):
        replace("a" * 60, parse_pattern("a"), "bb", every=True, limit=100)


def test_escapes_make_characters_plain() -> None:
    assert parse_pattern("\\*\\?\\\\\\}\\/\\$") == Pattern((("*", "?", "\\", "}", "/", "$"),))
    assert parse_pattern("\\`*", "`") == Pattern((("\\", "*"),))


@pytest.mark.parametrize("text", ["\\", "a\\", "\\a", "\\\n"])
def test_other_escapes_are_refused(text: str) -> None:
    with pytest.raises(ExpansionError, match="invalid escape"):
        parse_pattern(text)


def test_long_patterns_hold_no_single_wildcards() -> None:
    parse_pattern("a*" * MAX_PATTERN)
    with pytest.raises(ExpansionError, match="longer than"):
        parse_pattern("a?" * MAX_PATTERN)
