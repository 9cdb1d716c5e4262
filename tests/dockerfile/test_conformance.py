"""The shared conformance data, where it is at hand: results that other builders promise."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pybuild.dockerfile.arguments import split_arguments, split_words
from pybuild.dockerfile.directives import detect_check, detect_syntax, read_directives
from pybuild.dockerfile.errors import DockerfileError, ExpansionError, InvalidValueError
from pybuild.dockerfile.heredocs import Heredoc, find_heredocs, parse_heredoc_word
from pybuild.dockerfile.jsonform import parse_json_list
from pybuild.dockerfile.lines import decode
from pybuild.dockerfile.nodes import RawFile, read_nodes
from pybuild.dockerfile.parse import parse
from pybuild.dockerfile.patterns import parse_pattern, remove_prefix
from pybuild.dockerfile.words import examine, expand, expand_words

from .dump import dump

ROOT = Path(os.environ.get("PYBUILD_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")

if not (ROOT / "parser").is_dir():
    pytest.skip("the conformance data is not here; PYBUILD_CONFORMANCE may name its place", allow_module_level=True)


def load(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def names(directory: str) -> list[str]:
    return sorted(path.name for path in (ROOT / directory).iterdir())


def read(data: str | bytes) -> RawFile:
    return read_nodes(decode(data, "Dockerfile"), "Dockerfile")


@pytest.mark.parametrize("name", names("parser/testfiles"))
def test_file_parses_to_its_result(name: str) -> None:
    directory = ROOT / "parser" / "testfiles" / name
    raw = read((directory / "Dockerfile").read_bytes())
    result = (directory / "result").read_text(encoding="utf-8")
    assert "".join(dump(node) + "\n" for node in raw.nodes).strip() == result.strip()


@pytest.mark.parametrize("name", names("parser/testfiles-negative"))
def test_wrong_file_is_refused(name: str) -> None:
    with pytest.raises(DockerfileError):
        parse((ROOT / "parser" / "testfiles-negative" / name / "Dockerfile").read_bytes())


@pytest.mark.parametrize("case", load("parser/lines.json")["cases"], ids=lambda case: case["name"])
def test_lines(case: dict[str, Any]) -> None:
    if "file" in case:
        nodes = read((ROOT / "parser" / case["file"]).read_bytes()).nodes
        assert [[node.span.start_line, node.span.end_line] for node in nodes] == case["instructions"]
        assert [nodes[0].span.start_line, nodes[-1].span.end_line] == case["root"]
    elif "warnings" in case:
        assert [warning.original for warning in read(case["text"]).warnings] == case["warnings"]
    elif "words" in case:
        text = case["text"]
        assert [token.text for token in split_words(text, 0, len(text), "\\")] == case["words"]
    elif "pairs" in case:
        text = case["text"]
        tokens, _ = split_arguments(case["command"].lower(), text, 0, len(text), "\\")
        flat = [token.text for token in tokens]
        assert [flat[index : index + 3] for index in range(0, len(flat), 3)] == case["pairs"]
    else:
        text = re.sub(r"<(\d+) times (\w)>", lambda match: match[2] * int(match[1]), case["text"])
        text = f"{case['command']} {text}" if "command" in case else text
        with pytest.raises(DockerfileError, match=re.escape(case["error"])):
            read(text)


@pytest.mark.parametrize("case", load("parser/heredoc.json")["cases"], ids=lambda case: case["instruction"])
def test_heredocs_of_instructions(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(DockerfileError):
            read(case["instruction"])
        return
    (node,) = read(case["instruction"]).nodes
    assert [
        {"name": doc.name, "content": doc.content, "expand": doc.expand, "strip_tabs": doc.strip_tabs}
        for doc in node.heredocs
    ] == case["heredocs"]
    assert [doc.fd for doc in node.heredocs if doc.fd] == ([case["fd"]] if "fd" in case else [])


def test_heredoc_words() -> None:
    words = load("parser/heredoc.json")["words"]
    for word in words["valid"]:
        found = parse_heredoc_word(word)
        assert found is not None, word
        assert found.name == words["valid_name"]
    for word in words["error"]:
        with pytest.raises(InvalidValueError):
            parse_heredoc_word(word)
    for word in words["not_a_heredoc"]:
        assert parse_heredoc_word(word) is None, word
    for odd in words["odd"]:
        assert [found.name for found in find_heredocs(odd["line"])] == [odd["name"]]
    for strip in load("parser/heredoc.json")["strip"]:
        assert Heredoc("EOF", strip["in"], expand=True, strip_tabs=True).body == strip["out"]


@pytest.mark.parametrize("case", load("parser/directives.json")["cases"], ids=lambda case: case["text"])
def test_directives(case: dict[str, Any]) -> None:
    text = case["text"]
    if case.get("error"):
        with pytest.raises(DockerfileError):
            read_directives(text, "Dockerfile")
    if "directives" in case:
        assert {key: item.value for key, item in read_directives(text, "Dockerfile").items()} == case["directives"]
    if "syntax_ref" in case:
        found = detect_syntax(text)
        assert (found and found[0]) == case["syntax_ref"]
        assert found is None or found[1] == case.get("line", found[1])
    if "check" in case:
        check = detect_check(text)
        assert (check and check[0]) == case["check"]


def test_json_form() -> None:
    data = load("parser/json_form.json")
    for case in data["valid"]:
        assert parse_json_list(case["text"]) == tuple(case["list"])
    for text in data["not_string_lists"]:
        assert parse_json_list(text) is None


@pytest.mark.parametrize("case", load("shell/expand.json")["cases"], ids=lambda case: case["input"])
def test_expand(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(
            ExpansionError, match=re.escape(case["error_contains"]) if "error_contains" in case else None
        ):
            expand(case["input"], case["env"])
        return
    found = examine(case["input"], case["env"])
    assert found.text == case["expected"]
    assert sorted(found.used) == sorted(case.get("used", found.used))
    assert sorted(found.unset) == sorted(case.get("unset", found.unset))


@pytest.mark.parametrize("case", load("shell/words.json")["cases"], ids=lambda case: case["input"])
def test_words(case: dict[str, Any]) -> None:
    if case.get("error"):
        with pytest.raises(ExpansionError):
            expand_words(case["input"], case["env"])
    else:
        assert expand_words(case["input"], case["env"]) == case["words"]


def test_table_of_words_with_its_own_environment() -> None:
    env: dict[str, str] = {}
    for line in (ROOT / "shell" / "wordsTest").read_text(encoding="utf-8").splitlines():
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").lstrip().partition("=")
            env[name] = value
        elif line.strip() and not line.startswith("#"):
            given, _, result = line.partition("|")
            if result.strip() == "error":
                with pytest.raises(ExpansionError):
                    expand_words(given.strip(), env)
            else:
                # The table has one blank on each side of its bar; more belong to the result
                assert expand_words(given.strip(), env) == result[1:].split(","), line


def test_table_of_variables() -> None:
    env = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    for line in (ROOT / "shell" / "envVarTest").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        platform, given, result = (part.strip() for part in line.split("|"))
        if platform not in ("A", "U"):
            continue
        if result == "error":
            with pytest.raises(ExpansionError):
                expand(given, env)
        else:
            assert expand(given, env) == result, line


def test_patterns() -> None:
    data = load("shell/patterns.json")
    for case in data["valid"]:
        pattern = parse_pattern(case["pattern"])
        for text in ("", "*", "a", "(()[]{}^$.*?|\\", "*rest", "(()[]{}^$.*?|\\rest"):
            match = re.match(case["regex"], text, re.DOTALL)
            assert remove_prefix(text, pattern, longest=True) == (text[match.end() :] if match else text)
    for text in data["invalid"]:
        with pytest.raises(ExpansionError):
            parse_pattern(text)


def test_last_of_equal_names_counts_in_an_environment() -> None:
    for case in load("shell/patterns.json")["env_lookup"]:
        env = {name: value for name, _, value in (item.partition("=") for item in case["env"])}
        assert expand("$" + case["name"], env) == case["value"]
