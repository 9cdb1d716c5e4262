"""Content digests (OCI image spec, descriptor.md, "Digests"). Only sha256 is accepted."""

import re
from functools import lru_cache
from typing import NewType

from pybuild.errors import PybuildError

Digest = NewType("Digest", str)

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")


class InvalidDigestError(PybuildError):
    """Text that is no sha256 digest; stops path tricks as `sha256:../x` at the door."""

    http_status = 400


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest; raise InvalidDigestError unless it is `sha256:` and 64 hex digits."""
    if not _PATTERN.fullmatch(text):
        raise InvalidDigestError(f"not a sha256 digest: {text[:100]!r}")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """Return the digest of `data`."""
    # Loading OpenSSL takes longer than all the rest a client needs of this room
    import hashlib

    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_id(diff_ids: list[Digest] | tuple[Digest, ...]) -> Digest | None:
    """Return the chain id of a stack of layers, None for no layers (OCI config.md, "Layer ChainID")."""
    chain: Digest | None = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else _above(chain, diff_id)
    return chain


@lru_cache(maxsize=1 << 12)
def _above(chain: Digest, diff_id: Digest) -> Digest:
    """Return the chain id of a layer on a stack; a build asks for those of all its steps again and again."""
    return digest_of(f"{chain} {diff_id}".encode())
