"""Git repositories, by the system's git: which commit is meant, that commit alone fetched and checked out.

A repository is a stranger's, and so is its server. Git is given a home of its own: no configuration of the user's or
the system's, no hooks, no filters, no credential helpers, four transports. What is secret lies in files in there, never
among its arguments (git-config(1), git(1) "Environment Variables").
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from threading import Event as Flag
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pybuild.errors import CancelledError
from pybuild.remote.addresses import Reach, resolve
from pybuild.remote.errors import GitError
from pybuild.remote.proxies import environment, proxy_for

PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
PROTOCOLS = ":".join(PORTS)
MAX_SUBMODULES = 200
MAX_DEPTH = 8
"""How deep submodules may lie in each other."""

MAX_OUTPUT = 8 << 20
GRACE_SECONDS = 2.0
"""How long git has to tidy up when the build is cancelled."""

_STALL_SECONDS = 60
_POLL = 0.1
_REDIRECTED = re.compile(r"requested URL returned error: 30[12378]")
_SCP = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?([A-Za-z0-9][A-Za-z0-9.-]*):(?!/?-)[^:].*")

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

    `limit` is the nearest reach that may be asked. `headers` are values of Authorization by `scheme://host[:port]`.
    `agent` is the socket of an ssh agent, "" for none; `known_hosts` are files of host keys, the first gets new
    ones. `trusted` is a file of certificates, "" for the system's.
    """

    proxies: Mapping[str, str]
    limit: Reach
    headers: Mapping[str, str]
    trusted: str
    agent: str
    known_hosts: Sequence[Path]
    cancel: Flag


class Found(NamedTuple):
    """What a ref means: the commit, and for an annotated tag the tag's own id, else "". `ref` is its full name."""

    commit: str
    tag: str
    ref: str


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


def origin_of(address: str) -> str:
    """Return `scheme://host[:port]` of a URL, without user and password."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def without_userinfo(address: str) -> str:
    """Return an address over HTTP without user and password; others need their user."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return address
    return f"{origin_of(address)}{parts.path}"


def basic(address: str) -> str:
    """Return the Authorization header that user and password in a URL mean, "" for none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.username:
        return ""
    return basic_header(unquote(parts.username), unquote(parts.password or ""))


def basic_header(user: str, password: str) -> str:
    """Return the value of an Authorization header (RFC 7617)."""
    from base64 import b64encode

    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class Git:
    """Git with a home of its own, an empty private directory of the caller's. Use it with `with`."""

    def __init__(self, home: Path, access: Access) -> None:
        """Raise GitError when git is not there."""
        self._program = find_git()
        self._home = home
        self._access = access
        self._checked: set[tuple[str, int]] = set()
        self._config = [_CONFIG]
        if access.trusted:
            self._config.append(f"[http]\n    sslCAInfo = {_quoted(access.trusted)}\n")
        self._secret = -1
        if access.headers:
            # Neither in the environment nor on a disk: whoever kills us leaves nothing behind
            self._secret = os.memfd_create("git", os.MFD_CLOEXEC)
            os.write(self._secret, "".join(_header(*item) for item in access.headers.items()).encode())
            self._config.append(f"[include]\n    path = /proc/self/fd/{self._secret}\n")
        files = " ".join(f'"{path}"' for path in access.known_hosts)
        agent = f'IdentityAgent "{access.agent}"' if access.agent else "IdentityAgent none"
        (home / "ssh_config").write_text(f"{_SSH_CONFIG}UserKnownHostsFile {files or 'none'}\n{agent}\n")
        self._write_config()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._secret >= 0:
            os.close(self._secret)

    def _write_config(self) -> None:
        (self._home / ".gitconfig").write_text("".join(self._config))

    # What is asked of servers

    def allow(self, address: str) -> None:
        """Check that the host of `address` may be reached, and hold git to what was found (HTTP only)."""
        scheme, host, port = _target(address)
        if (host, port) in self._checked:
            return
        self._checked.add((host, port))
        is_http = scheme in ("http", "https")
        if is_http and proxy_for(scheme, host, port, self._access.proxies):
            return
        _, found = resolve(host, port, self._access.limit)
        if is_http:
            # Else the name could mean another address by the time it is connected to
            texts = [str(address[0]).partition("%")[0] for _, address in found]
            entry = f"{host}:{port}:{','.join(f'[{text}]' if ':' in text else text for text in dict.fromkeys(texts))}"
            if ":" not in host:
                self._config.append(f"[http]\n    curloptResolve = {_quoted(entry)}\n")
                self._write_config()

    def look_up(self, address: str, ref: str) -> Found:
        """Return the commit that `ref` ("" for HEAD) is at the server now; raise GitError, AddressError."""
        self.allow(address)
        names = _candidates(ref)
        patterns = [pattern for name in names for pattern in (name, name + "^{}")]
        out = self.run(["ls-remote", "--quiet", "--", without_userinfo(address), *patterns], of=address)
        lines = [line.partition("\t") for line in out.decode(errors="replace").split("\n")]
        found = {name: identity for identity, _, name in lines}
        for name in names:
            own = found.get(name, "")
            if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", own):
                peeled = found.get(name + "^{}", "")
                return Found(peeled or own, own if peeled else "", name)
        raise GitError(f"the repository has no such branch, tag or commit: {_shown(address)}: {ref or 'HEAD'}")

    def make(self, bare: Path) -> None:
        """Make the new bare repository that `fetch` fetches into."""
        self.run(["init", "--quiet", "--bare", "--", str(bare)])

    def fetch(self, bare: Path, address: str, commit: str, lock: int) -> None:
        """Have `commit` in `bare`, whose `lock` is held as long as git runs; raise GitError."""
        if self._has(bare, commit):
            return
        _tidy(bare)
        self.allow(address)
        own = [f"--git-dir={bare}", "fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"]
        remote = without_userinfo(address)
        try:
            self.run([*own, "--depth=1", "--", remote, f"{commit}:refs/pybuild/{commit}"], of=address, held=(lock,))
        except RedirectedError:
            raise
        except GitError as error:
            if "not our ref" not in error.message and "unadvertised" not in error.message:
                raise
            # An old or a strict server gives what has a name only
            whole = ["--unshallow"] if (bare / "shallow").exists() else []
            heads = ["refs/heads/*:refs/pybuild/heads/*", "refs/tags/*:refs/pybuild/tags/*"]
            self.run([*own, *whole, "--", remote, *heads], of=address, held=(lock,))
        if not self._has(bare, commit):
            raise GitError(f"the repository has no such commit: {_shown(address)}: {commit}")

    def _has(self, bare: Path, commit: str) -> bool:
        try:
            self.run([f"--git-dir={bare}", "cat-file", "-e", f"{commit}^{{commit}}"])
        except GitError:
            return False
        return True

    # What is made of it

    def time_of(self, bare: Path, commit: str) -> int:
        """Return when a commit was made, in seconds since the epoch."""
        out = self.run([f"--git-dir={bare}", "show", "--no-patch", "--no-notes", "--format=%ct", commit, "--"])
        text = out.decode().strip()
        return int(text) if text.isdigit() else 0

    def check_out(
        self, bare: Path, commit: str, directory: Path, address: str, *, keep: bool, submodules: bool, ref: str = ""
    ) -> None:
        """Make the files of `commit` in the new `directory`, where `.git` is complete with `keep`; raise GitError."""
        self.run(["init", "--quiet", "--", str(directory)])
        if keep:
            local = {"GIT_ALLOW_PROTOCOL": "file"}
            fetch = ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-shallow", "--no-write-fetch-head"]
            self.run([*fetch, "--", str(bare), commit], at=directory, env=local)
            if ref.startswith(("refs/heads/", "refs/tags/")):
                self.run(["update-ref", "--", ref, commit], at=directory)
        else:
            git_dir = directory / ".git"
            (git_dir / "objects" / "info" / "alternates").write_text(f"{bare}/objects\n")
            if (bare / "shallow").exists():
                shutil.copyfile(bare / "shallow", git_dir / "shallow")
        self.run(["config", "remote.origin.url", without_userinfo(address)], at=directory)
        self.run(["checkout", "--quiet", "--detach", commit, "--"], at=directory)
        if submodules:
            self._count = 0
            self._submodules(directory, MAX_DEPTH)

    def _submodules(self, directory: Path, depth: int) -> None:
        """Check out the submodules of a checkout, one level at a time: each address is looked at before it is used."""
        listing = directory / ".gitmodules"
        if not os.path.lexists(listing):
            return
        if listing.is_symlink() or not listing.is_file():
            raise GitError("the list of submodules in the repository is no regular file: .gitmodules")
        paths = self._settings(directory, ["--file", ".gitmodules"], "path")
        self._count += len(paths)
        if depth == 0 or self._count > MAX_SUBMODULES:
            raise GitError("the repository has too many submodules, or too many inside of each other")
        for path in paths:
            if any(ord(char) < 32 or ord(char) == 127 for char in path) or path.startswith(("-", "/")):
                raise GitError(f"a submodule has a path that cannot be meant: {path!r:.200}")
        self.run(["submodule", "--quiet", "init"], at=directory)
        for address in self._settings(directory, ["--local"], "url"):
            self.allow(address)
        self.run(["submodule", "--quiet", "update", "--depth=1"], at=directory)
        for path in paths:
            inner = directory / path
            if os.path.lexists(inner / ".git") and Path(os.path.realpath(inner)) == directory.resolve() / path:
                self._submodules(inner, depth - 1)

    def _settings(self, directory: Path, where: list[str], name: str) -> list[str]:
        pattern = rf"^submodule\..*\.{name}$"
        out = self.run(["config", *where, "--null", "--get-regexp", pattern], at=directory, fails=(1,))
        return [entry.partition("\n")[2] for entry in out.decode(errors="surrogateescape").split("\0") if entry]

    # Running it

    def run(
        self,
        arguments: Sequence[str],
        *,
        at: Path | None = None,
        of: str = "",
        env: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
        fails: Sequence[int] = (),
    ) -> bytes:
        """Return what git prints; a status of `fails` is well too.

        Raises GitError, RedirectedError, CancelledError. `of` is the address that is asked.
        """
        if self._access.cancel.is_set():
            raise CancelledError("the build was cancelled")
        process = subprocess.Popen(
            [self._program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=at or self._home,
            env={**self._environment(), **(env or {})},
            pass_fds=(*held, *([self._secret] if self._secret >= 0 else [])),
            start_new_session=True,
            umask=0o022,
        )
        try:
            out, told = self._output(process)
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
            **environment(self._access.proxies),
            "PATH": _search_path(),
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": PROTOCOLS,
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_SSH_VARIANT": "ssh",
            "GIT_SSH_COMMAND": f"ssh -F {shlex.quote(str(self._home / 'ssh_config'))}",
            "SSH_ASKPASS_REQUIRE": "never",
        }

    def _output(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
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
        return bytes(out), bytes(told)

    def _failure(self, told: str, arguments: Sequence[str], address: str) -> GitError:
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        marked = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR"))]
        reason = (marked or lines or ["it did not say why"])[0].removeprefix("fatal: ").removeprefix("error: ")[:300]
        command = next(word for word in arguments if not word.startswith("-"))
        what = f"git {command} failed" + (f": {_shown(address)}" if address else "")
        kind = RedirectedError if _REDIRECTED.search(told) else GitError
        return kind(f"{what}: {reason}", _hint(told))


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


def _candidates(ref: str) -> list[str]:
    """Return the full names a ref may stand for, the best first: branches come before tags, as with git checkout."""
    if not ref or ref == "HEAD":
        return ["HEAD"]
    if ref.startswith("refs/"):
        return [ref]
    return [f"refs/{ref}", f"refs/heads/{ref}", f"refs/tags/{ref}"]


def _target(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; raise GitError for one that git would not fetch over a network."""
    if "://" in address:
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = -1
        host = parts.hostname or ""
        if parts.scheme in PORTS and host and not host.startswith("-") and port != -1:
            return parts.scheme, host, port or PORTS[parts.scheme]
    elif "::" not in address and (match := _SCP.fullmatch(address)):
        return "ssh", match[1], PORTS["ssh"]
    raise GitError(
        f"not the address of a repository that may be fetched: {_shown(address)}",
        "repositories come by https, http, ssh or git",
    )


def _shown(address: str) -> str:
    from pybuild.dockerfile.addresses import redacted

    return redacted(address)[:300]


def _quoted(text: str) -> str:
    """Return a value as git's configuration files have it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _header(origin: str, value: str) -> str:
    return f"[http {_quoted(origin + '/')}]\n    extraHeader = {_quoted(f'Authorization: {value}')}\n"


def _tidy(bare: Path) -> None:
    """Remove what a git that was killed left: nobody else is in there, as the lock is held."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/*/tmp_obj_*"):
        for path in bare.glob(pattern):
            path.unlink(missing_ok=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End git with the programs it started, which may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()
