"""What an ignore file should have: names that no image needs, and those that may hold secrets."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from pybuild.plugin import Seen

PREVENTIVE = frozenset(
    [
        ".git",
        ".gitignore",
        ".gitattributes",
        ".github",
        ".gitlab-ci.yml",
        ".hg",
        ".svn",
        ".bzr",
        "CVS",
        "node_modules",
        "__pycache__",
        "*.pyc",
        "*.pyo",
        "*.pyd",
        ".venv",
        "venv",
        "env",
        ".env",
        ".env.*",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".coverage",
        "htmlcov",
        "*.egg-info",
        "dist",
        "build",
        "target",
        ".idea",
        ".vscode",
        "*.swp",
        ".DS_Store",
        "Thumbs.db",
        "*.log",
        "*.tmp",
        "*.bak",
        "*~",
        ".dockerignore",
        "*.pem",
        "Dockerfile",
        "Dockerfile*",
        "docker-compose*.yml",
        "docker-compose.yml",
        "compose.yaml",
        "*.key",
        "npm-debug.log",
        ".cache",
        ".npmrc",
        ".terraform",
        "*.tfstate",
        ".gradle",
        ".next",
        ".nuxt",
        "coverage",
        ".nyc_output",
        ".eggs",
    ]
)
"""Patterns (without what only makes them count at any depth) that are there for a day that may come."""

_DIRECTORIES = {
    **dict.fromkeys((".git", ".hg", ".svn", ".bzr"), "version control"),
    "node_modules": "dependencies of npm",
    **dict.fromkeys(
        ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox"), "a cache of Python"
    ),
    ".terraform": "a cache of Terraform",
    ".gradle": "a cache of Gradle",
}
_FILES = {".DS_Store": "a file of macOS", "Thumbs.db": "a file of Windows"}
_SECRETS = frozenset(
    [
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        ".netrc",
        "_netrc",
        ".pgpass",
        ".git-credentials",
        ".htpasswd",
        ".pypirc",
        "terraform.tfstate",
        "credentials.json",
        ".vault-token",
    ]
)
_SECRET_PATHS = (".aws/credentials", ".docker/config.json", ".kube/config")
_SECRET_ENDINGS = (".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk")
_ENV = re.compile(r"\.env(\..+)?")
_ENV_HARMLESS = ("example", "sample", "template", "dist", "defaults")
_LOOKED_INTO = {".pem": b"PRIVATE KEY", ".key": b"PRIVATE KEY", ".npmrc": b"_authToken", ".yarnrc.yml": b"npmAuthToken"}
_HEAD = 16 * 1024  # bytes


class Wanted(NamedTuple):
    """A path that should be left out: `pattern` would, `what` it is."""

    path: str
    pattern: str
    what: str
    secret: bool


def wanted(root: str, seen: list[Seen]) -> Iterator[Wanted]:
    """Yield what should be left out and is not, each pattern once."""
    told: set[str] = set()
    for one in seen:
        if one.line:
            continue
        found = _needless(root, one) if one.kind == "directory" else _file(root, one)
        if found is not None and found.pattern not in told:
            told.add(found.pattern)
            yield found


def _needless(root: str, one: Seen) -> Wanted | None:
    name = one.path.rpartition("/")[2]
    if name in _DIRECTORIES:
        return Wanted(one.path, f"**/{name}", _DIRECTORIES[name], False)
    if os.path.isfile(os.path.join(root, one.path, "pyvenv.cfg")):
        return Wanted(one.path, one.path, "a virtual environment", False)
    return None


def _file(root: str, one: Seen) -> Wanted | None:
    name = one.path.rpartition("/")[2]
    if name in _FILES:
        return Wanted(one.path, f"**/{name}", _FILES[name], False)
    if one.kind != "file":
        return None
    env = _ENV.fullmatch(name)
    if env and not (env[1] or "").endswith(_ENV_HARMLESS):
        return Wanted(one.path, f"**/{name}", "settings that often hold secrets", True)
    if name in _SECRETS or name.endswith(_SECRET_ENDINGS) or _ends(one.path, _SECRET_PATHS):
        return Wanted(one.path, f"**/{name}", "a key or password", True)
    for ending, mark in _LOOKED_INTO.items():
        if name.endswith(ending) and mark in _head(os.path.join(root, one.path)):
            return Wanted(one.path, f"**/{name}", "a key or password", True)
    return None


def _ends(path: str, endings: tuple[str, ...]) -> bool:
    return any(path == ending or path.endswith("/" + ending) for ending in endings)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        # One that cannot be read gives nothing away
        return b""
