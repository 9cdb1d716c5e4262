"""Directories of a client come here as they are, only what changed is asked for, and nothing gets outside."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Call
from pybuild.buildkit.receiving import (
    DATA,
    DIFF_COPY,
    ERROR,
    FIN,
    NO_LIMITS,
    REQUEST,
    STAT,
    Counts,
    SyncError,
    Wanted,
    prepare,
    receive,
)
from pybuild.engine.room import ContextLimits
from pybuild.errors import CancelledError
from pybuild.layer.errors import LimitError
from support.grpc import Loop

DIR, LINK, FIFO, SETUID = 1 << 31, 1 << 27, 1 << 25, 1 << 23
SECOND = 1_000_000_000


def a_file(path: str, content: bytes = b"", mode: int = 0o644, time: int = 5 * SECOND, **more: Any) -> dict[str, Any]:
    return {"path": path, "mode": mode, "size": len(content), "modTime": time, "content": content, **more}


def a_directory(path: str, mode: int = 0o755) -> dict[str, Any]:
    return {"path": path, "mode": DIR | mode, "modTime": 7 * SECOND}


def a_link(path: str, target: str) -> dict[str, Any]:
    return {"path": path, "mode": LINK | 0o777, "linkname": target, "modTime": 6 * SECOND}


class Client:
    """A client that tells `entries` and sends what is asked for."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.extra: list[dict[str, Any]] = []
        self.metadata: dict[str, tuple[str, ...]] = {}
        self.asked: list[str] = []

    async def serve(self, call: Call) -> None:
        self.metadata = {name: call.metadata[name] for name in call.metadata if not name.startswith(":")}
        self.asked = []
        for entry in self.entries:
            told = {name: value for name, value in entry.items() if name != "content"}
            await call.send(messages.PACKET.encode({"type": STAT, "stat": told}))
        await call.send(messages.PACKET.encode({"type": STAT}))
        for packet in self.extra:
            await call.send(messages.PACKET.encode(packet))
        while (message := await call.receive()) is not None:
            packet = messages.PACKET.decode(message)
            if packet["type"] == FIN:
                await call.send(messages.PACKET.encode({"type": FIN}))
                return
            assert packet["type"] == REQUEST
            entry = self.entries[packet["ID"]]
            self.asked.append(entry["path"])
            for start in range(0, len(entry["content"]), 10_000):
                data = entry["content"][start : start + 10_000]
                await call.send(messages.PACKET.encode({"type": DATA, "ID": packet["ID"], "data": data}))
            await call.send(messages.PACKET.encode({"type": DATA, "ID": packet["ID"]}))


class World:
    def __init__(self, loop: Loop, root: Path) -> None:
        self.client = Client()
        self.root = root
        self.tree = root / "tree"
        self._session = loop.session({DIFF_COPY: self.client.serve})
        prepare(root)

    def receive(
        self, *entries: dict[str, Any], wanted: Wanted | None = None, limits: ContextLimits = NO_LIMITS
    ) -> Counts:
        self.client.entries = [*entries]
        return receive(self._session, wanted or Wanted("context"), self.root, Flag(), limits=limits)

    def listed(self) -> dict[str, tuple[int, int, str]]:
        """Return mode, time in seconds and content or target of all that is here."""
        found = {}
        for path in sorted(self.tree.rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
            found[str(path.relative_to(self.tree))] = (status.st_mode, status.st_mtime_ns // SECOND, content)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Loop() as loop:
        yield World(loop, tmp_path / "kept")


def test_a_tree_comes_as_it_is(world: World) -> None:
    big = b"0123456789" * 5000
    counts = world.receive(
        a_directory("d", 0o555),
        a_file("d/big", big, 0o640),
        a_link("d/link", "../../anywhere"),
        {"path": "d/pipe", "mode": FIFO | 0o600, "modTime": 8 * SECOND},
        a_file("d/tool", b"#!", SETUID | 0o755),
        {"path": "device", "mode": (1 << 26) | 0o600, "devmajor": 1, "devminor": 3},
        a_file("e", b""),
        a_file("hard", b"", linkname="d/big"),
    )
    assert world.listed() == {
        "d": (stat.S_IFDIR | 0o555, 7, ""),
        "d/big": (stat.S_IFREG | 0o640, 5, big.decode()),
        "d/link": (stat.S_IFLNK | 0o777, 6, "../../anywhere"),
        "d/pipe": (stat.S_IFIFO | 0o600, 8, ""),
        "d/tool": (stat.S_IFREG | stat.S_ISUID | 0o755, 5, "#!"),
        "e": (stat.S_IFREG | 0o644, 5, ""),
        "hard": (stat.S_IFREG | 0o640, 5, big.decode()),
    }
    assert (world.tree / "hard").stat().st_ino == (world.tree / "d/big").stat().st_ino
    assert counts == Counts((b"d/big", b"d/tool", b"e"), len(big) + 2)


def test_only_what_changed_is_asked_for(world: World) -> None:
    entries = [a_directory("d", 0o500), a_file("d/a", b"a"), a_file("d/b", b"b"), a_file("e", b"e"), a_link("l", "e")]
    world.receive(*entries)
    before = world.listed()
    assert world.receive(*entries).files == ()
    assert world.listed() == before
    entries[2] = a_file("d/b", b"B", time=9 * SECOND)
    entries[3] = a_file("e", b"e", 0o600)
    entries[4] = a_link("l", "d")
    assert world.receive(*entries, a_file("new", b"n")).files == (b"d/b", b"e", b"new")
    assert world.client.asked == ["d/b", "e", "new"]
    assert world.listed() == {
        "d": (stat.S_IFDIR | 0o500, 7, ""),
        "d/a": (stat.S_IFREG | 0o644, 5, "a"),
        "d/b": (stat.S_IFREG | 0o644, 9, "B"),
        "e": (stat.S_IFREG | 0o600, 5, "e"),
        "l": (stat.S_IFLNK | 0o777, 6, "d"),
        "new": (stat.S_IFREG | 0o644, 5, "n"),
    }


def test_what_is_gone_or_another_kind_is_removed(world: World) -> None:
    world.receive(a_directory("d"), a_directory("d/e"), a_file("d/e/f", b"f"), a_file("x", b"x"), a_link("y", "d"))
    world.receive(a_file("d", b"now a file"), a_directory("x"), a_file("x/y", b"y"), a_directory("y"))
    assert {path: content for path, (_, _, content) in world.listed().items()} == {
        "d": "now a file",
        "x": "",
        "x/y": "y",
        "y": "",
    }
    world.receive()
    assert world.listed() == {}


def test_patterns_and_paths_are_told_to_the_client(world: World) -> None:
    world.receive(wanted=Wanted("dir", ["*.md", "!a.md"], ["src", "a,b"]))
    told = world.client.metadata
    assert (told["dir-name"], told["exclude-patterns"], told["followpaths"]) == (
        ("dir",),
        ("*.md", "!a.md"),
        ("src", "a,b"),
    )
    world.receive(wanted=Wanted("dir", follow=["ü b"]))
    assert world.client.metadata["followpaths"] == ("%C3%BC+b",)
    assert world.client.metadata["followpaths-encoded"] == ("1",)


@pytest.mark.parametrize(
    "entries",
    [
        [a_file("../out", b"x")],
        [a_file("/out", b"x")],
        [a_file("a//b", b"x")],
        [a_file("./a", b"x")],
        [a_file("a/", b"x")],
        [a_file("", b"x")],
        [a_file("a\0b", b"x")],
        [a_file("n" * 256, b"x")],
        [a_file("missing/a", b"x")],
        [a_file("a", b"x"), a_file("a", b"y")],
        [a_link("l", "/tmp"), a_file("l/x", b"x")],
        [a_file("f", b"x"), a_file("f/x", b"x")],
        [a_link("l", "")],
        [a_file("h", b"", linkname="../../etc/passwd")],
        [a_link("l", "/etc/passwd"), a_file("m", b"", linkname="l")],
        [{**a_file("s", b"x"), "size": -1}],
        [{**a_file("s", b"more"), "size": 1}],
        [{**a_file("s", b"less"), "size": 100}],
    ],
)
def test_what_cannot_be_is_refused_and_nothing_gets_outside(
    world: World, tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    with pytest.raises(SyncError):
        world.receive(*entries)
    assert {*os.listdir(tmp_path)} == {"kept"}
    # And the next one is as good as ever
    world.receive(a_file("a", b"good"))
    assert [content for *_, content in world.listed().values()] == ["good"]


def test_a_link_of_the_last_time_leads_nothing_outside(world: World, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    world.receive(a_link("d", str(canary)))
    world.receive(a_directory("d"), a_file("d/x", b"x"))
    assert os.listdir(canary) == []
    assert (world.tree / "d/x").read_text() == "x"


def test_a_context_that_is_too_large_is_refused_before_it_comes(world: World) -> None:
    entries = [a_directory("d"), a_file("d/a", b"12345"), a_file("d/b", b"67890"), a_file("h", linkname="d/a")]
    enough = ContextLimits(size=10, files=4)
    assert world.receive(*entries, limits=enough).size == 10
    # What is here already counts too
    with pytest.raises(LimitError, match="more than 9 bytes") as told:
        world.receive(*entries, limits=ContextLimits(size=9))
    assert "PYBUILD_MAX_CONTEXT_SIZE" in told.value.hint
    with pytest.raises(LimitError, match="more than 3 entries") as told:
        world.receive(*entries, limits=ContextLimits(files=3))
    assert "PYBUILD_MAX_CONTEXT_FILES" in told.value.hint
    # Nor is what was told to be large asked for
    world.client.asked = []
    with pytest.raises(LimitError):
        world.receive(a_file("big", b"b" * 20), limits=enough)
    assert world.client.asked == []
    assert world.receive(*entries, limits=enough).files == ()


def test_files_that_were_not_asked_for_are_refused(world: World) -> None:
    world.client.extra = [{"type": DATA, "ID": 3, "data": b"x"}]
    with pytest.raises(SyncError, match="not asked for"):
        world.receive(a_file("a", b"x"))


def test_what_the_client_cannot_send_is_told(world: World) -> None:
    world.client.extra = [{"type": ERROR, "data": b"permission denied"}]
    with pytest.raises(SyncError, match="permission denied"):
        world.receive(a_file("a", b"x"))


def test_a_build_that_is_given_up_does_not_wait_for_the_client(world: World) -> None:
    async def silent(call: Call) -> None:
        await call.gone()

    world.client.serve = silent  # type: ignore[method-assign]
    with Loop() as loop:
        cancel = Flag()
        cancel.set()
        with pytest.raises(CancelledError):
            receive(loop.session({DIFF_COPY: silent}), Wanted("c"), world.root, cancel)
