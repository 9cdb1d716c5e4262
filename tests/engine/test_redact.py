"""Secrets do not come through, however a text is cut into pieces."""

import pytest

from pybuild.engine.redact import Redactor

SECRETS = (b"hunter2-hunter2\n", b"first line\nsecond line\nab\n", b"no", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9")


def redacted(pieces: list[str]) -> str:
    told: list[str] = []
    redactor = Redactor(SECRETS, told.append)
    for piece in pieces:
        redactor.feed(piece)
    redactor.finish()
    return "".join(told)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_whole_values_and_lines_are_hidden(size: int) -> None:
    text = "a hunter2-hunter2 b hunter2-hunter hunter2-hunter2! > second line < no ab hunterhunter2-hunter2"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert redacted(pieces) == "a **** b hunter2-hunter ****! > **** < no ab hunter****"
    assert redacted(["first line\nsecond line\nab"]) == "****"


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    told: list[str] = []
    redactor = Redactor(SECRETS, told.append)
    redactor.feed("one hunt")
    redactor.feed("ing\n")
    assert told == ["one ", "hunting\n"]
    without: list[str] = []
    Redactor((), without.append).feed("at once")
    assert without == ["at once"]
