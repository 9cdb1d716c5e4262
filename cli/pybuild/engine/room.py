"""How much of the disk the store may take, and a context that is sent: options, else environment, else settings."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pybuild.errors import UsageError
from pybuild.progress.amounts import parse_size

NAMES = ("max_size", "min_free")
"""Most bytes of the store, and bytes that are to stay free on its disk."""


def limits(given: Mapping[str, str], environ: Mapping[str, str], settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return both in bytes, 0 where there is no limit; raise UsageError for what is no size."""
    first, second = (_limit(name, given.get(name, ""), environ, settings) for name in NAMES)
    return first, second


class ContextLimits(NamedTuple):
    """Most bytes of an unpacked context, with its headers, and most files; 0 is what holds for all archives."""

    size: int = 0
    files: int = 0


def context_limits() -> ContextLimits:
    """Return how large a context may be that is sent or fetched: PYBUILD_MAX_CONTEXT_SIZE and _FILES, else
    `max_context_size` and `max_context_files` of the settings, of the process that builds. Raises UsageError.
    """
    from pybuild.engine.paths import config

    settings = config()
    size = _limit("max_context_size", "", os.environ, settings)
    files: Any = os.environ.get("PYBUILD_MAX_CONTEXT_FILES") or settings.get("max_context_files", 0)
    if isinstance(files, bool) or not re.fullmatch(r"[0-9]{1,12}", str(files), re.ASCII):
        raise UsageError(f"not a number of files for PYBUILD_MAX_CONTEXT_FILES or `max_context_files`: {files}")
    return ContextLimits(size, int(files))


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
