"""Contexts as they really are: huge, empty, odd."""

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from support.program import Pybuild

pytestmark = pytest.mark.userns


def test_an_empty_context(pybuild: Pybuild, context: Path) -> None:
    image = pybuild.image(context, dockerfile="FROM scratch\nCOPY . /empty/\n")
    assert [node.path for node in image.layers[0]] in (["empty"], [])


@pytest.mark.parametrize("count", [3_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_thousands_of_files(daemon: Pybuild, context: Path, count: int) -> None:
    for number in range(count):
        directory = context / f"d{number % 500}"
        if number < 500:
            directory.mkdir()
        (directory / f"f{number}").write_text(f"{number}\n")
    image = daemon.image(context, dockerfile="FROM scratch\nCOPY . /all/\n")
    files = {node.path: node for node in image.layers[0] if node.type == "file"}
    assert len(files) == count
    assert files["all/d123/f2123"].text == "2123\n"
    (context / "d7" / "f7").write_text("changed\n")
    again = daemon.image(context, dockerfile="FROM scratch\nCOPY . /all/\n")
    assert again.read("all/d7/f7") == "changed\n"


@pytest.mark.parametrize("mebibytes", [16, pytest.param(256, marks=pytest.mark.slow)])
def test_a_few_large_files(daemon: Pybuild, context: Path, tmp_path: Path, mebibytes: int) -> None:
    block = os.urandom(1 << 20)
    wanted = {}
    for number in range(4):
        sha = hashlib.sha256()
        with open(context / f"big{number}", "wb") as out:
            for place in range(mebibytes):
                chunk = place.to_bytes(4, "big") + bytes([number]) + block[5:]
                out.write(chunk)
                sha.update(chunk)
        wanted[f"big{number}"] = sha.hexdigest()
    out = tmp_path / "out"
    daemon.build(context, "-o", f"type=local,dest={out}", dockerfile="FROM scratch\nCOPY . /\n")
    found = {}
    for path in out.iterdir():
        with open(path, "rb") as content:
            found[path.name] = hashlib.file_digest(content, "sha256").hexdigest()
    assert found == wanted
    shutil.rmtree(out)
    shutil.rmtree(context)


def test_a_sparse_file_is_copied_with_its_holes_as_zeros(inline: Pybuild, context: Path) -> None:
    with open(context / "sparse", "wb") as out:
        out.truncate(8 << 20)
        out.seek(4 << 20)
        out.write(b"middle")
    image = inline.image(context, dockerfile="FROM scratch\nCOPY sparse /\n")
    assert image.tree()["sparse"].sha256 == hashlib.sha256((context / "sparse").read_bytes()).hexdigest()


def test_links_that_lead_nowhere_around_or_out_are_copied_as_links(pybuild: Pybuild, context: Path) -> None:
    (context / "dangling").symlink_to("not/there")
    (context / "one").symlink_to("two")
    (context / "two").symlink_to("one")
    (context / "out").symlink_to("/etc/passwd")
    (context / "up").symlink_to("../../../../../../etc")
    (context / "loop").mkdir()
    (context / "loop" / "again").symlink_to("..")
    image = pybuild.image(context, dockerfile="FROM scratch\nCOPY . /\n")
    links = {node.path: node.link for node in image.layers[0] if node.type == "symlink"}
    assert links == {
        "dangling": "not/there",
        "one": "two",
        "two": "one",
        "out": "/etc/passwd",
        "up": "../../../../../../etc",
        "loop/again": "..",
    }


@pytest.mark.parametrize("name", ["dangling", "circle", "outside"])
def test_a_link_named_as_source_must_lead_to_something_in_the_context(
    inline: Pybuild, context: Path, name: str
) -> None:
    (context / "dangling").symlink_to("not/there")
    (context / "circle").symlink_to("circle")
    (context / "outside").symlink_to("../../secret-of-the-host")
    (context.parent / "secret-of-the-host").write_text("secret")
    result = inline.build(context, dockerfile=f"FROM scratch\nCOPY {name} /got\n", status=1)
    failure = result.events[-1]["failure"]
    assert failure["line"] == 2
    assert name in failure["message"]


def test_fifos_are_not_waited_for_and_sockets_do_not_stop_a_build(pybuild: Pybuild, context: Path) -> None:
    os.mkfifo(context / "fifo")
    (context / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        # A short relative name: absolute ones of temporary directories may be too long.
        before = os.getcwd()
        os.chdir(context)
        try:
            listening.bind("socket")
        finally:
            os.chdir(before)
        image = pybuild.image(context, dockerfile="FROM scratch\nCOPY . /\n", timeout=30)
    kinds = {node.path: node.type for node in image.layers[0]}
    assert kinds["file"] == "file"
    assert kinds.get("fifo") in (None, "fifo")
    assert "socket" not in kinds


def test_names_of_any_bytes(pybuild: Pybuild, context: Path) -> None:
    names = [
        b"new\nline",
        b"tab\t",
        b"\xff\xfe invalid",
        "ünïcode".encode(),
        b"back\\slash",
        b"-dash",
        b" lead",
        b"*star",
    ]
    names += [b"x" * 255, b"quote'\"", b"\x1b[31mred", b"[bracket]", "\u202ebidi".encode()]
    for name in names:
        (context / os.fsdecode(name)).write_bytes(name)
    deep = context
    for _ in range(12):
        deep = deep / ("deep" * 10)
    deep.mkdir(parents=True)
    (deep / "end").write_text("end")
    image = pybuild.image(context, dockerfile="FROM scratch\nCOPY . /\n")
    found = {node.path.encode(errors="surrogateescape"): node.data for node in image.layers[0] if node.type == "file"}
    assert {name: name for name in names}.items() <= found.items()
    assert b"/".join([b"deep" * 10] * 12 + [b"end"]) in found


def test_hard_links_and_set_id_bits_in_the_context(inline: Pybuild, context: Path) -> None:
    (context / "one").write_text("same")
    (context / "two").hardlink_to(context / "one")
    (context / "tool").write_text("t")
    (context / "tool").chmod(0o4755)
    tree = inline.image(context, dockerfile="FROM scratch\nCOPY . /\n").tree()
    assert tree["tool"].mode == 0o4755
    assert {tree["one"].type, tree["two"].type} <= {"file", "hardlink"}


def test_a_file_that_cannot_be_read_is_named(inline: Pybuild, context: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (context / "closed").write_text("x")
    (context / "closed").chmod(0)
    result = inline.build(context, dockerfile="FROM scratch\nCOPY . /\n", status=1)
    assert "closed" in result.events[-1]["failure"]["message"]
    (context / ".dockerignore").write_text("closed\n")
    inline.build(context, dockerfile="FROM scratch\nCOPY . /\n")


def test_a_large_context_that_is_sent_is_told_of(pybuild: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY big /\n")
    (context / "big").write_bytes(bytes(9 << 20))
    packed = subprocess.run(["tar", "-C", context, "-c", "."], check=True, capture_output=True).stdout
    events = pybuild("build", "--progress=json", "-", stdin=packed).events
    told = [event for event in events if event["event"] == "Transfer" and event["label"] == "sent context"]
    assert (told[-1]["current"], told[-1]["total"]) == (len(packed), len(packed))


def test_a_context_that_is_sent_is_held_to_the_limits_of_who_builds(pybuild: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    for number in range(20):
        (context / f"f{number}").write_bytes(b"x" * 1000)
    packed = subprocess.run(["tar", "-C", context, "-cz", "."], check=True, capture_output=True).stdout
    settings = pybuild.base / "config.toml"
    environment = {"PYBUILD_CONFIG": str(settings)}

    def told(text: str, status: int = 1) -> str:
        settings.write_text(text)
        # A daemon that runs has read its environment; the settings it reads each time
        return pybuild("build", "-", stdin=packed, status=status, env=environment).err

    if pybuild.door == "daemon":
        pybuild("daemon", "start", env=environment)
    assert "the context has more than 20 members\nhint: leave more out" in told("max_context_files = 20")
    assert "the context holds more than 20480 bytes\nhint: leave more out" in told('max_context_size = "20k"')
    told('max_context_size = "100k"\nmax_context_files = 25', status=0)
    assert "not a number of files" in told('max_context_files = "many"', status=2)
