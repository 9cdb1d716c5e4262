"""Image names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

GOOD = {
    # text: (whole, familiar)
    "busybox": ("docker.io/library/busybox:latest", "busybox:latest"),
    "busybox:1.36": ("docker.io/library/busybox:1.36", "busybox:1.36"),
    "docker.io/busybox": ("docker.io/library/busybox:latest", "busybox:latest"),
    "index.docker.io/library/busybox": ("docker.io/library/busybox:latest", "busybox:latest"),
    "library/busybox": ("docker.io/library/busybox:latest", "busybox:latest"),
    "team/app": ("docker.io/team/app:latest", "team/app:latest"),
    "docker.io/library/a/b": ("docker.io/library/a/b:latest", "library/a/b:latest"),
    "localhost/app": ("localhost/app:latest", "localhost/app:latest"),
    "localhost:5000/app": ("localhost:5000/app:latest", "localhost:5000/app:latest"),
    "registry.example/a/b/c:T-1.x_y": ("registry.example/a/b/c:T-1.x_y", "registry.example/a/b/c:T-1.x_y"),
    "HOST/app": ("HOST/app:latest", "HOST/app:latest"),
    "[::1]:5000/app": ("[::1]:5000/app:latest", "[::1]:5000/app:latest"),
    "foo_bar/a__b---c.d": ("docker.io/foo_bar/a__b---c.d:latest", "foo_bar/a__b---c.d:latest"),
    f"app@{DIGEST}": (f"docker.io/library/app@{DIGEST}", f"app@{DIGEST}"),
    f"app:1@{DIGEST}": (f"docker.io/library/app:1@{DIGEST}", f"app:1@{DIGEST}"),
    "app:" + "t" * 128: ("docker.io/library/app:" + "t" * 128, "app:" + "t" * 128),
    "a" * 63: (f"docker.io/library/{'a' * 63}:latest", f"{'a' * 63}:latest"),
    "f" * 65: (f"docker.io/library/{'f' * 65}:latest", f"{'f' * 65}:latest"),
}

BAD = [
    "",
    " ",
    "/",
    ":",
    "@",
    "a/",
    "/a",
    "a//b",
    "a:",
    ":tag",
    "a:-x",
    "a:.x",
    "a:t" + "t" * 128,
    "a:b:c",
    "a@",
    "a@sha256:",
    "a@sha256:xyz",
    f"a@{DIGEST}x",
    f"a@{DIGEST.upper()}",
    "a@sha512:" + "0" * 128,
    f"a@{DIGEST}@{DIGEST}",
    f"@{DIGEST}",
    "0123456789abcdef" * 4,
    "App",
    "team/App",
    "-a",
    "a-",
    "a..b",
    "a___b",
    "a._b",
    ".a",
    "../a",
    "a/../b",
    "a/./b",
    "a b",
    "a\n",
    "a\n:b",
    "a:b\n",
    "\x1b[31ma",
    "a\0",
    "ä",
    "аpp",  # Cyrillic
    "a:١",
    "a.b_c/f",
    "host.example:port/a",
    "host.example:/a",
    "host.example:123456/a",
    "-host.example/a",
    "host-.example/a",
    "host..example/a",
    "host@evil.example/a",
    "http://host.example/a",
    "[::1/a",
    "a" * 256,
    "host.example/" + "a/" * 128 + "a",
    "h" * 260 + ".x/a",
]


@pytest.mark.parametrize("text", GOOD)
def test_names_are_completed_and_shortened(text: str) -> None:
    whole, familiar = GOOD[text]
    reference = parse_reference(text)
    assert str(reference) == whole
    assert reference.familiar() == familiar
    assert parse_reference(familiar) == reference
    assert parse_reference(whole) == reference


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference(text)
    assert caught.value.http_status == 400
    assert len(caught.value.message) < 200
    assert "\x1b" not in caught.value.message


def test_a_domain_alone_is_a_repository_of_docker_hub() -> None:
    # As Docker reads it: without a slash there is no domain
    assert str(parse_reference("docker.io")) == "docker.io/library/docker.io:latest"


def test_upper_case_gets_a_hint() -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference("team/App")
    assert "lower case" in caught.value.hint


def test_a_tag_can_be_given_to_a_repository() -> None:
    reference = parse_reference(f"app@{DIGEST}").with_tag("2")
    assert reference == Reference("docker.io", "library/app", "2")
    with pytest.raises(InvalidReferenceError):
        reference.with_tag("no tag")


_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_domain = st.sampled_from(["docker.io", "localhost", "localhost:1", "a.example", "A", "[fe80::1]:443"])


@given(
    _domain,
    st.lists(_component, min_size=1, max_size=4),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_familiar_names_mean_the_same(domain: str, components: list[str], tag: str) -> None:
    reference = parse_reference(f"{domain}/{'/'.join(components)}:{tag}")
    assert parse_reference(reference.familiar()) == reference
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=80) | st.text("aA0:/@.-_[]", max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReferenceError:
        return
    assert str(reference).isascii()
    assert parse_reference(reference.familiar()) == reference
