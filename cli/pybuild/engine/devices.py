"""What `RUN --device` asks for, made ready for the sandbox: variables, device nodes, files of this machine."""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pybuild.api import entitlements
from pybuild.api.entitlements import DEVICE
from pybuild.engine.paths import config_directory
from pybuild.errors import PybuildError
from pybuild.plan.ops import RunDevice
from pybuild.sandbox import cdi
from pybuild.sandbox.volumes import HostDevice, HostPath, Memory, Volume

_PASSED_OVER = ("bind", "rbind", "rw", "private", "rprivate", "slave", "rslave", "dev", "exec", "suid", "defaults")
"""Options of mounts that ask for what is the case anyway."""

_ATTRIBUTES = ("ro", "nosuid", "nodev", "noexec")


class Given(NamedTuple):
    """What a sandbox is given."""

    volumes: list[Volume]
    env: dict[str, str]
    warn: Callable[[str], None]
    keeps_groups: bool


def directories() -> list[Path]:
    """Return where devices are described, the user's own directory last."""
    own = config_directory()
    return [*cdi.DIRECTORIES, *([own / "cdi"] if own is not None else [])]


def find(asked: Sequence[RunDevice], allow: Sequence[str], warn: Callable[[str], None]) -> list[cdi.Device]:
    """Return the devices that a RUN asks for; `warn` hears of those that are not there, `allow` are permissions.

    Raises PybuildError for a required one that is not there, and for any that is there and not allowed.
    """
    registry = cdi.Registry(directories())
    granted = {device.name for name in entitlements.devices(allow) for device in registry.find(name)}
    found: dict[str, cdi.Device] = {}
    for one in asked:
        devices = registry.find(one.name)
        if not devices and one.required:
            raise PybuildError(f"device is required and there is none: {one.name}", _what_there_is(registry))
        if not devices:
            warn(f"RUN goes on without the device, as there is none: {one.name}")
        for device in devices:
            if not (one.allowed or device.name in granted or _always_allowed(device)):
                raise PybuildError(
                    f"device needs the permission of whoever builds: {device.name}",
                    f"build with `--allow {DEVICE}={device.name}`, or `--allow {DEVICE}` for all",
                )
            found[device.name] = device
    return list(found.values())


def given(devices: Sequence[cdi.Device], warn: Callable[[str], None], *, keeps_groups: bool) -> Given:
    """Return what devices give to a RUN; `warn` hears of what it may not be able to use.

    `keeps_groups` tells that a sandbox has the groups of this user. Raises PybuildError for one that cannot be given.
    """
    result = Given([], {}, warn, keeps_groups)
    shared: set[Path] = set()
    for device in devices:
        # What all devices of a file share comes once, and before what is their own
        if device.path not in shared:
            shared.add(device.path)
            _add(device.description.container_edits, device.name, result)
        _add(device.entry.container_edits, device.name, result)
    return result


def _always_allowed(device: cdi.Device) -> bool:
    return device.annotation(cdi.AUTO_ALLOW).lower() in ("1", "t", "true")


def _what_there_is(registry: cdi.Registry) -> str:
    if registry.problems:
        return f"a description cannot be read: {registry.problems[0]}"
    names = registry.names()
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"there are {', '.join(names[:5])}{more}"
    return f"descriptions (CDI) are looked for in {', '.join(map(str, directories()))}"


def _add(edits: cdi.Edits, name: str, result: Given) -> None:
    """Add what a description asks for; raise PybuildError for what a sandbox without root cannot do."""
    refused = {
        "hooks": edits.hooks,
        "additionalGids": edits.additional_gids,
        "intelRdt": edits.intel_rdt,
        "netDevices": edits.net_devices,
    }
    for what, asked in refused.items():
        if asked:
            raise PybuildError(
                f"device asks for what a build without root does not do ({what}): {name}",
                "describe a device for builds without it, with deviceNodes, mounts and env alone",
            )
    for variable in edits.env or ():
        key, equals, value = variable.partition("=")
        if not key or not equals:
            raise PybuildError(f"device has a variable that is not NAME=VALUE: {name}: {variable}")
        result.env[key] = value
    result.volumes.extend(_node(node, name, result) for node in edits.device_nodes or ())
    result.volumes.extend(_mount(mount, name) for mount in edits.mounts or ())


def _node(node: cdi.Node, name: str, result: Given) -> Volume:
    path = _absolute(node.host_path or node.path, name)
    state = _state(path, name)
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(state.st_mode), "")
    wanted = node.type.replace("u", "c")
    if not kind or (wanted and wanted != kind):
        raise PybuildError(f"device node is none of its type ({wanted or 'b, c'}): {name}: {path}")
    if (node.major or node.minor) and (node.major, node.minor) != (os.major(state.st_rdev), os.minor(state.st_rdev)):
        raise PybuildError(
            f"device node has other numbers than its description ({node.major}:{node.minor}): {name}: {path}"
        )
    wants = (os.R_OK if "r" in (node.permissions or "rw") else 0) | (
        os.W_OK if "w" in (node.permissions or "rw") else 0
    )
    if not os.access(path, wants):
        raise PybuildError(
            f"device node may not be opened by this user: {name}: {path}", "its owner, group or access list decide that"
        )
    if not result.keeps_groups and _is_opened_by_group(path, state):
        result.warn(
            f"device node is this user's by its group alone, which RUN does not have: {name}: {path}; "
            "`setfacl -m u:USER:rw` would do"
        )
    return HostDevice(os.fsencode(_absolute(node.path, name)), os.fsencode(path))


def _is_opened_by_group(path: str, state: os.stat_result) -> bool:
    if state.st_uid == os.getuid() or state.st_mode & 0o006 == 0o006 or os.getuid() == 0:
        return False
    return not any(name == "system.posix_acl_access" for name in os.listxattr(path))


def _mount(mount: cdi.Mount, name: str) -> Volume:
    options = mount.options or []
    target = os.fsencode(_absolute(mount.container_path, name))
    if mount.type == "tmpfs":
        return Memory(target, read_only="ro" in options)
    unknown = [option for option in options if option not in (*_ATTRIBUTES, *_PASSED_OVER)]
    if unknown or mount.type not in ("", "bind", "none"):
        raise PybuildError(f"device asks for an unknown mount: {name}: {', '.join(unknown) or mount.type}")
    path = _absolute(mount.host_path, name)
    _state(path, name)
    return HostPath(target, os.fsencode(path), tuple(option for option in options if option in _ATTRIBUTES))


def _state(path: str, name: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise PybuildError(f"device has a path that is not there: {name}: {path}: {error.strerror}") from error


def _absolute(path: str, name: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise PybuildError(f"device has a path that is not absolute: {name}: {path!r}")
    return path
