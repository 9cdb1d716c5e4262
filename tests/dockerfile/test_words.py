"""Variables, quotes and escapes."""

import pytest

from pybuild.dockerfile.errors import ExpansionError
from pybuild.dockerfile.words import (
    MAX_DEPTH,
    MAX_VALUE,
    examine,
    examine_words,
    expand,
    expand_body,
    expand_words,
)

ENV = {"A": "alpha", "E": "", "P": "/usr/bin:/bin", "W": " two  words "}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("$A-${A}", "alpha-alpha"),
        ("$AB$_", ""),
        ("'$A'\"$A\"\\$A", "$Aalpha$A"),
        ('"\\x\\"\\$\\\\"', '\\x"$\\'),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("a$/b", "a$/b"),
        ("$$A", "A"),
        ("${A:-x}${E:-x}${E-x}${N-x}", "alphaxx"),
        ("${A:+x}${E:+x}${E+y}${N+x}", "xy"),
        ("${N:-${E:-'in $A'}}", "in $A"),
        ('${N:-"a}b"}', "a}b"),
        ("${N:-a\\}b}", "a}b"),
        ("${P%%:*}", "/usr/bin"),
        ("${P#*/}", "usr/bin:/bin"),
        ("${P##*/}", "bin"),
        ("${P%/*}", "/usr/bin:"),
        ("${P/bin/sbin}", "/usr/sbin:/bin"),
        ("${P//bin/$A}", "/usr/alpha:/alpha"),
        ("${P//\\//.}", ".usr.bin:.bin"),
        ("${A/*/x}${A//?/x}", "xxxxxx"),
        ("${N#x}${N/x/y}", ""),
        ("$A_", ""),
        ("${A}_", "alpha_"),
        ("[$W]", "[ two  words ]"),
        ("", ""),
    ],
)
def test_expands(word: str, value: str) -> None:
    assert expand(word, ENV) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${A", "missing '}' in: ${A"),
        ("${N:-$A", "missing '}' in: ${N:-$A"),
        ("${A/x", "missing '/' in: ${A/x"),
        ("${", "missing '}' in: ${"),
        ("${}", "bad substitution in: ${}"),
        ("${ A}", "bad substitution in: ${ A}"),
        ("${A=x}", "unsupported modifier (=) in substitution: ${A=x}"),
        ("${A:=x}", "unsupported modifier (:=) in substitution: ${A:=x}"),
        ("${A:#x}", "unsupported modifier (:#) in substitution: ${A:#x}"),
        ("${A:1}", "unsupported modifier (:1) in substitution: ${A:1}"),
        ("${A[0]}", "unsupported modifier ([) in substitution: ${A[0]}"),
        ("${N?}", "N: is not allowed to be unset"),
        ("${E:?}", "E: is not allowed to be empty"),
        ("${N:?give $A}", "N: give alpha"),
        ("${A#\\x}", "invalid escape in pattern: \\x"),
        ("'a", "unexpected end while looking for matching single-quote: 'a"),
        ('"a', 'unexpected end while looking for matching double-quote: "a'),
    ],
)
def test_refuses_wrong_forms(word: str, message: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(word, ENV)
    assert caught.value.message == message


def test_other_escape() -> None:
    assert expand('C:\\dir`$A"`$\\n"', ENV, "`") == "C:\\dir$A$\\n"
    assert expand("${P#`*}${P#*\\}", {"P": "*a\\b"}, "`") == "a\\bb"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("80 $A", ["80", "alpha"]),
        ("a${W}b", ["a", "two", "words", "b"]),
        ('a"$W"b', ["a two  words b"]),
        ("a\\ b 'c d'", ["a b", "c d"]),
        ("${N:-1 2} $E", ["1", "2"]),
        ("  ", []),
    ],
)
def test_splits_into_words(text: str, words: list[str]) -> None:
    assert expand_words(text, ENV) == words


def test_body_keeps_quotes_and_takes_out_escapes() -> None:
    body = "'$A' \"${A}\" \\$A \\n \\\\ it's\\\n${N:-\\}'x'}\n"
    assert expand_body(body, ENV) == "'alpha' \"alpha\" $A n \\ it's\n}'x'\n"


def test_tells_what_was_asked_for() -> None:
    found = examine("$A ${N:-$E} ${M+x}", ENV)
    assert (found.used, found.unset) == ({"A", "E"}, {"N", "M"})
    words = examine_words("$A $N", ENV)
    assert (words.words, words.used, words.unset) == (("alpha",), {"A"}, {"N"})


def test_result_is_not_expanded_again() -> None:
    assert expand("$X", {"X": "$A '\\"}) == "$A '\\"


def test_nesting_ends() -> None:
    expand("${N:-" * MAX_DEPTH + "}" * MAX_DEPTH, {})
    with pytest.raises(ExpansionError, match="nested deeper"):
        expand("${N:-" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1), {})


def test_doubling_ends() -> None:
    env = {"A": "aaaaaaaa"}
    while len(env["A"]) < MAX_VALUE:
        env["A"] = expand("$A$A", env)
    with pytest.raises(ExpansionError, match="larger than"):
        expand("$A$A", env)


def test_limit_counts_bytes() -> None:
    expand("$A", {"A": "é" * (MAX_VALUE // 2)})
    with pytest.raises(ExpansionError, match="larger than"):
        expand("$A", {"A": "é" * (MAX_VALUE // 2 + 1)})


BIG = {"A": "a" * MAX_VALUE, "P": "?a" * 500, "E": "", "S": "a" * (MAX_VALUE // 2) + "b"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "word",
    [
        "$A" * 30_000,
        "${N+$A}" * 9_000,
        "${N:-" * 13_000,
        "${A##*x*y*z}" * 5_000,
        "${A%%*x*y*z}" * 5_000,
        "${A##*$P*b}" * 5_000,
        "${A//a/}" * 5_000,
        "${A//?/}" * 5_000,
        "${A//$E/xx}" * 5_000,
        "${S%%b*}" * 5_000,
        "${A#" + "*a" * 30_000 + "b}",
        "${A#" + "?" * 60_000 + "}",
        '"${A' * 16_000,
    ],
    ids=lambda word: word[:14],
)
def test_no_word_takes_long(word: str) -> None:
    try:
        size = len(expand(word, BIG))
    except ExpansionError as error:
        size = len(error.message)
    assert size <= MAX_VALUE
