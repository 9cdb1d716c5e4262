"""Moments as filters write them."""

import time
from datetime import datetime

from pybuild.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_until(text: str) -> float:
    """Return the moment `text` names: seconds since the epoch, an ISO date, or a duration back from now."""
    if text[-1:] in _UNITS and text[:-1].replace(".", "", 1).isdigit():
        return time.time() - float(text[:-1]) * _UNITS[text[-1]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise UsageError(f"not a time: {text}", "write `24h`, `2026-11-25` or seconds since the epoch") from error
