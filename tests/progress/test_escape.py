import pytest

from pybuild.progress.escape import Lines, escape, one_line, without_commands


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字\tand tab", "plain äöü 漢字\tand tab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;ZXZpbA==\x07", "\\x1b]52;c;ZXZpbA==\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\x08b\x00\x7f", "a\\x08b\\x00\\x7f"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("bidi \u202e\u2066", "bidi \\u202e\\u2066"),
        ("line\u2028break", "line\\u2028break"),
        ("name\udcff", "name\\udcff"),
    ],
)
def test_controls_are_shown_instead_of_obeyed(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_one_line_is_one_line() -> None:
    assert one_line("a\nb\rc") == "a\\nb\\x0dc"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("::set-env name=A::b", ": :set-env name=A::b"),
        ("  ::error::x", "  : :error::x"),
        ("#3 0.1 std::vector", "#3 0.1 std::vector"),
        ("#3 ##[add-path]/evil", "#3 # #[add-path]/evil"),
        ("##vso[task.setvariable]", "# #vso[task.setvariable]"),
        ("### heading", "### heading"),
    ],
)
def test_commands_to_ci_services_are_broken_up(line: str, shown: str) -> None:
    assert without_commands(line) == shown


def test_lines_are_put_together_for_each_step_and_stream() -> None:
    lines = Lines()
    assert lines.feed(1, "stdout", "one\ntw") == ["one"]
    assert lines.feed(2, "stdout", "other\n") == ["other"]
    assert lines.feed(1, "stderr", "bad\n") == ["bad"]
    assert lines.feed(1, "stdout", "o\nrest") == ["two"]
    assert lines.flush(1) == ["rest"]
    assert lines.flush_all() == []


def test_a_carriage_return_hides_nothing() -> None:
    lines = Lines()
    assert lines.feed(0, "stdout", "10%\r20%\rdone\r") == ["10%", "20%"]
    assert lines.feed(0, "stdout", "\nnext\r\n") == ["done", "next"]


def test_an_endless_line_is_shown_in_parts() -> None:
    lines = Lines()
    shown = lines.feed(0, "stdout", "x" * (Lines.LIMIT * 2 + 5))
    assert [len(line) for line in shown] == [Lines.LIMIT, Lines.LIMIT]
    assert lines.flush(0) == ["xxxxx"]
