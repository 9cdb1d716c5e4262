"""Values of `--cache-from` and `--cache-to`: where results of steps are taken from and given to."""

import os
from pathlib import Path

from pybuild.api.request import Output
from pybuild.errors import UsageError

MODES = ("min", "max")
COMPRESSIONS = ("gzip", "zstd", "uncompressed")
_KEYS = {
    "--cache-from": {"local": {"src", "tag"}, "registry": {"ref"}},
    "--cache-to": {
        "local": {"dest", "tag", "mode", "compression", "ignore-error", "oci-mediatypes", "image-manifest"},
        "registry": {"ref", "mode", "compression", "ignore-error", "oci-mediatypes", "image-manifest"},
        "inline": {"mode"},
    },
}
_PLACES = {"--cache-from": "src", "--cache-to": "dest"}


def source(text: str, directory: Path) -> Output:
    """Return `type=local,src=DIR[,tag=TAG]`, `type=registry,ref=IMAGE` or a bare image; raise UsageError."""
    if "=" not in text:
        return Output("registry", "", {"ref": text})
    return _checked("--cache-from", text, directory)


def target(text: str, directory: Path) -> Output:
    """Return `type=local,dest=DIR`, `type=registry,ref=NAME`, either with more, or `type=inline`; raise UsageError."""
    return Output("inline", "") if text == "inline" else _checked("--cache-to", text, directory)


def _pairs(option: str, text: str) -> dict[str, str]:
    import csv

    pairs: dict[str, str] = {}
    for item in next(csv.reader([text]), []):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{option} wants KEY=VALUE, not: {item}")
        pairs[key.strip().lower()] = value
    return pairs


def _checked(option: str, text: str, directory: Path) -> Output:
    pairs = _pairs(option, text)
    kind, known = pairs.pop("type", ""), _KEYS[option]
    if kind not in known:
        told = f"unknown type for {option}: {kind}" if kind else f"{option} has no type: {text}"
        raise UsageError(told, f"known: {', '.join(known)}")
    for key in pairs:
        if key not in known[kind]:
            raise UsageError(f"unknown key of {option} type={kind}: {key}", f"known: {', '.join(sorted(known[kind]))}")
    _check_values(option, kind, pairs)
    place = _PLACES[option]
    needed = place if kind == "local" else "ref" if kind == "registry" else ""
    if needed and not pairs.get(needed):
        raise UsageError(f"{option} type={kind} wants {needed}=...: {text}")
    if option == "--cache-to" and kind == "registry":
        from pybuild.oci.reference import parse_reference

        parse_reference(pairs["ref"])
    given = pairs.pop(place, "")
    return Output(kind, os.path.abspath(directory / given) if given else "", pairs)


def _check_values(option: str, kind: str, pairs: dict[str, str]) -> None:
    for key, values in (("mode", MODES), ("compression", COMPRESSIONS)):
        if pairs.get(key, values[0]) not in values:
            raise UsageError(f"unknown {key} of {option}: {pairs[key]}", f"known: {', '.join(values)}")
    for key in ("oci-mediatypes", "image-manifest"):
        if pairs.pop(key, "true").lower() not in ("true", "1"):
            raise UsageError(f"{option} writes no other form than {key}=true")
    if kind == "inline" and pairs.get("mode") == "max":
        raise UsageError("an image carries the results of its own steps alone: mode=max", "use type=local for more")
