"""`RUN --mount=type=ssh`: a socket through which a RUN may list keys and sign, and nothing else.

Messages are those of draft-ietf-sshm-ssh-agent, section 3: a length of four bytes, a type of one byte, the content.
Whatever would change the agent, lock it or reach its extensions is answered with a failure. Keys named by path get an
agent of their own, OpenSSH's, which ends with the RUN.
"""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_ISSOCK
from threading import Lock, Thread

from pybuild.api.request import Agent
from pybuild.errors import PybuildError
from pybuild.store.store import Store

REQUEST_IDENTITIES = 11
SIGN_REQUEST = 13
FAILURE = b"\x05"

MAX_MESSAGE = 256 << 10
"""As OpenSSH's agent has it, in bytes."""

MAX_CONNECTIONS = 32
MAX_KEY = 100 << 10
_SECONDS = 10
_WATCH = '"$1" -D -a "$2" & agent=$!; read -r end; kill "$agent"; wait "$agent"'
"""An agent that ends when standard input does: whoever holds its other end may die in any way."""

_LENGTH = struct.Struct(">I")
_NAME = "agent"


@contextmanager
def forwarded(agent: Agent, store: Store, mode: int) -> Iterator[Path]:
    """Give the path of a socket that leads to the agent's keys until the end of the block.

    Raises PybuildError for an agent that cannot be reached and keys that cannot be used.
    """
    with ExitStack() as stack:
        directory = store.snapshots.staging()
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        upstream = Path(agent.paths[0])
        if not _is_socket(upstream):
            upstream = stack.enter_context(_own_agent(agent, store))
        _try(upstream, agent)
        path = directory / _NAME
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        proxy = _Proxy(listener, upstream)
        stack.callback(proxy.close)
        with _short(path) as short:
            listener.bind(short)
        path.chmod(mode)
        listener.listen(MAX_CONNECTIONS)
        proxy.start()
        yield path


class _Proxy:
    """Serves each connection in a thread of its own until `close`."""

    def __init__(self, listener: socket.socket, upstream: Path) -> None:
        self._listener = listener
        self._upstream = upstream
        self._lock = Lock()
        self._closed = False
        self._open: set[socket.socket] = set()
        self._threads = [Thread(target=self._accept, name="ssh-agent", daemon=True)]

    def start(self) -> None:
        self._threads[0].start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            # Threads that read or accept wake up by this, not by a close
            for connection in (self._listener, *self._open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closed or len(self._open) >= MAX_CONNECTIONS:
                    connection.close()
                    continue
                self._open.add(connection)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                thread = Thread(target=self._serve, args=(connection,), name="ssh-agent", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connect(self._upstream) as agent:
                agent.settimeout(120)
                while (message := _receive(connection)) is not None:
                    if message[:1] in (bytes([REQUEST_IDENTITIES]), bytes([SIGN_REQUEST])):
                        _send(agent, message)
                        answer = _receive(agent)
                        if answer is None:
                            return
                    else:
                        answer = FAILURE
                    _send(connection, answer)
        except OSError:
            # One of the two is gone: so is the conversation
            return
        finally:
            with self._lock:
                self._open.discard(connection)
                connection.close()


def _receive(connection: socket.socket) -> bytes | None:
    """Return the next message, None at the end or for one that is too long."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    return _exactly(connection, size) if 0 < size <= MAX_MESSAGE else None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return None
        data += more
    return data


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)


def connect(path: Path) -> socket.socket:
    """Return a connection to a socket whose path may be of any length; raise OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name for `path` that fits into the address of a socket (unix(7), sun_path)."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _is_socket(path: Path) -> bool:
    try:
        return S_ISSOCK(path.stat().st_mode)
    except OSError as error:
        raise PybuildError(f"cannot use what `--ssh` names: {path}: {error.strerror}") from error


def _try(path: Path, agent: Agent) -> None:
    try:
        connect(path).close()
    except OSError as error:
        raise PybuildError(
            f"the ssh agent cannot be reached: {agent.id}: {error.strerror}", "start it again, or name a key"
        ) from error


@contextmanager
def _own_agent(agent: Agent, store: Store) -> Iterator[Path]:
    """Run an agent that has the keys of `agent` and no others; give its socket."""
    # Never what lies in the working directory, which is a build context as a rule
    path = os.pathsep.join(part for part in os.get_exec_path() if os.path.isabs(part))
    programs = [shutil.which(name, path=path) for name in ("ssh-agent", "ssh-add")]
    if None in programs:
        raise PybuildError(
            f"`--ssh {agent.id}=KEY` needs ssh-agent and ssh-add, which are not there",
            "install OpenSSH's client, or forward an agent that has the key",
        )
    ssh_agent, ssh_add = map(str, programs)
    place = store.snapshots.staging()
    directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # Short enough, as the programs inherit the descriptor
    name = f"/proc/self/fd/{directory}/{_NAME}"
    environment = {"PATH": path, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "sh", ssh_agent, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=[directory],
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        # It tells where it listens once it does
        if not process.stdout.readline():
            raise PybuildError("ssh-agent did not start")
        for key in agent.paths:
            _add_key(ssh_add, key, {**environment, "SSH_AUTH_SOCK": name}, directory)
        yield place / _NAME
    finally:
        process.communicate()
        os.close(directory)
        shutil.rmtree(place, ignore_errors=True)


def _add_key(program: str, path: str, environment: dict[str, str], directory: int) -> None:
    try:
        with open(path, "rb") as file:
            key = file.read(MAX_KEY + 1)
    except OSError as error:
        raise PybuildError(f"cannot read the key of `--ssh`: {path}: {error.strerror}") from error
    if len(key) > MAX_KEY:
        raise PybuildError(f"the key of `--ssh` is over {MAX_KEY} bytes: {path}")
    try:
        done = subprocess.run(
            [program, "-q", "-"],
            input=key if key.endswith(b"\n") else key + b"\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=[directory],
            start_new_session=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PybuildError(f"ssh-add did not end within {_SECONDS} seconds: {path}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        if "passphrase" in said:
            said = "it has a passphrase"
        raise PybuildError(
            f"the key of `--ssh` cannot be used: {path}{f': {said}' if said else ''}",
            "one with a passphrase goes into your agent: `ssh-add FILE`, and then `--ssh default`",
        )
