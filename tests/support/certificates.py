"""A certificate authority of a test, made by openssl: for the daemon, for a client, for whoever else."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def _openssl(*words: str) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


@cache
def _authority(name: str) -> str:
    """Return key and certificate of an authority."""
    return _openssl("req", "-x509", *_EC, "-keyout", "-", "-subj", f"/CN={name}")


@cache
def _issued(authority: str, name: str, extension: str) -> str:
    """Return key and certificate."""
    with NamedTemporaryFile("w") as file:
        file.write(_authority(authority))
        file.flush()
        issuer = ("-CA", file.name, "-CAkey", file.name)
        extensions = ("-addext", "basicConstraints=critical,CA:false", "-addext", extension)
        return _openssl("req", "-x509", *_EC, "-keyout", "-", "-subj", f"/CN={name}", *extensions, *issuer)


class Certificates:
    """`ca.pem`, `cert.pem` and `key.pem` in a directory for each: `server`, `client`, and `other` of another CA."""

    def __init__(self, base: Path) -> None:
        self.server = self._write(base / "server", "ours", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.client = self._write(base / "client", "ours", "extendedKeyUsage=clientAuth")
        self.other = self._write(base / "other", "another", "subjectAltName=IP:127.0.0.1")
        # Who trusts our daemon, and is not trusted
        (self.other / "ca.pem").write_text((self.client / "ca.pem").read_text())

    def _write(self, directory: Path, authority: str, extension: str) -> Path:
        directory.mkdir(parents=True)
        mark = "-----BEGIN CERTIFICATE"
        key, certificate = _issued(authority, directory.name, extension).split(mark, 1)
        (directory / "key.pem").write_text(key)
        (directory / "cert.pem").write_text(mark + certificate)
        (directory / "ca.pem").write_text(mark + _authority(authority).split(mark, 1)[1])
        return directory

    def words(self) -> list[str]:
        """Return what tells the daemon of them."""
        return [f"--tls-{name}={self.server}/{name}.pem" for name in ("ca", "cert", "key")]
