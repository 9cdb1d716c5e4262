"""Ways to a registry: TLS with a CA of one's own, client certificates, mirrors."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import registry, web
from support.program import Pybuild
from support.registry import LAYER, Fault, Registry, digest
from support.web import Asked

pytestmark = pytest.mark.userns

DATA = bytes(1024)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Registry]:
    with registry.fake(web.certificate(tmp_path)) as found:
        found.contents.image("app", "1", [(LAYER, DATA, digest(DATA))])
        yield found


def certs(pybuild: Pybuild, address: str) -> Path:
    directory = pybuild.home / ".config" / "containers" / "certs.d" / address
    directory.mkdir(parents=True)
    return directory


def test_a_certificate_is_trusted_by_its_file_and_only_then(pybuild: Pybuild, secure: Registry, tmp_path: Path) -> None:
    failed = pybuild("pull", secure.name("app:1"), status=1)
    assert "the certificate of the server is not trusted" in failed.err
    assert f"certs.d/{secure.address}/ca.crt" in failed.err
    assert not secure.web.asked
    (certs(pybuild, secure.address) / "ca.crt").write_bytes((tmp_path / "server.pem").read_bytes())
    pybuild("pull", secure.name("app:1"))


def test_insecure_is_what_is_said_of_one_registry(inline: Pybuild, secure: Registry) -> None:
    inline("pull", "--insecure-registry", "other.example", secure.name("app:1"), status=1)
    told = inline("pull", "--insecure-registry", secure.address, secure.name("app:1"))
    assert "Warning" not in told.err
    inline("rmi", secure.name("app:1"))
    settings = inline.base / "config.toml"
    settings.write_text(f'[registry."{secure.address}"]\ninsecure = true\n')
    inline("pull", secure.name("app:1"), env={"PYBUILD_CONFIG": str(settings)})


def test_a_certificate_without_its_key_is_told(inline: Pybuild, secure: Registry) -> None:
    (certs(inline, secure.address) / "client.cert").write_text("x")
    failed = inline("pull", secure.name("app:1"), status=1)
    assert "has no key beside it" in failed.err


@pytest.mark.peers
def test_a_registry_may_want_a_certificate_of_ours(inline: Pybuild, tmp_path: Path) -> None:
    server, client = tmp_path / "server.pem", tmp_path / "client.pem"
    web.certificate(tmp_path)
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(tmp_path / "client.key"), "-out", str(client), "-days", "2", "-subj", "/CN=client"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    tls = (server, server)
    with registry.program(tmp_path / "r", tls=tls, client_ca=client) as guarded:
        directory = certs(inline, guarded.address)
        (directory / "ca.crt").write_bytes(server.read_bytes())
        failed = inline("pull", guarded.name("app"), status=1)
        assert "404" not in failed.err
        (directory / "client.cert").write_bytes(client.read_bytes())
        (directory / "client.key").write_bytes((tmp_path / "client.key").read_bytes())
        failed = inline("pull", guarded.name("app"), status=1)
        assert "404 Not Found" in failed.err


def test_mirrors_are_asked_first_and_what_they_lack_elsewhere(inline: Pybuild) -> None:
    with registry.fake() as mirror, registry.fake() as origin:
        origin.contents.image("app", "1", [(LAYER, DATA, digest(DATA))])
        conf = inline.home / ".config" / "containers" / "registries.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(
            f'[[registry]]\nlocation = "{origin.address}"\n[[registry.mirror]]\nlocation = "{mirror.address}/m"\n'
        )
        inline("pull", origin.name("app:1"))
        assert mirror.asked("GET", "/v2/m/app/manifests/1")
        assert origin.asked("GET", "/blobs/")
        inline("rmi", origin.name("app:1"))
        inline("prune", "-f", "--all")
        del origin.web.asked[:]
        mirror.contents.image("m/app", "1", [(LAYER, DATA, digest(DATA))])

        # A layer that comes damaged from the mirror comes again from elsewhere
        def damage(asked: Asked) -> Fault | None:
            return Fault(change=lambda data: b"x" + data[1:]) if digest(DATA) in asked.path else None

        mirror.contents.lasting.append(damage)
        inline("pull", origin.name("app:1"))
        assert len(origin.asked("GET")) == 1
        assert inline.names() == {origin.name("app:1")}


def test_all_that_was_tried_is_told(inline: Pybuild) -> None:
    with registry.fake() as mirror, registry.fake() as origin:
        conf = inline.base / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{origin.address}"\n[[registry.mirror]]\nlocation = "{mirror.address}"\n'
        )
        failed = inline("pull", origin.name("app:1"), status=1, env={"CONTAINERS_REGISTRIES_CONF": str(conf)})
        assert failed.err.index(origin.address) < failed.err.index("before that:") < failed.err.index(mirror.address)
        assert failed.err.count("404 Not Found") == 2
