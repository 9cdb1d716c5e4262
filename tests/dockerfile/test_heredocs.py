"""Heredocs: their words, their bodies, and what becomes of them."""

import pytest

from pybuild.dockerfile.heredocs import Heredoc, find_heredocs
from pybuild.dockerfile.instructions import Add, Copy, ExecForm, Onbuild, Run, ShellForm
from pybuild.dockerfile.parse import parse, parse_onbuild


def run(text: str) -> Run:
    (instruction,) = parse(f"FROM a\n{text}").stages[0].instructions
    assert isinstance(instruction, Run)
    return instruction


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("cat <<a <<b", ["a", "b"]),
        ("cat<<a", []),
        ("echo $((1<<2))", []),
        ("cat <<<word", []),
        ("python -c 'print(1 << 2)'", []),
        ('echo "<<a"', []),
        ("echo \\<<a", []),
        ("cat 3<<a", ["a"]),
        ("cat 1234567890<<a", []),
        ("cat <<- \t'a b'", ["a b"]),
        ("cat <<a<b", []),
        ("cat ${x:-<<a} <<b", ["b"]),
        ("cat <<a don't", ["a"]),
        ("don't cat <<a", []),
        ("cat <<''", []),
    ],
)
def test_finds_heredoc_words(line: str, names: list[str]) -> None:
    assert [word.name for word in find_heredocs(line)] == names


def test_any_quoting_of_the_name_turns_expansion_off() -> None:
    expands = {word: find_heredocs(word)[0].expand for word in ("<<a", "<<'a'", '<<"a"', "<<a''", "<<\\a")}
    assert expands == {"<<a": True, "<<'a'": False, '<<"a"': False, "<<a''": False, "<<\\a": True}


def test_lone_heredoc_is_the_script() -> None:
    found = run("RUN --network=none <<-EOF\n\tone\n  two\n\t\tthree\n\tEOF\n")
    assert found.script_text == "one\n  two\nthree\n"
    assert found.lone_heredoc == Heredoc("EOF", "\tone\n  two\n\t\tthree\n", expand=True, strip_tabs=True)
    assert found.command == ShellForm("<<-EOF")
    assert (found.span.start_line, found.span.end_line) == (2, 6)


def test_shell_gets_the_whole_of_a_mixed_command() -> None:
    found = run("RUN cat <<-a <<'b' | \\\n sort\n\t1 \\\n\ta\n# 2\nb\n")
    assert found.lone_heredoc is None
    assert found.script_text == "cat <<-a <<'b' |  sort\n\t1 \\\na\n# 2\nb"
    assert found.original == "RUN cat <<-a <<'b' |  sort"


def test_exec_form_has_no_heredocs() -> None:
    found = run('RUN ["cat", "<<EOF"]\n')
    assert (found.command, found.heredocs, found.script_text) == (ExecForm(("cat", "<<EOF")), (), None)


def test_copy_keeps_the_order_of_its_sources() -> None:
    (copy,) = parse("FROM a\nCOPY x <<one y <<'t w' /z/\n$1\none\n2\nt w\n").stages[0].instructions
    assert isinstance(copy, Copy)
    one = Heredoc("one", "$1\n", expand=True, strip_tabs=False)
    two = Heredoc("t w", "2\n", expand=False, strip_tabs=False)
    assert copy.sources == ("x", one, "y", two)
    assert copy.dest == "/z/"


def test_equal_names_have_a_body_each() -> None:
    (add,) = parse("FROM a\nADD <<e <<e /z/\n1\ne\n2\ne\n").stages[0].instructions
    assert isinstance(add, Add)
    assert [source.content for source in add.sources if isinstance(source, Heredoc)] == ["1\n", "2\n"]


def test_stored_trigger_reads_back_as_it_was() -> None:
    (onbuild,) = parse("FROM a\nonbuild  RUN --network=none cat <<x \\\n <<-y\n1\nx\n\t2\n\ty\n").stages[0].instructions
    assert isinstance(onbuild, Onbuild)
    assert onbuild.text == "RUN --network=none cat <<x  <<-y\n1\nx\n\t2\ny"
    again = parse_onbuild(onbuild.text)
    assert isinstance(again, Run)
    assert isinstance(onbuild.instruction, Run)
    assert again.script_text == onbuild.instruction.script_text
    assert again.original == onbuild.instruction.original == "RUN --network=none cat <<x  <<-y"


def test_only_tabs_at_the_start_of_lines_are_stripped() -> None:
    assert Heredoc("e", "\t\ta\tb\n \tc\n\n\t\n", expand=True, strip_tabs=True).body == "a\tb\n \tc\n\n\n"


def test_body_keeps_odd_line_breaks() -> None:
    assert run("RUN <<e\n\ta\x0c\tb\u2028\tc\ne\n").script_text == "\ta\x0c\tb\u2028\tc\n"
