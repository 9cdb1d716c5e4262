"""Physical lines become logical ones."""

import pytest

from pybuild.dockerfile.errors import DockerfileError, Span
from pybuild.dockerfile.lines import MAX_LINE, LineReader, LogicalLine
from pybuild.dockerfile.parse import parse


def read(text: str, escape: str = "\\") -> list[LogicalLine]:
    reader = LineReader(text, "Dockerfile", escape)
    return list(iter(reader.read, None))


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("RUN a\\\nb", "RUN ab"),
        ("RUN a \\ \t\n  b", "RUN a   b"),
        ("RUN a\\\\\nRUN b", "RUN a\\\\"),
        ("  RUN a", "RUN a"),
        ("RUN a \\", "RUN a "),
        ("RUN a \\\n# gone\n   # gone too\nb", "RUN a b"),
        ("RUN a # stays", "RUN a # stays"),
        ("RUN a \\\n\n \t\nb", "RUN a b"),
        ("RUN a \\\r\nb\r\n", "RUN a b"),
        ("\\\nRUN a", "RUN a"),
    ],
)
def test_joins_continuations(text: str, joined: str) -> None:
    assert read(text)[0].text == joined


def test_other_escape_continues_instead() -> None:
    assert [line.text for line in read("RUN a`\nb\\\nRUN c", "`")] == ["RUN ab\\", "RUN c"]


def test_keeps_the_place_of_every_character() -> None:
    (line,) = read("\n  COPY a \\\n\n\t b \\\n c")
    assert (line.start_line, line.end_line) == (2, 5)
    assert line.text == "COPY a \t b  c"
    assert line.span(line.text.index("COPY"), 4) == Span(2, 2, 3, 4)
    assert line.span(line.text.index("a"), 6) == Span(2, 2, 8, 1)
    assert line.span(line.text.index("b"), 10) == Span(4, 4, 3, 1)
    assert line.span(line.text.index("c"), 13) == Span(5, 5, 2, 1)


def test_comments_right_above_belong_to_the_instruction() -> None:
    lines = read("# far\n\n# check=skip=A\n #near \nRUN a\nRUN b")
    assert [line.comments for line in lines] == [("check=skip=A", "near"), ()]


def test_empty_line_in_a_continuation_is_warned_of() -> None:
    dockerfile = parse("FROM a\nRUN b \\\n\n c\nRUN d \\\n# note\n e\n")
    (warning,) = dockerfile.warnings
    assert (warning.name, warning.message, warning.line) == ("NoEmptyContinuation", "Empty continuation line", 4)


def test_longest_line_is_counted_in_bytes() -> None:
    prefix = "FROM a\nRUN "
    parse(prefix + "x" * (MAX_LINE - 4))
    for text in ("x" * (MAX_LINE - 3), "é" * (MAX_LINE // 2), "x \\\n" * MAX_LINE):
        with pytest.raises(DockerfileError, match="dockerfile line greater than max allowed size of 65535") as caught:
            parse(prefix + text)
        assert caught.value.span is not None


def test_heredoc_bodies_have_no_longest_line() -> None:
    parse("FROM a\nRUN <<EOF\n" + "x" * (2 * MAX_LINE) + "\nEOF\n")
