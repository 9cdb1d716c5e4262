"""Durations as Go writes them: `1m30s`, `1.5h`, `100ms`."""

import re

from pybuild.dockerfile.errors import InvalidValueError, shown

NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}

MAX_DURATION = 2**63 - 1

_TERM = re.compile("([0-9]*)(?:\\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def parse_duration(text: str) -> int:
    """Return nanoseconds; raise InvalidValueError.

    duration = [ "+" | "-" ] ( "0" | { digits [ "." digits ] unit } )
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    position = total = 0
    while position < len(rest):
        match = _TERM.match(rest, position)
        # Thirty digits are more than any duration needs, and cheap to multiply
        if match is None or not (match[1] or match[2]) or match.end() - position > 32:
            break
        unit = NANOSECONDS[match[3]]
        total += int(match[1] or "0") * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        position = match.end()
        if total > MAX_DURATION:
            raise InvalidValueError(f"duration is too long: {shown(text)}")
    if not rest or position < len(rest):
        raise InvalidValueError(f"not a duration: {shown(text)!r}", "write it as in `1m30s`, with ms, s, m or h")
    return sign * total
