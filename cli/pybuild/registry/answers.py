"""What a registry says of its errors (OCI distribution specification, "Error Codes"), in one line."""

import time
from http import HTTPStatus
from typing import Any

import msgspec

MAX_MESSAGE = 300


def message_of(data: bytes) -> str:
    """Return the registry's own message in the body of an error, "" for none."""
    try:
        document: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    found: list[str] = []
    for error in errors[:3] if isinstance(errors, list) else [document]:
        if isinstance(error, dict):
            text = error.get("message") or error.get("details") or error.get("error_description") or error.get("code")
            detail = error.get("detail")
            if isinstance(text, str):
                found.append(f"{text} ({detail})" if isinstance(detail, str) and detail else text)
    return " ".join("; ".join(found).split())[:MAX_MESSAGE]


def status_text(status: int) -> str:
    """Return a status as `404 Not Found`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(header: str) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), 0 for none."""
    header = header.strip()
    if header.isdigit():
        return float(header)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
