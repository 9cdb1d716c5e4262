"""ADD of URLs, built for real from servers on loopback."""

import hashlib
import io
import resource
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import web as servers
from support.images import Image
from support.program import Pybuild, Result
from support.web import Answer, Web

pytestmark = pytest.mark.userns

ALLOW = "--allow=network.host"
"""Servers of these tests are on this machine."""


@pytest.fixture
def web() -> Iterator[Web]:
    with servers.serve() as web:
        yield web


def build(pybuild: Pybuild, context: Path, text: str, *args: str | Path, **options: object) -> Image:
    return pybuild.image(context, ALLOW, *args, dockerfile=text, **options)


def failure(result: Result) -> dict[str, object]:
    found: dict[str, object] = result.events[-1]["failure"]
    return found


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.mode = len(text), 7, 8, 0o640
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def test_files_have_their_names_modes_owners_and_times(inline: Pybuild, context: Path, web: Web) -> None:
    (context / "local").write_text("local")
    web.answers["/dir/file%20a.bin"] = Answer(b"one", modified="Tue, 01 Sep 2026 10:00:00 GMT")
    web.answers["/plain"] = Answer(b"two")
    web.answers["/"] = Answer(b"root")
    web.answers["/called/"] = Answer(b"by name", headers={"Content-Disposition": "attachment; filename=../its-name"})
    text = f"""\
FROM scratch
ARG HOST={web.url("")}
ADD $HOST/dir/file%20a.bin?query=1 /in/
ADD {web.url("/plain")} /as/this
ADD --chown=5:6 --chmod=0751 {web.url("/plain")} local /owned/
ADD --link {web.url("/plain")} /linked
ADD {web.url("/")} {web.url("/called/")} /unnamed/
"""
    image = build(inline, context, text)
    tree = image.tree()
    first = tree["in/file a.bin"]
    assert (first.text, first.mode, first.uid, first.gid, first.mtime) == ("one", 0o600, 0, 0, 1788256800)
    assert (tree["as/this"].text, tree["as/this"].mode, tree["as/this"].mtime) == ("two", 0o600, 0)
    owned = tree["owned/plain"]
    assert (owned.mode, owned.uid, owned.gid) == (0o751, 5, 6)
    assert tree["owned/local"].uid == 5
    assert tree["linked"].text == "two"
    assert (tree["unnamed/__unnamed__"].text, tree["unnamed/its-name"].text) == ("root", "by name")
    assert image.history[1]["created_by"] == f"ADD {web.url('/dir/file%20a.bin?query=1')} /in/ # buildkit"


@pytest.mark.slow
def test_archives_are_unpacked_only_when_asked(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/a.tgz"] = Answer(archive(**{"d/one": "1"}))
    web.answers["/no.tgz"] = Answer(b"no archive")
    address = web.url("/a.tgz")
    text = f"""\
FROM scratch
ADD {address} /packed/
ADD --unpack {address} /open/
ADD --unpack=false {address} /shut/
ADD --unpack=true {web.url("/no.tgz")} /plain/
"""
    tree = build(inline, context, text).tree()
    assert tree["packed/a.tgz"].sha256 == hashlib.sha256(web.answers["/a.tgz"].body).hexdigest()
    unpacked = tree["open/d/one"]
    assert (unpacked.text, unpacked.uid, unpacked.mode) == ("1", 7, 0o640)
    assert "open/a.tgz" not in tree
    assert "shut/a.tgz" in tree
    assert tree["plain/no.tgz"].text == "no archive"


@pytest.mark.parametrize("name", ["../../up", "a/../../b", "l/../../up"])
def test_an_archive_that_leads_out_is_refused(inline: Pybuild, context: Path, web: Web, name: str) -> None:
    web.answers["/evil.tar"] = Answer(evil(name))
    text = f"FROM scratch\nADD --unpack {web.url('/evil.tar')} /x/\n"
    found = failure(inline.build(context, ALLOW, dockerfile=text, status=1))
    assert found["line"] == 2
    assert name in str(found["message"])


def test_an_archive_writes_through_no_link(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/evil.tar"] = Answer(evil("/abs", "l/through"))
    tree = build(inline, context, f"FROM scratch\nADD --unpack {web.url('/evil.tar')} /x/\n").tree()
    assert {path: node.type for path, node in tree.items()} == {
        "x": "dir",
        "x/abs": "file",
        "x/l": "dir",
        "x/l/through": "file",
    }


def evil(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def test_of_one_name_the_last_stays_wherever_it_is_from(inline: Pybuild, context: Path, web: Web) -> None:
    (context / "f").write_text("local")
    (context / "t.tgz").write_bytes(archive(f="packed"))
    web.answers["/f"] = Answer(b"fetched")
    url = web.url("/f")
    text = f"""\
FROM scratch
ADD f {url} t.tgz /1/
ADD {url} t.tgz f /2/
ADD t.tgz f {url} /3/
ADD f {url} <<f /4/
inline
f
COPY <<f f /5/
inline
f
"""
    tree = build(inline, context, text).tree()
    assert [tree[f"{at}/f"].text.strip() for at in range(1, 6)] == ["packed", "local", "fetched", "inline", "inline"]


def test_a_cached_build_asks_whether_anything_changed(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(b"first", etag='"1"')
    text = f"FROM scratch\nADD {web.url('/f')} /f\n"
    step = f"ADD {web.url('/f')} /f"
    assert inline.build(context, ALLOW, dockerfile=text).steps() == {step: False}
    web.asked.clear()
    assert inline.build(context, ALLOW, dockerfile=text).steps() == {step: True}
    assert [asked.headers["If-None-Match"] for asked in web.asked] == ['"1"']
    # The same bytes from elsewhere are the same content
    web.answers["/f"] = Answer(b"first", etag='"2"')
    assert inline.build(context, ALLOW, dockerfile=text).steps() == {step: True}
    web.answers["/f"] = Answer(b"second", etag='"3"')
    assert inline.build(context, ALLOW, dockerfile=text).steps() == {step: False}
    assert build(inline, context, text).read("f") == "second"
    del web.answers["/f"]
    result = inline.build(context, ALLOW, dockerfile=text, status=1)
    assert (failure(result)["line"], "404 Not Found" in str(failure(result)["message"])) == (2, True)


def test_a_checksum_saves_the_question(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(b"content")
    right = hashlib.sha256(b"content").hexdigest()
    longer = hashlib.sha512(b"content").hexdigest()
    text = f"FROM scratch\nARG SUM\nADD --checksum=$SUM {web.url('/f')} /f\n"
    for checksum in (f"sha256:{right}", f"sha512:{longer}"):
        assert build(inline, context, text, f"--build-arg=SUM={checksum}").read("f") == "content"
    web.asked.clear()
    del web.answers["/f"]
    build(inline, context, text, f"--build-arg=SUM=sha256:{right}")
    assert not web.asked


def test_a_wrong_checksum_fails_at_its_line_and_keeps_nothing(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(b"content")
    wrong = "0" * 64
    text = f"FROM scratch\nADD --checksum=sha256:{wrong} {web.url('/f')} /f\n"
    result = inline.build(context, ALLOW, dockerfile=text, status=1)
    found = failure(result)
    assert found["line"] == 2
    assert wrong in str(found["message"])
    assert hashlib.sha256(b"content").hexdigest() in str(found["message"])
    assert inline.state()[1] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--checksum=sha256:12 http://h.example/x /", "not a checksum"),
        (f"--checksum=sha256:{'0' * 64} local /", "--checksum is for one source"),
        pytest.param(
            f"--checksum=sha256:{'0' * 64} http://h.example/x http://h.example/y /",
            "--checksum is for one source",
            marks=pytest.mark.slow,
        ),
        pytest.param("http://-h.example/x /", "no host", marks=pytest.mark.slow),
        ("http://127.0.0.1/x /", "may not be reached"),
        pytest.param("http://localhost:1/x /", "may not be reached", marks=pytest.mark.slow),
        pytest.param("http://169.254.169.254/latest/meta-data/ /", "may not be reached", marks=pytest.mark.slow),
    ],
)
def test_what_is_refused(inline: Pybuild, context: Path, arguments: str, message: str) -> None:
    (context / "local").write_text("x")
    result = inline.build(context, dockerfile=f"FROM scratch\nADD {arguments}\n", status=1)
    found = failure(result)
    assert message in str(found["message"])
    assert found["line"] == 2


def test_secrets_are_sent_to_the_host_in_their_name(daemon: Pybuild, context: Path, web: Web) -> None:
    web.answers["/token"] = Answer(b"1", authorization="Bearer s3cr3t-value")
    web.answers["/header"] = Answer(b"2", authorization="Basic abc")
    with servers.serve() as other:
        other.answers["/free"] = Answer(b"3")
        web.answers["/away"] = Answer(status=302, headers={"Location": other.url("/free")})
        text = f"FROM scratch\nADD {web.url('/token')} {web.url('/away')} {other.url('/free?2')} /\n"
        secret = daemon.base / "token"
        secret.write_text("s3cr3t-value\n")
        name = f"HTTP_AUTH_TOKEN_127.0.0.1:{web.port}"
        result = daemon.build(context, ALLOW, "--secret", f"id={name},src={secret}", dockerfile=text)
        assert [asked.headers.get("Authorization") for asked in other.asked] == [None, None]
        assert "s3cr3t-value" not in result.err
    assert not [path for path in daemon.store.rglob("*") if path.is_file() and b"s3cr3t-value" in path.read_bytes()]
    text = f"FROM scratch\nADD {web.url('/header')} /\n"
    given = "id=HTTP_AUTH_HEADER_127.0.0.1,env=HEADER"
    daemon.build(context, ALLOW, "--secret", given, dockerfile=text, env={"HEADER": "Basic abc"})
    result = daemon.build(context, ALLOW, dockerfile=text, status=1)
    assert "HTTP_AUTH_TOKEN_127.0.0.1" in str(failure(result)["hint"])


@pytest.mark.slow
def test_a_password_in_the_address_is_not_kept(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(b"x", authorization="Basic bWU6aHVzaDEyMw==")
    text = f"FROM scratch\nADD {web.url('/f', host='me:hush123@127.0.0.1')} /f\n"
    image = build(inline, context, text)
    assert image.history[0]["created_by"] == f"ADD {web.url('/f', host='xxxxx@127.0.0.1')} /f # buildkit"
    result = inline.build(context, ALLOW, dockerfile=text.replace("/f /f", "/gone /f"), status=1)
    assert "hush123" not in result.err
    kept = [path for path in inline.store.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"hush123" in path.read_bytes()]


@pytest.mark.slow
def test_a_proxy_of_the_user_is_taken_by_both_doors(pybuild: Pybuild, context: Path, web: Web) -> None:
    web.answers["http://files.example/a"] = Answer(b"by proxy")
    text = "FROM scratch\nADD http://files.example/a /a\n"
    # A proxy is the user's own and may be anywhere
    args = ("-o", f"type=local,dest={pybuild.base}/out")
    pybuild.build(context, *args, dockerfile=text, env={"http_proxy": web.url("")})
    assert (pybuild.base / "out" / "a").read_text() == "by proxy"
    given = f"--build-arg=HTTP_PROXY={web.url('')}"
    pybuild.build(context, given, dockerfile=text, env={"http_proxy": "http://127.0.0.1:1"})


@pytest.mark.tls
@pytest.mark.slow
def test_certificates_of_the_user_are_trusted(inline: Pybuild, context: Path, tmp_path: Path) -> None:
    pem = servers.certificate(tmp_path)
    bundle = servers.authority(tmp_path)
    with servers.serve(pem) as web:
        web.answers["/f"] = Answer(b"safe")
        text = f"FROM scratch\nADD {web.url('/f')} /f\n"
        assert build(inline, context, text, "--ca-bundle", bundle).read("f") == "safe"
        result = inline.build(context, ALLOW, dockerfile=text, status=1)
        assert "certificate" in str(failure(result)["message"])


def test_a_download_over_the_limit(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(bytes(5000), length=-1)
    text = f"FROM scratch\nADD {web.url('/f')} /f\n"
    result = inline.build(context, ALLOW, "--max-download=4k", dockerfile=text, status=1)
    assert "limit of 4096 bytes" in str(failure(result)["message"])
    assert inline.state()[1] == []


def test_a_disk_that_is_full(inline: Pybuild, context: Path, web: Web) -> None:
    """A file may grow to 4 MB here, and no further."""
    web.answers["/f"] = Answer(bytes(6 << 20))
    place = inline.base / "Dockerfile"
    place.write_text(f"FROM scratch\nADD {web.url('/f')} /f\n")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    client = inline.start(
        *("build", "--progress=json", ALLOW, "-f", place, context),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, limit[1])),
    )
    found = failure(inline.finish(client, status=1))
    assert "cannot write a blob" in str(found["message"])
    assert found["line"] == 2
    assert inline.state()[1] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_ends_during_a_download_leaves_nothing(
    inline: Pybuild, context: Path, web: Web, how: signal.Signals
) -> None:
    web.answers["/f"] = Answer(bytes(100_000), stall=50_000)
    (inline.base / "Dockerfile").write_text(f"FROM scratch\nADD {web.url('/f')} /f\n")
    client = inline.start("build", ALLOW, "-f", inline.base / "Dockerfile", context)
    while not web.asked:
        assert client.poll() is None
    client.send_signal(how)
    client.communicate(timeout=30)
    web.answers["/f"] = Answer(b"whole")
    assert build(inline, context, (inline.base / "Dockerfile").read_text()).read("f") == "whole"
    assert not list((inline.store / "tmp").iterdir())


def test_two_stages_fetch_once_and_prune_spares_what_the_cache_needs(inline: Pybuild, context: Path, web: Web) -> None:
    web.answers["/f"] = Answer(b"shared", etag='"1"')
    text = f"""\
FROM scratch AS one
ADD {web.url("/f")} /a
FROM scratch AS two
ADD {web.url("/f")} /b
FROM scratch
COPY --from=one / /
COPY --from=two / /
"""
    build(inline, context, text)
    assert len(web.asked) == 1
    blob = inline.store / "blobs" / "sha256" / hashlib.sha256(b"shared").hexdigest()
    inline("prune", "--force")
    assert blob.exists()
    inline("prune", "--all", "--force")
    assert not blob.exists()
