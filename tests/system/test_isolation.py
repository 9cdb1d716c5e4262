"""Builds where namespaces are refused, each refusal by the mechanism that causes it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from support import processes
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

LESS = "RUN is less isolated"
WORLDS = ["container", pytest.param("no_mounts", marks=pytest.mark.slow)]


def build(pybuild: Pybuild, context: Path, text: str, *args: str, **options: object) -> Result:
    (context / "Dockerfile").write_text(text)
    return pybuild("build", "--progress=json", *args, context, **options)  # type: ignore[arg-type]


def notices(result: Result) -> list[str]:
    return [str(event["message"]) for event in result.events if event["event"] == "Notice"]


def said(result: Result) -> str:
    return "".join(str(event["text"]) for event in result.events if event["event"] == "StepLog")


def layers(pybuild: Pybuild, result: Result) -> list[str]:
    image = next(event["image_id"] for event in result.events if event["event"] == "Built")
    found = json.loads(pybuild("inspect", str(image)).text)
    return list((found[0] if isinstance(found, list) else found)["RootFS"]["Layers"])


STEPS = (
    "FROM ready\n"
    "RUN echo one > /one; rm -r /srv; mkdir -p /srv /opt; ln /one /opt/two; touch -d @7 /one /srv /opt\n"
    "COPY file /opt/file\n"
    "RUN --mount=type=cache,target=/opt/cache --mount=target=/ctx --mount=type=tmpfs,target=/opt/t "
    "cat /ctx/file /etc/hostname > /opt/seen; echo x >> /opt/cache/x; echo > /opt/t/x; rm /one; "
    "touch -d @8 /opt/seen /opt\n"
    'SHELL ["/bin/sh", "-ec"]\n'
    "RUN ls -A /opt /proc /dev > /dev/null; echo lost > /etc/hosts; echo lost > /dev/shm/lost\n"
    "RUN <<EOF\n#!/bin/sh\nrm /opt/two; touch -d @9 /opt\nEOF\n"
)


@pytest.mark.parametrize("world", WORLDS)
def test_layers_are_those_of_namespaces_and_less_isolation_is_told(
    inline_base: Pybuild, context: Path, world: str
) -> None:
    (context / "file").write_text("content\n")
    build(inline_base, context, "FROM base\nRUN true\n", "-t", "ready")
    best = build(inline_base, context, STEPS.replace("echo lost > /etc/hosts", "true"), "--no-cache")
    done = build(inline_base, context, STEPS, "--no-cache", lack=world)
    assert any(LESS in text for text in notices(done)), notices(done)
    assert not any(LESS in text for text in notices(best))
    assert layers(inline_base, done) == layers(inline_base, best)
    assert os.listdir(inline_base.store / "tmp") == []


@pytest.mark.parametrize("world", WORLDS)
def test_nothing_of_a_step_lives_on(inline_base: Pybuild, context: Path, world: str) -> None:
    text = (
        "FROM base\n"
        "RUN (sleep 4321 &); setsid sleep 4321 & trap '' TERM; setsid sh -c 'sleep 4321 & sleep 4321' & sleep 0.1\n"
        "RUN setsid sleep 4321 & exit 3\n"
    )
    build(inline_base, context, text, lack=world, status=1)
    assert processes.find("sleep", "4321") == []


@pytest.mark.parametrize("door", ["killed build", "killed job"])
def test_cache_of_a_killed_run_is_given_back(inline_base: Pybuild, context: Path, door: str) -> None:
    mount = f"--mount=type=cache,target=/c,id='{door}'"
    text = f"FROM base\nRUN {mount} echo before >> /c/x\nRUN {mount} sleep 4325\n"
    (context / "Dockerfile").write_text(text)
    process = inline_base.start("build", "--isolation=chroot", "--no-cache", context)
    processes.wait_for("sleep", "4325")
    job = processes.wait_for("_child", "worker", root=processes.wait_for("_child", "worker").pid)
    os.kill(process.pid if door == "killed build" else job.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    processes.wait_until_gone("sleep", "4325")
    done = build(inline_base, context, f"FROM base\nRUN {mount} cat /c/x\n", "--isolation=chroot", "--no-cache")
    assert said(done) == "before\n"
    assert os.listdir(inline_base.store / "tmp") == []


def test_what_takes_the_place_of_a_cache_is_none(inline_base: Pybuild, context: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    (outside / "canary").write_text("seen")
    mount = "--mount=type=cache,target=/c,id=swapped"
    text = f"FROM base\nRUN {mount} echo > /c/own; mv /c /d; ln -s {outside} /c\n"
    build(inline_base, context, text, "--isolation=chroot")
    for isolation in ("chroot", "namespaces"):
        text = f"FROM base\nRUN {mount} ls /c/; echo > /c/mine; echo {isolation}\n"
        done = build(inline_base, context, text, f"--isolation={isolation}")
        assert "canary" not in said(done)
    assert os.listdir(outside) == ["canary"]


def test_nothing_lives_on_when_the_worker_is_killed(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base\nRUN setsid sleep 4324 & sleep 4324\n")
    process = inline_base.start("build", "--no-cache", context, lack="container")
    own = processes.wait_for("sleep", "4324").pid
    worker = processes.wait_for("_child", "worker", root=process.pid)
    os.kill(worker.pid, signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert b"the worker process ended" in told
    # Orphans of it are nobody's descendants: they are looked for by number
    for _ in range(200):
        if not Path(f"/proc/{own}").exists():
            return
        time.sleep(0.02)
    os.kill(own, signal.SIGKILL)
    raise AssertionError("it lives on")


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_time_limit_ends_what_ignores_signals(inline_base: Pybuild, context: Path, world: str) -> None:
    text = "FROM base\nRUN trap '' TERM; setsid sleep 4322 & while true; do sleep 4322; done\n"
    done = build(inline_base, context, text, "--step-timeout=1s", lack=world, status=1)
    assert "longer than" in done.err
    assert processes.find("sleep", "4322") == []


@pytest.mark.parametrize("world", WORLDS)
def test_the_tree_cannot_be_left(inline_base: Pybuild, context: Path, world: str) -> None:
    (context / "outside").write_text("outside\n")
    # Where devices are emulated there is a file that only seems to be one
    text = (
        "FROM base\nRUN chroot / true && echo chrooted; mknod /n c 1 5; test $(head -c 2 /n | wc -c) = 2 && echo node; "
        f"mount -t tmpfs x /srv && echo mounted; cd /; cd ../../../../..; ls -d {context} && echo left; "
        f"ls /proc/1/root/{context} && echo through; id -u\n"
        "USER 33\nRUN id -u; touch /etc/no || echo refused\n"
    )
    done = build(inline_base, context, text, lack=world)
    told = [line for line in said(done).splitlines() if line in ("chrooted", "node", "mounted", "left", "through")]
    assert told == []
    assert said(done).splitlines()[-1] in ("refused", "33")


@pytest.mark.parametrize("world", WORLDS)
def test_secrets_of_other_users(inline_base: Pybuild, context: Path, world: str) -> None:
    (context / "secret").write_text("hidden")
    text = "FROM base\nRUN --mount=type=secret,id=s,target=/s,uid=33,gid=50,mode=0440 stat -c '%u %g %a %n' /s\n"
    secret = f"--secret=id=s,src={context}/secret"
    done = build(inline_base, context, text, secret, "--no-cache", lack=world)
    assert said(done) == "33 50 440 /s\n"


def test_who_may_not_answer_calls_is_told_what_does(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN chown 33:50 /srv; stat -c %u /srv\n"
    refused = build(inline_base, context, text, "--no-cache", lack="listener", status=1)
    assert "owners of files cannot be emulated here" in refused.err
    assert "--root-emulation=fake" in refused.err
    done = build(inline_base, context, text, "--no-cache", "--root-emulation=fake", lack="listener")
    assert said(done) == "0\n"


def test_privileges_are_gone(inline_base: Pybuild, context: Path) -> None:
    script = "grep -E '^(Cap(Inh|Prm|Eff|Bnd)|Seccomp:|NoNewPrivs)' /proc/self/status"
    done = build(inline_base, context, f"FROM base\nRUN {script}\n", "--isolation=chroot")
    found = dict(line.split(":\t") for line in said(done).splitlines())
    # Of the fourteen all but those to change the root and to make devices
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0xA80425FB & ~(1 << 18 | 1 << 27)
    assert int(found["CapInh"], 16) == 0
    assert found["Seccomp"] == "2"


@pytest.mark.slow
def test_asked_for_is_what_is_done(inline_base: Pybuild, context: Path) -> None:
    done = build(inline_base, context, "FROM base\nRUN true\n", "--isolation=chroot", "--no-cache")
    assert any(LESS in text for text in notices(done))
    by_variable = build(
        inline_base, context, "FROM base\nRUN true\n", "--no-cache", env={"PYBUILD_ISOLATION": "chroot"}
    )
    assert any(LESS in text for text in notices(by_variable))
    best = build(inline_base, context, "FROM base\nRUN true\n", "--isolation=namespaces", "--no-cache")
    assert not any(LESS in text for text in notices(best))


@pytest.mark.parametrize("world", WORLDS)
def test_never_weaker_than_asked(inline_base: Pybuild, context: Path, world: str) -> None:
    text = "FROM base\nRUN true\n"
    refused = build(inline_base, context, text, "--isolation=namespaces", "--no-cache", lack=world, status=1)
    assert "Operation not permitted" in refused.err
    if world == "container":
        cut = build(inline_base, context, text, "--network=none", "--no-cache", lack=world, status=1)
        assert "cannot cut RUN off from the network" in cut.err
    private = build(inline_base, context, text, "--network=private", "--no-cache", lack=world, status=1)
    assert '"event":"Failed"' in private.err
    stacked = build(inline_base, context, text, "--snapshotter=overlay", "--no-cache", lack=world, status=1)
    assert "needs mounts" in stacked.err


def test_where_nothing_works_it_is_said_what_to_change(inline_base: Pybuild, context: Path) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    text = "FROM base\nRUN true\n"
    refused = build(inline_base, context, text, "--no-cache", lack="container_without_chroot", status=1, env=env)
    assert "seccompProfile: {type: Unconfined}" in refused.err


def test_root_that_may_mount_gets_proc_and_devices(inline_base: Pybuild, context: Path) -> None:
    script = "test -d /proc/self/fd; head -c 4 /dev/zero | wc -c; echo > /dev/stdout; ls /proc | grep -c '^[0-9]'"
    text = f"FROM base\nRUN {script}\n"
    for lack in ("", "no_user_namespaces"):
        done = build(inline_base, context, text, "--no-cache", "--isolation=chroot", lack=lack)
        assert said(done).split()[0] == "4"
        assert int(said(done).split()[-1]) < 10


def test_step_kept_as_changes_is_not_entered_without_what_is_below(inline_base: Pybuild, context: Path) -> None:
    failed = build(inline_base, context, "FROM base\nRUN exit 9\n", "--shell-on-fail", status=1)
    name = next(event["failure"]["kept"] for event in failed.events if event["event"] == "Failed")
    refused = inline_base("shell", "--isolation=chroot", name, "--", "true", status=1)
    assert "cannot be stacked here" in refused.err
    assert inline_base("shell", name, "--", "true").status == 0


def test_shell_on_pipes(inline_base: Pybuild) -> None:
    args = ("shell", "--isolation=chroot", "base", "--", "sh", "-c", "cat; test ! -e /own; echo > /own")
    for _ in range(2):
        entered = inline_base(*args, stdin=b"through\n")
        assert entered.text == "through\n"
        assert entered.err.count(LESS) == 1


@pytest.mark.slow
def test_interrupted_step_gives_its_cache_back(inline_base: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM base\nRUN --mount=type=cache,target=/c echo kept >> /c/x; cat /c/x; sleep 4323\n"
    )
    process = inline_base.start("build", "--progress=plain", "--isolation=chroot", context)
    processes.wait_for("sleep", "4323")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert processes.find("sleep", "4323") == []
    text = "FROM base\nRUN --mount=type=cache,target=/c cat /c/x\n"
    assert said(build(inline_base, context, text, "--isolation=chroot")) == "kept\n"
