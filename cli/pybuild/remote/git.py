"""Git repositories: which commit is meant, that commit alone fetched and checked out, its submodules with it."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pybuild.remote.addresses import Bounds, judge_literal, resolve
from pybuild.remote.errors import GitError
from pybuild.remote.program import Access, Program, RedirectedError, shown
from pybuild.remote.proxies import proxy_for

PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
MAX_SUBMODULES = 200
MAX_DEPTH = 8
"""How deep submodules may lie in each other."""

# Narrow, so that nobody who reads such an address can see another host in it (RFC 3986, 3.2)
_URL = re.compile(
    r"(https?|ssh|git)://(?:[A-Za-z0-9_.~!$&'()*+,;=:%-]*@)?"
    r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/(?!-)[^\x00-\x20\x7f\\]*)?"
)
_SCP = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?([A-Za-z0-9][A-Za-z0-9.-]*):(?!/?-)[^:].*")


class Found(NamedTuple):
    """What a ref means: the commit, and for an annotated tag the tag's own id, else "". `ref` is its full name."""

    commit: str
    tag: str
    ref: str


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
    """Git for one source, in an empty private directory `home` of the caller's. Use it with `with`."""

    def __init__(self, home: Path, access: Access) -> None:
        """Raise GitError when git is not there."""
        self._access = access
        self._program = Program(home, access)
        self._bounds = Bounds(access.limit, access.follow)
        self._judged: set[tuple[str, int]] = set()
        self._submodules_seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.close()

    # What is asked of servers

    def allow(self, address: str) -> None:
        """Check that the host of `address` may be reached, and hold git to what was found (HTTP only)."""
        scheme, host, port = _target(address)
        if (host, port) in self._judged:
            return
        self._judged.add((host, port))
        is_http = scheme in ("http", "https")
        # The decision is ours alone: git has other rules of what goes without a proxy
        proxy = proxy_for(scheme, host, port, self._access.proxies) if is_http else ""
        if is_http:
            self._program.configure("http", origin_of(address) + "/", "proxy", proxy)
        if proxy:
            # It looks names up itself; an address is one we know
            self._bounds.arrive(judge_literal(host, self._bounds.limit))
            return
        reach, found = resolve(host, port, self._bounds.limit)
        self._bounds.arrive(reach)
        if is_http and ":" not in host:
            # Else the name could mean another address by the time it is connected to
            texts = dict.fromkeys(str(address[0]).partition("%")[0] for _, address in found)
            pinned = ",".join(f"[{text}]" if ":" in text else text for text in texts)
            self._program.configure("http", "", "curloptResolve", f"{host}:{port}:{pinned}")

    def look_up(self, address: str, ref: str) -> Found:
        """Return the commit that `ref` ("" for HEAD) is at the server now; raise GitError, AddressError."""
        self.allow(address)
        names = _candidates(ref)
        patterns = [pattern for name in names for pattern in (name, name + "^{}")]
        out = self._program.run(["ls-remote", "--quiet", "--", without_userinfo(address), *patterns], of=address)
        lines = [line.partition("\t") for line in out.decode(errors="replace").split("\n")]
        found = {name: identity for identity, _, name in lines}
        for name in names:
            own = found.get(name, "")
            if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", own):
                peeled = found.get(name + "^{}", "")
                return Found(peeled or own, own if peeled else "", name)
        raise GitError(f"the repository has no such branch, tag or commit: {shown(address)}: {ref or 'HEAD'}")

    def make(self, bare: Path) -> None:
        """Make the new bare repository that `fetch` fetches into."""
        self._program.run(["init", "--quiet", "--bare", "--", str(bare)])

    def fetch(self, bare: Path, address: str, commit: str, lock: int) -> None:
        """Have `commit` in `bare`, whose `lock` is held as long as git runs; raise GitError."""
        if self._has(bare, commit):
            return
        _tidy(bare)
        self.allow(address)
        own = [f"--git-dir={bare}", "fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"]
        remote = without_userinfo(address)
        try:
            self._program.run(
                [*own, "--depth=1", "--", remote, f"{commit}:refs/pybuild/{commit}"],
                of=address,
                held=(lock,),
                grows=bare,
            )
        except RedirectedError:
            raise
        except GitError as error:
            if "not our ref" not in error.message and "unadvertised" not in error.message:
                raise
            # An old or a strict server gives what has a name only
            whole = ["--unshallow"] if (bare / "shallow").exists() else []
            heads = ["refs/heads/*:refs/pybuild/heads/*", "refs/tags/*:refs/pybuild/tags/*"]
            self._program.run([*own, *whole, "--", remote, *heads], of=address, held=(lock,), grows=bare)
        if not self._has(bare, commit):
            raise GitError(f"the repository has no such commit: {shown(address)}: {commit}")

    def _has(self, bare: Path, commit: str) -> bool:
        try:
            self._program.run([f"--git-dir={bare}", "cat-file", "-e", f"{commit}^{{commit}}"])
        except GitError:
            return False
        return True

    # What is made of it

    def time_of(self, bare: Path, commit: str) -> int:
        """Return when a commit was made, in seconds since the epoch."""
        out = self._program.run([f"--git-dir={bare}", "show", "--no-patch", "--no-notes", "--format=%ct", commit, "--"])
        text = out.decode().strip()
        return int(text) if text.isdigit() else 0

    def check_out(
        self, bare: Path, commit: str, directory: Path, address: str, *, keep: bool, submodules: bool, ref: str = ""
    ) -> None:
        """Make the files of `commit` in the new `directory`, where `.git` is complete with `keep`; raise GitError."""
        self._program.run(["init", "--quiet", "--", str(directory)])
        if keep:
            local = {"GIT_ALLOW_PROTOCOL": "file"}
            fetch = ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-shallow", "--no-write-fetch-head"]
            self._program.run([*fetch, "--", str(bare), commit], at=directory, env=local)
            if ref.startswith(("refs/heads/", "refs/tags/")):
                self._program.run(["update-ref", "--", ref, commit], at=directory)
        else:
            git_dir = directory / ".git"
            (git_dir / "objects" / "info" / "alternates").write_text(f"{bare}/objects\n")
            if (bare / "shallow").exists():
                shutil.copyfile(bare / "shallow", git_dir / "shallow")
        self._program.run(["config", "remote.origin.url", without_userinfo(address)], at=directory)
        self._program.run(["checkout", "--quiet", "--detach", commit, "--"], at=directory, grows=directory)
        if submodules:
            self._submodules(directory, MAX_DEPTH)

    def _submodules(self, directory: Path, depth: int) -> None:
        """Check out the submodules of a checkout, one level at a time: each address is looked at before it is used."""
        listing = directory / ".gitmodules"
        if not os.path.lexists(listing):
            return
        if listing.is_symlink() or not listing.is_file():
            raise GitError("the list of submodules in the repository is no regular file: .gitmodules")
        paths = self._settings(directory, ["--file", ".gitmodules"], "path")
        self._submodules_seen += len(paths)
        if depth == 0 or self._submodules_seen > MAX_SUBMODULES:
            raise GitError("the repository has too many submodules, or too many inside of each other")
        for path in paths:
            if any(ord(char) < 32 or ord(char) == 127 for char in path) or path.startswith(("-", "/")):
                raise GitError(f"a submodule has a path that cannot be meant: {path!r:.200}")
        self._program.run(["submodule", "--quiet", "init"], at=directory)
        addresses = self._settings(directory, ["--local"], "url")
        for address in addresses:
            self.allow(address)
        update = ["submodule", "--quiet", "update", "--depth=1"]
        try:
            self._program.run(update, at=directory, grows=directory)
        except RedirectedError:
            followed = [address for address in addresses if self._follow(address)]
            if not followed:
                raise
            self._program.run(update, at=directory, grows=directory)
        for path in paths:
            inner = directory / path
            if os.path.lexists(inner / ".git") and Path(os.path.realpath(inner)) == directory.resolve() / path:
                self._submodules(inner, depth - 1)

    def _follow(self, address: str) -> bool:
        """Let git take an address for where its server says that the repository is; tell whether it says so."""
        moved = self._access.moved(address) if address.startswith(("http://", "https://")) else ""
        if moved:
            self.allow(moved)
            self._program.configure("url", moved, "insteadOf", address)
        return bool(moved)

    def _settings(self, directory: Path, where: list[str], name: str) -> list[str]:
        pattern = rf"^submodule\..*\.{name}$"
        out = self._program.run(["config", *where, "--null", "--get-regexp", pattern], at=directory, fails=(1,))
        return [entry.partition("\n")[2] for entry in out.decode(errors="surrogateescape").split("\0") if entry]


def _candidates(ref: str) -> list[str]:
    """Return the full names a ref may stand for, the best first: branches come before tags, as with git checkout."""
    if not ref or ref == "HEAD":
        return ["HEAD"]
    if ref.startswith("refs/"):
        return [ref]
    return [f"refs/{ref}", f"refs/heads/{ref}", f"refs/tags/{ref}"]


def _target(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; raise GitError for one that git would not fetch over a network."""
    if match := _URL.fullmatch(address):
        scheme, host, port = match[1], match[2].strip("[]"), int(match[3] or 0)
        return scheme, host, port or PORTS[scheme]
    if "://" not in address and "::" not in address and (match := _SCP.fullmatch(address)):
        return "ssh", match[1], PORTS["ssh"]
    raise GitError(
        f"not the address of a repository that may be fetched: {shown(address)}",
        "repositories come by https, http, ssh or git",
    )


def _tidy(bare: Path) -> None:
    """Remove what a git that was killed left: nobody else is in there, as the lock is held."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/*/tmp_obj_*"):
        for path in bare.glob(pattern):
            path.unlink(missing_ok=True)
