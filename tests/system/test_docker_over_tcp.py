"""Docker's own command line over TLS, and over TCP of loopback."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import program
from support.certificates import Certificates
from support.fake_world import wait_for
from support.program import Pybuild

pytestmark = [pytest.mark.userns, pytest.mark.docker, pytest.mark.tls]


@pytest.fixture
def pybuild(_adopted: None) -> Iterator[Pybuild]:
    with program.world("daemon") as pybuild:
        yield pybuild


def serve(pybuild: Pybuild, *words: str) -> "tuple[subprocess.Popen[bytes], str]":
    """Run a daemon and return it with its port."""
    process = pybuild.start("daemon", "run", "--listen", "tcp://127.0.0.1:0", *words)
    wait_for(lambda: (pybuild.runtime / "pybuild.sock").exists() or process.poll() is not None, 30)
    [address] = [name for name in pybuild.json("daemon", "status", "--json")["listens"] if name.startswith("tcp:")]
    return process, address.rpartition(":")[2]


def docker(pybuild: Pybuild, *words: str | Path, status: int = 0, **environment: str) -> str:
    env = {**pybuild.env, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(pybuild.home), **environment}
    done = subprocess.run(["docker", *map(str, words)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_docker_builds_over_tls(pybuild: Pybuild, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    pybuild.add_base()
    pybuild("daemon", "stop")
    process, port = serve(pybuild, *certificates.words())
    with process:
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM base\nRUN echo told\nCOPY file /\n")
        (context / "file").write_bytes(os.urandom(1 << 20))
        tls = {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": "1"}
        ours = {**tls, "DOCKER_CERT_PATH": str(certificates.client)}
        assert "Successfully tagged app:1" in docker(pybuild, "build", "-t", "app:1", context, **ours)
        assert "app" in docker(pybuild, "images", **ours)
        told = docker(pybuild, "images", status=1, **tls, DOCKER_CERT_PATH=str(certificates.other))
        assert "app" not in told
        # Ours knows the same server by the same files
        here = {"PYBUILD_HOST": f"tcp://127.0.0.1:{port}", "PYBUILD_CERT_PATH": str(certificates.client)}
        del pybuild.env["PYBUILD_INLINE"]
        assert "COPY file /" in pybuild.build(context, env=here).steps()
        printed = pybuild("env", env=here).text.splitlines()
        assert f"export DOCKER_CERT_PATH={certificates.client}" in printed
        assert f"export DOCKER_HOST=tcp://127.0.0.1:{port}" in printed
        process.terminate()


def test_docker_builds_over_loopback(pybuild: Pybuild, tmp_path: Path) -> None:
    process, port = serve(pybuild)
    with process:
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        host = f"tcp://127.0.0.1:{port}"
        assert "Successfully tagged app:1" in docker(pybuild, "build", "-t", "app:1", tmp_path, DOCKER_HOST=host)
        process.terminate()
