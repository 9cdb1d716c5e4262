"""Nodes as text: the form that results of parser corpora are written in."""

from pybuild.dockerfile.nodes import Node


def go_quote(text: str) -> str:
    """Return `text` in double quotes, as Go's %q writes it."""
    short = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(char, char if char.isprintable() else f"\\x{ord(char):02x}") for char in text) + '"'


def dump(node: Node) -> str:
    """Return `(name [flags] arguments)`, a trigger in the place of its ONBUILD's arguments."""
    parts = [node.name]
    if node.flags:
        parts.append("[" + " ".join(go_quote(flag.text) for flag in node.flags) + "]")
    if node.child is not None:
        parts.append(dump(node.child))
    parts += [go_quote(arg) for arg in node.args]
    return "(" + " ".join(parts) + ")"
