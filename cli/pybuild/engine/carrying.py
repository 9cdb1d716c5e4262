"""Accounts of keys that travel with a cache, so that a miss is explained where nothing was built before."""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from pybuild.oci.cacheconfig import Ours, Record
from pybuild.oci.digest import Digest
from pybuild.plan.account import Account, below_next, identity
from pybuild.store.store import Store
from pybuild.tree.listing import Listing, Row, fold

MAX_EACH = 64 << 10
"""Most characters of one account, or one listing, that are given away."""

MAX_UNPACKED = 1 << 20
"""Most bytes that are taken of one that was given."""

MAX_ALL = 1 << 20
"""Most characters of all of a cache: a description of a cache is at most four times as large."""

MAX_INLINE = 16 << 10
"""Most bytes of one account in an image's config: all who pull the image get them, so they are fewer."""

MAX_INLINE_FILES = 64 << 10
"""Most bytes of one listing there; of more files it tells directories."""

MAX_ALL_INLINE = 256 << 10
"""Most bytes of all accounts, and of all listings, of an image."""

Told = tuple[Account, Listing | None]
"""An account of a step, and the files it is about."""


class Given:
    """Accounts given away with one cache; what is too much for it stays behind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._room = MAX_ALL

    def add(self, key: str, ours: Ours) -> Ours:
        """Return what is told of a result together with its account."""
        account = self._store.accounts.account(key)
        if account is None:
            return ours
        told = self._packed(account[0])
        listing = self._store.accounts.listing(key) if told is not UNSET else None
        files = self._packed(listing) if listing is not None else UNSET
        return Ours(ours.created, ours.size, ours.description, told, files)

    def _packed(self, data: bytes) -> str | UnsetType:
        text = base64.b64encode(zlib.compress(data, 9)).decode()
        if len(text) > min(MAX_EACH, self._room):
            return UNSET
        self._room -= len(text)
        return text


def take(store: Store, key: str, ours: Ours) -> None:
    """Keep the account that came with a result, unless there is one already. One that makes no sense counts as none."""
    data = _unpacked(ours.account)
    account = Account.decode(data) if data is not None else None
    if data is None or account is None or store.accounts.account(key) is not None:
        return
    store.accounts.put(key, identity(account.kind, account.text), data, _unpacked(ours.files))


def _unpacked(text: str | UnsetType) -> bytes | None:
    if isinstance(text, UnsetType) or len(text) > MAX_EACH:
        return None
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
    except (binascii.Error, zlib.error):
        return None
    return data if unpacker.eof else None


class _Inline(msgspec.Struct, frozen=True, omit_defaults=True):
    """An account in an image's config; one that `follows` has below it what the one before it has, and that one."""

    account: msgspec.Raw
    follows: bool = False
    files: list[Row] = []
    depth: int = 0


def put_inline(records: Sequence[tuple[Record, Digest | None]], told: Mapping[str, Told]) -> list[Record]:
    """Return the records with accounts, as far as these fit: the same ones, byte for byte, wherever they are made."""
    room, room_for_files = MAX_ALL_INLINE, MAX_ALL_INLINE
    found: list[Record] = []
    expected: tuple[tuple[str, str], ...] | None = None
    for record, diff_id in records:
        account, files = told.get(record.digest[7:], (None, None))
        before, expected = expected, None
        if account is None or record.pybuild is None:
            found.append(record)
            continue
        follows = account.below == before
        data = msgspec.structs.replace(account, below=()).encode() if follows else account.encode()
        if len(data) > min(MAX_INLINE, room):
            found.append(record)
            continue
        room -= len(data)
        rows, depth, size = _fitting(files, min(MAX_INLINE_FILES, room_for_files))
        room_for_files -= size
        inline = msgspec.Raw(msgspec.json.encode(_Inline(msgspec.Raw(data), follows, rows, depth)))
        found.append(msgspec.structs.replace(record, pybuild=msgspec.structs.replace(record.pybuild, told=inline)))
        expected = below_next(account, diff_id or "")
    return found


def _fitting(files: Listing | None, room: int) -> tuple[list[Row], int, int]:
    """Return the rows of a listing that is folded until it fits, its depth and its size in bytes."""
    depth = max((path.count("/") for path in files.rows), default=0) if files is not None else 0
    while files is not None:
        rows = sorted(files.rows.values(), key=lambda row: row.path)
        size = len(msgspec.json.encode(rows))
        if size <= room:
            return rows, files.depth, size
        if files.depth < 0:
            break
        files, depth = fold(files, depth or -1), depth - 1
    return [], 0, 0


def take_inline(store: Store, records: Sequence[tuple[Record, Digest | None]]) -> None:
    """Keep the accounts that an image's config brought, as `take` does."""
    expected: tuple[tuple[str, str], ...] | None = None
    room = 4 * MAX_ALL_INLINE
    for record, diff_id in records:
        before, expected = expected, None
        inline = _read_inline(record.pybuild, room)
        account = Account.decode(bytes(inline.account)) if inline is not None else None
        if inline is None or account is None or (inline.follows and before is None):
            continue
        room -= len(inline.account)
        if inline.follows and before is not None:
            account = msgspec.structs.replace(account, below=before)
        expected = below_next(account, diff_id or "")
        key = record.digest[7:]
        if store.accounts.account(key) is None:
            files = Listing({row.path: row for row in inline.files}, inline.depth).encode() if inline.files else None
            store.accounts.put(key, identity(account.kind, account.text), account.encode(), files)


def _read_inline(ours: Ours | None, room: int) -> _Inline | None:
    if ours is None or isinstance(ours.told, UnsetType) or len(bytes(ours.told)) > room:
        return None
    try:
        return msgspec.json.decode(ours.told, type=_Inline)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
