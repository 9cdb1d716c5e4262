"""Proxies that the user has configured once, for every build: our own settings, else docker's."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pybuild.errors import UsageError

NAMES = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "ftp": "FTP_PROXY", "no": "NO_PROXY", "all": "ALL_PROXY"}
"""Keys of `[proxy]` in our settings, and the variables they set."""

_DOCKER = {"httpProxy": "http", "httpsProxy": "https", "ftpProxy": "ftp", "noProxy": "no", "allProxy": "all"}


def configured(settings: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables in both cases, as `[proxy]` of the settings says, or docker's own file when there is none.

    Raises UsageError for settings that cannot be meant. Docker's file is docker's: a broken one says nothing.
    """
    table = settings.get("proxy")
    if table is None:
        table = _of_docker(environ)
    elif not isinstance(table, dict):
        raise UsageError("`proxy` in the settings is no table", "write `[proxy]`, and below it `http = ...`")
    values: dict[str, str] = {}
    for key, value in table.items():
        if key not in NAMES:
            raise UsageError(f"unknown key of [proxy] in the settings: {key}", f"known: {', '.join(NAMES)}")
        if not isinstance(value, str):
            raise UsageError(f"[proxy] in the settings has no text for {key}: {value!r}")
        if value:
            values[NAMES[key]] = values[NAMES[key].lower()] = value
    return values


def _of_docker(environ: Mapping[str, str]) -> dict[str, object]:
    directory = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", "/"), ".docker")
    try:
        data = json.loads(Path(directory, "config.json").read_bytes())
        given = data["proxies"]["default"]
        return {key: str(given[name]) for name, key in _DOCKER.items() if given.get(name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
