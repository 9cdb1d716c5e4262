"""Contexts that are fetched: archives, Dockerfiles and repositories, by both doors and Docker's API."""

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pybuild.client.wire import Connection
from support import repositories
from support import web as servers
from support.images import read_oci
from support.program import Pybuild
from support.repositories import Repository
from support.web import Answer, Web

pytestmark = [pytest.mark.userns, pytest.mark.git]

DOCKERFILE = "FROM scratch\nCOPY . /\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "served" / "a.git")
    made.commit(Dockerfile=DOCKERFILE, file="root", left="out", sub__Dockerfile=DOCKERFILE, sub__file="sub")
    made.commit(**{".dockerignore": "left\n", "other.Dockerfile": "FROM scratch\nCOPY file /other\n"})
    return made


@pytest.fixture
def git(repository: Repository) -> Iterator[Web]:
    with repositories.serve(repository.path.parent) as web:
        yield web


@pytest.fixture
def web() -> Iterator[Web]:
    with servers.serve() as web:
        yield web


def built(pybuild: Pybuild, *args: str | Path, **options: object) -> dict[str, str]:
    """Build and return the files of the image with their content; what users name themselves may be on loopback."""
    out = pybuild.base / "out.tar"
    pybuild("build", "-o", f"type=oci,dest={out}", *args, **options)
    [image] = read_oci(out)
    return {
        path: (node.data or b"").decode(errors="replace") for path, node in image.tree().items() if node.type == "file"
    }


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def test_a_repository(pybuild: Pybuild, git: Web, repository: Repository) -> None:
    files = built(pybuild, git.url("/a.git"))
    assert files.keys() == {"Dockerfile", "file", "sub/Dockerfile", "sub/file", ".dockerignore", "other.Dockerfile"}
    assert built(pybuild, git.url("/a.git#main:sub")) == {"Dockerfile": DOCKERFILE, "file": "sub"}
    assert built(pybuild, "-f", "other.Dockerfile", git.url("/a.git?branch=main")) == {"other": "root"}


@pytest.mark.slow
def test_a_commit_and_a_dockerfile_from_elsewhere(inline: Pybuild, git: Web, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD^")
    assert "left" in built(inline, git.url(f"/a.git#{first}"))
    given = built(inline, "-f", "-", git.url("/a.git"), stdin=b"FROM scratch\nCOPY file /piped\n")
    assert given == {"piped": "root"}


@pytest.mark.slow
def test_a_repository_with_its_history(inline: Pybuild, git: Web) -> None:
    files = built(inline, "--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", git.url("/a.git"))
    assert ".git/HEAD" in files


def test_an_archive(inline: Pybuild, web: Web) -> None:
    web.answers["/context.tgz"] = Answer(archive(Dockerfile=DOCKERFILE, a="1", d="2"), etag='"1"')
    assert built(inline, web.url("/context.tgz")).keys() == {"Dockerfile", "a", "d"}
    web.answers["/context.tgz"] = Answer(archive(other="FROM scratch\nCOPY a /b\n", a="1"), etag='"2"')
    assert built(inline, "-f", "other", web.url("/context.tgz")) == {"b": "1"}


def test_a_dockerfile(inline: Pybuild, web: Web) -> None:
    web.answers["/Dockerfile"] = Answer(b"FROM scratch\nCOPY <<EOF /made\ntext\nEOF\n")
    assert built(inline, web.url("/Dockerfile")) == {"made": "text\n"}
    result = inline("build", "-f", "x", web.url("/Dockerfile"), status=2)
    assert "the context is not a tar" in result.err


def test_what_the_user_names_may_not_lead_elsewhere(inline: Pybuild) -> None:
    with servers.serve(address="127.0.0.2") as web:
        web.answers["/"] = Answer(status=302, headers={"Location": "file:///etc/passwd"})
        result = inline("build", web.url("/"), status=1)
        assert "other than HTTP" in result.err


@pytest.mark.parametrize(
    ("context", "status", "message"),
    [
        ("http://127.0.0.1:1/x", 1, "cannot connect"),
        ("https://-h/x", 2, "no host"),
        ("https://h.example/x.git#-x", 2, "not a branch"),
        ("ext::sh -c touch% canary", 2, "no such directory"),
        ("x/-oX@h:y", 2, "no such directory"),
    ],
)
def test_contexts_that_cannot_be(inline: Pybuild, tmp_path: Path, context: str, status: int, message: str) -> None:
    result = inline("build", context, status=status, cwd=tmp_path)
    assert message in result.err
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_a_dockerfile_outside_of_what_was_fetched(inline: Pybuild, web: Web, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("FROM scratch\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("Dockerfile")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    web.answers["/x"] = Answer(out.getvalue())
    for file in ("Dockerfile", "../../../../../../../../etc/passwd", "link/../../../../../etc/passwd"):
        result = inline("build", "-f", file, web.url("/x"), status=None)
        assert result.status in (1, 2)
        assert "passwd" in result.err or "outside" in result.err
    assert "outside of the context" in inline("build", web.url("/x"), status=2).err


def test_docker_api(daemon: Pybuild, git: Web, web: Web) -> None:
    daemon("images", "--no-inline", status=None)
    daemon("daemon", "start", status=None)
    [socket] = [path for path in daemon.runtime.rglob("*") if path.is_socket()]
    connection = Connection(socket)
    web.answers["/Dockerfile"] = Answer(b"FROM scratch\nLABEL a=b\n")
    for remote in (git.url("/a.git%23main:sub"), web.url("/Dockerfile")):
        body = connection.request("POST", f"/build?remote={remote}&t=api&dockerfile=Dockerfile").read()
        lines = [json.loads(line) for line in body.split(b"\r\n") if line]
        assert any("Successfully tagged" in line.get("stream", "") for line in lines), lines
    connection.close()


def test_the_time_of_the_context_dates_the_image(
    inline: Pybuild, repository: Repository, git: Web, web: Web, tmp_path: Path
) -> None:
    seconds = int(repository.git("log", "-1", "--format=%ct"))
    web.answers["/c.tgz"] = Answer(archive(Dockerfile=DOCKERFILE), modified="Sun, 09 Sep 2001 01:46:40 GMT")
    for address, moment in ((git.url("/a.git"), seconds), (web.url("/c.tgz"), 1_000_000_000)):
        out = tmp_path / "dated"
        inline("build", "-o", f"type=oci,dest={out}", "--build-arg=SOURCE_DATE_EPOCH=context", address)
        [image] = read_oci(out)
        assert datetime.fromisoformat(image.config["created"]).timestamp() == moment
        assert {node.mtime for node in image.layers[0]} == {moment}


def test_the_time_of_a_named_context_and_of_a_stage_dates_the_image(
    inline: Pybuild, repository: Repository, git: Web, web: Web, context: Path, tmp_path: Path
) -> None:
    seconds = int(repository.git("log", "-1", "--format=%ct"))
    web.answers["/f"] = Answer(b"text", modified="Sun, 09 Sep 2001 01:46:40 GMT")
    main = "FROM scratch AS main\nCOPY . /\n"
    (context / "file").write_text("new")
    for address, moment in ((git.url("/a.git"), seconds), (web.url("/f"), 1_000_000_000)):
        stage = f"{main}FROM scratch AS src\nADD {address} /\n"
        for text, args in (
            (main, [f"--build-context=src={address}"]),
            # A Dockerfile may name this machine's servers only where that is allowed
            (stage, ["--target=main", "--network=host", "--allow=network.host"]),
        ):
            (context / "Dockerfile").write_text(text)
            out = tmp_path / "dated"
            inline("build", "-o", f"type=oci,dest={out}", "--build-arg=SOURCE_DATE_EPOCH=src", *args, context)
            assert inline.build(context, "--build-arg=SOURCE_DATE_EPOCH=src", *args, dockerfile=text).redone() == []
            [image] = read_oci(out)
            assert datetime.fromisoformat(image.config["created"]).timestamp() == moment
            assert {node.mtime for node in image.layers[0]} == {moment}


def test_an_archive_without_a_date_has_that_of_its_newest_file(
    inline: Pybuild, web: Web, context: Path, tmp_path: Path
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text, moment in (("Dockerfile", DOCKERFILE, 1_000_000_000), ("old", "x", 5)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), moment
            tar.addfile(member, io.BytesIO(text.encode()))
        directory = tarfile.TarInfo("new")
        directory.type, directory.mtime = tarfile.DIRTYPE, 1_100_000_000
        tar.addfile(directory)
    web.answers["/c.tgz"], web.answers["/text"] = Answer(out.getvalue()), Answer(b"no archive")
    stage = "FROM scratch AS main\nCOPY . /\nFROM scratch AS src\nADD {} /\n"
    ways = [
        (web.url("/c.tgz"), "context", ""),
        (str(context), "src", stage.format(web.url("/c.tgz"))),
        (str(context), "src", stage.format(web.url("/text"))),
    ]
    for number, (source, name, text) in enumerate(ways):
        if text:
            (context / "Dockerfile").write_text(text)
        allowed = ["--target=main", "--network=host", "--allow=network.host"] if text else []
        built = tmp_path / str(number)
        inline("build", "-o", f"type=oci,dest={built}", f"--build-arg=SOURCE_DATE_EPOCH={name}", *allowed, source)
        [image] = read_oci(built)
        is_dated = datetime.fromisoformat(image.config["created"]).timestamp() == 1_000_000_000
        assert is_dated == (number < 2), source


def test_the_time_of_a_layout_dates_the_image(inline: Pybuild, context: Path, tmp_path: Path) -> None:
    layout, out = tmp_path / "layout", tmp_path / "dated"
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    inline("build", "-o", f"type=oci,dest={layout},tar=false", "--build-arg=SOURCE_DATE_EPOCH=1234", context)
    named = f"--build-context=old=oci-layout://{layout}"
    inline("build", "-o", f"type=oci,dest={out}", named, "--build-arg=SOURCE_DATE_EPOCH=old", context)
    [image] = read_oci(out)
    assert datetime.fromisoformat(image.config["created"]).timestamp() == 1234
