"""Image names as Docker reads them: `[domain[:port]/]path[:tag][@digest]`, completed and shortened.

    reference   := name [ ":" tag ] [ "@" digest ]
    name        := [ domain "/" ] component { "/" component }
    domain      := host [ ":" port ]
    host        := label { "." label } | "[" IPv6 "]"
    label       := letter-or-digit { letter-or-digit | "-" }, not ending in "-"
    component   := alnum { separator alnum }            (lower case only)
    separator   := "." | "_" | "__" | "-" { "-" }
    tag         := ( letter | digit | "_" ) up to 127 of ( letter | digit | "_" | "." | "-" )

The first part counts as a domain when it holds a dot, a colon or an upper-case letter or is `localhost`; a name without
one belongs to docker.io, and there a path of one component to `library/`.
"""

import re
from typing import NamedTuple

from pybuild.errors import UsageError
from pybuild.oci.digest import Digest, InvalidDigestError, parse_digest

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"

MAX_PATH = 255
"""Longest repository path, as in Docker's distribution."""

MAX_DOMAIN = 259
"""Longest host name of DNS and a port."""

# Compiled when first used, by `re`, which keeps them.
# ASCII is meant: Python's \w and \d know more letters than the specification does.
_LABEL = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]{{2,45}}\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_HEX64 = r"[0-9a-f]{64}"


class InvalidReferenceError(UsageError):
    """Text that is no image name."""


class Reference(NamedTuple):
    """A complete image name: the domain is always there, and a tag or a digest or both."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Return domain and path, as `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.name + self._suffix()

    def familiar_name(self) -> str:
        """Return domain and path as short as Docker shows them: `busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL)
        # `docker.io/library/a/b` is not `a/b`, and `docker.io/localhost/a` not `localhost/a`
        if short != self.path:
            return self.path if "/" in short else short
        return self.name if _is_domain(self.path.partition("/")[0]) else self.path

    def familiar(self) -> str:
        """Return the whole reference as short as Docker shows it: `busybox:latest`."""
        return self.familiar_name() + self._suffix()

    def with_tag(self, tag: str) -> "Reference":
        """Return the same repository with another tag and no digest; raise InvalidReferenceError."""
        if not re.fullmatch(_TAG, tag):
            raise InvalidReferenceError(f"invalid tag: {tag[:100]!r}")
        return self._replace(tag=tag, digest=None)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")


def parse_reference(text: str) -> Reference:
    """Return the image name in `text`, completed: `busybox` is `docker.io/library/busybox:latest`.

    Raises InvalidReferenceError. A name of 64 hex digits is refused: it would look like an image id.
    """
    rest, at, digest_text = text.partition("@")
    digest: Digest | None = None
    if at:
        try:
            digest = parse_digest(digest_text)
        except InvalidDigestError as error:
            raise _invalid(text, "the digest must be `sha256:` and 64 hex digits") from error
    tag: str | None = None
    # A colon before the last slash is a port
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not re.fullmatch(_TAG, tag):
            raise _invalid(text, "a tag is up to 128 letters, digits, `_`, `.` and `-`")
    if re.fullmatch(_HEX64, rest):
        raise _invalid(text, "64 hex digits are an image id, not a name")
    domain, path = _split(rest)
    _check_domain(domain, text)
    _check_path(path, text)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest)


def _is_domain(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first.lower() != first


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    domain, path = (first, rest) if slash and _is_domain(first) else (DEFAULT_DOMAIN, name)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path


def _check_domain(domain: str, text: str) -> None:
    if len(domain) > MAX_DOMAIN or not re.fullmatch(_DOMAIN, domain):
        raise _invalid(text, "the part before the first slash is no host name")


def _check_path(path: str, text: str) -> None:
    if len(path) > MAX_PATH:
        raise _invalid(text, f"a repository name has at most {MAX_PATH} characters")
    for component in path.split("/"):
        if not re.fullmatch(_COMPONENT, component):
            hint = "write `[host/]name[:tag]`, the name of lower-case letters, digits, `.`, `_` and `-`"
            if component.isascii() and re.fullmatch(_COMPONENT, component.lower()):
                hint = "a repository name must be lower case"
            raise _invalid(text, hint)


def _invalid(text: str, hint: str) -> InvalidReferenceError:
    shown = text if len(text) <= 100 else text[:100] + "..."
    return InvalidReferenceError(f"invalid image name: {shown!r}", hint)
