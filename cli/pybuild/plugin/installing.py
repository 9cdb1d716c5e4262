"""Putting plugins into the user's directory and taking them out again; what is there is pinned in a lock file."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pybuild.errors import ConflictError, NotFoundError, PybuildError, UsageError
from pybuild.plugin import places
from pybuild.plugin.dependencies import add_dependencies, named
from pybuild.plugin.found import COMMAND, EXECUTABLE, PREFIX, Found, find
from pybuild.plugin.output import new_file
from pybuild.plugin.wheels import Wheel, WheelError, unpack, verify


def install(what: str, *, offline: str = "", link: bool = False, taken: Collection[str] = ()) -> Wheel:
    """Install a wheel, a project's directory, an executable `pybuild-NAME`, or a distribution by name; say what it is.

    Its dependencies are looked for in the directory `offline`, else pip or uv gets them, as wheels. With `link` a
    project is used in place. `taken` are names that no command may have. An older version makes room when the new one
    is complete. Raises PybuildError.
    """
    path = Path(what).absolute()
    if link and not path.is_dir():
        raise UsageError(f"--link is for the directory of a project, not: {what}")
    with _locked() as root, tempfile.TemporaryDirectory(prefix=".new-", dir=root) as staging:
        wheels = Path(offline).absolute() if offline else None
        if wheels is not None and not wheels.is_dir():
            raise NotFoundError(f"no such directory: {offline}")
        folder = Path(staging) / "folder"
        folder.mkdir(mode=0o755)
        if path.is_dir():
            from pybuild.plugin.projects import lay_out

            found = lay_out(path, folder, link=link)
            source = str(path)
        elif path.is_file() and path.suffix != ".whl":
            return _install_executable(path, root, taken)
        else:
            given = path if path.is_file() else named(what, wheels, Path(staging) / "got")
            found, source = unpack(given, folder), given.name
        _check(folder, found, taken)
        needed = add_dependencies(found, folder, wheels, Path(staging) / "got")
        _replace(folder, root / _folder_name(found.name))
        _pin(root, _folder_name(found.name), found, source, needed, linked=link)
    return found


def _install_executable(path: Path, root: Path, taken: Collection[str]) -> Wheel:
    from pybuild.plugin.executable import ask

    if not path.name.startswith(PREFIX) or not os.access(path, os.X_OK):
        raise UsageError(f"neither a wheel nor an executable {PREFIX}NAME: {path}")
    found = ask([str(path)])[str(path)]
    if found.problem:
        raise PybuildError(f"cannot install {path.name}: it {found.problem}")
    _check_name(path.name, found, taken)
    import hashlib

    data = path.read_bytes()
    with new_file(root / path.name) as file:
        file.write(data)
    os.chmod(root / path.name, 0o755)
    wheel = Wheel(path.name, found.version, hashlib.sha256(data).hexdigest(), ())
    _pin(root, path.name, wheel, str(path), (), linked=False)
    return wheel


def _check(folder: Path, found: Wheel, taken: Collection[str]) -> None:
    """Raise PybuildError for a distribution that is no plugin, or not for this pybuild."""
    from pybuild.plugin.found import in_folder

    plugins = in_folder(str(folder))
    if not plugins:
        raise WheelError(f"{found.name} {found.version} has no plugin for pybuild")
    for plugin in plugins:
        if plugin.problem:
            raise PybuildError(f"cannot install {found.name} {found.version}: it {plugin.problem}")
        _check_name(f"{found.name} {found.version}", plugin, taken)


def _check_name(what: str, plugin: Found, taken: Collection[str]) -> None:
    if plugin.kind in (COMMAND, EXECUTABLE) and plugin.name in taken:
        raise ConflictError(f"cannot install {what}: a built-in command has its name: {plugin.name}")


def _replace(folder: Path, place: Path) -> None:
    old = folder.parent / "old"
    if place.is_dir():
        os.rename(place, old)
    os.rename(folder, place)


def remove(name: str) -> list[str]:
    """Remove the distributions in the user's directory that have a plugin of this name; return what is gone.

    Raises NotFoundError, and PybuildError for one that was put elsewhere by somebody else.
    """
    with _locked() as root:
        gone: list[str] = []
        others: list[str] = []
        for plugin in find():
            if name not in (plugin.name, plugin.distribution, _folder_name(plugin.distribution)):
                continue
            place = Path(plugin.folder or plugin.target)
            if place.parent != root:
                others.append(str(place) if place.is_absolute() else plugin.distribution)
            elif place.exists():
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink()
                gone.append(f"{plugin.distribution} {plugin.version}")
                _unpin(root, place.name)
        if not gone:
            if others:
                raise PybuildError(f"not installed by `pybuild plugin install`: {', '.join(others)}")
            raise NotFoundError(f"no such plugin: {name}", "`pybuild plugin list` shows all")
        return gone


def verified(name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each pinned plugin, or the one of this name, with what has changed of it since it was installed."""
    root = Path(places.own_directory())
    for folder, row in sorted(_pins(root).items()):
        if name and name not in (folder, row["name"]):
            continue
        place = root / folder
        if not place.exists():
            yield row["name"], ["is gone"]
        elif row["linked"]:
            yield row["name"], []
        elif place.is_dir():
            yield row["name"], [*verify(place)]
        else:
            import hashlib

            same = hashlib.sha256(place.read_bytes()).hexdigest() == row["sha256"]
            yield row["name"], [] if same else ["has changed"]


# -- the lock file ---------------------------------------------------------------------------------------


@contextmanager
def _locked() -> Iterator[Path]:
    """Give the user's directory, made when absent; one process at a time changes it."""
    import fcntl

    root = Path(places.own_directory())
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PybuildError(f"cannot make the directory of plugins: {root}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield root
    finally:
        os.close(descriptor)


def _lock_file(root: Path) -> Path:
    return root / "plugins.lock"


def _pins(root: Path) -> dict[str, dict[str, Any]]:
    """Return what is pinned by the name of its folder or file; raise PybuildError for a file that is damaged."""
    try:
        pins: dict[str, dict[str, Any]] = json.loads(_lock_file(root).read_text())["plugins"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PybuildError(f"the lock file of plugins cannot be read: {_lock_file(root)}: {error}") from error
    return pins


def _pin(root: Path, place: str, found: Wheel, source: str, needed: Sequence[Wheel], *, linked: bool) -> None:
    row = {
        "name": found.name,
        "version": found.version,
        "sha256": found.sha256,
        "source": source,
        "linked": linked,
        "dependencies": [{"name": one.name, "version": one.version, "sha256": one.sha256} for one in needed],
    }
    _write(root, {**_pins(root), place: row})


def _unpin(root: Path, place: str) -> None:
    _write(root, {name: row for name, row in _pins(root).items() if name != place})


def _write(root: Path, pins: dict[str, dict[str, Any]]) -> None:
    with new_file(_lock_file(root)) as file:
        file.write(json.dumps({"version": 1, "plugins": pins}, indent=2, sort_keys=True).encode() + b"\n")


def _folder_name(name: str) -> str:
    """Return the name of a distribution's folder, which begins with no `pybuild-`: that is for executables."""
    return "_".join(part for part in name.lower().replace(".", "-").replace("_", "-").split("-") if part)
