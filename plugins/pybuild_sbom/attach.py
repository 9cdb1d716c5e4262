"""Documents beside the image at its registry, as artifacts that refer to it."""

from collections.abc import Iterator, Sequence

from pybuild.plugin import Artifact, ArtifactFile, NotFoundError, push_artifact

MEDIA_TYPES = {
    "spdx": "application/spdx+json",
    "cyclonedx": "application/vnd.cyclonedx+json",
    "cyclonedx-1.5": "application/vnd.cyclonedx+json",
    "provenance": "application/vnd.in-toto+json",
}
_TITLE = "org.opencontainers.image.title"
_TITLES = {"spdx": "sbom.spdx.json", "provenance": "provenance.json"}


def subjects(name: str, digests: Sequence[str]) -> list[str]:
    """Return what an image is called by digest in the repository of its name; raise NotFoundError for none."""
    bare = name.partition("@")[0]
    head, colon, tag = bare.rpartition(":")
    repository = head if colon and "/" not in tag else bare
    found = [one for one in digests if one.partition("@")[0] == repository]
    if not found:
        raise NotFoundError(f"the image was not pushed to its repository: {name}", f"run `pybuild push {name}` first")
    return found


def attach(
    wanted: Sequence[str], documents: Sequence[tuple[str, bytes]], insecure: Sequence[str]
) -> Iterator[tuple[str, Artifact]]:
    """Attach documents, each with its format, to images at their registry; yield image and artifact."""
    for subject in wanted:
        for format, data in documents:
            kind = MEDIA_TYPES[format]
            title = {_TITLE: _TITLES.get(format, "sbom.cdx.json")}
            yield subject, push_artifact(subject, kind, [ArtifactFile(data, kind, title)], insecure_registries=insecure)
