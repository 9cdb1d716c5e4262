"""Accounts that travel with a cache."""

import base64
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from pybuild.engine import carrying
from pybuild.engine.carrying import Told
from pybuild.oci.cacheconfig import Ours, Record
from pybuild.oci.digest import Digest
from pybuild.plan.account import account_of, identity
from pybuild.plan.keys import workdir_key
from pybuild.plan.ops import WorkdirOp
from pybuild.store.store import Store
from pybuild.tree.listing import Listing, Row, fold

Below = Sequence[tuple[str, str]]

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


def record(key: str, text: str, below: Below, files: Listing | None = None) -> tuple[Record, Told]:
    account = account_of(workdir_key(WorkdirOp("/w", ""), None, None), stage="s", place=0, text=text, below=below)
    return Record(Digest(f"sha256:{key}"), pybuild=Ours(1.0)), (account, files)


def chained(texts: Sequence[str]) -> tuple[list[tuple[Record, Digest | None]], dict[str, Told]]:
    """Return records of steps that follow each other, without layers, and what is told of them."""
    below: list[tuple[str, str]] = [("base", "sha256:b")]
    records: list[tuple[Record, Digest | None]] = []
    told: dict[str, Told] = {}
    for number, text in enumerate(texts):
        made, told[f"k{number}"] = record(f"k{number}", text, below)
        records.append((made, None))
        below.append((text, ""))
    return records, told


def through_json(records: Sequence[Record]) -> list[tuple[Record, Digest | None]]:
    return [(one, None) for one in msgspec.json.decode(msgspec.json.encode(records), type=list[Record])]


def test_what_is_below_is_told_once_in_an_image(store: Store) -> None:
    records, told = chained(["one", "two" * 400, "three"])
    carried = through_json(carrying.put_inline(records, told))
    assert carried[2][0].pybuild is not None
    assert b"one" not in bytes(carried[2][0].pybuild.told or b"")
    carrying.take_inline(store, carried)
    for key, (account, _) in told.items():
        assert (store.accounts.account(key) or [b""])[0] == account.encode()


def test_an_account_that_leans_on_one_that_is_lost_is_none(store: Store) -> None:
    carried = through_json(carrying.put_inline(*chained(["one", "two", "three"])))
    carrying.take_inline(store, [carried[0], carried[2]])
    assert [store.accounts.account(f"k{number}") is not None for number in range(3)] == [True, False, True]
    carrying.take_inline(store, carried[1:2])
    assert store.accounts.account("k1") is None


def test_many_files_are_told_as_directories_in_an_image(store: Store) -> None:
    rows = {path: Row(path, "f", 1, bytes(8), "0644 0:0") for path in (f"d/{n % 7}/{n}" for n in range(3000))}
    made, told = record("k", "text", [], Listing(rows))
    [carried] = through_json(carrying.put_inline([(made, None)], {"k": told}))
    assert carried[0].pybuild is not None
    assert len(bytes(carried[0].pybuild.told or b"")) < carrying.MAX_INLINE_FILES
    carrying.take_inline(store, [carried])
    found = Listing.decode(store.accounts.listing("k") or b"")
    assert (found.depth, sorted(found.rows)) == (2, [f"d/{n}" for n in range(7)])
    assert found == fold(Listing(rows), 2)


def test_an_image_carries_no_more_than_is_sane(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records, told = chained(["x" * 300] * 20)
    monkeypatch.setattr(carrying, "MAX_ALL_INLINE", 2000)
    carried = carrying.put_inline(records, told)
    sizes = [len(bytes(one.pybuild.told)) for one in carried if one.pybuild and one.pybuild.told is not msgspec.UNSET]
    assert 2 <= len(sizes) < 20
    assert sum(sizes) < 2500
    assert len(carried) == 20


@pytest.mark.parametrize("told", [b"5", b'{"account":5}', b'{"account":{"x":1}}', b'{"account":{},"files":[["a"]]}'])
def test_what_makes_no_sense_in_an_image_counts_as_none(store: Store, told: bytes) -> None:
    carrying.take_inline(store, [(Record(Digest("sha256:k"), pybuild=Ours(1.0, told=msgspec.Raw(told))), None)])
    assert store.accounts.account("k") is None
