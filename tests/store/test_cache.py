"""Cache records and remembered results."""

import time
from pathlib import Path

from pybuild.oci.digest import digest_of
from pybuild.store.cache import FRESH_SECONDS, CacheRecord
from pybuild.store.store import Store


def test_a_record_is_kept(root: Path) -> None:
    record = CacheRecord(digest_of(b"layer"), 5, 12.5, "RUN x", {"a": [1, "b", None]}, last_used=time.time())
    with Store.open(root) as store:
        assert store.cache.get("key") is None
        store.cache.put("key", CacheRecord(None, 0, 1.0))
        store.cache.put("key", record)
    with Store.open(root) as store:
        assert store.cache.get("key") == record
        assert list(store.cache.list()) == ["key"]
        store.cache.delete("key")
        store.cache.delete("key")
        assert store.cache.get("key") is None


def test_a_use_is_noted_when_the_store_is_closed(root: Path) -> None:
    long_ago = time.time() - 10 * FRESH_SECONDS
    with Store.open(root) as store:
        store.cache.put("old", CacheRecord(None, 0, 1.0, last_used=long_ago))
        store.cache.put("older", CacheRecord(None, 0, 1.0, last_used=long_ago - 1))
    with Store.open(root) as store:
        assert store.cache.get("old") is not None
        assert store.cache.list()["old"].last_used == long_ago
    with Store.open(root) as store:
        assert time.time() - store.cache.list()["old"].last_used < 60
        assert store.cache.list()["older"].last_used == long_ago - 1


def test_recent_uses_write_nothing(root: Path) -> None:
    with Store.open(root) as store:
        store.cache.put("key", CacheRecord(None, 0, 1.0))
    with Store.open(root) as store:
        store.cache.get("key")
        store.cache.flush()
        assert store.index._connection().total_changes == 0


def test_results_are_remembered_by_kind(store: Store) -> None:
    assert store.cache.memo_get("a", "key") is None
    store.cache.memo_put("a", "key", b"\0one")
    store.cache.memo_put("b", "key", b"two")
    store.cache.memo_put("a", "key", b"three")
    assert (store.cache.memo_get("a", "key"), store.cache.memo_get("b", "key")) == (b"three", b"two")
    store.cache.memo_clear()
    assert store.cache.memo_get("a", "key") is None
