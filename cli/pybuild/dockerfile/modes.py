"""The modes of --chmod: octal, or symbolic as chmod(1) takes them, without a umask.

mode   = octal | clause { "," clause }
clause = { "u" | "g" | "o" | "a" } action { action }
action = ( "+" | "-" | "=" ) ( "u" | "g" | "o" | { "r" | "w" | "x" | "X" | "s" | "t" } )
"""

import re

import msgspec

from pybuild.dockerfile.errors import InvalidValueError, shown

MAX_MODE = 0o7777

# Compiled by `re` when first used, as few files have them
_OCTAL = r"[0-7]{1,8}"
_CLAUSE = r"([ugoa]*+)((?:[-+=](?:[ugo]|[rwxXst]*+))++)"
_ACTION = r"([-+=])([ugo]|[rwxXst]*+)"

_SHIFT = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0o1000}


class Action(msgspec.Struct, frozen=True):
    """One change of a symbolic mode for the classes in `who` ("ugo" in any selection)."""

    who: str
    operator: str
    what: str


class Chmod(msgspec.Struct, frozen=True):
    """A parsed mode: `octal`, or else `actions` in order."""

    octal: int | None = None
    actions: tuple[Action, ...] = ()

    def apply(self, mode: int, is_dir: bool) -> int:
        """Return the new permission bits, the set-id and sticky ones included, of a file that has `mode`."""
        if self.octal is not None:
            return self.octal
        mode &= MAX_MODE
        for action in self.actions:
            bits = _bits(action, mode, is_dir=is_dir)
            if action.operator == "+":
                mode |= bits
            elif action.operator == "-":
                mode &= ~bits
            else:
                mode = mode & ~_cleared(action.who, is_dir=is_dir) | bits
        return mode


def parse_chmod(text: str) -> Chmod:
    """Return the mode that an expanded --chmod means; raise InvalidValueError."""
    if re.fullmatch(_OCTAL, text) and int(text, 8) <= MAX_MODE:
        return Chmod(octal=int(text, 8))
    actions: list[Action] = []
    for clause in text.split(","):
        match = re.fullmatch(_CLAUSE, clause)
        if match is None:
            raise InvalidValueError(
                f"invalid chmod parameter: {shown(text)!r}", "write an octal mode up to 7777, or one as in `u=rwX,go-w`"
            )
        who = "ugo" if "a" in match[1] or not match[1] else match[1]
        actions += [Action(who, operator, what) for operator, what in re.findall(_ACTION, match[2])]
    return Chmod(actions=tuple(actions))


def _bits(action: Action, mode: int, *, is_dir: bool) -> int:
    """Return the bits that an action names."""
    if action.what in _SHIFT:
        granted = mode >> _SHIFT[action.what] & 0o7
    else:
        granted = sum(bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in action.what)
        if "X" in action.what and (is_dir or mode & 0o111):
            granted |= 1
    bits = 0
    for who in action.who:
        bits |= granted << _SHIFT[who]
        if "s" in action.what and who != "o":
            bits |= _SPECIAL[who]
        if "t" in action.what and who == "o":
            bits |= _SPECIAL[who]
    return bits


def _cleared(who: str, *, is_dir: bool) -> int:
    """Return what `=` takes away first; a directory keeps its set-id bits, as with chmod(1)."""
    bits = 0
    for one in who:
        bits |= 0o7 << _SHIFT[one]
        if one == "o" or not is_dir:
            bits |= _SPECIAL[one]
    return bits
