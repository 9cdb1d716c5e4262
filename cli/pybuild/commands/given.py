"""What whoever builds gives: `--secret`, `--ssh`, `--allow`, contexts. Every function raises UsageError in one line.

Secrets are read here, by the command, and go along with the request: a daemon reads no file for that.
"""

import os
import stat
from collections.abc import Mapping, Sequence

from pybuild.api.entitlements import KNOWN, device_name
from pybuild.api.request import Agent, Secret
from pybuild.errors import UsageError

MAX_SECRET = 500 << 10
"""Largest secret in bytes, as with docker."""

_AGENT = "SSH_AUTH_SOCK"


def secrets(specs: Sequence[str], environ: Mapping[str, str]) -> dict[str, Secret]:
    """Return the values of `id=ID[,src=FILE|,env=NAME][,type=file|env]` (CSV); the last of an id counts.

    With an id alone the value is the variable of that name, or else the file.
    """
    found: dict[str, Secret] = {}
    for spec in specs:
        fields = _fields(spec)
        name, path, variable = fields.get("id", ""), fields.get("src", ""), fields.get("env", "")
        if not name:
            raise UsageError(f"--secret has no id: {spec}", "write it as `id=NAME,src=FILE`")
        if fields.get("type") == "env" and not variable:
            path, variable = "", path
        if not path and not variable:
            path, variable = ("", name) if name in environ else (name, "")
        if variable:
            # One that is not set gives an empty secret, as with docker
            value = os.fsencode(environ.get(variable, ""))
            if len(value) > MAX_SECRET:
                raise UsageError(f"the secret is over the limit of {MAX_SECRET} bytes: {name}")
        else:
            value = _read(path, name)
        found[name] = Secret(value)
    return found


def _fields(spec: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for item in _csv(spec, "--secret"):
        key, equals, value = item.partition("=")
        key = key.lower()
        if not equals:
            raise UsageError(f"--secret wants KEY=VALUE, not: {item}", "write it as `id=NAME,src=FILE`")
        key = "src" if key == "source" else key
        if key not in ("id", "src", "env", "type"):
            raise UsageError(f"unknown key of --secret: {key}", "known: id, src, env, type")
        if key == "type" and value not in ("file", "env"):
            raise UsageError(f"unknown type of --secret: {value}", "known: file, env")
        fields[key] = value
    return fields


def _csv(text: str, option: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"{option} is KEY=VALUE,... as CSV, not: {text}") from error


def _read(path: str, name: str) -> bytes:
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"cannot read the secret `{name}`: {path}: {error.strerror}") from error
    if len(data) > MAX_SECRET:
        raise UsageError(f"the secret is over the limit of {MAX_SECRET} bytes: {name}")
    return data


def agents(specs: Sequence[str], environ: Mapping[str, str]) -> tuple[Agent, ...]:
    """Return `ID[=PATH[,PATH...]]`: the agent that the environment names, or a socket, or private keys."""
    found: dict[str, Agent] = {}
    for spec in specs:
        name, _, rest = spec.partition("=")
        name = name or "default"
        if name in found:
            raise UsageError(f"--ssh has this id twice: {name}")
        paths = [os.path.abspath(os.path.expanduser(path)) for path in rest.split(",") if path]
        if not paths:
            if not environ.get(_AGENT):
                raise UsageError(
                    f"there is no ssh agent for --ssh: {_AGENT} is not set", "start one, or name a key: `ID=FILE`"
                )
            paths = [os.path.abspath(environ[_AGENT])]
        found[name] = Agent(name, tuple(paths))
        _check(found[name])
    return tuple(found.values())


def _check(agent: Agent) -> None:
    sockets = 0
    for path in agent.paths:
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise UsageError(f"cannot use the file of --ssh: {path}: {error.strerror}") from error
        if stat.S_ISSOCK(mode):
            sockets += 1
        elif not stat.S_ISREG(mode):
            raise UsageError(f"neither a socket nor a key for --ssh: {path}")
    if sockets and len(agent.paths) > 1:
        raise UsageError(f"--ssh takes one socket, or keys alone: {agent.id}")


def contexts(specs: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` of `--build-context`, paths made absolute; the last of a name counts."""
    from pybuild.plan.contexts import IMAGE, LAYOUT, TARGET, key_of

    found: dict[str, str] = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--build-context wants NAME=VALUE, not: {spec}", "write for example `src=../src`")
        if value.startswith(LAYOUT):
            value = LAYOUT + os.path.abspath(value.removeprefix(LAYOUT))
        elif not value.startswith((IMAGE, TARGET)) and not is_remote(value):
            if not os.path.isdir(value):
                raise UsageError(
                    f"the named context is no directory: {name}: {value}",
                    "others begin with https://, docker-image://, oci-layout:// or target:",
                )
            value = os.path.abspath(value)
        found[key_of(name)] = value
    return found


def is_remote(context: str) -> bool:
    """Is a context an address? A directory of that name comes first, as with docker."""
    return (
        context.startswith(("http://", "https://", "git://", "ssh://", "github.com/"))
        or ("@" in context and ":" in context and "/" not in context.partition("@")[0])
    ) and not os.path.isdir(context)


def entitlements(names: Sequence[str]) -> tuple[str, ...]:
    """Return the permissions, checked."""
    for name in names:
        if name not in KNOWN and not _is_device(name):
            raise UsageError(f"unknown permission for --allow: {name}", f"known: {', '.join(KNOWN)}, device=NAME")
    return tuple(names)


def _is_device(text: str) -> bool:
    from pybuild.dockerfile.devices import checked_name
    from pybuild.dockerfile.errors import InvalidValueError

    names = device_name(text)
    for name in filter(None, names or ()):
        try:
            checked_name(name)
        except InvalidValueError as error:
            raise UsageError(f"--allow {text}: {error.message}", error.hint) from error
    return names is not None
