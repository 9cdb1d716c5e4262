"""Digests."""

import hashlib

import pytest

from pybuild.oci.digest import Digest, InvalidDigestError, chain_id, digest_of, parse_digest

GOOD = "sha256:" + "0123456789abcdef" * 4


def test_a_digest_is_kept_as_it_is() -> None:
    assert parse_digest(GOOD) == GOOD
    assert digest_of(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:../../x",
        GOOD[:-1],
        GOOD + "0",
        GOOD.upper(),
        GOOD[7:],
        f"{GOOD}\n",
        f" {GOOD}",
        "md5:" + "0" * 32,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        parse_digest(text)


def test_chain_ids_are_those_of_the_specification() -> None:
    one, two, three = (digest_of(bytes([number])) for number in range(3))
    assert chain_id([]) is None
    assert chain_id([one]) == one
    above = Digest("sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest())
    assert chain_id([one, two]) == above
    assert chain_id([one, two, three]) == digest_of(f"{above} {three}".encode())
    assert chain_id([one, two]) != chain_id([two, one])
