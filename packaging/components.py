"""Writes what is bundled with the frozen program: `python components.py BUNDLE BINARIES REQUIREMENTS`.

BUNDLE is the directory with the program; it gets `lib/licences.zip` with the texts of each component, as NAME/TEXT, and
`lib/sbom.spdx.json`, a document of SPDX 2.3. BINARIES is what build.spec has written down of where libraries came from.
A library whose licence is not found is an error: nobody may be given the program without it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

ROOT = "pybuild"
LOADER = "pyinstaller"
NOTHING = "NOASSERTION"
COMMON = Path("/usr/share/common-licenses")

OWN_TEXTS = Path(__file__).with_name("licences")
"""Texts that wheels leave out of libraries that are compiled into their modules, by name of the wheel."""

_NAMED = {
    "apache 2.0": "Apache-2.0",
    "isc license": "ISC",
    "psf-2.0": "PSF-2.0",
    "gplv2-or-later with a special exception which allows to use pyinstaller to build and distribute non-free programs"
    " (including commercial ones)": "GPL-2.0-or-later WITH Bootloader-exception",
}


class Component(NamedTuple):
    """A thing that is bundled; `licence` is an expression of SPDX, `texts` are files and the names they get."""

    name: str
    version: str
    licence: str
    purl: str
    texts: tuple[tuple[str, Path], ...]
    digest: str = ""


def main(bundle: Path, binaries: Path, requirements: Path) -> None:
    """Write texts and document."""
    digests = dict(re.findall(r"^(\S+==\S+) --hash=sha256:([0-9a-f]{64})", requirements.read_text(), re.MULTILINE))
    sources = {name: Path(source) for name, source in json.loads(binaries.read_text()).items()}
    found = [*wheels(bundle / "lib", digests), python(), *libraries(sources)]
    unique = sorted({component.name: component for component in found}.values())
    lacking = [component.name for component in unique if not component.texts]
    if lacking:
        raise SystemExit(f"error: no licence text is found for {', '.join(lacking)}, which is bundled")
    write_texts(bundle / "lib" / "licences.zip", unique)
    path = bundle / "lib" / "sbom.spdx.json"
    path.write_text(json.dumps(document(unique), indent=1, sort_keys=True) + "\n")


def wheels(lib: Path, digests: dict[str, str]) -> Iterator[Component]:
    """The distributions of this environment that are bundled, and the loader."""
    with ZipFile(lib / "later.zip") as archive:
        members = {name.split("/")[0].removesuffix(".pyc") for name in archive.namelist()}
    members |= {name.removesuffix(".pyc") for name in os.listdir(lib)}
    backports = {f"backports/{name}" for name in os.listdir(lib / "backports")}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name == LOADER or modules(distribution) & (members | backports):
            version = distribution.version
            texts = (*own_texts(distribution), *((path.name, path) for path in sorted(OWN_TEXTS.glob(f"{name}/*"))))
            purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
            yield Component(name, version, licence_of(distribution), purl, texts, digests.get(f"{name}=={version}", ""))


def modules(distribution: Distribution) -> set[str]:
    """The names that can be imported of it."""
    names = set()
    for path in distribution.files or ():
        if path.suffix in (".py", ".so") and ".." not in path.parts:
            deep = 2 if path.parts[0] == "backports" else 1
            names.add("/".join(path.parts[:deep]).removesuffix(".py"))
    return names


def own_texts(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    """Files of licences and notices that came with a distribution."""
    for path in sorted(distribution.files or (), key=str):
        if ".dist-info" in path.parts[0] and re.search(r"LICEN[CS]E|COPYING|NOTICE", path.name, re.IGNORECASE):
            place = path.relative_to(path.parts[0])
            name = "-".join(part for part in place.parts if part != "licenses")
            yield name, Path(str(distribution.locate_file(path)))


def licence_of(distribution: Distribution) -> str:
    """The expression that a distribution states in one way or another."""
    headers = distribution.metadata
    stated = headers.get("License-Expression") or headers.get("License") or ""
    for candidate in (stated, _NAMED.get(stated.lower(), "")):
        try:
            return str(canonicalize_license_expression(candidate))
        except InvalidLicenseExpression:
            continue
    return _NAMED.get(stated.lower(), NOTHING)


def python() -> Component:
    """Python itself: its own file of a build from source, else what Debian says of its package."""
    version = sys.version.split()[0]
    own = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    texts = ((own.name, own),) if own.exists() else copyright_of(package_of(Path(os.__file__)))
    return Component("Python", version, "PSF-2.0", f"pkg:generic/python@{version}", texts)


def libraries(sources: dict[str, Path]) -> Iterator[Component]:
    """The Debian packages of the libraries that modules and Python are linked with."""
    own = re.compile(r"libpython\d")
    for name, source in sorted(sources.items()):
        if "/" in name or own.match(name):
            continue
        owner = package_of(source)
        if not owner:
            raise SystemExit(f"error: {source} is bundled, and no Debian package has it: its licence is not known")
        version = said("dpkg-query", "-W", "-f", "${Version}", owner)
        package, _, architecture = owner.partition(":")
        purl = f"pkg:deb/debian/{package}@{version.replace('+', '%2B')}{'?arch=' * bool(architecture)}{architecture}"
        yield Component(package, version, NOTHING, purl, copyright_of(owner))


def package_of(path: Path) -> str:
    """The name of the Debian package that has a file, with its architecture; "" for none."""
    real = str(path.resolve())
    # Before all was moved below /usr, packages had libraries in /lib
    for candidate in (str(path), real, real.removeprefix("/usr"), f"/usr{real}"):
        told = said("dpkg-query", "-S", candidate)
        if told:
            return told.split(": ")[0].split(", ")[0]
    return ""


def copyright_of(package: str) -> tuple[tuple[str, Path], ...]:
    """What Debian says of a package's licences, and the common texts that it only names."""
    path = Path("/usr/share/doc", package.partition(":")[0], "copyright")
    if not package or not path.exists():
        return ()
    names = set(re.findall(rf"{COMMON}/([A-Za-z0-9.-]*[A-Za-z0-9])", path.read_text(errors="replace")))
    return (("copyright", path), *((name, COMMON / name) for name in sorted(names) if (COMMON / name).exists()))


def said(*command: str) -> str:
    """What a command has printed, "" if it fails or is not there."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def write_texts(place: Path, components: list[Component]) -> None:
    """One file, since each file more delays the first run of the program that unpacks itself."""
    with ZipFile(place, "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for component in components:
            for name, path in component.texts:
                archive.writestr(ZipInfo(f"{component.name}/{name}"), path.read_bytes(), ZIP_DEFLATED)


def document(components: list[Component]) -> dict[str, Any]:
    """The document: pybuild contains all others."""
    rows = [row(component) for component in components]
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    version = next(component.version for component in components if component.name == ROOT)
    identity = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    relations = [related("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)]
    relations += [related(identifier(ROOT), "CONTAINS", it.name) for it in components if it.name != ROOT]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"pybuild-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/pybuild-{version}-{identity}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": [f"Tool: pybuild-{version}"]},
        "packages": rows,
        "relationships": relations,
    }


def related(one: str, how: str, name: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": identifier(name)}


def row(component: Component) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": component.name,
        "SPDXID": identifier(component.name),
        "versionInfo": component.version,
        "supplier": NOTHING,
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "licenseConcluded": NOTHING,
        "licenseDeclared": component.licence,
        "copyrightText": NOTHING,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component.purl}
        ],
    }
    if component.digest:
        # Of the wheel, as requirements.txt pins it
        told["checksums"] = [{"algorithm": "SHA256", "checksumValue": component.digest}]
    return told


def identifier(name: str) -> str:
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
