"""What RUN may use, trusts and is told, without a trace of it in the image or the cache."""

import os
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


def groups_for(*controllers: str) -> None:
    """Skip where this user may make no control groups for these."""
    places = cgroups.find_places(controllers, [])
    missing = set(controllers).difference(*(place.controllers for place in places))
    if missing:
        pytest.skip(f"this user may make no control group for: {', '.join(sorted(missing))}")


def told(base: Pybuild, context: Path, text: str, *args: str, status: int) -> Result:
    """Build with progress as people read it."""
    place = base.base / "Dockerfile"
    place.write_text(text)
    return base("build", "--progress=plain", *args, "-f", place, context, status=status)


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
    result = told(base, context, text, "--timeout=1s", status=1)
    assert "Dockerfile:3: the build did not end within 1s" in result.err


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


def test_memory_limit_is_named_when_it_kills(base: Pybuild, context: Path) -> None:
    groups_for("memory")
    text = "FROM base\nRUN head -c 200m /dev/zero | tail -n 1 | grep -q x\n"
    result = told(base, context, text, "--memory=64m", status=1)
    assert "Dockerfile:2: RUN was killed: memory limit 64 MB reached" in result.err


def test_processes_are_limited(base: Pybuild, context: Path) -> None:
    groups_for("pids")
    text = "FROM base\nRUN for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait\n"
    result = told(base, context, text, "--pids-limit=6", status=1)
    assert "can't fork" in result.err


def test_what_cannot_be_limited_is_an_error_or_a_warning(base: Pybuild, context: Path) -> None:
    if cgroups.find_places(["cpu"], []):
        pytest.skip("this user may make control groups")
    text = "FROM base\nRUN true\n"
    result = told(base, context, text, "--cpus=0.5", status=1)
    assert "cannot limit processor time" in result.err
    result = told(base, context, text, "--cpus=0.5", "--limits=best-effort", status=0)
    assert "warning: not limited" in result.err


def test_memory_is_limited_even_without_control_groups(base: Pybuild, context: Path) -> None:
    if cgroups.find_places(["memory"], []):
        pytest.skip("this user may make control groups")
    text = "FROM base\nRUN head -c 200m /dev/zero | tail -n 1 | grep -q x\n"
    result = told(base, context, text, "--memory=64m", status=1)
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
        f"ls -A /etc/ssl > /names; echo $SSL_CERT_FILE > /variable; echo x 2>/dev/null > {BUNDLE}; true\n"
    )
    image = base.image(context, f"--ca-bundle={certificate}", "--no-cache", dockerfile=text)
    pem = certificate.read_text()
    assert image.read("seen") == image.read("other") == pem
    assert image.read("names") == "certs\n"
    assert image.read("variable") == f"{BUNDLE}\n"
    assert image.read("etc/pki/tls/certs/ca-bundle.crt") == "old\n"
    assert not [name for name in image.tree() if name.startswith("etc/ssl")]
    assert not [item for item in image.run["Env"] if "SSL" in item]
    # Nor is it part of the key
    assert base.build(context, dockerfile=text).redone() == []


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
