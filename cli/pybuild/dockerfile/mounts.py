"""`RUN --mount`: a comma-separated list of keys and values becomes a Mount."""

import posixpath
from collections.abc import Callable
from enum import StrEnum

import msgspec

from pybuild.dockerfile.errors import InvalidValueError, did_you_mean, shown


class MountType(StrEnum):
    """What a mount gives to the command."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Sharing(StrEnum):
    """How commands that run at once use one cache."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


class Mount(msgspec.Struct, frozen=True):
    """A mount as asked for, defaults filled in where they depend on nothing else.

    `target` may be relative to WORKDIR; "" means the default of a secret or an ssh agent. `id` None is the
    default of the type: a cache's cleaned target, a secret's base name, `default` for ssh. `size` is in bytes.
    """

    type: MountType = MountType.BIND
    target: str = ""
    source: str = "/"
    from_: str | None = None
    read_only: bool = True
    id: str | None = None
    sharing: Sharing = Sharing.SHARED
    size: int | None = None
    required: bool = False
    env: str | None = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


ALIASES = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "rw": "readwrite",
    "ro": "readonly",
}

ALLOWED = {
    MountType.BIND: ("type", "target", "source", "from", "readonly", "readwrite"),
    MountType.CACHE: (
        "type", "target", "source", "from", "readonly", "readwrite", "id", "sharing", "mode", "uid", "gid",
    ),
    MountType.TMPFS: ("type", "target", "size", "readonly", "readwrite"),
    MountType.SECRET: (
        "type", "target", "source", "id", "env", "required", "mode", "uid", "gid", "readonly", "readwrite",
    ),
    MountType.SSH: ("type", "target", "id", "required", "mode", "uid", "gid", "readonly", "readwrite"),
}  # fmt: skip

FLAGS = ("readonly", "readwrite", "required")
"""Keys that may stand without a value."""

DEFAULTS = {
    MountType.BIND: Mount(),
    MountType.CACHE: Mount(MountType.CACHE, read_only=False),
    MountType.TMPFS: Mount(MountType.TMPFS, read_only=False),
    MountType.SECRET: Mount(MountType.SECRET, mode=0o400),
    MountType.SSH: Mount(MountType.SSH, mode=0o600),
}

_ALL_KEYS = tuple(dict.fromkeys([*(key for keys in ALLOWED.values() for key in keys), *ALIASES]))
MAX_ID = 2**32 - 2
"""The largest id; the next one means "leave as it is" to the kernel."""

_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")
_MAX_SIZE = 2**63 - 1


class _Field(msgspec.Struct):
    """One `key=value`; `value` None when there was no `=`."""

    key: str
    value: str | None
    text: str = ""

    def given(self) -> str:
        if self.value is None:
            raise InvalidValueError(f"mount field must be a key=value pair: {shown(self.text)}")
        return self.value


def parse_mount(text: str, expand: Callable[[str], str] | None = None) -> Mount:
    """Return the mount that `text` asks for; `expand` is put on every value except that of `from`.

    Raises InvalidValueError for unknown keys and types, keys of other types, and values that cannot be meant.
    """
    fields = [_read_field(item, expand) for item in split_csv(text)]
    type_ = MountType.BIND
    for item in fields:
        if item.key == "type":
            type_ = _read_type(item.given())
    mount = DEFAULTS[type_]
    for item in fields:
        if item.key not in ALLOWED[type_]:
            raise InvalidValueError(f"unexpected key for mount type {type_}: {item.key}")
        mount = _apply(mount, item)
    return _checked(mount)


def source_name(text: str) -> str:
    """Return the `from` of a mount, "" for none; raise InvalidValueError."""
    fields = [_read_field(item, None) for item in split_csv(text)]
    return next((item.given() for item in reversed(fields) if item.key == "from"), "")


def split_csv(text: str, what: str = "mount") -> list[str]:
    """Return the fields of one line of comma-separated values (RFC 4180); raise InvalidValueError for a bad quote.

    `what` says in the error what the line is about.
    """
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            value, position = _quoted(text, position, what)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            value, position = text[position:end], end
            if '"' in value:
                raise InvalidValueError(f"bare quote in {what}: {shown(text)}")
        fields.append(value)
        if position >= len(text):
            return fields
        position += 1


def _quoted(text: str, start: int, what: str) -> tuple[str, int]:
    parts: list[str] = []
    position = start + 1
    while True:
        end = text.find('"', position)
        if end < 0:
            raise InvalidValueError(f"open quote in {what}: {shown(text)}")
        parts.append(text[position:end])
        position = end + 1
        if not text.startswith('"', position):
            break
        parts.append('"')
        position += 1
    if position < len(text) and text[position] != ",":
        raise InvalidValueError(f"text after a quote in {what}: {shown(text)}")
    return "".join(parts), position


def _read_field(text: str, expand: Callable[[str], str] | None) -> _Field:
    key, equals, value = text.partition("=")
    key = key.strip().lower()
    if key not in _ALL_KEYS:
        near = did_you_mean(key, _ALL_KEYS)
        raise InvalidValueError(f"unexpected key in mount: {shown(key) or '<empty>'}{near}")
    key = ALIASES.get(key, key)
    if not equals and key not in FLAGS:
        raise InvalidValueError(f"mount field must be a key=value pair: {shown(text)}")
    if key == "from" and "$" in value:
        raise InvalidValueError(
            f"variables are not expanded in `from` of a mount: {shown(value)}",
            "name a stage, and give that stage's FROM the variable",
        )
    if equals and key != "from" and expand is not None:
        value = expand(value)
    return _Field(key, value if equals else None, text)


def _read_type(value: str) -> MountType:
    try:
        return MountType(value.lower())
    except ValueError:
        near = did_you_mean(value.lower(), list(MountType))
        raise InvalidValueError(f"unsupported mount type: {shown(value)}{near}") from None


def _apply(mount: Mount, item: _Field) -> Mount:
    match item.key:
        case "type":
            return mount
        case "readonly":
            return msgspec.structs.replace(mount, read_only=_read_bool(item))
        case "readwrite":
            return msgspec.structs.replace(mount, read_only=not _read_bool(item))
        case "required":
            return msgspec.structs.replace(mount, required=_read_bool(item))
        case "sharing":
            return msgspec.structs.replace(mount, sharing=_read_sharing(item.given()))
        case "size":
            return msgspec.structs.replace(mount, size=_read_size(item.given()))
        case "mode":
            return msgspec.structs.replace(mount, mode=_read_number(item, 8, 0o7777))
        case "uid":
            return msgspec.structs.replace(mount, uid=_read_number(item, 10, MAX_ID))
        case "gid":
            return msgspec.structs.replace(mount, gid=_read_number(item, 10, MAX_ID))
        case "from":
            return msgspec.structs.replace(mount, from_=item.given() or None)
        case "target":
            return msgspec.structs.replace(mount, target=item.given())
        case "source":
            return msgspec.structs.replace(mount, source=item.given() or "/")
        case "id":
            return msgspec.structs.replace(mount, id=item.given() or None)
        case _:
            return msgspec.structs.replace(mount, env=item.given() or None)


def _read_bool(item: _Field) -> bool:
    value = "true" if item.value is None else item.value.lower()
    if value not in _TRUE + _FALSE:
        raise InvalidValueError(f"mount field {item.key} must be true or false, not: {shown(value)}")
    return value in _TRUE


def _read_sharing(value: str) -> Sharing:
    try:
        return Sharing(value.lower())
    except ValueError:
        near = did_you_mean(value.lower(), list(Sharing))
        raise InvalidValueError(f"unsupported sharing value: {shown(value)}{near}") from None


def _read_number(item: _Field, base: int, limit: int) -> int:
    value = item.given()
    digits = "01234567" if base == 8 else "0123456789"
    if not value or len(value) > 16 or value.strip(digits) or int(value, base) > limit:
        raise InvalidValueError(f"invalid value for {item.key} of a mount: {shown(value) or '<empty>'}")
    return int(value, base)


def _read_size(value: str) -> int:
    """Return the bytes of `64m`, `1.5g` or `1048576`; the units are powers of 1024."""
    lowered = value.strip().lower()
    number = lowered.rstrip("bikmgt")
    unit = lowered[len(number) :].removesuffix("ib").removesuffix("b")
    whole, dot, part = number.strip().partition(".")
    if not whole or len(number) > 24 or (whole + part).strip("0123456789") or unit not in _UNITS or (dot and not part):
        raise InvalidValueError(f"invalid size of a mount: {shown(value) or '<empty>'}", "write it as `64m` or `1g`")
    factor = 1 << _UNITS[unit]
    size = int(whole) * factor + (int(part) * factor // 10 ** len(part) if part else 0)
    if size > _MAX_SIZE:
        raise InvalidValueError(f"invalid size of a mount: {shown(value)}")
    return size


def _checked(mount: Mount) -> Mount:
    if "\0" in mount.target + mount.source + (mount.id or "") + (mount.env or ""):
        raise InvalidValueError("mount holds a NUL character")
    if mount.type is MountType.SECRET and mount.source != "/":
        if mount.id:
            raise InvalidValueError("mount of a secret has an id and a source", "give one of them, they mean the same")
        mount = msgspec.structs.replace(mount, id=mount.source, source="/")
    if mount.type is MountType.SECRET and not (mount.id or mount.target):
        raise InvalidValueError("mount of a secret needs an id or a target")
    if not mount.target and mount.type not in (MountType.SECRET, MountType.SSH):
        raise InvalidValueError("mount needs a target")
    # A relative target is under WORKDIR: only whoever knows that can tell whether it is `/`
    if mount.target.startswith("/") and posixpath.normpath(mount.target).strip("/") == "":
        raise InvalidValueError(f"invalid mount target: {shown(mount.target)}")
    if mount.type is not MountType.SECRET:
        return mount
    secret_id = mount.id or posixpath.basename(mount.target.rstrip("/"))
    if not mount.target and mount.env is None:
        return msgspec.structs.replace(mount, id=secret_id, target="/run/secrets/" + posixpath.basename(secret_id))
    return msgspec.structs.replace(mount, id=secret_id)
