"""What a Dockerfile may not do unless whoever builds allows it (`--allow`), by BuildKit's names."""

from collections.abc import Iterable

HOST_NETWORK = "network.host"
INSECURE = "security.insecure"
DEVICE = "device"
"""All devices; `device=NAME` allows one, or all of a kind, and with `,alias=OTHER` that is what OTHER asks for."""

KNOWN = (HOST_NETWORK, INSECURE, DEVICE)

_ALIAS = "alias="


def device_name(allowed: str) -> tuple[str, str] | None:
    """Return name and alias of `device=NAME[,alias=OTHER]`, "" for no alias; None for anything else."""
    key, equals, rest = allowed.partition("=")
    name, *options = rest.split(",")
    if key != DEVICE or not equals or not name or any(not option.startswith(_ALIAS) for option in options):
        return None
    return name, options[-1].removeprefix(_ALIAS) if options else ""


def device_of(asked: str, allow: Iterable[str]) -> str | None:
    """Return the device that a name in a Dockerfile stands for, None where it is not allowed."""
    given = list(allow)
    named = [found for item in given if (found := device_name(item)) is not None]
    for name, alias in named:
        if alias == asked:
            return name
    kind = asked.partition("=")[0]
    is_allowed = DEVICE in given or any(not alias and name in (asked, kind, f"{kind}=*") for name, alias in named)
    return asked if is_allowed else None
