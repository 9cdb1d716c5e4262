"""Dockerfiles for plugins: parsed, and what they read of their context."""

import platform
from collections.abc import Mapping
from pathlib import Path

from pybuild.api.events import Read
from pybuild.api.request import BuildRequest
from pybuild.dockerfile.parse import Dockerfile, parse
from pybuild.engine.paths import store_root
from pybuild.engine.reading import planned
from pybuild.errors import NotFoundError, PybuildError
from pybuild.oci.digest import Digest
from pybuild.oci.image import ImageConfig
from pybuild.oci.platform import host_platform
from pybuild.oci.reference import InvalidReferenceError
from pybuild.plan.make import make
from pybuild.plan.ops import BaseImage, NeedBases
from pybuild.plugin.context import Uses

MAX_BYTES = 16 << 20

_ABSENT = BaseImage(Digest("sha256:" + 64 * "0"), ImageConfig())
"""Stands for a base image that is not here."""


def read_dockerfile(path: str | Path) -> Dockerfile:
    """Return a parsed Dockerfile: directives, stages, instructions with their places.

    Raises DockerfileError for what the file says wrongly, NotFoundError and PybuildError when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"no such Dockerfile: {path}") from None
    except OSError as error:
        raise PybuildError(f"cannot read the Dockerfile: {path}: {error.strerror}") from error
    return parse(data, name=str(path))


def parse_dockerfile(text: str, name: str = "Dockerfile") -> Dockerfile:
    """Return a parsed Dockerfile of this text; raise DockerfileError."""
    return parse(text, name=name)


def reads_of(dockerfile: Dockerfile, build_args: Mapping[str, str | None]) -> Uses:
    """Return what COPY, ADD and mounts of all stages read of the context; raise DockerfileError."""
    host = host_platform(platform.machine())
    bases: dict[str, BaseImage] = {}
    unknown: dict[str, None] = {}
    reads: dict[Read, None] = {}
    seen: set[int] = set()
    # The last stage needs most of the others; what it does not need is planned as a target of its own
    for index in reversed(range(len(dockerfile.stages))):
        if index in seen:
            continue
        request = BuildRequest(context="/", target=str(index), build_args=build_args)
        while isinstance(plan := make(dockerfile, request, bases, host), NeedBases):
            for key, needed in plan.images.items():
                known = _base(needed.reference)
                bases[key] = known or _ABSENT
                if known is None:
                    unknown[needed.reference] = None
        seen |= {stage.index for stage in plan.stages} | {index}
        reads |= dict.fromkeys(planned(plan).reads)
    return Uses(tuple(reads), tuple(unknown))


def _base(reference: str) -> BaseImage | None:
    """Return the config of a base image that is in the store; None when it is not."""
    root = store_root()
    if not (root / "index.sqlite").exists():
        return None
    from pybuild.store.store import Store

    try:
        with Store.open(root) as store, store.session():
            record = store.images.resolve(reference)
    except (InvalidReferenceError, NotFoundError):
        return None
    return None if record is None else BaseImage(record.id, record.config)
