"""What servers say of the version of a file."""

from typing import NamedTuple


class Validators(NamedTuple):
    """What a server said of a version of a file, "" for nothing (RFC 9110, 8.8)."""

    etag: str = ""
    last_modified: str = ""


def strong(validators: Validators) -> str:
    """Return what tells a version byte by byte, "" for nothing (RFC 9110, 13.1.5)."""
    etag = validators.etag
    return etag if etag and not etag.startswith("W/") else validators.last_modified


def modified(header: str) -> int:
    """Return a Last-Modified header (RFC 9110, 8.8.2) in seconds since the epoch, 0 for none that is one."""
    from email.utils import parsedate_to_datetime

    try:
        return max(0, int(parsedate_to_datetime(header).timestamp())) if header else 0
    except (ValueError, TypeError, OverflowError):
        return 0
