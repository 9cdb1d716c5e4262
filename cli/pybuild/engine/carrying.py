"""Accounts of keys that travel with a cache, so that a miss is explained where nothing was built before."""

import base64
import binascii
import zlib

from msgspec import UNSET, UnsetType

from pybuild.oci.cacheconfig import Ours
from pybuild.plan.account import Account, identity
from pybuild.store.store import Store

MAX_EACH = 64 << 10
"""Most characters of one account, or one listing, that are given away."""

MAX_UNPACKED = 1 << 20
"""Most bytes that are taken of one that was given."""

MAX_ALL = 1 << 20
"""Most characters of all of a cache: a description of a cache is at most four times as large."""


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
