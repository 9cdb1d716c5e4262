"""How the user's registries are reached: what environment and settings say, of the process that is asked first."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pybuild.api.request import Registries
from pybuild.errors import UsageError

_NAMES = (
    *("HOME", "PATH", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"),
    *("CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
# What credential helpers want to know
_PREFIXES = ("AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_", "GNUPG", "PASSWORD_STORE_", "DBUS_SESSION_BUS_ADDRESS")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def settings(insecure: Sequence[str] = ()) -> Registries:
    """Return how registries are reached; a daemon has another environment than who asks it."""
    from pybuild.engine import paths

    found = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
    tables = _tables(paths.config())
    configured = [name for name, table in tables.items() if table.get("insecure") is True]
    return Registries(
        environment=found,
        insecure=tuple(dict.fromkeys(map(host, (*insecure, *configured)))),
        realms={name: table["realm"] for name, table in tables.items() if isinstance(table.get("realm"), str)},
    )


def proxies() -> dict[str, str]:
    """Return the proxies that programs of the user's would take."""
    found = ((name, os.environ.get(name) or os.environ.get(name.upper())) for name in PROXIES)
    return {name: value for name, value in found if value}


def host(text: str) -> str:
    """Return a registry's host[:port] as names of images have it; raise UsageError."""
    from pybuild.oci.reference import InvalidReferenceError, parse_reference

    bare = text.strip().rstrip("/")
    try:
        domain = parse_reference(f"{bare}/x").domain
    except InvalidReferenceError:
        domain = ""
    if domain != bare:
        raise UsageError(f"not a registry: {text}", "write its host, or host:port, as in names of images")
    return bare


def _tables(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the settings say of registries, by host: tables `[registry."HOST"]` with `insecure` and `realm`."""
    tables = config.get("registry", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError("`registry` of the configuration is not made of tables", 'write `[registry."host:port"]`')
    return tables
