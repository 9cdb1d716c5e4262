"""`RUN --device`: names of devices as the Container Device Interface has them."""

import re

import msgspec

from pybuild.dockerfile.errors import InvalidValueError, did_you_mean, shown
from pybuild.dockerfile.mounts import split_csv

_KEYS = ("name", "required")
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_PART = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_KIND = re.compile(rf"{_PART}/{_PART}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?|\*")


class Device(msgspec.Struct, frozen=True):
    """A device as asked for: `vendor.com/class`, which is the first of that kind, or `vendor.com/class=name`.

    A name of `*` means all of the kind.
    """

    name: str
    required: bool = False


def parse_device(text: str) -> Device:
    """Return the device that the value of `--device` asks for; raise InvalidValueError."""
    name, required = "", False
    for item in split_csv(text, "device"):
        key, equals, value = item.partition("=")
        key = key.lower()
        if key == "required":
            required = _is_true(value) if equals else True
        elif key == "name" and equals:
            if name:
                raise InvalidValueError(f"device has two names: {shown(text)}")
            name = value
        elif not name:
            name = item
        else:
            raise InvalidValueError(f"unexpected key of a device: {shown(item)}{did_you_mean(key, _KEYS)}")
    return Device(checked_name(name), required)


def checked_name(name: str) -> str:
    """Return the name of a device; raise InvalidValueError for one that no device can have."""
    kind, equals, rest = name.partition("=")
    if not _KIND.fullmatch(kind) or (equals and not _NAME.fullmatch(rest)):
        raise InvalidValueError(
            f"invalid name of a device: {shown(name) or '<empty>'}", "it is vendor.com/class or vendor.com/class=name"
        )
    return name


def _is_true(value: str) -> bool:
    if value.lower() not in _TRUE + _FALSE:
        raise InvalidValueError(f"`required` of a device must be true or false, not: {shown(value)}")
    return value.lower() in _TRUE
