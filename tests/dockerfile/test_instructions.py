"""Every instruction becomes a value of its own, words unexpanded."""

import pytest

from pybuild.dockerfile.errors import Span
from pybuild.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Located,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from pybuild.dockerfile.parse import parse, parse_onbuild

PLACE = {"span": Span(2, 2, 1, 1), "original": "", "comments": ()}


def one(line: str) -> Instruction:
    (instruction,) = parse("FROM base\n" + line).stages[0].instructions
    return instruction


def fields(instruction: Instruction) -> dict[str, object]:
    """Return what an instruction says, without its place."""
    names = set(type(instruction).__struct_fields__) - set(Located.__struct_fields__)
    return {name: getattr(instruction, name) for name in names}


def same(found: Instruction, expected: Instruction) -> None:
    assert type(found) is type(expected)
    assert fields(found) == fields(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("RUN echo  $A # x", Run(ShellForm("echo  $A # x"), **PLACE)),
        ("RUN []", Run(ExecForm(()), **PLACE)),
        (
            "RUN --mount=type=tmpfs,target=/a --mount=$M --device=x --device=y --network=host --security=insecure a",
            Run(
                ShellForm("a"),
                mounts=("type=tmpfs,target=/a", "$M"),
                network="host",
                security="insecure",
                devices=("x", "y"),
                **PLACE,
            ),
        ),
        ("COPY a $B c/", Copy(("a", "$B"), "c/", **PLACE)),
        (
            "COPY --from=$x --chown=a:$g --chmod=u+x --link --parents=FALSE --exclude=*.a --exclude=b a b",
            Copy(("a",), "b", "$x", "a:$g", "u+x", True, False, ("*.a", "b"), **PLACE),
        ),
        ("COPY --from= a b", Copy(("a",), "b", **PLACE)),
        ('COPY ["a b", "c d"]', Copy(("a b",), "c d", **PLACE)),
        ("ADD a b", Add(("a",), "b", **PLACE)),
        (
            "ADD --keep-git-dir --checksum=sha256:1 --unpack=false --link=false u d",
            Add(("u",), "d", keep_git_dir=True, checksum="sha256:1", unpack=False, **PLACE),
        ),
        ("ENV a=$b c='d e'", Env((("a", "$b"), ("c", "'d e'")), **PLACE)),
        ("ENV a b  c", Env((("a", "b  c"),), legacy=True, **PLACE)),
        ('LABEL "a b"=c d=', Label((('"a b"', "c"), ("d", "")), **PLACE)),
        ("LABEL a b", Label((("a", "b"),), legacy=True, **PLACE)),
        ("ARG a b= c=$a", Arg((("a", None), ("b", ""), ("c", "$a")), **PLACE)),
        ("EXPOSE 80 $P/udp", Expose(("80", "$P/udp"), **PLACE)),
        ("VOLUME /a /b", Volume(("/a", "/b"), **PLACE)),
        ('VOLUME ["/a b"]', Volume(("/a b",), **PLACE)),
        ("USER $u:g", User("$u:g", **PLACE)),
        ("WORKDIR /a b/", Workdir("/a b/", **PLACE)),
        ('ENTRYPOINT ["a", "b"]', Entrypoint(ExecForm(("a", "b")), **PLACE)),
        ("ENTRYPOINT []", Entrypoint(ExecForm(()), **PLACE)),
        ("ENTRYPOINT a b", Entrypoint(ShellForm("a b"), **PLACE)),
        ("CMD []", Cmd(ExecForm(()), **PLACE)),
        ('CMD ["a" "b"]', Cmd(ShellForm('["a" "b"]'), **PLACE)),
        ('CMD ["a", 1] x', Cmd(ShellForm('["a", 1] x'), **PLACE)),
        ('CMD ["a"] # no', Cmd(ShellForm('["a"] # no'), **PLACE)),
        ('SHELL ["a"]', Shell(("a",), **PLACE)),
        ("STOPSIGNAL $S", Stopsignal("$S", **PLACE)),
        ("HEALTHCHECK NONE", Healthcheck(("NONE",), **PLACE)),
        ("HEALTHCHECK CMD a $B", Healthcheck(("CMD-SHELL", "a $B"), **PLACE)),
        ('HEALTHCHECK CMD ["a", "b"]', Healthcheck(("CMD", "a", "b"), **PLACE)),
        (
            "HEALTHCHECK --interval=1m --timeout=2s --start-period=3ms --start-interval=0s --retries=4 CMD a",
            Healthcheck(("CMD-SHELL", "a"), 60_000_000_000, 2_000_000_000, 3_000_000, 0, 4, **PLACE),
        ),
        ("MAINTAINER A B <c>", Maintainer("A B <c>", **PLACE)),
    ],
)
def test_instruction(line: str, expected: Instruction) -> None:
    same(one(line), expected)


def test_place_and_text_come_along() -> None:
    (run,) = parse("FROM base\n\n# why\n  run  a \\\n  b  \n").stages[0].instructions
    assert (run.original, run.keyword, run.comments) == ("run  a   b", "run", ("why",))
    assert run.span == Span(4, 5, 3, 7)


def test_onbuild_holds_its_instruction() -> None:
    onbuild = one("ONBUILD COPY --from=x a \\\n b")
    assert isinstance(onbuild, Onbuild)
    assert onbuild.text == "COPY --from=x a  b"
    same(onbuild.instruction, Copy(("a",), "b", from_="x", **PLACE))
    assert onbuild.instruction.original == "COPY --from=x a  b"
    assert onbuild.instruction.span == Span(2, 3, 9, 16)


def test_trigger_of_a_base_image() -> None:
    same(parse_onbuild("run a"), Run(ShellForm("a"), **PLACE))
    assert parse_onbuild("RUN a", span=Span(7, 7, 1, 4)).span == Span(7, 7, 1, 4)
    same(parse_onbuild("RUN a`\nb", "`"), Run(ShellForm("ab"), **PLACE))


def test_stages() -> None:
    dockerfile = parse(
        "ARG a=1\nARG b\nFROM --platform=$P one:$a as First\nRUN x\nARG c\nFROM two\nFROM scratch AS first\n"
    )
    assert [arg.args for arg in dockerfile.args] == [(("a", "1"),), (("b", None),)]
    assert [(stage.index, stage.name, len(stage.instructions)) for stage in dockerfile.stages] == [
        (0, "first", 2),
        (1, None, 0),
        (2, "first", 0),
    ]
    same(dockerfile.stages[0].from_, From("one:$a", "First", "$P", **PLACE))
    assert dockerfile.escape == "\\"
    assert dockerfile.name == "Dockerfile"


def test_text_is_kept_for_messages() -> None:
    assert parse(b"\xef\xbb\xbfFROM a\r\n").text == "FROM a\r\n"


def test_half_surrogates_of_json_are_replaced() -> None:
    same(one('CMD ["\\ud800", "\\ud83d\\ude00"]'), Cmd(ExecForm(("\ufffd", "\U0001f600")), **PLACE))


def test_quotes_and_escapes_of_flags_are_taken_out() -> None:
    same(one("COPY --chown='a b' --chmod=\"7\"55 --exclude=\\$x a b"), Copy(
        ("a",), "b", chown="a b", chmod="755", excludes=("$x",), **PLACE
    ))  # fmt: skip
