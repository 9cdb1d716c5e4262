"""`build --watch`: every change that matters is built, and no other."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from support.program import INTERRUPTED, Pybuild

DOCKERFILE = "FROM scratch\nCOPY src /src\nCOPY link/b /b\nCOPY conf*.toml /\n"


class Watching:
    """A client that watches, and the lines it says."""

    def __init__(self, client: "subprocess.Popen[bytes]") -> None:
        self.client = client
        self._lines: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.client.stderr is not None
        for line in self.client.stderr:
            self._lines.put(line.decode().rstrip())

    def end(self) -> None:
        """End the client, and all that was opened for it."""
        self.client.kill()
        self._thread.join()
        for stream in (self.client.stdout, self.client.stderr):
            assert stream is not None
            stream.close()
        self.client.wait()

    def until(self, word: str) -> list[str]:
        """Return what is said up to a line that begins with `word`."""
        said: list[str] = []
        while not (said and said[-1].startswith(word)):
            said.append(self._lines.get(timeout=30))
        return said

    def silent(self) -> bool:
        """Does nothing come soon?"""
        try:
            self._lines.get(timeout=0.5)
        except Exception:
            return True
        return False


def replace(file: Path, text: str) -> None:
    """Give a file other content, so that nobody sees it half done."""
    aside = file.parent.parent / "aside"
    aside.write_text(text)
    aside.replace(file)


@contextmanager
def watching(program: Pybuild, *args: str | Path) -> Iterator[Watching]:
    client = program.start("build", "--watch", "--progress=plain", "-t", "watched", *args)
    seen = Watching(client)
    try:
        yield seen
    finally:
        seen.end()


@pytest.fixture
def tree(context: Path) -> Path:
    for name in ("src/sub", "real", "docs"):
        (context / name).mkdir(parents=True)
    for name in ("src/a", "real/b", "docs/d"):
        (context / name).write_text("1")
    (context / "link").symlink_to("real")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / ".dockerignore").write_text("**/*.log\n")
    return context


def test_what_matters_is_built_and_nothing_else(pybuild: Pybuild, tree: Path) -> None:
    out = tree / "out.tar"
    with watching(pybuild, "-o", f"type=oci,dest={out}", tree) as client:
        client.until("watching")
        (tree / "docs/d").write_text("2")
        (tree / "src/x.log").write_text("2")
        (tree / "new").write_text("2")
        assert client.silent()
        for path in ("src/a", "src/sub/new", "real/b", "conf.toml", ".dockerignore"):
            (tree / path).write_text("# 2\n")
            said = client.until("watching")
            assert said[0] == f"changed: {path}"
            assert "tagged watched" in "\n".join(said)
        (tree / "src/x.log").write_text("3")
        assert client.until("watching")[0] == "changed: src/x.log"
        client.client.send_signal(signal.SIGINT)
        assert client.client.wait(20) == INTERRUPTED


@pytest.mark.userns
def test_named_directories_and_mounts_are_watched(inline_base: Pybuild, tree: Path, tmp_path: Path) -> None:
    named, mounted, unused = (tmp_path / name for name in ("named", "mounted", "unused"))
    for directory in (named, mounted, unused):
        (directory / "real").mkdir(parents=True)
        (directory / "real/f").write_text("1")
        (directory / "link").symlink_to("real")
    (named / ".dockerignore").write_text("*.log\n")
    (tree / "Dockerfile").write_text(
        "FROM base AS used\nCOPY --from=Named link/f /\n"
        "RUN --mount=from=mounted,source=link,target=/m cat /m/f >/seen\n"
        "RUN --mount=source=link,target=/m cat /m/b >/own\nFROM unused AS not-built\nFROM used\n"
    )
    names = [f"--build-context={name}={tmp_path / name}" for name in ("named", "mounted", "unused")]
    with watching(inline_base, *names, tree) as client:
        client.until("watching")
        for path in (named / "other", named / "a.log", unused / "real/f", mounted / "other", tree / "src/a"):
            path.write_text("2")
        assert client.silent()
        for path in (named / "real/f", named / ".dockerignore", mounted / "real/new", tree / "real/b"):
            path.write_text("2")
            assert client.until("watching")[0] == f"changed: {str(path).removeprefix(f'{tree}/')}"


def test_a_named_directory_as_base_is_watched(pybuild: Pybuild, tree: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.mkdir()
    (tree / "Dockerfile").write_text("FROM some/image:latest\n")
    with watching(pybuild, f"--build-context=some/image={named}", tree) as client:
        client.until("watching")
        (named / "new").write_text("1")
        said = client.until("watching")
        assert said[0] == f"changed: {named}/new"
        assert "tagged watched" in "\n".join(said)


def test_a_build_that_fails_is_tried_again_after_a_change(pybuild: Pybuild, tree: Path) -> None:
    (tree / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    with watching(pybuild, tree) as client:
        assert "not found: missing" in "\n".join(client.until("watching"))
        (tree / "missing").write_text("here")
        assert "tagged watched" in "\n".join(client.until("watching"))
        replace(tree / "Dockerfile", "FORM scratch\n")
        assert "Dockerfile:1" in "\n".join(client.until("watching"))
        replace(tree / "Dockerfile", "FROM scratch\nCOPY missing /there\n")
        assert "tagged watched" in "\n".join(client.until("watching"))


def test_only_a_directory_is_watched(inline: Pybuild, tree: Path) -> None:
    assert "--watch" in inline("build", "--watch", "-", status=2).err
    assert "--watch" in inline("build", "--watch", "--check", tree, status=2).err
