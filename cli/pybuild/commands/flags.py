"""Values of build options: text to what a request holds. Every function raises UsageError in one line."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pybuild.api.request import Output, Ulimit
from pybuild.errors import PybuildError, UsageError

OUTPUT_TYPES = ("oci", "docker", "tar", "local")
NETWORKS = ("default", "private", "host", "none")
ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def size(text: str, option: str) -> int:
    """Return a size in bytes: `64m`, `1.5g`, `67108864`; units are powers of 1024, as docker's."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"invalid size for {option}: {text}", "write for example `64m`")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def ulimit(text: str) -> Ulimit:
    """Return `NAME=SOFT[:HARD]`; -1 or `unlimited` is no limit."""
    name, equals, values = text.partition("=")
    if name not in ULIMITS:
        raise UsageError(f"unknown limit for --ulimit: {name}", f"known: {', '.join(ULIMITS)}")
    soft_text, _, hard_text = values.partition(":")
    try:
        soft = _limit(soft_text)
        hard = _limit(hard_text) if hard_text else soft
    except ValueError:
        equals = ""
    if not equals:
        raise UsageError(f"--ulimit is NAME=SOFT[:HARD], not: {text}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise UsageError(f"the soft limit is above the hard one: {text}")
    return Ulimit(name, soft, hard)


def _limit(text: str) -> int:
    if text == "unlimited":
        return -1
    value = int(text)
    if value < -1:
        raise ValueError(text)
    return value


def build_args(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return `NAME=VALUE` and `NAME` options; the latter take their value from `environ`, None when it has none.

    `SOURCE_DATE_EPOCH` of the environment is passed on even unasked, as buildx does.
    """
    values: dict[str, str | None] = {}
    if environ.get("SOURCE_DATE_EPOCH"):
        values["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
    for item in given:
        name, equals, value = item.partition("=")
        if not name or name != name.strip():
            raise UsageError(f"--build-arg is NAME=VALUE or NAME, not: {item}")
        values[name] = value if equals else environ.get(name)
    return values


def labels(given: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` options; `KEY` alone has an empty value."""
    values: dict[str, str] = {}
    for item in given:
        key, _, value = item.partition("=")
        if not key.strip():
            raise UsageError(f"--label is KEY=VALUE, not: {item}")
        values[key] = value
    return values


def add_host(text: str) -> str:
    """Return `NAME:IP` (or `NAME=IP`, `NAME:[IPv6]`) as "name:ip"; the address `host-gateway` is worked out later."""
    import ipaddress

    match = re.fullmatch(r"([^:=\s]+)[:=](\S+)", text)
    if match is None:
        raise UsageError(f"--add-host is NAME:IP, not: {text}")
    address = match[2]
    if address == "host-gateway":
        return f"{match[1]}:{address}"
    address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"invalid address for --add-host: {text}") from error
    return f"{match[1]}:{address}"


def network(text: str) -> str:
    """Return the network mode; `bridge` is docker's name of its default."""
    if text == "bridge":
        return "default"
    if text not in NETWORKS:
        raise UsageError(f"unknown network for --network: {text}", f"known: {', '.join(NETWORKS)}")
    return text


def output(text: str, directory: Path) -> Output:
    """Return `type=TYPE[,dest=PATH][,KEY=VALUE...]` (CSV), or a bare directory (type local) or `-` (a tar).

    `dest` is made absolute from `directory`; without one it is standard output, but for type local.
    """
    import csv

    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"--output is TYPE[,KEY=VALUE...] as CSV, not: {text}") from error
    if len(fields) == 1 and "=" not in fields[0]:
        if not fields[0]:
            raise UsageError("--output is empty")
        attributes = {"type": "tar", "dest": "-"} if text == "-" else {"type": "local", "dest": fields[0]}
    else:
        attributes = {}
        for item in fields:
            key, equals, value = item.partition("=")
            key = key.strip().lower()
            if not equals or not key:
                raise UsageError(f"--output wants KEY=VALUE, not: {item}")
            attributes[key] = value
    kind = attributes.pop("type", "")
    if kind not in OUTPUT_TYPES:
        told = f"unknown type for --output: {kind}" if kind else f"--output has no type: {text}"
        raise UsageError(told, f"known: {', '.join(OUTPUT_TYPES)}")
    destination = attributes.pop("dest", "" if kind == "local" else "-")
    if kind == "local" and destination in ("", "-"):
        raise UsageError(f"--output type=local wants dest=DIRECTORY: {text}")
    if not destination:
        raise UsageError(f"--output has an empty dest: {text}")
    if destination != "-":
        path = directory / destination
        if kind != "local" and path.is_dir():
            raise UsageError(f"the dest of --output is a directory: {destination}")
        if kind == "local" and path.exists() and not path.is_dir():
            raise UsageError(f"the dest of --output is no directory: {destination}")
        destination = os.path.abspath(path)
    return Output(kind, destination, attributes)


def tag(text: str) -> str:
    """Return a name for the image, checked."""
    from pybuild.oci.reference import parse_reference

    try:
        parse_reference(text)
    except PybuildError as error:
        raise UsageError(f"invalid name for --tag: {error.message}", error.hint) from error
    return text
