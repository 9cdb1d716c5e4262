"""The system's git, run with a home of its own.

A repository is a stranger's, and so is its server. Git gets no configuration of the user's or the system's, no hooks,
no filters, no credential helpers, four transports. What is secret lies in a file in memory, never among its arguments
(git-config(1), git(1) "Environment Variables").
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from threading import Event as Flag
from typing import NamedTuple

from pybuild.dockerfile.addresses import redacted
from pybuild.errors import CancelledError
from pybuild.remote.addresses import Reach
from pybuild.remote.errors import GitError

PROTOCOLS = "https:http:ssh:git"
MAX_OUTPUT = 8 << 20
GRACE_SECONDS = 2.0
"""How long git has to tidy up when the build is cancelled."""

_STALL_SECONDS = 60
_POLL = 0.1
_LOOK_SECONDS = 1.0
_REDIRECTED = re.compile(r"requested URL returned error: 30[12378]")

_CONFIG = f"""\
[core]
    hooksPath = /dev/null
    fsmonitor = false
    autocrlf = false
    askPass = ""
[init]
    templateDir = ""
    defaultBranch = main
[gc]
    auto = 0
[maintenance]
    auto = false
[advice]
    detachedHead = false
[credential]
    helper = ""
[protocol]
    allow = never
[protocol "https"]
    allow = always
[protocol "http"]
    allow = always
[protocol "ssh"]
    allow = always
[protocol "git"]
    allow = always
[fetch]
    recurseSubmodules = false
[submodule]
    recurse = false
[uploadpack]
    allowAnySHA1InWant = true
[http]
    followRedirects = false
    lowSpeedLimit = 1
    lowSpeedTime = {_STALL_SECONDS}
"""

_SSH_CONFIG = """\
BatchMode yes
StrictHostKeyChecking accept-new
ConnectTimeout 20
ServerAliveInterval 15
ServerAliveCountMax 4
IdentityFile none
ForwardAgent no
ForwardX11 no
PermitLocalCommand no
ControlPath none
UpdateHostKeys no
"""


class Access(NamedTuple):
    """How git reaches servers.

    `limit` and `follow` are as in `addresses.Bounds`. `headers` are values of Authorization by `scheme://host[:port]`.
    `agent` is the socket of an ssh agent, "" for none; `known_hosts` are files of host keys, the first gets new
    ones. `trusted` is a file of certificates, "" for the system's. `max_size` is in bytes.
    `moved` returns where a server says that a repository is, "" for nowhere else: git itself follows no redirect, as it
    would take the repository's secret along.
    """

    proxies: Mapping[str, str]
    limit: Reach
    follow: Reach | None
    headers: Mapping[str, str]
    trusted: str
    agent: str
    known_hosts: Sequence[Path]
    max_size: int
    moved: Callable[[str], str]
    cancel: Flag


class RedirectedError(GitError):
    """The server says that the repository is elsewhere."""


def find_git() -> str:
    """Return the path of git; raise GitError when it is not installed."""
    found = shutil.which("git", path=_search_path())
    if found is None:
        raise GitError("git is not installed, and a repository is to be fetched", "install the package `git`")
    return found


def _search_path() -> str:
    """Return PATH without what is relative: the working directory is a build context as a rule."""
    return os.pathsep.join(part for part in os.get_exec_path() if os.path.isabs(part))


class Program:
    """Git in its home, until `close`."""

    def __init__(self, home: Path, access: Access) -> None:
        """Raise GitError when git is not there."""
        self._path = find_git()
        self._home = home
        self._access = access
        # Neither in the environment nor on a disk: whoever kills us leaves nothing behind
        self._config = os.memfd_create("git", os.MFD_CLOEXEC)
        (home / ".gitconfig").write_text(f"{_CONFIG}[include]\n    path = /proc/self/fd/{self._config}\n")
        if access.trusted:
            self.configure("http", "", "sslCAInfo", access.trusted)
        for origin, header in access.headers.items():
            value = header.encode("latin-1", errors="replace").decode(errors="surrogateescape")
            self.configure("http", origin + "/", "extraHeader", f"Authorization: {value}")
        # ssh_config(5), TOKENS
        files = " ".join(f'"{path}"' for path in access.known_hosts).replace("%", "%%")
        agent = f'IdentityAgent "{access.agent}"'.replace("%", "%%") if access.agent else "IdentityAgent none"
        (home / "ssh_config").write_text(f"{_SSH_CONFIG}UserKnownHostsFile {files or 'none'}\n{agent}\n")

    def close(self) -> None:
        """Forget the configuration."""
        os.close(self._config)

    def configure(self, section: str, part: str, name: str, value: str) -> None:
        """Set a variable for what runs from now on; `part` is the subsection, "" for none."""
        head = f"{section} {_quoted(part)}" if part else section
        os.write(self._config, f"[{head}]\n    {name} = {_quoted(value)}\n".encode(errors="surrogateescape"))

    def run(
        self,
        arguments: Sequence[str],
        *,
        at: Path | None = None,
        of: str = "",
        env: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
        fails: Sequence[int] = (),
        grows: Path | None = None,
    ) -> bytes:
        """Return what git prints; a status of `fails` is well too.

        Raises GitError, RedirectedError, CancelledError. `of` is the address that is asked, `grows` a directory that
        may not become larger by more than the limit.
        """
        if self._access.cancel.is_set():
            raise CancelledError("the build was cancelled")
        growth = _Growth(grows, self._access.max_size)
        process = subprocess.Popen(
            [self._path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=at or self._home,
            env={**self._environment(), **(env or {})},
            pass_fds=(*held, self._config),
            start_new_session=True,
            umask=0o022,
        )
        try:
            out, told = self._output(process, growth)
        except BaseException:
            _end(process)
            raise
        finally:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if process.returncode and process.returncode not in fails:
            raise self._failure(told.decode(errors="replace"), arguments, of)
        return out

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": _search_path(),
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": PROTOCOLS,
            "GIT_SSH_VARIANT": "ssh",
            "GIT_SSH_COMMAND": f"ssh -F {shlex.quote(str(self._home / 'ssh_config'))}",
            "SSH_ASKPASS_REQUIRE": "never",
        }

    def _output(self, process: "subprocess.Popen[bytes]", growth: "_Growth") -> tuple[bytes, bytes]:
        """Wait for the end; return the output, and the last of what it said beside."""
        out, told = bytearray(), bytearray()
        assert process.stdout is not None
        assert process.stderr is not None
        with DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ, out)
            selector.register(process.stderr, EVENT_READ, told)
            while selector.get_map():
                if self._access.cancel.is_set():
                    raise CancelledError("the build was cancelled")
                growth.look()
                for key, _ in selector.select(_POLL):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                    if key.data is told:
                        del told[:-65536]
                    elif len(out) > MAX_OUTPUT:
                        raise GitError(f"git printed more than {MAX_OUTPUT} bytes")
        process.wait()
        growth.look(at_end=True)
        return bytes(out), bytes(told)

    def _failure(self, told: str, arguments: Sequence[str], address: str) -> GitError:
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        marked = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR"))]
        reason = (marked or lines or ["it did not say why"])[0].removeprefix("fatal: ").removeprefix("error: ")[:300]
        command = next(word for word in arguments if not word.startswith("-"))
        what = f"git {command} failed" + (f": {shown(address)}" if address else "")
        kind = RedirectedError if _REDIRECTED.search(told) else GitError
        return kind(f"{what}: {reason}", _hint(told))


class _Growth:
    """Watches a directory that git writes to, now and then."""

    def __init__(self, directory: Path | None, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._before = _size_of(directory) if directory is not None else 0
        self._next = time.monotonic() + _LOOK_SECONDS

    def look(self, *, at_end: bool = False) -> None:
        """Raise GitError when the directory has grown too large."""
        if self._directory is None or (not at_end and time.monotonic() < self._next):
            return
        begun = time.monotonic()
        if _size_of(self._directory) - self._before > self._limit:
            raise GitError(f"the repository is over the limit of {self._limit} bytes", "`--max-download` raises it")
        # A large tree is not to be looked at all the time
        now = time.monotonic()
        self._next = now + max(_LOOK_SECONDS, 10 * (now - begun))


def _size_of(directory: Path) -> int:
    """Return the bytes of all files in a directory, as far as they stay."""
    total = 0
    pending = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            # Git renames and removes what it writes
            continue
    return total


def _hint(told: str) -> str:
    lowered = told.lower()
    if "terminal prompts disabled" in lowered or "authentication failed" in lowered or "error: 403" in lowered:
        return "a secret gives access: `--secret id=GIT_AUTH_TOKEN,env=...`"
    if "permission denied (" in lowered or "could not read from remote" in lowered:
        return "`--ssh default` lets git use your ssh agent"
    if "not allowed" in lowered and "transport" in lowered:
        return "repositories come by https, http, ssh or git"
    if "certificate" in lowered:
        return "`--ca-bundle FILE` names certificates to trust besides the system's"
    return ""


def shown(address: str) -> str:
    """Return an address as messages have it."""
    return redacted(address)[:300]


def _quoted(text: str) -> str:
    """Return a value as git's configuration files have it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End git with the programs it started, which may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()
