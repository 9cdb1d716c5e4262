"""What a Dockerfile may not do unless whoever builds allows it (`--allow`), by BuildKit's names."""

from collections.abc import Iterable

HOST_NETWORK = "network.host"
INSECURE = "security.insecure"
DEVICE = "device"
"""All devices; `device=NAME` allows what NAME means in `--device`; with `,alias=OTHER` that is what OTHER asks for."""

KNOWN = (HOST_NETWORK, INSECURE, DEVICE)

_ALIAS = "alias="


def device_name(allowed: str) -> tuple[str, str] | None:
    """Return name and alias of `device=NAME[,alias=OTHER]`, "" for no alias; None for anything else."""
    key, equals, rest = allowed.partition("=")
    name, *options = rest.split(",")
    if key != DEVICE or not equals or not name or any(not option.startswith(_ALIAS) for option in options):
        return None
    return name, options[-1].removeprefix(_ALIAS) if options else ""


def device_of(asked: str, allow: Iterable[str]) -> tuple[str, bool]:
    """Return the device that a name in a Dockerfile stands for, and whether it is allowed whatever there is."""
    given = list(allow)
    for name, alias in filter(None, map(device_name, given)):
        if alias == asked:
            return name, True
    return asked, DEVICE in given


def devices(allow: Iterable[str]) -> list[str]:
    """Return the names of devices that are allowed, as they are written."""
    return [found[0] for item in allow if (found := device_name(item)) is not None and not found[1]]
