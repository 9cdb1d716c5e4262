"""Nothing that is fed to pybuild makes it show a traceback or changes the store."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import program
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

State = tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def changing(_adopted: None) -> Iterator[Pybuild]:
    """Another store, for tests that may add to it."""
    with program.world("inline") as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture(scope="module")
def state(inline_base: Pybuild) -> State:
    """What the store held before any of the tests that must not change it."""
    return inline_base.state()


def one_line(result: Result) -> str:
    """Return the message, checked to be one line and perhaps a hint."""
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert lines, "fails without a word"
    rest = [line for line in lines[1:] if not line.startswith(("hint:", "  "))]
    assert rest == [], result.err
    return lines[0]


DOCKERFILES = {
    "nothing in it": ("", 0),
    "only a comment": ("# nothing\n", 0),
    "no FROM": ("RUN true\n", 1),
    "unknown instruction": ("FROM base\n\nRUNN true\n", 3),
    "unknown flag": ("FROM base\nCOPY --frm=x a b\n", 2),
    "flag without value": ("FROM base\nCOPY --from a b\n", 2),
    "COPY of one word": ("FROM base\nCOPY a\n", 2),
    "no such file": ("FROM base\nCOPY not-there /\n", 2),
    "a source outside": ("FROM base\nCOPY ../../../etc/passwd /\n", 2),
    "no such stage": ("FROM base\nCOPY --from=9 /a /b\n", 2),
    "no such image": ("FROM not/there:1\n", 1),
    "a bad image name": ("FROM UPPER::case\n", 1),
    "a bad stage name": ("FROM base AS -x\n", 1),
    "heredoc without end": ("FROM base\nRUN <<E\necho\n", 2),
    "JSON without end as entrypoint": ("FROM base\nENV\n", 2),
    "ENV without value": ("FROM base\nENV A\n", 2),
    "a quote without end": ('FROM base\nENV A="b\n', 2),
    "a bad expansion": ("FROM base\nENV A=${B\n", 2),
    "a required variable": ("FROM base\nENV A=${B:?is needed}\n", 2),
    "EXPOSE of no port": ("FROM base\nEXPOSE 99999999\n", 2),
    "HEALTHCHECK of no kind": ("FROM base\nHEALTHCHECK SOMETIMES\n", 2),
    "HEALTHCHECK with a bad time": ("FROM base\nHEALTHCHECK --interval=soon CMD true\n", 2),
    "STOPSIGNAL of no kind": ("FROM base\nSTOPSIGNAL SIGNOTHING\n", 2),
    "ONBUILD of ONBUILD": ("FROM base\nONBUILD ONBUILD RUN true\n", 2),
    "ONBUILD of FROM": ("FROM base\nONBUILD FROM base\n", 2),
    "SHELL without list": ("FROM base\nSHELL /bin/sh\n", 2),
    "a bad owner": ("FROM base\nCOPY --chown=nobody-knows f /\n", 2),
    "a bad mode": ("FROM base\nCOPY --chmod=99 f /\n", 2),
    "a bad directive": ("# escape=x\nFROM base\n", 1),
    "binary": ("\x00\x01\x02\x7f\n", 1),
    "an endless line": ("FROM base\nRUN " + "\\\n" * 50, 2),
    "a secret nobody gave": ("FROM base\nRUN --mount=type=secret,id=a,required true\n", 2),
    "a device": ("FROM base\nRUN --device=vendor.com/gpu=all,required true\n", 2),
    "a user that is not there": ("FROM base\nUSER not-there\nRUN true\n", 3),
}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles(inline_base: Pybuild, state: State, context: Path, name: str) -> None:
    text, line = DOCKERFILES[name]
    (context / "Dockerfile").write_text(text)
    (context / "f").write_text("f")
    (context / "g").write_text("g")
    result = inline_base("build", "--progress=plain", "-t", "never", context, status=1)
    places = re.findall(r"^(?:error: )?\S*Dockerfile:(\d+)(?::\d+)?: .+", result.err, re.MULTILINE)
    assert len(places) == 1 if line else "Dockerfile" in result.err, result.err
    if line:
        assert int(places[0]) == line, result.err
    assert inline_base.state() == state


def test_a_dockerfile_of_invalid_utf8(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_bytes(b"FROM base\nLABEL a=\xff\xfe\nRUNN \xff\n")
    assert one_line(inline_base("build", "--progress=plain", context, status=1)).startswith("Dockerfile:2:")


OPTIONS = [
    ["build"],
    ["build", "/no/such/directory"],
    ["build", "-f", "/no/such/file", "."],
    ["build", "--frob", "."],
    ["build", "--ulimit", "nofile=many", "."],
    ["build", "--ulimit", "nothing=1", "."],
    ["build", "--shm-size", "large", "."],
    ["build", "--network", "strange", "."],
    ["build", "--add-host", "no-address", "."],
    ["build", "--label", "=x", "."],
    ["build", "--secret", "src=/etc/passwd", "."],
    ["build", "--ssh", "a=/no/such/key", "."],
    ["build", "--allow", "everything", "."],
    ["build", "--build-arg", "=x", "."],
    ["build", "-t", "UPPER:case", "."],
    ["build", "-t", "a:b:c:d", "."],
    ["build", "-o", "type=unknown", "."],
    ["build", "-o", "dest=x,what=y", "."],
    ["build", "--progress", "fancy", "."],
    ["build", "--platform", "///", "."],
    ["build", "--target", "nowhere", "."],
    ["build", ".", "."],
    ["biuld", "."],
    ["images", "--format", "{{.Nothing"],
    ["images", "--filter", "nonsense"],
    ["inspect"],
    ["inspect", "not-there"],
    ["history", "not-there"],
    ["tag", "not-there", "x"],
    ["tag", "base", "UPPER:x"],
    ["rmi", "not-there"],
    ["save", "-o", "x.tar", "not-there"],
    ["save", "--format", "strange", "base"],
    ["import", "/no/such/file", "x"],
    ["load", "-i", "/no/such/file"],
    ["completion", "csh"],
    ["daemon", "restart-maybe"],
]


@pytest.mark.parametrize("args", OPTIONS, ids=" ".join)
def test_options(inline_base: Pybuild, state: State, context: Path, args: list[str]) -> None:
    (context / "Dockerfile").write_text("FROM base\n")
    result = inline_base(*args, cwd=context, status=None)
    assert result.status in (1, 2), result.err
    one_line(result)
    # docker prints the list of what was found even when nothing was.
    assert result.out == (b"[]\n" if args[0] == "inspect" and len(args) > 1 else b"")
    assert inline_base.state() == state


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("type=oci,dest=/no/such/dir/x.tar", "no such directory for the output: /no/such/dir"),
        ("type=docker,dest={place}/closed/x.tar", "permission denied"),
        ("type=tar,dest={place}", "is a directory"),
        ("type=local,dest={place}/Dockerfile", "is no directory"),
        ("type=oci,tar=false,dest={place}/Dockerfile", "is not a directory"),
        ("type=oci,compression=rar,dest=x", "unknown compression"),
        ("type=tar,what=no,dest=x", "unknown key"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_anything_is_done(
    changing: Pybuild, context: Path, output: str, message: str
) -> None:
    (context / "Dockerfile").write_text("FROM base\n")
    (context / "closed").mkdir(mode=0o555)
    if "closed" in output and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    result = changing("build", "--progress=json", "-o", output.format(place=context), context, status=None)
    assert result.status in (1, 2)
    assert not {event["event"] for event in result.events} - {"Failed"}
    assert message in result.err


def test_usage_errors_exit_with_two(inline_base: Pybuild, context: Path) -> None:
    for args in (["build"], ["build", "--frob", "."], ["build", "-o", "type=unknown", "."], ["biuld"]):
        inline_base(*args, cwd=context, status=2)


# Archives


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for item in members:
            member, data = item if isinstance(item, tuple) else (item, b"")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for key, value in more.items():
        setattr(info, key, value)
    return info


_GOOD = tar((member("a"), b"x" * 5000), (member("b"), b"y" * 5000))

BROKEN = {
    "empty": b"",
    "not a tar": b"this is no archive\n" * 100,
    "cut off": _GOOD[:3000],
    "cut off in the second file": _GOOD[:8000],
    "a gzip cut off": gzip.compress(_GOOD)[:60],
    "a gzip of nonsense": gzip.compress(b"nonsense" * 200),
    "a damaged gzip": gzip.compress(_GOOD)[:-6] + b"abcdef",
    "a bad header sum": b"a" * 512 + _GOOD[512:],
    "a zstd frame of nonsense": b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
    "an xz of nonsense": b"\xfd7zXZ\x00" + b"\xff" * 100,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives_as_context_load_import_and_add(changing: Pybuild, context: Path, name: str) -> None:
    data = BROKEN[name]
    (context / "x.tar").write_bytes(data)
    before = changing.state()
    changing("import", context / "x.tar", "broken", status=1 if data else None)
    one_line(changing("load", "-i", context / "x.tar", status=1))
    if data:
        assert changing("build", "--progress=plain", "-", stdin=data, status=1).err
    if not data:
        changing("rmi", "broken", status=None)
    assert changing.state()[0] == before[0]


HOSTILE = {
    "up": tar((member("../../escape"), b"x")),
    "absolute": tar((member("/escape-absolute"), b"x")),
    "through a link": tar(member("l", tarfile.SYMTYPE, "/tmp"), (member("l/escape-link"), b"x")),
    "through a link out": tar(member("l", tarfile.SYMTYPE, "../../../../tmp"), (member("l/escape-up"), b"x")),
    "a hard link out": tar(member("h", tarfile.LNKTYPE, "/etc/passwd"), (member("h"), b"x")),
    "a hard link up": tar(member("h", tarfile.LNKTYPE, "../../../../etc/passwd")),
    "a device": tar(member("dev-null", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a whiteout of everything": tar(member(".wh..")),
    "an empty whiteout": tar(member("d/.wh.")),
    "dots": tar((member("a/./b/../c"), b"x")),
    "a file that is a directory": tar((member("a"), b"x"), (member("a/b"), b"x")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_stay_inside(changing: Pybuild, context: Path, tmp_path: Path, name: str) -> None:
    (context / "x.tar").write_bytes(HOSTILE[name])
    kept = Path("/etc/passwd").read_bytes()
    imported = changing("import", context / "x.tar", "hostile", status=None)
    assert imported.status in (0, 1)
    added = changing.build(context, dockerfile="FROM base\nADD x.tar /added/\nRUN ls -lR /added > /list\n", status=None)
    assert added.status in (0, 1)
    changing("build", "-q", "-", stdin=HOSTILE[name], status=1)
    if imported.status == 0:
        changing.build(context, "-o", f"type=local,dest={tmp_path / 'out'}", dockerfile="FROM hostile\n", status=None)
    assert Path("/etc/passwd").read_bytes() == kept
    for place in (Path("/"), Path("/tmp"), tmp_path, changing.base, changing.base.parent, context.parent):
        assert not list(place.glob("escape*"))


# Images


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layout(**replaced: bytes) -> bytes:
    """An OCI archive of one layer; `replaced` gives other bytes for a part, under the name of the right ones."""
    layer = tar((member("f"), b"content"))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            "history": [{"created_by": "test"}],
        }
    ).encode()
    config = replaced.get("config", config)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(config),
                "size": len(config),
            },
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}
            ],
        }
    ).encode()
    manifest = replaced.get("manifest", manifest)
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest(manifest),
                    "size": len(manifest),
                    "annotations": {"org.opencontainers.image.ref.name": "example:1"},
                }
            ],
        }
    ).encode()
    blobs = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": replaced.get("index", index),
        f"blobs/sha256/{digest(config)[7:]}": replaced.get("config_blob", config),
        f"blobs/sha256/{digest(manifest)[7:]}": replaced.get("manifest_blob", manifest),
        f"blobs/sha256/{digest(layer)[7:]}": replaced.get("layer_blob", layer),
    }
    return tar(*((member(name), data) for name, data in blobs.items() if data != b"missing"))


def test_a_good_layout_loads(changing: Pybuild, context: Path) -> None:
    (context / "x.tar").write_bytes(layout())
    assert "example:1" in changing("load", "-i", context / "x.tar").text
    assert "example:1" in changing.names()


_LIES: dict[str, Callable[[], bytes]] = {
    "another layer": lambda: layout(layer_blob=tar((member("f"), b"CONTENT"))),
    "another config": lambda: layout(config_blob=b"{}"),
    "no layer": lambda: layout(layer_blob=b"missing"),
    "no config": lambda: layout(config_blob=b"missing"),
    "no manifest": lambda: layout(manifest_blob=b"missing"),
    "config that is no JSON": lambda: layout(config=b"{nonsense"),
    "config that is a list": lambda: layout(config=b"[]"),
    "config without layers": lambda: layout(config=b'{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}'),
    "config with wrong types": lambda: layout(config=b'{"rootfs":{"diff_ids":7},"config":"x","history":{}}'),
    "manifest that is no JSON": lambda: layout(manifest=b"nonsense"),
    "manifest with wrong types": lambda: layout(manifest=b'{"schemaVersion":2,"config":[],"layers":"x"}'),
    "index that is no JSON": lambda: layout(index=b"nonsense"),
    "index with a path for a digest": lambda: layout(
        index=b'{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"digest":"sha256:../../../../etc/passwd","size":1}]}'
    ),
    "index without manifests": lambda: layout(index=b'{"schemaVersion":2}'),
    "JSON deep as the sea": lambda: layout(index=b"[" * 200_000),
    "docker archive without config": lambda: tar((member("manifest.json"), b'[{"Config":"x.json","Layers":[]}]')),
    "docker archive with a path": lambda: tar(
        (member("manifest.json"), b'[{"Config":"../../etc/passwd","Layers":["/etc/passwd"]}]')
    ),
    "docker archive with nonsense": lambda: tar((member("manifest.json"), b'{"a":1}')),
}


@pytest.mark.parametrize("name", _LIES)
def test_images_that_lie_are_refused(inline_base: Pybuild, context: Path, name: str) -> None:
    (context / "x.tar").write_bytes(_LIES[name]())
    before = inline_base.state()
    one_line(inline_base("load", "-i", context / "x.tar", status=1))
    assert inline_base.state()[0] == before[0]


def test_control_characters_do_not_reach_the_terminal(changing: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM base\nRUN printf '\\033]0;title\\007\\033[31mred\\n::set-env name=a::b\\n'\n"
    )
    result = changing("build", "--progress=plain", context)
    assert "\x1b" not in result.err
    assert "\x07" not in result.err
    (context / "Dockerfile").write_text("FROM base\nCOPY \x1b[31m-not-there /\n")
    assert "\x1b" not in changing("build", "--progress=plain", context, status=1).err
