"""Two accounts of a step compared: which parts of the key are not what they were."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pybuild.plan.account import Account
from pybuild.tree.listing import TREE, Listing, Row, fold

MAX_CHANGES = 200
"""Most changes that are told of one step."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part that differs.

    `part` is instruction, file, directory, arg, env, base, layer, mount, user, workdir, platform, mode, network, option
    or content; `name` says which of them. `old` and `new` are values, of files their digests, "" where there was or is
    none. Sizes are in bytes, -1 for what has none.
    """

    part: str
    name: str
    old: str = ""
    new: str = ""
    old_size: int = -1
    new_size: int = -1


def compare(old: Account, new: Account, old_files: Listing | None, new_files: Listing | None) -> list[Change]:
    """Return what changed from `old` to `new`, the most telling first."""
    if old.kind != new.kind:
        return [Change("instruction", "", old.text, new.text)]
    files = _files(old_files, new_files)
    found: list[Change] = []
    for name in _names(old.parts, new.parts):
        before, after = old.parts.get(name), new.parts.get(name)
        if before != after:
            found += _part(name, before, after, old, new, files)
    found += _variables(old, new)
    found += files
    return sorted(dict.fromkeys(found), key=_rank)


def distance(old: Account, new: Account) -> int:
    """Return in how many parts two accounts differ; another text of the instruction weighs as much as four."""
    if old.kind != new.kind:
        return 100
    parts: int = sum(old.parts.get(name) != new.parts.get(name) for name in _names(old.parts, new.parts))
    variables = sum(old.env.get(name) != new.env.get(name) for name in _names(old.env, new.env))
    return parts + variables + 4 * (old.text != new.text)


def clause(changes: Sequence[Change]) -> str:
    """Return the changes as a short clause; "" for none."""
    if not changes:
        return ""
    ranked = sorted(changes, key=_rank)
    first = ranked[0]
    alike = [change for change in ranked if change.part == first.part]
    text = _WORDS[first.part](first)
    if len(alike) > 1:
        text = f"{_subject(first)} and {len(alike) - 1} more changed"
    others = list(dict.fromkeys(change.part for change in ranked if change.part != first.part))
    return text + (f"; {_listed(others)} too" if others else "")


_RANK = {part: rank for rank, part in enumerate(("instruction", "base", "file", "directory", "arg", "env", "mount"))}


def _rank(change: Change) -> int:
    return _RANK.get(change.part, len(_RANK))


def _changed(change: Change) -> str:
    verb = "is new" if not change.old else "is gone" if not change.new else "changed"
    return f"{_subject(change)} {verb}"


def _subject(change: Change) -> str:
    words = {"arg": "ARG", "env": "ENV", "base": "base image", "layer": "the layer of", "option": ""}
    word = words.get(change.part, change.part)
    name = f"`{_short(change.name)}`" if change.part == "layer" else _short(change.name)
    return f"{word} {name}".strip()


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


_WORDS: Mapping[str, Callable[[Change], str]] = {
    **dict.fromkeys(
        ("file", "directory", "arg", "env", "base", "layer", "mount", "user", "workdir", "platform", "network"),
        _changed,
    ),
    "instruction": lambda _: "the instruction changed",
    "mode": lambda _: "how user ids are mapped changed",
    "option": _changed,
    "content": lambda _: "what it reads changed",
}


def _listed(parts: Sequence[str]) -> str:
    words = {"arg": "ARG", "env": "ENV", "base": "base image", "layer": "what is below", "option": "settings"}
    return ", ".join(words.get(part, part) for part in parts)


def _names(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [*dict.fromkeys([*new, *old])]


def _part(name: str, before: Any, after: Any, old: Account, new: Account, files: list[Change]) -> Iterable[Change]:
    match name:
        case "chain":
            return _below(old.below, new.below) or [Change("layer", "", _shown(before), _shown(after))]
        case "content":
            # The files tell it better
            return [] if files else [Change("content", "", _digest(before), _digest(after))]
        case "mounts":
            return _mounts(before or [], after or [])
        case "options":
            before, after = before or {}, after or {}
            return [
                Change("option", _OPTIONS.get(key, key), _shown(before.get(key)), _shown(after.get(key)))
                for key in _names(before, after)
                if before.get(key) != after.get(key)
            ]
        case "argv" | "scripts" | "sources" | "dest" if old.text != new.text:
            return [Change("instruction", "", old.text, new.text)]
        case "argv" | "scripts":
            # What it says is in a heredoc, or in SHELL
            return [Change("instruction", "command", _command(before), _command(after))]
        case "cwd":
            return [Change("workdir", "", _shown(before), _shown(after))]
        case "user" | "platform" | "mode" | "network":
            return [Change(name, "", _shown(before), _shown(after))]
        case "epoch" | "devices":
            return [Change("option", _OPTIONS[name], _shown(before), _shown(after))]
        case _:
            return [Change("instruction", name, _shown(before), _shown(after))]


_OPTIONS = {
    "hosts": "--add-host",
    "shm": "--shm-size",
    "ulimits": "--ulimit",
    "epoch": "SOURCE_DATE_EPOCH",
    "hostname": "host name",
    "devices": "--device",
}


def _command(value: Any) -> str:
    return " ".join(map(_shown, value)) if isinstance(value, list) else _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)


def _digest(value: Any) -> str:
    return f"sha256:{value[:16]}" if isinstance(value, str) and value else ""


def _variables(old: Account, new: Account) -> list[Change]:
    return [
        Change("arg" if name in (*old.args, *new.args) else "env", name, old.env.get(name, ""), new.env.get(name, ""))
        for name in _names(old.env, new.env)
        if old.env.get(name) != new.env.get(name)
    ]


def _below(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> list[Change]:
    """Return the first thing below that differs: the rest only follows from it."""
    if not old or not new:
        return []
    if old[0] != new[0]:
        return [_base(old[0], new[0])]
    texts = {text for text, _ in old[1:]}
    for index in range(1, max(len(old), len(new))):
        before = old[index] if index < len(old) else None
        after = new[index] if index < len(new) else None
        if before == after:
            continue
        if before is None or after is None or before[0] == after[0]:
            text = (after or before or ("", ""))[0]
            return [Change("layer", text, before[1] if before else "", after[1] if after else "")]
        if after[0] not in texts:
            return [Change("layer", after[0], "", after[1])]
        return [Change("layer", before[0], before[1], "")]
    return []


def _base(old: tuple[str, str], new: tuple[str, str]) -> Change:
    if old[0] != new[0]:
        return Change("base", "", f"{old[0]} {old[1]}".strip(), f"{new[0]} {new[1]}".strip())
    return Change("base", new[0], old[1] or "scratch", new[1] or "scratch")


def _mounts(old: list[list[Any]], new: list[list[Any]]) -> list[Change]:
    before = {_mount_name(mount): mount[2:] for mount in old if len(mount) > 2}
    after = {_mount_name(mount): mount[2:] for mount in new if len(mount) > 2}
    found: list[Change] = []
    for name in _names(before, after):
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        if one is None or other is None:
            found.append(Change("mount", name, "" if one is None else "there", "" if other is None else "there"))
        elif one[:-1] != other[:-1]:
            found.append(Change("mount", name, _shown(one[:-1]), _shown(other[:-1])))
        else:
            found.append(Change("mount", name, _digest(one[-1]), _digest(other[-1])))
    return found


def _mount_name(mount: list[Any]) -> str:
    kind, where = mount[:2]
    return f"type={kind},{'id' if kind in ('secret', 'ssh') else 'target'}={where}"


def _files(old: Listing | None, new: Listing | None) -> list[Change]:
    if old is None or new is None:
        return []
    old, new = _alike(old, new)
    found: list[Change] = []
    for path in sorted(old.rows.keys() | new.rows.keys()):
        before, after = old.rows.get(path), new.rows.get(path)
        if before != after:
            found.append(_file(path, before, after))
    return found


def _alike(old: Listing, new: Listing) -> tuple[Listing, Listing]:
    """Fold the finer of two listings as far as the other one is."""
    if old.depth == new.depth:
        return old, new
    # 0 keeps all names, -1 none
    finer = max(old.depth or 1 << 30, new.depth or 1 << 30)
    coarser = min(old.depth or 1 << 30, new.depth or 1 << 30)
    if (old.depth or 1 << 30) == finer:
        return fold(old, coarser), new
    return old, fold(new, coarser)


def _file(path: str, old: Row | None, new: Row | None) -> Change:
    part = "directory" if TREE in (old.type if old else "", new.type if new else "") else "file"
    same = old is not None and new is not None and (old.digest, old.type) == (new.digest, new.type)
    # Content says nothing where owner or mode is all that differs
    return Change(
        part, path, _row(old, about=same), _row(new, about=same), old.size if old else -1, new.size if new else -1
    )


_TYPES = {"d": "directory", "l": "link", "c": "character device", "b": "block device", "p": "fifo", TREE: "tree"}


def _row(row: Row | None, *, about: bool) -> str:
    if row is None:
        return ""
    if about:
        return row.about
    kind = _TYPES.get(row.type, "")
    digest = f"sha256:{row.digest.hex()}" if row.digest else ""
    return f"{kind} {digest}".strip() or "empty"
