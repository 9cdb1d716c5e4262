"""The owner of --chown and USER, split but not looked up."""

import msgspec

from pybuild.dockerfile.errors import InvalidValueError, shown

MAX_ID = 2**32 - 2
"""The largest id; the next one means "leave as it is" to the kernel."""


class Owner(msgspec.Struct, frozen=True):
    """A user and perhaps a group, each a number or a name; group None means the user's own."""

    user: int | str
    group: int | str | None = None


def parse_chown(text: str) -> Owner:
    """Return the owner that an expanded `user[:group]` names; raise InvalidValueError."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group) or ":" in group:
        raise InvalidValueError(f"not an owner: {shown(text)!r}", "write `user` or `user:group`, names or numbers")
    return Owner(_part(user), _part(group) if colon else None)


def _part(text: str) -> int | str:
    if text.isascii() and text.isdigit():
        # Ten digits hold every id, and a longer number need not be read
        if len(text.lstrip("0")) > 10 or int(text) > MAX_ID:
            raise InvalidValueError(f"id is out of range: {shown(text)}")
        return int(text)
    if any(char.isspace() or not char.isprintable() for char in text):
        raise InvalidValueError(f"not a user or group name: {shown(text)!r}")
    return text
