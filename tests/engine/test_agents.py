"""A forwarded agent lists its keys and signs, and does nothing else; keys named by path get one of their own."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.api.request import Agent
from pybuild.engine import agents
from pybuild.errors import PybuildError
from pybuild.store.store import Store

pytestmark = pytest.mark.skipif(not shutil.which("ssh-agent"), reason="OpenSSH's client is not installed")

REMOVE_ALL, LOCK, EXTENSION = 19, 22, 27


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    # A path that no address of a socket holds
    with Store.open(tmp_path / ("x" * 60) / ("y" * 60)) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    for name, word in (("one", ""), ("two", ""), ("closed", "word")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", word, "-C", name, "-f", str(place / name)]
        subprocess.run(command, check=True)
    # Modes that ssh-add itself would refuse: a context manager of secrets often leaves them so
    (place / "one").chmod(0o644)
    return place


def ask(connection: socket.socket, kind: int, content: bytes = b"") -> bytes:
    message = bytes([kind]) + content
    connection.sendall(struct.pack(">I", len(message)) + message)
    (size,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    return connection.recv(size, socket.MSG_WAITALL)


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def test_keys_by_path_are_offered_and_sign(store: Store, keys: Path) -> None:
    given = Agent("a", (str(keys / "one"), str(keys / "two")))
    with agents.forwarded(given, store, 0o640) as path:
        assert path.stat().st_mode & 0o777 == 0o640
        with agents.connect(path) as connection:
            listed = ask(connection, agents.REQUEST_IDENTITIES)
            assert listed[:5] == b"\x0c\0\0\0\2"
            assert b"one" in listed
            assert b"two" in listed
            size = struct.unpack_from(">I", listed, 5)[0]
            blob = listed[9 : 9 + size]
            answer = ask(connection, agents.SIGN_REQUEST, text(blob) + text(b"data") + b"\0\0\0\0")
            assert answer[0] == 14
            for kind in (REMOVE_ALL, LOCK, EXTENSION, 0, 255):
                assert ask(connection, kind, text(b"x")) == agents.FAILURE
            assert ask(connection, agents.REQUEST_IDENTITIES) == listed
        with agents.connect(path) as connection:
            connection.sendall(b"\xff\xff\xff\xff")
            assert connection.recv(1) == b""
        # Open when it ends
        left = agents.connect(path)
        ask(left, agents.REQUEST_IDENTITIES)
    with left:
        assert left.recv(1) == b""
    assert not path.exists()
    assert list(store.place.tmp.iterdir()) == []


def test_an_agent_that_runs_is_forwarded(store: Store, keys: Path) -> None:
    with agents.forwarded(Agent("a", (str(keys / "two"),)), store, 0o600) as first:
        with agents.forwarded(Agent("b", (str(first),)), store, 0o600) as second:
            with agents.connect(second) as connection:
                assert b"two" in ask(connection, agents.REQUEST_IDENTITIES)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [("closed", "it has a passphrase", "--ssh default"), ("one.pub", "cannot be used", ""), ("nosuch", "No such", "")],
)
def test_what_cannot_be_used_is_told(store: Store, keys: Path, name: str, message: str, hint: str) -> None:
    with pytest.raises(PybuildError) as caught, agents.forwarded(Agent("a", (str(keys / name),)), store, 0o600):
        pass
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert list(store.place.tmp.iterdir()) == []


def test_an_agent_that_is_gone_is_told(store: Store, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    with (
        pytest.raises(PybuildError, match="cannot be reached"),
        agents.forwarded(Agent("a", (str(tmp_path / "s"),)), store, 0o600),
    ):
        pass
