"""Runs the real program as a user would, in a world of its own: store, runtime directory, home, daemon."""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pybuild.client.inline import Inline
from support import busybox, confined, frozen, images, processes

CLI = Path(__file__).parents[2] / "cli"
COMMAND = frozen.COMMAND or [sys.executable, "-m", "pybuild"]
"""How the program is called: that of this checkout, or the frozen one that is to be tested."""
BUG, INTERRUPTED = 3, 130

# Compiling all modules at every start would be most of what the tests do.
if os.access(CLI, os.W_OK) or (CLI / "pybuild" / "__pycache__").exists():
    _BYTECODE = {"PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", "")}
else:
    _BYTECODE = {"PYTHONPYCACHEPREFIX": tempfile.mkdtemp(prefix="pbc-"), "PYTHONDONTWRITEBYTECODE": ""}
    atexit.register(shutil.rmtree, _BYTECODE["PYTHONPYCACHEPREFIX"], ignore_errors=True)

_begun: dict[tuple[object, ...], tuple[Path, str]] = {}
"""Stores in which there is a base and nothing else, and its id, by name and settings."""

_open = 0
"""How many worlds there are in this process."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    args: tuple[str, ...]
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a build run with `--progress=json`."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    def steps(self) -> dict[str, bool]:
        """Return the labels of the steps done after FROM, and whether each came from the cache."""
        planned = next(event["steps"] for event in self.events if event["event"] == "Planned")
        done = {
            re.sub(r"^\[[^\]]*\] ", "", planned[event["step"]]["label"]): event["cached"]
            for event in self.events
            if event["event"] == "StepDone" and event["step"] >= 0
        }
        return {label: cached for label, cached in done.items() if not label.startswith("FROM ")}

    def redone(self) -> list[str]:
        """Return the labels of the steps that did not come from the cache."""
        return [label for label, cached in self.steps().items() if not cached]


class Pybuild:
    """The program behind one door: "inline" or "daemon"."""

    def __init__(self, base: Path, door: str) -> None:
        global _open
        _open += 1
        self.base, self.door = base, door
        self.store, self.runtime, self.home = base / "s", base / "r", base / "h"
        for directory in (self.runtime, self.home):
            directory.mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYBUILD_", "XDG_", "CI"))}
        self.env = {
            **kept,
            "HOME": str(self.home),
            **(frozen.environment() if frozen.COMMAND else {"PYTHONPATH": str(CLI), **_BYTECODE}),
            "PYBUILD_STORE": str(self.store),
            "PYBUILD_RUNTIME_DIR": str(self.runtime),
            "PYBUILD_IDLE_TIMEOUT": "120",
        }
        self.env["PYBUILD_INLINE"] = "1" if door == "inline" else "0"

    def start(
        self, *args: str | Path, env: dict[str, str] | None = None, lack: str = "", **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start the program and return at once; `lack` is what its world lacks, of those in `confined`."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [*COMMAND, *map(str, args)]
        if lack:
            command = [sys.executable, str(confined.__file__), lack, *command]
        return subprocess.Popen(command, env={**self.env, **(env or {})}, **options)

    def __call__(
        self,
        *args: str | Path,
        stdin: bytes | None = None,
        status: int | None = 0,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 240,
        lack: str = "",
    ) -> Result:
        """Run the program to its end, expecting `status`; a traceback is never right."""
        given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        process = self.start(*args, env=env, lack=lack, cwd=cwd, stdin=given)
        return self.finish(process, *args, stdin=stdin, status=status, timeout=timeout)

    def finish(
        self,
        process: "subprocess.Popen[bytes]",
        *args: str | Path,
        stdin: bytes | None = None,
        status: int | None = 0,
        timeout: float = 60,
    ) -> Result:
        """Wait for a started program and look at how it ended."""
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"hangs: {args}\n{err.decode(errors='replace')}") from None
        result = Result(tuple(map(str, args)), process.returncode, out, err.decode(errors="surrogateescape"))
        # Events carry one for whoever looks into a bug; people never see it.
        told = [line for line in result.err.splitlines() if not line.startswith('{"event"')]
        assert not [line for line in told if line.startswith("Traceback")], result.err
        assert result.status != BUG, result.err
        if status is not None:
            assert result.status == status, f"{' '.join(result.args)} -> {result.status}\n{result.err}"
        return result

    def add_base(self, name: str = "base") -> str:
        """Have the busybox image in the store and return its id.

        A daemon imports it. Without one it is imported once, and a store that is to begin like that one is its copy.
        """
        if self.door == "daemon" or self.store.exists():
            return self._import_base(name)
        settings = (
            name,
            *sorted(
                item
                for item in self.env.items()
                if item[0].startswith("PYBUILD_") and item[0] not in ("PYBUILD_STORE", "PYBUILD_RUNTIME_DIR")
            ),
        )
        if settings not in _begun:
            identity = self._import_base(name)
            kept = Path(tempfile.mkdtemp(prefix="pbs-"))
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
            shutil.copytree(self.store, kept / "s")
            _begun[settings] = kept / "s", identity
            return identity
        store, identity = _begun[settings]
        shutil.copytree(store, self.store)
        return identity

    def _import_base(self, name: str) -> str:
        rootfs = self.base / "base.tar"
        if not rootfs.exists():
            busybox.write_rootfs(rootfs)
        return self("import", rootfs, name).text.strip()

    def build(self, context: Path, *args: str | Path, dockerfile: str | None = None, **options: Any) -> Result:
        """Build a directory, with `dockerfile` written outside of it when given, telling events as JSON."""
        if dockerfile is not None:
            place = self.base / "Dockerfile"
            place.write_text(dockerfile)
            args = ("-f", place, *args)
        return self("build", "--progress=json", *args, context, **options)

    def image(self, context: Path, *args: str | Path, dockerfile: str | None = None, **options: Any) -> images.Image:
        """Build and return the image as read from an exported OCI archive."""
        out = self.base / "out.tar"
        self.build(context, "-o", f"type=oci,dest={out}", *args, dockerfile=dockerfile, **options)
        [image] = images.read_oci(out)
        out.unlink()
        return image

    def json(self, *args: str) -> Any:
        """Run a command that prints JSON."""
        return json.loads(self(*args).out)

    def names(self) -> set[str]:
        """Return the names of all images in the store."""
        lines = self("images", "--format", "{{.Repository}}:{{.Tag}}").text.split()
        return set(lines)

    def state(self) -> tuple[list[str], list[str]]:
        """Return what the store holds: images with their names, and files of blobs and tables.

        Asked in this process, for it is asked often.
        """
        with Inline(self.store) as engine:
            listed = [
                f"{image['Id']} {name}" for image in engine.images(all=True) for name in image["RepoTags"] or ["<none>"]
            ]
        kept = [
            str(path.relative_to(self.store))
            for room in ("blobs", "tocs", "tmp")
            for path in sorted((self.store / room).rglob("*"))
            if not path.is_dir()
        ]
        return sorted(listed), kept

    def close(self) -> None:
        """Stop the daemon and check that nothing runs and nothing is mounted; then remove everything."""
        global _open
        _open -= 1
        try:
            if self.door == "daemon" and processes.find("_child", "daemon"):
                self("daemon", "stop", timeout=60)
            # Another world of the same test may still have its daemon.
            if not _open:
                processes.wait_until_gone(seconds=10)
            with open("/proc/self/mountinfo") as mounts:
                assert str(self.base) not in mounts.read()
        finally:
            if not _open:
                processes.end_all(processes.below())
            remove_tree(self.base)


def remove_tree(path: Path) -> None:
    """Remove a directory, whoever of this user's ids owns what is in it."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid():
        # The kernel's own directories of an overlay have mode 000.
        for directory, names, _ in os.walk(path):
            for name in names:
                child = os.path.join(directory, name)
                if not os.path.islink(child) and os.lstat(child).st_uid == os.geteuid():
                    os.chmod(child, 0o700)
        shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid():
        subprocess.run(["unshare", "-r", "--map-auto", "rm", "-rf", str(path)], check=True, capture_output=True)
    assert not path.exists()


@contextmanager
def world(door: str) -> Iterator[Pybuild]:
    """Give a program with a store of its own, and check at the end that it left nothing behind."""
    # Not below pytest's own directory: its name is too long for a unix socket.
    base = Path(tempfile.mkdtemp(prefix="pb-"))
    program = Pybuild(base, door)
    try:
        yield program
    finally:
        program.close()
