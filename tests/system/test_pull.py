"""Images come from registries: by pull, by FROM and by all else that names one."""

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from support import busybox, registry
from support.program import Pybuild
from support.registry import INDEX, LAYER, MANIFEST, Fault, Registry, descriptor, digest
from support.web import Asked

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return busybox.write_rootfs(tmp_path_factory.mktemp("base") / "base.tar").read_bytes()


@pytest.fixture
def remote(rootfs: bytes) -> Iterator[Registry]:
    with registry.fake() as found:
        found.contents.image("base", "1", [gzipped(rootfs)])
        yield found


def gzipped(data: bytes) -> tuple[str, bytes, str]:
    return f"{LAYER}+gzip", gzip.compress(data, 1, mtime=0), digest(data)


def zstd_of(data: bytes) -> tuple[str, bytes, str]:
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return f"{LAYER}+zstd", zstd.compress(data), digest(data)


def plain(data: bytes) -> tuple[str, bytes, str]:
    return LAYER, data, digest(data)


def test_an_image_is_pulled_once(pybuild: Pybuild, remote: Registry) -> None:
    name = remote.name("base:1")
    manifest = remote.contents.documents["base", "1"][1]
    assert pybuild("pull", name).text == f"{name}@{digest(manifest)}\n"
    assert pybuild.names() == {name}
    fetched = len(remote.asked("GET"))
    told = json.loads(pybuild("pull", "--json", name).text)
    assert told == {"name": name, "digest": digest(manifest), "image_id": told["image_id"], "fresh": False}
    assert pybuild("pull", "-q", f"{remote.name('base')}@{digest(manifest)}").text.strip() == told["image_id"]
    assert len(remote.asked("GET")) == fetched
    assert remote.asked("HEAD")
    # Prune takes nothing of it, and what was pulled leaves as it came
    pybuild("prune", "-f")
    [shown] = pybuild.json("inspect", name)
    assert shown["RepoDigests"] == [f"{remote.name('base')}@{digest(manifest)}"]


def test_all_tags_of_a_repository_come(pybuild: Pybuild, remote: Registry, rootfs: bytes) -> None:
    for tag in ("2", "latest"):
        remote.contents.image("base", tag, [gzipped(rootfs)])
    name = remote.name("base")
    assert len(pybuild("pull", "-a", "-q", name).text.splitlines()) == 3
    assert pybuild.names() == {f"{name}:1", f"{name}:2", f"{name}:latest"}
    assert "--all-tags wants a name without a tag" in pybuild("pull", "-a", f"{name}:1", status=2).err
    assert "404 Not Found" in pybuild("pull", "-a", remote.name("nothing"), status=1).err


@pytest.mark.parametrize("form", [gzipped, zstd_of, plain])
def test_layers_in_every_form_can_be_run(
    inline: Pybuild, remote: Registry, rootfs: bytes, context: Path, form: Callable[[bytes], tuple[str, bytes, str]]
) -> None:
    remote.contents.image("form", "1", [form(rootfs)])
    image = inline.image(context, dockerfile=f"FROM {remote.name('form:1')}\nRUN echo it runs > /out\n")
    assert image.read("out") == "it runs\n"
    assert remote.name("form:1") in inline.names()


def test_whatever_names_an_image_pulls_it(pybuild: Pybuild, remote: Registry, context: Path) -> None:
    text = f"""\
FROM {remote.name("base:1")} AS first
FROM scratch
COPY --from={remote.name("base:1")} /etc/passwd /copied
COPY --from=first /etc/passwd /staged
"""
    pybuild.build(context, "-t", "x", dockerfile=text)
    assert len([path for path in remote.asked("GET") if "/blobs/" in path]) == 2
    text = f"""\
FROM {remote.name("base:1")}
RUN --mount=from={remote.name("base:1")},target=/m cp /m/etc/passwd /mounted
"""
    assert pybuild.build(context, dockerfile=text).redone()
    assert len([path for path in remote.asked("GET") if "/blobs/" in path]) == 2


def test_an_image_that_cannot_be_had_is_told_at_its_line(inline: Pybuild, remote: Registry, context: Path) -> None:
    text = f"FROM scratch\n\nFROM {remote.name('bas:1')}\n"
    inline("pull", remote.name("base:1"))
    failed = inline.build(context, dockerfile=text, status=1)
    failure = failed.events[-1]["failure"]
    assert failure["line"] == 3
    assert "404 Not Found: manifests unknown" in failure["message"]
    assert f"did you mean `{remote.name('base:1')}`?" in failure["hint"]


def test_pull_says_when_a_registry_is_asked(inline: Pybuild, remote: Registry, rootfs: bytes, context: Path) -> None:
    text = f"FROM {remote.name('base:1')}\nRUN true\n"
    never = inline.build(context, "--pull=never", dockerfile=text, status=1)
    assert "may not be pulled" in never.err
    assert not remote.web.asked
    inline.build(context, dockerfile=text)
    asked = len(remote.web.asked)
    assert not inline.build(context, dockerfile=text).redone()
    assert not inline.build(context, "--pull=never", dockerfile=text).redone()
    assert len(remote.web.asked) == asked
    assert not inline.build(context, "--pull", dockerfile=text).redone()
    assert [request.method for request in remote.web.asked[asked:]].count("GET") <= 1
    remote.contents.image("base", "1", [gzipped(rootfs)], config={"Env": ["NEW=1"]})
    assert not inline.build(context, dockerfile=text).redone()
    inline.build(context, "--pull=always", "-t", "new", dockerfile=text)
    [shown] = inline.json("inspect", "new")
    assert "NEW=1" in shown["Config"]["Env"]


def test_each_platform_has_its_image(inline: Pybuild, remote: Registry, context: Path, rootfs: bytes) -> None:
    rows = []
    for architecture in ("arm64", "amd64"):
        config = {"architecture": architecture, "config": {"Env": [f"FOR={architecture}"]}}
        manifest = remote.contents.image("multi", architecture, [gzipped(rootfs)], **config)
        rows.append(descriptor(manifest, MANIFEST, platform={"os": "linux", "architecture": architecture}))
    remote.contents.document("multi", "1", INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})
    text = f"""\
FROM --platform=linux/arm64 {remote.name("multi:1")} AS other
FROM --platform=linux/amd64 {remote.name("multi:1")}
COPY --from=other /etc/passwd /there
"""
    inline.build(context, "--platform=linux/amd64", "-t", "a", dockerfile=text)
    inline.build(context, "-t", "b", "--target=other", dockerfile=text)
    architectures = {name: inline.json("inspect", name)[0]["Architecture"] for name in ("a", "b")}
    assert architectures == {"a": "amd64", "b": "arm64"}
    asked = len(remote.web.asked)
    inline.build(context, "--platform=linux/amd64", "-t", "a", dockerfile=text)
    assert len(remote.web.asked) == asked
    failed = inline("pull", "--platform=linux/s390x", remote.name("multi:1"), status=1)
    assert "there are some for linux/arm64, linux/amd64" in failed.err
    # A name of one image alone leaves no choice, but is not said to be what it is not
    told = inline("pull", "--platform=linux/s390x", remote.name("multi:arm64")).err
    assert f"pulled {remote.name('multi:arm64')} for linux/arm64" in told
    assert f"{remote.name('multi:arm64')} is for linux/arm64, and linux/s390x was asked for" in told


def test_what_is_not_right_leaves_nothing(inline: Pybuild, remote: Registry, rootfs: bytes) -> None:
    kind, data, _ = gzipped(rootfs)
    lies: dict[str, tuple[str, bytes, str]] = {
        "another layer": (kind, data, digest(b"other")),
        "cut short": (kind, gzip.compress(rootfs + bytes(512))[:-20], digest(rootfs + bytes(512))),
        "a tar": (LAYER, b"no tar at all" * 100, digest(b"no tar at all" * 100)),
    }
    inline("images")
    before = inline.state()
    for number, lie in enumerate(lies.values()):
        remote.contents.image("lie", str(number), [plain(rootfs), lie])
        failed = inline("pull", remote.name(f"lie:{number}"), status=1)
        assert failed.err.count("error:") == 1
        assert not inline.names()
    left = set(inline.state()[1]) - set(before[1])
    # The layer that was right may stay
    assert left <= {f"{room}/{digest(rootfs)[7:]}" for room in ("blobs/sha256", "tocs")}


def test_a_layer_goes_on_where_its_connection_broke_off(inline: Pybuild, remote: Registry) -> None:
    def cut(asked: Asked) -> Fault | None:
        return Fault(cut=100_000) if "/blobs/" in asked.path and asked.method == "GET" else None

    remote.contents.faults += [cut] * 3
    inline("pull", remote.name("base:1"))
    ranges = [request.headers.get("Range") for request in remote.web.asked if "/blobs/" in request.path]
    assert "bytes=100000-" in ranges


def archive_of(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def content(inline: Pybuild, name: str, context: Path) -> bytes | None:
    [layer] = inline.image(context, dockerfile=f"FROM {name}\n").layers
    return layer[0].data


def begun(pybuild: Pybuild) -> list[int]:
    """Return how much is here of layers that are not all here."""
    try:
        return [path.stat().st_size for path in (pybuild.store / "downloads").iterdir()]
    except FileNotFoundError:
        return []


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.05)


def cut_off(after: int) -> Callable[[Asked], Fault | None]:
    """End blobs early, and know nothing of them when they are to be gone on with."""

    def fault(asked: Asked) -> Fault | None:
        if "/blobs/" not in asked.path or asked.method != "GET":
            return None
        return Fault(status=404) if asked.headers.get("Range") else Fault(cut=after)

    return fault


@contextmanager
def stalled(remote: Registry, after: int) -> Iterator[Event]:
    """Have blobs end in silence after so many bytes; the event tells of the first one."""
    gate, reached = Event(), Event()

    def stall(asked: Asked) -> Fault | None:
        if "/blobs/" not in asked.path or asked.method != "GET":
            return None
        return Fault(cut=after, stall=(reached, gate))

    remote.contents.lasting.append(stall)
    try:
        yield reached
    finally:
        remote.contents.lasting.remove(stall)
        gate.set()


def ranges(remote: Registry) -> list[str]:
    found = [request.headers.get("Range") for request in remote.web.asked if "/blobs/" in request.path]
    return [asked for asked in found if asked]


@pytest.mark.parametrize("form", [gzipped, pytest.param(plain, marks=pytest.mark.slow)])
def test_a_pull_that_was_killed_is_gone_on_with_by_the_next(
    inline: Pybuild, remote: Registry, context: Path, form: Callable[[bytes], tuple[str, bytes, str]]
) -> None:
    data = os.urandom(400_000)
    remote.contents.image("big", "1", [form(archive_of(data))])
    name = remote.name("big:1")
    with stalled(remote, 250_000) as reached:
        process = inline.start("pull", name)
        assert reached.wait(60)
        wait_for(lambda: begun(inline) == [250_000])
        # Somebody else who wants it at the same time is not kept waiting, and does not disturb
        other = inline.start("pull", name)
        wait_for(lambda: len(remote.asked("GET", "/blobs/")) > 3)
        process.kill()
        process.communicate()
        other.kill()
        other.communicate()
        assert begun(inline) == [250_000]
    del remote.web.asked[:]
    assert "an earlier command has fetched 250000 of" in inline("pull", "--progress=plain", name).err
    assert ranges(remote) == ["bytes=250000-"]
    assert begun(inline) == []
    assert content(inline, name, context) == data


def test_a_beginning_that_is_wrong_is_found_out(inline: Pybuild, remote: Registry, context: Path) -> None:
    data = os.urandom(400_000)
    remote.contents.image("big", "1", [gzipped(archive_of(data))])
    remote.contents.faults += [cut_off(200_000)] * 9
    assert "404 Not Found" in inline("pull", remote.name("big:1"), status=1).err
    [path] = (inline.store / "downloads").iterdir()
    with path.open("r+b") as file:
        file.seek(150_000)
        file.write(bytes(50_000))
    remote.contents.faults.clear()
    del remote.web.asked[:]
    inline("pull", remote.name("big:1"))
    assert ranges(remote) == ["bytes=200000-"]
    assert begun(inline) == []
    assert content(inline, remote.name("big:1"), context) == data


def test_a_build_goes_on_with_what_a_pull_began_and_prune_takes_it(
    inline: Pybuild, remote: Registry, context: Path
) -> None:
    data = os.urandom(400_000)
    remote.contents.image("big", "1", [gzipped(archive_of(data))])
    name = remote.name("big:1")
    for prune in (True, False):
        remote.contents.faults += [cut_off(200_000)] * 9
        inline("pull", name, status=1)
        remote.contents.faults.clear()
        assert begun(inline) == [200_000]
        if prune:
            assert "download" in inline("prune", "-f").text
            assert begun(inline) == []
    del remote.web.asked[:]
    (context / "Dockerfile").write_text(f"FROM {name}\nCOPY Dockerfile /\n")
    inline.build(context)
    assert ranges(remote) == ["bytes=200000-"]


def test_a_base_that_is_only_copied_onto_is_not_unpacked(inline: Pybuild, remote: Registry, context: Path) -> None:
    text = f"FROM {remote.name('base:1')}\nWORKDIR /etc\nCOPY Dockerfile passwd\nCOPY --from=0 /etc/passwd /copied\n"
    (context / "Dockerfile").write_text(f"FROM {remote.name('base:1')}\n{text}")
    image = inline.image(context)
    assert image.read("etc/passwd") != image.read("copied")
    assert [*(inline.store / "snapshots").iterdir()] == []


def test_a_cancelled_pull_ends_at_once_and_leaves_nothing(pybuild: Pybuild, remote: Registry) -> None:
    import signal

    gate, asked_for = Event(), Event()

    def stall(asked: Asked) -> None:
        if "/blobs/" in asked.path:
            asked_for.set()
            gate.wait(30)

    remote.contents.lasting.append(stall)
    try:
        process = pybuild.start("pull", remote.name("base:1"))
        assert asked_for.wait(30)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        pybuild.finish(process, "pull", status=130)
        assert time.monotonic() - begun < 10
        assert not pybuild.names()
    finally:
        gate.set()
