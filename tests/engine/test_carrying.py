"""Accounts that travel with a cache."""

import base64
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pybuild.engine import carrying
from pybuild.oci.cacheconfig import Ours
from pybuild.plan.account import account_of, identity
from pybuild.plan.keys import workdir_key
from pybuild.plan.ops import WorkdirOp
from pybuild.store.store import Store

ACCOUNT = account_of(workdir_key(WorkdirOp("/w", ""), None, None), stage="s", place=0, text="WORKDIR /w").encode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "here") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "there") as opened:
        yield opened


def test_account_and_listing_travel(store: Store, other: Store) -> None:
    store.accounts.put("key", "step", ACCOUNT, b"listing")
    ours = carrying.Given(store).add("key", Ours(1.0, 2, "three"))
    ours = msgspec.json.decode(msgspec.json.encode(ours), type=Ours)
    assert (ours.created, ours.size, ours.description) == (1.0, 2, "three")
    carrying.take(other, "key", ours)
    assert (other.accounts.account("key") or [b""])[0] == ACCOUNT
    assert other.accounts.listing("key") == b"listing"
    assert other.accounts.keys(identity("workdir", "WORKDIR /w")) == ["key"]


def test_what_has_no_account_travels_as_before(store: Store) -> None:
    ours = Ours(1.0, 2, "three")
    assert carrying.Given(store).add("key", ours) is ours
    assert msgspec.json.encode(ours) == b'{"created":1.0,"size":2,"description":"three"}'


def test_too_much_stays_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.accounts.put("key", "step", ACCOUNT, bytes(range(256)) * 4)
    monkeypatch.setattr(carrying, "MAX_EACH", 300)
    given = carrying.Given(store)
    ours = given.add("key", Ours(1.0))
    assert isinstance(ours.account, str)
    assert ours.files is msgspec.UNSET
    monkeypatch.setattr(carrying, "MAX_ALL", len(ours.account) * 2 + 10)
    given = carrying.Given(store)
    assert [given.add("key", Ours(1.0)).account is msgspec.UNSET for _ in range(3)] == [False, False, True]


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "account",
    [
        "no base64!",
        base64.b64encode(b"no zlib").decode(),
        packed(b"no json"),
        packed(ACCOUNT.replace(b'"parts":{', b'"parts":{"mounts":5,')),
        packed(ACCOUNT.replace(b'"parts":{', b'"parts":{"options":"x",')),
        packed(ACCOUNT.replace(b'"parts":{', b'"parts":{"x":' + b"[" * 5000 + b"]" * 5000 + b",")),
        packed(ACCOUNT)[:-8],
        packed(b" " * (carrying.MAX_UNPACKED + 1)),
        "A" * (carrying.MAX_EACH + 4),
    ],
)
def test_what_makes_no_sense_counts_as_none(store: Store, account: str) -> None:
    carrying.take(store, "key", Ours(1.0, account=account))
    assert store.accounts.account("key") is None


def test_what_is_known_here_stays(store: Store) -> None:
    store.accounts.put("key", "step", b"own")
    carrying.take(store, "key", Ours(1.0, account=packed(ACCOUNT)))
    assert (store.accounts.account("key") or [b""])[0] == b"own"
