"""Which ids are mapped, and what is said when they cannot be."""

import errno
import os
from pathlib import Path

import pytest

from pybuild.sandbox import idmap
from pybuild.sandbox.errors import IdMapError, UserNamespaceError
from pybuild.sandbox.idmap import IdMap


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["me:100000:65536"], [(100000, 65536)]),
        (["1001:5:6", "me:7:8", "other:9:10"], [(5, 6), (7, 8)]),
        (["me:1:2", "me:1:2"], [(1, 2)]),
        (["me:1:0", "me:x:2", "me:1", "", "#me:1:2", ":1:2", "me:1:2:3"], []),
    ],
)
def test_ranges_of_a_user(lines: list[str], expected: list[tuple[int, int]]) -> None:
    assert idmap.own_ranges(lines, "me", 1001) == expected


def test_nameless_user_owns_only_ranges_by_number() -> None:
    assert idmap.own_ranges([":1:2", "7:3:4"], "", 7) == [(3, 4)]


def test_ranges_are_chained_behind_the_user() -> None:
    assert idmap.chain(1000, [(100000, 10), (500000, 5)]) == ((0, 1000, 1), (1, 100000, 10), (11, 500000, 5))


def test_kernel_takes_no_more_than_so_many_extents() -> None:
    assert len(idmap.chain(0, [(number, 1) for number in range(1000)])) == idmap.MAX_EXTENTS


def test_mode_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_ID_MODE", "single")
    assert idmap.choose().mode == "single"
    monkeypatch.setenv("PYBUILD_ID_MODE", "triple")
    with pytest.raises(IdMapError, match="unknown id mode"):
        idmap.choose()


def test_default_follows_what_the_user_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYBUILD_ID_MODE", raising=False)
    chosen = idmap.choose()
    assert chosen.mode in ("multi", "root", "single")
    assert (chosen.mode == "single") == bool(idmap.why_single())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may have it")
def test_root_mode_is_for_root() -> None:
    with pytest.raises(IdMapError):
        idmap.choose("root")


def test_helper_that_is_not_there_is_named_with_its_package() -> None:
    with pytest.raises(IdMapError, match="not installed") as caught:
        idmap.find_helper("newuidmap-that-nobody-has")
    assert "uidmap" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no set-uid bit")
def test_helper_without_power_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "newuidmap").write_text("")
    (tmp_path / "newuidmap").chmod(0o755)
    monkeypatch.setattr(idmap, "_HELPER_PATH", str(tmp_path))
    with pytest.raises(IdMapError, match="not set-uid root"):
        idmap.find_helper("newuidmap")


def test_failed_helper_is_quoted() -> None:
    ids = IdMap("multi", ((0, 1, 1),), ((0, 1, 1),), ("/usr/bin/newuidmap", "/usr/bin/newgidmap"))
    with pytest.raises(IdMapError, match="`newuidmap` failed: range not allowed"):
        idmap.write_maps(ids, 1, lambda command: (1, "range\nnot allowed\n"))


def test_helpers_get_all_extents() -> None:
    ids = IdMap("multi", ((0, 1000, 1), (1, 5, 6)), ((0, 1001, 1),), ("/a", "/b"))
    calls: list[list[str]] = []
    idmap.write_maps(ids, 42, lambda command: (calls.append(list(command)) or 0, ""))  # type: ignore[func-returns-value]
    assert calls == [["/a", "42", "0", "1000", "1", "1", "5", "6"], ["/b", "42", "0", "1001", "1"]]


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "user.max_user_namespaces"), (errno.EUSERS, "nested"), (errno.ENOSYS, "kernel")]
)
def test_refusals_come_with_advice(number: int, word: str) -> None:
    error = idmap.refused("make a user namespace", number)
    assert isinstance(error, UserNamespaceError)
    assert word in error.hint


def test_permission_always_comes_with_some_advice() -> None:
    assert idmap.refused("make a user namespace", errno.EPERM).hint
    assert idmap.refused("separate the mount namespace", errno.EACCES).hint
