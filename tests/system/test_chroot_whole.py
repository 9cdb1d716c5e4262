"""What RUN can be given where it is kept apart by a root directory alone: limits, certificates, mounts, shells."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

LACK = "container"
SECRET = "kept to itself, whatever comes"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def build(pybuild: Pybuild, context: Path, text: str, *args: str, **options: object) -> Result:
    (context / "Dockerfile").write_text(text)
    options.setdefault("lack", LACK)
    return pybuild("build", "--progress=json", "--no-cache", *args, context, **options)  # type: ignore[arg-type]


def said(result: Result) -> list[str]:
    return "".join(str(event["text"]) for event in result.events if event["event"] == "StepLog").splitlines()


def holders(base: Path, text: str) -> list[str]:
    """Return the files below a directory that hold a text."""
    found = []
    for directory, _, names in os.walk(base):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes():
                found.append(str(path))
    return found


@pytest.mark.cgroups
def test_memory_and_processes_are_limited(inline_base: Pybuild, context: Path) -> None:
    hungry = "FROM base\nRUN yes | tr -d '\\n' | head -c 200m | tail -n 1 | grep -q x\n"
    done = build(inline_base, context, hungry, "--memory=64m", status=1)
    assert "memory limit 64 MB reached" in done.err
    many = "FROM base\nRUN for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait\n"
    assert "can't fork" in " ".join(said(build(inline_base, context, many, "--pids-limit=6", status=1)))


def test_other_limits_hold(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN ulimit -n; ulimit -f\n"
    done = build(inline_base, context, text, "--ulimit=nofile=77:78", "--ulimit=fsize=4096")
    assert said(done) == ["77", "8"]
    slow = build(inline_base, context, "FROM base\nRUN sleep 60\n", "--step-timeout=300ms", status=1)
    assert "took longer than 0.3s" in slow.err


def test_certificates_and_proxies_are_lent(inline_base: Pybuild, context: Path, tmp_path: Path) -> None:
    if not os.path.exists(BUNDLE):
        pytest.skip("this machine has no certificates")
    whole = Path(BUNDLE).read_text()
    one = tmp_path / "ca.pem"
    one.write_text(whole[: whole.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n")
    text = f"FROM base\nRUN cat {BUNDLE} $SSL_CERT_FILE > /seen; echo $http_proxy > /proxy; ls -A /etc/ssl > /names\n"
    args = (f"--ca-bundle={one}", "--build-arg=http_proxy=http://proxy.example:1", "-t", "lent")
    build(inline_base, context, text, *args)
    done = build(inline_base, context, "FROM lent\nRUN cat /seen /proxy /names; ls /etc; env\n")
    assert "\n".join(said(done)).startswith(one.read_text() * 2 + "http://proxy.example:1\ncerts\n")
    assert "ssl" not in said(done)
    assert not [line for line in said(done) if line.startswith(("SSL_CERT", "http_proxy"))]


MOUNTS = """\
FROM base AS other
RUN mkdir -p /given/deep && echo other > /given/deep/f
FROM base
RUN --mount=from=other,source=/given,target=/a cat /a/deep/f; touch /a/no 2>/dev/null || echo read-only
RUN --mount=target=/ctx,rw echo changed > /ctx/file && cat /ctx/file; echo new > /ctx/new
RUN --mount=type=bind,source=file,target=/one cat /one
RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && cat /t/x
RUN --mount=type=cache,target=/c echo kept >> /c/x
RUN --mount=type=cache,target=/c,readonly cat /c/x
RUN --mount=type=secret,id=s,target=/deep/er/s cat /deep/er/s; echo
RUN --mount=type=secret,id=s,env=VALUE test "$VALUE" && echo by variable
RUN ls -d /a /ctx /one /t /c /deep 2>/dev/null; echo "nothing left"
"""


def test_mounts_of_every_kind(inline_base: Pybuild, context: Path) -> None:
    (context / "file").write_text("content\n")
    (context / "secret").write_text(SECRET)
    done = build(inline_base, context, MOUNTS, f"--secret=id=s,src={context}/secret")
    expected = ["other", "read-only", "changed", "content", "x", "kept", "****", "by variable", "nothing left"]
    lines = said(done)
    # A read-only bind is a copy here: it may be written to, and nothing of it stays
    assert [line for line in lines if line != "read-only"] == [line for line in expected if line != "read-only"]
    assert (context / "file").read_text() == "content\n"
    assert not (context / "new").exists()
    assert holders(inline_base.store, SECRET) == []


@pytest.fixture
def hidden(context: Path) -> Iterator[str]:
    """What gives a secret that is not in the context."""
    path = context.parent / "hidden"
    path.write_text(SECRET)
    yield f"--secret=id=s,src={path}"
    path.unlink()


@pytest.mark.parametrize("who", ["all", *(pytest.param(who, marks=pytest.mark.slow) for who in ("build", "worker"))])
def test_secret_of_a_killed_build_is_gone_at_the_next_start(
    inline_base: Pybuild, context: Path, hidden: str, who: str
) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=s,mode=0444 sleep 4331\n"
    (context / "Dockerfile").write_text(text)
    process = inline_base.start("build", "--no-cache", hidden, context, lack=LACK)
    processes.wait_for("sleep", "4331")
    worker = processes.wait_for("_child", "worker", root=process.pid)
    # Beside it is what makes the world lack something
    own = int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])
    stopped = [own, worker.pid] if who == "all" else [worker.pid if who == "worker" else own]
    if who == "all":
        stopped += [processes.wait_for("_child", "worker", root=worker.pid).pid]
    # All at once: none is to see another one go
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    for found in processes.find("sleep", "4331"):
        os.kill(found.pid, signal.SIGKILL)
    build(inline_base, context, "FROM base\nRUN true\n")
    assert holders(inline_base.store, SECRET) == []
    assert os.listdir(inline_base.store / "tmp") == []


def test_secrets_are_for_nobody_else_and_gone_after_a_failure(inline_base: Pybuild, context: Path, hidden: str) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=s cat /run/secrets/s; echo; stat -c %a /run/secrets/s; exit 3\n"
    done = build(inline_base, context, text, hidden, status=1)
    assert said(done) == ["****", "400"]
    assert holders(inline_base.store, SECRET) == []
    assert inline_base.store.stat().st_mode & 0o077 == 0


def test_kept_tree_is_entered_without_mounts(inline_base: Pybuild, context: Path, hidden: str) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=s --mount=type=cache,target=/c echo half > /half; exit 3\n"
    (context / "Dockerfile").write_text(text)
    result = inline_base(
        "build", "--progress=plain", "--no-cache", "--shell-on-fail", hidden, context, lack=LACK, status=1
    )
    [name] = re.findall(r"`pybuild shell (failed-\w+)` enters it", result.err)
    assert holders(inline_base.store, SECRET) == []
    told = inline_base(
        "shell", name, "--", "sh", "-c", "cat /half; ls /run /c 2>/dev/null; echo more > /more", lack=LACK
    )
    assert told.text.splitlines()[0] == "half"
    assert inline_base("shell", name, "--", "cat", "/half", "/more", lack=LACK).text == "half\nmore\n"


@pytest.mark.parametrize(
    ("mode", "args"), [("--network=none ", ()), ("", ("--network=none",)), ("", ("--network=private",))]
)
def test_networks_that_need_namespaces_are_errors(
    inline_base: Pybuild, context: Path, mode: str, args: tuple[str, ...]
) -> None:
    done = build(inline_base, context, f"FROM base\nRUN {mode}echo ran\n", *args, status=1)
    assert said(done) == []
    failure = done.events[-1]["failure"]
    # Whoever cannot use /dev/net/tun either is told that first
    assert re.search(r"network|/dev/net/tun", failure["message"]), failure
    assert "--network=" in failure["hint"]


def test_hosts_are_added(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN grep -c other.example /etc/hosts; cat /etc/hosts > /seen\nRUN wc -l < /seen\n"
    assert said(build(inline_base, context, text, "--add-host=other.example:10.9.8.7"))[0] == "1"
