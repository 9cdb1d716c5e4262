"""Trees of failed steps, kept for a look into them: each `kept/NAME/` with `fs`, what the step had changed, and
`step.json`, what it was.

They come whole, by a rename, and go the same way. One is used by one process at a time, by a lock on its description
that the kernel takes away from a process that dies. Like snapshots they are never flushed: what was kept before a
reboot counts as gone. There are few of them: what was kept first makes room for what comes.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pybuild.errors import ConflictError, NotFoundError
from pybuild.oci.digest import Digest
from pybuild.store.errors import disk_error
from pybuild.store.place import Place, allocated

MAX_KEPT = 8
"""How many there are at most."""
MAX_BYTES = 8 << 30
"""How many bytes all of them take at most."""

_NAME = re.compile(r"failed-[0-9a-f]{8}")
_DESCRIPTION = "step.json"


class KeptStep(msgspec.Struct, frozen=True):
    """A step that failed. `diff_ids` are the layers below its tree; `world` is what its process had, for the engine.

    `mode` is how ids were mapped: a tree is of no use in another one. `network` is the one that was asked for.
    `created` in seconds since the epoch.
    """

    diff_ids: list[Digest]
    mode: str
    network: str
    world: bytes
    created: float = 0.0
    boot: str = ""


class Kept:
    """The kept trees of a store. Every method may be called from several threads."""

    def __init__(self, place: Place, boot: str) -> None:
        self._place = place
        self._boot = boot

    def keep(self, staging: Path, step: KeptStep) -> str:
        """Keep the tree in `staging`, which goes away with it, and return its name; `make_room` is to come next."""
        name = f"failed-{os.urandom(4).hex()}"
        step = msgspec.structs.replace(step, created=time.time(), boot=self._boot)
        try:
            (staging / _DESCRIPTION).write_bytes(msgspec.json.encode(step))
            self._place.kept.mkdir(mode=0o700, exist_ok=True)
            staging.rename(self._place.kept / name)
        except OSError as error:
            raise disk_error("cannot keep the tree of a failed step", staging, error) from error
        return name

    def make_room(self, *, most: int = MAX_KEPT, size: int = MAX_BYTES) -> list[Path]:
        """Take the oldest ones away that are too many or too large together, and those of before a reboot.

        Returns where they are now, for a worker to remove. Those in use stay; the newest goes too when it is larger
        than all of them may be.
        """
        moved = []
        for name in self._excess(most, size):
            try:
                with self._locked(name):
                    moved.append(self.trash(name))
            except (ConflictError, NotFoundError):
                continue
        return moved

    def _excess(self, most: int, size: int) -> list[str]:
        found = self.steps()
        sound = {name: step.created for name, step in found.items() if step is not None and self._is_sound(step)}
        excess = [name for name in found if name not in sound]
        total = 0
        for number, name in enumerate(sorted(sound, key=lambda name: sound[name], reverse=True)):
            total += self.size(name)
            if number >= most or total > size:
                excess.append(name)
        return excess

    def has(self, name: str) -> bool:
        """Is there a kept tree of that name that can be used?"""
        step = self._read(name) if is_name(name) else None
        return step is not None and self._is_sound(step)

    def steps(self) -> dict[str, KeptStep | None]:
        """Return the names on disk and what they are of, None when that cannot be read."""
        try:
            names = sorted(name for name in os.listdir(self._place.kept) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise disk_error("cannot read", self._place.kept, error) from error
        return {name: self._read(name) for name in names}

    def size(self, name: str) -> int:
        """Return the allocated bytes. Closed directories of mapped ids are left out."""
        return allocated(self._place.kept / name)

    @contextmanager
    def using(self, name: str) -> Iterator[tuple[Path, KeptStep]]:
        """Give the directory of a kept tree, which may be changed, and what it is of.

        Raises NotFoundError, and ConflictError while another process uses it.
        """
        step = self._read(name) if is_name(name) else None
        if step is None or not self._is_sound(step):
            raise NotFoundError(f"no such kept step: {name}")
        with self._locked(name):
            yield self._place.kept / name, step

    def trash(self, name: str) -> Path:
        """Take a tree out of the way and return where it is now, for a worker to remove; raise NotFoundError."""
        path = self._place.temporary()
        try:
            (self._place.kept / name).rename(path)
        except FileNotFoundError:
            raise NotFoundError(f"no such kept step: {name}") from None
        except OSError as error:
            raise disk_error("cannot take a kept step away", self._place.kept / name, error) from error
        return path

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self._place.kept / name / _DESCRIPTION
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f"no such kept step: {name}") from None
        except OSError as error:
            raise disk_error("cannot open", path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ConflictError(f"the kept step is in use: {name}", "leave the other shell first") from None
        finally:
            os.close(fd)

    def _read(self, name: str) -> KeptStep | None:
        try:
            return msgspec.json.decode((self._place.kept / name / _DESCRIPTION).read_bytes(), type=KeptStep)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _is_sound(self, step: KeptStep) -> bool:
        return bool(self._boot) and step.boot == self._boot


def is_name(text: str) -> bool:
    """Is this what a kept tree is called?"""
    return _NAME.fullmatch(text) is not None
