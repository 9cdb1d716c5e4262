"""What is refused, with which words, and where the finger points."""

import pytest

from pybuild.dockerfile.errors import DockerfileError, Span
from pybuild.dockerfile.parse import parse, parse_onbuild


def refused(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text, name="Some.Dockerfile")
    return caught.value


@pytest.mark.parametrize(
    ("line", "message", "marked"),
    [
        ("FRM a", "unknown instruction: FRM (did you mean FROM?)", "FRM"),
        ("COPPY a b", "unknown instruction: COPPY (did you mean COPY?)", "COPPY"),
        ("zzz a b", "unknown instruction: zzz", "zzz"),
        ("COPY --frm=b a /", "unknown flag: --frm (did you mean --from?)", "--frm=b"),
        ("ADD --from=b a /", "unknown flag: --from", "--from=b"),
        ("CMD --x a", "unknown flag: --x", "--x"),
        ("COPY --chown=1 --chown=2 a b", "duplicate flag specified: --chown", "--chown=2"),
        ("COPY --link --link=false a b", "duplicate flag specified: --link", "--link=false"),
        ("COPY --chown a b", "missing a value on flag: --chown", "--chown"),
        ("COPY --link=maybe a b", "expecting boolean value for flag --link, not: maybe", "--link=maybe"),
        ("RUN --mount x", "missing a value on flag: --mount", "--mount"),
        ("RUN --mount=type=cach,target=/x y", "unsupported mount type: cach (did you mean cache?)", None),
        ("RUN --network=hst y", "unsupported value for --network: hst (did you mean host?)", "--network=hst"),
        ("RUN --security=none y", "unsupported value for --security: none", "--security=none"),
        ("RUN", "RUN requires at least one argument", "RUN"),
        ("CMD", "CMD requires at least one argument", "CMD"),
        ("ENTRYPOINT", "ENTRYPOINT requires at least one argument", "ENTRYPOINT"),
        ("COPY a", "COPY requires at least two arguments", "COPY a"),
        ('ADD ["a"]', "ADD requires at least two arguments", None),
        ("FROM", "FROM requires either one or three arguments", "FROM"),
        ("FROM a b", "FROM requires either one or three arguments", "FROM a b"),
        ("FROM a IS b", "FROM requires either one or three arguments", None),
        ("FROM a AS b c", "FROM requires either one or three arguments", None),
        ("FROM a AS 1b", "invalid name for build stage: '1b'", "1b"),
        ("FROM a AS b/c", "invalid name for build stage: 'b/c'", "b/c"),
        ("WORKDIR", "WORKDIR requires exactly one argument", "WORKDIR"),
        ("USER", "USER requires exactly one argument", "USER"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument", "STOPSIGNAL"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument", "MAINTAINER"),
        ("EXPOSE", "EXPOSE requires at least one argument", "EXPOSE"),
        ("VOLUME", "VOLUME requires at least one argument", "VOLUME"),
        ("VOLUME []", "VOLUME requires at least one argument", "VOLUME []"),
        ('VOLUME ["/a", " "]', "VOLUME specified can not be an empty string", '["/a", " "]'),
        ("ARG", "ARG requires at least one argument", "ARG"),
        ("ARG a =b", "ARG names can not be blank", "=b"),
        ("ENV", "ENV requires at least one argument", "ENV"),
        ("ENV a", "ENV must have two arguments", "a"),
        ("LABEL a", "LABEL must have two arguments", "a"),
        ("ENV a=b c", "can't find = in 'c', must be of the form: name=value", "c"),
        ("LABEL a=b =c", "LABEL names can not be blank", None),
        ('CMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only", '["a", 1]'),
        ("SHELL /bin/sh -c", "SHELL requires the arguments to be in JSON form", "/bin/sh -c"),
        ("SHELL []", "SHELL requires at least one argument", "SHELL []"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument", "HEALTHCHECK"),
        ("HEALTHCHECK CMD", "missing command after HEALTHCHECK CMD", "CMD"),
        ("HEALTHCHECK CMD []", "missing command after HEALTHCHECK CMD", "CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", "NONE"),
        ("HEALTHCHECK TCP 80", "unknown type 'TCP' in HEALTHCHECK (try CMD)", "TCP"),
        ("HEALTHCHECK --interval=5 CMD x", "not a duration: '5'", "--interval=5"),
        ("HEALTHCHECK --timeout=999us CMD x", "--timeout cannot be less than 1ms: 999us", "--timeout=999us"),
        ("HEALTHCHECK --timeout=-1s CMD x", "--timeout cannot be less than 1ms: -1s", "--timeout=-1s"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries must be a whole number of at least 0, not: -1", "--retries=-1"),
        ("ONBUILD", "ONBUILD requires at least one argument", "ONBUILD"),
        ("ONBUILD ONBUILD RUN x", "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", "ONBUILD RUN x"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger", "FROM x"),
        ("ONBUILD MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger", "MAINTAINER x"),
        ("ONBUILD COPI a b", "unknown instruction: COPI (did you mean COPY?)", "COPI"),
        ("ONBUILD COPY a", "COPY requires at least two arguments", "COPY a"),
        ("COPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination", "<<EOF"),
        ("RUN cat <<EOF\nEOF \n", "unterminated heredoc: EOF", "<<EOF"),
        ("RUN cat <<'EOF", "unterminated quote in the name of a heredoc: <<'EOF", None),
    ],
)
def test_wrong_instruction(line: str, message: str, marked: str | None) -> None:
    error = refused(f"FROM base\n\n{line}\n")
    assert error.message == message
    assert error.http_status == 400
    assert str(error) == f"dockerfile parse error on line 3: {message}"
    assert error.file == "Some.Dockerfile"
    span = error.span
    assert span is not None
    assert error.source.startswith(line.split("\n")[0])
    if marked is not None:
        assert error.source[span.column - 1 : span.column - 1 + span.length] == marked


def test_error_points_into_the_continued_line() -> None:
    error = refused("FROM base\nCOPY \\\n  # not this\n\t--frm=x a b\n")
    assert error.span == Span(4, 4, 2, 7)
    assert error.source == "\t--frm=x a b"


def test_mark_ends_with_its_physical_line() -> None:
    error = refused("FROM base\nSHELL /bin/bash \\\n  -c\n")
    assert error.span == Span(2, 2, 7, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file with no instructions"),
        ("\n# only\n  # comments\n", "file with no instructions"),
        ("\\\n\\\n", "file with no instructions"),
        ("RUN x\nFROM a\n", "no build stage in current context"),
        ("ARG a\n", "dockerfile contains no stages to build"),
        ("# escape=x\nFROM a\n", "invalid escape token 'x' does not match ` or \\"),
        ("# escape=`\n# Escape=`\nFROM a\n", "only one escape parser directive can be used"),
        ("# check=skp=all\nFROM a\n", "invalid check option: skp (did you mean skip?)"),
        ("# check=error=perhaps\nFROM a\n", "check option error must be true or false, not: perhaps"),
        (b"FROM a\nRUN \xff\n", "file is not UTF-8"),
        ("FROM a\nRUN \udc80\n", "file is not valid Unicode"),
    ],
)
def test_wrong_file(text: str | bytes, message: str) -> None:
    assert refused(text).message == message


def test_error_without_a_place_prints_its_message_alone() -> None:
    assert str(refused("")) == "file with no instructions"


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ("ONBUILD RUN x", "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("RUN a\nRUN b", "a trigger holds one instruction, here is another"),
        ("", "file with no instructions"),
        ("COPPY a b", "unknown instruction: COPPY (did you mean COPY?)"),
    ],
)
def test_wrong_trigger_of_a_base_image(trigger: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_onbuild(trigger)
    assert caught.value.message == message
    assert caught.value.file == "ONBUILD trigger"
