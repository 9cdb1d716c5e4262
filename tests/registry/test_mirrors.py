"""registries.conf says where images are really asked for."""

from pathlib import Path

import pytest

from pybuild.oci.reference import parse_reference
from pybuild.registry.errors import RegistryError
from pybuild.registry.mirrors import Mirrors, Place, files

CONF = """\
unqualified-search-registries = ["evil.example"]

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
[[registry.mirror]]
location = "127.0.0.1:5000"
insecure = true

[[registry]]
prefix = "docker.io/library"
location = "internal.example/official"

[[registry]]
prefix = "*.corp.example"
location = "proxy.example/corp"
insecure = true

[[registry]]
location = "blocked.example"
blocked = true

[[registry]]
location = "digests.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example/d"
[[registry.mirror]]
location = "t.example/d"
pull-from-mirror = "tag-only"
"""
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def mirrors(tmp_path: Path) -> Mirrors:
    path = tmp_path / "registries.conf"
    path.write_text(CONF)
    return Mirrors({"CONTAINERS_REGISTRIES_CONF": str(path)})


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "team/app",
            [
                Place("mirror.example", "hub/team/app", False, True),
                Place("127.0.0.1:5000", "team/app", True, True),
                Place("docker.io", "team/app"),
            ],
        ),
        ("busybox:1", [Place("internal.example", "official/busybox")]),
        ("a.corp.example/x/y", [Place("proxy.example", "corp/x/y", True)]),
        ("corp.example/x", [Place("corp.example", "x")]),
        ("quay.io/x/y", [Place("quay.io", "x/y")]),
        ("docker.io.example/x", [Place("docker.io.example", "x")]),
        (f"digests.example/x@{DIGEST}", [Place("m.example", "d/x", False, True), Place("digests.example", "x")]),
        ("digests.example/x:1", [Place("t.example", "d/x", False, True), Place("digests.example", "x")]),
    ],
)
def test_a_name_is_asked_for_at_its_places(mirrors: Mirrors, name: str, places: list[Place]) -> None:
    assert mirrors.places(parse_reference(name), pull=True) == places
    assert mirrors.places(parse_reference(name), pull=False) == places[-1:]


def test_a_blocked_registry_is_not_asked(mirrors: Mirrors) -> None:
    with pytest.raises(RegistryError, match="blocks this registry"):
        mirrors.places(parse_reference("blocked.example/x"), pull=True)


def test_the_users_files_come_before_the_systems(tmp_path: Path) -> None:
    own = tmp_path / ".config" / "containers"
    (own / "registries.conf.d").mkdir(parents=True)
    (own / "registries.conf").write_text('[[registry]]\nlocation = "a.example"\nblocked = true\n')
    (own / "registries.conf.d" / "10.conf").write_text('[[registry]]\nlocation = "a.example"\n')
    (own / "registries.conf.d" / "20.txt").write_text("no toml")
    environment = {"HOME": str(tmp_path)}
    found = files(environment)
    assert found[0] == own / "registries.conf"
    assert own / "registries.conf.d" / "20.txt" not in found
    assert Mirrors(environment).places(parse_reference("a.example/x"), pull=True) == [Place("a.example", "x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "cannot read"),
        ("[[registry]]\ninsecure = true", "neither prefix nor location"),
        ("\xff", "cannot read"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registries.conf"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RegistryError, match=message):
        Mirrors({"CONTAINERS_REGISTRIES_CONF": str(path)})


def test_the_first_version_of_the_format_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "registries.conf"
    path.write_text("[registries.search]\nregistries = ['x']\n")
    mirrors = Mirrors({"CONTAINERS_REGISTRIES_CONF": str(path)})
    assert mirrors.places(parse_reference("x"), pull=True) == [Place("docker.io", "library/x")]
