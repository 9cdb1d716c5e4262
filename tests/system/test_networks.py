"""Networks of RUN as the command line gives them, through both doors; that nothing is left is checked at the end."""

from pathlib import Path

import pytest

from support.program import Pybuild

pytestmark = pytest.mark.userns


def notices(events: list[dict[str, object]]) -> list[str]:
    return [str(event["message"]) for event in events if event["event"] == "Notice"]


@pytest.mark.tun
@pytest.mark.parametrize("network", ["private", "default", "bridge"])
def test_steps_of_a_build_share_a_private_network(base: Pybuild, context: Path, network: str) -> None:
    text = (
        "FROM base\nRUN cat /etc/resolv.conf > /names; readlink /proc/self/ns/net > /first; grep eth0 /proc/net/dev\n"
        "RUN readlink /proc/self/ns/net > /second\nRUN --network=none readlink /proc/self/ns/net > /third\n"
    )
    image = base.image(context, f"--network={network}", "--no-cache", dockerfile=text)
    assert image.read("first") == image.read("second") != image.read("third")
    assert image.read("names").startswith("nameserver 10.0.2.3\n")
    # No trace of the files that are mounted
    assert not {"etc/resolv.conf", "etc/hosts", "etc/hostname"} & set(image.tree())


@pytest.mark.tun
def test_private_network_that_is_interrupted_leaves_nothing(base: Pybuild, context: Path) -> None:
    place = base.base / "Dockerfile"
    place.write_text("FROM base\nRUN sleep 60\n")
    result = base("build", "--network=private", "--timeout=1s", "-f", place, context, status=1)
    assert "did not end within 1s" in result.err


def test_default_falls_back_with_one_line_and_private_is_an_error(inline_base: Pybuild, context: Path) -> None:
    program = inline_base
    tools = program.base / "tools"
    tools.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    env = {**program.env, "PATH": str(tools)}
    text = "FROM base\nRUN true\nRUN readlink /proc/self/ns/net\n"
    told = notices(program.build(context, "--no-cache", dockerfile=text, env=env).events)
    assert [line for line in told if "network of the host" in line] == [
        "RUN uses the network of the host: neither `pasta` nor `slirp4netns` is installed"
    ]
    told = notices(program.build(context, "--no-cache", "--network=host", dockerfile=text, env=env).events)
    assert not [line for line in told if "network" in line]
    result = program.build(context, "--no-cache", "--network=private", dockerfile=text, env=env, status=1)
    failure = result.events[-1]["failure"]
    assert failure["line"] == 2
    assert "neither `pasta` nor `slirp4netns`" in failure["message"]
    assert "passt" in failure["hint"]


def test_default_and_private_share_their_cache(base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN true # networks\n"
    base.build(context, dockerfile=text)
    assert base.build(context, "--network=private", dockerfile=text).redone() == []
    assert base.build(context, "--network=host", dockerfile=text).redone() == ["RUN true # networks"]
