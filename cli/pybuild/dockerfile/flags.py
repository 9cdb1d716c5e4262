"""The `--name=value` flags between an instruction's name and its arguments.

flags = { "--" name [ "=" value ] blank } [ "--" blank ]        quotes and escapes are taken out of the values
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto

import msgspec

from pybuild.dockerfile.errors import DockerfileError, Span, did_you_mean, shown
from pybuild.dockerfile.lines import WHITESPACE


class Flag(msgspec.Struct, frozen=True):
    """One flag as read; `value` None when there was no `=`."""

    text: str
    name: str
    value: str | None
    span: Span


class Kind(Enum):
    """What values a flag takes."""

    TEXT = auto()
    BOOL = auto()
    """true or false; alone it means true"""
    LIST = auto()
    """may be given several times"""


KINDS: Mapping[str, Mapping[str, Kind]] = {
    "add": {
        "chown": Kind.TEXT,
        "chmod": Kind.TEXT,
        "link": Kind.BOOL,
        "keep-git-dir": Kind.BOOL,
        "checksum": Kind.TEXT,
        "unpack": Kind.BOOL,
        "exclude": Kind.LIST,
    },
    "copy": {
        "from": Kind.TEXT,
        "chown": Kind.TEXT,
        "chmod": Kind.TEXT,
        "link": Kind.BOOL,
        "parents": Kind.BOOL,
        "exclude": Kind.LIST,
    },
    "from": {"platform": Kind.TEXT},
    "healthcheck": {
        "interval": Kind.TEXT,
        "timeout": Kind.TEXT,
        "start-period": Kind.TEXT,
        "start-interval": Kind.TEXT,
        "retries": Kind.TEXT,
    },
    "run": {"mount": Kind.LIST, "network": Kind.TEXT, "security": Kind.TEXT, "device": Kind.LIST},
}
"""The flags of each instruction that has any."""


class FlagValues(msgspec.Struct, frozen=True):
    """The flags of one instruction, checked against its table."""

    texts: Mapping[str, str]
    bools: Mapping[str, bool]
    lists: Mapping[str, tuple[str, ...]]
    spans: Mapping[str, Span]


def split_flags(text: str, start: int, escape: str, place: Callable[[int, int], Span]) -> tuple[list[Flag], int]:
    """Return the flags at `start` of `text`, and where the arguments begin."""
    flags: list[Flag] = []
    position = _skip(text, start)
    while text.startswith("--", position):
        word, end = _read_word(text, position, escape)
        span = place(position, end)
        position = _skip(text, end)
        if word == "--":
            break
        name, equals, value = word.removeprefix("--").partition("=")
        flags.append(Flag(word, name, value if equals else None, span))
    return flags, position


def check_flags(
    instruction: str, flags: tuple[Flag, ...], fail: Callable[[str, Span, str], DockerfileError]
) -> FlagValues:
    """Return the values of `flags`; raise what `fail` makes for an unknown, repeated or wrongly used one."""
    kinds = KINDS.get(instruction, {})
    texts: dict[str, str] = {}
    bools: dict[str, bool] = {}
    lists: dict[str, list[str]] = {}
    spans: dict[str, Span] = {}
    for flag in flags:
        kind = kinds.get(flag.name)
        if kind is None:
            near = did_you_mean(flag.name, kinds, "--")
            known = ", ".join(f"--{name}" for name in kinds)
            hint = f"{instruction.upper()} has {known}" if known else f"{instruction.upper()} has no flags"
            raise fail(f"unknown flag: --{shown(flag.name)}{near}", flag.span, hint)
        if flag.name in spans and kind is not Kind.LIST:
            raise fail(f"duplicate flag specified: --{flag.name}", flag.span, "")
        spans.setdefault(flag.name, flag.span)
        if kind is Kind.BOOL:
            value = "true" if flag.value is None else flag.value.lower()
            if value not in ("true", "false"):
                message = f"expecting boolean value for flag --{flag.name}, not: {shown(value) or '<empty>'}"
                raise fail(message, flag.span, "write true or false")
            bools[flag.name] = value == "true"
        elif flag.value is None:
            raise fail(f"missing a value on flag: --{flag.name}", flag.span, f"write it as `--{flag.name}=value`")
        elif kind is Kind.LIST:
            lists.setdefault(flag.name, []).append(flag.value)
        else:
            texts[flag.name] = flag.value
    return FlagValues(texts, bools, {name: tuple(values) for name, values in lists.items()}, spans)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in WHITESPACE:
        position += 1
    return position


def _read_word(text: str, start: int, escape: str) -> tuple[str, int]:
    """Return the word at `start` without quotes and escapes, and its end; an open quote ends with the text."""
    parts: list[str] = []
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if char == escape:
            parts.append(text[position + 1 : position + 2])
            position += 1
        elif quote:
            if char == quote:
                quote = ""
            else:
                parts.append(char)
        elif char in WHITESPACE:
            break
        elif char in "'\"":
            quote = char
        else:
            parts.append(char)
        position += 1
    return "".join(parts), min(position, len(text))
