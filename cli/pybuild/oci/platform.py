"""Platforms (OCI image spec, "platform"): os, architecture and variant, in their normal form."""

import re

import msgspec

from pybuild.errors import UsageError

_ARCHITECTURES = {
    # Names of `uname -m`, Go and Debian -> (architecture, variant)
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    # A 64-bit kernel that runs 32-bit programs
    "armv8l": ("arm", "v7"),
}
_SYSTEMS = {"macos": "darwin"}
_KNOWN_SYSTEMS = frozenset({"linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "wasip1"})
_KNOWN_ARCHITECTURES = frozenset(
    {*_ARCHITECTURES, "arm", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"}
)
_SUPERFLUOUS = {("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")}
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on; `variant` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part)


def normalise(os: str, architecture: str, variant: str = "") -> Platform:
    """Return the platform in normal form: lower case, Go's names, variants that say nothing left out."""
    os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if architecture == "arm":
        variant = variant or "v7"
        if variant.isdigit():
            variant = "v" + variant
    if (architecture, variant) in _SUPERFLUOUS:
        variant = ""
    return Platform(_SYSTEMS.get(os, os), architecture, variant)


def parse_platform(text: str, host: Platform | None = None) -> Platform:
    """Return the platform in `os/architecture[/variant]` in normal form; raise UsageError.

    With `host` the name of a known system or architecture is enough, and the host's own is `local`.
    """
    parts = text.split("/")
    if host is not None and len(parts) == 1:
        name = text.lower()
        if name == "local":
            return host
        if name in _KNOWN_SYSTEMS:
            return normalise(name, host.architecture, host.variant)
        if name in _KNOWN_ARCHITECTURES:
            return normalise(host.os, name)
    if not 2 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"invalid platform: {text[:100]!r}", "write it as `linux/amd64` or `linux/arm/v7`")
    return normalise(*parts)


def runs_on(image: Platform, wanted: Platform) -> bool:
    """May an image for platform `image` be taken where one for `wanted` is asked for?

    Processors of a later variant run what is made for earlier ones.
    """
    if (image.os, image.architecture) != (wanted.os, wanted.architecture):
        return False
    return image.variant == wanted.variant or level(image) <= level(wanted)


def level(platform: Platform) -> int:
    """Return a variant such as v7 as a number; without one it is the first."""
    digits = platform.variant.removeprefix("v").partition(".")[0]
    return int(digits) if digits.isdigit() else 1


def host_platform(machine: str) -> Platform:
    """Return the Linux platform of a machine whose `uname -m` is `machine`."""
    return normalise("linux", machine)
