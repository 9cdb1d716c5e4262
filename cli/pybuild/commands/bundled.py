"""What is bundled with the frozen program, as `packaging/components.py` has written it beside the modules."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pybuild
from pybuild.errors import PybuildError, UsageError

_BUNDLE = Path(pybuild.__file__).parents[1]


class Component(NamedTuple):
    """A library or package; `licence` is an expression of SPDX, NOASSERTION where only its text tells."""

    name: str
    version: str
    licence: str


def document(bundle: Path = _BUNDLE) -> str:
    """Return the SBOM. Raises PybuildError for a pybuild that bundles nothing."""
    try:
        return (bundle / "sbom.spdx.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PybuildError(
            "this pybuild bundles nothing: its libraries are packages of their own",
            "`pip show --files` tells where a package has its licence",
        ) from None


def components(bundle: Path = _BUNDLE) -> list[Component]:
    """Return what is bundled, by name. Raises PybuildError as `document` does."""
    rows = json.loads(document(bundle))["packages"]
    return [Component(row["name"], row["versionInfo"], row["licenseDeclared"]) for row in rows]


def texts(names: Sequence[str], bundle: Path = _BUNDLE) -> Iterator[tuple[str, str]]:
    """Give a title and a text for each licence of these components.

    Raises UsageError for a name that is none of them, before anything is given.
    """
    known = {component.name.lower(): component.name for component in components(bundle)}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise UsageError(f"nothing that is bundled is called {unknown[0]}", "`pybuild self licences` lists all")
    with ZipFile(bundle / "licences.zip") as archive:
        for name in names:
            for member in archive.namelist():
                component, _, title = member.partition("/")
                if component == known[name.lower()]:
                    yield f"{component}: {title}", archive.read(member).decode(errors="replace")
