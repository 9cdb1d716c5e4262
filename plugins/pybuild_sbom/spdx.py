"""SPDX 2.3 as JSON. The format is one flat document, so it is written here: `spdx-tools` has 25 MB of requirements."""

import hashlib
import re
from typing import Any

from pybuild.plugin import VERSION
from pybuild_sbom.identity import identity, image_purl, is_url, moment, supplier_parts
from pybuild_sbom.licences import Licence, joined, licence
from pybuild_sbom.model import Package
from pybuild_sbom.reading import Contents

NOTHING = "NOASSERTION"
_ROOT, _SYSTEM = "SPDXRef-Image", "SPDXRef-OperatingSystem"
_TEAM = re.compile(r"team|group|maintainers|developers|project|packagers|inc\b|llc|ltd|gmbh|foundation|list", re.I)


def document(contents: Contents) -> dict[str, Any]:
    """Return the document about what an image has."""
    rows = {_identifier(package): package for package in contents.packages}
    licences = {key: [licence(text) for text in package.licences] for key, package in rows.items()}
    packages = [_image(contents), *_system(contents)]
    packages += [_package(key, package, licences[key], contents) for key, package in rows.items()]
    own = [_related("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT)]
    own += [_related(_ROOT, "CONTAINS", row["SPDXID"]) for row in packages[1:]]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": contents.name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{_slug(contents.name)}-{identity(contents, 'spdx-2.3')}",
        "creationInfo": {
            "created": moment(contents).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: pybuild-{VERSION}"],
        },
        "packages": packages,
        "hasExtractedLicensingInfos": _unknown([one for some in licences.values() for one in some]),
        "relationships": own,
    }


def _image(contents: Contents) -> dict[str, Any]:
    purl = image_purl(contents)
    return {
        "name": contents.name,
        "SPDXID": _ROOT,
        "versionInfo": contents.id,
        "supplier": NOTHING,
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": contents.id.removeprefix("sha256:")}],
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": "CONTAINER",
        "comment": f"The checksum is that of the image's config, its id. Platform: {contents.platform}",
        **({"externalRefs": [_reference(purl)]} if purl else {}),
    }


def _system(contents: Contents) -> list[dict[str, Any]]:
    known = contents.distribution
    if not known.id:
        return []
    return [
        {
            "name": known.id,
            "SPDXID": _SYSTEM,
            **({"versionInfo": known.version} if known.version else {}),
            "supplier": NOTHING,
            "downloadLocation": NOTHING,
            "filesAnalyzed": False,
            **({"homepage": known.homepage} if is_url(known.homepage) else {}),
            "licenseConcluded": NOTHING,
            "licenseDeclared": NOTHING,
            "copyrightText": NOTHING,
            "primaryPackagePurpose": "OPERATING_SYSTEM",
            **({"summary": known.name} if known.name else {}),
        }
    ]


def _package(key: str, package: Package, licences: list[Licence], contents: Contents) -> dict[str, Any]:
    return {
        "name": package.full_name,
        "SPDXID": key,
        **({"versionInfo": package.version} if package.version else {}),
        "supplier": _supplier(package),
        "downloadLocation": package.download if is_url(package.download) else NOTHING,
        "filesAnalyzed": False,
        **({"checksums": _checksums(package)} if package.checksums else {}),
        **({"homepage": package.homepage} if is_url(package.homepage) else {}),
        "sourceInfo": "; ".join(f"/{path} in layer {contents.origins[path]}" for path in package.places),
        "licenseConcluded": NOTHING,
        "licenseDeclared": joined(licences) or NOTHING,
        "copyrightText": NOTHING,
        **({"summary": package.summary} if package.summary else {}),
        **({"comment": "; ".join(f"{name}: {value}" for name, value in package.notes)} if package.notes else {}),
        "externalRefs": [_reference(package.purl)],
    }


def _checksums(package: Package) -> list[dict[str, str]]:
    return [{"algorithm": name.upper(), "checksumValue": value} for name, value in package.checksums]


def _reference(purl: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}


def _related(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}


def _unknown(licences: list[Licence]) -> list[dict[str, str]]:
    texts = {one.expression: one.text for one in licences if one.unknown}
    return [{"licenseId": name, "extractedText": texts[name] or name, "name": name} for name in sorted(texts)]


def _supplier(package: Package) -> str:
    name, mail = supplier_parts(package.supplier)
    if not name and not mail:
        return NOTHING
    kind = "Organization" if package.kind == "rpm" or _TEAM.search(name) else "Person"
    return f"{kind}: {name} ({mail})" if name and mail else f"{kind}: {name or mail}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _identifier(package: Package) -> str:
    purl = package.purl
    return f"SPDXRef-{package.kind}-{_slug(package.name)}-{hashlib.sha256(purl.encode()).hexdigest()[:12]}"
