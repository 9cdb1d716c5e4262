"""What `pybuild self check` tries, in order: each needs what came before."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from pybuild.client.start import program_command, program_environment
from pybuild.commands.smallest import executable
from pybuild.errors import PybuildError

SECONDS = 60.0
"""How long one call may take."""

_LIBRARIES = ("sqlite3", "ssl", "ctypes", "msgspec", "isal.igzip_threaded", "urllib3", "aiohttp", "typer", "tqdm")


class Tried(NamedTuple):
    """How a trial went; `detail` is what was found, or why it does not work."""

    name: str
    works: bool
    detail: str
    seconds: float


class _FailedError(PybuildError):
    """A trial found something else than what must be."""


def program() -> str:
    """Return the file that this program is run by."""
    return os.path.realpath(sys.executable)


def try_all() -> list[Tried]:
    """Try everything, up to the first thing that does not work."""
    tried: list[Tried] = []
    with _world() as world:
        for name, trial in (
            ("libraries", _libraries),
            ("a build from scratch", world.build),
            ("the same from the cache", world.build_again),
            ("the daemon", world.by_daemon),
            ("saving and loading", world.save_and_load),
            ("tidying up", world.end),
        ):
            begun = monotonic()
            try:
                detail, works = trial(), True
            except PybuildError as error:
                detail, works = f"{error.message}{f' ({error.hint})' if error.hint else ''}", False
            tried.append(Tried(name, works, detail, round(monotonic() - begun, 3)))
            if not works:
                break
    return tried


def _libraries() -> str:
    from importlib import import_module

    for name in _LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            raise _FailedError(f"{name} cannot be imported: {error}", "the program is not complete") from error
    return f"Python {sys.version.split()[0]}, {len(_LIBRARIES)} tried"


@contextmanager
def _world() -> "Iterator[_World]":
    """Give a store of its own beside the user's, and what else a call needs; all of it goes in the end."""
    from pybuild.engine.paths import store_root
    from pybuild.sandbox.probe.store import existing

    try:
        # On the same file system as the store is or will be; a socket needs a short name
        with (
            tempfile.TemporaryDirectory(prefix=".pybuild-check-", dir=existing(str(store_root()))) as place,
            tempfile.TemporaryDirectory(prefix="pybuild-check-") as runtime,
        ):
            world = _World(Path(place), Path(runtime))
            try:
                yield world
            finally:
                # What did not work has been told; a store that was hardly made can be removed without
                with suppress(PybuildError):
                    world.end()
    except OSError as error:
        raise PybuildError(
            f"cannot make a place to try in: {error.filename}: {error.strerror}",
            "set PYBUILD_STORE to another directory",
        ) from error


class _World:
    """A store with a daemon of its own, and a context with a program that is all there is in its image."""

    def __init__(self, place: Path, runtime: Path) -> None:
        self._store, self._context, self._archive = place / "store", place / "context", place / "image.tar"
        self._image, self._has_daemon = "", False
        self._environment = {
            **program_environment(),
            "PYBUILD_STORE": str(self._store),
            "PYBUILD_RUNTIME_DIR": str(runtime),
            "PYBUILD_CONFIG": os.devnull,
            "PYBUILD_IDLE_TIMEOUT": "60",
        }
        self._context.mkdir()

    def build(self) -> str:
        content = executable()
        text = 'FROM scratch\nCOPY --chmod=755 try /\nRUN ["/try"]\n'
        if not content:
            # No machine code for this processor is known here
            text = "FROM scratch\nCOPY try /\n"
        (self._context / "try").write_bytes(content)
        (self._context / "Dockerfile").write_text(text)
        self._image = self._built("1")
        if content and "made" not in self._members():
            raise _FailedError("what RUN has made is not in the image")
        return f"{self._image[:19]}{'' if content else '; without RUN, which is not tried on this processor'}"

    def build_again(self) -> str:
        told = self._call("build", "--inline", "--progress=json", self._context).stderr.decode(errors="replace")
        if '"cached":false' in told.replace(" ", "") or '"cached":true' not in told.replace(" ", ""):
            raise _FailedError("steps that have just been built were not found in the cache")
        return "all steps"

    def by_daemon(self) -> str:
        self._has_daemon = True
        self._call("daemon", "start")
        image = self._built("0")
        if image != self._image:
            raise _FailedError(f"the daemon has built another image: {image} and {self._image}")
        self._stop()
        return "started, asked, stopped"

    def save_and_load(self) -> str:
        self._call("save", "-o", self._archive, self._image)
        self._call("rmi", self._image)
        self._call("load", "-i", self._archive)
        if self._image not in self._call("images", "-a", "--no-trunc", "-q").stdout.decode().split():
            raise _FailedError("the image was not there after loading what was saved")
        return f"{self._archive.stat().st_size} bytes"

    def end(self) -> str:
        """Stop what may run, and have the store emptied by who may remove all that is in it."""
        if self._has_daemon:
            self._stop()
        if self._store.exists():
            self._call("prune", "--all", "--force")
            shutil.rmtree(self._store)
        return ""

    def _stop(self) -> None:
        self._call("daemon", "stop")
        self._has_daemon = False

    def _built(self, inline: str) -> str:
        done = self._call("build", "-q", self._context, inline=inline)
        return done.stdout.decode().strip()

    def _members(self) -> list[str]:
        import io
        import tarfile

        done = self._call("build", "-q", "-o", "type=tar,dest=-", self._context)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return archive.getnames()

    def _call(self, *words: str | Path, inline: str = "1") -> "subprocess.CompletedProcess[bytes]":
        command = [*program_command(), *map(str, words)]
        try:
            done = subprocess.run(
                command,
                env={**self._environment, "PYBUILD_INLINE": inline},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _FailedError(f"`pybuild {words[0]}` did not end well: {error}") from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").split("\n")
            why = next((line for line in lines if line.startswith("error: ")), f"it ended with {done.returncode}")
            raise _FailedError(f"`pybuild {words[0]}`: {why.removeprefix('error: ')}")
        return done
