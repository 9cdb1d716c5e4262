"""Putting plugins into the user's directory and taking them out again; what is there is pinned in a lock file."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pybuild.errors import NotFoundError, PybuildError, UsageError
from pybuild.plugin import places
from pybuild.plugin.found import PREFIX, find
from pybuild.plugin.output import new_file
from pybuild.plugin.wheels import Wheel, WheelError, best, unpack, verify

HOST = "pybuild"
"""The distribution that is never installed with a plugin: it is us."""


def install(what: str, *, offline: str = "", link: bool = False) -> Wheel:
    """Install a wheel, a project's directory, an executable `pybuild-NAME`, or a distribution by name; say what it is.

    Its dependencies are looked for in the directory `offline`, else pip gets them, as wheels. With `link` a project is
    used in place. An older version makes room when the new one is complete. Raises PybuildError.
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
            return _install_executable(path, root)
        else:
            given = path if path.is_file() else _named(what, wheels, Path(staging) / "got")
            wheels = wheels or (given.parent if given != path else None)
            found, source = unpack(given, folder), given.name
        _add_dependencies(found, folder, wheels, Path(staging) / "dependencies")
        _check(folder, found)
        _replace(folder, root / _folder_name(found.name))
        _pin(root, _folder_name(found.name), found, source, linked=link)
    return found


def _install_executable(path: Path, root: Path) -> Wheel:
    from pybuild.plugin.executable import ask

    if not path.name.startswith(PREFIX) or not os.access(path, os.X_OK):
        raise UsageError(f"neither a wheel nor an executable {PREFIX}NAME: {path}")
    found = ask([str(path)])[str(path)]
    if found.problem:
        raise PybuildError(f"cannot install {path.name}: it {found.problem}")
    import hashlib

    data = path.read_bytes()
    with new_file(root / path.name) as file:
        file.write(data)
    os.chmod(root / path.name, 0o755)
    wheel = Wheel(path.name, found.version, hashlib.sha256(data).hexdigest(), ())
    _pin(root, path.name, wheel, str(path), linked=False)
    return wheel


def _named(what: str, wheels: Path | None, got: Path) -> Path:
    """Return the wheel of a requirement such as `name==1.2`: in `wheels`, else got by pip."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(what)
    except InvalidRequirement:
        raise NotFoundError(f"no such file, and no name of a distribution: {what}") from None
    directory = wheels
    if directory is None:
        _download([str(requirement)], got)
        directory = got
    found = best(requirement.name, directory, str(requirement.specifier))
    if found is None:
        raise NotFoundError(f"no wheel of {requirement} that fits here in: {directory}")
    return found


def _download(requirements: Sequence[str], into: Path) -> None:
    import subprocess

    pip = shutil.which("pip") or shutil.which("pip3")
    if pip is None:
        raise PybuildError(
            f"nothing here could get {', '.join(requirements)}: there is no pip", "name a directory by --offline DIR"
        )
    into.mkdir(exist_ok=True)
    words = [pip, "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--dest", str(into)]
    done = subprocess.run([*words, "--", *requirements], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise PybuildError(f"pip could not get {', '.join(requirements)}: {' '.join(told)[:500]}")


def _add_dependencies(found: Wheel, folder: Path, wheels: Path | None, got: Path) -> None:
    """Unpack into the folder what a distribution needs and pybuild does not bring along."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pending, there = [*found.requires], {canonicalize_name(found.name), HOST}
    while pending:
        requirement = Requirement(pending.pop(0))
        name = canonicalize_name(requirement.name)
        if name in there or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        there.add(name)
        ours = _version_of_ours(name)
        if ours:
            if not requirement.specifier.contains(ours, prereleases=True):
                raise PybuildError(
                    f"{found.name} needs {requirement}, and pybuild itself has {requirement.name} {ours}",
                    "a plugin with other versions can be an executable with an environment of its own",
                )
            continue
        directory = wheels
        if directory is None:
            _download([str(requirement)], got)
            directory = got
        wheel = best(name, directory, str(requirement.specifier))
        if wheel is None:
            raise NotFoundError(f"no wheel of {requirement} that fits here in: {directory}")
        pending += unpack(wheel, folder).requires


def _version_of_ours(name: str) -> str:
    """Return the version of a library that pybuild itself uses, "" for another one."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        ours = [Requirement(text) for text in requires(HOST) or ()]
        named = {
            canonicalize_name(one.name) for one in ours if one.marker is None or one.marker.evaluate({"extra": ""})
        }
        return version(name) if name in named else ""
    except PackageNotFoundError:
        # Of a checkout that was never installed nothing is known
        return ""


def _check(folder: Path, found: Wheel) -> None:
    """Raise PybuildError for a distribution that is no plugin, or not for this pybuild."""
    from pybuild.plugin.found import in_folder

    plugins = in_folder(str(folder))
    if not plugins:
        raise WheelError(f"{found.name} {found.version} has no plugin for pybuild")
    for plugin in plugins:
        if plugin.problem:
            raise PybuildError(f"cannot install {found.name} {found.version}: it {plugin.problem}")


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


def _pin(root: Path, place: str, found: Wheel, source: str, *, linked: bool) -> None:
    row = {
        "name": found.name,
        "version": found.version,
        "sha256": found.sha256,
        "source": source,
        "linked": linked,
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
