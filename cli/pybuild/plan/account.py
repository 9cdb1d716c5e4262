"""What a key was made of, kept with its result so that a later build can tell why it has another key.

An account is bounded: long texts are cut, with a digest in the place of the rest, so that it still tells a difference.
It says nothing of this machine or of the time, so a cache carries its accounts along.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pybuild.oci.digest import digest_of
from pybuild.plan.keys import Key

VERSION = 1
MAX_TEXT = 400
"""Longest text that is kept as it is, in characters."""

MAX_ITEMS = 500
"""Most items of a list or map that are kept."""

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)


class Account(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of one step's key.

    `kind` and `parts` are those of the key, `env` the variables in them and `args` which of these ARG set. `stage`,
    `place` (from 0) and `text` say which step it was. `below` are (instruction, digest) of what lies below it: the base
    (its chain id) and the layers of the steps before.
    """

    kind: str
    stage: str
    place: int
    text: str
    parts: dict[str, Any]
    env: dict[str, str] = {}
    args: tuple[str, ...] = ()
    below: tuple[tuple[str, str], ...] = ()
    version: int = VERSION

    def encode(self) -> bytes:
        """Return it as JSON."""
        return _encoder.encode(self)

    @staticmethod
    def decode(data: bytes) -> "Account | None":
        """Return the account in `data`, which may come from anywhere; None for one of another version, or for none."""
        try:
            account = _decoder.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return None
        return account if account.version == VERSION and _is_sound(account.parts) else None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Account)


def _is_sound(parts: Mapping[str, Any]) -> bool:
    """Have the parts that are looked into the form that they are made in?"""
    mounts = parts.get("mounts", [])
    return isinstance(parts.get("options", {}), dict) and (
        isinstance(mounts, list) and all(isinstance(mount, list) for mount in mounts)
    )


def account_of(
    key: Key, *, stage: str, place: int, text: str, args: Sequence[str] = (), below: Sequence[tuple[str, str]] = ()
) -> Account:
    """Return the account of a key; values of variables that look like secrets are not in it."""
    parts = {name: _cut(value) for name, value in key.parts.items() if name != "env"}
    variables: Any = key.parts.get("env") or ()
    shown = {name: _value(name, value) for name, value in list(variables)[:MAX_ITEMS]}
    if len(variables) > MAX_ITEMS:
        parts["more variables"] = _digest(repr(variables[MAX_ITEMS:]))
    # Both ends matter: what the base is, and what comes right before
    kept = tuple((_text(name), digest) for name, digest in below)
    return Account(key.kind, stage, place, _text(text), parts, shown, tuple(args[:MAX_ITEMS]), _both_ends(kept))


def below_next(account: Account, digest: str) -> tuple[tuple[str, str], ...]:
    """Return what is below the next step of the same stage, `digest` being that of this one's layer, or ""."""
    return _both_ends((*account.below, (account.text, digest)))


def _both_ends(below: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return below if len(below) <= MAX_ITEMS else (below[0], *below[1 - MAX_ITEMS :])


def identity(kind: str, text: str) -> str:
    """Return by what steps of the same instruction are found, wherever they stand."""
    return digest_of(f"{kind}\0{_text(text)}".encode(errors="surrogateescape"))[7:39]


def _value(name: str, value: str) -> str:
    return _digest(value) if _SECRET.search(name) else _text(value)


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(str(name)): _cut(item) for name, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, (list, tuple)):
        items = [_cut(item) for item in value[:MAX_ITEMS]]
        return [*items, _digest(repr(value[MAX_ITEMS:]))] if len(value) > MAX_ITEMS else items
    return value


def _text(text: str) -> str:
    # Lone surrogates of file names are nothing that JSON could hold
    clean = text.encode(errors="backslashreplace").decode()
    return clean if len(clean) <= MAX_TEXT else f"{clean[:MAX_TEXT]}… ({len(clean)} characters, {_digest(clean)})"


def _digest(text: str) -> str:
    return digest_of(text.encode(errors="backslashreplace"))[:23]
