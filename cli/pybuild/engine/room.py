"""How much of the disk the store may take: options, else the environment, else the settings."""

from collections.abc import Mapping
from typing import Any

from pybuild.errors import UsageError
from pybuild.progress.amounts import parse_size

NAMES = ("max_size", "min_free")
"""Most bytes of the store, and bytes that are to stay free on its disk."""


def limits(given: Mapping[str, str], environ: Mapping[str, str], settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return both in bytes, 0 where there is no limit; raise UsageError for what is no size."""
    first, second = (_limit(name, given.get(name, ""), environ, settings) for name in NAMES)
    return first, second


def _limit(name: str, given: str, environ: Mapping[str, str], settings: Mapping[str, Any]) -> int:
    variable = f"PYBUILD_{name.upper()}"
    if given:
        return _size(given, f"--{name.replace('_', '-')}")
    if variable in environ:
        return _size(environ[variable], variable) if environ[variable] else 0
    value = settings.get(name, settings.get(name.replace("_", "-"), 0))
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, int) and value < 0):
        raise UsageError(f"`{name}` in the settings is no size: {value!r}", 'write for example `"20g"`')
    return _size(value, f"`{name}` in the settings") if isinstance(value, str) and value else int(value or 0)


def _size(text: str, where: str) -> int:
    found = parse_size(text)
    if found is None:
        raise UsageError(f"invalid size for {where}: {text}", "write for example `20g`")
    return found
