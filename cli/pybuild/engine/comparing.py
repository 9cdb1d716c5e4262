"""Two images beside each other: file by file from their tables, and their configs."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from pybuild.oci.image import ImageConfig
from pybuild.oci.manifests import platform_of
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.store import Store
from pybuild.tree.entry import BLOCK, CHAR, DIR, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.merged import MergedTree

KINDS = {FILE: "file", DIR: "directory", SYMLINK: "link", CHAR: "device", BLOCK: "block device", "p": "fifo"}


class Difference(NamedTuple):
    """What differs of a path (absolute), or of the config when `path` is "": `first` and `second` as text."""

    path: str
    field: str
    first: str
    second: str


def differences(store: Store, first: ImageRecord, second: ImageRecord) -> list[Difference]:
    """Return what differs, the config first, then paths in order. A path that only one has differs in its `type`."""
    return [*_configs(first.config, second.config), *_trees(store, first, second)]


def compared(store: Store, first: ImageRecord, second: ImageRecord) -> list[dict[str, Any]]:
    """Return what differs as JSON values: `{path, field, image, rebuilt}`."""
    return [
        {"path": row.path, "field": row.field, "image": row.first, "rebuilt": row.second}
        for row in differences(store, first, second)
    ]


def compared_indexes(store: Store, index: IndexRecord, other: IndexRecord) -> dict[str, Any]:
    """Return how two indexes differ, platform by platform, as `Images.compare` does."""
    rows: list[dict[str, Any]] = []
    others = {str(platform_of(member.row)): member for member in other.members}
    for member in index.members:
        platform = str(platform_of(member.row))
        match = others.pop(platform, None)
        if match is None:
            rows.append({"path": "", "field": "platform", "image": platform, "rebuilt": "", "platform": platform})
            continue
        first, second = store.images.get(member.image), store.images.get(match.image)
        if first is not None and second is not None:
            rows += [{**row, "platform": platform} for row in compared(store, first, second)]
    rows += [
        {"path": "", "field": "platform", "image": "", "rebuilt": platform, "platform": platform} for platform in others
    ]
    return {"image": index.id, "rebuilt": other.id, "differences": rows}


def _trees(store: Store, first: ImageRecord, second: ImageRecord) -> Iterator[Difference]:
    if first.diff_ids == second.diff_ids:
        return
    ours, theirs = (_entries(store, image) for image in (first, second))
    for path in sorted(ours.keys() | theirs.keys()):
        shown = "/" + path.decode(errors="backslashreplace")
        one, other = _facts(ours.get(path)), _facts(theirs.get(path))
        if "type" not in one or "type" not in other:
            yield Difference(shown, "type", one.get("type", "absent"), other.get("type", "absent"))
            continue
        for field in one:
            if one[field] != other.get(field, ""):
                yield Difference(shown, field, one[field], other.get(field, ""))
        for field in other.keys() - one.keys():
            yield Difference(shown, field, "", other[field])


def _entries(store: Store, image: ImageRecord) -> dict[bytes, Entry]:
    tree = MergedTree([store.layers.toc(diff_id) for diff_id in image.diff_ids])
    return {entry.path: entry for entry in tree.walk(b"") if entry.path}


def _facts(entry: Entry | None) -> dict[str, str]:
    """Return all that is to be compared, as people read it."""
    if entry is None:
        return {}
    kind = FILE if entry.type == HARDLINK else entry.type
    facts = {
        "type": KINDS.get(kind, kind),
        "mode": f"{entry.mode:04o}",
        "owner": f"{entry.uid}:{entry.gid}",
        "mtime": _moment(entry.mtime),
    }
    if kind == FILE:
        facts["size"], facts["digest"] = str(entry.size), "sha256:" + entry.digest.hex()
    elif kind == SYMLINK:
        facts["link"] = entry.link.decode(errors="backslashreplace")
    elif kind in (CHAR, BLOCK):
        facts["device"] = "{}:{}".format(*entry.rdev)
    for name, value in sorted(entry.xattrs.items()):
        facts["xattr " + name.decode(errors="backslashreplace")] = value.hex()
    return facts


def _moment(nanoseconds: int) -> str:
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds} ns"
    return f"{text}.{fraction:09d}Z" if fraction else f"{text}Z"


def _configs(first: ImageConfig, second: ImageConfig) -> Iterator[Difference]:
    one, other = _flat(first), _flat(second)
    for field in sorted(one.keys() | other.keys()):
        if one.get(field) != other.get(field):
            yield Difference("", field, _text(one.get(field)), _text(other.get(field)))


def _flat(config: ImageConfig) -> dict[str, Any]:
    """Return the parts of a config by name; layers are compared file by file instead."""
    data = msgspec.to_builtins(config)
    del data["rootfs"]
    inner = data.pop("config", {})
    history = data.pop("history", None) or []
    for number, row in enumerate(history, 1):
        data[f"history {number} created"] = row.pop("created", "")
        data[f"history {number}"] = row
    return {**data, **{f"config.{name}": value for name, value in inner.items()}}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode(errors="replace")
