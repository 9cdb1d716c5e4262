"""Addresses outside of the context, as ADD, contexts and named contexts take them. Their grammar, and nothing more.

    remote     := url | repository
    url        := ( "http" | "https" ) "://" host [ ":" port ] [ path ] [ "?" query ]
    repository := url with a path that ends in ".git" | ( "git" | "ssh" ) "://" ... | user "@" host ":" path
                  [ "?" options ] [ "#" [ ref ] [ ":" subdir ] ]
    options    := ref, branch, tag, subdir, commit or checksum, keep-git-dir, submodules, each "=" value, joined by "&"

What is taken for a repository, and the options, are BuildKit's.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from pybuild.dockerfile.addresses import UNNAMED, redacted
from pybuild.dockerfile.errors import InvalidValueError, shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):([^#?]*)(\?[^#]*)?(?:#(.*))?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|(^|/)\.|[./]$")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_FLAGS = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_MAX = 8192

FULL = (40, 64)
"""How many hex digits a full id of a commit has: SHA-1, SHA-256."""


class Url(msgspec.Struct, frozen=True):
    """A file that is fetched: its address without fragment, and the name in it."""

    address: str
    name: str


class Repository(msgspec.Struct, frozen=True):
    """A git repository, and what of it is meant; "" and None are not said.

    `address` is what git is given, `scheme` one of http, https, ssh, git. `commit` is an id or the beginning of one.
    """

    address: str
    scheme: str
    host: str
    port: int = 0
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def parse_remote(text: str, *, context: bool = False) -> Url | Repository | None:
    """Return what an address means, None for what names local files.

    In a `context`, `github.com/...` is one too. Raises InvalidValueError.
    """
    if context and text.startswith("github.com/"):
        text = "https://" + text
        github = True
    else:
        github = False
    match = _SCHEME.match(text)
    if match is not None and match[1].lower() in ("http", "https", "git", "ssh"):
        if len(text) > _MAX:
            raise InvalidValueError(f"address is over {_MAX} characters: {shown(text)}")
        return _with_scheme(text, match[1].lower(), github)
    match = _SCP.fullmatch(text)
    if match is None or "/" in text.partition("@")[0]:
        return None
    user, host, path, query, fragment = match.groups("")
    if not path or path.startswith("-") or _CONTROL.search(path):
        raise InvalidValueError(f"not a path of a git repository: {redacted(text)}")
    return _repository(f"{user}@{host}:{path}", "ssh", host, 0, query[1:], fragment, text)


def _with_scheme(text: str, scheme: str, github: bool) -> Url | Repository:
    if _CONTROL.search(text.partition("#")[0]):
        raise InvalidValueError(f"blanks and control characters must be escaped in an address: {redacted(text)!r}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError as error:
        raise InvalidValueError(f"not an address: {redacted(text)}: {error}") from error
    if not host or not (_HOST.fullmatch(host) or not host.isascii()):
        raise InvalidValueError(f"address has no host: {redacted(text)}")
    user = unquote(parts.username or "")
    # Some programs take a backslash for a slash, and would see another host
    if user.startswith("-") or _CONTROL.search(user) or "\\" in parts.netloc:
        raise InvalidValueError(f"not a user name in an address: {redacted(text)}")
    if scheme in ("git", "ssh") or github or parts.path.endswith(".git"):
        if unquote(parts.path).startswith(("/-", "-")) or not parts.path.strip("/"):
            raise InvalidValueError(f"not a path of a git repository: {redacted(text)}")
        address = f"{scheme}://{parts.netloc}{parts.path}"
        return _repository(address, scheme, host, port, parts.query, parts.fragment, text)
    name = unquote(parts.path, errors="surrogateescape").rpartition("/")[2]
    if "\0" in name:
        raise InvalidValueError(f"not the name of a file in an address: {redacted(text)}")
    return Url(text.partition("#")[0], UNNAMED if name in ("", ".", "..") else name)


def _repository(address: str, scheme: str, host: str, port: int, query: str, fragment: str, text: str) -> Repository:
    ref, _, subdir = unquote(fragment).partition(":")
    found = {"ref": ref, "subdir": subdir, **dict.fromkeys(("tag", "branch", "commit"), "")}
    flags: dict[str, bool | None] = {"keep-git-dir": None, "submodules": None}
    seen: set[str] = set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        key = "commit" if key == "checksum" else key
        if key in seen:
            raise InvalidValueError(f"option is given twice in the address of a repository: {key}")
        seen.add(key)
        if key in flags:
            flags[key] = _flag(key, value)
        elif key not in found:
            known = "ref, branch, tag, subdir, commit, checksum, keep-git-dir, submodules"
            raise InvalidValueError(f"unknown option in the address of a repository: {shown(key)}", f"known: {known}")
        elif not value:
            raise InvalidValueError(f"option has no value in the address of a repository: {key}")
        else:
            found[key] = _agreed(key, found[key], value)
    if found["tag"] and found["branch"]:
        raise InvalidValueError(f"address of a repository names a branch and a tag: {redacted(text)}")
    for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if found[key]:
            found["ref"] = _agreed("ref", found["ref"], prefix + found[key].removeprefix(prefix))
    commit = check_commit(found["commit"])
    return Repository(
        address=address,
        scheme=scheme,
        host=host,
        port=port,
        ref=_checked_ref(found["ref"] or (commit if len(commit) in FULL else "")),
        subdir=found["subdir"].strip("/"),
        commit=commit,
        keep_git_dir=flags["keep-git-dir"],
        submodules=flags["submodules"],
    )


def check_commit(text: str) -> str:
    """Return the id of a commit, or the beginning of one, in lower case; raise InvalidValueError."""
    lowered = text.lower()
    if lowered and not _COMMIT.fullmatch(lowered):
        raise InvalidValueError(f"not the id of a commit: {shown(text)}", "write at least its first 7 hex digits")
    return lowered


def check_digest(text: str) -> str:
    """Return `ALGORITHM:HEX` of a file's content; raise InvalidValueError."""
    algorithm, _, digits = text.partition(":")
    size = {"sha256": 64, "sha384": 96, "sha512": 128}.get(algorithm)
    if size is None or len(digits) != size or digits.strip("0123456789abcdef"):
        raise InvalidValueError(f"not a checksum: {shown(text)}", "write it as `sha256:` and 64 hex digits")
    return text


def _agreed(key: str, before: str, value: str) -> str:
    if before and before != value:
        raise InvalidValueError(f"address of a repository says two things of {key}: {shown(before)}, {shown(value)}")
    return value


def _flag(key: str, value: str) -> bool:
    found = _FLAGS.get(value.lower())
    if found is None:
        raise InvalidValueError(f"{key} in the address of a repository is true or false, not: {shown(value)}")
    return found


def _checked_ref(ref: str) -> str:
    """Return a ref that is one (git-check-ref-format(1)) and no option of a program; raise InvalidValueError."""
    if ref.startswith("-") or len(ref) > 1024 or _BAD_REF.search(ref):
        raise InvalidValueError(f"not a branch, tag or commit: {shown(ref)!r}")
    return ref
