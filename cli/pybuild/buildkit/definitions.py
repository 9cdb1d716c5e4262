"""Results of one build as what another one begins from: the least of LLB that clients can hand on. Pure.

A client that links targets takes the definition of a result, which it only checks for its form, and sends it along with
the next request. Ours is one source with the image's id, and the end that points at it.
"""

import hashlib

from pybuild.buildkit.grpc import Code, GrpcError
from pybuild.buildkit.wire import Field, Message, a_map
from pybuild.oci.digest import parse_digest

_INPUT = Message("Input", {1: Field("digest", "string"), 2: Field("index", "int")})
_SOURCE = Message("SourceOp", {1: Field("identifier", "string")})
_OP = Message("Op", {1: Field("inputs", _INPUT, True), 3: Field("source", _SOURCE)})
_DEFINITION = Message("Definition", {1: Field("def", "bytes", True), 2: a_map("metadata", Message("OpMetadata", {}))})

_PREFIX = "pybuild://"


def definition_of(image_id: str) -> bytes:
    """Return the definition that stands for an image of the store."""
    source = _OP.encode({"source": {"identifier": _PREFIX + image_id}})
    end = _OP.encode({"inputs": [{"digest": _digest(source)}]})
    # Clients take one without metadata for an empty one
    return _DEFINITION.encode({"def": [source, end], "metadata": {_digest(op): {} for op in (source, end)}})


def image_of(definition: bytes) -> str:
    """Return the id of the image that a definition stands for; raise GrpcError for any other."""
    for part in _DEFINITION.decode(definition)["def"]:
        source = _OP.decode(part)["source"]
        if source is not None and source["identifier"].startswith(_PREFIX):
            return parse_digest(source["identifier"].removeprefix(_PREFIX))
    raise GrpcError(Code.UNIMPLEMENTED, "definitions in LLB are not supported: build a Dockerfile")


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
