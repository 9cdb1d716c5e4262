"""Layers whose files are not newer than a given time, for outputs that must not depend on when they were built."""

import os
import time
from collections.abc import Sequence

import msgspec

from pybuild.layer.tarwriter import TarWriter
from pybuild.oci.digest import Digest
from pybuild.plan.keys import rewrite_key
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, HARDLINK, Entry

NANOSECONDS = 1_000_000_000


def rewrite(store: Store, diff_ids: Sequence[Digest], epoch: int) -> list[Digest]:
    """Return these layers with no time later than `epoch` (seconds); those that have none already stay as they are."""
    return [_rewritten(store, diff_id, epoch) for diff_id in diff_ids]


def _rewritten(store: Store, diff_id: Digest, epoch: int) -> Digest:
    latest = epoch * NANOSECONDS
    toc = store.layers.toc(diff_id)
    if all(entry.mtime <= latest for entry in toc):
        return diff_id
    key = rewrite_key(diff_id, epoch).text
    known = store.cache.get(key)
    if known is not None and known.diff_id is not None and store.layers.has(known.diff_id):
        return known.diff_id
    with store.blobs.create() as blob:
        tar = store.blobs.open(diff_id)
        try:
            writer = TarWriter(blob.fd)
            for entry in _in_order(toc):
                if entry.type == FILE:
                    os.lseek(tar, entry.offset, os.SEEK_SET)
                changed = msgspec.structs.replace(entry, mtime=min(entry.mtime, latest))
                writer.add(changed, tar if entry.type == FILE else None)
            packed = writer.finish()
        finally:
            os.close(tar)
        blob.commit(packed.diff_id, packed.size)
        store.layers.record(packed.diff_id, packed.size, packed.toc)
    description = f"times of {diff_id[:19]} up to {epoch}"
    store.cache.put(key, CacheRecord(packed.diff_id, packed.size, time.time(), description))
    return packed.diff_id


def _in_order(toc: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries in the order in which a layer is packed: one that came from a cache tells deletions last."""
    places = {entry.path: entry.path.split(b"/") for entry in toc}
    if any(entry.type == HARDLINK and places.get(entry.link, [b""]) > places[entry.path] for entry in toc):
        # Not one of ours, and a link comes after its file
        return toc
    return sorted(toc, key=lambda entry: places[entry.path])
