"""Messages come out as they went in, and nonsense is told."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.buildkit import messages
from pybuild.buildkit.wire import Field, Message, WireError, a_map

INNER = Message("Inner", {1: Field("word", "string")})
OUTER = Message(
    "Outer",
    {
        1: Field("number", "int"),
        2: Field("flag", "bool"),
        3: Field("inner", INNER),
        4: Field("words", "string", True),
        5: a_map("map"),
        7: Field("bytes", "bytes"),
        8: Field("numbers", "int", True),
        200: Field("unsigned", "uint"),
    },
)


@pytest.mark.parametrize(
    ("values", "encoded"),
    [
        ({"number": 150}, "089601"),
        ({"number": -1}, "08ffffffffffffffffff01"),
        ({"number": 0, "flag": False, "inner": None, "bytes": b""}, ""),
        ({"inner": {"word": "testing"}}, "1a090a0774657374696e67"),
        ({"inner": {}}, "1a00"),
        ({"words": ["a", ""]}, "22016122" + "00"),
        ({"map": {"k": "v"}}, "2a060a016b120176"),
        ({"unsigned": 1 << 31}, "c00c8080808008"),
    ],
)
def test_bytes_are_those_of_protocol_buffers(values: dict[str, Any], encoded: str) -> None:
    assert OUTER.encode(values).hex() == encoded
    decoded = OUTER.decode(bytes.fromhex(encoded))
    wanted = {name: value for name, value in values.items() if name != "inner"}
    assert {name: decoded[name] for name in wanted} == wanted
    assert decoded["inner"] == (None if values.get("inner") is None else {"word": "", **values["inner"]})


@given(
    st.fixed_dictionaries(
        {
            "number": st.integers(-(1 << 63), (1 << 63) - 1),
            "flag": st.booleans(),
            "words": st.lists(st.text()),
            "map": st.dictionaries(st.text(), st.text()),
            "bytes": st.binary(),
            "numbers": st.lists(st.integers(0, 1 << 40)),
            "unsigned": st.integers(0, (1 << 64) - 1),
        }
    )
)
def test_what_is_encoded_is_decoded(values: dict[str, Any]) -> None:
    assert OUTER.decode(OUTER.encode(values)) == {**values, "inner": None}


def test_packed_numbers_and_unknown_fields_are_read() -> None:
    packed = bytes.fromhex("420301" + "9601")
    unknown = bytes.fromhex("48" + "05" + "5202" + "0000" + "5d" + "00000000" + "59" + 16 * "0")
    assert OUTER.decode(packed + unknown)["numbers"] == [1, 150]


def test_names_of_files_that_are_no_utf8_survive() -> None:
    data = messages.STAT.encode({"path": b"\xff/x".decode("utf-8", "surrogateescape")})
    assert b"\xff/x" in data
    assert messages.STAT.decode(data)["path"].encode("utf-8", "surrogateescape") == b"\xff/x"


@pytest.mark.parametrize(
    "encoded", ["08", "0a05", "1a05610a", "0b", "1a01ff", "08" + 11 * "80" + "01", "0a0161", "3001"]
)
def test_nonsense_is_told_or_skipped(encoded: str) -> None:
    if encoded == "3001":
        assert OUTER.decode(bytes.fromhex(encoded))["number"] == 0
        return
    with pytest.raises(WireError):
        OUTER.decode(bytes.fromhex(encoded))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for message in (messages.SOLVE, messages.PACKET, messages.RETURN):
        with suppress(WireError):
            assert {*message.decode(data)} == {field.name for field in message.fields.values()}
