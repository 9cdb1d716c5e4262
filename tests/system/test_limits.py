"""What RUN may use, trusts and is told, without a trace of it in the image or the cache."""

import os
import re
import signal
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from pybuild.api.request import Limits
from pybuild.sandbox import cgroups
from support.program import Pybuild, Result

pytestmark = pytest.mark.userns

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
HUNGRY = "head -c 200m /dev/zero | tail -n 1"
"""It keeps the one line that it looks for in memory."""


def told(base: Pybuild, context: Path, text: str, *args: str, status: int, lack: str = "") -> Result:
    """Build with progress as people read it."""
    place = base.base / "Dockerfile"
    place.write_text(text)
    return base("build", "--progress=plain", *args, "-f", place, context, status=status, lack=lack)


def made_groups() -> dict[str, str]:
    """Return what is in the files of the groups that builds have here at the moment."""
    found: dict[str, str] = {}
    for place in cgroups.find_places(["memory", "cpu", "cpuset", "pids"], []):
        for path in Path(place.directory).glob("pybuild-*/*"):
            if path.name.startswith(("memory.", "cpu.", "cpuset.", "pids.")):
                try:
                    found[path.name] = path.read_text().strip()
                except OSError:
                    continue
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one certificate."""
    text = Path(BUNDLE).read_text() if os.path.exists(BUNDLE) else ""
    if not text:
        pytest.skip("this machine has no certificates")
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(text[: text.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n")
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    return path


def test_step_that_takes_too_long_is_ended_and_named(base: Pybuild, context: Path) -> None:
    started = time.monotonic()
    text = "FROM base\nRUN echo begun; trap 'echo asked >&2; exit 0' TERM; sleep 60 & wait\n"
    result = told(base, context, text, "--step-timeout=500ms", status=1)
    assert time.monotonic() - started < 20
    assert "Dockerfile:2: RUN was ended: it took longer than 0.5s" in result.err
    assert "| begun" in result.err


def test_build_that_takes_too_long_names_the_line(base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN true\nRUN sleep 60\n"
    result = told(base, context, text, "--timeout=2s", status=1)
    assert "Dockerfile:3: the build did not end within 2s" in result.err


def test_context_that_does_not_come_is_not_waited_for(base: Pybuild) -> None:
    process = base.start("build", "--progress=json", "--timeout=500ms", "-", stdin=subprocess.PIPE)
    started = time.monotonic()
    # It says nothing and stays
    assert process.stdin is not None
    process.stdin.write(b"FROM base\n")
    process.stdin.flush()
    assert process.wait(timeout=20) == 1
    took = time.monotonic() - started
    result = base.finish(process, status=1)
    assert "the build did not end within 0.5s" in result.events[-1]["failure"]["message"]
    assert took < 10


def test_time_that_suffices_changes_nothing(base: Pybuild, context: Path) -> None:
    base.build(context, "--timeout=5m", "--step-timeout=1m", dockerfile="FROM base\nRUN true # in time\n")
    assert base.build(context, dockerfile="FROM base\nRUN true # in time\n").redone() == []


@pytest.mark.cgroups
def test_memory_limit_is_named_when_it_kills(base: Pybuild, context: Path) -> None:
    result = told(base, context, f"FROM base\nRUN {HUNGRY} | grep -q x\n", "--memory=64m", status=1)
    assert "Dockerfile:2: RUN was killed: memory limit 64 MB reached" in result.err
    assert made_groups() == {}


@pytest.mark.cgroups
def test_killed_process_in_a_command_that_goes_on_is_a_warning(inline_base: Pybuild, context: Path) -> None:
    result = told(inline_base, context, f"FROM base\nRUN {HUNGRY} | cat\n", "--memory=64m", status=0)
    [line] = [line for line in result.err.splitlines() if "warning" in line]
    assert line.startswith("warning: line 2: a process was killed, memory limit 64 MB reached, but RUN ended with")


@pytest.mark.cgroups
def test_processes_are_limited(base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait\n"
    result = told(base, context, text, "--pids-limit=6", status=1)
    assert "can't fork" in result.err


@pytest.mark.cgroups
def test_processor_time_is_limited(inline_base: Pybuild, context: Path) -> None:
    limits = ("--cpu-period=50000", "--cpu-quota=10000")
    text = "FROM base\nRUN timeout 1 sh -c 'trap \"times > /used; exit\" TERM; while :; do :; done'; cat /used\n"
    image = inline_base.image(context, "--no-cache", *limits, dockerfile=text)
    used = sum(float(seconds) for seconds in re.findall(r"0m([\d.]+)s", image.read("used").splitlines()[0]))
    # All of it would be 1
    assert 0.01 < used < 0.5


@pytest.mark.cgroups
def test_processors_are_chosen(inline_base: Pybuild, context: Path) -> None:
    last = max(os.sched_getaffinity(0))
    text = "FROM base\nRUN nproc > /count; grep Cpus_allowed_list /proc/self/status > /which\n"
    image = inline_base.image(context, "--no-cache", f"--cpuset-cpus={last}", dockerfile=text)
    assert image.read("count") == "1\n"
    assert image.read("which").split() == ["Cpus_allowed_list:", str(last)]
    result = told(inline_base, context, "FROM base\nRUN true\n", "--no-cache", "--cpuset-cpus=4000", status=1)
    assert "Dockerfile:2: cannot set a limit:" in result.err
    assert "cpuset.cpus" in result.err


@pytest.mark.cgroups
def test_all_limits_are_set_and_gone_afterwards(base: Pybuild, context: Path) -> None:
    place = base.base / "Dockerfile"
    place.write_text("FROM base\nRUN sleep 60\n")
    limits = ("--memory=64m", "--memory-swap=96m", "--cpus=0.5", "--cpuset-cpus=0", "--pids-limit=50")
    process = base.start("build", "--progress=json", "--no-cache", *limits, "-f", place, context)
    deadline = time.monotonic() + 20
    while "pids.current" not in (found := made_groups()) or found["pids.current"] == "0":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    base.finish(process, status=130)
    # A daemon goes on ending the build after its client has left
    while made_groups():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert found["pids.max"] == "50"
    assert found["cpuset.cpus"] == "0"
    if "memory.max" in found:
        assert found["memory.max"] == str(64 << 20)
        assert found["cpu.max"] == "50000 100000"
        assert found.get("memory.swap.max", str(32 << 20)) == str(32 << 20)
    else:
        assert found["memory.limit_in_bytes"] == str(64 << 20)
        assert (found["cpu.cfs_quota_us"], found["cpu.cfs_period_us"]) == ("50000", "100000")
        assert found.get("memory.memsw.limit_in_bytes", str(96 << 20)) == str(96 << 20)


def test_what_cannot_be_limited_is_an_error_or_a_warning(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN true\n"
    result = told(inline_base, context, text, "--cpus=0.5", status=1, lack="no_control_groups")
    assert "cannot limit processor time" in result.err
    args = ("--cpus=0.5", "--limits=best-effort")
    result = told(inline_base, context, text, *args, status=0, lack="no_control_groups")
    assert "warning: not limited" in result.err


def test_memory_is_limited_even_without_control_groups(inline_base: Pybuild, context: Path) -> None:
    text = f"FROM base\nRUN {HUNGRY} | grep -q x\n"
    result = told(inline_base, context, text, "--memory=64m", status=1, lack="no_control_groups")
    assert "out of memory" in result.err
    assert "holds for each process" in result.err


def test_limits_do_not_enter_the_cache_key(base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN true # limited\n"
    base.build(context, dockerfile=text)
    limits = ("--memory=512m", "--cpus=1", "--pids-limit=100", "--limits=best-effort", "--timeout=1h")
    assert base.build(context, *limits, dockerfile=text).redone() == []


def test_certificates_are_trusted_and_gone_afterwards(base: Pybuild, context: Path, certificate: Path) -> None:
    text = (
        "FROM base\nRUN mkdir -p /etc/pki/tls/certs && echo old > /etc/pki/tls/certs/ca-bundle.crt\n"
        f"RUN cat {BUNDLE} > /seen; cat /etc/pki/tls/certs/ca-bundle.crt > /other; "
        "ls -A /etc/ssl > /names; cat $SSL_CERT_FILE > /named\n"
    )
    image = base.image(context, f"--ca-bundle={certificate}", "--no-cache", dockerfile=text)
    pem = certificate.read_text()
    assert image.read("seen") == image.read("other") == image.read("named") == pem
    assert image.read("names") == "certs\n"
    assert image.read("etc/pki/tls/certs/ca-bundle.crt") == "old\n"
    assert not [name for name in image.tree() if name.startswith("etc/ssl")]
    assert not [item for item in image.run["Env"] if "SSL" in item]
    # Nor is it part of the key
    assert base.build(context, dockerfile=text).redone() == []


def test_commands_may_change_the_bundle_of_the_image(inline_base: Pybuild, context: Path, certificate: Path) -> None:
    other = "/etc/pki/tls/certs/ca-bundle.crt"
    text = (
        "FROM base\nRUN mkdir -p /etc/pki/tls/certs /etc/ssl && ln -s /etc/passwd /etc/ssl/cert.pem "
        f"&& echo old > {other}\n"
        # As update-ca-certificates does it, and as people do
        f"RUN echo own > /new && mv /new {BUNDLE} && echo more >> {other} "
        "&& cmp $SSL_CERT_FILE /etc/ssl/cert.pem\n"
        f"RUN wc -c < {BUNDLE} > /seen\n"
        f"RUN rm {BUNDLE}; echo theirs > {other}\n"
    )
    image = inline_base.image(context, f"--ca-bundle={certificate}", "--no-cache", dockerfile=text)
    pem = certificate.read_text()
    assert image.read("seen") == f"{len(pem)}\n"
    assert image.tree()["etc/ssl/cert.pem"].link == "/etc/passwd"
    changed, seen, removed = ({node.path: node for node in layer} for layer in image.layers[-3:])
    assert changed[BUNDLE[1:]].text == "own\n"
    assert changed[other[1:]].text == "old\nmore\n"
    assert seen.keys() == {"seen"}
    assert removed[other[1:]].text == "theirs\n"
    assert BUNDLE[1:] not in image.tree()
    assert not [node.path for layer in image.layers for node in layer if node.data and pem[100:200] in str(node.data)]


def test_proxies_reach_run_and_nothing_else(base: Pybuild, context: Path) -> None:
    (base.home / ".docker").mkdir(exist_ok=True)
    config = base.home / ".docker/config.json"
    config.write_text('{"proxies": {"default": {"httpProxy": "http://proxy.example:3128", "noProxy": "a,b"}}}')
    text = "FROM base\nRUN echo $http_proxy $HTTP_PROXY $no_proxy $https_proxy > /seen\n"
    try:
        image = base.image(context, "--build-arg=https_proxy=https://own.example", "--no-cache", dockerfile=text)
    finally:
        config.unlink()
    assert image.read("seen").split() == [*["http://proxy.example:3128"] * 2, "a,b", "https://own.example"]
    assert "proxy.example" not in str(image.config)
    assert base.build(context, dockerfile=text).redone() == []


def test_limits_without_any_need_no_groups() -> None:
    assert cgroups.wanted(Limits()) == []
