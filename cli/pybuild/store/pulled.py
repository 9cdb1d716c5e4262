"""What images are called elsewhere: the digests that names stood for at registries when they were pulled or pushed."""

from typing import NamedTuple

import msgspec

from pybuild.oci.digest import Digest
from pybuild.oci.platform import Platform
from pybuild.oci.reference import Reference
from pybuild.store.cache import Cache

_KIND = "pulled"
_MANIFESTS = "manifest"


class PulledImage(NamedTuple):
    """An image by the digest of an index or a manifest: `digest` at the registry, `image_id` here."""

    digest: Digest
    image_id: Digest


class Pulled:
    """The digests of a store. They are forgotten with the rest of what is only remembered, by a prune of everything."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def get(self, name: Reference, platform: Platform) -> PulledImage | None:
        """Return what a name, by digest if it has one, else by tag, stood for the last time."""
        data = self._cache.memo_get(_KIND, _key(name, platform))
        if data is None:
            return None
        digest, image_id = msgspec.json.decode(data, type=tuple[str, str])
        return PulledImage(Digest(digest), Digest(image_id))

    def put(self, name: Reference, platform: Platform, image: PulledImage) -> None:
        """Remember what a name stands for, by its tag and by the digest."""
        data = msgspec.json.encode((image.digest, image.image_id))
        for known in {_key(name, platform), _key(name._replace(digest=image.digest), platform)}:
            self._cache.memo_put(_KIND, known, data)

    def keep_manifest(self, image_id: Digest, media_type: str, data: bytes) -> None:
        """Remember the manifest that an image came with, for it to leave with the same."""
        self._cache.memo_put(_MANIFESTS, image_id, msgspec.json.encode((media_type, data)))

    def manifest(self, image_id: Digest) -> tuple[str, bytes] | None:
        """Return media type and bytes of the manifest that an image came with."""
        found = self._cache.memo_get(_MANIFESTS, image_id)
        return msgspec.json.decode(found, type=tuple[str, bytes]) if found is not None else None

    def digests(self) -> dict[Digest, list[str]]:
        """Return names with digests (`debian@sha256:...`) by image id, sorted."""
        found: dict[Digest, set[str]] = {}
        for key, data in self._cache.memo_list(_KIND).items():
            name, at, digest = key.partition(" ")[0].partition("@")
            if at:
                _, image_id = msgspec.json.decode(data, type=tuple[str, str])
                domain, _, path = name.partition("/")
                familiar = Reference(domain, path, None, Digest(digest)).familiar()
                found.setdefault(Digest(image_id), set()).add(familiar)
        return {image_id: sorted(names) for image_id, names in found.items()}


class Origins:
    """Which repositories of which registries are known to have a blob."""

    _KIND = "origin"
    _KEPT = 4

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def of(self, registry: str, digest: Digest) -> list[str]:
        """Return the repositories of a registry that had a blob, the latest first."""
        data = self._cache.memo_get(self._KIND, f"{registry} {digest}")
        return msgspec.json.decode(data, type=list[str]) if data is not None else []

    def add(self, registry: str, digest: Digest, repository: str) -> None:
        """Remember that a repository has a blob."""
        known = self.of(registry, digest)
        if known[:1] != [repository]:
            kept = [repository, *(one for one in known if one != repository)][: self._KEPT]
            self._cache.memo_put(self._KIND, f"{registry} {digest}", msgspec.json.encode(kept))


def _key(name: Reference, platform: Platform) -> str:
    what = f"@{name.digest}" if name.digest is not None else f":{name.tag}"
    return f"{name.name}{what} {platform}"
