"""Platforms (OCI image spec, "platform"): os, architecture and variant, in their normal form."""

import re
from dataclasses import dataclass

from pybuild.errors import UsageError

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_PART = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on; `variant` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part)


def parse_platform(text: str) -> Platform:
    """Return the platform in `os/architecture[/variant]` in normal form; raise UsageError."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"invalid platform: {text!r}", "write it as `linux/amd64` or `linux/arm/v7`")
    architecture, variant = _ARCHITECTURES.get(parts[1].lower(), (parts[1].lower(), ""))
    if len(parts) == 3:
        variant = parts[2].lower()
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if architecture == "arm" and not variant:
        variant = "v7"
    return Platform(parts[0].lower(), architecture, variant)


def host_platform(machine: str) -> Platform:
    """Return the Linux platform of a machine whose `uname -m` is `machine`."""
    architecture, variant = _ARCHITECTURES.get(machine.lower(), (machine.lower(), ""))
    return Platform("linux", architecture, variant)
