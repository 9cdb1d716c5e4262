"""Named contexts: names that mean something else than the Dockerfile says (`--build-context`)."""

from collections.abc import Mapping

from pybuild.oci.reference import InvalidReferenceError, parse_reference

IMAGE, LAYOUT, TARGET = "docker-image://", "oci-layout://", "target:"
SENT = "sent://"
"""What comes before the path of a directory in a main context that is sent."""


def key_of(name: str) -> str:
    """Return a name as contexts are told apart: images by their familiar name, where `latest` goes without saying."""
    try:
        return parse_reference(name).familiar().removesuffix(":latest")
    except InvalidReferenceError:
        return name.lower()


def by_key(given: Mapping[str, str]) -> dict[str, str]:
    """Return what was given by `key_of`."""
    return {key_of(name): value for name, value in given.items()}
