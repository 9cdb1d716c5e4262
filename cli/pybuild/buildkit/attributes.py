"""Attributes of BuildKit's Dockerfile frontend as a request of ours. Pure.

What has no meaning here is refused where it would change the image, and ignored where it would not: attestations,
`multi-platform`, what newer clients may add.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pybuild.api.entitlements import KNOWN
from pybuild.api.request import BuildRequest, Output, Ulimit
from pybuild.errors import UsageError

FRONTENDS = ("dockerfile.v0", "")
"""Frontends that are built in; with the empty name a client drives one itself, which is ours."""

GATEWAY = "gateway.v0"
DOCKERFILE = "Dockerfile"
LOCAL, INPUT = "local:", "input:"
UPLOADED = "http://buildkit-session/"
"""What a context is called that the client has on its standard input."""

_NETWORKS = {"": "default", "default": "default", "sandbox": "default", "none": "none", "host": "host"}
_EXPORT_KEYS = ("ref", "mode", "compression", "ignore-error")
_PLACES = {"registry": "ref", "local": "src"}
"""What tells one cache from another, by their types."""
_REFUSED = ("cgroup-parent",)


class Asked(NamedTuple):
    """What a client asks of the frontend.

    `context` is the address of the main context, "" for the client's directory `context_name`. The Dockerfile is
    `filename` in `dockerfile_name`, unless that is "": then it is in the context. `named` are local named contexts:
    the client's name for each directory by the name in the Dockerfile. `call` is "" for a build, else what is asked
    about the Dockerfile instead.
    """

    request: BuildRequest
    filename: str = DOCKERFILE
    context: str = ""
    context_name: str = "context"
    dockerfile_name: str = "dockerfile"
    named: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}
    call: str = ""


def asked(
    attributes: Mapping[str, str],
    *,
    imports: Iterable[Mapping[str, Any]] = (),
    exports: Iterable[Mapping[str, Any]] = (),
    allow: Sequence[str] = (),
) -> Asked:
    """Return what the attributes of a solve mean; raise UsageError for those that cannot be meant."""
    for name in _REFUSED:
        if attributes.get(name):
            raise UsageError(f"{name} is not supported: {attributes[name]}")
    context = attributes.get("context", "")
    contexts, named, inputs = _contexts(attributes)
    no_cache = [name.strip() for name in attributes.get("no-cache", "").split(",") if name.strip()]
    request = BuildRequest(
        build_args=_prefixed(attributes, "build-arg:"),
        labels=_prefixed(attributes, "label:"),
        target=attributes.get("target", ""),
        no_cache="no-cache" in attributes and not no_cache,
        no_cache_filter=tuple(no_cache),
        platform=",".join(name.strip() for name in attributes.get("platform", "").split(",") if name.strip()),
        extra_hosts=tuple(_host(item) for item in _words(attributes.get("add-hosts", ""))),
        ulimits=tuple(_ulimit(item) for item in _words(attributes.get("ulimit", ""))),
        shm_size=_size(attributes.get("shm-size", "")),
        network=_network(attributes.get("force-network-mode", "")),
        pull="always" if attributes.get("image-resolve-mode") == "pull" else "missing",
        build_contexts=contexts,
        allow=tuple(name for name in allow if name in KNOWN),
        cache_from=_imports(attributes, imports),
        cache_to=tuple(_export(str(item["Type"]), item["Attrs"]) for item in exports),
    )
    dockerfile_name = attributes.get("dockerfilekey", "") if context else attributes.get("dockerfilekey", "dockerfile")
    return Asked(
        request,
        attributes.get("filename") or DOCKERFILE,
        context,
        attributes.get("contextkey") or "context",
        dockerfile_name,
        named,
        inputs,
        attributes.get("requestid", ""),
    )


def _contexts(attributes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return named contexts that are addresses or images, local ones, and results of other builds."""
    contexts: dict[str, str] = {}
    local: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for key, value in _prefixed(attributes, "context:").items():
        # One for a single platform has that behind its name
        name = key.partition("::")[0]
        if value.startswith(LOCAL):
            local[name] = value.removeprefix(LOCAL)
        elif value.startswith(INPUT):
            inputs[name] = value.removeprefix(INPUT)
        else:
            contexts[name] = value
    return contexts, local, inputs


def _prefixed(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}


def _words(text: str) -> list[str]:
    """Return the values of a list with commas, of which some may be quoted."""
    return [word for row in csv.reader([text]) for word in row if word] if text else []


def _host(text: str) -> str:
    name, equals, address = text.partition("=")
    if not equals:
        raise UsageError(f"not a host with its address in add-hosts: {text}")
    return f"{name}:{address}"


def _ulimit(text: str) -> Ulimit:
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return Ulimit(name, int(soft), int(hard or soft))
    except ValueError as error:
        raise UsageError(f"not a limit in ulimit: {text}") from error


def _size(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"not a size in shm-size: {text}")
    return int(text)


def _network(mode: str) -> str:
    if mode not in _NETWORKS:
        raise UsageError(f"unknown network mode: {mode}", f"known: {', '.join(filter(None, _NETWORKS))}")
    return _NETWORKS[mode]


def _imports(attributes: Mapping[str, str], imports: Iterable[Mapping[str, Any]]) -> tuple[Output, ...]:
    """Return the caches to take results from, each once. Of those that cannot be read the build warns."""
    found = [(str(item.get("Type", "")), dict(item.get("Attrs") or {})) for item in imports]
    if text := attributes.get("cache-imports"):
        try:
            found += [(str(item["Type"]), dict(item.get("Attrs") or {})) for item in json.loads(text)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"malformed attribute: cache-imports: {text:.200}") from error
    found += [("registry", {"ref": name}) for name in attributes.get("cache-from", "").split(",") if name]
    sources: dict[tuple[str, str, str], Output] = {}
    for kind, attrs in found:
        place = str(attrs.get(_PLACES.get(kind, ""), ""))
        if kind == "local":
            digest = str(attrs.get("digest", ""))
            sources[kind, place, digest] = Output(kind, place, {"digest": digest})
        elif place or kind not in _PLACES:
            sources[kind, place, ""] = Output(kind, "", {"ref": place} if place else {})
    return tuple(sources.values())


def _export(kind: str, attributes: Mapping[str, str]) -> Output:
    """Return where results are given to; raise UsageError for what cannot be."""
    if kind == "inline":
        return Output("inline", "")
    if kind not in ("registry", "local"):
        raise UsageError(f"unknown type of a cache to export: {kind}", "known: registry, local, inline")
    kept = {key: value for key, value in attributes.items() if key in _EXPORT_KEYS and value}
    if kind == "local":
        if not attributes.get("dest"):
            raise UsageError("a local cache needs a directory: dest=DIRECTORY")
        return Output("local", attributes["dest"], kept)
    if not attributes.get("ref"):
        raise UsageError("a cache in a registry needs a name: ref=NAME")
    return Output("registry", "", kept)
