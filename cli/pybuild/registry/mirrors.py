"""Where images are really asked for: registries.conf (containers-registries.conf(5), version 2).

Of `[[registry]]` tables the one with the longest `prefix` of a name counts; its mirrors come before its own location.
Names without a domain belong to docker.io, as with docker, whatever the file says.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.registry.errors import RegistryError

MAX_FILE = 4 << 20


class Place(NamedTuple):
    """A registry that has a repository: its domain, and the repository's path there."""

    domain: str
    path: str
    insecure: bool = False
    is_mirror: bool = False


def files(environment: Mapping[str, str]) -> list[Path]:
    """Return the files that count, later ones winning."""
    override = environment.get("CONTAINERS_REGISTRIES_CONF")
    if override:
        return [Path(override)]
    home = environment.get("HOME") or os.path.expanduser("~")
    own = Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / "containers"
    system = Path("/etc/containers")
    main = own / "registries.conf"
    found = [main if main.exists() else system / "registries.conf"]
    for base in (system, own):
        found += sorted((base / "registries.conf.d").glob("*.conf"))
    return found


class Mirrors:
    """What registries.conf says."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._tables: dict[str, Mapping[str, Any]] = {}
        for path in files(environment):
            for table in _registries(path):
                prefix = table.get("prefix") or table.get("location")
                if not isinstance(prefix, str) or not prefix:
                    raise RegistryError(f"a registry has neither prefix nor location: {path}")
                self._tables[prefix] = table

    def places(self, name: Reference, *, pull: bool) -> list[Place]:
        """Return where an image may be, in the order in which to ask; without `pull` no mirror.

        Raises RegistryError for a registry that is blocked.
        """
        found = max((prefix for prefix in self._tables if _matches(prefix, name)), key=len, default=None)
        if found is None:
            return [Place(name.domain, name.path)]
        table = self._tables[found]
        if table.get("blocked") is True:
            raise RegistryError(f"registries.conf blocks this registry: {found}: {name.familiar()}")
        places: list[Place] = []
        for mirror in table.get("mirror", ()) if pull else ():
            if _serves(mirror, table, name):
                insecure = mirror.get("insecure") is True
                places.append(_moved(name, found, str(mirror.get("location", "")), insecure, is_mirror=True))
        location = str(table.get("location") or "")
        insecure = table.get("insecure") is True
        places.append(_moved(name, found, "" if location == found else location, insecure, is_mirror=False))
        return places


def _registries(path: Path) -> list[Mapping[str, Any]]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror}") from error
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RegistryError(f"cannot read {path}: {error}") from error
    tables = document.get("registry", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        # The first version of the format had `[registries.search]` and the like, which say nothing of mirrors
        return []
    return tables


def _matches(prefix: str, name: Reference) -> bool:
    if prefix.startswith("*."):
        domain, slash, path = prefix[1:].partition("/")
        return name.domain.endswith(domain) and (not slash or f"{name.path}/".startswith(f"{path}/"))
    return f"{name.name}/".startswith(f"{prefix.rstrip('/')}/")


def _serves(mirror: Mapping[str, Any], table: Mapping[str, Any], name: Reference) -> bool:
    """May a mirror be asked for a name? Some give only what a digest names, for they may be out of date."""
    wanted = mirror.get("pull-from-mirror") or ("digest-only" if table.get("mirror-by-digest-only") is True else "all")
    if wanted == "digest-only":
        return name.digest is not None
    return name.digest is None if wanted == "tag-only" else True


def _moved(name: Reference, prefix: str, location: str, insecure: bool, *, is_mirror: bool) -> Place:
    """Return a name's place when `location` stands for its `prefix`; "" leaves it where it is."""
    if not location:
        return Place(name.domain, name.path, insecure, is_mirror)
    if prefix.startswith("*."):
        rest = f"/{name.path}"[len(prefix.rstrip("/").partition("/")[2]) + ("/" in prefix) :]
    else:
        rest = name.name[len(prefix.rstrip("/")) :]
    try:
        moved = parse_reference(f"{location.rstrip('/')}{rest}")
    except InvalidReferenceError as error:
        raise RegistryError(f"registries.conf leads to no name: {location}{rest}: {error.message}") from error
    return Place(moved.domain, moved.path, insecure, is_mirror)
