"""Results of steps travel between machines that have a registry in common."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import busybox, program, registry
from support.program import Pybuild, Result
from support.registry import Fault, Registry

pytestmark = pytest.mark.userns

TEXT = """\
FROM scratch AS rootfs
ADD base.tar /
FROM rootfs AS tools
RUN seq 9999 > /tool
FROM rootfs
COPY --from=tools /tool /tool
RUN head -c 30000 /dev/urandom > made
"""


@pytest.fixture
def inputs(context: Path) -> Path:
    busybox.write_rootfs(context / "base.tar")
    (context / "Dockerfile").write_text(TEXT)
    return context


@pytest.fixture
def other(_adopted: None) -> Iterator[Pybuild]:
    with program.world("inline") as pybuild:
        yield pybuild


@pytest.fixture
def remote() -> Iterator[Registry]:
    with registry.fake() as found:
        yield found


def image_id(result: Result) -> str:
    return str(result.events[-1]["image_id"])


def warnings(result: Result) -> list[str]:
    return [event["message"] for event in result.events if event["event"] == "Notice" and event["level"] == "warning"]


def test_another_machine_does_nothing_again(inline: Pybuild, other: Pybuild, remote: Registry, inputs: Path) -> None:
    ref = remote.name("team/cache:main")
    first = inline.build(inputs, "--cache-to", f"type=registry,ref={ref},mode=max")
    assert not warnings(first)
    kind, data = remote.contents.documents["team/cache", "main"]
    assert kind == "application/vnd.oci.image.manifest.v1+json"
    assert json.loads(data)["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    taken = other.build(inputs, "--cache-from", f"type=registry,ref={ref}")
    assert not taken.redone()
    assert image_id(taken) == image_id(first)
    # What was given once is not given again
    sent = len(remote.asked("PATCH"))
    inline.build(inputs, "--cache-to", f"type=registry,ref={ref},mode=max")
    assert len(remote.asked("PATCH")) == sent


def test_only_layers_that_are_asked_for_come(inline: Pybuild, other: Pybuild, remote: Registry, inputs: Path) -> None:
    ref = remote.name("cache")
    inline.build(inputs, "--cache-to", f"type=registry,ref={ref}")
    del remote.web.asked[:]
    (inputs / "Dockerfile").write_text("FROM scratch\nADD base.tar /\nWORKDIR /elsewhere\n")
    taken = other.build(inputs, "--cache-from", ref)
    assert taken.redone() == ["WORKDIR /elsewhere"]
    assert len(remote.asked("GET", "/blobs/")) == 2


@pytest.mark.slow
def test_results_in_an_image_bring_their_layers_alone(
    inline: Pybuild, other: Pybuild, remote: Registry, inputs: Path
) -> None:
    name = remote.name("app:1")
    inline.build(inputs, "-t", name, "--push", "--cache-to", "type=inline")
    taken = other.build(inputs, "--cache-from", name)
    assert taken.redone() == ["RUN seq 9999 > /tool"]


def test_a_registry_that_fails_is_a_warning(inline: Pybuild, remote: Registry, inputs: Path) -> None:
    remote.contents.lasting.append(lambda asked: Fault(status=403, body=b'{"errors":[{"message":"not for you"}]}'))
    ref = remote.name("cache")
    result = inline.build(inputs, "--cache-to", f"type=registry,ref={ref}", "--cache-from", ref)
    assert len([told for told in warnings(result) if "not for you" in told or "access is denied" in told]) == 2
    failed = inline.build(inputs, "--cache-to", f"type=registry,ref={ref},ignore-error=false", status=1)
    assert "access is denied" in failed.events[-1]["failure"]["message"]


@pytest.mark.slow
def test_a_layer_that_is_damaged_is_made_again(inline: Pybuild, other: Pybuild, remote: Registry, inputs: Path) -> None:
    ref = remote.name("cache")
    inline.build(inputs, "--cache-to", f"type=registry,ref={ref}")
    largest = max(remote.contents.blobs, key=lambda name: len(remote.contents.blobs[name]))
    remote.contents.blobs[largest] = remote.contents.blobs[largest][:-1] + b"?"
    result = other.build(inputs, "--cache-from", f"type=registry,ref={ref}")
    assert "not what its digest says" in warnings(result)[0]
    assert "ADD base.tar /" in result.redone()


@pytest.mark.peers
def test_dockers_registry_takes_a_cache(inline: Pybuild, other: Pybuild, inputs: Path, tmp_path: Path) -> None:
    with registry.program(tmp_path / "registry") as found:
        ref = found.name("team/cache:main")
        first = inline.build(inputs, "--cache-to", f"type=registry,ref={ref},mode=max,compression=zstd")
        assert not warnings(first)
        taken = other.build(inputs, "--cache-from", f"type=registry,ref={ref}")
        assert not taken.redone()
        assert image_id(taken) == image_id(first)
