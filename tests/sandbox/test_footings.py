"""Which footings are tried, and for whom."""

import os

import pytest

from pybuild.errors import UsageError
from pybuild.sandbox import advice, caps, footings, syscalls
from pybuild.sandbox.errors import UserNamespaceError


def someone(monkeypatch: pytest.MonkeyPatch, *, root: bool, confined: bool, may_chroot: bool = True) -> None:
    """Be somebody else; only what this process is told of itself differs."""
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    kept = caps.KEPT if may_chroot else caps.KEPT & ~(1 << caps.NUMBERS["SYS_CHROOT"])
    monkeypatch.setattr(syscalls, "capabilities", lambda: kept)
    monkeypatch.setattr(advice, "container", lambda: "docker" if confined else "")
    monkeypatch.setattr(advice, "status", lambda field: "0")
    monkeypatch.setattr(advice, "in_chroot", lambda: False)
    monkeypatch.delenv(footings.VARIABLE, raising=False)


def test_root_of_a_container_has_chroot_as_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    someone(monkeypatch, root=True, confined=True)
    assert footings.wanted("") == ("namespaces", "ids", "bare")
    assert footings.wanted("namespaces") == ("namespaces",)
    assert footings.wanted("chroot") == ("ids", "bare")


def test_root_of_a_plain_system_has_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    someone(monkeypatch, root=True, confined=False)
    tried = footings.wanted("auto")
    assert tried == ("namespaces", "ids")
    error = footings.explained(UserNamespaceError("cannot", "the sysctl is 0"), tried)
    assert error.hint == "the sysctl is 0; or build less isolated, with `--isolation=chroot`"
    assert footings.wanted("chroot") == ("ids", "bare")


@pytest.mark.parametrize(("root", "may_chroot"), [(False, True), (True, False)])
def test_others_never_go_without_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch, root: bool, may_chroot: bool
) -> None:
    someone(monkeypatch, root=root, confined=True, may_chroot=may_chroot)
    assert footings.wanted("") == ("namespaces", "ids")
    assert footings.wanted("chroot") == ("ids",)
    error = UserNamespaceError("cannot", "do this")
    assert footings.explained(error, footings.wanted("")) is error


def test_variable_says_it_where_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    someone(monkeypatch, root=False, confined=False)
    monkeypatch.setenv(footings.VARIABLE, "chroot")
    assert footings.wanted("") == ("ids",)
    assert footings.wanted("namespaces") == ("namespaces",)
    with pytest.raises(UsageError, match="unknown isolation: jail"):
        footings.wanted("jail")
