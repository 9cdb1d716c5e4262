"""How an image was built: a statement of in-toto with the provenance of SLSA, version 1, from the store's record."""

from collections.abc import Iterator, Mapping
from typing import Any

from pybuild.plugin import VERSION, NotFoundError, build_record, inspect_image

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://pypi.org/project/pybuild/#dockerfile-v1"
"""`externalParameters` are what `pybuild build` was asked for; `source` is the context, if it came from an address."""

_INTERNAL = ("root_emulation", "snapshotter")


def document(image: str, builder: str) -> dict[str, Any]:
    """Return the statement about an image of the store; `builder` is who vouches for it, as a URI.

    Raises NotFoundError for an image that was not built here.
    """
    about, known = inspect_image(image), build_record(image)
    if not known:
        raise NotFoundError(
            f"how it was built is not known here: {image}", "an image that was pulled or loaded has no provenance here"
        )
    request = known["request"]
    given = {name: value for name, value in request.items() if value and name not in (*_INTERNAL, "context")}
    given |= {name: known[name] for name in ("secrets", "ssh", "allow") if known[name]}
    context = str(request.get("context", ""))
    if "://" in context or context.startswith("git@"):
        given["source"] = {"uri": context}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": given,
        "internalParameters": {name: request[name] for name in _INTERNAL if request.get(name)},
        "resolvedDependencies": [_base(name, known["bases"][name]) for name in sorted(known["bases"])],
    }
    details = {"builder": {"id": builder, "version": {"pybuild": VERSION}}, "metadata": {}}
    return {
        "_type": STATEMENT,
        "subject": [*_subjects(image, about)],
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }


def _subjects(image: str, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the image is called at its registries, else what it is called here, where the digest is its id."""
    for known in about.get("RepoDigests") or ():
        repository, _, digest = known.partition("@")
        yield {"name": repository, "digest": _digest(digest)}
    if not about.get("RepoDigests"):
        yield {"name": image, "digest": _digest(about["Id"])}


def _base(name: str, identity: str) -> dict[str, Any]:
    from packageurl import PackageURL

    reference, _, platform = name.partition(" ")
    bare, _, digest = reference.partition("@")
    repository, colon, tag = bare.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = bare, ""
    namespace, _, its_name = repository.rpartition("/")
    qualifiers = {"platform": platform} if platform else {}
    uri = PackageURL("docker", namespace, its_name, tag or digest or None, qualifiers).to_string()
    found = digest or _at_registry(identity, repository)
    if found:
        return {"uri": uri, "digest": _digest(found)}
    return {"uri": uri, "digest": _digest(identity), "annotations": {"digest-of": "image config"}}


def _at_registry(identity: str, repository: str) -> str:
    """Return the digest that a base image has in its repository, "" where nobody knows any more."""
    try:
        known = inspect_image(identity).get("RepoDigests") or ()
    except NotFoundError:
        return ""
    for one in known:
        name, _, digest = str(one).partition("@")
        if repository == name or repository.endswith(f"/{name}"):
            return digest
    return ""


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}
