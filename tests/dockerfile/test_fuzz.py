"""Whatever the text: it parses or it is refused, soon, and never fails otherwise."""

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pybuild.dockerfile.devices import parse_device
from pybuild.dockerfile.directives import detect_syntax
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError
from pybuild.dockerfile.flags import KINDS
from pybuild.dockerfile.instructions import Onbuild
from pybuild.dockerfile.lines import MAX_LINES
from pybuild.dockerfile.modes import parse_chmod
from pybuild.dockerfile.mounts import parse_mount
from pybuild.dockerfile.parse import MAX_STAGES, Dockerfile, parse, parse_onbuild
from pybuild.dockerfile.ports import parse_port_spec
from pybuild.dockerfile.read import READERS
from pybuild.dockerfile.signals import check_signal
from pybuild.dockerfile.words import expand, expand_body, expand_words

FUZZ = settings(max_examples=400)

FRAGMENTS = [
    *(name.upper() + " " for name in READERS),
    *(f"--{flag}=" for flags in KINDS.values() for flag in flags),
    "FROM a AS b\n", "\n", "\r\n", "\\\n", "`\n", "\\", "`", " ", "\t", "'", '"', "$", "${", "}", ":-", "/", "#", "##",
    "%", "=", "a", "b=c", "1", "é", "\u2028", "\0", "[", "]", '["a", "b"]', ",", "<<EOF", "<<-'E'", "\nEOF\n", "\nE\n",
    "--", "# escape=`\n", "# check=skip=all\n", "# syntax=x\n", "NONE", "CMD ", "type=cache,target=/x", "10s", "\ufeff",
]  # fmt: skip

files = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
ENV = {"a": "x y", "b": "", "E": "'\"\\$a"}


def try_parse(text: str | bytes) -> Dockerfile | None:
    refusal = None
    try:
        return parse(text)
    except DockerfileError as error:
        refusal = error
    assert refusal.message
    assert "\n" not in refusal.message
    if refusal.span is not None:
        data = text if isinstance(text, bytes) else text.encode()
        assert 1 <= refusal.span.start_line <= refusal.span.end_line <= data.count(b"\n") + 1
        assert refusal.span.column >= 1
        assert refusal.span.length >= 1
    return None


def try_value(function: Callable[..., object], *values: object) -> None:
    refusal = None
    try:
        function(*values)
    except InvalidValueError as error:
        refusal = error
    assert refusal is None or refusal.message


@FUZZ
@given(st.text())
def test_any_text(text: str) -> None:
    try_parse(text)
    try_parse("FROM a\n" + text)
    detect_syntax(text)


@FUZZ
@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    try_parse(data)
    try_parse(b"FROM a\nRUN " + data)


@FUZZ
@given(files)
@example("# escape=`\nFROM a\nRUN <<EOF\n`")
def test_any_file_of_the_language_s_parts(text: str) -> None:
    for whole in (text, "FROM a\n" + text):
        dockerfile = try_parse(whole)
        if dockerfile is None:
            continue
        for stage in dockerfile.stages:
            for instruction in stage.instructions:
                if isinstance(instruction, Onbuild):
                    again = parse_onbuild(instruction.text, dockerfile.escape)
                    assert type(again) is type(instruction.instruction)


@FUZZ
@given(st.one_of(files, st.text("$${}:-+?#%/*\\'\" ab`E")))
def test_any_word(text: str) -> None:
    for escape in ("\\", "`"):
        for function in (expand, expand_words):
            try_value(function, text, ENV, escape)
    try_value(expand_body, text, ENV)


@FUZZ
@given(st.one_of(st.text(), st.text('0123456789-:/,=+ugoarwxXst.[]SIGRTMNbktype"')))
def test_any_value(text: str) -> None:
    for function in (parse_port_spec, check_signal, parse_chmod, parse_device, parse_mount):
        try_value(function, text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "RUN x" + " \\\n" * (MAX_LINES - 10),
        "RUN x \\\n" + "# c\n" * (MAX_LINES - 10),
        "RUN x \\\n" + "\n" * (MAX_LINES - 10),
        "RUN x\n" * (MAX_LINES - 10),
        "RUN x\n" * (MAX_LINES + 10),
        "FROM a\n" * (MAX_STAGES + 1),
        "RUN <<E\n" + "x\n" * (MAX_LINES - 10) + "E\n",
        "RUN " + "<<E " * 10_000 + "\n" + "E\n" * 10_000,
        "RUN <<E\n" * 20_000,
        "RUN << " + "${" * 32_000,
        'RUN <<"' + '\\"' * 32_000,
        "RUN " + "--mount=type=tmpfs,target=/a " * 2_000 + "x",
        "RUN --mount=" + '"' * 60_000 + " x",
        "CMD " + "[" * 60_000,
        'CMD ["' + "\\\\" * 30_000,
        "COPY " + "a " * 32_000,
        "ENV " + "a=b " * 16_000,
        "ENV a=" + "\\'" * 30_000,
        "LABEL " + "a" * 65_000,
        "F" * 65_000,
        "ONBUILD " * 8_000,
        "HEALTHCHECK --interval=" + "1s" * 30_000 + " CMD x",
        "#" + " " * 4_000_000,
        "x" * (5 << 20),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_file_is_soon_done(text: str) -> None:
    begin = time.process_time()
    try_parse("FROM a\n" + text)
    try_parse(text)
    assert time.process_time() - begin < 20
