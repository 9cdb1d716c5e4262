"""Credentials are found where docker and podman keep them, and kept so that both find them."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from pybuild.registry.authorization import Credentials
from pybuild.registry.credentials import CredentialFiles
from pybuild.registry.errors import AuthError

ME = Credentials("me", "p:w")


def auth(user: str = "me", password: str = "p:w") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Home:
    """A user with files of credentials."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.environment = {"HOME": str(root), "PATH": f"{self.bin}:/usr/bin:/bin", "XDG_RUNTIME_DIR": f"{root}/run"}

    @property
    def files(self) -> CredentialFiles:
        return CredentialFiles(self.environment)

    def write(self, name: str, document: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    def helper(self, name: str, script: str = "") -> Path:
        """Add a helper that keeps one secret a server in files."""
        kept = self.root / f"kept-{name}"
        kept.mkdir(exist_ok=True)
        path = self.bin / f"docker-credential-{name}"
        body = (
            script
            or f"""\
case $1 in
get) read -r server || true; f={kept}/$(echo "$server" | tr '/:' '__')
     [ -e "$f" ] || {{ echo "credentials not found in native keychain"; exit 1; }}; cat "$f";;
store) data=$(cat); server=$(echo "$data" | sed 's/.*"ServerURL":"\\([^"]*\\)".*/\\1/')
     echo "$data" > {kept}/$(echo "$server" | tr '/:' '__');;
erase) read -r server || true; rm -f {kept}/$(echo "$server" | tr '/:' '__');;
esac
"""
        )
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(0o755)
        return kept


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("key", "host", "found"),
    [
        ("reg.example:5000", "reg.example:5000", True),
        ("https://reg.example:5000", "reg.example:5000", True),
        ("https://reg.example:5000/v2/", "reg.example:5000", True),
        ("reg.example", "reg.example:5000", False),
        ("reg.example:5000", "reg.example", False),
        ("example", "reg.example", False),
        ("reg.example.evil", "reg.example", False),
        ("reg.example/team", "reg.example", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("index.docker.io", "docker.io", True),
        ("https://index.docker.io/v1/", "reg.example", False),
    ],
)
def test_only_an_entry_of_the_very_host_counts(home: Home, key: str, host: str, found: bool) -> None:
    home.write(".docker/config.json", {"auths": {key: auth()}})
    assert home.files.lookup(host) == (ME if found else None)


@pytest.mark.parametrize("name", [".docker/config.json", "run/containers/auth.json", ".config/containers/auth.json"])
def test_files_of_docker_and_podman_are_read(home: Home, name: str) -> None:
    home.write(name, {"auths": {"r.example": {**auth(), "email": "x"}, "s.example": {"identitytoken": "t"}}})
    assert home.files.lookup("r.example") == ME
    assert home.files.lookup("s.example") == Credentials(identity_token="t")


def test_the_files_have_an_order(home: Home) -> None:
    home.write("run/containers/auth.json", {"auths": {"r.example": auth("podman")}})
    assert home.files.lookup("r.example") == Credentials("podman", "p:w")
    home.write(".docker/config.json", {"auths": {"r.example": auth("docker")}})
    assert home.files.lookup("r.example") == Credentials("docker", "p:w")
    home.environment["REGISTRY_AUTH_FILE"] = str(home.write("own.json", {"auths": {"r.example": auth("own")}}))
    assert home.files.lookup("r.example") == Credentials("own", "p:w")
    told = [look.place for look in home.files.looks("r.example") if look.credentials]
    assert told == [str(home.root / name) for name in ("own.json", ".docker/config.json", "run/containers/auth.json")]


@pytest.mark.parametrize(
    ("repository", "who"),
    [
        ("", "all"),
        ("other/app", "all"),
        ("team", "team"),
        ("team/app", "app"),
        ("team/app/deep", "app"),
        ("team/apple", "team"),
        ("teamwork/app", "all"),
    ],
)
def test_a_key_may_be_of_a_part_of_a_registry(home: Home, repository: str, who: str) -> None:
    auths = {"r.example": auth("all"), "r.example/team": auth("team"), "r.example/team/app/": auth("app")}
    home.write("run/containers/auth.json", {"auths": {**auths, "s.example/team": auth("other"), "r.example/v2/": {}}})
    assert home.files.lookup("r.example", repository) == Credentials(who, "p:w")
    assert home.files.parts("r.example") == ["team/app", "team"]
    assert home.files.lookup("s.example") is None
    assert home.files.lookup("s.example", "team/x") == Credentials("other", "p:w")


def test_files_go_before_lengths_of_keys_and_a_helper_of_the_registry_before_both(home: Home) -> None:
    home.write("run/containers/auth.json", {"auths": {"r.example/team": auth("podman")}})
    assert home.files.lookup("r.example", "team/app") == Credentials("podman", "p:w")
    home.write(".docker/config.json", {"auths": {"r.example": auth("docker")}})
    assert home.files.lookup("r.example", "team/app") == Credentials("docker", "p:w")
    home.helper("one")
    document = {"auths": {"r.example/team": auth("team")}, "credsStore": "one"}
    home.write(".docker/config.json", document)
    home.files.store("r.example", ME)
    assert home.files.lookup("r.example", "team/app") == Credentials("team", "p:w")
    assert home.files.lookup("r.example", "app") == ME
    home.write(".docker/config.json", {**document, "credHelpers": {"r.example": "one"}})
    assert home.files.lookup("r.example", "team/app") == ME


def test_who_asks_for_the_host_is_told_of_its_parts(home: Home) -> None:
    home.write("run/containers/auth.json", {"auths": {"r.example/team": auth("team"), "r.example/a/b": auth()}})
    [look] = [look for look in home.files.looks("r.example") if "auths" in look.told]
    assert look.told == "auths: nothing for it; parts of it have their own: r.example/team, r.example/a/b"


def test_helpers_are_asked_in_dockers_way(home: Home) -> None:
    home.helper("one")
    home.helper("two")
    home.write(".docker/config.json", {"credsStore": "one", "credHelpers": {"r.example": "two"}})
    assert home.files.store("r.example", ME) == "docker-credential-two"
    assert home.files.store("docker.io", ME) == "docker-credential-one"
    assert home.files.lookup("r.example") == ME
    assert home.files.lookup("docker.io") == ME
    assert home.files.lookup("other.example") is None
    document = json.loads((home.root / ".docker/config.json").read_text())
    assert document["auths"] == {"r.example": {}, "https://index.docker.io/v1/": {}}
    assert home.files.erase("docker.io") == ["docker-credential-one"]
    assert home.files.lookup("docker.io") is None


def test_a_helper_may_give_an_identity_token(home: Home) -> None:
    home.helper("t", """echo '{"ServerURL":"r","Username":"<token>","Secret":"refresh"}'""")
    home.write(".docker/config.json", {"credsStore": "t"})
    assert home.files.lookup("r.example") == Credentials(identity_token="refresh")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo locked; exit 1", "cannot give.*locked"),
        ("echo no json", "not to be understood"),
        ("echo '[]'", "not to be understood"),
        ("head -c 100000 /dev/zero", "says more than"),
    ],
)
def test_a_helper_that_fails_is_an_error_and_no_other_place_is_asked(home: Home, script: str, message: str) -> None:
    home.helper("bad", script)
    home.write(".docker/config.json", {"credsStore": "bad", "auths": {"r.example": auth()}})
    with pytest.raises(AuthError, match=message):
        home.files.lookup("r.example")


@pytest.mark.parametrize("name", ["../../tmp/x", "a/b", "", ".x", "x y", "absent"])
def test_helpers_are_named_and_not_pointed_at(home: Home, name: str) -> None:
    home.write(".docker/config.json", {"credHelpers": {"r.example": name}})
    if name:
        with pytest.raises(AuthError, match=r"not a name|not there"):
            home.files.lookup("r.example")
    else:
        assert home.files.lookup("r.example") is None


def test_helpers_come_from_no_place_that_is_open_to_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.helper("x", 'echo \'{"Username":"a","Secret":"b"}\'')
    home.write(".docker/config.json", {"credsStore": "x"})
    home.bin.chmod(0o777)
    with pytest.raises(AuthError, match="everybody may put one"):
        home.files.lookup("r.example")
    monkeypatch.chdir(home.bin)
    home.environment["PATH"] = ".::bin"
    with pytest.raises(AuthError, match="not there"):
        home.files.lookup("r.example")


def test_what_is_kept_is_private_and_leaves_the_rest_alone(home: Home) -> None:
    path = home.write(".docker/config.json", {"auths": {"other": auth()}, "psFormat": "x", "proxies": {"default": {}}})
    path.chmod(0o644)
    assert home.files.store("r.example", Credentials("new", "secret")) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert document["psFormat"] == "x"
    assert document["auths"] == {"other": auth(), "r.example": auth("new", "secret")}
    assert home.files.erase("r.example") == [str(path)]
    assert json.loads(path.read_text())["auths"] == {"other": auth()}
    assert home.files.erase("r.example") == []


def test_a_file_that_is_a_link_stays_one(home: Home) -> None:
    path = home.write("kept/config.json", {"auths": {}})
    (home.root / ".docker").mkdir()
    (home.root / ".docker/config.json").symlink_to(path)
    home.files.store("r.example", ME)
    assert (home.root / ".docker/config.json").is_symlink()
    assert "r.example" in path.read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"r.example": {"auth": "%%%"}}}', '{"auths": 3, "x": "hunter2'])
def test_a_damaged_file_is_told_without_what_is_in_it(home: Home, text: str) -> None:
    path = home.write(".docker/config.json", text)
    with pytest.raises(AuthError) as caught:
        home.files.lookup("r.example")
    assert str(path) in caught.value.message
    assert "hunter2" not in caught.value.message
