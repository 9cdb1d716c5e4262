"""Images that go to registries, and what is attached to them there, for plugins."""

from collections.abc import Generator, Mapping, Sequence

from pybuild.api.artifacts import Artifact, ArtifactFile
from pybuild.api.events import Event
from pybuild.api.request import PushRequest
from pybuild.engine import reach


def push_images(
    names: Sequence[str],
    *,
    all_tags: bool = False,
    compression: str = "",
    compression_level: str = "",
    insecure_registries: Sequence[str] = (),
) -> Generator[Event, None, None]:
    """Have the engine push images of the store under their names, and yield what it tells; closing this cancels it.

    That is `Transfer` and `Notice` in any order, and last `Pushed` or `Failed`. With `all_tags` the names are of
    repositories, all of whose tags go. `compression` is gzip, zstd, none, or "" for gzip or the form that is here;
    `compression_level` is of layers that are not compressed yet. `insecure_registries` are hosts, with a port if need
    be, that may speak plain HTTP or show any certificate. Raises UsageError.
    """
    from contextlib import closing

    from pybuild.client import connect

    settings = reach.settings(insecure_registries)
    request = PushRequest(tuple(names), all_tags, compression, compression_level, reach.proxies(), settings)
    with connect() as backend, closing(backend.push(request)) as events:
        yield from events


def push_artifact(
    subject: str,
    artifact_type: str,
    files: Sequence[ArtifactFile],
    *,
    annotations: Mapping[str, str] | None = None,
    insecure_registries: Sequence[str] = (),
) -> Artifact:
    """Attach files to an image that is at its registry, as an OCI artifact that refers to it, and return it.

    `subject` names the image, `repository:tag` or `repository@digest`; it is what the name stands for there, an index
    if it is one. Where the registry has no API of referrers, their list is kept as an index under the tag
    `sha256-DIGEST` (OCI distribution 1.1, "Referrers tag schema"). What is attached already is not sent again. Raises
    UsageError, RegistryError (a PybuildError).
    """
    from pybuild.engine.artifacts import attach

    return attach(
        subject, artifact_type, files, annotations or {}, reach.settings(insecure_registries), reach.proxies()
    )


def list_artifacts(subject: str, artifact_type: str = "", *, insecure_registries: Sequence[str] = ()) -> list[Artifact]:
    """Return what is attached to an image at its registry, of one type or of any; raises as `push_artifact`."""
    from pybuild.engine.artifacts import attached

    return attached(subject, artifact_type, reach.settings(insecure_registries), reach.proxies())


def fetch_artifact(subject: str, digest: str, *, insecure_registries: Sequence[str] = ()) -> list[ArtifactFile]:
    """Return the files of an artifact in the repository of `subject`, by its digest; each has at most 64 MiB.

    Raises as `push_artifact`.
    """
    from pybuild.engine.artifacts import fetch

    return fetch(subject, digest, reach.settings(insecure_registries), reach.proxies())
