"""Which machine's daemon is asked: addresses of `--host` and PYBUILD_HOST, and names for them in the settings.

An address goes into the command line of ssh, so what it may hold is little, and nothing begins with a dash.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pybuild.errors import UsageError

VARIABLE = "PYBUILD_HOST"
CERTIFICATES = "PYBUILD_CERT_PATH"
"""A directory with ca.pem, cert.pem and key.pem, as DOCKER_CERT_PATH is."""

KEYS = ("url", "ca", "cert", "key", "command")

_PLAIN_PORT, _TLS_PORT = 2375, 2376
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\$?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_FORMS = "ssh://[USER@]MACHINE[:PORT][/SOCKET], tcp://MACHINE[:PORT] or unix:///SOCKET"


class Host(NamedTuple):
    """A daemon somewhere. `scheme` is ssh, tcp or unix; `port` 0 is the usual one, `path` that of its socket or "".

    `ca`, `cert` and `key` are paths of PEM files for TLS, all "" without it. `command` is what pybuild is called there.
    """

    name: str
    scheme: str
    machine: str = ""
    port: int = 0
    user: str = ""
    path: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    command: str = "pybuild"

    @property
    def url(self) -> str:
        """The address, as people write it."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        machine = f"[{self.machine}]" if ":" in self.machine else self.machine
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{machine}{port}{self.path}"

    @property
    def loopback(self) -> bool:
        """Is it surely this machine?"""
        return is_loopback(self.machine)


def is_loopback(machine: str) -> bool:
    """Is a name or address that of the machine itself? Names are not looked up."""
    import ipaddress

    if machine.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(machine).is_loopback
    except ValueError:
        return False


def chosen() -> Host | None:
    """Return the daemon that PYBUILD_HOST names, None for that of this user and machine; raise UsageError."""
    text = os.environ.get(VARIABLE, "").strip()
    return find(text) if text else None


def find(text: str) -> Host:
    """Return the daemon of an address or a name of the settings; raise UsageError."""
    if "://" in text:
        return _with_certificates(parse(text, text))
    known = configured()
    if text not in known:
        names = ", ".join(sorted(known))
        raise UsageError(
            f"no such host: {text}", f"known: {names}" if names else f"write {_FORMS}, or name it in the configuration"
        )
    return known[text]


def configured() -> dict[str, Host]:
    """Return the hosts of the settings, by name: tables `[hosts.NAME]` with `url`, and what is said of it."""
    from pybuild.engine.paths import config

    tables = config().get("hosts", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError("`hosts` of the configuration is not made of tables", "write `[hosts.NAME]`")
    return {name: _from_table(name, table) for name, table in tables.items()}


def _from_table(name: str, table: Mapping[str, Any]) -> Host:
    where = f"[hosts.{name}] of the configuration"
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise UsageError(f"unknown key in {where}: {unknown[0]}", f"known: {', '.join(KEYS)}")
    wrong = [key for key, value in table.items() if not isinstance(value, str)]
    if wrong or not table.get("url"):
        raise UsageError(f"{where} wants text: {(wrong or ['url'])[0]}", f"`url` is {_FORMS}")
    host = parse(str(table["url"]), name)
    files = {key: os.path.expanduser(str(table.get(key, ""))) for key in ("ca", "cert", "key")}
    command = str(table.get("command", "")) or host.command
    if any(files.values()) and host.scheme != "tcp":
        raise UsageError(f"{where} has certificates, which only tcp:// takes: {host.url}")
    return _checked(_with_port(host._replace(ca=files["ca"], cert=files["cert"], key=files["key"], command=command)))


def _with_certificates(host: Host) -> Host:
    """Return a host of the command line with the certificates that the environment names."""
    directory = os.environ.get(CERTIFICATES, "")
    if host.scheme == "tcp" and directory:
        ca, cert, key = (os.path.join(directory, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        host = host._replace(ca=ca, cert=cert, key=key)
    return _checked(_with_port(host))


def _with_port(host: Host) -> Host:
    if host.scheme != "tcp" or host.port:
        return host
    return host._replace(port=_TLS_PORT if host.ca else _PLAIN_PORT)


def _checked(host: Host) -> Host:
    given = [bool(path) for path in (host.ca, host.cert, host.key)]
    if any(given) and not all(given):
        raise UsageError(f"TLS takes ca, cert and key together: {host.name}")
    if host.scheme == "tcp" and not any(given) and not host.loopback:
        raise UsageError(
            f"another machine is not asked without TLS: {host.url}",
            f"give `ca`, `cert` and `key` in [hosts.NAME], or {CERTIFICATES}; or use ssh://",
        )
    return host


def parse(text: str, name: str) -> Host:
    """Return what an address says, without certificates; raise UsageError.

    Nothing is percent-decoded: no part that is allowed needs it.
    """
    scheme, _, rest = text.partition("://")
    if not rest.isprintable() or not rest.isascii() or any(sign in rest for sign in "?#%\\ \"'"):
        raise _malformed(text)
    if scheme == "unix":
        if not rest.startswith("/"):
            raise UsageError(f"the path of a socket is absolute: {text}", "write `unix:///run/user/1000/...`")
        return Host(name, "unix", path=rest)
    if scheme not in ("ssh", "tcp"):
        raise UsageError(f"unknown kind of host: {text}", f"write {_FORMS}")
    place, slash, path = rest.partition("/")
    user, at, machine = place.rpartition("@")
    if ":" in user:
        raise UsageError("the address of a host holds a password, which everybody can see", "use a key of ssh's")
    machine, port = _machine_and_port(machine, text)
    if (at and (scheme == "tcp" or not _USER.fullmatch(user))) or (path and scheme == "tcp"):
        raise _malformed(text)
    return Host(name, scheme, machine, port, user, slash + path if path else "")


def _machine_and_port(text: str, whole: str) -> tuple[str, int]:
    if text.startswith("["):
        machine, bracket, rest = text[1:].partition("]")
        good = bool(bracket) and bool(_IPV6.fullmatch(machine)) and rest[:1] in ("", ":")
        port = rest[1:]
        good = good and (bool(port) or not rest)
    else:
        machine, colon, port = text.partition(":")
        good = bool(_NAME.fullmatch(machine)) and bool(port or not colon)
    if not good or (port and not (port.isdigit() and 0 < int(port[:6]) < 65536)):
        raise _malformed(whole)
    return machine, int(port or 0)


def _malformed(text: str) -> UsageError:
    return UsageError(f"not the address of a host: {text}", f"write {_FORMS}")
