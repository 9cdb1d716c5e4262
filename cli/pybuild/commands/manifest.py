"""`pybuild manifest`: indexes of images for several platforms, and what names stand for."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pybuild.api.events import Described, Document, Failed, Pushed
from pybuild.api.request import ManifestRequest, PushRequest
from pybuild.client import connect
from pybuild.commands.option import Argument, InsecureRegistries, Option, ProgressKind
from pybuild.commands.output import as_json, write_line
from pybuild.errors import UsageError
from pybuild.plugin.events import check_progress, exit_code_of, show_events
from pybuild.plugin.option import Commands

app = Commands(
    "Make and see indexes of images for several platforms.",
    {
        "inspect": ("pybuild.commands.manifest:inspect", "Show the manifest or index that a name stands for"),
        "create": ("pybuild.commands.manifest:create", "Make an index of images"),
        "annotate": ("pybuild.commands.manifest:annotate", "Say of an index's image what platform it is for"),
        "push": ("pybuild.commands.manifest:push", "Bring an index and its images to a registry"),
    },
)


def inspect(
    name: Annotated[str, Argument(help="A name here, else at its registry.", metavar="NAME")],
    verbose: Annotated[bool, Option("--verbose", help="With each image's manifest and platform.")] = False,
    raw: Annotated[bool, Option("--raw", help="The very bytes, for their digest.")] = False,
    remote: Annotated[bool, Option("--remote", help="Ask the registry, whatever is here.")] = False,
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Show the manifest or index that a name stands for, as JSON."""
    if verbose and raw:
        raise UsageError("--verbose and --raw do not go together")
    last = _ask(ManifestRequest("inspect", name, verbose=verbose, remote=remote), insecure_registry, "auto", quiet=True)
    if isinstance(last, int):
        return last
    top, *rest = last.documents
    if raw:
        import sys

        sys.stdout.buffer.write(top.data.encode())
        return 0
    if verbose:
        write_line(as_json([_verbose(one) for one in rest] if rest else _verbose(top), indent=3))
    else:
        write_line(as_json(json.loads(top.data), indent=3))
    return 0


def create(
    name: Annotated[str, Argument(help="What the index is called.", metavar="NAME")],
    image: Annotated[
        list[str], Argument(help="Images here, else at their registries; of an index all of them.", metavar="IMAGE...")
    ],
    amend: Annotated[bool, Option("-a", "--amend", help="Add to an index that is there.")] = False,
    annotation: Annotated[list[str] | None, Option(help="Of the index itself.", metavar="KEY=V")] = None,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the id only.")] = False,
    progress: ProgressKind = "auto",
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Make an index of images; what is not here is pulled."""
    request = ManifestRequest("create", name, tuple(image), amend=amend, annotations=_pairs(annotation or ()))
    last = _ask(request, insecure_registry, progress, quiet=quiet)
    if isinstance(last, int):
        return last
    write_line(last.id if quiet else f"Created manifest list {last.name} ({last.id})")
    return 0


def annotate(
    name: Annotated[str, Argument(help="An index.", metavar="NAME")],
    image: Annotated[str, Argument(help="One of its images: a name, an id, or its platform.", metavar="IMAGE")],
    os: Annotated[str, Option("--os", help="Operating system.", metavar="OS")] = "",
    arch: Annotated[str, Option("--arch", help="Architecture.", metavar="ARCH")] = "",
    variant: Annotated[str, Option("--variant", help="Variant of the architecture.", metavar="V")] = "",
    os_version: Annotated[str, Option("--os-version", help="Version of the system.", metavar="V")] = "",
    os_features: Annotated[
        list[str] | None, Option("--os-features", help="What it must be capable of.", metavar="NAME,...")
    ] = None,
    annotation: Annotated[list[str] | None, Option(help="Of that image in the index.", metavar="KEY=V")] = None,
) -> int:
    """Change what an index says of one of its images; the image stays as it is."""
    from pybuild.engine.manifests import platform_fields

    features = tuple(part for item in os_features or () for part in item.split(",") if part)
    platform = platform_fields(os, arch, variant, os_version, features)
    annotations = _pairs(annotation or ())
    if not platform and not annotations:
        raise UsageError("nothing to say of the image is given", "such as `--arch=arm64`")
    request = ManifestRequest("annotate", name, (image,), annotations=annotations, platform=platform)
    last = _ask(request, None, "auto", quiet=True)
    return last if isinstance(last, int) else 0


def push(
    name: Annotated[str, Argument(help="An index, or an image.", metavar="NAME")],
    destination: Annotated[str, Argument(help="Another name for it at a registry.", metavar="[DEST]")] = "",
    purge: Annotated[bool, Option("-p", "--purge", "--rm", help="Remove the name here afterwards.")] = False,
    compression: Annotated[
        str, Option(help="gzip, zstd or none; without it gzip, or the form that is here.", metavar="KIND")
    ] = "",
    progress: ProgressKind = "auto",
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Bring an index and its images to a registry, and print its digest; what is there is not sent again."""
    from pybuild.commands import registries

    check_progress(progress)
    request = PushRequest(
        (name,),
        compression=compression,
        proxies=registries.proxies(),
        registries=registries.settings(insecure_registry or ()),
        destination=destination,
    )
    with connect() as backend:
        last = show_events(backend.push(request), progress)
        if isinstance(last, Failed):
            return exit_code_of(last)
        if purge:
            backend.remove(name)
    assert isinstance(last, Pushed)
    for moved in last.images:
        write_line(moved.digest)
    return 0


def _ask(request: ManifestRequest, insecure: list[str] | None, progress: str, *, quiet: bool) -> Described | int:
    """Return the answer, or the exit code of a failure that was shown."""
    from pybuild.commands import registries

    check_progress(progress)
    settings = registries.settings(insecure or ())
    with connect() as backend:
        events = backend.manifests(request._replace(proxies=registries.proxies(), registries=settings))
        last = show_events(events, progress, quiet=quiet)
    if isinstance(last, Failed):
        return exit_code_of(last)
    assert isinstance(last, Described)
    return last


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = dict(item.partition("=")[::2] for item in given)
    if "" in pairs or any("=" not in item for item in given):
        raise UsageError(f"an annotation is KEY=VALUE, not: {next(item for item in given if item.find('=') < 1)}")
    return pairs


def _verbose(document: Document) -> Mapping[str, Any]:
    """Return a manifest as `docker manifest inspect --verbose` shows it."""
    content = json.loads(document.data)
    descriptor = {"mediaType": document.media_type, "digest": document.digest, "size": len(document.data.encode())}
    if document.platform:
        descriptor["platform"] = document.platform
    kind = "OCIManifest" if ".oci." in document.media_type else "SchemaV2Manifest"
    return {"Ref": document.name, "Descriptor": descriptor, kind: content}
