"""Git repositories as layers: what a commit holds is checked out once, and packed for COPY to read.

A cache record names the layer by address, commit and what of it is meant. What was fetched stays as a bare repository
among the cache mounts, so that the next commit is little to fetch.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Lock

import msgspec

from pybuild.api.events import Notice
from pybuild.api.request import BuildRequest
from pybuild.context.local import LocalContext
from pybuild.dockerfile.addresses import redacted
from pybuild.dockerfile.remotes import FULL
from pybuild.engine.remotes import Remotes, header_value
from pybuild.errors import CancelledError
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.oci.digest import Digest, digest_of
from pybuild.plan.ops import RemoteTree
from pybuild.remote import git
from pybuild.remote.errors import GitError
from pybuild.remote.program import Access, RedirectedError
from pybuild.store.blobs import BlobWriter
from pybuild.store.cache import CacheRecord
from pybuild.store.store import Store
from pybuild.tree.entry import DIR, FILE
from pybuild.tree.paths import resolve

_TOKEN, _HEADER = "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"
_DISCOVERY = "/info/refs?service=git-upload-pack"
_LONGEST_SOCKET = 100
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class Repositories:
    """The repositories of a build; each ref is asked for once. May be used from several threads."""

    def __init__(self, store: Store, request: BuildRequest, remotes: Remotes, cancel: Flag) -> None:
        self._store = store
        self._request = request
        self._remotes = remotes
        self._cancel = cancel
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}
        self._layers: dict[tuple[RemoteTree, bool], Digest] = {}

    def layer(self, remote: RemoteTree, *, by_user: bool = False) -> Digest:
        """Return the layer that has the files of `remote` at its root, made if need be.

        What is asked for `by_user` rather than by a Dockerfile may be anywhere. Raises GitError, RemoteError,
        StoreError, CancelledError.
        """
        with self._guard:
            lock = self._locks.setdefault(remote.address, Lock())
        # Those of one address share a bare repository
        with lock:
            known = self._layers.get((remote, by_user))
            if known is None:
                known = self._layers[remote, by_user] = self._layer(remote, by_user)
            return known

    def _layer(self, remote: RemoteTree, by_user: bool) -> Digest:
        wanted = remote.ref or (remote.commit if len(remote.commit) in FULL else "")
        if len(wanted) in FULL and not wanted.strip("0123456789abcdef"):
            _check(remote, git.Found(wanted, "", ""))
            known = self._known(_key(remote, wanted, ""))
            if known is not None:
                return known
            found: git.Found | None = git.Found(wanted, "", "")
        else:
            found = None
        with self._git(remote, by_user) as program:
            address = remote.address
            try:
                return self._make(program, remote, address, wanted, found)
            except RedirectedError as error:
                address = self._moved(by_user, self._headers(address), address)
                if not address:
                    raise error
                return self._make(program, remote, address, wanted, found)

    def _make(self, program: git.Git, remote: RemoteTree, address: str, wanted: str, found: git.Found | None) -> Digest:
        if found is None:
            found = program.look_up(address, wanted)
        _check(remote, found)
        key = _key(remote, found.commit, found.ref)
        known = self._known(key)
        if known is not None:
            return known
        with ExitStack() as stack:
            shown = redacted(git.without_userinfo(address))
            held = stack.enter_context(
                self._store.caches.use(
                    f"g-{digest_of(shown.encode()).removeprefix('sha256:')}",
                    "locked",
                    id=f"git {shown}",
                    target="",
                    make=program.make,
                    discard=lambda path: shutil.rmtree(path, ignore_errors=True),
                    wait=self._wait,
                )
            )
            self._remotes.emit(Notice("info", f"fetching {shown} {found.commit[:12]}"))
            program.fetch(held.path, address, found.commit, held.lock)
            directory = self._store.snapshots.staging()
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            tree = directory / "tree"
            program.check_out(
                held.path,
                found.commit,
                tree,
                address,
                keep=remote.keep_git_dir,
                submodules=remote.submodules,
                ref=found.ref,
            )
            blob = stack.enter_context(self._store.blobs.create())
            packed = _pack(tree, remote, program.time_of(held.path, found.commit), blob)
            blob.commit(packed.diff_id, packed.size)
        self._store.layers.record(packed.diff_id, packed.size, packed.toc)
        description = f"git {shown} {found.commit[:12]}" + (f":{remote.subdir}" if remote.subdir else "")
        self._store.cache.put(key, CacheRecord(packed.diff_id, packed.size, time.time(), description))
        return packed.diff_id

    def _known(self, key: str) -> Digest | None:
        record = self._store.cache.get(key)
        if record is None or record.diff_id is None or not self._store.layers.has(record.diff_id):
            return None
        return record.diff_id

    def _wait(self) -> None:
        if self._cancel.is_set():
            raise CancelledError("the build was cancelled")

    def _moved(self, by_user: bool, headers: Mapping[str, str], address: str) -> str:
        """Return where a server says that a repository is, "" for nowhere else.

        Each host on the way there is looked at. `headers` are those of the whole source: a submodule's host is told
        nothing that is for another one.
        """
        asked = git.without_userinfo(address) + _DISCOVERY
        secret = headers.get(git.origin_of(address), "")
        answer = self._remotes.fetcher(by_user=by_user).fetch(asked, _Nothing(), secret=secret)
        if not answer.url.endswith(_DISCOVERY) or answer.url == asked:
            return ""
        return answer.url.removesuffix(_DISCOVERY)

    @contextmanager
    def _git(self, remote: RemoteTree, by_user: bool) -> Iterator[git.Git]:
        """Give a git that may do what this build may."""
        fetcher = self._remotes.fetcher(by_user=by_user)
        headers = self._headers(remote.address)
        with ExitStack() as stack:
            home = self._store.snapshots.staging()
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            access = Access(
                proxies=fetcher.proxies,
                limit=fetcher.limit,
                follow=fetcher.follow,
                headers=headers,
                trusted=_trusted(self._request.ca_bundle, home),
                agent=self._agent(remote, home, stack),
                known_hosts=[self._store.place.root / "ssh_known_hosts", *_known_hosts()],
                max_size=fetcher.max_size,
                moved=partial(self._moved, by_user, headers),
                cancel=self._cancel,
            )
            yield stack.enter_context(git.Git(home, access))

    def _headers(self, address: str) -> dict[str, str]:
        """Return what secrets and the address say, by origin; BuildKit's names.

        A secret without a host's name is for the host of the address alone.
        """
        found: dict[str, str] = {}
        secrets = self._request.secrets
        for name in secrets:
            for prefix in (_TOKEN, _HEADER):
                if name.startswith(prefix + "."):
                    found[f"https://{name[len(prefix) + 1 :]}"] = self._header(prefix, name)
        if address.startswith(("http://", "https://")):
            origin = git.origin_of(address)
            host = origin.partition("://")[2]
            own = git.basic(address)
            for name in (f"{_HEADER}.{host}", f"{_TOKEN}.{host}", _HEADER, _TOKEN):
                if not own and name in secrets:
                    own = self._header(name.partition(".")[0], name)
            if own:
                found[origin] = own
        return found

    def _header(self, kind: str, name: str) -> str:
        value = header_value(self._request.secrets[name].value, name)
        return git.basic_header("x-access-token", value) if kind == _TOKEN else value

    def _agent(self, remote: RemoteTree, home: Path, stack: ExitStack) -> str:
        """Return the socket of the agent that was given; submodules may need it as well."""
        given = next((agent for agent in self._request.ssh if agent.id == "default"), None)
        if given is None or (remote.scheme != "ssh" and not remote.submodules):
            return ""
        from pybuild.engine.agents import forwarded

        socket = str(stack.enter_context(forwarded(given, self._store, 0o600)))
        if len(os.fsencode(socket)) <= _LONGEST_SOCKET:
            return socket
        # Longer than an address of a socket may be (unix(7)); a link to it need not be
        import tempfile

        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pybuild-"))) / "agent"
        short.symlink_to(socket)
        return str(short)


class _Nothing:
    """A sink for an answer of which only the address counts."""

    def write(self, data: bytes) -> None:
        """See Sink."""

    def restart(self) -> None:
        """See Sink."""


def _check(remote: RemoteTree, found: git.Found) -> None:
    wanted = remote.commit
    if wanted and not found.commit.startswith(wanted) and not found.tag.startswith(wanted):
        raise GitError(
            f"the repository has another commit there than {wanted}: {redacted(remote.address)}: {found.commit}",
            "if the new commit is right, change the checksum",
        )


def _key(remote: RemoteTree, commit: str, ref: str) -> str:
    address = git.without_userinfo(remote.address)
    parts = [address, commit, remote.subdir, remote.keep_git_dir, remote.submodules, ref if remote.keep_git_dir else ""]
    return digest_of(json.dumps(["git", *parts]).encode()).removeprefix("sha256:")


def _pack(checkout: Path, remote: RemoteTree, seconds: int, blob: BlobWriter) -> Packed:
    """Pack the files of a checkout, of which those below `subdir` become the root; all have the commit's time."""
    with LocalContext(checkout) as tree:
        top = resolve(tree, os.fsencode(remote.subdir))
        found = tree.get(top)
        if found is None or found.type != DIR or b".git" in top.split(b"/"):
            raise GitError(f"the repository has no such directory: {redacted(remote.address)}: {remote.subdir}")
        writer = TarWriter(blob.fd)
        skip = len(top) + 1 if top else 0
        for entry in tree.walk(top)[1:]:
            path = entry.path[skip:]
            # No commit can hold this name: it is git's own, at the top or in a submodule
            if not remote.keep_git_dir and b".git" in path.split(b"/"):
                continue
            fd = tree.open(entry.path) if entry.type == FILE else None
            try:
                writer.add(msgspec.structs.replace(entry, path=path, mtime=seconds * 1_000_000_000, digest=b""), fd)
            finally:
                if fd is not None:
                    os.close(fd)
        return writer.finish()


def _trusted(bundle: str, home: Path) -> str:
    """Return a file with the system's certificates and those of the user, "" where there are none of the user's."""
    if not bundle:
        return ""
    import ssl

    path = home / "trusted.pem"
    system = next(
        (name for name in (ssl.get_default_verify_paths().cafile, *_BUNDLES) if name and Path(name).is_file()), ""
    )
    before = Path(system).read_bytes() if system else b""
    path.write_bytes(before + b"\n" + bundle.encode())
    return str(path)


def _known_hosts() -> list[Path]:
    home = os.environ.get("HOME", "")
    return [Path(home) / ".ssh" / "known_hosts"] if os.path.isabs(home) else []
