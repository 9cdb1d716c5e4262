"""Who has logged in may pull; nobody learns the password."""

import base64
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import busybox, registry
from support.program import Pybuild
from support.registry import LAYER, Program, Registry, digest

PASSWORD = "s3cret:with spaces"


@pytest.fixture
def guarded() -> Iterator[Registry]:
    """A registry in memory with a token server."""
    with registry.fake() as found:
        found.contents.image("app", "latest", [(LAYER, bytes(1024), digest(bytes(1024)))])
        found.contents.challenge = f'Bearer realm="{found.web.url("/token")}",service="tests"'

        def tokens(asked: object, query: object) -> tuple[int, object]:
            sent = found.web.asked[-1].headers.get("Authorization")
            if sent != "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode():
                return 401, {"details": "incorrect username or password"}
            found.contents.accepted.add("Bearer good")
            return 200, {"token": "good"}

        found.contents.tokens = tokens
        yield found


def test_logging_in_is_tried_before_it_is_kept(pybuild: Pybuild, guarded: Registry) -> None:
    address, config = guarded.address, pybuild.home / ".docker" / "config.json"
    login = ["login", "-u", "me", "--password-stdin", address]
    failed = pybuild(*login, stdin=b"wrong\n", status=1)
    assert "does not take the password of me" in failed.err
    assert failed.err.endswith("hint: check user and password; some registries want a token in place of it\n")
    assert "incorrect username or password" in failed.err
    assert not config.exists()
    assert "nobody in particular" in pybuild("auth", "why", address).text
    denied = pybuild("pull", guarded.name("app"), status=1)
    assert f"pybuild login {address}" in denied.err
    told = pybuild(*login, stdin=PASSWORD.encode() + b"\n")
    assert f"logged in to {address} as me; kept in {config}" in told.text
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    why = pybuild("auth", "why", address)
    assert f"{address} is asked as user me, from {config}" in why.text
    pulled = pybuild("pull", guarded.name("app"))
    assert PASSWORD not in told.text + told.err + why.text + why.err + pulled.text + pulled.err
    assert f"forgotten: {address} in {config}" in pybuild("logout", address).text
    assert "nobody was logged in" in pybuild("logout", address).text
    pybuild("pull", guarded.name("app"), status=1)
    # A daemon keeps its log
    logs = b"".join(path.read_bytes() for path in pybuild.base.rglob("*.log") if path.is_file())
    assert PASSWORD.encode() not in logs


def test_a_part_of_a_registry_has_credentials_of_its_own(pybuild: Pybuild, guarded: Registry) -> None:
    image = [(LAYER, bytes(1024), digest(bytes(1024)))]
    guarded.contents.image("team/app", "latest", image)
    address, path = guarded.address, pybuild.home / ".config" / "containers" / "auth.json"
    path.parent.mkdir(parents=True)
    pairs = {f"{address}/team": f"me:{PASSWORD}", address: "me:wrong"}
    auths = {key: {"auth": base64.b64encode(pair.encode()).decode()} for key, pair in pairs.items()}
    path.write_text(json.dumps({"auths": auths}))
    pybuild("pull", guarded.name("team/app"))
    assert "access is denied to user me" in pybuild("pull", guarded.name("app"), status=1).err
    why = pybuild("auth", "why", f"{address}/team/app:latest").text
    assert f"* {path}: auths[{address}/team]: user me\n" in why
    assert why.endswith(f"{address}/team/app is asked as user me, from {path}\n")
    assert f"parts of it have their own: {address}/team\n" in pybuild("auth", "why", address).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--password-stdin"], "needs --username"),
        # On a command line others could read it
        (["-u", "me", "--password", "secret"], "no such option: --password"),
        (["-u", "me", "-p", "secret"], "no such option: -p"),
        (["-u", "me"], "asked for on a terminal"),
        (["-u", "a:b", "--password-stdin"], "without a colon"),
        (["-u", "me", "--password-stdin", "what/ever"], "not a registry"),
    ],
)
def test_what_cannot_be_meant_is_told(inline: Pybuild, arguments: list[str], message: str) -> None:
    assert message in inline("login", *arguments, stdin=b"x", status=2).err


def test_a_password_may_be_typed(inline: Pybuild, guarded: Registry) -> None:
    import os
    import pty

    master, slave = pty.openpty()
    process = inline.start("login", guarded.address, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    told = b""
    for question, answer in ((b"Username for", b"me\n"), (b"Password of me", PASSWORD.encode() + b"\n")):
        while question not in told:
            told += os.read(master, 1000)
        os.write(master, answer)
    try:
        while data := os.read(master, 1000):
            told += data
    except OSError:
        # The other side is closed
        pass
    os.close(master)
    assert process.wait(30) == 0, told
    assert b"logged in to" in told
    assert PASSWORD.encode() not in told


@pytest.fixture
def htpasswd(tmp_path: Path) -> Iterator[Program]:
    file = tmp_path / "htpasswd"
    subprocess.run(["htpasswd", "-Bbc", file, "me", PASSWORD], check=True, capture_output=True)
    with registry.program(tmp_path / "registry", auth=f"auth: {{htpasswd: {{realm: r, path: {file}}}}}\n") as found:
        yield found


@pytest.mark.peers
@pytest.mark.userns
def test_others_use_our_login_and_we_theirs(inline: Pybuild, htpasswd: Program, tmp_path: Path, context: Path) -> None:
    inline("login", "-u", "me", "--password-stdin", htpasswd.address, stdin=PASSWORD.encode())
    layout = tmp_path / "layout.tar"
    busybox.write_rootfs(tmp_path / "rootfs.tar")
    inline("import", tmp_path / "rootfs.tar", "base")
    inline("save", "--format", "oci", "-o", layout, "base")
    ours = inline.home / ".docker" / "config.json"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", f"oci-archive:{layout}"]
    target = f"docker://{htpasswd.name('base:1')}"
    env = {**inline.env, "HOME": str(inline.home), "REGISTRY_AUTH_FILE": str(ours)}
    subprocess.run([*copy, target], check=True, capture_output=True, env=env)
    inline("logout", htpasswd.address)
    assert "auths" in json.loads(ours.read_text())
    inline.build(context, dockerfile=f"FROM {htpasswd.name('base:1')}\nRUN true\n", status=1)
    auth = inline.home / ".config" / "containers" / "auth.json"
    login = [
        "skopeo",
        "login",
        "--tls-verify=false",
        "--authfile",
        auth,
        "-u",
        "me",
        "--password-stdin",
        htpasswd.address,
    ]
    auth.parent.mkdir(parents=True)
    subprocess.run(login, check=True, input=PASSWORD.encode(), capture_output=True, env=inline.env)
    inline.build(context, dockerfile=f"FROM {htpasswd.name('base:1')}\nRUN true\n")


def test_a_client_of_dockers_brings_its_own_credentials(daemon: Pybuild, guarded: Registry) -> None:
    import base64

    from pybuild.client.wire import Connection
    from pybuild.errors import PybuildError

    daemon("daemon", "start")
    [path] = daemon.runtime.rglob("*.sock")
    body = {"username": "me", "password": PASSWORD, "serveraddress": "whatever"}
    header = base64.urlsafe_b64encode(json.dumps(body).encode()).decode()
    connection = Connection(path)
    try:
        where = f"/v1.45/images/create?fromImage={guarded.name('app')}&tag=latest"
        with pytest.raises(PybuildError, match="access is denied"):
            connection.request("POST", where)
        told = connection.request("POST", where, headers={"X-Registry-Auth": header}).read()
        assert b"Status: Downloaded newer image" in told
        assert PASSWORD.encode() not in told
    finally:
        connection.close()
    assert daemon.names() == {guarded.name("app:latest")}
    assert not (daemon.home / ".docker").exists()
