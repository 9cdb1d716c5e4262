"""CycloneDX as JSON, by the library of its makers."""

from collections.abc import Iterator
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import ComponentEvidence, Occurrence
from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from pybuild.plugin import VERSION
from pybuild_sbom.identity import identity, image_purl, is_url, moment, supplier_parts
from pybuild_sbom.licences import joined, licence
from pybuild_sbom.model import Package
from pybuild_sbom.reading import Contents

_HASHES = {
    "md5": HashAlgorithm.MD5,
    "sha1": HashAlgorithm.SHA_1,
    "sha256": HashAlgorithm.SHA_256,
    "sha384": HashAlgorithm.SHA_384,
    "sha512": HashAlgorithm.SHA_512,
}


def document(contents: Contents, version: str) -> dict[str, Any]:
    """Return the document about what an image has in a version of the format: "1.5" or "1.6"."""
    import json

    root = _image(contents)
    metadata = BomMetaData(component=root, timestamp=moment(contents), tools=ToolRepository(components=[_tool()]))
    components = [*_system(contents), *(_component(package, contents) for package in contents.packages)]
    bom = Bom(metadata=metadata, components=components, serial_number=identity(contents, f"cyclonedx-{version}"))
    bom.register_dependency(root, components)
    written = make_outputter(bom, OutputFormat.JSON, SchemaVersion.from_version(version)).output_as_string()
    value: dict[str, Any] = json.loads(written)
    return value


def _tool() -> Component:
    return Component(name="pybuild", version=VERSION, type=ComponentType.APPLICATION, bom_ref=f"pybuild@{VERSION}")


def _image(contents: Contents) -> Component:
    purl = image_purl(contents)
    properties = [Property(name="pybuild:platform", value=contents.platform)]
    properties += [
        Property(name=f"pybuild:layer:{index}", value=layer) for index, layer in enumerate(contents.layers, 1)
    ]
    return Component(
        name=contents.name,
        version=contents.id,
        type=ComponentType.CONTAINER,
        bom_ref=contents.id,
        purl=PackageURL.from_string(purl) if purl else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=contents.id.removeprefix("sha256:"))],
        properties=properties,
    )


def _system(contents: Contents) -> Iterator[Component]:
    known = contents.distribution
    if known.id:
        yield Component(
            name=known.id,
            version=known.version or None,
            type=ComponentType.OPERATING_SYSTEM,
            bom_ref=f"os:{known.label}",
            description=known.name or None,
            external_references=[*_website(known.homepage)],
        )


def _component(package: Package, contents: Contents) -> Component:
    name, mail = supplier_parts(package.supplier)
    contacts = [OrganizationalContact(name=name or None, email=mail)] if mail else []
    layers = sorted({contents.origins[path] for path in package.places})
    notes = [*package.notes, *(("pybuild:layer", layer) for layer in layers)]
    return Component(
        name=package.name,
        group=package.namespace if package.kind == "npm" and package.namespace else None,
        version=package.version or None,
        type=ComponentType.LIBRARY,
        bom_ref=package.purl,
        purl=PackageURL.from_string(package.purl),
        licenses=[*_licences(package)],
        hashes=[HashType(alg=_HASHES[name], content=value) for name, value in package.checksums],
        supplier=OrganizationalEntity(name=name or mail, contacts=contacts) if name or mail else None,
        description=package.summary or None,
        external_references=[*_website(package.homepage), *_distribution(package.download)],
        evidence=ComponentEvidence(occurrences=[Occurrence(location=f"/{path}") for path in package.places]),
        properties=[Property(name=name, value=value) for name, value in notes],
    )


def _licences(package: Package) -> Iterator[DisjunctiveLicense | LicenseExpression]:
    """Yield one expression, or where SPDX has no name for all, a licence for each."""
    found = [licence(text) for text in package.licences]
    if any(one.unknown for one in found):
        names = {one.text if one.unknown else one.expression for one in found}
        yield from (DisjunctiveLicense(name=name) for name in sorted(names))
    elif found:
        whole = joined(found)
        yield LicenseExpression(whole) if " " in whole else DisjunctiveLicense(id=whole)


def _website(url: str) -> Iterator[ExternalReference]:
    if is_url(url):
        yield ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(url))


def _distribution(url: str) -> Iterator[ExternalReference]:
    if is_url(url):
        yield ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(url))
