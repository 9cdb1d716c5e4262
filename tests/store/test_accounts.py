"""Accounts of cache keys and records of builds: kept, bounded, and gone with what they belong to."""

import time
from pathlib import Path

from pybuild.store.accounts import MAX_KEYS
from pybuild.store.builds import MOST, new_identity
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store

from .conftest import add_layer


def test_account_and_listing_come_back(store: Store) -> None:
    store.accounts.put("key", "step", b"account" * 1000, b"listing")
    found = store.accounts.account("key")
    assert found is not None
    assert found[0] == b"account" * 1000
    assert abs(found[1] - time.time()) < 60
    assert store.accounts.listing("key") == b"listing"
    assert store.accounts.account("other") is None
    store.accounts.put("bare", "step", b"account")
    assert store.accounts.listing("bare") is None


def test_a_step_knows_its_newest_keys(store: Store) -> None:
    for number in range(MAX_KEYS + 3):
        store.accounts.put(f"key{number}", "step", b"")
    store.accounts.put("key5", "step", b"")
    assert store.accounts.keys("step") == ["key5", *(f"key{number}" for number in (8, 7, 6, 4, 3))]
    assert store.accounts.keys("other") == []
    assert [number for number in range(9) if store.accounts.account(f"key{number}")] == [3, 4, 5, 6, 7, 8]


def test_a_damaged_account_counts_as_none(store: Store) -> None:
    store.cache.memo_put("account", "key", b"no zlib")
    assert store.accounts.account("key") is None


def test_accounts_go_with_their_records(store: Store) -> None:
    layer = add_layer(store, b"layer")
    for key, diff_id in (("gone", "sha256:" + "0" * 64), ("stays", layer)):
        store.cache.put(key, CacheRecord(diff_id, 1, 1.0))  # type: ignore[arg-type]
        store.accounts.put(key, f"step of {key}", b"account", b"listing")
    store.accounts.put("orphan", "step of orphan", b"account")
    store.prune()
    assert [key for key in ("gone", "stays", "orphan") if store.accounts.account(key)] == ["stays"]
    assert store.accounts.listing("gone") is None
    assert [key for key in ("gone", "stays", "orphan") if store.accounts.keys(f"step of {key}")] == ["stays"]
    store.prune(all=True)
    assert store.accounts.account("stays") is None
    assert store.accounts.keys("step of stays") == []


def test_the_last_builds_are_kept(store: Store) -> None:
    identities = [new_identity() for _ in range(MOST + 5)]
    for number, identity in enumerate(identities):
        store.builds.put(b"%d" % number, identity, "aa" if number % 2 else "bb")
    newest = identities[::-1][:MOST]
    assert store.builds.identities() == newest
    assert store.builds.identities("aa") == [name for name in newest if identities.index(name) % 2]
    assert store.builds.get(newest[0]) == b"%d" % (MOST + 4)
    assert store.builds.get(identities[0]) is None
    assert not list(store.place.tmp.iterdir())


def test_a_store_of_an_earlier_version_has_no_builds_yet(store: Store) -> None:
    store.place.builds.rmdir()
    assert store.builds.identities() == []
    assert store.builds.get("abcd") is None
    store.builds.put(b"record", "abcd", "aa")
    assert store.builds.get("abcd") == b"record"


def test_prune_of_everything_forgets_builds(store: Store) -> None:
    store.builds.put(b"record", "abcd", "aa")
    assert store.prune().items == ()
    assert [item.kind for item in store.prune(all=True, until=time.time() - 60).items] == []
    report = store.prune(all=True, dry_run=True)
    assert [item.kind for item in report.items] == ["build"]
    assert store.builds.identities() == ["abcd"]
    store.prune(all=True)
    assert store.builds.identities() == []


def test_files_of_others_are_left_alone(store: Store) -> None:
    stranger: Path = store.place.builds / "note.txt"
    stranger.write_text("mine")
    for _ in range(MOST + 1):
        store.builds.put(b"", new_identity(), "aa")
    assert stranger.exists()
    (store.place.builds / "odd.json").write_text("{}")
    assert len(store.builds.identities()) == MOST
