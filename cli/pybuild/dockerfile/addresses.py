"""What can be said of addresses without reading them: the grammar is in `remotes`, which few builds need."""

UNNAMED = "__unnamed__"
"""What BuildKit calls a file whose URL has no name in it."""


def looks_remote(text: str) -> bool:
    """Might `text` be an address rather than a path?"""
    return "://" in text or "@" in text


def names_remote(context: str) -> bool:
    """Is a context an address rather than a directory or a stream? What is local is an absolute path here."""
    return context not in ("", "-") and not context.startswith("/")


def redacted(text: str) -> str:
    """Return `text` without the users and passwords of the addresses in it."""
    if "@" not in text or "://" not in text:
        return text
    import re

    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@", r"\1xxxxx@", text)
