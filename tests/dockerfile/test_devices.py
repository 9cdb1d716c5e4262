"""`RUN --device` as text."""

import pytest

from pybuild.dockerfile.devices import Device, parse_device
from pybuild.dockerfile.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("vendor.com/class", Device("vendor.com/class")),
        ("vendor.com/class=name", Device("vendor.com/class=name")),
        ("vendor.com/class=*", Device("vendor.com/class=*")),
        ("vendor.com/class=0:1,required", Device("vendor.com/class=0:1", required=True)),
        ("required,vendor.com/class=a", Device("vendor.com/class=a", required=True)),
        ("name=vendor.com/class=a,required=false", Device("vendor.com/class=a")),
        ('"vendor.com/class=a",Required=1', Device("vendor.com/class=a", required=True)),
    ],
)
def test_a_device_is_read(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "<empty>"),
        ("required", "<empty>"),
        ("gpu", "invalid name of a device: gpu"),
        ("vendor.com/class=", "invalid name"),
        ("1vendor/class=a", "invalid name"),
        ("vendor.com/class=a/b", "invalid name"),
        ("vendor.com/class=a,b", "unexpected key of a device: b"),
        ("vendor.com/class=a,requird=true", "did you mean"),
        ("vendor.com/class=a,required=maybe", "must be true or false"),
        ("name=vendor.com/a=b,name=vendor.com/a=c", "two names"),
        ('"vendor.com/class', "open quote in device"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_device(text)
    assert message in caught.value.message
