"""Images that a Dockerfile names: found in the store, or pulled."""

from collections.abc import Iterable

from pybuild.dockerfile.errors import DockerfileError, Span, near
from pybuild.dockerfile.parse import Dockerfile
from pybuild.engine.pulling import Puller
from pybuild.engine.whole import lacking
from pybuild.engine.workers import Workers
from pybuild.errors import CancelledError, PybuildError, UsageError
from pybuild.oci.manifests import fits
from pybuild.oci.platform import Platform, runs_on
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.plan.contexts import LAYOUT
from pybuild.plan.ops import BaseImage, NeedBases, NeededBase
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store

LEAST_ID = 12
"""Fewest hex digits that FROM takes for the beginning of an image id."""

ALWAYS, MISSING, NEVER = POLICIES = ("always", "missing", "never")
"""When an image is asked for at its registry."""


class Bases:
    """Finds the images of one Dockerfile; `policy` is one of POLICIES.

    Without `layers` those that are not here stay where they are, until `complete` is told whose are needed.
    """

    def __init__(
        self,
        dockerfile: Dockerfile,
        store: Store,
        workers: Workers,
        puller: Puller,
        policy: str,
        host: Platform,
        *,
        layers: bool = True,
    ) -> None:
        if policy not in POLICIES:
            raise UsageError(f"unknown way to pull: {policy}", f"known: {', '.join(POLICIES)}")
        self._dockerfile = dockerfile
        self._store = store
        self._workers = workers
        self._puller = puller
        self._policy = policy
        self._host = host
        self._layers = layers
        self._found: dict[str, tuple[NeededBase, ImageRecord]] = {}

    def read(self, need: NeedBases) -> dict[str, BaseImage]:
        """Return the images asked for; raise DockerfileError at the line that names one that cannot be had."""
        found: dict[str, BaseImage] = {}
        for key, needed in sorted(need.images.items()):
            try:
                is_layout = needed.reference.startswith(LAYOUT)
                record = self._take(needed) if is_layout else self._find(needed)
            except (CancelledError, DockerfileError):
                raise
            except PybuildError as error:
                raise self._at(needed.line, error.message, self._hint(needed, error.hint)) from error
            found[key] = BaseImage(record.id, record.config)
            self._found[key] = needed, record
        if self._layers:
            self.complete(found)
        return found

    def complete(self, keys: Iterable[str]) -> None:
        """Bring the layers of images here that are elsewhere; raise as `read`."""
        for key in keys:
            if key not in self._found:
                continue
            needed, record = self._found[key]
            try:
                if self._policy != NEVER:
                    self._puller.complete(record)
                elif lacking(self._store, record.diff_ids):
                    raise PybuildError(
                        f"layers of the image are not here: {needed.reference}",
                        "they may not be pulled: bring them in with `pybuild pull`",
                    )
            except (CancelledError, DockerfileError):
                raise
            except PybuildError as error:
                raise self._at(needed.line, error.message, error.hint) from error

    def _take(self, needed: NeededBase) -> ImageRecord:
        """Return the image of an OCI layout directory, taken into the store without a name."""
        from pybuild.engine.importing import take_layout

        reference = needed.reference
        platform = needed.platform if needed.is_asked else self._host
        try:
            return take_layout(self._store, self._workers, reference.removeprefix(LAYOUT), platform)
        except CancelledError:
            raise
        except PybuildError as error:
            raise PybuildError(f"{error.message} (named context {reference})", error.hint) from error

    def _find(self, needed: NeededBase) -> ImageRecord:
        # A short name may look like the beginning of an id: only a clear id is taken for one
        is_id = _is_id(needed.reference)
        local = self._store.images.resolve(needed.reference, ids=is_id, platform=needed.platform)
        try:
            name = parse_reference(needed.reference)
        except InvalidReferenceError:
            if local is None or not is_id:
                raise
            return local
        if local is not None and (is_id and name.familiar() not in local.tags):
            return local
        platform = needed.platform
        if self._policy != ALWAYS:
            if local is not None and (not needed.is_asked or fits(local.config, platform)):
                return local
            known = self._puller.known(name, platform, layers=self._layers)
            if known is not None:
                return known
        if self._policy == NEVER:
            if local is not None:
                # The plan tells which platform it is for
                return local
            raise self._absent(name)
        # The name means the machine's own image; one for another platform is found again by what was pulled
        tag = runs_on(platform, self._host)
        return self._puller.pull(name, platform, tag=tag, layers=self._layers)[0]

    def _absent(self, name: Reference) -> PybuildError:
        return PybuildError(
            f"no such image in the local store: {name.familiar()}",
            "it may not be pulled: bring it in with `pybuild pull`, `pybuild load` or `pybuild import`",
        )

    def _hint(self, needed: NeededBase, hint: str) -> str:
        """Return the hint, with a local image before it: one for another platform, or of nearly the same name."""
        try:
            name = parse_reference(needed.reference).familiar()
        except InvalidReferenceError:
            return hint
        local = self._store.images.resolve(name, ids=False, platform=needed.platform)
        if local is not None and not fits(local.config, needed.platform):
            return f"the local image is for {local.config.os}/{local.config.architecture}; {hint}".removesuffix("; ")
        # What goes without saying makes no two names alike
        tags = [tag for image in self._store.images.list() for tag in image.tags]
        tags += [tag for index in self._store.indexes.list() for tag in index.tags]
        known = {tag.removesuffix(":latest"): tag for tag in tags}
        short = name.removesuffix(":latest")
        meant = near(short, known.keys() - {short})
        return f"did you mean `{known[meant]}`? {hint}".rstrip() if meant else hint

    def _at(self, line: int, message: str, hint: str) -> DockerfileError:
        text = self._dockerfile.text.split("\n")[line - 1]
        span = Span(line, line, 1, len(text.rstrip()))
        return DockerfileError(message, hint=hint, file=self._dockerfile.name, span=span, source=text)


def _is_id(reference: str) -> bool:
    digits = reference.removeprefix("sha256:")
    return len(digits) >= LEAST_ID and all(char in "0123456789abcdef" for char in digits)
