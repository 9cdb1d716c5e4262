"""Specs as values."""

import os

import msgspec
import pytest

from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import MAX_LAYERS, FileMount, SandboxSpec


def test_spec_survives_its_trip_with_any_bytes() -> None:
    odd = os.fsdecode(b"\xff\x01")
    spec = SandboxSpec(
        argv=("/bin/sh", odd),
        lowers=(b"/a\xff", b"/b"),
        staging=b"/s",
        env=(("A", odd), ("B", "")),
        cwd="/" + odd,
        user="www:" + odd,
        network="none",
        hostname="h",
        extra_hosts=("a:1.2.3.4",),
        shm_size=5,
        ulimits=(("nofile", 1, -1),),
        scripts=(("EOF", b"\0"),),
        mounts=(FileMount("/t", b"c", 0o400),),
        grace=0.5,
    )
    sent = msgspec.msgpack.encode(spec.to_wire())
    assert SandboxSpec.from_wire(msgspec.msgpack.decode(sent)) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argv": ()}, "no command"),
        ({"argv": ("",)}, "no command"),
        ({"argv": ("a\0b",)}, "NUL"),
        ({"env": (("A", "\0"),)}, "NUL"),
        ({"network": "bridge"}, "network mode"),
        ({"scripts": (("../x", b""),)}, "file name"),
        ({"scripts": (("..", b""),)}, "file name"),
        ({"lowers": (b"/x",) * (MAX_LAYERS + 1)}, "more layers"),
    ],
)
def test_what_no_sandbox_could_be_made_of_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SandboxError, match=message):
        SandboxSpec(**{"argv": ("/bin/true",), "lowers": (), "staging": b"/s", **changes})  # type: ignore[arg-type]


def test_description_shows_no_values_of_the_environment() -> None:
    spec = SandboxSpec(argv=("/bin/true",), lowers=(), staging=b"/s", env=(("TOKEN", "canary"),))
    assert "TOKEN" in spec.describe()
    assert "canary" not in spec.describe()
