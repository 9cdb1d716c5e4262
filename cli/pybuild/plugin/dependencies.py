"""What a plugin needs besides pybuild: found in a directory, or got by pip or uv, and unpacked beside it."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pybuild.errors import NotFoundError, PybuildError
from pybuild.plugin.wheels import Wheel, best, unpack

if TYPE_CHECKING:
    from packaging.requirements import Requirement

HOST = "pybuild"
"""The distribution that is never installed with a plugin: it is us."""


def named(what: str, wheels: Path | None, got: Path) -> Path:
    """Return the wheel of a requirement such as `name==1.2`: in `wheels`, else fetched into `got`.

    Raises NotFoundError, and PybuildError for what cannot be fetched.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(what)
    except InvalidRequirement:
        raise NotFoundError(f"no such file, and no name of a distribution: {what}") from None
    return _wheel_of(requirement, wheels, got)


def add_dependencies(found: Wheel, folder: Path, wheels: Path | None, got: Path) -> list[Wheel]:
    """Unpack into the folder what a distribution needs and pybuild does not bring along; return that.

    Raises PybuildError where two of them need different versions, or one needs another than pybuild has.
    """
    from packaging.utils import canonicalize_name

    there: dict[str, Wheel] = {}
    seen = {canonicalize_name(found.name), canonicalize_name(HOST)}
    pending = [(found, one) for one in _needed(found.requires, ())]
    brought = ours()
    asked: set[tuple[str, str]] = set()
    while pending:
        who, requirement = pending.pop(0)
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        if name in brought:
            if not requirement.specifier.contains(brought[name], prereleases=True):
                raise PybuildError(
                    f"{who.name} needs {_shown(requirement)}, and pybuild itself has {name} {brought[name]}",
                    "a plugin with other versions can be an executable with an environment of its own",
                )
            continue
        if name not in there:
            there[name] = unpack(_wheel_of(requirement, wheels, got), folder)
        wheel = there[name]
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            raise PybuildError(
                f"{who.name} needs {_shown(requirement)}, and another one got {wheel.name} {wheel.version}",
                "let the plugin's own requirements name the version that suits all",
            )
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in asked:
                asked.add((name, extra))
                pending += [(wheel, one) for one in _needed(wheel.requires, (extra,))]
    return [there[name] for name in sorted(there)]


def _needed(requires: Iterable[str], extras: Sequence[str]) -> "Iterator[Requirement]":
    """Yield the requirements that hold here, for one of the extras."""
    from packaging.requirements import Requirement

    for text in requires:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or ("",)):
            yield requirement


def _shown(requirement: "Requirement") -> str:
    return f"{requirement.name}{requirement.specifier}"


def _wheel_of(requirement: "Requirement", wheels: Path | None, got: Path) -> Path:
    if wheels is None:
        _fetch(_shown(requirement), got)
    found = best(requirement.name, wheels or got, str(requirement.specifier))
    if found is None:
        raise NotFoundError(f"no wheel of {_shown(requirement)} that fits here in: {wheels or got}")
    return found


def _fetch(requirement: str, into: Path) -> None:
    """Have a program fetch one wheel, without what it needs: pybuild itself is among that, and is never fetched."""
    import subprocess

    program = _program()
    if not program:
        raise PybuildError(
            f"nothing here could get {requirement}: there is neither pip nor uv", "name a directory by --offline DIR"
        )
    into.mkdir(exist_ok=True)
    words = [*program, "--quiet", "--disable-pip-version-check", "--no-deps", *_for_us(), "--dest", str(into)]
    done = subprocess.run([*words, "--", requirement], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        told = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
        raise PybuildError(f"{Path(program[0]).name} could not get {requirement}: {' '.join(told)[:500]}")


def _program() -> list[str]:
    """Return the command that downloads wheels: pip, or the pip that uv runs; [] for none."""
    for name in ("pip", "pip3"):
        pip = shutil.which(name)
        if pip is not None:
            return [pip, "download"]
    uv = shutil.which("uv")
    return [uv, "tool", "run", "--quiet", "pip", "download"] if uv is not None else []


def _for_us() -> list[str]:
    """Return what asks for wheels of our own Python: the one that runs pip may be another."""
    from packaging.tags import platform_tags

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    words = ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    words += ["--abi", f"cp{version.replace('.', '')}"]
    return [*words, *(word for platform in platform_tags() for word in ("--platform", platform))]


def ours() -> dict[str, str]:
    """Return the versions of all libraries that pybuild brings along, by canonical name: what plugins get of them.

    Of a checkout that was never installed nothing is known.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    pending, seen = [HOST], {HOST}
    while pending:
        try:
            known = distribution(pending.pop())
        except PackageNotFoundError:
            continue
        found[canonicalize_name(known.metadata["Name"])] = known.version
        names = {canonicalize_name(one.name) for one in _needed(known.requires or (), ())}
        pending += sorted(names - seen)
        seen |= names
    found.pop(HOST, None)
    return dict(sorted(found.items()))
