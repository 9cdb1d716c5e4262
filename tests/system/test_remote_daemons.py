"""`--host`: the daemon of another machine, through ssh, through TLS, or behind a socket."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.api.events import Failed
from pybuild.api.request import BuildRequest
from pybuild.client.remote import Remote
from pybuild.client.wire import Connection
from support import images, program, sshd
from support.fake_world import wait_for
from support.program import COMMAND, Pybuild
from support.sshd import Server

pytestmark = [pytest.mark.userns, pytest.mark.sshd]

DOCKERFILE = """\
FROM base
RUN --mount=type=secret,id=word cat /run/secrets/word > /word && echo told
COPY . /there
"""


@pytest.fixture(scope="module")
def far(_adopted: None) -> Iterator[Pybuild]:
    """The program of the other machine, which is this one, with an image `base`."""
    with program.world("daemon") as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture(scope="module")
def server(far: Pybuild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("sshd")
    tools = base / "tools"
    tools.mkdir()
    start = tools / "pybuild"
    start.write_text("#!/bin/sh\nexec " + " ".join(COMMAND) + ' "$@"\n')
    start.chmod(0o755)
    names = (
        "HOME",
        "PYTHONPATH",
        "PYTHONPYCACHEPREFIX",
        "PYBUILD_STORE",
        "PYBUILD_RUNTIME_DIR",
        "PYBUILD_IDLE_TIMEOUT",
    )
    environment = {name: far.env[name] for name in names if far.env.get(name)}
    with sshd.serve(base, {**environment, "PATH": f"{tools}:{os.environ['PATH']}"}) as server:
        yield server


@pytest.fixture
def near(_adopted: None, server: Server) -> Iterator[Pybuild]:
    """The program here, which has nothing and asks the other one."""
    with program.world("inline") as pybuild:
        del pybuild.env["PYBUILD_INLINE"]
        pybuild.env.update(PATH=f"{server.bin}:{os.environ['PATH']}", PYBUILD_HOST=server.url)
        yield pybuild


def make_context(directory: Path) -> Path:
    (directory / "src" / "deep").mkdir(parents=True)
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "src" / "main").write_text("code")
    (directory / "src" / "main").chmod(0o751)
    (directory / "src" / "link").symlink_to("main")
    (directory / "src" / "deep" / "big").write_bytes(bytes(3_000_000))
    (directory / "left").write_text("out")
    (directory / ".dockerignore").write_text("left\nDockerfile\n.dockerignore\n")
    return directory


def test_a_context_is_sent_and_built_as_here(near: Pybuild, far: Pybuild, tmp_path: Path) -> None:
    context = make_context(tmp_path / "c")
    secret = tmp_path / "secret"
    secret.write_text("hush")
    out = tmp_path / "out.tar"
    arguments = ("-t", "app", "--secret", f"id=word,src={secret}")
    near.build(context, *arguments, "-o", f"type=oci,dest={out}")
    [image] = images.read_oci(out)
    there = {path: node for path, node in image.tree().items() if path.startswith("there/")}
    assert {*there} == {"there/src", "there/src/main", "there/src/link", "there/src/deep", "there/src/deep/big"}
    assert there["there/src/main"].mode & 0o777 == 0o751
    # A build in place finds all of it in the cache
    assert far.build(context, *arguments).redone() == []
    assert near.build(context, *arguments).redone() == []
    assert not (near.store / "blobs").exists()


def test_named_directories_are_sent_and_a_directory_is_written(near: Pybuild, far: Pybuild, tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    for directory in (main, other / "deep"):
        directory.mkdir(parents=True)
    (main / "file").write_text("main")
    (main / "Dockerfile").write_text("FROM scratch\nCOPY . /main\nCOPY --from=second . /second\n")
    (other / "deep" / "file").write_text("other")
    (other / "left").write_text("out")
    (other / ".dockerignore").write_text("left\n")
    (other / "deep" / "file").chmod(0o4755)
    arguments = ("--build-context", f"second={other}")
    near.build(main, *arguments, "-o", f"type=local,dest={tmp_path}/out")
    found = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*")}
    names = (
        "main",
        "main/file",
        "main/Dockerfile",
        "second",
        "second/.dockerignore",
        "second/deep",
        "second/deep/file",
    )
    assert {*found} == {*names}
    assert found["second/deep/file"].read_text() == "other"
    assert found["second/deep/file"].stat().st_mode & 0o7777 == 0o755
    assert far.build(main, *arguments).redone() == []


@pytest.mark.parametrize("place", ["../..", "/etc", "a/../../..", "", "link", "./x"])
def test_what_is_said_to_be_sent_lies_in_what_was_sent(near: Pybuild, far: Pybuild, place: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    text = "FROM scratch\nCOPY --from=x . /\n"
    request = BuildRequest(dockerfile_text=text, build_contexts={"x": f"sent://{place}"})
    remote = Remote(Connection(far.runtime / "pybuild.sock"))
    with remote:
        last = [*remote.build(request, io.BytesIO(out.getvalue()))][-1]
    assert isinstance(last, Failed)
    assert "sent" in last.failure.message


def test_commands_ask_the_other_machine(near: Pybuild, far: Pybuild, tmp_path: Path) -> None:
    assert near("tag", "base", "second").text == ""
    assert {"base:latest", "second:latest"} <= near.names() == far.names()
    assert near.json("inspect", "second")[0]["Id"] == far.json("inspect", "base")[0]["Id"]
    archive = tmp_path / "saved.tar"
    near("save", "-o", archive, "second")
    assert "Untagged: second:latest" in near("rmi", "second").text
    assert "second:latest" in near("load", "-i", archive).text
    near("prune", "--dry-run")
    near("df")
    near("rmi", "second")
    assert "No such image" in near("inspect", "second", status=1).err
    refused = near("shell", "base", "true", status=2).err
    assert "no shell can be had from another machine" in refused


def test_who_is_killed_takes_the_build_along(near: Pybuild, far: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN echo begun && sleep 1000\n")
    process = near.start("build", "--progress=plain", tmp_path)
    assert process.stderr is not None
    assert any(b"begun" in line for line in process.stderr)
    assert far.json("daemon", "status", "--json")["builds"] == 1
    process.kill()
    process.communicate()
    wait_for(lambda: far.json("daemon", "status", "--json")["builds"] == 0, 60)


def test_a_daemon_is_started_there(near: Pybuild, far: Pybuild) -> None:
    far("daemon", "stop")
    assert "base:latest" in near.names()
    assert far.json("daemon", "status", "--json")["running"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("build", "--ssh", "default=KEY", "."), "--ssh does not go to another machine"),
        (("build", "-o", "type=oci,tar=false,dest=out", "."), "--output does not write a layout"),
        (("build", "--cache-from", "type=local,src=cache", "."), "a cache of type local is a directory"),
        (("build", "--build-context", "x=.", "-"), "the named context is a directory of this machine"),
        (("build", "--shell-on-fail", "."), "--shell-on-fail does not go to another machine"),
        (("build", "--inline", "."), "--inline builds here, and the host is another"),
    ],
)
def test_what_cannot_be_elsewhere_is_refused(near: Pybuild, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\n")
    (tmp_path / "KEY").write_text("")
    (tmp_path / "cache").mkdir()
    result = near(*words, status=2, cwd=tmp_path)
    assert told in result.err


def test_a_file_that_cannot_be_read_is_told(near: Pybuild, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads all files")
    (tmp_path / "Dockerfile").write_text("FROM base\nCOPY . /\n")
    (tmp_path / "closed").write_text("x")
    (tmp_path / "closed").chmod(0)
    result = near("build", tmp_path, status=1)
    assert result.err.startswith("error: ")
    assert "closed" in result.err
    assert "ermission denied" in result.err


def test_errors_of_ssh_are_told_in_a_line(near: Pybuild, server: Server) -> None:
    def told(host: str) -> str:
        result = near("--host", host, "images", status=1)
        assert [line.partition(":")[0] for line in result.err.splitlines()] == ["error", "hint"][
            : len(result.err.splitlines())
        ]
        return result.err

    assert "Permission denied (publickey)" in told(f"ssh://somebody@127.0.0.1:{server.port}")
    assert "Connection refused" in told("ssh://127.0.0.1:1")
    assert "on 127.0.0.1: cannot reach the daemon: /nowhere/x.sock" in told(f"{server.url}/nowhere/x.sock")


def test_a_name_of_the_settings(near: Pybuild, server: Server, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(
        f'[hosts.builder]\nurl = "{server.url}"\n[hosts.no]\nurl = "{server.url}"\ncommand = "nopybuild"\n'
    )
    near.env.update(PYBUILD_CONFIG=str(settings), PYBUILD_HOST="builder")
    assert "base:latest" in near.names()
    [builder, no] = [json.loads(line) for line in near("host", "list", "--check", "--json").text.splitlines()]
    assert (builder["current"], builder["state"].startswith("pybuild ")) == (True, True)
    assert (no["current"], "there is no pybuild on 127.0.0.1" in no["state"]) == (False, True)
    assert near("host", "list").text.splitlines()[1].split() == ["*", "builder", server.url]
    status = near.json("daemon", "status", "--json")
    assert (status["host"], status["running"]) == (server.url, True)
    for words in (("daemon", "stop"), ("daemon", "start")):
        assert "is for the daemon of this machine" in near(*words, status=2).err
    assert "docker's tools would look for a Docker" in near("env", status=2).err
    missing = near("images", "--host", "no", status=1).err
    assert "there is no pybuild on 127.0.0.1" in missing
    assert "nopybuild" in missing
    assert "no such host: other\nhint: known: builder, no" in near("images", "--host=other", status=2).err


def test_the_way_through_a_socket(near: Pybuild, far: Pybuild, tmp_path: Path) -> None:
    near.env["PYBUILD_HOST"] = f"unix://{far.runtime}/pybuild.sock"
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN echo told\nCOPY file /\n")
    (tmp_path / "file").write_text("content")
    assert "COPY file /" in near.build(tmp_path).steps()
