"""What a server wants to know of who asks: the WWW-Authenticate header (RFC 9110, 11.6.1)."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)(?!\s*=)")
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')

MAX_LENGTH = 8192


class Challenge(NamedTuple):
    """One way to prove who asks; `scheme` and names of parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Return the challenges in a response's headers, in order; what is no challenge is left out."""
    found: list[Challenge] = []
    for header in headers:
        text, at = header[:MAX_LENGTH], 0
        while at < len(text):
            scheme = _SCHEME.match(text, at)
            if scheme is None:
                break
            at = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(text, at):
                quoted, bare = parameter[2], parameter[3]
                parameters[parameter[1].lower()] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                at = parameter.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found
