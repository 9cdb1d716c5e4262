"""What becomes of a result: names in the store, a push, archives and trees for the client. Runs in a thread."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from pybuild.api.events import Pushed
from pybuild.api.request import PushRequest
from pybuild.buildkit import sending, sessions
from pybuild.buildkit.jobs import Job, Outcome
from pybuild.buildkit.sessions import Session
from pybuild.engine import reach
from pybuild.errors import UsageError
from pybuild.oci.image import OCI_INDEX, OCI_MANIFEST
from pybuild.oci.reference import parse_reference

IMAGES, ARCHIVES = ("moby", "image"), ("docker", "oci", "tar")
NOTHING = ("", "cacheonly")
_DIGEST, _CONFIG, _NAME = "containerimage.digest", "containerimage.config.digest", "image.name"
_DESCRIPTOR = "containerimage.descriptor"
_PASSED_ON = ("compression",)


def check(kinds: list[str]) -> None:
    """Raise UsageError, before anything is built, for exporters that are not known."""
    for kind in kinds:
        if kind not in (*IMAGES, *ARCHIVES, *NOTHING, "local"):
            known = ", ".join((*IMAGES, *ARCHIVES, "local"))
            raise UsageError(f"unknown exporter: {kind}", f"known: {known}")


class Exporting:
    """Carries out the exporters of one job; `engine` is the daemon's."""

    def __init__(self, job: Job, session: Session | None, engine: Any, store_root: Any) -> None:
        self._job = job
        self._session = session
        self._engine = engine
        self._root = store_root

    def run(self, outcome: Outcome, exporters: list[dict[str, Any]]) -> dict[str, str]:
        """Return what clients want to know of the result; raise PybuildError."""
        answer: dict[str, str] = {}
        if not outcome.image_id:
            return answer
        for number, exporter in enumerate(exporters):
            kind, attributes = exporter["Type"], exporter["Attrs"]
            if kind in NOTHING:
                continue
            digest = self._job.begin(_SHOWN.get(kind, "exporting"))
            try:
                answer.update(self._export(number, kind, attributes, outcome))
            except BaseException as error:
                self._job.end(digest, str(error) or type(error).__name__)
                raise
            self._job.end(digest)
        return answer

    def _export(self, number: int, kind: str, attributes: Mapping[str, str], outcome: Outcome) -> dict[str, str]:
        names = [name.strip() for name in attributes.get("name", "").split(",") if name.strip()]
        full = [_full(name) for name in names]
        answer = {_DIGEST: outcome.image_id, **({} if outcome.several else {_CONFIG: outcome.image_id})}
        if full:
            answer[_NAME] = ",".join(full)
        if kind in IMAGES:
            by_digest = _is(attributes, "push") and _is(attributes, "push-by-digest")
            if by_digest:
                answer[_NAME] = ",".join(_repository(name) for name in names)
            for name in () if by_digest else full:
                self._engine.images.tag(outcome.image_id, name)
            if _is(attributes, "push"):
                answer.update(self._push(full, attributes, outcome, by_digest=by_digest))
            return answer
        if self._session is None:
            raise UsageError("the client has no session that takes results")
        images, identity = self._engine.images, outcome.image_id
        given = {"source-date-epoch": str(outcome.epoch)} if outcome.epoch is not None else {}
        if kind == "local":
            sending.send_tree(
                self._session, number, lambda out: images.export(identity, "tar", out, given), self._job.cancel
            )
            return {}
        if kind == "tar":
            told: dict[str, str] = {}
        else:
            if attributes.get("tar", "true").lower() in ("false", "0"):
                raise UsageError(f"type={kind} gives an archive only: tar=false is not supported")
            given = {key: attributes[key] for key in _PASSED_ON if kind == "oci" and attributes.get(key)}
            told = answer
        sending.send_archive(
            self._session, number, told, lambda out: images.export(identity, kind, out, given, full), self._job.cancel
        )
        return told

    def _push(
        self, names: list[str], attributes: Mapping[str, str], outcome: Outcome, *, by_digest: bool
    ) -> dict[str, str]:
        if not names:
            raise UsageError("a push needs a name")
        registries = reach.settings()._replace(given=sessions.credentials(self._session))
        if _is(attributes, "registry.insecure"):
            hosts = [parse_reference(name).domain for name in names]
            registries = registries._replace(insecure=(*registries.insecure, *hosts))
        compression = attributes.get("compression", "")
        asked = PushRequest(
            tuple(names),
            by_digest=by_digest,
            compression="none" if compression == "uncompressed" else compression,
            level=attributes.get("compression-level", ""),
            proxies=reach.proxies(),
            registries=registries,
        )
        untagged = [asked._replace(names=(outcome.image_id,), destination=name) for name in names]
        for request in untagged if by_digest else [asked]:
            pushed: Pushed = self._engine.push(
                request, store_root=self._root, emit=self._job.tell, cancel=self._job.cancel
            )
            image = pushed.images[-1]
        media_type = OCI_INDEX if outcome.several else OCI_MANIFEST
        descriptor = {"mediaType": media_type, "digest": image.digest, "size": image.size}
        return {_DIGEST: image.digest, _DESCRIPTOR: base64.b64encode(json.dumps(descriptor).encode()).decode()}


_SHOWN = {
    "moby": "exporting to image",
    "image": "exporting to image",
    "docker": "exporting to docker image format",
    "oci": "exporting to oci image format",
    "tar": "sending tarball",
    "local": "exporting to client directory",
}


def _full(name: str) -> str:
    """Return a name with its domain and tag, as BuildKit writes it."""
    reference = parse_reference(name)
    return str(reference)


def _repository(name: str) -> str:
    """Return the name of a repository with its domain; raise UsageError for one with a tag, as BuildKit does."""
    if "@" in name or ":" in name.rpartition("/")[2]:
        raise UsageError(f"can't push tagged ref {_full(name)} by digest", "leave the tag out, or push-by-digest=true")
    return parse_reference(name).name


def _is(attributes: Mapping[str, str], key: str) -> bool:
    return attributes.get(key, "").lower() in ("true", "1")
