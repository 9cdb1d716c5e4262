"""The JSON form of arguments: a list of strings, and nothing else."""

import json
import re
from typing import NoReturn

_SPACE = re.compile(r"[ \t\r\n]*+")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"')
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json_list(text: str) -> tuple[str, ...] | None:
    """Return the strings of a JSON list, or None when `text` is anything else.

    list = space "[" space [ string { space "," space string } ] space "]" space

    The list is read here and only its strings by the json module, which recurses on nested lists.
    """
    position = _skip(text, 0)
    if not text.startswith("[", position):
        return None
    position = _skip(text, position + 1)
    items: list[str] = []
    while not text.startswith("]", position):
        if items:
            if not text.startswith(",", position):
                return None
            position = _skip(text, position + 1)
        match = _STRING.match(text, position)
        if match is None:
            return None
        # Half a surrogate pair is no character; JSON readers elsewhere put this one in its place
        items.append(_SURROGATE.sub("\ufffd", json.loads(match.group())))
        position = _skip(text, match.end())
    return tuple(items) if _skip(text, position + 1) == len(text) else None


def is_json_list(text: str) -> bool:
    """Is `text` a list of JSON, of whatever values?"""
    try:
        return isinstance(json.loads(text, parse_constant=_no_number), list)
    except (ValueError, RecursionError):
        return False


def _no_number(name: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's JSON has beyond the standard."""
    raise ValueError(name)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
