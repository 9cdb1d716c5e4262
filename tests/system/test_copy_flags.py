"""The flags of COPY and ADD, in built images."""

import io
import tarfile
from pathlib import Path

import pytest

from support.images import Image
from support.program import Pybuild

pytestmark = pytest.mark.userns


@pytest.fixture
def sources(context: Path) -> Path:
    for name in ("a.txt", "src/a.txt", "src/b.o", "src/x/c.txt", "src/x/d.o", "src/run"):
        path = context / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        path.chmod(0o640)
    (context / "src/run").chmod(0o750)
    (context / "src").chmod(0o751)
    (context / "src/x").chmod(0o710)
    return context


def build(base: Pybuild, context: Path, text: str) -> Image:
    return base.image(context, dockerfile=text)


def modes(image: Image, layer: int = -1) -> dict[str, str]:
    return {node.path: f"{node.mode:o}" for node in image.layers[layer]}


def test_parents_and_exclude(inline_base: Pybuild, sources: Path) -> None:
    image = build(
        inline_base,
        sources,
        "FROM scratch AS made\nCOPY . /in/\n"
        "FROM base\nCOPY --parents ./src/./x src/*.o /p/\nCOPY --parents --exclude=**/*.o src/**/* /q\n"
        "COPY --from=made --parents --exclude=src/x /in/./src /r/\nCOPY --exclude=src --exclude=*.txt . /s/\n"
        "ADD --exclude=x src /t/\nCOPY --parents --link --chown=3:4 src/run /u/\n",
    )
    added = [set(modes(image, layer)) for layer in range(-6, 0)]
    assert added[0] == {"p", "p/x", "p/x/c.txt", "p/x/d.o", "p/src", "p/src/b.o"}
    assert added[1] == {"q", "q/src", "q/src/a.txt", "q/src/run", "q/src/x", "q/src/x/c.txt"}
    assert added[2] == {"r", "r/src", "r/src/a.txt", "r/src/b.o", "r/src/run"}
    assert added[3] == {"s"}
    assert added[4] == {"t", "t/a.txt", "t/b.o", "t/run"}
    assert modes(image) == {"u": "755", "u/src": "751", "u/src/run": "750"}
    assert {(node.uid, node.gid) for node in image.layers[-1]} == {(3, 4)}
    assert image.history[-1]["created_by"] == "COPY --parents --chown=3:4 src/run /u/ # buildkit"


def test_what_is_left_out_does_not_undo_the_cache(inline_base: Pybuild, sources: Path) -> None:
    text = "FROM base\nCOPY --exclude=**/*.o src /s/\nCOPY --parents src/*.txt /p/\n"
    inline_base.build(sources, dockerfile=text)
    (sources / "src/x/d.o").write_text("other")
    assert inline_base.build(sources, dockerfile=text).redone() == []
    (sources / "src/a.txt").write_text("other")
    assert len(inline_base.build(sources, dockerfile=text).redone()) == 2
    assert len(inline_base.build(sources, dockerfile=text.replace("**/*.o", "*.o")).redone()) == 2


def test_symbolic_modes(inline_base: Pybuild, sources: Path) -> None:
    image = build(
        inline_base,
        sources,
        "FROM base\nARG MODE=u=rwX,go=rX\nCOPY --chmod=$MODE src /s/\nCOPY --chmod=2755 --link src /s/\n"
        "COPY --chmod=g=u,+x <<F /f\nx\nF\n",
    )
    assert modes(image, -3) == {
        "s": "755", "s/a.txt": "644", "s/b.o": "644", "s/run": "755", "s/x": "755", "s/x/c.txt": "644",
        "s/x/d.o": "644",
    }  # fmt: skip
    assert modes(image, -2)["s/x"] == modes(image, -2)["s/a.txt"] == "2755"
    assert modes(image) == {"f": "775"}


def test_owners_by_name_and_number(inline_base: Pybuild, sources: Path) -> None:
    (sources / "passwd").write_text("root:x:0:0::/:/bin/sh\nme:x:1001:1002::/:/bin/sh\n")
    (sources / "group").write_text("root:x:0:\nstaff:x:50:me\n")
    text = "FROM scratch\nCOPY passwd group /etc/\nARG WHO=me\n"
    owners = {"$WHO": (1001, 1002), "me:staff": (1001, 50), "7": (7, 7), "7:staff": (7, 50), "me:9": (1001, 9)}
    for number, owner in enumerate(owners):
        text += f"COPY --chown={owner} a.txt /f{number}\n"
    image = build(inline_base, sources, text)
    found = [(node.uid, node.gid) for node in image.tree().values() if node.path.startswith("f")]
    assert found == list(owners.values())
    for flags in ("--chown=nobody-knows", "--chown=me:nogroup", "--link --chown=me"):
        text = f"FROM scratch\nCOPY passwd group /etc/\nCOPY {flags} a.txt /\n"
        failed = inline_base.build(sources, dockerfile=text, status=1)
        error = failed.events[-1]["failure"]
        assert (error["line"], "no such" in error["message"] or "no image to look" in error["message"]) == (3, True)


def test_add_unpack_can_be_switched_off(inline_base: Pybuild, context: Path) -> None:
    with tarfile.open(context / "x.tar", "w") as archive:
        member = tarfile.TarInfo("inner")
        member.size, member.uid = 2, 5
        archive.addfile(member, io.BytesIO(b"hi"))
    text = "FROM scratch\nADD x.tar /a/\nADD --unpack=false x.tar /b/\nADD --unpack --chown=6 x.tar /c/\n"
    image = build(inline_base, context, text)
    assert [image.added(layer) - {"a", "b", "c"} for layer in range(3)] == [{"a/inner"}, {"b/x.tar"}, {"c/inner"}]
    assert [image.tree()[name].uid for name in ("a/inner", "c/inner")] == [5, 6]


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY --exclude=[ src /s/", "malformed pattern as --exclude: ["),
        ("COPY --parents src/none /s/", "not found: src/none"),
        ("COPY --chmod=u+rwy src /s/", "invalid chmod parameter"),
    ],
)
def test_mistakes_are_told_with_their_line(inline_base: Pybuild, sources: Path, instruction: str, message: str) -> None:
    failed = inline_base.build(sources, dockerfile=f"FROM scratch\n{instruction}\n", status=None)
    assert failed.status != 0
    error = failed.events[-1]["failure"]
    assert error["line"] == 2
    assert message in error["message"]
