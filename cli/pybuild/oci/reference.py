"""Names of images, by the grammar and the customs of Docker (distribution/reference).

reference = [ domain "/" ] path [ ":" tag ] [ "@" digest ]; `busybox` means docker.io/library/busybox:latest
"""

import re
from dataclasses import dataclass

from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MAX_NAME = 255


class InvalidReferenceError(PybuildError):
    """Text that is no name of an image."""

    http_status = 400


@dataclass(frozen=True, slots=True)
class Reference:
    """A full name; at least one of `tag` and `digest` is set."""

    domain: str
    path: str
    tag: str | None
    digest: Digest | None = None

    @property
    def repository(self) -> str:
        """Return `domain/path`."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def familiar(self) -> str:
        """Return the name as people write it: `busybox:latest`."""
        if self.domain != DEFAULT_DOMAIN:
            return str(self)
        return self.path.removeprefix(_OFFICIAL) + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")


def parse_reference(text: str) -> Reference:
    """Return the full name that `text` means; raise InvalidReferenceError."""
    rest, at, digest_text = text.partition("@")
    digest = parse_digest(digest_text) if at else None
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        domain, remainder = head, tail
    else:
        domain, remainder = DEFAULT_DOMAIN, rest
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = DEFAULT_DOMAIN
    path, colon, tag = remainder.partition(":")
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"invalid registry name: {domain!r}")
    if path != path.lower():
        raise _invalid(text, "image names are lower case")
    if not path or not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        raise _invalid(text, "invalid image name")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"invalid tag: {tag!r}")
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    if len(domain) + 1 + len(path) > MAX_NAME:
        raise _invalid(text, f"the name is longer than {MAX_NAME} characters")
    if re.fullmatch(r"[0-9a-f]{64}", rest):
        raise _invalid(text, "a name cannot look like an image id")
    return Reference(domain, path, tag if colon else (None if digest else "latest"), digest)


def _invalid(text: str, why: str) -> InvalidReferenceError:
    return InvalidReferenceError(f"invalid reference: {text[:200]!r}: {why}")
