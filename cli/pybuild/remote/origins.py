"""Whom a URL names, and what may be told of it and of the errors on the way."""

from urllib.parse import urlsplit, urlunsplit

from pybuild.remote.connections import port_of


def plain(url: str) -> str:
    """Return a URL without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL (RFC 6454); raise ValueError for a port that cannot be."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname or "", port_of(url)


def reason_of(error: BaseException) -> str:
    """Return what an error of the network says, in one line."""
    cause = error.__cause__ or error
    reason = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or str(cause)
    return " ".join(str(reason).split())[:200]
