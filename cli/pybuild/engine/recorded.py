"""What an image was built from, remembered beside it so that it can be built again."""

import json
from collections.abc import Mapping

import msgspec

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.addresses import names_remote, redacted
from pybuild.oci.digest import Digest
from pybuild.plan.contexts import LAYOUT
from pybuild.plan.scope import PROXY_NAMES
from pybuild.store.images import INPUTS
from pybuild.store.store import Store

_KEPT = (
    "dockerfile",
    "dockerfile_text",
    "target",
    "network",
    "extra_hosts",
    "shm_size",
    "platform",
    "root_emulation",
    "snapshotter",
    "rewrite_timestamp",
)


class Recorded(msgspec.Struct, frozen=True):
    """A request as JSON values, less what is secret or only about this one time, and the ids of its base images.

    `secrets`, `ssh` and `allow` are names of what it had besides, which whoever builds it again is to give again: the
    Dockerfile may be another one by then. The request has no `context` if that came by a stream or its address holds a
    password.
    """

    request: dict[str, object]
    bases: dict[str, str]
    secrets: list[str]
    ssh: list[str]
    allow: list[str]


def record(store: Store, image_id: Digest, request: BuildRequest, bases: Mapping[str, str]) -> None:
    """Remember the inputs of an image; what is known of one with the same id already is replaced when it differs."""
    data = request._replace(secrets={}, ssh=()).to_json()
    kept = {name: data[name] for name in _KEPT}
    kept["build_args"] = {name: value for name, value in request.build_args.items() if name not in PROXY_NAMES}
    kept["labels"], kept["ulimits"] = data["labels"], data["ulimits"]
    if any(target.type == "inline" for target in request.cache_to):
        # Part of the image, as opposed to what goes elsewhere
        kept["cache_to"] = [target for target in data["cache_to"] if target["type"] == "inline"]
    if request.context and (not names_remote(request.context) or redacted(request.context) == request.context):
        kept["context"] = request.context
    kept["build_contexts"] = {name: value for name, value in request.build_contexts.items() if redacted(value) == value}
    # What a layout holds is found there again, or is not
    own = {name: identity for name, identity in bases.items() if not name.startswith(LAYOUT)}
    found = Recorded(kept, own, sorted(request.secrets), sorted(agent.id for agent in request.ssh), [*request.allow])
    # Names of files may hold lone surrogates, which msgspec's JSON cannot
    encoded = json.dumps(msgspec.to_builtins(found), sort_keys=True).encode()
    if store.cache.memo_get(INPUTS, image_id) != encoded:
        store.cache.memo_put(INPUTS, image_id, encoded)


def recorded(store: Store, image_id: Digest) -> Recorded | None:
    """Return what is known of an image's inputs."""
    data = store.cache.memo_get(INPUTS, image_id)
    return msgspec.convert(json.loads(data), Recorded) if data is not None else None
