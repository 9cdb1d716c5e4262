"""`--secret`, `--ssh` and `--allow`."""

import json
import socket
from pathlib import Path

import pytest

from pybuild.api.request import Agent, BuildRequest, Secret
from pybuild.commands import given
from pybuild.errors import UsageError


def values(found: dict[str, Secret]) -> dict[str, bytes]:
    return {name: secret.value for name, secret in found.items()}


def test_secrets_come_from_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"file\n\0")
    (tmp_path / "a,b").write_text("comma")
    (tmp_path / "bare").write_text("named alike")
    monkeypatch.chdir(tmp_path)
    specs = {
        "id=a,src=f": b"file\n\0",
        "ID=a,source=f,type=file": b"file\n\0",
        "id=a,env=VAR": b"variable",
        "id=a,type=env,src=VAR": b"variable",
        "id=a,type=env,env=VAR": b"variable",
        "id=VAR": b"variable",
        "id=bare": b"named alike",
        "id=a,env=UNSET": b"",
        'id=a,"src=a,b"': b"comma",
    }
    for spec, value in specs.items():
        assert list(values(given.secrets([spec], {"VAR": "variable"})).values()) == [value], spec
    assert values(given.secrets(["id=a,src=f", "id=a,env=VAR"], {"VAR": "last"})) == {"a": b"last"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("src=f", "no id"),
        ("id", "KEY=VALUE"),
        ("id=a,src", "KEY=VALUE"),
        ("id=a,file=f", "unknown key of --secret: file"),
        ("id=a,type=url", "unknown type of --secret: url"),
        ("id=a,src=/nosuch", "cannot read the secret `a`: /nosuch"),
        ("id=nosuch", "cannot read the secret"),
        ("id=a,src=/dev/zero", "over the limit"),
        ('id=a,"src=x', "as CSV"),
    ],
)
def test_other_secrets_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given.secrets([spec], {})


def test_agents_are_sockets_or_keys(tmp_path: Path) -> None:
    path, key = tmp_path / "s", tmp_path / "k"
    key.touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        environ = {"SSH_AUTH_SOCK": str(path)}
        assert given.agents(["default"], environ) == (Agent("default", (str(path),)),)
        assert given.agents(["", f"x={path}", f"y={key},{key}"], environ) == (
            Agent("default", (str(path),)),
            Agent("x", (str(path),)),
            Agent("y", (str(key), str(key))),
        )
        for specs, message in (
            (["a", "a"], "twice"),
            ([f"a={path},{key}"], "one socket, or keys"),
            (["a=/nosuch"], "No such file"),
            (["a=/"], "neither a socket nor a key"),
        ):
            with pytest.raises(UsageError, match=message):
                given.agents(specs, environ)
    with pytest.raises(UsageError, match="SSH_AUTH_SOCK is not set"):
        given.agents(["default"], {})


def test_permissions_are_known_ones() -> None:
    assert given.entitlements(["network.host", "security.insecure"]) == ("network.host", "security.insecure")
    devices = ["device", "device=v.com/a", "device=v.com/a=b,alias=v.com/c=d"]
    assert given.entitlements(devices) == tuple(devices)
    for wrong in ("devices", "device=", "device=v.com/a,x=y", "network"):
        with pytest.raises(UsageError, match=f"unknown permission for --allow: {wrong}"):
            given.entitlements([wrong])
    with pytest.raises(UsageError, match="invalid name of a device: a"):
        given.entitlements(["device=a"])


def test_a_request_carries_them_and_shows_no_secret() -> None:
    request = BuildRequest(
        secrets={"a": Secret(b"canary\0\xff")}, ssh=(Agent("k", ("/p", "/q")),), allow=("network.host",)
    )
    assert BuildRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    assert "canary" not in repr(request)
    for broken in ({"a": "canary"}, {"a": 5}, ["canary"]):
        with pytest.raises(UsageError) as caught:
            BuildRequest.from_json({"secrets": broken})
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
