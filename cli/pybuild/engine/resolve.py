"""Images that a Dockerfile names, found in the store."""

import difflib

from pybuild.dockerfile.errors import DockerfileError, Span
from pybuild.dockerfile.parse import Dockerfile
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError
from pybuild.oci.reference import InvalidReferenceError, parse_reference
from pybuild.plan.contexts import LAYOUT
from pybuild.plan.ops import BaseImage, NeedBases
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

LEAST_ID = 12
"""Fewest hex digits that FROM takes for the beginning of an image id."""


def read_bases(need: NeedBases, store: Store, workers: Workers, dockerfile: Dockerfile) -> dict[str, BaseImage]:
    """Return the bases asked for; raise DockerfileError at the line that names one that is absent."""
    found: dict[str, BaseImage] = {}
    for reference in sorted(need.references):
        line = need.lines[reference]
        if reference.startswith(LAYOUT):
            record = _take(reference, line, store, workers, dockerfile)
        else:
            record = _find(reference, line, store, dockerfile)
        found[reference] = BaseImage(record.id, record.config)
    return found


def _find(reference: str, line: int, store: Store, dockerfile: Dockerfile) -> ImageRecord:
    try:
        # A short name may look like the beginning of an id: only a clear id is taken for one
        record = store.images.resolve(reference, ids=_is_id(reference))
        name = parse_reference(reference).familiar()
    except InvalidReferenceError as error:
        raise _at(line, dockerfile, error.message, error.hint) from error
    if record is not None:
        return record
    known = [tag for image in store.images.list() for tag in image.tags]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    hint += "images are not pulled yet: bring it in with `pybuild load` or `pybuild import`"
    raise _at(line, dockerfile, f"no such image in the local store: {name}", hint)


def _take(reference: str, line: int, store: Store, workers: Workers, dockerfile: Dockerfile) -> ImageRecord:
    """Return the image of an OCI layout directory, taken into the store without a name."""
    from pybuild.engine.importing import take_layout

    try:
        return take_layout(store, workers, reference.removeprefix(LAYOUT))
    except CancelledError:
        raise
    except PybuildError as error:
        raise _at(line, dockerfile, f"{error.message} (named context {reference})", error.hint) from error


def _is_id(reference: str) -> bool:
    digits = reference.removeprefix("sha256:")
    return len(digits) >= LEAST_ID and all(char in "0123456789abcdef" for char in digits)


def _at(line: int, dockerfile: Dockerfile, message: str, hint: str) -> DockerfileError:
    text = dockerfile.text.split("\n")[line - 1]
    span = Span(line, line, 1, len(text.rstrip()))
    return DockerfileError(message, hint=hint, file=dockerfile.name, span=span, source=text)
