"""Results of steps travel between machines that have a registry in common."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from support import busybox, program, registry
from support.program import Pybuild, Result
from support.registry import Fault, Registry
from support.web import Asked

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


def test_layers_go_while_the_build_goes_on(inline: Pybuild, other: Pybuild, remote: Registry, inputs: Path) -> None:
    sent, late = Event(), []

    def gate(asked: Asked) -> Fault | None:
        if asked.method == "PATCH":
            sent.set()
        if asked.path != "/gate" or asked.method != "GET":
            return None
        # The next step has what it wants only when a layer of the one before is on its way
        if not sent.wait(60):
            late.append(asked)
        return Fault(status=200, body=b"open")

    remote.contents.lasting.append(gate)
    ref = remote.name("cache:1")
    text = (
        f"FROM scratch\nADD base.tar /\nADD http://{remote.address}/gate /gate\nFROM scratch\nCOPY --from=0 /gate /\n"
    )
    (inputs / "Dockerfile").write_text(text)
    first = inline.build(inputs, "--network=host", "--cache-to", f"type=registry,ref={ref},mode=max")
    assert not late
    assert not warnings(first)
    taken = other.build(inputs, "--network=host", "--cache-from", f"type=registry,ref={ref}")
    assert taken.redone() == []
    # With mode=min what only other stages have stays here
    least = remote.name("cache:least")
    inline.build(inputs, "--network=host", "--cache-to", f"type=registry,ref={least}")
    layers = [len(json.loads(remote.contents.documents["cache", tag][1])["layers"]) for tag in ("1", "least")]
    # The COPY comes to the same layer as the ADD
    assert layers == [2, 1]


def test_a_build_that_fails_does_not_wait_for_its_cache(inline: Pybuild, remote: Registry, inputs: Path) -> None:
    gate = Event()
    remote.contents.lasting.append(lambda asked: gate.wait(120) and None if asked.method == "POST" else None)
    (inputs / "Dockerfile").write_text("FROM scratch\nADD base.tar /\nCOPY nothing /\n")
    try:
        ref = remote.name("cache:1")
        failed = inline.build(inputs, "--cache-to", f"type=registry,ref={ref}", status=1)
        assert "nothing" in failed.events[-1]["failure"]["message"]
        assert not remote.contents.documents
    finally:
        gate.set()


def test_a_registry_that_breaks_is_tried_with_one_layer(inline: Pybuild, remote: Registry, inputs: Path) -> None:
    remote.contents.lasting.append(lambda asked: Fault(status=507) if asked.method == "PATCH" else None)
    ref = remote.name("cache:1")
    result = inline.build(inputs, "-t", "x", "--cache-to", f"type=registry,ref={ref},mode=max")
    [told] = warnings(result)
    assert "507 Insufficient Storage" in told
    assert inline.names() == {"x:latest"}
    # Two go at a time, and by then it is known
    assert len(remote.asked("PATCH")) <= 2


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
