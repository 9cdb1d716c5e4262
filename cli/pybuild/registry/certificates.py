"""Certificates for single registries, in docker's and podman's layout (containers-certs.d(5)): `certs.d/HOST[:PORT]/`.

`*.crt` are certificates to trust besides the system's, `*.cert` and `*.key` of one name are shown to the registry.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pybuild.registry.errors import RegistryError
from pybuild.registry.transport import Trust


def directories(environment: Mapping[str, str]) -> list[Path]:
    """Return where such directories may be, the user's own first."""
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    own = [f"{config}/containers", f"{config}/docker", f"{home}/.docker"]
    return [Path(place) / "certs.d" for place in (*own, "/etc/containers", "/etc/docker")]


def trust_of(names: Iterable[str], environment: Mapping[str, str], *, verify: bool) -> Trust:
    """Return what is said of a host, by any of its names, in the first directory that there is.

    Raises RegistryError for a certificate without its key, and for what cannot be read.
    """
    for base in directories(environment):
        for name in names:
            path = base / name
            try:
                files = sorted(os.listdir(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise RegistryError(f"cannot read certificates: {path}: {error.strerror}") from error
            return _read(path, files, verify=verify)
    return Trust(verify=verify)


def _read(path: Path, files: Sequence[str], *, verify: bool) -> Trust:
    ca = tuple(str(path / name) for name in files if name.endswith(".crt"))
    for name in files:
        if name.endswith(".cert"):
            key = name.removesuffix(".cert") + ".key"
            if key not in files:
                raise RegistryError(f"a certificate has no key beside it: {path / name}", f"its name is to be {key}")
            return Trust(ca, (str(path / name), str(path / key)), verify)
    return Trust(ca, verify=verify)
