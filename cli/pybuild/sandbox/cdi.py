"""Devices of this machine as the Container Device Interface describes them: files in a few directories.

Only what is understood is taken: a member that is not known here might be what makes a device safe to use.
https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pybuild.sandbox.errors import SandboxError

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"), Path("/etc/buildkit/cdi"))
"""Where descriptions are; of two devices of one name that in the later directory counts."""

AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"
CLASS = "org.mobyproject.buildkit.device.class"

MAX_SIZE = 4 << 20
"""Largest description in bytes."""

_YAML = (".yaml", ".yml")
_VERSION = re.compile(r"v?[01]\.\d+\.\d+")


class _Strict(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class Node(_Strict, frozen=True):
    """A device node: `path` in the container, `host_path` here, "" for the same one. `type` is b, c or u (as c)."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | str | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Strict, frozen=True):
    """Something of this machine that appears in the container; `options` are those of mount(8)."""

    host_path: str
    container_path: str
    options: list[str] | None = None
    type: str = ""


class Edits(_Strict, frozen=True):
    """What a container is given."""

    env: list[str] | None = None
    device_nodes: list[Node] | None = None
    mounts: list[Mount] | None = None
    hooks: list[Any] | None = None
    additional_gids: list[int] | None = msgspec.field(default=None, name="additionalGids")
    intel_rdt: Any = None
    net_devices: list[Any] | None = None


class Entry(_Strict, frozen=True):
    """A device of a description."""

    name: str
    annotations: dict[str, str] | None = None
    container_edits: Edits = Edits()


class Description(_Strict, frozen=True):
    """A file: devices of one kind, and what each of them brings along."""

    cdi_version: str
    kind: str
    devices: list[Entry]
    annotations: dict[str, str] | None = None
    container_edits: Edits = Edits()


class Device(msgspec.Struct, frozen=True):
    """A device by its qualified name, and where it is described; `description` is what all of that file share."""

    name: str
    path: Path
    entry: Entry
    description: Description

    def annotation(self, name: str) -> str:
        """Return an annotation of the device, else of all in its file, "" for none."""
        return (self.entry.annotations or {}).get(name) or (self.description.annotations or {}).get(name) or ""


class Registry:
    """The devices of this machine. `problems` tell of files that could not be read."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._devices: dict[str, Device] = {}
        self._twice: dict[str, Path] = {}
        self.problems: list[str] = []
        for directory in directories:
            found: dict[str, Device] = {}
            for device in self._read_all(directory):
                self._twice.pop(device.name, None)
                if device.name in found:
                    self._twice[device.name] = device.path
                found[device.name] = device
            self._devices.update(found)

    def find(self, name: str) -> list[Device]:
        """Return the devices that a name means, none where there is none; raise SandboxError for an ambiguous one.

        `KIND` is the first device of that kind, `KIND=*` all of them, and `KIND=NAME` where no device has that name
        all those whose annotation says that they are of the class NAME.
        """
        kind, _, last = name.partition("=")
        alike = [device for key, device in sorted(self._devices.items()) if key.startswith(f"{kind}=")]
        match last:
            case "":
                found = alike[:1]
            case "*":
                found = alike
            case _:
                found = [device for device in alike if device.name == name]
                found = found or [device for device in alike if device.annotation(CLASS) == last]
        for device in found:
            if device.name in self._twice:
                raise SandboxError(
                    f"device is described twice: {device.name}", f"one of them is in {self._twice[device.name]}"
                )
        return found

    def names(self) -> list[str]:
        """Return the names of all devices."""
        return sorted(self._devices)

    def _read_all(self, directory: Path) -> Iterator[Device]:
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.problems.append(f"{directory}: {error.strerror}")
            return
        for name in names:
            path = directory / name
            if path.suffix not in (".json", *_YAML):
                continue
            try:
                description = _read(path)
            except SandboxError as error:
                self.problems.append(f"{path}: {error.message}")
                continue
            for entry in description.devices:
                yield Device(f"{description.kind}={entry.name}", path, entry, description)


def _read(path: Path) -> Description:
    """Return a description; raise SandboxError, whose message does not name the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise SandboxError(error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise SandboxError(f"larger than {MAX_SIZE} bytes")
    try:
        if path.suffix in _YAML:
            from msgspec import yaml

            description = yaml.decode(data, type=Description)
        else:
            description = msgspec.json.decode(data, type=Description)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SandboxError(" ".join(str(error).split())) from error
    if not _VERSION.fullmatch(description.cdi_version):
        raise SandboxError(f"unknown version of a description: {description.cdi_version}")
    return description
