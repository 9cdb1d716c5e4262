"""Accounts of keys, and what they tell apart."""

from typing import Any

import pytest

from pybuild.oci.digest import digest_of
from pybuild.plan.account import Account, account_of, identity
from pybuild.plan.changes import Change, clause, compare, distance
from pybuild.plan.keys import Key, copy_key, run_key, workdir_key
from pybuild.plan.ops import (
    BindMount,
    CopyOp,
    FromContext,
    RunMount,
    RunOp,
    SecretMount,
    WorkdirOp,
)
from pybuild.tree.listing import Listing, Row, fold

BELOW = (("base", "sha256:b"), ("COPY a /", "sha256:1"))


def run(
    argv: str = "make",
    env: dict[str, str] | None = None,
    mounts: tuple[RunMount, ...] = (),
    contents: list[bytes] | None = None,
    options: dict[str, object] | None = None,
    mode: str = "multi",
    **more: Any,
) -> Key:
    op = RunOp(
        argv=("/bin/sh", "-c", argv),
        env=tuple((env or {}).items()),
        hidden_env=(),
        mounts=mounts,
        **{"cwd": "/", "user": "", "network": "default", **more},
    )
    return run_key(op, digest_of(b"chain"), mode, options or {"shm": 0, "hosts": ()}, contents or [b""] * len(mounts))


def account(key: Key, text: str = "RUN make", **more: Any) -> Account:
    made = account_of(key, stage="s", place=0, text=text, below=more.pop("below", BELOW), **more)
    # As it comes back from the store
    again = Account.decode(made.encode())
    assert again is not None
    return again


def changed(old: Account, new: Account) -> list[tuple[str, str, str, str]]:
    return [(change.part, change.name, change.old, change.new) for change in compare(old, new, None, None)]


def test_the_same_key_has_no_changes() -> None:
    assert compare(account(run()), account(run()), None, None) == []
    assert distance(account(run()), account(run())) == 0
    assert clause([]) == ""


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (run(user="me"), ("user", "", "", "me")),
        (run(cwd="/w"), ("workdir", "", "/", "/w")),
        (run(platform="linux/arm64"), ("platform", "", "", "linux/arm64")),
        (run(mode="single"), ("mode", "", "multi", "single")),
        (run(network="none"), ("network", "", "default", "none")),
        (run(insecure=True), ("instruction", "security", "", "insecure")),
        (run(options={"shm": 5, "hosts": ()}), ("option", "--shm-size", "0", "5")),
        (run(options={"shm": 0, "hosts": ("a:1.2.3.4",)}), ("option", "--add-host", "", "a:1.2.3.4")),
        (run(env={"A": "1"}), ("env", "A", "", "1")),
        (run("make all"), ("instruction", "command", "/bin/sh, -c, make", "/bin/sh -c make all")),
    ],
)
def test_each_part_of_a_run_is_told(new: Key, change: tuple[str, str, str, str]) -> None:
    (found,) = changed(account(run()), account(new))
    assert found == (*change[:2], change[2].replace(", ", " "), change[3])


def test_another_text_is_told_as_such() -> None:
    old, new = account(run()), account(run("make all"), "RUN make all")
    assert changed(old, new) == [("instruction", "", "RUN make", "RUN make all")]
    assert changed(old, account(workdir_key(WorkdirOp("/w", ""), None, None), "WORKDIR /w")) == [
        ("instruction", "", "RUN make", "WORKDIR /w")
    ]


def test_variables_of_arg_and_env_are_told_apart() -> None:
    old = account(run(env={"A": "1", "V": "x", "gone": "1"}), args=("V",))
    new = account(run(env={"A": "2", "V": "y", "new": ""}), args=("V",))
    assert changed(old, new) == [
        ("arg", "V", "x", "y"),
        ("env", "A", "1", "2"),
        ("env", "new", "", ""),
        ("env", "gone", "1", ""),
    ]


def test_values_that_look_secret_are_not_kept() -> None:
    old, new = (account(run(env={"API_TOKEN": value})) for value in ("hunter2", "hunter3"))
    assert b"hunter" not in old.encode()
    ((part, name, before, after),) = changed(old, new)
    assert (part, name, before != after, before[:7]) == ("env", "API_TOKEN", True, "sha256:")


def test_accounts_are_bounded_and_still_tell_a_difference() -> None:
    old, new = (account(run("x" * 100_000 + end, {f"V{n}": end * 10_000 for n in range(3000)})) for end in "ab")
    assert len(old.encode()) < 400_000
    parts = {change.part for change in compare(old, new, None, None)}
    assert {"instruction", "env"} <= parts
    account(run("echo \udc80", {"A": "\udc80"}), "RUN echo \udc80")


def test_mounts_are_told_by_target() -> None:
    bind, other = BindMount("/b", FromContext()), BindMount("/b", FromContext(), read_only=False)
    secret = SecretMount("s", "/s")
    old = account(run(mounts=(bind,), contents=[b"1"]))
    name = "type=bind,target=/b"
    assert changed(old, account(run(mounts=(bind,), contents=[b"2"]))) == [("mount", name, "sha256:31", "sha256:32")]
    assert changed(old, account(run(mounts=(other,), contents=[b"1"]))) == [("mount", name, "True", "False")]
    assert changed(old, account(run(mounts=(bind, secret), contents=[b"1", b""]))) == [
        ("mount", "type=secret,id=s", "", "there")
    ]


@pytest.mark.parametrize(
    ("new", "change"),
    [
        ((("base", "sha256:c"), *BELOW[1:]), ("base", "base", "sha256:b", "sha256:c")),
        ((("other", "sha256:c"), *BELOW[1:]), ("base", "", "base sha256:b", "other sha256:c")),
        ((BELOW[0], ("COPY a /", "sha256:2")), ("layer", "COPY a /", "sha256:1", "sha256:2")),
        ((BELOW[0], ("RUN x", "sha256:3"), BELOW[1]), ("layer", "RUN x", "", "sha256:3")),
        (BELOW[:1], ("layer", "COPY a /", "sha256:1", "")),
        ((*BELOW, ("RUN x", "sha256:3")), ("layer", "RUN x", "", "sha256:3")),
    ],
)
def test_the_first_thing_below_that_differs_is_told(
    new: tuple[tuple[str, str], ...], change: tuple[str, str, str, str]
) -> None:
    old = account(workdir_key(WorkdirOp("/w", ""), digest_of(b"1"), None), "WORKDIR /w")
    assert changed(old, account(workdir_key(WorkdirOp("/w", ""), digest_of(b"2"), None), "WORKDIR /w", below=new)) == [
        change
    ]


def files(**sizes: int) -> Listing:
    return Listing({name: Row(name, "f", size, b"%08d" % size, "0644 0:0") for name, size in sizes.items()})


def copy(content: bytes, **more: Any) -> Account:
    op = CopyOp("COPY", FromContext(), ("src",), (), "/", **more)
    return account(copy_key(op, digest_of(b"chain"), content, None), "COPY src /")


def test_files_are_told_with_digests_and_sizes() -> None:
    old, new = files(same=1, edited=2, gone=3), files(same=1, edited=4, new=5)
    found = compare(copy(b"1"), copy(b"2"), old, new)
    assert found == [
        Change("file", "edited", "sha256:3030303030303032", "sha256:3030303030303034", 2, 4),
        Change("file", "gone", "sha256:3030303030303033", "", 3, -1),
        Change("file", "new", "", "sha256:3030303030303035", -1, 5),
    ]
    assert clause(found) == "file edited and 2 more changed"
    assert clause(found[2:]) == "file new is new"
    assert clause(found[1:2]) == "file gone is gone"
    # Without a listing there is still the digest of all
    assert changed(copy(b"1"), copy(b"2")) == [("content", "", "sha256:31", "sha256:32")]


def test_rights_are_told_where_they_alone_differ() -> None:
    row = Row("a", "f", 1, b"x", "0755 0:0")
    (found,) = compare(copy(b"1"), copy(b"2"), Listing({"a": Row("a", "f", 1, b"x", "0644 0:0")}), Listing({"a": row}))
    assert (found.old, found.new) == ("0644 0:0", "0755 0:0")


def test_listings_of_other_depths_are_compared_as_directories() -> None:
    deep = Listing({f"d/{name}": Row(f"d/{name}", "f", 1, name.encode()) for name in "ab"})
    other = Listing({**deep.rows, "e/c": Row("e/c", "f", 1, b"c")})
    assert compare(copy(b"1"), copy(b"2"), fold(deep, 1), other)[0].name == "e"
    assert compare(copy(b"1"), copy(b"2"), deep, fold(other, 1))[0].part == "directory"
    assert compare(copy(b"1"), copy(b"2"), fold(deep, -1), other)[0].name == "."


def test_the_clause_names_the_most_telling_part_first() -> None:
    found = [Change("layer", "COPY a /", "1", "2"), Change("env", "A", "1", "2"), Change("arg", "V", "1", "2")]
    assert clause(found) == "ARG V changed; ENV, what is below too"
    assert clause(found[:1]) == "the layer of `COPY a /` changed"
    assert clause([Change("mode", "", "multi", "single")]) == "how user ids are mapped changed"
    assert len(clause([Change("file", "x" * 5000, "1", "2")])) < 100


def test_an_account_of_another_version_counts_as_none() -> None:
    assert Account.decode(account(run()).encode().replace(b'"kind"', b'"version":2,"kind"')) is None
    assert Account.decode(b"nonsense") is None


def test_steps_are_found_by_kind_and_text() -> None:
    assert identity("run", "RUN a") == identity("run", "RUN a")
    assert len({identity("run", "RUN a"), identity("run", "RUN b"), identity("copy", "RUN a")}) == 3
