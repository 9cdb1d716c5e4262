"""What an image is, as lines: its configuration, then each step with what its layer holds."""

import json
from typing import Any

from conformance.rows import Row
from support.images import Image, Node

COMMENT = "buildkit.dockerfile.v0"
OLD = 1_500_000_000
"""Times before this (in seconds) come from the context or an archive; later ones are those of a build."""

_KEPT_EMPTY = ("Cmd", "Entrypoint")
_KEYS = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
    *("ArgsEscaped", "OnBuild", "Healthcheck", "Shell"),
)


def describe(image: Image, base: Image | None) -> list[str]:
    """Return the image as lines; of its base `base`, if it is made from that, nothing but the configuration."""
    skipped = base.diff_ids if base and image.diff_ids[: len(base.diff_ids)] == base.diff_ids else []
    history = image.history
    if base and skipped:
        history = history[len(base.history) :]
    layers = iter(image.layers[len(skipped) :])
    lines = list(_configuration(image.config))
    for item in history:
        text = _one_line(item.get("created_by", ""))
        note = "" if item.get("comment") == COMMENT else f" [{item.get('comment', '')}]"
        note += f" [author {item['author']}]" if item.get("author") else ""
        if item.get("empty_layer"):
            lines.append(f"step: {text}{note}")
            continue
        lines.append(f"layer: {text}{note}")
        lines += sorted(f"  {_row(node).line()}" for node in next(layers))
    lines += [f"layer without history: {len(rest)} entries" for rest in layers]
    return lines


def _configuration(config: dict[str, Any]) -> list[str]:
    lines = [f"author {config['author']}"] if config.get("author") else []
    run = config.get("config") or {}
    for key in _KEYS:
        value = run.get(key)
        if value is None or (not value and key not in _KEPT_EMPTY):
            continue
        if key == "Env":
            lines += [f"Env {item}" for item in value]
        elif key == "Labels":
            lines += [f"Label {json.dumps(name)}={json.dumps(value[name])}" for name in sorted(value)]
        elif isinstance(value, str):
            lines.append(f"{key} {value}")
        else:
            lines.append(f"{key} {json.dumps(value, sort_keys=True, ensure_ascii=False)}")
    return [_one_line(line) for line in lines]


def _one_line(text: str) -> str:
    return text.replace("\n", "␤")


def _row(node: Node) -> Row:
    parent, _, name = node.path.rpartition("/")
    if name == ".wh..wh..opq":
        return Row("opaque", parent)
    if name.startswith(".wh."):
        return Row("whiteout", f"{parent}/{name[4:]}".lstrip("/"))
    if node.type == "hardlink":
        return Row("hardlink", node.path, link=node.link.removeprefix("./").lstrip("/"))
    content: bytes | str | None = None
    if node.type == "file":
        content = node.data if node.data is not None else f"sha256:{node.sha256}"
    return Row(
        node.type,
        node.path or "/",
        # The kernel gives every link the same mode, and tars have what their writers like
        None if node.type == "symlink" else node.mode,
        (node.uid, node.gid),
        content,
        node.link if node.type == "symlink" else None,
        node.device if node.type in ("char", "block") else None,
        {name: value.encode(errors="surrogateescape").hex() for name, value in node.xattrs.items()},
        int(node.mtime) if 0 < node.mtime < OLD else None,
    )
