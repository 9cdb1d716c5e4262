"""Platforms."""

import pytest

from pybuild.errors import UsageError
from pybuild.oci.platform import Platform, host_platform, normalise, parse_platform, runs_on

PARSED = {
    "linux/amd64": "linux/amd64",
    "linux/x86_64": "linux/amd64",
    "Linux/AMD64": "linux/amd64",
    "linux/amd64/v1": "linux/amd64",
    "linux/amd64/v3": "linux/amd64/v3",
    "linux/aarch64": "linux/arm64",
    "linux/arm64/v8": "linux/arm64",
    "linux/arm64/8": "linux/arm64",
    "linux/arm": "linux/arm/v7",
    "linux/arm/7": "linux/arm/v7",
    "linux/arm/v6": "linux/arm/v6",
    "linux/armel": "linux/arm/v6",
    "linux/i686": "linux/386",
    "linux/riscv64": "linux/riscv64",
    "macos/arm64": "darwin/arm64",
}


@pytest.mark.parametrize("text", PARSED)
def test_platforms_have_one_normal_form(text: str) -> None:
    platform = parse_platform(text)
    assert str(platform) == PARSED[text]
    assert parse_platform(str(platform)) == platform


@pytest.mark.parametrize(
    "text", ["", "linux", "///", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "linux/\x1b", "li\n/a"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("s390x", "linux/s390x"),
        ("ppc64le", "linux/ppc64le"),
    ],
)
def test_the_platform_of_a_machine(machine: str, wanted: str) -> None:
    assert str(host_platform(machine)) == wanted


def test_normalising_takes_parts() -> None:
    assert normalise("linux", "arm64", "v8") == Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("linux", "linux/arm64"), ("arm64", "linux/arm64"), ("x86_64", "linux/amd64"), ("arm", "linux/arm/v7")],
)
def test_with_a_host_one_part_is_enough(text: str, wanted: str) -> None:
    host = Platform("linux", "arm64")
    assert str(parse_platform(text, host)) == wanted
    assert parse_platform("local", host) is host
    for nonsense in ("", "linux/", "nothing", "local/x/y/z"):
        with pytest.raises(UsageError):
            parse_platform(nonsense, host)


def test_earlier_variants_run_on_later_ones() -> None:
    for image, wanted, expected in (
        ("linux/arm/v6", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/amd64", "linux/amd64/v3", True),
        ("linux/amd64/v3", "linux/amd64", False),
        ("linux/arm64", "linux/arm64/v8.1", True),
        ("linux/arm64", "linux/amd64", False),
        ("windows/amd64", "linux/amd64", False),
    ):
        assert runs_on(parse_platform(image), parse_platform(wanted)) is expected
