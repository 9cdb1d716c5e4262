"""Protocol Buffers by tables: a message is a dict of its fields, by the names that its table gives them.

What is not in a message has the default of its kind: 0, "", b"", False, [], {}, and None for a message. Unknown fields
are skipped, so that newer clients may say more. See the encoding of Protocol Buffers, version 3.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Union

from pybuild.errors import PybuildError

Scalar = Literal["int", "uint", "bool", "string", "bytes"]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK = (1 << 64) - 1


class WireError(PybuildError):
    """Bytes that are no message."""


class Field(NamedTuple):
    """One field: its name, its kind, and whether there are many of it, or it is a map (of entries)."""

    name: str
    kind: Union[Scalar, "Message"]
    many: bool = False
    is_map: bool = False


class Message:
    """The table of a message: its fields by number."""

    def __init__(self, name: str, fields: Mapping[int, Field]) -> None:
        self.name = name
        self.fields = dict(fields)
        self._by_name = {field.name: (number, field) for number, field in fields.items()}
        self._empty = {field.name: _default(field) for field in fields.values()}

    def decode(self, data: bytes | memoryview) -> dict[str, Any]:
        """Return the values in `data`; raise WireError."""
        try:
            return self._decode(memoryview(data))
        except (IndexError, UnicodeDecodeError) as error:
            raise WireError(f"malformed message: {self.name}") from error

    def _decode(self, data: memoryview) -> dict[str, Any]:
        values = {name: value() if callable(value) else value for name, value in self._empty.items()}
        place, end = 0, len(data)
        while place < end:
            tag, place = _varint(data, place)
            wire = tag & 7
            value: int | memoryview
            if wire == _VARINT:
                value, place = _varint(data, place)
            elif wire == _BYTES:
                size, place = _varint(data, place)
                if size > end - place:
                    raise WireError(f"malformed message: {self.name}")
                value = data[place : place + size]
                place += size
            elif wire in (_FIXED64, _FIXED32):
                place += 8 if wire == _FIXED64 else 4
                if place > end:
                    raise WireError(f"malformed message: {self.name}")
                continue
            else:
                raise WireError(f"malformed message: {self.name}")
            field = self.fields.get(tag >> 3)
            if field is not None:
                self._take(values, field, value)
        return values

    def _take(self, values: dict[str, Any], field: Field, raw: int | memoryview) -> None:
        if field.many and field.kind in ("int", "uint", "bool") and isinstance(raw, memoryview):
            place = 0
            while place < len(raw):
                number, place = _varint(raw, place)
                values[field.name].append(_scalar(field.kind, number, self.name))
            return
        if isinstance(field.kind, Message):
            if isinstance(raw, int):
                raise WireError(f"malformed message: {self.name}")
            value: Any = field.kind._decode(raw)
        else:
            value = _scalar(field.kind, raw, self.name)
        if field.is_map:
            values[field.name][value["key"]] = value["value"]
        elif field.many:
            values[field.name].append(value)
        else:
            values[field.name] = value

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """Return the bytes of a message; defaults are left out, but for messages that are there."""
        out = bytearray()
        for name, value in values.items():
            number, field = self._by_name[name]
            if field.is_map:
                assert isinstance(field.kind, Message)
                for key, item in value.items():
                    _put(out, number, field.kind.encode({"key": key, "value": item}))
            elif field.many:
                for item in value:
                    _encode(out, number, field.kind, item, always=True)
            elif value is not None:
                _encode(out, number, field.kind, value, always=False)
        return bytes(out)


def a_map(name: str, value: Scalar | Message = "string") -> Field:
    """Return a field that is a map from strings."""
    return Field(name, Message(f"{name} entry", {1: Field("key", "string"), 2: Field("value", value)}), True, True)


def _default(field: Field) -> Callable[[], Any] | int | str | bytes | bool | None:
    if field.is_map:
        return dict
    if field.many:
        return list
    if isinstance(field.kind, Message):
        return None
    defaults: dict[Scalar, int | str | bytes | bool] = {"int": 0, "uint": 0, "bool": False, "string": "", "bytes": b""}
    return defaults[field.kind]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    byte = data[place]
    place += 1
    if byte < 0x80:
        return byte, place
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, place
        shift += 7
        if shift > 63:
            raise WireError("malformed message: a number is too long")


def _scalar(kind: Scalar | Message, raw: int | memoryview, name: str) -> int | str | bytes | bool:
    if isinstance(raw, int):
        if kind == "int":
            return raw - (1 << 64) if raw >> 63 else raw
        if kind == "uint":
            return raw
        if kind == "bool":
            return raw != 0
    elif kind == "string":
        # Names of files are bytes to us; Go sends them as they are
        return bytes(raw).decode("utf-8", "surrogateescape")
    elif kind == "bytes":
        return bytes(raw)
    raise WireError(f"malformed message: {name}")


def _encode(out: bytearray, number: int, kind: Scalar | Message, value: Any, *, always: bool) -> None:
    if isinstance(kind, Message):
        _put(out, number, kind.encode(value))
    elif kind == "string" or kind == "bytes":
        if value or always:
            _put(out, number, value.encode("utf-8", "surrogateescape") if kind == "string" else value)
    elif value or always:
        _put_varint(out, number << 3 | _VARINT)
        _put_varint(out, int(value) & _MASK)


def _put(out: bytearray, number: int, data: bytes) -> None:
    _put_varint(out, number << 3 | _BYTES)
    _put_varint(out, len(data))
    out += data


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
