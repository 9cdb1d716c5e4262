"""What may be attached to an image at its registry."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_NOTHING: Mapping[str, str] = MappingProxyType({})


class ArtifactFile(NamedTuple):
    """A file of an artifact: its bytes, their media type, and annotations of its descriptor."""

    data: bytes
    media_type: str
    annotations: Mapping[str, str] = _NOTHING


class Artifact(NamedTuple):
    """Something attached: `digest` and `size` (in bytes) of its manifest, `subject` the digest of what it refers to."""

    digest: str
    artifact_type: str
    size: int
    annotations: Mapping[str, str]
    subject: str
