"""Addresses: what is taken for a URL, what for a repository, and what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.dockerfile.addresses import redacted
from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.remotes import Repository, Url, parse_remote

FULL = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://example.com/a/b.tar.gz", "b.tar.gz"),
        ("HTTP://example.com/a", "a"),
        ("http://example.com/a?x=/y#z", "a"),
        ("http://example.com/a%20b%2Fc", "c"),
        ("http://example.com", "__unnamed__"),
        ("http://example.com/a/", "__unnamed__"),
        ("http://example.com/a/..", "__unnamed__"),
        ("http://example.com/a/%2e%2e", "__unnamed__"),
        ("http://[2001:db8::1]:8080/x", "x"),
    ],
)
def test_urls(text: str, name: str) -> None:
    assert parse_remote(text) == Url(text.partition("#")[0], name)


@pytest.mark.parametrize(
    ("text", "address", "more"),
    [
        ("https://example.com/a/b.git", "https://example.com/a/b.git", {}),
        ("https://example.com:8443/b.git#v1", "https://example.com:8443/b.git", {"port": 8443, "ref": "v1"}),
        ("https://example.com/b.git#v1:sub/dir", "https://example.com/b.git", {"ref": "v1", "subdir": "sub/dir"}),
        ("https://example.com/b.git#:/sub/", "https://example.com/b.git", {"subdir": "sub"}),
        ("git://example.com/b#feature/x", "git://example.com/b", {"scheme": "git", "ref": "feature/x"}),
        ("ssh://git@example.com/b", "ssh://git@example.com/b", {"scheme": "ssh"}),
        ("git@example.com:a/b.git#v1", "git@example.com:a/b.git", {"scheme": "ssh", "ref": "v1"}),
        ("git@example.com:a?branch=x", "git@example.com:a", {"scheme": "ssh", "ref": "refs/heads/x"}),
        ("https://example.com/b.git?ref=v1&subdir=s", "https://example.com/b.git", {"ref": "v1", "subdir": "s"}),
        ("https://example.com/b.git?tag=v1", "https://example.com/b.git", {"ref": "refs/tags/v1"}),
        ("https://example.com/b.git?branch=refs/heads/x", "https://example.com/b.git", {"ref": "refs/heads/x"}),
        (f"https://example.com/b.git?commit={FULL}", "https://example.com/b.git", {"ref": FULL, "commit": FULL}),
        ("https://example.com/b.git?checksum=ABCDEF0", "https://example.com/b.git", {"commit": "abcdef0"}),
        (
            "https://example.com/b.git?keep-git-dir&submodules=false",
            "https://example.com/b.git",
            {"keep_git_dir": True, "submodules": False},
        ),
    ],
)
def test_repositories(text: str, address: str, more: dict[str, object]) -> None:
    wanted = {"scheme": "https", "host": "example.com", **more}
    assert parse_remote(text) == Repository(address, **wanted)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "file",
            "a/b",
            "./https://x/y",
            "/abs",
            "file:///etc/passwd",
            "ext::sh -c x",
            "ftp://example.com/x",
            "fd::17",
        ),
        *("-oProxyCommand=x@y:z", "a/b@example.com:x", "github.com/a/b", "--upload-pack=x", "user@-host:x"),
    ],
)
def test_local_names(text: str) -> None:
    assert parse_remote(text) is None


def test_github_is_known_in_contexts_only() -> None:
    assert parse_remote("github.com/a/b#v1", context=True) == Repository(
        "https://github.com/a/b", "https", "github.com", ref="v1"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("https:///x", "https://host:port/x", "https://-host/x", "http://h/a b", "http://h/a\nb", "http://h/a%00b"),
        *("https://example.com/b.git#-x", "https://example.com/b.git#--upload-pack=touch", "https://h/b.git#a..b"),
        *("https://h/b.git#a b", "https://h/b.git#a%0ab", "https://h/b.git#@{1}", "https://h/b.git#a.lock", "git://h"),
        *("ssh://-oProxyCommand=x/y", "ssh://-oX@h/y", "ssh://h/-x", "git@h:-x", "git@h:", "https://h/b.git?what=1"),
        *("https://h/b.git?ref=a&ref=b", "https://h/b.git?ref=a#b", "https://h/b.git?tag=a&branch=b"),
        *("https://h/b.git?ref", "https://h/b.git?checksum=xyz", "https://h/b.git?submodules=maybe"),
        *("http://a\\@b/x", "https://a\\@b/x.git", "git://a\\@b/x"),
        "http://h/" + "x" * 9000,
    ],
)
def test_what_cannot_be_meant(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_remote(text)


PIECES = st.sampled_from(
    [
        *(
            "http",
            "https",
            "git",
            "ssh",
            "://",
            "//",
            ":",
            "@",
            "/",
            "#",
            "?",
            "&",
            "=",
            "[",
            "]",
            "%",
            "%0a",
            "..",
            "-",
        ),
        *("host", "127.0.0.1", "::1", "443", "99999", "a.git", "ref", "tag", "subdir", "é", "\u2028", "\0", "\\", " "),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40).map(lambda text: f"https://{text}"))
def test_whatever_is_written_is_understood_or_refused(text: str) -> None:
    try:
        found = parse_remote(text, context=True)
    except InvalidValueError:
        return
    if isinstance(found, Repository):
        assert not found.ref.startswith("-")
        assert not found.address.startswith("-")
    elif found is not None:
        assert found.name not in ("", ".", "..")
        assert "/" not in found.name


def test_passwords_are_taken_out() -> None:
    assert redacted("ADD https://me:p@ss@host/x?a@b http://t@h/ a@b") == (
        "ADD https://xxxxx@host/x?a@b http://xxxxx@h/ a@b"
    )
    with pytest.raises(InvalidValueError) as failed:
        parse_remote("https://me:secret@host:port/x")
    assert "secret" not in failed.value.message
