"""What `RUN --mount` and its sisters plan, what they ask for, and what decides a cache key."""

import pytest

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.errors import DockerfileError
from pybuild.dockerfile.parse import parse
from pybuild.oci.platform import Platform
from pybuild.plan.keys import run_key
from pybuild.plan.make import make
from pybuild.plan.ops import (
    BindMount,
    CacheMount,
    FromContext,
    FromScratch,
    FromStage,
    NeedBases,
    Plan,
    RunDevice,
    RunMount,
    RunOp,
    SecretMount,
    SshMount,
    TmpfsMount,
)

LINUX = Platform("linux", "amd64")


def plan(text: str, **request: object) -> Plan:
    step = make(parse(text), BuildRequest(**request), {}, LINUX)  # type: ignore[arg-type]
    assert isinstance(step, Plan), step
    return step


def op(flags: str, before: str = "", **request: object) -> RunOp:
    found = plan(f"FROM scratch AS one\nFROM scratch\n{before}RUN {flags} x\n", **request).target.steps[-1].op
    assert isinstance(found, RunOp)
    return found


@pytest.mark.parametrize(
    ("flags", "mount"),
    [
        ("--mount=target=/a", BindMount("/a", FromContext())),
        ("--mount=target=a/../b/,source=/../x/,rw", BindMount("/w/b", FromContext(), "x", read_only=False)),
        ("--mount=target=/$V,from=ONE,source=$V", BindMount("/v", FromStage(0), "v")),
        ("--mount=target=/a,from=0", BindMount("/a", FromStage(0))),
        ("--mount=target=/a,from=scratch", BindMount("/a", FromScratch())),
        ("--mount=type=cache,target=/a/./b/", CacheMount("/a/b", "//a/b")),
        ("--mount=type=cache,target=c", CacheMount("/w/c", "/c")),
        ("--mount=type=cache,target=/a,from=scratch", CacheMount("/a", "//a")),
        (
            "--mount=type=cache,id=$V,target=/a,sharing=locked,from=one,source=/s,ro,mode=1777,uid=$N,gid=2",
            CacheMount("/a", "/v", "locked", FromStage(0), "s", True, 0o1777, 1, 2),
        ),
        ("--mount=type=tmpfs,target=/a,size=1m", TmpfsMount("/a", 1 << 20)),
        ("--mount=type=tmpfs,target=/a,ro", TmpfsMount("/a", 0, True)),
        ("--mount=type=secret,id=k", SecretMount("k", "/run/secrets/k")),
        ("--mount=type=secret,source=k", SecretMount("k", "/run/secrets/k")),
        ("--mount=type=secret,target=t/k", SecretMount("k", "/w/t/k")),
        ("--mount=type=secret,id=k,env=K,required", SecretMount("k", "", "K", True)),
        ("--mount=type=secret,id=k,env=K,target=/t", SecretMount("k", "/t", "K")),
        ("--mount=type=ssh", SshMount("default", "/run/buildkit/ssh_agent.0")),
        ("--mount=type=ssh,id=k,target=/s,mode=0666,required", SshMount("k", "/s", True, 0o666)),
    ],
)
def test_mounts_are_worked_out(flags: str, mount: RunMount) -> None:
    assert op(flags, "WORKDIR /w\nARG V=v\nENV N=1\n").mounts == (mount,)


def test_ids_of_caches_are_in_a_namespace() -> None:
    flags = "--mount=type=cache,id=i,target=/a"
    assert op(flags, build_args={"BUILDKIT_CACHE_MOUNT_NS": "n"}).mounts == (CacheMount("/a", "n/i"),)


def test_the_first_agent_is_in_the_environment() -> None:
    two = op("--mount=type=ssh,target=/a --mount=type=ssh,id=b")
    assert dict(two.env)["SSH_AUTH_SOCK"] == "/a"
    assert [mount.target for mount in two.mounts] == ["/a", "/run/buildkit/ssh_agent.1"]
    assert dict(op("--mount=type=ssh", "ENV SSH_AUTH_SOCK=/mine\n").env)["SSH_AUTH_SOCK"] == "/mine"


def test_stages_and_images_of_mounts_are_needed() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nFROM scratch AS c\nFROM scratch\n"
    found = plan(text + "RUN --mount=from=a,target=/x --mount=type=cache,from=c,target=/y x\n")
    assert [stage.name for stage in found.stages] == ["a", "c", "stage-3"]
    assert found.target.depends() == {0, 2}
    step = make(parse("FROM scratch\nRUN --mount=from=busybox,target=/x x\n"), BuildRequest(), {}, LINUX)
    assert isinstance(step, NeedBases)
    assert {key: needed.line for key, needed in step.images.items()} == {"busybox": 2}


def test_triggers_name_stages_of_the_file_that_uses_them() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nONBUILD RUN --mount=from=a,target=/x x\nFROM b\n"
    assert [stage.name for stage in plan(text).stages] == ["a", "b", "stage-2"]


def test_history_shows_neither_mounts_nor_what_a_secret_replaces() -> None:
    text = "FROM scratch\nARG TOKEN=public A=1\nRUN --mount=type=secret,id=t,env=TOKEN --mount=target=/x x\n"
    assert plan(text).target.steps[-1].created_by == "RUN |2 TOKEN=**** A=1 /bin/sh -c x # buildkit"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("RUN --mount=target=. x", "invalid mount target", "below the root"),
        ("RUN --mount=target=/a,from=later x\nFROM scratch AS later", "needs to be defined before", "move"),
        ("RUN --mount=target=/a,from=5 x", "needs to be defined before", "count from 0"),
        ("RUN --mount=type=secret,id=a,source=b x", "id and a source", "one of them"),
        ("RUN --mount=type=tmpfs,target=/a,size=$X x", "invalid size", "64m"),
        ("RUN --network=host x", "permission", "--allow network.host"),
        ("RUN --security=insecure x", "permission", "--allow security.insecure"),
        ("RUN --device=gpu x", "invalid name of a device: gpu", "vendor.com/class"),
    ],
)
def test_errors_name_the_line_and_a_way_out(line: str, message: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        make(parse(f"FROM scratch\n{line}\n"), BuildRequest(target="0"), {}, LINUX)
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_permissions_and_devices() -> None:
    assert op("--network=host", allow=("network.host",)).network == "host"
    assert op("--security=insecure", allow=("security.insecure",)).insecure
    assert not op("--security=sandbox").insecure
    assert op("--network=none", network="host").network == "none"
    both = "--device=v.com/gpu=a,required --device=v.com/cam"
    assert op(both).devices == (RunDevice("v.com/gpu=a", required=True), RunDevice("v.com/cam"))
    assert [device.allowed for device in op(both, allow=("device=v.com/gpu",)).devices] == [False, False]
    assert [device.allowed for device in op(both, allow=("device",)).devices] == [True, True]
    assert [device.allowed for device in op(both, allow=("device=v.com/x,alias=v.com/cam",)).devices] == [False, True]
    assert [device.name for device in op(both, allow=("device=v.com/x=y,alias=v.com/cam",)).devices][1] == "v.com/x=y"
    with pytest.raises(DockerfileError, match="without a network"):
        op("--network=host", allow=("network.host",), network="none")


KEYS = "--mount=target=/a --mount=type=cache,target=/c,id=i --mount=type=secret,id=s,env=E --mount=type=ssh"


def key(flags: str, contents: list[bytes], **request: object) -> str:
    return run_key(op(flags, **request), None, "multi", {}, contents).text


def test_keys_go_by_what_mounts_say_and_read() -> None:
    contents = [b"1", b"", b"", b""]
    first = key(KEYS, contents)
    # Neither what a cache is called, nor the value of a secret
    assert first == key(KEYS.replace("id=i", "id=j,sharing=locked"), contents)
    changed = [
        key(KEYS, [b"2", b"", b"", b""]),
        key(KEYS, [b"1", b"3", b"", b""]),
        *(
            key(KEYS.replace(old, new), contents)
            for old, new in (
                ("/a", "/b"),
                ("/a", "/a,rw"),
                ("id=i", "id=i,uid=3"),
                ("id=i", "id=i,ro"),
                ("id=s", "id=t"),
                ("env=E", "env=F"),
                ("type=ssh", "type=ssh,mode=0666"),
            )
        ),
        key("", []),
        key("--security=insecure", [], allow=("security.insecure",)),
    ]
    assert len({first, *changed}) == len(changed) + 1
