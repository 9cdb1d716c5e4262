"""Certificates of the builder's that RUN steps trust, without a trace in the image.

In the usual places they are lent rather than mounted: `update-ca-certificates` renames a new bundle over the old
one, as the installation of Debian's ca-certificates does, and a mount point cannot be renamed over. The variables lead
to a copy that stays.
"""

from pybuild.sandbox.spec import FileMount

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
OTHERS = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
"""Where other systems keep theirs; taken over where the image has them."""

STAYS = "/dev/pybuild-certificates.crt"

VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""For programs that come with certificates of their own and ignore the system's."""


def mounts(pem: str) -> tuple[FileMount, ...]:
    """Return the mounts that put `pem` in the places programs look in; none when it is empty."""
    if not pem:
        return ()
    content = pem.encode()
    others = (FileMount(path, content, optional=True, lent=True) for path in OTHERS)
    return FileMount(STAYS, content), FileMount(BUNDLE, content, lent=True), *others


def variables(pem: str, taken: set[str]) -> tuple[tuple[str, str], ...]:
    """Return environment variables that lead to the certificates, but for names that are `taken`."""
    return tuple((name, STAYS) for name in VARIABLES if name not in taken) if pem else ()
